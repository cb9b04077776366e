//! Changing the members, one change at a time.
//!
//! A change waits until its newcomer is close behind; then appends pause until all in front of it is agreed and durable at
//! a quorum of the *new* members; then it is proposed as an entry that the *old* members agree on; it is done when a quorum
//! of the new members knows it to be agreed. Only then may a removed replica be turned off, and only then the next begins.

use std::sync::Arc;

use model::Millis;

use crate::input::{Answer, Change, Notice, Refusal, Ticket};
use crate::membership::{MEMBERS_MAX, Member, Membership, ReplicaId};
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::position::{Ballot, Position};
use crate::value::Value;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Changing {
    /// `None`: a lost disk is replaced, nobody asked.
    ticket: Option<Ticket>,
    out: Option<ReplicaId>,
    put: Option<Put>,
    stage: Stage,
    deadline: Millis,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Put {
    /// Whatever disk it has when it asks.
    Replica(ReplicaId),
    Disk(Member),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    /// Appends pause until `barrier`; when it passes in vain, they go on and a new attempt is made after `pause`.
    /// Only what was written back with `beat` counts: what a replica had once says nothing of its disk now.
    Waiting {
        barrier: Option<Millis>,
        fresh: Fresh,
        pause: Millis,
    },
    Proposed,
    Completing {
        at: Position,
    },
}

/// What has to come back: beats from members, rounds of hellos from newcomers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Fresh {
    beat: u64,
    round: u64,
}

impl Fresh {
    const ANY: Self = Self { beat: 0, round: 0 };
    const NEVER: Self = Self {
        beat: u64::MAX,
        round: u64::MAX,
    };
}

impl Node {
    pub(crate) fn change(&mut self, ticket: Ticket, change: Change) {
        let Some(membership) = self.state.membership.clone() else {
            return self.refuse(ticket, Refusal::NotWriter);
        };
        let Some(coordinator) = self.coordinator.as_ref().filter(|c| c.is_leading()) else {
            return self.refuse(ticket, Refusal::NotWriter);
        };
        if self.planted.has(PlantedBug::TwoChangesAtOnce)
            && matches!(&coordinator.changing, Some(c) if c.stage == Stage::Proposed)
        {
            if let Change::Remove(replica) = change {
                self.propose_members_entry(membership.changed(Some(replica), None));
            }
            return self.refuse(ticket, Refusal::ChangeUnderWay);
        }
        if coordinator.changing.is_some() {
            return self.refuse(ticket, Refusal::ChangeUnderWay);
        }
        let (mut out, put) = match change {
            Change::Add(replica) => (None, Some(replica)),
            Change::Remove(replica) => (Some(replica), None),
            Change::Replace { out, by } => (Some(out), Some(by)),
        };
        if let Err(refusal) = self.allowed(&membership, out, put) {
            return self.refuse(ticket, refusal);
        }
        if self.planted.has(PlantedBug::ChangeTwoMembers) && put.is_some() && membership.members.len() > 1 {
            let me = self.state.member.replica;
            out = out.or_else(|| membership.ids().into_iter().find(|r| *r != me));
        }
        self.begin_change(Some(ticket), out, put.map(Put::Replica));
    }

    fn allowed(
        &self,
        membership: &Membership,
        out: Option<ReplicaId>,
        put: Option<ReplicaId>,
    ) -> Result<(), Refusal> {
        if let Some(replica) = out.filter(|r| membership.member(*r).is_none()) {
            return Err(Refusal::NotMember { replica });
        }
        if let Some(replica) = put.filter(|r| membership.member(*r).is_some()) {
            return Err(Refusal::AlreadyMember { replica });
        }
        if let Some(replica) = out.filter(|r| *r == self.state.member.replica) {
            return Err(Refusal::RemovesWriter { replica });
        }
        let count = membership.members.len() + usize::from(put.is_some()) - usize::from(out.is_some());
        if (1..=MEMBERS_MAX).contains(&count) {
            Ok(())
        } else {
            Err(Refusal::MemberCount)
        }
    }

    fn begin_change(&mut self, ticket: Option<Ticket>, out: Option<ReplicaId>, put: Option<Put>) {
        let deadline = Millis(self.now.0 + self.settings.timing.patience.0);
        let stage = Stage::Waiting {
            barrier: None,
            fresh: Fresh::NEVER,
            pause: self.now,
        };
        if let Some(coordinator) = &mut self.coordinator {
            coordinator.changing = Some(Changing {
                ticket,
                out,
                put,
                stage,
                deadline,
            });
        }
        self.change_step();
    }

    /// Appends wait.
    pub(crate) fn changing_bars(&self) -> bool {
        let stage = self
            .coordinator
            .as_ref()
            .and_then(|c| c.changing.as_ref())
            .map(|c| c.stage);
        match stage {
            Some(Stage::Waiting { barrier, .. }) => barrier.is_some(),
            Some(Stage::Proposed) => true,
            Some(Stage::Completing { .. }) | None => false,
        }
    }

    pub(crate) fn change_step(&mut self) {
        let Some(coordinator) = self.coordinator.as_ref().filter(|c| c.is_leading()) else {
            return;
        };
        let Some(changing) = coordinator.changing.clone() else {
            if let Some(member) = self.to_readmit() {
                self.begin_change(None, Some(member.replica), Some(Put::Disk(member)));
            } else {
                self.admit_uninvited();
            }
            return;
        };
        match changing.stage {
            Stage::Waiting {
                barrier,
                fresh,
                pause,
            } => {
                if pause <= self.now {
                    self.try_change(&changing, barrier.is_some(), fresh);
                }
            }
            Stage::Proposed => {}
            Stage::Completing { at } => self.try_complete(at),
        }
    }

    fn admit_uninvited(&mut self) {
        let (true, Some(membership)) = (
            self.planted.has(PlantedBug::FourthReplicaVotes),
            self.state.membership.clone(),
        ) else {
            return;
        };
        let stranger = self
            .candidates
            .keys()
            .copied()
            .find(|r| membership.member(*r).is_none());
        if let Some(replica) = stranger {
            self.begin_change(None, None, Some(Put::Replica(replica)));
        }
    }

    fn try_change(&mut self, changing: &Changing, barred: bool, fresh: Fresh) {
        let Some(membership) = self.state.membership.clone() else {
            return;
        };
        let (learned, lag) = (self.state.learned, self.settings.bounds.lag);
        let newcomer = match changing.put {
            None => None,
            Some(put) => {
                let (replica, disk) = match put {
                    Put::Replica(replica) => (replica, None),
                    Put::Disk(member) => (member.replica, Some(member)),
                };
                let fits = |c: &&crate::candidate::Candidate| {
                    disk.is_none_or(|d| d == c.member) && c.learned.plus(lag) >= learned
                };
                let Some(candidate) = self.candidate(replica).filter(fits) else {
                    return;
                };
                Some(candidate.member)
            }
        };
        let members = membership.changed(changing.out, newcomer);
        let blind = self.planted.has(PlantedBug::ChangeWithoutCatchUp);
        let near = self.count(&members, Fresh::ANY, |at| at.plus(lag) >= learned);
        let quorum = members.len() / 2 + 1;
        if near < quorum && !blind {
            return;
        }
        let drained = self.state.end() == learned;
        let durable = self.count(&members, fresh, |at| at >= learned) >= quorum || blind;
        let known =
            self.count(&membership.members, Fresh::ANY, |at| at >= membership.since) >= membership.quorum();
        if drained && durable && known {
            return self.propose_members_entry(members);
        }
        if !barred {
            let until = Millis(self.now.0 + self.settings.timing.barrier.0);
            let Some(coordinator) = &mut self.coordinator else {
                return;
            };
            coordinator.beat += 1;
            let beat = coordinator.beat;
            let round = newcomer.map_or(0, |member| self.ask_one(member));
            self.set_stage(Stage::Waiting {
                barrier: Some(until),
                fresh: Fresh { beat, round },
                pause: self.now,
            });
            self.beat_all(true);
        }
    }

    /// Members that were heard late enough and have learned enough.
    fn count(&self, members: &[Member], fresh: Fresh, fits: impl Fn(Position) -> bool) -> usize {
        let Some(coordinator) = &self.coordinator else {
            return 0;
        };
        let learned = |member: &Member| {
            let peer = coordinator.peers.get(&member.replica);
            let candidate = self.candidates.get(&member.replica);
            peer.filter(|p| p.member == *member && p.beat >= fresh.beat)
                .map(|p| p.learned)
                .or(candidate
                    .filter(|c| c.member == *member && c.round >= fresh.round)
                    .map(|c| c.learned))
        };
        members.iter().filter_map(learned).filter(|at| fits(*at)).count()
    }

    fn propose_members_entry(&mut self, members: Vec<Member>) {
        let (Some(coordinator), Some(known)) = (&self.coordinator, &self.state.membership) else {
            return;
        };
        let membership = Membership {
            log: known.log,
            since: self.state.end().next(),
            ballot: coordinator.ballot,
            members,
        };
        self.set_stage(Stage::Proposed);
        self.propose(vec![Value::Membership(Arc::new(membership))], false);
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(changing) = self.coordinator.as_mut().and_then(|c| c.changing.as_mut()) {
            changing.stage = stage;
        }
    }

    /// An own change was agreed: from here on the new members count.
    pub(crate) fn members_agreed(&mut self) {
        // To those that go out as well, for the last time: they need not find out by themselves.
        if let Some(coordinator) = &mut self.coordinator {
            coordinator.since = self.state.since();
        }
        self.beat_all(true);
        let Some(membership) = self.state.membership.clone() else {
            return;
        };
        let learned = self.state.learned;
        let Some(coordinator) = &mut self.coordinator else {
            return;
        };
        coordinator.since = membership.since;
        let keep_old = self.planted.has(PlantedBug::QuorumOfOldMembers);
        if keep_old {
            let old = coordinator.peers.values().map(|p| p.member).collect();
            coordinator.old_members = Some(Arc::new(Membership {
                log: membership.log,
                since: membership.since,
                ballot: membership.ballot,
                members: old,
            }));
        } else {
            coordinator
                .peers
                .retain(|_, peer| membership.contains(peer.member));
        }
        for member in &membership.members {
            if coordinator.peers.get(&member.replica).map(|p| p.member) != Some(*member) {
                coordinator.add_peer(*member, learned.next());
            }
        }
        self.notice(Notice::Membership(Arc::clone(&membership)));
        self.set_stage(Stage::Completing { at: membership.since });
        self.follow_membership();
        self.beat_all(true);
    }

    fn try_complete(&mut self, at: Position) {
        let Some(membership) = self.state.membership.clone() else {
            return;
        };
        let known = self.count(&membership.members, Fresh::ANY, |learned| learned >= at);
        if known < membership.quorum() {
            return;
        }
        let changing = self.coordinator.as_mut().and_then(|c| c.changing.take());
        if let Some(ticket) = changing.and_then(|c| c.ticket) {
            self.answer(ticket, Answer::Changed(membership));
        }
        self.change_step();
    }

    pub(crate) fn change_tick(&mut self) {
        let now = self.now;
        let Some(coordinator) = &mut self.coordinator else {
            return;
        };
        let Some(changing) = &mut coordinator.changing else {
            return self.change_step();
        };
        if let Stage::Waiting {
            barrier,
            fresh,
            pause,
        } = &mut changing.stage
        {
            if barrier.is_some_and(|until| until <= now) {
                *barrier = None;
                *fresh = Fresh::NEVER;
                *pause = Millis(now.0 + self.settings.timing.barrier.0);
            }
            if changing.deadline <= now {
                let ticket = changing.ticket;
                coordinator.changing = None;
                if let Some(ticket) = ticket {
                    self.refuse(ticket, Refusal::NotCaughtUp);
                }
            }
            self.pump();
        }
        self.ask_newcomer();
        self.change_step();
    }

    /// Again while appends wait for it: when it was asked first it may not have had all of it.
    fn ask_newcomer(&mut self) {
        let changing = self.coordinator.as_ref().and_then(|c| c.changing.as_ref());
        let Some(Changing {
            put: Some(put),
            stage: Stage::Waiting { barrier: Some(_), .. },
            ..
        }) = changing
        else {
            return;
        };
        let replica = match put {
            Put::Replica(replica) => *replica,
            Put::Disk(member) => member.replica,
        };
        if let Some(member) = self.candidate(replica).map(|c| c.member) {
            self.ask_one(member);
        }
    }

    /// The coordinator ended: what becomes of the change depends on how far it was.
    pub(crate) fn change_lost(&mut self, changing: Changing, by: Option<Ballot>) {
        let Some(ticket) = changing.ticket else { return };
        match changing.stage {
            Stage::Waiting { .. } => self.refuse(ticket, Refusal::NotWriter),
            Stage::Proposed | Stage::Completing { .. } => self.answer(ticket, Answer::Lost { higher: by }),
        }
    }
}
