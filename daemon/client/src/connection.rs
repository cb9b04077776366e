//! One connection, shared by every handle that was made from it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use capnp::capability::{FromClientHook, RemotePromise, Response};
use futures::channel::oneshot;
use futures::io::{AsyncRead, AsyncWrite};
use model::{Fault, FaultKind};
use wire::agent_capnp::gate;

use crate::endpoint::Endpoint;
use crate::error::{self, Peer};

/// Time for the connection itself. On one host it takes microseconds; over TCP a lost SYN is sent
/// again after 1 and 3 s.
pub(crate) const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// For the reason why a connection has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Closed when the last handle drops it.
pub(crate) struct Connection {
    pub(crate) peer: Peer,
    closed: net::Notify,
    /// What the other side had against our certificate: it says so only when we have begun to speak.
    refused: Rc<RefCell<Option<String>>>,
    /// Moves bytes between the socket and the calls; dropping it ends the connection.
    _driver: net::Task<()>,
}

impl Connection {
    /// Resolves when the agent is gone.
    pub(crate) async fn closed(&self) {
        self.closed.wait().await;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_set()
    }

    pub(crate) fn gone(&self) -> Fault {
        error::gone(&self.peer)
    }

    pub(crate) fn unreadable(&self, what: impl std::fmt::Display) -> Fault {
        error::unreadable(&self.peer, what)
    }

    pub(crate) fn failed(&self, error: &capnp::Error) -> Fault {
        error::call_failed(&self.peer, error)
    }

    /// The answer to a call, with no deadline.
    pub(crate) async fn answer<R>(&self, call: RemotePromise<R>) -> Result<Response<R>, Fault>
    where
        R: capnp::traits::Pipelined + capnp::traits::Owned + 'static + Unpin,
    {
        match call.promise.await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                let fault = self.failed(&error);
                if fault.kind == FaultKind::Unavailable {
                    let _ = net::timeout(LAST_WORDS, self.closed()).await;
                }
                match &*self.refused.borrow() {
                    Some(why) => Err(error::refused(&self.peer, why)),
                    None => Err(fault),
                }
            }
        }
    }

    /// The answer to a call that the agent gives at once or not at all.
    pub(crate) async fn answer_soon<R>(
        &self,
        call: RemotePromise<R>,
        deadline: Duration,
    ) -> Result<Response<R>, Fault>
    where
        R: capnp::traits::Pipelined + capnp::traits::Owned + 'static + Unpin,
    {
        match net::timeout(deadline, self.answer(call)).await {
            Ok(answer) => answer,
            Err(_) => Err(error::silent(&self.peer, deadline)),
        }
    }
}

/// Connects; nothing has been said yet.
pub(crate) async fn open(endpoint: &Endpoint) -> Result<(Rc<Connection>, gate::Client), Fault> {
    open_as(Peer::agent(endpoint), None).await
}

/// As [`open`], to whatever is there.
pub(crate) async fn open_as<C: FromClientHook>(
    peer: Peer,
    tls: Option<&net::Tls>,
) -> Result<(Rc<Connection>, C), Fault> {
    let connect = async {
        match &peer.endpoint {
            Endpoint::Unix(path) => net::UnixStream::connect(path)
                .await
                .map(|stream| over(peer.clone(), stream)),
            Endpoint::Tcp { host, port } => {
                let address = resolve(host.clone(), *port).await?;
                let stream = net::TcpStream::connect(address).await?;
                match tls {
                    None => Ok(over(peer.clone(), stream)),
                    Some(tls) => tls
                        .connect(stream, host)
                        .await
                        .map(|stream| over(peer.clone(), stream)),
                }
            }
        }
    };
    match net::timeout(CONNECT_DEADLINE, connect).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(error::connect_failed(&peer, &error)),
        Err(_) => Err(error::silent(&peer, CONNECT_DEADLINE)),
    }
}

/// Speaks over a stream that is already there.
pub(crate) fn over<S, C>(peer: Peer, stream: S) -> (Rc<Connection>, C)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    C: FromClientHook,
{
    let (system, bootstrap) = net::rpc::connect(stream, &rpc_limits());
    let closed = net::Notify::new();
    let refused = Rc::default();
    let driver = net::spawn(drive(system, closed.clone(), Rc::clone(&refused)));
    let connection = Connection {
        peer,
        closed,
        refused,
        _driver: driver,
    };
    (Rc::new(connection), bootstrap)
}

/// An agent is trusted with larger answers than a client with requests: a list of thousands of
/// containers with long commands must arrive.
fn rpc_limits() -> net::rpc::RpcLimits {
    net::rpc::RpcLimits {
        message_bytes_max: 64 << 20,
        ..net::rpc::RpcLimits::default()
    }
}

async fn drive<S>(
    connection: net::rpc::Connection<S>,
    closed: net::Notify,
    refused: Rc<RefCell<Option<String>>>,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    // Each call that was under way has got its own error; TLS says more.
    if let net::rpc::CloseReason::Stream(error) = connection.await
        && error.kind() == std::io::ErrorKind::InvalidData
    {
        *refused.borrow_mut() = Some(error.to_string());
    }
    closed.set();
}

/// getaddrinfo(3) blocks, for seconds if a name server is down: not on the loop.
async fn resolve(host: String, port: u16) -> std::io::Result<std::net::SocketAddr> {
    if let Ok(address) = host.parse::<std::net::IpAddr>() {
        return Ok((address, port).into());
    }
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("resolve".into())
        .spawn(move || {
            let found =
                std::net::ToSocketAddrs::to_socket_addrs(&(host.as_str(), port)).map(|mut all| all.next());
            // Nobody waits any more after the deadline.
            let _ = sender.send(found);
        })?;
    match receiver.await {
        Ok(Ok(Some(address))) => Ok(address),
        Ok(Err(error)) => Err(error),
        Ok(Ok(None)) | Err(oneshot::Canceled) => Err(std::io::Error::new(
            std::io::ErrorKind::AddrNotAvailable,
            "the name has no address",
        )),
    }
}
