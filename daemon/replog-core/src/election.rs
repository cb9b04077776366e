//! Becoming the writer: one promise of a quorum for all positions, catching up, taking over what was accepted, and a first
//! entry that settles all that went before.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use model::Millis;

use crate::coordinator::{Coordinator, Stage};
use crate::input::{Answer, NotElected, Refusal, Ticket};
use crate::membership::{Member, Membership, ReplicaId};
use crate::message::{Message, Prepare, Promise};
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::position::{Ballot, Epoch, Position};
use crate::record::{Record, Status};
use crate::value::Value;

const STARTERS_MAX: usize = 64;
/// From outside. An election's number of ZooKeeper's is below; a caller's mistake must not use up all terms for ever.
const OUTSIDE_TERM_MAX: u64 = u64::MAX / 2;

impl Node {
    pub(crate) fn elect(&mut self, ticket: Option<Ticket>, at_least: u64, caretaker: bool) {
        if self.state.status != Status::Voting || !self.state.is_member() {
            let status = self.state.status;
            return ticket
                .into_iter()
                .for_each(|t| self.refuse(t, Refusal::NotVoting { status }));
        }
        if at_least > OUTSIDE_TERM_MAX {
            return ticket
                .into_iter()
                .for_each(|t| self.refuse(t, Refusal::TermTooLarge { at_least }));
        }
        if let Some(coordinator) = &mut self.coordinator {
            coordinator.caretaker &= caretaker;
            let Some(ticket) = ticket else { return };
            if coordinator.is_leading() {
                // It may have been shut out without knowing.
                return self.confirm(ticket, true);
            }
            if coordinator.starters.len() < STARTERS_MAX {
                return coordinator.starters.push(ticket);
            }
            let queued = STARTERS_MAX;
            return self.refuse(ticket, Refusal::Busy { queued });
        }
        let gives_up = Millis(self.now.0 + self.settings.timing.election.0);
        self.campaign(ticket.into_iter().collect(), at_least, caretaker, gives_up);
    }

    /// The members changed while this went on: again, among the new ones.
    pub(crate) fn elect_again(&mut self) {
        let Some(mut old) = self.coordinator.take() else {
            return;
        };
        let starters = std::mem::take(&mut old.starters);
        if self.state.status == Status::Voting && self.state.is_member() {
            self.campaign(starters, 0, old.caretaker, old.gives_up);
        } else {
            for ticket in starters {
                self.answer(ticket, Answer::NotElected(NotElected::Resigned));
            }
        }
    }

    fn campaign(&mut self, starters: Vec<Ticket>, at_least: u64, caretaker: bool, gives_up: Millis) {
        let known = self.state.promised.term.max(self.highest.term);
        let Some(mut term) = known.checked_add(1) else {
            return starters
                .into_iter()
                .for_each(|t| self.refuse(t, Refusal::TermsExhausted));
        };
        let mut replica = self.state.member.replica;
        if self.planted.has(PlantedBug::ReuseTerm) {
            term = known.max(1);
        }
        if self.planted.has(PlantedBug::BallotWithoutReplica) {
            replica = ReplicaId(0);
        }
        let ballot = Ballot {
            term: term.max(at_least),
            replica,
        };
        self.record(Record::Promised(ballot));
        self.highest = self.highest.max(ballot);
        self.coordinator = Some(Coordinator {
            ballot,
            since: self.state.since(),
            stage: Stage::Preparing,
            caretaker,
            starters,
            promises: BTreeMap::new(),
            settle: Position::ZERO,
            peers: BTreeMap::new(),
            flight: VecDeque::new(),
            flight_bytes: 0,
            queue: VecDeque::new(),
            beat: 0,
            confirms: VecDeque::new(),
            changing: None,
            old_members: None,
            next_beat: Millis(self.now.0 + self.settings.timing.heartbeat.0),
            gives_up,
        });
        let own = Message::Promise(Promise {
            ballot,
            begin: self.state.begin,
            learned: self.state.learned,
            accepted: self.state.accepted,
            tail: self.state.tail.iter().cloned().collect(),
        });
        self.say(self.state.member, own);
        self.prepare();
    }

    /// To all who have not promised yet.
    fn prepare(&mut self) {
        let (Some(coordinator), Some(membership)) = (&self.coordinator, self.state.membership.clone()) else {
            return;
        };
        let me = self.state.member;
        let asked: Vec<Member> = membership
            .members
            .iter()
            .copied()
            .filter(|m| *m != me && coordinator.promises.get(&m.replica).map(|(m, _)| m) != Some(m))
            .collect();
        let prepare = Prepare {
            ballot: coordinator.ballot,
            membership,
            caretaker: coordinator.caretaker,
        };
        for member in asked {
            let message = Message::Prepare(prepare.clone());
            if self.planted.has(PlantedBug::PrepareBeforeFlush) {
                self.send(member, message);
            } else {
                // The own promise is durable first: a ballot is never used twice.
                self.say(member, message);
            }
        }
    }

    pub(crate) fn election_tick(&mut self) {
        self.prepare();
        let Some(coordinator) = &self.coordinator else {
            return;
        };
        let told: Vec<(ReplicaId, Position)> = coordinator
            .promises
            .iter()
            .map(|(r, (_, p))| (*r, p.learned))
            .collect();
        for (replica, learned) in told {
            self.note_learned(replica, learned);
        }
        self.election_step();
    }

    pub(crate) fn on_promise(&mut self, from: Member, promise: Promise) {
        let Some(coordinator) = &mut self.coordinator else {
            return;
        };
        if coordinator.ballot != promise.ballot || !coordinator.wants_facts() {
            return;
        }
        let learned = promise.learned;
        coordinator.promises.insert(from.replica, (from, promise));
        self.note_learned(from.replica, learned);
        self.election_step();
    }

    pub(crate) fn on_occupied(&mut self, ballot: Ballot) {
        if self
            .coordinator
            .as_ref()
            .is_some_and(|c| c.ballot == ballot && c.caretaker && c.wants_facts())
        {
            self.heard = Some(self.now);
            self.stop_coordinating(None);
        }
    }

    /// Goes on as soon as a quorum has promised and this replica knows all that is known to be agreed there.
    pub(crate) fn election_step(&mut self) {
        let Some(membership) = self.state.membership.clone() else {
            return;
        };
        let one_less = usize::from(self.planted.has(PlantedBug::PromiseQuorumOneLess));
        let blind = self.planted.has(PlantedBug::ElectedWithoutCatchUp);
        let learned = self.state.learned;
        let Some(coordinator) = &mut self.coordinator else {
            return;
        };
        if !coordinator.wants_facts() {
            return;
        }
        let counts = |(member, _): &&(Member, Promise)| membership.contains(*member);
        if coordinator.promises.values().filter(counts).count() < (membership.quorum() - one_less).max(1) {
            return;
        }
        let known = coordinator.promises.values().map(|(_, p)| p.learned).max();
        if known.is_some_and(|known| known > learned) && !blind {
            coordinator.stage = Stage::CatchingUp;
            return self.pursue();
        }
        self.settle(&membership);
    }

    fn settle(&mut self, membership: &Arc<Membership>) {
        let learned = self.state.learned;
        let mut values = self.inheritance();
        if self.planted.has(PlantedBug::ForgetFill) {
            values.clear();
        }
        // What was accepted behind a change of members is for the new members to tell: that takes another election.
        let change = values.iter().position(|v| matches!(v, Value::Membership(_)));
        match change {
            Some(at) => values.truncate(at + 1),
            // An inherited one serves as well: so elections that fail do not let the tail grow.
            None if values.last() == Some(&Value::Nop) => {}
            None => values.push(Value::Nop),
        }
        let settle = learned.plus(values.len());
        let Some(coordinator) = &mut self.coordinator else {
            return;
        };
        coordinator.stage = Stage::Settling;
        coordinator.settle = settle;
        coordinator.since = membership.since;
        for member in &membership.members {
            coordinator.add_peer(*member, learned.next());
        }
        self.propose(values, true);
        if self.planted.has(PlantedBug::ElectedBeforeSettled) {
            self.lead();
        }
    }

    /// What is accepted behind the agreed prefix: the longest tail of the highest epoch. Every value that was agreed under
    /// any epoch is in the tail of each later one.
    fn inheritance(&self) -> Vec<Value> {
        let Some(coordinator) = &self.coordinator else {
            return Vec::new();
        };
        let learned = self.state.learned;
        let rank = |promise: &Promise| {
            if self.planted.has(PlantedBug::FillByBallotOnly) {
                Epoch {
                    since: Position::ZERO,
                    ballot: promise.accepted.ballot,
                }
            } else {
                promise.accepted
            }
        };
        let promises = || coordinator.promises.values().map(|(_, promise)| promise);
        let highest = if self.planted.has(PlantedBug::FillOldest) {
            promises().map(rank).min()
        } else {
            promises().map(rank).max()
        };
        let of_highest = promises().filter(|promise| Some(rank(promise)) == highest);
        let end = |promise: &&Promise| promise.learned.plus(promise.tail.len());
        let longest = if self.planted.has(PlantedBug::FillShortest) {
            of_highest.min_by_key(end)
        } else {
            of_highest.max_by_key(end)
        };
        longest.map_or_else(Vec::new, |promise| {
            let known = learned.since(promise.learned);
            let values = promise.tail.iter().skip(known).cloned();
            // What was accepted under earlier members and stands behind the present ones' entry was never agreed, and can't be.
            let since = self.state.since();
            let reaches = if promise.accepted.since < since {
                since.since(learned)
            } else {
                usize::MAX
            };
            values.take(reaches).collect()
        })
    }

    /// The known membership changed while a coordinator is at work here.
    pub(crate) fn coordinator_follows(&mut self, membership: &Membership) {
        let Some(coordinator) = &self.coordinator else {
            return;
        };
        if coordinator.since == membership.since {
            return;
        }
        if coordinator.wants_facts() {
            self.elect_again();
        } else {
            self.stop_coordinating(Some(self.state.promised));
        }
    }
}
