//! After a restart: who is connected still, and what nobody owns.

use std::collections::BTreeSet;

use bpf::{Entry, Slot};
use kernel::netlink::{Link, namespace};

use crate::book::Member;
use crate::datapath::{DOOMED_GROUP, Datapath, State, alias, inside_result, is_ours, netlink, programs};
use crate::inside::{self, InsideError, LOOPBACK};
use crate::sharing::told;
use crate::{Adopted, Known, NetworkError};

impl Datapath {
    /// Makes the containers of an earlier agent known, from the kernel's interfaces and what their checkpoints say, and
    /// removes what none of them owns. Traffic is not touched where all is as it should be; where pins are gone (a bpffs
    /// that was unmounted) maps and programs are made anew.
    pub fn adopt(&self, known: Vec<Known>) -> Result<Adopted, NetworkError> {
        let mut adopted = Adopted::default();
        let mut kept_interfaces = BTreeSet::new();
        {
            let mut guard = self.lock();
            let links = guard
                .socket
                .links()
                .map_err(netlink("list the host's interfaces"))?;
            let inherited = guard.book.forget_inherited();
            for one in known {
                let name = self.interface_name(one.slot);
                let mark = alias(&self.config.instance, &one.id);
                let link = links
                    .iter()
                    .find(|link| link.veth && link.name == name && link.alias.as_deref() == Some(&mark));
                let Some(link) = link else {
                    self.clear(one.slot, 0, one.grant.all().ports())?;
                    adopted.lost.push(one.id);
                    continue;
                };
                kept_interfaces.insert(link.index);
                let id = one.id.clone();
                self.keep(&mut guard, one, link)?;
                adopted.kept.push(id);
            }
            let slots: BTreeSet<u32> = guard.book.members().values().map(|member| member.slot).collect();
            for slot in inherited {
                if !slots.contains(&slot) {
                    self.clear_unowned(slot)?;
                }
            }
            self.release_unowned_ports(&guard)?;
        }
        // Whatever has changed at the host while no agent ran.
        if let Err(error) = self.refresh() {
            // Looked at again soon; nobody is to wait for it.
            tracing::warn!("look at the uplinks: {}", told(&error));
        }
        let kept: Vec<u32> = kept_interfaces.into_iter().collect();
        adopted.removed = self.sweep(&kept)?;
        Ok(adopted)
    }

    fn keep(&self, guard: &mut State, one: Known, link: &Link) -> Result<(), NetworkError> {
        let wrong = || programs(format!("take over the network of container {}", one.id));
        let found = self.steering.slot(one.slot).map_err(wrong())?;
        let intact = found.ifindex == link.index;
        let peer_ifindex = match (&one.netns, intact) {
            (_, true) => found.peer_ifindex,
            (Some(netns), false) => {
                let result = namespace::within(netns, || {
                    let eth0 = inside::interface()?;
                    self.steering
                        .reattach(Entry::ContainerLoopback, LOOPBACK)
                        .map_err(InsideError::Program)?;
                    Ok(eth0)
                });
                inside_result(result, &one.id)?
            }
            // Where it was made first, and nothing else has been since.
            (None, false) => 2,
        };
        let member = Member {
            slot: one.slot,
            interface: link.name.clone(),
            ifindex: link.index,
            peer_ifindex,
            grant: one.grant,
            bandwidth: one.bandwidth,
            netns: one.netns,
            addresses: guard.former_addresses.clone(),
        };
        if !intact {
            self.steering.reattach(Entry::Veth, link.index).map_err(wrong())?;
            let primary = guard.host.primary().ok_or(NetworkError::NoUplink)?;
            let slot = Slot {
                ifindex: link.index,
                flags: 0,
                peer_ifindex,
                mac: link.mac.unwrap_or(primary.mac),
                class_major: 0,
            };
            self.steering.set_slot(member.slot, &slot).map_err(wrong())?;
            self.steering
                .write(
                    "by_ifindex",
                    &link.index.to_ne_bytes(),
                    &member.slot.to_ne_bytes(),
                )
                .map_err(wrong())?;
        }
        self.steering
            .set_owner(member.grant.all().ports(), member.slot)
            .map_err(wrong())?;
        let bandwidth = member.bandwidth;
        let slot = member.slot;
        guard.book.insert(one.id.clone(), member);
        if let Err(error) = self.share_again(guard, &one.id, slot, &bandwidth) {
            // It is connected, and stays so.
            tracing::error!(container = %one.id, "its share of the uplinks is not complete: {}", told(&error));
        }
        if !intact && !bandwidth.is_unset() {
            self.apply_bandwidth(guard, &one.id)?;
        }
        Ok(())
    }

    fn clear_unowned(&self, slot: u32) -> Result<(), NetworkError> {
        let found = self
            .steering
            .slot(slot)
            .map_err(programs("read the places of containers"))?;
        self.clear(slot, found.ifindex, std::iter::empty())
    }

    /// Ports whose slot no container has, or whose container has lost them.
    fn release_unowned_ports(&self, guard: &State) -> Result<(), NetworkError> {
        let wrong = || programs("read the owners of ports");
        let owners = self.steering.owners().map_err(wrong())?;
        let unowned: Vec<u16> = owners
            .iter()
            .enumerate()
            .filter(|(_, slot)| **slot != 0)
            .filter_map(|(port, slot)| Some((u16::try_from(port).ok()?, *slot)))
            .filter(|(port, slot)| {
                let owner = guard.book.by_slot(*slot);
                !owner.is_some_and(|(_, member)| member.owns(*port))
            })
            .map(|(port, _)| port)
            .collect();
        self.steering.set_owner(unowned.into_iter(), 0).map_err(wrong())
    }

    /// Deletes this instance's interfaces but `kept`, all at once. Answers their names.
    pub(crate) fn sweep(&self, kept: &[u32]) -> Result<Vec<String>, NetworkError> {
        let mut guard = self.lock();
        let socket = &mut guard.socket;
        let sweeping = || netlink("remove interfaces of nobody");
        let prefix = format!("bh{}-", self.config.instance);
        let mut doomed = Vec::new();
        for link in socket.links().map_err(sweeping())? {
            let marked = is_ours(&self.config.instance, link.alias.as_deref());
            let ours = link.veth && (marked || link.name.starts_with(&prefix));
            if ours && !kept.contains(&link.index) {
                doomed.push(link);
            }
        }
        for link in &doomed {
            match socket.set_group(link.index, DOOMED_GROUP) {
                // Its namespace has taken it along meanwhile.
                Err(error) if error.errno() == Some(kernel::Errno::ENODEV) => {}
                other => other.map_err(sweeping())?,
            }
        }
        if !doomed.is_empty() {
            socket.delete_group(DOOMED_GROUP).map_err(sweeping())?;
        }
        Ok(doomed.into_iter().map(|link| link.name).collect())
    }
}
