//! Counters of a network namespace's stack: the files that procfs has for each, kept open.
//!
//! An open file belongs to the namespace of the thread that opened it, wherever it is read, and keeps the namespace
//! alive. Netlink has no such counters.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use model::{SNMP_COUNTERS, SNMP_GROUPS, SnmpStatistics};

use crate::file::sample;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpSockets {
    /// Listening, open, and being opened or closed, of both families.
    pub in_use: u64,
    pub time_wait: u64,
}

#[derive(Debug)]
pub struct NetworkStack {
    sockets: File,
    /// Absent where the kernel has no IPv6.
    sockets_v6: Option<File>,
    snmp: File,
}

impl NetworkStack {
    /// Of the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        let open = |name: &str| File::open(format!("/proc/thread-self/net/{name}"));
        Ok(Self {
            sockets: open("sockstat")?,
            sockets_v6: open("sockstat6").ok(),
            snmp: open("snmp")?,
        })
    }

    pub fn tcp(&self, buffer: &mut Vec<u8>) -> Option<TcpSockets> {
        let mut sockets = tcp_sockets(sample(self.sockets.as_fd(), buffer)?)?;
        if let Some(file) = &self.sockets_v6
            && let Some(more) = sample(file.as_fd(), buffer).and_then(tcp_sockets)
        {
            sockets.in_use += more.in_use;
        }
        Some(sockets)
    }

    pub fn snmp(&self, buffer: &mut Vec<u8>) -> Option<SnmpStatistics> {
        let text = std::str::from_utf8(sample(self.snmp.as_fd(), buffer)?).ok()?;
        parse_snmp(text)
    }
}

/// `TCP: inuse 93 orphan 0 tw 126 …`, `TCP6: inuse 0`. Those in TIME_WAIT are all in the first.
fn tcp_sockets(text: &[u8]) -> Option<TcpSockets> {
    let line = text.split(|byte| *byte == b'\n').find_map(|line| {
        line.strip_prefix(b"TCP: ")
            .or_else(|| line.strip_prefix(b"TCP6: "))
    })?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let mut sockets = TcpSockets::default();
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        match name {
            "inuse" => sockets.in_use = value.parse().ok()?,
            "tw" => sockets.time_wait = value.parse().ok()?,
            _ => {}
        }
    }
    Some(sockets)
}

/// Pairs of lines: names, then values.
fn parse_snmp(text: &str) -> Option<SnmpStatistics> {
    let mut values = [0; SNMP_COUNTERS];
    let mut next = 0;
    for (group, _, wanted) in SNMP_GROUPS {
        let mut lines = text
            .lines()
            .filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
        let (names, figures) = (lines.next()?, lines.next()?);
        let mut told = names.split(' ').zip(figures.split(' '));
        // The kernel's order is Mesos', with newer ones in between: one pass does, unless that changes.
        for name in wanted {
            let found = told.find(|(told, _)| told == name).or_else(|| {
                let mut again = names.split(' ').zip(figures.split(' '));
                again.find(|(told, _)| told == name)
            });
            values[next] = found?.1.parse().ok()?;
            next += 1;
        }
    }
    Some(SnmpStatistics::new(values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_stack_tells_of_itself() {
        let stack = NetworkStack::open().unwrap();
        let mut buffer = Vec::new();
        let before = stack.tcp(&mut buffer).unwrap().in_use;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(stack.tcp(&mut buffer).unwrap().in_use + 1 > before);
        drop(listener);
        let snmp = stack.snmp(&mut buffer).unwrap();
        assert_eq!(snmp.get("tcp_stats", "RtoMin"), Some(200));
        assert!(snmp.get("tcp_stats", "PassiveOpens").is_some());
    }

    #[test]
    fn names_may_be_new_or_elsewhere_but_not_missing() {
        let text = "Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos \
                    InDiscards InDelivers OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails \
                    FragOKs FragFails FragCreates OutTransmits\nIp: 2 64 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20\n";
        assert!(parse_snmp(text).is_none());
        let whole = SNMP_GROUPS.iter().fold(String::new(), |text, (group, _, names)| {
            let mut reversed: Vec<&str> = names.to_vec();
            reversed.reverse();
            let figures: Vec<String> = (0..names.len()).map(|n| n.to_string()).collect();
            format!(
                "{text}{group}: {}\n{group}: {}\n",
                reversed.join(" "),
                figures.join(" ")
            )
        });
        let statistics = parse_snmp(&whole).unwrap();
        assert_eq!(statistics.get("ip_stats", "Forwarding"), Some(18));
        assert_eq!(statistics.get("udp_stats", "IgnoredMulti"), Some(0));
    }

    #[test]
    fn sockets_are_those_of_tcp() {
        let text = b"sockets: used 135\nTCP: inuse 93 orphan 0 tw 126 alloc 113 mem 57\nUDP: inuse 7 mem 0\n";
        let wanted = TcpSockets {
            in_use: 93,
            time_wait: 126,
        };
        assert_eq!(tcp_sockets(text), Some(wanted));
        assert_eq!(tcp_sockets(b"TCP6: inuse 4\nUDP6: inuse 1\n").unwrap().in_use, 4);
        assert_eq!(tcp_sockets(b""), None);
    }
}
