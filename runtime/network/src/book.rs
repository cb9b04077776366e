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

#[derive(Debug, Default)]
pub struct Book {
    members: BTreeMap<ContainerId, Member>,
    /// Those that an earlier agent has left in the maps, until they are adopted or removed.
    inherited: Vec<u32>,
}

impl Book {
    pub fn new(inherited: Vec<u32>) -> Self {
        Self {
            members: BTreeMap::new(),
            inherited,
        }
    }

    pub fn members(&self) -> &BTreeMap<ContainerId, Member> {
        &self.members
    }

    pub fn members_mut(&mut self) -> &mut BTreeMap<ContainerId, Member> {
        &mut self.members
    }

    /// All inherited ones are accounted for.
    pub fn forget_inherited(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.inherited)
    }

    /// The lowest place that nobody has. Place 0 is the host's.
    pub fn free_slot(&self) -> Option<u32> {
        let mut taken: Vec<u32> = self.members.values().map(|member| member.slot).collect();
        taken.extend(&self.inherited);
        taken.sort_unstable();
        taken.dedup();
        let mut free = 1;
        for slot in taken {
            if slot == free {
                free += 1;
            }
        }
        (free < SLOTS).then_some(free)
    }

    pub fn owner(&self, port: u16) -> Option<&ContainerId> {
        let mut owners = self.members.iter().filter(|(_, member)| member.owns(port));
        owners.next().map(|(id, _)| id)
    }

    pub fn by_slot(&self, slot: u32) -> Option<(&ContainerId, &Member)> {
        self.members.iter().find(|(_, member)| member.slot == slot)
    }
}
