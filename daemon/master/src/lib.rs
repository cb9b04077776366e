//! The master, acting: a cluster's registry, its agents, and where tasks go.
//!
//! `master-core` decides; this crate wires it to the registry on the replicated log, to the election, to agents and clients
//! (Cap'n Proto) and to monitoring (HTTP), all on one port and one loop.

mod config;
mod door;
mod election;
mod endpoints;
mod gate;
mod keys;
mod leader;
mod log;
mod operator;
mod server;

use std::io::IsTerminal;
use std::process::ExitCode;

pub use config::{Config, command};

pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs `bulkhead master` with the flags of [`command`].
pub fn main(matches: &clap::ArgMatches) -> ExitCode {
    let config = match Config::from_matches(matches) {
        Ok(config) => config,
        Err(error) => error.exit(),
    };
    // What ZooKeeper's client says of each attempt is said once for each state by `coordination`.
    let filter = format!("zookeeper_client=off,{}", config.flags.log);
    let filter = match tracing_subscriber::EnvFilter::try_new(filter) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("bulkhead: master: --log {:?}: {error}", config.flags.log);
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    server::run(config)
}
