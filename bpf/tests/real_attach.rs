//! The device program in the real kernel. Needs root and a v2 tree.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use bpf::ports::PortPrograms;
use bpf::{DeviceRule, NodeKind, Program, attached_device_programs};

/// A v2 group, removed at the end.
struct Group(PathBuf);

impl Group {
    fn new(name: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = mounts
            .lines()
            .find(|line| line.contains(" - cgroup2 "))?
            .split(' ')
            .nth(4)?;
        let path = Path::new(root).join(format!("bulkhead-test-{}-{name}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => Some(Self(path)),
            Err(error) => {
                eprintln!("skipped: {}: {error}", path.display());
                None
            }
        }
    }

    fn reads(&self, device: &str) -> bool {
        let script = format!("echo 0 > {}/cgroup.procs && head -c 1 {device}", self.0.display());
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &script])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().unwrap().success()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(std::thread::panicking(), "left: {}", self.0.display());
    }
}

fn zero_only() -> Vec<DeviceRule> {
    let read = |minor| DeviceRule {
        kind: NodeKind::Character,
        major: Some(1),
        minor: Some(minor),
        read: true,
        write: true,
        mknod: false,
    };
    // null: the shell's own redirections.
    vec![read(5), read(3)]
}

#[test]
fn the_attached_program_decides_and_outlives_its_handle() {
    let Some(group) = Group::new("decides") else {
        return;
    };
    assert!(group.reads("/dev/zero") && group.reads("/dev/urandom"));
    let directory = File::open(&group.0).unwrap();
    let program = Program::device(&zero_only()).unwrap();
    program.attach(directory.as_fd()).unwrap();
    assert_eq!(attached_device_programs(directory.as_fd()).unwrap().len(), 1);
    drop(program);
    assert!(group.reads("/dev/zero"));
    assert!(
        !group.reads("/dev/urandom"),
        "a device that no rule allows was opened"
    );
    // A second program can only take away: all attached ones must agree.
    Program::device(&[]).unwrap().attach(directory.as_fd()).unwrap();
    assert!(!group.reads("/dev/zero"));
}

#[test]
fn attach_and_detach() {
    let Some(group) = Group::new("detach") else { return };
    let directory = File::open(&group.0).unwrap();
    let program = Program::device(&[]).unwrap();
    program.attach(directory.as_fd()).unwrap();
    program.detach(directory.as_fd()).unwrap();
    assert!(attached_device_programs(directory.as_fd()).unwrap().is_empty());
    assert!(group.reads("/dev/urandom"));
    assert!(program.detach(directory.as_fd()).is_err());
    let not_a_group = File::open("/").unwrap();
    assert!(program.attach(not_a_group.as_fd()).is_err());
}

#[test]
fn the_longest_program_passes_the_verifier_and_a_longer_one_is_refused() {
    if Group::new("verifier").is_none() {
        return;
    }
    let rule = DeviceRule {
        read: false,
        ..zero_only()[0]
    };
    Program::device(&vec![rule; bpf::device::RULES_MAX]).unwrap();
    assert!(Program::device(&vec![rule; bpf::device::RULES_MAX + 1]).is_err());
}

#[test]
#[ignore = "a measurement: run with --ignored --nocapture in release"]
fn cost_of_attach() {
    let Some(held) = Group::new("held") else { return };
    let Some(group) = Group::new("cost") else { return };
    let program = Program::device(&zero_only()).unwrap();
    let ports = PortPrograms::load().unwrap();
    let measure = |label: &str, attach: &dyn Fn(BorrowedFd<'_>)| {
        let (mut total, rounds) = (std::time::Duration::ZERO, 1000);
        let mut removal = std::time::Duration::ZERO;
        for _ in 0..rounds {
            let path = group.0.join("c");
            fs::create_dir(&path).unwrap();
            let directory = File::open(&path).unwrap();
            let begin = Instant::now();
            attach(directory.as_fd());
            total += begin.elapsed();
            let begin = Instant::now();
            fs::remove_dir(&path).unwrap();
            removal += begin.elapsed();
        }
        let (total, removal) = (total / rounds, removal / rounds);
        eprintln!("{label}: attach {total:?}, rmdir {removal:?}");
    };
    let device = |group: BorrowedFd<'_>| program.attach(group).unwrap();
    let count = |group: BorrowedFd<'_>| ports.count(group).unwrap();
    measure("nothing", &|_| ());
    measure("devices, no other program in the host", &device);
    measure("traffic, no other program in the host", &count);
    let held = File::open(&held.0).unwrap();
    program.attach(held.as_fd()).unwrap();
    measure("devices, with one attached elsewhere", &device);
    ports.count(held.as_fd()).unwrap();
    measure("traffic, with one attached elsewhere", &count);
}
