//! The units in packaging/ under a real systemd, installed as they say. `scripts/vm --systemd` boots a machine for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{bulkhead, eventually, owns_the_machine, skip_unless_root};

const AGENT: &str = "bulkhead-agent.service";
const CONTAINERS: &str = "bulkhead-containers.service";
const UNITS: &str = "/etc/systemd/system";
const PROGRAM: &str = "/usr/local/bin/bulkhead";
const SLICE: &str = "/sys/fs/cgroup/bulkhead.slice";

fn needs_systemd() -> bool {
    if skip_unless_root() {
        return true;
    }
    let here = owns_the_machine() && Path::new("/run/systemd/system").is_dir();
    if !here {
        eprintln!("SKIPPED: needs a machine of its own under systemd (scripts/vm --systemd)");
    }
    !here
}

fn install() {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging");
    fs::copy(bulkhead(), PROGRAM).expect("install the program");
    for unit in [AGENT, CONTAINERS, "bulkhead.slice"] {
        fs::copy(packaging.join(unit), Path::new(UNITS).join(unit)).expect("install a unit");
    }
    systemctl(&["daemon-reload"]);
}

#[track_caller]
fn systemctl(arguments: &[&str]) -> String {
    let output = Command::new("systemctl")
        .args(arguments)
        .output()
        .expect("systemctl");
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(
        output.status.success(),
        "systemctl {arguments:?}: {said} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "-p", name, unit])
}

#[track_caller]
fn cli(arguments: &[&str]) -> String {
    let output = Command::new(PROGRAM).args(arguments).output().expect("bulkhead");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "bulkhead {arguments:?}: {told}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn is_running(name: &str) -> Option<i64> {
    let output = Command::new(PROGRAM)
        .args(["inspect", name, "-o", "json"])
        .output()
        .ok()?;
    let inspected: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let status = inspected.get("status").unwrap_or(&inspected);
    (status["state"] == "running").then(|| status["pid"].as_i64())?
}

fn group_of(pid: i64) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its group");
    let path = text.trim().strip_prefix("0::/").expect("one v2 tree");
    Path::new("/sys/fs/cgroup").join(path)
}

fn memory_max(group: &Path) -> String {
    let text = fs::read_to_string(group.join("memory.max")).expect("a limit");
    text.trim().to_owned()
}

/// Pid of the agent that serves by now.
fn served_by_another_than(before: i64) -> i64 {
    eventually("another agent serves", || {
        let pid = property(AGENT, "MainPID").parse::<i64>().ok()?;
        let serves = pid > 0 && pid != before && is_running("c").is_some();
        serves.then_some(pid)
    })
}

#[test]
fn containers_outlive_the_agents_unit_and_systemd_leaves_their_groups_alone() {
    if needs_systemd() {
        return;
    }
    install();
    systemctl(&["start", AGENT]);
    eventually("the agent serves", || {
        Command::new(PROGRAM)
            .arg("ps")
            .status()
            .is_ok_and(|s| s.success())
            .then_some(())
    });
    cli(&[
        "run", "-d", "--name", "c", "--mem", "32MB", "--cpus", "0.5", "--", "sleep", "10000",
    ]);
    let pid = is_running("c").expect("it runs");
    let group = group_of(pid);
    let below = Path::new(SLICE).join(CONTAINERS).join("bulkhead");
    assert!(group.starts_with(&below), "{}", group.display());
    let limited = group
        .ancestors()
        .find(|g| g.parent() == Some(&below))
        .expect("below")
        .to_owned();
    assert_eq!(memory_max(&limited), (32 << 20).to_string());
    let mut agent = property(AGENT, "MainPID").parse::<i64>().expect("a pid");
    assert_eq!(group_of(agent), Path::new(SLICE).join(AGENT));

    systemctl(&["daemon-reload"]);
    systemctl(&["restart", AGENT]);
    agent = served_by_another_than(agent);
    // By pid: nothing but this agent, whose number systemd has just told, is meant.
    let killed = Command::new("kill").args(["-9", &agent.to_string()]).status();
    assert!(killed.expect("kill").success());
    agent = served_by_another_than(agent);
    assert_eq!(property(AGENT, "NRestarts"), "1", "restarted after its death");
    systemctl(&["stop", AGENT]);
    assert!(
        Path::new(&format!("/proc/{pid}")).exists(),
        "it runs without an agent"
    );
    systemctl(&["set-property", "--runtime", "bulkhead.slice", "CPUWeight=200"]);
    systemctl(&["daemon-reload"]);
    systemctl(&["start", AGENT]);
    served_by_another_than(agent);
    assert_eq!(is_running("c"), Some(pid), "the same process through all of it");
    assert_eq!(memory_max(&limited), (32 << 20).to_string());
    cli(&["update", "c", "--mem", "48MB"]);
    systemctl(&["daemon-reload"]);
    assert_eq!(memory_max(&limited), (48 << 20).to_string());

    // The group of the containers ends with them, and the agent with it.
    systemctl(&["stop", CONTAINERS]);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(property(AGENT, "ActiveState"), "inactive");
    systemctl(&["start", AGENT]);
    eventually("it is known that the container has ended", || {
        let ps = Command::new(PROGRAM).args(["ps", "-a"]).output().ok()?;
        let text = String::from_utf8_lossy(&ps.stdout).into_owned();
        (ps.status.success() && !text.contains("running")).then_some(())
    });
    cli(&["run", "--mem", "32MB", "--", "true"]);
    systemctl(&["stop", AGENT, CONTAINERS]);
}
