//! What a writer is asked for: append, truncate, confirm.

use std::sync::Arc;

use crate::coordinator::{Confirm, Flight};
use crate::input::{Answer, Refusal, Ticket};
use crate::node::Node;
use crate::planted::PlantedBug;
use crate::position::Position;
use crate::value::Value;

const CONFIRMS_MAX: usize = 1_024;

impl Node {
    pub(crate) fn append(&mut self, entries: Vec<(Ticket, Arc<[u8]>)>) {
        let max = self.settings.bounds.value_bytes;
        for (ticket, bytes) in entries {
            if bytes.len() > max {
                let bytes = bytes.len();
                self.refuse(ticket, Refusal::TooLarge { bytes, max });
            } else {
                self.enqueue(ticket, Value::Append(bytes));
            }
        }
        self.pump();
    }

    pub(crate) fn truncate(&mut self, ticket: Ticket, to: Position) {
        let (begin, end) = (self.state.begin, self.state.learned.next());
        let beyond = to > end && !self.planted.has(PlantedBug::TruncateBeyondEnd);
        if to < begin || beyond {
            return self.refuse(ticket, Refusal::OutOfRange { to, begin, end });
        }
        self.enqueue(ticket, Value::Truncate { to });
        self.pump();
    }

    fn enqueue(&mut self, ticket: Ticket, value: Value) {
        let max = self.settings.bounds.queue;
        match &mut self.coordinator {
            Some(coordinator) if coordinator.is_leading() => {
                let queued = coordinator.queue.len();
                if queued >= max {
                    self.refuse(ticket, Refusal::Busy { queued });
                } else {
                    coordinator.queue.push_back((ticket, value));
                }
            }
            _ => self.refuse(ticket, Refusal::NotWriter),
        }
    }

    /// Proposes what waits, as far as the window reaches.
    pub(crate) fn pump(&mut self) {
        let bounds = &self.settings.bounds;
        let (window, window_bytes) = (bounds.window, bounds.window_bytes);
        let barred = self.changing_bars() && !self.planted.has(PlantedBug::WriteBehindChange);
        let (end, mut open) = (self.state.end(), self.state.tail.len());
        let Some(coordinator) = &mut self.coordinator else {
            return;
        };
        if !coordinator.is_leading() || barred {
            return;
        }
        let mut values = Vec::new();
        while open < window && coordinator.flight_bytes < window_bytes {
            let Some((ticket, value)) = coordinator.queue.pop_front() else {
                break;
            };
            let weight = value.weight();
            open += 1;
            coordinator.flight_bytes += weight;
            coordinator.flight.push_back(Flight {
                at: end.plus(values.len() + 1),
                ticket,
                truncates: matches!(value, Value::Truncate { .. }),
                weight,
            });
            values.push(value);
        }
        if !values.is_empty() {
            self.propose(values, false);
        }
    }

    /// A quorum has to say that it still obeys, after this was asked.
    pub(crate) fn confirm(&mut self, ticket: Ticket, elects: bool) {
        let end = self.state.learned;
        let me = self.state.member.replica;
        let Some(coordinator) = self.coordinator.as_mut().filter(|c| c.is_leading()) else {
            return self.refuse(ticket, Refusal::NotWriter);
        };
        let queued = coordinator.confirms.len();
        if queued >= CONFIRMS_MAX {
            return self.refuse(ticket, Refusal::Busy { queued });
        }
        coordinator.beat += 1;
        let beat = coordinator.beat;
        coordinator.confirms.push_back(Confirm {
            ticket,
            beat,
            end,
            elects,
        });
        if let Some(own) = coordinator.peers.get_mut(&me) {
            own.beat = beat;
        }
        if self.planted.has(PlantedBug::ConfirmAlone) && !elects {
            coordinator.confirms.pop_back();
            return self.answer(ticket, Answer::Confirmed { end });
        }
        self.beat_all(false);
        self.settle_confirms();
    }

    pub(crate) fn settle_confirms(&mut self) {
        let (Some(coordinator), Some(membership)) = (&mut self.coordinator, &self.state.membership) else {
            return;
        };
        if coordinator.confirms.is_empty() {
            return;
        }
        let beat = |replica| coordinator.peers.get(replica).map_or(0, |p| p.beat);
        let mut beats: Vec<u64> = membership.members.iter().map(|m| beat(&m.replica)).collect();
        beats.sort_unstable_by(|a, b| b.cmp(a));
        let Some(back) = beats.get(membership.quorum() - 1).copied() else {
            return;
        };
        let mut done = Vec::new();
        let ballot = coordinator.ballot;
        while coordinator.confirms.front().is_some_and(|c| c.beat <= back)
            && let Some(confirm) = coordinator.confirms.pop_front()
        {
            done.push(confirm);
        }
        for Confirm {
            ticket, end, elects, ..
        } in done
        {
            // What was appended since is its own.
            let position = self.state.learned;
            let answer = if elects {
                Answer::Elected { position, ballot }
            } else {
                Answer::Confirmed { end }
            };
            self.answer(ticket, answer);
        }
    }
}
