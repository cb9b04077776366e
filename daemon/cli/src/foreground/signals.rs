//! Which signals go to the command, and when Ctrl-C has been pressed often enough.

use std::time::{Duration, Instant};

use net::Signal;

/// What a person or a supervisor may send to the client and mean the command.
pub(super) const FORWARDED: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    // Not forwarded but turned into the size of the container's terminal.
    Signal::SIGWINCH,
];

/// Those of them by which a person or a supervisor ends something.
pub(super) const ENDING: [i32; 4] = [
    Signal::SIGHUP as i32,
    Signal::SIGINT as i32,
    Signal::SIGQUIT as i32,
    Signal::SIGTERM as i32,
];

/// So many interrupts within the time mean: away with it.
const INTERRUPTS: usize = 3;
/// With so many the agent does not do its part either: away with us.
const INTERRUPTS_HOPELESS: usize = 5;
const WITHIN: Duration = Duration::from_secs(2);

/// Interrupts of the last moments.
#[derive(Debug, Default)]
pub(super) struct Interrupts(Vec<Instant>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pressed {
    Once,
    /// One more within the time kills.
    Again,
    Enough,
    Hopeless,
}

impl Interrupts {
    pub fn note(&mut self, now: Instant) -> Pressed {
        self.0.retain(|earlier| now.duration_since(*earlier) < WITHIN);
        self.0.push(now);
        match self.0.len() {
            0 | 1 => Pressed::Once,
            count if count < INTERRUPTS => Pressed::Again,
            count if count < INTERRUPTS_HOPELESS => Pressed::Enough,
            _ => Pressed::Hopeless,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_interrupts_in_two_seconds_are_enough() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut interrupts = Interrupts::default();
        assert_eq!(interrupts.note(at(0)), Pressed::Once);
        assert_eq!(interrupts.note(at(900)), Pressed::Again);
        // The first one is too long ago by now.
        assert_eq!(interrupts.note(at(2100)), Pressed::Again);
        assert_eq!(interrupts.note(at(2200)), Pressed::Enough);
        assert_eq!(interrupts.note(at(2300)), Pressed::Enough);
        assert_eq!(interrupts.note(at(2400)), Pressed::Hopeless);
        assert_eq!(interrupts.note(at(9000)), Pressed::Once);
    }
}
