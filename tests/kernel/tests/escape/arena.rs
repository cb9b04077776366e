//! An agent, a host that is watched, and the ways to attack from a container.

use std::cell::Cell;
use std::future::Future;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use model::{ContainerId, ExecSpec, Fault, LaunchSpec, Termination, Volume};
use support::{Agent, Answer};

use crate::canary::Canary;

/// How often a race is run.
pub fn races() -> usize {
    support::repetitions(1000)
}

/// Launches or execs at one time.
const AT_ONCE: usize = 6;

/// Put before each attack: `attempt` tells whether it worked.
const PRELUDE: &str = "\
import ctypes, errno, os, signal, socket, stat, struct, sys, time, fcntl
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
def attempt(name, attack):
    try: print('DONE', name, attack())
    except OSError as error: print('no', name, errno.errorcode.get(error.errno, error.errno))
def write(path, text=b'\\n'):
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try: return os.write(fd, text)
    finally: os.close(fd)
";

pub struct Arena {
    pub agent: Agent,
    /// A directory of the test's on the host, outside of the agent's.
    pub ground: PathBuf,
    canary: Canary,
    /// Made for [`Self::attack_everywhere`] so far.
    images: Cell<u32>,
}

impl Arena {
    pub fn new() -> Option<Self> {
        Self::with(&[])
    }

    pub fn with(flags: &[&str]) -> Option<Self> {
        if support::skip_unless_root() {
            return None;
        }
        let agent = Agent::start_with(flags, &[]);
        let ground = agent.directory().join("ground");
        std::fs::create_dir(&ground).expect("a directory");
        std::fs::write(ground.join("canary"), "untouched").expect("a file");
        let canary = Canary::look(agent.pid(), &[ground.join("canary")]);
        Some(Self {
            agent,
            ground,
            canary,
            images: Cell::new(0),
        })
    }

    /// A file on the host that no container is given.
    pub fn canary_file(&self) -> PathBuf {
        self.ground.join("canary")
    }

    #[track_caller]
    pub fn host_is_unchanged(&self) {
        self.canary
            .assert_unchanged(self.agent.pid(), &[self.canary_file()]);
    }

    /// A root file system with the host's programs in it. `prepare` may spoil it.
    pub fn image(&self, name: &str, prepare: impl FnOnce(&Path)) -> PathBuf {
        let root = self.ground.join(name);
        for directory in ["usr", "tmp", "etc", "root", "var"] {
            std::fs::create_dir_all(root.join(directory)).expect("a directory of the image");
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{link}"), root.join(link)).expect("a link of the image");
        }
        prepare(&root);
        root
    }

    pub fn image_flags(&self, image: &Path) -> Vec<String> {
        vec![
            "--rootfs".to_owned(),
            image.display().to_string(),
            "-v".to_owned(),
            "/usr:/usr:ro".to_owned(),
        ]
    }

    /// Runs python in a new container as root there; nothing that it attempts may work, and the host must be as before.
    /// Returns what it printed.
    #[track_caller]
    pub fn attack(&self, flags: &[&str], attack: &str) -> String {
        let script = format!("{PRELUDE}{attack}\nprint('END')");
        let mut arguments = vec!["run", "--rm"];
        arguments.extend(flags);
        arguments.extend(["--", "/usr/bin/python3", "-c", &script]);
        let answer = self.agent.cli(&arguments);
        self.judge(answer)
    }

    /// The same in a container that runs already.
    #[track_caller]
    pub fn attack_in(&self, name: &str, attack: &str) -> String {
        let script = format!("{PRELUDE}{attack}\nprint('END')");
        let answer = self
            .agent
            .cli(&["exec", name, "--", "/usr/bin/python3", "-c", &script]);
        self.judge(answer)
    }

    /// With the host's root, with one of its own, and in a further process of a container.
    #[track_caller]
    pub fn attack_everywhere(&self, flags: &[&str], attack: &str) {
        self.attack(flags, attack);
        let number = self.images.replace(self.images.get() + 1);
        let image = self.image(&format!("everywhere-{number}"), |_| {});
        let own_root = self.image_flags(&image);
        let with_root: Vec<&str> = own_root
            .iter()
            .map(String::as_str)
            .chain(flags.iter().copied())
            .collect();
        self.attack(&with_root, attack);
        self.hold("everywhere", flags);
        self.attack_in("everywhere", attack);
        self.agent.cli(&["kill", "everywhere", "--grace", "0s"]).success();
    }

    /// A container that only sleeps.
    #[track_caller]
    pub fn hold(&self, name: &str, flags: &[&str]) {
        let mut arguments = vec!["run", "-d", "--rm", "--name", name];
        arguments.extend(flags);
        arguments.extend(["--", "sleep", "1000"]);
        self.agent.cli(&arguments).success();
    }

    /// A container that runs python until it is killed, and has begun.
    #[track_caller]
    pub fn hold_attack(&self, name: &str, flags: &[&str], attack: &str) {
        let script = format!("{PRELUDE}print('BEGUN', flush=True)\n{attack}");
        let mut arguments = vec!["run", "-d", "--name", name];
        arguments.extend(flags);
        arguments.extend(["--", "/usr/bin/python3", "-c", &script]);
        self.agent.cli(&arguments).success();
        support::eventually(&format!("{name} attacks"), || {
            self.printed(name).contains("BEGUN").then_some(())
        });
    }

    pub fn printed(&self, name: &str) -> String {
        let answer = self.agent.cli(&["logs", name]);
        answer.stdout + &answer.stderr
    }

    /// The init of a running container, by its pid on the host.
    pub fn init_of(&self, name: &str) -> i32 {
        let status = self.agent.container(name).expect("it is known");
        status["pid"].as_i64().expect("it runs") as i32
    }

    #[track_caller]
    fn judge(&self, answer: Answer) -> String {
        assert!(!answer.stdout.contains("DONE"), "{answer:?}");
        assert!(
            answer.stdout.trim_end().ends_with("END"),
            "the attack broke off: {answer:?}"
        );
        self.host_is_unchanged();
        answer.stdout
    }

    /// Launches [`races`] times, some at a time; `look` sees each answer.
    pub fn race_launches(
        &self,
        spec: &LaunchSpec,
        mut look: impl FnMut(Result<(ContainerId, Termination), Fault>),
    ) {
        self.connected(|connection| async move {
            let launch = |_| async {
                let (launched, waiting) = connection.launch_and_wait(spec, None, false).await?;
                Ok((launched.id, waiting.await?))
            };
            let mut answers = futures::stream::iter((0..races()).map(launch)).buffer_unordered(AT_ONCE);
            while let Some(answer) = answers.next().await {
                look(answer);
            }
        });
    }

    /// Executes [`races`] times in a container.
    pub fn race_execs(&self, name: &str, spec: &ExecSpec, mut look: impl FnMut(Result<Termination, Fault>)) {
        self.connected(|connection| async move {
            let container = connection.container(name).await.expect("it runs");
            let container = &container;
            let exec = |_| async move {
                let execution = container.exec(spec, None).await?;
                execution.process.wait().await
            };
            let mut answers = futures::stream::iter((0..races()).map(exec)).buffer_unordered(AT_ONCE);
            while let Some(answer) = answers.next().await {
                look(answer);
            }
        });
    }

    pub fn connected<T, F: Future<Output = T>>(&self, talk: impl FnOnce(client::Agent) -> F) -> T {
        let endpoint: client::Endpoint = self.agent.endpoint().parse().expect("an endpoint");
        net::run(net::Config::default(), async {
            talk(client::Agent::connect(&endpoint).await.expect("connect")).await
        })
        .expect("the loop")
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.host_is_unchanged();
        }
    }
}

/// A launch of a shell script that leaves nothing behind.
pub fn script(text: &str) -> LaunchSpec {
    LaunchSpec {
        command: vec!["/bin/busybox".into(), "sh".into(), "-c".into(), text.into()],
        remove: true,
        ..LaunchSpec::default()
    }
}

pub fn volume(source: &Path, target: &str, read_only: bool) -> Volume {
    Volume {
        source: source.to_owned(),
        target: target.into(),
        read_only,
    }
}

/// The flag for the command line.
pub fn volume_flag(source: &Path, target: &str) -> String {
    format!("{}:{target}", source.display())
}
