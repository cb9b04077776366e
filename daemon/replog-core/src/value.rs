//! What stands at a position.

use std::sync::Arc;

use crate::membership::Membership;
use crate::position::Position;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// The first entry of every coordinator: what was accepted before it and stands behind it is void.
    Nop,
    Append(Arc<[u8]>),
    /// Positions before `to` are no longer needed.
    Truncate {
        to: Position,
    },
    Membership(Arc<Membership>),
}

impl Value {
    /// What it weighs against bounds in bytes.
    pub fn weight(&self) -> usize {
        const FRAME: usize = 32;
        match self {
            Value::Append(bytes) => FRAME + bytes.len(),
            Value::Membership(m) => FRAME + 16 * m.members.len(),
            Value::Nop | Value::Truncate { .. } => FRAME,
        }
    }
}
