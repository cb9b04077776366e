//! An agent on directories of its own, and the command line against it.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{HostSnapshot, eventually, patience};

static AGENTS: AtomicU32 = AtomicU32::new(0);

/// The program under test, beside the test's own binary.
pub fn bulkhead() -> PathBuf {
    let own = std::env::current_exe().expect("path of the test program");
    let target = own
        .ancestors()
        .nth(2)
        .expect("a test program lies in target/<profile>/deps");
    let program = target.join("bulkhead");
    assert!(
        program.exists(),
        "{} is missing: run scripts/test, or first cargo build --workspace --bins",
        program.display()
    );
    program
}

/// A running agent. Dropping it ends every container, the agent, and checks that the host is as it was.
pub struct Agent {
    process: Option<Child>,
    directory: tempfile::TempDir,
    environment: Vec<(String, String)>,
    flags: Vec<String>,
    /// What a shell does before it becomes the agent.
    prelude: String,
    before: HostSnapshot,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Answer {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.status, 0, "{self:?}");
        self
    }

    #[track_caller]
    pub fn json(self) -> Value {
        let text = self.success().stdout;
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }
}

impl Agent {
    pub fn start() -> Self {
        Self::start_with(&[], &[])
    }

    pub fn start_with(flags: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_after("", flags, environment)
    }

    /// In a process that a shell has prepared: joined to a control group, limited by ulimit.
    pub fn start_after(prelude: &str, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        // One name for everything: directories, groups, arguments. So it can be found again.
        let instance = format!(
            "test-{}-{}",
            std::process::id(),
            AGENTS.fetch_add(1, Ordering::Relaxed)
        );
        let before = HostSnapshot::take(&instance);
        let directory = tempfile::Builder::new()
            .prefix(&format!("bulkhead-{instance}-"))
            .tempdir()
            .expect("a scratch directory");
        let mut agent = Self {
            process: None,
            directory,
            environment: environment
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect(),
            flags: flags
                .iter()
                .map(ToString::to_string)
                .chain([format!("--instance={instance}")])
                .collect(),
            prelude: prelude.to_owned(),
            before,
        };
        agent.spawn();
        agent
    }

    pub fn instance(&self) -> &str {
        self.before.instance()
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn work_dir(&self) -> PathBuf {
        self.directory.path().join("work")
    }

    pub fn runtime_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    pub fn socket(&self) -> PathBuf {
        self.runtime_dir().join("agent.sock")
    }

    pub fn endpoint(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> i32 {
        self.process.as_ref().map_or(0, |p| p.id() as i32)
    }

    /// For the next start.
    pub fn set_prelude(&mut self, prelude: &str) {
        self.prelude = prelude.to_owned();
    }

    pub fn set_environment(&mut self, environment: &[(&str, &str)]) {
        self.environment = environment
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect();
    }

    /// Starts the agent on these directories and waits until it serves.
    pub fn spawn(&mut self) {
        let _ = std::fs::remove_file(self.socket());
        self.process = Some(self.start_command().spawn().expect("start the agent"));
        self.wait_until_it_serves();
    }

    pub fn wait_until_it_serves(&self) {
        let (socket, deadline) = (self.socket(), Instant::now() + patience(10));
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(
                Instant::now() < deadline,
                "the agent does not serve; it waits in:\n{}its log:\n{}",
                waits_in(self.pid()),
                self.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What starts the agent on these directories, for a test that does so in its own way.
    pub fn start_command(&self) -> Command {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))
            .expect("log file");
        let mut command = match self.prelude.as_str() {
            "" => Command::new(bulkhead()),
            prelude => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-ec", &format!("{prelude}\nexec \"$0\" \"$@\"")]);
                shell.arg(bulkhead());
                shell
            }
        };
        command
            .arg("agent")
            .args(if self.flags.iter().any(|f| f.starts_with("--work-dir")) {
                None
            } else {
                Some(format!("--work-dir={}", self.work_dir().display()))
            })
            .arg(format!("--runtime-dir={}", self.runtime_dir().display()))
            .args(if self.flags.iter().any(|f| f.starts_with("--http")) {
                &[][..]
            } else {
                &["--http=none"][..]
            })
            .args(&self.flags)
            .envs(self.environment.iter().map(|(k, v)| (k, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        command
    }

    /// The agent's process is gone, and somebody else has reaped it.
    pub fn was_reaped(&mut self) {
        self.process = None;
    }

    /// As a crash would.
    pub fn kill_hard(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("kill the agent");
            process.wait().expect("reap the agent");
        }
    }

    /// Waits for an agent that is expected to die by itself.
    pub fn wait_for_death(&mut self) {
        if let Some(process) = self.process.as_mut() {
            eventually("the agent died", || process.try_wait().ok().flatten());
            self.process = None;
        }
    }

    pub fn is_alive(&mut self) -> bool {
        self.process
            .as_mut()
            .is_some_and(|p| matches!(p.try_wait(), Ok(None)))
    }

    /// SIGTERM; containers run on.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let pidfd = kernel::process::pidfd_open(process.id() as i32).expect("the agent lives");
            kernel::process::pidfd_send_signal(pidfd, 15).expect("signal the agent");
            eventually("the agent stops", || process.try_wait().ok().flatten());
        }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(bulkhead());
        command
            .args(arguments)
            .env("BULKHEAD_AGENT", self.endpoint())
            .stdin(Stdio::null());
        command
    }

    /// Runs the command line to its end.
    pub fn cli(&self, arguments: &[&str]) -> Answer {
        self.cli_with_input(arguments, b"")
    }

    /// A detached container with a name that runs a shell's script; its id.
    pub fn background(&self, name: &str, script: &str) -> String {
        let run = ["run", "-d", "--name", name, "--", "sh", "-c", script];
        self.cli(&run).success().stdout.trim().to_owned()
    }

    pub fn cli_with_input(&self, arguments: &[&str], input: &[u8]) -> Answer {
        let mut command = self.command(arguments);
        command.stdin(if input.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        });
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the command line");
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read its input closes the pipe early.
            let _ = stdin.write_all(input);
        }
        let output = child.wait_with_output().expect("run the command line");
        let status = output
            .status
            .code()
            .unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
        Answer {
            status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// `ps -a -o json`, the one named `name`.
    pub fn container(&self, name: &str) -> Option<Value> {
        let all = self.cli(&["ps", "-a", "-o", "json"]).json();
        all.as_array()?
            .iter()
            .find(|c| c["name"] == name || c["id"] == name)
            .cloned()
    }

    /// Ends everything and checks the host, now instead of at the end of the scope.
    pub fn finish(self) {
        drop(self);
    }
}

/// Where each thread is in the kernel, to be told about one that hangs.
fn waits_in(pid: i32) -> String {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    let mut lines = String::new();
    for thread in threads.into_iter().flatten().flatten() {
        let read = |name: &str| std::fs::read_to_string(thread.path().join(name)).unwrap_or_default();
        let facts = ["comm", "syscall", "wchan", "stack"].map(|name| read(name).trim().to_owned());
        lines.push_str(&facts.join(" "));
        lines.push('\n');
    }
    lines
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the agent's log:\n{}", self.log());
        }
        if self.process.is_none() {
            self.environment.clear();
            self.spawn();
        }
        let drained = self.cli(&["drain", "--grace", "0s"]);
        self.stop();
        if !std::thread::panicking() {
            assert_eq!(drained.status, 0, "{drained:?}\n{}", self.log());
            self.before.assert_nothing_new();
        }
    }
}
