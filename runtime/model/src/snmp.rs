//! Counters of a network stack (RFC 1213), in Mesos' groups and under its names, which are the kernel's.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A group: the kernel's name of it, Mesos' name, and its counters in Mesos' order.
pub type SnmpGroup = (&'static str, &'static str, &'static [&'static str]);

/// What Mesos tells; kernels have some more.
pub const SNMP_GROUPS: [SnmpGroup; 4] = [
    (
        "Ip",
        "ip_stats",
        &[
            "Forwarding",
            "DefaultTTL",
            "InReceives",
            "InHdrErrors",
            "InAddrErrors",
            "ForwDatagrams",
            "InUnknownProtos",
            "InDiscards",
            "InDelivers",
            "OutRequests",
            "OutDiscards",
            "OutNoRoutes",
            "ReasmTimeout",
            "ReasmReqds",
            "ReasmOKs",
            "ReasmFails",
            "FragOKs",
            "FragFails",
            "FragCreates",
        ],
    ),
    (
        "Icmp",
        "icmp_stats",
        &[
            "InMsgs",
            "InErrors",
            "InCsumErrors",
            "InDestUnreachs",
            "InTimeExcds",
            "InParmProbs",
            "InSrcQuenchs",
            "InRedirects",
            "InEchos",
            "InEchoReps",
            "InTimestamps",
            "InTimestampReps",
            "InAddrMasks",
            "InAddrMaskReps",
            "OutMsgs",
            "OutErrors",
            "OutDestUnreachs",
            "OutTimeExcds",
            "OutParmProbs",
            "OutSrcQuenchs",
            "OutRedirects",
            "OutEchos",
            "OutEchoReps",
            "OutTimestamps",
            "OutTimestampReps",
            "OutAddrMasks",
            "OutAddrMaskReps",
        ],
    ),
    (
        "Tcp",
        "tcp_stats",
        &[
            "RtoAlgorithm",
            "RtoMin",
            "RtoMax",
            "MaxConn",
            "ActiveOpens",
            "PassiveOpens",
            "AttemptFails",
            "EstabResets",
            "CurrEstab",
            "InSegs",
            "OutSegs",
            "RetransSegs",
            "InErrs",
            "OutRsts",
            "InCsumErrors",
        ],
    ),
    (
        "Udp",
        "udp_stats",
        &[
            "InDatagrams",
            "NoPorts",
            "InErrors",
            "OutDatagrams",
            "RcvbufErrors",
            "SndbufErrors",
            "InCsumErrors",
            "IgnoredMulti",
        ],
    ),
];

/// Of all groups together.
pub const SNMP_COUNTERS: usize = 69;
const _: () = assert!(
    SNMP_GROUPS[0].2.len() + SNMP_GROUPS[1].2.len() + SNMP_GROUPS[2].2.len() + SNMP_GROUPS[3].2.len()
        == SNMP_COUNTERS
);

/// The values, group after group: an array on the wire and in memory, names only in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnmpStatistics(Box<[i64; SNMP_COUNTERS]>);

impl SnmpStatistics {
    pub fn new(values: [i64; SNMP_COUNTERS]) -> Self {
        Self(Box::new(values))
    }

    pub fn values(&self) -> &[i64; SNMP_COUNTERS] {
        &self.0
    }

    /// By the names of [`SNMP_GROUPS`].
    pub fn get(&self, group: &str, counter: &str) -> Option<i64> {
        self.groups()
            .find(|(name, _)| *name == group)
            .and_then(|(_, mut counters)| counters.find(|(name, _)| *name == counter))
            .map(|(_, value)| value)
    }

    fn groups(&self) -> impl Iterator<Item = (&'static str, impl Iterator<Item = (&'static str, i64)>)> {
        let mut rest = &self.0[..];
        SNMP_GROUPS.iter().map(move |(_, group, names)| {
            let (values, after) = rest.split_at(names.len());
            rest = after;
            (*group, names.iter().copied().zip(values.iter().copied()))
        })
    }
}

impl Serialize for SnmpStatistics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(SNMP_GROUPS.len()))?;
        for (group, counters) in self.groups() {
            map.serialize_entry(group, &counters.collect::<BTreeMap<_, _>>())?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for SnmpStatistics {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let groups = BTreeMap::<String, BTreeMap<String, i64>>::deserialize(deserializer)?;
        let mut values = Vec::with_capacity(SNMP_COUNTERS);
        for (_, group, names) in SNMP_GROUPS {
            for name in names {
                let value = groups.get(group).and_then(|counters| counters.get(*name));
                values.push(*value.ok_or_else(|| D::Error::custom(format!("{group}.{name} is missing")))?);
            }
        }
        let values = values.try_into();
        values
            .map(Self::new)
            .map_err(|_| D::Error::custom("not as many counters as there are"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_mesos_and_survive_the_way() {
        let values = std::array::from_fn(|index| index as i64);
        let statistics = SnmpStatistics::new(values);
        let json = serde_json::to_value(&statistics).unwrap();
        assert_eq!(json["ip_stats"]["Forwarding"], 0);
        assert_eq!(json["icmp_stats"]["InMsgs"], 19);
        assert_eq!(json["tcp_stats"]["RetransSegs"], 57);
        assert_eq!(json["udp_stats"]["IgnoredMulti"], 68);
        assert_eq!(statistics.get("tcp_stats", "RetransSegs"), Some(57));
        assert_eq!(
            serde_json::from_value::<SnmpStatistics>(json).unwrap(),
            statistics
        );
    }
}
