//! What differs between the generations of control groups: each limit is in the file of the one that is here, or is
//! refused with the missing file named; and what the agent says of itself is true.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{Agent, eventually, is_pure_v2, owns_the_machine, skip_unless_root};

/// The container's group with `controller`, by the same name on every generation.
fn group(agent: &Agent, name: &str, controller: &str) -> PathBuf {
    let inspected = agent.cli(&["inspect", name, "-o", "json"]).json();
    let path = inspected["detail"][format!("cgroup.{controller}")].as_str();
    PathBuf::from(path.unwrap_or_else(|| panic!("no group of {controller} in {inspected}")))
}

#[track_caller]
fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.trim().to_owned()
}

fn isolator(agent: &Agent, name: &str) -> Value {
    let host = agent.cli(&["inspect", "--host", "-o", "json"]).json();
    let all = host["isolators"].as_array().expect("a list");
    let found = all.iter().find(|i| i["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {host}")).clone()
}

#[test]
fn the_agent_tells_truly_by_what_it_isolates() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    agent
        .cli(&[
            "run", "-d", "--name", "c", "--mem", "64MB", "--pids", "9", "--cpus", "0.5", "--", "sleep", "100",
        ])
        .success();
    let host = agent.cli(&["inspect", "--host", "-o", "json"]).json();
    let (layout, generation) = if is_pure_v2() {
        ("v2", "cgroup v2")
    } else {
        ("hybrid", "cgroup v1")
    };
    assert_eq!(host["cgroup_layout"], layout, "{host}");
    let log = agent.log();
    for (name, controller, files) in [
        ("cpu", "cpu", ["cpu.max", "cpu.cfs_quota_us"]),
        ("memory", "memory", ["memory.max", "memory.limit_in_bytes"]),
        ("pids", "pids", ["pids.max", "pids.max"]),
    ] {
        let told = isolator(&agent, name);
        let mechanism = told["mechanism"].as_str().expect("a mechanism");
        assert_eq!(told["active"], true, "{told}");
        assert!(name == "pids" || mechanism.contains(generation), "{told}");
        // What it names is what the container's group has.
        let file = if is_pure_v2() { files[0] } else { files[1] };
        assert!(mechanism.contains(file), "{told}");
        assert!(group(&agent, "c", controller).join(file).exists(), "{told}");
        assert!(
            log.contains(mechanism),
            "{mechanism:?} is not in the log at start: {log}"
        );
    }
    let devices = isolator(&agent, "devices");
    assert!(
        devices["mechanism"].as_str().is_some_and(|m| m.contains("BPF")),
        "{devices}"
    );
    let groups = isolator(&agent, "groups");
    let place = groups["mechanism"].as_str().expect("a place");
    let memory = group(&agent, "c", "memory");
    let root = memory.parent().expect("a root group").display().to_string();
    assert!(place.contains(&root), "{place:?} does not name {root}");
    let told = isolator(&agent, "pressure")["active"] == true;
    assert_eq!(told, fs::read_to_string("/proc/pressure/cpu").is_ok());
    let samples = agent.cli(&["stats", "c", "-o", "json"]).json();
    let statistics = &samples[0]["statistics"];
    for field in ["cpu_pressure", "mem_pressure", "io_pressure"] {
        let some = &statistics[field]["some"];
        assert_eq!(some["avg10_percent"].is_number(), told, "{statistics}");
        assert_eq!(some["total_secs"].is_number(), told, "{statistics}");
    }
}

#[test]
fn every_controller_has_its_own_name_in_inspect() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    agent
        .cli(&["run", "-d", "--name", "c", "--mem", "64MB", "--", "sleep", "100"])
        .success();
    let pid = agent.container("c").expect("running")["pid"]
        .as_i64()
        .expect("a pid");
    for controller in ["cpu", "memory", "pids"] {
        let procs = read(group(&agent, "c", controller).join("cgroup.procs"));
        assert!(
            procs.lines().any(|line| line == pid.to_string()),
            "{controller}: {pid} is not among {procs:?}"
        );
    }
    assert!(group(&agent, "c", "unified").join("cgroup.kill").exists());
}

#[test]
fn the_root_group_divides_and_holds_nobody_and_the_leaves_hold_processes() {
    if skip_unless_root() || !is_pure_v2() {
        return eprintln!("SKIPPED: needs one v2 tree");
    }
    let agent = Agent::start();
    agent
        .cli(&["run", "-d", "--name", "c", "--mem", "64MB", "--", "sleep", "100"])
        .success();
    let leaf = group(&agent, "c", "unified");
    let root = leaf.parent().expect("a root group");
    assert_eq!(
        read(root.join("cgroup.procs")),
        "",
        "the root group holds no process"
    );
    let divided = read(root.join("cgroup.subtree_control"));
    for controller in ["cpu", "memory", "pids"] {
        assert!(divided.split(' ').any(|word| word == controller), "{divided}");
    }
    assert_eq!(read(root.join("cgroup.type")), "domain");
    assert_eq!(read(leaf.join("cgroup.type")), "domain");
    assert_eq!(read(leaf.join("cgroup.subtree_control")), "");
    assert_eq!(read(leaf.join("memory.oom.group")), "1");
    assert!(!read(leaf.join("cgroup.procs")).is_empty());
    // Inside, the leaf is all there is, and it can not be written to.
    let seen = agent.cli(&[
        "exec",
        "c",
        "--",
        "sh",
        "-c",
        "cat /proc/self/cgroup; echo max >/sys/fs/cgroup/memory.max",
    ]);
    assert!(seen.stdout.starts_with("0::/\n"), "{seen:?}");
    assert_ne!(seen.status, 0, "{seen:?}");
    assert_eq!(read(leaf.join("memory.max")), (64 << 20).to_string());
}

#[test]
fn protected_and_throttled_memory_is_written_or_refused_by_name() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let run = |name: &str, flags: &[&str]| {
        let tail = ["--", "sleep", "100"];
        agent.cli(&[&["run", "-d", "--name", name], flags, &tail].concat())
    };
    if !is_pure_v2() {
        for (flag, file) in [("--mem-high", "memory.high"), ("--mem-min", "memory.min")] {
            let refused = run("no", &[flag, "16MB"]);
            assert_eq!(refused.status, 125, "{refused:?}");
            assert!(
                refused.stderr.contains(file) && refused.stderr.contains("v2"),
                "{refused:?}"
            );
        }
        run("soft", &["--mem-soft", "16MB"]).success();
        let soft = read(group(&agent, "soft", "memory").join("memory.soft_limit_in_bytes"));
        assert_eq!(soft, (16 << 20).to_string());
        return;
    }
    run(
        "c",
        &[
            "--mem",
            "64MB",
            "--mem-high",
            "48MB",
            "--mem-soft",
            "16MB",
            "--mem-min",
            "8MB",
        ],
    )
    .success();
    let memory = group(&agent, "c", "memory");
    let shows = |file: &str| read(memory.join(file));
    let mb = |megabytes: u64| (megabytes << 20).to_string();
    for (file, value) in [
        ("memory.max", 64),
        ("memory.high", 48),
        ("memory.low", 16),
        ("memory.min", 8),
    ] {
        assert_eq!(shows(file), mb(value), "{file}");
    }
    agent
        .cli(&[
            "update",
            "c",
            "--mem-high",
            "32MB",
            "--mem-min",
            "4MB",
            "--mem-soft",
            "12MB",
        ])
        .success();
    for (file, value) in [
        ("memory.max", 64),
        ("memory.high", 32),
        ("memory.low", 12),
        ("memory.min", 4),
    ] {
        assert_eq!(shows(file), mb(value), "{file}");
    }
    agent.cli(&["update", "c", "--mem-high", "max"]).success();
    assert_eq!(shows("memory.high"), "max");
    let shown = agent.container("c").expect("running");
    assert_eq!(shown["limits"]["mem_min_bytes"], 4 << 20, "{shown}");
}

#[test]
fn above_memory_high_a_container_is_slowed_down_and_not_killed() {
    if skip_unless_root() || !is_pure_v2() {
        return eprintln!("SKIPPED: needs the memory controller on cgroup v2");
    }
    let agent = Agent::start();
    // File pages can be reclaimed, so that it gets on.
    let script = "head -c 60000000 /dev/zero >/tmp/f; while :; do head -c 40000000 /dev/zero | tail -c 30000000 >/dev/null; done";
    agent
        .cli(&[
            "run",
            "-d",
            "--name",
            "c",
            "--mem",
            "256MB",
            "--mem-high",
            "24MB",
            "--",
            "sh",
            "-c",
            script,
        ])
        .success();
    let events = group(&agent, "c", "memory").join("memory.events");
    eventually("memory.high was passed", || {
        let line = read(&events)
            .lines()
            .find_map(|l| l.strip_prefix("high ").map(str::to_owned))?;
        line.parse::<u64>().ok().filter(|count| *count > 0)
    });
    assert_eq!(agent.container("c").expect("known")["state"], "running");
    if fs::read_to_string("/proc/pressure/memory").is_ok() {
        eventually("the statistics show that it waits for memory", || {
            let samples = agent.cli(&["stats", "c", "-o", "json"]).json();
            let waited = samples[0]["statistics"]["mem_pressure"]["some"]["total_secs"].as_f64();
            waited.filter(|seconds| *seconds > 0.0)
        });
    }
    agent.cli(&["kill", "c", "--grace", "0s"]).success();
}

#[test]
fn burst_is_written_beside_its_ceiling_and_needs_one() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let (file, quota, max) = match is_pure_v2() {
        true => ("cpu.max.burst", "cpu.max", "50000 100000"),
        false => ("cpu.cfs_burst_us", "cpu.cfs_quota_us", "50000"),
    };
    let launch = [
        "run",
        "-d",
        "--name",
        "c",
        "--cpus",
        "0.5",
        "--cpu-burst",
        "20ms",
        "--",
        "sleep",
        "100",
    ];
    let answer = agent.cli(&launch);
    if answer.status != 0 {
        assert!(answer.stderr.contains("cpu.max.burst"), "{answer:?}");
        return;
    }
    let cpu = group(&agent, "c", "cpu");
    assert_eq!(
        (read(cpu.join(file)).as_str(), read(cpu.join(quota)).as_str()),
        ("20000", max)
    );
    agent.cli(&["update", "c", "--cpu-burst", "10ms"]).success();
    assert_eq!(read(cpu.join(file)), "10000");
    let alone = agent.cli(&["run", "--cpu-burst", "10ms", "--", "true"]);
    assert!(
        alone.status == 125 && alone.stderr.contains("cpu_burst"),
        "{alone:?}"
    );
}

#[test]
fn a_disk_has_ceilings_and_a_weight_where_io_cost_governs_it() {
    if skip_unless_root() || !owns_the_machine() {
        return eprintln!("SKIPPED: needs a disk of its own");
    }
    let numbers = read("/sys/block/vda/dev");
    let agent = Agent::start();
    let refused = agent.cli(&["run", "--io-weight", "50", "--", "true"]);
    assert!(
        refused.status == 125 && refused.stderr.contains("io.weight"),
        "{refused:?}"
    );
    agent.finish();

    fs::write("/sys/fs/cgroup/io.cost.qos", format!("{numbers} enable=1")).expect("io.cost for the disk");
    let agent = Agent::start();
    let limit = "/dev/vda:write_bps=1MB,read_iops=50";
    agent
        .cli(&[
            "run",
            "-d",
            "--name",
            "c",
            "--io-weight",
            "50",
            "--io-limit",
            limit,
            "--device",
            "/dev/vda:rw",
            "--",
            "sleep",
            "1000",
        ])
        .success();
    let io = group(&agent, "c", "io");
    assert_eq!(
        read(io.join("io.max")),
        format!("{numbers} rbps=max wbps=1048576 riops=50 wiops=max")
    );
    assert!(
        read(io.join("io.weight")).contains("default 50"),
        "{}",
        read(io.join("io.weight"))
    );
    // Four megabytes at one a second.
    let begin = std::time::Instant::now();
    let write = [
        "exec",
        "c",
        "--",
        "dd",
        "if=/dev/zero",
        "of=/dev/vda",
        "bs=1M",
        "count=4",
        "oflag=direct",
    ];
    agent.cli(&write).success();
    assert!(begin.elapsed().as_secs_f64() > 2.0, "{:?}", begin.elapsed());
    let samples = agent.cli(&["stats", "c", "-o", "json"]).json();
    let written = samples[0]["statistics"]["io_write_bytes"]
        .as_u64()
        .expect("measured");
    assert!(written >= 4 << 20, "{samples}");
    agent.cli(&["update", "c", "--io-weight", "200"]).success();
    assert!(read(io.join("io.weight")).contains("default 200"));
    agent.finish();
    fs::write("/sys/fs/cgroup/io.cost.qos", format!("{numbers} enable=0")).expect("io.cost off again");
}

#[test]
fn one_write_kills_a_container_that_forks_and_ignores_everything() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let script =
        "trap '' TERM INT HUP; f() { while :; do (trap '' TERM; sleep 0.05) & wait; done; }; f & f & f & f";
    agent
        .cli(&[
            "run", "-d", "--name", "c", "--pids", "64", "--", "sh", "-c", script,
        ])
        .success();
    let procs = group(&agent, "c", "unified").join("cgroup.procs");
    eventually("it has forked", || {
        (read(&procs).lines().count() > 4).then_some(())
    });
    let begin = std::time::Instant::now();
    agent.cli(&["kill", "c", "--grace", "1s"]).success();
    assert_eq!(agent.cli(&["wait", "c"]).success().stdout, "137\n");
    let took = begin.elapsed();
    assert!(
        took >= std::time::Duration::from_millis(900),
        "it had its grace: {took:?}"
    );
    assert!(took < support::patience(5), "{took:?}");
    assert!(!procs.exists());
}
