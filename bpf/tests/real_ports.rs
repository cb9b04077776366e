//! The port policy in the real kernel, against the ranges themselves. Needs root and a v2 tree.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use bpf::ports::{PortPrograms, RANGES_MAX};
use model::{PortGrant, PortRanges};

/// A v2 group, removed at the end.
struct Group(PathBuf);

impl Group {
    fn new(name: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
        let path =
            Path::new(line.split(' ').nth(4)?).join(format!("bulkhead-test-{}-{name}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => Some(Self(path)),
            Err(error) => {
                eprintln!("skipped: {}: {error}", path.display());
                None
            }
        }
    }

    /// Which of the ports a process in the group can bind: none of them listens.
    fn binds(&self, first: u16, last: u16) -> Vec<u16> {
        let tries = "import socket,sys\nfor port in range(int(sys.argv[1]), int(sys.argv[2]) + 1):\n \
                     s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n try:\n  \
                     s.bind(('127.0.0.1', port)); print(port)\n except PermissionError: pass\n except OSError: print(port)\n s.close()";
        let script = format!(
            "echo 0 >{}/cgroup.procs && exec python3 -c \"$0\" {first} {last}",
            self.0.display()
        );
        let output = Command::new("sh").args(["-c", &script, tries]).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| line.parse().unwrap())
            .collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn exactly_the_granted_ports_can_be_bound() {
    const FIRST: u16 = 21_000;
    const LAST: u16 = 22_000;
    // Thousands of binds take minutes in an emulated machine: there the longest list and the shortest are tried.
    let step = if std::env::var_os("BULKHEAD_TEST_MACHINE").is_some() {
        8
    } else {
        1
    };
    let programs = match Group::new("probe").map(|_| PortPrograms::load()) {
        Some(Ok(programs)) => programs,
        why => return eprintln!("skipped: {:?}", why.map(|loaded| loaded.err())),
    };
    // As many as there is room for, one, none at either edge, neighbours with one port between them.
    let many = |count: u16| {
        let ranges = (0..count).map(|n| format!("{}-{}", FIRST + 3 + n * 7, FIRST + 3 + n * 7 + n % 5));
        ranges.collect::<Vec<_>>().join(",")
    };
    let grants = [
        many(RANGES_MAX as u16),
        many(RANGES_MAX as u16 - 1),
        many(65),
        many(64),
        many(3),
        format!("{FIRST}"),
        format!("{LAST}"),
        format!("{FIRST}-{LAST}"),
        format!("{},{}-{}", FIRST, FIRST + 2, FIRST + 3),
    ];
    for (at, ranges) in grants.iter().enumerate().step_by(step) {
        let Some(group) = Group::new(&format!("ports-{at}")) else {
            return;
        };
        let allotted: PortRanges = ranges.parse().unwrap();
        let grant = PortGrant {
            allotted: allotted.clone(),
            ephemeral: None,
        };
        programs
            .restrict(File::open(&group.0).unwrap().as_fd(), &grant)
            .unwrap();
        let expected: Vec<u16> = (FIRST..=LAST).filter(|port| allotted.contains(*port)).collect();
        assert_eq!(group.binds(FIRST, LAST), expected, "{ranges}");
    }
}
