//! Empty, lost and damaged disks; disks that refuse.

use replog_core::{Halt, Input, Message, Settings, StartError, Status};

use crate::cluster::Cluster;

#[test]
fn nothing_is_initialised_while_a_member_is_missing_and_nothing_without_permission() {
    let mut cluster = Cluster::default();
    for id in [1, 2] {
        cluster.start(id, cluster.settings(id, Some(1..=3)));
    }
    cluster.pass(10_000);
    assert_eq!(cluster.state(1).status, Status::Empty);
    let settings = Settings {
        auto_initialize: false,
        ..cluster.settings(3, Some(1..=3))
    };
    cluster.start(3, settings);
    cluster.pass(10_000);
    assert_ne!(cluster.state(1).status, Status::Voting);
    cluster.feed(3, Input::Initialize);
    cluster.pass(5_000);
    for id in 1..=3 {
        assert_eq!(cluster.state(id).status, Status::Voting, "replica {id}");
    }
}

#[test]
fn a_wiped_replica_rejoins_by_itself_and_the_writer_notices_nothing() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1);
    for text in ["a", "b", "c"] {
        cluster.append(1, text);
    }
    cluster.settle();
    let ballot = cluster.node(1).writer();
    let old = cluster.node(3).member();
    cluster.wipe(3);
    cluster.start(3, cluster.settings(3, Some(1..=3)));
    cluster.pass(5_000);
    assert_ne!(cluster.node(3).member(), old, "another disk is another member");
    assert_eq!(cluster.state(3).status, Status::Voting);
    assert_eq!(cluster.texts(3), ["a", "b", "c"]);
    assert_eq!(cluster.node(1).writer(), ballot);
    // And it counts: without replica 2 there is still a quorum.
    cluster.stop(2);
    let done = cluster.append(1, "d");
    cluster.pass(500);
    assert!(cluster.answer(done).is_some());
}

#[test]
fn a_wiped_replica_rejoins_when_nobody_writes() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1);
    cluster.append(1, "a");
    cluster.pass(500);
    cluster.feed(1, Input::Resign);
    cluster.wipe(2);
    cluster.start(2, cluster.settings(2, Some(1..=3)));
    cluster.pass(15_000);
    assert_eq!(cluster.state(2).status, Status::Voting);
    assert_eq!(cluster.texts(2), ["a"]);
    assert!(
        (1..=3).all(|id| cluster.node(id).coordinating().is_none()),
        "who stood in has gone"
    );
}

#[test]
fn a_wiped_replica_does_not_rejoin_without_a_quorum_and_does_not_begin_a_new_log() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1);
    cluster.append(1, "a");
    cluster.pass(500);
    for id in [2, 3] {
        cluster.wipe(id);
        cluster.start(id, cluster.settings(id, Some(1..=3)));
    }
    cluster.pass(20_000);
    assert_eq!(cluster.state(2).status, Status::Recovering);
    assert_eq!(cluster.state(3).status, Status::Recovering);
}

#[test]
fn a_damaged_disk_never_initialises_and_keeps_what_is_agreed() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1);
    cluster.append(1, "a");
    cluster.pass(2_000);
    cluster.stop(3);
    let settings = cluster.settings(3, Some(1..=3));
    cluster.try_start(3, settings, true).expect("starts");
    assert_eq!(cluster.state(3).status, Status::Recovering);
    assert_eq!(cluster.texts(3), ["a"]);
    cluster.pass(5_000);
    assert_eq!(cluster.state(3).status, Status::Voting);
}

#[test]
fn a_disk_that_refuses_ends_the_replica_and_keeps_its_promises() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1);
    let promised = cluster.state(2).promised;
    let reason = "no space left on device".to_string();
    cluster.feed(2, Input::PersistFailed { reason });
    assert!(matches!(&cluster.halts[&2], Halt::Disk { reason } if reason.contains("no space")));
    cluster.append(1, "a");
    let messages: Vec<_> = cluster.network.drain(..).collect();
    for envelope in messages {
        cluster.feed(envelope.to.0, Input::Message(envelope));
    }
    let said = cluster.network.iter().filter(|e| e.from.replica.0 == 2);
    assert_eq!(said.count(), 0, "it says nothing more");
    cluster.stop(2);
    cluster.restart(2);
    assert_eq!(cluster.state(2).promised, promised);
}

#[test]
fn only_voting_replicas_answer_a_prepare() {
    let mut cluster = Cluster::of(3);
    cluster.wipe(3);
    cluster.start(3, cluster.settings(3, Some(1..=3)));
    cluster.network.clear();
    cluster.ask(1, |ticket| Input::Elect { ticket, at_least: 0 });
    let mut prepare = cluster
        .network
        .iter()
        .find(|e| e.to.0 == 3 && matches!(e.message, Message::Prepare(_)))
        .cloned()
        .expect("a prepare");
    cluster.network.clear();
    cluster.feed(3, Input::Message(prepare.clone()));
    assert!(
        cluster.network.is_empty(),
        "it is meant for the disk that is gone"
    );
    prepare.incarnation = None;
    cluster.feed(3, Input::Message(prepare));
    assert!(
        cluster
            .network
            .iter()
            .all(|e| matches!(e.message, Message::NotVoting { .. })),
        "{:?}",
        cluster.network
    );
}

#[test]
fn the_disk_of_another_replica_is_refused() {
    let mut cluster = Cluster::of(3);
    cluster.stop(3);
    let disk = cluster.machines[&3].disk.clone();
    cluster.wipe(2);
    cluster.machines.get_mut(&2).expect("a machine").disk = disk;
    let settings = cluster.settings(2, Some(1..=3));
    let error = cluster.try_start(2, settings, false).expect_err("refused");
    assert!(matches!(error, StartError::OtherReplica { .. }));
}
