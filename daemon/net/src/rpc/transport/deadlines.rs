//! When a peer is overdue: with its first message, with the rest of a message, with taking our bytes.

use std::time::Instant;

use super::Transport;
use crate::clock;
use crate::rpc::{CloseReason, Role};

impl<S> Transport<S> {
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
