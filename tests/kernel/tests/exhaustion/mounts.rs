//! Mounts that hang, and processes that wait for them where no signal reaches.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use support::{Agent, eventually, patience, skip_unless_root};

use crate::fuse::{Fuse, STUCK};
use crate::pid_of;

/// The function of the kernel in which a process waits.
fn place_of(pid: i64) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default()
}

fn pids_in(agent: &Agent, name: &str) -> Vec<i64> {
    let inspected = agent.cli(&["inspect", name, "-o", "json"]).json();
    let group = inspected["detail"]["cgroup.unified"]
        .as_str()
        .expect("a group")
        .to_owned();
    let text = std::fs::read_to_string(format!("{group}/cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

#[test]
fn a_launch_on_a_mount_that_hangs_is_refused_in_time_and_holds_up_nobody() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let place = agent.directory().join("far");
    std::fs::create_dir(&place).expect("a directory");
    let fuse = Fuse::mount(&place);
    let volume = format!("{}:/mnt", place.display());
    let works = ["run", "--volume", &volume, "--", "ls", "/mnt"];
    agent.cli(&works).success();
    fuse.fall_silent();
    let begin = Instant::now();
    let stuck: Vec<Child> = (0..6)
        .map(|_| {
            let mut command = agent.command(&works);
            command
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("start a client")
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    // Nobody else notices.
    for _ in 0..5 {
        assert_eq!(agent.cli(&["run", "--", "sh", "-c", "exit 3"]).status, 3);
    }
    for client in stuck {
        let output = client.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{text}");
        assert!(
            text.contains("no answer") && text.contains(&place.display().to_string()),
            "{text}"
        );
        assert!(text.contains("umount"), "{text}");
    }
    assert!(begin.elapsed() < patience(15), "{:?}", begin.elapsed());
    fuse.speak_again();
    eventually("the volume can be used again", || {
        (agent.cli(&works).status == 0).then_some(())
    });
    drop(fuse);
    agent.finish();
}

#[test]
fn a_process_that_no_signal_reaches_is_told_and_waited_for_over_a_restart_of_the_agent() {
    if skip_unless_root() {
        return;
    }
    let mut agent = Agent::start();
    let place = agent.directory().join("far");
    std::fs::create_dir(&place).expect("a directory");
    let fuse = Fuse::mount(&place);
    let volume = format!("{}:/mnt", place.display());
    let script = format!("cat /mnt/{STUCK} & cat /mnt/{STUCK}");
    agent
        .cli(&[
            "run", "-d", "--name", "c", "--volume", &volume, "--", "sh", "-c", &script,
        ])
        .success();
    let init = pid_of(&agent, "c");
    eventually("its reader is stuck in the kernel", || {
        pids_in(&agent, "c")
            .into_iter()
            .any(|pid| place_of(pid).contains("fuse") || place_of(pid) == "request_wait_answer")
            .then_some(())
    });
    let mut waiting = agent
        .command(&["wait", "c"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start a client");
    agent.cli(&["kill", "c", "--grace", "0s"]).success();
    let told = |agent: &Agent| {
        eventually("what it waits for is shown", || {
            let container = agent.container("c")?;
            assert_eq!(container["state"], "killing", "{container}");
            container["waits_for"].as_str().map(str::to_owned)
        })
    };
    let message = told(&agent);
    assert!(message.contains("(cat), uninterruptible"), "{message}");
    let table = agent.cli(&["ps"]).success().stdout;
    assert!(table.contains("killing: process"), "{table}");
    let events = agent
        .cli(&["events", "--since", "0", "-o", "json"])
        .success()
        .stdout;
    assert!(
        events.contains("cleanup_retry") && events.contains("uninterruptible"),
        "{events}"
    );
    // Others are not concerned.
    assert_eq!(agent.cli(&["run", "--", "sh", "-c", "exit 3"]).status, 3);

    agent.kill_hard();
    agent.spawn();
    assert!(told(&agent).contains("uninterruptible"));
    assert_eq!(agent.container("c").expect("kept")["pid"], init);
    assert_eq!(agent.cli(&["run", "--", "sh", "-c", "exit 3"]).status, 3);

    fuse.abort();
    let ended = eventually("it ends when the mount goes", || {
        agent
            .container("c")
            .filter(|container| container["state"] == "destroyed")
    });
    assert_eq!(
        (&ended["exit_status"], &ended["reason"]),
        (&137.into(), &"killed".into()),
        "{ended}"
    );
    assert!(ended.get("waits_for").is_none(), "{ended}");
    let output = eventually("the waiting client is told", || waiting.try_wait().expect("ours"));
    assert!(output.success());
    drop(fuse);
    agent.finish();
}
