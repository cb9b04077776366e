//! Acceptor and learner: prepare and write.

use crate::membership::Member;
use crate::message::{Message, Prepare, Promise, Write, Written};
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::position::{Ballot, Epoch, Position};
use crate::record::Record;
use crate::value::Value;

impl Node {
    pub(crate) fn on_prepare(&mut self, from: Member, prepare: &Prepare) {
        let ballot = prepare.ballot;
        self.take_over(&prepare.membership);
        let Some(membership) = self.state.membership.clone() else {
            return;
        };
        // A ballot is good for the members that it knows. A proposer that is no member any more is told so; and who went out
        // tells it as well as who stayed.
        let outdated = prepare.membership.since < membership.since || !membership.contains(from);
        if outdated && !self.planted.has(PlantedBug::IgnoreMembershipOfBallot) {
            return self.say(from, Message::Outdated { ballot, membership });
        }
        if !self.is_voting() {
            let status = self.state.status;
            return self.say(from, Message::NotVoting { ballot, status });
        }
        let promised = self.state.promised;
        if ballot < promised && !self.planted.has(PlantedBug::PromiseLower) {
            return self.say(from, Message::Rejected { ballot, promised });
        }
        if ballot < promised {
            self.state.promised = ballot; // planted: PromiseLower
        }
        if prepare.caretaker && ballot > promised && self.hears_coordinator() {
            return self.say(from, Message::Occupied { ballot });
        }
        self.promise(ballot);
        let mut tail: Vec<Value> = self.state.tail.iter().cloned().collect();
        let mut accepted = self.state.accepted;
        if self.planted.has(PlantedBug::ForgetTailInPromise) {
            tail.clear();
            accepted = Epoch::default();
        }
        let promise = Message::Promise(Promise {
            ballot,
            begin: self.state.begin,
            learned: self.state.learned,
            accepted,
            tail,
        });
        if self.planted.has(PlantedBug::PromiseBeforeFlush) {
            return self.send(from, promise);
        }
        self.say(from, promise);
    }

    /// Raises the promise and ends an own coordinator that it shuts out.
    fn promise(&mut self, ballot: Ballot) {
        self.highest = self.highest.max(ballot);
        if ballot > self.state.promised {
            if self.planted.has(PlantedBug::PromiseUnrecorded) {
                self.state.promised = ballot;
            } else {
                self.record(Record::Promised(ballot));
            }
        }
        if self.coordinator.as_ref().is_some_and(|c| c.ballot < ballot) {
            self.stop_coordinating(Some(ballot));
        }
    }

    pub(crate) fn hears_coordinator(&self) -> bool {
        let silence = self.settings.timing.silence.0;
        self.coordinator.is_some() || self.heard.is_some_and(|at| at.0 + silence > self.now.0)
    }

    pub(crate) fn on_write(&mut self, from: Member, write: Write) {
        let ballot = write.ballot;
        self.take_over(&write.membership);
        let Some(membership) = self.state.membership.clone() else {
            return;
        };
        if write.membership.since < membership.since
            && !self.planted.has(PlantedBug::IgnoreMembershipOfBallot)
        {
            return self.say(from, Message::Outdated { ballot, membership });
        }
        if !self.is_voting() {
            let status = self.state.status;
            self.note_learned(from.replica, write.committed);
            self.pursue();
            return self.say(from, Message::NotVoting { ballot, status });
        }
        let promised = self.state.promised;
        if ballot < promised && !self.planted.has(PlantedBug::IgnorePromiseOnWrite) {
            return self.say(from, Message::Rejected { ballot, promised });
        }
        self.heard = Some(self.now);
        self.promise(ballot);
        let gap = !self.accept(&write);
        if self.accepted_at(ballot) || self.planted.has(PlantedBug::CommitAnyBallot) {
            let to = write.committed.min(self.state.end());
            if to > self.state.learned {
                self.commit(to);
                self.follow_membership();
            }
        }
        if write.committed > self.state.learned {
            self.note_learned(from.replica, write.committed);
            self.pursue();
        }
        if write.urgent {
            self.outbox.flush_mark();
        }
        self.acknowledge(from, &write, gap);
    }

    fn accepted_at(&self, ballot: Ballot) -> bool {
        self.state.accepted.ballot == ballot
    }

    /// False when something before the write is missing.
    fn accept(&mut self, write: &Write) -> bool {
        let (learned, end) = (self.state.learned, self.state.end());
        let last = write.first.plus(write.values.len()).previous();
        let continues = self.accepted_at(write.ballot);
        let epoch = Epoch {
            since: write.membership.since,
            ballot: write.ballot,
        };
        let lax = self.planted.has(PlantedBug::LeadWithoutAdoption);
        if write.values.is_empty() && !continues && learned >= write.settle && !lax {
            // All that it inherited is agreed and known here: what else stands here is void.
            self.record(Record::Accepted {
                epoch,
                first: learned.next(),
                values: Vec::new(),
                replaces: true,
                committed: learned,
            });
            return write.committed <= learned;
        }
        if write.values.is_empty() {
            return write.committed <= learned.max(if continues { end } else { learned });
        }
        let whole =
            last >= write.settle || learned >= write.settle || self.planted.has(PlantedBug::AdoptInPieces);
        let fits = if continues {
            write.first <= end.next()
        } else {
            write.first <= learned.next() && whole
        };
        let pad = self.planted.has(PlantedBug::AcceptWithGap) && !fits;
        if !fits && !pad {
            return false;
        }
        let first = if continues { end.next() } else { learned.next() };
        let room = self
            .settings
            .bounds
            .tail
            .saturating_sub(first.previous().since(learned));
        let mut values: Vec<Value> = if pad {
            write.values.clone()
        } else {
            write
                .values
                .iter()
                .skip(first.since(write.first))
                .cloned()
                .collect()
        };
        if self.planted.has(PlantedBug::AppendAgainOnRetry) && continues {
            values = write.values.clone();
        }
        let kept = if continues { self.state.tail_bytes } else { 0 };
        let left = self.settings.bounds.tail_bytes.saturating_sub(kept);
        let room = if left == 0 {
            0
        } else {
            room.min(fitting(&values, left))
        };
        if values.len() > room {
            // An inheritance is taken whole or not at all; of what continues, as much as fits.
            if !continues {
                return false;
            }
            values.truncate(room);
        }
        if values.is_empty() && continues {
            return true;
        }
        let mut replaces = !continues;
        if replaces && self.planted.has(PlantedBug::KeepOldTail) && end > last {
            for at in last.0 + 1..=end.0 {
                values.extend(self.state.value(Position(at)).cloned());
            }
        }
        if pad {
            replaces = true;
        }
        let committed = write.committed.min(first.plus(values.len()).previous());
        let begin = self.planted.has(PlantedBug::TruncateUnlearned).then(|| {
            values.iter().find_map(|v| match v {
                Value::Truncate { to } => Some(*to),
                _ => None,
            })
        });
        let committed = if self.planted.has(PlantedBug::LearnOnAccept) {
            first.plus(values.len()).previous()
        } else {
            committed
        };
        self.record(Record::Accepted {
            epoch,
            first,
            values,
            replaces,
            committed,
        });
        if let Some(Some(begin)) = begin {
            self.record(Record::Begin(begin));
        }
        self.follow_membership();
        true
    }

    fn acknowledge(&mut self, to: Member, write: &Write, gap: bool) {
        let matched = if self.accepted_at(write.ballot) {
            self.state.end()
        } else {
            self.state.learned
        };
        let written = Message::Written(Written {
            ballot: write.ballot,
            matched,
            learned: self.outbox.marked(self.state.learned),
            adopted: self.accepted_at(write.ballot),
            beat: write.beat,
            gap,
        });
        if self.planted.has(PlantedBug::AckBeforeFlush) {
            return self.send(to, written);
        }
        self.say(to, written);
    }
}

/// How many of these fit into so many bytes; one always does.
pub(crate) fn fitting<'a>(values: impl IntoIterator<Item = &'a Value>, bytes: usize) -> usize {
    let mut sum = 0_usize;
    let fits = values.into_iter().take_while(|value| {
        let first = sum == 0;
        sum = sum.saturating_add(value.weight());
        first || sum <= bytes
    });
    fits.count()
}
