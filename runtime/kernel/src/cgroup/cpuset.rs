//! Which CPUs and memory nodes a group may use.
//!
//! v1: a new group has neither and refuses every process (ENOSPC on attach) until both are written, so
//! what was not asked for is copied from the parent. v2: empty means the parent's.
//! Kernel: admin-guide/cgroup-v1/cpusets.rst, section 2.

use super::group::{Compare, Group, LimitError};
use super::tree::Version;

/// Numbers in the kernel's list form, `0-3,8`: sorted, disjoint, merged. `None` if malformed.
pub fn parse_list(text: &str) -> Option<Vec<(u32, u32)>> {
    let mut ranges = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let plain = |text: &str| -> Option<u32> {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if digits { text.parse().ok() } else { None }
        };
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (plain(first)?, plain(last)?),
            None => (plain(part)?, plain(part)?),
        };
        if first > last {
            return None;
        }
        ranges.push((first, last));
    }
    ranges.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = (*end).max(last),
            _ => merged.push((first, last)),
        }
    }
    Some(merged)
}

/// Every number of `inner` is in `outer`; both as [`parse_list`] gives them.
pub fn is_within(inner: &[(u32, u32)], outer: &[(u32, u32)]) -> bool {
    inner
        .iter()
        .all(|(first, last)| outer.iter().any(|(from, to)| from <= first && last <= to))
}

/// Copies the parent's CPUs and nodes into a new v1 group that nobody has written yet.
pub fn inherit_v1(group: Group<'_>) -> Result<(), LimitError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = group.tree.read_text(group.name, file)?;
        if own.trim().is_empty() {
            let parent = group.tree.read_text("", file)?;
            group.set(file, format_args!("{}", parent.trim()), Compare::List)?;
        }
    }
    Ok(())
}

/// Writes the lists that were asked for; on a new v1 group the others are the parent's.
pub fn apply(group: Group<'_>, cpus: Option<&str>, mems: Option<&str>) -> Result<(), LimitError> {
    if let Some(cpus) = cpus {
        group.set("cpuset.cpus", format_args!("{cpus}"), Compare::List)?;
    }
    if let Some(mems) = mems {
        group.set("cpuset.mems", format_args!("{mems}"), Compare::List)?;
    }
    if group.version() == Version::V1 {
        inherit_v1(group)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_sets() {
        for (text, set) in [
            ("0-3,8\n", Some(vec![(0, 3), (8, 8)])),
            ("8,0,1,2,3", Some(vec![(0, 3), (8, 8)])),
            ("0-2,1-4", Some(vec![(0, 4)])),
            ("", Some(vec![])),
            ("4294967295", Some(vec![(u32::MAX, u32::MAX)])),
            ("3-1", None),
            ("a", None),
            ("+1", None),
            ("1-", None),
            ("-1", None),
            ("99999999999", None),
        ] {
            assert_eq!(parse_list(text), set, "{text:?}");
        }
    }

    #[test]
    fn within_means_every_number() {
        let host = parse_list("0-3,8").unwrap();
        for (text, within) in [
            ("0", true),
            ("1-3", true),
            ("8", true),
            ("4", false),
            ("3-8", false),
            ("9", false),
        ] {
            assert_eq!(is_within(&parse_list(text).unwrap(), &host), within, "{text}");
        }
    }
}
