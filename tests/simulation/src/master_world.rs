//! Masters that lead one after the other, their agents, and the registry between them: connections break, agents and hosts
//! die, leaders are frozen and wake up, writes are slow. Both cores are the real ones; what the shells do is told here again
//! in a few lines each.

mod agent;
mod checks;
mod leader;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt::Write as _;

pub use master_core::PlantedBug;
use master_core::{Link, Ticket};
use model::Fault;
use model::registry::{Edit, Registry};
use model::task::{Hello, Need, Refusal, TaskId, TaskReport, TaskState, Welcome};

use crate::random::Random;
use agent::AgentSim;
use leader::LeaderSim;

/// Faults happen for so long, then the world is left alone until it has come to rest.
const FAULTS_MS: u64 = 300_000;
const REST_MS: u64 = 1_500_000;
/// Steps from one look at everything to the next: what is wrong stays wrong.
const LOOK_EVERY: u64 = 25;
const AGENTS: usize = 4;
/// From the end of one leader's time to the next one's election.
const ELECTION_MS: u64 = 10_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub at_ms: u64,
    pub message: String,
}

/// One connection, numbered; each side has its own idea of whether it still is.
pub(crate) type Conn = u64;

#[derive(Debug, Clone)]
pub(crate) enum ToMaster {
    Register(Box<Hello>),
    Launched {
        id: TaskId,
        result: Result<(), Fault>,
    },
    Resized {
        id: TaskId,
        result: Result<TaskReport, Fault>,
    },
    Pong,
    Update(TaskReport),
}

#[derive(Debug, Clone)]
pub(crate) enum ToAgent {
    Welcome(Welcome),
    Refuse(Refusal),
    Launch { term: u64, id: TaskId },
    Kill { term: u64, id: TaskId },
    Resize { term: u64, id: TaskId, need: Need },
    Ping,
    Shutdown,
    Release,
    Acknowledge { id: TaskId, sequence: u64, taken: bool },
}

#[derive(Debug, Clone)]
pub(crate) enum Event {
    ToMaster {
        term: u64,
        conn: Conn,
        agent: usize,
        message: ToMaster,
    },
    ToAgent {
        conn: Conn,
        agent: usize,
        message: ToAgent,
    },
    /// One side notices that a connection is gone.
    MasterNotices {
        term: u64,
        conn: Conn,
    },
    AgentNotices {
        agent: usize,
        conn: Conn,
    },
    /// The registry has it, or refuses.
    Stored {
        term: u64,
        token: u64,
        edit: Box<Edit>,
    },
    Applied {
        term: u64,
        token: u64,
        result: Result<(), String>,
    },
    LeaderTick {
        term: u64,
    },
    AgentTick {
        agent: usize,
        life: u64,
    },
    Connect {
        agent: usize,
        life: u64,
    },
    Written {
        agent: usize,
        life: u64,
        id: TaskId,
        sequence: u64,
    },
    /// The container's command runs, or its launch is refused.
    Started {
        agent: usize,
        life: u64,
        id: TaskId,
        refused: bool,
    },
    /// The kernel has other limits for a container, or refuses.
    Resized {
        agent: usize,
        life: u64,
        id: TaskId,
        need: Need,
    },
    Ended {
        agent: usize,
        id: TaskId,
        state: TaskState,
    },
    AgentUp {
        agent: usize,
    },
    /// The connection breaks while it is young: the welcome may get lost.
    Cut {
        agent: usize,
    },
    Elect,
    /// Somebody asks for something, or something breaks.
    Whim,
}

struct Entry {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// What is written to the log of all masters: the writer with the highest term, and the registry.
#[derive(Default)]
pub(crate) struct Store {
    pub writer: u64,
    pub registry: Registry,
    /// Everybody who was ever admitted, or written down as unreachable.
    pub admitted: BTreeSet<String>,
    pub unreachable: BTreeSet<String>,
}

pub(crate) struct World {
    pub now: u64,
    pub random: Random,
    queue: BinaryHeap<Reverse<Entry>>,
    number: u64,
    pub store: Store,
    pub leaders: BTreeMap<u64, LeaderSim>,
    pub agents: Vec<AgentSim>,
    next_conn: Conn,
    /// When the last message of a connection in one direction arrives: they do not overtake each other.
    arrivals: BTreeMap<(Conn, bool), u64>,
    /// Broken ones: what is on its way is lost.
    pub broken: BTreeSet<Conn>,
    pub next_task: u64,
    pub books: checks::Books,
    pub bug: Option<PlantedBug>,
    log: Option<String>,
    failure: Option<Violation>,
}

/// Runs the world of one seed; with `log` its events as text.
pub fn run(seed: u64, log: bool) -> (Result<(), Violation>, Option<String>) {
    run_with(seed, log, None)
}

/// With masters that do something wrong.
pub fn run_with(seed: u64, log: bool, bug: Option<PlantedBug>) -> (Result<(), Violation>, Option<String>) {
    let mut world = World::new(seed, log);
    world.bug = bug;
    world.at(0, Event::Elect);
    for agent in 0..AGENTS {
        let life = world.agents[agent].life;
        let after = world.random.below(2000);
        world.at(after, Event::Connect { agent, life });
    }
    world.at(500, Event::Whim);
    let mut steps = 0;
    while let Some(Reverse(entry)) = world.queue.pop() {
        if entry.at > FAULTS_MS + REST_MS {
            break;
        }
        world.now = entry.at;
        if let Some(text) = &mut world.log {
            let _ = writeln!(text, "{:>8} {:?}", entry.at, entry.event);
        }
        world.step(entry.event);
        steps += 1;
        if u64::is_multiple_of(steps, LOOK_EVERY) {
            world.check();
        }
        if world.failure.is_some() {
            break;
        }
    }
    if world.failure.is_none() {
        world.check();
        world.check_rest();
    }
    (world.failure.map_or(Ok(()), Err), world.log)
}

impl World {
    fn new(seed: u64, log: bool) -> Self {
        Self {
            now: 0,
            random: Random::new(seed),
            queue: BinaryHeap::new(),
            number: 0,
            store: Store::default(),
            leaders: BTreeMap::new(),
            agents: (0..AGENTS).map(|_| AgentSim::default()).collect(),
            next_conn: 0,
            arrivals: BTreeMap::new(),
            broken: BTreeSet::new(),
            next_task: 0,
            books: checks::Books::default(),
            bug: None,
            log: log.then(String::new),
            failure: None,
        }
    }

    pub(crate) fn faulty(&self) -> bool {
        self.now < FAULTS_MS
    }

    pub(crate) fn at(&mut self, after_ms: u64, event: Event) {
        self.number += 1;
        self.queue.push(Reverse(Entry {
            at: self.now + after_ms,
            number: self.number,
            event,
        }));
    }

    pub(crate) fn fail(&mut self, message: String) {
        let at_ms = self.now;
        self.failure.get_or_insert(Violation { at_ms, message });
    }

    /// How long something takes: mostly little, seldom much.
    pub(crate) fn delay(&mut self) -> u64 {
        match self.random.below(20) {
            0 => self.random.below(3000),
            _ => 1 + self.random.below(20),
        }
    }

    pub(crate) fn send_to_master(&mut self, term: u64, conn: Conn, agent: usize, message: ToMaster) {
        let after = self.arrival(conn, true);
        self.at(
            after,
            Event::ToMaster {
                term,
                conn,
                agent,
                message,
            },
        );
    }

    pub(crate) fn send_to_agent(&mut self, conn: Conn, agent: usize, message: ToAgent) {
        let after = self.arrival(conn, false);
        self.at(after, Event::ToAgent { conn, agent, message });
    }

    /// It stands, and nothing is on its way.
    pub(crate) fn quiet(&self, conn: Conn) -> bool {
        let last = |up: bool| self.arrivals.get(&(conn, up)).copied().unwrap_or(0);
        !self.broken.contains(&conn) && last(true).max(last(false)) < self.now
    }

    fn arrival(&mut self, conn: Conn, up: bool) -> u64 {
        let wanted = self.now + self.delay();
        let last = self.arrivals.entry((conn, up)).or_insert(0);
        *last = wanted.max(*last);
        *last - self.now
    }

    /// Nothing more comes through; each side notices in its time.
    pub(crate) fn break_connection(&mut self, term: u64, conn: Conn, agent: usize) {
        if !self.broken.insert(conn) {
            return;
        }
        let (one, other) = (self.random.below(60_000), self.random.below(60_000));
        self.at(one, Event::MasterNotices { term, conn });
        self.at(other, Event::AgentNotices { agent, conn });
    }

    pub(crate) fn new_connection(&mut self) -> Conn {
        self.next_conn += 1;
        self.next_conn
    }

    /// Who leads, as everybody would find out now.
    pub(crate) fn leader(&self) -> Option<u64> {
        let (term, leader) = self.leaders.last_key_value()?;
        leader.holds(self.now).then_some(*term)
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::ToMaster { conn, .. } | Event::ToAgent { conn, .. } if self.broken.contains(&conn) => {}
            Event::ToMaster {
                term,
                conn,
                agent,
                message,
            } => self.leader_hears(term, conn, agent, message),
            Event::ToAgent { conn, agent, message } => self.agent_hears(agent, conn, message),
            Event::MasterNotices { term, conn } => {
                self.leader_input(term, |_| master_core::Input::LinkLost { link: Link(conn) })
            }
            Event::AgentNotices { agent, conn } => self.agent_parts(agent, conn),
            Event::Stored { term, token, edit } => self.stored(term, token, &edit),
            Event::Applied { term, token, result } => self.applied(term, token, result),
            Event::LeaderTick { term } => {
                if let Some(leader) = self.leaders.get_mut(&term) {
                    leader.tick_at = None;
                }
                self.leader_input(term, |_| master_core::Input::Tick);
            }
            Event::AgentTick { agent, life } => self.agent_tick(agent, life),
            Event::Connect { agent, life } => self.connect(agent, life),
            Event::Written {
                agent,
                life,
                id,
                sequence,
            } => self.written(agent, life, id, sequence),
            Event::Started {
                agent,
                life,
                id,
                refused,
            } => self.started(agent, life, id, refused),
            Event::Resized {
                agent,
                life,
                id,
                need,
            } => self.limits_changed(agent, life, &id, need),
            Event::Ended { agent, id, state } => self.ended(agent, &id, state),
            Event::AgentUp { agent } => self.agent_up(agent),
            Event::Cut { agent } => self.cut(agent),
            Event::Elect => self.elect(),
            Event::Whim => self.whim(),
        }
    }

    fn stored(&mut self, term: u64, token: u64, edit: &Edit) {
        let result = if self.store.writer != term {
            Err("another leader writes".to_owned())
        } else {
            master_core::registry::apply(&mut self.store.registry, edit)
                .map(drop)
                .map_err(|refusal| format!("refused: {refusal}"))
        };
        if result.is_ok() {
            match edit {
                Edit::Admit { id, .. } => drop(self.store.admitted.insert(id.0.clone())),
                Edit::MarkUnreachable { id, .. } => drop(self.store.unreachable.insert(id.0.clone())),
                _ => {}
            }
        }
        let after = self.delay();
        self.at(after, Event::Applied { term, token, result });
    }

    /// What people do, and what breaks.
    fn whim(&mut self) {
        if !self.faulty() {
            return;
        }
        let pause = 100 + self.random.below(4000);
        self.at(pause, Event::Whim);
        let agent = self.random.below(AGENTS as u64) as usize;
        match self.random.below(30) {
            0..=9 => self.ask_launch(),
            10..=12 => self.ask_kill(),
            13 | 14 => self.cut(agent),
            15 => self.crash_agent(agent, false),
            16 if self.random.one_in(3) => self.crash_agent(agent, true),
            17 if self.random.one_in(2) => self.end_leadership(),
            18 if self.random.one_in(25) => self.ask_gone(agent),
            19 => self.lose_leader_of_one(agent),
            20..=24 => self.ask_resize(),
            25 => self.shrink_one(agent),
            _ => {}
        }
    }

    fn cut(&mut self, agent: usize) {
        if let Some(line) = &self.agents[agent].line {
            let (term, conn) = (line.leader, line.conn);
            self.break_connection(term, conn, agent);
        }
    }

    /// It alone thinks that nobody leads, and looks again.
    fn lose_leader_of_one(&mut self, agent: usize) {
        if let Some(conn) = self.agents[agent].line.as_ref().map(|line| line.conn) {
            self.agent_parts(agent, conn);
        }
    }

    pub(crate) fn ticket(&mut self) -> Ticket {
        self.number += 1;
        Ticket(self.number)
    }
}
