//! What goes into a replica and what comes out.

use std::sync::Arc;

use model::Millis;

use crate::membership::{Incarnation, Member, Membership, ReplicaId};
use crate::message::Envelope;
use crate::outbox::Token;
use crate::position::{Ballot, Position};
use crate::record::{Record, Status};
use crate::value::Value;

/// Chosen by the shell; an answer carries it back. Every ticket is answered exactly once, unless the replica halts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Input {
    Message(Envelope),
    /// All batches up to this token are durable.
    Persisted {
        token: Token,
    },
    /// The disk refused. The replica says nothing more.
    PersistFailed {
        reason: String,
    },
    /// What was asked for by [`Wish::Load`]; fewer values or none when they can't be read.
    Loaded {
        to: Member,
        first: Position,
        values: Vec<Value>,
    },
    /// Become the writer. `at_least` is a term from outside (an election's zxid), 0 when there is none.
    Elect {
        ticket: Ticket,
        at_least: u64,
    },
    Resign,
    /// All that is to be appended by now, so that it shares messages and flushes.
    Append {
        entries: Vec<(Ticket, Arc<[u8]>)>,
    },
    Truncate {
        ticket: Ticket,
        to: Position,
    },
    /// Is this still the writer, and how far is the log? For linearizable reads.
    Confirm {
        ticket: Ticket,
    },
    /// On any replica: learn what a quorum knows to be agreed.
    CatchUp {
        ticket: Ticket,
    },
    Change {
        ticket: Ticket,
        change: Change,
    },
    /// Permission to initialise by hand.
    Initialize,
    Tick,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    Add(ReplicaId),
    Remove(ReplicaId),
    Replace { out: ReplicaId, by: ReplicaId },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Wish {
    /// Append these records in order, flush, and say [`Input::Persisted`]. Batches may share a flush.
    Persist {
        records: Vec<Record>,
        token: Token,
    },
    Send(Envelope),
    Answer {
        ticket: Ticket,
        answer: Answer,
    },
    /// Read agreed values from `first` up to at most `last` (as far as one message reaches), as all records that were wished
    /// so far leave them, flushed or not: an accepted value may just have been replaced by the agreed one.
    Load {
        to: Member,
        first: Position,
        last: Position,
    },
    /// Entries before this are truncated and may be removed from the store.
    Discard {
        before: Position,
    },
    Notice(Notice),
    /// Stop: nothing may be answered any more. The last wish of a replica.
    Halt(Halt),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The log ends at `position`; every earlier writer is shut out.
    Elected {
        position: Position,
        ballot: Ballot,
    },
    NotElected(NotElected),
    Appended {
        position: Position,
    },
    Truncated {
        position: Position,
    },
    Confirmed {
        end: Position,
    },
    CaughtUp {
        end: Position,
    },
    Changed(Arc<Membership>),
    /// No longer the writer. Whether it was appended is not known.
    Lost {
        higher: Option<Ballot>,
    },
    /// Certainly not done.
    Refused(Refusal),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NotElected {
    /// Another coordinator has a higher ballot.
    Outbid {
        promised: Ballot,
    },
    /// No quorum answered in time.
    NoQuorum,
    Resigned,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    #[error("too many appends are waiting ({queued})")]
    Busy { queued: usize },
    #[error("this replica is not the writer")]
    NotWriter,
    #[error(
        "this replica does not vote yet, it is {status:?}: ask another one, or look at `bulkhead log status` of all"
    )]
    NotVoting { status: Status },
    #[error("an entry of {bytes} bytes is larger than {max}, which is the most: append it in parts")]
    TooLarge { bytes: usize, max: usize },
    #[error("truncate to {to}: outside of {begin} to {end}")]
    OutOfRange {
        to: Position,
        begin: Position,
        end: Position,
    },
    #[error("another change of members is under way")]
    ChangeUnderWay,
    #[error("replica {replica} is a member already")]
    AlreadyMember { replica: ReplicaId },
    #[error("replica {replica} is not a member")]
    NotMember { replica: ReplicaId },
    #[error("replica {replica} is the writer: move the writer to another replica first")]
    RemovesWriter { replica: ReplicaId },
    #[error("the log needs between 1 and {} members", crate::MEMBERS_MAX)]
    MemberCount,
    #[error(
        "the new members did not catch up in time: start the replica to be added, and look at those that lag"
    )]
    NotCaughtUp,
    #[error("no quorum answered in time")]
    NoQuorum,
    #[error("term {at_least} is no election's: the largest is {}", u64::MAX / 2)]
    TermTooLarge { at_least: u64 },
    #[error("terms are used up")]
    TermsExhausted,
}

/// What a person should know.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Notice {
    Status {
        from: Status,
        to: Status,
    },
    Membership(Arc<Membership>),
    /// The log's members do not include this replica: it follows and waits to be added.
    NotAMember {
        members: Arc<Membership>,
    },
    /// An empty peer was told other members to initialise with: nothing happens until they are the same.
    InitialMembersDiffer {
        peer: ReplicaId,
    },
    Demoted {
        by: Ballot,
    },
    /// A peer belongs to another log. It is not heard.
    OtherLog {
        peer: ReplicaId,
    },
    /// A peer holds a shorter or foreign past than agreed: never seen unless a disk was put back from a copy.
    Disagreement {
        peer: ReplicaId,
        at: Position,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Halt {
    #[error("persist records: {reason}; promises made are kept, start again when the disk is well")]
    Disk { reason: String },
    #[error(
        "configured members are {configured}, the log's are {agreed}: correct the configuration, or change the log's members first"
    )]
    MembersContradict { configured: String, agreed: String },
    #[error(
        "replica {replica} has joined with another disk ({by:?}): this one is out of date and may not come back"
    )]
    Superseded { replica: ReplicaId, by: Incarnation },
}

/// Why a replica does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error("the disk belongs to replica {stored}, the configuration says {configured}")]
    OtherReplica {
        stored: ReplicaId,
        configured: ReplicaId,
    },
    #[error(
        "configured members are {configured}, the log's are {agreed}: correct the configuration, or change the log's members first"
    )]
    MembersContradict { configured: String, agreed: String },
    #[error(
        "configure between 1 and {} members to initialise with, not {count}",
        crate::MEMBERS_MAX
    )]
    MemberCount { count: usize },
}

/// A moment or never.
pub(crate) fn earliest(times: impl IntoIterator<Item = Option<Millis>>) -> Option<Millis> {
    times.into_iter().flatten().min()
}
