//! Writers that compete, and what becomes of entries that some replicas have and others have not.

use replog_core::{Answer, Input, Message, NotElected, Position, Refusal, Value};

use crate::cluster::Cluster;

fn is_elected(answer: &Answer) -> bool {
    matches!(answer, Answer::Elected { .. })
}

/// Two replicas campaign at the same moment, message by message: one is elected, the other one knows that it is not.
#[test]
fn of_two_that_race_one_is_elected() {
    let mut cluster = Cluster::of(3);
    let one = cluster.ask(1, |ticket| Input::Elect { ticket, at_least: 0 });
    let two = cluster.ask(2, |ticket| Input::Elect { ticket, at_least: 0 });
    cluster.settle();
    cluster.pass(1_000);
    let (one, two) = (cluster.answer(one).cloned(), cluster.answer(two).cloned());
    let elected = [&one, &two]
        .into_iter()
        .flatten()
        .filter(|a| is_elected(a))
        .count();
    assert_eq!(elected, 1, "{one:?} {two:?}");
    let outbid = |a: &Option<Answer>| matches!(a, Some(Answer::NotElected(NotElected::Outbid { .. })));
    assert!(outbid(&one) || outbid(&two), "{one:?} {two:?}");
}

#[test]
fn an_old_writer_ends_at_its_next_message_and_does_not_know_what_became_of_its_entry() {
    let mut cluster = Cluster::of(3);
    assert!(is_elected(&cluster.elect(1)));
    assert!(is_elected(&cluster.elect(2)));
    assert_eq!(cluster.node(1).writer(), None, "promising the rival ended it");
    let refused = cluster.append(1, "late");
    assert_eq!(
        cluster.answer(refused),
        Some(&Answer::Refused(Refusal::NotWriter))
    );

    // Cut off it goes on believing, until a reply reaches it.
    assert!(is_elected(&cluster.elect(1)));
    cluster.isolate(1);
    assert!(is_elected(&cluster.elect(2)));
    let lost = cluster.append(1, "lost");
    cluster.settle();
    assert_eq!(cluster.answer(lost), None);
    cluster.cut.clear();
    cluster.pass(1_000);
    assert!(matches!(
        cluster.answer(lost),
        Some(Answer::Lost { higher: Some(_) })
    ));
    assert_eq!(cluster.texts(2), Vec::<String>::new());
}

/// An entry on a minority is taken over by a coordinator that sees it, but only together with a quorum.
#[test]
fn without_a_quorum_nothing_is_filled() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1);
    cluster.append(1, "a");
    cluster.pass(500);
    cluster.stop(2);
    cluster.stop(3);
    let open = cluster.append(1, "b");
    cluster.pass(1_000);
    assert_eq!(cluster.answer(open), None, "one replica is no quorum");
    cluster.stop(1);
    cluster.restart(1);
    let alone = cluster.ask(1, |ticket| Input::Elect { ticket, at_least: 0 });
    cluster.pass(11_000);
    assert_eq!(
        cluster.answer(alone),
        Some(&Answer::NotElected(NotElected::NoQuorum))
    );
    cluster.restart(2);
    cluster.pass(100);
    assert!(is_elected(&cluster.elect(1)));
    assert_eq!(cluster.texts(1), ["a", "b"]);
}

/// Two coordinators left different entries at one position: the one of the higher ballot is taken over.
#[test]
fn of_inconsistent_entries_the_highest_ballots_is_filled() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1);
    // Only replica 1 has "one".
    cluster.isolate(1);
    cluster.append(1, "one");
    cluster.settle();
    // Only replica 2 has "two", at the same position and a higher ballot, once its first entry is settled.
    assert!(is_elected(&cluster.elect(2)));
    cluster.isolate(2);
    cluster.append(2, "two");
    cluster.settle();
    let at = |c: &Cluster, id| c.state(id).end();
    assert!(at(&cluster, 2) > at(&cluster, 3));
    cluster.stop(3);
    for id in [1, 2] {
        cluster.stop(id);
    }
    cluster.cut.clear();
    cluster.restart(1);
    cluster.restart(2);
    cluster.elect_in_the_end(1);
    assert_eq!(cluster.texts(1), ["two"], "the entry of the lower ballot is void");
    cluster.restart(3);
    cluster.pass(3_000);
    assert_eq!(cluster.texts(3), ["two"]);
}

/// One replica alone knows that an entry is agreed; the others have accepted it, or not even that.
#[test]
fn learned_on_one_replica_not_learned_on_another() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1);
    // Replica 3 hears nothing; 2 accepts, and is not told that it is agreed.
    cluster.cut.extend([(1, 3), (3, 1)]);
    let done = cluster.append(1, "x");
    cluster.settle();
    assert!(matches!(cluster.answer(done), Some(Answer::Appended { .. })));
    assert!(cluster.state(1).learned > cluster.state(2).learned);
    cluster.stop(1);
    cluster.cut.clear();
    assert!(
        is_elected(&cluster.elect(3)),
        "with replica 2, which only accepted"
    );
    assert_eq!(cluster.texts(3), ["x"]);
    assert_eq!(cluster.texts(2), ["x"]);
}

/// The same, and the one that learned fails and comes back.
#[test]
fn learned_on_one_replica_not_learned_on_another_and_it_fails_and_recovers() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1);
    cluster.cut.extend([(1, 3), (3, 1)]);
    let done = cluster.append(1, "x");
    cluster.settle();
    assert!(matches!(cluster.answer(done), Some(Answer::Appended { .. })));
    cluster.stop(1);
    cluster.cut.clear();
    cluster.elect(2);
    cluster.append(2, "y");
    cluster.pass(1_000);
    cluster.restart(1);
    cluster.pass(3_000);
    for id in 1..=3 {
        assert_eq!(cluster.texts(id), ["x", "y"], "replica {id}");
    }
    cluster.stop(2);
    assert!(is_elected(&cluster.elect(1)));
    assert_eq!(cluster.texts(1), ["x", "y"]);
}

#[test]
fn many_entries_share_one_write_and_are_answered_in_order() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1);
    let tickets: Vec<_> = (0..64).map(|_| cluster.ticket()).collect();
    let entries = tickets
        .iter()
        .map(|t| (*t, t.0.to_string().as_bytes().into()))
        .collect();
    cluster.feed(1, Input::Append { entries });
    let writes = cluster
        .network
        .iter()
        .filter(|e| matches!(&e.message, Message::Write(_)));
    assert_eq!(writes.count(), 2, "one to each peer");
    cluster.settle();
    let first = cluster.state(1).learned.0 - 63;
    for (at, ticket) in (first..).zip(tickets) {
        let position = Position(at);
        assert_eq!(cluster.answer(ticket), Some(&Answer::Appended { position }));
    }
}

#[test]
fn truncation_is_agreed_and_reaches_who_was_away() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1);
    cluster.stop(3);
    for text in ["a", "b", "c", "d"] {
        cluster.append(1, text);
    }
    cluster.settle();
    let end = cluster.state(1).learned;
    let beyond = cluster.ask(1, |ticket| Input::Truncate {
        ticket,
        to: end.next().next(),
    });
    assert!(matches!(
        cluster.answer(beyond),
        Some(Answer::Refused(Refusal::OutOfRange { .. }))
    ));
    cluster.ask(1, |ticket| Input::Truncate { ticket, to: end });
    cluster.pass(500);
    assert_eq!(cluster.state(1).begin, end);
    // What is cut off is not there any more to be fetched.
    for id in [1, 2] {
        let store = cluster.stores.get_mut(&id).expect("a store");
        store.retain(|at, _| *at >= end.0);
    }
    cluster.restart(3);
    cluster.pass(3_000);
    assert_eq!(cluster.state(3).begin, end);
    assert_eq!(cluster.state(3).learned, cluster.state(1).learned);
    assert!(matches!(cluster.stores[&3].get(&end.0), Some(Value::Append(_))));
}

#[test]
fn a_read_is_confirmed_by_a_quorum_or_not_at_all() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1);
    let ask = |ticket| Input::Confirm { ticket };
    let good = cluster.ask(1, ask);
    cluster.settle();
    let end = cluster.state(1).learned;
    assert_eq!(cluster.answer(good), Some(&Answer::Confirmed { end }));
    cluster.isolate(1);
    assert!(is_elected(&cluster.elect(2)));
    let stale = cluster.ask(1, ask);
    cluster.settle();
    assert_eq!(cluster.answer(stale), None);
    cluster.cut.clear();
    cluster.pass(1_000);
    assert_eq!(cluster.answer(stale), Some(&Answer::Refused(Refusal::NotWriter)));
}

#[test]
fn a_follower_catches_up_on_request() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1);
    cluster.append(1, "x");
    cluster.settle();
    let read = cluster.ask(3, |ticket| Input::CatchUp { ticket });
    cluster.settle();
    assert!(matches!(cluster.answer(read), Some(Answer::CaughtUp { .. })));
    assert_eq!(cluster.texts(3), ["x"]);
}

#[test]
fn a_writer_whose_disk_is_slow_hears_that_it_is_outbid() {
    let mut cluster = Cluster::of(3);
    cluster.stop(1);
    let mut settings = cluster.settings(1, None::<std::ops::Range<u64>>);
    settings.bounds.waiting = 1;
    cluster.start(1, settings);
    cluster.elect_in_the_end(1);
    // Its own vote waits for the disk, and there is no room for more.
    let mut node = cluster.node(1).clone();
    let now = model::Millis(cluster.now);
    let poll = |node: &mut replog_core::Node| std::iter::from_fn(|| node.poll()).count();
    let entries = vec![(replog_core::Ticket(900), b"late".to_vec().into())];
    node.handle(now, Input::Append { entries });
    poll(&mut node);
    let ballot = node.writer().unwrap();
    let promised = replog_core::Ballot {
        term: ballot.term + 1,
        replica: replog_core::ReplicaId(2),
    };
    let envelope = replog_core::Envelope {
        from: cluster.node(2).member(),
        to: replog_core::ReplicaId(1),
        incarnation: Some(node.member().incarnation),
        message: Message::Rejected { ballot, promised },
    };
    node.handle(now, Input::Message(envelope));
    poll(&mut node);
    assert_eq!(node.coordinating(), None);
}
