//! Replicas that ask to be let in, as they last told.

use model::Millis;

use crate::membership::{Incarnation, MEMBERS_MAX, Member, ReplicaId};
use crate::message::Hello;
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::position::Position;
use crate::record::Status;

const CANDIDATES_MAX: usize = 2 * MEMBERS_MAX;
/// A candidate that has not been heard for so many of its longest pauses is gone.
const PAUSES_UNTIL_GONE: u64 = 4;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Candidate {
    pub member: Member,
    pub learned: Position,
    pub replaces: Option<Incarnation>,
    pub at: Millis,
    /// Of this replica's own, when it answered one.
    pub round: u64,
}

impl Node {
    pub(crate) fn note_candidate(&mut self, from: Member, hello: &Hello) {
        if hello.status != Status::Recovering || !self.is_voting() {
            return;
        }
        let gone = self.settings.timing.hello_max.0 * PAUSES_UNTIL_GONE;
        let now = self.now;
        self.candidates.retain(|_, c| c.at.0 + gone > now.0);
        if self.candidates.len() >= CANDIDATES_MAX && !self.candidates.contains_key(&from.replica) {
            return;
        }
        self.candidates.insert(
            from.replica,
            Candidate {
                member: from,
                learned: hello.learned,
                replaces: hello.replaces,
                at: now,
                round: if hello.answer { hello.round } else { 0 },
            },
        );
        self.change_step();
    }

    /// A member's number whose disk was lost, now back with another disk and close behind.
    pub(crate) fn to_readmit(&self) -> Option<Member> {
        self.to_readmit_within(self.settings.bounds.lag)
    }

    pub(crate) fn to_readmit_within(&self, lag: usize) -> Option<Member> {
        let membership = self.state.membership.as_ref()?;
        let fits = |c: &&Candidate| {
            let now = membership.member(c.member.replica);
            let same = now.map(|m| m.incarnation) == c.replaces || self.planted.has(PlantedBug::AdmitAnyDisk);
            now.is_some_and(|m| m != c.member)
                && same
                && c.learned.plus(lag) >= self.state.learned
                && c.member.replica != self.state.member.replica
        };
        self.candidates.values().find(fits).map(|c| c.member)
    }

    pub(crate) fn candidate(&self, replica: ReplicaId) -> Option<&Candidate> {
        self.candidates.get(&replica)
    }

    /// Nobody writes, a quorum says so, and a replica waits to be let in: do that, and only that.
    pub(crate) fn stand_in(&mut self) {
        let Some(membership) = &self.state.membership else {
            return;
        };
        let quiet = 1 + self.in_silence(membership);
        if quiet >= membership.quorum() && !self.hears_coordinator() && self.to_readmit().is_some() {
            self.elect(None, 0, true);
        }
    }
}
