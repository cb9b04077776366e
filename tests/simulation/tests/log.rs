//! Worlds of the replicated log, the planted bugs that they have to catch, and the exhaustive searches.

use replog_core::PlantedBug;
use simulation::{log_model, log_world};

#[test]
fn no_seed_violates_an_invariant() {
    let mut agreed = 0;
    let mut sum = log_world::Tally::default();
    for seed in 1..=300 {
        match log_world::run(seed, false, None).0 {
            Ok(tally) => {
                agreed += tally.agreed;
                sum.crashes += tally.crashes;
                sum.disks_lost += tally.disks_lost;
                sum.memberships += tally.memberships;
                sum.truncated += tally.truncated;
            }
            Err(violation) => panic!("{violation:?}; replay with: scripts/sim log --replay {seed}"),
        }
    }
    // Worlds in which nothing happens prove nothing.
    assert!(agreed > 300 * 20, "{agreed} entries agreed");
    assert!(
        sum.crashes > 300 && sum.disks_lost > 50 && sum.memberships > 50 && sum.truncated > 20,
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
