//! A further process in a running container: our own child, in the container's namespaces and cgroups.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use agent_core::Input;
use container::channel::{self, Report};
use container::{ChildFds, CloneKind, CloneRequest, Namespaces};
use model::{ContainerId, ContainerState, ExecSpec, Fault, FaultKind, Network, Reason, Termination};
use net::queue::oneshot;

use crate::changed::Changed;

use crate::launch::{Pipes, blocking, failed, held, open_channel, plan_context, source, unknown};
use crate::shell::Shell;
use crate::sink::OutputSink;
use crate::stdin::Stdin;

/// Read from a process's output at a time.
const CHUNK: usize = 64 << 10;

/// Held by the client's `Process` capability: with the last holder its output and its terminal go (which
/// hangs it up), and the task that reaps it stays until it has ended.
pub struct ExecProcess {
    pidfd: Rc<net::Source<OwnedFd>>,
    stdin: Option<Rc<Stdin>>,
    terminal: Option<Rc<net::Source<File>>>,
    end: Rc<End>,
    /// Ends when the output has been taken; cancelled with its holder.
    _pump: net::Task<()>,
}

#[derive(Default)]
struct End {
    termination: RefCell<Option<Termination>>,
    known: Changed,
}

impl ExecProcess {
    pub fn stdin(&self) -> Option<Rc<Stdin>> {
        self.stdin.clone()
    }

    pub fn terminal(&self) -> Option<Rc<net::Source<File>>> {
        self.terminal.clone()
    }

    pub async fn wait(&self) -> Termination {
        loop {
            let known = self.end.known.notified();
            if let Some(termination) = self.end.termination.borrow().clone() {
                return termination;
            }
            known.await;
        }
    }

    pub fn signal(&self, signal: i32) -> Result<(), Fault> {
        if !(1..=64).contains(&signal) {
            return Err(Fault::invalid(
                "signal",
                format!("{signal} is not a signal (1 to 64)"),
            ));
        }
        if self.end.termination.borrow().is_some() {
            return Err(Fault::new(FaultKind::State, "the process has ended already"));
        }
        kernel::process::pidfd_send_signal(self.pidfd.as_fd(), signal)
            .map_err(|e| Fault::failed(format!("send signal {signal}: {e}")))
    }
}

/// What the child told before its program ran.
struct Started {
    pidfd: OwnedFd,
    terminal: Option<OwnedFd>,
}

pub async fn start(
    shell: &Rc<Shell>,
    id: &ContainerId,
    spec: ExecSpec,
    sink: Option<OutputSink>,
) -> Result<Rc<ExecProcess>, Fault> {
    let resources = held(shell, id)?;
    let (state, parent) = {
        let core = shell.core();
        let status = core.status(id).ok_or_else(|| unknown(id))?;
        (status.state, core.spec(id).cloned().ok_or_else(|| unknown(id))?)
    };
    if state != ContainerState::Running {
        let message = format!(
            "container {id} is {} and can not run another process",
            state.as_str()
        );
        return Err(Fault::new(FaultKind::State, message));
    }
    let init = resources.init.borrow().clone().ok_or_else(|| unknown(id))?;
    let plan = container::plan::exec_plan(&spec, &parent, &shell.host, &plan_context(shell, id, &parent))?;
    let (isolators, job_id) = (shell.isolators.clone(), id.clone());
    let groups = blocking(shell, move || isolators.join(&job_id).map_err(|e| failed(&e))).await?;
    let (channel, child_channel) = open_channel(&plan)?;
    let mut pipes = Pipes::plain(spec.terminal.is_some(), spec.stdin)?;
    let target = init
        .get_ref()
        .try_clone()
        .map_err(|e| Fault::failed(format!("copy the init's pidfd: {e}")))?;
    let request = CloneRequest {
        kind: CloneKind::Exec,
        namespaces: Namespaces {
            net: parent.network != Network::Host,
        },
        fds: ChildFds {
            channel: child_channel,
            stdin: pipes.child_stdin.take(),
            stdout: pipes.child_stdout.take(),
            stderr: pipes.child_stderr.take(),
            keep_stdout: None,
            keep_stderr: None,
            status: None,
            cgroup: groups.cgroup,
            cgroup_procs: groups.cgroup_procs,
            netns: None,
            target: Some(target),
            trees: Vec::new(),
        },
    };
    let (sender, receiver) = oneshot();
    let (task_shell, task_id) = (shell.clone(), id.clone());
    // In a task of its own: once something is cloned it has to be reaped, whatever becomes of who asked.
    net::spawn(async move {
        let started = clone_process(&task_shell, &task_id, request, channel).await;
        let process = started.and_then(|started| watch(started, pipes, sink));
        if process.is_ok() {
            task_shell.input(Input::Execed {
                id: task_id,
                spec: Box::new(spec),
            });
        }
        // Nobody waits any more: the process loses its terminal and pipes, and is reaped all the same.
        let _ = sender.send(process);
    })
    .detach();
    receiver
        .await
        .unwrap_or_else(|_| Err(Fault::failed("the exec was abandoned")))
}

async fn clone_process(
    shell: &Rc<Shell>,
    id: &ContainerId,
    request: CloneRequest,
    channel: OwnedFd,
) -> Result<Started, Fault> {
    let launcher = shell.launcher.clone();
    let reply = blocking(shell, move || launcher.clone_child(&request)).await?;
    let (_, joiner) = reply
        .result
        .map_err(|errno| crate::launch::cannot_clone(&format!("a process for container {id}"), errno))?;
    reap_joiner(joiner)?;
    // There is no gate for an exec: it has nothing to be checkpointed.
    follow_start(source(channel)?).await
}

/// The process that entered the namespaces ends when it has made the real one.
fn reap_joiner(pidfd: OwnedFd) -> Result<(), Fault> {
    let pidfd = source(pidfd)?;
    net::spawn(async move {
        let _ = net::wait_pidfd(&pidfd).await;
    })
    .detach();
    Ok(())
}

async fn follow_start(channel: net::Source<OwnedFd>) -> Result<Started, Fault> {
    let (mut process, mut terminal) = (None, None);
    let failure = loop {
        match channel.read_with(|fd| channel::receive_report(fd.as_fd())).await {
            Ok(Some((Report::Process { .. }, Some(pidfd)))) => process = Some(pidfd),
            Ok(Some((Report::Pty, Some(master)))) => terminal = Some(master),
            Ok(Some((Report::Started, _))) => match process.take() {
                Some(pidfd) => return Ok(Started { pidfd, terminal }),
                None => break Fault::failed("the process started without a pidfd"),
            },
            Ok(Some((report @ Report::Failed { .. }, _))) => break report.into_fault(),
            Ok(Some(_)) => {}
            Ok(None) => {
                break Fault::failed("the process ended before its program ran (is the container ending?)");
            }
            Err(error) => break Fault::failed(format!("read the child's reports: {error}")),
        }
    };
    if let Some(pidfd) = process {
        reap_joiner(pidfd)?;
    }
    reap_stragglers(channel);
    Err(failure)
}

/// A process that failed may report so before its maker has handed over its pidfd. Unreaped it would keep the
/// container's pid namespace from ever ending.
fn reap_stragglers(channel: net::Source<OwnedFd>) {
    net::spawn(async move {
        while let Ok(Some((_, pidfd))) = channel.read_with(|fd| channel::receive_report(fd.as_fd())).await {
            if let Some(pidfd) = pidfd {
                let _ = reap_joiner(pidfd);
            }
        }
    })
    .detach();
}

fn watch(started: Started, pipes: Pipes, sink: Option<OutputSink>) -> Result<Rc<ExecProcess>, Fault> {
    let pidfd = Rc::new(source(started.pidfd)?);
    let end = Rc::new(End::default());
    let (reaped, told) = (pidfd.clone(), end.clone());
    net::spawn(async move {
        let info = net::wait_pidfd(&reaped).await;
        *told.termination.borrow_mut() = Some(termination(info));
        told.known.notify();
    })
    .detach();
    let terminal = started.terminal.map(file_source).transpose()?.map(Rc::new);
    let stdin = (terminal.is_some() || pipes.stdin.is_some()).then(Rc::<Stdin>::default);
    if let Some(stdin) = &stdin {
        match (&terminal, pipes.stdin) {
            (Some(master), _) => stdin.open_terminal(master.clone()),
            (None, Some(end)) => stdin.open_pipe(end).map_err(|e| failed(&e))?,
            (None, None) => {}
        }
    }
    let mut outputs = Vec::new();
    if let Some(master) = &terminal {
        outputs.push((1, master.clone()));
    }
    for (number, end) in [(1, pipes.stdout), (2, pipes.stderr)] {
        if let Some(end) = end {
            outputs.push((number, Rc::new(file_source(end)?)));
        }
    }
    let pump = net::spawn(pump(outputs, sink));
    Ok(Rc::new(ExecProcess {
        pidfd,
        stdin,
        terminal,
        end,
        _pump: pump,
    }))
}

/// Straight from the pipe to the client: a slow client slows the process, as a pipe would.
async fn pump(outputs: Vec<(u8, Rc<net::Source<File>>)>, sink: Option<OutputSink>) {
    let pumps = outputs.into_iter().map(|(number, end)| {
        let sink = sink.clone();
        async move {
            let mut buffer = vec![0; CHUNK];
            loop {
                let read = end.read_with(|mut end| end.read(&mut buffer)).await;
                // A terminal whose last process is gone reads as an error.
                let Ok(count @ 1..) = read else { return };
                if let Some(sink) = &sink
                    && sink.write(number, &buffer[..count]).await.is_err()
                {
                    return;
                }
            }
        }
    });
    futures::future::join_all(pumps).await;
    if let Some(sink) = sink {
        let _ = sink.done().await;
    }
}

fn file_source(fd: OwnedFd) -> Result<net::Source<File>, Fault> {
    kernel::socket::set_nonblocking(fd.as_fd()).map_err(|e| failed(&e))?;
    net::Source::new(File::from(fd), net::Interest::Readable)
        .map_err(|e| Fault::failed(format!("watch a descriptor: {e}")))
}

fn termination(info: std::io::Result<net::ExitInfo>) -> Termination {
    let (exit_status, signal, reason, message) = match info {
        Ok(net::ExitInfo::Exited(code)) => (code, None, Reason::Exited, format!("exited with status {code}")),
        Ok(net::ExitInfo::Signaled { signal, .. }) => (
            128 + signal,
            Some(signal),
            Reason::Signaled,
            format!("killed by signal {signal}"),
        ),
        other => (
            125,
            None,
            Reason::Lost,
            format!("its end was not seen: {other:?}"),
        ),
    };
    Termination {
        exit_status,
        signal,
        reason,
        message,
        limitation: None,
        finished_at_ms: net::wall_ms(),
    }
}
