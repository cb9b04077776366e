//! `/monitor/statistics` and `/containers`, as Mesos' agent answers them.

use model::{ContainerStatus, ContainerUsage, Usage};
use serde::Serialize;

/// One entry of `/monitor/statistics`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Statistics<'a> {
    pub executor_id: &'a str,
    pub executor_name: &'a str,
    pub framework_id: &'a str,
    pub source: &'a str,
    pub statistics: &'a Usage,
}

/// One entry of `/containers`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Container<'a> {
    pub container_id: &'a str,
    pub executor_id: &'a str,
    pub executor_name: &'a str,
    pub framework_id: &'a str,
    pub source: &'a str,
    pub status: Status<'a>,
    /// Left out when the container could not be measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statistics: Option<&'a Usage>,
}

/// Mesos' `ContainerStatus`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status<'a> {
    pub container_id: Value<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executor_pid: Option<i32>,
}

/// How protobuf wraps an id.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Value<'a> {
    pub value: &'a str,
}

/// The body of `/monitor/statistics`: containers that could not be measured are not in it.
pub fn statistics(samples: &[ContainerUsage]) -> Vec<Statistics<'_>> {
    samples
        .iter()
        .map(|sample| {
            let id = sample.id.as_str();
            let name = sample.name.as_ref().map(|name| name.as_str());
            Statistics {
                executor_id: id,
                executor_name: name.unwrap_or(""),
                framework_id: "",
                source: name.unwrap_or(id),
                statistics: &sample.usage,
            }
        })
        .collect()
}

/// The body of `/containers`: those that are not over, each with its sample if there is one.
pub fn containers<'a>(
    containers: impl IntoIterator<Item = (&'a ContainerStatus, Option<&'a Usage>)>,
) -> Vec<Container<'a>> {
    containers
        .into_iter()
        .filter(|(status, _)| !status.state.is_over())
        .map(|(status, statistics)| {
            let id = status.id.as_str();
            let name = status.name.as_ref().map(|name| name.as_str());
            Container {
                container_id: id,
                executor_id: id,
                executor_name: name.unwrap_or(""),
                framework_id: "",
                source: name.unwrap_or(id),
                status: Status {
                    container_id: Value { value: id },
                    executor_pid: status.pid,
                },
                statistics,
            }
        })
        .collect()
}
