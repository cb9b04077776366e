//! The right to lead, until further notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::{Millis, Term};

/// One leadership of this process. Clones share one end, and can be asked on any thread.
#[derive(Debug, Clone)]
pub struct Tenure {
    term: Term,
    /// Since boot, in milliseconds; moves on while ZooKeeper answers, 0 when it is over.
    fence: Arc<AtomicU64>,
}

impl Tenure {
    pub(crate) fn new(term: Term, fence: Millis) -> Self {
        Self {
            term,
            fence: Arc::new(AtomicU64::new(fence.0)),
        }
    }

    /// A leadership that nobody contests and that never ends: of a master without ZooKeeper.
    pub fn uncontested(term: Term) -> Self {
        Self::new(term, Millis(u64::MAX))
    }

    pub fn term(&self) -> Term {
        self.term
    }

    /// Whether this process leads now. Asks the clock, so it is right even when the process has been stopped and its loop has run no timer yet:
    /// to be asked before each thing that only a leader may do.
    pub fn holds(&self) -> bool {
        now().0 < self.fence.load(Ordering::SeqCst)
    }

    pub(crate) fn extend(&self, fence: Millis) {
        self.fence.store(fence.0, Ordering::SeqCst);
    }

    pub(crate) fn end(&self) {
        self.fence.store(0, Ordering::SeqCst);
    }
}

/// The same leadership.
impl PartialEq for Tenure {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.fence, &other.fence)
    }
}

impl Eq for Tenure {}

/// Time that passes while the host is suspended, too.
pub(crate) fn now() -> Millis {
    Millis(u64::try_from(net::clock::since_boot().as_millis()).unwrap_or(u64::MAX))
}
