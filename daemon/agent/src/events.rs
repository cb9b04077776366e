//! What happened lately, kept for those who ask later.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::changed::Changed;
use model::Event;

/// About 300 bytes each: a burst of a thousand launches (eight events each) can still be replayed.
const REMEMBERED_MAX: usize = 8192;
/// Events handed to a subscriber at a time.
const BATCH: usize = 64;

/// A ring of events with a wake-up for followers. A follower keeps its own place, so that a slow one costs
/// nothing but a gap in its own sequence.
#[derive(Default)]
pub struct EventLog {
    ring: RefCell<VecDeque<Rc<Event>>>,
    grown: Changed,
}

impl EventLog {
    pub fn push(&self, event: Event) {
        let mut ring = self.ring.borrow_mut();
        if ring.len() == REMEMBERED_MAX {
            ring.pop_front();
        }
        ring.push_back(Rc::new(event));
        drop(ring);
        self.grown.notify();
    }

    /// Up to a batch of events after `sequence`, waiting for the first if there is none yet.
    pub async fn after(&self, sequence: u64) -> Vec<Rc<Event>> {
        loop {
            let grown = self.grown.notified();
            let found = self.ready(sequence);
            if !found.is_empty() {
                return found;
            }
            grown.await;
        }
    }

    fn ready(&self, sequence: u64) -> Vec<Rc<Event>> {
        let ring = self.ring.borrow();
        let from = ring.partition_point(|e| e.sequence <= sequence);
        ring.iter().skip(from).take(BATCH).cloned().collect()
    }
}
