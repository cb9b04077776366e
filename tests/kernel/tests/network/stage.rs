//! An agent in a namespace that plays the host, and another that is outside.

use serde_json::Value;
use support::network::{NetworkWorld, run, within};
use support::{Agent, eventually};

pub const POOL: &str = "--resources=ports:[31000-31063];ephemeral_ports:[61440-61567]";
pub const FEW: &str = "--ephemeral_ports_per_container=32";
/// As `python3 -m http.server`, which asks for its own name first and waits long where nobody answers.
pub const SERVER: &str = "echo hello > index.html; exec python3 -c '
import os, http.server, socketserver
socketserver.ThreadingTCPServer.address_family = 10
server = socketserver.ThreadingTCPServer((\"::\", int(os.environ[\"PORT0\"])), http.server.SimpleHTTPRequestHandler)
server.serve_forever()'";

/// The host, an agent on it, and what is beyond its uplink. The agent goes first.
pub struct Stage {
    pub agent: Agent,
    pub world: NetworkWorld,
}

impl Stage {
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// With flags of the agent beside the pools.
    pub fn with(flags: &[&str]) -> Self {
        let world = NetworkWorld::new();
        let flags: Vec<&str> = [POOL, FEW].iter().chain(flags).copied().collect();
        let agent = within(&world.host, || Agent::start_with(&flags, &[]));
        Self { agent, world }
    }

    /// A mapped container with one port; the port.
    pub fn serve(&self, name: &str) -> u16 {
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

    pub fn fetch(&self, from: &std::os::fd::OwnedFd, address: &str, port: u16) -> Option<String> {
        let command = format!("curl --silent --max-time 2 http://{address}:{port}/");
        let output = run(from, &command);
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub fn reaches(&self, address: &str, port: u16) {
        let found = eventually("the server answers outside", || {
            self.fetch(&self.world.outside, address, port)
        });
        assert_eq!(found, "hello\n");
    }

    pub fn statistics(&self, name: &str) -> Value {
        self.agent.cli(&["stats", name, "-o", "json"]).json()[0]["statistics"].clone()
    }

    pub fn restart(&mut self) {
        self.agent.kill_hard();
        let (agent, world) = (&mut self.agent, &self.world);
        within(&world.host, || agent.spawn());
    }

    pub fn interfaces(&self) -> Vec<String> {
        let output = run(&self.world.host, "ip -o link");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let names = text.lines().filter_map(|line| line.split(": ").nth(1));
        let ours = names.filter(|name| name.starts_with("bh"));
        ours.map(|name| name.split('@').next().unwrap_or(name).to_owned())
            .collect()
    }
}
