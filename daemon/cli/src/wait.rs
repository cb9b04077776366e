//! `bulkhead wait`: until containers are over.

use api::client_json;
use clap::Args;
use client::{Agent, Reconnect, Waiting};
use model::{ContainerId, ContainerState, Fault, FaultKind, Termination};

use crate::args::Format;
use crate::failure::{About, Outcome};
use crate::foreground::end_notice;
use crate::output::{complain, print, print_json_line};

/// Wait until containers have ended, and print their exit statuses
///
/// One line for each, in the order of the arguments. Survives a restart of the agent.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead wait web
  status=$(bulkhead wait $(bulkhead run -d -- ./job))
  bulkhead wait -o json web | jq -r .reason")]
pub(crate) struct WaitArgs {
    /// Ids, beginnings of ids, or names
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

pub(crate) async fn wait(agent: &Agent, format: Format, args: WaitArgs) -> Outcome {
    // All are asked first: one that is forgotten at its end (--rm) can not be found later.
    let mut waiting = Vec::new();
    for name in &args.containers {
        let container = agent.container(name).await.about(name)?;
        let wait = container.wait();
        waiting.push((name, container.inspect().await.about(name)?.status, wait));
    }
    for (name, mut status, wait) in waiting {
        let end = to_the_end(agent, &status.id, wait).await.about(name)?;
        match format {
            Format::Json => {
                // As `ps -a` would show it, if it is not forgotten by now.
                status.state = ContainerState::Destroyed;
                status.pid = None;
                status.termination = Some(end);
                print_json_line(&client_json::Container::from(&status))?;
            }
            Format::Table => {
                print(&format!("{}\n", end.exit_status))?;
                if let Some(notice) = end_notice(name, &end) {
                    complain(&notice);
                }
            }
        }
    }
    Ok(0)
}

async fn to_the_end(agent: &Agent, id: &ContainerId, wait: Waiting) -> Result<Termination, Fault> {
    match wait.await {
        Err(fault) if fault.kind == FaultKind::Unavailable => {
            Reconnect::default().wait(agent.endpoint(), id).await
        }
        result => result,
    }
}
