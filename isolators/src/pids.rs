//! Processes and threads.

use kernel::cgroup::pids::{PIDS_LIMIT_MAX, apply};
use kernel::cgroup::{LimitError, Version};
use kernel::file::{KernelFileError, number};
use model::{Controller, Fault, IsolatorReport, LaunchSpec, Limit, Limits, Usage};

use crate::error::PrepareError;
use crate::isolator::{Isolator, Place, active, missing};
use crate::trees::{TreeId, Trees};
use crate::usage::UsageFile;

/// The container's init and its command.
pub const PIDS_MIN: u32 = 2;

pub struct PidsIsolator {
    tree: Option<TreeId>,
}

impl PidsIsolator {
    pub fn new(trees: &Trees) -> Self {
        Self {
            tree: trees.of(Controller::Pids),
        }
    }
}

impl Isolator for PidsIsolator {
    fn name(&self) -> &'static str {
        "pids"
    }

    fn report(&self) -> IsolatorReport {
        match self.tree {
            None => missing("pids", "the pids controller (CONFIG_CGROUP_PIDS) is not mounted"),
            Some(_) => active("pids", "pids.max"),
        }
    }

    fn admit(&self, limits: &Limits) -> Result<(), Fault> {
        const FIELD: &str = "limits.pids";
        let Some(limit) = limits.pids else { return Ok(()) };
        if self.tree.is_none() {
            return Err(Fault::unsupported(
                FIELD,
                "the pids controller (CONFIG_CGROUP_PIDS) is not mounted",
            ));
        }
        match limit {
            Limit::Value(pids) if pids < PIDS_MIN => Err(Fault::invalid(
                FIELD,
                format!(
                    "{pids} is too few to start a command; the least is {PIDS_MIN}, the container's init and the command"
                ),
            )),
            Limit::Value(pids) if pids > PIDS_LIMIT_MAX => Err(Fault::invalid(
                FIELD,
                format!("{pids} is more than a kernel has; the most is {PIDS_LIMIT_MAX}, or max"),
            )),
            _ => Ok(()),
        }
    }

    fn trees(&self, _limits: &Limits) -> Vec<TreeId> {
        self.tree.into_iter().collect()
    }

    fn prepare(&self, place: Place<'_>, spec: &LaunchSpec) -> Result<(), PrepareError> {
        match (self.tree, spec.limits.pids) {
            (Some(tree), Some(limit)) => {
                apply(place.group(tree), limit).map_err(|e| PrepareError::limit("pids", e))
            }
            _ => Ok(()),
        }
    }

    fn update(&self, place: Place<'_>, old: &Limits, new: &Limits) -> Result<(), LimitError> {
        match self.tree {
            Some(tree) if old.pids != new.pids => apply(place.group(tree), new.pids.unwrap_or(Limit::Max)),
            _ => Ok(()),
        }
    }

    fn usage(&self, place: Place<'_>, files: &mut Vec<UsageFile>) -> Result<(), KernelFileError> {
        if let Some(tree) = self.tree {
            // It counts tasks: every thread of every process.
            UsageFile::open(place.group(tree), "pids.current", threads, files)?;
        }
        // A v1 cgroup.procs is sorted and kept for a second at every read; the v2 one is a plain walk.
        let lists = place.trees.unified().or(self.tree);
        if let Some(tree) = lists.filter(|tree| place.trees.tree(*tree).version() == Version::V2) {
            UsageFile::open(place.group(tree), "cgroup.procs", processes, files)?;
        }
        Ok(())
    }
}

fn threads(text: &[u8], usage: &mut Usage) {
    usage.threads = number(text).map(|count| u32::try_from(count).unwrap_or(u32::MAX));
}

fn processes(text: &[u8], usage: &mut Usage) {
    let lines = text.iter().filter(|byte| **byte == b'\n').count();
    usage.processes = Some(u32::try_from(lines).unwrap_or(u32::MAX));
}
