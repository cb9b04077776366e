//! The byte stream below the RPC system: buffers, limits, deadlines, accounting.
//!
//! Written messages are gathered and sent when the RPC system has nothing more to do at once, so many small answers leave
//! in one system call; reading follows the framing and stops while the peer does not take our bytes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use futures::io::{AsyncRead, AsyncWrite};

use super::frame::{Frames, Kind, Passed};
use super::{CloseReason, Role, RpcLimits, Traffic};
use crate::clock;
use crate::limit::ConnectionHandle;

/// Reads smaller than this go through a buffer.
const INPUT_BUFFER: usize = 8 << 10;

/// Gathered output beyond this is sent before more is taken.
const OUTPUT_HIGH: usize = 64 << 10;

/// Pieces at least this large are written without a copy if nothing is before them.
const DIRECT_WRITE: usize = 16 << 10;

/// An emptied output buffer keeps at most this.
const OUTPUT_KEPT: usize = 16 << 10;

pub(super) struct Transport<S> {
    stream: RefCell<S>,
    role: Role,
    limits: RpcLimits,
    handle: Option<ConnectionHandle>,
    state: RefCell<State>,
}

struct State {
    opened: Instant,
    heard: bool,
    input: Box<[u8]>,
    input_at: usize,
    input_end: usize,
    input_frames: Frames,
    end_of_file: bool,
    /// Since when a message is incomplete.
    begun: Option<Instant>,
    output: Vec<u8>,
    output_at: usize,
    output_frames: Frames,
    /// Since when the peer takes nothing.
    blocked: Option<Instant>,
    calls: OpenCalls,
    parked_reader: Option<Waker>,
    parked_writer: Option<Waker>,
    driver: Waker,
    failure: Option<CloseReason>,
    failed: bool,
    bytes_in: u64,
    bytes_out: u64,
}

/// Calls of the peer that hold memory here: parameters until the return, results until the finish.
#[derive(Default)]
struct OpenCalls {
    calls: HashMap<u32, OpenCall>,
    bytes: usize,
    /// Questions whose id we could not see. They stay counted.
    unseen: usize,
}

struct OpenCall {
    bytes: usize,
    returned: bool,
    finished: bool,
}

impl OpenCalls {
    fn count(&self) -> usize {
        self.calls.len() + self.unseen
    }

    fn received(&mut self, message: Passed) {
        match message.kind {
            Kind::Question(Some(id)) => {
                let call = OpenCall {
                    bytes: message.bytes,
                    returned: false,
                    finished: false,
                };
                self.bytes += message.bytes;
                if let Some(replaced) = self.calls.insert(id, call) {
                    self.bytes -= replaced.bytes;
                }
            }
            Kind::Question(None) => {
                self.unseen += 1;
                self.bytes += message.bytes;
            }
            Kind::Finish(Some(id)) => {
                if let Some(call) = self.calls.get_mut(&id) {
                    call.finished = true;
                    self.settle(id);
                }
            }
            Kind::Finish(None) | Kind::Return(_) | Kind::Other => {}
        }
    }

    fn sent(&mut self, message: Passed) {
        if let Kind::Return(Some(id)) = message.kind
            && let Some(call) = self.calls.get_mut(&id)
        {
            self.bytes = self.bytes - call.bytes + message.bytes;
            call.bytes = message.bytes;
            call.returned = true;
            self.settle(id);
        }
    }

    fn settle(&mut self, id: u32) {
        if self
            .calls
            .get(&id)
            .is_some_and(|call| call.returned && call.finished)
            && let Some(call) = self.calls.remove(&id)
        {
            self.bytes -= call.bytes;
        }
    }
}

impl State {
    fn new(limits: &RpcLimits) -> Self {
        Self {
            opened: clock::now(),
            heard: false,
            input: Box::default(),
            input_at: 0,
            input_end: 0,
            input_frames: Frames::new(limits.message_bytes_max),
            end_of_file: false,
            begun: None,
            output: Vec::new(),
            output_at: 0,
            // Our own messages are not refused.
            output_frames: Frames::new(usize::MAX),
            blocked: None,
            calls: OpenCalls::default(),
            parked_reader: None,
            parked_writer: None,
            driver: Waker::noop().clone(),
            failure: None,
            failed: false,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// Lent for one operation: cheaper than a clone, and the state stays free for it.
    fn take_driver(&mut self) -> Waker {
        std::mem::replace(&mut self.driver, Waker::noop().clone())
    }

    fn output_waiting(&self) -> usize {
        self.output.len() - self.output_at
    }

    /// Takes note of bytes that came in, before anybody acts on them.
    fn note_input(&mut self, data: &[u8], role: Role, limits: &RpcLimits) -> Result<(), CloseReason> {
        self.bytes_in += data.len() as u64;
        self.heard = true;
        let mut completed = false;
        let calls = &mut self.calls;
        let followed = self.input_frames.follow(data, |message| {
            completed = true;
            if role == Role::Server {
                calls.received(message);
            }
        });
        if let Err(error) = followed {
            return Err(CloseReason::MessageRefused {
                reason: error.to_string(),
            });
        }
        if self.input_frames.at_boundary() {
            self.begun = None;
        } else if completed || self.begun.is_none() {
            self.begun = Some(clock::now());
        }
        if self.calls.count() > limits.open_calls_max || self.calls.bytes > limits.open_bytes_max {
            return Err(CloseReason::TooManyCalls {
                calls: self.calls.count(),
                bytes: self.calls.bytes,
            });
        }
        Ok(())
    }

    fn note_output(&mut self, data: &[u8], role: Role) {
        if role == Role::Server {
            let calls = &mut self.calls;
            // Without a limit, only our own nonsense could fail here; it would not be followed further.
            let _ = self.output_frames.follow(data, |message| calls.sent(message));
        }
    }

    /// The peer took bytes: it is not stuck, and reading may go on.
    fn note_progress(&mut self, count: usize) -> Option<Waker> {
        self.bytes_out += count as u64;
        self.blocked.take()?;
        if self.begun.is_some() {
            // Not the peer's fault that we did not read.
            self.begun = Some(clock::now());
        }
        self.parked_reader.take()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Transport<S> {
    pub(super) fn new(stream: S, role: Role, limits: RpcLimits, handle: Option<ConnectionHandle>) -> Self {
        let state = RefCell::new(State::new(&limits));
        Self {
            stream: RefCell::new(stream),
            role,
            limits,
            handle,
            state,
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

    /// Who is to be polled when output can move again.
    pub(super) fn set_driver(&self, waker: &Waker) {
        self.state.borrow_mut().driver.clone_from(waker);
    }

    /// Ends both directions with an error, which the RPC system sees at its next step.
    pub(super) fn fail(&self, reason: CloseReason) {
        let mut state = self.state.borrow_mut();
        if state.failed {
            return;
        }
        state.failed = true;
        state.failure = Some(reason);
        let parked = [state.parked_reader.take(), state.parked_writer.take()];
        drop(state);
        for waker in parked.into_iter().flatten() {
            waker.wake();
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.state.borrow().failed
    }

    pub(super) fn take_failure(&self) -> Option<CloseReason> {
        self.state.borrow_mut().failure.take()
    }

    pub(super) fn has_output(&self) -> bool {
        self.state.borrow().output_waiting() > 0
    }

    /// What the RPC system's own end means.
    pub(super) fn reason_of(&self, result: capnp::Result<()>) -> CloseReason {
        let state = self.state.borrow();
        match result {
            _ if state.end_of_file && state.begun.is_none() => CloseReason::PeerClosed,
            Ok(()) => CloseReason::PeerClosed,
            Err(error) => CloseReason::Protocol {
                reason: error.to_string(),
            },
        }
    }

    /// When the peer is overdue, if nothing happens until then.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let state = self.state.borrow();
        if state.failed {
            return None;
        }
        let write = state.blocked.map(|since| since + self.limits.write_deadline);
        let server = self.role == Role::Server;
        // While we do not read, the rest of a message can not come.
        let read = state
            .begun
            .filter(|_| !(server && write.is_some()))
            .map(|since| since + self.limits.read_deadline);
        let first = (server && !state.heard).then(|| state.opened + self.limits.first_message_deadline);
        [write, read, first].into_iter().flatten().min()
    }

    pub(super) fn fail_overdue(&self) {
        let now = clock::now();
        let state = self.state.borrow();
        let reason = if state
            .blocked
            .is_some_and(|since| now >= since + self.limits.write_deadline)
        {
            CloseReason::WriteDeadline {
                seconds: self.limits.write_deadline.as_secs(),
            }
        } else if state.begun.is_some() {
            CloseReason::ReadDeadline {
                seconds: self.limits.read_deadline.as_secs(),
            }
        } else {
            CloseReason::Silent {
                seconds: self.limits.first_message_deadline.as_secs(),
            }
        };
        drop(state);
        self.fail(reason);
    }

    /// Sends gathered output as far as the peer takes it.
    pub(super) fn drain(&self) {
        let mut state = self.state.borrow_mut();
        if state.output_waiting() == 0 || state.failed {
            return;
        }
        let driver = state.take_driver();
        let mut cx = Context::from_waker(&driver);
        let mut woken = None;
        let mut failure = None;
        while state.output_waiting() > 0 {
            let written = Pin::new(&mut *self.stream.borrow_mut())
                .poll_write(&mut cx, &state.output[state.output_at..]);
            match written {
                Poll::Ready(Ok(0)) => {
                    failure = Some(io::ErrorKind::WriteZero.into());
                    break;
                }
                Poll::Ready(Ok(count)) => {
                    state.output_at += count;
                    woken = state.note_progress(count).or(woken);
                }
                Poll::Ready(Err(error)) => {
                    failure = Some(error);
                    break;
                }
                Poll::Pending => {
                    state.blocked.get_or_insert_with(clock::now);
                    break;
                }
            }
        }
        state.driver = driver;
        if state.output_waiting() == 0 {
            state.output.clear();
            state.output_at = 0;
            state.output.shrink_to(OUTPUT_KEPT);
        }
        let writer = if state.output_waiting() < OUTPUT_HIGH {
            state.parked_writer.take()
        } else {
            None
        };
        drop(state);
        for waker in [woken, writer].into_iter().flatten() {
            waker.wake();
        }
        if let Some(error) = failure {
            self.fail(broken(error));
        }
    }

    fn failed_io() -> io::Error {
        io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "connection was ended on this side",
        )
    }

    fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut state = self.state.borrow_mut();
        if state.failed {
            return Poll::Ready(Err(Self::failed_io()));
        }
        if state.input_at < state.input_end {
            return Poll::Ready(Ok(state.copy_input(buffer)));
        }
        if state.output_waiting() > 0 {
            // Answers leave before more questions are taken.
            drop(state);
            self.drain();
            state = self.state.borrow_mut();
            if state.failed {
                return Poll::Ready(Err(Self::failed_io()));
            }
        }
        if self.role == Role::Server && state.blocked.is_some() {
            state.parked_reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let direct = buffer.len() >= INPUT_BUFFER;
        let State { input, .. } = &mut *state;
        if input.is_empty() {
            *input = vec![0; INPUT_BUFFER].into_boxed_slice();
        }
        let target = if direct { &mut *buffer } else { &mut input[..] };
        let count = match Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, target) {
            Poll::Ready(Ok(count)) => count,
            Poll::Ready(Err(error)) => {
                drop(state);
                self.fail(broken(error));
                return Poll::Ready(Err(Self::failed_io()));
            }
            Poll::Pending => {
                // `fail` has to reach a reader that waits for the socket, too.
                state.parked_reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
        };
        if count == 0 {
            state.end_of_file = true;
            return Poll::Ready(Ok(0));
        }
        let noted = if direct {
            state.note_input(&buffer[..count], self.role, &self.limits)
        } else {
            // Taken out for the moment, since both are in the same state.
            let input = std::mem::take(&mut state.input);
            let noted = state.note_input(&input[..count], self.role, &self.limits);
            state.input = input;
            noted
        };
        let calls = state.calls.count();
        if let Err(reason) = noted {
            drop(state);
            self.fail(reason);
            return Poll::Ready(Err(Self::failed_io()));
        }
        if let Some(handle) = &self.handle {
            handle.touch();
            handle.set_calls(calls);
        }
        if direct {
            return Poll::Ready(Ok(count));
        }
        state.input_at = 0;
        state.input_end = count;
        Poll::Ready(Ok(state.copy_input(buffer)))
    }

    fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.state.borrow().output_waiting() >= OUTPUT_HIGH {
            self.drain();
        }
        let mut state = self.state.borrow_mut();
        if state.failed {
            return Poll::Ready(Err(Self::failed_io()));
        }
        if state.output_waiting() == 0 && data.len() >= DIRECT_WRITE {
            let driver = state.take_driver();
            let written =
                Pin::new(&mut *self.stream.borrow_mut()).poll_write(&mut Context::from_waker(&driver), data);
            state.driver = driver;
            match written {
                Poll::Ready(Ok(count)) => {
                    let reader = state.note_progress(count);
                    self.wrote(state, &data[..count]);
                    if let Some(waker) = reader {
                        waker.wake();
                    }
                    return Poll::Ready(Ok(count));
                }
                Poll::Ready(Err(error)) => {
                    drop(state);
                    self.fail(broken(error));
                    return Poll::Ready(Err(Self::failed_io()));
                }
                // Gathered below; the driver sends it when the peer takes it.
                Poll::Pending => {
                    state.blocked.get_or_insert_with(clock::now);
                }
            }
        }
        if state.output_waiting() >= OUTPUT_HIGH {
            state.parked_writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let taken = data.len().min(OUTPUT_HIGH);
        state.output.extend_from_slice(&data[..taken]);
        self.wrote(state, &data[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn wrote(&self, mut state: std::cell::RefMut<'_, State>, data: &[u8]) {
        state.note_output(data, self.role);
        if let Some(handle) = &self.handle {
            handle.set_calls(state.calls.count());
        }
    }
}

impl State {
    fn copy_input(&mut self, buffer: &mut [u8]) -> usize {
        let count = buffer.len().min(self.input_end - self.input_at);
        buffer[..count].copy_from_slice(&self.input[self.input_at..self.input_at + count]);
        self.input_at += count;
        count
    }
}

/// A peer that goes while bytes for it are on their way is seen as a failure of the stream.
fn broken(error: io::Error) -> CloseReason {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => CloseReason::PeerClosed,
        _ => CloseReason::Stream(error),
    }
}

/// What the RPC system reads from.
pub(super) struct ReadEnd<S>(pub(super) Rc<Transport<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ReadEnd<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.poll_read(cx, buffer)
    }
}

/// What the RPC system writes to. A flush is left to the driver, which sends everything gathered at once.
pub(super) struct WriteEnd<S>(pub(super) Rc<Transport<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WriteEnd<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
