//! Where the registry is kept: `--registry=replicated_log|local|in_memory`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;

use futures::future::join_all;
use replog::{Client, Config, LogError, OpenError, Replica};
use replog_core::{Ballot, NotElected, Position, Refusal, ReplicaId, Settings, Value};

/// Bytes of one call to a replica in another process.
const CALL_BYTES_MAX: usize = 4 << 20;
/// A registry alone on its disk: small segments, since it is mostly its last snapshot.
const LOCAL_SEGMENT_BYTES: u64 = 16 << 20;

/// The choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Several replicas: survives the loss of a minority.
    ReplicatedLog,
    /// The same log with one replica, in a directory of this host.
    Local,
    /// For tests: forgotten with the process.
    InMemory,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReplicatedLog => "replicated_log",
            Self::Local => "local",
            Self::InMemory => "in_memory",
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "replicated_log" => Ok(Self::ReplicatedLog),
            "local" => Ok(Self::Local),
            "in_memory" => Ok(Self::InMemory),
            _ => Err(format!("{text:?} is none of replicated_log, local, in_memory")),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Worth another try: there may be a quorum, or no rival, in a moment.
    #[error("{0}")]
    NotNow(String),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("{0}")]
    Remote(String),
}

/// One of the choices, open. Clones are the same one.
#[derive(Clone)]
pub struct Storage(Log);

#[derive(Clone)]
enum Log {
    Replica(Replica),
    Remote(Client),
    Memory(Rc<RefCell<Memory>>),
}

#[derive(Default)]
struct Memory {
    begin: u64,
    entries: VecDeque<Arc<[u8]>>,
    /// Of the last who was elected: earlier ones are shut out, as by a log.
    writer: u64,
}

/// Entries from a position on.
pub(crate) type Entries = Vec<(Position, Arc<[u8]>)>;

/// The right to write, until somebody else is elected.
#[derive(Clone)]
pub(crate) struct Writer {
    log: Log,
    pub end: Position,
    mark: Mark,
}

#[derive(Clone, Copy)]
enum Mark {
    Ballot(Ballot),
    Memory(u64),
}

impl Storage {
    /// On a replica of this process, which others can reach too.
    pub fn replicated_log(replica: Replica) -> Self {
        Self(Log::Replica(replica))
    }

    /// A log with one replica in `directory`. Has to be called on an event loop.
    pub fn local(directory: &Path) -> Result<Self, OpenError> {
        let id = ReplicaId(1);
        let mut settings = Settings::new(id);
        settings.initial = Some(BTreeSet::from([id]));
        Replica::open(Config {
            settings,
            peers: BTreeMap::new(),
            directory: directory.to_path_buf(),
            segment_bytes: LOCAL_SEGMENT_BYTES,
        })
        .map(|replica| Self(Log::Replica(replica)))
    }

    pub fn in_memory() -> Self {
        Self(Log::Memory(Rc::default()))
    }

    /// On a replica of another process: for tools.
    pub fn remote(client: Client) -> Self {
        Self(Log::Remote(client))
    }

    /// The replica of this process, when there is one.
    pub fn replica(&self) -> Option<&Replica> {
        match &self.0 {
            Log::Replica(replica) => Some(replica),
            Log::Remote(_) | Log::Memory(_) => None,
        }
    }

    /// Shuts out every earlier writer.
    pub(crate) async fn elect(&self, term: u64) -> Result<Writer, StorageError> {
        let (end, mark) = match &self.0 {
            Log::Replica(replica) => {
                let (end, ballot) = replica.elect(term).await.map_err(elect_error)?;
                (end, Mark::Ballot(ballot))
            }
            Log::Remote(client) => {
                // A tool is told at once: a person tries again.
                let end = client.elect(term).await.map_err(StorageError::Remote)?;
                let status = client.status().await.map_err(StorageError::Remote)?;
                let ballot = status
                    .writer
                    .ok_or_else(|| StorageError::Remote("another writer took over at once".to_owned()))?;
                (end, Mark::Ballot(ballot))
            }
            Log::Memory(memory) => {
                let mut memory = memory.borrow_mut();
                memory.writer += 1;
                (memory.end(), Mark::Memory(memory.writer))
            }
        };
        Ok(Writer {
            log: self.0.clone(),
            end,
            mark,
        })
    }

    /// First and last position that can be read here.
    pub(crate) async fn bounds(&self) -> Result<(Position, Position), StorageError> {
        match &self.0 {
            Log::Replica(replica) => {
                let status = replica.status();
                Ok((status.begin, status.learned))
            }
            Log::Remote(client) => {
                let status = client.status().await.map_err(StorageError::Remote)?;
                Ok((status.begin, status.learned))
            }
            Log::Memory(memory) => {
                let memory = memory.borrow();
                Ok((Position(memory.begin + 1), memory.end()))
            }
        }
    }

    /// Learns first what a quorum knows.
    pub(crate) async fn catch_up(&self) -> Result<(), StorageError> {
        match &self.0 {
            Log::Replica(replica) => replica.catch_up().await.map(|_| ()).map_err(StorageError::Log),
            Log::Remote(client) => client.catch_up().await.map(|_| ()).map_err(StorageError::Remote),
            Log::Memory(_) => Ok(()),
        }
    }

    /// As many as fit, the positions read up to, and of them those that were appended. Empty: the first can't be read.
    pub(crate) async fn read(
        &self,
        first: Position,
        last: Position,
    ) -> Result<(Position, Entries), StorageError> {
        let values = match &self.0 {
            Log::Replica(replica) => replica.read(first, last).await?,
            Log::Remote(client) => client.read(first, last).await.map_err(StorageError::Remote)?,
            Log::Memory(memory) => memory.borrow().read(first, last),
        };
        let next = first.plus(values.len());
        let entries = (first.0..)
            .zip(values)
            .filter_map(|(at, value)| match value {
                Value::Append(bytes) => Some((Position(at), bytes)),
                Value::Nop | Value::Truncate { .. } | Value::Membership(_) => None,
            })
            .collect();
        Ok((next, entries))
    }
}

impl Memory {
    fn end(&self) -> Position {
        Position(self.begin + self.entries.len() as u64)
    }

    fn read(&self, first: Position, last: Position) -> Vec<Value> {
        let skip = first.0.saturating_sub(self.begin + 1) as usize;
        let count = (last.0 + 1).saturating_sub(first.0) as usize;
        let entries = self.entries.iter().skip(skip).take(count);
        entries.map(|bytes| Value::Append(bytes.clone())).collect()
    }
}

fn elect_error(error: LogError) -> StorageError {
    match error {
        LogError::NotElected(NotElected::Outbid { promised }) => {
            StorageError::NotNow(format!("another writer has a higher ballot: {promised}"))
        }
        error @ LogError::NoQuorum { .. } => StorageError::NotNow(error.to_string()),
        LogError::Refused(Refusal::NotVoting { status }) => {
            StorageError::NotNow(format!("the replica does not vote yet: {status:?}"))
        }
        error => StorageError::Log(error),
    }
}

impl Writer {
    /// All of them, in order; the position of the first. Ready when a quorum has them on disk.
    pub(crate) async fn append(&self, entries: Vec<Vec<u8>>) -> Result<Position, StorageError> {
        match &self.log {
            Log::Replica(replica) => {
                let asked = join_all(entries.into_iter().map(|entry| replica.append(entry))).await;
                let positions = asked.into_iter().collect::<Result<Vec<_>, _>>()?;
                Ok(positions.first().copied().unwrap_or_default())
            }
            Log::Remote(client) => {
                let mut first = None;
                let mut entries = entries.into_iter().peekable();
                while entries.peek().is_some() {
                    let mut bytes = 0;
                    let mut together = Vec::new();
                    while let Some(entry) =
                        entries.next_if(|entry| bytes == 0 || bytes + entry.len() <= CALL_BYTES_MAX)
                    {
                        bytes += entry.len();
                        together.push(entry);
                    }
                    let positions = client.append(&together).await.map_err(StorageError::Remote)?;
                    first = first.or(positions.first().copied());
                }
                Ok(first.unwrap_or_default())
            }
            Log::Memory(memory) => {
                self.still_writer(&memory.borrow())?;
                let mut memory = memory.borrow_mut();
                let first = memory.end().next();
                memory
                    .entries
                    .extend(entries.into_iter().map(|entry| Arc::from(entry.as_slice())));
                Ok(first)
            }
        }
    }

    fn still_writer(&self, memory: &Memory) -> Result<(), StorageError> {
        match self.mark {
            Mark::Memory(writer) if writer != memory.writer => Err(StorageError::Log(LogError::Lost)),
            _ => Ok(()),
        }
    }

    pub(crate) async fn truncate(&self, to: Position) -> Result<(), StorageError> {
        match &self.log {
            Log::Replica(replica) => replica.truncate(to).await.map(|_| ()).map_err(StorageError::Log),
            Log::Remote(client) => client.truncate(to).await.map_err(StorageError::Remote),
            Log::Memory(memory) => {
                let mut memory = memory.borrow_mut();
                while memory.begin + 1 < to.0 && memory.entries.pop_front().is_some() {
                    memory.begin += 1;
                }
                Ok(())
            }
        }
    }

    /// `Err`: somebody else was elected since, or the replica has stopped.
    pub(crate) async fn check(&self) -> Result<(), String> {
        let demoted = "another writer was elected".to_owned();
        let status = match &self.log {
            Log::Replica(replica) => replica.status(),
            Log::Remote(client) => client.status().await?,
            Log::Memory(memory) => return self.still_writer(&memory.borrow()).map_err(|_| demoted),
        };
        if let Some(why) = status.halted {
            return Err(format!("the replica has stopped: {why}"));
        }
        match (self.mark, status.writer) {
            (Mark::Ballot(mine), Some(ballot)) if ballot >= mine => Ok(()),
            _ => Err(demoted),
        }
    }
}
