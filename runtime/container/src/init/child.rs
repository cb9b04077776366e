//! One clone, from its first instruction to the open gate.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kernel::Errno;
use kernel::capability::{self, CapabilitySet};
use kernel::mount::{self, Walk};
use kernel::namespace::{self, NamespaceFlags};
use kernel::process::{self, Parentage};
use kernel::procfs;
use kernel::pty::{self, Pty};

use super::Prepared;
use super::command::{self, Credentials, Spawned, Streams};
use super::own_ids;
use super::rootfs::Root;
use super::supervise::{self, Kept};
use crate::channel::{self, Gate, Report};
use crate::plan::{ChildPlan, ProcessPlan};
use crate::request::{ChildFds, CloneKind, CloneRequest};

/// A step that failed. Becomes [`Report::Failed`].
#[derive(Debug)]
pub(super) struct Failure {
    pub step: &'static str,
    pub path: Option<PathBuf>,
    pub errno: Errno,
    pub message: String,
}

impl Failure {
    pub fn at(step: &'static str, path: impl AsRef<[u8]>) -> impl FnOnce(Errno) -> Self {
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(path.as_ref()));
        move |errno| Self {
            step,
            path: Some(path),
            errno,
            message: String::new(),
        }
    }
    pub fn of(step: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self {
            step,
            path: None,
            errno,
            message: String::new(),
        }
    }
    #[must_use]
    pub fn because(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }
}

pub(super) fn run(request: CloneRequest, mut prepared: Prepared) -> ! {
    let result = match request.kind {
        CloneKind::Init => init(request.fds, request.namespaces.net, prepared),
        CloneKind::Exec => exec(request.fds, request.namespaces.net, &mut prepared),
        CloneKind::Measure => super::measure::measure(request.fds),
    };
    match result {
        Ok(()) => process::exit_now(0),
        Err((channel, failure)) => {
            report_failure(channel.as_fd(), failure);
            process::exit_now(channel::FAILED_STATUS)
        }
    }
}

fn report_failure(channel: BorrowedFd<'_>, failure: Failure) {
    let report = Report::Failed {
        step: failure.step.to_owned(),
        path: failure.path,
        errno: failure.errno as i32,
        message: failure.message,
    };
    // If the agent is gone there is nobody left to tell.
    let _ = channel::send_report(channel, &report, None);
}

/// A member of every v1 group before anything is allocated on the container's account. Gives the
/// directories of the groups.
pub(super) fn join_groups(fds: &mut ChildFds) -> Result<Vec<PathBuf>, Failure> {
    let mut groups = Vec::with_capacity(fds.cgroup_procs.len());
    for procs in fds.cgroup_procs.drain(..) {
        command::write_all(procs.as_fd(), b"0").map_err(Failure::of("join cgroup"))?;
        if let Ok(mut path) = procfs::own_descriptor_target(procs.as_fd()) {
            path.pop();
            groups.push(path);
        }
    }
    fds.cgroup = None;
    Ok(groups)
}

/// Pid 1 of a new container. Returns early when the agent went away: nothing has run.
fn init(mut fds: ChildFds, new_network: bool, mut prepared: Prepared) -> Result<(), (OwnedFd, Failure)> {
    match prepare_init(&mut fds, new_network, &mut prepared) {
        Err(failure) => Err((fds.channel, failure)),
        Ok(None) => Ok(()),
        Ok(Some((plan, terminal))) => start(fds, plan, terminal, prepared),
    }
}

fn prepare_init(
    fds: &mut ChildFds,
    new_network: bool,
    prepared: &mut Prepared,
) -> Result<Option<(ChildPlan, Option<Pty>)>, Failure> {
    let groups = join_groups(fds)?;
    // After joining: the namespace's root is the group that its maker is in (cgroup_namespaces(7)).
    namespace::unshare(NamespaceFlags::CGROUP).map_err(Failure::of("unshare cgroup namespace"))?;
    if let Some(netns) = fds.netns.take() {
        namespace::join(netns, NamespaceFlags::NET).map_err(Failure::of("join network namespace"))?;
    } else if new_network {
        namespace::bring_up_loopback().map_err(Failure::of("bring loopback up"))?;
    }
    let Some(plan) = receive_plan(fds.channel.as_fd())? else {
        return Ok(None);
    };
    let mut root = Root::new(groups);
    if let Some(range) = plan.process.ids {
        own_ids::before_entering(prepared, fds, range)?;
    }
    for step in &plan.steps {
        root.execute(step)?;
    }
    if plan.process.ids.is_some() {
        own_ids::after_entering(prepared)?;
    }
    let terminal = open_terminal(fds.channel.as_fd(), &plan.process)?;
    if let Some(terminal) = &terminal {
        root.attach_console(terminal.slave.as_fd())?;
    } else if fds.stdin.is_none() {
        fds.stdin = Some(root.null_device()?);
    }
    drop(root);
    confine(&plan.process, prepared)?;
    Ok(Some((plan, terminal)))
}

fn receive_plan(channel: BorrowedFd<'_>) -> Result<Option<ChildPlan>, Failure> {
    channel::receive_plan(channel).map_err(|error| {
        Failure::of("read plan")(error.raw_os_error().map_or(Errno::EPROTO, Errno::from_raw))
    })
}

fn open_terminal(channel: BorrowedFd<'_>, process: &ProcessPlan) -> Result<Option<Pty>, Failure> {
    let Some(size) = process.terminal else {
        return Ok(None);
    };
    let pty = pty::open(size).map_err(Failure::of("open terminal"))?;
    channel::send_report(channel, &Report::Pty, Some(pty.master.as_fd()))
        .map_err(|_| Failure::of("send terminal")(Errno::EPIPE))?;
    Ok(Some(pty))
}

/// What can not be undone and holds for the init too. Of our own capabilities only those stay that the
/// command will have or that the way to it needs: everything after this may be looked at by somebody who was
/// given SYS_PTRACE in this container.
fn confine(process: &ProcessPlan, prepared: &Prepared) -> Result<(), Failure> {
    capability::drop_bounding(CapabilitySet(process.bounding_drop))
        .map_err(Failure::of("drop bounding capabilities"))?;
    process::set_no_new_privileges().map_err(Failure::of("set no_new_privs"))?;
    if process.seccomp {
        prepared
            .filter
            .install()
            .map_err(Failure::of("install system call filter"))?;
    }
    keep_capabilities(process, prepared, WHILE_PREPARING)
}

/// To read account files that root of the container may not, and to give terminal and sandbox away.
const WHILE_PREPARING: &[&str] = &["CHOWN", "DAC_OVERRIDE"];

/// Keeps what the command is granted, what its process needs until it executes, and `more`.
fn keep_capabilities(process: &ProcessPlan, prepared: &Prepared, more: &[&str]) -> Result<(), Failure> {
    let mut kept = process.capabilities | process.ambient | CapabilitySet::of(more).0;
    // The init signals a command that is somebody else's.
    kept |= CapabilitySet::of(&["KILL"]).0;
    if process.user.is_some() || !prepared.plain_root {
        kept |= CapabilitySet::of(&["SETUID", "SETGID"]).0;
    }
    if !process.rlimits.is_empty() || prepared.oom_score_lowered {
        // Without it the least oom_score_adj that a command may give itself would stay the init's.
        kept |= CapabilitySet::of(&["SYS_RESOURCE"]).0;
    }
    let kept = CapabilitySet(kept & prepared.permitted.0);
    capability::set(kept, kept, CapabilitySet::EMPTY).map_err(Failure::of("drop capabilities"))
}

/// Standard streams of the command: the terminal, or what was given; without stdin, end of file.
///
/// The null device of an exec is the launcher's own, read-only. The one in a container that has run is
/// whatever the container made of it, and would be opened with all our rights (the class of CVE-2025-31133).
fn streams(fds: &mut ChildFds, terminal: Option<&Pty>) -> Result<Streams, Failure> {
    if let Some(terminal) = terminal {
        let copy = || {
            terminal
                .slave
                .try_clone()
                .map_err(|_| Failure::of("copy terminal")(Errno::EMFILE))
        };
        return Ok(Streams {
            stdin: copy()?,
            stdout: copy()?,
            stderr: copy()?,
            terminal: true,
        });
    }
    let or_null = |fd: Option<OwnedFd>| match fd {
        Some(fd) => Ok(fd),
        None => {
            process::duplicate_above(std::io::stdin().as_fd(), 3).map_err(Failure::of("copy the null device"))
        }
    };
    Ok(Streams {
        stdin: or_null(fds.stdin.take())?,
        stdout: or_null(fds.stdout.take())?,
        stderr: or_null(fds.stderr.take())?,
        terminal: false,
    })
}

/// A command that is not root has to be able to write its own directory.
fn give_sandbox(plan: &ProcessPlan, credentials: &Credentials) -> Result<(), Failure> {
    let Some(sandbox) = plan
        .sandbox
        .as_ref()
        .filter(|_| credentials.uid != 0 || credentials.gid != 0)
    else {
        return Ok(());
    };
    let failed = |errno| {
        let failure = Failure::at("give the sandbox to the user", sandbox.as_os_str().as_bytes())(errno);
        match (errno, plan.ids) {
            (Errno::EACCES, Some(_)) => failure.because(own_ids::CLOSED),
            _ => failure,
        }
    };
    let place = mount::locate(None, sandbox, Walk::NoLinks).map_err(failed)?;
    kernel::account::give(place.as_fd(), credentials.uid, credentials.gid).map_err(failed)
}

fn give_streams(plan: &ProcessPlan, credentials: &Credentials, fds: &ChildFds) -> Result<(), Failure> {
    match plan.ids {
        Some(_) if !credentials.is_plain_root() => {
            own_ids::give_streams(fds, credentials.uid, credentials.gid)
        }
        _ => Ok(()),
    }
}

/// From the gate on.
fn start(
    mut fds: ChildFds,
    plan: ChildPlan,
    terminal: Option<Pty>,
    prepared: Prepared,
) -> Result<(), (OwnedFd, Failure)> {
    let mut ready = || {
        let record = supervise::open_record(fds.status.take())?;
        let credentials = command::credentials(&plan.process)?;
        give_sandbox(&plan.process, &credentials)?;
        give_streams(&plan.process, &credentials, &fds)?;
        let streams = streams(&mut fds, terminal.as_ref())?;
        command::give_terminal(&streams, &credentials)?;
        keep_capabilities(&plan.process, &prepared, &[])?;
        Ok((record, credentials, streams))
    };
    let (record, credentials, streams) = match ready() {
        Err(failure) => return Err((fds.channel, failure)),
        Ok(ready) => ready,
    };
    if !pass_gate(fds.channel.as_fd()) {
        return Ok(());
    }
    supervise::record_start(record.as_ref());
    let spawned = command::spawn(&plan.process, &credentials, &streams, Parentage::Mine, &prepared);
    drop(streams);
    let ChildFds {
        channel,
        keep_stdout,
        keep_stderr,
        ..
    } = fds;
    match spawned {
        Err(failure)
        | Ok(Spawned {
            failure: Some(failure),
            ..
        }) => {
            supervise::record_failure(record.as_ref(), &failure);
            Err((channel, failure))
        }
        Ok(Spawned { pid, .. }) => {
            let _ = channel::send_report(channel.as_fd(), &Report::Started, None);
            let kept_stdout = match terminal {
                Some(Pty { master, .. }) => Some(master),
                None => keep_stdout,
            };
            // The heap shrinks to what lies below them.
            drop((channel, plan, credentials, prepared));
            supervise::run(
                pid,
                record,
                Kept {
                    stdout: kept_stdout,
                    stderr: keep_stderr,
                },
            )
        }
    }
}

/// False: the agent is gone, nothing may run.
fn pass_gate(channel: BorrowedFd<'_>) -> bool {
    match channel::gate(channel, false) {
        Gate::Open => return true,
        Gate::Gone => return false,
        Gate::Closed => {}
    }
    let _ = channel::send_report(channel, &Report::Ready, None);
    channel::gate(channel, true) == Gate::Open
}

/// While we have the rights that the launcher has: raised with fewer, the least score that a process may give itself
/// would stay the launcher's (proc(5), `oom_score_adj`).
pub(super) fn give_up_protection(prepared: &mut Prepared) {
    if prepared.oom_score_lowered {
        let _ = procfs::set_own_oom_score_adjustment(0);
        prepared.oom_score_lowered = false;
    }
}

/// A further process: this one only joins and clones; the clone is the agent's child.
fn exec(mut fds: ChildFds, own_network: bool, prepared: &mut Prepared) -> Result<(), (OwnedFd, Failure)> {
    match exec_steps(&mut fds, own_network, prepared) {
        Ok(()) => Ok(()),
        Err(failure) => Err((fds.channel, failure)),
    }
}

fn exec_steps(fds: &mut ChildFds, own_network: bool, prepared: &mut Prepared) -> Result<(), Failure> {
    join_groups(fds)?;
    let Some(plan) = receive_plan(fds.channel.as_fd())? else {
        return Ok(());
    };
    let target = fds
        .target
        .take()
        .ok_or_else(|| Failure::of("join container")(Errno::EINVAL))?;
    // Not in the clone, which would have to keep SYS_RESOURCE for it, among processes that may trace it.
    give_up_protection(prepared);
    let mut namespaces = NamespaceFlags::PID
        .and(NamespaceFlags::MOUNT)
        .and(NamespaceFlags::UTS)
        .and(NamespaceFlags::IPC)
        .and(NamespaceFlags::CGROUP);
    if own_network {
        namespaces = namespaces.and(NamespaceFlags::NET);
    }
    if let Some(range) = plan.process.ids {
        own_ids::before_entering(prepared, fds, range)?;
        // Of one call: the others are joined with the rights that we have outside (setns(2)).
        namespaces = namespaces.and(NamespaceFlags::USER);
    }
    namespace::join(&target, namespaces).map_err(Failure::of("join container"))?;
    drop(target);
    if plan.process.ids.is_some() {
        process::become_user(0, 0, &[]).map_err(Failure::of("become the container's root"))?;
        own_ids::after_entering(prepared)?;
    }
    // Before anything of the container's is looked at. We are still in the host's pid namespace, where no
    // process of the container can see us; the clone is in theirs, and has a copy of our memory only.
    confine(&plan.process, prepared)?;
    let terminal = open_terminal(fds.channel.as_fd(), &plan.process)?;
    let credentials = command::credentials(&plan.process)?;
    give_streams(&plan.process, &credentials, fds)?;
    let streams = streams(fds, terminal.as_ref())?;
    command::give_terminal(&streams, &credentials)?;
    keep_capabilities(&plan.process, prepared, &[])?;
    let spawned = command::spawn(
        &plan.process,
        &credentials,
        &streams,
        Parentage::MyParents,
        prepared,
    )?;
    // Also when it has failed: the agent must reap it, or the container's init could never end (it
    // waits for every process of its namespace, pid_namespaces(7)).
    let report = Report::Process { pid: spawned.pid };
    let _ = channel::send_report(fds.channel.as_fd(), &report, Some(spawned.pidfd.as_fd()));
    match spawned.failure {
        Some(failure) => Err(failure),
        None => {
            let _ = channel::send_report(fds.channel.as_fd(), &Report::Started, None);
            Ok(())
        }
    }
}

/// Resolved in the container's root, which is ours by now.
pub(super) fn credentials_file(path: &str) -> Result<Option<String>, Failure> {
    let failed = |errno| Failure::at("read", path)(errno);
    let root = mount::locate(None, Path::new("/"), Walk::NoLinks).map_err(failed)?;
    match mount::open_in_root(root.as_fd(), Path::new(path)) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(failed(errno)),
        Ok(fd) => command::read_text(fd).map(Some).map_err(failed),
    }
}

impl Credentials {
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }
    /// As the launcher is.
    pub fn is_plain_root(&self) -> bool {
        self.uid == 0 && self.gid == 0 && self.groups.is_empty()
    }
}
