//! The shapes of a Mesos agent's old endpoints.
//!
//! Without a master there are no frameworks and executors, only containers. A tool that reads these
//! endpoints (a Prometheus exporter, a collectd plug-in) must not notice, so each container stands where
//! it looks for an executor:
//!
//! | field | value |
//! |---|---|
//! | `executor_id` | the container id: unique, never empty, fit for a label |
//! | `executor_name` | the container's name, or `""` |
//! | `framework_id` | `""`: no framework |
//! | `source` | the name, or the id when it has none: that by which such tools group series |
//!
//! In the metrics each container counts as one executor and as its one task. Fields that a host does
//! not measure are left out, as Mesos does; fields that Mesos does not have are added, its tools ignore
//! them. `/health` has no shape: Mesos answers 200 and nothing.

use model::{AgentInfo, Bytes, ContainerStatus, Fault, Usage};
use serde_json::{Map, Value, json};

/// One entry of `/monitor/statistics`, a list. A container that could not be measured is not in it.
pub fn statistics(status: &ContainerStatus, usage: &Usage) -> Value {
    let mut entry = executor(status);
    entry.insert("statistics".into(), resource_statistics(usage));
    Value::Object(entry)
}

/// One entry of `/containers`, a list. Without `statistics` when it could not be measured.
pub fn container(status: &ContainerStatus, usage: Option<&Usage>) -> Value {
    let mut entry = executor(status);
    entry.insert("container_id".into(), status.id.as_str().into());
    let mut inner = Map::new();
    inner.insert("container_id".into(), json!({ "value": status.id.as_str() }));
    if let Some(pid) = status.pid {
        inner.insert("executor_pid".into(), pid.into());
    }
    entry.insert("status".into(), Value::Object(inner));
    if let Some(usage) = usage {
        entry.insert("statistics".into(), resource_statistics(usage));
    }
    Value::Object(entry)
}

fn executor(status: &ContainerStatus) -> Map<String, Value> {
    let id = status.id.as_str();
    let name = status.name.as_ref().map(|name| name.as_str());
    let mut entry = Map::new();
    entry.insert("executor_id".into(), id.into());
    entry.insert("executor_name".into(), name.unwrap_or("").into());
    entry.insert("framework_id".into(), "".into());
    entry.insert("source".into(), name.unwrap_or(id).into());
    entry
}

/// Mesos' `ResourceStatistics`.
fn resource_statistics(usage: &Usage) -> Value {
    // Fails only for maps whose keys are not texts; a sample has none.
    serde_json::to_value(usage).unwrap_or_default()
}

/// `/version`. What is not known of the build is left out.
pub fn version(info: &AgentInfo) -> Value {
    Value::Object(build(info))
}

fn build(info: &AgentInfo) -> Map<String, Value> {
    let mut build = Map::new();
    build.insert("version".into(), info.version.as_str().into());
    for (key, value) in [("git_sha", &info.git_sha), ("build_date", &info.build_date)] {
        if !value.is_empty() {
            build.insert(key.into(), value.as_str().into());
        }
    }
    build
}

/// Of `/state` what holds without a master: who the agent is and what it has. The lists of frameworks are
/// there and empty.
pub fn state(info: &AgentInfo, hostname: &str, cpus: u32, memory: Bytes) -> Value {
    let mut state = build(info);
    let Value::Object(rest) = json!({
        "id": info.instance,
        // libprocess' name of an agent.
        "pid": format!("slave(1)@{}", info.http_address.as_deref().unwrap_or("127.0.0.1:0")),
        "hostname": hostname,
        "start_time": info.started_at_ms as f64 / 1000.0,
        // Mesos counts memory in megabytes.
        "resources": { "cpus": f64::from(cpus), "mem": (memory.get() >> 20) as f64 },
        "attributes": {},
        "flags": { "work_dir": info.work_dir, "runtime_dir": info.runtime_dir },
        "frameworks": [],
        "completed_frameworks": [],
    }) else {
        return Value::Object(state);
    };
    state.extend(rest);
    Value::Object(state)
}

/// `/metrics/snapshot`: one flat object, name to number.
pub fn metrics_snapshot(metrics: &[(String, f64)]) -> Value {
    Value::Object(
        metrics
            .iter()
            .map(|(name, value)| (name.clone(), Value::from(*value)))
            .collect(),
    )
}

/// Longest function name for [`jsonp`]: those that libraries make up have some thirty characters.
const JSONP_BYTES_MAX: usize = 128;

/// `?jsonp=NAME`: a call of a function in the asking page, to be sent as `text/javascript`. The name
/// becomes part of a script, so anything but a name is refused.
pub fn jsonp(function: &str, value: &Value) -> Result<String, Fault> {
    if function.is_empty() || function.len() > JSONP_BYTES_MAX {
        return Err(Fault::invalid(
            "jsonp",
            format!("must have 1 to {JSONP_BYTES_MAX} characters"),
        ));
    }
    match function
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '.')))
    {
        Some(bad) => {
            let message = format!("holds {bad:?}; letters, digits, '_', '$' and '.' are allowed");
            Err(Fault::invalid("jsonp", message))
        }
        None => Ok(format!("{function}({value});")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_functions_are_taken() {
        assert_eq!(jsonp("jQuery.cb_1", &json!([])).unwrap(), "jQuery.cb_1([]);");
        for bad in ["", "alert(1)//", "a b", "é", &"a".repeat(129)] {
            assert!(jsonp(bad, &json!([])).is_err(), "{bad:?}");
        }
    }
}
