//! Block devices: ceilings in bytes and operations a second, and a weight.
//!
//! | | v1 | v2 |
//! |---|---|---|
//! | ceiling | `blkio.throttle.{read,write}_{bps,iops}_device`, a line a device, 0 is none | `io.max` |
//! | weight | `blkio.bfq.weight` or `blkio.weight`, 10 or 1 to 1000 | `io.bfq.weight` or `io.weight` |
//!
//! v1 attributes buffered writes to the root group, so `write_bps` there holds direct and synchronous
//! writes only. Kernel: admin-guide/cgroup-v1/blkio-controller.rst, "Throttling/Upper Limit Policy".

use std::fmt;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use model::DeviceLimit;

use super::group::{Compare, Group, LimitError};
use super::tree::Version;

/// A block device by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNumber {
    pub major: u32,
    pub minor: u32,
}

impl DeviceNumber {
    pub fn from_raw(raw: u64) -> Self {
        Self {
            major: libc::major(raw),
            minor: libc::minor(raw),
        }
    }

    /// `MAJOR:MINOR`.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        })
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// Why a name is not a disk that can be limited.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("read {path}", path = path.display())]
    Missing { path: PathBuf, source: std::io::Error },
    /// tmpfs, overlay, a network file system: pages move, but through no block queue.
    #[error("{device} is on device {number}, which is not a block device of this host")]
    NoBlockDevice { device: String, number: DeviceNumber },
    #[error("{device} is not a path and not MAJOR:MINOR")]
    Malformed { device: String },
}

const BLOCK_DEVICES: &str = "/sys/dev/block";

/// The whole disk behind `device`: a block device's path, any path on a mounted disk, or `MAJOR:MINOR`. A
/// partition has no queue of its own (the kernel answers ENODEV), so its disk is meant.
pub fn whole_disk(device: &str) -> Result<DeviceNumber, DeviceError> {
    whole_disk_below(Path::new(BLOCK_DEVICES), device)
}

fn whole_disk_below(block_devices: &Path, device: &str) -> Result<DeviceNumber, DeviceError> {
    let number = if device.starts_with('/') {
        let metadata = std::fs::metadata(device).map_err(|source| DeviceError::Missing {
            path: PathBuf::from(device),
            source,
        })?;
        let is_device = metadata.file_type().is_block_device();
        DeviceNumber::from_raw(if is_device {
            metadata.st_rdev()
        } else {
            metadata.st_dev()
        })
    } else {
        DeviceNumber::parse(device).ok_or_else(|| DeviceError::Malformed {
            device: device.to_owned(),
        })?
    };
    let directory = block_devices.join(number.to_string());
    if !directory.exists() {
        return Err(DeviceError::NoBlockDevice {
            device: device.to_owned(),
            number,
        });
    }
    if !directory.join("partition").exists() {
        return Ok(number);
    }
    // `<disk>/<partition>` is where the link leads; the disk's number is one directory up.
    let parent = directory.join("..").join("dev");
    let text = std::fs::read_to_string(&parent).map_err(|source| DeviceError::Missing {
        path: parent.clone(),
        source,
    })?;
    DeviceNumber::parse(&text).ok_or_else(|| DeviceError::NoBlockDevice {
        device: device.to_owned(),
        number,
    })
}

/// Writes one device's ceilings.
pub fn apply_ceiling(group: Group<'_>, limit: &DeviceLimit) -> Result<(), LimitError> {
    let disk = whole_disk(&limit.device)?;
    match group.version() {
        Version::V1 => {
            for (file, value) in [
                ("blkio.throttle.read_bps_device", limit.read_bps),
                ("blkio.throttle.write_bps_device", limit.write_bps),
                ("blkio.throttle.read_iops_device", limit.read_iops),
                ("blkio.throttle.write_iops_device", limit.write_iops),
            ] {
                if let Some(value) = value {
                    group.set(file, format_args!("{disk} {value}"), Compare::Line)?;
                }
            }
            Ok(())
        }
        Version::V2 => group.set("io.max", format_args!("{}", IoMax { disk, limit }), Compare::Line),
    }
}

/// Takes one device's ceilings away again (undo of an update).
pub fn lift_ceiling(group: Group<'_>, device: &str) -> Result<(), LimitError> {
    let disk = whole_disk(device)?;
    match group.version() {
        Version::V1 => {
            for file in [
                "blkio.throttle.read_bps_device",
                "blkio.throttle.write_bps_device",
                "blkio.throttle.read_iops_device",
                "blkio.throttle.write_iops_device",
            ] {
                // The line disappears: there is nothing to compare with.
                group.tree.write(group.name, file, &format!("{disk} 0"))?;
            }
        }
        Version::V2 => {
            let line = format!("{disk} rbps=max wbps=max riops=max wiops=max");
            group.tree.write(group.name, "io.max", &line)?;
        }
    }
    Ok(())
}

struct IoMax<'a> {
    disk: DeviceNumber,
    limit: &'a DeviceLimit,
}

impl fmt::Display for IoMax<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.disk)?;
        for (key, value) in [
            ("rbps", self.limit.read_bps),
            ("wbps", self.limit.write_bps),
            ("riops", self.limit.read_iops),
            ("wiops", self.limit.write_iops),
        ] {
            if let Some(value) = value {
                write!(f, " {key}={value}")?;
            }
        }
        Ok(())
    }
}

/// The value that `file` takes for a weight of 1 to 10000 with 100 as the middle. `io.weight` takes it as
/// it is; bfq has 1 to 1000 around 100, the old `blkio.weight` 10 to 1000 around 500.
pub fn scaled_weight(file: &str, weight: u16) -> u64 {
    let weight = u64::from(weight);
    match file {
        "io.weight" => weight.clamp(1, 10_000),
        "blkio.weight" => (weight * 5).clamp(10, 1000),
        _ => weight.clamp(1, 1000),
    }
}

/// Writes the weight. `io.weight` and `io.bfq.weight` read back as `default N` and a line for each device
/// that differs.
pub fn apply_weight(group: Group<'_>, file: &str, weight: u16) -> Result<(), LimitError> {
    let value = scaled_weight(file, weight);
    match group.version() {
        Version::V1 => group.set(file, format_args!("{value}"), Compare::Exact),
        Version::V2 => group.set(file, format_args!("default {value}"), Compare::Line),
    }
}

/// Bytes and operations since the group was made, summed over devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IoCounters {
    pub reads: u64,
    pub writes: u64,
}

/// `8:0 Read 4096`: the sum over devices of a v1 `blkio.throttle.io_*` file.
pub fn parse_v1(text: &[u8]) -> IoCounters {
    let mut sum = IoCounters::default();
    for line in text.split(|byte| *byte == b'\n') {
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(_), Some(kind), Some(value)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let value = crate::file::number(value).unwrap_or(0);
        match kind {
            b"Read" => sum.reads = sum.reads.saturating_add(value),
            b"Write" => sum.writes = sum.writes.saturating_add(value),
            _ => {}
        }
    }
    sum
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`: bytes and operations summed over the devices of `io.stat`.
pub fn parse_v2(text: &[u8]) -> (IoCounters, IoCounters) {
    let (mut bytes, mut operations) = (IoCounters::default(), IoCounters::default());
    for word in text.split(|byte| *byte == b' ' || *byte == b'\n') {
        let Some(equals) = word.iter().position(|byte| *byte == b'=') else {
            continue;
        };
        let Some(value) = crate::file::number(&word[equals + 1..]) else {
            continue;
        };
        let sum = match &word[..equals] {
            b"rbytes" => &mut bytes.reads,
            b"wbytes" => &mut bytes.writes,
            b"rios" => &mut operations.reads,
            b"wios" => &mut operations.writes,
            _ => continue,
        };
        *sum = sum.saturating_add(value);
    }
    (bytes, operations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_over_devices() {
        let v1 = b"8:0 Read 10\n8:0 Write 5\n8:0 Sync 9\n8:0 Total 15\n8:16 Read 1\nTotal 16\n";
        assert_eq!(parse_v1(v1), IoCounters { reads: 11, writes: 5 });
        let v2 =
            b"8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=9 dios=9\n259:0 rbytes=1 wbytes=2 rios=3 wios=4\n";
        assert_eq!(
            parse_v2(v2),
            (
                IoCounters {
                    reads: 11,
                    writes: 22
                },
                IoCounters { reads: 4, writes: 6 }
            )
        );
        assert_eq!(parse_v2(b""), Default::default());
    }

    #[test]
    fn weights_keep_their_middle() {
        for (file, asked, written) in [
            ("io.weight", 100, 100),
            ("io.weight", 10_000, 10_000),
            ("blkio.weight", 100, 500),
            ("blkio.weight", 1, 10),
            ("blkio.bfq.weight", 100, 100),
            ("io.bfq.weight", 10_000, 1000),
        ] {
            assert_eq!(scaled_weight(file, asked), written, "{file} {asked}");
        }
    }

    #[test]
    fn a_partition_means_its_disk() {
        let sys = tempfile::tempdir().unwrap();
        let disk = sys.path().join("devices/sda");
        std::fs::create_dir_all(disk.join("sda1")).unwrap();
        std::fs::write(disk.join("dev"), "8:0\n").unwrap();
        std::fs::write(disk.join("sda1/dev"), "8:1\n").unwrap();
        std::fs::write(disk.join("sda1/partition"), "1\n").unwrap();
        let block = sys.path().join("block");
        std::fs::create_dir(&block).unwrap();
        std::os::unix::fs::symlink(&disk, block.join("8:0")).unwrap();
        std::os::unix::fs::symlink(disk.join("sda1"), block.join("8:1")).unwrap();
        let number = DeviceNumber { major: 8, minor: 0 };
        assert_eq!(whole_disk_below(&block, "8:0").unwrap(), number);
        assert_eq!(whole_disk_below(&block, "8:1").unwrap(), number);
        assert!(matches!(
            whole_disk_below(&block, "9:9"),
            Err(DeviceError::NoBlockDevice { .. })
        ));
        assert!(matches!(
            whole_disk_below(&block, "sda"),
            Err(DeviceError::Malformed { .. })
        ));
        assert!(matches!(
            whole_disk_below(&block, "/nowhere"),
            Err(DeviceError::Missing { .. })
        ));
    }
}
