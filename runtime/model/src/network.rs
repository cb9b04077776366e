//! How a container is connected: by which network, how fast, and how much it has moved.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::snmp::SnmpStatistics;
use crate::units::{BitsPerSecond, Bytes, Limit};
use crate::usage::Usage;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The host's own network namespace.
    #[default]
    Host,
    /// A network namespace with nothing but loopback.
    None,
    /// Own namespace behind the host's address, steered by port.
    Mapped,
}

impl Network {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::None => "none",
            Self::Mapped => "mapped",
        }
    }
}

/// Ceilings, guarantees and shares of a container's traffic. Rates count what is on the wire, headers included.
/// Egress leaves the container, ingress reaches it; both hold between containers of one host too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Bandwidth {
    /// `Max` lifts a ceiling that the agent would set by default.
    pub egress: Option<Limit<BitsPerSecond>>,
    pub ingress: Option<Limit<BitsPerSecond>>,
    /// What may go at once after a pause.
    pub egress_burst: Option<Bytes>,
    pub ingress_burst: Option<Bytes>,
    /// Share of a full uplink. Default: by `cpus`.
    pub weight: Option<u32>,
    /// What the container gets of a full uplink in any case.
    pub egress_min: Option<BitsPerSecond>,
    pub ingress_min: Option<BitsPerSecond>,
}

impl Bandwidth {
    /// Nothing is asked for.
    pub fn is_unset(&self) -> bool {
        *self == Self::default()
    }

    /// Somebody has to enforce something.
    pub fn limits_anything(&self) -> bool {
        !Self {
            egress: self.egress_ceiling().map(Limit::Value),
            ingress: self.ingress_ceiling().map(Limit::Value),
            ..*self
        }
        .is_unset()
    }

    pub fn egress_ceiling(&self) -> Option<BitsPerSecond> {
        self.egress.and_then(Limit::value)
    }

    pub fn ingress_ceiling(&self) -> Option<BitsPerSecond> {
        self.ingress.and_then(Limit::value)
    }

    /// Takes over every field that `change` names; the others stay.
    #[must_use]
    pub fn merged(&self, change: &Self) -> Self {
        Self {
            egress: change.egress.or(self.egress),
            ingress: change.ingress.or(self.ingress),
            egress_burst: change.egress_burst.or(self.egress_burst),
            ingress_burst: change.ingress_burst.or(self.ingress_burst),
            weight: change.weight.or(self.weight),
            egress_min: change.egress_min.or(self.egress_min),
            ingress_min: change.ingress_min.or(self.ingress_min),
        }
    }
}

/// One direction of a container's traffic since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    pub bytes: u64,
    pub packets: u64,
    /// Packets that were broken. None: the kernel does not tell.
    pub errors: Option<u64>,
    /// Packets, for whatever reason.
    pub dropped: u64,
    /// Bytes that a ceiling held back (queued or marked) or dropped. None: nothing limits here.
    pub limited_bytes: Option<u64>,
    /// What a packet waited in the limiter's queue, on an average of the last ones, in microseconds. Where TCP is paced there is no
    /// such queue: what data waits in the sockets then.
    pub queue_delay_micros: Option<u64>,
}

/// What the network of one container has moved and refused.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkUsage {
    /// Into the container.
    pub rx: Traffic,
    /// Out of it.
    pub tx: Traffic,
    /// Packets and calls that were refused, by reason (`foreign_source_port`, `bind_refused`, …); only reasons that
    /// have occurred.
    pub drops: BTreeMap<String, u64>,
    pub tcp_active: Option<u64>,
    pub tcp_time_wait: Option<u64>,
    /// Of the connections that are open.
    pub tcp_rtt_micros: Option<Percentiles>,
    pub tcp_retransmits: Option<u64>,
    /// Of a network stack of its own.
    pub snmp: Option<SnmpStatistics>,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
}

impl Percentiles {
    /// The element at size·p/100 of the sorted values, as Mesos takes it. `None`: there are none.
    pub fn of(values: &mut [u32]) -> Option<Self> {
        values.sort_unstable();
        let last = values.len().checked_sub(1)?;
        let at = |percent: usize| f64::from(values[(values.len() * percent / 100).min(last)]);
        Some(Self {
            p50: at(50),
            p90: at(90),
            p95: at(95),
            p99: at(99),
        })
    }
}

impl NetworkUsage {
    /// What another place has counted of the same container: sums, and whatever only one of them knows.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [(&mut self.rx, &other.rx), (&mut self.tx, &other.tx)] {
            mine.bytes += theirs.bytes;
            mine.packets += theirs.packets;
            mine.errors = match (mine.errors, theirs.errors) {
                (Some(mine), Some(theirs)) => Some(mine + theirs),
                (mine, theirs) => mine.or(theirs),
            };
            mine.dropped += theirs.dropped;
            mine.limited_bytes = mine.limited_bytes.or(theirs.limited_bytes);
            mine.queue_delay_micros = mine.queue_delay_micros.or(theirs.queue_delay_micros);
        }
        for (reason, count) in &other.drops {
            *self.drops.entry(reason.clone()).or_default() += count;
        }
        self.tcp_active = self.tcp_active.or(other.tcp_active);
        self.tcp_time_wait = self.tcp_time_wait.or(other.tcp_time_wait);
        self.tcp_rtt_micros = self.tcp_rtt_micros.or(other.tcp_rtt_micros);
        self.tcp_retransmits = self.tcp_retransmits.or(other.tcp_retransmits);
        if self.snmp.is_none() {
            self.snmp.clone_from(&other.snmp);
        }
    }

    /// Into a sample, under Mesos' names.
    pub fn fill(&self, usage: &mut Usage) {
        usage.net_rx_bytes = Some(self.rx.bytes);
        usage.net_rx_packets = Some(self.rx.packets);
        usage.net_rx_errors = self.rx.errors;
        usage.net_rx_dropped = Some(self.rx.dropped);
        usage.net_tx_bytes = Some(self.tx.bytes);
        usage.net_tx_packets = Some(self.tx.packets);
        usage.net_tx_errors = self.tx.errors;
        usage.net_tx_dropped = Some(self.tx.dropped);
        usage.net_rx_limited_bytes = self.rx.limited_bytes;
        usage.net_tx_limited_bytes = self.tx.limited_bytes;
        usage.net_rx_queue_delay_microsecs = self.rx.queue_delay_micros;
        usage.net_tx_queue_delay_microsecs = self.tx.queue_delay_micros;
        usage.net_tcp_active_connections = self.tcp_active.map(|count| count as f64);
        usage.net_tcp_time_wait_connections = self.tcp_time_wait.map(|count| count as f64);
        usage.net_tcp_retransmits = self.tcp_retransmits;
        if let Some(rtt) = self.tcp_rtt_micros {
            usage.net_tcp_rtt_microsecs_p50 = Some(rtt.p50);
            usage.net_tcp_rtt_microsecs_p90 = Some(rtt.p90);
            usage.net_tcp_rtt_microsecs_p95 = Some(rtt.p95);
            usage.net_tcp_rtt_microsecs_p99 = Some(rtt.p99);
        }
        usage.net_drops.clone_from(&self.drops);
        usage.net_snmp_statistics.clone_from(&self.snmp);
    }
}

/// Where a packet comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PacketOrigin {
    /// From the wire.
    Outside,
    Host,
    /// By id or name.
    Container(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
    Icmp,
}

/// "What would happen to a packet like this?"
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketQuestion {
    pub from: PacketOrigin,
    pub transport: Transport,
    /// None: the host's own address.
    pub destination: Option<IpAddr>,
    pub destination_port: u16,
    /// None: one that the sender may use.
    pub source_port: Option<u16>,
}

/// The verdict, and how it came about: one line for each decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketExplanation {
    pub verdict: String,
    pub steps: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifted_ceiling_limits_nothing_and_a_change_leaves_the_rest() {
        let lifted = Bandwidth {
            egress: Some(Limit::Max),
            ..Bandwidth::default()
        };
        assert!(!lifted.is_unset() && !lifted.limits_anything());
        let shaped = lifted.merged(&Bandwidth {
            ingress: Some(Limit::Value(BitsPerSecond(8))),
            ..Bandwidth::default()
        });
        assert!(shaped.limits_anything());
        assert_eq!(
            (shaped.egress, shaped.ingress_ceiling()),
            (Some(Limit::Max), Some(BitsPerSecond(8)))
        );
    }

    #[test]
    fn percentiles_are_elements() {
        assert_eq!(Percentiles::of(&mut []), None);
        let one = Percentiles::of(&mut [7]).unwrap();
        assert_eq!((one.p50, one.p99), (7.0, 7.0));
        let mut hundred: Vec<u32> = (0..100).rev().collect();
        let many = Percentiles::of(&mut hundred).unwrap();
        assert_eq!((many.p50, many.p90, many.p95, many.p99), (50.0, 90.0, 95.0, 99.0));
    }
}
