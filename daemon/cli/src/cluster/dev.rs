//! `bulkhead dev`: a cluster of one host, to try everything: a master and an agent on loopback.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, ExitCode};
use std::time::Duration;

use clap::{ArgMatches, Args, Command, FromArgMatches};
use client::master::{Access, CREDENTIAL_DEFAULT, CREDENTIAL_VARIABLE, MASTER_DEFAULT, MASTER_VARIABLE};
use client::{Endpoint, Master};
use model::task::AgentState;
use model::{Fault, FaultKind};
use net::{Signal, Signals};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::output::complain;

/// Run a master and an agent on loopback, in the foreground
///
/// Ctrl-C stops both; containers run on, and the next start finds them again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead dev                                   # in one terminal
  bulkhead task run -- echo hello                # in another
  bulkhead dev --directory /tmp/b --port 6050    # a second one, with BULKHEAD_MASTER=127.0.0.1:6050")]
struct DevArgs {
    /// Keep everything below this directory [default: the default places of master and agent]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Port of the master
    #[arg(long, value_name = "PORT", default_value_t = 5050)]
    port: u16,
    /// Address of the agent's HTTP server, or none [default: the agent's]
    #[arg(long, value_name = "ADDRESS")]
    http: Option<String>,
    /// error, warn, info, debug, trace, or a filter
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log: String,
}

/// Until the agent has registered.
const READY: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

pub fn command() -> Command {
    DevArgs::augment_args(Command::new("dev")).display_order(0)
}

pub fn main(matches: &ArgMatches) -> ExitCode {
    let args = match DevArgs::from_arg_matches(matches) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    // They are the loop's from here on. The children take theirs by themselves.
    if let Err(error) = net::block_signals(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD]) {
        complain(&format!("bulkhead: dev: block signals: {error}"));
        return ExitCode::from(125);
    }
    let ran = net::run(net::Config::default(), run(args));
    match ran.unwrap_or_else(|error| Err(Fault::from_error(FaultKind::Failed, &error))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            complain(&format!("bulkhead: dev: {fault}"));
            ExitCode::from(125)
        }
    }
}

/// Ends with its handle.
struct Daemon {
    name: &'static str,
    child: Child,
}

impl Daemon {
    fn start(name: &'static str, flags: &[String]) -> Result<Self, Fault> {
        let failed = |error: io::Error| Fault::failed(format!("start the {name}: {error}"));
        let program = std::env::current_exe().map_err(failed)?;
        let child = Program::new(program)
            .arg(name)
            .args(flags)
            .spawn()
            .map_err(failed)?;
        Ok(Self { name, child })
    }

    fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(format!("the {} has ended: {status}", self.name))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It may end at this very moment, and its number stays taken until it is waited for.
            let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

async fn run(args: DevArgs) -> Result<(), Fault> {
    let mut signals = Signals::new(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD])
        .map_err(|error| Fault::failed(format!("watch signals: {error}")))?;
    let mut master_flags = vec![format!("--port={}", args.port), format!("--log={}", args.log)];
    let address = format!("127.0.0.1:{}", args.port);
    let mut agent_flags = vec![format!("--master={address}"), format!("--log={}", args.log)];
    let mut credential = PathBuf::from(CREDENTIAL_DEFAULT);
    if let Some(directory) = &args.directory {
        let directory = std::path::absolute(directory)
            .map_err(|error| Fault::invalid("--directory", error.to_string()))?;
        let below = |name: &str| directory.join(name).display().to_string();
        master_flags.push(format!("--work-dir={}", below("master")));
        credential = directory.join("master/credential");
        agent_flags.push(format!("--work-dir={}", below("work")));
        agent_flags.push(format!("--runtime-dir={}", below("run")));
    }
    agent_flags.push(format!("--credential={}", credential.display()));
    if let Some(http) = &args.http {
        agent_flags.push(format!("--http={http}"));
    }
    let mut master = Daemon::start("master", &master_flags)?;
    let mut agent = Daemon::start("agent", &agent_flags)?;
    let greeting = net::spawn(greet(address, credential));
    loop {
        let signal = signals
            .next()
            .await
            .map_err(|error| Fault::failed(format!("read signals: {error}")))?;
        if let Some(why) = master.ended().or_else(|| agent.ended()) {
            return Err(Fault::failed(why).remedy("see what it said above"));
        }
        if !signal.is(Signal::SIGCHLD) {
            drop(greeting);
            return Ok(());
        }
    }
}

async fn greet(address: String, credential: PathBuf) {
    let Ok(endpoint) = address.parse::<Endpoint>() else {
        return;
    };
    let deadline = net::now() + READY;
    while net::now() < deadline {
        // Made by the master's first start.
        let known = std::fs::read_to_string(&credential).ok();
        let access = Access {
            credential: known.and_then(|text| api::credentials::one(&text).ok()),
            tls: None,
        };
        if let Ok(master) = Master::connect(std::slice::from_ref(&endpoint), &access).await
            && let Ok(agents) = master.agents().await
            && agents.iter().any(|agent| agent.state == AgentState::Active)
        {
            let mut name = match address.as_str() {
                MASTER_DEFAULT => String::new(),
                other => format!("{MASTER_VARIABLE}={other} "),
            };
            if credential != Path::new(CREDENTIAL_DEFAULT) {
                name.push_str(&format!("{CREDENTIAL_VARIABLE}={} ", credential.display()));
            }
            complain(&format!("ready; try: {name}bulkhead task run -- echo hello"));
            return;
        }
        net::sleep(LOOK).await;
    }
}
