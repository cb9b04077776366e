//! Taking a copy of a descriptor out of another process, pidfd_getfd(2); moving what a pipe holds, splice(2).

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

/// Moves at most `count` bytes from a pipe into a file, from `offset` on (the file must not be open for appending), in
/// one call: whoever is killed in it has lost nothing, because a pipe gives up only what was written (splice(2)). `Ok(0)`:
/// its writers are gone. EAGAIN: it is empty. EINVAL: one of the two can not do that (a terminal).
pub fn move_from_pipe(pipe: impl AsFd, file: impl AsFd, offset: u64, count: usize) -> Result<usize, Errno> {
    let mut offset = libc::loff_t::try_from(offset).map_err(|_| Errno::EFBIG)?;
    let (from, to) = (pipe.as_fd().as_raw_fd(), file.as_fd().as_raw_fd());
    let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
    // SAFETY: the offset lives through the call, the rest are numbers.
    let moved = unsafe { libc::splice(from, std::ptr::null_mut(), to, &raw mut offset, count, flags) };
    Errno::result(moved).map(|moved| moved as usize)
}

/// How many bytes can be read at once (ioctl_pipe(2), FIONREAD).
pub fn readable_bytes(pipe: impl AsFd) -> Result<usize, Errno> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    Errno::result(unsafe { libc::ioctl(pipe.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_pipe_is_moved_into_a_file_up_to_its_end() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let file = tempfile::tempfile().unwrap();
        assert_eq!(move_from_pipe(&reader, &file, 0, 10), Err(Errno::EAGAIN));
        writer.write_all(b"0123456789").unwrap();
        assert_eq!(readable_bytes(&reader), Ok(10));
        assert_eq!(move_from_pipe(&reader, &file, 0, 4), Ok(4));
        assert_eq!(readable_bytes(&reader), Ok(6));
        drop(writer);
        assert_eq!(move_from_pipe(&reader, &file, 4, 100), Ok(6));
        assert_eq!(move_from_pipe(&reader, &file, 10, 100), Ok(0));
        let mut text = String::new();
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut [0; 10], 0).unwrap();
        std::io::Seek::rewind(&mut &file).unwrap();
        (&file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "0123456789");
    }

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
