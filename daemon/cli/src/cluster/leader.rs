//! `bulkhead leader`: who leads the cluster.

use clap::Args;

use super::At;
use crate::args::Format;
use crate::failure::Outcome;
use crate::human;
use crate::output::{print, print_json};

/// Show who leads the cluster
#[derive(Debug, Args)]
pub(crate) struct LeaderArgs {
    #[command(flatten)]
    pub at: At,
}

pub(crate) async fn leader(args: LeaderArgs) -> Outcome {
    let format = args.at.format()?;
    let leader = args.at.connect().await?.leader().await?;
    match format {
        Format::Json => print_json(&api::client_json::Leader::from(&leader))?,
        Format::Table => {
            let age = human::age(net::wall_ms().saturating_sub(leader.elected_at_ms));
            print(&format!(
                "{}  {}  version {}, term {}, for {age}\n",
                leader.address, leader.hostname, leader.version, leader.term
            ))?;
        }
    }
    Ok(0)
}
