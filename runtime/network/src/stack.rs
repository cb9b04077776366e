//! What the stacks of containers tell of themselves: TCP connections with their round trip times, and SNMP counters.
//!
//! Procfs and sock_diag are asked through descriptors that were opened in each container's namespace once. A look at a
//! thousand stacks takes tens of milliseconds and at those with open connections some tenths of one more, so this is not
//! part of every sample: [`Datapath::measure_stacks`] looks, [`Datapath::usage_all`] tells what the last look found.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::netlink::diag::{ESTABLISHED, TcpDiag};
use kernel::netlink::namespace;
use kernel::network_stack::NetworkStack;
use model::{ContainerId, NetworkUsage, Percentiles, SnmpStatistics};

use crate::NetworkError;
use crate::datapath::Datapath;

/// One container's, open as long as it is attached: an open file keeps its namespace alive.
#[derive(Debug)]
struct Stack {
    netns: OwnedFd,
    files: NetworkStack,
    /// Only while there are connections: most containers have none, and descriptors are few.
    diag: Mutex<Option<TcpDiag>>,
}

/// Of all containers.
#[derive(Debug, Default)]
pub(crate) struct Stacks {
    open: Mutex<HashMap<ContainerId, Arc<Stack>>>,
    /// What the last look has found.
    told: Mutex<HashMap<ContainerId, NetworkUsage>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stacks {
    pub fn forget(&self, id: &ContainerId) {
        lock(&self.open).remove(id);
        lock(&self.told).remove(id);
    }

    /// Adds what is known of the containers to what was counted of their traffic.
    pub fn complete(&self, usages: &mut HashMap<ContainerId, NetworkUsage>) {
        let told = lock(&self.told);
        for (id, usage) in usages {
            if let Some(stack) = told.get(id) {
                usage.add(stack);
            }
        }
    }
}

impl Stack {
    fn open(netns: OwnedFd) -> io::Result<Self> {
        let files = namespace::within(&netns, NetworkStack::open)??;
        Ok(Self {
            netns,
            files,
            diag: Mutex::new(None),
        })
    }

    fn look(&self, buffer: &mut Vec<u8>) -> NetworkUsage {
        let snmp = self.files.snmp(buffer);
        let of_tcp = |counter: &str| snmp.as_ref()?.get("tcp_stats", counter);
        let count = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
        let mut usage = NetworkUsage {
            // Without those that only listen: Mesos' `inuse` of sockstat counts them too.
            tcp_active: count(of_tcp("CurrEstab")),
            tcp_time_wait: self.files.tcp(buffer).map(|sockets| sockets.time_wait),
            tcp_retransmits: count(of_tcp("RetransSegs")),
            ..NetworkUsage::default()
        };
        usage.rx.errors = snmp.as_ref().and_then(broken);
        usage.snmp = snmp;
        let mut diag = lock(&self.diag);
        if usage.tcp_active == Some(0) {
            *diag = None;
        } else {
            usage.tcp_rtt_micros = self.round_trips(&mut diag);
        }
        usage
    }

    /// `None`: nothing is known of any, or this kernel has no sock_diag.
    fn round_trips(&self, diag: &mut Option<TcpDiag>) -> Option<Percentiles> {
        if diag.is_none() {
            *diag = TcpDiag::open_in(self.netns.as_fd()).ok();
        }
        let mut times = Vec::new();
        let visited = diag.as_ref()?.visit(&[ESTABLISHED], |connection| {
            times.extend(Some(connection.rtt_micros).filter(|micros| *micros > 0));
        });
        if let Err(error) = visited {
            tracing::debug!("ask for TCP connections: {error}");
            *diag = None;
        }
        Percentiles::of(&mut times)
    }
}

/// What came in and was no valid packet: by its header or checksum. A veth counts none of its own (drivers/net/veth.c). IPv6's
/// headers and UDP are counted elsewhere (snmp6).
fn broken(snmp: &SnmpStatistics) -> Option<u64> {
    let counters = [
        ("ip_stats", "InHdrErrors"),
        ("icmp_stats", "InErrors"),
        ("tcp_stats", "InErrs"),
        ("udp_stats", "InCsumErrors"),
    ];
    let each = counters.map(|(group, counter)| u64::try_from(snmp.get(group, counter)?).ok());
    each.into_iter().sum()
}

impl Datapath {
    /// Looks at the stacks of all containers; see the module's head for what that takes.
    pub fn measure_stacks(&self) -> Result<(), NetworkError> {
        self.open_stacks()?;
        let stacks: Vec<(ContainerId, Arc<Stack>)> = {
            let open = lock(&self.stacks.open);
            let each = open.iter();
            each.map(|(id, stack)| (id.clone(), Arc::clone(stack))).collect()
        };
        let mut buffer = Vec::new();
        for (id, stack) in stacks {
            let usage = stack.look(&mut buffer);
            let open = lock(&self.stacks.open);
            // Detached meanwhile: nobody would take it away again.
            if open.contains_key(&id) {
                lock(&self.stacks.told).insert(id, usage);
            }
        }
        Ok(())
    }

    fn open_stacks(&self) -> Result<(), NetworkError> {
        let missing: Vec<(ContainerId, OwnedFd)> = {
            let guard = self.lock();
            let open = lock(&self.stacks.open);
            let members = guard.book.members().iter();
            let unopened = members.filter(|(id, _)| !open.contains_key(*id));
            unopened
                .filter_map(|(id, member)| Some((id.clone(), member.netns.as_ref()?.try_clone().ok()?)))
                .collect()
        };
        for (id, netns) in missing {
            let stack = Stack::open(netns).map_err(|source| NetworkError::Namespace {
                operation: format!("open the stack's counters of container {id}"),
                source,
            })?;
            let guard = self.lock();
            if guard.book.members().contains_key(&id) {
                lock(&self.stacks.open).insert(id, Arc::new(stack));
            }
        }
        Ok(())
    }
}
