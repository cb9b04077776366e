//! The registry on real logs: three replicas on loopback, one in a directory, and none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use model::registry::{AgentId, AgentRecord, Edit, MasterRecord, Registry};
use net::{ConnectionLimit, TcpListener};
use registrar::{NotApplied, Registrar, Settings, Storage, contents};
use replog::{Client, Config, Replica};
use replog_core::ReplicaId;

fn run(test: impl Future<Output = ()>) {
    net::run(net::Config::default(), test).unwrap();
}

struct Cluster {
    addresses: BTreeMap<ReplicaId, String>,
    replicas: Vec<(Replica, net::Task<()>)>,
    _directory: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let addresses: BTreeMap<_, _> = (1..=3)
            .map(|id| {
                // Taken and given back: the port is ours again in a moment.
                let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                (ReplicaId(id), taken.local_addr().unwrap().to_string())
            })
            .collect();
        let ids: BTreeSet<_> = addresses.keys().copied().collect();
        let start = |(id, address): (&ReplicaId, &String)| {
            let mut settings = replog_core::Settings::new(*id);
            settings.initial = Some(ids.clone());
            settings.contacts = ids.clone();
            let config = Config {
                settings,
                peers: addresses.clone(),
                directory: directory.path().join(id.to_string()),
                segment_bytes: 4 << 20,
            };
            let replica = Replica::open(config).unwrap();
            let listener = TcpListener::bind(address.parse().unwrap()).unwrap();
            let server = replog::serve(replica.clone(), listener, ConnectionLimit::new(64));
            (replica, net::spawn(async move { drop(server.await) }))
        };
        Self {
            replicas: addresses.iter().map(start).collect(),
            addresses,
            _directory: directory,
        }
    }

    fn storage(&self, number: usize) -> Storage {
        Storage::replicated_log(self.replicas[number].0.clone())
    }

    fn stop(&mut self, number: usize) {
        self.replicas[number].0.stop();
        self.replicas[number].1 = net::spawn(async {});
    }
}

fn master(term: u64) -> MasterRecord {
    MasterRecord {
        id: format!("m{term}"),
        address: "127.0.0.1:5050".into(),
        term,
        ..MasterRecord::default()
    }
}

fn agent(number: u64) -> AgentId {
    AgentId(format!("agent-{number:05}"))
}

fn admit(number: u64) -> Edit {
    Edit::Admit {
        id: agent(number),
        record: AgentRecord {
            hostname: format!("host{number}.example.org"),
            address: "10.0.0.1:5051".into(),
            resources: "cpus:24;mem:24576;ports:[31000-32000]".parse().unwrap(),
            attributes: "rack:a1;level:3".parse().unwrap(),
            version: "1.0".into(),
            capabilities: ["MULTI_ROLE".to_owned()].into(),
        },
        key: format!("{number:032x}"),
    }
}

/// Snapshots soon, so that they are part of every test.
fn settings() -> Settings {
    Settings {
        snapshot_bytes_min: 4 << 10,
        ..Settings::default()
    }
}

fn same(one: &Registry, other: &Registry) -> bool {
    let masterless = |registry: &Registry| Registry {
        master: None,
        ..registry.clone()
    };
    masterless(one) == masterless(other)
}

async fn lead(storage: Storage, term: u64) -> Registrar {
    Registrar::lead(storage, master(term), settings()).await.unwrap()
}

#[test]
fn the_next_leader_has_what_was_answered_and_the_last_one_is_told() {
    run(async {
        let cluster = Cluster::start();
        let first = lead(cluster.storage(0), 1).await;
        let done = join_all((0..300).map(|number| first.apply(admit(number)))).await;
        assert!(done.iter().all(Result::is_ok), "{done:?}");
        assert!(matches!(first.apply(admit(3)).await, Err(NotApplied::Refused(_))));
        assert!(first.store_times().count < 20, "{:?}", first.store_times());
        // Readers anywhere see it, without being in anybody's way.
        let seen = contents(&cluster.storage(2), true).await.unwrap();
        assert!(same(&seen.registry, &first.registry()));
        let remote = Storage::remote(
            Client::connect(&cluster.addresses[&ReplicaId(2)], None)
                .await
                .unwrap(),
        );
        assert!(same(
            &contents(&remote, true).await.unwrap().registry,
            &first.registry()
        ));
        let second = lead(cluster.storage(1), 2).await;
        assert!(same(&second.registry(), &first.registry()));
        assert_eq!(second.registry().master, Some(master(2)));
        // Idle, it hears of its end; and then takes nothing more.
        let cause = net::timeout(Duration::from_secs(5), first.failed())
            .await
            .unwrap();
        assert!(cause.contains("another writer"), "{cause}");
        assert!(matches!(
            first.apply(admit(301)).await,
            Err(NotApplied::NotTaken(_))
        ));
        second.apply(admit(301)).await.unwrap();
        assert_eq!(second.registry().agents.len(), 301);
    });
}

#[test]
fn a_demoted_leader_that_writes_does_not_know_what_became_of_it() {
    run(async {
        let cluster = Cluster::start();
        let first = lead(cluster.storage(0), 1).await;
        let second = lead(cluster.storage(1), 2).await;
        let told = first.apply(admit(1)).await.unwrap_err();
        assert!(
            matches!(told, NotApplied::Unknown(_) | NotApplied::NotTaken(_)),
            "{told:?}"
        );
        assert!(second.registry().agents.is_empty());
        // A leader of an older term does not come to lead again.
        let late = Registrar::lead(cluster.storage(0), master(1), settings()).await;
        assert!(late.err().unwrap().to_string().contains("term"));
    });
}

#[test]
fn without_a_quorum_writes_and_elections_end_in_time() {
    run(async {
        let mut cluster = Cluster::start();
        let quick = Settings {
            store_timeout: Duration::from_secs(1),
            fetch_timeout: Duration::from_secs(2),
            ..settings()
        };
        let first = Registrar::lead(cluster.storage(0), master(1), quick.clone())
            .await
            .unwrap();
        cluster.stop(1);
        first.apply(admit(1)).await.unwrap();
        cluster.stop(2);
        let began = net::now();
        let told = first.apply(admit(2)).await.unwrap_err();
        assert!(matches!(told, NotApplied::Unknown(_)), "{told:?}");
        assert!(net::now() - began < Duration::from_secs(3));
        let late = Registrar::lead(cluster.storage(0), master(2), quick).await.err();
        assert!(late.unwrap().to_string().contains("2 s"));
    });
}

/// Larger than one entry of the log, so in parts; and the log before it goes.
#[test]
fn large_snapshots_go_in_parts_and_shorten_the_log() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::local(directory.path()).unwrap();
        let first = lead(storage.clone(), 1).await;
        for part in 0..6 {
            let edits = (part * 1000..(part + 1) * 1000).map(|number| first.apply(admit(number)));
            assert!(join_all(edits).await.iter().all(Result::is_ok));
        }
        // One more makes the snapshot of all of them due, as its deltas weigh more.
        first.apply(Edit::Remove { id: agent(1) }).await.unwrap();
        let expected = first.registry().clone();
        assert_eq!(expected.agents.len(), 5999);
        let seen = contents(&storage, true).await.unwrap();
        assert!(
            seen.registry == expected && seen.bytes > 1 << 20,
            "{}",
            seen.bytes
        );
        assert!(seen.records < 10, "{}", seen.records);
        let replica = storage.replica().unwrap();
        for _ in 0..100 {
            if replica.status().begin.0 > 1 {
                break;
            }
            net::sleep(Duration::from_millis(20)).await;
        }
        assert!(replica.status().begin.0 > 1, "not truncated");
        again(directory.path(), &storage, &expected).await;
    });
}

async fn again(directory: &Path, storage: &Storage, expected: &Registry) {
    storage.replica().unwrap().stop();
    net::sleep(Duration::from_millis(200)).await;
    let second = lead(Storage::local(directory).unwrap(), 2).await;
    assert!(same(&second.registry(), expected));
}

#[test]
fn in_memory_it_is_the_same_but_forgotten() {
    run(async {
        let storage = Storage::in_memory();
        let first = lead(storage.clone(), 1).await;
        for number in 0..200 {
            first.apply(admit(number)).await.unwrap();
        }
        let second = lead(storage.clone(), 2).await;
        assert!(same(&second.registry(), &first.registry()));
        assert!(first.apply(admit(500)).await.is_err());
        let third = lead(Storage::in_memory(), 1).await;
        assert!(third.registry().agents.is_empty());
    });
}

#[test]
fn a_log_of_something_else_is_refused() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::local(directory.path()).unwrap();
        let replica = storage.replica().unwrap();
        for _ in 0..100 {
            if replica.elect(0).await.is_ok() {
                break;
            }
            net::sleep(Duration::from_millis(50)).await;
        }
        replica.append(b"shopping list".to_vec()).await.unwrap();
        let refused = Registrar::lead(storage.clone(), master(1), settings()).await;
        let cause = refused.err().unwrap().to_string();
        assert!(cause.contains("somebody else writes"), "{cause}");
    });
}
