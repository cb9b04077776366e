//! The one port: HTTP for people and monitoring, Cap'n Proto for agents and clients. The first byte tells them apart: a
//! method's name begins with a letter, a message's table with the number of its segments, never as many as that, and TLS with
//! 22, behind which it is one of the two.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use model::Fault;
use net::rpc::RpcLimits;

use crate::gate::GateService;
use crate::server::Shell;

/// Descriptors for ourselves: the log's files and links, ZooKeeper, the loop.
const DESCRIPTORS_OWN: u64 = 512;
const CONNECTIONS_MIN: u64 = 64;
/// What all connections may hold in messages that are not done.
const MEMORY_MAX: usize = 256 << 20;
/// What TLS begins with: the type of a record.
const HANDSHAKE: u8 = 22;
/// For the first byte.
const GREETING: Duration = Duration::from_secs(15);

pub fn limits() -> RpcLimits {
    RpcLimits {
        // An agent with ten thousand tasks registers with one message.
        message_bytes_max: 16 << 20,
        open_calls_max: 65_536,
        open_bytes_max: 64 << 20,
        ..RpcLimits::default()
    }
}

/// The other end of a connection, and how its refusals are told.
#[derive(Clone)]
pub struct Caller {
    pub peer: SocketAddr,
    pub refusals: net::Refusals,
}

impl Caller {
    fn refused(&self, why: impl std::fmt::Display) {
        let why = format_args!("a connection was refused: {why}");
        if let Some(line) = self.refusals.first(Some(self.peer), why) {
            tracing::warn!(peer = %self.peer, "{line}");
        }
    }
}

/// Listens, and goes on for as long as the task is held.
pub fn open(shell: &Rc<Shell>, descriptors: u64) -> Result<net::Task<()>, Fault> {
    let address = shell.info.http();
    let listener = net::TcpListener::bind(address).map_err(|error| {
        let fault = Fault::failed(format!("listen on {address}: {error}")).field("--port");
        fault.remedy("choose another --ip or --port")
    })?;
    let most = descriptors.saturating_sub(DESCRIPTORS_OWN).max(CONNECTIONS_MIN);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let limit = net::ConnectionLimit::with_memory(most, MEMORY_MAX);
    let http = Rc::new(net::http::HttpLimits {
        connections_max: most,
        ..net::http::HttpLimits::default()
    });
    let shell = Rc::downgrade(shell);
    let refusals = net::Refusals::default();
    Ok(net::spawn(async move {
        let error = net::accept_loop(&listener, &limit, |stream, guard| {
            let Some(strong) = shell.upgrade() else { return };
            let (weak, http, refusals) = (Weak::clone(&shell), http.clone(), refusals.clone());
            strong.connection(async move {
                if let Err(error) = attend(weak, stream, guard, http, refusals).await {
                    tracing::debug!("a connection ended: {error}");
                }
            });
        })
        .await;
        tracing::error!("the socket of agents and clients is broken: {error}; restart the master");
    }))
}

async fn attend(
    shell: Weak<Shell>,
    stream: net::TcpStream,
    guard: net::ConnectionGuard,
    http: Rc<net::http::HttpLimits>,
    refusals: net::Refusals,
) -> std::io::Result<()> {
    let Some(strong) = shell.upgrade() else {
        return Ok(());
    };
    let (tls, insecure) = (strong.tls.borrow().clone(), strong.config.flags.insecure);
    drop(strong);
    let mut first = [0];
    let greeting = Box::pin(net::timeout(GREETING, stream.peek(&mut first))).await;
    if !matches!(greeting, Ok(Ok(1))) {
        return Ok(());
    }
    let caller = Caller {
        peer: stream.peer_address()?,
        refusals,
    };
    match tls.filter(|_| first[0] == HANDSHAKE) {
        // Each branch in a box of its own: fifty thousand agents wait in one that is as large as the smallest, not the largest.
        Some(tls) => {
            let secured = match Box::pin(tls.accept(stream)).await {
                Ok(secured) => secured,
                Err(error) => {
                    caller.refused(format_args!("TLS: {error}"));
                    return Ok(());
                }
            };
            let stream = Box::pin(net::timeout(GREETING, net::Prefixed::read(secured))).await;
            let stream = stream.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))?;
            let first = stream.first().unwrap_or_default();
            serve(shell, stream, first, true, caller, guard, http).await;
        }
        None if caller.peer.ip().is_loopback() || insecure => {
            serve(shell, stream, first[0], false, caller, guard, http).await;
        }
        None => caller.refused("it is not encrypted, and not from this host"),
    }
    Ok(())
}

fn serve<S>(
    shell: Weak<Shell>,
    stream: S,
    first: u8,
    certified: bool,
    caller: Caller,
    guard: net::ConnectionGuard,
    http: Rc<net::http::HttpLimits>,
) -> Pin<Box<dyn Future<Output = ()>>>
where
    S: futures::AsyncRead + futures::AsyncWrite + Unpin + 'static,
{
    if first.is_ascii_alphabetic() {
        let handler: net::http::Handler =
            Rc::new(move |request| Box::pin(crate::endpoints::handle(shell.clone(), request)));
        return Box::pin(net::http::serve_connection(stream, handler, http, guard));
    }
    let gate = GateService {
        shell,
        connection: guard.handle(),
        certified,
        caller: caller.clone(),
    };
    let gate: wire::master_capnp::gate::Client = capnp_rpc::new_client(gate);
    let connection = net::rpc::serve_limited(stream, gate.client, &limits(), guard.handle());
    Box::pin(async move {
        let _guard = guard;
        let reason = connection.await;
        if reason.is_misbehaviour() {
            caller.refused(reason);
        }
    })
}
