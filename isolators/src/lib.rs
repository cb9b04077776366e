//! Isolators: one file, one resource, no policy. [`IsolatorSet`] drives them all for one agent.
//!
//! ```text
//! admit → prepare → (the child joins) → update* / usage* / limitation → kill_all → cleanup
//! ```
//!
//! State lives in the kernel alone: after a restart of the agent the same calls work on the same groups.

pub mod bandwidth;
pub mod child;
pub mod connections;
pub mod cpu;
pub mod cpuset;
pub mod devices;
pub mod disk;
pub mod error;
pub mod io;
pub mod isolator;
pub mod memory;
pub mod network;
pub mod pids;
pub mod ports;
pub mod pressure;
pub mod set;
pub mod teardown;
pub mod trees;
pub mod usage;

pub use child::USER_NAMESPACES;
pub use error::{
    CleanupError, FreezeError, KillError, LimitationError, ListError, PrepareError, StartError, UpdateError,
    UsageError, WatchError,
};
pub use isolator::{Isolator, Place};
pub use kernel::cgroup::freezer::FreezeState;
pub use set::{IsolatorSet, OomWatch, Prepared, WatchKind};
pub use teardown::Cleanup;
pub use usage::{UsageReader, cpu_times, limits_into};
