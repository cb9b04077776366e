//! Ports and traffic of containers in the host's network namespace: the programs of `ports.bpf.c`, attached to a
//! container's v2 group.
//!
//! Nothing is pinned. Programs, policy and counters belong to the group and end with it; whoever comes later finds them
//! through the group ([`PortPrograms::maps_of`]), whatever agent has put them there.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};
use model::{PortGrant, PortRange, PortRanges};

use crate::objects::{self, EarlierMaps, attach, group_id};
use crate::skeletons::ports as skeleton;

/// Ranges that one container's policy has room for.
pub const RANGES_MAX: usize = 128;

// enum bpf_attach_type, linux/bpf.h
const INET_INGRESS: u32 = 0;
const INET_EGRESS: u32 = 1;
const INET4_BIND: u32 = 8;
const INET6_BIND: u32 = 9;
const INET4_CONNECT: u32 = 10;
const INET6_CONNECT: u32 = 11;

const POLICY: &str = "bh_policy_1";
const TRAFFIC: &str = "bh_traffic_1";

#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    #[error("load the port programs")]
    Load { source: io::Error },
    #[error("attach the port program {program} to a control group")]
    Attach {
        program: &'static str,
        source: io::Error,
    },
    #[error("write a container's port policy")]
    Policy { source: io::Error },
    #[error("{0} ranges of ports are more than a policy holds, {RANGES_MAX}")]
    TooManyRanges(usize),
}

/// The programs, loaded once for all containers.
#[derive(Debug)]
pub struct PortPrograms {
    bind: [OwnedFd; 2],
    connect: [OwnedFd; 2],
    guard: OwnedFd,
    count: [OwnedFd; 2],
    policy: Arc<OwnedFd>,
    traffic: Arc<OwnedFd>,
    earlier: EarlierMaps,
}

/// `struct bh_port_policy`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Policy {
    count: u32,
    ephemeral_first: u16,
    ephemeral_last: u16,
    next: u32,
    last_refused: u32,
    refused: u64,
    unreachable: u64,
    exhausted: u64,
    ranges: [[u16; 2]; RANGES_MAX],
}

/// `struct bh_traffic`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Traffic {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
}

const _: () = {
    assert!(size_of::<Policy>() == 552);
    assert!(size_of::<Traffic>() == 32);
};

/// What a container's policy has refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refusals {
    /// Binds of ports that are not the container's.
    pub binds: u64,
    /// The port of the last of them.
    pub last_port: u16,
    /// Connections to a port that it listens at without having it.
    pub unreachable: u64,
    /// Searches that found no free ephemeral port.
    pub exhausted: u64,
}

impl PortPrograms {
    pub fn load() -> Result<Self, PortsError> {
        let failed = |error: libbpf_rs::Error| PortsError::Load {
            source: io::Error::other(format!("{error:#}")),
        };
        let copied = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned()
                .map_err(|source| PortsError::Load { source })
        };
        let mut storage = MaybeUninit::uninit();
        let open = skeleton::PortsSkelBuilder::default()
            .open(&mut storage)
            .map_err(failed)?;
        let loaded = open.load().map_err(failed)?;
        let programs = &loaded.progs;
        Ok(Self {
            bind: [
                copied(programs.bh_bind4.as_fd())?,
                copied(programs.bh_bind6.as_fd())?,
            ],
            connect: [
                copied(programs.bh_connect4.as_fd())?,
                copied(programs.bh_connect6.as_fd())?,
            ],
            guard: copied(programs.bh_guard_in.as_fd())?,
            count: [
                copied(programs.bh_count_in.as_fd())?,
                copied(programs.bh_count_out.as_fd())?,
            ],
            policy: Arc::new(copied(loaded.maps.bh_policy_1.as_fd())?),
            traffic: Arc::new(copied(loaded.maps.bh_traffic_1.as_fd())?),
            earlier: EarlierMaps::default(),
        })
    }

    /// Policy and counters of a group, whoever attached them; `None`: nothing of ours is attached to it.
    pub fn maps_of(&self, group: BorrowedFd<'_>) -> io::Result<Option<GroupMaps>> {
        let mut maps = GroupMaps {
            group: group_id(group)?,
            policy: Some(Arc::clone(&self.policy)),
            traffic: Some(Arc::clone(&self.traffic)),
            cpus: libbpf_rs::num_possible_cpus().map_err(|error| io::Error::other(error.to_string()))?,
        };
        if maps.traffic().is_ok() {
            maps.policy = maps.policy.take().filter(|_| maps.policy().is_ok());
            return Ok(Some(maps));
        }
        let find = |kind, name, size| self.earlier.find(group, kind, name, size);
        maps.policy = find(INET4_BIND, POLICY, size_of::<Policy>())?;
        maps.traffic = find(INET_EGRESS, TRAFFIC, size_of::<Traffic>())?;
        Ok(Some(maps).filter(|maps| maps.policy.is_some() || maps.traffic.is_some()))
    }

    /// Counts the traffic of a group's sockets from now on.
    pub fn count(&self, group: BorrowedFd<'_>) -> Result<(), PortsError> {
        put(group, &self.count[0], INET_INGRESS, "count_in")?;
        put(group, &self.count[1], INET_EGRESS, "count_out")
    }

    /// Leaves a group these ports and no others. Nobody may be in it yet: between the first program and the policy
    /// nothing at all is allowed.
    pub fn restrict(&self, group: BorrowedFd<'_>, grant: &PortGrant) -> Result<(), PortsError> {
        let policy = Policy::of(grant)?;
        put(group, &self.bind[0], INET4_BIND, "bind4")?;
        let key = group_id(group).map_err(|source| PortsError::Policy { source })?;
        objects::update(self.policy.as_fd(), &key, &policy)
            .map_err(|source| PortsError::Policy { source })?;
        put(group, &self.bind[1], INET6_BIND, "bind6")?;
        put(group, &self.connect[0], INET4_CONNECT, "connect4")?;
        put(group, &self.connect[1], INET6_CONNECT, "connect6")?;
        put(group, &self.guard, INET_INGRESS, "guard_in")
    }
}

fn put(group: BorrowedFd<'_>, fd: &OwnedFd, kind: u32, program: &'static str) -> Result<(), PortsError> {
    attach(group, fd.as_fd(), kind).map_err(|source| PortsError::Attach { program, source })
}

impl Policy {
    fn of(grant: &PortGrant) -> Result<Self, PortsError> {
        let allotted = grant.allotted.ranges();
        if allotted.len() > RANGES_MAX {
            return Err(PortsError::TooManyRanges(allotted.len()));
        }
        let mut policy = Self {
            count: allotted.len() as u32,
            ephemeral_first: grant.ephemeral.map_or(0, PortRange::first),
            ephemeral_last: grant.ephemeral.map_or(0, PortRange::last),
            ranges: [[0; 2]; RANGES_MAX],
            ..Self::EMPTY
        };
        for (place, range) in policy.ranges.iter_mut().zip(allotted) {
            *place = [range.first(), range.last()];
        }
        Ok(policy)
    }

    const EMPTY: Self = Self {
        count: 0,
        ephemeral_first: 0,
        ephemeral_last: 0,
        next: 0,
        last_refused: 0,
        refused: 0,
        unreachable: 0,
        exhausted: 0,
        ranges: [[0; 2]; RANGES_MAX],
    };

    fn grant(&self) -> PortGrant {
        let used = self.ranges.iter().take(self.count as usize);
        let allotted: PortRanges = used
            .filter_map(|[first, last]| PortRange::new(*first, *last))
            .collect();
        PortGrant {
            allotted,
            ephemeral: PortRange::new(self.ephemeral_first, self.ephemeral_last),
        }
    }
}

/// Policy and counters of one group, whoever attached them.
#[derive(Debug)]
pub struct GroupMaps {
    group: u64,
    policy: Option<Arc<OwnedFd>>,
    traffic: Option<Arc<OwnedFd>>,
    cpus: usize,
}

impl GroupMaps {
    /// The group's number, as the kernel tells it elsewhere too.
    pub fn group(&self) -> u64 {
        self.group
    }

    pub fn traffic(&self) -> io::Result<Option<Traffic>> {
        let Some(map) = &self.traffic else { return Ok(None) };
        let mut each = vec![Traffic::default(); self.cpus];
        objects::lookup(map.as_fd(), &self.group, &mut each)?;
        let sum = each.iter().fold(Traffic::default(), |sum, one| Traffic {
            rx_packets: sum.rx_packets + one.rx_packets,
            rx_bytes: sum.rx_bytes + one.rx_bytes,
            tx_packets: sum.tx_packets + one.tx_packets,
            tx_bytes: sum.tx_bytes + one.tx_bytes,
        });
        Ok(Some(sum))
    }

    pub fn refusals(&self) -> io::Result<Option<Refusals>> {
        Ok(self.policy()?.map(|policy| Refusals {
            binds: policy.refused,
            last_port: policy.last_refused as u16,
            unreachable: policy.unreachable,
            exhausted: policy.exhausted,
        }))
    }

    /// The ports that the kernel lets the group have.
    pub fn grant(&self) -> io::Result<Option<PortGrant>> {
        Ok(self.policy()?.map(|policy| policy.grant()))
    }

    fn policy(&self) -> io::Result<Option<Policy>> {
        let Some(map) = &self.policy else { return Ok(None) };
        let mut policy = [Policy::EMPTY];
        objects::lookup(map.as_fd(), &self.group, &mut policy)?;
        Ok(Some(policy[0]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_holds_a_grant_and_not_more_than_it_can() {
        let grant = PortGrant {
            allotted: "80,31000-31002,65535".parse().unwrap(),
            ephemeral: PortRange::new(61_440, 62_463),
        };
        assert_eq!(Policy::of(&grant).unwrap().grant(), grant);
        let single = |port: u16| PortRange::new(port, port).unwrap();
        let scattered: PortRanges = (1..=RANGES_MAX as u16 + 1).map(|n| single(n * 2)).collect();
        let grant = PortGrant {
            allotted: scattered,
            ephemeral: None,
        };
        assert!(matches!(Policy::of(&grant), Err(PortsError::TooManyRanges(129))));
    }
}
