//! `bulkhead logs`: what a container has written.

use clap::Args;
use client::{Agent, LogOptions};
use futures::future::{Either, select};
use model::{Fault, FaultKind};
use net::{Notify, Pool};

use crate::failure::{About, Failure, Outcome};
use crate::foreground::{Console, Losses};
use crate::output::complain;

/// Print what a container has written
///
/// What it wrote to stdout goes to stdout, to stderr to stderr. Works after its end too.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead logs web
  bulkhead logs -f --tail 20 web
  bulkhead logs --stderr web 2> errors")]
pub(crate) struct LogsArgs {
    /// Go on with what is still to come, until it ends
    #[arg(short, long)]
    follow: bool,
    /// Only the last N lines of what is kept
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tail: Option<u32>,
    /// Only stdout
    #[arg(long)]
    stdout: bool,
    /// Only stderr
    #[arg(long)]
    stderr: bool,
    /// Id, beginning of an id, or name
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

pub(crate) async fn logs(agent: &Agent, args: LogsArgs) -> Outcome {
    let what = args.container.as_str();
    let failed = |error: std::io::Error| Fault::from_error(FaultKind::Failed, &error);
    let closed = Notify::new();
    let losses = Losses::default();
    let pool = Pool::new(2, 2).map_err(failed)?;
    let console = Console::new(pool, closed.clone(), losses.clone()).map_err(failed)?;
    let options = LogOptions {
        follow: args.follow,
        // Neither flag means both.
        stdout: args.stdout || !args.stderr,
        stderr: args.stderr || !args.stdout,
        tail_lines: args.tail.unwrap_or(0),
    };
    let container = agent.container(what).await.about(what)?;
    let end = container.logs(Box::new(console), options).await.about(what)?;
    let ended = select(end, closed.wait()).await;
    if let Some(line) = losses.unsaid(what) {
        complain(&line);
    }
    match ended {
        Either::Left((Ok(client::OutputEnded::Complete), _)) => Ok(0),
        Either::Left((Ok(client::OutputEnded::Cut), _)) => Err(Fault::new(
            FaultKind::Unavailable,
            "the agent stopped sending before the end",
        ))
        .about(what),
        Either::Left((Err(fault), _)) => Err(fault).about(what),
        Either::Right(_) => Err(Failure::OutputClosed),
    }
}
