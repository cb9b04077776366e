//! A disk that forgets: it keeps a log of everything done to it, and can be shown as it would be after a crash at any
//! point of that, with any of the sectors that were not flushed.

#![allow(
    dead_code,
    reason = "several test programs include this file, and each uses another part of it"
)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use replog::sector::SECTOR_BYTES;
use replog::{Directory, File};

#[derive(Clone, Debug)]
pub enum Event {
    /// Durable when it returns.
    Create {
        name: String,
        length: u64,
    },
    Write {
        name: String,
        offset: u64,
        bytes: Vec<u8>,
    },
    Sync {
        name: String,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        name: String,
    },
    /// The test's own mark: operation `n` was answered.
    Done(usize),
}

type Files = BTreeMap<String, Rc<RefCell<Vec<u8>>>>;

#[derive(Clone, Default)]
pub struct Disk {
    files: Rc<RefCell<Files>>,
    pub events: Rc<RefCell<Vec<Event>>>,
    /// Writes and flushes fail from now on.
    pub broken: Rc<Cell<bool>>,
    /// Nothing new can be allocated.
    pub full: Rc<Cell<bool>>,
}

impl Disk {
    pub fn mark(&self, operation: usize) {
        self.events.borrow_mut().push(Event::Done(operation));
    }

    pub fn content(&self, name: &str) -> Vec<u8> {
        self.files.borrow()[name].borrow().clone()
    }

    pub fn set(&self, name: &str, content: Vec<u8>) {
        self.files
            .borrow_mut()
            .insert(name.to_owned(), Rc::new(RefCell::new(content)));
    }

    /// Flips bits of one byte.
    pub fn change(&self, name: &str, at: usize, bits: u8) {
        self.files.borrow()[name].borrow_mut()[at] ^= bits;
    }

    pub fn names(&self) -> Vec<String> {
        self.files.borrow().keys().cloned().collect()
    }

    /// The disk after `events`, and the sectors written since the last flush that could be there or not.
    pub fn after(events: &[Event]) -> (Files, Vec<(String, u64, Vec<u8>)>) {
        let mut files = Files::new();
        let mut unsynced: Vec<(String, u64, Vec<u8>)> = Vec::new();
        for event in events {
            match event {
                Event::Create { name, length } => {
                    files.insert(name.clone(), Rc::new(RefCell::new(vec![0; *length as usize])));
                }
                Event::Write { name, offset, bytes } => {
                    for (at, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                        unsynced.push((name.clone(), offset + (at * SECTOR_BYTES) as u64, sector.to_vec()));
                    }
                }
                Event::Sync { name } => unsynced.retain(|(of, offset, bytes)| {
                    if of == name {
                        put(&files, of, *offset, bytes);
                    }
                    of != name
                }),
                Event::Rename { from, to } => {
                    let file = files.remove(from).unwrap();
                    files.insert(to.clone(), file);
                    unsynced
                        .iter_mut()
                        .filter(|(of, ..)| of == from)
                        .for_each(|(of, ..)| of.clone_from(to));
                }
                Event::Remove { name } => {
                    files.remove(name);
                    unsynced.retain(|(of, ..)| of != name);
                }
                Event::Done(_) => {}
            }
        }
        (files, unsynced)
    }

    /// A disk of its own with a copy of `files`, of which `kept` sectors made it.
    pub fn of(files: &Files, kept: &[&(String, u64, Vec<u8>)]) -> Self {
        let files: Files = files
            .iter()
            .map(|(name, content)| (name.clone(), Rc::new(RefCell::new(content.borrow().clone()))))
            .collect();
        for (name, offset, bytes) in kept {
            put(&files, name, *offset, bytes);
        }
        Self {
            files: Rc::new(RefCell::new(files)),
            ..Self::default()
        }
    }

    fn work(&self) -> io::Result<()> {
        if self.broken.get() {
            Err(io::Error::from_raw_os_error(5))
        } else {
            Ok(())
        }
    }
}

fn put(files: &Files, name: &str, offset: u64, bytes: &[u8]) {
    if let Some(file) = files.get(name) {
        file.borrow_mut()[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
    }
}

impl Directory for Disk {
    type File = OpenFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn create(&self, name: &str, length: u64) -> io::Result<OpenFile> {
        if self.full.get() {
            return Err(io::Error::from_raw_os_error(28));
        }
        self.set(name, vec![0; length as usize]);
        self.events.borrow_mut().push(Event::Create {
            name: name.to_owned(),
            length,
        });
        self.open(name)
    }

    fn open(&self, name: &str) -> io::Result<OpenFile> {
        let content = self
            .files
            .borrow()
            .get(name)
            .cloned()
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(OpenFile {
            disk: self.clone(),
            name: Rc::new(RefCell::new(name.to_owned())),
            content,
        })
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.files
            .borrow()
            .get(name)
            .map(|file| file.borrow().clone())
            .ok_or(io::ErrorKind::NotFound.into())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.work()?;
        let file = self
            .files
            .borrow_mut()
            .remove(from)
            .ok_or(io::ErrorKind::NotFound)?;
        self.files.borrow_mut().insert(to.to_owned(), file);
        self.events.borrow_mut().push(Event::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
        });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.borrow_mut().remove(name);
        self.events.borrow_mut().push(Event::Remove {
            name: name.to_owned(),
        });
        Ok(())
    }
}

pub struct OpenFile {
    disk: Disk,
    name: Rc<RefCell<String>>,
    content: Rc<RefCell<Vec<u8>>>,
}

impl OpenFile {
    /// A file keeps its content over a rename; the log of events has to follow its name.
    fn current_name(&self) -> String {
        let files = self.disk.files.borrow();
        let found = files
            .iter()
            .find(|(_, content)| Rc::ptr_eq(content, &self.content));
        found.map_or_else(|| self.name.borrow().clone(), |(name, _)| name.clone())
    }
}

impl File for OpenFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.content.borrow().len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let content = self.content.borrow();
        let bytes = content.get(offset as usize..offset as usize + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.work()?;
        self.content.borrow_mut()[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        let name = self.current_name();
        self.disk.events.borrow_mut().push(Event::Write {
            name,
            offset,
            bytes: bytes.to_vec(),
        });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.work()?;
        let name = self.current_name();
        self.disk.events.borrow_mut().push(Event::Sync { name });
        Ok(())
    }
}
