//! Looks after what containers with a disk ceiling take: the figure of their quota, or a walk in a process of its own.
//!
//! The walk is a clone of the launcher in the container's groups: a container pays for its own measuring. One that leaves
//! it no room (no memory, no process, no time) does not get away with it: after a few tries it is measured at our expense.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use container::channel::{self, Report};
use container::{ChildFds, CloneKind, CloneRequest, Namespaces};
use isolators::IsolatorSet;
use isolators::disk::{DiskIsolator, limitation};
use kernel::Errno;
use kernel::directory;
use model::{ContainerId, ContainerState, Fault, LaunchSpec, Limit, Limits};

use crate::config::Config;
use crate::launch::{blocking, failed, source};
use crate::shell::Shell;
use crate::work_dir::Directories;

/// Failed walks in a container's own groups before one outside of them.
const TRIES: u32 = 3;
/// Failures after which a person has to know.
const BLIND: u32 = TRIES + 1;
/// A walk in the container's groups that takes longer is starved.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nobody starves one at our expense; a disk may hang.
const PATIENCE_OWN: Duration = Duration::from_secs(3600);

/// What is known of one container's disk use.
#[derive(Default)]
pub struct DiskWatch {
    task: RefCell<Option<net::Task<()>>>,
    used: Cell<Option<u64>>,
}

impl DiskWatch {
    pub fn used(&self) -> Option<u64> {
        self.used.get()
    }

    /// A walk under way is ended.
    pub fn stop(&self) {
        self.task.borrow_mut().take();
    }
}

struct Found {
    bytes: u64,
    files: u64,
    directories: u64,
}

/// Finds out what the work directory's disk can do, and which project ids are in use.
pub fn start(config: &Config, directories: &Directories) -> Arc<DiskIsolator> {
    let range = config.disk.disk_project_range;
    let disk = DiskIsolator::new(directories.work(), range.first..=range.last);
    for name in ["sandboxes", "overlays"] {
        let entries = std::fs::read_dir(directories.work().join(name));
        for entry in entries.into_iter().flatten().flatten() {
            if let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                disk.recover(&id, &entry.path());
            }
        }
    }
    tracing::info!(isolator = "disk", by = %disk.report().mechanism, "active");
    Arc::new(disk)
}

/// Puts the directories of a container that is being made under its quota, where that is how it is held.
pub fn prepare(
    disk: &DiskIsolator,
    directories: &Directories,
    id: &ContainerId,
    spec: &LaunchSpec,
) -> Result<(), Fault> {
    let mut paths = vec![directories.sandbox(id)];
    if spec.rootfs.is_some() {
        paths.push(directories.overlay(id));
    }
    disk.prepare(id, spec, &paths).map_err(Fault::from)
}

/// The last step of an update; when it fails the old limits are in force again.
pub fn update_last(
    disk: &DiskIsolator,
    isolators: &IsolatorSet,
    id: &ContainerId,
    old: &Limits,
    new: &Limits,
) -> Result<(), Fault> {
    if old.disk == new.disk {
        return Ok(());
    }
    disk.update(id, new).inspect_err(|_| {
        if let Err(error) = isolators.update(id, new, old) {
            tracing::error!(container = %id, "put the old limits in force again: {error}");
        }
    })
}

/// Begins to look after a container, if it has a ceiling and nobody looks yet.
pub fn watch(shell: &Rc<Shell>, id: &ContainerId) {
    let Some(resources) = shell.resources(id) else {
        return;
    };
    let wanted = shell
        .core()
        .limits(id)
        .is_some_and(|limits| limits.disk.is_some());
    let mut task = resources.disk.task.borrow_mut();
    if wanted && task.is_none() {
        *task = Some(net::spawn(follow(shell.clone(), id.clone())));
    }
}

async fn follow(shell: Rc<Shell>, id: ContainerId) {
    let mut failures = 0u32;
    loop {
        net::sleep(shell.config.disk.container_disk_watch_interval.duration()).await;
        let runs = shell.core().status(&id).map(|status| status.state);
        if !matches!(runs, Some(state) if state <= ContainerState::Killing) {
            return;
        }
        match look(&shell, &id, failures >= TRIES).await {
            // Once outside, it stays there: what starved the walk would starve it again.
            Ok(()) => failures = if failures >= TRIES { TRIES } else { 0 },
            Err(fault) => {
                failures = failures.saturating_add(1);
                match failures {
                    TRIES => {
                        tracing::warn!(container = %id, "measured from outside its groups from now on: {fault}");
                    }
                    BLIND => tracing::error!(container = %id, "its disk ceiling is not held: {fault}"),
                    _ => tracing::debug!(container = %id, failures, "measure its disk use: {fault}"),
                }
            }
        }
    }
}

async fn look(shell: &Rc<Shell>, id: &ContainerId, outside: bool) -> Result<(), Fault> {
    let resources = crate::launch::held(shell, id)?;
    if shell.disk.project(id).is_some() {
        let (disk, job_id) = (shell.disk.clone(), id.clone());
        let used = blocking(shell, move || {
            disk.used(&job_id)
                .map_err(|e| Fault::failed(format!("read the quota: {e}")))
        })
        .await?;
        resources.disk.used.set(used);
        return Ok(());
    }
    let found = walk(shell, id, outside).await?;
    resources.disk.used.set(Some(found.bytes));
    let limits = shell.core().limits(id).cloned().unwrap_or_default();
    let over = limitation(&limits, found.bytes, found.files, found.directories);
    if let Some(limitation) = over.filter(|_| shell.config.disk.enforce_container_disk_quota) {
        shell.limit_hit(id.clone(), limitation);
    }
    Ok(())
}

async fn walk(shell: &Rc<Shell>, id: &ContainerId, outside: bool) -> Result<Found, Fault> {
    let (isolators, launcher, directories) = (
        shell.isolators.clone(),
        shell.launcher.clone(),
        shell.directories.clone(),
    );
    let job_id = id.clone();
    let (helper, channel) = blocking(shell, move || {
        let (channel, child) =
            channel::open(&[]).map_err(|e| Fault::failed(format!("open a channel: {e}")))?;
        let mut fds = ChildFds::new(child);
        fds.trees = open_trees(&directories, &job_id)?;
        if !outside {
            let groups = isolators.join(&job_id).map_err(|e| failed(&e))?;
            (fds.cgroup, fds.cgroup_procs) = (groups.cgroup, groups.cgroup_procs);
        }
        let reply = launcher.clone_child(&CloneRequest {
            kind: CloneKind::Measure,
            namespaces: Namespaces::default(),
            fds,
        })?;
        let (_, pidfd) = reply
            .result
            .map_err(|errno| Fault::failed(format!("clone a process to measure with: {errno}")))?;
        Ok((Unwatched(Some(pidfd)), channel))
    })
    .await?;
    let helper = helper.watched()?;
    let channel = source(channel)?;
    let patience = if outside { PATIENCE_OWN } else { PATIENCE };
    let report = net::timeout(
        patience,
        channel.read_with(|fd| channel::receive_report(fd.as_fd())),
    )
    .await;
    match report {
        Ok(Ok(Some((
            Report::Measured {
                bytes,
                files,
                directories,
            },
            _,
        )))) => {
            helper.ended().await;
            Ok(Found {
                bytes,
                files,
                directories,
            })
        }
        Ok(Ok(Some((report, _)))) => Err(report.into_fault()),
        Ok(Ok(None)) => Err(Fault::failed("the measuring process was ended")),
        Ok(Err(error)) => Err(Fault::failed(format!("hear from the measuring process: {error}"))),
        Err(_) => Err(Fault::failed(format!(
            "no figure within {} s",
            patience.as_secs()
        ))),
    }
}

fn open_trees(directories: &Directories, id: &ContainerId) -> Result<Vec<OwnedFd>, Fault> {
    let mut trees = Vec::with_capacity(2);
    for path in [directories.sandbox(id), directories.overlay(id)] {
        match directory::open_no_link(&path) {
            Ok(fd) => trees.push(fd),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(Fault::failed(format!("open {}: {errno}", path.display()))),
        }
    }
    Ok(trees)
}

/// A child on its way from a worker to the loop. Nobody took it: it is ended and reaped where it is.
struct Unwatched(Option<OwnedFd>);

impl Unwatched {
    fn watched(mut self) -> Result<Helper, Fault> {
        let pidfd = self.0.take().ok_or_else(|| Fault::failed("no process"))?;
        Ok(Helper(Some(Rc::new(source(pidfd)?))))
    }
}

impl Drop for Unwatched {
    fn drop(&mut self) {
        if let Some(pidfd) = self.0.take() {
            crate::resources::end_and_reap(&pidfd);
        }
    }
}

/// The measuring process. Whoever drops it ends it, and it is reaped in its own time.
struct Helper(Option<Rc<net::Source<OwnedFd>>>);

impl Helper {
    async fn ended(mut self) {
        if let Some(pidfd) = &self.0 {
            let _ = net::wait_pidfd(pidfd).await;
        }
        self.0 = None;
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(pidfd) = self.0.take() {
            let _ = kernel::process::pidfd_send_signal(pidfd.as_fd(), kernel::signal::KILL);
            net::spawn(async move { drop(net::wait_pidfd(&pidfd).await) }).detach();
        }
    }
}

/// How its ceiling is held, for a person.
pub fn detail(shell: &Shell, id: &ContainerId) -> Option<String> {
    let limit = shell.core().limits(id)?.disk?;
    let by = shell.disk.describe(id);
    let enforced = shell.config.disk.enforce_container_disk_quota || shell.disk.project(id).is_some();
    Some(match limit {
        Limit::Value(_) if enforced => by,
        Limit::Value(_) => format!("{by}, not enforced (--enforce-container-disk-quota=false)"),
        Limit::Max => format!("{by}, without a ceiling"),
    })
}
