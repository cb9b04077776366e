//! Containers in the host's network have their own ports and no others.

use std::collections::BTreeMap;

use serde_json::Value;
use support::{Agent, eventually, skip_unless_root};

const POOL: &str = "--resources=ports:[21000-21063];ephemeral_ports:[22000-22063]";
const FEW: &str = "--ephemeral_ports_per_container=32";

const PROGRAM: &str = include_str!("ports.py");

/// An agent in a network namespace of its own, so that no port of the machine is in the way.
fn agent() -> Agent {
    // The range of a fresh namespace is the kernel's default, which has none of these ports.
    Agent::start_after(
        "exec unshare --net -- sh -c 'ip link set lo up; exec \"$0\" \"$@\"' \"$0\" \"$@\"",
        &[POOL, FEW],
        &[],
    )
}

fn statistics(agent: &Agent, name: &str) -> Value {
    agent.cli(&["stats", name, "-o", "json"]).json()[0]["statistics"].clone()
}

fn told(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once('=')).collect()
}

#[test]
fn a_container_binds_and_connects_from_its_own_ports_only() {
    if skip_unless_root() {
        return;
    }
    let agent = agent();
    let answer = agent.cli(&[
        "run",
        "--name",
        "p",
        "--ports",
        "21010-21010",
        "--",
        "python3",
        "-c",
        PROGRAM,
    ]);
    let output = answer.success().stdout;
    let told = told(&output);
    let is = |name: &str| *told.get(name).unwrap_or_else(|| panic!("no {name} in {output}"));
    let ephemeral = |name: &str| {
        let port: u16 = is(name)
            .parse()
            .unwrap_or_else(|_| panic!("{name}: {}", is(name)));
        assert!((22_000..=22_063).contains(&port), "{name}: {port}");
    };
    for kind in ["tcp", "udp"] {
        for address in ["4", "any4", "6", "dual", "inside6"] {
            assert_eq!(is(&format!("{kind}.{address}.own")), "21010");
            assert_eq!(is(&format!("{kind}.{address}.foreign")), "EACCES");
            assert_eq!(is(&format!("{kind}.{address}.shared")), "EACCES");
            ephemeral(&format!("{kind}.{address}.zero"));
        }
        ephemeral(&format!("{kind}.4.connect"));
        ephemeral(&format!("{kind}.6.connect"));
    }
    ephemeral("dual.connect");
    assert_eq!(is("many"), "60", "{output}");
    assert_eq!(is("unasked"), "unreached");
    assert_eq!(is("unbound"), "sent");
    let used = agent.cli(&["inspect", "p", "-o", "json"]).json();
    assert_eq!(used["ports"], serde_json::json!([21010]), "{used}");
}

#[test]
fn ports_are_in_the_environment_and_nobody_gets_anothers() {
    if skip_unless_root() {
        return;
    }
    let agent = agent();
    let script = "echo $PORT0 $PORT1 $PORTS $BULKHEAD_PORTS";
    let line = agent
        .cli(&["run", "--ports", "2", "--", "sh", "-c", script])
        .success()
        .stdout;
    let words: Vec<&str> = line.split_whitespace().collect();
    let first: u16 = words[0].parse().expect("a port");
    assert_eq!(words[1], (first + 1).to_string());
    assert_eq!(words[2], format!("{first},{}", first + 1));
    assert_eq!(words[3], format!("{first}-{}", first + 1));
    agent
        .cli(&[
            "run",
            "-d",
            "--name",
            "a",
            "--ports",
            "21005,21010-21012",
            "--",
            "sleep",
            "1000",
        ])
        .success();
    let refused = agent.cli(&["run", "--ports", "21012-21013", "--", "true"]);
    assert_eq!(refused.status, 125);
    assert!(
        refused.stderr.contains("port 21012 is in use by container"),
        "{refused:?}"
    );
    let beyond = agent.cli(&["run", "--ports", "80-80", "--", "true"]);
    assert!(
        beyond.stderr.contains("80 is not among this agent's ports"),
        "{beyond:?}"
    );
    // One container has an ephemeral range, the pool has two.
    agent
        .cli(&["run", "-d", "--name", "b", "--ports", "1", "--", "sleep", "1000"])
        .success();
    let exhausted = agent.cli(&["run", "--ports", "1", "--", "true"]);
    assert!(
        exhausted.stderr.contains("ephemeral ports in a row"),
        "{exhausted:?}"
    );
    agent.cli(&["kill", "b"]).success();
    eventually("the ports are back", || {
        (agent.cli(&["run", "--ports", "1", "--", "true"]).status == 0).then_some(())
    });
}

#[test]
fn the_policy_outlives_the_agent_and_refusals_are_told() {
    if skip_unless_root() {
        return;
    }
    let mut agent = agent();
    let bind = "import socket,sys; socket.socket().bind(('127.0.0.1', int(sys.argv[1])))";
    let run = [
        "run",
        "-d",
        "--name",
        "p",
        "--ports",
        "21020-21021",
        "--",
        "sleep",
        "1000",
    ];
    agent.cli(&run).success();
    let try_port = |agent: &Agent, port: &str| agent.cli(&["exec", "p", "--", "python3", "-c", bind, port]);
    assert_eq!(try_port(&agent, "21020").status, 0);
    assert_ne!(try_port(&agent, "21030").status, 0);
    agent.kill_hard();
    agent.spawn();
    assert_eq!(try_port(&agent, "21021").status, 0);
    assert!(try_port(&agent, "21031").stderr.contains("Permission denied"));
    assert_eq!(statistics(&agent, "p")["net_drops"]["bind_refused"], 2);
    // It has its ports still, and nobody else gets them.
    let refused = agent.cli(&["run", "--ports", "21021-21021", "--", "true"]);
    assert!(refused.stderr.contains("in use"), "{refused:?}");
    eventually("an event tells of it", || {
        let events = agent.cli(&["events", "-o", "json"]).success().stdout;
        events
            .lines()
            .any(|line| line.contains("port_refused") && line.contains("21031"))
            .then_some(())
    });
}

#[test]
fn traffic_is_counted_for_everybody_in_the_hosts_network() {
    if skip_unless_root() {
        return;
    }
    let agent = agent();
    let talk = "import socket,time
s=socket.socket(); s.bind(('127.0.0.1',5000)); s.listen(); c=socket.create_connection(('127.0.0.1',5000)); a,_=s.accept()
for n in range(100): c.sendall(b'x'*10000); a.recv(10000, socket.MSG_WAITALL)
print('done', flush=True); time.sleep(1000)";
    agent
        .cli(&["run", "-d", "--name", "talker", "--", "python3", "-c", talk])
        .success();
    eventually("it has talked", || {
        agent
            .cli(&["logs", "talker"])
            .stdout
            .contains("done")
            .then_some(())
    });
    let used = statistics(&agent, "talker");
    for field in ["net_rx_bytes", "net_tx_bytes"] {
        let bytes = used[field].as_u64().expect(field);
        assert!((1_000_000..1_200_000).contains(&bytes), "{field}: {bytes}");
    }
}

#[test]
fn pools_that_are_the_hosts_own_are_refused_at_the_start() {
    if skip_unless_root() {
        return;
    }
    let output = std::process::Command::new(support::bulkhead())
        .args(["agent", "--http=none", "--resources=ports:[40000-41000]"])
        .args(["--work-dir=/nonexistent/w", "--runtime-dir=/nonexistent/r"])
        .output()
        .expect("run it");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{error}");
    assert!(!std::path::Path::new("/nonexistent").exists(), "{error}");
}
