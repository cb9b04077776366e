//! What happened, in order.

use serde::{Deserialize, Serialize};

use crate::container::ContainerState;
use crate::ids::{ContainerId, ContainerName};

/// One event. `sequence` grows by one; a gap tells a subscriber that it was too slow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub sequence: u64,
    /// Milliseconds since the epoch.
    pub at_ms: u64,
    pub container: ContainerId,
    pub name: Option<ContainerName>,
    #[serde(flatten)]
    pub kind: EventKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum EventKind {
    State {
        state: ContainerState,
    },
    /// The command is over; `Destroyed` follows when all is cleaned up.
    Ended {
        exit_status: i32,
        reason: crate::container::Reason,
        message: String,
    },
    LimitHit {
        message: String,
    },
    Updated,
    /// It tried ports that are not its own; told at most once a second, with the last one tried.
    PortRefused {
        port: u16,
        /// Since the last such event.
        refused: u64,
    },
    Exec {
        command: Vec<String>,
    },
    CleanupRetry {
        attempt: u32,
        message: String,
    },
    /// What a finished container had left on disk is gone, and its record with it.
    SandboxRemoved {
        bytes: u64,
        files: u64,
    },
}
