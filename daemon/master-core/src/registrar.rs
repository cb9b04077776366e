//! The registrar, deciding only: edits in, one durable truth out.
//!
//! While one write is on its way, edits queue; then all of them become the next one. Nobody is answered before the
//! write is durable. What goes to the log are deltas, and a snapshot when the deltas since the last one weigh more than
//! it does; what is before a snapshot is truncated. After any doubt about a write the registrar has failed for good:
//! its master has to step down, and the next leader reads what really became of it.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use model::registry::{Edit, MasterRecord, Registry};

pub use model::registry::Record;

use crate::registry::{self, Refusal};

/// Time since some fixed start, as the shell tells it.
pub type Now = Duration;
/// A position of the log.
pub type Position = u64;

#[derive(Clone, Debug)]
pub struct Settings {
    /// For reading the log after an election.
    pub fetch_timeout: Duration,
    /// For one write.
    pub store_timeout: Duration,
    /// Edits of one write.
    pub batch_max: usize,
    /// Edits that may wait. Beyond it they are refused at once.
    pub queue_max: usize,
    /// Deltas below this never make a snapshot due.
    pub snapshot_bytes_min: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            fetch_timeout: Duration::from_secs(60),
            store_timeout: Duration::from_secs(20),
            batch_max: 1000,
            queue_max: 100_000,
            snapshot_bytes_min: 1 << 20,
        }
    }
}

/// Whose edit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// This master was elected: read the log, then write who leads.
    Lead(MasterRecord),
    /// All entries of the log in order, with their positions and sizes in bytes.
    Fetched(Vec<(Position, u64, Record)>),
    FetchFailed(String),
    Submit {
        token: Token,
        edit: Edit,
    },
    /// The write wished last is durable.
    Stored {
        position: Position,
        bytes: u64,
    },
    /// It was refused (another leader writes now), or nothing is known of it.
    StoreFailed(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Catch up and read the whole log.
    Fetch,
    /// One at a time.
    Store(Record),
    /// Entries before the position are not needed any more. No answer is expected.
    Truncate(Position),
    /// The registry is known, and it is written who leads.
    Recovered,
    /// The edit is durable (or held already), or why not.
    Answer {
        token: Token,
        result: Result<(), NotApplied>,
    },
    /// No more edits: step down.
    Failed(String),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotApplied {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It may have become durable all the same.
    #[error("the registry did not take it for sure: {0}")]
    Unknown(String),
    /// It was not tried.
    #[error("the registry takes nothing now: {0}")]
    NotTaken(String),
}

enum State {
    /// Not leading yet.
    Idle,
    Fetching {
        master: MasterRecord,
        deadline: Now,
    },
    Serving,
    Failed(String),
}

struct Write {
    /// What makes of the durable registry the next one, unless it is a snapshot of everything: made again when it is durable.
    edits: Vec<Edit>,
    answers: Vec<(Token, Result<(), NotApplied>)>,
    snapshot: bool,
    /// The first one, of who leads.
    recovery: bool,
    deadline: Now,
}

/// See the module.
pub struct Registrar {
    settings: Settings,
    state: State,
    /// As it is durable.
    registry: Registry,
    /// As it will be when the write under way is durable. Each edit is made twice, so that a write costs what it changes
    /// and not a copy of everything. Nothing is ever taken back: after a write that failed the registrar has failed.
    next: Registry,
    sequence: u64,
    queue: VecDeque<(Token, Edit)>,
    write: Option<Write>,
    recovered: bool,
    snapshot_bytes: u64,
    delta_bytes: u64,
    wishes: VecDeque<Wish>,
}

impl fmt::Debug for Registrar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registrar")
            .field("sequence", &self.sequence)
            .field("queued", &self.queue.len())
            .finish()
    }
}

impl Registrar {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            state: State::Idle,
            registry: Registry::default(),
            next: Registry::default(),
            sequence: 0,
            queue: VecDeque::new(),
            write: None,
            recovered: false,
            snapshot_bytes: 0,
            delta_bytes: 0,
            wishes: VecDeque::new(),
        }
    }

    /// As it is durable. Before [`Wish::Recovered`] it is empty.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Edits that wait for a write.
    pub fn queued(&self) -> usize {
        self.queue.len() + self.write.as_ref().map_or(0, |write| write.answers.len())
    }

    pub fn handle(&mut self, now: Now, input: Input) {
        self.expire(now);
        match (input, &self.state) {
            (Input::Lead(master), State::Idle) => {
                let deadline = now + self.settings.fetch_timeout;
                self.state = State::Fetching { master, deadline };
                self.wishes.push_back(Wish::Fetch);
            }
            (Input::Fetched(records), State::Fetching { master, .. }) => {
                let master = master.clone();
                match self.replay(records) {
                    Ok(()) => self.write_leader(now, master),
                    Err(problem) => self.fail(problem),
                }
            }
            (Input::FetchFailed(cause), State::Fetching { .. }) => {
                self.fail(format!("cannot read the log: {cause}"));
            }
            (Input::Submit { token, edit }, State::Serving) => self.submit(now, token, edit),
            (Input::Submit { token, .. }, State::Failed(cause)) => {
                self.answer(token, Err(NotApplied::NotTaken(cause.clone())));
            }
            (Input::Submit { token, .. }, State::Idle | State::Fetching { .. }) => {
                self.answer(
                    token,
                    Err(NotApplied::NotTaken("it is not recovered yet".to_owned())),
                );
            }
            (Input::Stored { position, bytes }, State::Serving) => self.stored(now, position, bytes),
            (Input::StoreFailed(cause), State::Serving) => {
                self.fail(format!("cannot write to the log: {cause}"))
            }
            // Late answers of a registrar that failed, or that nobody asked.
            _ => {}
        }
    }

    /// When time alone changes something.
    pub fn deadline(&self) -> Option<Now> {
        match &self.state {
            State::Fetching { deadline, .. } => Some(*deadline),
            State::Serving => self.write.as_ref().map(|write| write.deadline),
            State::Idle | State::Failed(_) => None,
        }
    }

    /// To be called when [`Self::deadline`] has come.
    pub fn expire(&mut self, now: Now) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.state {
            State::Fetching { .. } => {
                let limit = self.settings.fetch_timeout.as_secs();
                self.fail(format!("the log could not be read within {limit} s"));
            }
            _ => {
                let limit = self.settings.store_timeout.as_secs();
                self.fail(format!("a write to the log was not done within {limit} s"));
            }
        }
    }

    pub fn poll(&mut self) -> Option<Wish> {
        self.wishes.pop_front()
    }

    fn replay(&mut self, records: Vec<(Position, u64, Record)>) -> Result<(), String> {
        let (mut known, mut skipped) = (false, false);
        for (position, bytes, record) in records {
            match record {
                Record::Snapshot { sequence, registry } => {
                    (self.registry, self.sequence, known) = (*registry, sequence, true);
                    (self.snapshot_bytes, self.delta_bytes) = (bytes, 0);
                }
                Record::Delta { sequence, edits } => {
                    if sequence != self.sequence + 1 || (!known && sequence != 1) {
                        // What a truncated log begins with, until its snapshot.
                        if !known {
                            skipped = true;
                            continue;
                        }
                        return Err(format!(
                            "the log has entry {sequence} at position {position} where {} was expected",
                            self.sequence + 1
                        ));
                    }
                    for edit in &edits {
                        registry::apply(&mut self.registry, edit).map_err(|refusal| {
                            format!("the edit at position {position} does not apply: {refusal}")
                        })?;
                    }
                    (self.sequence, known) = (sequence, true);
                    self.delta_bytes += bytes;
                }
            }
        }
        if skipped && !known {
            return Err("the log begins in the middle and has no snapshot".to_owned());
        }
        let missing = registry::missing_capabilities(&self.registry);
        if !missing.is_empty() {
            return Err(format!(
                "the registry needs {}, which this program does not know; use the newer program that wrote it",
                missing.join(", ")
            ));
        }
        Ok(())
    }

    fn write_leader(&mut self, now: Now, master: MasterRecord) {
        self.state = State::Serving;
        let edit = Edit::Lead(master);
        self.next = self.registry.clone();
        if let Err(refusal) = registry::apply(&mut self.next, &edit) {
            return self.fail(refusal.to_string());
        }
        self.begin_write(now, vec![edit], Vec::new(), true);
    }

    fn submit(&mut self, now: Now, token: Token, edit: Edit) {
        if self.queue.len() >= self.settings.queue_max {
            let cause = format!("{} edits are waiting already", self.queue.len());
            return self.answer(token, Err(NotApplied::NotTaken(cause)));
        }
        self.queue.push_back((token, edit));
        self.next_write(now);
    }

    fn next_write(&mut self, now: Now) {
        while self.write.is_none() && !self.queue.is_empty() {
            let (mut edits, mut answers) = (Vec::new(), Vec::new());
            let count = self.queue.len().min(self.settings.batch_max);
            for (token, edit) in self.queue.drain(..count) {
                match registry::apply(&mut self.next, &edit) {
                    Ok(changed) => {
                        answers.push((token, Ok(())));
                        if changed {
                            edits.push(edit);
                        }
                    }
                    Err(refusal) => answers.push((token, Err(refusal.into()))),
                }
            }
            if edits.is_empty() {
                // What they say holds already, and is durable.
                answers
                    .into_iter()
                    .for_each(|(token, result)| self.answer(token, result));
                continue;
            }
            self.begin_write(now, edits, answers, false);
        }
    }

    fn begin_write(
        &mut self,
        now: Now,
        edits: Vec<Edit>,
        answers: Vec<(Token, Result<(), NotApplied>)>,
        recovery: bool,
    ) {
        let sequence = self.sequence + 1;
        let snapshot = self.delta_bytes > self.snapshot_bytes.max(self.settings.snapshot_bytes_min);
        let record = if snapshot {
            Record::Snapshot {
                sequence,
                registry: Box::new(self.next.clone()),
            }
        } else {
            Record::Delta {
                sequence,
                edits: edits.clone(),
            }
        };
        let deadline = now + self.settings.store_timeout;
        self.write = Some(Write {
            edits,
            answers,
            snapshot,
            recovery,
            deadline,
        });
        self.wishes.push_back(Wish::Store(record));
    }

    fn stored(&mut self, now: Now, position: Position, bytes: u64) {
        let Some(write) = self.write.take() else { return };
        for edit in &write.edits {
            if let Err(refusal) = registry::apply(&mut self.registry, edit) {
                // It applied to the other registry, which is then not the same: neither is to be trusted.
                let answers = write.answers;
                return self.fail_with(
                    answers,
                    format!("an edit that is durable does not apply: {refusal}"),
                );
            }
        }
        self.sequence += 1;
        if write.snapshot {
            (self.snapshot_bytes, self.delta_bytes) = (bytes, 0);
            self.wishes.push_back(Wish::Truncate(position));
        } else {
            self.delta_bytes += bytes;
        }
        if write.recovery {
            self.recovered = true;
            self.wishes.push_back(Wish::Recovered);
        }
        write
            .answers
            .into_iter()
            .for_each(|(token, result)| self.answer(token, result));
        self.next_write(now);
    }

    fn fail(&mut self, cause: String) {
        let answers = self.write.take().map_or_else(Vec::new, |write| write.answers);
        self.fail_with(answers, cause);
    }

    fn fail_with(&mut self, answers: Vec<(Token, Result<(), NotApplied>)>, cause: String) {
        for (token, _) in answers {
            // A refusal was founded on edits that may not have become durable: nothing is known of it either.
            self.answer(token, Err(NotApplied::Unknown(cause.clone())));
        }
        for (token, _) in std::mem::take(&mut self.queue) {
            self.answer(token, Err(NotApplied::NotTaken(cause.clone())));
        }
        self.wishes.push_back(Wish::Failed(cause.clone()));
        self.state = State::Failed(cause);
    }

    fn answer(&mut self, token: Token, result: Result<(), NotApplied>) {
        self.wishes.push_back(Wish::Answer { token, result });
    }
}
