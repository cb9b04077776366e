//! Ceilings of containers in the host's network namespace: the programs of `ceiling.bpf.c`, attached to a container's v2
//! group.
//!
//! Nothing is pinned: programs and state belong to the group and end with it, as those of [`crate::ports`] do.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use libbpf_rs::skel::{OpenSkel as _, SkelBuilder as _};

use crate::objects::{self, EarlierMaps, attach, group_id};
use crate::skeletons::ceiling as skeleton;

// enum bpf_attach_type, linux/bpf.h
const INET_INGRESS: u32 = 0;
const INET_EGRESS: u32 = 1;
const SOCK_OPS: u32 = 3;

const STATE: &str = "bh_ceiling_1";
const INWARD: &str = "bh_inward_1";
const TCP: &str = "bh_tcp_1";

const SECOND_NS: u64 = 1_000_000_000;
/// Datagrams beyond the rate are dropped soon: the programs take more as gone beforehand (AHEAD_NS).
const BURST_NS: u64 = 15_000_000;
/// TCP is held by its pace. This is for connections that are new, or older than the programs.
const TCP_BURST_NS: u64 = 1_200_000_000;

/// Of what comes in: datagrams, whose senders mostly listen to nobody, and TCP, which needs half a second (see the programs).
const INWARD_BURST_NS: u64 = 50_000_000;
const INWARD_TCP_BURST_NS: u64 = 500_000_000;

#[derive(Debug, thiserror::Error)]
pub enum CeilingError {
    #[error("load the programs of ceilings in the host's network")]
    Load { source: io::Error },
    #[error("attach the program {program} to a control group")]
    Attach {
        program: &'static str,
        source: io::Error,
    },
    #[error("{operation} the ceiling of a control group")]
    State {
        operation: &'static str,
        source: io::Error,
    },
}

/// `struct bh_ceiling`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Ceiling {
    /// Bytes a second; 0: none.
    pub rate: u64,
    burst_ns: u64,
    tcp_burst_ns: u64,
    /// Bytes a second that each connection may send.
    pub pace: u64,
    empty_at: u64,
    datagrams_at: u64,
    window_at: u64,
    window_bytes: u64,
    rtt_ns: u64,
    pub bytes: u64,
    pub limited_bytes: u64,
    pub dropped_packets: u64,
    was_limited: u64,
}

const _: () = assert!(size_of::<Ceiling>() == 104);

impl Ceiling {
    /// Another rate; what was counted stays.
    fn changed(self, rate: u64, burst: u64) -> Self {
        let more = burst.saturating_mul(SECOND_NS) / rate.max(1);
        Self {
            rate,
            burst_ns: BURST_NS.max(more),
            tcp_burst_ns: TCP_BURST_NS.max(more),
            // At another rate these were others.
            pace: 0,
            empty_at: 0,
            datagrams_at: 0,
            window_bytes: 0,
            was_limited: u64::from(rate != 0 || self.was_limited != 0 || self.rate != 0),
            ..self
        }
    }
}

/// `struct bh_inward`: what comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Inward {
    /// Bytes a second; 0: none.
    pub rate: u64,
    burst_ns: u64,
    tcp_burst_ns: u64,
    empty_at: u64,
    pub bytes: u64,
    pub limited_bytes: u64,
    pub dropped_packets: u64,
}

const _: () = assert!(size_of::<Inward>() == 56);

impl Inward {
    fn changed(self, rate: u64, burst: u64) -> Self {
        let more = burst.saturating_mul(SECOND_NS) / rate.max(1);
        Self {
            rate,
            burst_ns: INWARD_BURST_NS.max(more),
            tcp_burst_ns: INWARD_TCP_BURST_NS.max(more),
            empty_at: 0,
            ..self
        }
    }
}

/// Loaded once for all containers.
#[derive(Debug)]
pub struct CeilingPrograms {
    out: OwnedFd,
    pace: OwnedFd,
    inward: OwnedFd,
    state: Arc<OwnedFd>,
    inward_state: Arc<OwnedFd>,
    tcp_state: Arc<OwnedFd>,
    earlier: EarlierMaps,
}

/// The ceiling of one group.
#[derive(Debug)]
pub struct GroupCeiling {
    group: u64,
    state: Arc<OwnedFd>,
}

impl CeilingPrograms {
    pub fn load() -> Result<Self, CeilingError> {
        let failed = |error: libbpf_rs::Error| CeilingError::Load {
            source: io::Error::other(format!("{error:#}")),
        };
        let copied = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned()
                .map_err(|source| CeilingError::Load { source })
        };
        let mut storage = MaybeUninit::uninit();
        let open = skeleton::CeilingSkelBuilder::default()
            .open(&mut storage)
            .map_err(failed)?;
        let loaded = open.load().map_err(failed)?;
        Ok(Self {
            out: copied(loaded.progs.bh_ceiling_out.as_fd())?,
            pace: copied(loaded.progs.bh_pace.as_fd())?,
            inward: copied(loaded.progs.bh_ceiling_in.as_fd())?,
            state: Arc::new(copied(loaded.maps.bh_ceiling_1.as_fd())?),
            inward_state: Arc::new(copied(loaded.maps.bh_inward_1.as_fd())?),
            tcp_state: Arc::new(copied(loaded.maps.bh_tcp_1.as_fd())?),
            earlier: EarlierMaps::default(),
        })
    }

    /// Attaches the programs, which do nothing until a ceiling is set: only connections that begin from now on can be
    /// paced then. Others are held by drops alone.
    pub fn attach(&self, group: BorrowedFd<'_>) -> Result<(), CeilingError> {
        for (fd, kind, program) in [
            (&self.pace, SOCK_OPS, "pace"),
            (&self.out, INET_EGRESS, "ceiling_out"),
        ] {
            attach(group, fd.as_fd(), kind).map_err(|source| CeilingError::Attach { program, source })?;
        }
        Ok(())
    }

    /// `None`: nothing of ours is attached to the group.
    pub fn of(&self, group: BorrowedFd<'_>) -> io::Result<Option<GroupCeiling>> {
        let ours = GroupCeiling {
            group: group_id(group)?,
            state: Arc::clone(&self.state),
        };
        if ours.read().is_ok() {
            return Ok(Some(ours));
        }
        let found = self
            .earlier
            .find(group, INET_EGRESS, STATE, size_of::<Ceiling>())?;
        Ok(found.map(|state| GroupCeiling { state, ..ours }))
    }

    /// Sets, changes or lifts (0) the ceiling of a group: bytes a second, and bytes that may go at once.
    pub fn set(&self, group: BorrowedFd<'_>, rate: u64, burst: u64) -> Result<(), CeilingError> {
        let failed = |operation| move |source| CeilingError::State { operation, source };
        let ceiling = match self.of(group).map_err(failed("look for"))? {
            Some(ceiling) => ceiling,
            None if rate == 0 => return Ok(()),
            None => {
                self.attach(group)?;
                GroupCeiling {
                    group: group_id(group).map_err(failed("look for"))?,
                    state: Arc::clone(&self.state),
                }
            }
        };
        let state = ceiling.read().map_err(failed("read"))?.changed(rate, burst);
        objects::update(ceiling.state.as_fd(), &ceiling.group, &state).map_err(failed("write"))
    }

    /// What comes in: to be read by [`GroupCeiling::read_inward`], which fails as long as there has never been such a ceiling.
    pub fn inward_of(&self, group: BorrowedFd<'_>) -> io::Result<GroupCeiling> {
        let ours = GroupCeiling {
            group: group_id(group)?,
            state: Arc::clone(&self.inward_state),
        };
        if ours.read_inward().is_ok() {
            return Ok(ours);
        }
        let found = self
            .earlier
            .find(group, INET_INGRESS, INWARD, size_of::<Inward>())?;
        Ok(match found {
            Some(state) => GroupCeiling { state, ..ours },
            None => ours,
        })
    }

    /// What its connections tell: to be read by [`GroupCeiling::retransmits`]. `None`: an earlier agent's programs do not count it.
    pub fn connections_of(&self, group: BorrowedFd<'_>) -> io::Result<Option<GroupCeiling>> {
        let ours = GroupCeiling {
            group: group_id(group)?,
            state: Arc::clone(&self.tcp_state),
        };
        if ours.retransmits().is_ok() {
            return Ok(Some(ours));
        }
        let found = self.earlier.find(group, SOCK_OPS, TCP, size_of::<u64>())?;
        Ok(found.map(|state| GroupCeiling { state, ..ours }))
    }

    /// As [`set`](Self::set), of what comes in. The program is attached by the first such ceiling.
    pub fn set_inward(&self, group: BorrowedFd<'_>, rate: u64, burst: u64) -> Result<(), CeilingError> {
        let failed = |operation| move |source| CeilingError::State { operation, source };
        let ceiling = self.inward_of(group).map_err(failed("look for"))?;
        if ceiling.read_inward().is_err() {
            if rate == 0 {
                return Ok(());
            }
            attach(group, self.inward.as_fd(), INET_INGRESS).map_err(|source| CeilingError::Attach {
                program: "ceiling_in",
                source,
            })?;
        }
        let state = ceiling.read_inward().map_err(failed("read"))?;
        let state = state.changed(rate, burst);
        objects::update(ceiling.state.as_fd(), &ceiling.group, &state).map_err(failed("write"))
    }
}

impl GroupCeiling {
    /// Segments that were sent again, of one by [`CeilingPrograms::connections_of`].
    pub fn retransmits(&self) -> io::Result<u64> {
        let cpus = libbpf_rs::num_possible_cpus().map_err(io::Error::other)?;
        let mut counts = vec![0_u64; cpus];
        objects::lookup(self.state.as_fd(), &self.group, &mut counts)?;
        Ok(counts.iter().sum())
    }

    /// As [`read`](Self::read), of one by [`CeilingPrograms::inward_of`].
    pub fn read_inward(&self) -> io::Result<Inward> {
        let mut state = [Inward::default()];
        objects::lookup(self.state.as_fd(), &self.group, &mut state)?;
        Ok(state[0])
    }

    /// What is in force, and what was counted.
    pub fn read(&self) -> io::Result<Ceiling> {
        let mut state = [Ceiling::default()];
        objects::lookup(self.state.as_fd(), &self.group, &mut state)?;
        Ok(state[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_rate_keeps_what_was_counted_and_remembers_that_there_was_one() {
        let before = Ceiling {
            rate: 1_000_000,
            pace: 10,
            bytes: 5,
            dropped_packets: 2,
            ..Ceiling::default()
        };
        let lifted = before.changed(0, 0);
        assert_eq!((lifted.rate, lifted.pace, lifted.was_limited), (0, 0, 1));
        assert_eq!((lifted.bytes, lifted.dropped_packets), (5, 2));
        let slow = before.changed(1000, 1000);
        assert_eq!(slow.burst_ns, SECOND_NS, "a burst of a second");
        assert_eq!(before.changed(1_000_000_000, 0).burst_ns, BURST_NS);
        assert_eq!(Ceiling::default().changed(0, 0).was_limited, 0);
    }
}
