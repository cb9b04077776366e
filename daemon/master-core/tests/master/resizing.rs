//! Other limits for a running task: what is kept for it, what is in the books, and who is told.

use super::*;

fn need(milli: u64, megabytes: u64) -> Need {
    Need {
        cpus: Scalar::from_milli(milli),
        mem: Scalar::from_milli(megabytes * 1000),
        ..Need::default()
    }
}

fn change(milli: u32, megabytes: u64) -> Box<Limits> {
    Box::new(Limits {
        cpus: Some(Cpus::from_milli(milli)),
        mem: Some(Limit::Value(Bytes::mib(megabytes))),
        ..Limits::default()
    })
}

fn takes(name: &str, sequence: u64, takes: Need) -> TaskReport {
    TaskReport {
        need: takes,
        ..report(name, sequence, TaskState::Running)
    }
}

/// One agent of 4 CPUs and 1,024 MB, with a task of half a CPU and 64 MB.
struct Site {
    world: World,
    link: Link,
    id: AgentId,
}

impl Site {
    fn new() -> Self {
        let mut world = World::new(settings(1));
        let link = world.register(hello(0, None));
        let id = world.id_of(link);
        world.launch("task-1");
        let mut site = Self { world, link, id };
        site.world.input(Input::Launched {
            link,
            id: task_id("task-1"),
            result: Ok(()),
        });
        site.tell(takes("task-1", 1, need(500, 64)));
        site
    }

    fn tell(&mut self, report: TaskReport) {
        let (ticket, link) = (Ticket(self.world.number()), self.link);
        self.world.input(Input::Update { ticket, link, report });
    }

    fn resize(&mut self, change: Box<Limits>) -> Ticket {
        let ticket = Ticket(self.world.number());
        let id = task_id("task-1");
        self.world.input(Input::Resize { ticket, id, change });
        ticket
    }

    fn say(&mut self, result: Result<TaskReport, Fault>) {
        let (link, id) = (self.link, task_id("task-1"));
        self.world.input(Input::Resized { link, id, result });
    }

    fn refusal(&self, ticket: Ticket) -> String {
        self.world.answer(ticket).unwrap().unwrap_err().to_string()
    }

    fn used(&self) -> Need {
        self.world.core.agent(&self.id).unwrap().used
    }

    fn promised(&self) -> Need {
        self.world.core.promised(&self.id).unwrap()
    }

    fn comes_again(&mut self, tasks: Vec<TaskReport>) {
        let hello = Hello {
            tasks,
            ..hello(0, Some(self.id.clone()))
        };
        self.link = self.world.register(hello);
    }
}

#[test]
fn the_new_need_is_in_the_books_when_the_agent_has_said_so() {
    let mut site = Site::new();
    let ticket = site.resize(change(3000, 128));
    let ordered = site.world.said.iter().any(
        |wish| matches!(wish, Wish::Resize { link, need: may, .. } if *link == site.link && *may == need(3000, 128)),
    );
    assert!(ordered && site.world.answer(ticket).is_none());
    assert_eq!((site.used(), site.promised()), (need(500, 64), need(2500, 64)));
    // What is kept for it nobody else gets.
    let refused: Vec<Ticket> = ["task-2", "task-3", "task-4"]
        .map(|name| site.world.launch(name))
        .into();
    assert_eq!(site.world.answer(refused[1]), None);
    assert!(site.refusal(refused[2]).contains("room"));
    let again = site.resize(change(600, 64));
    assert!(site.refusal(again).contains("under way"));

    site.say(Ok(takes("task-1", 2, need(3000, 128))));
    assert_eq!(site.world.answer(ticket), Some(Ok(())));
    assert_eq!((site.used(), site.promised()), (need(4000, 256), Need::default()));
    // Less is always possible, and has room for others at once.
    let ticket = site.resize(change(100, 64));
    assert_eq!(site.promised(), Need::default());
    site.say(Ok(takes("task-1", 3, need(100, 64))));
    assert_eq!(site.world.answer(ticket), Some(Ok(())));
    assert_eq!(site.used(), need(1100, 192));
}

#[test]
fn what_has_no_room_or_no_sense_is_refused_before_anybody_hears_of_it() {
    let mut site = Site::new();
    let before = site.world.said.len();
    let ticket = site.resize(change(5000, 64));
    let said = site.refusal(ticket);
    assert!(
        said.contains("has no room for task task-1 with 5 cpus") && said.contains("free: 3.5 cpus"),
        "{said}"
    );
    for (change, why) in [
        (Box::default(), "none is given"),
        (
            Box::new(Limits {
                mem: Some(Limit::Max),
                ..Limits::default()
            }),
            "has to say how much",
        ),
    ] {
        let ticket = site.resize(change);
        assert!(site.refusal(ticket).contains(why), "{}", site.refusal(ticket));
    }
    let (ticket, id) = (Ticket(site.world.number()), task_id("nobody"));
    let asked = change(100, 64);
    site.world.input(Input::Resize {
        ticket,
        id,
        change: asked,
    });
    assert!(site.refusal(ticket).contains("no task"));
    // The agent refuses.
    let ticket = site.resize(change(1000, 64));
    site.say(Err(Fault::failed("the kernel does not")));
    assert!(site.refusal(ticket).contains("the kernel does not"));
    assert_eq!((site.used(), site.promised()), (need(500, 64), Need::default()));
    let orders = site.world.said[before..].iter();
    assert_eq!(
        orders.filter(|wish| matches!(wish, Wish::Resize { .. })).count(),
        1
    );
    // It is over.
    site.tell(report("task-1", 2, TaskState::Finished));
    let ticket = site.resize(change(100, 64));
    assert!(site.refusal(ticket).contains("has ended"));
}

#[test]
fn an_answer_that_is_lost_is_told_by_the_agent_that_comes_again() {
    for now in [need(3000, 64), need(500, 64)] {
        let mut site = Site::new();
        let ticket = site.resize(change(3000, 64));
        let link = site.link;
        site.world.input(Input::LinkLost { link });
        assert!(site.refusal(ticket).contains("may be done"));
        assert_eq!((site.used(), site.promised()), (need(500, 64), need(2500, 0)));
        // An answer of the old session counts for nothing.
        site.say(Ok(takes("task-1", 9, need(4000, 64))));
        let ticket = site.resize(change(3000, 64));
        assert!(site.refusal(ticket).contains("under way"));
        // The same sequence as before: what is said with a registration is of now.
        site.comes_again(vec![takes("task-1", 1, now)]);
        assert_eq!((site.used(), site.promised()), (now, Need::default()));
        let ticket = site.resize(change(3000, 64));
        assert_eq!(site.world.answer(ticket), None);
        // The next master knows what it is told.
        let mut next = World::after(settings(2), site.world.registry.clone());
        next.register(Hello {
            tasks: vec![takes("task-1", 2, now)],
            ..hello(0, Some(site.id.clone()))
        });
        assert_eq!(next.core.agent(&site.id).unwrap().used, now);
    }
}

#[test]
fn nobody_waits_for_a_task_that_ends_or_an_agent_that_is_lost() {
    let ends: [fn(&mut Site); 3] = [
        |site| site.tell(report("task-1", 2, TaskState::Failed)),
        |site| {
            let (ticket, agent) = (Ticket(site.world.number()), site.id.clone());
            site.world.input(Input::MarkGone { ticket, agent });
        },
        |site| site.world.until(Duration::from_secs(200), |_| false),
    ];
    for end in ends {
        let mut site = Site::new();
        let ticket = site.resize(change(3000, 64));
        end(&mut site);
        assert!(!site.refusal(ticket).is_empty());
        // Who is back is told from.
        if site.world.core.agent(&site.id).is_some() {
            site.comes_again(vec![report("task-1", 2, TaskState::Failed)]);
            assert_eq!((site.used(), site.promised()), (Need::default(), Need::default()));
        }
    }
}

#[test]
fn a_task_that_somebody_changes_at_its_agent_is_charged_as_its_agent_says() {
    let mut site = Site::new();
    site.tell(takes("task-1", 2, need(1500, 32)));
    assert_eq!(site.used(), need(1500, 32));
    // Old words change nothing.
    site.tell(takes("task-1", 1, need(100, 32)));
    assert_eq!(site.used(), need(1500, 32));
    site.tell(takes("task-1", 3, need(200, 32)));
    let statuses = site.world.core.task(&task_id("task-1")).unwrap().statuses;
    assert_eq!(statuses.len(), 2, "{statuses:?}");
}
