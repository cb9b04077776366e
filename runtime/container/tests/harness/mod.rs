//! Real containers without an agent: one launcher, one container at a time or several. Leaves nothing
//! behind: each container is killed and reaped when it goes out of scope, directories are temporary.

// Each test program uses a part of it.
#![allow(dead_code)]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use container::channel::{self, Report};
use container::launcher::{self, LauncherProcess};
use container::plan::{self, PlanContext};
use container::status::{self, WaitRecord};
use container::{ChildFds, CloneKind, CloneRequest, Namespaces};
use kernel::process;
use model::{ExecSpec, Fault, HostSupport, LaunchSpec};

pub const DEADLINE: Duration = Duration::from_secs(20);

pub fn host() -> HostSupport {
    kernel::host::probe().expect("probe")
}

pub fn spec(command: &[&str]) -> LaunchSpec {
    LaunchSpec {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        ..LaunchSpec::default()
    }
}

pub fn shell(script: &str) -> LaunchSpec {
    spec(&["/bin/sh", "-c", script])
}

/// A launcher and a directory for everything on the host.
pub struct World {
    pub launcher: LauncherProcess,
    pub host: HostSupport,
    pub directory: tempfile::TempDir,
    next: std::cell::Cell<u32>,
}

impl World {
    pub fn new() -> Self {
        // Not below /tmp: that is private to a container, and hiding would go untested.
        let directory = tempfile::Builder::new()
            .prefix("bulkhead-test-")
            .tempdir_in("/var/lib")
            .expect("tempdir");
        Self {
            launcher: launcher::start_launcher(init_image::INIT, "test").expect("launcher"),
            host: host(),
            directory,
            next: std::cell::Cell::new(0),
        }
    }

    pub fn work_dir(&self) -> &Path {
        self.directory.path()
    }

    pub fn context(&self) -> PlanContext {
        let number = self.next.get();
        self.next.set(number + 1);
        let own = self.directory.path().join(format!("c{number}"));
        let sandbox = own.join("sandbox");
        let overlay = own.join("overlay");
        std::fs::create_dir_all(&sandbox).expect("sandbox");
        std::fs::create_dir_all(&overlay).expect("overlay");
        PlanContext {
            id: format!("c{number}").parse().expect("id"),
            sandbox: sandbox.clone(),
            sandbox_target: sandbox,
            hidden: vec![self.directory.path().to_owned()],
            overlay_dir: Some(overlay),
            hostname: format!("host{number}"),
        }
    }

    pub fn clone_child(&self, request: &CloneRequest) -> io::Result<(i32, OwnedFd)> {
        launcher::send_request(self.launcher.socket.as_fd(), request)?;
        let reply = block(|| launcher::receive_reply(self.launcher.socket.as_fd()))?;
        Ok(reply.result?)
    }

    pub fn prepare(&self, spec: &LaunchSpec) -> Result<Running<'_>, Fault> {
        self.prepare_with(spec, |_| {})
    }

    pub fn prepare_with(
        &self,
        spec: &LaunchSpec,
        change: impl FnOnce(&mut CloneRequest),
    ) -> Result<Running<'_>, Fault> {
        let context = self.context();
        let plan = plan::launch_plan(spec, &self.host, &context)?;
        let (channel, child) = channel::open(&channel::encode_plan(&plan)).expect("channel");
        let (stdout, out) = pipe();
        let (stderr, err) = pipe();
        let status = tempfile::tempfile().expect("status file");
        let mut fds = ChildFds::new(child);
        if spec.terminal.is_none() {
            fds.stdout = Some(out);
            fds.stderr = Some(err);
            fds.keep_stdout = Some(stdout.try_clone().expect("clone").into());
            fds.keep_stderr = Some(stderr.try_clone().expect("clone").into());
        }
        fds.status = Some(status.try_clone().expect("clone").into());
        let mut request = CloneRequest {
            fds,
            namespaces: Namespaces::default(),
            kind: CloneKind::Init,
        };
        change(&mut request);
        let (pid, pidfd) = self.clone_child(&request).expect("clone");
        Ok(Running {
            world: self,
            context,
            pid,
            pidfd,
            channel: Some(channel),
            stdout,
            stderr,
            status,
            terminal: None,
            ended: None,
        })
    }

    pub fn start(&self, spec: &LaunchSpec) -> Result<Running<'_>, Fault> {
        let mut running = self.prepare(spec)?;
        running.open_gate()?;
        Ok(running)
    }

    pub fn run(&self, spec: &LaunchSpec) -> Result<Ended, Fault> {
        Ok(self.start(spec)?.wait())
    }

    /// stdout of a script that must succeed.
    pub fn output(&self, spec: &LaunchSpec) -> String {
        let ended = self.run(spec).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(
            ended.record.expect("record").exit_status(),
            0,
            "{} {}",
            ended.stdout,
            ended.stderr
        );
        ended.stdout
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = process::pidfd_send_signal(&self.launcher.pidfd, 9);
        let _ = process::wait_pidfd(&self.launcher.pidfd, true);
        let below = self.directory.path().to_string_lossy().into_owned();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let left: Vec<&str> = mounts.lines().filter(|line| line.contains(&below)).collect();
        assert!(
            left.is_empty() || std::thread::panicking(),
            "mounts left behind: {left:?}"
        );
    }
}

pub struct Running<'w> {
    pub world: &'w World,
    pub context: PlanContext,
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub channel: Option<OwnedFd>,
    pub stdout: File,
    pub stderr: File,
    pub status: File,
    pub terminal: Option<File>,
    ended: Option<process::Exit>,
}

#[derive(Debug)]
pub struct Ended {
    pub record: Option<WaitRecord>,
    pub init: process::Exit,
    pub stdout: String,
    pub stderr: String,
}

impl Running<'_> {
    pub fn open_gate(&mut self) -> Result<(), Fault> {
        let channel = self.channel.take().expect("channel");
        let _ = channel::open_gate(channel.as_fd());
        loop {
            match block(|| channel::receive_report(channel.as_fd())).expect("report") {
                Some((Report::Ready, _)) => {}
                Some((Report::Pty, fd)) => self.terminal = Some(File::from(fd.expect("master"))),
                Some((Report::Started, _)) => return Ok(()),
                Some((report, _)) => return Err(report.into_fault()),
                None => return Err(Fault::failed("the channel was closed")),
            }
        }
    }

    pub fn wait(mut self) -> Ended {
        let init = self.reap();
        Ended {
            record: status::read_status(&self.status).expect("status"),
            init,
            stdout: drain(&mut self.stdout),
            stderr: drain(&mut self.stderr),
        }
    }

    pub fn reap(&mut self) -> process::Exit {
        if let Some(exit) = self.ended {
            return exit;
        }
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(exit) = process::wait_pidfd(&self.pidfd, false).expect("wait") {
                self.ended = Some(exit);
                return exit;
            }
            assert!(Instant::now() < deadline, "the container did not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Runs a further process and returns its exit and output.
    pub fn exec(&self, parent: &LaunchSpec, exec: &ExecSpec) -> Result<(process::Exit, String), Fault> {
        let plan = plan::exec_plan(exec, parent, &self.world.host, &self.context)?;
        let (channel, child) = channel::open(&channel::encode_plan(&plan)).expect("channel");
        let (mut stdout, out) = pipe();
        let mut fds = ChildFds::new(child);
        fds.stderr = Some(out.try_clone().expect("clone"));
        fds.stdout = Some(out);
        fds.target = Some(self.pidfd.try_clone().expect("clone"));
        let request = CloneRequest {
            fds,
            namespaces: Namespaces::default(),
            kind: CloneKind::Exec,
        };
        let (_, joiner) = self.world.clone_child(&request).expect("clone");
        drop(request);
        let mut process = None;
        let result = loop {
            match block(|| channel::receive_report(channel.as_fd())).expect("report") {
                Some((Report::Process { .. }, fd)) => process = fd,
                Some((Report::Started, _)) => break Ok(()),
                Some((Report::Pty | Report::Ready, _)) => {}
                Some((report, _)) => break Err(report.into_fault()),
                None => break Err(Fault::failed("the channel was closed")),
            }
        };
        process::wait_pidfd(&joiner, true).expect("reap the joiner");
        if let (Err(_), Some(failed)) = (&result, &process) {
            process::wait_pidfd(failed, true).expect("reap the failed process");
        }
        result?;
        let exit = process::wait_pidfd(process.expect("pidfd"), true)
            .expect("wait")
            .expect("exit");
        Ok((exit, drain(&mut stdout)))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = process::pidfd_send_signal(&self.pidfd, 9);
            if !std::thread::panicking() {
                self.reap();
            }
        }
    }
}

pub fn pipe() -> (File, OwnedFd) {
    let (read, write) = io::pipe().expect("pipe");
    (File::from(OwnedFd::from(read)), write.into())
}

/// What is there, without waiting for writers to go away.
fn drain(file: &mut File) -> String {
    kernel::socket::set_nonblocking(file.as_fd()).expect("nonblocking");
    let mut bytes = Vec::new();
    let _ = file.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

pub fn block<T>(mut operation: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match operation() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                assert!(Instant::now() < deadline, "nothing came");
                std::thread::sleep(Duration::from_micros(50));
            }
            other => return other,
        }
    }
}

pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn file_at(path: PathBuf) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
