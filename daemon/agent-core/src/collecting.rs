//! What finished containers leave on disk, and when it goes.
//!
//! ```text
//! max_age = gc_delay × max(0, 1 − headroom − use)      Mesos' formula; use from 0 to 1, of the work directory
//! ```
//!
//! Whatever is older goes, the oldest first, one at a time. Nothing of a container that lives, or whose directory a living
//! one has been given, is ever touched. What can not be removed is told once and tried again, ever less often.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use model::{ContainerId, EventKind, Fault, FaultKind, Millis, Removed};

use crate::agent::{AgentCore, after};
use crate::input::{Answer, Now, Ticket, Wish};

/// Leftovers that one request takes; the oldest. Whoever wants more asks again.
pub const COLLECTED_MAX: usize = 4096;

/// What one finished container left.
#[derive(Debug, Clone)]
pub(crate) struct Leftover {
    /// How old it was when we learned of it, and when that was. Not the wall clock, which jumps.
    age: Millis,
    known_since: Millis,
    /// Whoever asked for it to go: at once, whatever its age.
    wanted: bool,
    attempts: u32,
    not_before: Millis,
    /// As told last, so that it is told once.
    trouble: String,
}

/// What is in the way of disk space, and the state of its removal.
#[derive(Debug, Default)]
pub(crate) struct Collection {
    leftovers: BTreeMap<ContainerId, Leftover>,
    /// All of them, the oldest first.
    oldest: BTreeSet<(i64, ContainerId)>,
    /// Those that are wanted, by when they may be tried.
    wanted: BTreeSet<(Millis, ContainerId)>,
    /// Of the work directory's file system, as measured last.
    used: Option<f64>,
    removing: Option<ContainerId>,
    requests: Vec<Request>,
}

/// Somebody waits for these to be gone.
#[derive(Debug)]
struct Request {
    ticket: Ticket,
    open: BTreeSet<ContainerId>,
    removed: Vec<Removed>,
}

/// Which leftovers are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// What the agent would remove by itself now.
    Due,
    OlderThan(Millis),
    Named(Vec<ContainerId>),
}

impl Leftover {
    fn age(&self, now: Now) -> Millis {
        let since = now.monotonic.0.saturating_sub(self.known_since.0);
        Millis(self.age.0.saturating_add(since))
    }

    /// When it ended, in monotonic time: before our start it is negative.
    fn ended(&self) -> i64 {
        let signed = |time: Millis| i64::try_from(time.0).unwrap_or(i64::MAX);
        signed(self.known_since).saturating_sub(signed(self.age))
    }
}

impl Collection {
    fn insert(&mut self, id: ContainerId, leftover: Leftover) {
        self.oldest.insert((leftover.ended(), id.clone()));
        self.leftovers.insert(id, leftover);
    }

    fn remove(&mut self, id: &ContainerId) {
        if let Some(leftover) = self.leftovers.remove(id) {
            self.oldest.remove(&(leftover.ended(), id.clone()));
            self.wanted.remove(&(leftover.not_before, id.clone()));
        }
    }

    /// To be tried from then on, and without being too old if it is wanted.
    fn schedule(&mut self, id: &ContainerId, not_before: Millis, wanted: bool) {
        if let Some(leftover) = self.leftovers.get_mut(id) {
            self.wanted.remove(&(leftover.not_before, id.clone()));
            leftover.not_before = not_before;
            leftover.wanted |= wanted;
            if leftover.wanted {
                self.wanted.insert((not_before, id.clone()));
            }
        }
    }
}

impl AgentCore {
    /// How old a leftover may get while so much of the disk is used.
    pub fn max_age(&self) -> Millis {
        let used = self.collection.used.unwrap_or(0.0).clamp(0.0, 1.0);
        let share = (1.0 - self.settings.gc_headroom - used).max(0.0);
        Millis((self.settings.gc_delay.0 as f64 * share) as u64)
    }

    /// What finished containers left, with its age, the oldest first.
    pub fn leftovers(&self, now: Now) -> Vec<(ContainerId, Millis)> {
        let age = |id: &ContainerId| self.collection.leftovers.get(id).map(|l| l.age(now));
        self.collection
            .oldest
            .iter()
            .filter_map(|(_, id)| Some((id.clone(), age(id)?)))
            .collect()
    }

    /// Those of [`Self::leftovers`] that are meant.
    pub fn select(&self, now: Now, which: &Which) -> Result<Vec<(ContainerId, Millis)>, Fault> {
        let mut all = self.leftovers(now);
        match which {
            Which::Due => {
                let max_age = self.max_age();
                all.retain(|(id, age)| *age > max_age && self.in_use(id).is_none());
            }
            Which::OlderThan(least) => all.retain(|(id, age)| age >= least && self.in_use(id).is_none()),
            Which::Named(ids) => {
                for id in ids {
                    if let Some(why) = self.in_use(id) {
                        return Err(Fault::new(FaultKind::State, why).field("container"));
                    }
                    if !self.collection.leftovers.contains_key(id) {
                        let message = format!("container {id} has left nothing on disk");
                        return Err(Fault::new(FaultKind::NotFound, message).field("container"));
                    }
                }
                all.retain(|(id, _)| ids.contains(id));
            }
        }
        all.truncate(COLLECTED_MAX);
        Ok(all)
    }

    pub fn leftover_count(&self) -> usize {
        self.collection.leftovers.len()
    }

    pub fn is_leftover(&self, id: &ContainerId) -> bool {
        self.collection.leftovers.contains_key(id)
    }

    /// The one that is being removed, if one is.
    pub fn being_removed(&self) -> Option<&ContainerId> {
        self.collection.removing.as_ref()
    }

    /// Why nothing of it may be removed.
    fn in_use(&self, id: &ContainerId) -> Option<String> {
        if self.containers.get(id).is_some_and(|c| !c.is_over()) {
            return Some(format!("container {id} has not ended"));
        }
        let user = self.containers.values().filter(|c| !c.is_over()).find(|c| {
            let mut given = c.spec.volumes.iter().map(|v| &v.source).chain(&c.spec.rootfs);
            given.any(|path| names(path, id))
        })?;
        Some(format!(
            "container {} has been given a directory of container {id}",
            user.status.id
        ))
    }

    // ---- facts

    /// Something is on disk of a container that is over, or of which nobody knows anything else.
    pub(crate) fn leftover(&mut self, now: Now, id: ContainerId, age: Millis, wanted: bool) {
        if self.containers.get(&id).is_some_and(|c| !c.is_over()) {
            return;
        }
        if !self.collection.leftovers.contains_key(&id) {
            let leftover = Leftover {
                age,
                known_since: now.monotonic,
                wanted: false,
                attempts: 0,
                not_before: Millis(0),
                trouble: String::new(),
            };
            self.collection.insert(id.clone(), leftover);
        }
        if wanted {
            self.collection.schedule(&id, now.monotonic, true);
            self.remove_next(now);
        }
    }

    pub(crate) fn leftover_free(&mut self, now: Now, id: &ContainerId) {
        if self.collection.removing.as_ref() != Some(id) {
            self.collection.schedule(id, now.monotonic, true);
            self.remove_next(now);
        }
    }

    pub(crate) fn disk_used(&mut self, now: Now, used: f64) {
        self.collection.used = Some(used);
        self.remove_next(now);
    }

    pub(crate) fn removed(&mut self, now: Now, id: &ContainerId, result: Result<Removed, String>) {
        if self.collection.removing.as_ref() != Some(id) {
            return;
        }
        self.collection.removing = None;
        let age = self.collection.leftovers.get(id).map(|l| l.age(now));
        let name = self.status(id).and_then(|s| s.name.clone());
        let mut told = match result {
            Ok(removed) => {
                self.collection.remove(id);
                let kind = EventKind::SandboxRemoved {
                    bytes: removed.bytes,
                    files: removed.files,
                };
                self.emit(now, id, kind);
                self.forget_ended(id);
                removed
            }
            Err(message) => {
                self.put_off(now, id, &message);
                Removed {
                    trouble: Some(message),
                    ..Removed::of(id.clone())
                }
            }
        };
        told.name = name;
        told.age = age.unwrap_or_default();
        self.tell_requests(&told);
        self.remove_next(now);
    }

    fn tell_requests(&mut self, told: &Removed) {
        for request in &mut self.collection.requests {
            if request.open.remove(&told.id) {
                request.removed.push(told.clone());
            }
        }
        self.settle_requests();
    }

    fn put_off(&mut self, now: Now, id: &ContainerId, message: &str) {
        let (first, most) = (
            self.settings.removal_retry_first.0,
            self.settings.removal_retry_max.0,
        );
        let Some(leftover) = self.collection.leftovers.get_mut(id) else {
            return;
        };
        leftover.attempts += 1;
        let attempt = leftover.attempts;
        let delay = first.saturating_mul(1 << (attempt - 1).min(20)).min(most);
        let news = leftover.trouble != message;
        if news {
            message.clone_into(&mut leftover.trouble);
        }
        self.collection.schedule(id, after(now, Millis(delay)), false);
        if news {
            let message = message.to_owned();
            self.emit(now, id, EventKind::CleanupRetry { attempt, message });
        }
    }

    /// Its record goes with its directories, so that nobody looks for them in vain. Not that of one whose directories were
    /// to go at its end: perhaps nobody has asked yet how it ended.
    fn forget_ended(&mut self, id: &ContainerId) {
        if self
            .containers
            .get(id)
            .is_some_and(|c| c.is_over() && !c.leaves_nothing())
        {
            self.containers.remove(id);
            self.ended.retain(|ended| ended != id);
            self.wishes.push_back(Wish::Forget { id: id.clone() });
        }
    }

    // ---- requests

    pub(crate) fn collect(&mut self, now: Now, ticket: Ticket, which: &Which) {
        let selected = match self.select(now, which) {
            Ok(selected) => selected,
            Err(fault) => return self.refuse(ticket, fault),
        };
        for (id, _) in &selected {
            // Whoever asks has perhaps just taken a hindrance away.
            self.collection.schedule(id, now.monotonic, true);
        }
        self.collection.requests.push(Request {
            ticket,
            open: selected.into_iter().map(|(id, _)| id).collect(),
            removed: Vec::new(),
        });
        self.settle_requests();
        self.remove_next(now);
    }

    pub(crate) fn cancel_collect(&mut self, ticket: Ticket) {
        self.collection
            .requests
            .retain(|request| request.ticket != ticket);
    }

    fn settle_requests(&mut self) {
        let (done, open) = std::mem::take(&mut self.collection.requests)
            .into_iter()
            .partition(|request| request.open.is_empty());
        self.collection.requests = open;
        let done: Vec<Request> = done;
        for Request { ticket, removed, .. } in done {
            self.answer(ticket, Answer::Collected(removed));
        }
    }

    // ---- deciding

    /// When something that is wanted may be tried again.
    pub(crate) fn removal_deadline(&self) -> Option<Millis> {
        match self.collection.removing {
            Some(_) => None,
            None => self.collection.wanted.first().map(|(at, _)| *at),
        }
    }

    /// The next that is due. One at a time: a disk has one arm, and launches need the workers.
    pub(crate) fn remove_next(&mut self, now: Now) {
        while self.collection.removing.is_none() {
            let Some(id) = self.next_due(now) else { return };
            if let Some(why) = self.in_use(&id) {
                let later = after(now, self.settings.removal_retry_max);
                self.collection.schedule(&id, later, false);
                let told = Removed {
                    trouble: Some(why),
                    ..Removed::of(id)
                };
                self.tell_requests(&told);
                continue;
            }
            self.collection.removing = Some(id.clone());
            self.wishes.push_back(Wish::RemoveLeftover { id });
        }
    }

    fn next_due(&self, now: Now) -> Option<ContainerId> {
        if let Some((at, id)) = self.collection.wanted.first()
            && *at <= now.monotonic
        {
            return Some(id.clone());
        }
        // Until the disk was looked at nothing is too old.
        self.collection.used?;
        let max_age = self.max_age();
        self.collection
            .oldest
            .iter()
            .map_while(|(_, id)| Some((id, self.collection.leftovers.get(id)?)))
            .take_while(|(_, leftover)| leftover.age(now) > max_age)
            .find(|(_, leftover)| leftover.not_before <= now.monotonic)
            .map(|(id, _)| id.clone())
    }

    /// A container whose directories would be in the way of a new one of the same id.
    pub(crate) fn refuse_leftover(&mut self, ticket: Ticket, id: &ContainerId) -> bool {
        let there = self.is_leftover(id);
        if there {
            let message = format!("an earlier container {id} has left its sandbox");
            let fault = Fault::new(FaultKind::Conflict, message).field("id");
            self.refuse(ticket, fault.remedy(format!("remove it with: bulkhead gc {id}")));
        }
        there
    }
}

/// `path` leads into a directory of this container: `…/sandboxes/<id>/…` and the like.
fn names(path: &Path, id: &ContainerId) -> bool {
    let mut parts = path.iter().peekable();
    while let Some(part) = parts.next() {
        let ours = ["sandboxes", "output", "overlays"]
            .iter()
            .any(|name| part == *name);
        if ours && parts.peek().is_some_and(|next| *next == id.as_str()) {
            return true;
        }
    }
    false
}
