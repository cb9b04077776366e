//! What operators decide about an agent: gone, active or not, drained. Each is in the registry before it counts.

use model::registry::{AgentId, Drain, Edit, Standing, Timestamp};
use model::task::TaskState;
use model::{Fault, FaultKind, Millis};

use crate::agents::{Agent, Phase};
use crate::input::{NotApplied, Now, Ticket, Wish};
use crate::master::{Master, Pending, not_applied};
use crate::planted::PlantedBug;

impl Master {
    pub(crate) fn mark_gone(&mut self, now: Now, ticket: Option<Ticket>, id: AgentId) {
        if let Err(fault) = self.claim(&id) {
            if let Some(ticket) = ticket {
                self.refuse(ticket, fault);
            }
            return;
        }
        let at = now.wall_ms / 1000;
        let edit = Edit::MarkGone { id: id.clone(), at };
        self.submit(edit, Pending::Gone { id, at, ticket });
    }

    pub(crate) fn marked_gone(
        &mut self,
        now: Now,
        id: AgentId,
        at: Timestamp,
        ticket: Option<Ticket>,
        result: Result<(), NotApplied>,
    ) {
        if let Err(error) = result {
            self.release(&id);
            if let Some(ticket) = ticket {
                self.refuse(ticket, not_applied(&error));
            }
            return;
        }
        self.set_alarm(&id, None);
        let Some(agent) = self.agents.remove(&id) else {
            return;
        };
        self.forget_key(&agent.key, &id);
        self.gone.insert(id, at);
        let stay = self.planted.has(PlantedBug::GoneTasksStay);
        for task in agent.tasks.into_iter().filter(|_| !stay) {
            let status = Self::status(now, TaskState::GoneByOperator, "its agent was marked gone");
            self.set_state(&task, status);
        }
        if let Some(link) = agent.link {
            self.links.remove(&link);
            let message = "this agent was marked gone by an operator".to_owned();
            self.wish(Wish::Shutdown { link, message });
            self.wish(Wish::Close { link });
        }
        if let Some(ticket) = ticket {
            self.wish(Wish::Answer {
                ticket,
                result: Ok(()),
            });
        }
    }

    pub(crate) fn set_active(&mut self, ticket: Ticket, id: AgentId, active: bool) {
        if let Err(fault) = self.claim(&id) {
            return self.refuse(ticket, fault);
        }
        let (edit, standing) = match active {
            true => (Edit::Reactivate { id: id.clone() }, Standing::default()),
            false => {
                let drain = self
                    .agents
                    .get(&id)
                    .and_then(|agent| agent.standing.drain.clone());
                let standing = Standing {
                    drain,
                    deactivated: true,
                };
                (Edit::Deactivate { id: id.clone() }, standing)
            }
        };
        let pending = Pending::Standing {
            id,
            ticket: Some(ticket),
            standing,
            grace: None,
        };
        self.submit(edit, pending);
    }

    pub(crate) fn drain(&mut self, ticket: Ticket, id: AgentId, grace: Option<Millis>, mark_gone: bool) {
        if let Err(fault) = self.claim(&id) {
            return self.refuse(ticket, fault);
        }
        let grace_max_seconds = grace.map(|grace| grace.get().div_ceil(1000));
        let edit = Edit::Drain {
            id: id.clone(),
            grace_max_seconds,
            mark_gone,
        };
        let standing = Standing {
            drain: Some(Drain {
                grace_max_seconds,
                mark_gone,
                drained: false,
            }),
            deactivated: true,
        };
        let pending = Pending::Standing {
            id,
            ticket: Some(ticket),
            standing,
            grace,
        };
        self.submit(edit, pending);
    }

    pub(crate) fn standing_set(
        &mut self,
        now: Now,
        id: &AgentId,
        ticket: Option<Ticket>,
        standing: Standing,
        grace: Option<Millis>,
        result: Result<(), NotApplied>,
    ) {
        self.release(id);
        if let Err(error) = result {
            if let Some(ticket) = ticket {
                self.refuse(ticket, not_applied(&error));
            }
            return;
        }
        let Some(agent) = self.agents.get_mut(id) else {
            return;
        };
        agent.standing = standing;
        agent.grace = grace.or(agent.grace);
        if let Some(ticket) = ticket {
            self.wish(Wish::Answer {
                ticket,
                result: Ok(()),
            });
        }
        self.empty_drained(id);
        self.drained_if_empty(id);
        self.gone_if_drained(now, id);
    }

    /// Ends what runs on an agent that is being drained.
    pub(crate) fn empty_drained(&mut self, id: &AgentId) {
        let Some(agent) = self.agents.get(id) else { return };
        if agent.standing.drain.as_ref().is_none_or(|drain| drain.drained) {
            return;
        }
        let grace = agent.grace;
        for task in agent.tasks.clone() {
            if let Some(entry) = self.tasks.get_mut(&task) {
                entry.kill.get_or_insert(grace);
            }
            self.order_kill(id, &task, grace);
        }
    }

    pub(crate) fn drained_if_empty(&mut self, id: &AgentId) {
        let Some(agent) = self.agents.get_mut(id) else {
            return;
        };
        let Some(drain) = agent.standing.drain.clone().filter(|drain| !drain.drained) else {
            return;
        };
        if agent.pending || agent.phase != Phase::Active || !agent.tasks.is_empty() {
            return;
        }
        agent.pending = true;
        let standing = Standing {
            drain: Some(Drain {
                drained: true,
                ..drain
            }),
            deactivated: true,
        };
        let pending = Pending::Standing {
            id: id.clone(),
            ticket: None,
            standing,
            grace: None,
        };
        self.submit(Edit::MarkDrained { id: id.clone() }, pending);
    }

    /// If it was drained for that.
    pub(crate) fn gone_if_drained(&mut self, now: Now, id: &AgentId) {
        let due = |agent: &Agent| agent.leaves() && !agent.pending;
        if self.agents.get(id).is_some_and(due) {
            self.mark_gone(now, None, id.clone());
        }
    }

    /// For an operator's edit: one that is known, and about which nothing else is being written.
    fn claim(&mut self, id: &AgentId) -> Result<(), Fault> {
        if self.gone.contains_key(id) {
            let message = format!("agent {} was marked gone", id.0);
            return Err(Fault::new(FaultKind::State, message));
        }
        let Some(agent) = self.agents.get_mut(id) else {
            let fault = Fault::new(FaultKind::NotFound, format!("there is no agent {:?}", id.0));
            return Err(fault.remedy("list them: bulkhead agents"));
        };
        if agent.pending {
            let message = format!("something about agent {} is being written to the registry", id.0);
            return Err(Fault::new(FaultKind::State, message).remedy("try again"));
        }
        agent.pending = true;
        Ok(())
    }

    pub(crate) fn release(&mut self, id: &AgentId) {
        if let Some(agent) = self.agents.get_mut(id) {
            agent.pending = false;
        }
    }
}
