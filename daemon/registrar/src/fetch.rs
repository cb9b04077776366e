//! The registry out of the log.

use std::sync::Arc;

use master_core::registry;
use model::registry::{Record, Registry};
use replog_core::Position;
use wire::registry::{Assembler, RegistryError};

use crate::storage::{Storage, StorageError};

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the replica can't read position {0}: see its log; read from another one")]
    Unreadable(Position),
    #[error("position {position} of the log is not usable: {source}")]
    Entry {
        position: Position,
        #[source]
        source: RegistryError,
    },
    #[error("position {position} does not follow what is before it: {problem}")]
    Broken { position: Position, problem: String },
}

/// A record, where it begins, and its bytes.
pub(crate) type Found = (u64, u64, Record);

/// Takes entries in their order, gives records.
#[derive(Default)]
pub(crate) struct Records {
    assembler: Assembler,
    begun: Position,
    bytes: u64,
    pub found: Vec<Found>,
}

impl Records {
    pub(crate) fn push(&mut self, position: Position, entry: &Arc<[u8]>) -> Result<(), FetchError> {
        if self.bytes == 0 {
            self.begun = position;
        }
        let record = self
            .assembler
            .push(entry)
            .map_err(|source| FetchError::Entry { position, source })?;
        // One that begins anew leaves what was incomplete behind; to count that too harms nothing.
        self.bytes += entry.len() as u64;
        if let Some(record) = record {
            if matches!(record, Record::Snapshot { .. }) {
                self.found.clear();
            }
            self.found.push((self.begun.0, self.bytes, record));
            self.bytes = 0;
        }
        Ok(())
    }
}

/// All records that count, from the last snapshot on, up to `last`.
pub(crate) async fn records(storage: &Storage, last: Position) -> Result<Vec<Found>, FetchError> {
    let (mut next, _) = storage.bounds().await?;
    let mut records = Records::default();
    while next <= last {
        let (after, entries) = storage.read(next, last).await?;
        if after == next {
            return Err(FetchError::Unreadable(next));
        }
        for (position, entry) in &entries {
            records.push(*position, entry)?;
        }
        next = after;
    }
    Ok(records.found)
}

/// What a log holds, for who wants to look at it.
#[derive(Debug)]
pub struct Contents {
    pub registry: Registry,
    /// Of the last record.
    pub sequence: u64,
    /// Records since the last snapshot, that included.
    pub records: usize,
    pub bytes: u64,
}

/// Reads without becoming the writer. With `catch_up`: all that was answered before this was asked.
pub async fn contents(storage: &Storage, catch_up: bool) -> Result<Contents, FetchError> {
    if catch_up {
        storage.catch_up().await?;
    }
    let (_, last) = storage.bounds().await?;
    fold(records(storage, last).await?)
}

pub(crate) fn fold(found: Vec<Found>) -> Result<Contents, FetchError> {
    let mut contents = Contents {
        registry: Registry::default(),
        sequence: 0,
        records: found.len(),
        bytes: found.iter().map(|(_, bytes, _)| bytes).sum(),
    };
    for (position, _, record) in found {
        let broken = |problem| FetchError::Broken {
            position: Position(position),
            problem,
        };
        let sequence = record.sequence();
        match record {
            Record::Snapshot { registry, .. } => contents.registry = *registry,
            Record::Delta { edits, .. } => {
                if sequence != contents.sequence + 1 {
                    let expected = contents.sequence + 1;
                    return Err(broken(format!("entry {sequence}, {expected} was expected")));
                }
                for edit in &edits {
                    registry::apply(&mut contents.registry, edit)
                        .map_err(|refusal| broken(refusal.to_string()))?;
                }
            }
        }
        contents.sequence = sequence;
    }
    Ok(contents)
}
