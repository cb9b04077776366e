//! What can go wrong.

use std::io;
use std::path::PathBuf;

use replog_core::{Position, Refusal, StartError};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("log store: cannot {operation} {file}")]
    Io {
        operation: &'static str,
        file: String,
        #[source]
        source: io::Error,
    },
    /// No room for the next segment. Nothing was written and nothing is lost: the same append may be tried again
    /// when there is room.
    #[error(
        "log store: no room for a segment of {bytes} bytes ({file}); nothing was written; make room on this disk"
    )]
    Full {
        file: String,
        bytes: u64,
        #[source]
        source: io::Error,
    },
    /// A write or a flush failed before. What the disk holds is unknown until the store is opened anew.
    #[error(
        "log store: stopped after an error of the disk: {0}; look at the disk, then start this replica again"
    )]
    Stopped(String),
    #[error(
        "log store: {bytes} bytes that belong together do not fit into a segment, which takes {most}; \
         start this replica with larger segments, as large as the others'"
    )]
    TooLarge { bytes: usize, most: usize },
    #[error(
        "log store: {file} belongs to another store ({found:032x}, this one is {expected:032x}); move it away"
    )]
    Foreign {
        file: String,
        found: u128,
        expected: u128,
    },
    #[error("log store: {file} is of format {version}, this program knows {known}; use a newer program")]
    Version { file: String, version: u32, known: u32 },
    #[error(
        "log store: no head of a segment can be read in {file} or any other; set the directory aside and let this replica recover"
    )]
    Unreadable { file: String },
    #[error(
        "log store: the record of status and promises can't be read: {cause}; use the program that wrote it"
    )]
    BadMeta { cause: String },
    #[error(
        "log store: the value at position {position} can't be read: {cause}; use the program that wrote it"
    )]
    BadValue { position: u64, cause: String },
    #[error("log store: position {position} is not stored here")]
    Missing { position: u64 },
    /// The bytes of a position are not those that were written.
    #[error(
        "log store: position {position} is damaged in {file}, sector {sector}; it has to come from another replica"
    )]
    Rotten {
        position: u64,
        file: String,
        sector: u32,
    },
}

impl StoreError {
    /// The bytes of one position are not there, and may be got from another replica.
    pub(crate) fn is_rot(&self) -> bool {
        matches!(
            self,
            Self::Rotten { .. }
                | Self::Io {
                    operation: "read",
                    ..
                }
        )
    }

    pub(crate) fn io(operation: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            operation,
            file: file.to_owned(),
            source,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("log replica does not start: {0}")]
    Core(#[from] StartError),
    #[error("log replica: cannot use {path}: {source}")]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Of a log with this replica only. Nothing was changed.
    #[error(
        "log replica: {path} is damaged, and this log has no other replica that has what is lost; bring back a copy of the directory, or \
         see what can be kept with `bulkhead log salvage --directory {path}`"
    )]
    Alone { path: PathBuf },
    #[error("log replica: {0}")]
    Worker(String),
}

/// Why something asked of a replica was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    #[error("not elected: {0:?}")]
    NotElected(replog_core::NotElected),
    /// Another writer took over. Whether this was appended is not known.
    #[error("another writer took over; whether this was appended is not known")]
    Lost,
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the replica has stopped: {0}")]
    Halted(String),
    /// Whether it is done, or will be when a quorum is back, is not known.
    #[error("{what}: no quorum of replicas answered within {seconds} s; {replicas}")]
    NoQuorum {
        what: &'static str,
        seconds: u64,
        replicas: String,
    },
    #[error(
        "position {0} can't be read here and no other replica had it in time: read from another one, or if this log has one replica \
         only, stop it and see what can be kept with `bulkhead log salvage`"
    )]
    Unreadable(Position),
}
