//! Mounts, and the walks below a root that may be hostile.
//!
//! Two families of calls: the classic mount(2), one call where a kernel filesystem is mounted at a
//! place that is ours alone; and trees as descriptors (open_tree(2), move_mount(2)) wherever somebody
//! else may be swapping directories for symbolic links while we work.

use std::ffi::CStr;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::ptr;

use nix::NixPath;

use crate::Errno;

const OPEN_TREE_CLONE: libc::c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;

/// Flags of a mount, as mount_setattr(2) names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MountFlags(u64);

impl MountFlags {
    pub const NONE: Self = Self(0);
    pub const READ_ONLY: Self = Self(0x1);
    pub const NO_SUID: Self = Self(0x2);
    pub const NO_DEVICES: Self = Self(0x4);
    pub const NO_EXECUTE: Self = Self(0x8);

    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// The same for mount(2).
    fn classic(self) -> libc::c_ulong {
        let pairs = [
            (Self::READ_ONLY, libc::MS_RDONLY),
            (Self::NO_SUID, libc::MS_NOSUID),
            (Self::NO_DEVICES, libc::MS_NODEV),
            (Self::NO_EXECUTE, libc::MS_NOEXEC),
        ];
        pairs
            .iter()
            .filter(|(flag, _)| self.0 & flag.0 != 0)
            .fold(0, |all, (_, ms)| all | ms)
    }
}

/// Kept in step with `struct mount_attr` of linux/mount.h (first published size).
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}
const _: () = assert!(mem::size_of::<MountAttributes>() == 32);

fn set_attributes(at: RawFd, path: &CStr, flags: i32, attributes: &MountAttributes) -> Result<(), Errno> {
    // SAFETY: the structure lives across the call and its size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at,
            path.as_ptr(),
            flags,
            ptr::from_ref(attributes),
            mem::size_of::<MountAttributes>(),
        )
    };
    Errno::result(result).map(drop)
}

/// Gives a mount, or with `recursive` all mounts below it too, these flags, and cuts it off from
/// propagation in both directions. One call, however many mounts there are.
pub fn restrict_path(path: &CStr, set: MountFlags, recursive: bool) -> Result<(), Errno> {
    let private = MountAttributes {
        set: set.0,
        clear: 0,
        propagation: libc::MS_PRIVATE,
        user_namespace: 0,
    };
    set_attributes(
        libc::AT_FDCWD,
        path,
        if recursive { libc::AT_RECURSIVE } else { 0 },
        &private,
    )
}

/// Like [`restrict_path`], for a tree held by descriptor; also takes flags away.
pub fn restrict_tree(
    tree: BorrowedFd<'_>,
    set: MountFlags,
    clear: MountFlags,
    recursive: bool,
) -> Result<(), Errno> {
    let attributes = MountAttributes {
        set: set.0,
        clear: clear.0,
        propagation: libc::MS_PRIVATE,
        user_namespace: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    set_attributes(tree.as_raw_fd(), c"", flags, &attributes)
}

/// MOUNT_ATTR_IDMAP, mount_setattr(2).
const MAP_IDS: u64 = 0x0010_0000;

/// Shows the files of a detached tree under mapped ids: what belongs to id n of the user namespace on disk belongs to
/// the id that n has outside of it. EINVAL: a filesystem in the tree can not do that; EPERM: it is mapped already.
pub fn map_ids(tree: BorrowedFd<'_>, users: BorrowedFd<'_>, recursive: bool) -> Result<(), Errno> {
    let attributes = MountAttributes {
        set: MAP_IDS,
        clear: 0,
        propagation: 0,
        user_namespace: users.as_raw_fd() as u64,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    set_attributes(tree.as_raw_fd(), c"", flags, &attributes)
}

/// Whether the kernel knows mounts with mapped ids at all. It looks at the descriptor of the user namespace before it
/// does anything, and there is none with this number.
pub fn can_map_ids() -> bool {
    let attributes = MountAttributes {
        set: MAP_IDS,
        clear: 0,
        propagation: 0,
        user_namespace: i32::MAX as u64,
    };
    set_attributes(libc::AT_FDCWD, c"/", 0, &attributes) == Err(Errno::EBADF)
}

/// mount(2) of a filesystem.
pub fn mount_filesystem(
    kind: &CStr,
    target: &CStr,
    flags: MountFlags,
    options: Option<&CStr>,
) -> Result<(), Errno> {
    let options = options.map_or(ptr::null(), |options| options.as_ptr().cast());
    // SAFETY: all strings end in a null byte; options may be null (mount(2)).
    let result = unsafe {
        libc::mount(
            kind.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags.classic(),
            options,
        )
    };
    Errno::result(result).map(drop)
}

/// A detached copy of the mount at `path`, with all mounts below it when `recursive`. An empty path
/// names `dir` itself.
pub fn clone_tree(dir: Option<BorrowedFd<'_>>, path: &Path, recursive: bool) -> Result<OwnedFd, Errno> {
    let at = dir.map_or(libc::AT_FDCWD, |dir| dir.as_raw_fd());
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    if path.as_os_str().is_empty() {
        flags |= libc::AT_EMPTY_PATH as libc::c_uint;
    }
    let result = path.with_nix_path(|path| {
        // SAFETY: a descriptor, a string that ends in a null byte, and flags.
        unsafe { libc::syscall(libc::SYS_open_tree, at, path.as_ptr(), flags) }
    })?;
    let fd = Errno::result(result)? as RawFd;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts a detached tree at the place that `target` holds.
pub fn attach_tree(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    move_mount(
        tree,
        target.as_raw_fd(),
        c"",
        MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
    )
}

fn move_mount(tree: BorrowedFd<'_>, at: RawFd, target: &CStr, flags: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: descriptors, strings that end in a null byte, and flags.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            at,
            target.as_ptr(),
            flags,
        )
    };
    Errno::result(result).map(drop)
}

/// Makes the directory that `root` holds the root of this mount namespace and detaches the old one,
/// so that nothing leads back to it (pivot_root(2), the `pivot_root(".", ".")` form).
pub fn enter_root(root: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: a descriptor; and constant strings that end in a null byte.
    unsafe {
        Errno::result(libc::fchdir(root.as_raw_fd()))?;
        Errno::result(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
        Errno::result(libc::umount2(c".".as_ptr(), libc::MNT_DETACH))?;
        Errno::result(libc::chdir(c"/".as_ptr()))?;
    }
    Ok(())
}

/// Lets go of a mount at once; it disappears when its last user does.
pub fn detach(path: &Path) -> Result<(), Errno> {
    let result = path.with_nix_path(|path| {
        // SAFETY: a string that ends in a null byte, and flags.
        unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) }
    })?;
    Errno::result(result).map(drop)
}

/// How a path is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// As the host sees it; only the magic links of procfs are refused.
    Host,
    /// `dir` is the root: neither `..` nor an absolute link leads out of it.
    InRoot,
    /// No symbolic link at all, at any place of the path.
    NoLinks,
}

/// The place that a path leads to, as a handle that can not be read or written (`O_PATH`).
pub fn locate(dir: Option<BorrowedFd<'_>>, path: &Path, walk: Walk) -> Result<OwnedFd, Errno> {
    open_below(dir, path, libc::O_PATH, walk)
}

/// Opens a file for reading below `dir` taken as the root.
pub fn open_in_root(dir: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    // O_NONBLOCK: a FIFO put there by the image must not stop us.
    open_below(
        Some(dir),
        path,
        libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY,
        Walk::InRoot,
    )
}

fn open_below(dir: Option<BorrowedFd<'_>>, path: &Path, flags: i32, walk: Walk) -> Result<OwnedFd, Errno> {
    let at = dir.map_or(libc::AT_FDCWD, |dir| dir.as_raw_fd());
    // SAFETY: open_how is plain data for which all zeroes is valid.
    let mut how: libc::open_how = unsafe { mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_NO_MAGICLINKS
        | match walk {
            Walk::Host => 0,
            Walk::InRoot => libc::RESOLVE_IN_ROOT,
            Walk::NoLinks => libc::RESOLVE_NO_SYMLINKS,
        };
    // RESOLVE_IN_ROOT answers EAGAIN when it raced with a rename somewhere in the system
    // (openat2(2)); a hostile renamer may not stop us for ever.
    for _ in 0..WALK_RETRIES {
        let result = path.with_nix_path(|path| {
            // SAFETY: the string ends in a null byte; `how` lives across the call, its size is given.
            unsafe {
                libc::syscall(
                    libc::SYS_openat2,
                    at,
                    path.as_ptr(),
                    &raw const how,
                    mem::size_of::<libc::open_how>(),
                )
            }
        })?;
        match Errno::result(result) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // SAFETY: a new descriptor that nobody else owns.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }),
            Err(error) => return Err(error),
        }
    }
    Err(Errno::EAGAIN)
}

const WALK_RETRIES: u32 = 128;

/// What stands at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFacts {
    /// Type and permission bits.
    pub mode: u32,
    /// Of a device node.
    pub device: u64,
}

impl FileFacts {
    pub fn is_directory(self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }
    pub fn is_device(self) -> bool {
        matches!(self.mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK)
    }
}

pub fn facts(fd: impl AsFd) -> Result<FileFacts, Errno> {
    // SAFETY: stat is plain data for which all zeroes is valid.
    let mut stat: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: stat lives across the call.
    Errno::result(unsafe { libc::fstat(fd.as_fd().as_raw_fd(), &raw mut stat) })?;
    Ok(FileFacts {
        mode: stat.st_mode,
        device: stat.st_rdev,
    })
}

/// mkdirat(2); the mode is not changed by the umask when that is 0.
pub fn make_directory(dir: BorrowedFd<'_>, name: &Path, mode: u32) -> Result<(), Errno> {
    let result = name.with_nix_path(|name| {
        // SAFETY: a descriptor, a string that ends in a null byte, and a mode.
        unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) }
    })?;
    Errno::result(result).map(drop)
}

/// An empty regular file; fails when something is there already.
pub fn make_file(dir: BorrowedFd<'_>, name: &Path, mode: u32) -> Result<(), Errno> {
    make_node(dir, name, libc::S_IFREG | mode, 0)
}

/// mknodat(2): `mode` holds the type.
pub fn make_node(dir: BorrowedFd<'_>, name: &Path, mode: u32, device: u64) -> Result<(), Errno> {
    let result = name.with_nix_path(|name| {
        // SAFETY: a descriptor, a string that ends in a null byte, and integers.
        unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, device) }
    })?;
    Errno::result(result).map(drop)
}

pub fn make_link(dir: BorrowedFd<'_>, name: &CStr, to: &CStr) -> Result<(), Errno> {
    // SAFETY: a descriptor and strings that end in a null byte.
    let result = unsafe { libc::symlinkat(to.as_ptr(), dir.as_raw_fd(), name.as_ptr()) };
    Errno::result(result).map(drop)
}

/// procfs, sysfs, cgroups or terminals: places that nothing of a container's making may cover.
pub fn is_kernel_interface(place: impl AsFd) -> Result<bool, Errno> {
    const KINDS: [u64; 5] = [
        libc::PROC_SUPER_MAGIC as u64,
        libc::SYSFS_MAGIC as u64,
        libc::CGROUP_SUPER_MAGIC as u64,
        libc::CGROUP2_SUPER_MAGIC as u64,
        libc::DEVPTS_SUPER_MAGIC as u64,
    ];
    filesystem_magic(place).map(|kind| KINDS.contains(&(kind as u64)))
}

/// Whether a place lies on a filesystem of this kind, as mount(2) names it. Of kinds that we do not mount: never.
pub fn is_filesystem(place: impl AsFd, kind: &CStr) -> Result<bool, Errno> {
    let magic = match kind.to_bytes() {
        b"proc" => libc::PROC_SUPER_MAGIC,
        b"sysfs" => libc::SYSFS_MAGIC,
        b"tmpfs" => libc::TMPFS_MAGIC,
        b"devpts" => libc::DEVPTS_SUPER_MAGIC,
        b"cgroup2" => libc::CGROUP2_SUPER_MAGIC,
        b"bpf" => libc::BPF_FS_MAGIC,
        _ => return Ok(false),
    };
    filesystem_magic(place).map(|found| found == magic)
}

/// A number that tells filesystems apart: `f_type` of statfs(2).
pub fn filesystem_magic(fd: impl AsFd) -> Result<i64, Errno> {
    // SAFETY: statfs is plain data for which all zeroes is valid.
    let mut stat: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: stat lives across the call.
    Errno::result(unsafe { libc::fstatfs(fd.as_fd().as_raw_fd(), &raw mut stat) })?;
    Ok(stat.f_type)
}
