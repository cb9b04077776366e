//! One leadership, fed with what agents and people say, at moments of the test's choosing.

mod lost;
mod resizing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use master_core::registrar::{NotApplied, Token};
use master_core::{Input, Link, Master, Now, Settings, Ticket, Wish};
use model::registry::{AgentId, AgentRecord, Edit, MasterRecord, Registry};
use model::resources::Scalar;
use model::task::{AgentState, Hello, Need, Refusal, TaskId, TaskReport, TaskRequest, TaskState, TaskStatus};
use model::{Bytes, Cpus, Fault, LaunchSpec, Limit, Limits};

/// A master, the registry that it writes to, and all it has said.
struct World {
    core: Master,
    registry: Registry,
    now: Duration,
    next: u64,
    said: Vec<Wish>,
    /// Edits in the order in which they were written, with the moment.
    written: Vec<(Duration, Edit)>,
    /// Writes take until they are let through.
    slow: bool,
    held: Vec<(Token, Edit)>,
}

impl World {
    fn new(settings: Settings) -> Self {
        Self::after(settings, Registry::default())
    }

    /// The leader that comes after: knows what the registry knows.
    fn after(settings: Settings, mut registry: Registry) -> Self {
        let lead = Edit::Lead(MasterRecord {
            term: settings.term,
            ..MasterRecord::default()
        });
        master_core::registry::apply(&mut registry, &lead).unwrap();
        Self {
            core: Master::new(settings, &registry, Now::default()),
            registry,
            now: Duration::ZERO,
            next: 0,
            said: Vec::new(),
            written: Vec::new(),
            slow: false,
            held: Vec::new(),
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn input(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let now = Now {
                monotonic: self.now,
                wall_ms: 1_000_000 + self.now.as_millis() as u64,
            };
            self.core.handle(now, input);
            while let Some(wish) = self.core.poll() {
                if let Wish::Submit { token, edit } = &wish
                    && self.slow
                {
                    self.held.push((Token(token.0), edit.clone()));
                } else if let Wish::Submit { token, edit } = &wish {
                    let result = master_core::registry::apply(&mut self.registry, edit);
                    assert!(result.is_ok(), "{edit:?}: {result:?}");
                    self.written.push((self.now, edit.clone()));
                    inputs.push(Input::Applied {
                        token: Token(token.0),
                        result: Ok(()),
                    });
                }
                self.said.push(wish);
            }
        }
    }

    /// All that is on its way arrives, or is refused by the registry.
    fn let_through(&mut self) {
        for (token, edit) in std::mem::take(&mut self.held) {
            let result = master_core::registry::apply(&mut self.registry, &edit);
            self.written.push((self.now, edit));
            let result = result.map(drop).map_err(NotApplied::Refused);
            self.input(Input::Applied { token, result });
        }
    }

    /// All that is on its way comes to nothing, and the next may not.
    fn turn_down(&mut self) {
        for (token, _) in std::mem::take(&mut self.held) {
            let result = Err(NotApplied::NotTaken("too many edits are waiting".to_owned()));
            self.input(Input::Applied { token, result });
        }
    }

    fn drain(&mut self, agent: &AgentId, mark_gone: bool) -> Ticket {
        let ticket = Ticket(self.number());
        self.input(Input::Drain {
            ticket,
            agent: agent.clone(),
            grace: None,
            mark_gone,
        });
        ticket
    }

    /// Until that moment, with every tick on the way. Those that answer pings answer at once.
    fn until(&mut self, when: Duration, answers: impl Fn(Link) -> bool) {
        while let Some(at) = self.core.deadline().filter(|at| *at <= when) {
            self.now = at.max(self.now);
            let before = self.said.len();
            self.input(Input::Tick);
            let pings: Vec<Link> = self.said[before..]
                .iter()
                .filter_map(|wish| match wish {
                    Wish::Ping { link } if answers(*link) => Some(*link),
                    _ => None,
                })
                .collect();
            for link in pings {
                self.input(Input::Ponged { link });
            }
        }
        self.now = when;
    }

    fn register(&mut self, hello: Hello) -> Link {
        let link = Link(self.number());
        self.input(Input::Register {
            link,
            hello: Box::new(hello),
        });
        link
    }

    /// The id that a link got.
    fn id_of(&self, link: Link) -> AgentId {
        let found = self.said.iter().find_map(|wish| match wish {
            Wish::Welcome { link: to, welcome } if *to == link => Some(welcome.id.clone()),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("{link:?} was not let in: {:?}", self.said))
    }

    fn refusal(&self, link: Link) -> Option<(Refusal, String)> {
        self.said.iter().find_map(|wish| match wish {
            Wish::Refuse {
                link: to,
                refusal,
                fault,
            } if *to == link => Some((*refusal, fault.to_string())),
            _ => None,
        })
    }

    fn state(&self, id: &AgentId) -> AgentState {
        self.core.agent(id).unwrap().state
    }

    fn launch(&mut self, name: &str) -> Ticket {
        let ticket = Ticket(self.number());
        let request = request(name);
        self.input(Input::Launch { ticket, request });
        ticket
    }

    fn answer(&self, to: Ticket) -> Option<Result<(), Fault>> {
        self.said.iter().find_map(|wish| match wish {
            Wish::Answer { ticket, result } if *ticket == to => Some(result.clone()),
            _ => None,
        })
    }

    fn task(&self, name: &str) -> TaskState {
        let view = self.core.task(&task_id(name)).unwrap();
        view.status().unwrap().state
    }
}

fn settings(term: u64) -> Settings {
    Settings {
        master_id: format!("m{term}"),
        term,
        ..Settings::default()
    }
}

fn hello(number: usize, id: Option<AgentId>) -> Hello {
    Hello {
        id,
        key: format!("key{number}"),
        record: AgentRecord {
            hostname: format!("host{number}"),
            resources: "cpus:4;mem:1024".parse().unwrap(),
            ..AgentRecord::default()
        },
        boot_id: "boot".into(),
        term: 0,
        tasks: Vec::new(),
    }
}

fn task_id(name: &str) -> TaskId {
    name.parse().unwrap()
}

fn request(name: &str) -> TaskRequest {
    let spec = LaunchSpec {
        command: vec!["x".into()],
        limits: Limits {
            cpus: Some(Cpus::from_milli(500)),
            mem: Some(Limit::Value(Bytes::mib(64))),
            ..Limits::default()
        },
        ..LaunchSpec::default()
    };
    TaskRequest {
        id: task_id(name),
        agent: None,
        spec: Arc::new(spec),
    }
}

fn report(name: &str, sequence: u64, state: TaskState) -> TaskReport {
    TaskReport {
        id: task_id(name),
        name: None,
        need: Need::default(),
        sequence,
        status: TaskStatus {
            state,
            message: String::new(),
            at_ms: 1,
            exit_status: None,
        },
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_agent_whose_welcome_got_lost_is_not_a_second_agent() {
    let mut world = World::new(settings(1));
    let first = world.register(hello(0, None));
    let id = world.id_of(first);
    // Before it hears of it, it gets a task; then the connection breaks, and it comes again as one who was never here.
    let ticket = world.launch("task-1");
    world.input(Input::LinkLost { link: first });
    let again = world.register(hello(0, None));
    assert_eq!(world.id_of(again), id);
    assert_eq!(world.task("task-1"), TaskState::Dropped);
    assert!(world.answer(ticket).unwrap().is_err());
    assert_eq!(world.registry.agents.len(), 1);
    // Others are others, also those that do not call themselves anything.
    let other = world.register(hello(1, None));
    assert_ne!(world.id_of(other), id);
    let mut nameless = hello(2, None);
    nameless.key.clear();
    let (one, two) = (world.register(nameless.clone()), world.register(nameless));
    assert_ne!(world.id_of(one), world.id_of(two));
}

#[test]
fn one_that_was_marked_gone_before_its_welcome_arrived_is_a_new_agent() {
    let mut world = World::new(settings(1));
    let first = world.register(hello(0, None));
    let id = world.id_of(first);
    let ticket = Ticket(world.number());
    world.input(Input::MarkGone {
        ticket,
        agent: id.clone(),
    });
    let again = world.register(hello(0, None));
    assert_ne!(world.id_of(again), id);
}

#[test]
fn half_of_the_fleet_vanishes_and_is_given_up_no_faster_than_the_limit_says() {
    let mut world = World::new(Settings {
        removal_limit: Some((2, Duration::from_secs(600))),
        ..settings(1)
    });
    let links: Vec<Link> = (0..20)
        .map(|number| world.register(hello(number, None)))
        .collect();
    let ids: Vec<AgentId> = links.iter().map(|link| world.id_of(*link)).collect();
    world.now = SECOND;
    // Ten are cut off without a word: their connections stand, and nobody answers.
    let answers = |link: Link| links[10..].contains(&link);
    world.until(Duration::from_secs(1000), answers);
    let given_up = |world: &World| -> Vec<Duration> {
        let edits = world.written.iter();
        edits
            .filter(|(_, edit)| matches!(edit, Edit::MarkUnreachable { .. }))
            .map(|(at, _)| *at)
            .collect()
    };
    let first = given_up(&world);
    assert!((3..=4).contains(&first.len()), "{first:?}");
    // Two of those that wait for their turn come back, and are not given up.
    let waiting: Vec<usize> = (0..10)
        .filter(|number| world.state(&ids[*number]) == AgentState::Active)
        .collect();
    for number in &waiting[..2] {
        world.register(hello(*number, Some(ids[*number].clone())));
    }
    let spared: Vec<AgentId> = waiting[..2].iter().map(|number| ids[*number].clone()).collect();
    let old: Vec<Link> = links.clone();
    world.until(Duration::from_secs(20_000), |link| {
        old[10..].contains(&link) || !old.contains(&link)
    });
    let all = given_up(&world);
    assert_eq!(all.len(), 8, "{all:?}");
    for pair in all.windows(2) {
        assert!(pair[1] - pair[0] >= Duration::from_secs(300), "{all:?}");
    }
    for id in spared.iter().chain(&ids[10..]) {
        assert_eq!(world.state(id), AgentState::Active);
    }
    assert_eq!(world.core.count_agents(AgentState::Unreachable), 8);
    assert_eq!(world.registry.unreachable.len(), 8);
}

#[test]
fn a_rogue_agent_is_not_admitted_when_the_registry_is_strict() {
    let mut world = World::new(settings(1));
    let rogue = world.register(hello(0, Some(AgentId("other-cluster-S7".into()))));
    let (refusal, said) = world.refusal(rogue).unwrap();
    assert_eq!(refusal, Refusal::Shutdown, "it has to end its tasks");
    assert!(said.contains("knows no agent other-cluster-S7"), "{said}");
    assert!(world.registry.agents.is_empty() && world.written.is_empty());
    // What it says afterwards over the same connection is not heard.
    let ticket = Ticket(world.number());
    world.input(Input::Update {
        ticket,
        link: rogue,
        report: report("task-1", 1, TaskState::Running),
    });
    assert!(world.answer(ticket).unwrap().is_err());
    assert!(world.core.task(&task_id("task-1")).is_none());

    let mut lax = World::new(Settings {
        strict: false,
        ..settings(1)
    });
    let link = lax.register(hello(0, Some(AgentId("other-cluster-S7".into()))));
    assert_eq!(lax.id_of(link).0, "other-cluster-S7");
    assert_eq!(lax.registry.agents.len(), 1);
}

#[test]
fn an_agent_that_died_with_the_master_is_noticed_by_the_next_one() {
    let mut world = World::new(settings(1));
    let links: Vec<Link> = (0..4).map(|number| world.register(hello(number, None))).collect();
    let ids: Vec<AgentId> = links.iter().map(|link| world.id_of(*link)).collect();
    // The master dies, and agent 3 with it. The others come to the next one.
    let mut next = World::after(settings(2), world.registry);
    for (number, id) in ids[..3].iter().enumerate() {
        next.register(hello(number, Some(id.clone())));
    }
    assert_eq!(next.state(&ids[3]), AgentState::Recovered);
    next.until(Duration::from_secs(599), |_| true);
    assert_eq!(next.state(&ids[3]), AgentState::Recovered);
    assert!(next.registry.unreachable.is_empty());
    next.until(Duration::from_secs(601), |_| true);
    assert_eq!(next.state(&ids[3]), AgentState::Unreachable);
    assert!(next.registry.unreachable.contains_key(&ids[3]));
    assert_eq!(next.core.counters.recovery_removals, 1);
    // It was only slow: it comes back, with what it has.
    let mut late = hello(3, Some(ids[3].clone()));
    late.tasks = vec![report("task-9", 2, TaskState::Running)];
    let link = next.register(late);
    assert_eq!(next.id_of(link), ids[3]);
    assert_eq!(next.task("task-9"), TaskState::Running);
    assert!(next.registry.unreachable.is_empty());
}

#[test]
fn too_many_that_do_not_come_back_are_looked_at_by_somebody_first() {
    let mut world = World::new(settings(1));
    for number in 0..4 {
        world.register(hello(number, None));
    }
    let mut next = World::after(
        Settings {
            recovery_removal_limit_percent: 50,
            ..settings(2)
        },
        world.registry,
    );
    next.until(Duration::from_secs(700), |_| true);
    let stopped = next.said.iter().any(|wish| matches!(wish, Wish::StepDown { .. }));
    assert!(stopped && next.registry.unreachable.is_empty(), "{:?}", next.said);
}

#[test]
fn a_removed_agent_that_returns_is_told_to_end_its_tasks() {
    let mut world = World::new(settings(1));
    let link = world.register(hello(0, None));
    let id = world.id_of(link);
    world.launch("task-1");
    let ticket = Ticket(world.number());
    world.input(Input::MarkGone {
        ticket,
        agent: id.clone(),
    });
    assert_eq!(world.answer(ticket), Some(Ok(())));
    assert_eq!(world.task("task-1"), TaskState::GoneByOperator);
    let told = |wish: &Wish| matches!(wish, Wish::Shutdown { link: to, .. } if *to == link);
    assert!(world.said.iter().any(told));
    for mut world in [World::after(settings(2), world.registry.clone()), world] {
        let again = world.register(hello(0, Some(id.clone())));
        let (refusal, said) = world.refusal(again).unwrap();
        assert_eq!(refusal, Refusal::Shutdown);
        assert!(said.contains("was marked gone"), "{said}");
    }
}

#[test]
fn launches_that_wait_for_an_answer_have_a_bound_and_an_end() {
    let mut world = World::new(Settings {
        launching_max: 3,
        ..settings(1)
    });
    let link = world.register(hello(0, None));
    let tickets: BTreeMap<String, Ticket> = ["task-1", "task-2", "task-3"]
        .map(|name| (name.to_owned(), world.launch(name)))
        .into();
    let refused = world.launch("task-4");
    assert!(
        world
            .answer(refused)
            .unwrap()
            .unwrap_err()
            .message
            .contains("wait")
    );
    assert!(world.core.task(&task_id("task-4")).is_none());
    // One is answered, one is known by its status; both make room.
    world.input(Input::Launched {
        link,
        id: task_id("task-1"),
        result: Ok(()),
    });
    let ticket = Ticket(world.number());
    world.input(Input::Update {
        ticket,
        link,
        report: report("task-2", 1, TaskState::Running),
    });
    for name in ["task-1", "task-2"] {
        assert_eq!(world.answer(tickets[name]), Some(Ok(())));
    }
    let (five, six) = (world.launch("task-5"), world.launch("task-6"));
    assert_eq!((world.answer(five), world.answer(six)), (None, None));
    // Its agent is lost: nobody waits for ever.
    world.input(Input::LinkLost { link });
    world.until(Duration::from_secs(200), |_| false);
    for ticket in [tickets["task-3"], five, six] {
        let fault = world.answer(ticket).unwrap().unwrap_err();
        assert!(fault.message.contains("can't be reached"), "{fault}");
    }
    assert_eq!(world.task("task-3"), TaskState::Unreachable);
}
