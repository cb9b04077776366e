//! `run` in the foreground: what a person expects of a command.

use std::io::Read as _;
use std::process::Stdio;

use support::{Agent, eventually, skip_unless_root};

#[test]
fn exit_status_stdout_and_stderr_pass_through() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let answer = agent.cli(&["run", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(
        (answer.status, answer.stdout.as_str(), answer.stderr.as_str()),
        (7, "out\n", "err\n")
    );
}

#[test]
fn stdin_reaches_the_command_to_its_end() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let input: Vec<u8> = (0..300_000u32)
        .flat_map(|n| format!("{n}\n").into_bytes())
        .collect();
    let answer = agent
        .cli_with_input(&["run", "-i", "--", "sh", "-c", "wc -c"], &input)
        .success();
    assert_eq!(answer.stdout.trim(), input.len().to_string());
}

#[test]
fn no_byte_of_much_output_is_lost() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    // Far more than is kept in files: the foreground holds the command back instead of losing.
    let script = "head -c 30000000 /dev/zero | tr '\\0' x";
    let run = [
        "run",
        "--rm",
        "--log-size",
        "1MB",
        "--log-files",
        "2",
        "--",
        "sh",
        "-c",
        script,
    ];
    let answer = agent.cli(&run).success();
    assert_eq!(answer.stdout.len(), 30_000_000);
}

#[test]
fn a_missing_command_is_127_and_a_directory_is_126() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let missing = agent.cli(&["run", "--", "no-such-command"]);
    assert_eq!(missing.status, 127, "{missing:?}");
    assert!(missing.stderr.contains("no-such-command"), "{missing:?}");
    let directory = agent.cli(&["run", "--", "/etc"]);
    assert_eq!(directory.status, 126, "{directory:?}");
}

#[test]
fn a_signal_to_the_client_reaches_the_command() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let script = "trap 'echo caught; exit 42' INT; echo ready; while :; do sleep 0.05; done";
    let mut run = agent.command(&["run", "--", "sh", "-c", script]);
    let mut child = run
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the command line");
    let mut stdout = child.stdout.take().expect("stdout");
    let mut ready = [0; 6];
    stdout
        .read_exact(&mut ready)
        .expect("the command says that it is ready");
    let pidfd = kernel::process::pidfd_open(child.id() as i32).expect("the client lives");
    kernel::process::pidfd_send_signal(&pidfd, 2).expect("send SIGINT");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("the rest of the output");
    assert_eq!(
        (rest.trim(), child.wait().expect("an end").code()),
        ("caught", Some(42))
    );
}

#[test]
fn death_by_signal_is_128_and_the_signal() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    assert_eq!(
        agent.cli(&["run", "--", "sh", "-c", "kill -USR1 $$"]).status,
        128 + 10
    );
}

#[test]
fn a_detached_container_is_listed_logged_waited_for_and_killed() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let id = agent.background("one", "echo hello; sleep 100");
    let listed = agent.cli(&["ps", "-o", "json"]).json();
    assert_eq!(listed[0]["id"], id.trim());
    assert_eq!(
        (&listed[0]["name"], &listed[0]["state"]),
        (&"one".into(), &"running".into())
    );
    eventually("the output is in the log", || {
        (agent.cli(&["logs", "one"]).stdout == "hello\n").then_some(())
    });
    let exec = agent.cli(&["exec", "one", "--", "sh", "-c", "echo $$; exit 3"]);
    assert_eq!(exec.status, 3, "{exec:?}");
    for _ in 0..5 {
        assert_eq!(agent.cli(&["exec", "one", "--", "no-such-command"]).status, 127);
    }
    agent.cli(&["kill", "one"]).success();
    assert_eq!(agent.cli(&["wait", "one"]).success().stdout, "143\n");
    let ended = agent.container("one").expect("still remembered");
    assert_eq!(
        (&ended["state"], &ended["reason"]),
        (&"destroyed".into(), &"killed".into())
    );
}

#[test]
fn a_command_that_ignores_sigterm_is_killed_after_its_grace() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    agent
        .cli(&[
            "run", "-d", "--name", "stubborn", "--grace", "300ms", "--", "sh", "-c", script,
        ])
        .success();
    eventually("it is ready", || {
        agent
            .cli(&["logs", "stubborn"])
            .stdout
            .contains("ready")
            .then_some(())
    });
    agent.cli(&["kill", "stubborn"]).success();
    assert_eq!(agent.cli(&["wait", "stubborn"]).success().stdout, "137\n");
}

#[test]
fn a_timeout_ends_it() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let answer = agent.cli(&[
        "run",
        "--name",
        "slow",
        "--timeout",
        "200ms",
        "--grace",
        "1s",
        "--",
        "sleep",
        "100",
    ]);
    assert_eq!(answer.status, 128 + 15, "{answer:?}");
    assert_eq!(agent.container("slow").expect("remembered")["reason"], "timeout");
}

#[test]
fn a_container_that_asked_for_it_is_removed_without_a_trace() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    agent
        .cli(&["run", "--rm", "--", "sh", "-c", "echo x; echo y > file"])
        .success();
    // A reader of its output that is slow holds its sandbox for as long as it reads.
    eventually("nothing is left of its sandbox", || {
        let left = std::fs::read_dir(agent.work_dir().join("sandboxes")).expect("work directory");
        (left.count() == 0).then_some(())
    });
    assert_eq!(
        agent
            .cli(&["ps", "-a", "-o", "json"])
            .json()
            .as_array()
            .map(Vec::len),
        Some(0)
    );
}

#[test]
fn a_terminal_is_a_terminal() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let script = "tty; stty size; echo to-stderr >&2";
    agent
        .cli(&["run", "-d", "-t", "--name", "term", "--", "sh", "-c", script])
        .success();
    agent.cli(&["wait", "term"]);
    let log = agent.cli(&["logs", "term"]).success().stdout;
    assert!(log.contains("/dev/pts/"), "{log:?}");
    assert!(log.contains("to-stderr"), "{log:?}");
}

#[test]
fn many_execs_at_once_all_tell_their_own_status_and_leave_no_zombie() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    agent
        .cli(&["run", "-d", "--name", "busy", "--", "sleep", "100"])
        .success();
    let children: Vec<_> = (0..30)
        .map(|n| {
            let script = format!("exit {}", n % 7);
            let mut exec = agent.command(&["exec", "busy", "--", "sh", "-c", &script]);
            (n % 7, exec.spawn().expect("start a client"))
        })
        .collect();
    for (wanted, mut child) in children {
        assert_eq!(child.wait().expect("an end").code(), Some(wanted));
    }
    agent.cli(&["kill", "busy", "--grace", "0s"]).success();
    assert_eq!(agent.cli(&["wait", "busy"]).success().stdout, "137\n");
}

#[test]
fn logs_without_following_end_on_a_busy_writer() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    agent
        .cli(&["run", "-d", "--name", "yes", "--log-size", "1MB", "--", "yes"])
        .success();
    eventually("it writes", || {
        (!agent.cli(&["logs", "--tail", "1", "yes"]).stdout.is_empty()).then_some(())
    });
    let logs = agent.cli(&["logs", "yes"]);
    assert!(logs.stdout.len() < 64 << 20, "{} bytes", logs.stdout.len());
    agent.cli(&["kill", "yes", "--grace", "0s"]).success();
}

#[test]
fn a_launch_that_failed_leaves_no_directory() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    assert_eq!(agent.cli(&["run", "--", "/no/such/command"]).status, 127);
    assert_eq!(
        std::fs::read_dir(agent.work_dir().join("sandboxes"))
            .expect("work directory")
            .count(),
        0
    );
}

#[test]
fn a_full_disk_is_told_and_the_command_goes_on() {
    if skip_unless_root() {
        return;
    }
    // A small disk of its own, in a directory that goes with the test.
    let scratch = tempfile::tempdir().expect("a directory");
    let mount = |arguments: &[&str]| {
        std::process::Command::new("mount")
            .args(arguments)
            .status()
            .expect("mount")
    };
    let disk = scratch.path().join("disk");
    std::fs::create_dir(&disk).expect("a directory");
    let path = disk.display().to_string();
    assert!(mount(&["-t", "tmpfs", "-o", "size=512k", "tmpfs", &path]).success());
    {
        let agent = Agent::start_with(&[&format!("--work-dir={path}/work")], &[]);
        let script = "head -c 3000000 /dev/zero | tr '\\0' x; exit 4";
        let answer = agent.cli(&["run", "--", "sh", "-c", script]);
        assert_eq!(answer.status, 4, "{:?}", answer.stderr);
        assert!(answer.stdout.len() < 3_000_000);
        assert!(
            answer.stderr.contains("lost") || answer.stderr.contains("missed"),
            "{}",
            answer.stderr
        );
    }
    assert!(
        std::process::Command::new("umount")
            .arg(&path)
            .status()
            .expect("umount")
            .success()
    );
}
