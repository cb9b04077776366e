//! What a command wrote just before its end, and how long that is waited for.
//!
//! The clock is an idle one: it begins anew with all that comes or is taken, and stands still while our
//! own stdout holds us up. So a slow reader loses nothing, and an agent that hangs does not hold us.

use std::time::Duration;

use client::{Agent, OutputEnd, Progress};
use futures::future::{Either, select};
use model::Fault;

/// The last output of a container ends with it and should be here at once.
const IDLE: Duration = Duration::from_secs(5);
/// A process in the background may keep the output of an ended one open for ever.
const IDLE_SHARED: Duration = Duration::from_millis(300);
/// The clock counts in ticks: one long pause of ours (SIGSTOP, a suspended machine) is one tick.
const TICKS: u32 = 6;
/// More than pipes (pipe(7): 64 KiB, at most 1 MiB) and what is on its way hold: all beyond is written by others.
const SHARED_BYTES_MAX: u64 = 4 << 20;
/// Ticks without anything pending, one after the other or not: processes left behind write now and then.
const SHARED_QUIET_MAX: u32 = 100;

/// When the output of an ended command is over.
pub(crate) enum LastOutput {
    /// With the last process that could write: all of a container end with its command.
    Whole,
    /// Perhaps never: others may have the same output. The agent is asked whether it has more.
    Shared(Agent),
}

impl LastOutput {
    pub(super) async fn take(&self, output: Option<OutputEnd>) -> Result<(), Fault> {
        let Some(output) = output else { return Ok(()) };
        match self {
            Self::Whole => take_whole(output).await,
            Self::Shared(agent) => take_shared(output, agent).await,
        }
    }
}

async fn take_whole(mut output: OutputEnd) -> Result<(), Fault> {
    let mut idle = Idle::new(&output);
    while !idle.is_over() {
        match tick(output, IDLE / TICKS).await {
            Ok(ended) => return ended,
            Err(going_on) => output = going_on,
        }
        idle.look(&output);
    }
    Err(Fault::failed(
        "the command is over, but the end of its output did not come",
    ))
}

async fn take_shared(mut output: OutputEnd, agent: &Agent) -> Result<(), Fault> {
    let mut idle = Idle::new(&output);
    let enough = output.progress().bytes_received + SHARED_BYTES_MAX;
    loop {
        match tick(output, IDLE_SHARED / TICKS).await {
            Ok(ended) => return ended,
            Err(going_on) => output = going_on,
        }
        idle.look(&output);
        let progress = output.progress();
        if progress.bytes_received > enough || idle.quiet_in_all > SHARED_QUIET_MAX {
            return Ok(());
        }
        if idle.is_over() {
            // A busy agent may be late: what it had for us comes before this answer.
            let answered = agent.ping(&[]).await.is_ok();
            idle.look(&output);
            if !answered || idle.is_over() {
                return Ok(());
            }
        }
    }
}

/// Waits for the end, not for long; the output comes back when it goes on.
async fn tick(output: OutputEnd, length: Duration) -> Result<Result<(), Fault>, OutputEnd> {
    match select(output, net::sleep(length)).await {
        Either::Left((ended, _)) => Ok(ended.map(|_| ())),
        Either::Right(((), output)) => Err(output),
    }
}

/// Counts the ticks in which nothing moved.
struct Idle {
    seen: Progress,
    quiet: u32,
    quiet_in_all: u32,
}

impl Idle {
    fn new(output: &OutputEnd) -> Self {
        Self::from(output.progress())
    }

    fn from(seen: Progress) -> Self {
        Self {
            seen,
            quiet: 0,
            quiet_in_all: 0,
        }
    }

    fn look(&mut self, output: &OutputEnd) {
        self.note(output.progress());
    }

    fn note(&mut self, now: Progress) {
        let pending = now.is_pending();
        self.quiet_in_all += u32::from(!pending);
        self.quiet = if pending || now != self.seen {
            0
        } else {
            self.quiet + 1
        };
        self.seen = now;
    }

    fn is_over(&self) -> bool {
        self.quiet >= TICKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(steps: &[(u64, u64)]) -> Idle {
        let mut idle = Idle::from(Progress::default());
        for &(received, taken) in steps {
            idle.note(Progress {
                bytes_received: received * 10,
                received,
                taken,
            });
        }
        idle
    }

    #[test]
    fn the_clock_stands_still_while_a_write_is_pending() {
        assert!(after(&[(0, 0); TICKS as usize]).is_over());
        let pending = after(&[(1, 0); 1000]);
        assert!(!pending.is_over());
        assert_eq!(pending.quiet_in_all, 0);
    }

    #[test]
    fn the_clock_begins_anew_with_all_that_moves() {
        let mut steps = vec![(0, 0); TICKS as usize - 1];
        steps.push((1, 1));
        steps.extend([(1, 1); TICKS as usize - 1]);
        assert!(!after(&steps).is_over());
        steps.push((1, 1));
        assert!(after(&steps).is_over());
    }
}
