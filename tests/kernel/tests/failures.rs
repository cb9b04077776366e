//! Each step of a launch, an update and a cleanup fails in turn: a clear error, nothing half-made, and the next
//! launch works.

use support::{Agent, eventually, skip_unless_root};

fn entries(path: std::path::PathBuf) -> usize {
    std::fs::read_dir(&path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .count()
}

fn groups_named(agent: &Agent, id: &str) -> Vec<String> {
    let mut found = Vec::new();
    for top in std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
        for ours in std::fs::read_dir(top.path()).into_iter().flatten().flatten() {
            let path = ours.path().join(id);
            if ours.file_name().to_string_lossy().starts_with("bulkhead") && path.exists() {
                found.push(path.display().to_string());
            }
        }
    }
    let _ = agent;
    found
}

#[test]
fn a_failed_step_leaves_nothing_behind() {
    if skip_unless_root() {
        return;
    }
    let steps = agent::FAILPOINTS.iter().filter(|s| {
        s.starts_with("launch.")
            || s.starts_with("fork.")
            || s.starts_with("checkpoint.")
            || s.starts_with("gate.")
    });
    for step in steps {
        let network = if *step == "fork.network" { "none" } else { "host" };
        let agent = Agent::start_with(&[], &[("BULKHEAD_FAILPOINTS", &format!("{step}=error*1"))]);
        let launch = [
            "run",
            "--name",
            "same",
            "--network",
            network,
            "--mem",
            "64MB",
            "--",
            "true",
        ];
        let failed = agent.cli(&launch);
        assert_eq!(failed.status, 125, "{step}: {failed:?}");
        assert!(failed.stderr.contains(step), "{step}: {failed:?}");
        let ended = agent
            .container("same")
            .unwrap_or_else(|| panic!("{step}: the failure is not remembered"));
        assert_eq!(ended["reason"], "launch_failed", "{step}");
        assert_eq!(entries(agent.runtime_dir().join("containers")), 0, "{step}");
        assert_eq!(
            groups_named(&agent, ended["id"].as_str().expect("an id")),
            Vec::<String>::new(),
            "{step}"
        );
        // The name is free again, and the agent as good as new.
        assert_eq!(agent.cli(&launch).status, 0, "{step}");
        agent.finish();
    }
}

#[test]
fn a_cleanup_that_fails_is_tried_again_until_it_is_done() {
    if skip_unless_root() {
        return;
    }
    for step in ["cleanup.groups", "cleanup.runtime", "cleanup.work"] {
        let agent = Agent::start_with(&[], &[("BULKHEAD_FAILPOINTS", &format!("{step}=error*3"))]);
        // Detached: a client that still reads the output would put the removal of the files off.
        agent.cli(&["run", "-d", "--rm", "--", "true"]).success();
        eventually(step, || {
            let left = [
                agent.runtime_dir().join("containers"),
                agent.work_dir().join("sandboxes"),
            ]
            .map(entries);
            (left == [0, 0]).then_some(())
        });
        let retries = agent
            .cli(&["events", "--since", "0", "-o", "json"])
            .success()
            .stdout;
        assert_eq!(retries.matches("cleanup_retry").count(), 3, "{step}: {retries}");
    }
}

#[test]
fn a_failed_update_says_so_and_the_next_one_works() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start_with(&[], &[("BULKHEAD_FAILPOINTS", "update.apply=error*1")]);
    agent
        .cli(&["run", "-d", "--name", "c", "--pids", "5", "--", "sleep", "100"])
        .success();
    assert!(
        agent
            .cli(&["update", "c", "--pids", "6"])
            .stderr
            .contains("update.apply")
    );
    assert_eq!(agent.container("c").expect("running")["limits"]["pids"], 5);
    agent.cli(&["update", "c", "--pids", "6"]).success();
    assert_eq!(agent.container("c").expect("running")["limits"]["pids"], 6);
}

#[test]
fn the_launchers_death_hurts_no_container_and_no_later_launch() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    agent
        .cli(&["run", "-d", "--name", "before", "--", "sleep", "100"])
        .success();
    let launcher = launcher_of(agent.pid());
    let pidfd = kernel::process::pidfd_open(launcher).expect("the launcher lives");
    kernel::process::pidfd_send_signal(&pidfd, 9).expect("kill the launcher");
    agent.cli(&["run", "--", "true"]).success();
    assert_eq!(agent.container("before").expect("remembered")["state"], "running");
    assert_ne!(launcher_of(agent.pid()), launcher);
}

/// The agent's child that has no pid namespace of its own and is not a container's init.
fn launcher_of(agent: i32) -> i32 {
    eventually("the launcher runs", || {
        // Children are listed by the thread that made them.
        let threads = std::fs::read_dir(format!("/proc/{agent}/task")).ok()?;
        let lists = threads
            .flatten()
            .map(|t| std::fs::read_to_string(t.path().join("children")).unwrap_or_default());
        let children = lists.collect::<Vec<_>>().join(" ");
        children
            .split_whitespace()
            .filter_map(|pid| pid.parse::<i32>().ok())
            .find(|pid| {
                let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let own = std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
                let host = std::fs::read_link("/proc/self/ns/pid").ok();
                command.starts_with(b"bulkhead-launcher") && own == host
            })
    })
}
