//! What finished containers left in the work directory: found, measured, removed.
//!
//! Its age counts from the end of the container, which is kept as the time of its sandbox directory; of what was never
//! ended by us, from the last change of the youngest directory.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use kernel::Errno;
use kernel::directory;
use kernel::disk_use::Measure;
use kernel::removal::{Begun, Freed, Removal, RemovalError, Step};
use model::{ContainerId, Removed};

use crate::work_dir::{Directories, DirectoryError};

/// Something found on disk of a container that nobody runs.
pub struct Found {
    pub id: ContainerId,
    /// Milliseconds since the epoch; 0 if it can't be read.
    pub changed_ms: u64,
    /// It was to go at once.
    pub wanted: bool,
}

/// What of a container is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Changes to a `--rootfs` directory: always, at its end.
    Overlay,
    All,
}

/// The removal of one container's directories, in slices.
pub struct LeftoverRemoval {
    places: VecDeque<(PathBuf, String)>,
    current: Option<Removal>,
    freed: Freed,
    failure: Option<RemovalError>,
}

impl LeftoverRemoval {
    pub fn new(directories: &Directories, id: &ContainerId, extent: Extent) -> Self {
        let mut places = match extent {
            Extent::Overlay => vec![directories.overlay(id)],
            Extent::All => vec![
                directories.overlay(id),
                directories.sandbox(id),
                directories.output(id),
                directories.set_aside_place(id),
            ],
        };
        if extent == Extent::All {
            // Last: as long as it is there, a successor goes on.
            places.push(directories.removal_note(id));
        }
        let split = |path: PathBuf| {
            let name = path.file_name()?.to_str()?.to_owned();
            Some((path.parent()?.to_owned(), name))
        };
        Self {
            places: places.into_iter().filter_map(split).collect(),
            current: None,
            freed: Freed::default(),
            failure: None,
        }
    }

    /// Handles about so many entries. Goes on behind what can't be removed; its note stays then.
    pub fn step(&mut self, operations: u32) -> Step {
        if self.current.is_none() {
            let last = self.places.len() == 1;
            let place = self
                .places
                .pop_front()
                .filter(|_| !(last && self.failure.is_some()));
            let Some((parent, name)) = place else {
                return match self.failure.take() {
                    Some(failure) => Step::Stuck(failure),
                    None => Step::Done,
                };
            };
            match Removal::begin(&parent, &name) {
                Ok(Begun::UnderWay(removal)) => self.current = Some(removal),
                Ok(Begun::Gone(_)) if last => {}
                Ok(Begun::Gone(freed)) => self.freed = self.freed.and(freed),
                Ok(Begun::Missing) => {}
                Err(error) => drop(self.failure.get_or_insert(error)),
            }
            return Step::More;
        }
        if let Some(removal) = &mut self.current {
            match removal.step(operations) {
                Step::More => return Step::More,
                Step::Done => {}
                Step::Stuck(error) => drop(self.failure.get_or_insert(error)),
            }
            self.freed = self.freed.and(removal.freed);
            self.current = None;
        }
        Step::More
    }

    /// One slice: a few milliseconds of a worker, so that launches get their turn in between.
    pub fn slice(&mut self) -> Step {
        const OPERATIONS: u32 = 512;
        // The places themselves are a handful.
        for _ in 0..8 {
            let under_way = self.current.is_some();
            match self.step(OPERATIONS) {
                Step::More if under_way && self.current.is_some() => return Step::More,
                Step::More => {}
                end => return end,
            }
        }
        Step::More
    }

    pub fn freed(&self) -> Freed {
        self.freed
    }
}

impl Directories {
    /// Everything on disk that belongs to a container without a directory in the runtime directory.
    pub fn leftovers(&self) -> Result<Vec<Found>, DirectoryError> {
        let mut found: BTreeMap<ContainerId, Found> = BTreeMap::new();
        for (place, suffix, wanted) in self.leftover_places() {
            let entries = match std::fs::read_dir(&place) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(source) => return Err(DirectoryError::Read { path: place, source }),
            };
            for entry in entries.flatten() {
                // A name that is no id is not ours and left alone.
                let name = entry.file_name();
                let id = name
                    .to_str()
                    .and_then(|name| name.strip_suffix(suffix))
                    .and_then(|text| text.parse().ok());
                let Some(id) = id.filter(|id| !self.container_runtime(id).exists()) else {
                    continue;
                };
                let changed_ms = changed_ms(&entry.path());
                let known: &ContainerId = &id;
                let entry = found.entry(known.clone()).or_insert(Found {
                    id,
                    changed_ms: 0,
                    wanted: false,
                });
                entry.changed_ms = entry.changed_ms.max(changed_ms);
                entry.wanted |= wanted;
            }
        }
        Ok(found.into_values().collect())
    }

    fn leftover_places(&self) -> [(PathBuf, &'static str, bool); 5] {
        let work = self.work();
        [
            (work.join("sandboxes"), "", false),
            (work.join("output"), "", false),
            (work.join("overlays"), "", false),
            (work.join("set-aside"), ".checkpoint", false),
            (work.join("removals"), "", true),
        ]
    }

    /// Notes that its container has ended now.
    pub fn note_end(&self, id: &ContainerId) {
        let path = self.sandbox(id);
        if let Err(error) = directory::touch(&path)
            && error != Errno::ENOENT
        {
            tracing::warn!(container = %id, "note the end as the time of {}: {error}", path.display());
        }
    }

    /// What a container's directories take on the disk.
    pub fn measure(&self, id: &ContainerId) -> Removed {
        let mut measure = Measure::default();
        let mut removed = Removed::of(id.clone());
        for path in [self.sandbox(id), self.output(id), self.overlay(id)] {
            let result = match directory::open_no_link(&path) {
                Err(Errno::ENOENT) => Ok(()),
                Err(errno) => Err(errno),
                Ok(top) => measure.add(top.as_fd()),
            };
            if let Err(errno) = result {
                removed.trouble = Some(format!("measure {}: {errno}", path.display()));
            }
        }
        let found = measure.found();
        removed.bytes = found.bytes;
        removed.files = found.files;
        removed.directories = found.directories;
        removed
    }
}

fn changed_ms(path: &Path) -> u64 {
    let changed = std::fs::symlink_metadata(path).and_then(|facts| facts.modified());
    let since = changed
        .ok()
        .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_millis() as u64)
}
