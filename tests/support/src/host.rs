//! What is on the host, to be compared before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::eventually;

/// Traces that an agent and its containers may leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSnapshot {
    cgroups: BTreeSet<PathBuf>,
    mounts: Vec<String>,
    processes: BTreeSet<String>,
    namespaces: BTreeSet<String>,
}

impl HostSnapshot {
    pub fn take() -> Self {
        Self { cgroups: cgroups(), mounts: mounts(), processes: processes(), namespaces: namespaces() }
    }

    /// Waits until nothing is there that was not there before.
    #[track_caller]
    pub fn assert_nothing_new(&self) {
        let mut last = String::new();
        let clean = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("the host is as it was found", || {
                last = self.new_things(&Self::take());
                last.is_empty().then_some(())
            });
        }));
        assert!(clean.is_ok(), "left behind on the host:\n{last}");
    }

    fn new_things(&self, now: &Self) -> String {
        let mut lines = Vec::new();
        lines.extend(now.cgroups.difference(&self.cgroups).map(|p| format!("cgroup {}", p.display())));
        lines.extend(now.mounts.iter().filter(|m| !self.mounts.contains(m)).map(|m| format!("mount {m}")));
        lines.extend(now.processes.difference(&self.processes).map(|p| format!("process {p}")));
        lines.extend(now.namespaces.difference(&self.namespaces).map(|n| format!("namespace {n}")));
        lines.join("\n")
    }
}

/// Groups of ours in any hierarchy.
fn cgroups() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((directory, depth)) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|t| t.is_dir()) {
                continue;
            }
            let path = entry.path();
            if path.to_string_lossy().contains("bulkhead") {
                found.insert(path.clone());
            }
            if depth < 4 {
                open.push((path, depth + 1));
            }
        }
    }
    found
}

fn mounts() -> Vec<String> {
    fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Processes by pid and start time whose program is ours, or that live in a group of ours.
fn processes() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let directory = Path::new("/proc").join(pid.to_string());
        let comm = fs::read_to_string(directory.join("comm")).unwrap_or_default();
        let groups = fs::read_to_string(directory.join("cgroup")).unwrap_or_default();
        let ours = comm.starts_with("bulkhead") || groups.contains("/bulkhead");
        if ours && comm.trim() != "" {
            let start = kernel::procfs::start_time(pid).unwrap_or_default();
            found.insert(format!("{pid} {} {start}", comm.trim()));
        }
    }
    found
}

/// Namespaces that some process is in.
fn namespaces() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit())) {
            continue;
        }
        for kind in ["mnt", "pid", "uts", "ipc", "net", "cgroup"] {
            if let Ok(link) = fs::read_link(entry.path().join("ns").join(kind)) {
                found.insert(link.to_string_lossy().into_owned());
            }
        }
    }
    found
}
