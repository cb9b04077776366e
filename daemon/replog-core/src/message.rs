//! What replicas say to each other. Plain values: `wire` gives them bytes.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::membership::{Incarnation, Member, Membership, Proposal, ReplicaId};
use crate::position::{Ballot, Epoch, Position};
use crate::record::Status;
use crate::value::Value;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Envelope {
    pub from: Member,
    pub to: ReplicaId,
    /// The life of the disk that is meant; another one drops the message. `None`: whichever is there.
    pub incarnation: Option<Incarnation>,
    pub message: Message,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Message {
    Hello(Box<Hello>),
    Prepare(Prepare),
    Promise(Promise),
    Write(Write),
    Written(Written),
    /// To a prepare or write: a higher ballot has been promised.
    Rejected {
        ballot: Ballot,
        promised: Ballot,
    },
    /// To a prepare: a coordinator is at work, and the asker only wanted to stand in for one.
    Occupied {
        ballot: Ballot,
    },
    /// To a prepare or write: the members have changed. Agreed, so it can be taken over.
    Outdated {
        ballot: Ballot,
        membership: Arc<Membership>,
    },
    /// To a prepare or write: not a voting replica.
    NotVoting {
        ballot: Ballot,
        status: Status,
    },
    /// Agreed entries from `first` on are wanted.
    Fetch {
        first: Position,
    },
    Fetched(Box<Fetched>),
}

impl Message {
    /// What it says of who votes.
    pub fn membership(&self) -> Option<&Arc<Membership>> {
        match self {
            Self::Hello(hello) => hello.membership.as_ref(),
            Self::Prepare(prepare) => Some(&prepare.membership),
            Self::Write(write) => Some(&write.membership),
            Self::Outdated { membership, .. } => Some(membership),
            Self::Fetched(fetched) => fetched.membership.as_ref(),
            Self::Promise(_)
            | Self::Written(_)
            | Self::Rejected { .. }
            | Self::Occupied { .. }
            | Self::NotVoting { .. }
            | Self::Fetch { .. } => None,
        }
    }
}

/// Who a replica is. Sent to find a log, to join it, and to tell others that one is there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hello {
    /// Of the asker; an answer carries it back.
    pub round: u64,
    pub answer: bool,
    pub status: Status,
    /// Members that the operator named for initialisation.
    pub initial: Option<Arc<BTreeSet<ReplicaId>>>,
    pub proposal: Option<Arc<Proposal>>,
    pub membership: Option<Arc<Membership>>,
    pub learned: Position,
    /// A coordinator was heard of late.
    pub hears: bool,
    /// Of a replica whose disk was lost: the incarnation that the membership has for its number. It is replaced only if
    /// that is still so when it comes to it: a late message of an earlier disk changes nothing.
    pub replaces: Option<Incarnation>,
}

/// Asks for one promise for all positions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Prepare {
    pub ballot: Ballot,
    pub membership: Arc<Membership>,
    /// Wants to write only what nobody else does, and not to disturb a coordinator.
    pub caretaker: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Promise {
    pub ballot: Ballot,
    pub begin: Position,
    pub learned: Position,
    pub accepted: Epoch,
    /// From `learned` + 1 on.
    pub tail: Vec<Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Write {
    pub ballot: Ballot,
    pub membership: Arc<Membership>,
    /// The first entry of the ballot itself. What it took over from others, and this, are accepted together or not at all.
    pub settle: Position,
    pub first: Position,
    /// None: only to be heard, and to tell `committed`.
    pub values: Vec<Value>,
    pub committed: Position,
    /// Counts up; what was written back with it was written after it.
    pub beat: u64,
    /// Make durable what is known to be agreed, and tell how far that is.
    pub urgent: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Written {
    pub ballot: Ballot,
    /// Every position up to here is accepted at this ballot or agreed, and durable.
    pub matched: Position,
    /// Known to be agreed, and that is durable.
    pub learned: Position,
    /// Has taken over what the ballot's coordinator inherited, so that nothing older can come back from here.
    pub adopted: bool,
    pub beat: u64,
    /// The write did not fit: something before it is missing.
    pub gap: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fetched {
    pub first: Position,
    pub values: Vec<Value>,
    pub begin: Position,
    pub learned: Position,
    pub membership: Option<Arc<Membership>>,
}
