//! What goes wrong, and how it ends.

use coordination::detection;
use coordination::election;
use model::Millis;

use super::{Event, Fact, Link, MASTERS, Process, TIMEOUT, TROUBLE, World};

/// Of the time-out: how long a server is silent until an agent's client says so.
const SILENCE: u64 = TIMEOUT * 2 / 5;

impl World {
    pub(super) fn trouble(&mut self) {
        if self.now >= TROUBLE {
            return self.calm();
        }
        let number = self.random.below(self.processes.len() as u64) as usize;
        let how_long = if self.random.one_in(3) {
            self.random.below(4 * TIMEOUT)
        } else {
            self.random.below(TIMEOUT)
        };
        match self.random.below(8) {
            0 | 1 if !self.processes[number].frozen => {
                self.note(|| format!("{number} freezes for {how_long}"));
                self.tally.freezes += 1;
                self.processes[number].frozen = true;
                self.plan(how_long, Event::Thaw(number));
            }
            2 | 3 if self.processes[number].link == Link::Whole => {
                let link = if self.random.one_in(3) {
                    Link::Mute
                } else {
                    Link::Cut
                };
                self.note(|| format!("{number} is cut off: {link:?} for {how_long}"));
                self.tally.cuts += 1;
                self.processes[number].link = link;
                self.processes[number].cut_since = Some(self.now);
                if number >= MASTERS {
                    self.plan(SILENCE, Event::Silence(number, self.now));
                }
                self.plan(how_long, Event::Heal(number));
            }
            4 => self.die(number, how_long),
            5 if self.ensemble.quorum && self.random.one_in(2) => {
                self.note(|| format!("no quorum for {how_long}"));
                self.ensemble.quorum = false;
                // Servers without a quorum turn their clients away.
                for agent in MASTERS..self.processes.len() {
                    let since = *self.processes[agent].cut_since.get_or_insert(self.now);
                    self.plan(SILENCE, Event::Silence(agent, since));
                }
                self.plan(how_long, Event::Quorum);
            }
            6 if self.random.one_in(3) => {
                self.note(|| "the first znode is removed by hand".into());
                let removed = self.ensemble.remove_first();
                self.removed.extend(removed);
                self.calls();
            }
            _ => {}
        }
        let next = self.random.below(6_000);
        self.plan(next, Event::Trouble);
    }

    /// From here on nothing goes wrong any more.
    fn calm(&mut self) {
        self.quiet = true;
        self.ensemble.recover(self.now);
        for number in 0..self.processes.len() {
            self.heal(number);
            self.thaw(number);
        }
    }

    /// An agent's client notices, if it lasts.
    pub(super) fn silent(&mut self, number: usize, since: u64) {
        let process = &self.processes[number];
        if let (true, Some(attempt)) = (process.cut_since == Some(since), process.attempt) {
            let life = process.life;
            let silent_for = Millis(SILENCE);
            let fact = Fact::Agent(detection::Input::Disconnected { attempt, silent_for });
            self.plan(0, Event::Fact(number, life, fact));
        }
    }

    pub(super) fn heal(&mut self, number: usize) {
        self.processes[number].link = Link::Whole;
        self.processes[number].cut_since = None;
        let life = self.processes[number].life;
        let Some(session) = self.processes[number].session else {
            return;
        };
        let open = self.ensemble.is_open(session);
        let Some(attempt) = self.processes[number].attempt else {
            return;
        };
        let fact = match (number < MASTERS, open) {
            (true, true) => return,
            (true, false) => Fact::Master(election::Input::Failed { attempt }),
            (false, true) => Fact::Agent(detection::Input::Connected { attempt }),
            (false, false) => Fact::Agent(detection::Input::Failed { attempt }),
        };
        let delay = self.delay();
        self.plan(delay, Event::Fact(number, life, fact));
    }

    pub(super) fn thaw(&mut self, number: usize) {
        if !std::mem::take(&mut self.processes[number].frozen) {
            return;
        }
        self.note(|| format!("{number} thaws"));
        self.processes[number].awake_since = self.now;
        let life = self.processes[number].life;
        for fact in std::mem::take(&mut self.processes[number].inbox) {
            self.feed(number, fact);
        }
        self.plan(0, Event::Wake(number, life));
    }

    /// `kill -9`: its session stays until it expires.
    fn die(&mut self, number: usize, how_long: u64) {
        self.note(|| format!("{number} dies for {how_long}"));
        self.tally.deaths += 1;
        let (seed, now) = (self.random.draw(), self.now);
        let process = &mut self.processes[number];
        process.life += 1;
        process.inbox.clear();
        process.frozen = false;
        process.awake_since = now;
        process.session = None;
        process.attempt = None;
        process.machine = Process::machine(number, process.clock(now), seed);
        self.plan(how_long, Event::Restart(number));
    }

    pub(super) fn restart(&mut self, number: usize) {
        let life = self.processes[number].life;
        self.plan(0, Event::Wake(number, life));
    }
}
