//! Namespaces: left, joined, furnished.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::NixPath;

use crate::Errno;
pub use crate::process::NamespaceFlags;

pub fn unshare(namespaces: NamespaceFlags) -> Result<(), Errno> {
    // SAFETY: unshare takes an integer.
    Errno::result(unsafe { libc::unshare(namespaces.bits()) }).map(drop)
}

/// Joins namespaces: those of the process behind a pidfd (kernel >= 5.8, setns(2)), or the one behind
/// an nsfs descriptor.
pub fn join(fd: impl AsFd, namespaces: NamespaceFlags) -> Result<(), Errno> {
    // SAFETY: a descriptor and an integer.
    Errno::result(unsafe { libc::setns(fd.as_fd().as_raw_fd(), namespaces.bits()) }).map(drop)
}

/// The user namespace that owns this one (ioctl_ns(2), NS_GET_USERNS).
pub fn owner(namespace: impl AsFd) -> Result<OwnedFd, Errno> {
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    // SAFETY: a descriptor and a request without an argument.
    let result = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_USERNS) };
    // SAFETY: a new descriptor, close-on-exec, that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(Errno::result(result)?) })
}

pub fn set_hostname(name: &str) -> Result<(), Errno> {
    // SAFETY: pointer and length describe the string.
    Errno::result(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// The network namespace of the calling thread.
pub fn own_network() -> Result<OwnedFd, Errno> {
    open_namespace(Path::new("/proc/thread-self/ns/net"))
}

/// The network namespace of another process, which may be another's by now: for those whose pid is held.
pub fn network_of(pid: i32) -> Result<OwnedFd, Errno> {
    open_namespace(Path::new(&format!("/proc/{pid}/ns/net")))
}

fn open_namespace(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    let result = path.with_nix_path(|path| {
        // SAFETY: a string that ends in a null byte, and flags.
        unsafe { libc::open(path.as_ptr(), flags) }
    })?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(Errno::result(result)?) })
}

/// Sets the loopback interface of the current network namespace up: a new namespace has it down.
pub fn bring_up_loopback() -> Result<(), Errno> {
    // SAFETY: three integers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    // SAFETY: a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(Errno::result(socket)?) };
    // SAFETY: ifreq is plain data for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: netdevice(7): SIOCSIFFLAGS reads an ifreq.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Errno::result(result).map(drop)
}
