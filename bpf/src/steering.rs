//! The steering programs and their maps: loaded, pinned, taken over.
//!
//! All maps are pinned below one directory whose name has the layout's number. Whoever opens them again uses the maps
//! that are there and puts its own programs into the map `stages`, through which those that are attached jump: so a
//! newer agent replaces the programs of all containers at once and without a gap.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, MapHandle, PrintLevel};

use crate::layout::{Counters, HostAddresses, LAYOUT, SLOTS, Slot};
use crate::skeletons::steering as skeleton;

/// Why programs or maps could not be loaded, attached, read or written.
#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    #[error("make the directory {}; it must be on a bpffs (mount -t bpf)", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("load the steering programs with pins in {}{log}", pins.display())]
    Load {
        pins: PathBuf,
        /// What libbpf and the verifier say.
        log: String,
        source: io::Error,
    },
    #[error("{operation} the map {map}")]
    Map {
        operation: &'static str,
        map: String,
        source: io::Error,
    },
    #[error("{operation} the program {program} at interface {ifindex}")]
    Hook {
        operation: &'static str,
        program: &'static str,
        ifindex: u32,
        source: io::Error,
    },
    #[error("pin {}", path.display())]
    Pin { path: PathBuf, source: io::Error },
}

/// What is attached where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    Uplink,
    Veth,
    HostLoopback,
    ContainerLoopback,
}

impl Entry {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uplink => "uplink_entry",
            Self::Veth => "veth_entry",
            Self::HostLoopback => "host_lo_entry",
            Self::ContainerLoopback => "container_lo_entry",
        }
    }

    const ALL: [Self; 4] = [
        Self::Uplink,
        Self::Veth,
        Self::HostLoopback,
        Self::ContainerLoopback,
    ];

    /// The program that it jumps to: its number in `stages`, and its name.
    const fn stage(self) -> (u32, &'static str) {
        match self {
            Self::Uplink => (0, "uplink"),
            Self::Veth => (1, "veth"),
            Self::HostLoopback => (2, "host_lo"),
            Self::ContainerLoopback => (3, "container_lo"),
        }
    }
}

/// Loaded programs, and the maps that they share with those of earlier agents.
#[derive(Debug)]
pub struct Steering {
    directory: PathBuf,
    maps: BTreeMap<String, MapHandle>,
    entries: Vec<(Entry, OwnedFd)>,
    /// Nothing was pinned before.
    fresh: bool,
}

/// libbpf has one place for its words in a process.
static WORDS: Mutex<String> = Mutex::new(String::new());

fn keep_words(level: PrintLevel, text: String) {
    const ENOUGH: usize = 8 << 10;
    let mut words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
    if level == PrintLevel::Warn && words.len() < ENOUGH {
        words.push_str(" | ");
        words.push_str(text.trim_end());
    }
}

fn io_error(error: &libbpf_rs::Error) -> io::Error {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(one) = cause {
        if let Some(code) = one.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return io::Error::from_raw_os_error(code);
        }
        cause = one.source();
    }
    io::Error::other(error.to_string())
}

impl Steering {
    /// Below `pins`, which is on a bpffs. Idempotent.
    pub fn open(pins: &Path) -> Result<Self, SteeringError> {
        let directory = pins.join(format!("layout-{LAYOUT}"));
        let fresh = !directory.join("ports").exists();
        fs::create_dir_all(&directory).map_err(|source| SteeringError::Directory {
            path: directory.clone(),
            source,
        })?;
        libbpf_rs::set_print(Some((PrintLevel::Warn, keep_words)));
        WORDS.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let (maps, programs) = load(&directory).map_err(|error| SteeringError::Load {
            pins: directory.clone(),
            log: std::mem::take(&mut *WORDS.lock().unwrap_or_else(PoisonError::into_inner)),
            source: error,
        })?;
        let mut steering = Self {
            directory,
            maps,
            entries: Vec::new(),
            fresh,
        };
        steering.take_over(programs)?;
        Ok(steering)
    }

    fn take_over(&mut self, mut programs: BTreeMap<String, OwnedFd>) -> Result<(), SteeringError> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        for entry in Entry::ALL {
            let (stage, name) = entry.stage();
            let wrong = |source| SteeringError::Map {
                operation: "put a program into",
                map: "stages".to_owned(),
                source,
            };
            let program = programs.remove(name).ok_or_else(missing).map_err(wrong)?;
            let number = std::os::fd::AsRawFd::as_raw_fd(&program);
            self.write("stages", &stage.to_ne_bytes(), &number.to_ne_bytes())?;
            let attached = programs.remove(entry.name()).ok_or_else(missing).map_err(wrong)?;
            self.entries.push((entry, attached));
        }
        Ok(())
    }

    /// Where the pins are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// True: no earlier agent has left maps.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    pub(crate) fn entry(&self, entry: Entry) -> Option<&OwnedFd> {
        self.entries
            .iter()
            .find(|(one, _)| *one == entry)
            .map(|(_, fd)| fd)
    }

    fn map(&self, name: &str) -> Result<&MapHandle, SteeringError> {
        self.maps.get(name).ok_or_else(|| SteeringError::Map {
            operation: "find",
            map: name.to_owned(),
            source: io::Error::from(io::ErrorKind::NotFound),
        })
    }

    /// Writes one entry of the map `name`.
    pub fn write(&self, name: &str, key: &[u8], value: &[u8]) -> Result<(), SteeringError> {
        self.map(name)?
            .update(key, value, MapFlags::ANY)
            .map_err(failed("write to", name))
    }

    /// Reads one entry of the map `name`.
    pub fn read(&self, name: &str, key: &[u8]) -> Result<Option<Vec<u8>>, SteeringError> {
        self.map(name)?
            .lookup(key, MapFlags::ANY)
            .map_err(failed("read", name))
    }

    /// Removes one entry of the map `name`; what isn't there is no error.
    pub fn remove(&self, name: &str, key: &[u8]) -> Result<(), SteeringError> {
        match self.map(name)?.delete(key) {
            Err(error) if error.kind() == libbpf_rs::ErrorKind::NotFound => Ok(()),
            other => other.map_err(failed("remove from", name)),
        }
    }

    /// All entries of the map `name`: key and value.
    pub fn read_all(&self, name: &str) -> Result<Vec<Pair>, SteeringError> {
        const BATCH: u32 = 4096;
        let map = self.map(name)?;
        let batches = map.lookup_batch(BATCH, MapFlags::ANY, MapFlags::ANY);
        Ok(batches.map_err(failed("read", name))?.collect())
    }

    /// Gives `ports` to a slot; 0 takes them back.
    pub fn set_owner(&self, ports: impl Iterator<Item = u16>, slot: u32) -> Result<(), SteeringError> {
        let keys: Vec<u8> = ports.flat_map(|port| u32::from(port).to_ne_bytes()).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let count = (keys.len() / size_of::<u32>()) as u32;
        let values: Vec<u8> = (0..count).flat_map(|_| slot.to_ne_bytes()).collect();
        self.map("ports")?
            .update_batch(&keys, &values, count, MapFlags::ANY, MapFlags::ANY)
            .map_err(failed("write to", "ports"))
    }

    /// The slot that each port belongs to; index is the port.
    pub fn owners(&self) -> Result<Vec<u32>, SteeringError> {
        let mut owners = vec![0; 1 << 16];
        for (key, value) in self.read_all("ports")? {
            if let (Some(owner), Some(slot)) = (owners.get_mut(number(&key) as usize), word(&value)) {
                *owner = slot;
            }
        }
        Ok(owners)
    }

    pub fn slot(&self, slot: u32) -> Result<Slot, SteeringError> {
        let value = self.read("slots", &slot.to_ne_bytes())?;
        Ok(value.as_deref().and_then(Slot::read).unwrap_or_default())
    }

    pub fn set_slot(&self, slot: u32, value: &Slot) -> Result<(), SteeringError> {
        self.write("slots", &slot.to_ne_bytes(), &value.bytes())
    }

    /// Every slot that has an interface.
    pub fn slots(&self) -> Result<Vec<(u32, Slot)>, SteeringError> {
        let all = self.read_all("slots")?;
        let used = all
            .iter()
            .filter_map(|(key, value)| Some((number(key), Slot::read(value)?)));
        Ok(used.filter(|(_, slot)| slot.ifindex != 0).collect())
    }

    pub fn set_host(&self, host: &HostAddresses) -> Result<(), SteeringError> {
        self.write("host", &0u32.to_ne_bytes(), &host.bytes())
    }

    pub fn clear_counters(&self, slot: u32) -> Result<(), SteeringError> {
        let cpus = libbpf_rs::num_possible_cpus().map_err(failed("clear", "counters"))?;
        let zeros = vec![vec![0; size_of::<Counters>()]; cpus];
        self.map("counters")?
            .update_percpu(&slot.to_ne_bytes(), &zeros, MapFlags::ANY)
            .map_err(failed("clear", "counters"))
    }

    /// The counters of slots below `end`, summed over CPUs, by few system calls; index is the slot.
    pub fn counters(&self, end: u32) -> Result<Vec<Counters>, SteeringError> {
        let map = self.map("counters")?;
        let cpus = libbpf_rs::num_possible_cpus().map_err(failed("read", "counters"))?;
        let mut all = vec![Counters::default(); end.min(SLOTS) as usize];
        crate::batch::read_percpu(
            map.as_fd(),
            size_of::<Counters>() * cpus,
            end.min(SLOTS),
            |slot, values| {
                if let Some(sum) = all.get_mut(slot as usize) {
                    for one in values.chunks_exact(size_of::<Counters>()) {
                        sum.add(&Counters::read(one));
                    }
                }
            },
        )
        .map_err(|source| SteeringError::Map {
            operation: "read",
            map: "counters".to_owned(),
            source,
        })?;
        Ok(all)
    }
}

fn failed<'a>(operation: &'static str, map: &'a str) -> impl Fn(libbpf_rs::Error) -> SteeringError + 'a {
    move |error| SteeringError::Map {
        operation,
        map: map.to_owned(),
        source: io_error(&error),
    }
}

fn word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn number(bytes: &[u8]) -> u32 {
    word(bytes).unwrap_or(u32::MAX)
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

type Loaded = (BTreeMap<String, MapHandle>, BTreeMap<String, OwnedFd>);

fn load(directory: &Path) -> io::Result<Loaded> {
    let mut storage = MaybeUninit::uninit();
    let mut builder = skeleton::SteeringSkelBuilder::default();
    builder
        .object_builder_mut()
        .pin_root_path(directory)
        .map_err(|error| io_error(&error))?;
    let skeleton = builder
        .open(&mut storage)
        .and_then(OpenSkel::load)
        .map_err(|error| io_error(&error))?;
    let object = libbpf_rs::skel::Skel::object(&skeleton);
    let mut maps = BTreeMap::new();
    for map in object.maps() {
        let name = map.name().to_string_lossy().into_owned();
        let handle = MapHandle::try_from(&map).map_err(|error| io_error(&error))?;
        maps.insert(name, handle);
    }
    let mut programs = BTreeMap::new();
    for program in object.progs() {
        let name = program.name().to_string_lossy().into_owned();
        programs.insert(name, program.as_fd().try_clone_to_owned()?);
    }
    Ok((maps, programs))
}
