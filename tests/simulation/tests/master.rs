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
