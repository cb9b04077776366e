//! `simulation NAME [--seeds N] [--from SEED] | NAME --replay SEED`

use std::process::ExitCode;

use simulation::agent_world;

const USAGE: &str =
    "usage: scripts/sim agent [--seeds N] [--from SEED]\n       scripts/sim agent --replay SEED";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |flag: &str| {
        let at = arguments.iter().position(|a| a == flag)?;
        arguments.get(at + 1)?.parse::<u64>().ok()
    };
    if arguments.first().map(String::as_str) != Some("agent") {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    if let Some(seed) = value("--replay") {
        let (result, log) = agent_world::run(seed, true);
        print!("{}", log.unwrap_or_default());
        return report(seed, result);
    }
    let from = value("--from").unwrap_or(1);
    let seeds = value("--seeds").unwrap_or(10_000);
    for seed in from..from + seeds {
        let (result, _) = agent_world::run(seed, false);
        if result.is_err() {
            return report(seed, result);
        }
    }
    println!("{seeds} worlds from seed {from}: no invariant violated");
    ExitCode::SUCCESS
}

fn report(seed: u64, result: Result<(), agent_world::Violation>) -> ExitCode {
    match result {
        Ok(()) => {
            println!("seed {seed}: no invariant violated");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("seed {seed}, after {} ms: {}", violation.at_ms, violation.message);
            println!("replay with: scripts/sim agent --replay {seed}");
            ExitCode::FAILURE
        }
    }
}
