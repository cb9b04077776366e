//! `bulkhead inspect`: all there is to know of one container, or of the host.

use api::client_json;
use clap::Args;
use client::{Agent, Inspection};
use model::{AgentInfo, Bandwidth, ContainerStatus, HostReport, IsolatorReport, Limits, UserNamespace};
use serde::Serialize;

use crate::args::Format;
use crate::failure::{About, Outcome};
use crate::human::{self, UNKNOWN};
use crate::output::{print, print_json};
use crate::parse::signal_name;
use crate::ps;
use crate::table::{Align, Table, properties};

/// Show everything about a container, or about the host
///
/// --host tells which isolator works by which mechanism of the kernel, and what is missing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead inspect web
  bulkhead inspect web -o json | jq -r .sandbox
  bulkhead inspect --host")]
pub(crate) struct InspectArgs {
    /// The agent's host instead of a container
    #[arg(long, conflicts_with = "container")]
    host: bool,
    /// Id, beginning of an id, or name
    #[arg(value_name = "CONTAINER", required_unless_present = "host")]
    pub container: Option<String>,
}

pub(crate) async fn inspect(agent: &Agent, format: Format, args: InspectArgs) -> Outcome {
    match args.container {
        Some(name) => {
            let inspection = agent
                .container(&name)
                .await
                .about(&name)?
                .inspect()
                .await
                .about(&name)?;
            match format {
                Format::Json => print_json(&client_json::Inspection::new(
                    &inspection.status,
                    &inspection.spec,
                    &inspection.detail,
                ))?,
                Format::Table => print(&properties(&describe(&inspection)))?,
            }
        }
        None => host(agent, format).await?,
    }
    Ok(0)
}

fn describe(inspection: &Inspection) -> Vec<(String, String)> {
    let Inspection { status, spec, detail } = inspection;
    let mut lines = Lines::default();
    identity(&mut lines, status);
    lines.add("command", human::command_line(&status.command));
    lines.add_some("user", spec.user.clone());
    lines.add_some(
        "workdir",
        spec.workdir.as_ref().map(|path| path.display().to_string()),
    );
    lines.add_some(
        "rootfs",
        spec.rootfs.as_ref().map(|path| path.display().to_string()),
    );
    lines.add_some("ids", spec.userns.map(ids));
    for volume in &spec.volumes {
        let mode = if volume.read_only { " (read-only)" } else { "" };
        lines.add(
            "volume",
            format!("{} on {}{mode}", volume.source.display(), volume.target.display()),
        );
    }
    for (key, value) in limits(&status.limits) {
        lines.add(&key, value);
    }
    lines.add("network", status.network.as_str().to_owned());
    if let Some(grant) = &status.grant {
        lines.add_some(
            "ports",
            Some(grant.allotted.to_string()).filter(|ports| !ports.is_empty()),
        );
        lines.add_some("ephemeral ports", grant.ephemeral.map(|range| range.to_string()));
    }
    lines.add_some(
        "sandbox",
        status.sandbox.as_ref().map(|path| path.display().to_string()),
    );
    for (key, value) in &status.labels {
        lines.add("label", format!("{key}={value}"));
    }
    for (key, value) in detail {
        lines.add(key, value.clone());
    }
    lines.0
}

/// Which ids of the host are those of the container.
fn ids(userns: UserNamespace) -> String {
    match userns.range() {
        Some(range) => format!(
            "{} to {} on the host are 0 to {} in the container",
            range.base,
            range.end() - 1,
            range.count - 1
        ),
        None => format!("{} of its own", userns.count),
    }
}

fn identity(lines: &mut Lines, status: &ContainerStatus) {
    lines.add("id", status.id.to_string());
    lines.add_some("name", status.name.as_ref().map(ToString::to_string));
    lines.add("state", ps::state(status));
    if let Some(end) = &status.termination {
        lines.add("exit status", end.exit_status.to_string());
        lines.add_some("signal", end.signal.map(signal_name));
        lines.add("reason", end.reason.as_str().to_owned());
        lines.add_some(
            "message",
            Some(end.message.clone()).filter(|message| !message.is_empty()),
        );
        lines.add("finished", human::timestamp(end.finished_at_ms));
    }
    lines.add_some("pid", status.pid.map(|pid| pid.to_string()));
    lines.add("created", human::timestamp(status.created_at_ms));
    lines.add_some("started", status.started_at_ms.map(human::timestamp));
}

/// Names and values, in the order in which they were added. Control characters do not get through.
#[derive(Default)]
struct Lines(Vec<(String, String)>);

impl Lines {
    fn add(&mut self, key: &str, value: String) {
        self.0.push((human::one_line(key), human::one_line(&value)));
    }
    fn add_some(&mut self, key: &str, value: Option<String>) {
        if let Some(value) = value {
            self.add(key, value);
        }
    }
}

/// The limits that are set, under the names of their flags.
pub(crate) fn limits(limits: &Limits) -> Vec<(String, String)> {
    let mut lines = Lines::default();
    lines.add_some("cpus", limits.cpus.map(|cpus| cpus.to_string()));
    lines.add_some("cpu-limit", limits.cpu_limit.map(|limit| limit.to_string()));
    lines.add_some("cpu-burst", limits.cpu_burst.map(|time| time.to_string()));
    lines.add_some("mem", limits.mem.map(|limit| limit.to_string()));
    lines.add_some("mem-soft", limits.mem_soft.map(|size| size.to_string()));
    lines.add_some("mem-high", limits.mem_high.map(|limit| limit.to_string()));
    lines.add_some("mem-min", limits.mem_min.map(|size| size.to_string()));
    lines.add_some("swap", limits.swap.map(|limit| limit.to_string()));
    lines.add_some("pids", limits.pids.map(|limit| limit.to_string()));
    lines.add_some("disk", limits.disk.map(|limit| limit.to_string()));
    lines.add_some("cpuset-cpus", limits.cpuset_cpus.clone());
    lines.add_some("cpuset-mems", limits.cpuset_mems.clone());
    lines.add_some("io-weight", limits.io.weight.map(|weight| weight.to_string()));
    for device in &limits.io.devices {
        let keys = [
            ("read_bps", device.read_bps),
            ("write_bps", device.write_bps),
            ("read_iops", device.read_iops),
            ("write_iops", device.write_iops),
        ];
        let set: Vec<String> = keys
            .iter()
            .filter_map(|(key, value)| value.map(|value| format!("{key}={value}")))
            .collect();
        lines.add("io-limit", format!("{}:{}", device.device, set.join(",")));
    }
    bandwidth(&mut lines, &limits.bandwidth);
    lines.0
}

fn bandwidth(lines: &mut Lines, bandwidth: &Bandwidth) {
    lines.add_some("egress", bandwidth.egress.map(|rate| rate.to_string()));
    lines.add_some("ingress", bandwidth.ingress.map(|rate| rate.to_string()));
    lines.add_some(
        "egress-burst",
        bandwidth.egress_burst.map(|size| size.to_string()),
    );
    lines.add_some(
        "ingress-burst",
        bandwidth.ingress_burst.map(|size| size.to_string()),
    );
    lines.add_some("egress-min", bandwidth.egress_min.map(|rate| rate.to_string()));
    lines.add_some("ingress-min", bandwidth.ingress_min.map(|rate| rate.to_string()));
    lines.add_some(
        "network-weight",
        bandwidth.weight.map(|weight| weight.to_string()),
    );
}

/// Of the host as JSON: a stable shape.
#[derive(Serialize)]
struct HostAndAgent {
    #[serde(flatten)]
    host: client_json::Host,
    agent: client_json::Agent,
}

async fn host(agent: &Agent, format: Format) -> Result<(), crate::failure::Failure> {
    let (host, info) = (agent.host().await?, agent.version().await?);
    match format {
        Format::Json => print_json(&HostAndAgent {
            host: (&host).into(),
            agent: (&info).into(),
        }),
        Format::Table => print(&host_text(&host, &info)),
    }
}

const ISOLATOR_COLUMNS: [(&str, Align); 3] = [
    ("ISOLATOR", Align::Left),
    ("ACTIVE", Align::Left),
    ("MECHANISM", Align::Left),
];

/// By what it works, and what it lacks.
fn mechanism(isolator: &IsolatorReport) -> String {
    match (isolator.mechanism.as_str(), isolator.missing.as_str()) {
        ("", "") => UNKNOWN.to_owned(),
        (mechanism, "") => mechanism.to_owned(),
        ("", missing) => format!("missing: {missing}"),
        (mechanism, missing) => format!("{mechanism}; missing: {missing}"),
    }
}

fn host_text(host: &HostReport, info: &AgentInfo) -> String {
    let facts = [
        ("kernel", host.kernel_release.clone()),
        ("cgroups", host.cgroup_layout.clone()),
        ("cpus", host.cpus.to_string()),
        ("memory", host.memory.to_string()),
        (
            "agent",
            format!("{} (instance {}, pid {})", info.version, info.instance, info.pid),
        ),
        ("work dir", info.work_dir.clone()),
        ("runtime dir", info.runtime_dir.clone()),
        (
            "http",
            info.http_address.clone().unwrap_or_else(|| UNKNOWN.to_owned()),
        ),
    ];
    let mut table = Table::new(&ISOLATOR_COLUMNS);
    for isolator in &host.isolators {
        let active = if isolator.active { "yes" } else { "no" };
        table.row([isolator.name.clone(), active.to_owned(), mechanism(isolator)]);
    }
    properties(&facts.map(|(key, value)| (key.to_owned(), value))) + "\n" + // Not cut to the terminal: what is missing stands at the end.
        &table.render(None)
}

#[cfg(test)]
mod tests {
    use model::{Bytes, Cpus, DeviceLimit, Limit};

    use super::*;

    #[test]
    fn limits_read_as_their_flags() {
        let mut set = Limits {
            cpus: Some(Cpus::from_milli(1500)),
            mem: Some(Limit::Value(Bytes::mib(64))),
            swap: Some(Limit::Max),
            ..Limits::default()
        };
        set.io.devices.push(DeviceLimit {
            device: "8:0".into(),
            read_bps: Some(5),
            ..DeviceLimit::default()
        });
        let lines = limits(&set)
            .into_iter()
            .map(|(key, value)| format!("{key} {value}"))
            .collect::<Vec<_>>();
        assert_eq!(
            lines,
            ["cpus 1.5", "mem 64MB", "swap max", "io-limit 8:0:read_bps=5"]
        );
    }
}
