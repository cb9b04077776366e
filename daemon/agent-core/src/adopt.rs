//! Taking over what an earlier agent left.

use model::{ContainerId, ContainerState, Millis, Reason};

use crate::agent::{AgentCore, after, new_status};
use crate::container::{Alarm, Container, Doom, Phase};
use crate::input::{Adopted, EndReport, Now, Remembered};

impl AgentCore {
    /// One container found at start. Alive: looked after from now on, and killed if that had been decided. Dead: its
    /// end is reported, once, and what is left of it cleaned up.
    pub(crate) fn adopt(&mut self, now: Now, id: ContainerId, found: Adopted) {
        if self.containers.contains_key(&id) {
            return;
        }
        let mut status = new_status(&id, &found.spec, found.created_at_ms);
        status.limits = found.limits.clone();
        status.sandbox = found.sandbox;
        status.started_at_ms = found.started_at_ms;
        status.pid = found.identity.as_ref().map(|i| i.pid);
        status.state = ContainerState::Running;
        let mut container = Container::new(status, found.spec, Phase::Running);
        container.spec.limits = found.limits;
        container.identity = found.identity;
        container.doom = match found.killing {
            None => None,
            Some(Reason::Timeout) => Some(Doom::Timeout),
            Some(_) => Some(Doom::Killed),
        };
        if let Err(end) = found.alive {
            container.end = Some(end);
            if end == EndReport::UNRECORDED && container.doom.is_none() {
                container.doom = Some(Doom::Lost);
            }
        }
        // What runs without a known start was let through the gate just before the earlier agent ended.
        container.status.started_at_ms.get_or_insert(now.wall_ms);
        let name = container.status.name.clone();
        let remaining = container
            .spec
            .timeout
            .map(|allowed| remaining(&container, allowed, now));
        let (alive, doomed) = (container.end.is_none(), container.doom.is_some());
        self.living += 1;
        self.containers.insert(id.clone(), container);
        if let Some(name) = name {
            self.names.entry(name).or_insert_with(|| id.clone());
        }
        match (alive, doomed) {
            (false, _) => self.clean(now, &id),
            // The grace had begun before; whoever waited for it has waited long enough.
            (true, true) => self.kill_all(now, &id),
            (true, false) => {
                self.set_alarm(&id, remaining.map(|left| (after(now, left), Alarm::Timeout)));
                self.emit_state(now, &id);
            }
        }
    }
}

impl AgentCore {
    /// One container whose end was written down: whoever asks for it is answered as by the earlier agent.
    pub(crate) fn remember(&mut self, now: Now, id: ContainerId, ended: Remembered) {
        if self.containers.contains_key(&id) {
            return;
        }
        let mut status = new_status(&id, &ended.spec, ended.created_at_ms);
        status.limits = ended.limits;
        status.sandbox = ended.sandbox;
        status.started_at_ms = ended.started_at_ms;
        status.state = ContainerState::Destroyed;
        status.termination = Some(ended.termination.clone());
        let container = Container::new(status, ended.spec, Phase::Over);
        self.containers.insert(id.clone(), container);
        self.ended.push_back(id.clone());
        if ended.news {
            self.emit_end(now, &id, &ended.termination);
        }
        self.forget_oldest();
    }
}

/// What is left of the allowed time. A wall clock that jumped can at worst end it now or let it run its
/// whole time again.
fn remaining(container: &Container, allowed: Millis, now: Now) -> Millis {
    let started = container.status.started_at_ms.unwrap_or(now.wall_ms);
    Millis(
        allowed
            .0
            .saturating_sub(now.wall_ms.saturating_sub(started))
            .min(allowed.0),
    )
}
