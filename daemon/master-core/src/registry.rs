//! Edits of the registry (pure): each is applied whole, or refused and nothing has changed.

use model::registry::{
    Admitted, AgentId, AgentRecord, Drain, Edit, MachineMode, Quota, Registry, Standing, Timestamp,
    Unreachable,
};
use model::resources::{Role, Scalar};

use crate::maintenance;

/// Older programs don't know of agents that are drained or deactivated, and would give them tasks.
const AGENT_DRAINING: &str = "AGENT_DRAINING";
/// What this program can read; a registry that asks for more is a newer program's.
pub const CAPABILITIES: &[&str] = &[AGENT_DRAINING, "QUOTA_V2"];
const QUOTA: &str = "QUOTA_V2";

/// Why an edit is not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("agent {} is already admitted", .0.0)]
    AlreadyAdmitted(AgentId),
    #[error("agent {} is not known", .0.0)]
    UnknownAgent(AgentId),
    #[error("agent {} was marked gone and can't come back", .0.0)]
    Gone(AgentId),
    #[error("agent {} is unreachable", .0.0)]
    IsUnreachable(AgentId),
    #[error("agent {} is being drained; that can't be taken back until it is empty", .0.0)]
    Draining(AgentId),
    #[error("agent {} is not being drained", .0.0)]
    NotDraining(AgentId),
    #[error("framework {0} is not known")]
    UnknownFramework(String),
    #[error("role {role}: {problem}")]
    BadQuota { role: String, problem: String },
    #[error("role {0}: a weight has to be more than 0")]
    BadWeight(String),
    #[error("agent {}: {problem}", .agent.0)]
    BadReservation { agent: AgentId, problem: String },
    #[error("maintenance: {0}")]
    BadSchedule(String),
    #[error("a registry of term {held} does not take the leader of term {offered}")]
    OldTerm { held: u64, offered: u64 },
}

/// Applies one edit. `Ok(false)`: it holds already and nothing at all was changed, so nothing has to be written.
pub fn apply(registry: &mut Registry, edit: &Edit) -> Result<bool, Refusal> {
    match edit {
        Edit::Lead(master) => {
            let held = registry.master.as_ref().map_or(0, |master| master.term);
            if master.term < held {
                return Err(Refusal::OldTerm {
                    held,
                    offered: master.term,
                });
            }
            Ok(put(&mut registry.master, Some(master.clone())))
        }
        Edit::Admit { id, record, key } => admit(registry, id, record, key),
        Edit::UpdateAgent { id, record } => Ok(put(&mut agent(registry, id)?.record, record.clone())),
        Edit::MarkUnreachable { id, at } => mark_unreachable(registry, id, *at),
        Edit::MarkReachable { id, record } => mark_reachable(registry, id, record),
        Edit::Remove { id } => registry
            .agents
            .remove(id)
            .or_else(|| {
                registry
                    .unreachable
                    .remove(id)
                    .map(|unreachable| unreachable.agent)
            })
            .map(|_| true)
            .ok_or_else(|| unknown(registry, id)),
        Edit::MarkGone { id, at } => mark_gone(registry, id, *at),
        Edit::Drain {
            id,
            grace_max_seconds,
            mark_gone,
        } => {
            let drain = Drain {
                grace_max_seconds: *grace_max_seconds,
                mark_gone: *mark_gone,
                drained: false,
            };
            let standing = standing(registry, id)?;
            let changed = put(
                standing,
                Standing {
                    drain: Some(drain),
                    deactivated: true,
                },
            );
            Ok(require(registry, AGENT_DRAINING) | changed)
        }
        Edit::MarkDrained { id } => {
            let standing = standing(registry, id)?;
            let drain = standing
                .drain
                .as_mut()
                .ok_or_else(|| Refusal::NotDraining(id.clone()))?;
            Ok(put(&mut drain.drained, true))
        }
        Edit::Deactivate { id } => {
            let changed = put(&mut standing(registry, id)?.deactivated, true);
            Ok(require(registry, AGENT_DRAINING) | changed)
        }
        Edit::Reactivate { id } => reactivate(registry, id),
        Edit::Reserve { id, reserved } => reserve(registry, id, reserved),
        Edit::Prune { unreachable, gone } => {
            let before = (registry.unreachable.len(), registry.gone.len());
            registry.unreachable.retain(|id, _| !unreachable.contains(id));
            registry.gone.retain(|id, _| !gone.contains(id));
            let relaxed = relax(registry);
            Ok(relaxed || before != (registry.unreachable.len(), registry.gone.len()))
        }
        Edit::PutFramework { id, record } => {
            Ok(registry.frameworks.insert(id.clone(), record.clone()).as_ref() != Some(record))
        }
        Edit::RemoveFramework { id } => registry
            .frameworks
            .remove(id)
            .map(|_| true)
            .ok_or_else(|| Refusal::UnknownFramework(id.0.clone())),
        Edit::SetQuota(quotas) => {
            quotas
                .iter()
                .try_for_each(|(role, quota)| check_quota(role, quota))?;
            let mut changed = false;
            for (role, quota) in quotas {
                changed |= if *quota == Quota::default() {
                    registry.quota.remove(role).is_some()
                } else {
                    registry.quota.insert(role.clone(), quota.clone()).as_ref() != Some(quota)
                };
            }
            changed |= if registry.quota.is_empty() {
                registry.minimum_capabilities.remove(QUOTA)
            } else {
                require(registry, QUOTA)
            };
            Ok(changed)
        }
        Edit::SetWeights(weights) => {
            if let Some((role, _)) = weights.iter().find(|(_, weight)| weight.is_zero()) {
                return Err(Refusal::BadWeight(role.to_string()));
            }
            let mut changed = false;
            for (role, weight) in weights {
                changed |= if *weight == Scalar::from_milli(1000) {
                    registry.weights.remove(role).is_some()
                } else {
                    registry.weights.insert(role.clone(), *weight) != Some(*weight)
                };
            }
            Ok(changed)
        }
        Edit::SetSchedule(windows) => maintenance::set_schedule(registry, windows),
        Edit::StartMaintenance(machines) => maintenance::start(registry, machines),
        Edit::StopMaintenance(machines) => maintenance::stop(registry, machines),
    }
}

/// Why this program may not lead with this registry.
pub fn missing_capabilities(registry: &Registry) -> Vec<&str> {
    registry
        .minimum_capabilities
        .iter()
        .map(String::as_str)
        .filter(|needed| !CAPABILITIES.contains(needed))
        .collect()
}

/// Those that have been in the lists of unreachable and gone agents for too long, or are too many: the oldest first.
pub fn to_prune(registry: &Registry, now: Timestamp, age_max: u64, count_max: usize) -> Option<Edit> {
    let unreachable = oldest(
        registry.unreachable.iter().map(|(id, entry)| (entry.since, id)),
        now,
        age_max,
        count_max,
    );
    let gone = oldest(
        registry.gone.iter().map(|(id, since)| (*since, id)),
        now,
        age_max,
        count_max,
    );
    (!unreachable.is_empty() || !gone.is_empty()).then_some(Edit::Prune { unreachable, gone })
}

fn oldest<'a>(
    entries: impl Iterator<Item = (Timestamp, &'a AgentId)>,
    now: Timestamp,
    age_max: u64,
    count_max: usize,
) -> Vec<AgentId> {
    let mut entries: Vec<_> = entries.collect();
    entries.sort_unstable();
    let too_many = entries.len().saturating_sub(count_max);
    let old = entries
        .iter()
        .take_while(|(since, _)| now.saturating_sub(*since) > age_max)
        .count();
    entries
        .iter()
        .take(old.max(too_many))
        .map(|(_, id)| (*id).clone())
        .collect()
}

fn put<T: PartialEq>(place: &mut T, value: T) -> bool {
    let changed = *place != value;
    *place = value;
    changed
}

fn unknown(registry: &Registry, id: &AgentId) -> Refusal {
    if registry.gone.contains_key(id) {
        Refusal::Gone(id.clone())
    } else {
        Refusal::UnknownAgent(id.clone())
    }
}

fn agent<'a>(registry: &'a mut Registry, id: &AgentId) -> Result<&'a mut Admitted, Refusal> {
    if registry.unreachable.contains_key(id) {
        return Err(Refusal::IsUnreachable(id.clone()));
    }
    if !registry.agents.contains_key(id) {
        return Err(unknown(registry, id));
    }
    registry
        .agents
        .get_mut(id)
        .ok_or_else(|| Refusal::UnknownAgent(id.clone()))
}

/// Of an agent that is admitted or unreachable.
fn standing<'a>(registry: &'a mut Registry, id: &AgentId) -> Result<&'a mut Standing, Refusal> {
    let refusal = unknown(registry, id);
    let (agents, unreachable) = (&mut registry.agents, &mut registry.unreachable);
    agents
        .get_mut(id)
        .map(|agent| &mut agent.standing)
        .or_else(|| {
            unreachable
                .get_mut(id)
                .map(|unreachable| &mut unreachable.agent.standing)
        })
        .ok_or(refusal)
}

fn admit(registry: &mut Registry, id: &AgentId, record: &AgentRecord, key: &str) -> Result<bool, Refusal> {
    if registry.gone.contains_key(id) {
        return Err(Refusal::Gone(id.clone()));
    }
    if registry.agents.contains_key(id) || registry.unreachable.contains_key(id) {
        return Err(Refusal::AlreadyAdmitted(id.clone()));
    }
    registry.agents.insert(
        id.clone(),
        Admitted {
            record: record.clone(),
            key: key.to_owned(),
            ..Admitted::default()
        },
    );
    Ok(true)
}

fn mark_unreachable(registry: &mut Registry, id: &AgentId, at: Timestamp) -> Result<bool, Refusal> {
    if registry.unreachable.contains_key(id) {
        return Ok(false);
    }
    let Some(agent) = registry.agents.remove(id) else {
        return Err(unknown(registry, id));
    };
    registry
        .unreachable
        .insert(id.clone(), Unreachable { since: at, agent });
    Ok(true)
}

/// Only one that was admitted before: an agent that no registry knows has to register as a new one.
fn mark_reachable(registry: &mut Registry, id: &AgentId, record: &AgentRecord) -> Result<bool, Refusal> {
    if let Some(admitted) = registry.agents.get_mut(id) {
        return Ok(put(&mut admitted.record, record.clone()));
    }
    let Some(unreachable) = registry.unreachable.remove(id) else {
        return Err(unknown(registry, id));
    };
    registry.agents.insert(
        id.clone(),
        Admitted {
            record: record.clone(),
            ..unreachable.agent
        },
    );
    Ok(true)
}

fn mark_gone(registry: &mut Registry, id: &AgentId, at: Timestamp) -> Result<bool, Refusal> {
    if registry.gone.contains_key(id) {
        return Ok(false);
    }
    if registry.agents.remove(id).is_none() && registry.unreachable.remove(id).is_none() {
        return Err(Refusal::UnknownAgent(id.clone()));
    }
    registry.gone.insert(id.clone(), at);
    relax(registry);
    Ok(true)
}

fn reactivate(registry: &mut Registry, id: &AgentId) -> Result<bool, Refusal> {
    let standing = standing(registry, id)?;
    if standing.drain.as_ref().is_some_and(|drain| !drain.drained) {
        return Err(Refusal::Draining(id.clone()));
    }
    let changed = put(standing, Standing::default());
    Ok(relax(registry) | changed)
}

fn reserve(
    registry: &mut Registry,
    id: &AgentId,
    reserved: &model::resources::Resources,
) -> Result<bool, Refusal> {
    let bad = |problem: String| Refusal::BadReservation {
        agent: id.clone(),
        problem,
    };
    reserved.check().map_err(|error| bad(error.to_string()))?;
    if let Some(resource) = reserved.iter().find(|resource| resource.reservations.is_empty()) {
        return Err(bad(format!("{resource} is not reserved")));
    }
    let admitted = agent(registry, id)?;
    for name in reserved.iter().map(|resource| &resource.name) {
        if reserved.total(name) > admitted.record.resources.total(name) {
            return Err(bad(format!("more {name} would be reserved than there is")));
        }
    }
    if !admitted.record.resources.ports().contains(&reserved.ports()) {
        return Err(bad("ports would be reserved that it does not have".to_owned()));
    }
    Ok(put(&mut admitted.reserved, reserved.clone()))
}

fn check_quota(role: &Role, quota: &Quota) -> Result<(), Refusal> {
    let bad = |problem: String| {
        Err(Refusal::BadQuota {
            role: role.to_string(),
            problem,
        })
    };
    if role.as_str().contains('/') {
        return bad("quota is for roles at the top, not for those below another".to_owned());
    }
    for (name, guarantee) in &quota.guarantees {
        if quota.limits.get(name).is_some_and(|limit| limit < guarantee) {
            return bad(format!(
                "guarantees {guarantee} {name} and limits it to {}",
                quota.limits[name]
            ));
        }
    }
    Ok(())
}

/// `true`: it was not asked for yet.
fn require(registry: &mut Registry, capability: &str) -> bool {
    registry.minimum_capabilities.insert(capability.to_owned())
}

/// When nobody is drained or deactivated any more, an older program may lead again. `true`: from now on.
fn relax(registry: &mut Registry) -> bool {
    if !registry.minimum_capabilities.contains(AGENT_DRAINING) {
        return false;
    }
    let plain = |standing: &Standing| *standing == Standing::default();
    let none = registry.agents.values().all(|agent| plain(&agent.standing))
        && registry
            .unreachable
            .values()
            .all(|unreachable| plain(&unreachable.agent.standing));
    none && registry.minimum_capabilities.remove(AGENT_DRAINING)
}

/// Whether anything may register from there.
pub fn is_down(registry: &Registry, hostname: &str, address: &str) -> bool {
    registry.machines.iter().any(|(machine, mode)| {
        *mode == MachineMode::Down && maintenance::is_machine(machine, hostname, address)
    })
}
