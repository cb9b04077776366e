//! A host with a handful of containers, for the tests of this folder.

use model::{Bandwidth, BitsPerSecond, ContainerState, ContainerStatus, Cpus, Limit, Limits, Network, Usage};

use super::state::{Host, TopState};

struct Sample {
    name: Option<&'static str>,
    command: &'static [&'static str],
    cpus_milli: Option<u32>,
    /// CPU seconds used in one second, at its highest.
    cpu: f64,
    memory_mb: u64,
    memory_limit_mb: Option<u64>,
    threads: u32,
    throttled: u64,
    oom_kills: u64,
}

const SAMPLES: [Sample; 6] = [
    Sample {
        name: Some("web-frontend"),
        command: &["nginx", "-g", "daemon off;"],
        cpus_milli: Some(500),
        cpu: 0.49,
        memory_mb: 48,
        memory_limit_mb: Some(64),
        threads: 5,
        throttled: 7,
        oom_kills: 0,
    },
    Sample {
        name: Some("database"),
        command: &["postgres", "-D", "/data"],
        cpus_milli: Some(2000),
        cpu: 0.82,
        memory_mb: 1945,
        memory_limit_mb: Some(2048),
        threads: 34,
        throttled: 0,
        oom_kills: 0,
    },
    Sample {
        name: Some("a-rather-long-name-for-a-batch-job"),
        command: &["sh", "-c", "while true; do make test; done"],
        cpus_milli: None,
        cpu: 1.37,
        memory_mb: 310,
        memory_limit_mb: None,
        threads: 121,
        throttled: 0,
        oom_kills: 3,
    },
    Sample {
        name: None,
        command: &["sleep", "1000"],
        cpus_milli: Some(100),
        cpu: 0.0,
        memory_mb: 1,
        memory_limit_mb: Some(16),
        threads: 1,
        throttled: 0,
        oom_kills: 0,
    },
    Sample {
        name: Some("web-2"),
        command: &["httpd"],
        cpus_milli: Some(250),
        cpu: 0.06,
        memory_mb: 22,
        memory_limit_mb: Some(64),
        threads: 12,
        throttled: 1,
        oom_kills: 0,
    },
    Sample {
        name: Some("cache"),
        command: &["memcached", "-m", "256"],
        cpus_milli: Some(1000),
        cpu: 0.11,
        memory_mb: 224,
        memory_limit_mb: Some(256),
        threads: 8,
        throttled: 0,
        oom_kills: 0,
    },
];

/// The end of the sample, in milliseconds since the epoch.
const NOW_MS: u64 = 1_795_248_154_000;
const SECONDS: u64 = 120;

fn status(index: usize, sample: &Sample) -> ContainerStatus {
    ContainerStatus {
        id: format!("{:032x}", 0x3f2a_9c41_u128 + ((index as u128 + 1) << 100))
            .parse()
            .unwrap(),
        name: sample.name.map(|name| name.parse().unwrap()),
        state: ContainerState::Running,
        pid: Some(4000 + index as i32),
        command: sample.command.iter().map(|&word| word.to_owned()).collect(),
        limits: Limits {
            cpus: sample.cpus_milli.map(Cpus::from_milli),
            bandwidth: Bandwidth {
                egress: (index == 0).then_some(Limit::Value(BitsPerSecond(100_000_000))),
                ..Bandwidth::default()
            },
            ..Limits::default()
        },
        network: Network::Host,
        grant: None,
        labels: Default::default(),
        created_at_ms: NOW_MS,
        started_at_ms: Some(NOW_MS - 40_000 * (1 << (2 * index))),
        sandbox: None,
        terminal: false,
        waits_for: None,
        termination: None,
    }
}

fn usage(index: usize, sample: &Sample, second: u64) -> Usage {
    let t = second as f64;
    // A wave of a minute, so that the charts have something to show.
    let phase = index as f64;
    let wave = |t: f64| sample.cpu * (t - (t / 9.5 + phase).sin() * 6.0) * 0.72;
    let swing = 0.75 + 0.25 * (t / 25.0 + phase).sin();
    Usage {
        timestamp: (NOW_MS / 1000 - SECONDS + second) as f64,
        threads: Some(sample.threads + (second / 10 % 4) as u32),
        cpus_user_time_secs: Some(wave(t)),
        cpus_system_time_secs: Some(0.0),
        cpus_nr_periods: Some(10 * second),
        cpus_nr_throttled: Some(sample.throttled * second),
        mem_total_bytes: Some((sample.memory_mb as f64 * swing * 1_048_576.0) as u64),
        mem_limit_bytes: sample.memory_limit_mb.map(|mb| mb << 20),
        mem_peak_bytes: Some(sample.memory_mb << 20),
        mem_limit_hits: Some(sample.oom_kills * 5),
        mem_oom_kills: Some(sample.oom_kills),
        pids_limit: Some(128),
        pids_refused: Some(0),
        io_read_bytes: Some(second * 40_960 * index as u64),
        io_write_bytes: Some(second * 1_200_000 * index as u64),
        disk_used_bytes: Some((index as u64 + 1) << 25),
        disk_limit_bytes: (index == 1).then_some(1 << 30),
        ..network(index, second)
    }
}

/// The last one has no network of its own that anybody counts.
fn network(index: usize, second: u64) -> Usage {
    if index == 5 {
        return Usage::default();
    }
    let part = 5 - index as u64;
    // A slope, so that the charts have something to show.
    let moved = second * second * part * part;
    Usage {
        net_rx_bytes: Some(moved * 9_000),
        net_tx_bytes: Some(moved * 40_000),
        net_rx_packets: Some(moved * 11),
        net_tx_packets: Some(moved * 31),
        net_rx_dropped: Some(0),
        net_tx_dropped: Some(if index == 0 { second * 12 } else { 0 }),
        net_tx_limited_bytes: (index == 0).then_some(moved * 10_000),
        net_tx_queue_delay_microsecs: (index == 0).then_some(4_200),
        net_tcp_active_connections: Some(3.0 * part as f64),
        net_tcp_time_wait_connections: Some(7.0),
        net_tcp_rtt_microsecs_p50: Some(180.0 * part as f64),
        net_tcp_rtt_microsecs_p90: Some(900.0),
        net_tcp_rtt_microsecs_p95: Some(2_100.0),
        net_tcp_rtt_microsecs_p99: Some(23_000.0),
        net_tcp_retransmits: Some(second / 4 * part),
        net_drops: (index == 0)
            .then(|| ("source_port".to_owned(), second * 12))
            .into_iter()
            .collect(),
        ..Usage::default()
    }
}

pub(crate) fn state(colour: bool) -> TopState {
    let host = Host {
        cpus: 4,
        memory_bytes: 16 << 30,
        kernel: "6.18.0".into(),
        agent_version: "0.1.0".into(),
        instance: "default".into(),
    };
    let mut state = TopState::new(host, colour);
    state.take_containers(
        SAMPLES
            .iter()
            .enumerate()
            .map(|(index, sample)| status(index, sample))
            .collect(),
    );
    for second in 0..=SECONDS {
        let samples = SAMPLES
            .iter()
            .enumerate()
            .map(|(index, sample)| (status(index, sample).id.to_string(), usage(index, sample, second)))
            .collect();
        state.take_samples(NOW_MS - (SECONDS - second) * 1000, samples);
    }
    state
}
