//! The agent, acting: the isolation daemon of one host.
//!
//! `agent-core` decides; this crate wires it to the kernel (through `isolators` and `container`), to clients
//! (Cap'n Proto, HTTP) and to disk. Everything runs on one loop; what may block runs on a worker.

mod about;
mod admission;
mod bandwidth_flags;
mod cgroup_place;
mod changed;
mod checkpoint;
mod cluster;
mod config;
mod connections;
mod container_service;
mod destroy;
mod disk;
mod disk_flags;
pub mod endpoints;
mod events;
mod exec;
mod explain;
mod failpoint;
mod gc;
mod id_pool;
mod launch;
mod launcher_link;
mod leftovers;
mod metrics;
mod network_pool;
mod output;
mod paths;
mod port_flags;
mod port_watch;
mod privileges;
mod recovery;
mod resources;
mod server;
mod service;
mod shell;
mod sink;
mod statistics;
mod stdin;
mod turns;
mod uplinks;
mod work_dir;

use std::io::IsTerminal;
use std::process::ExitCode;

pub use config::{Config, ConfigError, command};

/// Steps that tests can make fail.
pub use failpoint::STEPS as FAILPOINTS;

/// Runs `bulkhead agent` with the flags of [`command`].
pub fn main(matches: &clap::ArgMatches) -> ExitCode {
    let config = match config::Config::from_matches(matches) {
        Ok(config) => config,
        Err(config::ConfigError::Flags(error)) => error.exit(),
        Err(error) => {
            let fault = model::Fault::from_error(model::FaultKind::Invalid, &error);
            eprintln!("bulkhead: agent: {fault}");
            return ExitCode::from(2);
        }
    };
    // What ZooKeeper's client says of each attempt is said once for each state by `coordination`.
    let filter = format!("zookeeper_client=off,{}", config.log);
    let filter = match tracing_subscriber::EnvFilter::try_new(filter) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("bulkhead: agent: --log {:?}: {error}", config.log);
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
