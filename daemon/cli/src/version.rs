//! `bulkhead version`: ours and the agent's.

use api::client_json;
use clap::Args;
use client::{Agent, Endpoint};
use model::{AgentInfo, Fault, FaultKind};
use serde::Serialize;

use crate::args::Format;
use crate::failure::Outcome;
use crate::human;
use crate::output::{print, print_json};
use crate::table::properties;

/// Show the version of this program and of the agent
///
/// Without an agent it still shows its own.
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {}

/// Both as JSON: a stable shape.
#[derive(Serialize)]
struct Versions {
    client: Client,
    agent: Option<client_json::Agent>,
    error: Option<client_json::Failure>,
}

#[derive(Serialize)]
struct Client {
    version: &'static str,
}

const OWN: &str = env!("CARGO_PKG_VERSION");

pub(crate) async fn version(endpoint: &Endpoint, format: Format) -> Outcome {
    let agent = match ask(endpoint).await {
        Err(fault) if fault.kind != FaultKind::Unavailable && fault.kind != FaultKind::Denied => {
            return Err(fault.into());
        }
        result => result,
    };
    match format {
        Format::Json => print_json(&Versions {
            client: Client { version: OWN },
            agent: agent.as_ref().ok().map(Into::into),
            error: agent.as_ref().err().map(Into::into),
        })?,
        Format::Table => print(&text(&agent))?,
    }
    Ok(0)
}

async fn ask(endpoint: &Endpoint) -> Result<AgentInfo, Fault> {
    Agent::connect(endpoint).await?.version().await
}

fn text(agent: &Result<AgentInfo, Fault>) -> String {
    let mut lines = vec![("bulkhead".to_owned(), OWN.to_owned())];
    match agent {
        Ok(info) => {
            lines.push(("agent".to_owned(), info.version.clone()));
            let built = format!("{} {}", info.git_sha, info.build_date);
            if !built.trim().is_empty() {
                lines.push(("built".to_owned(), built.trim().to_owned()));
            }
            lines.push(("instance".to_owned(), info.instance.clone()));
            lines.push(("pid".to_owned(), info.pid.to_string()));
            lines.push(("started".to_owned(), human::timestamp(info.started_at_ms)));
        }
        Err(fault) => lines.push(("agent".to_owned(), format!("none ({fault})"))),
    }
    properties(&lines)
}
