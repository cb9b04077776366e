//! A ceiling on the memory of the agent itself.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use support::{Agent, eventually, is_pure_v2, skip_unless_root};

use crate::{OwnGroup, pid_of};

/// A message of one segment of 4 MB, begun and not finished.
fn half_a_message() -> Vec<u8> {
    let mut message = vec![0; 3 << 20];
    message[4..8].copy_from_slice(&(512 * 1024u32).to_le_bytes());
    message
}

fn killed_for_memory(group: &OwnGroup) -> u64 {
    let file = if is_pure_v2() {
        "memory.events"
    } else {
        "memory.oom_control"
    };
    let text = group.read(file);
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.and_then(|count| count.parse().ok()).expect("a count")
}

#[test]
fn a_flood_of_clients_costs_no_container_even_if_it_costs_the_agent() {
    if skip_unless_root() {
        return;
    }
    let group = OwnGroup::make("memory");
    group.set(
        if is_pure_v2() {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        },
        &(40u64 << 20).to_string(),
    );
    let mut agent = Agent::start_after(&group.enter(), &[], &[]);
    agent
        .cli(&["run", "-d", "--name", "c", "--mem", "64MB", "--", "sleep", "1000"])
        .success();
    let pid = pid_of(&agent, "c");
    let message = half_a_message();
    let mut held = Vec::new();
    for _ in 0..100 {
        let Ok(mut stream) = UnixStream::connect(agent.socket()) else {
            break;
        };
        stream
            .set_write_timeout(Some(Duration::from_millis(100)))
            .expect("a timeout");
        // It stops reading when its budget is used up: then the rest stays with us.
        let _ = stream.write_all(&message);
        held.push(stream);
        if !agent.is_alive() {
            break;
        }
    }
    let (clients, died) = (held.len(), !agent.is_alive());
    drop(held);
    if died {
        agent.wait_for_death();
        agent.spawn();
    }
    eventually("it serves", || (agent.cli(&["ps"]).status == 0).then_some(()));
    eprintln!(
        "{clients} clients, agent killed: {died}, kills {}",
        killed_for_memory(&group)
    );
    assert_eq!(pid_of(&agent, "c"), pid);
    assert_eq!(agent.cli(&["exec", "c", "--", "sh", "-c", "exit 4"]).status, 4);
    assert_eq!(
        agent.cli(&["run", "--", "sh", "-c", "exit 6"]).status,
        6,
        "the launcher works, or a new one does"
    );
    agent.finish();
}
