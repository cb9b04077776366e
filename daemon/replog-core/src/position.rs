//! Where in the log, and under whose hand.

use std::fmt;

use crate::membership::ReplicaId;

/// A place in the log. Entries begin at 1; 0 stands for the membership that the log was initialised with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

impl Position {
    pub const ZERO: Position = Position(0);
    pub const FIRST: Position = Position(1);

    #[must_use]
    pub fn next(self) -> Self {
        self.plus(1)
    }

    #[must_use]
    pub fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// Saturates: a peer's number may be anything.
    #[must_use]
    pub fn plus(self, count: usize) -> Self {
        Self(self.0.saturating_add(count as u64))
    }

    /// How many positions lie behind `earlier`, up to and with this one; 0 when it is not earlier.
    pub fn since(self, earlier: Position) -> usize {
        usize::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The right to write, totally ordered. Unique: a replica's number is in it, and a replica makes a ballot durable before
/// it tells anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ballot {
    pub term: u64,
    pub replica: ReplicaId,
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.replica)
    }
}

/// A ballot and the membership (by its position) under which it was used. A later membership outranks any ballot: what a
/// quorum of the new members accepted may not give way to a higher ballot that knew only the old ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch {
    pub since: Position,
    pub ballot: Ballot,
}
