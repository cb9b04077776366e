//! A sector: 512 bytes that a disk writes whole or not at all. Each carries its own checksum, so that after a crash
//! one that was never written (zeros) differs from one that was written and has changed since.
//!
//! ```text
//! 0            496       504       508       512
//! ┌─────────────┬─────────┬─────────┬─────────┐
//! │ payload     │ batch   │ index   │ crc32   │   little endian
//! └─────────────┴─────────┴─────────┴─────────┘
//! ```
//!
//! `batch` counts from 1 over the life of the store, `index` is the sector's place in its batch. The checksum covers
//! also the store, the segment and the sector's own number: a sector that landed in a wrong place is damage.

/// What disks promise to write at once.
pub const SECTOR_BYTES: usize = 512;
/// Of these, what a batch can use.
pub const PAYLOAD_BYTES: usize = 496;

/// Makes checksums of one segment of one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    seed: u32,
}

impl Seal {
    /// The seal of segment `segment` of store `store`.
    pub fn new(store: u128, segment: u64) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&store.to_le_bytes());
        hasher.update(&segment.to_le_bytes());
        Self {
            seed: hasher.finalize(),
        }
    }

    fn checksum(self, number: u32, content: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.seed);
        hasher.update(&number.to_le_bytes());
        hasher.update(content);
        hasher.finalize()
    }

    /// Appends to `out` the sectors that hold `stream` as batch `batch`, the first being sector `first` of the segment.
    pub fn write(self, out: &mut Vec<u8>, first: u32, batch: u64, stream: &[u8]) {
        for (index, payload) in stream.chunks(PAYLOAD_BYTES).enumerate() {
            let index = index as u32;
            let start = out.len();
            out.extend_from_slice(payload);
            out.resize(start + PAYLOAD_BYTES, 0);
            out.extend_from_slice(&batch.to_le_bytes());
            out.extend_from_slice(&index.to_le_bytes());
            let checksum = self.checksum(first + index, &out[start..]);
            out.extend_from_slice(&checksum.to_le_bytes());
        }
    }

    /// What sector `number` is, by its 512 bytes.
    pub fn classify(self, number: u32, sector: &[u8]) -> Sector {
        let Some((content, checksum)) = sector.split_last_chunk::<4>() else {
            return Sector::Damaged;
        };
        if sector.len() != SECTOR_BYTES {
            return Sector::Damaged;
        }
        if u32::from_le_bytes(*checksum) == self.checksum(number, content) {
            let batch = word(&content[PAYLOAD_BYTES..]);
            let index = u32::from_le_bytes([content[504], content[505], content[506], content[507]]);
            // Zero is no batch: a sector of zeros whose checksum happened to be zero would be "empty", not this.
            if batch != 0 {
                return Sector::Written { batch, index };
            }
        }
        if sector.iter().all(|byte| *byte == 0) {
            Sector::Empty
        } else {
            Sector::Damaged
        }
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk::<8>()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Sectors that `bytes` of a batch's stream need.
pub fn sectors_for(bytes: usize) -> usize {
    bytes.div_ceil(PAYLOAD_BYTES)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sector {
    /// All zeros: never written.
    Empty,
    /// As it was written: sector `index` of batch `batch`.
    Written { batch: u64, index: u32 },
    /// Neither: it was written and is no longer what was written.
    Damaged,
}
