//! The container's side: its loopback and eth0, addresses, routes and settings. Runs on a thread in its namespace.

use std::io;
use std::net::IpAddr;

use kernel::netlink::{NetlinkError, RouteSocket, sysctl};
use model::PortGrant;

use crate::host_network::HostNetwork;

/// In the container.
pub const INTERFACE: &str = "eth0";
/// Loopback's number in every namespace.
pub const LOOPBACK: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum InsideError {
    #[error("{0}")]
    Netlink(&'static str, #[source] NetlinkError),
    #[error("set net.{name}")]
    Setting { name: String, source: io::Error },
    #[error("there is no {INTERFACE}")]
    Missing,
    #[error("attach to loopback")]
    Program(#[source] bpf::SteeringError),
}

/// Settings of the host that containers have too, where they differ from a new namespace's.
const CARRIED: [&str; 25] = [
    "core/somaxconn",
    "ipv4/ip_default_ttl",
    "ipv4/ip_unprivileged_port_start",
    "ipv4/ping_group_range",
    "ipv4/tcp_base_mss",
    "ipv4/tcp_congestion_control",
    "ipv4/tcp_ecn",
    "ipv4/tcp_fin_timeout",
    "ipv4/tcp_keepalive_intvl",
    "ipv4/tcp_keepalive_probes",
    "ipv4/tcp_keepalive_time",
    "ipv4/tcp_max_syn_backlog",
    "ipv4/tcp_mtu_probing",
    "ipv4/tcp_notsent_lowat",
    "ipv4/tcp_retries1",
    "ipv4/tcp_retries2",
    "ipv4/tcp_rmem",
    "ipv4/tcp_sack",
    "ipv4/tcp_slow_start_after_idle",
    "ipv4/tcp_syn_retries",
    "ipv4/tcp_syncookies",
    "ipv4/tcp_timestamps",
    "ipv4/tcp_tw_reuse",
    "ipv4/tcp_window_scaling",
    "ipv4/tcp_wmem",
];

/// Name and value of each.
pub type Settings = Vec<(&'static str, String)>;

/// The carried settings of the calling thread's namespace.
pub fn settings() -> Result<Settings, InsideError> {
    let mut found = Settings::new();
    for name in CARRIED {
        let value = sysctl::read(name).map_err(|source| InsideError::Setting {
            name: name.to_owned(),
            source,
        })?;
        found.extend(value.map(|value| (name, value)));
    }
    Ok(found)
}

fn set(name: &str, value: &str) -> Result<(), InsideError> {
    sysctl::write(name, value)
        .map(drop)
        .map_err(|source| InsideError::Setting {
            name: name.to_owned(),
            source,
        })
}

/// Everything of a new container's namespace. Answers eth0's number.
pub fn furnish(
    host: &HostNetwork,
    grant: &PortGrant,
    carried: &[(&'static str, String)],
) -> Result<u32, InsideError> {
    let mut socket = RouteSocket::open().map_err(|error| InsideError::Netlink("open a socket", error))?;
    let eth0 = socket
        .link(INTERFACE)
        .map_err(|error| InsideError::Netlink("look for eth0", error))?
        .ok_or(InsideError::Missing)?
        .index;
    for (name, value) in carried {
        set(name, value)?;
    }
    // Neighbours on the same host have the container's own address as their source.
    set("ipv4/conf/all/rp_filter", "0")?;
    set("ipv4/conf/eth0/rp_filter", "0")?;
    set("ipv4/conf/eth0/accept_local", "1")?;
    // Its address and routes are given; nobody's advertisement changes them, and no link-local one is needed.
    set("ipv6/conf/eth0/accept_ra", "0")?;
    set("ipv6/conf/eth0/accept_dad", "0")?;
    set("ipv6/conf/eth0/addr_gen_mode", "1")?;
    // What it takes by itself is its own; with no ephemeral range, its allotted ports.
    let range = grant
        .ephemeral
        .or_else(|| grant.allotted.ranges().first().copied());
    if let Some(range) = range {
        let text = format!("{} {}", range.first(), range.last());
        set("ipv4/ip_local_port_range", &text)?;
    }
    // What it sends to its own address reaches neighbours, too. One with an ingress ceiling takes it through a veth that drops
    // what is larger than its MTU without a word; segments of that size are offloaded all the same.
    if let Some(uplink) = host.primary() {
        socket
            .set_mtu(LOOPBACK, uplink.mtu)
            .map_err(|error| InsideError::Netlink("set loopback's MTU", error))?;
    }
    for (index, what) in [(LOOPBACK, "set loopback up"), (eth0, "set eth0 up")] {
        socket
            .set_up(index)
            .map_err(|error| InsideError::Netlink(what, error))?;
    }
    address(&mut socket, eth0, host, &[])?;
    Ok(eth0)
}

/// eth0's number.
pub fn interface() -> Result<u32, InsideError> {
    let mut socket = RouteSocket::open().map_err(|error| InsideError::Netlink("open a socket", error))?;
    let link = socket
        .link(INTERFACE)
        .map_err(|error| InsideError::Netlink("look for eth0", error))?;
    link.map(|link| link.index).ok_or(InsideError::Missing)
}

/// Gives eth0 the host's addresses and routes, after taking those that the host has no longer.
pub fn address(
    socket: &mut RouteSocket,
    eth0: u32,
    host: &HostNetwork,
    former: &[IpAddr],
) -> Result<(), InsideError> {
    let shared = host.shared();
    for address in &shared {
        socket
            .add_host_address(eth0, *address)
            .map_err(|error| InsideError::Netlink("add an address to eth0", error))?;
    }
    for gone in former.iter().filter(|address| !shared.contains(address)) {
        socket
            .remove_host_address(eth0, *gone)
            .map_err(|error| InsideError::Netlink("take an address from eth0", error))?;
    }
    for route in &host.routes {
        socket
            .add_link_route(eth0, route.destination, route.prefix, route.source, route.mtu)
            .map_err(|error| InsideError::Netlink("add a route by eth0", error))?;
    }
    Ok(())
}

/// After a change at the host: MAC, MTU, addresses, routes.
pub fn follow(host: &HostNetwork, former: &[IpAddr]) -> Result<(), InsideError> {
    let mut socket = RouteSocket::open().map_err(|error| InsideError::Netlink("open a socket", error))?;
    let eth0 = socket
        .link(INTERFACE)
        .map_err(|error| InsideError::Netlink("look for eth0", error))?
        .ok_or(InsideError::Missing)?;
    if let Some(uplink) = host.primary() {
        if eth0.mac != Some(uplink.mac) {
            socket
                .set_mac(eth0.index, uplink.mac)
                .map_err(|error| InsideError::Netlink("set eth0's hardware address", error))?;
        }
        if eth0.mtu != uplink.mtu {
            socket
                .set_mtu(eth0.index, uplink.mtu)
                .map_err(|error| InsideError::Netlink("set eth0's MTU", error))?;
        }
    }
    address(&mut socket, eth0.index, host, former)
}
