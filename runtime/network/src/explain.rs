//! "What would happen to a packet like this?", answered from the maps that the programs read.

use std::net::IpAddr;

use bpf::DropReason;
use model::ContainerId;

use crate::book::{Book, Member};
use crate::datapath::{Datapath, programs};
use crate::host_network::HostNetwork;
use crate::{Explanation, NetworkError, Origin, PacketQuestion, Transport, Verdict};

impl Datapath {
    /// Follows a packet through the programs' decisions, with the maps as they are now; where the maps and the agent's
    /// own account differ, a step says so.
    pub fn explain(&self, question: &PacketQuestion) -> Result<Explanation, NetworkError> {
        let guard = self.lock();
        let owners = self
            .steering
            .owners()
            .map_err(programs("read the owners of ports"))?;
        let mut walk = Walk {
            host: &guard.host,
            book: &guard.book,
            owners,
            steps: Vec::new(),
        };
        let verdict = match &question.from {
            Origin::Outside => walk.sent_outside(question),
            Origin::Host => walk.sent_by_host(question),
            Origin::Container(id) => {
                let member = guard.book.members().get(id);
                let member = member.ok_or_else(|| NetworkError::NotAttached(id.clone()))?;
                walk.sent_by_container(question, id, member)
            }
        };
        let mut steps = walk.steps;
        if let Verdict::Container(id) = &verdict
            && let Some(member) = guard.book.members().get(id)
        {
            let slot = self
                .steering
                .slot(member.slot)
                .map_err(programs("read the places of containers"))?;
            steps.push(delivery(id, member, &slot));
        }
        Ok(Explanation { verdict, steps })
    }
}

fn delivery(id: &ContainerId, member: &Member, slot: &bpf::Slot) -> String {
    if slot.ifindex != member.ifindex {
        return format!(
            "place {} of {id} has interface {} in the maps, not {}: a restart of the agent repairs it",
            member.slot, slot.ifindex, member.ifindex
        );
    }
    let queued = slot.flags & bpf::layout::SLOT_INGRESS_QUEUE != 0;
    let way = match queued {
        true => "through the queue of its ingress ceiling",
        false => "straight to its eth0",
    };
    format!("delivered by {} {way}", member.interface)
}

struct Walk<'a> {
    host: &'a HostNetwork,
    book: &'a Book,
    owners: Vec<u32>,
    steps: Vec<String>,
}

impl Walk<'_> {
    fn say(&mut self, step: impl Into<String>) {
        self.steps.push(step.into());
    }

    fn is_shared(&self, address: Option<IpAddr>) -> bool {
        address.is_none_or(|address| self.host.shared().contains(&address))
    }

    fn owner_of(&mut self, port: u16) -> Option<ContainerId> {
        let slot = self.owners.get(usize::from(port)).copied().unwrap_or_default();
        if slot == 0 {
            self.say(format!("port {port} belongs to no container: to the host"));
            return None;
        }
        match self.book.by_slot(slot) {
            Some((id, _)) => {
                let id = id.clone();
                self.say(format!("port {port} belongs to container {id} (place {slot})"));
                Some(id)
            }
            None => {
                self.say(format!(
                    "port {port} belongs to place {slot}, which no known container has"
                ));
                None
            }
        }
    }

    fn at_shared(&mut self, question: &PacketQuestion) -> Verdict {
        if question.transport == Transport::Icmp && question.destination_port == 0 {
            self.say("an echo request is answered by the host");
            return Verdict::Host;
        }
        self.owner_of(question.destination_port)
            .map_or(Verdict::Host, Verdict::Container)
    }

    fn sent_outside(&mut self, question: &PacketQuestion) -> Verdict {
        if !self.is_shared(question.destination) {
            self.say("not to an address that containers share: the host's own stack decides");
            return Verdict::Host;
        }
        self.at_shared(question)
    }

    fn sent_by_host(&mut self, question: &PacketQuestion) -> Verdict {
        if self.is_shared(question.destination) {
            return self.at_shared(question);
        }
        self.say("not to an address that containers share: by the host's own routes");
        self.leave(question.destination)
    }

    fn refuse(&mut self, reason: DropReason, why: String) -> Verdict {
        self.say(why);
        Verdict::Dropped(reason.name())
    }

    fn sent_by_container(&mut self, question: &PacketQuestion, id: &ContainerId, member: &Member) -> Verdict {
        if let Some(port) = question.source_port {
            let slot = self.owners.get(usize::from(port)).copied().unwrap_or_default();
            if slot != member.slot {
                let why = format!("source port {port} is not one of container {id}'s");
                return self.refuse(DropReason::SourcePort, why);
            }
            self.say(format!("source port {port} is one of container {id}'s"));
        }
        if let Some(to) = question.destination {
            let many = to.is_multicast() || to == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
            if many {
                return self.refuse(
                    DropReason::Multicast,
                    "a container speaks to no group and to no broadcast address".to_owned(),
                );
            }
            if to.is_loopback() {
                self.say("stays on the container's own loopback");
                return Verdict::Container(id.clone());
            }
        }
        if !self.is_shared(question.destination) {
            return self.leave(question.destination);
        }
        self.at_shared(question)
    }

    fn leave(&mut self, destination: Option<IpAddr>) -> Verdict {
        if destination.is_some_and(|to| self.host.others.contains(&to)) {
            self.say("another address of the host");
            return Verdict::Host;
        }
        let v4 = destination.is_none_or(|to| to.is_ipv4());
        let uplink = self
            .host
            .uplinks
            .iter()
            .find(|uplink| uplink.addresses.iter().any(|address| address.is_ipv4() == v4));
        match uplink {
            Some(uplink) => {
                let name = uplink.name.clone();
                self.say(format!(
                    "leaves by {name}, the uplink of the address that it comes from"
                ));
                Verdict::Uplink(name)
            }
            None => self.refuse(
                DropReason::SourceAddress,
                "the host has no address of this family".to_owned(),
            ),
        }
    }
}
