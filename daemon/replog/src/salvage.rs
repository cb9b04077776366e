//! A log with one replica whose disk has lost something: nobody else has that, so it does not come back. What is before the
//! first loss is whole; what is behind it is of no use, since entries follow each other. To give that up is a person's
//! decision: a replica that finds the damage at its start changes nothing and says how.

use replog_core::{Position, State, Status};

use crate::directory::Directory;
use crate::error::StoreError;
use crate::ledger::{Found, Ledger};
use crate::store::Damage;

/// What can be kept, and what goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The first position that is not truncated.
    pub begin: Position,
    /// The last one that is whole with all before it; before `begin`: none.
    pub kept: Position,
    /// The last one that the disk still knows of. There may have been more.
    pub known: Position,
    /// Where the bytes are not as they were written.
    pub damage: Vec<Damage>,
    /// It has joined anew, which nobody answers.
    pub reborn: bool,
}

impl Loss {
    pub fn is_none(&self) -> bool {
        self.damage.is_empty() && self.kept >= self.known && !self.reborn
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "the record of the log's members is lost too: there is nothing that could be kept; set the directory aside and begin anew"
    )]
    NoMembers,
    #[error(
        "this log has {count} members: what this one lost comes from the others; start it, and them, with nothing else changed"
    )]
    NotAlone { count: usize },
}

/// Whether the only voting member that this log has is the replica of this disk, today or before it joined anew.
pub(crate) fn is_alone(state: &State) -> bool {
    let members = state.membership.as_ref().map(|membership| &membership.members);
    members.is_some_and(|members| matches!(&members[..], [only] if only.replica == state.member.replica))
}

/// A log's only replica that is not that member any more: an earlier start has found damage, and let it join anew.
pub(crate) fn is_reborn(state: &State) -> bool {
    is_alone(state) && !state.is_member()
}

/// Reads everything and changes nothing.
pub fn loss<D: Directory>(ledger: &Ledger<D>, found: &Found) -> Result<Loss, SalvageError> {
    let state = ledger.state();
    let members = state.membership.as_ref().ok_or(SalvageError::NoMembers)?;
    if !is_alone(state) {
        let count = members.members.len();
        return Err(SalvageError::NotAlone { count });
    }
    let mut damage = found.details.damage.clone();
    for more in ledger.store().verify()? {
        if !damage.iter().any(|known| known.segment == more.segment) {
            damage.push(more);
        }
    }
    let mut kept = state.begin.previous();
    let mut known = kept;
    for (position, _) in ledger.store().positions() {
        let position = Position(position);
        if position == kept.next() && ledger.is_readable(position) {
            kept = position;
        }
        known = known.max(position);
    }
    Ok(Loss {
        begin: state.begin,
        kept,
        known,
        damage,
        reborn: is_reborn(state),
    })
}

/// Voids what is behind the first loss, and makes the replica the voting member again that it was.
pub fn accept<D: Directory>(ledger: Ledger<D>, loss: &Loss) -> Result<Ledger<D>, SalvageError> {
    let mut state = ledger.state().clone();
    let members = state.membership.as_ref().ok_or(SalvageError::NoMembers)?;
    state.member = *members.members.first().ok_or(SalvageError::NoMembers)?;
    state.status = Status::Voting;
    Ok(ledger.cut(&loss.damage, state, loss.kept.next())?)
}
