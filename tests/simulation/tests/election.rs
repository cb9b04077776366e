//! Worlds of masters and agents around one ZooKeeper.

use std::sync::Mutex;

use simulation::election_world::{self, PlantedBug, Tally};
use simulation::sweep::first_failure;

/// What CI tries; `scripts/sim election` tries more.
const WORLDS: u64 = 3_000;

#[test]
fn three_thousand_elections_violate_no_invariant() {
    let sum = Mutex::new(Tally::default());
    let failure = first_failure(1, WORLDS, |seed| match election_world::run(seed, false, None).0 {
        Ok(tally) => {
            let mut sum = sum.lock().unwrap();
            sum.elections += tally.elections;
            sum.steps_down += tally.steps_down;
            sum.freezes += tally.freezes;
            sum.deaths += tally.deaths;
            sum.cuts += tally.cuts;
            sum.expiries += tally.expiries;
            None
        }
        Err(violation) => Some((seed, violation)),
    });
    if let Some((seed, violation)) = failure {
        panic!("{violation:?}; replay with: scripts/sim election --replay {seed}");
    }
    let sum = sum.into_inner().unwrap();
    println!("{WORLDS} worlds: {sum:?}");
    // Worlds in which nothing happens prove nothing.
    assert!(
        sum.elections > 4 * WORLDS && sum.expiries > 4 * WORLDS && sum.freezes > WORLDS,
        "{sum:?}"
    );
}

#[test]
fn a_seed_replays_byte_for_byte() {
    for seed in [1, 77, 4242] {
        assert_eq!(
            election_world::run(seed, true, None),
            election_world::run(seed, true, None)
        );
    }
}

#[test]
fn planted_bugs_are_caught() {
    for bug in [
        PlantedBug::CountsFromAnswer,
        PlantedBug::FollowerAnswers,
        PlantedBug::ActsBeforeLooking,
    ] {
        let caught = first_failure(1, 2_000, |seed| {
            election_world::run(seed, false, Some(bug)).0.err()
        });
        let caught = caught.unwrap_or_else(|| panic!("{bug:?} goes unnoticed"));
        println!("{bug:?}: seed {}: {}", caught.seed, caught.message);
    }
}
