//! The program that sorts packets of containers in the host's network at an uplink which is shared out. Values as in
//! bpf/include/bulkhead/uplink.h.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::skeletons::uplink as skeleton;

/// The class of packets of no container.
pub const HOST_MINOR: u16 = 0xfffd;

#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    #[error("load the program of shared uplinks with pins in {}; the kernel needs cgroup v2, BTF and cls_bpf", pins.display())]
    Load { pins: PathBuf, source: io::Error },
    #[error("{operation} the map `groups`")]
    Map {
        operation: &'static str,
        source: io::Error,
    },
    #[error("ask for the number of a control group")]
    Group { source: io::Error },
}

/// The loaded program. What a queueing discipline holds of it lives on without this.
#[derive(Debug)]
pub struct UplinkProgram {
    program: OwnedFd,
    groups: MapHandle,
}

impl UplinkProgram {
    /// The map that is pinned in the directory is taken over.
    pub fn load(pins: &Path) -> Result<Self, UplinkError> {
        Self::load_pinned(pins).map_err(|source| UplinkError::Load {
            pins: pins.to_owned(),
            source,
        })
    }

    fn load_pinned(pins: &Path) -> Result<Self, io::Error> {
        let mut builder = skeleton::UplinkSkelBuilder::default();
        builder
            .obj_builder
            .pin_root_path(pins)
            .map_err(io::Error::other)?;
        let mut storage = MaybeUninit::uninit();
        let open = builder.open(&mut storage).map_err(io::Error::other)?;
        let loaded = open.load().map_err(io::Error::other)?;
        Ok(Self {
            program: loaded.progs.sort_uplink.as_fd().try_clone_to_owned()?,
            groups: MapHandle::try_from(&loaded.maps.groups).map_err(io::Error::other)?,
        })
    }

    pub fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// From now on what the group sends goes into the class with this minor number.
    pub fn set(&self, group: u64, minor: u16) -> Result<(), UplinkError> {
        self.groups
            .update(
                &group.to_ne_bytes(),
                &u32::from(minor).to_ne_bytes(),
                MapFlags::ANY,
            )
            .map_err(|error| map_error("write to", error))
    }

    /// One that isn't there is no error.
    pub fn remove(&self, group: u64) -> Result<(), UplinkError> {
        match self.groups.delete(&group.to_ne_bytes()) {
            Err(error) if error.kind() == libbpf_rs::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|error| map_error("remove from", error)),
        }
    }

    /// Minor numbers by group.
    pub fn groups(&self) -> BTreeMap<u64, u16> {
        let entry = |key: Vec<u8>| {
            let value = self.groups.lookup(&key, MapFlags::ANY).ok()??;
            let minor = u32::from_ne_bytes(*value.first_chunk()?);
            Some((
                u64::from_ne_bytes(*key.first_chunk()?),
                u16::try_from(minor).ok()?,
            ))
        };
        self.groups.keys().filter_map(entry).collect()
    }
}

/// The number by which the kernel knows a v2 group: a descriptor of its directory tells.
pub fn group_number(group: BorrowedFd<'_>) -> Result<u64, UplinkError> {
    crate::objects::group_id(group).map_err(|source| UplinkError::Group { source })
}

fn map_error(operation: &'static str, error: libbpf_rs::Error) -> UplinkError {
    UplinkError::Map {
        operation,
        source: io::Error::other(error),
    }
}
