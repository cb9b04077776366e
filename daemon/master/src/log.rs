//! Where the registry is kept, opened once for the life of the process.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use coordination::Replicas;
use model::Fault;
use registrar::{Kind, Storage};
use replog_core::ReplicaId;

use crate::config::Config;

/// The registry is mostly its last snapshot.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Links of other replicas, and tools.
const CONNECTIONS_MAX: usize = 256;
const DIRECTORY: &str = "replicated_log";
const MEMBERS: &str = "log_members";

/// The storage, and what has to go on for others to reach it.
pub struct Log {
    pub storage: Storage,
    _serving: Option<net::Task<()>>,
    _membership: Option<net::Task<()>>,
}

/// Opens it. With several masters and no list of replicas it waits for all of them to have been there once.
pub async fn open(config: &Config) -> Result<Log, Fault> {
    let flags = &config.flags;
    if flags.registry == Kind::InMemory {
        return Ok(Log {
            storage: Storage::in_memory(),
            _serving: None,
            _membership: None,
        });
    }
    let directory = flags.work_dir.join(DIRECTORY);
    std::fs::create_dir_all(&flags.work_dir).map_err(|error| {
        let fault = Fault::failed(format!("make {}: {error}", flags.work_dir.display()));
        fault
            .field("--work_dir")
            .remedy("name a directory that can be written")
    })?;
    let (Some(zk), Some(quorum)) = (flags.zk.clone(), flags.quorum) else {
        let storage = Storage::local(&directory).map_err(|error| unopened(&error))?;
        return Ok(Log {
            storage,
            _serving: None,
            _membership: None,
        });
    };
    let settings = coordination::Settings {
        session_timeout: flags.zk_session_timeout,
    };
    let mut replicas = Replicas::join(zk, config.log_address.to_string(), settings);
    let listener = net::TcpListener::bind(config.log_address).map_err(|error| {
        let fault = Fault::failed(format!("listen on {} for the log: {error}", config.log_address));
        fault.field("--log_port").remedy("choose another --log_port")
    })?;
    let members = members(config, &mut replicas, 2 * quorum as usize - 1).await?;
    let own = members.iter().position(|address| *address == config.log_address);
    let own = own.ok_or_else(|| {
        let file = flags.work_dir.join(MEMBERS);
        let message = format!(
            "{} is not among the log's replicas in {}",
            config.log_address,
            file.display()
        );
        Fault::invalid("--log_port", message)
            .remedy("give the address it had, or change the log's membership with `bulkhead log replace`")
    })?;
    let ids: BTreeMap<ReplicaId, String> = (1..)
        .map(ReplicaId)
        .zip(members.iter().map(SocketAddr::to_string))
        .collect();
    let id = ReplicaId(own as u64 + 1);
    let mut settings = replog_core::Settings::new(id);
    let all: BTreeSet<ReplicaId> = ids.keys().copied().collect();
    settings.initial = Some(all.clone());
    settings.contacts = all;
    tracing::info!(replica = %id, ?members, "log replica");
    let tls = crate::keys::tls(config)?;
    let replica = replog::Replica::open_secured(
        replog::Config {
            settings,
            peers: ids,
            directory,
            segment_bytes: SEGMENT_BYTES,
        },
        tls,
    )
    .map_err(|error| unopened(&error))?;
    let serving = replog::serve(
        replica.clone(),
        listener,
        net::ConnectionLimit::new(CONNECTIONS_MAX),
    );
    let serving = net::spawn(async move {
        let error = serving.await;
        tracing::error!("the log's socket is broken: {error}; restart this master");
    });
    let own: BTreeSet<String> = members.iter().map(SocketAddr::to_string).collect();
    let membership = net::spawn(async move {
        loop {
            let joined = replicas.changed().await;
            tracing::info!(members = ?joined, "log replicas in ZooKeeper");
            // A master with another --quorum has a log of its own, and would lead with a registry that knows none of the agents.
            let strangers: Vec<_> = joined.difference(&own).collect();
            if !strangers.is_empty() {
                tracing::error!(
                    ?strangers,
                    log = ?own,
                    "masters with other log replicas than this one's contend here, and would lead with a registry of their own: start all \
                     with the same --quorum, and the same --log_replicas if it is given; one that was added since belongs into log_members"
                );
            }
        }
    });
    Ok(Log {
        storage: Storage::replicated_log(replica),
        _serving: Some(serving),
        _membership: Some(membership),
    })
}

fn unopened(error: &(dyn std::error::Error + 'static)) -> Fault {
    Fault::from_error(model::FaultKind::Failed, error).field("--work_dir")
}

/// The addresses by which a replica's number is found: given, kept from an earlier start, or those that have joined.
async fn members(config: &Config, replicas: &mut Replicas, wanted: usize) -> Result<Vec<SocketAddr>, Fault> {
    let file = config.flags.work_dir.join(MEMBERS);
    if let Ok(text) = std::fs::read_to_string(&file) {
        let wrong = |error: std::net::AddrParseError| {
            let message = format!("{}: {error}", file.display());
            Fault::failed(message)
                .remedy("each line is IP:PORT of one replica, in the order of their numbers")
        };
        let kept: Vec<SocketAddr> = text
            .lines()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(wrong)?;
        if kept.len() != wanted {
            tracing::warn!(
                file = %file.display(),
                replicas = kept.len(),
                "--quorum means {wanted} replicas of the log, and it has others since its first start: its own members count; \
                 give --quorum={}, or change them with `bulkhead log add` or `remove`",
                kept.len() / 2 + 1
            );
        }
        return Ok(kept);
    }
    let mut members: BTreeSet<SocketAddr> = config.flags.log_replicas.iter().copied().collect();
    let mut joined = replicas.members();
    while members.len() != wanted {
        members = joined.iter().filter_map(|text| text.parse().ok()).collect();
        if members.len() >= wanted {
            break;
        }
        tracing::info!(
            there = members.len(),
            wanted,
            "waiting for the log's replicas to join in ZooKeeper"
        );
        joined = replicas.changed().await;
    }
    if members.len() > wanted {
        let message = format!(
            "{} log replicas have joined, and --quorum means {wanted}",
            members.len()
        );
        return Err(Fault::invalid("--quorum", message)
            .remedy("give all masters the same --quorum, or --log_replicas"));
    }
    let members: Vec<SocketAddr> = members.into_iter().collect();
    keep(&file, &members)?;
    Ok(members)
}

fn keep(file: &Path, members: &[SocketAddr]) -> Result<(), Fault> {
    let text: String = members.iter().map(|address| format!("{address}\n")).collect();
    std::fs::write(file, text)
        .map_err(|error| Fault::failed(format!("write {}: {error}", file.display())).field("--work_dir"))
}
