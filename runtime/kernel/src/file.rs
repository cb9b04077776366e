//! Kernel files: read and written through a directory handle.
//!
//! Contract: every name is resolved below an open directory, so a path is walked once, when the handle
//! is made; contents go into a buffer of the caller; an error knows the operation, the path, the value.

mod text;

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

pub use text::{ShortText, for_each_keyed, keyed, number};

/// What was tried with a kernel file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Open,
    Read,
    Write,
    Make,
    Remove,
    List,
}

impl Operation {
    fn verb(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Make => "make",
            Self::Remove => "remove",
            Self::List => "list",
        }
    }
}

/// A kernel file refused.
#[derive(Debug)]
pub struct KernelFileError {
    pub operation: Operation,
    pub path: PathBuf,
    /// What was being written.
    pub value: Option<String>,
    pub source: io::Error,
}

impl KernelFileError {
    pub fn new(operation: Operation, path: PathBuf, source: impl Into<io::Error>) -> Self {
        Self {
            operation,
            path,
            value: None,
            source: source.into(),
        }
    }

    #[must_use]
    pub fn value(mut self, value: &str) -> Self {
        self.value = Some(value.to_owned());
        self
    }

    fn errno(&self) -> Option<Errno> {
        self.source.raw_os_error().map(Errno::from_raw)
    }

    /// The file or the group is not there. A handle kept open on a removed group answers ENODEV.
    pub fn is_absent(&self) -> bool {
        matches!(self.errno(), Some(Errno::ENOENT | Errno::ENODEV))
    }

    /// EBUSY: in use, or the new ceiling lies below what is in use.
    pub fn is_busy(&self) -> bool {
        self.errno() == Some(Errno::EBUSY)
    }

    /// A directory that still holds something.
    pub fn is_not_empty(&self) -> bool {
        self.errno() == Some(Errno::ENOTEMPTY)
    }

    /// EINVAL or ERANGE: the kernel does not take this value.
    pub fn is_invalid(&self) -> bool {
        matches!(self.errno(), Some(Errno::EINVAL | Errno::ERANGE))
    }

    /// EPERM, EACCES or a read-only mount.
    pub fn is_denied(&self) -> bool {
        matches!(self.errno(), Some(Errno::EPERM | Errno::EACCES | Errno::EROFS))
    }

    /// ESRCH: the process ended before it could be moved.
    pub fn is_process_gone(&self) -> bool {
        self.errno() == Some(Errno::ESRCH)
    }

    /// ENOSPC, EMFILE, ENFILE, ENOMEM: something has run out.
    pub fn is_exhausted(&self) -> bool {
        matches!(
            self.errno(),
            Some(Errno::ENOSPC | Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EAGAIN)
        )
    }
}

impl fmt::Display for KernelFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(
                f,
                "{} {value:?} to {}",
                self.operation.verb(),
                self.path.display()
            ),
            None => write!(f, "{} {}", self.operation.verb(), self.path.display()),
        }
    }
}

impl std::error::Error for KernelFileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    ReadWrite,
}

impl Access {
    fn flags(self) -> OFlag {
        // O_NOFOLLOW: a kernel file is never a symlink; if one is met, this is not a kernel file system.
        let common = OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY;
        common
            | match self {
                Self::Read => OFlag::O_RDONLY,
                Self::Write => OFlag::O_WRONLY,
                Self::ReadWrite => OFlag::O_RDWR,
            }
    }
}

/// Longest path below a handle that is put together on the stack: two names and a few nested ones.
const RELATIVE_PATH_MAX: usize = 512;

/// Puts `parts` together with `/` between them, without a heap allocation, and lends the result.
fn with_path<T>(parts: &[&str], run: impl FnOnce(&CStr) -> nix::Result<T>) -> nix::Result<T> {
    let mut buffer = [0u8; RELATIVE_PATH_MAX];
    let mut end = 0;
    for part in parts.iter().filter(|part| !part.is_empty()) {
        let start = if end == 0 { 0 } else { end + 1 };
        // One byte stays free for the terminating zero.
        if start + part.len() >= buffer.len() {
            return Err(Errno::ENAMETOOLONG);
        }
        if end != 0 {
            buffer[end] = b'/';
        }
        buffer[start..start + part.len()].copy_from_slice(part.as_bytes());
        end = start + part.len();
    }
    if end == 0 {
        buffer[0] = b'.';
        end = 1;
    }
    let path = CStr::from_bytes_with_nul(&buffer[..=end]).map_err(|_| Errno::EINVAL)?;
    run(path)
}

/// An open directory of a kernel file system.
#[derive(Debug)]
pub struct KernelDir {
    fd: OwnedFd,
    path: PathBuf,
}

impl KernelDir {
    pub fn open(path: &Path) -> Result<Self, KernelFileError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match nix::fcntl::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self {
                fd,
                path: path.to_owned(),
            }),
            Err(cause) => Err(KernelFileError::new(Operation::Open, path.to_owned(), cause)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn error(&self, operation: Operation, parts: &[&str], cause: Errno) -> KernelFileError {
        let mut path = self.path.clone();
        path.extend(parts.iter().filter(|part| !part.is_empty()));
        KernelFileError::new(operation, path, cause)
    }

    /// Makes a directory that others may read, whatever our umask; false if it was there.
    pub fn make_dir(&self, name: &str) -> Result<bool, KernelFileError> {
        let mode = Mode::from_bits_truncate(0o755);
        match with_path(&[name], |path| {
            mkdirat(&self.fd, path, mode)?;
            fchmodat(&self.fd, path, mode, FchmodatFlags::FollowSymlink)
        }) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            Err(cause) => Err(self.error(Operation::Make, &[name], cause)),
        }
    }

    pub fn remove_dir(&self, name: &str) -> Result<(), KernelFileError> {
        with_path(&[name], |path| unlinkat(&self.fd, path, UnlinkatFlags::RemoveDir))
            .map_err(|cause| self.error(Operation::Remove, &[name], cause))
    }

    pub fn open_dir(&self, name: &str) -> Result<OwnedFd, KernelFileError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        with_path(&[name], |path| openat(&self.fd, path, flags, Mode::empty()))
            .map_err(|cause| self.error(Operation::Open, &[name], cause))
    }

    /// Opens `parts` joined by `/`.
    pub fn open_file(&self, parts: &[&str], access: Access) -> Result<OwnedFd, KernelFileError> {
        with_path(parts, |path| {
            openat(&self.fd, path, access.flags(), Mode::empty())
        })
        .map_err(|cause| self.error(Operation::Open, parts, cause))
    }

    pub fn has(&self, parts: &[&str]) -> bool {
        with_path(parts, |path| {
            nix::unistd::faccessat(
                &self.fd,
                path,
                nix::unistd::AccessFlags::F_OK,
                nix::fcntl::AtFlags::empty(),
            )
        })
        .is_ok()
    }

    /// Reads from the beginning until `buffer` is full or the file ends.
    pub fn read(&self, parts: &[&str], buffer: &mut [u8]) -> Result<usize, KernelFileError> {
        let file = self.open_file(parts, Access::Read)?;
        read_whole(file.as_fd(), buffer).map_err(|cause| self.error(Operation::Read, parts, cause))
    }

    /// Reads a file of any length.
    pub fn read_text(&self, parts: &[&str]) -> Result<String, KernelFileError> {
        let file = self.open_file(parts, Access::Read)?;
        let mut bytes = vec![0; 4096];
        let mut end = 0;
        loop {
            let got = read_from(file.as_fd(), &mut bytes[end..], end)
                .map_err(|cause| self.error(Operation::Read, parts, cause))?;
            end += got;
            if got == 0 {
                bytes.truncate(end);
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
            if end == bytes.len() {
                bytes.resize(end * 2, 0);
            }
        }
    }

    pub fn write(&self, parts: &[&str], value: &str) -> Result<(), KernelFileError> {
        let file = self.open_file(parts, Access::Write)?;
        write_once(file.as_fd(), value)
            .map_err(|cause| self.error(Operation::Write, parts, cause).value(value))
    }

    /// Writes and reads back through one descriptor: a limit is believed when the kernel repeats it.
    pub fn exchange(&self, parts: &[&str], value: &str, buffer: &mut [u8]) -> Result<usize, KernelFileError> {
        let file = self.open_file(parts, Access::ReadWrite)?;
        write_once(file.as_fd(), value)
            .map_err(|cause| self.error(Operation::Write, parts, cause).value(value))?;
        read_whole(file.as_fd(), buffer).map_err(|cause| self.error(Operation::Read, parts, cause))
    }

    /// Names of the directories in `name`.
    pub fn directories(&self, name: &str) -> Result<Vec<String>, KernelFileError> {
        let path = if name.is_empty() {
            self.path.clone()
        } else {
            self.path.join(name)
        };
        let failed = |cause: io::Error| KernelFileError::new(Operation::List, path.clone(), cause);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_dir() {
                // A group that someone named in another encoding is none of ours.
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }
}

impl AsFd for KernelDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn read_from(file: BorrowedFd<'_>, buffer: &mut [u8], offset: usize) -> nix::Result<usize> {
    loop {
        match nix::sys::uio::pread(file, buffer, offset as libc::off_t) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// Reads a list of records to its end. A seq_file hands out a page at a time, so a short read is
/// not the end (Kernel: filesystems/seq_file.rst).
fn read_whole(file: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<usize> {
    let mut end = 0;
    while end < buffer.len() {
        let got = read_from(file, &mut buffer[end..], end)?;
        end += got;
        // A one-record file ends with its newline well inside the buffer; only a page boundary
        // can have cut a list.
        if got == 0 || (end < SEQ_PAGE && buffer[end - 1] == b'\n') {
            break;
        }
    }
    Ok(end)
}

/// Below this size a seq_file read is never cut short: its first buffer is a page, the smallest one 4 KiB.
/// 64 bytes of margin for the record that did not fit any more.
const SEQ_PAGE: usize = 4096 - 64;

/// The kernel takes the value of one write(2) as a whole: a loop over the rest would set another value.
pub fn write_once(file: BorrowedFd<'_>, value: &str) -> nix::Result<()> {
    loop {
        match nix::unistd::write(file, value.as_bytes()) {
            Err(Errno::EINTR) => {}
            Err(cause) => return Err(cause),
            Ok(n) if n == value.len() => return Ok(()),
            Ok(_) => return Err(Errno::EIO),
        }
    }
}

/// Reads a kept-open kernel file from its beginning with one system call; `None` when it can not be read
/// any more (ENODEV: the group is gone). Grows `buffer` when the file has outgrown it; never shrinks it.
pub fn sample<'b>(file: BorrowedFd<'_>, buffer: &'b mut Vec<u8>) -> Option<&'b [u8]> {
    if buffer.len() < SAMPLE_BYTES {
        buffer.resize(SAMPLE_BYTES, 0);
    }
    loop {
        let got = read_from(file, buffer, 0).ok()?;
        if got < buffer.len() {
            return Some(&buffer[..got]);
        }
        if buffer.len() >= SAMPLE_BYTES_MAX {
            return None;
        }
        buffer.resize(buffer.len() * 2, 0);
    }
}

/// The longest statistics file, `memory.stat`, is about 2 KiB.
const SAMPLE_BYTES: usize = 8 << 10;
/// Beyond this it is not a statistics file.
const SAMPLE_BYTES_MAX: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_operation_path_and_value() {
        let directory = tempfile::tempdir().unwrap();
        let handle = KernelDir::open(directory.path()).unwrap();
        let error = handle.write(&["c1", "pids.max"], "5").unwrap_err();
        assert!(error.is_absent());
        assert_eq!(error.operation, Operation::Open);
        assert!(error.to_string().ends_with("/c1/pids.max"), "{error}");
    }

    #[test]
    fn exchange_reads_back_what_the_file_holds() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("limit"), "").unwrap();
        let handle = KernelDir::open(directory.path()).unwrap();
        let mut buffer = [0; 16];
        let got = handle.exchange(&["limit"], "512\n", &mut buffer).unwrap();
        assert_eq!(&buffer[..got], b"512\n");
    }

    #[test]
    fn a_name_too_long_is_refused_not_cut() {
        let directory = tempfile::tempdir().unwrap();
        let handle = KernelDir::open(directory.path()).unwrap();
        assert!(handle.make_dir(&"x".repeat(600)).is_err());
        assert!(!handle.has(&["nothing"]));
    }
}
