//! `bulkhead wait`: until containers are over.

use api::client_json;
use clap::Args;
use client::{Agent, Reconnect, Waiting};
use model::{ContainerId, ContainerState, ContainerStatus, Fault, FaultKind, Termination};

use crate::args::Format;
use crate::failure::{About, Failure, Outcome};
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
    pub containers: Vec<String>,
}

pub(crate) async fn wait(agent: &Agent, format: Format, args: WaitArgs) -> Outcome {
    let waiting = ask_all(agent, &args.containers).await?;
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

/// Agents that may die one after the other before one has told which containers are meant.
const AGENTS_MAX: u32 = 10;

/// All are asked first: one that is forgotten at its end (--rm) can not be found later.
async fn ask_all<'a>(
    agent: &Agent,
    names: &'a [String],
) -> Result<Vec<(&'a String, ContainerStatus, Waiting)>, Failure> {
    let mut agent = agent.clone();
    let mut agents = 1;
    loop {
        let mut waiting = Vec::new();
        let mut lost = None;
        for name in names {
            match ask(&agent, name).await {
                Ok((status, wait)) => waiting.push((name, status, wait)),
                Err(fault) if fault.kind == FaultKind::Unavailable && agents < AGENTS_MAX => {
                    lost = Some(fault);
                    break;
                }
                Err(fault) => return Err(fault).about(name),
            }
        }
        let Some(fault) = lost else { return Ok(waiting) };
        // It died while it was asked; its successor knows the same containers.
        agents += 1;
        let patience = Reconnect::default().patience;
        agent = Agent::connect_retry(agent.endpoint(), patience)
            .await
            .map_err(|_| fault)?;
    }
}

async fn ask(agent: &Agent, name: &str) -> Result<(ContainerStatus, Waiting), Fault> {
    let container = agent.container(name).await?;
    let wait = container.wait();
    Ok((container.inspect().await?.status, wait))
}

async fn to_the_end(agent: &Agent, id: &ContainerId, wait: Waiting) -> Result<Termination, Fault> {
    match wait.await {
        Err(fault) if fault.kind == FaultKind::Unavailable => {
            Reconnect::default().wait(agent.endpoint(), id).await
        }
        result => result,
    }
}
