//! What a container can use up: processes, the disk by its output, descriptors, the agent's patience.

use std::time::{Duration, Instant};

use crate::arena::Arena;

#[test]
fn a_fork_bomb_is_the_containers_own_problem() {
    let Some(arena) = Arena::new() else { return };
    let bomb = "
for _ in range(5000):
    try:
        if os.fork() == 0: pass
    except OSError: pass
";
    arena.hold_attack("bomb", &["--pids", "50", "--mem", "200MB"], bomb);
    let begun = Instant::now();
    arena.agent.cli(&["run", "--rm", "--", "true"]).success();
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "a neighbour waited for {:?}",
        begun.elapsed()
    );
    arena.agent.cli(&["kill", "bomb", "--grace", "0s"]).success();
}

#[test]
fn output_without_end_takes_a_bounded_place() {
    let Some(arena) = Arena::new() else { return };
    let answer = arena.agent.cli(&[
        "run",
        "-d",
        "--name",
        "chatty",
        "--log-size",
        "100KB",
        "--log-files",
        "3",
        "--",
        "sh",
        "-c",
        "yes | head -c 20000000; sleep 1000",
    ]);
    answer.success();
    let output = arena.agent.work_dir().join("output");
    let size = |directory: &std::path::Path| -> u64 {
        let mut open = vec![directory.to_owned()];
        let mut sum = 0;
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
                match entry.metadata() {
                    Ok(facts) if facts.is_dir() => open.push(entry.path()),
                    Ok(facts) => sum += facts.len(),
                    Err(_) => {}
                }
            }
        }
        sum
    };
    let mut most = 0;
    support::eventually("all has been said", || {
        most = most.max(size(&output));
        let log = arena.agent.cli(&["inspect", "chatty", "-o", "json"]).stdout;
        (most > 200_000 && log.contains("running")).then_some(())
    });
    for _ in 0..50 {
        most = most.max(size(&output));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(most <= 450_000, "{most} bytes of output are kept");
    arena.agent.cli(&["kill", "chatty", "--grace", "0s"]).success();
}

#[test]
fn many_files_and_descriptors_stop_nobody() {
    let Some(arena) = Arena::new() else { return };
    let attack = "
for number in range(20000): os.close(os.open('f%d' % number, os.O_CREAT | os.O_WRONLY))
held = []
try:
    while True: held.append(os.open('f0', os.O_RDONLY))
except OSError: pass
if len(held) > 1000000: print('DONE', len(held))
";
    arena.attack(&[], attack);
    arena.agent.cli(&["run", "--rm", "--", "true"]).success();
}
