//! The whole machine: `handle`, `poll`, `deadline`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::{
    ContainerId, ContainerName, ContainerState, ContainerStatus, Event, EventKind, Fault, FaultKind, LaunchSpec,
    Limits, Millis, ProcessIdentity,
};

use crate::container::{Alarm, Container, Doom, PendingUpdate, Phase, SIGKILL, SIGTERM};
use crate::input::{Answer, CleanupOutcome, Input, Now, Ticket, Wish};
use crate::settings::Settings;

/// The agent's decisions. See the crate's head for the drive contract.
#[derive(Debug)]
pub struct AgentCore {
    pub(crate) settings: Settings,
    pub(crate) containers: BTreeMap<ContainerId, Container>,
    /// Names of containers that are not over.
    pub(crate) names: BTreeMap<ContainerName, ContainerId>,
    /// Ended ones, oldest first; the front is forgotten when there are too many.
    ended: VecDeque<ContainerId>,
    /// Every alarm that is set, earliest first.
    alarms: BTreeSet<(Millis, ContainerId)>,
    wishes: VecDeque<Wish>,
    sequence: u64,
    draining: bool,
    drains: Vec<(Ticket, u32)>,
    pub(crate) living: usize,
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
            living: 0,
        }
    }

    pub fn poll(&mut self) -> Option<Wish> {
        self.wishes.pop_front()
    }

    /// When `Input::Tick` is due, in monotonic time.
    pub fn deadline(&self) -> Option<Millis> {
        self.alarms.first().map(|(at, _)| *at)
    }

    pub fn handle(&mut self, now: Now, input: Input) {
        debug_assert!(self.wishes.is_empty(), "drain every wish before the next input");
        match input {
            Input::Adopt { id, found } => self.adopt(now, id, *found),
            Input::Launch { ticket, id, spec } => self.launch(now, ticket, id, *spec),
            Input::Prepared { id, result } => self.prepared(now, &id, result),
            Input::Forked { id, result } => self.forked(now, &id, result),
            Input::Checkpointed { id, result } => self.checkpointed(now, &id, result),
            Input::Started { id } => self.started(now, &id),
            Input::StartFailed { id, fault } => self.start_failed(now, &id, fault),
            Input::Exited { id, end } => self.exited(now, &id, end),
            Input::LimitHit { id, limitation } => self.limit_hit(now, &id, limitation),
            Input::Cleaned { id, outcome, limitation } => self.cleaned(now, &id, outcome, limitation),
            Input::Kill { ticket, id, signal, grace } => self.kill(now, ticket, &id, signal, grace),
            Input::Wait { ticket, id } => self.wait(ticket, &id),
            Input::Cancel { ticket } => self.cancel(ticket),
            Input::Update { ticket, id, change } => self.update(ticket, &id, &change),
            Input::LimitsApplied { id, result } => self.limits_applied(now, &id, result),
            Input::Execed { id, spec } => {
                self.emit(now, &id, EventKind::Exec { command: spec.command });
            }
            Input::Drain { ticket, grace } => self.drain(now, ticket, grace),
            Input::Tick => self.tick(now),
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
            && self.containers.contains_key(&id) {
                return Ok(id);
            }
        if let Some(id) = text.parse().ok().and_then(|name: ContainerName| self.names.get(&name)) {
            return Ok(id.clone());
        }
        if text.len() >= 4 {
            let mut matching = self.containers.keys().filter(|id| id.as_str().starts_with(text));
            match (matching.next(), matching.next()) {
                (Some(only), None) => return Ok(only.clone()),
                (Some(one), Some(two)) => {
                    let message = format!("{text:?} is the beginning of several ids, among them {one} and {two}");
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
            Fault::new(FaultKind::NotFound, format!("no container has the id or name {text:?}"))
                .field("container")
                .remedy("see `bulkhead ps -a`")
        })
    }

    // ---- launching

    fn launch(&mut self, now: Now, ticket: Ticket, id: ContainerId, spec: LaunchSpec) {
        if let Some(known) = self.containers.get_mut(&id) {
            return if known.spec == spec && !known.is_over() {
                // A retry: it joins the launch under way, or learns that it has been done.
                match known.phase {
                    Phase::Running => {
                        self.answer(ticket, Answer::Launched { id, existed: true });
                    }
                    _ if known.launcher.is_none() && known.status.started_at_ms.is_none() => {
                        known.launcher = Some(ticket);
                    }
                    _ => self.answer(ticket, Answer::Launched { id, existed: true }),
                }
            } else {
                let state = known.status.state.as_str();
                let message = format!("the id {id} belongs to another container ({state})");
                self.refuse(ticket, Fault::new(FaultKind::Conflict, message).field("id"));
            };
        }
        if self.draining {
            let fault = Fault::new(FaultKind::State, "the agent is draining and takes no more containers");
            return self.refuse(ticket, fault.remedy("restart the agent, or launch on another host"));
        }
        if self.living >= self.settings.containers_max {
            let message = format!("{} containers run, which is the most this agent takes", self.living);
            let fault = Fault::new(FaultKind::Exhausted, message);
            return self.refuse(ticket, fault.remedy("end some, or raise --max-containers"));
        }
        if let Some(name) = &spec.name {
            if let Some(owner) = self.names.get(name) {
                let message = format!("{name:?} is in use by container {owner}", name = name.as_str());
                let fault = Fault::new(FaultKind::Conflict, message).field("name");
                return self.refuse(ticket, fault.remedy("choose another name, or kill that container"));
            }
            self.names.insert(name.clone(), id.clone());
        }
        self.living += 1;
        let status = new_status(&id, &spec, now.wall_ms);
        let mut container = Container::new(status, spec.clone(), Phase::Preparing);
        container.launcher = Some(ticket);
        self.containers.insert(id.clone(), container);
        self.emit_state(now, &id);
        self.wishes.push_back(Wish::Prepare { id, spec: Box::new(spec) });
    }

    fn prepared(&mut self, now: Now, id: &ContainerId, result: Result<(), Fault>) {
        let Some(c) = self.at(id, Phase::Preparing) else { return };
        match result {
            Err(fault) => {
                c.doom(Doom::Failed(fault));
                self.clean(now, id);
            }
            Ok(()) if c.doom.is_some() => self.clean(now, id),
            Ok(()) => {
                c.phase = Phase::Forking;
                c.status.state = ContainerState::Prepared;
                self.emit_state(now, id);
                self.wishes.push_back(Wish::Fork { id: id.clone() });
            }
        }
    }

    fn forked(&mut self, now: Now, id: &ContainerId, result: Result<ProcessIdentity, Fault>) {
        let Some(c) = self.at(id, Phase::Forking) else { return };
        match result {
            Err(fault) => {
                c.doom(Doom::Failed(fault));
                self.clean(now, id);
            }
            Ok(identity) => {
                c.status.pid = Some(identity.pid);
                c.identity = Some(identity);
                if c.doom.is_some() {
                    return self.kill_all(now, id);
                }
                c.phase = Phase::Checkpointing;
                c.status.state = ContainerState::Forked;
                c.writing += 1;
                self.emit_state(now, id);
                self.wishes.push_back(Wish::Checkpoint { id: id.clone() });
            }
        }
    }

    fn checkpointed(&mut self, now: Now, id: &ContainerId, result: Result<(), Fault>) {
        let patience = self.settings.start_patience;
        let Some(c) = self.containers.get_mut(id) else { return };
        c.writing = c.writing.saturating_sub(1);
        let killers = std::mem::take(&mut c.killers);
        let phase = c.phase;
        for ticket in killers {
            // In force even if it could not be written: only a crash within the grace would forget it.
            self.answer(ticket, Answer::Signalled);
        }
        if phase == Phase::Cleaning {
            return self.clean(now, id);
        }
        let Some(c) = self.containers.get_mut(id) else { return };
        if c.phase != Phase::Checkpointing {
            return self.update_persisted(now, id, result);
        }
        match result {
            Err(fault) => {
                c.doom(Doom::Failed(fault));
                self.kill_all(now, id);
            }
            Ok(()) if c.doom.is_some() => self.kill_all(now, id),
            Ok(()) => {
                c.phase = Phase::Starting;
                c.status.state = ContainerState::Isolated;
                self.set_alarm(id, Some((after(now, patience), Alarm::StartOverdue)));
                self.emit_state(now, id);
                self.wishes.push_back(Wish::OpenGate { id: id.clone() });
            }
        }
    }

    fn started(&mut self, now: Now, id: &ContainerId) {
        let Some(c) = self.at(id, Phase::Starting) else { return };
        c.phase = Phase::Running;
        c.status.state = ContainerState::Running;
        c.status.started_at_ms = Some(now.wall_ms);
        let alarm = c.spec.timeout.map(|allowed| (after(now, allowed), Alarm::Timeout));
        let launcher = c.launcher.take();
        self.set_alarm(id, alarm);
        self.emit_state(now, id);
        if let Some(ticket) = launcher {
            self.answer(ticket, Answer::Launched { id: id.clone(), existed: false });
        }
    }

    fn start_failed(&mut self, now: Now, id: &ContainerId, fault: Fault) {
        let patience = self.settings.failed_init_patience;
        let Some(c) = self.containers.get_mut(id) else { return };
        // The report may come before the checkpoint's answer: the child works on while we write.
        if !matches!(c.phase, Phase::Checkpointing | Phase::Starting) {
            return;
        }
        c.doom(Doom::Failed(fault));
        c.phase = Phase::Dying;
        self.set_alarm(id, Some((after(now, patience), Alarm::KillAll)));
    }

    // ---- ending

    fn exited(&mut self, now: Now, id: &ContainerId, end: crate::EndReport) {
        let Some(c) = self.containers.get_mut(id) else { return };
        match c.phase {
            Phase::Preparing | Phase::Forking | Phase::Cleaning | Phase::Over => return,
            Phase::Checkpointing | Phase::Starting => {
                c.doom(Doom::Failed(Fault::failed("the init ended before the command was started")));
            }
            Phase::Running | Phase::Dying => {}
        }
        c.end = Some(end);
        self.clean(now, id);
    }

    fn limit_hit(&mut self, now: Now, id: &ContainerId, limitation: model::Limitation) {
        let Some(c) = self.containers.get_mut(id) else { return };
        if !matches!(c.phase, Phase::Starting | Phase::Running | Phase::Dying) || c.limitation.is_some() {
            return;
        }
        let message = limitation.message.clone();
        c.limitation = Some(limitation);
        c.doom(Doom::Limit);
        self.emit(now, id, EventKind::LimitHit { message });
        self.kill_all(now, id);
    }

    fn kill(&mut self, now: Now, ticket: Ticket, id: &ContainerId, signal: i32, grace: Option<Millis>) {
        let Some(c) = self.containers.get_mut(id) else { return self.refuse_unknown(ticket, id) };
        if c.is_over() {
            let fault = Fault::new(FaultKind::State, format!("container {id} has ended already"));
            return self.refuse(ticket, fault);
        }
        match signal {
            0 | SIGKILL => {
                let grace = if signal == SIGKILL { Millis(0) } else { grace.unwrap_or(c.spec.grace) };
                self.end_gracefully(now, id, Doom::Killed, grace);
                // A grace that outlives us must be known to a successor before it is promised.
                if let Some(c) = self.containers.get_mut(id).filter(|c| c.phase == Phase::Dying && grace.0 > 0) {
                    c.killers.push(ticket);
                    c.writing += 1;
                    return self.wishes.push_back(Wish::Checkpoint { id: id.clone() });
                }
            }
            _ if c.phase == Phase::Running || c.phase == Phase::Dying => {
                c.delivered = Some(signal);
                self.wishes.push_back(Wish::Signal { id: id.clone(), signal });
            }
            _ => {
                let message = format!("container {id} is {} and can not take a signal", c.status.state.as_str());
                return self.refuse(ticket, Fault::new(FaultKind::State, message).field("signal"));
            }
        }
        self.answer(ticket, Answer::Signalled);
    }

    /// SIGTERM now, everything after `grace`. A second call may shorten the first one's grace, never lengthen it.
    fn end_gracefully(&mut self, now: Now, id: &ContainerId, doom: Doom, grace: Millis) {
        let Some(c) = self.containers.get_mut(id) else { return };
        match c.phase {
            // Nothing runs yet: the step under way sees the doom when it comes back.
            Phase::Preparing | Phase::Forking | Phase::Checkpointing => c.doom(doom),
            Phase::Cleaning | Phase::Over => {}
            Phase::Starting | Phase::Running | Phase::Dying => {
                let was_killing = c.status.state == ContainerState::Killing;
                c.doom(doom);
                if grace == Millis(0) {
                    return self.kill_all(now, id);
                }
                let due = after(now, grace);
                let due = match c.alarm {
                    Some((at, Alarm::KillAll)) => at.min(due),
                    _ => due,
                };
                c.phase = Phase::Dying;
                self.set_alarm(id, Some((due, Alarm::KillAll)));
                self.wishes.push_back(Wish::Signal { id: id.clone(), signal: SIGTERM });
                if !was_killing {
                    self.emit_state(now, id);
                }
            }
        }
    }

    pub(crate) fn kill_all(&mut self, now: Now, id: &ContainerId) {
        let retry = self.settings.kill_retry;
        let Some(c) = self.containers.get_mut(id) else { return };
        c.phase = Phase::Dying;
        c.status.state = ContainerState::Killing;
        self.set_alarm(id, Some((after(now, retry), Alarm::KillAll)));
        self.wishes.push_back(Wish::KillAll { id: id.clone() });
    }

    pub(crate) fn clean(&mut self, now: Now, id: &ContainerId) {
        let Some(c) = self.containers.get_mut(id) else { return };
        c.phase = Phase::Cleaning;
        if c.writing > 0 {
            // Comes back here when that is done.
            return self.set_alarm(id, None);
        }
        c.cleanup_attempts += 1;
        let first = c.status.state != ContainerState::Killing || c.cleanup_attempts == 1;
        c.status.state = ContainerState::Killing;
        // A command that never ran left nothing worth keeping.
        let remove = c.spec.remove || matches!(c.doom, Some(Doom::Failed(_)));
        self.set_alarm(id, None);
        if first {
            self.emit_state(now, id);
        }
        self.wishes.push_back(Wish::Cleanup { id: id.clone(), remove });
    }

    fn cleaned(
        &mut self,
        now: Now,
        id: &ContainerId,
        outcome: CleanupOutcome,
        limitation: Option<model::Limitation>,
    ) {
        let Some(c) = self.at(id, Phase::Cleaning) else { return };
        if c.limitation.is_none() && !matches!(c.doom, Some(Doom::Failed(_))) {
            c.limitation = limitation;
        }
        if let CleanupOutcome::Busy { message } = outcome {
            let attempt = c.cleanup_attempts;
            let delay = self.backoff(attempt);
            self.set_alarm(id, Some((after(now, delay), Alarm::RetryCleanup)));
            return self.emit(now, id, EventKind::CleanupRetry { attempt, message });
        }
        self.over(now, id);
    }

    fn over(&mut self, now: Now, id: &ContainerId) {
        let Some(c) = self.containers.get_mut(id) else { return };
        let termination = c.termination(now.wall_ms);
        c.phase = Phase::Over;
        c.status.state = ContainerState::Destroyed;
        c.status.pid = None;
        c.status.termination = Some(termination.clone());
        let waiters = std::mem::take(&mut c.waiters);
        let launcher = c.launcher.take();
        let update = c.update.take();
        let killers = std::mem::take(&mut c.killers);
        let name = c.status.name.clone();
        let failure = match &c.doom {
            Some(Doom::Failed(fault)) => fault.clone(),
            _ => Fault::new(FaultKind::State, format!("killed while being launched: {}", termination.message)),
        };
        self.living -= 1;
        if let Some(name) = name
            && self.names.get(&name) == Some(id) {
                self.names.remove(&name);
            }
        self.set_alarm(id, None);
        let ended = EventKind::Ended {
            exit_status: termination.exit_status,
            reason: termination.reason,
            message: termination.message.clone(),
        };
        self.emit(now, id, ended);
        self.emit_state(now, id);
        if let Some(ticket) = launcher {
            self.refuse(ticket, failure);
        }
        if let Some(update) = update {
            let fault = Fault::new(FaultKind::State, format!("container {id} ended during the update"));
            self.refuse(update.ticket, fault);
        }
        for ticket in killers {
            self.answer(ticket, Answer::Signalled);
        }
        for ticket in waiters {
            self.answer(ticket, Answer::Ended(termination.clone()));
        }
        self.ended.push_back(id.clone());
        self.forget_oldest();
        self.settle_drains();
    }

    fn forget_oldest(&mut self) {
        while self.ended.len() > self.settings.remembered_max {
            if let Some(oldest) = self.ended.pop_front() {
                self.containers.remove(&oldest);
                self.wishes.push_back(Wish::Forget { id: oldest });
            }
        }
    }

    // ---- asking

    fn wait(&mut self, ticket: Ticket, id: &ContainerId) {
        let Some(c) = self.containers.get_mut(id) else { return self.refuse_unknown(ticket, id) };
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
        let Some(c) = self.containers.get_mut(id) else { return self.refuse_unknown(ticket, id) };
        if c.phase != Phase::Running {
            let message = format!("container {id} is {} and can not be updated", c.status.state.as_str());
            return self.refuse(ticket, Fault::new(FaultKind::State, message));
        }
        if c.update.is_some() {
            let fault = Fault::new(FaultKind::State, format!("another update of container {id} is under way"));
            return self.refuse(ticket, fault.remedy("try again when it is done"));
        }
        let old = c.status.limits.clone();
        let new = old.merged(change);
        c.update = Some(PendingUpdate { ticket, new: new.clone(), applied: false });
        c.writing += 1;
        self.wishes.push_back(Wish::ApplyLimits { id: id.clone(), old: Box::new(old), new: Box::new(new) });
    }

    fn limits_applied(&mut self, now: Now, id: &ContainerId, result: Result<(), Fault>) {
        let Some(c) = self.containers.get_mut(id) else { return };
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
            }
        }
    }

    fn update_persisted(&mut self, now: Now, id: &ContainerId, result: Result<(), Fault>) {
        let Some(c) = self.containers.get_mut(id) else { return };
        let Some(update) = c.update.take_if(|u| u.applied) else { return };
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

    fn drain(&mut self, now: Now, ticket: Ticket, grace: Option<Millis>) {
        self.draining = true;
        let ids: Vec<ContainerId> =
            self.containers.values().filter(|c| !c.is_over()).map(|c| c.status.id.clone()).collect();
        self.drains.push((ticket, ids.len() as u32));
        for id in &ids {
            let grace = grace.or_else(|| self.containers.get(id).map(|c| c.spec.grace)).unwrap_or_default();
            self.end_gracefully(now, id, Doom::Killed, grace);
        }
        self.settle_drains();
    }

    fn settle_drains(&mut self) {
        if self.living == 0 {
            for (ticket, killed) in std::mem::take(&mut self.drains) {
                self.answer(ticket, Answer::Drained { killed });
            }
        }
    }

    // ---- time

    fn tick(&mut self, now: Now) {
        while let Some((at, id)) = self.alarms.first().cloned() {
            if at > now.monotonic {
                break;
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
                        c.doom(Doom::Failed(Fault::failed(format!("the command was not started within {patience}"))));
                    }
                    self.kill_all(now, &id);
                }
            }
        }
    }

    pub(crate) fn set_alarm(&mut self, id: &ContainerId, alarm: Option<(Millis, Alarm)>) {
        let Some(c) = self.containers.get_mut(id) else { return };
        if let Some((at, _)) = c.alarm.take() {
            self.alarms.remove(&(at, id.clone()));
        }
        if let Some((at, _)) = alarm {
            self.alarms.insert((at, id.clone()));
        }
        c.alarm = alarm;
    }

    fn backoff(&self, attempt: u32) -> Millis {
        let doubled = self.settings.cleanup_retry_first.0.saturating_mul(1 << attempt.saturating_sub(1).min(20));
        Millis(doubled.min(self.settings.cleanup_retry_max.0))
    }

    // ---- telling

    fn at(&mut self, id: &ContainerId, phase: Phase) -> Option<&mut Container> {
        self.containers.get_mut(id).filter(|c| c.phase == phase)
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.wishes.push_back(Wish::Answer { ticket, answer });
    }

    fn refuse(&mut self, ticket: Ticket, fault: Fault) {
        self.answer(ticket, Answer::Refused(fault));
    }

    fn refuse_unknown(&mut self, ticket: Ticket, id: &ContainerId) {
        let fault = Fault::new(FaultKind::NotFound, format!("no container has the id {id}"));
        self.refuse(ticket, fault.field("container"));
    }

    pub(crate) fn emit_state(&mut self, now: Now, id: &ContainerId) {
        if let Some(state) = self.status(id).map(|s| s.state) {
            self.emit(now, id, EventKind::State { state });
        }
    }

    fn emit(&mut self, now: Now, id: &ContainerId, kind: EventKind) {
        self.sequence += 1;
        let name = self.status(id).and_then(|s| s.name.clone());
        let event = Event { sequence: self.sequence, at_ms: now.wall_ms, container: id.clone(), name, kind };
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
        labels: spec.labels.clone(),
        created_at_ms,
        started_at_ms: None,
        sandbox: None,
        terminal: spec.terminal.is_some(),
        termination: None,
    }
}

pub(crate) fn after(now: Now, span: Millis) -> Millis {
    Millis(now.monotonic.0.saturating_add(span.0))
}
