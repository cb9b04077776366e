//! What the clients were told, compared with what the commands wrote.

use std::collections::HashMap;
use std::path::Path;

use model::{ContainerId, Fault, Reason, Termination};
use support::Agent;

use crate::Plan;

/// Ended containers that an agent remembers; older ones may be forgotten.
const REMEMBERED: usize = 1000;

#[derive(Debug)]
pub enum End {
    Reported(Termination),
    Lost(String),
}

#[derive(Debug)]
pub struct Entry {
    code: i32,
    removed: bool,
    to_be_killed: bool,
    pub acknowledged: bool,
    pub refused: Option<String>,
    /// A kill was asked for, whether or not it came in time.
    pub killed: bool,
    pub end: Option<End>,
}

impl Entry {
    pub fn new(code: i32, removed: bool, to_be_killed: bool) -> Self {
        Self {
            code,
            removed,
            to_be_killed,
            acknowledged: false,
            refused: None,
            killed: false,
            end: None,
        }
    }
}

#[derive(Default)]
pub struct Book {
    entries: HashMap<String, Entry>,
    heard: HashMap<String, u32>,
    /// Outputs, as the last agent gave them.
    read: HashMap<String, Result<String, Fault>>,
    unread: Option<Fault>,
}

#[derive(Debug, Default)]
pub struct Figures {
    pub launched: u64,
    pub acknowledged: u64,
    pub refused: u64,
    pub agent_deaths: u64,
    pub adopted: u64,
    pub reported: u64,
    pub ends_heard: u64,
    pub lost: Vec<String>,
    pub duplicated: Vec<String>,
    pub leaks: Vec<String>,
}

/// Lines of one container in the shared file.
#[derive(Debug, Default, Clone, Copy)]
struct Truth {
    starts: u32,
    ends: u32,
    execs: u32,
}

impl Book {
    pub fn enter(&mut self, id: &ContainerId, entry: Entry) {
        self.entries.insert(id.to_string(), entry);
    }

    pub fn hear(&mut self, id: &ContainerId) {
        *self.heard.entry(id.to_string()).or_default() += 1;
    }

    pub fn read(&mut self, id: &ContainerId, text: Result<String, Fault>) {
        self.read.insert(id.to_string(), text);
    }

    pub fn read_in_vain(&mut self, fault: Fault) {
        self.unread = Some(fault);
    }

    pub fn compare(&self, shared: &Path, agent: &Agent) -> Figures {
        let truth = truth(shared);
        let listed = listed(agent);
        let mut figures = Figures {
            launched: self.entries.len() as u64,
            ends_heard: self.heard.len() as u64,
            ..Figures::default()
        };
        for (id, entry) in &self.entries {
            let truth = truth.get(id).copied().unwrap_or_default();
            figures.judge(id, entry, truth, listed.get(id).map(Vec::as_slice));
            if let Some(text) = self.read.get(id) {
                figures.judge_output(id, text);
            }
        }
        if let Some(fault) = &self.unread {
            figures.lost.push(format!("the outputs: {fault}"));
        }
        for (id, count) in self.heard.iter().filter(|(_, count)| **count > 1) {
            figures
                .duplicated
                .push(format!("{id}: its end was told {count} times"));
        }
        for id in truth.keys().filter(|id| !self.entries.contains_key(*id)) {
            figures.lost.push(format!("{id}: ran, and nobody launched it"));
        }
        let kept = |e: &&Entry| !e.removed && e.refused.is_none();
        if self.entries.values().filter(kept).count() < REMEMBERED / 2 {
            for (id, _) in self
                .entries
                .iter()
                .filter(|(id, e)| kept(e) && !listed.contains_key(*id))
            {
                figures.lost.push(format!("{id}: is not listed any more"));
            }
        }
        figures
    }
}

impl Figures {
    fn judge(&mut self, id: &str, entry: &Entry, truth: Truth, listed: Option<&[i64]>) {
        if truth.starts > 1 || truth.execs > 1 || truth.ends > 1 {
            self.duplicated.push(format!("{id}: {truth:?}"));
        }
        if let Some(why) = &entry.refused {
            self.refused += 1;
            if truth.starts > 0 {
                self.lost.push(format!("{id}: refused ({why}), and yet it ran"));
            }
            return;
        }
        self.acknowledged += u64::from(entry.acknowledged);
        let termination = match &entry.end {
            Some(End::Reported(termination)) => termination,
            Some(End::Lost(why)) => return self.lost.push(format!("{id}: {why}")),
            None => return self.lost.push(format!("{id}: its clients gave up")),
        };
        self.reported += 1;
        // Also of one that was to be killed, and was quicker.
        let by_itself = termination.exit_status == entry.code && truth.ends == 1;
        let right = by_itself
            || (entry.killed
                // An agent that died before it had written the kill down left its successor a signal from outside.
                && matches!(termination.reason, Reason::Killed | Reason::Signaled)
                && matches!(termination.exit_status, 137 | 143));
        // A kill that came before the command had written its first line.
        let started = truth.starts == 1 || entry.killed;
        if !right || !started {
            self.lost.push(format!(
                "{id}: reported as {termination:?}, to exit with {}, to be killed {}, killed {}, {truth:?}",
                entry.code, entry.to_be_killed, entry.killed
            ));
        }
        match listed {
            Some([status]) if *status == i64::from(termination.exit_status) => {}
            Some([status]) => self.duplicated.push(format!(
                "{id}: reported with {}, listed with {status}",
                termination.exit_status
            )),
            Some(several) => self
                .duplicated
                .push(format!("{id}: listed {} times", several.len())),
            None => {}
        }
    }

    fn judge_output(&mut self, id: &str, text: &Result<String, Fault>) {
        let whole = format!("out {id}\n");
        match text {
            // What is in a pipe goes with its last reader, if an init ends while no agent is there.
            Ok(text) if text.is_empty() || *text == whole => {}
            Ok(text) => self.lost.push(format!("{id}: its output is {text:?}")),
            Err(fault) => self.lost.push(format!("{id}: its output: {fault}")),
        }
    }

    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.duplicated.is_empty() && self.leaks.is_empty()
    }

    pub fn json(&self, plan: &Plan) -> String {
        serde_json::json!({
            "soak": {
                "seconds": plan.time.as_secs(),
                "containers": plan.containers,
                "seed": plan.seed,
                "launched": self.launched,
                "acknowledged": self.acknowledged,
                "refused": self.refused,
                "agent_deaths": self.agent_deaths,
                "adopted": self.adopted,
                "ends_reported": self.reported,
                "ends_heard": self.ends_heard,
                "lost": self.lost.len(),
                "duplicated": self.duplicated.len(),
                "leaked": self.leaks.len(),
            }
        })
        .to_string()
    }

    pub fn text(&self, plan: &Plan) -> String {
        let mut text = format!(
            "{} s, up to {} containers, seed {}: launched {} (acknowledged {}, refused {}), agent killed {} times, \
             adopted {}, ends reported {}, heard as events {}, lost {}, duplicated {}, leaked {}",
            plan.time.as_secs(),
            plan.containers,
            plan.seed,
            self.launched,
            self.acknowledged,
            self.refused,
            self.agent_deaths,
            self.adopted,
            self.reported,
            self.ends_heard,
            self.lost.len(),
            self.duplicated.len(),
            self.leaks.len(),
        );
        let kinds = [
            ("lost", &self.lost),
            ("duplicated", &self.duplicated),
            ("leaked", &self.leaks),
        ];
        for (kind, lines) in kinds {
            for line in lines.iter().take(20) {
                text.push_str(&format!("\n  {kind}: {line}"));
            }
        }
        text
    }
}

fn truth(shared: &Path) -> HashMap<String, Truth> {
    let mut all: HashMap<String, Truth> = HashMap::new();
    let text = std::fs::read_to_string(shared.join("truth")).unwrap_or_default();
    for (what, id) in text.lines().filter_map(|line| line.split_once(' ')) {
        let truth = all.entry(id.to_owned()).or_default();
        match what {
            "start" => truth.starts += 1,
            "end" => truth.ends += 1,
            _ => truth.execs += 1,
        }
    }
    all
}

/// Exit statuses as `ps -a` has them.
fn listed(agent: &Agent) -> HashMap<String, Vec<i64>> {
    let mut listed: HashMap<String, Vec<i64>> = HashMap::new();
    let all = agent.cli(&["ps", "-a", "-o", "json"]).json();
    for container in all.as_array().into_iter().flatten() {
        let id = container["id"].as_str().unwrap_or_default().to_owned();
        let status = container["exit_status"].as_i64().unwrap_or(-1);
        listed.entry(id).or_default().push(status);
    }
    listed
}
