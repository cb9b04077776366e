//! Thousands of worlds, and the same world twice.

use simulation::agent_world;

#[test]
fn no_seed_violates_an_invariant() {
    for seed in 1..=5_000 {
        if let (Err(violation), _) = agent_world::run(seed, false) {
            panic!("{violation:?}; replay with: scripts/sim agent --replay {seed}");
        }
    }
}

#[test]
fn a_seed_replays_byte_for_byte() {
    for seed in [1, 77, 4242] {
        assert_eq!(agent_world::run(seed, true).1, agent_world::run(seed, true).1);
    }
}
