//! Wishes of the core fulfilled on a log.

use std::cell::{Ref, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use master_core::registrar::{Input, NotApplied, Registrar as Core, Settings, Token, Wish};
use model::registry::{Edit, MasterRecord, Record, Registry};
use net::queue::{OneshotSender, oneshot};
use replog_core::Position;

use crate::fetch::{FetchError, records};
use crate::storage::{Storage, StorageError, Writer};

/// Between two attempts to be elected.
const PAUSE: Duration = Duration::from_millis(200);
/// How often a leader without work looks whether it still leads.
const LOOK: Duration = Duration::from_millis(500);

/// Why this master does not lead: it has to step down.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the registry can't be led: {0}")]
pub struct LeadError(pub String);

/// How long writes took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreTimes {
    pub count: u64,
    pub last: Duration,
    pub longest: Duration,
    pub total: Duration,
    /// The recovery's own.
    pub fetch: Duration,
}

struct Inner {
    core: RefCell<Core>,
    storage: Storage,
    /// The leader's own term: no ballot of it is below.
    term: u64,
    epoch: Instant,
    /// Since it was elected.
    writer: RefCell<Option<Writer>>,
    answers: RefCell<HashMap<Token, OneshotSender<Result<(), NotApplied>>>>,
    next_token: std::cell::Cell<u64>,
    times: RefCell<StoreTimes>,
    recovered: net::Notify,
    failed: RefCell<Option<String>>,
    has_failed: net::Notify,
    /// The deadline may have changed.
    changed: net::Notify,
}

/// A leader's registry; clones are the same one. Ends with its last handle, or when it has failed.
#[derive(Clone)]
pub struct Registrar(Rc<Inner>);

impl Registrar {
    /// Becomes the only writer, reads the log and writes who leads. Has to be called on an event loop.
    pub async fn lead(storage: Storage, master: MasterRecord, settings: Settings) -> Result<Self, LeadError> {
        let registrar = Self(Rc::new(Inner {
            core: RefCell::new(Core::new(settings)),
            storage,
            term: master.term,
            epoch: net::now(),
            writer: RefCell::new(None),
            answers: RefCell::default(),
            next_token: std::cell::Cell::new(1),
            times: RefCell::default(),
            recovered: net::Notify::new(),
            failed: RefCell::new(None),
            has_failed: net::Notify::new(),
            changed: net::Notify::new(),
        }));
        net::spawn(keep_time(Rc::downgrade(&registrar.0))).detach();
        registrar.give(Input::Lead(master));
        let (recovered, failed) = (registrar.0.recovered.wait(), registrar.0.has_failed.wait());
        futures::future::select(recovered, failed).await;
        if let Some(cause) = registrar.0.failed.borrow().clone() {
            return Err(LeadError(cause));
        }
        net::spawn(look_after(Rc::downgrade(&registrar.0))).detach();
        Ok(registrar)
    }

    /// Ready when it is durable, or held already. Those that are asked together share a write.
    pub async fn apply(&self, edit: Edit) -> Result<(), NotApplied> {
        let token = Token(self.0.next_token.replace(self.0.next_token.get() + 1));
        let (sender, receiver) = oneshot();
        self.0.answers.borrow_mut().insert(token, sender);
        self.give(Input::Submit { token, edit });
        let ended = |_| Err(NotApplied::Unknown("the registrar has ended".to_owned()));
        receiver.await.unwrap_or_else(ended)
    }

    /// As it is durable. Not to be held over an await.
    pub fn registry(&self) -> Ref<'_, Registry> {
        Ref::map(self.0.core.borrow(), Core::registry)
    }

    /// Edits that wait for a write, or for its end.
    pub fn queued(&self) -> usize {
        self.0.core.borrow().queued()
    }

    pub fn store_times(&self) -> StoreTimes {
        *self.0.times.borrow()
    }

    /// When it has failed: why. Its master has to step down.
    pub async fn failed(&self) -> String {
        loop {
            let failed = self.0.has_failed.wait();
            if let Some(cause) = &*self.0.failed.borrow() {
                return cause.clone();
            }
            failed.await;
        }
    }

    fn give(&self, input: Input) {
        let mut core = self.0.core.borrow_mut();
        core.handle(self.0.time(), input);
        self.drain(core);
    }

    fn drain(&self, mut core: std::cell::RefMut<'_, Core>) {
        let wishes: Vec<Wish> = std::iter::from_fn(|| core.poll()).collect();
        drop(core);
        for wish in wishes {
            self.fulfil(wish);
        }
        self.0.changed.set();
    }

    fn fulfil(&self, wish: Wish) {
        match wish {
            Wish::Fetch => net::spawn(fetch(Rc::downgrade(&self.0))).detach(),
            Wish::Store(record) => net::spawn(store(Rc::downgrade(&self.0), record)).detach(),
            Wish::Truncate(position) => {
                let writer = self.0.writer.borrow().clone();
                net::spawn(async move {
                    if let Some(writer) = writer
                        && let Err(error) = writer.truncate(Position(position)).await
                    {
                        tracing::warn!(
                            "registry: the log before position {position} is not removed: {error}; the next \
                             snapshot tries again"
                        );
                    }
                })
                .detach();
            }
            Wish::Recovered => self.0.recovered.set(),
            Wish::Answer { token, result } => {
                if let Some(sender) = self.0.answers.borrow_mut().remove(&token) {
                    // Whoever asked may have left.
                    let _ = sender.send(result);
                }
            }
            Wish::Failed(cause) => {
                tracing::error!("registry: this master has to step down: {cause}");
                self.0.failed.borrow_mut().get_or_insert(cause);
                self.0.has_failed.set();
            }
        }
    }
}

impl Inner {
    fn time(&self) -> Duration {
        net::now() - self.epoch
    }

    fn has_failed(&self) -> bool {
        self.failed.borrow().is_some()
    }
}

/// Elected first: what is read then is all there is, and all there will be but for what this leader writes.
async fn fetch(inner: Weak<Inner>) {
    let Some(strong) = inner.upgrade() else { return };
    let (storage, term, began) = (strong.storage.clone(), strong.term, net::now());
    drop(strong);
    let writer = loop {
        match storage.elect(term).await {
            Ok(writer) => break Ok(writer),
            Err(StorageError::NotNow(cause)) => {
                tracing::info!("registry: not elected yet: {cause}; trying on");
                net::sleep(PAUSE).await;
                // Its time is over, or nobody waits.
                if inner.upgrade().is_none_or(|strong| strong.has_failed()) {
                    return;
                }
            }
            Err(error) => break Err(FetchError::Storage(error)),
        }
    };
    let fetched = match writer {
        Ok(writer) => match records(&storage, writer.end).await {
            Ok(found) => Ok((writer, found)),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    let Some(strong) = inner.upgrade() else { return };
    strong.times.borrow_mut().fetch = net::now() - began;
    let input = match fetched {
        Ok((writer, found)) => {
            *strong.writer.borrow_mut() = Some(writer);
            Input::Fetched(found)
        }
        Err(error) => Input::FetchFailed(error.to_string()),
    };
    Registrar(strong).give(input);
}

async fn store(inner: Weak<Inner>, record: Record) {
    let Some(strong) = inner.upgrade() else { return };
    let writer = strong.writer.borrow().clone();
    drop(strong);
    let entries = wire::registry::encode(&record);
    let bytes = entries.iter().map(|entry| entry.len() as u64).sum();
    let began = net::now();
    let stored = match writer {
        Some(writer) => writer.append(entries).await.map_err(|error| error.to_string()),
        None => Err("this registrar was not elected".to_owned()),
    };
    let took = net::now() - began;
    let Some(strong) = inner.upgrade() else { return };
    let input = match stored {
        Ok(Position(position)) => {
            let mut times = strong.times.borrow_mut();
            times.count += 1;
            times.last = took;
            times.longest = times.longest.max(took);
            times.total += took;
            Input::Stored { position, bytes }
        }
        Err(cause) => Input::StoreFailed(cause),
    };
    Registrar(strong).give(input);
}

/// A leader that has nothing to write would not hear that it leads no more.
async fn look_after(inner: Weak<Inner>) {
    loop {
        net::sleep(LOOK).await;
        let Some(strong) = inner.upgrade() else { return };
        let writer = strong.writer.borrow().clone();
        if strong.has_failed() {
            return;
        }
        drop(strong);
        let Some(writer) = writer else { return };
        let checked = writer.check().await;
        let Some(strong) = inner.upgrade() else { return };
        if let Err(cause) = checked {
            Registrar(strong).give(Input::StoreFailed(cause));
        }
    }
}

async fn keep_time(inner: Weak<Inner>) {
    loop {
        let Some(strong) = inner.upgrade() else { return };
        if strong.has_failed() {
            return;
        }
        strong.changed.clear();
        let deadline = strong.core.borrow().deadline();
        let changed = strong.changed.wait();
        let now = strong.time();
        match deadline {
            Some(deadline) if deadline <= now => {
                let registrar = Registrar(strong);
                let mut core = registrar.0.core.borrow_mut();
                core.expire(now);
                registrar.drain(core);
                continue;
            }
            Some(deadline) => {
                drop(strong);
                let _ = net::timeout(deadline - now, changed).await;
            }
            // Nothing is due until somebody asks; the handle may go meanwhile.
            None => {
                drop(strong);
                let _ = net::timeout(LOOK, changed).await;
            }
        }
    }
}
