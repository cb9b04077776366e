//! How a connection ends: by a failure on either side, or because the peer is overdue with its first message, with the
//! rest of a message, or with taking our bytes.

use std::task::Waker;
use std::time::Instant;

use super::Transport;
use crate::clock;
use crate::rpc::{CloseReason, Role};

impl<S> Transport<S> {
    /// Ends both directions with an error, which the RPC system sees at its next step.
    pub(in crate::rpc) fn fail(&self, reason: CloseReason) {
        let mut state = self.state.borrow_mut();
        if state.failed {
            return;
        }
        state.failed = true;
        state.failure = Some(reason);
        let reader = state.parked_reader.take();
        let driver = state.driver.clone();
        drop(state);
        if let Some(waker) = reader {
            waker.wake();
        }
        if !self.driving.get() {
            driver.wake();
        }
    }

    /// The connection is over. Requests that somebody still holds keep the transport, but nothing in it.
    pub(in crate::rpc) fn close(&self) {
        let mut state = self.state.borrow_mut();
        state.failed = true;
        state.release();
        let reader = state.parked_reader.take();
        state.driver = Waker::noop().clone();
        drop(state);
        drop(reader);
        if let Some(handle) = &self.handle {
            handle.set_calls(0);
            // Nothing is held from now on, which always succeeds.
            let _ = handle.hold(0);
        }
    }

    pub(in crate::rpc) fn has_failed(&self) -> bool {
        self.state.borrow().failed
    }

    pub(in crate::rpc) fn take_failure(&self) -> Option<CloseReason> {
        self.state.borrow_mut().failure.take()
    }

    /// What the RPC system's own end means.
    pub(in crate::rpc) fn reason_of(&self, result: capnp::Result<()>) -> CloseReason {
        let state = self.state.borrow();
        match result {
            _ if state.end_of_file && state.assembler.at_boundary() => CloseReason::PeerClosed,
            Ok(()) => CloseReason::PeerClosed,
            Err(error) => CloseReason::Protocol {
                reason: error.to_string(),
            },
        }
    }

    /// When the peer is overdue, if nothing happens until then.
    pub(in crate::rpc) fn deadline(&self) -> Option<Instant> {
        let state = self.state.borrow();
        let server = self.role == Role::Server;
        if state.failed || (state.heard || !server) && state.blocked.is_none() && state.begun.is_none() {
            return None;
        }
        let write = state.blocked.map(|since| since + self.limits.write_deadline);
        // While we do not read, the rest of a message can not come.
        let read = state
            .begun
            .filter(|_| !(server && write.is_some()))
            .map(|since| since + self.limits.read_deadline);
        let first = (server && !state.heard).then(|| state.opened + self.limits.first_message_deadline);
        [write, read, first].into_iter().flatten().min()
    }

    pub(in crate::rpc) fn fail_overdue(&self) {
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
}
