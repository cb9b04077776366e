//! The shapes of a Mesos master's old endpoints, and its metrics.
//!
//! Schedulers are not served: tasks that people launch stand in one framework, [`FRAMEWORK`], where tools look for them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use model::MasterInfo;
use model::resources::{AttributeValue, Attributes};
use model::task::{AgentState, AgentView, LeaderView, Need, TaskState, TaskStatus, TaskView};
use serde_json::{Map, Value, json};

/// Id and name of the framework that people's tasks are in.
pub const FRAMEWORK: &str = "bulkhead";

/// Who answers.
pub struct Standing<'a> {
    pub info: &'a MasterInfo,
    pub cluster: Option<&'a str>,
    pub started_at_ms: u64,
    pub leader: &'a LeaderView,
}

pub fn version(version: &str, started_at_ms: u64) -> Value {
    json!({ "version": version, "start_time": seconds(started_at_ms) })
}

/// `/state`.
pub fn state(standing: &Standing<'_>, agents: &[AgentView], tasks: &[TaskView]) -> Value {
    let Standing {
        info,
        cluster,
        started_at_ms,
        leader,
    } = standing;
    let count = |wanted: AgentState| agents.iter().filter(|agent| agent.state == wanted).count();
    let mut state = json!({
        "version": info.version,
        "id": leader.id,
        "pid": info.pid(),
        "hostname": info.hostname,
        "start_time": seconds(*started_at_ms),
        "elected_time": seconds(leader.elected_at_ms),
        "capabilities": info.capabilities,
        "activated_slaves": count(AgentState::Active),
        "deactivated_slaves": count(AgentState::Disconnected),
        "unreachable_slaves": count(AgentState::Unreachable),
        "leader": info.pid(),
        "leader_info": { "id": info.id, "pid": info.pid(), "port": info.port, "hostname": info.hostname },
        "term": leader.term,
        "flags": {},
        "frameworks": [framework(tasks)],
        "completed_frameworks": [],
        "orphan_tasks": [],
        "unregistered_frameworks": [],
    });
    if let (Value::Object(all), Value::Object(more)) = (&mut state, slaves(agents)) {
        all.extend(more);
        if let Some(name) = cluster {
            all.insert("cluster".into(), (*name).into());
        }
    }
    state
}

/// `/slaves`, and the same keys of `/state`.
pub fn slaves(agents: &[AgentView]) -> Value {
    let recovered = |agent: &&AgentView| agent.state == AgentState::Recovered;
    let known = agents
        .iter()
        .filter(|agent| matches!(agent.state, AgentState::Active | AgentState::Disconnected));
    json!({
        "slaves": known.map(slave).collect::<Vec<_>>(),
        "recovered_slaves": agents.iter().filter(recovered).map(slave).collect::<Vec<_>>(),
    })
}

fn slave(agent: &AgentView) -> Value {
    let record = &agent.record;
    let total = Need::all(&record.resources);
    let host_port = record.address.rsplit_once(':');
    let mut slave = json!({
        "id": agent.id.0,
        "hostname": record.hostname,
        "port": host_port.and_then(|(_, port)| port.parse::<u16>().ok()).unwrap_or(0),
        "pid": format!("slave(1)@{}", record.address),
        "attributes": attributes(&record.attributes),
        "registered_time": seconds(agent.registered_at_ms),
        "resources": resources(total, Some(&record.resources.ports().to_string())),
        "used_resources": resources(agent.used, None),
        "offered_resources": resources(Need::default(), None),
        "reserved_resources": {},
        "unreserved_resources": resources(total, Some(&record.resources.ports().to_string())),
        "active": agent.state == AgentState::Active && !agent.deactivated,
        "deactivated": agent.deactivated,
        "version": record.version,
        "capabilities": record.capabilities,
    });
    if let (Some(object), true) = (slave.as_object_mut(), agent.reregistered_at_ms > 0) {
        object.insert(
            "reregistered_time".into(),
            seconds(agent.reregistered_at_ms).into(),
        );
    }
    slave
}

fn attributes(attributes: &Attributes) -> Value {
    let pairs = attributes.0.iter().map(|attribute| {
        let value = match &attribute.value {
            AttributeValue::Scalar(scalar) => scalar.as_f64().into(),
            AttributeValue::Ranges(ranges) => ranges.to_string().into(),
            AttributeValue::Text(text) => text.as_str().into(),
        };
        (attribute.name.clone(), value)
    });
    Value::Object(pairs.collect())
}

/// Four scalars are always there.
fn resources(need: Need, ports: Option<&str>) -> Value {
    let mut all = Map::new();
    for (name, amount) in [("cpus", need.cpus), ("mem", need.mem), ("disk", need.disk)] {
        all.insert(name.into(), amount.as_f64().into());
    }
    all.insert("gpus".into(), 0.0.into());
    match ports {
        Some(ports) if ports.len() > 2 => drop(all.insert("ports".into(), ports.into())),
        None if need.ports > 0 => drop(all.insert("ports_count".into(), need.ports.into())),
        _ => {}
    }
    Value::Object(all)
}

fn framework(tasks: &[TaskView]) -> Value {
    let of = |keep: fn(TaskState) -> bool| {
        let state = |task: &&TaskView| task.status().is_some_and(|status| keep(status.state));
        tasks.iter().filter(state).map(task).collect::<Vec<_>>()
    };
    let used = tasks
        .iter()
        .filter(|task| {
            task.status()
                .is_some_and(|status| !status.state.is_terminal() && status.state != TaskState::Unreachable)
        })
        .fold(Need::default(), |sum, task| sum.plus(task.need));
    json!({
        "id": FRAMEWORK,
        "name": FRAMEWORK,
        "active": true,
        "connected": true,
        "recovered": false,
        "role": "*",
        "used_resources": resources(used, None),
        "offered_resources": resources(Need::default(), None),
        "capabilities": ["PARTITION_AWARE"],
        "tasks": of(|state| !state.is_terminal() && state != TaskState::Unreachable),
        "unreachable_tasks": of(|state| state == TaskState::Unreachable),
        "completed_tasks": of(TaskState::is_terminal),
        "offers": [],
        "executors": [],
    })
}

/// `/tasks`.
pub fn tasks(tasks: &[TaskView]) -> Value {
    json!({ "tasks": tasks.iter().map(task).collect::<Vec<_>>() })
}

fn task(view: &TaskView) -> Value {
    let id = view.id.as_str();
    json!({
        "id": id,
        "name": view.name.as_ref().map_or(id, |name| name.as_str()),
        "framework_id": FRAMEWORK,
        "executor_id": "",
        "slave_id": view.agent.0,
        "state": view.status().map_or("TASK_STAGING".to_owned(), |status| mesos_state(status.state)),
        "resources": resources(view.need, None),
        "role": "*",
        "statuses": view.statuses.iter().map(status).collect::<Vec<_>>(),
    })
}

fn status(status: &TaskStatus) -> Value {
    let mut value = json!({ "state": mesos_state(status.state), "timestamp": seconds(status.at_ms) });
    if let Some(object) = value.as_object_mut() {
        if !status.message.is_empty() {
            object.insert("message".into(), status.message.as_str().into());
        }
        if let Some(exit_status) = status.exit_status {
            object.insert("exit_status".into(), exit_status.into());
        }
    }
    value
}

fn mesos_state(state: TaskState) -> String {
    format!("TASK_{}", state.as_str().to_uppercase())
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// What a leader counts.
pub struct CoreMetrics {
    pub agents: BTreeMap<AgentState, usize>,
    pub tasks: BTreeMap<TaskState, usize>,
    /// Since it leads.
    pub ended: BTreeMap<TaskState, u64>,
    pub used: Need,
    pub total: Need,
    /// Under Mesos' names.
    pub counters: Vec<(&'static str, u64)>,
}

pub struct RegistrarMetrics {
    pub queued: usize,
    pub stores: u64,
    pub last_store: Duration,
    pub longest_store: Duration,
    pub fetch: Duration,
}

/// Mesos' names with their values, and whether it only grows.
pub fn metrics(
    uptime_secs: f64,
    core: Option<&CoreMetrics>,
    registrar: Option<&RegistrarMetrics>,
) -> Vec<(String, f64, bool)> {
    let mut all = Vec::new();
    let mut put = |name: &str, value: f64, grows: bool| all.push((name.to_owned(), value, grows));
    put("master/elected", f64::from(u8::from(core.is_some())), false);
    put("master/uptime_secs", uptime_secs, false);
    if let Some(core) = core {
        let agents = |state| core.agents.get(&state).copied().unwrap_or(0) as f64;
        put("master/slaves_connected", agents(AgentState::Active), false);
        put(
            "master/slaves_disconnected",
            agents(AgentState::Disconnected),
            false,
        );
        put("master/slaves_active", agents(AgentState::Active), false);
        put("master/slaves_inactive", agents(AgentState::Disconnected), false);
        put(
            "master/slaves_unreachable",
            agents(AgentState::Unreachable),
            false,
        );
        put("master/slaves_recovered", agents(AgentState::Recovered), false);
        for state in TaskState::ALL {
            let name = format!("master/tasks_{}", state.as_str());
            let (value, grows) = match state.is_terminal() {
                true => (core.ended.get(&state).copied().unwrap_or(0) as f64, true),
                false => (core.tasks.get(&state).copied().unwrap_or(0) as f64, false),
            };
            put(&name, value, grows);
        }
        for (name, used, total) in [
            ("cpus", core.used.cpus, core.total.cpus),
            ("mem", core.used.mem, core.total.mem),
            ("disk", core.used.disk, core.total.disk),
        ] {
            let share = if total.is_zero() {
                0.0
            } else {
                used.as_f64() / total.as_f64()
            };
            put(&format!("master/{name}_total"), total.as_f64(), false);
            put(&format!("master/{name}_used"), used.as_f64(), false);
            put(&format!("master/{name}_percent"), share, false);
        }
        for (name, value) in &core.counters {
            put(name, *value as f64, true);
        }
    }
    if let Some(registrar) = registrar {
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        put("registrar/queued_operations", registrar.queued as f64, false);
        put("registrar/state_store_ms", ms(registrar.last_store), false);
        put("registrar/state_store_ms/count", registrar.stores as f64, true);
        put("registrar/state_store_ms/max", ms(registrar.longest_store), false);
        put("registrar/state_fetch_ms", ms(registrar.fetch), false);
        put("registrar/log/recovered", 1.0, false);
    }
    all
}

/// `/metrics/snapshot`.
pub fn snapshot(metrics: &[(String, f64, bool)]) -> Value {
    let pairs = metrics
        .iter()
        .map(|(name, value, _)| (name.clone(), Value::from(*value)));
    Value::Object(pairs.collect())
}

/// `/metrics`: the same in Prometheus' words.
pub fn prometheus(metrics: &[(String, f64, bool)]) -> String {
    let mut text = String::new();
    for (name, value, grows) in metrics {
        let name: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        let (ending, kind) = if *grows {
            ("_total", "counter")
        } else {
            ("", "gauge")
        };
        // Writing into a String does not fail.
        let _ = writeln!(
            text,
            "# TYPE bulkhead_{name}{ending} {kind}\nbulkhead_{name}{ending} {value}"
        );
    }
    text
}
