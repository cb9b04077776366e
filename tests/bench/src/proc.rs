//! What the kernel says of a process and of the machine's memory.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Clock ticks a second in /proc/PID/stat: USER_HZ, 100 on every architecture that Linux still has.
const TICKS_PER_SECOND: u64 = 100;

fn field(path: &str, name: &str) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok());
    number.ok_or_else(|| io::Error::other(format!("{path} has no {name}")))
}

/// Resident memory of a process.
pub fn resident_kb(pid: u32) -> io::Result<u64> {
    field(&format!("/proc/{pid}/status"), "VmRSS")
}

/// What the kernel could still give away: falls by what processes and the kernel itself take.
pub fn available_kb() -> io::Result<u64> {
    field("/proc/meminfo", "MemAvailable")
}

/// Processor time that a process has used so far, its threads included.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path)?;
    // The name in parentheses may hold anything; utime and stime are the 12th and 13th fields after it.
    let after = text.rsplit_once(") ").map(|(_, after)| after).unwrap_or_default();
    let ticks: u64 = after
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|number| number.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// Direct children by name, as /proc/PID/comm has it.
pub fn children(pid: u32, name: &str) -> io::Result<Vec<u32>> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let children = text.split_whitespace().filter_map(|child| child.parse().ok());
    Ok(children
        .filter(|child| {
            let comm = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
            comm.trim_end().starts_with(name)
        })
        .collect())
}

/// Every file that a process has open below `/sys/fs/cgroup`.
pub fn open_cgroup_files(pid: u32) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // One that was closed while we looked is no error.
        let Ok(target) = fs::read_link(entry?.path()) else {
            continue;
        };
        if target.starts_with("/sys/fs/cgroup") {
            files.push(target);
        }
    }
    files.sort();
    files.dedup();
    Ok(files)
}
