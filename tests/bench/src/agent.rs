//! An agent of the bench's own: private directories, private socket, ended and cleaned up with it.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::floor::Helper;

const START_WITHIN: Duration = Duration::from_secs(10);
const END_WITHIN: Duration = Duration::from_secs(30);

pub struct RunningAgent {
    child: Child,
    directory: PathBuf,
    socket: PathBuf,
    work_dir: PathBuf,
}

impl RunningAgent {
    /// Starts the release build that lies beside this program.
    pub fn start(scratch: &Path) -> io::Result<Self> {
        Self::start_with(scratch, &[])
    }

    /// With flags beside those of its directories.
    pub fn start_with(scratch: &Path, flags: &[&str]) -> io::Result<Self> {
        let own = std::env::current_exe()?;
        let binary = own.with_file_name("bulkhead");
        let directory = scratch.join("agent");
        let socket = directory.join("agent.sock");
        fs::create_dir_all(&directory)?;
        // The sandboxes lie on a disk as they do in production; what the agent keeps of a running container on tmpfs.
        let work_dir = own.with_file_name(format!("bench-work-{}", std::process::id()));
        let child = spawn(&binary, &directory, &socket, &work_dir, flags)?;
        let mut agent = Self {
            child,
            directory: directory.clone(),
            socket,
            work_dir,
        };
        agent.wait_until_it_answers(&directory.join("agent.log"))?;
        Ok(agent)
    }

    fn wait_until_it_answers(&mut self, log: &Path) -> io::Result<()> {
        let deadline = Instant::now() + START_WITHIN;
        while UnixStream::connect(&self.socket).is_err() {
            if let Some(status) = self.child.try_wait()? {
                let said = fs::read_to_string(log).unwrap_or_default();
                return Err(io::Error::other(format!(
                    "the agent ended with {status}:\n{said}"
                )));
            }
            if Instant::now() > deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the agent did not open its socket",
                ));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Kills it as a crash would and starts a successor on the same directories. Gives the moment of the start; nobody has
    /// waited for it to serve.
    pub fn restart_hard(&mut self) -> io::Result<Instant> {
        self.child.kill()?;
        self.child.wait()?;
        let binary = std::env::current_exe()?.with_file_name("bulkhead");
        let start = Instant::now();
        self.child = spawn(&binary, &self.directory, &self.socket, &self.work_dir, &[])?;
        Ok(start)
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A client process that launches on command; `network` is `host`, `none` or `mapped`.
    pub fn driver(&self, network: &str) -> io::Result<Helper> {
        let own = std::env::current_exe()?;
        Helper::start(Command::new(own).arg("drive").arg(&self.socket).arg(network))
    }
}

fn spawn(
    binary: &Path,
    directory: &Path,
    socket: &Path,
    work_dir: &Path,
    flags: &[&str],
) -> io::Result<Child> {
    let mut options = fs::OpenOptions::new();
    let log = options
        .create(true)
        .append(true)
        .open(directory.join("agent.log"))?;
    Command::new(binary)
        .arg("agent")
        .arg(format!("--work_dir={}", work_dir.display()))
        .arg(format!("--runtime_dir={}", directory.join("run").display()))
        .arg(format!("--socket={}", socket.display()))
        .args(flags)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .map_err(|cause| io::Error::new(cause.kind(), format!("start {}: {cause}", binary.display())))
}

impl Drop for RunningAgent {
    fn drop(&mut self) {
        // Containers outlive their agent, also those of a bench that failed.
        let program = std::env::current_exe().map(|own| own.with_file_name("bulkhead"));
        if let Ok(program) = program {
            let endpoint = format!("unix:{}", self.socket.display());
            let _ = Command::new(program)
                .args(["drain", "--grace", "0s", "--agent", &endpoint])
                .stdout(Stdio::null())
                .status();
        }
        // SIGTERM: std can only send SIGKILL, and an agent that is killed leaves its root groups, as it should.
        let _ = Command::new("kill").arg(self.pid().to_string()).status();
        let deadline = Instant::now() + END_WITHIN;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                eprintln!(
                    "bench: the agent (pid {}) did not end within {END_WITHIN:?}: killed",
                    self.pid()
                );
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = fs::remove_dir_all(&self.work_dir);
    }
}
