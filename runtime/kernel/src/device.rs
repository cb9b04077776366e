//! The device nodes and links that every container's own `/dev` has, and where kernel filesystems
//! are mounted in it.

use std::ffi::{CStr, CString};
use std::os::fd::{FromRawFd, OwnedFd};

use crate::Errno;

pub const MOUNT_POINT: &CStr = c"/dev";
pub const TERMINALS: &CStr = c"/dev/pts";
/// ptmxmode: everybody may open a new terminal of this instance. Kernel: filesystems/devpts.rst.
pub const TERMINALS_OPTIONS: &CStr = c"newinstance,ptmxmode=0666,mode=0620,gid=5";
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

/// The host's or the container's null device, whichever root we are in.
pub fn open_null() -> Result<OwnedFd, Errno> {
    // SAFETY: a constant string that ends in a null byte, and flags.
    let fd = unsafe { libc::open(NULL.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(Errno::result(fd)?) })
}

/// Where one v1 hierarchy is mounted in a container.
pub fn cgroup_directory(controllers: &CStr) -> CString {
    let mut path = CGROUP_MOUNT_POINT.to_bytes().to_vec();
    path.push(b'/');
    path.extend_from_slice(controllers.to_bytes());
    // Parts of C strings hold no null byte.
    CString::new(path).unwrap_or_default()
}
