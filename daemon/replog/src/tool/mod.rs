//! `bulkhead log`: the replicated log's own tool, against running replicas and against stopped ones' directories.

mod bench;
mod remote;
mod stopped;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand, ValueEnum};
use replog_core::{ReplicaId, Settings};

use crate::replica::{Config, Replica};

const AFTER_HELP: &str = "\
Examples:
  bulkhead log replica --id 1 --directory /var/lib/log1 --listen 127.0.0.1:5061 \\
      --peer 2=127.0.0.1:5062 --peer 3=127.0.0.1:5063
  bulkhead log status --at 127.0.0.1:5061
  echo one entry a line | bulkhead log append --at 127.0.0.1:5061
  bulkhead log read --at 127.0.0.1:5062
  bulkhead log add 4 --at 127.0.0.1:5061
  bulkhead log verify --directory /var/lib/log1
  bulkhead log salvage --directory /var/lib/bulkhead-master/replicated_log    a log with one replica

Replicas and tools with --tls-ca, --tls-certificate and --tls-key speak TLS 1.3 and let in only who has a certificate of that
authority. Without them, other addresses than loopback need --insecure.";

#[derive(Debug, Parser)]
#[command(name = "log", about = "Run, ask and repair replicas of the replicated log", after_help = AFTER_HELP)]
struct Tool {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run one replica, until a signal ends it.
    Replica(ReplicaArgs),
    /// Let a replica begin a new log where that is not automatic. To be told to each of the first members.
    Init(At),
    /// How one replica is.
    Status(StatusArgs),
    /// Print entries, one a line.
    Read(ReadArgs),
    /// Append the lines of stdin, one entry each; the replica becomes the writer.
    Append(At),
    /// Forget the entries before a position.
    Truncate(TruncateArgs),
    /// Let a further replica vote. It has to run, with the address of a member as a peer.
    Add(MemberArgs),
    /// Take a replica out.
    Remove(MemberArgs),
    /// Take one replica out and another in, at once.
    Replace(ReplaceArgs),
    /// Read every byte of a stopped replica's directory.
    Verify(DirectoryArgs),
    /// Tell what a stopped log with one replica has lost, and let it go on without that.
    Salvage(SalvageArgs),
    /// Append as fast as possible and tell how fast that is.
    Bench(bench::BenchArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Debug, Args)]
struct At {
    /// The replica to ask.
    #[arg(long, value_name = "HOST:PORT", env = "BULKHEAD_LOG")]
    at: String,
    #[command(flatten)]
    tls: TlsArgs,
}

impl At {
    async fn connect(&self) -> Result<crate::Client, String> {
        crate::Client::connect(&self.at, self.tls.load()?.as_ref()).await
    }
}

/// Certificates, all three or none.
#[derive(Debug, Args)]
pub struct TlsArgs {
    /// Certificate of the authority that signed all replicas and tools of the log, in PEM.
    #[arg(long, value_name = "FILE", env = "BULKHEAD_LOG_TLS_CA", requires_all = ["tls_certificate", "tls_key"])]
    tls_ca: Option<PathBuf>,
    /// Own certificate; a replica's names its host or address.
    #[arg(
        long,
        value_name = "FILE",
        env = "BULKHEAD_LOG_TLS_CERTIFICATE",
        requires = "tls_ca"
    )]
    tls_certificate: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", env = "BULKHEAD_LOG_TLS_KEY", requires = "tls_ca")]
    tls_key: Option<PathBuf>,
}

impl TlsArgs {
    /// Reads the files, where some are named.
    pub fn load(&self) -> Result<Option<net::Tls>, String> {
        let (Some(authority), Some(certificate), Some(key)) =
            (&self.tls_ca, &self.tls_certificate, &self.tls_key)
        else {
            return Ok(None);
        };
        let files = net::TlsFiles {
            authority: authority.clone(),
            certificate: certificate.clone(),
            key: key.clone(),
        };
        net::Tls::load(&files)
            .map(Some)
            .map_err(|error| error.to_string())
    }
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    at: At,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Debug, Args)]
struct ReadArgs {
    #[command(flatten)]
    at: At,
    /// First position; default: the beginning.
    #[arg(long, value_name = "POSITION")]
    from: Option<u64>,
    /// Last position; default: the end.
    #[arg(long, value_name = "POSITION")]
    to: Option<u64>,
    /// Learn first what a quorum knows.
    #[arg(long)]
    catch_up: bool,
}

#[derive(Debug, Args)]
struct TruncateArgs {
    #[command(flatten)]
    at: At,
    /// The first position to keep.
    #[arg(value_name = "POSITION")]
    to: u64,
}

#[derive(Debug, Args)]
struct MemberArgs {
    #[command(flatten)]
    at: At,
    /// The replica's number.
    #[arg(value_name = "ID")]
    id: u64,
}

#[derive(Debug, Args)]
struct ReplaceArgs {
    #[command(flatten)]
    at: At,
    #[arg(value_name = "OUT")]
    out: u64,
    #[arg(value_name = "IN")]
    by: u64,
}

#[derive(Debug, Args)]
struct DirectoryArgs {
    /// A replica's directory.
    #[arg(long, value_name = "PATH")]
    directory: PathBuf,
}

#[derive(Debug, Args)]
struct SalvageArgs {
    #[command(flatten)]
    place: DirectoryArgs,
    /// Give up what is behind the first loss, for ever.
    #[arg(long)]
    accept_loss: bool,
}

#[derive(Debug, Args)]
struct ReplicaArgs {
    /// This replica's number.
    #[arg(long)]
    id: u64,
    /// Where its segments are kept.
    #[arg(long, value_name = "PATH")]
    directory: PathBuf,
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Another replica, as ID=HOST:PORT. Can be repeated.
    #[arg(long = "peer", value_name = "ID=HOST:PORT", value_parser = peer)]
    peers: Vec<(u64, String)>,
    /// Join the log that the peers have instead of beginning one with them.
    #[arg(long)]
    join: bool,
    /// Begin a new log by itself when all replicas are empty.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    log_auto_initialize: bool,
    /// Bytes of a segment file, 1048576 to 1073741824. An entry can't be larger than a ninth of it, or 1048576.
    #[arg(long, default_value_t = 64 << 20, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1 << 20..=crate::store::SEGMENT_BYTES_MAX))]
    segment_bytes: u64,
    #[command(flatten)]
    tls: TlsArgs,
    /// Listen and link beyond loopback without TLS.
    #[arg(long)]
    insecure: bool,
}

fn peer(text: &str) -> Result<(u64, String), String> {
    let (id, address) = text.split_once('=').ok_or("write ID=HOST:PORT")?;
    let id = id.parse().map_err(|_| format!("{id:?} is no number"))?;
    if address
        .rsplit_once(':')
        .is_none_or(|(_, port)| port.parse::<u16>().is_err())
    {
        return Err(format!("{address:?} has no port; write ID=HOST:PORT"));
    }
    Ok((id, address.to_owned()))
}

/// Of `HOST:PORT`.
fn is_loopback(address: &str) -> bool {
    let host = crate::identity::host_of(address);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// The verb and its flags.
pub fn command() -> Command {
    use clap::CommandFactory as _;
    Tool::command()
}

/// Runs it.
pub fn main(matches: &ArgMatches) -> ExitCode {
    let tool = match Tool::from_arg_matches(matches) {
        Ok(tool) => tool,
        Err(error) => error.exit(),
    };
    let outcome = match tool.verb {
        Verb::Replica(args) => run(args),
        Verb::Verify(args) => stopped::verify(&args.directory),
        Verb::Salvage(args) => stopped::salvage(&args.place.directory, args.accept_loss),
        verb => net::run(net::Config::default(), remote::obey(verb))
            .unwrap_or_else(|error| Err(error.to_string())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bulkhead log: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: ReplicaArgs) -> Result<(), String> {
    let tls = args.tls.load()?;
    let mut addresses = args
        .peers
        .iter()
        .map(|(_, address)| address.clone())
        .collect::<Vec<_>>();
    addresses.push(args.listen.to_string());
    if let Some(address) = addresses.iter().find(|address| !is_loopback(address))
        && tls.is_none()
        && !args.insecure
    {
        return Err(format!(
            "{address} is not loopback, and links are neither encrypted nor authenticated: give --tls-ca, \
             --tls-certificate and --tls-key, or --insecure if the network is yours alone"
        ));
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("BULKHEAD_LOG_LEVEL")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .init();
    const SIGNALS: [net::Signal; 3] = [net::Signal::SIGTERM, net::Signal::SIGINT, net::Signal::SIGHUP];
    net::block_signals(&SIGNALS).map_err(|error| error.to_string())?;
    net::run(net::Config::default(), async {
        let id = ReplicaId(args.id);
        let mut peers: BTreeMap<_, _> = args
            .peers
            .into_iter()
            .map(|(id, at)| (ReplicaId(id), at))
            .collect();
        peers.insert(id, args.listen.to_string());
        let ids: BTreeSet<_> = peers.keys().copied().collect();
        let mut settings = Settings::new(id);
        settings.auto_initialize = args.log_auto_initialize;
        settings.initial = (!args.join).then(|| ids.clone());
        settings.contacts = ids;
        let config = Config {
            settings,
            peers,
            directory: args.directory,
            segment_bytes: args.segment_bytes,
        };
        let replica = Replica::open_secured(config, tls).map_err(|error| error.to_string())?;
        replica.may_block_the_loop();
        let listener = net::TcpListener::bind(args.listen)
            .map_err(|error| format!("cannot listen at {}: {error}", args.listen))?;
        let server = crate::serve(replica.clone(), listener, net::ConnectionLimit::new(1024));
        let signals =
            net::Signals::new(&SIGNALS).map_err(|error| format!("cannot watch signals: {error}"))?;
        tracing::info!(replica = args.id, listen = %args.listen, "ready");
        let halted = replica.halted();
        futures::pin_mut!(server, halted);
        let signal = until_ended(&replica, signals);
        futures::pin_mut!(signal);
        match futures::future::select(futures::future::select(server, halted), signal).await {
            futures::future::Either::Left((futures::future::Either::Left((error, _)), _)) => {
                Err(format!("the listener broke: {error}"))
            }
            futures::future::Either::Left((futures::future::Either::Right((why, _)), _)) => Err(why),
            futures::future::Either::Right(_) => Ok(()),
        }
    })
    .map_err(|error| error.to_string())?
}

/// Ready at a signal that ends this program.
async fn until_ended(replica: &Replica, mut signals: net::Signals) {
    while let Ok(signal) = signals.next().await {
        if !signal.is(net::Signal::SIGHUP) {
            return;
        }
        match replica.reload_certificates() {
            Ok(()) => tracing::info!("SIGHUP: certificates are read again, for the links from now on"),
            Err(error) => tracing::error!("SIGHUP: the certificates read before stay in use: {error}"),
        }
    }
}
