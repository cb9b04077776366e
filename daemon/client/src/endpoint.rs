//! Where an agent is, and who asks.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use model::Fault;

/// Names the agent that a command talks to.
pub const AGENT_VARIABLE: &str = "BULKHEAD_AGENT";
/// Holds the secret for an agent behind TCP: in the environment, since arguments are public.
pub const TOKEN_VARIABLE: &str = "BULKHEAD_TOKEN";
/// Socket of the default instance.
pub const SOCKET_DEFAULT: &str = "/run/bulkhead/agent.sock";
/// sun_path of unix(7) has 108 bytes with the closing zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// An agent's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Unix(PathBuf),
    Tcp { host: String, port: u16 },
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("is empty")]
    Empty,
    #[error("socket path {path:?} is not absolute")]
    RelativePath { path: String },
    #[error("socket path of {bytes} bytes is too long (limit of the kernel: {SOCKET_PATH_BYTES_MAX})")]
    PathTooLong { bytes: usize },
    #[error("{text:?} is not unix:/PATH, tcp:HOST:PORT, HOST:PORT or /PATH")]
    Form { text: String },
    #[error("{port:?} is not a port (1 to 65535)")]
    Port { port: String },
}

impl Endpoint {
    /// What `BULKHEAD_AGENT` says, else the default instance on this host.
    pub fn from_env() -> Result<Self, Fault> {
        match std::env::var(AGENT_VARIABLE) {
            Ok(text) if !text.is_empty() => text.parse().map_err(|error: EndpointError| {
                Fault::invalid(AGENT_VARIABLE, error.to_string())
                    .remedy(format!("for example: unix:{SOCKET_DEFAULT}"))
            }),
            Ok(_) | Err(std::env::VarError::NotPresent) => Ok(Self::default()),
            Err(std::env::VarError::NotUnicode(_)) => Err(Fault::invalid(AGENT_VARIABLE, "is not UTF-8")),
        }
    }
}

impl Default for Endpoint {
    fn default() -> Self {
        Self::Unix(SOCKET_DEFAULT.into())
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;
    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if text.is_empty() {
            return Err(EndpointError::Empty);
        }
        if let Some(path) = text
            .strip_prefix("unix://")
            .or_else(|| text.strip_prefix("unix:"))
        {
            return socket(path);
        }
        if text.starts_with('/') {
            return socket(text);
        }
        let address = text
            .strip_prefix("tcp://")
            .or_else(|| text.strip_prefix("tcp:"))
            .unwrap_or(text);
        let form = || EndpointError::Form {
            text: text.to_owned(),
        };
        let (host, port) = address.rsplit_once(':').ok_or_else(form)?;
        // An IPv6 address has colons of its own and stands in brackets.
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(inner) => inner,
            None if host.contains(':') => return Err(form()),
            None => host,
        };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
            return Err(form());
        }
        match port.parse() {
            Ok(number) if number != 0 => Ok(Self::Tcp {
                host: host.to_owned(),
                port: number,
            }),
            _ => Err(EndpointError::Port {
                port: port.to_owned(),
            }),
        }
    }
}

fn socket(path: &str) -> Result<Endpoint, EndpointError> {
    if !path.starts_with('/') {
        return Err(EndpointError::RelativePath {
            path: path.to_owned(),
        });
    }
    if path.len() > SOCKET_PATH_BYTES_MAX {
        return Err(EndpointError::PathTooLong { bytes: path.len() });
    }
    // With two slashes it would print as `unix://…`, which is read without them.
    let path = format!("/{}", path.trim_start_matches('/'));
    Ok(Endpoint::Unix(path.into()))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
        }
    }
}

/// Who asks.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Name of the program, for the agent's log.
    pub client: String,
    /// Needed over TCP; over a unix socket the agent asks the kernel who we are.
    pub token: Vec<u8>,
}

impl Credentials {
    /// The token of `BULKHEAD_TOKEN`, if it is set.
    pub fn from_env() -> Self {
        let token = std::env::var(TOKEN_VARIABLE).unwrap_or_default();
        Self {
            client: "bulkhead".into(),
            token: token.into_bytes(),
        }
    }
}

impl fmt::Debug for Credentials {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_written_form_is_understood() {
        for (text, printed) in [
            ("unix:/run/a.sock", "unix:/run/a.sock"),
            ("unix:///run/a.sock", "unix:/run/a.sock"),
            ("/run/a.sock", "unix:/run/a.sock"),
            // Found by fuzzing: this printed as `unix://a.sock`, which is no address.
            ("//a.sock", "unix:/a.sock"),
            ("tcp:host:5051", "tcp:host:5051"),
            ("tcp://10.0.0.1:1", "tcp:10.0.0.1:1"),
            ("localhost:5051", "tcp:localhost:5051"),
            ("[::1]:5051", "tcp:[::1]:5051"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), printed);
            assert_eq!(printed.parse::<Endpoint>().unwrap(), endpoint);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for bad in [
            "",
            "unix:",
            "unix:run/a",
            "host",
            "host:",
            "host:0",
            "host:65536",
            ":1",
            "::1:5",
            "tcp:",
            "a b:1",
            "h/x:1",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad:?}");
        }
        let long = format!("/{}", "a".repeat(SOCKET_PATH_BYTES_MAX));
        assert_eq!(
            long.parse::<Endpoint>(),
            Err(EndpointError::PathTooLong { bytes: 108 })
        );
    }

    #[test]
    fn a_token_is_never_printed() {
        let credentials = Credentials {
            client: "test".into(),
            token: b"hunter2".to_vec(),
        };
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}
