//! The program `bulkhead-init`: the launcher's loop, and what its clones do.
//!
//! ```text
//! launcher: request -> clone3 -> reply, for ever          init.rs
//!   clone, kind Init: join, execute plan, gate, command   child.rs, rootfs.rs, command.rs
//!          afterwards: reap, forward, record              supervise.rs
//!   clone, kind Exec: join the container, command         child.rs
//! ```
//! One thread, few allocations, nothing kept between requests: what the launcher has touched is what
//! every idle init costs.

mod child;
mod command;
mod kernel_mounts;
mod measure;
mod own_ids;
mod rootfs;
mod supervise;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use kernel::Errno;
use kernel::capability::{self, CapabilitySet};
use kernel::process::{self, Cloned, NamespaceFlags};
use kernel::procfs;
use kernel::seccomp::Filter;
use kernel::signal;

use crate::launcher::SOCKET_FD;
use crate::profile;
use crate::request::{self, CloneKind, CloneRequest};

/// Numbers under which an init keeps its descriptors, so that a restarted agent can take copies of them. Absent
/// ones were not given.
///
/// Read end of the stdout pipe, or the master of the terminal.
pub const KEPT_STDOUT_FD: i32 = 4;
pub const KEPT_STDERR_FD: i32 = 5;

/// Below every oom_score_adj that a container is likely to have: an init is small, and its death is
/// the death of all.
const INIT_OOM_SCORE_ADJUSTMENT: i32 = -900;

/// The soft limit of open files that commands start with: the kernel's own default (INR_OPEN_CUR).
const DESCRIPTORS_SOFT: u64 = 1024;

/// What the launcher prepares once for all its clones.
struct Prepared {
    filter: Filter,
    /// Commands must be put back to 0.
    oom_score_lowered: bool,
    /// What the agent has; clones have no more.
    permitted: CapabilitySet,
    /// User and group are 0 and there is no other group: a command that runs as root needs no change.
    plain_root: bool,
}

/// The program. Ends when the agent closes its end of the socket.
pub fn main() -> ! {
    // Before anything else: no process of a container may look into us or our clones.
    let _ = process::set_dumpable(false);
    signal::block_all().keep();
    signal::reset_dispositions();
    let Some(socket) = process::inherited_fd(SOCKET_FD) else {
        eprintln!("bulkhead-init is started by the agent, with a socket as descriptor {SOCKET_FD}");
        process::exit_now(2);
    };
    let _ = process::close_from(SOCKET_FD + 1);
    let _ = process::set_name(c"bulkhead-init");
    process::set_file_mode_mask(0);
    // The agent's directory is nothing that an init should hold.
    let _ = process::change_directory(c"/");
    // The agent has raised its own to hold a thousand containers.
    let _ = kernel::rlimit::lower_soft_descriptors(DESCRIPTORS_SOFT);
    let prepared = prepare();
    loop {
        match request::receive_request(socket.as_fd()) {
            Ok(None) => process::exit_now(0),
            Ok(Some(request)) => {
                if serve(socket.as_fd(), &request) == Side::Child {
                    drop(socket);
                    child::run(request, prepared);
                }
            }
            // A bad request gets its answer like any other, so that replies stay in order.
            Err(error) => {
                let errno = error.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw);
                let refused = matches!(
                    error.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
                ) || matches!(errno, Errno::EMSGSIZE | Errno::EMFILE | Errno::ENFILE);
                if !refused || request::send_reply(socket.as_fd(), Err(errno)).is_err() {
                    process::exit_now(1);
                }
            }
        }
    }
}

fn prepare() -> Prepared {
    let permitted = capability::own().map_or(CapabilitySet::EMPTY, |(_, permitted)| permitted);
    // Inheritable capabilities would survive into containers (the class of CVE-2022-29162).
    let _ = capability::set(permitted, permitted, CapabilitySet::EMPTY);
    // The keys of whoever started the agent are not a container's.
    let _ = process::leave_session_keyring();
    let plain_root = process::become_user(0, 0, &[]).is_ok();
    // Needs CAP_SYS_RESOURCE, which the agent need not have.
    let set = procfs::set_own_oom_score_adjustment(INIT_OOM_SCORE_ADJUSTMENT).is_ok();
    let lowered = set || procfs::own_oom_score_adjustment().is_ok_and(|score| score != 0);
    // The rules are constants whose compilation is tested; without a filter nothing may be launched.
    let Ok(filter) = profile::default_filter() else {
        process::exit_now(3)
    };
    Prepared {
        filter,
        oom_score_lowered: lowered,
        permitted,
        plain_root,
    }
}

#[derive(PartialEq)]
enum Side {
    Launcher,
    Child,
}

/// Clones and answers. Returns in both processes.
fn serve(socket: BorrowedFd<'_>, request: &CloneRequest) -> Side {
    let always = NamespaceFlags::PID
        .and(NamespaceFlags::MOUNT)
        .and(NamespaceFlags::UTS)
        .and(NamespaceFlags::IPC);
    let namespaces = match request.kind {
        CloneKind::Init if request.namespaces.net => always.and(NamespaceFlags::NET),
        CloneKind::Init => always,
        CloneKind::Exec | CloneKind::Measure => NamespaceFlags::NONE,
    };
    let cgroup = request.fds.cgroup.as_ref().map(|fd| fd.as_fd());
    let sent = match process::clone_as_sibling(namespaces, cgroup) {
        Ok(Cloned::Child) => return Side::Child,
        Ok(Cloned::Parent { pid, pidfd }) => request::send_reply(socket, Ok((pid, &pidfd))),
        Err(errno) => request::send_reply(socket, Err(errno)),
    };
    if sent.is_err() {
        // The agent is gone; the child will find its channel closed.
        process::exit_now(0);
    }
    Side::Launcher
}
