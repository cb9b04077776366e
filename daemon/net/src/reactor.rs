//! The event loop: waits in epoll (through mio), marks sources ready, wakes tasks, runs them.
//!
//! One turn: poll the root if it was woken, run at most [`Config::budget`] task polls or as many as [`Config::slice`] has
//! time for, wait (not at all if work is left), dispatch events, fire timers. Dispatch never runs foreign code but wakers, so a stale event can at worst make a
//! task try an operation that would block.
//!
//! mio is edge-triggered only: a source is believed ready until an operation on it says `WouldBlock`.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::RawFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Registry, Token};
use slab::Slab;

use crate::clock;
use crate::executor::{Executor, Remote, Runnable};
use crate::timer::Timers;
use crate::turn::Turn;

const WAKER_TOKEN: Token = Token(usize::MAX);

/// Socket operations that one task poll may do before it has to let others run.
const OPERATIONS_PER_POLL: u32 = 64;

/// Tasks beyond the first that are remembered as waiting for the same readiness.
const OTHERS_MAX: usize = 16;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Reactor>>> = const { RefCell::new(None) };
}

/// How a loop is built.
#[derive(Debug, Clone)]
pub struct Config {
    /// Task polls between two looks at the kernel.
    pub budget: usize,
    /// Time after which a turn with many polls looks at the kernel, too: some polls take a thousand times as long as others.
    pub slice: Duration,
    /// Events taken from the kernel at once.
    pub events: usize,
    /// A turn (without the waiting) that takes longer is logged and counted: something blocks the loop.
    pub stall: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            budget: 256,
            slice: Duration::from_millis(1),
            events: 256,
            stall: Duration::from_millis(100),
        }
    }
}

/// What a loop has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    pub turns: u64,
    pub events: u64,
    pub polls: u64,
    pub tasks: usize,
    pub sources: usize,
    pub timers: usize,
    pub panics: u64,
    pub stalls: u64,
    /// To the precision of the kernel's timer tick.
    pub longest_turn: Duration,
}

#[derive(Default)]
struct Counters {
    turns: Cell<u64>,
    events: Cell<u64>,
    polls: Cell<u64>,
    stalls: Cell<u64>,
    longest_turn: Cell<Duration>,
}

pub(crate) struct Reactor {
    poll: RefCell<mio::Poll>,
    events: RefCell<Events>,
    registry: Registry,
    sources: RefCell<Slab<Rc<IoState>>>,
    pub(crate) timers: RefCell<Timers>,
    pub(crate) executor: Rc<Executor>,
    operations: Cell<u32>,
    counters: Counters,
}

/// Readiness of one registered descriptor.
pub(crate) struct IoState {
    pub(crate) fd: RawFd,
    token: Token,
    base: Option<Interest>,
    armed: Cell<bool>,
    pub(crate) readable: Readiness,
    pub(crate) writable: Readiness,
    pub(crate) priority: Readiness,
    pub(crate) read_closed: Cell<bool>,
}

#[derive(Default)]
pub(crate) struct Readiness {
    pub(crate) ready: Cell<bool>,
    waiter: Cell<Option<Waker>>,
    /// Seldom used: further tasks that wait for the same.
    others: RefCell<Vec<Waker>>,
}

impl Readiness {
    fn set(&self) -> bool {
        self.ready.set(true);
        let waiter = self.waiter.take();
        let others = self.others.take();
        let waited = waiter.is_some();
        for waker in waiter.into_iter().chain(others) {
            waker.wake();
        }
        waited
    }

    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ready.get() {
            return Poll::Ready(());
        }
        match self.waiter.take() {
            Some(waker) if waker.will_wake(cx.waker()) => self.waiter.set(Some(waker)),
            Some(other) => {
                self.waiter.set(Some(cx.waker().clone()));
                self.add_other(other);
            }
            None => self.waiter.set(Some(cx.waker().clone())),
        }
        Poll::Pending
    }

    /// Keeps the waker of another task. It may as well be one that waits no more, so their number is bounded: beyond it
    /// all are woken, and those that still wait come back.
    fn add_other(&self, other: Waker) {
        let mut others = self.others.borrow_mut();
        if !others.iter().any(|waker| waker.will_wake(&other)) {
            others.push(other);
        }
        let surplus = if others.len() > OTHERS_MAX {
            std::mem::take(&mut *others)
        } else {
            Vec::new()
        };
        drop(others);
        for waker in surplus {
            waker.wake();
        }
    }
}

impl IoState {
    fn interest(&self) -> Interest {
        match self.base {
            Some(base) if self.armed.get() => base | Interest::WRITABLE,
            Some(base) => base,
            None => Interest::WRITABLE,
        }
    }
}

impl Reactor {
    fn new(config: &Config) -> io::Result<Self> {
        let poll = mio::Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = mio::Waker::new(&registry, WAKER_TOKEN)?;
        Ok(Self {
            poll: RefCell::new(poll),
            events: RefCell::new(Events::with_capacity(config.events.max(1))),
            registry,
            sources: RefCell::default(),
            timers: RefCell::default(),
            executor: Rc::new(Executor::new(Arc::new(Remote::new(waker)))),
            operations: Cell::new(OPERATIONS_PER_POLL),
            counters: Counters::default(),
        })
    }

    /// Registers a descriptor. Write interest is added only while somebody waits to write (see [`Self::arm_write`]), since a
    /// unix socket reports a writable edge each time its peer reads.
    pub(crate) fn register(&self, fd: RawFd, base: Option<Interest>) -> io::Result<Rc<IoState>> {
        let mut sources = self.sources.borrow_mut();
        let entry = sources.vacant_entry();
        let state = Rc::new(IoState {
            fd,
            token: Token(entry.key()),
            base,
            armed: Cell::new(base.is_none()),
            readable: Readiness::default(),
            writable: Readiness::default(),
            priority: Readiness::default(),
            read_closed: Cell::new(false),
        });
        self.registry
            .register(&mut SourceFd(&fd), state.token, state.interest())?;
        entry.insert(Rc::clone(&state));
        Ok(state)
    }

    /// Must come before the descriptor is closed: epoll knows the open file, not the number.
    pub(crate) fn deregister(&self, state: &IoState) {
        if let Err(error) = self.registry.deregister(&mut SourceFd(&state.fd)) {
            tracing::error!(%error, fd = state.fd, "can not deregister a descriptor from the event loop");
        }
        let removed = self.sources.borrow_mut().try_remove(state.token.0);
        drop(removed);
    }

    /// Asks for an event once the descriptor can be written; comes at once if it already can.
    pub(crate) fn arm_write(&self, state: &IoState) -> io::Result<()> {
        if state.armed.replace(true) {
            return Ok(());
        }
        self.registry
            .reregister(&mut SourceFd(&state.fd), state.token, state.interest())
    }

    /// Nobody waits for writability: stop asking.
    fn disarm_write(&self, state: &IoState) {
        if state.base.is_some() && state.armed.replace(false) {
            let disarmed = self
                .registry
                .reregister(&mut SourceFd(&state.fd), state.token, state.interest());
            if let Err(error) = disarmed {
                tracing::debug!(%error, fd = state.fd, "can not change what the event loop waits for");
            }
        }
    }

    /// Takes one operation of the present task poll's allowance. Pending (and woken again) when it is used up, so that a
    /// source that is always ready can not keep the loop to itself.
    pub(crate) fn poll_allowance(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.operations.get().checked_sub(1) {
            Some(left) => {
                self.operations.set(left);
                Poll::Ready(())
            }
            None => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    pub(crate) fn turn_number(&self) -> u64 {
        self.counters.turns.get()
    }

    /// Runs tasks while the turn has room; says how many.
    fn run_tasks(&self, turn: &mut Turn) -> usize {
        if self.executor.remote.has_pending() {
            self.executor.take_in_remote();
        }
        let mut ran = 0;
        while turn.has_room() {
            let Some(runnable) = self.executor.pop() else {
                break;
            };
            let name = *runnable.metadata();
            ran += 1;
            self.operations.set(OPERATIONS_PER_POLL);
            self.counters.polls.set(self.counters.polls.get() + 1);
            self.executor.run(runnable);
            turn.polled(name);
        }
        ran
    }

    /// Waits for events, dispatches them, fires timers. Returns when the waiting ended, by the coarse clock.
    fn wait(&self, root_woken: &AtomicBool, turn: &Turn, config: &Config) -> io::Result<Duration> {
        let busy = self.executor.has_work()
            || root_woken.load(Ordering::SeqCst)
            || !self.executor.remote.park(root_woken);
        self.note_turn(turn.ended(config.stall), config);
        let timeout = if busy {
            Some(Duration::ZERO)
        } else {
            let deadline = self.timers.borrow().next_deadline();
            deadline.map(|deadline| deadline.saturating_duration_since(clock::now()))
        };
        let mut events = self.events.borrow_mut();
        let waited = self.poll.borrow_mut().poll(&mut events, timeout);
        self.executor.remote.unparked();
        match waited {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
            Err(error) => return Err(error),
        }
        let ended = clock::coarse();
        self.dispatch(&events);
        events.clear();
        drop(events);
        self.fire_timers();
        Ok(ended)
    }

    fn fire_timers(&self) {
        if self.timers.borrow().len() == 0 {
            return;
        }
        let now = clock::now();
        loop {
            let expired = self.timers.borrow_mut().pop_expired(now);
            let Some(waker) = expired else { break };
            waker.wake();
        }
    }

    fn dispatch(&self, events: &Events) {
        for event in events {
            self.counters.events.set(self.counters.events.get() + 1);
            let state = self.sources.borrow().get(event.token().0).cloned();
            let Some(state) = state else { continue };
            let failed = event.is_error();
            if event.is_read_closed() {
                state.read_closed.set(true);
            }
            if event.is_readable() || event.is_read_closed() || failed {
                state.readable.set();
            }
            if event.is_priority() || failed {
                state.priority.set();
            }
            if (event.is_writable() || event.is_write_closed() || failed) && !state.writable.set() {
                self.disarm_write(&state);
            }
        }
    }

    fn note_turn(&self, took: Duration, config: &Config) {
        self.counters.turns.set(self.counters.turns.get() + 1);
        if took > self.counters.longest_turn.get() {
            self.counters.longest_turn.set(took);
        }
        if took > config.stall {
            self.counters.stalls.set(self.counters.stalls.get() + 1);
        }
    }

    fn statistics(&self) -> Statistics {
        Statistics {
            turns: self.counters.turns.get(),
            events: self.counters.events.get(),
            polls: self.counters.polls.get(),
            tasks: self.executor.tasks(),
            sources: self.sources.borrow().len(),
            timers: self.timers.borrow().len(),
            panics: self.executor.panics.get(),
            stalls: self.counters.stalls.get(),
            longest_turn: self.counters.longest_turn.get(),
        }
    }
}

/// The loop of this thread.
///
/// # Panics
/// Outside [`run`]: a programming error, as there is nothing that could ever wake the caller.
pub(crate) fn current() -> Rc<Reactor> {
    match try_current() {
        Some(reactor) => reactor,
        None => panic!("no event loop on this thread: call this inside net::run"),
    }
}

pub(crate) fn try_current() -> Option<Rc<Reactor>> {
    CURRENT
        .try_with(|current| current.borrow().clone())
        .ok()
        .flatten()
}

/// Queues a runnable if it belongs to this thread's loop, else gives it back.
pub(crate) fn push_if_local(remote: &Arc<Remote>, runnable: Runnable) -> Option<Runnable> {
    let mut runnable = Some(runnable);
    // During thread teardown the slot is gone; then the remote path is right.
    let _ = CURRENT.try_with(|current| {
        if let Some(reactor) = &*current.borrow()
            && Arc::ptr_eq(&reactor.executor.remote, remote)
            && let Some(runnable) = runnable.take()
        {
            reactor.executor.push(runnable);
        }
    });
    runnable
}

/// What this thread's loop has done. All zero outside [`run`].
pub fn statistics() -> Statistics {
    try_current().map_or_else(Statistics::default, |reactor| reactor.statistics())
}

struct RootWaker {
    woken: AtomicBool,
    remote: Arc<Remote>,
}

impl Wake for RootWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        self.remote.unpark();
    }
}

/// Ends the loop of this thread also when the root future panics: remaining tasks are dropped while it still exists.
struct Entered(Rc<Reactor>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.executor.clear();
        let timers = std::mem::take(&mut *self.0.timers.borrow_mut());
        drop(timers);
        let reactor = CURRENT.with(|current| current.borrow_mut().take());
        drop(reactor);
    }
}

/// Builds an event loop on this thread and runs `root` on it, together with all tasks it spawns, until `root` is done.
/// Then the remaining tasks are dropped and the root's output is returned.
///
/// # Errors
/// When epoll can not be set up or fails, or when this thread already runs a loop.
///
/// # Panics
/// When `root` panics.
pub fn run<F: Future>(config: Config, root: F) -> io::Result<F::Output> {
    if try_current().is_some() {
        return Err(io::Error::other("this thread already runs an event loop"));
    }
    let reactor = Rc::new(Reactor::new(&config)?);
    CURRENT.with(|current| *current.borrow_mut() = Some(Rc::clone(&reactor)));
    let entered = Entered(Rc::clone(&reactor));
    let remote = Arc::clone(&reactor.executor.remote);
    let root_waker = Arc::new(RootWaker {
        woken: AtomicBool::new(true),
        remote,
    });
    let waker = Waker::from(Arc::clone(&root_waker));
    let mut cx = Context::from_waker(&waker);
    let mut began = clock::coarse();
    let output = {
        let mut root = pin!(root);
        'turns: loop {
            // A root and its tasks often work in turns; no look at the kernel is needed in between.
            let mut turn = Turn::new(began, &config);
            while turn.has_room() {
                if root_woken_once(&root_waker) {
                    reactor.operations.set(OPERATIONS_PER_POLL);
                    if let Poll::Ready(output) = root.as_mut().poll(&mut cx) {
                        break 'turns output;
                    }
                    turn.polled("the root");
                }
                let ran = reactor.run_tasks(&mut turn);
                if ran == 0 && !root_waker.woken.load(Ordering::Relaxed) {
                    break;
                }
            }
            began = reactor.wait(&root_waker.woken, &turn, &config)?;
        }
    };
    drop(entered);
    Ok(output)
}

fn root_woken_once(root: &RootWaker) -> bool {
    root.woken.load(Ordering::Relaxed) && root.woken.swap(false, Ordering::SeqCst)
}

/// Lets the other tasks run once.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
