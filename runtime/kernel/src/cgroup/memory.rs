//! Memory: a hard and a soft ceiling, swap, protection, and the notice that it ran out.
//!
//! | | v1 | v2 |
//! |---|---|---|
//! | hard | `memory.limit_in_bytes` | `memory.max` |
//! | swap | `memory.memsw.limit_in_bytes`: memory *and* swap | `memory.swap.max`: swap alone |
//! | soft | `memory.soft_limit_in_bytes` | `memory.low` |
//! | throttle, protect | none | `memory.high`, `memory.min` |
//! | out of memory | eventfd through `cgroup.event_control` | `memory.events`, POLLPRI |
//!
//! Kernel: admin-guide/cgroup-v1/memory.rst, admin-guide/cgroup-v2.rst "Memory Interface Files".

use std::os::fd::{AsRawFd, OwnedFd};

use model::{Bytes, Limit};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::file::{Access, KernelFileError, Operation, number};

use super::group::{Compare, Group, LimitError, V1_UNLIMITED};
use super::tree::Version;

/// What to write; `None` leaves the file as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemorySettings {
    pub hard: Option<Limit<Bytes>>,
    /// Swap beyond `hard`.
    pub swap: Option<Limit<Bytes>>,
    pub soft: Option<Bytes>,
    pub high: Option<Limit<Bytes>>,
    pub min: Option<Bytes>,
    /// The group has just been made: nothing is limited, nothing is in use.
    pub new_group: bool,
}

/// Writes the settings into a new group or over older ones. `page`: the size that limits are rounded to.
pub fn apply(group: Group<'_>, want: &MemorySettings, page: u64) -> Result<(), LimitError> {
    match group.version() {
        Version::V1 => apply_v1(group, want, page),
        Version::V2 => apply_v2(group, want, page),
    }
}

const V1_HARD: &str = "memory.limit_in_bytes";
const V1_SOCKETS: &str = "memory.kmem.tcp.limit_in_bytes";
const V1_WITH_SWAP: &str = "memory.memsw.limit_in_bytes";

fn apply_v1(group: Group<'_>, want: &MemorySettings, page: u64) -> Result<(), LimitError> {
    let with_swap = match (want.hard, want.swap) {
        (Some(Limit::Value(hard)), Some(Limit::Value(swap))) => {
            Some(Limit::Value(Bytes(hard.get().saturating_add(swap.get()))))
        }
        (Some(_), Some(_)) => Some(Limit::Max),
        _ => None,
    };
    // The kernel keeps limit <= memsw at every moment (EINVAL): when memsw grows it goes first, when it
    // shrinks it goes last. A new group has it at the maximum, so it shrinks.
    let swap_first = match with_swap {
        Some(target) if !want.new_group => {
            let now = group.read_number(V1_WITH_SWAP)?.unwrap_or(V1_UNLIMITED);
            target
                .value()
                .map_or(now < V1_UNLIMITED, |target| target.get() > now)
        }
        _ => false,
    };
    if let (true, Some(target)) = (swap_first, with_swap) {
        set_v1(group, V1_WITH_SWAP, target, page)?;
    }
    if let Some(hard) = want.hard {
        set_v1(group, V1_HARD, hard, page)?;
    }
    if let (false, Some(target)) = (swap_first, with_swap) {
        set_v1(group, V1_WITH_SWAP, target, page)?;
    }
    if let Some(hard) = want.hard {
        // Unlike v2, v1 counts TCP buffers apart from the rest: without this a container holds as much memory
        // in unread sockets as the host allows to all. UDP has no such limit there.
        match set_v1(group, V1_SOCKETS, hard, page) {
            Err(LimitError::File(error)) if error.is_absent() => {}
            result => result?,
        }
    }
    match want.soft {
        Some(soft) => set_v1(group, "memory.soft_limit_in_bytes", Limit::Value(soft), page),
        None => Ok(()),
    }
}

fn set_v1(group: Group<'_>, file: &str, target: Limit<Bytes>, page: u64) -> Result<(), LimitError> {
    let compare = Compare::Pages { page };
    let result = match target {
        Limit::Max => group.set(file, format_args!("-1"), compare),
        Limit::Value(bytes) => group.set(file, format_args!("{}", bytes.get()), compare),
    };
    match (result, target) {
        // EBUSY: after several rounds of reclaim more is in use than the new ceiling.
        (Err(LimitError::File(error)), Limit::Value(bytes)) if error.is_busy() => {
            let usage = if file == V1_WITH_SWAP {
                "memory.memsw.usage_in_bytes"
            } else {
                "memory.usage_in_bytes"
            };
            Err(LimitError::BelowUsage {
                path: group.path_of(file),
                wrote: bytes.get().to_string(),
                in_use: group.read_number(usage)?.unwrap_or(0),
            })
        }
        (result, _) => result,
    }
}

fn apply_v2(group: Group<'_>, want: &MemorySettings, page: u64) -> Result<(), LimitError> {
    let set = |file: &str, target: Limit<Bytes>| match target {
        Limit::Max => group.set(file, format_args!("max"), Compare::Exact),
        Limit::Value(bytes) => group.set(file, format_args!("{}", bytes.get()), Compare::Pages { page }),
    };
    if let Some(min) = want.min {
        set("memory.min", Limit::Value(min))?;
    }
    if let Some(soft) = want.soft {
        set("memory.low", Limit::Value(soft))?;
    }
    if let Some(high) = want.high {
        set("memory.high", high)?;
    }
    if let Some(hard) = want.hard {
        if let (Limit::Value(bytes), false) = (hard, want.new_group) {
            make_room_v2(group, bytes)?;
        }
        set("memory.max", hard)?;
    }
    if let Some(swap) = want.swap {
        set("memory.swap.max", swap)?;
    }
    if want.new_group {
        // Out of memory ends the container as a whole, not the one process the kernel happens to pick.
        group.set("memory.oom.group", format_args!("1"), Compare::Exact)?;
    }
    Ok(())
}

/// Lowering `memory.max` below what is in use makes the kernel kill inside the group until it fits. A live
/// update must not end a container, so what can be reclaimed is reclaimed first (`memory.reclaim`, kernel
/// 5.19) and the rest is a refusal, as v1 answers by itself.
fn make_room_v2(group: Group<'_>, target: Bytes) -> Result<(), LimitError> {
    let current = group.read_number("memory.current")?.unwrap_or(0);
    if current <= target.get() {
        return Ok(());
    }
    // EAGAIN: less was reclaimed than asked for; what remains decides, not the answer.
    match group.tree.write(
        group.name,
        "memory.reclaim",
        &(current - target.get()).to_string(),
    ) {
        Ok(()) => {}
        Err(error) if error.is_exhausted() || error.is_absent() => {}
        Err(error) => return Err(error.into()),
    }
    let in_use = group.read_number("memory.current")?.unwrap_or(0);
    if in_use <= target.get() {
        return Ok(());
    }
    Err(LimitError::BelowUsage {
        path: group.path_of("memory.max"),
        wrote: target.get().to_string(),
        in_use,
    })
}

/// Times that the kernel killed a process of the group for memory, since the group was made. `None`: this
/// kernel does not count (v1 before 4.13).
pub fn kills(group: Group<'_>) -> Result<Option<u64>, KernelFileError> {
    match group.version() {
        Version::V1 => group.read_keyed("memory.oom_control", "oom_kill"),
        Version::V2 => group.read_keyed("memory.events", "oom_kill"),
    }
}

/// The largest use so far. `None`: not told (v2 before 5.19).
pub fn peak(group: Group<'_>) -> Result<Option<u64>, KernelFileError> {
    let file = match group.version() {
        Version::V1 => "memory.max_usage_in_bytes",
        Version::V2 => "memory.peak",
    };
    match group.read_number(file) {
        Err(error) if error.is_absent() => Ok(None),
        other => other,
    }
}

/// A descriptor that becomes ready when the group has run out of memory; the counter of [`kills`] then
/// says whether it has. v1: an eventfd, readable, also when the group is removed. v2: `memory.events`,
/// POLLPRI.
pub fn watch(group: Group<'_>) -> Result<OwnedFd, KernelFileError> {
    match group.version() {
        Version::V1 => {
            let failed =
                |errno| KernelFileError::new(Operation::Make, group.path_of("memory.oom_control"), errno);
            let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                .map_err(failed)?;
            let control = group.tree.open(group.name, "memory.oom_control", Access::Read)?;
            let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
            // The registration lives as long as the eventfd; `control` may be closed.
            group.tree.write(group.name, "cgroup.event_control", &line)?;
            Ok(event.into())
        }
        Version::V2 => group.tree.open(group.name, "memory.events", Access::Read),
    }
}

/// Whether any group of the hierarchy could limit swap: its files are there.
pub fn limits_swap(group: Group<'_>) -> bool {
    match group.version() {
        Version::V1 => group.tree.has(group.name, V1_WITH_SWAP),
        Version::V2 => group.tree.has(group.name, "memory.swap.max"),
    }
}

/// A limit file's content; `None` is "no limit".
pub fn parse_limit(text: &[u8]) -> Option<u64> {
    number(text).filter(|bytes| *bytes < V1_UNLIMITED)
}
