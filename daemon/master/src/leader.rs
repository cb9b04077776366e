//! One leadership: the core and the world. Made when the registry is recovered; when it is dropped, everything it gave to
//! anybody is gone with it.

use std::cell::{Cell, Ref, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use coordination::Tenure;
use master_core::{Input, Link, Master, Now, Ticket, Wish};
use model::registry::Edit;
use model::task::{Hello, LeaderView, Refusal, TaskReport, Welcome};
use model::{Fault, FaultKind};
use net::Notify;
use net::queue::{OneshotSender, oneshot};
use registrar::Registrar;
use wire::master_capnp::orders;

use crate::config::Config;

/// What became of a registration.
pub type Entry = Result<Welcome, (Refusal, Fault)>;

/// What is held of an agent's session.
struct Session {
    orders: orders::Client,
    /// Until it is answered.
    entry: Option<OneshotSender<Entry>>,
}

pub struct Leader {
    pub view: LeaderView,
    pub registrar: Registrar,
    tenure: Tenure,
    core: RefCell<Master>,
    began: Instant,
    sessions: RefCell<HashMap<Link, Session>>,
    waiting: RefCell<HashMap<Ticket, OneshotSender<Result<(), Fault>>>>,
    inbox: RefCell<VecDeque<Input>>,
    busy: Cell<bool>,
    next: Cell<u64>,
    changed: Notify,
    over: Notify,
    why: RefCell<Option<String>>,
    /// Ends with the leadership.
    tasks: net::TaskSet,
}

impl Leader {
    /// The registry is recovered: from here on agents may come.
    pub fn begin(config: &Config, view: LeaderView, registrar: Registrar, tenure: Tenure) -> Rc<Self> {
        let settings = config.core(&view.id, view.term);
        let began = net::now();
        let now = Now {
            monotonic: Duration::ZERO,
            wall_ms: net::wall_ms(),
        };
        let core = Master::new(settings, &registrar.registry(), now);
        let leader = Rc::new(Self {
            view,
            registrar,
            tenure,
            core: RefCell::new(core),
            began,
            sessions: RefCell::default(),
            waiting: RefCell::default(),
            inbox: RefCell::default(),
            busy: Cell::new(false),
            next: Cell::new(0),
            changed: Notify::new(),
            over: Notify::new(),
            why: RefCell::new(None),
            tasks: net::TaskSet::new(),
        });
        leader.tasks.spawn(keep_time(Rc::downgrade(&leader)));
        leader.tasks.spawn(prune(Rc::downgrade(&leader), config.clone()));
        leader
    }

    pub fn core(&self) -> Ref<'_, Master> {
        self.core.borrow()
    }

    /// Whether this process still leads. To be asked before anything leaves it: also when no timer has run yet, since the
    /// process was stopped.
    pub fn holds(&self) -> bool {
        if self.why.borrow().is_some() {
            return false;
        }
        let holds = self.tenure.holds();
        if !holds {
            self.end("the time of this leadership is over");
        }
        holds
    }

    /// Nothing more is done; whoever waits in [`Self::over`] takes it down.
    pub fn end(&self, why: &str) {
        self.why.borrow_mut().get_or_insert_with(|| why.to_owned());
        self.over.set();
    }

    /// Why it has ended, when it has.
    pub async fn over(&self) -> String {
        let failed = self.registrar.failed();
        futures::future::select(std::pin::pin!(self.over.wait()), std::pin::pin!(failed)).await;
        match &*self.why.borrow() {
            Some(why) => why.clone(),
            None => "the registry can't be written any more".to_owned(),
        }
    }

    fn now(&self) -> Now {
        Now {
            monotonic: net::now().saturating_duration_since(self.began),
            wall_ms: net::wall_ms(),
        }
    }

    fn number(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    /// Feeds one input and acts upon all that follows. One that arises while acting waits its turn.
    pub fn input(self: &Rc<Self>, input: Input) {
        self.inbox.borrow_mut().push_back(input);
        if self.busy.replace(true) {
            return;
        }
        loop {
            let Some(input) = self.inbox.borrow_mut().pop_front() else {
                break;
            };
            let wishes: Vec<Wish> = {
                let mut core = self.core.borrow_mut();
                core.handle(self.now(), input);
                std::iter::from_fn(|| core.poll()).collect()
            };
            for wish in wishes {
                self.act(wish);
            }
        }
        self.busy.set(false);
        self.changed.set();
    }

    fn act(self: &Rc<Self>, wish: Wish) {
        match wish {
            Wish::Submit { token, edit } => {
                let leader = self.clone();
                self.tasks.spawn(async move {
                    if leader.holds() {
                        let lost = match &edit {
                            Edit::MarkUnreachable { id, .. } => Some(id.clone()),
                            _ => None,
                        };
                        let result = leader.registrar.apply(edit).await;
                        if let (Some(id), Ok(_)) = (lost, &result) {
                            tracing::warn!(agent = %id.0, "agent is unreachable: it answered no pings, or did not come back");
                        }
                        leader.input(Input::Applied { token, result });
                    }
                });
            }
            Wish::Welcome { link, welcome } => self.answer_entry(link, Ok(welcome)),
            Wish::Refuse { link, refusal, fault } => {
                self.answer_entry(link, Err((refusal, fault)));
                self.sessions.borrow_mut().remove(&link);
            }
            Wish::Answer { ticket, result } => {
                if let Some(asker) = self.waiting.borrow_mut().remove(&ticket) {
                    // Nobody waits any more: its connection is gone.
                    let _ = asker.send(result);
                }
            }
            Wish::Launch { link, id, spec } => self.order_launch(link, id, &spec),
            Wish::Resize {
                link,
                id,
                change,
                need,
            } => self.order_update(link, id, &change, need),
            Wish::Kill { link, id, grace } => {
                let Some(orders) = self.orders(link) else { return };
                let mut request = orders.kill_request();
                let mut params = request.get();
                params.set_term(self.view.term);
                params.set_id(id.as_str());
                if let Some(grace) = grace {
                    params.set_has_grace(true);
                    params.set_grace_ms(grace.get());
                }
                self.send(async move { request.send().promise.await.map(drop) });
            }
            Wish::Ping { link } => {
                let Some(orders) = self.orders(link) else { return };
                let mut request = orders.ping_request();
                request.get().set_term(self.view.term);
                let leader = self.clone();
                self.tasks.spawn(async move {
                    let answer = request.send().promise.await;
                    let ponged = answer.is_ok_and(|answer| {
                        answer
                            .get()
                            .is_ok_and(|result| wire::fault::check(result.get_fault()).is_ok())
                    });
                    leader.input(match ponged {
                        true => Input::Ponged { link },
                        false => Input::PingFailed { link },
                    });
                });
            }
            Wish::Shutdown { link, message } => {
                let Some(orders) = self.orders(link) else { return };
                let mut request = orders.shutdown_request();
                request.get().set_term(self.view.term);
                request.get().set_message(&message);
                self.send(async move { request.send().promise.await.map(drop) });
            }
            Wish::Close { link } => {
                if let Some(orders) = self.orders(link) {
                    let mut request = orders.release_request();
                    request.get().set_term(self.view.term);
                    self.send(async move { request.send().promise.await.map(drop) });
                }
                self.sessions.borrow_mut().remove(&link);
            }
            Wish::StepDown { why } => self.end(&why),
        }
    }

    /// None: the session is over, or this leadership is.
    fn orders(&self, link: Link) -> Option<orders::Client> {
        if !self.holds() {
            return None;
        }
        self.sessions
            .borrow()
            .get(&link)
            .map(|session| session.orders.clone())
    }

    /// The agent's next report tells what came of it.
    fn send(&self, order: impl Future<Output = Result<(), capnp::Error>> + 'static) {
        self.tasks.spawn(async move {
            if let Err(error) = order.await {
                tracing::debug!("an order was not answered: {error}");
            }
        });
    }

    fn order_launch(self: &Rc<Self>, link: Link, id: model::ContainerId, spec: &model::LaunchSpec) {
        let Some(orders) = self.orders(link) else { return };
        let mut request = orders.launch_request();
        let mut params = request.get();
        params.set_term(self.view.term);
        wire::launch::encode(spec, params.reborrow().init_spec());
        // A request's own id is the task's.
        params
            .get_spec()
            .map(|mut spec| spec.set_id(id.as_str()))
            .unwrap_or_default();
        let leader = self.clone();
        self.tasks.spawn(async move {
            // Without an answer it is not known what became of it: the agent tells when it comes again.
            if let Ok(answer) = request.send().promise.await {
                let result = wire::fault::check(answer.get().and_then(|result| result.get_fault()));
                leader.input(Input::Launched { link, id, result });
            }
        });
    }

    fn order_update(
        self: &Rc<Self>,
        link: Link,
        id: model::ContainerId,
        change: &model::Limits,
        need: model::task::Need,
    ) {
        let Some(orders) = self.orders(link) else { return };
        let mut request = orders.update_request();
        let mut params = request.get();
        params.set_term(self.view.term);
        params.set_id(id.as_str());
        wire::limits::encode(change, params.reborrow().init_limits());
        wire::master::encode_need(need, params.init_need());
        let leader = self.clone();
        self.tasks.spawn(async move {
            let result = match request.send().promise.await {
                Ok(answer) => updated(answer.get()),
                // The end of the session tells whoever waits.
                Err(error) if error.kind == capnp::ErrorKind::Disconnected => return,
                Err(error) if error.kind == capnp::ErrorKind::Unimplemented => {
                    Err(leader.outdated(&id, "updates of tasks"))
                }
                Err(error) => Err(Fault::failed(format!("the task's agent has failed: {error}"))),
            };
            leader.input(Input::Resized { link, id, result });
        });
    }

    /// Its agent has no such method.
    fn outdated(&self, id: &model::ContainerId, what: &str) -> Fault {
        let core = self.core();
        let agent = core.task(id).and_then(|task| core.agent(&task.agent));
        let who = agent.map_or_else(
            || "the task's agent".to_owned(),
            |agent| {
                let record = &agent.record;
                format!(
                    "agent {} on {}, version {},",
                    agent.id.0, record.hostname, record.version
                )
            },
        );
        let message = format!("{who} is older than this master and does not know {what}");
        let remedy = format!("start bulkhead {} there; what runs goes on", crate::VERSION);
        Fault::unsupported("task", message).remedy(remedy)
    }

    fn answer_entry(&self, link: Link, entry: Entry) {
        let sender = self
            .sessions
            .borrow_mut()
            .get_mut(&link)
            .and_then(|session| session.entry.take());
        if let Some(sender) = sender {
            // The agent has left: its session is dropped, which says so.
            let _ = sender.send(entry);
        }
    }

    /// An agent at the door. The guard is its session: dropped, the agent is disconnected.
    pub async fn register(self: &Rc<Self>, hello: Hello, orders: orders::Client) -> (Entry, SessionGuard) {
        let link = Link(self.number());
        let (sender, receiver) = oneshot();
        let session = Session {
            orders,
            entry: Some(sender),
        };
        self.sessions.borrow_mut().insert(link, session);
        let guard = SessionGuard {
            leader: Rc::downgrade(self),
            link,
        };
        self.input(Input::Register {
            link,
            hello: Box::new(hello),
        });
        let entry = receiver.await.unwrap_or_else(|_| Err((Refusal::Retry, gone())));
        (entry, guard)
    }

    /// Asks the core something; `make` gets the ticket.
    pub async fn ask(self: &Rc<Self>, make: impl FnOnce(Ticket) -> Input) -> Result<(), Fault> {
        if !self.holds() {
            return Err(gone());
        }
        let ticket = Ticket(self.number());
        let (sender, receiver) = oneshot();
        self.waiting.borrow_mut().insert(ticket, sender);
        self.input(make(ticket));
        receiver.await.unwrap_or_else(|_| Err(gone()))
    }

    /// The orders of the agent that has a task.
    pub fn orders_for(&self, id: &model::ContainerId) -> Option<orders::Client> {
        let link = self.core.borrow().link_of(id)?;
        self.orders(link)
    }
}

fn updated(answer: capnp::Result<orders::update_results::Reader<'_>>) -> Result<TaskReport, Fault> {
    wire::fault::check(answer.clone().and_then(|result| result.get_fault()))?;
    let report = answer.and_then(|result| result.get_report());
    wire::master::decode_report(report.map_err(|error| Fault::failed(error.to_string()))?)
}

fn gone() -> Fault {
    Fault::new(FaultKind::Unavailable, "this master leads no more").remedy("try again: another one will lead")
}

/// An agent's session, as long as somebody holds it.
pub struct SessionGuard {
    leader: Weak<Leader>,
    pub link: Link,
}

impl SessionGuard {
    pub fn leader(&self) -> Option<Rc<Leader>> {
        self.leader.upgrade().filter(|leader| leader.holds())
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        if let Some(leader) = self.leader.upgrade() {
            leader.sessions.borrow_mut().remove(&self.link);
            leader.input(Input::LinkLost { link: self.link });
        }
    }
}

async fn keep_time(leader: Weak<Leader>) {
    loop {
        let Some(strong) = leader.upgrade() else { return };
        strong.changed.clear();
        let changed = strong.changed.wait();
        let (deadline, now) = (strong.core.borrow().deadline(), strong.now().monotonic);
        match deadline {
            Some(at) if at <= now => {
                if !strong.holds() {
                    return;
                }
                strong.input(Input::Tick);
            }
            Some(at) => {
                drop(strong);
                let _ = net::timeout(at - now, changed).await;
            }
            None => {
                drop(strong);
                changed.await;
            }
        }
    }
}

/// Forgets agents that have been unreachable or gone for long.
async fn prune(leader: Weak<Leader>, config: Config) {
    let flags = config.flags;
    loop {
        net::sleep(flags.registry_gc_interval).await;
        let Some(strong) = leader.upgrade() else { return };
        let (age, count) = (
            flags.registry_max_agent_age.as_secs(),
            flags.registry_max_agent_count,
        );
        let now = net::wall_ms() / 1000;
        let edit = master_core::registry::to_prune(&strong.registrar.registry(), now, age, count);
        let Some(edit) = edit.filter(|_| strong.holds()) else {
            continue;
        };
        let agents = match &edit {
            Edit::Prune { unreachable, gone } => unreachable.iter().chain(gone).cloned().collect(),
            _ => Vec::new(),
        };
        match strong.registrar.apply(edit).await {
            Ok(()) => strong.input(Input::Pruned { agents }),
            Err(error) => tracing::warn!("old agents are not forgotten: {error}"),
        }
    }
}
