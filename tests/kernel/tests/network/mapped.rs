//! Containers behind the host's address: an agent in a namespace that plays the host, and another that is outside.

use serde_json::Value;
use support::network::{HOST, NetworkWorld, run, within};
use support::{Agent, eventually, skip_unless_root};

const POOL: &str = "--resources=ports:[31000-31063];ephemeral_ports:[61440-61567]";
const FEW: &str = "--ephemeral_ports_per_container=32";
/// As `python3 -m http.server`, which asks for its own name first and waits long where nobody answers.
const SERVER: &str = "echo hello > index.html; exec python3 -c '
import os, http.server, socketserver
socketserver.ThreadingTCPServer.address_family = 10
server = socketserver.ThreadingTCPServer((\"::\", int(os.environ[\"PORT0\"])), http.server.SimpleHTTPRequestHandler)
server.serve_forever()'";

/// The host, an agent on it, and what is beyond its uplink. The agent goes first.
struct Stage {
    agent: Agent,
    world: NetworkWorld,
}

impl Stage {
    fn new() -> Self {
        let world = NetworkWorld::new();
        let agent = within(&world.host, || Agent::start_with(&[POOL, FEW], &[]));
        Self { agent, world }
    }

    /// A mapped container with one port; the port.
    fn serve(&self, name: &str) -> u16 {
        let run = [
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "mapped",
            "--ports",
            "1",
            "--",
            "sh",
            "-c",
            SERVER,
        ];
        self.agent.cli(&run).success();
        let inspected = self.agent.cli(&["inspect", name, "-o", "json"]).json();
        let port = inspected["ports"][0].as_u64().expect("a port");
        u16::try_from(port).expect("a port")
    }

    fn fetch(&self, from: &std::os::fd::OwnedFd, address: &str, port: u16) -> Option<String> {
        let command = format!("curl --silent --max-time 2 http://{address}:{port}/");
        let output = run(from, &command);
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn reaches(&self, address: &str, port: u16) {
        let found = eventually("the server answers outside", || {
            self.fetch(&self.world.outside, address, port)
        });
        assert_eq!(found, "hello\n");
    }

    fn statistics(&self, name: &str) -> Value {
        self.agent.cli(&["stats", name, "-o", "json"]).json()[0]["statistics"].clone()
    }

    fn restart(&mut self) {
        self.agent.kill_hard();
        let (agent, world) = (&mut self.agent, &self.world);
        within(&world.host, || agent.spawn());
    }

    fn interfaces(&self) -> Vec<String> {
        let output = run(&self.world.host, "ip -o link");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let names = text.lines().filter_map(|line| line.split(": ").nth(1));
        let ours = names.filter(|name| name.starts_with("bh"));
        ours.map(|name| name.split('@').next().unwrap_or(name).to_owned())
            .collect()
    }
}

#[test]
fn a_server_is_reached_from_outside_through_an_agents_death() {
    if skip_unless_root() {
        return;
    }
    let mut stage = Stage::new();
    let port = stage.serve("web");
    stage.reaches(HOST, port);
    stage.reaches("[2001:db8::1]", port);
    assert_eq!(
        stage.fetch(&stage.world.host, HOST, port).as_deref(),
        Some("hello\n")
    );
    let before = stage.statistics("web");
    assert!(before["net_rx_bytes"].as_u64() > Some(100), "{before}");
    assert!(before["net_tx_bytes"].as_u64() > Some(100), "{before}");
    assert_eq!(before["net_ephemeral_ports"]["begin"].as_u64(), Some(61440));
    stage.agent.kill_hard();
    // Nobody is there, and it answers.
    stage.reaches(HOST, port);
    let (agent, world) = (&mut stage.agent, &stage.world);
    within(&world.host, || agent.spawn());
    stage.reaches(HOST, port);
    let after = stage.statistics("web");
    assert!(
        after["net_rx_bytes"].as_u64() > before["net_rx_bytes"].as_u64(),
        "{before} {after}"
    );
    // The next one gets other ports, and reaches this one by the address that both have.
    let second = stage.serve("second");
    assert_ne!(second, port);
    let get = format!("curl --silent --max-time 2 http://{HOST}:{port}/");
    let got = stage.agent.cli(&["exec", "second", "--", "sh", "-c", &get]);
    assert_eq!(got.success().stdout, "hello\n");
    stage.agent.cli(&["kill", "web"]).success();
    eventually("its port is closed", || {
        stage
            .fetch(&stage.world.outside, HOST, port)
            .is_none()
            .then_some(())
    });
}

#[test]
fn nothing_is_left_of_a_network_that_nobody_uses() {
    if skip_unless_root() {
        return;
    }
    let mut stage = Stage::new();
    let pins = stage.agent.runtime_dir().join("bpf");
    assert!(!pins.exists(), "nobody has asked for a network yet");
    stage.serve("web");
    assert_eq!(stage.interfaces().len(), 1, "{:?}", stage.interfaces());
    stage.restart();
    assert_eq!(stage.interfaces().len(), 1, "{:?}", stage.interfaces());
    stage.agent.cli(&["kill", "web"]).success();
    eventually("its interface is gone", || {
        stage.interfaces().is_empty().then_some(())
    });
    stage.agent.stop();
    assert!(!pins.exists());
    let tcx = run(&stage.world.host, "tc filter show dev uplink ingress");
    assert!(tcx.stdout.is_empty(), "{tcx:?}");
}

#[test]
fn what_a_killed_agent_had_begun_is_taken_away() {
    if skip_unless_root() {
        return;
    }
    for step in [
        "fork.plan",
        "fork.pipes",
        "fork.identity",
        "checkpoint.write",
        "gate.open",
    ] {
        let world = NetworkWorld::new();
        let environment = [("BULKHEAD_FAILPOINTS", format!("{step}=die"))];
        let environment: Vec<(&str, &str)> = environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let agent = within(&world.host, || Agent::start_with(&[POOL, FEW], &environment));
        let mut stage = Stage { agent, world };
        let run = [
            "run",
            "-d",
            "--name",
            "web",
            "--network",
            "mapped",
            "--ports",
            "31000-31000",
            "--",
            "sleep",
            "1000",
        ];
        assert_ne!(stage.agent.cli(&run).status, 0, "{step}");
        stage.agent.wait_for_death();
        stage.agent.set_environment(&[]);
        let (agent, world) = (&mut stage.agent, &stage.world);
        within(&world.host, || agent.spawn());
        eventually("nothing is left of the launch", || {
            stage.interfaces().is_empty().then_some(())
        });
        // Its port can be had.
        stage.agent.cli(&run).success();
    }
}

#[test]
fn a_ceiling_without_a_network_of_its_own_is_refused() {
    if skip_unless_root() {
        return;
    }
    let stage = Stage::new();
    let refused = stage.agent.cli(&["run", "--egress", "10Mbit", "--", "true"]);
    assert_eq!(refused.status, 125);
    assert!(refused.stderr.contains("use --network mapped"), "{refused:?}");
    stage
        .agent
        .cli(&["run", "-d", "--name", "h", "--", "sleep", "1000"])
        .success();
    let refused = stage.agent.cli(&["update", "--egress", "10Mbit", "h"]);
    assert_ne!(refused.status, 0);
    stage.serve("web");
    let updated = stage
        .agent
        .cli(&["update", "--egress", "10Mbit", "--ingress", "20Mbit", "web"]);
    assert!(updated.success().stdout.contains("egress"));
    let limits = stage.agent.cli(&["inspect", "web", "-o", "json"]).json()["limits"].clone();
    assert_eq!(limits["egress_bits_per_sec"], 10_000_000, "{limits}");
    let told = stage.statistics("web");
    assert_eq!(told["net_tx_rate_limit"], 1_250_000, "{told}");
}
