//! The end of a container: stopped, killed, its groups removed; and finding those that somebody left.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use kernel::cgroup::freezer::{self, FreezeState};
use kernel::cgroup::processes::{is_populated, kill_at_once, kill_each, list};
use kernel::cgroup::tree::remove_with_children;
use kernel::cgroup::{Group, Removal};
use model::{ContainerId, Controller};

use crate::error::{CleanupError, FreezeError, KillError, ListError};
use crate::set::IsolatorSet;

/// How a cleanup ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cleanup {
    Done,
    /// A group still has processes: kill them, or wait for them, and ask again.
    Busy {
        path: PathBuf,
        pids: Vec<i32>,
    },
}

impl fmt::Display for Cleanup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Busy { path, pids } => {
                write!(
                    f,
                    "control group {} is in use by processes {pids:?}",
                    path.display()
                )
            }
        }
    }
}

/// rmdir may answer EBUSY for a moment after the last process was reaped; this long it is tried again on
/// the spot before the caller is told.
const REMOVAL_PAUSES: [Duration; 3] = [
    Duration::from_micros(200),
    Duration::from_micros(500),
    Duration::from_millis(1),
];

/// How long `kill_all` goes on signalling where `cgroup.kill` does not exist.
const KILL_PATIENCE: Duration = Duration::from_millis(50);

impl IsolatorSet {
    /// Kills every process of the container, frozen ones included. Does not wait for them to be reaped.
    pub fn kill_all(&self, id: &ContainerId) -> Result<(), KillError> {
        let failed = |source| KillError::File {
            id: id.clone(),
            source,
        };
        if let Some(unified) = self.trees.unified() {
            let group = self.group(unified, id);
            let was_populated = is_populated(group).map_err(failed)?;
            if was_populated == Some(true) && kill_at_once(group).map_err(failed)? {
                return Ok(());
            }
        }
        // No `cgroup.kill` (before 5.14), or somebody who is only in a v1 group.
        for tree in self.trees.all() {
            let group = self.group(tree, id);
            if list(group).map_err(failed)?.is_empty() {
                continue;
            }
            if let (None, Some(freezer)) = (self.trees.unified(), self.trees.of(Controller::Freezer)) {
                // A process frozen by v1 does not die before it is thawed.
                match freezer::thaw(self.group(freezer, id)) {
                    Ok(_) => {}
                    Err(error) if error.is_absent() => {}
                    Err(error) => return Err(failed(error)),
                }
            }
            let alive = kill_each(group, KILL_PATIENCE).map_err(failed)?;
            if !alive.is_empty() {
                return Err(KillError::Alive {
                    id: id.clone(),
                    pids: alive,
                });
            }
        }
        Ok(())
    }

    /// Removes the groups, last made first. Idempotent: what is gone is done.
    pub fn cleanup(&self, id: &ContainerId) -> Result<Cleanup, CleanupError> {
        for tree in self.trees.all().rev() {
            let group = self.group(tree, id);
            let failed = |source| CleanupError {
                id: id.clone(),
                source,
            };
            let mut removal = remove_with_children(group.tree, group.name).map_err(failed)?;
            for pause in REMOVAL_PAUSES {
                if removal != Removal::Busy || !list(group).map_err(failed)?.is_empty() {
                    break;
                }
                std::thread::sleep(pause);
                removal = remove_with_children(group.tree, group.name).map_err(failed)?;
            }
            if removal == Removal::Busy {
                let pids = list(group).map_err(failed)?;
                return Ok(Cleanup::Busy {
                    path: group.tree.path().join(group.name),
                    pids,
                });
            }
        }
        Ok(Cleanup::Done)
    }

    /// Containers that have a group, in any hierarchy.
    pub fn orphans(&self) -> Result<Vec<ContainerId>, ListError> {
        let mut found = Vec::new();
        for tree in self.trees.all() {
            let names = self.trees.tree(tree).groups("")?;
            found.extend(
                names
                    .into_iter()
                    .filter_map(|name| ContainerId::try_from(name).ok()),
            );
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// Pids in the container, in the agent's pid namespace; none if it is gone.
    pub fn pids(&self, id: &ContainerId) -> Result<Vec<i32>, ListError> {
        let tree = self.trees.unified().or_else(|| self.trees.all().next());
        Ok(tree
            .map(|tree| list(self.group(tree, id)))
            .transpose()?
            .unwrap_or_default())
    }

    fn freezing_group<'a>(&'a self, id: &'a ContainerId) -> Result<Group<'a>, FreezeError> {
        let tree = self
            .trees
            .unified()
            .or_else(|| self.trees.of(Controller::Freezer));
        tree.map(|tree| self.group(tree, id))
            .ok_or(FreezeError::Unsupported)
    }

    /// Stops every process where it is.
    pub fn freeze(&self, id: &ContainerId) -> Result<FreezeState, FreezeError> {
        freezer::freeze(self.freezing_group(id)?).map_err(|source| FreezeError::File {
            id: id.clone(),
            source,
        })
    }

    pub fn thaw(&self, id: &ContainerId) -> Result<FreezeState, FreezeError> {
        freezer::thaw(self.freezing_group(id)?).map_err(|source| FreezeError::File {
            id: id.clone(),
            source,
        })
    }
}
