//! `bulkhead exec`: a further process in a running container.

use std::path::PathBuf;

use clap::Args;
use client::Agent;
use model::{ExecSpec, Fault, Termination};

use crate::failure::{About, Failure, Outcome};
use crate::foreground::{
    Connected, LastOutput, Session, SessionEnd, SessionOptions, Target, exit_status, terminal,
};
use crate::parse::{self, Variable};
use crate::run_args::own_environment;

/// Run a further command in a running container
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead exec web -- ls -l
  bulkhead exec -t web -- sh
  bulkhead exec -u nobody -e LANG=C web -- env

Exit status: as for run. Processes that the command leaves in the background are not waited for.")]
pub(crate) struct ExecArgs {
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Keep stdin open even when we are in the background of a terminal
    #[arg(short, long)]
    interactive: bool,
    /// Environment variable; without a value, our own (repeatable)
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = parse::variable)]
    env: Vec<Variable>,
    /// NAME, UID, NAME:GROUP or UID:GID
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Working directory in the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// Id, beginning of an id, or name
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    pub command: Vec<String>,
}

pub(crate) async fn exec(agent: &Agent, args: ExecArgs) -> Outcome {
    let spec = ExecSpec {
        command: args.command,
        env: own_environment(args.env)?,
        user: args.user,
        workdir: args.workdir,
        terminal: args.tty.then(terminal::size),
        stdin: args.interactive || !terminal::stdin_would_stop_us(),
    };
    let options = SessionOptions {
        terminal: args.tty,
        detachable: false,
        forward_signals: true,
    };
    let mut session = Session::new(options)?;
    let container = agent.container(&args.container).await.about(&args.container)?;
    let console = session.console()?;
    let started = session
        .while_starting(container.exec(&spec, Some(Box::new(console))))
        .await;
    let execution = started.map_err(|failure| match failure {
        Failure::Fault { what: None, fault } => Failure::Fault {
            what: Some(args.container.clone()),
            fault,
        },
        other => other,
    })?;
    // As for run: held, not used.
    let (input, _held) = if spec.stdin {
        (execution.input, None)
    } else {
        (None, execution.input)
    };
    let connected = Connected {
        waiting: execution.process.wait(),
        target: Target::Process(execution.process),
        input,
        output: execution.output,
        last_output: LastOutput::Shared(agent.clone()),
    };
    let resume: Option<std::future::Ready<Result<Termination, Fault>>> = None;
    let conducted = session.conduct(connected, resume).await;
    session.tell_losses(&args.container);
    match conducted? {
        SessionEnd::Command(end) => Ok(exit_status(&end)),
        SessionEnd::Detached => Ok(0),
    }
}
