//! The replicated log, searched exhaustively: three replicas, every order of every message, within small budgets.
//!
//! A message that is lost is one that stays for ever on its way: every such state is among those that are searched. Records
//! are durable at once here; what happens between a write and its flush is for the worlds of `log_world`.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use model::Millis;
use replog_core::{
    Answer, Ballot, Envelope, Epoch, Incarnation, Input, Member, Membership, Node, PlantedBug, Position,
    Record, ReplicaId, Settings, Start, State, Status, Ticket, Value, Wish,
};

const REPLICAS: usize = 3;

/// What may happen besides messages, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budget {
    pub elections: [u8; REPLICAS],
    pub appends: u8,
    pub crashes: u8,
    /// Rounds of hellos.
    pub rounds: [u8; REPLICAS],
    pub lost_disks: u8,
}

impl Budget {
    pub const NONE: Self = Self {
        elections: [0; REPLICAS],
        appends: 0,
        crashes: 0,
        rounds: [0; REPLICAS],
        lost_disks: 0,
    };

    /// Two replicas want to write.
    pub fn writers(appends: u8, crashes: u8) -> Self {
        let mut budget = Self::NONE;
        budget.elections = [1, 0, 1];
        budget.appends = appends;
        budget.crashes = crashes;
        budget
    }

    /// Empty disks.
    pub fn birth(rounds: [u8; REPLICAS], lost_disks: u8) -> Self {
        let mut budget = Self::NONE;
        budget.rounds = rounds;
        budget.lost_disks = lost_disks;
        budget
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Deliver(usize),
    Elect(usize),
    Append(usize),
    Crash(usize),
    Round(usize),
    LoseDisk(usize),
}

/// (position, ballot) → value and who accepted it, a bit for each.
type Votes = BTreeMap<(u64, Ballot), (Value, u8)>;

#[derive(Debug, Clone, Hash)]
struct Model {
    nodes: Vec<Node>,
    disks: Vec<Option<State>>,
    network: Vec<Envelope>,
    votes: Votes,
    agreed: BTreeMap<u64, Value>,
    firsts: BTreeMap<Vec<Member>, BTreeSet<Member>>,
    budget: Budget,
    tickets: u64,
    serial: u64,
    breach: Option<String>,
}

/// How a search ended.
#[derive(Debug)]
pub struct Searched {
    pub states: usize,
    /// All of them, or the first so many.
    pub complete: bool,
    pub breach: Option<String>,
}

fn replica(index: usize) -> ReplicaId {
    ReplicaId(index as u64 + 1)
}

fn member(index: usize) -> Member {
    Member {
        replica: replica(index),
        incarnation: Incarnation(index as u64 + 1),
    }
}

fn settings(index: usize) -> Settings {
    Settings {
        initial: Some((0..REPLICAS).map(replica).collect()),
        ..Settings::new(replica(index))
    }
}

fn start(index: usize, stored: Option<State>, incarnation: u64, bug: Option<PlantedBug>) -> Node {
    let start = Start {
        settings: settings(index),
        stored,
        damaged: false,
        incarnation: Incarnation(incarnation),
        seed: 1,
    };
    let node = match bug {
        Some(bug) => Node::start_with_bug(Millis(0), start, bug),
        None => Node::start(Millis(0), start),
    };
    node.unwrap_or_else(|error| panic!("replica {index}: {error}"))
}

impl Model {
    fn of(disks: Vec<Option<State>>, budget: Budget, bug: Option<PlantedBug>) -> Self {
        let nodes = disks.iter().enumerate();
        let nodes = nodes
            .map(|(i, disk)| start(i, disk.clone(), i as u64 + 1, bug))
            .collect();
        let mut model = Self {
            nodes,
            disks,
            network: Vec::new(),
            votes: Votes::new(),
            agreed: BTreeMap::new(),
            firsts: BTreeMap::new(),
            budget,
            tickets: 0,
            serial: REPLICAS as u64,
            breach: None,
        };
        for index in 0..REPLICAS {
            let tail = model.disks[index]
                .as_ref()
                .map(|d| (d.accepted.ballot, d.tail.clone()));
            if let Some((ballot, tail)) = tail {
                model.vote(index, ballot, 1, &Vec::from(tail));
            }
            model.drain(index);
        }
        model
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = (0..self.network.len()).map(Step::Deliver).collect();
        for index in 0..REPLICAS {
            if self.budget.elections[index] > 0 {
                steps.push(Step::Elect(index));
            }
            if self.budget.appends > 0 && self.nodes[index].writer().is_some() {
                steps.push(Step::Append(index));
            }
            if self.budget.crashes > 0 {
                steps.push(Step::Crash(index));
            }
            if self.budget.rounds[index] > 0 {
                steps.push(Step::Round(index));
            }
            if self.budget.lost_disks > 0 {
                steps.push(Step::LoseDisk(index));
            }
        }
        steps
    }

    fn take(&mut self, step: Step, bug: Option<PlantedBug>) {
        match step {
            Step::Deliver(at) => {
                let envelope = self.network.remove(at);
                let index = envelope.to.0 as usize - 1;
                self.feed(index, Input::Message(envelope));
            }
            Step::Elect(index) => {
                self.budget.elections[index] -= 1;
                self.tickets += 1;
                let ticket = Ticket(self.tickets);
                self.feed(index, Input::Elect { ticket, at_least: 0 });
            }
            Step::Append(index) => {
                self.budget.appends -= 1;
                self.tickets += 1;
                let bytes: Arc<[u8]> = Arc::new([index as u8, self.tickets as u8]);
                let entries = vec![(Ticket(self.tickets), bytes)];
                self.feed(index, Input::Append { entries });
            }
            Step::Crash(index) => {
                self.budget.crashes -= 1;
                self.nodes[index] = start(index, self.disks[index].clone(), 0, bug);
                self.drain(index);
            }
            Step::LoseDisk(index) => {
                self.budget.lost_disks -= 1;
                self.serial += 1;
                self.disks[index] = None;
                self.nodes[index] = start(index, None, self.serial, bug);
                self.drain(index);
            }
            Step::Round(index) => {
                self.budget.rounds[index] -= 1;
                self.tick(index);
            }
        }
        self.network.sort_by_cached_key(fingerprint);
    }

    fn tick(&mut self, index: usize) {
        if let Some(at) = self.nodes[index].deadline() {
            self.nodes[index].handle(at, Input::Tick);
            self.drain(index);
        }
    }

    fn feed(&mut self, index: usize, input: Input) {
        self.nodes[index].handle(Millis(0), input);
        self.drain(index);
    }

    fn drain(&mut self, index: usize) {
        while let Some(wish) = self.nodes[index].poll() {
            match wish {
                Wish::Persist { records, token } => {
                    for record in &records {
                        self.write(index, record);
                    }
                    while let Some(wish) = self.nodes[index].poll() {
                        self.other(wish);
                    }
                    self.feed(index, Input::Persisted { token });
                }
                wish => self.other(wish),
            }
        }
        let node = &self.nodes[index];
        for at in 1..=node.state().learned.0 {
            if let Some(value) = node.state().value(Position(at))
                && self.agreed.get(&at) != Some(value)
            {
                self.breach = Some(format!(
                    "{index} learned {value:?} at {at}: {:?}",
                    self.agreed.get(&at)
                ));
            }
        }
    }

    fn other(&mut self, wish: Wish) {
        match wish {
            // Only what can still be of use: so that the search does not drown in late answers.
            Wish::Send(envelope) if !self.network.contains(&envelope) => self.network.push(envelope),
            Wish::Answer {
                answer: Answer::Appended { position },
                ..
            } if !self.agreed.contains_key(&position.0) => {
                self.breach = Some(format!("{position} was acknowledged and is not agreed"));
            }
            _ => {}
        }
    }

    fn write(&mut self, index: usize, record: &Record) {
        let disk = self.disks[index].get_or_insert_with(State::default);
        disk.apply(record);
        let (status, member) = (disk.status, disk.member);
        if status == Status::Voting
            && let Some(membership) = disk.membership.clone().filter(|m| m.since == Position::ZERO)
        {
            let voters = self.firsts.entry(membership.members.clone()).or_default();
            voters.insert(member);
            let counting = self
                .firsts
                .iter()
                .filter(|(m, by)| by.len() > m.len() / 2)
                .count();
            if counting > 1 {
                self.breach = Some(format!("two first memberships: {:?}", self.firsts));
            }
        }
        if let Record::Accepted {
            epoch, first, values, ..
        } = record
        {
            self.vote(index, epoch.ballot, first.0, values);
        }
    }

    fn vote(&mut self, index: usize, ballot: Ballot, first: u64, values: &[Value]) {
        for (at, value) in (first..).zip(values) {
            let vote = self.votes.entry((at, ballot)).or_insert((value.clone(), 0));
            if vote.0 != *value {
                self.breach = Some(format!(
                    "two values at {at} and {ballot}: {:?}, {value:?}",
                    vote.0
                ));
            }
            vote.1 |= 1 << index;
            if vote.1.count_ones() as usize > REPLICAS / 2 {
                let agreed = self.agreed.entry(at).or_insert_with(|| value.clone());
                if agreed != value {
                    self.breach = Some(format!("{agreed:?} was agreed at {at}, now {value:?}"));
                }
            }
        }
    }

    /// With fair delivery and no more faults: does every replica come to vote?
    fn all_vote_in_the_end(mut self) -> bool {
        for _ in 0..40 {
            for index in 0..REPLICAS {
                self.tick(index);
            }
            while let Some(envelope) = (!self.network.is_empty()).then(|| self.network.remove(0)) {
                let index = envelope.to.0 as usize - 1;
                let at = self.nodes[index].deadline().unwrap_or(Millis(0));
                let at = Millis(at.0.saturating_sub(1));
                self.nodes[index].handle(at, Input::Message(envelope));
                self.drain(index);
            }
            if self.nodes.iter().all(|n| n.state().status == Status::Voting) {
                return true;
            }
        }
        false
    }
}

fn fingerprint(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn search(first: Model, states_max: usize, bug: Option<PlantedBug>, liveness: bool) -> Searched {
    let mut seen = HashSet::from([fingerprint(&first)]);
    let mut open = VecDeque::from([first]);
    while let Some(model) = open.pop_front() {
        if liveness && seen.len() % 16 == 0 && !model.clone().all_vote_in_the_end() {
            let breach = format!(
                "stuck: {:?}",
                model.nodes.iter().map(|n| n.state().status).collect::<Vec<_>>()
            );
            return Searched {
                states: seen.len(),
                complete: false,
                breach: Some(breach),
            };
        }
        for step in model.steps() {
            let mut next = model.clone();
            next.take(step, bug);
            if let Some(breach) = next.breach {
                return Searched {
                    states: seen.len(),
                    complete: false,
                    breach: Some(breach),
                };
            }
            if seen.len() >= states_max {
                return Searched {
                    states: seen.len(),
                    complete: false,
                    breach: None,
                };
            }
            if seen.insert(fingerprint(&next)) {
                open.push_back(next);
            }
        }
    }
    Searched {
        states: seen.len(),
        complete: true,
        breach: None,
    }
}

/// Voting replicas; `accepted`: term, proposer and text of what one of them has accepted at position 1.
fn voting(accepted: [Option<(u64, usize, u8)>; REPLICAS], promised: [u64; REPLICAS]) -> Vec<Option<State>> {
    let membership = Arc::new(Membership {
        log: replog_core::LogId::default(),
        since: Position::ZERO,
        ballot: Ballot::default(),
        members: (0..REPLICAS).map(member).collect(),
    });
    let disk = |index: usize| {
        let mut state = State {
            member: member(index),
            status: Status::Voting,
            membership: Some(Arc::clone(&membership)),
            ..State::default()
        };
        if let Some((term, by, text)) = accepted[index] {
            let ballot = Ballot {
                term,
                replica: replica(by),
            };
            state.promised = ballot;
            state.accepted = Epoch {
                since: Position::ZERO,
                ballot,
            };
            state.tail = VecDeque::from([Value::Append(Arc::new([text]))]);
        }
        if promised[index] > state.promised.term {
            state.promised.term = promised[index];
            state.promised.replica = replica(1);
        }
        Some(state)
    };
    (0..REPLICAS).map(disk).collect()
}

/// One position, and what two coordinators make of it: nobody has accepted anything, or two replicas have accepted
/// different values.
pub fn one_position(
    inconsistent: bool,
    budget: Budget,
    states_max: usize,
    bug: Option<PlantedBug>,
) -> Searched {
    let disks = if inconsistent {
        voting([Some((1, 0, b'x')), Some((2, 1, b'y')), None], [1, 2, 2])
    } else {
        voting([None; REPLICAS], [0; REPLICAS])
    };
    search(Model::of(disks, budget, bug), states_max, bug, false)
}

/// From empty disks to a log.
pub fn initialisation(budget: Budget, states_max: usize, bug: Option<PlantedBug>) -> Searched {
    let disks = vec![None; REPLICAS];
    search(Model::of(disks, budget, bug), states_max, bug, bug.is_none())
}
