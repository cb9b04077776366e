//! The root groups of this agent, one per hierarchy, and which controller is in which.
//!
//! Every hierarchy costs a launch one mkdir, one join and one rmdir (about 50 µs), so a container is put
//! only where it has to be:
//!
//! | | groups |
//! |---|---|
//! | v2 | one |
//! | hybrid | cpu, memory, pids and the v2 tree (kill, freeze, CPU time, BPF devices) |
//! | v1 | cpu, cpuacct, memory, pids, freezer, devices |
//! | when a limit asks | blkio, cpuset (v1); io, cpuset are enabled in the tree (v2) |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use kernel::cgroup::{Group, KernelTree, Tree, Version, cpuset};
use kernel::file::KernelFileError;
use model::{Controller, HostSupport};

use crate::error::StartError;

/// A hierarchy, by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TreeId(usize);

/// How root groups are made, and how the hierarchy's own root (the empty name) is opened; tests give a fake.
pub type MakeRoot<'a> = &'a dyn Fn(&Path, &str, Version) -> Result<Box<dyn Tree>, KernelFileError>;

/// The mounted kernel's.
pub fn make_kernel_root(
    mount: &Path,
    root: &str,
    version: Version,
) -> Result<Box<dyn Tree>, KernelFileError> {
    Ok(Box::new(KernelTree::make_root(mount, root, version)?))
}

struct Slot {
    mount: PathBuf,
    /// The hierarchy's own root, above our root group.
    top: Box<dyn Tree>,
    tree: Box<dyn Tree>,
    /// Names for people: `cpu`, `cpu,cpuacct`, `unified`.
    name: String,
}

/// All of them.
pub struct Trees {
    slots: Vec<Slot>,
    controllers: BTreeMap<Controller, TreeId>,
    unified: Option<TreeId>,
    /// v2 controllers that are enabled in the root group.
    enabled: Mutex<Vec<&'static str>>,
}

/// Controllers that get a root group; freezer and devices only where the v2 tree does not do their work.
const USED: [Controller; 8] = [
    Controller::Cpu,
    Controller::Cpuacct,
    Controller::Memory,
    Controller::Pids,
    Controller::Io,
    Controller::Cpuset,
    Controller::Devices,
    Controller::Freezer,
];

/// Name in `cgroup.subtree_control`; `None`: needs no enabling.
fn v2_name(controller: Controller) -> Option<&'static str> {
    Some(match controller {
        Controller::Cpu => "cpu",
        Controller::Memory => "memory",
        Controller::Pids => "pids",
        Controller::Io => "io",
        Controller::Cpuset => "cpuset",
        Controller::Cpuacct | Controller::Devices | Controller::Freezer | Controller::Hugetlb => return None,
    })
}

fn label(controller: Controller) -> &'static str {
    match controller {
        Controller::Cpu => "cpu",
        Controller::Cpuacct => "cpuacct",
        Controller::Memory => "memory",
        Controller::Pids => "pids",
        Controller::Io => "blkio",
        Controller::Cpuset => "cpuset",
        Controller::Devices => "devices",
        Controller::Hugetlb => "hugetlb",
        Controller::Freezer => "freezer",
    }
}

impl Trees {
    /// Makes the root groups. `devices_by_file`: the v1 devices controller is needed.
    pub fn make(
        host: &HostSupport,
        root: &str,
        make: MakeRoot<'_>,
        devices_by_file: bool,
    ) -> Result<Self, StartError> {
        if root.is_empty() || root.contains(['/', '\0']) || root.starts_with('.') {
            return Err(StartError::RootName(root.to_owned()));
        }
        let mut trees = Self {
            slots: Vec::new(),
            controllers: BTreeMap::new(),
            unified: None,
            enabled: Mutex::new(Vec::new()),
        };
        if let Some(mount) = &host.unified {
            trees.unified = Some(trees.add(mount, root, Version::V2, "unified", make)?);
        }
        for controller in USED {
            let Some(mount) = host.controllers.get(&controller) else {
                continue;
            };
            let version = if mount.version == 1 {
                Version::V1
            } else {
                Version::V2
            };
            let needless = match controller {
                Controller::Devices => version == Version::V1 && !devices_by_file,
                // CPU time is counted in every v2 group, in microseconds and without a controller.
                Controller::Cpuacct => version == Version::V1 && trees.counts_cpu_time(),
                _ => false,
            };
            if needless {
                continue;
            }
            let id = trees.add(&mount.root, root, version, label(controller), make)?;
            trees.controllers.insert(controller, id);
        }
        if trees.slots.is_empty() {
            return Err(StartError::NothingToIsolateWith);
        }
        trees.ready_v1_cpuset()?;
        for controller in [Controller::Cpu, Controller::Memory, Controller::Pids] {
            trees.enable(controller)?;
        }
        Ok(trees)
    }

    fn add(
        &mut self,
        mount: &Path,
        root: &str,
        version: Version,
        name: &str,
        make: MakeRoot<'_>,
    ) -> Result<TreeId, StartError> {
        // Controllers that are mounted together share one group.
        if let Some(at) = self.slots.iter().position(|slot| slot.mount == mount) {
            if version == Version::V1 {
                self.slots[at].name.push(',');
                self.slots[at].name.push_str(name);
            }
            return Ok(TreeId(at));
        }
        let top = make(mount, "", version).map_err(StartError::Root)?;
        let tree = make(mount, root, version).map_err(StartError::Root)?;
        self.slots.push(Slot {
            mount: mount.to_owned(),
            top,
            tree,
            name: name.to_owned(),
        });
        Ok(TreeId(self.slots.len() - 1))
    }

    fn counts_cpu_time(&self) -> bool {
        self.unified.is_some_and(|id| self.tree(id).has("", "cpu.stat"))
    }

    /// A process can not be put below a v1 cpuset without CPUs and nodes, our root group included.
    fn ready_v1_cpuset(&self) -> Result<(), StartError> {
        let Some(id) = self.of(Controller::Cpuset) else {
            return Ok(());
        };
        let tree = self.tree(id);
        if tree.version() == Version::V2 {
            return Ok(());
        }
        let mount = &*self.slots[id.0].top;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if !tree
                .read_text("", file)
                .map_err(StartError::Root)?
                .trim()
                .is_empty()
            {
                continue;
            }
            let parent = mount.read_text("", file).map_err(StartError::Root)?;
            let parent = parent.trim();
            Group::new(tree, "")
                .set(file, format_args!("{parent}"), kernel::cgroup::Compare::List)
                .map_err(StartError::Limit)?;
            debug_assert!(cpuset::parse_list(parent).is_some());
        }
        Ok(())
    }

    /// v2: makes the controller's files appear in the groups below our root group. Once is enough.
    pub fn enable(&self, controller: Controller) -> Result<(), StartError> {
        let (Some(id), Some(name)) = (self.of(controller), v2_name(controller)) else {
            return Ok(());
        };
        let tree = self.tree(id);
        if tree.version() == Version::V1 {
            return Ok(());
        }
        let mut enabled = self.enabled.lock().unwrap_or_else(PoisonError::into_inner);
        if enabled.contains(&name) {
            return Ok(());
        }
        let mount = &*self.slots[id.0].top;
        enable_in(mount, name)?;
        enable_in(tree, name)?;
        enabled.push(name);
        Ok(())
    }

    pub fn of(&self, controller: Controller) -> Option<TreeId> {
        self.controllers.get(&controller).copied()
    }

    /// Controllers that limit or count: name, a file that a v2 group has when it is enabled there, tree.
    pub fn by_controller(&self) -> impl Iterator<Item = (&'static str, &'static str, TreeId)> + '_ {
        const TOLD: [(Controller, &str, &str); 6] = [
            (Controller::Cpu, "cpu", "cpu.weight"),
            (Controller::Cpuacct, "cpuacct", "cpu.stat"),
            (Controller::Memory, "memory", "memory.current"),
            (Controller::Pids, "pids", "pids.current"),
            (Controller::Io, "io", "io.stat"),
            (Controller::Cpuset, "cpuset", "cpuset.cpus"),
        ];
        TOLD.into_iter()
            .filter_map(|(controller, name, file)| Some((name, file, self.of(controller)?)))
    }

    pub fn tree(&self, id: TreeId) -> &dyn Tree {
        &*self.slots[id.0].tree
    }

    pub fn unified(&self) -> Option<TreeId> {
        self.unified
    }

    pub fn all(&self) -> impl DoubleEndedIterator<Item = TreeId> + use<> {
        (0..self.slots.len()).map(TreeId)
    }

    pub fn name(&self, id: TreeId) -> &str {
        &self.slots[id.0].name
    }
}

fn enable_in(tree: &dyn Tree, name: &'static str) -> Result<(), StartError> {
    const FILE: &str = "cgroup.subtree_control";
    let path = || tree.path().to_owned();
    let failed = |source| StartError::Enable {
        controller: name,
        path: path(),
        source,
    };
    let has = |text: &str| text.split_ascii_whitespace().any(|word| word == name);
    // Where somebody above has enabled it (delegation), we may not be allowed to write, and need not.
    if has(&tree.read_text("", FILE).map_err(failed)?) {
        return Ok(());
    }
    tree.write("", FILE, &format!("+{name}")).map_err(failed)?;
    let found = tree.read_text("", FILE).map_err(failed)?;
    if has(&found) {
        return Ok(());
    }
    Err(StartError::NotEnabled {
        controller: name,
        path: path(),
        found: found.trim().to_owned(),
    })
}
