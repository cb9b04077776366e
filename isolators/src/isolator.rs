//! What an isolator is.

use std::os::fd::BorrowedFd;

use kernel::cgroup::{Group, LimitError};
use kernel::file::KernelFileError;
use model::{Fault, IsolatorReport, LaunchSpec, Limitation, Limits};

use crate::error::PrepareError;
use crate::ports::TrafficReader;
use crate::trees::{TreeId, Trees};
use crate::usage::UsageFile;

/// Where a container's groups are.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub trees: &'a Trees,
    /// The container's id, which is its groups' name.
    pub name: &'a str,
    /// The group's directory in the v2 tree, open while the container is being prepared.
    pub unified: Option<BorrowedFd<'a>>,
}

impl<'a> Place<'a> {
    pub fn group(&self, tree: TreeId) -> Group<'a> {
        Group::new(self.trees.tree(tree), self.name)
    }
}

/// The verbs of one resource. All are synchronous and bounded; none keeps state: what is in force is in the
/// kernel, so there is nothing to recover after a restart but the groups themselves
/// (`IsolatorSet::orphans`), and nothing to clean up but the groups, which the set removes.
///
/// Placing the processes is nobody's verb either: the child joins the groups before it runs anything.
pub trait Isolator: Send + Sync {
    fn name(&self) -> &'static str;

    fn report(&self) -> IsolatorReport;

    /// Refuses what this host can not enforce, and what makes no sense. Pure.
    fn admit(&self, limits: &Limits) -> Result<(), Fault>;

    /// As `admit`, for what is not a limit.
    fn admit_spec(&self, _spec: &LaunchSpec) -> Result<(), Fault> {
        Ok(())
    }

    /// The hierarchies in which a container with these limits needs a group.
    fn trees(&self, limits: &Limits) -> Vec<TreeId>;

    /// Writes the limits into the new, empty group.
    fn prepare(&self, place: Place<'_>, spec: &LaunchSpec) -> Result<(), PrepareError>;

    /// Replaces `old` by `new` in a living group.
    fn update(&self, place: Place<'_>, old: &Limits, new: &Limits) -> Result<(), LimitError>;

    /// Opens what is sampled. A file that this kernel does not have is left out.
    fn usage(&self, _place: Place<'_>, _files: &mut Vec<UsageFile>) -> Result<(), KernelFileError> {
        Ok(())
    }

    /// Opens the counters of its traffic, if this isolator has some.
    fn traffic(&self, _place: Place<'_>) -> Option<TrafficReader> {
        None
    }

    /// A limit that was hit so that the container has to end. Level, not edge: asked twice it says the same.
    fn limitation(&self, _place: Place<'_>, _limits: &Limits) -> Result<Option<Limitation>, KernelFileError> {
        Ok(None)
    }
}

/// A report of an isolator that works.
pub(crate) fn active(name: &str, mechanism: impl Into<String>) -> IsolatorReport {
    IsolatorReport {
        name: name.to_owned(),
        active: true,
        mechanism: mechanism.into(),
        missing: String::new(),
    }
}

/// A report of one that can not.
pub(crate) fn missing(name: &str, missing: impl Into<String>) -> IsolatorReport {
    IsolatorReport {
        name: name.to_owned(),
        active: false,
        mechanism: String::new(),
        missing: missing.into(),
    }
}
