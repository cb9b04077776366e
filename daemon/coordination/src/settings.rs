//! How ZooKeeper is used.

use std::time::Duration;

use model::Millis;

/// Of contenders, detectors and members.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Asked for; the servers cut it to between 2 and 20 of their ticks.
    pub session_timeout: Duration,
}

impl Default for Settings {
    /// Mesos' 10 s.
    fn default() -> Self {
        Self {
            session_timeout: Duration::from_secs(10),
        }
    }
}

impl Settings {
    pub(crate) fn timeout_ms(&self) -> Millis {
        millis(self.session_timeout)
    }
}

pub(crate) fn millis(duration: Duration) -> Millis {
    Millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Another number for each process and each use.
pub(crate) fn seed() -> u64 {
    // Without the kernel's chance there is still the time; nothing but the spread of retries depends on it.
    let chance = net::random().unwrap_or_else(|_| u128::from(crate::tenure::now().0));
    (chance >> 64) as u64 ^ chance as u64
}
