//! The registry's nouns out of a message. Trusts nothing.

use std::collections::{BTreeMap, BTreeSet};

use capnp::{struct_list, text_list};
use model::Fault;
use model::registry::{
    Admitted, AgentId, AgentRecord, Drain, Edit, FrameworkId, FrameworkRecord, MachineId, MachineMode,
    MasterRecord, Quota, Record, Registry, Standing, Timestamp, Unreachable, Window,
};
use model::resources::{Role, Scalar};

use super::resources::{amount, get_all, get_attributes, role, roles};
use crate::bounds::{TextBudget, check_length};
use crate::registry_capnp as schema;
use crate::value::{some, text, unknown, within};

pub(super) type Result<T> = std::result::Result<T, Fault>;

/// Of any list: an agent costs a kilobyte, and a million of them are ten times what was ever heard of.
const ITEMS_MAX: u32 = 1 << 20;

pub(super) fn record(reader: schema::record::Reader<'_>, budget: &mut TextBudget) -> Result<Record> {
    use schema::record::{Delta, Snapshot};
    let sequence = reader.get_sequence();
    match reader.which() {
        Ok(Snapshot(all)) => Ok(Record::Snapshot {
            sequence,
            registry: Box::new(registry(some("snapshot", all)?, budget)?),
        }),
        Ok(Delta(list)) => {
            let mut edits = Vec::new();
            for (at, one) in items("delta", list)?.iter().enumerate() {
                edits.push(edit(one, budget).map_err(|fault| within(fault, &format!("edit {at}")))?);
            }
            Ok(Record::Delta { sequence, edits })
        }
        Err(new) => Err(unknown("record", new)),
    }
}

pub(super) fn items<'a, T: capnp::traits::OwnedStruct>(
    field: &str,
    list: capnp::Result<struct_list::Reader<'a, T>>,
) -> Result<struct_list::Reader<'a, T>> {
    let list = some(field, list)?;
    check_length(field, list.len() as usize, ITEMS_MAX)?;
    Ok(list)
}

pub(super) fn strings(
    field: &str,
    list: capnp::Result<text_list::Reader<'_>>,
    budget: &mut TextBudget,
) -> Result<Vec<String>> {
    let list = some(field, list)?;
    check_length(field, list.len() as usize, ITEMS_MAX)?;
    list.iter().map(|value| text(field, value, budget)).collect()
}

pub(super) fn words(
    field: &str,
    list: capnp::Result<text_list::Reader<'_>>,
    budget: &mut TextBudget,
) -> Result<BTreeSet<String>> {
    Ok(strings(field, list, budget)?.into_iter().collect())
}

pub(super) fn scalar(field: &str, milli: u64) -> Result<Scalar> {
    amount(field, milli)
}

/// To keep either of two would be a guess.
fn insert<K: Ord, V>(field: &str, map: &mut BTreeMap<K, V>, key: K, value: V) -> Result<()> {
    match map.insert(key, value) {
        None => Ok(()),
        Some(_) => Err(Fault::invalid(field, "holds a key twice")),
    }
}

fn registry(reader: schema::registry::Reader<'_>, budget: &mut TextBudget) -> Result<Registry> {
    let mut all = Registry {
        master: match reader.has_master() {
            true => Some(master(some("master", reader.get_master())?, budget)?),
            false => None,
        },
        quota: quotas(reader.get_quota(), budget)?,
        weights: weights(reader.get_weights(), budget)?,
        schedule: windows(reader.get_schedule(), budget)?,
        minimum_capabilities: words("minimum_capabilities", reader.get_minimum_capabilities(), budget)?,
        ..Registry::default()
    };
    for one in items("agents", reader.get_agents())? {
        let (id, agent) = admitted(one, budget)?;
        insert("agents", &mut all.agents, id, agent)?;
    }
    for one in items("unreachable", reader.get_unreachable())? {
        let (id, agent) = admitted(some("unreachable.admitted", one.get_admitted())?, budget)?;
        let since = one.get_since();
        insert(
            "unreachable",
            &mut all.unreachable,
            id,
            Unreachable { since, agent },
        )?;
    }
    for one in items("gone", reader.get_gone())? {
        let (id, since) = gone(one, budget)?;
        insert("gone", &mut all.gone, id, since)?;
    }
    for one in items("frameworks", reader.get_frameworks())? {
        let (id, record) = framework(one, budget)?;
        insert("frameworks", &mut all.frameworks, id, record)?;
    }
    for one in items("machines", reader.get_machines())? {
        let mode = match one.get_mode() {
            Ok(schema::MachineMode::Draining) => MachineMode::Draining,
            Ok(schema::MachineMode::Down) => MachineMode::Down,
            Err(new) => return Err(unknown("machine.mode", new)),
        };
        let id = machine(some("machine", one.get_machine())?, budget)?;
        insert("machines", &mut all.machines, id, mode)?;
    }
    Ok(all)
}

fn edit(reader: schema::edit::Reader<'_>, budget: &mut TextBudget) -> Result<Edit> {
    use schema::edit::Which;
    Ok(match reader.which().map_err(|new| unknown("edit", new))? {
        Which::Lead(leader) => Edit::Lead(master(some("lead", leader)?, budget)?),
        Which::Admit(one) => {
            let one = some("admit", one)?;
            let key = text("admit.key", one.get_key(), budget)?;
            let (id, record) = agent_edit(one, budget)?;
            Edit::Admit { id, record, key }
        }
        Which::UpdateAgent(one) => {
            let (id, record) = agent_edit(some("update_agent", one)?, budget)?;
            Edit::UpdateAgent { id, record }
        }
        Which::MarkUnreachable(one) => {
            let (id, at) = gone(some("mark_unreachable", one)?, budget)?;
            Edit::MarkUnreachable { id, at }
        }
        Which::MarkReachable(one) => {
            let (id, record) = agent_edit(some("mark_reachable", one)?, budget)?;
            Edit::MarkReachable { id, record }
        }
        Which::Remove(id) => Edit::Remove {
            id: agent_id(id, budget)?,
        },
        Which::MarkGone(one) => {
            let (id, at) = gone(some("mark_gone", one)?, budget)?;
            Edit::MarkGone { id, at }
        }
        Which::Drain(one) => Edit::Drain {
            id: agent_id(one.get_id(), budget)?,
            grace_max_seconds: seconds(one.get_grace_max())?,
            mark_gone: one.get_mark_gone(),
        },
        Which::MarkDrained(id) => Edit::MarkDrained {
            id: agent_id(id, budget)?,
        },
        Which::Deactivate(id) => Edit::Deactivate {
            id: agent_id(id, budget)?,
        },
        Which::Reactivate(id) => Edit::Reactivate {
            id: agent_id(id, budget)?,
        },
        Which::Reserve(one) => Edit::Reserve {
            id: agent_id(one.get_id(), budget)?,
            reserved: get_all("reserve.reserved", one.get_reserved(), budget)?,
        },
        Which::Prune(one) => Edit::Prune {
            unreachable: agent_ids(one.get_unreachable(), budget)?,
            gone: agent_ids(one.get_gone(), budget)?,
        },
        Which::PutFramework(one) => {
            let (id, record) = framework(some("put_framework", one)?, budget)?;
            Edit::PutFramework { id, record }
        }
        Which::RemoveFramework(id) => Edit::RemoveFramework {
            id: FrameworkId(text("framework.id", id, budget)?),
        },
        Which::SetQuota(list) => Edit::SetQuota(quotas(list, budget)?),
        Which::SetWeights(list) => Edit::SetWeights(weights(list, budget)?),
        Which::SetSchedule(list) => Edit::SetSchedule(windows(list, budget)?),
        Which::StartMaintenance(list) => Edit::StartMaintenance(machines(list, budget)?),
        Which::StopMaintenance(list) => Edit::StopMaintenance(machines(list, budget)?),
    })
}

fn master(reader: schema::master::Reader<'_>, budget: &mut TextBudget) -> Result<MasterRecord> {
    Ok(MasterRecord {
        id: text("master.id", reader.get_id(), budget)?,
        hostname: text("master.hostname", reader.get_hostname(), budget)?,
        address: text("master.address", reader.get_address(), budget)?,
        version: text("master.version", reader.get_version(), budget)?,
        term: reader.get_term(),
    })
}

fn agent_id(value: capnp::Result<capnp::text::Reader<'_>>, budget: &mut TextBudget) -> Result<AgentId> {
    text("agent.id", value, budget).map(AgentId)
}

fn agent_ids(list: capnp::Result<text_list::Reader<'_>>, budget: &mut TextBudget) -> Result<Vec<AgentId>> {
    Ok(strings("agent.id", list, budget)?
        .into_iter()
        .map(AgentId)
        .collect())
}

fn agent_edit(
    reader: schema::agent_edit::Reader<'_>,
    budget: &mut TextBudget,
) -> Result<(AgentId, AgentRecord)> {
    Ok((
        agent_id(reader.get_id(), budget)?,
        agent(some("agent", reader.get_agent())?, budget)?,
    ))
}

pub(crate) fn agent(reader: schema::agent::Reader<'_>, budget: &mut TextBudget) -> Result<AgentRecord> {
    Ok(AgentRecord {
        hostname: text("agent.hostname", reader.get_hostname(), budget)?,
        address: text("agent.address", reader.get_address(), budget)?,
        resources: get_all("agent.resources", reader.get_resources(), budget)?,
        attributes: get_attributes(reader.get_attributes(), budget)?,
        version: text("agent.version", reader.get_version(), budget)?,
        capabilities: words("agent.capabilities", reader.get_capabilities(), budget)?,
    })
}

fn admitted(reader: schema::admitted::Reader<'_>, budget: &mut TextBudget) -> Result<(AgentId, Admitted)> {
    let drain = match reader.has_drain() {
        false => None,
        true => {
            let drain = some("drain", reader.get_drain())?;
            Some(Drain {
                grace_max_seconds: seconds(drain.get_grace_max())?,
                mark_gone: drain.get_mark_gone(),
                drained: drain.get_drained(),
            })
        }
    };
    let admitted = Admitted {
        record: agent(some("agent", reader.get_agent())?, budget)?,
        standing: Standing {
            drain,
            deactivated: reader.get_deactivated(),
        },
        reserved: get_all("agent.reserved", reader.get_reserved(), budget)?,
        key: text("agent.key", reader.get_key(), budget)?,
    };
    Ok((agent_id(reader.get_id(), budget)?, admitted))
}

fn seconds(value: capnp::Result<schema::optional_seconds::Reader<'_>>) -> Result<Option<u64>> {
    use schema::optional_seconds::{None as Nothing, Seconds};
    match some("grace_max", value)?.which() {
        Ok(Nothing(())) => Ok(None),
        Ok(Seconds(seconds)) => Ok(Some(seconds)),
        Err(new) => Err(unknown("grace_max", new)),
    }
}

fn gone(reader: schema::gone::Reader<'_>, budget: &mut TextBudget) -> Result<(AgentId, Timestamp)> {
    Ok((agent_id(reader.get_id(), budget)?, reader.get_since()))
}

fn framework(
    reader: schema::framework::Reader<'_>,
    budget: &mut TextBudget,
) -> Result<(FrameworkId, FrameworkRecord)> {
    let record = FrameworkRecord {
        name: text("framework.name", reader.get_name(), budget)?,
        user: text("framework.user", reader.get_user(), budget)?,
        roles: roles("framework.roles", reader.get_roles(), budget)?,
        principal: match reader.has_principal() {
            true => Some(text("framework.principal", reader.get_principal(), budget)?),
            false => None,
        },
        failover_timeout_seconds: reader.get_failover_timeout_seconds(),
        capabilities: words("framework.capabilities", reader.get_capabilities(), budget)?,
        checkpoint: reader.get_checkpoint(),
    };
    Ok((
        FrameworkId(text("framework.id", reader.get_id(), budget)?),
        record,
    ))
}

type Amounts<'a> = capnp::Result<struct_list::Reader<'a, schema::named_amount::Owned>>;

fn amounts(field: &str, list: Amounts<'_>, budget: &mut TextBudget) -> Result<BTreeMap<String, Scalar>> {
    let mut all = BTreeMap::new();
    for one in items(field, list)? {
        let name = text(field, one.get_name(), budget)?;
        insert(field, &mut all, name, scalar(field, one.get_milli())?)?;
    }
    Ok(all)
}

fn quotas(
    list: capnp::Result<struct_list::Reader<'_, schema::quota::Owned>>,
    budget: &mut TextBudget,
) -> Result<BTreeMap<Role, Quota>> {
    let mut all = BTreeMap::new();
    for one in items("quota", list)? {
        let of = role("quota.role", &text("quota.role", one.get_role(), budget)?)?;
        let quota = Quota {
            guarantees: amounts("quota.guarantees", one.get_guarantees(), budget)?,
            limits: amounts("quota.limits", one.get_limits(), budget)?,
        };
        insert("quota", &mut all, of, quota)?;
    }
    Ok(all)
}

fn weights(list: Amounts<'_>, budget: &mut TextBudget) -> Result<BTreeMap<Role, Scalar>> {
    let mut all = BTreeMap::new();
    for (name, weight) in amounts("weights", list, budget)? {
        all.insert(role("weights", &name)?, weight);
    }
    Ok(all)
}

fn machine(reader: schema::machine::Reader<'_>, budget: &mut TextBudget) -> Result<MachineId> {
    Ok(MachineId {
        hostname: text("machine.hostname", reader.get_hostname(), budget)?,
        address: text("machine.address", reader.get_address(), budget)?,
    })
}

fn machines(
    list: capnp::Result<struct_list::Reader<'_, schema::machine::Owned>>,
    budget: &mut TextBudget,
) -> Result<Vec<MachineId>> {
    let list = items("machines", list)?;
    list.iter().map(|one| machine(one, budget)).collect()
}

fn windows(
    list: capnp::Result<struct_list::Reader<'_, schema::window::Owned>>,
    budget: &mut TextBudget,
) -> Result<Vec<Window>> {
    use schema::window::duration;
    let mut all = Vec::new();
    for one in items("schedule", list)? {
        let duration_nanoseconds = match one.get_duration().which() {
            Ok(duration::Forever(())) => None,
            Ok(duration::Nanoseconds(nanoseconds)) => Some(nanoseconds),
            Err(new) => return Err(unknown("window.duration", new)),
        };
        all.push(Window {
            machines: machines(one.get_machines(), budget)?,
            start_nanoseconds: one.get_start_nanoseconds(),
            duration_nanoseconds,
        });
    }
    Ok(all)
}
