//! The arguments of `run`, and the launch that they ask for.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use model::{
    Bytes, Capabilities, ContainerName, DeviceRule, Fault, FaultKind, LaunchSpec, Limits, Millis, Network,
    OutputPolicy, PortRequest, Rlimit, Seccomp, UserNamespace, Volume,
};

use crate::failure::Failure;
use crate::foreground::terminal;
use crate::limit_args::LimitArgs;
use crate::parse::{self, Variable};

/// Run a command in a new container
///
/// In the foreground the command has our stdin, stdout and stderr, gets our signals (a third Ctrl-C
/// within 2 s kills it), and its exit status is ours. Without --rootfs it sees the host's files,
/// read-only but for its own directory, /tmp and its volumes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead run --mem 64MB --cpus 0.5 -- make -j4
  bulkhead run -t -- bash
  bulkhead run -d --name web -v /srv/www:/www:ro -e PORT=8080 -- ./server
  bulkhead run --io-limit /dev/vda:write_bps=10MB --timeout 5m --rm -- ./backup
  bulkhead run -d -i --name calc -- bc && bulkhead attach calc
  tar c . | bulkhead run --network none -- sha256sum

Sizes: 64MB, 1.5GB (powers of 1024). Times: 500ms, 15s, 2m.
Exit status: that of the command; 128+N when signal N ended it; 125 Bulkhead failed or wrong usage;
126 the command can not be executed; 127 it was not found.")]
pub(crate) struct RunArgs {
    /// Name, unique among running containers
    #[arg(long, value_name = "NAME")]
    name: Option<ContainerName>,
    /// Return at once and print the id
    #[arg(short, long)]
    pub detach: bool,
    /// Forget the container and delete its directory when it has ended
    #[arg(long)]
    rm: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Keep stdin open; when detached, `attach` gives it
    #[arg(short, long)]
    pub interactive: bool,
    /// Kill it after so long
    #[arg(long, value_name = "TIME", value_parser = parse::timeout)]
    timeout: Option<Millis>,
    /// Time between SIGTERM and SIGKILL [default: 10s]
    #[arg(long, value_name = "TIME")]
    grace: Option<Millis>,
    /// Label for scripts to find it by (repeatable)
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = parse::label)]
    label: Vec<(String, String)>,

    #[command(flatten)]
    pub limits: LimitArgs,

    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    process: ProcessArgs,
    #[command(flatten)]
    network: NetworkArgs,

    /// Output kept per file before it is rotated [default: 10MB]
    #[arg(long, value_name = "SIZE", help_heading = "Output")]
    log_size: Option<Bytes>,
    /// Files kept per stream [default: 3]
    #[arg(long, value_name = "N", help_heading = "Output", value_parser = clap::value_parser!(u32).range(1..))]
    log_files: Option<u32>,

    /// The command and its arguments
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        help_heading = "Arguments"
    )]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Files")]
struct FileArgs {
    /// Directory to be the container's root; it is not written to
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// Make a host path visible in the container (repeatable)
    #[arg(short, long, value_name = "SRC:DST[:ro]", value_parser = parse::volume)]
    volume: Vec<Volume>,
    /// A device beyond the default ones (repeatable)
    #[arg(long, value_name = "PATH[:rwm]", value_parser = parse::device)]
    device: Vec<DeviceRule>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Process")]
struct ProcessArgs {
    /// Environment variable; without a value, our own (repeatable)
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = parse::variable)]
    env: Vec<Variable>,
    /// File with one NAME[=VALUE] a line (repeatable)
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// NAME, UID, NAME:GROUP or UID:GID
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Working directory in the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    #[arg(long, value_name = "NAME", help = "Host name in the container")]
    hostname: Option<String>,
    /// Capability to have beyond the default ones, or ALL (repeatable)
    #[arg(long, value_name = "NAME")]
    cap_add: Vec<String>,
    /// Capability to do without, or ALL (repeatable)
    #[arg(long, value_name = "NAME")]
    cap_drop: Vec<String>,
    /// setrlimit(2): a number, a size or unlimited (repeatable)
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = parse::rlimit)]
    rlimit: Vec<Rlimit>,
    /// User ids of its own, 65536 of them or IDS: root in it is an ordinary user of the host
    #[arg(
        long,
        value_name = "IDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "65536",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    userns: Option<u32>,
    /// Filter of system calls: default or unconfined
    #[arg(long, value_name = "PROFILE", value_enum, hide_possible_values = true)]
    seccomp: Option<SeccompChoice>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SeccompChoice {
    Default,
    Unconfined,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
struct NetworkArgs {
    /// host: the host's own; mapped: its own network behind the host's address; none: loopback only [default: host]
    #[arg(long, value_name = "KIND", value_enum, hide_possible_values = true)]
    network: Option<NetworkChoice>,
    /// Ports to listen at that nobody else has: so many (2), so many in a row (row:4), or these (31005,31010-31012).
    /// They are in PORT0, PORT1, …; with the host's network no other can be bound
    #[arg(long, value_name = "N|LIST")]
    ports: Option<PortRequest>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum NetworkChoice {
    Host,
    None,
    Mapped,
}

/// What a name or a path of this side means: the verb's own environment, passed in for the tests.
struct Surroundings<'a> {
    directory: &'a Path,
    variable: &'a dyn Fn(&str) -> Option<String>,
    read_file: &'a dyn Fn(&Path) -> Result<String, Fault>,
}

impl RunArgs {
    fn spec(self, around: &Surroundings<'_>, with_stdin: bool) -> Result<LaunchSpec, Fault> {
        let limits: Limits = self.limits.into_limits();
        let default_output = OutputPolicy::default();
        let mut volumes = self.files.volume;
        for volume in &mut volumes {
            volume.source = around.directory.join(&volume.source);
        }
        Ok(LaunchSpec {
            id: None,
            name: self.name,
            command: self.command,
            env: environment(self.process.env, &self.process.env_file, around)?,
            user: self.process.user,
            workdir: self.process.workdir,
            hostname: self.process.hostname,
            rootfs: self.files.rootfs.map(|path| around.directory.join(path)),
            volumes,
            limits,
            network: match self.network.network {
                None | Some(NetworkChoice::Host) => Network::Host,
                Some(NetworkChoice::None) => Network::None,
                Some(NetworkChoice::Mapped) => Network::Mapped,
            },
            capabilities: Capabilities {
                add: self.process.cap_add,
                drop: self.process.cap_drop,
            },
            rlimits: self.process.rlimit,
            seccomp: match self.process.seccomp {
                None | Some(SeccompChoice::Default) => Seccomp::Default,
                Some(SeccompChoice::Unconfined) => Seccomp::Unconfined,
            },
            devices: self.files.device,
            terminal: self.tty.then(terminal::size),
            stdin: with_stdin,
            remove: self.rm,
            timeout: self.timeout,
            grace: self.grace.unwrap_or(model::launch::GRACE_DEFAULT),
            labels: self.label.into_iter().collect(),
            output: OutputPolicy {
                file_bytes: self.log_size.unwrap_or(default_output.file_bytes),
                files: self.log_files.unwrap_or(default_output.files),
            },
            userns: self.process.userns.map(UserNamespace::of),
            ports: self.network.ports,
            grant: None,
        })
    }
}

/// Files first, flags over them; a name given twice has its last value.
fn environment(
    flags: Vec<Variable>,
    files: &[PathBuf],
    around: &Surroundings<'_>,
) -> Result<Vec<(String, String)>, Fault> {
    let mut variables = Vec::new();
    for path in files {
        let text = (around.read_file)(path)?;
        let lines = parse::env_file(&text).map_err(|(line, error)| {
            Fault::invalid("--env-file", format!("{}: line {line}: {error}", path.display()))
        })?;
        variables.extend(lines);
    }
    variables.extend(flags);
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (name, value) in variables
        .into_iter()
        .filter_map(|variable| variable.resolve(around.variable))
    {
        pairs.retain(|(other, _)| *other != name);
        pairs.push((name, value));
    }
    Ok(pairs)
}

/// For `exec` too: variables from the flags and our own environment.
pub(crate) fn own_environment(flags: Vec<Variable>) -> Result<Vec<(String, String)>, Failure> {
    let directory = PathBuf::new();
    let around = Surroundings {
        directory: &directory,
        variable: &own_variable,
        read_file: &read_file,
    };
    Ok(environment(flags, &[], &around)?)
}

impl RunArgs {
    /// The launch, with relative paths and inherited variables taken from our own surroundings.
    pub fn into_spec(self, with_stdin: bool) -> Result<LaunchSpec, Fault> {
        let directory = std::env::current_dir()
            .map_err(|error| Fault::failed(format!("find the current directory: {error}")))?;
        let around = Surroundings {
            directory: &directory,
            variable: &own_variable,
            read_file: &read_file,
        };
        self.spec(&around, with_stdin)
    }
}

fn own_variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn read_file(path: &Path) -> Result<String, Fault> {
    std::fs::read_to_string(path)
        .map_err(|error| Fault::new(FaultKind::Invalid, format!("read {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use model::{Cpus, Limit};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArgs,
    }

    fn spec(line: &[&str]) -> Result<LaunchSpec, Fault> {
        let args = Line::try_parse_from([&["run"], line].concat()).unwrap().run;
        let around = Surroundings {
            directory: Path::new("/home/me"),
            variable: &|name| (name == "LANG").then(|| "C".to_owned()),
            read_file: &|path| match path.to_str() {
                Some("good") => Ok("A=file\nB=file\n".to_owned()),
                Some("bad") => Ok("A=1\n=2\n".to_owned()),
                _ => Err(Fault::failed("no such file")),
            },
        };
        args.spec(&around, true)
    }

    #[test]
    fn flags_become_a_spec() {
        let spec = spec(&[
            "--name",
            "web",
            "--cpus",
            "0.5",
            "--mem",
            "64MB",
            "--pids",
            "max",
            "-v",
            "data:/data:ro",
            "-l",
            "tier=front",
            "--timeout",
            "5m",
            "--rlimit",
            "nofile=10:20",
            "--io-limit",
            "/dev/vda:read_bps=1MB",
            "--network",
            "none",
            "--seccomp",
            "unconfined",
            "--cap-drop",
            "ALL",
            "--log-files",
            "1",
            "--rm",
            "--",
            "sh",
            "-c",
            "exit 3",
        ])
        .unwrap();
        assert_eq!(spec.command, ["sh", "-c", "exit 3"]);
        assert_eq!(spec.limits.cpus, Some(Cpus::from_milli(500)));
        assert_eq!(spec.limits.mem, Some(Limit::Value(Bytes::mib(64))));
        assert_eq!(spec.limits.pids, Some(Limit::Max));
        assert_eq!(spec.limits.io.devices.len(), 1);
        assert_eq!(spec.volumes[0].source, Path::new("/home/me/data"));
        assert!(spec.volumes[0].read_only && spec.remove && spec.stdin);
        assert_eq!((spec.network, spec.seccomp), (Network::None, Seccomp::Unconfined));
        assert_eq!((spec.output.files, spec.output.file_bytes), (1, Bytes::mib(10)));
        assert_eq!(spec.labels["tier"], "front");
        assert_eq!(spec.timeout, Some(Millis::secs(300)));
    }

    #[test]
    fn a_timeout_of_nothing_is_refused_and_no_grace_is_not() {
        for zero in ["0", "0s", "0.1ms"] {
            let error = Line::try_parse_from(["run", "--timeout", zero, "true"])
                .err()
                .unwrap();
            assert!(error.to_string().contains("must be more than 0"), "{error}");
        }
        assert_eq!(spec(&["--grace", "0s", "true"]).unwrap().grace, Millis(0));
    }

    #[test]
    fn nothing_said_is_the_default() {
        let wanted = LaunchSpec {
            command: vec!["true".into()],
            stdin: true,
            ..LaunchSpec::default()
        };
        assert_eq!(spec(&["true"]).unwrap(), wanted);
    }

    #[test]
    fn flags_win_over_files_and_names_are_inherited() {
        let spec = spec(&[
            "--env-file",
            "good",
            "-e",
            "B=flag",
            "-e",
            "LANG",
            "-e",
            "UNSET",
            "true",
        ])
        .unwrap();
        let wanted = [("A", "file"), ("B", "flag"), ("LANG", "C")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(spec.env, wanted);
    }

    #[test]
    fn a_bad_env_file_is_named_with_its_line() {
        let fault = spec(&["--env-file", "bad", "true"]).unwrap_err();
        assert!(fault.to_string().contains("bad: line 2"), "{fault}");
    }

    #[test]
    fn a_network_with_ports_and_ceilings() {
        let line = "--network mapped --ports 31005,31010-31012 --egress 10Mbit --ingress max true";
        let spec = spec(&line.split(' ').collect::<Vec<_>>()).unwrap();
        assert_eq!(spec.network, Network::Mapped);
        assert_eq!(spec.ports.map(|ports| ports.count()), Some(4));
        let bandwidth = spec.limits.bandwidth;
        assert_eq!(bandwidth.egress_ceiling(), Some(model::BitsPerSecond(10_000_000)));
        assert_eq!(bandwidth.ingress, Some(Limit::Max));
    }
}
