//! Every flag once: default, unit, help. Names and defaults are those of Mesos' master where it has them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, Args, Command, FromArgMatches, ValueEnum};
use coordination::ZkUrl;
use model::Fault;
use registrar::Kind;

const WORK_DIR: &str = "/var/lib/bulkhead-master";
/// The log's port is this much above the other one, unless it is given.
const LOG_PORT_ABOVE: u16 = 10;

const EXAMPLES: &str = "\
Examples:
  bulkhead master                                    # alone, on loopback
  bulkhead master --ip=10.0.0.1 --zk=zk://10.0.0.1:2181,10.0.0.2:2181,10.0.0.3:2181/bulkhead --quorum=2
  bulkhead agent --master=10.0.0.1:5050              # on each host
Clients find it by BULKHEAD_MASTER=HOST:PORT or zk://…";

/// The master's flags.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// Address to listen at, and to be known by
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1",
        env = "BULKHEAD_MASTER_IP"
    )]
    pub ip: IpAddr,
    #[arg(
        long,
        value_name = "PORT",
        default_value = "5050",
        env = "BULKHEAD_MASTER_PORT",
        help = "Port for agents, clients and HTTP"
    )]
    pub port: u16,
    /// Where the registry and the log are kept
    #[arg(long, value_name = "DIR", default_value = WORK_DIR, env = "BULKHEAD_MASTER_WORK_DIR")]
    pub work_dir: PathBuf,
    /// Name to be known by [default: the host's]
    #[arg(long, value_name = "NAME", env = "BULKHEAD_MASTER_HOSTNAME")]
    pub hostname: Option<String>,
    /// Name of the cluster, for people
    #[arg(long, value_name = "NAME", env = "BULKHEAD_CLUSTER")]
    pub cluster: Option<String>,
    /// ZooKeeper servers that elect the leader: zk://[USER:PASSWORD@]HOST:PORT,…/PATH. Without it this master leads alone
    #[arg(long, value_name = "URL", env = "BULKHEAD_ZK", requires = "quorum")]
    pub zk: Option<ZkUrl>,
    /// Replicas of the log that make up a majority: 2 of 3 masters, 3 of 5
    #[arg(long, value_name = "N", env = "BULKHEAD_QUORUM", requires = "zk",
        value_parser = clap::value_parser!(u32).range(1..=50))]
    pub quorum: Option<u32>,
    /// How long ZooKeeper waits for a leader that says nothing
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration, env = "BULKHEAD_ZK_SESSION_TIMEOUT")]
    pub zk_session_timeout: Duration,
    /// What to do when another is elected: contend again, or exit as Mesos' master
    #[arg(
        long,
        value_enum,
        default_value = "step-down",
        env = "BULKHEAD_ON_LEADERSHIP_LOSS"
    )]
    pub on_leadership_loss: OnLoss,
    /// Where the registry is: replicated_log (with --zk on all masters, without it here alone), local, or in_memory (for tests)
    #[arg(
        long,
        value_name = "KIND",
        default_value = "replicated_log",
        env = "BULKHEAD_REGISTRY"
    )]
    pub registry: Kind,
    /// Port of the log's replica [default: --port + 10]
    #[arg(long, value_name = "PORT", env = "BULKHEAD_LOG_PORT")]
    pub log_port: Option<u16>,
    /// Addresses of all log replicas, this one's included [default: those that have joined in ZooKeeper at the first start]
    #[arg(
        long,
        value_name = "IP:PORT,…",
        value_delimiter = ',',
        env = "BULKHEAD_LOG_REPLICAS",
        requires = "zk"
    )]
    pub log_replicas: Vec<SocketAddr>,
    /// For reading the registry after an election
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = duration)]
    pub registry_fetch_timeout: Duration,
    /// For one write of the registry
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration)]
    pub registry_store_timeout: Duration,
    /// Agents with an id that the registry does not know: told to shut down (true), or admitted (false)
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set,
        num_args = 0..=1, default_missing_value = "true")]
    pub registry_strict: bool,
    /// How often agents that have been unreachable or gone for long are forgotten
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = duration)]
    pub registry_gc_interval: Duration,
    /// How long they are remembered
    #[arg(long, value_name = "TIME", default_value = "2weeks", value_parser = duration)]
    pub registry_max_agent_age: Duration,
    /// How many of each
    #[arg(long, value_name = "N", default_value_t = 102_400)]
    pub registry_max_agent_count: usize,
    /// For agents to come back after an election
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub agent_reregister_timeout: Duration,
    /// If more than this share of the agents has not come back, the master stops for a person to look
    #[arg(long, value_name = "PERCENT", default_value = "100%", value_parser = percent)]
    pub recovery_agent_removal_limit: u32,
    /// So many agents are given up in so long, at most: N/TIME
    #[arg(long, value_name = "N/TIME", value_parser = rate)]
    pub agent_removal_rate_limit: Option<Rate>,
    /// Between pings to an agent
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = duration)]
    pub agent_ping_timeout: Duration,
    /// Pings without an answer until an agent is unreachable
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_agent_ping_timeouts: u32,
    /// Ended tasks that are remembered
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub max_completed_tasks: usize,
    /// Secrets of agents and people: a file with {"credentials":[{"principal":NAME,"secret":SECRET}]}. Those of this host
    /// may read WORK_DIR/credential instead
    #[arg(long, value_name = "FILE", env = "BULKHEAD_CREDENTIALS")]
    pub credentials: Option<PathBuf>,
    /// Let nobody in without a secret, not even with --insecure
    #[arg(long, env = "BULKHEAD_AUTHENTICATE_AGENTS")]
    pub authenticate_agents: bool,
    /// Directory with ca.pem, certificate.pem and key.pem (see bulkhead tls init): whoever comes from beyond loopback speaks
    /// TLS, and has a certificate of the same authority. Read again at SIGHUP
    #[arg(long, value_name = "DIR", env = "BULKHEAD_TLS")]
    pub tls: Option<PathBuf>,
    /// Serve on addresses beyond loopback in plain text: whoever reaches the port rules the cluster
    #[arg(long, env = "BULKHEAD_INSECURE")]
    pub insecure: bool,
    /// error, warn, info, debug, trace, or a filter like `master=debug,net=warn`
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "BULKHEAD_LOG")]
    pub log: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnLoss {
    StepDown,
    Exit,
}

/// `N/TIME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub span: Duration,
}

pub fn command() -> Command {
    Flags::augment_args(Command::new("master"))
        .about("Run a cluster's master")
        .after_help(EXAMPLES)
}

/// Checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub flags: Flags,
    pub hostname: String,
    pub log_address: SocketAddr,
}

impl Config {
    pub fn from_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flags = Flags::from_arg_matches(matches)?;
        Self::check(flags)
            .map_err(|fault| clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{fault}\n")))
    }

    pub fn check(flags: Flags) -> Result<Self, Fault> {
        if !flags.ip.is_loopback() && !flags.insecure && flags.tls.is_none() {
            let message = format!(
                "{} is not a loopback address, and there would be no encryption",
                flags.ip
            );
            let fault = Fault::invalid("--ip", message);
            return Err(fault.remedy(
                "give --tls=DIR (see bulkhead tls init), or --insecure on a network that only the cluster's own hosts reach",
            ));
        }
        if flags.ip.is_unspecified() {
            let message = format!("{} is every address, and agents need one to reach", flags.ip);
            return Err(Fault::invalid("--ip", message).remedy("give the one that agents use"));
        }
        if flags.port == 0 {
            return Err(Fault::invalid("--port", "0 is no port that agents could be told")
                .remedy("give one from 1 to 65535"));
        }
        let session = Duration::from_millis(100)..=Duration::from_secs(3600);
        if !session.contains(&flags.zk_session_timeout) {
            return Err(Fault::invalid(
                "--zk_session_timeout",
                "has to be from 100ms to 1h",
            ));
        }
        let second = Duration::from_secs(1);
        let quarter = Duration::from_secs(900);
        if !(second..=quarter).contains(&flags.agent_ping_timeout) {
            return Err(Fault::invalid("--agent_ping_timeout", "has to be from 1s to 15m"));
        }
        if flags.registry == Kind::Local && flags.zk.is_some() {
            let fault = Fault::invalid(
                "--registry",
                "local is on one host, and --zk is for several masters",
            );
            return Err(fault.remedy("leave --registry out"));
        }
        let log_port = match flags.log_port {
            Some(port) => port,
            None => flags.port.checked_add(LOG_PORT_ABOVE).ok_or_else(|| {
                Fault::invalid("--log_port", "there is no port 10 above --port").remedy("give one")
            })?,
        };
        let log_address = SocketAddr::new(flags.ip, log_port);
        if let Some(quorum) = flags.quorum
            && !flags.log_replicas.is_empty()
        {
            let (count, wanted) = (flags.log_replicas.len() as u32, 2 * quorum - 1);
            if count != wanted {
                let message = format!("{count} addresses, and --quorum={quorum} means {wanted} replicas");
                return Err(Fault::invalid("--log_replicas", message));
            }
            if !flags.log_replicas.contains(&log_address) {
                let message = format!("{log_address}, this master's own, is not among them");
                return Err(Fault::invalid("--log_replicas", message));
            }
        }
        let hostname = flags.hostname.clone().unwrap_or_else(net::host_name);
        Ok(Self {
            hostname,
            log_address,
            flags,
        })
    }

    pub fn core(&self, master_id: &str, term: u64) -> master_core::Settings {
        master_core::Settings {
            master_id: master_id.to_owned(),
            term,
            ping_interval: self.flags.agent_ping_timeout,
            pings_max: self.flags.max_agent_ping_timeouts,
            reregister_timeout: self.flags.agent_reregister_timeout,
            removal_limit: self
                .flags
                .agent_removal_rate_limit
                .map(|rate| (rate.count, rate.span)),
            recovery_removal_limit_percent: self.flags.recovery_agent_removal_limit,
            strict: self.flags.registry_strict,
            ended_max: self.flags.max_completed_tasks,
            ..master_core::Settings::default()
        }
    }

    pub fn registrar(&self) -> registrar::Settings {
        registrar::Settings {
            fetch_timeout: self.flags.registry_fetch_timeout,
            store_timeout: self.flags.registry_store_timeout,
            ..registrar::Settings::default()
        }
    }
}

/// `15s`, and Mesos' `15secs`, `10mins`, `2weeks`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("{text:?} is no time like 500ms, 15s or 10m");
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit.trim() {
        "ns" => 1e-9,
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" | "sec" | "secs" => 1.0,
        "m" | "min" | "mins" => 60.0,
        "h" | "hr" | "hrs" => 3600.0,
        "d" | "day" | "days" => 86_400.0,
        "week" | "weeks" => 604_800.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())
}

fn percent(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is no share like 100%");
    let number: u32 = text.trim_end_matches('%').parse().map_err(|_| wrong())?;
    if number > 100 { Err(wrong()) } else { Ok(number) }
}

fn rate(text: &str) -> Result<Rate, String> {
    let wrong = || format!("{text:?} is no rate like 1/10mins");
    let (count, span) = text.split_once('/').ok_or_else(wrong)?;
    let count: u32 = count.trim().parse().map_err(|_| wrong())?;
    let span = duration(span.trim())?;
    if count == 0 || span.is_zero() {
        Err(wrong())
    } else {
        Ok(Rate { count, span })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<Config, String> {
        let matches = command().no_binary_name(true).try_get_matches_from(line);
        let matches = matches.map_err(|error| error.to_string())?;
        Config::from_matches(&matches).map_err(|error| error.to_string())
    }

    #[test]
    fn times_are_written_as_mesos_does_or_as_we_do() {
        for (text, seconds) in [
            ("15secs", 15.0),
            ("10m", 600.0),
            ("2weeks", 1_209_600.0),
            ("1.5s", 1.5),
        ] {
            assert_eq!(duration(text).unwrap().as_secs_f64(), seconds);
        }
        assert!(duration("15").is_err() && duration("-1s").is_err() && duration("x").is_err());
        assert_eq!(rate("1/10mins").unwrap().span.as_secs(), 600);
        assert!(rate("0/1s").is_err() && rate("1").is_err() && percent("101%").is_err());
    }

    #[test]
    fn what_can_not_be_is_refused_with_the_flag_named() {
        command().debug_assert();
        assert!(parse(&[]).is_ok());
        let zk = "--zk=zk://127.0.0.1:2181/b";
        for (line, part) in [
            (&["--ip=10.0.0.1"][..], "--tls"),
            (&["--ip=0.0.0.0", "--insecure"][..], "every address"),
            (&[zk][..], "--quorum"),
            (&["--quorum=2"][..], "--zk"),
            (&[zk, "--quorum=2", "--registry=local"][..], "--registry"),
            (&[zk, "--quorum=2", "--log_replicas=127.0.0.1:1"], "means 3"),
            (&["--agent_ping_timeout=1h"], "--agent_ping_timeout"),
            (&["--port=0"], "--port"),
            (
                &[zk, "--quorum=1", "--zk_session_timeout=0s"],
                "--zk_session_timeout",
            ),
            (&["--zk=zk://127.0.0.1:2181", "--quorum=1"], "path"),
        ] {
            let line: Vec<String> = line.iter().map(|word| word.replace("_", "-")).collect();
            let words: Vec<&str> = line.iter().map(String::as_str).collect();
            let error = parse(&words).unwrap_err();
            let spelled = part.replace('_', "-");
            assert!(
                error.contains(part) || error.contains(&spelled),
                "{words:?}: {error}"
            );
        }
    }
}
