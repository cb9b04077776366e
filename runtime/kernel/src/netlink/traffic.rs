//! Traffic control: the queueing disciplines, classes and filters that hold an interface to a rate.
//!
//! Requests go to the kernel in one message and take effect in order; the first that it refuses is the error, those
//! before it have taken effect. Kernel: include/uapi/linux/{rtnetlink,pkt_sched,pkt_cls}.h, net/sched/sch_{htb,tbf}.c.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{NetlinkError, namespace::within};

/// `major:minor` of a discipline (minor 0) or a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle(pub u32);

impl Handle {
    pub const ROOT: Self = Self(0xffff_ffff);

    pub const fn new(major: u16, minor: u16) -> Self {
        Self(((major as u32) << 16) | minor as u32)
    }
}

/// A class of an HTB. Rates in bytes a second, bursts in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    pub parent: Handle,
    pub handle: Handle,
    /// What it gets in any case.
    pub rate: u64,
    /// What it may borrow up to.
    pub ceiling: u64,
    pub burst: u64,
    pub ceiling_burst: u64,
    /// How much it sends in its turn among classes of the same priority.
    pub quantum: u32,
    /// 0 is served first.
    pub priority: u32,
}

/// Adds or changes in place, unless it says otherwise.
#[derive(Debug, Clone, Copy)]
pub enum Change<'a> {
    /// A hierarchical token bucket as the interface's discipline. One that is there already stays as it is, with all below.
    Htb {
        handle: Handle,
        /// Minor number of the class of packets that no filter has sorted.
        default: u16,
    },
    /// Back to the interface's own discipline. None there: nothing happens.
    RemoveRoot,
    Class(Class),
    /// With its queue and what is in it. None there: nothing happens.
    RemoveClass(Handle),
    /// A first-in first-out queue of so many bytes.
    Fifo {
        parent: Handle,
        handle: Handle,
        bytes: u32,
    },
    /// A queue that cuts offloaded packets (GSO) larger than `largest` into those that go over the wire.
    Cutter {
        parent: Handle,
        handle: Handle,
        largest: u32,
        bytes: u32,
    },
    /// A BPF program sorts the packets of the discipline `parent` into its classes.
    Sorter {
        parent: Handle,
        program: BorrowedFd<'a>,
        name: &'a str,
    },
    /// The largest packet that TCP makes for the interface to cut, in segments.
    SegmentsMax(u32),
}

/// What is counted of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClassCounters {
    pub handle: u32,
    pub bytes: u64,
    pub packets: u32,
    pub dropped: u32,
    pub backlog_bytes: u32,
}

/// A socket for one network namespace.
#[derive(Debug)]
pub struct TrafficControl {
    socket: Socket,
}

impl TrafficControl {
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(NetlinkError::Open)?;
        socket.bind_auto().map_err(NetlinkError::Open)?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(NetlinkError::Open)?;
        Ok(Self { socket })
    }

    /// For the interfaces of another network namespace.
    pub fn open_in(namespace: BorrowedFd<'_>) -> Result<Self, NetlinkError> {
        within(namespace, Self::open).map_err(NetlinkError::Open)?
    }

    /// Makes changes to one interface.
    pub fn change(&self, ifindex: u32, changes: &[Change<'_>]) -> Result<(), NetlinkError> {
        let mut batch = Vec::with_capacity(256 * changes.len());
        for (number, change) in changes.iter().enumerate() {
            // The answer tells which it belongs to by this number.
            encode(&mut batch, number as u32 + 1, ifindex, change);
        }
        self.socket.send(&batch, 0).map_err(NetlinkError::Send)?;
        let mut refused = None;
        let mut left = changes.len();
        while left > 0 {
            let (answer, _) = self.socket.recv_from_full().map_err(NetlinkError::Receive)?;
            for (kind, sequence, body) in messages(&answer)? {
                if kind != libc::NLMSG_ERROR as u16 {
                    continue;
                }
                left -= 1;
                let change = changes.get((sequence as usize).wrapping_sub(1));
                let errno = -read_i32(body);
                if errno != 0 && refused.is_none() && !change.is_some_and(|c| c.tolerates(errno)) {
                    refused = Some(NetlinkError::Refused {
                        message: change.map(|change| format!("{change:?}")),
                        source: std::io::Error::from_raw_os_error(errno),
                    });
                }
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// The counters of all classes of an interface.
    pub fn classes(&self, ifindex: u32) -> Result<Vec<ClassCounters>, NetlinkError> {
        let mut request = Vec::new();
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
        message(&mut request, libc::RTM_GETTCLASS, flags, 1, |body| {
            tcmsg(body, ifindex, 0, 0, 0);
        });
        let mut classes = Vec::new();
        self.dump(&request, |body| classes.extend(class_counters(body)))?;
        Ok(classes)
    }

    /// Sends one request and gives each of its answers to `take`, until the last one or the acknowledgement.
    pub(super) fn dump(&self, request: &[u8], take: impl FnMut(&[u8])) -> Result<(), NetlinkError> {
        dump(&self.socket, request, take)
    }
}

impl Change<'_> {
    /// The state that was asked for is there already.
    fn tolerates(&self, errno: i32) -> bool {
        match self {
            Self::Htb { .. } => errno == libc::EEXIST,
            // ENOENT: the discipline is the interface's own, which can't be removed.
            Self::RemoveClass(_) => errno == libc::ENOENT,
            Self::RemoveRoot => errno == libc::ENOENT || errno == libc::EINVAL,
            _ => false,
        }
    }
}

// Attributes, from the kernel's headers; libc has none of them.
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_STATS2: u16 = 7;
const TCA_STATS_BASIC: u16 = 1;
const TCA_STATS_QUEUE: u16 = 3;
const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_INIT: u16 = 2;
const TCA_HTB_RATE64: u16 = 6;
const TCA_HTB_CEIL64: u16 = 7;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TCA_BPF_CLASSID: u16 = 3;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
const IFLA_GSO_MAX_SEGS: u16 = 40;
const HTB_VERSION: u32 = 3;
const LINKLAYER_ETHERNET: u8 = 1;
const ETH_P_ALL: u16 = 3;
/// A cutter's own rate: 100 Gbit/s, more than it will ever see, so that it never holds anything back.
const CUTTER_RATE: u64 = 12_500_000_000;

fn encode(batch: &mut Vec<u8>, sequence: u32, ifindex: u32, change: &Change<'_>) {
    let new = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE;
    let replace = new | libc::NLM_F_REPLACE;
    match *change {
        Change::Htb { handle, default } => message(
            batch,
            libc::RTM_NEWQDISC,
            new | libc::NLM_F_EXCL,
            sequence,
            |body| {
                tcmsg(body, ifindex, handle.0, Handle::ROOT.0, 0);
                kind(body, "htb");
                nested(body, TCA_OPTIONS, |options| {
                    let words = [HTB_VERSION, 10, u32::from(default), 0, 0];
                    attribute(options, TCA_HTB_INIT, &words.map(u32::to_ne_bytes).concat());
                });
            },
        ),
        Change::RemoveRoot => message(
            batch,
            libc::RTM_DELQDISC,
            libc::NLM_F_REQUEST | libc::NLM_F_ACK,
            sequence,
            |body| tcmsg(body, ifindex, 0, Handle::ROOT.0, 0),
        ),
        Change::Class(class) => message(batch, libc::RTM_NEWTCLASS, replace, sequence, |body| {
            tcmsg(body, ifindex, class.handle.0, class.parent.0, 0);
            kind(body, "htb");
            nested(body, TCA_OPTIONS, |options| class_options(options, &class));
        }),
        Change::RemoveClass(handle) => message(
            batch,
            libc::RTM_DELTCLASS,
            libc::NLM_F_REQUEST | libc::NLM_F_ACK,
            sequence,
            |body| tcmsg(body, ifindex, handle.0, 0, 0),
        ),
        Change::Fifo {
            parent,
            handle,
            bytes,
        } => message(batch, libc::RTM_NEWQDISC, replace, sequence, |body| {
            tcmsg(body, ifindex, handle.0, parent.0, 0);
            kind(body, "bfifo");
            attribute(body, TCA_OPTIONS, &bytes.to_ne_bytes());
        }),
        Change::Cutter {
            parent,
            handle,
            largest,
            bytes,
        } => message(batch, libc::RTM_NEWQDISC, replace, sequence, |body| {
            tcmsg(body, ifindex, handle.0, parent.0, 0);
            kind(body, "tbf");
            nested(body, TCA_OPTIONS, |options| {
                cutter_options(options, largest, bytes)
            });
        }),
        Change::Sorter {
            parent,
            program,
            name,
        } => {
            message(batch, libc::RTM_NEWTFILTER, replace, sequence, |body| {
                let info = (1 << 16) | u32::from(ETH_P_ALL.to_be());
                tcmsg(body, ifindex, 1, parent.0, info);
                kind(body, "bpf");
                nested(body, TCA_OPTIONS, |options| {
                    // Its major number: the program sets the minor one alone.
                    attribute(options, TCA_BPF_CLASSID, &parent.0.to_ne_bytes());
                    attribute(options, TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes());
                    text(options, TCA_BPF_NAME, name);
                    attribute(options, TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes());
                });
            })
        }
        Change::SegmentsMax(segments) => message(
            batch,
            libc::RTM_SETLINK,
            libc::NLM_F_REQUEST | libc::NLM_F_ACK,
            sequence,
            |body| {
                // struct ifinfomsg: family, padding, type, index, flags, change.
                body.extend([0; 4]);
                body.extend(ifindex.to_ne_bytes());
                body.extend([0; 8]);
                attribute(body, IFLA_GSO_MAX_SEGS, &segments.to_ne_bytes());
            },
        ),
    }
}

/// `struct tc_htb_opt`. With the link layer named, the kernel needs no rate tables (sch_htb.c, htb_change_class).
fn class_options(options: &mut Vec<u8>, class: &Class) {
    let mut parameters = Vec::with_capacity(44);
    rate_specification(&mut parameters, class.rate);
    rate_specification(&mut parameters, class.ceiling);
    let words = [
        ticks(class.burst, class.rate),
        ticks(class.ceiling_burst, class.ceiling),
        class.quantum,
        0,
        class.priority,
    ];
    parameters.extend(words.map(u32::to_ne_bytes).concat());
    attribute(options, TCA_HTB_PARMS, &parameters);
    if class.rate > u64::from(u32::MAX) {
        attribute(options, TCA_HTB_RATE64, &class.rate.to_ne_bytes());
    }
    if class.ceiling > u64::from(u32::MAX) {
        attribute(options, TCA_HTB_CEIL64, &class.ceiling.to_ne_bytes());
    }
}

/// `struct tc_tbf_qopt`. TBF is the only discipline that segments what is larger than its burst (sch_tbf.c, tbf_segment).
fn cutter_options(options: &mut Vec<u8>, largest: u32, bytes: u32) {
    let mut parameters = Vec::with_capacity(36);
    rate_specification(&mut parameters, CUTTER_RATE);
    parameters.extend([0; 12]);
    parameters.extend([bytes, 0, 0].map(u32::to_ne_bytes).concat());
    attribute(options, TCA_TBF_PARMS, &parameters);
    attribute(options, TCA_TBF_RATE64, &CUTTER_RATE.to_ne_bytes());
    attribute(options, TCA_TBF_BURST, &largest.to_ne_bytes());
}

/// `struct tc_ratespec`; a rate that does not fit goes into an attribute of its own.
fn rate_specification(into: &mut Vec<u8>, rate: u64) {
    into.extend([0, LINKLAYER_ETHERNET, 0, 0, 0xff, 0xff, 0, 0]);
    into.extend(u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
}

/// A burst is told as the time it takes at the rate, in units of 64 ns (PSCHED_SHIFT).
fn ticks(bytes: u64, rate: u64) -> u32 {
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    u32::try_from(nanoseconds >> 6).unwrap_or(u32::MAX)
}

pub(super) fn message(
    batch: &mut Vec<u8>,
    kind: u16,
    flags: i32,
    sequence: u32,
    fill: impl FnOnce(&mut Vec<u8>),
) {
    let start = batch.len();
    batch.extend([0; 4]);
    batch.extend(kind.to_ne_bytes());
    batch.extend((flags as u16).to_ne_bytes());
    batch.extend(sequence.to_ne_bytes());
    batch.extend([0; 4]);
    fill(batch);
    let length = (batch.len() - start) as u32;
    batch[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

pub(super) fn tcmsg(body: &mut Vec<u8>, ifindex: u32, handle: u32, parent: u32, info: u32) {
    body.extend([0; 4]);
    body.extend([ifindex, handle, parent, info].map(u32::to_ne_bytes).concat());
}

fn kind(body: &mut Vec<u8>, name: &str) {
    text(body, TCA_KIND, name);
}

fn text(body: &mut Vec<u8>, attribute_kind: u16, value: &str) {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    attribute(body, attribute_kind, &bytes);
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    nested(body, kind, |inner| inner.extend(value));
}

fn nested(body: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = body.len();
    body.extend([0; 2]);
    body.extend(kind.to_ne_bytes());
    fill(body);
    let length = (body.len() - start) as u16;
    body[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    body.resize(body.len().next_multiple_of(4), 0);
}

/// As [`TrafficControl::dump`], by any netlink socket.
pub(super) fn dump(socket: &Socket, request: &[u8], mut take: impl FnMut(&[u8])) -> Result<(), NetlinkError> {
    socket.send(request, 0).map_err(NetlinkError::Send)?;
    loop {
        let (answer, _) = socket.recv_from_full().map_err(NetlinkError::Receive)?;
        for (kind, _, body) in messages(&answer)? {
            match i32::from(kind) {
                // A walk that could not begin or go on (no tcp_diag in this kernel) says so in its last message, not in one
                // of errors: netlink_dump() of net/netlink/af_netlink.c.
                libc::NLMSG_DONE | libc::NLMSG_ERROR => return end_of_dump(body),
                _ => take(body),
            }
        }
    }
}

/// What the message that ends a dump says: nothing or zero when all was told, else a negative errno.
fn end_of_dump(body: &[u8]) -> Result<(), NetlinkError> {
    match read_i32(body) {
        code if code < 0 => Err(NetlinkError::Refused {
            message: None,
            source: std::io::Error::from_raw_os_error(-code),
        }),
        _ => Ok(()),
    }
}

type Message<'a> = (u16, u32, &'a [u8]);

/// Type, sequence number and body of each message.
pub(super) fn messages(mut bytes: &[u8]) -> Result<Vec<Message<'_>>, NetlinkError> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let length = bytes.get(..4).map_or(0, |head| read_i32(head) as usize);
        let (Some(message), true) = (bytes.get(..length), length >= 20) else {
            return Err(NetlinkError::Garbled(format!(
                "a message of {length} bytes in {}",
                bytes.len()
            )));
        };
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        all.push((kind, read_i32(&message[8..]) as u32, &message[16..]));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(all)
}

/// 0 when there are fewer than four bytes.
fn read_i32(bytes: &[u8]) -> i32 {
    bytes.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes))
}

pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & 0x3fff, value))
    })
}

fn class_counters(body: &[u8]) -> Option<ClassCounters> {
    let mut class = ClassCounters {
        handle: read_i32(body.get(8..)?) as u32,
        ..ClassCounters::default()
    };
    let (_, statistics) = attributes(body.get(20..)?).find(|(kind, _)| *kind == TCA_STATS2)?;
    for (kind, value) in attributes(statistics) {
        let word = |index: usize| value.get(4 * index..).map_or(0, read_i32) as u32;
        match kind {
            // struct gnet_stats_basic: bytes, packets.
            TCA_STATS_BASIC => {
                class.bytes = u64::from_ne_bytes(*value.first_chunk()?);
                class.packets = word(2);
            }
            // struct gnet_stats_queue: length, backlog, drops, requeues, overlimits.
            TCA_STATS_QUEUE => {
                class.backlog_bytes = word(1);
                class.dropped = word(2);
            }
            _ => {}
        }
    }
    Some(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_a_time_in_units_of_64_ns() {
        // 1,600 bytes at 10 Mbit/s take 1.28 ms.
        assert_eq!(ticks(1_600, 1_250_000), 20_000);
        assert_eq!(ticks(u64::MAX, 1), u32::MAX);
        assert_eq!(ticks(1, 0), 15_625_000);
    }

    #[test]
    fn a_dump_that_failed_is_no_empty_dump() {
        assert!(end_of_dump(&[]).is_ok());
        assert!(end_of_dump(&0_i32.to_ne_bytes()).is_ok());
        let refused = end_of_dump(&(-libc::ENOENT).to_ne_bytes()).expect_err("no such walk");
        assert_eq!(refused.errno(), Some(crate::Errno::ENOENT), "{refused}");
    }

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let mut bytes = Vec::new();
        attribute(&mut bytes, 7, b"abcde");
        text(&mut bytes, 8, "htb");
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read, [(7, &b"abcde"[..]), (8, &b"htb\0"[..])]);
        assert_eq!(attributes(&[9]).count(), 0, "a cut attribute ends it");
        assert_eq!(attributes(&[200, 0, 1, 0]).count(), 0);
    }

    #[test]
    fn a_cut_message_is_an_error() {
        let mut bytes = Vec::new();
        message(&mut bytes, 2, 0, 5, |body| body.extend([1, 0, 0, 0]));
        assert_eq!(messages(&bytes).unwrap(), [(2, 5, &[1, 0, 0, 0][..])]);
        assert!(messages(&bytes[..19]).is_err());
        assert!(messages(&[0; 20]).is_err());
    }
}
