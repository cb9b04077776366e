//! The way of records to the disk: one write at a time, and everything that was wished meanwhile is the next one.

use std::cell::Cell;
use std::time::{Duration, Instant};

use replog_core::{Input, Message, Position, Record, Value};

use crate::error::StoreError;
use crate::replica::{Replica, Shared, locked};
use crate::segment::SegmentNumber;

/// Between two attempts to write to a disk that is full.
const FULL_PAUSE: Duration = Duration::from_millis(500);
/// Every so many attempts another replica is asked what is truncated, and every so many it is told that the disk is full.
const ASK_EVERY: usize = 4;
const TELL_EVERY: usize = 120;
/// Bytes of records that may wait for a full disk. Beyond that no message that brings more is heard: it would grow without
/// end.
const FULL_BYTES_MAX: usize = 16 << 20;

/// A disk that took longer than that of late is waited for on the writer's thread only.
const QUICK: Duration = Duration::from_millis(2);
/// A step in making the next segment: a small one, since the next flush waits behind it; and a large one for those who are
/// in a hurry.
const SPARE_STEP: u64 = 128 << 10;
const SPARE_STEP_MAX: u64 = 4 << 20;
/// Between two attempts to make a spare segment where there was no room for one.
const SPARE_PAUSE: Duration = Duration::from_secs(5);

/// How the disk of a replica has been.
#[derive(Default)]
pub struct Pace {
    /// Of late, a flush took about that long.
    flush: Cell<Duration>,
    /// The segment that was written to when the spare was made: one will do until the next segment.
    spare_beside: Cell<Option<SegmentNumber>>,
    /// No spare could be made, then.
    no_spare: Cell<Option<Instant>>,
    /// The disk is full; bytes that wait for room since.
    waiting: Cell<Option<usize>>,
}

impl Pace {
    fn note_flush(&self, took: Duration) {
        self.flush.set((self.flush.get() * 3 + took) / 4);
    }
}

struct Written {
    outcome: Result<(), StoreError>,
    took: Duration,
    spare: Option<Due>,
}

/// So much of the next segment should be there beside this one.
#[derive(Clone, Copy)]
struct Due {
    beside: SegmentNumber,
    bytes: u64,
}

/// What is owed, after room was made for it where that is possible.
fn try_again(ledger: &Shared, begin: Position) -> Written {
    let relieved = locked(ledger).relieve(begin);
    match relieved {
        Ok(freed) => {
            if freed {
                tracing::info!(
                    "log: segments before position {begin}, which are truncated, were removed from the full disk"
                );
            }
            persist(ledger, &[])
        }
        Err(error) => Written {
            outcome: Err(error),
            took: Duration::ZERO,
            spare: None,
        },
    }
}

fn persist(ledger: &Shared, records: &[Record]) -> Written {
    let began = net::now();
    let mut ledger = locked(ledger);
    let outcome = ledger.persist(records);
    let store = ledger.store();
    Written {
        outcome,
        took: net::now() - began,
        spare: Some(Due {
            beside: store.active_segment(),
            bytes: store.spare_due(),
        }),
    }
}

/// Writes until nothing is left to be written.
pub async fn write(replica: Replica) {
    loop {
        let (records, token) = replica.0.unwritten.take();
        if records.is_empty() || replica.0.halted.borrow().is_some() {
            replica.0.writing.set(false);
            return;
        }
        let written = match on_disk(&replica, records).await {
            Ok(Written {
                outcome: Err(full @ StoreError::Full { .. }),
                ..
            }) => wait_for_room(&replica, full).await,
            written => written,
        };
        let reason = match written {
            Ok(Written {
                outcome: Ok(()),
                took,
                spare,
            }) => {
                replica.0.pace.note_flush(took);
                if let Some(due) = spare {
                    make_spare(&replica, due);
                }
                replica.give(Input::Persisted { token });
                continue;
            }
            Ok(Written {
                outcome: Err(error), ..
            }) => error.to_string(),
            Err(error) => error.to_string(),
        };
        replica.give(Input::PersistFailed { reason });
    }
}

/// On the writer's thread; or here, where the loop has nothing else to do. Two threads that wake each other take longer than
/// the flush of a good disk. Not for the log's writer: with a slow disk of its own, the others are a quorum.
async fn on_disk(replica: &Replica, records: Vec<Record>) -> Result<Written, net::PoolError> {
    let inner = &replica.0;
    let leads = inner.node.borrow().coordinating().is_some();
    if inner.may_block.get() && !leads && inner.pace.flush.get() <= QUICK {
        return Ok(persist(&inner.ledger, &records));
    }
    let ledger = inner.ledger.clone();
    inner.writer.run(move || persist(&ledger, &records)).await
}

/// Counts what waits for a full disk.
pub fn note_wished(replica: &Replica, records: &[Record]) {
    let waiting = &replica.0.pace.waiting;
    if let Some(bytes) = waiting.get() {
        waiting.set(Some(bytes + records.iter().map(weight).sum::<usize>()));
    }
}

/// Whether there is no place for what the message brings: the network might have lost it as well.
pub fn is_too_much(replica: &Replica, message: &Message) -> bool {
    let brings = match message {
        Message::Write(write) => !write.values.is_empty(),
        Message::Promise(promise) => !promise.tail.is_empty(),
        Message::Fetched(fetched) => !fetched.values.is_empty(),
        _ => false,
    };
    brings && has_too_much(replica)
}

fn has_too_much(replica: &Replica) -> bool {
    let waiting = replica.0.pace.waiting.get();
    waiting.is_some_and(|bytes| bytes > FULL_BYTES_MAX)
}

/// The disk is full, and nothing of the records was written: until there is room, this replica promises and accepts
/// nothing more, and what it promised stays promised. What is truncated meanwhile makes room.
async fn wait_for_room(replica: &Replica, full: StoreError) -> Result<Written, net::PoolError> {
    tracing::error!("log: this replica answers nothing until there is room: {full}");
    *replica.0.stalled.borrow_mut() = Some(full.to_string());
    let already = replica.0.unwritten.borrow().0.iter().map(weight).sum();
    replica.0.pace.waiting.set(Some(already));
    let since = net::now();
    let mut begin = Position::ZERO;
    let mut attempts = 0;
    let outcome = loop {
        begin = begin.max(replica.0.node.borrow().state().begin);
        let ledger = replica.0.ledger.clone();
        match replica.0.writer.run(move || try_again(&ledger, begin)).await {
            Ok(Written {
                outcome: Err(StoreError::Full { .. }),
                ..
            }) if !replica.has_halted() => {}
            outcome => break outcome,
        }
        attempts += 1;
        if attempts % ASK_EVERY == 0 {
            // What this one does not hear any more, because it has no place for it, the others know.
            let told = replica.ask_begin(attempts / ASK_EVERY).await;
            begin = begin.max(told.unwrap_or_default());
        }
        if attempts % TELL_EVERY == 0 {
            let seconds = (net::now() - since).as_secs();
            tracing::error!("log: for {seconds} s this replica has answered nothing: {full}");
        }
        if has_too_much(replica) && replica.0.node.borrow().coordinating().is_some() {
            tracing::error!(
                "log: this replica gives up being the writer: it can't write, and too much waits"
            );
            replica.give(Input::Resign);
        }
        net::sleep(FULL_PAUSE).await;
    };
    replica.0.pace.waiting.set(None);
    if let Ok(Written { outcome: Ok(()), .. }) = &outcome {
        tracing::info!("log: there is room again; this replica goes on");
        replica.0.stalled.borrow_mut().take();
    }
    outcome
}

fn weight(record: &Record) -> usize {
    match record {
        Record::Accepted { values, .. } | Record::Learned { values, .. } => {
            values.iter().map(Value::weight).sum()
        }
        _ => 0,
    }
}

/// A further step to the next segment's file, before an append has to wait for it.
fn make_spare(replica: &Replica, due: Due) {
    let pace = &replica.0.pace;
    let lately = |at: Instant| net::now() - at < SPARE_PAUSE;
    if pace.spare_beside.get() == Some(due.beside) || pace.no_spare.get().is_some_and(lately) {
        return;
    }
    // Nothing: a step is under way.
    let Some(mut maker) = replica.0.spare_maker.take() else {
        return;
    };
    if due.bytes < maker.made() + SPARE_STEP {
        replica.0.spare_maker.replace(Some(maker));
        return;
    }
    let replica = replica.clone();
    net::spawn(async move {
        let to = due.bytes.min(maker.made() + SPARE_STEP_MAX);
        let step = move || {
            let made = maker.make_to(to);
            (maker, made)
        };
        let pace = &replica.0.pace;
        let failed = match replica.0.helper.run(step).await {
            Ok((maker, made)) => {
                replica.0.spare_maker.replace(Some(maker));
                made.map(|whole| {
                    if whole {
                        pace.spare_beside.set(Some(due.beside));
                    }
                })
                .err()
                .map(|error| error.to_string())
            }
            // Its maker is gone with it: segments are made when they are needed from now on.
            Err(error) => Some(format!("log: {error}")),
        };
        let before = pace.no_spare.replace(failed.is_some().then(net::now));
        match (failed, before) {
            // Once: it is tried again as long as entries are written.
            (Some(error), None) => {
                tracing::warn!("{error}; trying on, at most every {} s", SPARE_PAUSE.as_secs())
            }
            (None, Some(_)) => tracing::info!("log: there is room for the next segment again"),
            _ => {}
        }
    })
    .detach();
}
