//! Reading from the disk, and mending it: bytes that are not as they were written are never served; the value is got from
//! another replica, where it is agreed too, and written anew.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use net::queue::{OneshotSender, oneshot};
use replog_core::{Envelope, Fetched, Input, Member, Message, Position, ReplicaId, Value};

use crate::error::{LogError, StoreError};
use crate::ledger::{Stop, values_of, values_until};
use crate::replica::{Replica, locked};

/// Bytes of values in one answer.
const LOAD_BYTES_MAX: usize = 4 << 20;
/// For one replica that is asked for a value.
const ASK: Duration = Duration::from_secs(1);
/// Rounds over all other replicas before a reader is told that the value is not to be had.
const ROUNDS: u32 = 3;

/// Positions that are being got from others.
#[derive(Default)]
pub struct Mending(RefCell<HashMap<Position, OneshotSender<Fetched>>>);

impl Mending {
    /// Keeps the answer to a question of ours; gives back every other message.
    pub fn take(&self, envelope: Envelope) -> Option<Envelope> {
        if self.0.borrow().is_empty() {
            return Some(envelope);
        }
        let Message::Fetched(fetched) = &envelope.message else {
            return Some(envelope);
        };
        let Some(sender) = self.0.borrow_mut().remove(&fetched.first) else {
            return Some(envelope);
        };
        if let Message::Fetched(fetched) = envelope.message {
            // Whoever asked may have given up.
            let _ = sender.send(*fetched);
        }
        None
    }
}

/// Agreed values and the position that ended them because it is broken.
type Stored = (Vec<Value>, Option<Position>);

/// Peers that are read ahead for.
const AHEAD_MAX: usize = 4;

/// What was read for peers before they asked; the oldest first.
#[derive(Default)]
pub struct ReadAhead(RefCell<VecDeque<Ahead>>);

struct Ahead {
    peer: Member,
    first: Position,
    task: net::Task<Stored>,
}

impl ReadAhead {
    /// What was read for this peer from exactly there.
    fn take(&self, peer: Member, first: Position) -> Option<net::Task<Stored>> {
        let mut all = self.0.borrow_mut();
        let at = all.iter().position(|ahead| ahead.peer == peer)?;
        let ahead = all.remove(at)?;
        (ahead.first == first).then_some(ahead.task)
    }

    fn put(&self, peer: Member, first: Position, task: net::Task<Stored>) {
        let mut all = self.0.borrow_mut();
        all.retain(|ahead| ahead.peer != peer);
        // A peer that went away in the middle never asks for its own.
        while all.len() >= AHEAD_MAX {
            all.pop_front();
        }
        all.push_back(Ahead { peer, first, task });
    }

    /// A replica that has stopped holds nothing, and nothing holds it.
    pub fn clear(&self) {
        self.0.take();
    }
}

impl Replica {
    /// Agreed entries as this replica knows them, `first` being the first of the answer; as many as fit.
    pub async fn read(&self, first: Position, last: Position) -> Result<Vec<Value>, LogError> {
        loop {
            let (mut values, broken) = self.stored(first, last).await?;
            match broken {
                Some(at) if at == first => {
                    if !self.mend(at).await {
                        return Err(LogError::Unreadable(at));
                    }
                    continue;
                }
                // The next call begins there, and then has less to wait for.
                Some(at) => self.mend_later(at),
                None => self.add_from_memory(&mut values, first, last),
            }
            return Ok(values);
        }
    }

    /// That the newest are agreed is not on the disk yet: it rides with the next record.
    fn add_from_memory(&self, values: &mut Vec<Value>, first: Position, last: Position) {
        let node = self.0.node.borrow();
        let state = node.state();
        let mut next = first.plus(values.len());
        while next <= last.min(state.learned) && next >= state.in_memory_from() {
            let Some(value) = state.value(next) else { break };
            values.push(value.clone());
            next = next.next();
        }
    }

    /// Those that the disk says are agreed, and the position that ended them because it is broken.
    async fn stored(&self, first: Position, last: Position) -> Result<Stored, LogError> {
        let ledger = self.0.ledger.clone();
        let read = self
            .0
            .helper
            .run(move || {
                let piece = locked(&ledger).piece(first, last, LOAD_BYTES_MAX);
                // Without the lock: the disk's turn for the writer does not wait for readers.
                values_of(&piece)
            })
            .await;
        read.map_err(|error| LogError::Halted(error.to_string()))
    }

    /// How many values can be read from `first` on, of so many bytes, and what ended them. Nothing of either: `first` is not
    /// marked as agreed on the disk.
    pub(crate) async fn look(
        &self,
        first: Position,
        last: Position,
        bytes_max: usize,
    ) -> Option<(usize, Option<Stop>)> {
        let ledger = self.0.ledger.clone();
        let look = move || {
            let piece = locked(&ledger).piece(first, last, bytes_max);
            let (values, stop) = values_until(&piece);
            if values.is_empty() && stop.is_none() && locked(&ledger).is_agreed(last) {
                return (0, Some(Stop::Missing(first)));
            }
            (values.len(), stop)
        };
        self.0.helper.run(look).await.ok()
    }

    /// For a peer that catches up. With a broken value it gets fewer, and asks another one.
    pub(crate) fn load_for(&self, to: Member, first: Position, last: Position) {
        let replica = self.clone();
        net::spawn(async move {
            let (values, broken) = match replica.0.ahead.take(to, first) {
                Some(task) => task.await.unwrap_or_default(),
                None => replica.stored(first, last).await.unwrap_or_default(),
            };
            if let Some(at) = broken {
                replica.mend_later(at);
            } else {
                replica.read_ahead(to, first.plus(values.len()), last.since(first));
            }
            replica.give(Input::Loaded { to, first, values });
        })
        .detach();
    }

    /// What the peer will ask for next, while the last piece is on its way.
    fn read_ahead(&self, to: Member, first: Position, count: usize) {
        let learned = self.0.node.borrow().state().learned;
        let last = first.plus(count).min(learned);
        if first <= last && count > 0 {
            let replica = self.clone();
            let task = net::spawn(async move { replica.stored(first, last).await.unwrap_or_default() });
            self.0.ahead.put(to, first, task);
        }
    }

    fn mend_later(&self, at: Position) {
        let replica = self.clone();
        net::spawn(async move {
            replica.mend(at).await;
        })
        .detach();
    }

    /// Gets the values from `at` on from another replica and writes those that are broken anew.
    pub(crate) async fn mend(&self, at: Position) -> bool {
        for _ in 0..ROUNDS {
            for peer in self.others() {
                if self.has_halted() {
                    return false;
                }
                let values = self.ask_for(peer, at).await.map(|fetched| fetched.values);
                let Some(values) = values.filter(|values| !values.is_empty()) else {
                    continue;
                };
                match self.write_anew(at, values).await {
                    Ok(count) => {
                        tracing::warn!(
                            "log: {count} values from position {at} on were got from replica {peer} and written anew"
                        );
                        return true;
                    }
                    Err(error) => {
                        tracing::error!("log: position {at} can't be written anew: {error}");
                        return false;
                    }
                }
            }
        }
        false
    }

    /// Where the log of another replica begins, by agreement: nobody needs what is before. The next one is asked with each
    /// `turn`.
    pub(crate) async fn ask_begin(&self, turn: usize) -> Option<Position> {
        let others = self.others();
        let peer = others.get(turn % others.len().max(1)).copied()?;
        // Nobody has that, so the answer has no values.
        let fetched = self.ask_for(peer, Position(u64::MAX)).await;
        fetched.map(|fetched| fetched.begin)
    }

    fn others(&self) -> Vec<ReplicaId> {
        let status = self.status();
        let members = status.membership.iter().flat_map(|known| &known.members);
        members
            .map(|member| member.replica)
            .filter(|id| *id != status.id)
            .collect()
    }

    async fn ask_for(&self, peer: ReplicaId, at: Position) -> Option<Fetched> {
        let waits = self.0.mending.0.borrow().contains_key(&at);
        if waits {
            // Another reader asks already; what it gets is on the disk soon.
            net::sleep(ASK / 4).await;
            return None;
        }
        let (sender, answer) = oneshot();
        self.0.mending.0.borrow_mut().insert(at, sender);
        let from = self.0.node.borrow().member();
        self.0.peers.send(Envelope {
            from,
            to: peer,
            incarnation: None,
            message: Message::Fetch { first: at },
        });
        let fetched = net::timeout(ASK, answer).await;
        self.0.mending.0.borrow_mut().remove(&at);
        fetched.ok().and_then(Result::ok)
    }

    async fn write_anew(&self, at: Position, values: Vec<Value>) -> Result<usize, LogError> {
        let ledger = self.0.ledger.clone();
        let mended = self.0.writer.run(move || locked(&ledger).mend(at, &values)).await;
        match mended {
            Ok(Ok(count)) => Ok(count),
            Ok(Err(error)) => {
                let reason = error.to_string();
                // A full disk takes it later; after any other error nothing is known of what the store holds.
                if !matches!(error, StoreError::Full { .. }) {
                    self.give(Input::PersistFailed {
                        reason: reason.clone(),
                    });
                }
                Err(LogError::Halted(reason))
            }
            Err(error) => Err(LogError::Halted(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_that_never_ask_again_make_room_for_others() {
        net::run(net::Config::default(), async {
            let ahead = ReadAhead::default();
            let peer = |number: u64| Member {
                replica: ReplicaId(number),
                incarnation: replog_core::Incarnation(number),
            };
            let read = || net::spawn(async { Stored::default() });
            for number in 1..=AHEAD_MAX as u64 + 3 {
                ahead.put(peer(number), Position(number), read());
            }
            assert_eq!(ahead.0.borrow().len(), AHEAD_MAX);
            assert!(ahead.take(peer(3), Position(3)).is_none(), "the oldest have gone");
            let last = AHEAD_MAX as u64 + 3;
            assert!(ahead.take(peer(last), Position(last)).is_some());
            assert!(ahead.take(peer(last), Position(last)).is_none(), "once");
            // It asks for something else: what was read for it is of no use.
            assert!(ahead.take(peer(last - 1), Position(1)).is_none());
            ahead.put(peer(last - 2), Position(50), read());
            assert!(ahead.take(peer(last - 2), Position(50)).is_some());
        })
        .unwrap();
    }
}
