//! What disks and links do to a replica: told, repaired, never forgotten and never served.

#[path = "store/disk.rs"]
mod disk;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use disk::Disk;
use net::{ConnectionLimit, TcpListener};
use replog::{
    Config, Directory as _, DiskDirectory, Entry, Found, Ledger, LogError, Options, Replica, Store, salvage,
};
use replog_core::{
    Ballot, Epoch, Incarnation, Member, Membership, Position, Record, ReplicaId, Settings, Status, Value,
};

const OPTIONS: Options = Options {
    segment_bytes: 16 << 10,
    new_id: 3,
};

fn member(incarnation: u64) -> Member {
    Member {
        replica: ReplicaId(1),
        incarnation: Incarnation(incarnation),
    }
}

fn accepted(at: u64, committed: u64) -> Record {
    Record::Accepted {
        epoch: Epoch {
            since: Position(0),
            ballot: Ballot {
                term: 1,
                replica: ReplicaId(1),
            },
        },
        first: Position(at),
        values: vec![Value::Append(vec![at as u8; 900].into())],
        replaces: false,
        committed: Position(committed),
    }
}

/// A voting replica's disk with several segments, the last two of its values only accepted.
fn written() -> Disk {
    let disk = Disk::default();
    let (mut ledger, _) = Ledger::open(disk.clone(), OPTIONS).unwrap();
    ledger
        .persist(&[Record::Identity(member(1)), Record::Status(Status::Voting)])
        .unwrap();
    for at in 1..=60u64 {
        ledger.persist(&[accepted(at, at.saturating_sub(2))]).unwrap();
    }
    disk
}

fn segments(disk: &Disk) -> Vec<String> {
    let mut names = disk.names();
    names.retain(|name| name.ends_with(".segment"));
    names
}

#[test]
fn damage_is_told_at_every_start_until_the_replica_is_another_one() {
    for segment in 0..segments(&written()).len() {
        let disk = written();
        let name = segments(&disk)[segment].clone();
        // Without its index the segment is read whole at the next start.
        let index = name.replace(".segment", ".index");
        disk.remove(&index).unwrap();
        disk.change(&name, 3000, 4);
        for _ in 0..3 {
            // Each of these dies before it has repaired anything.
            let (_, found) = Ledger::open(disk.clone(), OPTIONS).unwrap();
            assert!(found.damaged, "segment {name}");
        }
        let (ledger, found) = Ledger::open(disk.clone(), OPTIONS).unwrap();
        let begun = disk.events.borrow().len();
        let (_, after) = ledger
            .repair(&found.details, &[Record::Reborn(member(2))])
            .unwrap();
        assert!(!after.damaged, "{after:?}");
        die_within(&disk, begun);
    }
}

/// After a crash at any point of the repair a start finds the damage, or another member without promises or a tail.
fn die_within(disk: &Disk, begun: usize) {
    let events = disk.events.borrow().clone();
    let mut reborn = 0;
    for crash in begun..=events.len() {
        let (files, unsynced) = Disk::after(&events[..crash]);
        for kept in [&unsynced[..0], &unsynced[..]] {
            let kept: Vec<_> = kept.iter().collect();
            let rest = Disk::of(&files, &kept);
            flip_like(disk, &rest);
            let (_, found) = Ledger::open(rest, OPTIONS).unwrap();
            if found.damaged {
                continue;
            }
            let state = found.state.unwrap();
            assert_eq!(
                (state.member, state.status, state.tail.len()),
                (member(2), Status::Recovering, 0),
                "crash at {crash}: {:?}",
                found.details
            );
            reborn += 1;
        }
    }
    assert!(reborn > 0);
}

/// The flipped bit and the removed index are not among the events.
fn flip_like(disk: &Disk, rest: &Disk) {
    for event in disk.events.borrow().iter() {
        let disk::Event::Remove { name } = event else {
            continue;
        };
        let segment = name.replace(".index", ".segment");
        if name.ends_with(".index") && rest.names().contains(&segment) && !is_rebuilt(disk, rest, &segment) {
            rest.change(&segment, 3000, 4);
            return;
        }
    }
}

fn is_rebuilt(disk: &Disk, rest: &Disk, segment: &str) -> bool {
    disk.names().iter().any(|name| name == segment) && rest.content(segment) == disk.content(segment)
}

#[test]
fn a_last_segment_that_is_missing_is_damage() {
    let disk = written();
    let last = segments(&disk).pop().unwrap();
    disk.remove(&last).unwrap();
    let (ledger, found) = Ledger::open(disk.clone(), OPTIONS).unwrap();
    assert!(found.damaged);
    ledger
        .repair(&found.details, &[Record::Reborn(member(2))])
        .unwrap();
    let (_, found) = Ledger::open(disk, OPTIONS).unwrap();
    assert!(!found.damaged, "{:?}", found.details);
    assert_eq!(found.state.unwrap().member, member(2));
}

#[test]
fn what_found_no_room_is_owed_and_written_once_there_is() {
    let disk = Disk::default();
    let (mut ledger, _) = Ledger::open(disk.clone(), OPTIONS).unwrap();
    ledger.persist(&[Record::Identity(member(1))]).unwrap();
    disk.full.set(true);
    let (mut refused, mut tried) = (0, 0);
    for at in 1..=40u64 {
        tried = at;
        refused += usize::from(ledger.persist(&[accepted(at, at - 1)]).is_err());
        if refused == 3 {
            break;
        }
    }
    assert_eq!(refused, 3);
    disk.full.set(false);
    ledger.persist(&[]).unwrap();
    let expected = ledger.state().clone();
    assert_eq!(expected.end(), Position(tried));
    drop(ledger);
    let (_, found) = Ledger::open(disk, OPTIONS).unwrap();
    assert!(found.state == Some(expected));
}

#[test]
fn what_is_truncated_makes_room_on_a_full_disk() {
    let disk = Disk::default();
    let (mut ledger, _) = Ledger::open(disk.clone(), OPTIONS).unwrap();
    ledger.persist(&[Record::Identity(member(1))]).unwrap();
    for at in 1..=60u64 {
        ledger.persist(&[accepted(at, at - 1)]).unwrap();
    }
    disk.full.set(true);
    let mut tried = 60;
    while ledger.persist(&[accepted(tried + 1, tried)]).is_ok() {
        tried += 1;
    }
    let before = segments(&disk);
    // Not a whole segment's worth: what is kept for this is not spent on it.
    assert!(!ledger.relieve(Position(2)).unwrap());
    assert_eq!(segments(&disk), before);
    // More than this disk has ever got: the others agreed on it.
    assert!(ledger.relieve(Position(tried + 10)).unwrap());
    assert_eq!(segments(&disk), before[before.len() - 1..]);
    let (_, found) = Ledger::open(disk.clone(), OPTIONS).unwrap();
    assert!(!found.damaged, "{:?}", found.details);
    let state = found.state.unwrap();
    assert_eq!(
        (state.begin.0, state.learned.0, state.tail.len()),
        (tried + 10, tried + 9, 0)
    );
    // What was owed has its turn, and what is behind the beginning stays.
    disk.full.set(false);
    let rest: Vec<_> = (tried + 2..=tried + 12).map(|at| accepted(at, at - 1)).collect();
    ledger.persist(&rest).unwrap();
    drop(ledger);
    let (ledger, found) = Ledger::open(disk, OPTIONS).unwrap();
    assert!(!found.damaged);
    let state = found.state.unwrap();
    assert_eq!((state.begin.0, state.end().0), (tried + 10, tried + 12));
    assert_eq!(
        ledger
            .load(Position(tried + 10), Position(tried + 11), 1 << 20)
            .len(),
        2
    );
}

// ---- real replicas

struct Cluster {
    addresses: BTreeMap<ReplicaId, String>,
    running: BTreeMap<u64, (Replica, net::Task<()>)>,
    directory: tempfile::TempDir,
}

impl Cluster {
    fn of(count: u64, place: impl Fn(&Path, u64) -> PathBuf) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let addresses: BTreeMap<_, _> = (1..=count)
            .map(|id| {
                // Taken and given back: the port is ours again in a moment.
                let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                (ReplicaId(id), taken.local_addr().unwrap().to_string())
            })
            .collect();
        let mut cluster = Self {
            addresses,
            running: BTreeMap::new(),
            directory,
        };
        for id in 1..=count {
            let place = place(cluster.directory.path(), id);
            let replica = Replica::open(cluster.config(id, place)).unwrap();
            let address = cluster.addresses[&ReplicaId(id)].parse().unwrap();
            let listener = TcpListener::bind(address).unwrap();
            let server = replog::serve(replica.clone(), listener, ConnectionLimit::new(64));
            let task = net::spawn(async move { drop(server.await) });
            cluster.running.insert(id, (replica, task));
        }
        cluster
    }

    fn config(&self, id: u64, directory: PathBuf) -> Config {
        let ids: BTreeSet<_> = self.addresses.keys().copied().collect();
        let mut settings = Settings::new(ReplicaId(id));
        settings.initial = Some(ids.clone());
        settings.contacts = ids;
        Config {
            settings,
            peers: self.addresses.clone(),
            directory,
            segment_bytes: 1 << 20,
        }
    }

    fn replica(&self, id: u64) -> Replica {
        self.running[&id].0.clone()
    }

    fn stop(&mut self, id: u64) {
        let (replica, _) = self.running.remove(&id).unwrap();
        replica.stop();
    }
}

fn numbered(directory: &Path, id: u64) -> PathBuf {
    directory.join(id.to_string())
}

fn run(test: impl Future<Output = ()>) {
    net::run(net::Config::default(), test).unwrap();
}

async fn elected(replica: &Replica) {
    for _ in 0..200 {
        if replica.elect(0).await.is_ok() {
            return;
        }
        net::sleep(Duration::from_millis(50)).await;
    }
    panic!("not elected within 10 s");
}

async fn until(what: &str, met: impl Fn() -> bool) {
    for _ in 0..1500 {
        if met() {
            return;
        }
        net::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within 15 s");
}

fn entry(number: u64) -> Vec<u8> {
    let mut bytes = vec![number as u8; 4000];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Every bit of some sectors in the middle, under a replica that runs.
fn rot(directory: &Path) {
    use std::os::unix::fs::FileExt as _;
    let path = directory.join("0000000000000001.segment");
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut bytes = vec![0; 64 << 10];
    file.read_exact_at(&mut bytes, 256 << 10).unwrap();
    bytes.iter_mut().for_each(|byte| *byte = !*byte);
    file.write_all_at(&bytes, 256 << 10).unwrap();
}

async fn all(replica: &Replica) -> Result<Vec<Vec<u8>>, LogError> {
    let (mut next, last) = (replica.status().begin, replica.status().learned);
    let mut entries = Vec::new();
    while next <= last {
        let values = replica.read(next, last).await?;
        assert!(!values.is_empty(), "nothing at {next}");
        next = next.plus(values.len());
        entries.extend(values.iter().filter_map(|value| match value {
            Value::Append(bytes) => Some(bytes.to_vec()),
            _ => None,
        }));
    }
    Ok(entries)
}

#[test]
fn rot_under_a_running_replica_is_mended_from_the_others_and_never_served() {
    run(async {
        let cluster = Cluster::of(3, numbered);
        let (writer, reader) = (cluster.replica(1), cluster.replica(2));
        elected(&writer).await;
        let expected: Vec<_> = (0..600).map(entry).collect();
        for together in expected.chunks(50) {
            let asked = together.iter().map(|bytes| writer.append(bytes.clone()));
            futures::future::try_join_all(asked).await.unwrap();
        }
        until("the reader has all", || {
            reader.status().learned >= writer.status().learned
        })
        .await;
        rot(&numbered(cluster.directory.path(), 2));
        let again = async { all(&reader).await.unwrap() };
        let (one, other) = futures::future::join(async { all(&reader).await.unwrap() }, again).await;
        assert!(one == expected && other == expected);
        // It goes on serving and writing, and holds the values by itself now.
        writer.append(entry(600)).await.unwrap();
        assert!(reader.status().halted.is_none());
        let directory = numbered(cluster.directory.path(), 2);
        reader.stop();
        net::sleep(Duration::from_millis(200)).await;
        let alone = Replica::open(cluster.config(2, directory)).unwrap();
        // Found at the start, as the last segment or by its index: what is agreed is still read.
        let read = all(&alone).await.unwrap();
        assert!(read.starts_with(&expected[..100]));
    });
}

#[test]
fn rot_that_nobody_reads_is_found_and_mended_while_others_have_it() {
    run(async {
        let mut cluster = Cluster::of(3, numbered);
        let (writer, reader) = (cluster.replica(1), cluster.replica(2));
        elected(&writer).await;
        let expected: Vec<_> = (0..600).map(entry).collect();
        for together in expected.chunks(50) {
            let asked = together.iter().map(|bytes| writer.append(bytes.clone()));
            futures::future::try_join_all(asked).await.unwrap();
        }
        until("the reader has all", || {
            reader.status().learned >= writer.status().learned
        })
        .await;
        rot(&numbered(cluster.directory.path(), 2));
        reader.pace_scrubbing(Duration::from_millis(1));
        let before = reader.scrubs();
        // The one that was under way may have been past it.
        until("all was read twice", || reader.scrubs() >= before + 2).await;
        cluster.stop(1);
        cluster.stop(3);
        assert!(all(&reader).await.unwrap() == expected);
    });
}

#[test]
fn a_value_that_is_not_understood_hides_nothing_that_is_behind_it() {
    run(async {
        let mut cluster = Cluster::of(3, numbered);
        let writer = cluster.replica(1);
        elected(&writer).await;
        let expected: Vec<_> = (0..300).map(entry).collect();
        for together in expected.chunks(50) {
            let asked = together.iter().map(|bytes| writer.append(bytes.clone()));
            futures::future::try_join_all(asked).await.unwrap();
        }
        let reader = cluster.replica(2);
        until("the reader has all", || {
            reader.status().learned >= writer.status().learned
        })
        .await;
        cluster.stop(2);
        drop(reader);
        let directory = numbered(cluster.directory.path(), 2);
        // As by a newer program.
        {
            let disk = reopened(&directory).await;
            let (mut store, _) = Store::open(disk, OPTIONS).unwrap();
            let newer = Entry::Value {
                position: 5,
                flags: 1,
                bytes: b"of another time",
            };
            store.append(&[newer]).unwrap();
            store.close();
        }
        let reader = Replica::open(cluster.config(2, directory.clone())).unwrap();
        let address = cluster.addresses[&ReplicaId(2)].parse().unwrap();
        let server = replog::serve(
            reader.clone(),
            TcpListener::bind(address).unwrap(),
            ConnectionLimit::new(64),
        );
        let task = net::spawn(async move { drop(server.await) });
        cluster.running.insert(2, (reader.clone(), task));
        rot(&directory);
        reader.pace_scrubbing(Duration::from_millis(1));
        let before = reader.scrubs();
        until("all was read twice", || reader.scrubs() >= before + 2).await;
        cluster.stop(1);
        cluster.stop(3);
        let last = reader.status().learned;
        let mut next = Position(6);
        while next <= last {
            let values = reader.read(next, last).await.unwrap();
            assert!(!values.is_empty(), "nothing at {next}");
            next = next.plus(values.len());
        }
    });
}

/// The directory, once the replica that had it has let go of it.
async fn reopened(path: &Path) -> DiskDirectory {
    for _ in 0..500 {
        match DiskDirectory::open(path) {
            Ok(disk) => return disk,
            Err(_) => net::sleep(Duration::from_millis(20)).await,
        }
    }
    panic!("{} is not let go of within 10 s", path.display());
}

/// As a stopped replica left it.
async fn ledger_in(path: &Path) -> (Ledger<DiskDirectory>, Found) {
    let options = Options {
        segment_bytes: 1 << 20,
        new_id: 0,
    };
    Ledger::open(reopened(path).await, options).unwrap()
}

/// A log with one replica, stopped, that has so many entries.
async fn alone(entries: u64) -> Cluster {
    let mut cluster = Cluster::of(1, numbered);
    let only = cluster.replica(1);
    elected(&only).await;
    for number in 0..entries {
        only.append(entry(number)).await.unwrap();
    }
    drop(only);
    cluster.stop(1);
    drop(reopened(&numbered(cluster.directory.path(), 1)).await);
    cluster
}

#[test]
fn the_only_replica_of_a_log_loses_nothing_that_nobody_gave_up() {
    run(async {
        let cluster = alone(400).await;
        let directory = numbered(cluster.directory.path(), 1);
        rot(&directory);
        // Read whole at the next start.
        let _ = std::fs::remove_file(directory.join("0000000000000001.index"));
        let open = || Replica::open(cluster.config(1, directory.clone()));
        for _ in 0..2 {
            let told = open().map(|_| ()).unwrap_err().to_string();
            assert!(told.contains("bulkhead log salvage --directory"), "{told}");
        }
        let (ledger, found) = ledger_in(&directory).await;
        let loss = salvage::loss(&ledger, &found).unwrap();
        assert!(!loss.is_none() && loss.kept < loss.known, "{loss:?}");
        assert!(loss.kept.0 > 20 && loss.known.0 >= 400, "{loss:?}");
        drop(ledger);
        assert!(open().is_err(), "to look changes nothing");
        let (ledger, _) = ledger_in(&directory).await;
        drop(salvage::accept(ledger, &loss).unwrap());
        let only = open().unwrap();
        elected(&only).await;
        let before = all(&only).await.unwrap();
        assert!(before.len() as u64 > 20 && before.len() as u64 <= loss.kept.0);
        assert!(
            before
                .iter()
                .zip(0..)
                .all(|(bytes, number)| *bytes == entry(number))
        );
        only.append(entry(9999)).await.unwrap();
        assert_eq!(all(&only).await.unwrap().last(), Some(&entry(9999)));
        only.stop();
        drop(only);
        let (ledger, found) = ledger_in(&directory).await;
        assert!(salvage::loss(&ledger, &found).unwrap().is_none());
    });
}

#[test]
fn a_value_that_rotted_unseen_can_be_given_up_too() {
    run(async {
        let cluster = alone(600).await;
        let directory = numbered(cluster.directory.path(), 1);
        rot(&directory);
        // The segment has an index: the start does not look at its values.
        let only = Replica::open(cluster.config(1, directory.clone())).unwrap();
        elected(&only).await;
        let told = all(&only).await.unwrap_err().to_string();
        assert!(told.contains("bulkhead log salvage"), "{told}");
        only.stop();
        drop(only);
        let (ledger, found) = ledger_in(&directory).await;
        let loss = salvage::loss(&ledger, &found).unwrap();
        assert!(!found.damaged && loss.kept < loss.known, "{loss:?}");
        drop(salvage::accept(ledger, &loss).unwrap());
        let only = Replica::open(cluster.config(1, directory.clone())).unwrap();
        elected(&only).await;
        assert!(!all(&only).await.unwrap().is_empty());
        only.stop();
    });
}

#[test]
fn a_replica_that_has_others_is_not_to_be_cut() {
    let disk = written();
    let (mut ledger, _) = Ledger::open(disk.clone(), OPTIONS).unwrap();
    let membership = |count: u64| Membership {
        log: replog_core::LogId(1),
        since: Position(0),
        ballot: Ballot::default(),
        members: (1..=count)
            .map(|id| Member {
                replica: ReplicaId(id),
                incarnation: Incarnation(1),
            })
            .collect(),
    };
    ledger
        .persist(&[Record::Membership(membership(3).into())])
        .unwrap();
    drop(ledger);
    let (ledger, found) = Ledger::open(disk, OPTIONS).unwrap();
    let told = salvage::loss(&ledger, &found).unwrap_err().to_string();
    assert!(told.contains("3 members"), "{told}");
}

#[test]
fn rot_without_another_replica_is_an_error_and_not_a_value() {
    run(async {
        let cluster = Cluster::of(1, numbered);
        let only = cluster.replica(1);
        elected(&only).await;
        for number in 0..400 {
            only.append(entry(number)).await.unwrap();
        }
        rot(&numbered(cluster.directory.path(), 1));
        let error = all(&only).await.unwrap_err();
        assert!(matches!(error, LogError::Unreadable(_)), "{error}");
    });
}

#[test]
fn an_append_without_a_quorum_says_who_is_missing() {
    run(async {
        let mut cluster = Cluster::of(3, numbered);
        let writer = cluster.replica(1);
        elected(&writer).await;
        writer.append(entry(1)).await.unwrap();
        writer.limit_answers(Duration::from_millis(2500));
        cluster.stop(2);
        writer.append(entry(2)).await.unwrap();
        cluster.stop(3);
        let began = net::now();
        let told = writer.append(entry(3)).await.unwrap_err().to_string();
        let took = net::now() - began;
        assert!(
            took >= Duration::from_secs(2) && took < Duration::from_secs(4),
            "{took:?}"
        );
        for id in [2, 3] {
            let name = format!("{id} ({})", cluster.addresses[&ReplicaId(id)]);
            assert!(told.contains(&name), "{told}");
        }
        assert!(told.contains("not known") && told.contains("silent"), "{told}");
        let told = writer.truncate(Position(2)).await.unwrap_err();
        assert!(matches!(told, LogError::NoQuorum { .. }), "{told}");
    });
}

#[test]
fn a_directory_has_one_replica() {
    run(async {
        let cluster = Cluster::of(1, numbered);
        let config = cluster.config(1, numbered(cluster.directory.path(), 1));
        let told = Replica::open(config.clone()).err().unwrap().to_string();
        assert!(told.contains("a running replica uses it"), "{told}");
        cluster.replica(1).stop();
        net::sleep(Duration::from_millis(200)).await;
        assert!(Replica::open(config).is_ok());
    });
}

/// Appends of 50 entries each.
async fn append_many(writer: &Replica, numbers: std::ops::Range<u64>) {
    for first in numbers.clone().step_by(50) {
        let together = (first..(first + 50).min(numbers.end)).map(|number| writer.append(entry(number)));
        futures::future::try_join_all(together).await.unwrap();
    }
}

/// A small file system, gone with the test.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(bytes: u64) -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "replog-test"])
            .arg(place.path())
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then_some(Self(place))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_replica_on_a_full_disk_is_silent_until_there_is_room() {
    let Some(small) = Small::mount(5 << 20) else {
        eprintln!("skipped: mounting needs root");
        return;
    };
    run(async {
        let place = small.0.path().join("log");
        let ballast = small.0.path().join("ballast");
        let cluster = Cluster::of(3, |directory, id| match id {
            2 => place.clone(),
            id => numbered(directory, id),
        });
        let (writer, full) = (cluster.replica(1), cluster.replica(2));
        elected(&writer).await;
        writer.append(entry(0)).await.unwrap();
        until("it has the first", || full.status().end.0 > 1).await;
        // Nothing is left beside the segments that are there.
        let mut filled = std::fs::File::create(&ballast).unwrap();
        let _ = std::io::copy(&mut std::io::repeat(1), &mut filled);
        // More than fits beside the ballast, and less than fits without it: what waits is written before anything is
        // truncated.
        for number in 1..750 {
            writer.append(entry(number)).await.unwrap();
        }
        until("it says why", || full.status().stalled.is_some()).await;
        let told = full.status().stalled.unwrap();
        assert!(told.contains("make room"), "{told}");
        let stood = full.status().learned;
        assert!(stood < writer.status().learned);
        drop(filled);
        std::fs::remove_file(&ballast).unwrap();
        writer.truncate(writer.status().learned).await.unwrap();
        until("it goes on", || {
            full.status().stalled.is_none() && full.status().learned >= writer.status().learned
        })
        .await;
        assert!(full.status().halted.is_none());
    });
}

#[test]
fn a_full_disk_lives_on_what_is_truncated() {
    let Some(small) = Small::mount(5 << 20) else {
        eprintln!("skipped: mounting needs root");
        return;
    };
    run(async {
        let place = small.0.path().join("log");
        let cluster = Cluster::of(3, |directory, id| match id {
            2 => place.clone(),
            id => numbered(directory, id),
        });
        let (writer, full) = (cluster.replica(1), cluster.replica(2));
        elected(&writer).await;
        append_many(&writer, 0..1500).await;
        until("it says why", || full.status().stalled.is_some()).await;
        // More than it has a place for while it waits.
        append_many(&writer, 1500..6500).await;
        assert!(full.status().stalled.is_some() && full.status().halted.is_none());
        for _ in 0..2 {
            writer.truncate(writer.status().learned).await.unwrap();
            until("it goes on", || {
                full.status().stalled.is_none() && full.status().learned >= writer.status().learned
            })
            .await;
            append_many(&writer, 0..1500).await;
            until("it is full again", || full.status().stalled.is_some()).await;
        }
        assert!(full.status().halted.is_none());
    });
}
