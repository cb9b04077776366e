//! What the store needs of a file system, and nothing else: so that tests can give it a disk that forgets.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Locked while a program uses the directory.
const LOCK: &str = "lock";

/// A directory that belongs to one store.
pub trait Directory {
    type File: File;

    /// Names of all files in it.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes `name` (what was there is gone) of `length` zeros, durably allocated.
    fn create(&self, name: &str, length: u64) -> io::Result<Self::File>;
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
            fs::File::open(parent)?.sync_all()?;
        }
        Ok(directory)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn sync_names(&self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()
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
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.path.join(name))?;
        // Zeros, not holes and not merely reserved blocks: a write into blocks that exist and were written changes no
        // metadata, and its fdatasync is one write of the disk.
        let zeros = vec![0; 1 << 20];
        let mut at = 0;
        while at < length {
            let part = (length - at).min(zeros.len() as u64);
            file.write_all_at(&zeros[..part as usize], at)?;
            at += part;
        }
        file.sync_all()?;
        self.sync_names()?;
        Ok(DiskFile(file))
    }

    fn open(&self, name: &str) -> io::Result<DiskFile> {
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path.join(name))
            .map(DiskFile)
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

/// A real file.
#[derive(Debug)]
pub struct DiskFile(fs::File);

impl File for DiskFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
