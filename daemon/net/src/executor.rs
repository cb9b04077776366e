//! Local tasks: a run queue of `async-task` runnables, each poll isolated from panics.
//!
//! A wake on the loop's own thread pushes to a plain queue. A wake from another thread goes through [`Remote`]: a locked
//! list plus, only if the loop is asleep, a write to its eventfd.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures::FutureExt as _;
use slab::Slab;

use crate::reactor;

/// A task to be polled, with the name of its future's type: who holds the loop up is told by it.
pub(crate) type Runnable = async_task::Runnable<&'static str>;

/// A task panicked; its future has been dropped.
#[derive(Debug, Clone, thiserror::Error)]
#[error("task panicked: {message}")]
pub struct Panicked {
    pub message: String,
}

impl Panicked {
    pub(crate) fn from_payload(payload: &(dyn Any + Send)) -> Self {
        let message = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "panic payload is not text".to_owned());
        Self { message }
    }
}

/// A running task. Dropping it cancels the task (its future is dropped on the loop); [`Task::detach`] lets it go on.
#[must_use = "dropping a task cancels it: await it or detach it"]
pub struct Task<T>(async_task::Task<Result<T, Panicked>, &'static str>);

impl<T> Task<T> {
    /// Lets the task run to its end without being waited for.
    pub fn detach(self) {
        self.0.detach();
    }

    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Cancels the task and waits until its future has been dropped. The output, if it came first.
    pub async fn cancel(self) -> Option<Result<T, Panicked>> {
        self.0.cancel().await
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// Starts a task on this thread's loop.
///
/// # Panics
/// Outside [`crate::run`].
pub fn spawn<F>(future: F) -> Task<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let reactor = reactor::current();
    let executor = &reactor.executor;
    let mut active = executor.active.borrow_mut();
    let entry = active.vacant_entry();
    let membership = Membership {
        executor: Rc::clone(executor),
        key: entry.key(),
    };
    let contained = contain(future, membership);
    let remote = Arc::clone(&executor.remote);
    let schedule = move |runnable: Runnable| {
        if let Some(runnable) = reactor::push_if_local(&remote, runnable) {
            remote.push(runnable);
        }
    };
    let named = async_task::Builder::new().metadata(std::any::type_name::<F>());
    let (runnable, task) = named.spawn_local(|_| contained, schedule);
    entry.insert(runnable.waker());
    drop(active);
    runnable.schedule();
    Task(task)
}

/// Tasks that end with their owner: dropping the set cancels all that still run.
#[derive(Default)]
pub struct TaskSet(Rc<RefCell<Slab<Task<()>>>>);

impl TaskSet {
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task in this set (see [`spawn`]).
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let mut tasks = self.0.borrow_mut();
        let entry = tasks.vacant_entry();
        let place = Place {
            tasks: Rc::downgrade(&self.0),
            key: entry.key(),
        };
        entry.insert(spawn(async move {
            let _place = place;
            future.await;
        }));
    }

    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Removes a task of a set when its future is dropped.
struct Place {
    tasks: Weak<RefCell<Slab<Task<()>>>>,
    key: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(tasks) = self.tasks.upgrade() else { return };
        let task = tasks.borrow_mut().try_remove(self.key);
        if let Some(task) = task {
            task.detach();
        }
    }
}

/// Turns a panic of the future into its result.
async fn contain<F: Future>(future: F, membership: Membership) -> Result<F::Output, Panicked> {
    match AssertUnwindSafe(future).catch_unwind().await {
        Ok(output) => Ok(output),
        Err(payload) => {
            let panicked = Panicked::from_payload(&*payload);
            let panics = &membership.executor.panics;
            panics.set(panics.get() + 1);
            tracing::error!(error = %panicked, "task ended");
            Err(panicked)
        }
    }
}

/// Removes the task from the list of living ones when its future is dropped.
struct Membership {
    executor: Rc<Executor>,
    key: usize,
}

impl Drop for Membership {
    fn drop(&mut self) {
        let waker = self.executor.active.borrow_mut().try_remove(self.key);
        drop(waker);
    }
}

/// The queue of one loop.
pub(crate) struct Executor {
    queue: RefCell<VecDeque<Runnable>>,
    active: RefCell<Slab<Waker>>,
    pub(crate) remote: Arc<Remote>,
    pub(crate) panics: Cell<u64>,
}

impl Executor {
    pub(crate) fn new(remote: Arc<Remote>) -> Self {
        Self {
            queue: RefCell::default(),
            active: RefCell::default(),
            remote,
            panics: Cell::new(0),
        }
    }

    pub(crate) fn push(&self, runnable: Runnable) {
        self.queue.borrow_mut().push_back(runnable);
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.queue.borrow().is_empty()
    }

    pub(crate) fn tasks(&self) -> usize {
        self.active.borrow().len()
    }

    /// The next runnable; takes in what other threads have scheduled.
    pub(crate) fn pop(&self) -> Option<Runnable> {
        self.queue.borrow_mut().pop_front()
    }

    pub(crate) fn take_in_remote(&self) {
        if self.remote.pending.swap(false, Ordering::SeqCst) {
            let mut list = self.remote.lock();
            self.queue.borrow_mut().extend(list.drain(..));
        }
    }

    /// Runs one task's poll. The task's own panic is caught inside [`contain`]; what reaches here is a panic while
    /// dropping its future.
    pub(crate) fn run(&self, runnable: Runnable) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| runnable.run())) {
            self.panics.set(self.panics.get() + 1);
            tracing::error!(error = %Panicked::from_payload(&*payload), "task panicked while it was dropped");
        }
    }

    /// Drops the futures of all tasks. Their destructors may still schedule and spawn, hence the rounds.
    pub(crate) fn clear(&self) {
        for _ in 0..64 {
            let wakers: Vec<Waker> = self
                .active
                .borrow_mut()
                .iter()
                .map(|(_, waker)| waker.clone())
                .collect();
            for waker in &wakers {
                waker.wake_by_ref();
            }
            self.take_in_remote();
            if wakers.is_empty() && !self.has_work() {
                break;
            }
            while let Some(runnable) = self.pop() {
                if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(runnable))) {
                    tracing::error!(error = %Panicked::from_payload(&*payload), "task panicked while it was dropped");
                }
            }
        }
        self.remote.close();
    }
}

/// The part of a loop that other threads may touch.
pub(crate) struct Remote {
    list: Mutex<Vec<Runnable>>,
    pending: AtomicBool,
    parked: AtomicBool,
    closed: AtomicBool,
    waker: mio::Waker,
}

impl Remote {
    pub(crate) fn new(waker: mio::Waker) -> Self {
        Self {
            list: Mutex::default(),
            pending: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            waker,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Runnable>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, runnable: Runnable) {
        if self.closed.load(Ordering::SeqCst) {
            // The loop is gone: its futures were dropped by `clear`, nothing is left to run. Dropping the runnable on a
            // foreign thread would panic if a local future were still inside, so it is leaked instead.
            std::mem::forget(runnable);
            return;
        }
        self.lock().push(runnable);
        self.pending.store(true, Ordering::SeqCst);
        self.unpark();
    }

    /// Wakes the loop if it sleeps. Order matters: the caller has published its work before.
    pub(crate) fn unpark(&self) {
        if self.parked.swap(false, Ordering::SeqCst)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "can not wake the event loop");
        }
    }

    /// Announces sleep. False if work came in meanwhile: then the loop must not sleep.
    pub(crate) fn park(&self, woken: &AtomicBool) -> bool {
        self.parked.store(true, Ordering::SeqCst);
        if self.pending.load(Ordering::SeqCst) || woken.load(Ordering::SeqCst) {
            self.parked.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    pub(crate) fn unparked(&self) {
        self.parked.store(false, Ordering::SeqCst);
    }

    pub(crate) fn has_pending(&self) -> bool {
        self.pending.load(Ordering::Relaxed)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.parked.store(false, Ordering::SeqCst);
        for runnable in self.lock().drain(..) {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(runnable))) {
                tracing::error!(error = %Panicked::from_payload(&*payload), "task panicked while it was dropped");
            }
        }
    }
}
