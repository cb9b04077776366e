//! What an agent counts, under the names that Mesos' agent has for it: what [`crate::mesos::metrics_snapshot`]
//! prints.

use model::Bytes;

/// What an agent counts. Gauges are of this moment, counters since its start.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AgentMetrics {
    pub uptime_secs: f64,
    /// A master knows us.
    pub registered: bool,
    pub recovery_errors: u64,
    pub recovery_secs: Option<f64>,
    /// Containers on their way to running, running, on their way out.
    pub starting: u64,
    pub running: u64,
    pub ending: u64,
    /// Ended containers, by how: status 0, otherwise by themselves or by a limit, on request, unseen.
    pub finished: u64,
    pub failed: u64,
    pub killed: u64,
    pub lost: u64,
    pub launch_errors: u64,
    pub destroy_errors: u64,
    /// Sums of what the containers asked for.
    pub cpus_used: f64,
    pub mem_used: Bytes,
    pub host: HostMetrics,
}

/// The host's own figures; absent what could not be read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HostMetrics {
    pub cpus: u32,
    pub memory: Bytes,
    pub memory_free: Option<Bytes>,
    /// Over 1, 5 and 15 minutes.
    pub load: Option<[f64; 3]>,
}

/// Mesos' names with their values.
pub fn standard(metrics: &AgentMetrics) -> Vec<(String, f64)> {
    let mut all = Vec::new();
    let mut put = |name: &str, value: f64| all.push((name.to_owned(), value));
    put("slave/uptime_secs", metrics.uptime_secs);
    put("slave/registered", f64::from(u8::from(metrics.registered)));
    put("slave/recovery_errors", metrics.recovery_errors as f64);
    if let Some(secs) = metrics.recovery_secs {
        put("slave/recovery_time_secs", secs);
    }
    let ended = metrics.finished + metrics.failed + metrics.killed + metrics.lost;
    for (name, count) in [
        ("slave/executors_registering", metrics.starting),
        ("slave/executors_running", metrics.running),
        ("slave/executors_terminating", metrics.ending),
        ("slave/executors_terminated", ended),
        ("slave/executors_preempted", 0),
        ("slave/frameworks_active", 0),
        ("slave/tasks_starting", metrics.starting),
        ("slave/tasks_running", metrics.running),
        ("slave/tasks_killing", metrics.ending),
        ("slave/tasks_finished", metrics.finished),
        ("slave/tasks_failed", metrics.failed),
        ("slave/tasks_killed", metrics.killed),
        ("slave/tasks_lost", metrics.lost),
        ("slave/container_launch_errors", metrics.launch_errors),
        (
            "containerizer/mesos/container_destroy_errors",
            metrics.destroy_errors,
        ),
    ] {
        put(name, count as f64);
    }
    let host = &metrics.host;
    let cpus = f64::from(host.cpus);
    put("slave/cpus_total", cpus);
    put("slave/cpus_used", metrics.cpus_used);
    put("slave/cpus_percent", share(metrics.cpus_used, cpus));
    // Mesos counts memory as a resource in megabytes.
    put("slave/mem_total", megabytes(host.memory));
    put("slave/mem_used", megabytes(metrics.mem_used));
    put(
        "slave/mem_percent",
        share(metrics.mem_used.get() as f64, host.memory.get() as f64),
    );
    put("system/cpus_total", cpus);
    put("system/mem_total_bytes", host.memory.get() as f64);
    if let Some(free) = host.memory_free {
        put("system/mem_free_bytes", free.get() as f64);
    }
    if let Some([one, five, fifteen]) = host.load {
        put("system/load_1min", one);
        put("system/load_5min", five);
        put("system/load_15min", fifteen);
    }
    all
}

fn megabytes(bytes: Bytes) -> f64 {
    (bytes.get() >> 20) as f64
}

/// From 0 to 1, as Mesos' "percent" is; 0 of nothing.
fn share(used: f64, total: f64) -> f64 {
    if total > 0.0 { used / total } else { 0.0 }
}
