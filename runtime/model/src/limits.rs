//! What a container may use. Absent means "not limited by us".

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::network::Bandwidth;
use crate::units::{Bytes, Cpus, Limit, Millis};

/// Ceilings and weights of one container.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Share of the CPU under contention: v1 `cpu.shares` = 1024 a CPU, v2 `cpu.weight` = 100 a CPU.
    /// Also the ceiling (CFS quota) unless `cpu_limit` says otherwise.
    pub cpus: Option<Cpus>,
    /// CFS quota in CPUs. `Max` lifts the ceiling that `cpus` would set.
    pub cpu_limit: Option<Limit<Cpus>>,
    /// Unused quota that may be saved up, in milliseconds of CPU time (`cpu.max.burst`, kernel >= 5.14).
    pub cpu_burst: Option<Millis>,
    /// Hard ceiling of memory, page cache included: `memory.limit_in_bytes` or `memory.max`.
    pub mem: Option<Limit<Bytes>>,
    /// Soft ceiling: reclaimed first under pressure. `memory.soft_limit_in_bytes` or `memory.low`.
    pub mem_soft: Option<Bytes>,
    /// Throttling ceiling, v2 only: `memory.high`.
    pub mem_high: Option<Limit<Bytes>>,
    /// Memory that reclaim never takes, v2 only: `memory.min`.
    pub mem_min: Option<Bytes>,
    /// Swap beyond `mem`. Default: none may be used when `mem` is set and the kernel counts swap.
    pub swap: Option<Limit<Bytes>>,
    /// Most processes and threads: `pids.max`.
    pub pids: Option<Limit<u32>>,
    /// Ceiling of what the sandbox and the changes to a `--rootfs` directory take on the disk. `Max`: only measured.
    pub disk: Option<Limit<Bytes>>,
    /// CPUs by number, in the kernel's list form: `0-3,8`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes by number.
    pub cpuset_mems: Option<String>,
    pub io: IoLimits,
    pub bandwidth: Bandwidth,
}

impl Limits {
    /// The CPU ceiling in force: `cpu_limit`, else `cpus`; `None` when there is none.
    pub fn cpu_ceiling(&self) -> Option<Cpus> {
        match self.cpu_limit {
            Some(limit) => limit.value(),
            None => self.cpus,
        }
    }

    /// Takes over every field that `change` names; the others stay (live update).
    pub fn merged(&self, change: &Limits) -> Limits {
        Limits {
            cpus: change.cpus.or(self.cpus),
            cpu_limit: change.cpu_limit.or(self.cpu_limit),
            cpu_burst: change.cpu_burst.or(self.cpu_burst),
            mem: change.mem.or(self.mem),
            mem_soft: change.mem_soft.or(self.mem_soft),
            mem_high: change.mem_high.or(self.mem_high),
            mem_min: change.mem_min.or(self.mem_min),
            swap: change.swap.or(self.swap),
            pids: change.pids.or(self.pids),
            disk: change.disk.or(self.disk),
            bandwidth: self.bandwidth.merged(&change.bandwidth),
            cpuset_cpus: change.cpuset_cpus.clone().or_else(|| self.cpuset_cpus.clone()),
            cpuset_mems: change.cpuset_mems.clone().or_else(|| self.cpuset_mems.clone()),
            io: IoLimits {
                weight: change.io.weight.or(self.io.weight),
                devices: {
                    let mut devices = self.io.devices.clone();
                    for new in &change.io.devices {
                        match devices.iter_mut().find(|d| d.device == new.device) {
                            Some(old) => *old = new.over(old),
                            None => devices.push(new.clone()),
                        }
                    }
                    devices
                },
            },
        }
    }
}

/// Block device ceilings and weight.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IoLimits {
    /// Share of the disk under contention, 1 to 10000, default 100 (v2 `io.weight`; v1 `blkio.bfq.weight`, scaled).
    pub weight: Option<u16>,
    pub devices: Vec<DeviceLimit>,
}

/// Ceilings on one block device, named by path (`/dev/vda`) or `MAJOR:MINOR`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceLimit {
    pub device: String,
    /// Bytes a second.
    pub read_bps: Option<u64>,
    pub write_bps: Option<u64>,
    /// Operations a second.
    pub read_iops: Option<u64>,
    pub write_iops: Option<u64>,
}

impl DeviceLimit {
    fn over(&self, old: &DeviceLimit) -> DeviceLimit {
        DeviceLimit {
            device: self.device.clone(),
            read_bps: self.read_bps.or(old.read_bps),
            write_bps: self.write_bps.or(old.write_bps),
            read_iops: self.read_iops.or(old.read_iops),
            write_iops: self.write_iops.or(old.write_iops),
        }
    }
}

/// A device node that the container may use beyond the default ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    pub path: PathBuf,
    pub read: bool,
    pub write: bool,
    pub mknod: bool,
}
