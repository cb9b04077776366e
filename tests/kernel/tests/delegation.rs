//! A group that a service manager has delegated: the agent lives in it, divides it, and writes nowhere else.
//!
//! The manager here is the test: it makes a group, marks it as systemd marks a unit with `Delegate=yes`, and starts the
//! agent in it; after a restart in the leaf, as `DelegateSubgroup=agent` does.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Agent, eventually, is_pure_v2, owns_the_machine, skip_unless_root};

const TOP: &str = "/sys/fs/cgroup";

struct Unit {
    slice: PathBuf,
    unit: PathBuf,
}

impl Unit {
    /// A slice and a service with all controllers; `marked`: delegated.
    fn make(name: &str, controllers: &str, marked: bool) -> Self {
        let slice = Path::new(TOP).join(format!("fake-{name}-{}.slice", std::process::id()));
        let unit = slice.join("agent.service");
        fs::create_dir_all(&unit).expect("make the unit");
        for group in [Path::new(TOP), &slice] {
            fs::write(group.join("cgroup.subtree_control"), controllers).expect("hand controllers on");
        }
        if marked {
            let set = "import os,sys; os.setxattr(sys.argv[1], 'trusted.delegate', b'1')";
            let status = Command::new("python3").args(["-c", set]).arg(&unit).status();
            assert!(status.expect("python3").success());
        }
        Self { slice, unit }
    }

    fn enter(&self, leaf: &str) -> String {
        format!("echo 0 >{}/{leaf}/cgroup.procs", self.unit.display())
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        for group in [self.unit.join("agent"), self.unit.clone(), self.slice.clone()] {
            let gone = fs::remove_dir(&group);
            if !std::thread::panicking() && group.exists() {
                panic!("{}: {gone:?}", group.display());
            }
        }
    }
}

/// Every group above and beside the unit: names and what they divide.
fn outside(unit: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![PathBuf::from(TOP)];
    while let Some(directory) = open.pop() {
        let divided = fs::read_to_string(directory.join("cgroup.subtree_control")).unwrap_or_default();
        let below = fs::read_dir(&directory).into_iter().flatten().flatten();
        open.extend(
            below
                .map(|e| e.path())
                .filter(|path| path.is_dir() && path != unit),
        );
        found.insert(directory, divided);
    }
    found
}

fn needs_v2() -> bool {
    if skip_unless_root() {
        return true;
    }
    let here = is_pure_v2() && owns_the_machine();
    if !here {
        eprintln!("SKIPPED: needs one v2 tree without a service manager");
    }
    !here
}

fn group_of(agent: &Agent, name: &str) -> PathBuf {
    let inspected = agent.cli(&["inspect", name, "-o", "json"]).json();
    PathBuf::from(inspected["detail"]["cgroup.unified"].as_str().expect("a group"))
}

#[test]
fn containers_live_below_the_delegated_group_and_are_found_there_after_a_restart() {
    if needs_v2() {
        return;
    }
    let unit = Unit::make("whole", "+cpu +memory +pids +io +cpuset", true);
    let before = outside(&unit.unit);
    let mut agent = Agent::start_after(&unit.enter(""), &[], &[]);
    let run = [
        "run", "-d", "--name", "c", "--mem", "32MB", "--cpus", "0.5", "--pids", "9",
    ];
    agent
        .cli(
            &[
                &run[..],
                &["--io-limit", "/dev/vda:read_iops=9", "--", "sleep", "1000"],
            ]
            .concat(),
        )
        .success();
    let group = group_of(&agent, "c");
    let root = unit.unit.join(format!("bulkhead-{}", agent.instance()));
    assert_eq!(group.parent(), Some(&*root));
    assert_eq!(
        fs::read_to_string(group.join("memory.max"))
            .expect("a limit")
            .trim(),
        (32 << 20).to_string()
    );
    // The agent and its launcher are in the leaf, nobody in the unit itself.
    assert_eq!(
        fs::read_to_string(unit.unit.join("cgroup.procs")).expect("the unit"),
        ""
    );
    let leaf = fs::read_to_string(unit.unit.join("agent/cgroup.procs")).expect("the leaf");
    assert!(leaf.lines().any(|pid| pid == agent.pid().to_string()), "{leaf}");
    assert_eq!(
        outside(&unit.unit),
        before,
        "nothing outside of the unit has changed"
    );
    let host = agent.cli(&["inspect", "--host"]).success().stdout;
    assert!(host.contains(&root.display().to_string()), "{host}");

    let pid = agent.container("c").expect("running")["pid"].clone();
    for how in ["crash", "stop"] {
        if how == "crash" {
            agent.kill_hard()
        } else {
            agent.stop()
        }
        agent.set_prelude(&unit.enter("agent"));
        agent.spawn();
        let adopted = agent.container("c").expect("adopted");
        assert_eq!(
            (&adopted["pid"], adopted["state"].as_str()),
            (&pid, Some("running")),
            "after a {how}"
        );
        assert_eq!(group_of(&agent, "c"), group);
    }
    agent.cli(&["update", "c", "--mem", "48MB"]).success();
    assert_eq!(
        fs::read_to_string(group.join("memory.max"))
            .expect("a limit")
            .trim(),
        (48 << 20).to_string()
    );
    agent.cli(&["kill", "c", "--grace", "0s"]).success();
    agent.cli(&["wait", "c"]).success();
    assert!(!group.exists());
    assert_eq!(outside(&unit.unit), before);
    agent.finish();
    eventually("the agent's root group is gone", || {
        (!root.exists()).then_some(())
    });
}

#[test]
fn what_was_not_delegated_is_refused_and_told() {
    if needs_v2() {
        return;
    }
    let unit = Unit::make("part", "+cpu +memory +pids", true);
    fs::write(unit.slice.join("cgroup.subtree_control"), "-memory").expect("keep memory back");
    let agent = Agent::start_after(&unit.enter(""), &[], &[]);
    let refused = agent.cli(&["run", "--mem", "64MB", "--", "true"]);
    assert!(
        refused.status == 125 && refused.stderr.contains("memory controller"),
        "{refused:?}"
    );
    assert!(agent.log().contains("not delegated"), "{}", agent.log());
    agent
        .cli(&["run", "--cpus", "0.5", "--pids", "9", "--", "true"])
        .success();
    agent.finish();
}

#[test]
fn a_group_that_nobody_delegated_is_left_alone_and_one_named_by_flag_is_used() {
    if needs_v2() {
        return;
    }
    let unit = Unit::make("own", "+cpu +memory +pids", false);
    let mut agent = Agent::start_after(&unit.enter(""), &[], &[]);
    agent
        .cli(&[
            "run", "-d", "--name", "top", "--mem", "32MB", "--", "sleep", "1000",
        ])
        .success();
    let top = Path::new(TOP).join(format!("bulkhead-{}", agent.instance()));
    assert_eq!(group_of(&agent, "top").parent(), Some(&*top));
    assert_eq!(
        fs::read_dir(&unit.unit)
            .expect("the unit")
            .flatten()
            .filter(|e| e.path().is_dir())
            .count(),
        0
    );
    // Its containers would be nobody's if it now went elsewhere.
    agent.stop();
    let place = unit
        .unit
        .strip_prefix(TOP)
        .expect("below the top")
        .display()
        .to_string();
    let elsewhere = agent
        .start_command()
        .arg(format!("--cgroup-root=/{place}"))
        .status();
    assert_eq!(elsewhere.expect("ran").code(), Some(125));
    assert!(agent.log().contains("--cgroup-root=/"), "{}", agent.log());
    agent.spawn();
    agent.cli(&["drain", "--grace", "0s"]).success();
    agent.finish();

    let agent = Agent::start_after(&unit.enter(""), &[&format!("--cgroup-root=/{place}")], &[]);
    agent
        .cli(&["run", "-d", "--name", "c", "--mem", "32MB", "--", "sleep", "1000"])
        .success();
    assert!(group_of(&agent, "c").starts_with(&unit.unit));
    agent.finish();
}

#[test]
fn a_place_in_the_tree_is_refused_where_controllers_are_on_v1() {
    if skip_unless_root() || is_pure_v2() {
        return eprintln!("SKIPPED: needs controllers on cgroup v1");
    }
    let agent = Agent::start();
    let own = agent.directory().join("other");
    let refused = Command::new(support::bulkhead())
        .args(["agent", "--http=none", "--cgroup-root=/some.slice"])
        .arg(format!("--work-dir={}", own.join("work").display()))
        .arg(format!("--runtime-dir={}", own.join("run").display()))
        .output()
        .expect("ran");
    let text = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(125), "{text}");
    assert!(text.contains("cgroup_root") && text.contains("v1"), "{text}");
}
