//! The agent's flags about its master.

use clap::Args;
use coordination::Place;
use model::resources::Attributes;

#[derive(Debug, Clone, Args)]
pub struct ClusterFlags {
    /// Master to take tasks from: HOST:PORT, zk://HOST:PORT,…/PATH or file:///PATH [default: none, this agent is alone]
    #[arg(long, value_name = "PLACE", env = "BULKHEAD_AGENT_MASTER")]
    pub master: Option<Place>,
    /// Name to be known by at the master [default: the host's]
    #[arg(long, value_name = "NAME", env = "BULKHEAD_HOSTNAME")]
    pub hostname: Option<String>,
    /// What this host is, for the master: NAME:VALUE;…
    #[arg(long, value_name = "LIST", env = "BULKHEAD_ATTRIBUTES")]
    pub attributes: Option<Attributes>,
    /// Talk to a master beyond loopback in plain text
    #[arg(long, env = "BULKHEAD_INSECURE")]
    pub insecure: bool,
}
