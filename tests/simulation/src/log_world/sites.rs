//! Machines: a process, its disk, its clock.

use std::collections::BTreeSet;

use model::Millis;
use replog_core::{Ballot, Incarnation, Member, Node, Record, ReplicaId, Settings, Start, Token};

use super::books::{Check, breach};
use super::disk::Disk;
use super::{Event, World};

pub struct Site {
    pub id: u64,
    pub node: Option<Node>,
    pub disk: Disk,
    /// Counts processes: what was meant for an earlier one does not arrive.
    pub life: u64,
    pub clock_ahead: u64,
    /// Until when the flushes under way take: they finish in order.
    flush_at: u64,
    /// Whose disk it was when sectors went bad: found at every start until the replica has another identity.
    damaged: Option<Member>,
    /// Ballots of this process.
    pub begun: BTreeSet<Ballot>,
}

impl Site {
    /// When its next tick is due, in the world's time.
    pub fn alarm(&self) -> Option<u64> {
        let deadline = self.node.as_ref()?.deadline()?;
        Some(deadline.0.saturating_sub(self.clock_ahead))
    }
}

impl World {
    pub(super) fn add_site(&mut self, id: u64) -> Check {
        let serial = self.next_serial();
        let clock_ahead = self.random.below(100_000);
        self.sites.insert(
            id,
            Site {
                id,
                node: None,
                disk: Disk::fresh(serial),
                life: 0,
                clock_ahead,
                flush_at: 0,
                damaged: None,
                begun: BTreeSet::new(),
            },
        );
        self.start(id)
    }

    fn next_serial(&mut self) -> u64 {
        self.serials += 1;
        self.serials
    }

    pub(super) fn start(&mut self, id: u64) -> Check {
        let contacts: BTreeSet<ReplicaId> = self.sites.keys().map(|id| ReplicaId(*id)).collect();
        let initial = self.initial_for(id);
        let seed = self.random.draw();
        let incarnation = Incarnation(self.random.draw());
        let now = self.now;
        let Some(site) = self.sites.get_mut(&id).filter(|s| s.node.is_none()) else {
            return Ok(());
        };
        site.life += 1;
        site.flush_at = now;
        site.disk.written = site.disk.durable.clone();
        let start = Start {
            settings: Settings {
                replica: ReplicaId(id),
                contacts,
                initial,
                ..self.template.clone()
            },
            stored: site.disk.durable.state(),
            damaged: site.damaged == Some(site.disk.durable.member),
            incarnation,
            seed,
        };
        site.begun.clear();
        let local = Millis(now + site.clock_ahead);
        // Both arms take `start`: no closure can.
        #[allow(clippy::option_if_let_else)]
        let started = match self.bug {
            Some(bug) => Node::start_with_bug(local, start, bug),
            None => Node::start(local, start),
        };
        let mut node = match started {
            Ok(node) => node,
            Err(error) => return breach("a replica starts", format!("{id}: {error}")),
        };
        let (member, learned) = (node.member(), node.state().learned);
        let mut wishes = Vec::new();
        while let Some(wish) = node.poll() {
            wishes.push(wish);
        }
        site.node = Some(node);
        for wish in wishes {
            self.grant(id, member, learned, wish)?;
        }
        Ok(())
    }

    /// An operator names the first members as long as they are those of the log, or there is none.
    fn initial_for(&self, id: u64) -> Option<BTreeSet<ReplicaId>> {
        let follows = self.books.membership().is_some_and(|m| m.ids() != self.initial);
        let changing = !self.books.wanted_in.is_empty() || !self.books.wanted_out.is_empty();
        let named = self.initial.contains(&ReplicaId(id)) && !follows && !changing;
        named.then(|| self.initial.clone())
    }

    pub(super) fn persist(&mut self, id: u64, life: u64, records: Vec<Record>, token: Token) -> Check {
        for record in &records {
            if let Record::Accepted {
                epoch, first, values, ..
            } = record
            {
                for (at, value) in (first.0..).zip(values) {
                    if let replog_core::Value::Membership(membership) = value {
                        self.books.proposing(epoch.ballot, at, membership)?;
                    }
                }
            }
        }
        let takes = self.random.below(self.faults.flush_max + 1);
        let fails = self.random.one_in(self.faults.persist_fails);
        let now = self.now;
        let Some(site) = self.sites.get_mut(&id) else {
            return Ok(());
        };
        site.disk.write(token, records);
        site.flush_at = site.flush_at.max(now + takes);
        let at = site.flush_at;
        self.later(
            at,
            if fails {
                Event::FlushFailed(id, life)
            } else {
                Event::Flushed(id, life, token)
            },
        );
        Ok(())
    }

    pub(super) fn flush(&mut self, id: u64, token: Token) -> Check {
        let Some(site) = self.sites.get_mut(&id) else {
            return Ok(());
        };
        let records = site.disk.flushed(token);
        let before = self.books.memberships();
        self.make_durable(id, &records)?;
        if self.faults.members && self.books.memberships() > before && self.random.one_in(2) {
            return self.part_after_change();
        }
        Ok(())
    }

    fn make_durable(&mut self, id: u64, records: &[Record]) -> Check {
        let Some(site) = self.sites.get_mut(&id) else {
            return Ok(());
        };
        for record in records {
            let mut after = std::mem::take(&mut site.disk.durable);
            let before = super::disk::Content {
                promised: after.promised,
                learned: after.learned,
                ..Default::default()
            };
            after.apply(record);
            let checked = self.books.durable(site.disk.serial, &before, record, &after);
            site.disk.durable = after;
            checked?;
        }
        Ok(())
    }

    pub(super) fn forget_pending(&mut self, id: u64) {
        if let Some(site) = self.sites.get_mut(&id) {
            site.disk.crash(0);
        }
    }

    /// The process is gone. Of what it had not flushed, some beginning may be on the disk all the same.
    pub(super) fn crashed(&mut self, id: u64) -> Check {
        let Some(site) = self.sites.get_mut(&id) else {
            return Ok(());
        };
        site.node = None;
        site.life += 1;
        let pending = site.disk.pending_records();
        let kept = self.random.below(pending + 1);
        let Some(site) = self.sites.get_mut(&id) else {
            return Ok(());
        };
        let records = site.disk.crash(kept);
        self.clients.forget_site(id);
        self.note(|| format!("{id} is gone, {kept} of {pending} unflushed records stay"));
        self.tally.crashes += 1;
        self.make_durable(id, &records)
    }

    pub(super) fn crash(&mut self, id: u64) -> Check {
        if self.sites.get(&id).is_none_or(|s| s.node.is_none()) {
            return Ok(());
        }
        self.crashed(id)?;
        let pause = [0, 300, 5_000][self.random.below(3) as usize];
        let at = self.now + self.random.below(pause + 1);
        self.later(at, Event::Restart(id));
        Ok(())
    }

    /// Its disk is replaced by an empty one, or is found to have bad sectors.
    pub(super) fn lose_disk(&mut self, id: u64, wholly: bool) -> Check {
        let Some(site) = self.sites.get(&id) else {
            return Ok(());
        };
        let content = &site.disk.durable;
        let member = content.member;
        // A disk that is lost while another member is taken out may be one too many: that is the operator's to avoid.
        let too_many = !self.books.may_lose(member, self.initial.len());
        if too_many || self.clients.changing() || !content.written {
            return Ok(());
        }
        // What dies with the process may still reach the disk that is lost then: it does not matter.
        self.crash(id)?;
        let serial = self.next_serial();
        let keep = self.random.below(20);
        let Some(site) = self.sites.get_mut(&id) else {
            return Ok(());
        };
        let member = site.disk.durable.member;
        // Before there is a log, a damaged disk waits for an operator to empty it.
        if wholly || self.books.membership().is_none() {
            site.disk = Disk::fresh(serial);
        } else {
            site.disk.durable.damage(keep);
            site.disk.serial = serial;
            site.damaged = Some(member);
        }
        self.note(|| format!("{id} loses its disk{}", if wholly { "" } else { " in part" }));
        self.books.lost(member);
        self.tally.disks_lost += 1;
        Ok(())
    }
}
