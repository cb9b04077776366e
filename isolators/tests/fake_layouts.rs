//! The isolator set on fake control groups: every layout, every refusal, no kernel.

use std::fs;
use std::path::PathBuf;

use isolators::{Cleanup, IsolatorSet, PrepareError, StartError, UpdateError};
use kernel::Errno;
use kernel::cgroup::Tree;
use kernel::fake::cgroups::FakeCgroups;
use model::{
    Bytes, CgroupLayout, ContainerId, Controller, Cpus, DeviceLimit, Fault, FaultKind, HostSupport, IoLimits,
    LaunchSpec, Limit, Limits, Millis,
};

struct World {
    cgroups: FakeCgroups,
    host: HostSupport,
    set: IsolatorSet,
    id: ContainerId,
    _directory: tempfile::TempDir,
}

fn world(layout: CgroupLayout) -> World {
    let directory = tempfile::tempdir().unwrap();
    let cgroups = FakeCgroups::default();
    let host = cgroups.host(directory.path(), layout).unwrap();
    let set = set_on(&cgroups, &host).unwrap();
    World {
        cgroups,
        host,
        set,
        id: "c1".parse().unwrap(),
        _directory: directory,
    }
}

fn set_on(cgroups: &FakeCgroups, host: &HostSupport) -> Result<IsolatorSet, StartError> {
    IsolatorSet::on_trees(host, "bulkhead", &|mount, root, version| {
        cgroups.make_root(mount, root, version)
    })
}

impl World {
    fn file(&self, controller: Controller, file: &str) -> PathBuf {
        self.host.controllers[&controller]
            .root
            .join("bulkhead/c1")
            .join(file)
    }

    fn shows(&self, controller: Controller, file: &str) -> String {
        fs::read_to_string(self.file(controller, file))
            .unwrap()
            .trim()
            .to_owned()
    }

    fn put(&self, controller: Controller, file: &str, text: &str) {
        fs::write(self.file(controller, file), text).unwrap();
    }
}

const LAYOUTS: [CgroupLayout; 3] = [CgroupLayout::V1, CgroupLayout::Hybrid, CgroupLayout::V2];

fn mem(mib: u64) -> Option<Limit<Bytes>> {
    Some(Limit::Value(Bytes::mib(mib)))
}

fn spec(limits: Limits) -> LaunchSpec {
    LaunchSpec {
        limits,
        ..LaunchSpec::default()
    }
}

fn usual() -> Limits {
    Limits {
        cpus: Some(Cpus::from_milli(1500)),
        mem: mem(64),
        pids: Some(Limit::Value(10)),
        ..Limits::default()
    }
}

#[test]
fn all_limits_of_v2_are_written() {
    let world = world(CgroupLayout::V2);
    let limits = Limits {
        cpu_burst: Some(Millis(50)),
        mem_soft: Some(Bytes::mib(32)),
        mem_high: mem(60),
        mem_min: Some(Bytes::mib(8)),
        swap: mem(16),
        cpuset_cpus: Some("1-2".into()),
        cpuset_mems: Some("0".into()),
        io: IoLimits {
            weight: Some(200),
            devices: vec![],
        },
        ..usual()
    };
    world.set.admit(&spec(limits.clone())).unwrap();
    world.set.prepare(&world.id, &spec(limits)).unwrap();
    for (file, content) in [
        ("cpu.weight", "150"),
        ("cpu.max", "150000 100000"),
        ("cpu.max.burst", "50000"),
        ("memory.max", "67108864"),
        ("memory.low", "33554432"),
        ("memory.high", "62914560"),
        ("memory.min", "8388608"),
        ("memory.swap.max", "16777216"),
        ("memory.oom.group", "1"),
        ("pids.max", "10"),
        ("cpuset.cpus", "1-2"),
        ("cpuset.mems", "0"),
    ] {
        assert_eq!(world.shows(Controller::Cpu, file), content, "{file}");
    }
    assert!(world.shows(Controller::Io, "io.weight").contains("default 200"));
}

#[test]
fn v2_enables_io_and_cpuset_only_when_asked_for() {
    let world = world(CgroupLayout::V2);
    world.set.prepare(&world.id, &spec(usual())).unwrap();
    let control = world
        .host
        .unified
        .clone()
        .unwrap()
        .join("bulkhead/cgroup.subtree_control");
    assert_eq!(fs::read_to_string(&control).unwrap().trim(), "cpu memory pids");
    let new = Limits {
        cpuset_cpus: Some("3".into()),
        ..usual()
    };
    world.set.update(&world.id, &usual(), &new).unwrap();
    assert_eq!(
        fs::read_to_string(&control).unwrap().trim(),
        "cpu memory pids cpuset"
    );
    assert_eq!(world.shows(Controller::Cpuset, "cpuset.cpus"), "3");
    assert_eq!(world.set.usage(&world.id).unwrap().descriptors(), 8);
}

#[test]
fn swap_is_none_unless_asked_and_its_order_holds_both_ways() {
    for layout in LAYOUTS {
        let world = world(layout);
        let mut old = usual();
        world.set.prepare(&world.id, &spec(old.clone())).unwrap();
        for (hard, swap) in [
            (64, None),
            (128, Some(64)),
            (32, Some(256)),
            (16, Some(0)),
            (256, None),
            (8, None),
        ] {
            let new = Limits {
                mem: mem(hard),
                swap: swap.and_then(mem),
                ..usual()
            };
            world
                .set
                .update(&world.id, &old, &new)
                .unwrap_or_else(|e| panic!("{layout:?} {hard} {swap:?}: {e:?}"));
            let swap = swap.unwrap_or(0);
            let (file, value) = match layout {
                CgroupLayout::V2 => ("memory.swap.max", swap),
                _ => ("memory.memsw.limit_in_bytes", hard + swap),
            };
            assert_eq!(
                world.shows(Controller::Memory, file),
                (value << 20).to_string(),
                "{layout:?}"
            );
            old = new;
        }
    }
}

#[test]
fn a_refused_or_forgotten_limit_undoes_the_whole_prepare() {
    for (layout, file) in [
        (CgroupLayout::V1, "memory.limit_in_bytes"),
        (CgroupLayout::V1, "memory.memsw.limit_in_bytes"),
        (CgroupLayout::Hybrid, "pids.max"),
        (CgroupLayout::Hybrid, "cpu.cfs_quota_us"),
        (CgroupLayout::V1, "devices.allow"),
        (CgroupLayout::V2, "memory.max"),
        (CgroupLayout::V2, "memory.oom.group"),
        (CgroupLayout::V2, "cpu.max"),
    ] {
        let world = world(layout);
        world.cgroups.refuse(file, Errno::EINVAL);
        let error = world.set.prepare(&world.id, &spec(usual())).unwrap_err();
        let fault = Fault::from(error);
        assert!(fault.message.contains(file), "{fault}");
        assert!(
            world.set.orphans().unwrap().is_empty(),
            "{layout:?} {file}: groups are left"
        );

        world.cgroups.relent();
        world.cgroups.forget(file);
        let error = world.set.prepare(&world.id, &spec(usual())).unwrap_err();
        let text = Fault::from(error).message;
        assert!(text.contains("read back") || file == "devices.allow", "{text}");
        assert!(world.set.orphans().unwrap().is_empty());

        world.cgroups.relent();
        world.set.prepare(&world.id, &spec(usual())).unwrap();
    }
}

#[test]
fn a_failed_update_puts_the_old_limits_back() {
    for (layout, refusing) in [(CgroupLayout::Hybrid, "pids.max"), (CgroupLayout::V2, "pids.max")] {
        let world = world(layout);
        world.set.prepare(&world.id, &spec(usual())).unwrap();
        world.cgroups.refuse(refusing, Errno::EPERM);
        let new = Limits {
            cpus: Some(Cpus::from_milli(500)),
            mem: mem(128),
            mem_soft: Some(Bytes::mib(20)),
            pids: Some(Limit::Value(99)),
            ..Limits::default()
        };
        let error = world.set.update(&world.id, &usual(), &new).unwrap_err();
        assert!(
            matches!(error, UpdateError::Limit { isolator: "pids", .. }),
            "{error:?}"
        );
        let v2 = layout == CgroupLayout::V2;
        let weight = world.shows(Controller::Cpu, if v2 { "cpu.weight" } else { "cpu.shares" });
        assert_eq!(weight, if v2 { "150" } else { "1536" });
        let hard = world.shows(
            Controller::Memory,
            if v2 { "memory.max" } else { "memory.limit_in_bytes" },
        );
        assert_eq!(hard, (64 << 20).to_string());
        assert_eq!(world.shows(Controller::Pids, "pids.max"), "10");
    }
}

#[test]
fn lowering_below_use_is_refused_on_every_layout_and_kills_nobody() {
    for layout in LAYOUTS {
        let world = world(layout);
        world.set.prepare(&world.id, &spec(usual())).unwrap();
        let v2 = layout == CgroupLayout::V2;
        let usage = if v2 {
            "memory.current"
        } else {
            "memory.usage_in_bytes"
        };
        world.put(Controller::Memory, usage, &format!("{}\n", 40 << 20));
        let new = Limits {
            mem: mem(32),
            ..usual()
        };
        let error = world.set.update(&world.id, &usual(), &new).unwrap_err();
        let fault = Fault::from(error);
        assert_eq!(
            (fault.kind, fault.field.as_deref()),
            (FaultKind::State, Some("limits.mem")),
            "{fault}"
        );
        assert!(
            world.set.limitation(&world.id, &usual()).unwrap().is_none(),
            "{layout:?}: something was killed"
        );
        if v2 {
            // Page cache gives way.
            world.put(
                Controller::Memory,
                "memory.stat",
                &format!("anon 0\nfile {}\n", 20 << 20),
            );
            world.set.update(&world.id, &usual(), &new).unwrap();
            assert_eq!(
                world.shows(Controller::Memory, "memory.max"),
                (32 << 20).to_string()
            );
        }
    }
}

#[test]
fn groups_go_backward_and_a_busy_one_is_told() {
    for layout in LAYOUTS {
        let world = world(layout);
        world.set.prepare(&world.id, &spec(usual())).unwrap();
        world.put(Controller::Memory, "cgroup.procs", "4194000\n");
        let busy = world.set.cleanup(&world.id).unwrap();
        assert!(
            matches!(&busy, Cleanup::Busy { pids, .. } if pids == &[4194000]),
            "{layout:?} {busy}"
        );
        world.put(Controller::Memory, "cgroup.procs", "");
        world.cgroups.take_log();
        assert_eq!(world.set.cleanup(&world.id).unwrap(), Cleanup::Done);
        assert!(world.cgroups.take_log().iter().all(|line| line == "remove c1"));
        assert_eq!(world.set.cleanup(&world.id).unwrap(), Cleanup::Done);
        world.set.remove_root();
        let root = &world.host.controllers[&Controller::Memory].root;
        assert!(!root.join("bulkhead").exists());
    }
}

#[test]
fn a_later_cpuset_takes_the_processes_in() {
    let world = world(CgroupLayout::Hybrid);
    world.set.prepare(&world.id, &spec(usual())).unwrap();
    let unified = world
        .host
        .unified
        .clone()
        .unwrap()
        .join("bulkhead/c1/cgroup.procs");
    fs::write(unified, "4194001\n4194002\n").unwrap();
    let new = Limits {
        cpuset_cpus: Some("0-1".into()),
        ..usual()
    };
    world.set.update(&world.id, &usual(), &new).unwrap();
    assert_eq!(
        world.shows(Controller::Cpuset, "cgroup.procs"),
        "4194001\n4194002"
    );
    assert_eq!(world.shows(Controller::Cpuset, "cpuset.cpus"), "0-1");
    assert_eq!(
        world.shows(Controller::Cpuset, "cpuset.mems"),
        "0",
        "copied from the parent"
    );
    // Both removed again, though cpuset was no part of the launch.
    fs::write(world.file(Controller::Cpuset, "cgroup.procs"), "").unwrap();
    fs::write(
        world
            .host
            .unified
            .clone()
            .unwrap()
            .join("bulkhead/c1/cgroup.procs"),
        "",
    )
    .unwrap();
    assert_eq!(world.set.cleanup(&world.id).unwrap(), Cleanup::Done);
    assert!(!world.file(Controller::Cpuset, "").exists());
}

#[test]
fn a_container_is_only_where_it_has_to_be() {
    for (layout, expected) in [
        (
            CgroupLayout::V1,
            &["cpu,cpuacct", "memory", "pids", "devices", "freezer"][..],
        ),
        (
            CgroupLayout::Hybrid,
            &["unified", "cpu", "memory", "pids", "devices"],
        ),
        (CgroupLayout::V2, &["unified"]),
    ] {
        let world = world(layout);
        let prepared = world.set.prepare(&world.id, &spec(usual())).unwrap();
        let names: Vec<String> = world
            .set
            .paths(&world.id)
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names, expected, "{layout:?}");
        let v1 = expected.iter().filter(|name| **name != "unified").count();
        assert_eq!(
            (prepared.cgroup_procs.len(), prepared.cgroup.is_some()),
            (v1, layout != CgroupLayout::V1)
        );
    }
}

#[test]
fn what_the_host_can_not_do_is_refused_by_field_and_feature() {
    let device = |d: DeviceLimit| IoLimits {
        weight: None,
        devices: vec![d],
    };
    let disk = || DeviceLimit {
        device: "8:0".into(),
        ..DeviceLimit::default()
    };
    type Change = fn(&mut HostSupport);
    let cases: Vec<(CgroupLayout, Change, Limits, &str, &str)> = vec![
        (
            CgroupLayout::V1,
            |_| {},
            Limits {
                mem_high: mem(8),
                ..usual()
            },
            "limits.mem_high",
            "cgroup v2",
        ),
        (
            CgroupLayout::Hybrid,
            |_| {},
            Limits {
                mem_min: Some(Bytes::mib(2)),
                ..usual()
            },
            "limits.mem_min",
            "cgroup v2",
        ),
        (
            CgroupLayout::V2,
            |h| h.swap_accounting = false,
            Limits {
                swap: mem(1),
                ..usual()
            },
            "limits.swap",
            "swap",
        ),
        (
            CgroupLayout::V2,
            |_| {},
            Limits {
                swap: mem(1),
                ..Limits::default()
            },
            "limits.swap",
            "ceiling",
        ),
        (
            CgroupLayout::V2,
            |h| h.cpu_burst = false,
            Limits {
                cpu_burst: Some(Millis(1)),
                ..usual()
            },
            "limits.cpu_burst",
            "5.14",
        ),
        (
            CgroupLayout::V2,
            |_| {},
            Limits {
                cpu_burst: Some(Millis(1)),
                ..Limits::default()
            },
            "limits.cpu_burst",
            "ceiling",
        ),
        (
            CgroupLayout::V2,
            |_| {},
            Limits {
                cpu_burst: Some(Millis(151)),
                ..usual()
            },
            "limits.cpu_burst",
            "quota",
        ),
        (
            CgroupLayout::V1,
            |h| h.io_weight_file = None,
            Limits {
                io: IoLimits {
                    weight: Some(5),
                    devices: vec![],
                },
                ..usual()
            },
            "limits.io.weight",
            "bfq",
        ),
        (
            CgroupLayout::V2,
            |_| {},
            Limits {
                io: IoLimits {
                    weight: Some(0),
                    devices: vec![],
                },
                ..usual()
            },
            "limits.io.weight",
            "from 1",
        ),
        (
            CgroupLayout::V1,
            |h| h.io_throttle = false,
            Limits {
                io: device(DeviceLimit {
                    read_bps: Some(1),
                    ..disk()
                }),
                ..usual()
            },
            "limits.io.devices.0.device",
            "THROTTLING",
        ),
        (
            CgroupLayout::V1,
            |_| {},
            Limits {
                io: device(DeviceLimit {
                    read_bps: Some(0),
                    ..disk()
                }),
                ..usual()
            },
            "limits.io.devices.0.read_bps",
            "0",
        ),
        (
            CgroupLayout::V2,
            |_| {},
            Limits {
                cpuset_cpus: Some("7".into()),
                ..usual()
            },
            "limits.cpuset_cpus",
            "0-3",
        ),
        (
            CgroupLayout::V2,
            |_| {},
            Limits {
                cpuset_mems: Some("x".into()),
                ..usual()
            },
            "limits.cpuset_mems",
            "list",
        ),
        (
            CgroupLayout::V2,
            |_| {},
            Limits {
                mem: Some(Limit::Value(Bytes(1000))),
                ..usual()
            },
            "limits.mem",
            "1MB",
        ),
        (
            CgroupLayout::V2,
            |_| {},
            Limits {
                mem_soft: Some(Bytes::mib(65)),
                ..usual()
            },
            "limits.mem_soft",
            "64MB",
        ),
        (
            CgroupLayout::V2,
            |_| {},
            Limits {
                pids: Some(Limit::Value(0)),
                ..usual()
            },
            "limits.pids",
            "2",
        ),
        (
            CgroupLayout::V2,
            |_| {},
            Limits {
                pids: Some(Limit::Value(u32::MAX)),
                ..usual()
            },
            "limits.pids",
            "4194304",
        ),
        (
            CgroupLayout::V1,
            |h| drop(h.controllers.remove(&Controller::Pids)),
            usual(),
            "limits.pids",
            "CONFIG_CGROUP_PIDS",
        ),
        (
            CgroupLayout::V1,
            |h| drop(h.controllers.remove(&Controller::Memory)),
            usual(),
            "limits.mem",
            "CONFIG_MEMCG",
        ),
        (
            CgroupLayout::V1,
            |h| drop(h.controllers.remove(&Controller::Cpu)),
            usual(),
            "limits.cpus",
            "CONFIG_CGROUP_SCHED",
        ),
    ];
    for (layout, change, limits, field, word) in cases {
        let directory = tempfile::tempdir().unwrap();
        let cgroups = FakeCgroups::default();
        let mut host = cgroups.host(directory.path(), layout).unwrap();
        change(&mut host);
        let set = set_on(&cgroups, &host).unwrap();
        let fault = set.admit(&spec(limits)).unwrap_err();
        assert_eq!(fault.field.as_deref(), Some(field), "{fault}");
        assert!(fault.message.contains(word), "{fault}");
        assert!(set.admit(&spec(Limits::default())).is_ok());
    }
}

#[test]
fn a_v2_root_with_processes_of_its_own_is_told_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let cgroups = FakeCgroups::default();
    let host = cgroups.host(directory.path(), CgroupLayout::V2).unwrap();
    fs::write(host.unified.clone().unwrap().join("cgroup.procs"), "17\n").unwrap();
    let error = set_on(&cgroups, &host).err().unwrap();
    assert!(
        matches!(
            error,
            StartError::Enable {
                controller: "cpu",
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn a_group_in_use_by_another_is_a_conflict() {
    let world = world(CgroupLayout::V1);
    world.set.prepare(&world.id, &spec(usual())).unwrap();
    world.put(Controller::Cpu, "cgroup.procs", "4194000\n");
    let error = world.set.prepare(&world.id, &spec(usual())).unwrap_err();
    assert!(matches!(error, PrepareError::InUse { .. }), "{error:?}");
    assert_eq!(Fault::from(error).kind, FaultKind::Conflict);
    world.put(Controller::Cpu, "cgroup.procs", "");
    world.set.cleanup(&world.id).unwrap();
}

#[test]
fn the_fake_keeps_the_kernels_rules() {
    let directory = tempfile::tempdir().unwrap();
    let cgroups = FakeCgroups::default();
    let host = cgroups.host(directory.path(), CgroupLayout::V1).unwrap();
    let root = |c: Controller| {
        cgroups
            .make_root(&host.controllers[&c].root, "r", kernel::cgroup::Version::V1)
            .unwrap()
    };
    let memory: Box<dyn Tree> = root(Controller::Memory);
    memory.make("g").unwrap();
    assert!(
        memory
            .write("g", "memory.memsw.limit_in_bytes", "4096")
            .unwrap_err()
            .is_invalid()
    );
    memory.write("g", "memory.limit_in_bytes", "10000").unwrap();
    assert_eq!(memory.read_text("g", "memory.limit_in_bytes").unwrap(), "8192\n");
    assert!(memory.write("g", "nothing", "1").unwrap_err().is_absent());
    let cpuset = root(Controller::Cpuset);
    cpuset.make("g").unwrap();
    assert!(cpuset.write("g", "cgroup.procs", "1").unwrap_err().is_exhausted());
}
