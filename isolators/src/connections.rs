//! TCP connections of containers in the host's network namespace: one dump of all, told apart by the group that made
//! them. It takes some tenths of a millisecond and one more for every thousand connections of the host, so it is not
//! part of every sample: [`HostConnections::measure`] looks, [`HostConnections::of`] tells what the last look found.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kernel::netlink::NetlinkError;
use kernel::netlink::diag::{ESTABLISHED, TIME_WAIT, TcpDiag};
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
    groups: HashMap<u64, (u64, Option<Percentiles>)>,
    /// Local ports of connections in TIME_WAIT, which have no group any more; sorted.
    time_wait: Vec<u16>,
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
        let mut times: HashMap<u64, (u64, Vec<u32>)> = HashMap::new();
        let mut time_wait = Vec::new();
        // Not kept after an error: answers to it may still come.
        socket.visit(&[ESTABLISHED, TIME_WAIT], |connection| {
            if connection.state == TIME_WAIT {
                time_wait.push(connection.local_port);
            } else if let Some(group) = connection.group {
                let (count, times) = times.entry(group).or_default();
                *count += 1;
                times.extend(Some(connection.rtt_micros).filter(|micros| *micros > 0));
            }
        })?;
        *diag = Some(socket);
        time_wait.sort_unstable();
        let groups = times
            .into_iter()
            .map(|(group, (count, mut times))| (group, (count, Percentiles::of(&mut times))))
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
        let (active, times) = found.groups.get(&group).copied().unwrap_or_default();
        usage.tcp_active = Some(active);
        usage.tcp_rtt_micros = times;
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
        *lock(&connections.found) = Found {
            known: true,
            groups: HashMap::from([(7, (2, Percentiles::of(&mut [5, 9])))]),
            time_wait: vec![80, 31000, 31000, 31002, 40000],
        };
        let ports: PortRanges = "31000-31001,40000".parse().unwrap();
        connections.complete(&mut usage, 7, Some(&ports));
        assert_eq!((usage.tcp_active, usage.tcp_time_wait), (Some(2), Some(3)));
        connections.complete(&mut usage, 8, None);
        assert_eq!((usage.tcp_active, usage.tcp_time_wait), (Some(0), None));
    }
}
