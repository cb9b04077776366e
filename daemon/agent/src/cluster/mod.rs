//! This agent as part of a cluster: it finds the leader, registers with it, does as it orders, and tells of its tasks.
//!
//! Without `--master` nothing of this exists, and with it nothing of the rest changes: a task is a container like another.

pub mod flags;
mod journal;
mod link;
mod offer;
mod orders;
mod update;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

use agent_core::{Input, TaskBook, TaskEvent, TaskWish};
use model::registry::AgentId;
use model::task::{Need, TaskId, TaskReport, TaskState, TaskStatus};
use model::{Fault, LaunchSpec, Millis};
use wire::master_capnp::session;

use crate::changed::Changed;
use crate::shell::{Shell, moment};
use journal::{Change, Journal};

pub struct Cluster {
    pub shell: Rc<Shell>,
    /// The highest term seen, on disk.
    pub term: Cell<u64>,
    pub id: RefCell<Option<AgentId>>,
    book: RefCell<TaskBook>,
    inbox: RefCell<VecDeque<TaskEvent>>,
    busy: Cell<bool>,
    journal: Rc<Journal>,
    /// Launches on their way to the core, and what is to become of them when they are there.
    beginning: RefCell<HashMap<TaskId, Option<Option<Millis>>>>,
    /// Tasks whose limits are being changed by a master's order.
    updating: RefCell<HashSet<TaskId>>,
    session: RefCell<Option<session::Client>>,
    changed: Changed,
}

/// Starts what goes on for as long as the agent does. What an earlier agent has left is known by then.
pub async fn start(shell: &Rc<Shell>) -> Result<(), Fault> {
    let Some(place) = shell.config.cluster.master.clone() else {
        return Ok(());
    };
    let kept = journal::load(shell).await?;
    let cluster = Rc::new(Cluster {
        shell: shell.clone(),
        term: Cell::new(kept.term),
        id: RefCell::new(kept.id),
        book: RefCell::default(),
        inbox: RefCell::default(),
        busy: Cell::new(false),
        journal: Rc::default(),
        beginning: RefCell::default(),
        updating: RefCell::default(),
        session: RefCell::new(None),
        changed: Changed::default(),
    });
    let boot_id = shell.host.boot_id.clone();
    for record in kept.tasks {
        let (id, living) = (record.id.clone(), !record.last.state.is_terminal());
        let (state, same_boot) = (record.last.state, record.boot_id == boot_id);
        cluster.event(TaskEvent::Loaded {
            record: Box::new(record),
        });
        if !living {
            continue;
        }
        if cluster.shell.core().status(&id).is_some() {
            cluster.observe(&id);
            continue;
        }
        // Its record was there before its container.
        let (state, message) = match (state, same_boot) {
            (TaskState::Staging, true) => (TaskState::Dropped, "the agent ended before it was launched"),
            (_, true) => (
                TaskState::Lost,
                "its container is gone, and nobody saw how it ended",
            ),
            (_, false) => (TaskState::Lost, "the host was started again"),
        };
        let status = TaskStatus {
            state,
            message: message.to_owned(),
            at_ms: net::wall_ms(),
            exit_status: None,
        };
        cluster.event(TaskEvent::Observed { id, status });
    }
    net::spawn(cluster.clone().watch()).detach();
    net::spawn(cluster.clone().keep_time()).detach();
    net::spawn(link::keep_registered(cluster, place)).detach();
    Ok(())
}

impl Cluster {
    /// Feeds one event and acts upon all that follows.
    fn event(self: &Rc<Self>, event: TaskEvent) {
        self.inbox.borrow_mut().push_back(event);
        if self.busy.replace(true) {
            return;
        }
        loop {
            let Some(event) = self.inbox.borrow_mut().pop_front() else {
                break;
            };
            let wishes: Vec<TaskWish> = {
                let mut book = self.book.borrow_mut();
                book.handle(moment().monotonic, event);
                std::iter::from_fn(|| book.poll()).collect()
            };
            for wish in wishes {
                self.act(wish);
            }
        }
        self.busy.set(false);
        self.changed.notify();
    }

    fn act(self: &Rc<Self>, wish: TaskWish) {
        let change = match wish {
            TaskWish::Write(record) => Change::Write(record),
            TaskWish::Forget { id } => Change::Forget(id),
            TaskWish::Tell(report) => return self.tell(report),
        };
        let cluster = self.clone();
        self.journal.change(&self.shell, change, move |id, sequence| {
            let id = id.clone();
            cluster.event(TaskEvent::Written { id, sequence });
        });
    }

    fn tell(self: &Rc<Self>, report: TaskReport) {
        let Some(session) = self.session.borrow().clone() else {
            return;
        };
        let mut request = session.update_request();
        wire::master::encode_report(&report, request.get().init_report());
        let cluster = self.clone();
        net::spawn(async move {
            let answer = match request.send().promise.await {
                Ok(answer) => wire::fault::check(answer.get().and_then(|result| result.get_fault())),
                Err(error) => Err(Fault::failed(error.to_string())),
            };
            let (id, sequence) = (report.id, report.sequence);
            match answer {
                Ok(()) => cluster.event(TaskEvent::Acknowledged { id, sequence }),
                Err(fault) => tracing::debug!(task = %id, "a status was not taken: {fault}"),
            }
        })
        .detach();
    }

    async fn keep_time(self: Rc<Self>) {
        loop {
            let changed = self.changed.notified();
            let deadline = self.book.borrow().deadline();
            match deadline {
                None => changed.await,
                Some(at) => {
                    let now = moment().monotonic;
                    if at <= now {
                        self.event(TaskEvent::Tick);
                        continue;
                    }
                    let _ = net::timeout(Millis(at.0 - now.0).duration(), changed).await;
                }
            }
        }
    }

    /// Follows the containers. What is missed of their events does not matter: each is looked at as it is.
    async fn watch(self: Rc<Self>) {
        let mut after = 0;
        loop {
            for event in self.shell.events.after(after).await {
                if after != 0 && event.sequence != after + 1 {
                    self.observe_all();
                }
                after = event.sequence;
                self.observe(&event.container);
            }
        }
    }

    fn observe_all(self: &Rc<Self>) {
        let living: Vec<TaskId> = self
            .book
            .borrow()
            .living()
            .map(|record| record.id.clone())
            .collect();
        living.iter().for_each(|id| self.observe(id));
    }

    fn observe(self: &Rc<Self>, id: &TaskId) {
        if self.book.borrow().record(id).is_none() || self.beginning.borrow().contains_key(id) {
            return;
        }
        if let Some(status) = orders::observed(&self.shell, id) {
            self.event(TaskEvent::Observed {
                id: id.clone(),
                status,
            });
        }
        // Whoever has changed its limits.
        if !self.updating.borrow().contains(id)
            && let Some(need) = self.need(id)
        {
            let id = id.clone();
            self.event(TaskEvent::Resized { id, need });
        }
    }

    // ---- orders

    /// False: it was begun before.
    async fn begin(self: &Rc<Self>, id: &TaskId, spec: &LaunchSpec) -> Result<bool, Fault> {
        if self.book.borrow().record(id).is_some() {
            return Ok(false);
        }
        self.beginning.borrow_mut().insert(id.clone(), None);
        let written = self.journal.written(id);
        self.event(TaskEvent::Ordered {
            id: id.clone(),
            name: spec.name.clone(),
            need: Need::of(spec),
            boot_id: self.shell.host.boot_id.clone(),
            at_ms: net::wall_ms(),
        });
        written
            .await
            .map_err(|_| Fault::failed("the journal of tasks can't be written"))?;
        Ok(true)
    }

    fn refused(self: &Rc<Self>, id: &TaskId, fault: &Fault) {
        let status = orders::refusal(fault);
        self.event(TaskEvent::Refused {
            id: id.clone(),
            status,
        });
    }

    async fn launched(self: &Rc<Self>, id: &TaskId) {
        let kill = self.beginning.borrow_mut().remove(id).flatten();
        self.observe(id);
        if let Some(grace) = kill {
            self.kill(id, grace).await;
        }
    }

    async fn kill(self: &Rc<Self>, id: &TaskId, grace: Option<Millis>) {
        if let Some(wanted) = self.beginning.borrow_mut().get_mut(id) {
            *wanted = Some(grace);
            return;
        }
        if self
            .book
            .borrow()
            .record(id)
            .is_none_or(|record| record.last.state.is_terminal())
        {
            return;
        }
        let id = id.clone();
        let asked = self.shell.ask(|ticket| Input::Kill {
            ticket,
            id,
            signal: 0,
            grace,
        });
        if let Err(fault) = asked.await {
            tracing::warn!("a task is not killed: {fault}");
        }
    }

    /// This agent is not, or no longer, of the cluster: nothing that a master has ordered runs on.
    async fn end_tasks(self: &Rc<Self>) {
        let living: Vec<TaskId> = self
            .book
            .borrow()
            .living()
            .map(|record| record.id.clone())
            .collect();
        if !living.is_empty() {
            tracing::error!(tasks = living.len(), "ending all tasks of the cluster");
        }
        for id in living {
            self.kill(&id, None).await;
        }
    }
}
