//! What the data path does with shares of its uplinks: `shares.rs` holds them.

use std::os::fd::AsFd;
use std::path::Path;

use model::{Bandwidth, ContainerId, Fault, FaultKind};

use crate::datapath::{Datapath, State, programs};
use crate::host_network::{HostNetwork, Uplink};
use crate::roots::remove_but;
use crate::shaper::{Mechanism, Shaper};
use crate::shares::{Mark, Shares, program_failed};
use crate::{Config, KnownGroup, NetworkError};

const INGRESS_GUARANTEE: &str = "what comes in queues at the other end of the line, so nobody here can guarantee a part of it; \
                                 limit what others receive (--ingress)";
const NOT_SHARED_OUT: &str = "guarantees and weights need a discipline on the uplink, and this agent leaves uplinks as they \
                              are; start it with --uplink_rate, or give ceilings that together fit the uplink";

/// With the causes, for the log.
pub(crate) fn told(error: &NetworkError) -> Fault {
    Fault::from_error(FaultKind::Failed, error)
}

/// At the data path's start: the discipline at all uplinks, and nothing of an earlier agent's, which had other flags. What can't be
/// done about an uplink now keeps no container from being taken over: it is tried again at every look.
pub(crate) fn settle_for(
    config: &Config,
    pins: &Path,
    shaper: &Shaper,
    host: &HostNetwork,
) -> Result<Option<Shares>, NetworkError> {
    let Some(rate) = config.uplink_rate else {
        give_back(&config.instance, &[]);
        return Ok(None);
    };
    give_back(&config.instance, &host.uplinks);
    let can_cut = *shaper.mechanism() == Mechanism::Htb;
    let shares = Shares::open(pins, &config.instance, rate, can_cut)?;
    if let Err(error) = shares.install(&host.uplinks) {
        tracing::warn!("not all uplinks are shared out: {}", told(&error));
    }
    Ok(Some(shares))
}

fn give_back(instance: &str, kept: &[Uplink]) {
    if let Err(error) = remove_but(instance, kept) {
        tracing::warn!(
            "an interface that is no uplink is shared out still: {}",
            told(&error)
        );
    }
}

impl Datapath {
    /// Whether `bandwidth` can be enforced at all.
    pub(crate) fn check(&self, id: &ContainerId, bandwidth: &Bandwidth) -> Result<(), NetworkError> {
        self.shaper.check(id, bandwidth)?;
        let unenforceable = |reason: &str| {
            Err(NetworkError::Unenforceable {
                id: id.clone(),
                reason: reason.to_owned(),
            })
        };
        if bandwidth.ingress_min.is_some() {
            return unenforceable(INGRESS_GUARANTEE);
        }
        match &self.shares {
            Some(shares) => shares.check(id, bandwidth),
            None if bandwidth.egress_min.is_some() || bandwidth.weight.is_some() => {
                unenforceable(NOT_SHARED_OUT)
            }
            None => Ok(()),
        }
    }

    pub(crate) fn share_mapped(
        &self,
        host: &HostNetwork,
        id: &ContainerId,
        slot: u32,
        bandwidth: &Bandwidth,
    ) -> Result<(), NetworkError> {
        match &self.shares {
            Some(shares) => shares.hold(&host.uplinks, id, Mark::Slot(slot), bandwidth),
            None => Ok(()),
        }
    }

    /// What a container had before, though it may not fit any more.
    pub(crate) fn share_as_before(
        &self,
        host: &HostNetwork,
        id: &ContainerId,
        slot: u32,
        bandwidth: &Bandwidth,
    ) -> Result<(), NetworkError> {
        match &self.shares {
            Some(shares) => shares.keep(&host.uplinks, id, Mark::Slot(slot), bandwidth),
            None => Ok(()),
        }
    }

    /// Of a container that an earlier agent has attached: that one may not have shared uplinks out, or this one does not.
    pub(crate) fn share_again(
        &self,
        guard: &State,
        id: &ContainerId,
        slot: u32,
        bandwidth: &Bandwidth,
    ) -> Result<(), NetworkError> {
        let wrong = || programs(format!("mark the packets of container {id}"));
        let mut known = self.steering.slot(slot).map_err(wrong())?;
        let class_major = self.shares.as_ref().map_or(0, Shares::major);
        if known.class_major != class_major {
            known.class_major = class_major;
            self.steering.set_slot(slot, &known).map_err(wrong())?;
        }
        self.share_as_before(&guard.host, id, slot, bandwidth)
    }

    pub(crate) fn unshare(&self, host: &HostNetwork, id: &ContainerId) -> Result<(), NetworkError> {
        match &self.shares {
            Some(shares) => shares.release(&host.uplinks, id),
            None => Ok(()),
        }
    }

    /// Uplinks come and go, and somebody may have removed a discipline.
    pub(crate) fn share_uplinks(&self, before: &HostNetwork, now: &HostNetwork) -> Result<(), NetworkError> {
        let Some(shares) = &self.shares else {
            return Ok(());
        };
        let stays = |uplink: &Uplink| now.uplinks.iter().any(|one| one.index == uplink.index);
        let left = match before.uplinks.iter().all(stays) {
            true => Ok(()),
            false => remove_but(&self.config.instance, &now.uplinks),
        };
        left.and(shares.install(&now.uplinks))
    }

    /// Gives a container in the host's network its share of the uplinks, or changes it. Nothing where none is shared out.
    pub fn share_group(
        &self,
        id: &ContainerId,
        group: impl AsFd,
        bandwidth: &Bandwidth,
    ) -> Result<(), NetworkError> {
        self.check(id, bandwidth)?;
        let Some(shares) = &self.shares else {
            return Ok(());
        };
        let number = bpf::uplink::group_number(group.as_fd()).map_err(program_failed)?;
        shares.hold(&self.lock().host.uplinks, id, Mark::Group(number), bandwidth)
    }

    /// After [`adopt`](Self::adopt): the shares of containers in the host's network; what nobody has is removed. They run and were
    /// promised what they have, so what fails is told in the log, and done again at the next look where it can be.
    pub fn adopt_groups(&self, known: &[KnownGroup]) {
        let Some(shares) = &self.shares else {
            return;
        };
        let guard = self.lock();
        let uplinks = &guard.host.uplinks;
        for KnownGroup { id, group, bandwidth } in known {
            let shared = bpf::uplink::group_number(group.as_fd())
                .map_err(program_failed)
                .and_then(|number| shares.keep(uplinks, id, Mark::Group(number), bandwidth));
            if let Err(error) = shared {
                tracing::error!(container = %id, "its share of the uplinks is not complete: {}", told(&error));
            }
        }
        if let Err(error) = shares.settle(uplinks) {
            tracing::warn!("remove shares of the uplinks that nobody has: {}", told(&error));
        }
        for uplink in uplinks {
            if let Err(trouble) = shares.health(uplink) {
                tracing::warn!(uplink = uplink.name, "{trouble}");
            }
        }
    }
}
