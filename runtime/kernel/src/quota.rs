//! Project quotas: a number on every file below a directory, and a ceiling on what all files with that number take.
//! quotactl_fd(2), and the `FS_IOC_FSSETXATTR` of ext4 and XFS. Kernel: fs/quota/quota.c, include/uapi/linux/fs.h.

use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::Errno;
use crate::directory;

const Q_GETQUOTA: u32 = 0x80_0007;
const Q_SETQUOTA: u32 = 0x80_0008;
/// Understood by every file system that counts, in spite of its name.
const Q_XGETQSTAT: u32 = (b'X' as u32) << 8 | 5;
const PRJQUOTA: u32 = 2;
const QIF_LIMITS: u32 = 1 | 4;
/// `qs_flags`: projects are counted, and held to their limits.
const PROJECTS_COUNTED: u16 = 1 << 4;
const PROJECTS_ENFORCED: u16 = 1 << 5;
/// Of limits in [`DiskQuota`].
const BLOCK_BYTES: u64 = 1024;

const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401c_5820;
const FS_XFLAG_PROJINHERIT: u32 = 0x200;

/// `struct if_dqblk`.
#[repr(C)]
#[derive(Default)]
struct DiskQuota {
    hard_blocks: u64,
    soft_blocks: u64,
    used_bytes: u64,
    hard_inodes: u64,
    soft_inodes: u64,
    used_inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

/// `struct fs_quota_stat`, of which the second field is read; larger than it is.
#[repr(C)]
struct QuotaState {
    version: i8,
    flags: u16,
    rest: [u64; 15],
}

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default, Clone, Copy)]
struct ExtendedAttributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}
const _: () = assert!(mem::size_of::<ExtendedAttributes>() == 28);

/// Why directories can not be limited here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuotaMissing {
    #[error("this kernel has no quotactl_fd (5.14)")]
    Call,
    #[error("the file system counts no projects (mount it with prjquota)")]
    NotCounted,
    #[error("the file system counts projects and holds none to a limit (mount it with prjquota)")]
    NotEnforced,
    #[error("its directories take no project id: {0}")]
    NoProjectIds(Errno),
    #[error("ask the file system: {0}")]
    Ask(Errno),
}

/// A file system that holds projects to their limits.
#[derive(Debug)]
pub struct ProjectQuota {
    file_system: OwnedFd,
}

impl ProjectQuota {
    /// That of `directory`, if it has quotas that are in force.
    pub fn probe(directory: &Path) -> Result<Self, QuotaMissing> {
        let file_system = directory::open(directory).map_err(QuotaMissing::Ask)?;
        // SAFETY: plain data for which all zeroes is valid.
        let mut state: QuotaState = unsafe { mem::zeroed() };
        match control(file_system.as_fd(), Q_XGETQSTAT, 0, &mut state) {
            Ok(()) => {}
            // The call is there from 5.14 on; what counts nothing answers in one of these ways.
            Err(Errno::ENOSYS) if control_missing(file_system.as_fd()) => return Err(QuotaMissing::Call),
            Err(Errno::ENOSYS | Errno::EINVAL | Errno::ESRCH | Errno::ENOTTY | Errno::EOPNOTSUPP) => {
                return Err(QuotaMissing::NotCounted);
            }
            Err(errno) => return Err(QuotaMissing::Ask(errno)),
        }
        match state.flags {
            flags if flags & PROJECTS_COUNTED == 0 => return Err(QuotaMissing::NotCounted),
            flags if flags & PROJECTS_ENFORCED == 0 => return Err(QuotaMissing::NotEnforced),
            _ => {}
        }
        project_of(file_system.as_fd()).map_err(QuotaMissing::NoProjectIds)?;
        Ok(Self { file_system })
    }

    /// Ceiling in bytes, rounded up to what the kernel counts in; none lifts it. Read back.
    pub fn set_limit(&self, project: u32, bytes: Option<u64>) -> Result<(), Errno> {
        let blocks = bytes.map_or(0, |bytes| bytes.div_ceil(BLOCK_BYTES));
        let mut quota = DiskQuota {
            hard_blocks: blocks,
            valid: QIF_LIMITS,
            ..DiskQuota::default()
        };
        control(self.file_system.as_fd(), Q_SETQUOTA, project, &mut quota)?;
        match self.get(project) {
            Ok(found) if found.hard_blocks == blocks => Ok(()),
            Ok(_) => Err(Errno::EIO),
            // Without limits and without files there is nothing to tell of.
            Err(Errno::ENOENT | Errno::ESRCH) if bytes.is_none() => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Bytes that all files of the project take.
    pub fn used(&self, project: u32) -> Result<u64, Errno> {
        match self.get(project) {
            Ok(quota) => Ok(quota.used_bytes),
            Err(Errno::ENOENT) => Ok(0),
            Err(errno) => Err(errno),
        }
    }

    fn get(&self, project: u32) -> Result<DiskQuota, Errno> {
        let mut quota = DiskQuota::default();
        control(self.file_system.as_fd(), Q_GETQUOTA, project, &mut quota)?;
        Ok(quota)
    }
}

/// The project id of a directory; 0 is none.
pub fn project_of(directory: BorrowedFd<'_>) -> Result<u32, Errno> {
    attributes(directory).map(|attributes| attributes.project)
}

/// Puts an empty directory into a project; what is made in it follows. Read back.
pub fn join_project(directory: BorrowedFd<'_>, project: u32) -> Result<(), Errno> {
    let mut wanted = attributes(directory)?;
    wanted.project = project;
    wanted.flags |= FS_XFLAG_PROJINHERIT;
    // SAFETY: the kernel reads one structure of the size that the request's number holds.
    let result = unsafe { libc::ioctl(directory.as_raw_fd(), FS_IOC_FSSETXATTR as _, &raw const wanted) };
    Errno::result(result)?;
    let found = attributes(directory)?;
    if found.project == project && found.flags & FS_XFLAG_PROJINHERIT != 0 {
        Ok(())
    } else {
        Err(Errno::EOPNOTSUPP)
    }
}

fn attributes(directory: BorrowedFd<'_>) -> Result<ExtendedAttributes, Errno> {
    let mut found = ExtendedAttributes::default();
    // SAFETY: the kernel writes one structure of the size that the request's number holds.
    let result = unsafe { libc::ioctl(directory.as_raw_fd(), FS_IOC_FSGETXATTR as _, &raw mut found) };
    Errno::result(result).map(|_| found)
}

fn control<T>(at: BorrowedFd<'_>, command: u32, id: u32, argument: &mut T) -> Result<(), Errno> {
    // SAFETY: the argument lives across the call and is at least as large as the command's structure.
    let result = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            at.as_raw_fd(),
            command << 8 | PRJQUOTA,
            id,
            std::ptr::from_mut(argument),
        )
    };
    Errno::result(result).map(drop)
}

/// A command that no kernel has tells whether the call itself is there.
fn control_missing(at: BorrowedFd<'_>) -> bool {
    let mut nothing = [0u64; 16];
    control(at, 0xff_ff00, 0, &mut nothing) == Err(Errno::ENOSYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_projects_says_so() {
        // procfs has neither.
        assert!(ProjectQuota::probe(Path::new("/proc")).is_err());
        assert!(ProjectQuota::probe(Path::new("/nowhere")).is_err());
    }
}
