//! Cap'n Proto RPC over any byte stream, hardened against peers that are slow, greedy or hostile.
//!
//! What is done here around capnp-rpc:
//! - what it writes has no bound: a server reads nothing more while its peer does not take what was written, and cuts the
//!   peer off when nothing moved for [`RpcLimits::write_deadline`];
//! - memory for a message grows with what has arrived of it, not with what its header promises; a promise beyond
//!   [`RpcLimits::message_bytes_max`] (beyond 64 KiB before the peer has authenticated) ends the connection;
//! - it waits for ever for the rest of a message: [`RpcLimits::read_deadline`];
//! - it keeps parameters and results until they are answered and finished: number and size of open calls are bounded;
//! - all this together is bounded for all connections of a [`crate::ConnectionLimit`] by one budget.
//!
//! A client never stops reading (else both sides could wait for each other); its own calls bound what it has to write.

mod calls;
pub mod frame;
mod network;
mod output;
mod transport;

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use capnp::capability::FromClientHook;
use capnp::message::ReaderOptions;
use capnp_rpc::RpcSystem;
use capnp_rpc::rpc_twoparty_capnp::Side;
use futures::io::{AsyncRead, AsyncWrite};
use futures::task::AtomicWaker;

use crate::clock;
use crate::executor::Panicked;
use crate::limit::{ConnectionHandle, Evicted};
use crate::timer::{Sleep, sleep_until};
use network::Network;
use transport::Transport;

/// An overdue peer gets so much more, in case it was us who slept: after a stop or a suspended machine the bytes are in
/// the kernel, but not yet read.
const GRACE: Duration = Duration::from_millis(100);

/// The last words (an abort with its reason) may take so long.
const FAREWELL: Duration = Duration::from_secs(1);

const POLLS_AFTER_FAILURE: u32 = 100;

/// Before the peer has authenticated it needs a few hundred bytes; the largest token fits as well. Everything that is
/// large comes after.
const STRANGER_MESSAGE_BYTES_MAX: usize = 64 << 10;

/// The RPC system often has to be polled again at once; so often it is, before other tasks have their turn.
const ROUNDS: u32 = 8;

/// Bounds of one connection.
#[derive(Debug, Clone)]
pub struct RpcLimits {
    pub message_bytes_max: usize,
    /// Depth of pointers in a message.
    pub nesting_max: i32,
    /// A message that has begun must be complete within this time.
    pub read_deadline: Duration,
    /// Written bytes may stand without any progress for this time.
    pub write_deadline: Duration,
    /// A client must say something within this time (servers only).
    pub first_message_deadline: Duration,
    /// Calls that are not both answered and finished (servers only).
    pub open_calls_max: usize,
    /// Parameters, then results, of those calls.
    pub open_bytes_max: usize,
}

impl Default for RpcLimits {
    fn default() -> Self {
        Self {
            message_bytes_max: 8 << 20,
            nesting_max: 64,
            read_deadline: Duration::from_secs(30),
            write_deadline: Duration::from_secs(30),
            first_message_deadline: Duration::from_secs(30),
            open_calls_max: 16_384,
            // Half of what all connections share by default.
            open_bytes_max: 32 << 20,
        }
    }
}

impl RpcLimits {
    fn reader_options(&self) -> ReaderOptions {
        let mut options = ReaderOptions::new();
        // A message may be walked somewhat more than once: parameters are read again by those who convert them.
        options.traversal_limit_in_words(Some((self.message_bytes_max / 8).saturating_mul(4)));
        options.nesting_limit(self.nesting_max);
        options
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum CloseReason {
    #[error("closed by the peer")]
    PeerClosed,
    #[error("message refused: {reason}")]
    MessageRefused { reason: String },
    #[error("a message was begun, but did not complete within {seconds} s")]
    ReadDeadline { seconds: u64 },
    #[error("the peer took no bytes for {seconds} s")]
    WriteDeadline { seconds: u64 },
    #[error("the peer sent nothing within {seconds} s")]
    Silent { seconds: u64 },
    #[error("{calls} calls with {bytes} bytes are unanswered or unfinished")]
    TooManyCalls { calls: usize, bytes: usize },
    #[error("it would hold {bytes} bytes of memory, and the {budget} bytes for all connections are taken")]
    NoMemory { bytes: usize, budget: usize },
    #[error("closed to make room for another connection")]
    Evicted,
    #[error("stream failed")]
    Stream(#[source] io::Error),
    #[error("protocol error: {reason}")]
    Protocol { reason: String },
    #[error("a method panicked")]
    Panicked(#[source] Panicked),
}

impl CloseReason {
    /// The peer did something it should not: worth a line in the log.
    pub fn is_misbehaviour(&self) -> bool {
        !matches!(
            self,
            Self::PeerClosed | Self::Evicted | Self::Stream(_) | Self::Silent { .. }
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Server,
    Client,
}

/// Bytes that went through a connection so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub open_calls: usize,
}

/// Serves one connection: the peer gets `bootstrap`. Ready when the connection is over, whoever ended it; dropping it
/// closes the connection. Capabilities given to the peer are dropped in both cases.
pub fn serve_connection<S>(
    stream: S,
    bootstrap: capnp::capability::Client,
    limits: &RpcLimits,
) -> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    Connection::new(stream, Role::Server, Some(bootstrap), limits, None)
}

/// As [`serve_connection`], under a [`crate::ConnectionLimit`]: it is told what the connection does, and may close it.
pub fn serve_limited<S>(
    stream: S,
    bootstrap: capnp::capability::Client,
    limits: &RpcLimits,
    handle: ConnectionHandle,
) -> Connection<S>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    Connection::new(stream, Role::Server, Some(bootstrap), limits, Some(handle))
}

/// The client's side: the peer's bootstrap capability, and the future that moves the bytes, to be spawned.
pub fn connect<S, C>(stream: S, limits: &RpcLimits) -> (Connection<S>, C)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    C: FromClientHook,
{
    let (transport, mut rpc) = build(stream, Role::Client, None, limits, None);
    let bootstrap = rpc.bootstrap(Side::Server);
    (Connection::from_parts(transport, rpc, None), bootstrap)
}

/// One connection at work.
#[must_use = "does nothing unless awaited or spawned"]
pub struct Connection<S: AsyncRead + AsyncWrite + Unpin + 'static> {
    rpc: Option<RpcSystem<Side>>,
    transport: Rc<Transport<S>>,
    wakes: Arc<Wakes>,
    rpc_waker: Waker,
    evicted: Option<Evicted>,
    alarm: Option<Sleep>,
    grace: Option<Grace>,
    polls_after_failure: u32,
    ending: Option<Ending>,
}

/// Gathers what wakes the RPC system: while it is being polled it wakes itself several times for each message, which is
/// no business of the event loop.
struct Wakes {
    woken: AtomicBool,
    driving: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let news = !self.woken.swap(true, Ordering::SeqCst);
        if news && !self.driving.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

/// The deadline has passed, but the peer's bytes may be there and only not yet read.
#[derive(Clone, Copy)]
struct Grace {
    deadline: Instant,
    until: Instant,
}

/// The RPC system has ended; its last bytes are on their way.
struct Ending {
    reason: CloseReason,
    give_up: Sleep,
}

fn build<S>(
    stream: S,
    role: Role,
    bootstrap: Option<capnp::capability::Client>,
    limits: &RpcLimits,
    handle: Option<ConnectionHandle>,
) -> (Rc<Transport<S>>, RpcSystem<Side>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let transport = Rc::new(Transport::new(stream, role, limits.clone(), handle));
    let side = match role {
        Role::Server => Side::Server,
        Role::Client => Side::Client,
    };
    let network = Network::new(Rc::clone(&transport), side, limits.reader_options());
    (transport, RpcSystem::new(Box::new(network), bootstrap))
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Connection<S> {
    fn new(
        stream: S,
        role: Role,
        bootstrap: Option<capnp::capability::Client>,
        limits: &RpcLimits,
        handle: Option<ConnectionHandle>,
    ) -> Self {
        let evicted = handle.as_ref().map(ConnectionHandle::evicted);
        let (transport, rpc) = build(stream, role, bootstrap, limits, handle);
        Self::from_parts(transport, rpc, evicted)
    }

    fn from_parts(transport: Rc<Transport<S>>, rpc: RpcSystem<Side>, evicted: Option<Evicted>) -> Self {
        let wakes = Arc::new(Wakes {
            woken: AtomicBool::new(true),
            driving: AtomicBool::new(false),
            task: AtomicWaker::new(),
        });
        Self {
            rpc: Some(rpc),
            transport,
            rpc_waker: Waker::from(Arc::clone(&wakes)),
            wakes,
            evicted,
            alarm: None,
            grace: None,
            polls_after_failure: 0,
            ending: None,
        }
    }

    pub fn traffic(&self) -> Traffic {
        self.transport.traffic()
    }

    /// Polls the RPC system as long as it has something to do, and writes what it has sent.
    fn drive(&mut self) -> Option<CloseReason> {
        self.transport.drain();
        for _ in 0..ROUNDS {
            if !self.wakes.woken.swap(false, Ordering::SeqCst) && !self.transport.has_failed() {
                return None;
            }
            let ended = self.poll_rpc();
            self.transport.drain();
            if ended.is_some() {
                return ended;
            }
        }
        None
    }

    fn poll_rpc(&mut self) -> Option<CloseReason> {
        let rpc = self.rpc.as_mut()?;
        let cx = &mut Context::from_waker(&self.rpc_waker);
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(rpc).poll(cx)));
        let reason = match polled {
            Ok(Poll::Pending) => return None,
            Ok(Poll::Ready(result)) => self
                .transport
                .take_failure()
                .unwrap_or_else(|| self.transport.reason_of(result)),
            Err(payload) => {
                let panicked = Panicked::from_payload(&*payload);
                tracing::error!(error = %panicked, "a method ended its connection");
                CloseReason::Panicked(panicked)
            }
        };
        self.end_rpc();
        Some(reason)
    }

    /// A failed transport ends the RPC system within a few polls; that is not left to trust.
    fn give_up_waiting(&mut self) -> Option<CloseReason> {
        if !self.transport.has_failed() {
            return None;
        }
        self.polls_after_failure += 1;
        if self.polls_after_failure < POLLS_AFTER_FAILURE {
            return None;
        }
        self.end_rpc();
        self.transport.take_failure()
    }

    /// Disconnects, so that capabilities given out and taken do not keep each other alive, and drops the RPC system.
    fn end_rpc(&mut self) {
        let Some(rpc) = self.rpc.take() else { return };
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let mut disconnector = rpc.get_disconnector();
            // The first poll disconnects; what it then waits for is not needed.
            let _ = Pin::new(&mut disconnector).poll(&mut Context::from_waker(Waker::noop()));
            drop(disconnector);
            drop(rpc);
        }));
        if let Err(payload) = ended {
            tracing::error!(error = %Panicked::from_payload(&*payload), "a capability panicked while it was dropped");
        }
    }

    /// Fails the transport if a deadline has passed. Costs nothing while none is pending.
    fn check_deadlines(&mut self, cx: &mut Context<'_>) {
        loop {
            let Some(deadline) = self.transport.deadline() else {
                self.grace = None;
                // A loop without timers sleeps without a timeout, which is cheaper for the kernel.
                self.alarm = None;
                return;
            };
            let due = match self.grace {
                Some(grace) if grace.deadline == deadline => grace.until,
                _ => {
                    self.grace = None;
                    deadline
                }
            };
            let alarm = match &mut self.alarm {
                Some(alarm) if alarm.deadline() <= due => alarm,
                slot => slot.insert(sleep_until(due)),
            };
            if Pin::new(alarm).poll(cx).is_pending() {
                return;
            }
            self.alarm = None;
            let now = clock::now();
            if now < due {
                continue;
            }
            if self.grace.is_some() {
                self.transport.fail_overdue();
                return;
            }
            self.grace = Some(Grace {
                deadline,
                until: now + GRACE,
            });
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Future for Connection<S> {
    type Output = CloseReason;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let this = &mut *self;
        this.wakes.task.register(cx.waker());
        if let Some(evicted) = &mut this.evicted
            && Pin::new(evicted).poll(cx).is_ready()
        {
            this.evicted = None;
            this.transport.fail(CloseReason::Evicted);
        }
        this.transport.begin_driving(cx.waker());
        this.wakes.driving.store(true, Ordering::SeqCst);
        let polled = this.poll_driving(cx);
        this.wakes.driving.store(false, Ordering::SeqCst);
        this.transport.end_driving();
        if polled.is_pending() && this.rpc.is_some() && this.wakes.woken.load(Ordering::SeqCst) {
            cx.waker().wake_by_ref();
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Connection<S> {
    fn poll_driving(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let this = self;
        if this.ending.is_none() {
            if this.alarm.is_some() {
                this.check_deadlines(cx);
            }
            let ended = this.drive();
            // A deadline may have come into being; it has to be waited for.
            if ended.is_none() {
                this.check_deadlines(cx);
            }
            let Some(reason) = ended.or_else(|| this.give_up_waiting()) else {
                if this.transport.has_failed() {
                    // Its reader has been woken and will tell the RPC system.
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            };
            this.ending = Some(Ending {
                reason,
                give_up: sleep_until(clock::now() + FAREWELL),
            });
        }
        this.transport.drain();
        let Some(ending) = &mut this.ending else {
            return Poll::Pending;
        };
        if this.transport.has_output()
            && !this.transport.has_failed()
            && Pin::new(&mut ending.give_up).poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        match this.ending.take() {
            Some(ending) => Poll::Ready(ending.reason),
            None => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Drop for Connection<S> {
    fn drop(&mut self) {
        self.end_rpc();
        self.transport.close();
    }
}
