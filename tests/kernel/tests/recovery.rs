//! The agent is killed, at any step; containers run on, are adopted, and nothing is lost, doubled or leaked.

use support::{Agent, eventually, patience, skip_unless_root};

fn entries(path: std::path::PathBuf) -> usize {
    std::fs::read_dir(&path)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .count()
}

#[test]
fn a_running_container_is_adopted_with_all_that_belongs_to_it() {
    if skip_unless_root() {
        return;
    }
    let mut agent = Agent::start();
    let script =
        "n=0; while [ -z \"$(cat stop 2>/dev/null)\" ]; do echo $n; n=$((n+1)); sleep 0.01; done; exit 9";
    agent
        .cli(&[
            "run", "-d", "--name", "counter", "--mem", "64MB", "--pids", "9", "--", "sh", "-c", script,
        ])
        .success();
    agent.cli(&["update", "counter", "--pids", "12"]).success();
    let before = agent.container("counter").expect("running");
    for _ in 0..3 {
        agent.kill_hard();
        std::thread::sleep(std::time::Duration::from_millis(150));
        agent.spawn();
    }
    let after = agent.container("counter").expect("adopted");
    for key in ["id", "pid", "name", "state", "limits"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    assert_eq!(after["limits"]["pids"], 12);
    assert!(
        agent.cli(&["stats", "counter", "-o", "json"]).json()[0]["statistics"]["mem_total_bytes"].is_number()
    );
    assert_eq!(
        agent.cli(&["exec", "counter", "--", "sh", "-c", "exit 4"]).status,
        4
    );
    let sandbox = after["sandbox"].as_str().map(str::to_owned).unwrap_or_else(|| {
        agent.cli(&["inspect", "counter", "-o", "json"]).json()["sandbox"]
            .as_str()
            .expect("a sandbox")
            .to_owned()
    });
    std::fs::write(format!("{sandbox}/stop"), "x").expect("tell it to stop");
    assert_eq!(agent.cli(&["wait", "counter"]).success().stdout, "9\n");
    // Not a line of its output was lost while nobody read it.
    let log = agent.cli(&["logs", "counter"]).success().stdout;
    let lines: Vec<u32> = log.lines().map(|l| l.parse().expect("a number")).collect();
    assert!(lines.len() > 10);
    assert!(
        lines.iter().enumerate().all(|(n, line)| n as u32 == *line),
        "{log}"
    );
}

#[test]
fn an_end_that_nobody_saw_is_reported_once() {
    if skip_unless_root() {
        return;
    }
    let mut agent = Agent::start();
    agent.background("short", "sleep 0.3; exit 7");
    agent.kill_hard();
    std::thread::sleep(std::time::Duration::from_millis(600));
    agent.spawn();
    let ended = eventually("its end is known", || {
        agent.container("short").filter(|c| c["state"] == "destroyed")
    });
    assert_eq!(
        (&ended["exit_status"], &ended["reason"]),
        (&7.into(), &"exited".into())
    );
    let events = agent
        .cli(&["events", "--since", "0", "-o", "json"])
        .success()
        .stdout;
    assert_eq!(events.matches("\"ended\"").count(), 1, "{events}");
    agent.kill_hard();
    agent.spawn();
    // Whoever asks is answered by the next agent as well; whoever listens is not told again.
    assert_eq!(agent.container("short"), Some(ended));
    assert_eq!(agent.cli(&["wait", "short"]).success().stdout, "7\n");
    let events = agent
        .cli(&["events", "--since", "0", "-o", "json"])
        .success()
        .stdout;
    assert!(!events.contains("\"ended\""), "{events}");
}

#[test]
fn a_kill_is_not_forgotten() {
    if skip_unless_root() {
        return;
    }
    let mut agent = Agent::start();
    let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    agent.background("doomed", script);
    eventually("it is ready", || {
        agent
            .cli(&["logs", "doomed"])
            .stdout
            .contains("ready")
            .then_some(())
    });
    agent.cli(&["kill", "doomed", "--grace", "30s"]).success();
    agent.kill_hard();
    agent.spawn();
    let ended = eventually("it is killed", || {
        agent.container("doomed").filter(|c| c["state"] == "destroyed")
    });
    assert_eq!(
        (&ended["exit_status"], &ended["reason"]),
        (&137.into(), &"killed".into())
    );
}

#[test]
fn a_waiting_client_gets_its_answer_from_the_next_agent() {
    if skip_unless_root() {
        return;
    }
    let mut agent = Agent::start();
    let script = format!("sleep {}; exit 5", patience(1).as_secs());
    agent.background("w", &script);
    let mut wait = agent
        .command(&["wait", "w"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("start a client");
    // Time to connect and ask; nothing outside tells when it has.
    std::thread::sleep(patience(1) / 5);
    agent.kill_hard();
    agent.spawn();
    let status = eventually("the client is answered", || wait.try_wait().expect("a status"));
    assert!(status.success());
    let mut answer = String::new();
    std::io::Read::read_to_string(wait.stdout.as_mut().expect("stdout"), &mut answer).expect("an answer");
    assert_eq!(answer, "5\n");
}

#[test]
fn what_an_ended_container_wrote_is_followed_to_its_end_at_the_next_agent() {
    if skip_unless_root() {
        return;
    }
    let mut agent = Agent::start();
    let script = "echo said; exit 3";
    agent.background("over", script);
    assert_eq!(agent.cli(&["wait", "over"]).success().stdout, "3\n");
    agent.kill_hard();
    agent.spawn();
    // Nothing more can come, though this agent has never seen the pipes.
    let mut follow = agent
        .command(&["logs", "-f", "over"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("start a client");
    let deadline = std::time::Instant::now() + patience(10);
    while follow.try_wait().expect("a status").is_none() {
        if std::time::Instant::now() > deadline {
            follow.kill().expect("end the client");
            follow.wait().expect("reap it");
            panic!("a follower of a remembered container waits for what can't come");
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let mut text = String::new();
    std::io::Read::read_to_string(follow.stdout.as_mut().expect("stdout"), &mut text).expect("the output");
    assert_eq!(text, "said\n");
}

#[test]
fn a_damaged_checkpoint_is_set_aside_and_stops_nobody() {
    if skip_unless_root() {
        return;
    }
    let mut agent = Agent::start();
    agent
        .cli(&["run", "-d", "--name", "good", "--", "sleep", "100"])
        .success();
    let bad = agent
        .cli(&["run", "-d", "--name", "bad", "--", "sleep", "100"])
        .success()
        .stdout;
    agent.kill_hard();
    let path = agent
        .runtime_dir()
        .join("containers")
        .join(bad.trim())
        .join("checkpoint");
    std::fs::write(&path, b"not a checkpoint").expect("damage it");
    agent.spawn();
    assert_eq!(agent.container("good").expect("adopted")["state"], "running");
    assert!(agent.container("bad").is_none());
    assert!(
        agent
            .work_dir()
            .join("set-aside")
            .join(format!("{}.checkpoint", bad.trim()))
            .exists()
    );
    assert!(agent.log().contains("set aside"), "{}", agent.log());
}

#[test]
fn after_a_reboot_nothing_is_adopted_and_the_loss_is_told() {
    if skip_unless_root() {
        return;
    }
    let mut agent = Agent::start();
    agent
        .cli(&["run", "-d", "--name", "old", "--", "sleep", "100"])
        .success();
    agent.kill_hard();
    std::fs::write(
        agent.runtime_dir().join("boot_id"),
        "00000000-0000-0000-0000-000000000000\n",
    )
    .expect("another boot");
    agent.spawn();
    let lost = eventually("its loss is told", || {
        agent.container("old").filter(|c| c["state"] == "destroyed")
    });
    assert_eq!(lost["reason"], "lost");
}

#[test]
fn a_reused_pid_is_not_taken_for_the_container() {
    if skip_unless_root() {
        return;
    }
    let mut agent = Agent::start();
    let id = agent
        .cli(&["run", "-d", "--name", "gone", "--", "sleep", "0.2"])
        .success()
        .stdout;
    agent.kill_hard();
    let path = agent
        .runtime_dir()
        .join("containers")
        .join(id.trim())
        .join("checkpoint");
    std::thread::sleep(std::time::Duration::from_millis(500));
    // As if the kernel had given the pid to us meanwhile.
    let mut checkpoint =
        wire::checkpoint::decode(&std::fs::read(&path).expect("a checkpoint")).expect("readable");
    checkpoint.init.as_mut().expect("an init").pid = std::process::id() as i32;
    std::fs::write(&path, wire::checkpoint::encode(&checkpoint)).expect("write it back");
    agent.spawn();
    let ended = eventually("its end is known", || {
        agent.container("gone").filter(|c| c["state"] == "destroyed")
    });
    assert_eq!(ended["exit_status"], 0);
}

/// Dies at every named step of launch, update, kill and cleanup; the next agent finds either a container that runs,
/// once, or nothing at all.
#[test]
fn death_at_every_step_loses_and_leaks_nothing() {
    if skip_unless_root() {
        return;
    }
    for step in agent::FAILPOINTS {
        let mut agent = Agent::start_with(&[], &[("BULKHEAD_FAILPOINTS", &format!("{step}=die"))]);
        let network = if *step == "fork.network" { "none" } else { "host" };
        let marker = "echo started >> marks; exec sleep 100";
        let mut run = vec!["run", "-d", "--name", "c", "--network", network, "--pids", "8"];
        if *step == "cleanup.work" {
            run.push("--rm");
        }
        run.extend(["--", "sh", "-c", marker]);
        agent.cli(&run);
        if agent.is_alive() {
            agent.cli(&["update", "c", "--pids", "9"]);
        }
        if agent.is_alive() {
            agent.cli(&["kill", "c", "--grace", "0s"]);
        }
        agent.wait_for_death();
        agent.set_environment(&[]);
        agent.spawn();
        eventually(&format!("{step}: running or gone"), || {
            let found = agent.container("c");
            let settled = found
                .as_ref()
                .is_none_or(|c| c["state"] == "running" || c["state"] == "destroyed");
            settled.then_some(())
        });
        for directory in std::fs::read_dir(agent.work_dir().join("sandboxes"))
            .expect("work directory")
            .flatten()
        {
            let marks = std::fs::read_to_string(directory.path().join("marks")).unwrap_or_default();
            assert!(marks.lines().count() <= 1, "{step}: started twice");
        }
        agent.cli(&["kill", "c", "--grace", "0s"]);
        eventually(&format!("{step}: all is cleaned up"), || {
            (entries(agent.runtime_dir().join("containers")) == 0).then_some(())
        });
        assert_eq!(
            agent.cli(&["run", "--name", "c", "--rm", "--", "true"]).status,
            0,
            "{step}"
        );
        agent.finish();
    }
}
