//! Routes of the main table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{NetlinkError, RouteSocket};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The unspecified address with prefix 0: the default route.
    pub destination: IpAddr,
    pub prefix: u8,
    /// All of its next hops' interfaces.
    pub interfaces: Vec<u32>,
    pub source: Option<IpAddr>,
    pub mtu: Option<u32>,
    pub metric: u32,
}

impl Route {
    pub fn is_default(&self) -> bool {
        self.prefix == 0
    }
}

impl RouteSocket {
    /// Unicast routes of the main table, both families.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let answers = self.dump(RouteNetlinkMessage::GetRoute(message))?;
            all.extend(answers.iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) => read(message),
                _ => None,
            }));
        }
        Ok(all)
    }

    /// A route whose destination is asked for on `index` itself: no gateway.
    pub fn add_link_route(
        &mut self,
        index: u32,
        destination: IpAddr,
        prefix: u8,
        source: IpAddr,
        mtu: Option<u32>,
    ) -> Result<(), NetlinkError> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(destination),
            destination_prefix_length: prefix,
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope: match destination {
                IpAddr::V4(_) => RouteScope::Link,
                IpAddr::V6(_) => RouteScope::Universe,
            },
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        message.attributes.push(RouteAttribute::Oif(index));
        if prefix > 0 {
            message
                .attributes
                .push(RouteAttribute::Destination(destination.into()));
        }
        message.attributes.push(RouteAttribute::PrefSource(source.into()));
        if let Some(mtu) = mtu {
            message
                .attributes
                .push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        }
        self.change(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn read(message: &RouteMessage) -> Option<Route> {
    if message.header.kind != RouteType::Unicast || message.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let mut route = Route {
        destination: match message.header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        },
        prefix: message.header.destination_prefix_length,
        interfaces: Vec::new(),
        source: None,
        mtu: None,
        metric: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => route.destination = plain(address)?,
            RouteAttribute::PrefSource(address) => route.source = plain(address),
            RouteAttribute::Oif(index) => route.interfaces.push(*index),
            RouteAttribute::MultiPath(hops) => {
                route
                    .interfaces
                    .extend(hops.iter().map(|hop| hop.interface_index));
            }
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(route)
}
