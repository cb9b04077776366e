//! Limits hold, measured from the kernel's own files.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use support::{Agent, eventually, skip_unless_root};

/// The container's group that has `controller`, as `inspect` tells it: its own hierarchy (v1) or the unified one.
fn group(agent: &Agent, name: &str, controller: &str) -> PathBuf {
    let inspected = agent.cli(&["inspect", name, "-o", "json"]).json();
    let detail = &inspected["detail"];
    let path = detail[format!("cgroup.{controller}")]
        .as_str()
        .or_else(|| detail["cgroup.unified"].as_str());
    PathBuf::from(path.unwrap_or_else(|| panic!("no group of {controller} in {inspected}")))
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .trim()
        .to_owned()
}

/// v1 and v2 spell the same file differently.
fn read_either(directory: &std::path::Path, v1: &str, v2: &str) -> String {
    let first = directory.join(v1);
    read(if first.exists() { first } else { directory.join(v2) })
}

fn statistics(agent: &Agent, name: &str) -> Value {
    agent.cli(&["stats", name, "-o", "json"]).json()[0]["statistics"].clone()
}

#[test]
fn cpu_memory_and_processes_stay_within_their_limits() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let limits = ["--cpus", "0.5", "--mem", "64MB", "--pids", "32"];
    let stress = [
        "stress-ng",
        "--temp-path",
        "/tmp",
        "--cpu",
        "2",
        "--fork",
        "2",
        "--timeout",
        "60",
    ];
    let mut run = vec!["run", "-d", "--name", "busy"];
    run.extend(limits);
    run.push("--");
    run.extend(stress);
    agent.cli(&run).success();
    let memory = group(&agent, "busy", "memory");
    assert_eq!(
        read_either(&memory, "memory.limit_in_bytes", "memory.max"),
        (64 << 20).to_string()
    );
    let pids = group(&agent, "busy", "pids");
    assert_eq!(read(pids.join("pids.max")), "32");
    let throttled = || {
        statistics(&agent, "busy")["cpus_nr_throttled"]
            .as_u64()
            .unwrap_or(0)
    };
    eventually("it is throttled", || (throttled() > 5).then_some(()));
    let cpu_seconds = || {
        let s = statistics(&agent, "busy");
        let time = |key: &str| s[key].as_f64().expect("measured");
        (
            s["timestamp"].as_f64().expect("measured"),
            time("cpus_user_time_secs") + time("cpus_system_time_secs"),
        )
    };
    let (start, used_before) = cpu_seconds();
    std::thread::sleep(Duration::from_secs(2));
    let (end, used_after) = cpu_seconds();
    let cpus = (used_after - used_before) / (end - start);
    assert!((0.2..0.6).contains(&cpus), "used {cpus} CPUs of 0.5");
    let now = statistics(&agent, "busy");
    assert!(
        now["mem_total_bytes"].as_u64().expect("measured") <= 64 << 20,
        "{now}"
    );
    assert!(now["processes"].as_u64().expect("measured") <= 32, "{now}");
    agent.cli(&["kill", "busy", "--grace", "0s"]).success();
}

#[test]
fn too_much_memory_ends_with_137_and_says_why() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    // One process that holds 200 MB.
    let eater = "head -c 200000000 /dev/zero | tail -c 200000000 > /dev/null";
    let answer = agent.cli(&[
        "run", "--name", "hungry", "--mem", "32MB", "--", "sh", "-c", eater,
    ]);
    assert_eq!(answer.status, 137, "{answer:?}");
    assert!(answer.stderr.contains("memory limit"), "{answer:?}");
    let ended = agent.container("hungry").expect("remembered");
    assert_eq!(ended["reason"], "memory_limit");
    let inspected = agent.cli(&["inspect", "hungry", "-o", "json"]).json();
    let limitation = &inspected["limitation"];
    assert_eq!(limitation["limit_bytes"], 32 << 20, "{inspected}");
    assert!(
        limitation["peak_bytes"].as_u64().expect("a peak") > 30 << 20,
        "{inspected}"
    );
    assert!(
        limitation["statistics"]
            .as_object()
            .is_some_and(|s| !s.is_empty()),
        "{inspected}"
    );
}

#[test]
fn a_worker_killed_for_memory_ends_the_whole_container() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    // Longer than a test may take: the end must not come from the script.
    let script = "sh -c 'head -c 200000000 /dev/zero | tail -c 200000000 > /dev/null'; sleep 1000";
    let answer = agent.cli(&["run", "--mem", "32MB", "--", "sh", "-c", script]);
    assert_eq!(answer.status, 137, "{answer:?}");
}

#[test]
fn a_fork_bomb_is_contained() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let bomb = "sh -c 'f() { f | f & }; f' & exec sleep 100";
    agent
        .cli(&[
            // Memory enough for forty shells that fork as fast as they can: here the process ceiling has to hold.
            "run", "-d", "--name", "bomb", "--pids", "40", "--mem", "1GB", "--", "sh", "-c", bomb,
        ])
        .success();
    let pids = group(&agent, "bomb", "pids");
    for _ in 0..20 {
        let count: u32 = read(pids.join("pids.current")).parse().expect("a number");
        assert!(count <= 40, "{count} processes");
        std::thread::sleep(Duration::from_millis(10));
    }
    agent.cli(&["run", "--", "true"]).success();
    agent.cli(&["kill", "bomb", "--grace", "0s"]).success();
    assert_eq!(agent.cli(&["wait", "bomb"]).success().stdout, "137\n");
}

#[test]
fn limits_change_live_and_a_refused_change_changes_nothing() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    agent
        .cli(&[
            "run", "-d", "--name", "c", "--cpus", "0.5", "--mem", "64MB", "--pids", "10", "--", "sleep",
            "100",
        ])
        .success();
    agent
        .cli(&["update", "c", "--mem", "128MB", "--pids", "20", "--cpus", "1"])
        .success();
    let memory = group(&agent, "c", "memory");
    let limit = || read_either(&memory, "memory.limit_in_bytes", "memory.max");
    assert_eq!(limit(), (128 << 20).to_string());
    assert_eq!(read(group(&agent, "c", "pids").join("pids.max")), "20");
    agent.cli(&["update", "c", "--mem", "48MB"]).success();
    assert_eq!(limit(), (48 << 20).to_string());
    let refused = agent.cli(&["update", "c", "--mem", "1B", "--pids", "5"]);
    assert_ne!(refused.status, 0, "{refused:?}");
    assert_eq!(limit(), (48 << 20).to_string());
    assert_eq!(read(group(&agent, "c", "pids").join("pids.max")), "20");
    let shown = agent.container("c").expect("running");
    assert_eq!(shown["limits"]["mem_bytes"], 48 << 20);
}

/// The agent looks at idle containers rarely, and notices all the same that one has woken.
#[test]
fn what_a_container_used_last_is_told_after_its_end() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start_with(&["--sample_interval", "100ms"], &[]);
    let script = "sleep 1; timeout 0.5 sh -c 'while :; do :; done'; exec sleep 1000";
    agent.background("late", script);
    let used = || {
        let inspected = agent.cli(&["inspect", "late", "-o", "json"]).json();
        let told = inspected["detail"]["last_sample.cpus_user_time_secs"].as_str();
        told.and_then(|text| text.parse::<f64>().ok())
    };
    eventually("it was measured", used);
    eventually("its work was measured", || used().filter(|secs| *secs > 0.1));
    agent.cli(&["kill", "late", "--grace", "0s"]).success();
    agent.cli(&["wait", "late"]);
    assert!(used().is_some_and(|secs| secs > 0.1), "{:?}", used());
    agent.finish();
}
