//! A segment: a file of fixed length, whose first sector says whose it is.
//!
//! ```text
//! sector 0   magic · format u32 · sectors u32 · segment u64 · store u128 · first batch u64 · crc32, the rest zero
//! sector 1…  batches, each from a sector of its own
//! ```

use std::fmt;
use std::io;

use crate::directory::File;
use crate::sector::SECTOR_BYTES;

/// The version of this layout.
pub const FORMAT: u32 = 1;

/// The smallest segment: head, copy, and room for something.
pub const SECTORS_MIN: u32 = 16;

const MAGIC: &[u8; 8] = b"bulklog\n";
const HEAD_BYTES: usize = 48;

/// The number of a segment, growing by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNumber(pub u64);

impl SegmentNumber {
    pub fn file_name(self) -> String {
        format!("{:016x}.segment", self.0)
    }

    pub fn index_name(self) -> String {
        format!("{:016x}.index", self.0)
    }

    /// The number in a name of a segment file.
    pub fn of_file(name: &str) -> Option<Self> {
        let digits = name.strip_suffix(".segment")?;
        let number = u64::from_str_radix(digits, 16).ok()?;
        // Only the spelling that we write: two names for one number would be two files for it.
        (Self(number).file_name() == name).then_some(Self(number))
    }

    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for SegmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The first sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub format: u32,
    /// Sectors of the file, this one included.
    pub sectors: u32,
    pub segment: SegmentNumber,
    pub store: u128,
    /// The number of the batch that sector 1 begins.
    pub first_batch: u64,
}

impl Head {
    pub fn encode(&self) -> [u8; SECTOR_BYTES] {
        let mut out = [0; SECTOR_BYTES];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&self.format.to_le_bytes());
        out[12..16].copy_from_slice(&self.sectors.to_le_bytes());
        out[16..24].copy_from_slice(&self.segment.0.to_le_bytes());
        out[24..40].copy_from_slice(&self.store.to_le_bytes());
        out[40..48].copy_from_slice(&self.first_batch.to_le_bytes());
        let checksum = crc32fast::hash(&out[..HEAD_BYTES]);
        out[HEAD_BYTES..HEAD_BYTES + 4].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    /// `None`: this is no such sector, or no longer.
    pub fn decode(sector: &[u8]) -> Option<Self> {
        let head = sector.get(..HEAD_BYTES)?;
        let checksum = u32::from_le_bytes(*sector.get(HEAD_BYTES..)?.first_chunk::<4>()?);
        let rest_is_zero = sector
            .get(HEAD_BYTES + 4..SECTOR_BYTES)?
            .iter()
            .all(|byte| *byte == 0);
        if &head[..8] != MAGIC || checksum != crc32fast::hash(head) || !rest_is_zero {
            return None;
        }
        Some(Self {
            format: u32::from_le_bytes(*head[8..].first_chunk()?),
            sectors: u32::from_le_bytes(*head[12..].first_chunk()?),
            segment: SegmentNumber(u64::from_le_bytes(*head[16..].first_chunk()?)),
            store: u128::from_le_bytes(*head[24..].first_chunk()?),
            first_batch: u64::from_le_bytes(*head[40..].first_chunk()?),
        })
    }
}

/// The head of a segment, or its copy in the last sector; and whether both are good.
pub(crate) fn read_head(bytes: &[u8]) -> Option<(Head, bool)> {
    let (first, _) = bytes.split_first_chunk::<SECTOR_BYTES>()?;
    let (_, copy) = bytes.split_last_chunk::<SECTOR_BYTES>()?;
    choose_head(bytes.len() as u64, first, copy)
}

/// [`read_head`] without reading what is between.
pub(crate) fn read_head_of(file: &impl File) -> io::Result<Option<(Head, bool)>> {
    let length = file.length()?;
    if length < 2 * SECTOR_BYTES as u64 {
        return Ok(None);
    }
    let (mut first, mut copy) = ([0; SECTOR_BYTES], [0; SECTOR_BYTES]);
    file.read_at(&mut first, 0)?;
    file.read_at(&mut copy, length - SECTOR_BYTES as u64)?;
    Ok(choose_head(length, &first, &copy))
}

fn choose_head(length: u64, first: &[u8], copy: &[u8]) -> Option<(Head, bool)> {
    let fits =
        |head: &Head| head.sectors >= SECTORS_MIN && u64::from(head.sectors) * SECTOR_BYTES as u64 == length;
    let first = Head::decode(first).filter(fits);
    let copy = Head::decode(copy).filter(fits);
    match (first, copy) {
        (Some(first), copy) => Some((first, copy == Some(first))),
        (None, Some(copy)) => Some((copy, false)),
        (None, None) => None,
    }
}
