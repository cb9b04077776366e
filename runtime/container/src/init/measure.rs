//! A clone that measures what a container takes on the disk, on the container's own account: it is in its groups, so that
//! its time and its memory are the container's, and in no namespace of it, so that it can't be seen or touched from there.

use std::os::fd::{AsFd, OwnedFd};

use kernel::Errno;
use kernel::capability::{self, CapabilitySet};
use kernel::disk_use::Measure;
use kernel::procfs;

use super::child::{Failure, join_groups};
use crate::channel::{self, Report};
use crate::request::ChildFds;

/// The first to go when the container is short of memory: it can be made again.
const OOM_SCORE_ADJUSTMENT: i32 = 1000;

pub(super) fn measure(mut fds: ChildFds) -> Result<(), (OwnedFd, Failure)> {
    match walk(&mut fds) {
        Ok(report) => {
            // If the agent is gone there is nobody left to tell.
            let _ = channel::send_report(fds.channel.as_fd(), &report, None);
            Ok(())
        }
        Err(failure) => Err((fds.channel, failure)),
    }
}

fn walk(fds: &mut ChildFds) -> Result<Report, Failure> {
    join_groups(fds)?;
    // For directories that only their owner may read; and nothing else.
    let (_, permitted) = capability::own().map_err(Failure::of("read own capabilities"))?;
    let needed = [
        CapabilitySet::of(&["DAC_READ_SEARCH"]),
        CapabilitySet::of(&["DAC_OVERRIDE"]),
    ]
    .into_iter()
    .find(|wanted| wanted.0 & permitted.0 == wanted.0)
    .unwrap_or(CapabilitySet::EMPTY);
    capability::set(needed, needed, CapabilitySet::EMPTY).map_err(Failure::of("drop capabilities"))?;
    let _ = procfs::set_own_oom_score_adjustment(OOM_SCORE_ADJUSTMENT);
    let mut measure = Measure::default();
    for tree in &fds.trees {
        match measure.add(tree.as_fd()) {
            Ok(()) | Err(Errno::ENOENT | Errno::ESTALE) => {}
            Err(errno) => return Err(Failure::of("measure the directories")(errno)),
        }
    }
    let found = measure.found();
    Ok(Report::Measured {
        bytes: found.bytes,
        files: found.files,
        directories: found.directories,
    })
}
