//! A leader: the core, and what its shell would do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use master_core::registrar::{NotApplied, Token};
use master_core::{Input, Link, Master, Now, Settings, Ticket, Wish};
use model::registry::{AgentId, Edit, MasterRecord};
use model::task::{TaskId, TaskRequest};
use model::{Bytes, Cpus, LaunchSpec, Limit, Limits, Millis};

use super::{Conn, ELECTION_MS, Event, ToAgent, ToMaster, World};

pub(crate) struct LeaderSim {
    pub core: Master,
    /// Its time is over then; it may not know, and acts no more all the same.
    pub until: u64,
    /// It does nothing until then.
    pub frozen: u64,
    pub tick_at: Option<u64>,
    /// Whose update a ticket is.
    pub updates: BTreeMap<Ticket, (Conn, usize, TaskId, u64)>,
    pub conns: BTreeMap<Conn, usize>,
}

impl LeaderSim {
    pub fn holds(&self, now: u64) -> bool {
        now < self.until
    }
}

impl World {
    pub(crate) fn elect(&mut self) {
        if self.leader().is_some() {
            return;
        }
        let term = self
            .leaders
            .last_key_value()
            .map_or(1, |(term, _)| term + 1 + self.random.below(3));
        self.store.writer = term;
        let record = MasterRecord {
            term,
            ..MasterRecord::default()
        };
        let edit = Edit::Lead(record);
        if let Err(refusal) = master_core::registry::apply(&mut self.store.registry, &edit) {
            return self.fail(format!("term {term} can't lead: {refusal}"));
        }
        let settings = Settings {
            master_id: format!("m{term}"),
            term,
            removal_limit: self.random.one_in(2).then_some((1, Duration::from_secs(20))),
            ..Settings::default()
        };
        let now = self.moment();
        let mut core = Master::new(settings, &self.store.registry, now);
        if let Some(bug) = self.bug {
            core.plant(bug);
        }
        let leader = LeaderSim {
            core,
            until: u64::MAX,
            frozen: 0,
            tick_at: None,
            updates: BTreeMap::new(),
            conns: BTreeMap::new(),
        };
        self.leaders.insert(term, leader);
        self.schedule_tick(term);
    }

    fn moment(&self) -> Now {
        Now {
            monotonic: Duration::from_millis(self.now),
            wall_ms: 1_000_000 + self.now,
        }
    }

    /// Killed, cut off from ZooKeeper, or frozen and awake again after its time.
    pub(crate) fn end_leadership(&mut self) {
        let Some(term) = self.leader() else { return };
        let freeze = self.random.below(40_000);
        let dies = self.random.one_in(2);
        let (now, conns) = match self.leaders.get_mut(&term) {
            Some(leader) => {
                leader.until = self.now + 1;
                leader.frozen = self.now + if dies { u64::MAX / 2 } else { freeze };
                (self.now, leader.conns.clone())
            }
            None => return,
        };
        debug_assert!(now == self.now);
        for (conn, agent) in conns {
            // Whoever dies closes; whoever is frozen keeps his connections until the agents find the next one.
            if dies || self.random.one_in(3) {
                self.break_connection(term, conn, agent);
            }
        }
        let after = ELECTION_MS + self.random.below(3000);
        self.at(after, Event::Elect);
        for agent in 0..self.agents.len() {
            let parts = self.random.below(2 * ELECTION_MS);
            if let Some(conn) = self.agents[agent].line.as_ref().map(|line| line.conn) {
                self.at(parts, Event::AgentNotices { agent, conn });
            }
        }
    }

    pub(crate) fn leader_hears(&mut self, term: u64, conn: Conn, agent: usize, message: ToMaster) {
        match message {
            ToMaster::Register(hello) => {
                if let Some(leader) = self.leaders.get_mut(&term) {
                    leader.conns.insert(conn, agent);
                }
                self.leader_input(term, |_| Input::Register {
                    link: Link(conn),
                    hello,
                });
            }
            ToMaster::Launched { id, result } => {
                self.leader_input(term, |_| Input::Launched {
                    link: Link(conn),
                    id,
                    result,
                });
            }
            ToMaster::Resized { id, result } => {
                self.leader_input(term, |_| Input::Resized {
                    link: Link(conn),
                    id,
                    result,
                });
            }
            ToMaster::Pong => self.leader_input(term, |_| Input::Ponged { link: Link(conn) }),
            ToMaster::Update(report) => {
                let ticket = self.ticket();
                if let Some(leader) = self.leaders.get_mut(&term) {
                    let whose = (conn, agent, report.id.clone(), report.sequence);
                    leader.updates.insert(ticket, whose);
                }
                self.leader_input(term, |_| Input::Update {
                    ticket,
                    link: Link(conn),
                    report,
                });
            }
        }
    }

    /// A frozen one hears nothing; one whose time is over does nothing.
    pub(crate) fn leader_input(&mut self, term: u64, make: impl FnOnce(&mut Master) -> Input) {
        let moment = self.moment();
        let now = self.now;
        let Some(leader) = self.leaders.get_mut(&term) else {
            return;
        };
        if now < leader.frozen || !leader.holds(now) {
            return;
        }
        let input = make(&mut leader.core);
        leader.core.handle(moment, input);
        let wishes: Vec<Wish> = std::iter::from_fn(|| leader.core.poll()).collect();
        for wish in wishes {
            self.leader_acts(term, wish);
        }
        self.schedule_tick(term);
    }

    fn schedule_tick(&mut self, term: u64) {
        let Some(leader) = self.leaders.get_mut(&term) else {
            return;
        };
        let Some(at) = leader.core.deadline() else { return };
        let at = (at.as_millis() as u64).max(self.now);
        if leader.tick_at.is_some_and(|known| known <= at) {
            return;
        }
        leader.tick_at = Some(at);
        self.at(at - self.now, Event::LeaderTick { term });
    }

    fn leader_acts(&mut self, term: u64, wish: Wish) {
        let agent_of = |world: &Self, link: Link| world.leaders.get(&term)?.conns.get(&link.0).copied();
        let order = |world: &mut Self, link: Link, message: ToAgent| {
            if let Some(agent) = agent_of(world, link) {
                world.send_to_agent(link.0, agent, message);
            }
        };
        match wish {
            Wish::Submit { token, edit } => {
                let after = self.delay();
                let (token, edit) = (token.0, Box::new(edit));
                self.at(after, Event::Stored { term, token, edit });
            }
            Wish::Welcome { link, welcome } => {
                self.check_welcome(&welcome);
                order(self, link, ToAgent::Welcome(welcome));
            }
            Wish::Refuse { link, refusal, .. } => order(self, link, ToAgent::Refuse(refusal)),
            Wish::Launch { link, id, .. } => {
                self.check_order(term, &id);
                order(self, link, ToAgent::Launch { term, id });
            }
            Wish::Resize { link, id, need, .. } => order(self, link, ToAgent::Resize { term, id, need }),
            Wish::Kill { link, id, .. } => order(self, link, ToAgent::Kill { term, id }),
            Wish::Ping { link } => order(self, link, ToAgent::Ping),
            Wish::Shutdown { link, .. } => order(self, link, ToAgent::Shutdown),
            Wish::Close { link } => {
                order(self, link, ToAgent::Release);
                if let Some(leader) = self.leaders.get_mut(&term) {
                    leader.conns.remove(&link.0);
                }
            }
            Wish::Answer { ticket, result } => {
                let whose = self
                    .leaders
                    .get_mut(&term)
                    .and_then(|leader| leader.updates.remove(&ticket));
                if let Some((conn, agent, id, sequence)) = whose {
                    let taken = result.is_ok();
                    self.send_to_agent(conn, agent, ToAgent::Acknowledge { id, sequence, taken });
                }
            }
            Wish::StepDown { why } => self.fail(format!("term {term} steps down by itself: {why}")),
        }
    }

    pub(crate) fn applied(&mut self, term: u64, token: u64, result: Result<(), String>) {
        let result = result.map_err(NotApplied::Unknown);
        self.leader_input(term, |_| Input::Applied {
            token: Token(token),
            result,
        });
    }

    // ---- people

    pub(crate) fn ask_launch(&mut self) {
        let Some(term) = self.leader() else { return };
        self.next_task += 1;
        let Ok(id) = format!("task-{}", self.next_task).parse::<TaskId>() else {
            return;
        };
        let spec = LaunchSpec {
            command: vec!["x".into()],
            limits: Limits {
                cpus: Some(Cpus::from_milli(500)),
                mem: Some(Limit::Value(Bytes::mib(64))),
                ..Limits::default()
            },
            ..LaunchSpec::default()
        };
        let ticket = self.ticket();
        let request = TaskRequest {
            id,
            agent: None,
            spec: Arc::new(spec),
        };
        // Somebody who got no answer asks again.
        if self.random.one_in(4) {
            let again = self.ticket();
            let request = request.clone();
            self.leader_input(term, |_| Input::Launch {
                ticket: again,
                request,
            });
        }
        self.leader_input(term, |_| Input::Launch { ticket, request });
    }

    pub(crate) fn ask_kill(&mut self) {
        let Some(term) = self.leader() else { return };
        let number = 1 + self.random.below(self.next_task.max(1));
        let Ok(id) = format!("task-{number}").parse::<TaskId>() else {
            return;
        };
        let ticket = self.ticket();
        self.leader_input(term, |_| Input::Kill {
            ticket,
            id,
            grace: Some(Millis(0)),
        });
    }

    pub(crate) fn ask_resize(&mut self) {
        let Some(term) = self.leader() else { return };
        // Mostly one that may run still.
        let back = self.random.below(20);
        let number = self.next_task.saturating_sub(back).max(1);
        let Ok(id) = format!("task-{number}").parse::<TaskId>() else {
            return;
        };
        let mut change = Limits::default();
        if !self.random.one_in(3) {
            change.cpus = Some(Cpus::from_milli(100 * (1 + self.random.below(12) as u32)));
        }
        if change.cpus.is_none() || self.random.one_in(2) {
            change.mem = Some(Limit::Value(Bytes::mib(16 * (1 + self.random.below(12)))));
        }
        let ticket = self.ticket();
        self.leader_input(term, |_| Input::Resize {
            ticket,
            id,
            change: Box::new(change),
        });
    }

    pub(crate) fn ask_gone(&mut self, agent: usize) {
        let (Some(term), Some(id)) = (self.leader(), self.agents[agent].id.clone()) else {
            return;
        };
        let ticket = self.ticket();
        let agent: AgentId = id;
        self.leader_input(term, |_| Input::MarkGone { ticket, agent });
    }
}
