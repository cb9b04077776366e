//! The flags that set limits: the same for `run` and `update`.

use clap::Args;
use model::{Bandwidth, BitsPerSecond, Bytes, Cpus, DeviceLimit, IoLimits, Limit, Limits, Millis};

use crate::parse;

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// CPUs: the share under contention, and the ceiling unless --cpu-limit says otherwise
    #[arg(long, value_name = "N")]
    pub cpus: Option<Cpus>,
    /// Ceiling of CPU time in CPUs, or max
    #[arg(long, value_name = "N")]
    pub cpu_limit: Option<Limit<Cpus>>,
    /// Unused CPU time that may be saved up for a burst, like 50ms
    #[arg(long, value_name = "TIME")]
    pub cpu_burst: Option<Millis>,
    /// Hard ceiling of memory, page cache included, or max
    #[arg(long, value_name = "SIZE")]
    pub mem: Option<Limit<Bytes>>,
    /// Memory that is reclaimed last when the host runs short
    #[arg(long, value_name = "SIZE")]
    pub mem_soft: Option<Bytes>,
    /// Memory from which on the container is slowed down (cgroup v2)
    #[arg(long, value_name = "SIZE")]
    pub mem_high: Option<Limit<Bytes>>,
    /// Memory that is never reclaimed (cgroup v2)
    #[arg(long, value_name = "SIZE")]
    pub mem_min: Option<Bytes>,
    /// Swap beyond --mem, or max; none unless said
    #[arg(long, value_name = "SIZE")]
    pub swap: Option<Limit<Bytes>>,
    /// Most processes and threads, or max
    #[arg(long, value_name = "N")]
    pub pids: Option<Limit<u32>>,
    /// Disk space for the sandbox and changes to a --rootfs directory; max: only measured
    #[arg(long, value_name = "SIZE")]
    pub disk: Option<Limit<Bytes>>,
    /// CPUs to run on, like 0-3,8
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to allocate from
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// Share of the disk under contention, 1 to 10000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub io_weight: Option<u16>,
    /// Ceilings of one disk: /dev/vda:read_bps=10MB,write_iops=100 (repeatable)
    #[arg(long, value_name = "DEVICE:KEY=N,…", value_parser = parse::io_limit)]
    pub io_limit: Vec<DeviceLimit>,
    #[command(flatten)]
    pub bandwidth: BandwidthArgs,
}

impl LimitArgs {
    pub fn into_limits(self) -> Limits {
        Limits {
            cpus: self.cpus,
            cpu_limit: self.cpu_limit,
            cpu_burst: self.cpu_burst,
            mem: self.mem,
            mem_soft: self.mem_soft,
            mem_high: self.mem_high,
            mem_min: self.mem_min,
            swap: self.swap,
            pids: self.pids,
            disk: self.disk,
            cpuset_cpus: self.cpuset_cpus,
            cpuset_mems: self.cpuset_mems,
            io: IoLimits {
                weight: self.io_weight,
                devices: self.io_limit,
            },
            bandwidth: self.bandwidth.into_bandwidth(),
        }
    }
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Bandwidth")]
pub(crate) struct BandwidthArgs {
    /// Ceiling of what it sends, headers included, like 100Mbit, or max
    #[arg(long, value_name = "RATE", value_parser = parse::ceiling)]
    pub egress: Option<Limit<BitsPerSecond>>,
    /// Ceiling of what it receives, or max
    #[arg(long, value_name = "RATE", value_parser = parse::ceiling)]
    pub ingress: Option<Limit<BitsPerSecond>>,
    /// What may be sent at once after a pause
    #[arg(long, value_name = "SIZE")]
    pub egress_burst: Option<Bytes>,
    /// What may be received at once after a pause
    #[arg(long, value_name = "SIZE")]
    pub ingress_burst: Option<Bytes>,
    /// What it can send in any case when the link is full
    #[arg(long, value_name = "RATE", value_parser = parse::rate)]
    pub egress_min: Option<BitsPerSecond>,
    /// What it can receive in any case when the link is full
    #[arg(long, value_name = "RATE", value_parser = parse::rate)]
    pub ingress_min: Option<BitsPerSecond>,
    /// Share of a full link [default: by --cpus]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub network_weight: Option<u32>,
}

impl BandwidthArgs {
    fn into_bandwidth(self) -> Bandwidth {
        Bandwidth {
            egress: self.egress,
            ingress: self.ingress,
            egress_burst: self.egress_burst,
            ingress_burst: self.ingress_burst,
            weight: self.network_weight,
            egress_min: self.egress_min,
            ingress_min: self.ingress_min,
        }
    }
}
