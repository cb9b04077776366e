//! Who is of the cluster, and what becomes of tasks on an agent that no longer is: on real processes.

use std::path::Path;

use cluster_tests::{Cluster, skip, text, until};
use serde_json::Value;

/// Agents are given up after 3 s without an answer, or 6 s after a failover, so that a test can wait for it.
const QUICK: &str = "--agent_ping_timeout=1s --max_agent_ping_timeouts=3 --agent_reregister_timeout=6s";
const LONG: [&str; 2] = ["sleep", "600"];

/// One cluster for all of these: it takes seconds to start.
#[test]
fn members_of_a_cluster() {
    if skip() {
        return;
    }
    let cluster = Cluster::with_session(4, QUICK, "4s");
    let lost = a_reboot_is_not_survived_by_tasks(&cluster);
    a_rogue_agent_is_refused_and_ends_its_tasks(&cluster);
    a_removed_agent_that_returns_ends_its_tasks(&cluster);
    an_agent_that_dies_with_the_leader_is_noticed(&cluster);
    assert_eq!(
        state(&cluster, &lost).as_deref(),
        Some("lost"),
        "an end is for ever"
    );
}

fn state(cluster: &Cluster, id: &str) -> Option<String> {
    let tasks = cluster.tasks()?;
    let task = tasks.iter().find(|task| task["id"] == id)?;
    Some(task["state"].as_str()?.to_owned())
}

fn until_task(cluster: &Cluster, id: &str, wanted: &str) {
    until(&format!("{id} {wanted}"), || {
        state(cluster, id).filter(|state| state == wanted).map(drop)
    });
}

fn running(cluster: &Cluster, host: &str) -> Vec<Value> {
    let mut containers = cluster.containers(host);
    containers.retain(|container| container["state"] == "running");
    containers
}

/// Once it is dead; it is started again by the fault.
fn until_dead(cluster: &Cluster, node: &str, pid: u32) {
    until("its death", || {
        let gone = !Path::new(&format!("/proc/{pid}")).exists() || cluster.pid(node) != Some(pid);
        gone.then_some(())
    });
}

/// Another boot id in a file, of the same length.
fn forge(path: &Path, boot_id: &str) {
    let mut bytes = std::fs::read(path).unwrap();
    let known = &boot_id.as_bytes()[..8];
    let at = bytes.windows(8).position(|part| part == known);
    let at = at.unwrap_or_else(|| panic!("{} holds no boot id", path.display()));
    bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
    std::fs::write(path, bytes).unwrap();
}

/// As far as processes and files go: nothing runs any more, and the kernel has another boot id than what is written down.
fn a_reboot_is_not_survived_by_tasks(cluster: &Cluster) -> String {
    let id = cluster.launch(&["--agent=a1"], &LONG).unwrap();
    until_task(cluster, &id, "running");
    let pid = cluster.pid("a1").unwrap();
    let init = running(cluster, "a1")[0]["pid"].as_i64().unwrap();
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let fault = cluster.fault("kill-agent", 4, &["--of", "1"]);
    until_dead(cluster, "a1", pid);
    let killed = std::process::Command::new("kill")
        .args(["-9", &init.to_string()])
        .status();
    assert!(killed.unwrap().success());
    let home = cluster.home("a1");
    forge(&home.join("run/boot_id"), &boot_id);
    forge(&home.join("work/cluster/tasks").join(&id), &boot_id);
    fault.over();
    until_task(cluster, &id, "lost");
    assert!(running(cluster, "a1").is_empty());
    until("its return", || cluster.agent_is("a1", "active").then_some(()));
    id
}

fn a_rogue_agent_is_refused_and_ends_its_tasks(cluster: &Cluster) {
    let id = cluster.launch(&["--agent=a2"], &LONG).unwrap();
    until_task(cluster, &id, "running");
    let pid = cluster.pid("a2").unwrap();
    let fault = cluster.fault("kill-agent", 2, &["--of", "2"]);
    until_dead(cluster, "a2", pid);
    let name = cluster.home("a2").join("work/cluster/agent_id");
    std::fs::write(&name, "another-cluster-S0\n").unwrap();
    fault.over();
    until("its refusal", || {
        let said = "knows no agent another-cluster-S0";
        cluster.log("a2").contains(said).then_some(())
    });
    until("the end of its tasks", || {
        running(cluster, "a2").is_empty().then_some(())
    });
    let known = cluster.json(&["agents"]).unwrap();
    assert!(!known.to_string().contains("another-cluster"), "{known}");
    until_task(cluster, &id, "unreachable");
    // As the message says: without that name it joins as a new agent.
    let pid = cluster.pid("a2").unwrap();
    let fault = cluster.fault("kill-agent", 5, &["--of", "2"]);
    until_dead(cluster, "a2", pid);
    std::fs::remove_file(&name).unwrap();
    fault.over();
    until("a new agent", || cluster.agent_is("a2", "active").then_some(()));
}

fn a_removed_agent_that_returns_ends_its_tasks(cluster: &Cluster) {
    let id = cluster.launch(&["--agent=a3"], &LONG).unwrap();
    until_task(cluster, &id, "running");
    let fault = cluster.fault("partition-agent", 8, &["--of", "3"]);
    until("its being given up", || {
        cluster.agent_is("a3", "unreachable").then_some(())
    });
    let gone = cluster.client(&["agents", "gone", "a3"]);
    assert!(gone.status.success(), "{}", text(&gone));
    let ended = until("the end of its task", || {
        state(cluster, &id).filter(|state| state != "running" && state != "unreachable")
    });
    assert!(ended.starts_with("gone"), "{ended}");
    assert_eq!(running(cluster, "a3").len(), 1, "nobody could tell it");
    fault.over();
    until("the end of its tasks", || {
        running(cluster, "a3").is_empty().then_some(())
    });
    assert!(
        cluster.log("a3").contains("was marked gone"),
        "{}",
        cluster.log("a3")
    );
}

fn an_agent_that_dies_with_the_leader_is_noticed(cluster: &Cluster) {
    let id = cluster.launch(&["--agent=a4"], &LONG).unwrap();
    until_task(cluster, &id, "running");
    let (term, _) = until("a leader", || cluster.leader());
    let agent = cluster.fault("kill-agent", 25, &["--of", "4"]);
    let leader = cluster.fault("kill-leader", 3, &[]);
    until("another leader", || {
        cluster.leader().filter(|(now, _)| *now > term)
    });
    until("its being given up", || {
        cluster.agent_is("a4", "unreachable").then_some(())
    });
    leader.over();
    agent.over();
    until("its return", || cluster.agent_is("a4", "active").then_some(()));
    until_task(cluster, &id, "running");
}
