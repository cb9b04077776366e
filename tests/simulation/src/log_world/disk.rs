//! A disk: what is durable, and what a crash may still take away. It replays records by its own simple rules, so that the
//! core's fold has something to be compared with.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use replog_core::{
    Ballot, Epoch, Member, Membership, Position, Proposal, Record, State, Status, Token, Value,
};

/// The content of a disk up to some record.
#[derive(Debug, Clone, Default)]
pub struct Content {
    pub written: bool,
    pub member: Member,
    pub status: Status,
    pub proposal: Option<Arc<Proposal>>,
    pub membership: Option<Arc<Membership>>,
    pub promised: Ballot,
    pub accepted: Epoch,
    /// First position that is not truncated, less one: so that 0 is an empty log's.
    pub cut: u64,
    pub learned: u64,
    /// Agreed and accepted.
    pub entries: BTreeMap<u64, Value>,
}

impl Content {
    pub fn end(&self) -> u64 {
        self.entries
            .last_key_value()
            .map_or(self.learned, |(at, _)| (*at).max(self.learned))
    }

    pub fn apply(&mut self, record: &Record) {
        self.written = true;
        match record {
            Record::Identity(member) => self.member = *member,
            Record::Reborn(member) => {
                self.member = *member;
                self.status = Status::Recovering;
                self.proposal = None;
                self.promised = self.membership.as_ref().map_or(Ballot::default(), |m| m.ballot);
                self.accepted = Epoch::default();
                self.entries.split_off(&(self.learned + 1));
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
                if *replaces {
                    self.entries.split_off(&first.0.max(self.learned + 1));
                }
                for (at, value) in (first.0..).zip(values) {
                    if at > self.learned {
                        self.entries.insert(at, value.clone());
                    }
                }
                self.accepted = *epoch;
                self.promised = self.promised.max(epoch.ballot);
                self.learn_to(committed.0);
            }
            Record::Committed(to) => self.learn_to(to.0),
            Record::Learned { first, values } => {
                for (at, value) in (first.0..).zip(values) {
                    if at > self.learned {
                        self.entries.insert(at, value.clone());
                    }
                }
                self.learn_to(first.0 + values.len() as u64 - 1);
            }
            Record::Begin(begin) => {
                self.cut = self.cut.max(begin.0 - 1);
                self.learned = self.learned.max(begin.0 - 1);
                self.forget_truncated();
            }
        }
    }

    fn learn_to(&mut self, to: u64) {
        while self.learned < to {
            let Some(value) = self.entries.get(&(self.learned + 1)).cloned() else {
                break;
            };
            self.learned += 1;
            match value {
                Value::Membership(membership) => self.adopt(&membership),
                Value::Truncate { to } => {
                    self.cut = self.cut.max(to.0.min(self.learned).saturating_sub(1));
                    self.forget_truncated();
                }
                Value::Nop | Value::Append(_) => {}
            }
        }
    }

    fn forget_truncated(&mut self) {
        self.entries = self.entries.split_off(&(self.cut + 1));
    }

    fn adopt(&mut self, membership: &Arc<Membership>) {
        if self
            .membership
            .as_ref()
            .is_none_or(|m| m.since < membership.since)
        {
            self.promised = self.promised.max(membership.ballot);
            self.membership = Some(Arc::clone(membership));
        }
    }

    /// What a store hands to a replica that starts.
    pub fn state(&self) -> Option<State> {
        self.written.then(|| State {
            member: self.member,
            status: self.status,
            proposal: self.proposal.clone(),
            membership: self.membership.clone(),
            promised: self.promised,
            accepted: self.accepted,
            begin: Position(self.cut + 1),
            learned: Position(self.learned),
            tail: self
                .entries
                .range(self.learned + 1..)
                .map(|(_, v)| v.clone())
                .collect(),
            ..State::default()
        })
    }

    /// A check of the whole disk finds bad sectors: of what is agreed some beginning is left.
    pub fn damage(&mut self, keep: u64) {
        self.learned = (self.cut + keep.min(self.learned.saturating_sub(self.cut))).min(self.learned);
        self.entries.split_off(&(self.learned + 1));
    }
}

#[derive(Debug, Clone, Default)]
pub struct Disk {
    pub durable: Content,
    /// With all that was written: what the process itself reads.
    pub written: Content,
    /// Written, not flushed.
    pending: VecDeque<(Token, Vec<Record>)>,
    /// Number of this disk; another one is put in when it is lost.
    pub serial: u64,
}

impl Disk {
    pub fn fresh(serial: u64) -> Self {
        Self {
            serial,
            ..Self::default()
        }
    }

    pub fn write(&mut self, token: Token, records: Vec<Record>) {
        for record in &records {
            self.written.apply(record);
        }
        self.pending.push_back((token, records));
    }

    /// The records that a flush up to this token makes durable, in order.
    pub fn flushed(&mut self, token: Token) -> Vec<Record> {
        let mut records = Vec::new();
        while self.pending.front().is_some_and(|(t, _)| *t <= token)
            && let Some((_, batch)) = self.pending.pop_front()
        {
            records.extend(batch);
        }
        records
    }

    pub fn pending_records(&self) -> u64 {
        self.pending.iter().map(|(_, batch)| batch.len() as u64).sum()
    }

    /// A crash: of what was not flushed, the first `kept` records are on the disk all the same.
    pub fn crash(&mut self, kept: u64) -> Vec<Record> {
        let records = self.pending.drain(..).flat_map(|(_, batch)| batch);
        records.take(kept as usize).collect()
    }
}
