//! Ports of containers: which are given to whom. As with ids, nothing is kept of who has which: it stands in the
//! specification of every container that is not over, adopted ones included, so it can neither leak nor be forgotten.
//!
//! A port that was given back is given again as late as possible: connections of its last owner may still be in
//! TIME_WAIT, and packets for it on their way.

use model::{
    ContainerId, Fault, FaultKind, LaunchSpec, Network, PortGrant, PortRange, PortRanges, PortRequest,
};

use crate::agent::AgentCore;

/// The ports that an agent may give away.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortPool {
    /// Those to listen at, as `--ports` asks for them.
    pub allotted: PortRanges,
    /// Those that outgoing connections come from: so many for each container, in a row.
    pub ephemeral: PortRanges,
    pub ephemeral_per_container: u16,
    /// Containers in the host's network have an ephemeral range too; without it they share the host's.
    pub ephemeral_in_host: bool,
}

impl PortPool {
    /// What nobody could ever be given, said before anything is made.
    pub fn admit(&self, spec: &LaunchSpec) -> Result<(), Fault> {
        if spec.grant.is_some() {
            return Err(Fault::invalid("grant", "the agent chooses the ports"));
        }
        if let (Network::None, Some(_)) = (spec.network, &spec.ports) {
            let message = "network \"none\" has loopback only: nobody could reach the ports";
            return Err(Fault::invalid("ports", message).remedy("leave them out, or use another network"));
        }
        if spec.network == Network::Mapped && self.ephemeral_first(&PortRanges::default(), 1).is_none() {
            let message =
                "this agent has no ephemeral ports to give to containers with a network of their own";
            let fault = Fault::unsupported("network", message);
            return Err(fault.remedy(
                "start the agent with --resources='ephemeral_ports:[FIRST-LAST]', outside the host's ip_local_port_range",
            ));
        }
        let Some(request) = &spec.ports else { return Ok(()) };
        if request.count() == 0 {
            return Err(Fault::invalid("ports", "asks for no port").remedy("leave it out"));
        }
        match request {
            PortRequest::These(ports) if !self.allotted.contains_all(ports) => {
                let beyond = ports.minus(&self.allotted);
                let message = format!("{beyond} is not among this agent's ports, {}", self.shown());
                Err(Fault::invalid("ports", message).remedy(POOL_REMEDY))
            }
            _ if request.count() > self.allotted.count() => {
                let message = format!(
                    "{} ports are more than the {} that this agent has, {}",
                    request.count(),
                    self.allotted.count(),
                    self.shown()
                );
                Err(Fault::invalid("ports", message).remedy(POOL_REMEDY))
            }
            _ => Ok(()),
        }
    }

    fn shown(&self) -> String {
        match self.allotted.is_empty() {
            true => "which are none".to_owned(),
            false => self.allotted.to_string(),
        }
    }

    /// A container's ephemeral ports, from `after` on or, when there are none, from the beginning.
    fn ephemeral_first(&self, taken: &PortRanges, after: u16) -> Option<PortRange> {
        let count = self.ephemeral_per_container;
        let free = self.ephemeral.minus(taken);
        row(&free, count, after).or_else(|| row(&free, count, 1))
    }

    fn wants_ephemeral(&self, spec: &LaunchSpec) -> bool {
        match spec.network {
            Network::Mapped => true,
            Network::Host => self.ephemeral_in_host && spec.ports.is_some(),
            Network::None => false,
        }
    }
}

const POOL_REMEDY: &str = "ask for others, or start the agent with more: --resources='ports:[FIRST-LAST]'";

/// The first `count` ports in a row from `after` on.
fn row(free: &PortRanges, count: u16, after: u16) -> Option<PortRange> {
    let fits = |range: &PortRange| {
        let first = range.first().max(after);
        let last = first.checked_add(count.checked_sub(1)?)?;
        (last <= range.last())
            .then(|| PortRange::new(first, last))
            .flatten()
    };
    free.ranges().iter().find_map(fits)
}

/// `count` ports, wherever they are, from `after` on and then from the beginning.
fn scattered(free: &PortRanges, count: u16, after: u16) -> Option<PortRanges> {
    if free.count() < u32::from(count) {
        return None;
    }
    let beyond = free.ports().filter(|port| *port >= after);
    let ports = beyond.chain(free.ports().filter(|port| *port < after));
    let single = |port| PortRange::new(port, port);
    Some(ports.take(usize::from(count)).filter_map(single).collect())
}

impl AgentCore {
    /// Gives a container the ports that it asked for, and ephemeral ones where it needs them: no other that is not over
    /// has any of them.
    pub(crate) fn assign_ports(&mut self, spec: &mut LaunchSpec) -> Result<(), Fault> {
        let wants_ephemeral = self.settings.ports.wants_ephemeral(spec);
        if spec.ports.is_none() && !wants_ephemeral {
            return Ok(());
        }
        self.settings.ports.admit(spec)?;
        let taken = self.ports_taken();
        let allotted = match &spec.ports {
            Some(request) => self.choose(request, &taken)?,
            None => PortRanges::default(),
        };
        let ephemeral = match wants_ephemeral {
            true => Some(self.choose_ephemeral(&taken.plus(&allotted))?),
            false => None,
        };
        // Only now that all is granted: a refusal moves nothing.
        if let Some(last) = allotted.ranges().last() {
            self.next_port = last.last().checked_add(1).unwrap_or(1);
        }
        if let Some(range) = ephemeral {
            self.next_ephemeral = range.last().checked_add(1).unwrap_or(1);
        }
        spec.grant = Some(PortGrant { allotted, ephemeral });
        Ok(())
    }

    fn ports_taken(&self) -> PortRanges {
        let living = self.containers.values().filter(|c| !c.is_over());
        let grants = living.filter_map(|c| c.spec.grant.as_ref());
        let ranges = grants.flat_map(|grant| {
            let allotted = grant.allotted.ranges().iter().copied();
            allotted.chain(grant.ephemeral)
        });
        ranges.collect()
    }

    fn choose(&self, request: &PortRequest, taken: &PortRanges) -> Result<PortRanges, Fault> {
        let pool = &self.settings.ports;
        let free = pool.allotted.minus(taken);
        let after = self.next_port;
        let in_a_row = |count| {
            let range = row(&free, count, after).or_else(|| row(&free, count, 1));
            range.map(PortRanges::from)
        };
        let exhausted = |what: String| {
            let message = format!(
                "{what}: of this agent's {} ports, {pool}, {left} are free",
                pool.allotted.count(),
                pool = pool.allotted,
                left = free.count()
            );
            let fault = Fault::new(FaultKind::Exhausted, message).field("ports");
            fault.remedy("end containers that have ports (bulkhead net), or start the agent with more: --resources='ports:[FIRST-LAST]'")
        };
        match request {
            PortRequest::Any(count) => in_a_row(*count)
                .or_else(|| scattered(&free, *count, after))
                .ok_or_else(|| exhausted(format!("there are no {count} free ports"))),
            PortRequest::Row(count) => {
                in_a_row(*count).ok_or_else(|| exhausted(format!("there are no {count} free ports in a row")))
            }
            PortRequest::These(ports) => {
                let missing = ports.minus(&free);
                let Some(first) = missing.ports().next() else {
                    return Ok(ports.clone());
                };
                let owner = self.port_owner(first);
                let owner = owner.map_or_else(|| "nobody".to_owned(), ToString::to_string);
                let message = format!("port {first} is in use by container {owner}");
                let fault = Fault::new(FaultKind::Conflict, message).field("ports");
                Err(fault.remedy("ask for others, or for any (--ports N)"))
            }
        }
    }

    fn choose_ephemeral(&self, taken: &PortRanges) -> Result<PortRange, Fault> {
        let pool = &self.settings.ports;
        pool.ephemeral_first(taken, self.next_ephemeral).ok_or_else(|| {
            let message = format!(
                "no {} ephemeral ports in a row are free in this agent's {}",
                pool.ephemeral_per_container, pool.ephemeral
            );
            let fault = Fault::new(FaultKind::Exhausted, message).field("ports");
            fault.remedy("end containers that have some (bulkhead net), lower --ephemeral_ports_per_container, or give the agent more: --resources='ephemeral_ports:[FIRST-LAST]'")
        })
    }

    /// Which container that is not over has a port.
    pub fn port_owner(&self, port: u16) -> Option<&ContainerId> {
        let has = |spec: &LaunchSpec| {
            spec.grant
                .as_ref()
                .is_some_and(|grant| grant.all().contains(port))
        };
        let mut living = self.containers.iter().filter(|(_, c)| !c.is_over());
        living.find(|(_, c)| has(&c.spec)).map(|(id, _)| id)
    }

    pub fn port_pool(&self) -> &PortPool {
        &self.settings.ports
    }
}

#[cfg(test)]
mod tests {
    use model::Millis;

    use crate::{Answer, Input, Now, Settings, Ticket, Wish};

    use super::*;

    const NOW: Now = Now {
        monotonic: Millis(1),
        wall_ms: 1,
    };

    fn pool(allotted: &str, ephemeral: &str) -> PortPool {
        PortPool {
            allotted: allotted.parse().unwrap(),
            ephemeral: ephemeral.parse().unwrap(),
            ephemeral_per_container: 10,
            ephemeral_in_host: false,
        }
    }

    fn core(ports: PortPool) -> AgentCore {
        let settings = Settings {
            ports,
            ..Settings::default()
        };
        AgentCore::new(settings, 0)
    }

    fn spec(network: Network, ports: &str) -> LaunchSpec {
        LaunchSpec {
            command: vec!["true".into()],
            network,
            ports: (!ports.is_empty()).then(|| ports.parse().unwrap()),
            ..LaunchSpec::default()
        }
    }

    fn launch(core: &mut AgentCore, id: &str, spec: LaunchSpec) -> Result<PortGrant, Fault> {
        let (id, spec) = (id.parse().unwrap(), Box::new(spec));
        let ticket = Ticket(1);
        core.handle(NOW, Input::Launch { ticket, id, spec });
        let mut result = None;
        while let Some(wish) = core.poll() {
            match wish {
                Wish::Prepare { spec, .. } => result = Some(Ok(spec.grant.unwrap_or_default())),
                Wish::Answer {
                    answer: Answer::Refused(fault),
                    ..
                } => result = Some(Err(fault)),
                _ => {}
            }
        }
        result.expect("launched or refused")
    }

    fn host(core: &mut AgentCore, id: &str, ports: &str) -> Result<String, Fault> {
        launch(core, id, spec(Network::Host, ports)).map(|grant| grant.allotted.to_string())
    }

    #[test]
    fn ports_are_given_once_and_used_again_as_late_as_possible() {
        let mut core = core(pool("100-109", ""));
        assert_eq!(host(&mut core, "a", "4").unwrap(), "100-103");
        assert_eq!(host(&mut core, "b", "4").unwrap(), "104-107");
        // In a row where there is one, else wherever.
        assert_eq!(host(&mut core, "c", "109-109").unwrap(), "109");
        let fault = host(&mut core, "d", "2").unwrap_err();
        assert_eq!(fault.kind, FaultKind::Exhausted);
        assert!(fault.to_string().contains("1 are free"), "{fault}");
        assert_eq!(host(&mut core, "d", "1").unwrap(), "108");
    }

    #[test]
    fn a_row_is_a_row_and_any_are_any() {
        let mut core = core(pool("100-105", ""));
        host(&mut core, "a", "102-102").unwrap();
        assert_eq!(
            host(&mut core, "b", "row:4").unwrap_err().kind,
            FaultKind::Exhausted
        );
        assert_eq!(host(&mut core, "b", "row:3").unwrap(), "103-105");
        assert_eq!(host(&mut core, "c", "2").unwrap(), "100-101");
    }

    #[test]
    fn named_ports_are_refused_with_their_owner() {
        let mut core = core(pool("100-105", ""));
        host(&mut core, "a", "102-103").unwrap();
        let fault = host(&mut core, "b", "103-104").unwrap_err();
        assert_eq!(fault.kind, FaultKind::Conflict);
        assert!(
            fault.to_string().contains("port 103 is in use by container a"),
            "{fault}"
        );
        let fault = host(&mut core, "b", "105-106").unwrap_err();
        assert_eq!(fault.kind, FaultKind::Invalid);
        assert!(fault.to_string().contains("106 is not among"), "{fault}");
        assert_eq!(core.port_owner(103).map(ContainerId::as_str), Some("a"));
        assert_eq!(core.port_owner(104), None);
    }

    #[test]
    fn mapped_containers_have_ephemeral_ports_and_a_refusal_takes_none() {
        let mut core = core(pool("100-101", "200-229"));
        let mut mapped = |id: &str, ports: &str| launch(&mut core, id, spec(Network::Mapped, ports));
        let one = mapped("a", "").unwrap();
        assert_eq!((one.allotted.count(), one.ephemeral.unwrap().count()), (0, 10));
        assert_eq!(mapped("b", "3").unwrap_err().kind, FaultKind::Invalid);
        let two = mapped("c", "2").unwrap();
        let three = mapped("d", "").unwrap();
        assert_eq!(two.ephemeral, PortRange::new(210, 219));
        assert_eq!(three.ephemeral, PortRange::new(220, 229));
        let fault = mapped("e", "").unwrap_err();
        assert_eq!(fault.kind, FaultKind::Exhausted);
        assert!(
            fault.to_string().contains("--ephemeral_ports_per_container"),
            "{fault}"
        );
    }

    #[test]
    fn who_can_not_have_any_is_told_why() {
        let mut core = core(pool("100-101", ""));
        let fault = launch(&mut core, "a", spec(Network::Mapped, "1")).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Unsupported);
        assert_eq!(
            pool("1-2", "").admit(&spec(Network::None, "1")).unwrap_err().kind,
            FaultKind::Invalid
        );
        let mut forged = spec(Network::Host, "1");
        forged.grant = Some(PortGrant::default());
        assert!(pool("1-2", "").admit(&forged).is_err());
        // With the host's network and no wish there is nothing to give.
        assert_eq!(
            launch(&mut core, "b", spec(Network::Host, "")).unwrap(),
            PortGrant::default()
        );
    }

    #[test]
    fn the_last_port_there_is() {
        let mut core = core(pool("65534-65535", ""));
        assert_eq!(host(&mut core, "a", "2").unwrap(), "65534-65535");
        assert!(host(&mut core, "b", "1").is_err());
    }
}
