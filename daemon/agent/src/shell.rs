//! The core and the world: inputs in, wishes out, each wish acted upon by its own task.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use agent_core::{AgentCore, Answer, Input, Now, Ticket, Wish};
use isolators::IsolatorSet;
use isolators::disk::DiskIsolator;
use isolators::network::NetworkIsolator;
use model::{ContainerId, EventKind, Fault, FaultKind, HostSupport, Limitation};
use net::queue::{OneshotReceiver, OneshotSender, oneshot};

use crate::bandwidth_flags::BandwidthDefaults;
use crate::changed::Changed;
use crate::config::Config;
use crate::connections::Pace;
use crate::events::EventLog;
use crate::id_pool::IdPool;
use crate::launcher_link::LauncherLink;
use crate::metrics::AgentMetrics;
use crate::network_pool::NetworkPool;
use crate::resources::Resources;
use crate::work_dir::Directories;

/// Everything one agent holds. Lives on the loop's thread; what worker threads need is behind `Arc`.
pub struct Shell {
    pub config: Config,
    pub directories: Directories,
    pub host: Arc<HostSupport>,
    pub isolators: Arc<IsolatorSet>,
    pub disk: Arc<DiskIsolator>,
    pub network: Arc<NetworkIsolator>,
    pub pool: net::Pool,
    /// For looks at places that a client named.
    pub paths: net::Pool,
    pub launcher: LauncherLink,
    pub networks: NetworkPool,
    pub ids: IdPool,
    pub events: EventLog,
    pub metrics: AgentMetrics,
    pub connections: Pace,
    pub bandwidth: BandwidthDefaults,
    pub started_at_ms: u64,
    pub http_address: RefCell<Option<std::net::SocketAddr>>,
    core: RefCell<AgentCore>,
    resources: RefCell<HashMap<ContainerId, Rc<Resources>>>,
    inbox: RefCell<VecDeque<Input>>,
    busy: Cell<bool>,
    tickets: Cell<u64>,
    waiting: RefCell<HashMap<Ticket, OneshotSender<Answer>>>,
    deadline_moved: Changed,
}

pub struct Parts {
    pub config: Config,
    pub directories: Directories,
    pub host: HostSupport,
    pub isolators: Arc<IsolatorSet>,
    pub disk: Arc<DiskIsolator>,
    pub network: Arc<NetworkIsolator>,
    pub pool: net::Pool,
    /// For looks at places that a client named.
    pub paths: net::Pool,
    pub launcher: LauncherLink,
    pub networks: NetworkPool,
    pub ids: IdPool,
    pub bandwidth: BandwidthDefaults,
    pub core: AgentCore,
}

impl Shell {
    pub fn new(parts: Parts) -> Rc<Self> {
        Rc::new(Self {
            config: parts.config,
            directories: parts.directories,
            host: Arc::new(parts.host),
            isolators: parts.isolators,
            disk: parts.disk,
            network: parts.network,
            pool: parts.pool,
            paths: parts.paths,
            launcher: parts.launcher,
            networks: parts.networks,
            ids: parts.ids,
            events: EventLog::default(),
            metrics: AgentMetrics::default(),
            connections: Pace::default(),
            bandwidth: parts.bandwidth,
            started_at_ms: net::wall_ms(),
            http_address: RefCell::new(None),
            core: RefCell::new(parts.core),
            resources: RefCell::default(),
            inbox: RefCell::default(),
            busy: Cell::new(false),
            tickets: Cell::new(0),
            waiting: RefCell::default(),
            deadline_moved: Changed::default(),
        })
    }

    pub fn core(&self) -> std::cell::Ref<'_, AgentCore> {
        self.core.borrow()
    }

    pub fn resources(&self, id: &ContainerId) -> Option<Rc<Resources>> {
        self.resources.borrow().get(id).cloned()
    }

    pub fn hold(&self, id: &ContainerId, resources: Rc<Resources>) {
        self.resources.borrow_mut().insert(id.clone(), resources);
    }

    /// Feeds one input and acts upon all that follows. An input that arises while acting waits its turn:
    /// the core never sees a second one before its wishes are drained.
    pub fn input(self: &Rc<Self>, input: Input) {
        self.inbox.borrow_mut().push_back(input);
        if self.busy.replace(true) {
            return;
        }
        let _bomb = AbortOnPanic;
        loop {
            let Some(input) = self.inbox.borrow_mut().pop_front() else {
                break;
            };
            let mut wishes = Vec::new();
            {
                let mut core = self.core.borrow_mut();
                core.handle(moment(), input);
                while let Some(wish) = core.poll() {
                    wishes.push(wish);
                }
            }
            for wish in wishes {
                self.act(wish);
            }
        }
        self.busy.set(false);
        self.deadline_moved.notify();
    }

    fn act(self: &Rc<Self>, wish: Wish) {
        match wish {
            Wish::Prepare { id, spec } => crate::launch::prepare(self, id, spec),
            Wish::Fork { id } => crate::launch::fork(self, id),
            Wish::Checkpoint { id } => crate::launch::checkpoint(self, id),
            Wish::OpenGate { id } => crate::launch::open_gate(self, &id),
            Wish::Signal { id, signal } => crate::destroy::signal(self, &id, signal),
            Wish::KillAll { id } => crate::destroy::kill_all(self, id),
            Wish::ApplyLimits { id, old, new } => crate::launch::apply_limits(self, id, old, new),
            Wish::Cleanup { id, remove } => crate::destroy::cleanup(self, id, remove),
            Wish::RemoveLeftover { id } => crate::gc::remove(self, id),
            Wish::Answer { ticket, answer } => {
                if let Some(asker) = self.waiting.borrow_mut().remove(&ticket) {
                    // Nobody waits any more: its connection is gone.
                    let _ = asker.send(answer);
                }
            }
            Wish::Emit(event) => {
                self.metrics.event(&event);
                if let EventKind::CleanupRetry { message, .. } = &event.kind
                    && self.core.borrow().is_leftover(&event.container)
                {
                    tracing::error!(container = %event.container, "what it left stays for now: {message}");
                }
                tracing::debug!(container = %event.container, event = ?event.kind, "event");
                self.events.push(event);
            }
            Wish::Forget { id } => {
                let held = self.resources.borrow_mut().remove(&id);
                if held.is_some_and(|resources| resources.end_recorded.get()) {
                    crate::destroy::forget_end(self, id);
                }
            }
        }
    }

    /// Asks the core something; `make` gets the ticket. If the asker goes away, its ticket is cancelled.
    pub async fn ask(self: &Rc<Self>, make: impl FnOnce(Ticket) -> Input) -> Result<Answer, Fault> {
        let (open, answer) = self.ask_now(make);
        let answer = answer.await;
        open.answered();
        match answer {
            Ok(Answer::Refused(fault)) => Err(fault),
            Ok(answer) => Ok(answer),
            Err(_) => Err(Fault::new(
                FaultKind::Unavailable,
                "the agent stopped before it answered",
            )),
        }
    }

    fn ask_now(self: &Rc<Self>, make: impl FnOnce(Ticket) -> Input) -> (OpenTicket, OneshotReceiver<Answer>) {
        let number = self.tickets.get() + 1;
        self.tickets.set(number);
        let ticket = Ticket(number);
        let (sender, receiver) = oneshot();
        self.waiting.borrow_mut().insert(ticket, sender);
        self.input(make(ticket));
        (
            OpenTicket {
                shell: self.clone(),
                ticket,
                open: true,
            },
            receiver,
        )
    }

    /// Tells the core when its deadline has come. Runs as a task for as long as the agent does.
    pub async fn keep_time(self: Rc<Self>) {
        loop {
            let moved = self.deadline_moved.notified();
            let deadline = self.core.borrow().deadline();
            match deadline {
                None => moved.await,
                Some(at) => {
                    let now = moment().monotonic;
                    if at <= now {
                        self.input(Input::Tick);
                        // More may be due at once, and others want to be served in between.
                        net::yield_now().await;
                        continue;
                    }
                    let span = model::Millis(at.0 - now.0).duration();
                    let _ = net::timeout(span, moved).await;
                }
            }
        }
    }

    /// Drops what was held for a launch that the core did not take.
    pub fn release_if_unknown(&self, id: &ContainerId) {
        if self.core.borrow().status(id).is_none() {
            self.resources.borrow_mut().remove(id);
        }
    }

    pub fn limit_hit(self: &Rc<Self>, id: ContainerId, limitation: Limitation) {
        tracing::warn!(container = %id, "{}", limitation.message);
        self.input(Input::LimitHit { id, limitation });
    }

    pub fn set_sandbox(&self, id: &ContainerId) {
        let path = self.directories.sandbox(id);
        self.core.borrow_mut().set_sandbox(id, path);
    }
}

/// A core that panicked half-way can not be trusted, and an agent that goes on without it would hang in silence. Its
/// successor adopts every container.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("the agent's core panicked; aborting so that a new agent can take over");
            std::process::abort();
        }
    }
}

pub fn moment() -> Now {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let now = net::now();
    let since = now.saturating_duration_since(*START.get_or_init(|| now));
    Now {
        monotonic: model::Millis(since.as_millis() as u64),
        wall_ms: net::wall_ms(),
    }
}

/// Cancels its ticket when dropped unanswered: the asker's connection is gone.
struct OpenTicket {
    shell: Rc<Shell>,
    ticket: Ticket,
    open: bool,
}

impl OpenTicket {
    fn answered(mut self) {
        self.open = false;
    }
}

impl Drop for OpenTicket {
    fn drop(&mut self) {
        if self.open {
            self.shell.waiting.borrow_mut().remove(&self.ticket);
            self.shell.input(Input::Cancel { ticket: self.ticket });
        }
    }
}
