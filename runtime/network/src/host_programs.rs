//! The programs at the host's own interfaces: where they are attached, and what they know of the host.

use bpf::{Entry, Way};
use kernel::netlink::traffic::TrafficControl;

use crate::NetworkError;
use crate::datapath::{Datapath, netlink, programs};
use crate::host_network::{HostNetwork, mapped};
use crate::inside::LOOPBACK;

impl Datapath {
    /// Tells the programs what addresses the host has, and attaches them where they are not yet.
    pub(crate) fn publish_host(&self, host: &HostNetwork) -> Result<(), NetworkError> {
        let wrong = || programs("tell the network's programs the host's addresses");
        let entries: Vec<([u8; 16], u32)> = host
            .entries()
            .into_iter()
            .map(|(address, uplink)| (mapped(address), uplink))
            .collect();
        for (key, uplink) in &entries {
            let mut value = uplink.to_ne_bytes().to_vec();
            value.extend([0; 4]);
            self.steering.write("addresses", key, &value).map_err(wrong())?;
        }
        self.steering.set_host(&host.summary()).map_err(wrong())?;
        for (key, _) in self.steering.read_all("addresses").map_err(wrong())? {
            if !entries.iter().any(|(known, _)| key == known) {
                self.steering.remove("addresses", &key).map_err(wrong())?;
            }
        }
        for (entry, named) in [(Entry::Uplink, true), (Entry::HostLoopback, false)] {
            let wanted: Vec<(u32, &str)> = match named {
                true => host
                    .uplinks
                    .iter()
                    .map(|uplink| (uplink.index, uplink.name.as_str()))
                    .collect(),
                false => vec![(LOOPBACK, "lo")],
            };
            for (index, name) in &wanted {
                let operation = format!("attach the network's programs to {name}");
                let way = self.way(entry, *index, name)?;
                self.steering
                    .pin_at(entry, *index, way)
                    .map_err(programs(operation))?;
            }
            for (index, _) in self.steering.pinned_at(entry) {
                if !wanted.iter().any(|(one, _)| *one == index) {
                    self.unpin(entry, index)?;
                }
            }
        }
        Ok(())
    }

    /// Behind the filters of others, if there are any: a link of tcx would take what is a container's before they see it.
    fn way(&self, entry: Entry, index: u32, name: &str) -> Result<Way, NetworkError> {
        if self.steering.is_filter_at(entry, index) {
            return Ok(Way::Filter);
        }
        let filters = TrafficControl::open()
            .and_then(|traffic| traffic.ingress_filters(index))
            .map_err(netlink(format!("list the filters of {name}")))?;
        let others = filters.iter().any(|priority| *priority != bpf::PRIORITY);
        Ok(if others { Way::Filter } else { Way::Link })
    }

    /// Takes a program from an interface that stays, and the clsact that was made for it unless others use it by now.
    pub(crate) fn unpin(&self, entry: Entry, index: u32) -> Result<(), NetworkError> {
        let operation = "detach the network's programs from an interface";
        let made = self
            .steering
            .unpin_at(entry, index)
            .map_err(programs(operation))?;
        if made {
            TrafficControl::open()
                .and_then(|traffic| traffic.remove_unused_clsact(index))
                .map_err(netlink(operation))?;
        }
        Ok(())
    }
}
