//! Every flag once: default, unit, help. A TOML file, then `BULKHEAD_*` variables, then flags; the later wins.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use model::{IdRange, Millis};
use serde::Deserialize;

use crate::bandwidth_flags::{BandwidthFileFlags, BandwidthFlags};
use crate::cluster::flags::ClusterFlags;
use crate::disk_flags::{DiskFileFlags, DiskFlags};
use crate::port_flags::PortFlags;

const WORK_DIR: &str = "/var/lib/bulkhead";
const RUNTIME_DIR: &str = "/run/bulkhead";
const CONFIG_FILE: &str = "/etc/bulkhead/agent.toml";
/// Mesos' agent port, so that a monitor's address stays as it is.
const HTTP_ADDRESS: &str = "127.0.0.1:5051";

/// Above all that useradd delegates (600,100,000), that nspawn takes (0x6fffffff) and that accounts of a directory
/// service are mapped to (2,000,200,000), below what systemd keeps for foreign images (0x7ffe0000) and the numbers that
/// are negative to careless programs. Enough for 2245 containers.
const USERNS_RANGE: &str = "2000224256:147128320";

const EXAMPLES: &str = "\
Examples:
  bulkhead agent                                  # everything at its default place
  bulkhead agent --work_dir=/srv/bulkhead         # Mesos' spelling of a flag works too
  bulkhead agent --runtime-dir=/tmp/b/run --work-dir=/tmp/b/work --socket=/tmp/b/agent.sock
                                                  # a second agent beside the first
Containers outlive the agent: stopping it stops nothing else.";

/// The agent's flags. Files and directories are made if missing.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// What must survive a reboot: sandboxes and output of containers
    #[arg(long, value_name = "DIR", default_value = WORK_DIR, env = "BULKHEAD_WORK_DIR")]
    pub work_dir: PathBuf,
    /// What must survive a crash of the agent but not a reboot (a tmpfs is best)
    #[arg(long, value_name = "DIR", default_value = RUNTIME_DIR, env = "BULKHEAD_RUNTIME_DIR")]
    pub runtime_dir: PathBuf,
    /// Unix socket for clients, mode 0600 [default: RUNTIME_DIR/agent.sock]
    #[arg(long, value_name = "PATH", env = "BULKHEAD_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Address of the HTTP server (/metrics, /monitor/statistics, …), or `none`
    #[arg(long, value_name = "ADDRESS", default_value = HTTP_ADDRESS, env = "BULKHEAD_HTTP")]
    pub http: String,
    /// TCP address for clients on this host, loopback only; they show the token in RUNTIME_DIR/token [default: none]
    #[arg(long, value_name = "ADDRESS", env = "BULKHEAD_LISTEN")]
    pub listen: Option<String>,
    /// Tells this agent's cgroups from those of others on this host [default: from RUNTIME_DIR]
    #[arg(long, value_name = "NAME", env = "BULKHEAD_INSTANCE")]
    pub instance: Option<String>,
    /// Where in the v2 tree its groups go: a group that is ours to divide, like /my.slice/my.service, / for the top,
    /// or auto: the group that systemd has delegated to us, else the top
    #[arg(
        long,
        value_name = "GROUP",
        default_value = "auto",
        env = "BULKHEAD_CGROUP_ROOT"
    )]
    pub cgroup_root: String,
    /// Most containers at one time
    #[arg(
        long,
        value_name = "N",
        default_value = "4096",
        env = "BULKHEAD_MAX_CONTAINERS"
    )]
    pub max_containers: usize,
    /// How often every container is measured in the background
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        env = "BULKHEAD_SAMPLE_INTERVAL"
    )]
    pub sample_interval: Millis,
    /// Threads for work that may block in the kernel or on disk
    #[arg(long, value_name = "N", default_value = "4", env = "BULKHEAD_WORKERS")]
    pub workers: usize,
    /// Empty network namespaces kept ready for `--network none`; the first such launch fills the pool
    #[arg(long, value_name = "N", default_value = "16", env = "BULKHEAD_NETWORK_POOL")]
    pub network_pool: usize,
    /// Ids of the host for containers run with --userns, users and groups alike. Nobody else may have any of them:
    /// no account, no line in /etc/subuid or /etc/subgid, no other agent
    #[arg(long, value_name = "BASE:COUNT", default_value = USERNS_RANGE, env = "BULKHEAD_USERNS_RANGE")]
    pub userns_range: IdRange,
    #[command(flatten)]
    pub disk: DiskFlags,
    #[command(flatten)]
    pub ports: PortFlags,
    #[command(flatten)]
    pub cluster: ClusterFlags,
    #[command(flatten)]
    pub bandwidth: BandwidthFlags,
    /// Capabilities over the whole host that `run --cap-add` may grant all the same (like SYS_TIME), or ALL. The agent
    /// gives the others up at its start
    #[arg(
        long,
        value_name = "NAME,…",
        value_delimiter = ',',
        env = "BULKHEAD_ALLOW_CAPABILITIES"
    )]
    pub allow_capabilities: Vec<String>,
    /// error, warn, info, debug, trace, or a filter like `agent=debug,net=warn`
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "BULKHEAD_LOG")]
    pub log: String,
    /// TOML file with the names of these flags as keys [default: /etc/bulkhead/agent.toml if it exists]
    #[arg(long, value_name = "FILE", env = "BULKHEAD_CONFIG")]
    pub config: Option<PathBuf>,
}

/// The same names in a file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileFlags {
    work_dir: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
    socket: Option<PathBuf>,
    http: Option<String>,
    listen: Option<String>,
    instance: Option<String>,
    cgroup_root: Option<String>,
    max_containers: Option<usize>,
    sample_interval: Option<String>,
    workers: Option<usize>,
    network_pool: Option<usize>,
    userns_range: Option<String>,
    resources: Option<String>,
    ephemeral_ports_per_container: Option<u16>,
    uplinks: Option<Vec<String>>,
    egress_rate_limit_per_container: Option<String>,
    egress_rate_per_cpu: Option<String>,
    minimum_egress_rate_limit: Option<String>,
    maximum_egress_rate_limit: Option<String>,
    ingress_rate_limit_per_container: Option<String>,
    ingress_rate_per_cpu: Option<String>,
    minimum_ingress_rate_limit: Option<String>,
    maximum_ingress_rate_limit: Option<String>,
    network_link_speed: Option<String>,
    uplink_rate: Option<String>,
    egress_burst: Option<String>,
    ingress_burst: Option<String>,
    allow_capabilities: Option<Vec<String>>,
    gc_delay: Option<String>,
    gc_disk_headroom: Option<f64>,
    disk_watch_interval: Option<String>,
    container_disk_watch_interval: Option<String>,
    enforce_container_disk_quota: Option<bool>,
    disk_project_range: Option<String>,
    master: Option<String>,
    hostname: Option<String>,
    attributes: Option<String>,
    log: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read configuration file {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("configuration file {path}: {message}")]
    Parse { path: PathBuf, message: String },
    #[error("--{flag} {value:?}: {message}")]
    Value {
        flag: &'static str,
        value: String,
        message: String,
    },
    #[error(transparent)]
    Flags(#[from] clap::Error),
}

/// Checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub work_dir: PathBuf,
    pub runtime_dir: PathBuf,
    pub socket: PathBuf,
    pub http: Option<HttpAddress>,
    pub listen: Option<SocketAddr>,
    /// Empty for the default instance.
    pub instance: String,
    pub cgroup_place: CgroupPlace,
    pub max_containers: usize,
    pub sample_interval: Millis,
    pub workers: usize,
    pub network_pool: usize,
    pub userns_range: IdRange,
    pub disk: DiskFlags,
    pub ports: PortFlags,
    pub cluster: ClusterFlags,
    pub bandwidth: BandwidthFlags,
    /// Beyond those that the agent keeps anyhow.
    pub allow_capabilities: Vec<String>,
    pub log: String,
}

/// Below which group of the v2 tree the agent's root group is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupPlace {
    /// Below what the service manager has delegated to us; at the top where it has delegated nothing.
    Auto,
    /// A path from the top of the hierarchy, without the leading `/`; empty is the top.
    At(PathBuf),
}

#[derive(Debug, Clone, Copy)]
pub struct HttpAddress {
    pub address: SocketAddr,
    /// Asked for by name: a port in use is then an error, not a warning.
    pub explicit: bool,
}

pub fn command() -> Command {
    Flags::augment_args(Command::new("agent"))
        .about("Run the isolation daemon of this host")
        .after_help(EXAMPLES)
}

impl Config {
    pub fn from_matches(matches: &ArgMatches) -> Result<Self, ConfigError> {
        let flags = Flags::from_arg_matches(matches)?;
        let file = match &flags.config {
            Some(path) => Some(read_file(path)?),
            None if Path::new(CONFIG_FILE).exists() => Some(read_file(Path::new(CONFIG_FILE))?),
            None => None,
        };
        Self::with_file(matches, flags, file)
    }

    /// As without flags, and with a configuration file of this text.
    pub fn from_text(text: &str) -> Result<Self, ConfigError> {
        let matches = command()
            .no_binary_name(true)
            .try_get_matches_from(std::iter::empty::<&str>())?;
        let flags = Flags::from_arg_matches(&matches)?;
        let path = PathBuf::from(CONFIG_FILE);
        let file = parse_file(text, &path)?;
        Self::with_file(&matches, flags, Some((path, file)))
    }

    fn with_file(
        matches: &ArgMatches,
        mut flags: Flags,
        file: Option<(PathBuf, FileFlags)>,
    ) -> Result<Self, ConfigError> {
        let given = |name: &str| {
            matches!(
                matches.value_source(name),
                Some(ValueSource::CommandLine | ValueSource::EnvVariable)
            )
        };
        let mut http_explicit = given("http");
        if let Some((path, file)) = file {
            http_explicit |= file.http.is_some();
            merge(&mut flags, file, &path, given)?;
        }
        Self::check(flags, http_explicit)
    }

    fn check(flags: Flags, http_explicit: bool) -> Result<Self, ConfigError> {
        let absolute = |flag: &'static str, path: &Path| {
            std::path::absolute(path).map_err(|e| ConfigError::Value {
                flag,
                value: path.display().to_string(),
                message: e.to_string(),
            })
        };
        let work_dir = absolute("work-dir", &flags.work_dir)?;
        let runtime_dir = absolute("runtime-dir", &flags.runtime_dir)?;
        for (flag, dir) in [("work-dir", &work_dir), ("runtime-dir", &runtime_dir)] {
            if dir.parent().is_none() {
                let message = "must not be the root directory".to_owned();
                return Err(ConfigError::Value {
                    flag,
                    value: dir.display().to_string(),
                    message,
                });
            }
        }
        let socket = match &flags.socket {
            Some(path) => absolute("socket", path)?,
            None => runtime_dir.join("agent.sock"),
        };
        let http = match flags.http.as_str() {
            "none" | "" => None,
            text => Some(HttpAddress {
                address: http_address(text)?,
                explicit: http_explicit,
            }),
        };
        let listen = flags
            .listen
            .as_deref()
            .filter(|text| *text != "none")
            .map(listen_address)
            .transpose()?;
        let instance = match flags.instance {
            Some(name) => {
                let checked: Result<model::ContainerName, _> = name.parse();
                checked.map_err(|e| ConfigError::Value {
                    flag: "instance",
                    value: name.clone(),
                    message: e.to_string(),
                })?;
                name
            }
            None if runtime_dir == Path::new(RUNTIME_DIR) => String::new(),
            None => format!("{:08x}", checksum(&runtime_dir)),
        };
        for (flag, value, max) in [
            ("max-containers", flags.max_containers, 100_000),
            ("workers", flags.workers, 64),
            ("network-pool", flags.network_pool.max(1), 1024),
        ] {
            if !(1..=max).contains(&value) {
                let message = format!("must be from 1 to {max}");
                return Err(ConfigError::Value {
                    flag,
                    value: value.to_string(),
                    message,
                });
            }
        }
        if flags.sample_interval < Millis(100) {
            let message = "must be 100ms or more".to_owned();
            let value = flags.sample_interval.to_string();
            return Err(ConfigError::Value {
                flag: "sample-interval",
                value,
                message,
            });
        }
        flags.disk.check()?;
        Ok(Self {
            work_dir,
            runtime_dir,
            socket,
            http,
            listen,
            instance,
            cgroup_place: cgroup_place(&flags.cgroup_root)?,
            max_containers: flags.max_containers,
            sample_interval: flags.sample_interval,
            workers: flags.workers,
            network_pool: flags.network_pool,
            userns_range: flags.userns_range,
            disk: flags.disk,
            ports: flags.ports,
            cluster: flags.cluster,
            bandwidth: flags.bandwidth,
            allow_capabilities: flags.allow_capabilities,
            log: flags.log,
        })
    }

    /// Name of our group in every cgroup hierarchy.
    pub fn cgroup_root(&self) -> String {
        match self.instance.as_str() {
            "" => "bulkhead".to_owned(),
            name => format!("bulkhead-{name}"),
        }
    }
}

/// FNV-1a: only tells the agents of one host apart.
fn checksum(path: &Path) -> u32 {
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0x811c_9dc5, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        })
}

fn cgroup_place(text: &str) -> Result<CgroupPlace, ConfigError> {
    if text == "auto" {
        return Ok(CgroupPlace::Auto);
    }
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    match text.strip_prefix('/') {
        Some("") => Ok(CgroupPlace::At(PathBuf::new())),
        Some(path) if path.split('/').all(plain) => Ok(CgroupPlace::At(PathBuf::from(path))),
        _ => Err(ConfigError::Value {
            flag: "cgroup-root",
            value: text.to_owned(),
            message: "is neither auto nor a group's path from the top, like / or /my.slice/my.service"
                .to_owned(),
        }),
    }
}

fn http_address(text: &str) -> Result<SocketAddr, ConfigError> {
    let full = if text.contains(':') {
        text.to_owned()
    } else {
        format!("127.0.0.1:{text}")
    };
    full.parse().map_err(|_| ConfigError::Value {
        flag: "http",
        value: text.to_owned(),
        message: "is not an address like 127.0.0.1:5051, [::1]:5051, 5051 or none".to_owned(),
    })
}

/// Without TLS a token would travel in the clear, and whoever reads it is root on this host.
fn listen_address(text: &str) -> Result<SocketAddr, ConfigError> {
    let refused = |message: &str| ConfigError::Value {
        flag: "listen",
        value: text.to_owned(),
        message: message.to_owned(),
    };
    let address: SocketAddr = text
        .parse()
        .map_err(|_| refused("is not an address like 127.0.0.1:5061 or [::1]:5061"))?;
    if !address.ip().is_loopback() {
        return Err(refused(
            "is not a loopback address; reach it from elsewhere through an SSH tunnel",
        ));
    }
    Ok(address)
}

fn read_file(path: &Path) -> Result<(PathBuf, FileFlags), ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok((path.to_owned(), parse_file(&text, path)?))
}

fn parse_file(text: &str, path: &Path) -> Result<FileFlags, ConfigError> {
    toml::from_str(text).map_err(|e| ConfigError::Parse {
        path: path.to_owned(),
        message: e.to_string().trim_end().replace('\n', " "),
    })
}

fn merge(
    flags: &mut Flags,
    file: FileFlags,
    path: &Path,
    given: impl Fn(&str) -> bool,
) -> Result<(), ConfigError> {
    macro_rules! take {
        ($($field:ident),*) => {$(
            if let Some(value) = file.$field {
                if !given(stringify!($field)) {
                    flags.$field = value;
                }
            }
        )*};
    }
    take!(
        work_dir,
        runtime_dir,
        http,
        cgroup_root,
        max_containers,
        workers,
        network_pool,
        allow_capabilities,
        log
    );
    if let (false, Some(uplinks)) = (given("uplinks"), file.uplinks) {
        flags.ports.uplinks = uplinks;
    }
    if !given("resources") {
        flags.ports.resources = file.resources.or(flags.ports.resources.take());
    }
    if let (false, Some(count)) = (
        given("ephemeral_ports_per_container"),
        file.ephemeral_ports_per_container,
    ) {
        if !(16..=32_768).contains(&count) {
            let message = format!("ephemeral_ports_per_container: {count} is not from 16 to 32768");
            let path = path.to_owned();
            return Err(ConfigError::Parse { path, message });
        }
        flags.ports.ephemeral_ports_per_container = count;
    }
    macro_rules! parsed {
        ($($field:ident),*) => {$(
            if let (false, Some(text)) = (given(stringify!($field)), file.$field) {
                let parsed = text.parse().map_err(|error| ConfigError::Parse {
                    path: path.to_owned(),
                    message: format!("{}: {error}", stringify!($field)),
                })?;
                flags.cluster.$field = Some(parsed);
            }
        )*};
    }
    parsed!(master, hostname, attributes);
    if !given("socket") {
        flags.socket = file.socket.or(flags.socket.take());
    }
    if !given("listen") {
        flags.listen = file.listen.or(flags.listen.take());
    }
    if !given("instance") {
        flags.instance = file.instance.or(flags.instance.take());
    }
    let disk = DiskFileFlags {
        gc_delay: file.gc_delay,
        gc_disk_headroom: file.gc_disk_headroom,
        disk_watch_interval: file.disk_watch_interval,
        container_disk_watch_interval: file.container_disk_watch_interval,
        enforce_container_disk_quota: file.enforce_container_disk_quota,
        disk_project_range: file.disk_project_range,
    };
    let bad = |name: &str, error: String| ConfigError::Parse {
        path: path.to_owned(),
        message: format!("{name}: {error}"),
    };
    flags.disk.merge(disk, &given, bad)?;
    macro_rules! named {
        ($($field:ident),*) => {
            [$((stringify!($field), file.$field)),*]
        };
    }
    let bandwidth = BandwidthFileFlags {
        rates: named!(
            egress_rate_limit_per_container,
            egress_rate_per_cpu,
            minimum_egress_rate_limit,
            maximum_egress_rate_limit,
            ingress_rate_limit_per_container,
            ingress_rate_per_cpu,
            minimum_ingress_rate_limit,
            maximum_ingress_rate_limit,
            network_link_speed,
            uplink_rate
        ),
        bursts: named!(egress_burst, ingress_burst),
    };
    flags.bandwidth.merge(bandwidth, &given, bad)?;
    if let Some(text) = file.userns_range {
        let value = text
            .parse()
            .map_err(|e: model::user_namespace::IdRangeError| ConfigError::Parse {
                path: path.to_owned(),
                message: format!("userns_range: {text:?} {e}"),
            })?;
        if !given("userns_range") {
            flags.userns_range = value;
        }
    }
    if let Some(text) = file.sample_interval {
        let value = text
            .parse()
            .map_err(|e: model::units::UnitError| bad("sample_interval", e.to_string()))?;
        if !given("sample_interval") {
            flags.sample_interval = value;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
