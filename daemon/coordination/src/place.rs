//! Where a leader is looked for: the argument of `--zk` and `--master` (pure).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

const ZOOKEEPER_PORT: u16 = 2181;
const FORM: &str = "zk://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]/PATH";

/// A ZooKeeper ensemble and the znode below which the election is held.
#[derive(Clone, PartialEq, Eq)]
pub struct ZkUrl {
    credentials: Option<(String, String)>,
    servers: Vec<HostPort>,
    path: String,
}

impl ZkUrl {
    /// User and password, for digest authentication.
    pub fn credentials(&self) -> Option<(&str, &str)> {
        self.credentials
            .as_ref()
            .map(|(user, password)| (user.as_str(), password.as_str()))
    }

    pub fn servers(&self) -> &[HostPort] {
        &self.servers
    }

    /// Absolute, without a slash at its end, never the root.
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// A host's name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

/// Where to look for the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    ZooKeeper(ZkUrl),
    /// One master at a known address.
    Standalone(HostPort),
    /// A file that holds one of the other two forms, or a master's JSON; read again when it changes.
    File(PathBuf),
}

/// Why a text names no place. Never holds a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    #[error("{text:?} names no master: give {FORM}, HOST:PORT, or file:///PATH")]
    Form { text: String },
    #[error("{url:?} names no ZooKeeper server: give {FORM}")]
    NoServers { url: String },
    #[error("{url:?}: {server:?} is no HOST:PORT")]
    Server { url: String, server: String },
    #[error(
        "{url:?} names no path: masters that belong together share one, such as /mesos; the root itself can't be used"
    )]
    RootPath { url: String },
    #[error("{url:?}: the path {path:?} {wrong}")]
    Path {
        url: String,
        path: String,
        wrong: &'static str,
    },
    #[error("{url:?}: the part before @ is no USER:PASSWORD; both have to be there")]
    Credentials { url: String },
    #[error("{text:?}: a file is named by its absolute path, as file:///PATH")]
    RelativeFile { text: String },
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        if text.starts_with("zk://") {
            return text.parse().map(Self::ZooKeeper);
        }
        if let Some(path) = text.strip_prefix("file://") {
            if !path.starts_with('/') {
                return Err(PlaceError::RelativeFile {
                    text: text.to_owned(),
                });
            }
            return Ok(Self::File(path.into()));
        }
        let wrong = || PlaceError::Form {
            text: without_password(text),
        };
        if text.contains("://") {
            return Err(wrong());
        }
        HostPort::parse(text, None)
            .map(Self::Standalone)
            .ok_or_else(wrong)
    }
}

impl FromStr for ZkUrl {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let url = without_password(text);
        let rest = text
            .strip_prefix("zk://")
            .ok_or_else(|| PlaceError::Form { text: url.clone() })?;
        let (authority, path) = match rest.rfind('@') {
            // A password may hold slashes.
            Some(at) => match rest[at..].find('/') {
                Some(slash) => rest.split_at(at + slash),
                None => (rest, ""),
            },
            None => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        };
        let (credentials, servers) = match authority.rsplit_once('@') {
            Some((credentials, servers)) => {
                let pair = credentials
                    .split_once(':')
                    .filter(|(user, password)| !user.is_empty() && !password.is_empty());
                let (user, password) = pair.ok_or_else(|| PlaceError::Credentials { url: url.clone() })?;
                (Some((user.to_owned(), password.to_owned())), servers)
            }
            None => (None, authority),
        };
        if servers.is_empty() {
            return Err(PlaceError::NoServers { url });
        }
        let server = |server: &str| {
            let (url, text) = (url.clone(), server.to_owned());
            HostPort::parse(server, Some(ZOOKEEPER_PORT)).ok_or(PlaceError::Server { url, server: text })
        };
        let servers = servers.split(',').map(server).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            credentials,
            servers,
            path: path_of(&url, path)?,
        })
    }
}

/// As ZooKeeper itself would have it, so that a bad one is told before it is tried (PathUtils.validatePath).
fn path_of(url: &str, path: &str) -> Result<String, PlaceError> {
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() {
        return Err(PlaceError::RootPath { url: url.to_owned() });
    }
    let wrong = |wrong| PlaceError::Path {
        url: url.to_owned(),
        path: path.to_owned(),
        wrong,
    };
    for name in path.split('/').skip(1) {
        match name {
            "" => return Err(wrong("has an empty name in it: two slashes follow each other")),
            "." | ".." => return Err(wrong("has . or .. as a name in it")),
            _ if name.chars().any(char::is_control) => return Err(wrong("has a control character in it")),
            _ => {}
        }
    }
    if path.starts_with("/zookeeper/") || path == "/zookeeper" {
        return Err(wrong("is in /zookeeper, which belongs to ZooKeeper itself"));
    }
    Ok(path.to_owned())
}

/// What somebody has written instead of a place, to be shown to him: the part before an @ may hold a password.
pub fn without_password(text: &str) -> String {
    let Some((front, back)) = text.rsplit_once('@') else {
        return text.to_owned();
    };
    // Of `--zk=zk://…` and the like, too.
    let (before, rest) = match front.find("://") {
        Some(at) => front.split_at(at + 3),
        None => ("", front),
    };
    let user = rest.split(':').next().unwrap_or_default();
    format!("{before}{user}:...@{back}")
}

impl HostPort {
    fn parse(text: &str, default_port: Option<u16>) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<core::net::Ipv6Addr>().ok()?;
                (
                    host,
                    if port.is_empty() {
                        None
                    } else {
                        Some(port.strip_prefix(':')?)
                    },
                )
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        let port = match port {
            Some(port) => port.parse().ok(),
            None => default_port,
        };
        (!host.is_empty() && host.chars().all(legal)).then_some(())?;
        let port = port.filter(|port| *port != 0)?;
        Some(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Without the password.
impl fmt::Display for ZkUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("zk://")?;
        if let Some((user, _)) = &self.credentials {
            write!(f, "{user}:...@")?;
        }
        for (number, server) in self.servers.iter().enumerate() {
            write!(f, "{}{server}", if number == 0 { "" } else { "," })?;
        }
        f.write_str(&self.path)
    }
}

/// Without the password, so that no log gets it by chance.
impl fmt::Debug for ZkUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZooKeeper(url) => url.fmt(f),
            Self::Standalone(at) => at.fmt(f),
            Self::File(path) => write!(f, "file://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zk(text: &str) -> Result<ZkUrl, PlaceError> {
        text.parse()
    }

    #[test]
    fn what_mesos_takes_is_taken() {
        let url = zk("zk://ann:s3/c:r@et@h1:2181,h2,[::1]:99/mesos/a/").unwrap();
        assert_eq!(url.credentials(), Some(("ann", "s3/c:r@et")));
        let servers: Vec<String> = url.servers().iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["h1:2181", "h2:2181", "[::1]:99"]);
        assert_eq!(url.path(), "/mesos/a");
        assert_eq!(
            format!("{url:?}"),
            "zk://ann:...@h1:2181,h2:2181,[::1]:99/mesos/a"
        );
        assert_eq!(zk("zk://h/m").unwrap().credentials(), None);
        let place = |text: &str| text.parse::<Place>();
        assert_eq!(place("10.0.0.1:5050").unwrap().to_string(), "10.0.0.1:5050");
        assert_eq!(place("file:///etc/master"), Ok(Place::File("/etc/master".into())));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let told = |text: &str| text.parse::<Place>().unwrap_err().to_string();
        for (text, part) in [
            ("zk://h1:2181", "names no path"),
            ("zk://h1:2181/", "names no path"),
            ("zk:///mesos", "names no ZooKeeper server"),
            ("zk://h1:x/mesos", "\"h1:x\" is no HOST:PORT"),
            ("zk://h1:0/mesos", "is no HOST:PORT"),
            ("zk://h1,,h2/mesos", "\"\" is no HOST:PORT"),
            ("zk://h1:70000/mesos", "is no HOST:PORT"),
            ("zk://h1/a//b", "two slashes"),
            ("zk://h1/a/../b", "has . or .."),
            ("zk://h1/zookeeper/a", "belongs to ZooKeeper"),
            ("zk://user@h1/mesos", "USER:PASSWORD"),
            ("http://h1/mesos", "names no master"),
            ("h1", "names no master"),
            ("", "names no master"),
            ("file://etc/master", "absolute path"),
        ] {
            assert!(told(text).contains(part), "{text}: {}", told(text));
        }
    }

    #[test]
    fn no_error_shows_a_password() {
        for text in [
            "zk://u:secret@h1",
            "zk://u:secret@h1:x/m",
            "zk://u:secret@/m",
            "zk://u:secret@h1//",
            "http://u:secret@h1/m",
            "u:secret@h1/m",
            "zk://u:secret@h1:x,h2/m",
        ] {
            for error in [zk(text).unwrap_err(), text.parse::<Place>().unwrap_err()] {
                assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
            }
        }
    }
}
