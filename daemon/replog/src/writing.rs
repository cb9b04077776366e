//! The way of records to the disk: one write at a time, and everything that was wished meanwhile is the next one.

use std::cell::Cell;
use std::time::{Duration, Instant};

use replog_core::{Input, Record, Value};

use crate::error::StoreError;
use crate::replica::{Replica, Shared, locked};
use crate::segment::SegmentNumber;

/// Between two attempts to write to a disk that is full.
const FULL_PAUSE: Duration = Duration::from_millis(500);
/// Records that may wait for a full disk. Beyond that this replica stops: it would grow without end.
const FULL_BYTES_MAX: usize = 16 << 20;

/// A disk that took longer than that of late is waited for on the writer's thread only.
const QUICK: Duration = Duration::from_millis(2);
/// Between two attempts to make a spare segment where there was no room for one.
const SPARE_PAUSE: Duration = Duration::from_secs(5);

/// How the disk of a replica has been.
#[derive(Default)]
pub struct Pace {
    /// Of late, a flush took about that long.
    flush: Cell<Duration>,
    making_spare: Cell<bool>,
    /// The segment that was written to when the spare was made: one will do until the next segment.
    spare_beside: Cell<Option<SegmentNumber>>,
    /// No spare could be made, then.
    no_spare: Cell<Option<Instant>>,
}

impl Pace {
    fn note_flush(&self, took: Duration) {
        self.flush.set((self.flush.get() * 3 + took) / 4);
    }
}

struct Written {
    outcome: Result<(), StoreError>,
    took: Duration,
    /// A spare segment is due beside this one.
    spare_beside: Option<SegmentNumber>,
}

fn persist(ledger: &Shared, records: &[Record]) -> Written {
    let began = net::now();
    let mut ledger = locked(ledger);
    let outcome = ledger.persist(records);
    let store = ledger.store();
    Written {
        outcome,
        took: net::now() - began,
        spare_beside: store.wants_spare().then(|| store.active_segment()),
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
                spare_beside,
            }) => {
                replica.0.pace.note_flush(took);
                if let Some(segment) = spare_beside {
                    make_spare(&replica, segment);
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

/// The disk is full, and nothing of the records was written: until there is room, this replica promises and accepts
/// nothing more, and what it promised stays promised.
async fn wait_for_room(replica: &Replica, full: StoreError) -> Result<Written, net::PoolError> {
    tracing::error!("log: this replica answers nothing until there is room: {full}");
    *replica.0.stalled.borrow_mut() = Some(full.to_string());
    let outcome = loop {
        net::sleep(FULL_PAUSE).await;
        let waiting: usize = replica.0.unwritten.borrow().0.iter().map(weight).sum();
        if waiting > FULL_BYTES_MAX || replica.0.halted.borrow().is_some() {
            break Ok(Written {
                outcome: Err(full),
                took: Duration::ZERO,
                spare_beside: None,
            });
        }
        let ledger = replica.0.ledger.clone();
        match replica.0.writer.run(move || persist(&ledger, &[])).await {
            Ok(Written {
                outcome: Err(StoreError::Full { .. }),
                ..
            }) => {}
            outcome => break outcome,
        }
    };
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

/// The next segment's file, before an append has to wait for it.
fn make_spare(replica: &Replica, beside: SegmentNumber) {
    let pace = &replica.0.pace;
    let lately = |at: Instant| net::now() - at < SPARE_PAUSE;
    if pace.spare_beside.get() == Some(beside)
        || pace.no_spare.get().is_some_and(lately)
        || pace.making_spare.replace(true)
    {
        return;
    }
    let replica = replica.clone();
    net::spawn(async move {
        let maker = replica.0.spare_maker.clone();
        let made = replica.0.helper.run(move || maker.make()).await;
        let pace = &replica.0.pace;
        let failed = match made {
            Ok(Ok(())) => {
                pace.spare_beside.set(Some(beside));
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
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
        replica.0.pace.making_spare.set(false);
    })
    .detach();
}
