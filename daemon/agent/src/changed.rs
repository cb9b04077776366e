//! Wakes every local task that waits for "something is different now".

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// A counter of changes. Take [`Changed::notified`] first, look at the state, then await: a change between
/// the two is not missed.
#[derive(Default)]
pub struct Changed {
    version: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Changed {
    pub fn notify(&self) {
        self.version.set(self.version.get().wrapping_add(1));
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    pub fn notified(&self) -> Notified<'_> {
        Notified {
            changed: self,
            seen: self.version.get(),
        }
    }
}

pub struct Notified<'a> {
    changed: &'a Changed,
    seen: u64,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.changed.version.get() != self.seen {
            return Poll::Ready(());
        }
        let mut waiting = self.changed.waiting.borrow_mut();
        if !waiting.iter().any(|w| w.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_change_between_looking_and_waiting_is_not_missed() {
        let changed = Changed::default();
        let waiting = changed.notified();
        assert!(changed.notified().now_or_never().is_none());
        changed.notify();
        assert!(waiting.now_or_never().is_some());
    }
}
