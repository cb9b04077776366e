//! sock_diag(7): the TCP connections of a network namespace, both families in one dump.
//!
//! A dump walks the kernel's table of all connections, whichever namespace they are in: some tenths of a millisecond for
//! an empty namespace too. Kernel: include/uapi/linux/{sock_diag,inet_diag,tcp.h}, net/ipv4/inet_diag.c.

use std::os::fd::BorrowedFd;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use super::traffic::{attributes, dump};
use super::{NetlinkError, namespace::within};

/// The request of old: the only one that answers for both families at once (inet_diag_rcv_msg_compat).
const TCPDIAG_GETSOCK: u16 = 18;
const REQUEST_BYTES: usize = 60;
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_CGROUP_ID: u16 = 21;
/// tcpi_max_pacing_rate in struct tcp_info.
const MAX_PACING_RATE: usize = 112;

/// TCP_* of include/net/tcp_states.h.
pub const ESTABLISHED: u8 = 1;
pub const TIME_WAIT: u8 = 6;
pub const LISTEN: u8 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpConnection {
    pub state: u8,
    pub local_port: u16,
    /// The v2 group that made it; None: the kernel does not tell, as for those in TIME_WAIT.
    pub group: Option<u64>,
    /// Smoothed; 0: not known yet.
    pub rtt_micros: u32,
    pub retransmits: u32,
    /// Written to it and not yet sent for the first time.
    pub unsent_bytes: u32,
    /// Bytes a second that it is told not to exceed (SO_MAX_PACING_RATE).
    pub pace: Option<u64>,
}

/// A socket that stays in the namespace it was opened in.
#[derive(Debug)]
pub struct TcpDiag {
    socket: Socket,
}

impl TcpDiag {
    /// In the calling thread's network namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG).map_err(NetlinkError::Open)?;
        socket.bind_auto().map_err(NetlinkError::Open)?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(NetlinkError::Open)?;
        Ok(Self { socket })
    }

    pub fn open_in(namespace: BorrowedFd<'_>) -> Result<Self, NetlinkError> {
        within(namespace, Self::open).map_err(NetlinkError::Open)?
    }

    /// Shows every connection that is in one of `states`.
    pub fn visit(&self, states: &[u8], mut see: impl FnMut(TcpConnection)) -> Result<(), NetlinkError> {
        dump(&self.socket, &request(states), |body| {
            if let Some(connection) = connection(body) {
                see(connection);
            }
        })
    }
}

/// struct inet_diag_req.
fn request(states: &[u8]) -> Vec<u8> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let length = 16 + REQUEST_BYTES as u32;
    let mut bytes = Vec::with_capacity(length as usize);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(TCPDIAG_GETSOCK.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    // Family, lengths of addresses, and the attributes that we want beside those that always come.
    bytes.extend([0, 0, 0, 1 << (INET_DIAG_INFO - 1)]);
    bytes.extend([0; 48]);
    let mask = states.iter().fold(0_u32, |mask, state| mask | 1 << state);
    bytes.extend(mask.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes
}

/// struct inet_diag_msg, and what of its attributes matters here.
fn connection(body: &[u8]) -> Option<TcpConnection> {
    const HEAD: usize = 72;
    let mut found = TcpConnection {
        state: *body.get(1)?,
        local_port: u16::from_be_bytes(*body.get(4..)?.first_chunk()?),
        ..TcpConnection::default()
    };
    for (kind, value) in attributes(body.get(HEAD..)?) {
        // struct tcp_info: eight bytes, then words.
        let word = |index: usize| value.get(8 + index * 4..)?.first_chunk().copied();
        match kind {
            INET_DIAG_INFO => {
                found.rtt_micros = word(15).map_or(0, u32::from_ne_bytes);
                found.retransmits = word(23).map_or(0, u32::from_ne_bytes);
                found.unsent_bytes = word(34).map_or(0, u32::from_ne_bytes);
                let pace = value.get(MAX_PACING_RATE..).and_then(<[u8]>::first_chunk);
                // All bits set: as fast as it likes.
                found.pace = pace
                    .map(|rate| u64::from_ne_bytes(*rate))
                    .filter(|rate| *rate < u64::from(u32::MAX));
            }
            INET_DIAG_CGROUP_ID => found.group = value.first_chunk().map(|id| u64::from_ne_bytes(*id)),
            _ => {}
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn connections_of_this_process_are_seen_with_their_round_trip_time() {
        // Without the privilege the kernel answers all the same.
        let Ok(diag) = TcpDiag::open() else { return };
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
        let local = client.local_addr().unwrap().port();
        let pace = 100_000_u32;
        // SAFETY: the socket is open, and the value lives longer than the call.
        let told = unsafe {
            let value = std::ptr::from_ref(&pace).cast();
            let size = size_of::<u32>() as libc::socklen_t;
            libc::setsockopt(
                client.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MAX_PACING_RATE,
                value,
                size,
            )
        };
        assert_eq!(told, 0);
        client.set_nonblocking(true).unwrap();
        while client.write(&[0; 65536]).is_ok() {}
        let mut seen = Vec::new();
        let visited = diag.visit(&[ESTABLISHED, LISTEN], |one| seen.push(one));
        // A kernel without CONFIG_INET_TCP_DIAG.
        if visited.is_err_and(|error| error.errno() == Some(crate::Errno::ENOENT)) {
            return;
        }
        let of = |port: u16, state: u8| {
            let mut all = seen.iter();
            all.find(|one| one.local_port == port && one.state == state)
        };
        assert!(of(port, LISTEN).is_some());
        let connection = of(local, ESTABLISHED).expect("our connection");
        assert!(connection.rtt_micros > 0, "{connection:?}");
        assert!(connection.group.is_some(), "{connection:?}");
        assert_eq!(connection.pace, Some(u64::from(pace)));
        assert!(connection.unsent_bytes > 0, "{connection:?}");
        assert_eq!(of(port, ESTABLISHED).unwrap().pace, None);
        assert!(
            of(port, ESTABLISHED).is_some(),
            "the server's end, by another family"
        );
    }
}
