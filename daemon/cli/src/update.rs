//! `bulkhead update`: other limits for a running container.

use api::client_json;
use clap::Args;
use client::Agent;
use model::{Fault, Limits};

use crate::args::Format;
use crate::failure::{About, Outcome};
use crate::inspect;
use crate::limit_args::LimitArgs;
use crate::output::{print, print_json_line};
use crate::table::properties;

/// Change the limits of running containers
///
/// What is not named stays. All changes of one container are made, or none. Prints the
/// limits then in force.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead update --mem 128MB web
  bulkhead update --cpu-limit max --pids 200 web database")]
pub(crate) struct UpdateArgs {
    #[command(flatten)]
    limits: LimitArgs,
    /// Ids, beginnings of ids, or names
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

pub(crate) async fn update(agent: &Agent, format: Format, args: UpdateArgs) -> Outcome {
    let limits = args.limits.into_limits();
    if limits == Limits::default() {
        return Err(Fault::invalid("limits", "none is given")
            .remedy("name at least one, like --mem 128MB")
            .into());
    }
    let several = args.containers.len() > 1;
    for name in &args.containers {
        let container = agent.container(name).await.about(name)?;
        let in_force = container.update(&limits).await.about(name)?;
        match format {
            Format::Json => {
                let status = container.inspect().await.about(name)?.status;
                print_json_line(&client_json::Container::from(&status))?;
            }
            Format::Table => {
                let title = if several {
                    format!("{name}:\n")
                } else {
                    String::new()
                };
                print(&(title + &properties(&inspect::limits(&in_force))))?;
            }
        }
    }
    Ok(0)
}
