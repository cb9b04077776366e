//! A bounded pool of threads for calls that block: fsync, rmdir of cgroups, downloads. Results come back as futures.
//!
//! A job that was accepted runs, even if its caller stops waiting: half a clean-up is worse than one nobody waits for.
//! When the queue is full, callers wait; they are served in order.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::Poll;
use std::thread::{self, JoinHandle};

use crate::executor::Panicked;
use crate::queue::{self, Notify, Waiters, locked};

type Job = Box<dyn FnOnce() + Send>;

/// Why a job has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PoolError {
    #[error("job on the worker pool failed")]
    Panicked(#[source] Panicked),
    #[error("worker pool is shut down")]
    ShutDown,
}

struct State {
    jobs: VecDeque<Job>,
    bound: usize,
    closed: bool,
    running: usize,
    threads: usize,
    waiting: Waiters,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    ended: Notify,
}

/// Handle of a pool; clones are the same pool and may be used from several threads.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
    _closer: Arc<Closer>,
}

/// Closes the pool when the last handle goes.
struct Closer(Arc<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Pool {
    /// Starts `threads` threads with room for `queue_bound` waiting jobs (each at least one).
    ///
    /// # Errors
    /// When a thread can not be made.
    pub fn new(threads: usize, queue_bound: usize) -> io::Result<Self> {
        let state = State {
            jobs: VecDeque::new(),
            bound: queue_bound.max(1),
            closed: false,
            running: 0,
            threads: 0,
            waiting: Waiters::default(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            ended: Notify::new(),
        });
        let pool = Self {
            _closer: Arc::new(Closer(Arc::clone(&shared))),
            shared,
        };
        for number in 0..threads.max(1) {
            start_thread(number, &pool.shared)?;
        }
        Ok(pool)
    }

    /// Runs `job` on a worker thread and waits for its result.
    ///
    /// # Errors
    /// When the job panicked or the pool is shut down.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let (sender, receiver) = queue::oneshot();
        let job: Job = Box::new(move || {
            let result =
                catch_unwind(AssertUnwindSafe(job)).map_err(|payload| Panicked::from_payload(&*payload));
            if let Err(panicked) = &result {
                tracing::error!(error = %panicked, "job on the worker pool ended");
            }
            // Nobody waits any more: the job was done all the same.
            drop(sender.send(result));
        });
        self.enqueue(job).await?;
        match receiver.await {
            Ok(result) => result.map_err(PoolError::Panicked),
            Err(queue::Canceled) => Err(PoolError::ShutDown),
        }
    }

    /// Jobs that wait, and jobs that run.
    pub fn load(&self) -> (usize, usize) {
        let state = locked(&self.shared.state);
        (state.jobs.len(), state.running)
    }

    /// Accepts no further jobs, finishes those accepted, and waits until all threads have ended.
    pub async fn shutdown(&self) {
        self.shared.close();
        self.shared.ended.wait().await;
    }

    async fn enqueue(&self, job: Job) -> Result<(), PoolError> {
        let mut place = Place {
            shared: &self.shared,
            ticket: None,
        };
        let mut job = Some(job);
        poll_fn(|cx| {
            let mut state = locked(&self.shared.state);
            if state.closed {
                return Poll::Ready(Err(PoolError::ShutDown));
            }
            if state.jobs.len() >= state.bound {
                state.waiting.enter(&mut place.ticket, cx.waker());
                return Poll::Pending;
            }
            state.waiting.leave(&mut place.ticket);
            state.jobs.extend(job.take());
            drop(state);
            self.shared.work.notify_one();
            Poll::Ready(Ok(()))
        })
        .await
    }
}

/// A place in the line before a full queue.
struct Place<'a> {
    shared: &'a Shared,
    ticket: Option<u64>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.ticket.is_none() {
            return;
        }
        let mut state = locked(&self.shared.state);
        let next = if state.waiting.leave(&mut self.ticket) {
            state.waiting.call_one()
        } else {
            None
        };
        drop(state);
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

impl Shared {
    fn close(&self) {
        let mut state = locked(&self.state);
        state.closed = true;
        let waiting = state.waiting.call_all();
        drop(state);
        self.work.notify_all();
        for waker in waiting {
            waker.wake();
        }
    }

    fn next_job(&self) -> Option<Job> {
        let mut state = locked(&self.state);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                state.running += 1;
                let waiting = state.waiting.call_one();
                drop(state);
                if let Some(waker) = waiting {
                    waker.wake();
                }
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn thread_ended(&self) {
        let mut state = locked(&self.state);
        state.threads -= 1;
        let last = state.threads == 0;
        drop(state);
        if last {
            self.ended.set();
        }
    }
}

fn start_thread(number: usize, shared: &Arc<Shared>) -> io::Result<JoinHandle<()>> {
    locked(&shared.state).threads += 1;
    let worker = Arc::clone(shared);
    let started = thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || {
            while let Some(job) = worker.next_job() {
                // The job's own panics are caught in it; this one is for a result that panics while it is dropped.
                if let Err(payload) = catch_unwind(AssertUnwindSafe(job)) {
                    tracing::error!(error = %Panicked::from_payload(&*payload), "result of a job ended");
                }
                locked(&worker.state).running -= 1;
            }
            worker.thread_ended();
        });
    if started.is_err() {
        shared.thread_ended();
    }
    started
}
