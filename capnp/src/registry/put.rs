//! The registry's nouns into a message.

use std::collections::BTreeMap;

use capnp::struct_list;
use model::registry::{
    Admitted, AgentId, AgentRecord, Edit, FrameworkId, FrameworkRecord, MachineId, MachineMode, MasterRecord,
    Quota, Record, Registry, Timestamp, Window,
};
use model::resources::{Role, Scalar};

use super::resources::{put_all, put_attributes};
use crate::registry_capnp as schema;
use crate::value::set_texts;

pub(super) fn record(value: &Record, mut builder: schema::record::Builder<'_>) {
    builder.set_sequence(value.sequence());
    match value {
        Record::Snapshot { registry: all, .. } => registry(all, builder.init_snapshot()),
        Record::Delta { edits, .. } => {
            let mut list = builder.init_delta(edits.len() as u32);
            for (at, one) in (0..).zip(edits) {
                edit(one, list.reborrow().get(at));
            }
        }
    }
}

fn registry(value: &Registry, mut builder: schema::registry::Builder<'_>) {
    if let Some(leader) = &value.master {
        master(leader, builder.reborrow().init_master());
    }
    let mut agents = builder.reborrow().init_agents(value.agents.len() as u32);
    for (at, (id, one)) in (0..).zip(&value.agents) {
        admitted(id, one, agents.reborrow().get(at));
    }
    let mut unreachable = builder
        .reborrow()
        .init_unreachable(value.unreachable.len() as u32);
    for (at, (id, one)) in (0..).zip(&value.unreachable) {
        let mut entry = unreachable.reborrow().get(at);
        entry.set_since(one.since);
        admitted(id, &one.agent, entry.init_admitted());
    }
    let mut lost = builder.reborrow().init_gone(value.gone.len() as u32);
    for (at, (id, since)) in (0..).zip(&value.gone) {
        gone(id, *since, lost.reborrow().get(at));
    }
    let mut frameworks = builder.reborrow().init_frameworks(value.frameworks.len() as u32);
    for (at, (id, one)) in (0..).zip(&value.frameworks) {
        framework(id, one, frameworks.reborrow().get(at));
    }
    quotas(
        &value.quota,
        builder.reborrow().init_quota(value.quota.len() as u32),
    );
    weights(
        &value.weights,
        builder.reborrow().init_weights(value.weights.len() as u32),
    );
    let mut machines = builder.reborrow().init_machines(value.machines.len() as u32);
    for (at, (id, mode)) in (0..).zip(&value.machines) {
        let mut entry = machines.reborrow().get(at);
        entry.set_mode(match mode {
            MachineMode::Draining => schema::MachineMode::Draining,
            MachineMode::Down => schema::MachineMode::Down,
        });
        machine(id, entry.init_machine());
    }
    windows(
        &value.schedule,
        builder.reborrow().init_schedule(value.schedule.len() as u32),
    );
    let needed = &value.minimum_capabilities;
    set_texts(
        needed.iter().map(String::as_str),
        builder.init_minimum_capabilities(needed.len() as u32),
    );
}

fn edit(value: &Edit, mut builder: schema::edit::Builder<'_>) {
    match value {
        Edit::Lead(leader) => master(leader, builder.init_lead()),
        Edit::Admit { id, record, key } => {
            let mut edit = builder.init_admit();
            if !key.is_empty() {
                edit.set_key(key);
            }
            agent_edit(id, record, edit);
        }
        Edit::UpdateAgent { id, record } => agent_edit(id, record, builder.init_update_agent()),
        Edit::MarkUnreachable { id, at } => gone(id, *at, builder.init_mark_unreachable()),
        Edit::MarkReachable { id, record } => agent_edit(id, record, builder.init_mark_reachable()),
        Edit::Remove { id } => builder.set_remove(&id.0),
        Edit::MarkGone { id, at } => gone(id, *at, builder.init_mark_gone()),
        Edit::Drain {
            id,
            grace_max_seconds,
            mark_gone,
        } => {
            let mut drain = builder.init_drain();
            drain.set_id(&id.0);
            drain.set_mark_gone(*mark_gone);
            seconds(*grace_max_seconds, drain.init_grace_max());
        }
        Edit::MarkDrained { id } => builder.set_mark_drained(&id.0),
        Edit::Deactivate { id } => builder.set_deactivate(&id.0),
        Edit::Reactivate { id } => builder.set_reactivate(&id.0),
        Edit::Reserve { id, reserved } => {
            let mut reserve = builder.init_reserve();
            reserve.set_id(&id.0);
            put_all(reserved, reserve.init_reserved(reserved.iter().len() as u32));
        }
        Edit::Prune { unreachable, gone } => {
            let mut prune = builder.init_prune();
            let names = |ids: &[AgentId]| ids.iter().map(|id| id.0.clone()).collect::<Vec<_>>();
            set_texts(
                names(unreachable).iter().map(String::as_str),
                prune.reborrow().init_unreachable(unreachable.len() as u32),
            );
            set_texts(
                names(gone).iter().map(String::as_str),
                prune.init_gone(gone.len() as u32),
            );
        }
        Edit::PutFramework { id, record } => framework(id, record, builder.init_put_framework()),
        Edit::RemoveFramework { id } => builder.set_remove_framework(&id.0),
        Edit::SetQuota(all) => quotas(all, builder.init_set_quota(all.len() as u32)),
        Edit::SetWeights(all) => weights(all, builder.init_set_weights(all.len() as u32)),
        Edit::SetSchedule(all) => windows(all, builder.init_set_schedule(all.len() as u32)),
        Edit::StartMaintenance(all) => machines(all, builder.init_start_maintenance(all.len() as u32)),
        Edit::StopMaintenance(all) => machines(all, builder.init_stop_maintenance(all.len() as u32)),
    }
}

fn master(value: &MasterRecord, mut builder: schema::master::Builder<'_>) {
    builder.set_id(&value.id);
    builder.set_hostname(&value.hostname);
    builder.set_address(&value.address);
    builder.set_version(&value.version);
    builder.set_term(value.term);
}

fn agent_edit(id: &AgentId, record: &AgentRecord, mut builder: schema::agent_edit::Builder<'_>) {
    builder.set_id(&id.0);
    agent(record, builder.init_agent());
}

pub(crate) fn agent(value: &AgentRecord, mut builder: schema::agent::Builder<'_>) {
    builder.set_hostname(&value.hostname);
    builder.set_address(&value.address);
    let count = value.resources.iter().len() as u32;
    put_all(&value.resources, builder.reborrow().init_resources(count));
    let count = value.attributes.0.len() as u32;
    put_attributes(&value.attributes, builder.reborrow().init_attributes(count));
    builder.set_version(&value.version);
    set_texts(
        value.capabilities.iter().map(String::as_str),
        builder.init_capabilities(value.capabilities.len() as u32),
    );
}

fn admitted(id: &AgentId, value: &Admitted, mut builder: schema::admitted::Builder<'_>) {
    builder.set_id(&id.0);
    agent(&value.record, builder.reborrow().init_agent());
    if let Some(drain) = &value.standing.drain {
        let mut entry = builder.reborrow().init_drain();
        entry.set_mark_gone(drain.mark_gone);
        entry.set_drained(drain.drained);
        seconds(drain.grace_max_seconds, entry.init_grace_max());
    }
    builder.set_deactivated(value.standing.deactivated);
    if !value.key.is_empty() {
        builder.set_key(&value.key);
    }
    let count = value.reserved.iter().len() as u32;
    put_all(&value.reserved, builder.init_reserved(count));
}

fn seconds(value: Option<u64>, mut builder: schema::optional_seconds::Builder<'_>) {
    match value {
        None => builder.set_none(()),
        Some(seconds) => builder.set_seconds(seconds),
    }
}

fn gone(id: &AgentId, since: Timestamp, mut builder: schema::gone::Builder<'_>) {
    builder.set_id(&id.0);
    builder.set_since(since);
}

fn framework(id: &FrameworkId, value: &FrameworkRecord, mut builder: schema::framework::Builder<'_>) {
    builder.set_id(&id.0);
    builder.set_name(&value.name);
    builder.set_user(&value.user);
    set_texts(
        value.roles.iter().map(Role::as_str),
        builder.reborrow().init_roles(value.roles.len() as u32),
    );
    if let Some(principal) = &value.principal {
        builder.set_principal(principal);
    }
    builder.set_failover_timeout_seconds(value.failover_timeout_seconds);
    builder.set_checkpoint(value.checkpoint);
    set_texts(
        value.capabilities.iter().map(String::as_str),
        builder.init_capabilities(value.capabilities.len() as u32),
    );
}

fn quotas(all: &BTreeMap<Role, Quota>, mut list: struct_list::Builder<'_, schema::quota::Owned>) {
    for (at, (role, quota)) in (0..).zip(all) {
        let mut entry = list.reborrow().get(at);
        entry.set_role(role.as_str());
        amounts(
            quota
                .guarantees
                .iter()
                .map(|(name, scalar)| (name.as_str(), *scalar)),
            entry.reborrow().init_guarantees(quota.guarantees.len() as u32),
        );
        amounts(
            quota.limits.iter().map(|(name, scalar)| (name.as_str(), *scalar)),
            entry.init_limits(quota.limits.len() as u32),
        );
    }
}

fn weights(all: &BTreeMap<Role, Scalar>, list: struct_list::Builder<'_, schema::named_amount::Owned>) {
    amounts(all.iter().map(|(role, scalar)| (role.as_str(), *scalar)), list);
}

fn amounts<'a>(
    all: impl Iterator<Item = (&'a str, Scalar)>,
    mut list: struct_list::Builder<'_, schema::named_amount::Owned>,
) {
    for (at, (name, scalar)) in (0..).zip(all) {
        let mut entry = list.reborrow().get(at);
        entry.set_name(name);
        entry.set_milli(scalar.milli());
    }
}

fn machine(value: &MachineId, mut builder: schema::machine::Builder<'_>) {
    builder.set_hostname(&value.hostname);
    builder.set_address(&value.address);
}

fn machines(all: &[MachineId], mut list: struct_list::Builder<'_, schema::machine::Owned>) {
    for (at, one) in (0..).zip(all) {
        machine(one, list.reborrow().get(at));
    }
}

fn windows(all: &[Window], mut list: struct_list::Builder<'_, schema::window::Owned>) {
    for (at, window) in (0..).zip(all) {
        let mut entry = list.reborrow().get(at);
        entry.set_start_nanoseconds(window.start_nanoseconds);
        let mut duration = entry.reborrow().init_duration();
        match window.duration_nanoseconds {
            None => duration.set_forever(()),
            Some(nanoseconds) => duration.set_nanoseconds(nanoseconds),
        }
        machines(
            &window.machines,
            entry.init_machines(window.machines.len() as u32),
        );
    }
}
