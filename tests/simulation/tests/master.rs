//! Thousands of worlds, and the same world twice.

use simulation::master_world;
use simulation::sweep::first_failure;

#[test]
fn no_seed_violates_an_invariant() {
    let failure = first_failure(1, 2000, |seed| match master_world::run(seed, false).0 {
        Ok(()) => None,
        Err(violation) => Some((seed, violation)),
    });
    if let Some((seed, violation)) = failure {
        panic!("{violation:?}; replay with: scripts/sim master --replay {seed}");
    }
}

#[test]
fn a_seed_replays_byte_for_byte() {
    for seed in [1, 77, 4242] {
        assert_eq!(master_world::run(seed, true).1, master_world::run(seed, true).1);
    }
}

#[test]
fn planted_bugs_are_caught() {
    let caught = |bug| {
        let failure = first_failure(1, 1_500, |seed| {
            let violation = master_world::run_with(seed, false, Some(bug)).0.err();
            violation.map(|violation| (seed, violation))
        });
        match &failure {
            Some((seed, violation)) => println!("{bug:?}: seed {seed}: {}", violation.message),
            None => println!("{bug:?}: not caught"),
        }
        failure.is_some()
    };
    let unnoticed: Vec<_> = master_world::PlantedBug::ALL
        .iter()
        .filter(|bug| !caught(**bug))
        .collect();
    assert!(unnoticed.is_empty(), "{unnoticed:?}");
}
