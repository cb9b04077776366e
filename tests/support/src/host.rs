//! What is on the host, to be compared before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::eventually;

/// Traces of one agent instance and its containers. Others may come and go on the same host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSnapshot {
    instance: String,
    cgroups: BTreeSet<PathBuf>,
    mounts: BTreeSet<String>,
    processes: BTreeSet<String>,
}

impl HostSnapshot {
    pub fn take(instance: &str) -> Self {
        Self {
            instance: instance.to_owned(),
            cgroups: cgroups(instance),
            mounts: mounts(instance),
            processes: processes(instance),
        }
    }

    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Waits until nothing is there that was not there before.
    #[track_caller]
    pub fn assert_nothing_new(&self) {
        let mut last = String::new();
        let clean = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("the host is as it was found", || {
                last = self.new_things(&Self::take(&self.instance));
                last.is_empty().then_some(())
            });
        }));
        assert!(clean.is_ok(), "left behind on the host:\n{last}");
    }

    fn new_things(&self, now: &Self) -> String {
        let mut lines = Vec::new();
        lines.extend(
            now.cgroups
                .difference(&self.cgroups)
                .map(|p| format!("cgroup {}", p.display())),
        );
        lines.extend(now.mounts.difference(&self.mounts).map(|m| format!("mount {m}")));
        lines.extend(
            now.processes
                .difference(&self.processes)
                .map(|p| format!("process {p}")),
        );
        lines.join("\n")
    }
}

/// Groups of ours in any hierarchy.
fn cgroups(instance: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((directory, depth)) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|t| t.is_dir()) {
                continue;
            }
            let path = entry.path();
            if path.to_string_lossy().contains(instance) {
                found.insert(path.clone());
            }
            if depth < 4 {
                open.push((path, depth + 1));
            }
        }
    }
    found
}

/// Mounts on the host's side that have to do with it: its directories carry its name.
fn mounts(instance: &str) -> BTreeSet<String> {
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    all.lines()
        .filter(|line| line.contains(instance))
        .map(str::to_owned)
        .collect()
}

/// Processes by pid and start time that live in its groups, or carry its name (the launcher, the agent).
fn processes(instance: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        let read =
            |file: &str| fs::read(Path::new("/proc").join(pid.to_string()).join(file)).unwrap_or_default();
        let holds = |file: &str| String::from_utf8_lossy(&read(file)).contains(instance);
        if pid != std::process::id() as i32 && (holds("cgroup") || holds("cmdline")) {
            let start = kernel::procfs::start_time(pid).unwrap_or_default();
            found.insert(format!(
                "{pid} {} {start}",
                String::from_utf8_lossy(&read("comm")).trim()
            ));
        }
    }
    found
}
