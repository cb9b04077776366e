//! Ports and traffic in the host's network namespace: BPF programs at the container's v2 group.
//!
//! A container that asked for ports can bind no others, by IPv4 or IPv6, TCP or UDP; where the agent has ephemeral ports
//! to give, its bind(0) and connect() take theirs from its own. Bytes and packets are counted for every container
//! that has the host's network. Policy and counters end with the group: there is nothing to recover or to clean up.

use std::os::fd::AsFd;
use std::sync::Arc;

use bpf::ceiling::GroupCeiling;
use bpf::ports::{GroupMaps, PortPrograms, RANGES_MAX, Refusals};
use kernel::cgroup::LimitError;
use model::{
    Fault, IsolatorReport, LaunchSpec, Limits, Network, NetworkUsage, PortRanges, PortRequest, Traffic,
};

use crate::bandwidth::HostCeilings;
use crate::connections::HostConnections;
use crate::error::PrepareError;
use crate::isolator::{Isolator, Place, active, missing};
use crate::trees::{TreeId, Trees};

pub struct PortIsolator {
    /// Loaded once, or why not.
    programs: Result<PortPrograms, String>,
    unified: Option<TreeId>,
    connections: Arc<HostConnections>,
    ceilings: Arc<HostCeilings>,
}

impl PortIsolator {
    pub fn new(
        trees: &Trees,
        programs: Result<PortPrograms, String>,
        connections: Arc<HostConnections>,
        ceilings: Arc<HostCeilings>,
    ) -> Self {
        let unified = trees.unified();
        let programs = match unified {
            Some(_) => programs,
            None => Err("no v2 tree for BPF programs is mounted".to_owned()),
        };
        Self {
            programs,
            unified,
            connections,
            ceilings,
        }
    }
}

impl Isolator for PortIsolator {
    fn name(&self) -> &'static str {
        "ports"
    }

    fn report(&self) -> IsolatorReport {
        match &self.programs {
            Ok(_) => active(
                "ports",
                "BPF at bind and connect, and of packets, at the v2 group",
            ),
            Err(why) => missing("ports", why.clone()),
        }
    }

    fn admit(&self, _limits: &Limits) -> Result<(), Fault> {
        Ok(())
    }

    fn admit_spec(&self, spec: &LaunchSpec) -> Result<(), Fault> {
        let (Network::Host, Some(request)) = (spec.network, &spec.ports) else {
            return Ok(());
        };
        if let Err(why) = &self.programs {
            let fault = Fault::unsupported("ports", format!("ports can't be kept from others here: {why}"));
            return Err(fault.remedy("mount cgroup2 and use a kernel with CONFIG_CGROUP_BPF"));
        }
        if let PortRequest::These(ports) = request
            && ports.ranges().len() > RANGES_MAX
        {
            let count = ports.ranges().len();
            let message = format!("{count} ranges are more than one container can have, {RANGES_MAX}");
            return Err(Fault::invalid("ports", message));
        }
        Ok(())
    }

    fn trees(&self, _limits: &Limits) -> Vec<TreeId> {
        Vec::new()
    }

    fn prepare(&self, place: Place<'_>, spec: &LaunchSpec) -> Result<(), PrepareError> {
        let (Ok(programs), Network::Host) = (&self.programs, spec.network) else {
            return Ok(());
        };
        let Some(group) = place.unified else { return Ok(()) };
        programs.count(group).map_err(PrepareError::Ports)?;
        match &spec.grant {
            Some(grant) => programs.restrict(group, grant).map_err(PrepareError::Ports),
            None => Ok(()),
        }
    }

    fn update(&self, _place: Place<'_>, _old: &Limits, _new: &Limits) -> Result<(), LimitError> {
        Ok(())
    }

    fn traffic(&self, place: Place<'_>) -> Option<TrafficReader> {
        let group = place.trees.tree(self.unified?).open_group(place.name).ok()?;
        match self.programs.as_ref().ok()?.maps_of(group.as_fd()) {
            Ok(maps) => maps.map(|maps| TrafficReader {
                ports: maps.grant().ok().flatten().map(|grant| grant.all()),
                maps,
                connections: Arc::clone(&self.connections),
                ceiling: self.ceilings.of(place),
                inward: self.ceilings.inward_of(place),
                told: self.ceilings.connections_of(place),
            }),
            Err(error) => {
                tracing::debug!(container = place.name, "find the traffic counters: {error}");
                None
            }
        }
    }
}

/// Counters of one container.
pub struct TrafficReader {
    maps: GroupMaps,
    /// Those that nobody else has.
    ports: Option<PortRanges>,
    connections: Arc<HostConnections>,
    ceiling: Option<GroupCeiling>,
    inward: Option<GroupCeiling>,
    told: Option<GroupCeiling>,
}

impl TrafficReader {
    /// `None`: the container has ended meanwhile.
    pub fn read(&self) -> Option<NetworkUsage> {
        let traffic = self.maps.traffic().ok()?.unwrap_or_default();
        let refusals = self.refusals().unwrap_or_default();
        let mut usage = NetworkUsage {
            rx: Traffic {
                bytes: traffic.rx_bytes,
                packets: traffic.rx_packets,
                dropped: refusals.unreachable,
                ..Traffic::default()
            },
            tx: Traffic {
                bytes: traffic.tx_bytes,
                packets: traffic.tx_packets,
                ..Traffic::default()
            },
            ..NetworkUsage::default()
        };
        let reasons = [
            ("bind_refused", refusals.binds),
            ("listener_without_port", refusals.unreachable),
            ("ephemeral_ports_exhausted", refusals.exhausted),
        ];
        let occurred = reasons.into_iter().filter(|(_, count)| *count > 0);
        usage.drops = occurred
            .map(|(reason, count)| (reason.to_owned(), count))
            .collect();
        let ceiling = self.ceiling.as_ref().and_then(|ceiling| ceiling.read().ok());
        if let Some(ceiling) = ceiling.filter(|ceiling| ceiling.rate != 0) {
            usage.tx.limited_bytes = Some(ceiling.limited_bytes);
            usage.tx.dropped += ceiling.dropped_packets;
        }
        usage.tcp_retransmits = self.told.as_ref().and_then(|told| told.retransmits().ok());
        let inward = self.inward.as_ref().and_then(|inward| inward.read_inward().ok());
        if let Some(inward) = inward.filter(|inward| inward.rate != 0) {
            usage.rx.limited_bytes = Some(inward.limited_bytes);
            usage.rx.dropped += inward.dropped_packets;
        }
        self.connections
            .complete(&mut usage, self.maps.group(), self.ports.as_ref());
        Some(usage)
    }

    /// What its policy has refused; `None`: it has none.
    pub fn refusals(&self) -> Option<Refusals> {
        self.maps.refusals().ok()?
    }
}
