//! The whole machine: `handle`, `poll`, `deadline`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::{
    ContainerId, ContainerName, ContainerState, ContainerStatus, Event, EventKind, Fault, FaultKind,
    LaunchSpec, Limits, Millis, ProcessIdentity,
};

use crate::collecting::Collection;
use crate::container::{Alarm, Container, Doom, Ending, PendingUpdate, Phase};
use crate::draining::AT_ONCE;
use crate::input::{Answer, Input, Now, Ticket, Wish};
use crate::settings::Settings;

/// The agent's decisions. See the crate's head for the drive contract.
#[derive(Debug)]
pub struct AgentCore {
    pub(crate) settings: Settings,
    pub(crate) containers: BTreeMap<ContainerId, Container>,
    /// Names of containers that are not over.
    pub(crate) names: BTreeMap<ContainerName, ContainerId>,
    /// Ended ones, oldest first; the front is forgotten when there are too many.
    pub(crate) ended: VecDeque<ContainerId>,
    /// Every alarm that is set, earliest first.
    pub(crate) alarms: BTreeSet<(Millis, ContainerId)>,
    pub(crate) wishes: VecDeque<Wish>,
    pub(crate) sequence: u64,
    pub(crate) draining: bool,
    pub(crate) drains: Vec<(Ticket, u32)>,
    /// Those that a drain has not come to yet.
    pub(crate) to_drain: VecDeque<(ContainerId, Option<Millis>)>,
    /// Those that a drain has killed of late, and when.
    pub(crate) killed_by_drain: Vec<(Millis, ContainerId)>,
    pub(crate) living: usize,
    /// Where the search for ids of a user namespace goes on.
    pub(crate) next_id: u32,
    /// The same for ports and for ephemeral ports.
    pub(crate) next_port: u16,
    pub(crate) next_ephemeral: u16,
    pub(crate) collection: Collection,
}

impl AgentCore {
    /// `first_sequence`: number of the first event; the shell lets it grow over restarts.
    pub fn new(settings: Settings, first_sequence: u64) -> Self {
        Self {
            settings,
            containers: BTreeMap::new(),
            names: BTreeMap::new(),
            ended: VecDeque::new(),
            alarms: BTreeSet::new(),
            wishes: VecDeque::new(),
            sequence: first_sequence,
            draining: false,
            drains: Vec::new(),
            to_drain: VecDeque::new(),
            killed_by_drain: Vec::new(),
            living: 0,
            next_id: 0,
            next_port: 1,
            next_ephemeral: 1,
            collection: Collection::default(),
        }
    }

    pub fn poll(&mut self) -> Option<Wish> {
        self.wishes.pop_front()
    }

    /// When `Input::Tick` is due, in monotonic time.
    pub fn deadline(&self) -> Option<Millis> {
        let alarm = self.alarms.first().map(|(at, _)| *at);
        let others = self.removal_deadline().into_iter().chain(self.drain_deadline());
        alarm.into_iter().chain(others).min()
    }

    pub fn handle(&mut self, now: Now, input: Input) {
        debug_assert!(self.wishes.is_empty(), "drain every wish before the next input");
        match input {
            Input::Adopt { id, found } => self.adopt(now, id, *found),
            Input::Remember { id, ended } => self.remember(now, id, *ended),
            Input::Launch { ticket, id, spec } => self.launch(now, ticket, id, *spec),
            Input::Prepared { id, result } => self.prepared(now, &id, result),
            Input::Forked { id, result } => self.forked(now, &id, result),
            Input::Checkpointed { id, result } => self.checkpointed(now, &id, result),
            Input::Started { id } => self.started(now, &id),
            Input::StartFailed { id, fault } => self.start_failed(now, &id, fault),
            Input::Exited { id, end } => self.exited(now, &id, end),
            Input::Unkilled { id, message } => self.unkilled(now, &id, message),
            Input::LimitHit { id, limitation } => self.limit_hit(now, &id, limitation),
            Input::Cleaned {
                id,
                outcome,
                limitation,
                ended_at_ms,
            } => self.cleaned(now, &id, outcome, limitation, ended_at_ms),
            Input::Kill {
                ticket,
                id,
                signal,
                grace,
            } => self.kill(now, ticket, &id, signal, grace),
            Input::Wait { ticket, id } => self.wait(ticket, &id),
            Input::Cancel { ticket } => self.cancel(ticket),
            Input::Update { ticket, id, change } => self.update(ticket, &id, &change),
            Input::LimitsApplied { id, result } => self.limits_applied(now, &id, result),
            Input::Execed { id, spec } => {
                self.emit(
                    now,
                    &id,
                    EventKind::Exec {
                        command: spec.command,
                    },
                );
            }
            Input::PortRefused { id, port, refused } => {
                if self.containers.contains_key(&id) {
                    self.emit(now, &id, EventKind::PortRefused { port, refused });
                }
            }
            Input::Drain { ticket, grace } => self.drain(now, ticket, grace),
            Input::Leftover { id, age, wanted } => self.leftover(now, id, age, wanted),
            Input::LeftoverFree { id } => self.leftover_free(now, &id),
            Input::DiskUsed { used } => self.disk_used(now, used),
            Input::Removed { id, result } => self.removed(now, &id, result),
            Input::Collect { ticket, which } => self.collect(now, ticket, &which),
            Input::Tick => {
                self.drain_next(now);
                self.tick(now);
                self.remove_next(now);
            }
        }
    }

    // ---- what others may look at

    pub fn status(&self, id: &ContainerId) -> Option<&ContainerStatus> {
        self.containers.get(id).map(|c| &c.status)
    }

    pub fn spec(&self, id: &ContainerId) -> Option<&LaunchSpec> {
        self.containers.get(id).map(|c| &c.spec)
    }

    pub fn identity(&self, id: &ContainerId) -> Option<&ProcessIdentity> {
        self.containers.get(id).and_then(|c| c.identity.as_ref())
    }

    /// Why it is being taken down, to be checkpointed.
    pub fn killing(&self, id: &ContainerId) -> Option<model::Reason> {
        self.containers.get(id).and_then(Container::killing)
    }

    /// Limits to be checkpointed: those of an update that is in the kernel, though not yet answered.
    pub fn limits(&self, id: &ContainerId) -> Option<&Limits> {
        self.containers.get(id).map(|c| match &c.update {
            Some(update) if update.applied => &update.new,
            _ => &c.status.limits,
        })
    }

    /// Limits that are on their way into the kernel.
    pub fn updating(&self, id: &ContainerId) -> Option<&Limits> {
        let update = self.containers.get(id)?.update.as_ref()?;
        (!update.applied).then_some(&update.new)
    }

    /// How a container ended of which nothing is left but to clean up. `None`: nobody was promised that it would run.
    pub fn ending(&self, id: &ContainerId) -> Option<Ending> {
        let c = self.containers.get(id)?;
        let kept = c.phase == Phase::Cleaning && !c.has_failed();
        kept.then(|| Ending(c.clone()))
    }

    /// It is to be forgotten with its end, and somebody waits for that.
    pub fn is_told_once(&self, id: &ContainerId) -> bool {
        let container = self.containers.get(id);
        container.is_some_and(|c| c.spec.remove && !c.has_failed() && !c.waiters.is_empty())
    }

    /// Containers that are not over; with `all` also the remembered ones that did not ask to be removed.
    pub fn list(&self, all: bool) -> impl Iterator<Item = &ContainerStatus> {
        self.containers
            .values()
            .filter(move |c| !c.is_over() || (all && !c.spec.remove))
            .map(|c| &c.status)
    }

    pub fn living(&self) -> usize {
        self.living
    }

    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Sequence number of the last event emitted.
    pub fn last_sequence(&self) -> u64 {
        self.sequence
    }

    /// An exact id, a name in use, an unambiguous beginning of an id (4 characters or more), or the name
    /// of the container that ended last among those that had it.
    pub fn find(&self, text: &str) -> Result<ContainerId, Fault> {
        if let Ok(id) = text.parse::<ContainerId>()
            && self.containers.contains_key(&id)
        {
            return Ok(id);
        }
        if let Some(id) = text
            .parse()
            .ok()
            .and_then(|name: ContainerName| self.names.get(&name))
        {
            return Ok(id.clone());
        }
        if text.len() >= 4 {
            let mut matching = self.containers.keys().filter(|id| id.as_str().starts_with(text));
            match (matching.next(), matching.next()) {
                (Some(only), None) => return Ok(only.clone()),
                (Some(one), Some(two)) => {
                    let message =
                        format!("{text:?} is the beginning of several ids, among them {one} and {two}");
                    return Err(Fault::invalid("container", message).remedy("give more characters"));
                }
                _ => {}
            }
        }
        let ended = self.ended.iter().rev().find(|id| {
            self.containers
                .get(*id)
                .and_then(|c| c.status.name.as_ref())
                .is_some_and(|name| name.as_str() == text)
        });
        ended.cloned().ok_or_else(|| {
            Fault::new(
                FaultKind::NotFound,
                format!("no container has the id or name {text:?}"),
            )
            .field("container")
            .remedy("see `bulkhead ps -a`")
        })
    }

    // ---- asking

    fn wait(&mut self, ticket: Ticket, id: &ContainerId) {
        let Some(c) = self.containers.get_mut(id) else {
            return self.refuse_unknown(ticket, id);
        };
        match &c.status.termination {
            Some(termination) => {
                let termination = termination.clone();
                self.answer(ticket, Answer::Ended(termination));
            }
            None => c.waiters.push(ticket),
        }
    }

    fn cancel(&mut self, ticket: Ticket) {
        self.drains.retain(|(t, _)| *t != ticket);
        self.cancel_collect(ticket);
        for c in self.containers.values_mut() {
            c.waiters.retain(|t| *t != ticket);
            c.killers.retain(|t| *t != ticket);
            if c.launcher == Some(ticket) {
                // The launch goes on: whoever asked may come back with the same id.
                c.launcher = None;
            }
        }
    }

    fn update(&mut self, ticket: Ticket, id: &ContainerId, change: &Limits) {
        let Some(c) = self.containers.get_mut(id) else {
            return self.refuse_unknown(ticket, id);
        };
        if c.phase != Phase::Running {
            let message = format!(
                "container {id} is {} and can not be updated",
                c.status.state.as_str()
            );
            return self.refuse(ticket, Fault::new(FaultKind::State, message));
        }
        if c.update.is_some() {
            let fault = Fault::new(
                FaultKind::State,
                format!("another update of container {id} is under way"),
            );
            return self.refuse(ticket, fault.remedy("try again when it is done"));
        }
        let old = c.status.limits.clone();
        let new = old.merged(change);
        c.update = Some(PendingUpdate {
            ticket,
            new: new.clone(),
            applied: false,
        });
        c.writing += 1;
        self.wishes.push_back(Wish::ApplyLimits {
            id: id.clone(),
            old: Box::new(old),
            new: Box::new(new),
        });
    }

    fn limits_applied(&mut self, now: Now, id: &ContainerId, result: Result<(), Fault>) {
        let Some(c) = self.containers.get_mut(id) else {
            return;
        };
        c.writing = c.writing.saturating_sub(1);
        if c.phase == Phase::Cleaning {
            return self.clean(now, id);
        }
        let Some(update) = c.update.as_mut() else { return };
        match result {
            Ok(()) => {
                // Durable before it is told: a restarted agent must know the limits that are in force.
                update.applied = true;
                c.writing += 1;
                self.wishes.push_back(Wish::Checkpoint { id: id.clone() });
            }
            Err(fault) => {
                let ticket = update.ticket;
                c.update = None;
                self.refuse(ticket, fault);
                self.kill_if_written(now, id);
            }
        }
    }

    pub(crate) fn update_persisted(&mut self, now: Now, id: &ContainerId, result: Result<(), Fault>) {
        let Some(c) = self.containers.get_mut(id) else {
            return;
        };
        let Some(update) = c.update.take_if(|u| u.applied) else {
            return;
        };
        // In the kernel it is in force either way, so that is what is shown from now on.
        c.status.limits = update.new.clone();
        c.spec.limits = update.new.clone();
        match result {
            Ok(()) => {
                self.emit(now, id, EventKind::Updated);
                self.answer(update.ticket, Answer::Updated(Box::new(update.new)));
            }
            Err(fault) => self.refuse(update.ticket, fault),
        }
    }

    // ---- time

    /// As many alarms as there is time for: the deadline says that more are due.
    fn tick(&mut self, now: Now) {
        for _ in 0..AT_ONCE {
            let Some((at, id)) = self.alarms.first().cloned() else {
                return;
            };
            if at > now.monotonic {
                return;
            }
            let Some((_, alarm)) = self.containers.get(&id).and_then(|c| c.alarm) else {
                self.alarms.remove(&(at, id));
                continue;
            };
            self.set_alarm(&id, None);
            match alarm {
                Alarm::Timeout => {
                    let grace = self.containers.get(&id).map_or(Millis(0), |c| c.spec.grace);
                    self.end_gracefully(now, &id, Doom::Timeout, grace);
                }
                Alarm::KillAll => self.kill_all(now, &id),
                Alarm::RetryCleanup => self.clean(now, &id),
                Alarm::StartOverdue => {
                    if let Some(c) = self.containers.get_mut(&id) {
                        let patience = self.settings.start_patience;
                        c.doom(Doom::Failed(Fault::failed(format!(
                            "the command was not started within {patience}"
                        ))));
                    }
                    self.kill_all(now, &id);
                }
            }
        }
    }

    pub(crate) fn set_alarm(&mut self, id: &ContainerId, alarm: Option<(Millis, Alarm)>) {
        let Some(c) = self.containers.get_mut(id) else {
            return;
        };
        if let Some((at, _)) = c.alarm.take() {
            self.alarms.remove(&(at, id.clone()));
        }
        if let Some((at, _)) = alarm {
            self.alarms.insert((at, id.clone()));
        }
        c.alarm = alarm;
    }

    pub(crate) fn backoff(&self, attempt: u32) -> Millis {
        let doubled = self
            .settings
            .cleanup_retry_first
            .0
            .saturating_mul(1 << attempt.saturating_sub(1).min(20));
        Millis(doubled.min(self.settings.cleanup_retry_max.0))
    }

    // ---- telling

    pub(crate) fn at(&mut self, id: &ContainerId, phase: Phase) -> Option<&mut Container> {
        self.containers.get_mut(id).filter(|c| c.phase == phase)
    }

    pub(crate) fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.wishes.push_back(Wish::Answer { ticket, answer });
    }

    pub(crate) fn refuse(&mut self, ticket: Ticket, fault: Fault) {
        self.answer(ticket, Answer::Refused(fault));
    }

    pub(crate) fn refuse_unknown(&mut self, ticket: Ticket, id: &ContainerId) {
        let fault = Fault::new(FaultKind::NotFound, format!("no container has the id {id}"));
        self.refuse(ticket, fault.field("container"));
    }

    pub(crate) fn emit_state(&mut self, now: Now, id: &ContainerId) {
        if let Some(state) = self.status(id).map(|s| s.state) {
            self.emit(now, id, EventKind::State { state });
        }
    }

    pub(crate) fn emit(&mut self, now: Now, id: &ContainerId, kind: EventKind) {
        self.sequence += 1;
        let name = self.status(id).and_then(|s| s.name.clone());
        let event = Event {
            sequence: self.sequence,
            at_ms: now.wall_ms,
            container: id.clone(),
            name,
            kind,
        };
        self.wishes.push_back(Wish::Emit(event));
    }

    /// Sets where the container's own directory is, for people who inspect it.
    pub fn set_sandbox(&mut self, id: &ContainerId, path: std::path::PathBuf) {
        if let Some(c) = self.containers.get_mut(id) {
            c.status.sandbox = Some(path);
        }
    }
}

pub(crate) fn new_status(id: &ContainerId, spec: &LaunchSpec, created_at_ms: u64) -> ContainerStatus {
    ContainerStatus {
        id: id.clone(),
        name: spec.name.clone(),
        state: ContainerState::Admitted,
        pid: None,
        command: spec.command.clone(),
        limits: spec.limits.clone(),
        network: spec.network,
        grant: spec.grant.clone(),
        labels: spec.labels.clone(),
        created_at_ms,
        started_at_ms: None,
        sandbox: None,
        terminal: spec.terminal.is_some(),
        waits_for: None,
        termination: None,
    }
}

pub(crate) fn after(now: Now, span: Millis) -> Millis {
    Millis(now.monotonic.0.saturating_add(span.0))
}
