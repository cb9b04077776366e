//! What the host has: uplinks, addresses, routes. Read from the kernel, compared at each refresh.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bpf::HostAddresses;
use bpf::layout::{MORE_V4, MORE_V6};
use kernel::netlink::{InterfaceAddress, Link, NetlinkError, Route, RouteSocket};

use crate::NetworkError;

/// Routes that are carried into containers at most: what has more is a router, whose containers need only the default.
const ROUTES_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    pub index: u32,
    pub name: String,
    pub mac: [u8; 6],
    pub mtu: u32,
    pub up: bool,
    /// Global ones, the preferred first.
    pub addresses: Vec<IpAddr>,
}

impl Uplink {
    fn first(&self, v4: bool) -> Option<IpAddr> {
        self.addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == v4)
    }
}

/// A route as a container has it, towards its eth0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarriedRoute {
    pub destination: IpAddr,
    pub prefix: u8,
    pub source: IpAddr,
    pub mtu: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostNetwork {
    /// The first is the one whose MAC and MTU containers have.
    pub uplinks: Vec<Uplink>,
    /// Other addresses of the host, which containers reach but don't have.
    pub others: Vec<IpAddr>,
    pub routes: Vec<CarriedRoute>,
}

impl HostNetwork {
    pub fn read(socket: &mut RouteSocket, wanted: &[String]) -> Result<Self, NetworkError> {
        let failed = |source: NetlinkError| NetworkError::Netlink {
            operation: "read the host's interfaces, addresses and routes".to_owned(),
            source,
        };
        let links = socket.links().map_err(failed)?;
        let addresses = socket.addresses().map_err(failed)?;
        let mut routes = socket.routes().map_err(failed)?;
        routes.sort_by_key(|route| (route.metric, route.prefix));
        let chosen = choose(&links, &routes, wanted)?;
        let uplinks: Vec<Uplink> = chosen
            .into_iter()
            .map(|(link, mac)| uplink(link, mac, &addresses, &routes))
            .collect();
        let others = addresses
            .iter()
            .filter(|one| one.global && !uplinks.iter().any(|uplink| uplink.index == one.index))
            .map(|one| one.address)
            .filter(|address| !address.is_loopback())
            .collect();
        let routes = carried(&uplinks, &routes);
        Ok(Self {
            uplinks,
            others,
            routes,
        })
    }

    pub fn primary(&self) -> Option<&Uplink> {
        self.uplinks.first()
    }

    pub fn primary_mtu(&self) -> u32 {
        self.primary().map_or(0, |uplink| uplink.mtu)
    }

    /// The container's addresses: all of the uplinks', the preferred first.
    pub fn shared(&self) -> Vec<IpAddr> {
        self.uplinks
            .iter()
            .flat_map(|uplink| uplink.addresses.iter().copied())
            .collect()
    }

    /// The address that nearly all packets have, and the interface it belongs to.
    fn preferred(&self, v4: bool) -> Option<(IpAddr, u32)> {
        self.uplinks
            .iter()
            .find_map(|uplink| Some((uplink.first(v4)?, uplink.index)))
    }

    /// The value of the map `host`.
    pub fn summary(&self) -> HostAddresses {
        let mut summary = HostAddresses::default();
        if let Some((IpAddr::V4(address), uplink)) = self.preferred(true) {
            (summary.v4, summary.v4_uplink) = (address.octets(), uplink);
        }
        if let Some((IpAddr::V6(address), uplink)) = self.preferred(false) {
            (summary.v6, summary.v6_uplink) = (address.octets(), uplink);
        }
        for (address, _) in self.entries() {
            let preferred = self.preferred(address.is_ipv4()).map(|(preferred, _)| preferred);
            if preferred != Some(address) {
                summary.more |= if address.is_ipv4() { MORE_V4 } else { MORE_V6 };
            }
        }
        summary
    }

    /// The entries of the map `addresses`: uplink 0 for those that containers don't have.
    pub fn entries(&self) -> Vec<(IpAddr, u32)> {
        let shared = self
            .uplinks
            .iter()
            .flat_map(|uplink| uplink.addresses.iter().map(|address| (*address, uplink.index)));
        shared
            .chain(self.others.iter().map(|address| (*address, 0)))
            .collect()
    }
}

/// As the programs compare addresses: IPv4 as ::ffff:a.b.c.d.
pub fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn choose<'a>(
    links: &'a [Link],
    routes: &[Route],
    wanted: &[String],
) -> Result<Vec<(&'a Link, [u8; 6])>, NetworkError> {
    let fit = |link: &'a Link| {
        let reason = if link.loopback {
            "it is loopback"
        } else if !link.ethernet {
            "it has no Ethernet header (a tunnel?), which the network's programs need"
        } else if let Some(mac) = link.mac {
            return Ok((link, mac));
        } else {
            "it has no hardware address"
        };
        Err(NetworkError::UnfitUplink {
            uplink: link.name.clone(),
            reason,
        })
    };
    if !wanted.is_empty() {
        return wanted
            .iter()
            .map(|name| {
                let link = links.iter().find(|link| link.name == *name);
                fit(link.ok_or_else(|| NetworkError::UnknownUplink(name.clone()))?)
            })
            .collect();
    }
    let mut chosen: Vec<(&Link, [u8; 6])> = Vec::new();
    for index in routes
        .iter()
        .filter(|route| route.is_default())
        .flat_map(|route| &route.interfaces)
    {
        let known = chosen.iter().any(|(link, _)| link.index == *index);
        if let Some(link) = links.iter().find(|link| link.index == *index && !known) {
            chosen.push(fit(link)?);
        }
    }
    if chosen.is_empty() {
        return Err(NetworkError::NoUplink);
    }
    Ok(chosen)
}

fn uplink(link: &Link, mac: [u8; 6], addresses: &[InterfaceAddress], routes: &[Route]) -> Uplink {
    let mut own: Vec<&InterfaceAddress> = addresses
        .iter()
        .filter(|one| one.index == link.index && one.global && !one.tentative)
        .collect();
    // What the host's default route says it speaks from comes first; others in the kernel's order.
    let preferred: Vec<IpAddr> = routes
        .iter()
        .filter(|route| route.is_default() && route.interfaces.contains(&link.index))
        .filter_map(|route| route.source)
        .collect();
    own.sort_by_key(|one| (!preferred.contains(&one.address), one.secondary));
    Uplink {
        index: link.index,
        name: link.name.clone(),
        mac,
        mtu: link.mtu,
        up: link.up,
        addresses: own.iter().map(|one| one.address).collect(),
    }
}

/// Two families' defaults with the preferred source, and whatever goes by another uplink with that one's address: so a
/// container speaks from the right address without knowing the uplinks.
fn carried(uplinks: &[Uplink], routes: &[Route]) -> Vec<CarriedRoute> {
    let mut carried = Vec::new();
    for v4 in [true, false] {
        let unspecified: IpAddr = match v4 {
            true => Ipv4Addr::UNSPECIFIED.into(),
            false => Ipv6Addr::UNSPECIFIED.into(),
        };
        let Some(source) = uplinks.iter().find_map(|uplink| uplink.first(v4)) else {
            continue;
        };
        let default = routes.iter().find(|route| {
            route.is_default() && route.destination.is_ipv4() == v4 && carries(route, uplinks).is_some()
        });
        carried.push(CarriedRoute {
            destination: unspecified,
            prefix: 0,
            source,
            mtu: default.and_then(|route| route.mtu),
        });
    }
    for route in routes.iter().filter(|route| !route.is_default()) {
        let v4 = route.destination.is_ipv4();
        let link_local = matches!(route.destination, IpAddr::V6(to) if to.is_unicast_link_local());
        let Some(uplink) = carries(route, uplinks).filter(|_| !link_local) else {
            continue;
        };
        let source = route
            .source
            .filter(|source| uplink.addresses.contains(source))
            .or_else(|| uplink.first(v4));
        let by_default = carried
            .iter()
            .find(|one| one.prefix == 0 && one.destination.is_ipv4() == v4);
        let same = by_default.is_some_and(|default| Some(default.source) == source && route.mtu.is_none());
        if let Some(source) = source.filter(|_| !same && carried.len() < ROUTES_MAX) {
            carried.push(CarriedRoute {
                destination: route.destination,
                prefix: route.prefix,
                source,
                mtu: route.mtu,
            });
        }
    }
    carried
}

fn carries<'a>(route: &Route, uplinks: &'a [Uplink]) -> Option<&'a Uplink> {
    uplinks
        .iter()
        .find(|uplink| route.interfaces.contains(&uplink.index))
}
