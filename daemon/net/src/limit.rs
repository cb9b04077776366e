//! How many connections a listener may have, and who has to go when it is full.
//!
//! Policy: at the limit, the connection that was quiet longest among those that have neither authenticated nor a call
//! outstanding is closed for the new one. If there is none, the new one is refused. So ten thousand silent connections
//! cost a bounded number of descriptors and never keep a working client out. Running out of descriptors (`EMFILE`) is
//! survived: an idle connection is closed, and accepting pauses for a moment.
//!
//! All connections of a limit also share a budget of memory (see [`ConnectionLimit::with_memory`]).

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use slab::Slab;

use crate::clock;
use crate::memory::{Account, Budget};
use crate::reactor;
use crate::timer::sleep;

/// Pause after the system ran out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The same complaint is logged at most once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// What all connections of a limit may hold together unless told otherwise: eight of the largest messages.
const MEMORY_MAX: usize = 64 << 20;

/// Something that accepts connections.
pub trait Listener: 'static {
    type Stream: 'static;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Stream>>;

    /// The address, for messages.
    fn describe(&self) -> String;
}

/// Numbers of one [`ConnectionLimit`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionCounters {
    pub open: usize,
    pub accepted: u64,
    /// Closed to make room for a newer one.
    pub evicted: u64,
    /// Closed at once because the limit was reached and no open one could go.
    pub refused: u64,
    /// Accepts that failed because the system was out of descriptors or memory.
    pub exhausted: u64,
    /// Bytes that connections hold now beyond the little that each has of its own.
    pub memory: usize,
}

impl fmt::Display for ConnectionCounters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            open,
            accepted,
            evicted,
            refused,
            exhausted,
            memory,
        } = self;
        write!(
            formatter,
            "open {open}, accepted {accepted}, evicted {evicted}, refused {refused}, exhausted {exhausted}, memory {memory}"
        )
    }
}

/// Guard of one listener, or of several that share a limit (clones are the same limit).
#[derive(Clone)]
pub struct ConnectionLimit(Rc<Table>);

struct Table {
    maximum: usize,
    entries: RefCell<Slab<Rc<Entry>>>,
    counters: Cell<ConnectionCounters>,
    complaint: RateLimited,
    budget: Rc<Budget>,
}

/// The table of what each connection is doing. Time is the loop's turn number: free to read, and only the order matters.
struct Entry {
    last_active: Cell<u64>,
    account: Account,
    calls: Cell<usize>,
    evicted: Cell<bool>,
    /// The connection's own task.
    waiter: Cell<Option<Waker>>,
}

impl ConnectionLimit {
    pub fn new(maximum: usize) -> Self {
        Self::with_memory(maximum, MEMORY_MAX)
    }

    /// With a budget for what all connections hold in partly received messages, open calls and answers that were not
    /// taken. The connection that asks for more is closed ([`crate::rpc::CloseReason::NoMemory`]); the others go on.
    pub fn with_memory(maximum: usize, memory_max: usize) -> Self {
        Self(Rc::new(Table {
            maximum: maximum.max(1),
            entries: RefCell::default(),
            counters: Cell::default(),
            complaint: RateLimited::default(),
            budget: Budget::new(memory_max),
        }))
    }

    /// Makes room for one more connection. `None`: it must be closed.
    pub fn admit(&self) -> Option<ConnectionGuard> {
        let table = &self.0;
        if table.entries.borrow().len() >= table.maximum && !self.evict_idlest() {
            table.count(|counters| counters.refused += 1);
            return None;
        }
        let entry = Rc::new(Entry {
            last_active: Cell::new(turn_number()),
            account: Account::new(&table.budget),
            calls: Cell::new(0),
            evicted: Cell::new(false),
            waiter: Cell::new(None),
        });
        let key = table.entries.borrow_mut().insert(Rc::clone(&entry));
        table.count(|counters| counters.accepted += 1);
        Some(ConnectionGuard {
            table: Rc::clone(table),
            key,
            handle: ConnectionHandle(entry),
        })
    }

    /// Closes the connection that was quiet longest, of those that may go. False if there is none.
    pub fn evict_idlest(&self) -> bool {
        let table = &self.0;
        let mut entries = table.entries.borrow_mut();
        let victim = entries
            .iter()
            .filter(|(_, entry)| !entry.account.is_trusted() && entry.calls.get() == 0)
            .min_by_key(|(_, entry)| entry.last_active.get())
            .map(|(key, _)| key);
        let Some(key) = victim else { return false };
        // Out of the table at once, so that it is not chosen twice; its guard finds itself gone.
        let entry = entries.remove(key);
        drop(entries);
        table.count(|counters| counters.evicted += 1);
        entry.evicted.set(true);
        if let Some(waker) = entry.waiter.take() {
            waker.wake();
        }
        true
    }

    pub fn counters(&self) -> ConnectionCounters {
        ConnectionCounters {
            open: self.0.entries.borrow().len(),
            memory: self.0.budget.used(),
            ..self.0.counters.get()
        }
    }
}

impl Table {
    fn count(&self, change: impl FnOnce(&mut ConnectionCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }
}

fn turn_number() -> u64 {
    reactor::try_current().map_or(0, |reactor| reactor.turn_number())
}

/// Held as long as the connection is open.
pub struct ConnectionGuard {
    table: Rc<Table>,
    key: usize,
    handle: ConnectionHandle,
}

impl ConnectionGuard {
    /// For whoever authenticates the peer.
    pub fn handle(&self) -> ConnectionHandle {
        self.handle.clone()
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let mut entries = self.table.entries.borrow_mut();
        let ours = entries
            .get(self.key)
            .is_some_and(|entry| Rc::ptr_eq(entry, &self.handle.0));
        if ours {
            entries.remove(self.key);
        }
    }
}

/// Tells the limit what a connection is doing.
#[derive(Clone)]
pub struct ConnectionHandle(Rc<Entry>);

impl ConnectionHandle {
    /// The peer is known: never close this connection to make room, and take its large messages.
    pub fn protect(&self) {
        self.0.account.trust();
    }

    pub fn is_protected(&self) -> bool {
        self.0.account.is_trusted()
    }

    /// See [`Account::hold`]. The error is the size of the whole budget.
    pub(crate) fn hold(&self, bytes: usize) -> Result<(), usize> {
        if self.0.account.hold(bytes) {
            Ok(())
        } else {
            Err(self.0.account.budget().maximum())
        }
    }

    pub fn touch(&self) {
        self.0.last_active.set(turn_number());
    }

    /// How many calls of the peer are unanswered.
    pub fn set_calls(&self, calls: usize) {
        self.0.calls.set(calls);
    }

    pub fn is_evicted(&self) -> bool {
        self.0.evicted.get()
    }

    /// Ready when the connection has to go. One task may wait for it.
    pub fn evicted(&self) -> Evicted {
        Evicted(Rc::clone(&self.0))
    }
}

/// Made by [`ConnectionHandle::evicted`].
#[must_use = "does nothing unless awaited"]
pub struct Evicted(Rc<Entry>);

impl Future for Evicted {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.evicted.get() {
            return Poll::Ready(());
        }
        let waker = match self.0.waiter.take() {
            Some(waker) if waker.will_wake(cx.waker()) => waker,
            _ => cx.waker().clone(),
        };
        self.0.waiter.set(Some(waker));
        Poll::Pending
    }
}

/// Accepts for ever and hands each admitted connection on. Ends only when the listener itself is broken.
pub async fn accept_loop<L: Listener>(
    listener: &L,
    limit: &ConnectionLimit,
    mut on_connection: impl FnMut(L::Stream, ConnectionGuard),
) -> io::Error {
    loop {
        let error = match poll_fn(|cx| listener.poll_accept(cx)).await {
            Ok(stream) => {
                match limit.admit() {
                    Some(guard) => on_connection(stream, guard),
                    None => refuse(listener, limit),
                }
                continue;
            }
            Err(error) => error,
        };
        match accept_failure(&error) {
            AcceptFailure::ThisConnection => {}
            AcceptFailure::Exhausted => {
                limit.0.count(|counters| counters.exhausted += 1);
                limit.evict_idlest();
                limit.0.complaint.run(|suppressed| {
                    tracing::warn!(%error, listener = listener.describe(), suppressed, "can not accept a connection now");
                });
                sleep(ACCEPT_PAUSE).await;
            }
            AcceptFailure::Listener => return error,
        }
    }
}

fn refuse<L: Listener>(listener: &L, limit: &ConnectionLimit) {
    limit.0.complaint.run(|suppressed| {
        let counters = limit.counters();
        tracing::warn!(listener = listener.describe(), limit = limit.0.maximum, %counters, suppressed, "connection refused: limit reached");
    });
}

enum AcceptFailure {
    /// The peer or the network failed before we looked (accept(2): "treat them like EAGAIN").
    ThisConnection,
    Exhausted,
    Listener,
}

fn accept_failure(error: &io::Error) -> AcceptFailure {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM | Errno::ENOSPC) => {
            AcceptFailure::Exhausted
        }
        Some(Errno::EBADF | Errno::EFAULT | Errno::ENOTSOCK | Errno::EOPNOTSUPP) => AcceptFailure::Listener,
        // EINVAL also comes from setting options on a connection that is already reset.
        _ => AcceptFailure::ThisConnection,
    }
}

/// Says something at most once in [`LOG_INTERVAL`], with the number of times it kept silent.
#[derive(Default)]
pub(crate) struct RateLimited {
    last: Cell<Option<Instant>>,
    suppressed: Cell<u64>,
}

impl RateLimited {
    pub(crate) fn run(&self, say: impl FnOnce(u64)) {
        let now = clock::now();
        if self
            .last
            .get()
            .is_some_and(|last| now.saturating_duration_since(last) < LOG_INTERVAL)
        {
            self.suppressed.set(self.suppressed.get() + 1);
            return;
        }
        self.last.set(Some(now));
        say(self.suppressed.replace(0));
    }
}
