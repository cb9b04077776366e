//! The last of a command's output: slow readers, processes left behind, bytes that never came.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{World, read_until, send, text, wait};

/// Longer than the client waits for an agent that says nothing.
const SLOW: Duration = Duration::from_secs(7);

#[test]
fn a_slow_reader_gets_every_line_and_the_status() {
    let world = World::new();
    let mut child = world
        .bulkhead(&["run", "--", "sh", "-c", "seq 1 100000; exit 3"])
        .spawn()
        .unwrap();
    std::thread::sleep(SLOW);
    let mut read = String::new();
    child.stdout.take().unwrap().read_to_string(&mut read).unwrap();
    let mut complaints = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut complaints)
        .unwrap();
    assert_eq!(wait(child).code(), Some(3));
    assert_eq!((read.lines().count(), complaints.as_str()), (100_000, ""));
    assert!(read.ends_with("\n100000\n"));
}

#[test]
fn a_reader_that_never_reads_does_not_keep_a_signal_from_ending_us() {
    let world = World::new();
    let written = world.directory.path().join("written");
    let script = format!("seq 1 100000; touch {}", written.display());
    let child = world
        .bulkhead(&["run", "--", "sh", "-c", &script])
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !written.exists() {
        assert!(Instant::now() < deadline, "the command does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    // The end of the command is known a little after its last act.
    std::thread::sleep(Duration::from_secs(1));
    send(&child, Signal::SIGTERM);
    assert_eq!(wait(child).code(), Some(128 + Signal::SIGTERM as i32));
}

fn exec_with_a_child_left_behind(flags: &[&str]) {
    let world = World::new();
    let run = world.output(&["run", "-d", "--name", "w", "--", "sleep", "100"]);
    assert!(run.status.success());
    let begun = Instant::now();
    let mut args = vec!["exec"];
    args.extend(flags);
    args.extend(["w", "--", "sh", "-c", "sleep 15 & echo $!; exit 3"]);
    let output = world.output(&args);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(
        (output.status.code(), text(&output.stderr)),
        (Some(3), ""),
        "{flags:?}"
    );
    let left: i32 = text(&output.stdout).trim().parse().unwrap();
    kill(Pid::from_raw(left), Signal::SIGKILL).unwrap();
    assert!(world.output(&["kill", "-s", "KILL", "w"]).status.success());
}

#[test]
fn exec_does_not_wait_for_processes_left_behind() {
    exec_with_a_child_left_behind(&[]);
    exec_with_a_child_left_behind(&["-t"]);
}

#[test]
fn exec_gives_all_that_was_written_before_the_end() {
    let world = World::new();
    assert!(
        world
            .output(&["run", "-d", "--name", "w", "--", "sleep", "100"])
            .status
            .success()
    );
    let output = world.output(&["exec", "w", "--", "sh", "-c", "seq 1 200000; exit 4"]);
    assert_eq!(
        (output.status.code(), text(&output.stdout).lines().count()),
        (Some(4), 200_000)
    );
    assert!(world.output(&["kill", "-s", "KILL", "w"]).status.success());
}

#[test]
fn lost_bytes_are_told_now_and_then_and_at_the_end() {
    let world = World::new();
    let output = world.output(&[
        "run",
        "--name",
        "web",
        "-l",
        "gaps=300",
        "--",
        "echo",
        "what is left",
    ]);
    assert_eq!(
        (output.status.code(), text(&output.stdout)),
        (Some(0), "what is left\n")
    );
    let lines: Vec<&str> = text(&output.stderr).lines().collect();
    assert!(
        lines[0].starts_with("bulkhead: 1000 bytes of output were lost"),
        "{lines:?}"
    );
    assert!(
        lines
            .last()
            .unwrap()
            .starts_with("bulkhead: web: 300000 bytes of output were lost"),
        "{lines:?}"
    );
    assert!(lines.len() < 10, "{lines:?}");
}

#[test]
fn stdin_of_a_detached_container_is_given_by_attach() {
    let world = World::new();
    let script = "read line; echo got:$line; exit 6";
    let run = world.output(&["run", "-d", "-i", "--name", "calc", "--", "sh", "-c", script]);
    assert!(run.status.success(), "{run:?}");
    std::thread::sleep(Duration::from_millis(200));
    assert!(text(&world.output(&["ps"]).stdout).contains("calc"));
    let mut attached = world
        .bulkhead(&["attach", "calc"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    attached.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    read_until(&mut attached, "got:hello\n");
    assert_eq!(wait(attached).code(), Some(6));
    let help = world.output(&["run", "--help"]);
    assert!(text(&help.stdout).contains("when detached, `attach` gives it"));
}
