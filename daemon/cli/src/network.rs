//! `bulkhead net`: who has which ports, what moves through them, and what would become of a packet.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::net::IpAddr;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use client::Agent;
use model::network::{PacketExplanation, PacketOrigin, PacketQuestion, Transport};
use model::{ContainerStatus, ContainerUsage, Fault, IsolatorReport, Millis, Network, PortGrant, Usage};
use serde::Serialize;

use crate::args::Format;
use crate::failure::{Failure, Outcome};
use crate::human::{self, UNKNOWN};
use crate::output::{print, print_json, print_json_line, short_id, terminal_width};
use crate::rates::{self, Rates};
use crate::table::{Align, Table};

/// Ports of containers, their traffic, and how it is steered
///
/// One line for each running container: received and sent are bytes since its start and bytes a second now, refused are
/// packets and calls that were not allowed. Below it, by what all this is done, and whether it is where it was put.
/// `explain` tells what would happen to a packet, and why.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead net
  bulkhead net --watch
  bulkhead net -o json | jq '.containers[] | {name, ports}'
  bulkhead net explain --dst-port 31005
  bulkhead net explain --from web --dst-port 53 --dst 192.0.2.53 --udp")]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct NetArgs {
    /// Refresh until interrupted
    #[arg(short, long)]
    watch: bool,
    /// Time between refreshes
    #[arg(long, value_name = "TIME", default_value = "1s", requires = "watch")]
    interval: Millis,
    #[command(subcommand)]
    verb: Option<NetVerb>,
}

#[derive(Debug, Subcommand)]
enum NetVerb {
    Explain(ExplainArgs),
}

/// Tell what would happen to a packet, and why
#[derive(Debug, Args)]
struct ExplainArgs {
    /// Destination port
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    dst_port: u16,
    /// Destination address [default: the host's own]
    #[arg(long, value_name = "ADDRESS")]
    dst: Option<IpAddr>,
    /// Source port [default: one that the sender may use]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    src_port: Option<u16>,
    /// Where it comes from: outside, host, or a container's id or name
    #[arg(long, value_name = "PLACE", default_value = "outside")]
    from: String,
    /// Transport protocol
    #[arg(
        long,
        value_name = "NAME",
        value_enum,
        default_value = "tcp",
        hide_possible_values = true
    )]
    protocol: Protocol,
    /// The same as --protocol udp
    #[arg(long, conflicts_with = "protocol")]
    udp: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
    Icmp,
}

impl ExplainArgs {
    fn question(self) -> PacketQuestion {
        PacketQuestion {
            from: match self.from.as_str() {
                "outside" => PacketOrigin::Outside,
                "host" => PacketOrigin::Host,
                _ => PacketOrigin::Container(self.from),
            },
            transport: match (self.udp, self.protocol) {
                (true, _) | (_, Protocol::Udp) => Transport::Udp,
                (_, Protocol::Tcp) => Transport::Tcp,
                (_, Protocol::Icmp) => Transport::Icmp,
            },
            destination: self.dst,
            destination_port: self.dst_port,
            source_port: self.src_port,
        }
    }
}

pub(crate) async fn net(agent: &Agent, format: Format, args: NetArgs) -> Outcome {
    match args.verb {
        Some(NetVerb::Explain(args)) => {
            let explanation = agent.explain(&args.question()).await?;
            match format {
                Format::Json => print_json(&explanation)?,
                Format::Table => print(&explained(&explanation))?,
            }
        }
        None if args.watch => {
            if args.interval < INTERVAL_LEAST {
                let message = format!("must be at least {INTERVAL_LEAST}");
                return Err(Fault::invalid("--interval", message).into());
            }
            if format == Format::Table && io::stdout().is_terminal() {
                print("\x1b[2J")?;
            }
            let mut earlier = agent.statistics(&[]).await?;
            loop {
                net::sleep(args.interval.duration()).await;
                earlier = show(agent, format, earlier, true).await?;
            }
        }
        None => {
            let earlier = agent.statistics(&[]).await?;
            net::sleep(ONE_LOOK).await;
            show(agent, format, earlier, false).await?;
        }
    }
    Ok(0)
}

fn explained(explanation: &PacketExplanation) -> String {
    let mut text = format!("{}\n", human::one_line(&explanation.verdict));
    for step in &explanation.steps {
        text.push_str(&format!("  {}\n", human::one_line(step)));
    }
    text
}

/// `net -o json`: a stable shape.
#[derive(Serialize)]
struct View {
    containers: Vec<Row>,
    /// By which mechanism, and what is missing.
    mechanisms: Vec<IsolatorReport>,
    /// Of the parts that steer packets; none before a container has used them.
    health: Vec<IsolatorReport>,
}

#[derive(Serialize)]
struct Row {
    container_id: String,
    name: Option<String>,
    network: Network,
    ports: Vec<u16>,
    ephemeral_ports: Option<(u16, u16)>,
    rx_bytes: Option<u64>,
    tx_bytes: Option<u64>,
    rx_packets: Option<u64>,
    tx_packets: Option<u64>,
    rx_bytes_per_sec: Option<u64>,
    tx_bytes_per_sec: Option<u64>,
    tcp_connections: Option<u64>,
    egress_bits_per_sec: Option<u64>,
    ingress_bits_per_sec: Option<u64>,
    drops: BTreeMap<String, u64>,
    #[serde(skip)]
    shown_ports: String,
}

fn row(status: &ContainerStatus, usage: Option<&Usage>, rates: &Rates) -> Row {
    let grant: Option<&PortGrant> = status.grant.as_ref();
    let of = |field: fn(&Usage) -> Option<u64>| usage.and_then(field);
    let rate = |limit: Option<model::BitsPerSecond>| limit.map(|rate| rate.0);
    Row {
        container_id: status.id.to_string(),
        name: status.name.as_ref().map(ToString::to_string),
        network: status.network,
        ports: grant.iter().flat_map(|grant| grant.allotted.ports()).collect(),
        ephemeral_ports: grant.and_then(|grant| grant.ephemeral).map(Into::into),
        rx_bytes: of(|usage| usage.net_rx_bytes),
        tx_bytes: of(|usage| usage.net_tx_bytes),
        rx_packets: of(|usage| usage.net_rx_packets),
        tx_packets: of(|usage| usage.net_tx_packets),
        rx_bytes_per_sec: rates.net_rx_bps.map(|rate| rate as u64),
        tx_bytes_per_sec: rates.net_tx_bps.map(|rate| rate as u64),
        tcp_connections: of(|usage| usage.net_tcp_active_connections.map(|count| count as u64)),
        egress_bits_per_sec: rate(status.limits.bandwidth.egress_ceiling()),
        ingress_bits_per_sec: rate(status.limits.bandwidth.ingress_ceiling()),
        drops: usage.map(|usage| usage.net_drops.clone()).unwrap_or_default(),
        shown_ports: match (grant, status.network) {
            (Some(grant), _) if !grant.allotted.is_empty() => grant.allotted.to_string(),
            (None, Network::Host) => "any".to_owned(),
            _ => UNKNOWN.to_owned(),
        },
    }
}

const COLUMNS: [(&str, Align); 13] = [
    ("CONTAINER", Align::Left),
    ("NAME", Align::Left),
    ("NETWORK", Align::Left),
    ("PORTS", Align::Left),
    ("EPHEMERAL", Align::Left),
    ("RECEIVED", Align::Right),
    ("SENT", Align::Right),
    ("IN/s", Align::Right),
    ("OUT/s", Align::Right),
    ("TCP", Align::Right),
    ("INGRESS", Align::Right),
    ("EGRESS", Align::Right),
    ("REFUSED", Align::Right),
];

/// Between the two samples of a single look.
const ONE_LOOK: Duration = Duration::from_millis(200);
/// The agent would be busy with nothing else.
const INTERVAL_LEAST: Millis = Millis(100);

/// Answers the samples, which are the earlier ones of the next look.
async fn show(
    agent: &Agent,
    format: Format,
    earlier: Vec<ContainerUsage>,
    again: bool,
) -> Result<Vec<ContainerUsage>, Failure> {
    let containers = agent.list(false).await?;
    let samples = agent.statistics(&[]).await?;
    let usage: BTreeMap<&str, &Usage> = samples.iter().map(|one| (one.id.as_str(), &one.usage)).collect();
    let before: BTreeMap<&str, &Usage> = earlier.iter().map(|one| (one.id.as_str(), &one.usage)).collect();
    let rows: Vec<Row> = containers
        .iter()
        .map(|status| {
            let id = status.id.as_str();
            let rates = match (before.get(id), usage.get(id)) {
                (Some(old), Some(new)) => rates::between(old, new),
                _ => Rates::default(),
            };
            row(status, usage.get(id).copied(), &rates)
        })
        .collect();
    let host = agent.host().await?;
    let (mechanisms, others): (Vec<_>, Vec<_>) = host
        .isolators
        .into_iter()
        .partition(|line| matches!(line.name.as_str(), "ports" | "bandwidth" | "network"));
    let health: Vec<_> = others
        .into_iter()
        .filter(|line| line.name.starts_with("network "))
        .collect();
    match format {
        Format::Json if again => print_json_line(&View {
            containers: rows,
            mechanisms,
            health,
        })?,
        Format::Json => print_json(&View {
            containers: rows,
            mechanisms,
            health,
        })?,
        Format::Table => {
            let text = table(&rows).render(terminal_width()) + "\n" + &told(&mechanisms, &health);
            if again && io::stdout().is_terminal() {
                // From the top left, each line to its end, and nothing left below.
                print(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")))?;
            } else {
                print(&text)?;
            }
        }
    }
    Ok(samples)
}

/// By what it is done, and how that is.
fn told(mechanisms: &[IsolatorReport], health: &[IsolatorReport]) -> String {
    let by = mechanisms.iter().map(|line| match line.active {
        true => format!("{}: {}\n", line.name, human::one_line(&line.mechanism)),
        false => format!("{}: not here: {}\n", line.name, human::one_line(&line.missing)),
    });
    let is = health.iter().map(|line| match line.active {
        true => format!("{}: ok, {}\n", line.name, human::one_line(&line.mechanism)),
        false => format!("{}: DAMAGED: {}\n", line.name, human::one_line(&line.missing)),
    });
    by.chain(is).collect()
}

fn table(rows: &[Row]) -> Table {
    let bytes = |bytes: Option<u64>| bytes.map_or_else(|| UNKNOWN.to_owned(), human::bytes);
    let rate = |rate: Option<u64>| {
        let shown = rate.map(|bits| model::BitsPerSecond(bits).to_string());
        shown.unwrap_or_else(|| UNKNOWN.to_owned())
    };
    let mut table = Table::new(&COLUMNS);
    for row in rows {
        let refused: u64 = row.drops.values().sum();
        table.row([
            short_id(&row.container_id).to_owned(),
            row.name.clone().unwrap_or_else(|| UNKNOWN.to_owned()),
            row.network.as_str().to_owned(),
            row.shown_ports.clone(),
            row.ephemeral_ports
                .map_or_else(|| UNKNOWN.to_owned(), |(first, last)| format!("{first}-{last}")),
            bytes(row.rx_bytes),
            bytes(row.tx_bytes),
            bytes(row.rx_bytes_per_sec),
            bytes(row.tx_bytes_per_sec),
            row.tcp_connections
                .map_or_else(|| UNKNOWN.to_owned(), human::count),
            rate(row.ingress_bits_per_sec),
            rate(row.egress_bits_per_sec),
            human::count(refused),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_ports_and_what_was_refused() {
        let usage = Usage {
            net_rx_bytes: Some(2048),
            net_drops: BTreeMap::from([("bind_refused".to_owned(), 3), ("arp".to_owned(), 1)]),
            ..Usage::default()
        };
        let rows = [Row {
            container_id: "0123456789abcdef".to_owned(),
            name: Some("web".to_owned()),
            network: Network::Mapped,
            ports: vec![31005],
            ephemeral_ports: Some((61440, 62463)),
            rx_bytes: usage.net_rx_bytes,
            tx_bytes: None,
            rx_packets: None,
            tx_packets: None,
            rx_bytes_per_sec: None,
            tx_bytes_per_sec: Some(1024),
            tcp_connections: Some(3),
            egress_bits_per_sec: Some(10_000_000),
            ingress_bits_per_sec: None,
            drops: usage.net_drops,
            shown_ports: "31005".to_owned(),
        }];
        let text = table(&rows).render(None);
        let line = text.lines().nth(1).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            words,
            [
                "0123456789ab",
                "web",
                "mapped",
                "31005",
                "61440-62463",
                "2KB",
                "-",
                "-",
                "1KB",
                "3",
                "-",
                "10Mbit",
                "4"
            ]
        );
    }
}
