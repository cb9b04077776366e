//! A container's status and end.

use std::collections::BTreeMap;

use model::{Bytes, ContainerState, ContainerStatus, Fault, Limitation, Reason, Termination};

use crate::bounds::{ARGUMENTS_MAX, COUNTERS_MAX, LABELS_MAX, TextBudget, check_length};
use crate::launch::{network_from_wire, network_to_wire};
use crate::limits;
use crate::network;
use crate::value::{
    container_id, container_name, enum_pair, map, optional_number, optional_path, optional_text, path,
    set_pairs, set_texts, some, text, texts, within,
};
use crate::value_capnp::{self as wire, container_status, limitation, termination};

enum_pair!(
    state_to_wire,
    state_from_wire,
    ContainerState,
    wire::ContainerState,
    [Admitted, Prepared, Forked, Isolated, Running, Killing, Destroyed]
);
enum_pair!(
    reason_to_wire,
    reason_from_wire,
    Reason,
    wire::Reason,
    [
        Exited,
        Signaled,
        Killed,
        Timeout,
        MemoryLimit,
        DiskLimit,
        LaunchFailed,
        Lost
    ]
);

pub fn encode_status(status: &ContainerStatus, mut builder: container_status::Builder<'_>) {
    builder.set_id(status.id.as_str());
    if let Some(name) = &status.name {
        builder.set_name(name.as_str());
    }
    builder.set_state(state_to_wire(status.state));
    builder.set_pid(status.pid.unwrap_or(0));
    set_texts(
        status.command.iter().map(String::as_str),
        builder.reborrow().init_command(status.command.len() as u32),
    );
    limits::encode(&status.limits, builder.reborrow().init_limits());
    builder.set_network(network_to_wire(status.network));
    if !status.labels.is_empty() {
        let labels = status
            .labels
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        set_pairs(labels, builder.reborrow().init_labels(status.labels.len() as u32));
    }
    if let Some(grant) = &status.grant {
        network::encode_grant(grant, builder.reborrow().init_grant());
    }
    builder.set_created_at_ms(status.created_at_ms);
    builder.set_started_at_ms(status.started_at_ms.unwrap_or(0));
    if let Some(sandbox) = &status.sandbox {
        builder.set_sandbox(path(sandbox));
    }
    builder.set_terminal(status.terminal);
    if let Some(waits_for) = &status.waits_for {
        builder.set_waits_for(waits_for);
    }
    if let Some(termination) = &status.termination {
        encode_termination(termination, builder.init_termination());
    }
}

pub fn encode_termination(termination: &Termination, mut builder: termination::Builder<'_>) {
    builder.set_exit_status(termination.exit_status);
    builder.set_signal(termination.signal.unwrap_or(0));
    builder.set_reason(reason_to_wire(termination.reason));
    builder.set_message(&termination.message);
    builder.set_finished_at_ms(termination.finished_at_ms);
    if let Some(limitation) = &termination.limitation {
        encode_limitation(limitation, builder.init_limitation());
    }
}

fn encode_limitation(limitation: &Limitation, mut builder: limitation::Builder<'_>) {
    builder.set_reason(reason_to_wire(limitation.reason));
    builder.set_message(&limitation.message);
    if let Some(limit) = limitation.limit {
        builder.reborrow().init_limit_bytes().set_value(limit.get());
    }
    if let Some(peak) = limitation.peak {
        builder.reborrow().init_peak_bytes().set_value(peak.get());
    }
    let mut list = builder.init_statistics(limitation.statistics.len() as u32);
    for (index, (name, value)) in limitation.statistics.iter().enumerate() {
        let mut counter = list.reborrow().get(index as u32);
        counter.set_name(name);
        counter.set_value(*value);
    }
}

pub fn decode_status(reader: container_status::Reader<'_>) -> Result<ContainerStatus, Fault> {
    let budget = &mut TextBudget::default();
    Ok(ContainerStatus {
        id: container_id("id", reader.get_id(), budget)?,
        name: container_name("name", reader.get_name(), budget)?,
        state: state_from_wire("state", reader.get_state())?,
        pid: Some(reader.get_pid()).filter(|pid| *pid != 0),
        command: texts("command", reader.get_command(), ARGUMENTS_MAX, budget)?,
        limits: limits::read(some("limits", reader.get_limits())?, budget)
            .map_err(|fault| within(fault, "limits"))?,
        network: network_from_wire("network", reader.get_network())?,
        labels: map("labels", reader.get_labels(), LABELS_MAX, budget)?,
        grant: match reader.has_grant() {
            true => Some(network::decode_grant(some("grant", reader.get_grant())?)?),
            false => None,
        },
        created_at_ms: reader.get_created_at_ms(),
        started_at_ms: Some(reader.get_started_at_ms()).filter(|at| *at != 0),
        sandbox: optional_path("sandbox", reader.get_sandbox(), budget)?,
        terminal: reader.get_terminal(),
        waits_for: optional_text("waits_for", reader.get_waits_for(), budget)?,
        termination: read_termination(reader.has_termination(), || reader.get_termination(), budget)?,
    })
}

pub fn decode_termination(reader: termination::Reader<'_>) -> Result<Termination, Fault> {
    termination(reader, &mut TextBudget::default())
}

/// A null pointer is none.
pub(crate) fn read_termination<'a>(
    present: bool,
    read: impl FnOnce() -> capnp::Result<termination::Reader<'a>>,
    budget: &mut TextBudget,
) -> Result<Option<Termination>, Fault> {
    if !present {
        return Ok(None);
    }
    let reader = some("termination", read())?;
    termination(reader, budget)
        .map(Some)
        .map_err(|fault| within(fault, "termination"))
}

fn termination(reader: termination::Reader<'_>, budget: &mut TextBudget) -> Result<Termination, Fault> {
    Ok(Termination {
        exit_status: reader.get_exit_status(),
        signal: Some(reader.get_signal()).filter(|signal| *signal != 0),
        reason: reason_from_wire("reason", reader.get_reason())?,
        message: text("message", reader.get_message(), budget)?,
        limitation: match reader.has_limitation() {
            false => None,
            true => {
                let reader = some("limitation", reader.get_limitation())?;
                Some(decode_limitation(reader, budget).map_err(|fault| within(fault, "limitation"))?)
            }
        },
        finished_at_ms: reader.get_finished_at_ms(),
    })
}

fn decode_limitation(reader: limitation::Reader<'_>, budget: &mut TextBudget) -> Result<Limitation, Fault> {
    let list = some("statistics", reader.get_statistics())?;
    check_length("statistics", list.len() as usize, COUNTERS_MAX)?;
    let mut statistics = BTreeMap::new();
    for counter in list {
        statistics.insert(
            text("statistics", counter.get_name(), budget)?,
            counter.get_value(),
        );
    }
    Ok(Limitation {
        reason: reason_from_wire("reason", reader.get_reason())?,
        message: text("message", reader.get_message(), budget)?,
        limit: optional_number("limit", reader.get_limit_bytes())?.map(Bytes),
        peak: optional_number("peak", reader.get_peak_bytes())?.map(Bytes),
        statistics,
    })
}
