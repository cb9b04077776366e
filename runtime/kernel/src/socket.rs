//! Unix sockets that carry descriptors (`SCM_RIGHTS`, unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::Errno;

/// Most descriptors in one message of ours. The kernel's own limit is 253 (`SCM_MAX_FD`).
pub const FDS_MAX: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Stream,
    /// Keeps message boundaries.
    SeqPacket,
}

/// Two connected sockets, closed on exec.
pub fn pair(kind: Kind) -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = match kind {
        Kind::Stream => libc::SOCK_STREAM,
        Kind::SeqPacket => libc::SOCK_SEQPACKET,
    };
    let mut fds: [RawFd; 2] = [-1; 2];
    // SAFETY: the array has room for two descriptors.
    let result = unsafe { libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()) };
    Errno::result(result)?;
    // SAFETY: two new descriptors that nobody else owns.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Waits until reading may succeed.
///
/// # Errors
/// `TimedOut` after `patience`.
pub fn wait_readable(fd: BorrowedFd<'_>, patience: std::time::Duration) -> io::Result<()> {
    wait(fd, nix::poll::PollFlags::POLLIN, patience)
}

/// As [`wait_readable`], for writing.
pub fn wait_writable(fd: BorrowedFd<'_>, patience: std::time::Duration) -> io::Result<()> {
    wait(fd, nix::poll::PollFlags::POLLOUT, patience)
}

fn wait(fd: BorrowedFd<'_>, events: nix::poll::PollFlags, patience: std::time::Duration) -> io::Result<()> {
    use nix::poll::{PollFd, PollTimeout, poll};
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    loop {
        match poll(&mut [PollFd::new(fd, events)], timeout) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_GETFL and F_SETFL take integers.
    let flags = Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: as above.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) };
    Errno::result(result)?;
    Ok(())
}

/// Makes room for `bytes` in flight, beyond the system's default limit where we may
/// (`SO_SNDBUFFORCE` needs CAP_NET_ADMIN).
pub fn reserve_send_buffer(fd: BorrowedFd<'_>, bytes: usize) {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    for option in [libc::SO_SNDBUFFORCE, libc::SO_SNDBUF] {
        // SAFETY: the option is an int of the given size. A refusal leaves the default in place.
        let result = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const bytes).cast(),
                mem::size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result == 0 {
            return;
        }
    }
}

/// Control message space for [`FDS_MAX`] descriptors, aligned as the kernel wants it.
#[repr(align(8))]
struct Control([u8; CONTROL_BYTES]);
const CONTROL_BYTES: usize = 16 + FDS_MAX * mem::size_of::<RawFd>();

/// Sends one message with descriptors. A closed peer is an error, never SIGPIPE.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if fds.len() > FDS_MAX {
        return Err(Errno::E2BIG.into());
    }
    let slice = IoSlice::new(bytes);
    let mut control = Control([0; CONTROL_BYTES]);
    // SAFETY: msghdr is plain data for which all zeroes is valid.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = (&raw const slice).cast_mut().cast();
    header.msg_iovlen = 1;
    if !fds.is_empty() {
        let payload = mem::size_of_val(fds) as u32;
        header.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: the buffer is aligned and larger than CMSG_SPACE of FDS_MAX descriptors; BorrowedFd
        // is transparent over a raw descriptor, and the header is written before its data.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(payload) as usize;
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = libc::CMSG_LEN(payload) as usize;
            std::ptr::copy_nonoverlapping(
                fds.as_ptr().cast::<u8>(),
                libc::CMSG_DATA(message),
                payload as usize,
            );
        }
    }
    loop {
        // SAFETY: header points to live buffers of the given sizes.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
        match Errno::result(sent) {
            Err(Errno::EINTR) => {}
            other => return Ok(other? as usize),
        }
    }
}

/// How a message is received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receive {
    /// As the descriptor is: blocking or not.
    Take,
    /// Never blocks, whatever the descriptor says.
    TakeNow,
    /// Leaves it in the queue and takes no descriptors.
    Peek,
}

/// Receives one message (or what is there of a stream) into `buffer`; descriptors are appended to
/// `fds`. 0 bytes mean that the peer is gone. A message that did not fit is an error.
pub fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    how: Receive,
) -> io::Result<usize> {
    let mut slice = IoSliceMut::new(buffer);
    let mut control = Control([0; CONTROL_BYTES]);
    // SAFETY: msghdr is plain data for which all zeroes is valid.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = (&raw mut slice).cast();
    header.msg_iovlen = 1;
    let mut flags = libc::MSG_CMSG_CLOEXEC;
    match how {
        Receive::Take => {}
        Receive::TakeNow => flags |= libc::MSG_DONTWAIT,
        Receive::Peek => flags |= libc::MSG_PEEK,
    }
    // A peek would give us copies of the descriptors: it brings no space for them.
    if how != Receive::Peek {
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = CONTROL_BYTES;
    }
    let count = loop {
        // SAFETY: header points to live buffers of the given sizes.
        match Errno::result(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) }) {
            Err(Errno::EINTR) => {}
            other => break other? as usize,
        }
    };
    // SAFETY: the kernel filled the control buffer with well-formed messages; descriptors in it are
    // new and ours. They are owned before any error is returned, so none can leak.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(&raw const header);
        while how != Receive::Peek && !message.is_null() {
            if (*message).cmsg_level == libc::SOL_SOCKET && (*message).cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(message).cast::<RawFd>();
                let bytes = (*message).cmsg_len - libc::CMSG_LEN(0) as usize;
                for index in 0..bytes / mem::size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                }
            }
            message = libc::CMSG_NXTHDR(&raw const header, message);
        }
    }
    let cut = libc::MSG_TRUNC | libc::MSG_CTRUNC;
    if how != Receive::Peek && header.msg_flags & cut != 0 {
        return Err(Errno::EMSGSIZE.into());
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn descriptors_travel_with_their_message() {
        let (near, far) = pair(Kind::SeqPacket).unwrap();
        let (carried, other) = pair(Kind::Stream).unwrap();
        send(near.as_fd(), b"two", &[carried.as_fd(), carried.as_fd()]).unwrap();
        drop(carried);
        let mut fds = Vec::new();
        let mut buffer = [0; 16];
        assert_eq!(
            receive(far.as_fd(), &mut buffer, &mut fds, Receive::Take).unwrap(),
            3
        );
        assert_eq!(fds.len(), 2);
        send(fds[1].as_fd(), b"x", &[]).unwrap();
        assert_eq!(
            receive(other.as_fd(), &mut buffer, &mut fds, Receive::Take).unwrap(),
            1
        );
    }

    #[test]
    fn a_message_too_long_is_refused_and_its_descriptors_are_not_leaked() {
        let (near, far) = pair(Kind::SeqPacket).unwrap();
        send(near.as_fd(), &[7; 64], &[near.as_fd()]).unwrap();
        let mut fds = Vec::new();
        let mut buffer = [0; 16];
        let error = receive(far.as_fd(), &mut buffer, &mut fds, Receive::Take).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        assert_eq!(fds.len(), 1);
    }
}
