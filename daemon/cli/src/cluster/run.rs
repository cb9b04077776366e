//! `bulkhead task run`: launch a task where there is room, in the foreground or detached.

use clap::Args;
use client::Master;
use model::registry::AgentId;
use model::task::TaskId;
use model::{Bytes, Cpus, Fault, FaultKind, Limit};

use super::At;
use crate::args::Format;
use crate::attach::{self, AttachArgs};
use crate::failure::{About, Failure, Outcome};
use crate::output::{complain, print, print_json_line, short_id};
use crate::run_args::RunArgs;

/// Of a task that does not say; as Mesos' own launcher has them.
const CPUS: Cpus = Cpus::from_milli(1000);
const MEMORY: Bytes = Bytes::mib(128);

/// Launch a task on an agent that has room for it
///
/// In the foreground its output is ours, it gets our signals, and its exit status is ours. What it says of its host
/// (--volume, --rootfs) is of the agent's host. Without --cpus it takes 1 CPU, without --mem 128MB.
#[derive(Debug, Args)]
pub(crate) struct RunTaskArgs {
    #[command(flatten)]
    pub at: At,
    /// Agent by id, its beginning or end, or host name; any: the first with room
    #[arg(long, value_name = "AGENT", default_value = "any", allow_hyphen_values = true)]
    agent: String,
    #[command(flatten)]
    run: RunArgs,
}

pub(crate) async fn run(master: &Master, format: Format, args: RunTaskArgs) -> Outcome {
    let detach = args.run.detach;
    let mut spec = args.run.into_spec(false)?;
    spec.limits.cpus.get_or_insert(CPUS);
    spec.limits.mem.get_or_insert(Limit::Value(MEMORY));
    let what = spec
        .name
        .as_ref()
        .map_or_else(|| spec.command[0].clone(), ToString::to_string);
    let agent = (args.agent != "any").then_some(AgentId(args.agent));
    let id = new_id()?;
    let task = master.launch(&id, agent.as_ref(), &spec).await.about(&what)?;
    if detach {
        match format {
            Format::Json => print_json_line(&api::client_json::Task::from(&task))?,
            Format::Table => print(&format!("{id}\n"))?,
        }
        return Ok(0);
    }
    if task.status().is_some_and(|status| status.state.is_terminal()) {
        complain(&format!("task {} has ended already", short_id(id.as_str())));
    }
    let (agent, _) = master.reach(id.as_str()).await.about(&what)?;
    attach::attach(&agent, AttachArgs::whole(id.as_str()))
        .await
        .map_err(|failure| named(failure, &what))
}

fn named(failure: Failure, what: &str) -> Failure {
    match failure {
        Failure::Fault { what: None, fault } => Failure::Fault {
            what: Some(what.to_owned()),
            fault,
        },
        other => other,
    }
}

/// Made here, so that asking again launches nothing twice.
fn new_id() -> Result<TaskId, Fault> {
    let random = net::random().map_err(|error| Fault::from_error(FaultKind::Failed, &error))?;
    let id = format!("{random:032x}").parse();
    id.map_err(|error: model::ids::NameError| Fault::failed(error.to_string()))
}
