//! Directories as descriptors, for walks through trees that a container has made: by name below a descriptor, never
//! through a link, never across a mount (openat2(2), `RESOLVE_NO_XDEV`; a bind mount counts as one).

use std::ffi::CStr;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use crate::Errno;

/// Kept in step with `struct open_how` of linux/openat2.h.
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

const DIRECTORY: libc::c_int = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;

/// A directory by an ordinary path, links followed: for places that are ours alone.
pub fn open(path: &Path) -> Result<OwnedFd, Errno> {
    nix::fcntl::open(
        path,
        nix::fcntl::OFlag::from_bits_truncate(DIRECTORY),
        nix::sys::stat::Mode::empty(),
    )
}

/// As [`open`], but not if the last part of the path is a link.
pub fn open_no_link(path: &Path) -> Result<OwnedFd, Errno> {
    nix::fcntl::open(
        path,
        nix::fcntl::OFlag::from_bits_truncate(DIRECTORY | libc::O_NOFOLLOW),
        nix::sys::stat::Mode::empty(),
    )
}

/// The directory `name` in `at`. `ELOOP` or `ENOTDIR` for a link, `EXDEV` for a mount point.
pub fn open_below(at: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let how = OpenHow {
        flags: (DIRECTORY | libc::O_NOFOLLOW) as u64,
        mode: 0,
        resolve: libc::RESOLVE_NO_XDEV | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_BENEATH,
    };
    // SAFETY: the name ends in a null byte, the structure lives across the call and its size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            at.as_raw_fd(),
            name.as_ptr(),
            &raw const how,
            mem::size_of::<OpenHow>(),
        )
    };
    let fd = Errno::result(result)?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The directory that `at` is in now. It may have been moved: compare [`Facts`] before going on.
pub fn open_parent(at: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    // SAFETY: a constant string; a new descriptor is returned.
    let fd = Errno::result(unsafe { libc::openat(at.as_raw_fd(), c"..".as_ptr(), DIRECTORY) })?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Kept in step with `struct file_handle` of open_by_handle_at(2), with room for the longest.
#[repr(C)]
#[derive(Clone)]
pub struct Handle {
    bytes: libc::c_uint,
    kind: libc::c_int,
    handle: [u8; HANDLE_BYTES],
}
const HANDLE_BYTES: usize = 128; // MAX_HANDLE_SZ

impl Handle {
    /// By which a directory is found again wherever it has been moved to. Not every file system has such.
    pub fn of(directory: BorrowedFd<'_>) -> Result<Self, Errno> {
        let mut this = Self {
            bytes: HANDLE_BYTES as libc::c_uint,
            kind: 0,
            handle: [0; HANDLE_BYTES],
        };
        let mut mount: libc::c_int = 0;
        // SAFETY: the structure has the room that it tells, and both results live across the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                directory.as_raw_fd(),
                c"".as_ptr(),
                &raw mut this,
                &raw mut mount,
                libc::AT_EMPTY_PATH,
            )
        };
        Errno::result(result).map(|_| this)
    }

    /// Needs CAP_DAC_READ_SEARCH. `near`: any descriptor on the same file system.
    pub fn open(&self, near: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        let mut this = self.clone();
        // SAFETY: a structure that the kernel filled.
        let result = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                near.as_raw_fd(),
                &raw mut this,
                DIRECTORY,
            )
        };
        let fd = Errno::result(result)?;
        // SAFETY: a new descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    }
}

/// What statx(2) tells of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub device: (u32, u32),
    pub inode: u64,
    pub directory: bool,
    pub links: u32,
    /// What it takes on the disk, holes left out.
    pub bytes: u64,
    /// Last change of the content, milliseconds since the epoch; before it: 0.
    pub modified_ms: u64,
}

/// Of `name` in `at`, itself if it is a link; of `at` itself if the name is empty.
pub fn facts(at: BorrowedFd<'_>, name: &CStr) -> Result<Facts, Errno> {
    // SAFETY: statx is plain data for which all zeroes is valid.
    let mut found: libc::statx = unsafe { mem::zeroed() };
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_EMPTY_PATH;
    // SAFETY: the name ends in a null byte and the result lives across the call.
    let result = unsafe {
        libc::statx(
            at.as_raw_fd(),
            name.as_ptr(),
            flags,
            libc::STATX_BASIC_STATS,
            &raw mut found,
        )
    };
    Errno::result(result)?;
    let seconds = u64::try_from(found.stx_mtime.tv_sec).unwrap_or(0);
    Ok(Facts {
        device: (found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        directory: u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFDIR,
        links: found.stx_nlink,
        bytes: found.stx_blocks.saturating_mul(512),
        modified_ms: seconds.saturating_mul(1000) + u64::from(found.stx_mtime.tv_nsec / 1_000_000),
    })
}

/// Sets the time of the last change to now, of a link its own.
pub fn touch(path: &Path) -> Result<(), Errno> {
    nix::NixPath::with_nix_path(path, |path| {
        // SAFETY: the path ends in a null byte; no times means now (utimensat(2)).
        let result = unsafe {
            libc::utimensat(
                libc::AT_FDCWD,
                path.as_ptr(),
                std::ptr::null(),
                libc::AT_SYMLINK_NOFOLLOW,
            )
        };
        Errno::result(result).map(drop)
    })?
}

/// Anything but a directory.
pub fn remove_file(at: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    // SAFETY: the name ends in a null byte.
    Errno::result(unsafe { libc::unlinkat(at.as_raw_fd(), name.as_ptr(), 0) }).map(drop)
}

/// An empty directory.
pub fn remove_directory(at: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    // SAFETY: the name ends in a null byte.
    Errno::result(unsafe { libc::unlinkat(at.as_raw_fd(), name.as_ptr(), libc::AT_REMOVEDIR) }).map(drop)
}

/// Renames, and never replaces.
pub fn rename(from: BorrowedFd<'_>, name: &CStr, to: BorrowedFd<'_>, new: &CStr) -> Result<(), Errno> {
    // SAFETY: both names end in a null byte.
    let result = unsafe {
        libc::renameat2(
            from.as_raw_fd(),
            name.as_ptr(),
            to.as_raw_fd(),
            new.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    };
    Errno::result(result).map(drop)
}

/// Some hundred names; a container may make millions.
const BUFFER_BYTES: usize = 16 << 10;
/// Of `struct linux_dirent64` (getdents64(2)): inode, offset, length, type, name.
const HEADER_BYTES: usize = 19;

/// The entries of a directory, some at a time. The descriptor is the caller's, which may close it in between.
#[derive(Default)]
pub struct Entries {
    buffer: Vec<u8>,
    at: usize,
}

/// One name in a directory.
pub struct Entry<'a> {
    pub name: &'a CStr,
    /// None: this file system does not tell here, ask [`facts`].
    pub directory: Option<bool>,
    /// Where the next entry begins, for [`Entries::seek`].
    pub next: i64,
}

impl Entries {
    /// The next entry, `.` and `..` left out; none at the end.
    pub fn next(&mut self, directory: BorrowedFd<'_>) -> Result<Option<Entry<'_>>, Errno> {
        let range = loop {
            if self.at >= self.buffer.len() && !self.fill(directory)? {
                return Ok(None);
            }
            let record = &self.buffer[self.at..];
            let length = record
                .get(16..18)
                .map(|b| usize::from(u16::from_ne_bytes([b[0], b[1]])))
                .filter(|length| *length > HEADER_BYTES && *length <= record.len())
                .ok_or(Errno::EIO)?;
            let start = self.at;
            self.at += length;
            if !matches!(&record[HEADER_BYTES..length], [b'.', 0, ..] | [b'.', b'.', 0, ..]) {
                break start..start + length;
            }
        };
        let record = &self.buffer[range];
        let next = record[8..16].try_into().map_or(0, i64::from_ne_bytes);
        Ok(Some(Entry {
            name: CStr::from_bytes_until_nul(&record[HEADER_BYTES..]).map_err(|_| Errno::EIO)?,
            directory: match record[18] {
                libc::DT_UNKNOWN => None,
                kind => Some(kind == libc::DT_DIR),
            },
            next,
        }))
    }

    fn fill(&mut self, directory: BorrowedFd<'_>) -> Result<bool, Errno> {
        self.buffer.resize(BUFFER_BYTES, 0);
        self.at = 0;
        // SAFETY: pointer and length describe the buffer.
        let result = unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                directory.as_raw_fd(),
                self.buffer.as_mut_ptr(),
                self.buffer.len(),
            )
        };
        let count = Errno::result(result).inspect_err(|_| self.buffer.clear())?;
        self.buffer.truncate(count as usize);
        Ok(count > 0)
    }

    /// Goes on at `offset` (0: from the beginning).
    pub fn seek(&mut self, directory: BorrowedFd<'_>, offset: i64) -> Result<(), Errno> {
        self.buffer.clear();
        self.at = 0;
        // SAFETY: three integers.
        Errno::result(unsafe { libc::lseek(directory.as_raw_fd(), offset, libc::SEEK_SET) }).map(drop)
    }
}

/// Mount points at or below `path` in this mount namespace (proc(5), `mountinfo`).
pub fn mounts_below(path: &Path) -> std::io::Result<Vec<std::path::PathBuf>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    let points = table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    Ok(points
        .map(unescape)
        .filter(|point| point.starts_with(path))
        .collect())
}

/// Space, tab, newline and backslash are written as `\ooo`.
fn unescape(text: &[u8]) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match octal {
            Some(digits) => {
                bytes.push(
                    digits
                        .iter()
                        .fold(0u8, |n, d| n.wrapping_mul(8).wrapping_add(d - b'0')),
                );
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

/// Size and use of a file system, as statvfs(3) tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FileSystemUse {
    pub bytes: u64,
    /// Of what an ordinary user may have: from 0 to 1, blocks or inodes, whichever is scarcer.
    pub used: f64,
}

pub fn file_system_use(path: &Path) -> Result<FileSystemUse, Errno> {
    let found = nix::sys::statvfs::statvfs(path)?;
    let share = |total: u64, free: u64, available: u64| {
        let used = total.saturating_sub(free);
        // As df(1): what is reserved for root is neither used nor to be had.
        match used.saturating_add(available) {
            0 => 0.0,
            whole => used as f64 / whole as f64,
        }
    };
    Ok(FileSystemUse {
        bytes: found.blocks().saturating_mul(found.fragment_size()),
        used: share(found.blocks(), found.blocks_free(), found.blocks_available()).max(share(
            found.files(),
            found.files_free(),
            found.files_available(),
        )),
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn entries_can_be_left_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..2000 {
            std::fs::write(dir.path().join(format!("a rather long name of a file {n}")), b"").unwrap();
        }
        let fd = open(dir.path()).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        let mut entries = Entries::default();
        while let Some((name, next)) = entries
            .next(fd.as_fd())
            .unwrap()
            .map(|e| (e.name.to_owned(), e.next))
        {
            assert!(seen.insert(name));
            entries.seek(fd.as_fd(), next).unwrap();
        }
        assert_eq!(seen.len(), 2000);
    }

    #[test]
    fn links_are_not_directories() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("link")).unwrap();
        let fd = open(dir.path()).unwrap();
        assert!(matches!(
            open_below(fd.as_fd(), c"link"),
            Err(Errno::ELOOP | Errno::ENOTDIR)
        ));
        assert!(open_below(fd.as_fd(), c"..").is_err());
        assert!(!facts(fd.as_fd(), c"link").unwrap().directory);
    }

    #[test]
    fn mount_points_with_odd_names_are_read() {
        assert_eq!(unescape(br"/a\040b\134c\011"), Path::new("/a b\\c\t"));
        assert_eq!(unescape(br"/end\04"), Path::new("/end\\04"));
        assert!(
            mounts_below(Path::new("/proc"))
                .unwrap()
                .contains(&"/proc".into())
        );
    }
}
