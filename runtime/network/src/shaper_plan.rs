//! From a ceiling to the queueing disciplines that hold it. Pure.
//!
//! ```text
//! 1:  HTB ── 1:1 the ceiling ─┬─ 1:2 flows within their share   first, half the ceiling in any case
//!                             ├─ 1:3 TCP transfers              a quarter, and what is left
//!                             ├─ 1:4 other traffic              an eighth, and what is left; a short queue
//!                             └─ 1:5 TCP with a larger MTU      an eighth, and what is left; it can't be cut
//! ```
//!
//! A filter of the HTB (bpf/programs/bandwidth.bpf.c) sorts. An offloaded packet of 64 kB holds a line of 10 Mbit/s for 52 ms,
//! so below some hundred Mbit/s packets are made small (the interface's GSO limit) or cut (TBF).

use std::os::fd::BorrowedFd;

use bpf::bandwidth::Shaped;
use kernel::netlink::traffic::{Change, Class, Handle};

/// Slower than this, the few packets that are always under way are seconds of queue.
pub const RATE_MIN_BITS: u64 = 64_000;
/// The kernel's ticket for larger rates would be 128 bits wide; no interface is that fast.
pub const RATE_MAX_BITS: u64 = 400_000_000_000;

const ETHERNET_HEADER: u64 = 14;
const SECOND_NS: u64 = 1_000_000_000;
/// What HTB may catch up with when its timer comes late: a busy machine is some milliseconds late, and with a smaller burst
/// the container would lose that time (6 % at 100 Mbit/s with 3 kB).
const BURST_DIVISOR: u64 = 250;
/// Nothing is larger than this: 64 kB and the headers of all its segments.
const OFFLOADED_MAX: u64 = 72_000;
const DEFAULT_CLASS: u16 = 4;

pub const ROOT: Handle = Handle::new(1, 0);
pub const CEILING: Handle = Handle::new(1, 1);
const SPARSE: Handle = Handle::new(1, 2);
const TCP: Handle = Handle::new(1, 3);
const OTHER: Handle = Handle::new(1, 4);
const UNCUT: Handle = Handle::new(1, 5);

/// One direction's ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ceiling {
    /// Bytes a second.
    pub rate: u64,
    /// Bytes that may go at once after a pause.
    pub burst: u64,
    mtu: u64,
}

impl Ceiling {
    pub fn new(bits_per_second: u64, burst: Option<u64>, mtu: u32) -> Self {
        let rate = bits_per_second / 8;
        let mtu = u64::from(mtu.max(576));
        let smallest = rate / BURST_DIVISOR + mtu + ETHERNET_HEADER;
        Self {
            rate,
            burst: burst.unwrap_or(0).max(smallest),
            mtu,
        }
    }

    /// The largest packet that is let through in one piece: a millisecond, one segment at least. Cutting costs the processor
    /// ten times what the whole packet does: from some 600 Mbit/s on nothing is cut.
    fn unit(&self) -> u64 {
        (self.rate / 1_000).clamp(self.mtu + ETHERNET_HEADER, OFFLOADED_MAX)
    }

    /// How many segments TCP may give to the interface at once.
    pub fn segments(&self) -> u32 {
        if self.unit() == OFFLOADED_MAX {
            return SEGMENTS_UNLIMITED;
        }
        (self.unit() / self.mtu).max(1) as u32
    }

    /// Long enough that a transfer from far away is told by ECN or its round trip time before it loses anything. A shorter one
    /// (166 ms) lost more when 8 streams begin at once into 10 Mbit/s: 9 % instead of 2.5 % of what cubic sends in 4 s.
    fn tcp_bytes(&self) -> u32 {
        (self.rate * 2 / 5).clamp(256 << 10, 64 << 20) as u32
    }

    fn other_bytes(&self) -> u32 {
        (self.rate / 50).clamp(12 * self.mtu, 64 << 20) as u32
    }

    fn nanoseconds(&self, bytes: u64) -> u64 {
        bytes * SECOND_NS / self.rate.max(1)
    }

    /// The state for the programs; what they have counted stays.
    pub fn state(&self, before: Shaped) -> Shaped {
        let mark = self.nanoseconds(4 * self.mtu).max(SECOND_NS / 1_000);
        Shaped {
            rate: self.rate,
            mark_ns: mark,
            other_ns: self.nanoseconds(u64::from(self.other_bytes())),
            largest: self.unit(),
            police_burst_ns: SECOND_NS / 2 + self.nanoseconds(self.burst),
            // At another rate these were other times.
            empty_at: 0,
            other_empty_at: 0,
            police_at: 0,
            ..before
        }
    }

    /// What makes, or changes in place, the disciplines of an interface.
    pub fn changes<'a>(&self, sorter: BorrowedFd<'a>, can_cut: bool) -> Vec<Change<'a>> {
        let tcp_queue = Handle::new(3, 0);
        let tcp = if can_cut {
            Change::Cutter {
                parent: TCP,
                handle: tcp_queue,
                largest: self.unit() as u32,
                bytes: self.tcp_bytes(),
            }
        } else {
            Change::Fifo {
                parent: TCP,
                handle: tcp_queue,
                bytes: self.tcp_bytes(),
            }
        };
        vec![
            Change::Htb {
                handle: ROOT,
                default: DEFAULT_CLASS,
            },
            Change::Class(Class {
                parent: ROOT,
                handle: CEILING,
                rate: self.rate,
                ceiling: self.rate,
                burst: self.burst,
                ceiling_burst: self.burst,
                quantum: self.mtu as u32,
                priority: 0,
            }),
            self.leaf(SPARSE, self.rate / 2, 0),
            self.leaf(TCP, self.rate / 4, 1),
            self.leaf(OTHER, self.rate / 8, 1),
            self.leaf(UNCUT, self.rate / 8, 1),
            Change::Fifo {
                parent: SPARSE,
                handle: Handle::new(2, 0),
                bytes: self.tcp_bytes(),
            },
            tcp,
            Change::Fifo {
                parent: OTHER,
                handle: Handle::new(4, 0),
                bytes: self.other_bytes(),
            },
            Change::Fifo {
                parent: UNCUT,
                handle: Handle::new(5, 0),
                bytes: self.tcp_bytes(),
            },
            Change::Sorter {
                parent: ROOT,
                program: sorter,
                name: "bulkhead",
            },
        ]
    }

    fn leaf(&self, handle: Handle, rate: u64, priority: u32) -> Change<'static> {
        let rate = rate.max(1);
        Change::Class(Class {
            parent: CEILING,
            handle,
            rate,
            ceiling: self.rate,
            // Its own rate is a guarantee, not a second ceiling: what may go at once is the ceiling's burst.
            burst: rate / BURST_DIVISOR + self.mtu + ETHERNET_HEADER,
            ceiling_burst: self.burst,
            // Above 200,000 the kernel complains.
            quantum: self.unit().min(60_000) as u32,
            priority,
        })
    }
}

/// The kernel's own limit (GSO_MAX_SEGS).
pub const SEGMENTS_UNLIMITED: u32 = 65_535;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_short_compared_with_the_time_others_may_wait() {
        let segments = |mbit: u64| Ceiling::new(mbit * 1_000_000, None, 1500).segments();
        assert_eq!(
            [1, 10, 100, 1_000, 5_000].map(segments),
            [1, 1, 8, SEGMENTS_UNLIMITED, SEGMENTS_UNLIMITED]
        );
    }

    #[test]
    fn a_burst_is_never_too_small_for_the_rate() {
        let ceiling = Ceiling::new(100_000_000, Some(10), 1500);
        assert_eq!(ceiling.burst, 51_514);
        assert_eq!(Ceiling::new(100_000_000, Some(1 << 20), 1500).burst, 1 << 20);
    }

    #[test]
    fn guarantees_add_up_to_the_ceiling_at_most() {
        for bits in [RATE_MIN_BITS, 10_000_000, 9_999_999, RATE_MAX_BITS] {
            let ceiling = Ceiling::new(bits, None, 9000);
            let rates = [SPARSE, TCP, OTHER].map(|handle| match ceiling.leaf(handle, ceiling.rate / 4, 1) {
                Change::Class(class) => class.rate,
                _ => unreachable!("a leaf is a class"),
            });
            assert!(rates.iter().sum::<u64>() <= ceiling.rate);
            assert!(ceiling.state(Shaped::default()).police_burst_ns >= SECOND_NS / 2);
        }
    }

    #[test]
    fn a_new_rate_keeps_what_was_counted() {
        let before = Shaped {
            bytes: 5,
            empty_at: 9,
            marked_packets: 3,
            ..Shaped::default()
        };
        let state = Ceiling::new(8_000_000, None, 1500).state(before);
        assert_eq!(
            (state.bytes, state.marked_packets, state.empty_at, state.rate),
            (5, 3, 0, 1_000_000)
        );
    }
}
