//! Death at every system call: the agent, its launcher or a container's init is killed before or after each call that it
//! makes in an operation; its successor finds nothing lost, doubled or leaked.
//!
//! ```text
//! BULKHEAD_WALK=all          every point of every operation instead of a sample
//! BULKHEAD_WALK=launch:17    this one, as a failure names it
//! BULKHEAD_WALK_SEED=N       the sample of that seed; it is printed with a failure
//! ```
#![cfg(target_arch = "x86_64")]

mod calls;
mod operations;
mod stage;
mod tracer;

use std::os::unix::process::CommandExt as _;
use std::panic::AssertUnwindSafe;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::unistd::Pid;
use operations::{End, Exec, Kill, Launch, LaunchAnyway, Operation, Recover, Update};
use stage::Stage;
use support::skip_unless_root;
use tracer::{Place, Tracer, Victim};

/// Points beyond the number that the first pass counted: an operation is not always equally long.
const BEYOND: u32 = 4;
/// Kinds of violation, as the requirement counts them.
const KINDS: [&str; 5] = ["orphan", "leak", "double", "lost", "other"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    /// A running agent.
    Agent,
    /// An agent from its first instruction.
    StartingAgent,
    Launcher,
    Init,
}

#[derive(Debug, Clone, Copy)]
enum Points {
    All,
    Sample { seed: u64 },
    One(u32),
}

#[test]
fn launch() {
    walk(&mut Launch::new(false), Who::Agent, 36);
}

#[test]
fn launch_isolated() {
    walk(&mut Launch::new(true), Who::Agent, 20);
}

#[test]
fn update() {
    walk(&mut Update::default(), Who::Agent, 20);
}

#[test]
fn kill() {
    walk(&mut Kill::default(), Who::Agent, 20);
}

#[test]
fn end() {
    walk(&mut End::default(), Who::Agent, 18);
}

#[test]
fn exec() {
    walk(&mut Exec::default(), Who::Agent, 16);
}

#[test]
fn recover() {
    walk(&mut Recover::default(), Who::StartingAgent, 24);
}

#[test]
fn launcher() {
    walk(&mut LaunchAnyway::new("launcher"), Who::Launcher, 8);
}

#[test]
fn init() {
    walk(&mut LaunchAnyway::new("init"), Who::Init, 14);
}

/// Counts the points of `operation`, then has `who` die at `sample` of them, or at all.
fn walk(operation: &mut dyn Operation, who: Who, sample: u32) {
    let Some(points) = wanted(operation.name()) else {
        return;
    };
    if skip_unless_root() {
        return;
    }
    let start = Instant::now();
    let mut stage = Stage::new();
    let first = std::panic::catch_unwind(AssertUnwindSafe(|| pass(&mut stage, operation, who, u32::MAX)));
    let (_, total) = match first {
        Ok(counted) => counted,
        Err(panic) => {
            let why = message(panic);
            eprintln!("{}", tail(&stage.agent.log()));
            drop(renew(stage));
            panic!("{} from beginning to end: {why}", operation.name());
        }
    };
    let numbers: Vec<u32> = match points {
        Points::All => (1..=total + BEYOND).collect(),
        Points::Sample { seed } => spread(total, support::repetitions(sample as usize) as u32, seed),
        Points::One(number) => vec![number],
    };
    let mut violations = Vec::new();
    let mut missed = 0;
    for number in &numbers {
        let mut place = None;
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
            place = pass(&mut stage, operation, who, *number).0;
        }));
        missed += u32::from(place.is_none() && outcome.is_ok());
        if let Err(panic) = outcome {
            let why = message(panic);
            let at = place.map_or_else(|| number.to_string(), |p| p.to_string());
            eprintln!(
                "--- {} at {at}: {why}\n{}",
                operation.name(),
                tail(&stage.agent.log())
            );
            violations.push(format!("{}:{at}: {why}", operation.name()));
            stage = renew(stage);
        }
    }
    let by_kind = KINDS.map(|kind| {
        let count = violations
            .iter()
            .filter(|v| v.contains(&format!("{kind}: ")))
            .count();
        format!("{kind} {count}")
    });
    eprintln!(
        "{}: {} of {total} points, {missed} beyond the end, {}; {} ms a point",
        operation.name(),
        numbers.len() as u32 - missed,
        by_kind.join(", "),
        start.elapsed().as_millis() / (numbers.len() as u128 + 1),
    );
    assert!(violations.is_empty(), "{points:?}\n{}", violations.join("\n"));
}

/// One death and what follows. `None`: the operation was over before the point came.
fn pass(stage: &mut Stage, operation: &mut dyn Operation, who: Who, number: u32) -> (Option<Place>, u32) {
    operation.prepare(stage);
    let mut tracer = match who {
        Who::StartingAgent => start_traced(stage, number),
        _ => {
            stage.wait_idle();
            Tracer::attach(victim(stage, who), number)
        }
    };
    let client = operation.act(stage);
    let settled = tracer
        .follow(|tracer| client.as_ref().is_none_or(|c| c.has_ended(tracer)) && operation.is_done(stage));
    let (place, counted) = (tracer.killed.clone(), tracer.counted());
    let describe = || place.as_ref().map_or("no point".to_owned(), ToString::to_string);
    let ended = tracer.finish(who != Who::Init);
    stage.reap(&ended);
    let judged = std::panic::catch_unwind(AssertUnwindSafe(|| {
        assert!(settled, "other: the operation did not come to its end");
        if matches!(who, Who::Agent | Who::StartingAgent) {
            stage.agent.was_reaped();
            stage.agent.spawn();
        }
        let answer = client.map(|c| c.finish(stage.reaped()));
        operation.judge(stage, answer);
    }));
    if let Err(panic) = judged {
        panic!("{}: {}", describe(), message(panic));
    }
    (place, counted)
}

fn victim(stage: &Stage, who: Who) -> Victim {
    // Looked for again: the kernel's list of children may leave one out while another one ends (proc(5)).
    let launcher = || support::eventually("other: the agent has a launcher", || stage.launcher());
    match who {
        Who::Agent | Who::StartingAgent => Victim::Process(stage.pid()),
        Who::Launcher => Victim::Process(launcher()),
        Who::Init => Victim::ChildOf(launcher()),
    }
}

/// Starts an agent that is traced from its first instruction: a shell waits to be traced, then becomes the agent.
#[expect(clippy::zombie_processes, reason = "the tracer reaps it")]
fn start_traced(stage: &mut Stage, number: u32) -> Tracer {
    let _ = std::fs::remove_file(stage.agent.socket());
    let program = stage.agent.start_command();
    let mut wrapper = Command::new("sh");
    wrapper.args(["-c", "read go; exec \"$@\" </dev/null", "sh"]);
    wrapper.arg(program.get_program()).args(program.get_args());
    wrapper
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .arg0("sh");
    let mut child = wrapper.spawn().expect("start a shell");
    let pid = Pid::from_raw(child.id() as i32);
    let tracer = Tracer::attach_before_exec(pid, number);
    drop(child.stdin.take());
    tracer
}

fn wanted(operation: &str) -> Option<Points> {
    match std::env::var("BULKHEAD_WALK") {
        Ok(text) if text == "all" => Some(Points::All),
        Ok(text) => {
            let (name, number) = text
                .split_once(':')
                .expect("BULKHEAD_WALK=all or OPERATION:NUMBER");
            let number = number.parse().expect("BULKHEAD_WALK=OPERATION:NUMBER");
            (name == operation).then_some(Points::One(number))
        }
        Err(_) => {
            let seed = std::env::var("BULKHEAD_WALK_SEED")
                .ok()
                .and_then(|s| s.parse().ok());
            // Another sample each time; what it finds is found again with the seed.
            let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let seed = seed.unwrap_or_else(|| now().map_or(0, |d| d.as_secs()));
            Some(Points::Sample { seed })
        }
    }
}

/// `count` of `1..=total`, one in each of as many equal parts.
fn spread(total: u32, count: u32, seed: u64) -> Vec<u32> {
    let count = count.min(total);
    let mut state = seed;
    (0..count)
        .map(|n| {
            // SplitMix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            let (from, to) = (total * n / count, total * (n + 1) / count);
            1 + from + (z % u64::from(to - from)) as u32
        })
        .collect()
}

/// Another agent on other directories, after one that may have lost its way; what that one leaves is taken down first.
fn renew(stage: Stage) -> Stage {
    let taken_down = std::panic::catch_unwind(AssertUnwindSafe(|| drop(stage)));
    if let Err(panic) = taken_down {
        eprintln!("and could not be taken down: {}", message(panic));
    }
    Stage::new()
}

fn message(panic: Box<dyn std::any::Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().unwrap_or(&"?").to_string(),
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
