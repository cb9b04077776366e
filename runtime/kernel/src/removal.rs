//! Removing a tree that a container has made: of any depth and shape, in slices, with a handful of descriptors.
//!
//! What lies deeper than one level is lifted up into the top and comes in its turn, so that neither a stack nor a path
//! has to be as long as the tree is deep. Links are removed, never followed; a mount is never entered. What can not be
//! removed is stepped over, and told when nothing else is left.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::Errno;
use crate::directory::{self, Entries, Facts};

/// What a removal has come to so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Freed {
    /// On the disk; of a file with several names when its last one goes.
    pub bytes: u64,
    pub files: u64,
    pub directories: u64,
}

impl Freed {
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            files: self.files.saturating_add(other.files),
            directories: self.directories.saturating_add(other.directories),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RemovalError {
    /// Nothing was removed: what is mounted there is somebody's data.
    #[error("{} is mounted below what is to be removed; unmount it first", mount.display())]
    Mounted { mount: PathBuf },
    #[error("read the mount table")]
    Mounts(#[source] std::io::Error),
    #[error("remove {}{}", path.display(), hint(*source))]
    Entry { path: PathBuf, source: Errno },
}

fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EXDEV | Errno::EBUSY => " (something is mounted there: unmount it)",
        Errno::EPERM => " (immutable or append-only: see chattr(1))",
        _ => "",
    }
}

/// What one slice came to.
#[derive(Debug)]
pub enum Step {
    More,
    Done,
    /// Everything that could be removed is; the first thing that could not.
    Stuck(RemovalError),
}

/// What the first look came to.
pub enum Begun {
    Missing,
    /// An empty directory, or none at all: it needed no slices.
    Gone(Freed),
    UnderWay(Removal),
}

struct Inside {
    fd: OwnedFd,
    name: CString,
    entries: Entries,
}

/// A removal under way.
pub struct Removal {
    path: PathBuf,
    parent: OwnedFd,
    name: CString,
    top: OwnedFd,
    entries: Entries,
    inside: Option<Inside>,
    lifted: u64,
    progress: bool,
    failure: Option<RemovalError>,
    pub freed: Freed,
}

impl Removal {
    /// Begins with `name` in `parent`, a directory of ours.
    pub fn begin(parent: &Path, name: &str) -> Result<Begun, RemovalError> {
        let path = parent.join(name);
        let failed = |source| RemovalError::Entry {
            path: path.clone(),
            source,
        };
        // The common cases, an empty one and none, cost one call: each launch pays for them.
        match std::fs::remove_dir(&path) {
            Ok(()) => {
                return Ok(Begun::Gone(Freed {
                    directories: 1,
                    ..Freed::default()
                }));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Begun::Missing),
            Err(_) => {}
        }
        let parent = match directory::open(parent) {
            Err(Errno::ENOENT) => return Ok(Begun::Missing),
            other => other.map_err(failed)?,
        };
        let name = CString::new(name).map_err(|_| failed(Errno::EINVAL))?;
        if !is_really_directory(parent.as_fd(), &name, None).map_err(failed)? {
            let mut freed = Freed::default();
            unlink(parent.as_fd(), &name, &mut freed).map_err(failed)?;
            return Ok(Begun::Gone(freed));
        }
        if let Some(mount) = directory::mounts_below(&path)
            .map_err(RemovalError::Mounts)?
            .into_iter()
            .next()
        {
            return Err(RemovalError::Mounted { mount });
        }
        let top = directory::open_below(parent.as_fd(), &name).map_err(failed)?;
        Ok(Begun::UnderWay(Self {
            path,
            parent,
            name,
            top,
            entries: Entries::default(),
            inside: None,
            lifted: 0,
            progress: false,
            failure: None,
            freed: Freed::default(),
        }))
    }

    /// Handles about so many entries.
    pub fn step(&mut self, operations: u32) -> Step {
        for _ in 0..operations {
            let result = match self.inside.take() {
                Some(inside) => self.below(inside),
                None => match self.at_top() {
                    Ok(None) => Ok(()),
                    Ok(Some(end)) => return end,
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = result {
                self.failure.get_or_insert(error);
            }
        }
        Step::More
    }

    /// One entry of the top; at its end, what has become of it.
    fn at_top(&mut self) -> Result<Option<Step>, RemovalError> {
        let next = self.entries.next(self.top.as_fd());
        let entry = match next {
            Ok(Some(entry)) => (entry.name.to_owned(), entry.directory),
            Ok(None) => return Ok(Some(self.end_of_pass())),
            Err(source) => {
                let path = self.path.clone();
                return Ok(Some(Step::Stuck(RemovalError::Entry { path, source })));
            }
        };
        let (name, is_directory) = entry;
        let failed = |source| error_at(&self.path, &[&name], source);
        if !is_really_directory(self.top.as_fd(), &name, is_directory).map_err(failed)? {
            return unlink(self.top.as_fd(), &name, &mut self.freed)
                .map(|gone| self.progress |= gone)
                .map_err(failed)
                .map(|()| None);
        }
        match directory::remove_directory(self.top.as_fd(), &name) {
            Ok(()) => self.removed_directory(),
            Err(Errno::ENOENT) => {}
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                let fd = directory::open_below(self.top.as_fd(), &name).map_err(failed)?;
                self.inside = Some(Inside {
                    fd,
                    name,
                    entries: Entries::default(),
                });
            }
            Err(source) => return Err(failed(source)),
        }
        Ok(None)
    }

    /// One entry of a directory in the top; at its end the directory itself.
    fn below(&mut self, mut inside: Inside) -> Result<(), RemovalError> {
        let next = inside
            .entries
            .next(inside.fd.as_fd())
            .map(|entry| entry.map(|entry| (entry.name.to_owned(), entry.directory)));
        let (name, is_directory) = match next {
            Ok(Some(entry)) => entry,
            Ok(None) => {
                return match directory::remove_directory(self.top.as_fd(), &inside.name) {
                    Ok(()) => {
                        self.removed_directory();
                        Ok(())
                    }
                    Err(source) => Err(error_at(&self.path, &[&inside.name], source)),
                };
            }
            Err(source) => return Err(error_at(&self.path, &[&inside.name], source)),
        };
        let result = self.remove_below(&inside, &name, is_directory);
        let path = [inside.name.as_c_str(), &name];
        let result = result.map_err(|source| error_at(&self.path, &path, source));
        self.inside = Some(inside);
        result
    }

    fn remove_below(
        &mut self,
        inside: &Inside,
        name: &CStr,
        is_directory: Option<bool>,
    ) -> Result<(), Errno> {
        let fd = inside.fd.as_fd();
        if !is_really_directory(fd, name, is_directory)? {
            self.progress |= unlink(fd, name, &mut self.freed)?;
            return Ok(());
        }
        match directory::remove_directory(fd, name) {
            Ok(()) => self.removed_directory(),
            Err(Errno::ENOENT) => {}
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => self.lift(inside, name)?,
            Err(errno) => return Err(errno),
        }
        Ok(())
    }

    fn lift(&mut self, inside: &Inside, name: &CStr) -> Result<(), Errno> {
        // A mount point can not be renamed, but a directory above one can: it would be carried along.
        drop(directory::open_below(inside.fd.as_fd(), name)?);
        loop {
            self.lifted += 1;
            let new = CString::new(format!(".lifted-{}", self.lifted)).map_err(|_| Errno::EINVAL)?;
            match directory::rename(inside.fd.as_fd(), name, self.top.as_fd(), &new) {
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
                Ok(()) => break,
            }
        }
        self.progress = true;
        Ok(())
    }

    fn removed_directory(&mut self) {
        self.progress = true;
        self.freed.directories += 1;
    }

    fn end_of_pass(&mut self) -> Step {
        let failed = |source| {
            let path = self.path.clone();
            Step::Stuck(RemovalError::Entry { path, source })
        };
        match directory::remove_directory(self.parent.as_fd(), &self.name) {
            Ok(()) | Err(Errno::ENOENT) => {
                self.freed.directories += 1;
                Step::Done
            }
            Err(Errno::ENOTEMPTY | Errno::EEXIST) if self.progress => {
                self.progress = false;
                self.failure = None;
                match self.entries.seek(self.top.as_fd(), 0) {
                    Ok(()) => Step::More,
                    Err(errno) => failed(errno),
                }
            }
            Err(errno) => match self.failure.take() {
                Some(failure) => Step::Stuck(failure),
                None => failed(errno),
            },
        }
    }
}

fn error_at(top: &Path, names: &[&CStr], source: Errno) -> RemovalError {
    let path = names.iter().fold(top.to_owned(), |path, name| {
        path.join(OsStr::from_bytes(name.to_bytes()))
    });
    RemovalError::Entry { path, source }
}

fn is_really_directory(
    at: std::os::fd::BorrowedFd<'_>,
    name: &CStr,
    told: Option<bool>,
) -> Result<bool, Errno> {
    match told {
        Some(told) => Ok(told),
        None => match directory::facts(at, name) {
            Ok(facts) => Ok(facts.directory),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno),
        },
    }
}

fn unlink(at: std::os::fd::BorrowedFd<'_>, name: &CStr, freed: &mut Freed) -> Result<bool, Errno> {
    let before = directory::facts(at, name);
    match directory::remove_file(at, name) {
        Ok(()) => {
            freed.files += 1;
            if let Ok(Facts { links: 1, bytes, .. }) = before {
                freed.bytes = freed.bytes.saturating_add(bytes);
            }
            Ok(true)
        }
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn remove(parent: &Path, name: &str) -> (Step, Freed) {
        let mut removal = match Removal::begin(parent, name).unwrap() {
            Begun::UnderWay(removal) => removal,
            Begun::Missing => return (Step::Done, Freed::default()),
            Begun::Gone(freed) => return (Step::Done, freed),
        };
        for _ in 0..1_000_000 {
            match removal.step(7) {
                Step::More => {}
                end => return (end, removal.freed),
            }
        }
        panic!("never comes to an end");
    }

    #[test]
    fn a_tree_deeper_than_any_stack_is_removed_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), b"x").unwrap();
        let top = dir.path().join("top");
        fs::create_dir(&top).unwrap();
        std::os::unix::fs::symlink(&outside, top.join("link")).unwrap();
        fs::write(top.join(".lifted-1"), b"in the way").unwrap();
        // Built from the inside out, as no path may be that long.
        let mut inner = top.join("d0");
        fs::create_dir(&inner).unwrap();
        for n in 1..5_000 {
            let outer = top.join(format!("d{n}"));
            fs::create_dir(&outer).unwrap();
            fs::rename(&inner, outer.join("x")).unwrap();
            inner = outer;
        }
        let (end, freed) = remove(dir.path(), "top");
        assert!(matches!(end, Step::Done), "{end:?}");
        assert_eq!((freed.directories, freed.files), (5_001, 2));
        assert!(!top.exists() && outside.join("kept").exists());
    }

    #[test]
    fn what_is_missing_is_done_and_a_link_is_only_a_link() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("kept")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("kept"), dir.path().join("link")).unwrap();
        assert!(matches!(remove(dir.path(), "none").0, Step::Done));
        assert!(matches!(remove(dir.path(), "link").0, Step::Done));
        assert!(dir.path().join("kept").exists() && !dir.path().join("link").exists());
    }

    #[test]
    fn freed_bytes_are_those_of_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir(&top).unwrap();
        fs::write(top.join("full"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(top.join("full"), top.join("again")).unwrap();
        fs::File::create(top.join("sparse"))
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        let (_, freed) = remove(dir.path(), "top");
        assert_eq!(freed.files, 3);
        assert!((1 << 20..1 << 21).contains(&freed.bytes), "{freed:?}");
    }
}
