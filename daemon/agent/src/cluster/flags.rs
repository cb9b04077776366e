//! The agent's flags about its master.

use std::path::PathBuf;

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
    /// File with {"principal":NAME,"secret":SECRET} for the master [default: that of a master on this host, if it is at its
    /// default place]
    #[arg(long, value_name = "FILE", env = "BULKHEAD_CREDENTIAL")]
    pub credential: Option<PathBuf>,
    /// Directory with ca.pem, certificate.pem and key.pem (see bulkhead tls init) for talking to a master by TLS; read for
    /// each connection
    #[arg(long, value_name = "DIR", env = "BULKHEAD_TLS")]
    pub tls: Option<PathBuf>,
    /// Talk to a master beyond loopback in plain text
    #[arg(long, env = "BULKHEAD_INSECURE")]
    pub insecure: bool,
}
