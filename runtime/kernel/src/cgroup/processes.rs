//! Which processes are in a group, and ending all of them.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::file::KernelFileError;

use super::group::Group;

/// Pids of the processes in the group itself, not below it; in this pid namespace (0 stands for one in
/// another namespace and is left out). A group that is gone has none.
pub fn list(group: Group<'_>) -> Result<Vec<i32>, KernelFileError> {
    match group.tree.read_text(group.name, "cgroup.procs") {
        Ok(text) => Ok(text
            .lines()
            .filter_map(|line| line.parse().ok())
            .filter(|pid| *pid > 0)
            .collect()),
        Err(error) if error.is_absent() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Whether the group or one below it has a live process (v2). `None`: there is no such group.
pub fn is_populated(group: Group<'_>) -> Result<Option<bool>, KernelFileError> {
    match group.read_keyed("cgroup.events", "populated") {
        Ok(value) => Ok(Some(value == Some(1))),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Kills everything in the group and below it, forks under way included, with one write. False: the group
/// is gone, or this kernel has no `cgroup.kill` (before 5.14).
pub fn kill_at_once(group: Group<'_>) -> Result<bool, KernelFileError> {
    match group.tree.write(group.name, "cgroup.kill", "1") {
        Ok(()) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}

/// A fork bomb makes processes while we go through the list; each round kills those it finds, and a dead
/// parent forks no more. More rounds than this without an end is reported, not waited out.
const ROUNDS_MAX: u32 = 200;
const ROUND_PAUSE: Duration = Duration::from_micros(500);

/// Signals every process with SIGKILL, round after round, until the list is empty or `patience` is over;
/// tells which are left.
pub fn kill_each(group: Group<'_>, patience: Duration) -> Result<Vec<i32>, KernelFileError> {
    let begin = Instant::now();
    for _ in 0..ROUNDS_MAX {
        let pids = list(group)?;
        if pids.is_empty() {
            return Ok(pids);
        }
        for pid in &pids {
            // ESRCH: it ended since the list was read, which is what we want.
            let _: Result<(), Errno> = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if begin.elapsed() >= patience {
            return Ok(pids);
        }
        std::thread::sleep(ROUND_PAUSE);
    }
    list(group)
}

/// Rounds that [`move_all`] follows a container that forks.
const MOVE_ROUNDS_MAX: u32 = 20;

/// Moves every process of `from` into `to`, in another hierarchy. A child forked meanwhile is born in the
/// parent's group, so the list is read again until nobody is missing. True when all are there.
pub fn move_all(from: Group<'_>, to: Group<'_>) -> Result<bool, KernelFileError> {
    for _ in 0..MOVE_ROUNDS_MAX {
        let there = list(to)?;
        let missing: Vec<i32> = list(from)?
            .into_iter()
            .filter(|pid| !there.contains(pid))
            .collect();
        if missing.is_empty() {
            return Ok(true);
        }
        for pid in missing {
            match to.tree.write(to.name, "cgroup.procs", &pid.to_string()) {
                Ok(()) => {}
                Err(error) if error.is_process_gone() => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(false)
}
