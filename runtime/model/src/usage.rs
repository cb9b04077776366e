//! One measured moment of one container. Field names are those of Mesos' `ResourceStatistics`, so
//! that a tool written for Mesos reads them; absent means "this host does not tell".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{ContainerId, ContainerName};
use crate::snmp::SnmpStatistics;

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Seconds since the epoch.
    pub timestamp: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_user_time_secs: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_system_time_secs: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_limit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_soft_limit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_nr_periods: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_nr_throttled: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_throttled_time_secs: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_total_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_total_memsw_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_limit_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_soft_limit_bytes: Option<u64>,
    /// Highest use since the start (not a Mesos field).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_peak_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_file_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_cache_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_anon_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_rss_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_mapped_file_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_swap_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_unevictable_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_kmem_usage_bytes: Option<u64>,
    /// Times the memory ceiling was hit (not a Mesos field).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_limit_hits: Option<u64>,
    /// Processes killed for memory (not a Mesos field).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_oom_kills: Option<u64>,
    /// Forks refused by the process ceiling (not a Mesos field).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_refused: Option<u64>,
    /// Bytes and operations since the start, summed over devices (not Mesos fields).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_read_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_write_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_reads: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_writes: Option<u64>,
    /// Sandbox, and changes to a `--rootfs` directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_limit_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_used_bytes: Option<u64>,
    /// Time in which work waited for a processor, for memory, for a disk (not Mesos fields).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_pressure: Option<Pressure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_pressure: Option<Pressure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_pressure: Option<Pressure>,
    /// Into the container (rx) and out of it (tx).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rx_packets: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rx_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rx_errors: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rx_dropped: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tx_packets: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tx_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tx_errors: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tx_dropped: Option<u64>,
    /// Of open connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tcp_rtt_microsecs_p50: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tcp_rtt_microsecs_p90: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tcp_rtt_microsecs_p95: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tcp_rtt_microsecs_p99: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tcp_active_connections: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tcp_time_wait_connections: Option<f64>,
    /// Bytes a second, and bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tx_rate_limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tx_burst_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rx_rate_limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rx_burst_size: Option<u64>,
    /// Held back or dropped by a ceiling; what a packet waits for it (not Mesos fields).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rx_limited_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tx_limited_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_rx_queue_delay_microsecs: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tx_queue_delay_microsecs: Option<u64>,
    /// (Not a Mesos field.)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_tcp_retransmits: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_ephemeral_ports: Option<PortSpan>,
    /// Packets and calls that were refused, by reason (not a Mesos field).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub net_drops: BTreeMap<String, u64>,
    /// Of a network stack of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net_snmp_statistics: Option<SnmpStatistics>,
}

/// Both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PortSpan {
    pub begin: u16,
    pub end: u16,
}

/// Pressure stall information of one resource. `some`: at least one task waited; `full`: all did, so that nothing was
/// done. Kernel: accounting/psi.rst.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Pressure {
    pub some: Stall,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full: Option<Stall>,
}

/// Shares of the last 10, 60 and 300 seconds, and the sum since the start.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Stall {
    pub avg10_percent: f64,
    pub avg60_percent: f64,
    pub avg300_percent: f64,
    pub total_secs: f64,
}

/// A sample with the container it was taken from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerUsage {
    pub id: ContainerId,
    pub name: Option<ContainerName>,
    pub usage: Usage,
}
