//! Memory that all connections of one limit share: messages that have only partly arrived, calls that are open, answers
//! that the peer has not taken.
//!
//! Each connection has a little of its own that is never counted, so that a newcomer can always introduce itself; what
//! goes beyond comes out of one budget. Peers that have not authenticated may use a part of it only, so that strangers can
//! not take the room of clients.

use std::cell::Cell;
use std::rc::Rc;

/// Of each connection's own: enough for every message of an ordinary client. A thousand connections make 16 MiB of it.
pub(crate) const OWN_BYTES: usize = 16 << 10;

/// The part of a budget that strangers may use together.
const STRANGERS_PART: usize = 4;

/// The budget of one limit.
#[derive(Debug)]
pub(crate) struct Budget {
    maximum: usize,
    used: Cell<usize>,
    strangers: Cell<usize>,
}

impl Budget {
    pub(crate) fn new(maximum: usize) -> Rc<Self> {
        Rc::new(Self {
            maximum,
            used: Cell::new(0),
            strangers: Cell::new(0),
        })
    }

    pub(crate) fn used(&self) -> usize {
        self.used.get()
    }

    pub(crate) fn maximum(&self) -> usize {
        self.maximum
    }
}

/// What one connection has taken from the budget. Given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Account {
    budget: Rc<Budget>,
    taken: Cell<usize>,
    stranger: Cell<bool>,
}

impl Account {
    pub(crate) fn new(budget: &Rc<Budget>) -> Self {
        Self {
            budget: Rc::clone(budget),
            taken: Cell::new(0),
            stranger: Cell::new(true),
        }
    }

    /// The peer is known now: what it has is no longer counted among the strangers'.
    pub(crate) fn trust(&self) {
        if self.stranger.replace(false) {
            let strangers = &self.budget.strangers;
            strangers.set(strangers.get() - self.taken.get());
        }
    }

    pub(crate) fn is_trusted(&self) -> bool {
        !self.stranger.get()
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// The connection holds `bytes` in all. False if there is no room for it: then nothing has changed.
    pub(crate) fn hold(&self, bytes: usize) -> bool {
        let wanted = bytes.saturating_sub(OWN_BYTES);
        let taken = self.taken.get();
        if wanted == taken {
            return true;
        }
        let budget = &self.budget;
        let used = (budget.used.get() - taken).saturating_add(wanted);
        if wanted > taken && used > budget.maximum {
            return false;
        }
        if self.stranger.get() {
            let strangers = (budget.strangers.get() - taken).saturating_add(wanted);
            if wanted > taken && strangers > budget.maximum / STRANGERS_PART {
                return false;
            }
            budget.strangers.set(strangers);
        }
        budget.used.set(used);
        self.taken.set(wanted);
        true
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.hold(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_have_a_part_and_everybody_a_little() {
        let budget = Budget::new(1000);
        let stranger = Account::new(&budget);
        let other = Account::new(&budget);
        let client = Account::new(&budget);
        client.trust();
        assert!(stranger.hold(OWN_BYTES) && budget.used() == 0);
        assert!(stranger.hold(OWN_BYTES + 200));
        assert!(!other.hold(OWN_BYTES + 51));
        assert!(other.hold(OWN_BYTES + 50) && other.hold(OWN_BYTES));
        assert!(client.hold(OWN_BYTES + 800) && !client.hold(OWN_BYTES + 801));
        assert!(!stranger.hold(OWN_BYTES + 201) && stranger.hold(OWN_BYTES + 100));
        stranger.trust();
        assert!(stranger.hold(OWN_BYTES + 200));
        assert!(!other.hold(OWN_BYTES + 1) && other.hold(OWN_BYTES));
        drop(client);
        assert_eq!(budget.used(), 200);
        assert!(other.hold(OWN_BYTES + 250));
        drop((other, stranger));
        assert_eq!((budget.used(), budget.strangers.get()), (0, 0));
    }
}
