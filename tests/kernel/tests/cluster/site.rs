//! A master on a port of its own, its agent, and the command line against it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::{Agent, Answer, bulkhead, eventually};

pub struct Site {
    pub agent: Option<Agent>,
    master: Option<Child>,
    directory: tempfile::TempDir,
    port: u16,
    flags: Vec<String>,
}

/// Taken and given back: the port is ours again in a moment.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its number").port()
}

impl Site {
    /// Agents are given up after two seconds of silence.
    pub fn start() -> Self {
        Self::start_with(&["--agent-ping-timeout=1s", "--max-agent-ping-timeouts=2"])
    }

    /// One agent, and a master with these flags.
    pub fn start_with(flags: &[&str]) -> Self {
        let mut site = Self {
            agent: None,
            master: None,
            directory: tempfile::tempdir().expect("a scratch directory"),
            port: free_port(),
            flags: flags.iter().map(ToString::to_string).collect(),
        };
        site.start_master();
        site.agent = Some(site.another_agent());
        site.until_agent_is("active");
        site
    }

    pub fn another_agent(&self) -> Agent {
        let flags = self.agent_flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        Agent::start_with(&flags, &[])
    }

    pub fn agent_flags(&self) -> Vec<String> {
        vec![
            format!("--master={}", self.address()),
            format!("--credential={}", self.credential().display()),
        ]
    }

    pub fn agent(&mut self) -> &mut Agent {
        self.agent.as_mut().expect("the agent")
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn credential(&self) -> PathBuf {
        self.directory.path().join("master/credential")
    }

    pub fn start_master(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))
            .expect("log file");
        let child = Command::new(bulkhead())
            .arg("master")
            .arg(format!("--port={}", self.port))
            .arg(format!(
                "--work-dir={}",
                self.directory.path().join("master").display()
            ))
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start the master");
        self.master = Some(child);
        eventually("the master leads", || {
            (self.cli(&["leader"]).status == 0).then_some(())
        });
    }

    pub fn kill_master(&mut self) {
        if let Some(mut master) = self.master.take() {
            master.kill().expect("kill the master");
            master.wait().expect("reap the master");
        }
    }

    /// A master that knows nothing of what was.
    pub fn forget_registry(&mut self) {
        let work = self.directory.path().join("master/replicated_log");
        std::fs::remove_dir_all(work).expect("remove the registry");
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub fn cli(&self, arguments: &[&str]) -> Answer {
        self.cli_as(arguments, Some(&self.credential()))
    }

    pub fn cli_as(&self, arguments: &[&str], credential: Option<&PathBuf>) -> Answer {
        let mut command = Command::new(bulkhead());
        command
            .args(arguments)
            .env("BULKHEAD_MASTER", self.address())
            .env_remove("BULKHEAD_CREDENTIAL")
            .stdin(Stdio::null());
        if let Some(path) = credential {
            command.env("BULKHEAD_CREDENTIAL", path);
        }
        let output = command.output().expect("run the command line");
        Answer {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// A detached task that runs a shell's script; its id.
    pub fn task(&self, name: &str, script: &str) -> String {
        let run = [
            "task", "run", "-d", "--name", name, "--cpus", "0.1", "--mem", "32MB", "--", "sh", "-c", script,
        ];
        self.cli(&run).success().stdout.trim().to_owned()
    }

    pub fn view(&self, id: &str) -> Option<Value> {
        let answer = self.cli(&["tasks", "-a", "-o", "json"]);
        let all: Value = serde_json::from_str(&answer.stdout).ok()?;
        all.as_array()?.iter().find(|task| task["id"] == id).cloned()
    }

    /// Until the master says that the task is so.
    pub fn until_task_is(&self, id: &str, state: &str) -> Value {
        eventually(&format!("task {id} is {state}"), || {
            self.view(id).filter(|task| task["state"] == state)
        })
    }

    /// A page that the master serves, with the head.
    pub fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address()).expect("connect");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("send");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        text
    }

    /// What is durable.
    pub fn registry(&self) -> Value {
        let page = self.get("/registrar(1)/registry");
        let (_, body) = page.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {page}"))
    }

    pub fn until_agent_is(&self, state: &str) {
        eventually(&format!("the agent is {state}"), || {
            let answer = self.cli(&["agents", "-o", "json"]);
            let all: Value = serde_json::from_str(&answer.stdout).ok()?;
            all.as_array()?
                .iter()
                .any(|agent| agent["state"] == state)
                .then_some(())
        });
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the master's log:\n{}", self.log());
        }
        self.kill_master();
    }
}
