//! Other limits for a task that runs. What it takes by then is in the books when its agent says so; until then only the room
//! for it is kept, so that nothing else gets it.
//!
//! ```text
//!   asked ──> room kept, agent told ──> report: need taken over, room released, answered
//!                      │ └──refused──> room released, refused
//!                      └──link lost──> refused as unknown; room kept until the agent comes and tells the need, or the task ends
//! ```

use model::registry::AgentId;
use model::task::{Need, TaskId, TaskReport, TaskState};
use model::{Fault, FaultKind, Limits};

use crate::input::{Link, Now, Ticket, Wish};
use crate::master::Master;
use crate::placement::shown;
use crate::planted::PlantedBug;
use crate::tasks::{holds, unknown};

/// A change that an agent was told of.
#[derive(Debug, Clone)]
pub(crate) struct Resizing {
    /// Whoever waits.
    ticket: Option<Ticket>,
    /// Kept at the agent, besides what the task takes.
    growth: Need,
}

impl Master {
    pub(crate) fn resize(&mut self, ticket: Ticket, id: &TaskId, change: Box<Limits>) {
        let (agent, link, need, growth) = match self.resizable(id, &change) {
            Ok(possible) => possible,
            Err(fault) => return self.refuse(ticket, fault),
        };
        self.counters.resizes += 1;
        if let Some(holder) = self.agents.get_mut(&agent) {
            holder.promised = holder.promised.plus(growth);
        }
        if let Some(task) = self.tasks.get_mut(id) {
            task.resizing = Some(Resizing {
                ticket: Some(ticket),
                growth,
            });
        }
        self.wish(Wish::Resize {
            link,
            id: id.clone(),
            change,
            need,
        });
    }

    /// Where it goes, what the task takes then, and how much of that is more than now.
    fn resizable(&self, id: &TaskId, change: &Limits) -> Result<(AgentId, Link, Need, Need), Fault> {
        let state = |message: String| Fault::new(FaultKind::State, message);
        if *change == Limits::default() {
            return Err(
                Fault::invalid("limits", "none is given").remedy("name at least one, like --mem 128MB")
            );
        }
        let task = self.tasks.get(id).ok_or_else(|| unknown(id.as_str()))?;
        if task.state().is_terminal() {
            return Err(state(format!("task {id} has ended")));
        }
        if task.resizing.is_some() {
            let fault = state(format!("another update of task {id} is under way"));
            return Err(fault.remedy("try again when it is done"));
        }
        if task.launching.is_some() {
            return Err(state(format!("task {id} is being launched")).remedy("try again when it runs"));
        }
        if task.kill.is_some() {
            return Err(state(format!("task {id} is being killed")));
        }
        let agent = self.agents.get(&task.agent);
        let session = agent.and_then(|agent| Some((agent, agent.link?)));
        let Some((agent, link)) = session.filter(|_| task.state() != TaskState::Unreachable) else {
            let message = format!("agent {} of task {id} is not connected", task.agent.0);
            return Err(Fault::new(FaultKind::Unavailable, message).remedy("see it: bulkhead agents"));
        };
        let need = task.need.changed(change);
        for (field, named, amount) in [
            ("limits.cpus", change.cpus.is_some(), need.cpus),
            ("limits.mem", change.mem.is_some(), need.mem),
        ] {
            if named && amount.is_zero() {
                return Err(Fault::invalid(field, "a task has to say how much of it it takes"));
            }
        }
        let growth = need.minus(task.need);
        if !growth.fits(agent.free()) {
            let message = format!(
                "agent {} has no room for task {id} with {} instead of {}; free: {}",
                task.agent.0,
                shown(need),
                shown(task.need),
                shown(agent.free())
            );
            let remedy = "ask for less, or end something there: bulkhead tasks";
            return Err(Fault::new(FaultKind::Exhausted, message).remedy(remedy));
        }
        Ok((task.agent.clone(), link, need, growth))
    }

    /// What the agent said to the order.
    pub(crate) fn resized(&mut self, now: Now, link: Link, id: &TaskId, result: Result<TaskReport, Fault>) {
        let Some(Some(agent)) = self.links.get(&link).cloned() else {
            return;
        };
        if self.tasks.get(id).is_none_or(|task| task.agent != agent) {
            return;
        }
        let ticket = self.release_growth(id);
        let answer = match result {
            Ok(report) if report.id == *id => {
                // Its end may have been told first.
                if holds(self.agents.get(&agent), id) {
                    self.advance(now, &agent, report);
                }
                Ok(())
            }
            Ok(_) => Err(Fault::failed(format!(
                "agent {} told of another task than {id}",
                agent.0
            ))),
            Err(fault) => Err(fault),
        };
        if let Some(ticket) = ticket {
            self.wish(Wish::Answer {
                ticket,
                result: answer,
            });
        }
    }

    /// Whoever still waits for the answer.
    fn release_growth(&mut self, id: &TaskId) -> Option<Ticket> {
        let task = self.tasks.get_mut(id)?;
        let resizing = task.resizing.take()?;
        if let Some(holder) = self.agents.get_mut(&task.agent)
            && !self.planted.has(PlantedBug::KeepPromise)
        {
            holder.promised = holder.promised.minus(resizing.growth);
        }
        resizing.ticket
    }

    /// The task has ended, or its agent has begun anew.
    pub(crate) fn resize_over(&mut self, id: &TaskId) {
        if let Some(ticket) = self.release_growth(id) {
            let message = format!("task {id} ended, or its agent came anew, during the update");
            let fault = Fault::new(FaultKind::State, message);
            self.refuse(ticket, fault.remedy("see it: bulkhead tasks"));
        }
    }

    /// Nobody will hear what the agent says to it. It may be done all the same: the room stays kept.
    pub(crate) fn resize_unanswered(&mut self, id: &TaskId) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let ticket = task.resizing.as_mut().and_then(|resizing| resizing.ticket.take());
        let Some(ticket) = ticket else { return };
        let message = format!(
            "the connection to agent {} ended during the update of task {id}; it may be done",
            task.agent.0
        );
        let fault = Fault::new(FaultKind::Unavailable, message);
        self.refuse(
            ticket,
            fault.remedy("ask again when the agent is back: bulkhead agents"),
        );
    }

    /// Of all tasks of an agent that has left.
    pub(crate) fn resizes_unanswered(&mut self, id: &AgentId) {
        let Some(agent) = self.agents.get(id) else { return };
        let waits = |task: &&TaskId| {
            let task = self.tasks.get(*task);
            task.is_some_and(|task| task.resizing.is_some())
        };
        let waiting: Vec<TaskId> = agent.tasks.iter().filter(waits).cloned().collect();
        waiting.iter().for_each(|task| self.resize_unanswered(task));
    }

    /// As its agent says.
    pub(crate) fn set_need(&mut self, id: &TaskId, need: Need) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if task.need == need || task.state().is_terminal() || self.planted.has(PlantedBug::NeedUnread) {
            return;
        }
        let old = std::mem::replace(&mut task.need, need);
        if let Some(holder) = self.agents.get_mut(&task.agent) {
            holder.used = holder.used.minus(old).plus(need);
        }
    }
}
