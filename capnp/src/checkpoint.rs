//! A checkpoint as bytes in a file.
//!
//! ```text
//! 0        4         6          8        12       16
//! | magic  | version | reserved | length | crc32  | capnp message, `length` bytes |
//! ```
//!
//! All numbers are little endian. The checksum covers everything but itself, so a torn write, a
//! flipped bit and a file of another kind are told apart from a record of a newer program. Decoding
//! never panics and never guesses: a damaged checkpoint is an error for the agent to report.

use model::{Checkpoint, Fault, KeptDescriptor, LaunchSpec, ProcessIdentity};

use crate::bounds::{KEPT_DESCRIPTORS_MAX, TextBudget, check_length};
use crate::checkpoint_capnp::checkpoint::{self, killing};
use crate::container::{
    encode_termination, read_termination, reason_from_wire, reason_to_wire, state_from_wire, state_to_wire,
};
use crate::value::{container_id, optional_number, optional_path, path, some, text, unknown, within};
use crate::{launch, limits};

/// Grows when an older agent could misread a newer record; new optional fields do not need it.
pub const FORMAT_VERSION: u16 = 1;

const MAGIC: [u8; 4] = *b"BHck";
const HEADER_BYTES: usize = 16;
/// Two thirds of it are texts at most (`TEXT_BYTES_MAX`); the rest are pointers and numbers.
const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Deepest: checkpoint, spec, limits, device list, device, number. Twice that.
const NESTING_MAX: i32 = 12;

/// Why a file is not a checkpoint that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    #[error("the checkpoint is damaged")]
    Corrupt(#[source] Damage),
    #[error("the checkpoint has format {found}, this program knows format {FORMAT_VERSION}")]
    UnknownVersion { found: u16 },
    /// Intact, but a value in it is not valid here.
    #[error("the checkpoint holds an invalid value")]
    Invalid(#[source] Fault),
}

/// What is wrong with the bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("{found} bytes long, {expected} expected")]
    Length { found: usize, expected: usize },
    #[error("begins with {found:02x?}, not with \"BHck\"")]
    Magic { found: [u8; 4] },
    #[error("checksum {found:08x}, {computed:08x} computed")]
    Checksum { found: u32, computed: u32 },
    #[error("message of {bytes} bytes, {MESSAGE_BYTES_MAX} are allowed")]
    TooLarge { bytes: usize },
    #[error("malformed message: {reason}")]
    Message { reason: String },
}

pub fn encode(checkpoint: &Checkpoint) -> Vec<u8> {
    let mut message = capnp::message::Builder::new_default();
    write(checkpoint, message.init_root());
    let payload = capnp::serialize::write_message_to_words(&message);
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    let crc = checksum(&bytes, &payload);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&payload);
    bytes
}

pub fn decode(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let payload = open(bytes)?;
    let malformed = |error: capnp::Error| {
        CheckpointError::Corrupt(Damage::Message {
            reason: error.to_string(),
        })
    };
    let mut options = capnp::message::ReaderOptions::new();
    options
        .traversal_limit_in_words(Some(MESSAGE_BYTES_MAX / 8))
        .nesting_limit(NESTING_MAX);
    let mut rest = payload;
    let message = capnp::serialize::read_message(&mut rest, options).map_err(malformed)?;
    let root = message.get_root::<checkpoint::Reader<'_>>().map_err(malformed)?;
    read(root).map_err(CheckpointError::Invalid)
}

/// Takes the frame off.
fn open(bytes: &[u8]) -> Result<&[u8], CheckpointError> {
    let corrupt = |damage| Err(CheckpointError::Corrupt(damage));
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return corrupt(Damage::Length {
            found: bytes.len(),
            expected: HEADER_BYTES,
        });
    };
    let [m0, m1, m2, m3, v0, v1, _, _, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    if [m0, m1, m2, m3] != MAGIC {
        return corrupt(Damage::Magic {
            found: [m0, m1, m2, m3],
        });
    }
    // Before the checksum: a later format may compute it otherwise. A flipped bit here is told as a
    // foreign version, and the agent leaves such a file alone either way.
    let version = u16::from_le_bytes([v0, v1]);
    if version != FORMAT_VERSION {
        return Err(CheckpointError::UnknownVersion { found: version });
    }
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > MESSAGE_BYTES_MAX {
        return corrupt(Damage::TooLarge { bytes: length });
    }
    if payload.len() != length {
        return corrupt(Damage::Length {
            found: bytes.len(),
            expected: HEADER_BYTES + length,
        });
    }
    let found = u32::from_le_bytes([c0, c1, c2, c3]);
    let computed = checksum(&header[..HEADER_BYTES - 4], payload);
    if found != computed {
        return corrupt(Damage::Checksum { found, computed });
    }
    Ok(payload)
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(payload);
    hasher.finalize()
}

fn write(checkpoint: &Checkpoint, mut builder: checkpoint::Builder<'_>) {
    builder.set_instance(&checkpoint.instance);
    builder.set_id(checkpoint.id.as_str());
    launch::encode(&checkpoint.spec, builder.reborrow().init_spec());
    builder.set_state(state_to_wire(checkpoint.state));
    limits::encode(&checkpoint.limits, builder.reborrow().init_limits());
    if let Some(updating) = &checkpoint.updating {
        limits::encode(updating, builder.reborrow().init_updating());
    }
    if let Some(init) = &checkpoint.init {
        let mut identity = builder.reborrow().init_init();
        identity.set_pid(init.pid);
        identity.set_start_time(init.start_time);
        identity.set_boot_id(&init.boot_id);
    }
    let mut kept = builder.reborrow().init_kept(checkpoint.kept.len() as u32);
    for (index, descriptor) in checkpoint.kept.iter().enumerate() {
        let mut entry = kept.reborrow().get(index as u32);
        entry.set_name(&descriptor.name);
        entry.set_number(descriptor.number);
    }
    if let Some(sandbox) = &checkpoint.sandbox {
        builder.set_sandbox(path(sandbox));
    }
    builder.set_start_marked(checkpoint.start_marked);
    builder.set_created_at_ms(checkpoint.created_at_ms);
    if let Some(at) = checkpoint.started_at_ms {
        builder.reborrow().init_started_at_ms().set_value(at);
    }
    if let Some(reason) = checkpoint.killing {
        builder
            .reborrow()
            .init_killing()
            .set_reason(reason_to_wire(reason));
    }
    if let Some(at) = checkpoint.kill_at_ms {
        builder.reborrow().init_kill_at_ms().set_value(at);
    }
    if let Some(slot) = checkpoint.network_slot {
        builder.reborrow().init_network_slot().set_value(slot.into());
    }
    if let Some(termination) = &checkpoint.termination {
        encode_termination(termination, builder.init_termination());
    }
}

fn read(reader: checkpoint::Reader<'_>) -> Result<Checkpoint, Fault> {
    let budget = &mut TextBudget::default();
    let spec: LaunchSpec =
        launch::decode(some("spec", reader.get_spec())?).map_err(|fault| within(fault, "spec"))?;
    Ok(Checkpoint {
        instance: text("instance", reader.get_instance(), budget)?,
        id: container_id("id", reader.get_id(), budget)?,
        spec,
        state: state_from_wire("state", reader.get_state())?,
        limits: limits::read(some("limits", reader.get_limits())?, budget)
            .map_err(|fault| within(fault, "limits"))?,
        updating: match reader.has_updating() {
            false => None,
            true => Some(
                limits::read(some("updating", reader.get_updating())?, budget)
                    .map_err(|fault| within(fault, "updating"))?,
            ),
        },
        init: read_identity(reader, budget)?,
        network_slot: optional_number("network_slot", reader.get_network_slot())?
            .map(u32::try_from)
            .transpose()
            .map_err(|error| Fault::invalid("network_slot", error.to_string()))?,
        start_marked: reader.get_start_marked(),
        kept: read_kept(reader, budget)?,
        sandbox: optional_path("sandbox", reader.get_sandbox(), budget)?,
        created_at_ms: reader.get_created_at_ms(),
        started_at_ms: optional_number("started_at_ms", reader.get_started_at_ms())?,
        killing: match reader.get_killing().which() {
            Ok(killing::No(())) => None,
            Ok(killing::Reason(reason)) => Some(reason_from_wire("killing", reason)?),
            Err(new) => return Err(unknown("killing", new)),
        },
        kill_at_ms: optional_number("kill_at_ms", reader.get_kill_at_ms())?,
        termination: read_termination(reader.has_termination(), || reader.get_termination(), budget)?,
    })
}

fn read_identity(
    reader: checkpoint::Reader<'_>,
    budget: &mut TextBudget,
) -> Result<Option<ProcessIdentity>, Fault> {
    if !reader.has_init() {
        return Ok(None);
    }
    let identity = some("init", reader.get_init())?;
    Ok(Some(ProcessIdentity {
        pid: identity.get_pid(),
        start_time: identity.get_start_time(),
        boot_id: text("init.boot_id", identity.get_boot_id(), budget)?,
    }))
}

fn read_kept(reader: checkpoint::Reader<'_>, budget: &mut TextBudget) -> Result<Vec<KeptDescriptor>, Fault> {
    let list = some("kept", reader.get_kept())?;
    check_length("kept", list.len() as usize, KEPT_DESCRIPTORS_MAX)?;
    let mut kept = Vec::with_capacity(list.len() as usize);
    for entry in list {
        kept.push(KeptDescriptor {
            name: text("kept.name", entry.get_name(), budget)?,
            number: entry.get_number(),
        });
    }
    Ok(kept)
}
