//! Faults. Every result struct has one; kind `none` means that there is no fault.

use model::{Fault, FaultKind};

use crate::bounds::TextBudget;
use crate::value::text;
use crate::value_capnp::{self as wire, fault};

pub fn encode(fault: &Fault, mut builder: fault::Builder<'_>) {
    builder.set_kind(kind_to_wire(fault.kind));
    if let Some(field) = &fault.field {
        builder.set_field(field);
    }
    builder.set_message(&fault.message);
    if let Some(remedy) = &fault.remedy {
        builder.set_remedy(remedy);
    }
}

/// `Err` with the peer's fault if there is one, or with ours if it can not be read.
///
/// A kind of a newer peer is taken for [`FaultKind::Failed`]: its message is worth more than ours.
pub fn check(reader: capnp::Result<fault::Reader<'_>>) -> Result<(), Fault> {
    let reader = crate::value::some("fault", reader)?;
    let kind = match reader.get_kind() {
        Ok(wire::FaultKind::None) => return Ok(()),
        Ok(kind) => kind_from_wire(kind),
        Err(capnp::NotInSchema(_)) => FaultKind::Failed,
    };
    let mut budget = TextBudget::default();
    let mut optional =
        |value| text("fault", value, &mut budget).map(|text| Some(text).filter(|t| !t.is_empty()));
    let message = optional(reader.get_message())?.unwrap_or_else(|| kind.as_str().to_owned());
    Err(Fault {
        kind,
        field: optional(reader.get_field())?,
        message,
        remedy: optional(reader.get_remedy())?,
    })
}

fn kind_to_wire(kind: FaultKind) -> wire::FaultKind {
    match kind {
        FaultKind::Invalid => wire::FaultKind::Invalid,
        FaultKind::Unsupported => wire::FaultKind::Unsupported,
        FaultKind::NotFound => wire::FaultKind::NotFound,
        FaultKind::Conflict => wire::FaultKind::Conflict,
        FaultKind::State => wire::FaultKind::State,
        FaultKind::Exhausted => wire::FaultKind::Exhausted,
        FaultKind::Denied => wire::FaultKind::Denied,
        FaultKind::Failed => wire::FaultKind::Failed,
        FaultKind::CommandNotFound => wire::FaultKind::CommandNotFound,
        FaultKind::CommandNotExecutable => wire::FaultKind::CommandNotExecutable,
        FaultKind::Unavailable => wire::FaultKind::Unavailable,
    }
}

fn kind_from_wire(kind: wire::FaultKind) -> FaultKind {
    match kind {
        wire::FaultKind::Invalid => FaultKind::Invalid,
        wire::FaultKind::Unsupported => FaultKind::Unsupported,
        wire::FaultKind::NotFound => FaultKind::NotFound,
        wire::FaultKind::Conflict => FaultKind::Conflict,
        wire::FaultKind::State => FaultKind::State,
        wire::FaultKind::Exhausted => FaultKind::Exhausted,
        wire::FaultKind::Denied => FaultKind::Denied,
        wire::FaultKind::None | wire::FaultKind::Failed => FaultKind::Failed,
        wire::FaultKind::CommandNotFound => FaultKind::CommandNotFound,
        wire::FaultKind::CommandNotExecutable => FaultKind::CommandNotExecutable,
        wire::FaultKind::Unavailable => FaultKind::Unavailable,
    }
}
