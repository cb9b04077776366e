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
            },
        );
        self.change_step();
        self.stand_in();
    }

    /// A member's number whose disk was lost, now back with another disk and close behind.
    pub(crate) fn to_readmit(&self) -> Option<Member> {
        let membership = self.state.membership.as_ref()?;
        let lag = self.settings.bounds.lag;
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

    /// Nobody writes, and a replica waits to be let in: do that, and only that.
    fn stand_in(&mut self) {
        if self.to_readmit().is_some() && !self.hears_coordinator() {
            self.elect(None, 0, true);
        }
    }
}
