//! A part of the v2 tree that was given to us: whose it is, and how to live in it.
//!
//! ```text
//! bulkhead.slice/bulkhead-containers.service    delegated: marked by an extended attribute, ours to divide
//!   ├── keeper                                  the process for whose sake systemd keeps the unit's group
//!   └── bulkhead/<container>                    its root group and the containers
//! bulkhead.slice/bulkhead-agent.service         where the agent itself lives
//!
//! some.slice/some.service             or all in one, delegated
//!   ├── agent                         where the agent itself lives
//!   └── bulkhead/<container>          its root group and the containers
//! ```
//!
//! Two units, because systemd before 254 starts a unit's process in the unit's own group, which takes none while there
//! are divided groups below it: the agent could not be restarted without ending its containers.
//!
//! The service manager writes into no group below a delegated one, and we write into no other. A group whose
//! `cgroup.subtree_control` names a controller may hold no process itself, so the agent moves into a leaf.
//! Kernel: admin-guide/cgroup-v2.rst, "Delegation", "No Internal Process Constraint".

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use model::{Controller, HostSupport};

use super::hierarchy::v2_controller;
use crate::file::{KernelDir, KernelFileError, Operation};

/// The agent's own group below the delegated one; systemd is told the same name (`DelegateSubgroup=`).
pub const AGENT_GROUP: &str = "agent";

/// The unit beside the agent's own whose group is there for the containers (packaging/bulkhead-containers.service).
pub const CONTAINERS_UNIT: &str = "bulkhead-containers.service";

/// Where that unit's own process is moved to.
pub const KEEPER_GROUP: &str = "keeper";

/// The attribute by which systemd marks what it has given away, by who may read it.
const MARKS: [&CStr; 2] = [c"trusted.delegate", c"user.delegate"];

/// The group of this process in the v2 tree mounted at `unified`. `None`: it lies outside of what is mounted there.
pub fn own_group(unified: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let group = unified.join(path);
    // In a namespace, or below a bind mount, the path may lead to somebody else's group.
    holds_us(&group).then_some(group)
}

fn holds_us(group: &Path) -> bool {
    let own = std::process::id().to_string();
    fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|text| text.lines().any(|pid| pid == own))
}

/// What a service manager has delegated: the group of the unit for containers beside our own, or else the nearest
/// from our own upward.
pub fn delegated(unified: &Path) -> Option<PathBuf> {
    let own = own_group(unified)?;
    let groups = || own.ancestors().take_while(|group| group.starts_with(unified));
    let beside = groups()
        .skip(1)
        .map(|slice| slice.join(CONTAINERS_UNIT))
        .find(|unit| is_delegated(unit));
    beside.or_else(|| groups().find(|group| is_delegated(group)).map(Path::to_owned))
}

/// Whether a service manager has marked the group as given away.
pub fn is_delegated(group: &Path) -> bool {
    let Ok(path) = CString::new(group.as_os_str().as_bytes()) else {
        return false;
    };
    MARKS.iter().any(|mark| attribute_is_one(&path, mark))
}

fn attribute_is_one(path: &CStr, name: &CStr) -> bool {
    let mut value = [0u8; 8];
    // SAFETY: both names end with a zero and the kernel writes no more than the length given.
    let got = unsafe {
        libc::getxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    usize::try_from(got).is_ok_and(|got| value.get(..got) == Some(b"1".as_slice()))
}

/// Leaves no process in `group` itself: this one moves, with all its threads, into a leaf below it, and what the
/// unit for containers runs into another.
pub fn settle(group: &Path) -> Result<(), KernelFileError> {
    let directory = KernelDir::open(group)?;
    if holds_us(group) {
        directory.make_dir(AGENT_GROUP)?;
        // "0" is whoever writes.
        directory.write(&[AGENT_GROUP, "cgroup.procs"], "0")?;
    }
    if !group.ends_with(CONTAINERS_UNIT) {
        return Ok(());
    }
    let path = group.join("cgroup.procs");
    let own =
        fs::read_to_string(&path).map_err(|cause| KernelFileError::new(Operation::Read, path, cause))?;
    for process in own.lines() {
        directory.make_dir(KEEPER_GROUP)?;
        match directory.write(&[KEEPER_GROUP, "cgroup.procs"], process) {
            // It has ended meanwhile.
            Err(error) if error.source.raw_os_error() == Some(libc::ESRCH) => {}
            moved => moved?,
        }
    }
    Ok(())
}

/// Changes the facts to those of `group`, below which all is to happen: its controllers, its processors. What only
/// the hierarchy's root tells stays as it is.
pub fn rebase(host: &mut HostSupport, group: &Path) -> Result<(), KernelFileError> {
    let read = |file: &str| {
        let path = group.join(file);
        fs::read_to_string(&path).map_err(|cause| KernelFileError::new(Operation::Read, path, cause))
    };
    let enabled: Vec<Controller> = read("cgroup.controllers")?
        .split_ascii_whitespace()
        .filter_map(v2_controller)
        .collect();
    host.controllers.retain(|controller, mount| {
        let by_group = matches!(
            controller,
            Controller::Cpuacct | Controller::Devices | Controller::Freezer
        );
        mount.version == 1 || by_group || enabled.contains(controller)
    });
    for mount in host.controllers.values_mut().filter(|mount| mount.version == 2) {
        mount.root = group.to_owned();
    }
    host.unified = Some(group.to_owned());
    let list = |file: &str, known: Option<String>| match read(file) {
        Ok(text) => Some(text.trim().to_owned())
            .filter(|text| !text.is_empty())
            .or(known),
        // Only where the controller is enabled there; else it is the whole host's.
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => known,
        Err(_) => None,
    };
    if enabled.contains(&Controller::Cpuset) {
        host.cpuset_cpus = list("cpuset.cpus.effective", host.cpuset_cpus.take());
        host.cpuset_mems = list("cpuset.mems.effective", host.cpuset_mems.take());
    }
    Ok(())
}

/// Whether `group` has groups below it.
pub fn has_groups(group: &Path) -> bool {
    let mut entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries.any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}
