//! Which agents are there: pings, patience, and how fast agents may be given up.

use std::time::Duration;

use model::registry::{AgentId, Edit, Timestamp};
use model::task::{TaskId, TaskState};
use model::{Fault, FaultKind};

use crate::agents::Phase;
use crate::input::{Link, NotApplied, Now, Wish};
use crate::master::{Master, Pending};
use crate::planted::PlantedBug;

impl Master {
    pub(crate) fn connected(&mut self, now: Now, id: &AgentId, link: Link) {
        let Some(agent) = self.agents.get_mut(id) else {
            return;
        };
        agent.phase = Phase::Active;
        agent.link = Some(link);
        agent.missed = 0;
        agent.pinged = false;
        agent.ping_open = false;
        let at = now.monotonic + self.settings.ping_interval;
        self.set_alarm(id, Some(at));
    }

    pub(crate) fn disconnected(&mut self, now: Now, id: &AgentId) {
        let Some(agent) = self.agents.get_mut(id) else {
            return;
        };
        agent.link = None;
        self.resizes_unanswered(id);
        let Some(agent) = self.agents.get_mut(id) else {
            return;
        };
        if matches!(agent.phase, Phase::Unreachable { .. } | Phase::Recovered) && agent.pending {
            return;
        }
        agent.phase = Phase::Disconnected;
        self.be_patient(now, id);
    }

    /// With one that is not there, from now on.
    pub(crate) fn be_patient(&mut self, now: Now, id: &AgentId) {
        let Some(agent) = self.agents.get(id) else { return };
        // What it has not answered while it was there counts as well.
        let left = self.settings.pings_max.saturating_sub(agent.missed).max(1);
        let at = now.monotonic + self.settings.ping_interval.saturating_mul(left);
        self.set_alarm(id, Some(at));
    }

    pub(crate) fn link_lost(&mut self, now: Now, link: Link) {
        let Some(Some(id)) = self.links.remove(&link) else {
            return;
        };
        if self.agents.get(&id).is_some_and(|agent| agent.link == Some(link)) {
            self.disconnected(now, &id);
        }
    }

    pub(crate) fn ponged(&mut self, link: Link) {
        let Some(Some(id)) = self.links.get(&link).cloned() else {
            return;
        };
        let Some(agent) = self.agents.get_mut(&id) else {
            return;
        };
        agent.pinged = false;
        agent.ping_open = false;
        agent.missed = 0;
        self.cancel_doom(&id);
    }

    /// It counts as missed, and the next one is sent in its turn.
    pub(crate) fn ping_failed(&mut self, link: Link) {
        if let Some(Some(id)) = self.links.get(&link)
            && let Some(agent) = self.agents.get_mut(id)
        {
            agent.ping_open = false;
        }
    }

    pub(crate) fn set_alarm(&mut self, id: &AgentId, at: Option<Duration>) {
        let Some(agent) = self.agents.get_mut(id) else {
            return;
        };
        if let Some(old) = agent.alarm.take() {
            self.alarms.remove(&(old, id.clone()));
        }
        agent.alarm = at;
        if let Some(at) = at {
            self.alarms.insert((at, id.clone()));
        }
    }

    pub(crate) fn tick(&mut self, now: Now) {
        while let Some((at, id)) = self.alarms.first().cloned() {
            if at > now.monotonic {
                break;
            }
            self.set_alarm(&id, None);
            self.alarm(now, &id);
        }
        if self.recovery.is_some_and(|at| at <= now.monotonic) {
            self.recovery = None;
            self.give_up_recovered(now);
        }
        self.remove_next(now);
    }

    fn alarm(&mut self, now: Now, id: &AgentId) {
        let max = self.settings.pings_max;
        // Also after a write that came to nothing.
        self.gone_if_drained(now, id);
        let Some(agent) = self.agents.get_mut(id) else {
            return;
        };
        match agent.phase {
            phase if phase != Phase::Active && agent.leaves() => self.look_again(now, id),
            Phase::Active => {
                if agent.pinged {
                    agent.missed += 1;
                }
                agent.pinged = true;
                let open = std::mem::replace(&mut agent.ping_open, true);
                let (link, overdue) = (agent.link.filter(|_| !open), agent.missed >= max);
                let at = now.monotonic + self.settings.ping_interval;
                self.set_alarm(id, Some(at));
                if let Some(link) = link {
                    self.wish(Wish::Ping { link });
                }
                if overdue {
                    self.doom(now, id);
                }
            }
            // Of one that is recovered none is set before all of them are given up.
            Phase::Disconnected | Phase::Recovered => self.doom(now, id),
            Phase::Unreachable { .. } => {}
        }
    }

    /// It is given up, in its turn; while something is being written about it, that is looked at again.
    fn doom(&mut self, now: Now, id: &AgentId) {
        let Some(agent) = self.agents.get_mut(id) else {
            return;
        };
        if agent.doomed {
            return;
        }
        if agent.pending {
            return self.look_again(now, id);
        }
        agent.doomed = true;
        self.counters.unreachable_scheduled += 1;
        // Whoever came back and left again while others waited keeps its place.
        if !std::mem::replace(&mut agent.queued, true) {
            self.doomed.push_back(id.clone());
        }
    }

    pub(crate) fn look_again(&mut self, now: Now, id: &AgentId) {
        let at = now.monotonic + self.settings.ping_interval;
        self.set_alarm(id, Some(at));
    }

    pub(crate) fn cancel_doom(&mut self, id: &AgentId) {
        if let Some(agent) = self.agents.get_mut(id)
            && std::mem::take(&mut agent.doomed)
        {
            // It stays in the queue: to look for it there once for each of a fleet that comes back would take minutes.
            self.counters.unreachable_canceled += 1;
        }
    }

    fn give_up_recovered(&mut self, now: Now) {
        let recovered = self
            .agents
            .iter()
            .filter(|(_, agent)| agent.phase == Phase::Recovered);
        let (undecided, silent): (Vec<_>, Vec<_>) = recovered.partition(|(_, agent)| agent.pending);
        let ids = |agents: Vec<(&AgentId, _)>| -> Vec<AgentId> {
            agents.into_iter().map(|(id, _)| id.clone()).collect()
        };
        let (undecided, silent) = (ids(undecided), ids(silent));
        let admitted = self.agents.values();
        let all = admitted
            .filter(|agent| !matches!(agent.phase, Phase::Unreachable { .. }))
            .count();
        let limit = self.settings.recovery_removal_limit_percent as usize;
        if silent.len() * 100 > all * limit {
            let why = format!(
                "{} of {all} agents have not come back since the election, more than \
                 --recovery_agent_removal_limit={limit}% allows to give up",
                silent.len()
            );
            return self.wish(Wish::StepDown { why });
        }
        for id in silent {
            self.doom(now, &id);
        }
        for id in undecided {
            self.look_again(now, &id);
        }
    }

    fn remove_next(&mut self, now: Now) {
        while now.monotonic >= self.permit {
            let Some(id) = self.doomed.pop_front() else { return };
            let Some(agent) = self.agents.get_mut(&id) else {
                continue;
            };
            agent.queued = false;
            if !std::mem::take(&mut agent.doomed) {
                continue;
            }
            if agent.pending {
                self.counters.unreachable_canceled += 1;
                self.look_again(now, &id);
                continue;
            }
            agent.pending = true;
            if let Some((count, span)) = self.settings.removal_limit {
                self.permit = now.monotonic + span / count.max(1);
            }
            let at = now.wall_ms / 1000;
            if self.planted.has(PlantedBug::UnreachableUnwritten) {
                self.marked_unreachable(now, &id, at, Ok(()));
                continue;
            }
            let edit = Edit::MarkUnreachable { id: id.clone(), at };
            self.submit(edit, Pending::Unreachable { id, at });
        }
    }

    pub(crate) fn marked_unreachable(
        &mut self,
        now: Now,
        id: &AgentId,
        at: Timestamp,
        result: Result<(), NotApplied>,
    ) {
        self.release(id);
        // Nothing is told to anybody. If the registrar has failed, the next leader looks again; if it had no room, this one.
        if result.is_err() {
            return self.look_again(now, id);
        }
        self.set_alarm(id, None);
        let Some(agent) = self.agents.get_mut(id) else {
            return;
        };
        self.counters.recovery_removals += u64::from(agent.phase == Phase::Recovered);
        agent.phase = Phase::Unreachable { since: at };
        let link = agent.link.take();
        let tasks: Vec<TaskId> = agent.tasks.iter().cloned().collect();
        self.counters.unreachable_completed += 1;
        for task in tasks {
            self.resize_unanswered(&task);
            let status = Self::status(now, TaskState::Unreachable, "its agent can't be reached");
            self.set_state(&task, status);
            let launching = self.tasks.get_mut(&task).and_then(|task| task.launching.take());
            if let Some(ticket) = launching {
                self.launching -= 1;
                let message = format!(
                    "agent {} can't be reached; task {task} may have been started",
                    id.0
                );
                self.refuse(
                    ticket,
                    Fault::new(FaultKind::Unavailable, message).remedy("see it: bulkhead tasks"),
                );
            }
        }
        if let Some(link) = link {
            self.links.remove(&link);
            self.wish(Wish::Close { link });
        }
    }
}
