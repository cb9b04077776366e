//! Identifiers: parsed once, valid from then on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest container id or name. It becomes a directory name and a cgroup name (limit of the
/// kernel: 255 bytes), and a host name (limit: 64).
pub const NAME_BYTES_MAX: usize = 64;

/// Why a text is not an id or a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("must not be empty")]
    Empty,
    #[error("is {0} bytes long, the longest allowed is {NAME_BYTES_MAX}")]
    TooLong(usize),
    #[error("begins with {0:?}; letters and digits may begin it")]
    BadStart(char),
    #[error("holds {0:?}; letters, digits, '.', '_' and '-' are allowed")]
    BadCharacter(char),
}

fn check_name(text: &str) -> Result<(), NameError> {
    let first = text.chars().next().ok_or(NameError::Empty)?;
    if text.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong(text.len()));
    }
    if !first.is_ascii_alphanumeric() {
        return Err(NameError::BadStart(first));
    }
    match text
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')))
    {
        Some(bad) => Err(NameError::BadCharacter(bad)),
        None => Ok(()),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check_name(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                check_name(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name_type! {
    /// Names one container for ever. Chosen by the caller or made by the agent (32 hex digits).
    ContainerId
}
name_type! {
    /// A person's name for a container: unique among those that have not ended.
    ContainerName
}

/// A process, told apart from a later one that got the same pid.
///
/// `start_time` is field 22 of `/proc/<pid>/stat`, in clock ticks since boot (proc(5)); `boot_id` is
/// `/proc/sys/kernel/random/boot_id`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessIdentity {
    pub pid: i32,
    pub start_time: u64,
    pub boot_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "-x",
            "_x",
            "a\0b",
            "a b",
            "é",
            &"a".repeat(65),
        ] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad:?}");
        }
        for good in ["a", "web-1", "A.b_c-9", &"a".repeat(64)] {
            assert!(good.parse::<ContainerName>().is_ok(), "{good:?}");
        }
    }
}
