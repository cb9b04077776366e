//! Segments come and go: the next one is begun, one that is full gets its index, those that hold nothing are removed,
//! and a damaged one is written anew without its damage.

use std::io::ErrorKind;
use std::sync::Arc;

use crate::batch::{self, Entry};
use crate::directory::{Directory, File};
use crate::error::StoreError;
use crate::index::{Index, Place};
use crate::scan;
use crate::sector::{SECTOR_BYTES, Seal};
use crate::segment::{FORMAT, Head, SegmentNumber, read_head};
use crate::store::{Damage, Part, Recovered, Store};

/// A segment's worth of zeros, made ahead so that no append has to wait for it.
const SPARE: &str = "spare";

impl<D: Directory> Store<D> {
    /// Bytes of the next segment that should be there by now: all of them when three quarters of the active one are used.
    pub fn spare_due(&self) -> u64 {
        let used = u64::from(self.end) * SECTOR_BYTES as u64;
        // Whole blocks of any disk: what is not goes through the page cache.
        (used * 4 / 3 / BLOCK_BYTES * BLOCK_BYTES).min(self.segment_bytes())
    }

    /// The one that is written to.
    pub fn active_segment(&self) -> SegmentNumber {
        self.active
    }

    /// What makes the next segment's file while others write to this one.
    pub fn spare_maker(&self) -> SpareMaker<D>
    where
        D: Clone,
    {
        SpareMaker {
            directory: self.directory.clone(),
            bytes: self.segment_bytes(),
            made: 0,
        }
    }

    fn segment_bytes(&self) -> u64 {
        u64::from(self.options.sectors()) * SECTOR_BYTES as u64
    }

    fn take_spare(&self) -> Result<D::File, StoreError> {
        let bytes = self.segment_bytes();
        match self.directory.open(SPARE).and_then(|file| file.length()) {
            Ok(length) if length == bytes => {
                self.directory
                    .rename(SPARE, "next.tmp")
                    .map_err(StoreError::io("rename", SPARE))?;
                self.directory
                    .open("next.tmp")
                    .map_err(StoreError::io("open", "next.tmp"))
            }
            // Made with other options.
            Ok(_) => {
                self.directory
                    .remove(SPARE)
                    .map_err(StoreError::io("remove", SPARE))?;
                allocate(&self.directory, "next.tmp", bytes)
            }
            Err(_) => allocate(&self.directory, "next.tmp", bytes),
        }
    }

    /// Begins segment `number` and makes it the active one. Its first batch repeats what belongs to no position, so
    /// that segments before can go.
    pub(crate) fn roll_to(&mut self, number: SegmentNumber) -> Result<(), StoreError> {
        let file = self.take_spare()?;
        let sectors = self.options.sectors();
        let head = Head {
            format: FORMAT,
            sectors,
            segment: number,
            store: self.id,
            first_batch: self.next_batch,
        };
        let stream = batch::encode(&self.snapshot());
        let mut buffer = head.encode().to_vec();
        Seal::new(self.id, number.0).write(&mut buffer, 1, self.next_batch, &stream);
        let end = (buffer.len() / SECTOR_BYTES) as u32;
        let name = number.file_name();
        file.write_at(&buffer, 0)
            .map_err(StoreError::io("begin", &name))?;
        file.write_at(&head.encode(), u64::from(sectors - 1) * SECTOR_BYTES as u64)
            .map_err(StoreError::io("begin", &name))?;
        file.sync().map_err(StoreError::io("flush", &name))?;
        if let Err(source) = self.directory.rename("next.tmp", &name) {
            // It may have happened all the same, and then nothing may be written to the segment before.
            let error = StoreError::io("rename to", &name)(source);
            self.stopped = Some(error.to_string());
            return Err(error);
        }
        if self.parts.contains_key(&self.active) {
            self.write_index(self.active);
        }
        self.places.clear();
        self.parts.insert(
            number,
            Part {
                file: Arc::new(file),
                live: 0,
            },
        );
        self.active = number;
        self.sectors = sectors;
        self.end = end;
        self.next_batch += 1;
        Ok(())
    }

    /// Writes what [`Store::places`] has gathered. A start without it takes longer, that is all.
    pub(crate) fn write_index(&self, number: SegmentNumber) {
        let index = Index {
            next_batch: self.next_batch,
            places: self.places.clone(),
        };
        let bytes = index.encode(self.id, number);
        let write = || {
            let file = self.directory.create("index.tmp", bytes.len() as u64)?;
            file.write_at(&bytes, 0)?;
            file.sync()?;
            self.directory.rename("index.tmp", &number.index_name())
        };
        if let Err(error) = write() {
            tracing::warn!("log store: no index for segment {number}: {error}; the next start scans it");
        }
    }

    /// Removes the oldest segments that hold nothing any more. Only the oldest: a mark in a segment counts for values
    /// in those before it.
    pub(crate) fn compact(&mut self) {
        if self
            .slots
            .first_key_value()
            .is_some_and(|(position, _)| *position < self.begin)
        {
            let kept = self.slots.split_off(&self.begin);
            for slot in std::mem::replace(&mut self.slots, kept).into_values() {
                self.release(slot.segment);
            }
        }
        while let Some((number, part)) = self.parts.first_key_value() {
            let number = *number;
            if part.live > 0 || number == self.active {
                break;
            }
            let removed = self
                .directory
                .remove(&number.file_name())
                .and_then(|()| self.directory.remove(&number.index_name()));
            if let Err(error) = removed {
                tracing::warn!(
                    "log store: cannot remove segment {number}, which holds nothing any more: {error}"
                );
                break;
            }
            self.parts.remove(&number);
        }
    }

    /// Ends the damage that a start reported: first makes `meta` durable in a new segment (it has to say that this
    /// replica may have forgotten promises) and voids the values from `cut` on, then writes each damaged segment anew with
    /// what can still be read, and opens the result. Until the first of it is durable, every start reports the damage.
    pub fn repair(
        mut self,
        damage: &[Damage],
        meta: &[u8],
        cut: u64,
    ) -> Result<(Self, Recovered), StoreError> {
        self.meta = meta.to_vec();
        self.roll_to(self.active.next())?;
        self.append(&[Entry::Cut(cut)])?;
        for number in damage.iter().map(|damage| damage.segment) {
            // With its values void it may be gone already.
            if self
                .parts
                .first_key_value()
                .is_some_and(|(first, _)| *first <= number)
            {
                self.rebuild(number)?;
            }
        }
        Self::open(self.directory, self.options)
    }

    fn rebuild(&mut self, number: SegmentNumber) -> Result<(), StoreError> {
        let name = number.file_name();
        let bytes = match self.directory.read(&name) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(StoreError::io("read", &name)(source)),
        };
        let seal = Seal::new(self.id, number.0);
        let found = read_head(&bytes);
        let first_batch = found.map_or(1, |(head, _)| head.first_batch);
        let mut good = Vec::new();
        let mut next_batch = first_batch;
        if found.is_some() {
            let found = scan::scan(seal, &bytes[..bytes.len() - SECTOR_BYTES], first_batch, false);
            next_batch = found.next_batch;
            good = found.whole;
        }
        let sectors = found.map_or(self.options.sectors(), |(head, _)| head.sectors);
        let file = self
            .directory
            .create("rebuilt.tmp", u64::from(sectors) * SECTOR_BYTES as u64)
            .map_err(StoreError::io("write anew", &name))?;
        let head = Head {
            format: FORMAT,
            sectors,
            segment: number,
            store: self.id,
            first_batch,
        };
        let mut buffer = head.encode().to_vec();
        let mut places = Vec::new();
        // Numbered without gaps from the first, so that the file by itself is in order again.
        for (batch, whole) in (first_batch..).zip(&good) {
            let sector = (buffer.len() / SECTOR_BYTES) as u32;
            seal.write(&mut buffer, sector, batch, &whole.stream);
            for placed in batch::decode(&whole.stream).unwrap_or_default() {
                match placed.entry {
                    Entry::Value {
                        position,
                        flags,
                        bytes,
                    } => {
                        let (offset, length) = (placed.offset, bytes.len() as u32);
                        places.push(Place::Value {
                            position,
                            flags,
                            sector,
                            offset,
                            length,
                        });
                    }
                    Entry::Mark { from, to, flags } => places.push(Place::Mark { from, to, flags }),
                    Entry::Cut(position) => places.push(Place::Cut(position)),
                    Entry::Begin(_) | Entry::Meta(_) => {}
                }
            }
        }
        file.write_at(&buffer, 0)
            .map_err(StoreError::io("write anew", &name))?;
        file.write_at(&head.encode(), u64::from(sectors - 1) * SECTOR_BYTES as u64)
            .map_err(StoreError::io("write anew", &name))?;
        file.sync().map_err(StoreError::io("flush", &name))?;
        // The index goes first: with the rebuilt file it would point to wrong places.
        self.directory
            .remove(&number.index_name())
            .map_err(StoreError::io("remove the index of", &name))?;
        self.directory
            .rename("rebuilt.tmp", &name)
            .map_err(StoreError::io("rename to", &name))?;
        let next_batch = self.first_batch_after(number).unwrap_or(next_batch);
        let index = Index { next_batch, places }.encode(self.id, number);
        let index_file = self
            .directory
            .create("index.tmp", index.len() as u64)
            .map_err(StoreError::io("write the index of", &name))?;
        index_file
            .write_at(&index, 0)
            .map_err(StoreError::io("write the index of", &name))?;
        index_file
            .sync()
            .map_err(StoreError::io("flush the index of", &name))?;
        self.directory
            .rename("index.tmp", &number.index_name())
            .map_err(StoreError::io("write the index of", &name))
    }

    fn first_batch_after(&self, number: SegmentNumber) -> Option<u64> {
        let bytes = self.directory.read(&number.next().file_name()).ok()?;
        read_head(&bytes).map(|(head, _)| head.first_batch)
    }
}

/// Makes a spare segment, in steps: made at once it would keep the disk from the flushes of that time. May be used on another
/// thread than the store's.
#[derive(Clone, Debug)]
pub struct SpareMaker<D> {
    directory: D,
    bytes: u64,
    made: u64,
}

const BLOCK_BYTES: u64 = 64 << 10;
const SPARE_PART: &str = "spare.tmp";

impl<D: Directory> SpareMaker<D> {
    /// Makes all of the file that the next segment will use. Without it the append that needs the next segment waits for that.
    pub fn make(&mut self) -> Result<(), StoreError> {
        self.make_to(self.bytes).map(drop)
    }

    /// How much of it is there.
    pub fn made(&self) -> u64 {
        self.made
    }

    /// Goes on to so many bytes. `Ok(true)`: all of it is there.
    pub fn make_to(&mut self, bytes: u64) -> Result<bool, StoreError> {
        if self.made == 0 {
            let names = self
                .directory
                .list()
                .map_err(StoreError::io("list", "the directory"))?;
            if names.iter().any(|name| name == SPARE) {
                return Ok(true);
            }
        }
        let part = self.made..bytes.clamp(self.made, self.bytes);
        // Anew after any error.
        self.made = 0;
        self.directory
            .create_part(SPARE_PART, part.clone(), self.bytes)
            .map_err(|source| unmade(&self.directory, SPARE_PART, self.bytes, source))?;
        if part.end < self.bytes {
            self.made = part.end;
            return Ok(false);
        }
        self.directory
            .rename(SPARE_PART, SPARE)
            .map_err(StoreError::io("rename", SPARE))?;
        Ok(true)
    }
}

fn allocate<D: Directory>(directory: &D, name: &str, bytes: u64) -> Result<D::File, StoreError> {
    directory
        .create(name, bytes)
        .map_err(|source| unmade(directory, name, bytes, source))
}

fn unmade<D: Directory>(directory: &D, name: &str, bytes: u64, source: std::io::Error) -> StoreError {
    // What was made so far would keep the room from whoever is to make some.
    let _ = directory.remove(name);
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::Full {
            file: name.to_owned(),
            bytes,
            source,
        },
        _ => StoreError::io("make a segment as", name)(source),
    }
}
