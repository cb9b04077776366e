//! Disk full, in each directory.

use support::{Agent, skip_unless_root};

use crate::{SmallDisk, pid_of};

#[test]
fn a_full_runtime_directory_refuses_launches_and_loses_nothing_of_what_runs() {
    if skip_unless_root() {
        return;
    }
    let mut agent = Agent::start();
    agent.stop();
    let disk = SmallDisk::over(agent.runtime_dir(), "mode=700,size=192k");
    agent.spawn();
    agent
        .cli(&["run", "-d", "--name", "c", "--pids", "8", "--", "sleep", "1000"])
        .success();
    let script = "while [ ! -e go ]; do sleep 0.1; done; exit 7";
    agent.background("e", script);
    let sandbox = agent.container("e").expect("running")["sandbox"].clone();
    let pid = pid_of(&agent, "c");
    let ballast = disk.fill();

    let refused = agent.cli(&["run", "--", "true"]);
    assert_eq!(refused.status, 125, "{refused:?}");
    let told = refused.stderr.to_lowercase();
    assert!(told.contains("no space left"), "{refused:?}");
    // An update that can't be remembered may be refused, but never half in force.
    let update = agent.cli(&["update", "c", "--pids", "9"]);
    let limit = agent.container("c").expect("running")["limits"]["pids"].clone();
    assert_eq!(limit, if update.status == 0 { 9 } else { 8 }, "{update:?}");
    // A successor needs no room.
    agent.kill_hard();
    agent.spawn();
    assert_eq!(pid_of(&agent, "c"), pid);
    // The room for an exit status was taken at the launch.
    std::fs::write(format!("{}/go", sandbox.as_str().expect("a path")), "").expect("tell it to end");
    assert_eq!(agent.cli(&["wait", "e"]).success().stdout, "7\n");
    assert_eq!(agent.cli(&["exec", "c", "--", "sh", "-c", "exit 5"]).status, 5);

    std::fs::remove_file(ballast).expect("make room");
    assert_eq!(agent.cli(&["run", "--", "sh", "-c", "exit 3"]).status, 3);
    agent.cli(&["update", "c", "--pids", "10"]).success();
    agent.cli(&["drain", "--grace", "0s"]).success();
    agent.stop();
    drop(disk);
    agent.spawn();
}

#[test]
fn a_full_work_directory_refuses_launches_and_keeps_what_runs() {
    if skip_unless_root() {
        return;
    }
    let mut agent = Agent::start();
    agent.stop();
    let disk = SmallDisk::over(agent.work_dir(), "mode=700,size=512k,nr_inodes=32");
    agent.spawn();
    let script = "while sleep 0.1; do echo a line; done";
    agent.background("c", script);
    let pid = pid_of(&agent, "c");
    let ballast = disk.fill();
    // Directories need no room there, only names: those run out as well.
    let mut names = 0;
    while std::fs::write(agent.work_dir().join(format!("name-{names}")), "").is_ok() {
        names += 1;
    }
    let refused = agent.cli(&["run", "--name", "r", "--", "true"]);
    assert_eq!(refused.status, 125, "{refused:?}");
    assert!(refused.stderr.contains("No space left"), "{refused:?}");
    assert!(
        refused.stderr.contains(&agent.work_dir().display().to_string()),
        "{refused:?}"
    );
    assert_eq!(
        agent.container("r").expect("remembered")["reason"],
        "launch_failed"
    );
    agent.kill_hard();
    agent.spawn();
    assert_eq!(pid_of(&agent, "c"), pid);
    for name in 0..names {
        std::fs::remove_file(agent.work_dir().join(format!("name-{name}"))).expect("make room");
    }
    std::fs::remove_file(ballast).expect("make room");
    assert_eq!(
        agent.cli(&["run", "--", "echo", "again"]).success().stdout,
        "again\n"
    );
    agent.cli(&["drain", "--grace", "0s"]).success();
    agent.stop();
    drop(disk);
    agent.spawn();
}
