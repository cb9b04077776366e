//! Taking a copy of a descriptor out of another process: pidfd_getfd(2).

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// A copy of descriptor `number` of the process behind `pidfd`; both share one open file description. Unlike
/// an open through `/proc/<pid>/fd` this also works for a terminal's master, whose path would make a new
/// terminal. Needs the right to trace the process (CAP_SYS_PTRACE when it is not dumpable).
pub fn take(pidfd: impl AsFd, number: RawFd) -> Result<OwnedFd, Errno> {
    let pidfd = pidfd.as_fd().as_raw_fd();
    // SAFETY: pidfd_getfd takes three integers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, number, 0) })?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_pipe_is_shared_not_reopened() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let own = crate::process::pidfd_open(std::process::id() as i32).unwrap();
        let copy = take(&own, reader.as_raw_fd()).unwrap();
        writer.write_all(b"x").unwrap();
        let mut byte = [0];
        File::from(copy).read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        assert_eq!(take(&own, 9999).unwrap_err(), Errno::EBADF);
    }
}
