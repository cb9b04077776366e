//! The host's network has changed: an uplink has another address, MAC or MTU, went, came back.

use std::net::IpAddr;

use kernel::netlink::namespace;

use crate::NetworkError;
use crate::datapath::{Datapath, State, inside_result, programs};
use crate::host_network::HostNetwork;
use crate::inside;

impl Datapath {
    /// Compares the host with what is known of it and passes changes on to the programs and into the containers. Cheap
    /// when nothing has changed: for every netlink notice, and now and then without one. A container that can't be told
    /// does not keep the others from it; the first error is answered at the end.
    pub fn refresh(&self) -> Result<(), NetworkError> {
        let mut guard = self.lock();
        let State {
            socket, host, book, ..
        } = &mut *guard;
        let now = HostNetwork::read(socket, &self.config.uplinks)?;
        // Someone may have taken them from the interface: they are put back even if nothing else has changed.
        self.publish_host(&now)?;
        let shared = now.shared();
        let mut first_error = self.share_uplinks(host, &now).err();
        let unlike = |one: &HostNetwork, other: &HostNetwork| {
            let face = |host: &HostNetwork| host.primary().map(|uplink| (uplink.mac, uplink.mtu));
            face(one) != face(other) || one.shared() != other.shared() || one.routes != other.routes
        };
        let changed = unlike(host, &now);
        for (id, member) in book.members_mut() {
            if !changed && same_addresses(&member.addresses, &shared) {
                continue;
            }
            let Some(netns) = &member.netns else {
                tracing::warn!(container = %id, "its network namespace is not known: it keeps the former address");
                continue;
            };
            let followed = inside_result(
                namespace::within(netns, || inside::follow(&now, &member.addresses)),
                id,
            )
            .and_then(|()| {
                let wrong = || programs(format!("change the address of container {id}"));
                let mut slot = self.steering.slot(member.slot).map_err(wrong())?;
                slot.mac = now.primary().map_or(slot.mac, |uplink| uplink.mac);
                self.steering.set_slot(member.slot, &slot).map_err(wrong())
            });
            match followed {
                Ok(()) => member.addresses.clone_from(&shared),
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        *host = now;
        first_error.map_or(Ok(()), Err)
    }
}

/// In whatever order.
fn same_addresses(one: &[IpAddr], other: &[IpAddr]) -> bool {
    one.len() == other.len() && one.iter().all(|address| other.contains(address))
}
