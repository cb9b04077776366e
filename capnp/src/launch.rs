//! Launch and exec specifications.

use model::{
    Bytes, Capabilities, ContainerId, DeviceRule, ExecSpec, Fault, LaunchSpec, Millis, Network, OutputPolicy,
    PortRequest, Rlimit, Seccomp, TerminalSize, UserNamespace, Volume,
};

use crate::bounds::{
    ARGUMENTS_MAX, CAPABILITIES_MAX, DEVICES_MAX, ENVIRONMENT_MAX, LABELS_MAX, PORT_RANGES_MAX, RLIMITS_MAX,
    TextBudget, VOLUMES_MAX, check_length,
};
use crate::limits;
use crate::network;
use crate::value::{
    container_name, enum_pair, map, optional_number, optional_path, optional_text, pairs, path, set_pairs,
    set_texts, some, text, texts, within,
};
use crate::value_capnp::user_namespace;
use crate::value_capnp::{self as wire, device_rule, exec_spec, launch_spec, rlimit, terminal_size, volume};

enum_pair!(
    network_to_wire,
    network_from_wire,
    Network,
    wire::Network,
    [Host, None, Mapped]
);
enum_pair!(
    seccomp_to_wire,
    seccomp_from_wire,
    Seccomp,
    wire::Seccomp,
    [Default, Unconfined]
);

pub fn encode(spec: &LaunchSpec, mut builder: launch_spec::Builder<'_>) {
    if let Some(id) = &spec.id {
        builder.set_id(id.as_str());
    }
    if let Some(name) = &spec.name {
        builder.set_name(name.as_str());
    }
    set_texts(
        strs(&spec.command),
        builder.reborrow().init_command(spec.command.len() as u32),
    );
    encode_env(&spec.env, builder.reborrow().init_env(spec.env.len() as u32));
    if let Some(user) = &spec.user {
        builder.set_user(user);
    }
    if let Some(workdir) = &spec.workdir {
        builder.set_workdir(path(workdir));
    }
    if let Some(hostname) = &spec.hostname {
        builder.set_hostname(hostname);
    }
    if let Some(rootfs) = &spec.rootfs {
        builder.set_rootfs(path(rootfs));
    }
    encode_volumes(spec, &mut builder);
    limits::encode(&spec.limits, builder.reborrow().init_limits());
    builder.set_network(network_to_wire(spec.network));
    let Capabilities { add, drop } = &spec.capabilities;
    set_texts(
        strs(add),
        builder.reborrow().init_capabilities_add(add.len() as u32),
    );
    set_texts(
        strs(drop),
        builder.reborrow().init_capabilities_drop(drop.len() as u32),
    );
    encode_rlimits(spec, &mut builder);
    builder.set_seccomp(seccomp_to_wire(spec.seccomp));
    encode_devices(spec, &mut builder);
    if let Some(size) = spec.terminal {
        encode_terminal(size, builder.reborrow().init_terminal());
    }
    builder.set_stdin(spec.stdin);
    builder.set_remove(spec.remove);
    if let Some(timeout) = spec.timeout {
        builder.reborrow().init_timeout_ms().set_value(timeout.get());
    }
    builder.set_grace_ms(spec.grace.get());
    let labels = spec
        .labels
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()));
    set_pairs(labels, builder.reborrow().init_labels(spec.labels.len() as u32));
    builder.set_output_file_bytes(spec.output.file_bytes.get());
    builder.set_output_files(spec.output.files);
    if let Some(request) = &spec.ports {
        network::encode_request(request, builder.reborrow().init_ports());
    }
    if let Some(grant) = &spec.grant {
        network::encode_grant(grant, builder.reborrow().init_grant());
    }
    if let Some(userns) = spec.userns {
        let mut entry = builder.init_userns();
        entry.set_count(userns.count);
        if let Some(base) = userns.base {
            entry.init_base().set_value(base.into());
        }
    }
}

pub fn encode_exec(spec: &ExecSpec, mut builder: exec_spec::Builder<'_>) {
    set_texts(
        strs(&spec.command),
        builder.reborrow().init_command(spec.command.len() as u32),
    );
    encode_env(&spec.env, builder.reborrow().init_env(spec.env.len() as u32));
    if let Some(user) = &spec.user {
        builder.set_user(user);
    }
    if let Some(workdir) = &spec.workdir {
        builder.set_workdir(path(workdir));
    }
    if let Some(size) = spec.terminal {
        encode_terminal(size, builder.reborrow().init_terminal());
    }
    builder.set_stdin(spec.stdin);
}

pub fn encode_terminal(size: TerminalSize, mut builder: terminal_size::Builder<'_>) {
    builder.set_rows(size.rows);
    builder.set_columns(size.columns);
}

fn strs(texts: &[String]) -> impl ExactSizeIterator<Item = &str> {
    texts.iter().map(String::as_str)
}

fn encode_env(env: &[(String, String)], builder: capnp::struct_list::Builder<'_, wire::key_value::Owned>) {
    set_pairs(
        env.iter().map(|(key, value)| (key.as_str(), value.as_str())),
        builder,
    );
}

fn encode_volumes(spec: &LaunchSpec, builder: &mut launch_spec::Builder<'_>) {
    let mut list = builder.reborrow().init_volumes(spec.volumes.len() as u32);
    for (index, volume) in spec.volumes.iter().enumerate() {
        let mut entry = list.reborrow().get(index as u32);
        entry.set_source(path(&volume.source));
        entry.set_target(path(&volume.target));
        entry.set_read_only(volume.read_only);
    }
}

fn encode_rlimits(spec: &LaunchSpec, builder: &mut launch_spec::Builder<'_>) {
    let mut list = builder.reborrow().init_rlimits(spec.rlimits.len() as u32);
    for (index, rlimit) in spec.rlimits.iter().enumerate() {
        let mut entry = list.reborrow().get(index as u32);
        entry.set_name(&rlimit.name);
        if let Some(soft) = rlimit.soft {
            entry.reborrow().init_soft().set_value(soft);
        }
        if let Some(hard) = rlimit.hard {
            entry.reborrow().init_hard().set_value(hard);
        }
    }
}

fn encode_devices(spec: &LaunchSpec, builder: &mut launch_spec::Builder<'_>) {
    let mut list = builder.reborrow().init_devices(spec.devices.len() as u32);
    for (index, rule) in spec.devices.iter().enumerate() {
        let mut entry = list.reborrow().get(index as u32);
        entry.set_path(path(&rule.path));
        entry.set_read(rule.read);
        entry.set_write(rule.write);
        entry.set_mknod(rule.mknod);
    }
}

pub fn decode(reader: launch_spec::Reader<'_>) -> Result<LaunchSpec, Fault> {
    let budget = &mut TextBudget::default();
    Ok(LaunchSpec {
        id: match optional_text("id", reader.get_id(), budget)? {
            None => None,
            Some(id) => {
                Some(ContainerId::try_from(id).map_err(|error| Fault::invalid("id", error.to_string()))?)
            }
        },
        name: container_name("name", reader.get_name(), budget)?,
        command: texts("command", reader.get_command(), ARGUMENTS_MAX, budget)?,
        env: pairs("env", reader.get_env(), ENVIRONMENT_MAX, budget)?,
        user: optional_text("user", reader.get_user(), budget)?,
        workdir: optional_path("workdir", reader.get_workdir(), budget)?,
        hostname: optional_text("hostname", reader.get_hostname(), budget)?,
        rootfs: optional_path("rootfs", reader.get_rootfs(), budget)?,
        volumes: entries("volumes", reader.get_volumes(), VOLUMES_MAX, |entry| {
            decode_volume(entry, budget)
        })?,
        limits: limits::read(some("limits", reader.get_limits())?, budget)
            .map_err(|fault| within(fault, "limits"))?,
        network: network_from_wire("network", reader.get_network())?,
        capabilities: Capabilities {
            add: texts(
                "capabilities.add",
                reader.get_capabilities_add(),
                CAPABILITIES_MAX,
                budget,
            )?,
            drop: texts(
                "capabilities.drop",
                reader.get_capabilities_drop(),
                CAPABILITIES_MAX,
                budget,
            )?,
        },
        rlimits: entries("rlimits", reader.get_rlimits(), RLIMITS_MAX, |entry| {
            decode_rlimit(entry, budget)
        })?,
        seccomp: seccomp_from_wire("seccomp", reader.get_seccomp())?,
        devices: entries("devices", reader.get_devices(), DEVICES_MAX, |entry| {
            decode_device(entry, budget)
        })?,
        terminal: terminal(reader.has_terminal(), || reader.get_terminal())?,
        stdin: reader.get_stdin(),
        remove: reader.get_remove(),
        timeout: optional_number("timeout", reader.get_timeout_ms())?.map(Millis),
        grace: Millis(reader.get_grace_ms()),
        labels: map("labels", reader.get_labels(), LABELS_MAX, budget)?,
        output: OutputPolicy {
            file_bytes: Bytes(reader.get_output_file_bytes()),
            files: reader.get_output_files(),
        },
        userns: match reader.has_userns() {
            true => Some(decode_userns(some("userns", reader.get_userns())?)?),
            false => None,
        },
        ports: match reader.has_ports() {
            true => Some(network::decode_request(some("ports", reader.get_ports())?)?),
            false => None,
        },
        grant: match reader.has_grant() {
            true => Some(network::decode_grant(some("grant", reader.get_grant())?)?),
            false => None,
        },
    })
}

fn decode_userns(reader: user_namespace::Reader<'_>) -> Result<UserNamespace, Fault> {
    let base = optional_number("userns.base", reader.get_base())?
        .map(u32::try_from)
        .transpose()
        .map_err(|error| Fault::invalid("userns.base", error.to_string()))?;
    Ok(UserNamespace {
        base,
        count: reader.get_count(),
    })
}

pub fn decode_exec(reader: exec_spec::Reader<'_>) -> Result<ExecSpec, Fault> {
    let budget = &mut TextBudget::default();
    Ok(ExecSpec {
        command: texts("command", reader.get_command(), ARGUMENTS_MAX, budget)?,
        env: pairs("env", reader.get_env(), ENVIRONMENT_MAX, budget)?,
        user: optional_text("user", reader.get_user(), budget)?,
        workdir: optional_path("workdir", reader.get_workdir(), budget)?,
        terminal: terminal(reader.has_terminal(), || reader.get_terminal())?,
        stdin: reader.get_stdin(),
    })
}

pub fn decode_terminal(reader: terminal_size::Reader<'_>) -> TerminalSize {
    TerminalSize {
        rows: reader.get_rows(),
        columns: reader.get_columns(),
    }
}

fn terminal<'a>(
    present: bool,
    read: impl FnOnce() -> capnp::Result<terminal_size::Reader<'a>>,
) -> Result<Option<TerminalSize>, Fault> {
    if !present {
        return Ok(None);
    }
    Ok(Some(decode_terminal(some("terminal", read())?)))
}

fn entries<'a, O: capnp::traits::OwnedStruct, T>(
    field: &str,
    list: capnp::Result<capnp::struct_list::Reader<'a, O>>,
    max: u32,
    mut decode: impl FnMut(O::Reader<'a>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let list = some(field, list)?;
    check_length(field, list.len() as usize, max)?;
    let mut entries = Vec::with_capacity(list.len() as usize);
    for (index, entry) in list.iter().enumerate() {
        entries.push(decode(entry).map_err(|fault| within(within(fault, &index.to_string()), field))?);
    }
    Ok(entries)
}

fn decode_volume(reader: volume::Reader<'_>, budget: &mut TextBudget) -> Result<Volume, Fault> {
    Ok(Volume {
        source: text("source", reader.get_source(), budget)?.into(),
        target: text("target", reader.get_target(), budget)?.into(),
        read_only: reader.get_read_only(),
    })
}

fn decode_rlimit(reader: rlimit::Reader<'_>, budget: &mut TextBudget) -> Result<Rlimit, Fault> {
    Ok(Rlimit {
        name: text("name", reader.get_name(), budget)?,
        soft: optional_number("soft", reader.get_soft())?,
        hard: optional_number("hard", reader.get_hard())?,
    })
}

fn decode_device(reader: device_rule::Reader<'_>, budget: &mut TextBudget) -> Result<DeviceRule, Fault> {
    Ok(DeviceRule {
        path: text("path", reader.get_path(), budget)?.into(),
        read: reader.get_read(),
        write: reader.get_write(),
        mknod: reader.get_mknod(),
    })
}

/// The fault that the other side would answer for a spec that is too large to decode: found before
/// anything is sent, since a message beyond the peer's limit costs the connection.
pub fn check_size(spec: &LaunchSpec) -> Result<(), Fault> {
    check_length("command", spec.command.len(), ARGUMENTS_MAX)?;
    check_length("env", spec.env.len(), ENVIRONMENT_MAX)?;
    check_length("volumes", spec.volumes.len(), VOLUMES_MAX)?;
    check_length(
        "limits.io.devices",
        spec.limits.io.devices.len(),
        crate::bounds::IO_DEVICES_MAX,
    )?;
    check_length("capabilities.add", spec.capabilities.add.len(), CAPABILITIES_MAX)?;
    check_length(
        "capabilities.drop",
        spec.capabilities.drop.len(),
        CAPABILITIES_MAX,
    )?;
    check_length("rlimits", spec.rlimits.len(), RLIMITS_MAX)?;
    check_length("devices", spec.devices.len(), DEVICES_MAX)?;
    check_length("labels", spec.labels.len(), LABELS_MAX)?;
    if let Some(PortRequest::These(ports)) = &spec.ports {
        check_length("ports", ports.ranges().len(), PORT_RANGES_MAX)?;
    }
    let mut budget = TextBudget::default();
    let mut take = |field: &str, bytes: usize| budget.take(field, bytes);
    check_texts(&spec.command, &spec.env, &mut take)?;
    take("user", spec.user.as_ref().map_or(0, String::len))?;
    take("hostname", spec.hostname.as_ref().map_or(0, String::len))?;
    take(
        "workdir",
        spec.workdir.as_ref().map_or(0, |path| path.as_os_str().len()),
    )?;
    take(
        "rootfs",
        spec.rootfs.as_ref().map_or(0, |path| path.as_os_str().len()),
    )?;
    for volume in &spec.volumes {
        take(
            "volumes",
            volume.source.as_os_str().len() + volume.target.as_os_str().len(),
        )?;
    }
    for name in spec.capabilities.add.iter().chain(&spec.capabilities.drop) {
        take("capabilities", name.len())?;
    }
    for rlimit in &spec.rlimits {
        take("rlimits", rlimit.name.len())?;
    }
    for rule in &spec.devices {
        take("devices", rule.path.as_os_str().len())?;
    }
    for (key, value) in &spec.labels {
        take("labels", key.len() + value.len())?;
    }
    // What is left is bounded by its type, or checked when it is parsed.
    for device in &spec.limits.io.devices {
        take("limits.io.devices", device.device.len())?;
    }
    take(
        "limits.cpuset_cpus",
        spec.limits.cpuset_cpus.as_ref().map_or(0, String::len),
    )?;
    take(
        "limits.cpuset_mems",
        spec.limits.cpuset_mems.as_ref().map_or(0, String::len),
    )
}

/// As [`check_size`].
pub fn check_exec_size(spec: &ExecSpec) -> Result<(), Fault> {
    check_length("command", spec.command.len(), ARGUMENTS_MAX)?;
    check_length("env", spec.env.len(), ENVIRONMENT_MAX)?;
    let mut budget = TextBudget::default();
    let mut take = |field: &str, bytes: usize| budget.take(field, bytes);
    check_texts(&spec.command, &spec.env, &mut take)?;
    take("user", spec.user.as_ref().map_or(0, String::len))?;
    take(
        "workdir",
        spec.workdir.as_ref().map_or(0, |path| path.as_os_str().len()),
    )
}

fn check_texts(
    command: &[String],
    env: &[(String, String)],
    take: &mut impl FnMut(&str, usize) -> Result<(), Fault>,
) -> Result<(), Fault> {
    for word in command {
        take("command", word.len())?;
    }
    for (key, value) in env {
        take("env", key.len() + value.len())?;
    }
    Ok(())
}
