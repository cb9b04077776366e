//! What a tree takes on the disk, as du(1) counts: allocated blocks, a file with several names once, no link followed, no
//! mount entered. The tree may be as deep as it likes and change while it is walked.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::Errno;
use crate::directory::{self, Entries, Facts, Handle};

/// Directories that are kept open on the way down. What is further up is found again by its handle, wherever it has been
/// moved to: a container that keeps moving things does not shake us off.
const OPEN_MAX: usize = 32;
/// Files with several names that are remembered, some 24 bytes each. Of those beyond it each name counts its share.
const LINKED_MAX: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskUse {
    pub bytes: u64,
    pub files: u64,
    pub directories: u64,
}

/// Measures several trees as one: a file with a name in each counts once.
#[derive(Default)]
pub struct Measure {
    found: DiskUse,
    linked: HashSet<((u32, u32), u64)>,
}

struct Frame {
    fd: Kept,
    place: ((u32, u32), u64),
    next: i64,
}

enum Kept {
    Open(OwnedFd),
    /// The walk is far below.
    Closed(Option<Box<Handle>>),
}

impl Measure {
    /// Adds the tree below (and with) `top`. What vanishes meanwhile, or may not be read, counts nothing.
    pub fn add(&mut self, top: BorrowedFd<'_>) -> Result<(), Errno> {
        let facts = directory::facts(top, c"")?;
        self.count(&facts);
        let mut current = top.try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
        let mut frames = vec![Frame::new(&facts)];
        let mut entries = Entries::default();
        // A descriptor shares its place with the one that it was copied from.
        entries.seek(current.as_fd(), 0)?;
        while let Some(frame) = frames.last_mut() {
            match self.walk(current.as_fd(), &mut entries, &mut frame.next) {
                Some((below, facts)) => {
                    frame.fd = Kept::Open(std::mem::replace(&mut current, below));
                    if let Some(passed) = frames.len().checked_sub(OPEN_MAX) {
                        frames[passed].close();
                    }
                    frames.push(Frame::new(&facts));
                    entries = Entries::default();
                }
                None => {
                    frames.pop();
                    // What is gone for good has nothing more to count.
                    while let Some(frame) = frames.last_mut() {
                        if let Some(fd) = frame.open(top, current.as_fd()) {
                            current = fd;
                            entries.seek(current.as_fd(), frame.next)?;
                            break;
                        }
                        frames.pop();
                    }
                }
            }
        }
        Ok(())
    }

    /// Counts entries up to the next directory; none at the end.
    fn walk(
        &mut self,
        at: BorrowedFd<'_>,
        entries: &mut Entries,
        next: &mut i64,
    ) -> Option<(OwnedFd, Facts)> {
        while let Ok(Some(entry)) = entries.next(at) {
            *next = entry.next;
            let Ok(facts) = directory::facts(at, entry.name) else {
                continue;
            };
            if !facts.directory {
                self.count(&facts);
                continue;
            }
            let Ok(fd) = directory::open_below(at, entry.name) else {
                continue;
            };
            // Of what was opened, in case it was swapped.
            if let Ok(facts) = directory::facts(fd.as_fd(), c"") {
                self.count(&facts);
                return Some((fd, facts));
            }
        }
        None
    }

    fn count(&mut self, facts: &Facts) {
        if facts.directory {
            self.found.directories += 1;
        } else {
            self.found.files += 1;
        }
        let bytes = match facts.links {
            _ if facts.directory => facts.bytes,
            0 | 1 => facts.bytes,
            _ if self.linked.contains(&(facts.device, facts.inode)) => 0,
            links if self.linked.len() >= LINKED_MAX => facts.bytes / u64::from(links),
            _ => {
                self.linked.insert((facts.device, facts.inode));
                facts.bytes
            }
        };
        self.found.bytes = self.found.bytes.saturating_add(bytes);
    }

    pub fn found(&self) -> DiskUse {
        self.found
    }
}

impl Frame {
    fn new(facts: &Facts) -> Self {
        Self {
            fd: Kept::Closed(None),
            place: (facts.device, facts.inode),
            next: 0,
        }
    }

    fn close(&mut self) {
        if let Kept::Open(fd) = &self.fd {
            self.fd = Kept::Closed(Handle::of(fd.as_fd()).ok().map(Box::new));
        }
    }

    /// The directory again. Where there are no handles it is looked for above `below`, and taken only if it is the same:
    /// nothing outside is ever counted.
    fn open(&mut self, top: BorrowedFd<'_>, below: BorrowedFd<'_>) -> Option<OwnedFd> {
        let found = match std::mem::replace(&mut self.fd, Kept::Closed(None)) {
            Kept::Open(fd) => return Some(fd),
            Kept::Closed(Some(handle)) => handle.open(top).or_else(|_| directory::open_parent(below)),
            Kept::Closed(None) => directory::open_parent(below),
        };
        found.ok().filter(|fd| {
            directory::facts(fd.as_fd(), c"").is_ok_and(|facts| (facts.device, facts.inode) == self.place)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn measure(path: &Path) -> DiskUse {
        let mut measure = Measure::default();
        measure.add(directory::open(path).unwrap().as_fd()).unwrap();
        measure.found()
    }

    #[test]
    fn holes_are_free_and_names_are_too() {
        let dir = tempfile::tempdir().unwrap();
        let base = measure(dir.path()).bytes;
        fs::write(dir.path().join("full"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(dir.path().join("full"), dir.path().join("again")).unwrap();
        fs::File::create(dir.path().join("sparse"))
            .unwrap()
            .set_len(1 << 34)
            .unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        let found = measure(dir.path());
        assert_eq!((found.files, found.directories), (4, 1));
        assert!(
            (base + (1 << 20)..base + (1 << 20) + 65536).contains(&found.bytes),
            "{found:?}"
        );
    }

    #[test]
    fn a_deep_and_wide_tree_is_counted_whole() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        let mut inner = top.join("d0");
        fs::create_dir(&inner).unwrap();
        for n in 1..300 {
            let outer = top.join(format!("d{n}"));
            fs::create_dir(&outer).unwrap();
            fs::rename(&inner, outer.join("x")).unwrap();
            for side in 0..5 {
                fs::create_dir(outer.join(format!("side{side}"))).unwrap();
                fs::write(outer.join(format!("side{side}/f")), b"x").unwrap();
            }
            inner = outer;
        }
        let found = measure(top);
        assert_eq!((found.directories, found.files), (1 + 300 + 299 * 5, 299 * 5));
    }

    #[test]
    fn it_agrees_with_du() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path();
        for n in 0..40_u64 {
            let folder = top.join(format!("d{n}"));
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("full"), vec![7; (n * 1_777) as usize]).unwrap();
            fs::File::create(folder.join("sparse"))
                .unwrap()
                .set_len(n << 20)
                .unwrap();
            fs::hard_link(folder.join("full"), folder.join("twice")).unwrap();
            std::os::unix::fs::symlink("/usr", folder.join("link")).unwrap();
        }
        let du = std::process::Command::new("du")
            .args(["-s", "-B1"])
            .arg(top)
            .output()
            .unwrap();
        let text = String::from_utf8(du.stdout).unwrap();
        let expected: u64 = text.split_whitespace().next().unwrap().parse().unwrap();
        assert_eq!(measure(top).bytes, expected);
    }
}
