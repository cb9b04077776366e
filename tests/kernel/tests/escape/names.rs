//! Ids and names that are paths (CVE-2026-30892): refused before anything is made, on every way in.

use crate::arena::Arena;

const BAD: [&str; 9] = ["../x", ".", "..", "/etc", "a/b", "a b", "-x", "x\n", "%2e%2e"];

#[test]
fn ids_that_are_paths_are_refused() {
    let Some(arena) = Arena::new() else { return };
    let long = "x".repeat(300);
    let before = std::fs::read_dir(arena.agent.work_dir().join("sandboxes"))
        .expect("it is there")
        .count();
    for name in BAD.iter().copied().chain([long.as_str(), ""]) {
        for command in [
            &["run", "-d", "--name", name, "--", "true"][..],
            &["inspect", name],
            &["kill", name],
            &["logs", name],
            &["wait", name],
            &["exec", name, "--", "true"],
            &["update", name, "--pids", "7"],
        ] {
            let answer = arena.agent.cli(command);
            assert_ne!(answer.status, 0, "{command:?}: {answer:?}");
            assert!(!answer.stderr.contains("panicked"), "{command:?}: {answer:?}");
        }
    }
    let after = std::fs::read_dir(arena.agent.work_dir().join("sandboxes"))
        .expect("it is there")
        .count();
    assert_eq!(before, after);
}

/// As a hostile client sends them: no parser of ours in between.
#[test]
fn ids_are_checked_by_the_agent_itself() {
    let Some(arena) = Arena::new() else { return };
    let long = "x".repeat(300);
    let bad: Vec<&str> = BAD
        .iter()
        .copied()
        .chain([long.as_str(), "nul\0byte", "\u{202e}x"])
        .collect();
    arena.connected(|connection| async move {
        for name in bad {
            assert!(connection.container(name).await.is_err(), "{name:?}");
            assert!(name.parse::<model::ContainerId>().is_err(), "{name:?}");
            assert!(name.parse::<model::ContainerName>().is_err(), "{name:?}");
        }
        connection.ping(b"still here").await.expect("the agent serves");
    });
}
