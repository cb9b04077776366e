//! One replica at work: the core, its disk and its peers on an event loop.
//!
//! Records that are wished while a flush is on its way wait for the next one, which makes all of them durable at once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::Millis;
use replog_core::{
    Answer, Ballot, Change, Halt, Incarnation, Input, Membership, Node, NotElected, Notice, Position, Record,
    ReplicaId, Settings, Start, Status, Ticket, Token, Wish,
};

use crate::answering::Answering;
use crate::asking::{Tickets, error_of};
use crate::directory::DiskDirectory;
use crate::error::{LogError, OpenError};
use crate::identity::Identities;
use crate::ledger::Ledger;
use crate::peers::Peers;
use crate::reading::{Mending, ReadAhead};
use crate::roll::SpareMaker;
use crate::salvage;
use crate::scrub::{self, Scrubbing};
use crate::store::Options;
use crate::writing::{self, Pace};

/// For an append or truncation, when nothing else is said.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

#[derive(Clone, Debug)]
pub struct Config {
    pub settings: Settings,
    /// Where the other replicas listen.
    pub peers: BTreeMap<ReplicaId, String>,
    /// Where the segments are.
    pub directory: PathBuf,
    pub segment_bytes: u64,
}

/// How a replica is.
#[derive(Debug, Clone)]
pub struct ReplicaStatus {
    pub id: ReplicaId,
    pub status: Status,
    pub begin: Position,
    pub learned: Position,
    pub end: Position,
    pub promised: Ballot,
    /// The ballot of the writer on this replica.
    pub writer: Option<Ballot>,
    pub membership: Option<Arc<Membership>>,
    pub halted: Option<String>,
    /// What it waits for, when it writes nothing although it wants to.
    pub stalled: Option<String>,
}

pub(crate) type Shared = Arc<Mutex<Ledger<DiskDirectory>>>;

pub(crate) struct Inner {
    pub(crate) node: RefCell<Node>,
    epoch: Instant,
    pub(crate) ledger: Shared,
    /// One thread: records are written in their order.
    pub(crate) writer: net::Pool,
    /// Reads and preparations that nobody's promise waits for.
    pub(crate) helper: net::Pool,
    pub(crate) unwritten: RefCell<(Vec<Record>, Token)>,
    pub(crate) writing: Cell<bool>,
    pub(crate) pace: Pace,
    /// With whoever uses it, while a step is made.
    pub(crate) spare_maker: RefCell<Option<SpareMaker<DiskDirectory>>>,
    pub(crate) may_block: Cell<bool>,
    pub(crate) tickets: Tickets,
    pub(crate) appends: RefCell<Vec<(Ticket, Arc<[u8]>)>>,
    pub(crate) peers: Peers,
    pub(crate) identities: Rc<Identities>,
    tls: Option<net::Tls>,
    pub(crate) answering: Answering,
    pub(crate) mending: Mending,
    pub(crate) scrubbing: Scrubbing,
    pub(crate) ahead: ReadAhead,
    pub(crate) answer_limit: Cell<Duration>,
    pub(crate) halted: RefCell<Option<String>>,
    pub(crate) stalled: RefCell<Option<String>>,
    stopped: net::Notify,
    /// The deadline may have changed.
    changed: net::Notify,
}

/// A handle; clones are the same replica. The replica ends with [`Replica::stop`] or the loop.
#[derive(Clone)]
pub struct Replica(pub(crate) Rc<Inner>);

impl Replica {
    /// Reads the disk and begins. Blocks on the disk; has to be called on an event loop.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        Self::open_secured(config, None)
    }

    /// [`Replica::open`]; with `tls` all links, its own and those to it, are behind a mutual handshake.
    pub fn open_secured(config: Config, tls: Option<net::Tls>) -> Result<Self, OpenError> {
        let wrong = |source| OpenError::Directory {
            path: config.directory.clone(),
            source,
        };
        let directory = DiskDirectory::open(&config.directory).map_err(wrong)?;
        let random = |what: &str| {
            net::random().map_err(|error| OpenError::Worker(format!("no random number for {what}: {error}")))
        };
        let options = Options {
            segment_bytes: config.segment_bytes,
            new_id: random("the identity of the disk")?,
        };
        let (ledger, found) = Ledger::open(directory, options)?;
        if found.details.torn {
            tracing::info!("log: a write that was not finished when this replica stopped was cut off");
        }
        // Anew it would ask the others for ever.
        if found
            .state
            .as_ref()
            .is_some_and(|state| salvage::is_reborn(state) || found.damaged && salvage::is_alone(state))
        {
            let path = config.directory.clone();
            return Err(OpenError::Alone { path });
        }
        let mut settings = config.settings.clone();
        settings.bounds.fit(ledger.store().batch_bytes_max());
        let start = Start {
            settings,
            stored: found.state.clone(),
            damaged: found.damaged,
            incarnation: Incarnation(random("an incarnation")? as u64),
            seed: random("pauses")? as u64,
        };
        let epoch = net::now();
        let mut node = Node::start(Millis(0), start)?;
        let mut wishes: Vec<Wish> = std::iter::from_fn(|| node.poll()).collect();
        let ledger = if found.damaged {
            tracing::error!(damage = ?found.details.damage, "log: the disk is damaged; this replica joins anew and learns from the others");
            let records: Vec<Record> = wishes.iter().flat_map(records_of).cloned().collect();
            let (ledger, _) = ledger.repair(&found.details, &records)?;
            // Durable with the repair.
            let tokens: Vec<Token> = wishes.iter().filter_map(token_of).collect();
            wishes.retain(|wish| token_of(wish).is_none());
            for token in tokens {
                node.handle(Millis(0), Input::Persisted { token });
                wishes.extend(std::iter::from_fn(|| node.poll()));
            }
            ledger
        } else {
            ledger
        };
        let pool =
            |threads| net::Pool::new(threads, 1024).map_err(|error| OpenError::Worker(error.to_string()));
        let spare_maker = ledger.store().spare_maker();
        let identities = Rc::new(Identities::new(&config.peers));
        let inner = Rc::new(Inner {
            node: RefCell::new(node),
            epoch,
            ledger: Arc::new(Mutex::new(ledger)),
            writer: pool(1)?,
            helper: pool(1)?,
            unwritten: RefCell::default(),
            writing: Cell::new(false),
            pace: Pace::default(),
            spare_maker: RefCell::new(Some(spare_maker)),
            may_block: Cell::new(false),
            tickets: Tickets::default(),
            appends: RefCell::default(),
            peers: Peers::new(
                config.settings.replica,
                &config.peers,
                tls.as_ref().map(|tls| (tls, &identities)),
            ),
            identities,
            tls,
            answering: Answering::new(&config.peers),
            mending: Mending::default(),
            scrubbing: Scrubbing::default(),
            ahead: ReadAhead::default(),
            answer_limit: Cell::new(ANSWER_LIMIT),
            halted: RefCell::new(None),
            stalled: RefCell::new(None),
            stopped: net::Notify::new(),
            changed: net::Notify::new(),
        });
        let replica = Self(inner);
        replica.fulfil(wishes);
        net::spawn(keep_time(Rc::downgrade(&replica.0))).detach();
        net::spawn(scrub::scrub(Rc::downgrade(&replica.0))).detach();
        Ok(replica)
    }

    pub fn status(&self) -> ReplicaStatus {
        let node = self.0.node.borrow();
        let state = node.state();
        ReplicaStatus {
            id: state.member.replica,
            status: state.status,
            begin: state.begin,
            learned: state.learned,
            end: state.end(),
            promised: state.promised,
            writer: node.writer(),
            membership: state.membership.clone(),
            halted: self.0.halted.borrow().clone(),
            stalled: self.0.stalled.borrow().clone(),
        }
    }

    /// Becomes the writer; every earlier one is shut out. `at_least` is a term from outside, 0 when there is none.
    pub async fn elect(&self, at_least: u64) -> Result<(Position, Ballot), LogError> {
        match self.ask(|ticket| Input::Elect { ticket, at_least }).await? {
            Answer::Elected { position, ballot } => Ok((position, ballot)),
            Answer::NotElected(NotElected::NoQuorum) => {
                let limit = self.0.node.borrow().settings().timing.election;
                Err(self.no_quorum("not elected", Duration::from_millis(limit.0)))
            }
            answer => Err(error_of(answer)),
        }
    }

    /// The loop serves nothing else, so it may wait for a disk that is quick: whatever arrives meanwhile would wait for that
    /// as well. Not for programs that have more to do than this log.
    pub fn may_block_the_loop(&self) {
        self.0.may_block.set(true);
    }

    /// How long to rest after each piece of what is on the disk that is read only to see whether it can be.
    pub fn pace_scrubbing(&self, pause: Duration) {
        self.0.scrubbing.pace(pause);
    }

    /// How often all of it was read since the start.
    pub fn scrubs(&self) -> u64 {
        self.0.scrubbing.rounds()
    }

    /// How long an append or a truncation waits for a quorum.
    pub fn limit_answers(&self, limit: Duration) {
        self.0.answer_limit.set(limit);
    }

    /// The end of the log, if this is still the writer.
    pub async fn confirm(&self) -> Result<Position, LogError> {
        match self.ask(|ticket| Input::Confirm { ticket }).await? {
            Answer::Confirmed { end } => Ok(end),
            answer => Err(error_of(answer)),
        }
    }

    /// Learns what a quorum knows to be agreed.
    pub async fn catch_up(&self) -> Result<Position, LogError> {
        match self.ask(|ticket| Input::CatchUp { ticket }).await? {
            Answer::CaughtUp { end } => Ok(end),
            answer => Err(error_of(answer)),
        }
    }

    pub async fn change(&self, change: Change) -> Result<Arc<Membership>, LogError> {
        match self.ask(|ticket| Input::Change { ticket, change }).await? {
            Answer::Changed(membership) => Ok(membership),
            answer => Err(error_of(answer)),
        }
    }

    /// Permission to initialise by hand.
    pub fn initialize(&self) {
        self.give(Input::Initialize);
    }

    /// Why it stopped, when it has.
    pub async fn halted(&self) -> String {
        loop {
            let stopped = self.0.stopped.wait();
            if let Some(why) = &*self.0.halted.borrow() {
                return why.clone();
            }
            stopped.await;
        }
    }

    /// Reads the certificates again, for the links that are made from now on. Files that changed are noticed without it too.
    pub fn reload_certificates(&self) -> Result<(), net::TlsError> {
        self.0.tls.as_ref().map_or(Ok(()), net::Tls::reload)
    }

    pub(crate) fn tls(&self) -> Option<net::Tls> {
        self.0.tls.clone()
    }

    pub fn has_halted(&self) -> bool {
        self.0.halted.borrow().is_some()
    }

    /// A message of a peer.
    pub fn receive(&self, envelope: replog_core::Envelope) {
        self.0.answering.heard(envelope.from.replica);
        if let Some(envelope) = self.0.mending.take(envelope)
            && !writing::is_too_much(self, &envelope.message)
        {
            self.give(Input::Message(envelope));
        }
    }

    /// Says and writes nothing more.
    pub fn stop(&self) {
        self.halt("stopped".to_owned());
        // Behind what is on its way to the disk. Handles may live on, and the directory is somebody else's.
        let (writer, ledger) = (self.0.writer.clone(), self.0.ledger.clone());
        net::spawn(async move { drop(writer.run(move || locked(&ledger).store_mut().close()).await) })
            .detach();
    }

    pub(crate) fn give(&self, input: Input) {
        if self.0.halted.borrow().is_some() {
            // Nobody answers any more: the sender's drop is the answer.
            self.0.tickets.clear();
            return;
        }
        let wishes = {
            let mut node = self.0.node.borrow_mut();
            node.handle(self.0.time(), input);
            std::iter::from_fn(|| node.poll()).collect()
        };
        self.fulfil(wishes);
    }

    fn fulfil(&self, wishes: Vec<Wish>) {
        for wish in wishes {
            match wish {
                Wish::Persist { records, token } => {
                    writing::note_wished(self, &records);
                    let mut unwritten = self.0.unwritten.borrow_mut();
                    unwritten.0.extend(records);
                    unwritten.1 = token;
                }
                Wish::Send(envelope) => self.0.peers.send(envelope),
                Wish::Answer { ticket, answer } => self.0.tickets.answer(ticket, answer),
                Wish::Load { to, first, last } => self.load_for(to, first, last),
                // The store removes segments by itself as the log's beginning moves.
                Wish::Discard { .. } => {}
                Wish::Notice(notice) => tell(&notice),
                Wish::Halt(halt) => return self.stop_for(&halt),
            }
        }
        if !self.0.unwritten.borrow().0.is_empty() && !self.0.writing.replace(true) {
            net::spawn(writing::write(self.clone())).detach();
        }
        self.0.changed.set();
    }

    fn stop_for(&self, halt: &Halt) {
        tracing::error!("log: this replica stops: {halt}");
        self.halt(halt.to_string());
    }

    fn halt(&self, why: String) {
        self.0.halted.borrow_mut().get_or_insert(why);
        self.0.peers.stop();
        self.0.stopped.set();
        self.0.tickets.clear();
        self.0.ahead.clear();
        self.0.changed.set();
    }
}

impl Inner {
    fn time(&self) -> Millis {
        Millis(u64::try_from((net::now() - self.epoch).as_millis()).unwrap_or(u64::MAX))
    }
}

async fn keep_time(inner: std::rc::Weak<Inner>) {
    loop {
        let Some(strong) = inner.upgrade() else { return };
        if strong.halted.borrow().is_some() {
            return;
        }
        strong.changed.clear();
        let deadline = strong.node.borrow().deadline();
        let changed = strong.changed.wait();
        let now = strong.time();
        match deadline {
            Some(deadline) if deadline <= now => {
                Replica(strong).give(Input::Tick);
                continue;
            }
            Some(deadline) => {
                // Rounded up: waking before the deadline would only make another round.
                let pause = Duration::from_millis(deadline.0 - now.0);
                drop(strong);
                let _ = net::timeout(pause, changed).await;
            }
            None => {
                drop(strong);
                changed.await;
            }
        }
    }
}

fn records_of(wish: &Wish) -> &[Record] {
    match wish {
        Wish::Persist { records, .. } => records,
        _ => &[],
    }
}

fn token_of(wish: &Wish) -> Option<Token> {
    match wish {
        Wish::Persist { token, .. } => Some(*token),
        _ => None,
    }
}

fn tell(notice: &Notice) {
    match notice {
        Notice::Status { from, to } => tracing::info!("log: this replica is {to:?}, was {from:?}"),
        Notice::Membership(membership) => {
            let ids: Vec<_> = membership.members.iter().map(|member| member.replica.0).collect();
            tracing::info!(
                "log: the members are {ids:?}, since position {}",
                membership.since
            );
        }
        Notice::OtherLog { peer } => tracing::error!(
            "log: replica {peer} is of another log, and is not listened to: look at the addresses that it and this one were \
             started with, or take its old disk away"
        ),
        Notice::Demoted { by } => tracing::warn!("log: another writer has taken over, with ballot {by}"),
        notice => tracing::warn!("log: {notice:?}"),
    }
}

pub(crate) fn locked(ledger: &Shared) -> std::sync::MutexGuard<'_, Ledger<DiskDirectory>> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}
