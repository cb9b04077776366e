//! Learning what others know to be agreed. What one peer has learned is a fact: no quorum is needed to take it over; a
//! quorum is needed only to know how far there is to go.

use std::collections::{BTreeMap, BTreeSet};

use model::Millis;

use crate::input::{Answer, Refusal, Ticket, Wish, earliest};
use crate::membership::{MEMBERS_MAX, Member, ReplicaId};
use crate::message::{Fetched, Message};
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::position::Position;
use crate::record::{Record, Status};
use crate::replica::fitting;
use crate::value::Value;

const PEERS_MAX: usize = 4 * MEMBERS_MAX;
const WAITERS_MAX: usize = 64;
/// Pieces that were learned and are not durable while the next one is asked for: what a slow disk leaves in memory.
const BEHIND_MAX: u64 = 2;
/// Messages' worth of entries in one piece that comes from a disk.
const PIECE_BATCHES: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Catchup {
    /// How far peers say they have learned.
    peers: BTreeMap<ReplicaId, Position>,
    fetch: Option<Fetch>,
    /// Whom the last piece was asked of: the next goes to another when that one fails.
    last: ReplicaId,
    waiters: Vec<Waiter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Fetch {
    of: ReplicaId,
    first: Position,
    deadline: Millis,
}

/// A reader that wants all that is agreed by now.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Waiter {
    ticket: Ticket,
    round: u64,
    answered: BTreeSet<Member>,
    target: Position,
    deadline: Millis,
}

impl Catchup {
    pub fn deadline(&self) -> Option<Millis> {
        let waiting = self.waiters.iter().map(|w| w.deadline).min();
        earliest([self.fetch.as_ref().map(|f| f.deadline), waiting])
    }

    pub fn held(&self) -> usize {
        self.peers.len() + self.waiters.len()
    }
}

impl Node {
    pub(crate) fn note_learned(&mut self, peer: ReplicaId, learned: Position) {
        let peers = &mut self.catchup.peers;
        if peer != self.state.member.replica && (peers.len() < PEERS_MAX || peers.contains_key(&peer)) {
            let known = peers.entry(peer).or_default();
            *known = (*known).max(learned);
        }
    }

    /// Asks for the next piece when somebody has it and none is on its way.
    pub(crate) fn pursue(&mut self) {
        self.pursue_at(false);
    }

    /// `once`: without waiting for the disk, as far as it is not far behind.
    fn pursue_at(&mut self, once: bool) {
        let settled = self.coordinator.as_ref().is_some_and(|c| !c.wants_facts());
        if self.catchup.fetch.is_some() || settled {
            return;
        }
        let learned = self.state.learned;
        let ahead = |(peer, at): (&ReplicaId, &Position)| (*at > learned).then_some(*peer);
        let last = self.catchup.last;
        let mut sources = self.catchup.peers.iter().filter_map(ahead);
        let first = sources.next();
        let Some(of) = self
            .catchup
            .peers
            .range(last..)
            .filter_map(ahead)
            .next()
            .or(first)
        else {
            return;
        };
        let deadline = self.after(self.settings.timing.fetch);
        self.catchup.last = of;
        let first = learned.next();
        self.catchup.fetch = Some(Fetch { of, first, deadline });
        let fetch = Message::Fetch { first };
        if once && self.outbox.behind() <= BEHIND_MAX {
            // It tells nothing that a crash could make untrue (this disk has asked before): the next piece is on its way while
            // the last one is flushed.
            self.send_to(of, fetch);
        } else {
            self.say_to(of, None, fetch);
        }
    }

    pub(crate) fn catchup_tick(&mut self) {
        let now = self.now;
        if let Some(fetch) = self.catchup.fetch.take_if(|f| f.deadline <= now) {
            // It may be gone for good, and so may what it said.
            self.catchup.peers.remove(&fetch.of);
            self.catchup.last = ReplicaId(fetch.of.0.wrapping_add(1));
            self.pursue();
        }
        let late: Vec<Ticket> = self
            .catchup
            .waiters
            .extract_if(.., |w| w.deadline <= now)
            .map(|w| w.ticket)
            .collect();
        for ticket in late {
            self.refuse(ticket, Refusal::NoQuorum);
        }
    }

    // ---- the one that is asked

    pub(crate) fn on_fetch(&mut self, from: Member, first: Position) {
        let mut last = self.state.learned;
        if self.planted.has(PlantedBug::ServeUnlearned) {
            last = self.state.end();
        }
        if first > last || first < self.state.begin {
            return self.hand_over(from, first, Vec::new());
        }
        let last = last.min(first.plus(self.settings.bounds.batch * PIECE_BATCHES).previous());
        if first < self.state.in_memory_from() {
            return self.wish_load(from, first, last);
        }
        let values = || (first.0..=last.0).filter_map(|at| self.state.value(Position(at)));
        let count = fitting(values(), self.settings.bounds.batch_bytes);
        let values = values().take(count).cloned().collect();
        self.hand_over(from, first, values);
    }

    fn wish_load(&mut self, to: Member, first: Position, last: Position) {
        let last = last.min(self.state.learned);
        self.wish(Wish::Load { to, first, last });
    }

    pub(crate) fn loaded(&mut self, to: Member, first: Position, values: Vec<Value>) {
        // Only what is agreed is handed on, whatever the store gave.
        let agreed = self.state.learned.next().since(first).min(values.len());
        self.hand_over(to, first, values.into_iter().take(agreed).collect());
    }

    fn hand_over(&mut self, to: Member, first: Position, values: Vec<Value>) {
        let fetched = Fetched {
            first,
            values,
            begin: self.state.begin,
            learned: self.state.learned,
            membership: self.state.membership.clone(),
        };
        self.say(to, Message::Fetched(Box::new(fetched)));
    }

    // ---- the one that asked

    pub(crate) fn on_fetched(&mut self, from: Member, fetched: Fetched) {
        // One answer asks for one more piece, however often the network repeats it.
        let asked = |f: &mut Fetch| f.of == from.replica && f.first == fetched.first;
        self.catchup.fetch.take_if(asked);
        if let Some(membership) = &fetched.membership {
            self.take_over(membership);
        }
        if self.coordinator.as_ref().is_some_and(|c| !c.wants_facts()) || self.state.membership.is_none() {
            return;
        }
        // What it said before may have been lost with its disk.
        self.catchup.peers.remove(&from.replica);
        self.note_learned(from.replica, fetched.learned);
        let before = self.state.learned;
        if fetched.begin > self.state.learned.next() {
            self.record(Record::Begin(fetched.begin));
        }
        let mut next = self.state.learned.next();
        if self.planted.has(PlantedBug::FetchSkips) && fetched.values.len() > 2 {
            next = next.next();
        }
        let known = next.since(fetched.first);
        if fetched.first <= next && fetched.values.len() > known {
            let values = fetched.values.into_iter().skip(known).collect();
            let first = self.state.learned.next();
            self.record(Record::Learned { first, values });
        } else if fetched.learned > self.state.learned && fetched.values.is_empty() {
            // Could not read it: another one may.
            self.catchup.last = ReplicaId(from.replica.0.wrapping_add(1));
        }
        if self.planted.has(PlantedBug::VoteAfterOnePeer)
            && self.state.status == Status::Recovering
            && self.state.learned >= fetched.learned
        {
            self.set_status(Status::Voting);
        }
        self.learned_more();
        self.pursue_at(true);
        let at_the_end = self.state.learned > before && self.catchup.fetch.is_none();
        if self.state.status == Status::Recovering && at_the_end {
            // Who lets it in goes by what it last told, and a busy writer is soon far ahead of that.
            let soon = Millis(self.now.0 + self.settings.timing.hello.0 / 4);
            self.recovery.next = self.recovery.next.min(soon);
        }
    }

    /// After the agreed prefix grew by what others told.
    fn learned_more(&mut self) {
        self.follow_membership();
        self.election_step();
        self.settle_catch_ups();
    }

    // ---- a reader on this replica

    pub(crate) fn catch_up(&mut self, ticket: Ticket) {
        if self.catchup.waiters.len() >= WAITERS_MAX {
            let queued = self.catchup.waiters.len();
            return self.refuse(ticket, Refusal::Busy { queued });
        }
        let round = self.ask_around();
        self.catchup.waiters.push(Waiter {
            ticket,
            round,
            answered: BTreeSet::from([self.state.member]),
            target: self.state.learned,
            deadline: Millis(self.now.0 + self.settings.timing.patience.0),
        });
        self.settle_catch_ups();
    }

    /// A voting peer told how far it is.
    pub(crate) fn note_answer(&mut self, from: Member, round: u64, learned: Position) {
        for waiter in &mut self.catchup.waiters {
            if round >= waiter.round {
                waiter.answered.insert(from);
                waiter.target = waiter.target.max(learned);
            }
        }
        self.settle_catch_ups();
    }

    pub(crate) fn settle_catch_ups(&mut self) {
        let Some(membership) = self.state.membership.clone() else {
            return;
        };
        let learned = self.state.learned;
        let quorum = membership.quorum();
        let done = |w: &Waiter| {
            let answered = w.answered.iter().filter(|m| membership.contains(**m)).count();
            answered >= quorum && learned >= w.target
        };
        let tickets: Vec<Ticket> = self
            .catchup
            .waiters
            .extract_if(.., |w| done(w))
            .map(|w| w.ticket)
            .collect();
        for ticket in tickets {
            self.answer(ticket, Answer::CaughtUp { end: learned });
        }
    }

    pub(crate) fn end_catch_ups(&mut self) {
        for waiter in std::mem::take(&mut self.catchup.waiters) {
            self.refuse(waiter.ticket, Refusal::NoQuorum);
        }
    }
}
