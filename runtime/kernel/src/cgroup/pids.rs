//! Processes and threads: `pids.max`, `pids.current`, `pids.events`, the same in both generations.
//! Kernel: admin-guide/cgroup-v1/pids.rst.

use model::Limit;

use super::group::{Compare, Group, LimitError};

/// The kernel refuses more (PIDS_MAX, one above PID_MAX_LIMIT on 64 bit).
pub const PIDS_LIMIT_MAX: u32 = 4 * 1024 * 1024;

/// A ceiling below what runs is taken: it stops the next fork, it ends nobody.
pub fn apply(group: Group<'_>, want: Limit<u32>) -> Result<(), LimitError> {
    match want {
        Limit::Max => group.set("pids.max", format_args!("max"), Compare::Exact),
        Limit::Value(pids) => group.set("pids.max", format_args!("{pids}"), Compare::Exact),
    }
}
