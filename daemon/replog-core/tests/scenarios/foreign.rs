//! Two logs whose replicas reach each other by mistake.

use std::sync::Arc;

use model::Millis;
use replog_core::{
    Ballot, Envelope, Halt, Hello, Incarnation, Input, LogId, Member, Membership, Message, Node, Notice,
    Position, ReplicaId, Settings, Start, State, Status, Wish,
};

fn members(log: u64) -> Vec<Member> {
    let member = |id| Member {
        replica: ReplicaId(id),
        incarnation: Incarnation(100 * log + id),
    };
    (1..=3).map(member).collect()
}

/// Of the log that these disks began.
fn membership(log: u64, begun_by: u64, since: u64) -> Arc<Membership> {
    Arc::new(Membership {
        log: LogId::of(&members(begun_by)),
        since: Position(since),
        ballot: Ballot::default(),
        members: members(log),
    })
}

/// What replica 1 of log 1 wishes when replica 2 of log 2 tells of a later membership of the log that log 1, or log 2, began.
fn told_of_a_later_membership(begun_by: u64) -> (Vec<Wish>, Node) {
    let state = State {
        member: members(1)[0],
        status: Status::Voting,
        membership: Some(membership(1, 1, 0)),
        ..State::default()
    };
    let start = Start {
        settings: Settings::new(ReplicaId(1)),
        stored: Some(state),
        damaged: false,
        incarnation: Incarnation(7),
        seed: 3,
    };
    let mut node = Node::start(Millis(0), start).unwrap();
    while node.poll().is_some() {}
    let hello = Hello {
        round: 1,
        answer: false,
        status: Status::Voting,
        initial: None,
        proposal: None,
        membership: Some(membership(2, begun_by, 500)),
        learned: Position(600),
        hears: true,
        replaces: None,
    };
    let envelope = Envelope {
        from: members(2)[1],
        to: ReplicaId(1),
        incarnation: None,
        message: Message::Hello(Box::new(hello)),
    };
    node.handle(Millis(1), Input::Message(envelope.clone()));
    let mut wishes: Vec<_> = std::iter::from_fn(|| node.poll()).collect();
    node.handle(Millis(2), Input::Message(envelope));
    wishes.extend(std::iter::from_fn(|| node.poll()));
    (wishes, node)
}

#[test]
fn a_replica_of_another_log_is_told_of_once_and_changes_nothing() {
    let (wishes, node) = told_of_a_later_membership(2);
    let expected = Wish::Notice(Notice::OtherLog { peer: ReplicaId(2) });
    assert_eq!(wishes, [expected]);
    assert_eq!(node.state().membership, Some(membership(1, 1, 0)));
    assert!(!node.is_halted());
    // The same of its own log is obeyed.
    let (wishes, node) = told_of_a_later_membership(1);
    let halts = |wish: &Wish| matches!(wish, Wish::Halt(Halt::Superseded { .. }));
    assert!(node.is_halted() && wishes.iter().any(halts), "{wishes:?}");
}

#[test]
fn logs_begun_by_other_disks_have_other_names() {
    let of = |log| LogId::of(&members(log));
    assert!(of(1).differs(of(2)) && !of(1).differs(of(1)));
    assert!(!of(1).differs(LogId::default()), "one without a name may be any");
}
