//! What has to hold after each step, and what when all has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use model::resources::Scalar;
use model::task::{AgentState, Need, TaskId, TaskState, Welcome};

use super::World;
use super::agent::AgentSim;

/// What was seen so far, by everybody.
#[derive(Default)]
pub(crate) struct Books {
    starts: BTreeMap<TaskId, usize>,
    orders: BTreeMap<TaskId, BTreeSet<u64>>,
    ends: BTreeMap<TaskId, BTreeSet<TaskState>>,
    twice: Option<String>,
}

impl Books {
    pub fn start(&mut self, agent: usize, id: &TaskId) {
        if let Some(other) = self.starts.insert(id.clone(), agent) {
            self.twice = Some(format!(
                "task {id} was started on agent {other} and again on agent {agent}"
            ));
        }
    }
}

pub(crate) fn need() -> Need {
    Need {
        cpus: Scalar::from_milli(500),
        mem: Scalar::from_milli(64_000),
        ..Need::default()
    }
}

impl World {
    pub(crate) fn check_welcome(&mut self, welcome: &Welcome) {
        if !self.store.admitted.contains(&welcome.id.0) {
            self.fail(format!(
                "agent {} was let in before the registry knew it",
                welcome.id.0
            ));
        }
        if self.store.registry.gone.contains_key(&welcome.id) {
            self.fail(format!("agent {} was let in though it is gone", welcome.id.0));
        }
    }

    pub(crate) fn check_order(&mut self, term: u64, id: &TaskId) {
        let terms = self.books.orders.entry(id.clone()).or_default();
        terms.insert(term);
        if terms.len() > 1 {
            let message = format!("task {id} was ordered under the terms {terms:?}");
            self.fail(message);
        }
    }

    /// What must never be.
    pub(crate) fn check(&mut self) {
        if let Some(message) = self.books.twice.take() {
            self.fail(message);
        }
        let Some((_, leader)) = self.leaders.last_key_value() else {
            return;
        };
        let mut problems = Vec::new();
        let mut used: BTreeMap<String, Need> = BTreeMap::new();
        for task in leader.core.tasks_after(None) {
            let Some(status) = task.status() else { continue };
            if status.state.is_terminal() {
                let ends = self.books.ends.entry(task.id.clone()).or_default();
                ends.insert(status.state);
                if ends.len() > 1 {
                    problems.push(format!("task {} has ended as {ends:?}", task.id));
                }
            } else {
                let sum = used.entry(task.agent.0.clone()).or_default();
                *sum = sum.plus(task.need);
                if self.books.ends.contains_key(&task.id) {
                    problems.push(format!(
                        "task {} has ended, and is {:?} again",
                        task.id, status.state
                    ));
                }
            }
            if status.state == TaskState::Unreachable && !self.store.unreachable.contains(&task.agent.0) {
                problems.push(format!(
                    "task {} is unreachable, and the registry does not say so",
                    task.id
                ));
            }
        }
        for agent in leader.core.agents_after(None) {
            let sum = used.get(&agent.id.0).copied().unwrap_or_default();
            if sum != agent.used {
                problems.push(format!(
                    "agent {} is charged {:?} for tasks of {sum:?}",
                    agent.id.0, agent.used
                ));
            }
            if agent.state == AgentState::Unreachable && !self.store.unreachable.contains(&agent.id.0) {
                problems.push(format!(
                    "agent {} is unreachable, and the registry does not say so",
                    agent.id.0
                ));
            }
        }
        problems.extend(self.needs_differ());
        problems.into_iter().for_each(|problem| self.fail(problem));
    }

    /// Of a task about which nothing is on its way the master knows what it takes.
    fn needs_differ(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let Some(term) = self.leader() else {
            return problems;
        };
        let leader = &self.leaders[&term];
        let settled = |agent: &AgentSim| {
            let line = agent
                .line
                .as_ref()
                .filter(|line| line.welcomed && line.leader == term)?;
            (self.now >= leader.frozen && self.quiet(line.conn)).then_some(())
        };
        for agent in self.agents.iter().filter(|agent| settled(agent).is_some()) {
            for (task, need) in &agent.needs {
                let runs = agent.containers.get(task) == Some(&TaskState::Running);
                let told = agent
                    .book
                    .record(task)
                    .is_some_and(|record| record.untold.is_empty());
                if !runs || !told || agent.resizing.contains_key(task) {
                    continue;
                }
                let known = leader.core.task(task).map(|view| view.need);
                if known.is_some_and(|known| known != *need) {
                    problems.push(format!("task {task} takes {need:?}, and {known:?} at the master"));
                }
            }
        }
        problems
    }

    /// Nothing has broken for a long time: all agree.
    pub(crate) fn check_rest(&mut self) {
        let Some(term) = self.leader() else {
            return self.fail("nobody leads at the end".to_owned());
        };
        let leader = &self.leaders[&term];
        let mut problems = Vec::new();
        for (number, agent) in self.agents.iter().enumerate() {
            let Some(id) = &agent.id else {
                problems.push(format!("agent {number} was never let in"));
                continue;
            };
            if self.store.registry.gone.contains_key(id) {
                let running = agent.containers.values().any(|state| !state.is_terminal());
                if running {
                    problems.push(format!("agent {number} is gone, and tasks run on it"));
                }
                continue;
            }
            let promised = leader.core.promised(id).unwrap_or_default();
            if promised != Need::default() {
                problems.push(format!("agent {number} keeps {promised:?} for nobody"));
            }
            let state = leader.core.agent(id).map(|view| view.state);
            if state != Some(AgentState::Active) {
                problems.push(format!("agent {number} ({}) is {state:?}", id.0));
                continue;
            }
            for (task, container) in &agent.containers {
                let known = leader
                    .core
                    .task(task)
                    .and_then(|view| view.status().map(|status| status.state));
                // One that is long over may be forgotten.
                if known.is_some_and(|known| known != *container) {
                    problems.push(format!(
                        "task {task} is {container:?} on its agent, {known:?} at the master"
                    ));
                }
                if known.is_none() && !container.is_terminal() {
                    problems.push(format!("task {task} runs, and the master does not know it"));
                }
            }
        }
        for task in leader.core.tasks_after(None) {
            let state = task.status().map(|status| status.state);
            if !state.is_some_and(TaskState::is_terminal) {
                problems.push(format!(
                    "task {} is {state:?} long after everything ended",
                    task.id
                ));
            }
        }
        problems.into_iter().for_each(|problem| self.fail(problem));
    }
}
