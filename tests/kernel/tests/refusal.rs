//! Bad requests: one line of what, where, why, remedy, and nothing left behind.

use support::{Agent, bulkhead, skip_unless_root};

#[test]
fn every_bad_request_is_refused_with_its_field() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    for (arguments, needle) in [
        (&["run", "--no-such-flag", "--", "true"][..], "--no-such-flag"),
        (&["run", "--mem=-5MB", "--", "true"], "negative"),
        (&["run", "--mem", "1B", "--", "true"], "mem"),
        (&["run", "--mem", "99999999PB", "--", "true"], "range"),
        (&["run", "--cpus", "0", "--", "true"], "cpus"),
        (&["run", "--cpus", "1e9", "--", "true"], "cpus"),
        (&["run", "--pids", "0", "--", "true"], "pids"),
        (&["run"], "COMMAND"),
        (
            &["run", "--rootfs", "/no/such/root", "--", "true"],
            "/no/such/root",
        ),
        (
            &["run", "--volume", "/no/such/source:/mnt", "--", "true"],
            "/no/such/source",
        ),
        (&["run", "--volume", "relative:/mnt", "--", "true"], "relative"),
        (&["run", "--cap-add", "NO_SUCH_CAP", "--", "true"], "NO_SUCH_CAP"),
        (&["run", "--rlimit", "nosuch=1", "--", "true"], "nosuch"),
        (&["run", "--user", "no-such-user", "--", "true"], "no-such-user"),
        (&["run", "--network", "bridged", "--", "true"], "bridged"),
        (&["run", "--ingress-min", "10Mbit", "--", "true"], "other end"),
        (&["run", "--ports", "0", "--", "true"], "ports"),
        (&["run", "--ports", "70000", "--", "true"], "70000"),
        (&["run", "--name", "../x", "--", "true"], "name"),
        (&["run", "--cpuset-cpus", "4095", "--", "true"], "cpuset"),
        (&["run", "--timeout", "0", "--", "true"], "timeout"),
        (&["kill", "nobody"], "nobody"),
        (&["logs", "nobody"], "nobody"),
        (&["inspect", "nobody"], "nobody"),
    ] {
        let answer = agent.cli(arguments);
        assert_ne!(answer.status, 0, "{arguments:?}");
        assert!(
            answer.stderr.contains(needle),
            "{arguments:?} should speak of {needle:?}: {}",
            answer.stderr
        );
        assert!(!answer.stderr.contains("panicked"), "{answer:?}");
    }
    assert_eq!(
        agent.cli(&["ps", "-o", "json"]).json().as_array().map(Vec::len),
        Some(0)
    );
}

#[test]
fn a_name_in_use_is_refused_and_free_again_afterwards() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    agent
        .cli(&["run", "-d", "--name", "taken", "--", "sleep", "100"])
        .success();
    let second = agent.cli(&["run", "-d", "--name", "taken", "--", "true"]);
    assert_eq!(second.status, 125, "{second:?}");
    assert!(second.stderr.contains("in use"), "{second:?}");
    agent.cli(&["kill", "taken", "--grace", "0s"]).success();
    agent.cli(&["wait", "taken"]);
    agent.cli(&["run", "--name", "taken", "--", "true"]).success();
}

#[test]
fn a_missing_agent_is_told_with_the_way_to_start_one() {
    let output = std::process::Command::new(bulkhead())
        .args(["ps", "--agent", "unix:/nonexistent/agent.sock"])
        .output()
        .expect("run the command line");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        stderr.contains("/nonexistent/agent.sock") && stderr.contains("bulkhead agent"),
        "{stderr}"
    );
    assert_eq!(stderr.trim().lines().count(), 1, "{stderr}");
}

#[test]
fn a_second_agent_on_the_same_directories_is_refused() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let output = std::process::Command::new(bulkhead())
        .arg("agent")
        .arg(format!("--work-dir={}", agent.work_dir().display()))
        .arg(format!("--runtime-dir={}", agent.runtime_dir().display()))
        .output()
        .expect("run a second agent");
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("another agent"),
        "{output:?}"
    );
    agent.cli(&["run", "--", "true"]).success();
}

#[test]
fn a_second_agent_on_the_same_control_groups_is_refused() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    agent
        .cli(&["run", "-d", "--name", "safe", "--", "sleep", "100"])
        .success();
    let other = tempfile::tempdir().expect("a directory");
    let output = std::process::Command::new(bulkhead())
        .args(["agent", "--http=none"])
        .arg(format!("--instance={}", agent.instance()))
        .arg(format!("--work-dir={}/work", other.path().display()))
        .arg(format!("--runtime-dir={}/run", other.path().display()))
        .output()
        .expect("run a second agent");
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("another agent"),
        "{output:?}"
    );
    assert_eq!(agent.container("safe").expect("untouched")["state"], "running");
}

#[test]
fn an_agent_without_root_is_refused() {
    if skip_unless_root() {
        return;
    }
    use std::os::unix::process::CommandExt as _;
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("bulkhead");
    std::fs::copy(bulkhead(), &program).expect("a copy that anybody can read");
    std::fs::set_permissions(
        directory.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("open it");
    let output = std::process::Command::new(&program)
        .arg("agent")
        .uid(65534)
        .gid(65534)
        .output()
        .expect("run it");
    assert!(!output.status.success());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("root"), "{stderr}");
}
