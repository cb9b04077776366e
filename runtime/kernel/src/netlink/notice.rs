//! What changes at the interfaces and addresses of a network namespace, told as it happens.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::NetlinkError;
use super::traffic::{attributes, messages};

// linux/rtnetlink.h
const RTMGRP_LINK: u32 = 0x1;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
const IFLA_GROUP: u16 = 27;
/// `struct ifinfomsg`.
const LINK_HEADER_BYTES: usize = 16;

/// Routes are not among them: a router has thousands of changes a second.
pub struct Notices {
    socket: Socket,
    ignored_group: u32,
}

impl std::fmt::Debug for Notices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notices").finish_non_exhaustive()
    }
}

impl AsFd for Notices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the socket's, which lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

impl Notices {
    /// Of the calling thread's namespace; of interfaces of `ignored_group` nothing is told. Never blocks.
    pub fn open(ignored_group: u32) -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(
                0,
                RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR,
            ))?;
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        Ok(Self {
            socket: open().map_err(NetlinkError::Open)?,
            ignored_group,
        })
    }

    /// Takes all that is there. `WouldBlock`: nothing of it matters.
    pub fn take(&self) -> io::Result<()> {
        let mut matters = false;
        loop {
            match self.socket.recv_from_full() {
                Ok((bytes, _)) => matters |= self.concerns(&bytes),
                // More than the socket holds: what was lost may have mattered.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => matters = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && matters => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn concerns(&self, bytes: &[u8]) -> bool {
        let Ok(messages) = messages(bytes) else {
            return true;
        };
        messages.into_iter().any(|(kind, _, body)| {
            let link = kind == libc::RTM_NEWLINK || kind == libc::RTM_DELLINK;
            let of = body.get(LINK_HEADER_BYTES..).unwrap_or_default();
            let group = attributes(of).find(|(kind, _)| *kind == IFLA_GROUP);
            let group = group.and_then(|(_, value)| Some(u32::from_ne_bytes(*value.first_chunk()?)));
            !(link && group == Some(self.ignored_group))
        })
    }
}
