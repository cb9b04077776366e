//! When to look at containers' TCP connections and stacks: when somebody asks for statistics, and never so often that it
//! would take more than a small part of a processor.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::shell::Shell;

/// Younger figures are not taken again.
const FRESH: Duration = Duration::from_secs(1);
/// Between two looks, as many times what one takes: at most two percent of a processor.
const PAUSE: u32 = 50;
/// An answer waits for a look that takes no longer; others are told what the last one has found.
const WORTH_WAITING: Duration = Duration::from_millis(5);

#[derive(Default)]
pub struct Pace {
    last: Cell<Option<Instant>>,
    took: Cell<Duration>,
    busy: Cell<bool>,
    /// Launches that there had been: a new container is not made to wait for being looked at.
    launched: Cell<u64>,
}

impl Pace {
    fn is_due(&self, now: Instant, launched: u64) -> bool {
        let rest = self.took.get() * PAUSE;
        let pause = match launched == self.launched.get() {
            true => FRESH.max(rest),
            false => rest,
        };
        let rested = self.last.get().is_none_or(|last| now - last >= pause);
        rested && !self.busy.get()
    }
}

/// Before a sample.
pub async fn look(shell: &Rc<Shell>) {
    let pace = &shell.connections;
    let launched = shell.metrics.launched.get();
    if !pace.is_due(net::now(), launched) {
        return;
    }
    pace.busy.set(true);
    pace.launched.set(launched);
    let waits = pace.last.get().is_none() || pace.took.get() <= WORTH_WAITING;
    let shell = shell.clone();
    let work = async move {
        let begin = net::now();
        let (network, isolators) = (shell.network.clone(), shell.isolators.clone());
        let looked = shell.pool.run(move || {
            let stacks = network.measure_stacks();
            (stacks, isolators.connections().measure())
        });
        match looked.await {
            Ok((stacks, connections)) => {
                if let Err(fault) = stacks {
                    tracing::warn!("look at the stacks of containers: {fault}");
                }
                // A kernel without CONFIG_INET_TCP_DIAG has none to tell of.
                if let Err(error) = connections {
                    tracing::debug!("look at the TCP connections of the host: {error}");
                }
            }
            Err(error) => tracing::warn!("look at the TCP connections of containers: {error}"),
        }
        let pace = &shell.connections;
        pace.took.set(net::now() - begin);
        pace.last.set(Some(net::now()));
        pace.busy.set(false);
    };
    if waits {
        work.await;
    } else {
        net::spawn(work).detach();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_done_seldom() {
        let pace = Pace::default();
        let begin = net::now();
        assert!(pace.is_due(begin, 0));
        pace.last.set(Some(begin));
        assert!(!pace.is_due(begin + Duration::from_millis(999), 0));
        assert!(pace.is_due(begin + FRESH, 0));
        assert!(pace.is_due(begin, 1), "somebody is new");
        pace.took.set(Duration::from_millis(400));
        assert!(!pace.is_due(begin + Duration::from_secs(19), 1));
        assert!(pace.is_due(begin + Duration::from_secs(20), 0));
        pace.busy.set(true);
        assert!(!pace.is_due(begin + Duration::from_secs(20), 1));
    }
}
