//! `bulkhead stats`: what containers use.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::Duration;

use api::client_json;
use clap::Args;
use client::Agent;
use model::{ContainerId, ContainerUsage, Fault, FaultKind, Millis};

use crate::args::Format;
use crate::failure::{About, Outcome};
use crate::human::{self, UNKNOWN};
use crate::output::{print, print_json, print_json_line, short_id, terminal_width};
use crate::rates::{self, Rates};
use crate::table::{Align, Table};

/// Show what containers use
///
/// A rate needs two samples: without --watch they are taken 200 ms apart. CPU of 100% is one CPU;
/// THROTTLED is the share of scheduling periods in which the container was stopped at its ceiling; WAITING, where the
/// kernel tells it, the share of the last 10 s in which something in it waited for a CPU, for memory, for a disk. TCP counts
/// open connections; `-o json` has their round trip times, retransmits and what was dropped for which reason.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bulkhead stats
  bulkhead stats --watch web database
  bulkhead stats -o json | jq '.[] | {id: .container_id, mem: .statistics.mem_total_bytes}'")]
pub(crate) struct StatsArgs {
    /// Refresh until interrupted
    #[arg(short, long)]
    watch: bool,
    /// Time between refreshes
    #[arg(long, value_name = "TIME", default_value = "1s", requires = "watch")]
    interval: Millis,
    /// Containers, all that run if none is named
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// Between the two samples of a single look: long enough for two scheduling periods of 100 ms.
const ONE_LOOK: Duration = Duration::from_millis(200);
/// The agent would be busy with nothing else.
const INTERVAL_LEAST: Millis = Millis(50);

/// The last one only where the kernel tells it.
const COLUMNS: [(&str, Align); 17] = [
    ("CONTAINER", Align::Left),
    ("NAME", Align::Left),
    ("CPU", Align::Right),
    ("LIMIT", Align::Right),
    ("THROTTLED", Align::Right),
    ("MEM", Align::Right),
    ("LIMIT", Align::Right),
    ("MEM%", Align::Right),
    ("PEAK", Align::Right),
    ("PIDS", Align::Right),
    ("LIMIT", Align::Right),
    ("DISK", Align::Right),
    ("LIMIT", Align::Right),
    ("IO READ/WRITTEN", Align::Right),
    ("NET IN/OUT", Align::Right),
    ("TCP", Align::Right),
    ("WAITING", Align::Left),
];

pub(crate) async fn stats(agent: &Agent, format: Format, args: StatsArgs) -> Outcome {
    let mut ids = Vec::new();
    for name in &args.containers {
        ids.push(agent.container(name).await.about(name)?.id().clone());
    }
    if args.watch {
        if args.interval < INTERVAL_LEAST {
            return Err(Fault::invalid("--interval", format!("must be at least {INTERVAL_LEAST}")).into());
        }
        return watch(agent, format, &ids, args.interval).await;
    }
    if format == Format::Json {
        // Counters only: nothing to be computed, so one sample is enough.
        let samples = agent.statistics(&ids).await?;
        print_json(
            &samples
                .iter()
                .map(client_json::Statistics::from)
                .collect::<Vec<_>>(),
        )?;
        return Ok(0);
    }
    let mut earlier = Earlier::default();
    earlier.rates(&agent.statistics(&ids).await?);
    net::sleep(ONE_LOOK).await;
    let samples = agent.statistics(&ids).await?;
    print(&table(&samples, &earlier.rates(&samples)).render(terminal_width()))?;
    Ok(0)
}

async fn watch(agent: &Agent, format: Format, ids: &[ContainerId], interval: Millis) -> Outcome {
    // From the top left, and nothing left below: no flicker, unlike clearing first.
    const HOME: &str = "\x1b[H";
    const CLEAR_BELOW: &str = "\x1b[J";
    let on_terminal = io::stdout().is_terminal();
    let mut earlier = Earlier::default();
    let mut samples = agent.watch_statistics(ids, interval).await?;
    if on_terminal && format == Format::Table {
        print("\x1b[2J")?;
    }
    while let Some(round) = samples.next().await {
        let round = round?;
        let rates = earlier.rates(&round);
        match format {
            Format::Json => round
                .iter()
                .try_for_each(|sample| print_json_line(&client_json::Statistics::from(sample)))?,
            Format::Table => {
                let text = table(&round, &rates).render(terminal_width());
                if on_terminal {
                    // Each line may be shorter than the one that it replaces.
                    print(&format!("{HOME}{}{CLEAR_BELOW}", text.replace('\n', "\x1b[K\n")))?;
                } else {
                    print(&(text + "\n"))?;
                }
            }
        }
    }
    Err(Fault::new(FaultKind::Unavailable, "the agent ended the subscription").into())
}

/// The samples of the last round, by container.
#[derive(Default)]
struct Earlier(BTreeMap<ContainerId, model::Usage>);

impl Earlier {
    /// Of each sample against the last one of the same container.
    fn rates(&mut self, samples: &[ContainerUsage]) -> Vec<Rates> {
        let rates = samples
            .iter()
            .map(|sample| match self.0.get(&sample.id) {
                Some(old) => rates::between(old, &sample.usage),
                None => Rates::default(),
            })
            .collect();
        self.0 = samples
            .iter()
            .map(|sample| (sample.id.clone(), sample.usage.clone()))
            .collect();
        rates
    }
}

fn table(samples: &[ContainerUsage], rates: &[Rates]) -> Table {
    let told = samples
        .iter()
        .any(|sample| human::pressure(&sample.usage).is_some());
    let columns = if told {
        &COLUMNS[..]
    } else {
        &COLUMNS[..COLUMNS.len() - 1]
    };
    let mut table = Table::new(columns);
    let known = |text: Option<String>| text.unwrap_or_else(|| UNKNOWN.to_owned());
    for (sample, rates) in samples.iter().zip(rates) {
        let usage = &sample.usage;
        let io = match (usage.io_read_bytes, usage.io_write_bytes) {
            (None, None) => None,
            (read, written) => Some(format!(
                "{} / {}",
                known(read.map(human::bytes)),
                known(written.map(human::bytes))
            )),
        };
        let mut cells = vec![
            short_id(sample.id.as_str()).to_owned(),
            known(sample.name.as_ref().map(ToString::to_string)),
            known(rates.cpu_percent.map(human::percent)),
            known(usage.cpus_limit.map(|cpus| format!("{:.0}%", cpus * 100.0))),
            known(rates.throttled_percent.map(human::percent)),
            known(usage.mem_total_bytes.map(human::bytes)),
            known(rates::memory_limit(usage).map(human::bytes)),
            known(rates::memory_percent(usage).map(human::percent)),
            known(usage.mem_peak_bytes.map(human::bytes)),
            known(rates::tasks(usage).map(|count| count.to_string())),
            known(rates::tasks_limit(usage).map(|count| count.to_string())),
            known(usage.disk_used_bytes.map(human::bytes)),
            known(rates::disk_limit(usage).map(human::bytes)),
            known(io),
            known(traffic(rates)),
            known(
                usage
                    .net_tcp_active_connections
                    .map(|count| human::count(count as u64)),
            ),
        ];
        if told {
            cells.push(known(human::pressure(usage)));
        }
        table.row(cells);
    }
    table
}

/// Bytes a second, in and out.
fn traffic(rates: &Rates) -> Option<String> {
    let rate = |bytes: f64| format!("{}/s", human::bytes(bytes as u64));
    Some(format!(
        "{} / {}",
        rate(rates.net_rx_bps?),
        rate(rates.net_tx_bps?)
    ))
}

#[cfg(test)]
mod tests {
    use model::Usage;

    use super::*;

    #[test]
    fn rates_are_against_the_same_containers_last_sample() {
        let sample = |id: &str, timestamp: f64, cpu: f64| ContainerUsage {
            id: id.parse().unwrap(),
            name: None,
            usage: Usage {
                timestamp,
                cpus_user_time_secs: Some(cpu),
                ..Usage::default()
            },
        };
        let mut earlier = Earlier::default();
        assert_eq!(earlier.rates(&[sample("a", 1.0, 0.0)]), [Rates::default()]);
        let rates = earlier.rates(&[sample("b", 2.0, 9.0), sample("a", 2.0, 0.5)]);
        assert_eq!((rates[0].cpu_percent, rates[1].cpu_percent), (None, Some(50.0)));
    }

    #[test]
    fn unknown_figures_are_dashes() {
        let sample = ContainerUsage {
            id: "0123456789abcdef".parse().unwrap(),
            name: Some("web".parse().unwrap()),
            usage: Usage {
                mem_total_bytes: Some(32 << 20),
                mem_limit_bytes: Some(64 << 20),
                threads: Some(3),
                io_read_bytes: Some(1024),
                ..Usage::default()
            },
        };
        let text = table(
            &[sample],
            &[Rates {
                cpu_percent: Some(12.5),
                ..Rates::default()
            }],
        )
        .render(None);
        let row: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(
            row,
            [
                "0123456789ab",
                "web",
                "12.5%",
                "-",
                "-",
                "32MB",
                "64MB",
                "50.0%",
                "-",
                "3",
                "-",
                "-",
                "-",
                "1KB",
                "/",
                "-",
                "-",
                "-"
            ]
        );
    }
}
