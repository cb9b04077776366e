//! Tasks of a cluster on this agent, and what has to be told of them: in order for each task, written down before it is
//! told, told again until it is acknowledged, acted upon once.
//!
//! ```text
//! book.handle(now, event);  while let Some(wish) = book.poll() { … }  wait_until(book.deadline());
//! ```
//!
//! A status is told to the master of one session. Whoever registers tells the last status of every task with it, ended
//! ones included; what a master has let in with that has acknowledged it.

use std::collections::{BTreeMap, VecDeque};

use model::task::{Need, TaskId, TaskRecord, TaskReport, TaskState, TaskStatus};
use model::{ContainerName, Millis};

/// Until a status that was not acknowledged is told again; doubles up to the longest. As Mesos has it.
const RETRY_FIRST: Millis = Millis::secs(10);
const RETRY_MAX: Millis = Millis::secs(600);
/// Ended and acknowledged tasks that are still told to a new leader, as Mesos' completed ones.
const ENDED_MAX: usize = 200;
/// Statuses of one task that nobody has acknowledged; a task has three or four in its life.
const UNTOLD_MAX: usize = 16;

#[derive(Debug, Clone)]
pub enum TaskEvent {
    /// At start, from the journal.
    Loaded {
        record: Box<TaskRecord>,
    },
    /// A master wants it. It counts when it is `Written`.
    Ordered {
        id: TaskId,
        name: Option<ContainerName>,
        need: Need,
        boot_id: String,
        at_ms: u64,
    },
    /// How it is now.
    Observed {
        id: TaskId,
        status: TaskStatus,
    },
    /// It never ran, and the master that ordered it is told so as the answer, if it is still there.
    Refused {
        id: TaskId,
        status: TaskStatus,
    },
    /// It may take so much soon: a change of its limits is under way.
    Resizing {
        id: TaskId,
        need: Need,
    },
    /// What it takes, whoever has changed its limits. Also when a change came to nothing.
    Resized {
        id: TaskId,
        need: Need,
    },
    /// The journal has its record up to that sequence.
    Written {
        id: TaskId,
        sequence: u64,
    },
    /// A master has let us in that was told these.
    Welcomed {
        told: Vec<(TaskId, u64)>,
    },
    /// No master hears us.
    Parted,
    Acknowledged {
        id: TaskId,
        sequence: u64,
    },
    Tick,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskWish {
    /// Into the journal, in the order of these wishes for each task. Answer: `Written`.
    Write(Box<TaskRecord>),
    /// To the master. Answer: `Acknowledged`, or nothing.
    Tell(TaskReport),
    /// Out of the journal.
    Forget { id: TaskId },
}

#[derive(Debug)]
struct Entry {
    record: TaskRecord,
    /// The journal has it so far.
    written: Option<u64>,
    /// When the oldest untold status is told again, and what the next pause will be.
    again: Option<(Millis, Millis)>,
    /// Whoever ordered it has gone since, and hears no answer.
    parted: bool,
    /// What it may take when a change under way is done.
    promised: Option<Need>,
}

impl Entry {
    /// What a master has to reckon with: never less than what it takes.
    fn need(&self) -> Need {
        let need = self.record.need;
        self.promised.map_or(need, |promised| need.max(promised))
    }

    fn report(&self) -> TaskReport {
        TaskReport {
            need: self.need(),
            ..self.record.report()
        }
    }

    /// The sequence of the oldest untold status.
    fn first_untold(&self) -> Option<u64> {
        let count = self.record.untold.len() as u64;
        (count > 0).then(|| self.record.sequence + 1 - count)
    }

    fn acknowledge(&mut self, sequence: u64) -> bool {
        let Some(first) = self.first_untold() else {
            return false;
        };
        let count = (sequence + 1)
            .saturating_sub(first)
            .min(self.record.untold.len() as u64);
        self.record.untold.drain(..count as usize);
        self.again = None;
        count > 0
    }
}

fn push_untold(record: &mut TaskRecord, status: TaskStatus) {
    record.sequence += 1;
    record.untold.push(status);
    if record.untold.len() > UNTOLD_MAX {
        record.untold.remove(0);
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct TaskBook {
    tasks: BTreeMap<TaskId, Entry>,
    /// Ended and acknowledged, oldest first.
    ended: VecDeque<TaskId>,
    heard: bool,
    wishes: VecDeque<TaskWish>,
}

impl TaskBook {
    pub fn poll(&mut self) -> Option<TaskWish> {
        self.wishes.pop_front()
    }

    pub fn deadline(&self) -> Option<Millis> {
        if !self.heard {
            return None;
        }
        self.tasks
            .values()
            .filter_map(|entry| entry.again.map(|(at, _)| at))
            .min()
    }

    /// What a master is told by who registers.
    pub fn reports(&self) -> Vec<TaskReport> {
        self.tasks
            .values()
            .filter(|entry| entry.written.is_some())
            .map(Entry::report)
            .collect()
    }

    /// One of them, as it is now.
    pub fn report(&self, id: &TaskId) -> Option<TaskReport> {
        self.tasks.get(id).map(Entry::report)
    }

    /// The journal has its record up to that sequence, or has no use for it any more.
    pub fn is_written(&self, id: &TaskId, sequence: u64) -> bool {
        self.tasks
            .get(id)
            .is_none_or(|entry| entry.written >= Some(sequence))
    }

    pub fn record(&self, id: &TaskId) -> Option<&TaskRecord> {
        self.tasks.get(id).map(|entry| &entry.record)
    }

    /// Those that have not ended.
    pub fn living(&self) -> impl Iterator<Item = &TaskRecord> {
        let records = self.tasks.values().map(|entry| &entry.record);
        records.filter(|record| !record.last.state.is_terminal())
    }

    pub fn handle(&mut self, now: Millis, event: TaskEvent) {
        match event {
            TaskEvent::Loaded { record } => self.load(*record),
            TaskEvent::Ordered {
                id,
                name,
                need,
                boot_id,
                at_ms,
            } => {
                let last = TaskStatus {
                    state: TaskState::Staging,
                    message: String::new(),
                    at_ms,
                    exit_status: None,
                };
                let record = TaskRecord {
                    id: id.clone(),
                    name,
                    need,
                    boot_id,
                    sequence: 0,
                    last,
                    untold: Vec::new(),
                };
                self.wishes.push_back(TaskWish::Write(Box::new(record.clone())));
                let entry = Entry {
                    record,
                    written: None,
                    again: None,
                    parted: false,
                    promised: None,
                };
                self.tasks.entry(id).or_insert(entry);
            }
            TaskEvent::Observed { id, status } => self.observe(&id, status, true),
            TaskEvent::Refused { id, status } => {
                let unheard = self.tasks.get(&id).is_some_and(|entry| entry.parted);
                self.observe(&id, status, unheard);
            }
            TaskEvent::Resizing { id, need } => {
                if let Some(entry) = self.tasks.get_mut(&id) {
                    entry.promised = Some(need);
                }
            }
            TaskEvent::Resized { id, need } => self.resize(&id, need),
            TaskEvent::Written { id, sequence } => {
                if let Some(entry) = self.tasks.get_mut(&id) {
                    entry.written = entry.written.max(Some(sequence));
                }
                self.tell(now, &id);
            }
            TaskEvent::Welcomed { told } => self.welcomed(now, told),
            TaskEvent::Parted => {
                self.heard = false;
                for entry in self.tasks.values_mut() {
                    entry.again = None;
                    entry.parted = true;
                }
            }
            TaskEvent::Acknowledged { id, sequence } => {
                self.acknowledged(&id, sequence);
                self.tell(now, &id);
            }
            TaskEvent::Tick => self.tick(now),
        }
    }

    fn load(&mut self, record: TaskRecord) {
        let id = record.id.clone();
        if record.last.state.is_terminal() && record.untold.is_empty() {
            self.ended.push_back(id.clone());
        }
        let entry = Entry {
            written: Some(record.sequence),
            record,
            again: None,
            parted: true,
            promised: None,
        };
        self.tasks.insert(id, entry);
        self.forget_oldest();
    }

    /// An end is for ever, and the same state twice is no news.
    fn observe(&mut self, id: &TaskId, status: TaskStatus, tell: bool) {
        let Some(entry) = self.tasks.get_mut(id) else {
            return;
        };
        let record = &mut entry.record;
        if record.last.state.is_terminal() || record.last.state == status.state {
            return;
        }
        record.last = status.clone();
        if tell {
            push_untold(record, status);
        } else {
            record.sequence += 1;
            record.untold.clear();
            entry.again = None;
            self.ended.push_back(id.clone());
        }
        let record = Box::new(entry.record.clone());
        self.wishes.push_back(TaskWish::Write(record));
        self.forget_oldest();
    }

    /// Told as a status is: the last one again, with the need of now.
    fn resize(&mut self, id: &TaskId, need: Need) {
        let Some(entry) = self.tasks.get_mut(id) else {
            return;
        };
        // A change that came to nothing is told as well: somebody may have been told what was promised.
        let was_promised = entry.promised.take().is_some();
        let record = &mut entry.record;
        if record.last.state.is_terminal() || (record.need == need && !was_promised) {
            return;
        }
        record.need = need;
        let status = record.last.clone();
        push_untold(record, status);
        let record = Box::new(entry.record.clone());
        self.wishes.push_back(TaskWish::Write(record));
    }

    /// The oldest status that is not acknowledged, if it is written down and was not told to this master.
    fn tell(&mut self, now: Millis, id: &TaskId) {
        let Some(entry) = self.tasks.get_mut(id).filter(|_| self.heard) else {
            return;
        };
        let Some(sequence) = entry.first_untold() else {
            return;
        };
        if entry.again.is_some() || entry.written < Some(sequence) {
            return;
        }
        entry.again = Some((Millis(now.0 + RETRY_FIRST.0), Millis(RETRY_FIRST.0 * 2)));
        self.say(id, sequence);
    }

    fn say(&mut self, id: &TaskId, sequence: u64) {
        let Some(entry) = self.tasks.get(id) else { return };
        if let Some(status) = entry.record.untold.first().cloned() {
            let report = TaskReport {
                need: entry.need(),
                ..entry.record.report_of(status, sequence)
            };
            self.wishes.push_back(TaskWish::Tell(report));
        }
    }

    fn acknowledged(&mut self, id: &TaskId, sequence: u64) {
        let Some(entry) = self.tasks.get_mut(id) else {
            return;
        };
        if !entry.acknowledge(sequence) {
            return;
        }
        self.wishes
            .push_back(TaskWish::Write(Box::new(entry.record.clone())));
        if entry.record.last.state.is_terminal() && entry.record.untold.is_empty() {
            self.ended.push_back(id.clone());
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        while self.ended.len() > ENDED_MAX {
            if let Some(id) = self.ended.pop_front() {
                self.tasks.remove(&id);
                self.wishes.push_back(TaskWish::Forget { id });
            }
        }
    }

    fn welcomed(&mut self, now: Millis, told: Vec<(TaskId, u64)>) {
        self.heard = true;
        for (id, sequence) in told {
            self.acknowledged(&id, sequence);
        }
        let ids: Vec<TaskId> = self.tasks.keys().cloned().collect();
        for id in ids {
            self.tell(now, &id);
        }
    }

    fn tick(&mut self, now: Millis) {
        if !self.heard {
            return;
        }
        let due = |entry: &Entry| entry.again.is_some_and(|(at, _)| at <= now);
        let ids: Vec<TaskId> = self
            .tasks
            .iter()
            .filter(|(_, entry)| due(entry))
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids {
            let Some(entry) = self.tasks.get_mut(&id) else {
                continue;
            };
            let Some(sequence) = entry.first_untold() else {
                entry.again = None;
                continue;
            };
            if let Some((at, pause)) = entry.again.as_mut() {
                *at = Millis(now.0 + pause.0);
                *pause = Millis((pause.0 * 2).min(RETRY_MAX.0));
            }
            self.say(&id, sequence);
        }
    }
}

#[cfg(test)]
mod tests;
