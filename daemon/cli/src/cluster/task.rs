//! `bulkhead task`: one task of the cluster, wherever it runs.

use clap::{Args, Subcommand};
use client::{Agent, Master};
use model::task::TaskId;
use model::{Fault, Limits, Millis};

use super::At;
use super::run::{RunTaskArgs, run};
use super::tasks::table;
use crate::args::Format;
use crate::failure::{About, Failure, Outcome};
use crate::limit_args::LimitArgs;
use crate::output::{print_json_line, print_table};
use crate::{attach, exec, inspect, logs, stats, wait};

/// Launch a task, or reach one through the master
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead task run --cpus 0.5 --mem 64MB -- ./work     on the first agent with room, in the foreground
  bulkhead task run -d --name web --agent node7 -- ./server
  bulkhead task logs -f web
  bulkhead task update --cpus 2 --mem 256MB web
  bulkhead task kill web")]
pub(crate) struct TaskArgs {
    #[command(subcommand)]
    verb: TaskVerb,
}

#[derive(Debug, Subcommand)]
enum TaskVerb {
    Run(Box<RunTaskArgs>),
    /// End tasks: SIGTERM, a grace period, then everything at once
    Kill(KillArgs),
    /// Change the limits of running tasks
    ///
    /// What is not named stays. Where a task takes more by then, its agent has to have room for it. Asking again is safe.
    Update(Box<UpdateArgs>),
    Logs(Through<logs::LogsArgs>),
    Stats(Through<stats::StatsArgs>),
    Exec(Through<exec::ExecArgs>),
    Attach(Through<attach::AttachArgs>),
    Inspect(Through<inspect::InspectArgs>),
    Wait(Through<wait::WaitArgs>),
}

/// A verb at an agent, with the agent found by the task that it names.
#[derive(Debug, Args)]
struct Through<A: Args> {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    args: A,
}

#[derive(Debug, Args)]
struct KillArgs {
    #[command(flatten)]
    at: At,
    /// Time between SIGTERM and the end [default: that of the task]
    #[arg(long, value_name = "TIME")]
    grace: Option<Millis>,
    /// Ids, beginnings of ids, or names
    #[arg(value_name = "TASK", required = true)]
    tasks: Vec<String>,
}

#[derive(Debug, Args)]
struct UpdateArgs {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    limits: LimitArgs,
    /// Ids, beginnings of ids, or names
    #[arg(value_name = "TASK", required = true)]
    tasks: Vec<String>,
}

impl TaskArgs {
    /// For messages.
    pub fn name(&self) -> &'static str {
        match &self.verb {
            TaskVerb::Run(_) => "task run",
            TaskVerb::Kill(_) => "task kill",
            TaskVerb::Update(_) => "task update",
            TaskVerb::Logs(_) => "task logs",
            TaskVerb::Stats(_) => "task stats",
            TaskVerb::Exec(_) => "task exec",
            TaskVerb::Attach(_) => "task attach",
            TaskVerb::Inspect(_) => "task inspect",
            TaskVerb::Wait(_) => "task wait",
        }
    }

    pub fn at(&self) -> &At {
        match &self.verb {
            TaskVerb::Run(args) => &args.at,
            TaskVerb::Kill(args) => &args.at,
            TaskVerb::Update(args) => &args.at,
            TaskVerb::Logs(through) => &through.at,
            TaskVerb::Stats(through) => &through.at,
            TaskVerb::Exec(through) => &through.at,
            TaskVerb::Attach(through) => &through.at,
            TaskVerb::Inspect(through) => &through.at,
            TaskVerb::Wait(through) => &through.at,
        }
    }
}

pub(crate) async fn task(args: TaskArgs) -> Outcome {
    let format = args.at().format()?;
    let master = args.at().connect().await?;
    match args.verb {
        TaskVerb::Run(args) => run(&master, format, *args).await,
        TaskVerb::Kill(args) => kill(&master, &args).await,
        TaskVerb::Update(args) => update(&master, format, *args).await,
        TaskVerb::Logs(Through { mut args, .. }) => {
            let agent = reach(&master, &mut args.container).await?;
            logs::logs(&agent, args).await
        }
        TaskVerb::Exec(Through { mut args, .. }) => {
            let agent = reach(&master, &mut args.container).await?;
            exec::exec(&agent, args).await
        }
        TaskVerb::Attach(Through { mut args, .. }) => {
            let agent = reach(&master, &mut args.container).await?;
            attach::attach(&agent, args).await
        }
        TaskVerb::Inspect(Through { mut args, .. }) => match &mut args.container {
            Some(name) => {
                let agent = reach(&master, name).await?;
                inspect::inspect(&agent, format, args).await
            }
            None => Err(Fault::invalid("TASK", "is missing").into()),
        },
        TaskVerb::Stats(Through { args, .. }) => one_each(&master, format, args).await,
        TaskVerb::Wait(Through { args, .. }) => wait_for(&master, format, args).await,
    }
}

/// The agent of a task; the name becomes its whole id.
async fn reach(master: &Master, name: &mut String) -> Result<Agent, Failure> {
    let (agent, id): (Agent, TaskId) = master.reach(name).await.about(name)?;
    *name = id.as_str().to_owned();
    Ok(agent)
}

async fn one_each(master: &Master, format: Format, mut args: stats::StatsArgs) -> Outcome {
    let [name] = args.containers.as_mut_slice() else {
        return Err(Fault::invalid("TASK", "one task at a time: each is at an agent of its own").into());
    };
    let agent = reach(master, name).await?;
    stats::stats(&agent, format, args).await
}

async fn wait_for(master: &Master, format: Format, mut args: wait::WaitArgs) -> Outcome {
    let [name] = args.containers.as_mut_slice() else {
        return Err(Fault::invalid("TASK", "one task at a time: each is at an agent of its own").into());
    };
    let agent = reach(master, name).await?;
    wait::wait(&agent, format, args).await
}

async fn kill(master: &Master, args: &KillArgs) -> Outcome {
    let mut failures = Vec::new();
    for name in &args.tasks {
        // One that can not be killed does not keep the others alive.
        if let Err(failure) = master.kill(name, args.grace).await.about(name) {
            failures.push(failure);
        }
    }
    match failures.is_empty() {
        true => Ok(0),
        false => Err(Failure::Several(failures)),
    }
}

async fn update(master: &Master, format: Format, args: UpdateArgs) -> Outcome {
    let limits = args.limits.into_limits();
    if limits == Limits::default() {
        return Err(Fault::invalid("limits", "none is given")
            .remedy("name at least one, like --mem 128MB")
            .into());
    }
    let (mut updated, mut failures) = (Vec::new(), Vec::new());
    for name in &args.tasks {
        // One without room does not keep the others as they are.
        match master.update(name, &limits).await.about(name) {
            Ok(task) => updated.push(task),
            Err(failure) => failures.push(failure),
        }
    }
    match format {
        Format::Json => {
            for task in &updated {
                print_json_line(&api::client_json::Task::from(task))?;
            }
        }
        Format::Table if updated.is_empty() => {}
        Format::Table => print_table(&table(&updated, net::wall_ms()))?,
    }
    match failures.is_empty() {
        true => Ok(0),
        false => Err(Failure::Several(failures)),
    }
}
