//! Links to the other replicas. What can't be sent is dropped, as a network may: the core says again what matters.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use net::queue::{Receiver, Sender, bounded};
use net::rpc::RpcLimits;
use replog_core::{Envelope, ReplicaId};

use crate::frames;
use crate::identity::{Identities, host_of};

/// Messages that wait for a peer.
const QUEUE: usize = 4096;
/// Pauses between attempts to connect.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LAST: Duration = Duration::from_secs(2);
const CONNECT: Duration = Duration::from_secs(5);

/// What callers may send: appends in great numbers.
pub fn limits() -> RpcLimits {
    RpcLimits {
        message_bytes_max: 64 << 20,
        open_bytes_max: 128 << 20,
        ..RpcLimits::default()
    }
}

pub struct Peers {
    links: RefCell<BTreeMap<ReplicaId, Link>>,
}

struct Link {
    queue: Sender<Envelope>,
    _task: net::Task<()>,
}

impl Peers {
    pub fn new(
        own: ReplicaId,
        addresses: &BTreeMap<ReplicaId, String>,
        tls: Option<(&net::Tls, &Rc<Identities>)>,
    ) -> Self {
        let others = addresses.iter().filter(|(id, _)| **id != own);
        let links = others.map(|(id, address)| {
            let (queue, waiting) = bounded(QUEUE);
            let secured = tls.map(|(tls, identities)| (tls.clone(), Rc::clone(identities)));
            let task = net::spawn(keep_linked(*id, address.clone(), secured, waiting));
            (*id, Link { queue, _task: task })
        });
        Self {
            links: RefCell::new(links.collect()),
        }
    }

    pub fn send(&self, envelope: Envelope) {
        if let Some(link) = self.links.borrow().get(&envelope.to) {
            let _ = link.queue.try_push(envelope);
        }
    }

    /// Ends all links.
    pub fn stop(&self) {
        self.links.borrow_mut().clear();
    }
}

async fn keep_linked(
    id: ReplicaId,
    address: String,
    tls: Option<(net::Tls, Rc<Identities>)>,
    mut waiting: Receiver<Envelope>,
) {
    let mut pause = PAUSE_FIRST;
    let mut told = false;
    loop {
        match net::timeout(CONNECT, connect_to(id, &address, tls.as_ref()))
            .await
            .unwrap_or_else(|_| Err("no answer".to_owned()))
        {
            Ok(stream) => {
                tracing::debug!("log: linked to replica {id} at {address}");
                told &= tls.is_some();
                let since = net::now();
                let ended = frames::send(stream, &mut waiting).await;
                // One that refuses us does so after it was connected.
                if net::now() - since > PAUSE_LAST {
                    pause = PAUSE_FIRST;
                }
                match ended {
                    Ok(()) => return,
                    // A server that takes nobody's certificate says so after the handshake.
                    Err(reason) if tls.is_some() && !told => {
                        tracing::info!(
                            "log: the link to replica {id} at {address} ended: {reason}; trying on"
                        );
                        told = true;
                    }
                    Err(reason) => tracing::debug!("log: the link to replica {id} ended: {reason}"),
                }
            }
            Err(error) => {
                if !told {
                    tracing::info!("log: replica {id} at {address} can't be reached: {error}; trying on");
                    told = true;
                }
            }
        }
        net::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_LAST);
        // What was said meanwhile is of the past.
        while waiting.try_pop().is_some() {}
    }
}

async fn connect_to(
    id: ReplicaId,
    address: &str,
    tls: Option<&(net::Tls, Rc<Identities>)>,
) -> Result<net::Link, String> {
    let stream = connect(address, tls.map(|(tls, _)| tls)).await?;
    match (stream.peer(), tls) {
        (Some(certificate), Some((_, identities))) if !identities.is(&certificate, id) => {
            Err("its certificate is of another replica".to_owned())
        }
        _ => Ok(stream),
    }
}

/// A stream to `HOST:PORT`, behind a handshake where that is configured.
pub async fn connect(address: &str, tls: Option<&net::Tls>) -> Result<net::Link, String> {
    let (host, port) = address
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)))
        .ok_or_else(|| format!("{address:?} has no port; write HOST:PORT"))?;
    let resolved = net::resolve(host.trim_start_matches('[').trim_end_matches(']'), port)
        .await
        .map_err(|error| error.to_string())?;
    let stream = net::TcpStream::connect(resolved)
        .await
        .map_err(|error| error.to_string())?;
    let Some(tls) = tls else {
        return Ok(net::Link::Plain(stream));
    };
    let secured = tls
        .connect(stream, host_of(address))
        .await
        .map_err(|error| format!("TLS: {error}"))?;
    Ok(net::Link::Secured(Box::new(secured)))
}
