//! Where the replicas are: a namespace with a bridge, one for each replica, directories, one of them on a small disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{bulkhead, patience};

/// Drops every packet: classic BPF that answers TC_ACT_SHOT.
const DROP: &str = "1,6 0 0 2";
const SMALL_DISK_BYTES: u64 = 192 << 20;
const SMALL: u64 = 3;

pub struct Site {
    name: String,
    directory: tempfile::TempDir,
    hub: PathBuf,
    running: BTreeMap<u64, Child>,
    count: u64,
}

fn run(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap();
    let said = Command::new(program).args(words).output().unwrap();
    if !said.status.success() {
        eprintln!("{line}: {}", String::from_utf8_lossy(&said.stderr));
    }
    said.status.success()
}

#[track_caller]
fn must(line: &str) {
    assert!(run(line), "{line}");
}

impl Site {
    pub fn new(replicas: u64) -> Self {
        let name = format!("bhlog{}", std::process::id());
        let directory = tempfile::tempdir().unwrap();
        let site = Self {
            hub: PathBuf::from(format!("/run/netns/{name}")),
            name,
            directory,
            running: BTreeMap::new(),
            count: 0,
        };
        let hub = &site.name;
        must(&format!("ip netns add {hub}"));
        must(&format!("ip -n {hub} link set lo up"));
        must(&format!("ip -n {hub} link add br0 type bridge"));
        must(&format!("ip -n {hub} addr add 10.77.0.254/24 dev br0"));
        must(&format!("ip -n {hub} link set br0 up"));
        let mut site = site;
        for id in 1..=replicas {
            site.add(id);
        }
        let (image, at) = (site.directory.path().join("small.img"), site.path(SMALL));
        fs::create_dir_all(&at).unwrap();
        fs::File::create(&image)
            .unwrap()
            .set_len(SMALL_DISK_BYTES)
            .unwrap();
        must(&format!("mkfs.ext4 -q -F {}", image.display()));
        must(&format!("mount -o loop {} {}", image.display(), at.display()));
        site
    }

    /// A namespace for one more replica.
    pub fn add(&mut self, id: u64) {
        let (hub, own) = (&self.name, format!("{}-{id}", self.name));
        must(&format!("ip netns add {own}"));
        must(&format!("ip -n {own} link set lo up"));
        must(&format!(
            "ip -n {hub} link add v{id} type veth peer name eth0 netns {own}"
        ));
        must(&format!("ip -n {hub} link set v{id} master br0 up"));
        must(&format!("ip -n {own} addr add 10.77.0.{id}/24 dev eth0"));
        must(&format!("ip -n {own} link set eth0 up"));
        must(&format!("tc -n {own} qdisc add dev eth0 clsact"));
        self.count = self.count.max(id);
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn directory(&self) -> String {
        self.directory.path().display().to_string()
    }

    pub fn hub(&self) -> &Path {
        &self.hub
    }

    pub fn address(&self, id: u64) -> String {
        format!("10.77.0.{id}:5061")
    }

    pub fn addresses(&self) -> Vec<String> {
        (1..=self.count).map(|id| self.address(id)).collect()
    }

    pub fn addresses_of(&self, ids: &[u64]) -> Vec<String> {
        ids.iter().map(|id| self.address(*id)).collect()
    }

    /// Of its disk; the log lies one below.
    fn path(&self, id: u64) -> PathBuf {
        self.directory.path().join(format!("disk-{id}"))
    }

    fn said(&self, id: u64) -> PathBuf {
        self.directory.path().join(format!("replica-{id}.log"))
    }

    pub fn start(&mut self, id: u64) {
        self.launch(id, id > 3);
    }

    /// With the members that the log has, whatever they are.
    pub fn start_joined(&mut self, id: u64) {
        self.launch(id, true);
    }

    fn launch(&mut self, id: u64, joins: bool) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.said(id))
            .unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}-{id}", self.name)]);
        command
            .arg(bulkhead())
            .args(["log", "replica", "--insecure", "--id", &id.to_string()]);
        command.args(["--segment-bytes", "1048576", "--listen", &self.address(id)]);
        command.arg("--directory").arg(self.path(id).join("log"));
        if joins {
            command.arg("--join");
        }
        let others = if joins { self.count } else { 3 };
        for peer in (1..=others).filter(|peer| *peer != id) {
            command
                .arg("--peer")
                .arg(format!("{peer}={}", self.address(peer)));
        }
        fs::create_dir_all(self.path(id)).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running.insert(id, child);
    }

    fn signal(&self, id: u64, signal: Signal) {
        // `ip netns exec` becomes the program: the process is the replica.
        kill(Pid::from_raw(self.running[&id].id() as i32), signal).unwrap();
    }

    pub fn kill(&mut self, id: u64) {
        let mut child = self.running.remove(&id).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn pause(&self, id: u64) {
        self.signal(id, Signal::SIGSTOP);
    }

    pub fn resume(&self, id: u64) {
        self.signal(id, Signal::SIGCONT);
    }

    /// As an operator ends it.
    pub fn end(&mut self, id: u64) {
        self.signal(id, Signal::SIGTERM);
        let status = self.running.remove(&id).unwrap().wait().unwrap();
        assert!(status.success(), "replica {id}: {status}");
    }

    pub fn has_ended(&mut self, id: u64) -> bool {
        let ended = self
            .running
            .get_mut(&id)
            .is_none_or(|child| child.try_wait().unwrap().is_some());
        if ended {
            self.running.remove(&id);
        }
        ended
    }

    pub fn wipe(&self, id: u64) {
        fs::remove_dir_all(self.path(id).join("log")).unwrap();
    }

    /// Leaves no byte free on the small disk.
    pub fn fill(&self) -> PathBuf {
        let path = self.path(SMALL).join("filler");
        let mut file = fs::File::create(&path).unwrap();
        for size in [1 << 20, 4096] {
            while std::io::Write::write_all(&mut file, &vec![1; size]).is_ok() {}
        }
        path
    }

    pub fn complains(&self, id: u64, of: &str) -> bool {
        fs::read_to_string(self.said(id)).unwrap().contains(of)
    }

    /// Packets in these directions are lost until what is returned is dropped.
    pub fn cut(&self, id: u64, directions: &[&str]) -> Cut {
        let namespace = format!("{}-{id}", self.name);
        for direction in directions {
            let words = [
                "-n", &namespace, "filter", "add", "dev", "eth0", direction, "bpf", "da", "bytecode",
            ];
            let status = Command::new("tc").args(words).arg(DROP).status().unwrap();
            assert!(status.success(), "tc filter, {direction}");
        }
        Cut {
            namespace,
            directions: directions
                .iter()
                .map(|direction| (*direction).to_owned())
                .collect(),
        }
    }

    /// `bulkhead log …`, from the client's place.
    pub fn tool(&self, words: &[&str]) -> Output {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(bulkhead());
        command.arg("log").args(words).output().unwrap()
    }

    fn status(&self, id: u64) -> Option<serde_json::Value> {
        let said = self.tool(&["status", "-o", "json", "--at", &self.address(id)]);
        serde_json::from_slice(&said.stdout).ok()
    }

    pub fn members(&self, id: u64) -> Vec<u64> {
        let status = self.status(id).unwrap_or_default();
        let members = status["members"].as_array().cloned().unwrap_or_default();
        members.iter().filter_map(serde_json::Value::as_u64).collect()
    }

    /// It has learned at least so many entries.
    #[track_caller]
    pub fn knows(&self, id: u64, entries: u64) {
        self.wait(id, &format!("knows {entries} entries"), |status| {
            status["learned"]
                .as_u64()
                .is_some_and(|learned| learned >= entries)
        });
    }

    #[track_caller]
    pub fn votes(&self, id: u64, entries: u64) {
        self.wait(id, "votes", |status| status["status"] == "VOTING");
        self.knows(id, entries);
    }

    #[track_caller]
    fn wait(&self, id: u64, what: &str, met: impl Fn(&serde_json::Value) -> bool) {
        let began = std::time::Instant::now();
        loop {
            let status = self.status(id);
            if status.as_ref().is_some_and(&met) {
                return;
            }
            assert!(
                began.elapsed() < patience(30),
                "replica {id} {what}: not within {:?}; {status:?}\n{}",
                patience(30),
                fs::read_to_string(self.said(id)).unwrap_or_default()
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Positions and numbers of all entries.
    pub fn log_of(&self, id: u64) -> Vec<(u64, u64)> {
        let said = self.tool(&["read", "--at", &self.address(id)]);
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let mut entries = Vec::new();
        let mut rest = &said.stdout[..];
        // A line is position, tab, and the entry, whose number may hold a newline.
        while let Some(tab) = rest.iter().position(|byte| *byte == b'\t') {
            let position = std::str::from_utf8(&rest[..tab]).unwrap().parse().unwrap();
            let entry = &rest[tab + 1..tab + 1 + 256];
            entries.push((position, u64::from_le_bytes(*entry.first_chunk().unwrap())));
            rest = &rest[tab + 1 + 256 + 1..];
        }
        entries
    }

    /// Every byte on its disk is as it was written.
    pub fn verify(&self, id: u64) {
        let path = self.path(id).join("log");
        let said = self.tool(&["verify", "--directory", &path.display().to_string()]);
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }
}

pub struct Cut {
    namespace: String,
    directions: Vec<String>,
}

impl Drop for Cut {
    fn drop(&mut self) {
        for direction in &self.directions {
            run(&format!(
                "tc -n {} filter del dev eth0 {direction}",
                self.namespace
            ));
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for id in 1..=self.count {
                let said = fs::read_to_string(self.said(id)).unwrap_or_default();
                eprintln!("---- replica {id}\n{said}");
            }
        }
        run(&format!("umount {}", self.path(SMALL).display()));
        for id in 1..=self.count {
            run(&format!("ip netns del {}-{id}", self.name));
        }
        run(&format!("ip netns del {}", self.name));
    }
}

/// Neither namespaces, nor mounts, nor loop devices, nor processes.
pub fn assert_nothing_left(name: &str, directory: &str) {
    let namespaces = Command::new("ip").args(["netns", "list"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&namespaces.stdout).contains(name));
    assert!(!fs::read_to_string("/proc/mounts").unwrap().contains(directory));
    for entry in fs::read_dir("/sys/block").unwrap().flatten() {
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        assert!(!file.contains(directory), "{file}");
    }
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        assert!(!line.contains(directory), "{line}");
    }
}
