//! A handful of replicas in one process. Nothing happens by itself: a test says who hears what, and when time passes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use model::Millis;
use replog_core::{
    Answer, Envelope, Halt, Incarnation, Input, Node, Notice, Record, ReplicaId, Settings, Start, StartError,
    State, Status, Ticket, Value, Wish,
};

pub struct Machine {
    pub node: Option<Node>,
    /// All that was ever flushed.
    pub disk: Option<State>,
}

#[derive(Default)]
pub struct Cluster {
    pub machines: BTreeMap<u64, Machine>,
    pub now: u64,
    pub network: VecDeque<Envelope>,
    /// Messages between these do not arrive.
    pub cut: BTreeSet<(u64, u64)>,
    pub answers: BTreeMap<u64, Answer>,
    pub notices: Vec<(u64, Notice)>,
    pub halts: BTreeMap<u64, Halt>,
    /// Agreed values as each replica's store has them.
    pub stores: BTreeMap<u64, BTreeMap<u64, Value>>,
    tickets: u64,
    incarnations: u64,
}

impl Cluster {
    /// Initialised and voting.
    pub fn of(count: u64) -> Self {
        let mut cluster = Self::default();
        for id in 1..=count {
            cluster.start(id, cluster.settings(id, Some(1..=count)));
        }
        cluster.pass(5_000);
        for id in 1..=count {
            assert_eq!(cluster.state(id).status, Status::Voting, "replica {id}");
        }
        cluster
    }

    pub fn settings(&self, id: u64, initial: Option<impl Iterator<Item = u64>>) -> Settings {
        Settings {
            initial: initial.map(|ids| ids.map(ReplicaId).collect()),
            contacts: self.machines.keys().copied().chain([id]).map(ReplicaId).collect(),
            ..Settings::new(ReplicaId(id))
        }
    }

    pub fn try_start(&mut self, id: u64, settings: Settings, damaged: bool) -> Result<(), StartError> {
        self.incarnations += 1;
        let machine = self.machines.entry(id).or_insert(Machine {
            node: None,
            disk: None,
        });
        let start = Start {
            settings,
            stored: machine.disk.clone(),
            damaged,
            incarnation: Incarnation(self.incarnations * 1_000 + id),
            seed: id,
        };
        machine.node = Some(Node::start(Millis(self.now), start)?);
        self.drain(id);
        Ok(())
    }

    pub fn start(&mut self, id: u64, settings: Settings) {
        self.try_start(id, settings, false).expect("a replica starts");
    }

    pub fn restart(&mut self, id: u64) {
        self.start(id, self.settings(id, None::<std::ops::Range<u64>>));
    }

    pub fn stop(&mut self, id: u64) {
        self.machines.get_mut(&id).expect("a machine").node = None;
    }

    pub fn wipe(&mut self, id: u64) {
        self.stop(id);
        self.machines.get_mut(&id).expect("a machine").disk = None;
        self.stores.remove(&id);
    }

    pub fn node(&self, id: u64) -> &Node {
        self.machines[&id].node.as_ref().expect("a running replica")
    }

    pub fn state(&self, id: u64) -> &State {
        self.node(id).state()
    }

    pub fn feed(&mut self, id: u64, input: Input) {
        if let Some(node) = self.machines.get_mut(&id).and_then(|m| m.node.as_mut()) {
            node.handle(Millis(self.now), input);
            self.drain(id);
        }
    }

    fn drain(&mut self, id: u64) {
        loop {
            let machine = self.machines.get_mut(&id).expect("a machine");
            let Some(wish) = machine.node.as_mut().and_then(Node::poll) else {
                return;
            };
            match wish {
                Wish::Persist { records, token } => {
                    self.write(id, &records);
                    self.feed(id, Input::Persisted { token });
                }
                Wish::Send(envelope) => self.network.push_back(envelope),
                Wish::Answer { ticket, answer } => {
                    let before = self.answers.insert(ticket.0, answer);
                    assert_eq!(before, None, "one answer a ticket");
                }
                Wish::Load { to, first, last } => {
                    let store = self.stores.entry(id).or_default();
                    let values = (first.0..=last.0)
                        .map_while(|at| store.get(&at).cloned())
                        .collect();
                    self.feed(id, Input::Loaded { to, first, values });
                }
                Wish::Notice(notice) => self.notices.push((id, notice)),
                Wish::Halt(halt) => {
                    self.halts.insert(id, halt);
                }
                Wish::Discard { .. } => {}
            }
        }
    }

    fn write(&mut self, id: u64, records: &[Record]) {
        let machine = self.machines.get_mut(&id).expect("a machine");
        let disk = machine.disk.get_or_insert_with(State::default);
        let store = self.stores.entry(id).or_default();
        for record in records {
            disk.apply(record);
            let (Record::Accepted { first, values, .. } | Record::Learned { first, values }) = record else {
                continue;
            };
            store.extend((first.0..).zip(values.iter().cloned()));
        }
    }

    fn deliver(&mut self, envelope: Envelope) {
        if !self.cut.contains(&(envelope.from.replica.0, envelope.to.0)) {
            let id = envelope.to.0;
            self.feed(id, Input::Message(envelope));
        }
    }

    /// Everything under way arrives, and what comes of it.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            let Some(envelope) = self.network.pop_front() else {
                return;
            };
            self.deliver(envelope);
        }
        panic!("messages without end");
    }

    pub fn pass(&mut self, ms: u64) {
        let until = self.now + ms;
        while self.now < until {
            self.now += 10;
            let due: Vec<u64> = self
                .machines
                .iter()
                .filter(|(_, m)| {
                    let deadline = m.node.as_ref().and_then(Node::deadline);
                    deadline.is_some_and(|at| at.0 <= self.now)
                })
                .map(|(id, _)| *id)
                .collect();
            for id in due {
                self.feed(id, Input::Tick);
            }
            self.settle();
        }
    }

    pub fn isolate(&mut self, id: u64) {
        for other in self.machines.keys().copied() {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
    }

    // ---- asking

    pub fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    pub fn ask(&mut self, id: u64, input: impl FnOnce(Ticket) -> Input) -> Ticket {
        let ticket = self.ticket();
        self.feed(id, input(ticket));
        ticket
    }

    pub fn answer(&self, ticket: Ticket) -> Option<&Answer> {
        self.answers.get(&ticket.0)
    }

    pub fn elect(&mut self, id: u64) -> Answer {
        let ticket = self.ask(id, |ticket| Input::Elect { ticket, at_least: 0 });
        self.settle();
        self.pass(500);
        self.answer(ticket).cloned().expect("an answer")
    }

    /// As a client that does not give up.
    pub fn elect_in_the_end(&mut self, id: u64) {
        let elected = (0..10).any(|_| matches!(self.elect(id), Answer::Elected { .. }));
        assert!(elected, "replica {id}");
    }

    pub fn append(&mut self, id: u64, text: &str) -> Ticket {
        let bytes: Arc<[u8]> = text.as_bytes().into();
        self.ask(id, |ticket| Input::Append {
            entries: vec![(ticket, bytes)],
        })
    }

    /// The appended texts that a replica knows to be agreed, in order.
    pub fn texts(&self, id: u64) -> Vec<String> {
        let learned = self.state(id).learned.0;
        let store = &self.stores[&id];
        (1..=learned)
            .filter_map(|at| match store.get(&at) {
                Some(Value::Append(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
                _ => None,
            })
            .collect()
    }
}
