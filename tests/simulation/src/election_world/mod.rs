//! Masters that contend and agents that look for the leader, in a world with one ZooKeeper: clocks run apart, links are cut in one direction or
//! both, processes freeze and die, the ensemble loses its quorum, lists are old, answers are lost after the deed.
//!
//! After each event: at most one process may act as a leader at this moment, by its own clock; terms only grow; no agent knows a leader that
//! was followed long ago. When the faults have ended: one leader, known to all.

mod ensemble;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use coordination::detection::{self, Detection};
use coordination::election::{self, Attempt, Election, Standing};
use model::{MasterInfo, Millis, Term};

use crate::random::Random;
use ensemble::Ensemble;

/// As agreed between all, in milliseconds.
const TIMEOUT: u64 = 10_000;
const MASTERS: usize = 3;
const AGENTS: usize = 2;
/// Of trouble; then it is quiet.
const TROUBLE: u64 = 150_000;
const QUIET: u64 = 60_000;
/// How long an agent may know a leader that has been followed: its own time-out, the silence until that begins, and messages.
const STALE_MAX: u64 = TIMEOUT * 7 / 5 + 20_000;
/// Clocks run apart by so many in a thousand.
const DRIFT: u64 = 5;

/// What an invariant found wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub seed: u64,
    pub at_ms: u64,
    pub message: String,
}

/// Mistakes of a shell that the invariants have to notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlantedBug {
    /// The fence counts from the answer's arrival, not from the question's sending.
    CountsFromAnswer,
    /// Any server's answer is taken for the ensemble's.
    FollowerAnswers,
    /// The fence is looked at by the loop's timer only: a process that wakes up acts first.
    ActsBeforeLooking,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub elections: u64,
    pub steps_down: u64,
    pub freezes: u64,
    pub deaths: u64,
    pub cuts: u64,
    pub expiries: u64,
}

/// Which way a process and the servers hear each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Whole,
    Cut,
    /// Questions arrive, answers don't.
    Mute,
}

enum Machine {
    Master(Election),
    Agent(Detection),
}

struct Process {
    machine: Machine,
    /// Another one after each death: what is under way for an older one is nobody's.
    life: u64,
    link: Link,
    cut_since: Option<u64>,
    frozen: bool,
    awake_since: u64,
    /// What came while it was frozen.
    inbox: Vec<Fact>,
    /// local = offset + time * rate / 1000.
    offset: u64,
    rate: u64,
    session: Option<u64>,
    attempt: Option<Attempt>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Fact {
    Master(election::Input),
    Agent(detection::Input),
}

#[derive(Debug, Clone)]
enum Event {
    /// A question arrives at the servers, asked in a session.
    Question(usize, u64, Attempt, Option<u64>, Question),
    /// An answer, or its failure, arrives at a process.
    Fact(usize, u64, Fact),
    Wake(usize, u64),
    /// An agent's client has heard nothing since it was cut off then.
    Silence(usize, u64),
    Trouble,
    Thaw(usize),
    Heal(usize),
    Restart(usize),
    Quorum,
    Expire,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Question {
    Open,
    Join,
    List,
    Read(coordination::member::Member),
    Beat,
    Close,
}

struct World {
    seed: u64,
    random: Random,
    bug: Option<PlantedBug>,
    now: u64,
    order: u64,
    coming: BTreeMap<(u64, u64), Event>,
    processes: Vec<Process>,
    ensemble: Ensemble,
    elected: Vec<(u64, Term)>,
    /// By an operator's hand: its leader learns it from a call, and until then no fence can help.
    removed: BTreeSet<Term>,
    quiet: bool,
    tally: Tally,
    log: Option<String>,
}

/// Runs one world.
///
/// # Errors
/// The first violated invariant.
pub fn run(seed: u64, log: bool, bug: Option<PlantedBug>) -> (Result<Tally, Violation>, Option<String>) {
    let mut random = Random::new(seed);
    let processes = (0..MASTERS + AGENTS)
        .map(|number| Process::new(number, &mut random))
        .collect();
    let mut world = World {
        seed,
        random,
        bug,
        now: 0,
        order: 0,
        coming: BTreeMap::new(),
        processes,
        ensemble: Ensemble::new(TIMEOUT),
        elected: Vec::new(),
        removed: BTreeSet::new(),
        quiet: false,
        tally: Tally::default(),
        log: log.then(String::new),
    };
    let result = world.live();
    (result.map(|()| world.tally), world.log)
}

impl Process {
    fn new(number: usize, random: &mut Random) -> Self {
        let (offset, rate) = (
            random.below(1_000_000),
            1000 - DRIFT + random.below(2 * DRIFT + 1),
        );
        let machine = Self::machine(number, Millis(offset), random.draw());
        Self {
            machine,
            life: 0,
            link: Link::Whole,
            cut_since: None,
            frozen: false,
            awake_since: 0,
            inbox: Vec::new(),
            offset,
            rate,
            session: None,
            attempt: None,
        }
    }

    fn machine(number: usize, now: Millis, seed: u64) -> Machine {
        if number < MASTERS {
            Machine::Master(Election::new(now, Millis(TIMEOUT), seed))
        } else {
            Machine::Agent(Detection::new(now, Millis(TIMEOUT), seed))
        }
    }

    fn clock(&self, now: u64) -> Millis {
        Millis(self.offset + now * self.rate / 1000)
    }

    /// When its clock will show this.
    fn at(&self, local: Millis) -> u64 {
        local.0.saturating_sub(self.offset) * 1000 / self.rate + 1
    }

    fn term(&self) -> Option<Term> {
        match &self.machine {
            Machine::Agent(agent) => agent.leader().and_then(|leader| leader.term),
            Machine::Master(_) => None,
        }
    }
}

impl World {
    fn live(&mut self) -> Result<(), Violation> {
        for number in 0..self.processes.len() {
            self.plan(0, Event::Wake(number, 0));
        }
        self.plan(500, Event::Trouble);
        self.plan(100, Event::Expire);
        while let Some(((at, _), event)) = self.coming.pop_first() {
            if at > TROUBLE + QUIET {
                break;
            }
            self.now = at;
            self.happen(event);
            self.check()?;
        }
        self.check_end()
    }

    fn plan(&mut self, after: u64, event: Event) {
        self.order += 1;
        self.coming.insert((self.now + after, self.order), event);
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            writeln!(log, "{:>7} {}", self.now, text()).expect("text");
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Question(number, life, attempt, session, question) => {
                self.question(number, life, attempt, session, question)
            }
            Event::Fact(number, life, fact) => {
                if self.processes[number].life == life {
                    self.feed(number, fact);
                }
            }
            Event::Wake(number, life) => {
                let process = &self.processes[number];
                if process.life == life && !process.frozen {
                    let tick = match process.machine {
                        Machine::Master(_) => Fact::Master(election::Input::Tick),
                        Machine::Agent(_) => Fact::Agent(detection::Input::Tick),
                    };
                    self.feed(number, tick);
                }
            }
            Event::Trouble => self.trouble(),
            Event::Silence(number, since) => self.silent(number, since),
            Event::Thaw(number) => self.thaw(number),
            Event::Heal(number) => self.heal(number),
            Event::Restart(number) => self.restart(number),
            Event::Quorum => {
                self.note(|| "quorum again".into());
                self.ensemble.recover(self.now);
                for number in MASTERS..self.processes.len() {
                    if self.processes[number].link == Link::Whole {
                        self.heal(number);
                    }
                }
            }
            Event::Expire => {
                self.tally.expiries += self.ensemble.expire(self.now);
                self.calls();
                self.plan(100, Event::Expire);
            }
        }
    }

    /// Hands a fact in, and grants what the machine wishes.
    fn feed(&mut self, number: usize, fact: Fact) {
        let process = &mut self.processes[number];
        if process.frozen {
            return process.inbox.push(fact);
        }
        let local = process.clock(self.now);
        let life = process.life;
        let mut asked = Vec::new();
        let mut told = Vec::new();
        let deadline = match (&mut process.machine, fact.clone()) {
            (Machine::Master(election), Fact::Master(fact)) => {
                election.handle(local, fact);
                while let Some(wish) = election.poll() {
                    match wish {
                        election::Wish::Open(attempt) => asked.push((attempt, Question::Open)),
                        election::Wish::Join(attempt) => asked.push((attempt, Question::Join)),
                        election::Wish::List(attempt) => asked.push((attempt, Question::List)),
                        election::Wish::Beat(attempt) => asked.push((attempt, Question::Beat)),
                        election::Wish::Close(attempt) => asked.push((attempt, Question::Close)),
                        election::Wish::Tell(standing) => told.push(standing),
                    }
                }
                election.deadline()
            }
            (Machine::Agent(detection), Fact::Agent(fact)) => {
                detection.handle(local, fact);
                while let Some(wish) = detection.poll() {
                    match wish {
                        detection::Wish::Open(attempt) => asked.push((attempt, Question::Open)),
                        detection::Wish::List(attempt) => asked.push((attempt, Question::List)),
                        detection::Wish::Read(attempt, member) => {
                            asked.push((attempt, Question::Read(member)))
                        }
                        detection::Wish::Close(attempt) => asked.push((attempt, Question::Close)),
                        detection::Wish::Tell(_) => {}
                    }
                }
                detection.deadline()
            }
            _ => None,
        };
        let wake = deadline.map(|at| process.at(at).saturating_sub(self.now).max(1));
        self.note(|| format!("{number} {fact:?} -> {asked:?} {told:?}"));
        if let Some(wake) = wake {
            self.plan(wake, Event::Wake(number, life));
        }
        for standing in told {
            match standing {
                Standing::Elected(term) => {
                    self.tally.elections += 1;
                    self.elected.push((self.now, term));
                }
                Standing::Contending => self.tally.steps_down += 1,
                Standing::StandBy => {}
            }
        }
        for (attempt, question) in asked {
            self.ask(number, attempt, question);
        }
    }

    /// Sends a question; when no answer can come in time, that is known after the limit.
    fn ask(&mut self, number: usize, attempt: Attempt, question: Question) {
        let process = &self.processes[number];
        let life = process.life;
        let limit = if question == Question::Beat {
            TIMEOUT / 3
        } else {
            TIMEOUT
        };
        let (link, failed) = (process.link, failure(&process.machine, attempt, &question));
        let session = process.session;
        match question {
            Question::Open => self.processes[number].attempt = Some(attempt),
            Question::Close => self.processes[number].session = None,
            _ => {}
        }
        if let Some(failed) = failed.filter(|_| link != Link::Whole || self.random.one_in(5)) {
            self.plan(limit, Event::Fact(number, life, failed));
        }
        if link != Link::Cut {
            let delay = self.delay();
            self.plan(delay, Event::Question(number, life, attempt, session, question));
        }
    }

    fn delay(&mut self) -> u64 {
        if self.quiet || !self.random.one_in(12) {
            1 + self.random.below(20)
        } else {
            self.random.below(3_000)
        }
    }

    /// Members changed, sessions ended: those who watch and can be reached are called.
    fn calls(&mut self) {
        for (session, call) in self.ensemble.take_calls() {
            let Some(number) = self.processes.iter().position(|p| p.session == Some(session)) else {
                continue;
            };
            if self.processes[number].link != Link::Whole {
                continue;
            }
            // A master's call may be lost: it lists now and then without one.
            let attempt = call.attempt;
            if call.ended || number >= MASTERS || !self.random.one_in(20) {
                let fact = match (number < MASTERS, call.ended) {
                    (true, true) => Fact::Master(election::Input::Failed { attempt }),
                    (true, false) => Fact::Master(election::Input::Changed { attempt }),
                    (false, true) => Fact::Agent(detection::Input::Failed { attempt }),
                    (false, false) => Fact::Agent(detection::Input::Changed { attempt }),
                };
                let (life, delay) = (self.processes[number].life, self.delay());
                self.plan(delay, Event::Fact(number, life, fact));
            }
        }
    }
}

/// What its shell tells a machine when an answer does not come. A late one is told as well, and must do no harm.
fn failure(machine: &Machine, attempt: Attempt, question: &Question) -> Option<Fact> {
    Some(match (machine, question) {
        (_, Question::Close) => return None,
        (Machine::Master(_), Question::Open | Question::Join) => return None,
        (Machine::Master(_), Question::Beat) => Fact::Master(election::Input::Missed { attempt }),
        (Machine::Master(_), _) => Fact::Master(election::Input::ListFailed { attempt }),
        (Machine::Agent(_), _) => return None,
    })
}

/// What stands in a master's znode.
fn announcement(number: usize) -> MasterInfo {
    MasterInfo {
        id: number.to_string(),
        ip: std::net::IpAddr::from([127, 0, 0, 1]),
        port: 1 + number as u16,
        hostname: String::new(),
        version: String::new(),
        rpc_port: None,
        capabilities: Vec::new(),
    }
}

mod answers;
mod invariants;
mod trouble;
