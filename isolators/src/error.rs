//! One enum per operation; [`From`] for [`Fault`] at this crate's edge.

use std::path::PathBuf;

use kernel::cgroup::LimitError;
use kernel::cgroup::devices::NodeError;
use kernel::file::KernelFileError;
use model::{ContainerId, Fault, FaultKind};

/// The agent can not isolate on this host.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0:?} is not a name for a root control group: one path component without '/'")]
    RootName(String),
    #[error("make the root control group")]
    Root(#[source] KernelFileError),
    /// The usual cause: processes sit in the group above ("no internal processes" rule of v2).
    #[error("enable controller {controller} for the groups below {path}", path = path.display())]
    Enable {
        controller: &'static str,
        path: PathBuf,
        source: KernelFileError,
    },
    #[error("{path} shows {found:?} after {controller} was enabled in it", path = path.display())]
    NotEnabled {
        controller: &'static str,
        path: PathBuf,
        found: String,
    },
    #[error("prepare the root control group")]
    Limit(#[source] LimitError),
    #[error(
        "no cgroup hierarchy with the memory, cpu or pids controller, and no v2 tree: nothing can be isolated"
    )]
    NothingToIsolateWith,
}

/// A container's groups could not be made; nothing of them is left.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Another container of this id still has processes.
    #[error("control group {path} is in use", path = path.display())]
    InUse { path: PathBuf },
    #[error("make the control groups of container {id}")]
    Group {
        id: ContainerId,
        source: KernelFileError,
    },
    #[error("isolator {isolator}")]
    Limit {
        isolator: &'static str,
        source: LimitError,
    },
    #[error("isolator devices")]
    Devices(#[source] bpf::BpfError),
    #[error("isolator ports")]
    Ports(#[source] bpf::ports::PortsError),
    #[error("isolator bandwidth")]
    Ceiling(#[source] bpf::ceiling::CeilingError),
    #[error("device {index}")]
    Node { index: usize, source: NodeError },
    #[error("enable a controller")]
    Enable(#[source] StartError),
}

impl PrepareError {
    pub(crate) fn limit(isolator: &'static str, source: LimitError) -> Self {
        Self::Limit { isolator, source }
    }
}

impl From<PrepareError> for Fault {
    fn from(error: PrepareError) -> Fault {
        let kind = match &error {
            PrepareError::InUse { .. } => FaultKind::Conflict,
            PrepareError::Group { source, .. } if source.is_exhausted() => FaultKind::Exhausted,
            PrepareError::Limit { source, .. } if source.is_exhausted() => FaultKind::Exhausted,
            PrepareError::Limit {
                source: LimitError::Device(_),
                ..
            }
            | PrepareError::Node { .. } => FaultKind::Invalid,
            _ => FaultKind::Failed,
        };
        let fault = Fault::from_error(kind, &error);
        match &error {
            PrepareError::Node { index, .. } => fault.field(format!("devices.{index}.path")),
            PrepareError::Limit {
                isolator,
                source: LimitError::Device(_),
            } => fault.field(field_of(isolator)),
            _ => fault,
        }
    }
}

/// The part of the request that an isolator answers for.
fn field_of(isolator: &str) -> &'static str {
    match isolator {
        "cpu" => "limits.cpus",
        "memory" => "limits.mem",
        "pids" => "limits.pids",
        "io" => "limits.io",
        "cpuset" => "limits.cpuset_cpus",
        _ => "devices",
    }
}

/// New limits are not in force; the old ones are, unless `rollback` says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    #[error("{0}")]
    Refused(Fault),
    #[error("container {0} has no control groups")]
    Gone(ContainerId),
    #[error("isolator {isolator}{}", rollback.as_ref().map(|r| format!(" (and the old limits could not be restored: {r})")).unwrap_or_default())]
    Limit {
        isolator: &'static str,
        source: LimitError,
        rollback: Option<String>,
    },
    #[error("make a further control group of container {id}")]
    Group {
        id: ContainerId,
        source: KernelFileError,
    },
    #[error("container {0} forks faster than its processes can be moved into a further control group")]
    Unmovable(ContainerId),
    #[error("enable a controller")]
    Enable(#[source] StartError),
}

impl From<UpdateError> for Fault {
    fn from(error: UpdateError) -> Fault {
        match error {
            UpdateError::Refused(fault) => fault,
            UpdateError::Gone(_) => Fault::from_error(FaultKind::State, &error),
            UpdateError::Limit {
                isolator,
                source: LimitError::BelowUsage { .. },
                ..
            } => Fault::from_error(FaultKind::State, &error)
                .field(field_of(isolator))
                .remedy("choose a ceiling above what the container uses, or let it release memory first"),
            UpdateError::Limit {
                isolator,
                source: LimitError::Device(_),
                ..
            } => Fault::from_error(FaultKind::Invalid, &error).field(field_of(isolator)),
            UpdateError::Limit { isolator, .. } => {
                Fault::from_error(FaultKind::Failed, &error).field(field_of(isolator))
            }
            _ => Fault::from_error(FaultKind::Failed, &error),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    #[error("container {0} has no control groups")]
    Gone(ContainerId),
    #[error("open the statistics of container {id}")]
    Open {
        id: ContainerId,
        source: KernelFileError,
    },
}

#[derive(Debug, thiserror::Error)]
#[error("watch container {id} for lack of memory")]
pub struct WatchError {
    pub id: ContainerId,
    pub source: KernelFileError,
}

#[derive(Debug, thiserror::Error)]
#[error("read the limitation of container {id}")]
pub struct LimitationError {
    pub id: ContainerId,
    pub source: KernelFileError,
}

#[derive(Debug, thiserror::Error)]
pub enum KillError {
    #[error("kill the processes of container {id}")]
    File {
        id: ContainerId,
        source: KernelFileError,
    },
    /// They were all signalled; uninterruptible sleep or a fork bomb keeps some alive. Ask again.
    #[error("container {id} still has {} processes after they were killed", pids.len())]
    Alive { id: ContainerId, pids: Vec<i32> },
}

#[derive(Debug, thiserror::Error)]
#[error("remove the control groups of container {id}")]
pub struct CleanupError {
    pub id: ContainerId,
    pub source: KernelFileError,
}

#[derive(Debug, thiserror::Error)]
#[error("list control groups")]
pub struct ListError(#[from] pub KernelFileError);

#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    #[error("neither the v2 tree nor the v1 freezer is mounted")]
    Unsupported,
    #[error("freeze or thaw container {id}")]
    File {
        id: ContainerId,
        source: KernelFileError,
    },
}
