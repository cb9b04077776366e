//! What is sent is what arrives, for every value; and what was made by a stranger is refused by name.

mod generate;

use capnp::message::Builder;
use model::{Event, Fault, FaultKind, LaunchSpec, Limits, Usage};
use proptest::prelude::*;
use wire::bounds::{ARGUMENTS_MAX, LABELS_MAX, TEXT_BYTES_MAX};
use wire::value_capnp as v;
use wire::{agent_capnp as a, checkpoint};

/// Writes with one function, reads with the other.
macro_rules! through {
    ($owned:path, $encode:expr, $decode:expr) => {{
        let mut message = Builder::new_default();
        $encode(message.init_root::<<$owned as capnp::traits::Owned>::Builder<'_>>());
        $decode(
            message
                .get_root_as_reader::<<$owned as capnp::traits::Owned>::Reader<'_>>()
                .unwrap(),
        )
    }};
}

proptest! {
    #[test]
    fn launch_specs(spec in generate::launch_spec()) {
        prop_assert!(wire::launch::check_size(&spec).is_ok());
        let back = through!(v::launch_spec::Owned, |b: v::launch_spec::Builder<'_>| wire::launch::encode(&spec, b), wire::launch::decode);
        prop_assert_eq!(back, Ok(spec));
    }

    #[test]
    fn exec_specs(spec in generate::exec_spec()) {
        prop_assert!(wire::launch::check_exec_size(&spec).is_ok());
        let back = through!(v::exec_spec::Owned, |b: v::exec_spec::Builder<'_>| wire::launch::encode_exec(&spec, b), wire::launch::decode_exec);
        prop_assert_eq!(back, Ok(spec));
    }

    #[test]
    fn limits(limits in generate::limits()) {
        let back = through!(v::limits::Owned, |b: v::limits::Builder<'_>| wire::limits::encode(&limits, b), wire::limits::decode);
        prop_assert_eq!(back, Ok(limits));
    }

    #[test]
    fn terminal_sizes(size in generate::terminal()) {
        let back = through!(v::terminal_size::Owned, |b: v::terminal_size::Builder<'_>| wire::launch::encode_terminal(size, b), wire::launch::decode_terminal);
        prop_assert_eq!(back, size);
    }

    #[test]
    fn terminations(end in generate::termination()) {
        let back = through!(v::termination::Owned, |b: v::termination::Builder<'_>| wire::container::encode_termination(&end, b), wire::container::decode_termination);
        prop_assert_eq!(back, Ok(end));
    }

    #[test]
    fn statuses(list in proptest::collection::vec(generate::status(), 0..4)) {
        let mut message = Builder::new_default();
        let results = message.init_root::<a::agent::list_results::Builder<'_>>();
        wire::agent::encode_statuses(&list, results.init_containers(list.len() as u32));
        let results = message.get_root_as_reader::<a::agent::list_results::Reader<'_>>().unwrap();
        prop_assert_eq!(wire::agent::decode_statuses(results.get_containers()), Ok(list));
    }

    #[test]
    fn faults(fault in generate::fault()) {
        let back = through!(v::fault::Owned, |b: v::fault::Builder<'_>| wire::fault::encode(&fault, b), |r| wire::fault::check(Ok(r)));
        prop_assert_eq!(back, Err(fault));
    }

    #[test]
    fn samples(list in proptest::collection::vec(generate::container_usage(), 0..6)) {
        let mut message = Builder::new_default();
        let results = message.init_root::<a::agent::statistics_results::Builder<'_>>();
        let samples = list.iter().map(|sample| (&sample.id, sample.name.as_ref(), &sample.usage));
        wire::usage::encode_list(samples, results.init_samples(list.len() as u32));
        let results = message.get_root_as_reader::<a::agent::statistics_results::Reader<'_>>().unwrap();
        prop_assert_eq!(wire::usage::decode_list(results.get_samples()), Ok(list));
    }

    #[test]
    fn events(event in generate::event()) {
        let back: Result<Event, Fault> = through!(v::event::Owned, |b: v::event::Builder<'_>| wire::event::encode(&event, b), wire::event::decode);
        prop_assert_eq!(back, Ok(event));
    }

    #[test]
    fn agent_infos(info in generate::agent_info()) {
        let back = through!(a::version_info::Owned, |b: a::version_info::Builder<'_>| wire::agent::encode_info(&info, b), wire::agent::decode_info);
        prop_assert_eq!(back, Ok(info));
    }

    #[test]
    fn host_reports(host in generate::host_report()) {
        let back = through!(a::host_info::Owned, |b: a::host_info::Builder<'_>| wire::agent::encode_host(&host, b), wire::agent::decode_host);
        prop_assert_eq!(back, Ok(host));
    }

    #[test]
    fn checkpoints(value in generate::checkpoint()) {
        prop_assert_eq!(checkpoint::decode(&checkpoint::encode(&value)), Ok(value));
    }
}

/// Statistics are asked for by the thousand: their size is their cost.
#[test]
fn a_full_sample_is_small() {
    const SAMPLES: u32 = 1000;
    let id = "0123456789abcdef0123456789abcdef".parse().unwrap();
    let mut message = Builder::new_default();
    let results = message.init_root::<a::agent::statistics_results::Builder<'_>>();
    let usage = Usage {
        timestamp: 1.0,
        ..Usage::default()
    };
    wire::usage::encode_list(
        (0..SAMPLES).map(|_| (&id, None, &usage)),
        results.init_samples(SAMPLES),
    );
    let bytes = capnp::serialize::compute_serialized_size_in_words(&message) * 8 / SAMPLES as usize;
    assert!(bytes <= 576, "{bytes} bytes a sample");
}

fn refused(make: impl FnOnce(v::launch_spec::Builder<'_>)) -> Fault {
    through!(v::launch_spec::Owned, make, wire::launch::decode).unwrap_err()
}

#[test]
fn an_empty_message_is_the_default() {
    let spec = through!(
        v::launch_spec::Owned,
        |_: v::launch_spec::Builder<'_>| (),
        wire::launch::decode
    );
    assert_eq!(spec, Ok(LaunchSpec::default()));
    let limits = through!(
        v::limits::Owned,
        |_: v::limits::Builder<'_>| (),
        wire::limits::decode
    );
    assert_eq!(limits, Ok(Limits::default()));
    let usage = through!(
        v::usage::Owned,
        |_: v::usage::Builder<'_>| (),
        wire::usage::decode
    );
    assert_eq!(usage, Usage::default());
    assert_eq!(
        through!(v::fault::Owned, |_: v::fault::Builder<'_>| (), |r| {
            wire::fault::check(Ok(r))
        }),
        Ok(())
    );
}

#[test]
fn the_field_at_fault_is_named() {
    let bad_text = capnp::text::Reader(b"a\xffb");
    let fault = refused(|mut b| b.set_hostname(bad_text));
    assert_eq!(
        (fault.kind, fault.field.as_deref()),
        (FaultKind::Invalid, Some("hostname"))
    );
    let fault = refused(|b| b.init_command(3).set(2, bad_text));
    assert_eq!(fault.field.as_deref(), Some("command.2"));
    let fault = refused(|b| b.init_volumes(2).get(1).set_source(bad_text));
    assert_eq!(fault.field.as_deref(), Some("volumes.1.source"));
    let fault = refused(|b| b.init_limits().init_cpu_limit_milli().set_value(0));
    assert_eq!(fault.field.as_deref(), Some("limits.cpu_limit"));
    let fault = refused(|b| b.init_limits().init_pids().set_value(1 << 32));
    assert_eq!(fault.field.as_deref(), Some("limits.pids"));
    let fault = refused(|mut b| b.set_id("../etc"));
    assert_eq!(fault.field.as_deref(), Some("id"));
    let fault = refused(|b| {
        let mut labels = b.init_labels(2);
        labels.reborrow().get(0).set_key("k");
        labels.get(1).set_key("k");
    });
    assert_eq!(fault.to_string(), "labels: holds \"k\" twice");
}

#[test]
fn too_much_is_refused_before_it_is_read() {
    let fault = refused(|b| _ = b.init_command(ARGUMENTS_MAX + 1));
    assert_eq!(
        (fault.kind, fault.field.as_deref()),
        (FaultKind::Exhausted, Some("command"))
    );
    let fault = refused(|b| _ = b.init_labels(LABELS_MAX + 1));
    assert_eq!(fault.field.as_deref(), Some("labels"));
    let half = "x".repeat(TEXT_BYTES_MAX / 2 + 1);
    let fault = refused(|mut b| {
        b.set_user(&half);
        b.set_hostname(&half);
    });
    assert_eq!(
        (fault.kind, fault.field.as_deref()),
        (FaultKind::Exhausted, Some("hostname"))
    );
    let spec = LaunchSpec {
        user: Some(half.clone()),
        hostname: Some(half),
        ..LaunchSpec::default()
    };
    assert_eq!(
        wire::launch::check_size(&spec).unwrap_err(),
        fault,
        "the sender is told the same"
    );
}

/// A peer of a later version: enum and union values that we do not have.
#[test]
fn values_of_a_newer_schema_are_errors() {
    // The 16-bit field is overwritten in the message itself, found by its known value.
    let mut message = Builder::new_default();
    message
        .init_root::<v::launch_spec::Builder<'_>>()
        .set_network(v::Network::Mapped);
    let mut words = capnp::serialize::write_message_to_words(&message);
    let at = words
        .windows(2)
        .skip(16)
        .position(|pair| pair == [2, 0])
        .map(|at| at + 16)
        .unwrap();
    words[at] = 99;
    let reader =
        capnp::serialize::read_message(&mut words.as_slice(), capnp::message::ReaderOptions::new()).unwrap();
    let fault = wire::launch::decode(reader.get_root().unwrap()).unwrap_err();
    assert_eq!(
        (fault.kind, fault.field.as_deref()),
        (FaultKind::Invalid, Some("network")),
        "{fault}"
    );
    assert!(fault.message.contains("99"), "{fault}");
}

/// Any bytes in place of a message: an error or a value, never a panic.
#[test]
fn mutated_messages_never_panic() {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(500));
    let input = (
        generate::launch_spec(),
        proptest::collection::vec((any::<usize>(), any::<u8>()), 1..12),
    );
    runner
        .run(&input, |(spec, changes)| {
            let mut message = Builder::new_default();
            wire::launch::encode(&spec, message.init_root());
            let mut bytes = capnp::serialize::write_message_to_words(&message);
            let length = bytes.len();
            for (at, value) in changes {
                bytes[at % length] = value;
            }
            let mut options = capnp::message::ReaderOptions::new();
            options.traversal_limit_in_words(Some(1 << 17));
            if let Ok(reader) = capnp::serialize::read_message(&mut bytes.as_slice(), options) {
                let _ = reader.get_root().map(wire::launch::decode);
                let _ = reader.get_root().map(wire::launch::decode_exec);
                let _ = reader.get_root().map(wire::container::decode_status);
                let _ = reader.get_root().map(wire::event::decode);
                let _ = reader.get_root().map(wire::usage::decode_container);
                let _ = reader.get_root().map(wire::agent::decode_host);
                let _ = reader.get_root().map(|fault| wire::fault::check(Ok(fault)));
            }
            Ok(())
        })
        .unwrap();
}
