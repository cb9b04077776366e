//! What a master says of itself to those who look for the leader.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// One leadership: the creation id (czxid) of the leader's election znode. Unique, and greater than that of every leadership before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Term(pub u64);

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A master's announcement: Mesos' `MasterInfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterInfo {
    /// Of one run of the program: another run has another one.
    pub id: String,
    /// Where it answers HTTP.
    pub ip: IpAddr,
    pub port: u16,
    pub hostname: String,
    pub version: String,
    /// Where agents and clients call it, when that is another port of the same address.
    pub rpc_port: Option<u16>,
    /// `AGENT_UPDATE`, `AGENT_DRAINING`, `QUOTA_V2`.
    pub capabilities: Vec<String>,
}

impl MasterInfo {
    /// Where it answers HTTP.
    pub fn http(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }

    /// Where it answers agents and clients.
    pub fn rpc(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.rpc_port.unwrap_or(self.port))
    }

    /// Its name in libprocess' form.
    pub fn pid(&self) -> String {
        format!("master@{}", self.http())
    }
}

/// Who leads, as far as can be known from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    pub info: MasterInfo,
    /// None where nobody elects: a fixed address, a file.
    pub term: Option<Term>,
}
