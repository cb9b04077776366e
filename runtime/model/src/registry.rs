//! What the master tier must never forget: the registry, and the edits that change it.
//!
//! Tasks and offers are not here: agents know their tasks, and offers end with a leader.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::resources::{Attributes, Resources, Role, Scalar};

/// Seconds since the Unix epoch, as the leader that wrote it saw them.
pub type Timestamp = u64;

/// An agent's id: unique for ever, given by the master that admitted it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AgentId(pub String);

/// A framework's id, given at its first subscription.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FrameworkId(pub String);

/// A leader, as it tells about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterRecord {
    /// Of this leadership: a master that leads twice has two.
    pub id: String,
    pub hostname: String,
    pub address: String,
    pub version: String,
    /// Its term: the creation id of its election znode.
    pub term: u64,
}

/// An agent, as it registered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentRecord {
    pub hostname: String,
    /// `host:port` of its service.
    pub address: String,
    pub resources: Resources,
    pub attributes: Attributes,
    pub version: String,
    pub capabilities: BTreeSet<String>,
}

/// An agent on its way out, by an operator's wish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// The longest a task may take to end.
    pub grace_max_seconds: Option<u64>,
    /// Mark it gone when it is empty.
    pub mark_gone: bool,
    /// It is empty.
    pub drained: bool,
}

/// What an operator wants of an agent. Kept while it is unreachable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub drain: Option<Drain>,
    /// Gets no offers.
    pub deactivated: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    pub record: AgentRecord,
    pub standing: Standing,
    /// Dynamic reservations and persistent volumes on it.
    pub reserved: Resources,
    /// What it called itself before it had an id. Empty: nothing.
    #[serde(default)]
    pub key: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreachable {
    pub since: Timestamp,
    pub agent: Admitted,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameworkRecord {
    pub name: String,
    pub user: String,
    pub roles: BTreeSet<Role>,
    pub principal: Option<String>,
    /// How long its tasks outlive its scheduler.
    pub failover_timeout_seconds: u64,
    pub capabilities: BTreeSet<String>,
    pub checkpoint: bool,
}

/// What a role is promised, and what it may not exceed, by resource name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    pub guarantees: BTreeMap<String, Scalar>,
    pub limits: BTreeMap<String, Scalar>,
}

/// A machine by host name, address or both.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MachineId {
    /// In lower case.
    pub hostname: String,
    pub address: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MachineMode {
    /// In the schedule, still running.
    Draining,
    /// Nothing may register from it.
    Down,
}

/// When machines are not there. Times are hints: nothing happens by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub machines: Vec<MachineId>,
    pub start_nanoseconds: i64,
    /// None: for ever.
    pub duration_nanoseconds: Option<u64>,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    /// The last leader.
    pub master: Option<MasterRecord>,
    pub agents: BTreeMap<AgentId, Admitted>,
    pub unreachable: BTreeMap<AgentId, Unreachable>,
    /// Never to come back.
    pub gone: BTreeMap<AgentId, Timestamp>,
    pub frameworks: BTreeMap<FrameworkId, FrameworkRecord>,
    pub quota: BTreeMap<Role, Quota>,
    pub weights: BTreeMap<Role, Scalar>,
    /// Machines that are not up.
    pub machines: BTreeMap<MachineId, MachineMode>,
    pub schedule: Vec<Window>,
    /// What a program must know to read this: an older one refuses to lead.
    pub minimum_capabilities: BTreeSet<String>,
}

/// One change. Each is applied whole or refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Edit {
    Lead(MasterRecord),
    Admit {
        id: AgentId,
        record: AgentRecord,
        /// So that the next leader knows it as well, whose welcome it may be that arrives.
        #[serde(default)]
        key: String,
    },
    UpdateAgent {
        id: AgentId,
        record: AgentRecord,
    },
    MarkUnreachable {
        id: AgentId,
        at: Timestamp,
    },
    MarkReachable {
        id: AgentId,
        record: AgentRecord,
    },
    Remove {
        id: AgentId,
    },
    MarkGone {
        id: AgentId,
        at: Timestamp,
    },
    Drain {
        id: AgentId,
        grace_max_seconds: Option<u64>,
        mark_gone: bool,
    },
    MarkDrained {
        id: AgentId,
    },
    Deactivate {
        id: AgentId,
    },
    Reactivate {
        id: AgentId,
    },
    /// Reservations and volumes of an agent, as they are from now on.
    Reserve {
        id: AgentId,
        reserved: Resources,
    },
    /// Forget agents that have been unreachable or gone for long.
    Prune {
        unreachable: Vec<AgentId>,
        gone: Vec<AgentId>,
    },
    PutFramework {
        id: FrameworkId,
        record: FrameworkRecord,
    },
    RemoveFramework {
        id: FrameworkId,
    },
    /// For all roles named, or for none.
    SetQuota(BTreeMap<Role, Quota>),
    SetWeights(BTreeMap<Role, Scalar>),
    SetSchedule(Vec<Window>),
    StartMaintenance(Vec<MachineId>),
    StopMaintenance(Vec<MachineId>),
}

/// One write of the registrar. `sequence` counts them, so that one that is missing is noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Everything, as of `sequence`.
    Snapshot { sequence: u64, registry: Box<Registry> },
    /// On top of `sequence - 1`.
    Delta { sequence: u64, edits: Vec<Edit> },
}

impl Record {
    pub fn sequence(&self) -> u64 {
        match self {
            Self::Snapshot { sequence, .. } | Self::Delta { sequence, .. } => *sequence,
        }
    }
}
