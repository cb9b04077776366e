//! User namespaces: made with their ids mapped, entered, and what a maker does on behalf of its root.
//!
//! The namespace is made by a short-lived child that leaves two descriptors behind and ends: the namespace,
//! and its own directory in procfs, through which the maker (privileged, outside) writes the maps. So no one
//! has ever run in the namespace before it is whole, and nobody has to wait for anybody
//! (user_namespaces(7), "Defining user and group ID mappings").

use std::ffi::{CStr, c_int};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::Errno;
use crate::capability::{self, CapabilitySet};
use crate::namespace;
use crate::process::{self, NamespaceFlags, Parentage};
use crate::signal;

/// A namespace that nobody is in yet.
#[derive(Debug)]
pub struct UserNamespace {
    pub user: OwnedFd,
    /// A network namespace that it owns.
    pub network: Option<OwnedFd>,
}

#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// ENOSPC: `user.max_user_namespaces` is reached. EINVAL: the kernel has none (CONFIG_USER_NS).
    #[error("clone into a new user namespace")]
    Clone(#[source] Errno),
    #[error("open the new namespace in procfs")]
    Open(#[source] Errno),
    #[error("write {value:?} to the new namespace's {file}")]
    Map {
        file: &'static str,
        value: String,
        source: Errno,
    },
}

impl MakeError {
    pub fn errno(&self) -> Errno {
        match self {
            Self::Clone(errno) | Self::Open(errno) | Self::Map { source: errno, .. } => *errno,
        }
    }
}

/// What the child finds; descriptors are shared with its maker.
struct Birth {
    with_network: bool,
    directory: RawFd,
    user: RawFd,
    network: RawFd,
    failure: Option<Errno>,
}

/// Makes a user namespace in which the ids from 0 to `count` - 1 are those from `base` on outside, for users and for
/// groups alike. Needs CAP_SETUID, CAP_SETGID and CAP_SYS_ADMIN. May be called from any thread.
pub fn make(base: u32, count: u32, with_network: bool) -> Result<UserNamespace, MakeError> {
    let mut birth = Birth {
        with_network,
        directory: -1,
        user: -1,
        network: -1,
        failure: None,
    };
    let mut flags = libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_NEWUSER;
    if with_network {
        flags |= libc::CLONE_NEWNET;
    }
    let blocked = signal::block_all();
    let spawned = process::spawn_before_exec(Parentage::Mine, flags, &mut birth, open_own);
    drop(blocked);
    let (_, pidfd) = spawned.map_err(MakeError::Clone)?;
    // Reaped last: its directory in procfs lives as long as its zombie does.
    let made = own(&birth).and_then(|(directory, made)| {
        let map = format!("0 {base} {count}");
        for file in [c"uid_map", c"gid_map"] {
            write_map(directory.as_fd(), file, &map)?;
        }
        Ok(made)
    });
    let _ = process::wait_pidfd(&pidfd, true);
    made
}

fn own(birth: &Birth) -> Result<(OwnedFd, UserNamespace), MakeError> {
    // SAFETY: opened by the child in the table that we share, and known to nobody else.
    let take = |fd: RawFd| (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) });
    let (directory, user, network) = (take(birth.directory), take(birth.user), take(birth.network));
    match (birth.failure, directory, user) {
        (None, Some(directory), Some(user)) => Ok((directory, UserNamespace { user, network })),
        (failure, ..) => Err(MakeError::Open(failure.unwrap_or(Errno::EIO))),
    }
}

/// In the child: only system calls, its maker is suspended and shares its memory.
fn open_own(birth: &mut Birth) -> c_int {
    let mut open = |path: &CStr, flags: c_int| -> RawFd {
        // SAFETY: a constant string that ends in a null byte, and flags.
        match Errno::result(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) }) {
            Ok(fd) => fd,
            Err(errno) => {
                birth.failure = Some(errno);
                -1
            }
        }
    };
    let directory = open(c"/proc/self", libc::O_PATH | libc::O_DIRECTORY);
    let user = open(c"/proc/self/ns/user", libc::O_RDONLY);
    let network = match birth.with_network {
        true => open(c"/proc/self/ns/net", libc::O_RDONLY),
        false => -1,
    };
    (birth.directory, birth.user, birth.network) = (directory, user, network);
    0
}

fn write_map(directory: BorrowedFd<'_>, file: &'static CStr, map: &str) -> Result<(), MakeError> {
    let write = || {
        let flags = libc::O_WRONLY | libc::O_CLOEXEC;
        // SAFETY: a descriptor, a constant string that ends in a null byte, and flags.
        let fd = Errno::result(unsafe { libc::openat(directory.as_raw_fd(), file.as_ptr(), flags) })?;
        // SAFETY: a new descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // One write: a map can be written once.
        process::write_once(fd.as_fd(), map.as_bytes())
    };
    write().map_err(|source| MakeError::Map {
        file: file.to_str().unwrap_or_default(),
        value: map.to_owned(),
        source,
    })
}

/// From here on what we make in file systems belongs to `id`, while all our capabilities stay. Without this, files on
/// a mount with mapped ids can not be made at all: our own id has no place there.
pub fn make_files_as(id: u32) -> Result<(), Errno> {
    // SAFETY: integers; these calls tell nothing of their success but the id before.
    let set = unsafe {
        libc::syscall(libc::SYS_setfsgid, id);
        libc::syscall(libc::SYS_setfsuid, id);
        libc::syscall(libc::SYS_setfsuid, u32::MAX) as u32 == id
            && libc::syscall(libc::SYS_setfsgid, u32::MAX) as u32 == id
    };
    if !set {
        return Err(Errno::EPERM);
    }
    // It took those away that have to do with files (capabilities(7), "Effect of user ID changes").
    let (_, permitted) = capability::own()?;
    capability::set(permitted, permitted, CapabilitySet::EMPTY)
}

/// Becomes root in the namespace, and nothing outside. The caller has one thread. All capabilities from here on are
/// those over the namespace.
pub fn enter(user: BorrowedFd<'_>) -> Result<(), Errno> {
    namespace::join(user, NamespaceFlags::USER)?;
    process::become_user(0, 0, &[])
}

/// Whether this kernel has them and lets any be made: `None` when that can not be read.
pub fn available() -> Option<bool> {
    match fs::read_to_string(CEILING) {
        Ok(text) => text.trim().parse::<u64>().ok().map(|most| most > 0),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(false),
        Err(_) => None,
    }
}

const CEILING: &str = "/proc/sys/user/max_user_namespaces";

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u32 = 1_900_000_000;

    #[test]
    fn a_namespace_is_made_with_its_maps_and_no_process_stays() {
        if crate::host::require_root().is_err() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let made = make(BASE, 1000, true).unwrap();
        assert!(made.network.is_some());
        let descriptor = |fd: &OwnedFd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        assert_ne!(
            descriptor(&made.user),
            fs::read_link("/proc/self/ns/user").unwrap()
        );
        let fault = make(BASE, 0, false).unwrap_err();
        assert_eq!(fault.errno(), Errno::EINVAL, "{fault}");
        assert!(make(BASE, 1, false).unwrap().network.is_none());
    }
}
