//! The disk of a replica: entries in, one flush per batch, entries out by position.
//!
//! A start reads the indices of full segments and scans the last one. Values stay on disk; memory holds a place and
//! the flags of each position.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::batch::{self, Entry};
use crate::directory::{Aligned, Directory, File};
use crate::error::StoreError;
use crate::index::Place;
use crate::piece::Piece;
use crate::scan;
use crate::sector::{SECTOR_BYTES, Seal, sectors_for};
use crate::segment::{SegmentNumber, read_head};

pub(crate) const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Sectors at the end of each segment that only [`Store::relieve`] uses.
const RELIEF_SECTORS: u32 = 4;
/// A buffer beyond that is not kept for the next batch.
const BUFFER_KEPT_BYTES: usize = 2 << 20;

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of a segment file, rounded down to sectors.
    pub segment_bytes: u64,
    /// The identity that a new store gets: random, from the caller.
    pub new_id: u128,
}

impl Options {
    pub(crate) fn sectors(&self) -> u32 {
        // Places in a segment are told with 32 bits.
        (self.segment_bytes.min(SEGMENT_BYTES_MAX) / SECTOR_BYTES as u64)
            .max(u64::from(crate::segment::SECTORS_MIN)) as u32
    }
}

/// What a start found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// There was nothing: the store is new.
    pub created: bool,
    /// A batch whose flush had not returned was cut off.
    pub torn: bool,
    /// Segments whose head, or its copy, was damaged and has been restored from the other.
    pub restored: Vec<SegmentNumber>,
    /// What was written and can't be read any more. Promises may be among it: a replica that finds any has to be
    /// treated as one that forgot, until it has learned from the others again.
    pub damage: Vec<Damage>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub segment: SegmentNumber,
    /// Empty: the whole segment is missing or unreadable.
    pub sectors: Vec<std::ops::Range<u32>>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub segment: SegmentNumber,
    /// Of the batch; offset and length are bytes in its stream.
    pub sector: u32,
    pub offset: u32,
    pub length: u32,
    pub flags: u8,
}

pub(crate) struct Part<F> {
    /// Shared with whoever reads it while the store goes on.
    pub file: Arc<F>,
    /// Positions whose latest value lies here.
    pub live: usize,
}

/// See the module.
pub struct Store<D: Directory> {
    pub(crate) directory: D,
    pub(crate) options: Options,
    pub(crate) id: u128,
    pub(crate) parts: BTreeMap<SegmentNumber, Part<D::File>>,
    pub(crate) active: SegmentNumber,
    /// Sectors of the active segment's file, the copy of its head included.
    pub(crate) sectors: u32,
    /// The first free sector of the active segment.
    pub(crate) end: u32,
    /// What the active segment's index will say.
    pub(crate) places: Vec<Place>,
    pub(crate) next_batch: u64,
    pub(crate) slots: BTreeMap<u64, Slot>,
    pub(crate) begin: u64,
    pub(crate) meta: Vec<u8>,
    pub(crate) stopped: Option<String>,
    /// The sectors of the last batch; kept for its memory.
    buffer: Aligned,
}

impl<D: Directory> Store<D> {
    /// Opens what is in `directory`, or begins a new store there.
    pub fn open(directory: D, options: Options) -> Result<(Self, Recovered), StoreError> {
        let mut names = directory
            .list()
            .map_err(StoreError::io("list", "the directory"))?;
        names.retain(|name| {
            let left_over = name.ends_with(".tmp");
            if left_over && let Err(error) = directory.remove(name) {
                tracing::warn!("log store: cannot remove {name}, which an interrupted write left: {error}");
            }
            !left_over
        });
        let mut numbers: Vec<_> = names
            .iter()
            .filter_map(|name| SegmentNumber::of_file(name))
            .collect();
        numbers.sort_unstable();
        let mut store = Self {
            directory,
            options,
            id: options.new_id,
            parts: BTreeMap::new(),
            active: SegmentNumber(0),
            sectors: options.sectors(),
            end: 0,
            places: Vec::new(),
            next_batch: 1,
            slots: BTreeMap::new(),
            begin: 0,
            meta: Vec::new(),
            stopped: None,
            buffer: Aligned::default(),
        };
        if numbers.is_empty() {
            store.roll_to(SegmentNumber(1))?;
            return Ok((
                store,
                Recovered {
                    created: true,
                    ..Recovered::default()
                },
            ));
        }
        let recovered = store.recover(&numbers)?;
        Ok((store, recovered))
    }

    /// Makes all `entries` durable, with one flush. After `Err(Stopped)` and I/O errors nothing more is taken.
    pub fn append(&mut self, entries: &[Entry<'_>]) -> Result<(), StoreError> {
        if let Some(cause) = &self.stopped {
            return Err(StoreError::Stopped(cause.clone()));
        }
        if entries.is_empty() {
            return Ok(());
        }
        let bytes: usize = entries.iter().map(Entry::encoded_bytes).sum();
        if bytes > self.batch_bytes_max() {
            return Err(StoreError::TooLarge {
                bytes,
                most: self.batch_bytes_max(),
            });
        }
        let stream = batch::encode(entries);
        let sectors = sectors_for(stream.len()) as u32;
        // The last sector is the copy of the head.
        if self.end + sectors + RELIEF_SECTORS > self.sectors - 1 {
            self.roll_to(self.active.next())?;
        }
        self.write_batch(&stream)
    }

    /// Truncates up to `begin`, if that frees a segment, in room that is kept for this: a disk that is full has none for
    /// another segment, and what is freed is what it waits for. `Ok(true)`: there is room now.
    pub fn relieve(&mut self, begin: u64) -> Result<bool, StoreError> {
        if let Some(cause) = &self.stopped {
            return Err(StoreError::Stopped(cause.clone()));
        }
        let Some((oldest, _)) = self.parts.first_key_value() else {
            return Ok(false);
        };
        let frees = begin > self.begin
            && *oldest != self.active
            && self.slots.range(begin..).all(|(_, slot)| slot.segment != *oldest);
        if !frees || self.end + 1 > self.sectors - 1 {
            return Ok(false);
        }
        let before = self.parts.len();
        self.write_batch(&batch::encode(&[Entry::Begin(begin)]))?;
        Ok(self.parts.len() < before)
    }

    /// It fits into the active segment.
    fn write_batch(&mut self, stream: &[u8]) -> Result<(), StoreError> {
        let sectors = sectors_for(stream.len()) as u32;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear(sectors as usize * SECTOR_BYTES);
        Seal::new(self.id, self.active.0).write(buffer.memory(), self.end, self.next_batch, stream);
        let name = self.active.file_name();
        let file = &self.parts[&self.active].file;
        let written = file
            .write_at(buffer.bytes(), u64::from(self.end) * SECTOR_BYTES as u64)
            .map_err(StoreError::io("write to", &name))
            .and_then(|()| file.sync().map_err(StoreError::io("flush", &name)));
        if buffer.room() <= BUFFER_KEPT_BYTES {
            self.buffer = buffer;
        }
        if let Err(error) = written {
            self.stopped = Some(error.to_string());
            return Err(error);
        }
        let (segment, start) = (self.active, self.end);
        for placed in batch::decode(stream).unwrap_or_default() {
            self.apply(segment, start, placed.offset, placed.entry);
        }
        self.end += sectors;
        self.next_batch += 1;
        self.compact();
        Ok(())
    }

    /// Bytes of entries that one batch may hold.
    pub fn batch_bytes_max(&self) -> usize {
        // Head, copy, what is kept, and the batch that begins each segment, which has the meta record.
        let taken = 2 + RELIEF_SECTORS as usize + sectors_for(batch::encode(&self.snapshot()).len());
        (self.options.sectors() as usize).saturating_sub(taken + 1) * crate::sector::PAYLOAD_BYTES
    }

    pub(crate) fn snapshot(&self) -> [Entry<'_>; 2] {
        [Entry::Meta(&self.meta), Entry::Begin(self.begin)]
    }

    pub(crate) fn apply(&mut self, segment: SegmentNumber, sector: u32, offset: u32, entry: Entry<'_>) {
        match entry {
            Entry::Meta(bytes) => self.meta = bytes.to_vec(),
            Entry::Begin(position) => self.begin = self.begin.max(position),
            Entry::Cut(position) => {
                self.places.push(Place::Cut(position));
                self.apply_place(segment, Place::Cut(position));
            }
            Entry::Mark { from, to, flags } => {
                let place = Place::Mark { from, to, flags };
                self.places.push(place);
                self.apply_place(segment, place);
            }
            Entry::Value {
                position,
                flags,
                bytes,
            } => {
                let place = Place::Value {
                    position,
                    flags,
                    sector,
                    offset,
                    length: bytes.len() as u32,
                };
                self.places.push(place);
                self.apply_place(segment, place);
            }
        }
    }

    pub(crate) fn apply_place(&mut self, segment: SegmentNumber, place: Place) {
        match place {
            Place::Cut(position) => {
                for slot in self.slots.split_off(&position).into_values() {
                    self.release(slot.segment);
                }
            }
            Place::Mark { from, to, flags } => {
                for slot in self.slots.range_mut(from..to.max(from)).map(|(_, slot)| slot) {
                    slot.flags = flags;
                }
            }
            Place::Value {
                position,
                flags,
                sector,
                offset,
                length,
            } => {
                let slot = Slot {
                    segment,
                    sector,
                    offset,
                    length,
                    flags,
                };
                if let Some(old) = self.slots.insert(position, slot) {
                    self.release(old.segment);
                }
                if let Some(part) = self.parts.get_mut(&segment) {
                    part.live += 1;
                }
            }
        }
    }

    pub(crate) fn release(&mut self, segment: SegmentNumber) {
        if let Some(part) = self.parts.get_mut(&segment) {
            part.live = part.live.saturating_sub(1);
        }
    }

    /// The value of a position, every sector of it checked.
    pub fn read(&self, position: u64) -> Result<Vec<u8>, StoreError> {
        let mut piece = Piece::new(self.id);
        let slot = self
            .slots
            .get(&position)
            .ok_or(StoreError::Missing { position })?;
        let part = self
            .parts
            .get(&slot.segment)
            .ok_or(StoreError::Missing { position })?;
        piece.add(position, slot, &part.file);
        let mut found = Err(StoreError::Missing { position });
        piece.read(|_, value| {
            found = value.map(<[u8]>::to_vec);
            false
        });
        found
    }

    /// What there is to read of `first` to `last`, as far as it is unbroken, has these flags and weighs no more than
    /// `bytes_max` (the first one always): to be read while the store goes on.
    pub fn piece(&self, first: u64, last: u64, flags: u8, bytes_max: usize) -> Piece<D::File> {
        let mut piece = Piece::new(self.id);
        let mut bytes = 0;
        for (expected, (position, slot)) in (first..).zip(self.slots.range(first..=last.max(first))) {
            bytes += slot.length as usize;
            let Some(part) = self.parts.get(&slot.segment) else {
                break;
            };
            let too_much = bytes > bytes_max && expected > first;
            if *position != expected || slot.flags != flags || too_much {
                break;
            }
            piece.add(*position, slot, &part.file);
        }
        piece
    }

    /// Positions that have a value, with their flags, in order.
    pub fn positions(&self) -> impl DoubleEndedIterator<Item = (u64, u8)> + '_ {
        self.slots.iter().map(|(position, slot)| (*position, slot.flags))
    }

    /// The flags of a position.
    pub fn flags(&self, position: u64) -> Option<u8> {
        self.slots.get(&position).map(|slot| slot.flags)
    }

    /// Positions below are truncated.
    pub fn begin(&self) -> u64 {
        self.begin
    }

    /// The latest meta record; empty when there was none.
    pub fn meta(&self) -> &[u8] {
        &self.meta
    }

    /// The identity of these files.
    pub fn id(&self) -> u128 {
        self.id
    }

    /// Nothing more is written; somebody else may open the directory.
    pub fn close(&mut self) {
        self.stopped.get_or_insert_with(|| "closed".to_owned());
        self.directory.close();
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Reads every byte of every segment and tells what is damaged.
    pub fn verify(&self) -> Result<Vec<Damage>, StoreError> {
        let mut damage = Vec::new();
        for number in self.parts.keys() {
            let name = number.file_name();
            let bytes = self
                .directory
                .read(&name)
                .map_err(StoreError::io("read", &name))?;
            let Some((head, true)) = read_head(&bytes) else {
                damage.push(Damage {
                    segment: *number,
                    sectors: Vec::new(),
                });
                continue;
            };
            let body = &bytes[..bytes.len() - SECTOR_BYTES];
            let scan = scan::scan(Seal::new(self.id, number.0), body, head.first_batch, false);
            if !scan.damaged.is_empty() {
                damage.push(Damage {
                    segment: *number,
                    sectors: scan.damaged,
                });
            }
        }
        Ok(damage)
    }
}
