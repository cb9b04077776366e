//! Acts upon the wishes of a launch: prepare, fork, checkpoint, open the gate; and of an update.

use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use agent_core::{EndReport, Input};
use container::channel::{self, Report};
use container::plan::{self, ChildPlan, PlanContext};
use container::{ChildFds, CloneKind, CloneRequest, Namespaces};
use isolators::network::NetworkIsolator;
use model::{
    ContainerId, Fault, FaultKind, LaunchSpec, Limitation, Limits, Network, ProcessIdentity, UserNamespace,
};

use crate::failpoint;
use crate::launcher_link::LauncherLink;
use crate::resources::{Newborn, Resources, end_and_reap};
use crate::shell::Shell;

/// Where the child of this container finds its things.
pub fn plan_context(shell: &Shell, id: &ContainerId, spec: &LaunchSpec) -> PlanContext {
    let directories = &shell.directories;
    let short = |id: &ContainerId| id.as_str().chars().take(12).collect::<String>();
    PlanContext {
        id: id.clone(),
        sandbox: directories.sandbox(id),
        sandbox_target: match spec.rootfs {
            Some(_) => SANDBOX_IN_ROOTFS.into(),
            // The same path inside and outside; around it all is hidden.
            None => directories.sandbox(id),
        },
        hidden: vec![directories.work().to_owned(), directories.runtime().to_owned()],
        overlay_dir: spec.rootfs.is_some().then(|| directories.overlay(id)),
        hostname: spec
            .hostname
            .clone()
            .or_else(|| spec.name.as_ref().map(ToString::to_string))
            .unwrap_or_else(|| short(id)),
    }
}

/// Mesos' own place for it, so that scripts written for Mesos find their files.
const SANDBOX_IN_ROOTFS: &str = "/mnt/mesos/sandbox";

pub fn prepare(shell: &Rc<Shell>, id: ContainerId, spec: Box<LaunchSpec>) {
    let shell = shell.clone();
    net::spawn(async move {
        let result = make_ready(&shell, &id, spec).await;
        shell.input(Input::Prepared { id, result });
    })
    .detach();
}

/// Everything up to the gate in one job: between the steps nobody has to be woken. The core asks for the two halves
/// one after the other; the second is then already there.
async fn make_ready(shell: &Shell, id: &ContainerId, spec: Box<LaunchSpec>) -> Result<(), Fault> {
    let resources = held(shell, id)?;
    failpoint::pass("fork.network")?;
    let netns = match spec.network {
        // One that a user namespace of the container's own shall own is made with that.
        Network::None | Network::Mapped if spec.userns.is_none() => shell.networks.take(),
        Network::None | Network::Mapped | Network::Host => None,
    };
    let context = plan_context(shell, id, &spec);
    let (directories, isolators) = (shell.directories.clone(), shell.isolators.clone());
    let (host, launcher, disk) = (shell.host.clone(), shell.launcher.clone(), shell.disk.clone());
    let network = shell.network.clone();
    let (newborn, slot, watch) = blocking(shell, move || {
        let id = &context.id;
        failpoint::pass("launch.directories")?;
        let status = directories
            .prepare(id, spec.rootfs.is_some())
            .map_err(|e| failed(&e))?;
        crate::disk::prepare(&disk, &directories, id, &spec)?;
        failpoint::pass("launch.groups")?;
        let groups = isolators.prepare(id, &spec).map_err(Fault::from)?;
        failpoint::pass("launch.prepared")?;
        failpoint::pass("fork.plan")?;
        let plan = plan::launch_plan(&spec, &host, &context)?;
        let (netns, slot) = connect(&network, id, &spec, netns, groups.cgroup.as_ref())?;
        let newborn = clone_init(&launcher, &host.boot_id, &spec, &plan, status, groups, netns)?;
        // Opening files of a control group waits for whoever makes or removes one.
        let watch = isolators.watch(id);
        Ok((newborn, slot, watch))
    })
    .await?;
    *resources.memory_watch.borrow_mut() = Some(watch);
    *resources.newborn.borrow_mut() = Some(newborn);
    resources.network_slot.set(slot);
    shell.set_sandbox(id);
    Ok(())
}

/// The network namespace that the child is to join, connected before anybody is in it. What a failed launch has made is
/// taken away by its cleanup.
fn connect(
    network: &NetworkIsolator,
    id: &ContainerId,
    spec: &LaunchSpec,
    netns: Option<OwnedFd>,
    group: Option<&OwnedFd>,
) -> Result<(Option<OwnedFd>, Option<u32>), Fault> {
    if spec.network == Network::Host {
        network.share(id, group, &spec.limits)?;
    }
    if spec.network != Network::Mapped {
        return Ok((netns, None));
    }
    let netns = match netns {
        Some(netns) => netns,
        None => new_network(spec)?,
    };
    let attached = network.attach(id, &netns, spec)?;
    Ok((Some(netns), Some(attached.slot)))
}

/// For a mapped network. One that belongs to the container's own ids keeps its user namespace alive until the child takes it.
fn new_network(spec: &LaunchSpec) -> Result<OwnedFd, Fault> {
    let Some(ids) = spec.userns.and_then(UserNamespace::range) else {
        return container::netpool::make_empty_netns()
            .map_err(|error| Fault::failed(format!("make a network namespace: {error}")));
    };
    let made = kernel::user_namespace::make(ids.base, ids.count, true).map_err(|error| failed(&error))?;
    let missing = || Fault::failed("a user namespace was made without its network namespace");
    made.network.ok_or_else(missing)
}

/// Runs on a worker.
fn clone_init(
    launcher: &LauncherLink,
    boot_id: &str,
    spec: &LaunchSpec,
    plan: &ChildPlan,
    status: std::fs::File,
    groups: isolators::Prepared,
    netns: Option<OwnedFd>,
) -> Result<Newborn, Fault> {
    failpoint::pass("fork.pipes")?;
    let (channel, child_channel) = open_channel(plan)?;
    let mut pipes = Pipes::open(spec)?;
    let request = CloneRequest {
        kind: CloneKind::Init,
        namespaces: Namespaces {
            net: spec.network == Network::None && spec.userns.is_none() && netns.is_none(),
        },
        fds: ChildFds {
            channel: child_channel,
            stdin: pipes.child_stdin.take(),
            stdout: pipes.child_stdout.take(),
            stderr: pipes.child_stderr.take(),
            keep_stdout: pipes.keep_stdout.take(),
            keep_stderr: pipes.keep_stderr.take(),
            status: Some(status.into()),
            cgroup: groups.cgroup,
            cgroup_procs: groups.cgroup_procs,
            netns,
            target: None,
            trees: Vec::new(),
        },
    };
    failpoint::pass("fork.clone")?;
    let reply = launcher.clone_child(&request)?;
    let (pid, pidfd) = reply.result.map_err(|errno| cannot_clone("the init", errno))?;
    let identity = failpoint::pass("fork.identity").and_then(|()| {
        let start_time = kernel::procfs::start_time(pid)
            .map_err(|e| Fault::failed(format!("read the start time of the init, process {pid}: {e}")))?;
        Ok(ProcessIdentity {
            pid,
            start_time,
            boot_id: boot_id.to_owned(),
        })
    });
    match identity {
        Ok(identity) => Ok(Newborn::new(pidfd, identity, channel, &mut pipes)),
        Err(fault) => {
            end_and_reap(&pidfd);
            Err(fault)
        }
    }
}

pub fn fork(shell: &Rc<Shell>, id: ContainerId) {
    match take_over(shell, &id) {
        Ok(identity) => {
            shell.input(Input::Forked {
                id: id.clone(),
                result: Ok(identity),
            });
            net::spawn(supervise(shell.clone(), id)).detach();
        }
        Err(fault) => shell.input(Input::Forked {
            id,
            result: Err(fault),
        }),
    }
}

fn take_over(shell: &Rc<Shell>, id: &ContainerId) -> Result<ProcessIdentity, Fault> {
    let resources = held(shell, id)?;
    let mut newborn = resources.newborn.borrow_mut().take().ok_or_else(|| unknown(id))?;
    let channel = newborn.channel.take().ok_or_else(|| unknown(id))?;
    *resources.channel.borrow_mut() = Some(Rc::new(source(channel)?));
    if let (Some(stdin), Some(end)) = (&resources.stdin, newborn.stdin.take()) {
        stdin.open_pipe(end).map_err(|e| failed(&e))?;
    }
    resources
        .output
        .start(newborn.stdout.take(), newborn.stderr.take())
        .map_err(|e| failed(&e))?;
    let pidfd = newborn.take_pidfd().ok_or_else(|| unknown(id))?;
    *resources.init.borrow_mut() = Some(Rc::new(source(pidfd)?));
    Ok(newborn.identity.clone())
}

/// Follows the init: its reports in order, then its end. One task, so that an end is never told before the
/// reports that came before it.
pub async fn supervise(shell: Rc<Shell>, id: ContainerId) {
    let Some(resources) = shell.resources(&id) else {
        return;
    };
    watch_memory(&shell, &id, &resources);
    crate::disk::watch(&shell, &id);
    follow_reports(&shell, &id, &resources).await;
    let Some(init) = resources.init.borrow().clone() else {
        return;
    };
    if let Err(error) = net::wait_pidfd(&init).await {
        tracing::error!(container = %id, "wait for the init: {error}");
    }
    let end = read_end(&shell.directories.status(&id), &id);
    shell.input(Input::Exited { id, end });
}

async fn follow_reports(shell: &Rc<Shell>, id: &ContainerId, resources: &Rc<Resources>) {
    loop {
        let Some(channel) = resources.channel.borrow().clone() else {
            return;
        };
        match channel.read_with(|fd| channel::receive_report(fd.as_fd())).await {
            Ok(Some((Report::Ready, _))) => {}
            // Once, and only where one was asked for: what comes later is not the init's.
            Ok(Some((Report::Pty, Some(master)))) if awaits_terminal(shell, id, resources) => {
                if let Err(error) = adopt_terminal(resources, master) {
                    tracing::error!(container = %id, "take over the terminal: {error}");
                }
            }
            // An init says nothing more. Its end of the channel is not waited for: a command that may trace could keep a
            // copy of it, and the container would never seem to end.
            Ok(Some((Report::Started, _))) => {
                shell.input(Input::Started { id: id.clone() });
                break;
            }
            Ok(Some((report @ Report::Failed { .. }, _))) => {
                shell.input(Input::StartFailed {
                    id: id.clone(),
                    fault: report.into_fault(),
                });
            }
            Ok(Some((report, _))) => tracing::error!(container = %id, ?report, "report out of place"),
            Ok(None) => break,
            Err(error) => {
                tracing::error!(container = %id, "read the init's reports: {error}");
                break;
            }
        }
    }
    resources.channel.borrow_mut().take();
}

fn awaits_terminal(shell: &Shell, id: &ContainerId, resources: &Resources) -> bool {
    let asked = shell.core().spec(id).is_some_and(|spec| spec.terminal.is_some());
    asked && resources.terminal.borrow().is_none()
}

fn adopt_terminal(resources: &Resources, master: OwnedFd) -> io::Result<()> {
    kernel::socket::set_nonblocking(master.as_fd())?;
    let input = Rc::new(net::Source::new(
        std::fs::File::from(master.try_clone()?),
        net::Interest::Readable,
    )?);
    if let Some(stdin) = &resources.stdin {
        stdin.open_terminal(input.clone());
    }
    *resources.terminal.borrow_mut() = Some(input);
    resources.output.start(Some(master), None)
}

fn watch_memory(shell: &Rc<Shell>, id: &ContainerId, resources: &Resources) {
    let prepared = resources.memory_watch.borrow_mut().take();
    let watch = match prepared.unwrap_or_else(|| shell.isolators.watch(id)) {
        Ok(Some(watch)) => watch,
        Ok(None) => return,
        Err(error) => {
            tracing::warn!(container = %id, "watch the memory ceiling: {error}");
            return;
        }
    };
    let (task_shell, task_id) = (shell.clone(), id.clone());
    let task = net::spawn(async move {
        if let Err(error) = follow_memory(&task_shell, &task_id, watch).await {
            tracing::warn!(container = %task_id, "watch the memory ceiling: {error}");
        }
    });
    *resources.watch.borrow_mut() = Some(task);
}

async fn follow_memory(shell: &Rc<Shell>, id: &ContainerId, watch: isolators::OomWatch) -> io::Result<()> {
    let kind = watch.kind;
    let interest = match kind {
        isolators::WatchKind::Readable => net::Interest::Readable,
        isolators::WatchKind::Priority => net::Interest::Priority,
    };
    let source = net::Source::new(std::fs::File::from(watch.fd), interest)?;
    loop {
        match kind {
            // An eventfd: eight bytes, the number of events since the last read.
            isolators::WatchKind::Readable => drop(source.read_with(|mut fd| fd.read(&mut [0; 8])).await?),
            isolators::WatchKind::Priority => source.priority().await,
        }
        // In v2 the event comes after what it tells.
        let looks = match kind {
            isolators::WatchKind::Readable => KILL_LOOKS,
            isolators::WatchKind::Priority => 1,
        };
        if let Some(limitation) = hit(shell, id, looks).await? {
            shell.limit_hit(id.clone(), limitation);
            return Ok(());
        }
    }
}

/// How long after an event its kill is looked for, and how often.
const KILL_PATIENCE: Duration = Duration::from_millis(2);
const KILL_LOOKS: u32 = 10;

/// Whether the ceiling ended a process. cgroup v1 tells that memory is short before the kernel chooses whom to kill
/// (mem_cgroup_oom() in mm/memcontrol-v1.c), and it may tell that once: who looks at once sees nothing yet.
async fn hit(shell: &Rc<Shell>, id: &ContainerId, looks: u32) -> io::Result<Option<Limitation>> {
    let mut pause = KILL_PATIENCE;
    for look in 1..=looks {
        let (isolators, job_id) = (shell.isolators.clone(), id.clone());
        let limits = shell.core().limits(id).cloned().unwrap_or_default();
        let found = shell
            .pool
            .run(move || isolators.limitation(&job_id, &limits))
            .await;
        match found {
            Ok(Ok(Some(limitation))) => return Ok(Some(limitation)),
            Ok(Ok(None)) if look < looks => net::sleep(pause).await,
            Ok(Ok(None)) => {}
            Ok(Err(error)) => return Err(io::Error::other(error)),
            Err(error) => return Err(io::Error::other(error)),
        }
        pause *= 2;
    }
    Ok(None)
}

/// What the init wrote before it ended.
pub fn read_end(path: &std::path::Path, id: &ContainerId) -> EndReport {
    let record = std::fs::File::open(path).map(|file| container::status::read_status(&file));
    match record {
        Ok(Ok(Some(record))) => match record.signal() {
            Some(signal) => EndReport {
                exit_code: None,
                signal: Some(signal),
            },
            None => EndReport {
                exit_code: Some(record.exit_status()),
                signal: None,
            },
        },
        Ok(Ok(None)) => EndReport::UNRECORDED,
        Ok(Err(error)) => {
            tracing::warn!(container = %id, "read the wait status: {error}");
            EndReport::UNRECORDED
        }
        Err(error) => {
            tracing::warn!(container = %id, "open {}: {error}", path.display());
            EndReport::UNRECORDED
        }
    }
}

pub fn checkpoint(shell: &Rc<Shell>, id: ContainerId) {
    let shell = shell.clone();
    let Some(resources) = shell.resources(&id) else {
        return;
    };
    net::spawn(async move {
        let turn = resources.checkpoints.next().await;
        let result = write_checkpoint(&shell, &id).await;
        drop(turn);
        shell.input(Input::Checkpointed { id, result });
    })
    .detach();
}

async fn write_checkpoint(shell: &Rc<Shell>, id: &ContainerId) -> Result<(), Fault> {
    let record = crate::checkpoint::record(shell, id).ok_or_else(|| unknown(id))?;
    let path = shell.directories.checkpoint(id);
    blocking(shell, move || {
        failpoint::pass("checkpoint.write")?;
        crate::work_dir::write_atomically(&path, &record).map_err(|e| failed(&e))
    })
    .await
}

pub fn open_gate(shell: &Rc<Shell>, id: &ContainerId) {
    let Some(channel) = shell.resources(id).and_then(|r| r.channel.borrow().clone()) else {
        return;
    };
    let opened = failpoint::pass("gate.open").and_then(|()| {
        match channel::open_gate(channel.as_fd()) {
            // The init is gone: its last report, or its end, says why, and `supervise` hears both.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            other => other.map_err(|e| Fault::failed(format!("open the gate: {e}")))?,
        }
        failpoint::pass("gate.opened")
    });
    if let Err(fault) = opened {
        shell.input(Input::StartFailed {
            id: id.clone(),
            fault,
        });
    }
}

pub fn apply_limits(shell: &Rc<Shell>, id: ContainerId, old: Box<Limits>, new: Box<Limits>) {
    let shell = shell.clone();
    net::spawn(async move {
        let result = announce_and_apply(&shell, &id, old, new).await;
        let watched = id.clone();
        shell.input(Input::LimitsApplied { id, result });
        crate::disk::watch(&shell, &watched);
    })
    .detach();
}

/// What is about to come into force is written down first: a successor that finds it can not know how much of it did,
/// and goes back to what was promised.
async fn announce_and_apply(
    shell: &Rc<Shell>,
    id: &ContainerId,
    old: Box<Limits>,
    new: Box<Limits>,
) -> Result<(), Fault> {
    let resources = held(shell, id)?;
    let turn = resources.checkpoints.next().await;
    let announced = write_checkpoint(shell, id).await;
    drop(turn);
    announced?;
    let mode = shell.core().spec(id).map(|spec| spec.network).unwrap_or_default();
    shell.network.admit(mode, &new.bandwidth)?;
    let (isolators, disk, job_id) = (shell.isolators.clone(), shell.disk.clone(), id.clone());
    let network = shell.network.clone();
    let used = resources.disk.used();
    blocking(shell, move || {
        failpoint::pass("update.apply")?;
        if mode == Network::Host && old.bandwidth != new.bandwidth {
            isolators.ready_for_bandwidth(&job_id, &new.bandwidth)?;
        }
        disk.check_update(&job_id, &old, &new, used)?;
        isolators.update(&job_id, &old, &new)?;
        crate::disk::update_last(&disk, &isolators, &job_id, &old, &new)?;
        let connected = match mode {
            Network::Mapped => network.update(&job_id, &old, &new),
            Network::Host => network.share(&job_id, isolators.unified_group(&job_id).as_ref(), &new),
            Network::None => Ok(()),
        };
        connected.inspect_err(|_| {
            let undone = isolators.update(&job_id, &new, &old).map_err(Fault::from);
            let undone =
                undone.and_then(|()| crate::disk::update_last(&disk, &isolators, &job_id, &new, &old));
            if let Err(fault) = undone {
                tracing::error!(container = %job_id, "put the old limits in force again: {fault}");
            }
        })
    })
    .await
}

/// A socket pair to the child, the plan already on its way.
pub fn open_channel(plan: &ChildPlan) -> Result<(OwnedFd, OwnedFd), Fault> {
    channel::open(&channel::encode_plan(plan))
        .map_err(|e| Fault::failed(format!("open a channel with the plan: {e}")))
}

/// Both ends of a child's standard streams. With a terminal there are none: the child makes it itself.
#[derive(Default)]
pub struct Pipes {
    pub child_stdin: Option<OwnedFd>,
    pub child_stdout: Option<OwnedFd>,
    pub child_stderr: Option<OwnedFd>,
    /// Read ends that stay open in the init, so that output outlives the agent.
    pub keep_stdout: Option<OwnedFd>,
    pub keep_stderr: Option<OwnedFd>,
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

impl Pipes {
    fn open(spec: &LaunchSpec) -> Result<Self, Fault> {
        let mut pipes = Self::plain(spec.terminal.is_some(), spec.stdin)?;
        let keep = |end: &Option<OwnedFd>| end.as_ref().map(OwnedFd::try_clone).transpose();
        pipes.keep_stdout = keep(&pipes.stdout).map_err(|e| Fault::failed(format!("copy a pipe: {e}")))?;
        pipes.keep_stderr = keep(&pipes.stderr).map_err(|e| Fault::failed(format!("copy a pipe: {e}")))?;
        Ok(pipes)
    }

    /// Without the init's copies: for a process that ends with its client.
    pub fn plain(terminal: bool, stdin: bool) -> Result<Self, Fault> {
        let mut pipes = Self::default();
        if terminal {
            return Ok(pipes);
        }
        let pipe = || io::pipe().map_err(|e| Fault::failed(format!("make a pipe: {e}")));
        let (reader, writer) = pipe()?;
        (pipes.stdout, pipes.child_stdout) = (Some(reader.into()), Some(writer.into()));
        let (reader, writer) = pipe()?;
        (pipes.stderr, pipes.child_stderr) = (Some(reader.into()), Some(writer.into()));
        if stdin {
            let (reader, writer) = pipe()?;
            (pipes.child_stdin, pipes.stdin) = (Some(reader.into()), Some(writer.into()));
        }
        Ok(pipes)
    }
}

// ---- small things that every action needs

/// Runs a job on a worker; a job that panicked is a failure like another.
pub async fn blocking<T: Send + 'static>(
    shell: &Shell,
    job: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    match shell.pool.run(job).await {
        Ok(result) => result,
        Err(error) => Err(Fault::from_error(FaultKind::Failed, &error)),
    }
}

pub fn failed(error: &(dyn std::error::Error + 'static)) -> Fault {
    Fault::from_error(FaultKind::Failed, error)
}

/// EAGAIN is a limit of processes, and not the container's own: that one is checked in the container.
pub fn cannot_clone(what: &str, errno: kernel::Errno) -> Fault {
    let message = format!("clone {what}: {errno}");
    match errno {
        kernel::Errno::EAGAIN => Fault::new(FaultKind::Exhausted, message + " (no room for another process)")
            .remedy("raise pids.max of the agent's control group (TasksMax= of its unit), or kernel.pid_max"),
        _ => Fault::failed(message),
    }
}

pub fn unknown(id: &ContainerId) -> Fault {
    Fault::new(FaultKind::NotFound, format!("container {id} is gone")).field("container")
}

pub fn held(shell: &Shell, id: &ContainerId) -> Result<Rc<Resources>, Fault> {
    shell.resources(id).ok_or_else(|| unknown(id))
}

pub fn source(fd: OwnedFd) -> Result<net::Source<OwnedFd>, Fault> {
    net::Source::new(fd, net::Interest::Readable)
        .map_err(|e| Fault::failed(format!("watch a descriptor: {e}")))
}
