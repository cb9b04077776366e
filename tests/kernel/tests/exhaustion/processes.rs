//! No more processes.

use std::path::PathBuf;

use support::{Agent, is_pure_v2, skip_unless_root};

use crate::{OwnGroup, pid_of};

#[test]
fn no_room_for_a_process_in_the_agents_own_group_is_told_and_passes() {
    if skip_unless_root() {
        return;
    }
    let own = OwnGroup::make("pids");
    let agent = Agent::start_after(&own.enter(), &[], &[]);
    agent
        .cli(&["run", "-d", "--name", "c", "--", "sleep", "1000"])
        .success();
    let pid = pid_of(&agent, "c");
    own.set("pids.max", &own.read("pids.current"));
    let answer = agent.cli(&["run", "--name", "late", "--", "true"]);
    if is_pure_v2() {
        // The child is born in its own group there: nothing of the agent's is used up.
        assert_eq!(answer.status, 0, "{answer:?}");
    } else {
        assert_eq!(answer.status, 125, "{answer:?}");
        assert!(
            answer.stderr.contains("EAGAIN") && answer.stderr.contains("process"),
            "{answer:?}"
        );
        assert_eq!(
            agent.container("late").expect("remembered")["reason"],
            "launch_failed"
        );
        let exec = agent.cli(&["exec", "c", "--", "true"]);
        assert!(exec.status == 125 && exec.stderr.contains("EAGAIN"), "{exec:?}");
    }
    assert_eq!(pid_of(&agent, "c"), pid);
    own.set("pids.max", "max");
    assert_eq!(agent.cli(&["run", "--", "sh", "-c", "exit 3"]).status, 3);
    assert_eq!(agent.cli(&["exec", "c", "--", "sh", "-c", "exit 2"]).status, 2);
    agent.finish();
}

#[test]
fn no_room_for_a_process_among_all_containers_is_told_and_passes() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    agent
        .cli(&["run", "-d", "--name", "c", "--pids", "50", "--", "sleep", "1000"])
        .success();
    let inspected = agent.cli(&["inspect", "c", "-o", "json"]).json();
    let leaf = PathBuf::from(inspected["detail"]["cgroup.pids"].as_str().expect("a group"));
    let root = leaf.parent().expect("a root group");
    let now = std::fs::read_to_string(root.join("pids.current")).expect("a count");
    std::fs::write(root.join("pids.max"), now.trim()).expect("no more of them");
    let answer = agent.cli(&["run", "--name", "late", "--", "true"]);
    assert_eq!(answer.status, 125, "{answer:?}");
    assert!(
        answer.stderr.contains("try again") || answer.stderr.contains("EAGAIN"),
        "{answer:?}"
    );
    assert!(agent.container("late").expect("remembered")["reason"] == "launch_failed");
    std::fs::write(root.join("pids.max"), "max").expect("as many as there may be");
    assert_eq!(agent.cli(&["run", "--", "sh", "-c", "exit 3"]).status, 3);
    pid_of(&agent, "c");
}
