//! `bulkhead tasks`: what the cluster runs.

use api::client_json;
use clap::Args;
use model::task::TaskView;

use super::At;
use crate::args::Format;
use crate::failure::Outcome;
use crate::human::{self, UNKNOWN};
use crate::output::{print, print_json, print_table, short_id};
use crate::table::{Align, Table};

/// List the tasks of the cluster
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead tasks
  bulkhead tasks -a -o json | jq '.[] | select(.state == \"failed\")'")]
pub(crate) struct TasksArgs {
    #[command(flatten)]
    pub at: At,
    /// Also those that have ended and are still remembered
    #[arg(short, long)]
    all: bool,
    /// Only the ids
    #[arg(short, long)]
    quiet: bool,
}

const COLUMNS: [(&str, Align); 8] = [
    ("TASK", Align::Left),
    ("NAME", Align::Left),
    ("STATE", Align::Left),
    ("CPUS", Align::Right),
    ("MEM", Align::Right),
    ("AGE", Align::Right),
    ("HOST", Align::Left),
    ("MESSAGE", Align::Left),
];

pub(crate) async fn tasks(args: TasksArgs) -> Outcome {
    let format = args.at.format()?;
    let mut tasks = args.at.connect().await?.tasks().await?;
    tasks.retain(|task| args.all || task.status().is_some_and(|status| !status.state.is_terminal()));
    // The newest first: what was just started is what is looked for.
    tasks.sort_by_key(|task| std::cmp::Reverse(task.statuses.first().map_or(0, |status| status.at_ms)));
    if args.quiet {
        let ids: String = tasks.iter().map(|task| format!("{}\n", task.id)).collect();
        print(&ids)?;
        return Ok(0);
    }
    match format {
        Format::Json => print_json(&tasks.iter().map(client_json::Task::from).collect::<Vec<_>>())?,
        Format::Table => print_table(&table(&tasks, net::wall_ms()))?,
    }
    Ok(0)
}

pub(crate) fn table(tasks: &[TaskView], now_ms: u64) -> Table {
    let mut table = Table::new(&COLUMNS);
    for task in tasks {
        let began = task.statuses.first().map_or(now_ms, |status| status.at_ms);
        let status = task.status();
        let state = status.map_or(UNKNOWN.to_owned(), |status| match status.exit_status {
            Some(code) => format!("{} ({code})", status.state.as_str()),
            None => status.state.as_str().to_owned(),
        });
        table.row([
            short_id(task.id.as_str()).to_owned(),
            task.name.as_ref().map_or(UNKNOWN.to_owned(), ToString::to_string),
            state,
            task.need.cpus.to_string(),
            format!("{}MB", task.need.mem),
            human::age(now_ms.saturating_sub(began)),
            match task.hostname.is_empty() {
                true => task.agent.0.clone(),
                false => human::one_line(&task.hostname),
            },
            status.map_or(String::new(), |status| human::one_line(&status.message)),
        ]);
    }
    table
}
