//! `bulkhead drain`: empty an agent.

use std::io::{self, IsTerminal};
use std::pin::pin;
use std::time::Duration;

use clap::Args;
use client::Agent;
use futures::future::{Either, select};
use model::Millis;
use model::launch::GRACE_DEFAULT;
use serde::Serialize;

use crate::args::Format;
use crate::failure::Outcome;
use crate::output::{complain, print, print_json};

/// Refuse further launches and kill every container gracefully
///
/// Returns when all are gone. The agent goes on refusing until it is restarted.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead drain
  bulkhead drain --grace 1m")]
pub(crate) struct DrainArgs {
    /// Time between SIGTERM and SIGKILL
    #[arg(long, value_name = "TIME", default_value_t = GRACE_DEFAULT)]
    grace: Millis,
}

/// A person wonders after so long.
const SILENT: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Drained {
    killed: u32,
}

pub(crate) async fn drain(agent: &Agent, format: Format, args: DrainArgs) -> Outcome {
    let drain = pin!(agent.drain(args.grace));
    let killed = match select(drain, pin!(net::sleep(SILENT))).await {
        Either::Left((killed, _)) => killed?,
        Either::Right(((), drain)) => {
            if io::stderr().is_terminal() {
                complain(&format!(
                    "waiting for the containers to end, up to {} each …",
                    args.grace
                ));
            }
            drain.await?
        }
    };
    match format {
        Format::Json => print_json(&Drained { killed })?,
        Format::Table => print(&format!("drained; containers killed: {killed}\n"))?,
    }
    Ok(0)
}
