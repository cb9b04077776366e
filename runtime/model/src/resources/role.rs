//! Roles: paths of names, `*` being everybody.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ResourceError;

/// `eng/web`: below `eng`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Role(String);

impl Role {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The role of those who have none.
    pub fn star() -> Self {
        Self("*".to_owned())
    }

    pub fn is_star(&self) -> bool {
        self.0 == "*"
    }

    /// This role itself, or one above it, is `other`.
    pub fn is_within(&self, other: &Self) -> bool {
        self == other || self.is_strictly_within(other)
    }

    pub fn is_strictly_within(&self, other: &Self) -> bool {
        self.0
            .strip_prefix(&other.0)
            .is_some_and(|rest| rest.starts_with('/'))
    }

    /// The first name of the path.
    pub fn top(&self) -> &str {
        self.0.split('/').next().unwrap_or(&self.0)
    }
}

impl FromStr for Role {
    type Err = ResourceError;

    fn from_str(text: &str) -> Result<Self, ResourceError> {
        let wrong = |problem: &str| Err(ResourceError::new(text, format!("is no role: {problem}")));
        if text == "*" {
            return Ok(Self::star());
        }
        if text.is_empty() {
            return wrong("it is empty");
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return wrong("it holds a space or a control character");
        }
        for name in text.split('/') {
            match name {
                "" => return wrong("a '/' begins or ends it, or two follow each other"),
                "." | ".." | "*" => return wrong("'.', '..' and '*' are no names in a path"),
                name if name.starts_with('-') => return wrong("a name begins with '-'"),
                _ => {}
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Role {
    type Error = ResourceError;

    fn try_from(text: String) -> Result<Self, ResourceError> {
        text.parse()
    }
}

impl From<Role> for String {
    fn from(role: Role) -> Self {
        role.0
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
