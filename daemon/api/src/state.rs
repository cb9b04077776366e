//! `/version`, and of `/state` what holds without a master.

use model::{AgentInfo, Bytes};
use serde::Serialize;

/// Facts of the build that only tools of Mesos ask for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Build {
    /// Seconds since the epoch.
    pub time_secs: f64,
    pub user: String,
}

/// The body of `/version`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Version<'a> {
    pub build_date: &'a str,
    pub build_time: f64,
    pub build_user: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub git_sha: &'a str,
    pub version: &'a str,
}

pub fn version<'a>(info: &'a AgentInfo, build: &'a Build) -> Version<'a> {
    Version {
        build_date: &info.build_date,
        build_time: build.time_secs,
        build_user: &build.user,
        git_sha: &info.git_sha,
        version: &info.version,
    }
}

/// Of `/state`: who the agent is and what it has; the lists of frameworks are there and empty.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct State<'a> {
    #[serde(flatten)]
    pub version: Version<'a>,
    pub id: &'a str,
    /// libprocess' name of the agent.
    pub pid: String,
    pub hostname: &'a str,
    /// Seconds since the epoch.
    pub start_time: f64,
    pub resources: Resources,
    pub attributes: Empty,
    pub flags: Flags<'a>,
    pub frameworks: [Empty; 0],
    pub completed_frameworks: [Empty; 0],
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Resources {
    pub cpus: f64,
    /// Megabytes, as Mesos counts it.
    pub mem: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Flags<'a> {
    pub work_dir: &'a str,
    pub runtime_dir: &'a str,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Empty {}

pub fn state<'a>(
    info: &'a AgentInfo,
    build: &'a Build,
    hostname: &'a str,
    cpus: u32,
    memory: Bytes,
) -> State<'a> {
    let address = info.http_address.as_deref().unwrap_or("127.0.0.1:0");
    State {
        version: version(info, build),
        id: &info.instance,
        pid: format!("slave(1)@{address}"),
        hostname,
        start_time: info.started_at_ms as f64 / 1000.0,
        resources: Resources {
            cpus: f64::from(cpus),
            mem: (memory.get() >> 20) as f64,
        },
        attributes: Empty {},
        flags: Flags {
            work_dir: &info.work_dir,
            runtime_dir: &info.runtime_dir,
        },
        frameworks: [],
        completed_frameworks: [],
    }
}
