//! Every message survives its bytes, and no bytes are a panic.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use replog::codec;
use replog_core::{
    Ballot, Envelope, Epoch, Fetched, Hello, Incarnation, LogId, Member, Membership, Message, Position,
    Prepare, Promise, Proposal, ReplicaId, Status, Value, Write, Written,
};
use wire::replog_capnp::envelope;

fn ballot() -> impl Strategy<Value = Ballot> {
    (any::<u64>(), any::<u64>()).prop_map(|(term, replica)| Ballot {
        term,
        replica: ReplicaId(replica),
    })
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    proptest::collection::btree_map(any::<u64>(), any::<u64>(), 1..6).prop_map(|map| {
        let member = |(replica, incarnation)| Member {
            replica: ReplicaId(replica),
            incarnation: Incarnation(incarnation),
        };
        map.into_iter().map(member).collect()
    })
}

fn membership() -> impl Strategy<Value = Arc<Membership>> {
    (any::<u64>(), any::<u64>(), ballot(), members()).prop_map(|(log, since, ballot, members)| {
        Arc::new(Membership {
            log: LogId(log),
            since: Position(since),
            ballot,
            members,
        })
    })
}

fn status() -> impl Strategy<Value = Status> {
    prop_oneof![
        Just(Status::Empty),
        Just(Status::Starting),
        Just(Status::Recovering),
        Just(Status::Voting)
    ]
}

fn position() -> impl Strategy<Value = Position> {
    any::<u64>().prop_map(Position)
}

fn values() -> impl Strategy<Value = Vec<Value>> {
    let value = prop_oneof![
        Just(Value::Nop),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Value::Append(bytes.into())),
        position().prop_map(|to| Value::Truncate { to }),
        membership().prop_map(Value::Membership),
    ];
    proptest::collection::vec(value, 0..5)
}

fn epoch() -> impl Strategy<Value = Epoch> {
    (position(), ballot()).prop_map(|(since, ballot)| Epoch { since, ballot })
}

fn hello() -> impl Strategy<Value = Message> {
    let proposal = (any::<u64>(), members())
        .prop_map(|(generation, members)| Arc::new(Proposal { generation, members }));
    let initial = proptest::collection::btree_set(any::<u64>().prop_map(ReplicaId), 0..5);
    (
        (any::<u64>(), any::<bool>(), status(), position(), any::<bool>()),
        proptest::option::of(initial.prop_map(|ids: BTreeSet<_>| Arc::new(ids))),
        proptest::option::of(proposal),
        proptest::option::of(membership()),
        proptest::option::of(any::<u64>().prop_map(Incarnation)),
    )
        .prop_map(
            |((round, answer, status, learned, hears), initial, proposal, membership, replaces)| {
                Message::Hello(Box::new(Hello {
                    round,
                    answer,
                    status,
                    initial,
                    proposal,
                    membership,
                    learned,
                    hears,
                    replaces,
                }))
            },
        )
}

fn message() -> impl Strategy<Value = Message> {
    let write = (
        (ballot(), membership(), values()),
        (position(), position(), position()),
        (any::<u64>(), any::<bool>()),
    )
        .prop_map(
            |((ballot, membership, values), (settle, first, committed), (beat, urgent))| {
                Message::Write(Write {
                    ballot,
                    membership,
                    settle,
                    first,
                    values,
                    committed,
                    beat,
                    urgent,
                })
            },
        );
    let promise = (ballot(), position(), position(), epoch(), values()).prop_map(
        |(ballot, begin, learned, accepted, tail)| {
            Message::Promise(Promise {
                ballot,
                begin,
                learned,
                accepted,
                tail,
            })
        },
    );
    let written = (ballot(), position(), position(), any::<u64>(), any::<bool>()).prop_map(
        |(ballot, matched, learned, beat, gap)| {
            let adopted = beat % 2 == 0;
            Message::Written(Written {
                ballot,
                matched,
                learned,
                beat,
                gap,
                adopted,
            })
        },
    );
    let fetched = (
        position(),
        values(),
        position(),
        position(),
        proptest::option::of(membership()),
    )
        .prop_map(|(first, values, begin, learned, membership)| {
            Message::Fetched(Box::new(Fetched {
                first,
                values,
                begin,
                learned,
                membership,
            }))
        });
    prop_oneof![
        hello(),
        (ballot(), membership(), any::<bool>()).prop_map(|(ballot, membership, caretaker)| {
            Message::Prepare(Prepare {
                ballot,
                membership,
                caretaker,
            })
        }),
        promise,
        write,
        written,
        (ballot(), ballot()).prop_map(|(ballot, promised)| Message::Rejected { ballot, promised }),
        ballot().prop_map(|ballot| Message::Occupied { ballot }),
        (ballot(), membership()).prop_map(|(ballot, membership)| Message::Outdated { ballot, membership }),
        (ballot(), status()).prop_map(|(ballot, status)| Message::NotVoting { ballot, status }),
        position().prop_map(|first| Message::Fetch { first }),
        fetched,
    ]
}

fn encoded(value: &Envelope) -> Vec<u8> {
    let mut message = capnp::message::Builder::new_default();
    codec::encode_envelope(value, message.init_root());
    capnp::serialize::write_message_to_words(&message)
}

fn decoded(mut bytes: &[u8]) -> Result<Envelope, codec::DecodeError> {
    let message =
        capnp::serialize::read_message_from_flat_slice(&mut bytes, capnp::message::ReaderOptions::new())?;
    codec::decode_envelope(message.get_root::<envelope::Reader<'_>>()?)
}

proptest! {
    #[test]
    fn every_message_survives_its_bytes(
        message in message(),
        to: u64,
        from in (any::<u64>(), any::<u64>()),
        incarnation in proptest::option::of(any::<u64>().prop_map(Incarnation)),
        at: prop::sample::Index,
        byte: u8,
    ) {
        let from = Member { replica: ReplicaId(from.0), incarnation: Incarnation(from.1) };
        let envelope = Envelope { from, to: ReplicaId(to), incarnation, message };
        let mut bytes = encoded(&envelope);
        prop_assert_eq!(decoded(&bytes).unwrap(), envelope);
        // And with one byte changed it is another one or none.
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decoded(&bytes);
        let _ = codec::decode_entry(&bytes);
        let _ = codec::decode_meta(&bytes);
    }

    #[test]
    fn no_bytes_are_a_panic(bytes: Vec<u8>) {
        let _ = decoded(&bytes);
        let _ = codec::decode_entry(&bytes);
        let _ = codec::decode_meta(&bytes);
    }
}
