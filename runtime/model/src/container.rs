//! A container as the outside sees it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ids::{ContainerId, ContainerName};
use crate::limits::Limits;
use crate::network::Network;
use crate::ports::PortGrant;
use crate::units::Bytes;

/// Steps of a container's life, in order. Each is undoable.
///
/// ```text
/// Admitted → Prepared → Forked → Isolated → Running → Killing → Destroyed
///     └─────────┴──────────┴─────────┴── a failed step goes to ──────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// Accepted; nothing made yet.
    Admitted,
    /// Directories, cgroups and limits exist.
    Prepared,
    /// The init exists and waits at the gate.
    Forked,
    /// The init is in every cgroup and its identity is on disk.
    Isolated,
    Running,
    /// A signal is on its way, or the command ended and the rest is being taken down.
    Killing,
    /// Nothing of it is left in the kernel.
    Destroyed,
}

impl ContainerState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Prepared => "prepared",
            Self::Forked => "forked",
            Self::Isolated => "isolated",
            Self::Running => "running",
            Self::Killing => "killing",
            Self::Destroyed => "destroyed",
        }
    }
    /// Has ended for good.
    pub fn is_over(self) -> bool {
        self == Self::Destroyed
    }
}

/// Why a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The command ended by itself.
    Exited,
    /// The command was ended by a signal that we did not send.
    Signaled,
    /// Somebody asked for it.
    Killed,
    /// `timeout` passed.
    Timeout,
    MemoryLimit,
    DiskLimit,
    /// A step of the launch failed; the command never ran.
    LaunchFailed,
    /// The agent or the host went away and the end was not seen.
    Lost,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Signaled => "signaled",
            Self::Killed => "killed",
            Self::Timeout => "timeout",
            Self::MemoryLimit => "memory_limit",
            Self::DiskLimit => "disk_limit",
            Self::LaunchFailed => "launch_failed",
            Self::Lost => "lost",
        }
    }
}

/// A limit that was hit, with the figures of that moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limitation {
    pub reason: Reason,
    pub message: String,
    pub limit: Option<Bytes>,
    pub peak: Option<Bytes>,
    /// Named counters of that moment: of `memory.stat` for memory.
    pub statistics: BTreeMap<String, u64>,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Termination {
    /// 0 to 255 as in a shell: the command's own, 128+signal, 125 when Bulkhead failed, 126/127 when the
    /// command could not be run.
    pub exit_status: i32,
    /// The signal that ended the command, if one did.
    pub signal: Option<i32>,
    pub reason: Reason,
    pub message: String,
    pub limitation: Option<Limitation>,
    /// Milliseconds since the epoch.
    pub finished_at_ms: u64,
}

/// One container, whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerStatus {
    pub id: ContainerId,
    pub name: Option<ContainerName>,
    pub state: ContainerState,
    /// Of the init, in the host's pid namespace.
    pub pid: Option<i32>,
    pub command: Vec<String>,
    pub limits: Limits,
    pub network: Network,
    /// The ports that it has.
    pub grant: Option<PortGrant>,
    pub labels: BTreeMap<String, String>,
    /// Milliseconds since the epoch.
    pub created_at_ms: u64,
    pub started_at_ms: Option<u64>,
    /// The container's own directory on the host.
    pub sandbox: Option<PathBuf>,
    pub terminal: bool,
    /// What its end waits for, when that takes long: a process that the kernel does not let go, a group in use.
    pub waits_for: Option<String>,
    pub termination: Option<Termination>,
}
