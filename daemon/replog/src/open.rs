//! A start: what is on the disk becomes what is in memory, and what a crash left half done is cleaned up.

use std::sync::Arc;

use crate::batch;
use crate::directory::{Directory, File};
use crate::error::StoreError;
use crate::index::Index;
use crate::scan::{self, Scan};
use crate::sector::{SECTOR_BYTES, Seal};
use crate::segment::{FORMAT, Head, SegmentNumber, read_head, read_head_of};
use crate::store::{Damage, Part, Recovered, Store};

impl<D: Directory> Store<D> {
    pub(crate) fn recover(&mut self, numbers: &[SegmentNumber]) -> Result<Recovered, StoreError> {
        let mut recovered = Recovered::default();
        self.id = self.identity(numbers)?;
        let last = numbers.len() - 1;
        for (at, number) in numbers.iter().enumerate() {
            if at > 0 && *number != numbers[at - 1].next() {
                recovered.damage.push(Damage {
                    segment: numbers[at - 1].next(),
                    sectors: Vec::new(),
                });
            }
            self.recover_segment(*number, at == last, &mut recovered)?;
        }
        // An index is written when the next segment has been begun.
        if self.directory.read(&numbers[last].index_name()).is_ok() {
            tracing::warn!("log store: the segment behind {} is missing", numbers[last]);
            recovered.damage.push(Damage {
                segment: numbers[last],
                sectors: Vec::new(),
            });
        }
        let below = self.slots.split_off(&self.begin);
        let dropped = std::mem::replace(&mut self.slots, below);
        for slot in dropped.values() {
            self.release(slot.segment);
        }
        if recovered
            .damage
            .iter()
            .any(|damage| damage.segment == self.active)
        {
            // Nothing is written behind damage: what is there is not known.
            self.next_batch += u64::from(self.sectors);
            self.end = self.sectors;
        }
        Ok(recovered)
    }

    /// Whose files these are, by the first head that can be read.
    fn identity(&self, numbers: &[SegmentNumber]) -> Result<u128, StoreError> {
        let mut identity = None;
        for number in numbers {
            let file = number.file_name();
            let found = self.directory.open(&file).and_then(|file| read_head_of(&file));
            let Some((head, _)) = found.map_err(StoreError::io("read", &file))? else {
                continue;
            };
            if head.format != FORMAT {
                return Err(StoreError::Version {
                    file,
                    version: head.format,
                    known: FORMAT,
                });
            }
            match identity {
                None => identity = Some(head.store),
                Some(expected) if expected != head.store => {
                    return Err(StoreError::Foreign {
                        file,
                        found: head.store,
                        expected,
                    });
                }
                Some(_) => {}
            }
        }
        identity.ok_or_else(|| StoreError::Unreadable {
            file: numbers[0].file_name(),
        })
    }

    fn recover_segment(
        &mut self,
        number: SegmentNumber,
        last: bool,
        recovered: &mut Recovered,
    ) -> Result<(), StoreError> {
        let name = number.file_name();
        let file = self
            .directory
            .open(&name)
            .map_err(StoreError::io("open", &name))?;
        self.parts.insert(
            number,
            Part {
                file: Arc::new(file),
                live: 0,
            },
        );
        let seal = Seal::new(self.id, number.0);
        if !last
            && let Ok(bytes) = self.directory.read(&number.index_name())
            && let Some(index) = Index::decode(&bytes, self.id, number)
        {
            for place in &index.places {
                self.apply_place(number, *place);
            }
            self.next_batch = index.next_batch;
            return Ok(());
        }
        let bytes = self
            .directory
            .read(&name)
            .map_err(StoreError::io("read", &name))?;
        let Some((head, intact)) = read_head(&bytes) else {
            recovered.damage.push(Damage {
                segment: number,
                sectors: Vec::new(),
            });
            self.active = number;
            return Ok(());
        };
        if !intact {
            self.restore_head(number, &head)?;
            recovered.restored.push(number);
        }
        let body = &bytes[..bytes.len() - SECTOR_BYTES];
        let scan = scan::scan(seal, body, head.first_batch, last);
        if self.parts.len() > 1 && self.next_batch != head.first_batch {
            // The segment before ended with another batch than this one follows.
            tracing::warn!("log store: batches are missing before {name}");
            recovered.damage.push(Damage {
                segment: SegmentNumber(number.0 - 1),
                sectors: Vec::new(),
            });
        }
        self.places.clear();
        for whole in &scan.whole {
            for placed in batch::decode(&whole.stream).unwrap_or_default() {
                self.apply(number, whole.sectors.start, placed.offset, placed.entry);
            }
        }
        if !scan.damaged.is_empty() {
            recovered.damage.push(Damage {
                segment: number,
                sectors: scan.damaged.clone(),
            });
        }
        self.active = number;
        self.sectors = (bytes.len() / SECTOR_BYTES) as u32;
        self.next_batch = scan.next_batch;
        self.end = scan.end;
        // With an index, the next start would not look, and the damage were forgotten before it is repaired.
        if !last && !recovered.damage.iter().any(|damage| damage.segment == number) {
            self.write_index(number);
        }
        self.cut_off(number, &scan, recovered)
    }

    /// Zeroes what a batch without a flush left, so that the next crash finds either that or the next batch.
    fn cut_off(
        &mut self,
        number: SegmentNumber,
        scan: &Scan,
        recovered: &mut Recovered,
    ) -> Result<(), StoreError> {
        let Some(torn) = &scan.torn else { return Ok(()) };
        recovered.torn = true;
        let name = number.file_name();
        let zeros = vec![0; torn.len() * SECTOR_BYTES];
        let file = &self.parts[&number].file;
        file.write_at(&zeros, u64::from(torn.start) * SECTOR_BYTES as u64)
            .map_err(StoreError::io("repair the end of", &name))?;
        file.sync().map_err(StoreError::io("flush", &name))
    }

    fn restore_head(&self, number: SegmentNumber, head: &Head) -> Result<(), StoreError> {
        let name = number.file_name();
        tracing::warn!("log store: the head of {name} was damaged; its copy is good and takes its place");
        let file = &self.parts[&number].file;
        let sector = head.encode();
        file.write_at(&sector, 0)
            .map_err(StoreError::io("repair the head of", &name))?;
        file.write_at(&sector, u64::from(head.sectors - 1) * SECTOR_BYTES as u64)
            .map_err(StoreError::io("repair the head of", &name))?;
        file.sync().map_err(StoreError::io("flush", &name))
    }
}
