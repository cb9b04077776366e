//! What one agent instance has on the host, piece by piece.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What a process has open: kinds of descriptors and their numbers.
pub type Descriptors = BTreeMap<String, usize>;

/// Nothing, if it is not there (any more).
pub fn read(path: &str) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// Names in a directory; none, if it is not there.
pub fn entries(path: &Path) -> Vec<String> {
    fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Of all its threads.
pub fn children(pid: i32) -> Vec<i32> {
    entries(Path::new(&format!("/proc/{pid}/task")))
        .iter()
        .flat_map(|thread| {
            let text = read(&format!("/proc/{pid}/task/{thread}/children"));
            text.split_whitespace()
                .filter_map(|p| p.parse().ok())
                .collect::<Vec<i32>>()
        })
        .collect()
}

/// By kind: a file's path, or what precedes the number of an object without one.
pub fn descriptors(pid: i32) -> Descriptors {
    let mut kinds = Descriptors::new();
    let directory = PathBuf::from(format!("/proc/{pid}/fd"));
    for number in entries(&directory) {
        let Ok(target) = fs::read_link(directory.join(number)) else {
            continue;
        };
        let text = target.to_string_lossy();
        let kind = match text.split_once('[') {
            Some((kind @ ("socket:" | "pipe:" | "net:" | "mnt:" | "pid:"), _)) => kind,
            _ => &text,
        };
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    kinds
}

/// Groups of containers of this instance, in any hierarchy.
pub fn groups(instance: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let name = format!("bulkhead-{instance}");
    let hierarchies = entries(root).into_iter().map(|h| root.join(h).join(&name));
    let mut found = Vec::new();
    for place in hierarchies.chain([root.join(&name)]) {
        found.extend(
            entries(&place)
                .into_iter()
                .map(|entry| place.join(entry))
                .filter(|path| path.is_dir()),
        );
    }
    found
}

/// Processes that carry the instance's name in their arguments, or live in its groups. Not those that have ended: what
/// an agent leaves when it dies is reaped by the host's init, in its own time.
pub fn processes(instance: &str) -> BTreeSet<i32> {
    let own = std::process::id() as i32;
    entries(Path::new("/proc"))
        .iter()
        .filter_map(|name| name.parse().ok())
        .filter(|pid| {
            *pid != own
                && !read(&format!("/proc/{pid}/stat")).contains(") Z ")
                && ["cmdline", "cgroup"]
                    .iter()
                    .any(|file| read(&format!("/proc/{pid}/{file}")).contains(instance))
        })
        .collect()
}
