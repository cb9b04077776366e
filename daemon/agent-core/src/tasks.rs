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
}

impl Entry {
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
            .map(|entry| entry.record.report())
            .collect()
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
                };
                self.tasks.entry(id).or_insert(entry);
            }
            TaskEvent::Observed { id, status } => self.observe(&id, status, true),
            TaskEvent::Refused { id, status } => {
                let unheard = self.tasks.get(&id).is_some_and(|entry| entry.parted);
                self.observe(&id, status, unheard);
            }
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
        record.sequence += 1;
        record.last = status.clone();
        if tell {
            record.untold.push(status);
            if record.untold.len() > UNTOLD_MAX {
                record.untold.remove(0);
            }
        } else {
            record.untold.clear();
            entry.again = None;
            self.ended.push_back(id.clone());
        }
        let record = Box::new(entry.record.clone());
        self.wishes.push_back(TaskWish::Write(record));
        self.forget_oldest();
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
            let report = entry.record.report_of(status, sequence);
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
mod tests {
    use super::*;

    fn id() -> TaskId {
        "task-1".parse().unwrap()
    }

    fn status(state: TaskState) -> TaskStatus {
        TaskStatus {
            state,
            message: String::new(),
            at_ms: 1,
            exit_status: None,
        }
    }

    fn wishes(book: &mut TaskBook) -> Vec<TaskWish> {
        std::iter::from_fn(|| book.poll()).collect()
    }

    fn told(book: &mut TaskBook) -> Vec<(u64, TaskState)> {
        let tells = wishes(book).into_iter().filter_map(|wish| match wish {
            TaskWish::Tell(report) => Some((report.sequence, report.status.state)),
            _ => None,
        });
        tells.collect()
    }

    fn written(book: &mut TaskBook, sequence: u64) {
        book.handle(Millis(0), TaskEvent::Written { id: id(), sequence });
    }

    fn observed(book: &mut TaskBook, state: TaskState) {
        let status = status(state);
        book.handle(Millis(0), TaskEvent::Observed { id: id(), status });
    }

    fn begun() -> TaskBook {
        let mut book = TaskBook::default();
        book.handle(
            Millis(0),
            TaskEvent::Ordered {
                id: id(),
                name: None,
                need: Need::default(),
                boot_id: "b".into(),
                at_ms: 1,
            },
        );
        assert!(book.reports().is_empty(), "what is not written does not exist");
        written(&mut book, 0);
        book.handle(Millis(0), TaskEvent::Welcomed { told: Vec::new() });
        wishes(&mut book);
        book
    }

    #[test]
    fn a_refusal_is_told_once_whoever_is_there_to_hear_it() {
        let refused = |book: &mut TaskBook| {
            let status = status(TaskState::Error);
            book.handle(Millis(0), TaskEvent::Refused { id: id(), status });
            written(book, 1);
        };
        let mut book = begun();
        refused(&mut book);
        assert!(told(&mut book).is_empty(), "it is the answer");
        // The answer goes over a connection that is gone, and the next master was told that it is being begun.
        let mut book = begun();
        book.handle(Millis(0), TaskEvent::Parted);
        book.handle(
            Millis(0),
            TaskEvent::Welcomed {
                told: vec![(id(), 0)],
            },
        );
        refused(&mut book);
        assert_eq!(told(&mut book), [(1, TaskState::Error)]);
    }

    #[test]
    fn nothing_is_told_before_it_is_written_nor_out_of_order() {
        let mut book = begun();
        observed(&mut book, TaskState::Running);
        assert!(told(&mut book).is_empty());
        observed(&mut book, TaskState::Finished);
        written(&mut book, 1);
        assert_eq!(told(&mut book), [(1, TaskState::Running)]);
        written(&mut book, 2);
        assert!(told(&mut book).is_empty(), "one at a time");
        book.handle(
            Millis(0),
            TaskEvent::Acknowledged {
                id: id(),
                sequence: 1,
            },
        );
        assert_eq!(told(&mut book), [(2, TaskState::Finished)]);
        observed(&mut book, TaskState::Failed);
        assert!(wishes(&mut book).is_empty(), "an end is for ever");
    }

    #[test]
    fn it_is_told_again_after_10_s_and_twice_as_long_each_time_up_to_10_min() {
        let mut book = begun();
        observed(&mut book, TaskState::Running);
        written(&mut book, 1);
        wishes(&mut book);
        let mut pauses = Vec::new();
        let mut last = 0;
        for _ in 0..9 {
            let at = book.deadline().unwrap();
            book.handle(at, TaskEvent::Tick);
            assert_eq!(told(&mut book), [(1, TaskState::Running)]);
            pauses.push((at.0 - last) / 1000);
            last = at.0;
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
        book.handle(
            Millis(last),
            TaskEvent::Acknowledged {
                id: id(),
                sequence: 1,
            },
        );
        assert_eq!(book.deadline(), None);
    }

    #[test]
    fn a_new_master_is_told_everything_by_the_registration() {
        let mut book = begun();
        book.handle(Millis(0), TaskEvent::Parted);
        observed(&mut book, TaskState::Running);
        written(&mut book, 1);
        assert!(told(&mut book).is_empty(), "nobody hears");
        let reports = book.reports();
        assert_eq!(
            (reports[0].sequence, reports[0].status.state),
            (1, TaskState::Running)
        );
        // What happens on the way is told afterwards.
        observed(&mut book, TaskState::Finished);
        written(&mut book, 2);
        let told_then = vec![(id(), 1)];
        book.handle(Millis(0), TaskEvent::Welcomed { told: told_then });
        assert_eq!(told(&mut book), [(2, TaskState::Finished)]);
    }

    #[test]
    fn ended_ones_are_remembered_up_to_a_number() {
        let mut book = TaskBook::default();
        for number in 0..=ENDED_MAX {
            let mut record = begun().record(&id()).unwrap().clone();
            record.id = format!("t{number}").parse().unwrap();
            record.last = status(TaskState::Finished);
            book.handle(
                Millis(0),
                TaskEvent::Loaded {
                    record: Box::new(record),
                },
            );
        }
        let first = "t0".parse().unwrap();
        assert_eq!(wishes(&mut book), [TaskWish::Forget { id: first }]);
        assert_eq!(book.reports().len(), ENDED_MAX);
    }
}
