//! Output that never came: told while it happens, not more than once a second, and once at the end.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

const BETWEEN_NOTICES: Duration = Duration::from_secs(1);

/// Bytes lost so far. Clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Losses(Rc<RefCell<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    bytes: u64,
    told_bytes: u64,
    told_at: Option<Instant>,
}

impl Losses {
    /// Counts, and gives the line to say now, if it is time for one.
    pub(super) fn note(&self, bytes: u64, now: Instant) -> Option<String> {
        let mut inner = self.0.borrow_mut();
        inner.bytes = inner.bytes.saturating_add(bytes);
        let early = |at: Instant| now.saturating_duration_since(at) < BETWEEN_NOTICES;
        if inner.told_at.is_some_and(early) {
            return None;
        }
        (inner.told_at, inner.told_bytes) = (Some(now), inner.bytes);
        Some(format!("bulkhead: {}", lost(inner.bytes)))
    }

    /// What is to be said at the end, if anything was lost.
    pub fn summary(&self, label: &str) -> Option<String> {
        let bytes = self.0.borrow().bytes;
        (bytes > 0).then(|| crate::human::one_line(&format!("bulkhead: {label}: {}", lost(bytes))))
    }

    /// The same, unless the last notice has said it.
    pub fn unsaid(&self, label: &str) -> Option<String> {
        let inner = self.0.borrow();
        let said = inner.bytes == inner.told_bytes;
        drop(inner);
        self.summary(label).filter(|_| !said)
    }
}

fn lost(bytes: u64) -> String {
    format!("{bytes} bytes of output were lost: the disk was full, or they were rotated away unread")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_once_a_second_with_the_total() {
        let losses = Losses::default();
        let start = Instant::now();
        assert_eq!(losses.summary("web"), None);
        let first = losses.note(10, start);
        assert!(first.is_some_and(|line| line.starts_with("bulkhead: 10 bytes ")));
        assert_eq!(losses.unsaid("web"), None);
        assert_eq!(losses.note(5, start + Duration::from_millis(999)), None);
        assert!(losses.unsaid("web").is_some());
        let second = losses.note(1, start + Duration::from_secs(1));
        assert!(second.is_some_and(|line| line.starts_with("bulkhead: 16 bytes ")));
        let summary = losses.summary("web");
        assert!(summary.is_some_and(|line| line.starts_with("bulkhead: web: 16 bytes of output were lost")));
    }
}
