//! The registrar's records as entries of the replicated log.
//!
//! ```text
//! 0        4         6      8       10         12       16
//! | magic  | version | part | parts | reserved | crc32  | sequence | capnp message, or a part of it |
//! ```
//!
//! All numbers are little endian; the checksum covers everything but itself. A log takes entries of at most 1 MiB, and a
//! snapshot can be larger: a record is one or several parts, which follow each other, and counts when its last one is there.
//! What a leader left incomplete was never answered, and is passed over.
//!
//! Fields may be added; ordinals, types and defaults never change (`tests/fixtures/registry-v*`).

mod get;
mod put;
mod resources;

pub(crate) use get::agent as get_agent;
pub(crate) use put::agent as put_agent;

use capnp::message::{Builder, ReaderOptions};
use model::Fault;
use model::registry::Record;

use crate::bounds::TextBudget;
use crate::registry_capnp::record;

/// Grows when an older program could misread a newer record; new optional fields do not need it.
pub const FORMAT_VERSION: u16 = 1;

const MAGIC: [u8; 4] = *b"BHrg";
const HEADER_BYTES: usize = 24;
/// Of one entry, without its header.
const PART_BYTES: usize = 512 << 10;
/// A record in all its parts: a hundred thousand agents with twenty attributes each take about half of it.
pub const RECORD_BYTES_MAX: usize = 256 << 20;
/// Deepest: record, edit, framework or agent, resource, reservation, label, text. Twice that.
const NESTING_MAX: i32 = 16;

/// Why an entry of the log is none of a registry that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    #[error("it is no entry of a registry: somebody else writes to this log")]
    Foreign,
    #[error(
        "it has format {found}, this program knows format {FORMAT_VERSION}; use the newer program that wrote it"
    )]
    UnknownVersion { found: u16 },
    #[error("it is damaged: checksum {found:08x}, {computed:08x} computed")]
    Checksum { found: u32, computed: u32 },
    #[error("it is damaged: part {part} of {parts}")]
    Part { part: u16, parts: u16 },
    #[error("the record has more than {RECORD_BYTES_MAX} bytes")]
    TooLarge,
    #[error("it is malformed: {reason}")]
    Malformed { reason: String },
    #[error("it holds an invalid value: {0}")]
    Invalid(Fault),
}

/// The entries that `record` is, in their order.
pub fn encode(record: &Record) -> Vec<Vec<u8>> {
    encode_parts(record, PART_BYTES)
}

/// [`encode`] with parts of another size.
pub fn encode_parts(record: &Record, part_bytes: usize) -> Vec<Vec<u8>> {
    let mut message = Builder::new_default();
    put::record(record, message.init_root());
    let bytes = capnp::serialize::write_message_to_words(&message);
    let part_bytes = part_bytes.max(bytes.len().div_ceil(usize::from(u16::MAX))).max(1);
    let chunks: Vec<_> = bytes.chunks(part_bytes).collect();
    (0..)
        .zip(&chunks)
        .map(|(part, chunk)| frame(part, chunks.len() as u16, record.sequence(), chunk))
        .collect()
}

fn frame(part: u16, parts: u16, sequence: u64, chunk: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + chunk.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&part.to_le_bytes());
    out.extend_from_slice(&parts.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&sequence.to_le_bytes());
    out.extend_from_slice(chunk);
    let crc = checksum(&out);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Of all but the checksum's own place.
fn checksum(entry: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&entry[..12]);
    hasher.update(&entry[16..]);
    hasher.finalize()
}

/// Puts parts together again.
#[derive(Debug, Default)]
pub struct Assembler {
    begun: Option<Begun>,
}

#[derive(Debug)]
struct Begun {
    sequence: u64,
    next: u16,
    parts: u16,
    bytes: Vec<u8>,
}

impl Assembler {
    /// The next entry of the log. `None`: the record goes on with the next one.
    pub fn push(&mut self, entry: &[u8]) -> Result<Option<Record>, RegistryError> {
        let part = Part::read(entry)?;
        if part.number == 0 {
            // What another leader began, and did not end, is no record.
            self.begun = Some(Begun {
                sequence: part.sequence,
                next: 0,
                parts: part.parts,
                bytes: Vec::new(),
            });
        }
        let follows = |begun: &Begun| {
            begun.sequence == part.sequence && begun.next == part.number && begun.parts == part.parts
        };
        let Some(begun) = self.begun.as_mut().filter(|begun| follows(begun)) else {
            return Err(RegistryError::Part {
                part: part.number,
                parts: part.parts,
            });
        };
        if begun.bytes.len() + part.bytes.len() > RECORD_BYTES_MAX {
            return Err(RegistryError::TooLarge);
        }
        begun.bytes.extend_from_slice(part.bytes);
        begun.next += 1;
        if begun.next < begun.parts {
            return Ok(None);
        }
        let bytes = self.begun.take().map(|begun| begun.bytes).unwrap_or_default();
        let record = decode_message(&bytes)?;
        if record.sequence() != part.sequence {
            let reason = format!("sequence {} in entry {}", record.sequence(), part.sequence);
            return Err(RegistryError::Malformed { reason });
        }
        Ok(Some(record))
    }

    /// Whether the last record lacks its end.
    pub fn is_incomplete(&self) -> bool {
        self.begun.is_some()
    }
}

struct Part<'a> {
    number: u16,
    parts: u16,
    sequence: u64,
    bytes: &'a [u8],
}

impl<'a> Part<'a> {
    fn read(entry: &'a [u8]) -> Result<Self, RegistryError> {
        let Some((header, bytes)) = entry.split_first_chunk::<HEADER_BYTES>() else {
            return Err(RegistryError::Foreign);
        };
        let [
            m0,
            m1,
            m2,
            m3,
            v0,
            v1,
            n0,
            n1,
            p0,
            p1,
            _,
            _,
            c0,
            c1,
            c2,
            c3,
            rest @ ..,
        ] = *header;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(RegistryError::Foreign);
        }
        // Before the checksum: a later format may compute it otherwise.
        let found = u16::from_le_bytes([v0, v1]);
        if found != FORMAT_VERSION {
            return Err(RegistryError::UnknownVersion { found });
        }
        let found = u32::from_le_bytes([c0, c1, c2, c3]);
        let computed = checksum(entry);
        if found != computed {
            return Err(RegistryError::Checksum { found, computed });
        }
        let (number, parts) = (u16::from_le_bytes([n0, n1]), u16::from_le_bytes([p0, p1]));
        if number >= parts {
            return Err(RegistryError::Part { part: number, parts });
        }
        Ok(Self {
            number,
            parts,
            sequence: u64::from_le_bytes(rest),
            bytes,
        })
    }
}

/// The message of a record, whole.
pub fn decode_message(mut bytes: &[u8]) -> Result<Record, RegistryError> {
    let malformed = |error: capnp::Error| RegistryError::Malformed {
        reason: error.to_string(),
    };
    let mut options = ReaderOptions::new();
    // Every part is read once; empty lists cost a little on top.
    options
        .traversal_limit_in_words(Some(bytes.len() / 8 * 2 + 1024))
        .nesting_limit(NESTING_MAX);
    let budget = &mut TextBudget::of(bytes.len());
    let message = capnp::serialize::read_message(&mut bytes, options).map_err(malformed)?;
    let root = message.get_root::<record::Reader<'_>>().map_err(malformed)?;
    get::record(root, budget).map_err(RegistryError::Invalid)
}
