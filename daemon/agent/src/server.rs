//! Start-up and the accept loops: the one place where everything is wired together.

use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use agent_core::{AgentCore, Settings};
use isolators::IsolatorSet;
use isolators::network::NetworkIsolator;
use model::{Fault, FaultKind, Limit};
use net::{Signal, Signals};

use crate::config::Config;
use crate::id_pool::IdPool;
use crate::launch::failed;
use crate::launcher_link::LauncherLink;
use crate::network_pool::NetworkPool;
use crate::service::{GateService, Proof};
use crate::shell::{Parts, Shell};
use crate::work_dir::Directories;

/// Jobs that may wait for a worker; beyond it whoever asks waits.
const WORKER_QUEUE: usize = 4096;
/// Descriptors that one container may take, counted for the ceiling on containers: pidfd, pipes, memory
/// watch, measuring.
const DESCRIPTORS_PER_CONTAINER: u64 = 16;
/// Measuring pressure takes three more, of which two fit into what most containers leave of the above: one needs all
/// of it only with a stdin, limited disks and output on both streams, and the reserve covers some of those.
const PRESSURE_BEYOND: u64 = 1;
/// Descriptors that the agent needs for itself and its clients.
const DESCRIPTORS_RESERVED: u64 = 2048;
/// What it opens before the first client comes, some fifty: loop, workers, directories, cgroup roots, programs, listeners;
/// and room for launches under way and for a few clients.
const DESCRIPTORS_OWN: u64 = 80;
/// Connections to the socket at one time. The rest is refused, those that never said a word first.
const CONNECTIONS_MAX: usize = 1024;
const HTTP_CONNECTIONS_MAX: usize = 256;

/// Runs the agent until SIGTERM or SIGINT.
pub fn run(config: Config) -> ExitCode {
    // Before any thread is made, so that none of them takes these signals.
    if let Err(error) = net::block_signals(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]) {
        return refuse(&Fault::failed(format!("block signals: {error}")));
    }
    if let Err(error) = kernel::host::require_root() {
        return refuse(&failed(&error).remedy("start the agent with sudo"));
    }
    // Before any thread too: they have capabilities of their own.
    if let Err(fault) = crate::privileges::reduce(&config.allow_capabilities) {
        return refuse(&fault);
    }
    // Before the loop runs: what asks the kernel what it can do takes its time.
    let ready = match set_up(config) {
        Ok(ready) => ready,
        Err(fault) => return refuse(&fault),
    };
    match net::run(net::Config::default(), serve(ready)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(fault)) => refuse(&fault),
        Err(error) => refuse(&Fault::failed(format!("start the event loop: {error}"))),
    }
}

fn refuse(fault: &Fault) -> ExitCode {
    eprintln!("bulkhead: agent: {fault}");
    ExitCode::from(125)
}

/// What an agent holds before it looks at anything that an earlier one left. Fields go in this order.
struct Ready {
    shell: Rc<Shell>,
    _roots: RootGroups,
    _instance: Vec<std::fs::File>,
    _locks: [std::fs::File; 2],
}

fn set_up(config: Config) -> Result<Ready, Fault> {
    let mut host = kernel::host::probe().map_err(|e| failed(&e))?;
    // Before anything is made.
    let ports = config.ports.pool(&crate::port_flags::host_ports()?)?;
    let link = || crate::bandwidth_flags::link_speed(&config.ports.uplinks);
    let bandwidth = config.bandwidth.defaults(host.cpus, link)?;
    let descriptors = kernel::system::raise_descriptors()
        .map_err(|e| Fault::failed(format!("raise the limit of open files: {e}")))?;
    let (directories, locks) =
        Directories::open(&config.work_dir, &config.runtime_dir).map_err(|e| failed(&e))?;
    crate::cgroup_place::take(&config, &directories, &mut host)?;
    // First of all processes, while this one is small and has one thread.
    let launcher = LauncherLink::start(&config.instance).map_err(|e| failed(&e))?;
    let isolators = IsolatorSet::new(&host, &config.cgroup_root()).map_err(|e| failed(&e))?;
    let isolators = Arc::new(isolators);
    let instance = lock_instance(&isolators, &config)?;
    let roots = RootGroups(isolators.clone());
    let pool = net::Pool::new(config.workers, WORKER_QUEUE)
        .map_err(|e| Fault::failed(format!("start the worker threads: {e}")))?;
    let ids = IdPool::look(config.userns_range);
    let paths = net::Pool::new(crate::paths::THREADS, WORKER_QUEUE)
        .map_err(|e| Fault::failed(format!("start the threads for paths: {e}")))?;
    let settings = Settings {
        containers_max: containers_max(&config, &host, descriptors)?,
        gc_delay: config.disk.gc_delay,
        gc_headroom: config.disk.gc_disk_headroom,
        id_pool: ids.usable(),
        ports,
        ..Settings::default()
    };
    let disk = crate::disk::start(&config, &directories);
    tell(&config, &host, &isolators, &settings, &ids);
    // Event numbers grow over restarts, so that a subscriber's place stays meaningful.
    let core = AgentCore::new(settings, net::wall_ms() * 1000);
    let networks = NetworkPool::new(config.network_pool, pool.clone());
    let network = Arc::new(NetworkIsolator::new(
        &config.instance,
        directories.network_pins(),
        config.ports.uplinks.clone(),
        config.bandwidth.uplink_rate(link)?,
    ));
    let shell = Shell::new(Parts {
        config,
        directories,
        host,
        isolators,
        disk,
        network,
        pool,
        paths,
        launcher,
        networks,
        ids,
        bandwidth,
        core,
    });
    Ok(Ready {
        shell,
        _roots: roots,
        _instance: instance,
        _locks: locks,
    })
}

/// The loop's turn at a processor; the workers have the kernel's own, some milliseconds.
const TURN: Duration = Duration::from_micros(200);

async fn serve(ready: Ready) -> Result<(), Fault> {
    let shell = ready.shell.clone();
    // After the workers were started, so that none of them has it: who asks is not to wait for them.
    if let Err(error) = kernel::schedule::prefer_short_turns(TURN) {
        tracing::debug!("ask for short turns at the processors: {error}");
    }
    crate::recovery::recover(&shell).await?;
    crate::gc::survey(&shell).await?;
    crate::port_watch::take_stock(&shell).await;
    net::spawn(shell.clone().keep_time()).detach();
    net::spawn(crate::statistics::keep_sampling(shell.clone())).detach();
    net::spawn(crate::uplinks::follow(shell.clone())).detach();
    net::spawn(crate::gc::keep_watching(shell.clone())).detach();
    net::spawn(crate::port_watch::keep_watching(shell.clone())).detach();
    serve_http(&shell)?;
    crate::cluster::start(&shell).await?;
    let clients = serve_clients(&shell)?;
    let tcp_clients = serve_tcp_clients(&shell)?;
    let mut signals = Signals::new(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP])
        .map_err(|e| Fault::failed(format!("watch signals: {e}")))?;
    tracing::info!(socket = %shell.config.socket.display(), "ready");
    loop {
        match signals.next().await {
            Ok(signal) if signal.is(Signal::SIGHUP) => tracing::info!("SIGHUP: there is nothing to reload"),
            Ok(signal) => {
                tracing::info!(
                    signal = signal.number,
                    running = shell.core().living(),
                    "stopping; containers run on"
                );
                break;
            }
            Err(error) => return Err(Fault::failed(format!("read signals: {error}"))),
        }
    }
    drop((clients, tcp_clients));
    close_network(&shell).await;
    let _ = std::fs::remove_file(&shell.config.socket);
    Ok(())
}

/// What is not used by any container goes with us; the rest stays for the next agent.
async fn close_network(shell: &Shell) {
    let keep = shell.core().list(false).any(|status| match status.network {
        model::Network::Mapped => true,
        model::Network::Host => shell.network.shares_uplinks(),
        model::Network::None => false,
    });
    let network = shell.network.clone();
    if let Err(error) = shell.pool.run(move || network.close(keep)).await {
        tracing::warn!("take the network down: {error}");
    }
}

/// Takes the root groups away on every way out. Only empty ones can be removed: containers keep theirs.
struct RootGroups(Arc<IsolatorSet>);

impl Drop for RootGroups {
    fn drop(&mut self) {
        self.0.remove_root();
    }
}

/// Two agents with other directories but the same groups would end each other's containers. The lock is on the
/// root group itself: it goes with its holder and leaves no file.
fn lock_instance(isolators: &IsolatorSet, config: &Config) -> Result<Vec<std::fs::File>, Fault> {
    let mut locks = Vec::new();
    for path in isolators.roots() {
        let directory = std::fs::File::open(&path)
            .map_err(|e| Fault::failed(format!("open control group {}: {e}", path.display())))?;
        match crate::work_dir::lock_soon(&directory) {
            Ok(()) => locks.push(directory),
            Err(std::fs::TryLockError::WouldBlock) => {
                let message = format!("another agent uses the control group {}", path.display());
                let fault = Fault::new(FaultKind::Conflict, message).field("instance");
                return Err(fault.remedy("give this one its own --instance, --runtime-dir and --work-dir"));
            }
            Err(std::fs::TryLockError::Error(error)) => {
                let name = config.cgroup_root();
                return Err(Fault::failed(format!(
                    "lock control group {name} at {}: {error}",
                    path.display()
                )));
            }
        }
    }
    Ok(locks)
}

/// No more containers than there are descriptors for: a launch refused is better than a container that
/// can't be watched.
fn containers_max(
    config: &Config,
    host: &model::HostSupport,
    descriptors: Limit<u64>,
) -> Result<usize, Fault> {
    let Some(descriptors) = descriptors.value() else {
        return Ok(config.max_containers);
    };
    // A small limit is for a small host: most of it may go into containers.
    let reserved = DESCRIPTORS_RESERVED.min(descriptors / 4).max(DESCRIPTORS_OWN);
    let pressure = if host.pressure { PRESSURE_BEYOND } else { 0 };
    let affordable = descriptors.saturating_sub(reserved) / (DESCRIPTORS_PER_CONTAINER + pressure);
    let affordable = usize::try_from(affordable).unwrap_or(usize::MAX);
    if affordable == 0 {
        let message = format!("{descriptors} open files are not enough for a single container");
        return Err(Fault::new(FaultKind::Exhausted, message)
            .remedy("raise the hard limit (ulimit -Hn) to 1024 or more"));
    }
    if affordable < config.max_containers {
        tracing::info!(
            descriptors,
            "descriptors allow {affordable} containers instead of {}; raise the hard limit of open files for more",
            config.max_containers
        );
    }
    Ok(config.max_containers.min(affordable))
}

fn tell(
    config: &Config,
    host: &model::HostSupport,
    isolators: &IsolatorSet,
    settings: &Settings,
    ids: &IdPool,
) {
    tracing::info!(
        version = crate::about::VERSION,
        pid = std::process::id(),
        kernel = %host.kernel_release,
        cgroups = crate::about::layout(host.layout),
        cgroup_root = %config.cgroup_root(),
        work_dir = %config.work_dir.display(),
        runtime_dir = %config.runtime_dir.display(),
        containers_max = settings.containers_max,
        "bulkhead agent"
    );
    for mut line in isolators.describe() {
        ids.complete(&mut line);
        if line.active {
            let missing = Some(line.missing).filter(|missing| !missing.is_empty());
            tracing::info!(isolator = %line.name, by = %line.mechanism, missing, "active");
        } else {
            tracing::warn!(isolator = %line.name, missing = %line.missing, "not available");
        }
    }
}

fn serve_clients(shell: &Rc<Shell>) -> Result<net::Task<()>, Fault> {
    let listener = net::UnixListener::bind(&shell.config.socket, 0o600).map_err(|e| failed(&e))?;
    let limit = net::ConnectionLimit::new(CONNECTIONS_MAX);
    let shell = shell.clone();
    let refusals = net::Refusals::default();
    Ok(net::spawn(async move {
        let limits = net::rpc::RpcLimits::default();
        let error = net::accept_loop(&listener, &limit, |stream, guard| {
            let proof = Proof::Peer(stream.peer().ok());
            let caller = (None, refusals.clone());
            serve_client(&shell, stream, proof, caller, guard, &limits);
        })
        .await;
        tracing::error!("the clients' socket is broken: {error}; restart the agent (containers run on)");
    }))
}

fn serve_tcp_clients(shell: &Rc<Shell>) -> Result<Option<net::Task<()>>, Fault> {
    let Some(address) = shell.config.listen else {
        return Ok(None);
    };
    let token: Rc<str> = shell.directories.token().map_err(|e| failed(&e))?.into();
    let listener = net::TcpListener::bind(address).map_err(|error| {
        let fault = Fault::failed(format!("listen on {address}: {error}")).field("listen");
        fault.remedy("choose another --listen address")
    })?;
    tracing::info!(address = %listener.local_address(), "listening for clients; BULKHEAD_TOKEN is in the runtime directory");
    let limit = net::ConnectionLimit::new(CONNECTIONS_MAX);
    let shell = shell.clone();
    let refusals = net::Refusals::default();
    Ok(Some(net::spawn(async move {
        let limits = net::rpc::RpcLimits::default();
        let error = net::accept_loop(&listener, &limit, |stream, guard| {
            let caller = (stream.peer_address().ok(), refusals.clone());
            serve_client(
                &shell,
                stream,
                Proof::Token(token.clone()),
                caller,
                guard,
                &limits,
            );
        })
        .await;
        tracing::error!("the clients' TCP socket is broken: {error}; restart the agent (containers run on)");
    })))
}

fn serve_client<S>(
    shell: &Rc<Shell>,
    stream: S,
    proof: Proof,
    (peer, refusals): (Option<std::net::SocketAddr>, net::Refusals),
    guard: net::ConnectionGuard,
    limits: &net::rpc::RpcLimits,
) where
    S: futures::AsyncRead + futures::AsyncWrite + Unpin + 'static,
{
    shell.metrics.connections.increment();
    let gate = GateService {
        shell: shell.clone(),
        proof,
        connection: guard.handle(),
    };
    let gate: wire::agent_capnp::gate::Client = capnp_rpc::new_client(gate);
    let connection = net::rpc::serve_limited(stream, gate.client, limits, guard.handle());
    net::spawn(async move {
        let reason = connection.await;
        if reason.is_misbehaviour() {
            if let Some(line) = refusals.first(peer, format_args!("connection cut off: {reason}")) {
                tracing::warn!(peer = peer.map(tracing::field::display), "{line}");
            }
        } else {
            tracing::debug!("connection ended: {reason}");
        }
        drop(guard);
    })
    .detach();
}

fn serve_http(shell: &Rc<Shell>) -> Result<(), Fault> {
    let Some(wanted) = shell.config.http else {
        return Ok(());
    };
    let listener = match net::TcpListener::bind(wanted.address) {
        Ok(listener) => listener,
        Err(error) if wanted.explicit => {
            let message = format!("listen on {}: {error}", wanted.address);
            return Err(Fault::new(FaultKind::Failed, message)
                .field("http")
                .remedy("choose another --http address, or none"));
        }
        Err(error) => {
            tracing::warn!(
                "no HTTP server: listen on {}: {error}; choose another --http address",
                wanted.address
            );
            return Ok(());
        }
    };
    let address = listener.local_address();
    *shell.http_address.borrow_mut() = Some(address);
    tracing::info!(%address, "HTTP server");
    let limits = net::http::HttpLimits {
        connections_max: HTTP_CONNECTIONS_MAX,
        header_deadline: Duration::from_secs(10),
        ..net::http::HttpLimits::default()
    };
    let shell = shell.clone();
    let handler: net::http::Handler =
        Rc::new(move |request| Box::pin(crate::endpoints::handle(shell.clone(), request)));
    net::spawn(async move {
        let error = net::http::serve(listener, handler, limits).await;
        tracing::error!("the HTTP socket is broken: {error}; restart the agent (containers run on)");
    })
    .detach();
    Ok(())
}
