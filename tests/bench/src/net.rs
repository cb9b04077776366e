//! The network of mapped containers: against the host without any, Docker's way and Mesos' way; how exact ceilings are;
//! what a thousand containers cost. Method: docs/benchmarks.md, "Network".

mod agent_loop;
mod scale;
mod shaping;
mod traffic;
mod way;

use std::error::Error;

use crate::report::{Goal, Report};
use crate::sample::Sample;
use way::Way;

/// What is measured of a way in its turn.
#[derive(Default)]
struct Measured {
    megabits: Sample,
    packets: Sample,
    tcp_micros: Sample,
    udp_micros: Sample,
}

/// What can be measured alone.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// The contestants side by side.
    Ways,
    /// A thousand containers: made, measured, removed.
    Thousand,
    /// The same by an agent: for how long its event loop answers nobody.
    Loop,
    Ceilings,
}

const THOUSAND: u16 = 1_000;

pub fn run(
    report: &mut Report,
    quick: bool,
    only: Option<Part>,
    ceiling: Option<u64>,
) -> Result<(), Box<dyn Error>> {
    let asked = |part| only.is_none_or(|only| only == part);
    if asked(Part::Ways) {
        report.note("making the contestants");
        let mut ways = vec![Way::host_direct()];
        ways.extend([1, 100, THOUSAND].map(Way::mapped));
        for containers in [1, THOUSAND] {
            ways.push(Way::bridge(containers));
            ways.push(Way::u32_chain(containers));
        }
        compare(report, &ways, if quick { 3 } else { 11 })?;
    }
    if asked(Part::Thousand) {
        report.note("making a thousand containers");
        scale::run(report, Way::mapped(THOUSAND))?;
    }
    if asked(Part::Loop) {
        agent_loop::run(report, quick)?;
    }
    if asked(Part::Ceilings) {
        shaping::run(report, quick, ceiling)?;
    }
    Ok(())
}

/// Round trips are quick and noisy: more of them, in turns that are close in time.
const TURNS_OF_QUESTIONS: usize = 5;

fn compare(report: &mut Report, ways: &[Way], rounds: usize) -> Result<(), Box<dyn Error>> {
    let mut measured: Vec<Measured> = ways.iter().map(|_| Measured::default()).collect();
    // In rotating order, so that nobody always follows the same neighbour.
    let order = |round: usize| (0..ways.len()).map(move |turn| (turn + round) % ways.len());
    for round in 0..rounds {
        for at in order(round) {
            let (way, into) = (&ways[at], &mut measured[at]);
            into.megabits.push(traffic::stream(way)?);
            into.packets.push(traffic::small_packets(way)?);
        }
        for turn in 0..TURNS_OF_QUESTIONS {
            for at in order(round + turn) {
                let (way, into) = (&ways[at], &mut measured[at]);
                into.tcp_micros.push(traffic::tcp_round_trip(way)?);
                into.udp_micros.push(traffic::udp_round_trip(way)?);
            }
        }
    }
    type Column = fn(&Measured) -> &Sample;
    let columns: [(&str, &str, Column); 4] = [
        ("One TCP stream into the container", "Mbit/s", |m| &m.megabits),
        ("Datagrams of 64 bytes that arrive", "1/s", |m| &m.packets),
        ("TCP request and response", "us", |m| &m.tcp_micros),
        ("UDP request and response", "us", |m| &m.udp_micros),
    ];
    for (title, unit, column) in columns {
        let rows: Vec<(&str, &Sample)> = ways
            .iter()
            .zip(&measured)
            .map(|(way, measured)| (way.name.as_str(), column(measured)))
            .collect();
        report.table(title, unit, &rows);
    }
    // Of each round by itself, and the median of those: the machine's own slow changes cancel.
    let ratio = |column: Column, one: &str, other: &str| {
        let values = |name: &str| {
            let at = ways.iter().position(|way| way.name == name)?;
            Some(column(&measured[at]).in_order())
        };
        let mut ratios = Sample::default();
        for (one, other) in values(one)?.iter().zip(values(other)?) {
            ratios.push(one / other);
        }
        Some(ratios.median())
    };
    let [(_, _, stream), (_, _, packets), (_, _, tcp), (_, _, udp)] = columns;
    let metrics: [(&str, Column, &str, Goal); 12] = [
        ("throughput_vs_host", stream, "host", Goal::AtLeast(0.95)),
        ("latency_vs_host", tcp, "host", Goal::AtMost(1.10)),
        ("latency_udp_vs_host", udp, "host", Goal::AtMost(1.10)),
        ("pps_vs_host", packets, "host", Goal::AtLeast(0.95)),
        ("flatness_1000_vs_1", stream, "mapped 1", Goal::AtLeast(0.97)),
        ("flatness_latency_1000_vs_1", tcp, "mapped 1", Goal::AtMost(1.03)),
        ("throughput_vs_bridge_1", stream, "bridge 1", Goal::AtLeast(1.0)),
        ("latency_vs_bridge_1", tcp, "bridge 1", Goal::AtMost(1.0)),
        (
            "throughput_vs_bridge_1000",
            stream,
            "bridge 1000",
            Goal::AtLeast(1.0),
        ),
        ("pps_vs_u32_1000", packets, "u32 1000", Goal::AtLeast(5.0)),
        ("latency_vs_u32_1000", tcp, "u32 1000", Goal::AtMost(0.45)),
        ("throughput_vs_u32_1000", stream, "u32 1000", Goal::AtLeast(1.0)),
    ];
    for (name, column, other, goal) in metrics {
        report.metric(name, ratio(column, "mapped 1000", other), "ratio", goal);
    }
    Ok(())
}
