//! Why the network can't be made, changed or told.

use std::io;
use std::path::PathBuf;

use model::{BitsPerSecond, ContainerId};

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("instance {0:?} of the network: at most 6 lower-case letters and digits name it")]
    Instance(String),
    #[error("no interface has a default route; name the uplinks with --uplinks")]
    NoUplink,
    #[error("uplink {0}: there is no such interface; name the uplinks with --uplinks")]
    UnknownUplink(String),
    #[error("uplink {uplink}: {reason}; name the uplinks with --uplinks")]
    UnfitUplink { uplink: String, reason: &'static str },
    #[error("make the directory for the network's pins {}", path.display())]
    Pins { path: PathBuf, source: io::Error },
    #[error("{operation}")]
    Programs {
        operation: String,
        #[source]
        source: bpf::SteeringError,
    },
    #[error("{operation}")]
    Netlink {
        operation: String,
        #[source]
        source: kernel::netlink::NetlinkError,
    },
    #[error("{operation}")]
    Namespace {
        operation: String,
        #[source]
        source: io::Error,
    },
    #[error("configure the network inside container {id}")]
    Inside {
        id: ContainerId,
        #[source]
        source: crate::inside::InsideError,
    },
    #[error("network of container {0}: it is attached already")]
    AlreadyAttached(ContainerId),
    #[error("network of container {0}: it is not attached; was it launched with --network mapped?")]
    NotAttached(ContainerId),
    #[error("network of container {id}: port {port} belongs to container {owner}")]
    PortTaken {
        id: ContainerId,
        port: u16,
        owner: ContainerId,
    },
    #[error("all {0} places for mapped containers are taken; remove containers")]
    Full(u32),
    #[error(
        "bandwidth of container {id}: a guarantee of {asked} beside {given} that others have is more than four fifths of the \
         uplink's {rate}; ask for less, or end a container that has one"
    )]
    Oversold {
        id: ContainerId,
        asked: BitsPerSecond,
        given: BitsPerSecond,
        rate: BitsPerSecond,
    },
    #[error(
        "uplink {uplink} has the queueing discipline {kind} of somebody else, which is not replaced: remove it (tc qdisc del \
         dev {uplink} root), or start the agent without --uplink_rate"
    )]
    ForeignDiscipline { uplink: String, kind: String },
    /// A ceiling that this kernel can't enforce; names what is missing.
    #[error("bandwidth of container {id}: {reason}")]
    Unenforceable { id: ContainerId, reason: String },
    #[error("{operation}")]
    Bandwidth {
        operation: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
