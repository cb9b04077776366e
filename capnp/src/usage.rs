//! Usage samples: the busiest value on the wire. A sample is a flat struct and a bit mask; to write
//! one into a message allocates nothing beside the message itself.

use std::collections::BTreeMap;

use model::usage::PortSpan;
use model::{
    ContainerId, ContainerName, ContainerUsage, Fault, Pressure, SNMP_COUNTERS, SnmpStatistics, Stall, Usage,
};

use crate::bounds::{CONTAINERS_MAX, DROP_REASONS_MAX, TextBudget, check_length};
use crate::value::{container_id, container_name, some, within};
use crate::value_capnp::{container_usage, counter, pressure, stall, usage};

/// Every measured field with its bit in `present`: its ordinal in the schema less two.
macro_rules! fields {
    ($visit:ident) => {
        $visit! {
            0 processes get_processes set_processes,
            1 threads get_threads set_threads,
            2 cpus_user_time_secs get_cpus_user_time_secs set_cpus_user_time_secs,
            3 cpus_system_time_secs get_cpus_system_time_secs set_cpus_system_time_secs,
            4 cpus_limit get_cpus_limit set_cpus_limit,
            5 cpus_soft_limit get_cpus_soft_limit set_cpus_soft_limit,
            6 cpus_nr_periods get_cpus_nr_periods set_cpus_nr_periods,
            7 cpus_nr_throttled get_cpus_nr_throttled set_cpus_nr_throttled,
            8 cpus_throttled_time_secs get_cpus_throttled_time_secs set_cpus_throttled_time_secs,
            9 mem_total_bytes get_mem_total_bytes set_mem_total_bytes,
            10 mem_total_memsw_bytes get_mem_total_memsw_bytes set_mem_total_memsw_bytes,
            11 mem_limit_bytes get_mem_limit_bytes set_mem_limit_bytes,
            12 mem_soft_limit_bytes get_mem_soft_limit_bytes set_mem_soft_limit_bytes,
            13 mem_peak_bytes get_mem_peak_bytes set_mem_peak_bytes,
            14 mem_file_bytes get_mem_file_bytes set_mem_file_bytes,
            15 mem_cache_bytes get_mem_cache_bytes set_mem_cache_bytes,
            16 mem_anon_bytes get_mem_anon_bytes set_mem_anon_bytes,
            17 mem_rss_bytes get_mem_rss_bytes set_mem_rss_bytes,
            18 mem_mapped_file_bytes get_mem_mapped_file_bytes set_mem_mapped_file_bytes,
            19 mem_swap_bytes get_mem_swap_bytes set_mem_swap_bytes,
            20 mem_unevictable_bytes get_mem_unevictable_bytes set_mem_unevictable_bytes,
            21 mem_kmem_usage_bytes get_mem_kmem_usage_bytes set_mem_kmem_usage_bytes,
            22 mem_limit_hits get_mem_limit_hits set_mem_limit_hits,
            23 mem_oom_kills get_mem_oom_kills set_mem_oom_kills,
            24 pids_limit get_pids_limit set_pids_limit,
            25 pids_refused get_pids_refused set_pids_refused,
            26 io_read_bytes get_io_read_bytes set_io_read_bytes,
            27 io_write_bytes get_io_write_bytes set_io_write_bytes,
            28 io_reads get_io_reads set_io_reads,
            29 io_writes get_io_writes set_io_writes,
            33 disk_limit_bytes get_disk_limit_bytes set_disk_limit_bytes,
            34 disk_used_bytes get_disk_used_bytes set_disk_used_bytes,
            35 net_rx_packets get_net_rx_packets set_net_rx_packets,
            36 net_rx_bytes get_net_rx_bytes set_net_rx_bytes,
            37 net_rx_errors get_net_rx_errors set_net_rx_errors,
            38 net_rx_dropped get_net_rx_dropped set_net_rx_dropped,
            39 net_tx_packets get_net_tx_packets set_net_tx_packets,
            40 net_tx_bytes get_net_tx_bytes set_net_tx_bytes,
            41 net_tx_errors get_net_tx_errors set_net_tx_errors,
            42 net_tx_dropped get_net_tx_dropped set_net_tx_dropped,
            43 net_tcp_rtt_microsecs_p50 get_net_tcp_rtt_microsecs_p50 set_net_tcp_rtt_microsecs_p50,
            44 net_tcp_rtt_microsecs_p90 get_net_tcp_rtt_microsecs_p90 set_net_tcp_rtt_microsecs_p90,
            45 net_tcp_rtt_microsecs_p95 get_net_tcp_rtt_microsecs_p95 set_net_tcp_rtt_microsecs_p95,
            46 net_tcp_rtt_microsecs_p99 get_net_tcp_rtt_microsecs_p99 set_net_tcp_rtt_microsecs_p99,
            47 net_tcp_active_connections get_net_tcp_active_connections set_net_tcp_active_connections,
            48 net_tcp_time_wait_connections get_net_tcp_time_wait_connections set_net_tcp_time_wait_connections,
            49 net_tx_rate_limit get_net_tx_rate_limit set_net_tx_rate_limit,
            50 net_tx_burst_size get_net_tx_burst_size set_net_tx_burst_size,
            51 net_rx_rate_limit get_net_rx_rate_limit set_net_rx_rate_limit,
            52 net_rx_burst_size get_net_rx_burst_size set_net_rx_burst_size,
            53 net_rx_limited_bytes get_net_rx_limited_bytes set_net_rx_limited_bytes,
            54 net_tx_limited_bytes get_net_tx_limited_bytes set_net_tx_limited_bytes,
            55 net_rx_queue_delay_microsecs get_net_rx_queue_delay_microsecs set_net_rx_queue_delay_microsecs,
            56 net_tx_queue_delay_microsecs get_net_tx_queue_delay_microsecs set_net_tx_queue_delay_microsecs,
            57 net_tcp_retransmits get_net_tcp_retransmits set_net_tcp_retransmits,
        }
    };
}

pub fn encode(usage: &Usage, mut builder: usage::Builder<'_>) {
    let mut present = 0u64;
    macro_rules! write {
        ($($bit:literal $field:ident $get:ident $set:ident,)+) => {
            $(if let Some(value) = usage.$field {
                present |= 1 << $bit;
                builder.$set(value);
            })+
        };
    }
    fields!(write);
    builder.set_timestamp(usage.timestamp);
    builder.set_present(present);
    if let Some(pressure) = &usage.cpu_pressure {
        encode_pressure(pressure, builder.reborrow().init_cpu_pressure());
    }
    if let Some(pressure) = &usage.mem_pressure {
        encode_pressure(pressure, builder.reborrow().init_mem_pressure());
    }
    if let Some(pressure) = &usage.io_pressure {
        encode_pressure(pressure, builder.reborrow().init_io_pressure());
    }
    if let Some(span) = usage.net_ephemeral_ports {
        let mut range = builder.reborrow().init_net_ephemeral_ports();
        range.set_first(span.begin);
        range.set_last(span.end);
    }
    if let Some(snmp) = &usage.net_snmp_statistics {
        let mut list = builder.reborrow().init_net_snmp(SNMP_COUNTERS as u32);
        for (index, value) in snmp.values().iter().enumerate() {
            list.set(index as u32, *value);
        }
    }
    if !usage.net_drops.is_empty() {
        let mut list = builder.init_net_drops(usage.net_drops.len() as u32);
        for (index, (reason, count)) in usage.net_drops.iter().enumerate() {
            let mut counter = list.reborrow().get(index as u32);
            counter.set_name(reason);
            counter.set_value(*count);
        }
    }
}

fn encode_pressure(pressure: &Pressure, mut builder: pressure::Builder<'_>) {
    encode_stall(&pressure.some, builder.reborrow().init_some());
    if let Some(full) = &pressure.full {
        encode_stall(full, builder.init_full());
    }
}

fn encode_stall(stall: &Stall, mut builder: stall::Builder<'_>) {
    builder.set_avg10_percent(stall.avg10_percent);
    builder.set_avg60_percent(stall.avg60_percent);
    builder.set_avg300_percent(stall.avg300_percent);
    builder.set_total_secs(stall.total_secs);
}

/// What is not there, or not readable, is not measured: a sample is too cheap to be refused for it.
fn decode_pressure<'a>(
    present: bool,
    reader: impl FnOnce() -> capnp::Result<pressure::Reader<'a>>,
) -> Option<Pressure> {
    let reader = present.then(reader)?.ok()?;
    Some(Pressure {
        some: decode_stall(reader.get_some().ok()?),
        full: match reader.has_full() {
            true => Some(decode_stall(reader.get_full().ok()?)),
            false => None,
        },
    })
}

fn decode_stall(reader: stall::Reader<'_>) -> Stall {
    Stall {
        avg10_percent: reader.get_avg10_percent(),
        avg60_percent: reader.get_avg60_percent(),
        avg300_percent: reader.get_avg300_percent(),
        total_secs: reader.get_total_secs(),
    }
}

fn decode_ephemeral(reader: usage::Reader<'_>) -> Option<PortSpan> {
    let present = reader.has_net_ephemeral_ports();
    let range = present.then(|| reader.get_net_ephemeral_ports())?.ok()?;
    Some(PortSpan {
        begin: range.get_first(),
        end: range.get_last(),
    })
}

fn decode_drops(reader: usage::Reader<'_>) -> BTreeMap<String, u64> {
    let Ok(list) = reader.get_net_drops() else {
        return BTreeMap::new();
    };
    let read = |counter: counter::Reader<'_>| {
        let name = counter.get_name().ok()?.to_str().ok()?;
        Some((name.to_owned(), counter.get_value()))
    };
    list.iter().take(DROP_REASONS_MAX).filter_map(read).collect()
}

/// A peer with other counters than ours tells none that we know.
fn decode_snmp(reader: usage::Reader<'_>) -> Option<SnmpStatistics> {
    let list = reader.get_net_snmp().ok()?;
    if list.len() as usize != SNMP_COUNTERS {
        return None;
    }
    Some(SnmpStatistics::new(std::array::from_fn(|index| {
        list.get(index as u32)
    })))
}

/// Bits of a newer peer are ignored, as unknown fields are.
pub fn decode(reader: usage::Reader<'_>) -> Usage {
    let present = reader.get_present();
    macro_rules! read {
        ($($bit:literal $field:ident $get:ident $set:ident,)+) => {
            Usage {
                timestamp: reader.get_timestamp(),
                $($field: (present & (1 << $bit) != 0).then(|| reader.$get()),)+
                cpu_pressure: decode_pressure(reader.has_cpu_pressure(), || reader.get_cpu_pressure()),
                mem_pressure: decode_pressure(reader.has_mem_pressure(), || reader.get_mem_pressure()),
                io_pressure: decode_pressure(reader.has_io_pressure(), || reader.get_io_pressure()),
                net_ephemeral_ports: decode_ephemeral(reader),
                net_drops: decode_drops(reader),
                net_snmp_statistics: decode_snmp(reader),
            }
        };
    }
    fields!(read)
}

/// Writes one sample with its container.
pub fn encode_container(
    id: &ContainerId,
    name: Option<&ContainerName>,
    usage: &Usage,
    mut builder: container_usage::Builder<'_>,
) {
    builder.set_id(id.as_str());
    if let Some(name) = name {
        builder.set_name(name.as_str());
    }
    encode(usage, builder.init_usage());
}

/// Writes samples in order; the list must have been made with as many entries.
pub fn encode_list<'a>(
    samples: impl IntoIterator<Item = (&'a ContainerId, Option<&'a ContainerName>, &'a Usage)>,
    mut builder: capnp::struct_list::Builder<'_, container_usage::Owned>,
) {
    for (index, (id, name, usage)) in samples.into_iter().enumerate() {
        encode_container(id, name, usage, builder.reborrow().get(index as u32));
    }
}

pub fn decode_container(reader: container_usage::Reader<'_>) -> Result<ContainerUsage, Fault> {
    let budget = &mut TextBudget::default();
    Ok(ContainerUsage {
        id: container_id("id", reader.get_id(), budget)?,
        name: container_name("name", reader.get_name(), budget)?,
        usage: decode(some("usage", reader.get_usage())?),
    })
}

pub fn decode_list(
    list: capnp::Result<capnp::struct_list::Reader<'_, container_usage::Owned>>,
) -> Result<Vec<ContainerUsage>, Fault> {
    const FIELD: &str = "samples";
    let list = some(FIELD, list)?;
    check_length(FIELD, list.len() as usize, CONTAINERS_MAX)?;
    let mut samples = Vec::with_capacity(list.len() as usize);
    for (index, sample) in list.iter().enumerate() {
        samples.push(
            decode_container(sample).map_err(|fault| within(within(fault, &index.to_string()), FIELD))?,
        );
    }
    Ok(samples)
}
