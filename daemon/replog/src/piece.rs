//! Values to be read: which sectors of which files, known when the store was asked, so that reading needs no more of it.
//!
//! Neighbours are read at once. A file that is removed meanwhile stays readable, and a place is written once only.

use std::sync::Arc;

use crate::directory::{Aligned, File};
use crate::error::StoreError;
use crate::index;
use crate::sector::{SECTOR_BYTES, Seal};
use crate::segment::SegmentNumber;
use crate::store::Slot;

/// Sectors that are read at once.
const RUN_SECTORS: u32 = (1 << 20) / SECTOR_BYTES as u32;
/// Sectors of no use that are read along rather than to read twice.
const GAP_SECTORS: u32 = 32;

/// See the module.
pub struct Piece<F> {
    store: u128,
    runs: Vec<Run<F>>,
}

struct Run<F> {
    file: Arc<F>,
    segment: SegmentNumber,
    first: u32,
    end: u32,
    values: Vec<(u64, Slot)>,
}

impl<F: File> Piece<F> {
    pub(crate) fn new(store: u128) -> Self {
        Self {
            store,
            runs: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, position: u64, slot: &Slot, file: &Arc<F>) {
        let (first, sectors, _) = index::extent(slot.sector, slot.offset, slot.length);
        let end = first + sectors;
        if let Some(run) = self.runs.last_mut()
            && run.segment == slot.segment
            && first >= run.first
            && first <= run.end + GAP_SECTORS
            && end - run.first <= RUN_SECTORS
        {
            run.end = run.end.max(end);
            run.values.push((position, *slot));
            return;
        }
        self.runs.push(Run {
            file: Arc::clone(file),
            segment: slot.segment,
            first,
            end,
            values: vec![(position, *slot)],
        });
    }

    /// Gives the values in their order until `take` wants no more. Every sector of them is checked.
    pub fn read(&self, mut take: impl FnMut(u64, Result<&[u8], StoreError>) -> bool) {
        let mut memory = Aligned::default();
        let mut value = Vec::new();
        for run in &self.runs {
            let seal = Seal::new(self.store, run.segment.0);
            let length = (run.end - run.first) as usize * SECTOR_BYTES;
            memory.clear(length);
            memory.resize(length);
            let bytes = memory.bytes_mut();
            let at = u64::from(run.first) * SECTOR_BYTES as u64;
            let whole = run.file.read_at(bytes, at).is_ok();
            for (position, slot) in &run.values {
                let extent = index::extent(slot.sector, slot.offset, slot.length);
                let from = (extent.0 - run.first) as usize * SECTOR_BYTES;
                let own = &mut bytes[from..from + extent.1 as usize * SECTOR_BYTES];
                // One bad place of a disk must not take its neighbours along.
                let read = if whole {
                    Ok(())
                } else {
                    run.file.read_at(own, u64::from(extent.0) * SECTOR_BYTES as u64)
                };
                let name = || run.segment.file_name();
                let found = read.map_err(|error| StoreError::io("read", &name())(error));
                let found = found.and_then(|()| {
                    index::unwrap_value(seal, own, extent, slot.length, &mut value).map_err(|sector| {
                        StoreError::Rotten {
                            position: *position,
                            file: name(),
                            sector,
                        }
                    })
                });
                if !take(*position, found.map(|()| value.as_slice())) {
                    return;
                }
            }
        }
    }
}
