//! TCP sockets. Every stream has `TCP_NODELAY`, keepalive and `TCP_USER_TIMEOUT` set: a peer that vanished without a word
//! is noticed, idle or not.

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::net::{
    Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener as StdListener, TcpStream as StdStream,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::io::{AsyncRead, AsyncWrite};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};

use crate::limit::Listener;
use crate::source::{Interest, Source};
use crate::unix::{accept_nonblocking, shutdown_write, stream_io};

/// Silence after which the kernel asks an idle peer whether it is still there, how often, and how many times.
const KEEPALIVE_IDLE_S: u32 = 30;
const KEEPALIVE_INTERVAL_S: u32 = 10;
const KEEPALIVE_PROBES: u32 = 3;

/// Sent data may stay unacknowledged for so long.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// A listening TCP socket.
pub struct TcpListener {
    source: Source<StdListener>,
    address: SocketAddr,
}

impl TcpListener {
    /// Listens at `address`; port 0 takes a free one (see [`Self::local_address`]).
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        // mio sets SO_REUSEADDR, non-blocking mode and a large backlog.
        let listener = StdListener::from(mio::net::TcpListener::bind(address)?);
        let address = listener.local_addr()?;
        Ok(Self {
            source: Source::new(listener, Interest::Readable)?,
            address,
        })
    }

    pub async fn accept(&self) -> io::Result<TcpStream> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    pub fn local_address(&self) -> SocketAddr {
        self.address
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        let accepted = std::task::ready!(
            self.source
                .poll_read_with(cx, |listener| accept_nonblocking(listener.as_fd()))
        );
        Poll::Ready(accepted.and_then(|socket| TcpStream::prepared(StdStream::from(socket), true)))
    }

    fn describe(&self) -> String {
        format!("tcp:{}", self.address)
    }
}

/// A connected TCP socket.
pub struct TcpStream {
    source: Source<StdStream>,
}

impl TcpStream {
    /// Connects. Put a [`crate::timeout`] around it: the kernel's own is minutes.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::established(StdStream::from(mio::net::TcpStream::connect(address)?)).await
    }

    /// Connects from one of the host's own addresses, for those who play many hosts.
    pub async fn connect_from(source: Ipv4Addr, address: SocketAddrV4) -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
        bind(
            socket.as_raw_fd(),
            &SockaddrIn::from(SocketAddrV4::new(source, 0)),
        )?;
        match connect(socket.as_raw_fd(), &SockaddrIn::from(address)) {
            Ok(()) | Err(Errno::EINPROGRESS) => Self::established(StdStream::from(socket)).await,
            Err(errno) => Err(errno.into()),
        }
    }

    async fn established(connecting: StdStream) -> io::Result<Self> {
        let stream = Self::prepared(connecting, false)?;
        stream.source.writable().await?;
        if let Some(error) = stream.source.get_ref().take_error()? {
            return Err(error);
        }
        // Writable without an error, yet not connected, does not happen on Linux; asking for the peer proves it.
        stream.source.get_ref().peer_addr()?;
        Ok(stream)
    }

    /// Takes over a connected socket and makes it non-blocking.
    pub fn from_std(stream: StdStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Self::prepared(stream, true)
    }

    fn prepared(stream: StdStream, connected: bool) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        setsockopt(&stream, sockopt::KeepAlive, &true)?;
        setsockopt(&stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S)?;
        setsockopt(&stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S)?;
        setsockopt(&stream, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
        let user_timeout_ms = u32::try_from(USER_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
        setsockopt(&stream, sockopt::TcpUserTimeout, &user_timeout_ms)?;
        Ok(Self {
            source: Source::stream(stream, connected)?,
        })
    }

    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        self.source.get_ref().peer_addr()
    }

    /// Waits for the first bytes, and leaves them there.
    pub async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.source.read_with(|stream| stream.peek(buffer)).await
    }

    pub fn shutdown_write(&self) -> io::Result<()> {
        shutdown_write(self.source.get_ref().shutdown(Shutdown::Write))
    }
}

impl AsFd for TcpStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

stream_io!(TcpStream);
