//! The end of all containers, a few at a time: while a thousand are begun with at once nobody else has an answer.

use model::{ContainerId, Millis};

use crate::agent::AgentCore;
use crate::container::Doom;
use crate::input::{Answer, Now, Ticket};

/// Containers that one input begins to end. The deadline says that there are more.
pub(crate) const AT_ONCE: usize = 16;
/// Containers that are killed without a grace period and have not ended yet. More of them don't end sooner, and processes that
/// end are in the kernel for milliseconds, where nobody takes the processor from them.
const KILLED_AT_ONCE: usize = 4;
/// After that long the next one is killed although the last one lives: something holds it.
const PLACE_KEPT: Millis = Millis(200);

impl AgentCore {
    pub(crate) fn drain(&mut self, now: Now, ticket: Ticket, grace: Option<Millis>) {
        self.draining = true;
        let living = self.containers.values().filter(|c| !c.is_over());
        let all: Vec<(ContainerId, Option<Millis>)> = living.map(|c| (c.status.id.clone(), grace)).collect();
        self.drains.push((ticket, all.len() as u32));
        self.to_drain.extend(all);
        self.drain_next(now);
        self.settle_drains();
    }

    pub(crate) fn drain_next(&mut self, now: Now) {
        let mut killed = std::mem::take(&mut self.killed_by_drain);
        killed.retain(|(at, id)| now.monotonic < after_place(*at) && self.lives(id));
        for _ in 0..AT_ONCE {
            if killed.len() >= KILLED_AT_ONCE {
                break;
            }
            let Some((id, grace)) = self.to_drain.pop_front() else {
                break;
            };
            let own = || self.containers.get(&id).map(|c| c.spec.grace);
            let grace = grace.or_else(own).unwrap_or_default();
            self.end_gracefully(now, &id, Doom::Killed, grace);
            if grace == Millis(0) && self.lives(&id) {
                killed.push((now.monotonic, id));
            }
        }
        self.killed_by_drain = killed;
    }

    /// When the drain goes on: at once, unless as many as may have been killed and have not ended.
    pub(crate) fn drain_deadline(&self) -> Option<Millis> {
        self.to_drain.front()?;
        let dying = || self.killed_by_drain.iter().filter(|(_, id)| self.lives(id));
        if dying().count() < KILLED_AT_ONCE {
            return Some(Millis(0));
        }
        dying().map(|(at, _)| after_place(*at)).min()
    }

    fn lives(&self, id: &ContainerId) -> bool {
        self.containers.get(id).is_some_and(|c| !c.is_over())
    }

    pub(crate) fn settle_drains(&mut self) {
        if self.living == 0 {
            for (ticket, killed) in std::mem::take(&mut self.drains) {
                self.answer(ticket, Answer::Drained { killed });
            }
        }
    }
}

fn after_place(at: Millis) -> Millis {
    Millis(at.0.saturating_add(PLACE_KEPT.0))
}

#[cfg(test)]
mod tests {
    use model::{LaunchSpec, ProcessIdentity};

    use super::*;
    use crate::input::{CleanupOutcome, EndReport, Input, Wish};
    use crate::settings::Settings;

    const COUNT: usize = 50;

    struct Driver {
        core: AgentCore,
        now: Now,
    }

    impl Driver {
        fn input(&mut self, input: Input) -> Vec<Wish> {
            self.core.handle(self.now, input);
            std::iter::from_fn(|| self.core.poll()).collect()
        }

        fn running(&mut self, name: &str) {
            let id: ContainerId = name.parse().unwrap();
            let spec = LaunchSpec {
                command: vec!["true".into()],
                ..LaunchSpec::default()
            };
            self.input(Input::Launch {
                ticket: Ticket(1),
                id: id.clone(),
                spec: Box::new(spec),
            });
            self.input(Input::Prepared {
                id: id.clone(),
                result: Ok(()),
            });
            let identity = ProcessIdentity {
                pid: 7,
                start_time: 7,
                boot_id: "boot".into(),
            };
            self.input(Input::Forked {
                id: id.clone(),
                result: Ok(identity),
            });
            self.input(Input::Checkpointed {
                id: id.clone(),
                result: Ok(()),
            });
            self.input(Input::Started { id });
        }
    }

    fn signalled(wishes: &[Wish]) -> Vec<ContainerId> {
        let of = |wish: &Wish| match wish {
            Wish::Signal { id, .. } => Some(id.clone()),
            _ => None,
        };
        wishes.iter().filter_map(of).collect()
    }

    fn killed(wishes: &[Wish]) -> usize {
        let kill = |wish: &&Wish| matches!(wish, Wish::KillAll { .. } | Wish::Checkpoint { .. });
        wishes.iter().filter(kill).count()
    }

    fn driver() -> Driver {
        let settings = Settings {
            containers_max: COUNT,
            ..Settings::default()
        };
        let mut driver = Driver {
            core: AgentCore::new(settings, 0),
            now: Now {
                monotonic: Millis(1_000),
                wall_ms: 1_000,
            },
        };
        (0..COUNT).for_each(|number| driver.running(&format!("c{number:03}")));
        driver
    }

    #[test]
    fn a_drain_begins_with_a_few_and_comes_to_each_once_at_the_ticks_that_it_asks_for() {
        let mut driver = driver();
        let drain = Input::Drain {
            ticket: Ticket(2),
            grace: Some(Millis(10_000)),
        };
        let mut all = signalled(&driver.input(drain));
        while driver.core.deadline() <= Some(driver.now.monotonic) {
            let told = signalled(&driver.input(Input::Tick));
            assert!(!told.is_empty() && told.len() <= AT_ONCE, "{}", told.len());
            all.extend(told);
        }
        all.sort();
        all.dedup();
        assert_eq!(all.len(), COUNT);
        // The grace of all is over at the same time.
        driver.now.monotonic = Millis(11_000);
        let mut ended = 0;
        while driver.core.deadline() <= Some(driver.now.monotonic) {
            let at_once = killed(&driver.input(Input::Tick));
            assert!(at_once <= AT_ONCE, "{at_once}");
            ended += at_once;
        }
        assert_eq!(ended, COUNT);
    }

    fn killed_ids(wishes: &[Wish]) -> Vec<ContainerId> {
        let of = |wish: &Wish| match wish {
            Wish::KillAll { id } | Wish::Checkpoint { id } => Some(id.clone()),
            _ => None,
        };
        let mut ids: Vec<ContainerId> = wishes.iter().filter_map(of).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    #[test]
    fn without_grace_the_next_is_killed_when_one_has_ended_or_has_been_waited_for_long_enough() {
        let mut driver = driver();
        let drain = Input::Drain {
            ticket: Ticket(2),
            grace: Some(Millis(0)),
        };
        let mut dying = killed_ids(&driver.input(drain));
        assert_eq!(dying.len(), KILLED_AT_ONCE);
        let waits = driver.core.deadline().expect("there are more");
        assert!(waits > driver.now.monotonic && waits <= after_place(driver.now.monotonic));
        assert_eq!(killed_ids(&driver.input(Input::Tick)), []);
        // Nobody ends: the places are given up.
        driver.now.monotonic = waits;
        let more = killed_ids(&driver.input(Input::Tick));
        assert_eq!(more.len(), KILLED_AT_ONCE);
        dying.extend(more);
        let mut all = dying.clone();
        while let Some(id) = dying.pop() {
            driver.input(Input::Exited {
                id: id.clone(),
                end: EndReport::UNRECORDED,
            });
            driver.input(Input::Cleaned {
                id,
                outcome: CleanupOutcome::Done,
                limitation: None,
                ended_at_ms: None,
            });
            if driver.core.deadline() <= Some(driver.now.monotonic) {
                let next = killed_ids(&driver.input(Input::Tick));
                assert!(next.len() <= KILLED_AT_ONCE, "{next:?}");
                dying.extend(next.clone());
                all.extend(next);
            }
        }
        assert_eq!(all.len(), COUNT);
    }

    #[test]
    fn a_container_that_ends_before_a_drain_comes_to_it_is_left_alone_and_the_drain_is_answered() {
        let mut driver = driver();
        let drain = Input::Drain {
            ticket: Ticket(2),
            grace: Some(Millis(10_000)),
        };
        driver.input(drain);
        let mut last = Vec::new();
        for number in 0..COUNT {
            let id: ContainerId = format!("c{number:03}").parse().unwrap();
            driver.input(Input::Exited {
                id: id.clone(),
                end: EndReport::UNRECORDED,
            });
            last = driver.input(Input::Cleaned {
                id,
                outcome: CleanupOutcome::Done,
                limitation: None,
                ended_at_ms: None,
            });
        }
        let answer = |wish: &Wish| match wish {
            Wish::Answer { ticket, answer } => Some((*ticket, answer.clone())),
            _ => None,
        };
        let answers: Vec<_> = last.iter().filter_map(answer).collect();
        let drained = Answer::Drained { killed: COUNT as u32 };
        assert_eq!(answers, [(Ticket(2), drained)]);
        assert!(signalled(&driver.input(Input::Tick)).is_empty());
    }
}
