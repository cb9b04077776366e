//! Every value that travels: launches and limits in requests, states and samples in answers.
//!
//! Rules: what is decoded encodes to something that decodes to the same; decoding stays within what a message may hold.
//! The first byte chooses the value; the rest is a message in stream framing.

use std::fmt::Debug;

use capnp::message::{Builder, ReaderOptions};
use capnp::serialize::OwnedSegments;
use model::LaunchSpec;
use wire::agent_capnp::{self as a, agent};
use wire::value_capnp as v;

pub(crate) type Message = capnp::message::Reader<OwnedSegments>;

/// A message as a server reads it.
pub(crate) fn message(bytes: &[u8]) -> Option<Message> {
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(Some(1 << 20)).nesting_limit(64);
    capnp::serialize::read_message(&mut &*bytes, options).ok()
}

/// Decodes, encodes, decodes: the same. Compared as text, since a number may be none (NaN).
macro_rules! same {
    ($message:expr, $owned:path, $encode:expr, $decode:expr) => {{
        let Ok(reader) = $message.get_root::<<$owned as capnp::traits::Owned>::Reader<'_>>() else {
            return;
        };
        let decoded: Result<_, model::Fault> = $decode(reader);
        let Ok(value) = decoded else { return };
        let mut builder = Builder::new_default();
        $encode(
            &value,
            builder.init_root::<<$owned as capnp::traits::Owned>::Builder<'_>>(),
        );
        let written = builder
            .get_root_as_reader::<<$owned as capnp::traits::Owned>::Reader<'_>>()
            .expect("our own message");
        expect_same(&value, $decode(written));
    }};
}
pub(crate) use same;

pub(crate) fn expect_same<T: Debug>(value: &T, again: Result<T, model::Fault>) {
    let again = again.expect("what was written can be read");
    assert_eq!(format!("{value:?}"), format!("{again:?}"));
}

/// The launch in a message, for targets that go on from there.
pub fn launch_spec(bytes: &[u8]) -> Option<LaunchSpec> {
    let message = message(bytes)?;
    wire::launch::decode(message.get_root::<v::launch_spec::Reader<'_>>().ok()?).ok()
}

pub fn run(data: &[u8]) {
    let (kind, bytes) = crate::choice(data);
    let Some(message) = message(bytes) else { return };
    match kind % 15 {
        0 => same!(
            message,
            v::launch_spec::Owned,
            wire::launch::encode,
            wire::launch::decode
        ),
        1 => same!(
            message,
            v::exec_spec::Owned,
            wire::launch::encode_exec,
            wire::launch::decode_exec
        ),
        2 => same!(
            message,
            v::limits::Owned,
            wire::limits::encode,
            wire::limits::decode
        ),
        3 => same!(
            message,
            v::terminal_size::Owned,
            |size: &model::TerminalSize, builder| wire::launch::encode_terminal(*size, builder),
            |reader| Ok(wire::launch::decode_terminal(reader))
        ),
        4 => same!(
            message,
            v::termination::Owned,
            wire::container::encode_termination,
            wire::container::decode_termination
        ),
        5 => same!(
            message,
            v::container_status::Owned,
            wire::container::encode_status,
            wire::container::decode_status
        ),
        6 => fault(&message),
        7 => same!(message, v::usage::Owned, wire::usage::encode, |reader| Ok(
            wire::usage::decode(reader)
        )),
        8 => same!(message, v::event::Owned, wire::event::encode, wire::event::decode),
        9 => same!(
            message,
            a::version_info::Owned,
            wire::agent::encode_info,
            wire::agent::decode_info
        ),
        10 => same!(
            message,
            a::host_info::Owned,
            wire::agent::encode_host,
            wire::agent::decode_host
        ),
        11 => statuses(&message),
        12 => samples(&message),
        13 => ids(&message),
        _ => removed(&message),
    }
}

fn fault(message: &Message) {
    let Err(fault) = wire::fault::check(message.get_root()) else {
        return;
    };
    let mut builder = Builder::new_default();
    wire::fault::encode(&fault, builder.init_root());
    assert_eq!(wire::fault::check(builder.get_root_as_reader()), Err(fault));
}

fn statuses(message: &Message) {
    let Ok(results) = message.get_root::<agent::list_results::Reader<'_>>() else {
        return;
    };
    let Ok(list) = wire::agent::decode_statuses(results.get_containers()) else {
        return;
    };
    let mut builder = Builder::new_default();
    let results = builder.init_root::<agent::list_results::Builder<'_>>();
    wire::agent::encode_statuses(&list, results.init_containers(list.len() as u32));
    let results = builder.get_root_as_reader::<agent::list_results::Reader<'_>>();
    let results = results.expect("our own message");
    assert_eq!(wire::agent::decode_statuses(results.get_containers()), Ok(list));
}

fn samples(message: &Message) {
    let Ok(results) = message.get_root::<agent::statistics_results::Reader<'_>>() else {
        return;
    };
    let Ok(list) = wire::usage::decode_list(results.get_samples()) else {
        return;
    };
    let mut builder = Builder::new_default();
    let results = builder.init_root::<agent::statistics_results::Builder<'_>>();
    let pairs = list
        .iter()
        .map(|sample| (&sample.id, sample.name.as_ref(), &sample.usage));
    wire::usage::encode_list(pairs, results.init_samples(list.len() as u32));
    let results = builder.get_root_as_reader::<agent::statistics_results::Reader<'_>>();
    expect_same(
        &list,
        wire::usage::decode_list(results.expect("our own message").get_samples()),
    );
}

fn ids(message: &Message) {
    if let Ok(params) = message.get_root::<agent::statistics_params::Reader<'_>>() {
        let _ = wire::agent::decode_ids(params.get_ids());
    }
    if let Ok(params) = message.get_root::<agent::container_params::Reader<'_>>() {
        let _ = wire::agent::decode_text("container", params.get_id_or_name());
    }
    if let Ok(results) = message.get_root::<a::container::inspect_results::Reader<'_>>() {
        let _ = wire::agent::decode_detail(results.get_detail());
    }
}

fn removed(message: &Message) {
    let Ok(results) = message.get_root::<agent::collect_results::Reader<'_>>() else {
        return;
    };
    let Ok(list) = wire::removed::decode_list(results.get_removed()) else {
        return;
    };
    let mut builder = Builder::new_default();
    let results = builder.init_root::<agent::collect_results::Builder<'_>>();
    wire::removed::encode_list(&list, results.init_removed(list.len() as u32));
    let results = builder.get_root_as_reader::<agent::collect_results::Reader<'_>>();
    expect_same(
        &list,
        wire::removed::decode_list(results.expect("our own message").get_removed()),
    );
}
