//! Executes the steps that make a container's file system.
//!
//! Sources are taken first, while the host's root is in sight; then the root changes, and from there on
//! every path is walked below the new root, where no link can lead back out. What stands in the way of
//! a mount of ours (an image's `/dev` or `/proc` that is a symbolic link) is refused, not followed.
//!
//! One tmpfs holds everything that is writable and the container's own: `/dev`, `/tmp`, `/run`, covers
//! of hidden directories. Its root is not reachable in the container; each part is a bind mount. A
//! tmpfs of its own for each costs five times as much to make and to take down.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kernel::Errno;
use kernel::device;
use kernel::mount::{self, FileFacts, MountFlags, Walk};
use kernel::namespace;
use kernel::procfs;

use super::child::Failure;
use super::kernel_mounts::{self, KernelMounts};
use super::own_ids::{self, OwnIds};
use crate::plan::{Owners, Step};

/// Mounts in the making.
#[derive(Default)]
pub(super) struct Root {
    sources: Vec<OwnedFd>,
    devices: Vec<(PathBuf, FileFacts)>,
    /// Root of the container's own tmpfs.
    scratch: Option<OwnedFd>,
    /// The `/dev` directory on it.
    dev: Option<OwnedFd>,
    parts: u32,
    /// Directories on the host of the v1 groups that we have joined.
    groups: Vec<PathBuf>,
    held_groups: Vec<(CString, OwnedFd)>,
    kernel: KernelMounts,
    empty: Option<OwnedFd>,
    ids: Option<OwnIds>,
}

const NO_SUID_NO_DEVICES: MountFlags = MountFlags::NO_SUID.and(MountFlags::NO_DEVICES);
/// For kernel interfaces: nothing on them is a program or a device.
pub(super) const INERT: MountFlags = NO_SUID_NO_DEVICES.and(MountFlags::NO_EXECUTE);

pub(super) const DIRECTORY_MODE: u32 = 0o755;
const STICKY_FOR_ALL: u32 = 0o1777;

fn path(text: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(text.to_bytes()))
}

impl Root {
    pub fn new(groups: Vec<PathBuf>) -> Self {
        Self {
            groups,
            ..Self::default()
        }
    }

    pub fn execute(&mut self, step: &Step) -> Result<(), Failure> {
        match step {
            Step::HoldSource { path, owners } => self.hold_source(path, *owners),
            Step::HoldDevice { path } => self.hold_device(path),
            Step::HostRoot => {
                let flags = NO_SUID_NO_DEVICES.and(MountFlags::READ_ONLY);
                mount::restrict_path(c"/", flags, true).map_err(Failure::of("make the host's root read-only"))
            }
            Step::OverlayRoot {
                lower,
                layers,
                mapped,
            } => overlay_root(lower, layers, self.ids.as_ref().filter(|_| *mapped)),
            Step::Processes => self.kernel.processes(),
            Step::Devices { console } => self.devices(*console),
            Step::PrivateDirectory {
                target,
                mode,
                optional,
            } => self.private_directory(target, *mode, *optional),
            Step::Hide { target, inner } => self.hide(target, inner.as_deref()),
            Step::Sysfs { fresh } => self.kernel.sysfs(*fresh),
            Step::HoldGroups { hierarchies } => self.hold_groups(hierarchies),
            Step::Cgroups { unified } => self.cgroups(*unified),
            Step::Mask { files, directories } => {
                files.iter().try_for_each(|target| self.mask_file(target))?;
                directories
                    .iter()
                    .try_for_each(|target| self.mask_directory(target))
            }
            Step::ReadOnly { targets } => targets
                .iter()
                .try_for_each(|target| self.kernel.read_only(target)),
            Step::Attach {
                source,
                target,
                read_only,
            } => self.attach(*source, target, *read_only),
            Step::Hostname { name } => {
                namespace::set_hostname(name).map_err(Failure::at("set host name", name))
            }
            Step::OwnIds { base, count, network } => {
                self.ids = Some(OwnIds::make(*base, *count, *network)?);
                Ok(())
            }
            Step::EnterOwnIds => self.enter_own_ids(),
        }
    }

    fn hold_source(&mut self, source: &CStr, owners: Owners) -> Result<(), Failure> {
        let failed = |errno| match errno {
            // The agent has resolved the path. A link that is there now was put there since: by another
            // container, to lead us elsewhere.
            Errno::ELOOP => Failure::at("open source", source.to_bytes())(errno)
                .because("a link has appeared in the path since the launch was admitted"),
            errno => Failure::at("open source", source.to_bytes())(errno),
        };
        let place = mount::locate(None, path(source), Walk::NoLinks).map_err(failed)?;
        let tree = mount::clone_tree(Some(place.as_fd()), Path::new(""), true).map_err(failed)?;
        if let Some(ids) = &self.ids {
            ids.suit(tree.as_fd(), owners)
                .map_err(|errno| failed(errno).because(own_ids::explain(errno)))?;
        }
        self.sources.push(tree);
        Ok(())
    }

    /// Handles on mounts are handles on those of the namespace that is left.
    fn enter_own_ids(&mut self) -> Result<(), Failure> {
        let Some(ids) = self.ids.take() else { return Ok(()) };
        ids.enter()?;
        let failed = Failure::at("find again", device::MOUNT_POINT.to_bytes());
        self.dev = Some(mount::locate(None, path(device::MOUNT_POINT), Walk::NoLinks).map_err(failed)?);
        Ok(())
    }

    fn hold_device(&mut self, device: &CStr) -> Result<(), Failure> {
        let failed = |errno| Failure::at("open device", device.to_bytes())(errno);
        let place = mount::locate(None, path(device), Walk::Host).map_err(failed)?;
        let facts = mount::facts(&place).map_err(failed)?;
        if !facts.is_device() {
            return Err(failed(Errno::ENODEV).because("not a device node"));
        }
        let relative = path(device)
            .strip_prefix(path(device::MOUNT_POINT))
            .unwrap_or(path(device));
        self.devices.push((relative.to_owned(), facts));
        Ok(())
    }

    /// Mounts the tmpfs where `/dev` is, fills it, and covers it with its own directory `dev`.
    fn devices(&mut self, console: bool) -> Result<(), Failure> {
        let failed = |errno| Failure::at("make", device::MOUNT_POINT.to_bytes())(errno);
        let scratch = kernel_mounts::mount_at(
            c"tmpfs",
            device::MOUNT_POINT,
            NO_SUID_NO_DEVICES,
            Some(c"mode=0755"),
        )?;
        mount::make_directory(scratch.as_fd(), Path::new("dev"), DIRECTORY_MODE).map_err(failed)?;
        let tree = mount::clone_tree(Some(scratch.as_fd()), Path::new("dev"), false).map_err(failed)?;
        mount::restrict_tree(tree.as_fd(), MountFlags::NO_SUID, MountFlags::NO_DEVICES, false)
            .map_err(failed)?;
        mount::attach_tree(tree.as_fd(), scratch.as_fd()).map_err(failed)?;
        self.fill_devices(tree.as_fd(), console)?;
        let own_options = self
            .ids
            .as_ref()
            .map(|ids| device::terminals_options(ids.terminals_group()));
        mount::mount_filesystem(
            c"devpts",
            device::TERMINALS,
            MountFlags::NO_SUID.and(MountFlags::NO_EXECUTE),
            Some(own_options.as_deref().unwrap_or(device::TERMINALS_OPTIONS)),
        )
        .map_err(Failure::at("mount devpts at", device::TERMINALS.to_bytes()))?;
        let terminals = mount::locate(Some(tree.as_fd()), Path::new("pts"), Walk::NoLinks).map_err(failed)?;
        kernel_mounts::verify(terminals.as_fd(), c"devpts", device::TERMINALS)?;
        self.scratch = Some(scratch);
        self.dev = Some(tree);
        Ok(())
    }

    fn fill_devices(&mut self, dev: BorrowedFd<'_>, console: bool) -> Result<(), Failure> {
        for (name, major, minor) in device::NODES {
            let number = device::device_number(major, minor);
            mount::make_node(dev, Path::new(name), device::CHARACTER_DEVICE_FOR_ALL, number)
                .map_err(Failure::at("make device", name))?;
        }
        for (name, to) in device::LINKS {
            mount::make_link(dev, name, to).map_err(Failure::at("make link", name.to_bytes()))?;
        }
        for (name, mode) in [("pts", DIRECTORY_MODE), ("shm", STICKY_FOR_ALL)] {
            mount::make_directory(dev, Path::new(name), mode).map_err(Failure::at("make directory", name))?;
        }
        if console {
            let name = device::CONSOLE;
            mount::make_file(dev, Path::new(name), 0o600).map_err(Failure::at("make file", name))?;
        }
        for (name, facts) in self.devices.drain(..) {
            let failed = |errno| Failure::at("make device", name.as_os_str().as_bytes())(errno);
            if let Some(parent) = name.parent() {
                make_directories(dev, parent).map_err(failed)?;
            }
            match mount::make_node(dev, &name, facts.mode, facts.device) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(())
    }

    /// The name of a terminal that programs of old look for.
    pub fn attach_console(&self, slave: BorrowedFd<'_>) -> Result<(), Failure> {
        let failed = |errno| Failure::at("attach terminal at", device::CONSOLE)(errno);
        let Some(dev) = &self.dev else { return Ok(()) };
        let place =
            mount::locate(Some(dev.as_fd()), Path::new(device::CONSOLE), Walk::NoLinks).map_err(failed)?;
        let tree = mount::clone_tree(Some(slave), Path::new(""), false).map_err(failed)?;
        mount::attach_tree(tree.as_fd(), place.as_fd()).map_err(failed)
    }

    /// The null device of the container, before anything has run that could replace it.
    pub fn null_device(&self) -> Result<OwnedFd, Failure> {
        let failed = Failure::at("open", device::NULL.to_bytes());
        match &self.dev {
            Some(dev) => device::open_null_in(dev.as_fd()).map_err(failed),
            None => Err(failed(Errno::ENODEV)),
        }
    }

    /// A new directory on the own tmpfs, as a detached tree.
    fn part(&mut self, mode: u32, inner: Option<&Path>, set: MountFlags) -> Result<OwnedFd, Errno> {
        let Some(scratch) = &self.scratch else {
            return Err(Errno::EINVAL);
        };
        let name = self.parts.to_string();
        self.parts += 1;
        mount::make_directory(scratch.as_fd(), Path::new(&name), mode)?;
        if let Some(inner) = inner {
            make_directories(scratch.as_fd(), &Path::new(&name).join(inner))?;
        }
        let tree = mount::clone_tree(Some(scratch.as_fd()), Path::new(&name), false)?;
        // The tmpfs itself is mounted nosuid, nodev, and a copy has the flags of its original.
        if set != MountFlags::NONE {
            mount::restrict_tree(tree.as_fd(), set, MountFlags::NONE, false)?;
        }
        Ok(tree)
    }

    fn private_directory(&mut self, target: &CStr, mode: u32, optional: bool) -> Result<(), Failure> {
        let failed = |errno| Failure::at("make private directory", target.to_bytes())(errno);
        let walk = if optional { Walk::NoLinks } else { Walk::Host };
        let place = match mount::locate(None, path(target), walk) {
            Ok(place) => place,
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR) if optional => return Ok(()),
            Err(errno) => return Err(failed(errno)),
        };
        let tree = self.part(mode, None, MountFlags::NONE).map_err(failed)?;
        mount::attach_tree(tree.as_fd(), place.as_fd()).map_err(failed)
    }

    fn hide(&mut self, target: &CStr, inner: Option<&CStr>) -> Result<(), Failure> {
        let failed = |errno| Failure::at("hide", target.to_bytes())(errno);
        let place = match mount::locate(None, path(target), Walk::Host) {
            Ok(place) => place,
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(failed(errno)),
        };
        let tree = self
            .part(DIRECTORY_MODE, inner.map(path), MountFlags::READ_ONLY)
            .map_err(failed)?;
        mount::attach_tree(tree.as_fd(), place.as_fd()).map_err(failed)
    }

    /// Copies of the mounts, not new ones: mounting a v1 hierarchy takes 100 us, and 10 ms whenever it
    /// meets another mount or unmount of it (`cgroup1_get_tree` sleeps and tries again).
    fn hold_groups(&mut self, hierarchies: &[(CString, CString)]) -> Result<(), Failure> {
        for (top, name) in hierarchies {
            let Some(group) = self.groups.iter().find(|group| group.starts_with(path(top))) else {
                continue;
            };
            let failed = |errno| Failure::at("hold cgroup", group.as_os_str().as_bytes())(errno);
            let tree = mount::clone_tree(None, group, false).map_err(failed)?;
            mount::restrict_tree(
                tree.as_fd(),
                INERT.and(MountFlags::READ_ONLY),
                MountFlags::NONE,
                false,
            )
            .map_err(failed)?;
            self.held_groups.push((name.clone(), tree));
        }
        Ok(())
    }

    fn cgroups(&mut self, unified: bool) -> Result<(), Failure> {
        let top = device::CGROUP_MOUNT_POINT;
        let failed = |errno| Failure::at("mount cgroups at", top.to_bytes())(errno);
        let flags = INERT.and(MountFlags::READ_ONLY);
        let place = self.kernel.locate(top).map_err(failed)?;
        if unified {
            mount::mount_filesystem(c"cgroup2", top, flags, None).map_err(failed)?;
            let mounted = self.kernel.locate(top).map_err(failed)?;
            return kernel_mounts::verify(mounted.as_fd(), c"cgroup2", top);
        }
        let tree = self
            .part(DIRECTORY_MODE, None, MountFlags::NONE)
            .map_err(failed)?;
        for (name, _) in &self.held_groups {
            mount::make_directory(tree.as_fd(), path(name), DIRECTORY_MODE).map_err(failed)?;
        }
        mount::restrict_tree(tree.as_fd(), flags, MountFlags::NONE, false).map_err(failed)?;
        mount::attach_tree(tree.as_fd(), place.as_fd()).map_err(failed)?;
        for (name, group) in self.held_groups.drain(..) {
            let target = mount::locate(Some(tree.as_fd()), path(&name), Walk::NoLinks).map_err(failed)?;
            mount::attach_tree(group.as_fd(), target.as_fd()).map_err(failed)?;
        }
        Ok(())
    }

    fn mask_file(&self, target: &CStr) -> Result<(), Failure> {
        match &self.dev {
            Some(dev) => self.kernel.mask_file(target, dev.as_fd()),
            None => Err(Failure::at("mask", target.to_bytes())(Errno::EINVAL)),
        }
    }

    fn mask_directory(&mut self, target: &CStr) -> Result<(), Failure> {
        let failed = |errno| Failure::at("mask", target.to_bytes())(errno);
        let place = match self.kernel.locate(target) {
            Err(Errno::ENOENT) => return Ok(()),
            other => other.map_err(failed)?,
        };
        // The first cover is the original of all others, which have its flags.
        let tree = match &self.empty {
            Some(first) => mount::clone_tree(Some(first.as_fd()), Path::new(""), false).map_err(failed)?,
            None => self
                .part(DIRECTORY_MODE, None, MountFlags::READ_ONLY)
                .map_err(failed)?,
        };
        mount::attach_tree(tree.as_fd(), place.as_fd()).map_err(failed)?;
        self.empty.get_or_insert(tree);
        Ok(())
    }

    fn attach(&mut self, source: u32, target: &CStr, read_only: bool) -> Result<(), Failure> {
        let failed = |errno| Failure::at("attach volume at", target.to_bytes())(errno);
        let tree = self
            .sources
            .get(source as usize)
            .ok_or_else(|| failed(Errno::EINVAL))?;
        let flags = if read_only {
            NO_SUID_NO_DEVICES.and(MountFlags::READ_ONLY)
        } else {
            NO_SUID_NO_DEVICES
        };
        mount::restrict_tree(tree.as_fd(), flags, MountFlags::NONE, true).map_err(failed)?;
        let directory = mount::facts(tree).map_err(failed)?.is_directory();
        let place = mount_point(path(target), directory).map_err(|errno| match errno {
            Errno::EROFS => failed(Errno::ENOENT)
                .because("mount point does not exist, and the container's root is read-only there"),
            errno => failed(errno),
        })?;
        // The plan refuses these by their names; an image can lead to them by a link.
        if mount::is_kernel_interface(place.as_fd()).map_err(failed)? {
            return Err(failed(Errno::EPERM).because("the mount point leads into a kernel file system"));
        }
        mount::attach_tree(tree.as_fd(), place.as_fd()).map_err(failed)
    }
}

/// A private overlay as root. Changes to the image stay in `layers`.
fn overlay_root(lower: &CStr, layers: &CStr, ids: Option<&OwnIds>) -> Result<(), Failure> {
    let failed = |errno| Failure::at("mount overlay of", lower.to_bytes())(errno);
    mount::restrict_path(c"/", MountFlags::NONE, true).map_err(Failure::of("make mounts private"))?;
    let place =
        mount::locate(None, path(layers), Walk::Host).map_err(Failure::at("open", layers.to_bytes()))?;
    let image = mount::locate(None, path(lower), Walk::NoLinks)
        .map_err(Failure::at("open rootfs", lower.to_bytes()))?;
    if !mount::facts(&image).map_err(failed)?.is_directory() {
        return Err(failed(Errno::ENOTDIR));
    }
    let image = match ids {
        None => image,
        Some(ids) => {
            // A layer has to be mounted somewhere in our own mount namespace.
            let tree = mount::clone_tree(Some(image.as_fd()), Path::new(""), false).map_err(failed)?;
            ids.map(tree.as_fd(), false)
                .map_err(|errno| failed(errno).because(own_ids::explain(errno)))?;
            mount::attach_tree(tree.as_fd(), image.as_fd()).map_err(failed)?;
            tree
        }
    };
    // By handle: its name may be a link to the host's root by the time that the kernel looks.
    let lower_path = procfs::own_descriptor_path(image.as_fd());
    for name in ["upper", "work"] {
        match mount::make_directory(place.as_fd(), Path::new(name), DIRECTORY_MODE) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(Failure::at("make layer below", layers.to_bytes())(errno)),
        }
    }
    let mut options = b"lowerdir=".to_vec();
    for (text, part) in [
        (lower_path.as_c_str(), ""),
        (layers, ",upperdir="),
        (layers, ",workdir="),
    ] {
        options.extend_from_slice(part.as_bytes());
        options.extend_from_slice(text.to_bytes());
        options.extend_from_slice(match part {
            "" => b"",
            ",upperdir=" => b"/upper",
            _ => b"/work",
        });
    }
    let options = CString::new(options).map_err(|_| failed(Errno::EINVAL))?;
    mount::mount_filesystem(c"overlay", layers, NO_SUID_NO_DEVICES, Some(&options)).map_err(failed)?;
    let root = mount::locate(None, path(layers), Walk::Host).map_err(failed)?;
    mount::enter_root(root.as_fd()).map_err(Failure::of("enter the new root"))
}

/// `mkdir -p` in a directory that is ours alone.
fn make_directories(dir: BorrowedFd<'_>, relative: &Path) -> Result<(), Errno> {
    let mut made = PathBuf::new();
    for part in relative.components() {
        made.push(part);
        match mount::make_directory(dir, &made, DIRECTORY_MODE) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The place of a volume below the container's root, made where that is possible. What another
/// container can rename in the meantime changes nothing: each part is reached from a handle on the one
/// before.
fn mount_point(target: &Path, directory: bool) -> Result<OwnedFd, Errno> {
    match mount::locate(None, target, Walk::Host) {
        Err(Errno::ENOENT) => {}
        answer => return answer,
    }
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(Errno::ENOENT);
    };
    let parent = mount_point(parent, true)?;
    let name = Path::new(name);
    let made = if directory {
        mount::make_directory(parent.as_fd(), name, DIRECTORY_MODE)
    } else {
        mount::make_file(parent.as_fd(), name, 0o644)
    };
    match made {
        Ok(()) | Err(Errno::EEXIST) => mount::locate(Some(parent.as_fd()), name, Walk::NoLinks),
        Err(errno) => Err(errno),
    }
}
