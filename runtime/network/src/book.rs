//! Who is connected: the agent's own account of what the maps say.

use std::collections::{BTreeMap, VecDeque};
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
    /// Given back last: their interfaces have the names that the next owners' would have, until their namespaces are gone.
    resting: VecDeque<u32>,
}

/// A namespace is gone within tens of milliseconds after its last process; a busy kernel takes hundreds of them together.
const RESTING_MAX: usize = 512;

impl Book {
    pub fn new(inherited: Vec<u32>) -> Self {
        Self {
            members: BTreeMap::new(),
            by_slot: BTreeMap::new(),
            owners: vec![0; 1 << 16],
            inherited,
            resting: VecDeque::new(),
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
            self.resting.push_back(member.slot);
            if self.resting.len() > RESTING_MAX {
                self.resting.pop_front();
            }
        }
    }

    /// All inherited ones are accounted for.
    pub fn forget_inherited(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.inherited)
    }

    /// The lowest place that nobody has and that has rested; where all others are taken, the one that has rested longest.
    /// Place 0 is the host's.
    pub fn free_slot(&self) -> Option<u32> {
        let free = |slot: &u32| !self.by_slot.contains_key(slot) && !self.inherited.contains(slot);
        let rested = (1..SLOTS).find(|slot| free(slot) && !self.resting.contains(slot));
        rested.or_else(|| self.resting.iter().copied().find(free))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn member(slot: u32) -> Member {
        Member {
            slot,
            interface: String::new(),
            ifindex: 1,
            peer_ifindex: 2,
            grant: PortGrant::default(),
            bandwidth: Bandwidth::default(),
            netns: None,
            addresses: Vec::new(),
        }
    }

    #[test]
    fn a_place_rests_before_it_is_given_again() {
        let mut book = Book::new(vec![1]);
        let id: ContainerId = "one".parse().unwrap();
        for expected in 2..2 + RESTING_MAX as u32 {
            let slot = book.free_slot().unwrap();
            assert_eq!(slot, expected);
            book.insert(id.clone(), member(slot));
            book.remove(&id);
        }
        let next = 2 + RESTING_MAX as u32;
        assert_eq!(book.free_slot(), Some(next));
        book.insert(id.clone(), member(next));
        book.remove(&id);
        assert_eq!(book.free_slot(), Some(2));
        book.forget_inherited();
        assert_eq!(book.free_slot(), Some(1));
    }

    #[test]
    fn the_last_places_do_not_rest() {
        let mut book = Book::new((2..SLOTS).collect());
        let id: ContainerId = "one".parse().unwrap();
        for _ in 0..3 {
            assert_eq!(book.free_slot(), Some(1));
            book.insert(id.clone(), member(1));
            assert_eq!(book.free_slot(), None);
            book.remove(&id);
        }
    }
}
