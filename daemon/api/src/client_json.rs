//! What the command line prints with `-o json`. Scripts rely on it.
//!
//! - Times (`created_at`, `started_at`, `finished_at`, `at`) are numbers: seconds since the epoch, with
//!   milliseconds as the fraction. Spans and sizes carry the unit: `grace_secs`, `mem_bytes`.
//! - Ceilings are those in force: a number, or `null` when there is none. So `cpu_limit` is what the CPU
//!   quota is, whether it was asked for by that name or follows from `cpus`.
//! - A key that has no value now is `null` (or an empty list or object), never left out.
//! - Keys may be added.

use std::collections::BTreeMap;
use std::path::PathBuf;

use model::usage::PortSpan;
use model::{
    AgentInfo, BitsPerSecond, Bytes, ContainerState, ContainerStatus, ContainerUsage, Cpus, DeviceLimit,
    Event, EventKind, Fault, FaultKind, HostReport, IsolatorReport, LaunchSpec, Limit, Limitation, Limits,
    Millis, Network, Reason, Seccomp, TerminalSize, Usage,
};
use serde::{Deserialize, Serialize};

fn secs(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// One object of `ps -o json`; also what `run -d`, `wait` and `update` print.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Container {
    pub id: String,
    pub name: Option<String>,
    pub state: ContainerState,
    pub pid: Option<i32>,
    /// 0 to 255, once it has ended.
    pub exit_status: Option<i32>,
    /// The signal that ended the command.
    pub signal: Option<i32>,
    pub reason: Option<Reason>,
    pub message: Option<String>,
    /// What its end waits for, when that takes long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    pub created_at: f64,
    pub started_at: Option<f64>,
    pub finished_at: Option<f64>,
    pub command: Vec<String>,
    pub limits: ContainerLimits,
    /// Those that it may listen at.
    pub ports: Vec<u16>,
    /// Where its connections come from, both ends included; `null`: from the host's.
    #[serde(default)]
    pub ephemeral_ports: Option<PortSpan>,
    pub network: Network,
    pub labels: BTreeMap<String, String>,
    pub sandbox: Option<PathBuf>,
    pub terminal: bool,
    pub limitation: Option<ContainerLimitation>,
}

/// Ceilings and weights in force.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerLimits {
    pub cpus: Option<f64>,
    pub cpu_limit: Option<f64>,
    pub cpu_burst_secs: Option<f64>,
    pub mem_bytes: Option<u64>,
    pub mem_soft_bytes: Option<u64>,
    pub mem_high_bytes: Option<u64>,
    pub mem_min_bytes: Option<u64>,
    pub swap_bytes: Option<u64>,
    pub pids: Option<u32>,
    pub disk_bytes: Option<u64>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    pub io_weight: Option<u16>,
    pub io_devices: Vec<IoDevice>,
    pub egress_bits_per_sec: Option<u64>,
    pub ingress_bits_per_sec: Option<u64>,
    pub egress_burst_bytes: Option<u64>,
    pub ingress_burst_bytes: Option<u64>,
    pub egress_min_bits_per_sec: Option<u64>,
    pub ingress_min_bits_per_sec: Option<u64>,
    pub network_weight: Option<u32>,
}

/// Ceilings of one block device: bytes and operations a second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IoDevice {
    pub device: String,
    pub read_bytes_per_sec: Option<u64>,
    pub write_bytes_per_sec: Option<u64>,
    pub read_iops: Option<u64>,
    pub write_iops: Option<u64>,
}

/// The limit that ended a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerLimitation {
    pub reason: Reason,
    pub message: String,
    pub limit_bytes: Option<u64>,
    pub peak_bytes: Option<u64>,
    pub statistics: BTreeMap<String, u64>,
}

impl From<&Limits> for ContainerLimits {
    fn from(limits: &Limits) -> Self {
        let bytes = |limit: Option<Limit<Bytes>>| limit.and_then(Limit::value).map(Bytes::get);
        let bits = |rate: BitsPerSecond| rate.0;
        let bandwidth = &limits.bandwidth;
        Self {
            cpus: limits.cpus.map(Cpus::as_f64),
            cpu_limit: limits.cpu_ceiling().map(Cpus::as_f64),
            cpu_burst_secs: limits.cpu_burst.map(|Millis(ms)| secs(ms)),
            mem_bytes: bytes(limits.mem),
            mem_soft_bytes: limits.mem_soft.map(Bytes::get),
            mem_high_bytes: bytes(limits.mem_high),
            mem_min_bytes: limits.mem_min.map(Bytes::get),
            swap_bytes: bytes(limits.swap),
            pids: limits.pids.and_then(Limit::value),
            disk_bytes: bytes(limits.disk),
            cpuset_cpus: limits.cpuset_cpus.clone(),
            cpuset_mems: limits.cpuset_mems.clone(),
            io_weight: limits.io.weight,
            io_devices: limits.io.devices.iter().map(IoDevice::from).collect(),
            egress_bits_per_sec: bandwidth.egress_ceiling().map(bits),
            ingress_bits_per_sec: bandwidth.ingress_ceiling().map(bits),
            egress_burst_bytes: bandwidth.egress_burst.map(Bytes::get),
            ingress_burst_bytes: bandwidth.ingress_burst.map(Bytes::get),
            egress_min_bits_per_sec: bandwidth.egress_min.map(bits),
            ingress_min_bits_per_sec: bandwidth.ingress_min.map(bits),
            network_weight: bandwidth.weight,
        }
    }
}

impl From<&DeviceLimit> for IoDevice {
    fn from(limit: &DeviceLimit) -> Self {
        Self {
            device: limit.device.clone(),
            read_bytes_per_sec: limit.read_bps,
            write_bytes_per_sec: limit.write_bps,
            read_iops: limit.read_iops,
            write_iops: limit.write_iops,
        }
    }
}

impl From<&Limitation> for ContainerLimitation {
    fn from(limitation: &Limitation) -> Self {
        Self {
            reason: limitation.reason,
            message: limitation.message.clone(),
            limit_bytes: limitation.limit.map(Bytes::get),
            peak_bytes: limitation.peak.map(Bytes::get),
            statistics: limitation.statistics.clone(),
        }
    }
}

impl From<&ContainerStatus> for Container {
    fn from(status: &ContainerStatus) -> Self {
        let end = status.termination.as_ref();
        Self {
            id: status.id.to_string(),
            name: status.name.as_ref().map(ToString::to_string),
            state: status.state,
            pid: status.pid,
            exit_status: end.map(|end| end.exit_status),
            signal: end.and_then(|end| end.signal),
            reason: end.map(|end| end.reason),
            message: end.map(|end| end.message.clone()),
            waits_for: status.waits_for.clone(),
            created_at: secs(status.created_at_ms),
            started_at: status.started_at_ms.map(secs),
            finished_at: end.map(|end| secs(end.finished_at_ms)),
            command: status.command.clone(),
            limits: ContainerLimits::from(&status.limits),
            ports: status
                .grant
                .iter()
                .flat_map(|grant| grant.allotted.ports())
                .collect(),
            ephemeral_ports: status
                .grant
                .as_ref()
                .and_then(|grant| grant.ephemeral)
                .map(|range| PortSpan {
                    begin: range.first(),
                    end: range.last(),
                }),
            network: status.network,
            labels: status.labels.clone(),
            sandbox: status.sandbox.clone(),
            terminal: status.terminal,
            limitation: end
                .and_then(|end| end.limitation.as_ref())
                .map(ContainerLimitation::from),
        }
    }
}

/// One object of `inspect -o json`: that of `ps`, and more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    #[serde(flatten)]
    pub container: Container,
    pub spec: Spec,
    /// Paths, mechanisms, the plan: for people, not stable.
    pub detail: BTreeMap<String, String>,
}

impl Inspection {
    pub fn new(status: &ContainerStatus, spec: &LaunchSpec, detail: &[(String, String)]) -> Self {
        Self {
            container: status.into(),
            spec: spec.into(),
            detail: detail.iter().cloned().collect(),
        }
    }
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    pub command: Vec<String>,
    /// In order; a later one of the same name wins.
    pub env: Vec<Variable>,
    pub user: Option<String>,
    pub workdir: Option<PathBuf>,
    pub hostname: Option<String>,
    pub rootfs: Option<PathBuf>,
    pub volumes: Vec<model::Volume>,
    /// At the launch; the limits in force stand beside `spec`.
    pub limits: ContainerLimits,
    pub network: Network,
    pub capabilities: model::Capabilities,
    /// `null` is unlimited.
    pub rlimits: Vec<model::Rlimit>,
    pub seccomp: Seccomp,
    pub devices: Vec<model::DeviceRule>,
    pub terminal: Option<TerminalSize>,
    pub stdin: bool,
    pub remove: bool,
    pub timeout_secs: Option<f64>,
    pub grace_secs: f64,
    pub labels: BTreeMap<String, String>,
    pub output_file_bytes: u64,
    pub output_files: u32,
    /// `base` is the host's id of the container's root.
    pub userns: Option<model::UserNamespace>,
    /// As `--ports` takes it.
    #[serde(default)]
    pub ports: Option<String>,
}

/// A variable of the environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    pub name: String,
    pub value: String,
}

impl From<&LaunchSpec> for Spec {
    fn from(spec: &LaunchSpec) -> Self {
        let variable = |(name, value): &(String, String)| Variable {
            name: name.clone(),
            value: value.clone(),
        };
        Self {
            command: spec.command.clone(),
            env: spec.env.iter().map(variable).collect(),
            user: spec.user.clone(),
            workdir: spec.workdir.clone(),
            hostname: spec.hostname.clone(),
            rootfs: spec.rootfs.clone(),
            volumes: spec.volumes.clone(),
            limits: ContainerLimits::from(&spec.limits),
            network: spec.network,
            capabilities: spec.capabilities.clone(),
            rlimits: spec.rlimits.clone(),
            seccomp: spec.seccomp,
            devices: spec.devices.clone(),
            terminal: spec.terminal,
            stdin: spec.stdin,
            remove: spec.remove,
            timeout_secs: spec.timeout.map(|Millis(ms)| secs(ms)),
            grace_secs: secs(spec.grace.get()),
            labels: spec.labels.clone(),
            output_file_bytes: spec.output.file_bytes.get(),
            output_files: spec.output.files,
            userns: spec.userns,
            ports: spec.ports.as_ref().map(ToString::to_string),
        }
    }
}

/// One object of `stats -o json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    pub container_id: String,
    pub name: Option<String>,
    /// Mesos' `ResourceStatistics`: what is not measured is left out, as there.
    pub statistics: Usage,
}

impl From<&ContainerUsage> for Statistics {
    fn from(sample: &ContainerUsage) -> Self {
        Self {
            container_id: sample.id.to_string(),
            name: sample.name.as_ref().map(ToString::to_string),
            statistics: sample.usage.clone(),
        }
    }
}

/// One entry of `gc -o json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Removed {
    pub container_id: String,
    pub name: Option<String>,
    pub age_seconds: f64,
    pub bytes: u64,
    pub files: u64,
    pub directories: u64,
    /// Why it is still there.
    pub trouble: Option<String>,
}

impl From<&model::Removed> for Removed {
    fn from(removed: &model::Removed) -> Self {
        Self {
            container_id: removed.id.to_string(),
            name: removed.name.as_ref().map(ToString::to_string),
            age_seconds: secs(removed.age.get()),
            bytes: removed.bytes,
            files: removed.files,
            directories: removed.directories,
            trouble: removed.trouble.clone(),
        }
    }
}

/// One line of `events -o json`. `event` tells the kind, whose own fields stand beside it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventLine {
    pub sequence: u64,
    pub at: f64,
    pub container_id: String,
    pub name: Option<String>,
    #[serde(flatten)]
    pub kind: EventKind,
}

impl From<&Event> for EventLine {
    fn from(event: &Event) -> Self {
        Self {
            sequence: event.sequence,
            at: secs(event.at_ms),
            container_id: event.container.to_string(),
            name: event.name.as_ref().map(ToString::to_string),
            kind: event.kind.clone(),
        }
    }
}

/// `version -o json`: the agent's part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    pub version: String,
    pub git_sha: String,
    pub build_date: String,
    pub started_at: f64,
    pub pid: i32,
    pub instance: String,
    pub http_address: Option<String>,
    pub work_dir: String,
    pub runtime_dir: String,
}

impl From<&AgentInfo> for Agent {
    fn from(info: &AgentInfo) -> Self {
        Self {
            version: info.version.clone(),
            git_sha: info.git_sha.clone(),
            build_date: info.build_date.clone(),
            started_at: secs(info.started_at_ms),
            pid: info.pid,
            instance: info.instance.clone(),
            http_address: info.http_address.clone(),
            work_dir: info.work_dir.clone(),
            runtime_dir: info.runtime_dir.clone(),
        }
    }
}

/// `host -o json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    pub kernel_release: String,
    pub cgroup_layout: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    pub isolators: Vec<IsolatorReport>,
}

impl From<&HostReport> for Host {
    fn from(host: &HostReport) -> Self {
        Self {
            kernel_release: host.kernel_release.clone(),
            cgroup_layout: host.cgroup_layout.clone(),
            cpus: host.cpus,
            memory_bytes: host.memory.get(),
            isolators: host.isolators.clone(),
        }
    }
}

/// Why a command failed, on stderr with `-o json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FaultKind,
    pub field: Option<String>,
    pub message: String,
    pub remedy: Option<String>,
}

impl From<&Fault> for Failure {
    fn from(fault: &Fault) -> Self {
        Self {
            kind: fault.kind,
            field: fault.field.clone(),
            message: fault.message.clone(),
            remedy: fault.remedy.clone(),
        }
    }
}

/// Who leads a cluster.
#[derive(Debug, Serialize)]
pub struct Leader {
    pub id: String,
    pub address: String,
    pub hostname: String,
    pub version: String,
    pub term: u64,
    pub elected_at: f64,
}

impl From<&model::task::LeaderView> for Leader {
    fn from(leader: &model::task::LeaderView) -> Self {
        Self {
            id: leader.id.clone(),
            address: leader.address.clone(),
            hostname: leader.hostname.clone(),
            version: leader.version.clone(),
            term: leader.term,
            elected_at: leader.elected_at_ms as f64 / 1000.0,
        }
    }
}

/// What a task takes, or an agent has.
#[derive(Debug, Serialize)]
pub struct Amounts {
    pub cpus: f64,
    pub mem_bytes: u64,
    pub disk_bytes: u64,
    pub ports: u32,
}

impl From<model::task::Need> for Amounts {
    fn from(need: model::task::Need) -> Self {
        let bytes = |megabytes: model::resources::Scalar| (megabytes.milli() / 1000) << 20;
        Self {
            cpus: need.cpus.as_f64(),
            mem_bytes: bytes(need.mem),
            disk_bytes: bytes(need.disk),
            ports: need.ports,
        }
    }
}

/// An agent of a cluster.
#[derive(Debug, Serialize)]
pub struct ClusterAgent {
    pub id: String,
    pub hostname: String,
    pub address: String,
    pub state: &'static str,
    pub deactivated: bool,
    pub tasks: u32,
    pub total: Amounts,
    pub used: Amounts,
    pub attributes: String,
    pub version: String,
    pub registered_at: f64,
    pub reregistered_at: f64,
    pub since: u64,
}

impl From<&model::task::AgentView> for ClusterAgent {
    fn from(agent: &model::task::AgentView) -> Self {
        Self {
            id: agent.id.0.clone(),
            hostname: agent.record.hostname.clone(),
            address: agent.record.address.clone(),
            state: agent.state.as_str(),
            deactivated: agent.deactivated,
            tasks: agent.tasks,
            total: model::task::Need::all(&agent.record.resources).into(),
            used: agent.used.into(),
            attributes: agent.record.attributes.to_string(),
            version: agent.record.version.clone(),
            registered_at: agent.registered_at_ms as f64 / 1000.0,
            reregistered_at: agent.reregistered_at_ms as f64 / 1000.0,
            since: agent.since_s,
        }
    }
}

/// A task of a cluster.
#[derive(Debug, Serialize)]
pub struct Task {
    pub id: String,
    pub name: Option<String>,
    pub agent: String,
    pub hostname: String,
    pub state: &'static str,
    pub exit_status: Option<i32>,
    pub message: String,
    pub used: Amounts,
    pub statuses: Vec<TaskStatus>,
}

#[derive(Debug, Serialize)]
pub struct TaskStatus {
    pub state: &'static str,
    pub at: f64,
    pub message: String,
    pub exit_status: Option<i32>,
}

impl From<&model::task::TaskView> for Task {
    fn from(task: &model::task::TaskView) -> Self {
        let last = task.status();
        let statuses = task.statuses.iter().map(|status| TaskStatus {
            state: status.state.as_str(),
            at: status.at_ms as f64 / 1000.0,
            message: status.message.clone(),
            exit_status: status.exit_status,
        });
        Self {
            id: task.id.as_str().to_owned(),
            name: task.name.as_ref().map(ToString::to_string),
            agent: task.agent.0.clone(),
            hostname: task.hostname.clone(),
            state: last.map_or("staging", |status| status.state.as_str()),
            exit_status: last.and_then(|status| status.exit_status),
            message: last.map(|status| status.message.clone()).unwrap_or_default(),
            used: task.need.into(),
            statuses: statuses.collect(),
        }
    }
}
