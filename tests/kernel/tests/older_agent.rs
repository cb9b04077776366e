//! A newer agent adopts the containers of an older one: it reads the very bytes that the older one wrote
//! (`tests/fixtures/checkpoint-v*`), with nothing but the identity of a living container put into them.

use std::path::{Path, PathBuf};

use support::{Agent, eventually, skip_unless_root};

const HEADER_BYTES: usize = 16;
const WORD: usize = 8;

/// A checkpoint of version 1 as bytes. Changed in place, never encoded anew: fields that this version has and that one
/// had not stay absent (capnproto.org/encoding.html).
struct OldCheckpoint {
    header: [u8; HEADER_BYTES],
    /// Segment table and one segment.
    message: Vec<u8>,
}

/// Pointers of version 1's `Checkpoint`, in their order.
const INSTANCE: usize = 0;
const ID: usize = 1;
const INIT: usize = 4;
const SANDBOX: usize = 6;
const STARTED_AT: usize = 7;

impl OldCheckpoint {
    fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../fixtures/checkpoint-v1")
            .join(name);
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (header, message) = bytes.split_first_chunk::<HEADER_BYTES>().expect("a header");
        assert_eq!(message[..4], [0; 4], "one segment");
        Self {
            header: *header,
            message: message.to_vec(),
        }
    }

    fn word(&self, at: usize) -> u64 {
        let from = WORD + at * WORD;
        u64::from_le_bytes(self.message[from..from + WORD].try_into().expect("eight bytes"))
    }

    fn bytes(&mut self, at: usize, count: usize) -> &mut [u8] {
        let from = WORD + at * WORD;
        &mut self.message[from..from + count]
    }

    /// Where the pointer in word `at` leads.
    fn target(&self, at: usize) -> usize {
        (at as i64 + 1 + i64::from(self.word(at) as i32 >> 2)) as usize
    }

    /// The word of the n-th pointer of the struct that word `at` points to.
    fn pointer(&self, at: usize, number: usize) -> usize {
        let data = (self.word(at) >> 32 & 0xffff) as usize;
        self.target(at) + data + number
    }

    /// Puts a text in place of one that is as long or longer.
    fn set_text(&mut self, pointer: usize, text: &str) {
        let word = self.word(pointer);
        let room = (word >> 35) as usize;
        assert!(text.len() < room, "{text:?} does not fit into {} bytes", room - 1);
        let shorter = (word & 0x7_ffff_ffff) | (text.len() as u64 + 1) << 35;
        let target = self.target(pointer);
        self.bytes(pointer, WORD).copy_from_slice(&shorter.to_le_bytes());
        let place = self.bytes(target, room);
        place.fill(0);
        place[..text.len()].copy_from_slice(text.as_bytes());
    }

    fn set_identity(&mut self, pid: i32, start_time: u64, boot_id: &str) {
        let init = self.pointer(0, INIT);
        let data = self.target(init);
        self.bytes(data, 4).copy_from_slice(&pid.to_le_bytes());
        self.bytes(data + 1, WORD)
            .copy_from_slice(&start_time.to_le_bytes());
        let text = self.pointer(init, 0);
        self.set_text(text, boot_id);
    }

    /// The container has a time limit: it has to have been started just now, not when the fixture was made.
    fn set_started_at(&mut self, wall_ms: u64) {
        let started = self.pointer(0, STARTED_AT);
        let data = self.target(started);
        // The first word tells which member of the union it is.
        self.bytes(data + 1, WORD).copy_from_slice(&wall_ms.to_le_bytes());
    }

    /// The file, with the checksum made right.
    fn file(&self) -> Vec<u8> {
        let head = &self.header[..HEADER_BYTES - 4];
        let sum = crc32fast::hash(&[head, &self.message].concat());
        [head, &sum.to_le_bytes(), &self.message].concat()
    }
}

/// The command line that the fixture was made with.
const LAUNCH: &[&str] = &[
    "run",
    "-d",
    "-t",
    "-i",
    "--name",
    "older",
    "--cpus",
    "0.5",
    "--cpu-limit",
    "1",
    "--mem",
    "64MB",
    "--mem-soft",
    "32MB",
    "--pids",
    "32",
    "--cpuset-cpus",
    "0",
    "--cpuset-mems",
    "0",
    "-v",
    "/srv:/mnt:ro",
    "-v",
    "/opt:/media",
    "-e",
    "GREETING=guten Tag",
    "-e",
    "EMPTY=",
    "-l",
    "team=blue",
    "-l",
    "tier=one",
    "--user",
    "33:34",
    "-w",
    "/tmp",
    "--hostname",
    "older-box",
    "--cap-add",
    "NET_RAW",
    "--cap-drop",
    "CHOWN",
    "--rlimit",
    "nofile=256:512",
    "--rlimit",
    "core=0:unlimited",
    "--timeout",
    "1h",
    "--grace",
    "3s",
    "--log-size",
    "1MB",
    "--log-files",
    "2",
    "--network",
    "none",
    "--",
    "sh",
    "-c",
    "echo ready; exec sleep 3000",
];

fn checkpoint_of(agent: &Agent, id: &str) -> PathBuf {
    agent.runtime_dir().join("containers").join(id).join("checkpoint")
}

#[test]
fn containers_of_an_older_agent_are_adopted() {
    if skip_unless_root() {
        return;
    }
    let mut agent = Agent::start();
    let id = agent.cli(LAUNCH).success().stdout.trim().to_owned();
    eventually("it is ready", || {
        agent
            .cli(&["logs", "older"])
            .stdout
            .contains("ready")
            .then_some(())
    });
    agent
        .cli(&["update", "older", "--pids", "40", "--mem", "80MB"])
        .success();
    let before = agent.container("older").expect("running");
    agent.kill_hard();

    let path = checkpoint_of(&agent, &id);
    let new = wire::checkpoint::decode(&std::fs::read(&path).expect("a checkpoint")).expect("our own");
    let init = new.init.as_ref().expect("an init");
    let mut old = OldCheckpoint::read("terminal.checkpoint");
    for (number, text) in [
        (INSTANCE, new.instance.as_str()),
        (ID, id.as_str()),
        (
            SANDBOX,
            new.sandbox
                .as_ref()
                .and_then(|path| path.to_str())
                .expect("a sandbox"),
        ),
    ] {
        let pointer = old.pointer(0, number);
        old.set_text(pointer, text);
    }
    old.set_identity(init.pid, init.start_time, &init.boot_id);
    old.set_started_at(new.started_at_ms.expect("it runs"));
    let bytes = old.file();
    let read = wire::checkpoint::decode(&bytes).expect("the old bytes with a new identity");
    assert_eq!(
        (&read.init, &read.id, &read.instance),
        (&new.init, &new.id, &new.instance)
    );
    assert_eq!(read.started_at_ms, new.started_at_ms);
    assert_eq!(read.spec.labels, new.spec.labels);
    std::fs::write(&path, &bytes).expect("write the old bytes");

    agent.spawn();
    let after = agent.container("older").expect("adopted");
    for key in ["id", "pid", "name", "state", "labels"] {
        assert_eq!(before[key], after[key], "{key}");
    }
    assert_eq!(after["limits"]["pids"], 40, "{after}");
    assert!(!agent.log().contains("set aside"), "{}", agent.log());
    // It can be worked with: measured, entered as the user it was launched with, changed, ended.
    let stats = agent.cli(&["stats", "older", "-o", "json"]).json();
    assert!(stats[0]["statistics"]["mem_total_bytes"].is_number(), "{stats}");
    let exec = agent.cli(&[
        "exec",
        "older",
        "--",
        "sh",
        "-c",
        "id -u; id -g; hostname; echo $GREETING",
    ]);
    assert_eq!(exec.success().stdout, "33\n34\nolder-box\nguten Tag\n");
    agent.cli(&["update", "older", "--pids", "41"]).success();
    agent.cli(&["kill", "older", "--grace", "0s"]).success();
    let ended = eventually("it is ended", || {
        agent.container("older").filter(|c| c["state"] == "destroyed")
    });
    assert_eq!(
        (&ended["exit_status"], &ended["reason"]),
        (&137.into(), &"killed".into())
    );
}

#[test]
fn a_checkpoint_of_a_later_format_is_set_aside_and_stops_nobody() {
    if skip_unless_root() {
        return;
    }
    let mut agent = Agent::start();
    agent
        .cli(&["run", "-d", "--name", "good", "--", "sleep", "100"])
        .success();
    let later = agent
        .cli(&["run", "-d", "--name", "later", "--", "sleep", "100"])
        .success()
        .stdout;
    agent.kill_hard();
    let path = checkpoint_of(&agent, later.trim());
    let mut bytes = std::fs::read(&path).expect("a checkpoint");
    bytes[4..6].copy_from_slice(&(wire::checkpoint::FORMAT_VERSION + 1).to_le_bytes());
    std::fs::write(&path, &bytes).expect("write it back");
    agent.spawn();
    assert_eq!(agent.container("good").expect("adopted")["state"], "running");
    assert!(agent.container("later").is_none());
    let kept = agent
        .work_dir()
        .join("set-aside")
        .join(format!("{}.checkpoint", later.trim()));
    assert_eq!(std::fs::read(&kept).expect("set aside as it was"), bytes);
    let log = agent.log();
    assert!(log.contains("set aside") && log.contains("knows format"), "{log}");
}
