//! What a replica makes durable. Replayed in order, records give back its [`State`](crate::State).

use std::sync::Arc;

use crate::membership::{Member, Membership, Proposal};
use crate::position::{Ballot, Epoch, Position};
use crate::value::Value;

/// Only VOTING replicas promise and accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Status {
    /// Knows of no log.
    #[default]
    Empty,
    /// Has proposed or taken over a first membership; votes when all of its members have.
    Starting,
    /// There is a log; not (or no more) a voting member of it.
    Recovering,
    Voting,
}

/// Each is applied whole or not at all: the store's checksum covers a record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Record {
    /// The first on a fresh disk.
    Identity(Member),
    /// The disk lost something: what it promised and accepted is void, what is agreed stays.
    Reborn(Member),
    Starting(Arc<Proposal>),
    Status(Status),
    /// An agreed membership, learned from a peer.
    Membership(Arc<Membership>),
    Promised(Ballot),
    /// `values` from `first` on; with `replaces`, all that was accepted from `first` on is gone. Then everything up to
    /// `committed` is agreed.
    Accepted {
        epoch: Epoch,
        first: Position,
        values: Vec<Value>,
        replaces: bool,
        committed: Position,
    },
    /// What was accepted up to here is agreed. Never flushed for its own sake.
    Committed(Position),
    /// Agreed values, as a peer told them.
    Learned {
        first: Position,
        values: Vec<Value>,
    },
    /// Everything before `begin` has been truncated by agreement, seen or not.
    Begin(Position),
}
