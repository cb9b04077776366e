//! What this host can do: facts, read once at start, no decision taken here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use model::{Bytes, Controller, HostSupport};

use crate::cgroup::{MountError, Mounts};

/// Why the facts could not be gathered.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("read {path}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} holds {text:?}, not a number", path = path.display())]
    Malformed { path: PathBuf, text: String },
    #[error(transparent)]
    Mounts(#[from] MountError),
    #[error("ask the kernel for {what}")]
    System { what: &'static str, source: io::Error },
}

/// This process may not manage containers.
#[derive(Debug, thiserror::Error)]
#[error("needs root to manage control groups, namespaces and mounts; effective user id is {uid}")]
pub struct NotRoot {
    pub uid: u32,
}

/// A separate question from [`probe`]: the facts can be read by anybody.
pub fn require_root() -> Result<(), NotRoot> {
    let uid = nix::unistd::geteuid();
    if uid.is_root() {
        Ok(())
    } else {
        Err(NotRoot { uid: uid.as_raw() })
    }
}

fn read(path: &str) -> Result<String, ProbeError> {
    fs::read_to_string(path).map_err(|source| ProbeError::Read {
        path: PathBuf::from(path),
        source,
    })
}

fn malformed(path: &str, text: &str) -> ProbeError {
    ProbeError::Malformed {
        path: PathBuf::from(path),
        text: text.trim().to_owned(),
    }
}

/// Reads all facts.
pub fn probe() -> Result<HostSupport, ProbeError> {
    let kernel_release = read("/proc/sys/kernel/osrelease")?.trim().to_owned();
    let boot_id = read("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    let meminfo = read("/proc/meminfo")?;
    let memory =
        keyed_field(&meminfo, "MemTotal:", 10).ok_or_else(|| malformed("/proc/meminfo", "no MemTotal"))?;
    let status = read("/proc/self/status")?;
    let bounding_capabilities =
        keyed_field(&status, "CapBnd:", 16).ok_or_else(|| malformed("/proc/self/status", "no CapBnd"))?;
    let last = read("/proc/sys/kernel/cap_last_cap")?;
    let last_capability = last
        .trim()
        .parse()
        .map_err(|_| malformed("/proc/sys/kernel/cap_last_cap", &last))?;

    let mounts = Mounts::parse(&read("/proc/self/mountinfo")?)?;
    let unified = mounts.unified();
    let unified_controllers = match &unified {
        Some(root) => read(&root.join("cgroup.controllers").to_string_lossy())?,
        None => String::new(),
    };
    let mut host = HostSupport {
        cpus: processors()?,
        memory: Bytes::kib(memory),
        page_size: page_size()?,
        layout: mounts.layout(),
        controllers: mounts.controllers(&unified_controllers),
        swap_accounting: false,
        cgroup_kill: false,
        cpu_burst: false,
        io_weight_file: None,
        io_throttle: false,
        cpuset_cpus: None,
        cpuset_mems: None,
        seccomp: Path::new("/proc/sys/kernel/seccomp/actions_avail").exists(),
        overlay: has_overlay(&kernel_release),
        // With psi=0 the file is there and answers EOPNOTSUPP.
        pressure: fs::read("/proc/pressure/cpu").is_ok(),
        user_namespaces: crate::user_namespace::available(),
        mapped_mounts: crate::mount::can_map_ids(),
        // A mount option can not be tried without a mount: the version tells.
        mapped_layers: release(&kernel_release) >= Some((5, 19)),
        last_capability,
        bounding_capabilities,
        resolver_under_run: resolver_under_run(),
        kernel_release,
        boot_id,
        unified,
    };
    cgroup_features(&mut host, &read("/proc/cmdline").unwrap_or_default());
    Ok(host)
}

/// The number after `key` at the beginning of a line.
pub fn keyed_field(text: &str, key: &str, radix: u32) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    u64::from_str_radix(line.split_ascii_whitespace().next()?, radix).ok()
}

fn processors() -> Result<u32, ProbeError> {
    match nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN) {
        Ok(Some(count)) if count > 0 => Ok(u32::try_from(count).unwrap_or(u32::MAX)),
        Ok(_) => Err(ProbeError::System {
            what: "the number of processors",
            source: io::ErrorKind::Unsupported.into(),
        }),
        Err(errno) => Err(ProbeError::System {
            what: "the number of processors",
            source: errno.into(),
        }),
    }
}

fn page_size() -> Result<Bytes, ProbeError> {
    match nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE) {
        Ok(Some(size)) if size > 0 => Ok(Bytes(size as u64)),
        Ok(_) => Err(ProbeError::System {
            what: "the page size",
            source: io::ErrorKind::Unsupported.into(),
        }),
        Err(errno) => Err(ProbeError::System {
            what: "the page size",
            source: errno.into(),
        }),
    }
}

/// Facts that the files of the hierarchies tell. Files that only a group below the root has are looked for
/// in such a group; where there is none (or none with the controller), the kernel's version and command
/// line tell.
fn cgroup_features(host: &mut HostSupport, command_line: &str) {
    let since = |major, minor| release(&host.kernel_release) >= Some((major, minor));
    let root = |controller| host.controllers.get(&controller);
    let unified = host.unified.as_deref();

    host.cgroup_kill = unified.is_some_and(|root| below(root, "cgroup.kill").unwrap_or_else(|| since(5, 14)));
    host.swap_accounting = root(Controller::Memory).is_some_and(|mount| match mount.version {
        1 => mount.root.join("memory.memsw.limit_in_bytes").exists(),
        _ => below_with(&mount.root, "memory.max", "memory.swap.max")
            .unwrap_or_else(|| since(5, 8) && !command_line.contains("swapaccount=0")),
    });
    host.cpu_burst = root(Controller::Cpu).is_some_and(|mount| match mount.version {
        1 => mount.root.join("cpu.cfs_burst_us").exists(),
        _ => below_with(&mount.root, "cpu.max", "cpu.max.burst").unwrap_or_else(|| since(5, 14)),
    });
    let (mut io_throttle, mut io_weight_file) = (false, None);
    if let Some(mount) = root(Controller::Io) {
        (io_throttle, io_weight_file) = match mount.version {
            1 => (
                mount.root.join("blkio.throttle.read_bps_device").exists(),
                v1_weight_file(&mount.root),
            ),
            _ => (
                below_with(&mount.root, "io.stat", "io.max").unwrap_or(true),
                v2_weight_file(&mount.root),
            ),
        };
    }
    let list = |v1: &str, v2: &str| {
        let mount = root(Controller::Cpuset)?;
        let text = fs::read_to_string(mount.root.join(if mount.version == 1 { v1 } else { v2 })).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let cpuset_cpus =
        list("cpuset.effective_cpus", "cpuset.cpus.effective").or_else(|| list("cpuset.cpus", "cpuset.cpus"));
    let cpuset_mems =
        list("cpuset.effective_mems", "cpuset.mems.effective").or_else(|| list("cpuset.mems", "cpuset.mems"));
    host.io_throttle = io_throttle;
    host.io_weight_file = io_weight_file;
    host.cpuset_cpus = cpuset_cpus;
    host.cpuset_mems = cpuset_mems;
}

/// Major and minor of `6.18.44-x`.
pub fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// Groups looked into for a file; any one of them tells.
const GROUPS_LOOKED_INTO: usize = 64;

fn groups_below(root: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .take(GROUPS_LOOKED_INTO)
}

/// Whether the groups below `root` have `file`; `None`: there is no group below.
fn below(root: &Path, file: &str) -> Option<bool> {
    groups_below(root).next().map(|group| group.join(file).exists())
}

/// Whether a group that has `witness`, and thus the controller, also has `file`.
fn below_with(root: &Path, witness: &str, file: &str) -> Option<bool> {
    let group = groups_below(root).find(|group| group.join(witness).exists())?;
    Some(group.join(file).exists())
}

/// bfq's weight file takes a value on every host that has bfq built in, and does nothing unless a disk is
/// scheduled by it: then it is not offered. `blkio.weight` is of CFQ (before 5.0).
fn v1_weight_file(root: &Path) -> Option<String> {
    if root.join("blkio.bfq.io_service_bytes").exists() && any_disk_has_scheduler("bfq") {
        return Some("blkio.bfq.weight".to_owned());
    }
    let old = root.join("blkio.weight").exists() && any_disk_has_scheduler("cfq");
    old.then(|| "blkio.weight".to_owned())
}

/// `io.weight` works on disks for which the administrator enabled io.cost; `io.bfq.weight` as on v1.
fn v2_weight_file(root: &Path) -> Option<String> {
    let cost = fs::read_to_string(root.join("io.cost.qos")).unwrap_or_default();
    if cost
        .lines()
        .any(|line| line.split_ascii_whitespace().any(|word| word == "enable=1"))
    {
        return Some("io.weight".to_owned());
    }
    any_disk_has_scheduler("bfq").then(|| "io.bfq.weight".to_owned())
}

fn any_disk_has_scheduler(name: &str) -> bool {
    let active = format!("[{name}]");
    let disks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    disks.map(|disk| disk.path().join("queue/scheduler")).any(|path| {
        fs::read_to_string(path).is_ok_and(|text| text.split_ascii_whitespace().any(|word| word == active))
    })
}

/// Registered, or a module that mount(2) would load (request_module "fs-overlay").
fn has_overlay(kernel_release: &str) -> bool {
    let registered = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if registered
        .lines()
        .any(|line| line.split_ascii_whitespace().last() == Some("overlay"))
    {
        return true;
    }
    let modules = Path::new("/lib/modules").join(kernel_release).join("modules.dep");
    fs::read_to_string(modules).is_ok_and(|text| text.contains("/overlay.ko"))
}

fn resolver_under_run() -> Option<PathBuf> {
    let target = fs::canonicalize("/etc/resolv.conf").ok()?;
    target.starts_with("/run").then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(release("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(release("5.4"), Some((5, 4)));
        assert_eq!(release("unknown"), None);
        assert!(release("5.14.0") >= Some((5, 14)));
        assert!(release("5.9.1") < Some((5, 14)));
    }

    #[test]
    fn fields_of_proc_files() {
        let text = "Name:\tx\nCapBnd:\t000001ffffffffff\nMemTotal:       24684096 kB\n";
        assert_eq!(keyed_field(text, "CapBnd:", 16), Some(0x1ff_ffff_ffff));
        assert_eq!(keyed_field(text, "MemTotal:", 10), Some(24_684_096));
        assert_eq!(keyed_field(text, "Absent:", 10), None);
    }

    #[test]
    fn this_host_is_read_whole() {
        let host = probe().unwrap();
        assert!(host.cpus >= 1 && host.page_size.get() >= 4096 && host.memory.get() > 0);
        assert!(host.has(Controller::Memory));
        assert!(host.last_capability >= 36);
        assert_eq!(host.boot_id.len(), 36);
    }
}
