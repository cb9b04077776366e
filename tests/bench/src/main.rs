//! `scripts/bench NAME`: how the product compares with the least the kernel allows and with the programs that people use
//! today. Method and traps: docs/benchmarks.md.

mod agent;
mod floor;
mod launch;
mod log;
mod master;
mod net;
mod peers;
mod ping;
mod ping_net;
mod ping_tokio;
mod proc;
mod product;
mod recover;
mod report;
mod rpc;
mod sample;
mod stats;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use report::Report;

#[derive(Parser)]
#[command(name = "bench", about = "Measures Bulkhead against its floor and its peers")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Launch to removed, against a hand-written floor, crun, runc and bubblewrap.
    Launch {
        #[command(flatten)]
        how: How,
        /// Measure the others only.
        #[arg(long)]
        without_product: bool,
    },
    /// Statistics, memory and processor time of a thousand idle containers.
    Stats {
        #[command(flatten)]
        how: How,
    },
    /// From the start of an agent to its first answer: with a thousand running containers to take over, and with none.
    Recover {
        #[command(flatten)]
        how: How,
    },
    /// A ping over the event loop and Cap'n Proto, against a bare echo and tokio.
    Rpc {
        #[command(flatten)]
        how: How,
    },
    /// Mapped containers against the host itself, a bridge and u32 filters; how exact ceilings are.
    Net {
        #[command(flatten)]
        how: How,
        /// Only this part of it.
        #[arg(long)]
        only: Option<net::Part>,
        /// Of "ceilings", this one only.
        #[arg(long, value_name = "MBITS")]
        ceiling: Option<u64>,
    },
    /// Appends to the replicated log, against etcd, ZooKeeper and a bare quorum write.
    Log {
        #[command(flatten)]
        how: How,
    },
    /// Fifty thousand agents at one master: registration, and again with their tasks after its death.
    #[command(alias = "cluster")]
    Master {
        #[command(flatten)]
        how: How,
    },
    /// Clients and a writer of that benchmark.
    #[command(hide = true)]
    LogOwn {
        directory: std::path::PathBuf,
        addresses: Vec<String>,
    },
    #[command(hide = true)]
    EtcdDrive { addresses: Vec<String> },
    #[command(hide = true)]
    ZookeeperDrive { addresses: Vec<String> },
    /// One side of the RPC benchmark.
    #[command(hide = true)]
    PingServer { event_loop: EventLoop, address: String },
    #[command(hide = true)]
    PingClient { event_loop: EventLoop, address: String },
    /// A client that launches on command.
    #[command(hide = true)]
    Drive {
        socket: std::path::PathBuf,
        network: String,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum EventLoop {
    Tokio,
    Net,
}

#[derive(clap::Args)]
struct How {
    /// One JSON object a line on stdout; the tables go to stderr.
    #[arg(long)]
    json: bool,
    /// Fewer rounds: minutes become seconds, the figures become rough.
    #[arg(long)]
    quick: bool,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().what {
        What::Launch { how, without_product } => {
            let options = launch::Options {
                quick: how.quick,
                without_product,
            };
            reported("launch", &how, |report| launch::run(report, &options))
        }
        What::Stats { how } => reported("stats", &how, |report| stats::run(report, how.quick)),
        What::Recover { how } => reported("recover", &how, |report| recover::run(report, how.quick)),
        What::Net { how, only, ceiling } => {
            reported("net", &how, |report| net::run(report, how.quick, only, ceiling))
        }
        What::Rpc { how } => reported("rpc", &how, |report| rpc::run(report, how.quick)),
        What::Log { how } => reported("log", &how, |report| log::run(report, how.quick)),
        What::Master { how } => reported("master", &how, |report| master::run(report, how.quick)),
        What::LogOwn { directory, addresses } => log::own::drive(&directory, &addresses),
        What::EtcdDrive { addresses } => log::etcd::drive(&addresses),
        What::ZookeeperDrive { addresses } => log::zookeeper::drive(&addresses),
        What::PingServer { event_loop, address } => match event_loop {
            EventLoop::Net => ping_net::serve(&address),
            EventLoop::Tokio => ping_tokio::serve(&address),
        },
        What::PingClient { event_loop, address } => match event_loop {
            EventLoop::Net => ping_net::drive(&address),
            EventLoop::Tokio => ping_tokio::drive(&address),
        },
        What::Drive { socket, network } => product::drive(&socket, &network),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("bench: {cause}");
            ExitCode::FAILURE
        }
    }
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn reported(name: &'static str, how: &How, measure: impl FnOnce(&mut Report) -> Outcome) -> Outcome {
    let mut report = Report::new(name, how.json);
    measure(&mut report)?;
    report.finish();
    Ok(())
}
