//! A ZooKeeper ensemble of one's own on loopback: Debian's jars, small heaps, a temporary directory. Ends with the value.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::patience;

const JAR: &str = "/usr/share/java/zookeeper.jar";
/// Sessions last between 2 and 20 of these; expiry is looked for once in each.
const TICK_MS: u32 = 500;

/// True when no ensemble can be started here; says why, so that a skip is never mistaken for a pass.
pub fn skip_without_zookeeper() -> bool {
    let missing = if !Path::new(JAR).exists() {
        Some(JAR)
    } else if Command::new("java")
        .arg("-version")
        .stderr(Stdio::null())
        .status()
        .is_err()
    {
        Some("java")
    } else {
        None
    };
    if let Some(missing) = missing {
        eprintln!("SKIPPED: {missing} is missing; install it with: scripts/setup --tests");
    }
    missing.is_some()
}

struct Server {
    config: PathBuf,
    log: PathBuf,
    address: SocketAddrV4,
    process: Option<Child>,
}

/// Its servers, numbered from 0.
pub struct Ensemble {
    servers: Vec<Server>,
    _directory: tempfile::TempDir,
}

/// Taken and given back: a moment later it is ours again.
fn free_port() -> u16 {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    taken.local_addr().expect("its address").port()
}

impl Ensemble {
    /// Starts it and waits until it serves.
    pub fn start(count: usize) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("bulkhead-zk")
            .tempdir()
            .expect("a temporary directory");
        let client: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let peers: String = (1..=count).fold(String::new(), |mut text, number| {
            writeln!(text, "server.{number}=127.0.0.1:{}:{}", free_port(), free_port()).expect("text");
            text
        });
        let server = |(number, port): (usize, &u16)| {
            let home = directory.path().join(number.to_string());
            fs::create_dir_all(home.join("data")).expect("a directory");
            fs::write(home.join("data/myid"), (number + 1).to_string()).expect("myid");
            let mut text = format!(
                "tickTime={TICK_MS}\ninitLimit=20\nsyncLimit=10\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\n\
                 admin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\n",
                home.join("data").display()
            );
            if count > 1 {
                text.push_str(&peers);
            }
            fs::write(home.join("zoo.cfg"), text).expect("zoo.cfg");
            Server {
                config: home.join("zoo.cfg"),
                log: home.join("log"),
                address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, *port),
                process: None,
            }
        };
        let mut ensemble = Self {
            servers: client.iter().enumerate().map(server).collect(),
            _directory: directory,
        };
        (0..count).for_each(|number| ensemble.launch(number));
        (0..count).for_each(|number| ensemble.wait_for(number));
        ensemble
    }

    /// `zk://HOST:PORT,.../PATH` of all servers, or of some.
    pub fn url(&self, path: &str) -> String {
        format!("zk://{}{path}", self.addresses())
    }

    pub fn addresses(&self) -> String {
        let all: Vec<String> = self
            .servers
            .iter()
            .map(|server| server.address.to_string())
            .collect();
        all.join(",")
    }

    pub fn address(&self, number: usize) -> String {
        self.servers[number].address.to_string()
    }

    fn launch(&mut self, number: usize) {
        let server = &mut self.servers[number];
        let log = File::options()
            .create(true)
            .append(true)
            .open(&server.log)
            .expect("a log");
        let process = Command::new("java")
            .args([
                "-Xmx96m",
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
                "-Xshare:auto",
            ])
            .args(["-Djava.net.preferIPv4Stack=true", "-cp", JAR])
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(&server.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("java");
        server.process = Some(process);
    }

    /// Until it serves clients as a member of a quorum.
    pub fn wait_for(&self, number: usize) {
        let deadline = Instant::now() + patience(60);
        while !self.command(number, "srvr").contains("Mode:") {
            let log = || fs::read_to_string(&self.servers[number].log).unwrap_or_default();
            assert!(
                Instant::now() < deadline,
                "ZooKeeper {number} does not serve: {}",
                log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The answer to a four-letter command; empty when there is none.
    pub fn command(&self, number: usize, word: &str) -> String {
        let ask = || -> std::io::Result<String> {
            let mut stream =
                TcpStream::connect_timeout(&self.servers[number].address.into(), Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(word.as_bytes())?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        ask().unwrap_or_default()
    }

    /// The server that leads the others.
    pub fn leader(&self) -> Option<usize> {
        (0..self.servers.len()).find(|number| self.command(*number, "srvr").contains("Mode: leader"))
    }

    pub fn pid(&self, number: usize) -> Option<u32> {
        self.servers[number].process.as_ref().map(Child::id)
    }

    /// `kill -9`.
    pub fn kill(&mut self, number: usize) {
        if let Some(mut process) = self.servers[number].process.take() {
            // Gone already is as good.
            let _gone = process.kill();
            process.wait().expect("its end");
        }
    }

    /// Starts a killed one again, on what it had.
    pub fn restart(&mut self, number: usize) {
        self.kill(number);
        self.launch(number);
    }

    pub fn freeze(&self, number: usize) {
        self.signal(number, "STOP");
    }

    pub fn thaw(&self, number: usize) {
        self.signal(number, "CONT");
    }

    fn signal(&self, number: usize, signal: &str) {
        let pid = self.pid(number).expect("a running server");
        crate::zookeeper::send(pid, signal);
    }
}

/// `kill -SIGNAL PID`.
pub fn send(pid: u32, signal: &str) {
    let sent = Command::new("kill")
        .args([format!("-{signal}"), pid.to_string()])
        .status()
        .expect("kill");
    assert!(sent.success(), "kill -{signal} {pid}");
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        (0..self.servers.len()).for_each(|number| self.kill(number));
    }
}
