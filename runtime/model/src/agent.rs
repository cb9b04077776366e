//! What an agent says of itself and of its host.

use serde::{Deserialize, Serialize};

use crate::units::Bytes;

/// A running agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentInfo {
    pub version: String,
    pub git_sha: String,
    pub build_date: String,
    /// Milliseconds since the epoch.
    pub started_at_ms: u64,
    pub pid: i32,
    pub instance: String,
    /// Where it serves HTTP; none when it does not.
    pub http_address: Option<String>,
    pub work_dir: String,
    pub runtime_dir: String,
}

/// One isolator or fact of a host: by which mechanism it works, or why it does not.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IsolatorReport {
    pub name: String,
    pub active: bool,
    pub mechanism: String,
    /// The missing kernel feature; empty when nothing is missing.
    pub missing: String,
}

/// What an agent found out about its host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostReport {
    pub isolators: Vec<IsolatorReport>,
    pub kernel_release: String,
    pub cgroup_layout: String,
    pub cpus: u32,
    pub memory: Bytes,
}
