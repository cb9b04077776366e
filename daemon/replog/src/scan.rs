//! Reads a segment's sectors after a crash and tells three things apart (pure):
//!
//! - a **torn tail**: some sectors of the last batch are still zero. Its flush never returned, so nobody was told of it,
//!   and it is cut off;
//! - **damage**: a sector that is neither zero nor what was written, or a written one where none can be. It may have
//!   been promised to somebody, and is reported;
//! - whole batches, which count.
//!
//! A batch is written only after the flush of the one before has returned. So only the last may be torn.

use std::ops::Range;

use crate::batch;
use crate::sector::{PAYLOAD_BYTES, SECTOR_BYTES, Seal, Sector, sectors_for};

/// A batch that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    pub batch: u64,
    /// Its sectors.
    pub sectors: Range<u32>,
    /// Its bytes, without the sectors' trailers.
    pub stream: Vec<u8>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    pub whole: Vec<Whole>,
    /// The first sector that is free.
    pub end: u32,
    /// Sectors of a batch whose flush never returned. They have to be zeroed before anything is written there.
    pub torn: Option<Range<u32>>,
    /// Sectors that can't be trusted.
    pub damaged: Vec<Range<u32>>,
    /// The number that the next batch gets.
    pub next_batch: u64,
}

/// Scans `bytes`, the whole file, from sector 1. `first_batch` is the head's. `may_be_torn`: this is the last segment.
pub fn scan(seal: Seal, bytes: &[u8], first_batch: u64, may_be_torn: bool) -> Scan {
    let sectors: Vec<Sector> = (0u32..)
        .zip(bytes.chunks(SECTOR_BYTES))
        .map(|(number, sector)| seal.classify(number, sector))
        .collect();
    let mut scan = Scan {
        end: 1,
        next_batch: first_batch,
        ..Scan::default()
    };
    let mut at = 1;
    while at < sectors.len() {
        match one_batch(&sectors, bytes, at, scan.next_batch) {
            Step::Whole(whole) => {
                at = whole.sectors.end as usize;
                scan.end = whole.sectors.end;
                scan.next_batch = whole.batch + 1;
                scan.whole.push(whole);
            }
            Step::End => break,
            Step::Torn(range) if may_be_torn => {
                scan.torn = Some(range);
                break;
            }
            Step::Torn(range) | Step::Damaged(range) => {
                at = range.end as usize;
                scan.end = range.end;
                // What follows is numbered by itself: how many batches the damage holds is not known.
                if let Some(Sector::Written { batch, .. }) = sectors.get(at) {
                    scan.next_batch = *batch;
                }
                scan.damaged.push(range);
            }
        }
    }
    scan
}

enum Step {
    Whole(Whole),
    /// Nothing but zeros from here.
    End,
    Torn(Range<u32>),
    Damaged(Range<u32>),
}

fn one_batch(sectors: &[Sector], bytes: &[u8], at: usize, expected: u64) -> Step {
    let rest = &sectors[at..];
    if rest.iter().all(|sector| *sector == Sector::Empty) {
        return Step::End;
    }
    if let Some(whole) = whole_batch(sectors, bytes, at, expected) {
        return Step::Whole(whole);
    }
    // Torn is: this batch's sectors and zeros, in their places, and only zeros behind them.
    let torn = (0u32..).zip(rest).all(|(index, sector)| match sector {
        Sector::Empty => true,
        Sector::Written {
            batch,
            index: written,
        } => *batch == expected && *written == index,
        Sector::Damaged => false,
    });
    let last = rest
        .iter()
        .rposition(|sector| *sector != Sector::Empty)
        .unwrap_or(0);
    if torn && is_incomplete(sectors, bytes, at) {
        return Step::Torn(at as u32..(at + last + 1) as u32);
    }
    // Up to the next sector that begins a later batch.
    let length = rest
        .iter()
        .skip(1)
        .position(|sector| matches!(sector, Sector::Written { batch, index: 0 } if *batch > expected))
        .map_or(last + 1, |skipped| skipped + 1);
    Step::Damaged(at as u32..(at + length) as u32)
}

/// Whether a batch that begins at `at`, and whose written sectors are all in order, lacks some.
fn is_incomplete(sectors: &[Sector], bytes: &[u8], at: usize) -> bool {
    if sectors[at] == Sector::Empty {
        return true;
    }
    let head = &bytes[at * SECTOR_BYTES..at * SECTOR_BYTES + PAYLOAD_BYTES];
    let Some(total) = batch::stream_bytes(head) else {
        return false;
    };
    sectors[at..]
        .iter()
        .take(sectors_for(total))
        .any(|sector| *sector == Sector::Empty)
}

fn whole_batch(sectors: &[Sector], bytes: &[u8], at: usize, expected: u64) -> Option<Whole> {
    if sectors[at]
        != (Sector::Written {
            batch: expected,
            index: 0,
        })
    {
        return None;
    }
    let head = &bytes[at * SECTOR_BYTES..at * SECTOR_BYTES + PAYLOAD_BYTES];
    let total = batch::stream_bytes(head)?;
    let end = at.checked_add(sectors_for(total))?;
    let mine = sectors.get(at..end)?;
    let in_order = (0u32..).zip(mine).all(|(index, sector)| {
        *sector
            == Sector::Written {
                batch: expected,
                index,
            }
    });
    if !in_order {
        return None;
    }
    let mut stream = Vec::with_capacity(mine.len() * PAYLOAD_BYTES);
    for sector in bytes[at * SECTOR_BYTES..end * SECTOR_BYTES].chunks(SECTOR_BYTES) {
        stream.extend_from_slice(&sector[..PAYLOAD_BYTES]);
    }
    stream.truncate(total);
    // A checksummed stream that does not parse was written by a program with an error: no place to guess.
    batch::decode(&stream)?;
    Some(Whole {
        batch: expected,
        sectors: at as u32..end as u32,
        stream,
    })
}
