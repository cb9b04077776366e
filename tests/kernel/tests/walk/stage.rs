//! One agent after the other on the same directories, and what must be true between them.

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use serde_json::Value;
use support::traces::{Descriptors, children, descriptors, entries, groups, processes, read};
use support::{Agent, Answer, patience};

use crate::tracer::Tracer;

/// How long a client may take after the successor serves.
const CLIENT_PATIENCE: u64 = 40;
/// How long the agent may take to put everything in order.
const ORDER_PATIENCE: u64 = 30;

pub struct Stage {
    pub agent: Agent,
    /// Visible in every container at [`Self::INSIDE`].
    pub shared: PathBuf,
    rootfs: PathBuf,
    descriptors: Descriptors,
    names: u32,
    /// Whom the tracer reaped, for those who started them.
    reaped: HashMap<i32, WaitStatus>,
}

impl Stage {
    pub const INSIDE: &str = "/srv";

    pub fn new() -> Self {
        let agent = Agent::start_with(&["--network-pool=1", "--sample-interval=1h"], &[]);
        let (shared, rootfs) = (agent.directory().join("shared"), agent.directory().join("rootfs"));
        fs::create_dir_all(&shared).expect("the shared directory");
        for directory in ["bin", "srv", "tmp"] {
            fs::create_dir_all(rootfs.join(directory)).expect("a root file system");
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox"))
            .expect("busybox-static is installed by scripts/setup --tests");
        std::os::unix::fs::symlink("busybox", rootfs.join("bin/sh")).expect("a link");
        let mut stage = Self {
            agent,
            shared,
            rootfs,
            descriptors: Descriptors::new(),
            names: 0,
            reaped: HashMap::new(),
        };
        // What the agent opens at its first launch it keeps.
        stage.agent.cli(&["run", "--rm", "--", "true"]).success();
        stage
            .agent
            .cli(&["run", "--rm", "--network=none", "--", "true"])
            .success();
        stage.agent.kill_hard();
        stage.agent.spawn();
        stage.wait_idle();
        stage.descriptors = descriptors(stage.agent.pid());
        stage
    }

    pub fn reap(&mut self, ended: &HashMap<i32, WaitStatus>) {
        self.reaped = ended.clone();
    }

    pub fn reaped(&self) -> &HashMap<i32, WaitStatus> {
        &self.reaped
    }

    pub fn rootfs(&self) -> String {
        self.rootfs.display().to_string()
    }

    pub fn volume(&self) -> String {
        format!("{}:{}", self.shared.display(), Self::INSIDE)
    }

    /// A name that was not used before.
    pub fn name(&mut self, beginning: &str) -> String {
        self.names += 1;
        format!("{beginning}{}", self.names)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.agent.pid())
    }

    pub fn launcher(&self) -> Option<Pid> {
        children(self.agent.pid())
            .into_iter()
            .find(|pid| read(&format!("/proc/{pid}/cmdline")).starts_with("bulkhead-launcher"))
            .map(Pid::from_raw)
    }

    /// Until every thread of the agent waits for something to happen.
    pub fn wait_idle(&self) {
        let deadline = Instant::now() + patience(ORDER_PATIENCE);
        let mut quiet = 0;
        while quiet < 2 {
            quiet = if waits(self.agent.pid()) { quiet + 1 } else { 0 };
            assert!(
                Instant::now() < deadline,
                "other: the agent does not come to rest"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How often `mark` was written by a command.
    pub fn marks(&self, mark: &str) -> usize {
        read(&self.shared.join("marks").display().to_string())
            .lines()
            .filter(|line| *line == mark)
            .count()
    }

    pub fn containers(&self) -> Vec<Value> {
        let answer = self.agent.cli(&["ps", "-a", "-o", "json"]).json();
        answer.as_array().cloned().unwrap_or_default()
    }

    /// The living or remembered container of that name; more than one is a violation.
    pub fn container(&self, name: &str) -> Option<Value> {
        let mut all: Vec<Value> = self
            .containers()
            .into_iter()
            .filter(|c| c["name"] == name)
            .collect();
        assert!(
            all.len() <= 1,
            "double: {name} is listed {} times: {all:?}",
            all.len()
        );
        all.pop()
    }

    pub fn is_running(&self, name: &str) -> bool {
        self.container(name).is_some_and(|c| c["state"] == "running")
    }

    /// True when nothing is kept for any container.
    pub fn is_empty(&self) -> bool {
        entries(&self.agent.runtime_dir().join("containers")).is_empty()
    }

    pub fn client(&self, arguments: &[&str]) -> Client {
        let child = self
            .agent
            .command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start a client");
        Client {
            child,
            what: arguments.join(" "),
        }
    }

    /// A client that waits for the end of `name`, and is known to the agent when this returns.
    pub fn waiter(&self, name: &str) -> Client {
        let client = self.client(&["wait", name]);
        // When both wait for the other to speak, the question has arrived.
        let deadline = Instant::now() + patience(ORDER_PATIENCE);
        let mut quiet = 0;
        while quiet < 3 {
            let both = waits(client.pid()) && waits(self.agent.pid());
            quiet = if both { quiet + 1 } else { 0 };
            assert!(
                Instant::now() < deadline,
                "other: the waiting client does not come to rest"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        client
    }

    /// Ends `name` if it is there, and waits until nothing is left of any container. Those in `kept` have run and were
    /// not to be removed: their sandboxes stay, and are removed here.
    pub fn end(&self, name: &str) {
        let _ = self.agent.cli(&["kill", name, "--grace", "0s"]);
    }

    /// Nothing is left of any container, and the agent holds no more than at its start.
    pub fn assert_in_order(&self, may_stay: bool) {
        let deadline = Instant::now() + patience(ORDER_PATIENCE);
        loop {
            let wrong = self.disorder(may_stay);
            if wrong.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{}", wrong.join("; "));
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    fn disorder(&self, may_stay: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut expect = |path: PathBuf, known: &[&str]| {
            for name in entries(&path) {
                if !known.contains(&name.as_str()) {
                    wrong.push(format!("leak: {} in {}", name, path.display()));
                }
            }
        };
        expect(self.agent.runtime_dir().join("containers"), &[]);
        expect(
            self.agent.runtime_dir(),
            &[
                "agent.sock",
                "lock",
                "boot_id",
                "containers",
                "ended",
                "cgroup_place",
            ],
        );
        let kept = if may_stay {
            &["sandboxes", "output"][..]
        } else {
            &[]
        };
        for directory in entries(&self.agent.work_dir()) {
            if kept.contains(&directory.as_str()) {
                for name in entries(&self.agent.work_dir().join(&directory)) {
                    let _ = fs::remove_dir_all(self.agent.work_dir().join(&directory).join(name));
                }
            } else if directory != "lock" {
                expect(self.agent.work_dir().join(&directory), &[]);
            }
        }
        let instance = self.agent.instance();
        for group in groups(instance) {
            wrong.push(format!("leak: control group {}", group.display()));
        }
        for line in read("/proc/self/mountinfo")
            .lines()
            .filter(|l| l.contains(instance))
        {
            wrong.push(format!("leak: mount {line}"));
        }
        let launcher = self.launcher().map(Pid::as_raw);
        for pid in processes(instance) {
            if pid != self.agent.pid() && Some(pid) != launcher {
                wrong.push(format!(
                    "orphan: process {pid} {}",
                    read(&format!("/proc/{pid}/comm")).trim()
                ));
            }
        }
        for pid in children(self.agent.pid()) {
            if Some(pid) != launcher {
                wrong.push(format!(
                    "orphan: child {pid} {}",
                    read(&format!("/proc/{pid}/stat"))
                ));
            }
        }
        let (now, before) = (descriptors(self.agent.pid()), &self.descriptors);
        for (kind, count) in &now {
            let usual = before.get(kind).copied().unwrap_or(0);
            // One namespace is kept ready for the next launch.
            let usual = if kind.starts_with("net:") { 1 } else { usual };
            if *count > usual {
                wrong.push(format!("leak: {count} descriptors of {kind} instead of {usual}"));
            }
        }
        wrong
    }
}

/// A command line that runs while the agent is traced.
pub struct Client {
    child: Child,
    what: String,
}

impl Client {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn has_ended(&self, tracer: &Tracer) -> bool {
        tracer.ended(self.pid()).is_some()
    }

    /// Its answer; `ended` tells of those whom the tracer has reaped.
    pub fn finish(mut self, ended: &HashMap<i32, WaitStatus>) -> Answer {
        let deadline = Instant::now() + patience(CLIENT_PATIENCE);
        let status = loop {
            match ended.get(&self.pid()) {
                Some(WaitStatus::Exited(_, code)) => break *code,
                Some(_) => break 255,
                None => {}
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                break status.code().unwrap_or(255);
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                panic!("other: the client hangs: {}", self.what);
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let (mut stdout, mut stderr) = (String::new(), String::new());
        if let (Some(out), Some(err)) = (&mut self.child.stdout, &mut self.child.stderr) {
            out.read_to_string(&mut stdout).expect("what it printed");
            err.read_to_string(&mut stderr).expect("what it complained of");
        }
        Answer {
            status,
            stdout,
            stderr,
        }
    }
}

/// Every thread is in a call that waits for others.
fn waits(pid: i32) -> bool {
    use nix::libc::{SYS_epoll_pwait, SYS_epoll_wait, SYS_futex};
    let threads = entries(Path::new(&format!("/proc/{pid}/task")));
    !threads.is_empty()
        && threads.iter().all(|thread| {
            let text = read(&format!("/proc/{pid}/task/{thread}/syscall"));
            let number = text.split(' ').next().and_then(|n| n.parse::<i64>().ok());
            number.is_some_and(|n| [SYS_epoll_pwait, SYS_epoll_wait, SYS_futex].contains(&n))
        })
}
