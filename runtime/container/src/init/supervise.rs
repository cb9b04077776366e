//! The init while its command runs: reaps, forwards signals, writes down how it ended.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use kernel::Errno;
use kernel::capability::{self, CapabilitySet};
use kernel::process::{self, Exit, ResourceUse};
use kernel::shared_memory::FileStart;
use kernel::signal;

use super::child::Failure;
use super::{KEPT_STDERR_FD, KEPT_STDOUT_FD};
use crate::channel;
use crate::status::{RECORD_BYTES, START, WaitRecord};

/// What an init keeps open.
pub(super) struct Kept {
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// Waits for the command's end. All signals are blocked and taken one by one.
pub(super) fn run(command: i32, record: Option<RecordPlace>, kept: Kept) -> ! {
    // To signal a command that runs as another user; nothing else is needed any more.
    let kill = CapabilitySet::of(&["KILL"]);
    let _ = capability::set(kill, kill, CapabilitySet::EMPTY);
    settle(kept);
    process::trim_heap();
    loop {
        match signal::wait_any() {
            Ok(signal::CHILD) => {
                while let Some((pid, raw_status, used)) = process::reap_any() {
                    if pid == command {
                        finish(record.as_ref(), raw_status, used);
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

/// Puts the kept descriptors under their numbers and closes all others.
fn settle(kept: Kept) {
    let slots = [(KEPT_STDOUT_FD, kept.stdout), (KEPT_STDERR_FD, kept.stderr)];
    const ABOVE: i32 = KEPT_STDERR_FD + 1;
    let moved = slots.map(|(number, fd)| {
        (
            number,
            fd.and_then(|fd| process::duplicate_above(fd.as_fd(), ABOVE).ok()),
        )
    });
    process::close_numbers(0, KEPT_STDERR_FD);
    for (number, fd) in moved {
        let Some(fd) = fd else { continue };
        let _ = process::place_fd(fd.as_fd(), number);
    }
    let _ = process::close_from(ABOVE);
}

/// Where the wait status goes: memory, not a descriptor. Who was given SYS_PTRACE in this container can take
/// descriptors from us, and could fill the host's runtime directory through one.
pub(super) type RecordPlace = FileStart<RECORD_BYTES>;

pub(super) fn open_record(status: Option<OwnedFd>) -> Result<Option<RecordPlace>, Failure> {
    let open = |fd| RecordPlace::new(&File::from(fd));
    status.map(open).transpose().map_err(|error| {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        Failure::of("map the wait status file")(errno)
    })
}

fn record(place: Option<&RecordPlace>, raw_status: i32, used: ResourceUse) {
    let Some(place) = place else { return };
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let record = WaitRecord {
        raw_status,
        ended_at_ns: since_epoch.as_nanos() as u64,
        used,
    };
    place.write(&record.encode());
}

fn finish(place: Option<&RecordPlace>, raw_status: i32, used: ResourceUse) -> ! {
    record(place, raw_status, used);
    process::exit_now(Exit::from_raw(raw_status).shell_status())
}

/// The command is about to start: from now on a restarted agent takes it for one that ran.
pub(super) fn record_start(place: Option<&RecordPlace>) {
    if let Some(place) = place {
        place.write(&START);
    }
}

/// The command never ran: a restarted agent must not take the empty file for a killed init.
pub(super) fn record_failure(place: Option<&RecordPlace>, failure: &Failure) {
    let code = channel::failure_status(failure.step, failure.errno);
    record(place, code << 8, ResourceUse::default());
}
