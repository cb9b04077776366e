//! The way of records to the disk: one write at a time, and everything that was wished meanwhile is the next one.

use std::time::Duration;

use replog_core::{Input, Record, Value};

use crate::error::StoreError;
use crate::replica::{Replica, locked};

/// Between two attempts to write to a disk that is full.
const FULL_PAUSE: Duration = Duration::from_millis(500);
/// Records that may wait for a full disk. Beyond that this replica stops: it would grow without end.
const FULL_BYTES_MAX: usize = 16 << 20;

/// Writes until nothing is left to be written.
pub async fn write(replica: Replica) {
    loop {
        let (records, token) = replica.0.unwritten.take();
        if records.is_empty() || replica.0.halted.borrow().is_some() {
            replica.0.writing.set(false);
            return;
        }
        let ledger = replica.0.ledger.clone();
        let job = move || {
            let mut ledger = locked(&ledger);
            let written = ledger.persist(&records);
            (written, ledger.store().wants_spare())
        };
        let written = match replica.0.writer.run(job).await {
            Ok((Err(full @ StoreError::Full { .. }), _)) => wait_for_room(&replica, full).await,
            written => written,
        };
        match written {
            Ok((Ok(()), wants_spare)) => {
                if wants_spare {
                    make_spare(&replica);
                }
                replica.give(Input::Persisted { token });
            }
            Ok((Err(error), _)) => replica.give(Input::PersistFailed {
                reason: error.to_string(),
            }),
            Err(error) => replica.give(Input::PersistFailed {
                reason: error.to_string(),
            }),
        }
    }
}

/// The disk is full, and nothing of the records was written: until there is room, this replica promises and accepts
/// nothing more, and what it promised stays promised.
async fn wait_for_room(
    replica: &Replica,
    full: StoreError,
) -> Result<(Result<(), StoreError>, bool), net::PoolError> {
    tracing::error!("log: this replica answers nothing until there is room: {full}");
    *replica.0.stalled.borrow_mut() = Some(full.to_string());
    let outcome = loop {
        net::sleep(FULL_PAUSE).await;
        let waiting: usize = replica.0.unwritten.borrow().0.iter().map(weight).sum();
        if waiting > FULL_BYTES_MAX || replica.0.halted.borrow().is_some() {
            break Ok((Err(full), false));
        }
        let ledger = replica.0.ledger.clone();
        let again = move || {
            let mut ledger = locked(&ledger);
            let written = ledger.persist(&[]);
            (written, ledger.store().wants_spare())
        };
        match replica.0.writer.run(again).await {
            Ok((Err(StoreError::Full { .. }), _)) => {}
            outcome => break outcome,
        }
    };
    if let Ok((Ok(()), _)) = &outcome {
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
fn make_spare(replica: &Replica) {
    if replica.0.making_spare.replace(true) {
        return;
    }
    let replica = replica.clone();
    net::spawn(async move {
        let maker = locked(&replica.0.ledger).store().spare_maker();
        match replica.0.helper.run(move || maker.make()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("{error}"),
            Err(error) => tracing::warn!("log: {error}"),
        }
        replica.0.making_spare.set(false);
    })
    .detach();
}
