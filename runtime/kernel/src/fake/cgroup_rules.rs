//! What the kernel makes of a value written into a cgroup file: the rules that our code relies on.

use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;

use crate::cgroup::Version;
use crate::cgroup::cpuset::{is_within, parse_list};
use crate::file::keyed;

/// The answer to a write.
pub(super) enum Outcome {
    /// The file now shows this.
    Now(String),
    /// Taken; the file itself does not change.
    Nothing,
    Refused(Errno),
}

const PAGE: u64 = 4096;
/// PAGE_COUNTER_MAX pages, as v1 shows "no limit".
const V1_NO_LIMIT: u64 = 0x7fff_ffff_ffff_f000;

/// Files of a new v1 group, with the kernel's first values.
pub(super) fn populate_v1(group: &Path, hierarchy: &str) -> io::Result<()> {
    let no_limit = V1_NO_LIMIT.to_string();
    let files: &[(&str, &str)] = match hierarchy {
        "cpu,cpuacct" => &[
            ("cpu.shares", "1024"),
            ("cpu.cfs_quota_us", "-1"),
            ("cpu.cfs_period_us", "100000"),
            ("cpu.cfs_burst_us", "0"),
            ("cpu.stat", "nr_periods 0\nnr_throttled 0\nthrottled_time 0"),
            ("cpuacct.usage_user", "0"),
            ("cpuacct.usage_sys", "0"),
        ],
        "memory" => &[
            ("memory.limit_in_bytes", &no_limit),
            ("memory.memsw.limit_in_bytes", &no_limit),
            ("memory.soft_limit_in_bytes", &no_limit),
            ("memory.usage_in_bytes", "0"),
            ("memory.memsw.usage_in_bytes", "0"),
            ("memory.max_usage_in_bytes", "0"),
            ("memory.failcnt", "0"),
            ("memory.stat", "total_cache 0\ntotal_rss 0\ntotal_swap 0"),
            (
                "memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 0",
            ),
            ("cgroup.event_control", ""),
        ],
        "pids" => &[("pids.max", "max"), ("pids.current", "0")],
        "blkio" => &[
            ("blkio.throttle.read_bps_device", ""),
            ("blkio.throttle.write_bps_device", ""),
            ("blkio.throttle.read_iops_device", ""),
            ("blkio.throttle.write_iops_device", ""),
            ("blkio.bfq.weight", "100"),
        ],
        "cpuset" => &[("cpuset.cpus", ""), ("cpuset.mems", "")],
        "devices" => &[
            ("devices.list", "a *:* rwm"),
            ("devices.allow", ""),
            ("devices.deny", ""),
        ],
        "freezer" => &[("freezer.state", "THAWED")],
        _ => &[],
    };
    fill(group, &[("cgroup.procs", ""), ("tasks", "")])?;
    fill(group, files)
}

fn fill(group: &Path, files: &[(&str, &str)]) -> io::Result<()> {
    for (file, content) in files {
        let text = if content.is_empty() {
            String::new()
        } else {
            format!("{content}\n")
        };
        fs::write(group.join(file), text)?;
    }
    Ok(())
}

/// Files of a new v2 group: the core's, and those of the controllers that the parent has enabled.
pub(super) fn populate_v2(group: &Path) -> io::Result<()> {
    let enabled = group
        .parent()
        .map(|parent| show(parent, "cgroup.subtree_control"))
        .unwrap_or_default();
    fill(
        group,
        &[
            ("cgroup.procs", ""),
            ("cgroup.controllers", &enabled),
            ("cgroup.subtree_control", ""),
            ("cgroup.events", "populated 0\nfrozen 0"),
            ("cgroup.freeze", "0"),
            ("cgroup.kill", ""),
            ("cpu.stat", "usage_usec 0\nuser_usec 0\nsystem_usec 0"),
        ],
    )?;
    enabled
        .split_ascii_whitespace()
        .try_for_each(|name| fill_controller(group, name))
}

fn fill_controller(group: &Path, name: &str) -> io::Result<()> {
    match name {
        "cpu" => fill(
            group,
            &[
                ("cpu.weight", "100"),
                ("cpu.max", "max 100000"),
                ("cpu.max.burst", "0"),
            ],
        ),
        "memory" => fill(
            group,
            &[
                ("memory.max", "max"),
                ("memory.high", "max"),
                ("memory.low", "0"),
                ("memory.min", "0"),
                ("memory.swap.max", "max"),
                ("memory.swap.current", "0"),
                ("memory.oom.group", "0"),
                ("memory.current", "0"),
                ("memory.peak", "0"),
                ("memory.reclaim", ""),
                ("memory.stat", "anon 0\nfile 0"),
                ("memory.events", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0"),
            ],
        ),
        "pids" => fill(group, &[("pids.max", "max"), ("pids.current", "0")]),
        "io" => fill(
            group,
            &[("io.max", ""), ("io.weight", "default 100"), ("io.stat", "")],
        ),
        "cpuset" => fill(group, &[("cpuset.cpus", ""), ("cpuset.mems", "")]),
        _ => Ok(()),
    }
}

fn show(group: &Path, file: &str) -> String {
    fs::read_to_string(group.join(file))
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn shown_number(group: &Path, file: &str) -> u64 {
    show(group, file).parse().unwrap_or(0)
}

fn decimal(text: &str) -> Option<u64> {
    text.parse().ok()
}

/// The rules, file by file.
pub(super) fn write(group: &Path, file: &str, value: &str, version: Version) -> Outcome {
    use Outcome::{Nothing, Now, Refused};
    let invalid = || Refused(Errno::EINVAL);
    match file {
        "cpu.shares" => decimal(value).map_or_else(invalid, |v| Now(v.clamp(2, 1 << 18).to_string())),
        "cpu.weight" => match decimal(value) {
            Some(weight) if (1..=10_000).contains(&weight) => Now(value.to_owned()),
            _ => Refused(Errno::ERANGE),
        },
        "cpu.cfs_quota_us" => quota(value, shown_number(group, "cpu.cfs_burst_us"), value.to_owned()),
        "cpu.max" => {
            let quota_text = value.split(' ').next().unwrap_or_default();
            quota(quota_text, shown_number(group, "cpu.max.burst"), value.to_owned())
        }
        "cpu.cfs_burst_us" | "cpu.max.burst" => {
            let quota = show(
                group,
                if version == Version::V1 {
                    "cpu.cfs_quota_us"
                } else {
                    "cpu.max"
                },
            );
            let quota = quota.split(' ').next().and_then(decimal);
            match decimal(value) {
                Some(burst) if quota.is_none_or(|quota| burst <= quota) => Now(value.to_owned()),
                _ => invalid(),
            }
        }
        "memory.limit_in_bytes" | "memory.memsw.limit_in_bytes" => v1_memory(group, file, value),
        "memory.soft_limit_in_bytes" => v1_bytes(value).map_or_else(invalid, |v| Now(v.to_string())),
        "memory.max" | "memory.high" | "memory.low" | "memory.min" | "memory.swap.max" => {
            v2_memory(group, file, value)
        }
        "memory.reclaim" => reclaim(group, value),
        "memory.oom.group" | "cgroup.freeze" if !matches!(value, "0" | "1") => invalid(),
        "cgroup.freeze" => {
            let populated = u8::from(!show(group, "cgroup.procs").is_empty());
            let events = format!("populated {populated}\nfrozen {value}\n");
            fs::write(group.join("cgroup.events"), events)
                .map_or(Refused(Errno::EIO), |()| Now(value.to_owned()))
        }
        "cgroup.kill" => fs::write(group.join("cgroup.procs"), "").map_or(Refused(Errno::EIO), |()| Nothing),
        "cgroup.event_control" => Nothing,
        "pids.max" => match value {
            "max" => Now(value.to_owned()),
            _ if decimal(value).is_some_and(|pids| pids <= 4 << 20) => Now(value.to_owned()),
            _ => invalid(),
        },
        "cpuset.cpus" | "cpuset.mems" => {
            let above = group
                .parent()
                .map(|parent| show(parent, file))
                .filter(|text| !text.is_empty());
            match (parse_list(value), above.as_deref().map(parse_list)) {
                (Some(list), Some(Some(above))) if !is_within(&list, &above) => invalid(),
                (Some(_), None) if version == Version::V1 => invalid(),
                (Some(_), _) => Now(value.to_owned()),
                (None, _) => invalid(),
            }
        }
        "cgroup.procs" | "tasks" => join(group, value),
        "cgroup.subtree_control" => enable(group, value),
        "devices.deny" if value == "a" => {
            fs::write(group.join("devices.list"), "").map_or(Refused(Errno::EIO), |()| Nothing)
        }
        "devices.allow" => append(group, "devices.list", value),
        "io.weight" => Now(value.to_owned()),
        "io.max" => Now(with_line(&show(group, file), &io_max_line(value))),
        _ if file.starts_with("blkio.throttle.") => Now(with_line(&show(group, file), value)),
        _ => Now(value.to_owned()),
    }
}

fn quota(text: &str, burst: u64, content: String) -> Outcome {
    match text {
        "-1" | "max" => Outcome::Now(content),
        _ => match decimal(text) {
            Some(quota) if quota >= 1000 && quota >= burst => Outcome::Now(content),
            _ => Outcome::Refused(Errno::EINVAL),
        },
    }
}

fn v1_bytes(value: &str) -> Option<u64> {
    match value {
        "-1" => Some(V1_NO_LIMIT),
        _ => decimal(value).map(|bytes| (bytes / PAGE * PAGE).min(V1_NO_LIMIT)),
    }
}

fn v1_memory(group: &Path, file: &str, value: &str) -> Outcome {
    let Some(bytes) = v1_bytes(value) else {
        return Outcome::Refused(Errno::EINVAL);
    };
    let (order, usage) = if file == "memory.limit_in_bytes" {
        (
            bytes <= shown_number(group, "memory.memsw.limit_in_bytes"),
            "memory.usage_in_bytes",
        )
    } else {
        (
            bytes >= shown_number(group, "memory.limit_in_bytes"),
            "memory.memsw.usage_in_bytes",
        )
    };
    if !order {
        return Outcome::Refused(Errno::EINVAL);
    }
    if bytes < shown_number(group, usage) {
        return Outcome::Refused(Errno::EBUSY);
    }
    Outcome::Now(bytes.to_string())
}

fn v2_memory(group: &Path, file: &str, value: &str) -> Outcome {
    let bytes = match value {
        "max" => return Outcome::Now(value.to_owned()),
        _ => match decimal(value) {
            Some(bytes) => bytes / PAGE * PAGE,
            None => return Outcome::Refused(Errno::EINVAL),
        },
    };
    if file == "memory.max" && bytes < shown_number(group, "memory.current") {
        // The kernel kills until it fits.
        let kills = keyed(show(group, "memory.events").as_bytes(), "oom_kill").unwrap_or(0) + 1;
        let _ = fs::write(
            group.join("memory.events"),
            format!("max 1\noom 1\noom_kill {kills}\n"),
        );
    }
    Outcome::Now(bytes.to_string())
}

/// Gives back the page cache, `file` in `memory.stat`.
fn reclaim(group: &Path, value: &str) -> Outcome {
    let cache = keyed(show(group, "memory.stat").as_bytes(), "file").unwrap_or(0);
    let asked = decimal(value).unwrap_or(0);
    let current = shown_number(group, "memory.current").saturating_sub(cache.min(asked));
    if fs::write(group.join("memory.current"), format!("{current}\n")).is_err() {
        return Outcome::Refused(Errno::EIO);
    }
    if cache < asked {
        Outcome::Refused(Errno::EAGAIN)
    } else {
        Outcome::Nothing
    }
}

fn join(group: &Path, value: &str) -> Outcome {
    let empty_cpuset = group.join("cpuset.mems").exists()
        && !group.join("cgroup.subtree_control").exists()
        && (show(group, "cpuset.cpus").is_empty() || show(group, "cpuset.mems").is_empty());
    if empty_cpuset {
        return Outcome::Refused(Errno::ENOSPC);
    }
    append(group, "cgroup.procs", value)
}

fn append(group: &Path, file: &str, line: &str) -> Outcome {
    let mut text = show(group, file);
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(line);
    fs::write(group.join(file), format!("{text}\n"))
        .map_or(Outcome::Refused(Errno::EIO), |()| Outcome::Nothing)
}

/// `+cpu`: only what the parent hands down, and not in a group with processes of its own.
fn enable(group: &Path, value: &str) -> Outcome {
    let Some(name) = value.strip_prefix('+') else {
        return Outcome::Refused(Errno::EINVAL);
    };
    if !show(group, "cgroup.controllers")
        .split_ascii_whitespace()
        .any(|word| word == name)
    {
        return Outcome::Refused(Errno::ENOENT);
    }
    if !show(group, "cgroup.procs").is_empty() {
        return Outcome::Refused(Errno::EBUSY);
    }
    let enabled = format!("{} {name}", show(group, "cgroup.subtree_control"));
    for child in fs::read_dir(group)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
    {
        let path = child.path();
        let _ = fs::write(path.join("cgroup.controllers"), format!("{}\n", enabled.trim()));
        if fill_controller(&path, name).is_err() {
            return Outcome::Refused(Errno::EIO);
        }
    }
    Outcome::Now(enabled.trim().to_owned())
}

/// The file's lines with the one of the same device replaced.
fn with_line(text: &str, line: &str) -> String {
    let device = line.split(' ').next();
    let mut lines: Vec<&str> = text
        .lines()
        .filter(|old| old.split(' ').next() != device)
        .collect();
    lines.push(line);
    lines.join("\n")
}

/// `io.max` shows all four keys, whichever were written.
fn io_max_line(value: &str) -> String {
    let device = value.split(' ').next().unwrap_or_default();
    let of = |key: &str| {
        let found = value
            .split(' ')
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        format!("{key}={}", found.unwrap_or("max"))
    };
    format!(
        "{device} {} {} {} {}",
        of("rbps"),
        of("wbps"),
        of("riops"),
        of("wiops")
    )
}
