//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// Factor to every deadline: an emulated machine is slow (`scripts/vm` sets it).
const SLOW: &str = "BULKHEAD_TEST_SLOW";

fn factor() -> u64 {
    let factor = std::env::var(SLOW).ok().and_then(|text| text.parse().ok());
    factor.unwrap_or(1).max(1)
}

/// `seconds` on an ordinary machine, more on one that is told to be slow.
pub fn patience(seconds: u64) -> Duration {
    Duration::from_secs(seconds * factor())
}

/// How often to try what is tried `count` times on an ordinary machine: on a slow one less often, for the same time.
pub fn repetitions(count: usize) -> usize {
    count.div_ceil(factor() as usize)
}

/// Asks again and again until `look` gives a value; panics with `what` after ten seconds.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let allowed = patience(10);
    let deadline = Instant::now() + allowed;
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(
            Instant::now() < deadline,
            "did not come about within {} s: {what}",
            allowed.as_secs()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
