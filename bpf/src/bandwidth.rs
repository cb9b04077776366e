//! The programs that sort packets under a ceiling, and their state. Values as in bpf/include/bulkhead/bandwidth.h.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::layout::SLOTS;
use crate::skeletons::bandwidth as skeleton;

#[derive(Debug, thiserror::Error)]
pub enum BandwidthError {
    #[error("load the bandwidth programs with pins in {}; it must be on a bpffs, and the kernel needs BTF and cls_bpf", pins.display())]
    Load { pins: PathBuf, source: io::Error },
    #[error("{operation} the map `shaped`")]
    Map {
        operation: &'static str,
        source: io::Error,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Out of the container.
    Egress,
    Ingress,
}

/// `struct bh_shaped`: one direction of one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Shaped {
    /// Bytes a second; 0: no ceiling.
    pub rate: u64,
    pub mark_ns: u64,
    pub other_ns: u64,
    pub largest: u64,
    pub police_burst_ns: u64,
    pub empty_at: u64,
    pub other_empty_at: u64,
    pub police_at: u64,
    pub delay_ns: u64,
    pub bytes: u64,
    pub limited_bytes: u64,
    pub marked_packets: u64,
    pub dropped_packets: u64,
}

const WORDS: usize = 13;
const _: () = assert!(size_of::<Shaped>() == WORDS * 8);

impl Shaped {
    fn words(&self) -> [u64; WORDS] {
        [
            self.rate,
            self.mark_ns,
            self.other_ns,
            self.largest,
            self.police_burst_ns,
            self.empty_at,
            self.other_empty_at,
            self.police_at,
            self.delay_ns,
            self.bytes,
            self.limited_bytes,
            self.marked_packets,
            self.dropped_packets,
        ]
    }

    fn to_bytes(self) -> Vec<u8> {
        self.words().map(u64::to_ne_bytes).concat()
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let word = |index: usize| {
            let at = bytes.get(index * 8..).and_then(<[u8]>::first_chunk);
            at.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
        };
        Self {
            rate: word(0),
            mark_ns: word(1),
            other_ns: word(2),
            largest: word(3),
            police_burst_ns: word(4),
            empty_at: word(5),
            other_empty_at: word(6),
            police_at: word(7),
            delay_ns: word(8),
            bytes: word(9),
            limited_bytes: word(10),
            marked_packets: word(11),
            dropped_packets: word(12),
        }
    }
}

/// The loaded programs. What a queueing discipline holds of them lives on without this.
#[derive(Debug)]
pub struct BandwidthPrograms {
    egress: OwnedFd,
    ingress: OwnedFd,
    shaped: MapHandle,
}

impl BandwidthPrograms {
    /// Maps that are pinned in the directory are taken over, `ports` of steering among them.
    pub fn load(pins: &Path) -> Result<Self, BandwidthError> {
        Self::load_pinned(pins).map_err(|source| BandwidthError::Load {
            pins: pins.to_owned(),
            source,
        })
    }

    fn load_pinned(pins: &Path) -> Result<Self, io::Error> {
        let mut builder = skeleton::BandwidthSkelBuilder::default();
        builder
            .obj_builder
            .pin_root_path(pins)
            .map_err(io::Error::other)?;
        let mut storage = MaybeUninit::uninit();
        let open = builder.open(&mut storage).map_err(io::Error::other)?;
        let loaded = open.load().map_err(io::Error::other)?;
        Ok(Self {
            egress: loaded.progs.sort_egress.as_fd().try_clone_to_owned()?,
            ingress: loaded.progs.sort_ingress.as_fd().try_clone_to_owned()?,
            shaped: MapHandle::try_from(&loaded.maps.shaped).map_err(io::Error::other)?,
        })
    }

    pub fn program(&self, direction: Direction) -> BorrowedFd<'_> {
        match direction {
            Direction::Egress => self.egress.as_fd(),
            Direction::Ingress => self.ingress.as_fd(),
        }
    }

    pub fn read(&self, slot: u32, direction: Direction) -> Result<Shaped, BandwidthError> {
        let found = self
            .shaped
            .lookup(&key(slot, direction), MapFlags::ANY)
            .map_err(|error| map_error("read", error))?;
        Ok(found.map(|bytes| Shaped::from_bytes(&bytes)).unwrap_or_default())
    }

    pub fn write(&self, slot: u32, direction: Direction, state: Shaped) -> Result<(), BandwidthError> {
        self.shaped
            .update(&key(slot, direction), &state.to_bytes(), MapFlags::ANY)
            .map_err(|error| map_error("write", error))
    }

    /// All that have a ceiling or once had one.
    pub fn read_all(&self) -> Result<Vec<(u32, Direction, Shaped)>, BandwidthError> {
        let batch = self
            .shaped
            .lookup_batch(SLOTS * 2, MapFlags::ANY, MapFlags::ANY)
            .map_err(|error| map_error("read", error))?;
        Ok(batch
            .filter_map(|(key, value)| {
                let index = u32::from_ne_bytes(*key.first_chunk()?);
                let direction = if index % 2 == 0 {
                    Direction::Egress
                } else {
                    Direction::Ingress
                };
                let state = Shaped::from_bytes(&value);
                (state.rate != 0 || state.bytes != 0).then_some((index / 2, direction, state))
            })
            .collect())
    }
}

fn key(slot: u32, direction: Direction) -> [u8; 4] {
    (slot * 2 + u32::from(direction == Direction::Ingress)).to_ne_bytes()
}

fn map_error(operation: &'static str, error: libbpf_rs::Error) -> BandwidthError {
    BandwidthError::Map {
        operation,
        source: io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_there_and_back() {
        let state = Shaped {
            rate: 1,
            police_at: 7,
            dropped_packets: u64::MAX,
            ..Shaped::default()
        };
        assert_eq!(Shaped::from_bytes(&state.to_bytes()), state);
        assert_eq!(Shaped::from_bytes(&[1]), Shaped::default());
    }
}
