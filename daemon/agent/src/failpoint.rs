//! Steps that can be made to fail or to be the agent's last, so that tests walk through all of them.
//!
//! `BULKHEAD_FAILPOINTS=launch.groups=error,launch.checkpoint=die`, read once at start. `error` makes the
//! step fail each time it is reached, `error*2` the first two times, `die` ends the agent on the spot as
//! `kill -9` would.
//! Without the variable a step costs one load.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

use model::Fault;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Error { times_left: Option<u32> },
    Die,
}

static ARMED: OnceLock<Option<Mutex<HashMap<String, Action>>>> = OnceLock::new();

/// Every step that asks, in the order of a container's life. Tests walk this list.
pub const STEPS: &[&str] = &[
    "fork.network",
    "launch.directories",
    "launch.groups",
    "launch.prepared",
    "fork.plan",
    "fork.pipes",
    "fork.clone",
    "fork.identity",
    "checkpoint.write",
    "gate.open",
    "gate.opened",
    "update.apply",
    "kill.all",
    "cleanup.groups",
    "cleanup.runtime",
    "cleanup.work",
];

fn armed() -> Option<&'static Mutex<HashMap<String, Action>>> {
    ARMED
        .get_or_init(|| {
            std::env::var("BULKHEAD_FAILPOINTS")
                .ok()
                .map(|text| Mutex::new(parse(&text)))
        })
        .as_ref()
}

fn parse(text: &str) -> HashMap<String, Action> {
    let mut actions = HashMap::new();
    for entry in text.split(',').filter(|e| !e.is_empty()) {
        let (step, action) = entry.split_once('=').unwrap_or((entry, "error"));
        let action = match action.split_once('*') {
            _ if action == "die" => Action::Die,
            Some((_, times)) => Action::Error {
                times_left: times.parse().ok(),
            },
            None => Action::Error { times_left: None },
        };
        if STEPS.contains(&step) {
            tracing::warn!(step, ?action, "failpoint armed");
            actions.insert(step.to_owned(), action);
        } else {
            tracing::warn!(step, "BULKHEAD_FAILPOINTS names a step that does not exist");
        }
    }
    actions
}

/// Passes, fails or ends the process, as armed.
pub fn pass(step: &'static str) -> Result<(), Fault> {
    let Some(actions) = armed() else { return Ok(()) };
    debug_assert!(STEPS.contains(&step), "{step} is missing in STEPS");
    let mut actions = actions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    match actions.get_mut(step) {
        None | Some(Action::Error { times_left: Some(0) }) => Ok(()),
        Some(Action::Die) => std::process::abort(),
        Some(Action::Error { times_left }) => {
            if let Some(left) = times_left {
                *left -= 1;
            }
            Err(Fault::failed(format!("failpoint {step}: made to fail")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arms_only_steps_that_exist() {
        let actions = parse("launch.groups=error,fork.clone=die,no.such=die,gate.open=error*2");
        assert_eq!(actions.len(), 3);
        assert_eq!(actions["launch.groups"], Action::Error { times_left: None });
        assert_eq!(actions["gate.open"], Action::Error { times_left: Some(2) });
        assert_eq!(actions["fork.clone"], Action::Die);
    }
}
