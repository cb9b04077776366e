//! Whether all that steers packets is where it was put: the kernel is asked, nothing is changed.

use std::collections::BTreeMap;

use bpf::Entry;
use kernel::netlink::Link;

use crate::NetworkError;
use crate::datapath::{Datapath, netlink};
use crate::inside::LOOPBACK;

/// One part of the data path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub part: String,
    /// How it is.
    pub state: String,
    /// What is wrong, and what to do about it; empty: nothing.
    pub trouble: String,
}

/// Pins without which a later agent would begin anew.
const PINNED: [&str; 9] = [
    "ports",
    "slots",
    "by_ifindex",
    "counters",
    "host",
    "addresses",
    "fragments",
    "echoes",
    "stages",
];

impl Datapath {
    pub fn health(&self) -> Result<Vec<Health>, NetworkError> {
        let mut guard = self.lock();
        let links = guard
            .socket
            .links()
            .map_err(netlink("list the host's interfaces"))?;
        let by_index: BTreeMap<u32, &Link> = links.iter().map(|link| (link.index, link)).collect();
        let mut found = vec![self.pins()];
        for uplink in &guard.host.uplinks {
            let mut health = self.interface("uplink", Entry::Uplink, uplink.index, &uplink.name);
            if !by_index.get(&uplink.index).is_some_and(|link| link.up) {
                health.trouble = format!("it is down: set it up (ip link set {} up)", uplink.name);
            }
            let addresses: Vec<String> = uplink.addresses.iter().map(ToString::to_string).collect();
            if !addresses.is_empty() {
                health.state = format!("{}, {}", addresses.join(" "), health.state);
            }
            if let Some(shares) = &self.shares {
                match shares.health(uplink) {
                    Ok(state) => health.state = format!("{}, {state}", health.state),
                    Err(trouble) if health.trouble.is_empty() => health.trouble = trouble,
                    Err(_) => {}
                }
            }
            found.push(health);
        }
        found.push(self.interface("loopback", Entry::HostLoopback, LOOPBACK, "lo"));
        let members = guard.book.members();
        let mut troubles = Vec::new();
        for (id, member) in members {
            let interface = &member.interface;
            let anew = "kill the container and start it anew".to_owned();
            let (what, remedy) = match by_index.get(&member.ifindex) {
                None => ("is gone", anew),
                Some(link) if link.name != *interface => ("has another name", anew),
                Some(link) if !link.up => ("is down", format!("set it up (ip link set {interface} up)")),
                Some(_) if !self.steering.is_attached(Entry::Veth, member.ifindex) => {
                    ("has lost its program", anew)
                }
                Some(_) => continue,
            };
            troubles.push(format!(
                "interface {interface} of container {id} {what}: {remedy}"
            ));
        }
        let trouble = match troubles.first() {
            None => String::new(),
            Some(first) => format!(
                "{first}{}",
                match troubles.len() {
                    1 => String::new(),
                    more => format!(" (and {} more)", more - 1),
                }
            ),
        };
        found.push(Health {
            part: "containers".to_owned(),
            state: match members.len() {
                1 => "1 connected".to_owned(),
                many => format!("{many} connected"),
            },
            trouble,
        });
        Ok(found)
    }

    fn interface(&self, kind: &str, entry: Entry, ifindex: u32, name: &str) -> Health {
        let attached = self.steering.is_attached(entry, ifindex);
        let way = match self.steering.is_filter_at(entry, ifindex) {
            true => "steered by a filter of clsact",
            false => "steered by a link of tcx",
        };
        Health {
            part: format!("{kind} {name}"),
            state: way.to_owned(),
            trouble: match attached {
                true => String::new(),
                false => "its program was detached: the agent attaches it again when it looks next (--sample-interval)"
                    .to_owned(),
            },
        }
    }

    fn pins(&self) -> Health {
        let directory = self.steering.directory();
        let missing: Vec<&str> = PINNED
            .into_iter()
            .filter(|name| !directory.join(name).exists())
            .collect();
        Health {
            part: "pins".to_owned(),
            state: format!(
                "{} maps below {}",
                PINNED.len() - missing.len(),
                directory.display()
            ),
            trouble: match missing.as_slice() {
                [] => String::new(),
                names => format!(
                    "{} not pinned below {} any more: traffic goes on as it is; restart the agent while its containers \
                     run, it makes them anew",
                    match names {
                        [one] => format!("map {one} is"),
                        many => format!("maps {} are", many.join(", ")),
                    },
                    directory.display()
                ),
            },
        }
    }
}
