//! A task: a container that a master has placed. Its id is the container's.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::container::{Reason, Termination};
use crate::fault::{Fault, FaultKind};
use crate::ids::{ContainerId, ContainerName};
use crate::launch::LaunchSpec;
use crate::limits::Limits;
use crate::registry::{AgentId, AgentRecord};
use crate::resources::{Resources, Scalar};

/// Unique in a cluster, for ever.
pub type TaskId = ContainerId;

/// Mesos' states. Terminal is for ever: no report changes a task that has reached one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Accepted by the master, not yet reported by its agent.
    Staging,
    Starting,
    Running,
    Killing,
    /// Its agent can't be reached: it may come back, running or ended.
    Unreachable,
    /// Ended by itself with status 0.
    Finished,
    Failed,
    /// Ended because somebody asked for it.
    Killed,
    /// Refused by its agent: it never ran.
    Error,
    /// Ended unseen.
    Lost,
    /// Its agent never got it: it never ran.
    Dropped,
    /// Its agent was marked gone by an operator.
    GoneByOperator,
}

impl TaskState {
    pub const ALL: [Self; 12] = [
        Self::Staging,
        Self::Starting,
        Self::Running,
        Self::Killing,
        Self::Unreachable,
        Self::Finished,
        Self::Failed,
        Self::Killed,
        Self::Error,
        Self::Lost,
        Self::Dropped,
        Self::GoneByOperator,
    ];

    pub fn is_terminal(self) -> bool {
        !matches!(
            self,
            Self::Staging | Self::Starting | Self::Running | Self::Killing | Self::Unreachable
        )
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Staging => "staging",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Killing => "killing",
            Self::Unreachable => "unreachable",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Killed => "killed",
            Self::Error => "error",
            Self::Lost => "lost",
            Self::Dropped => "dropped",
            Self::GoneByOperator => "gone_by_operator",
        }
    }
}

/// What became of a container, as a task's state.
pub fn state_of(end: &Termination) -> TaskState {
    match end.reason {
        Reason::Exited if end.exit_status == 0 => TaskState::Finished,
        Reason::Killed => TaskState::Killed,
        Reason::Lost => TaskState::Lost,
        Reason::Exited
        | Reason::Signaled
        | Reason::Timeout
        | Reason::MemoryLimit
        | Reason::DiskLimit
        | Reason::LaunchFailed => TaskState::Failed,
    }
}

/// What a launch that its agent did not do is to the task.
pub fn state_of_refusal(fault: &Fault) -> TaskState {
    match fault.kind {
        FaultKind::Failed | FaultKind::CommandNotFound | FaultKind::CommandNotExecutable => TaskState::Failed,
        _ => TaskState::Error,
    }
}

/// How a task was at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    pub state: TaskState,
    /// Lower case, no full stop; empty when the state says it all.
    pub message: String,
    /// Milliseconds since the epoch.
    pub at_ms: u64,
    /// Of a command that has ended.
    pub exit_status: Option<i32>,
}

/// What a task takes from its agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    pub cpus: Scalar,
    /// Megabytes, as Mesos counts.
    pub mem: Scalar,
    pub disk: Scalar,
    pub ports: u32,
}

impl Need {
    /// Of a task: its limits are what it is promised.
    pub fn of(spec: &LaunchSpec) -> Self {
        Self {
            ports: spec.ports.as_ref().map_or(0, crate::PortRequest::count),
            ..Self::of_limits(&spec.limits)
        }
    }

    /// Ports are not among them.
    pub fn of_limits(limits: &Limits) -> Self {
        let megabytes = |limit: Option<crate::Limit<crate::Bytes>>| {
            let bytes = limit.and_then(crate::Limit::value).map_or(0, crate::Bytes::get);
            // Rounded up: what is promised is there.
            Scalar::from_milli(bytes.div_ceil(1 << 20).saturating_mul(1000))
        };
        let cpus = limits.cpus.or(limits.cpu_ceiling());
        Self {
            cpus: Scalar::from_milli(cpus.map_or(0, |cpus| u64::from(cpus.milli()))),
            mem: megabytes(limits.mem),
            disk: megabytes(limits.disk),
            ports: 0,
        }
    }

    /// With a change of the limits. A ceiling of CPU alone is none of the share.
    pub fn changed(self, change: &Limits) -> Self {
        let new = Self::of_limits(change);
        Self {
            cpus: change.cpus.map_or(self.cpus, |_| new.cpus),
            mem: change.mem.map_or(self.mem, |_| new.mem),
            disk: change.disk.map_or(self.disk, |_| new.disk),
            ports: self.ports,
        }
    }

    /// Of each the greater one.
    pub fn max(self, other: Self) -> Self {
        Self {
            cpus: self.cpus.max(other.cpus),
            mem: self.mem.max(other.mem),
            disk: self.disk.max(other.disk),
            ports: self.ports.max(other.ports),
        }
    }

    /// All that an agent offers.
    pub fn all(resources: &Resources) -> Self {
        Self {
            cpus: resources.total("cpus"),
            mem: resources.total("mem"),
            disk: resources.total("disk"),
            ports: u32::try_from(resources.ports().count()).unwrap_or(u32::MAX),
        }
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            cpus: self.cpus.plus(other.cpus),
            mem: self.mem.plus(other.mem),
            disk: self.disk.plus(other.disk),
            ports: self.ports.saturating_add(other.ports),
        }
    }

    /// At least nothing.
    pub fn minus(self, other: Self) -> Self {
        Self {
            cpus: self.cpus.minus(other.cpus),
            mem: self.mem.minus(other.mem),
            disk: self.disk.minus(other.disk),
            ports: self.ports.saturating_sub(other.ports),
        }
    }

    pub fn fits(self, free: Self) -> bool {
        self.cpus <= free.cpus && self.mem <= free.mem && self.disk <= free.disk && self.ports <= free.ports
    }
}

/// What somebody asks a master to run.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRequest {
    pub id: TaskId,
    /// On this one, else on the first that has room.
    pub agent: Option<AgentId>,
    pub spec: Arc<LaunchSpec>,
}

/// A task as its agent tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskReport {
    pub id: TaskId,
    pub name: Option<ContainerName>,
    pub need: Need,
    /// Grows with each status of the task; an older one is never acted upon.
    pub sequence: u64,
    pub status: TaskStatus,
}

/// What an agent keeps on disk of one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRecord {
    pub id: TaskId,
    pub name: Option<ContainerName>,
    pub need: Need,
    /// The host's boot in which it was launched.
    pub boot_id: String,
    /// Of the last status.
    pub sequence: u64,
    pub last: TaskStatus,
    /// Not acknowledged yet, oldest first; the last of them is `last`.
    pub untold: Vec<TaskStatus>,
}

impl TaskRecord {
    pub fn report(&self) -> TaskReport {
        self.report_of(self.last.clone(), self.sequence)
    }

    /// As it was told of an earlier status.
    pub fn report_of(&self, status: TaskStatus, sequence: u64) -> TaskReport {
        TaskReport {
            id: self.id.clone(),
            name: self.name.clone(),
            need: self.need,
            sequence,
            status,
        }
    }
}

/// What an agent says when it comes.
#[derive(Debug, Clone, PartialEq)]
pub struct Hello {
    /// None: it was never admitted, as far as it knows.
    pub id: Option<AgentId>,
    /// Of one without an id, chosen by it at random, the same in each attempt: when the welcome is lost on its way, the next
    /// attempt gets the same id. Empty: none.
    pub key: String,
    pub record: AgentRecord,
    pub boot_id: String,
    /// The highest term it has seen.
    pub term: u64,
    /// All it knows of, ended ones included that it has not forgotten.
    pub tasks: Vec<TaskReport>,
}

/// What a master says to an agent that it has let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    pub id: AgentId,
    pub term: u64,
    /// An agent that hears nothing for so long looks for the leader again.
    pub silence_max_ms: u64,
}

/// What an agent has to do that was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Come again.
    Retry,
    /// End all tasks: it is not, or no longer, of this cluster.
    Shutdown,
}

/// A task as its master sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskView {
    pub id: TaskId,
    pub name: Option<ContainerName>,
    pub agent: AgentId,
    pub hostname: String,
    pub need: Need,
    /// The first and the last of each state, oldest first.
    pub statuses: Vec<TaskStatus>,
}

impl TaskView {
    pub fn status(&self) -> Option<&TaskStatus> {
        self.statuses.last()
    }
}

/// How an agent is to its master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// In the registry; this leader has not heard of it yet.
    Recovered,
    Active,
    /// Its connection is gone, its time is not over.
    Disconnected,
    Unreachable,
    Gone,
}

impl AgentState {
    pub const ALL: [Self; 5] = [
        Self::Recovered,
        Self::Active,
        Self::Disconnected,
        Self::Unreachable,
        Self::Gone,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recovered => "recovered",
            Self::Active => "active",
            Self::Disconnected => "disconnected",
            Self::Unreachable => "unreachable",
            Self::Gone => "gone",
        }
    }
}

/// An agent as its master sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentView {
    pub id: AgentId,
    pub state: AgentState,
    pub record: Arc<AgentRecord>,
    /// Gets no new tasks.
    pub deactivated: bool,
    pub used: Need,
    /// Tasks that have not ended.
    pub tasks: u32,
    /// Milliseconds since the epoch; 0: not with this leader.
    pub registered_at_ms: u64,
    pub reregistered_at_ms: u64,
    /// Since when it is unreachable or gone, in seconds since the epoch; 0: it is not.
    pub since_s: u64,
}

/// Who leads, as he says himself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaderView {
    pub id: String,
    /// `host:port`; empty: nobody leads.
    pub address: String,
    pub hostname: String,
    pub version: String,
    pub term: u64,
    /// Milliseconds since the epoch.
    pub elected_at_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bytes, Cpus, Limit, Limits};

    #[test]
    fn a_task_is_promised_its_limits_rounded_up() {
        let spec = LaunchSpec {
            limits: Limits {
                cpus: Some(Cpus::from_milli(250)),
                mem: Some(Limit::Value(Bytes((1 << 20) + 1))),
                ..Limits::default()
            },
            ..LaunchSpec::default()
        };
        let need = Need::of(&spec);
        assert_eq!((need.cpus.milli(), need.mem.milli(), need.ports), (250, 2000, 0));
        let all = Need::all(&"cpus:1;mem:64;ports:[1-10]".parse().unwrap());
        assert!(need.fits(all) && !need.fits(all.minus(all)));
    }
}
