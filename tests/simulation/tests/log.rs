//! Worlds of the replicated log, the planted bugs that they have to catch, and the exhaustive searches.

use std::sync::Mutex;

use replog_core::PlantedBug;
use simulation::sweep::first_failure;
use simulation::{log_model, log_world};

/// What CI tries; `scripts/sim log` tries more.
const WORLDS: u64 = 10_000;

#[test]
fn ten_thousand_worlds_violate_no_invariant() {
    let began = std::time::Instant::now();
    let sum = Mutex::new(log_world::Tally::default());
    let failure = first_failure(1, WORLDS, |seed| match log_world::run(seed, false, None).0 {
        Ok(tally) => {
            let mut sum = sum.lock().unwrap();
            sum.agreed += tally.agreed;
            sum.crashes += tally.crashes;
            sum.disks_lost += tally.disks_lost;
            sum.memberships += tally.memberships;
            sum.truncated += tally.truncated;
            None
        }
        Err(violation) => Some((seed, violation)),
    });
    if let Some((seed, violation)) = failure {
        panic!("{violation:?}; replay with: scripts/sim log --replay {seed}");
    }
    let sum = sum.into_inner().unwrap();
    println!(
        "{WORLDS} worlds in {:.0} s: {sum:?}",
        began.elapsed().as_secs_f64()
    );
    // Worlds in which nothing happens prove nothing.
    assert!(sum.agreed > WORLDS * 20, "{sum:?}");
    assert!(
        sum.crashes > WORLDS
            && sum.disks_lost > WORLDS / 6
            && sum.memberships > WORLDS / 6
            && sum.truncated > WORLDS / 15,
        "{sum:?}"
    );
}

#[test]
fn a_seed_replays_byte_for_byte() {
    for seed in [1, 77, 4242] {
        assert_eq!(log_world::run(seed, true, None), log_world::run(seed, true, None));
    }
}

/// Those that need a rare meeting of faults get more worlds in `scripts/sim log --bugs`.
#[test]
fn most_planted_bugs_are_caught_within_a_few_worlds() {
    let caught = |bug: &&PlantedBug| log_world::hunt(**bug, 1, 40).is_some();
    let count = PlantedBug::ALL.iter().filter(caught).count();
    assert!(count >= 36, "{count} of {}", PlantedBug::ALL.len());
}

#[test]
fn one_position_is_searched_exhaustively() {
    for inconsistent in [false, true] {
        let searched =
            log_model::one_position(inconsistent, log_model::Budget::writers(0, 0), 2_000_000, None);
        println!("{searched:?}");
        assert!(searched.complete && searched.breach.is_none(), "{searched:?}");
    }
}

#[test]
fn initialisation_is_searched_exhaustively() {
    let searched = log_model::initialisation(log_model::Budget::birth([2, 1, 1], 0), 3_000_000, None);
    assert!(searched.complete && searched.breach.is_none(), "{searched:?}");
    let searched = log_model::initialisation(log_model::Budget::birth([2, 2, 1], 1), 60_000, None);
    assert!(searched.breach.is_none(), "{searched:?}");
}
