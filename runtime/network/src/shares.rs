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
    FIRST_HOST_NETWORK_MINOR, HOST_MINOR, LAST_HOST_NETWORK_MINOR, Line, Scale, Share, UPLINK_MINOR,
    guaranteeable, major,
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
    book: Mutex<Book>,
}

type Holders = BTreeMap<ContainerId, Holder>;

#[derive(Debug)]
struct Book {
    holders: Holders,
    /// By which the classes were made that are there.
    scale: Scale,
}

impl Book {
    fn scale_now(&self, rate: u64) -> Scale {
        Scale::of(rate, self.holders.values().map(|holder| holder.share))
    }
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
            book: Mutex::new(Book {
                holders: Holders::new(),
                scale: Scale::of(rate.0 / 8, std::iter::empty()),
            }),
        })
    }

    /// What marks packets for the classes of this instance.
    pub fn major(&self) -> u16 {
        self.major
    }

    pub fn rate(&self) -> BitsPerSecond {
        BitsPerSecond(self.rate * 8)
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
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
        let book = self.lock();
        for uplink in uplinks {
            let traffic = open(&uplink.name)?;
            if self.is_at(&traffic, uplink)? {
                continue;
            }
            let line = self.line(uplink);
            let mut changes = line.root(&book.scale);
            for holder in book.holders.values() {
                changes.extend(line.member(holder.minor, holder.share, &book.scale));
            }
            changes.push(self.sorter(&line));
            change(&traffic, uplink, &changes)?;
        }
        Ok(())
    }

    /// What a successor does with disciplines that are there: its rate and its program may be others.
    pub fn renew(&self, uplinks: &[Uplink]) -> Result<(), NetworkError> {
        self.install(uplinks)?;
        let scale = self.lock().scale;
        for uplink in uplinks {
            let line = self.line(uplink);
            let mut changes = line.root(&scale);
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
        let mut book = self.lock();
        let others = book.holders.iter().filter(|(other, _)| *other != id);
        let given: u64 = others.map(|(_, holder)| holder.share.guarantee).sum();
        if share.guarantee > 0 && given + share.guarantee > guaranteeable(self.rate) {
            return Err(self.oversold(id, share.guarantee, given));
        }
        let before = book.holders.get(id).copied();
        let (minor, group) = match (mark, before) {
            (Mark::Slot(slot), _) => (u16::try_from(slot).unwrap_or(HOST_MINOR), None),
            (Mark::Group(group), Some(holder)) => (holder.minor, Some(group)),
            (Mark::Group(group), None) => (self.free_minor(&book.holders, group)?, Some(group)),
        };
        let holder = Holder { minor, group, share };
        book.holders.insert(id.clone(), holder);
        let put = self.put(uplinks, &mut book, id);
        if put.is_err() {
            self.undo(uplinks, &mut book, id, before);
        }
        put
    }

    /// What a `hold` that failed has made. Its own error is the one that is told.
    fn undo(&self, uplinks: &[Uplink], book: &mut Book, id: &ContainerId, before: Option<Holder>) {
        let failed_one = book.holders.remove(id);
        let undone = match (before, failed_one) {
            (Some(before), _) => {
                book.holders.insert(id.clone(), before);
                self.put(uplinks, book, id)
            }
            (None, Some(holder)) => self.take_away(uplinks, &holder),
            (None, None) => Ok(()),
        };
        if let Err(error) = undone {
            tracing::debug!(container = %id, %error, "undo a share of the uplink");
        }
    }

    /// Writes one container's class; all the others' too where the sum of all weights is another one now.
    fn put(&self, uplinks: &[Uplink], book: &mut Book, id: &ContainerId) -> Result<(), NetworkError> {
        let now = book.scale_now(self.rate);
        let all = !book.scale.will_do(&now);
        if all {
            book.scale = now;
        }
        for uplink in uplinks {
            let line = self.line(uplink);
            let mut changes = Vec::new();
            if all {
                changes.push(line.class(HOST_MINOR, Share::HOST, &book.scale));
                let others = book.holders.iter().filter(|(other, _)| *other != id);
                changes.extend(others.map(|(_, other)| line.class(other.minor, other.share, &book.scale)));
            }
            // Last: the others have made room for it.
            if let Some(holder) = book.holders.get(id) {
                changes.extend(line.member(holder.minor, holder.share, &book.scale));
            }
            if !changes.is_empty() {
                change(&open(&uplink.name)?, uplink, &changes)?;
            }
        }
        match book.holders.get(id) {
            Some(Holder {
                group: Some(group),
                minor,
                ..
            }) => self.program.set(*group, *minor).map_err(program_failed),
            _ => Ok(()),
        }
    }

    fn free_minor(&self, holders: &Holders, group: u64) -> Result<u16, NetworkError> {
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
        let mut book = self.lock();
        let Some(holder) = book.holders.remove(id) else {
            return Ok(());
        };
        self.take_away(uplinks, &holder)?;
        self.put(uplinks, &mut book, id)
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
        let book = self.lock();
        let mut kept: BTreeSet<u16> = book.holders.values().map(|holder| holder.minor).collect();
        kept.extend([HOST_MINOR, UPLINK_MINOR]);
        let groups: BTreeSet<u64> = book.holders.values().filter_map(|holder| holder.group).collect();
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
