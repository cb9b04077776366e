//! Deadlines. A sleep never ends early; it ends up to a millisecond late, because epoll's timeout, as mio passes it, is
//! whole milliseconds, rounded up.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::clock;
use crate::reactor;

/// A time that is as good as never, but can be added to.
const FAR_FUTURE: Duration = Duration::from_secs(86_400 * 365 * 30);

/// Pending deadlines of one loop.
#[derive(Default)]
pub(crate) struct Timers {
    next_key: u64,
    pending: BTreeMap<(Instant, u64), Waker>,
}

impl Timers {
    fn insert(&mut self, deadline: Instant, waker: Waker) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        self.pending.insert((deadline, key), waker);
        key
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.pending.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<Waker> {
        let entry = self.pending.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }
}

/// Ready at its deadline. Holds nothing of the loop, so it is `Send`; but it must be polled on one loop only.
#[derive(Debug)]
#[must_use = "does nothing unless awaited"]
pub struct Sleep {
    deadline: Instant,
    key: Option<u64>,
}

impl Sleep {
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Moves the deadline.
    pub fn reset(&mut self, deadline: Instant) {
        self.forget();
        self.deadline = deadline;
    }

    fn forget(&mut self) {
        if let Some(key) = self.key.take()
            && let Some(reactor) = reactor::try_current()
        {
            let waker = reactor.timers.borrow_mut().pending.remove(&(self.deadline, key));
            drop(waker);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if clock::now() >= self.deadline {
            self.forget();
            return Poll::Ready(());
        }
        let reactor = reactor::current();
        let mut timers = reactor.timers.borrow_mut();
        let known = self
            .key
            .and_then(|key| timers.pending.get_mut(&(self.deadline, key)));
        let replaced = match known {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            Some(waker) => Some(std::mem::replace(waker, cx.waker().clone())),
            None => {
                self.key = Some(timers.insert(self.deadline, cx.waker().clone()));
                None
            }
        };
        drop(timers);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Ready after `duration`.
pub fn sleep(duration: Duration) -> Sleep {
    let now = clock::now();
    sleep_until(now.checked_add(duration).unwrap_or_else(|| now + FAR_FUTURE))
}

/// Ready at `deadline`.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, key: None }
}

/// The time given to [`timeout`] is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deadline has passed")]
pub struct Elapsed;

/// Gives up on `future` after `duration` and drops it.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut sleep = sleep(duration);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut sleep).poll(cx).map(|()| Err(Elapsed))
    })
    .await
}
