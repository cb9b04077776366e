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
use coordination::{Detector, Place, Settings};
use model::{Credential, Fault, FaultKind};

use crate::args::Format;
use crate::failure::{Failure, Outcome};
use crate::verbs::format;

/// Names the directory with our certificates.
const TLS_VARIABLE: &str = "BULKHEAD_TLS";
/// Before a leader that does not lead yet is asked again.
const PAUSE: Duration = Duration::from_millis(200);
/// Nothing of ours is kept alive by it: a server that says nothing is soon left for another one.
const SESSION: Duration = Duration::from_secs(4);
/// While an election goes on nobody answers.
const PATIENCE: Duration = Duration::from_secs(15);

/// What all of these take.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct At {
    /// Masters: HOST:PORT,…, or where their leader is announced: zk://HOST:PORT,…/PATH, file:///PATH
    /// [env: BULKHEAD_MASTER] [default: 127.0.0.1:5050]
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

    fn masters(&self) -> Result<Masters, Fault> {
        let (text, field) = match (&self.master, std::env::var(MASTER_VARIABLE)) {
            (Some(text), _) => (text.clone(), "--master"),
            (None, Ok(text)) if !text.is_empty() => (text, MASTER_VARIABLE),
            (None, _) => (MASTER_DEFAULT.to_owned(), "--master"),
        };
        if text.contains("://") && !text.starts_with("tcp://") {
            let place = text.parse::<Place>();
            return place
                .map(Masters::At)
                .map_err(|error| Fault::from_error(FaultKind::Invalid, &error).field(field));
        }
        let wrong = || {
            let shown = coordination::without_password(&text);
            Fault::invalid(field, format!("{shown:?} names no master"))
                .remedy("give HOST:PORT,… of masters, zk://[USER:PASSWORD@]HOST:PORT,…/PATH, or file:///PATH")
        };
        text.split(',')
            .map(|part| part.trim().parse().map_err(|_| wrong()))
            .collect::<Result<_, _>>()
            .map(Masters::Named)
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
        let masters = self.masters()?;
        let access = Access {
            credential: self.credential()?,
            tls: self.tls()?,
        };
        let endpoints = match masters {
            Masters::Named(endpoints) => endpoints,
            Masters::At(place) => return elected(place, &access).await,
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

enum Masters {
    Named(Vec<Endpoint>),
    At(Place),
}

/// The leader that is announced at a place, as soon as there is one that lets us in.
async fn elected(place: Place, access: &Access) -> Result<Master, Fault> {
    let shown = place.to_string();
    let settings = Settings {
        session_timeout: SESSION,
    };
    let mut detector = Detector::start(place, settings);
    let deadline = net::now() + PATIENCE;
    let mut last = None;
    loop {
        if let Some(leader) = detector.leader() {
            let address = leader.info.rpc();
            let endpoint = Endpoint::Tcp {
                host: address.ip().to_string(),
                port: address.port(),
            };
            match Master::connect(&[endpoint], access).await {
                // It is elected, and may not lead yet, or may just have died.
                Err(fault) if fault.kind == FaultKind::Unavailable => last = Some(fault),
                result => return result,
            }
        }
        let left = deadline.saturating_duration_since(net::now());
        if left.is_zero() {
            let patience = PATIENCE.as_secs();
            let unknown = detector
                .trouble()
                .map(|trouble| format!("ask {shown} who leads: {trouble}"));
            return Err(last.filter(|_| unknown.is_none()).unwrap_or_else(|| {
                let message =
                    unknown.unwrap_or_else(|| format!("{shown} knows of no leader for {patience} s"));
                Fault::new(FaultKind::Unavailable, message)
                    .remedy("check the address and the path, and that masters run with the same --zk")
            }));
        }
        let pause = if last.is_some() { left.min(PAUSE) } else { left };
        let _changed = net::timeout(pause, detector.changed()).await;
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
        Err(error) => return crate::verbs::usage_error(error, &[]),
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
