//! One step of a launch, as data.

use std::ffi::{CStr, CString};
use std::fmt;

use serde::{Deserialize, Serialize};

/// What the init does to make the container's view of the world. The order in a plan matters: sources
/// are taken while the host's root is still in sight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Takes a detached copy of the mounts at a host path. Sources are numbered from 0 in order.
    HoldSource {
        path: CString,
        owners: Owners,
    },
    /// Notes type and number of a host device node.
    HoldDevice {
        path: CString,
    },
    /// Takes the v1 groups that the child has joined below these roots; the second is the name that each
    /// gets in the container.
    HoldGroups {
        hierarchies: Vec<(CString, CString)>,
    },
    /// The host's root and everything mounted below it: private, read-only, no devices, no
    /// set-user-id.
    HostRoot,
    /// An overlay over `lower` becomes the root; changes go below `layers`.
    OverlayRoot {
        lower: CString,
        layers: CString,
        /// Files of `lower` are seen under the container's own ids.
        mapped: bool,
    },
    /// A procfs of the container's own pid namespace.
    Processes,
    /// A tmpfs with the container's own `/dev`, and devpts in it; `console`: a terminal gets a name.
    Devices {
        console: bool,
    },
    /// A writable directory of the container's own, on the same tmpfs. `optional`: only where there is
    /// a directory, not a symbolic link.
    PrivateDirectory {
        target: CString,
        mode: u32,
        optional: bool,
    },
    /// Covers a directory with an empty read-only one, in which `inner` (relative) is made.
    Hide {
        target: CString,
        inner: Option<CString>,
    },
    /// A read-only sysfs: of the container's own network namespace, or the host's without what is mounted
    /// below it.
    Sysfs {
        fresh: bool,
    },
    /// The container's own groups, read-only: of the v2 tree as the cgroup namespace shows it, or those of
    /// v1 that were held.
    Cgroups {
        unified: bool,
    },
    /// Covers kernel interfaces that must not be read. Absent ones are passed over.
    Mask {
        files: Vec<CString>,
        directories: Vec<CString>,
    },
    /// Kernel interfaces that must not be written. Absent ones are passed over.
    ReadOnly {
        targets: Vec<CString>,
    },
    /// Puts a held source in its place, made where the container's root is writable.
    Attach {
        source: u32,
        target: CString,
        read_only: bool,
    },
    Hostname {
        name: String,
    },
    /// Makes a user namespace, or takes the one that owns the network namespace. What is made after this belongs to its root.
    OwnIds {
        base: u32,
        count: u32,
        network: OwnNetwork,
    },
    /// Becomes its root: from here on without any right on the host.
    EnterOwnIds,
}

/// The network of a container with ids of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OwnNetwork {
    /// The host's, where it has no rights.
    Host,
    /// A new one that belongs to it.
    New,
    /// The one that the child was born into; it was made with the user namespace that owns it.
    Given,
}

/// To whom files of the host belong in a container with ids of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owners {
    /// As they are: whose id is not the container's own is seen as nobody's.
    Same,
    /// Id n on disk is id n in the container.
    Mapped,
    /// The place itself becomes that of the container's root, on disk.
    Given,
}

/// A path for people.
struct Shown<'a>(&'a CStr);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_string_lossy())
    }
}

fn list(paths: &[CString]) -> String {
    paths
        .iter()
        .map(|path| path.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HoldSource { path, owners } => {
                let how = match owners {
                    Owners::Same => "",
                    Owners::Mapped => ", ids mapped",
                    Owners::Given => ", given to the container's root",
                };
                write!(f, "hold the tree at {}{how}", Shown(path))
            }
            Self::HoldDevice { path } => write!(f, "note the device {}", Shown(path)),
            Self::HoldGroups { hierarchies } => {
                let names: Vec<_> = hierarchies
                    .iter()
                    .map(|(_, name)| name.to_string_lossy())
                    .collect();
                write!(f, "hold own v1 cgroups {}", names.join(" "))
            }
            Self::HostRoot => f.write_str("root: the host's, private, read-only, nosuid, nodev"),
            Self::OverlayRoot {
                lower,
                layers,
                mapped,
            } => {
                write!(
                    f,
                    "root: overlay of {}{}, changes below {}",
                    Shown(lower),
                    if *mapped { ", ids mapped" } else { "" },
                    Shown(layers)
                )
            }
            Self::Processes => f.write_str("mount procfs"),
            Self::Devices { console } => {
                write!(
                    f,
                    "make a private /dev{}",
                    if *console { " with console" } else { "" }
                )
            }
            Self::PrivateDirectory {
                target,
                mode,
                optional,
            } => {
                let optional = if *optional { ", if there is one" } else { "" };
                write!(f, "private directory {} mode {mode:o}{optional}", Shown(target))
            }
            Self::Hide { target, inner: None } => write!(f, "hide {}", Shown(target)),
            Self::Hide {
                target,
                inner: Some(inner),
            } => {
                write!(f, "hide {}, with an empty {} in it", Shown(target), Shown(inner))
            }
            Self::Sysfs { fresh: true } => f.write_str("mount sysfs read-only"),
            Self::Sysfs { fresh: false } => f.write_str("the host's sysfs, read-only, nothing mounted below"),
            Self::Cgroups { unified: true } => f.write_str("mount own cgroup of the v2 tree read-only"),
            Self::Cgroups { unified: false } => f.write_str("show own v1 cgroups read-only"),
            Self::Mask { files, directories } => write!(f, "mask {} {}", list(files), list(directories)),
            Self::ReadOnly { targets } => write!(f, "make read-only {}", list(targets)),
            Self::Attach {
                source,
                target,
                read_only,
            } => {
                let mode = if *read_only { "ro" } else { "rw" };
                write!(
                    f,
                    "attach tree {source} at {} ({mode},nosuid,nodev)",
                    Shown(target)
                )
            }
            Self::Hostname { name } => write!(f, "host name {name}"),
            Self::OwnIds { base, count, network } => {
                let (verb, network) = match network {
                    OwnNetwork::Host => ("make a", ""),
                    OwnNetwork::New => ("make a", ", owner of a new network namespace"),
                    OwnNetwork::Given => ("take the", ", owner of the network namespace"),
                };
                write!(
                    f,
                    "{verb} user namespace: ids 0 to {} are those from {base} on{network}",
                    count - 1
                )
            }
            Self::EnterOwnIds => {
                f.write_str("become root of the user namespace, which owns all mounts from now on")
            }
        }
    }
}
