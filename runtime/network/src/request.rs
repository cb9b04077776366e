//! What is asked of the data path, and what it answers.

use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use model::{Bandwidth, BitsPerSecond, ContainerId, PortGrant};

/// Where and for whom.
#[derive(Debug, Clone)]
pub struct Config {
    /// Tells the veths of several agents of one host apart: at most 6 letters and digits.
    pub instance: String,
    /// A directory on a bpffs that is the agent's own.
    pub pins: PathBuf,
    /// Names; empty: those with a default route.
    pub uplinks: Vec<String>,
    /// What each of them carries: it is shared out between containers then. None: uplinks are left as they are.
    pub uplink_rate: Option<BitsPerSecond>,
}

/// A container to connect.
#[derive(Debug)]
pub struct Attach<'a> {
    pub id: &'a ContainerId,
    /// Its network namespace. The data path keeps a copy until [`detach`](crate::Datapath::detach).
    pub netns: BorrowedFd<'a>,
    pub grant: &'a PortGrant,
    pub bandwidth: &'a Bandwidth,
}

/// How it is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Its place in all maps. Goes into the checkpoint: see [`Known`].
    pub slot: u32,
    /// The veth's end on the host: its name and number.
    pub interface: String,
    pub ifindex: u32,
    /// The host's addresses, which are the container's.
    pub addresses: Vec<IpAddr>,
    pub mtu: u32,
}

/// A container that an earlier agent attached, as its checkpoint tells.
#[derive(Debug)]
pub struct Known {
    pub id: ContainerId,
    pub slot: u32,
    pub grant: PortGrant,
    /// As it was last set.
    pub bandwidth: Bandwidth,
    /// Its network namespace, from any process of it. None: a change of the host's address can't be passed on to it.
    pub netns: Option<OwnedFd>,
}

/// A container of an earlier agent in the host's own network, which has a share of the uplinks.
#[derive(Debug)]
pub struct KnownGroup {
    pub id: ContainerId,
    /// The directory of its v2 group.
    pub group: OwnedFd,
    pub bandwidth: Bandwidth,
}

/// What [`adopt`](crate::Datapath::adopt) has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Adopted {
    /// They are connected as before.
    pub kept: Vec<ContainerId>,
    /// Their veth is gone: they have no network any more.
    pub lost: Vec<ContainerId>,
    /// Veths of nobody, which were removed.
    pub removed: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
    /// Errors and echo are told apart by the question's ports: see [`PacketQuestion`].
    Icmp,
}

/// Where a packet comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// From the wire.
    Outside,
    Host,
    Container(ContainerId),
}

/// "What would happen to a packet like this?"
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketQuestion {
    pub from: Origin,
    pub transport: Transport,
    /// None: the host's own address.
    pub destination: Option<IpAddr>,
    pub destination_port: u16,
    /// None: one that the sender may use.
    pub source_port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// To the host's own stack.
    Host,
    Container(ContainerId),
    /// Out of this uplink.
    Uplink(String),
    /// Refused and counted under this reason.
    Dropped(&'static str),
}

/// The verdict, and how it came about: one line for each decision, lower case, no full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub verdict: Verdict,
    pub steps: Vec<String>,
}
