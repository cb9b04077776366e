//! What a world of agents asks about ports: that no two living containers have one in common, and that all come back.

use agent_core::PortPool;
use model::{ContainerId, LaunchSpec, Network, PortRanges, PortRequest};

use crate::random::Random;

fn ranges(text: &str) -> PortRanges {
    text.parse().expect("ports")
}

/// Few enough to be used up now and then.
pub fn pool() -> PortPool {
    PortPool {
        allotted: ranges("100-129"),
        ephemeral: ranges("1000-1059"),
        ephemeral_per_container: 16,
        ephemeral_in_host: true,
    }
}

/// What a launch asks for.
pub fn draw(random: &mut Random) -> (Network, Option<PortRequest>) {
    let network = match random.below(3) {
        0 => Network::Mapped,
        1 => Network::None,
        _ => Network::Host,
    };
    let count = 1 + random.below(8) as u16;
    let request = match random.below(4) {
        0 => None,
        1 => Some(PortRequest::Any(count)),
        2 => Some(PortRequest::Row(count)),
        _ => {
            let first = 95 + random.below(35);
            Some(PortRequest::These(ranges(&format!("{first}-{}", first + 3))))
        }
    };
    (network, request)
}

/// The first two that have a port in common, or one that has not what it asked for.
pub fn conflict<'a>(living: impl Iterator<Item = (&'a ContainerId, &'a LaunchSpec)>) -> Option<String> {
    let pool = pool();
    let mut seen: Vec<(&ContainerId, PortRanges)> = Vec::new();
    for (id, spec) in living {
        let asked = spec.ports.as_ref().map_or(0, PortRequest::count);
        let Some(grant) = &spec.grant else {
            if asked > 0 || spec.network == Network::Mapped {
                return Some(format!("{id} lives without the ports that it needs"));
            }
            continue;
        };
        if grant.allotted.count() != asked {
            return Some(format!("{id} asked for {asked} ports and has {}", grant.allotted));
        }
        if let Some(PortRequest::These(ports)) = &spec.ports
            && *ports != grant.allotted
        {
            return Some(format!("{id} asked for {ports} and has {}", grant.allotted));
        }
        if matches!(spec.ports, Some(PortRequest::Row(_))) && grant.allotted.ranges().len() > 1 {
            return Some(format!(
                "{id} asked for ports in a row and has {}",
                grant.allotted
            ));
        }
        if grant.ephemeral.map(|range| range.count()) != Some(pool.ephemeral_per_container) {
            return Some(format!("{id} has the ephemeral ports {:?}", grant.ephemeral));
        }
        let all = grant.all();
        if !pool.allotted.plus(&pool.ephemeral).contains_all(&all) {
            return Some(format!("{id} has ports {all} that are not in the pool"));
        }
        if let Some((other, _)) = seen.iter().find(|(_, other)| other.overlaps(&all)) {
            return Some(format!("{id} and {other} have ports of {all} in common"));
        }
        seen.push((id, all));
    }
    None
}
