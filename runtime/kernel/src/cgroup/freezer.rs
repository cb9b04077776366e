//! Freeze and thaw. v2: `cgroup.freeze`, confirmed by `frozen 1` in `cgroup.events`, an edge that poll(2)
//! tells; a frozen process can still be killed. v1: `freezer.state`, which says FREEZING until all stand;
//! there a frozen process does not die before it is thawed.
//! Kernel: admin-guide/cgroup-v2.rst "cgroup.freeze", cgroup-v1/freezer-subsystem.rst.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::file::{Access, KernelFileError, Operation, keyed, sample};

use super::group::Group;
use super::tree::Version;

/// Whether the group stands still now. `Pending`: a process is in an uninterruptible sleep; it freezes
/// when that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreezeState {
    Done,
    Pending,
}

/// How long a freeze is waited for; usual is 0.2 ms.
const PATIENCE: Duration = Duration::from_millis(100);

pub fn freeze(group: Group<'_>) -> Result<FreezeState, KernelFileError> {
    match group.version() {
        Version::V1 => set_v1(group, "FROZEN"),
        Version::V2 => set_v2(group, true),
    }
}

pub fn thaw(group: Group<'_>) -> Result<FreezeState, KernelFileError> {
    match group.version() {
        Version::V1 => set_v1(group, "THAWED"),
        Version::V2 => set_v2(group, false),
    }
}

fn set_v1(group: Group<'_>, state: &str) -> Result<FreezeState, KernelFileError> {
    let begin = Instant::now();
    loop {
        // Writing FROZEN again makes the kernel look again (it does not finish by itself).
        group.tree.write(group.name, "freezer.state", state)?;
        if group.tree.read_text(group.name, "freezer.state")?.trim() == state {
            return Ok(FreezeState::Done);
        }
        if begin.elapsed() > PATIENCE {
            return Ok(FreezeState::Pending);
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn set_v2(group: Group<'_>, frozen: bool) -> Result<FreezeState, KernelFileError> {
    let events = group.tree.open(group.name, "cgroup.events", Access::Read)?;
    group
        .tree
        .write(group.name, "cgroup.freeze", if frozen { "1" } else { "0" })?;
    let begin = Instant::now();
    let mut buffer = Vec::new();
    loop {
        // The read arms the next notification, so it stands before the wait.
        let Some(text) = sample(events.as_fd(), &mut buffer) else {
            let path = group.path_of("cgroup.events");
            return Err(KernelFileError::new(
                Operation::Read,
                path,
                nix::errno::Errno::ENODEV,
            ));
        };
        let populated = keyed(text, "populated") == Some(1);
        // An empty group has nothing to stop; the kernel calls it frozen or not by version.
        if !populated || (keyed(text, "frozen") == Some(1)) == frozen {
            return Ok(FreezeState::Done);
        }
        let left = PATIENCE.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return Ok(FreezeState::Pending);
        }
        let timeout = PollTimeout::try_from(left.as_millis().max(1) as i32).unwrap_or(PollTimeout::ZERO);
        let mut wait = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
        match poll(&mut wait, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(cause) => {
                return Err(KernelFileError::new(
                    Operation::Read,
                    group.path_of("cgroup.events"),
                    cause,
                ));
            }
        }
    }
}
