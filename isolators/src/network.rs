//! Mode "mapped": a network namespace behind the host's address, through crate `network`.
//!
//! Nothing of the host is touched before the first container asks for it: the data path is opened then, or by the agent
//! that finds containers of an earlier one. What stays of it when no container is left is removed with the agent. All
//! calls block on netlink: they belong to workers.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kernel::mount::{MountFlags, is_filesystem, mount_filesystem};
pub use kernel::netlink::Notices;
use model::{
    Bandwidth, BitsPerSecond, ContainerId, Fault, FaultKind, IsolatorReport, LaunchSpec, Limits, Network,
    NetworkUsage,
};
use network::{Attach, Attached, Config, Datapath, NetworkError, WEIGHTS};
pub use network::{Explanation, Known, KnownGroup, Origin, PacketQuestion, Transport, Verdict};

use crate::isolator::{active, missing};

/// Of one agent.
pub struct NetworkIsolator {
    instance: String,
    /// A directory of the agent's, on which a bpffs is mounted.
    pins: PathBuf,
    uplinks: Vec<String>,
    uplink_rate: Option<BitsPerSecond>,
    datapath: Mutex<Option<Arc<Datapath>>>,
    /// Locked after `datapath`, where both are.
    left: Mutex<Option<Left>>,
}

/// Containers of an earlier agent that have not been taken over: the data path could not be opened (no uplink now, a program
/// that can't be loaded). They stay connected; nobody new is until they are taken over.
struct Left {
    known: Vec<Known>,
    groups: Vec<KnownGroup>,
}

const BPFFS: &std::ffi::CStr = c"bpf";

impl NetworkIsolator {
    /// `instance`: the agent's, of any length. `uplinks`: names; empty: those with a default route. `uplink_rate`: what
    /// each of them carries, where they are to be shared out between containers.
    pub fn new(
        instance: &str,
        pins: PathBuf,
        uplinks: Vec<String>,
        uplink_rate: Option<BitsPerSecond>,
    ) -> Self {
        Self {
            instance: short(instance),
            pins,
            uplinks,
            uplink_rate,
            datapath: Mutex::new(None),
            left: Mutex::new(None),
        }
    }

    /// Does not wait for whoever changes the network now: it is asked for on the event loop.
    pub fn report(&self) -> IsolatorReport {
        let open = self.datapath.try_lock().ok();
        let mechanism = match open.as_ref().and_then(|open| open.as_ref()) {
            Some(datapath) => format!(
                "BPF (tcx) at {} and loopback, veth; ceilings by {}",
                datapath.uplinks().join(", "),
                datapath.mechanism()
            ),
            None => "when asked (--network mapped): BPF (tcx) at the uplinks, veth".to_owned(),
        };
        active("network", mechanism)
    }

    /// How the ceilings of connected containers are held, in words. Does not wait, as [`report`](Self::report).
    pub fn ceilings_held_by(&self) -> Option<String> {
        let open = self.datapath.try_lock().ok()?;
        open.as_ref().map(|datapath| datapath.mechanism().to_string())
    }

    /// Refuses what this mode of the network does not hold.
    pub fn admit(&self, network: Network, bandwidth: &Bandwidth) -> Result<(), Fault> {
        if !bandwidth.limits_anything() {
            return Ok(());
        }
        if network != Network::None {
            return self.admit_share(bandwidth);
        }
        let message = "traffic has no ceiling with the network \"none\": none of it leaves the container";
        Err(Fault::unsupported("limits.bandwidth", message)
            .remedy("leave the ceiling out, or use --network mapped"))
    }

    fn admit_share(&self, bandwidth: &Bandwidth) -> Result<(), Fault> {
        if bandwidth.ingress_min.is_some() {
            let message =
                "what comes in queues at the other end of the line: nobody here can guarantee a part of it";
            return Err(Fault::unsupported("limits.bandwidth.ingress_min", message)
                .remedy("limit what others receive (--ingress)"));
        }
        if bandwidth.weight.is_some_and(|weight| !WEIGHTS.contains(&weight)) {
            let message = format!("weights are between {} and {}", WEIGHTS.start(), WEIGHTS.end());
            return Err(Fault::invalid("limits.bandwidth.weight", message));
        }
        let asked = bandwidth.egress_min.is_some() || bandwidth.weight.is_some();
        if asked && self.uplink_rate.is_none() {
            let message = "guarantees and weights need a queueing discipline on the uplink, and this agent leaves uplinks as \
                           they are";
            return Err(Fault::unsupported("limits.bandwidth", message).remedy(
                "start the agent with --uplink_rate, or give ceilings that together fit the uplink",
            ));
        }
        Ok(())
    }

    pub fn shares_uplinks(&self) -> bool {
        self.uplink_rate.is_some()
    }

    /// Where uplinks are shared out, who has not named a weight has one by its CPUs.
    pub fn weighed(&self, limits: &Limits) -> Bandwidth {
        let mut bandwidth = limits.bandwidth;
        if self.uplink_rate.is_some() {
            let by_cpus = limits
                .cpus
                .map(|cpus| (cpus.as_f64() * f64::from(network::WEIGHT_OF_A_CPU)).round() as u32);
            let by_cpus = by_cpus.map(|weight| weight.clamp(*WEIGHTS.start(), *WEIGHTS.end()));
            bandwidth.weight = bandwidth.weight.or(by_cpus);
        }
        bandwidth
    }

    /// What changes at the host's interfaces and addresses, but for those of containers.
    pub fn notices() -> Result<Notices, Fault> {
        Notices::open(network::GROUP).map_err(|error| Fault::from_error(FaultKind::Failed, &error))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Datapath>>> {
        self.datapath.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on the data path, which is opened if it is not yet.
    fn with<T>(&self, work: impl FnOnce(&Datapath) -> Result<T, NetworkError>) -> Result<T, Fault> {
        let mut open = self.lock();
        let datapath = match open.as_ref() {
            Some(datapath) => datapath,
            None => open.insert(Arc::new(self.open()?)),
        };
        work(datapath).map_err(|error| fault(&error))
    }

    /// With what an earlier agent has left. After an error nothing is open: the places of its containers stay theirs.
    fn open(&self) -> Result<Datapath, Fault> {
        self.mount()?;
        let config = Config {
            instance: self.instance.clone(),
            pins: self.pins.clone(),
            uplinks: self.uplinks.clone(),
            uplink_rate: self.uplink_rate,
        };
        let datapath = Datapath::open(config).map_err(|error| fault(&error))?;
        let mut left = self.left();
        if let Some(Left { known, groups }) = left.as_ref() {
            let known = known.iter().map(again).collect();
            let adopted = datapath.adopt(known).map_err(|error| fault(&error))?;
            datapath.adopt_groups(groups);
            for interface in &adopted.removed {
                tracing::warn!(%interface, "removed: an interface that no container has");
            }
            for id in adopted.lost {
                tracing::error!(
                    container = %id,
                    "its interface is gone: it has no network any more; kill it and start it anew"
                );
            }
        }
        *left = None;
        Ok(datapath)
    }

    fn left(&self) -> MutexGuard<'_, Option<Left>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`with`](Self::with), but `None` where nobody has used the network yet.
    fn if_open<T>(
        &self,
        work: impl FnOnce(&Datapath) -> Result<T, NetworkError>,
    ) -> Result<Option<T>, Fault> {
        let open = self.lock();
        let result = open.as_deref().map(work).transpose();
        result.map_err(|error| fault(&error))
    }

    fn mount(&self) -> Result<(), Fault> {
        let failed = |what: &str, error: String| {
            Fault::failed(format!(
                "{what} {} for the network's pins: {error}",
                self.pins.display()
            ))
        };
        std::fs::create_dir_all(&self.pins).map_err(|error| failed("make", error.to_string()))?;
        if self.is_mounted() {
            return Ok(());
        }
        let target = CString::new(self.pins.as_os_str().as_bytes());
        let target = target.map_err(|error| failed("mount a bpffs at", error.to_string()))?;
        let flags = MountFlags::NO_SUID
            .and(MountFlags::NO_DEVICES)
            .and(MountFlags::NO_EXECUTE);
        mount_filesystem(BPFFS, &target, flags, Some(c"mode=0700"))
            .map_err(|error| failed("mount a bpffs at", error.to_string()))
    }

    fn is_mounted(&self) -> bool {
        let directory = std::fs::File::open(&self.pins);
        directory.is_ok_and(|directory| is_filesystem(&directory, BPFFS).unwrap_or(false))
    }

    /// Connects a container's network namespace.
    pub fn attach(&self, id: &ContainerId, netns: impl AsFd, spec: &LaunchSpec) -> Result<Attached, Fault> {
        let grant = spec.grant.clone().unwrap_or_default();
        let bandwidth = self.weighed(&spec.limits);
        self.with(|datapath| {
            datapath.attach(&Attach {
                id,
                netns: netns.as_fd(),
                grant: &grant,
                bandwidth: &bandwidth,
            })
        })
    }

    /// Disconnects a container; one that is not connected is no error.
    pub fn detach(&self, id: &ContainerId) -> Result<(), Fault> {
        {
            let _open = self.lock();
            if let Some(left) = self.left().as_mut() {
                left.known.retain(|one| one.id != *id);
                left.groups.retain(|one| one.id != *id);
            }
        }
        self.if_open(|datapath| datapath.detach(id)).map(drop)
    }

    pub fn update(&self, id: &ContainerId, old: &Limits, new: &Limits) -> Result<(), Fault> {
        let (old, new) = (self.weighed(old), self.weighed(new));
        if old == new {
            return Ok(());
        }
        self.with(|datapath| datapath.update(id, &new))
    }

    /// A container in the host's network gets its share of the uplinks, or another one. `group`: the directory of its v2
    /// group. Nothing where uplinks are not shared out.
    pub fn share(&self, id: &ContainerId, group: Option<&OwnedFd>, limits: &Limits) -> Result<(), Fault> {
        if self.uplink_rate.is_none() {
            return Ok(());
        }
        match group {
            Some(group) => self.with(|datapath| datapath.share_group(id, group, &self.weighed(limits))),
            None if limits.bandwidth.weight.is_none() && limits.bandwidth.egress_min.is_none() => Ok(()),
            None => {
                let message = "with the host's network a container's packets are known by its v2 control group, and no v2 \
                               tree is mounted";
                Err(Fault::unsupported("limits.bandwidth", message)
                    .remedy("mount cgroup2, or use --network mapped"))
            }
        }
    }

    /// At the agent's start, before anything else: takes over the containers of an earlier one. Where uplinks are to be shared
    /// out, they are from then on. After an error they are taken over as soon as it can be done: [`refresh`](Self::refresh)
    /// tries again, and so does whoever needs the network.
    pub fn adopt(&self, known: Vec<Known>, groups: Vec<KnownGroup>) -> Result<(), Fault> {
        if known.is_empty() && self.uplink_rate.is_none() && !self.is_mounted() {
            return Ok(());
        }
        *self.left() = Some(Left { known, groups });
        self.with(|_| Ok(()))
    }

    /// An uplink may have another address, or be down or up again.
    pub fn refresh(&self) -> Result<(), Fault> {
        if self.left().is_some() {
            return self.with(|_| Ok(()));
        }
        self.if_open(Datapath::refresh).map(drop)
    }

    /// What all connected containers have moved.
    pub fn usage(&self) -> Result<HashMap<ContainerId, NetworkUsage>, Fault> {
        Ok(self.if_open(Datapath::usage_all)?.unwrap_or_default())
    }

    /// Whether all that steers packets is where it was put. Empty: nobody has used the network yet.
    pub fn health(&self) -> Vec<IsolatorReport> {
        let datapath = self.lock().clone();
        let parts = match datapath.as_ref().map(|datapath| datapath.health()) {
            None if self.left().is_some() => {
                let trouble = "containers of an earlier agent are not taken over: they stay connected, new ones are refused                                (the agent's log says why); it is tried again at every look";
                return vec![missing("network", trouble.to_owned())];
            }
            None => return Vec::new(),
            Some(Ok(parts)) => parts,
            Some(Err(error)) => {
                return vec![missing("network health", fault(&error).to_string())];
            }
        };
        let line = |part: network::Health| IsolatorReport {
            name: format!("network {}", part.part),
            active: part.trouble.is_empty(),
            mechanism: part.state,
            missing: part.trouble,
        };
        parts.into_iter().map(line).collect()
    }

    /// Has a look at the stacks of all connected containers: what `usage` tells of connections and counters then.
    pub fn measure_stacks(&self) -> Result<(), Fault> {
        // Not under our lock: with many containers it takes longer than an attach should wait.
        let Some(datapath) = self.lock().clone() else {
            return Ok(());
        };
        datapath.measure_stacks().map_err(|error| fault(&error))
    }

    /// What would happen to a packet. `None`: no container is connected, so all of it is the host's.
    pub fn explain(&self, question: &PacketQuestion) -> Result<Option<Explanation>, Fault> {
        self.if_open(|datapath| datapath.explain(question))
    }

    /// The agent's end. `keep`: containers stay connected. Else nothing is left.
    pub fn close(&self, keep: bool) {
        let Some(datapath) = self.lock().take() else {
            return;
        };
        if let Err(error) = datapath.close(keep) {
            tracing::warn!("take the network down: {}", fault(&error));
            return;
        }
        if keep {
            return;
        }
        if let Err(error) = kernel::mount::detach(&self.pins) {
            tracing::warn!("unmount {}: {error}", self.pins.display());
        }
        let _ = std::fs::remove_dir(&self.pins);
    }
}

/// A copy for one try. Without its network namespace a change of the host's address is not passed on to it.
fn again(known: &Known) -> Known {
    Known {
        id: known.id.clone(),
        slot: known.slot,
        grant: known.grant.clone(),
        bandwidth: known.bandwidth,
        netns: known.netns.as_ref().and_then(|netns| netns.try_clone().ok()),
    }
}

fn fault(error: &NetworkError) -> Fault {
    let kind = match error {
        NetworkError::Unenforceable { .. } => FaultKind::Unsupported,
        NetworkError::Full(_) | NetworkError::Oversold { .. } => FaultKind::Exhausted,
        NetworkError::PortTaken { .. } => FaultKind::Conflict,
        _ => FaultKind::Failed,
    };
    Fault::from_error(kind, error).field("network")
}

/// What names our interfaces: an interface's name has fifteen characters, an instance's any number. FNV-1a.
fn short(instance: &str) -> String {
    if instance.is_empty() {
        return "main".to_owned();
    }
    let hash = instance.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    format!("{:06x}", hash & 0x00ff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_that_nobody_can_deal_out_by_is_refused_and_one_by_cpus_ends_there() {
        let rate = Some(BitsPerSecond(1_000_000_000));
        let network = NetworkIsolator::new("test", PathBuf::from("/nowhere"), Vec::new(), rate);
        let weight = |weight| Bandwidth {
            weight: Some(weight),
            ..Bandwidth::default()
        };
        for wrong in [0, 10_001, u32::MAX] {
            let refused = network
                .admit(Network::Mapped, &weight(wrong))
                .expect_err("refused");
            assert!(refused.to_string().contains("between 1 and 10000"), "{refused}");
        }
        for right in [1, 10_000] {
            network.admit(Network::Host, &weight(right)).expect("admitted");
        }
        let limits = Limits {
            cpus: Some("1000".parse().expect("an amount")),
            ..Limits::default()
        };
        assert_eq!(network.weighed(&limits).weight, Some(10_000));
    }

    #[test]
    fn an_instance_has_a_short_name_of_its_own() {
        assert_eq!(short(""), "main");
        let (one, two) = (short("test-1"), short("test-2"));
        assert!(one.len() == 6 && one != two && one != "main");
    }
}
