//! One agent's root group in one hierarchy, and the groups below it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::file::{Access, KernelDir, KernelFileError, Operation};

/// Generation of the interface that a hierarchy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// How an attempt to remove a group ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    Removed,
    Absent,
    /// A live process or a child group is inside. Zombies alone do not hold a group.
    /// Kernel: admin-guide/cgroup-v2.rst, "Processes".
    Busy,
}

/// A root group. `group` is a name below it, `""` the root group itself.
///
/// Two implementations: [`KernelTree`], and `fake::cgroups::FakeTree`, which refuses as the kernel refuses.
pub trait Tree: Send + Sync {
    fn version(&self) -> Version;
    fn path(&self) -> &Path;
    /// Makes a group; false if it was there.
    fn make(&self, group: &str) -> Result<bool, KernelFileError>;
    fn remove(&self, group: &str) -> Result<Removal, KernelFileError>;
    /// A descriptor of the group's directory, as CLONE_INTO_CGROUP and BPF_PROG_ATTACH want it.
    fn open_group(&self, group: &str) -> Result<OwnedFd, KernelFileError>;
    fn open(&self, group: &str, file: &str, access: Access) -> Result<OwnedFd, KernelFileError>;
    fn has(&self, group: &str, file: &str) -> bool;
    fn read(&self, group: &str, file: &str, buffer: &mut [u8]) -> Result<usize, KernelFileError>;
    fn read_text(&self, group: &str, file: &str) -> Result<String, KernelFileError>;
    fn write(&self, group: &str, file: &str, value: &str) -> Result<(), KernelFileError>;
    /// Writes, then reads back through the same descriptor.
    fn exchange(
        &self,
        group: &str,
        file: &str,
        value: &str,
        buffer: &mut [u8],
    ) -> Result<usize, KernelFileError>;
    /// Names of the groups directly inside `group`.
    fn groups(&self, group: &str) -> Result<Vec<String>, KernelFileError>;
    /// Removes the root group itself, if nothing is in it.
    fn remove_root(&self) -> Result<Removal, KernelFileError>;
}

/// Depth of nested groups that removal follows; a container that nests deeper is reported busy.
const NESTING_MAX: u32 = 32;

/// Removes a group and, when a child group is what holds it, those below it first.
pub fn remove_with_children(tree: &dyn Tree, group: &str) -> Result<Removal, KernelFileError> {
    remove_below(tree, group, NESTING_MAX)
}

fn remove_below(tree: &dyn Tree, group: &str, depth: u32) -> Result<Removal, KernelFileError> {
    let first = tree.remove(group)?;
    if first != Removal::Busy || depth == 0 {
        return Ok(first);
    }
    let children = match tree.groups(group) {
        Ok(children) => children,
        Err(error) if error.is_absent() => return Ok(Removal::Removed),
        Err(error) => return Err(error),
    };
    if children.is_empty() {
        return Ok(Removal::Busy);
    }
    for child in children {
        if remove_below(tree, &format!("{group}/{child}"), depth - 1)? == Removal::Busy {
            return Ok(Removal::Busy);
        }
    }
    tree.remove(group)
}

/// A root group in a hierarchy that is mounted.
#[derive(Debug)]
pub struct KernelTree {
    version: Version,
    directory: KernelDir,
}

impl KernelTree {
    /// Makes the group `root` in the hierarchy mounted at `mount`, if need be, and keeps it open. The empty
    /// name is the hierarchy's own root.
    pub fn make_root(mount: &Path, root: &str, version: Version) -> Result<Self, KernelFileError> {
        KernelDir::open(mount)?.make_dir(root)?;
        Self::open_root(mount.join(root), version)
    }

    pub fn open_root(path: PathBuf, version: Version) -> Result<Self, KernelFileError> {
        Ok(Self {
            version,
            directory: KernelDir::open(&path)?,
        })
    }
}

impl Tree for KernelTree {
    fn version(&self) -> Version {
        self.version
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn make(&self, group: &str) -> Result<bool, KernelFileError> {
        self.directory.make_dir(group)
    }

    fn remove(&self, group: &str) -> Result<Removal, KernelFileError> {
        removal(self.directory.remove_dir(group))
    }

    fn open_group(&self, group: &str) -> Result<OwnedFd, KernelFileError> {
        self.directory.open_dir(group)
    }

    fn open(&self, group: &str, file: &str, access: Access) -> Result<OwnedFd, KernelFileError> {
        self.directory.open_file(&[group, file], access)
    }

    fn has(&self, group: &str, file: &str) -> bool {
        self.directory.has(&[group, file])
    }

    fn read(&self, group: &str, file: &str, buffer: &mut [u8]) -> Result<usize, KernelFileError> {
        self.directory.read(&[group, file], buffer)
    }

    fn read_text(&self, group: &str, file: &str) -> Result<String, KernelFileError> {
        self.directory.read_text(&[group, file])
    }

    fn write(&self, group: &str, file: &str, value: &str) -> Result<(), KernelFileError> {
        self.directory.write(&[group, file], value)
    }

    fn exchange(
        &self,
        group: &str,
        file: &str,
        value: &str,
        buffer: &mut [u8],
    ) -> Result<usize, KernelFileError> {
        self.directory.exchange(&[group, file], value, buffer)
    }

    fn groups(&self, group: &str) -> Result<Vec<String>, KernelFileError> {
        self.directory.directories(group)
    }

    fn remove_root(&self) -> Result<Removal, KernelFileError> {
        let path = self.directory.path();
        removal(
            std::fs::remove_dir(path)
                .map_err(|cause| KernelFileError::new(Operation::Remove, path.to_owned(), cause)),
        )
    }
}

fn removal(answer: Result<(), KernelFileError>) -> Result<Removal, KernelFileError> {
    match answer {
        Ok(()) => Ok(Removal::Removed),
        Err(error) if error.is_absent() => Ok(Removal::Absent),
        Err(error) if error.is_busy() || error.is_not_empty() => Ok(Removal::Busy),
        Err(error) => Err(error),
    }
}
