//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// Asks again and again until `look` gives a value; panics with `what` after ten seconds.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(Instant::now() < deadline, "did not come about within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
