//! `?jsonp=NAME`: a call of a function in the asking page instead of bare JSON.

/// Longest function name: names that libraries make up have some thirty characters.
const NAME_BYTES_MAX: usize = 128;

/// Why a name is not that of a function. It becomes part of a script, so anything else is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonpError {
    #[error("jsonp name is empty")]
    Empty,
    #[error("jsonp name of {0} bytes is too long (to {NAME_BYTES_MAX})")]
    TooLong(usize),
    #[error("jsonp name holds {0:?}; letters, digits, '_', '$' and '.' are allowed")]
    Character(char),
}

/// Wraps `json` as Mesos does. To be sent as `text/javascript`.
pub fn jsonp(function: &str, json: &str) -> Result<String, JsonpError> {
    if function.is_empty() {
        return Err(JsonpError::Empty);
    }
    if function.len() > NAME_BYTES_MAX {
        return Err(JsonpError::TooLong(function.len()));
    }
    if let Some(bad) = function
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '.')))
    {
        return Err(JsonpError::Character(bad));
    }
    Ok(format!("{function}({json});"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_functions_are_taken() {
        assert_eq!(jsonp("jQuery.cb_1", "[]").unwrap(), "jQuery.cb_1([]);");
        for bad in ["", "alert(1)//", "a b", "é", &"a".repeat(129)] {
            assert!(jsonp(bad, "[]").is_err(), "{bad:?}");
        }
    }
}
