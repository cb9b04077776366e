//! What a store should hold, kept beside it; and operations from a seed.

use std::collections::BTreeMap;

use replog::{Directory, Entry, Options, Store};

pub const SMALL: Options = Options {
    segment_bytes: 16 << 10,
    new_id: 0xb17e,
};

/// An operation: the entries of one batch.
#[derive(Clone, Debug)]
pub enum Owned {
    Value {
        position: u64,
        flags: u8,
        bytes: Vec<u8>,
    },
    Mark {
        from: u64,
        to: u64,
        flags: u8,
    },
    Begin(u64),
    Cut(u64),
    Meta(Vec<u8>),
}

impl Owned {
    pub fn entry(&self) -> Entry<'_> {
        match self {
            Self::Value {
                position,
                flags,
                bytes,
            } => Entry::Value {
                position: *position,
                flags: *flags,
                bytes,
            },
            Self::Mark { from, to, flags } => Entry::Mark {
                from: *from,
                to: *to,
                flags: *flags,
            },
            Self::Begin(position) => Entry::Begin(*position),
            Self::Cut(position) => Entry::Cut(*position),
            Self::Meta(bytes) => Entry::Meta(bytes),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub values: BTreeMap<u64, (u8, Vec<u8>)>,
    pub begin: u64,
    pub meta: Vec<u8>,
}

impl Model {
    pub fn apply(&mut self, batch: &[Owned]) {
        for entry in batch {
            match entry {
                Owned::Value {
                    position,
                    flags,
                    bytes,
                } => {
                    self.values.insert(*position, (*flags, bytes.clone()));
                }
                Owned::Mark { from, to, flags } => {
                    self.values
                        .range_mut(*from..*to)
                        .for_each(|(_, value)| value.0 = *flags);
                }
                Owned::Cut(position) => drop(self.values.split_off(position)),
                Owned::Begin(position) => self.begin = self.begin.max(*position),
                Owned::Meta(bytes) => self.meta.clone_from(bytes),
            }
        }
        self.values = self.values.split_off(&self.begin);
    }

    pub fn of<D: Directory>(store: &Store<D>) -> Self {
        let values = store
            .positions()
            .map(|(position, flags)| {
                (
                    position,
                    (flags, store.read(position).expect("a value that is listed")),
                )
            })
            .collect();
        Self {
            values,
            begin: store.begin(),
            meta: store.meta().to_vec(),
        }
    }
}

/// A small generator: same seed, same operations.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Batches as a replica writes them: promises, values, learned marks, truncations.
pub fn operations(seed: u64, count: usize) -> Vec<Vec<Owned>> {
    let mut dice = Dice(seed);
    let (mut next, mut begin) = (1, 0);
    (0..count)
        .map(|operation| {
            let entries = 1 + dice.roll(3);
            (0..entries)
                .map(|_| match dice.roll(13) {
                    0 => Owned::Meta(format!("promise {operation}").into_bytes()),
                    1 if next > begin + 8 => {
                        begin += 1 + dice.roll(next - begin - 4);
                        Owned::Begin(begin)
                    }
                    2 | 3 => {
                        let from = begin + dice.roll(next - begin + 1);
                        Owned::Mark {
                            from,
                            to: from + dice.roll(5),
                            flags: 1,
                        }
                    }
                    4 => {
                        let position = begin + dice.roll(next - begin + 1);
                        Owned::Value {
                            position,
                            flags: 2,
                            bytes: vec![operation as u8; dice.roll(700) as usize],
                        }
                    }
                    5 if next > begin + 3 => {
                        next -= 1 + dice.roll(3);
                        Owned::Cut(next)
                    }
                    _ => {
                        next += 1;
                        let bytes = vec![operation as u8 | 1; dice.roll(1400) as usize];
                        Owned::Value {
                            position: next - 1,
                            flags: 0,
                            bytes,
                        }
                    }
                })
                .collect()
        })
        .collect()
}

pub fn entries(batch: &[Owned]) -> Vec<Entry<'_>> {
    batch.iter().map(Owned::entry).collect()
}
