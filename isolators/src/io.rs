//! Block devices: ceilings and weight. A container has an io group only if it asked for one.

use kernel::cgroup::io::{apply_ceiling, apply_weight, lift_ceiling, parse_v1, parse_v2};
use kernel::cgroup::{LimitError, Version};
use kernel::file::KernelFileError;
use model::{Controller, DeviceLimit, Fault, HostSupport, IsolatorReport, LaunchSpec, Limits, Usage};

use crate::error::PrepareError;
use crate::isolator::{Isolator, Place, active, missing};
use crate::trees::{TreeId, Trees};
use crate::usage::UsageFile;

/// The middle of the scale, which a group without a weight has.
const WEIGHT_DEFAULT: u16 = 100;
const WEIGHT_MAX: u16 = 10_000;
/// Disks of one container: enough for any host, and the read-back stays within its buffer.
const DEVICES_MAX: usize = 16;

pub struct IoIsolator {
    tree: Option<TreeId>,
    version: Version,
    throttle: bool,
    weight_file: Option<String>,
}

impl IoIsolator {
    pub fn new(host: &HostSupport, trees: &Trees) -> Self {
        let tree = trees.of(Controller::Io);
        Self {
            tree,
            version: tree.map_or(Version::V2, |id| trees.tree(id).version()),
            throttle: host.io_throttle,
            weight_file: host.io_weight_file.clone(),
        }
    }

    fn admit_device(&self, index: usize, limit: &DeviceLimit) -> Result<(), Fault> {
        let field = |name: &str| format!("limits.io.devices.{index}.{name}");
        if limit.device.is_empty() {
            return Err(Fault::invalid(field("device"), "names no device"));
        }
        if !self.throttle {
            return Err(Fault::unsupported(
                field("device"),
                "this kernel has no block throttling (CONFIG_BLK_DEV_THROTTLING)",
            ));
        }
        for (name, value) in [
            ("read_bps", limit.read_bps),
            ("write_bps", limit.write_bps),
            ("read_iops", limit.read_iops),
            ("write_iops", limit.write_iops),
        ] {
            match value {
                // The kernel reads 0 as "no ceiling", the opposite of what is meant.
                Some(0) => return Err(Fault::invalid(field(name), "0 would let nothing through")),
                Some(value) if name.ends_with("iops") && value > u64::from(u32::MAX) => {
                    return Err(Fault::invalid(
                        field(name),
                        format!("{value} is above the kernel's {}", u32::MAX),
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn asks(limits: &Limits) -> bool {
    limits.io.weight.is_some() || !limits.io.devices.is_empty()
}

impl Isolator for IoIsolator {
    fn name(&self) -> &'static str {
        "io"
    }

    fn report(&self) -> IsolatorReport {
        let weight = match &self.weight_file {
            Some(file) => format!(", {file}"),
            None => ", no weight (no disk is scheduled by bfq or governed by io.cost)".to_owned(),
        };
        match (self.tree, self.version) {
            (None, _) => missing(
                "io",
                "the io (blkio) controller (CONFIG_BLK_CGROUP) is not mounted",
            ),
            _ if !self.throttle => missing(
                "io",
                "block throttling (CONFIG_BLK_DEV_THROTTLING) is not built in",
            ),
            (_, Version::V1) => active(
                "io",
                format!("blkio.throttle (cgroup v1; buffered writes are not held){weight}"),
            ),
            (_, Version::V2) => active("io", format!("io.max (cgroup v2){weight}")),
        }
    }

    fn admit(&self, limits: &Limits) -> Result<(), Fault> {
        if asks(limits) && self.tree.is_none() {
            let field = if limits.io.weight.is_some() {
                "limits.io.weight"
            } else {
                "limits.io.devices"
            };
            return Err(Fault::unsupported(
                field,
                "the io (blkio) controller (CONFIG_BLK_CGROUP) is not mounted",
            ));
        }
        if let Some(weight) = limits.io.weight {
            const FIELD: &str = "limits.io.weight";
            if self.weight_file.is_none() {
                return Err(Fault::unsupported(
                    FIELD,
                    "no disk of this host is shared by weight: it needs the bfq scheduler (blkio.bfq.weight, \
                     io.bfq.weight) or io.cost (io.weight)",
                )
                .remedy("choose bfq in the disk's queue/scheduler"));
            }
            if !(1..=WEIGHT_MAX).contains(&weight) {
                return Err(Fault::invalid(
                    FIELD,
                    format!("{weight} is not from 1 to {WEIGHT_MAX}"),
                ));
            }
        }
        if limits.io.devices.len() > DEVICES_MAX {
            let text = format!("{} devices, the most are {DEVICES_MAX}", limits.io.devices.len());
            return Err(Fault::invalid("limits.io.devices", text));
        }
        limits
            .io
            .devices
            .iter()
            .enumerate()
            .try_for_each(|(index, limit)| self.admit_device(index, limit))
    }

    fn trees(&self, limits: &Limits) -> Vec<TreeId> {
        self.tree.filter(|_| asks(limits)).into_iter().collect()
    }

    fn prepare(&self, place: Place<'_>, spec: &LaunchSpec) -> Result<(), PrepareError> {
        self.update(place, &Limits::default(), &spec.limits)
            .map_err(|e| PrepareError::limit("io", e))
    }

    fn update(&self, place: Place<'_>, old: &Limits, new: &Limits) -> Result<(), LimitError> {
        let Some(tree) = self.tree else { return Ok(()) };
        let group = place.group(tree);
        match &self.weight_file {
            Some(file) if old.io.weight != new.io.weight => {
                apply_weight(group, file, new.io.weight.unwrap_or(WEIGHT_DEFAULT))?;
            }
            _ => {}
        }
        for gone in old
            .io
            .devices
            .iter()
            .filter(|o| !new.io.devices.iter().any(|n| n.device == o.device))
        {
            lift_ceiling(group, &gone.device)?;
        }
        for limit in new
            .io
            .devices
            .iter()
            .filter(|limit| !old.io.devices.contains(limit))
        {
            apply_ceiling(group, limit)?;
        }
        Ok(())
    }

    fn usage(&self, place: Place<'_>, files: &mut Vec<UsageFile>) -> Result<(), KernelFileError> {
        let Some(tree) = self.tree else { return Ok(()) };
        let group = place.group(tree);
        match self.version {
            Version::V1 => {
                UsageFile::open(
                    group,
                    "blkio.throttle.io_service_bytes_recursive",
                    v1_bytes,
                    files,
                )?;
                UsageFile::open(
                    group,
                    "blkio.throttle.io_serviced_recursive",
                    v1_operations,
                    files,
                )?;
            }
            Version::V2 => {
                UsageFile::open(group, "io.stat", v2_stat, files)?;
            }
        }
        Ok(())
    }
}

fn v1_bytes(text: &[u8], usage: &mut Usage) {
    let sum = parse_v1(text);
    (usage.io_read_bytes, usage.io_write_bytes) = (Some(sum.reads), Some(sum.writes));
}

fn v1_operations(text: &[u8], usage: &mut Usage) {
    let sum = parse_v1(text);
    (usage.io_reads, usage.io_writes) = (Some(sum.reads), Some(sum.writes));
}

fn v2_stat(text: &[u8], usage: &mut Usage) {
    let (bytes, operations) = parse_v2(text);
    (usage.io_read_bytes, usage.io_write_bytes) = (Some(bytes.reads), Some(bytes.writes));
    (usage.io_reads, usage.io_writes) = (Some(operations.reads), Some(operations.writes));
}
