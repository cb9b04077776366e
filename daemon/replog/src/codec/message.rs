//! What replicas say to each other.

use std::collections::BTreeSet;
use std::sync::Arc;

use replog_core::{
    Envelope, Fetched, Hello, Incarnation, Message, Position, Prepare, Promise, ReplicaId, Write, Written,
};
use wire::replog_capnp::{envelope, hello};

use super::value::{
    get_ballot, get_entries, get_epoch, get_member, get_membership, get_proposal, get_status, put_ballot,
    put_entries, put_epoch, put_member, put_membership, put_proposal, put_status,
};
use super::{DecodeError, IDS_MAX, check};

type Result<T> = std::result::Result<T, DecodeError>;

/// Envelopes of one call.
const ENVELOPES_MAX: u32 = 4096;

pub fn encode_envelope(value: &Envelope, mut builder: envelope::Builder<'_>) {
    put_member(value.from, builder.reborrow().init_from());
    builder.set_to(value.to.0);
    match value.incarnation {
        None => builder.reborrow().get_incarnation().set_any(()),
        Some(incarnation) => builder.reborrow().get_incarnation().set_only(incarnation.0),
    }
    let mut message = builder.get_message();
    match &value.message {
        Message::Hello(hello) => put_hello(hello, message.init_hello()),
        Message::Prepare(prepare) => {
            let mut builder = message.init_prepare();
            put_ballot(prepare.ballot, builder.reborrow().init_ballot());
            put_membership(&prepare.membership, builder.reborrow().init_membership());
            builder.set_caretaker(prepare.caretaker);
        }
        Message::Promise(promise) => {
            let mut builder = message.init_promise();
            put_ballot(promise.ballot, builder.reborrow().init_ballot());
            builder.set_begin(promise.begin.0);
            builder.set_learned(promise.learned.0);
            put_epoch(promise.accepted, builder.reborrow().init_accepted());
            put_entries(&promise.tail, builder.init_tail(promise.tail.len() as u32));
        }
        Message::Write(write) => {
            let mut builder = message.init_write();
            put_ballot(write.ballot, builder.reborrow().init_ballot());
            put_membership(&write.membership, builder.reborrow().init_membership());
            builder.set_settle(write.settle.0);
            builder.set_first(write.first.0);
            put_entries(
                &write.values,
                builder.reborrow().init_values(write.values.len() as u32),
            );
            builder.set_committed(write.committed.0);
            builder.set_beat(write.beat);
            builder.set_urgent(write.urgent);
        }
        Message::Written(written) => {
            let mut builder = message.init_written();
            put_ballot(written.ballot, builder.reborrow().init_ballot());
            builder.set_matched(written.matched.0);
            builder.set_learned(written.learned.0);
            builder.set_beat(written.beat);
            builder.set_gap(written.gap);
            builder.set_adopted(written.adopted);
        }
        Message::Rejected { ballot, promised } => {
            let mut builder = message.init_rejected();
            put_ballot(*ballot, builder.reborrow().init_ballot());
            put_ballot(*promised, builder.init_promised());
        }
        Message::Occupied { ballot } => put_ballot(*ballot, message.init_occupied()),
        Message::Outdated { ballot, membership } => {
            let mut builder = message.init_outdated();
            put_ballot(*ballot, builder.reborrow().init_ballot());
            put_membership(membership, builder.init_membership());
        }
        Message::NotVoting { ballot, status } => {
            let mut builder = message.init_not_voting();
            put_ballot(*ballot, builder.reborrow().init_ballot());
            builder.set_status(put_status(*status));
        }
        Message::Fetch { first } => message.set_fetch(first.0),
        Message::Fetched(fetched) => {
            let mut builder = message.init_fetched();
            builder.set_first(fetched.first.0);
            put_entries(
                &fetched.values,
                builder.reborrow().init_values(fetched.values.len() as u32),
            );
            builder.set_begin(fetched.begin.0);
            builder.set_learned(fetched.learned.0);
            if let Some(membership) = &fetched.membership {
                put_membership(membership, builder.init_membership());
            }
        }
    }
}

fn put_hello(value: &Hello, mut builder: hello::Builder<'_>) {
    builder.set_round(value.round);
    builder.set_answer(value.answer);
    builder.set_status(put_status(value.status));
    match &value.initial {
        None => builder.reborrow().get_initial().set_none(()),
        Some(ids) => {
            let mut list = builder.reborrow().get_initial().init_some(ids.len() as u32);
            for (at, id) in (0..).zip(ids.iter()) {
                list.set(at, id.0);
            }
        }
    }
    if let Some(proposal) = &value.proposal {
        put_proposal(proposal, builder.reborrow().init_proposal());
    }
    if let Some(membership) = &value.membership {
        put_membership(membership, builder.reborrow().init_membership());
    }
    builder.set_learned(value.learned.0);
    builder.set_hears(value.hears);
    match value.replaces {
        None => builder.get_replaces().set_nothing(()),
        Some(incarnation) => builder.get_replaces().set_incarnation(incarnation.0),
    }
}

pub fn decode_envelopes(list: capnp::struct_list::Reader<'_, envelope::Owned>) -> Result<Vec<Envelope>> {
    check("envelopes", list.len(), ENVELOPES_MAX)?;
    list.iter().map(decode_envelope).collect()
}

pub fn decode_envelope(reader: envelope::Reader<'_>) -> Result<Envelope> {
    use envelope::incarnation;
    use envelope::message as kind;
    let incarnation = match reader
        .get_incarnation()
        .which()
        .map_err(|_| DecodeError::Unknown("incarnation"))?
    {
        incarnation::Any(()) => None,
        incarnation::Only(number) => Some(Incarnation(number)),
    };
    let message = match reader
        .get_message()
        .which()
        .map_err(|_| DecodeError::Unknown("message"))?
    {
        kind::Hello(hello) => Message::Hello(Box::new(get_hello(hello?)?)),
        kind::Prepare(prepare) => {
            let prepare = prepare?;
            Message::Prepare(Prepare {
                ballot: get_ballot(prepare.get_ballot()?),
                membership: get_membership(prepare.get_membership()?)?,
                caretaker: prepare.get_caretaker(),
            })
        }
        kind::Promise(promise) => {
            let promise = promise?;
            Message::Promise(Promise {
                ballot: get_ballot(promise.get_ballot()?),
                begin: Position(promise.get_begin()),
                learned: Position(promise.get_learned()),
                accepted: get_epoch(promise.get_accepted()?)?,
                tail: get_entries(promise.get_tail()?)?,
            })
        }
        kind::Write(write) => {
            let write = write?;
            Message::Write(Write {
                ballot: get_ballot(write.get_ballot()?),
                membership: get_membership(write.get_membership()?)?,
                settle: Position(write.get_settle()),
                first: Position(write.get_first()),
                values: get_entries(write.get_values()?)?,
                committed: Position(write.get_committed()),
                beat: write.get_beat(),
                urgent: write.get_urgent(),
            })
        }
        kind::Written(written) => {
            let written = written?;
            Message::Written(Written {
                ballot: get_ballot(written.get_ballot()?),
                matched: Position(written.get_matched()),
                learned: Position(written.get_learned()),
                beat: written.get_beat(),
                gap: written.get_gap(),
                adopted: written.get_adopted(),
            })
        }
        kind::Rejected(rejected) => {
            let rejected = rejected?;
            let promised = get_ballot(rejected.get_promised()?);
            Message::Rejected {
                ballot: get_ballot(rejected.get_ballot()?),
                promised,
            }
        }
        kind::Occupied(ballot) => Message::Occupied {
            ballot: get_ballot(ballot?),
        },
        kind::Outdated(outdated) => {
            let outdated = outdated?;
            let membership = get_membership(outdated.get_membership()?)?;
            Message::Outdated {
                ballot: get_ballot(outdated.get_ballot()?),
                membership,
            }
        }
        kind::NotVoting(answer) => {
            let answer = answer?;
            let status = get_status(answer.get_status())?;
            Message::NotVoting {
                ballot: get_ballot(answer.get_ballot()?),
                status,
            }
        }
        kind::Fetch(first) => Message::Fetch {
            first: Position(first),
        },
        kind::Fetched(fetched) => {
            let fetched = fetched?;
            let membership = if fetched.has_membership() {
                Some(get_membership(fetched.get_membership()?)?)
            } else {
                None
            };
            Message::Fetched(Box::new(Fetched {
                first: Position(fetched.get_first()),
                values: get_entries(fetched.get_values()?)?,
                begin: Position(fetched.get_begin()),
                learned: Position(fetched.get_learned()),
                membership,
            }))
        }
    };
    Ok(Envelope {
        from: get_member(reader.get_from()?),
        to: ReplicaId(reader.get_to()),
        incarnation,
        message,
    })
}

fn get_hello(reader: hello::Reader<'_>) -> Result<Hello> {
    use hello::{initial, replaces};
    let initial = match reader
        .get_initial()
        .which()
        .map_err(|_| DecodeError::Unknown("initial"))?
    {
        initial::None(()) => None,
        initial::Some(ids) => {
            let ids = ids?;
            check("initial", ids.len(), IDS_MAX)?;
            Some(Arc::new(ids.iter().map(ReplicaId).collect::<BTreeSet<_>>()))
        }
    };
    let replaces = match reader
        .get_replaces()
        .which()
        .map_err(|_| DecodeError::Unknown("replaces"))?
    {
        replaces::Nothing(()) => None,
        replaces::Incarnation(number) => Some(Incarnation(number)),
    };
    Ok(Hello {
        round: reader.get_round(),
        answer: reader.get_answer(),
        status: get_status(reader.get_status())?,
        initial,
        proposal: if reader.has_proposal() {
            Some(get_proposal(reader.get_proposal()?)?)
        } else {
            None
        },
        membership: if reader.has_membership() {
            Some(get_membership(reader.get_membership()?)?)
        } else {
            None
        },
        learned: Position(reader.get_learned()),
        hears: reader.get_hears(),
        replaces,
    })
}
