//! The registry and its registrar: every edit, and every way a write can end.

use std::collections::BTreeMap;
use std::time::Duration;

use master_core::Refusal;
use master_core::registrar::{Input, NotApplied, Record, Registrar, Settings, Token, Wish};
use master_core::registry::{apply, is_down, to_prune};
use model::registry::{AgentId, AgentRecord, Edit, MachineId, MasterRecord, Quota, Registry, Window};
use model::resources::Scalar;
use proptest::prelude::*;

fn id(number: u64) -> AgentId {
    AgentId(format!("m-S{number}"))
}

fn record(hostname: &str) -> AgentRecord {
    AgentRecord {
        hostname: hostname.into(),
        resources: "cpus:4;mem:1024;disk:1000;ports:[31000-31010]".parse().unwrap(),
        ..AgentRecord::default()
    }
}

fn admit(number: u64) -> Edit {
    Edit::Admit {
        id: id(number),
        record: record("h"),
        key: String::new(),
    }
}

fn after(edits: &[Edit]) -> Registry {
    let mut registry = Registry::default();
    for edit in edits {
        assert_eq!(apply(&mut registry, edit), Ok(true), "{edit:?}");
    }
    registry
}

fn refused(registry: &Registry, edit: &Edit) -> Refusal {
    let mut copy = registry.clone();
    let refusal = apply(&mut copy, edit).expect_err("this had to be refused");
    assert_eq!(copy, *registry, "a refused edit changed something: {edit:?}");
    refusal
}

#[test]
fn an_agent_is_admitted_lost_found_and_gone() {
    let mut registry = after(&[admit(1), admit(2)]);
    assert_eq!(refused(&registry, &admit(1)), Refusal::AlreadyAdmitted(id(1)));
    let lost = Edit::MarkUnreachable { id: id(1), at: 100 };
    assert_eq!(apply(&mut registry, &lost), Ok(true));
    assert_eq!(
        apply(&mut registry, &lost),
        Ok(false),
        "once more says nothing new"
    );
    assert_eq!(registry.unreachable[&id(1)].since, 100);
    assert_eq!(refused(&registry, &admit(1)), Refusal::AlreadyAdmitted(id(1)));
    let update = Edit::UpdateAgent {
        id: id(1),
        record: record("other"),
    };
    assert_eq!(refused(&registry, &update), Refusal::IsUnreachable(id(1)));
    let found = Edit::MarkReachable {
        id: id(1),
        record: record("new"),
    };
    assert_eq!(apply(&mut registry, &found), Ok(true));
    assert_eq!(registry.agents[&id(1)].record.hostname, "new");
    assert_eq!(
        apply(&mut registry, &Edit::MarkGone { id: id(1), at: 200 }),
        Ok(true)
    );
    assert_eq!(refused(&registry, &found), Refusal::Gone(id(1)));
    assert_eq!(refused(&registry, &admit(1)), Refusal::Gone(id(1)));
    // A stranger is not let in by this door.
    let stranger = Edit::MarkReachable {
        id: id(9),
        record: record("h"),
    };
    assert_eq!(refused(&registry, &stranger), Refusal::UnknownAgent(id(9)));
    assert_eq!(apply(&mut registry, &Edit::Remove { id: id(2) }), Ok(true));
    assert_eq!(
        refused(&registry, &Edit::Remove { id: id(2) }),
        Refusal::UnknownAgent(id(2))
    );
}

#[test]
fn draining_survives_unreachability_and_keeps_old_programs_out() {
    let drain = Edit::Drain {
        id: id(1),
        grace_max_seconds: Some(30),
        mark_gone: false,
    };
    let mut registry = after(&[
        admit(1),
        admit(2),
        drain,
        Edit::MarkUnreachable { id: id(1), at: 1 },
    ]);
    assert!(registry.minimum_capabilities.contains("AGENT_DRAINING"));
    assert_eq!(
        refused(&registry, &Edit::Reactivate { id: id(1) }),
        Refusal::Draining(id(1))
    );
    assert_eq!(apply(&mut registry, &Edit::MarkDrained { id: id(1) }), Ok(true));
    assert_eq!(
        apply(
            &mut registry,
            &Edit::MarkReachable {
                id: id(1),
                record: record("h")
            }
        ),
        Ok(true)
    );
    assert!(registry.agents[&id(1)].standing.deactivated);
    assert_eq!(apply(&mut registry, &Edit::Reactivate { id: id(1) }), Ok(true));
    assert!(registry.minimum_capabilities.is_empty());
    assert_eq!(
        refused(&registry, &Edit::MarkDrained { id: id(2) }),
        Refusal::NotDraining(id(2))
    );
}

#[test]
fn reservations_need_what_the_agent_has() {
    let mut registry = after(&[admit(1)]);
    let reserve = |text: &str| Edit::Reserve {
        id: id(1),
        reserved: text.parse().unwrap(),
    };
    assert_eq!(
        apply(
            &mut registry,
            &reserve("cpus(web):2;disk(web):500;ports(web):[31000-31002]")
        ),
        Ok(true)
    );
    for (text, problem) in [
        ("cpus(web):3;cpus(db):2", "more cpus"),
        ("ports(web):[31000-31011]", "ports"),
        ("cpus:1", "not reserved"),
    ] {
        assert!(
            refused(&registry, &reserve(text)).to_string().contains(problem),
            "{text}"
        );
    }
}

#[test]
fn quota_is_for_all_roles_named_or_for_none() {
    let quota = |guarantee: u64, limit: u64| Quota {
        guarantees: BTreeMap::from([("cpus".to_owned(), Scalar::from_milli(guarantee))]),
        limits: BTreeMap::from([("cpus".to_owned(), Scalar::from_milli(limit))]),
    };
    let role = |text: &str| text.parse().unwrap();
    let mut registry = after(&[Edit::SetQuota(BTreeMap::from([(role("a"), quota(1, 2))]))]);
    let both = Edit::SetQuota(BTreeMap::from([
        (role("a"), quota(2, 3)),
        (role("b"), quota(3, 2)),
    ]));
    assert!(refused(&registry, &both).to_string().contains("role b"));
    let below = Edit::SetQuota(BTreeMap::from([(role("a/b"), quota(1, 2))]));
    assert!(refused(&registry, &below).to_string().contains("at the top"));
    assert_eq!(
        apply(
            &mut registry,
            &Edit::SetQuota(BTreeMap::from([(role("a"), Quota::default())]))
        ),
        Ok(true)
    );
    assert!(registry.quota.is_empty() && registry.minimum_capabilities.is_empty());
    let weightless = Edit::SetWeights(BTreeMap::from([(role("a"), Scalar::ZERO)]));
    assert!(matches!(refused(&registry, &weightless), Refusal::BadWeight(_)));
}

#[test]
fn machines_drain_go_down_and_come_up() {
    let machine = |hostname: &str| MachineId {
        hostname: hostname.into(),
        address: String::new(),
    };
    let window = |names: &[&str]| Window {
        machines: names.iter().map(|name| machine(name)).collect(),
        start_nanoseconds: 5,
        duration_nanoseconds: None,
    };
    let mut registry = after(&[Edit::SetSchedule(vec![window(&["A", "b"]), window(&["c"])])]);
    assert_eq!(
        apply(&mut registry, &Edit::StartMaintenance(vec![machine("a")])),
        Ok(true)
    );
    assert!(is_down(&registry, "A", "10.0.0.1") && !is_down(&registry, "b", "10.0.0.1"));
    let without = Edit::SetSchedule(vec![window(&["b"])]);
    assert!(refused(&registry, &without).to_string().contains("a is down"));
    for (edit, problem) in [
        (Edit::SetSchedule(vec![window(&["a", "A"])]), "twice"),
        (Edit::SetSchedule(vec![window(&[])]), "without machines"),
        (Edit::SetSchedule(vec![window(&["a", ""])]), "neither"),
        (Edit::StartMaintenance(vec![machine("x")]), "not in the schedule"),
        (
            Edit::StartMaintenance(vec![machine("b"), machine("a")]),
            "down already",
        ),
        (Edit::StopMaintenance(vec![machine("b")]), "not down"),
    ] {
        assert!(
            refused(&registry, &edit).to_string().contains(problem),
            "{edit:?}"
        );
    }
    assert_eq!(
        apply(&mut registry, &Edit::StopMaintenance(vec![machine("a")])),
        Ok(true)
    );
    assert_eq!(registry.schedule.len(), 2);
    assert_eq!(registry.machines.len(), 2);
}

#[test]
fn the_oldest_are_forgotten_first() {
    let mut registry = Registry::default();
    for number in 0..5 {
        registry.gone.insert(id(number), 100 * (5 - number));
    }
    assert_eq!(to_prune(&registry, 500, 1000, 10), None);
    let Some(edit @ Edit::Prune { .. }) = to_prune(&registry, 600, 350, 3) else {
        panic!()
    };
    // Of 100, 200 (too old) and, by number, the two oldest.
    assert_eq!(
        edit,
        Edit::Prune {
            unreachable: vec![],
            gone: vec![id(4), id(3)]
        }
    );
    assert_eq!(apply(&mut registry, &edit), Ok(true));
    assert_eq!(
        registry.gone.keys().cloned().collect::<Vec<_>>(),
        [id(0), id(1), id(2)]
    );
}

fn master(term: u64) -> MasterRecord {
    MasterRecord {
        id: format!("m{term}"),
        term,
        ..MasterRecord::default()
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A registrar and the log that it writes to.
struct World {
    registrar: Registrar,
    log: Vec<(u64, u64, Record)>,
    answers: BTreeMap<u64, Result<(), NotApplied>>,
    waiting: Option<Record>,
    truncated: u64,
    failed: Option<String>,
    recovered: bool,
}

impl World {
    fn new(log: Vec<(u64, u64, Record)>, settings: Settings) -> Self {
        Self {
            registrar: Registrar::new(settings),
            log,
            answers: BTreeMap::new(),
            waiting: None,
            truncated: 0,
            failed: None,
            recovered: false,
        }
    }

    fn give(&mut self, at: u64, input: Input) {
        self.registrar.handle(seconds(at), input);
        while let Some(wish) = self.registrar.poll() {
            match wish {
                Wish::Fetch => {}
                Wish::Store(record) => {
                    assert!(self.waiting.replace(record).is_none(), "two writes at a time")
                }
                Wish::Truncate(position) => self.truncated = position,
                Wish::Recovered => self.recovered = true,
                Wish::Answer { token, result } => {
                    assert!(self.answers.insert(token.0, result).is_none(), "answered twice");
                }
                Wish::Failed(cause) => assert!(self.failed.replace(cause).is_none(), "failed twice"),
            }
        }
    }

    fn store(&mut self, at: u64) {
        let record = self.waiting.take().expect("a write");
        let position = self.log.last().map_or(1, |(position, ..)| position + 1);
        let bytes = match &record {
            Record::Snapshot { registry, .. } => 50 + 10 * registry.agents.len() as u64,
            Record::Delta { edits, .. } => 10 * edits.len() as u64,
        };
        self.log.push((position, bytes, record));
        self.give(at, Input::Stored { position, bytes });
        let truncated = self.truncated;
        self.log.retain(|(position, ..)| *position >= truncated);
    }

    fn lead(&mut self, term: u64) {
        self.give(0, Input::Lead(master(term)));
        self.give(1, Input::Fetched(self.log.clone()));
        self.store(1);
        assert!(self.recovered, "{:?}", self.failed);
    }

    fn submit(&mut self, at: u64, token: u64, edit: Edit) {
        self.give(
            at,
            Input::Submit {
                token: Token(token),
                edit,
            },
        );
    }
}

fn small() -> Settings {
    Settings {
        snapshot_bytes_min: 100,
        ..Settings::default()
    }
}

#[test]
fn nobody_is_answered_before_it_is_durable_and_what_waits_goes_together() {
    let mut world = World::new(Vec::new(), small());
    world.submit(0, 0, admit(0));
    assert!(
        matches!(world.answers[&0], Err(NotApplied::NotTaken(_))),
        "not leading"
    );
    world.lead(1);
    world.submit(2, 1, admit(1));
    world.submit(2, 2, admit(2));
    world.submit(2, 3, admit(1));
    assert_eq!(world.answers.len(), 1);
    assert!(
        world.registrar.registry().agents.is_empty(),
        "not durable, not visible"
    );
    world.store(3);
    assert_eq!(world.answers[&1], Ok(()));
    assert!(!world.answers.contains_key(&2));
    assert!(matches!(&world.waiting, Some(Record::Delta { edits, sequence: 3 }) if edits.len() == 1));
    world.store(4);
    assert_eq!(world.answers[&2], Ok(()));
    assert!(matches!(
        world.answers[&3],
        Err(NotApplied::Refused(Refusal::AlreadyAdmitted(_)))
    ));
    // What holds already costs no write.
    world.submit(
        5,
        4,
        Edit::UpdateAgent {
            id: id(1),
            record: record("h"),
        },
    );
    assert_eq!((world.answers.get(&4), &world.waiting), (Some(&Ok(())), &None));
}

#[test]
fn a_write_in_doubt_ends_the_registrar() {
    for (at, input) in [
        (3, Some(Input::StoreFailed("another leader writes".into()))),
        (22, None),
    ] {
        let mut world = World::new(Vec::new(), small());
        world.lead(1);
        world.submit(2, 1, admit(1));
        world.submit(2, 2, admit(2));
        match input {
            Some(input) => world.give(at, input),
            None => {
                assert_eq!(world.registrar.deadline(), Some(seconds(22)));
                world.submit(at, 3, admit(3));
            }
        }
        assert!(
            matches!(world.answers[&1], Err(NotApplied::Unknown(_))),
            "{:?}",
            world.answers
        );
        assert!(matches!(world.answers[&2], Err(NotApplied::NotTaken(_))));
        assert!(world.failed.is_some());
        world.waiting = None;
        // A late success changes nothing; nothing more is taken.
        world.give(
            23,
            Input::Stored {
                position: 9,
                bytes: 1,
            },
        );
        assert!(world.registrar.registry().agents.is_empty());
        world.submit(24, 4, admit(4));
        assert!(matches!(world.answers[&4], Err(NotApplied::NotTaken(_))));
    }
}

#[test]
fn a_log_that_can_not_be_read_or_does_not_fit_ends_it_too() {
    let edits = |edit: Edit| vec![edit];
    let delta = |sequence, edit| Record::Delta {
        sequence,
        edits: edits(edit),
    };
    for (log, cause) in [
        (
            vec![(1, 1, delta(1, admit(1))), (2, 1, delta(3, admit(2)))],
            "where 2 was expected",
        ),
        (vec![(5, 1, delta(5, admit(1)))], "no snapshot"),
        (
            vec![(1, 1, delta(1, Edit::Remove { id: id(1) }))],
            "does not apply",
        ),
        (vec![(1, 1, delta(1, Edit::Lead(master(7))))], "term"),
    ] {
        let mut world = World::new(log.clone(), small());
        world.give(0, Input::Lead(master(3)));
        world.give(1, Input::Fetched(log));
        assert!(
            world.failed.as_ref().unwrap().contains(cause),
            "{:?}",
            world.failed
        );
    }
    let mut newer = Registry::default();
    newer.minimum_capabilities.insert("TELEPORTING".into());
    let snapshot = Record::Snapshot {
        sequence: 4,
        registry: Box::new(newer),
    };
    let mut world = World::new(Vec::new(), small());
    world.give(0, Input::Lead(master(3)));
    world.give(1, Input::Fetched(vec![(9, 9, snapshot)]));
    assert!(world.failed.unwrap().contains("TELEPORTING"));
    let mut world = World::new(Vec::new(), small());
    world.give(0, Input::Lead(master(3)));
    world.registrar.expire(seconds(59));
    world.give(60, Input::Fetched(Vec::new()));
    assert!(world.failed.unwrap().contains("60 s"));
}

#[test]
fn a_full_queue_refuses() {
    let mut world = World::new(
        Vec::new(),
        Settings {
            queue_max: 2,
            ..small()
        },
    );
    world.lead(1);
    (1..=4).for_each(|number| world.submit(2, number, admit(number)));
    assert!(
        matches!(world.answers[&4], Err(NotApplied::NotTaken(_))),
        "{:?}",
        world.answers
    );
}

/// None for 0.
fn quota(cpus: u64) -> Edit {
    let limits = (cpus > 0).then(|| ("cpus".to_owned(), Scalar::from_milli(cpus * 1000)));
    Edit::SetQuota(BTreeMap::from([(
        "dev".parse().unwrap(),
        Quota {
            limits: limits.into_iter().collect(),
            ..Quota::default()
        },
    )]))
}

fn machine(number: u64) -> MachineId {
    MachineId {
        hostname: format!("h{}", number / 2),
        ..MachineId::default()
    }
}

fn window(number: u64) -> Window {
    Window {
        machines: vec![machine(number)],
        ..Window::default()
    }
}

fn some_edit() -> impl Strategy<Value = Edit> {
    (0u64..6, 0u8..15).prop_map(|(number, kind)| match kind {
        0 | 1 => admit(number),
        2 => Edit::MarkUnreachable {
            id: id(number),
            at: 7,
        },
        3 => Edit::MarkReachable {
            id: id(number),
            record: record("r"),
        },
        4 => Edit::Remove { id: id(number) },
        5 => Edit::MarkGone {
            id: id(number),
            at: 8,
        },
        6 => Edit::Drain {
            id: id(number),
            grace_max_seconds: None,
            mark_gone: true,
        },
        7 => Edit::Reactivate { id: id(number) },
        8 => Edit::Deactivate { id: id(number) },
        9 => Edit::MarkDrained { id: id(number) },
        10 => quota(number % 3),
        11 => Edit::SetSchedule(vec![window(number)]),
        12 => Edit::StartMaintenance(vec![machine(number)]),
        13 => Edit::StopMaintenance(vec![machine(number)]),
        _ => Edit::Prune {
            unreachable: vec![],
            gone: vec![id(number)],
        },
    })
}

proptest! {
    /// The registrar makes each edit that changes something twice, and leaves out all others.
    #[test]
    fn an_edit_that_says_nothing_new_changes_nothing(edits in proptest::collection::vec(some_edit(), 0..60)) {
        let mut registry = Registry::default();
        for edit in edits {
            let before = registry.clone();
            let changed = apply(&mut registry, &edit);
            prop_assert_eq!(changed == Ok(true), registry != before, "{:?}: {:?}", edit, changed);
        }
    }

    /// Whatever was written, a later leader reads exactly that, from snapshots, deltas and a truncated log.
    #[test]
    fn the_next_leader_reads_what_was_durable(edits in proptest::collection::vec(some_edit(), 0..60), lost in 0usize..3) {
        let mut world = World::new(Vec::new(), small());
        world.lead(1);
        for (token, edit) in (1..).zip(edits) {
            world.submit(2, token, edit);
            if token % 3 != 0 && world.waiting.is_some() {
                world.store(2);
            }
        }
        while lost == 0 && world.waiting.is_some() {
            world.store(2);
        }
        let durable = world.registrar.registry().clone();
        let mut next = World::new(world.log.clone(), small());
        next.lead(2);
        let read = next.registrar.registry().clone();
        prop_assert_eq!(Registry { master: None, ..read }, Registry { master: None, ..durable });
        // Nothing grows without end.
        let deltas = next.log.iter().filter(|(_, _, record)| matches!(record, Record::Delta { .. })).count();
        prop_assert!(deltas < 40, "{} deltas", deltas);
    }
}
