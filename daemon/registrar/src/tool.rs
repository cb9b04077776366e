//! `bulkhead log registry`: what a log holds of the registry, and edits by hand.

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand, ValueEnum};
use model::registry::{Edit, MachineId, MasterRecord, Registry};

use crate::fetch::{Contents, contents};
use crate::registrar::Registrar;
use crate::storage::Storage;
use crate::{Kind, Settings};

const AFTER_HELP: &str = "\
Examples:
  bulkhead log registry show --at 127.0.0.1:5061
  bulkhead log registry show --directory /var/lib/bulkhead/registry -o json
  echo '{\"SetWeights\":{\"web\":2000}}' | bulkhead log registry edit --at 127.0.0.1:5061

`edit` becomes the log's writer: a master that leads steps down at once. Amounts and weights are in thousandths.";

#[derive(Debug, Parser)]
#[command(name = "registry", about = "The registry that a log holds", after_help = AFTER_HELP)]
struct Tool {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print it, as far as the replica knows it.
    Show(ShowArgs),
    /// Apply edits, one JSON object a line of stdin; each is durable when its line is answered.
    Edit(EditArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("where").required(true).args(["at", "directory"])))]
struct Place {
    /// A replica that runs.
    #[arg(long, value_name = "HOST:PORT", env = "BULKHEAD_LOG")]
    at: Option<String>,
    /// The directory of a registry with one replica (`--registry=local`), whose program is stopped.
    #[arg(long, value_name = "PATH")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    tls: replog::tool::TlsArgs,
}

#[derive(Debug, Args)]
struct ShowArgs {
    #[command(flatten)]
    place: Place,
    /// Learn first what a quorum knows.
    #[arg(long)]
    catch_up: bool,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Debug, Args)]
struct EditArgs {
    #[command(flatten)]
    place: Place,
}

pub fn command() -> Command {
    use clap::CommandFactory as _;
    Tool::command()
}

pub fn main(matches: &ArgMatches) -> ExitCode {
    let tool = match Tool::from_arg_matches(matches) {
        Ok(tool) => tool,
        Err(error) => error.exit(),
    };
    let obeyed = net::run(net::Config::default(), async {
        match tool.verb {
            Verb::Show(args) => show(args).await,
            Verb::Edit(args) => edit(args).await,
        }
    });
    match obeyed.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bulkhead log registry: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Place {
    async fn open(&self) -> Result<(Kind, Storage), String> {
        match (&self.at, &self.directory) {
            (_, Some(directory)) => {
                if !directory.is_dir() {
                    return Err(format!("{} is no directory", directory.display()));
                }
                let storage = Storage::local(directory).map_err(|error| error.to_string())?;
                Ok((Kind::Local, storage))
            }
            (Some(at), None) => Ok((
                Kind::ReplicatedLog,
                Storage::remote(replog::Client::connect(at, self.tls.load()?.as_ref()).await?),
            )),
            (None, None) => Err("give --at or --directory".to_owned()),
        }
    }
}

async fn show(args: ShowArgs) -> Result<(), String> {
    let (kind, storage) = args.place.open().await?;
    let catch_up = args.catch_up || kind == Kind::Local;
    let contents = contents(&storage, catch_up)
        .await
        .map_err(|error| error.to_string())?;
    match args.output {
        Format::Json => println!("{}", json(&contents)),
        Format::Table => print!("{}", table(&contents)),
    }
    Ok(())
}

async fn edit(args: EditArgs) -> Result<(), String> {
    let (_, storage) = args.place.open().await?;
    let held = contents(&storage, true)
        .await
        .map_err(|error| error.to_string())?
        .registry
        .master;
    let term = held.map_or(0, |master| master.term);
    let master = MasterRecord {
        id: "by-hand".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        term,
        ..MasterRecord::default()
    };
    let registrar = Registrar::lead(storage, master, Settings::default())
        .await
        .map_err(|error| error.to_string())?;
    for (number, line) in (1..).zip(std::io::stdin().lock().lines()) {
        let line = line.map_err(|error| format!("cannot read stdin: {error}"))?;
        if line.trim().is_empty() {
            continue;
        }
        let wrong =
            |error: &dyn std::fmt::Display| format!("line {number}: {error}; lines before it are done");
        let edit: Edit = serde_json::from_str(&line).map_err(|error| wrong(&error))?;
        registrar.apply(edit).await.map_err(|error| wrong(&error))?;
        println!("line {number}: done");
    }
    Ok(())
}

fn machine(id: &MachineId) -> String {
    match (id.hostname.as_str(), id.address.as_str()) {
        (hostname, "") => hostname.to_owned(),
        ("", address) => address.to_owned(),
        (hostname, address) => format!("{hostname}/{address}"),
    }
}

/// Machines are keys of two parts, which JSON has not.
fn json(contents: &Contents) -> serde_json::Value {
    let registry = &contents.registry;
    let machines: BTreeMap<_, _> = registry
        .machines
        .iter()
        .map(|(id, mode)| (machine(id), mode))
        .collect();
    serde_json::json!({
        "sequence": contents.sequence,
        "records": contents.records,
        "bytes": contents.bytes,
        "master": registry.master,
        "agents": registry.agents,
        "unreachable": registry.unreachable,
        "gone": registry.gone,
        "frameworks": registry.frameworks,
        "quota": registry.quota,
        "weights": registry.weights,
        "machines": machines,
        "schedule": registry.schedule,
        "minimum_capabilities": registry.minimum_capabilities,
    })
}

fn table(contents: &Contents) -> String {
    use std::fmt::Write as _;
    let Registry {
        master,
        agents,
        unreachable,
        gone,
        frameworks,
        quota,
        weights,
        machines,
        schedule,
        minimum_capabilities,
    } = &contents.registry;
    let mut out = String::new();
    // Writing to a String can't fail.
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<13} {text}");
    };
    let (sequence, records, bytes) = (contents.sequence, contents.records, contents.bytes);
    line(
        "registry",
        format!("entry {sequence}, {records} records of {bytes} bytes since the last snapshot"),
    );
    if let Some(master) = master {
        line(
            "leader",
            format!("{} at {:?}, term {}", master.id, master.address, master.term),
        );
    }
    for (id, agent) in agents {
        let mut text = format!("{} {} {}", id.0, agent.record.hostname, agent.record.resources);
        if agent.standing.deactivated {
            text.push_str(" deactivated");
        }
        match &agent.standing.drain {
            Some(drain) if drain.drained => text.push_str(" drained"),
            Some(_) => text.push_str(" draining"),
            None => {}
        }
        if !agent.reserved.is_empty() {
            text.push_str(&format!(" reserved {}", agent.reserved));
        }
        line("agent", text);
    }
    for (id, agent) in unreachable {
        line("unreachable", format!("{} since {}", id.0, agent.since));
    }
    for (id, since) in gone {
        line("gone", format!("{} since {since}", id.0));
    }
    for (id, framework) in frameworks {
        line("framework", format!("{} {:?}", id.0, framework.name));
    }
    for (role, quota) in quota {
        let amounts = |of: &BTreeMap<String, model::resources::Scalar>| {
            let each: Vec<_> = of
                .iter()
                .map(|(name, amount)| format!("{name}:{amount}"))
                .collect();
            each.join(";")
        };
        let (guarantees, limits) = (amounts(&quota.guarantees), amounts(&quota.limits));
        line("quota", format!("{role} guarantees {guarantees} limits {limits}"));
    }
    for (role, weight) in weights {
        line("weight", format!("{role} {weight}"));
    }
    for (id, mode) in machines {
        line(
            "machine",
            format!("{} {}", machine(id), format!("{mode:?}").to_lowercase()),
        );
    }
    for window in schedule {
        let names: Vec<_> = window.machines.iter().map(machine).collect();
        line(
            "maintenance",
            format!("{} from {} ns", names.join(","), window.start_nanoseconds),
        );
    }
    for needed in minimum_capabilities {
        line("needs", needed.clone());
    }
    out
}
