//! What the agent keeps for itself, and that a container gets nothing beyond it.

use crate::arena::Arena;

fn field(pid: i32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status
        .lines()
        .find(|line| line.starts_with(name))
        .expect("a field");
    line.split_whitespace().nth(1).expect("a value").to_owned()
}

fn set(pid: i32, name: &str) -> kernel::capability::CapabilitySet {
    kernel::capability::CapabilitySet(u64::from_str_radix(&field(pid, name), 16).expect("hex"))
}

#[test]
fn the_agent_and_its_launcher_have_given_up_what_they_do_not_need() {
    let Some(arena) = Arena::new() else { return };
    arena.agent.cli(&["run", "--rm", "--", "true"]).success();
    let children = format!("/proc/{0}/task/{0}/children", arena.agent.pid());
    let children = std::fs::read_to_string(children).expect("it runs");
    let launcher: i32 = children
        .split_whitespace()
        .next()
        .and_then(|pid| pid.parse().ok())
        .expect("a launcher");
    for pid in [arena.agent.pid(), launcher] {
        assert_eq!(field(pid, "NoNewPrivs"), "1");
        assert_eq!(field(pid, "CapInh"), "0000000000000000");
        for name in [
            "SYS_MODULE",
            "SYS_RAWIO",
            "SYS_BOOT",
            "SYS_TIME",
            "BPF",
            "PERFMON",
            "SYSLOG",
            "MAC_ADMIN",
            "DAC_READ_SEARCH",
        ] {
            let number = kernel::capability::number(name).expect("a name");
            for which in ["CapBnd", "CapPrm", "CapEff"] {
                assert!(!set(pid, which).contains(number), "{name} is in {which} of {pid}");
            }
        }
    }
    assert_eq!(field(arena.agent.pid(), "Umask"), "0077");
    let tasks = std::fs::read_dir(format!("/proc/{}/task", arena.agent.pid())).expect("it runs");
    for task in tasks.flatten() {
        let id = task.file_name().to_string_lossy().parse().expect("a number");
        assert_eq!(
            field(id, "CapEff"),
            field(arena.agent.pid(), "CapEff"),
            "thread {id}"
        );
    }
}

#[test]
fn a_capability_that_the_agent_gave_up_is_refused_with_the_way_to_have_it() {
    let Some(arena) = Arena::new() else { return };
    let answer = arena
        .agent
        .cli(&["run", "--rm", "--cap-add", "SYS_TIME", "--", "true"]);
    assert_eq!(answer.status, 125, "{answer:?}");
    assert!(
        answer.stderr.contains("--allow-capabilities=SYS_TIME"),
        "{answer:?}"
    );
    let all = arena.agent.cli(&[
        "run",
        "--rm",
        "--cap-add",
        "ALL",
        "--",
        "grep",
        "CapEff",
        "/proc/self/status",
    ]);
    let all = all.success().stdout;
    let all = u64::from_str_radix(all.split_whitespace().nth(1).expect("a value"), 16).expect("hex");
    assert_eq!(
        all & 1 << kernel::capability::number("SYS_TIME").expect("a name"),
        0
    );
}

#[test]
fn an_operator_can_let_it_be_granted() {
    let Some(arena) = Arena::with(&["--allow-capabilities=SYS_TIME,syslog"]) else {
        return;
    };
    let answer = arena.agent.cli(&[
        "run",
        "--rm",
        "--cap-add",
        "SYS_TIME",
        "--",
        "grep",
        "CapEff",
        "/proc/self/status",
    ]);
    let text = answer.success().stdout;
    let set = u64::from_str_radix(text.split_whitespace().nth(1).expect("a value"), 16).expect("hex");
    assert_ne!(
        set & 1 << kernel::capability::number("SYS_TIME").expect("a name"),
        0
    );
}

/// Who can write into the agent's directories decides what it removes and whom it adopts.
#[test]
fn directories_that_others_can_write_to_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    if support::skip_unless_root() {
        return;
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let work = scratch.path().join("work");
    std::fs::create_dir(&work).expect("a directory");
    std::fs::set_permissions(&work, std::fs::Permissions::from_mode(0o777)).expect("its mode");
    let output = std::process::Command::new(support::bulkhead())
        .arg("agent")
        .arg(format!("--work-dir={}", work.display()))
        .arg(format!("--runtime-dir={}", scratch.path().join("run").display()))
        .args(["--http=none", "--instance=test-escape-shared"])
        .output()
        .expect("run the agent");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{text}");
    assert!(text.contains("others could put things into it"), "{text}");
}
