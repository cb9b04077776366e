//! The isolator set on the real kernel. Needs root; every test has a root group of its own and removes it.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use isolators::{Cleanup, FreezeState, IsolatorSet, PrepareError, UpdateError, WatchKind, limits_into};
use model::{
    Bytes, ContainerId, Controller, Cpus, DeviceLimit, DeviceRule, FaultKind, HostSupport, LaunchSpec, Limit,
    Limits, Millis, Reason,
};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// One agent's worth of groups, gone at the end of the test, also when it failed.
struct World {
    set: IsolatorSet,
    host: HostSupport,
    root: String,
    id: ContainerId,
    children: Vec<Child>,
}

fn world() -> Option<World> {
    if kernel::host::require_root().is_err() {
        eprintln!("skipped: needs root");
        return None;
    }
    let host = kernel::host::probe().unwrap();
    let root = format!(
        "bulkhead-test-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let set = IsolatorSet::new(&host, &root).unwrap();
    Some(World {
        set,
        host,
        root,
        id: "c1".parse().unwrap(),
        children: Vec::new(),
    })
}

impl World {
    fn mounts(&self) -> Vec<PathBuf> {
        let mut mounts: Vec<PathBuf> = self.host.controllers.values().map(|m| m.root.clone()).collect();
        mounts.extend(self.host.unified.clone());
        mounts.sort();
        mounts.dedup();
        mounts
    }

    fn path(&self, controller: Controller, file: &str) -> PathBuf {
        self.host.controllers[&controller]
            .root
            .join(&self.root)
            .join(self.id.as_str())
            .join(file)
    }

    fn v(&self, controller: Controller) -> u8 {
        self.host.controllers[&controller].version
    }

    fn read(&self, controller: Controller, v1: &str, v2: &str) -> String {
        let file = if self.v(controller) == 1 { v1 } else { v2 };
        fs::read_to_string(self.path(controller, file))
            .unwrap()
            .trim()
            .to_owned()
    }

    /// Runs a shell in the container's groups. The shell joins, as the init does, before it does anything.
    fn run(&mut self, script: &str) -> i32 {
        let joins = self.set.paths(&self.id).into_iter();
        let joins: String = joins
            .map(|(_, path)| format!("echo 0 > {}/cgroup.procs || exit 99; ", path.display()))
            .collect();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("{joins}{script}")]);
        command
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let pid = child.id() as i32;
        // The last hierarchy is joined last: then the script begins.
        let (_, last) = self.set.paths(&self.id).pop().unwrap();
        eventually("the shell has joined", || {
            let procs = fs::read_to_string(last.join("cgroup.procs")).unwrap();
            procs.lines().any(|line| line == pid.to_string()) || child.try_wait().unwrap().is_some()
        });
        self.children.push(child);
        pid
    }

    fn wait(&mut self) -> std::process::ExitStatus {
        self.children.last_mut().unwrap().wait().unwrap()
    }

    fn clean(&self) {
        eventually("the groups are removed", || {
            self.set.cleanup(&self.id).unwrap() == Cleanup::Done
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
        }
        let _ = self.set.kill_all(&self.id);
        for child in &mut self.children {
            let _ = child.wait();
        }
        for _ in 0..200 {
            match self.set.cleanup(&self.id) {
                Ok(Cleanup::Done) => break,
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        self.set.remove_root();
        if !std::thread::panicking() {
            for mount in self.mounts() {
                assert!(
                    !mount.join(&self.root).exists(),
                    "left: {}",
                    mount.join(&self.root).display()
                );
            }
        }
    }
}

/// Factor to every deadline; `scripts/vm` sets it, because an emulated machine is slow.
fn patience(seconds: u64) -> Duration {
    let factor = std::env::var("BULKHEAD_TEST_SLOW")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(seconds * factor.unwrap_or(1))
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !check() {
        assert!(begin.elapsed() < patience(10), "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn limited() -> LaunchSpec {
    LaunchSpec {
        limits: Limits {
            cpus: Some(Cpus::from_milli(500)),
            mem: Some(Limit::Value(Bytes::mib(64))),
            pids: Some(Limit::Value(32)),
            ..Limits::default()
        },
        ..LaunchSpec::default()
    }
}

#[test]
fn every_limit_is_in_the_kernel_after_prepare() {
    let Some(world) = world() else { return };
    let prepared = world.set.prepare(&world.id, &limited()).unwrap();
    assert_eq!(prepared.cgroup.is_some(), world.host.unified.is_some());
    let weight = world.read(Controller::Cpu, "cpu.shares", "cpu.weight");
    assert_eq!(
        weight,
        if world.v(Controller::Cpu) == 1 {
            "512"
        } else {
            "50"
        }
    );
    let quota = world.read(Controller::Cpu, "cpu.cfs_quota_us", "cpu.max");
    assert_eq!(
        quota,
        if world.v(Controller::Cpu) == 1 {
            "50000"
        } else {
            "50000 100000"
        }
    );
    assert_eq!(
        world.read(Controller::Memory, "memory.limit_in_bytes", "memory.max"),
        "67108864"
    );
    if world.host.swap_accounting {
        let swap = world.read(
            Controller::Memory,
            "memory.memsw.limit_in_bytes",
            "memory.swap.max",
        );
        assert_eq!(
            swap,
            if world.v(Controller::Memory) == 1 {
                "67108864"
            } else {
                "0"
            }
        );
    }
    assert_eq!(world.read(Controller::Pids, "pids.max", "pids.max"), "32");
    assert_eq!(world.set.orphans().unwrap(), std::slice::from_ref(&world.id));
    world.clean();
    assert_eq!(
        world.set.cleanup(&world.id).unwrap(),
        Cleanup::Done,
        "twice is as good as once"
    );
    assert!(world.set.orphans().unwrap().is_empty());
}

#[test]
fn update_goes_up_and_down_and_memsw_keeps_its_order() {
    let Some(world) = world() else { return };
    let mut old = limited().limits;
    world.set.prepare(&world.id, &limited()).unwrap();
    for (mem, swap) in [
        (128, None),
        (32, None),
        (64, Some(64)),
        (96, Some(0)),
        (16, Some(200)),
        (64, None),
    ] {
        if swap.is_some() && !world.host.swap_accounting {
            continue;
        }
        let new = Limits {
            mem: Some(Limit::Value(Bytes::mib(mem))),
            swap: swap.map(|swap| Limit::Value(Bytes::mib(swap))),
            cpus: Some(Cpus::from_milli(mem as u32 * 10)),
            pids: Some(Limit::Value(mem as u32)),
            ..Limits::default()
        };
        world.set.update(&world.id, &old, &new).unwrap();
        let hard = world.read(Controller::Memory, "memory.limit_in_bytes", "memory.max");
        assert_eq!(hard, (mem << 20).to_string());
        if world.host.swap_accounting {
            let with_swap = world.read(
                Controller::Memory,
                "memory.memsw.limit_in_bytes",
                "memory.swap.max",
            );
            let expected = if world.v(Controller::Memory) == 1 {
                mem + swap.unwrap_or(0)
            } else {
                swap.unwrap_or(0)
            };
            assert_eq!(with_swap, (expected << 20).to_string(), "{mem} {swap:?}");
        }
        assert_eq!(
            world.read(Controller::Pids, "pids.max", "pids.max"),
            mem.to_string()
        );
        old = new;
    }
    let unlimited = Limits {
        mem: Some(Limit::Max),
        cpu_limit: Some(Limit::Max),
        pids: Some(Limit::Max),
        ..old.clone()
    };
    world.set.update(&world.id, &old, &unlimited).unwrap();
    let quota = world.read(Controller::Cpu, "cpu.cfs_quota_us", "cpu.max");
    assert!(
        quota.starts_with(if world.v(Controller::Cpu) == 1 {
            "-1"
        } else {
            "max"
        }),
        "{quota}"
    );
    assert_eq!(world.read(Controller::Pids, "pids.max", "pids.max"), "max");
}

#[test]
fn burst_is_written_with_its_quota() {
    let Some(world) = world() else { return };
    if !world.host.cpu_burst {
        return eprintln!("skipped: no CFS burst");
    }
    let burst = |cpus, ms| Limits {
        cpus: Some(Cpus::from_milli(cpus)),
        cpu_burst: Some(Millis(ms)),
        ..Limits::default()
    };
    let spec = LaunchSpec {
        limits: burst(1000, 80),
        ..LaunchSpec::default()
    };
    world.set.prepare(&world.id, &spec).unwrap();
    assert_eq!(
        world.read(Controller::Cpu, "cpu.cfs_burst_us", "cpu.max.burst"),
        "80000"
    );
    // The kernel refuses a quota below the burst: the order matters.
    world
        .set
        .update(&world.id, &burst(1000, 80), &burst(500, 20))
        .unwrap();
    assert_eq!(
        world.read(Controller::Cpu, "cpu.cfs_burst_us", "cpu.max.burst"),
        "20000"
    );
    let refused = world.set.admit_limits(&burst(500, 60)).unwrap_err();
    assert_eq!(refused.field.as_deref(), Some("limits.cpu_burst"));
}

#[test]
fn a_ceiling_below_what_is_used_is_refused_and_the_old_limits_stand() {
    let Some(mut world) = world() else { return };
    let spec = limited();
    world.set.prepare(&world.id, &spec).unwrap();
    // dash keeps the variable on its heap: anonymous memory, no swap allowed, nothing to reclaim.
    world.run("x=$(head -c 12000000 /dev/zero | tr '\\0' x); sleep 60; echo $x");
    let file = if world.v(Controller::Memory) == 1 {
        "memory.usage_in_bytes"
    } else {
        "memory.current"
    };
    let usage = world.path(Controller::Memory, file);
    eventually("memory is used", || {
        fs::read_to_string(&usage).unwrap().trim().parse::<u64>().unwrap() > 14_000_000
    });
    let new = Limits {
        mem: Some(Limit::Value(Bytes::mib(2))),
        cpus: Some(Cpus::from_milli(900)),
        ..spec.limits.clone()
    };
    let error = world.set.update(&world.id, &spec.limits, &new).unwrap_err();
    assert!(
        matches!(
            &error,
            UpdateError::Limit {
                isolator: "memory",
                rollback: None,
                ..
            }
        ),
        "{error:?}"
    );
    let fault = model::Fault::from(error);
    assert_eq!(fault.field.as_deref(), Some("limits.mem"));
    assert_eq!(fault.kind, FaultKind::State);
    assert_eq!(
        world.read(Controller::Memory, "memory.limit_in_bytes", "memory.max"),
        (64 << 20).to_string()
    );
    let weight = world.read(Controller::Cpu, "cpu.shares", "cpu.weight");
    assert_eq!(
        weight,
        if world.v(Controller::Cpu) == 1 {
            "512"
        } else {
            "50"
        },
        "cpu is rolled back too"
    );
}

#[test]
fn running_out_of_memory_is_told_and_has_its_figures() {
    let Some(mut world) = world() else { return };
    let mut spec = limited();
    spec.limits.mem = Some(Limit::Value(Bytes::mib(16)));
    spec.limits.cpus = None;
    world.set.prepare(&world.id, &spec).unwrap();
    let watch = world.set.watch(&world.id).unwrap().unwrap();
    assert!(world.set.limitation(&world.id, &spec.limits).unwrap().is_none());
    world.run("x=$(head -c 60000000 /dev/zero | tr '\\0' x); echo $x");
    world.wait();
    if watch.kind == WatchKind::Readable {
        let mut buffer = [0; 8];
        let got = std::io::Read::read(&mut fs::File::from(watch.fd), &mut buffer).unwrap();
        assert!(got == 8 && u64::from_ne_bytes(buffer) >= 1);
    }
    for _ in 0..2 {
        let limitation = world.set.limitation(&world.id, &spec.limits).unwrap().unwrap();
        assert_eq!(limitation.reason, Reason::MemoryLimit);
        assert_eq!(limitation.limit, Some(Bytes::mib(16)));
        assert!(
            limitation.peak.is_none_or(|peak| peak >= Bytes::mib(15)),
            "{limitation:?}"
        );
        assert!(!limitation.statistics.is_empty());
    }
    assert!(
        world
            .set
            .limitation(&world.id, &Limits::default())
            .unwrap()
            .is_none(),
        "no ceiling, no limitation"
    );
}

#[test]
fn statistics_grow_and_cost_few_descriptors() {
    let Some(mut world) = world() else { return };
    let spec = limited();
    world.set.prepare(&world.id, &spec).unwrap();
    let reader = world.set.usage(&world.id).unwrap();
    let pressure = if world.host.pressure { 3 } else { 0 };
    assert!(reader.descriptors() <= 8 + pressure, "{}", reader.descriptors());
    let mut buffer = Vec::new();
    world.run("x=$(head -c 3000000 /dev/zero | tr '\\0' x); while :; do :; done");
    eventually("CPU time is counted and throttled", || {
        let usage = reader.sample(&mut buffer);
        usage.cpus_user_time_secs.unwrap() > 0.05
            && usage.cpus_nr_throttled.unwrap() > 0
            // Counted when it ends, the number when it begins.
            && usage.cpus_throttled_time_secs.unwrap() > 0.0
            // Summed up every two seconds (PSI_FREQ, kernel/sched/psi.c).
            && usage.cpu_pressure.is_none_or(|pressure| pressure.some.total_secs > 0.0)
            // The shell's own memory comes late where head and tr take all the time.
            && usage.mem_rss_bytes.unwrap() > 3_000_000
    });
    // It works, so that what one or two reads tell changes.
    let before = reader.cpu_times(&mut buffer).expect("it lives");
    eventually("the time alone tells that it has run", || {
        reader.cpu_times(&mut buffer).is_some_and(|now| now != before)
    });
    let mut usage = reader.sample(&mut buffer);
    limits_into(&spec.limits, &world.host, &mut usage);
    assert!(usage.threads.unwrap() >= 1);
    assert!(usage.processes.is_none_or(|count| count >= 1));
    assert!(usage.mem_total_bytes.unwrap() > 3_000_000);
    assert!(usage.mem_rss_bytes.unwrap() > 2_000_000);
    assert!(usage.mem_cache_bytes.is_some() && usage.mem_peak_bytes.unwrap() > 3_000_000);
    assert!(usage.cpus_throttled_time_secs.unwrap() > 0.0);
    assert_eq!(usage.mem_total_memsw_bytes.is_some(), world.host.swap_accounting);
    // It is throttled, so work waited for a processor; without the kernel's count nothing is told.
    let tells = world.host.pressure && world.host.unified.is_some();
    for pressure in [usage.cpu_pressure, usage.mem_pressure, usage.io_pressure] {
        assert_eq!(pressure.is_some(), tells, "{usage:?}");
    }
    assert!(
        usage
            .cpu_pressure
            .is_none_or(|pressure| pressure.some.total_secs > 0.0)
    );
    assert_eq!(
        (usage.cpus_limit, usage.mem_limit_bytes),
        (Some(0.5), Some(64 << 20))
    );
    // Of one that nobody asks for only what tells whether it has run stays open.
    let reduced = world.set.usage(&world.id).unwrap().reduced(&mut buffer);
    assert!(!reduced.is_whole() && reduced.descriptors() <= 2);
    let before = reduced.cpu_times(&mut buffer).expect("it lives");
    eventually("that is told by what has stayed open", || {
        reduced.cpu_times(&mut buffer).is_some_and(|now| now != before)
    });
    world.set.kill_all(&world.id).unwrap();
    world.wait();
    world.clean();
    let after = reader.sample(&mut buffer);
    assert_eq!(after.mem_total_bytes, None, "a group that is gone tells nothing");
}

#[test]
fn kill_all_ends_a_family_and_cleanup_says_busy_until_then() {
    let Some(mut world) = world() else { return };
    world.set.prepare(&world.id, &limited()).unwrap();
    world.run("sleep 100 & sleep 100 & sleep 100 & wait");
    eventually("the family runs", || {
        world.set.pids(&world.id).unwrap().len() >= 4
    });
    let busy = world.set.cleanup(&world.id).unwrap();
    assert!(
        matches!(&busy, Cleanup::Busy { pids, .. } if pids.len() >= 4),
        "{busy}"
    );
    assert_eq!(world.set.freeze(&world.id).unwrap(), FreezeState::Done);
    world.set.kill_all(&world.id).unwrap();
    assert_eq!(world.wait().signal(), Some(9));
    world.clean();
    world.set.kill_all(&world.id).unwrap();
}

#[test]
fn a_frozen_container_stands_still() {
    let Some(mut world) = world() else { return };
    let spec = LaunchSpec::default();
    world.set.prepare(&world.id, &spec).unwrap();
    world.run("while :; do :; done");
    let reader = world.set.usage(&world.id).unwrap();
    let mut buffer = Vec::new();
    let mut time = || reader.sample(&mut buffer).cpus_user_time_secs.unwrap();
    eventually("it runs", || time() > 0.02);
    assert_eq!(world.set.freeze(&world.id).unwrap(), FreezeState::Done);
    let frozen = time();
    std::thread::sleep(Duration::from_millis(60));
    assert!(time() - frozen < 0.01);
    assert_eq!(world.set.thaw(&world.id).unwrap(), FreezeState::Done);
    eventually("it runs again", || time() > frozen + 0.02);
}

#[test]
fn cpuset_and_io_join_a_running_container() {
    let Some(mut world) = world() else { return };
    let spec = limited();
    world.set.prepare(&world.id, &spec).unwrap();
    world.run("sleep 100 & sleep 100 & wait");
    eventually("the family runs", || {
        world.set.pids(&world.id).unwrap().len() >= 3
    });
    let cpu = world.host.cpuset_cpus.clone().unwrap();
    let first = cpu.split(['-', ',']).next().unwrap().to_owned();
    let new = Limits {
        cpuset_cpus: Some(first.clone()),
        ..spec.limits.clone()
    };
    world.set.update(&world.id, &spec.limits, &new).unwrap();
    assert_eq!(
        world.read(Controller::Cpuset, "cpuset.cpus", "cpuset.cpus"),
        first
    );
    for pid in world.set.pids(&world.id).unwrap() {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let allowed = status
            .lines()
            .find_map(|l| l.strip_prefix("Cpus_allowed_list:"))
            .unwrap();
        assert_eq!(allowed.trim(), first);
    }
    let joined = world.set.join(&world.id).unwrap();
    assert!(joined.cgroup_procs.len() >= if world.v(Controller::Cpuset) == 1 { 4 } else { 0 });
    let outside = Limits {
        cpuset_cpus: Some("4000".into()),
        ..spec.limits
    };
    assert_eq!(
        world.set.admit_limits(&outside).unwrap_err().field.as_deref(),
        Some("limits.cpuset_cpus")
    );
}

#[test]
fn a_disk_is_throttled_or_the_request_is_refused() {
    let Some(mut world) = world() else { return };
    let limits = |device: &str, bps| {
        let device = DeviceLimit {
            device: device.into(),
            read_bps: Some(bps),
            write_iops: Some(50),
            ..Default::default()
        };
        let io = model::IoLimits {
            weight: None,
            devices: vec![device],
        };
        LaunchSpec {
            limits: Limits {
                io,
                ..Limits::default()
            },
            ..LaunchSpec::default()
        }
    };
    let error = world.set.prepare(&world.id, &limits("/proc", 1)).unwrap_err();
    assert!(
        matches!(error, PrepareError::Limit { isolator: "io", .. }),
        "{error:?}"
    );
    assert_eq!(model::Fault::from(error).kind, FaultKind::Invalid);
    assert!(
        world.set.orphans().unwrap().is_empty(),
        "a failed prepare leaves nothing"
    );

    let disk = fs::read_dir("/sys/block").unwrap().flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let number = fs::read_to_string(entry.path().join("dev")).ok()?;
        (!name.starts_with("zram")).then(|| number.trim().to_owned())
    });
    let Some(disk) = disk else {
        return eprintln!("skipped: no block device");
    };
    world.set.admit(&limits(&disk, 1 << 20)).unwrap();
    world.set.prepare(&world.id, &limits(&disk, 1 << 20)).unwrap();
    let lines = world.read(Controller::Io, "blkio.throttle.read_bps_device", "io.max");
    assert!(lines.contains(&disk) && lines.contains("1048576"), "{lines}");
    world.run("sleep 100");
    let (old, new) = (limits(&disk, 1 << 20).limits, limits(&disk, 2 << 20).limits);
    world.set.update(&world.id, &old, &new).unwrap();
    let lines = world.read(Controller::Io, "blkio.throttle.read_bps_device", "io.max");
    assert!(lines.contains("2097152"), "{lines}");
}

#[test]
fn only_allowed_devices_open() {
    let Some(mut world) = world() else { return };
    world.set.prepare(&world.id, &limited()).unwrap();
    world.run("echo > /dev/null && head -c1 /dev/zero && head -c 1 /dev/urandom && test ! -r /nowhere");
    assert!(world.wait().success());
    // /dev/kmsg is there on every host, and is none of a container's business.
    world.run("exec 3< /dev/kmsg");
    assert!(!world.wait().success(), "/dev/kmsg could be opened");
    world.clean();

    let mut spec = limited();
    spec.devices = vec![DeviceRule {
        path: "/dev/kmsg".into(),
        read: true,
        write: false,
        mknod: false,
    }];
    world.set.admit(&spec).unwrap();
    world.set.prepare(&world.id, &spec).unwrap();
    world.run("exec 3< /dev/kmsg");
    assert!(world.wait().success(), "an allowed device is refused");
    world.run("exec 3> /dev/kmsg");
    assert!(!world.wait().success(), "reading is allowed, writing is not");
    world.clean();
    spec.devices[0].path = "/dev/bulkhead-nowhere".into();
    let error = world.set.prepare(&world.id, &spec).unwrap_err();
    assert_eq!(model::Fault::from(error).field.as_deref(), Some("devices.0.path"));
    spec.devices[0].path = "/etc/passwd".into();
    assert!(world.set.admit(&spec).is_err());
}

#[test]
fn an_empty_leftover_is_made_anew_and_one_in_use_is_a_conflict() {
    let Some(mut world) = world() else { return };
    world.set.prepare(&world.id, &limited()).unwrap();
    world.set.prepare(&world.id, &LaunchSpec::default()).unwrap();
    assert_eq!(
        world.read(Controller::Pids, "pids.max", "pids.max"),
        "max",
        "the older limits are gone"
    );
    world.run("sleep 100");
    let error = world.set.prepare(&world.id, &limited()).unwrap_err();
    assert!(matches!(error, PrepareError::InUse { .. }), "{error:?}");
    assert!(
        !world.set.pids(&world.id).unwrap().is_empty(),
        "the running container keeps its groups"
    );
}

#[test]
fn groups_that_a_container_made_below_its_own_are_removed_too() {
    let Some(world) = world() else { return };
    world.set.prepare(&world.id, &limited()).unwrap();
    let (_, path) = world.set.paths(&world.id).pop().unwrap();
    fs::create_dir_all(path.join("a/b")).unwrap();
    fs::create_dir(path.join("c")).unwrap();
    world.clean();
    assert!(!path.exists());
}

#[test]
fn a_second_agent_on_the_same_root_sees_the_same_containers() {
    let Some(mut world) = world() else { return };
    let spec = limited();
    world.set.prepare(&world.id, &spec).unwrap();
    world.run("sleep 100");
    let restarted = IsolatorSet::new(&world.host, &world.root).unwrap();
    assert_eq!(restarted.orphans().unwrap(), std::slice::from_ref(&world.id));
    let new = Limits {
        pids: Some(Limit::Value(7)),
        ..spec.limits.clone()
    };
    restarted.update(&world.id, &spec.limits, &new).unwrap();
    assert_eq!(world.read(Controller::Pids, "pids.max", "pids.max"), "7");
    restarted.kill_all(&world.id).unwrap();
    world.wait();
}

#[test]
fn unknown_containers_are_done_gone_or_empty() {
    let Some(world) = world() else { return };
    let nobody: ContainerId = "nobody".parse().unwrap();
    assert_eq!(world.set.cleanup(&nobody).unwrap(), Cleanup::Done);
    world.set.kill_all(&nobody).unwrap();
    assert!(world.set.pids(&nobody).unwrap().is_empty());
    assert!(world.set.usage(&nobody).is_err() && world.set.join(&nobody).is_err());
    assert!(
        world
            .set
            .limitation(&nobody, &limited().limits)
            .unwrap()
            .is_none()
    );
    let gone = world
        .set
        .update(&nobody, &Limits::default(), &limited().limits)
        .unwrap_err();
    assert!(matches!(gone, UpdateError::Gone(_)), "{gone:?}");
    for root in ["", "a/b", "..", ".x"] {
        assert!(IsolatorSet::new(&world.host, root).is_err(), "{root:?}");
    }
}

#[test]
#[ignore = "a measurement: run with --ignored --nocapture in release"]
fn cost_of_a_launch_and_of_a_sample() {
    let Some(world) = world() else { return };
    let (mut prepare, mut cleanup) = (Vec::new(), Vec::new());
    for _ in 0..2000 {
        let begin = Instant::now();
        let prepared = world.set.prepare(&world.id, &limited()).unwrap();
        prepare.push(begin.elapsed());
        drop(prepared);
        let begin = Instant::now();
        assert_eq!(world.set.cleanup(&world.id).unwrap(), Cleanup::Done);
        cleanup.push(begin.elapsed());
    }
    for (name, times) in [("prepare", &mut prepare), ("cleanup", &mut cleanup)] {
        times.sort();
        eprintln!("{name}: p50 {:?} p99 {:?}", times[1000], times[1980]);
    }
    world.set.prepare(&world.id, &limited()).unwrap();
    let reader = world.set.usage(&world.id).unwrap();
    let mut buffer = Vec::new();
    reader.sample(&mut buffer);
    let begin = Instant::now();
    for _ in 0..10_000 {
        std::hint::black_box(reader.sample(&mut buffer));
    }
    eprintln!(
        "sample: {:?}, {} descriptors",
        begin.elapsed() / 10_000,
        reader.descriptors()
    );
    let begin = Instant::now();
    for _ in 0..10_000 {
        std::hint::black_box(reader.read_only(&mut buffer));
    }
    eprintln!("the same files without parsing: {:?}", begin.elapsed() / 10_000);
}
