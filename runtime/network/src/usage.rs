//! What each container has moved and what was refused to it: one pass over the counters for all.

use std::collections::{BTreeMap, HashMap};

use bpf::{Counters, DropReason};
use model::{ContainerId, NetworkUsage, Traffic};

use crate::NetworkError;
use crate::datapath::{Datapath, programs};
use crate::shaper::LimitedLink;

impl Datapath {
    pub fn usage_all(&self) -> Result<HashMap<ContainerId, NetworkUsage>, NetworkError> {
        let limited = self.shaper.usage()?;
        let state = self.lock();
        let counters = self
            .steering
            .counters(state.book.slots_end())
            .map_err(programs("read the network's counters"))?;
        let members = state.book.members().iter();
        let mut usages = members
            .filter_map(|(id, member)| {
                let counted = counters.get(member.slot as usize)?;
                let usage = usage(counted, limited.get(&member.slot));
                Some((id.clone(), usage))
            })
            .collect();
        drop(state);
        self.stacks.complete(&mut usages);
        Ok(usages)
    }

    /// What was refused to no container in particular, by reason.
    pub fn unattributed_drops(&self) -> Result<BTreeMap<String, u64>, NetworkError> {
        let counters = self
            .steering
            .counters(1)
            .map_err(programs("read the network's counters"))?;
        Ok(counters.first().map(drops).unwrap_or_default())
    }
}

fn drops(counted: &Counters) -> BTreeMap<String, u64> {
    DropReason::ALL
        .into_iter()
        .map(|reason| (reason.name().to_owned(), counted.drops[reason as usize]))
        .filter(|(_, count)| *count > 0)
        .collect()
}

fn usage(counted: &Counters, limited: Option<&LimitedLink>) -> NetworkUsage {
    let refused = |ingress: bool| -> u64 {
        let reasons = DropReason::ALL
            .into_iter()
            .filter(|reason| reason.is_ingress() == ingress);
        reasons.map(|reason| counted.drops[reason as usize]).sum()
    };
    let limited = limited.copied().unwrap_or_default();
    NetworkUsage {
        rx: Traffic {
            bytes: counted.rx_bytes,
            packets: counted.rx_packets,
            // The container's stack tells.
            errors: None,
            dropped: refused(true) + limited.ingress.map_or(0, |one| one.dropped_packets),
            limited_bytes: limited.ingress.map(|one| one.limited_bytes),
            queue_delay_micros: limited.ingress.map(|one| one.queue_delay_micros),
        },
        tx: Traffic {
            bytes: counted.tx_bytes,
            packets: counted.tx_packets,
            errors: Some(counted.drops[DropReason::Malformed as usize]),
            dropped: refused(false) + limited.egress.map_or(0, |one| one.dropped_packets),
            limited_bytes: limited.egress.map(|one| one.limited_bytes),
            queue_delay_micros: limited.egress.map(|one| one.queue_delay_micros),
        },
        drops: drops(counted),
        ..NetworkUsage::default()
    }
}
