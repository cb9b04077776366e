//! A host with one uplink and what lies beyond it, as two network namespaces joined by a veth.
//!
//! ```text
//! outside  192.0.2.2, 2001:db8::2  eth0 ════ uplink  192.0.2.1, 2001:db8::1  host
//! ```

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use kernel::netlink::namespace;

pub const HOST: &str = "192.0.2.1";
pub const OUTSIDE: &str = "192.0.2.2";
pub const UPLINK: &str = "uplink";

/// Ends with its last descriptor and process.
#[derive(Debug)]
pub struct NetworkWorld {
    pub host: OwnedFd,
    pub outside: OwnedFd,
    bpffs: PathBuf,
    _directory: tempfile::TempDir,
}

impl NetworkWorld {
    /// Panics where it can't be made: needs root.
    pub fn new() -> Self {
        let host = namespace::create().expect("a network namespace");
        let outside = namespace::create().expect("a network namespace");
        // iproute2 knows a namespace by a process in it.
        let resident = start(&outside, "sleep 60");
        let pid = resident.0.id();
        configure(
            &host,
            &format!("ip link add {UPLINK} type veth peer name eth0 netns {pid}"),
        );
        drop(resident);
        for (namespace, interface, last) in [(&host, UPLINK, 1), (&outside, "eth0", 2)] {
            configure(namespace, "ip link set lo up");
            configure(namespace, &format!("ip link set {interface} up"));
            configure(
                namespace,
                &format!("ip addr add 192.0.2.{last}/24 dev {interface}"),
            );
            configure(
                namespace,
                &format!("ip addr add 2001:db8::{last}/64 dev {interface} nodad"),
            );
        }
        configure(&host, "ip route add default via 192.0.2.2");
        configure(&host, "ip -6 route add default via 2001:db8::2");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let bpffs = directory.path().join("bpf");
        std::fs::create_dir(&bpffs).expect("a directory");
        run_here(&format!("mount -t bpf bpf {}", bpffs.display()));
        Self {
            host,
            outside,
            bpffs,
            _directory: directory,
        }
    }

    /// A bpffs of its own.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }
}

impl Default for NetworkWorld {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for NetworkWorld {
    fn drop(&mut self) {
        run_here(&format!("umount {}", self.bpffs.display()));
    }
}

/// A program that is killed when this goes.
#[derive(Debug)]
pub struct Running(pub Child);

impl Running {
    /// Waits for its end and gives what it has written to stdout.
    pub fn output(mut self) -> String {
        let mut text = String::new();
        if let Some(mut stdout) = self.0.stdout.take() {
            io::Read::read_to_string(&mut stdout, &mut text).expect("what a program writes");
        }
        self.0.wait().expect("a child");
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `work` in a network namespace.
pub fn within<R: Send>(target: impl AsFd, work: impl FnOnce() -> R + Send) -> R {
    namespace::within(target, work).expect("a network namespace can be joined")
}

/// Starts a program in a network namespace: words are separated by blanks.
pub fn start(target: impl AsFd, command: &str) -> Running {
    let child = within(target, || {
        words(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
    });
    Running(child.unwrap_or_else(|error| panic!("{command}: {error}")))
}

/// Runs a program in a network namespace to its end.
pub fn run(target: impl AsFd, command: &str) -> Output {
    within(target, || words(command).output()).unwrap_or_else(|error| panic!("{command}: {error}"))
}

/// Runs what must succeed.
pub fn configure(target: impl AsFd, command: &str) {
    let output = run(target, command);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
}

fn run_here(command: &str) {
    let status = words(command).status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "{command}: {status:?}"
    );
}

fn words(command: &str) -> Command {
    let mut words = command.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}
