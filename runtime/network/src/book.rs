//! Who is connected: the agent's own account of what the maps say.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use bpf::layout::SLOTS;
use model::{Bandwidth, ContainerId, PortGrant};

/// A connected container.
#[derive(Debug)]
pub struct Member {
    pub slot: u32,
    pub interface: String,
    pub ifindex: u32,
    pub peer_ifindex: u32,
    pub grant: PortGrant,
    pub bandwidth: Bandwidth,
    pub netns: Option<OwnedFd>,
    /// What its eth0 has.
    pub addresses: Vec<IpAddr>,
}

impl Member {
    pub fn owns(&self, port: u16) -> bool {
        self.grant.allotted.contains(port) || self.grant.ephemeral.is_some_and(|range| range.contains(port))
    }
}

#[derive(Debug)]
pub struct Book {
    members: BTreeMap<ContainerId, Member>,
    by_slot: BTreeMap<u32, ContainerId>,
    /// Slot by port, as in the map `ports`; 0: nobody's.
    owners: Vec<u32>,
    /// Those that an earlier agent has left in the maps, until they are adopted or removed.
    inherited: Vec<u32>,
}

impl Book {
    pub fn new(inherited: Vec<u32>) -> Self {
        Self {
            members: BTreeMap::new(),
            by_slot: BTreeMap::new(),
            owners: vec![0; 1 << 16],
            inherited,
        }
    }

    pub fn members(&self) -> &BTreeMap<ContainerId, Member> {
        &self.members
    }

    /// For changes other than of place and ports.
    pub fn members_mut(&mut self) -> &mut BTreeMap<ContainerId, Member> {
        &mut self.members
    }

    pub fn insert(&mut self, id: ContainerId, member: Member) {
        for port in member.grant.all().ports() {
            self.owners[usize::from(port)] = member.slot;
        }
        self.by_slot.insert(member.slot, id.clone());
        self.members.insert(id, member);
    }

    pub fn remove(&mut self, id: &ContainerId) {
        if let Some(member) = self.members.remove(id) {
            for port in member.grant.all().ports() {
                self.owners[usize::from(port)] = 0;
            }
            self.by_slot.remove(&member.slot);
        }
    }

    /// All inherited ones are accounted for.
    pub fn forget_inherited(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.inherited)
    }

    /// The lowest place that nobody has. Place 0 is the host's.
    pub fn free_slot(&self) -> Option<u32> {
        (1..SLOTS).find(|slot| !self.by_slot.contains_key(slot) && !self.inherited.contains(slot))
    }

    /// One above the highest place that is taken.
    pub fn slots_end(&self) -> u32 {
        self.by_slot.last_key_value().map_or(1, |(slot, _)| slot + 1)
    }

    pub fn owner(&self, port: u16) -> Option<&ContainerId> {
        self.by_slot.get(&self.owners[usize::from(port)])
    }

    pub fn by_slot(&self, slot: u32) -> Option<(&ContainerId, &Member)> {
        self.members.get_key_value(self.by_slot.get(&slot)?)
    }
}
