//! The index of a segment that is full: which positions it holds and where, so that a start reads these instead of
//! every byte. Only a help: without it, or when it is damaged, the segment itself is scanned.

use crate::sector::Seal;
use crate::segment::SegmentNumber;

const MAGIC: &[u8; 8] = b"bulkidx\n";
const HEAD_BYTES: usize = 48;
const PLACE_BYTES: usize = 24;

const VALUE: u8 = 1;
const MARK: u8 = 2;
const CUT: u8 = 3;

/// An entry of the segment, in the order of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `sector` begins the batch, `offset` and `length` are bytes in its stream.
    Value {
        position: u64,
        flags: u8,
        sector: u32,
        offset: u32,
        length: u32,
    },
    Mark {
        from: u64,
        to: u64,
        flags: u8,
    },
    Cut(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The number after the segment's last batch.
    pub next_batch: u64,
    pub places: Vec<Place>,
}

impl Index {
    pub fn encode(&self, store: u128, segment: SegmentNumber) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES + self.places.len() * PLACE_BYTES + 4);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&crate::segment::FORMAT.to_le_bytes());
        out.extend_from_slice(&(self.places.len() as u32).to_le_bytes());
        out.extend_from_slice(&segment.0.to_le_bytes());
        out.extend_from_slice(&store.to_le_bytes());
        out.extend_from_slice(&self.next_batch.to_le_bytes());
        for place in &self.places {
            let (kind, flags, length, a, b) = match *place {
                Place::Value {
                    position,
                    flags,
                    sector,
                    offset,
                    length,
                } => (
                    VALUE,
                    flags,
                    length,
                    position,
                    u64::from(sector) << 32 | u64::from(offset),
                ),
                Place::Mark { from, to, flags } => (MARK, flags, 0, from, to),
                Place::Cut(position) => (CUT, 0, 0, position, 0),
            };
            out.extend_from_slice(&[kind, flags, 0, 0]);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&a.to_le_bytes());
            out.extend_from_slice(&b.to_le_bytes());
        }
        let checksum = crc32fast::hash(&out);
        out.extend_from_slice(&checksum.to_le_bytes());
        out
    }

    /// `None`: not an index of this segment of this store, or damaged.
    pub fn decode(bytes: &[u8], store: u128, segment: SegmentNumber) -> Option<Self> {
        let (content, checksum) = bytes.split_last_chunk::<4>()?;
        let head = content.get(..HEAD_BYTES)?;
        let (count, rest) = (u32_at(head, 12), &content[HEAD_BYTES..]);
        let ours = &head[..8] == MAGIC
            && u32_at(head, 8) == crate::segment::FORMAT
            && u64_at(head, 16) == segment.0
            && u128::from(u64_at(head, 24)) | u128::from(u64_at(head, 32)) << 64 == store;
        if !ours
            || rest.len() != count as usize * PLACE_BYTES
            || u32::from_le_bytes(*checksum) != crc32fast::hash(content)
        {
            return None;
        }
        let mut places = Vec::with_capacity(count as usize);
        for place in rest.chunks_exact(PLACE_BYTES) {
            let (flags, length, a, b) = (place[1], u32_at(place, 4), u64_at(place, 8), u64_at(place, 16));
            places.push(match place[0] {
                VALUE => Place::Value {
                    position: a,
                    flags,
                    sector: (b >> 32) as u32,
                    offset: b as u32,
                    length,
                },
                CUT => Place::Cut(a),
                MARK => Place::Mark {
                    from: a,
                    to: b,
                    flags,
                },
                _ => return None,
            });
        }
        Some(Self {
            next_batch: u64_at(head, 40),
            places,
        })
    }
}

/// Where the value at `offset` of the batch at `sector` lies in the file: its first sector, the number of sectors, and
/// how many bytes of the first are before it.
pub fn extent(sector: u32, offset: u32, length: u32) -> (u32, u32, usize) {
    let payload = crate::sector::PAYLOAD_BYTES as u32;
    let before = offset % payload;
    let sectors = (before + length).div_ceil(payload).max(1);
    (sector + offset / payload, sectors, before as usize)
}

/// Puts the bytes of a value, out of its sectors, each checked, into `value`. `Err`: the first sector that is not as it was
/// written.
pub fn unwrap_value(
    seal: Seal,
    bytes: &[u8],
    extent: (u32, u32, usize),
    length: u32,
    value: &mut Vec<u8>,
) -> Result<(), u32> {
    use crate::sector::{PAYLOAD_BYTES, SECTOR_BYTES, Sector};
    let (first, _, before) = extent;
    value.clear();
    let mut previous = None;
    let mut skip = before;
    for (number, sector) in (first..).zip(bytes.chunks(SECTOR_BYTES)) {
        let Sector::Written { batch, index } = seal.classify(number, sector) else {
            return Err(number);
        };
        if previous.is_some_and(|(of, before)| of != batch || index != before + 1) {
            return Err(number);
        }
        previous = Some((batch, index));
        let payload = &sector[skip.min(PAYLOAD_BYTES)..PAYLOAD_BYTES];
        let left = (length as usize).saturating_sub(value.len());
        value.extend_from_slice(&payload[..left.min(payload.len())]);
        skip = 0;
    }
    if value.len() == length as usize {
        Ok(())
    } else {
        Err(first)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..]
        .first_chunk::<4>()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..]
        .first_chunk::<8>()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
