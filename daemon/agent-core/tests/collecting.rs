//! When what finished containers left goes, and what never does.

use agent_core::{AgentCore, Answer, CleanupOutcome, EndReport, Input, Now, Settings, Ticket, Which, Wish};
use model::{ContainerId, EventKind, LaunchSpec, Millis, ProcessIdentity, Removed, Volume};

struct Driver {
    core: AgentCore,
    now: u64,
    wishes: Vec<Wish>,
}

impl Driver {
    fn new(delay: Millis) -> Self {
        let settings = Settings {
            gc_delay: delay,
            ..Settings::default()
        };
        Self {
            core: AgentCore::new(settings, 0),
            now: 0,
            wishes: Vec::new(),
        }
    }

    fn moment(&self) -> Now {
        Now {
            monotonic: Millis(self.now),
            wall_ms: 1_700_000_000_000 + self.now,
        }
    }

    fn feed(&mut self, input: Input) {
        self.core.handle(self.moment(), input);
        while let Some(wish) = self.core.poll() {
            self.wishes.push(wish);
        }
    }

    /// Ids that are to be removed since the last question.
    fn removals(&mut self) -> Vec<String> {
        let wishes = std::mem::take(&mut self.wishes);
        wishes
            .into_iter()
            .filter_map(|wish| match wish {
                Wish::RemoveLeftover { id } => Some(id.to_string()),
                _ => None,
            })
            .collect()
    }

    fn leftover(&mut self, name: &str, age: Millis) {
        self.feed(Input::Leftover {
            id: id(name),
            age,
            wanted: false,
        });
    }

    fn removed(&mut self, name: &str, result: Result<(), &str>) {
        let result = result.map(|()| Removed::of(id(name))).map_err(str::to_owned);
        self.feed(Input::Removed { id: id(name), result });
    }

    fn launch(&mut self, name: &str, spec: LaunchSpec) {
        let started: [Input; 5] = [
            Input::Launch {
                ticket: Ticket(1000),
                id: id(name),
                spec: Box::new(spec),
            },
            Input::Prepared {
                id: id(name),
                result: Ok(()),
            },
            Input::Forked {
                id: id(name),
                result: Ok(ProcessIdentity {
                    pid: 7,
                    start_time: 1,
                    boot_id: "b".into(),
                }),
            },
            Input::Checkpointed {
                id: id(name),
                result: Ok(()),
            },
            Input::Started { id: id(name) },
        ];
        started.into_iter().for_each(|input| self.feed(input));
    }

    fn end(&mut self, name: &str) {
        self.feed(Input::Exited {
            id: id(name),
            end: EndReport {
                exit_code: Some(0),
                signal: None,
            },
        });
        self.feed(Input::Cleaned {
            id: id(name),
            outcome: CleanupOutcome::Done,
            limitation: None,
            ended_at_ms: None,
        });
    }
}

fn id(name: &str) -> ContainerId {
    name.parse().expect("an id")
}

#[test]
fn the_formula_is_mesos() {
    let week = Millis::secs(7 * 24 * 3600);
    let days = |millis: Millis| millis.0 as f64 / 86_400_000.0;
    for (used, expected) in [
        (0.0, 6.3),
        (0.5, 2.8),
        (0.9, 0.0),
        (1.0, 0.0),
        (7.0, 0.0),
        (-1.0, 6.3),
    ] {
        let mut driver = Driver::new(week);
        driver.feed(Input::DiskUsed { used });
        assert!((days(driver.core.max_age()) - expected).abs() < 0.001, "{used}");
    }
}

#[test]
fn the_oldest_goes_first_and_one_at_a_time() {
    let mut driver = Driver::new(Millis::secs(100));
    driver.leftover("young", Millis::secs(10));
    driver.leftover("old", Millis::secs(80));
    driver.leftover("older", Millis::secs(90));
    assert!(driver.removals().is_empty(), "the disk has not been looked at");
    driver.feed(Input::DiskUsed { used: 0.4 });
    assert_eq!(driver.removals(), ["older"]);
    driver.removed("older", Ok(()));
    assert_eq!(driver.removals(), ["old"]);
    driver.removed("old", Ok(()));
    assert!(driver.removals().is_empty());
    // Time passes, and the disk fills.
    driver.now = 41_000;
    driver.feed(Input::DiskUsed { used: 0.4 });
    assert_eq!(driver.removals(), ["young"]);
}

#[test]
fn trouble_is_told_once_and_tried_ever_less_often() {
    let mut driver = Driver::new(Millis::secs(100));
    driver.leftover("c", Millis(0));
    driver.feed(Input::Collect {
        ticket: Ticket(1),
        which: Which::Named(vec![id("c")]),
    });
    let (mut tries, mut told) = (Vec::new(), 0);
    while driver.now < 60_000 {
        for wish in std::mem::take(&mut driver.wishes) {
            match wish {
                Wish::RemoveLeftover { .. } => {
                    tries.push(driver.now / 1000);
                    driver.removed("c", Err("immutable"));
                }
                Wish::Emit(event) if matches!(event.kind, EventKind::CleanupRetry { .. }) => told += 1,
                Wish::Answer { ticket, answer } => {
                    assert_eq!(ticket, Ticket(1));
                    let Answer::Collected(removed) = answer else {
                        panic!("{answer:?}")
                    };
                    assert_eq!(removed[0].trouble.as_deref(), Some("immutable"));
                }
                _ => {}
            }
        }
        driver.now = match driver.core.deadline() {
            _ if !driver.wishes.is_empty() => driver.now,
            Some(at) => at.0,
            None => panic!("forgotten"),
        };
        driver.feed(Input::Tick);
    }
    assert_eq!((tries, told), (vec![0, 1, 3, 7, 15, 31], 1));
}

#[test]
fn what_lives_or_is_given_to_the_living_is_never_touched() {
    let mut driver = Driver::new(Millis(0));
    driver.leftover("data", Millis::secs(1));
    let user = LaunchSpec {
        volumes: vec![Volume {
            source: "/var/lib/bulkhead/sandboxes/data/sub".into(),
            target: "/mnt".into(),
            read_only: true,
        }],
        ..LaunchSpec::default()
    };
    driver.launch("user", user);
    driver.leftover("user", Millis::secs(1));
    driver.now = 10_000;
    driver.feed(Input::DiskUsed { used: 1.0 });
    assert!(driver.removals().is_empty());
    for name in ["user", "data"] {
        let refused = driver.core.select(driver.moment(), &Which::Named(vec![id(name)]));
        assert!(refused.is_err(), "{name}");
    }
    driver.end("user");
    driver.now = 700_000;
    driver.feed(Input::DiskUsed { used: 1.0 });
    assert_eq!(driver.removals(), ["data"]);
    driver.removed("data", Ok(()));
    assert_eq!(driver.removals(), ["user"]);
    assert!(driver.core.status(&id("user")).is_some());
    driver.removed("user", Ok(()));
    assert!(
        driver.core.status(&id("user")).is_none(),
        "its record goes with it"
    );
}

#[test]
fn an_id_whose_sandbox_is_there_is_not_given_again() {
    let mut driver = Driver::new(Millis::secs(100));
    driver.leftover("c", Millis(0));
    driver.feed(Input::Launch {
        ticket: Ticket(1),
        id: id("c"),
        spec: Box::default(),
    });
    let refused = driver.wishes.iter().any(|wish| {
        matches!(wish, Wish::Answer { answer: Answer::Refused(fault), .. }
            if fault.remedy.as_ref().is_some_and(|remedy| remedy.contains("bulkhead gc c")))
    });
    assert!(refused, "{:?}", driver.wishes);
    assert_eq!(driver.core.living(), 0);
}
