//! What an agent answers besides single nouns: itself, its host, lists.

use model::{AgentInfo, Bytes, ContainerStatus, Fault, HostReport, IsolatorReport};

use crate::agent_capnp::{host_info, version_info};
use crate::bounds::{CONTAINERS_MAX, DETAILS_MAX, REPORT_LINES_MAX, TextBudget, check_length};
use crate::container::{decode_status, encode_status};
use crate::value::{optional_text, pairs, set_pairs, some, text, texts, within};
use crate::value_capnp::{container_status, key_value};

pub fn encode_info(info: &AgentInfo, mut builder: version_info::Builder<'_>) {
    builder.set_version(&info.version);
    builder.set_git_sha(&info.git_sha);
    builder.set_build_date(&info.build_date);
    builder.set_started_at_ms(info.started_at_ms);
    builder.set_pid(info.pid);
    builder.set_instance(&info.instance);
    if let Some(address) = &info.http_address {
        builder.set_http_address(address);
    }
    builder.set_work_dir(&info.work_dir);
    builder.set_runtime_dir(&info.runtime_dir);
}

pub fn decode_info(reader: version_info::Reader<'_>) -> Result<AgentInfo, Fault> {
    let budget = &mut TextBudget::default();
    Ok(AgentInfo {
        version: text("version", reader.get_version(), budget)?,
        git_sha: text("git_sha", reader.get_git_sha(), budget)?,
        build_date: text("build_date", reader.get_build_date(), budget)?,
        started_at_ms: reader.get_started_at_ms(),
        pid: reader.get_pid(),
        instance: text("instance", reader.get_instance(), budget)?,
        http_address: optional_text("http_address", reader.get_http_address(), budget)?,
        work_dir: text("work_dir", reader.get_work_dir(), budget)?,
        runtime_dir: text("runtime_dir", reader.get_runtime_dir(), budget)?,
    })
}

pub fn encode_host(host: &HostReport, mut builder: host_info::Builder<'_>) {
    builder.set_kernel_release(&host.kernel_release);
    builder.set_cgroup_layout(&host.cgroup_layout);
    builder.set_cpus(host.cpus);
    builder.set_memory_bytes(host.memory.get());
    let mut lines = builder.init_isolators(host.isolators.len() as u32);
    for (index, isolator) in host.isolators.iter().enumerate() {
        let mut line = lines.reborrow().get(index as u32);
        line.set_name(&isolator.name);
        line.set_active(isolator.active);
        line.set_mechanism(&isolator.mechanism);
        line.set_missing(&isolator.missing);
    }
}

pub fn decode_host(reader: host_info::Reader<'_>) -> Result<HostReport, Fault> {
    let budget = &mut TextBudget::default();
    let lines = some("isolators", reader.get_isolators())?;
    check_length("isolators", lines.len() as usize, REPORT_LINES_MAX)?;
    let mut isolators = Vec::with_capacity(lines.len() as usize);
    for (index, line) in lines.iter().enumerate() {
        let mut read = || {
            Ok(IsolatorReport {
                name: text("name", line.get_name(), budget)?,
                active: line.get_active(),
                mechanism: text("mechanism", line.get_mechanism(), budget)?,
                missing: text("missing", line.get_missing(), budget)?,
            })
        };
        isolators.push(read().map_err(|fault| within(within(fault, &index.to_string()), "isolators"))?);
    }
    Ok(HostReport {
        isolators,
        kernel_release: text("kernel_release", reader.get_kernel_release(), budget)?,
        cgroup_layout: text("cgroup_layout", reader.get_cgroup_layout(), budget)?,
        cpus: reader.get_cpus(),
        memory: Bytes(reader.get_memory_bytes()),
    })
}

/// Writes statuses in order; the list must have been made with as many entries.
pub fn encode_statuses<'a>(
    statuses: impl IntoIterator<Item = &'a ContainerStatus>,
    mut builder: capnp::struct_list::Builder<'_, container_status::Owned>,
) {
    for (index, status) in statuses.into_iter().enumerate() {
        encode_status(status, builder.reborrow().get(index as u32));
    }
}

pub fn decode_statuses(
    list: capnp::Result<capnp::struct_list::Reader<'_, container_status::Owned>>,
) -> Result<Vec<ContainerStatus>, Fault> {
    const FIELD: &str = "containers";
    let list = some(FIELD, list)?;
    check_length(FIELD, list.len() as usize, CONTAINERS_MAX)?;
    let mut statuses = Vec::with_capacity(list.len() as usize);
    for (index, status) in list.iter().enumerate() {
        statuses
            .push(decode_status(status).map_err(|fault| within(within(fault, &index.to_string()), FIELD))?);
    }
    Ok(statuses)
}

/// The lines of `inspect` that have no noun of their own.
pub fn encode_detail(
    detail: &[(String, String)],
    builder: capnp::struct_list::Builder<'_, key_value::Owned>,
) {
    set_pairs(
        detail.iter().map(|(key, value)| (key.as_str(), value.as_str())),
        builder,
    );
}

pub fn decode_detail(
    list: capnp::Result<capnp::struct_list::Reader<'_, key_value::Owned>>,
) -> Result<Vec<(String, String)>, Fault> {
    pairs("detail", list, DETAILS_MAX, &mut TextBudget::default())
}

/// Ids of containers in a request.
pub fn decode_ids(list: capnp::Result<capnp::text_list::Reader<'_>>) -> Result<Vec<String>, Fault> {
    texts("ids", list, CONTAINERS_MAX, &mut TextBudget::default())
}

/// The text that names a container, a version or a principal in a request.
pub fn decode_text(field: &str, value: capnp::Result<capnp::text::Reader<'_>>) -> Result<String, Fault> {
    text(field, value, &mut TextBudget::default())
}
