//! Every path of our own, drawn once.
//!
//! ```text
//! <work_dir>/                      survives a reboot
//!   lock
//!   sandboxes/<id>/                the container's own directory, the only part it can see and write; its time is
//!                                  that of the container's end
//!   output/<id>/                   made at the first byte
//!     stdout stdout.1 …            rotated
//!     stderr stderr.1 …
//!   overlays/<id>/{upper,work}     changes to a --rootfs directory
//!   removals/<id>                  all of these are to go at once, and something was in the way
//!   set-aside/<id>.checkpoint      records that could not be read
//!   cluster/agent_{id,key}, term   who we are to the masters, and the latest leader's term
//!   cluster/tasks/<id>             how a master's task is, and what it has not been told
//! <runtime_dir>/                   survives a crash of the agent, not a reboot
//!   agent.sock  lock  boot_id  token  cgroup_place
//!   bpf/                           a bpffs with the network's pins, once a container is mapped
//!   containers/<id>/
//!     checkpoint                   who it is: written before its command may run
//!     status                       wait status of its command, written by its init
//!   ended/<id>                     how it ended, once nothing of it is left, for as long as it is remembered
//! ```
//!
//! One directory for a container that says nothing: to remove one from a journaling file system costs as much as to make
//! all its control groups. Output lies beside the sandbox, not in it: a container that could swap `stdout` for a link would make
//! the agent write where the link points.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use model::ContainerId;

#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("create directory {path}")]
    Create { path: PathBuf, source: io::Error },
    #[error("open {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("rename {from} to {to}")]
    Rename {
        from: PathBuf,
        to: PathBuf,
        source: io::Error,
    },
    #[error("remove {path}")]
    Remove { path: PathBuf, source: io::Error },
    #[error(
        "{path} belongs to user {uid} and has mode {mode:o}: others could put things into it; give it to root (chown root, chmod 0700) or name another directory"
    )]
    Shared { path: PathBuf, uid: u32, mode: u32 },
    #[error("another agent works in {path}; give this one its own --runtime-dir and --work-dir")]
    Locked { path: PathBuf },
}

/// The two directories of one agent.
#[derive(Debug, Clone)]
pub struct Directories {
    work: PathBuf,
    runtime: PathBuf,
}

impl Directories {
    /// Makes both, readable by nobody else, and takes the locks that keep a second agent out.
    pub fn open(work: &Path, runtime: &Path) -> Result<(Self, [File; 2]), DirectoryError> {
        for path in [work, runtime] {
            make_private(path)?;
        }
        for name in ["containers", ENDED] {
            make_secret(&runtime.join(name))?;
        }
        for name in [SANDBOXES, OUTPUT, OVERLAYS, REMOVALS] {
            make_secret(&work.join(name))?;
        }
        // Without links: children follow none, and hide these very places.
        let real = |path: &Path| {
            path.canonicalize().map_err(|source| DirectoryError::Open {
                path: path.to_owned(),
                source,
            })
        };
        let (work, runtime) = (&*real(work)?, &*real(runtime)?);
        let this = Self {
            work: work.to_owned(),
            runtime: runtime.to_owned(),
        };
        let locks = [lock(runtime)?, lock(work)?];
        Ok((this, locks))
    }

    pub fn work(&self) -> &Path {
        &self.work
    }

    /// Where the network's programs and maps are pinned.
    pub fn network_pins(&self) -> PathBuf {
        self.runtime().join("bpf")
    }

    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    pub fn sandbox(&self, id: &ContainerId) -> PathBuf {
        self.work.join(SANDBOXES).join(id.as_str())
    }

    /// Where its output is, if it has said anything.
    pub fn output(&self, id: &ContainerId) -> PathBuf {
        self.work.join(OUTPUT).join(id.as_str())
    }

    pub fn overlay(&self, id: &ContainerId) -> PathBuf {
        self.work.join(OVERLAYS).join(id.as_str())
    }

    pub fn container_runtime(&self, id: &ContainerId) -> PathBuf {
        self.runtime.join("containers").join(id.as_str())
    }

    pub fn checkpoint(&self, id: &ContainerId) -> PathBuf {
        self.container_runtime(id).join("checkpoint")
    }

    pub fn status(&self, id: &ContainerId) -> PathBuf {
        self.container_runtime(id).join("status")
    }

    /// The group of the v2 tree below which this agent's groups are.
    pub fn cgroup_place(&self) -> PathBuf {
        self.runtime.join("cgroup_place")
    }

    /// Where its end is written down.
    pub fn end_record(&self, id: &ContainerId) -> PathBuf {
        self.runtime.join(ENDED).join(id.as_str())
    }

    /// Containers whose end is written down.
    pub fn ended(&self) -> Result<Vec<ContainerId>, DirectoryError> {
        ids_in(self.runtime.join(ENDED))
    }

    /// Missing is done.
    pub fn forget_end(&self, id: &ContainerId) -> Result<(), DirectoryError> {
        let path = self.end_record(id);
        ignore_missing(fs::remove_file(&path)).map_err(|source| DirectoryError::Remove { path, source })
    }

    pub fn boot_id(&self) -> PathBuf {
        self.runtime.join("boot_id")
    }

    /// What TCP clients have to show: made at the first call, readable by its owner only.
    pub fn token(&self) -> Result<String, DirectoryError> {
        let path = self.runtime.join("token");
        match fs::read_to_string(&path) {
            Ok(text) if text.trim().len() >= 32 => return Ok(text.trim().to_owned()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(DirectoryError::Read { path, source }),
        }
        let token = kernel::system::random_hex().map_err(|source| DirectoryError::Read {
            path: path.clone(),
            source,
        })?;
        write_atomically(&path, token.as_bytes())?;
        Ok(token)
    }

    /// Where it is kept what we are to a cluster; makes the directories.
    pub fn open_cluster(&self) -> Result<(), DirectoryError> {
        make_secret(&self.cluster())?;
        make_secret(&self.tasks())
    }

    fn cluster(&self) -> PathBuf {
        self.work.join("cluster")
    }

    fn tasks(&self) -> PathBuf {
        self.cluster().join("tasks")
    }

    pub fn agent_id(&self) -> PathBuf {
        self.cluster().join("agent_id")
    }

    /// What this agent calls itself until it has an id.
    pub fn agent_key(&self) -> PathBuf {
        self.cluster().join("agent_key")
    }

    pub fn term(&self) -> PathBuf {
        self.cluster().join("term")
    }

    pub fn task(&self, id: &ContainerId) -> PathBuf {
        self.tasks().join(id.as_str())
    }

    /// Tasks that have a record.
    pub fn known_tasks(&self) -> Result<Vec<ContainerId>, DirectoryError> {
        ids_in(self.tasks())
    }

    /// Where a checkpoint that can't be read is kept; makes the directory.
    pub fn set_aside(&self, id: &ContainerId) -> Result<PathBuf, DirectoryError> {
        make_private(&self.work.join(SET_ASIDE))?;
        Ok(self.set_aside_place(id))
    }

    pub fn set_aside_place(&self, id: &ContainerId) -> PathBuf {
        self.work.join(SET_ASIDE).join(format!("{id}.checkpoint"))
    }

    /// Containers that have a folder in the runtime directory. A name that is no id is not ours and left alone.
    pub fn known(&self) -> Result<Vec<ContainerId>, DirectoryError> {
        ids_in(self.runtime.join("containers"))
    }

    /// Makes the directories of one container and the file that its init will write its status to.
    pub fn prepare(&self, id: &ContainerId, overlay: bool) -> Result<File, DirectoryError> {
        // First the one that a successor looks for: what is in the others is found by its name.
        make(&self.container_runtime(id), 0o700)?;
        make(&self.sandbox(id), 0o755)?;
        if overlay {
            make(&self.overlay(id), 0o700)?;
        }
        let path = self.status(id);
        OpenOptions::new()
            .create_new(true)
            // The init maps it.
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| DirectoryError::Open { path, source })
    }

    /// Removes what `prepare` made in the runtime directory. Missing is done.
    pub fn remove_runtime(&self, id: &ContainerId) -> Result<(), DirectoryError> {
        for path in [self.checkpoint(id), self.status(id)] {
            ignore_missing(fs::remove_file(&path))
                .map_err(|source| DirectoryError::Remove { path, source })?;
        }
        let path = self.container_runtime(id);
        match ignore_missing(fs::remove_dir(&path)) {
            Ok(()) => Ok(()),
            // A half-written checkpoint of a crash, nothing else can be here.
            Err(_) => fs::remove_dir_all(&path).map_err(|source| DirectoryError::Remove { path, source }),
        }
    }

    /// Removes the sandbox of a container that has never run. One that holds anything was used, and stays.
    pub fn remove_unused_sandbox(&self, id: &ContainerId) -> Result<(), DirectoryError> {
        let path = self.sandbox(id);
        match ignore_missing(fs::remove_dir(&path)) {
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
                Err(DirectoryError::Remove { path, source: error })
            }
            _ => Ok(()),
        }
    }

    /// Notes that everything of a container that has ended is to be removed, for a successor.
    pub fn mark_for_removal(&self, id: &ContainerId) -> Result<(), DirectoryError> {
        let path = self.removal_note(id);
        File::create(&path)
            .map(drop)
            .map_err(|source| DirectoryError::Open { path, source })
    }

    pub fn removal_note(&self, id: &ContainerId) -> PathBuf {
        self.work.join(REMOVALS).join(id.as_str())
    }
}

fn ids_in(path: PathBuf) -> Result<Vec<ContainerId>, DirectoryError> {
    let entries = fs::read_dir(&path).map_err(|source| DirectoryError::Read { path, source })?;
    Ok(entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect())
}

const ENDED: &str = "ended";
const SANDBOXES: &str = "sandboxes";
const OUTPUT: &str = "output";
const OVERLAYS: &str = "overlays";
const REMOVALS: &str = "removals";
const SET_ASIDE: &str = "set-aside";

/// Replaces `path` at once: after a crash either the old or the new content is there, never a mixture.
/// Not synced: the runtime directory is not meant to survive a power cut, the boot id tells one apart.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<(), DirectoryError> {
    let temporary = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content)
    };
    if let Err(source) = write() {
        let _ = fs::remove_file(&temporary);
        return Err(DirectoryError::Write {
            path: temporary,
            source,
        });
    }
    fs::rename(&temporary, path).map_err(|source| DirectoryError::Rename {
        from: temporary,
        to: path.to_owned(),
        source,
    })
}

/// As [`write_atomically`], and there after a power cut as well.
pub fn write_durably(path: &Path, content: &[u8]) -> Result<(), DirectoryError> {
    write_atomically(path, content)?;
    let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all());
    sync(path)
        .and_then(|()| sync(path.parent().unwrap_or(path)))
        .map_err(|source| DirectoryError::Write {
            path: path.to_owned(),
            source,
        })
}

impl DirectoryError {
    /// There is no room for it.
    pub fn is_full(&self) -> bool {
        let source = std::error::Error::source(self).and_then(|source| source.downcast_ref::<io::Error>());
        source.is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        })
    }
}

impl Directories {
    /// Writes how it ended where there is no room: over the wait status, which has been read, and whose page is ours
    /// since the launch. Most records fit into it; for others there has to be room.
    pub fn write_end_over_status(&self, id: &ContainerId, record: &[u8]) -> io::Result<()> {
        let path = self.end_record(id);
        if self.status(id).exists() {
            fs::rename(self.status(id), &path)?;
        }
        let mut file = OpenOptions::new().write(true).open(&path)?;
        file.write_all(record)?;
        file.set_len(record.len() as u64)
    }
}

/// As [`write_atomically`], unless that is what is there: a full disk must not keep a successor from starting.
pub fn write_if_changed(path: &Path, content: &[u8]) -> Result<(), DirectoryError> {
    match fs::read(path) {
        Ok(present) if present == content => Ok(()),
        _ => write_atomically(path, content),
    }
}

/// For a file that nobody takes for whole while something else says that it is being written.
pub fn write_once(path: &Path, content: &[u8]) -> Result<(), DirectoryError> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600);
    options
        .open(path)
        .and_then(|mut file| file.write_all(content))
        .map_err(|source| DirectoryError::Write {
            path: path.to_owned(),
            source,
        })
}

/// A lock goes with the last copy of its descriptor, and a process that an agent was just making has copies of all until
/// it executes its own program. So a killed agent's lock may outlive it by a moment.
pub fn lock_soon(file: &File) -> Result<(), fs::TryLockError> {
    const TRIES: u32 = 100;
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(10);
    for _ in 1..TRIES {
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
    file.try_lock()
}

fn lock(directory: &Path) -> Result<File, DirectoryError> {
    let path = directory.join("lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|source| DirectoryError::Open {
            path: path.clone(),
            source,
        })?;
    match lock_soon(&lock) {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(DirectoryError::Locked {
            path: directory.to_owned(),
        }),
        Err(fs::TryLockError::Error(source)) => Err(DirectoryError::Open { path, source }),
    }
}

/// Makes a directory that is ours alone. One that is there stays as it is, unless somebody else could put things
/// into it.
fn make_private(path: &Path) -> Result<(), DirectoryError> {
    let failed = |source| DirectoryError::Create {
        path: path.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path.parent().unwrap_or(path))
        .and_then(|()| DirBuilder::new().recursive(true).mode(0o700).create(path))
        .map_err(failed)?;
    let facts = fs::metadata(path).map_err(failed)?;
    if facts.uid() != kernel::system::effective_uid() || facts.mode() & 0o022 != 0 {
        return Err(DirectoryError::Shared {
            path: path.to_owned(),
            uid: facts.uid(),
            mode: facts.mode() & 0o7777,
        });
    }
    Ok(())
}

/// As [`make_private`], for a directory in one of ours: also takes away what others may do in one that is there.
fn make_secret(path: &Path) -> Result<(), DirectoryError> {
    make_private(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(|source| DirectoryError::Create {
        path: path.to_owned(),
        source,
    })
}

fn make(path: &Path, mode: u32) -> Result<(), DirectoryError> {
    let failed = |source| DirectoryError::Create {
        path: path.to_owned(),
        source,
    };
    DirBuilder::new().mode(mode).create(path).map_err(failed)?;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    // Our umask has taken the part of others away.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leftovers::{Extent, LeftoverRemoval};
    use kernel::removal::Step;

    #[test]
    fn a_second_agent_is_kept_out() {
        let dir = tempfile::tempdir().unwrap();
        let (work, run) = (dir.path().join("w"), dir.path().join("r"));
        let (_dirs, _lock) = Directories::open(&work, &run).unwrap();
        let other = dir.path().join("other");
        for (work, run) in [(&work, &run), (&work, &other), (&other, &run)] {
            let error = Directories::open(work, run).unwrap_err();
            assert!(matches!(error, DirectoryError::Locked { .. }), "{error}");
        }
    }

    #[test]
    fn what_was_prepared_is_removed_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (dirs, _lock) = Directories::open(&dir.path().join("w"), &dir.path().join("r")).unwrap();
        let id: ContainerId = "c1".parse().unwrap();
        dirs.prepare(&id, true).unwrap();
        write_atomically(&dirs.checkpoint(&id), b"one").unwrap();
        write_atomically(&dirs.checkpoint(&id), b"two").unwrap();
        assert_eq!(fs::read(dirs.checkpoint(&id)).unwrap(), b"two");
        fs::write(dirs.sandbox(&id).join("file"), b"x").unwrap();
        for _ in 0..2 {
            dirs.remove_runtime(&id).unwrap();
            let mut removal = LeftoverRemoval::new(&dirs, &id, Extent::All);
            while let Step::More = removal.slice() {}
        }
        for left in ["w/sandboxes", "w/output", "w/overlays", "r/containers"] {
            assert_eq!(fs::read_dir(dir.path().join(left)).unwrap().count(), 0);
        }
    }
}
