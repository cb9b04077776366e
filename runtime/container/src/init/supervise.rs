//! The init while its command runs: reaps, forwards signals, writes down how it ended.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use kernel::capability::{self, CapabilitySet};
use kernel::process::{self, Exit, ResourceUse};
use kernel::signal;

use super::child::Failure;
use super::{KEPT_STATUS_FD, KEPT_STDERR_FD, KEPT_STDOUT_FD};
use crate::channel;
use crate::status::{self, WaitRecord};

/// What an init keeps open.
pub(super) struct Kept {
    pub status: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// Waits for the command's end. All signals are blocked and taken one by one.
pub(super) fn run(command: i32, kept: Kept) -> ! {
    let status = settle(kept);
    // To signal a command that runs as another user; nothing else is needed any more.
    let kill = CapabilitySet::of(&["KILL"]);
    let _ = capability::set(kill, kill, CapabilitySet::EMPTY);
    process::trim_heap();
    loop {
        match signal::wait_any() {
            Ok(signal::CHILD) => {
                while let Some((pid, raw_status, used)) = process::reap_any() {
                    if pid == command {
                        finish(status.as_ref(), raw_status, used);
                    }
                }
            }
            // Whoever signals a container's first process means its command.
            Ok(number) => {
                let _ = process::kill(command, number);
            }
            Err(_) => {}
        }
    }
}

/// Puts the kept descriptors under their numbers and closes all others. Gives back the status file.
fn settle(kept: Kept) -> Option<File> {
    let slots = [
        (KEPT_STATUS_FD, kept.status),
        (KEPT_STDOUT_FD, kept.stdout),
        (KEPT_STDERR_FD, kept.stderr),
    ];
    const ABOVE: i32 = KEPT_STDERR_FD + 1;
    let moved = slots.map(|(number, fd)| {
        (
            number,
            fd.and_then(|fd| process::duplicate_above(fd.as_fd(), ABOVE).ok()),
        )
    });
    let mut have_status = false;
    process::close_numbers(0, KEPT_STDERR_FD);
    for (number, fd) in moved {
        let Some(fd) = fd else { continue };
        let placed = process::place_fd(fd.as_fd(), number).is_ok();
        have_status |= placed && number == KEPT_STATUS_FD;
    }
    let _ = process::close_from(ABOVE);
    if have_status {
        process::inherited_fd(KEPT_STATUS_FD).map(File::from)
    } else {
        None
    }
}

fn record(status: Option<&File>, raw_status: i32, used: ResourceUse) {
    let Some(file) = status else { return };
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let record = WaitRecord {
        raw_status,
        ended_at_ns: since_epoch.as_nanos() as u64,
        used,
    };
    // A full file system leaves the file empty: the agent then says that the end was not seen.
    let _ = status::write_status(file, &record);
}

fn finish(status: Option<&File>, raw_status: i32, used: ResourceUse) -> ! {
    record(status, raw_status, used);
    process::exit_now(Exit::from_raw(raw_status).shell_status())
}

/// The command never ran: a restarted agent must not take the empty file for a killed init.
pub(super) fn record_failure(status: Option<OwnedFd>, failure: &Failure) {
    let status = status.map(File::from);
    let code = channel::failure_status(failure.step, failure.errno);
    record(status.as_ref(), code << 8, ResourceUse::default());
}
