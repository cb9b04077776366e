//! Uplinks shared out between containers: who gets how much of one that is full.
//!
//! Only where the operator has told the agent the rate of its uplinks ([`crate::Config::uplink_rate`]): then their root
//! discipline is the agent's (`shares_plan.rs`), as long as what was there is the kernel's own, which comes back by itself when
//! ours is removed. One that somebody has put there is never replaced. What waits has to wait here and not behind, so the rate
//! is to be what the line really carries.
//!
//! State lives in the kernel, across restarts of the agent; every call is idempotent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bpf::uplink::UplinkProgram;
use kernel::Errno;
use kernel::netlink::traffic::{Change, TrafficControl};
use kernel::netlink::{NetlinkError, RootDiscipline};
use model::{Bandwidth, BitsPerSecond, ContainerId};

use crate::NetworkError;
use crate::host_network::Uplink;
use crate::shares_plan::{
    FIRST_HOST_NETWORK_MINOR, HOST_MINOR, LAST_HOST_NETWORK_MINOR, Line, Share, UPLINK_MINOR,
    WEIGHT_OF_A_CPU, guaranteeable, major,
};

const CHANGES_AT_ONCE: usize = 64;

/// By what a container's packets are known at the uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Steering marks them: its slot.
    Slot(u32),
    /// The number of its v2 group.
    Group(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holder {
    minor: u16,
    group: Option<u64>,
    share: Share,
}

#[derive(Debug)]
pub struct Shares {
    /// Bytes a second.
    rate: u64,
    major: u16,
    can_cut: bool,
    program: UplinkProgram,
    holders: Mutex<BTreeMap<ContainerId, Holder>>,
}

impl Shares {
    /// Takes over the map that is pinned in the directory.
    pub fn open(
        pins: &Path,
        instance: &str,
        rate: BitsPerSecond,
        can_cut: bool,
    ) -> Result<Self, NetworkError> {
        let program = UplinkProgram::load(pins).map_err(|source| NetworkError::Bandwidth {
            operation: "load the program that shares uplinks out".to_owned(),
            source: Box::new(source),
        })?;
        Ok(Self {
            rate: rate.0 / 8,
            major: major(instance),
            can_cut,
            program,
            holders: Mutex::default(),
        })
    }

    /// What marks packets for the classes of this instance.
    pub fn major(&self) -> u16 {
        self.major
    }

    pub fn rate(&self) -> BitsPerSecond {
        BitsPerSecond(self.rate * 8)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Holder>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, uplink: &Uplink) -> Line {
        Line {
            rate: self.rate,
            major: self.major,
            mtu: uplink.mtu,
            can_cut: self.can_cut,
        }
    }

    /// Whether a guarantee could ever be kept.
    pub fn check(&self, id: &ContainerId, bandwidth: &Bandwidth) -> Result<(), NetworkError> {
        let asked = Share::of(bandwidth).guarantee;
        match asked > guaranteeable(self.rate) {
            true => Err(self.oversold(id, asked, 0)),
            false => Ok(()),
        }
    }

    fn oversold(&self, id: &ContainerId, asked: u64, given: u64) -> NetworkError {
        NetworkError::Oversold {
            id: id.clone(),
            asked: BitsPerSecond(asked * 8),
            given: BitsPerSecond(given * 8),
            rate: self.rate(),
        }
    }

    /// Puts the discipline at every uplink that has none yet, with the classes of all.
    pub fn install(&self, uplinks: &[Uplink]) -> Result<(), NetworkError> {
        let holders = self.lock();
        let least = least(&holders);
        for uplink in uplinks {
            let traffic = open(&uplink.name)?;
            if self.is_at(&traffic, uplink)? {
                continue;
            }
            let line = self.line(uplink);
            let mut changes = line.root(least);
            for holder in holders.values() {
                changes.extend(line.member(holder.minor, holder.share, least));
            }
            changes.push(self.sorter(&line));
            change(&traffic, uplink, &changes)?;
        }
        Ok(())
    }

    /// What a successor does with disciplines that are there: its rate and its program may be others.
    pub fn renew(&self, uplinks: &[Uplink]) -> Result<(), NetworkError> {
        self.install(uplinks)?;
        let least = least(&self.lock());
        for uplink in uplinks {
            let line = self.line(uplink);
            let mut changes = line.root(least);
            changes.push(self.sorter(&line));
            let traffic = open(&uplink.name)?;
            change(&traffic, uplink, &changes)?;
        }
        Ok(())
    }

    fn sorter(&self, line: &Line) -> Change<'_> {
        Change::Sorter {
            parent: line.handle(0),
            program: self.program.program(),
            name: "bulkhead",
        }
    }

    /// False: the uplink has what the kernel has given it.
    fn is_at(&self, traffic: &TrafficControl, uplink: &Uplink) -> Result<bool, NetworkError> {
        match traffic.root(uplink.index).map_err(failed(uplink))? {
            None => Ok(false),
            Some(root) if is_ours(&root, self.major) => Ok(true),
            Some(root) => Err(NetworkError::ForeignDiscipline {
                uplink: uplink.name.clone(),
                kind: root.kind,
            }),
        }
    }

    /// Gives a container its share of all uplinks, or changes it. An error leaves what was before.
    pub fn hold(
        &self,
        uplinks: &[Uplink],
        id: &ContainerId,
        mark: Mark,
        bandwidth: &Bandwidth,
    ) -> Result<(), NetworkError> {
        let share = Share::of(bandwidth);
        let mut holders = self.lock();
        let others = holders.iter().filter(|(other, _)| *other != id);
        let given: u64 = others.map(|(_, holder)| holder.share.guarantee).sum();
        if share.guarantee > 0 && given + share.guarantee > guaranteeable(self.rate) {
            return Err(self.oversold(id, share.guarantee, given));
        }
        let before = holders.get(id).copied();
        let (minor, group) = match (mark, before) {
            (Mark::Slot(slot), _) => (u16::try_from(slot).unwrap_or(HOST_MINOR), None),
            (Mark::Group(group), Some(holder)) => (holder.minor, Some(group)),
            (Mark::Group(group), None) => (self.free_minor(&holders, group)?, Some(group)),
        };
        let old_least = least(&holders);
        holders.insert(id.clone(), Holder { minor, group, share });
        let put = self.put(uplinks, &holders, id, old_least);
        if put.is_err() {
            self.undo(uplinks, &mut holders, id, before);
        }
        put
    }

    /// What a `hold` that failed has made. Its own error is the one that is told.
    fn undo(
        &self,
        uplinks: &[Uplink],
        holders: &mut BTreeMap<ContainerId, Holder>,
        id: &ContainerId,
        before: Option<Holder>,
    ) {
        let failed_one = holders.remove(id);
        let undone = match (before, failed_one) {
            (Some(before), _) => {
                holders.insert(id.clone(), before);
                self.put(uplinks, holders, id, 0)
            }
            (None, Some(holder)) => self.take_away(uplinks, &holder),
            (None, None) => Ok(()),
        };
        if let Err(error) = undone {
            tracing::debug!(container = %id, %error, "undo a share of the uplink");
        }
    }

    /// Writes one container's class; all the others' too where the smallest weight is another one now.
    fn put(
        &self,
        uplinks: &[Uplink],
        holders: &BTreeMap<ContainerId, Holder>,
        id: &ContainerId,
        old_least: u32,
    ) -> Result<(), NetworkError> {
        let least = least(holders);
        for uplink in uplinks {
            let line = self.line(uplink);
            let mut changes = Vec::new();
            if let Some(holder) = holders.get(id) {
                changes.extend(line.member(holder.minor, holder.share, least));
            }
            if least != old_least {
                changes.push(line.class(HOST_MINOR, Share::HOST, least));
                let others = holders.iter().filter(|(other, _)| *other != id);
                changes.extend(others.map(|(_, other)| line.class(other.minor, other.share, least)));
            }
            if !changes.is_empty() {
                let traffic = open(&uplink.name)?;
                change(&traffic, uplink, &changes)?;
            }
        }
        match holders.get(id) {
            Some(Holder {
                group: Some(group),
                minor,
                ..
            }) => self.program.set(*group, *minor).map_err(program_failed),
            _ => Ok(()),
        }
    }

    fn free_minor(&self, holders: &BTreeMap<ContainerId, Holder>, group: u64) -> Result<u16, NetworkError> {
        let known = self.program.groups();
        if let Some(minor) = known.get(&group) {
            return Ok(*minor);
        }
        let taken: BTreeSet<u16> = holders
            .values()
            .map(|holder| holder.minor)
            .chain(known.into_values())
            .collect();
        let mut all = FIRST_HOST_NETWORK_MINOR..=LAST_HOST_NETWORK_MINOR;
        all.find(|minor| !taken.contains(minor))
            .ok_or(NetworkError::Full(u32::from(
                LAST_HOST_NETWORK_MINOR - FIRST_HOST_NETWORK_MINOR,
            )))
    }

    /// Who has none is no error.
    pub fn release(&self, uplinks: &[Uplink], id: &ContainerId) -> Result<(), NetworkError> {
        let mut holders = self.lock();
        let old_least = least(&holders);
        let Some(holder) = holders.remove(id) else {
            return Ok(());
        };
        self.take_away(uplinks, &holder)?;
        self.put(uplinks, &holders, id, old_least)
    }

    fn take_away(&self, uplinks: &[Uplink], holder: &Holder) -> Result<(), NetworkError> {
        if let Some(group) = holder.group {
            self.program.remove(group).map_err(program_failed)?;
        }
        for uplink in uplinks {
            let gone = Change::RemoveClass(self.line(uplink).handle(holder.minor));
            let removed = open(&uplink.name)?.change(uplink.index, &[gone]);
            match removed {
                // The discipline itself, or the uplink, is gone.
                Err(error) if matches!(error.errno(), Some(Errno::EINVAL | Errno::ENODEV)) => {}
                other => other.map_err(failed(uplink))?,
            }
        }
        Ok(())
    }

    /// After all containers of an earlier agent are known: what nobody holds goes.
    pub fn settle(&self, uplinks: &[Uplink]) -> Result<(), NetworkError> {
        let holders = self.lock();
        let mut kept: BTreeSet<u16> = holders.values().map(|holder| holder.minor).collect();
        kept.extend([HOST_MINOR, UPLINK_MINOR]);
        let groups: BTreeSet<u64> = holders.values().filter_map(|holder| holder.group).collect();
        for group in self.program.groups().into_keys() {
            if !groups.contains(&group) {
                self.program.remove(group).map_err(program_failed)?;
            }
        }
        for uplink in uplinks {
            let traffic = open(&uplink.name)?;
            let classes = traffic.classes(uplink.index).map_err(failed(uplink))?;
            let of_nobody = classes.iter().filter_map(|class| {
                let (major, minor) = ((class.handle >> 16) as u16, class.handle as u16);
                (major == self.major && !kept.contains(&minor)).then_some(minor)
            });
            let line = self.line(uplink);
            let changes: Vec<Change<'_>> = of_nobody
                .map(|minor| Change::RemoveClass(line.handle(minor)))
                .collect();
            if !changes.is_empty() {
                change(&traffic, uplink, &changes)?;
            }
        }
        Ok(())
    }

    /// How an uplink is, in words; `Err`: what is wrong.
    pub fn health(&self, uplink: &Uplink) -> Result<String, String> {
        let root = open(&uplink.name).and_then(|traffic| traffic.root(uplink.index).map_err(failed(uplink)));
        match root {
            Ok(Some(root)) if is_ours(&root, self.major) => {
                Ok(format!("shared out at {} by htb", self.rate()))
            }
            Ok(None) => {
                Err("its discipline was removed: the agent puts it there again when it looks next".to_owned())
            }
            Ok(Some(root)) => Err(format!(
                "somebody has put the discipline {} in the place of the agent's: nothing is shared out; remove it (tc \
                 qdisc del dev {} root)",
                root.kind, uplink.name
            )),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Takes the discipline of this instance from an interface, if it is there: the kernel puts its own back.
pub fn remove(instance: &str, uplink: &Uplink) -> Result<(), NetworkError> {
    let traffic = open(&uplink.name)?;
    let root = match traffic.root(uplink.index) {
        Err(error) if error.errno() == Some(Errno::ENODEV) => None,
        other => other.map_err(failed(uplink))?,
    };
    match root {
        Some(root) if is_ours(&root, major(instance)) => traffic
            .change(uplink.index, &[Change::RemoveRoot])
            .map_err(failed(uplink)),
        _ => Ok(()),
    }
}

fn is_ours(root: &RootDiscipline, major: u16) -> bool {
    root.kind == "htb" && root.handle.0 == u32::from(major) << 16
}

/// The host has a weight too.
fn least(holders: &BTreeMap<ContainerId, Holder>) -> u32 {
    let weights = holders.values().map(|holder| holder.share.weight);
    weights.min().unwrap_or(WEIGHT_OF_A_CPU).min(WEIGHT_OF_A_CPU)
}

fn open(name: &str) -> Result<TrafficControl, NetworkError> {
    TrafficControl::open().map_err(|source| NetworkError::Netlink {
        operation: format!("open a socket for the discipline of uplink {name}"),
        source,
    })
}

/// Some at a time: the acknowledgements of a thousand do not fit into a socket's buffer.
fn change(traffic: &TrafficControl, uplink: &Uplink, changes: &[Change<'_>]) -> Result<(), NetworkError> {
    for some in changes.chunks(CHANGES_AT_ONCE) {
        traffic.change(uplink.index, some).map_err(failed(uplink))?;
    }
    Ok(())
}

fn failed(uplink: &Uplink) -> impl FnOnce(NetlinkError) -> NetworkError {
    let operation = format!(
        "share uplink {} out (it needs CONFIG_NET_SCH_HTB and CONFIG_NET_CLS_BPF, or their modules)",
        uplink.name
    );
    move |source| NetworkError::Netlink { operation, source }
}

pub(crate) fn program_failed(source: bpf::uplink::UplinkError) -> NetworkError {
    NetworkError::Bandwidth {
        operation: "tell the uplink's program a container's group".to_owned(),
        source: Box::new(source),
    }
}
