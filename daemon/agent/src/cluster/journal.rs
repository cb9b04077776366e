//! What this agent must not forget of its cluster: who it is, the latest term, and its tasks with what was not
//! acknowledged. One file for each task, replaced whole; written by one job at a time, in the order of the wishes.
//!
//! Task files are not synced: after a power cut no container is recovered, and the record of an earlier moment says so as
//! well as the latest. The term is.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use model::Fault;
use model::registry::AgentId;
use model::task::{TaskId, TaskRecord};
use net::queue::{OneshotReceiver, OneshotSender, oneshot};

use crate::launch::{blocking, failed};
use crate::shell::Shell;
use crate::work_dir::{write_atomically, write_durably};

/// Before a write that failed is tried again.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub enum Change {
    Write(Box<TaskRecord>),
    Forget(TaskId),
}

#[derive(Default)]
pub struct Journal {
    queue: RefCell<VecDeque<Change>>,
    busy: Cell<bool>,
    waiting: RefCell<HashMap<TaskId, OneshotSender<()>>>,
}

/// Of what an earlier agent has left.
pub struct Kept {
    pub id: Option<AgentId>,
    pub term: u64,
    pub tasks: Vec<TaskRecord>,
}

pub async fn load(shell: &Shell) -> Result<Kept, Fault> {
    let directories = shell.directories.clone();
    blocking(shell, move || {
        directories.open_cluster().map_err(|error| failed(&error))?;
        let id = read(&directories.agent_id())?.map(|text| AgentId(text.trim().to_owned()));
        let term = match read(&directories.term())? {
            None => 0,
            Some(text) => text.trim().parse().map_err(|_| {
                let message = format!("{} does not hold a term", directories.term().display());
                Fault::failed(message).remedy("remove it if no other master than today's can be running")
            })?,
        };
        let mut tasks = Vec::new();
        for id in directories.known_tasks().map_err(|error| failed(&error))? {
            let path = directories.task(&id);
            let bytes = std::fs::read(&path)
                .map_err(|error| Fault::failed(format!("read {}: {error}", path.display())))?;
            match wire::master::decode_record(&bytes) {
                Ok(record) => tasks.push(record),
                // A crash of the host may leave an empty file: of what ran then nothing runs any more.
                Err(fault) => {
                    tracing::warn!(
                        "the record {} can't be read and is removed: {fault}",
                        path.display()
                    );
                    let _ = std::fs::remove_file(&path);
                }
            }
        }
        Ok(Kept { id, term, tasks })
    })
    .await
}

fn read(path: &std::path::Path) -> Result<Option<String>, Fault> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::failed(format!("read {}: {error}", path.display()))),
    }
}

/// What one without an id calls itself, from the first attempt to get one until it has one: also one that was killed between.
pub async fn key(shell: &Shell) -> Result<String, Fault> {
    let path = shell.directories.agent_key();
    blocking(shell, move || {
        if let Some(key) = read(&path)?.map(|text| text.trim().to_owned())
            && !key.is_empty()
        {
            return Ok(key);
        }
        let random = net::random().map_err(|error| Fault::failed(format!("read random bytes: {error}")))?;
        let key = format!("{random:032x}");
        write_durably(&path, format!("{key}\n").as_bytes()).map_err(|error| failed(&error))?;
        Ok(key)
    })
    .await
}

/// Before anything of a new leader is acted upon.
pub async fn keep_term(shell: &Shell, term: u64) -> Result<(), Fault> {
    let path = shell.directories.term();
    blocking(shell, move || {
        write_durably(&path, format!("{term}\n").as_bytes()).map_err(|error| failed(&error))
    })
    .await
}

pub async fn keep_id(shell: &Shell, id: &AgentId) -> Result<(), Fault> {
    let (path, text) = (shell.directories.agent_id(), format!("{}\n", id.0));
    let key = shell.directories.agent_key();
    blocking(shell, move || {
        write_durably(&path, text.as_bytes()).map_err(|error| failed(&error))?;
        // Whoever removes the id wants to be another agent.
        let _ = std::fs::remove_file(key);
        Ok(())
    })
    .await
}

impl Journal {
    /// Ready when a record of the task is written.
    pub fn written(&self, id: &TaskId) -> OneshotReceiver<()> {
        let (sender, receiver) = oneshot();
        self.waiting.borrow_mut().insert(id.clone(), sender);
        receiver
    }

    /// `done` hears of each record that is written.
    pub fn change(self: &Rc<Self>, shell: &Rc<Shell>, change: Change, done: impl Fn(&TaskId, u64) + 'static) {
        self.queue.borrow_mut().push_back(change);
        if self.busy.replace(true) {
            return;
        }
        let (journal, shell) = (self.clone(), shell.clone());
        net::spawn(async move { journal.work(&shell, done).await }).detach();
    }

    async fn work(&self, shell: &Shell, done: impl Fn(&TaskId, u64)) {
        loop {
            let changes: Vec<Change> = self.queue.borrow_mut().drain(..).collect();
            if changes.is_empty() {
                break;
            }
            let mut left = changes;
            while !left.is_empty() {
                let directories = shell.directories.clone();
                let mut batch = left.clone();
                let worked = shell.pool.run(move || {
                    let mut done = Vec::new();
                    while let Some(change) = batch.first() {
                        match change {
                            Change::Write(record) => {
                                let bytes = wire::master::encode_record(record);
                                if let Err(error) = write_atomically(&directories.task(&record.id), &bytes) {
                                    return (batch, done, Some(failed(&error)));
                                }
                                done.push((record.id.clone(), record.sequence));
                            }
                            Change::Forget(id) => drop(std::fs::remove_file(directories.task(id))),
                        }
                        batch.remove(0);
                    }
                    (batch, done, None)
                });
                let written;
                let failure;
                match worked.await {
                    Ok(result) => (left, written, failure) = result,
                    Err(error) => {
                        tracing::error!("the journal of tasks is not written: {error}; trying on");
                        net::sleep(PAUSE).await;
                        continue;
                    }
                }
                for (id, sequence) in written {
                    if let Some(asker) = self.waiting.borrow_mut().remove(&id) {
                        let _ = asker.send(());
                    }
                    done(&id, sequence);
                }
                if let Some(fault) = failure {
                    tracing::warn!("a task's status is not written yet: {fault}; trying on");
                    net::sleep(PAUSE).await;
                }
            }
        }
        self.busy.set(false);
    }
}
