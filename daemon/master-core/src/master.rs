//! The whole machine of one leadership: `handle`, `poll`, `deadline`. It begins when the registry is recovered, and is
//! dropped whole when the leadership ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use model::registry::{Admitted, AgentId, Edit, MachineMode, Registry, Standing, Timestamp};
use model::task::{AgentState, AgentView, Hello, Need, TaskId, TaskState};
use model::{Fault, FaultKind, Millis};

use crate::agents::{Agent, Phase};
use crate::counters::Counters;
use crate::input::{Input, Link, NotApplied, Now, Ticket, Token, Wish};
use crate::planted::Planted;
use crate::registry::Refusal;
use crate::settings::Settings;
use crate::tasks::Task;

/// What an edit on its way is for.
#[derive(Debug, Clone)]
pub(crate) enum Pending {
    Register {
        id: AgentId,
        link: Link,
        hello: Box<Hello>,
        /// The registry did not know it.
        new: bool,
    },
    Unreachable {
        id: AgentId,
        at: Timestamp,
    },
    Gone {
        id: AgentId,
        at: Timestamp,
        ticket: Option<Ticket>,
    },
    Standing {
        id: AgentId,
        ticket: Option<Ticket>,
        standing: Standing,
        grace: Option<Millis>,
    },
}

/// A leader's decisions. See the module for when it begins and ends.
#[derive(Debug)]
pub struct Master {
    pub(crate) settings: Settings,
    pub(crate) agents: BTreeMap<AgentId, Agent>,
    /// All who called themselves something when they came for the first time, until they are gone or forgotten.
    pub(crate) keys: BTreeMap<String, AgentId>,
    pub(crate) gone: BTreeMap<AgentId, Timestamp>,
    /// Machines from which nothing may register.
    pub(crate) down: BTreeSet<(String, String)>,
    pub(crate) tasks: BTreeMap<TaskId, Task>,
    /// In the order of their ends.
    pub(crate) ended: VecDeque<TaskId>,
    /// Those that were told to nobody else; a session once there is an id.
    pub(crate) links: BTreeMap<Link, Option<AgentId>>,
    pub(crate) edits: BTreeMap<Token, Pending>,
    pub(crate) next_token: u64,
    pub(crate) next_agent: u64,
    /// Every alarm that is set, earliest first.
    pub(crate) alarms: BTreeSet<(Duration, AgentId)>,
    /// When those that have not come back are given up.
    pub(crate) recovery: Option<Duration>,
    /// Those to be written down as unreachable, in their order.
    pub(crate) doomed: VecDeque<AgentId>,
    /// Not before.
    pub(crate) permit: Duration,
    /// Launches that somebody waits for: tasks with a ticket.
    pub(crate) launching: usize,
    pub(crate) wishes: VecDeque<Wish>,
    pub counters: Counters,
    pub(crate) planted: Planted,
}

impl Master {
    /// From what the registry holds when it is recovered.
    pub fn new(settings: Settings, registry: &Registry, now: Now) -> Self {
        let entry = |id: &AgentId, agent: &Admitted, phase: Phase| {
            let mut entry = Agent::new(agent.record.clone(), agent.standing.clone(), phase);
            entry.key.clone_from(&agent.key);
            (id.clone(), entry)
        };
        let admitted = registry.agents.iter();
        let admitted = admitted.map(|(id, agent)| entry(id, agent, Phase::Recovered));
        let unreachable = registry.unreachable.iter().map(|(id, lost)| {
            let phase = Phase::Unreachable { since: lost.since };
            entry(id, &lost.agent, phase)
        });
        let down = registry
            .machines
            .iter()
            .filter(|(_, mode)| **mode == MachineMode::Down);
        let recovery = now.monotonic + settings.reregister_timeout;
        let mut agents: BTreeMap<AgentId, Agent> = admitted.chain(unreachable).collect();
        let mut alarms = BTreeSet::new();
        // What an earlier leader was about to do.
        for (id, agent) in agents.iter_mut().filter(|(_, agent)| agent.leaves()) {
            agent.alarm = Some(now.monotonic);
            alarms.insert((now.monotonic, id.clone()));
        }
        let named = agents.iter().filter(|(_, agent)| !agent.key.is_empty());
        let keys = named.map(|(id, agent)| (agent.key.clone(), id.clone())).collect();
        Self {
            agents,
            keys,
            gone: registry.gone.clone(),
            down: down
                .map(|(machine, _)| (machine.hostname.clone(), machine.address.clone()))
                .collect(),
            tasks: BTreeMap::new(),
            ended: VecDeque::new(),
            links: BTreeMap::new(),
            edits: BTreeMap::new(),
            next_token: 0,
            next_agent: 0,
            alarms,
            recovery: (!registry.agents.is_empty()).then_some(recovery),
            doomed: VecDeque::new(),
            permit: Duration::ZERO,
            launching: 0,
            wishes: VecDeque::new(),
            counters: Counters::default(),
            planted: Planted::default(),
            settings,
        }
    }

    /// From here on it does wrong.
    #[cfg(feature = "planted-bugs")]
    pub fn plant(&mut self, bug: crate::PlantedBug) {
        self.planted = Planted::new(bug);
    }

    pub fn poll(&mut self) -> Option<Wish> {
        self.wishes.pop_front()
    }

    /// When `Input::Tick` is due, in monotonic time.
    pub fn deadline(&self) -> Option<Duration> {
        let alarm = self.alarms.first().map(|(at, _)| *at);
        let removal = (!self.doomed.is_empty()).then_some(self.permit);
        [alarm, self.recovery, removal].into_iter().flatten().min()
    }

    pub fn handle(&mut self, now: Now, input: Input) {
        debug_assert!(self.wishes.is_empty(), "drain every wish before the next input");
        match input {
            Input::Register { link, hello } => self.register(now, link, hello),
            Input::LinkLost { link } => self.link_lost(now, link),
            Input::Applied { token, result } => self.applied(now, token, result),
            Input::Ponged { link } => self.ponged(link),
            Input::PingFailed { link } => self.ping_failed(link),
            Input::Update { ticket, link, report } => self.update(now, ticket, link, report),
            Input::Launch { ticket, request } => self.launch(now, ticket, request),
            Input::Launched { link, id, result } => self.launched(now, link, &id, result),
            Input::Resize { ticket, id, change } => self.resize(ticket, &id, change),
            Input::Resized { link, id, result } => self.resized(now, link, &id, result),
            Input::Kill { ticket, id, grace } => self.kill(now, ticket, &id, grace),
            Input::MarkGone { ticket, agent } => self.mark_gone(now, Some(ticket), agent),
            Input::SetActive {
                ticket,
                agent,
                active,
            } => self.set_active(ticket, agent, active),
            Input::Drain {
                ticket,
                agent,
                grace,
                mark_gone,
            } => self.drain(ticket, agent, grace, mark_gone),
            Input::Pruned { agents } => self.pruned(&agents),
            Input::Tick => self.tick(now),
        }
    }

    pub(crate) fn wish(&mut self, wish: Wish) {
        self.wishes.push_back(wish);
    }

    pub(crate) fn refuse(&mut self, ticket: Ticket, fault: Fault) {
        let result = Err(fault);
        self.wish(Wish::Answer { ticket, result });
    }

    pub(crate) fn submit(&mut self, edit: Edit, pending: Pending) {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.edits.insert(token, pending);
        self.wish(Wish::Submit { token, edit });
    }

    /// Nothing of an edit is visible before this.
    fn applied(&mut self, now: Now, token: Token, result: Result<(), NotApplied>) {
        let Some(pending) = self.edits.remove(&token) else {
            return;
        };
        // It was pruned while this was on its way.
        let forgotten = matches!(&result, Err(NotApplied::Refused(Refusal::UnknownAgent(_))));
        let id = match pending {
            Pending::Register { id, link, hello, new } => {
                return self.registered(now, id, link, *hello, new, result);
            }
            Pending::Unreachable { id, at } => {
                self.marked_unreachable(now, &id, at, result);
                id
            }
            Pending::Gone { id, at, ticket } => {
                self.marked_gone(now, id.clone(), at, ticket, result);
                id
            }
            Pending::Standing {
                id,
                ticket,
                standing,
                grace,
            } => {
                self.standing_set(now, &id, ticket, standing, grace, result);
                id
            }
        };
        if forgotten {
            self.forget(&id);
        }
    }

    fn pruned(&mut self, agents: &[AgentId]) {
        for id in agents {
            self.gone.remove(id);
            let unreachable =
                |agent: &Agent| matches!(agent.phase, Phase::Unreachable { .. }) && !agent.pending;
            if self.agents.get(id).is_some_and(unreachable) {
                self.forget(id);
            }
        }
    }

    pub(crate) fn forget_key(&mut self, key: &str, id: &AgentId) {
        if self.keys.get(key) == Some(id) {
            self.keys.remove(key);
        }
    }

    /// As the registry has.
    pub(crate) fn forget(&mut self, id: &AgentId) {
        self.set_alarm(id, None);
        let Some(agent) = self.agents.remove(id) else {
            return;
        };
        self.forget_key(&agent.key, id);
        for task in agent.tasks {
            self.resize_unanswered(&task);
            let waiting = self.tasks.remove(&task).and_then(|task| task.launching);
            if let Some(ticket) = waiting {
                self.launching -= 1;
                self.refuse(ticket, Fault::failed("its agent was given up for good"));
            }
        }
        if let Some(link) = agent.link {
            self.links.remove(&link);
            self.wish(Wish::Close { link });
        }
    }

    // ---- for those who look

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn agent(&self, id: &AgentId) -> Option<AgentView> {
        self.agents.get(id).map(|agent| agent.view(id))
    }

    /// The session of the agent that has a task.
    pub fn link_of(&self, id: &TaskId) -> Option<Link> {
        let task = self.tasks.get(id)?;
        self.agents.get(&task.agent)?.link
    }

    /// Room for changes of its tasks that are under way, besides what they take.
    pub fn promised(&self, id: &AgentId) -> Option<Need> {
        self.agents.get(id).map(|agent| agent.promised)
    }

    /// In the order of their ids, those after one; those marked gone at the end of the last page are not among them.
    pub fn agents_after(&self, after: Option<&AgentId>) -> impl Iterator<Item = AgentView> {
        use std::ops::Bound;
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.agents
            .range((begin, Bound::Unbounded))
            .map(|(id, agent)| agent.view(id))
    }

    /// How many agents are in each state.
    pub fn count_agents(&self, state: AgentState) -> usize {
        if state == AgentState::Gone {
            return self.gone.len();
        }
        let phases = self.agents.values().map(|agent| match agent.phase {
            Phase::Recovered => AgentState::Recovered,
            Phase::Active => AgentState::Active,
            Phase::Disconnected => AgentState::Disconnected,
            Phase::Unreachable { .. } => AgentState::Unreachable,
        });
        phases.filter(|one| *one == state).count()
    }

    /// How many tasks that are remembered are in each state.
    pub fn count_tasks(&self) -> BTreeMap<TaskState, usize> {
        let mut counts = BTreeMap::new();
        for task in self.tasks.values() {
            *counts.entry(task.state()).or_insert(0) += 1;
        }
        counts
    }
}

pub(crate) fn not_applied(error: &NotApplied) -> Fault {
    let kind = match error {
        NotApplied::Refused(_) => FaultKind::State,
        NotApplied::Unknown(_) | NotApplied::NotTaken(_) => FaultKind::Unavailable,
    };
    Fault::from_error(kind, error)
}
