//! Texts of procfs and of control groups. The kernel writes them, but names of processes and mount points are anybody's.
//!
//! Rules: lists are sorted and disjoint and mean the same when printed; what agrees with itself agrees.

use kernel::cgroup::cpuset::{is_within, parse_list};
use kernel::cgroup::io::DeviceNumber;
use kernel::cgroup::{Compare, Mounts, io, memory, pressure};
use kernel::file::{for_each_keyed, keyed, number};
use kernel::{host, mount_table, procfs};

pub fn run(data: &[u8]) {
    let (kind, bytes) = crate::choice(data);
    match kind % 9 {
        0 => keyed_lines(bytes),
        1 => {
            let _ = io::parse_v1(bytes);
            let _ = io::parse_v2(bytes);
        }
        2 => {
            if let Some(limit) = memory::parse_limit(bytes) {
                assert_eq!(number(bytes), Some(limit));
            }
        }
        8 => {
            let lines = bytes.split(|byte| *byte == b'\n').count();
            let mounts = mount_table::parse(bytes);
            assert!(mounts.len() <= lines);
            let _ = mounts.iter().filter(|mount| mount.is_control()).count();
        }
        kind => {
            if let Some(text) = crate::text(bytes) {
                texts(kind, text);
            }
        }
    }
}

fn texts(kind: u8, text: &str) {
    match kind {
        3 => {
            if let Some(pressure) = pressure::parse(text) {
                let _ = format!("{pressure:?}");
            }
        }
        4 => list(text),
        5 => mounts(text),
        6 => {
            let _ = procfs::start_time_of(text);
            let _ = host::release(text);
            let _ = host::keyed_field(text, "CapBnd:", 16);
            let _ = host::keyed_field(text, "MemTotal:", 10);
            if let Some(device) = DeviceNumber::parse(text) {
                assert_eq!(DeviceNumber::parse(&device.to_string()), Some(device));
            }
        }
        _ => {
            let (one, other) = text.split_once('\0').unwrap_or((text, text));
            for compare in [
                Compare::Exact,
                Compare::Pages { page: 4096 },
                Compare::List,
                Compare::Line,
            ] {
                let _ = compare.agrees(one, other);
            }
        }
    }
}

fn keyed_lines(bytes: &[u8]) {
    let mut first = None;
    for_each_keyed(bytes, |key, value| {
        assert!(!key.contains(&b' '));
        if first.is_none() {
            first = Some((String::from_utf8_lossy(key).into_owned(), value));
        }
    });
    if let Some((key, _)) = first.filter(|(key, _)| !key.contains('\u{fffd}')) {
        assert!(keyed(bytes, &key).is_some());
    }
}

fn list(text: &str) {
    let Some(list) = parse_list(text) else { return };
    assert!(list.iter().all(|(first, last)| first <= last));
    assert!(list.windows(2).all(|pair| pair[0].1 < pair[1].0));
    assert!(is_within(&list, &list));
    let printed: Vec<String> = list
        .iter()
        .map(|(first, last)| format!("{first}-{last}"))
        .collect();
    let printed = printed.join(",");
    assert_eq!(parse_list(&printed), Some(list));
    assert!(Compare::List.agrees(text, &printed), "{text:?} {printed:?}");
}

fn mounts(text: &str) {
    let Ok(mounts) = Mounts::parse(text) else { return };
    let _ = (mounts.layout(), mounts.unified());
    for mount in mounts.controllers("cpu memory pids io cpuset hugetlb").values() {
        assert!(mount.version == 1 || mount.version == 2);
    }
}
