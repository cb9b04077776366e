//! A host with a handful of containers, for the tests of this folder.

use model::{ContainerState, ContainerStatus, Cpus, Limits, Network, Usage};

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
