//! What became of a finished container's directories.

use serde::{Deserialize, Serialize};

use crate::ids::{ContainerId, ContainerName};
use crate::units::Millis;

/// Directories that a finished container left, removed or to be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    pub id: ContainerId,
    /// If the agent still remembers it.
    pub name: Option<ContainerName>,
    /// Since its end.
    pub age: Millis,
    /// On the disk.
    pub bytes: u64,
    pub files: u64,
    pub directories: u64,
    /// Why it is still there.
    pub trouble: Option<String>,
}

impl Removed {
    /// Nothing yet.
    pub fn of(id: ContainerId) -> Self {
        Self {
            id,
            name: None,
            age: Millis(0),
            bytes: 0,
            files: 0,
            directories: 0,
            trouble: None,
        }
    }
}
