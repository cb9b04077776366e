//! What a master counts since it leads.

use std::collections::BTreeMap;

use model::task::TaskState;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    pub registrations: u64,
    pub reregistrations: u64,
    pub refused_registrations: u64,
    pub unreachable_scheduled: u64,
    pub unreachable_completed: u64,
    pub unreachable_canceled: u64,
    /// Of those, agents that did not come back after an election.
    pub recovery_removals: u64,
    pub gone: u64,
    pub launches: u64,
    pub kills: u64,
    /// Orders to change a task's limits.
    pub resizes: u64,
    pub updates: u64,
    pub invalid_updates: u64,
    /// Ended tasks by how.
    pub ended: BTreeMap<TaskState, u64>,
}

impl Counters {
    pub(crate) fn end(&mut self, state: TaskState) {
        *self.ended.entry(state).or_insert(0) += 1;
    }
}
