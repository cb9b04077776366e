//! What a replica remembers: the fold of its records.
//!
//! The log of a replica is a prefix of agreed entries, of which the values live in the store, and a short tail of accepted
//! ones right behind it. There are never holes: a coordinator's entries are accepted in order, and the tail is of one
//! epoch only.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::membership::{Member, Membership, Proposal};
use crate::position::{Ballot, Epoch, Position};
use crate::record::{Record, Status};
use crate::value::Value;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub member: Member,
    pub status: Status,
    pub proposal: Option<Arc<Proposal>>,
    /// The newest agreed one that is known; it may be ahead of `learned`.
    pub membership: Option<Arc<Membership>>,
    pub promised: Ballot,
    /// Under which the tail was accepted.
    pub accepted: Epoch,
    /// First position that is not truncated.
    pub begin: Position,
    /// Every position up to here is agreed.
    pub learned: Position,
    /// Accepted, from `learned` + 1 on.
    pub tail: VecDeque<Value>,
    pub tail_bytes: usize,
    /// The last agreed values, for peers that are a little behind. Empty after a restart.
    pub recent: VecDeque<Value>,
    pub recent_bytes: usize,
    /// Entries and bytes of `recent`.
    pub recent_max: (usize, usize),
}

impl Default for State {
    fn default() -> Self {
        Self {
            member: Member::default(),
            status: Status::Empty,
            proposal: None,
            membership: None,
            promised: Ballot::default(),
            accepted: Epoch::default(),
            begin: Position::FIRST,
            learned: Position::ZERO,
            tail: VecDeque::new(),
            tail_bytes: 0,
            recent: VecDeque::new(),
            recent_bytes: 0,
            recent_max: (0, 0),
        }
    }
}

impl State {
    /// Position of the last entry, agreed or accepted.
    pub fn end(&self) -> Position {
        self.learned.plus(self.tail.len())
    }

    /// Position of the newest known membership's entry.
    pub fn since(&self) -> Position {
        self.membership.as_ref().map_or(Position::ZERO, |m| m.since)
    }

    pub fn is_member(&self) -> bool {
        self.membership.as_ref().is_some_and(|m| m.contains(self.member))
    }

    /// Of a tail or recent position.
    pub fn value(&self, at: Position) -> Option<&Value> {
        if at > self.learned {
            self.tail.get(at.since(self.learned) - 1)
        } else {
            let back = self.learned.since(at);
            let index = self.recent.len().checked_sub(back + 1)?;
            self.recent.get(index)
        }
    }

    /// First position whose value is in memory.
    pub fn in_memory_from(&self) -> Position {
        Position(self.learned.0 + 1 - self.recent.len() as u64)
    }

    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Identity(member) => self.member = *member,
            Record::Reborn(member) => {
                self.member = *member;
                self.status = Status::Recovering;
                self.proposal = None;
                self.promised = self.membership.as_ref().map_or(Ballot::default(), |m| m.ballot);
                self.accepted = Epoch::default();
                self.cut_tail(0);
            }
            Record::Starting(proposal) => {
                self.status = Status::Starting;
                self.proposal = Some(Arc::clone(proposal));
            }
            Record::Status(status) => self.status = *status,
            Record::Membership(membership) => self.adopt(membership),
            Record::Promised(ballot) => self.promised = self.promised.max(*ballot),
            Record::Accepted {
                epoch,
                first,
                values,
                replaces,
                committed,
            } => {
                let keep = if *replaces { first.previous() } else { self.end() };
                self.cut_tail(keep.since(self.learned));
                let skip = self.end().next().since(*first);
                for value in values.iter().skip(skip) {
                    self.tail_bytes += value.weight();
                    self.tail.push_back(value.clone());
                }
                self.accepted = *epoch;
                self.promised = self.promised.max(epoch.ballot);
                self.commit(*committed);
            }
            Record::Committed(to) => self.commit(*to),
            Record::Learned { first, values } => self.learn(*first, values),
            Record::Begin(begin) => self.begin_at(*begin),
        }
    }

    fn adopt(&mut self, membership: &Arc<Membership>) {
        let newer = self
            .membership
            .as_ref()
            .is_none_or(|known| known.since < membership.since);
        if newer {
            self.promised = self.promised.max(membership.ballot);
            self.membership = Some(Arc::clone(membership));
        }
    }

    fn commit(&mut self, to: Position) {
        while self.learned < to {
            let Some(value) = self.pop_tail() else { break };
            self.agreed(value);
        }
    }

    fn learn(&mut self, first: Position, values: &[Value]) {
        let skip = self.learned.next().since(first);
        for value in values.iter().skip(skip) {
            self.pop_tail();
            self.agreed(value.clone());
        }
    }

    fn agreed(&mut self, value: Value) {
        self.learned = self.learned.next();
        match &value {
            Value::Membership(membership) => self.adopt(membership),
            Value::Truncate { to } => self.begin = self.begin.max((*to).min(self.learned)),
            Value::Nop | Value::Append(_) => {}
        }
        self.recent_bytes += value.weight();
        self.recent.push_back(value);
        let (entries, bytes) = self.recent_max;
        while self.recent.len() > entries || self.recent_bytes > bytes {
            let Some(oldest) = self.recent.pop_front() else {
                break;
            };
            self.recent_bytes -= oldest.weight();
        }
    }

    fn pop_tail(&mut self) -> Option<Value> {
        let value = self.tail.pop_front()?;
        self.tail_bytes = self.tail_bytes.saturating_sub(value.weight());
        Some(value)
    }

    /// Keeps so many entries.
    pub(crate) fn cut_tail(&mut self, keep: usize) {
        while self.tail.len() > keep {
            if let Some(value) = self.tail.pop_back() {
                self.tail_bytes = self.tail_bytes.saturating_sub(value.weight());
            }
        }
    }

    fn begin_at(&mut self, begin: Position) {
        self.begin = self.begin.max(begin);
        if begin > self.learned.next() {
            for _ in 0..begin.previous().since(self.learned).min(self.tail.len()) {
                self.pop_tail();
            }
            self.learned = begin.previous();
            self.recent.clear();
            self.recent_bytes = 0;
        }
    }
}
