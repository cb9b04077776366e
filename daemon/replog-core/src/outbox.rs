//! Durability: what is written, and what has to wait for it.

use std::collections::VecDeque;

use crate::message::Envelope;
use crate::position::Position;
use crate::record::Record;

/// Names a batch of records; later batches have greater tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Token(pub u64);

#[derive(Debug, Clone, Hash, PartialEq, Eq, Default)]
pub(crate) struct Outbox {
    /// Of the newest batch that was wished.
    issued: Token,
    durable: Token,
    pending: Vec<Record>,
    /// (what is among the records, what is known to be agreed): rides with the next record.
    lazy_mark: Option<(Position, Position)>,
    waiting: VecDeque<(Token, Envelope)>,
}

impl Outbox {
    pub fn record(&mut self, record: Record) {
        self.flush_mark();
        self.pending.push(record);
    }

    pub fn mark(&mut self, from: Position, to: Position) {
        let from = self.lazy_mark.map_or(from, |(from, _)| from);
        self.lazy_mark = Some((from, to));
    }

    /// How much of what is agreed is among the records.
    pub fn marked(&self, learned: Position) -> Position {
        self.lazy_mark.map_or(learned, |(from, _)| from)
    }

    /// Puts the mark among the records.
    pub fn flush_mark(&mut self) -> bool {
        match self.lazy_mark.take() {
            Some((_, to)) => {
                self.pending.push(Record::Committed(to));
                true
            }
            None => false,
        }
    }

    pub fn has_mark(&self) -> bool {
        self.lazy_mark.is_some()
    }

    /// Holds the message until all that is recorded by now is durable; gives it back when it already is.
    pub fn hold(&mut self, envelope: Envelope) -> Option<Envelope> {
        let needs = if self.pending.is_empty() {
            self.issued
        } else {
            Token(self.issued.0 + 1)
        };
        if needs <= self.durable {
            return Some(envelope);
        }
        self.waiting.push_back((needs, envelope));
        None
    }

    /// Batches that are wished, or about to be, and not durable.
    pub fn behind(&self) -> u64 {
        self.issued.0 - self.durable.0 + u64::from(!self.pending.is_empty())
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The batch to be written, if there is one.
    pub fn take_batch(&mut self) -> Option<(Token, Vec<Record>)> {
        if self.pending.is_empty() {
            return None;
        }
        self.issued = Token(self.issued.0 + 1);
        Some((self.issued, std::mem::take(&mut self.pending)))
    }

    /// Never beyond what was asked for: a shell's error must not let a message go.
    pub fn persisted(&mut self, token: Token) {
        self.durable = self.durable.max(token.min(self.issued));
    }

    pub fn release(&mut self) -> Option<Envelope> {
        let (needs, _) = self.waiting.front()?;
        if *needs > self.durable {
            return None;
        }
        self.waiting.pop_front().map(|(_, envelope)| envelope)
    }
}
