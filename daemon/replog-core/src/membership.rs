//! Who votes.

use std::collections::BTreeSet;
use std::fmt;

use crate::position::{Ballot, Position};

/// More would make every write wait for more disks than any failure that they protect from.
pub const MEMBERS_MAX: usize = 15;

/// The number that an operator gives a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ReplicaId(pub u64);

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One life of a replica's disk: drawn at random when the disk is first used. A replica that lost its disk is another
/// member under the same number, so nothing that the old disk promised or accepted is counted for the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation(pub u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Member {
    pub replica: ReplicaId,
    pub incarnation: Incarnation,
}

/// Which log it is, by the disks that began it: replicas that were started with an address of another log, or come back from
/// a time before their log was begun anew, must not be heard. A later membership of that log would end this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogId(pub u64);

impl LogId {
    pub fn of(first: &[Member]) -> Self {
        // Incarnations are random already; this only makes one number of several (FNV-1a).
        let bytes = first.iter().flat_map(|member| member.incarnation.0.to_le_bytes());
        let mixed = bytes.fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| {
            (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(mixed.max(1))
    }

    /// 0 is of a log that was begun before logs had one, and may be any.
    pub fn differs(self, other: Self) -> bool {
        self != other && self.0 != 0 && other.0 != 0
    }
}

/// An agreed membership: an entry of the log, in force for every position behind its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Membership {
    pub log: LogId,
    /// The position of the entry.
    pub since: Position,
    /// Of the coordinator that proposed it. Whoever knows this membership promises nothing lower: so that coordinator may
    /// write on under it without asking again.
    pub ballot: Ballot,
    /// In order of their numbers, each once.
    pub members: Vec<Member>,
}

impl Membership {
    pub fn quorum(&self) -> usize {
        self.members.len() / 2 + 1
    }

    pub fn contains(&self, member: Member) -> bool {
        self.members.contains(&member)
    }

    pub fn member(&self, replica: ReplicaId) -> Option<Member> {
        self.members.iter().copied().find(|m| m.replica == replica)
    }

    pub fn ids(&self) -> BTreeSet<ReplicaId> {
        self.members.iter().map(|m| m.replica).collect()
    }

    /// These members with one taken out and one put in.
    pub(crate) fn changed(&self, out: Option<ReplicaId>, put: Option<Member>) -> Vec<Member> {
        let mut members: Vec<Member> = self
            .members
            .iter()
            .copied()
            .filter(|m| Some(m.replica) != out)
            .collect();
        members.extend(put);
        members.sort_unstable();
        members
    }
}

/// The first membership, on its way to be agreed by all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Proposal {
    /// Grows with every change of mind, so that two of them can't both be agreed.
    pub generation: u64,
    pub members: Vec<Member>,
}

/// `{1, 2, 3}`, for messages to a person.
pub(crate) fn display_ids(ids: &BTreeSet<ReplicaId>) -> String {
    let ids: Vec<String> = ids.iter().map(ReplicaId::to_string).collect();
    format!("{{{}}}", ids.join(", "))
}
