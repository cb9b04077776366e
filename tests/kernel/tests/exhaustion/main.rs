//! Something runs out, or hangs: it is bounded, it is told, what runs goes on, and all is well again when it ends.

mod descriptors;
mod disk;
mod fuse;
mod memory;
mod mounts;
mod processes;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Agent, is_pure_v2};

/// A control group of the test's own, for the agent to live in.
struct OwnGroup(PathBuf);

impl OwnGroup {
    fn make(controller: &str) -> Self {
        let top = match is_pure_v2() {
            true => PathBuf::from("/sys/fs/cgroup"),
            false => Path::new("/sys/fs/cgroup").join(controller),
        };
        if is_pure_v2() {
            let enable = format!("+{controller}");
            std::fs::write(top.join("cgroup.subtree_control"), enable).expect("enable the controller");
        }
        let group = top.join(format!("exhaustion-{}-{controller}", std::process::id()));
        std::fs::create_dir_all(&group).expect("make a group");
        Self(group)
    }

    fn set(&self, file: &str, value: &str) {
        let path = self.0.join(file);
        std::fs::write(&path, value).unwrap_or_else(|e| panic!("write {value} to {}: {e}", path.display()));
    }

    fn read(&self, file: &str) -> String {
        let path = self.0.join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        text.trim().to_owned()
    }

    /// For [`Agent::start_after`].
    fn enter(&self) -> String {
        format!("echo 0 >{}/cgroup.procs", self.0.display())
    }
}

impl Drop for OwnGroup {
    fn drop(&mut self) {
        // The agent's last threads may still be on their way out.
        for _ in 0..200 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        if !std::thread::panicking() {
            panic!("{} is still in use", self.0.display());
        }
    }
}

/// A small disk over one of the agent's directories. The agent must be down while it is put there and taken away.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn over(directory: PathBuf, options: &str) -> Self {
        mount(&[
            "-t",
            "tmpfs",
            "-o",
            options,
            "tmpfs",
            &directory.display().to_string(),
        ]);
        Self(directory)
    }

    /// Until nothing fits any more.
    fn fill(&self) -> PathBuf {
        use std::io::Write;
        let path = self.0.join("ballast");
        let mut file = std::fs::File::create(&path).expect("a file");
        while file.write_all(&[1; 4096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(&self.0).status();
        if !std::thread::panicking() {
            assert!(status.expect("umount").success());
        }
    }
}

fn mount(arguments: &[&str]) {
    let status = Command::new("mount").args(arguments).status().expect("mount");
    assert!(status.success(), "mount {arguments:?}");
}

/// The pid of a container that has to be running.
#[track_caller]
fn pid_of(agent: &Agent, name: &str) -> i64 {
    let container = agent
        .container(name)
        .unwrap_or_else(|| panic!("{name} is unknown"));
    assert_eq!(container["state"], "running", "{container}");
    container["pid"].as_i64().expect("a pid")
}
