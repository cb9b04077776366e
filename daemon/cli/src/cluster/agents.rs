//! `bulkhead agents`: the hosts of the cluster, and what an operator does to one.

use api::client_json;
use clap::{Args, Subcommand};
use model::Millis;
use model::task::{AgentView, Need};

use super::At;
use crate::args::Format;
use crate::failure::{About, Outcome};
use crate::human;
use crate::output::{print, print_json, print_table};
use crate::table::{Align, Table};

/// List the agents of the cluster, or take one out of use
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead agents
  bulkhead agents drain -S3 --grace 5m         no new tasks, and its present ones end
  bulkhead agents activate -S3                 back again
  bulkhead agents gone -S3                     it has burnt down: its tasks are over, it never comes back")]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct AgentsArgs {
    #[command(flatten)]
    at: At,
    /// Only the ids
    #[arg(short, long)]
    quiet: bool,
    #[command(subcommand)]
    verb: Option<AgentVerb>,
}

#[derive(Debug, Subcommand)]
enum AgentVerb {
    /// Give it no new tasks, and end those it has
    Drain(DrainArgs),
    /// Give it no new tasks
    Deactivate(OneArgs),
    /// Give it tasks again
    Activate(OneArgs),
    /// Never let it in again: its tasks are over
    Gone(OneArgs),
}

#[derive(Debug, Args)]
struct OneArgs {
    #[command(flatten)]
    at: At,
    /// Id, its beginning or end, or host name
    #[arg(value_name = "AGENT", allow_hyphen_values = true)]
    agent: String,
}

#[derive(Debug, Args)]
struct DrainArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Time between SIGTERM and SIGKILL [default: that of each task]
    #[arg(long, value_name = "TIME")]
    grace: Option<Millis>,
    /// Mark it gone when it is empty
    #[arg(long)]
    mark_gone: bool,
}

impl AgentsArgs {
    pub fn at(&self) -> &At {
        match &self.verb {
            None => &self.at,
            Some(AgentVerb::Drain(args)) => &args.one.at,
            Some(AgentVerb::Deactivate(args) | AgentVerb::Activate(args) | AgentVerb::Gone(args)) => &args.at,
        }
    }
}

const COLUMNS: [(&str, Align); 8] = [
    ("AGENT", Align::Left),
    ("HOST", Align::Left),
    ("STATE", Align::Left),
    ("TASKS", Align::Right),
    ("CPUS", Align::Right),
    ("MEM", Align::Right),
    ("DISK", Align::Right),
    ("SINCE", Align::Right),
];

pub(crate) async fn agents(args: AgentsArgs) -> Outcome {
    let format = args.at().format()?;
    let master = args.at().connect().await?;
    match &args.verb {
        Some(AgentVerb::Drain(drain)) => {
            let name = &drain.one.agent;
            master
                .drain(name, drain.grace, drain.mark_gone)
                .await
                .about(name)?;
            return Ok(0);
        }
        Some(AgentVerb::Deactivate(one)) => {
            master.set_active(&one.agent, false).await.about(&one.agent)?;
            return Ok(0);
        }
        Some(AgentVerb::Activate(one)) => {
            master.set_active(&one.agent, true).await.about(&one.agent)?;
            return Ok(0);
        }
        Some(AgentVerb::Gone(one)) => {
            master.mark_gone(&one.agent).await.about(&one.agent)?;
            return Ok(0);
        }
        None => {}
    }
    let agents = master.agents().await?;
    if args.quiet {
        let ids: String = agents.iter().map(|agent| format!("{}\n", agent.id.0)).collect();
        print(&ids)?;
        return Ok(0);
    }
    match format {
        Format::Json => print_json(
            &agents
                .iter()
                .map(client_json::ClusterAgent::from)
                .collect::<Vec<_>>(),
        )?,
        Format::Table => print_table(&table(&agents, net::wall_ms()))?,
    }
    Ok(0)
}

fn table(agents: &[AgentView], now_ms: u64) -> Table {
    let mut table = Table::new(&COLUMNS);
    for agent in agents {
        let total = Need::all(&agent.record.resources);
        let since = match agent.since_s {
            0 => agent.registered_at_ms.max(agent.reregistered_at_ms),
            seconds => seconds * 1000,
        };
        let state = match (agent.deactivated, agent.state.as_str()) {
            (true, state) => format!("{state}, no new tasks"),
            (false, state) => state.to_owned(),
        };
        table.row([
            agent.id.0.clone(),
            human::one_line(&agent.record.hostname),
            state,
            agent.tasks.to_string(),
            format!("{}/{}", agent.used.cpus, total.cpus),
            format!("{}/{} MB", agent.used.mem, total.mem),
            format!("{}/{} MB", agent.used.disk, total.disk),
            match since {
                0 => human::UNKNOWN.to_owned(),
                since => human::age(now_ms.saturating_sub(since)),
            },
        ]);
    }
    table
}
