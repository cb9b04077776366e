//! Where a task goes: the first agent with room for it.

use model::registry::AgentId;
use model::task::{Need, TaskId, TaskRequest, TaskState, state_of_refusal};
use model::{Fault, FaultKind};

use crate::agents::{Agent, Phase};
use crate::input::{Link, Now, Ticket, Wish};
use crate::master::Master;
use crate::planted::PlantedBug;
use crate::tasks::Task;

impl Master {
    pub(crate) fn launch(&mut self, now: Now, ticket: Ticket, request: TaskRequest) {
        // Somebody who got no answer asks again: once is enough.
        if self.tasks.contains_key(&request.id) && !self.planted.has(PlantedBug::LaunchTwice) {
            return self.wish(Wish::Answer {
                ticket,
                result: Ok(()),
            });
        }
        if self.launching >= self.settings.launching_max {
            let message = format!("{} launches wait for their agents' answers", self.launching);
            return self.refuse(
                ticket,
                Fault::new(FaultKind::Exhausted, message).remedy("try again"),
            );
        }
        let need = Need::of(&request.spec);
        let placed = admit(&request, need).and_then(|()| self.place(&request, need));
        let (agent, link) = match placed {
            Ok(placed) => placed,
            Err(fault) => return self.refuse(ticket, fault),
        };
        self.counters.launches += 1;
        self.launching += 1;
        let task = Task {
            name: request.spec.name.clone(),
            agent: agent.clone(),
            need,
            statuses: vec![Self::status(now, TaskState::Staging, "")],
            sequence: 0,
            kill: None,
            launching: Some(ticket),
            resizing: None,
        };
        self.tasks.insert(request.id.clone(), task);
        if let Some(holder) = self.agents.get_mut(&agent) {
            holder.used = holder.used.plus(need);
            holder.tasks.insert(request.id.clone());
        }
        self.wish(Wish::Launch {
            link,
            id: request.id,
            spec: request.spec,
        });
    }

    fn place(&self, request: &TaskRequest, need: Need) -> Result<(AgentId, Link), Fault> {
        if let Some(name) = &request.agent {
            let id = self.find_agent(&name.0)?;
            let agent = self.agents.get(&id).ok_or_else(|| unknown_agent(&name.0))?;
            return match agent.link {
                Some(link) if agent.takes_tasks() && need.fits(agent.free()) => Ok((id, link)),
                _ => Err(why_not(&id, agent, need)),
            };
        }
        let mut candidates = self.agents.iter().filter(|(_, agent)| agent.takes_tasks());
        let found = candidates.find_map(|(id, agent)| {
            let link = agent.link.filter(|_| need.fits(agent.free()))?;
            Some((id.clone(), link))
        });
        found.ok_or_else(|| self.no_room(need))
    }

    fn no_room(&self, need: Need) -> Fault {
        let ready = self.agents.values().filter(|agent| agent.takes_tasks());
        let (count, most) = ready.fold((0, Need::default()), |(count, most), agent| {
            let free = agent.free();
            let most = Need {
                cpus: most.cpus.max(free.cpus),
                mem: most.mem.max(free.mem),
                disk: most.disk.max(free.disk),
                ports: most.ports.max(free.ports),
            };
            (count + 1, most)
        });
        if count == 0 {
            let fault = Fault::new(FaultKind::Exhausted, "no agent is ready to take tasks");
            return fault.remedy("see them: bulkhead agents");
        }
        let message = format!(
            "none of {count} agents has room for {}; the most that is free at one: {}",
            shown(need),
            shown(most)
        );
        Fault::new(FaultKind::Exhausted, message).remedy("ask for less, or end something: bulkhead tasks")
    }

    /// By id, by its unambiguous beginning or end, or by host name.
    pub fn find_agent(&self, text: &str) -> Result<AgentId, Fault> {
        let id = AgentId(text.to_owned());
        if self.agents.contains_key(&id) || self.gone.contains_key(&id) {
            return Ok(id);
        }
        let like = |id: &AgentId, agent: &Agent| {
            agent.record.hostname == text
                || (text.len() >= 2 && (id.0.ends_with(text) || id.0.starts_with(text)))
        };
        let mut found = self.agents.iter().filter(|(id, agent)| like(id, agent));
        match (found.next(), found.next()) {
            (Some((id, _)), None) => Ok(id.clone()),
            (Some(_), Some(_)) => {
                let message = format!("several agents are called {text:?}, or their ids begin or end so");
                Err(Fault::new(FaultKind::Conflict, message).remedy("give the whole id: bulkhead agents"))
            }
            (None, _) => Err(unknown_agent(text)),
        }
    }

    /// What the agent said to the order.
    pub(crate) fn launched(&mut self, now: Now, link: Link, id: &TaskId, result: Result<(), Fault>) {
        let Some(Some(agent)) = self.links.get(&link) else {
            return;
        };
        let Some(task) = self.tasks.get_mut(id).filter(|task| task.agent == *agent) else {
            return;
        };
        let ticket = task.launching.take();
        self.launching -= usize::from(ticket.is_some());
        let answer = match &result {
            Ok(()) => Ok(()),
            Err(fault) => Err(fault.clone()),
        };
        if let Some(ticket) = ticket {
            self.wish(Wish::Answer {
                ticket,
                result: answer,
            });
        }
        if let Err(fault) = result {
            // Refused before anything was made: it has no life of its own that a report would tell of.
            self.set_state(id, Self::status(now, state_of_refusal(&fault), fault.to_string()));
        }
    }
}

fn admit(request: &TaskRequest, need: Need) -> Result<(), Fault> {
    if need.cpus.is_zero() {
        return Err(
            Fault::invalid("limits.cpus", "a task has to say how much CPU it takes").remedy("give --cpus"),
        );
    }
    if need.mem.is_zero() {
        return Err(
            Fault::invalid("limits.mem", "a task has to say how much memory it takes").remedy("give --mem"),
        );
    }
    for (given, field) in [
        (request.spec.remove, "remove"),
        (request.spec.stdin, "stdin"),
        (request.spec.terminal.is_some(), "terminal"),
    ] {
        if given {
            let message = "is not for tasks: nobody is beside them";
            return Err(
                Fault::unsupported(field, message).remedy("leave it out; exec works in a running task")
            );
        }
    }
    Ok(())
}

fn why_not(id: &AgentId, agent: &Agent, need: Need) -> Fault {
    let message = match agent.phase {
        Phase::Active if agent.standing.deactivated => format!("agent {} is deactivated", id.0),
        Phase::Active if !need.fits(agent.free()) => {
            let message = format!(
                "agent {} has no room for {}; free: {}",
                id.0,
                shown(need),
                shown(agent.free())
            );
            return Fault::new(FaultKind::Exhausted, message);
        }
        _ => format!("agent {} is not ready to take tasks: it is not connected", id.0),
    };
    Fault::new(FaultKind::State, message).remedy("see it: bulkhead agents")
}

fn unknown_agent(text: &str) -> Fault {
    let fault = Fault::new(FaultKind::NotFound, format!("there is no agent {text:?}"));
    fault.remedy("list them: bulkhead agents")
}

pub(crate) fn shown(need: Need) -> String {
    let mut text = format!("{} cpus, {} MB mem", need.cpus, need.mem);
    if !need.disk.is_zero() {
        text.push_str(&format!(", {} MB disk", need.disk));
    }
    if need.ports > 0 {
        text.push_str(&format!(", {} ports", need.ports));
    }
    text
}
