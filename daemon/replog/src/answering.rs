//! Which replicas answer, for whoever has to be told that too few do.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use replog_core::ReplicaId;

use crate::error::LogError;
use crate::replica::Replica;

/// A replica that works says something more often than that.
const SILENCE: Duration = Duration::from_secs(2);

/// When each was last heard.
pub struct Answering {
    addresses: BTreeMap<ReplicaId, String>,
    heard: RefCell<BTreeMap<ReplicaId, Instant>>,
}

impl Answering {
    pub fn new(addresses: &BTreeMap<ReplicaId, String>) -> Self {
        Self {
            addresses: addresses.clone(),
            heard: RefCell::default(),
        }
    }

    pub fn heard(&self, replica: ReplicaId) {
        // Only those that are known: anybody could name any number.
        if self.addresses.contains_key(&replica) {
            self.heard.borrow_mut().insert(replica, net::now());
        }
    }

    fn is_heard(&self, replica: ReplicaId) -> bool {
        self.heard
            .borrow()
            .get(&replica)
            .is_some_and(|at| net::now() - *at < SILENCE)
    }

    fn name(&self, replica: ReplicaId) -> String {
        match self.addresses.get(&replica) {
            Some(address) => format!("{replica} ({address})"),
            None => format!("{replica} (no address is configured)"),
        }
    }
}

impl Replica {
    pub(crate) fn no_quorum(&self, what: &'static str, limit: Duration) -> LogError {
        LogError::NoQuorum {
            what,
            seconds: limit.as_secs(),
            replicas: self.who_answers(),
        }
    }

    /// Those that are needed: which answer, which do not, and what to do.
    fn who_answers(&self) -> String {
        let status = self.status();
        let mut members: Vec<ReplicaId> = match &status.membership {
            Some(membership) => membership.members.iter().map(|member| member.replica).collect(),
            None => self.0.answering.addresses.keys().copied().collect(),
        };
        members.retain(|member| *member != status.id);
        let (answer, silent): (Vec<ReplicaId>, Vec<ReplicaId>) = members
            .iter()
            .partition(|member| self.0.answering.is_heard(**member));
        let names = |of: &[ReplicaId]| {
            let names: Vec<_> = of.iter().map(|id| self.0.answering.name(*id)).collect();
            names.join(", ")
        };
        let own = match &status.stalled {
            Some(why) => format!("this one, {}, can't write: {why}", status.id),
            None => format!("this one is {}, {:?}", status.id, status.status),
        };
        let mut text = own;
        if !answer.is_empty() {
            text.push_str(&format!("; heard: {}", names(&answer)));
        }
        if silent.is_empty() {
            text.push_str("; none is silent: look at their disks with `bulkhead log status`");
        } else {
            text.push_str(&format!(
                "; silent: {}: start them, or look at the links to them",
                names(&silent)
            ));
        }
        text
    }
}
