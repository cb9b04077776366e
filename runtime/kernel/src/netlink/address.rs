//! Addresses of interfaces.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{NetlinkError, RouteSocket};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddress {
    pub index: u32,
    pub address: IpAddr,
    pub prefix: u8,
    /// Of the whole network; not of this link or host alone.
    pub global: bool,
    /// Another of its subnet came first, or it is not to be used for new connections.
    pub secondary: bool,
    /// Not yet known to be nobody else's.
    pub tentative: bool,
}

impl RouteSocket {
    pub fn addresses(&mut self) -> Result<Vec<InterfaceAddress>, NetlinkError> {
        let answers = self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(message) => read(message),
                _ => None,
            })
            .collect())
    }

    /// As a host address (/32, /128) that is used at once.
    pub fn add_host_address(&mut self, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let message = host_address(index, address);
        self.change(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    pub fn remove_host_address(&mut self, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let result = self.change(RouteNetlinkMessage::DelAddress(host_address(index, address)), 0);
        match result {
            Err(error) if error.errno() == Some(crate::Errno::EADDRNOTAVAIL) => Ok(()),
            other => other,
        }
    }
}

fn host_address(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    (message.header.family, message.header.prefix_len) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    if address.is_ipv6() {
        // The host has it as well, rightly.
        message.header.flags = AddressHeaderFlags::Nodad;
        message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

fn read(message: &AddressMessage) -> Option<InterfaceAddress> {
    let (mut local, mut address) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point interface `Address` is the peer's.
            AddressAttribute::Local(found) => local = Some(*found),
            AddressAttribute::Address(found) => address = Some(*found),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    Some(InterfaceAddress {
        index: message.header.index,
        address: local.or(address)?,
        prefix: message.header.prefix_len,
        global: message.header.scope == AddressScope::Universe,
        secondary: flags.intersects(AddressFlags::Secondary | AddressFlags::Deprecated),
        tentative: flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
    })
}
