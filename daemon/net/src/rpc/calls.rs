//! Open calls of a peer, which hold memory here: parameters until the return, results until the finish.

use std::collections::BTreeMap;

use super::frame::Kind;

/// By question id, which the peer chooses; an ordered map costs the same whatever it chooses.
#[derive(Default)]
pub(super) struct OpenCalls {
    calls: BTreeMap<u32, OpenCall>,
    bytes: usize,
    /// Questions whose id we could not see. They stay counted.
    unseen: usize,
    unanswered: usize,
}

struct OpenCall {
    bytes: usize,
    returned: bool,
    finished: bool,
}

impl OpenCalls {
    pub(super) fn count(&self) -> usize {
        self.calls.len() + self.unseen
    }

    /// Calls that a return will be sent for.
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn received(&mut self, kind: Kind, bytes: usize) {
        match kind {
            Kind::Question(Some(id)) => {
                let call = OpenCall {
                    bytes,
                    returned: false,
                    finished: false,
                };
                self.bytes += bytes;
                self.unanswered += 1;
                if let Some(replaced) = self.calls.insert(id, call) {
                    self.forget(&replaced);
                }
            }
            Kind::Question(None) => {
                self.unseen += 1;
                self.bytes += bytes;
            }
            Kind::Finish(Some(id)) => {
                if let Some(call) = self.calls.get_mut(&id) {
                    call.finished = true;
                    if call.returned {
                        self.remove(id);
                    }
                }
            }
            Kind::Finish(None) | Kind::Return { .. } | Kind::Other => {}
        }
    }

    pub(super) fn sent(&mut self, kind: Kind, bytes: usize) {
        if let Kind::Return { id: Some(id), last } = kind
            && let Some(call) = self.calls.get_mut(&id)
        {
            if last || call.finished {
                self.remove(id);
                return;
            }
            self.bytes = self.bytes - call.bytes + bytes;
            if !std::mem::replace(&mut call.returned, true) {
                self.unanswered -= 1;
            }
            call.bytes = bytes;
        }
    }

    fn remove(&mut self, id: u32) {
        if let Some(call) = self.calls.remove(&id) {
            self.forget(&call);
        }
    }

    fn forget(&mut self, call: &OpenCall) {
        self.bytes -= call.bytes;
        if !call.returned {
            self.unanswered -= 1;
        }
    }
}
