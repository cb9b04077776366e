//! From containers' shares of an uplink to the classes of the discipline that holds them. Pure.
//!
//! ```text
//! M:  HTB ── M:ffff the uplink's rate ─┬─ M:fffd the host: a twentieth in any case, weight 100
//!                                      ├─ M:SLOT a mapped container: its guarantee, and of the rest by its weight
//!                                      └─ M:1000+N a container in the host's network: the same
//! ```
//!
//! Most of the line is dealt out by weight, as the classes' rates: tokens make up for what a queue that was empty for a moment has
//! missed (TCP gives a queue no more than a millisecond of its own pace). What somebody leaves is borrowed, in turns: the
//! quantum of a turn is by weight too. A quantum smaller than a packet would be no share at all (sch_htb.c gives a turn whatever the
//! deficit), and a large one is the time that all others wait: the smallest weight has one packet, and nobody more than 64.

pub use bpf::uplink::HOST_MINOR;
use kernel::netlink::traffic::{Change, Class, Handle};
use model::{Bandwidth, BitsPerSecond};

/// As `cpu.weight` of cgroup v2 has it.
pub const WEIGHT_OF_A_CPU: u32 = 100;
/// Of weights that somebody names, as `cpu.weight` has them; those by CPUs end there too.
pub const WEIGHTS: std::ops::RangeInclusive<u32> = 1..=10_000;
/// The largest share of one container in the smallest of another, while both want more than they get.
pub const RATIO_MAX: u64 = 64;
/// Of the rate, so that the host is reached and the agent's talk gets through, whatever containers send.
const HOST_PART: u64 = 20;
/// What guarantees may add up to, in tenths of the rate, and what is dealt out by weight where there are none. With the host's part
/// and `STALE_PART` the rates never exceed the line.
const DEALT_TENTHS: u64 = 8;
/// As long as the weights' sum has changed by less, others' classes stay as they are: a thousand containers that come one after
/// the other would cost a million changes otherwise.
const STALE_PART: u64 = 12;
/// A class without a guarantee: the kernel wants some rate.
const LEAST_PART: u64 = 100_000;

const ETHERNET_HEADER: u64 = 14;
/// What HTB may catch up with when its timer comes late: 4 ms (see shaper_plan.rs).
const BURST_DIVISOR: u64 = 250;
const UNCUT_RATE: u64 = 75_000_000;
/// Nothing is larger than this: 64 kB and the headers of all its segments.
const OFFLOADED_MAX: u64 = 72_000;

pub const UPLINK_MINOR: u16 = 0xffff;
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
            weight: bandwidth
                .weight
                .unwrap_or(WEIGHT_OF_A_CPU)
                .clamp(*WEIGHTS.start(), *WEIGHTS.end()),
            guarantee: bandwidth.egress_min.map_or(0, |BitsPerSecond(bits)| bits / 8),
        }
    }

    /// The host itself, beside its part.
    pub const HOST: Self = Self {
        weight: WEIGHT_OF_A_CPU,
        guarantee: 0,
    };
}

/// What all classes follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// Bytes a second that are dealt out, by guarantee and weight.
    dealt: u64,
    /// What guarantees add up to. More than is dealt out only where an earlier agent was told of a faster line.
    promised: u64,
    /// Of containers' weights.
    total: u64,
    /// The smallest weight of all; the host has one too.
    least: u32,
}

impl Scale {
    pub fn of(rate: u64, shares: impl Iterator<Item = Share>) -> Self {
        let mut scale = Self {
            dealt: guaranteeable(rate),
            promised: 0,
            total: 0,
            least: Share::HOST.weight,
        };
        for share in shares {
            scale.promised = scale.promised.saturating_add(share.guarantee);
            scale.total += u64::from(share.weight);
            scale.least = scale.least.min(share.weight);
        }
        scale
    }

    /// Classes that were made by `self` may stay where `now` is right.
    pub fn will_do(&self, now: &Self) -> bool {
        let near = |was: u64, is: u64| was.abs_diff(is).saturating_mul(STALE_PART) <= was;
        self.least == now.least
            && near(self.total, now.total)
            && self.spare() <= now.spare()
            && near(self.spare(), now.spare())
            && self.promised.max(self.dealt) == now.promised.max(now.dealt)
    }

    /// Bytes a second that are dealt out by weight.
    fn spare(&self) -> u64 {
        self.dealt.saturating_sub(self.promised)
    }

    /// What guarantees add up to, where that is more than can be kept: all of them are cut by the same part then.
    pub fn oversold(&self) -> Option<u64> {
        (self.promised > self.dealt).then_some(self.promised)
    }

    /// What is kept of a guarantee.
    fn kept(&self, guarantee: u64) -> u64 {
        match self.oversold() {
            None => guarantee,
            Some(promised) => part(guarantee, self.dealt, promised),
        }
    }
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

    /// The largest packet that goes in one piece: a quarter of a millisecond. Cutting costs the processor ten times what the
    /// whole packet does: at some 600 Mbit/s and above nothing is cut.
    fn unit(&self) -> u64 {
        match self.can_cut && self.rate < UNCUT_RATE {
            true => (self.rate / 4_000).max(self.packet()),
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
    pub fn root(&self, scale: &Scale) -> Vec<Change<'static>> {
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
        changes.extend(self.member(HOST_MINOR, Share::HOST, scale));
        changes
    }

    /// The class of one container, and its queue.
    pub fn member(&self, minor: u16, share: Share, scale: &Scale) -> [Change<'static>; 2] {
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
        [self.class(minor, share, scale), leaf]
    }

    /// The class alone: its queue stays as it is.
    pub fn class(&self, minor: u16, share: Share, scale: &Scale) -> Change<'static> {
        let promised = match minor {
            HOST_MINOR => self.rate / HOST_PART,
            _ => {
                let by_weight = part(scale.spare(), u64::from(share.weight), scale.total);
                scale.kept(share.guarantee).saturating_add(by_weight)
            }
        };
        let rate = promised.max(self.rate / LEAST_PART).max(1);
        Change::Class(Class {
            parent: self.handle(UPLINK_MINOR),
            handle: self.handle(minor),
            rate,
            ceiling: self.rate,
            burst: self.burst(rate),
            ceiling_burst: self.burst(self.rate),
            quantum: self.quantum(share.weight, scale.least),
            priority: 0,
        })
    }
}

/// `amount` times `of` through `whole`: the product of a fast line and a large weight is more than 64 bits hold.
fn part(amount: u64, of: u64, whole: u64) -> u64 {
    let exact = u128::from(amount) * u128::from(of) / u128::from(whole.max(1));
    u64::try_from(exact).unwrap_or(u64::MAX)
}

/// What guarantees may add up to.
pub fn guaranteeable(rate: u64) -> u64 {
    rate / 10 * DEALT_TENTHS
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

    fn share(weight: u32, guarantee: u64) -> Share {
        Share { weight, guarantee }
    }

    fn classes(shares: &[Share]) -> Vec<Class> {
        let scale = Scale::of(LINE.rate, shares.iter().copied());
        let class = |share: &Share| match LINE.class(1, *share, &scale) {
            Change::Class(class) => class,
            other => unreachable!("{other:?}"),
        };
        shares.iter().map(class).collect()
    }

    #[test]
    fn weights_are_rates_and_turns_and_the_smallest_turn_is_a_packet() {
        let [light, heavy] = classes(&[share(100, 0), share(300, 0)])[..] else {
            unreachable!("two")
        };
        assert_eq!((light.rate, heavy.rate), (2_500_000, 7_500_000));
        assert_eq!((light.quantum, heavy.quantum), (3_125, 9_375));
        let [tiny, huge] = classes(&[share(1, 0), share(10_000, 0)])[..] else {
            unreachable!("two")
        };
        assert_eq!(
            (tiny.quantum, huge.quantum),
            (3_125, 64 * 3_125),
            "64 times at most"
        );
        assert!(tiny.rate > 0 && huge.rate > 9_000_000);
    }

    #[test]
    fn what_is_promised_fits_the_line_even_where_weights_have_changed_a_little() {
        let shares: Vec<Share> = (0..4_000).map(|number| share(1 + number % 7, 1_000)).collect();
        let before = Scale::of(LINE.rate, shares.iter().copied());
        let more = || shares.iter().copied().chain([share(1_000, 0)]);
        assert!(before.will_do(&Scale::of(LINE.rate, more())));
        let rates = more().map(|share| match LINE.class(1, share, &before) {
            Change::Class(class) => class.rate,
            other => unreachable!("{other:?}"),
        });
        assert!(rates.sum::<u64>() + LINE.rate / HOST_PART <= LINE.rate);
        let heavier = shares.iter().copied().chain([share(9_000, 0)]);
        assert!(!before.will_do(&Scale::of(LINE.rate, heavier)));
        let promised = shares.iter().copied().chain([share(1, 1_000)]);
        assert!(!before.will_do(&Scale::of(LINE.rate, promised)));
    }

    #[test]
    fn a_guarantee_comes_before_weights() {
        let [promised, other] = classes(&[share(1, 7_500_000), share(1_000, 0)])[..] else {
            unreachable!("two")
        };
        assert!((7_500_000..7_510_000).contains(&promised.rate));
        assert!((2_490_000..2_500_000).contains(&other.rate));
    }

    #[test]
    fn guarantees_that_a_slower_line_can_not_keep_are_cut_by_the_same_part() {
        let [one, other, none] = classes(&[share(1, 10_000_000), share(1, 20_000_000), share(100, 0)])[..]
        else {
            unreachable!("three")
        };
        assert_eq!(
            (one.rate, other.rate),
            (3_333_333, 6_666_666),
            "of 10 MB that are dealt out"
        );
        assert_eq!(none.rate, LINE.rate / LEAST_PART);
        let sold = |guarantee| Scale::of(LINE.rate, [share(1, guarantee)].into_iter());
        assert_eq!(sold(10_000_000).oversold(), None);
        assert_eq!(sold(10_000_001).oversold(), Some(10_000_001));
        assert!(!sold(12_000_000).will_do(&sold(11_000_000)), "cut by less now");
    }

    #[test]
    fn the_heaviest_weight_at_the_fastest_line_overflows_nothing() {
        let line = Line {
            rate: u64::MAX / 8,
            ..LINE
        };
        let most = Bandwidth {
            weight: Some(u32::MAX),
            egress_min: Some(BitsPerSecond(u64::MAX)),
            ..Bandwidth::default()
        };
        let none = Bandwidth {
            weight: Some(0),
            ..Bandwidth::default()
        };
        assert_eq!((Share::of(&most).weight, Share::of(&none).weight), (10_000, 1));
        for shares in [[share(u32::MAX, 0), share(1, 0)], [Share::of(&most); 2]] {
            let scale = Scale::of(line.rate, shares.into_iter());
            assert!(scale.will_do(&scale));
            let Change::Class(class) = line.class(1, shares[0], &scale) else {
                unreachable!("a class")
            };
            assert!((line.rate / 3..line.rate).contains(&class.rate), "{class:?}");
        }
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
