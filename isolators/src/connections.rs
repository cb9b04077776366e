//! TCP connections of containers in the host's network namespace: one dump of all, told apart by the group that made
//! them. It takes some tenths of a millisecond and one more for every thousand connections of the host, so it is not
//! part of every sample: [`HostConnections::measure`] looks, [`HostConnections::of`] tells what the last look found.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kernel::netlink::NetlinkError;
use kernel::netlink::diag::{ESTABLISHED, TIME_WAIT, TcpConnection, TcpDiag};
use model::{NetworkUsage, Percentiles, PortRanges};

#[derive(Debug, Default)]
pub struct HostConnections {
    /// Opened when it is asked for first.
    diag: Mutex<Option<TcpDiag>>,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    /// False: nobody has looked yet, or the kernel does not tell.
    known: bool,
    /// By the number of the v2 group.
    groups: HashMap<u64, Connections>,
    /// Local ports of connections in TIME_WAIT, which have no group any more; sorted.
    time_wait: Vec<u16>,
}

/// Of one group.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Connections {
    count: u64,
    round_trips: Option<Percentiles>,
    /// What data waits in the sockets that are told a pace.
    waiting_micros: u64,
}

/// While one is made.
#[derive(Default)]
struct Seen {
    count: u64,
    round_trips: Vec<u32>,
    unsent_bytes: u64,
    /// Of those with unsent data, added up.
    pace: u64,
}

impl Seen {
    fn add(&mut self, connection: &TcpConnection) {
        self.count += 1;
        self.round_trips
            .extend(Some(connection.rtt_micros).filter(|micros| *micros > 0));
        if let Some(pace) = connection.pace.filter(|_| connection.unsent_bytes > 0) {
            self.unsent_bytes += u64::from(connection.unsent_bytes);
            self.pace += pace;
        }
    }
}

impl From<Seen> for Connections {
    fn from(mut seen: Seen) -> Self {
        Self {
            count: seen.count,
            round_trips: Percentiles::of(&mut seen.round_trips),
            waiting_micros: (seen.unsent_bytes * 1_000_000)
                .checked_div(seen.pace)
                .unwrap_or(0),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HostConnections {
    /// On a thread that is in the host's network namespace.
    pub fn measure(&self) -> Result<(), NetlinkError> {
        let mut diag = lock(&self.diag);
        let socket = match diag.take() {
            Some(socket) => socket,
            None => TcpDiag::open()?,
        };
        let mut groups: HashMap<u64, Seen> = HashMap::new();
        let mut time_wait = Vec::new();
        // Not kept after an error: answers to it may still come.
        socket.visit(&[ESTABLISHED, TIME_WAIT], |connection| {
            if connection.state == TIME_WAIT {
                time_wait.push(connection.local_port);
            } else if let Some(group) = connection.group {
                groups.entry(group).or_default().add(&connection);
            }
        })?;
        *diag = Some(socket);
        time_wait.sort_unstable();
        let groups = groups
            .into_iter()
            .map(|(group, seen)| (group, seen.into()))
            .collect();
        *lock(&self.found) = Found {
            known: true,
            groups,
            time_wait,
        };
        Ok(())
    }

    /// Adds what is known of a group to what was counted of its traffic. `ports`: those that are its alone.
    pub fn complete(&self, usage: &mut NetworkUsage, group: u64, ports: Option<&PortRanges>) {
        let found = lock(&self.found);
        if !found.known {
            return;
        }
        let connections = found.groups.get(&group).copied().unwrap_or_default();
        usage.tcp_active = Some(connections.count);
        usage.tcp_rtt_micros = connections.round_trips;
        if usage.tx.limited_bytes.is_some() {
            usage.tx.queue_delay_micros = Some(connections.waiting_micros);
        }
        usage.tcp_time_wait = ports.map(|ports| {
            let each = ports.ranges().iter();
            let within = each.map(|range| {
                let from = found.time_wait.partition_point(|port| *port < range.first());
                let to = found.time_wait.partition_point(|port| *port <= range.last());
                (to - from) as u64
            });
            within.sum()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_waited_is_told_by_the_ports() {
        let connections = HostConnections::default();
        let mut usage = NetworkUsage::default();
        connections.complete(&mut usage, 7, None);
        assert_eq!(usage.tcp_active, None, "nobody has looked");
        let mut two = Seen::default();
        for (unsent_bytes, pace) in [(30_000, Some(1_000_000)), (0, Some(5)), (70_000, None)] {
            two.add(&TcpConnection {
                rtt_micros: 5,
                unsent_bytes,
                pace,
                ..TcpConnection::default()
            });
        }
        *lock(&connections.found) = Found {
            known: true,
            groups: HashMap::from([(7, two.into())]),
            time_wait: vec![80, 31000, 31000, 31002, 40000],
        };
        let ports: PortRanges = "31000-31001,40000".parse().unwrap();
        connections.complete(&mut usage, 7, Some(&ports));
        assert_eq!((usage.tcp_active, usage.tcp_time_wait), (Some(3), Some(3)));
        assert_eq!(usage.tx.queue_delay_micros, None, "nothing limits here");
        usage.tx.limited_bytes = Some(0);
        connections.complete(&mut usage, 7, Some(&ports));
        assert_eq!(usage.tx.queue_delay_micros, Some(30_000));
        connections.complete(&mut usage, 8, None);
        assert_eq!((usage.tcp_active, usage.tcp_time_wait), (Some(0), None));
    }
}
