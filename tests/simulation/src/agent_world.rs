//! The agent's core in a world that is late, fails and dies at will.
//!
//! The world keeps its own simple books of what exists (processes, cgroups, checkpoints) and checks each
//! wish against them: that is the specification; the core has to live up to it.

mod invariants;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use agent_core::{
    Adopted, AgentCore, Answer, CleanupOutcome, EndReport, Input, Now, Settings, Ticket, Which, Wish,
};
use model::{
    ContainerId, Cpus, Event, EventKind, Fault, LaunchSpec, Limitation, Limits, Millis, ProcessIdentity,
    Reason, Removed,
};

use crate::random::Random;
use crate::{own_ids, own_ports};

mod faults;
pub use faults::Faults;

/// What an invariant found wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub seed: u64,
    pub at_ms: u64,
    pub message: String,
}

/// What exists of one container outside the core.
#[derive(Debug, Default)]
struct Reality {
    prepares: u32,
    forks: u32,
    groups: bool,
    /// Sandbox and output are on disk.
    directory: bool,
    process: bool,
    checkpointed: bool,
    gate_open: bool,
    command_ran: bool,
    kill_sent: u32,
    forgotten: bool,
    /// As in the last checkpoint.
    killing: Option<Reason>,
    /// A checkpoint failed: what it said may be forgotten.
    unwritten: bool,
    /// A graceful kill was promised to somebody.
    kill_promised: bool,
    /// As the init wrote it.
    end: Option<EndReport>,
    spec: Option<LaunchSpec>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    Launch,
    Wait,
    /// Gracefully, of this container.
    Kill(Option<ContainerId>),
    Update,
    Drain,
    Collect,
}

struct World {
    seed: u64,
    random: Random,
    faults: Faults,
    settings: Settings,
    core: AgentCore,
    now: u64,
    /// Inputs on their way: (time, order) → input, and which life of its container it belongs to (an id may
    /// be used again once it is forgotten).
    coming: BTreeMap<(u64, u64), (Input, u32)>,
    order: u64,
    reality: BTreeMap<ContainerId, Reality>,
    open: BTreeMap<Ticket, Asked>,
    tickets: u64,
    last_sequence: u64,
    over: BTreeSet<ContainerId>,
    log: Option<String>,
}

/// Runs one world: a minute of launches, kills, updates and faults, then quiet, in which all must end.
///
/// # Errors
/// The first violated invariant.
pub fn run(seed: u64, log: bool) -> (Result<(), Violation>, Option<String>) {
    let mut random = Random::new(seed);
    let faults = Faults::draw(&mut random);
    let settings = Settings {
        remembered_max: 1 + random.below(8) as usize,
        containers_max: 12,
        gc_delay: Millis::secs(20),
        id_pool: Some(own_ids::POOL),
        ports: own_ports::pool(),
        ..Settings::default()
    };
    let mut world = World {
        seed,
        random,
        faults,
        core: AgentCore::new(settings.clone(), 0),
        settings,
        now: 0,
        coming: BTreeMap::new(),
        order: 0,
        reality: BTreeMap::new(),
        open: BTreeMap::new(),
        tickets: 0,
        last_sequence: 0,
        over: BTreeSet::new(),
        log: log.then(String::new),
    };
    let result = world.live();
    (result, world.log)
}

impl World {
    fn live(&mut self) -> Result<(), Violation> {
        let requests = 20 + self.random.below(60);
        for _ in 0..requests {
            let until = self.now + self.random.below(2000);
            self.pass_time(until)?;
            if self.random.one_in(self.faults.agent_dies) {
                self.agent_dies()?;
            }
            self.request()?;
        }
        // From here on nothing fails any more, and everything has to come to an end.
        self.faults = Faults::none();
        let ticket = self.ticket(Asked::Drain);
        self.feed(Input::Drain {
            ticket,
            grace: Some(Millis(500)),
        })?;
        let until = self.now + 300_000;
        self.pass_time(until)?;
        // A full disk: whatever has ended goes, also what could not go before.
        for _ in 0..2 {
            self.feed(Input::DiskUsed { used: 1.0 })?;
            let until = self.now + self.settings.removal_retry_max.0;
            self.pass_time(until)?;
        }
        self.at_the_end()
    }

    fn pass_time(&mut self, until: u64) -> Result<(), Violation> {
        loop {
            let arrival = self.coming.keys().next().map(|(at, _)| *at);
            let deadline = self.core.deadline().map(|d| d.0);
            let next = match (arrival, deadline) {
                (None, None) => break,
                (a, d) => a.unwrap_or(u64::MAX).min(d.unwrap_or(u64::MAX)),
            };
            if next > until {
                break;
            }
            self.now = self.now.max(next);
            match arrival {
                Some(at) if at <= next => {
                    let Some((_, (input, life))) = self.coming.pop_first() else {
                        break;
                    };
                    if subject(&input).is_none_or(|id| self.life(id) == life) {
                        self.arrive(input)?;
                    }
                }
                _ => self.feed(Input::Tick)?,
            }
        }
        self.now = self.now.max(until);
        Ok(())
    }

    /// An input reaches the core; the world's books are told first.
    fn arrive(&mut self, input: Input) -> Result<(), Violation> {
        if let Input::Exited { id, .. } = &input {
            let reality = self.reality.entry(id.clone()).or_default();
            if !reality.process {
                return Ok(()); // it had ended before: one end is told once
            }
            reality.process = false;
            if let Input::Exited { end, .. } = &input {
                reality.end = (*end != EndReport::UNRECORDED).then_some(*end);
            }
        }
        if let Input::Started { id } = &input {
            let reality = self.reality.entry(id.clone()).or_default();
            if !reality.process {
                return Ok(());
            }
            reality.command_ran = true;
        }
        self.feed(input)
    }

    fn feed(&mut self, input: Input) -> Result<(), Violation> {
        self.note(|| format!("→ {input:?}"));
        let now = Now {
            monotonic: Millis(self.now),
            wall_ms: 1_700_000_000_000 + self.now,
        };
        self.core.handle(now, input);
        while let Some(wish) = self.core.poll() {
            self.note(|| format!("  ← {wish:?}"));
            self.grant(wish)?;
        }
        self.invariants()
    }

    fn request(&mut self) -> Result<(), Violation> {
        let known: Vec<ContainerId> = self.reality.keys().cloned().collect();
        let pick = |random: &mut Random| {
            let index = random.below(known.len().max(1) as u64) as usize;
            known
                .get(index)
                .cloned()
                .unwrap_or_else(|| "nobody".parse().expect("a valid id"))
        };
        let id = pick(&mut self.random);
        match self.random.below(12) {
            0..=4 => self.launch(),
            10 => {
                let used = self.random.below(101) as f64 / 100.0;
                self.feed(Input::DiskUsed { used })
            }
            11 => {
                let ticket = self.ticket(Asked::Collect);
                let which = match self.random.below(3) {
                    0 => Which::Due,
                    1 => Which::OlderThan(Millis(self.random.below(30_000))),
                    _ => Which::Named(vec![id]),
                };
                self.feed(Input::Collect { ticket, which })?;
                self.maybe_cancel(ticket)
            }
            5 | 6 => {
                let signal = [0, 0, 9, 15, 10][self.random.below(5) as usize];
                let ticket = self.ticket(Asked::Kill((signal == 0).then(|| id.clone())));
                let grace = self.random.one_in(2).then(|| Millis(self.random.below(3000)));
                self.feed(Input::Kill {
                    ticket,
                    id,
                    signal,
                    grace,
                })
            }
            7 | 8 => {
                let ticket = self.ticket(Asked::Wait);
                self.feed(Input::Wait { ticket, id })?;
                self.maybe_cancel(ticket)
            }
            _ => {
                let ticket = self.ticket(Asked::Update);
                let cpus = Some(Cpus::from_milli(1 + self.random.below(4000) as u32));
                self.feed(Input::Update {
                    ticket,
                    id,
                    change: Box::new(Limits {
                        cpus,
                        ..Limits::default()
                    }),
                })
            }
        }
    }

    fn launch(&mut self) -> Result<(), Violation> {
        // Ids and names come from a small set, so that they collide.
        let id: ContainerId = format!("c{}", self.random.below(16)).parse().expect("a valid id");
        let (network, ports) = own_ports::draw(&mut self.random);
        let spec = LaunchSpec {
            network,
            ports,
            name: self.random.one_in(2).then(|| {
                format!("n{}", self.random.below(6))
                    .parse()
                    .expect("a valid name")
            }),
            command: vec!["true".into()],
            timeout: self.random.one_in(4).then(|| Millis(self.random.below(10_000))),
            grace: Millis(self.random.below(2000)),
            remove: self.random.one_in(2),
            userns: own_ids::draw(&mut self.random),
            ..LaunchSpec::default()
        };
        let ticket = self.ticket(Asked::Launch);
        self.feed(Input::Launch {
            ticket,
            id,
            spec: Box::new(spec),
        })?;
        self.maybe_cancel(ticket)
    }

    fn maybe_cancel(&mut self, ticket: Ticket) -> Result<(), Violation> {
        if self.random.one_in(self.faults.asker_goes_away) {
            self.open.remove(&ticket);
            self.feed(Input::Cancel { ticket })?;
        }
        Ok(())
    }

    /// Does what the core wishes, late and badly.
    fn grant(&mut self, wish: Wish) -> Result<(), Violation> {
        match wish {
            Wish::Prepare { id, spec } => {
                let fails = self.random.one_in(self.faults.prepare_fails);
                let reality = self.reality.entry(id.clone()).or_default();
                if reality.directory {
                    return self.violated(format!(
                        "{id} is made where an earlier one has left its directories"
                    ));
                }
                *reality = Reality {
                    prepares: reality.prepares + 1,
                    groups: true,
                    directory: true,
                    spec: Some(*spec),
                    ..Reality::default()
                };
                self.over.remove(&id);
                let result = if fails {
                    Err(Fault::failed("prepare"))
                } else {
                    Ok(())
                };
                self.later(Input::Prepared { id, result });
            }
            Wish::Fork { id } => {
                let fails = self.random.one_in(self.faults.fork_fails);
                let dies = self.random.one_in(self.faults.init_dies_early);
                let reality = self.reality.entry(id.clone()).or_default();
                reality.forks += 1;
                if reality.forks > 1 {
                    return self.violated(format!("{id} was forked twice"));
                }
                if fails {
                    self.later(Input::Forked {
                        id,
                        result: Err(Fault::failed("fork")),
                    });
                    return Ok(());
                }
                reality.process = true;
                let identity = ProcessIdentity {
                    pid: 100,
                    start_time: self.order,
                    boot_id: "boot".into(),
                };
                let at = self.later(Input::Forked {
                    id: id.clone(),
                    result: Ok(identity),
                });
                if dies {
                    self.no_earlier(
                        at,
                        Input::Exited {
                            id,
                            end: EndReport::UNRECORDED,
                        },
                    );
                }
            }
            Wish::Checkpoint { id } => {
                let fails = self.random.one_in(self.faults.checkpoint_fails);
                let killing = self.core.killing(&id);
                let reality = self.reality.entry(id.clone()).or_default();
                reality.unwritten |= fails;
                if !fails {
                    reality.checkpointed = true;
                    reality.killing = killing;
                }
                let result = if fails {
                    Err(Fault::failed("checkpoint"))
                } else {
                    Ok(())
                };
                self.later(Input::Checkpointed { id, result });
            }
            Wish::OpenGate { id } => self.open_gate(id)?,
            Wish::Signal { id, signal } => {
                let dies = match signal {
                    15 => !self.random.one_in(self.faults.term_ignored),
                    _ => self.random.one_in(3),
                };
                if dies && self.reality.get(&id).is_some_and(|r| r.command_ran) {
                    self.later(Input::Exited {
                        id,
                        end: EndReport {
                            exit_code: None,
                            signal: Some(signal),
                        },
                    });
                }
            }
            Wish::KillAll { id } => {
                let ignored = self.random.one_in(self.faults.kill_ignored);
                let wanted = matches!(self.core.killing(&id), Some(Reason::Killed | Reason::Timeout));
                let reality = self.reality.entry(id.clone()).or_default();
                // A successor that finds it dead without a record would call it lost.
                if wanted && reality.kill_sent == 0 && reality.killing.is_none() && !reality.unwritten {
                    return self.violated(format!("{id} is killed before that is written down"));
                }
                reality.kill_sent += 1;
                if !ignored {
                    self.later(Input::Exited {
                        id,
                        end: EndReport::UNRECORDED,
                    });
                }
            }
            Wish::ApplyLimits { id, .. } => {
                let fails = self.random.one_in(self.faults.update_fails);
                let result = if fails {
                    Err(Fault::failed("update"))
                } else {
                    Ok(())
                };
                self.later(Input::LimitsApplied { id, result });
            }
            Wish::Cleanup { id, remove } => self.cleanup(id, remove)?,
            Wish::RemoveLeftover { id } => self.remove_leftover(id)?,
            Wish::Answer { ticket, answer } => self.answered(ticket, &answer)?,
            Wish::Emit(event) => self.emitted(&event)?,
            Wish::Forget { id } => {
                self.reality.entry(id).or_default().forgotten = true;
            }
        }
        Ok(())
    }

    fn open_gate(&mut self, id: ContainerId) -> Result<(), Violation> {
        let reality = self.reality.entry(id.clone()).or_default();
        if !reality.checkpointed {
            return self.violated(format!(
                "the gate of {id} was opened before its identity was on disk"
            ));
        }
        if reality.gate_open {
            return self.violated(format!("the gate of {id} was opened twice"));
        }
        reality.gate_open = true;
        if self.random.one_in(self.faults.start_fails) {
            let fault = Fault::new(model::FaultKind::CommandNotFound, "no such command");
            let at = self.later(Input::StartFailed {
                id: id.clone(),
                fault,
            });
            self.no_earlier(
                at,
                Input::Exited {
                    id,
                    end: EndReport {
                        exit_code: Some(127),
                        signal: None,
                    },
                },
            );
        } else if !self.random.one_in(self.faults.start_never_told) {
            let at = self.later(Input::Started { id: id.clone() });
            if self.random.one_in(self.faults.memory_limit) {
                let limitation = Limitation {
                    reason: Reason::MemoryLimit,
                    message: "memory limit".into(),
                    limit: None,
                    peak: None,
                    statistics: BTreeMap::new(),
                };
                self.no_earlier(
                    at,
                    Input::LimitHit {
                        id: id.clone(),
                        limitation,
                    },
                );
            }
            if self.random.one_in(2) {
                let code = self.random.below(256) as i32;
                self.no_earlier(
                    at,
                    Input::Exited {
                        id,
                        end: EndReport {
                            exit_code: Some(code),
                            signal: None,
                        },
                    },
                );
            }
        }
        Ok(())
    }

    fn cleanup(&mut self, id: ContainerId, remove: bool) -> Result<(), Violation> {
        let read = self.random.one_in(4);
        let busy = self.random.one_in(self.faults.cleanup_busy);
        let reality = self.reality.entry(id.clone()).or_default();
        if reality.process {
            return self.violated(format!("{id} is cleaned up while its init lives"));
        }
        let outcome = if busy {
            CleanupOutcome::Busy {
                message: "busy".into(),
            }
        } else {
            reality.groups = false;
            reality.checkpointed = false;
            reality.directory &= !remove || read;
            CleanupOutcome::Done
        };
        // Somebody still read the output: it goes a little later.
        let rest = remove && reality.directory && outcome == CleanupOutcome::Done;
        let at = self.later(Input::Cleaned {
            id: id.clone(),
            outcome,
            limitation: None,
            ended_at_ms: None,
        });
        if rest {
            let left = Input::Leftover {
                id: id.clone(),
                age: Millis(0),
                wanted: false,
            };
            self.put(at, left);
            let free = at + 1 + self.random.below(1000);
            self.put(free, Input::LeftoverFree { id });
        }
        Ok(())
    }

    fn remove_leftover(&mut self, id: ContainerId) -> Result<(), Violation> {
        let fails = self.random.one_in(self.faults.removal_fails);
        let reality = self.reality.entry(id.clone()).or_default();
        if reality.process || reality.groups || reality.checkpointed {
            return self.violated(format!("the directories of {id} are removed while it exists"));
        }
        if !reality.directory {
            return self.violated(format!("the directories of {id} are removed twice"));
        }
        let result = if fails {
            Err("immutable".to_owned())
        } else {
            reality.directory = false;
            Ok(Removed::of(id.clone()))
        };
        self.later(Input::Removed { id, result });
        Ok(())
    }

    fn answered(&mut self, ticket: Ticket, answer: &Answer) -> Result<(), Violation> {
        let Some(asked) = self.open.remove(&ticket) else {
            return self.violated(format!("{ticket:?} was answered twice or after it was cancelled"));
        };
        match (asked, answer) {
            (Asked::Kill(Some(id)), Answer::Signalled) => {
                self.reality.entry(id).or_default().kill_promised = true;
                Ok(())
            }
            (Asked::Launch, Answer::Launched { id, existed: false }) => {
                if !self.reality.get(id).is_some_and(|r| r.command_ran) {
                    return self.violated(format!("{id} was reported launched before its command ran"));
                }
                Ok(())
            }
            (Asked::Wait, Answer::Ended(_))
            | (Asked::Launch, Answer::Launched { .. })
            | (Asked::Kill(None), Answer::Signalled)
            | (Asked::Update, Answer::Updated(_))
            | (Asked::Drain, Answer::Drained { .. })
            | (Asked::Collect, Answer::Collected(_))
            | (_, Answer::Refused(_)) => Ok(()),
            (asked, answer) => self.violated(format!("{asked:?} was answered by {answer:?}")),
        }
    }

    fn emitted(&mut self, event: &Event) -> Result<(), Violation> {
        if event.sequence != self.last_sequence + 1 {
            return self.violated(format!(
                "event {} came after {}",
                event.sequence, self.last_sequence
            ));
        }
        self.last_sequence = event.sequence;
        if let EventKind::Ended { .. } = event.kind {
            if !self.over.insert(event.container.clone()) {
                return self.violated(format!("the end of {} was told twice", event.container));
            }
            let reality = self.reality.entry(event.container.clone()).or_default();
            if reality.process || reality.groups {
                return self.violated(format!(
                    "{} is over while something of it exists",
                    event.container
                ));
            }
        }
        Ok(())
    }

    /// `kill -9`, and a new agent on the same host: what it finds is what the kernel and the checkpoints say.
    fn agent_dies(&mut self) -> Result<(), Violation> {
        self.note(|| "the agent dies".into());
        // Only ends of processes come without an agent to ask for them.
        self.coming
            .retain(|_, (input, _)| matches!(input, Input::Exited { .. }));
        self.open.clear();
        self.core = AgentCore::new(self.settings.clone(), self.last_sequence);
        for id in self.reality.keys().cloned().collect::<Vec<_>>() {
            let Some(found) = self.find(&id)? else { continue };
            self.feed(Input::Adopt {
                id,
                found: Box::new(found),
            })?;
        }
        for id in self.reality.keys().cloned().collect::<Vec<_>>() {
            if self
                .reality
                .get(&id)
                .is_some_and(|r| r.directory && !r.checkpointed)
            {
                let (age, wanted) = (Millis(self.random.below(40_000)), self.random.one_in(4));
                self.feed(Input::Leftover { id, age, wanted })?;
            }
        }
        Ok(())
    }

    fn find(&mut self, id: &ContainerId) -> Result<Option<Adopted>, Violation> {
        let reality = self.reality.entry(id.clone()).or_default();
        // Nobody can open its gate any more.
        reality.process &= reality.gate_open;
        reality.command_ran |= reality.process;
        if !reality.checkpointed {
            // An orphan: the new agent's shell removes its groups.
            reality.groups = false;
            return Ok(None);
        }
        let promised = reality.kill_promised && !reality.unwritten && reality.killing.is_none();
        if promised && reality.process && reality.kill_sent == 0 {
            return self.violated(format!("the kill of {id} was promised and then forgotten"));
        }
        let alive = match reality.process {
            true => Ok(()),
            false => Err(reality.end.unwrap_or(EndReport::UNRECORDED)),
        };
        Ok(reality.spec.clone().map(|spec| Adopted {
            limits: spec.limits.clone(),
            spec,
            identity: None,
            sandbox: None,
            created_at_ms: 0,
            started_at_ms: None,
            killing: reality.killing,
            alive,
        }))
    }

    fn ticket(&mut self, asked: Asked) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.open.insert(ticket, asked);
        ticket
    }

    fn later(&mut self, input: Input) -> u64 {
        let at = self.now + self.random.below(self.faults.delay_max + 1);
        self.put(at, input);
        at
    }

    /// After something else has arrived.
    fn no_earlier(&mut self, at: u64, input: Input) {
        let at = at + 1 + self.random.below(self.faults.delay_max * 4 + 1);
        self.put(at, input);
    }

    fn put(&mut self, at: u64, input: Input) {
        self.order += 1;
        let life = subject(&input).map_or(0, |id| self.life(id));
        self.coming.insert((at, self.order), (input, life));
    }

    fn life(&self, id: &ContainerId) -> u32 {
        self.reality.get(id).map_or(0, |r| r.prepares)
    }

    fn violated<T>(&self, message: String) -> Result<T, Violation> {
        Err(Violation {
            seed: self.seed,
            at_ms: self.now,
            message,
        })
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(log) = &mut self.log {
            let _ = writeln!(log, "{now:>8} ms {}", line());
        }
    }
}

/// The container that an input of the world is about.
fn subject(input: &Input) -> Option<&ContainerId> {
    match input {
        Input::Prepared { id, .. }
        | Input::Forked { id, .. }
        | Input::Checkpointed { id, .. }
        | Input::Started { id }
        | Input::StartFailed { id, .. }
        | Input::Exited { id, .. }
        | Input::LimitHit { id, .. }
        | Input::Cleaned { id, .. }
        | Input::LimitsApplied { id, .. }
        | Input::Leftover { id, .. }
        | Input::LeftoverFree { id }
        | Input::Removed { id, .. } => Some(id),
        _ => None,
    }
}
