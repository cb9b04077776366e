use super::*;

fn id() -> TaskId {
    "task-1".parse().unwrap()
}

fn status(state: TaskState) -> TaskStatus {
    TaskStatus {
        state,
        message: String::new(),
        at_ms: 1,
        exit_status: None,
    }
}

fn wishes(book: &mut TaskBook) -> Vec<TaskWish> {
    std::iter::from_fn(|| book.poll()).collect()
}

fn told(book: &mut TaskBook) -> Vec<(u64, TaskState)> {
    let tells = wishes(book).into_iter().filter_map(|wish| match wish {
        TaskWish::Tell(report) => Some((report.sequence, report.status.state)),
        _ => None,
    });
    tells.collect()
}

fn written(book: &mut TaskBook, sequence: u64) {
    book.handle(Millis(0), TaskEvent::Written { id: id(), sequence });
}

fn observed(book: &mut TaskBook, state: TaskState) {
    let status = status(state);
    book.handle(Millis(0), TaskEvent::Observed { id: id(), status });
}

fn begun() -> TaskBook {
    let mut book = TaskBook::default();
    book.handle(
        Millis(0),
        TaskEvent::Ordered {
            id: id(),
            name: None,
            need: Need::default(),
            boot_id: "b".into(),
            at_ms: 1,
        },
    );
    assert!(book.reports().is_empty(), "what is not written does not exist");
    written(&mut book, 0);
    book.handle(Millis(0), TaskEvent::Welcomed { told: Vec::new() });
    wishes(&mut book);
    book
}

#[test]
fn a_refusal_is_told_once_whoever_is_there_to_hear_it() {
    let refused = |book: &mut TaskBook| {
        let status = status(TaskState::Error);
        book.handle(Millis(0), TaskEvent::Refused { id: id(), status });
        written(book, 1);
    };
    let mut book = begun();
    refused(&mut book);
    assert!(told(&mut book).is_empty(), "it is the answer");
    // The answer goes over a connection that is gone, and the next master was told that it is being begun.
    let mut book = begun();
    book.handle(Millis(0), TaskEvent::Parted);
    book.handle(
        Millis(0),
        TaskEvent::Welcomed {
            told: vec![(id(), 0)],
        },
    );
    refused(&mut book);
    assert_eq!(told(&mut book), [(1, TaskState::Error)]);
}

#[test]
fn nothing_is_told_before_it_is_written_nor_out_of_order() {
    let mut book = begun();
    observed(&mut book, TaskState::Running);
    assert!(told(&mut book).is_empty());
    observed(&mut book, TaskState::Finished);
    written(&mut book, 1);
    assert_eq!(told(&mut book), [(1, TaskState::Running)]);
    written(&mut book, 2);
    assert!(told(&mut book).is_empty(), "one at a time");
    book.handle(
        Millis(0),
        TaskEvent::Acknowledged {
            id: id(),
            sequence: 1,
        },
    );
    assert_eq!(told(&mut book), [(2, TaskState::Finished)]);
    observed(&mut book, TaskState::Failed);
    assert!(wishes(&mut book).is_empty(), "an end is for ever");
}

#[test]
fn it_is_told_again_after_10_s_and_twice_as_long_each_time_up_to_10_min() {
    let mut book = begun();
    observed(&mut book, TaskState::Running);
    written(&mut book, 1);
    wishes(&mut book);
    let mut pauses = Vec::new();
    let mut last = 0;
    for _ in 0..9 {
        let at = book.deadline().unwrap();
        book.handle(at, TaskEvent::Tick);
        assert_eq!(told(&mut book), [(1, TaskState::Running)]);
        pauses.push((at.0 - last) / 1000);
        last = at.0;
    }
    assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
    book.handle(
        Millis(last),
        TaskEvent::Acknowledged {
            id: id(),
            sequence: 1,
        },
    );
    assert_eq!(book.deadline(), None);
}

#[test]
fn a_new_master_is_told_everything_by_the_registration() {
    let mut book = begun();
    book.handle(Millis(0), TaskEvent::Parted);
    observed(&mut book, TaskState::Running);
    written(&mut book, 1);
    assert!(told(&mut book).is_empty(), "nobody hears");
    let reports = book.reports();
    assert_eq!(
        (reports[0].sequence, reports[0].status.state),
        (1, TaskState::Running)
    );
    // What happens on the way is told afterwards.
    observed(&mut book, TaskState::Finished);
    written(&mut book, 2);
    let told_then = vec![(id(), 1)];
    book.handle(Millis(0), TaskEvent::Welcomed { told: told_then });
    assert_eq!(told(&mut book), [(2, TaskState::Finished)]);
}

#[test]
fn ended_ones_are_remembered_up_to_a_number() {
    let mut book = TaskBook::default();
    for number in 0..=ENDED_MAX {
        let mut record = begun().record(&id()).unwrap().clone();
        record.id = format!("t{number}").parse().unwrap();
        record.last = status(TaskState::Finished);
        book.handle(
            Millis(0),
            TaskEvent::Loaded {
                record: Box::new(record),
            },
        );
    }
    let first = "t0".parse().unwrap();
    assert_eq!(wishes(&mut book), [TaskWish::Forget { id: first }]);
    assert_eq!(book.reports().len(), ENDED_MAX);
}

fn resized(book: &mut TaskBook, need: Need) {
    book.handle(Millis(0), TaskEvent::Resized { id: id(), need });
}

fn cpus(milli: u64) -> Need {
    Need {
        cpus: model::resources::Scalar::from_milli(milli),
        ..Need::default()
    }
}

fn running() -> TaskBook {
    let mut book = begun();
    observed(&mut book, TaskState::Running);
    written(&mut book, 1);
    let sequence = 1;
    book.handle(Millis(0), TaskEvent::Acknowledged { id: id(), sequence });
    wishes(&mut book);
    book
}

#[test]
fn a_change_of_need_is_told_as_a_status_is() {
    let mut book = running();
    resized(&mut book, cpus(700));
    assert!(told(&mut book).is_empty(), "it is not written");
    written(&mut book, 2);
    let tells: Vec<TaskReport> = wishes(&mut book)
        .into_iter()
        .filter_map(|wish| match wish {
            TaskWish::Tell(report) => Some(report),
            _ => None,
        })
        .collect();
    assert_eq!(tells.len(), 1);
    assert_eq!((tells[0].sequence, tells[0].need), (2, cpus(700)));
    assert_eq!(tells[0].status.state, TaskState::Running);
    // No news is not told, and of one that has ended nothing is.
    resized(&mut book, cpus(700));
    assert!(wishes(&mut book).is_empty());
    observed(&mut book, TaskState::Finished);
    wishes(&mut book);
    resized(&mut book, cpus(100));
    assert!(wishes(&mut book).is_empty());
    assert_eq!(book.reports()[0].need, cpus(700));
}

#[test]
fn while_a_change_is_under_way_a_new_master_reckons_with_the_greater_need() {
    for (begun, ended) in [
        (cpus(900), cpus(900)),
        (cpus(900), cpus(300)),
        (cpus(200), cpus(200)),
    ] {
        let mut book = running();
        resized(&mut book, cpus(300));
        written(&mut book, 2);
        wishes(&mut book);
        book.handle(
            Millis(0),
            TaskEvent::Resizing {
                id: id(),
                need: begun,
            },
        );
        book.handle(Millis(0), TaskEvent::Parted);
        assert_eq!(book.reports()[0].need, cpus(begun.cpus.milli().max(300)));
        let told_then = vec![(id(), 2)];
        book.handle(Millis(0), TaskEvent::Welcomed { told: told_then });
        // Also when nothing came of it: it was told of the greater one.
        resized(&mut book, ended);
        written(&mut book, 3);
        assert_eq!(told(&mut book), [(3, TaskState::Running)]);
        assert_eq!(book.reports()[0].need, ended);
    }
}
