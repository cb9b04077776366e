//! What agents and masters say to each other, and what an agent writes down of a task.
//!
//! Rules: what is decoded encodes to something that decodes to the same. An agent may say anything that can be decoded, to a
//! master that knows nothing and to one that knows it already: the master stays in its senses, no agent is let in that the registry
//! does not know, and an agent is charged for what its tasks take. The first byte chooses the value; the rest is a message in
//! stream framing.

use std::time::Duration;

use capnp::message::Builder;
use master_core::registrar::Token;
use master_core::{Input, Link, Master, Now, Settings, Ticket, Wish};
use model::registry::{Edit, MasterRecord, Registry};
use model::task::{Hello, Need, TaskReport};
use wire::master_capnp as m;

use crate::wire_values::{expect_same, message, same};

pub fn run(data: &[u8]) {
    let (kind, bytes) = crate::choice(data);
    if kind % 8 == 7 {
        return record(bytes);
    }
    let Some(message) = message(bytes) else { return };
    match kind % 8 {
        0 => {
            same!(
                message,
                m::hello::Owned,
                wire::master::encode_hello,
                wire::master::decode_hello
            );
            if let Ok(Ok(hello)) = message.get_root().map(wire::master::decode_hello) {
                arrival(&hello);
            }
        }
        1 => {
            same!(
                message,
                m::task_report::Owned,
                wire::master::encode_report,
                wire::master::decode_report
            );
            if let Ok(Ok(report)) = message.get_root().map(wire::master::decode_report) {
                update(report);
            }
        }
        2 => same!(
            message,
            m::welcome::Owned,
            wire::master::encode_welcome,
            wire::master::decode_welcome
        ),
        3 => same!(
            message,
            m::task_view::Owned,
            wire::master::encode_task,
            wire::master::decode_task
        ),
        4 => same!(
            message,
            m::leader_view::Owned,
            wire::master::encode_leader,
            wire::master::decode_leader
        ),
        5 => {
            if let Ok(results) = message.get_root::<m::operator::agents_results::Reader<'_>>() {
                let _ = wire::master::decode_agents(results.get_agents());
            }
        }
        _ => {
            if let Ok(results) = message.get_root::<m::operator::tasks_results::Reader<'_>>() {
                let _ = wire::master::decode_tasks(results.get_tasks());
            }
        }
    }
}

fn record(bytes: &[u8]) {
    let Ok(record) = wire::master::decode_record(bytes) else {
        return;
    };
    expect_same(
        &record,
        wire::master::decode_record(&wire::master::encode_record(&record)),
    );
}

struct World {
    core: Master,
    registry: Registry,
}

impl World {
    fn new() -> Self {
        let mut registry = Registry::default();
        let lead = Edit::Lead(MasterRecord {
            term: 7,
            ..MasterRecord::default()
        });
        master_core::registry::apply(&mut registry, &lead).expect("the first leader");
        let settings = Settings {
            master_id: "m".to_owned(),
            term: 7,
            ..Settings::default()
        };
        Self {
            core: Master::new(settings, &registry, Now::default()),
            registry,
        }
    }

    fn input(&mut self, seconds: u64, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let now = Now {
                monotonic: Duration::from_secs(seconds),
                wall_ms: seconds * 1000,
            };
            self.core.handle(now, input);
            while let Some(wish) = self.core.poll() {
                match wish {
                    Wish::Submit { token, edit } => {
                        let applied = master_core::registry::apply(&mut self.registry, &edit);
                        applied.expect("a master asks for nothing that its registry refuses");
                        inputs.push(Input::Applied {
                            token: Token(token.0),
                            result: Ok(()),
                        });
                    }
                    Wish::Welcome { welcome, .. } => {
                        assert!(self.registry.agents.contains_key(&welcome.id), "{welcome:?}");
                    }
                    _ => {}
                }
            }
        }
        self.check();
    }

    /// As far as sums can be kept: an agent may claim more than a number holds.
    fn check(&self) {
        for agent in self.core.agents_after(None) {
            let tasks = self.core.tasks_after(None).filter(|task| {
                task.agent == agent.id && task.status().is_some_and(|status| !status.state.is_terminal())
            });
            let (mut sum, mut count) = (Need::default(), 0);
            for task in tasks {
                sum = sum.plus(task.need);
                count += 1;
            }
            assert_eq!(agent.tasks, count);
            let small = |need: Need| need.cpus.milli() < 1 << 40 && need.mem.milli() < 1 << 40;
            if small(sum) && small(agent.used) {
                assert_eq!((agent.used.cpus, agent.used.mem), (sum.cpus, sum.mem));
            }
        }
    }
}

/// It comes, comes again, leaves, is given up, and comes back.
fn arrival(hello: &Hello) {
    let mut world = World::new();
    let mut known = hello.clone();
    known.id = None;
    for (number, hello) in [&known, hello, &known].into_iter().enumerate() {
        let link = Link(number as u64);
        world.input(
            number as u64,
            Input::Register {
                link,
                hello: Box::new(hello.clone()),
            },
        );
    }
    world.input(4, Input::LinkLost { link: Link(2) });
    world.input(1000, Input::Tick);
    world.input(
        1001,
        Input::Register {
            link: Link(9),
            hello: Box::new(known),
        },
    );
}

fn update(report: TaskReport) {
    let mut world = World::new();
    let hello = Hello {
        id: None,
        key: "key".to_owned(),
        record: model::registry::AgentRecord::default(),
        boot_id: String::new(),
        term: 0,
        tasks: vec![report.clone()],
    };
    for link in [Link(1), Link(2)] {
        let hello = Box::new(hello.clone());
        world.input(link.0, Input::Register { link, hello });
    }
    let mut later = report.clone();
    later.sequence = later.sequence.wrapping_add(1);
    for (ticket, report) in [report.clone(), later, report].into_iter().enumerate() {
        world.input(
            3,
            Input::Update {
                ticket: Ticket(ticket as u64),
                link: Link(2),
                report,
            },
        );
    }
}
