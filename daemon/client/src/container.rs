//! One container, and processes started in it.

use std::rc::Rc;

use capnp::capability::RemotePromise;
use model::{ContainerId, ContainerStatus, ExecSpec, Fault, LaunchSpec, Limits, Millis, TerminalSize, Usage};
use wire::agent_capnp::{container, process};

use crate::agent::{CALL_DEADLINE, LAUNCH_DEADLINE, Waiting};
use crate::connection::Connection;
use crate::input::Input;
use crate::output::{self, Output, OutputEnd};

/// A container at an agent. Clones share the connection.
#[derive(Clone)]
pub struct Container {
    connection: Rc<Connection>,
    client: container::Client,
    id: ContainerId,
}

/// All that an agent knows of a container.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    pub status: ContainerStatus,
    pub spec: LaunchSpec,
    /// Further lines: paths, mechanisms, the plan.
    pub detail: Vec<(String, String)>,
}

/// A process started by [`Container::exec`].
pub struct Execution {
    pub process: Process,
    /// If the spec asked for stdin.
    pub input: Option<Input>,
    /// If an output was given.
    pub output: Option<OutputEnd>,
}

/// A container's streams.
pub struct Attached {
    /// If the container keeps its stdin open.
    pub input: Option<Input>,
    /// Dropping it detaches.
    pub output: OutputEnd,
}

/// Which output is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on with what is still to come.
    pub follow: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Only so many of the last lines; 0: from the beginning of what is kept.
    pub tail_lines: u32,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            follow: false,
            stdout: true,
            stderr: true,
            tail_lines: 0,
        }
    }
}

impl Container {
    pub(crate) fn new(connection: Rc<Connection>, client: container::Client, id: ContainerId) -> Self {
        Self {
            connection,
            client,
            id,
        }
    }

    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    pub async fn inspect(&self) -> Result<Inspection, Fault> {
        let connection = &self.connection;
        let answer = connection
            .answer_soon(self.client.inspect_request().send(), CALL_DEADLINE)
            .await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        let status = result
            .get_status()
            .map_err(|error| connection.unreadable(error))?;
        let spec = result.get_spec().map_err(|error| connection.unreadable(error))?;
        let unreadable = |fault| connection.unreadable(fault);
        Ok(Inspection {
            status: wire::container::decode_status(status).map_err(unreadable)?,
            spec: wire::launch::decode(spec).map_err(unreadable)?,
            detail: wire::agent::decode_detail(result.get_detail()).map_err(unreadable)?,
        })
    }

    /// The wait is on its way when this returns; it goes on without this handle.
    pub fn wait(&self) -> Waiting {
        wait(&self.connection, &self.client)
    }

    /// Signal 0 kills gracefully: SIGTERM, `grace` (else the spec's), then everything. Another signal
    /// is delivered as it is; 9 kills all at once.
    pub async fn kill(&self, signal: i32, grace: Option<Millis>) -> Result<(), Fault> {
        let connection = &self.connection;
        let mut request = self.client.kill_request();
        let mut params = request.get();
        params.set_signal(signal);
        if let Some(grace) = grace {
            params.set_has_grace(true);
            params.set_grace_ms(grace.get());
        }
        let answer = connection.answer_soon(request.send(), CALL_DEADLINE).await?;
        wire::fault::check(answer.get().and_then(|result| result.get_fault()))
    }

    /// Changes the limits that are set, leaves the others; returns all that are in force.
    pub async fn update(&self, limits: &Limits) -> Result<Limits, Fault> {
        let connection = &self.connection;
        let mut request = self.client.update_request();
        wire::limits::encode(limits, request.get().init_limits());
        let answer = connection.answer_soon(request.send(), CALL_DEADLINE).await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        let limits = result
            .get_limits()
            .map_err(|error| connection.unreadable(error))?;
        wire::limits::decode(limits).map_err(|fault| connection.unreadable(fault))
    }

    /// Starts a further process. `output` is attached before it runs.
    pub async fn exec(&self, spec: &ExecSpec, output: Option<Box<dyn Output>>) -> Result<Execution, Fault> {
        wire::launch::check_exec_size(spec)?;
        let connection = &self.connection;
        let mut request = self.client.exec_request();
        let mut params = request.get();
        wire::launch::encode_exec(spec, params.reborrow().init_spec());
        let output = output.map(|output| {
            let (sink, end) = output::sink(output);
            params.set_output(sink);
            end
        });
        let answer = connection.answer_soon(request.send(), LAUNCH_DEADLINE).await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        let client = result
            .get_process()
            .map_err(|error| connection.unreadable(error))?;
        let input = match result.has_input() {
            false => None,
            true => Some(result.get_input().map_err(|error| connection.unreadable(error))?),
        };
        Ok(Execution {
            process: Process {
                connection: Rc::clone(connection),
                client,
            },
            input: input.map(|sink| Input::new(Rc::clone(connection), sink)),
            output,
        })
    }

    /// The container's output from now on, or from the beginning of what is kept, and its input.
    pub async fn attach(&self, output: Box<dyn Output>, from_start: bool) -> Result<Attached, Fault> {
        let connection = &self.connection;
        let (sink, mut end) = output::sink(output);
        let mut request = self.client.attach_request();
        request.get().set_output(sink);
        request.get().set_from_start(from_start);
        let answer = connection.answer_soon(request.send(), CALL_DEADLINE).await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        end.hold(Rc::clone(connection), result.get_subscription().ok());
        let input = match result.has_input() {
            false => None,
            true => Some(result.get_input().map_err(|error| connection.unreadable(error))?),
        };
        Ok(Attached {
            input: input.map(|sink| Input::new(Rc::clone(connection), sink)),
            output: end,
        })
    }

    /// What is kept of the output, also after the end.
    pub async fn logs(&self, output: Box<dyn Output>, options: LogOptions) -> Result<OutputEnd, Fault> {
        let connection = &self.connection;
        let (sink, mut end) = output::sink(output);
        let mut request = self.client.logs_request();
        let mut params = request.get();
        params.set_output(sink);
        params.set_follow(options.follow);
        params.set_stdout(options.stdout);
        params.set_stderr(options.stderr);
        params.set_tail_lines(options.tail_lines);
        let answer = connection.answer_soon(request.send(), CALL_DEADLINE).await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        end.hold(Rc::clone(connection), result.get_subscription().ok());
        Ok(end)
    }

    pub async fn statistics(&self) -> Result<Usage, Fault> {
        let connection = &self.connection;
        let answer = connection
            .answer_soon(self.client.statistics_request().send(), CALL_DEADLINE)
            .await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        Ok(wire::usage::decode(
            result.get_usage().map_err(|error| connection.unreadable(error))?,
        ))
    }

    /// Tells the container's terminal its new size.
    pub async fn resize(&self, size: TerminalSize) -> Result<(), Fault> {
        let mut request = self.client.resize_request();
        wire::launch::encode_terminal(size, request.get().init_size());
        let answer = self.connection.answer_soon(request.send(), CALL_DEADLINE).await?;
        wire::fault::check(answer.get().and_then(|result| result.get_fault()))
    }
}

/// Sends the wait at once: also to a container that is still being launched.
pub(crate) fn wait(connection: &Rc<Connection>, client: &container::Client) -> Waiting {
    let connection = Rc::clone(connection);
    let call: RemotePromise<container::wait_results::Owned> = client.wait_request().send();
    Waiting::new(async move {
        let answer = connection.answer(call).await?;
        let result = answer.get().map_err(|error| connection.unreadable(error))?;
        wire::fault::check(result.get_fault())?;
        let termination = result
            .get_termination()
            .map_err(|error| connection.unreadable(error))?;
        wire::container::decode_termination(termination).map_err(|fault| connection.unreadable(fault))
    })
}

/// A process started in a container. Clones share the connection.
#[derive(Clone)]
pub struct Process {
    connection: Rc<Connection>,
    client: process::Client,
}

impl Process {
    /// The wait is on its way when this returns; it goes on without this handle.
    pub fn wait(&self) -> Waiting {
        let connection = Rc::clone(&self.connection);
        let call: RemotePromise<process::wait_results::Owned> = self.client.wait_request().send();
        Waiting::new(async move {
            let answer = connection.answer(call).await?;
            let result = answer.get().map_err(|error| connection.unreadable(error))?;
            wire::fault::check(result.get_fault())?;
            let termination = result
                .get_termination()
                .map_err(|error| connection.unreadable(error))?;
            wire::container::decode_termination(termination).map_err(|fault| connection.unreadable(fault))
        })
    }

    pub async fn signal(&self, signal: i32) -> Result<(), Fault> {
        let mut request = self.client.signal_request();
        request.get().set_signal(signal);
        let answer = self.connection.answer_soon(request.send(), CALL_DEADLINE).await?;
        wire::fault::check(answer.get().and_then(|result| result.get_fault()))
    }

    pub async fn resize(&self, size: TerminalSize) -> Result<(), Fault> {
        let mut request = self.client.resize_request();
        wire::launch::encode_terminal(size, request.get().init_size());
        let answer = self.connection.answer_soon(request.send(), CALL_DEADLINE).await?;
        wire::fault::check(answer.get().and_then(|result| result.get_fault()))
    }
}
