//! Bounded queues, one-shot values and events between tasks, of one loop or of several threads.
//!
//! Every wait is safe to drop: a wake-up given to a waiter that went away is passed on to the next one.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Tasks that wait for the same thing, first come first served.
#[derive(Default)]
pub(crate) struct Waiters {
    next_ticket: u64,
    waiting: VecDeque<(u64, Waker)>,
}

impl Waiters {
    /// Puts the task in line, or keeps its place.
    pub(crate) fn enter(&mut self, ticket: &mut Option<u64>, waker: &Waker) {
        if let Some(known) = *ticket
            && let Some((_, stored)) = self.waiting.iter_mut().find(|(other, _)| *other == known)
        {
            stored.clone_from(waker);
            return;
        }
        let new = self.next_ticket;
        self.next_ticket += 1;
        self.waiting.push_back((new, waker.clone()));
        *ticket = Some(new);
    }

    /// Leaves the line. True if the ticket had already been called: then somebody else has to be called instead.
    pub(crate) fn leave(&mut self, ticket: &mut Option<u64>) -> bool {
        let Some(ticket) = ticket.take() else { return false };
        match self.waiting.iter().position(|(other, _)| *other == ticket) {
            Some(position) => {
                self.waiting.remove(position);
                false
            }
            None => true,
        }
    }

    pub(crate) fn call_one(&mut self) -> Option<Waker> {
        self.waiting.pop_front().map(|(_, waker)| waker)
    }

    pub(crate) fn call_all(&mut self) -> Vec<Waker> {
        self.waiting.drain(..).map(|(_, waker)| waker).collect()
    }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that could panic runs under these locks, so a poisoned one still holds a sound value.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn wake_all(wakers: Vec<Waker>) {
    for waker in wakers {
        waker.wake();
    }
}

/// Why a value could not be queued at once; it is given back.
#[derive(Debug, thiserror::Error)]
pub enum TryPushError<T> {
    #[error("queue is full")]
    Full(T),
    #[error("queue has no receiver")]
    Closed(T),
}

/// The receiver is gone; the value is given back.
#[derive(Debug, thiserror::Error)]
#[error("queue has no receiver")]
pub struct Closed<T>(pub T);

struct Channel<T> {
    values: VecDeque<T>,
    capacity: usize,
    senders: usize,
    receiving: bool,
    pushing: Waiters,
    popping: Option<Waker>,
}

/// The sending end; clones send into the same queue.
pub struct Sender<T>(Arc<Mutex<Channel<T>>>);

/// The receiving end.
pub struct Receiver<T>(Arc<Mutex<Channel<T>>>);

/// A queue of at most `capacity` values (at least one). Many senders, one receiver, on any threads.
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let channel = Arc::new(Mutex::new(Channel {
        values: VecDeque::new(),
        capacity: capacity.max(1),
        senders: 1,
        receiving: true,
        pushing: Waiters::default(),
        popping: None,
    }));
    (Sender(Arc::clone(&channel)), Receiver(channel))
}

impl<T> Sender<T> {
    pub fn try_push(&self, value: T) -> Result<(), TryPushError<T>> {
        let mut channel = locked(&self.0);
        if !channel.receiving {
            return Err(TryPushError::Closed(value));
        }
        if channel.values.len() >= channel.capacity {
            return Err(TryPushError::Full(value));
        }
        channel.values.push_back(value);
        let popper = channel.popping.take();
        drop(channel);
        wake(popper);
        Ok(())
    }

    /// Waits for room.
    pub async fn push(&self, value: T) -> Result<(), Closed<T>> {
        let mut wait = PushWait {
            channel: &self.0,
            ticket: None,
        };
        let mut value = Some(value);
        poll_fn(|cx| {
            let Some(given) = value.take() else {
                return Poll::Ready(Ok(()));
            };
            match self.try_push(given) {
                Ok(()) => {
                    // Its ticket, if it was called, has been used.
                    locked(&self.0).pushing.leave(&mut wait.ticket);
                    Poll::Ready(Ok(()))
                }
                Err(TryPushError::Closed(given)) => Poll::Ready(Err(Closed(given))),
                Err(TryPushError::Full(given)) => {
                    let mut channel = locked(&self.0);
                    if channel.values.len() < channel.capacity || !channel.receiving {
                        // Room was made by another thread between the two locks.
                        cx.waker().wake_by_ref();
                    }
                    channel.pushing.enter(&mut wait.ticket, cx.waker());
                    value = Some(given);
                    Poll::Pending
                }
            }
        })
        .await
    }

    pub fn is_closed(&self) -> bool {
        !locked(&self.0).receiving
    }

    pub fn len(&self) -> usize {
        locked(&self.0).values.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

struct PushWait<'a, T> {
    channel: &'a Mutex<Channel<T>>,
    ticket: Option<u64>,
}

impl<T> Drop for PushWait<'_, T> {
    fn drop(&mut self) {
        if self.ticket.is_none() {
            return;
        }
        let mut channel = locked(self.channel);
        let next = if channel.pushing.leave(&mut self.ticket) {
            channel.pushing.call_one()
        } else {
            None
        };
        drop(channel);
        wake(next);
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        locked(&self.0).senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut channel = locked(&self.0);
        channel.senders -= 1;
        let popper = if channel.senders == 0 {
            channel.popping.take()
        } else {
            None
        };
        drop(channel);
        wake(popper);
    }
}

impl<T> Receiver<T> {
    pub fn try_pop(&mut self) -> Option<T> {
        let mut channel = locked(&self.0);
        let value = channel.values.pop_front()?;
        let pusher = channel.pushing.call_one();
        drop(channel);
        wake(pusher);
        Some(value)
    }

    /// The next value; `None` when the queue is empty and all senders are gone.
    pub async fn pop(&mut self) -> Option<T> {
        poll_fn(|cx| self.poll_pop(cx)).await
    }

    pub fn poll_pop(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut channel = locked(&self.0);
        if let Some(value) = channel.values.pop_front() {
            let pusher = channel.pushing.call_one();
            drop(channel);
            wake(pusher);
            return Poll::Ready(Some(value));
        }
        if channel.senders == 0 {
            return Poll::Ready(None);
        }
        channel.popping = Some(cx.waker().clone());
        Poll::Pending
    }

    pub fn len(&self) -> usize {
        locked(&self.0).values.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut channel = locked(&self.0);
        channel.receiving = false;
        let values = std::mem::take(&mut channel.values);
        let pushers = channel.pushing.call_all();
        drop(channel);
        drop(values);
        wake_all(pushers);
    }
}

/// The other end was dropped without sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sender is gone")]
pub struct Canceled;

struct Slot<T> {
    value: Option<T>,
    waker: Option<Waker>,
    sender: bool,
    receiver: bool,
}

/// Sends one value.
pub struct OneshotSender<T>(Arc<Mutex<Slot<T>>>);

/// A future of one value.
pub struct OneshotReceiver<T>(Arc<Mutex<Slot<T>>>);

/// One value from one task or thread to another.
pub fn oneshot<T>() -> (OneshotSender<T>, OneshotReceiver<T>) {
    let slot = Arc::new(Mutex::new(Slot {
        value: None,
        waker: None,
        sender: true,
        receiver: true,
    }));
    (OneshotSender(Arc::clone(&slot)), OneshotReceiver(slot))
}

impl<T> OneshotSender<T> {
    /// Sends the value, or gives it back if nobody waits any more.
    pub fn send(self, value: T) -> Result<(), T> {
        let mut slot = locked(&self.0);
        if !slot.receiver {
            return Err(value);
        }
        slot.value = Some(value);
        Ok(())
        // Dropping `self` wakes the receiver.
    }

    pub fn is_canceled(&self) -> bool {
        !locked(&self.0).receiver
    }
}

impl<T> Drop for OneshotSender<T> {
    fn drop(&mut self) {
        let mut slot = locked(&self.0);
        slot.sender = false;
        let waker = slot.waker.take();
        drop(slot);
        wake(waker);
    }
}

impl<T> Future for OneshotReceiver<T> {
    type Output = Result<T, Canceled>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = locked(&self.0);
        if let Some(value) = slot.value.take() {
            return Poll::Ready(Ok(value));
        }
        if !slot.sender {
            return Poll::Ready(Err(Canceled));
        }
        slot.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<T> Drop for OneshotReceiver<T> {
    fn drop(&mut self) {
        let mut slot = locked(&self.0);
        slot.receiver = false;
        let unread = slot.value.take();
        slot.waker = None;
        drop(slot);
        drop(unread);
    }
}

/// A level-triggered event: once set, it stays set for everyone until it is cleared. Clones are the same event.
#[derive(Clone, Default)]
pub struct Notify(Arc<Mutex<Event>>);

#[derive(Default)]
struct Event {
    set: bool,
    waiters: Waiters,
}

impl Notify {
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the event and wakes all who wait.
    pub fn set(&self) {
        let mut event = locked(&self.0);
        event.set = true;
        let waiters = event.waiters.call_all();
        drop(event);
        wake_all(waiters);
    }

    pub fn clear(&self) {
        locked(&self.0).set = false;
    }

    pub fn is_set(&self) -> bool {
        locked(&self.0).set
    }

    /// Waits until the event is set; at once if it is.
    pub fn wait(&self) -> NotifyWait {
        NotifyWait {
            event: Self(Arc::clone(&self.0)),
            ticket: None,
        }
    }
}

/// Made by [`Notify::wait`].
#[must_use = "does nothing unless awaited"]
pub struct NotifyWait {
    event: Notify,
    ticket: Option<u64>,
}

impl Future for NotifyWait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut event = locked(&this.event.0);
        if event.set {
            event.waiters.leave(&mut this.ticket);
            return Poll::Ready(());
        }
        event.waiters.enter(&mut this.ticket, cx.waker());
        Poll::Pending
    }
}

impl Drop for NotifyWait {
    fn drop(&mut self) {
        let mut ticket = self.ticket.take();
        if ticket.is_some() {
            locked(&self.event.0).waiters.leave(&mut ticket);
        }
    }
}
