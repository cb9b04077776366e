//! A whole cluster for tests: `scripts/cluster`, and what it says.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::patience;

/// True when no cluster can be made here; says why.
pub fn skip() -> bool {
    support::skip_unless_root() || support::zookeeper::skip_without_zookeeper()
}

/// Three masters, three ZooKeeper servers, some agents. Ends with the value, and leaves nothing.
pub struct Cluster {
    name: String,
    home: PathBuf,
}

impl Cluster {
    /// `master`: further flags of the masters.
    pub fn up(agents: usize, master: &str) -> Self {
        Self::with_session(agents, master, "10s")
    }

    /// `session`: how long ZooKeeper waits for a leader that says nothing.
    pub fn with_session(agents: usize, master: &str, session: &str) -> Self {
        let name = format!("t{}", std::process::id());
        let home = Path::new("/run/bulkhead-cluster").join(&name);
        let cluster = Self { name, home };
        let up = cluster
            .script()
            .env("BULKHEAD_CLUSTER_MASTER_FLAGS", master)
            .args([
                "up",
                "--agents",
                &agents.to_string(),
                "--session-timeout",
                session,
            ])
            .output()
            .expect("scripts/cluster");
        assert!(up.status.success(), "scripts/cluster up: {}", text(&up));
        cluster
    }

    fn script(&self) -> Command {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/cluster"));
        command
            .env("BULKHEAD_CLUSTER_NAME", &self.name)
            .env("BULKHEAD", support::bulkhead())
            .stdin(Stdio::null());
        command
    }

    /// A client's verb in the cluster's network; half a minute at most.
    pub fn client(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        let script = self.script();
        command.arg("30").arg(script.get_program());
        for (key, value) in script.get_envs() {
            if let Some(value) = value {
                command.env(key, value);
            }
        }
        command
            .arg("client")
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("timeout")
    }

    /// What a verb says as JSON; None when it fails.
    pub fn json(&self, arguments: &[&str]) -> Option<Value> {
        let output = self.client(&[arguments, &["-o", "json"]].concat());
        output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).ok())?
    }

    /// Term and host name of the leader, if one answers.
    pub fn leader(&self) -> Option<(u64, String)> {
        let leader = self.json(&["leader"])?;
        Some((leader["term"].as_u64()?, leader["hostname"].as_str()?.to_owned()))
    }

    /// Host name and state of each agent that the leader knows.
    pub fn agents(&self) -> Vec<(String, String)> {
        let agents = self.json(&["agents"]).unwrap_or_default();
        let one = |agent: &Value| {
            Some((
                agent["hostname"].as_str()?.to_owned(),
                agent["state"].as_str()?.to_owned(),
            ))
        };
        agents.as_array().into_iter().flatten().filter_map(one).collect()
    }

    pub fn agent_is(&self, host: &str, state: &str) -> bool {
        self.agents()
            .iter()
            .any(|(name, now)| name == host && now == state)
    }

    /// All tasks that the leader knows, ended ones too.
    pub fn tasks(&self) -> Option<Vec<Value>> {
        self.json(&["tasks", "-a"])?.as_array().cloned()
    }

    /// Launches and detaches; the task's id, or what was said.
    pub fn launch(&self, flags: &[&str], command: &[&str]) -> Result<String, String> {
        let run = ["task", "run", "-d", "--cpus=0.02", "--mem=16MB"];
        let output = self.client(&[&run, flags, &["--"], command].concat());
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(text(&output)),
        }
    }

    /// Starts a fault, which ends by itself.
    pub fn fault(&self, kind: &str, seconds: u32, more: &[&str]) -> Fault {
        let child = self
            .script()
            .args(["fault", kind, "--for", &seconds.to_string()])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("scripts/cluster");
        Fault(Some(child))
    }

    /// Containers that an agent remembers, by its own socket.
    pub fn containers(&self, host: &str) -> Vec<Value> {
        let socket = format!("unix:{}", self.home.join(host).join("socket").display());
        let listed = Command::new(support::bulkhead())
            .args(["--agent", &socket, "ps", "-a", "-o", "json"])
            .stdin(Stdio::null())
            .output()
            .expect("bulkhead");
        serde_json::from_slice(&listed.stdout).unwrap_or_default()
    }

    /// Where a node keeps its files: `work`, `run`, `log`.
    pub fn home(&self, node: &str) -> PathBuf {
        self.home.join(node)
    }

    pub fn pid(&self, node: &str) -> Option<u32> {
        let text = std::fs::read_to_string(self.home.join(node).join("pid")).ok()?;
        text.split(' ').next()?.parse().ok()
    }

    pub fn log(&self, node: &str) -> String {
        std::fs::read_to_string(self.home.join(node).join("log")).unwrap_or_default()
    }

    /// A command in the cluster's network.
    pub fn curl(&self, node: &str, path: &str) -> String {
        let number: u32 = node[1..].parse().expect("a node's number");
        let output = Command::new("nsenter")
            .arg(format!("--net=/run/netns/bhc-{}-net", self.name))
            .args([
                "curl",
                "-s",
                "-o",
                "-",
                "-w",
                "\n%{http_code} %{redirect_url}",
                "--max-time",
                "5",
            ])
            .arg(format!("http://10.99.0.{}:5050{path}", 20 + number))
            .output()
            .expect("curl");
        text(&output)
    }

    /// A client's verb at one master only, not waited for.
    pub fn at_master(&self, node: &str, arguments: &[&str]) -> Child {
        let number: u32 = node[1..].parse().expect("a node's number");
        Command::new("nsenter")
            .arg(format!("--net=/run/netns/bhc-{}-net", self.name))
            .arg(support::bulkhead())
            .args(arguments)
            .env("BULKHEAD_INSECURE", "1")
            .env("BULKHEAD_MASTER", format!("10.99.0.{}:5050", 20 + number))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("bulkhead")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let down = self.script().arg("down").output().expect("scripts/cluster");
        if std::thread::panicking() {
            return;
        }
        assert!(down.status.success(), "scripts/cluster down: {}", text(&down));
        assert!(!self.home.exists(), "{} is left", self.home.display());
        let namespaces = Command::new("ip").args(["netns", "list"]).output().expect("ip");
        let namespaces = text(&namespaces);
        assert!(
            !namespaces.contains(&format!("bhc-{}-", self.name)),
            "namespaces are left: {namespaces}"
        );
    }
}

/// A fault under way; ended before it is dropped.
pub struct Fault(Option<Child>);

impl Fault {
    /// Waits until the script has put things right again; what it said.
    pub fn over(mut self) -> String {
        self.end()
    }

    fn end(&mut self) -> String {
        self.0.take().map_or_else(String::new, |child| {
            text(&child.wait_with_output().expect("its end"))
        })
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a program said, on both ways.
pub fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
    .trim()
    .to_owned()
}

/// Asks again and again: elections take seconds.
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience(90);
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(Instant::now() < deadline, "did not come about: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
