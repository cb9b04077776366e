//! From containers' shares of an uplink to the classes of the discipline that holds them. Pure.
//!
//! ```text
//! M:  HTB ── M:ffff the uplink's rate ─┬─ M:fffd the host: a twentieth in any case, weight 100
//!                                      ├─ M:SLOT a mapped container: its guarantee, and of the rest by its weight
//!                                      └─ M:1000+N a container in the host's network: the same
//! ```
//!
//! A class that has used up its guarantee borrows from the uplink's; those that borrow take turns, and each sends a quantum
//! in its turn (deficit round robin). So quanta are the weights. A quantum smaller than a packet would be no share at all
//! (sch_htb.c gives a turn whatever the deficit), and a large one is the time that all others wait: the smallest weight
//! has one packet, and nobody more than 64.

use kernel::netlink::traffic::{Change, Class, Handle};
use model::{Bandwidth, BitsPerSecond};

/// As `cpu.weight` of cgroup v2 has it.
pub const WEIGHT_OF_A_CPU: u32 = 100;
/// The largest share of one container in the smallest of another, while both want more than they get.
pub const RATIO_MAX: u64 = 64;
/// Of the rate, so that the host is reached and the agent's talk gets through, whatever containers send.
const HOST_PART: u64 = 20;
/// What guarantees may add up to, in tenths of the rate: the rest is the host's, and of those that borrow.
const GUARANTEED_TENTHS: u64 = 9;
/// A class without a guarantee: the kernel wants some rate.
const LEAST_PART: u64 = 100_000;

const ETHERNET_HEADER: u64 = 14;
/// What HTB may catch up with when its timer comes late: 4 ms (see shaper_plan.rs).
const BURST_DIVISOR: u64 = 250;
/// Nothing is larger than this: 64 kB and the headers of all its segments.
const OFFLOADED_MAX: u64 = 72_000;

pub const UPLINK_MINOR: u16 = 0xffff;
pub const HOST_MINOR: u16 = 0xfffd;
/// Minor numbers of containers in the host's network; below are the slots of mapped ones.
pub const FIRST_HOST_NETWORK_MINOR: u16 = 0x1000;
pub const LAST_HOST_NETWORK_MINOR: u16 = 0x1fff;

/// What one container has of a full uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub weight: u32,
    /// Bytes a second.
    pub guarantee: u64,
}

impl Share {
    /// Without a weight (the agent tells it by the CPUs): that of one CPU.
    pub fn of(bandwidth: &Bandwidth) -> Self {
        Self {
            weight: bandwidth.weight.unwrap_or(WEIGHT_OF_A_CPU).max(1),
            guarantee: bandwidth.egress_min.map_or(0, |BitsPerSecond(bits)| bits / 8),
        }
    }

    /// The host itself.
    pub const HOST: Self = Self {
        weight: WEIGHT_OF_A_CPU,
        guarantee: 0,
    };
}

/// An uplink that is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Bytes a second.
    pub rate: u64,
    /// Of the discipline.
    pub major: u16,
    pub mtu: u32,
    /// The kernel has TBF, which cuts offloaded packets.
    pub can_cut: bool,
}

impl Line {
    pub fn handle(&self, minor: u16) -> Handle {
        Handle::new(self.major, minor)
    }

    fn packet(&self) -> u64 {
        u64::from(self.mtu.max(576)) + ETHERNET_HEADER
    }

    /// The largest packet that goes in one piece: a millisecond. From some 600 Mbit/s on nothing is cut.
    fn unit(&self) -> u64 {
        match self.can_cut {
            true => (self.rate / 1_000).clamp(self.packet(), OFFLOADED_MAX),
            false => OFFLOADED_MAX,
        }
    }

    fn quantum(&self, weight: u32, least: u32) -> u32 {
        let (weight, least) = (u64::from(weight), u64::from(least.max(1)));
        let unit = self.unit();
        u32::try_from((unit * weight / least).clamp(unit, unit * RATIO_MAX)).unwrap_or(u32::MAX)
    }

    fn burst(&self, rate: u64) -> u64 {
        rate / BURST_DIVISOR + self.packet()
    }

    /// The discipline itself, with the host's class.
    pub fn root(&self, least: u32) -> Vec<Change<'static>> {
        let mut changes = vec![
            Change::Htb {
                handle: self.handle(0),
                default: HOST_MINOR,
            },
            Change::Class(Class {
                parent: self.handle(0),
                handle: self.handle(UPLINK_MINOR),
                rate: self.rate,
                ceiling: self.rate,
                burst: self.burst(self.rate),
                ceiling_burst: self.burst(self.rate),
                quantum: self.packet() as u32,
                priority: 0,
            }),
        ];
        changes.extend(self.member(HOST_MINOR, Share::HOST, least));
        changes
    }

    /// The class of one container, and its queue. `least`: the smallest weight of all.
    pub fn member(&self, minor: u16, share: Share, least: u32) -> [Change<'static>; 2] {
        let handle = self.handle(minor);
        // A handle of its own: what is there already is changed in place.
        let queue = Handle::new(minor, 0);
        // A tenth of a second of the whole line: TCP of this host stops long before (its small queues).
        let bytes = (self.rate / 10).clamp(256 << 10, 16 << 20) as u32;
        let leaf = match self.can_cut {
            true => Change::Cutter {
                parent: handle,
                handle: queue,
                largest: self.unit() as u32,
                bytes,
            },
            false => Change::Fifo {
                parent: handle,
                handle: queue,
                bytes,
            },
        };
        [self.class(minor, share, least), leaf]
    }

    /// The class alone: its queue stays as it is.
    pub fn class(&self, minor: u16, share: Share, least: u32) -> Change<'static> {
        let promised = match minor {
            HOST_MINOR => self.rate / HOST_PART,
            _ => share.guarantee,
        };
        let rate = promised.max(self.rate / LEAST_PART).max(1);
        Change::Class(Class {
            parent: self.handle(UPLINK_MINOR),
            handle: self.handle(minor),
            rate,
            ceiling: self.rate,
            burst: self.burst(rate),
            ceiling_burst: self.burst(self.rate),
            quantum: self.quantum(share.weight, least),
            priority: 0,
        })
    }
}

/// What guarantees may add up to.
pub fn guaranteeable(rate: u64) -> u64 {
    rate / 10 * GUARANTEED_TENTHS
}

/// The major number of an instance's disciplines; others' mostly have small ones. FNV-1a.
pub fn major(instance: &str) -> u16 {
    let hash = instance.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    0xb000 | (hash ^ (hash >> 16)) as u16 & 0x0fff
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: Line = Line {
        rate: 12_500_000,
        major: 0xb001,
        mtu: 1500,
        can_cut: true,
    };

    fn class(minor: u16, weight: u32, guarantee: u64, least: u32) -> Class {
        match LINE.class(minor, Share { weight, guarantee }, least) {
            Change::Class(class) => class,
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn quanta_are_weights_and_the_smallest_is_a_packet() {
        assert_eq!(class(1, 100, 0, 100).quantum, 12_500);
        assert_eq!(class(1, 300, 0, 100).quantum, 37_500);
        assert_eq!(class(1, 10_000, 0, 1).quantum, 64 * 12_500, "64 times at most");
        assert_eq!(class(1, 1, 0, 0).quantum, 12_500);
    }

    #[test]
    fn what_is_promised_fits_the_line_with_every_place_taken() {
        let least = class(1, 1, 0, 1).rate;
        let host = class(HOST_MINOR, 100, 0, 1).rate;
        assert_eq!(host, LINE.rate / 20);
        let places = u64::from(LAST_HOST_NETWORK_MINOR);
        assert!(guaranteeable(LINE.rate) + host + least * places / 2 <= LINE.rate);
        assert_eq!(class(7, 1, 1_000_000, 1).rate, 1_000_000);
    }

    #[test]
    fn instances_have_majors_of_their_own() {
        assert_ne!(major("main"), major("0a1b2c"));
        assert!(
            ["", "main", "x"]
                .iter()
                .all(|one| (0xb000..0xc000).contains(&major(one)))
        );
    }
}
