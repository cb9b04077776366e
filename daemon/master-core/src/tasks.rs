//! Tasks: each has one life, and at most one end.

use model::registry::AgentId;
use model::task::{Need, TaskId, TaskReport, TaskState, TaskStatus, TaskView};
use model::{ContainerName, Fault, FaultKind, Millis};

use crate::agents::Agent;
use crate::input::{Now, Ticket, Wish};
use crate::master::Master;
use crate::planted::PlantedBug;
use crate::resizing::Resizing;

/// Bytes of an id's beginning that may stand for it.
const PREFIX_MIN: usize = 4;

#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub name: Option<ContainerName>,
    pub agent: AgentId,
    pub need: Need,
    /// Never empty.
    pub statuses: Vec<TaskStatus>,
    /// Of the last report.
    pub sequence: u64,
    /// Somebody wants its end, with this grace.
    pub kill: Option<Option<Millis>>,
    /// Whoever waits for the agent to take it.
    pub launching: Option<Ticket>,
    /// A change of its limits that its agent was told of.
    pub resizing: Option<Resizing>,
}

impl Task {
    pub fn state(&self) -> TaskState {
        self.statuses
            .last()
            .map_or(TaskState::Staging, |status| status.state)
    }

    fn push(&mut self, status: TaskStatus) {
        // The same state again, with other words: the last ones count.
        match self.statuses.last_mut() {
            Some(last) if last.state == status.state => {
                last.message = status.message;
                last.exit_status = status.exit_status;
            }
            _ => self.statuses.push(status),
        }
        // Running, unreachable, running, …: what is between the first and the latest does not matter for ever.
        if self.statuses.len() > STATUSES_MAX {
            self.statuses.remove(1);
        }
    }
}

const STATUSES_MAX: usize = 16;

impl Master {
    pub(crate) fn status(now: Now, state: TaskState, message: impl Into<String>) -> TaskStatus {
        TaskStatus {
            state,
            message: message.into(),
            at_ms: now.wall_ms,
            exit_status: None,
        }
    }

    /// Puts a task into a state, unless it has ended.
    pub(crate) fn set_state(&mut self, id: &TaskId, status: TaskStatus) {
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        if task.state().is_terminal() {
            return;
        }
        let terminal = status.state.is_terminal();
        task.push(status);
        if !terminal {
            return;
        }
        self.resize_over(id);
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let (agent, need, state) = (task.agent.clone(), task.need, task.state());
        let launching = task.launching.take();
        self.launching -= usize::from(launching.is_some());
        let message = task.statuses.last().map(|status| status.message.clone());
        self.counters.end(state);
        if let Some(holder) = self.agents.get_mut(&agent)
            && holder.tasks.remove(id)
            && !self.planted.has(PlantedBug::KeepCharge)
        {
            holder.used = holder.used.minus(need);
        }
        self.forget_oldest(id.clone());
        if let Some(ticket) = launching {
            let message = format!("the task has ended: {}", message.unwrap_or_default());
            self.refuse(ticket, Fault::failed(message));
        }
        self.drained_if_empty(&agent);
    }

    fn forget_oldest(&mut self, ended: TaskId) {
        self.ended.push_back(ended);
        while self.ended.len() > self.settings.ended_max {
            if let Some(oldest) = self.ended.pop_front() {
                self.tasks.remove(&oldest);
            }
        }
    }

    /// What an agent says of a task of its own. Old words change nothing.
    pub(crate) fn advance(&mut self, now: Now, agent: &AgentId, report: TaskReport) {
        let Some(task) = self.tasks.get(&report.id) else {
            self.adopt(agent, report);
            return;
        };
        if task.agent != *agent || (task.state().is_terminal() && !report.status.state.is_terminal()) {
            // It runs where it must not: of another agent, or ended as far as everybody was told.
            if !report.status.state.is_terminal() {
                self.counters.invalid_updates += 1;
                self.order_kill(agent, &report.id, Some(Millis(0)));
            }
            return;
        }
        let stale = match task.state() {
            TaskState::Unreachable => report.sequence < task.sequence,
            TaskState::Staging => false,
            _ => report.sequence <= task.sequence,
        };
        if stale {
            return;
        }
        let kill = task.kill;
        let killing = task.state() == TaskState::Killing;
        self.set_need(&report.id, report.need);
        if let Some(task) = self.tasks.get_mut(&report.id) {
            task.sequence = report.sequence;
            // It has it: whoever waits for that may go, even if the answer itself got lost.
            let launching = task.launching.take_if(|_| !report.status.state.is_terminal());
            if let Some(ticket) = launching {
                self.launching -= 1;
                self.wish(Wish::Answer {
                    ticket,
                    result: Ok(()),
                });
            }
        }
        let killed_early = kill.is_some() && report.status.state == TaskState::Running;
        if killed_early && killing {
            // Only its need is news.
            return;
        }
        self.set_state(&report.id, report.status);
        if killed_early {
            self.set_state(&report.id, Self::status(now, TaskState::Killing, ""));
        }
    }

    /// One that an earlier leader has placed.
    fn adopt(&mut self, agent: &AgentId, report: TaskReport) {
        let terminal = report.status.state.is_terminal();
        let task = Task {
            name: report.name,
            agent: agent.clone(),
            need: report.need,
            statuses: vec![report.status],
            sequence: report.sequence,
            kill: None,
            launching: None,
            resizing: None,
        };
        if terminal {
            self.forget_oldest(report.id.clone());
        } else if let Some(holder) = self.agents.get_mut(agent) {
            holder.tasks.insert(report.id.clone());
            holder.used = holder.used.plus(report.need);
        }
        self.tasks.insert(report.id, task);
    }

    /// All that an agent has said it has: what it should have besides never came to it, or was lost by it.
    pub(crate) fn reconcile(&mut self, now: Now, agent: &AgentId, reports: Vec<TaskReport>) {
        let Some(holder) = self.agents.get(agent) else {
            return;
        };
        let mut missing = holder.tasks.clone();
        if self.planted.has(PlantedBug::MissingStays) {
            missing.clear();
        }
        for report in reports {
            missing.remove(&report.id);
            if holds(self.agents.get(agent), &report.id) {
                // Whatever was under way when the earlier connection ended: this is said after it.
                self.resize_over(&report.id);
                self.set_need(&report.id, report.need);
            }
            self.advance(now, agent, report);
        }
        for id in missing {
            let status = match self.tasks.get(&id).map(Task::state) {
                Some(TaskState::Staging) => Self::status(now, TaskState::Dropped, "its agent never got it"),
                _ => Self::status(now, TaskState::Lost, "its agent does not know it any more"),
            };
            self.set_state(&id, status);
        }
        let holder = self.agents.get(agent);
        let left: Vec<TaskId> = holder
            .map(|a| a.tasks.iter().cloned().collect())
            .unwrap_or_default();
        for id in left {
            if let Some(grace) = self.tasks.get(&id).and_then(|task| task.kill) {
                self.order_kill(agent, &id, grace);
            }
        }
    }

    pub(crate) fn kill(&mut self, now: Now, ticket: Ticket, id: &TaskId, grace: Option<Millis>) {
        let Some(task) = self.tasks.get_mut(id) else {
            return self.refuse(ticket, unknown(id.as_str()));
        };
        self.counters.kills += 1;
        if !task.state().is_terminal() {
            task.kill = Some(grace);
            let (agent, running) = (task.agent.clone(), task.state() == TaskState::Running);
            self.order_kill(&agent, id, grace);
            if running {
                self.set_state(id, Self::status(now, TaskState::Killing, ""));
            }
        }
        self.wish(Wish::Answer {
            ticket,
            result: Ok(()),
        });
    }

    /// If its agent is there. If not, it hears of it when it comes.
    pub(crate) fn order_kill(&mut self, agent: &AgentId, id: &TaskId, grace: Option<Millis>) {
        if let Some(link) = self.agents.get(agent).and_then(|agent| agent.link) {
            let id = id.clone();
            self.wish(Wish::Kill { link, id, grace });
        }
    }

    // ---- for those who look

    /// By id, by the name of one that has not ended, or by an id's beginning.
    pub fn find_task(&self, text: &str) -> Result<TaskId, Fault> {
        if let Ok(id) = text.parse::<TaskId>()
            && self.tasks.contains_key(&id)
        {
            return Ok(id);
        }
        let named =
            |(_, task): &(&TaskId, &Task)| task.name.as_ref().is_some_and(|name| name.as_str() == text);
        let mut live = self
            .tasks
            .iter()
            .filter(|(_, task)| !task.state().is_terminal())
            .filter(named);
        match (live.next(), live.next()) {
            (Some((id, _)), None) => return Ok(id.clone()),
            (Some(_), Some(_)) => {
                let fault = Fault::new(FaultKind::Conflict, format!("several tasks are called {text:?}"));
                return Err(fault.remedy("name one by its id: bulkhead tasks"));
            }
            (None, _) => {}
        }
        if let Some((id, _)) = self.tasks.iter().rfind(|entry| named(entry)) {
            return Ok(id.clone());
        }
        if text.len() < PREFIX_MIN {
            return Err(unknown(text));
        }
        let mut begun = self.tasks.keys().filter(|id| id.as_str().starts_with(text));
        match (begun.next(), begun.next()) {
            (Some(id), None) => Ok(id.clone()),
            (Some(_), Some(_)) => {
                let message = format!("several tasks begin with {text:?}");
                Err(Fault::new(FaultKind::Conflict, message).remedy("give more of the id"))
            }
            (None, _) => Err(unknown(text)),
        }
    }

    pub fn task(&self, id: &TaskId) -> Option<TaskView> {
        self.tasks.get(id).map(|task| self.view(id, task))
    }

    /// In the order of their ids, those after one.
    pub fn tasks_after(&self, after: Option<&TaskId>) -> impl Iterator<Item = TaskView> {
        use std::ops::Bound;
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.tasks
            .range((begin, Bound::Unbounded))
            .map(|(id, task)| self.view(id, task))
    }

    fn view(&self, id: &TaskId, task: &Task) -> TaskView {
        let hostname = self
            .agents
            .get(&task.agent)
            .map(|agent| agent.record.hostname.clone());
        TaskView {
            id: id.clone(),
            name: task.name.clone(),
            agent: task.agent.clone(),
            hostname: hostname.unwrap_or_default(),
            need: task.need,
            statuses: task.statuses.clone(),
        }
    }
}

pub(crate) fn holds(agent: Option<&Agent>, id: &TaskId) -> bool {
    agent.is_some_and(|agent| agent.tasks.contains(id))
}

pub(crate) fn unknown(text: &str) -> Fault {
    let message = format!("there is no task {text:?}");
    Fault::new(FaultKind::NotFound, message).remedy("list them: bulkhead tasks")
}
