//! Pseudo terminals of a devpts instance of our own, pty(7).
//!
//! The slave is opened from the master's descriptor (`TIOCGPTPEER`), never by name: a name could be
//! somebody's symbolic link by then (the class of CVE-2025-52565).

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use model::TerminalSize;

use crate::Errno;
use crate::mount::{self, Walk};

/// `f_type` of devpts, linux/magic.h.
const DEVPTS_MAGIC: i64 = 0x1cd1;
/// linux/ioctls: not in the C library's headers of every version.
const TIOCGPTPEER: libc::Ioctl = 0x5441;

pub struct Pty {
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

/// Opens a new pair from the devpts instance mounted at its usual place below the current root.
pub fn open(size: TerminalSize) -> Result<Pty, Errno> {
    let directory = mount::locate(None, Path::new("/dev/pts"), Walk::NoLinks)?;
    if mount::filesystem_magic(&directory)? != DEVPTS_MAGIC {
        return Err(Errno::ENODEV);
    }
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: a descriptor, a constant string that ends in a null byte, and flags.
    let master = unsafe { libc::openat(directory.as_raw_fd(), c"ptmx".as_ptr(), flags | libc::O_NOFOLLOW) };
    let master = own(master)?;
    let unlock: libc::c_int = 0;
    // SAFETY: ioctl_tty(2): TIOCSPTLCK reads an int.
    let result = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) };
    Errno::result(result)?;
    // SAFETY: ioctl_tty(2): TIOCGPTPEER takes open flags and returns a descriptor.
    let slave = own(unsafe { libc::ioctl(master.as_raw_fd(), TIOCGPTPEER, flags) })?;
    set_size(std::os::fd::AsFd::as_fd(&master), size)?;
    Ok(Pty { master, slave })
}

fn own(fd: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(Errno::result(fd)?) })
}

/// Tells the terminal its size; the foreground processes get SIGWINCH.
pub fn set_size(terminal: BorrowedFd<'_>, size: TerminalSize) -> Result<(), Errno> {
    let window = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: ioctl_tty(2): TIOCSWINSZ reads a winsize.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const window) };
    Errno::result(result).map(drop)
}

/// Gives the slave to its user, so that programs may reopen it by name.
pub fn give_to(slave: BorrowedFd<'_>, uid: u32) -> Result<(), Errno> {
    // SAFETY: a descriptor and integers; -1 leaves the group.
    Errno::result(unsafe { libc::fchown(slave.as_raw_fd(), uid, u32::MAX) }).map(drop)
}

/// Makes standard input the controlling terminal of this session.
pub fn control_stdin() -> Result<(), Errno> {
    // SAFETY: ioctl_tty(2): TIOCSCTTY takes an integer.
    Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }).map(drop)
}
