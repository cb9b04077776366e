//! Many worlds on all processors.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Runs `world` for `seeds` seeds from `from` on; gives what `world` made of the lowest seed that it did not pass. Worlds that
/// have begun are ended, no further ones begin.
pub fn first_failure<F: Send>(from: u64, seeds: u64, world: impl Fn(u64) -> Option<F> + Sync) -> Option<F> {
    let next = AtomicU64::new(from);
    let first: Mutex<Option<(u64, F)>> = Mutex::new(None);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= from + seeds {
                return;
            }
            if let Some(failure) = world(seed) {
                next.fetch_max(from + seeds, Ordering::Relaxed);
                let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                if first.as_ref().is_none_or(|(known, _)| *known > seed) {
                    *first = Some((seed, failure));
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let first = first.into_inner().unwrap_or_else(PoisonError::into_inner);
    first.map(|(_, failure)| failure)
}
