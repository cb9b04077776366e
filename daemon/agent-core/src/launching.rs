//! From a request to a running command: each step's answer decides the next.

use model::{ContainerId, ContainerState, Fault, FaultKind, LaunchSpec, ProcessIdentity};

use crate::agent::{AgentCore, after, new_status};
use crate::container::{Alarm, Container, Doom, Phase};
use crate::ids::same_request;
use crate::input::{Answer, Now, Ticket, Wish};

impl AgentCore {
    pub(crate) fn launch(&mut self, now: Now, ticket: Ticket, id: ContainerId, mut spec: LaunchSpec) {
        let left = self.is_leftover(&id);
        if let Some(known) = self.containers.get_mut(&id) {
            return if same_request(&known.spec, &spec) && !known.is_over() {
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
                let mut fault = Fault::new(FaultKind::Conflict, message).field("id");
                if left {
                    fault = fault.remedy(format!("remove what it left with: bulkhead gc {id}"));
                }
                self.refuse(ticket, fault);
            };
        }
        if self.refuse_leftover(ticket, &id) {
            return;
        }
        if self.draining {
            let fault = Fault::new(
                FaultKind::State,
                "the agent is draining and takes no more containers",
            );
            return self.refuse(
                ticket,
                fault.remedy("restart the agent, or launch on another host"),
            );
        }
        if self.living >= self.settings.containers_max {
            let message = format!(
                "{} containers run, which is the most this agent takes",
                self.living
            );
            let fault = Fault::new(FaultKind::Exhausted, message);
            return self.refuse(ticket, fault.remedy("end some, or raise --max-containers"));
        }
        if let Some(name) = &spec.name
            && let Some(owner) = self.names.get(name)
        {
            let message = format!("{name:?} is in use by container {owner}", name = name.as_str());
            let fault = Fault::new(FaultKind::Conflict, message).field("name");
            return self.refuse(
                ticket,
                fault.remedy("choose another name, or kill that container"),
            );
        }
        let assigned = self
            .assign_ids(&mut spec)
            .and_then(|()| self.assign_ports(&mut spec));
        if let Err(fault) = assigned {
            return self.refuse(ticket, fault);
        }
        if let Some(name) = &spec.name {
            self.names.insert(name.clone(), id.clone());
        }
        self.living += 1;
        let status = new_status(&id, &spec, now.wall_ms);
        let mut container = Container::new(status, spec.clone(), Phase::Preparing);
        container.launcher = Some(ticket);
        self.containers.insert(id.clone(), container);
        self.emit_state(now, &id);
        self.wishes.push_back(Wish::Prepare {
            id,
            spec: Box::new(spec),
        });
    }

    pub(crate) fn prepared(&mut self, now: Now, id: &ContainerId, result: Result<(), Fault>) {
        let Some(c) = self.at(id, Phase::Preparing) else {
            return;
        };
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

    pub(crate) fn forked(&mut self, now: Now, id: &ContainerId, result: Result<ProcessIdentity, Fault>) {
        let Some(c) = self.at(id, Phase::Forking) else {
            return;
        };
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

    pub(crate) fn checkpointed(&mut self, now: Now, id: &ContainerId, result: Result<(), Fault>) {
        let patience = self.settings.start_patience;
        let Some(c) = self.containers.get_mut(id) else {
            return;
        };
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
        self.kill_if_written(now, id);
        if phase != Phase::Checkpointing {
            return self.update_persisted(now, id, result);
        }
        let Some(c) = self.containers.get_mut(id) else {
            return;
        };
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

    pub(crate) fn started(&mut self, now: Now, id: &ContainerId) {
        let Some(c) = self.at(id, Phase::Starting) else {
            return;
        };
        c.phase = Phase::Running;
        c.status.state = ContainerState::Running;
        c.status.started_at_ms = Some(now.wall_ms);
        let alarm = c
            .spec
            .timeout
            .map(|allowed| (after(now, allowed), Alarm::Timeout));
        let launcher = c.launcher.take();
        self.set_alarm(id, alarm);
        self.emit_state(now, id);
        if let Some(ticket) = launcher {
            self.answer(
                ticket,
                Answer::Launched {
                    id: id.clone(),
                    existed: false,
                },
            );
        }
    }

    pub(crate) fn start_failed(&mut self, now: Now, id: &ContainerId, fault: Fault) {
        let patience = self.settings.failed_init_patience;
        let Some(c) = self.containers.get_mut(id) else {
            return;
        };
        // The report may come before the checkpoint's answer: the child works on while we write.
        if !matches!(c.phase, Phase::Checkpointing | Phase::Starting) {
            return;
        }
        c.doom(Doom::Failed(fault));
        c.phase = Phase::Dying;
        self.set_alarm(id, Some((after(now, patience), Alarm::KillAll)));
    }
}
