//! The registry as entries of a log: what is written is read, by every later version (`tests/fixtures/registry-v*`), and what
//! is not as it was written is refused.

use std::collections::BTreeMap;
use std::path::Path;

use model::registry::{
    Admitted, AgentId, AgentRecord, Drain, Edit, FrameworkId, FrameworkRecord, MachineId, MachineMode,
    MasterRecord, Quota, Record, Registry, Standing, Unreachable, Window,
};
use model::resources::{DiskInfo, DiskSource, Reservation, Resource, Resources, Scalar, VolumeInfo};
use wire::registry::{Assembler, FORMAT_VERSION, RegistryError, encode, encode_parts};

/// Names the directory into which the records of this version are to be written.
const WRITE: &str = "BULKHEAD_WRITE_FIXTURE";

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("../tests/fixtures/registry-v{FORMAT_VERSION}"))
        .join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn id(name: &str) -> AgentId {
    AgentId(name.to_owned())
}

fn words(words: &[&str]) -> std::collections::BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn agent(seed: u64) -> AgentRecord {
    AgentRecord {
        hostname: format!("host-{seed}"),
        address: format!("10.0.0.{seed}:5051"),
        resources: "cpus:24;mem:1024.5;ports:[31000-32000,33000-33010];disk(web):7;tags:{a,b}"
            .parse()
            .unwrap(),
        attributes: "rack:abc;level:10;keys:[1000-1500]".parse().unwrap(),
        version: format!("version-{seed}"),
        capabilities: words(&["CAPABILITY_A", "CAPABILITY_B"]),
    }
}

fn volumes() -> Resources {
    let reservation = |role: &str, principal: Option<&str>| Reservation {
        fixed: principal.is_none(),
        role: role.parse().unwrap(),
        principal: principal.map(str::to_owned),
        labels: BTreeMap::from([
            ("key".to_owned(), Some("value".to_owned())),
            ("bare".to_owned(), None),
        ]),
    };
    let volume = |id: &str, principal: Option<&str>, source| {
        let mut disk = Resource::scalar("disk", 512_000);
        disk.reservations = vec![
            reservation("web", None),
            reservation("web/front", Some("principal")),
        ];
        disk.disk = Some(DiskInfo {
            volume: Some(VolumeInfo {
                id: id.to_owned(),
                principal: principal.map(str::to_owned),
                container_path: format!("path-of-{id}"),
            }),
            source,
        });
        disk.provider = Some("provider".to_owned());
        disk.shared = principal.is_some();
        disk
    };
    let mut lent = Resource::scalar("cpus", 1500);
    lent.revocable = true;
    vec![
        volume("v1", None, None),
        volume(
            "v2",
            Some("owner"),
            Some(DiskSource::Path("/srv/path".to_owned())),
        ),
        volume("v3", Some(""), Some(DiskSource::Mount("/srv/mount".to_owned()))),
        lent,
    ]
    .into()
}

fn admitted(seed: u64) -> Admitted {
    Admitted {
        record: agent(seed),
        standing: Standing {
            drain: Some(Drain {
                grace_max_seconds: Some(100 + seed),
                mark_gone: true,
                drained: seed.is_multiple_of(2),
            }),
            deactivated: true,
        },
        reserved: volumes(),
        ..Admitted::default()
    }
}

fn machine(hostname: &str, address: &str) -> MachineId {
    MachineId {
        hostname: hostname.to_owned(),
        address: address.to_owned(),
    }
}

fn master() -> MasterRecord {
    MasterRecord {
        id: "leader".to_owned(),
        hostname: "leader-host".to_owned(),
        address: "leader:5050".to_owned(),
        version: "leader-version".to_owned(),
        term: 77,
    }
}

fn framework() -> FrameworkRecord {
    FrameworkRecord {
        name: "framework-name".to_owned(),
        user: "framework-user".to_owned(),
        roles: ["web".parse().unwrap(), "*".parse().unwrap()].into(),
        principal: Some("framework-principal".to_owned()),
        failover_timeout_seconds: 604_800,
        capabilities: words(&["PARTITION_AWARE"]),
        checkpoint: true,
    }
}

fn quota() -> Quota {
    Quota {
        guarantees: BTreeMap::from([("cpus".to_owned(), Scalar::from_milli(1500))]),
        limits: BTreeMap::from([("mem".to_owned(), Scalar::from_milli(2_000_001))]),
    }
}

fn windows() -> Vec<Window> {
    vec![
        Window {
            machines: vec![machine("m1", ""), machine("m2", "10.1.1.1")],
            start_nanoseconds: -5,
            duration_nanoseconds: Some(6),
        },
        Window {
            machines: vec![machine("", "10.2.2.2")],
            start_nanoseconds: i64::MAX,
            duration_nanoseconds: None,
        },
    ]
}

/// Every field has a value.
fn full() -> Registry {
    Registry {
        master: Some(master()),
        agents: BTreeMap::from([
            (id("a1"), admitted(1)),
            (id("a2"), Admitted::default()),
            (id(""), admitted(2)),
        ]),
        unreachable: BTreeMap::from([(
            id("u1"),
            Unreachable {
                since: 1_700_000_000,
                agent: admitted(3),
            },
        )]),
        gone: BTreeMap::from([(id("g1"), 1), (id("g2"), u64::MAX)]),
        frameworks: BTreeMap::from([
            (FrameworkId("f1".to_owned()), framework()),
            (FrameworkId("f2".to_owned()), FrameworkRecord::default()),
        ]),
        quota: BTreeMap::from([("web".parse().unwrap(), quota())]),
        weights: BTreeMap::from([("web/front".parse().unwrap(), Scalar::from_milli(2500))]),
        machines: BTreeMap::from([
            (machine("m1", ""), MachineMode::Down),
            (machine("m2", "10.1.1.1"), MachineMode::Draining),
        ]),
        schedule: windows(),
        minimum_capabilities: words(&["AGENT_DRAINING", "QUOTA_V2"]),
    }
}

fn every_edit() -> Vec<Edit> {
    let (a, record) = (id("a1"), agent(9));
    vec![
        Edit::Lead(master()),
        Edit::Admit {
            id: a.clone(),
            record: record.clone(),
            key: String::new(),
        },
        Edit::UpdateAgent {
            id: a.clone(),
            record: record.clone(),
        },
        Edit::MarkUnreachable { id: a.clone(), at: 5 },
        Edit::MarkReachable {
            id: a.clone(),
            record,
        },
        Edit::Remove { id: a.clone() },
        Edit::MarkGone { id: a.clone(), at: 6 },
        Edit::Drain {
            id: a.clone(),
            grace_max_seconds: Some(0),
            mark_gone: true,
        },
        Edit::Drain {
            id: a.clone(),
            grace_max_seconds: None,
            mark_gone: false,
        },
        Edit::MarkDrained { id: a.clone() },
        Edit::Deactivate { id: a.clone() },
        Edit::Reactivate { id: a.clone() },
        Edit::Reserve {
            id: a.clone(),
            reserved: volumes(),
        },
        Edit::Prune {
            unreachable: vec![id("u1"), id("u2")],
            gone: vec![id("g1")],
        },
        Edit::PutFramework {
            id: FrameworkId("f1".to_owned()),
            record: framework(),
        },
        Edit::RemoveFramework {
            id: FrameworkId("f1".to_owned()),
        },
        Edit::SetQuota(BTreeMap::from([("web".parse().unwrap(), quota())])),
        Edit::SetWeights(BTreeMap::from([("*".parse().unwrap(), Scalar::from_milli(1))])),
        Edit::SetSchedule(windows()),
        Edit::StartMaintenance(vec![machine("m1", "")]),
        Edit::StopMaintenance(vec![machine("", "10.2.2.2")]),
    ]
}

fn snapshot() -> Record {
    Record::Snapshot {
        sequence: 41,
        registry: Box::new(full()),
    }
}

fn delta() -> Record {
    Record::Delta {
        sequence: 42,
        edits: every_edit(),
    }
}

fn read(entries: &[Vec<u8>]) -> Result<Vec<Record>, RegistryError> {
    let mut assembler = Assembler::default();
    let mut records = Vec::new();
    for entry in entries {
        records.extend(assembler.push(entry)?);
    }
    assert!(!assembler.is_incomplete());
    Ok(records)
}

#[test]
fn what_is_written_is_read_whole_or_in_parts() {
    for record in [snapshot(), delta()] {
        assert_eq!(read(&encode(&record)), Ok(vec![record.clone()]));
        for bytes in [1 << 10, 100, 8] {
            let parts = encode_parts(&record, bytes);
            assert!(parts.len() > 1);
            assert_eq!(read(&parts), Ok(vec![record.clone()]), "parts of {bytes}");
        }
    }
}

/// The files of earlier programs have none: it came later.
#[test]
fn what_an_agent_called_itself_is_read_again() {
    let mut registry = full();
    for (number, agent) in registry.agents.values_mut().enumerate() {
        agent.key = format!("key-{number}");
    }
    let snapshot = Record::Snapshot {
        sequence: 1,
        registry: Box::new(registry),
    };
    let delta = Record::Delta {
        sequence: 2,
        edits: vec![Edit::Admit {
            id: id("a1"),
            record: agent(1),
            key: "key-of-admit".to_owned(),
        }],
    };
    for record in [snapshot, delta] {
        assert_eq!(read(&encode(&record)), Ok(vec![record]));
    }
}

#[test]
fn what_earlier_programs_wrote_is_read() {
    if let Some(place) = std::env::var_os(WRITE) {
        for (name, record) in [("snapshot", snapshot()), ("delta", delta())] {
            std::fs::write(Path::new(&place).join(name), &encode(&record)[0]).unwrap();
        }
    }
    assert_eq!(read(&[fixture("snapshot")]), Ok(vec![snapshot()]));
    assert_eq!(read(&[fixture("delta")]), Ok(vec![delta()]));
}

#[test]
fn every_flipped_bit_is_noticed() {
    let entry = fixture("delta");
    for bit in 0..entry.len() * 8 {
        let mut bent = entry.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        assert!(Assembler::default().push(&bent).is_err(), "bit {bit}");
    }
    for length in 0..entry.len() {
        assert!(
            Assembler::default().push(&entry[..length]).is_err(),
            "{length} bytes"
        );
    }
}

#[test]
fn what_a_leader_left_incomplete_is_passed_over() {
    let mut entries = encode_parts(&snapshot(), 300);
    entries.truncate(2);
    entries.extend(encode(&delta()));
    assert_eq!(read(&entries), Ok(vec![delta()]));
    // In the middle, or of another record, a part is refused.
    let parts = encode_parts(&snapshot(), 300);
    for wrong in [
        vec![parts[1].clone()],
        vec![parts[0].clone(), parts[2].clone()],
        vec![parts[0].clone(), encode_parts(&delta(), 300)[1].clone()],
        vec![parts[0].clone(), encode_parts(&snapshot(), 500)[1].clone()],
    ] {
        assert!(matches!(read(&wrong), Err(RegistryError::Part { .. })));
    }
}

#[test]
fn a_later_format_and_foreign_entries_are_told_apart_from_damage() {
    let mut later = fixture("delta");
    later[4] += 1;
    let found = FORMAT_VERSION + 1;
    assert_eq!(read(&[later]), Err(RegistryError::UnknownVersion { found }));
    assert_eq!(read(&[b"milk, eggs".to_vec()]), Err(RegistryError::Foreign));
    assert_eq!(
        read(&[b"milk, eggs, bread and much else".to_vec()]),
        Err(RegistryError::Foreign)
    );
}
