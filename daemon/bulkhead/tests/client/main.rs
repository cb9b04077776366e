//! The client verbs of the real program against an agent that isolates nothing: what passes through,
//! which exit status comes out, what is said on stderr.

mod fake;
mod output;
mod terminal;

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

struct World {
    directory: TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fake::start(&directory.path().join("agent.sock"));
        Self { directory }
    }

    fn bulkhead(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
        command.args(args).env(
            "BULKHEAD_AGENT",
            format!("unix:{}", self.directory.path().join("agent.sock").display()),
        );
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.bulkhead(args).output().unwrap()
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Level-triggered, with a deadline: a client that hangs fails the test and is ended.
fn wait(mut child: Child) -> ExitStatus {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the client hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn read_until(child: &mut Child, wanted: &str) -> String {
    let mut read = String::new();
    let mut byte = [0];
    while !read.contains(wanted) {
        assert_eq!(
            child.stdout.as_mut().unwrap().read(&mut byte).unwrap(),
            1,
            "ended after {read:?}"
        );
        read.push(byte[0] as char);
    }
    read
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

#[test]
fn streams_and_exit_status_are_the_commands() {
    let output = World::new().output(&["run", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("out\n", "err\n"));
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn megabytes_go_in_and_out_unchanged() {
    let world = World::new();
    let mut child = world
        .bulkhead(&["run", "--", "cat"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let sent: Vec<u8> = (0..8 << 20)
        .map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut stdin = child.stdin.take().unwrap();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&copy).unwrap());
    let mut received = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert!(wait(child).success());
    assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
}

#[test]
fn signals_reach_the_command() {
    let world = World::new();
    for (signal, name) in [
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGUSR1, "USR1"),
        (Signal::SIGINT, "INT"),
    ] {
        let script = format!("trap 'echo got; exit 5' {name}; echo ready; while :; do sleep 0.05; done");
        let mut child = world
            .bulkhead(&["run", "--", "sh", "-c", &script])
            .spawn()
            .unwrap();
        read_until(&mut child, "ready\n");
        send(&child, signal);
        read_until(&mut child, "got\n");
        assert_eq!(wait(child).code(), Some(5), "{name}");
    }
}

#[test]
fn the_third_interrupt_kills() {
    let world = World::new();
    let script = "trap 'echo no' INT; echo ready; while :; do sleep 0.05; done";
    let mut child = world
        .bulkhead(&["run", "--", "sh", "-c", script])
        .spawn()
        .unwrap();
    read_until(&mut child, "ready\n");
    send(&child, Signal::SIGINT);
    read_until(&mut child, "no\n");
    send(&child, Signal::SIGINT);
    read_until(&mut child, "no\n");
    send(&child, Signal::SIGINT);
    assert_eq!(wait(child).code(), Some(137));
}

#[test]
fn a_reader_that_leaves_ends_the_command_as_a_pipe_would() {
    let world = World::new();
    let mut child = world.bulkhead(&["run", "--", "yes"]).spawn().unwrap();
    read_until(&mut child, "y\n");
    drop(child.stdout.take());
    assert_eq!(wait(child).code(), Some(128 + Signal::SIGPIPE as i32));
}

#[test]
fn exit_statuses_of_failures() {
    let world = World::new();
    let missing = world.output(&["run", "--", "no-such-command"]);
    assert_eq!(missing.status.code(), Some(127));
    assert!(
        text(&missing.stderr).starts_with("bulkhead: run: no-such-command: execute"),
        "{missing:?}"
    );
    assert_eq!(text(&missing.stderr).lines().count(), 1);
    assert_eq!(
        world
            .output(&["run", "--no-such-flag", "--", "true"])
            .status
            .code(),
        Some(125)
    );
    assert_eq!(
        world
            .output(&["run", "--mem", "-1MB", "--", "true"])
            .status
            .code(),
        Some(125)
    );
    assert_eq!(world.output(&["ps", "--no-such-flag"]).status.code(), Some(2));
    assert_eq!(world.output(&["run", "--help"]).status.code(), Some(0));
    assert_eq!(world.output(&["kill", "nobody"]).status.code(), Some(1));
    let nobody = world.output(&["inspect", "nobody"]);
    assert_eq!(
        text(&nobody.stderr),
        "bulkhead: inspect: nobody: no such container; list them with: bulkhead ps -a\n"
    );
    for flags in [["--ports", "0"], ["--network", "nat"], ["--egress", "0bit"]] {
        let refused = world.output(&["run", flags[0], flags[1], "--", "true"]);
        assert_eq!(refused.status.code(), Some(125));
        assert!(text(&refused.stderr).contains(flags[0]));
    }
}

fn json(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

#[test]
fn every_verb_fails_in_json_when_asked_to() {
    let world = World::new();
    let killed = world.output(&["kill", "-o", "json", "nobody", "neither"]);
    assert_eq!(killed.status.code(), Some(1));
    let told: Vec<_> = text(&killed.stderr).lines().map(json).collect();
    assert_eq!(told.len(), 2);
    for (line, name) in told.iter().zip(["nobody", "neither"]) {
        assert_eq!(
            (&line["kind"], &line["about"]),
            (&"not_found".into(), &name.into())
        );
    }
    let by_variable = world
        .bulkhead(&["kill", "nobody"])
        .env("BULKHEAD_OUTPUT", "json")
        .output()
        .unwrap();
    assert_eq!(json(text(&by_variable.stderr))["kind"], "not_found");
    for args in [
        &["inspect", "nobody"][..],
        &["update", "--pids", "3", "nobody"],
        &["wait", "nobody"],
        &["attach", "nobody"],
        &["logs", "nobody"],
        &["exec", "nobody", "true"],
    ] {
        let failed = world.output(&[&["-o", "json"], args].concat());
        assert_eq!(json(text(&failed.stderr))["about"], "nobody", "{args:?}");
    }
}

#[test]
fn a_timeout_of_nothing_is_refused_before_anything_runs() {
    let world = World::new();
    let plain = world.output(&["run", "--timeout", "0", "--", "true"]);
    assert_eq!(plain.status.code(), Some(125));
    assert!(text(&plain.stderr).contains("must be more than 0"), "{plain:?}");
    let told = world.output(&["run", "-o", "json", "--timeout", "0", "--", "true"]);
    assert_eq!(told.status.code(), Some(125));
    let line = json(text(&told.stderr));
    assert_eq!(line["kind"], "invalid");
    let message = line["message"].as_str().unwrap();
    assert!(
        message.contains("--timeout") && message.contains("must be more than 0"),
        "{line}"
    );
    assert!(
        world
            .output(&["run", "--grace", "0s", "--", "true"])
            .status
            .success()
    );
}

#[test]
fn without_an_agent_the_remedy_is_told() {
    let world = World::new();
    let nowhere = world.directory.path().join("nowhere.sock");
    let output = world
        .bulkhead(&["ps"])
        .env("BULKHEAD_AGENT", &nowhere)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let line = text(&output.stderr);
    assert!(
        line.starts_with("bulkhead: ps: ") && line.contains("; start one with: bulkhead agent"),
        "{line}"
    );
    let version = world
        .bulkhead(&["version"])
        .env("BULKHEAD_AGENT", &nowhere)
        .output()
        .unwrap();
    assert!(version.status.success() && text(&version.stdout).contains("none ("));
}

#[test]
fn a_limit_that_killed_is_told_in_one_line() {
    let output = World::new().output(&["run", "--name", "web", "--", "sh", "-c", "exit 99"]);
    assert_eq!(
        text(&output.stderr),
        "bulkhead: container web was killed: memory limit 64MB reached (peak 65MB)\n"
    );
}

#[test]
fn a_detached_container_is_listed_changed_killed_and_waited_for() {
    let world = World::new();
    let run = world.output(&[
        "run",
        "-d",
        "--name",
        "web",
        "--cpu_limit",
        "0.5",
        "-l",
        "a=b",
        "--",
        "sleep",
        "100",
    ]);
    let id = text(&run.stdout).trim().to_owned();
    assert_eq!(id.len(), 32);
    let listed: serde_json::Value =
        serde_json::from_slice(&world.output(&["ps", "-o", "json"]).stdout).unwrap();
    assert_eq!(
        (&listed[0]["id"], &listed[0]["name"], &listed[0]["labels"]["a"]),
        (&id.as_str().into(), &"web".into(), &"b".into())
    );
    assert_eq!(listed[0]["limits"]["cpu_limit"], 0.5);
    assert_eq!(text(&world.output(&["ps", "-q"]).stdout).trim(), id);
    assert_eq!(
        text(&world.output(&["update", "--pids", "7", "web"]).stdout),
        "cpu-limit  0.5\npids       7\n"
    );
    assert!(text(&world.output(&["inspect", "web"]).stdout).contains("pids       7"));
    let waiting = world.bulkhead(&["wait", "web"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(
        world.output(&["kill", "-s", "KILL", "web"]).status.code(),
        Some(0)
    );
    assert_eq!(text(&waiting.wait_with_output().unwrap().stdout), "137\n");
    assert!(text(&world.output(&["ps", "-a"]).stdout).contains("exited (137)"));
}

#[test]
fn events_end_after_what_is_remembered() {
    let output = World::new().output(&["events", "--since", "4", "-o", "json"]);
    assert!(output.status.success());
    let sequences: Vec<u64> = text(&output.stdout)
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["sequence"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert_eq!(sequences, [5, 6, 7]);
}

#[test]
fn completions_know_the_verbs() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = world.output(&["completions", shell]);
        assert!(
            output.status.success() && text(&output.stdout).contains("inspect"),
            "{shell}"
        );
    }
}
