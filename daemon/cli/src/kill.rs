//! `bulkhead kill`: end containers, or send them a signal.

use clap::Args;
use client::Agent;
use model::{Fault, Millis};

use crate::failure::{About, Failure, Outcome};
use crate::parse;

/// Kill containers: SIGTERM, a grace period, then everything at once
///
/// With --signal the signal is just delivered to the command; KILL ends everything at once.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead kill web
  bulkhead kill --grace 1m database
  bulkhead kill -s HUP web
  bulkhead kill web && bulkhead wait web      until it is gone")]
pub(crate) struct KillArgs {
    /// Signal to deliver instead, by name or number
    #[arg(short, long, value_name = "SIGNAL", value_parser = parse::signal, conflicts_with = "grace")]
    signal: Option<i32>,
    /// Time between SIGTERM and the end [default: that of the container]
    #[arg(long, value_name = "TIME")]
    grace: Option<Millis>,
    /// Ids, beginnings of ids, or names
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

/// The schema's word for a graceful kill.
const GRACEFUL: i32 = 0;

pub(crate) async fn kill(agent: &Agent, args: KillArgs) -> Outcome {
    let mut failures = Vec::new();
    for name in &args.containers {
        // One that can not be killed does not keep the others alive.
        if let Err(failure) = kill_one(agent, name, &args).await.about(name) {
            failures.push(failure);
        }
    }
    if failures.is_empty() {
        Ok(0)
    } else {
        Err(Failure::Several(failures))
    }
}

async fn kill_one(agent: &Agent, name: &str, args: &KillArgs) -> Result<(), Fault> {
    agent
        .container(name)
        .await?
        .kill(args.signal.unwrap_or(GRACEFUL), args.grace)
        .await
}
