//! Control groups in a plain directory, which refuse as the kernel refuses.
//!
//! Groups are directories and files are files, so what opens and reads them works unchanged; a write goes
//! through the rules below: values are rounded and clamped, orders are enforced, a group in use is not removed.
//! Beyond the kernel's own rules a test can make a file refuse ([`FakeCgroups::refuse`]) or take a value and
//! forget it ([`FakeCgroups::forget`]).

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::host::ControllerMount;
use model::{Bytes, CgroupLayout, Controller, HostSupport};
use nix::errno::Errno;

use super::cgroup_rules::{self, Outcome};
use crate::cgroup::{Removal, Tree, Version};
use crate::file::{Access, KernelDir, KernelFileError, Operation};

#[derive(Default)]
struct State {
    refusals: Vec<(String, Errno)>,
    forgotten: Vec<String>,
    log: Vec<String>,
}

/// A host's hierarchies below one directory, and a hand on what they answer.
#[derive(Clone, Default)]
pub struct FakeCgroups {
    state: Arc<Mutex<State>>,
}

/// v1 hierarchies of the fake: directory, controllers.
const V1: [(&str, &[Controller]); 7] = [
    ("cpu,cpuacct", &[Controller::Cpu, Controller::Cpuacct]),
    ("memory", &[Controller::Memory]),
    ("pids", &[Controller::Pids]),
    ("blkio", &[Controller::Io]),
    ("cpuset", &[Controller::Cpuset]),
    ("devices", &[Controller::Devices]),
    ("freezer", &[Controller::Freezer]),
];

const V2: [Controller; 8] = [
    Controller::Cpu,
    Controller::Cpuacct,
    Controller::Memory,
    Controller::Pids,
    Controller::Io,
    Controller::Cpuset,
    Controller::Devices,
    Controller::Freezer,
];

impl FakeCgroups {
    /// Makes the mounts of a host with this layout below `directory` and tells its facts.
    pub fn host(&self, directory: &Path, layout: CgroupLayout) -> io::Result<HostSupport> {
        let mut host = HostSupport {
            kernel_release: "6.1.0-fake".to_owned(),
            boot_id: "00000000-0000-0000-0000-000000000000".to_owned(),
            cpus: 4,
            memory: Bytes::gib(8),
            page_size: Bytes(4096),
            layout,
            controllers: Default::default(),
            unified: None,
            swap_accounting: true,
            cgroup_kill: layout != CgroupLayout::V1,
            cpu_burst: true,
            io_weight_file: Some(
                if layout == CgroupLayout::V2 {
                    "io.weight"
                } else {
                    "blkio.bfq.weight"
                }
                .to_owned(),
            ),
            io_throttle: true,
            cpuset_cpus: Some("0-3".to_owned()),
            cpuset_mems: Some("0".to_owned()),
            seccomp: true,
            overlay: true,
            pressure: true,
            user_namespaces: Some(true),
            mapped_mounts: true,
            mapped_layers: true,
            last_capability: 40,
            bounding_capabilities: (1 << 41) - 1,
            resolver_under_run: None,
        };
        if layout != CgroupLayout::V1 {
            let root = directory.join("unified");
            fs::create_dir(&root)?;
            let controllers = if layout == CgroupLayout::V2 {
                "cpuset cpu io memory pids"
            } else {
                "hugetlb"
            };
            for (file, content) in [
                ("cgroup.controllers", controllers),
                ("cgroup.subtree_control", ""),
                ("cgroup.procs", ""),
                ("cpu.stat", ""),
            ] {
                fs::write(root.join(file), format!("{content}\n"))?;
            }
            if layout == CgroupLayout::V2 {
                for controller in V2 {
                    host.controllers.insert(
                        controller,
                        ControllerMount {
                            version: 2,
                            root: root.clone(),
                        },
                    );
                }
            }
            host.unified = Some(root);
        }
        if layout != CgroupLayout::V2 {
            for (name, controllers) in V1 {
                let root = directory.join(name);
                fs::create_dir(&root)?;
                cgroup_rules::populate_v1(&root, name)?;
                if name == "cpuset" {
                    fs::write(root.join("cpuset.cpus"), "0-3\n")?;
                    fs::write(root.join("cpuset.mems"), "0\n")?;
                }
                for controller in controllers {
                    host.controllers.insert(
                        *controller,
                        ControllerMount {
                            version: 1,
                            root: root.clone(),
                        },
                    );
                }
            }
        }
        Ok(host)
    }

    /// A root group: what `KernelTree::make_root` is for the kernel.
    pub fn make_root(
        &self,
        mount: &Path,
        root: &str,
        version: Version,
    ) -> Result<Box<dyn Tree>, KernelFileError> {
        let top = FakeTree::open(self.clone(), mount.to_owned(), version)?;
        top.make(root)?;
        Ok(Box::new(FakeTree::open(self.clone(), mount.join(root), version)?))
    }

    /// From now on every write to a file of this name fails.
    pub fn refuse(&self, file: &str, errno: Errno) {
        self.state().refusals.push((file.to_owned(), errno));
    }

    /// From now on a file of this name takes every value and keeps the old one.
    pub fn forget(&self, file: &str) {
        self.state().forgotten.push(file.to_owned());
    }

    pub fn relent(&self) {
        let mut state = self.state();
        state.refusals.clear();
        state.forgotten.clear();
    }

    /// What was done since the last call: `make g`, `remove g`, `write g/file value`.
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, line: String) {
        self.state().log.push(line);
    }
}

/// A root group of the fake.
pub struct FakeTree {
    host: FakeCgroups,
    version: Version,
    directory: KernelDir,
}

impl FakeTree {
    fn open(host: FakeCgroups, path: PathBuf, version: Version) -> Result<Self, KernelFileError> {
        Ok(Self {
            host,
            version,
            directory: KernelDir::open(&path)?,
        })
    }

    fn group(&self, group: &str) -> PathBuf {
        if group.is_empty() {
            self.path().to_owned()
        } else {
            self.path().join(group)
        }
    }

    /// `cpu,cpuacct` of `<mount>/<root>/…`: the directory that is the mount.
    fn hierarchy(&self) -> String {
        let names = self
            .path()
            .components()
            .map(|c| c.as_os_str().to_string_lossy().into_owned());
        let known: Vec<String> = names.filter(|name| V1.iter().any(|(n, _)| n == name)).collect();
        known.last().cloned().unwrap_or_default()
    }

    fn removal(&self, path: &Path) -> Result<Removal, KernelFileError> {
        let failed = |cause| KernelFileError::new(Operation::Remove, path.to_owned(), cause);
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Removal::Absent),
            Err(error) => return Err(failed(error)),
        };
        let has_child = entries
            .flatten()
            .any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let procs = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        if has_child || !procs.trim().is_empty() {
            return Ok(Removal::Busy);
        }
        fs::remove_dir_all(path).map_err(failed)?;
        Ok(Removal::Removed)
    }

    fn set(&self, group: &str, file: &str, value: &str) -> Result<(), KernelFileError> {
        let path = self.group(group).join(file);
        let failed =
            |cause: io::Error| KernelFileError::new(Operation::Write, path.clone(), cause).value(value);
        self.host.note(format!("write {group}/{file} {value}"));
        if !path.exists() {
            return Err(KernelFileError::new(Operation::Open, path.clone(), Errno::ENOENT));
        }
        let state = self.host.state();
        if let Some((_, errno)) = state.refusals.iter().find(|(name, _)| name == file) {
            return Err(failed((*errno).into()));
        }
        if state.forgotten.iter().any(|name| name == file) {
            return Ok(());
        }
        drop(state);
        match cgroup_rules::write(&self.group(group), file, value.trim(), self.version) {
            Outcome::Now(content) => fs::write(&path, format!("{content}\n")).map_err(failed),
            Outcome::Nothing => Ok(()),
            Outcome::Refused(errno) => Err(failed(errno.into())),
        }
    }
}

impl Tree for FakeTree {
    fn version(&self) -> Version {
        self.version
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn make(&self, group: &str) -> Result<bool, KernelFileError> {
        self.host.note(format!("make {group}"));
        if !self.directory.make_dir(group)? {
            return Ok(false);
        }
        let path = self.group(group);
        let filled = match self.version {
            Version::V1 => cgroup_rules::populate_v1(&path, &self.hierarchy()),
            Version::V2 => cgroup_rules::populate_v2(&path),
        };
        filled
            .map(|()| true)
            .map_err(|cause| KernelFileError::new(Operation::Make, path.clone(), cause))
    }

    fn remove(&self, group: &str) -> Result<Removal, KernelFileError> {
        self.host.note(format!("remove {group}"));
        self.removal(&self.group(group))
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
        self.set(group, file, value)
    }

    fn exchange(
        &self,
        group: &str,
        file: &str,
        value: &str,
        buffer: &mut [u8],
    ) -> Result<usize, KernelFileError> {
        self.set(group, file, value)?;
        self.directory.read(&[group, file], buffer)
    }

    fn groups(&self, group: &str) -> Result<Vec<String>, KernelFileError> {
        self.directory.directories(group)
    }

    fn remove_root(&self) -> Result<Removal, KernelFileError> {
        self.removal(self.path())
    }
}
