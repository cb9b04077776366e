//! What the agent counts of itself, under Mesos' names where Mesos has one.

use std::cell::Cell;

use model::{Event, EventKind, Reason};

use crate::shell::Shell;

#[derive(Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    pub fn increment(&self) {
        self.0.set(self.0.get() + 1);
    }
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

#[derive(Default)]
pub struct AgentMetrics {
    pub launched: Counter,
    pub launch_failures: Counter,
    pub ended: Counter,
    pub memory_limit_kills: Counter,
    pub disk_limit_kills: Counter,
    pub cleanup_retries: Counter,
    pub removals_succeeded: Counter,
    pub removals_failed: Counter,
    pub connections: Counter,
    pub calls: Counter,
    pub http_requests: Counter,
    /// A master has let us in.
    pub registered: Cell<bool>,
}

impl AgentMetrics {
    pub fn event(&self, event: &Event) {
        match &event.kind {
            EventKind::State {
                state: model::ContainerState::Running,
            } => self.launched.increment(),
            EventKind::Ended { reason, .. } => {
                self.ended.increment();
                match reason {
                    Reason::LaunchFailed => self.launch_failures.increment(),
                    Reason::MemoryLimit => self.memory_limit_kills.increment(),
                    Reason::DiskLimit => self.disk_limit_kills.increment(),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

/// All of them with their present values.
pub fn snapshot(shell: &Shell) -> Vec<(String, f64)> {
    let m = &shell.metrics;
    let core = shell.core();
    let uptime = net::wall_ms().saturating_sub(shell.started_at_ms) as f64 / 1000.0;
    let running = core
        .list(false)
        .filter(|s| s.state == model::ContainerState::Running)
        .count() as f64;
    let event_loop = net::statistics();
    let load = kernel::system::load_average().unwrap_or([0.0; 3]);
    let count = |c: &Counter| c.get() as f64;
    let mut all = vec![
        ("slave/uptime_secs", uptime),
        ("slave/registered", f64::from(u8::from(m.registered.get()))),
        ("slave/executors_running", running),
        ("slave/tasks_running", running),
        ("slave/container_launch_errors", count(&m.launch_failures)),
        (
            "containerizer/mesos/container_destroy_errors",
            count(&m.cleanup_retries),
        ),
        ("gc/path_removals_succeeded", count(&m.removals_succeeded)),
        ("gc/path_removals_failed", count(&m.removals_failed)),
        ("gc/path_removals_pending", core.leftover_count() as f64),
        ("system/cpus_total", f64::from(shell.host.cpus)),
        ("system/load_1min", load[0]),
        ("system/load_5min", load[1]),
        ("system/load_15min", load[2]),
        ("system/mem_total_bytes", shell.host.memory.get() as f64),
        ("bulkhead/containers", core.living() as f64),
        ("bulkhead/containers_running", running),
        ("bulkhead/containers_launched", count(&m.launched)),
        ("bulkhead/containers_ended", count(&m.ended)),
        ("bulkhead/memory_limit_kills", count(&m.memory_limit_kills)),
        ("bulkhead/disk_limit_kills", count(&m.disk_limit_kills)),
        ("bulkhead/rpc_connections", count(&m.connections)),
        ("bulkhead/rpc_calls", count(&m.calls)),
        ("bulkhead/http_requests", count(&m.http_requests)),
        ("bulkhead/event_loop_turns", event_loop.turns as f64),
        ("bulkhead/event_loop_stalls", event_loop.stalls as f64),
        (
            "bulkhead/event_loop_longest_turn_ms",
            event_loop.longest_turn.as_secs_f64() * 1e3,
        ),
        ("bulkhead/network_pool", shell.networks.len() as f64),
    ];
    if let Some(free) = kernel::system::memory_available() {
        all.push(("system/mem_free_bytes", free.get() as f64));
    }
    all.into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
