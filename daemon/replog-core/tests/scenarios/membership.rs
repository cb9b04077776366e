//! Adding, removing, replacing replicas.

use replog_core::{Answer, Change, Halt, Input, Refusal, ReplicaId, StartError, Status, Ticket};

use crate::cluster::Cluster;

fn change(cluster: &mut Cluster, id: u64, change: Change) -> Ticket {
    cluster.ask(id, |ticket| Input::Change { ticket, change })
}

fn ids(cluster: &Cluster, id: u64) -> Vec<u64> {
    let membership = cluster.state(id).membership.clone().expect("a membership");
    membership.ids().iter().map(|r| r.0).collect()
}

fn none() -> Option<std::ops::Range<u64>> {
    None
}

#[test]
fn a_fourth_replica_follows_and_never_votes_until_it_is_added() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1);
    cluster.append(1, "a");
    cluster.start(4, cluster.settings(4, none()));
    cluster.pass(10_000);
    assert_eq!(cluster.state(4).status, Status::Recovering);
    assert_eq!(cluster.texts(4), ["a"]);
    assert_eq!(ids(&cluster, 1), [1, 2, 3]);

    let added = change(&mut cluster, 1, Change::Add(ReplicaId(4)));
    cluster.pass(5_000);
    assert!(matches!(cluster.answer(added), Some(Answer::Changed(_))));
    assert_eq!(cluster.state(4).status, Status::Voting);
    assert_eq!(ids(&cluster, 4), [1, 2, 3, 4]);
    // Now the quorum is three of four.
    cluster.stop(2);
    cluster.stop(3);
    let open = cluster.append(1, "b");
    cluster.pass(2_000);
    assert_eq!(cluster.answer(open), None);
}

#[test]
fn a_replica_is_replaced_while_entries_are_appended() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1);
    cluster.start(4, cluster.settings(4, none()));
    cluster.pass(2_000);
    let (out, by) = (ReplicaId(3), ReplicaId(4));
    let replaced = change(&mut cluster, 1, Change::Replace { out, by });
    let mut tickets = Vec::new();
    for round in 0..50 {
        tickets.push(cluster.append(1, &format!("{round}")));
        cluster.pass(50);
    }
    assert!(matches!(cluster.answer(replaced), Some(Answer::Changed(_))));
    for ticket in tickets {
        assert!(matches!(cluster.answer(ticket), Some(Answer::Appended { .. })));
    }
    assert_eq!(
        cluster.state(3).status,
        Status::Recovering,
        "it is out, and knows"
    );
    cluster.stop(3);
    cluster.stop(2);
    let done = cluster.append(1, "last");
    cluster.pass(1_000);
    assert!(cluster.answer(done).is_some(), "1 and 4 are a quorum");
}

#[test]
fn one_change_at_a_time_and_only_sensible_ones() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1);
    let waits = change(&mut cluster, 1, Change::Add(ReplicaId(9)));
    assert_eq!(cluster.answer(waits), None, "it waits for replica 9 to show up");
    let second = change(&mut cluster, 1, Change::Remove(ReplicaId(2)));
    assert_eq!(
        cluster.answer(second),
        Some(&Answer::Refused(Refusal::ChangeUnderWay))
    );
    cluster.pass(40_000);
    assert_eq!(
        cluster.answer(waits),
        Some(&Answer::Refused(Refusal::NotCaughtUp))
    );
    let cases = [
        (
            Change::Add(ReplicaId(2)),
            Refusal::AlreadyMember {
                replica: ReplicaId(2),
            },
        ),
        (
            Change::Remove(ReplicaId(7)),
            Refusal::NotMember {
                replica: ReplicaId(7),
            },
        ),
        (
            Change::Remove(ReplicaId(1)),
            Refusal::RemovesWriter {
                replica: ReplicaId(1),
            },
        ),
    ];
    for (asked, refusal) in cases {
        let ticket = change(&mut cluster, 1, asked);
        assert_eq!(cluster.answer(ticket), Some(&Answer::Refused(refusal)));
    }
    let elsewhere = change(&mut cluster, 2, Change::Remove(ReplicaId(3)));
    assert_eq!(
        cluster.answer(elsewhere),
        Some(&Answer::Refused(Refusal::NotWriter))
    );
}

/// The members are not changed to some of whom a quorum does not answer.
#[test]
fn a_change_that_would_end_availability_is_not_made_and_does_not_stop_the_writer() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1);
    cluster.stop(3);
    let removed = change(&mut cluster, 1, Change::Remove(ReplicaId(2)));
    cluster.pass(1_000);
    let appended = cluster.append(1, "x");
    cluster.pass(4_000);
    assert!(matches!(cluster.answer(appended), Some(Answer::Appended { .. })));
    cluster.pass(40_000);
    assert_eq!(
        cluster.answer(removed),
        Some(&Answer::Refused(Refusal::NotCaughtUp))
    );
    assert_eq!(ids(&cluster, 1), [1, 2, 3]);
}

#[test]
fn a_configuration_that_contradicts_the_log_is_refused_with_both_sets_named() {
    let mut cluster = Cluster::of(3);
    cluster.stop(2);
    let settings = cluster.settings(2, Some(1..=4));
    let error = cluster.try_start(2, settings, false).expect_err("refused");
    assert!(matches!(error, StartError::MembersContradict { .. }));
    assert!(error.to_string().contains("{1, 2, 3, 4}") && error.to_string().contains("{1, 2, 3}"));

    // With an empty disk it is found out from the others.
    cluster.wipe(2);
    cluster.start(2, cluster.settings(2, Some(1..=4)));
    cluster.pass(3_000);
    assert!(matches!(&cluster.halts[&2], Halt::MembersContradict { .. }));
}

#[test]
fn a_disk_whose_place_was_taken_may_not_come_back() {
    let mut cluster = Cluster::of(3);
    cluster.elect(1);
    cluster.append(1, "a");
    cluster.pass(500);
    cluster.stop(3);
    let old = cluster.machines[&3].disk.clone();
    cluster.wipe(3);
    cluster.start(3, cluster.settings(3, Some(1..=3)));
    cluster.pass(5_000);
    assert_eq!(cluster.state(3).status, Status::Voting);
    cluster.stop(3);
    cluster.machines.get_mut(&3).expect("a machine").disk = old;
    cluster.restart(3);
    cluster.pass(3_000);
    assert!(matches!(&cluster.halts[&3], Halt::Superseded { .. }));
}
