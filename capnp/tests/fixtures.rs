//! Checkpoints as earlier versions wrote them are read for ever: `tests/fixtures/checkpoint-v*`.
//!
//! Fields may be added. What must not happen: an ordinal that changes, a type that changes, a default that changes, or a
//! new `FORMAT_VERSION` without a fixture of its own (how: the README beside them).

use std::path::{Path, PathBuf};

use model::{
    Bytes, Capabilities, Checkpoint, ContainerState, Cpus, DeviceLimit, DeviceRule, IoLimits, KeptDescriptor,
    LaunchSpec, Limit, Limitation, Limits, Millis, Network, OutputPolicy, ProcessIdentity, Reason, Rlimit,
    Seccomp, TerminalSize, Termination, Volume,
};
use wire::checkpoint::{CheckpointError, FORMAT_VERSION, decode, encode};

const HEADER_BYTES: usize = 16;
const WORD: usize = 8;

/// Names the directory into which `full.checkpoint` of this version is to be written.
const WRITE: &str = "BULKHEAD_WRITE_FIXTURE";

fn directory(version: u16) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/fixtures/checkpoint-v{version}"))
}

fn fixture(version: u16, name: &str) -> Vec<u8> {
    let path = directory(version).join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; see the README beside it", path.display()))
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// What a real agent wrote for a container with a terminal; its limits had been updated.
#[test]
fn version_1_of_a_container_with_a_terminal() {
    let limits = Limits {
        cpus: Some(Cpus::from_milli(500)),
        cpu_limit: Some(Limit::Value(Cpus::from_milli(1000))),
        cpu_burst: Some(Millis(20)),
        mem: Some(Limit::Value(Bytes::mib(64))),
        mem_soft: Some(Bytes::mib(32)),
        swap: Some(Limit::Value(Bytes(0))),
        pids: Some(Limit::Value(32)),
        cpuset_cpus: Some("0".into()),
        cpuset_mems: Some("0".into()),
        ..Limits::default()
    };
    let updated = Limits {
        mem: Some(Limit::Value(Bytes::mib(80))),
        pids: Some(Limit::Value(40)),
        ..limits.clone()
    };
    let volume = |source: &str, target: &str, read_only| Volume {
        source: source.into(),
        target: target.into(),
        read_only,
    };
    let rlimit = |name: &str, soft, hard| Rlimit {
        name: name.into(),
        soft: Some(soft),
        hard,
    };
    let spec = LaunchSpec {
        name: Some("older".parse().unwrap()),
        command: texts(&["sh", "-c", "echo ready; exec sleep 3000"]),
        env: vec![
            ("GREETING".into(), "guten Tag".into()),
            ("EMPTY".into(), String::new()),
        ],
        user: Some("33:34".into()),
        workdir: Some("/tmp".into()),
        hostname: Some("older-box".into()),
        volumes: vec![volume("/srv", "/mnt", true), volume("/opt", "/media", false)],
        limits,
        network: Network::None,
        capabilities: Capabilities {
            add: texts(&["NET_RAW"]),
            drop: texts(&["CHOWN"]),
        },
        rlimits: vec![rlimit("nofile", 256, Some(512)), rlimit("core", 0, None)],
        devices: vec![DeviceRule {
            path: "/dev/fuse".into(),
            read: true,
            write: true,
            mknod: false,
        }],
        terminal: Some(TerminalSize {
            rows: 24,
            columns: 80,
        }),
        stdin: true,
        timeout: Some(Millis::secs(3600)),
        grace: Millis::secs(3),
        labels: [("team".into(), "blue".into()), ("tier".into(), "one".into())].into(),
        output: OutputPolicy {
            file_bytes: Bytes::mib(1),
            files: 2,
        },
        ..LaunchSpec::default()
    };
    let kept = |name: &str, number| KeptDescriptor {
        name: name.into(),
        number,
    };
    let id = "819a38e93c861fbfc85cc09bd71d5c23";
    let work = "/tmp/fx/made-by-an-older-agent-in-a-directory-with-a-long-name-0123456789/work";
    let expected = Checkpoint {
        instance: "fixture-of-an-older-agent-0123456789".into(),
        id: id.parse().unwrap(),
        spec,
        state: ContainerState::Running,
        limits: updated,
        updating: None,
        start_marked: false,
        init: Some(ProcessIdentity {
            pid: 8628,
            start_time: 1_281_122,
            boot_id: "a96d564d-6f32-4d4d-acaf-56b9cad75752".into(),
        }),
        kept: vec![kept("status", 3), kept("terminal", 4)],
        sandbox: Some(format!("{work}/sandboxes/{id}").into()),
        created_at_ms: 1_795_259_496_122,
        started_at_ms: Some(1_795_259_496_155),
        ..blank()
    };
    assert_eq!(decode(&fixture(1, "terminal.checkpoint")), Ok(expected));
}

/// What a real agent wrote for one with a root of its own; its defaults are the schema's.
#[test]
fn version_1_of_a_container_with_a_root_of_its_own() {
    let checkpoint = decode(&fixture(1, "rootfs.checkpoint")).unwrap();
    let limits = Limits {
        mem: Some(Limit::Max),
        io: IoLimits {
            weight: None,
            devices: vec![DeviceLimit {
                device: "/dev/vda".into(),
                read_bps: Some(10 << 20),
                write_iops: Some(100),
                ..DeviceLimit::default()
            }],
        },
        ..Limits::default()
    };
    let expected = LaunchSpec {
        name: Some("older-root".parse().unwrap()),
        command: texts(&["sh", "-c", "sleep 3; exit 7"]),
        user: Some("nobody:nogroup".into()),
        rootfs: Some("/".into()),
        limits: limits.clone(),
        seccomp: Seccomp::Unconfined,
        remove: true,
        grace: Millis(10_000),
        output: OutputPolicy {
            file_bytes: Bytes::mib(10),
            files: 3,
        },
        ..LaunchSpec::default()
    };
    assert_eq!((checkpoint.spec, checkpoint.limits), (expected, limits));
    let numbers: Vec<_> = checkpoint
        .kept
        .iter()
        .map(|kept| (kept.name.as_str(), kept.number))
        .collect();
    assert_eq!(numbers, [("status", 3), ("stdout", 4), ("stderr", 5)]);
}

fn blank() -> Checkpoint {
    Checkpoint {
        instance: String::new(),
        id: "c1".parse().unwrap(),
        spec: LaunchSpec::default(),
        state: ContainerState::Admitted,
        limits: Limits::default(),
        updating: None,
        start_marked: false,
        init: None,
        kept: Vec::new(),
        sandbox: None,
        created_at_ms: 0,
        started_at_ms: None,
        killing: None,
        kill_at_ms: None,
        termination: None,
        network_slot: None,
    }
}

/// Every field has a value that no other field has. Fields of a later version are left at their defaults here: the old
/// file does not have them.
#[allow(clippy::needless_update)] // until there is one
fn full() -> Checkpoint {
    let limits = |seed: u64| Limits {
        cpus: Some(Cpus::from_milli(1000 + seed as u32)),
        cpu_limit: Some(Limit::Value(Cpus::from_milli(2000 + seed as u32))),
        cpu_burst: Some(Millis(3000 + seed)),
        mem: Some(Limit::Value(Bytes(4000 + seed))),
        mem_soft: Some(Bytes(5000 + seed)),
        mem_high: Some(Limit::Value(Bytes(6000 + seed))),
        mem_min: Some(Bytes(7000 + seed)),
        swap: Some(Limit::Value(Bytes(8000 + seed))),
        pids: Some(Limit::Value(9000 + seed as u32)),
        cpuset_cpus: Some(format!("{seed}")),
        cpuset_mems: Some(format!("0-{seed}")),
        io: IoLimits {
            weight: Some(100 + seed as u16),
            devices: vec![DeviceLimit {
                device: format!("8:{seed}"),
                read_bps: Some(11_000 + seed),
                write_bps: Some(12_000 + seed),
                read_iops: Some(13_000 + seed),
                write_iops: Some(14_000 + seed),
            }],
        },
        ..Limits::default()
    };
    let spec = LaunchSpec {
        id: Some("full-0".parse().unwrap()),
        name: Some("full-name".parse().unwrap()),
        command: texts(&["word-1", "word-2"]),
        env: vec![("env-key".into(), "env-value".into())],
        user: Some("some-user".into()),
        workdir: Some("/work-directory".into()),
        hostname: Some("host-name".into()),
        rootfs: Some("/root-file-system".into()),
        volumes: vec![Volume {
            source: "/volume-source".into(),
            target: "/volume-target".into(),
            read_only: true,
        }],
        limits: limits(1),
        network: Network::Mapped,
        capabilities: Capabilities {
            add: texts(&["cap-add"]),
            drop: texts(&["cap-drop"]),
        },
        rlimits: vec![Rlimit {
            name: "rlimit-name".into(),
            soft: Some(15_000),
            hard: Some(16_000),
        }],
        seccomp: Seccomp::Unconfined,
        devices: vec![DeviceRule {
            path: "/device-path".into(),
            read: true,
            write: false,
            mknod: true,
        }],
        terminal: Some(TerminalSize {
            rows: 17,
            columns: 18,
        }),
        stdin: true,
        remove: true,
        timeout: Some(Millis(19_000)),
        grace: Millis(20_000),
        labels: [("label-key".into(), "label-value".into())].into(),
        output: OutputPolicy {
            file_bytes: Bytes(21_000),
            files: 22,
        },
        ..LaunchSpec::default()
    };
    Checkpoint {
        instance: "full-instance".into(),
        id: "full-1".parse().unwrap(),
        spec,
        state: ContainerState::Killing,
        limits: limits(2),
        updating: None,
        start_marked: false,
        init: Some(ProcessIdentity {
            pid: 23_000,
            start_time: 24_000,
            boot_id: "boot-id".into(),
        }),
        kept: vec![KeptDescriptor {
            name: "kept-name".into(),
            number: 25,
        }],
        sandbox: Some("/sandbox".into()),
        created_at_ms: 26_000,
        started_at_ms: Some(27_000),
        killing: Some(Reason::Timeout),
        kill_at_ms: Some(28_000),
        network_slot: None,
        termination: Some(Termination {
            exit_status: 137,
            signal: Some(9),
            reason: Reason::MemoryLimit,
            message: "termination-message".into(),
            limitation: Some(Limitation {
                reason: Reason::DiskLimit,
                message: "limitation-message".into(),
                limit: Some(Bytes(29_000)),
                peak: Some(Bytes(30_000)),
                statistics: [("counter".into(), 31_000)].into_iter().collect(),
            }),
            finished_at_ms: 32_000,
        }),
    }
}

#[test]
fn version_1_with_every_field() {
    if let Some(place) = std::env::var_os(WRITE) {
        std::fs::write(Path::new(&place).join("full.checkpoint"), encode(&full())).unwrap();
    }
    assert_eq!(decode(&fixture(1, "full.checkpoint")), Ok(full()));
}

#[test]
fn this_version_has_a_fixture() {
    let bytes = fixture(FORMAT_VERSION, "full.checkpoint");
    assert_eq!(bytes[4..6], FORMAT_VERSION.to_le_bytes());
    assert!(decode(&bytes).is_ok());
    assert!(decode(&fixture(FORMAT_VERSION, "terminal.checkpoint")).is_ok());
}

#[test]
fn a_later_format_is_told_from_damage() {
    let mut later = fixture(1, "full.checkpoint");
    later[4..6].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
    let found = FORMAT_VERSION + 1;
    assert_eq!(decode(&later), Err(CheckpointError::UnknownVersion { found }));
}

/// A frame around a message, as [`encode`] makes it.
fn sealed(message: &[u8]) -> Vec<u8> {
    let mut bytes = b"BHck".to_vec();
    bytes.extend(FORMAT_VERSION.to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend((message.len() as u32).to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes);
    hasher.update(message);
    bytes.extend(hasher.finalize().to_le_bytes());
    bytes.extend(message);
    bytes
}

/// The message of a file with its root moved to the end, where it has a data word and a text more: as a later version
/// with two more fields would write it (capnproto.org/encoding.html, "structs" and "lists").
fn with_two_fields_more(file: &[u8]) -> Vec<u8> {
    let message = &file[HEADER_BYTES..];
    assert_eq!(message[..4], [0; 4], "one segment");
    let mut words: Vec<u64> = message[WORD..]
        .chunks_exact(WORD)
        .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
        .collect();
    let root = words[0];
    let old = 1 + (root as u32 >> 2) as usize;
    let (data, pointers) = ((root >> 32 & 0xffff) as usize, (root >> 48) as usize);
    let new = words.len();
    words.extend_from_within(old..old + data);
    words.push(u64::MAX);
    for at in old + data..old + data + pointers {
        let pointer = words[at];
        let moved = words.len() as i64 - at as i64;
        let offset = i64::from(pointer as i32 >> 2) - moved;
        words.push(match pointer {
            0 => 0,
            _ => pointer & !0xffff_fffc | u64::from((offset as i32 as u32) << 2),
        });
    }
    // Fields that were new since the file was written: `updating` @14, `networkSlot` @16.
    words.extend([0, 0]);
    // A list of bytes (2) of length 8, right behind.
    words.push(1 | (2 | 8 << 3) << 32);
    words.push(u64::from_le_bytes(*b"tomorro\0"));
    words[0] = ((new as u64 - 1) << 2) | ((data as u64 + 1) << 32) | ((pointers as u64 + 3) << 48);
    let mut message = vec![0; 4];
    message.extend((words.len() as u32).to_le_bytes());
    message.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    message
}

#[test]
fn fields_of_a_later_version_are_passed_over() {
    let file = fixture(1, "full.checkpoint");
    let larger = sealed(&with_two_fields_more(&file));
    assert!(larger.len() > file.len());
    assert_eq!(decode(&larger), Ok(full()));
}
