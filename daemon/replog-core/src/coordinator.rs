//! The exclusive writer: what it knows of its peers, how entries reach them and when they are agreed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use model::Millis;

use crate::change::Changing;
use crate::input::{Answer, NotElected, Notice, Refusal, Ticket};
use crate::membership::{Member, Membership, ReplicaId};
use crate::message::{Message, Promise, Write, Written};
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::position::{Ballot, Position};
use crate::record::Record;
use crate::replica::fitting;
use crate::value::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// Collects promises.
    Preparing,
    /// Learns what its quorum knows to be agreed.
    CatchingUp,
    /// Has its inheritance and first entry accepted.
    Settling,
    Leading,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Peer {
    pub member: Member,
    /// To be sent next.
    pub next: Position,
    /// Accepted or agreed, and durable, up to here.
    pub matched: Position,
    pub learned: Position,
    pub adopted: bool,
    pub beat: u64,
    /// `matched` at the last heartbeat.
    seen: Position,
    rewound: Millis,
}

/// Somebody waits for this position.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Flight {
    pub at: Position,
    pub ticket: Ticket,
    pub truncates: bool,
    pub weight: usize,
}

/// Somebody wants to know whether this is still the writer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Confirm {
    pub ticket: Ticket,
    /// Has to come back from a quorum.
    pub beat: u64,
    pub end: Position,
    /// Asked to be elected, which it was already.
    pub elects: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Coordinator {
    pub ballot: Ballot,
    /// The membership that it works under.
    pub since: Position,
    pub stage: Stage,
    /// Stands in to admit a replica; nobody asked it to write.
    pub caretaker: bool,
    pub starters: Vec<Ticket>,
    pub promises: BTreeMap<ReplicaId, (Member, Promise)>,
    pub settle: Position,
    pub peers: BTreeMap<ReplicaId, Peer>,
    pub flight: VecDeque<Flight>,
    pub flight_bytes: usize,
    pub queue: VecDeque<(Ticket, Value)>,
    pub beat: u64,
    pub confirms: VecDeque<Confirm>,
    pub changing: Option<Changing>,
    pub old_members: Option<Arc<Membership>>,
    pub next_beat: Millis,
    pub gives_up: Millis,
}

impl Coordinator {
    pub fn is_leading(&self) -> bool {
        self.stage == Stage::Leading
    }

    pub fn wants_facts(&self) -> bool {
        matches!(self.stage, Stage::Preparing | Stage::CatchingUp)
    }

    pub fn deadline(&self) -> Millis {
        self.next_beat
    }

    pub fn held(&self) -> usize {
        self.promises.len() + self.flight.len() + self.queue.len() + self.confirms.len() + self.starters.len()
    }

    pub fn add_peer(&mut self, member: Member, next: Position) {
        self.peers.insert(
            member.replica,
            Peer {
                member,
                next,
                matched: Position::ZERO,
                learned: Position::ZERO,
                adopted: false,
                beat: 0,
                seen: Position::ZERO,
                rewound: Millis(0),
            },
        );
    }
}

impl Node {
    // ---- sending

    /// Puts values behind the end: into the own log and on their way to all others.
    pub(crate) fn propose(&mut self, values: Vec<Value>, replaces: bool) {
        let Some(coordinator) = &self.coordinator else {
            return;
        };
        let epoch = crate::position::Epoch {
            since: coordinator.since,
            ballot: coordinator.ballot,
        };
        let learned = self.state.learned;
        let first = if replaces {
            learned.next()
        } else {
            self.state.end().next()
        };
        self.record(Record::Accepted {
            epoch,
            first,
            values,
            replaces,
            committed: learned,
        });
        self.vote_for_self();
        self.feed_all();
    }

    /// The own vote counts like any other: when it is durable.
    pub(crate) fn vote_for_self(&mut self) {
        let Some(coordinator) = &self.coordinator else {
            return;
        };
        let written = Message::Written(Written {
            ballot: coordinator.ballot,
            matched: self.state.end(),
            learned: self.outbox.marked(self.state.learned),
            adopted: self.state.accepted.ballot == coordinator.ballot,
            beat: coordinator.beat,
            gap: false,
        });
        self.say(self.state.member, written);
    }

    pub(crate) fn feed_all(&mut self) {
        let Some(coordinator) = &self.coordinator else {
            return;
        };
        for replica in coordinator.peers.keys().copied().collect::<Vec<_>>() {
            self.feed(replica);
        }
    }

    /// Sends what this peer has not been sent, as far as it may be ahead of what it acknowledged.
    fn feed(&mut self, replica: ReplicaId) {
        let bounds = &self.settings.bounds;
        let (batch, bytes, ahead) = (
            bounds.batch.max(1),
            bounds.batch_bytes,
            bounds.window.saturating_mul(2),
        );
        let (end, available) = (self.state.end(), self.state.in_memory_from());
        let pieces = self.planted.has(PlantedBug::AdoptInPieces);
        loop {
            let Some(coordinator) = &mut self.coordinator else {
                return;
            };
            let settle = coordinator.settle;
            let Some(peer) = coordinator.peers.get_mut(&replica) else {
                return;
            };
            let first = peer.next;
            let sent = first.previous().since(peer.matched.max(available.previous()));
            if peer.member == self.state.member || first > end || first < available || sent >= ahead {
                return;
            }
            let whole = if pieces { 0 } else { settle.next().since(first) };
            let count = end.next().since(first).min(batch.max(whole));
            let state = &self.state;
            let values = || (first.0..first.0 + count as u64).filter_map(|at| state.value(Position(at)));
            let count = fitting(values(), bytes).max(whole.min(count));
            let values: Vec<Value> = values().take(count).cloned().collect();
            peer.next = first.plus(values.len().max(1));
            let to = peer.member;
            self.send_write(to, first, values, false);
        }
    }

    fn send_write(&mut self, to: Member, first: Position, values: Vec<Value>, urgent: bool) {
        let Some(coordinator) = &self.coordinator else {
            return;
        };
        let Some(membership) = self.state.membership.clone() else {
            return;
        };
        let write = Message::Write(Write {
            ballot: coordinator.ballot,
            membership,
            settle: coordinator.settle,
            first,
            values,
            committed: self.state.learned,
            beat: coordinator.beat,
            urgent,
        });
        self.send(to, write);
    }

    /// Only to be heard.
    pub(crate) fn beat_all(&mut self, urgent: bool) {
        let Some(coordinator) = &self.coordinator else {
            return;
        };
        let peers: Vec<Member> = coordinator.peers.values().map(|p| p.member).collect();
        let next = self.state.end().next();
        for member in peers {
            if member != self.state.member {
                self.send_write(member, next, Vec::new(), urgent);
            }
        }
        if urgent {
            self.outbox.flush_mark();
            self.vote_for_self();
        }
    }

    pub(crate) fn coordinator_tick(&mut self) {
        let now = self.now;
        let heartbeat = self.settings.timing.heartbeat;
        let Some(coordinator) = &mut self.coordinator else {
            return;
        };
        if coordinator.next_beat > now {
            return;
        }
        coordinator.next_beat = Millis(now.0 + heartbeat.0);
        if !coordinator.is_leading() && coordinator.gives_up <= now {
            return self.end_coordinator(None, NotElected::NoQuorum);
        }
        if coordinator.wants_facts() {
            return self.election_tick();
        }
        let available = self.state.in_memory_from();
        let end = self.state.end();
        let mut stuck = Vec::new();
        for peer in coordinator.peers.values_mut() {
            if peer.matched < end && peer.matched == peer.seen && peer.matched.next() >= available {
                peer.next = peer.matched.next();
                stuck.push(peer.member.replica);
            }
            peer.seen = peer.matched;
        }
        let urgent = coordinator.changing.is_some();
        for replica in stuck {
            self.feed(replica);
        }
        self.beat_all(urgent);
        self.change_tick();
        self.end_standing_in();
    }

    // ---- hearing

    pub(crate) fn on_written(&mut self, from: Member, written: &Written) {
        let now = self.now;
        let pause = self.settings.timing.heartbeat.0 / 8;
        let end = self.state.end();
        let Some(coordinator) = &mut self.coordinator else {
            return;
        };
        if coordinator.ballot != written.ballot || coordinator.wants_facts() {
            return;
        }
        let Some(peer) = coordinator.peers.get_mut(&from.replica) else {
            return;
        };
        if peer.member != from {
            return;
        }
        peer.matched = peer.matched.max(written.matched.min(end));
        peer.learned = peer.learned.max(written.learned);
        peer.adopted |= written.adopted;
        peer.beat = peer.beat.max(written.beat);
        peer.next = peer.next.max(peer.matched.next());
        if written.gap && peer.matched < end && peer.rewound.0 + pause <= now.0 {
            peer.rewound = now;
            peer.next = peer.matched.next();
        }
        self.advance();
        self.try_to_lead();
        self.feed(from.replica);
        self.settle_confirms();
        self.change_step();
    }

    /// What a quorum has accepted is agreed.
    fn advance(&mut self) {
        let Some(coordinator) = &self.coordinator else {
            return;
        };
        let Some(mut membership) = self.state.membership.clone() else {
            return;
        };
        if self.planted.has(PlantedBug::QuorumOfOldMembers)
            && let Some(old) = &coordinator.old_members
        {
            membership = Arc::clone(old);
        }
        if self.planted.has(PlantedBug::ChangeCountsAtOnce)
            && let Some(proposed) = self.state.tail.iter().find_map(|v| match v {
                Value::Membership(m) => Some(Arc::clone(m)),
                _ => None,
            })
        {
            membership = proposed;
        }
        let matched = |member: &Member| {
            coordinator
                .peers
                .get(&member.replica)
                .map_or(Position::ZERO, |p| p.matched)
        };
        let mut all: Vec<Position> = membership.members.iter().map(matched).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        let mut quorum = membership.quorum();
        if self.planted.has(PlantedBug::QuorumOneLess) {
            quorum = (quorum - 1).max(1);
        }
        let Some(agreed) = all.get(quorum - 1).copied() else {
            return;
        };
        let mut agreed = agreed.min(self.state.end());
        if self.planted.has(PlantedBug::AnswerBeforeQuorum) && coordinator.is_leading() {
            agreed = agreed.max(matched(&self.state.member));
        }
        if agreed > self.state.learned {
            self.commit(agreed);
            self.agreed_by_own_hand();
        }
    }

    fn agreed_by_own_hand(&mut self) {
        let (learned, since) = (self.state.learned, self.state.since());
        let Some(coordinator) = &mut self.coordinator else {
            return;
        };
        let mut answers = Vec::new();
        while coordinator.flight.front().is_some_and(|f| f.at <= learned)
            && let Some(flight) = coordinator.flight.pop_front()
        {
            coordinator.flight_bytes = coordinator.flight_bytes.saturating_sub(flight.weight);
            let position = flight.at;
            let answer = if flight.truncates {
                Answer::Truncated { position }
            } else {
                Answer::Appended { position }
            };
            answers.push((flight.ticket, answer));
        }
        let settled = coordinator.stage == Stage::Settling && learned >= coordinator.settle;
        let members_changed = since != coordinator.since;
        for (ticket, answer) in answers {
            self.answer(ticket, answer);
        }
        if settled && members_changed {
            // The inheritance ended with a change of members: what lies behind it is known to the new ones only.
            return self.elect_again();
        }
        if members_changed {
            self.members_agreed();
        }
        self.settle_catch_ups();
        self.pump();
    }

    /// What was inherited is agreed, and a quorum has taken it over: no older entry can come back. That the first entry is
    /// agreed is not enough: it may have been so before, under another hand.
    fn try_to_lead(&mut self) {
        let (Some(coordinator), Some(membership)) = (&self.coordinator, &self.state.membership) else {
            return;
        };
        let adopted = |m: &&Member| coordinator.peers.get(&m.replica).is_some_and(|p| p.adopted);
        let count = membership.members.iter().filter(adopted).count();
        if coordinator.stage == Stage::Settling
            && coordinator.since == membership.since
            && self.state.learned >= coordinator.settle
            && (count >= membership.quorum() || self.planted.has(PlantedBug::LeadWithoutAdoption))
        {
            self.lead();
        }
    }

    pub(crate) fn lead(&mut self) {
        let position = self.state.learned;
        let Some(coordinator) = &mut self.coordinator else {
            return;
        };
        coordinator.stage = Stage::Leading;
        coordinator.promises.clear();
        let ballot = coordinator.ballot;
        for ticket in std::mem::take(&mut coordinator.starters) {
            self.answer(ticket, Answer::Elected { position, ballot });
        }
    }

    pub(crate) fn on_rejected(&mut self, ballot: Ballot, promised: Ballot) {
        self.highest = self.highest.max(promised);
        if self.coordinator.as_ref().is_none_or(|c| c.ballot != ballot) || promised <= ballot {
            return;
        }
        if self.planted.has(PlantedBug::StayAfterRejection) {
            return;
        }
        if self.planted.has(PlantedBug::TakeOverRivalBallot) {
            if let Some(coordinator) = &mut self.coordinator {
                coordinator.ballot = promised;
                self.state.promised = self.state.promised.max(promised);
                self.state.accepted.ballot = promised;
            }
            return;
        }
        self.stop_coordinating(Some(promised));
    }

    // ---- the end

    /// `by`: the ballot that shut this one out.
    pub(crate) fn stop_coordinating(&mut self, by: Option<Ballot>) {
        let why = by.map_or(NotElected::Resigned, |promised| NotElected::Outbid { promised });
        self.end_coordinator(by, why);
    }

    fn end_coordinator(&mut self, by: Option<Ballot>, why: NotElected) {
        let Some(coordinator) = self.coordinator.take() else {
            return;
        };
        if let (Some(by), true) = (by, coordinator.is_leading()) {
            self.notice(Notice::Demoted { by });
        }
        for ticket in coordinator.starters {
            self.answer(ticket, Answer::NotElected(why.clone()));
        }
        for flight in coordinator.flight {
            if self.planted.has(PlantedBug::CallLostRefused) {
                self.refuse(flight.ticket, Refusal::NotWriter);
            } else {
                self.answer(flight.ticket, Answer::Lost { higher: by });
            }
        }
        // These were never proposed.
        for (ticket, _) in coordinator.queue {
            self.refuse(ticket, Refusal::NotWriter);
        }
        for confirm in coordinator.confirms {
            if confirm.elects {
                self.answer(confirm.ticket, Answer::NotElected(why.clone()));
            } else {
                self.refuse(confirm.ticket, Refusal::NotWriter);
            }
        }
        if let Some(changing) = coordinator.changing {
            self.change_lost(changing, by);
        }
    }

    pub(crate) fn resign(&mut self) {
        self.stop_coordinating(None);
    }

    fn end_standing_in(&mut self) {
        let done = self
            .coordinator
            .as_ref()
            .is_some_and(|c| c.caretaker && c.is_leading() && c.changing.is_none());
        if done && self.to_readmit_within(usize::MAX).is_none() {
            self.stop_coordinating(None);
        }
    }
}
