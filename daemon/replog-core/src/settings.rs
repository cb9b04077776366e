//! Times and bounds of one replica, and how it is started.

use std::collections::BTreeSet;

use model::Millis;

use crate::membership::ReplicaId;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settings {
    pub replica: ReplicaId,
    /// The members to initialise an empty log with. When the log exists, a set that differs from its members is refused:
    /// leave it out to follow the log.
    pub initial: Option<BTreeSet<ReplicaId>>,
    /// Where else a log may be found.
    pub contacts: BTreeSet<ReplicaId>,
    /// Initialise when all of `initial` are empty; else only when told.
    pub auto_initialize: bool,
    pub timing: Timing,
    pub bounds: Bounds,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Timing {
    /// A coordinator is heard at least this often; what was not answered within it is sent again.
    pub heartbeat: Millis,
    /// After this long without a coordinator a voting replica may stand in to admit a recovering one.
    pub silence: Millis,
    /// For a whole election.
    pub election: Millis,
    /// First pause between two hellos of a replica that does not vote; doubled up to `hello_max`, which is also how often
    /// a voting one shows itself when there is no coordinator.
    pub hello: Millis,
    pub hello_max: Millis,
    /// For one piece of catching up.
    pub fetch: Millis,
    /// For a change of members, and for a catch-up that a reader asked for.
    pub patience: Millis,
    /// Longest that appends wait for a change of members to be proposed.
    pub barrier: Millis,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Positions that a coordinator has in flight.
    pub window: usize,
    pub window_bytes: usize,
    /// Accepted entries that a replica holds in memory; more are not accepted until some are agreed.
    pub tail: usize,
    pub tail_bytes: usize,
    /// Appends that wait for the window.
    pub queue: usize,
    pub value_bytes: usize,
    /// Entries in one write or one piece of catching up.
    pub batch: usize,
    /// A single entry may be larger.
    pub batch_bytes: usize,
    /// Agreed entries that stay in memory for peers a little behind.
    pub recent: usize,
    pub recent_bytes: usize,
    /// Messages that wait for the disk; beyond that incoming ones are dropped, as a network may.
    pub waiting: usize,
    /// How far behind a replica may be to be admitted: as much as a busy writer appends between two words of it, and no
    /// more than it can learn while appends wait (`Timing::barrier`).
    pub lag: usize,
}

impl Settings {
    pub fn new(replica: ReplicaId) -> Self {
        Self {
            replica,
            initial: None,
            contacts: BTreeSet::new(),
            auto_initialize: true,
            timing: Timing::default(),
            bounds: Bounds::default(),
        }
    }
}

impl Bounds {
    /// Lowers what would make a record larger than a disk takes at once: a record is written whole or not at all.
    pub fn fit(&mut self, record_bytes: usize) {
        // Half for the values, half for what is written around each.
        const AROUND: usize = 96;
        self.tail_bytes = self.tail_bytes.min(record_bytes / 2);
        self.tail = self.tail.min(record_bytes / 2 / AROUND);
        // As much again as one writer leaves in flight has to fit into a tail: see `Node::start`.
        self.value_bytes = self.value_bytes.min(self.tail_bytes / 4);
        self.window_bytes = self.window_bytes.min(self.tail_bytes / 2 - self.value_bytes);
        self.window = self.window.min(self.tail.saturating_sub(2)).max(1);
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Millis(200),
            silence: Millis(2_000),
            election: Millis(10_000),
            hello: Millis(100),
            hello_max: Millis(1_000),
            fetch: Millis(2_000),
            patience: Millis(30_000),
            barrier: Millis(2_000),
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            window: 1_024,
            window_bytes: 8 << 20,
            tail: 4_096,
            tail_bytes: 64 << 20,
            queue: 16_384,
            value_bytes: 1 << 20,
            batch: 512,
            batch_bytes: 1 << 20,
            recent: 1_024,
            recent_bytes: 16 << 20,
            waiting: 8_192,
            lag: 4_096,
        }
    }
}
