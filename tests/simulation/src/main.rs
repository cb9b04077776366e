//! `simulation NAME [--seeds N] [--from SEED] | NAME --replay SEED | log --bugs [--seeds N]`

use std::process::ExitCode;

use replog_core::PlantedBug;
use simulation::sweep::first_failure;
use simulation::{agent_world, election_world, log_model, log_world, master_world};

const USAGE: &str = "usage: scripts/sim agent|log|election|master [--seeds N] [--from SEED]
       scripts/sim agent|log|election|master --replay SEED
       scripts/sim log --bugs [--seeds N] [--bug NAME]   how many worlds each planted bug survives
       scripts/sim log --replay SEED --bug NAME          the world that catches it
       scripts/sim log --model [--states N]              every order of messages, as far as so many states reach";

/// A world that went wrong.
struct Failure {
    seed: u64,
    at_ms: u64,
    message: String,
}

/// Runs one world; with `true` its event log is kept.
type World = fn(u64, bool) -> (Result<(), Failure>, Option<String>);

fn agent(seed: u64, log: bool) -> (Result<(), Failure>, Option<String>) {
    let (result, text) = agent_world::run(seed, log);
    let result = result.map_err(|v| Failure {
        seed,
        at_ms: v.at_ms,
        message: v.message,
    });
    (result, text)
}

fn master(seed: u64, log: bool) -> (Result<(), Failure>, Option<String>) {
    let (result, text) = master_world::run(seed, log);
    let result = result.map_err(|v| Failure {
        seed,
        at_ms: v.at_ms,
        message: v.message,
    });
    (result, text)
}

fn election(seed: u64, log: bool) -> (Result<(), Failure>, Option<String>) {
    let (result, text) = election_world::run(seed, log, None);
    let result = result.map(|_| ()).map_err(|v| Failure {
        seed,
        at_ms: v.at_ms,
        message: v.message,
    });
    (result, text)
}

fn log(seed: u64, log: bool) -> (Result<(), Failure>, Option<String>) {
    log_with(seed, log, None)
}

fn log_with(seed: u64, log: bool, bug: Option<PlantedBug>) -> (Result<(), Failure>, Option<String>) {
    let (result, text) = log_world::run(seed, log, bug);
    let result = result.map(|_| ()).map_err(|v| Failure {
        seed,
        at_ms: v.at_ms,
        message: format!("{}: {}", v.invariant, v.message),
    });
    (result, text)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let text = |flag: &str| {
        let at = arguments.iter().position(|a| a == flag)?;
        arguments.get(at + 1).cloned()
    };
    let value = |flag: &str| text(flag)?.parse::<u64>().ok();
    let (name, world): (&str, World) = match arguments.first().map(String::as_str) {
        Some("agent") => ("agent", agent),
        Some("log") => ("log", log),
        Some("election") => ("election", election),
        Some("master") => ("master", master),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let from = value("--from").unwrap_or(1);
    if arguments.iter().any(|a| a == "--model") {
        return search(value("--states").unwrap_or(200_000) as usize);
    }
    if arguments.iter().any(|a| a == "--bugs") {
        let only = text("--bug");
        return hunt(from, value("--seeds").unwrap_or(3_000), only.as_deref());
    }
    if let Some(seed) = value("--replay") {
        let named = text("--bug");
        let bug = PlantedBug::ALL
            .iter()
            .copied()
            .find(|bug| named.as_ref().is_some_and(|n| *n == format!("{bug:?}")));
        let (result, events) = match bug {
            Some(bug) => log_with(seed, true, Some(bug)),
            None => world(seed, true),
        };
        print!("{}", events.unwrap_or_default());
        return match result {
            Ok(()) => {
                println!("seed {seed}: no invariant violated");
                ExitCode::SUCCESS
            }
            Err(failure) => report(name, &failure),
        };
    }
    sweep(name, world, from, value("--seeds").unwrap_or(10_000))
}

/// All worlds from `from` on, on all processors; tells the failing one with the lowest seed.
fn sweep(name: &str, world: World, from: u64, seeds: u64) -> ExitCode {
    match first_failure(from, seeds, |seed| world(seed, false).0.err()) {
        Some(failure) => report(name, &failure),
        None => {
            println!("{seeds} worlds from seed {from}: no invariant violated");
            ExitCode::SUCCESS
        }
    }
}

fn report(name: &str, failure: &Failure) -> ExitCode {
    println!(
        "seed {}, after {} ms: {}",
        failure.seed, failure.at_ms, failure.message
    );
    println!("replay with: scripts/sim {name} --replay {}", failure.seed);
    ExitCode::FAILURE
}

/// How many worlds it takes to catch each planted bug.
fn hunt(from: u64, seeds: u64, only: Option<&str>) -> ExitCode {
    let mut needed: Vec<u64> = Vec::new();
    let mut survivors = 0;
    let asked = |bug: &&PlantedBug| only.is_none_or(|only| only == format!("{bug:?}"));
    for bug in PlantedBug::ALL.iter().filter(asked) {
        let caught = log_world::hunt(*bug, from, seeds);
        match caught {
            Some((count, violation)) => {
                needed.push(count);
                println!(
                    "{count:>6}  {bug:?}: seed {}: {}",
                    violation.seed, violation.invariant
                );
            }
            None => {
                survivors += 1;
                println!("     -  {bug:?}: not caught in {seeds} worlds: {}", bug.text());
            }
        }
    }
    needed.sort_unstable();
    let median = needed.get(needed.len() / 2).copied().unwrap_or_default();
    println!("{} caught, {survivors} not; median {median} worlds", needed.len());
    ExitCode::from(u8::from(survivors > 0))
}

/// The exhaustive searches with larger budgets than in the tests; a search of some 20 kB a state.
fn search(states_max: usize) -> ExitCode {
    use log_model::Budget;
    let searches = [
        (
            "two coordinators",
            log_model::one_position(false, Budget::writers(0, 0), states_max, None),
        ),
        (
            "contradicting tails",
            log_model::one_position(true, Budget::writers(0, 0), states_max, None),
        ),
        (
            "and an append",
            log_model::one_position(true, Budget::writers(1, 0), states_max, None),
        ),
        (
            "and a crash",
            log_model::one_position(true, Budget::writers(0, 1), states_max, None),
        ),
        (
            "initialisation",
            log_model::initialisation(Budget::birth([2, 1, 1], 0), states_max, None),
        ),
        (
            "and a lost disk",
            log_model::initialisation(Budget::birth([1, 1, 1], 1), states_max, None),
        ),
        (
            "and more rounds",
            log_model::initialisation(Budget::birth([2, 2, 2], 1), states_max, None),
        ),
    ];
    let mut status = ExitCode::SUCCESS;
    for (name, searched) in searches {
        let reach = if searched.complete { "all" } else { "the first" };
        let found = searched.breach.as_deref().unwrap_or("no invariant violated");
        println!("{name}: {reach} {} states: {found}", searched.states);
        if searched.breach.is_some() {
            status = ExitCode::FAILURE;
        }
    }
    status
}
