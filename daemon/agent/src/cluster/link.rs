//! The one connection to the leader: found, opened, registered over, watched, and given up.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use agent_core::TaskEvent;
use coordination::{Detector, Place};
use futures::future::{Either, select};
use model::task::{Hello, Refusal};
use model::{Credential, Fault, FaultKind};
use net::scram::Client as Scram;
use wire::master_capnp::{gate, hall, orders};

use crate::cluster::flags::ClusterFlags;
use crate::cluster::orders::{Line, OrdersService};
use crate::cluster::{Cluster, journal, offer};

const CERTIFICATES: &str = "both certificates have to be of one authority, valid now by both clocks, and the master's for its address";
/// For the reason why a connection has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);
const CONNECT: Duration = Duration::from_secs(5);
/// For the master's answer to a registration: the registry may be busy.
const ANSWER: Duration = Duration::from_secs(60);
/// A herd of agents finds the same leader at the same time: each waits for a random part of this first.
const SPREAD: Duration = Duration::from_millis(250);
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A new leader reads the registry first: so soon, and so often, it is asked again before it counts as a failure.
const PAUSE_NOT_YET: Duration = Duration::from_millis(100);
const NOT_YET_MAX: u32 = 50;
/// One that is not of the cluster asks again only now and then: somebody may have changed his mind.
const PAUSE_OUTSIDE: Duration = Duration::from_secs(60);
/// A herd of launches comes over this connection.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Why a session, or an attempt at one, is over.
enum End {
    /// The leader is another one, or none.
    Changed,
    Failed(Fault),
    /// It is elected, and does not lead yet: the registry is being read.
    NotYet(Fault),
    /// A master that does not lead said who does.
    Elsewhere(SocketAddr),
    Outside(Fault),
}

pub async fn keep_registered(cluster: Rc<Cluster>, place: Place) {
    let shown = place.to_string();
    let mut detector = Detector::start(place, coordination::Settings::default());
    let mut pause = PAUSE_FIRST;
    let mut elsewhere = None;
    let mut told = String::new();
    let mut not_yet = 0;
    loop {
        let Some(leader) = detector.leader() else {
            if net::timeout(SPREAD, detector.changed()).await.is_err() {
                tracing::info!(place = shown, "no master leads; tasks run on");
                detector.changed().await;
            }
            elsewhere = None;
            continue;
        };
        if leader.term.is_some_and(|term| term.0 < cluster.term.get()) {
            tracing::warn!(term = %leader.term.unwrap_or_default(), "a leader of an earlier term is not ours");
            detector.changed().await;
            continue;
        }
        let address = elsewhere.take().unwrap_or_else(|| leader.info.rpc());
        net::sleep(part_of(SPREAD)).await;
        let (ended, registered) =
            session(&cluster, address, leader.term.map(|term| term.0), &mut detector).await;
        if registered {
            (pause, not_yet) = (PAUSE_FIRST, 0);
        }
        let (wait, said) = match ended {
            End::Changed => {
                not_yet = 0;
                (Duration::ZERO, String::new())
            }
            End::Elsewhere(other) => {
                elsewhere = Some(other);
                (Duration::ZERO, String::new())
            }
            End::NotYet(_) if not_yet < NOT_YET_MAX => {
                not_yet += 1;
                (PAUSE_NOT_YET, String::new())
            }
            End::Failed(fault) | End::NotYet(fault) => (pause, fault.to_string()),
            End::Outside(fault) => {
                cluster.end_tasks().await;
                let fault = fault.remedy(format!(
                    "to let this host join as a new agent remove {} and restart the agent",
                    cluster.shell.directories.agent_id().display()
                ));
                (PAUSE_OUTSIDE, fault.to_string())
            }
        };
        if said.is_empty() {
            pause = PAUSE_FIRST;
        } else {
            // Once for each reason: it is tried for as long as it takes.
            if said != told {
                tracing::warn!(master = %address, "not registered: {said}; trying on");
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
        told = said;
        let wait = wait / 2 + part_of(wait / 2);
        // A new leader is worth an attempt at once.
        if net::timeout(wait, detector.changed()).await.is_ok() {
            (pause, not_yet) = (PAUSE_FIRST, 0);
        }
    }
}

fn part_of(whole: Duration) -> Duration {
    let random = net::random().unwrap_or_default() as u32;
    whole.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// From connecting to the end, whatever ends it, and whether the master had let us in. Nothing of it is left afterwards.
async fn session(
    cluster: &Rc<Cluster>,
    address: SocketAddr,
    term: Option<u64>,
    detector: &mut Detector,
) -> (End, bool) {
    let line = Line::new(cluster.clone());
    let ended = {
        let working = std::pin::pin!(attend(cluster, &line, address, term));
        match select(working, std::pin::pin!(detector.changed())).await {
            Either::Left((end, _)) => end,
            Either::Right(_) => End::Changed,
        }
    };
    line.open.set(false);
    line.welcomed.set();
    cluster.session.borrow_mut().take();
    cluster.shell.metrics.registered.set(false);
    cluster.event(TaskEvent::Parted);
    (ended, line.term.get().is_some())
}

async fn attend(cluster: &Rc<Cluster>, line: &Rc<Line>, address: SocketAddr, term: Option<u64>) -> End {
    let flags = &cluster.shell.config.cluster;
    if !address.ip().is_loopback() && !flags.insecure && flags.tls.is_none() {
        let message = format!("the master at {address} is not on loopback, and there would be no encryption");
        return End::Failed(
            Fault::new(FaultKind::Denied, message)
                .remedy("give --tls=DIR, or --insecure on a trusted network"),
        );
    }
    let stream = match net::timeout(CONNECT, net::TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return End::Failed(Fault::failed(format!("connect to the master: {error}"))),
        Err(_) => return End::Failed(Fault::failed("the master does not answer")),
    };
    let stream = match secure(flags, stream, address).await {
        Ok(stream) => stream,
        Err(fault) => return End::Failed(fault),
    };
    let limits = net::rpc::RpcLimits {
        message_bytes_max: MESSAGE_BYTES_MAX,
        ..net::rpc::RpcLimits::default()
    };
    let (connection, gate): (_, gate::Client) = net::rpc::connect(stream, &limits);
    let working = std::pin::pin!(converse(cluster, line, gate, term));
    match select(working, std::pin::pin!(connection)).await {
        // What the master has against our certificate it says only when we have begun to speak.
        Either::Left((End::Failed(fault), connection)) => match net::timeout(LAST_WORDS, connection).await {
            Ok(net::rpc::CloseReason::Stream(error)) => End::Failed(untrusted(address, &error)),
            _ => End::Failed(fault),
        },
        Either::Left((end, _)) => end,
        Either::Right((net::rpc::CloseReason::Stream(error), _)) => End::Failed(untrusted(address, &error)),
        Either::Right((net::rpc::CloseReason::PeerClosed, _)) if line.term.get().is_none() => {
            End::Failed(strange(address, flags))
        }
        Either::Right((reason, _)) => End::Failed(Fault::failed(format!("the connection ended: {reason}"))),
    }
}

/// Whoever is there has closed the connection before it said a word.
fn strange(address: SocketAddr, flags: &ClusterFlags) -> Fault {
    let fault = Fault::failed(format!("{address} has closed the connection without an answer"));
    fault.remedy(match flags.tls {
        Some(_) => "see that it is a master's port, and that master's log",
        None => "see that it is a master's port, and whether that master wants TLS (--tls=DIR)",
    })
}

fn untrusted(address: SocketAddr, error: &std::io::Error) -> Fault {
    if error.kind() != std::io::ErrorKind::InvalidData {
        return Fault::failed(format!("the connection ended: {error}"));
    }
    let message = format!("TLS with the master at {address}: {error}");
    Fault::new(FaultKind::Denied, message).remedy(CERTIFICATES)
}

/// Behind a handshake, where certificates are configured.
async fn secure(
    flags: &ClusterFlags,
    stream: net::TcpStream,
    address: SocketAddr,
) -> Result<net::Link, Fault> {
    let Some(directory) = &flags.tls else {
        return Ok(net::Link::Plain(stream));
    };
    let files = net::TlsFiles::in_directory(directory);
    let tls =
        net::Tls::load(&files).map_err(|error| Fault::from_error(FaultKind::Invalid, &error).field("tls"))?;
    let secured = tls
        .connect(stream, &address.ip().to_string())
        .await
        .map_err(|error| untrusted(address, &error))?;
    Ok(net::Link::Secured(Box::new(secured)))
}

async fn converse(cluster: &Rc<Cluster>, line: &Rc<Line>, gate: gate::Client, term: Option<u64>) -> End {
    match net::timeout(ANSWER, enter(cluster, line, gate, term)).await {
        Ok(Ok(silence_max)) => stay(line, silence_max).await,
        Ok(Err(end)) => end,
        Err(_) => End::Failed(Fault::failed(
            "the master did not answer the registration in time",
        )),
    }
}

fn lost(error: capnp::Error) -> End {
    if error.kind == capnp::ErrorKind::Unimplemented {
        let message = format!(
            "the master does not know what this agent, of version {}, asks for",
            crate::about::VERSION
        );
        let fault = Fault::new(FaultKind::Unsupported, message);
        return End::Failed(
            fault.remedy("use the same version of bulkhead on both; masters are renewed first"),
        );
    }
    End::Failed(Fault::failed(error.to_string()))
}

fn failed(error: &(dyn std::error::Error + 'static)) -> End {
    End::Failed(Fault::from_error(FaultKind::Denied, error))
}

/// What a master on this host has left for its agent, if it is where masters are started without flags.
const CREDENTIAL_DEFAULT: &str = "/var/lib/bulkhead-master/credential";

/// Read for each attempt: it may be put right while the agent runs.
fn credential(flags: &ClusterFlags) -> Result<Option<Credential>, Fault> {
    let default = std::path::Path::new(CREDENTIAL_DEFAULT);
    let path = match &flags.credential {
        Some(path) => path.as_path(),
        None if !flags.insecure && default.exists() => default,
        None => return Ok(None),
    };
    let wrong = |message: String| Fault::invalid("credential", format!("{}: {message}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    api::credentials::one(&text)
        .map(Some)
        .map_err(|error| wrong(error.to_string()))
}

/// That we know the secret, and that the master does.
async fn prove(scram: &Scram, begun: gate::authenticate_results::Reader<'_>) -> Result<hall::Client, End> {
    let text = |value| wire::agent::decode_text("scram", value).map_err(End::Failed);
    let challenge = text(begun.get_challenge())?;
    let (proof, expected) = scram.prove(&challenge).map_err(|error| failed(&error))?;
    let login = begun.get_login().map_err(lost)?;
    let mut request = login.prove_request();
    request.get().set_scram(proof);
    let answer = request.send().promise.await.map_err(lost)?;
    let result = answer.get().map_err(lost)?;
    wire::fault::check(result.get_fault()).map_err(End::Failed)?;
    let verifier = text(result.get_verifier())?;
    expected.check(&verifier).map_err(|error| failed(&error))?;
    result.get_hall().map_err(lost)
}

/// Through the gate and into the registry. How long the master may be silent.
async fn enter(
    cluster: &Rc<Cluster>,
    line: &Rc<Line>,
    gate: gate::Client,
    term: Option<u64>,
) -> Result<Duration, End> {
    let shell = &cluster.shell;
    let mut request = gate.authenticate_request();
    request.get().set_client("bulkhead agent");
    request.get().set_version(crate::about::VERSION);
    let scram = match credential(&shell.config.cluster).map_err(End::Failed)? {
        Some(credential) => {
            let nonce = net::random().map_err(|error| failed(&error))?;
            Some(Scram::new(credential, nonce))
        }
        None => None,
    };
    if let Some(scram) = &scram {
        request.get().set_scram(scram.first());
    }
    let answer = request.send().promise.await.map_err(lost)?;
    let result = answer.get().map_err(lost)?;
    if let Err(fault) = wire::fault::check(result.get_fault()) {
        let leader = result.get_leader().ok().and_then(|text| text.to_str().ok());
        return Err(match leader.and_then(|text| text.parse().ok()) {
            // Where nobody elects: a place that names one master of several.
            Some(address) if term.is_none() => End::Elsewhere(address),
            _ if fault.kind == FaultKind::Unavailable => End::NotYet(fault),
            _ => End::Failed(fault),
        });
    }
    let hall = match scram {
        Some(scram) => prove(&scram, result).await?,
        None => result.get_hall().map_err(lost)?,
    };
    let id = cluster.id.borrow().clone();
    let key = match &id {
        Some(_) => String::new(),
        None => journal::key(shell).await.map_err(End::Failed)?,
    };
    let hello = Hello {
        id,
        key,
        record: offer::record(shell).map_err(End::Failed)?,
        boot_id: shell.host.boot_id.clone(),
        term: cluster.term.get(),
        tasks: cluster.book.borrow().reports(),
    };
    let told = hello
        .tasks
        .iter()
        .map(|task| (task.id.clone(), task.sequence))
        .collect();
    let mut request = hall.register_request();
    wire::master::encode_hello(&hello, request.get().init_hello());
    let orders: orders::Client = capnp_rpc::new_client(OrdersService(line.clone()));
    request.get().set_orders(orders);
    let answer = request.send().promise.await.map_err(lost)?;
    let result = answer.get().map_err(lost)?;
    if let Err(fault) = wire::fault::check(result.get_fault()) {
        let refusal = wire::master::decode_refusal(result.get_refusal()).unwrap_or(Refusal::Retry);
        return Err(match refusal {
            Refusal::Shutdown => End::Outside(fault),
            Refusal::Retry => End::Failed(fault),
        });
    }
    let welcome = result.get_welcome().map_err(lost)?;
    let welcome = wire::master::decode_welcome(welcome).map_err(End::Failed)?;
    let highest = cluster.term.get();
    if welcome.term < highest || term.is_some_and(|term| term != welcome.term) {
        let message = format!(
            "the master is of term {}, and this agent has seen a leader of term {}",
            welcome.term,
            highest.max(term.unwrap_or(0))
        );
        return Err(End::Failed(Fault::new(FaultKind::Denied, message)));
    }
    if welcome.term > highest {
        journal::keep_term(shell, welcome.term)
            .await
            .map_err(End::Failed)?;
        cluster.term.set(welcome.term);
    }
    if cluster.id.borrow().as_ref() != Some(&welcome.id) {
        journal::keep_id(shell, &welcome.id).await.map_err(End::Failed)?;
        *cluster.id.borrow_mut() = Some(welcome.id.clone());
    }
    tracing::info!(agent = %welcome.id.0, term = welcome.term, "registered");
    *cluster.session.borrow_mut() = Some(result.get_session().map_err(lost)?);
    shell.metrics.registered.set(true);
    line.term.set(Some(welcome.term));
    line.heard.set(net::now());
    line.welcomed.set();
    cluster.event(TaskEvent::Welcomed { told });
    Ok(Duration::from_millis(welcome.silence_max_ms))
}

/// Until the master has ended the session, or says nothing for too long.
async fn stay(line: &Rc<Line>, silence_max: Duration) -> End {
    loop {
        let quiet = net::now().saturating_duration_since(line.heard.get());
        let Some(left) = silence_max.checked_sub(quiet).filter(|left| !left.is_zero()) else {
            return End::Failed(Fault::failed(format!(
                "the master said nothing for {} s",
                silence_max.as_secs()
            )));
        };
        if net::timeout(left, line.released.wait()).await.is_ok() {
            let message = "the master ended the session";
            return match line.shutdown.get() {
                true => End::Outside(Fault::new(FaultKind::Denied, message)),
                false => End::Changed,
            };
        }
    }
}
