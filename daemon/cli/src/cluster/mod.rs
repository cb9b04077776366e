//! The verbs of a person at a cluster's master.

mod agents;
pub mod dev;
mod leader;
mod run;
mod task;
mod tasks;
pub mod tls;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand};
use client::master::{Access, CREDENTIAL_DEFAULT, CREDENTIAL_VARIABLE, MASTER_DEFAULT, MASTER_VARIABLE};
use client::{Endpoint, Master};
use model::{Credential, Fault, FaultKind};

use crate::args::Format;
use crate::failure::{Failure, Outcome};
use crate::verbs::format;

/// Names the directory with our certificates.
const TLS_VARIABLE: &str = "BULKHEAD_TLS";
/// While an election goes on nobody answers.
const PATIENCE: Duration = Duration::from_secs(15);

/// What all of these take.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct At {
    /// Masters: HOST:PORT,… [env: BULKHEAD_MASTER] [default: 127.0.0.1:5050]
    #[arg(long, value_name = "HOST:PORT,…")]
    master: Option<String>,
    /// File with the credential for the master [env: BULKHEAD_CREDENTIAL] [default: that of a master on this host]
    #[arg(long, value_name = "FILE")]
    credential: Option<PathBuf>,
    /// Directory with ca.pem, certificate.pem and key.pem, for masters that ask for TLS [env: BULKHEAD_TLS]
    #[arg(long, value_name = "DIR")]
    tls: Option<PathBuf>,
    /// Form of the answer: table or json [env: BULKHEAD_OUTPUT]
    #[arg(short, long, value_name = "FORM", value_enum, hide_possible_values = true)]
    output: Option<Format>,
}

impl At {
    fn format(&self) -> Result<Format, Fault> {
        format(self.output)
    }

    fn endpoints(&self) -> Result<Vec<Endpoint>, Fault> {
        let (text, field) = match (&self.master, std::env::var(MASTER_VARIABLE)) {
            (Some(text), _) => (text.clone(), "--master"),
            (None, Ok(text)) if !text.is_empty() => (text, MASTER_VARIABLE),
            (None, _) => (MASTER_DEFAULT.to_owned(), "--master"),
        };
        if text.starts_with("zk://") {
            let fault = Fault::unsupported(field, "clients do not ask ZooKeeper who leads");
            return Err(fault.remedy("name the masters: HOST:PORT,HOST:PORT,HOST:PORT"));
        }
        let wrong = |part: &str, error: client::EndpointError| {
            let fault = Fault::invalid(field, format!("{part:?}: {error}"));
            fault.remedy(format!("for example: {MASTER_DEFAULT}"))
        };
        text.split(',')
            .map(|part| part.trim().parse().map_err(|error| wrong(part, error)))
            .collect()
    }

    fn credential(&self) -> Result<Option<Credential>, Fault> {
        let given = std::env::var_os(CREDENTIAL_VARIABLE).filter(|path| !path.is_empty());
        let default = PathBuf::from(CREDENTIAL_DEFAULT);
        let path = match (&self.credential, given) {
            (Some(path), _) => path.clone(),
            (None, Some(path)) => path.into(),
            (None, None) if default.exists() => default,
            (None, None) => return Ok(None),
        };
        let wrong = |message: String| Fault::invalid("credential", format!("{}: {message}", path.display()));
        let text = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
        api::credentials::one(&text)
            .map(Some)
            .map_err(|error| wrong(error.to_string()))
    }

    fn tls(&self) -> Result<Option<net::Tls>, Fault> {
        let given = std::env::var_os(TLS_VARIABLE).filter(|path| !path.is_empty());
        let Some(directory) = self.tls.clone().or(given.map(PathBuf::from)) else {
            return Ok(None);
        };
        let files = net::TlsFiles::in_directory(&directory);
        let tls = net::Tls::load(&files);
        tls.map(Some)
            .map_err(|error| Fault::from_error(FaultKind::Invalid, &error).field("tls"))
    }

    async fn connect(&self) -> Result<Master, Fault> {
        let endpoints = self.endpoints()?;
        let access = Access {
            credential: self.credential()?,
            tls: self.tls()?,
        };
        match Master::connect(&endpoints, &access).await {
            // Only an election is worth waiting for, not a wrong address.
            Err(fault) if fault.kind == FaultKind::Unavailable && fault.message.contains("does not lead") => {
                Master::connect_retry(&endpoints, &access, PATIENCE).await
            }
            result => result,
        }
    }
}

#[derive(Debug, Subcommand)]
enum ClusterVerb {
    Agents(agents::AgentsArgs),
    Tasks(tasks::TasksArgs),
    Task(task::TaskArgs),
    Leader(leader::LeaderArgs),
}

/// The verbs, for the program to add to its own.
pub fn commands() -> Vec<Command> {
    let all = ClusterVerb::augment_subcommands(Command::new("bulkhead"));
    all.get_subcommands().cloned().collect()
}

/// Whether a verb is one of these.
pub fn is_verb(name: &str) -> bool {
    ClusterVerb::has_subcommand(name)
}

/// Runs one.
pub fn main(matches: &ArgMatches) -> ExitCode {
    let verb = match ClusterVerb::from_arg_matches(matches) {
        Ok(verb) => verb,
        Err(error) => return crate::verbs::usage_error(&error, &[]),
    };
    let (name, at) = match &verb {
        ClusterVerb::Agents(args) => ("agents", args.at().clone()),
        ClusterVerb::Tasks(args) => ("tasks", args.at.clone()),
        ClusterVerb::Task(args) => (args.name(), args.at().clone()),
        ClusterVerb::Leader(args) => ("leader", args.at.clone()),
    };
    let told = at.format().unwrap_or(Format::Table);
    let outcome = match net::run(net::Config::default(), on_loop(verb)) {
        Ok(outcome) => outcome,
        Err(error) => Err(Failure::from(Fault::from_error(FaultKind::Failed, &error))),
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            failure.tell(name, told);
            ExitCode::from(failure.status(name.strip_prefix("task ").unwrap_or(name)))
        }
    }
}

async fn on_loop(verb: ClusterVerb) -> Outcome {
    match verb {
        ClusterVerb::Agents(args) => agents::agents(args).await,
        ClusterVerb::Tasks(args) => tasks::tasks(args).await,
        ClusterVerb::Task(args) => task::task(args).await,
        ClusterVerb::Leader(args) => leader::leader(args).await,
    }
}
