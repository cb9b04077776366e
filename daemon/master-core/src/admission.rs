//! Agents that come: register, register again, or be refused.

use model::registry::{AgentId, AgentRecord, Edit, Standing};
use model::task::{Hello, Refusal, TaskReport, Welcome};
use model::{Fault, FaultKind};

use crate::agents::{Agent, Phase};
use crate::input::{Link, NotApplied, Now, Ticket, Wish};
use crate::master::{Master, Pending};
use crate::planted::PlantedBug;
use crate::registry;

/// Longest id of an agent: ours are about 50 bytes.
const ID_BYTES_MAX: usize = 128;

impl Master {
    pub(crate) fn register(&mut self, now: Now, link: Link, mut hello: Box<Hello>) {
        self.links.insert(link, None);
        if let Err(fault) = self.check(&hello) {
            return self.turn_away(link, Refusal::Retry, fault);
        }
        if hello.id.is_some() {
            // It has had its welcome: the key is of no use any more.
            hello.key.clear();
        } else if !self.planted.has(PlantedBug::ForgetKey) {
            // The welcome of an earlier attempt got lost: it is the same agent.
            let known = self.keys.get(&hello.key);
            hello.id = known.filter(|id| self.agents.contains_key(*id)).cloned();
        }
        match hello.id.clone() {
            None => {
                self.next_agent += 1;
                let id = AgentId(format!("{}-S{}", self.settings.master_id, self.next_agent - 1));
                self.admit(now, id, link, hello);
            }
            Some(id) => self.reregister(now, id, link, hello),
        }
    }

    fn check(&self, hello: &Hello) -> Result<(), Fault> {
        if hello.term > self.settings.term {
            let message = format!(
                "this agent has seen a leader of term {}, and this one's term is {}",
                hello.term, self.settings.term
            );
            return Err(Fault::new(FaultKind::Denied, message));
        }
        let AgentRecord {
            hostname, address, ..
        } = &hello.record;
        let host = address
            .rsplit_once(':')
            .map_or(address.as_str(), |(host, _)| host);
        let named = |(down, at): &&(String, String)| {
            (down.is_empty() || down == hostname) && (at.is_empty() || at == host)
        };
        if self.down.iter().any(|machine| named(&machine)) {
            let message = format!("the machine {hostname} is down for maintenance");
            return Err(Fault::new(FaultKind::State, message).field("hostname"));
        }
        hello
            .record
            .resources
            .check()
            .map_err(|error| Fault::invalid("resources", error.to_string()))
    }

    /// One that was never here. It exists for others when the registry has it.
    fn admit(&mut self, now: Now, id: AgentId, link: Link, hello: Box<Hello>) {
        let mut agent = Agent::new(hello.record.clone(), Standing::default(), Phase::Disconnected);
        agent.pending = true;
        agent.key.clone_from(&hello.key);
        if !hello.key.is_empty() {
            self.keys.insert(hello.key.clone(), id.clone());
        }
        self.agents.insert(id.clone(), agent);
        let edit = Edit::Admit {
            id: id.clone(),
            record: hello.record.clone(),
            key: hello.key.clone(),
        };
        if self.planted.has(PlantedBug::WelcomeUnwritten) {
            return self.registered(now, id, link, *hello, true, Ok(()));
        }
        self.submit_entry(edit, id, link, hello, true);
    }

    fn submit_entry(&mut self, edit: Edit, id: AgentId, link: Link, hello: Box<Hello>, new: bool) {
        let pending = Pending::Register { id, link, hello, new };
        self.submit(edit, pending);
    }

    fn reregister(&mut self, now: Now, id: AgentId, link: Link, hello: Box<Hello>) {
        if id.0.is_empty() || id.0.len() > ID_BYTES_MAX {
            let fault = Fault::invalid("id", "is no id of an agent");
            return self.turn_away(link, Refusal::Shutdown, fault);
        }
        if self.gone.contains_key(&id) {
            let message = format!("agent {} was marked gone and can't come back", id.0);
            return self.turn_away(link, Refusal::Shutdown, Fault::new(FaultKind::Denied, message));
        }
        let Some(agent) = self.agents.get_mut(&id) else {
            if !self.settings.strict {
                return self.admit(now, id, link, hello);
            }
            let message = format!("the registry of this cluster knows no agent {}", id.0);
            return self.turn_away(link, Refusal::Shutdown, Fault::new(FaultKind::Denied, message));
        };
        if agent.pending {
            let message = format!("something about agent {} is being written to the registry", id.0);
            return self.turn_away(link, Refusal::Retry, Fault::new(FaultKind::State, message));
        }
        let old = agent.link.take();
        let edit = match agent.phase {
            Phase::Unreachable { .. } => Some(Edit::MarkReachable {
                id: id.clone(),
                record: hello.record.clone(),
            }),
            _ if *agent.record != hello.record => Some(Edit::UpdateAgent {
                id: id.clone(),
                record: hello.record.clone(),
            }),
            _ => None,
        };
        agent.pending = edit.is_some();
        if !matches!(agent.phase, Phase::Unreachable { .. } | Phase::Recovered) {
            agent.phase = Phase::Disconnected;
        }
        if let Some(old) = old {
            self.links.remove(&old);
            self.resizes_unanswered(&id);
            self.wish(Wish::Close { link: old });
        }
        match edit {
            Some(edit) => self.submit_entry(edit, id, link, hello, false),
            None => self.registered(now, id, link, *hello, false, Ok(())),
        }
    }

    /// The registry knows it.
    pub(crate) fn registered(
        &mut self,
        now: Now,
        id: AgentId,
        link: Link,
        hello: Hello,
        new: bool,
        result: Result<(), NotApplied>,
    ) {
        self.release(&id);
        if let Err(error) = result {
            return self.not_registered(now, id, link, hello, new, &error);
        }
        let Some(agent) = self.agents.get_mut(&id) else {
            return;
        };
        agent.set_record(hello.record);
        self.cancel_doom(&id);
        let Some(agent) = self.agents.get_mut(&id) else {
            return;
        };
        if agent.registered_at_ms == 0 {
            agent.registered_at_ms = now.wall_ms;
        }
        match hello.id.is_none() {
            true => self.counters.registrations += 1,
            false => {
                agent.reregistered_at_ms = now.wall_ms;
                self.counters.reregistrations += 1;
            }
        }
        if !self.links.contains_key(&link) {
            // It has left meanwhile; what is written is true all the same.
            self.disconnected(now, &id);
            return;
        }
        self.links.insert(link, Some(id.clone()));
        self.connected(now, &id, link);
        let welcome = Welcome {
            id: id.clone(),
            term: self.settings.term,
            silence_max_ms: u64::try_from(self.settings.silence_max().as_millis()).unwrap_or(u64::MAX),
        };
        self.wish(Wish::Welcome { link, welcome });
        self.reconcile(now, &id, hello.tasks);
        self.empty_drained(&id);
        self.drained_if_empty(&id);
        self.gone_if_drained(now, &id);
    }

    fn not_registered(
        &mut self,
        now: Now,
        id: AgentId,
        link: Link,
        mut hello: Hello,
        new: bool,
        error: &NotApplied,
    ) {
        let by_key = self.keys.get(&hello.key) == Some(&id);
        if new {
            self.keys.remove(&hello.key);
            self.agents.remove(&id);
        }
        match error {
            // It was pruned, or marked gone, just before this was written.
            NotApplied::Refused(registry::Refusal::UnknownAgent(_)) => self.forget(&id),
            NotApplied::Refused(registry::Refusal::Gone(_)) => {
                self.forget(&id);
                self.gone.insert(id.clone(), now.wall_ms / 1000);
            }
            _ => {
                let absent = |agent: &Agent| agent.phase == Phase::Disconnected;
                if self.agents.get(&id).is_some_and(absent) {
                    self.be_patient(now, &id);
                }
                return self.turn_away(link, Refusal::Retry, crate::master::not_applied(error));
            }
        }
        if !self.links.contains_key(&link) {
            return;
        }
        if by_key {
            // It never heard of that id.
            hello.id = None;
            return self.register(now, link, Box::new(hello));
        }
        self.reregister(now, id, link, Box::new(hello));
    }

    fn turn_away(&mut self, link: Link, refusal: Refusal, fault: Fault) {
        self.counters.refused_registrations += 1;
        self.links.remove(&link);
        self.wish(Wish::Refuse { link, refusal, fault });
    }

    pub(crate) fn update(&mut self, now: Now, ticket: Ticket, link: Link, report: TaskReport) {
        let Some(Some(id)) = self.links.get(&link).cloned() else {
            self.counters.invalid_updates += 1;
            let fault = Fault::new(FaultKind::State, "this session is over: register again");
            return self.refuse(ticket, fault);
        };
        self.counters.updates += 1;
        if !self.planted.has(PlantedBug::AcknowledgeUnread) {
            self.advance(now, &id, report);
        }
        self.wish(Wish::Answer {
            ticket,
            result: Ok(()),
        });
    }
}
