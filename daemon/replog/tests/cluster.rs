//! Real replicas on loopback, each with a directory of its own: they find each other, agree, survive and come back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use net::{ConnectionLimit, TcpListener};
use replog::{Config, Replica};
use replog_core::{Position, ReplicaId, Settings, Status, Value};

struct Cluster {
    directory: tempfile::TempDir,
    addresses: BTreeMap<ReplicaId, String>,
    running: BTreeMap<ReplicaId, (Replica, net::Task<()>)>,
}

impl Cluster {
    fn new(count: u64) -> Self {
        let mut addresses = BTreeMap::new();
        for id in 1..=count {
            // Taken and given back: the port is ours again in a moment.
            let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            addresses.insert(ReplicaId(id), taken.local_addr().unwrap().to_string());
        }
        Self {
            directory: tempfile::tempdir().unwrap(),
            addresses,
            running: BTreeMap::new(),
        }
    }

    fn path(&self, id: u64) -> std::path::PathBuf {
        self.directory.path().join(id.to_string())
    }

    fn start(&mut self, id: u64) -> Replica {
        let replica_id = ReplicaId(id);
        let ids: BTreeSet<_> = self.addresses.keys().copied().collect();
        let mut settings = Settings::new(replica_id);
        settings.initial = Some(ids.clone());
        settings.contacts = ids;
        let config = Config {
            settings,
            peers: self.addresses.clone(),
            directory: self.path(id),
            segment_bytes: 1 << 20,
        };
        let replica = Replica::open(config).unwrap();
        let listener = TcpListener::bind(self.addresses[&replica_id].parse().unwrap()).unwrap();
        let server = replog::serve(replica.clone(), listener, ConnectionLimit::new(64));
        let task = net::spawn(async move { drop(server.await) });
        self.running.insert(replica_id, (replica.clone(), task));
        replica
    }

    async fn stop(&mut self, id: u64) {
        let (replica, task) = self.running.remove(&ReplicaId(id)).unwrap();
        replica.stop();
        drop(task);
        // What was on its way to the disk ends there.
        net::sleep(Duration::from_millis(100)).await;
    }
}

async fn until(what: &str, met: impl Fn() -> bool) {
    for _ in 0..2000 {
        if met() {
            return;
        }
        net::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within 20 s");
}

async fn elected(replica: &Replica) -> Position {
    for _ in 0..200 {
        match replica.elect(0).await {
            Ok((position, _)) => return position,
            Err(_) => net::sleep(Duration::from_millis(50)).await,
        }
    }
    panic!("not elected within 10 s");
}

fn run(test: impl Future<Output = ()>) {
    net::run(net::Config::default(), test).unwrap();
}

fn entries(values: &[Value]) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::Append(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    };
    values.iter().filter_map(text).collect()
}

async fn all(replica: &Replica) -> Vec<String> {
    let mut values = Vec::new();
    let mut first = replica.status().begin;
    while first <= replica.status().learned {
        let part = replica.read(first, replica.status().learned).await.unwrap();
        assert!(!part.is_empty(), "nothing to read at {first}");
        first = first.plus(part.len());
        values.extend(part);
    }
    entries(&values)
}

#[test]
fn three_replicas_agree_and_one_that_was_away_catches_up() {
    run(async {
        let mut cluster = Cluster::new(3);
        let first = cluster.start(1);
        let second = cluster.start(2);
        let third = cluster.start(3);
        until("three voting replicas", || {
            [&first, &second, &third]
                .iter()
                .all(|replica| replica.status().status == Status::Voting)
        })
        .await;
        elected(&first).await;
        let written =
            join_all((0..200).map(|number| first.append(format!("entry {number}").into_bytes()))).await;
        let positions: Vec<_> = written.into_iter().map(|position| position.unwrap()).collect();
        assert!(
            positions.windows(2).all(|pair| pair[0] < pair[1]),
            "{positions:?}"
        );
        cluster.stop(3).await;
        for number in 200..260 {
            first
                .append(format!("entry {number}").into_bytes())
                .await
                .unwrap();
        }
        let third = cluster.start(3);
        until("the third knows all", || {
            third.status().learned >= first.status().learned
        })
        .await;
        let expected: Vec<_> = (0..260).map(|number| format!("entry {number}")).collect();
        assert_eq!(all(&third).await, expected);
        // Another writer shuts the first one out, and knows what it wrote.
        elected(&second).await;
        assert!(first.append(b"late".to_vec()).await.is_err());
        second.append(b"entry 260".to_vec()).await.unwrap();
        assert_eq!(all(&second).await.len(), 261);
    });
}

#[test]
fn a_wiped_disk_and_a_damaged_one_recover_by_themselves() {
    run(async {
        let mut cluster = Cluster::new(3);
        let first = cluster.start(1);
        cluster.start(2);
        cluster.start(3);
        elected(&first).await;
        for number in 0..100 {
            first
                .append(format!("entry {number}").into_bytes())
                .await
                .unwrap();
        }
        cluster.stop(2).await;
        std::fs::remove_dir_all(cluster.path(2)).unwrap();
        let second = cluster.start(2);
        until("the wiped one votes again", || {
            second.status().status == Status::Voting
        })
        .await;
        assert_eq!(all(&second).await.len(), 100);
        cluster.stop(3).await;
        damage(&cluster.path(3));
        let third = cluster.start(3);
        until("the damaged one votes again", || {
            third.status().status == Status::Voting
        })
        .await;
        first.append(b"after".to_vec()).await.unwrap();
        until("it has all", || third.status().learned >= first.status().learned).await;
        assert_eq!(all(&third).await.len(), 101);
    });
}

/// Flips a bit in the middle of what was written.
fn damage(directory: &Path) {
    let path = directory.join("0000000000000001.segment");
    let mut bytes = std::fs::read(&path).unwrap();
    let written = bytes[..bytes.len() - 512]
        .iter()
        .rposition(|byte| *byte != 0)
        .unwrap();
    bytes[written / 2] ^= 8;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn all_stopped_at_once_come_back_with_everything() {
    run(async {
        let mut cluster = Cluster::new(3);
        let first = cluster.start(1);
        cluster.start(2);
        cluster.start(3);
        elected(&first).await;
        join_all((0..50).map(|number| first.append(format!("entry {number}").into_bytes()))).await;
        first.truncate(Position(10)).await.unwrap();
        let begin = first.status().begin;
        for id in 1..=3 {
            cluster.stop(id).await;
        }
        let (_, second, _) = (cluster.start(1), cluster.start(2), cluster.start(3));
        let end = elected(&second).await;
        assert!(end.0 > 50);
        assert_eq!(second.status().begin, begin);
        assert_eq!(all(&second).await.last().unwrap(), "entry 49");
    });
}

#[test]
fn an_entry_that_no_segment_could_take_is_refused_and_nothing_stops() {
    run(async {
        let mut cluster = Cluster::new(3);
        let first = cluster.start(1);
        cluster.start(2);
        cluster.start(3);
        elected(&first).await;
        // With segments of 1 MiB. As many of the largest as may be in flight go together.
        let outcomes = first
            .append_each(vec![vec![7; 900 << 10].into(), vec![7; 100 << 10].into()])
            .await
            .unwrap();
        let refusal = outcomes[0].as_ref().unwrap_err().to_string();
        assert!(refusal.contains("921600 bytes"), "{refusal}");
        assert!(outcomes[1].is_ok());
        let asked = (0..64).map(|part| first.append(vec![part; 100 << 10]));
        futures::future::try_join_all(asked).await.unwrap();
        first.append(b"after".to_vec()).await.unwrap();
    });
}

#[test]
fn a_full_disk_stops_the_replica_and_the_others_go_on() {
    run(async {
        let mut cluster = Cluster::new(3);
        let first = cluster.start(1);
        let second = cluster.start(2);
        cluster.start(3);
        elected(&first).await;
        first.append(b"before".to_vec()).await.unwrap();
        // No further segment can be made: the directory is gone from under it.
        std::fs::remove_dir_all(cluster.path(2)).unwrap();
        let large = vec![7; 100 << 10];
        for _ in 0..24 {
            first.append(large.clone()).await.unwrap();
        }
        until("the second has stopped", || second.status().halted.is_some()).await;
        let why = second.status().halted.unwrap();
        assert!(why.contains("segment"), "{why}");
        first.append(b"after".to_vec()).await.unwrap();
    });
}
