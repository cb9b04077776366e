//! What an agent must never forget about a container: enough to find it, judge it, and end it after
//! the agent was killed at any instruction.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::container::{ContainerState, Reason, Termination};
use crate::ids::{ContainerId, ProcessIdentity};
use crate::launch::LaunchSpec;
use crate::limits::Limits;

/// A descriptor that the container's init keeps open for a later agent, which reopens it through
/// `/proc/<pid>/fd/<number>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptDescriptor {
    /// What it is: `status`, `stdout`, `stderr`, `terminal`.
    pub name: String,
    pub number: i32,
}

/// One container, as written to disk at each step that a successor has to know of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The agent instance that owns the container; another instance leaves it alone.
    pub instance: String,
    pub id: ContainerId,
    /// As asked for. It holds the environment: the file is for its owner only.
    pub spec: LaunchSpec,
    pub state: ContainerState,
    /// Limits in force: those of `spec` with every live update since.
    pub limits: Limits,
    /// Limits that are being put in force, and were promised to nobody yet: whoever finds them goes back to `limits`.
    pub updating: Option<Limits>,
    /// The init; none before it was cloned.
    pub init: Option<ProcessIdentity>,
    /// Its init marks in the status file that the command is about to start: without the mark it never did.
    pub start_marked: bool,
    pub kept: Vec<KeptDescriptor>,
    pub sandbox: Option<PathBuf>,
    /// Milliseconds since the epoch.
    pub created_at_ms: u64,
    pub started_at_ms: Option<u64>,
    /// Why it is being taken down, once somebody has decided so: without it a successor would take a
    /// kill of ours for a signal from outside.
    pub killing: Option<Reason>,
    /// When the grace period of that kill is over, in milliseconds since the epoch.
    pub kill_at_ms: Option<u64>,
    pub termination: Option<Termination>,
    /// Its place in the network's maps, where it has a network of its own behind the host's address.
    pub network_slot: Option<u32>,
}
