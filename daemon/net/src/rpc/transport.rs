//! The byte stream below the RPC system: buffers, limits, deadlines, accounting.
//!
//! Sent messages are gathered and written when the RPC system has nothing more to do at once, so many small answers leave
//! in one system call; reading stops while the peer does not take our bytes.

mod ending;

use std::cell::{Cell, RefCell, RefMut};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use capnp::message::{Builder, HeapAllocator};
use futures::io::{AsyncRead, AsyncWrite};

use super::calls::OpenCalls;
use super::frame::{self, Assembler, FrameError, Limits, Message};
use super::output::Output;
use super::{CloseReason, Role, RpcLimits, STRANGER_MESSAGE_BYTES_MAX, Traffic};
use crate::clock;
use crate::limit::ConnectionHandle;

/// What is read goes through a buffer of this size, except the rest of a large message.
const INPUT_BUFFER: usize = 8 << 10;

thread_local! {
    /// Of the connection that found nothing to read last, for the next one that looks: who waits holds none.
    static SPARE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Gathered output beyond this is written before the RPC system has come to rest.
const OUTPUT_HIGH: usize = 64 << 10;

pub(super) struct Transport<S> {
    stream: RefCell<S>,
    role: Role,
    limits: RpcLimits,
    handle: Option<ConnectionHandle>,
    /// The driver is at work, and will write what is sent meanwhile.
    driving: Cell<bool>,
    state: RefCell<State>,
}

struct State {
    opened: Instant,
    heard: bool,
    input: Box<[u8]>,
    input_at: usize,
    input_end: usize,
    assembler: Assembler,
    end_of_file: bool,
    /// Since when a message is incomplete.
    begun: Option<Instant>,
    output: Output,
    /// Since when the peer takes nothing.
    blocked: Option<Instant>,
    calls: OpenCalls,
    parked_reader: Option<Waker>,
    /// A message beyond what a stranger may send has begun while a call of its is unanswered.
    reader_waits_for_answer: bool,
    driver: Waker,
    failure: Option<CloseReason>,
    failed: bool,
    bytes_in: u64,
    bytes_out: u64,
}

impl State {
    fn new() -> Self {
        Self {
            opened: clock::now(),
            heard: false,
            input: Box::default(),
            input_at: 0,
            input_end: 0,
            assembler: Assembler::default(),
            end_of_file: false,
            begun: None,
            output: Output::default(),
            blocked: None,
            calls: OpenCalls::default(),
            parked_reader: None,
            reader_waits_for_answer: false,
            driver: Waker::noop().clone(),
            failure: None,
            failed: false,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// The peer took bytes: it is not stuck, and reading may go on.
    fn note_progress(&mut self) -> Option<Waker> {
        self.blocked.take()?;
        if self.begun.is_some() {
            // Not the peer's fault that we did not read.
            self.begun = Some(clock::now());
        }
        self.parked_reader.take()
    }

    /// Memory that the peer makes us hold.
    fn held(&self) -> usize {
        self.calls.bytes() + self.assembler.held() + self.output.waiting()
    }

    fn release(&mut self) {
        self.output.clear();
        self.assembler = Assembler::default();
        self.input = Box::default();
        self.input_at = 0;
        self.input_end = 0;
        self.calls = OpenCalls::default();
    }
}

impl<S> Transport<S> {
    pub(super) fn new(stream: S, role: Role, limits: RpcLimits, handle: Option<ConnectionHandle>) -> Self {
        Self {
            stream: RefCell::new(stream),
            role,
            limits,
            handle,
            driving: Cell::new(false),
            state: RefCell::new(State::new()),
        }
    }

    pub(super) fn traffic(&self) -> Traffic {
        let state = self.state.borrow();
        Traffic {
            bytes_in: state.bytes_in,
            bytes_out: state.bytes_out,
            open_calls: state.calls.count(),
        }
    }

    /// The driver begins its work; it is to be polled when there is something to write.
    pub(super) fn begin_driving(&self, waker: &Waker) {
        self.state.borrow_mut().driver.clone_from(waker);
        self.driving.set(true);
    }

    pub(super) fn end_driving(&self) {
        self.driving.set(false);
    }

    pub(super) fn has_output(&self) -> bool {
        self.state.borrow().output.waiting() > 0
    }

    fn message_limits(&self) -> Limits {
        let maximum = self.limits.message_bytes_max;
        let present = match &self.handle {
            Some(handle) if !handle.is_protected() => maximum.min(STRANGER_MESSAGE_BYTES_MAX),
            _ => maximum,
        };
        Limits { maximum, present }
    }

    /// Tells the shared budget what this connection holds.
    fn account(&self, state: &State) -> Result<(), CloseReason> {
        let Some(handle) = &self.handle else { return Ok(()) };
        let bytes = state.held();
        handle
            .hold(bytes)
            .map_err(|budget| CloseReason::NoMemory { bytes, budget })
    }

    /// A message has arrived: takes note before anybody acts on it.
    fn note_message(&self, state: &mut State, message: &Message) -> Result<(), CloseReason> {
        state.begun = None;
        if self.role == Role::Client {
            return Ok(());
        }
        let calls = &mut state.calls;
        calls.received(message.kind(), message.bytes());
        if calls.count() > self.limits.open_calls_max || calls.bytes() > self.limits.open_bytes_max {
            return Err(CloseReason::TooManyCalls {
                calls: calls.count(),
                bytes: calls.bytes(),
            });
        }
        if let Some(handle) = &self.handle {
            handle.set_calls(calls.unanswered());
        }
        self.account(state)
    }

    /// The next message out of what has been read.
    fn assemble(&self, state: &mut State) -> Result<Option<Message>, CloseReason> {
        if state.input_at == state.input_end && state.assembler.at_boundary() {
            return Ok(None);
        }
        let limits = self.message_limits();
        let refused = |error: FrameError| CloseReason::MessageRefused {
            reason: error.to_string(),
        };
        let (taken, message) = state
            .assembler
            .feed(&state.input[state.input_at..state.input_end], limits)
            .map_err(refused)?;
        let announced = state.assembler.announced();
        // A large call may follow the authentication at once; it waits for what comes of that.
        if announced > limits.present && state.calls.unanswered() == 0 {
            return Err(refused(FrameError::TooLarge {
                bytes: announced as u64,
                limit: limits.present as u64,
            }));
        }
        state.input_at += taken;
        match message {
            Some(message) => {
                self.note_message(state, &message)?;
                Ok(Some(message))
            }
            None => {
                state.begun.get_or_insert_with(clock::now);
                self.account(state)?;
                Ok(None)
            }
        }
    }

    /// As [`Self::poll_message`], but only out of what has been read; failures are left to it, too.
    pub(super) fn take_buffered(&self) -> Option<Message> {
        let mut state = self.state.borrow_mut();
        if state.failed {
            return None;
        }
        match self.assemble(&mut state) {
            Ok(message) => message,
            Err(reason) => {
                drop(state);
                self.fail(reason);
                None
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Transport<S> {
    /// Puts a message on its way.
    pub(super) fn send(&self, message: &Rc<Builder<HeapAllocator>>) {
        let mut state = self.state.borrow_mut();
        if state.failed {
            return;
        }
        let segments = message.get_segments_for_output();
        let bytes =
            frame::table_bytes(segments.len()) + segments.iter().map(|segment| segment.len()).sum::<usize>();
        let idle = state.output.waiting() == 0;
        state.output.push(message, &segments, bytes);
        let mut accounted = Ok(());
        if self.role == Role::Server {
            state
                .calls
                .sent(frame::kind(segments.first().copied().unwrap_or_default()), bytes);
            if let Some(handle) = &self.handle {
                handle.set_calls(state.calls.unanswered());
            }
            accounted = self.account(&state);
        }
        let reader = state.reader_waits_for_answer.then(|| {
            state.reader_waits_for_answer = false;
            state.parked_reader.take()
        });
        let full = state.output.waiting() >= OUTPUT_HIGH;
        if idle && !full && !self.driving.get() {
            state.driver.wake_by_ref();
        }
        drop(state);
        if let Some(waker) = reader.flatten() {
            waker.wake();
        }
        if let Err(reason) = accounted {
            self.fail(reason);
        } else if full {
            self.drain();
        }
    }

    /// Writes what is on its way as far as the peer takes it.
    pub(super) fn drain(&self) {
        let mut state = self.state.borrow_mut();
        if state.output.waiting() == 0 || state.failed {
            return;
        }
        let (reader, failure) = self.write_out(&mut state);
        // Less is held than before, which always succeeds.
        let _ = self.account(&state);
        drop(state);
        if let Some(waker) = reader {
            waker.wake();
        }
        if let Some(error) = failure {
            self.fail(broken(error));
        }
    }

    fn write_out(&self, state: &mut State) -> (Option<Waker>, Option<io::Error>) {
        // Cheaper than a clone.
        let driver = std::mem::replace(&mut state.driver, Waker::noop().clone());
        let mut cx = Context::from_waker(&driver);
        let mut stream = self.stream.borrow_mut();
        let mut written = 0;
        let mut failure = None;
        let mut stuck = false;
        state
            .output
            .drain(|bytes| match Pin::new(&mut *stream).poll_write(&mut cx, bytes) {
                Poll::Ready(Ok(0)) => {
                    failure = Some(io::ErrorKind::WriteZero.into());
                    None
                }
                Poll::Ready(Ok(count)) => {
                    written += count;
                    Some(count)
                }
                Poll::Ready(Err(error)) => {
                    failure = Some(error);
                    None
                }
                Poll::Pending => {
                    stuck = true;
                    None
                }
            });
        state.driver = driver;
        state.bytes_out += written as u64;
        let reader = if written > 0 { state.note_progress() } else { None };
        if stuck {
            state.blocked.get_or_insert_with(clock::now);
        }
        (reader, failure)
    }

    fn ended() -> capnp::Error {
        capnp::Error::disconnected("connection was ended on this side".to_owned())
    }

    /// The next message of the peer; none when it has closed.
    pub(super) fn poll_message(&self, cx: &mut Context<'_>) -> Poll<capnp::Result<Option<Message>>> {
        loop {
            let mut state = self.state.borrow_mut();
            if state.failed {
                return Poll::Ready(Err(Self::ended()));
            }
            let step = match self.assemble(&mut state) {
                Ok(None) => self.poll_input(state, cx),
                Ok(Some(message)) => return Poll::Ready(Ok(Some(message))),
                Err(reason) => {
                    drop(state);
                    Poll::Ready(Input::Failed(reason))
                }
            };
            match ready!(step) {
                Input::More => {}
                Input::Complete(message) => return Poll::Ready(Ok(Some(message))),
                Input::End { clean: true } => return Poll::Ready(Ok(None)),
                Input::End { clean: false } => {
                    return Poll::Ready(Err(capnp::Error::from_kind(capnp::ErrorKind::PrematureEndOfFile)));
                }
                Input::Failed(reason) => self.fail(reason),
            }
        }
    }

    /// Reads once, unless the peer has to take answers first.
    fn poll_input<'a>(&'a self, mut state: RefMut<'a, State>, cx: &mut Context<'_>) -> Poll<Input> {
        if state.output.waiting() > 0 {
            // Answers leave before more questions are taken.
            drop(state);
            self.drain();
            state = self.state.borrow_mut();
            if state.failed {
                return Poll::Ready(Input::More);
            }
        }
        let unknown = state.assembler.announced() > self.message_limits().present;
        if unknown || self.role == Role::Server && state.blocked.is_some() {
            state.reader_waits_for_answer = unknown;
            state.parked_reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let State { input, assembler, .. } = &mut *state;
        let direct = assembler.missing() >= INPUT_BUFFER;
        let target = if direct {
            assembler.room()
        } else {
            if input.is_empty() {
                *input = SPARE
                    .take()
                    .unwrap_or_else(|| vec![0; INPUT_BUFFER].into_boxed_slice());
            }
            &mut input[..]
        };
        let read = Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, target);
        let count = match read {
            Poll::Ready(Ok(count)) => count,
            Poll::Ready(Err(error)) => return Poll::Ready(Input::Failed(broken(error))),
            Poll::Pending => {
                // All that was read is used up: that is why more is asked for.
                let unused = std::mem::take(&mut state.input);
                (state.input_at, state.input_end) = (0, 0);
                if !unused.is_empty() {
                    SPARE.set(Some(unused));
                }
                // `fail` has to reach a reader that waits for the socket, too.
                match &mut state.parked_reader {
                    Some(parked) => parked.clone_from(cx.waker()),
                    parked => *parked = Some(cx.waker().clone()),
                }
                return Poll::Pending;
            }
        };
        if count == 0 {
            state.end_of_file = true;
            let clean = state.assembler.at_boundary();
            return Poll::Ready(Input::End { clean });
        }
        state.bytes_in += count as u64;
        state.heard = true;
        if let Some(handle) = &self.handle {
            handle.touch();
        }
        if !direct {
            state.input_at = 0;
            state.input_end = count;
            return Poll::Ready(Input::More);
        }
        let message = state.assembler.advance(count);
        let noted = match &message {
            Some(message) => self.note_message(&mut state, message),
            None => self.account(&state),
        };
        Poll::Ready(match (noted, message) {
            (Err(reason), _) => Input::Failed(reason),
            (Ok(()), Some(message)) => Input::Complete(message),
            (Ok(()), None) => Input::More,
        })
    }
}

/// What one attempt to read has brought.
enum Input {
    /// Look again.
    More,
    Complete(Message),
    /// The peer closes; `clean` is false in the middle of a message.
    End {
        clean: bool,
    },
    Failed(CloseReason),
}

/// A peer that goes while bytes for it are on their way is seen as a failure of the stream.
fn broken(error: io::Error) -> CloseReason {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => CloseReason::PeerClosed,
        _ => CloseReason::Stream(error),
    }
}
