//! Limits. Null pointers and zeros stand for "unset" as the schema says, so an empty set of limits
//! takes two words.

use model::{Bytes, Cpus, DeviceLimit, Fault, IoLimits, Limit, Limits, Millis};

use crate::bounds::{IO_DEVICES_MAX, TextBudget, check_length};
use crate::network;
use crate::value::{limit, optional_number, optional_text, set_limit, some, text, within};
use crate::value_capnp::{device_limit, limits};

/// Sets an optional scalar or ceiling through its `init` method; absent stays a null pointer.
macro_rules! set {
    ($builder:ident . $init:ident = optional $value:expr) => {
        if let Some(value) = $value {
            $builder.reborrow().$init().set_value(value);
        }
    };
    ($builder:ident . $init:ident = limit $value:expr) => {
        if let Some(value) = $value {
            set_limit(value, $builder.reborrow().$init());
        }
    };
}

pub fn encode(limits: &Limits, mut builder: limits::Builder<'_>) {
    builder.set_cpus_milli(limits.cpus.map_or(0, Cpus::milli));
    set!(builder.init_cpu_limit_milli = limit limits.cpu_limit.map(|l| map(l, |cpus| u64::from(cpus.milli()))));
    set!(builder.init_cpu_burst_ms = optional limits.cpu_burst.map(Millis::get));
    set!(builder.init_mem_bytes = limit limits.mem.map(|l| map(l, Bytes::get)));
    set!(builder.init_mem_soft_bytes = optional limits.mem_soft.map(Bytes::get));
    set!(builder.init_mem_high_bytes = limit limits.mem_high.map(|l| map(l, Bytes::get)));
    set!(builder.init_mem_min_bytes = optional limits.mem_min.map(Bytes::get));
    set!(builder.init_swap_bytes = limit limits.swap.map(|l| map(l, Bytes::get)));
    set!(builder.init_pids = limit limits.pids.map(|l| map(l, u64::from)));
    set!(builder.init_disk_bytes = limit limits.disk.map(|l| map(l, Bytes::get)));
    if !limits.bandwidth.is_unset() {
        network::encode_bandwidth(&limits.bandwidth, builder.reborrow().init_bandwidth());
    }
    if let Some(cpus) = &limits.cpuset_cpus {
        builder.set_cpuset_cpus(cpus);
    }
    if let Some(mems) = &limits.cpuset_mems {
        builder.set_cpuset_mems(mems);
    }
    builder.set_io_weight(limits.io.weight.unwrap_or(0));
    if !limits.io.devices.is_empty() {
        let mut list = builder.init_io_devices(limits.io.devices.len() as u32);
        for (index, device) in limits.io.devices.iter().enumerate() {
            encode_device(device, list.reborrow().get(index as u32));
        }
    }
}

fn encode_device(limit: &DeviceLimit, mut builder: device_limit::Builder<'_>) {
    builder.set_device(&limit.device);
    set!(builder.init_read_bps = optional limit.read_bps);
    set!(builder.init_write_bps = optional limit.write_bps);
    set!(builder.init_read_iops = optional limit.read_iops);
    set!(builder.init_write_iops = optional limit.write_iops);
}

pub fn decode(reader: limits::Reader<'_>) -> Result<Limits, Fault> {
    read(reader, &mut TextBudget::default())
}

pub(crate) fn read(reader: limits::Reader<'_>, budget: &mut TextBudget) -> Result<Limits, Fault> {
    let bytes = |value: Option<Limit<u64>>| value.map(|limit| map(limit, Bytes));
    Ok(Limits {
        cpus: match reader.get_cpus_milli() {
            0 => None,
            milli => Some(cpus("cpus", u64::from(milli))?),
        },
        cpu_limit: match limit("cpu_limit", reader.get_cpu_limit_milli())? {
            None => None,
            Some(Limit::Max) => Some(Limit::Max),
            Some(Limit::Value(milli)) => Some(Limit::Value(cpus("cpu_limit", milli)?)),
        },
        cpu_burst: optional_number("cpu_burst", reader.get_cpu_burst_ms())?.map(Millis),
        mem: bytes(limit("mem", reader.get_mem_bytes())?),
        mem_soft: optional_number("mem_soft", reader.get_mem_soft_bytes())?.map(Bytes),
        mem_high: bytes(limit("mem_high", reader.get_mem_high_bytes())?),
        mem_min: optional_number("mem_min", reader.get_mem_min_bytes())?.map(Bytes),
        swap: bytes(limit("swap", reader.get_swap_bytes())?),
        pids: match limit("pids", reader.get_pids())? {
            None => None,
            Some(Limit::Max) => Some(Limit::Max),
            Some(Limit::Value(value)) => Some(Limit::Value(pids(value)?)),
        },
        disk: bytes(limit("disk", reader.get_disk_bytes())?),
        cpuset_cpus: optional_text("cpuset_cpus", reader.get_cpuset_cpus(), budget)?,
        cpuset_mems: optional_text("cpuset_mems", reader.get_cpuset_mems(), budget)?,
        bandwidth: network::decode_bandwidth(some("bandwidth", reader.get_bandwidth())?)?,
        io: IoLimits {
            weight: Some(reader.get_io_weight()).filter(|weight| *weight != 0),
            devices: devices(reader, budget)?,
        },
    })
}

fn devices(reader: limits::Reader<'_>, budget: &mut TextBudget) -> Result<Vec<DeviceLimit>, Fault> {
    const FIELD: &str = "io.devices";
    let list = some(FIELD, reader.get_io_devices())?;
    check_length(FIELD, list.len() as usize, IO_DEVICES_MAX)?;
    let mut devices = Vec::with_capacity(list.len() as usize);
    for (index, entry) in list.iter().enumerate() {
        devices.push(
            read_device(entry, budget).map_err(|fault| within(within(fault, &index.to_string()), FIELD))?,
        );
    }
    Ok(devices)
}

fn read_device(reader: device_limit::Reader<'_>, budget: &mut TextBudget) -> Result<DeviceLimit, Fault> {
    Ok(DeviceLimit {
        device: text("device", reader.get_device(), budget)?,
        read_bps: optional_number("read_bps", reader.get_read_bps())?,
        write_bps: optional_number("write_bps", reader.get_write_bps())?,
        read_iops: optional_number("read_iops", reader.get_read_iops())?,
        write_iops: optional_number("write_iops", reader.get_write_iops())?,
    })
}

fn map<T, U>(limit: Limit<T>, f: impl FnOnce(T) -> U) -> Limit<U> {
    match limit {
        Limit::Max => Limit::Max,
        Limit::Value(value) => Limit::Value(f(value)),
    }
}

fn cpus(field: &str, milli: u64) -> Result<Cpus, Fault> {
    // Exact: thousandths up to the ceiling of `Cpus` are far below 2^53.
    Cpus::try_from(milli as f64 / 1000.0).map_err(|error| Fault::invalid(field, error.to_string()))
}

fn pids(value: u64) -> Result<u32, Fault> {
    u32::try_from(value)
        .map_err(|_| Fault::invalid("pids", format!("{value} is out of range (to {})", u32::MAX)))
}
