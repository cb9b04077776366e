//! From an empty or lost disk to a vote: EMPTY → STARTING → VOTING when there is no log yet, RECOVERING → VOTING when
//! there is one.
//!
//! Initialisation has two phases. A replica that sees all initial members EMPTY or STARTING writes down a *proposal*: the
//! members with their incarnations. One that sees all of them STARTING with its own proposal votes, and so do the others
//! once they hear of that. Proposals carry a generation that only grows, so no two of them can both be seen at all members.
//!
//! A replica that hears of a log follows it, and votes when it has learned a membership that names its disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use model::Millis;

use crate::input::{Halt, Notice};
use crate::membership::{LogId, MEMBERS_MAX, Member, Membership, Proposal, ReplicaId, display_ids};
use crate::message::{Hello, Message};
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::position::{Ballot, Position};
use crate::record::{Record, Status};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Recovery {
    round: u64,
    /// Answers to this round.
    heard: BTreeMap<ReplicaId, (Member, Hello)>,
    pub next: Millis,
    pub attempt: u32,
    /// May initialise.
    pub allowed: bool,
    /// The configured members were found to be the log's.
    confirmed: bool,
}

impl Recovery {
    pub fn new(now: Millis, allowed: bool) -> Self {
        Self {
            round: 0,
            heard: BTreeMap::new(),
            next: now,
            attempt: 0,
            allowed,
            confirmed: false,
        }
    }
}

impl Node {
    pub(crate) fn recovery_tick(&mut self) {
        if self.recovery.next > self.now {
            return;
        }
        let timing = &self.settings.timing;
        let pause = if self.state.status == Status::Voting {
            timing.hello_max
        } else {
            let doubled = timing.hello.0 << self.recovery.attempt.min(16);
            Millis(doubled.min(timing.hello_max.0))
        };
        self.recovery.attempt = self.recovery.attempt.saturating_add(1);
        self.recovery.next = self.after(pause);
        if self.state.status != Status::Voting || !self.hears_coordinator() {
            self.ask_around();
        }
        self.initialise();
    }

    /// A hello to everybody; gives its round.
    pub(crate) fn ask_around(&mut self) -> u64 {
        self.recovery.round += 1;
        self.recovery.heard.clear();
        let round = self.recovery.round;
        let mut to: BTreeSet<ReplicaId> = self.settings.contacts.clone();
        to.extend(self.settings.initial.iter().flatten());
        to.extend(self.state.membership.iter().flat_map(|m| m.ids()));
        to.remove(&self.state.member.replica);
        for peer in to {
            let hello = self.hello(round, false);
            self.say_to(peer, None, hello);
        }
        round
    }

    /// A hello to one; gives its round.
    pub(crate) fn ask_one(&mut self, member: Member) -> u64 {
        self.recovery.round += 1;
        self.recovery.heard.clear();
        let round = self.recovery.round;
        let hello = self.hello(round, false);
        self.say(member, hello);
        round
    }

    fn hello(&self, round: u64, answer: bool) -> Message {
        let me = self.state.member;
        let replaces = self
            .state
            .membership
            .as_ref()
            .and_then(|m| m.member(me.replica))
            .filter(|m| *m != me && self.state.status == Status::Recovering)
            .map(|m| m.incarnation);
        Message::Hello(Box::new(Hello {
            round,
            answer,
            status: self.state.status,
            initial: self.settings.initial.clone().map(Arc::new),
            proposal: self.state.proposal.clone(),
            membership: self.state.membership.clone(),
            learned: self.state.learned,
            hears: self.hears_coordinator(),
            replaces,
        }))
    }

    pub(crate) fn on_hello(&mut self, from: Member, hello: Hello) {
        if let Some(membership) = &hello.membership {
            self.take_over(membership);
            self.note_learned(from.replica, hello.learned);
        }
        self.note_candidate(from, &hello);
        if !hello.answer {
            let answer = self.hello(hello.round, true);
            self.say(from, answer);
        } else if hello.round == self.recovery.round && self.recovery.heard.len() < 4 * MEMBERS_MAX {
            if hello.status == Status::Voting {
                self.note_answer(from, hello.round, hello.learned);
            }
            self.recovery.heard.insert(from.replica, (from, hello));
            self.initialise();
            self.confirm_configuration();
            self.stand_in();
        }
        self.pursue();
    }

    /// The set that the operator named is compared with what a quorum of the members says, once.
    fn confirm_configuration(&mut self) {
        let (Some(initial), Some(membership)) = (&self.settings.initial, &self.state.membership) else {
            return;
        };
        let agreed = membership.ids();
        if self.recovery.confirmed || *initial == agreed || self.state.status == Status::Voting {
            self.recovery.confirmed = true;
            return;
        }
        let heard = self.recovery.heard.values();
        let agreeing = heard.filter(|(member, hello)| {
            hello.status == Status::Voting
                && membership.contains(*member)
                && hello.membership.as_ref().map(|m| m.since) == Some(membership.since)
        });
        if agreeing.count() >= membership.quorum() {
            let halt = Halt::MembersContradict {
                configured: display_ids(initial),
                agreed: display_ids(&agreed),
            };
            self.halt(halt);
        }
    }

    /// What the answers of this round mean for a replica that knows of no log.
    fn initialise(&mut self) {
        if !matches!(self.state.status, Status::Empty | Status::Starting) || !self.recovery.allowed {
            return;
        }
        let Some(initial) = self.settings.initial.clone() else {
            return;
        };
        let me = self.state.member;
        if !initial.contains(&me.replica) {
            return;
        }
        let mut observed = vec![me];
        for replica in initial.iter().filter(|r| **r != me.replica) {
            let Some((member, hello)) = self.recovery.heard.get(replica) else {
                if self.planted.has(PlantedBug::InitialiseByQuorum) {
                    continue;
                }
                return;
            };
            if !matches!(hello.status, Status::Empty | Status::Starting) {
                return;
            }
            if hello.initial.as_deref() != Some(&initial) {
                let peer = *replica;
                return self.notice(Notice::InitialMembersDiffer { peer });
            }
            observed.push(*member);
        }
        if observed.len() < initial.len() / 2 + 1 {
            return;
        }
        observed.sort_unstable();
        if self.planted.has(PlantedBug::InitialiseInOnePhase) || self.all_propose(&observed) {
            return self.vote_first(observed);
        }
        self.propose_members(observed);
    }

    /// Members that said in this round that they hear no coordinator.
    pub(crate) fn in_silence(&self, membership: &Membership) -> usize {
        let heard = self.recovery.heard.values();
        let quiet = heard.filter(|(member, hello)| membership.contains(*member) && !hello.hears);
        quiet.count()
    }

    fn all_propose(&self, observed: &[Member]) -> bool {
        let Some(own) = &self.state.proposal else {
            return false;
        };
        let any = self.planted.has(PlantedBug::InitialiseAnyProposal);
        let others = observed.iter().filter(|m| **m != self.state.member);
        let same = |member: &Member| {
            self.recovery
                .heard
                .get(&member.replica)
                .and_then(|(_, hello)| hello.proposal.as_ref())
                .is_some_and(|theirs| theirs == own || any)
        };
        (own.members == observed || any) && others.into_iter().all(same)
    }

    fn vote_first(&mut self, members: Vec<Member>) {
        let members = match &self.state.proposal {
            Some(own) => own.members.clone(),
            None => members,
        };
        let membership = Arc::new(Membership {
            log: LogId::of(&members),
            since: Position::ZERO,
            ballot: Ballot::default(),
            members,
        });
        self.take_over(&membership);
        // The others wait to hear of it.
        self.recovery.next = self.now;
    }

    fn propose_members(&mut self, observed: Vec<Member>) {
        let own = self.state.proposal.clone();
        let heard = self.recovery.heard.values();
        let highest = heard
            .filter_map(|(_, hello)| hello.proposal.clone())
            .chain(own.clone())
            .max_by_key(|p| p.generation);
        let generation = highest.as_ref().map_or(0, |p| p.generation);
        let own_generation = own.as_ref().map_or(0, |p| p.generation);
        let next = match highest {
            Some(highest) if highest.members == observed && generation > own_generation => highest,
            _ if own.is_some_and(|own| own.members == observed && own.generation == generation)
                && !self.rivals(generation, &observed) =>
            {
                return;
            }
            _ => Arc::new(Proposal {
                generation: generation.saturating_add(1),
                members: observed,
            }),
        };
        self.record(Record::Starting(next));
        self.recovery.next = self.now;
        self.recovery.attempt = 0;
    }

    /// Another proposal of the same generation: one of them has to give way.
    fn rivals(&self, generation: u64, observed: &[Member]) -> bool {
        self.recovery.heard.values().any(|(_, hello)| {
            hello
                .proposal
                .as_ref()
                .is_some_and(|p| p.generation == generation && p.members != observed)
        })
    }
}
