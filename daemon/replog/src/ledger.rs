//! The core's records on the store: a batch of records is one batch of entries and one flush; a start gives back the
//! state that they add up to.
//!
//! Values lie at their positions, flagged when they are agreed; everything else of the state is the meta record.

use std::ops::Range;

use replog_core::{Position, Record, State, Value};

use crate::batch::Entry;
use crate::codec;
use crate::directory::{Directory, File};
use crate::error::StoreError;
use crate::piece::Piece;
use crate::store::{Damage, Options, Recovered, Store};

/// The flag of a value that is agreed.
const AGREED: u8 = 1;
/// Memory of a plan beyond that is not kept for the next one.
const PLAN_KEPT_BYTES: usize = 2 << 20;

/// What a start found.
#[derive(Debug)]
pub struct Found {
    /// `None`: the disk is fresh.
    pub state: Option<State>,
    /// Something that had been durable is gone. The replica must not vote on the strength of the rest.
    pub damaged: bool,
    /// For the operator.
    pub details: Recovered,
}

/// See the module.
pub struct Ledger<D: Directory> {
    store: Store<D>,
    /// What all records so far add up to, durable or on their way.
    state: State,
    /// What found no room, and what came behind it.
    owed: Option<Plan>,
    later: Vec<Record>,
    /// Kept for its memory.
    spent: Plan,
}

impl<D: Directory> Ledger<D> {
    pub fn open(directory: D, options: Options) -> Result<(Self, Found), StoreError> {
        let (store, details) = Store::open(directory, options)?;
        Self::on(store, details)
    }

    fn on(store: Store<D>, details: Recovered) -> Result<(Self, Found), StoreError> {
        let fresh = store.meta().is_empty();
        let mut state = if fresh { State::default() } else { meta(&store)? };
        let whole = restore(&store, &mut state)?;
        let damaged = !details.damage.is_empty() || !whole;
        let found = (!fresh || damaged).then(|| state.clone());
        Ok((
            Self {
                store,
                state,
                owed: None,
                later: Vec::new(),
                spent: Plan::default(),
            },
            Found {
                state: found,
                damaged,
                details,
            },
        ))
    }

    /// Makes the records durable, with one flush if they fit into one batch. After [`StoreError::Full`] those that are not
    /// durable are owed: to be tried again with the next call, which may bring no records of its own. On any other error
    /// nothing is known of them, and nothing more is taken.
    pub fn persist(&mut self, records: &[Record]) -> Result<(), StoreError> {
        if self.owed.is_none() && self.later.is_empty() {
            return self.persist_in_batches(records);
        }
        self.later.extend_from_slice(records);
        if let Some(owed) = self.owed.take() {
            self.write(owed)?;
        }
        let later = std::mem::take(&mut self.later);
        self.persist_in_batches(&later)
    }

    fn persist_in_batches(&mut self, records: &[Record]) -> Result<(), StoreError> {
        let room = self.store.batch_bytes_max() / 2;
        let mut rest = records;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |record: &&Record| {
                bytes += cost(record);
                bytes <= room
            };
            let count = rest.iter().take_while(fits).count();
            if count == 0
                && let [Record::Learned { first, values }, ..] = rest
                && values.len() > 1
            {
                // Each of these is agreed by itself; a writer's entries are accepted whole or not at all.
                let (head, tail) = values.split_at(values.len() / 2);
                let part = |first, values: &[Value]| Record::Learned {
                    first,
                    values: values.to_vec(),
                };
                let mut halves = vec![part(*first, head), part(first.plus(head.len()), tail)];
                halves.extend_from_slice(&rest[1..]);
                return self.persist_in_batches(&halves);
            }
            // One that is larger by itself goes alone.
            let (now, later) = rest.split_at(count.max(1));
            let mut plan = std::mem::take(&mut self.spent);
            plan.clear();
            for record in now {
                plan.add(&self.state, record);
                self.state.apply(record);
            }
            if let Err(error) = self.write(plan) {
                if matches!(error, StoreError::Full { .. }) {
                    self.later = later.to_vec();
                }
                return Err(error);
            }
            rest = later;
        }
        Ok(())
    }

    fn write(&mut self, plan: Plan) -> Result<(), StoreError> {
        let meta = codec::encode_meta(&self.state);
        let mut entries: Vec<Entry<'_>> = plan.entries().collect();
        if meta != self.store.meta() {
            entries.push(Entry::Meta(&meta));
        }
        if self.state.begin.0 > self.store.begin() {
            entries.push(Entry::Begin(self.state.begin.0));
        }
        let written = self.store.append(&entries);
        if let Err(StoreError::Full { .. }) = &written {
            self.owed = Some(plan);
        } else if plan.bytes.capacity() <= PLAN_KEPT_BYTES {
            self.spent = plan;
        }
        written
    }

    /// While records are owed: makes room by what is truncated by agreement, also if that is not among the records that are
    /// durable. `Ok(true)`: there is some.
    pub fn relieve(&mut self, begin: Position) -> Result<bool, StoreError> {
        self.store.relieve(begin.0)
    }

    /// Agreed values from `first` to `last` or as many as weigh `bytes_max`; fewer when some can't be read.
    pub fn load(&self, first: Position, last: Position, bytes_max: usize) -> Vec<Value> {
        self.load_to(first, last, bytes_max).0
    }

    /// [`Ledger::load`], and the position that ended it because its bytes are not as they were written.
    pub fn load_to(
        &self,
        first: Position,
        last: Position,
        bytes_max: usize,
    ) -> (Vec<Value>, Option<Position>) {
        values_of(&self.piece(first, last, bytes_max))
    }

    /// What [`Ledger::load_to`] would read, to be given to [`values_of`] without the ledger.
    pub fn piece(&self, first: Position, last: Position, bytes_max: usize) -> Piece<D::File> {
        self.store.piece(first.0, last.0, AGREED, bytes_max)
    }

    /// Writes agreed values anew where they can't be read. How many that were.
    pub fn mend(&mut self, first: Position, values: &[Value]) -> Result<usize, StoreError> {
        let mut mended = 0;
        for (position, value) in (first.0..).zip(values) {
            let broken = self.store.flags(position) == Some(AGREED)
                && read(&self.store, Position(position)).is_err_and(|error| error.is_rot());
            if broken {
                let bytes = codec::encode_entry(value);
                self.store.append(&[Entry::Value {
                    position,
                    flags: AGREED,
                    bytes: &bytes,
                }])?;
                mended += 1;
            }
        }
        Ok(mended)
    }

    /// Ends damage that a start found: what is left is kept as agreed, and the meta record says who this replica is from
    /// now on. To be called with the records that the core wished after such a start.
    pub fn repair(self, details: &Recovered, records: &[Record]) -> Result<(Self, Found), StoreError> {
        let mut state = self.state;
        for record in records {
            state.apply(record);
        }
        // What lies behind a hole is of no use: a replica's log has none.
        let cut = state.learned.next().0;
        let (store, details) = self
            .store
            .repair(&details.damage, &codec::encode_meta(&state), cut)?;
        Self::on(store, details)
    }

    /// Voids what is from `cut` on, writes the damaged segments anew with what can be read of them, and goes on as `state` says.
    pub(crate) fn cut(self, damage: &[Damage], state: State, cut: Position) -> Result<Self, StoreError> {
        let (store, details) = self.store.repair(damage, &codec::encode_meta(&state), cut.0)?;
        Self::on(store, details).map(|(ledger, _)| ledger)
    }

    /// As the disk says.
    pub(crate) fn is_agreed(&self, position: Position) -> bool {
        self.store.flags(position.0) == Some(AGREED)
    }

    pub(crate) fn is_readable(&self, position: Position) -> bool {
        read(&self.store, position).is_ok()
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn store(&self) -> &Store<D> {
        &self.store
    }

    pub fn store_mut(&mut self) -> &mut Store<D> {
        &mut self.store
    }
}

/// What ended a piece before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Its bytes are not as they were written.
    Rot(Position),
    /// They are, and this program does not understand them.
    Unknown(Position),
    /// There are none, although there are agreed ones behind.
    Missing(Position),
}

/// The values of a piece, and the position that ended it because its bytes are not as they were written.
pub fn values_of<F: File>(piece: &Piece<F>) -> (Vec<Value>, Option<Position>) {
    match values_until(piece) {
        (values, Some(Stop::Rot(at))) => (values, Some(at)),
        (values, _) => (values, None),
    }
}

/// The values of a piece, and what ended it.
pub fn values_until<F: File>(piece: &Piece<F>) -> (Vec<Value>, Option<Stop>) {
    let mut values = Vec::new();
    let mut stop = None;
    piece.read(|at, found| {
        let position = Position(at);
        match found.and_then(|bytes| decoded(position, bytes)) {
            Ok(value) => values.push(value),
            Err(error) => {
                tracing::error!("log: {error}");
                stop = Some(match error.is_rot() {
                    true => Stop::Rot(position),
                    false => Stop::Unknown(position),
                });
                return false;
            }
        }
        true
    });
    (values, stop)
}

/// Checksummed and yet no meta record: written by a program with an error, or a newer one.
fn meta<D: Directory>(store: &Store<D>) -> Result<State, StoreError> {
    codec::decode_meta(store.meta()).map_err(|error| StoreError::BadMeta {
        cause: error.to_string(),
    })
}

fn read<D: Directory>(store: &Store<D>, position: Position) -> Result<Value, StoreError> {
    decoded(position, &store.read(position.0)?)
}

fn decoded(position: Position, bytes: &[u8]) -> Result<Value, StoreError> {
    codec::decode_entry(bytes).map_err(|error| StoreError::BadValue {
        position: position.0,
        cause: error.to_string(),
    })
}

/// About the bytes that a record takes in a batch.
fn cost(record: &Record) -> usize {
    let values: &[Value] = match record {
        Record::Accepted { values, .. } | Record::Learned { values, .. } => values,
        _ => &[],
    };
    64 + values.iter().map(|value| value.weight() + 96).sum::<usize>()
}

/// Fills in what the positions tell. `Ok(false)`: something that has to be there is not.
fn restore<D: Directory>(store: &Store<D>, state: &mut State) -> Result<bool, StoreError> {
    state.begin = state.begin.max(Position(store.begin()));
    let mut next = state.begin;
    for (position, flags) in store.positions() {
        if position != next.0 || flags != AGREED {
            break;
        }
        next = next.next();
    }
    state.learned = next.previous();
    let mut whole = true;
    let agreed_to = state.learned.0;
    for (position, flags) in store.positions().filter(|(position, _)| *position > agreed_to) {
        // Behind a hole, or agreed behind what is not: only damage does that.
        if position != next.0 || flags == AGREED {
            whole = false;
            break;
        }
        match read(store, next) {
            Ok(value) => {
                state.tail_bytes += value.weight();
                state.tail.push_back(value);
            }
            Err(StoreError::Rotten { .. }) => {
                whole = false;
                break;
            }
            Err(error) => return Err(error),
        }
        next = next.next();
    }
    if !whole {
        state.tail.clear();
        state.tail_bytes = 0;
    }
    Ok(whole)
}

/// Entries for records, owning what they need.
#[derive(Default)]
struct Plan {
    steps: Vec<Step>,
    /// The values of all steps.
    bytes: Vec<u8>,
}

enum Step {
    Value {
        position: Position,
        agreed: bool,
        bytes: Range<usize>,
    },
    Agreed {
        from: Position,
        to: Position,
    },
    Cut(Position),
}

impl Plan {
    fn clear(&mut self) {
        self.steps.clear();
        self.bytes.clear();
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.steps.iter().map(|step| match step {
            Step::Value {
                position,
                agreed,
                bytes,
            } => Entry::Value {
                position: position.0,
                flags: if *agreed { AGREED } else { 0 },
                bytes: &self.bytes[bytes.clone()],
            },
            Step::Agreed { from, to } => Entry::Mark {
                from: from.0,
                to: to.next().0,
                flags: AGREED,
            },
            Step::Cut(position) => Entry::Cut(position.0),
        })
    }

    /// What `record` changes, on top of `state`. Follows [`State::apply`].
    fn add(&mut self, state: &State, record: &Record) {
        match record {
            Record::Accepted {
                first,
                values,
                replaces,
                committed,
                ..
            } => {
                let mut end = state.end();
                if *replaces {
                    end = first.previous().max(state.learned).min(end);
                    self.steps.push(Step::Cut(end.next()));
                }
                let skip = end.next().since(*first);
                for value in values.iter().skip(skip) {
                    end = end.next();
                    self.value(end, false, value);
                }
                self.agreed(state.learned, (*committed).min(end));
            }
            Record::Committed(to) => self.agreed(state.learned, (*to).min(state.end())),
            Record::Learned { first, values } => {
                let skip = state.learned.next().since(*first);
                let mut position = state.learned;
                for value in values.iter().skip(skip) {
                    position = position.next();
                    self.value(position, true, value);
                }
            }
            // The tail is void; agreed values stay.
            Record::Reborn(_) => self.steps.push(Step::Cut(state.learned.next())),
            // In the meta record, or the store's own begin.
            Record::Identity(_)
            | Record::Starting(_)
            | Record::Status(_)
            | Record::Membership(_)
            | Record::Promised(_)
            | Record::Begin(_) => {}
        }
    }

    fn value(&mut self, position: Position, agreed: bool, value: &Value) {
        let from = self.bytes.len();
        codec::encode_entry_into(value, &mut self.bytes);
        self.steps.push(Step::Value {
            position,
            agreed,
            bytes: from..self.bytes.len(),
        });
    }

    fn agreed(&mut self, learned: Position, to: Position) {
        if to > learned {
            self.steps.push(Step::Agreed {
                from: learned.next(),
                to,
            });
        }
    }
}
