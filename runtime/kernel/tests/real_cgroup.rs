//! The cgroup module on the real kernel. Needs root; groups have names of their own and are removed.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use kernel::cgroup::freezer::{FreezeState, freeze, thaw};
use kernel::cgroup::memory::{self, MemorySettings};
use kernel::cgroup::processes::{is_populated, kill_at_once, kill_each, list, move_all};
use kernel::cgroup::tree::remove_with_children;
use kernel::cgroup::{
    Compare, Group, KernelTree, LimitError, Mounts, Removal, Tree, Version, cpu, cpuset, devices,
};
use kernel::file::{KernelDir, sample};
use model::{Bytes, Controller, Cpus, HostSupport, Limit};

static NEXT: AtomicU32 = AtomicU32::new(0);

fn host() -> Option<HostSupport> {
    if kernel::host::require_root().is_err() {
        eprintln!("skipped: needs root");
        return None;
    }
    Some(kernel::host::probe().unwrap())
}

/// A root group with one group `g` in it.
struct Scratch {
    tree: KernelTree,
    children: Vec<Child>,
}

impl Scratch {
    fn at(mount: PathBuf, version: Version) -> Self {
        let root = format!(
            "bulkhead-test-{}-k{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let tree = KernelTree::make_root(&mount, &root, version).unwrap();
        assert!(tree.make("g").unwrap());
        Self {
            tree,
            children: Vec::new(),
        }
    }

    fn of(host: &HostSupport, controller: Controller) -> Option<Self> {
        let mount = host.controllers.get(&controller)?;
        if mount.version == 2 {
            eprintln!("skipped: {controller:?} is on v2, where the isolator tests cover it");
            return None;
        }
        Some(Self::at(mount.root.clone(), Version::V1))
    }

    fn group(&self) -> Group<'_> {
        Group::new(&self.tree, "g")
    }

    fn run(&mut self, script: &str) -> i32 {
        let procs = self.tree.path().join("g/cgroup.procs");
        let script = format!("echo 0 > {} || exit 99; {script}", procs.display());
        let child = Command::new("/bin/sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        self.children.push(child);
        eventually(|| {
            fs::read_to_string(&procs)
                .unwrap()
                .lines()
                .any(|line| line == pid.to_string())
        });
        pid
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = kill_each(self.group(), Duration::from_secs(1));
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let begin = Instant::now();
        while remove_with_children(&self.tree, "g").unwrap() == Removal::Busy {
            assert!(
                begin.elapsed() < patience(5) || std::thread::panicking(),
                "still busy"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.tree.remove_root();
        assert!(std::thread::panicking() || !self.tree.path().exists());
    }
}

/// Factor to every deadline; `scripts/vm` sets it, because an emulated machine is slow.
fn patience(seconds: u64) -> Duration {
    let factor = std::env::var("BULKHEAD_TEST_SLOW")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(seconds * factor.unwrap_or(1))
}

fn eventually(mut check: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !check() {
        assert!(begin.elapsed() < patience(10), "not in time");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_probe_and_the_mount_table_agree() {
    let Some(host) = host() else { return };
    let mounts = Mounts::parse(&fs::read_to_string("/proc/self/mountinfo").unwrap()).unwrap();
    assert_eq!(host.layout, mounts.layout());
    for mount in host.controllers.values() {
        assert!(
            mount.root.join("cgroup.procs").exists(),
            "{}",
            mount.root.display()
        );
    }
    if let Some(cpus) = &host.cpuset_cpus {
        assert!(cpuset::parse_list(cpus).is_some_and(|list| !list.is_empty()));
    }
}

#[test]
fn the_kernel_clamps_and_we_notice() {
    let Some(scratch) = host().and_then(|host| Scratch::of(&host, Controller::Cpu)) else {
        return;
    };
    let group = scratch.group();
    let error = group
        .set("cpu.shares", format_args!("1"), Compare::Exact)
        .unwrap_err();
    let LimitError::Mismatch { wrote, found, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!((wrote.as_str(), found.as_str()), ("1", "2"));
    let error = group
        .set("cpu.cfs_quota_us", format_args!("1"), Compare::Exact)
        .unwrap_err();
    assert!(
        matches!(&error, LimitError::File(error) if error.is_invalid()),
        "{error:?}"
    );
    let error = group
        .set("cpu.nothing", format_args!("1"), Compare::Exact)
        .unwrap_err();
    assert!(error.is_absent());
    for milli in [1, 10, 999, 1000, 256_000, 1_000_000] {
        let cpus = Some(Cpus::from_milli(milli));
        let settings = cpu::CpuSettings {
            weight: cpus,
            ceiling: cpus.map(Limit::Value),
            burst: None,
        };
        cpu::apply(group, &settings, false).unwrap();
    }
}

#[test]
fn memory_rounds_to_pages_and_keeps_its_order() {
    let Some(host) = host() else { return };
    let Some(scratch) = Scratch::of(&host, Controller::Memory) else {
        return;
    };
    let (group, page) = (scratch.group(), host.page_size.get());
    for (hard, swap) in [
        (10_000_000, 0),
        (5_000_001, 123_456),
        (50_000_000, 0),
        (4_194_304, 1 << 30),
    ] {
        let swap = host.swap_accounting.then_some(Limit::Value(Bytes(swap)));
        let settings = MemorySettings {
            hard: Some(Limit::Value(Bytes(hard))),
            swap,
            ..Default::default()
        };
        memory::apply(group, &settings, page).unwrap();
        let shown = group.read_number("memory.limit_in_bytes").unwrap().unwrap();
        assert_eq!(shown, hard / page * page);
    }
    let unlimited = MemorySettings {
        hard: Some(Limit::Max),
        swap: Some(Limit::Max),
        ..Default::default()
    };
    memory::apply(
        group,
        &MemorySettings {
            swap: unlimited.swap.filter(|_| host.swap_accounting),
            ..unlimited
        },
        page,
    )
    .unwrap();
    let text = group.tree.read_text("g", "memory.limit_in_bytes").unwrap();
    assert_eq!(memory::parse_limit(text.as_bytes()), None);
}

#[test]
fn v1_devices_are_listed_as_allowed() {
    let Some(host) = host() else { return };
    let Some(scratch) = Scratch::of(&host, Controller::Devices) else {
        return;
    };
    devices::apply_v1(scratch.group(), &devices::DEFAULT).unwrap();
    let listed = scratch.group().tree.read_text("g", "devices.list").unwrap();
    assert_eq!(listed.lines().count(), devices::DEFAULT.len(), "{listed}");
}

#[test]
fn a_v1_cpuset_takes_nobody_before_it_is_filled() {
    let Some(host) = host() else { return };
    let Some(scratch) = Scratch::of(&host, Controller::Cpuset) else {
        return;
    };
    let own = std::process::id().to_string();
    let top = KernelTree::open_root(host.controllers[&Controller::Cpuset].root.clone(), Version::V1).unwrap();
    let refused = scratch.tree.write("g", "cgroup.procs", &own).unwrap_err();
    assert!(refused.is_exhausted(), "{refused:?}");
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let text = top.read_text("", file).unwrap();
        Group::new(&scratch.tree, "")
            .set(file, format_args!("{}", text.trim()), Compare::List)
            .unwrap();
    }
    cpuset::apply(scratch.group(), Some("0"), None).unwrap();
    assert_eq!(scratch.tree.read_text("g", "cpuset.cpus").unwrap(), "0\n");
    assert!(
        !scratch
            .tree
            .read_text("g", "cpuset.mems")
            .unwrap()
            .trim()
            .is_empty()
    );
}

#[test]
fn without_cgroup_kill_each_process_is_signalled() {
    let Some(host) = host() else { return };
    let Some(mut scratch) = Scratch::of(&host, Controller::Pids) else {
        return;
    };
    scratch.run("sleep 100 & sleep 100 & sleep 100 & wait");
    eventually(|| list(scratch.group()).unwrap().len() == 4);
    assert_eq!(scratch.tree.remove("g").unwrap(), Removal::Busy);
    assert!(!kill_at_once(scratch.group()).unwrap(), "v1 has no cgroup.kill");
    assert!(
        kill_each(scratch.group(), Duration::from_secs(2))
            .unwrap()
            .is_empty()
    );
}

#[test]
fn the_v2_tree_tells_when_it_is_empty_and_frozen() {
    let Some(host) = host() else { return };
    let Some(root) = host.unified.clone() else {
        return eprintln!("skipped: no v2 tree");
    };
    let mut scratch = Scratch::at(root, Version::V2);
    assert_eq!(is_populated(scratch.group()).unwrap(), Some(false));
    scratch.run("sleep 100 & wait");
    assert_eq!(is_populated(scratch.group()).unwrap(), Some(true));
    assert_eq!(freeze(scratch.group()).unwrap(), FreezeState::Done);
    assert_eq!(thaw(scratch.group()).unwrap(), FreezeState::Done);
    assert_eq!(freeze(scratch.group()).unwrap(), FreezeState::Done);
    assert!(
        kill_at_once(scratch.group()).unwrap(),
        "a frozen group can be killed"
    );
    scratch.children[0].wait().unwrap();
    eventually(|| is_populated(scratch.group()).unwrap() == Some(false));
    assert_eq!(is_populated(Group::new(&scratch.tree, "nobody")).unwrap(), None);
}

#[test]
fn the_v1_freezer_still_works_where_there_is_one() {
    if host().is_none() {
        return;
    }
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = Mounts::parse(&text).unwrap();
    let Some(mount) = mounts
        .v1
        .iter()
        .find(|mount| mount.controllers.iter().any(|c| c == "freezer"))
    else {
        return eprintln!("skipped: no v1 freezer");
    };
    let mut scratch = Scratch::at(mount.mount_point.clone(), Version::V1);
    scratch.run("while :; do :; done");
    assert_eq!(freeze(scratch.group()).unwrap(), FreezeState::Done);
    assert_eq!(thaw(scratch.group()).unwrap(), FreezeState::Done);
}

#[test]
fn a_family_moves_whole_into_another_hierarchy() {
    let Some(host) = host() else { return };
    let (Some(mut from), Some(to)) = (
        Scratch::of(&host, Controller::Pids),
        Scratch::of(&host, Controller::Memory),
    ) else {
        return;
    };
    from.run("while :; do sleep 0.01 & sleep 0.01; done");
    assert!(move_all(from.group(), to.group()).unwrap());
    // Those born since are there too: the parents are.
    assert!(!list(to.group()).unwrap().is_empty());
    kill_each(from.group(), Duration::from_secs(2)).unwrap();
}

#[test]
fn a_kept_file_of_a_removed_group_tells_nothing() {
    let Some(host) = host() else { return };
    let Some(scratch) = Scratch::of(&host, Controller::Pids) else {
        return;
    };
    let file = scratch
        .tree
        .open("g", "pids.current", kernel::file::Access::Read)
        .unwrap();
    let mut buffer = Vec::new();
    assert_eq!(
        sample(std::os::fd::AsFd::as_fd(&file), &mut buffer),
        Some(&b"0\n"[..])
    );
    assert_eq!(scratch.tree.remove("g").unwrap(), Removal::Removed);
    assert_eq!(sample(std::os::fd::AsFd::as_fd(&file), &mut buffer), None);
    assert_eq!(scratch.tree.remove("g").unwrap(), Removal::Absent);
}

#[test]
fn a_long_list_is_read_to_its_end() {
    // More than one page of records: the kernel hands them out in pieces.
    let directory = KernelDir::open("/proc".as_ref()).unwrap();
    let whole = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    if whole.len() < 10_000 {
        return eprintln!("skipped: no long list here");
    }
    assert_eq!(directory.read_text(&["kallsyms"]).unwrap().len(), whole.len());
}
