//! Events. The schema holds the fields of every kind side by side; each kind reads its own.

use model::{Event, EventKind, Fault};

use crate::bounds::{ARGUMENTS_MAX, TextBudget};
use crate::container::{reason_from_wire, reason_to_wire, state_from_wire, state_to_wire};
use crate::value::{container_id, container_name, set_texts, text, texts, unknown};
use crate::value_capnp::{self as wire, event};

pub fn encode(event: &Event, mut builder: event::Builder<'_>) {
    builder.set_sequence(event.sequence);
    builder.set_at_ms(event.at_ms);
    builder.set_container(event.container.as_str());
    if let Some(name) = &event.name {
        builder.set_name(name.as_str());
    }
    match &event.kind {
        EventKind::State { state } => {
            builder.set_kind(wire::EventKind::State);
            builder.set_state(state_to_wire(*state));
        }
        EventKind::Ended {
            exit_status,
            reason,
            message,
        } => {
            builder.set_kind(wire::EventKind::Ended);
            builder.set_exit_status(*exit_status);
            builder.set_reason(reason_to_wire(*reason));
            builder.set_message(message);
        }
        EventKind::LimitHit { message } => {
            builder.set_kind(wire::EventKind::LimitHit);
            builder.set_message(message);
        }
        EventKind::Updated => builder.set_kind(wire::EventKind::Updated),
        EventKind::Exec { command } => {
            builder.set_kind(wire::EventKind::Exec);
            set_texts(
                command.iter().map(String::as_str),
                builder.init_command(command.len() as u32),
            );
        }
        EventKind::CleanupRetry { attempt, message } => {
            builder.set_kind(wire::EventKind::CleanupRetry);
            builder.set_attempt(*attempt);
            builder.set_message(message);
        }
        EventKind::PortRefused { port, refused } => {
            builder.set_kind(wire::EventKind::PortRefused);
            builder.set_port(*port);
            builder.set_refused(*refused);
        }
        EventKind::SandboxRemoved { bytes, files } => {
            builder.set_kind(wire::EventKind::SandboxRemoved);
            builder.set_bytes(*bytes);
            builder.set_files(*files);
        }
    }
}

pub fn decode(reader: event::Reader<'_>) -> Result<Event, Fault> {
    let budget = &mut TextBudget::default();
    let mut message = || text("message", reader.get_message(), budget);
    let kind = match reader.get_kind() {
        Ok(wire::EventKind::State) => EventKind::State {
            state: state_from_wire("state", reader.get_state())?,
        },
        Ok(wire::EventKind::Ended) => EventKind::Ended {
            exit_status: reader.get_exit_status(),
            reason: reason_from_wire("reason", reader.get_reason())?,
            message: message()?,
        },
        Ok(wire::EventKind::LimitHit) => EventKind::LimitHit { message: message()? },
        Ok(wire::EventKind::Updated) => EventKind::Updated,
        Ok(wire::EventKind::Exec) => EventKind::Exec {
            command: texts("command", reader.get_command(), ARGUMENTS_MAX, budget)?,
        },
        Ok(wire::EventKind::CleanupRetry) => EventKind::CleanupRetry {
            attempt: reader.get_attempt(),
            message: message()?,
        },
        Ok(wire::EventKind::PortRefused) => EventKind::PortRefused {
            port: reader.get_port(),
            refused: reader.get_refused(),
        },
        Ok(wire::EventKind::SandboxRemoved) => EventKind::SandboxRemoved {
            bytes: reader.get_bytes(),
            files: reader.get_files(),
        },
        Err(new) => return Err(unknown("kind", new)),
    };
    Ok(Event {
        sequence: reader.get_sequence(),
        at_ms: reader.get_at_ms(),
        container: container_id("container", reader.get_container(), budget)?,
        name: container_name("name", reader.get_name(), budget)?,
        kind,
    })
}
