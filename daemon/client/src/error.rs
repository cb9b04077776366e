//! The RPC's errors become faults here and nowhere else.

use std::io;

use model::{Fault, FaultKind};

use crate::endpoint::Endpoint;

/// Whom a call is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// What the program is there: agent, master.
    pub noun: &'static str,
    pub endpoint: Endpoint,
}

impl Peer {
    pub fn agent(endpoint: &Endpoint) -> Self {
        Self {
            noun: "agent",
            endpoint: endpoint.clone(),
        }
    }

    fn start_it(&self) -> String {
        format!("start one with: bulkhead {}", self.noun)
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", self.noun, self.endpoint)
    }
}

/// A call that was not answered with a result.
pub(crate) fn call_failed(peer: &Peer, error: &capnp::Error) -> Fault {
    match error.kind {
        capnp::ErrorKind::Disconnected | capnp::ErrorKind::PrematureEndOfFile => gone(peer),
        capnp::ErrorKind::Overloaded => Fault::new(
            FaultKind::Exhausted,
            format!("the {peer} is overloaded: {}", message(error)),
        ),
        capnp::ErrorKind::Unimplemented => Fault::new(
            FaultKind::Unsupported,
            format!("the {peer} does not know this call"),
        )
        .remedy(format!(
            "if it is older than this client, version {}, start that version there: what runs goes on; else see that this is its port",
            env!("CARGO_PKG_VERSION")
        )),
        _ => Fault::failed(format!("the {peer} failed: {}", message(error))),
    }
}

/// Whoever is there has closed the connection before it said a word.
pub(crate) fn strange(peer: &Peer, with_tls: bool) -> Fault {
    let message = format!("the {peer} has closed the connection without an answer");
    Fault::new(FaultKind::Unavailable, message).remedy(match with_tls {
        true => "see that this is its port, and its log",
        false => "see that this is its port, and whether it wants TLS (--tls DIR)",
    })
}

/// The agent or the connection ended while something was under way.
pub(crate) fn gone(peer: &Peer) -> Fault {
    Fault::new(FaultKind::Unavailable, format!("the {peer} went away"))
}

const CERTIFICATES: &str = "both certificates have to be of one authority, valid now by both clocks, and the other side's for its address";

/// TLS was there, and did not go well.
pub(crate) fn refused(peer: &Peer, why: &str) -> Fault {
    Fault::new(FaultKind::Denied, format!("TLS with the {peer}: {why}")).remedy(CERTIFICATES)
}

/// The answer can not be read, or lacks what has to be in it.
pub(crate) fn unreadable(peer: &Peer, what: impl std::fmt::Display) -> Fault {
    Fault::failed(format!("the answer of the {peer} can not be read: {what}"))
}

pub(crate) fn silent(peer: &Peer, deadline: std::time::Duration) -> Fault {
    let message = format!("the {peer} did not answer within {} s", deadline.as_secs());
    Fault::new(FaultKind::Unavailable, message)
}

/// No connection could be made.
pub(crate) fn connect_failed(peer: &Peer, error: &io::Error) -> Fault {
    let unavailable = |message: String| Fault::new(FaultKind::Unavailable, message);
    match (error.kind(), &peer.endpoint) {
        // No socket file, or not even its directory.
        (io::ErrorKind::NotFound | io::ErrorKind::NotADirectory, _) => {
            unavailable(format!("no {peer}")).remedy(peer.start_it())
        }
        (io::ErrorKind::PermissionDenied, _) => {
            Fault::new(FaultKind::Denied, format!("not allowed to connect to the {peer}"))
                .remedy("run as root (sudo): its socket is root's alone")
        }
        // A socket file that nobody listens on is what a dead agent leaves behind, unix(7).
        (io::ErrorKind::ConnectionRefused, Endpoint::Unix(_)) => {
            unavailable(format!("the {peer} is not running; its socket is left over")).remedy(peer.start_it())
        }
        (io::ErrorKind::ConnectionRefused, Endpoint::Tcp { .. }) => {
            unavailable(format!("no {peer}: {error}")).remedy(peer.start_it())
        }
        (io::ErrorKind::InvalidData, _) => refused(peer, &error.to_string()),
        _ => unavailable(format!("connect to the {peer}: {error}")),
    }
}

/// The peer's own words, without the marks of the way they took.
fn message(error: &capnp::Error) -> &str {
    let text = error.extra.as_str();
    text.trim_start_matches("remote exception: ")
        .trim_start_matches("Failed: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_connect_says_what_to_do() {
        let unix = Endpoint::default();
        for (error, kind, remedy) in [
            (
                io::ErrorKind::NotFound,
                FaultKind::Unavailable,
                Some("start one with: bulkhead agent"),
            ),
            (
                io::ErrorKind::ConnectionRefused,
                FaultKind::Unavailable,
                Some("start one with: bulkhead agent"),
            ),
            (
                io::ErrorKind::PermissionDenied,
                FaultKind::Denied,
                Some("run as root (sudo): its socket is root's alone"),
            ),
            (io::ErrorKind::WouldBlock, FaultKind::Unavailable, None),
        ] {
            let fault = connect_failed(&Peer::agent(&unix), &error.into());
            assert_eq!((fault.kind, fault.remedy.as_deref()), (kind, remedy), "{error:?}");
            assert!(fault.message.contains("unix:/run/bulkhead/agent.sock"), "{fault}");
        }
    }

    #[test]
    fn the_peers_words_are_told_once() {
        let endpoint = Endpoint::default();
        let failed = capnp::Error::failed("remote exception: no space".into());
        let fault = call_failed(&Peer::agent(&endpoint), &failed);
        assert_eq!(
            fault.message,
            "the agent at unix:/run/bulkhead/agent.sock failed: no space"
        );
        let kinds = [
            (capnp::Error::disconnected("x".into()), FaultKind::Unavailable),
            (capnp::Error::overloaded("x".into()), FaultKind::Exhausted),
            (capnp::Error::unimplemented("x".into()), FaultKind::Unsupported),
        ];
        for (error, kind) in kinds {
            assert_eq!(call_failed(&Peer::agent(&endpoint), &error).kind, kind);
        }
    }
}
