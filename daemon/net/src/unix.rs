//! Unix stream sockets.

use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::io::{AsyncRead, AsyncWrite};
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr, sockopt};

use crate::clock;
use crate::limit::Listener;
use crate::source::{Interest, Source};
use crate::timer::sleep;

/// Connections the kernel may hold before we accept them. The kernel cuts it to `net.core.somaxconn`.
pub(crate) const BACKLOG: i32 = 1024;

/// How often and how long a connect is repeated while the listener's backlog is full.
const CONNECT_RETRY: Duration = Duration::from_millis(5);
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// Why a listening socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("another process is listening at {}", path.display())]
    InUse { path: PathBuf },
    #[error("{} exists and is not a socket", path.display())]
    NotASocket { path: PathBuf },
    #[error("{operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

/// Who is at the other end of a unix socket, as the kernel knows it from the time of `connect`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    pub uid: u32,
    pub gid: u32,
    pub pid: i32,
}

/// A listening unix socket. The path is not removed when it is dropped: the next [`UnixListener::bind`] replaces it.
pub struct UnixListener {
    source: Source<StdListener>,
    path: PathBuf,
}

impl UnixListener {
    /// Listens at `path` with the given file mode. A socket left behind by a dead process is replaced; nobody can connect
    /// before the mode is right, and the path never stands without a listener behind it.
    ///
    /// # Errors
    /// [`BindError::InUse`] when somebody is listening there.
    pub fn bind(path: &Path, mode: u32) -> Result<Self, BindError> {
        let failed = |operation: &'static str| {
            let path = path.to_owned();
            move |cause: io::Error| BindError::Io {
                operation,
                path,
                cause,
            }
        };
        refuse_living(path)?;
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let scratch = PathBuf::from(name);
        let socket = bind_scratch(&scratch).map_err(failed("bind a socket for"))?;
        let ready = fs::set_permissions(&scratch, fs::Permissions::from_mode(mode))
            .map_err(failed("set the mode of"))
            .and_then(|()| listen(&socket).map_err(failed("listen at")))
            .and_then(|()| fs::rename(&scratch, path).map_err(failed("move the socket to")));
        if let Err(error) = ready {
            // The error that is reported is the first one.
            let _ = fs::remove_file(&scratch);
            return Err(error);
        }
        let source = Source::new(StdListener::from(socket), Interest::Readable)
            .map_err(failed("register the socket of"))?;
        Ok(Self {
            source,
            path: path.to_owned(),
        })
    }

    pub async fn accept(&self) -> io::Result<UnixStream> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        let accepted = std::task::ready!(
            self.source
                .poll_read_with(cx, |listener| accept_nonblocking(listener.as_fd()))
        );
        Poll::Ready(accepted.and_then(|socket| UnixStream::connected(StdStream::from(socket))))
    }

    fn describe(&self) -> String {
        format!("unix:{}", self.path.display())
    }
}

pub(crate) fn accept_nonblocking(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
    Ok(rustix::net::accept_with(listener, flags)?)
}

/// A live listener answers a connect; a dead one's socket refuses it.
fn refuse_living(path: &Path) -> Result<(), BindError> {
    let found = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => {
            return Err(BindError::Io {
                operation: "look at",
                path: path.to_owned(),
                cause,
            });
        }
    };
    if !found.is_socket() {
        return Err(BindError::NotASocket {
            path: path.to_owned(),
        });
    }
    match connect_nonblocking(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        // EAGAIN means that its backlog is full, so it lives.
        Ok(_) => Err(BindError::InUse {
            path: path.to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(BindError::InUse {
            path: path.to_owned(),
        }),
        Err(cause) => Err(BindError::Io {
            operation: "try to connect to",
            path: path.to_owned(),
            cause,
        }),
    }
}

fn bind_scratch(path: &Path) -> io::Result<OwnedFd> {
    let socket = stream_socket()?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

fn listen(socket: &OwnedFd) -> io::Result<()> {
    Ok(socket::listen(socket, Backlog::new(BACKLOG)?)?)
}

fn stream_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    Ok(socket::socket(
        AddressFamily::Unix,
        SockType::Stream,
        flags,
        None,
    )?)
}

fn connect_nonblocking(path: &Path) -> io::Result<StdStream> {
    let socket = stream_socket()?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(StdStream::from(socket))
}

/// A connected unix stream socket.
pub struct UnixStream {
    source: Source<StdStream>,
}

impl UnixStream {
    /// Connects. A unix socket connects at once or not at all; while the listener's backlog is full the kernel says
    /// `EAGAIN` and gives no event, so it is tried again for a while.
    ///
    /// # Errors
    /// What the kernel says: `NotFound`, `ConnectionRefused`, `PermissionDenied`; `WouldBlock` if the listener never
    /// accepts.
    pub async fn connect(path: &Path) -> io::Result<Self> {
        let give_up = clock::now() + CONNECT_PATIENCE;
        loop {
            match connect_nonblocking(path) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && clock::now() < give_up => {
                    sleep(CONNECT_RETRY).await;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Self::connected(result?),
            }
        }
    }

    /// Two connected ends on this loop.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (left, right) = StdStream::pair()?;
        Ok((Self::from_std(left)?, Self::from_std(right)?))
    }

    /// Takes over a connected socket and makes it non-blocking.
    pub fn from_std(stream: StdStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Self::connected(stream)
    }

    fn connected(stream: StdStream) -> io::Result<Self> {
        Ok(Self {
            source: Source::stream(stream, true)?,
        })
    }

    /// Who is at the other end.
    pub fn peer(&self) -> io::Result<Peer> {
        let credentials = socket::getsockopt(self.source.get_ref(), sockopt::PeerCredentials)?;
        Ok(Peer {
            uid: credentials.uid(),
            gid: credentials.gid(),
            pid: credentials.pid(),
        })
    }

    /// The same as [`Self::peer`], by the name the kernel's option has.
    pub fn peer_credentials(&self) -> io::Result<Peer> {
        self.peer()
    }

    pub fn shutdown_write(&self) -> io::Result<()> {
        shutdown_write(self.source.get_ref().shutdown(Shutdown::Write))
    }
}

/// A peer that has already gone is no failure of a shutdown.
pub(crate) fn shutdown_write(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(Errno::ENOTCONN as i32) => Ok(()),
        result => result,
    }
}

impl AsFd for UnixStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

macro_rules! stream_io {
    ($stream:ty) => {
        impl AsyncRead for &$stream {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                let wanted = buffer.len();
                self.source
                    .poll_read_stream(cx, wanted, |mut stream| stream.read(buffer))
            }
        }

        impl AsyncWrite for &$stream {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                data: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.source
                    .poll_write_with(cx, |mut stream| stream.write(data))
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                parts: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                self.source
                    .poll_write_with(cx, |mut stream| stream.write_vectored(parts))
            }

            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(self.shutdown_write())
            }
        }

        impl AsyncRead for $stream {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut &*self).poll_read(cx, buffer)
            }
        }

        impl AsyncWrite for $stream {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                data: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut &*self).poll_write(cx, data)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                parts: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut &*self).poll_write_vectored(cx, parts)
            }

            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(self.shutdown_write())
            }
        }
    };
}
pub(crate) use stream_io;

stream_io!(UnixStream);
