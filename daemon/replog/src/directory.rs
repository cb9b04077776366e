//! What the store needs of a file system, and nothing else: so that tests can give it a disk that forgets.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Writes past the page cache begin, end and lie in memory at multiples of this; else the cache is used.
pub const ALIGNMENT: usize = 512;

/// Of the kernel's ABI (`fcntl.h`), which differs between architectures.
const O_DIRECT: i32 = if cfg!(target_arch = "x86_64") {
    0o40_000
} else if cfg!(target_arch = "aarch64") {
    0o200_000
} else {
    0
};

/// What is as large is made past the page cache.
const LARGE_BYTES: u64 = 1 << 20;

/// Locked while a program uses the directory.
const LOCK: &str = "lock";

/// A directory that belongs to one store.
pub trait Directory {
    type File: File;

    /// Names of all files in it.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes `name` (what was there is gone) of `length` zeros, durably allocated.
    fn create(&self, name: &str, length: u64) -> io::Result<Self::File>;
    /// [`Directory::create`] in parts, each beginning where the last one ended. Nothing holds before the one that ends at
    /// `length`.
    fn create_part(&self, name: &str, part: Range<u64>, length: u64) -> io::Result<()> {
        if part.end >= length {
            self.create(name, length)?;
        }
        Ok(())
    }
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// The whole content.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;
    /// Puts a file that is durable already in the place of `to`, durably and all at once.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Nothing is done to it any more: somebody else may use it.
    fn close(&self) {}
}

/// A file of fixed length.
pub trait File {
    /// Its length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Fills `buffer` from `offset`. An end before that is `UnexpectedEof`.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Returns when everything written is durable. After an error nothing is known of what was written since the
    /// last success, and calling again proves nothing: the kernel drops the pages that it could not write.
    fn sync(&self) -> io::Result<()>;
}

/// A real directory.
#[derive(Clone, Debug)]
pub struct DiskDirectory {
    path: PathBuf,
    lock: Arc<fs::File>,
}

impl DiskDirectory {
    /// Makes the directory if it is not there. It is this program's until the last clone goes, or [`Directory::close`]:
    /// two that write to the same segments would promise what the other overwrites.
    pub fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        let lock = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::ResourceBusy,
                "a running replica uses it; stop that one first, or ask it with --at",
            ),
            fs::TryLockError::Error(error) => error,
        })?;
        let directory = Self {
            path: path.to_path_buf(),
            lock: Arc::new(lock),
        };
        if let Some(parent) = path.parent() {
            // A bare name lies in the current directory, which has an empty name here.
            let bare = parent.as_os_str().is_empty();
            fs::File::open(if bare { Path::new(".") } else { parent })?.sync_all()?;
        }
        Ok(directory)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn sync_names(&self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()
    }

    fn make_part(&self, name: &str, part: Range<u64>, length: u64) -> io::Result<DiskFile> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(part.start == 0)
            .truncate(part.start == 0)
            .open(self.path.join(name))?;
        let file = DiskFile {
            direct: (length >= LARGE_BYTES).then(|| self.direct(name)).flatten(),
            file,
        };
        // Zeros, not holes and not merely reserved blocks: a write into blocks that exist and were written changes no
        // metadata, and its fdatasync is one write of the disk.
        let most = ZEROS_BYTES.min((part.end - part.start) as usize);
        let mut zeros = Aligned::default();
        zeros.clear(most);
        zeros.resize(most);
        let mut at = part.start;
        while at < part.end {
            let count = (part.end - at).min(most as u64);
            file.write_at(&zeros.bytes()[..count as usize], at)?;
            at += count;
        }
        if part.end >= length {
            file.file.sync_all()?;
            self.sync_names()?;
        }
        Ok(file)
    }

    /// `None`: this file system can't, or this program does not know how to ask for it.
    fn direct(&self, name: &str) -> Option<fs::File> {
        if O_DIRECT == 0 {
            return None;
        }
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).custom_flags(O_DIRECT);
        options.open(self.path.join(name)).ok()
    }
}

impl Directory for DiskDirectory {
    type File = DiskFile;

    fn list(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.path)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn create(&self, name: &str, length: u64) -> io::Result<DiskFile> {
        self.make_part(name, 0..length, length)
    }

    fn create_part(&self, name: &str, part: Range<u64>, length: u64) -> io::Result<()> {
        self.make_part(name, part, length).map(drop)
    }

    fn open(&self, name: &str) -> io::Result<DiskFile> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path.join(name))?;
        Ok(DiskFile {
            direct: self.direct(name),
            file,
        })
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))?;
        self.sync_names()
    }

    fn close(&self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!("log store: cannot unlock {}: {error}", self.path.display());
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.sync_names()
    }
}

/// A real file. Batches go past the page cache: nobody reads them soon, copying them costs as much as all else that is done to
/// them, and fresh pages for each segment cost more.
#[derive(Debug)]
pub struct DiskFile {
    file: fs::File,
    direct: Option<fs::File>,
}

impl DiskFile {
    fn direct_for(&self, memory: &[u8], offset: u64) -> Option<&fs::File> {
        let aligned = (memory.as_ptr().addr() | memory.len() | offset as usize).is_multiple_of(ALIGNMENT);
        self.direct.as_ref().filter(|_| aligned)
    }
}

/// A disk with larger blocks says so by this error.
fn misaligned(outcome: &io::Result<()>) -> bool {
    matches!(outcome, Err(error) if error.kind() == io::ErrorKind::InvalidInput)
}

impl File for DiskFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if let Some(direct) = self.direct_for(buffer, offset) {
            let read = direct.read_exact_at(buffer, offset);
            if !misaligned(&read) {
                return read;
            }
        }
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Some(direct) = self.direct_for(bytes, offset) {
            let written = direct.write_all_at(bytes, offset);
            if !misaligned(&written) {
                return written;
            }
        }
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

const ZEROS_BYTES: usize = 1 << 20;

/// Memory that may be written from, or read to, past the page cache.
#[derive(Debug, Default)]
pub(crate) struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    /// Empty, with room for so many bytes: what goes beyond may no longer be aligned.
    pub fn clear(&mut self, room: usize) {
        self.memory.clear();
        self.memory.reserve(room + ALIGNMENT);
        self.start = self.memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        self.memory.resize(self.start, 0);
    }

    pub fn resize(&mut self, length: usize) {
        self.memory.resize(self.start + length, 0);
    }

    /// To be appended to.
    pub fn memory(&mut self) -> &mut Vec<u8> {
        &mut self.memory
    }

    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..]
    }

    pub fn room(&self) -> usize {
        self.memory.capacity()
    }
}
