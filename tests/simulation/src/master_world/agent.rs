//! An agent: its book, its journal, its containers, and what its shell would do.

use std::collections::{BTreeMap, BTreeSet};

use agent_core::{TaskBook, TaskEvent, TaskWish};
use model::registry::{AgentId, AgentRecord};
use model::task::{Hello, Need, Refusal, TaskId, TaskRecord, TaskState, TaskStatus};
use model::{Fault, FaultKind, Millis};

use super::{Conn, Event, ToAgent, ToMaster, World};

pub(crate) struct Line {
    pub leader: u64,
    pub conn: Conn,
    pub welcomed: bool,
    told: Vec<(TaskId, u64)>,
}

#[derive(Default)]
pub(crate) struct AgentSim {
    /// Of this run of the program; what belongs to an earlier one comes to nothing.
    pub life: u64,
    pub up: bool,
    // On disk.
    pub id: Option<AgentId>,
    pub term: u64,
    pub journal: BTreeMap<TaskId, TaskRecord>,
    // In the kernel: outlives the program, not the host.
    pub boot: u64,
    pub containers: BTreeMap<TaskId, TaskState>,
    /// By the limits that are in force.
    pub needs: BTreeMap<TaskId, Need>,
    // In memory.
    pub book: TaskBook,
    pub line: Option<Line>,
    pub kills: BTreeSet<TaskId>,
    /// Ordered over this connection and not answered yet.
    asked: BTreeMap<TaskId, Conn>,
    /// Changes of limits under way, by whose order.
    pub resizing: BTreeMap<TaskId, Conn>,
    /// Done, and the answer waits for the journal: who asked, and the sequence.
    told_when_written: BTreeMap<TaskId, (Conn, u64)>,
    tick_at: Option<u64>,
}

impl World {
    pub(crate) fn connect(&mut self, agent: usize, life: u64) {
        let here = &self.agents[agent];
        if here.life != life || here.line.is_some() {
            return;
        }
        self.agents[agent].up = true;
        let Some(leader) = self.leader().filter(|term| *term >= self.agents[agent].term) else {
            let after = 500 + self.random.below(1000);
            return self.at(after, Event::Connect { agent, life });
        };
        let conn = self.new_connection();
        let here = &mut self.agents[agent];
        let tasks = here.book.reports();
        let told = tasks
            .iter()
            .map(|task| (task.id.clone(), task.sequence))
            .collect();
        let hello = Hello {
            id: here.id.clone(),
            key: format!("key{agent}"),
            record: AgentRecord {
                hostname: format!("host{agent}"),
                resources: "cpus:4;mem:1024".parse().unwrap_or_default(),
                ..AgentRecord::default()
            },
            boot_id: here.boot.to_string(),
            term: here.term,
            tasks,
        };
        here.line = Some(Line {
            leader,
            conn,
            welcomed: false,
            told,
        });
        self.send_to_master(leader, conn, agent, ToMaster::Register(Box::new(hello)));
        if self.faulty() && self.random.one_in(12) {
            let after = self.random.below(100);
            self.at(after, Event::Cut { agent });
        }
        // Nobody waits for ever for an answer.
        self.at(60_000, Event::AgentNotices { agent, conn });
    }

    /// The agent gives a connection up, if it has it still. The 60 s of a welcome that came count for nothing.
    pub(crate) fn agent_parts(&mut self, agent: usize, conn: Conn) {
        let (broken, leading) = (self.broken.contains(&conn), self.leader());
        let luck = self.random.below(4) == 0;
        let here = &self.agents[agent];
        let Some(line) = here.line.as_ref().filter(|line| line.conn == conn) else {
            return;
        };
        if line.welcomed && !broken && leading == Some(line.leader) && !luck {
            return;
        }
        let leader = self.agents[agent].line.take().map(|line| line.leader);
        self.book(agent, TaskEvent::Parted);
        if let Some(leader) = leader {
            self.broken.insert(conn);
            let after = self.random.below(2000);
            self.at(after, Event::MasterNotices { term: leader, conn });
        }
        let (after, life) = (self.random.below(1000), self.agents[agent].life);
        self.at(after, Event::Connect { agent, life });
    }

    pub(crate) fn agent_hears(&mut self, agent: usize, conn: Conn, message: ToAgent) {
        let Some(line) = self.agents[agent].line.as_mut().filter(|line| line.conn == conn) else {
            return;
        };
        let leader = line.leader;
        match message {
            ToAgent::Welcome(welcome) => {
                line.welcomed = true;
                let told = std::mem::take(&mut line.told);
                let known = self.agents[agent].term;
                if welcome.term < known {
                    let message = format!("agent {agent} was let in by term {} after {known}", welcome.term);
                    return self.fail(message);
                }
                let here = &mut self.agents[agent];
                here.term = welcome.term;
                here.id = Some(welcome.id);
                self.book(agent, TaskEvent::Welcomed { told });
            }
            ToAgent::Refuse(refusal) => {
                self.agents[agent].line = None;
                self.broken.insert(conn);
                if refusal == Refusal::Shutdown {
                    self.end_all(agent);
                }
                let (after, life) = (1000 + self.random.below(10_000), self.agents[agent].life);
                self.at(after, Event::Connect { agent, life });
            }
            ToAgent::Launch { term, id } => {
                if term >= self.agents[agent].term {
                    self.order_launch(agent, conn, id);
                }
            }
            ToAgent::Kill { term, id } => {
                if term >= self.agents[agent].term {
                    self.order_kill(agent, &id);
                }
            }
            ToAgent::Resize { term, id, need } => {
                if term >= self.agents[agent].term {
                    self.order_resize(agent, conn, id, need);
                }
            }
            ToAgent::Ping => self.send_to_master(leader, conn, agent, ToMaster::Pong),
            ToAgent::Shutdown => self.end_all(agent),
            ToAgent::Release => {
                self.broken.insert(conn);
                self.agent_parts(agent, conn);
            }
            ToAgent::Acknowledge { id, sequence, taken } => {
                if taken {
                    self.book(agent, TaskEvent::Acknowledged { id, sequence });
                }
            }
        }
    }

    fn order_launch(&mut self, agent: usize, conn: Conn, id: TaskId) {
        let here = &mut self.agents[agent];
        if here.book.record(&id).is_some() {
            return;
        }
        here.asked.insert(id.clone(), conn);
        let event = TaskEvent::Ordered {
            id,
            name: None,
            need: Need::default(),
            boot_id: here.boot.to_string(),
            at_ms: self.now,
        };
        // The need is what the master reckoned: half a CPU.
        let event = match event {
            TaskEvent::Ordered {
                id,
                name,
                boot_id,
                at_ms,
                ..
            } => TaskEvent::Ordered {
                id,
                name,
                need: super::checks::need(),
                boot_id,
                at_ms,
            },
            other => other,
        };
        self.book(agent, event);
    }

    fn order_kill(&mut self, agent: usize, id: &TaskId) {
        let here = &mut self.agents[agent];
        match here.containers.get(id) {
            Some(TaskState::Running) => {
                let (after, id) = (self.delay(), id.clone());
                self.at(
                    after,
                    Event::Ended {
                        agent,
                        id,
                        state: TaskState::Killed,
                    },
                );
            }
            Some(_) => {}
            None => drop(here.kills.insert(id.clone())),
        }
    }

    fn end_all(&mut self, agent: usize) {
        let living: Vec<TaskId> = self.agents[agent]
            .book
            .living()
            .map(|record| record.id.clone())
            .collect();
        for id in living {
            self.order_kill(agent, &id);
        }
    }

    fn book(&mut self, agent: usize, event: TaskEvent) {
        let now = Millis(self.now);
        let here = &mut self.agents[agent];
        here.book.handle(now, event);
        let wishes: Vec<TaskWish> = std::iter::from_fn(|| here.book.poll()).collect();
        let life = here.life;
        for wish in wishes {
            match wish {
                TaskWish::Write(record) => {
                    // On disk at once; told a little later, in order enough: the sequence says how far.
                    let (id, sequence) = (record.id.clone(), record.sequence);
                    self.agents[agent].journal.insert(id.clone(), *record);
                    let after = 1 + self.random.below(5);
                    self.at(
                        after,
                        Event::Written {
                            agent,
                            life,
                            id,
                            sequence,
                        },
                    );
                }
                TaskWish::Forget { id } => drop(self.agents[agent].journal.remove(&id)),
                TaskWish::Tell(report) => {
                    let line = self.agents[agent].line.as_ref().filter(|line| line.welcomed);
                    if let Some((leader, conn)) = line.map(|line| (line.leader, line.conn)) {
                        self.send_to_master(leader, conn, agent, ToMaster::Update(report));
                    }
                }
            }
        }
        let here = &mut self.agents[agent];
        if let Some(at) = here.book.deadline()
            && here.tick_at.is_none_or(|known| known > at.0)
        {
            here.tick_at = Some(at.0);
            let after = at.0.saturating_sub(self.now);
            self.at(after, Event::AgentTick { agent, life });
        }
    }

    pub(crate) fn agent_tick(&mut self, agent: usize, life: u64) {
        if self.agents[agent].life == life {
            self.agents[agent].tick_at = None;
            self.book(agent, TaskEvent::Tick);
        }
    }

    pub(crate) fn written(&mut self, agent: usize, life: u64, id: TaskId, sequence: u64) {
        if self.agents[agent].life != life {
            return;
        }
        self.book(
            agent,
            TaskEvent::Written {
                id: id.clone(),
                sequence,
            },
        );
        let waits = self.agents[agent].told_when_written.get(&id).copied();
        if let Some((conn, _)) = waits.filter(|(_, until)| *until <= sequence) {
            self.agents[agent].told_when_written.remove(&id);
            if let Some(report) = self.agents[agent].book.report(&id) {
                self.answer_resize(agent, conn, id.clone(), Ok(report));
            }
        }
        if sequence == 0 {
            let refused = self.random.one_in(12);
            let after = self.delay();
            self.at(
                after,
                Event::Started {
                    agent,
                    life,
                    id,
                    refused,
                },
            );
        }
    }

    pub(crate) fn started(&mut self, agent: usize, life: u64, id: TaskId, refused: bool) {
        if self.agents[agent].life != life {
            return;
        }
        let conn = self.agents[agent].asked.remove(&id);
        let result = match refused {
            true => Err(Fault::new(FaultKind::Unsupported, "not here")),
            false => Ok(()),
        };
        if let Err(fault) = &result {
            let status = self.status(model::task::state_of_refusal(fault));
            self.book(
                agent,
                TaskEvent::Refused {
                    id: id.clone(),
                    status,
                },
            );
        } else {
            self.books.start(agent, &id);
            let here = &mut self.agents[agent];
            here.containers.insert(id.clone(), TaskState::Running);
            here.needs.insert(id.clone(), super::checks::need());
            let status = self.status(TaskState::Running);
            self.book(
                agent,
                TaskEvent::Observed {
                    id: id.clone(),
                    status,
                },
            );
            let after = 100 + self.random.below(120_000);
            let state = match self.random.one_in(4) {
                true => TaskState::Failed,
                false => TaskState::Finished,
            };
            self.at(
                after,
                Event::Ended {
                    agent,
                    id: id.clone(),
                    state,
                },
            );
            if self.agents[agent].kills.remove(&id) {
                self.order_kill(agent, &id);
            }
        }
        let line = self.agents[agent]
            .line
            .as_ref()
            .filter(|line| Some(line.conn) == conn);
        if let Some((leader, conn)) = line.map(|line| (line.leader, line.conn)) {
            self.send_to_master(leader, conn, agent, ToMaster::Launched { id, result });
        }
    }

    fn order_resize(&mut self, agent: usize, conn: Conn, id: TaskId, need: Need) {
        let here = &mut self.agents[agent];
        let runs = here.containers.get(&id) == Some(&TaskState::Running);
        if !runs || here.book.record(&id).is_none() || here.resizing.contains_key(&id) {
            let fault = Fault::new(FaultKind::State, "not now");
            return self.answer_resize(agent, conn, id, Err(fault));
        }
        here.resizing.insert(id.clone(), conn);
        let life = here.life;
        self.book(agent, TaskEvent::Resizing { id: id.clone(), need });
        let after = self.delay();
        self.at(
            after,
            Event::Resized {
                agent,
                life,
                id,
                need,
            },
        );
    }

    /// An agent that dies before this has changed nothing: what it had begun is taken back.
    pub(crate) fn limits_changed(&mut self, agent: usize, life: u64, id: &TaskId, need: Need) {
        let refused = self.random.one_in(8);
        let here = &mut self.agents[agent];
        if here.life != life {
            return;
        }
        let conn = here.resizing.remove(id);
        let runs = here.containers.get(id) == Some(&TaskState::Running);
        if runs && !refused {
            here.needs.insert(id.clone(), need);
        }
        let now = here.needs.get(id).copied().unwrap_or_default();
        self.book(
            agent,
            TaskEvent::Resized {
                id: id.clone(),
                need: now,
            },
        );
        let Some(conn) = conn else { return };
        if !runs || refused {
            let fault = Fault::new(FaultKind::Unsupported, "not here");
            return self.answer_resize(agent, conn, id.clone(), Err(fault));
        }
        let here = &mut self.agents[agent];
        if let Some(record) = here.book.record(id) {
            here.told_when_written.insert(id.clone(), (conn, record.sequence));
        }
    }

    fn answer_resize(
        &mut self,
        agent: usize,
        conn: Conn,
        id: TaskId,
        result: Result<model::task::TaskReport, Fault>,
    ) {
        let line = self.agents[agent].line.as_ref();
        if let Some(leader) = line.filter(|line| line.conn == conn).map(|line| line.leader) {
            self.send_to_master(leader, conn, agent, ToMaster::Resized { id, result });
        }
    }

    fn observe_need(&mut self, agent: usize, id: &TaskId) {
        let here = &self.agents[agent];
        let runs = here.containers.get(id) == Some(&TaskState::Running);
        if let Some(need) = here.needs.get(id).copied().filter(|_| runs) {
            let id = id.clone();
            self.book(agent, TaskEvent::Resized { id, need });
        }
    }

    /// Somebody at the agent gives a task less, and asks no master.
    pub(crate) fn shrink_one(&mut self, agent: usize) {
        let here = &mut self.agents[agent];
        let running = |id: &&TaskId| here.containers.get(*id) == Some(&TaskState::Running);
        let Some(id) = here.needs.keys().rfind(running).cloned() else {
            return;
        };
        if !here.up || here.resizing.contains_key(&id) {
            return;
        }
        if let Some(need) = here.needs.get_mut(&id) {
            need.cpus = need.cpus.min(model::resources::Scalar::from_milli(50));
        }
        self.observe_need(agent, &id);
    }

    pub(crate) fn ended(&mut self, agent: usize, id: &TaskId, state: TaskState) {
        if self.agents[agent].containers.get(id) != Some(&TaskState::Running) {
            return;
        }
        self.agents[agent].containers.insert(id.clone(), state);
        if self.agents[agent].up {
            let status = self.status(state);
            self.book(
                agent,
                TaskEvent::Observed {
                    id: id.clone(),
                    status,
                },
            );
        }
    }

    pub(crate) fn status(&self, state: TaskState) -> TaskStatus {
        TaskStatus {
            state,
            message: String::new(),
            at_ms: self.now,
            exit_status: None,
        }
    }

    pub(crate) fn crash_agent(&mut self, agent: usize, reboot: bool) {
        let here = &mut self.agents[agent];
        if !here.up {
            return;
        }
        here.up = false;
        here.life += 1;
        here.book = TaskBook::default();
        here.kills.clear();
        here.asked.clear();
        here.resizing.clear();
        here.told_when_written.clear();
        here.tick_at = None;
        if reboot {
            here.boot += 1;
            here.containers.clear();
            here.needs.clear();
        }
        if let Some(line) = here.line.take()
            && self.broken.insert(line.conn)
        {
            let after = self.random.below(60_000);
            self.at(
                after,
                Event::MasterNotices {
                    term: line.leader,
                    conn: line.conn,
                },
            );
        }
        let after = match self.random.one_in(4) {
            // Long enough to be given up.
            true => self.random.below(200_000),
            false => self.random.below(3000),
        };
        self.at(after, Event::AgentUp { agent });
    }

    /// As the agent's start: what it finds decides.
    pub(crate) fn agent_up(&mut self, agent: usize) {
        self.agents[agent].up = true;
        let records: Vec<TaskRecord> = self.agents[agent].journal.values().cloned().collect();
        for record in records {
            let (id, state) = (record.id.clone(), record.last.state);
            let same_boot = record.boot_id == self.agents[agent].boot.to_string();
            self.book(
                agent,
                TaskEvent::Loaded {
                    record: Box::new(record),
                },
            );
            if state.is_terminal() {
                continue;
            }
            let found = self.agents[agent].containers.get(&id).copied();
            let now = match (found, state, same_boot) {
                (Some(found), _, _) => found,
                (None, TaskState::Staging, true) => TaskState::Dropped,
                (None, _, _) => TaskState::Lost,
            };
            let status = self.status(now);
            self.book(
                agent,
                TaskEvent::Observed {
                    id: id.clone(),
                    status,
                },
            );
            self.observe_need(agent, &id);
        }
        let life = self.agents[agent].life;
        self.at(10, Event::Connect { agent, life });
    }
}
