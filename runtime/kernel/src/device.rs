//! The device nodes and links that every container's own `/dev` has, and where kernel filesystems
//! are mounted in it.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::Errno;
use crate::mount::{self, MountFlags};
use crate::procfs;

pub const MOUNT_POINT: &CStr = c"/dev";
pub const TERMINALS: &CStr = c"/dev/pts";
/// ptmxmode: everybody may open a new terminal of this instance. Kernel: filesystems/devpts.rst.
pub const TERMINALS_OPTIONS: &CStr = c"newinstance,ptmxmode=0666,mode=0620,gid=5";

/// The same for a container whose group 5 has another number outside.
pub fn terminals_options(group: u32) -> CString {
    // Digits hold no null byte.
    CString::new(format!("newinstance,ptmxmode=0666,mode=0620,gid={group}")).unwrap_or_default()
}

/// The group that terminals belong to, as everywhere.
pub const TERMINALS_GROUP: u32 = 5;
pub const SHARED_MEMORY: &str = "/dev/shm";
pub const CONSOLE: &str = "console";
pub const NULL: &CStr = c"/dev/null";

pub const SYSFS_MOUNT_POINT: &CStr = c"/sys";
pub const CGROUP_MOUNT_POINT: &CStr = c"/sys/fs/cgroup";
/// Covered: firmware tables, and power counters that leak what neighbours compute (CVE-2020-8694).
pub const SYSFS_MASKED: [&str; 2] = ["/sys/firmware", "/sys/devices/virtual/powercap"];

/// Name, major, minor: Kernel: admin-guide/devices.txt.
pub const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

pub const LINKS: [(&CStr, &CStr); 5] = [
    (c"fd", c"/proc/self/fd"),
    (c"stdin", c"/proc/self/fd/0"),
    (c"stdout", c"/proc/self/fd/1"),
    (c"stderr", c"/proc/self/fd/2"),
    (c"ptmx", c"pts/ptmx"),
];

/// Type bits of a character device with mode 0666.
pub const CHARACTER_DEVICE_FOR_ALL: u32 = libc::S_IFCHR | 0o666;

pub fn device_number(major: u32, minor: u32) -> u64 {
    libc::makedev(major, minor)
}

/// The host's null device by a read-only mount of its own. Containers get it as standard input, and root in
/// one could otherwise take it away from everybody: fchmod(2) works on any descriptor. Devices are
/// written to on a read-only mount as well.
pub fn open_null() -> Result<OwnedFd, Errno> {
    let tree = mount::clone_tree(None, Path::new(OsStr::from_bytes(NULL.to_bytes())), false)?;
    mount::restrict_tree(tree.as_fd(), MountFlags::READ_ONLY, MountFlags::NONE, false)?;
    let path = procfs::own_descriptor_path(tree.as_fd());
    // SAFETY: a string that ends in a null byte, and flags.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    // SAFETY: a new descriptor that nobody else owns.
    let null = unsafe { OwnedFd::from_raw_fd(Errno::result(fd)?) };
    // What stands at that name on this host is what it is expected to be.
    let facts = mount::facts(&null)?;
    if facts.mode & libc::S_IFMT != libc::S_IFCHR || facts.device != device_number(1, 3) {
        return Err(Errno::ENODEV);
    }
    Ok(null)
}

/// The null device in a `/dev` that is ours alone so far.
pub fn open_null_in(dev: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = libc::O_RDWR | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: a descriptor, a constant string that ends in a null byte, and flags.
    let fd = unsafe { libc::openat(dev.as_raw_fd(), c"null".as_ptr(), flags) };
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(Errno::result(fd)?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_null_device_can_be_written_but_not_changed() {
        if crate::host::require_root().is_err() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let mut null = std::fs::File::from(open_null().unwrap());
        std::io::Write::write_all(&mut null, b"gone").unwrap();
        let same_mode = null.metadata().unwrap().permissions();
        let error = null.set_permissions(same_mode).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
}
