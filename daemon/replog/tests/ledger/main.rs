//! The core's records on the store: whatever was persisted, a start gives back the state that it adds up to; and every
//! message survives its bytes.

#[path = "../store/disk.rs"]
mod disk;
mod messages;

use std::sync::Arc;

use disk::Disk;
use proptest::prelude::*;
use replog::{Ledger, Options};
use replog_core::{
    Ballot, Epoch, Incarnation, LogId, Member, Membership, Position, Proposal, Record, ReplicaId, State,
    Status, Value,
};

const OPTIONS: Options = Options {
    segment_bytes: 16 << 10,
    new_id: 3,
};

/// What the next record is, as numbers that [`Steps`] makes valid.
#[derive(Clone, Debug)]
struct Step {
    kind: u8,
    a: u8,
    b: u8,
    restart: bool,
}

fn some_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0u8..12, any::<u8>(), any::<u8>(), proptest::bool::weighted(0.15));
    proptest::collection::vec(
        step.prop_map(|(kind, a, b, restart)| Step { kind, a, b, restart }),
        1..60,
    )
}

fn member(number: u64) -> Member {
    Member {
        replica: ReplicaId(number),
        incarnation: Incarnation(number * 100),
    }
}

fn membership(since: Position, term: u64) -> Arc<Membership> {
    let ballot = Ballot {
        term,
        replica: ReplicaId(1),
    };
    Arc::new(Membership {
        log: LogId(9),
        since,
        ballot,
        members: vec![member(1), member(2), member(3)],
    })
}

fn value(at: Position, state: &State, step: &Step) -> Value {
    match (step.a ^ at.0 as u8) % 9 {
        0 => Value::Nop,
        1 if at.0 > 4 => Value::Truncate {
            to: Position(state.begin.0 + u64::from(step.b % 4)),
        },
        2 => Value::Membership(membership(at, u64::from(step.b))),
        _ => Value::Append(vec![step.b; usize::from(step.a) * 5].into()),
    }
}

/// A record as the core could wish it in this state.
fn record(state: &State, step: &Step) -> Record {
    let term = u64::from(step.b) + 1;
    match step.kind {
        0 => Record::Promised(Ballot {
            term,
            replica: ReplicaId(2),
        }),
        1 => Record::Status([Status::Voting, Status::Recovering][usize::from(step.a % 2)]),
        2 => Record::Starting(Arc::new(Proposal {
            generation: term,
            members: vec![member(1), member(2)],
        })),
        3 => Record::Membership(membership(Position(state.since().0 + 1), term)),
        4 => Record::Committed(Position(state.learned.0 + u64::from(step.a % 4))),
        5 => Record::Begin(Position(state.learned.0 + u64::from(step.a % 6))),
        6 => {
            let first = Position(state.learned.0.saturating_sub(u64::from(step.a % 3)) + 1);
            let count = u64::from(step.b % 5);
            let values = (0..count)
                .map(|at| value(Position(first.0 + at), state, step))
                .collect();
            Record::Learned { first, values }
        }
        7 => Record::Reborn(member(u64::from(step.a) + 10)),
        _ => {
            let tail = state.tail.len() as u64;
            let replaces = step.kind == 11;
            let back = if replaces {
                u64::from(step.a) % (tail + 1)
            } else {
                u64::from(step.a % 2).min(tail)
            };
            let first = Position(state.end().0 - back + 1);
            let values: Vec<_> = (0..u64::from(step.b % 4))
                .map(|at| value(Position(first.0 + at), state, step))
                .collect();
            let end = (first.0 - 1 + values.len() as u64).max(if replaces { 0 } else { state.end().0 });
            let epoch = Epoch {
                since: state.since(),
                ballot: Ballot {
                    term,
                    replica: ReplicaId(1),
                },
            };
            let committed = Position((state.learned.0 + u64::from(step.a % 3)).min(end));
            Record::Accepted {
                epoch,
                first,
                values,
                replaces,
                committed,
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_start_gives_back_what_was_persisted(steps in some_steps()) {
        let disk = Disk::default();
        let (mut ledger, found) = Ledger::open(disk.clone(), OPTIONS).unwrap();
        prop_assert!(found.state.is_none() && !found.damaged);
        let mut state = State::default();
        let first = Record::Identity(member(1));
        state.apply(&first);
        ledger.persist(&[first]).unwrap();
        for step in &steps {
            let record = record(&state, step);
            state.apply(&record);
            ledger.persist(&[record]).unwrap();
            prop_assert_eq!(ledger.state(), &state);
            if step.restart {
                let (again, found) = Ledger::open(disk.clone(), OPTIONS).unwrap();
                prop_assert!(!found.damaged, "{:?}", found);
                prop_assert_eq!(found.state.as_ref(), Some(&state));
                ledger = again;
            }
        }
        let first = state.begin;
        let loaded = ledger.load(first, state.learned, usize::MAX);
        prop_assert_eq!(loaded.len() as u64, state.learned.0 + 1 - first.0);
    }
}

#[test]
fn a_damaged_disk_is_told_and_what_is_left_is_an_unbroken_start() {
    for byte in (1..6).map(|part| part * 2700) {
        let disk = Disk::default();
        let (mut ledger, _) = Ledger::open(disk.clone(), OPTIONS).unwrap();
        ledger
            .persist(&[Record::Identity(member(1)), Record::Status(Status::Voting)])
            .unwrap();
        for at in 1..=40 {
            let epoch = Epoch {
                since: Position(0),
                ballot: Ballot {
                    term: 1,
                    replica: ReplicaId(1),
                },
            };
            let values = vec![Value::Append(vec![at as u8; 900].into())];
            let first = Position(at);
            let committed = Position(at - 1);
            ledger
                .persist(&[Record::Accepted {
                    epoch,
                    first,
                    values,
                    replaces: false,
                    committed,
                }])
                .unwrap();
        }
        drop(ledger);
        // In the middle of the last segment.
        let last = disk
            .names()
            .into_iter()
            .filter(|name| name.ends_with(".segment"))
            .max()
            .unwrap();
        disk.change(&last, byte, 4);
        let (ledger, found) = Ledger::open(disk.clone(), OPTIONS).unwrap();
        let whole = disk.content(&last)[byte] == 4;
        assert!(
            found.damaged || !found.details.restored.is_empty() || whole,
            "byte {byte}: {found:?}"
        );
        if !found.damaged {
            continue;
        }
        let reborn = Record::Reborn(member(9));
        let (mut ledger, found) = ledger.repair(&found.details, &[reborn]).unwrap();
        assert!(!found.damaged, "byte {byte}: {found:?}");
        let state = found.state.unwrap();
        assert_eq!((state.member, state.status), (member(9), Status::Recovering));
        assert!(state.tail.is_empty());
        let kept = ledger.load(Position(1), state.learned, usize::MAX);
        assert_eq!(kept.len() as u64, state.learned.0);
        for (at, value) in (1u8..).zip(&kept) {
            assert_eq!(*value, Value::Append(vec![at; 900].into()), "byte {byte}");
        }
        // It learns on from there.
        let values = vec![Value::Nop];
        ledger
            .persist(&[Record::Learned {
                first: state.learned.next(),
                values,
            }])
            .unwrap();
        let (_, found) = Ledger::open(disk, OPTIONS).unwrap();
        assert_eq!(found.state.unwrap().learned, state.learned.next());
    }
}
