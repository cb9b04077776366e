//! The agent's flags about ports, and the pools that they make: never overlapping with each other or with what the
//! host's own programs connect from.

use agent_core::PortPool;
use clap::Args;
use model::resources::{Amount, Resources};
use model::{Fault, PortRange, PortRanges};

#[derive(Debug, Clone, Args)]
pub struct PortFlags {
    /// Ports for containers: those of --ports, and those that their connections come from. Not among the host's own
    /// (sysctl net.ipv4.ip_local_port_range) [default: ports:[31000-32000];ephemeral_ports:[61440-65535]]
    #[arg(long, value_name = "LIST", env = "BULKHEAD_RESOURCES")]
    pub resources: Option<String>,
    /// Ports that the connections of one container come from
    #[arg(
        long,
        value_name = "N",
        default_value_t = PER_CONTAINER,
        value_parser = clap::value_parser!(u16).range(16..=32_768),
        env = "BULKHEAD_EPHEMERAL_PORTS_PER_CONTAINER"
    )]
    pub ephemeral_ports_per_container: u16,
    /// Interfaces whose addresses containers of --network mapped share [default: those with a default route]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', env = "BULKHEAD_UPLINKS")]
    pub uplinks: Vec<String>,
}

/// Mesos' default.
const PER_CONTAINER: u16 = 1024;
/// Mesos' default.
const ALLOTTED: &str = "31000-32000";
/// Above the range that Linux has unless somebody changes it (32768-60999): enough for four containers.
const EPHEMERAL: &str = "61440-65535";
/// Ports that only root may bind: a service that connects from one would be taken for another.
const PRIVILEGED: &str = "1-1023";

impl PortFlags {
    /// `host`: where the host's own connections come from, without what it keeps back
    /// (`net.ipv4.ip_local_reserved_ports`).
    pub fn pool(&self, host: &PortRanges) -> Result<PortPool, Fault> {
        let mut pool = match &self.resources {
            Some(text) => given(text)?,
            None => by_default(host),
        };
        pool.ephemeral_per_container = self.ephemeral_ports_per_container;
        self.check(&pool, host)?;
        Ok(pool)
    }

    fn check(&self, pool: &PortPool, host: &PortRanges) -> Result<(), Fault> {
        let refuse = |what: &str, common: PortRanges, with: &str, remedy: &str| {
            let message = format!("--resources: {what} {common} are {with}");
            Err(Fault::invalid("resources", message).remedy(remedy))
        };
        for (what, ports) in [("ports", &pool.allotted), ("ephemeral_ports", &pool.ephemeral)] {
            let common = ports.common(host);
            if !common.is_empty() {
                let with = format!("also the host's own, in its ip_local_port_range ({host})");
                let remedy = format!(
                    "choose others, or keep the host off them: sysctl -w net.ipv4.ip_local_reserved_ports={common}, \
                     or a smaller net.ipv4.ip_local_port_range"
                );
                return refuse(what, common, &with, &remedy);
            }
        }
        let both = pool.allotted.common(&pool.ephemeral);
        if !both.is_empty() {
            return refuse("ports", both, "among ephemeral_ports too", "let the two be apart");
        }
        let low = pool.ephemeral.common(&ranges(PRIVILEGED));
        if !low.is_empty() {
            return refuse(
                "ephemeral_ports",
                low,
                "privileged ports",
                "let them begin at 1024 or above",
            );
        }
        let longest = pool.ephemeral.ranges().iter().map(|range| range.count()).max();
        if longest.is_some_and(|longest| longest < pool.ephemeral_per_container) {
            let message = format!(
                "--ephemeral_ports_per_container: {} ports in a row are in none of the ranges {}",
                pool.ephemeral_per_container, pool.ephemeral
            );
            let fault = Fault::invalid("ephemeral_ports_per_container", message);
            return Err(
                fault.remedy("lower it, or give longer ranges: --resources='ephemeral_ports:[FIRST-LAST]'")
            );
        }
        Ok(())
    }
}

fn ranges(text: &str) -> PortRanges {
    text.parse().unwrap_or_default()
}

/// What is left of the defaults where the host has changed its own.
fn by_default(host: &PortRanges) -> PortPool {
    let apart = |text: &str| {
        let wanted = ranges(text);
        match wanted.overlaps(host) {
            true => {
                tracing::warn!(ports = %wanted, %host, "the host connects from these ports: containers get none of them; see --resources");
                PortRanges::default()
            }
            false => wanted,
        }
    };
    PortPool {
        allotted: apart(ALLOTTED),
        ephemeral: apart(EPHEMERAL),
        ephemeral_per_container: PER_CONTAINER,
        // Four would be few for containers that do well with the host's.
        ephemeral_in_host: false,
    }
}

fn given(text: &str) -> Result<PortPool, Fault> {
    let wrong = |message: String| Fault::invalid("resources", format!("--resources: {message}"));
    let resources: Resources = text.parse().map_err(|error| wrong(format!("{error}")))?;
    let mut pool = PortPool::default();
    for resource in &resources {
        let place = match resource.name.as_str() {
            "ports" => &mut pool.allotted,
            "ephemeral_ports" => &mut pool.ephemeral,
            other => {
                let fault = wrong(format!(
                    "{other} is not for an agent to say: it gives what the host has"
                ));
                return Err(fault.remedy("leave it out; known are ports and ephemeral_ports"));
            }
        };
        if resource.role().is_some() {
            let fault = wrong(format!("{} for a role: this agent knows no roles", resource.name));
            return Err(fault.remedy("leave the role out"));
        }
        let Amount::Ranges(ranges) = &resource.amount else {
            return Err(wrong(format!("{} are not ranges of ports", resource.name)));
        };
        let ports =
            PortRanges::try_from(ranges).map_err(|error| wrong(format!("{}: {error}", resource.name)))?;
        *place = place.plus(&ports);
    }
    pool.ephemeral_in_host = !pool.ephemeral.is_empty();
    Ok(pool)
}

/// Where the host's own connections come from.
pub fn host_ports() -> Result<PortRanges, Fault> {
    let (first, last) = kernel::system::local_port_range()
        .map_err(|error| Fault::failed(format!("read the host's ip_local_port_range: {error}")))?;
    let reserved = kernel::system::reserved_ports()
        .map_err(|error| Fault::failed(format!("read the host's ip_local_reserved_ports: {error}")))?;
    let range = PortRange::new(first, last)
        .map(PortRanges::from)
        .unwrap_or_default();
    Ok(range.minus(&reserved))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(resources: Option<&str>, per_container: u16) -> PortFlags {
        PortFlags {
            resources: resources.map(str::to_owned),
            ephemeral_ports_per_container: per_container,
            uplinks: Vec::new(),
        }
    }

    fn pool(resources: &str, host: &str) -> Result<PortPool, Fault> {
        flags(Some(resources), 1024).pool(&ranges(host))
    }

    #[test]
    fn mesos_own_flag_makes_the_pools() {
        let text = "ports:[31000-32000,33000-33010];ephemeral_ports:[40000-50000]";
        let pool = pool(text, "50001-60999").unwrap();
        assert_eq!(pool.allotted.mesos(), "[31000-32000,33000-33010]");
        assert_eq!(pool.ephemeral.to_string(), "40000-50000");
        assert!(pool.ephemeral_in_host);
    }

    #[test]
    fn what_is_the_hosts_is_refused_with_the_remedy_and_defaults_give_way() {
        let fault = pool("ports:[31000-33000]", "32768-60999")
            .unwrap_err()
            .to_string();
        for part in [
            "ports 32768-33000",
            "ip_local_port_range",
            "sysctl -w",
            "ip_local_reserved_ports=32768-33000",
        ] {
            assert!(fault.contains(part), "{fault}");
        }
        // What the host keeps back may be given away.
        assert!(pool("ephemeral_ports:[32768-57344]", "57345-60999").is_ok());
        let usual = flags(None, 1024).pool(&ranges("32768-60999")).unwrap();
        assert_eq!((usual.allotted.count(), usual.ephemeral.count()), (1001, 4096));
        assert!(!usual.ephemeral_in_host);
        let crowded = flags(None, 1024).pool(&ranges("1024-65535")).unwrap();
        assert!(crowded.allotted.is_empty() && crowded.ephemeral.is_empty());
    }

    #[test]
    fn pools_that_can_not_be_are_refused() {
        for (text, part) in [
            (
                "ports:[5000-6000];ephemeral_ports:[5500-9000]",
                "among ephemeral_ports too",
            ),
            ("ephemeral_ports:[1000-9000]", "privileged"),
            ("ephemeral_ports:[5000-5100]", "in a row"),
            ("ports:[0-10]", "0-10"),
            ("ports:[60999-70000]", "70000"),
            ("ports:4", "ranges"),
            ("cpus:4;ports:[5000-6000]", "cpus is not for an agent"),
            ("ports(web):[5000-6000]", "roles"),
            ("ports", "is no resource"),
        ] {
            let fault = pool(text, "").unwrap_err().to_string();
            assert!(fault.contains(part), "{text}: {fault}");
        }
    }
}
