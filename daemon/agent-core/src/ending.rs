//! From a running command to nothing: kills, limits, exits, cleaning up.

use model::{ContainerId, ContainerState, EventKind, Fault, FaultKind, Millis};

use crate::agent::{AgentCore, after};
use crate::container::{Alarm, Container, Doom, Phase, SIGKILL, SIGTERM};
use crate::input::{Answer, CleanupOutcome, EndReport, Now, Ticket, Wish};

impl AgentCore {
    pub(crate) fn exited(&mut self, now: Now, id: &ContainerId, end: EndReport) {
        let Some(c) = self.containers.get_mut(id) else {
            return;
        };
        match c.phase {
            Phase::Preparing | Phase::Forking | Phase::Cleaning | Phase::Over => return,
            Phase::Checkpointing | Phase::Starting => {
                c.doom(Doom::Failed(Fault::failed(
                    "the init ended before the command was started",
                )));
            }
            Phase::Running | Phase::Dying => {}
        }
        c.end = Some(end);
        self.clean(now, id);
    }

    pub(crate) fn limit_hit(&mut self, now: Now, id: &ContainerId, limitation: model::Limitation) {
        let Some(c) = self.containers.get_mut(id) else {
            return;
        };
        if !matches!(c.phase, Phase::Starting | Phase::Running | Phase::Dying) || c.limitation.is_some() {
            return;
        }
        let message = limitation.message.clone();
        c.limitation = Some(limitation);
        c.doom(Doom::Limit);
        self.emit(now, id, EventKind::LimitHit { message });
        self.kill_all(now, id);
    }

    pub(crate) fn kill(
        &mut self,
        now: Now,
        ticket: Ticket,
        id: &ContainerId,
        signal: i32,
        grace: Option<Millis>,
    ) {
        let Some(c) = self.containers.get_mut(id) else {
            return self.refuse_unknown(ticket, id);
        };
        if c.is_over() {
            let fault = Fault::new(FaultKind::State, format!("container {id} has ended already"));
            return self.refuse(ticket, fault);
        }
        match signal {
            0 | SIGKILL => {
                let grace = if signal == SIGKILL {
                    Millis(0)
                } else {
                    grace.unwrap_or(c.spec.grace)
                };
                self.end_gracefully(now, id, Doom::Killed, grace);
                // What outlives us must be known to a successor before it is promised.
                if let Some(c) = self.containers.get_mut(id).filter(|c| c.phase == Phase::Dying) {
                    if c.kill_waits {
                        return c.killers.push(ticket);
                    }
                    if grace.0 > 0 {
                        c.killers.push(ticket);
                        return self.note_kill(id);
                    }
                }
            }
            _ if c.phase == Phase::Running || c.phase == Phase::Dying => {
                c.delivered = Some(signal);
                self.wishes.push_back(Wish::Signal {
                    id: id.clone(),
                    signal,
                });
            }
            _ => {
                let message = format!(
                    "container {id} is {} and can not take a signal",
                    c.status.state.as_str()
                );
                return self.refuse(ticket, Fault::new(FaultKind::State, message).field("signal"));
            }
        }
        self.answer(ticket, Answer::Signalled);
    }

    /// SIGTERM now, everything after `grace`. A second call may shorten the first one's grace, never lengthen it.
    pub(crate) fn end_gracefully(&mut self, now: Now, id: &ContainerId, doom: Doom, grace: Millis) {
        let Some(c) = self.containers.get_mut(id) else {
            return;
        };
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
                self.wishes.push_back(Wish::Signal {
                    id: id.clone(),
                    signal: SIGTERM,
                });
                if !was_killing {
                    self.emit_state(now, id);
                }
            }
        }
    }

    fn note_kill(&mut self, id: &ContainerId) {
        if let Some(c) = self.containers.get_mut(id) {
            c.kill_noted = true;
            c.writing += 1;
            self.wishes.push_back(Wish::Checkpoint { id: id.clone() });
        }
    }

    /// Kills everything in it. An init that is killed leaves no record of how it ended, so the reason is written down
    /// first: a successor would call it lost.
    pub(crate) fn kill_all(&mut self, now: Now, id: &ContainerId) {
        let (first, longest) = (self.settings.kill_retry, self.settings.kill_retry_max);
        let Some(c) = self.containers.get_mut(id) else {
            return;
        };
        c.phase = Phase::Dying;
        c.status.state = ContainerState::Killing;
        // Asked twice, or at the end of a grace, it may have been given to be written and not be there yet.
        let unwritten = !c.kill_noted || c.writing > 0;
        let due = *c.kill_due.get_or_insert(after(now, NOTE_PATIENCE));
        if matches!(c.doom, Some(Doom::Killed | Doom::Timeout)) && unwritten && now.monotonic < due {
            c.kill_waits = true;
            let noted = c.kill_noted;
            // A disk that hangs saves nobody; one that is merely busy is waited for.
            self.set_alarm(id, Some((due, Alarm::KillAll)));
            if !noted {
                self.note_kill(id);
            }
            return;
        }
        c.kill_waits = false;
        c.kill_attempts += 1;
        let doubled = first.0.saturating_mul(1 << (c.kill_attempts - 1).min(20));
        let retry = Millis(doubled.min(longest.0));
        self.set_alarm(id, Some((after(now, retry), Alarm::KillAll)));
        self.wishes.push_back(Wish::KillAll { id: id.clone() });
    }

    /// A kill that waited for nothing but this.
    pub(crate) fn kill_if_written(&mut self, now: Now, id: &ContainerId) {
        let written = |c: &Container| c.phase == Phase::Dying && c.kill_waits && c.writing == 0;
        if self.containers.get(id).is_some_and(written) {
            self.kill_all(now, id);
        }
    }

    /// Everything was killed, and `message` says what has not ended all the same.
    pub(crate) fn unkilled(&mut self, now: Now, id: &ContainerId, message: String) {
        let Some(c) = self.at(id, Phase::Dying) else {
            return;
        };
        let attempt = c.kill_attempts;
        // Not every reason is written down before a kill, as it is over at once. This one is not: a successor has to know.
        if c.status.waits_for.replace(message.clone()).is_none() {
            c.writing += 1;
            self.wishes.push_back(Wish::Checkpoint { id: id.clone() });
        }
        self.emit(now, id, EventKind::CleanupRetry { attempt, message });
    }

    pub(crate) fn clean(&mut self, now: Now, id: &ContainerId) {
        let Some(c) = self.containers.get_mut(id) else {
            return;
        };
        c.phase = Phase::Cleaning;
        if c.writing > 0 {
            // Comes back here when that is done.
            return self.set_alarm(id, None);
        }
        c.cleanup_attempts += 1;
        let first = c.status.state != ContainerState::Killing || c.cleanup_attempts == 1;
        c.status.state = ContainerState::Killing;
        let remove = c.leaves_nothing();
        self.set_alarm(id, None);
        if first {
            self.emit_state(now, id);
        }
        self.wishes.push_back(Wish::Cleanup {
            id: id.clone(),
            remove,
        });
    }

    pub(crate) fn cleaned(
        &mut self,
        now: Now,
        id: &ContainerId,
        outcome: CleanupOutcome,
        limitation: Option<model::Limitation>,
        ended_at_ms: Option<u64>,
    ) {
        let Some(c) = self.at(id, Phase::Cleaning) else {
            return;
        };
        c.limit(limitation);
        if let CleanupOutcome::Busy { message } = outcome {
            let attempt = c.cleanup_attempts;
            // The first few tries are milliseconds apart: nothing to be told of.
            if attempt > TRIES_UNTOLD {
                c.status.waits_for = Some(message.clone());
            }
            let delay = self.backoff(attempt);
            self.set_alarm(id, Some((after(now, delay), Alarm::RetryCleanup)));
            return self.emit(now, id, EventKind::CleanupRetry { attempt, message });
        }
        self.over(now, id, ended_at_ms.unwrap_or(now.wall_ms));
    }

    fn over(&mut self, now: Now, id: &ContainerId, ended_at_ms: u64) {
        let Some(c) = self.containers.get_mut(id) else {
            return;
        };
        let termination = c.termination(ended_at_ms);
        c.phase = Phase::Over;
        c.status.state = ContainerState::Destroyed;
        c.status.pid = None;
        c.status.waits_for = None;
        c.status.termination = Some(termination.clone());
        let waiters = std::mem::take(&mut c.waiters);
        let launcher = c.launcher.take();
        let update = c.update.take();
        let killers = std::mem::take(&mut c.killers);
        let name = c.status.name.clone();
        let failure = match &c.doom {
            Some(Doom::Failed(fault)) => fault.clone(),
            _ => Fault::new(
                FaultKind::State,
                format!("killed while being launched: {}", termination.message),
            ),
        };
        self.living -= 1;
        if let Some(name) = name
            && self.names.get(&name) == Some(id)
        {
            self.names.remove(&name);
        }
        self.set_alarm(id, None);
        self.emit_end(now, id, &termination);
        if let Some(ticket) = launcher {
            self.refuse(ticket, failure);
        }
        if let Some(update) = update {
            let fault = Fault::new(
                FaultKind::State,
                format!("container {id} ended during the update"),
            );
            self.refuse(update.ticket, fault);
        }
        for ticket in killers {
            self.answer(ticket, Answer::Signalled);
        }
        for ticket in waiters {
            self.answer(ticket, Answer::Ended(termination.clone()));
        }
        let leaves_something = self.containers.get(id).is_some_and(|c| !c.leaves_nothing());
        self.ended.push_back(id.clone());
        self.forget_oldest();
        if leaves_something {
            self.leftover(now, id.clone(), Millis(0), false);
        }
        self.settle_drains();
    }

    pub(crate) fn emit_end(&mut self, now: Now, id: &ContainerId, termination: &model::Termination) {
        let ended = EventKind::Ended {
            exit_status: termination.exit_status,
            reason: termination.reason,
            message: termination.message.clone(),
        };
        self.emit(now, id, ended);
        self.emit_state(now, id);
    }

    pub(crate) fn forget_oldest(&mut self) {
        while self.ended.len() > self.settings.remembered_max {
            if let Some(oldest) = self.ended.pop_front() {
                self.containers.remove(&oldest);
                self.wishes.push_back(Wish::Forget { id: oldest });
            }
        }
    }
}

/// How long a kill waits for being written down.
const NOTE_PATIENCE: Millis = Millis::secs(30);

/// Tries of a cleanup before a container is shown as waiting for something.
const TRIES_UNTOLD: u32 = 5;
