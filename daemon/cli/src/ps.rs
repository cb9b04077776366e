//! `bulkhead ps`: the containers of an agent.

use api::client_json;
use clap::Args;
use client::Agent;
use model::{ContainerStatus, Reason};

use crate::args::Format;
use crate::failure::Outcome;
use crate::human::{self, UNKNOWN};
use crate::output::{print, print_json, print_table, short_id};
use crate::parse;
use crate::table::{Align, Table};

/// List containers
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead ps
  bulkhead ps -a -l tier=front
  bulkhead ps -q | xargs bulkhead kill
  bulkhead ps -o json | jq '.[] | select(.limits.mem_bytes > 1e9) | .name'")]
pub(crate) struct PsArgs {
    /// Also those that have ended and are still remembered
    #[arg(short, long)]
    all: bool,
    /// Only the ids
    #[arg(short, long)]
    quiet: bool,
    /// Only those with this label (repeatable: with all of them)
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
}

const COLUMNS: [(&str, Align); 8] = [
    ("CONTAINER", Align::Left),
    ("NAME", Align::Left),
    ("STATE", Align::Left),
    ("CPUS", Align::Right),
    ("MEM", Align::Right),
    ("PIDS", Align::Right),
    ("AGE", Align::Right),
    ("COMMAND", Align::Left),
];

pub(crate) async fn ps(agent: &Agent, format: Format, args: PsArgs) -> Outcome {
    let mut containers = agent.list(args.all).await?;
    containers.retain(|container| args.label.iter().all(|wanted| has_label(container, wanted)));
    // The newest first: what was just started is what is looked for.
    containers.sort_by(|a, b| {
        b.created_at_ms
            .cmp(&a.created_at_ms)
            .then_with(|| a.id.cmp(&b.id))
    });
    if args.quiet {
        let ids: String = containers
            .iter()
            .map(|container| format!("{}\n", container.id))
            .collect();
        print(&ids)?;
        return Ok(0);
    }
    match format {
        Format::Json => print_json(
            &containers
                .iter()
                .map(client_json::Container::from)
                .collect::<Vec<_>>(),
        )?,
        Format::Table => print_table(&table(&containers, net::wall_ms()))?,
    }
    Ok(0)
}

fn has_label(container: &ContainerStatus, wanted: &str) -> bool {
    match parse::label(wanted) {
        Ok((key, value)) => container
            .labels
            .get(&key)
            .is_some_and(|have| *have == value || !wanted.contains('=')),
        Err(_) => false,
    }
}

fn table(containers: &[ContainerStatus], now_ms: u64) -> Table {
    let mut table = Table::new(&COLUMNS);
    for container in containers {
        let limits = &container.limits;
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| UNKNOWN.to_owned());
        table.row([
            short_id(container.id.as_str()).to_owned(),
            or_dash(container.name.as_ref().map(ToString::to_string)),
            state(container),
            or_dash(limits.cpu_ceiling().or(limits.cpus).map(|cpus| cpus.to_string())),
            or_dash(limits.mem.map(|mem| mem.to_string())),
            or_dash(limits.pids.map(|pids| pids.to_string())),
            human::age(now_ms.saturating_sub(container.started_at_ms.unwrap_or(container.created_at_ms))),
            human::command_line(&container.command),
        ]);
    }
    table
}

/// `running`; of one that is over how it ended, with its exit status.
pub(crate) fn state(container: &ContainerStatus) -> String {
    match &container.termination {
        Some(end) if container.state.is_over() => match end.reason {
            Reason::MemoryLimit => format!("memory limit ({})", end.exit_status),
            Reason::DiskLimit => format!("disk limit ({})", end.exit_status),
            Reason::LaunchFailed => format!("not started ({})", end.exit_status),
            reason => format!("{} ({})", reason.as_str(), end.exit_status),
        },
        _ => match &container.waits_for {
            Some(what) => format!("{}: {}", container.state.as_str(), human::one_line(what)),
            None => container.state.as_str().to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use model::{Bytes, ContainerState, Cpus, Limit, Limits, Network, Termination};

    use super::*;

    fn container(name: Option<&str>, state: ContainerState) -> ContainerStatus {
        ContainerStatus {
            id: "0123456789abcdef0123456789abcdef".parse().unwrap(),
            name: name.map(|name| name.parse().unwrap()),
            state,
            pid: Some(1),
            command: vec!["sh".into(), "-c".into(), "sleep 1".into()],
            limits: Limits {
                cpus: Some(Cpus::from_milli(500)),
                mem: Some(Limit::Value(Bytes::mib(64))),
                ..Limits::default()
            },
            network: Network::Host,
            grant: None,
            labels: [("tier".to_owned(), "front".to_owned())].into(),
            created_at_ms: 0,
            started_at_ms: Some(1000),
            sandbox: None,
            terminal: false,
            waits_for: None,
            termination: None,
        }
    }

    #[test]
    fn a_row_for_each() {
        let mut over = container(None, ContainerState::Destroyed);
        over.termination = Some(Termination {
            exit_status: 137,
            signal: Some(9),
            reason: Reason::MemoryLimit,
            message: String::new(),
            limitation: None,
            finished_at_ms: 0,
        });
        let text = table(&[container(Some("web"), ContainerState::Running), over], 61_000).render(None);
        assert_eq!(
            text,
            "CONTAINER     NAME  STATE               CPUS   MEM  PIDS  AGE  COMMAND\n\
             0123456789ab  web   running              0.5  64MB     -   1m  sh -c 'sleep 1'\n\
             0123456789ab  -     memory limit (137)   0.5  64MB     -   1m  sh -c 'sleep 1'\n"
        );
    }

    #[test]
    fn labels_filter_by_key_or_by_value() {
        let web = container(None, ContainerState::Running);
        assert!(has_label(&web, "tier") && has_label(&web, "tier=front"));
        assert!(!has_label(&web, "tier=back") && !has_label(&web, "tier=") && !has_label(&web, "x"));
    }
}
