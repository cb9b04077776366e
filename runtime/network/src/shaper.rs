//! Ceilings of bandwidth for mapped containers.
//!
//! Each limited direction of a container has a queueing discipline of its own: egress on eth0 in the container's namespace,
//! where TCP feels it at once and stops sending instead of losing; ingress on the veth's host end, which the steering
//! programs use instead of the shortcut to the peer (`BH_SLOT_INGRESS_QUEUE`). No lock is shared between containers, and
//! nothing is put on an uplink. Traffic between containers of one host passes both. A container that may change its own
//! disciplines (CAP_NET_ADMIN) gains nothing: the host end polices egress at the same rate, with losses.
//!
//! State lives in the kernel; [`Shaper::apply`] is idempotent and changes a running container without losing a packet.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::Path;

use bpf::bandwidth::{BandwidthPrograms, Direction, Shaped};
use bpf::layout::{SLOT_EGRESS_RATE, SLOT_INGRESS_QUEUE};
use kernel::Errno;
use kernel::netlink::traffic::{Change, TrafficControl};
use kernel::netlink::{NetlinkError, namespace};
use model::{Bandwidth, BitsPerSecond, Bytes, ContainerId};

use crate::NetworkError;
use crate::shaper_plan::{Ceiling, RATE_MAX_BITS, RATE_MIN_BITS, SEGMENTS_UNLIMITED};

/// Where a container's ceilings are put.
#[derive(Debug, Clone, Copy)]
pub struct Link<'a> {
    pub id: &'a ContainerId,
    pub slot: u32,
    /// The veth's host end.
    pub ifindex: u32,
    /// eth0 in the container's namespace.
    pub peer_ifindex: u32,
    pub mtu: u32,
    /// None: its egress ceiling can't be changed.
    pub netns: Option<BorrowedFd<'a>>,
}

/// How ceilings are enforced on this kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mechanism {
    /// HTB holds the rate, BPF sorts flows and marks, TBF cuts large packets.
    Htb,
    /// The same where the kernel has no TBF: with large packets from outside, questions wait some milliseconds longer.
    HtbWithoutCutting,
    /// Names what the kernel lacks.
    Missing(String),
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Htb => f.write_str("htb, flows sorted and marked by bpf, large packets cut by tbf"),
            Self::HtbWithoutCutting => f.write_str("htb, flows sorted and marked by bpf"),
            Self::Missing(what) => write!(f, "none: {what}"),
        }
    }
}

/// One direction of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    pub rate: BitsPerSecond,
    /// All that the ceiling has seen.
    pub bytes: u64,
    /// Of packets that had to wait or were dropped.
    pub limited_bytes: u64,
    /// Packets that told their sender to slow down (ECN).
    pub marked_packets: u64,
    pub dropped_packets: u64,
    /// What packets of transfers wait, on an average of the last ones.
    pub queue_delay_micros: u64,
}

/// Both directions; None where there is no ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitedLink {
    pub egress: Option<Limited>,
    pub ingress: Option<Limited>,
}

#[derive(Debug)]
pub struct Shaper {
    programs: BandwidthPrograms,
    mechanism: Mechanism,
}

impl Shaper {
    /// Takes over the maps that are pinned in the directory. Steering has to have made its own before: `ports` is shared.
    pub fn open(pins: &Path) -> Result<Self, NetworkError> {
        let programs = BandwidthPrograms::load(pins).map_err(failed("load the programs of ceilings"))?;
        let mechanism = probe(&programs)?;
        Ok(Self { programs, mechanism })
    }

    pub fn mechanism(&self) -> &Mechanism {
        &self.mechanism
    }

    /// Whether `bandwidth` can be enforced at all; asked at admission.
    pub fn check(&self, id: &ContainerId, bandwidth: &Bandwidth) -> Result<(), NetworkError> {
        let unenforceable = |reason: String| {
            Err(NetworkError::Unenforceable {
                id: id.clone(),
                reason,
            })
        };
        let ceilings = [bandwidth.egress_ceiling(), bandwidth.ingress_ceiling()];
        for BitsPerSecond(bits) in ceilings.into_iter().flatten() {
            if !(RATE_MIN_BITS..=RATE_MAX_BITS).contains(&bits) {
                return unenforceable(format!(
                    "a ceiling of {bits} bit/s; ceilings are between {RATE_MIN_BITS} and {RATE_MAX_BITS} bit/s"
                ));
            }
        }
        match &self.mechanism {
            Mechanism::Missing(what) if ceilings.iter().any(Option::is_some) => unenforceable(what.clone()),
            _ => Ok(()),
        }
    }

    /// Sets, changes or lifts the ceilings of a container; says which `BH_SLOT_*` flags its slot needs.
    pub fn apply(&self, link: &Link<'_>, bandwidth: &Bandwidth) -> Result<u32, NetworkError> {
        self.check(link.id, bandwidth)?;
        let mut flags = 0;
        if self.apply_direction(
            link,
            Direction::Egress,
            bandwidth.egress_ceiling(),
            bandwidth.egress_burst,
        )? {
            flags |= SLOT_EGRESS_RATE;
        }
        if self.apply_direction(
            link,
            Direction::Ingress,
            bandwidth.ingress_ceiling(),
            bandwidth.ingress_burst,
        )? {
            flags |= SLOT_INGRESS_QUEUE;
        }
        Ok(flags)
    }

    fn apply_direction(
        &self,
        link: &Link<'_>,
        direction: Direction,
        ceiling: Option<BitsPerSecond>,
        burst: Option<Bytes>,
    ) -> Result<bool, NetworkError> {
        let operation = |what: &str| {
            let word = word(direction);
            format!("{what} the {word} ceiling of container {}", link.id)
        };
        let before = self.read(link.slot, direction)?;
        let Some(BitsPerSecond(bits)) = ceiling else {
            if before.rate != 0 {
                let mut changes = vec![Change::RemoveRoot];
                if direction == Direction::Egress {
                    changes.push(Change::SegmentsMax(SEGMENTS_UNLIMITED));
                }
                change(link, direction, &changes).map_err(failed(operation("lift")))?;
                self.write(link.slot, direction, Shaped { rate: 0, ..before })?;
            }
            return Ok(false);
        };
        let ceiling = Ceiling::new(bits, burst.map(|Bytes(bytes)| bytes), link.mtu);
        let can_cut = self.mechanism == Mechanism::Htb;
        let mut changes = ceiling.changes(self.programs.program(direction), can_cut);
        if direction == Direction::Egress {
            changes.push(Change::SegmentsMax(ceiling.segments()));
        }
        // A looser discipline under an old policer would lose packets, a tighter one would not: the state goes first.
        self.write(link.slot, direction, ceiling.state(before))?;
        let changed = change(link, direction, &changes).map_err(failed(operation("set")));
        if changed.is_err() {
            self.write(link.slot, direction, before)?;
        }
        changed.map(|()| true)
    }

    /// Its veth is gone, and its disciplines with it; the next owner of the slot begins at zero.
    pub fn remove(&self, slot: u32) -> Result<(), NetworkError> {
        for direction in [Direction::Egress, Direction::Ingress] {
            self.write(slot, direction, Shaped::default())?;
        }
        Ok(())
    }

    /// Of all containers with a ceiling, by slot, in one read.
    pub fn usage(&self) -> Result<HashMap<u32, LimitedLink>, NetworkError> {
        let all = self
            .programs
            .read_all()
            .map_err(failed("read the counters of ceilings"))?;
        let mut links: HashMap<u32, LimitedLink> = HashMap::new();
        for (slot, direction, state) in all {
            if state.rate == 0 {
                continue;
            }
            let limited = Some(Limited {
                rate: BitsPerSecond(state.rate * 8),
                bytes: state.bytes,
                limited_bytes: state.limited_bytes,
                marked_packets: state.marked_packets,
                dropped_packets: state.dropped_packets,
                queue_delay_micros: state.delay_ns / 1_000,
            });
            let link = links.entry(slot).or_default();
            match direction {
                Direction::Egress => link.egress = limited,
                Direction::Ingress => link.ingress = limited,
            }
        }
        Ok(links)
    }

    fn read(&self, slot: u32, direction: Direction) -> Result<Shaped, NetworkError> {
        self.programs
            .read(slot, direction)
            .map_err(failed("read the state of a ceiling"))
    }

    fn write(&self, slot: u32, direction: Direction, state: Shaped) -> Result<(), NetworkError> {
        self.programs
            .write(slot, direction, state)
            .map_err(failed("write the state of a ceiling"))
    }
}

fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "egress",
        Direction::Ingress => "ingress",
    }
}

fn failed<E>(operation: impl Into<String>) -> impl FnOnce(E) -> NetworkError
where
    E: std::error::Error + Send + Sync + 'static,
{
    let operation = operation.into();
    move |source| NetworkError::Bandwidth {
        operation,
        source: Box::new(source),
    }
}

fn change(link: &Link<'_>, direction: Direction, changes: &[Change<'_>]) -> Result<(), NetlinkError> {
    match (direction, link.netns) {
        (Direction::Ingress, _) => TrafficControl::open()?.change(link.ifindex, changes),
        (Direction::Egress, Some(netns)) => {
            TrafficControl::open_in(netns)?.change(link.peer_ifindex, changes)
        }
        // Only a container without a process has none: ESRCH says it.
        (Direction::Egress, None) => Err(NetlinkError::Open(Errno::ESRCH.into())),
    }
}

const LOOPBACK: u32 = 1;

/// Tries it on the loopback interface of a network namespace that nobody else sees.
fn probe(programs: &BandwidthPrograms) -> Result<Mechanism, NetworkError> {
    let operation = "probe traffic control in a network namespace of its own";
    let namespace = namespace::create().map_err(failed(operation))?;
    let probed = namespace::within(&namespace, || try_on_loopback(programs)).map_err(failed(operation))?;
    probed.map_err(failed(operation))
}

fn try_on_loopback(programs: &BandwidthPrograms) -> Result<Mechanism, NetlinkError> {
    let traffic = TrafficControl::open()?;
    let ceiling = Ceiling::new(100_000_000, None, 1500);
    let mut mechanism = Mechanism::Htb;
    // One by one, to know which of them is missing.
    for step in ceiling.changes(programs.program(Direction::Egress), true) {
        let Err(error) = traffic.change(LOOPBACK, &[step]) else {
            continue;
        };
        match step {
            Change::Cutter { .. } if error.errno() == Some(Errno::ENOENT) => {
                mechanism = Mechanism::HtbWithoutCutting;
            }
            _ => {
                let (what, option) = match step {
                    Change::Sorter { .. } => ("the BPF classifier", "CONFIG_NET_CLS_BPF"),
                    Change::Fifo { .. } => ("byte-limited queues", "CONFIG_NET_SCH_FIFO"),
                    _ => ("the hierarchical token bucket", "CONFIG_NET_SCH_HTB"),
                };
                let cause = error
                    .errno()
                    .map_or_else(|| error.to_string(), |errno| errno.to_string());
                return Ok(Mechanism::Missing(format!(
                    "the kernel has not got {what} ({option}; {cause}); load the module or lift the ceilings"
                )));
            }
        }
    }
    Ok(mechanism)
}
