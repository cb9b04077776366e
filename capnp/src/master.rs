//! What agents, masters and those who ask them say to each other.

use std::sync::Arc;

use capnp::struct_list;
use model::registry::AgentId;
use model::resources::Scalar;
use model::task::{
    AgentState, AgentView, Hello, LeaderView, Need, Refusal, TaskRecord, TaskReport, TaskState, TaskStatus,
    TaskView, Welcome,
};
use model::{ContainerId, Fault};

use crate::bounds::{TextBudget, check_length};
use crate::master_capnp as schema;
use crate::registry::{get_agent, put_agent};
use crate::value::{container_id, container_name, enum_pair, some, text, within};

/// Tasks of one agent, ended ones included.
pub const TASKS_MAX: u32 = 1 << 16;
/// Statuses of one task: each state twice would be more than any has.
const STATUSES_MAX: u32 = 64;
/// Agents or tasks of one page.
pub const PAGE_MAX: u32 = 1000;
/// Of a hello: ours have 32.
const KEY_BYTES_MAX: u32 = 64;
/// All texts of a hello or of a page together.
const TEXTS_BYTES_MAX: usize = 16 << 20;

enum_pair!(
    state_to_wire,
    state_from_wire,
    TaskState,
    schema::TaskState,
    [
        Staging,
        Starting,
        Running,
        Killing,
        Unreachable,
        Finished,
        Failed,
        Killed,
        Error,
        Lost,
        Dropped,
        GoneByOperator
    ]
);
enum_pair!(
    refusal_to_wire,
    refusal_from_wire,
    Refusal,
    schema::Refusal,
    [Retry, Shutdown]
);
enum_pair!(
    agent_state_to_wire,
    agent_state_from_wire,
    AgentState,
    schema::agent_view::State,
    [Recovered, Active, Disconnected, Unreachable, Gone]
);

pub fn encode_refusal(refusal: Refusal) -> schema::Refusal {
    refusal_to_wire(refusal)
}

pub fn decode_refusal(value: Result<schema::Refusal, capnp::NotInSchema>) -> Result<Refusal, Fault> {
    refusal_from_wire("refusal", value)
}

pub fn encode_need(need: Need, mut builder: schema::need::Builder<'_>) {
    builder.set_cpus(need.cpus.milli());
    builder.set_mem(need.mem.milli());
    builder.set_disk(need.disk.milli());
    builder.set_ports(need.ports);
}

pub fn decode_need(reader: schema::need::Reader<'_>) -> Need {
    Need {
        cpus: Scalar::from_milli(reader.get_cpus()),
        mem: Scalar::from_milli(reader.get_mem()),
        disk: Scalar::from_milli(reader.get_disk()),
        ports: reader.get_ports(),
    }
}

fn encode_status(status: &TaskStatus, mut builder: schema::task_status::Builder<'_>) {
    builder.set_state(state_to_wire(status.state));
    builder.set_message(&status.message);
    builder.set_at_ms(status.at_ms);
    if let Some(exit_status) = status.exit_status {
        builder.set_exit_status(exit_status);
        builder.set_has_exit_status(true);
    }
}

fn decode_status(
    reader: schema::task_status::Reader<'_>,
    budget: &mut TextBudget,
) -> Result<TaskStatus, Fault> {
    Ok(TaskStatus {
        state: state_from_wire("state", reader.get_state())?,
        message: text("message", reader.get_message(), budget)?,
        at_ms: reader.get_at_ms(),
        exit_status: reader.get_has_exit_status().then(|| reader.get_exit_status()),
    })
}

pub fn encode_report(report: &TaskReport, mut builder: schema::task_report::Builder<'_>) {
    builder.set_id(report.id.as_str());
    if let Some(name) = &report.name {
        builder.set_name(name.as_str());
    }
    encode_need(report.need, builder.reborrow().init_need());
    builder.set_sequence(report.sequence);
    encode_status(&report.status, builder.init_status());
}

pub fn decode_report(reader: schema::task_report::Reader<'_>) -> Result<TaskReport, Fault> {
    report(reader, &mut TextBudget::default())
}

fn report(reader: schema::task_report::Reader<'_>, budget: &mut TextBudget) -> Result<TaskReport, Fault> {
    Ok(TaskReport {
        id: container_id("id", reader.get_id(), budget)?,
        name: container_name("name", reader.get_name(), budget)?,
        need: decode_need(some("need", reader.get_need())?),
        sequence: reader.get_sequence(),
        status: decode_status(some("status", reader.get_status())?, budget)
            .map_err(|fault| within(fault, "status"))?,
    })
}

pub fn encode_hello(hello: &Hello, mut builder: schema::hello::Builder<'_>) {
    if let Some(id) = &hello.id {
        builder.set_id(&id.0);
    }
    put_agent(&hello.record, builder.reborrow().init_agent());
    builder.set_boot_id(&hello.boot_id);
    builder.set_term(hello.term);
    builder.set_key(&hello.key);
    let mut list = builder.init_tasks(hello.tasks.len() as u32);
    for (at, task) in (0..).zip(&hello.tasks) {
        encode_report(task, list.reborrow().get(at));
    }
}

pub fn decode_hello(reader: schema::hello::Reader<'_>) -> Result<Hello, Fault> {
    let budget = &mut TextBudget::of(TEXTS_BYTES_MAX);
    let id = text("id", reader.get_id(), budget)?;
    let list = some("tasks", reader.get_tasks())?;
    check_length("tasks", list.len() as usize, TASKS_MAX)?;
    let key = text("key", reader.get_key(), budget)?;
    check_length("key", key.len(), KEY_BYTES_MAX)?;
    Ok(Hello {
        id: (!id.is_empty()).then_some(AgentId(id)),
        key,
        record: get_agent(some("agent", reader.get_agent())?, budget)?,
        boot_id: text("boot_id", reader.get_boot_id(), budget)?,
        term: reader.get_term(),
        tasks: list
            .iter()
            .map(|task| report(task, budget).map_err(|fault| within(fault, "tasks")))
            .collect::<Result<_, _>>()?,
    })
}

pub fn encode_welcome(welcome: &Welcome, mut builder: schema::welcome::Builder<'_>) {
    builder.set_id(&welcome.id.0);
    builder.set_term(welcome.term);
    builder.set_silence_max_ms(welcome.silence_max_ms);
}

pub fn decode_welcome(reader: schema::welcome::Reader<'_>) -> Result<Welcome, Fault> {
    Ok(Welcome {
        id: AgentId(text("id", reader.get_id(), &mut TextBudget::default())?),
        term: reader.get_term(),
        silence_max_ms: reader.get_silence_max_ms(),
    })
}

pub fn encode_task(task: &TaskView, mut builder: schema::task_view::Builder<'_>) {
    builder.set_id(task.id.as_str());
    if let Some(name) = &task.name {
        builder.set_name(name.as_str());
    }
    builder.set_agent(&task.agent.0);
    builder.set_hostname(&task.hostname);
    encode_need(task.need, builder.reborrow().init_need());
    let mut list = builder.init_statuses(task.statuses.len() as u32);
    for (at, status) in (0..).zip(&task.statuses) {
        encode_status(status, list.reborrow().get(at));
    }
}

pub fn decode_task(reader: schema::task_view::Reader<'_>) -> Result<TaskView, Fault> {
    task(reader, &mut TextBudget::default())
}

fn task(reader: schema::task_view::Reader<'_>, budget: &mut TextBudget) -> Result<TaskView, Fault> {
    let statuses = some("statuses", reader.get_statuses())?;
    check_length("statuses", statuses.len() as usize, STATUSES_MAX)?;
    Ok(TaskView {
        id: container_id("id", reader.get_id(), budget)?,
        name: container_name("name", reader.get_name(), budget)?,
        agent: AgentId(text("agent", reader.get_agent(), budget)?),
        hostname: text("hostname", reader.get_hostname(), budget)?,
        need: decode_need(some("need", reader.get_need())?),
        statuses: statuses
            .iter()
            .map(|status| decode_status(status, budget).map_err(|fault| within(fault, "statuses")))
            .collect::<Result<_, _>>()?,
    })
}

type Tasks<'a> = capnp::Result<struct_list::Reader<'a, schema::task_view::Owned>>;
type Agents<'a> = capnp::Result<struct_list::Reader<'a, schema::agent_view::Owned>>;

pub fn decode_tasks(list: Tasks<'_>) -> Result<Vec<TaskView>, Fault> {
    let list = some("tasks", list)?;
    check_length("tasks", list.len() as usize, PAGE_MAX)?;
    let budget = &mut TextBudget::of(TEXTS_BYTES_MAX);
    list.iter().map(|one| task(one, budget)).collect()
}

pub fn encode_agent(view: &AgentView, mut builder: schema::agent_view::Builder<'_>) {
    builder.set_id(&view.id.0);
    builder.set_state(agent_state_to_wire(view.state));
    put_agent(&view.record, builder.reborrow().init_agent());
    builder.set_deactivated(view.deactivated);
    encode_need(view.used, builder.reborrow().init_used());
    builder.set_tasks(view.tasks);
    builder.set_registered_at_ms(view.registered_at_ms);
    builder.set_reregistered_at_ms(view.reregistered_at_ms);
    builder.set_since_s(view.since_s);
}

pub fn decode_agents(list: Agents<'_>) -> Result<Vec<AgentView>, Fault> {
    let list = some("agents", list)?;
    check_length("agents", list.len() as usize, PAGE_MAX)?;
    let budget = &mut TextBudget::of(TEXTS_BYTES_MAX);
    list.iter().map(|one| agent(one, budget)).collect()
}

fn agent(reader: schema::agent_view::Reader<'_>, budget: &mut TextBudget) -> Result<AgentView, Fault> {
    Ok(AgentView {
        id: AgentId(text("id", reader.get_id(), budget)?),
        state: agent_state_from_wire("state", reader.get_state())?,
        record: Arc::new(get_agent(some("agent", reader.get_agent())?, budget)?),
        deactivated: reader.get_deactivated(),
        used: decode_need(some("used", reader.get_used())?),
        tasks: reader.get_tasks(),
        registered_at_ms: reader.get_registered_at_ms(),
        reregistered_at_ms: reader.get_reregistered_at_ms(),
        since_s: reader.get_since_s(),
    })
}

pub fn encode_leader(leader: &LeaderView, mut builder: schema::leader_view::Builder<'_>) {
    builder.set_id(&leader.id);
    builder.set_address(&leader.address);
    builder.set_hostname(&leader.hostname);
    builder.set_version(&leader.version);
    builder.set_term(leader.term);
    builder.set_elected_at_ms(leader.elected_at_ms);
}

pub fn decode_leader(reader: schema::leader_view::Reader<'_>) -> Result<LeaderView, Fault> {
    let budget = &mut TextBudget::default();
    Ok(LeaderView {
        id: text("id", reader.get_id(), budget)?,
        address: text("address", reader.get_address(), budget)?,
        hostname: text("hostname", reader.get_hostname(), budget)?,
        version: text("version", reader.get_version(), budget)?,
        term: reader.get_term(),
        elected_at_ms: reader.get_elected_at_ms(),
    })
}

/// The id that an order or a question names.
pub fn decode_id(value: capnp::Result<capnp::text::Reader<'_>>) -> Result<ContainerId, Fault> {
    container_id("id", value, &mut TextBudget::default())
}

/// As a file of an agent's journal.
pub fn encode_record(record: &TaskRecord) -> Vec<u8> {
    let mut message = capnp::message::Builder::new_default();
    let mut builder = message.init_root::<schema::task_record::Builder<'_>>();
    encode_report(&record.report(), builder.reborrow().init_report());
    builder.set_boot_id(&record.boot_id);
    let mut list = builder.init_untold(record.untold.len() as u32);
    for (at, status) in (0..).zip(&record.untold) {
        encode_status(status, list.reborrow().get(at));
    }
    capnp::serialize::write_message_to_words(&message)
}

pub fn decode_record(mut bytes: &[u8]) -> Result<TaskRecord, Fault> {
    let options = capnp::message::ReaderOptions::new();
    let message = some("record", capnp::serialize::read_message(&mut bytes, options))?;
    let reader: schema::task_record::Reader<'_> = some("record", message.get_root())?;
    let budget = &mut TextBudget::default();
    let TaskReport {
        id,
        name,
        need,
        sequence,
        status: last,
    } = report(some("report", reader.get_report())?, budget)?;
    let untold = some("untold", reader.get_untold())?;
    check_length("untold", untold.len() as usize, STATUSES_MAX)?;
    Ok(TaskRecord {
        id,
        name,
        need,
        boot_id: text("boot_id", reader.get_boot_id(), budget)?,
        sequence,
        last,
        untold: untold
            .iter()
            .map(|status| decode_status(status, budget))
            .collect::<Result<_, _>>()?,
    })
}
