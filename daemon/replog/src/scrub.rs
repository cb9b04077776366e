//! What nobody reads is read all the same, slowly: bits that a disk lost are found while other replicas still have them.

use std::cell::Cell;
use std::rc::Weak;
use std::time::Duration;

use replog_core::Position;

use crate::ledger::Stop;
use crate::replica::{Inner, Replica};

/// Bytes of values that are read at once.
const PIECE_BYTES: usize = 256 << 10;
/// After each piece: a quarter of a MiB a second, 22 GB a day, is nothing to a disk that serves a log.
const PAUSE: Duration = Duration::from_secs(1);
/// After all of it, in pauses.
const REST: u32 = 600;

pub struct Scrubbing {
    pause: Cell<Duration>,
    rounds: Cell<u64>,
    changed: net::Notify,
}

impl Default for Scrubbing {
    fn default() -> Self {
        Self {
            pause: Cell::new(PAUSE),
            rounds: Cell::new(0),
            changed: net::Notify::new(),
        }
    }
}

impl Scrubbing {
    pub fn pace(&self, pause: Duration) {
        self.pause.set(pause);
        self.changed.set();
    }

    pub fn rounds(&self) -> u64 {
        self.rounds.get()
    }
}

/// Until the replica is gone or stops.
pub async fn scrub(inner: Weak<Inner>) {
    let (mut next, mut pauses) = (Position::FIRST, REST);
    loop {
        {
            let Some(inner) = inner.upgrade() else { return };
            let pause = inner.scrubbing.pause.get() * pauses;
            inner.scrubbing.changed.clear();
            let changed = inner.scrubbing.changed.wait();
            drop(inner);
            // Sooner, when another pace is asked for.
            let _ = net::timeout(pause, changed).await;
        }
        let Some(replica) = inner.upgrade().map(Replica) else {
            return;
        };
        if replica.has_halted() {
            return;
        }
        // One that waits for room has nothing to write anew with.
        if replica.0.stalled.borrow().is_some() {
            continue;
        }
        let (begin, learned) = {
            let node = replica.0.node.borrow();
            (node.state().begin, node.state().learned)
        };
        (next, pauses) = match read_on(&replica, next.max(begin), learned).await {
            Some(next) => (next, 1),
            None => {
                replica
                    .0
                    .scrubbing
                    .rounds
                    .set(replica.0.scrubbing.rounds.get() + 1);
                (Position::FIRST, REST)
            }
        };
    }
}

/// Reads a piece and mends what is broken. Where to go on; `None`: that was the last one.
async fn read_on(replica: &Replica, first: Position, last: Position) -> Option<Position> {
    if first > last {
        return None;
    }
    let (count, stop) = replica.look(first, last, PIECE_BYTES).await?;
    let next = first.plus(count);
    let at = match stop {
        Some(Stop::Rot(at)) => at,
        Some(Stop::Unknown(at)) => {
            tracing::error!(
                "log: position {at} is as it was written, and this program can't read it: use the one that wrote it; \
                 what is behind it is looked at all the same"
            );
            return Some(at.next());
        }
        Some(Stop::Missing(at)) => {
            tracing::error!(
                "log: position {at} is not on the disk, and agreed ones behind it are; start this replica again, so that it learns anew"
            );
            return Some(at.next());
        }
        // What is agreed but not yet marked so on the disk was written a moment ago.
        None => return (count > 0).then_some(next),
    };
    tracing::warn!("log: position {at} is damaged on the disk, found before anybody needed it");
    if replica.mend(at).await {
        return Some(at);
    }
    tracing::error!(
        "log: position {at} is damaged and no other replica had it in time; \
         start the others, or truncate up to it when nobody needs it"
    );
    Some(at.next())
}
