//! What writers, readers and operators do, and what they are told.

use std::collections::BTreeMap;

use replog_core::{Answer, Ballot, Change, Input, Position, ReplicaId, Status, Ticket, Value};

use super::World;
use super::books::{Check, Entry, breach, encode};
use super::sites::Site;

#[derive(Debug, Clone)]
enum Asked {
    /// What had been acknowledged when it was asked.
    Elect(u64),
    Append(Entry),
    Truncate(u64),
    /// As above.
    Confirm(u64),
    CatchUp,
    Change,
}

#[derive(Debug, Default)]
pub struct Clients {
    tickets: u64,
    /// Ticket → (site, question).
    open: BTreeMap<u64, (u64, Asked)>,
    /// Entries handed in under each ballot.
    numbers: BTreeMap<Ballot, u64>,
    goal: u64,
    next_site: u64,
}

impl Clients {
    pub fn forget_site(&mut self, id: u64) {
        self.open.retain(|_, (site, _)| *site != id);
    }

    pub fn persist_until_acknowledged(&mut self, goal: u64) {
        self.goal = goal;
    }

    pub fn all_answered(&self, sites: &BTreeMap<u64, Site>) -> Check {
        let open = self
            .open
            .values()
            .find(|(site, _)| sites.get(site).is_some_and(|s| s.node.is_some()));
        match open {
            Some((site, asked)) => breach("every question is answered", format!("{site}: {asked:?}")),
            None => Ok(()),
        }
    }

    /// An operator waits for a change of members.
    pub fn changing(&self) -> bool {
        self.open
            .values()
            .any(|(_, asked)| matches!(asked, Asked::Change))
    }

    fn ticket(&mut self, site: u64, asked: Asked) -> Ticket {
        self.tickets += 1;
        self.open.insert(self.tickets, (site, asked));
        Ticket(self.tickets)
    }
}

impl World {
    fn any_site(&mut self) -> u64 {
        let index = self.random.below(self.sites.len() as u64) as usize;
        self.sites.keys().nth(index).copied().unwrap_or(1)
    }

    fn writers(&self) -> Vec<(u64, Ballot)> {
        let writer = |s: &Site| Some((s.id, s.node.as_ref()?.writer()?));
        self.sites.values().filter_map(writer).collect()
    }

    pub(super) fn writing(&self) -> bool {
        !self.writers().is_empty()
    }

    /// One thing happens.
    pub(super) fn act(&mut self) -> Check {
        let faults = self.faults.clone();
        let id = self.any_site();
        if self.random.one_in(faults.crash) {
            self.crash(id)?;
        }
        if self.random.one_in(faults.lose_disk) {
            let id = self.any_site();
            self.lose_disk(id, true)?;
        }
        if self.random.one_in(faults.damage_disk) {
            let id = self.any_site();
            self.lose_disk(id, false)?;
        }
        if self.random.one_in(faults.partition) {
            self.partition();
        }
        if self.random.one_in(faults.clock_jump) {
            let jump = self.random.below(20_000);
            let id = self.any_site();
            if let Some(site) = self.sites.get_mut(&id) {
                site.clock_ahead += jump;
            }
        }
        if self.random.one_in(faults.elect) || self.writers().is_empty() && self.random.one_in(2) {
            let id = self.any_site();
            self.ask_elect(id)?;
        }
        if self.random.one_in(faults.change) {
            self.ask_change()?;
        }
        match self.random.below(8) {
            0 => self.ask_confirm(),
            1 => self.ask_catch_up(),
            2 if self.random.one_in(faults.truncate) => self.ask_truncate(),
            _ => self.ask_append(),
        }
    }

    fn partition(&mut self) {
        self.cut.clear();
        if self.random.one_in(3) {
            return;
        }
        let ids: Vec<u64> = self.sites.keys().copied().collect();
        let alone = ids[self.random.below(ids.len() as u64) as usize];
        let one_way = self.random.one_in(3);
        let split = self.random.one_in(3);
        for from in &ids {
            for to in &ids {
                let apart = if split {
                    from % 2 != to % 2
                } else {
                    (*from == alone) != (*to == alone)
                };
                if apart && (!one_way || *from == alone) {
                    self.cut.insert((*from, *to));
                }
            }
        }
    }

    /// At the moment a change of members is agreed, before anybody is told: the writer and the newcomer on one side, all
    /// others on the other, where somebody else wants to write.
    pub(super) fn part_after_change(&mut self) -> Check {
        let mut side = self.books.newcomers();
        side.extend(self.writers().iter().map(|(id, _)| *id));
        let ids: Vec<u64> = self.sites.keys().copied().collect();
        self.cut.clear();
        for from in &ids {
            for to in &ids {
                if side.contains(from) != side.contains(to) {
                    self.cut.insert((*from, *to));
                }
            }
        }
        let others: Vec<u64> = ids.into_iter().filter(|id| !side.contains(id)).collect();
        if others.is_empty() {
            return Ok(());
        }
        let id = others[self.random.below(others.len() as u64) as usize];
        self.ask_elect(id)
    }

    fn ask_elect(&mut self, id: u64) -> Check {
        let at_least = if self.random.one_in(4) {
            self.random.below(50)
        } else {
            0
        };
        let ticket = self.clients.ticket(id, Asked::Elect(self.books.acknowledged));
        self.ask(id, Input::Elect { ticket, at_least })
    }

    fn ask(&mut self, id: u64, input: Input) -> Check {
        if self.sites.get(&id).is_none_or(|s| s.node.is_none()) {
            self.clients.forget_site(id);
            return Ok(());
        }
        self.feed(id, input)
    }

    fn ask_append(&mut self) -> Check {
        let writers = self.writers();
        if writers.is_empty() {
            return Ok(());
        }
        let (id, ballot) = writers[self.random.below(writers.len() as u64) as usize];
        let count = 1 + self.random.below(6);
        self.append(id, ballot, count)
    }

    fn append(&mut self, id: u64, ballot: Ballot, count: u64) -> Check {
        let mut entries = Vec::new();
        for _ in 0..count {
            let next = self.clients.numbers.entry(ballot).or_default();
            let entry = (ballot, *next);
            *next += 1;
            let ticket = self.clients.ticket(id, Asked::Append(entry));
            entries.push((ticket, encode(entry)));
        }
        self.ask(id, Input::Append { entries })
    }

    fn ask_truncate(&mut self) -> Check {
        let Some((id, _)) = self.writers().first().copied() else {
            return Ok(());
        };
        let agreed = self.books.agreed_to();
        let to = self.random.below(agreed + 4);
        let ticket = self.clients.ticket(id, Asked::Truncate(to));
        let to = Position(to);
        self.ask(id, Input::Truncate { ticket, to })
    }

    fn ask_confirm(&mut self) -> Check {
        let writers = self.writers();
        if writers.is_empty() {
            return Ok(());
        }
        let (id, _) = writers[self.random.below(writers.len() as u64) as usize];
        let ticket = self.clients.ticket(id, Asked::Confirm(self.books.acknowledged));
        self.ask(id, Input::Confirm { ticket })
    }

    fn ask_catch_up(&mut self) -> Check {
        let id = self.any_site();
        let ticket = self.clients.ticket(id, Asked::CatchUp);
        self.ask(id, Input::CatchUp { ticket })
    }

    fn ask_change(&mut self) -> Check {
        let Some(membership) = self.books.membership().cloned() else {
            return Ok(());
        };
        let writers = self.writers();
        if writers.is_empty() {
            return Ok(());
        }
        let (id, _) = writers[self.random.below(writers.len() as u64) as usize];
        let members: Vec<u64> = membership.ids().iter().map(|r| r.0).collect();
        let out = members[self.random.below(members.len() as u64) as usize];
        let outsiders: Vec<u64> = self
            .sites
            .keys()
            .copied()
            .filter(|s| !members.contains(s))
            .collect();
        let by = match outsiders.first() {
            Some(by) if self.sites.len() >= 7 || self.random.one_in(2) => *by,
            _ => {
                let new = self.sites.keys().max().map_or(1, |last| last + 1);
                self.clients.next_site = new;
                new
            }
        };
        let (out, by) = (ReplicaId(out), ReplicaId(by));
        let kinds = if self.faults.members { 6 } else { 3 };
        let change = match self.random.below(kinds) {
            0 if members.len() < 5 => Change::Add(by),
            1 if members.len() > 2 => Change::Remove(out),
            _ => Change::Replace { out, by },
        };
        if !matches!(change, Change::Add(_)) {
            self.books.wanted_out.insert(out.0);
        }
        if !matches!(change, Change::Remove(_)) {
            self.books.wanted_in.insert(by.0);
            if !self.sites.contains_key(&by.0) {
                self.add_site(by.0)?;
            }
        }
        let ticket = self.clients.ticket(id, Asked::Change);
        self.ask(id, Input::Change { ticket, change })
    }

    /// A client that does not give up.
    pub(super) fn try_to_write(&mut self) -> Check {
        let writers = self.writers();
        let Some((id, ballot)) = writers.iter().copied().max_by_key(|(_, ballot)| *ballot) else {
            let electing = self
                .sites
                .values()
                .any(|s| s.node.as_ref().is_some_and(|n| n.coordinating().is_some()));
            let voting = |s: &&Site| {
                s.node
                    .as_ref()
                    .is_some_and(|n| n.state().status == Status::Voting && n.state().is_member())
            };
            let able: Vec<u64> = self.sites.values().filter(voting).map(|s| s.id).collect();
            if electing || able.is_empty() {
                return Ok(());
            }
            let id = able[self.random.below(able.len() as u64) as usize];
            return self.ask_elect(id);
        };
        self.append(id, ballot, 1)
    }

    pub(super) fn answered(&mut self, id: u64, learned: Position, ticket: Ticket, answer: Answer) -> Check {
        let Some((_, asked)) = self.clients.open.remove(&ticket.0) else {
            return breach(
                "every question is answered once",
                format!("{id}: {ticket:?} {answer:?}"),
            );
        };
        match (asked, answer) {
            (Asked::Elect(before), Answer::Elected { position, ballot }) => {
                let Some(node) = self.sites.get(&id).and_then(|s| s.node.as_ref()) else {
                    return Ok(());
                };
                self.books.told_elected(ballot, position.0, node, before)
            }
            (Asked::Elect(_), Answer::NotElected(_)) => Ok(()),
            (Asked::Append(entry), Answer::Appended { position }) => {
                let bytes = encode(entry);
                let is = |value: &Value| matches!(value, Value::Append(b) if *b == bytes);
                self.books.told_done(position.0, is)
            }
            (Asked::Append(entry), Answer::Refused(_)) => self.books.told_refused(entry),
            (Asked::Truncate(to), Answer::Truncated { position }) => {
                self.tally.truncated += 1;
                let is = |value: &Value| matches!(value, Value::Truncate { to: t } if t.0 == to);
                self.books.told_done(position.0, is)
            }
            (Asked::Confirm(before), Answer::Confirmed { end }) => self.books.told_confirmed(end.0, before),
            (Asked::CatchUp, Answer::CaughtUp { end }) if end <= learned => Ok(()),
            (Asked::Change, Answer::Changed(membership)) => {
                self.tally.memberships += 1;
                self.books.told_done(
                    membership.since.0,
                    |value| matches!(value, Value::Membership(m) if *m == membership),
                )
            }
            (Asked::Append(_) | Asked::Truncate(_) | Asked::Change, Answer::Lost { .. }) => Ok(()),
            (_, Answer::Refused(_)) => Ok(()),
            (asked, answer) => breach(
                "answers fit their questions",
                format!("{id}: {asked:?}: {answer:?}"),
            ),
        }
    }
}
