//! How a replica is.

use replog_core::{Position, ReplicaId};
use wire::replog_capnp::log_status;

use super::DecodeError;
use super::value::{get_ballot, get_membership, get_status, put_ballot, put_membership, put_status};
use crate::replica::ReplicaStatus;

pub fn encode_status(value: &ReplicaStatus, mut builder: log_status::Builder<'_>) {
    builder.set_replica(value.id.0);
    builder.set_status(put_status(value.status));
    builder.set_begin(value.begin.0);
    builder.set_learned(value.learned.0);
    builder.set_end(value.end.0);
    put_ballot(value.promised, builder.reborrow().init_promised());
    if let Some(writer) = value.writer {
        put_ballot(writer, builder.reborrow().init_writer());
    }
    if let Some(membership) = &value.membership {
        put_membership(membership, builder.reborrow().init_membership());
    }
    builder.set_halted(value.halted.as_deref().unwrap_or_default());
    builder.set_stalled(value.stalled.as_deref().unwrap_or_default());
}

pub fn decode_status(reader: log_status::Reader<'_>) -> Result<ReplicaStatus, DecodeError> {
    let halted = reader.get_halted()?.to_string()?;
    let stalled = reader.get_stalled()?.to_string()?;
    Ok(ReplicaStatus {
        id: ReplicaId(reader.get_replica()),
        status: get_status(reader.get_status())?,
        begin: Position(reader.get_begin()),
        learned: Position(reader.get_learned()),
        end: Position(reader.get_end()),
        promised: get_ballot(reader.get_promised()?),
        writer: if reader.has_writer() {
            Some(get_ballot(reader.get_writer()?))
        } else {
            None
        },
        membership: if reader.has_membership() {
            Some(get_membership(reader.get_membership()?)?)
        } else {
            None
        },
        halted: (!halted.is_empty()).then_some(halted),
        stalled: (!stalled.is_empty()).then_some(stalled),
    })
}
