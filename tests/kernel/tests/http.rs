//! Monitoring: the shapes that tools written for Mesos read.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;
use support::{Agent, eventually, skip_unless_root};

fn get(address: &str, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).expect("connect to the HTTP server");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .expect("send a request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|s| s.parse().ok())
        .expect("a status");
    (status, head.to_lowercase(), body.to_owned())
}

#[test]
fn a_monitoring_tool_finds_what_it_knows() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start_with(&["--http=127.0.0.1:0"], &[]);
    let version = agent.cli(&["version", "-o", "json"]).json();
    let address = version["agent"]["http_address"]
        .as_str()
        .expect("an address")
        .to_owned();
    agent
        .cli(&[
            "run", "-d", "--name", "m", "--cpus", "0.5", "--mem", "64MB", "--", "sleep", "100",
        ])
        .success();

    assert_eq!(get(&address, "/health").0, 200);
    let json = |path: &str| -> Value {
        let (status, head, body) = get(&address, path);
        assert_eq!(status, 200, "{path}: {body}");
        assert!(head.contains("application/json"), "{head}");
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"))
    };
    for path in ["/monitor/statistics", "/monitor/statistics.json"] {
        let all = json(path);
        let one = &all[0];
        for key in ["executor_id", "executor_name", "framework_id", "source"] {
            assert!(one[key].is_string(), "{key}: {one}");
        }
        let statistics = &one["statistics"];
        assert_eq!(statistics["cpus_limit"], 0.5);
        assert_eq!(statistics["mem_limit_bytes"], 64 << 20);
        for key in [
            "timestamp",
            "cpus_user_time_secs",
            "cpus_system_time_secs",
            "mem_rss_bytes",
            "mem_total_bytes",
        ] {
            assert!(statistics[key].is_number(), "{key}: {statistics}");
        }
    }
    let containers = json("/containers");
    assert!(
        containers[0]["status"]["executor_pid"].is_number(),
        "{containers}"
    );
    assert!(
        containers[0]["statistics"]["timestamp"].is_number(),
        "{containers}"
    );
    assert!(json("/version")["version"].is_string());
    for path in ["/metrics/snapshot", "/stats.json"] {
        let metrics = json(path);
        assert!(metrics["slave/uptime_secs"].is_number(), "{metrics}");
        assert!(metrics["system/cpus_total"].is_number(), "{metrics}");
    }
    let (status, head, text) = get(&address, "/metrics");
    assert_eq!(status, 200);
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(text.contains("bulkhead_container_memory_bytes{id="), "{text}");
    assert_eq!(get(&address, "/no/such/path").0, 404);
    let (_, _, script) = get(&address, "/version?jsonp=call");
    assert!(script.starts_with("call("), "{script}");
}

#[test]
fn statistics_follow_what_a_container_does() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    let script = "head -c 20000000 /dev/zero > /dev/shm/x; sleep 100";
    agent
        .cli(&[
            "run", "-d", "--name", "s", "--mem", "64MB", "--", "sh", "-c", script,
        ])
        .success();
    eventually("20 MB are counted", || {
        let sample = agent.cli(&["stats", "s", "-o", "json"]).json();
        (sample[0]["statistics"]["mem_total_bytes"].as_u64()? > 20_000_000).then_some(())
    });
}
