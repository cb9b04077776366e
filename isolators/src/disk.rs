//! Space on the disk: a project quota where the work directory's file system has them, else a walk that measures.
//!
//! With a quota the container's writes fail (EDQUOT) at its ceiling, and its use is known at any time. Without one whoever
//! runs the agent has to measure now and then, and end what is over its ceiling; so it is too for a container that could
//! give its files another project: one without a system call filter, or with CAP_SYS_RESOURCE, which ext4 lets pass every
//! limit.
//!
//! Nothing is kept but on disk: the project id is an attribute of the container's directories, found there again after a
//! restart, and free when they are gone.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kernel::Errno;
use kernel::directory;
use kernel::quota::{ProjectQuota, QuotaMissing, join_project, project_of};
use model::{
    Bytes, ContainerId, Fault, FaultKind, IsolatorReport, LaunchSpec, Limit, Limitation, Limits, Reason,
    Seccomp,
};

use crate::isolator::active;

/// A handful of empty directories: below it nothing can be done at all.
pub const DISK_MIN: Bytes = Bytes::kib(64);

const FIELD: &str = "limits.disk";

pub struct DiskIsolator {
    quota: Result<ProjectQuota, QuotaMissing>,
    range: RangeInclusive<u32>,
    projects: Mutex<Projects>,
}

#[derive(Default)]
struct Projects {
    of: BTreeMap<ContainerId, u32>,
    taken: std::collections::BTreeSet<u32>,
    next: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("open {path}", path = path.display())]
    Open { path: PathBuf, source: Errno },
    #[error("give {path} the project id {project}", path = path.display())]
    Project {
        path: PathBuf,
        project: u32,
        source: Errno,
    },
    #[error("set the quota of project {project} to {limit}")]
    Limit {
        project: u32,
        limit: Limit<Bytes>,
        source: Errno,
    },
}

impl DiskIsolator {
    /// For the file system of `work`, with project ids of `range`.
    pub fn new(work: &Path, range: RangeInclusive<u32>) -> Self {
        Self {
            quota: ProjectQuota::probe(work),
            projects: Mutex::new(Projects {
                next: *range.start(),
                ..Projects::default()
            }),
            range,
        }
    }

    /// A directory of a container was found at start: its project id, if it has one of ours, is not given away.
    pub fn recover(&self, id: &ContainerId, path: &Path) {
        if self.quota.is_err() {
            return;
        }
        let found = directory::open_no_link(path).and_then(|fd| project_of(fd.as_fd()));
        if let Ok(project) = found
            && self.range.contains(&project)
        {
            let mut projects = self.projects();
            projects.taken.insert(project);
            projects.of.insert(id.clone(), project);
        }
    }

    pub fn report(&self) -> IsolatorReport {
        let by = match &self.quota {
            Ok(_) => format!(
                "project quota (ids {} to {}); a measured walk where seccomp is unconfined or with CAP_SYS_RESOURCE",
                self.range.start(),
                self.range.end()
            ),
            Err(why) => format!("measured walk in the container's groups (no project quota: {why})"),
        };
        active("disk", by)
    }

    /// How a container's ceiling is held.
    pub fn describe(&self, id: &ContainerId) -> String {
        match self.project(id) {
            Some(project) => format!("project quota {project}"),
            None => "measured walk".to_owned(),
        }
    }

    /// Refuses what makes no sense; a walk works everywhere.
    pub fn admit(&self, limits: &Limits) -> Result<(), Fault> {
        match limits.disk {
            Some(Limit::Value(bytes)) if bytes < DISK_MIN => {
                let message = format!("{bytes} does not hold an empty sandbox; the least is {DISK_MIN}");
                Err(Fault::invalid(FIELD, message))
            }
            _ => Ok(()),
        }
    }

    /// Puts the new, empty directories under a quota, where that is the way. On failure the id is free again once the
    /// directories are removed: [`Self::release`].
    pub fn prepare(&self, id: &ContainerId, spec: &LaunchSpec, paths: &[PathBuf]) -> Result<(), DiskError> {
        let (Ok(quota), Some(limit)) = (&self.quota, spec.limits.disk) else {
            return Ok(());
        };
        if !held_by_quota(spec) {
            return Ok(());
        }
        let Some(project) = self.take(id) else {
            tracing::warn!(
                container = %id,
                "all project ids {} to {} are taken: its disk use is measured by walking; see `bulkhead gc`",
                self.range.start(),
                self.range.end()
            );
            return Ok(());
        };
        set(quota, project, limit)?;
        for path in paths {
            let fd = directory::open_no_link(path).map_err(|source| DiskError::Open {
                path: path.clone(),
                source,
            })?;
            join_project(fd.as_fd(), project).map_err(|source| DiskError::Project {
                path: path.clone(),
                project,
                source,
            })?;
        }
        Ok(())
    }

    /// Puts a new ceiling in force. Without a quota the next look goes by it.
    pub fn update(&self, id: &ContainerId, new: &Limits) -> Result<(), Fault> {
        match (self.project(id), &self.quota, new.disk) {
            (Some(project), Ok(quota), Some(limit)) => set(quota, project, limit).map_err(Fault::from),
            _ => Ok(()),
        }
    }

    /// Refuses a change that makes no sense. `used`: as measured last, of a container without a quota.
    pub fn check_update(
        &self,
        id: &ContainerId,
        old: &Limits,
        new: &Limits,
        used: Option<u64>,
    ) -> Result<(), Fault> {
        self.admit(new)?;
        match (new.disk, used) {
            // It would end at the next look: an update is no kill.
            (Some(Limit::Value(limit)), Some(used))
                if old.disk != new.disk && used > limit.get() && self.project(id).is_none() =>
            {
                let message = format!("container {id} uses {} already", Bytes(used));
                let fault = Fault::new(FaultKind::State, message).field(FIELD);
                Err(fault.remedy("choose a ceiling above what it uses, or let it remove files first"))
            }
            _ => Ok(()),
        }
    }

    /// What it takes, if a quota counts it.
    pub fn used(&self, id: &ContainerId) -> Result<Option<u64>, Errno> {
        match (self.project(id), &self.quota) {
            (Some(project), Ok(quota)) => quota.used(project).map(Some),
            _ => Ok(None),
        }
    }

    pub fn project(&self, id: &ContainerId) -> Option<u32> {
        self.projects().of.get(id).copied()
    }

    /// Its directories are gone.
    pub fn release(&self, id: &ContainerId) {
        let Some(project) = self.project(id) else { return };
        if let Ok(quota) = &self.quota
            && let Err(errno) = quota.set_limit(project, None)
        {
            tracing::warn!(container = %id, project, "lift the quota of a project that is gone: {errno}");
        }
        let mut projects = self.projects();
        projects.of.remove(id);
        projects.taken.remove(&project);
    }

    /// The ids are gone round, so that one that was just given back rests.
    fn take(&self, id: &ContainerId) -> Option<u32> {
        let mut projects = self.projects();
        if let Some(project) = projects.of.get(id) {
            return Some(*project);
        }
        let from = projects.next;
        let free = (from..=*self.range.end())
            .chain(*self.range.start()..from)
            .find(|project| !projects.taken.contains(project))?;
        projects.taken.insert(free);
        projects.of.insert(id.clone(), free);
        projects.next = if free == *self.range.end() {
            *self.range.start()
        } else {
            free + 1
        };
        Some(free)
    }

    fn projects(&self) -> MutexGuard<'_, Projects> {
        self.projects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn set(quota: &ProjectQuota, project: u32, limit: Limit<Bytes>) -> Result<(), DiskError> {
    quota
        .set_limit(project, limit.value().map(Bytes::get))
        .map_err(|source| DiskError::Limit {
            project,
            limit,
            source,
        })
}

/// It can neither change the project of its files nor pass its limit.
fn held_by_quota(spec: &LaunchSpec) -> bool {
    let strong = spec.capabilities.add.iter().any(|name| {
        let name = name.to_ascii_uppercase();
        matches!(name.trim_start_matches("CAP_"), "SYS_RESOURCE" | "ALL")
    });
    spec.seccomp == Seccomp::Default && !strong
}

/// What a walk has found, if it is too much.
pub fn limitation(limits: &Limits, used: u64, files: u64, directories: u64) -> Option<Limitation> {
    let limit = limits.disk?.value().filter(|limit| used > limit.get())?;
    Some(Limitation {
        reason: Reason::DiskLimit,
        message: format!(
            "out of disk space: the ceiling is {limit}, {} are used",
            Bytes(used)
        ),
        limit: Some(limit),
        peak: Some(Bytes(used)),
        statistics: [("files", files), ("directories", directories)]
            .map(|(name, count)| (name.to_owned(), count))
            .into(),
    })
}

impl From<DiskError> for Fault {
    fn from(error: DiskError) -> Fault {
        Fault::from_error(FaultKind::Failed, &error).field(FIELD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn isolator() -> DiskIsolator {
        DiskIsolator::new(Path::new("/proc"), 10..=12)
    }

    #[test]
    fn ids_are_given_once_and_go_round() {
        let disk = isolator();
        let id = |text: &str| text.parse::<ContainerId>().unwrap();
        let all: Vec<_> = ["a", "b", "c", "d"].map(|name| disk.take(&id(name))).into();
        assert_eq!(all, [Some(10), Some(11), Some(12), None]);
        assert_eq!(disk.take(&id("b")), Some(11));
        disk.release(&id("b"));
        disk.release(&id("a"));
        assert_eq!((disk.take(&id("e")), disk.take(&id("f"))), (Some(10), Some(11)));
    }

    #[test]
    fn whoever_can_pass_a_quota_is_measured() {
        let mut spec = LaunchSpec::default();
        assert!(held_by_quota(&spec));
        for name in ["CAP_SYS_RESOURCE", "sys_resource", "ALL"] {
            spec.capabilities.add = vec![name.to_owned()];
            assert!(!held_by_quota(&spec), "{name}");
        }
        spec.capabilities.add = vec!["NET_ADMIN".to_owned()];
        assert!(held_by_quota(&spec));
        spec.seccomp = Seccomp::Unconfined;
        assert!(!held_by_quota(&spec));
    }

    #[test]
    fn only_more_than_the_ceiling_is_too_much() {
        let limits = |disk| Limits {
            disk,
            ..Limits::default()
        };
        let one = limits(Some(Limit::Value(Bytes::mib(1))));
        assert!(limitation(&one, 1 << 20, 1, 1).is_none());
        let found = limitation(&one, (1 << 20) + 512, 1, 1).unwrap();
        assert!(found.message.contains("1MB"), "{}", found.message);
        assert!(limitation(&limits(Some(Limit::Max)), u64::MAX, 1, 1).is_none());
        assert!(limitation(&limits(None), u64::MAX, 1, 1).is_none());
        let disk = isolator();
        assert!(disk.admit(&limits(Some(Limit::Value(Bytes(4096))))).is_err());
        assert!(disk.admit(&one).is_ok());
        let id = "a".parse().unwrap();
        assert!(
            disk.check_update(&id, &limits(None), &one, Some(2 << 20))
                .is_err()
        );
        assert!(disk.check_update(&id, &limits(None), &one, Some(1 << 19)).is_ok());
    }
}
