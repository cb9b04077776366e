//! What somebody asks for: data only.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ids::{ContainerId, ContainerName};
use crate::limits::{DeviceRule, Limits};
use crate::network::Network;
use crate::ports::{PortGrant, PortRequest};
use crate::units::{Bytes, Millis};
use crate::user_namespace::UserNamespace;

/// A container to be launched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LaunchSpec {
    /// Chosen by the caller so that a repeated launch is recognised; made by the agent if absent.
    pub id: Option<ContainerId>,
    pub name: Option<ContainerName>,
    /// Program and arguments. A program without `/` is looked up in the container's `PATH`.
    pub command: Vec<String>,
    /// Added to (and overriding) the agent's small default environment; the agent's own never leaks in.
    pub env: Vec<(String, String)>,
    /// `NAME`, `UID`, `NAME:GROUP` or `UID:GID`, looked up in the container's root. Default: root.
    pub user: Option<String>,
    /// Default: the sandbox.
    pub workdir: Option<PathBuf>,
    /// Default: the name, or the first 12 characters of the id.
    pub hostname: Option<String>,
    /// A directory used as the lower layer of an overlay: it stays untouched. Default: the host's
    /// root, read-only.
    pub rootfs: Option<PathBuf>,
    pub volumes: Vec<Volume>,
    pub limits: Limits,
    pub network: Network,
    pub capabilities: Capabilities,
    pub rlimits: Vec<Rlimit>,
    pub seccomp: Seccomp,
    pub devices: Vec<DeviceRule>,
    /// A pseudo terminal of this size as stdin, stdout and stderr.
    pub terminal: Option<TerminalSize>,
    /// Keep stdin open for an attached client. Otherwise it reads end of file.
    pub stdin: bool,
    /// Forget the container and delete its sandbox as soon as it has ended.
    pub remove: bool,
    /// Kill (gracefully) after this time of running.
    pub timeout: Option<Millis>,
    /// Between SIGTERM and SIGKILL.
    pub grace: Millis,
    pub labels: BTreeMap<String, String>,
    pub output: OutputPolicy,
    /// Ids of its own. Default: root in the container is root's id on the host.
    pub userns: Option<UserNamespace>,
    /// Ports of its own. With the host's network and without this, all of the host's.
    pub ports: Option<PortRequest>,
    /// What it has been given. Chosen by the agent; absent in a request.
    pub grant: Option<PortGrant>,
}

impl Default for LaunchSpec {
    fn default() -> Self {
        Self {
            id: None,
            name: None,
            command: Vec::new(),
            env: Vec::new(),
            user: None,
            workdir: None,
            hostname: None,
            rootfs: None,
            volumes: Vec::new(),
            limits: Limits::default(),
            network: Network::Host,
            capabilities: Capabilities::default(),
            rlimits: Vec::new(),
            seccomp: Seccomp::Default,
            devices: Vec::new(),
            terminal: None,
            stdin: false,
            remove: false,
            timeout: None,
            grace: GRACE_DEFAULT,
            labels: BTreeMap::new(),
            output: OutputPolicy::default(),
            userns: None,
            ports: None,
            grant: None,
        }
    }
}

/// Between SIGTERM and SIGKILL unless said otherwise: what service managers give a server to
/// finish its requests.
pub const GRACE_DEFAULT: Millis = Millis::secs(10);

/// A host path made visible in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Absolute path on the host; must exist.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub target: PathBuf,
    pub read_only: bool,
}

/// Changes to the default capability set; names like `NET_BIND_SERVICE`, `CAP_` optional, `ALL` allowed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    pub add: Vec<String>,
    pub drop: Vec<String>,
}

/// A resource limit, setrlimit(2). `None` is unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Lower-case name without prefix: `nofile`, `core`, `nproc`, …
    pub name: String,
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// The built-in deny list.
    #[default]
    Default,
    Unconfined,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    pub rows: u16,
    pub columns: u16,
}

/// How much of stdout and of stderr is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputPolicy {
    /// A file that has reached this size is rotated.
    pub file_bytes: Bytes,
    /// Files kept per stream, the current one included; at least 1.
    pub files: u32,
}

impl Default for OutputPolicy {
    fn default() -> Self {
        Self {
            file_bytes: Bytes::mib(10),
            files: 3,
        }
    }
}

/// A further process in a running container.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecSpec {
    pub command: Vec<String>,
    pub env: Vec<(String, String)>,
    pub user: Option<String>,
    pub workdir: Option<PathBuf>,
    pub terminal: Option<TerminalSize>,
    pub stdin: bool,
}
