//! What an all-knowing observer keeps, and the invariants, each under its name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use replog_core::{Ballot, Member, Membership, Message, Node, Record, ReplicaId, Status, Value, Write};

use super::disk::Content;

/// An invariant that does not hold, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    pub invariant: &'static str,
    pub message: String,
}

pub type Check = Result<(), Breach>;

pub fn breach(invariant: &'static str, message: impl Into<String>) -> Check {
    Err(Breach {
        invariant,
        message: message.into(),
    })
}

pub const BALLOT_ONCE: &str = "a ballot is used once";

/// An entry of a writer: its ballot and a number counted up by the client.
pub type Entry = (Ballot, u64);

pub fn encode((ballot, number): Entry) -> Arc<[u8]> {
    [ballot.term, ballot.replica.0, number]
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .collect()
}

pub fn decode(value: &Value) -> Option<Entry> {
    let Value::Append(bytes) = value else { return None };
    let word = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let ballot = Ballot {
        term: word(0)?,
        replica: ReplicaId(word(8)?),
    };
    Some((ballot, word(16)?))
}

#[derive(Debug, Default)]
struct Vote {
    value: Option<Value>,
    by: BTreeSet<Member>,
}

#[derive(Debug, Default)]
pub struct Books {
    /// Who has durably accepted what: by position and ballot.
    votes: BTreeMap<(u64, Ballot), Vote>,
    /// Every agreed value, from position 1 on.
    agreed: Vec<Value>,
    /// First memberships that some replica votes with. One of them comes to count, by a quorum of its members.
    firsts: Vec<(Arc<Membership>, BTreeSet<Member>)>,
    /// Every agreed membership.
    memberships: Vec<Arc<Membership>>,
    /// Memberships that somebody proposed, agreed or not.
    proposed: BTreeMap<(u64, Ballot), Arc<Membership>>,
    /// How much of the log each disk has ever held durably.
    held: BTreeMap<Member, u64>,
    /// Serial number of the disk that an identity belongs to.
    disks: BTreeMap<Member, u64>,
    /// The highest ballot that each disk has durably promised.
    promised: BTreeMap<Member, Ballot>,
    /// The highest ballot at which each disk has accepted.
    adopted: BTreeMap<Member, Ballot>,
    gone: BTreeSet<Member>,
    /// The process (site, life) that used a ballot first.
    ballots: BTreeMap<Ballot, (u64, u64)>,
    /// Ends of the log as elected writers were told.
    elected: BTreeMap<Ballot, u64>,
    pub acknowledged: u64,
    refused: BTreeSet<Entry>,
    last_entry: Option<Entry>,
    cut: u64,
    /// Numbers that an operator asked to have in or out.
    pub wanted_in: BTreeSet<u64>,
    pub wanted_out: BTreeSet<u64>,
}

impl Books {
    pub fn agreed_to(&self) -> u64 {
        self.agreed.len() as u64
    }

    pub fn membership(&self) -> Option<&Arc<Membership>> {
        self.memberships.last()
    }

    pub fn memberships(&self) -> usize {
        self.memberships.len()
    }

    /// Who came in with the last change.
    pub fn newcomers(&self) -> Vec<u64> {
        let [.., before, last] = self.memberships.as_slice() else {
            return Vec::new();
        };
        let new = last.members.iter().filter(|m| before.member(m.replica).is_none());
        new.map(|m| m.replica.0).collect()
    }

    pub fn members_ever_differed(&self, initial: &BTreeSet<ReplicaId>) -> bool {
        self.memberships.iter().any(|m| m.ids() != *initial)
    }

    fn value(&self, at: u64) -> Option<&Value> {
        self.agreed.get(usize::try_from(at).ok()?.checked_sub(1)?)
    }

    fn members_at(&self, at: u64) -> Option<&Arc<Membership>> {
        self.memberships.iter().rev().find(|m| m.since.0 < at)
    }

    /// May this disk be lost, so that a quorum of every membership that may still count is left?
    pub fn may_lose(&self, member: Member, initial: usize) -> bool {
        if self.memberships.is_empty() {
            return self.gone.len() < (initial - 1) / 2;
        }
        let last = self.memberships.len().saturating_sub(1);
        let complete = self.membership().is_some_and(|m| self.is_complete(m));
        let from = if complete { last } else { last.saturating_sub(1) };
        let at_least = self.memberships.get(from).map_or(0, |m| m.since.0);
        let proposed = self.proposed.values().filter(|m| m.since.0 > at_least);
        let mut counting = self.memberships[from.min(self.memberships.len())..]
            .iter()
            .chain(proposed);
        counting.all(|m| {
            let lost = m.members.iter().filter(|one| self.gone.contains(one)).count();
            let more = usize::from(m.contains(member));
            lost + more <= m.members.len() - m.quorum()
        })
    }

    /// A quorum of its members, their disks still there, has learned it.
    fn is_complete(&self, membership: &Membership) -> bool {
        let knows =
            |m: &&Member| !self.gone.contains(m) && self.held.get(m).copied() >= Some(membership.since.0);
        membership.members.iter().filter(knows).count() >= membership.quorum()
    }

    pub fn lost(&mut self, member: Member) {
        self.gone.insert(member);
    }

    // ---- what becomes durable

    pub fn durable(&mut self, serial: u64, before: &Content, record: &Record, after: &Content) -> Check {
        let member = after.member;
        self.lost_disks_stay_lost(member, serial)?;
        if let Record::Accepted {
            epoch, first, values, ..
        } = record
        {
            if epoch.ballot < before.promised {
                return breach(
                    "no promise is broken",
                    format!(
                        "{member:?} accepted at {} after promising {}",
                        epoch.ballot, before.promised
                    ),
                );
            }
            for (at, value) in (first.0..).zip(values) {
                self.accepted(member, at, epoch.ballot, value)?;
            }
        }
        if let Record::Membership(membership) = record {
            self.membership_is_agreed(member, membership)?;
        }
        if after.promised < before.promised && !matches!(record, Record::Reborn(_)) {
            return breach("promises only grow", format!("{member:?}: {record:?}"));
        }
        for at in before.learned + 1..=after.learned {
            if let Some(value) = after.entries.get(&at) {
                self.learned(member, at, value)?;
            }
        }
        self.promised.insert(member, after.promised);
        self.adopted.insert(member, after.accepted.ballot);
        let held = self.held.entry(member).or_default();
        *held = (*held).max(after.learned);
        Ok(())
    }

    fn lost_disks_stay_lost(&mut self, member: Member, serial: u64) -> Check {
        if *self.disks.entry(member).or_insert(serial) != serial || self.gone.contains(&member) {
            return breach(
                "a lost disk's identity is never used again",
                format!("{member:?} on disk {serial}"),
            );
        }
        Ok(())
    }

    fn accepted(&mut self, member: Member, at: u64, ballot: Ballot, value: &Value) -> Check {
        let vote = self.votes.entry((at, ballot)).or_default();
        match &vote.value {
            Some(known) if known != value => {
                return breach(
                    "one value for a position and ballot",
                    format!("position {at}, ballot {ballot}: {known:?} and {value:?}"),
                );
            }
            Some(_) => {}
            None => vote.value = Some(value.clone()),
        }
        vote.by.insert(member);
        let Some(members) = self.members_at(at) else {
            return Ok(());
        };
        let by = &self.votes[&(at, ballot)].by;
        let count = members.members.iter().filter(|m| by.contains(m)).count();
        if count >= members.quorum() {
            return self.agree(at, value);
        }
        Ok(())
    }

    fn agree(&mut self, at: u64, value: &Value) -> Check {
        match self.value(at) {
            Some(known) if known == value => Ok(()),
            Some(known) => breach(
                "agreed values never change",
                format!("position {at}: {known:?} was agreed, now {value:?}"),
            ),
            None if at != self.agreed_to() + 1 => breach(
                "no holes",
                format!("position {at} is agreed, {} is not", self.agreed_to() + 1),
            ),
            None => {
                self.agreed.push(value.clone());
                self.agreed_next(at, value)
            }
        }
    }

    fn agreed_next(&mut self, at: u64, value: &Value) -> Check {
        match value {
            Value::Nop => Ok(()),
            Value::Append(_) => self.writers_follow_each_other(at, value),
            Value::Truncate { to } => {
                if to.0 > at {
                    return breach(
                        "truncation removes nothing that is not there yet",
                        format!("position {at} truncates to {to}"),
                    );
                }
                self.cut = self.cut.max(to.0 - 1);
                Ok(())
            }
            Value::Membership(membership) => {
                self.members_change_one_at_a_time(at, membership)?;
                self.memberships.push(Arc::clone(membership));
                Ok(())
            }
        }
    }

    fn writers_follow_each_other(&mut self, at: u64, value: &Value) -> Check {
        let Some(entry) = decode(value) else { return Ok(()) };
        let (ballot, number) = entry;
        if self.refused.contains(&entry) {
            return breach(
                "what was refused is never agreed",
                format!("position {at}: {entry:?}"),
            );
        }
        if let Some((last, _)) = self.last_entry
            && ballot < last
        {
            return breach(
                "writers do not interleave",
                format!("position {at}: ballot {ballot} after {last}"),
            );
        }
        let mut next = match self.last_entry {
            Some((last, number)) if last == ballot => number + 1,
            _ => 0,
        };
        while self.refused.contains(&(ballot, next)) {
            next += 1;
        }
        if number != next {
            return breach(
                "a writer's entries stand in order and none is left out",
                format!("position {at}: {ballot} number {number}, expected {next}"),
            );
        }
        if let Some((later, end)) = self
            .elected
            .range(ballot..)
            .find(|(b, end)| **b > ballot && at > **end)
        {
            return breach(
                "an elected writer shuts out the earlier ones",
                format!("position {at} of {ballot}, but {later} was elected at {end}"),
            );
        }
        self.last_entry = Some(entry);
        Ok(())
    }

    fn members_change_one_at_a_time(&mut self, at: u64, membership: &Arc<Membership>) -> Check {
        const NAME: &str = "members change one at a time, and only as asked";
        let Some(before) = self.membership() else {
            return breach(NAME, format!("position {at}: no members before"));
        };
        let fail = |why: &str| {
            breach(
                NAME,
                format!("position {at}: {why}: {before:?} then {membership:?}"),
            )
        };
        if membership.since.0 != at {
            return fail("a wrong position");
        }
        let out: Vec<&Member> = before
            .members
            .iter()
            .filter(|m| !membership.contains(**m))
            .collect();
        let put: Vec<&Member> = membership
            .members
            .iter()
            .filter(|m| !before.contains(**m))
            .collect();
        if out.len() > 1 || put.len() > 1 || out.len() + put.len() == 0 {
            return fail("not one change");
        }
        let same = match (out.first(), put.first()) {
            (Some(out), Some(put)) => out.replica == put.replica,
            _ => false,
        };
        if same {
            if !self.gone.contains(out[0]) {
                return fail("a disk that is not lost was replaced");
            }
            return Ok(());
        }
        let asked_out = out.iter().all(|m| self.wanted_out.contains(&m.replica.0));
        let asked_in = put.iter().all(|m| self.wanted_in.contains(&m.replica.0));
        if !asked_out || !asked_in {
            return fail("nobody asked");
        }
        Ok(())
    }

    /// A peer's membership was taken over: it must have been agreed.
    fn membership_is_agreed(&mut self, member: Member, membership: &Arc<Membership>) -> Check {
        if membership.since.0 == 0 {
            return self.first_membership(member, membership);
        }
        let known = self.memberships.iter().find(|m| m.since == membership.since);
        if known != Some(membership) {
            return breach(
                "a learned membership is agreed",
                format!("{membership:?}, agreed is {known:?}"),
            );
        }
        Ok(())
    }

    /// With its first voters lost before there was a quorum, another one may take its place.
    fn first_membership(&mut self, member: Member, membership: &Arc<Membership>) -> Check {
        if !self.firsts.iter().any(|(m, _)| m == membership) {
            self.firsts.push((Arc::clone(membership), BTreeSet::new()));
        }
        for (first, by) in &mut self.firsts {
            if first == membership && first.contains(member) {
                by.insert(member);
            }
        }
        let mut counting = self.firsts.iter().filter(|(m, by)| by.len() >= m.quorum());
        let (one, two) = (counting.next(), counting.next());
        if two.is_some() {
            return breach("there is one first membership", format!("{one:?} and {two:?}"));
        }
        if let (Some((first, _)), true) = (one, self.memberships.is_empty()) {
            self.memberships.push(Arc::clone(first));
        }
        Ok(())
    }

    /// A membership is about to be proposed: the new members must hold the log, and know the members before.
    pub fn proposing(&mut self, ballot: Ballot, at: u64, membership: &Arc<Membership>) -> Check {
        if self.proposed.contains_key(&(at, ballot)) || self.proposed.values().any(|m| m == membership) {
            return Ok(());
        }
        let holds = |member: &&Member, upto: u64| self.held.get(member).copied().unwrap_or(0) >= upto;
        let count = membership.members.iter().filter(|m| holds(m, at - 1)).count();
        if count < membership.quorum() {
            return breach(
                "the log is durable at a quorum of the new members",
                format!("position {at}: {count} of {membership:?}"),
            );
        }
        if let Some(before) = self.members_at(at) {
            let count = before.members.iter().filter(|m| holds(m, before.since.0)).count();
            if count < before.quorum() {
                return breach(
                    "a change of members begins when the last one is known to a quorum",
                    format!("position {at}: {before:?}"),
                );
            }
        }
        self.proposed.insert((at, ballot), Arc::clone(membership));
        Ok(())
    }

    // ---- what a replica believes

    pub fn learned(&self, member: Member, at: u64, value: &Value) -> Check {
        if self.value(at) == Some(value) {
            return Ok(());
        }
        breach(
            "only what is agreed is learned",
            format!(
                "{member:?} learned {value:?} at {at}, agreed is {:?}",
                self.value(at)
            ),
        )
    }

    pub fn node(&self, node: &Node, learned_before: u64) -> Check {
        let state = node.state();
        if state.learned.0 > self.agreed_to() {
            return breach(
                "only what is agreed is learned",
                format!(
                    "{:?} up to {}, agreed up to {}",
                    state.member,
                    state.learned,
                    self.agreed_to()
                ),
            );
        }
        for at in learned_before + 1..=state.learned.0 {
            if let Some(value) = state.value(replog_core::Position(at)) {
                self.learned(state.member, at, value)?;
            }
        }
        if let Some(membership) = state.membership.as_ref().filter(|m| m.ballot > state.promised) {
            return breach(
                "who knows members promises nothing below their ballot",
                format!("{:?} promised {}, {membership:?}", state.member, state.promised),
            );
        }
        if state.begin.0 > self.cut + 1 {
            return breach(
                "only what was truncated by agreement is gone",
                format!(
                    "{:?} begins at {}, truncated is up to {}",
                    state.member, state.begin, self.cut
                ),
            );
        }
        Ok(())
    }

    pub fn ballot_used(&mut self, ballot: Ballot, process: (u64, u64)) -> Check {
        let first = *self.ballots.entry(ballot).or_insert(process);
        if first == process {
            return Ok(());
        }
        breach(BALLOT_ONCE, format!("{ballot} by {first:?} and {process:?}"))
    }

    // ---- what leaves a replica

    /// Of its own disk, what is durable must bear out what it says.
    pub fn leaving(&self, from: Member, message: &Message, disk: &Content) -> Check {
        const NAME: &str = "nothing leaves a replica before it is durable";
        let fail = || breach(NAME, format!("{from:?} says {message:?}"));
        if disk.member != from {
            return fail();
        }
        match message {
            Message::Prepare(prepare) if disk.promised < prepare.ballot => fail(),
            Message::Promise(promise) => {
                if disk.promised < promise.ballot
                    || disk.end() < promise.learned.0 + promise.tail.len() as u64
                {
                    return fail();
                }
                self.may_vote(from, disk, promise.ballot)
            }
            Message::Write(write) => self.may_write(from, write),
            Message::Written(written) => {
                if disk.end() < written.matched.0
                    || disk.learned < written.learned.0
                    || disk.promised < written.ballot
                {
                    return fail();
                }
                self.may_vote(from, disk, written.ballot)
            }
            _ => Ok(()),
        }
    }

    /// The proposer of a change goes on under it without asking again: who knows the new members has promised.
    fn may_write(&self, from: Member, write: &Write) -> Check {
        let members = &write.membership;
        let promised = |m: &&Member| self.promised.get(m).is_some_and(|p| *p >= write.ballot);
        let count = members.members.iter().filter(promised).count();
        if members.ballot == write.ballot || count >= members.quorum() {
            return Ok(());
        }
        breach(
            "a coordinator writes by the promises of a quorum",
            format!("{from:?} at {}: {count} of {members:?}", write.ballot),
        )
    }

    fn may_vote(&self, from: Member, disk: &Content, ballot: Ballot) -> Check {
        let firsts = self.firsts.iter().map(|(m, _)| m);
        let named = self.memberships.iter().chain(firsts).find(|m| m.contains(from));
        let learned = named.is_some_and(|m| disk.learned >= m.since.0);
        if disk.status == Status::Voting && learned {
            return Ok(());
        }
        breach(
            "only voting members vote, and only after they learned that they are",
            format!(
                "{from:?} is {:?}, learned {}, votes for {ballot}",
                disk.status, disk.learned
            ),
        )
    }

    // ---- what clients are told

    pub fn told_elected(&mut self, ballot: Ballot, position: u64, node: &Node, before: u64) -> Check {
        let learned = node.state().learned.0;
        if let (false, Some(membership)) = (self.elected.contains_key(&ballot), &node.state().membership) {
            let adopted = |m: &&Member| self.adopted.get(m).is_some_and(|b| *b >= ballot);
            let count = membership.members.iter().filter(adopted).count();
            if count < membership.quorum() {
                return breach(
                    "a quorum has taken over what an elected writer inherited",
                    format!("{ballot}: {count} of {membership:?}"),
                );
            }
        }
        if position > learned || position < before {
            return breach(
                "an elected writer knows all that was acknowledged before it asked",
                format!("{ballot} at {position}, learned {learned}, acknowledged {before}"),
            );
        }
        let known = self.elected.entry(ballot).or_insert(position);
        *known = (*known).min(position);
        Ok(())
    }

    pub fn told_done(&mut self, at: u64, is: impl Fn(&Value) -> bool) -> Check {
        if self.value(at).is_none_or(|value| !is(value)) {
            return breach(
                "what is acknowledged is agreed",
                format!("position {at}: {:?}", self.value(at)),
            );
        }
        self.acknowledged = self.acknowledged.max(at);
        Ok(())
    }

    pub fn told_refused(&mut self, entry: Entry) -> Check {
        self.refused.insert(entry);
        if self.agreed.iter().any(|v| decode(v) == Some(entry)) {
            return breach("what was refused is never agreed", format!("{entry:?}"));
        }
        Ok(())
    }

    pub fn told_confirmed(&self, end: u64, acknowledged_before: u64) -> Check {
        if end < acknowledged_before {
            return breach(
                "a confirmed read sees all that was acknowledged before",
                format!("{end}, acknowledged {acknowledged_before}"),
            );
        }
        Ok(())
    }
}
