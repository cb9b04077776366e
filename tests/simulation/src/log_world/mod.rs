//! The replicated log in a world that loses, delays and repeats messages, crashes between any two records, loses disks,
//! jumps clocks and changes the members; then a time without faults, in which all has to come right.
//!
//! One seed is one world. After every step the invariants of [`books`] are checked against what an all-knowing observer
//! has written down.

pub mod books;
mod clients;
pub mod disk;
pub mod faults;
mod sites;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use model::Millis;
use replog_core::{
    Bounds, Envelope, Input, Member, Message, PlantedBug, Position, ReplicaId, Settings, Status, Timing,
    Token, Value, Wish,
};

use crate::random::Random;
use books::{Books, Check, breach};
use clients::Clients;
use faults::Faults;
use sites::Site;

/// A broken invariant, when, and in which world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub seed: u64,
    pub at_ms: u64,
    pub invariant: &'static str,
    pub message: String,
}

/// What came of a world that went well: to see that worlds are not idle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub steps: u64,
    pub agreed: u64,
    pub memberships: u64,
    pub crashes: u64,
    pub disks_lost: u64,
    pub elections: u64,
    pub truncated: u64,
}

#[derive(Debug, Clone)]
enum Event {
    Deliver(Envelope),
    /// Of this life of a site's process.
    Flushed(u64, u64, Token),
    FlushFailed(u64, u64),
    Input(u64, u64, Input),
    Restart(u64),
}

pub struct World {
    random: Random,
    faults: Faults,
    now: u64,
    order: u64,
    coming: BTreeMap<(u64, u64), Event>,
    sites: BTreeMap<u64, Site>,
    books: Books,
    clients: Clients,
    initial: BTreeSet<ReplicaId>,
    template: Settings,
    /// Ways that are cut: from, to.
    cut: BTreeSet<(u64, u64)>,
    bug: Option<PlantedBug>,
    serials: u64,
    tally: Tally,
    log: Option<String>,
}

/// How long a world without faults may take until it serves and all are well.
const LIVENESS_MS: u64 = 60_000;
const STEPS_MAX: u64 = 400_000;

/// # Errors
/// The first violated invariant.
pub fn run(seed: u64, log: bool, bug: Option<PlantedBug>) -> (Result<Tally, Violation>, Option<String>) {
    let mut world = World::new(seed, log, bug);
    let result = world.live();
    let result = result.map(|()| world.tally).map_err(|breach| Violation {
        seed,
        at_ms: world.now,
        invariant: breach.invariant,
        message: breach.message,
    });
    (result, world.log)
}

impl World {
    fn new(seed: u64, log: bool, bug: Option<PlantedBug>) -> Self {
        let mut random = Random::new(seed);
        let faults = Faults::draw(&mut random);
        let sizes = [3, 3, 3, 3, 5, 5, 1, 2, 4];
        let size = sizes[random.below(sizes.len() as u64) as usize];
        let size = if faults.members { size.max(3) } else { size };
        let initial: BTreeSet<ReplicaId> = (1..=size).map(ReplicaId).collect();
        let template = draw_settings(&mut random, &initial);
        Self {
            random,
            faults,
            now: 0,
            order: 0,
            coming: BTreeMap::new(),
            sites: BTreeMap::new(),
            books: Books::default(),
            clients: Clients::default(),
            initial,
            template,
            cut: BTreeSet::new(),
            bug,
            serials: 0,
            tally: Tally::default(),
            log: log.then(String::new),
        }
    }

    fn live(&mut self) -> Check {
        for replica in self.initial.clone() {
            self.add_site(replica.0)?;
        }
        // Half of the worlds begin with a log that serves, the others are born under fire.
        if self.random.one_in(2) {
            let faults = std::mem::replace(&mut self.faults, Faults::none());
            self.initialise_by_hand()?;
            self.pass_time(self.now + 3_000)?;
            self.faults = faults;
        } else if self.random.one_in(2) {
            // A disk is lost while the first members are agreed.
            self.initialise_by_hand()?;
            let moment = self.random.below(600);
            self.pass_time(moment)?;
            let id = 1 + self.random.below(self.initial.len() as u64);
            self.lose_disk(id, true)?;
        }
        let phases = 1 + self.random.below(2);
        for _ in 0..phases {
            let faults = self.faults.clone();
            let actions = if faults.members {
                60 + self.random.below(60)
            } else {
                15 + self.random.below(40)
            };
            for _ in 0..actions {
                let pause = [20, 200, 1_500][self.random.below(3) as usize];
                let until = self.now + self.random.below(pause);
                self.pass_time(until)?;
                self.act()?;
            }
            self.heal()?;
            self.live_on()?;
            self.faults = faults;
        }
        self.tally.agreed = self.books.agreed_to();
        Ok(())
    }

    // ---- time

    fn pass_time(&mut self, until: u64) -> Check {
        loop {
            let arrival = self.coming.keys().next().map(|(at, _)| *at);
            let alarm = self
                .sites
                .values()
                .filter_map(|site| site.alarm().map(|at| (at, site.id)))
                .min();
            let next = match (arrival, alarm) {
                (None, None) => break,
                (a, d) => a.unwrap_or(u64::MAX).min(d.map_or(u64::MAX, |(at, _)| at)),
            };
            if next > until {
                break;
            }
            self.now = self.now.max(next);
            self.tally.steps += 1;
            if self.tally.steps > STEPS_MAX {
                return breach("a world comes to an end", format!("{STEPS_MAX} steps"));
            }
            match arrival {
                Some(at) if at <= next => {
                    if let Some((_, event)) = self.coming.pop_first() {
                        self.arrive(event)?;
                    }
                }
                _ => {
                    if let Some((_, id)) = alarm {
                        self.feed(id, Input::Tick)?;
                    }
                }
            }
        }
        self.now = self.now.max(until);
        Ok(())
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(log) = &mut self.log {
            let _ = writeln!(log, "{now:>7} {}", text());
        }
    }

    fn later(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.coming.insert((at, self.order), event);
    }

    fn arrive(&mut self, event: Event) -> Check {
        match event {
            Event::Deliver(envelope) => self.deliver(envelope),
            Event::Flushed(id, life, token) => {
                if self.site(id).is_none_or(|s| s.life != life) {
                    return Ok(());
                }
                self.flush(id, token)?;
                self.feed(id, Input::Persisted { token })
            }
            Event::FlushFailed(id, life) => {
                if self.site(id).is_none_or(|s| s.life != life) {
                    return Ok(());
                }
                let reason = "no space left on device".to_string();
                if self.bug == Some(PlantedBug::IgnorePersistFailure) {
                    // The shell said so, and the replica went on: it takes the batch for durable.
                    self.forget_pending(id);
                    return self.feed(
                        id,
                        Input::Persisted {
                            token: Token(u64::MAX),
                        },
                    );
                }
                self.feed(id, Input::PersistFailed { reason })
            }
            Event::Input(id, life, input) => {
                if self.site(id).is_some_and(|s| s.life == life) {
                    return self.feed(id, input);
                }
                Ok(())
            }
            Event::Restart(id) => self.start(id),
        }
    }

    fn site(&self, id: u64) -> Option<&Site> {
        self.sites.get(&id)
    }

    fn deliver(&mut self, envelope: Envelope) -> Check {
        let id = envelope.to.0;
        if self.cut.contains(&(envelope.from.replica.0, id)) {
            return Ok(());
        }
        let Some(node) = self.sites.get(&id).and_then(|s| s.node.as_ref()) else {
            return Ok(());
        };
        // To this disk, or to whichever is there?
        let meant = envelope
            .incarnation
            .is_none_or(|i| i == node.member().incarnation);
        let outbid = match envelope.message {
            Message::Rejected { ballot, promised }
                if meant && promised > ballot && node.coordinating() == Some(ballot) =>
            {
                Some(ballot)
            }
            _ => None,
        };
        let twin = envelope.from.replica.0 == id;
        self.feed(id, Input::Message(envelope))?;
        let still = self.sites.get(&id).and_then(|s| s.node.as_ref()?.coordinating());
        if outbid.is_some() && still == outbid && !twin {
            return breach(
                "a coordinator that is outbid ends at that message",
                format!("{id} goes on with {outbid:?}"),
            );
        }
        Ok(())
    }

    // ---- one step of one replica

    fn feed(&mut self, id: u64, input: Input) -> Check {
        let now = self.now;
        let Some(site) = self.sites.get_mut(&id) else {
            return Ok(());
        };
        let Some(mut node) = site.node.take() else {
            return Ok(());
        };
        let (member, learned) = (node.member(), node.state().learned.0);
        let coordinating = node.coordinating();
        let local = Millis(now + site.clock_ahead);
        if let Some(log) = &mut self.log {
            let _ = writeln!(log, "{now:>7} {id} → {input:?}");
        }
        node.handle(local, input);
        let mut wishes = Vec::new();
        while let Some(wish) = node.poll() {
            wishes.push(wish);
        }
        let begins = node.coordinating().filter(|b| Some(*b) != coordinating);
        let bound = held_max(&self.template.bounds);
        let held = node.held();
        let checked = self.books.node(&node, learned);
        let restart = node.is_halted();
        let learned_now = node.state().learned;
        site.node = (!restart).then_some(node);
        checked?;
        if let Some(ballot) = begins {
            self.tally.elections += 1;
            if self.sites.get_mut(&id).is_some_and(|s| !s.begun.insert(ballot)) {
                return breach(books::BALLOT_ONCE, format!("{id} begins {ballot} again"));
            }
        }
        if held > bound {
            return breach("memory is bounded", format!("{id} holds {held} of {bound}"));
        }
        for wish in wishes {
            if let Some(log) = &mut self.log {
                let _ = writeln!(log, "          {id} ← {wish:?}");
            }
            self.grant(id, member, learned_now, wish)?;
        }
        if restart {
            self.crashed(id)?;
            let pause = 100 + self.random.below(3_000);
            self.later(self.now + pause, Event::Restart(id));
        }
        Ok(())
    }

    fn grant(&mut self, id: u64, member: Member, learned: Position, wish: Wish) -> Check {
        let life = self.sites.get(&id).map_or(0, |s| s.life);
        match wish {
            Wish::Persist { records, token } => self.persist(id, life, records, token),
            Wish::Send(envelope) => {
                let Some(site) = self.sites.get(&id) else {
                    return Ok(());
                };
                self.books
                    .leaving(envelope.from, &envelope.message, &site.disk.durable)?;
                self.post(envelope);
                Ok(())
            }
            Wish::Answer { ticket, answer } => self.answered(id, learned, ticket, answer),
            Wish::Load { to, first, last } => {
                let Some(site) = self.sites.get(&id) else {
                    return Ok(());
                };
                let values: Vec<Value> = (first.0..=last.0)
                    .map_while(|at| site.disk.written.entries.get(&at).cloned())
                    .collect();
                let at = self.now + self.random.below(3);
                self.later(at, Event::Input(id, life, Input::Loaded { to, first, values }));
                Ok(())
            }
            Wish::Discard { .. } | Wish::Notice(_) => Ok(()),
            Wish::Halt(replog_core::Halt::Disk { .. }) => Ok(()),
            // Started with the first members named, and they changed since: the next start names none.
            Wish::Halt(replog_core::Halt::MembersContradict { .. })
                if self.books.members_ever_differed(&self.initial) =>
            {
                Ok(())
            }
            Wish::Halt(halt) => breach(
                "a replica with its own disk and the log's members goes on",
                format!("{member:?}: {halt}"),
            ),
        }
    }

    /// Into the network, which may lose, repeat and delay.
    fn post(&mut self, envelope: Envelope) {
        if self.random.one_in(self.faults.loss) {
            return;
        }
        let copies = 1 + u64::from(self.random.one_in(self.faults.duplicate));
        for _ in 0..copies {
            let spread = self.faults.delay_max.saturating_sub(self.faults.delay_min) + 1;
            let mut delay = self.faults.delay_min + self.random.below(spread);
            if self.random.one_in(self.faults.straggle) {
                delay += self.random.below(self.faults.straggle_max);
            }
            self.later(self.now + delay, Event::Deliver(envelope.clone()));
        }
    }

    // ---- the time without faults

    fn heal(&mut self) -> Check {
        self.faults = Faults::none();
        self.cut.clear();
        let down: Vec<u64> = self
            .sites
            .values()
            .filter(|s| s.node.is_none())
            .map(|s| s.id)
            .collect();
        for id in down {
            self.later(self.now + 1, Event::Restart(id));
        }
        self.pass_time(self.now + 10)?;
        self.initialise_by_hand()
    }

    fn initialise_by_hand(&mut self) -> Check {
        if self.template.auto_initialize {
            return Ok(());
        }
        for replica in self.initial.clone() {
            self.feed(replica.0, Input::Initialize)?;
        }
        Ok(())
    }

    /// A value is agreed, every member votes and knows all, nobody waits for an answer.
    fn live_on(&mut self) -> Check {
        let until = self.now + LIVENESS_MS;
        let goal = self.books.acknowledged + 1;
        self.clients.persist_until_acknowledged(goal);
        while self.now < until {
            let pause = 200 + self.random.below(300);
            self.pass_time(self.now + pause)?;
            if self.books.acknowledged < goal {
                self.try_to_write()?;
            } else if self.all_well().is_ok() {
                return Ok(());
            } else if !self.writing() {
                // What is agreed and known to nobody needs a writer to be known.
                self.try_to_write()?;
            }
        }
        if self.books.acknowledged < goal {
            return breach(
                "without faults a value is soon agreed",
                format!("not after {LIVENESS_MS} ms: {}", self.describe()),
            );
        }
        self.all_well()
    }

    fn all_well(&self) -> Check {
        const NAME: &str = "without faults every member soon votes and knows the log";
        let Some(membership) = self.books.membership() else {
            return breach(NAME, "no membership");
        };
        for member in &membership.members {
            let node = self.sites.get(&member.replica.0).and_then(|s| s.node.as_ref());
            let well = node.is_some_and(|node| {
                node.member() == *member
                    && node.state().status == Status::Voting
                    && node.state().learned.0 == self.books.agreed_to()
            });
            if !well {
                return breach(NAME, format!("{member:?}: {}", self.describe()));
            }
        }
        self.clients.all_answered(&self.sites)
    }

    fn describe(&self) -> String {
        let mut text = format!(
            "agreed {}, {:?};",
            self.books.agreed_to(),
            self.books.membership()
        );
        for site in self.sites.values() {
            let _ = match &site.node {
                Some(node) => write!(
                    text,
                    " [{} {:?} learned {} end {} promised {} coordinating {:?}]",
                    site.id,
                    node.state().status,
                    node.state().learned,
                    node.state().end(),
                    node.state().promised,
                    node.coordinating(),
                ),
                None => write!(text, " [{} down]", site.id),
            };
        }
        text
    }
}

fn draw_settings(random: &mut Random, initial: &BTreeSet<ReplicaId>) -> Settings {
    let mut rate = |rates: &[u64]| rates[random.below(rates.len() as u64) as usize];
    let timing = Timing {
        heartbeat: Millis(rate(&[100, 200, 500])),
        silence: Millis(rate(&[600, 2_000])),
        election: Millis(rate(&[2_000, 10_000])),
        fetch: Millis(rate(&[300, 2_000])),
        patience: Millis(rate(&[5_000, 20_000])),
        barrier: Millis(rate(&[500, 2_000])),
        ..Timing::default()
    };
    let bounds = Bounds {
        window: rate(&[1, 4, 32]) as usize,
        tail: rate(&[33, 64]) as usize + 1,
        queue: rate(&[4, 64]) as usize,
        batch: rate(&[1, 3, 64]) as usize,
        recent: rate(&[0, 2, 64]) as usize,
        batch_bytes: rate(&[60, 1_000]) as usize,
        recent_bytes: rate(&[150, 10_000]) as usize,
        tail_bytes: rate(&[8_000, 100_000]) as usize,
        waiting: rate(&[20, 500]) as usize,
        lag: rate(&[0, 2, 16]) as usize,
        ..Bounds::default()
    };
    Settings {
        initial: Some(initial.clone()),
        auto_initialize: !random.one_in(4),
        timing,
        bounds,
        ..Settings::new(ReplicaId(0))
    }
}

/// More than a replica may ever hold with these bounds.
fn held_max(bounds: &Bounds) -> usize {
    const PEERS_AND_WAITERS: usize = 256;
    // A message that is received may be answered by several.
    bounds.tail
        + bounds.recent
        + bounds.queue
        + bounds.window
        + 2 * bounds.waiting
        + PEERS_AND_WAITERS
        + 1_024
}

/// How many worlds, from this seed on, until a planted bug is caught, and by what.
pub fn hunt(bug: PlantedBug, from: u64, seeds: u64) -> Option<(u64, Violation)> {
    (from..from + seeds).find_map(|seed| {
        let (result, _) = run(seed, false, Some(bug));
        result.err().map(|violation| (seed - from + 1, violation))
    })
}
