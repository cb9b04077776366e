//! Why a request was refused or failed: what, where, why, remedy.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The request is wrong in itself; `field` names where.
    Invalid,
    /// This host can not do what was asked; the message names the missing kernel feature.
    Unsupported,
    NotFound,
    /// The id or the name is in use.
    Conflict,
    /// Not in this state: exec in an ended container, launch on a draining agent.
    State,
    /// Too many containers, too large a request, no descriptors left.
    Exhausted,
    Denied,
    /// A step failed; the message names operation, path and value.
    Failed,
    /// The command was not found in the container (a shell says 127).
    CommandNotFound,
    /// The command was found and could not be executed (126).
    CommandNotExecutable,
    /// The agent can not be reached, or went away while answering.
    Unavailable,
}

impl FaultKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Unsupported => "unsupported",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::State => "state",
            Self::Exhausted => "exhausted",
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::CommandNotFound => "command_not_found",
            Self::CommandNotExecutable => "command_not_executable",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A refusal or failure that can cross the wire and be printed as one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub kind: FaultKind,
    /// The field of the request at fault, in snake case with dots: `limits.mem`, `volumes.0.source`.
    pub field: Option<String>,
    /// What went wrong, with operation, path and value; lower case, no full stop.
    pub message: String,
    /// What to do about it, if there is something.
    pub remedy: Option<String>,
}

impl Fault {
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            field: None,
            message: message.into(),
            remedy: None,
        }
    }
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: Some(field.into()),
            ..Self::new(FaultKind::Invalid, message)
        }
    }
    pub fn unsupported(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: Some(field.into()),
            ..Self::new(FaultKind::Unsupported, message)
        }
    }
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(FaultKind::Failed, message)
    }
    /// An error with its whole chain of causes, each printed once.
    pub fn from_error(kind: FaultKind, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            message.push_str(": ");
            message.push_str(&inner.to_string());
            cause = inner.source();
        }
        Self::new(kind, message)
    }
    #[must_use]
    pub fn remedy(mut self, text: impl Into<String>) -> Self {
        self.remedy = Some(text.into());
        self
    }
    #[must_use]
    pub fn field(mut self, name: impl Into<String>) -> Self {
        self.field = Some(name.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(remedy) = &self.remedy {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}
