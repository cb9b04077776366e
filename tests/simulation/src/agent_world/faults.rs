//! What may go wrong in a simulated world of one agent.

use crate::random::Random;

/// Chances of faults, each "one in so many"; 0 is never.
#[derive(Debug, Clone)]
pub struct Faults {
    pub prepare_fails: u64,
    pub fork_fails: u64,
    pub checkpoint_fails: u64,
    pub start_fails: u64,
    pub init_dies_early: u64,
    pub start_never_told: u64,
    pub memory_limit: u64,
    pub kill_ignored: u64,
    pub term_ignored: u64,
    pub cleanup_busy: u64,
    pub update_fails: u64,
    pub removal_fails: u64,
    pub asker_goes_away: u64,
    /// The agent is killed between two requests, and a new one starts.
    pub agent_dies: u64,
    /// Longest delay of any answer, in milliseconds.
    pub delay_max: u64,
}

impl Faults {
    pub fn draw(random: &mut Random) -> Self {
        let mut rate = |rates: &[u64]| rates[random.below(rates.len() as u64) as usize];
        Self {
            prepare_fails: rate(&[0, 30, 5]),
            fork_fails: rate(&[0, 30, 5]),
            checkpoint_fails: rate(&[0, 30, 5]),
            start_fails: rate(&[0, 20, 4]),
            init_dies_early: rate(&[0, 30, 6]),
            start_never_told: rate(&[0, 0, 50]),
            memory_limit: rate(&[0, 20, 4]),
            kill_ignored: rate(&[0, 10, 2]),
            term_ignored: rate(&[0, 4, 1]),
            cleanup_busy: rate(&[0, 4, 2]),
            update_fails: rate(&[0, 5]),
            removal_fails: rate(&[0, 3]),
            asker_goes_away: rate(&[0, 20]),
            agent_dies: rate(&[0, 10, 3]),
            delay_max: rate(&[1, 20, 3000]),
        }
    }

    /// Nothing fails any more, and answers come soon.
    pub fn none() -> Self {
        Self {
            prepare_fails: 0,
            fork_fails: 0,
            checkpoint_fails: 0,
            start_fails: 0,
            init_dies_early: 0,
            start_never_told: 0,
            memory_limit: 0,
            kill_ignored: 0,
            term_ignored: 0,
            cleanup_busy: 0,
            update_fails: 0,
            removal_fails: 0,
            asker_goes_away: 0,
            agent_dies: 0,
            delay_max: 5,
        }
    }
}
