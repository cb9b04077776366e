//! One turn of the loop: how much it may still do, and what made it long.

use std::time::{Duration, Instant};

use crate::clock;
use crate::reactor::Config;

/// Turns of that length are told to who asks for it (level debug): by then somebody may have noticed.
const NOTICEABLE: Duration = Duration::from_millis(8);

/// Polls before a turn looks at the clock: the few of a call and its answer shall not pay for that.
const UNTIMED: usize = 8;

pub(crate) struct Turn {
    began: Duration,
    polls: usize,
    polls_max: usize,
    slice: Duration,
    deadline: Option<Instant>,
    poll_began: Duration,
    longest_poll: Duration,
    slowest: &'static str,
}

impl Turn {
    /// `began`: by the coarse clock.
    pub(crate) fn new(began: Duration, config: &Config) -> Self {
        Self {
            began,
            polls: 0,
            polls_max: config.budget.max(1),
            slice: config.slice,
            deadline: None,
            poll_began: began,
            longest_poll: Duration::ZERO,
            slowest: "",
        }
    }

    /// Whether there is time for another poll before the loop looks at the kernel again.
    pub(crate) fn has_room(&mut self) -> bool {
        if self.polls >= self.polls_max {
            return false;
        }
        if self.polls < UNTIMED {
            return true;
        }
        let now = clock::now();
        now < *self.deadline.get_or_insert(now + self.slice)
    }

    pub(crate) fn polled(&mut self, name: &'static str) {
        self.polls += 1;
        let now = clock::coarse();
        let took = now.saturating_sub(self.poll_began);
        self.poll_began = now;
        if took > self.longest_poll {
            (self.longest_poll, self.slowest) = (took, name);
        }
    }

    /// How long it took altogether. One that took too long is told, with the task that had most of it.
    pub(crate) fn ended(&self, stall: Duration) -> Duration {
        let took = clock::coarse().saturating_sub(self.began);
        let (took_ms, longest_ms) = (took.as_millis(), self.longest_poll.as_millis());
        let (polls, task) = (self.polls, self.slowest);
        if took > stall {
            tracing::warn!(took_ms, polls, longest_ms, task, "the event loop was blocked");
        } else if took >= NOTICEABLE {
            tracing::debug!(took_ms, polls, longest_ms, task, "a long turn of the event loop");
        }
        took
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(budget: usize, slice: Duration) -> Turn {
        let config = Config {
            budget,
            slice,
            ..Config::default()
        };
        Turn::new(clock::coarse(), &config)
    }

    #[test]
    fn a_turn_ends_after_so_many_polls() {
        let mut turn = turn(20, Duration::from_secs(3600));
        for _ in 0..20 {
            assert!(turn.has_room());
            turn.polled("a");
        }
        assert!(!turn.has_room());
    }

    #[test]
    fn a_turn_that_has_taken_its_time_ends_though_polls_are_left() {
        let mut turn = turn(1_000_000, Duration::ZERO);
        for _ in 0..UNTIMED {
            assert!(turn.has_room());
            turn.polled("a");
        }
        assert!(!turn.has_room());
    }

    #[test]
    fn the_task_that_took_longest_is_named() {
        let mut turn = turn(20, Duration::ZERO);
        turn.poll_began = Duration::ZERO;
        turn.polled("slow");
        turn.polled("quick");
        assert_eq!(turn.slowest, "slow");
    }
}
