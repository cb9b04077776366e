//! What this host can do: facts, read once, that every choice is a pure function of.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::units::Bytes;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupLayout {
    /// Controllers on v1 hierarchies only.
    V1,
    /// Controllers on v1, and a v2 tree beside them without (most) controllers.
    Hybrid,
    /// One v2 tree.
    V2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Controller {
    Cpu,
    Cpuacct,
    Memory,
    Pids,
    Io,
    Cpuset,
    Devices,
    Hugetlb,
    Freezer,
}

/// Where a controller is: which generation, and the directory that is its root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerMount {
    pub version: u8,
    pub root: PathBuf,
}

/// Facts about this host. `None` means "could not be read", never "absent".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSupport {
    pub kernel_release: String,
    pub boot_id: String,
    pub cpus: u32,
    pub memory: Bytes,
    pub page_size: Bytes,
    pub layout: CgroupLayout,
    pub controllers: BTreeMap<Controller, ControllerMount>,
    /// Root of the v2 tree, where there is one.
    pub unified: Option<PathBuf>,
    /// The kernel counts swap per cgroup (`memory.memsw.*` or `memory.swap.max`).
    pub swap_accounting: bool,
    pub cgroup_kill: bool,
    pub cpu_burst: bool,
    /// Proportional disk weight: the file that takes it, e.g. `io.weight`, `blkio.bfq.weight`.
    pub io_weight_file: Option<String>,
    pub io_throttle: bool,
    /// CPUs and memory nodes that a cpuset may name, in the kernel's list form.
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    pub seccomp: bool,
    pub overlay: bool,
    pub pressure: bool,
    /// User namespaces are built in, and some may be made (`user.max_user_namespaces`).
    pub user_namespaces: Option<bool>,
    /// Mounts that show files under mapped ids (kernel >= 5.12). Not every file system can.
    pub mapped_mounts: bool,
    /// Such mounts as layers of an overlay (kernel >= 5.19).
    pub mapped_layers: bool,
    /// Highest capability number (`cap_last_cap`).
    pub last_capability: u32,
    /// Capabilities that this process may hand on, by number.
    pub bounding_capabilities: u64,
    /// The resolver file that `/etc/resolv.conf` points to, when it lies under `/run`.
    pub resolver_under_run: Option<PathBuf>,
}

impl HostSupport {
    pub fn has(&self, controller: Controller) -> bool {
        self.controllers.contains_key(&controller)
    }
}
