//! What an escape would change on the host.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Kernel files that name a program which the kernel runs as root on the host.
const CALLS_OUT: [&str; 3] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/sys/kernel/uevent_helper",
];

/// A look at the host, to be compared with a later one.
#[derive(Debug, PartialEq, Eq)]
pub struct Canary(BTreeMap<String, String>);

impl Canary {
    /// `beside`: files of the test that nobody may touch.
    pub fn look(agent: i32, beside: &[PathBuf]) -> Self {
        let mut seen = BTreeMap::new();
        for path in CALLS_OUT.iter().map(PathBuf::from).chain(release_agents()) {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| error.kind().to_string());
            seen.insert(path.display().to_string(), text);
        }
        for path in [
            "/etc",
            "/etc/passwd",
            "/etc/shadow",
            "/etc/group",
            "/etc/hosts",
            "/etc/crontab",
            "/etc/ld.so.preload",
            "/root/.ssh",
            "/usr/bin",
            "/usr/bin/python3",
            "/lib",
        ] {
            seen.insert(path.to_owned(), state(Path::new(path), true));
        }
        // Times of devices change with their use.
        for path in ["/dev", "/dev/null", "/dev/zero", "/dev/pts"] {
            seen.insert(path.to_owned(), state(Path::new(path), false));
        }
        for path in beside {
            seen.insert(
                path.display().to_string(),
                format!("{} {}", state(path, true), content(path)),
            );
        }
        // By the running agent: builds replace the file behind the name.
        let program = PathBuf::from(format!("/proc/{agent}/exe"));
        seen.insert("program".to_owned(), content(&program));
        let host_name = kernel::system::host_name();
        seen.insert("host name".to_owned(), host_name);
        Self(seen)
    }

    #[track_caller]
    pub fn assert_unchanged(&self, agent: i32, beside: &[PathBuf]) {
        let now = Self::look(agent, beside);
        for (what, before) in &self.0 {
            assert_eq!(now.0.get(what), Some(before), "the host's {what} has changed");
        }
    }
}

fn content(path: &Path) -> String {
    let mut hash = DefaultHasher::new();
    fs::read(path).unwrap_or_default().hash(&mut hash);
    format!("{:x}", hash.finish())
}

/// `ctime` changes with content, owner, mode and, of a directory, with its entries.
fn state(path: &Path, with_times: bool) -> String {
    match fs::symlink_metadata(path) {
        Err(error) => error.kind().to_string(),
        Ok(facts) => {
            let times = if with_times {
                format!("{}.{} {}", facts.ctime(), facts.ctime_nsec(), facts.size())
            } else {
                String::new()
            };
            format!(
                "{} {:o} {}:{} {:x} {times}",
                facts.ino(),
                facts.mode(),
                facts.uid(),
                facts.gid(),
                facts.rdev()
            )
        }
    }
}

fn release_agents() -> Vec<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let files = hierarchies.map(|entry| entry.path().join("release_agent"));
    files.filter(|path| path.exists()).collect()
}
