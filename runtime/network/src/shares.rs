//! Uplinks shared out between containers: who gets how much of one that is full.
//!
//! Only where the operator has told the agent the rate of its uplinks ([`crate::Config::uplink_rate`]): then their root
//! discipline is the agent's (`shares_plan.rs`), as long as what was there is the kernel's own, which comes back by itself when
//! ours is removed. One that somebody has put there is never replaced. What waits has to wait here and not behind, so the rate
//! is to be what the line really carries.
//!
//! An uplink that can't be shared out now (somebody's discipline, an interface that is gone, a refusal half-way) keeps nobody from
//! the others, and is made right when it is looked at next: only a new guarantee is refused meanwhile.
//!
//! State lives in the kernel, across restarts of the agent; every call is idempotent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bpf::uplink::UplinkProgram;
use kernel::Errno;
use kernel::netlink::traffic::Change;
use model::{Bandwidth, BitsPerSecond, ContainerId};

use crate::NetworkError;
use crate::host_network::Uplink;
use crate::roots::{Root, change, failed, first_error, open};
use crate::shares_plan::{
    FIRST_HOST_NETWORK_MINOR, HOST_MINOR, LAST_HOST_NETWORK_MINOR, Line, Scale, Share, UPLINK_MINOR,
    guaranteeable, major,
};

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
    /// Uplinks, by index, that have all of it. Others are written anew from the root down, when they are looked at next.
    complete: BTreeSet<u32>,
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
                complete: BTreeSet::new(),
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

    /// Whether a guarantee can be kept beside those of others.
    pub fn check(&self, id: &ContainerId, bandwidth: &Bandwidth) -> Result<(), NetworkError> {
        self.fits(&self.lock(), id, Share::of(bandwidth))
    }

    /// Who asks for no more than before is not refused, though less may be left than there was.
    fn fits(&self, book: &Book, id: &ContainerId, share: Share) -> Result<(), NetworkError> {
        if !asks_for_more(book, id, share) {
            return Ok(());
        }
        let others = book.holders.iter().filter(|(other, _)| *other != id);
        let given = others.fold(0, |given: u64, (_, holder)| {
            given.saturating_add(holder.share.guarantee)
        });
        match given.saturating_add(share.guarantee) > guaranteeable(self.rate) {
            true => Err(NetworkError::Oversold {
                id: id.clone(),
                asked: BitsPerSecond(share.guarantee * 8),
                given: BitsPerSecond(given.saturating_mul(8)),
                rate: self.rate(),
            }),
            false => Ok(()),
        }
    }

    /// Puts the discipline at every uplink that has none yet, with the classes of all, and completes what is there: an
    /// earlier agent's rate and program may be others. The first error is answered at the end.
    pub fn install(&self, uplinks: &[Uplink]) -> Result<(), NetworkError> {
        let mut book = self.lock();
        book.complete
            .retain(|index| uplinks.iter().any(|uplink| uplink.index == *index));
        first_error(uplinks, |uplink| self.bring(&mut book, uplink, &[]))
    }

    /// Makes one uplink what the book says: by `changes`, if all else is right already.
    fn bring(&self, book: &mut Book, uplink: &Uplink, changes: &[Change<'_>]) -> Result<(), NetworkError> {
        let was_complete = book.complete.remove(&uplink.index);
        let traffic = open(&uplink.name)?;
        let written = match Root::of(&traffic, uplink, self.major)? {
            Root::Foreign(kind) => {
                return Err(NetworkError::ForeignDiscipline {
                    uplink: uplink.name.clone(),
                    kind,
                });
            }
            Root::Gone => return Ok(()),
            Root::Ours if was_complete => change(&traffic, uplink, changes),
            Root::Ours | Root::Kernels => change(&traffic, uplink, &self.whole(book, uplink)),
        };
        match written {
            Err(NetworkError::Netlink { source, .. }) if source.errno() == Some(Errno::ENODEV) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                book.complete.insert(uplink.index);
                Ok(())
            }
        }
    }

    fn whole(&self, book: &Book, uplink: &Uplink) -> Vec<Change<'_>> {
        let line = self.line(uplink);
        let mut changes: Vec<Change<'_>> = line.root(&book.scale);
        for holder in book.holders.values() {
            changes.extend(line.member(holder.minor, holder.share, &book.scale));
        }
        changes.push(Change::Sorter {
            parent: line.handle(0),
            program: self.program.program(),
            name: "bulkhead",
        });
        changes
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
        self.fits(&book, id, share)?;
        if asks_for_more(&book, id, share) {
            // Nobody would keep it there. Weights mean nothing there either, but promise nothing.
            first_error(uplinks, |uplink| {
                match Root::of(&open(&uplink.name)?, uplink, self.major)? {
                    Root::Foreign(kind) => Err(NetworkError::ForeignDiscipline {
                        uplink: uplink.name.clone(),
                        kind,
                    }),
                    _ => Ok(()),
                }
            })?;
        }
        let before = self.enter(&mut book, id, mark, share)?;
        let put = self.put(uplinks, &mut book, Some(id));
        if put.is_err() {
            self.undo(uplinks, &mut book, id, before);
        }
        put
    }

    /// As [`hold`](Self::hold), of what was promised before: it is not asked whether it still fits, and what can't be written now
    /// is written when uplinks are looked at next.
    pub fn keep(
        &self,
        uplinks: &[Uplink],
        id: &ContainerId,
        mark: Mark,
        bandwidth: &Bandwidth,
    ) -> Result<(), NetworkError> {
        let mut book = self.lock();
        self.enter(&mut book, id, mark, Share::of(bandwidth))?;
        self.put(uplinks, &mut book, Some(id))
    }

    /// Into the book. Answers what was there.
    fn enter(
        &self,
        book: &mut Book,
        id: &ContainerId,
        mark: Mark,
        share: Share,
    ) -> Result<Option<Holder>, NetworkError> {
        let before = book.holders.get(id).copied();
        let (minor, group) = match (mark, before) {
            (Mark::Slot(slot), _) => (u16::try_from(slot).unwrap_or(HOST_MINOR), None),
            (Mark::Group(group), Some(holder)) => (holder.minor, Some(group)),
            (Mark::Group(group), None) => (self.free_minor(&book.holders, group)?, Some(group)),
        };
        book.holders.insert(id.clone(), Holder { minor, group, share });
        Ok(before)
    }

    /// What a `hold` that failed has made. Its own error is the one that is told.
    fn undo(&self, uplinks: &[Uplink], book: &mut Book, id: &ContainerId, before: Option<Holder>) {
        let undone = match before {
            Some(before) => {
                book.holders.insert(id.clone(), before);
                self.put(uplinks, book, Some(id))
            }
            None => self.give_back(uplinks, book, id),
        };
        if let Err(error) = undone {
            tracing::debug!(container = %id, %error, "undo a share of the uplink");
        }
    }

    /// Writes one container's class; all the others' too where the sum of all weights is another one now. Where somebody
    /// else's discipline is, nothing: `health` tells of it.
    fn put(&self, uplinks: &[Uplink], book: &mut Book, id: Option<&ContainerId>) -> Result<(), NetworkError> {
        let now = book.scale_now(self.rate);
        let all = !book.scale.will_do(&now);
        if all {
            // Right for all uplinks that are complete: one that does not follow is not.
            book.scale = now;
        }
        let holder = id.and_then(|id| book.holders.get(id)).copied();
        let written = first_error(uplinks, |uplink| {
            let line = self.line(uplink);
            let mut changes = Vec::new();
            if all {
                changes.push(line.class(HOST_MINOR, Share::HOST, &book.scale));
                let others = book.holders.iter().filter(|(other, _)| Some(*other) != id);
                changes.extend(others.map(|(_, other)| line.class(other.minor, other.share, &book.scale)));
            }
            // Last: the others have made room for it.
            if let Some(holder) = holder {
                changes.extend(line.member(holder.minor, holder.share, &book.scale));
            }
            match self.bring(book, uplink, &changes) {
                Err(NetworkError::ForeignDiscipline { .. }) => Ok(()),
                other => other,
            }
        });
        let told = match holder {
            Some(Holder {
                group: Some(group),
                minor,
                ..
            }) => self.program.set(group, minor).map_err(program_failed),
            _ => Ok(()),
        };
        written.and(told)
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

    /// Who has none is no error. After an error it has it still, and may try again.
    pub fn release(&self, uplinks: &[Uplink], id: &ContainerId) -> Result<(), NetworkError> {
        self.give_back(uplinks, &mut self.lock(), id)
    }

    fn give_back(&self, uplinks: &[Uplink], book: &mut Book, id: &ContainerId) -> Result<(), NetworkError> {
        let Some(holder) = book.holders.get(id).copied() else {
            return Ok(());
        };
        self.take_away(uplinks, &holder)?;
        book.holders.remove(id);
        if let Err(error) = self.put(uplinks, book, None) {
            // Its own end is complete; the others get more when the uplinks are looked at next.
            tracing::debug!(container = %id, %error, "deal out what a container had of the uplink");
        }
        Ok(())
    }

    fn take_away(&self, uplinks: &[Uplink], holder: &Holder) -> Result<(), NetworkError> {
        if let Some(group) = holder.group {
            self.program.remove(group).map_err(program_failed)?;
        }
        first_error(uplinks, |uplink| {
            let gone = Change::RemoveClass(self.line(uplink).handle(holder.minor));
            match open(&uplink.name)?.change(uplink.index, &[gone]) {
                // The discipline itself, or the uplink, is gone.
                Err(error) if matches!(error.errno(), Some(Errno::EINVAL | Errno::ENODEV)) => Ok(()),
                other => other.map_err(failed(uplink)),
            }
        })
    }

    /// After all containers of an earlier agent are known: what nobody holds goes. The first error is answered at the end.
    pub fn settle(&self, uplinks: &[Uplink]) -> Result<(), NetworkError> {
        let book = self.lock();
        let mut kept: BTreeSet<u16> = book.holders.values().map(|holder| holder.minor).collect();
        kept.extend([HOST_MINOR, UPLINK_MINOR]);
        let groups: BTreeSet<u64> = book.holders.values().filter_map(|holder| holder.group).collect();
        let known = self.program.groups().into_keys();
        let forgotten = first_error(known.filter(|group| !groups.contains(group)), |group| {
            self.program.remove(group).map_err(program_failed)
        });
        let removed = first_error(uplinks, |uplink| {
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
            change(&traffic, uplink, &changes)
        });
        forgotten.and(removed)
    }

    /// How an uplink is, in words; `Err`: what is wrong.
    pub fn health(&self, uplink: &Uplink) -> Result<String, String> {
        let (complete, oversold) = {
            let book = self.lock();
            let oversold = book.scale_now(self.rate).oversold();
            (book.complete.contains(&uplink.index), oversold)
        };
        let root = open(&uplink.name).and_then(|traffic| Root::of(&traffic, uplink, self.major));
        match root {
            Ok(Root::Ours) if !complete => Err(
                "its shares could not all be written (the agent's log says why): they are when it looks next"
                    .to_owned(),
            ),
            Ok(Root::Ours) => match oversold {
                None => Ok(format!("shared out at {} by htb", self.rate())),
                Some(promised) => Err(format!(
                    "guarantees add up to {}, more than four fifths of the uplink's {}: all are cut by the same part and new                      ones are refused; end containers that have one, or start the agent with a larger --uplink_rate",
                    BitsPerSecond(promised.saturating_mul(8)),
                    self.rate()
                )),
            },
            Ok(Root::Kernels) => {
                Err("its discipline was removed: the agent puts it there again when it looks next".to_owned())
            }
            Ok(Root::Foreign(kind)) => Err(format!(
                "somebody has put the discipline {kind} in the place of the agent's: nothing is shared out and new guarantees                  are refused; remove it (tc qdisc del dev {} root)",
                uplink.name
            )),
            Ok(Root::Gone) => Err("the interface is gone".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn asks_for_more(book: &Book, id: &ContainerId, share: Share) -> bool {
    let before = book.holders.get(id).map_or(0, |holder| holder.share.guarantee);
    share.guarantee > before
}

pub(crate) fn program_failed(source: bpf::uplink::UplinkError) -> NetworkError {
    NetworkError::Bandwidth {
        operation: "tell the uplink's program a container's group".to_owned(),
        source: Box::new(source),
    }
}
