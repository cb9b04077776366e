//! What the agent is doing when it dies, and what must be true afterwards.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use support::{Answer, eventually};

use crate::stage::{Client, Stage};

/// One kind of work of the agent. A walk calls `prepare`, `act` and `judge` once for each point, in this order.
pub trait Operation {
    fn name(&self) -> &'static str;

    /// Brings about what there has to be before.
    fn prepare(&mut self, stage: &mut Stage);

    /// Begins; the client is the one whose exit status 0 acknowledges the operation.
    fn act(&mut self, stage: &Stage) -> Option<Client>;

    /// The victim has done all that follows from it (asked when it is quiet and the client has ended).
    fn is_done(&self, stage: &Stage) -> bool;

    /// Panics with what is wrong; ends what is left. The first word tells the kind: orphan, leak, double, lost, other.
    fn judge(&mut self, stage: &mut Stage, answer: Option<Answer>);
}

/// A command that marks each of its starts.
fn marking(mark: &str, then: &str) -> String {
    format!(
        "echo {mark} >> {}/marks; echo out; echo err >&2; {then}",
        Stage::INSIDE
    )
}

/// A fifo that a command waits at, to end when the test says so.
struct Valve(PathBuf);

impl Valve {
    fn new(stage: &Stage, name: &str) -> Self {
        let path = stage.shared.join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("make a fifo");
        Self(path)
    }

    /// Both ends at once, so that nobody waits for the other.
    fn open(&self) {
        use std::io::Write as _;
        let mut end = fs::File::options()
            .read(true)
            .write(true)
            .open(&self.0)
            .expect("open the fifo");
        end.write_all(b"go\n").expect("write to the fifo");
        let path = self.0.clone();
        // The line is lost with its last holder: kept until the command has read it.
        eventually("the command reads its line", || {
            use std::os::fd::AsFd as _;
            let mut ready = [nix::poll::PollFd::new(end.as_fd(), nix::poll::PollFlags::POLLIN)];
            nix::poll::poll(&mut ready, nix::poll::PollTimeout::ZERO)
                .ok()
                .filter(|n| *n == 0)
        });
        let _ = fs::remove_file(path);
    }
}

impl Drop for Valve {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn assert_once(stage: &Stage, name: &str) {
    let marks = stage.marks(name);
    assert!(
        marks <= 1,
        "double: the command of {name} was started {marks} times"
    );
}

fn wait_for_start(stage: &Stage, name: &str) {
    let what = format!("lost: the command of {name} is started");
    eventually(&what, || (stage.marks(name) > 0).then_some(()));
}

/// Acknowledged: it runs, once. Otherwise: it runs, once, or there is nothing of it.
fn judge_launch(stage: &Stage, name: &str, answer: &Answer) {
    let found = stage.container(name);
    match &found {
        Some(c) => {
            assert_eq!(
                c["state"], "running",
                "other: {name} is neither running nor gone: {c}"
            );
            wait_for_start(stage, name);
        }
        None => {
            assert_ne!(answer.status, 0, "lost: {name} was acknowledged and is gone");
            let marks = stage.marks(name);
            assert_eq!(marks, 0, "lost: {name} was started and nobody knows of it");
        }
    }
    assert_once(stage, name);
    stage.end(name);
    // Of a container that ran, the sandbox is kept.
    stage.assert_in_order(found.is_some());
    assert_once(stage, name);
}

/// `run -d`: with limits, a volume and output; or with a network namespace and a root file system of its own.
pub struct Launch {
    isolated: bool,
    container: String,
}

impl Launch {
    pub fn new(isolated: bool) -> Self {
        Self {
            isolated,
            container: String::new(),
        }
    }
}

impl Operation for Launch {
    fn name(&self) -> &'static str {
        if self.isolated {
            "launch-isolated"
        } else {
            "launch"
        }
    }

    fn prepare(&mut self, stage: &mut Stage) {
        self.container = stage.name("launch");
    }

    fn act(&mut self, stage: &Stage) -> Option<Client> {
        let (volume, rootfs) = (stage.volume(), stage.rootfs());
        let script = marking(&self.container, "exec busybox sleep 1000");
        let mut run = vec!["run", "-d", "--name", &self.container, "--volume", &volume];
        if self.isolated {
            run.extend(["--network", "none", "--rootfs", &rootfs]);
        } else {
            run.extend(["--mem", "64MB", "--pids", "20", "--cpus", "0.5"]);
        }
        run.extend(["--", "sh", "-c", &script]);
        Some(stage.client(&run))
    }

    fn is_done(&self, stage: &Stage) -> bool {
        stage.marks(&self.container) > 0
    }

    fn judge(&mut self, stage: &mut Stage, answer: Option<Answer>) {
        judge_launch(stage, &self.container, &answer.expect("a client"));
    }
}

/// A launch that may fail and leave the agent alive: the launcher or the init dies, not the agent.
pub struct LaunchAnyway {
    inner: Launch,
    what: &'static str,
}

impl LaunchAnyway {
    pub fn new(what: &'static str) -> Self {
        Self {
            inner: Launch::new(false),
            what,
        }
    }
}

impl Operation for LaunchAnyway {
    fn name(&self) -> &'static str {
        self.what
    }

    fn prepare(&mut self, stage: &mut Stage) {
        self.inner.prepare(stage);
    }

    fn act(&mut self, stage: &Stage) -> Option<Client> {
        self.inner.act(stage)
    }

    fn is_done(&self, stage: &Stage) -> bool {
        self.inner.is_done(stage)
    }

    fn judge(&mut self, stage: &mut Stage, answer: Option<Answer>) {
        let (name, answer) = (&self.inner.container, answer.expect("a client"));
        assert!(
            stage.agent.is_alive(),
            "other: the agent died with its {}",
            self.what
        );
        let mut found = stage.container(name);
        if answer.status == 0 {
            assert!(found.is_some(), "lost: {name} was acknowledged and is gone");
        } else {
            assert!(
                answer.stderr.contains("bulkhead:"),
                "other: no clear fault: {answer:?}"
            );
            // The answer need not wait for the last of its cleaning up.
            let what = format!("other: a failed launch is over: {found:?}");
            found = eventually(&what, || {
                let now = stage.container(name);
                let over = now.as_ref().is_none_or(|c| c["state"] == "destroyed");
                over.then_some(now)
            });
        }
        assert_once(stage, name);
        stage.end(name);
        // It also finds out that the launcher is gone, and starts another.
        let next = stage.agent.cli(&["run", "--rm", "--", "sh", "-c", "exit 3"]);
        assert_eq!(next.status, 3, "other: the next launch: {next:?}");
        // One that was started and killed at once has perhaps not come to its mark.
        stage.assert_in_order(found.is_some() || stage.marks(name) > 0);
    }
}

/// Runs one container for an operation on it.
fn run(stage: &Stage, name: &str, then: &str) {
    let volume = stage.volume();
    let script = marking(name, then);
    let limits = ["--mem", "64MB", "--pids", "20"];
    let mut run = vec!["run", "-d", "--rm", "--name", name, "--volume", &volume];
    run.extend(limits);
    run.extend(["--", "sh", "-c", &script]);
    stage.agent.cli(&run).success();
    wait_for_start(stage, name);
}

#[derive(Default)]
pub struct Update {
    container: String,
}

impl Update {
    /// Ceilings of processes and memory, as the kernel has them.
    fn in_force(stage: &Stage, inspected: &Value) -> (String, String) {
        let file = |controller: &str, names: [&str; 2]| {
            let detail = &inspected["detail"];
            let path = detail[format!("cgroup.{controller}")]
                .as_str()
                .or_else(|| detail["cgroup.unified"].as_str())
                .unwrap_or_else(|| panic!("other: no group of {controller} in {inspected}"));
            names
                .iter()
                .find_map(|name| fs::read_to_string(format!("{path}/{name}")).ok())
                .unwrap_or_else(|| panic!("other: nothing to read in {path}: {}", stage.agent.log()))
                .trim()
                .to_owned()
        };
        (
            file("pids", ["pids.max"; 2]),
            file("memory", ["memory.limit_in_bytes", "memory.max"]),
        )
    }
}

impl Operation for Update {
    fn name(&self) -> &'static str {
        "update"
    }

    fn prepare(&mut self, stage: &mut Stage) {
        self.container = stage.name("update");
        run(stage, &self.container, "exec sleep 1000");
    }

    fn act(&mut self, stage: &Stage) -> Option<Client> {
        Some(stage.client(&["update", &self.container, "--pids", "30", "--mem", "96MB"]))
    }

    fn is_done(&self, _stage: &Stage) -> bool {
        true
    }

    fn judge(&mut self, stage: &mut Stage, answer: Option<Answer>) {
        let name = &self.container;
        assert!(stage.is_running(name), "lost: {name} does not run any more");
        let inspected = stage.agent.cli(&["inspect", name, "-o", "json"]).json();
        let told = (
            inspected["limits"]["pids"].to_string(),
            inspected["limits"]["mem_bytes"].to_string(),
        );
        let in_force = Self::in_force(stage, &inspected);
        assert_eq!(told, in_force, "other: the limits told are not those in force");
        let (old, new) = (("20", 64 << 20), ("30", 96 << 20));
        let is = |wanted: (&str, u64)| in_force == (wanted.0.to_owned(), wanted.1.to_string());
        let acknowledged = answer.expect("a client").status == 0;
        assert!(
            is(new) || (is(old) && !acknowledged),
            "lost: limits {in_force:?}, acknowledged {acknowledged}"
        );
        assert_once(stage, name);
        stage.end(name);
        stage.assert_in_order(false);
    }
}

/// `kill` with a grace that the command outlives; somebody waits for the end.
#[derive(Default)]
pub struct Kill {
    container: String,
    waiter: Option<Client>,
}

impl Operation for Kill {
    fn name(&self) -> &'static str {
        "kill"
    }

    fn prepare(&mut self, stage: &mut Stage) {
        self.container = stage.name("kill");
        run(
            stage,
            &self.container,
            "trap '' TERM; while :; do sleep 1000; done",
        );
        self.waiter = Some(stage.waiter(&self.container));
    }

    fn act(&mut self, stage: &Stage) -> Option<Client> {
        Some(stage.client(&["kill", &self.container, "--grace", "40ms"]))
    }

    fn is_done(&self, stage: &Stage) -> bool {
        stage.is_empty()
    }

    fn judge(&mut self, stage: &mut Stage, answer: Option<Answer>) {
        let name = &self.container;
        if answer.expect("a client").status == 0 {
            eventually(&format!("lost: the kill of {name}"), || {
                (!stage.is_running(name)).then_some(())
            });
        } else {
            stage.end(name);
        }
        assert_once(stage, name);
        expect_end(stage, self.waiter.take(), "137\n");
        stage.assert_in_order(false);
    }
}

/// Who waited for a container hears of its end from one agent or its successor.
fn expect_end(stage: &Stage, waiter: Option<Client>, wanted: &str) {
    let told = waiter.expect("a waiting client").finish(stage.reaped());
    assert!(
        told.status == 0 && told.stdout == wanted,
        "lost: the end was not reported as {wanted:?}: {told:?}"
    );
}

/// The command ends by itself; somebody waits for it.
#[derive(Default)]
pub struct End {
    container: String,
    valve: Option<Valve>,
    waiter: Option<Client>,
}

impl Operation for End {
    fn name(&self) -> &'static str {
        "end"
    }

    fn prepare(&mut self, stage: &mut Stage) {
        self.container = stage.name("end");
        let valve = Valve::new(stage, &self.container);
        let fifo = format!("read line < {}/{}; exit 7", Stage::INSIDE, self.container);
        run(stage, &self.container, &fifo);
        self.valve = Some(valve);
        self.waiter = Some(stage.waiter(&self.container));
    }

    fn act(&mut self, _stage: &Stage) -> Option<Client> {
        self.valve.take().expect("made before").open();
        None
    }

    fn is_done(&self, stage: &Stage) -> bool {
        stage.is_empty()
    }

    fn judge(&mut self, stage: &mut Stage, _answer: Option<Answer>) {
        stage.container(&self.container);
        assert_once(stage, &self.container);
        expect_end(stage, self.waiter.take(), "7\n");
        stage.assert_in_order(false);
    }
}

#[derive(Default)]
pub struct Exec {
    container: String,
}

impl Operation for Exec {
    fn name(&self) -> &'static str {
        "exec"
    }

    fn prepare(&mut self, stage: &mut Stage) {
        self.container = stage.name("exec");
        run(stage, &self.container, "exec sleep 1000");
    }

    fn act(&mut self, stage: &Stage) -> Option<Client> {
        let script = format!("echo in-{} >> {}/marks; exit 0", self.container, Stage::INSIDE);
        Some(stage.client(&["exec", &self.container, "--", "sh", "-c", &script]))
    }

    fn is_done(&self, _stage: &Stage) -> bool {
        true
    }

    fn judge(&mut self, stage: &mut Stage, answer: Option<Answer>) {
        let name = &self.container;
        let mark = format!("in-{name}");
        assert!(stage.is_running(name), "lost: {name} does not run any more");
        assert_once(stage, &mark);
        if answer.expect("a client").status == 0 {
            assert_eq!(stage.marks(&mark), 1, "lost: the process of {name} never ran");
        }
        assert_once(stage, name);
        stage.end(name);
        stage.assert_in_order(false);
        assert_once(stage, &mark);
    }
}

/// The agent starts, finds one container that runs, one that ended while nobody looked, one that was to be killed, and
/// one that had not passed its gate.
#[derive(Default)]
pub struct Recover {
    /// Lives through all points.
    lasting: Option<String>,
    ended: String,
    doomed: String,
    waiters: Vec<Client>,
}

impl Operation for Recover {
    fn name(&self) -> &'static str {
        "recover"
    }

    fn prepare(&mut self, stage: &mut Stage) {
        let there = |name: &String| stage.is_running(name);
        if !self.lasting.as_ref().is_some_and(there) {
            let name = stage.name("lasting");
            run(stage, &name, "while :; do echo more; sleep 0.2; done");
            self.lasting = Some(name);
        }
        (self.ended, self.doomed) = (stage.name("ended"), stage.name("doomed"));
        let valve = Valve::new(stage, &self.ended);
        let fifo = format!("read line < {}/{}; exit 9", Stage::INSIDE, self.ended);
        run(stage, &self.ended, &fifo);
        run(stage, &self.doomed, "trap '' TERM; while :; do sleep 1000; done");
        self.waiters = vec![stage.waiter(&self.ended), stage.waiter(&self.doomed)];
        stage
            .agent
            .cli(&["kill", &self.doomed, "--grace", "1h"])
            .success();
        stage.agent.kill_hard();
        valve.open();
    }

    fn act(&mut self, _stage: &Stage) -> Option<Client> {
        None
    }

    fn is_done(&self, stage: &Stage) -> bool {
        let left = support::traces::entries(&stage.agent.runtime_dir().join("containers"));
        left.len() == 1 && std::os::unix::net::UnixStream::connect(stage.agent.socket()).is_ok()
    }

    fn judge(&mut self, stage: &mut Stage, _answer: Option<Answer>) {
        let lasting = self.lasting.clone().expect("runs since the beginning");
        assert!(
            stage.is_running(&lasting),
            "lost: {lasting} does not run any more"
        );
        for name in [&lasting, &self.ended, &self.doomed] {
            assert_once(stage, name);
        }
        for (waiter, wanted) in self.waiters.drain(..).zip(["9\n", "137\n"]) {
            expect_end(stage, Some(waiter), wanted);
        }
        let what = "leak: only the lasting container is left";
        eventually(what, || {
            let left = support::traces::entries(&stage.agent.runtime_dir().join("containers"));
            (left.len() == 1).then_some(())
        });
    }
}
