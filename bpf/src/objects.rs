//! Programs, maps and control groups by bpf(2): what is attached where, and what a map holds.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::system::bpf;

// enum bpf_cmd, linux/bpf.h
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const PROG_ATTACH: libc::c_long = 8;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const MAP_GET_FD_BY_ID: libc::c_long = 14;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;
/// Programs of parents and children all run and all must agree; nobody else's attachment is replaced.
const ALLOW_MULTI: u32 = 1 << 1;
/// More programs at one hook of one group than anybody has.
const PROGRAMS_MAX: usize = 64;
/// Maps of one program of ours, with room.
const MAPS_MAX: usize = 16;
const NAME_BYTES: usize = 16;

#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

#[repr(C)]
struct Query {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

#[repr(C)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

#[repr(C)]
struct Info {
    fd: u32,
    length: u32,
    info: u64,
}

/// The beginning of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    native_length: u32,
    length: u32,
    native: u64,
    instructions: u64,
    load_time: u64,
    created_by: u32,
    map_count: u32,
    map_ids: u64,
}

/// The beginning of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
    name: [u8; NAME_BYTES],
}

#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

/// Attaches a program to a v2 group (a descriptor of its directory), beside those that are there.
pub(crate) fn attach(group: BorrowedFd<'_>, program: BorrowedFd<'_>, kind: u32) -> io::Result<()> {
    let mut attributes = Attach {
        target: number(group),
        program: number(program),
        kind,
        flags: ALLOW_MULTI,
        replaced: 0,
    };
    bpf(PROG_ATTACH, &mut attributes).map(drop)
}

/// Ids of the programs that are attached to this very group.
pub(crate) fn attached(group: BorrowedFd<'_>, kind: u32) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; PROGRAMS_MAX];
    let mut attributes = Query {
        target: number(group),
        kind,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: PROGRAMS_MAX as u32,
        padding: 0,
    };
    bpf(PROG_QUERY, &mut attributes)?;
    ids.truncate(attributes.count as usize);
    Ok(ids)
}

fn by_id(command: libc::c_long, id: u32) -> io::Result<OwnedFd> {
    let mut attributes = ById {
        id,
        next: 0,
        flags: 0,
    };
    let fd = bpf(command, &mut attributes)?;
    // SAFETY: the kernel has just returned this descriptor, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn info<T>(fd: &OwnedFd, info: &mut T) -> io::Result<()> {
    let mut attributes = Info {
        fd: fd.as_raw_fd() as u32,
        length: size_of::<T>() as u32,
        info: std::ptr::from_mut(info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attributes).map(drop)
}

/// The map that a program uses and the map's id, by its name and the size of its values; `None`: it uses no such map.
pub(crate) fn map_of_program(
    program: u32,
    name: &str,
    value_size: usize,
) -> io::Result<Option<(u32, OwnedFd)>> {
    let program = by_id(PROG_GET_FD_BY_ID, program)?;
    let mut ids = [0_u32; MAPS_MAX];
    let mut found = ProgramInfo {
        map_count: MAPS_MAX as u32,
        map_ids: ids.as_mut_ptr() as u64,
        ..ProgramInfo::default()
    };
    info(&program, &mut found)?;
    for id in ids.iter().take(found.map_count as usize) {
        let map = by_id(MAP_GET_FD_BY_ID, *id)?;
        let mut facts = MapInfo::default();
        info(&map, &mut facts)?;
        let end = facts
            .name
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(NAME_BYTES);
        if &facts.name[..end] == name.as_bytes() && facts.value_size as usize == value_size {
            return Ok(Some((*id, map)));
        }
    }
    Ok(None)
}

/// Reads one element. `values` is what the map has for the key: one value, or one for each possible CPU.
pub(crate) fn lookup<T: Copy>(map: BorrowedFd<'_>, key: &u64, values: &mut [T]) -> io::Result<()> {
    let mut attributes = Element {
        map: number(map),
        padding: 0,
        key: std::ptr::from_ref(key) as u64,
        value: values.as_mut_ptr() as u64,
        flags: 0,
    };
    bpf(MAP_LOOKUP_ELEM, &mut attributes).map(drop)
}

pub(crate) fn update<T: Copy>(map: BorrowedFd<'_>, key: &u64, value: &T) -> io::Result<()> {
    let mut attributes = Element {
        map: number(map),
        padding: 0,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_ref(value) as u64,
        flags: 0,
    };
    bpf(MAP_UPDATE_ELEM, &mut attributes).map(drop)
}

/// The number by which the kernel knows a group: its inode's, on 64-bit hosts (kernfs_ino, include/linux/kernfs.h).
pub(crate) fn group_id(group: BorrowedFd<'_>) -> io::Result<u64> {
    let file = File::from(group.try_clone_to_owned()?);
    Ok(file.metadata()?.ino())
}

/// Maps of an earlier agent's programs by their id: one descriptor for all its containers.
#[derive(Debug, Default)]
pub(crate) struct EarlierMaps(Mutex<HashMap<u32, Weak<OwnedFd>>>);

impl EarlierMaps {
    /// The map that a program attached to a group uses, whoever attached it.
    pub fn find(
        &self,
        group: BorrowedFd<'_>,
        kind: u32,
        name: &str,
        value_size: usize,
    ) -> io::Result<Option<Arc<OwnedFd>>> {
        for program in attached(group, kind)? {
            if let Some((id, map)) = map_of_program(program, name, value_size)? {
                return Ok(Some(self.shared(id, map)));
            }
        }
        Ok(None)
    }

    fn shared(&self, id: u32, map: OwnedFd) -> Arc<OwnedFd> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(map) = known.get(&id).and_then(Weak::upgrade) {
            return map;
        }
        known.retain(|_, map| map.strong_count() > 0);
        let map = Arc::new(map);
        known.insert(id, Arc::downgrade(&map));
        map
    }
}
