//! Disk ceilings: measured walks everywhere, project quotas where a file system has them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::{Agent, eventually, skip_unless_root};

const OFTEN: &str = "--container-disk-watch-interval=100ms";

fn used(agent: &Agent, name: &str) -> Option<u64> {
    let samples = agent.cli(&["stats", "-o", "json", name]).json();
    let text = samples.to_string();
    let (_, rest) = text.split_once("\"disk_used_bytes\":")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn detach(agent: &Agent, name: &str, flags: &[&str], script: &str) {
    let mut line = vec!["run", "-d", "--name", name];
    line.extend(flags);
    line.extend(["--", "sh", "-c", script]);
    agent.cli(&line).success();
}

fn ended(agent: &Agent, name: &str) -> Value {
    eventually(&format!("{name} has ended"), || {
        agent.container(name).filter(|c| c["state"] == "destroyed")
    })
}

#[test]
fn more_than_the_ceiling_ends_it_with_the_figures() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start_with(&[OFTEN], &[]);
    detach(
        &agent,
        "big",
        &["--disk", "1MB"],
        "head -c 3000000 /dev/zero > f; sleep 100",
    );
    let big = ended(&agent, "big");
    assert_eq!(
        (&big["reason"], &big["exit_status"]),
        (&"disk_limit".into(), &137.into()),
        "{big}"
    );
    assert_eq!(big["limitation"]["limit_bytes"], 1 << 20, "{big}");
    // It may have been caught in the middle of it.
    let peak = big["limitation"]["peak_bytes"].as_u64().unwrap_or(0);
    assert!(peak > 1 << 20, "{big}");
    let message = big["message"].as_str().unwrap_or_default();
    assert!(message.contains("the ceiling is 1MB"), "{message}");
    // Many small files and directories are space as well; so is what lies deep.
    detach(
        &agent,
        "deep",
        &["--disk", "2MB"],
        "for d in $(seq 100); do mkdir -p x; cd x; done; for n in $(seq 600); do echo x > $n; done; sleep 100",
    );
    assert_eq!(ended(&agent, "deep")["reason"], "disk_limit");
    let refused = agent.cli(&["run", "--disk", "1KB", "--", "true"]);
    assert_eq!(refused.status, 125);
    assert!(refused.stderr.contains("limits.disk"), "{refused:?}");
}

#[test]
fn holes_and_names_take_no_space_and_others_are_not_counted() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start_with(&[OFTEN], &[]);
    let outside = agent.directory().join("outside");
    std::fs::create_dir(&outside).expect("a directory");
    std::fs::write(outside.join("big"), vec![1; 8 << 20]).expect("a file");
    let script = format!(
        "truncate -s 4G sparse; head -c 1000000 /dev/zero > f; for n in $(seq 50); do ln f l$n; done
         ln -s {} link; ln -s / root; echo ready; sleep 100",
        outside.display()
    );
    detach(&agent, "c", &["--disk", "2MB"], &script);
    let bytes = eventually("it is measured whole", || {
        used(&agent, "c").filter(|bytes| *bytes > 1_000_000)
    });
    assert!(bytes < 1_100_000, "{bytes}");
    // A mount on the host's side is not part of it.
    let id = agent.container("c").expect("it runs")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let point = agent.work_dir().join("sandboxes").join(id).join("m");
    std::fs::create_dir(&point).expect("a mount point");
    let (from, to) = (outside.to_str().expect("text"), point.to_str().expect("text"));
    assert!(run("mount", &["--bind", from, to]));
    std::thread::sleep(Duration::from_millis(500));
    let state = agent.container("c").expect("it runs")["state"].clone();
    assert!(run("umount", &[to]));
    assert_eq!(state, "running");
    assert!(
        agent
            .cli(&["inspect", "c"])
            .success()
            .stdout
            .contains("measured walk")
    );
}

#[test]
fn a_ceiling_can_be_changed_and_lives_through_a_restart() {
    if skip_unless_root() {
        return;
    }
    let mut agent = Agent::start_with(&[OFTEN], &[]);
    let script = "head -c 2000000 /dev/zero > f; while [ ! -e go ]; do sleep 0.05; done; head -c 6000000 /dev/zero >> f; sleep 100";
    detach(&agent, "c", &["--disk", "4MB"], script);
    detach(&agent, "late", &[], "head -c 2000000 /dev/zero > f; sleep 100");
    eventually("it is measured", || {
        used(&agent, "c").filter(|bytes| *bytes > 1_900_000)
    });
    let refused = agent.cli(&["update", "c", "--disk", "1MB"]);
    assert!(
        refused.status == 1 && refused.stderr.contains("uses 1.9MB already"),
        "{refused:?}"
    );
    assert_eq!(
        agent.container("c").expect("it runs")["limits"]["disk_bytes"],
        4 << 20
    );
    agent.cli(&["update", "c", "--disk", "5MB"]).success();
    // One that began without a ceiling gets one.
    agent.cli(&["update", "late", "--disk", "1MB"]).success();
    assert_eq!(ended(&agent, "late")["reason"], "disk_limit");
    agent.kill_hard();
    agent.spawn();
    let c = agent.container("c").expect("adopted");
    assert_eq!(
        (&c["state"], &c["limits"]["disk_bytes"]),
        (&"running".into(), &(5 << 20).into()),
        "{c}"
    );
    let id = c["id"].as_str().expect("an id").to_owned();
    std::fs::write(agent.work_dir().join("sandboxes").join(id).join("go"), b"").expect("go");
    assert_eq!(ended(&agent, "c")["reason"], "disk_limit");
}

#[test]
fn without_enforcement_it_is_only_measured() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start_with(&[OFTEN, "--enforce_container_disk_quota=false"], &[]);
    detach(
        &agent,
        "c",
        &["--disk", "1MB"],
        "head -c 3000000 /dev/zero > f; sleep 100",
    );
    detach(
        &agent,
        "m",
        &["--disk", "max"],
        "head -c 3000000 /dev/zero > f; sleep 100",
    );
    for name in ["c", "m"] {
        eventually("it is measured", || {
            used(&agent, name).filter(|bytes| *bytes >= 3_000_000)
        });
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(agent.container("c").expect("it runs")["state"], "running");
    assert!(agent.cli(&["inspect", "c"]).stdout.contains("not enforced"));
}

/// Whatever it does with its own limits, it is measured in the end.
#[test]
fn a_container_that_starves_its_own_measuring_does_not_get_away() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start_with(&[OFTEN], &[]);
    // No process left for the walk, and little memory. It forks no more: the walk counts as a process, too.
    let script = "head -c 3000000 /dev/zero > f; sleep 100 & while :; do :; done";
    detach(
        &agent,
        "c",
        &["--disk", "1MB", "--pids", "3", "--mem", "16MB"],
        script,
    );
    assert_eq!(ended(&agent, "c")["reason"], "disk_limit");
    // It can't see the walk, nor signal it.
    detach(
        &agent,
        "d",
        &["--disk", "64MB"],
        "for n in $(seq 500); do echo x > $n; done; for n in $(seq 40); do ls /proc | grep -c '^[0-9]' >> seen; done; touch done; sleep 100",
    );
    let id = agent.container("d").expect("it runs")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let sandbox = agent.work_dir().join("sandboxes").join(id);
    eventually("it has looked", || sandbox.join("done").exists().then_some(()));
    let seen = std::fs::read_to_string(sandbox.join("seen")).expect("what it saw");
    assert!(
        seen.lines()
            .all(|count| count.parse::<u32>().is_ok_and(|n| n <= 4)),
        "{seen}"
    );
}

#[test]
fn output_without_end_takes_what_its_policy_allows() {
    if skip_unless_root() {
        return;
    }
    let agent = Agent::start();
    detach(
        &agent,
        "c",
        &["--log-size", "64KB", "--log-files", "2"],
        "head -c 20000000 /dev/zero | tr '\\0' x; head -c 20000000 /dev/zero | tr '\\0' y >&2",
    );
    let c = ended(&agent, "c");
    assert_eq!(c["exit_status"], 0, "{c}");
    let output = agent
        .work_dir()
        .join("output")
        .join(c["id"].as_str().expect("an id"));
    let sizes: Vec<u64> = std::fs::read_dir(output)
        .expect("its output")
        .flatten()
        .filter(|file| file.path().extension().is_none_or(|kind| kind != "index"))
        .map(|file| file.metadata().expect("a size").len())
        .collect();
    assert_eq!(sizes.len(), 4, "two files of each stream");
    assert!(sizes.iter().sum::<u64>() <= 4 * (64 << 10), "{sizes:?}");
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .is_ok_and(|output| output.status.success())
}

/// A file system in a file, mounted with project quotas; goes with its scope.
struct QuotaDisk {
    at: PathBuf,
    _file: tempfile::TempDir,
}

impl QuotaDisk {
    /// None: this kernel, or this machine, has no such thing.
    fn make(kind: &str, mkfs: &[&str], option: &str) -> Option<Self> {
        let directory = tempfile::Builder::new()
            .prefix("bulkhead-quota-")
            .tempdir()
            .ok()?;
        let image = directory.path().join("image");
        std::fs::File::create(&image).ok()?.set_len(400 << 20).ok()?;
        let at = directory.path().join("disk");
        std::fs::create_dir(&at).ok()?;
        let image = image.to_str()?;
        let program = format!("mkfs.{kind}");
        let made = run(&program, &[mkfs, &[image]].concat())
            && run(
                "mount",
                &["-t", kind, "-o", &format!("loop,{option}"), image, at.to_str()?],
            );
        made.then_some(Self { at, _file: directory })
    }
}

impl Drop for QuotaDisk {
    fn drop(&mut self) {
        run("umount", &["-l", self.at.to_str().unwrap_or("")]);
    }
}

#[test]
fn a_project_quota_refuses_the_write() {
    if skip_unless_root() {
        return;
    }
    let kinds: [(&str, &[&str], &str); 2] = [
        (
            "ext4",
            &["-q", "-O", "quota,project", "-E", "quotatype=prjquota"],
            "prjquota",
        ),
        ("xfs", &["-q"], "pquota"),
    ];
    for (kind, mkfs, option) in kinds {
        match QuotaDisk::make(kind, mkfs, option) {
            Some(disk) => with_quota(kind, &disk.at),
            None => eprintln!("SKIPPED: no {kind} with project quotas here"),
        }
    }
}

fn with_quota(kind: &str, disk: &Path) {
    let work = format!("--work-dir={}", disk.join("work").display());
    let range = "--disk-project-range=7000-7001";
    let mut agent = Agent::start_with(&[&work, OFTEN, range], &[]);
    assert!(
        agent
            .cli(&["inspect", "--host"])
            .success()
            .stdout
            .contains("project quota (ids 7000 to 7001)"),
        "{kind}"
    );
    // It is told by a failed write, and goes on. What is deleted and still open counts as well.
    let script = "exec 3> gone; rm gone; head -c 800000 /dev/zero >&3 || echo early
        head -c 800000 /dev/zero > f || echo full; mkdir d; sleep 100";
    detach(&agent, "c", &["--disk", "1MB"], script);
    eventually("the write is refused", || {
        agent.cli(&["logs", "c"]).stdout.contains("full").then_some(())
    });
    let logs = agent.cli(&["logs", "c"]);
    assert!(!logs.stdout.contains("early"), "{kind}: {logs:?}");
    assert!(
        used(&agent, "c").is_some_and(|bytes| bytes > 800_000 && bytes <= 1 << 20),
        "{kind}"
    );
    assert!(
        agent.cli(&["inspect", "c"]).stdout.contains("project quota 7000"),
        "{kind}"
    );
    // The filter keeps it from giving its files another project.
    let change = "chattr -p 0 . && echo escaped; setfattr -n x . ; true";
    let tried = agent.cli(&["exec", "c", "--", "sh", "-c", change]);
    assert!(!tried.stdout.contains("escaped"), "{kind}: {tried:?}");
    agent.kill_hard();
    agent.spawn();
    assert!(
        agent.cli(&["inspect", "c"]).stdout.contains("project quota 7000"),
        "{kind}"
    );
    agent.cli(&["update", "c", "--disk", "4MB"]).success();
    let more = agent.cli(&[
        "exec",
        "c",
        "--",
        "sh",
        "-c",
        "head -c 1500000 /dev/zero > g && echo fits",
    ]);
    assert_eq!(more.stdout, "fits\n", "{kind}: {more:?}");
    // The other id, then none: a walk holds the third one.
    detach(&agent, "second", &["--disk", "1MB"], "sleep 100");
    assert!(
        agent
            .cli(&["inspect", "second"])
            .stdout
            .contains("project quota 7001"),
        "{kind}"
    );
    detach(
        &agent,
        "third",
        &["--disk", "1MB"],
        "head -c 3000000 /dev/zero > f; sleep 100",
    );
    assert_eq!(ended(&agent, "third")["reason"], "disk_limit", "{kind}");
    // Who could pass a quota is measured.
    detach(
        &agent,
        "free",
        &["--disk", "1MB", "--seccomp", "unconfined"],
        "head -c 3000000 /dev/zero > f; sleep 100",
    );
    assert_eq!(ended(&agent, "free")["reason"], "disk_limit", "{kind}");
    // An id is free when the directories are gone, not before; its limit is gone with it.
    agent.cli(&["kill", "c", "--grace", "0s"]).success();
    ended(&agent, "c");
    agent.cli(&["gc", "c"]).success();
    detach(
        &agent,
        "again",
        &["--disk", "8MB"],
        "head -c 6000000 /dev/zero > f && echo fits; sleep 100",
    );
    assert!(
        agent
            .cli(&["inspect", "again"])
            .stdout
            .contains("project quota 7000"),
        "{kind}"
    );
    eventually("it fits", || {
        agent
            .cli(&["logs", "again"])
            .stdout
            .contains("fits")
            .then_some(())
    });
    agent.finish();
}
