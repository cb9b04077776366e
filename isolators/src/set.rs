//! All isolators of one agent: prepare forward, undo on failure, clean up backward.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use bpf::ceiling::CeilingPrograms;
use bpf::ports::PortPrograms;
use kernel::cgroup::processes::move_all;
use kernel::cgroup::tree::remove_with_children;
use kernel::cgroup::{Group, Removal, Version, memory as memory_files};
use kernel::file::{Access, KernelFileError};
use model::{
    Bandwidth, ContainerId, Controller, Fault, HostSupport, IsolatorReport, LaunchSpec, Limitation, Limits,
};

use crate::bandwidth::{BandwidthIsolator, HostCeilings};
use crate::child;
use crate::connections::HostConnections;
use crate::cpu::CpuIsolator;
use crate::cpuset::CpusetIsolator;
use crate::devices::{DeviceIsolator, default_program};
use crate::error::{LimitationError, PrepareError, StartError, UpdateError, UsageError, WatchError};
use crate::io::IoIsolator;
use crate::isolator::{Isolator, Place};
use crate::memory::MemoryIsolator;
use crate::pids::PidsIsolator;
use crate::ports::PortIsolator;
use crate::pressure::PressureIsolator;
use crate::trees::{MakeRoot, TreeId, Trees, make_kernel_root};
use crate::usage::UsageReader;

const NO_BPF: &str = "a fake has no BPF";

/// cpu, memory, pids, io, cpuset, devices, pressure, ports, bandwidth.
pub struct IsolatorSet {
    pub(crate) trees: Trees,
    isolators: Vec<Box<dyn Isolator>>,
    memory: Option<TreeId>,
    connections: Arc<HostConnections>,
    ceilings: Arc<HostCeilings>,
    /// Namespaces, capabilities, rlimits, seccomp: the init's work, told here.
    child_reports: Vec<IsolatorReport>,
}

/// How the new process gets into its groups.
#[derive(Debug)]
pub struct Prepared {
    /// The v2 group's directory, for CLONE_INTO_CGROUP.
    pub cgroup: Option<OwnedFd>,
    /// `tasks` of each v1 group, open for writing: a single-threaded process joins by writing "0".
    pub cgroup_procs: Vec<OwnedFd>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchKind {
    /// An eventfd: readable, eight bytes to be read.
    Readable,
    /// A file that reports EPOLLPRI at a change.
    Priority,
}

/// Ready when the container has run out of memory, or is gone: ask [`IsolatorSet::limitation`].
#[derive(Debug)]
pub struct OomWatch {
    pub fd: OwnedFd,
    pub kind: WatchKind,
}

impl IsolatorSet {
    /// Makes the root groups of this agent, `cgroup_root` in each hierarchy that is needed.
    pub fn new(host: &HostSupport, cgroup_root: &str) -> Result<Self, StartError> {
        let program = match &host.unified {
            Some(_) => default_program()
                .map_err(|error| format!("{}", Fault::from_error(model::FaultKind::Unsupported, &error))),
            None => Err(
                "neither a v2 tree for a BPF device program nor the v1 devices controller is mounted"
                    .to_owned(),
            ),
        };
        let ports = PortPrograms::load()
            .map_err(|error| Fault::from_error(model::FaultKind::Unsupported, &error).to_string());
        let ceilings = CeilingPrograms::load()
            .map_err(|error| Fault::from_error(model::FaultKind::Unsupported, &error).to_string());
        Self::assemble(host, cgroup_root, &make_kernel_root, program, ports, ceilings)
    }

    /// With root groups of another make, and without BPF: for tests on a fake.
    pub fn on_trees(host: &HostSupport, cgroup_root: &str, make: MakeRoot<'_>) -> Result<Self, StartError> {
        Self::assemble(
            host,
            cgroup_root,
            make,
            Err(NO_BPF.to_owned()),
            Err(NO_BPF.to_owned()),
            Err(NO_BPF.to_owned()),
        )
    }

    fn assemble(
        host: &HostSupport,
        cgroup_root: &str,
        make: MakeRoot<'_>,
        program: Result<bpf::Program, String>,
        ports: Result<PortPrograms, String>,
        ceilings: Result<CeilingPrograms, String>,
    ) -> Result<Self, StartError> {
        let trees = Trees::make(host, cgroup_root, make, program.is_err())?;
        let memory = MemoryIsolator::new(host, &trees);
        let memory_tree = memory.tree();
        let connections = Arc::new(HostConnections::default());
        let ceilings = Arc::new(HostCeilings::new(&trees, ceilings));
        let isolators: Vec<Box<dyn Isolator>> = vec![
            Box::new(CpuIsolator::new(host, &trees)),
            Box::new(memory),
            Box::new(PidsIsolator::new(&trees)),
            Box::new(IoIsolator::new(host, &trees)),
            Box::new(CpusetIsolator::new(host, &trees)),
            Box::new(DeviceIsolator::new(&trees, program)),
            Box::new(PressureIsolator::new(host, &trees)),
            Box::new(PortIsolator::new(
                &trees,
                ports,
                Arc::clone(&connections),
                Arc::clone(&ceilings),
            )),
            Box::new(BandwidthIsolator(Arc::clone(&ceilings))),
        ];
        Ok(Self {
            trees,
            isolators,
            memory: memory_tree,
            connections,
            ceilings,
            child_reports: child::reports(host),
        })
    }

    /// TCP connections of containers in the host's network.
    pub fn connections(&self) -> &HostConnections {
        &self.connections
    }

    /// The directory of a container's v2 group; `None`: there is no v2 tree, or no such container.
    pub fn unified_group(&self, id: &ContainerId) -> Option<OwnedFd> {
        self.trees
            .tree(self.trees.unified()?)
            .open_group(id.as_str())
            .ok()
    }

    /// Before an update of a container in the host's network: refuses a ceiling that can't be held there, and readies a
    /// container that an agent without ceilings has launched.
    pub fn ready_for_bandwidth(&self, id: &ContainerId, bandwidth: &Bandwidth) -> Result<(), Fault> {
        self.ceilings.admit(bandwidth)?;
        match bandwidth.limits_anything() {
            true => self.ceilings.make_ready(self.place(id)),
            false => Ok(()),
        }
    }

    /// Refuses what this host can not enforce, with the missing kernel feature named.
    pub fn admit(&self, spec: &LaunchSpec) -> Result<(), Fault> {
        self.admit_limits(&spec.limits)?;
        self.isolators
            .iter()
            .try_for_each(|isolator| isolator.admit_spec(spec))
    }

    /// As `admit`, for a live update: `limits` are those that would be in force.
    pub fn admit_limits(&self, limits: &Limits) -> Result<(), Fault> {
        self.isolators
            .iter()
            .try_for_each(|isolator| isolator.admit(limits))
    }

    /// The hierarchies of a container with these limits, in order, each once.
    fn trees_for(&self, limits: &Limits) -> Vec<TreeId> {
        let mut needed: Vec<TreeId> = self.trees.unified().into_iter().collect();
        for tree in self.isolators.iter().flat_map(|isolator| isolator.trees(limits)) {
            if !needed.contains(&tree) {
                needed.push(tree);
            }
        }
        // Without a v2 tree the v1 freezer is what stops a container.
        if let (None, Some(freezer)) = (self.trees.unified(), self.trees.of(Controller::Freezer)) {
            needed.push(freezer);
        }
        needed
    }

    fn enable_for(&self, limits: &Limits) -> Result<(), StartError> {
        if limits.io.weight.is_some() || !limits.io.devices.is_empty() {
            self.trees.enable(Controller::Io)?;
        }
        if limits.cpuset_cpus.is_some() || limits.cpuset_mems.is_some() {
            self.trees.enable(Controller::Cpuset)?;
        }
        Ok(())
    }

    /// Makes the groups, writes the limits and reads every one back. On failure nothing is left.
    pub fn prepare(&self, id: &ContainerId, spec: &LaunchSpec) -> Result<Prepared, PrepareError> {
        self.enable_for(&spec.limits).map_err(PrepareError::Enable)?;
        let needed = self.trees_for(&spec.limits);
        let mut made = Vec::with_capacity(needed.len());
        let result = needed
            .iter()
            .try_for_each(|tree| {
                self.make_group(*tree, id)?;
                made.push(*tree);
                Ok(())
            })
            .and_then(|()| self.fill_groups(id, spec, &needed));
        if result.is_err() {
            for tree in made.iter().rev() {
                // Nobody has joined yet: it can not be in use. Should it fail, `orphans` finds it.
                if let Err(error) = self.trees.tree(*tree).remove(id.as_str()) {
                    tracing::warn!(container = %id, "undo: {error}: {}", error.source);
                }
            }
        }
        result
    }

    fn make_group(&self, tree: TreeId, id: &ContainerId) -> Result<(), PrepareError> {
        let tree = self.trees.tree(tree);
        let failed = |source| PrepareError::Group {
            id: id.clone(),
            source,
        };
        if tree.make(id.as_str()).map_err(failed)? {
            return Ok(());
        }
        // Left from an earlier try. An empty one is made anew, so that nothing of its limits stays.
        if remove_with_children(tree, id.as_str()).map_err(failed)? == Removal::Busy
            || !tree.make(id.as_str()).map_err(failed)?
        {
            return Err(PrepareError::InUse {
                path: tree.path().join(id.as_str()),
            });
        }
        Ok(())
    }

    fn fill_groups(
        &self,
        id: &ContainerId,
        spec: &LaunchSpec,
        needed: &[TreeId],
    ) -> Result<Prepared, PrepareError> {
        let prepared =
            self.open_groups(id, needed.iter().copied())
                .map_err(|source| PrepareError::Group {
                    id: id.clone(),
                    source,
                })?;
        let place = Place {
            trees: &self.trees,
            name: id.as_str(),
            unified: prepared.cgroup.as_ref().map(AsFd::as_fd),
        };
        for isolator in &self.isolators {
            isolator.prepare(place, spec)?;
        }
        Ok(prepared)
    }

    fn open_groups(
        &self,
        id: &ContainerId,
        trees: impl Iterator<Item = TreeId>,
    ) -> Result<Prepared, KernelFileError> {
        let mut prepared = Prepared {
            cgroup: None,
            cgroup_procs: Vec::with_capacity(4),
        };
        for tree in trees {
            let tree = self.trees.tree(tree);
            match tree.version() {
                Version::V2 => prepared.cgroup = Some(tree.open_group(id.as_str())?),
                Version::V1 => {
                    // Not cgroup.procs: a write of "0" to `tasks` moves the writing thread alone, which the
                    // kernel does without its global lock (cgroup_procs_write_start, kernel/cgroup/cgroup.c);
                    // waiting for that lock takes milliseconds. The one who joins has one thread.
                    prepared
                        .cgroup_procs
                        .push(tree.open(id.as_str(), "tasks", Access::Write)?);
                }
            }
        }
        Ok(prepared)
    }

    /// The way into the groups of a container that exists, for a further process.
    pub fn join(&self, id: &ContainerId) -> Result<Prepared, UsageError> {
        let existing: Vec<TreeId> = self
            .trees
            .all()
            .filter(|tree| self.trees.tree(*tree).has(id.as_str(), "cgroup.procs"))
            .collect();
        if existing.is_empty() {
            return Err(UsageError::Gone(id.clone()));
        }
        self.open_groups(id, existing.into_iter())
            .map_err(|source| UsageError::Open {
                id: id.clone(),
                source,
            })
    }

    fn place<'a>(&'a self, id: &'a ContainerId) -> Place<'a> {
        Place {
            trees: &self.trees,
            name: id.as_str(),
            unified: None,
        }
    }

    pub(crate) fn group<'a>(&'a self, tree: TreeId, id: &'a ContainerId) -> Group<'a> {
        Group::new(self.trees.tree(tree), id.as_str())
    }

    /// Puts `new` in force instead of `old`; on failure `old` again.
    pub fn update(&self, id: &ContainerId, old: &Limits, new: &Limits) -> Result<(), UpdateError> {
        self.admit_limits(new).map_err(UpdateError::Refused)?;
        self.enable_for(new).map_err(UpdateError::Enable)?;
        self.add_groups(id, new)?;
        let place = self.place(id);
        for (index, isolator) in self.isolators.iter().enumerate() {
            if let Err(source) = isolator.update(place, old, new) {
                if source.is_absent() && !self.exists(id) {
                    return Err(UpdateError::Gone(id.clone()));
                }
                // The one that failed may have written a part, so it is taken back too.
                let rollback = self.roll_back(place, &self.isolators[..=index], new, old);
                return Err(UpdateError::Limit {
                    isolator: isolator.name(),
                    source,
                    rollback,
                });
            }
        }
        Ok(())
    }

    /// Puts `old` in force again, each isolator whatever the others answer; tells the last failure.
    fn roll_back(
        &self,
        place: Place<'_>,
        changed: &[Box<dyn Isolator>],
        new: &Limits,
        old: &Limits,
    ) -> Option<String> {
        let mut failure = None;
        for isolator in changed.iter().rev() {
            if let Err(error) = isolator.update(place, new, old) {
                failure = Some(Fault::from_error(model::FaultKind::Failed, &error).message);
            }
        }
        failure
    }

    fn exists(&self, id: &ContainerId) -> bool {
        self.trees
            .all()
            .any(|tree| self.trees.tree(tree).has(id.as_str(), "cgroup.procs"))
    }

    /// Makes the groups that the new limits need in addition, and moves the container into them.
    fn add_groups(&self, id: &ContainerId, new: &Limits) -> Result<(), UpdateError> {
        let needed = self.trees_for(new);
        let failed = |source| UpdateError::Group {
            id: id.clone(),
            source,
        };
        let Some(from) = needed
            .iter()
            .find(|t| self.trees.tree(**t).has(id.as_str(), "cgroup.procs"))
        else {
            return Err(UpdateError::Gone(id.clone()));
        };
        for tree in needed.iter().filter(|tree| *tree != from) {
            let group = self.group(*tree, id);
            if !group.tree.make(group.name).map_err(failed)? {
                continue;
            }
            // A v1 cpuset takes nobody before it has CPUs and nodes.
            let ready = if self.trees.of(Controller::Cpuset) == Some(*tree) && group.version() == Version::V1
            {
                kernel::cgroup::cpuset::inherit_v1(group)
            } else {
                Ok(())
            };
            ready.map_err(|source| UpdateError::Limit {
                isolator: "cpuset",
                source,
                rollback: None,
            })?;
            if !move_all(self.group(*from, id), group).map_err(failed)? {
                return Err(UpdateError::Unmovable(id.clone()));
            }
        }
        Ok(())
    }

    /// Opens the statistics files.
    pub fn usage(&self, id: &ContainerId) -> Result<UsageReader, UsageError> {
        let mut files = Vec::with_capacity(10);
        for isolator in &self.isolators {
            isolator
                .usage(self.place(id), &mut files)
                .map_err(|source| UsageError::Open {
                    id: id.clone(),
                    source,
                })?;
        }
        if files.is_empty() {
            return Err(UsageError::Gone(id.clone()));
        }
        let traffic = self
            .isolators
            .iter()
            .find_map(|isolator| isolator.traffic(self.place(id)));
        Ok(UsageReader::new(files, traffic))
    }

    /// Something to wait on for the lack of memory. `None`: there is no memory controller.
    pub fn watch(&self, id: &ContainerId) -> Result<Option<OomWatch>, WatchError> {
        let Some(tree) = self.memory else { return Ok(None) };
        let group = self.group(tree, id);
        let fd = memory_files::watch(group).map_err(|source| WatchError {
            id: id.clone(),
            source,
        })?;
        let kind = match group.version() {
            Version::V1 => WatchKind::Readable,
            Version::V2 => WatchKind::Priority,
        };
        Ok(Some(OomWatch { fd, kind }))
    }

    /// The limit that was hit, if one was. A level: it can be asked at any time, also after a restart.
    pub fn limitation(
        &self,
        id: &ContainerId,
        limits: &Limits,
    ) -> Result<Option<Limitation>, LimitationError> {
        for isolator in &self.isolators {
            let found = isolator
                .limitation(self.place(id), limits)
                .map_err(|source| LimitationError {
                    id: id.clone(),
                    source,
                })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The container's groups: name of the hierarchy (`cpu`, `unified`) and path.
    pub fn paths(&self, id: &ContainerId) -> Vec<(String, PathBuf)> {
        let existing = self
            .trees
            .all()
            .filter(|tree| self.trees.tree(*tree).has(id.as_str(), "cgroup.procs"));
        existing
            .map(|tree| {
                (
                    self.trees.name(tree).to_owned(),
                    self.trees.tree(tree).path().join(id.as_str()),
                )
            })
            .collect()
    }

    /// Where each controller has the container, by its own name, so that a script finds `memory` in the same place on
    /// every generation; only controllers that this container is under.
    pub fn controllers(&self, id: &ContainerId) -> Vec<(&'static str, PathBuf)> {
        let places = self.trees.by_controller().filter_map(|(name, file, tree)| {
            let tree = self.trees.tree(tree);
            let file = match tree.version() {
                Version::V1 => "cgroup.procs",
                Version::V2 => file,
            };
            tree.has(id.as_str(), file)
                .then(|| (name, tree.path().join(id.as_str())))
        });
        places.collect()
    }

    /// What isolates on this host, by which mechanism, and what is missing.
    pub fn describe(&self) -> Vec<IsolatorReport> {
        self.isolators
            .iter()
            .map(|isolator| isolator.report())
            .chain(self.child_reports.clone())
            .collect()
    }

    /// Our root groups, one in each hierarchy.
    pub fn roots(&self) -> Vec<PathBuf> {
        self.trees
            .all()
            .map(|tree| self.trees.tree(tree).path().to_owned())
            .collect()
    }

    /// Removes our root groups where nothing is in them.
    pub fn remove_root(&self) {
        for tree in self.trees.all().rev() {
            if let Err(error) = self.trees.tree(tree).remove_root() {
                tracing::debug!("{error}: {}", error.source);
            }
        }
    }
}
