//! First come, first served, among local tasks.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use crate::changed::Changed;

/// A queue of tasks of which the first may work.
#[derive(Default)]
pub struct Turns {
    waiting: RefCell<VecDeque<u64>>,
    taken: Cell<u64>,
    moved: Changed,
}

/// A place in the queue, left when dropped, whether its turn had come or not.
pub struct Turn<'a> {
    turns: &'a Turns,
    number: u64,
}

impl Turns {
    /// The place is taken by this call, not by the first poll.
    pub fn next(&self) -> impl Future<Output = Turn<'_>> {
        let number = self.taken.get();
        self.taken.set(number + 1);
        self.waiting.borrow_mut().push_back(number);
        let turn = Turn { turns: self, number };
        async move {
            loop {
                let moved = self.moved.notified();
                if self.waiting.borrow().front() == Some(&turn.number) {
                    return turn;
                }
                moved.await;
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.waiting.borrow_mut().retain(|n| *n != self.number);
        self.turns.moved.notify();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn turns_come_in_order_and_a_gone_one_is_skipped() {
        let turns = Turns::default();
        let first = turns.next().now_or_never().expect("nobody is before it");
        let gone = turns.next();
        let mut last = Box::pin(turns.next());
        assert!((&mut last).now_or_never().is_none());
        drop(gone);
        drop(first);
        assert!(last.now_or_never().is_some());
    }
}
