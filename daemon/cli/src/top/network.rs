//! The network's view of `top`: what its columns, charts and facts say of a container.

use super::columns::Column;
use super::state::{History, Row};
use crate::human::{self, UNKNOWN};
use crate::rates;

/// The text of a column. Rates are bytes a second; ceilings bits a second, as they are given.
pub(super) fn figure(row: &Row, column: Column) -> String {
    let (usage, rates, limits) = (&row.usage, &row.rates, &row.status.limits.bandwidth);
    let bytes = |rate: Option<f64>| rate.map(|rate| human::bytes(rate as u64));
    let count = |count: Option<f64>| count.map(|count| human::count(count as u64));
    let text = match column {
        Column::Received => bytes(rates.net_rx_bps),
        Column::Sent => bytes(rates.net_tx_bps),
        Column::ReceivedPackets => count(rates.net_rx_pps),
        Column::SentPackets => count(rates.net_tx_pps),
        Column::Ingress => limits.ingress_ceiling().map(|rate| rate.to_string()),
        Column::Egress => limits.egress_ceiling().map(|rate| rate.to_string()),
        Column::Connections => count(usage.net_tcp_active_connections),
        Column::RoundTrip => usage.net_tcp_rtt_microsecs_p50.map(micros),
        Column::Retransmits => rates.net_retransmits_ps.map(|rate| format!("{rate:.0}")),
        Column::Dropped => rates::net_dropped(usage).map(human::count),
        Column::Delay => delay(row),
        Column::Ports => row
            .status
            .grant
            .as_ref()
            .filter(|grant| !grant.allotted.is_empty())
            .map(|grant| grant.allotted.to_string()),
        _ => None,
    };
    text.unwrap_or_else(|| UNKNOWN.to_owned())
}

/// The longer of what waits at the two ceilings.
fn delay(row: &Row) -> Option<String> {
    let (rx, tx) = (
        row.usage.net_rx_queue_delay_microsecs,
        row.usage.net_tx_queue_delay_microsecs,
    );
    rx.max(tx).map(|wait| micros(wait as f64))
}

pub(super) fn micros(micros: f64) -> String {
    match micros {
        micros if micros >= 1_000_000.0 => format!("{:.1}s", micros / 1e6),
        micros if micros >= 10_000.0 => format!("{:.0}ms", micros / 1e3),
        micros if micros >= 1_000.0 => format!("{:.1}ms", micros / 1e3),
        micros => format!("{micros:.0}us"),
    }
}

/// The upper edge of the chart of what is sent: its ceiling, else a quarter above the highest.
pub(super) fn most(row: &Row) -> f64 {
    let ceiling = row.status.limits.bandwidth.egress_ceiling();
    ceiling.map_or_else(|| highest(&row.sent) * 1.25, |rate| rate.0 as f64 / 8.0)
}

pub(super) fn most_received(row: &Row) -> f64 {
    let ceiling = row.status.limits.bandwidth.ingress_ceiling();
    ceiling.map_or_else(|| highest(&row.received) * 1.25, |rate| rate.0 as f64 / 8.0)
}

fn highest(history: &History) -> f64 {
    history.last(usize::MAX).fold(1.0, f64::max)
}

/// The line below the charts: round trips, and why packets were dropped.
pub(super) fn facts(row: &Row) -> String {
    let usage = &row.usage;
    let mut facts = Vec::new();
    let mut fact = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            facts.push(format!("{name} {value}"));
        }
    };
    fact(
        "waiting to close",
        usage
            .net_tcp_time_wait_connections
            .map(|count| human::count(count as u64)),
    );
    let times = [
        usage.net_tcp_rtt_microsecs_p50,
        usage.net_tcp_rtt_microsecs_p90,
        usage.net_tcp_rtt_microsecs_p95,
        usage.net_tcp_rtt_microsecs_p99,
    ];
    let times: Option<Vec<String>> = times.into_iter().map(|time| time.map(micros)).collect();
    fact("rtt 50/90/95/99%", times.map(|times| times.join(" ")));
    fact("limited", usage.net_tx_limited_bytes.map(human::bytes));
    for (reason, count) in &usage.net_drops {
        fact(reason, Some(human::count(*count)));
    }
    facts.join("   ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_fit_their_column() {
        assert_eq!(
            [7.0, 999.0, 1_500.0, 23_000.0, 1_500_000.0].map(micros),
            ["7us", "999us", "1.5ms", "23ms", "1.5s"]
        );
    }
}
