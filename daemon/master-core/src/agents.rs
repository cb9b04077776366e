//! One agent as the core remembers it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use model::Millis;
use model::registry::{AgentId, AgentRecord, Standing, Timestamp};
use model::task::{AgentState, AgentView, Need, TaskId};

use crate::input::Link;

/// ```text
///   registry ──> Recovered ──registers──> Active <──registers── Disconnected
///                    │                      │ └──link lost──────────^  │
///                    └──time-out──> Unreachable <──pings missed────────┘
///                                       └──registers──> Active            (each by way of the registry)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In the registry since an earlier leader; not heard of yet.
    Recovered,
    Active,
    Disconnected,
    Unreachable {
        since: Timestamp,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct Agent {
    pub record: Arc<AgentRecord>,
    /// See [`model::registry::Admitted::key`].
    pub key: String,
    pub standing: Standing,
    pub phase: Phase,
    pub link: Option<Link>,
    /// An edit about it is on its way to the registry: until it is answered nothing else is decided about it.
    pub pending: bool,
    /// Sum of its tasks that have not ended.
    pub used: Need,
    /// What they may take besides when the changes under way are done.
    pub promised: Need,
    pub offered: Need,
    /// Those that have not ended.
    pub tasks: BTreeSet<TaskId>,
    /// The next ping, or the end of patience.
    pub alarm: Option<Duration>,
    /// The last ping is not answered.
    pub pinged: bool,
    /// And an answer may still come: no other one is sent, however long that takes.
    pub ping_open: bool,
    pub missed: u32,
    /// It waits for its turn to be written down as unreachable. Nothing takes this back without an alarm: it would be
    /// forgotten.
    pub doomed: bool,
    /// It is in the queue of those that wait, perhaps no longer doomed.
    pub queued: bool,
    pub grace: Option<Millis>,
    pub registered_at_ms: u64,
    pub reregistered_at_ms: u64,
}

impl Agent {
    pub fn new(record: AgentRecord, standing: Standing, phase: Phase) -> Self {
        Self {
            offered: Need::all(&record.resources),
            grace: standing
                .drain
                .as_ref()
                .and_then(|drain| drain.grace_max_seconds)
                .map(Millis::secs),
            record: Arc::new(record),
            key: String::new(),
            standing,
            phase,
            link: None,
            pending: false,
            used: Need::default(),
            promised: Need::default(),
            tasks: BTreeSet::new(),
            alarm: None,
            pinged: false,
            ping_open: false,
            missed: 0,
            doomed: false,
            queued: false,
            registered_at_ms: 0,
            reregistered_at_ms: 0,
        }
    }

    pub fn set_record(&mut self, record: AgentRecord) {
        if *self.record != record {
            self.offered = Need::all(&record.resources);
            self.record = Arc::new(record);
        }
    }

    /// May get new tasks.
    pub fn takes_tasks(&self) -> bool {
        self.phase == Phase::Active && !self.standing.deactivated && !self.pending && !self.doomed
    }

    /// A drain is over that was to end with it.
    pub fn leaves(&self) -> bool {
        let drain = self.standing.drain.as_ref();
        drain.is_some_and(|drain| drain.drained && drain.mark_gone)
    }

    pub fn free(&self) -> Need {
        self.offered.minus(self.used).minus(self.promised)
    }

    pub fn view(&self, id: &AgentId) -> AgentView {
        let (state, since_s) = match self.phase {
            Phase::Recovered => (AgentState::Recovered, 0),
            Phase::Active => (AgentState::Active, 0),
            Phase::Disconnected => (AgentState::Disconnected, 0),
            Phase::Unreachable { since } => (AgentState::Unreachable, since),
        };
        AgentView {
            id: id.clone(),
            state,
            record: self.record.clone(),
            deactivated: self.standing.deactivated,
            used: self.used,
            tasks: u32::try_from(self.tasks.len()).unwrap_or(u32::MAX),
            registered_at_ms: self.registered_at_ms,
            reregistered_at_ms: self.reregistered_at_ms,
            since_s,
        }
    }
}
