//! What this host has for a master's tasks: as given by flag, else as Mesos' agent reckons.

use std::collections::BTreeSet;

use model::Fault;
use model::registry::AgentRecord;
use model::resources::{Amount, Ranges, Resource, Resources};

use crate::launch::failed;
use crate::shell::Shell;

/// Kept for the system, of a host with twice as much; else half.
const MEMORY_FOR_SYSTEM_MB: u64 = 1024;
const DISK_FOR_SYSTEM_MB: u64 = 5 * 1024;

pub fn record(shell: &Shell) -> Result<AgentRecord, Fault> {
    let flags = &shell.config.cluster;
    let hostname = flags.hostname.clone().unwrap_or_else(kernel::system::host_name);
    let address = match *shell.http_address.borrow() {
        Some(address) => address.to_string(),
        None => format!("{hostname}:0"),
    };
    Ok(AgentRecord {
        hostname,
        address,
        resources: resources(shell)?,
        attributes: flags.attributes.clone().unwrap_or_default(),
        version: crate::about::VERSION.to_owned(),
        capabilities: BTreeSet::from(["AGENT_DRAINING", "TASK_RESOURCE_LIMITS"].map(str::to_owned)),
    })
}

fn resources(shell: &Shell) -> Result<Resources, Fault> {
    let given = match &shell.config.ports.resources {
        Some(text) => text
            .parse::<Resources>()
            .map_err(|error| Fault::invalid("resources", format!("--resources: {error}")))?,
        None => Resources::default(),
    };
    let mut all = given.filter(|resource| resource.name != "ephemeral_ports");
    let mut add = |name: &str, milli: u64| {
        if !all.iter().any(|resource| resource.name == name) {
            all.add(Resource::scalar(name, milli));
        }
    };
    add("cpus", u64::from(shell.host.cpus) * 1000);
    add(
        "mem",
        share(shell.host.memory.get() >> 20, MEMORY_FOR_SYSTEM_MB) * 1000,
    );
    let work = shell.directories.work();
    let disk = kernel::directory::file_system_use(work)
        .map_err(|errno| Fault::failed(format!("look at the disk of {}: {errno}", work.display())))?;
    add("disk", share(disk.bytes >> 20, DISK_FOR_SYSTEM_MB) * 1000);
    if !all.iter().any(|resource| resource.name == "ports") {
        let core = shell.core();
        let pool = core.port_pool().allotted.ranges().iter();
        let ranges = pool.map(|range| (u64::from(range.first()), u64::from(range.last())));
        if let Some(ranges) = Ranges::new(ranges) {
            all.add(Resource::new("ports", Amount::Ranges(ranges)));
        }
    }
    all.check().map_err(|error| failed(&error).field("resources"))?;
    Ok(all)
}

fn share(total: u64, system: u64) -> u64 {
    if total > 2 * system {
        total - system
    } else {
        total / 2
    }
}
