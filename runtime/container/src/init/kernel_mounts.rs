//! Kernel filesystems in a container's root, and what covers parts of them.
//!
//! An image may be changing under us: somebody else can have it as a volume, and turn `/proc` into a link and back. So
//! each of these mounts is looked at after it was made, at its place and through no link, and from then on everything in
//! it is reached from that handle. Were it by name, covers could come to lie over another directory and leave the
//! real `/proc/sys` writable somewhere else (the classes of CVE-2019-19921, CVE-2023-27561 and CVE-2025-52881).

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kernel::Errno;
use kernel::device;
use kernel::mount::{self, MountFlags, Walk};
use kernel::procfs;

use super::child::Failure;
use super::rootfs::{DIRECTORY_MODE, INERT};

/// Handles on the ones that are there.
#[derive(Default)]
pub(super) struct KernelMounts {
    processes: Option<OwnedFd>,
    system: Option<OwnedFd>,
}

fn path(text: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(text.to_bytes()))
}

impl KernelMounts {
    pub fn processes(&mut self) -> Result<(), Failure> {
        self.processes = Some(mount_at(c"proc", procfs::MOUNT_POINT, INERT, None)?);
        Ok(())
    }

    /// Another sysfs belongs to another network namespace. In the host's own the superblock is the host's,
    /// and the kernel refuses it where it is mounted already (EBUSY): there a copy of that one mount does
    /// the same, without what the host has mounted below (debugfs, tracefs, bpf).
    pub fn sysfs(&mut self, fresh: bool) -> Result<(), Failure> {
        let target = device::SYSFS_MOUNT_POINT;
        let failed = |errno| Failure::at("mount sysfs at", target.to_bytes())(errno);
        let flags = INERT.and(MountFlags::READ_ONLY);
        if fresh {
            match mount_at(c"sysfs", target, flags, None) {
                Err(failure) if failure.errno == Errno::EBUSY => {}
                answer => {
                    self.system = Some(answer?);
                    return Ok(());
                }
            }
        }
        let place = own_directory(target)?;
        let tree = mount::clone_tree(None, path(target), false).map_err(failed)?;
        verify(tree.as_fd(), c"sysfs", target)?;
        mount::restrict_tree(tree.as_fd(), flags, MountFlags::NONE, false).map_err(failed)?;
        mount::attach_tree(tree.as_fd(), place.as_fd()).map_err(failed)?;
        self.system = Some(tree);
        Ok(())
    }

    /// The place of something in one of them.
    pub fn locate(&self, target: &CStr) -> Result<OwnedFd, Errno> {
        let target = path(target);
        for (mounted, top) in [
            (&self.processes, procfs::MOUNT_POINT),
            (&self.system, device::SYSFS_MOUNT_POINT),
        ] {
            if let Ok(below) = target.strip_prefix(path(top)) {
                let mounted = mounted.as_ref().ok_or(Errno::ENODEV)?;
                return mount::locate(Some(mounted.as_fd()), below, Walk::NoLinks);
            }
        }
        Err(Errno::EINVAL)
    }

    /// Absent ones are passed over.
    pub fn read_only(&self, target: &CStr) -> Result<(), Failure> {
        let failed = |errno| Failure::at("make read-only", target.to_bytes())(errno);
        let place = match self.locate(target) {
            Err(Errno::ENOENT) => return Ok(()),
            place => place.map_err(failed)?,
        };
        let tree = mount::clone_tree(Some(place.as_fd()), Path::new(""), false).map_err(failed)?;
        let flags = INERT.and(MountFlags::READ_ONLY);
        mount::restrict_tree(tree.as_fd(), flags, MountFlags::NONE, false).map_err(failed)?;
        mount::attach_tree(tree.as_fd(), place.as_fd()).map_err(failed)
    }

    /// Covers a file with the null device in `dev`, which is ours. Absent ones are passed over.
    pub fn mask_file(&self, target: &CStr, dev: BorrowedFd<'_>) -> Result<(), Failure> {
        let failed = |errno| Failure::at("mask", target.to_bytes())(errno);
        let place = match self.locate(target) {
            Err(Errno::ENOENT) => return Ok(()),
            place => place.map_err(failed)?,
        };
        let null = mount::clone_tree(Some(dev), Path::new("null"), false).map_err(failed)?;
        mount::attach_tree(null.as_fd(), place.as_fd()).map_err(failed)
    }
}

/// Mounts a filesystem at a directory of the root and gives a handle on what is there then.
pub(super) fn mount_at(
    kind: &CStr,
    target: &CStr,
    flags: MountFlags,
    options: Option<&CStr>,
) -> Result<OwnedFd, Failure> {
    own_directory(target)?;
    let failed = |errno| Failure::at("mount at", target.to_bytes())(errno);
    mount::mount_filesystem(kind, target, flags, options).map_err(failed)?;
    let mounted = mount::locate(None, path(target), Walk::NoLinks).map_err(failed)?;
    verify(mounted.as_fd(), kind, target)?;
    Ok(mounted)
}

/// Refuses what is not a filesystem of this kind: the mount has gone elsewhere, the name was exchanged meanwhile.
pub(super) fn verify(mounted: BorrowedFd<'_>, kind: &CStr, target: &CStr) -> Result<(), Failure> {
    let failed = |errno| Failure::at("look at the mount at", target.to_bytes())(errno);
    if mount::is_filesystem(mounted, kind).map_err(failed)? {
        return Ok(());
    }
    Err(failed(Errno::ESTALE).because("the image changed while it was being mounted to"))
}

/// A directory at the top of the root that a kernel filesystem goes on: made when the image lacks it,
/// refused when it is a link (the class of CVE-2026-41579).
fn own_directory(target: &CStr) -> Result<OwnedFd, Failure> {
    let failed = |errno| Failure::at("use mount point", target.to_bytes())(errno);
    match mount::locate(None, path(target), Walk::NoLinks) {
        Ok(place) if mount::facts(&place).map_err(failed)?.is_directory() => Ok(place),
        Ok(_) => Err(failed(Errno::ENOTDIR)),
        Err(Errno::ELOOP) => Err(failed(Errno::ELOOP).because("a symbolic link in the image")),
        Err(Errno::ENOENT) => {
            let root = mount::locate(None, Path::new("/"), Walk::NoLinks).map_err(failed)?;
            let name = path(target).strip_prefix("/").unwrap_or(path(target));
            mount::make_directory(root.as_fd(), name, DIRECTORY_MODE).map_err(failed)?;
            mount::locate(Some(root.as_fd()), name, Walk::NoLinks).map_err(failed)
        }
        Err(errno) => Err(failed(errno)),
    }
}
