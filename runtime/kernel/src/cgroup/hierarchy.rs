//! Where the hierarchies are: read from the mount table, a pure function over its text.
//!
//! ```text
//! 32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
//!            |  |                                        |              \ controllers are super options
//!            |  \ mount point                            \ cgroup: v1, cgroup2: v2
//!            \ the group that is shown as the root
//! ```
//! Kernel: filesystems/proc.rst, section 3.5. Our own group (/proc/self/cgroup) does not matter: the root of
//! the mount is the root that we can work in, in a nested namespace too.

use std::collections::BTreeMap;
use std::path::PathBuf;

use model::host::ControllerMount;
use model::{CgroupLayout, Controller};

use super::tree::Version;

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupMount {
    pub version: Version,
    pub mount_point: PathBuf,
    /// v1: the controllers mounted together; v2: empty, `cgroup.controllers` tells.
    pub controllers: Vec<String>,
    /// The mount shows the hierarchy from its root.
    whole: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    #[error("no cgroup hierarchy is mounted (neither cgroup2 nor a v1 controller)")]
    NoneMounted,
}

/// Every hierarchy of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounts {
    pub v1: Vec<CgroupMount>,
    pub v2: Option<CgroupMount>,
}

/// The name of a v1 controller in the mount options.
fn v1_controller(name: &str) -> Option<Controller> {
    Some(match name {
        "cpu" => Controller::Cpu,
        "cpuacct" => Controller::Cpuacct,
        "memory" => Controller::Memory,
        "pids" => Controller::Pids,
        "blkio" => Controller::Io,
        "cpuset" => Controller::Cpuset,
        "devices" => Controller::Devices,
        "hugetlb" => Controller::Hugetlb,
        "freezer" => Controller::Freezer,
        _ => return None,
    })
}

/// The name of a v2 controller in `cgroup.controllers`.
pub(super) fn v2_controller(name: &str) -> Option<Controller> {
    Some(match name {
        "cpu" => Controller::Cpu,
        "memory" => Controller::Memory,
        "pids" => Controller::Pids,
        "io" => Controller::Io,
        "cpuset" => Controller::Cpuset,
        "hugetlb" => Controller::Hugetlb,
        _ => return None,
    })
}

impl Mounts {
    /// Reads the text of `mountinfo`.
    pub fn parse(mountinfo: &str) -> Result<Self, MountError> {
        let mut v1: Vec<CgroupMount> = Vec::new();
        let mut v2: Option<CgroupMount> = None;
        for mount in mountinfo.lines().filter_map(parse_line) {
            match mount.version {
                Version::V2 => match &v2 {
                    Some(known) if known.whole || !mount.whole => {}
                    _ => v2 = Some(mount),
                },
                // `name=systemd` and the like carry no controller.
                Version::V1 if mount.controllers.iter().all(|name| v1_controller(name).is_none()) => {}
                Version::V1 => match v1.iter_mut().find(|known| known.controllers == mount.controllers) {
                    // The same hierarchy mounted twice: the view from its root wins.
                    Some(known) if known.whole || !mount.whole => {}
                    Some(known) => *known = mount,
                    None => v1.push(mount),
                },
            }
        }
        if v1.is_empty() && v2.is_none() {
            return Err(MountError::NoneMounted);
        }
        Ok(Self { v1, v2 })
    }

    pub fn layout(&self) -> CgroupLayout {
        match (self.v1.is_empty(), &self.v2) {
            (true, _) => CgroupLayout::V2,
            (false, Some(_)) => CgroupLayout::Hybrid,
            (false, None) => CgroupLayout::V1,
        }
    }

    pub fn unified(&self) -> Option<PathBuf> {
        self.v2.as_ref().map(|mount| mount.mount_point.clone())
    }

    /// Where each controller is. `unified_controllers`: the text of the v2 root's `cgroup.controllers`. A
    /// controller is in one hierarchy at a time, so v1 and v2 do not compete for it.
    pub fn controllers(&self, unified_controllers: &str) -> BTreeMap<Controller, ControllerMount> {
        let mut found = BTreeMap::new();
        if let Some(mount) = &self.v2 {
            let at = || ControllerMount {
                version: 2,
                root: mount.mount_point.clone(),
            };
            for controller in unified_controllers
                .split_ascii_whitespace()
                .filter_map(v2_controller)
            {
                found.insert(controller, at());
                if controller == Controller::Cpu {
                    // v2 counts CPU time in the group itself (`cpu.stat`).
                    found.insert(Controller::Cpuacct, at());
                }
            }
            // Freezing is a property of every v2 group, and its frozen processes can be killed.
            found.insert(Controller::Freezer, at());
            if self.v1.is_empty() {
                found.insert(Controller::Devices, at());
            }
        }
        for mount in &self.v1 {
            for controller in mount.controllers.iter().filter_map(|name| v1_controller(name)) {
                if controller == Controller::Freezer && self.v2.is_some() {
                    continue;
                }
                found.insert(
                    controller,
                    ControllerMount {
                        version: 1,
                        root: mount.mount_point.clone(),
                    },
                );
            }
        }
        found
    }
}

fn parse_line(line: &str) -> Option<CgroupMount> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut fields = mount.split(' ');
    let root = fields.nth(3)?;
    let mount_point = fields.next()?;
    let mut filesystem = filesystem.split(' ');
    let version = match filesystem.next()? {
        "cgroup" => Version::V1,
        "cgroup2" => Version::V2,
        _ => return None,
    };
    let options = filesystem.nth(1).unwrap_or_default();
    let controllers = match version {
        Version::V1 => options
            .split(',')
            .filter(|o| !matches!(*o, "rw" | "ro"))
            .map(str::to_owned)
            .collect(),
        Version::V2 => Vec::new(),
    };
    Some(CgroupMount {
        version,
        mount_point: PathBuf::from(unescaped(mount_point)),
        controllers,
        whole: root == "/",
    })
}

/// The mount table writes space, tab, newline and backslash as `\040` and so on.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let code = rest
            .get(at + 1..at + 4)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) if byte.is_ascii() => {
                plain.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            _ => {
                plain.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn hybrid_has_v1_controllers_and_the_v2_tree() {
        let mounts = Mounts::parse(HYBRID).unwrap();
        assert_eq!(mounts.layout(), CgroupLayout::Hybrid);
        assert_eq!(mounts.unified(), Some("/sys/fs/cgroup/unified".into()));
        let found = mounts.controllers("hugetlb\n");
        let root = |c: Controller| (found[&c].version, found[&c].root.to_str().unwrap());
        assert_eq!(root(Controller::Cpu), (1, "/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(root(Controller::Cpuacct), (1, "/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(root(Controller::Io), (1, "/sys/fs/cgroup/blkio"));
        assert_eq!(root(Controller::Hugetlb), (2, "/sys/fs/cgroup/unified"));
        assert_eq!(root(Controller::Freezer), (2, "/sys/fs/cgroup/unified"));
        assert!(!found.contains_key(&Controller::Pids));
        assert!(!found.contains_key(&Controller::Devices));
    }

    #[test]
    fn pure_v2_and_pure_v1() {
        let text = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let v2 = Mounts::parse(text).unwrap();
        assert_eq!(v2.layout(), CgroupLayout::V2);
        let found = v2.controllers("cpuset cpu io memory hugetlb pids rdma misc\n");
        assert!(found.values().all(|mount| mount.version == 2));
        for controller in [
            Controller::Cpu,
            Controller::Cpuacct,
            Controller::Devices,
            Controller::Io,
        ] {
            assert!(found.contains_key(&controller), "{controller:?}");
        }
        let v1 = Mounts::parse("35 31 0:32 / /cg/memory rw - cgroup none rw,memory\n").unwrap();
        assert_eq!(v1.layout(), CgroupLayout::V1);
        assert_eq!(v1.unified(), None);
    }

    #[test]
    fn the_view_from_the_root_wins_and_odd_paths_are_read() {
        let text = "\
35 31 0:32 /sub /a rw - cgroup cgroup rw,memory
36 31 0:32 / /b\\040c\\134d rw - cgroup cgroup rw,memory
37 31 0:32 /other /e rw - cgroup cgroup rw,memory
";
        let mounts = Mounts::parse(text).unwrap();
        assert_eq!(mounts.v1.len(), 1);
        assert_eq!(mounts.v1[0].mount_point, PathBuf::from("/b c\\d"));
    }

    #[test]
    fn no_cgroups_is_an_error_of_its_own() {
        for text in [
            "",
            "garbage\n",
            "31 23 0:28 / / rw - ext4 /dev/vda rw\n",
            "1 2 3 - cgroup",
        ] {
            assert_eq!(Mounts::parse(text), Err(MountError::NoneMounted), "{text:?}");
        }
    }
}
