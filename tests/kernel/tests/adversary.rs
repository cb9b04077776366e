//! Clients that misbehave: the agent stays up, its memory bounded, others are served.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use support::{Agent, eventually, skip_unless_root};

fn resident_kb(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the agent lives");
    let line = status
        .lines()
        .find(|l| l.starts_with("VmRSS"))
        .expect("a resident size");
    line.split_whitespace()
        .nth(1)
        .and_then(|kb| kb.parse().ok())
        .expect("a number")
}

#[track_caller]
fn others_are_served(agent: &Agent) {
    assert_eq!(agent.cli(&["run", "--rm", "--", "sh", "-c", "exit 9"]).status, 9);
}

#[test]
fn garbage_on_the_socket_hurts_nobody() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let before = resident_kb(agent.pid());
    let mut state = 0x1234_5678_9abc_def1u64;
    for round in 0..2000u32 {
        let Ok(mut stream) = UnixStream::connect(agent.socket()) else {
            continue;
        };
        let mut bytes = vec![0u8; 8 + (round as usize % 700)];
        for byte in &mut bytes {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            *byte = (state >> 56) as u8;
        }
        if round % 3 == 0 {
            // A plausible header: one segment, of a size up to a gigabyte.
            bytes[..8].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, (round % 8) as u8]);
        }
        let _ = stream.write_all(&bytes);
    }
    others_are_served(&agent);
    let after = resident_kb(agent.pid());
    eprintln!("resident: {before} kB before, {after} kB after 2,000 connections of garbage");
    assert!(after < before + 32 * 1024, "{before} kB -> {after} kB");
}

#[test]
fn ten_thousand_idle_connections_keep_nobody_out() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    kernel::system::raise_descriptors().expect("descriptors for the test itself");
    let before = resident_kb(agent.pid());
    let mut held = Vec::new();
    for _ in 0..10_000 {
        // Evicted ones are closed by the agent; the test holds its ends all the same.
        if let Ok(stream) = UnixStream::connect(agent.socket()) {
            held.push(stream);
        }
    }
    others_are_served(&agent);
    let after = resident_kb(agent.pid());
    eprintln!(
        "resident: {before} kB before, {after} kB with {} idle connections",
        held.len()
    );
    assert!(after < before + 32 * 1024, "{before} kB -> {after} kB");
}

#[test]
fn a_client_that_never_reads_costs_bounded_memory() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    agent.background("chatty", "yes 0123456789");
    let before = resident_kb(agent.pid());
    let mut command = agent.command(&["logs", "-f", "chatty"]);
    let mut client = command.stdout(Stdio::piped()).spawn().expect("start a client");
    // Its output is never read, so it stops reading its socket's stream in turn.
    let mut first = [0; 64];
    client
        .stdout
        .as_mut()
        .expect("stdout")
        .read_exact(&mut first)
        .expect("it began");
    std::thread::sleep(Duration::from_secs(2));
    others_are_served(&agent);
    let after = resident_kb(agent.pid());
    eprintln!("resident: {before} kB before, {after} kB with a client that never reads");
    assert!(after < before + 32 * 1024, "{before} kB -> {after} kB");
    client.kill().expect("kill the client");
    client.wait().expect("reap the client");
    agent.cli(&["kill", "chatty", "--grace", "0s"]).success();
}

#[test]
fn a_client_killed_hard_takes_nothing_with_it() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let script = "echo up; while :; do sleep 0.05; done";
    let mut run = agent.command(&["run", "--name", "orphan", "--", "sh", "-c", script]);
    let mut client = run
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the command line");
    let mut up = [0; 3];
    client
        .stdout
        .as_mut()
        .expect("stdout")
        .read_exact(&mut up)
        .expect("the command is up");
    client.kill().expect("kill the client");
    client.wait().expect("reap the client");
    others_are_served(&agent);
    assert_eq!(agent.container("orphan").expect("known")["state"], "running");
    agent.cli(&["kill", "orphan"]).success();
    eventually("it ended", || {
        (agent.container("orphan")?["state"] == "destroyed").then_some(())
    });
}
