//! Device nodes that a group may make, read and write.
//!
//! v1: `devices.deny`, `devices.allow`, `devices.list`. v2 has no files: a BPF program at the group decides
//! (crate `bpf`); it works on the v2 tree of a hybrid host too.
//! Kernel: admin-guide/cgroup-v1/devices.rst; bpf/prog_cgroup_device in cgroup-v2.rst "Device controller".

use std::fmt;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::group::{Group, LimitError};
use super::io::DeviceNumber;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    Block,
    Character,
}

/// Where device nodes are.
pub const DIRECTORY: &str = "/dev";

/// One thing that is allowed. `None` stands for every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceAllowance {
    pub kind: DeviceKind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub read: bool,
    pub write: bool,
    pub mknod: bool,
}

const fn open(major: u32, minor: Option<u32>) -> DeviceAllowance {
    DeviceAllowance {
        kind: DeviceKind::Character,
        major: Some(major),
        minor,
        read: true,
        write: true,
        mknod: true,
    }
}

const fn any_node(kind: DeviceKind) -> DeviceAllowance {
    DeviceAllowance {
        kind,
        major: None,
        minor: None,
        read: false,
        write: false,
        mknod: true,
    }
}

/// What every container may use. Making a node is harmless, opening it is not. Of Mesos' list the host's
/// own terminals (tty0, tty1, console) and net/tun are left out: a container gets its own terminals from
/// devpts, and a tunnel is a device to ask for. Numbers: admin-guide/devices.txt.
pub const DEFAULT: [DeviceAllowance; 10] = [
    any_node(DeviceKind::Character),
    any_node(DeviceKind::Block),
    open(1, Some(3)), // null
    open(1, Some(5)), // zero
    open(1, Some(7)), // full
    open(1, Some(8)), // random
    open(1, Some(9)), // urandom
    open(5, Some(0)), // tty
    open(5, Some(2)), // ptmx
    open(136, None),  // pts/*
];

impl fmt::Display for DeviceAllowance {
    /// As `devices.allow` takes it: `c 1:3 rwm`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DeviceKind::Block => 'b',
            DeviceKind::Character => 'c',
        };
        write!(f, "{kind} ")?;
        match self.major {
            Some(major) => write!(f, "{major}:")?,
            None => f.write_str("*:")?,
        }
        match self.minor {
            Some(minor) => write!(f, "{minor} ")?,
            None => f.write_str("* ")?,
        }
        for (allowed, letter) in [(self.read, "r"), (self.write, "w"), (self.mknod, "m")] {
            if allowed {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// Why a path is not a device node.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("read {path}", path = path.display())]
    Missing { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a device node", path = path.display())]
    NotADevice { path: PathBuf },
}

/// Kind and number of the device node at `path`.
pub fn node(path: &Path) -> Result<(DeviceKind, DeviceNumber), NodeError> {
    let metadata = std::fs::metadata(path).map_err(|source| NodeError::Missing {
        path: path.to_owned(),
        source,
    })?;
    let kind = match metadata.file_type() {
        kind if kind.is_block_device() => DeviceKind::Block,
        kind if kind.is_char_device() => DeviceKind::Character,
        _ => {
            return Err(NodeError::NotADevice {
                path: path.to_owned(),
            });
        }
    };
    Ok((kind, DeviceNumber::from_raw(metadata.st_rdev())))
}

/// Denies everything, allows the list, and checks that the group shows exactly that.
pub fn apply_v1(group: Group<'_>, allowed: &[DeviceAllowance]) -> Result<(), LimitError> {
    group.tree.write(group.name, "devices.deny", "a")?;
    for allowance in allowed {
        group
            .tree
            .write(group.name, "devices.allow", &allowance.to_string())?;
    }
    let found = group.tree.read_text(group.name, "devices.list")?;
    let wanted: Vec<String> = allowed.iter().map(ToString::to_string).collect();
    let complete = wanted.iter().all(|line| found.lines().any(|l| l == line));
    if complete && !found.lines().any(|line| line.starts_with('a')) {
        return Ok(());
    }
    Err(LimitError::Mismatch {
        path: group.path_of("devices.list"),
        wrote: wanted.join(", "),
        found: found.trim().replace('\n', ", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowances_read_as_the_kernel_writes_them() {
        let lines: Vec<String> = DEFAULT.iter().map(ToString::to_string).collect();
        assert_eq!(lines[..3], ["c *:* m", "b *:* m", "c 1:3 rwm"]);
        assert_eq!(lines[9], "c 136:* rwm");
    }

    #[test]
    fn nodes_are_told_from_files() {
        let (kind, number) = node(Path::new("/dev/null")).unwrap();
        assert_eq!((kind, number.major, number.minor), (DeviceKind::Character, 1, 3));
        assert!(matches!(node(Path::new("/")), Err(NodeError::NotADevice { .. })));
        assert!(matches!(
            node(Path::new("/nowhere")),
            Err(NodeError::Missing { .. })
        ));
    }
}
