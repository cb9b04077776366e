//! procfs: what is read from it, and which parts of it a container may not have.

use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

use model::ProcessIdentity;

/// Where procfs is mounted, on the host and in every container.
pub const MOUNT_POINT: &CStr = c"/proc";

/// Files covered in a container: they tell about the host's kernel, its keys or other tenants.
pub const MASKED_FILES: [&str; 9] = [
    "/proc/kcore",
    "/proc/keys",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/timer_list",
    "/proc/timer_stats",
];

/// Directories covered for the same reasons. What the kernel says for debugging (`dynamic_debug`) may be changed by uid 0
/// without any capability.
pub const MASKED_DIRECTORIES: [&str; 4] = ["/proc/acpi", "/proc/asound", "/proc/dynamic_debug", "/proc/scsi"];

/// Read-only in a container: writing there acts on the whole host.
pub const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Field 22 of `/proc/<pid>/stat`: clock ticks from boot to the start of the process (proc(5)).
pub fn start_time(pid: i32) -> io::Result<u64> {
    // One read into room for the longest line: a reader that grows its buffer asks the kernel six times.
    let mut line = [0; 1024];
    let length = fs::File::open(format!("/proc/{pid}/stat"))?.read(&mut line)?;
    // The name of a program need not be UTF-8.
    let text = String::from_utf8_lossy(&line[..length]);
    start_time_of(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed stat line"))
}

/// The same out of the text of that file.
pub fn start_time_of(stat: &str) -> Option<u64> {
    // The name in field 2 may hold spaces and parentheses: count from the last one.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Our own children that have ended and were not reaped.
pub fn ended_children() -> io::Result<Vec<i32>> {
    let mut ended = Vec::new();
    for thread in fs::read_dir("/proc/self/task")? {
        let text = fs::read_to_string(thread?.path().join("children"))?;
        ended.extend(
            text.split_ascii_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
    }
    ended.retain(|pid| {
        let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
        String::from_utf8_lossy(&stat)
            .rsplit_once(')')
            .is_some_and(|(_, rest)| rest.starts_with(" Z"))
    });
    Ok(ended)
}

/// Whether a process is in our own pid namespace. Errors when it is gone.
pub fn shares_pid_namespace(pid: i32) -> io::Result<bool> {
    let own = fs::read_link("/proc/self/ns/pid")?;
    Ok(fs::read_link(format!("/proc/{pid}/ns/pid"))? == own)
}

/// Differs after every boot of this host.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim_end()
        .to_owned())
}

/// The process as it can be told apart from a later one with the same pid.
pub fn identity(pid: i32, boot_id: &str) -> io::Result<ProcessIdentity> {
    Ok(ProcessIdentity {
        pid,
        start_time: start_time(pid)?,
        boot_id: boot_id.to_owned(),
    })
}

/// The path by which the owner of a process can open one of its descriptors anew.
pub fn descriptor_path(pid: i32, number: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/fd/{number}"))
}

/// The path of the file behind one of our own descriptors, as the root in sight shows it.
pub fn own_descriptor_target(fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The path that opens one of our own descriptors anew.
pub fn own_descriptor_path(fd: BorrowedFd<'_>) -> CString {
    // Digits hold no null byte.
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
}

/// What a process is and where it is stuck: `process 4711 (cat), uninterruptible in request_wait_answer`. `None`: it is
/// gone, or dead and only not reaped yet.
pub fn describe_stuck(pid: i32) -> Option<String> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The name may hold anything, parentheses too: it ends at the last one.
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(').map_or("", |(_, name)| name);
    let state = match tail.trim_start().chars().next()? {
        'Z' | 'X' => return None,
        'D' => "uninterruptible",
        'T' | 't' => "stopped",
        'R' => "running",
        _ => "asleep",
    };
    let place = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    let place = match place.as_str() {
        "" | "0" => String::new(),
        function => format!(" in {function}"),
    };
    Some(format!("process {pid} ({name}), {state}{place}"))
}

/// How gladly the kernel kills us when memory runs out.
pub fn own_oom_score_adjustment() -> io::Result<i32> {
    fs::read_to_string(OOM_SCORE_ADJUSTMENT)?
        .trim()
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "malformed oom_score_adj"))
}

/// Below the lowest value that the process ever had this needs CAP_SYS_RESOURCE.
pub fn set_own_oom_score_adjustment(value: i32) -> io::Result<()> {
    fs::write(OOM_SCORE_ADJUSTMENT, value.to_string())
}

const OOM_SCORE_ADJUSTMENT: &str = "/proc/self/oom_score_adj";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_a_hostile_name() {
        let stat = "42 (a) R 1 (x) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 1000 1 18 0";
        assert_eq!(start_time_of(stat), Some(777));
        assert_eq!(start_time_of("42 (a"), None);
        assert!(start_time(std::process::id() as i32).unwrap() > 0);
    }
}
