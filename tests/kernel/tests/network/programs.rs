//! Programs of every day in a mapped container, and what is told of their traffic.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;
use support::network::{HOST, OUTSIDE, run, start, within};
use support::{eventually, skip_unless_root};

use crate::stage::Stage;

/// Answers every question with one address, 192.0.2.77.
const NAMES: &str = "
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((\"0.0.0.0\", 53))
while True:
    question, peer = server.recvfrom(512)
    end = question.index(0, 12) + 5
    record = question[12:end] if question[end - 4:end - 2] == bytes([0, 1]) else None
    answer = bytes([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 77]) if record else bytes()
    count = 1 if record else 0
    head = question[:2] + bytes([0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0])
    server.sendto(head + question[12:end] + answer, peer)
";

/// As a shell over a long connection: each line comes back.
const ECHO: &str = "
import os, socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
socketserver.ThreadingTCPServer.address_family = 10
socketserver.ThreadingTCPServer((\"::\", int(os.environ[\"PORT0\"])), Echo).serve_forever()
";

impl Stage {
    /// What a command in a mapped container writes, and whether it succeeds.
    fn try_mapped(&self, flags: &[&str], command: &str) -> (bool, String) {
        let mut arguments = vec!["run", "--rm", "--network", "mapped"];
        arguments.extend(flags);
        arguments.extend(["--", "sh", "-c", command]);
        let output = self.agent.cli(&arguments);
        (output.status == 0, format!("{}{}", output.stdout, output.stderr))
    }
}

#[test]
fn programs_of_every_day_work_in_a_mapped_container() {
    if skip_unless_root() {
        return;
    }
    let stage = Stage::new();
    let script = stage.agent.runtime_dir().join("names.py");
    std::fs::write(&script, NAMES).expect("a script");
    let _names = start(&stage.world.outside, &format!("python3 {}", script.display()));
    for (command, wanted) in [
        (format!("ping -c 2 -i 0.2 -W 5 {OUTSIDE}"), " 0% packet loss"),
        (
            format!("traceroute -n -q 1 -w 5 -m 4 {OUTSIDE}"),
            " 1  192.0.2.2 ",
        ),
        // The server may be a little late.
        (
            format!(
                "for n in 1 2 3 4 5; do busybox nslookup -type=a some.example {OUTSIDE} && break; sleep 1; done"
            ),
            "192.0.2.77",
        ),
    ] {
        let (success, told) = stage.try_mapped(&["--cap-add", "NET_RAW"], &command);
        assert!(success && told.contains(wanted), "{command}: {told}");
    }
    // The host answers, as without containers.
    let ping = run(&stage.world.outside, &format!("ping -c 1 -W 5 {HOST}"));
    assert!(ping.status.success(), "{ping:?}");
    // A listener, and a line from outside.
    let listen = "exec nc -l $PORT0";
    let arguments = [
        "run",
        "-d",
        "--name",
        "nc",
        "--network",
        "mapped",
        "--ports",
        "31007",
        "--",
        "sh",
        "-c",
        listen,
    ];
    stage.agent.cli(&arguments).success();
    eventually("nc takes a line", || {
        let mut stream = within(&stage.world.outside, || TcpStream::connect((HOST, 31007))).ok()?;
        stream.write_all(b"hello from outside\n").ok()
    });
    eventually("nc writes the line", || {
        let logs = stage.agent.cli(&["logs", "nc"]);
        logs.stdout.contains("hello from outside").then_some(())
    });
}

#[test]
fn a_long_connection_outlives_agents_and_is_told_of() {
    if skip_unless_root() {
        return;
    }
    let mut stage = Stage::new();
    let command = format!("exec python3 -c '{ECHO}'");
    let arguments = [
        "run",
        "-d",
        "--name",
        "echo",
        "--network",
        "mapped",
        "--ports",
        "31001",
        "--",
        "sh",
        "-c",
        &command,
    ];
    stage.agent.cli(&arguments).success();
    let mut stream = eventually("the server listens", || {
        within(&stage.world.outside, || TcpStream::connect((HOST, 31001))).ok()
    });
    stream
        .set_read_timeout(Some(support::patience(10)))
        .expect("a timeout");
    let mut say = |line: &str| {
        stream.write_all(line.as_bytes()).expect("the connection is open");
        let mut answer = vec![0; line.len()];
        stream.read_exact(&mut answer).expect("it answers");
        assert_eq!(answer, line.as_bytes());
    };
    say("before\n");
    for round in 0..3 {
        stage.agent.kill_hard();
        say("nobody is there\n");
        let (agent, world) = (&mut stage.agent, &stage.world);
        within(&world.host, || agent.spawn());
        say(&format!("round {round}\n"));
    }
    let told = eventually("the connection is told of", || {
        let told = stage.statistics("echo");
        let known = told["net_tcp_rtt_microsecs_p50"].as_f64() > Some(0.0);
        known.then_some(told)
    });
    assert_eq!(told["net_tcp_active_connections"], 1.0, "{told}");
    assert!(told["net_tcp_time_wait_connections"].is_number(), "{told}");
    assert!(
        told["net_tcp_rtt_microsecs_p99"].as_f64() >= told["net_tcp_rtt_microsecs_p50"].as_f64(),
        "{told}"
    );
    let snmp = &told["net_snmp_statistics"];
    assert_eq!(snmp["tcp_stats"]["PassiveOpens"], 1, "{snmp}");
    assert_eq!(snmp["tcp_stats"]["CurrEstab"], 1, "{snmp}");
    assert!(snmp["ip_stats"]["InReceives"].as_u64() > Some(8), "{snmp}");
}

#[test]
fn damage_to_the_data_path_is_told_and_mended() {
    if skip_unless_root() {
        return;
    }
    let stage = Stage::with(&["--sample-interval=1h"]);
    stage.serve("web");
    let health = || -> Vec<(String, bool, String)> {
        let told = stage.agent.cli(&["net", "-o", "json"]).json();
        let parts = told["health"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let part = |part: &Value| {
            (
                text(&part["name"]),
                part["active"] == true,
                text(&part["missing"]),
            )
        };
        parts.iter().map(part).collect()
    };
    let well = health();
    assert!(well.len() == 4 && well.iter().all(|part| part.1), "{well:?}");
    let pins = stage.agent.runtime_dir().join("bpf");
    let victim = find(&pins, "fragments").expect("a pin");
    std::fs::remove_file(victim).expect("a pin can be removed");
    let interface = &stage.interfaces()[0];
    let down = format!("ip link set {interface} down");
    assert!(run(&stage.world.host, &down).status.success());
    let ill = health();
    let wrong: Vec<&str> = ill
        .iter()
        .filter(|part| !part.1)
        .map(|part| part.2.as_str())
        .collect();
    assert_eq!(wrong.len(), 2, "{ill:?}");
    assert!(
        wrong[0].contains("fragments") && wrong[0].contains("restart the agent"),
        "{wrong:?}"
    );
    assert!(wrong[1].contains("is down"), "{wrong:?}");
    let text = stage.agent.cli(&["net"]).success().stdout;
    assert!(
        text.contains("DAMAGED") && text.contains("network loopback lo: ok"),
        "{text}"
    );
    let up = format!("ip link set {interface} up");
    assert!(run(&stage.world.host, &up).status.success());
    assert_eq!(health().iter().filter(|part| !part.1).count(), 1);
}

/// A file of this name below a directory.
fn find(directory: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).ok()?;
    entries.filter_map(Result::ok).find_map(|entry| {
        let path = entry.path();
        match path.is_dir() {
            true => find(&path, name),
            false => (entry.file_name() == name).then_some(path),
        }
    })
}
