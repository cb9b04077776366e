//! What Mesos' page on high availability promises, on real processes.

use cluster_tests::{Cluster, skip, text, until};

/// Agents are given up after 3 s without an answer, or 15 s after a failover, so that a test can wait for it.
const QUICK: &str = "--agent_ping_timeout=1s --max_agent_ping_timeouts=3 --agent_reregister_timeout=15s";
const MASTERS: [&str; 3] = ["m1", "m2", "m3"];

/// One cluster for all of these: it takes seconds to start.
#[test]
fn one_cluster() {
    if skip() {
        return;
    }
    let cluster = Cluster::up(3, QUICK);
    one_master_leads_and_the_others_send_clients_to_it(&cluster);
    tasks_run_on_through_a_failover(&cluster);
    a_leader_without_zookeeper_steps_down_before_another_is_elected(&cluster);
    a_frozen_leader_does_nothing_when_it_wakes_up(&cluster);
    a_standby_survives_being_cut_off(&cluster);
    an_agent_without_zookeeper_has_no_master(&cluster);
    a_partitioned_agent_is_given_up_and_comes_back(&cluster);
}

fn leader(cluster: &Cluster) -> (u64, String) {
    until("a leader", || cluster.leader())
}

fn another(cluster: &Cluster, old: u64) -> (u64, String) {
    until("another leader", || {
        cluster.leader().filter(|(term, _)| *term > old)
    })
}

fn all_active(cluster: &Cluster) {
    until("all agents", || {
        let agents = cluster.agents();
        (agents.len() >= 3 && agents.iter().filter(|(_, state)| state == "active").count() == 3).then_some(())
    });
}

fn one_master_leads_and_the_others_send_clients_to_it(cluster: &Cluster) {
    let (_, name) = leader(cluster);
    let number = &name[1..];
    for master in MASTERS {
        let answer = cluster.curl(master, "/state");
        let redirected = cluster.curl(master, "/redirect");
        assert!(redirected.contains("307 "), "{master}: {redirected}");
        assert!(
            redirected.ends_with(&format!("//10.99.0.2{number}:5050"))
                || redirected.contains(&format!("10.99.0.2{number}:5050")),
            "{redirected}"
        );
        assert_eq!(
            answer.contains("\"term\""),
            master == name,
            "{master} of {name}: {answer}"
        );
    }
}

fn tasks_run_on_through_a_failover(cluster: &Cluster) {
    let id = cluster.launch(&["--agent=a1"], &["sleep", "600"]).unwrap();
    let (term, _) = leader(cluster);
    let fault = cluster.fault("kill-leader", 12, &[]);
    let (_, new) = another(cluster, term);
    all_active(cluster);
    let running = || {
        let tasks = cluster.tasks()?;
        tasks
            .iter()
            .any(|task| task["id"] == id.as_str() && task["state"] == "running")
            .then_some(())
    };
    until("the task at the new leader", running);
    assert!(fault.over().contains("killed"));
    let killed = cluster.client(&["task", "kill", &id, "--grace", "0s"]);
    assert!(killed.status.success(), "{new}: {}", text(&killed));
}

/// By the logs of both: their clocks are one.
fn a_leader_without_zookeeper_steps_down_before_another_is_elected(cluster: &Cluster) {
    let (term, old) = leader(cluster);
    let pid = cluster.pid(&old);
    let fault = cluster.fault("no-zookeeper-leader", 20, &[]);
    let (next, new) = another(cluster, term);
    let moment = |node: &str, word: &str| {
        let log = cluster.log(node);
        let line = log.lines().rev().find(|line| line.contains(word));
        line.unwrap_or_else(|| panic!("{node} says nothing of {word}: {log}"))
            .split(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    let down = moment(&old, "leads no more");
    let up = moment(&new, &format!("elected term={next}"));
    println!("{old} stepped down at {down}, {new} was elected at {up}");
    assert!(down < up);
    fault.over();
    assert_eq!(
        (pid, pid.is_some()),
        (cluster.pid(&old), true),
        "it should step down, not end"
    );
    until("a place in line", || {
        cluster
            .log(&old)
            .rsplit("leads no more")
            .next()?
            .contains("standing by")
            .then_some(())
    });
    all_active(cluster);
}

fn a_frozen_leader_does_nothing_when_it_wakes_up(cluster: &Cluster) {
    let (term, old) = leader(cluster);
    let fault = cluster.fault("freeze-leader", 25, &[]);
    // Its kernel takes the connection; it finds the order when it wakes up.
    until("its freezing", || {
        (state_of(cluster.pid(&old)?)? == 'T').then_some(())
    });
    let order = cluster.at_master(
        &old,
        &[
            "task",
            "run",
            "-d",
            "--cpus=0.02",
            "--mem=16MB",
            "--name=ghost",
            "--",
            "sleep",
            "600",
        ],
    );
    another(cluster, term);
    assert!(fault.over().contains("thawed"));
    let answer = order.wait_with_output().unwrap();
    println!("the woken leader answers: {}", text(&answer));
    all_active(cluster);
    if !answer.status.success() {
        for agent in ["a1", "a2", "a3"] {
            let ghosts = cluster
                .containers(agent)
                .iter()
                .filter(|c| c["name"] == "ghost")
                .count();
            assert_eq!(ghosts, 0, "{agent} runs what a frozen leader ordered");
        }
        return;
    }
    // It may have found out, and sent the client on to the leader: then the leader knows the task.
    let known = cluster
        .tasks()
        .unwrap_or_default()
        .iter()
        .any(|task| task["name"] == "ghost");
    assert!(known, "launched by one that did not lead");
}

/// The letter of a process' state.
fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

fn a_standby_survives_being_cut_off(cluster: &Cluster) {
    let (term, name) = leader(cluster);
    let standby = MASTERS.into_iter().find(|master| *master != name).unwrap();
    let pid = cluster.pid(standby);
    let before = cluster.log(standby).len();
    cluster
        .fault("partition-master", 20, &["--of", &standby[1..]])
        .over();
    until("a place in line", || {
        cluster
            .log(standby)
            .get(before..)?
            .contains("standing by")
            .then_some(())
    });
    assert_eq!(pid, cluster.pid(standby));
    assert_eq!(
        leader(cluster),
        (term, name),
        "a standby's trouble is not the leader's"
    );
}

fn an_agent_without_zookeeper_has_no_master(cluster: &Cluster) {
    let before = cluster.log("a1").len();
    let fault = cluster.fault("no-zookeeper-agent", 25, &["--of", "1"]);
    until("the loss of its master", || {
        cluster
            .log("a1")
            .get(before..)?
            .contains("no leader known")
            .then_some(())
    });
    until("its absence", || {
        (!cluster.agent_is("a1", "active")).then_some(())
    });
    fault.over();
    all_active(cluster);
}

fn a_partitioned_agent_is_given_up_and_comes_back(cluster: &Cluster) {
    let id = cluster.launch(&["--agent=a2"], &["sleep", "600"]).unwrap();
    let fault = cluster.fault("partition-agent", 15, &["--of", "2"]);
    until("its being given up", || {
        cluster.agent_is("a2", "unreachable").then_some(())
    });
    let state = |wanted: &'static str| {
        let id = id.clone();
        move || {
            let tasks = cluster.tasks()?;
            tasks
                .iter()
                .any(|task| task["id"] == id.as_str() && task["state"] == wanted)
                .then_some(())
        }
    };
    until("its task's loss", state("unreachable"));
    fault.over();
    until("its return", || cluster.agent_is("a2", "active").then_some(()));
    until("its task's return", state("running"));
}
