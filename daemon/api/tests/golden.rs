//! The shapes that others rely on, compared with files: whoever changes one changes it here, knowingly.

use std::collections::BTreeMap;

use api::client_json::{Container, EventLine, Failure, Inspection, Statistics};
use api::mesos;
use api::metrics::{AgentMetrics, HostMetrics, standard};
use model::*;
use serde::Serialize;

fn assert_golden(value: &impl Serialize, file: &str, expected: &str) {
    let printed = serde_json::to_string_pretty(value).unwrap();
    if printed.trim_end() != expected.trim_end() {
        panic!("tests/golden/{file} has\n{expected}\nbut the program prints\n{printed}");
    }
}

macro_rules! golden {
    ($value:expr, $file:literal) => {
        assert_golden($value, $file, include_str!(concat!("golden/", $file)))
    };
}

fn limits() -> Limits {
    Limits {
        cpus: Some(Cpus::from_milli(500)),
        cpu_limit: Some(Limit::Value(Cpus::from_milli(1500))),
        mem: Some(Limit::Value(Bytes::mib(64))),
        pids: Some(Limit::Max),
        io: IoLimits {
            weight: None,
            devices: vec![DeviceLimit {
                device: "/dev/vda".into(),
                read_bps: Some(1 << 20),
                ..DeviceLimit::default()
            }],
        },
        ..Limits::default()
    }
}

fn running() -> ContainerStatus {
    ContainerStatus {
        id: "c0ffee01".parse().unwrap(),
        name: Some("web".parse().unwrap()),
        state: ContainerState::Running,
        pid: Some(4711),
        command: vec!["httpd".into(), "-f".into()],
        limits: limits(),
        network: Network::Host,
        grant: None,
        labels: BTreeMap::from([("tier".into(), "front".into())]),
        created_at_ms: 1_800_000_000_250,
        started_at_ms: Some(1_800_000_000_500),
        sandbox: Some("/var/lib/bulkhead/sandboxes/c0ffee01".into()),
        terminal: false,
        waits_for: None,
        termination: None,
    }
}

fn ended() -> ContainerStatus {
    ContainerStatus {
        id: "c0ffee02".parse().unwrap(),
        name: None,
        state: ContainerState::Destroyed,
        pid: None,
        command: vec!["eat".into()],
        limits: Limits {
            cpus: Some(Cpus::from_milli(1000)),
            ..Limits::default()
        },
        waits_for: None,
        termination: Some(Termination {
            exit_status: 137,
            signal: Some(9),
            reason: Reason::MemoryLimit,
            message: "memory limit of 64MB reached".into(),
            limitation: Some(Limitation {
                reason: Reason::MemoryLimit,
                message: "memory limit of 64MB reached".into(),
                limit: Some(Bytes::mib(64)),
                peak: Some(Bytes::mib(64)),
                statistics: BTreeMap::from([("rss".into(), 67_108_864)]),
            }),
            finished_at_ms: 1_800_000_002_000,
        }),
        ..running()
    }
}

fn usage() -> Usage {
    Usage {
        timestamp: 1_800_000_001.5,
        processes: Some(3),
        threads: Some(5),
        cpus_user_time_secs: Some(1.25),
        cpus_system_time_secs: Some(0.5),
        cpus_limit: Some(1.5),
        mem_limit_bytes: Some(64 << 20),
        mem_rss_bytes: Some(1 << 20),
        mem_peak_bytes: Some(2 << 20),
        ..Usage::default()
    }
}

fn samples() -> Vec<ContainerUsage> {
    vec![
        ContainerUsage {
            id: "c0ffee01".parse().unwrap(),
            name: Some("web".parse().unwrap()),
            usage: usage(),
        },
        ContainerUsage {
            id: "c0ffee03".parse().unwrap(),
            name: None,
            usage: Usage {
                timestamp: 1_800_000_001.5,
                ..Usage::default()
            },
        },
    ]
}

fn info() -> AgentInfo {
    AgentInfo {
        version: "0.1.0".into(),
        git_sha: "4d8d1cd".into(),
        build_date: "2026-11-21 08:00:00".into(),
        started_at_ms: 1_800_000_000_000,
        pid: 100,
        instance: "default".into(),
        http_address: Some("127.0.0.1:5051".into()),
        work_dir: "/var/lib/bulkhead".into(),
        runtime_dir: "/run/bulkhead".into(),
    }
}

#[test]
fn monitor_statistics() {
    let unnamed = ContainerStatus {
        id: "c0ffee03".parse().unwrap(),
        name: None,
        ..running()
    };
    let empty = Usage {
        timestamp: 1_800_000_001.5,
        ..Usage::default()
    };
    let entries = [
        mesos::statistics(&running(), &usage()),
        mesos::statistics(&unnamed, &empty),
    ];
    golden!(&entries, "monitor_statistics.json");
}

#[test]
fn containers() {
    let unmeasured = ContainerStatus {
        id: "c0ffee04".parse().unwrap(),
        name: None,
        pid: None,
        ..running()
    };
    let entries = [
        mesos::container(&running(), Some(&usage())),
        mesos::container(&unmeasured, None),
    ];
    golden!(&entries, "containers.json");
}

#[test]
fn version() {
    golden!(&mesos::version(&info()), "version.json");
    let unknown = AgentInfo {
        version: "1".into(),
        ..AgentInfo::default()
    };
    assert_eq!(mesos::version(&unknown), serde_json::json!({ "version": "1" }));
}

#[test]
fn agent_state() {
    golden!(&mesos::state(&info(), "host1", 4, Bytes::gib(8)), "state.json");
}

#[test]
fn metrics_snapshot() {
    let metrics = AgentMetrics {
        uptime_secs: 12.5,
        starting: 1,
        running: 2,
        finished: 3,
        failed: 1,
        cpus_used: 1.0,
        mem_used: Bytes::gib(2),
        recovery_secs: Some(0.05),
        host: HostMetrics {
            cpus: 4,
            memory: Bytes::gib(8),
            memory_free: Some(Bytes::gib(1)),
            load: Some([0.5, 0.25, 0.125]),
        },
        ..AgentMetrics::default()
    };
    let mut all = standard(&metrics);
    all.push(("bulkhead/connections".into(), 7.0));
    golden!(&mesos::metrics_snapshot(&all), "metrics_snapshot.json");
}

#[test]
fn ps() {
    let list: Vec<Container> = [running(), ended()].iter().map(Container::from).collect();
    golden!(&list, "ps.json");
}

#[test]
fn inspect() {
    let spec = LaunchSpec {
        command: vec!["httpd".into(), "-f".into()],
        env: vec![("PORT".into(), "80".into())],
        volumes: vec![Volume {
            source: "/srv".into(),
            target: "/data".into(),
            read_only: true,
        }],
        limits: limits(),
        rlimits: vec![Rlimit {
            name: "nofile".into(),
            soft: Some(1024),
            hard: None,
        }],
        terminal: Some(TerminalSize {
            rows: 24,
            columns: 80,
        }),
        timeout: Some(Millis(1500)),
        ..LaunchSpec::default()
    };
    let detail = [("cgroup".to_owned(), "bulkhead/c0ffee01".to_owned())];
    golden!(&Inspection::new(&running(), &spec, &detail), "inspect.json");
}

#[test]
fn stats() {
    let list: Vec<Statistics> = samples().iter().map(Statistics::from).collect();
    golden!(&list, "stats.json");
}

#[test]
fn events() {
    let kinds = [
        EventKind::State {
            state: ContainerState::Running,
        },
        EventKind::Ended {
            exit_status: 0,
            reason: Reason::Exited,
            message: "exited with status 0".into(),
        },
        EventKind::LimitHit {
            message: "memory".into(),
        },
        EventKind::Updated,
        EventKind::Exec {
            command: vec!["sh".into()],
        },
        EventKind::CleanupRetry {
            attempt: 2,
            message: "cgroup is busy".into(),
        },
        EventKind::SandboxRemoved {
            bytes: 4096,
            files: 1,
        },
    ];
    let lines: Vec<EventLine> = kinds
        .into_iter()
        .zip(1..)
        .map(|(kind, sequence)| Event {
            sequence,
            at_ms: 1_800_000_000_000 + sequence,
            container: "c0ffee01".parse().unwrap(),
            name: None,
            kind,
        })
        .map(|event| EventLine::from(&event))
        .collect();
    golden!(&lines, "events.json");
}

#[test]
fn failures() {
    golden!(
        &Failure::from(&Fault::unsupported("limits.cpu_burst", "needs cpu.max.burst").remedy("kernel 5.14")),
        "failure.json"
    );
}

/// What is printed can be read back by the same types.
#[test]
fn shapes_read_back() {
    let container = Container::from(&ended());
    let text = serde_json::to_string(&container).unwrap();
    assert_eq!(serde_json::from_str::<Container>(&text).unwrap(), container);
}
