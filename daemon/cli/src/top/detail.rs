//! The lower part of the screen: charts of the selected container.

use model::BitsPerSecond;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::chart::chart;
use super::columns::View;
use super::network;
use super::state::{History, Row, TopState};
use super::theme::{Level, Theme, cell, cpu_most, cpu_share, tasks_share};
use crate::human::{self, UNKNOWN};
use crate::rates;

pub(super) fn detail_lines(state: &TopState, row: &Row, theme: Theme, area: Rect) -> Vec<Line<'static>> {
    let width = usize::from(area.width);
    let mut title = format!("── {} ", row.label());
    let id = row.id().get(..12).unwrap_or(row.id());
    title.push_str(&format!("· {id} · {} ", row.status.state.as_str()));
    title.push_str(&format!("· {} ", human::command_line(&row.status.command)));
    let title = human::cut(&title, width);
    let rule = "─".repeat(width.saturating_sub(title.chars().count()));
    let mut lines = vec![Line::from(vec![
        Span::styled(title, theme.strong()),
        Span::styled(rule, theme.quiet()),
    ])];
    lines.extend(charts(
        state,
        row,
        theme,
        width,
        usize::from(area.height.saturating_sub(3)),
    ));
    let facts = match state.view {
        View::Usual => facts(row),
        View::Network => network::facts(row),
    };
    lines.push(Line::styled(human::cut(&facts, width), Style::new()));
    lines
}

/// One chart: what it shows now, its history and the value of its upper edge.
struct Plot<'a> {
    title: String,
    history: &'a History,
    ceiling: f64,
    level: Level,
}

/// Of the network: what goes in and out, against the ceilings.
fn traffic_plots(row: &Row) -> Vec<Plot<'_>> {
    let limits = &row.status.limits.bandwidth;
    let plot = |name: &str, rate: Option<f64>, limit: Option<BitsPerSecond>, history, most: f64| {
        let shown = rate.map_or_else(|| UNKNOWN.to_owned(), |rate| human::bytes(rate as u64) + "/s");
        let limit = limit.map_or(String::new(), |limit| format!(" of {limit}"));
        Plot {
            title: format!("{name} {shown}{limit}"),
            history,
            ceiling: most,
            level: Level::Fine,
        }
    };
    let (rates, most) = (&row.rates, network::most(row));
    vec![
        plot(
            "IN",
            rates.net_rx_bps,
            limits.ingress_ceiling(),
            &row.received,
            network::most_received(row),
        ),
        plot("OUT", rates.net_tx_bps, limits.egress_ceiling(), &row.sent, most),
    ]
}

fn plots<'a>(state: &TopState, row: &'a Row) -> Vec<Plot<'a>> {
    if state.view == View::Network {
        return traffic_plots(row);
    }
    let highest = |history: &History| history.last(usize::MAX).fold(1.0, f64::max);
    let known = |value: Option<String>| value.unwrap_or_else(|| UNKNOWN.to_owned());
    let memory_limit = rates::memory_limit(&row.usage);
    let tasks_limit = rates::tasks_limit(&row.usage);
    let limit = |text: Option<String>| text.map_or(String::new(), |text| format!(" of {text}"));
    let ceiling = row
        .status
        .limits
        .cpu_ceiling()
        .map(|cpus| format!("{:.0}%", cpus.as_f64() * 100.0));
    vec![
        Plot {
            title: format!(
                "CPU {}{}",
                known(row.rates.cpu_percent.map(human::percent)),
                limit(ceiling)
            ),
            history: &row.cpu,
            ceiling: cpu_most(state, row),
            level: Level::of(cpu_share(state, row)),
        },
        Plot {
            title: format!(
                "MEM {}{}",
                known(row.usage.mem_total_bytes.map(human::bytes)),
                limit(memory_limit.map(human::bytes))
            ),
            history: &row.memory,
            // Without a ceiling the chart ends at the highest value, a quarter left free.
            ceiling: memory_limit.map_or_else(|| highest(&row.memory) * 1.25, |limit| limit as f64),
            level: Level::of(rates::memory_percent(&row.usage).map(|p| p / 100.0)),
        },
        Plot {
            title: format!(
                "PIDS {}{}",
                known(rates::tasks(&row.usage).map(|n| n.to_string())),
                limit(tasks_limit.map(|n| n.to_string()))
            ),
            history: &row.tasks,
            ceiling: tasks_limit.map_or_else(|| highest(&row.tasks) * 1.25, |limit| limit as f64),
            level: Level::of(tasks_share(row)),
        },
        Plot {
            title: format!(
                "THROTTLED {}",
                known(row.rates.throttled_percent.map(human::percent))
            ),
            history: &row.throttled,
            ceiling: 100.0,
            level: Level::of(row.rates.throttled_percent.map(|p| p / 25.0 * 0.8)),
        },
    ]
}

/// The charts side by side; on a narrow screen as many as have twelve cells.
fn charts(state: &TopState, row: &Row, theme: Theme, width: usize, height: usize) -> Vec<Line<'static>> {
    const CHART_GAP: usize = 2;
    let plots = plots(state, row);
    let count = ((width + CHART_GAP) / (12 + CHART_GAP)).clamp(1, plots.len());
    let each = (width - CHART_GAP * (count - 1)) / count;
    let mut lines: Vec<Vec<Span<'static>>> = vec![Vec::new(); height + 1];
    for (index, plot) in plots.iter().take(count).enumerate() {
        let gap = if index > 0 {
            " ".repeat(CHART_GAP)
        } else {
            String::new()
        };
        let drawn = chart(plot.history.last(each), each, height, plot.ceiling);
        lines[0].push(Span::raw(gap.clone()));
        lines[0].push(Span::styled(cell(&plot.title, each as u16, true), theme.strong()));
        for (line, text) in lines[1..].iter_mut().zip(drawn) {
            line.push(Span::raw(gap.clone()));
            line.push(Span::styled(text, theme.level(plot.level)));
        }
    }
    lines.into_iter().map(Line::from).collect()
}

fn facts(row: &Row) -> String {
    let usage = &row.usage;
    let mut facts = Vec::new();
    let mut fact = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            facts.push(format!("{name} {value}"));
        }
    };
    fact("peak", usage.mem_peak_bytes.map(human::bytes));
    fact("hits", usage.mem_limit_hits.map(human::count));
    fact("OOM", usage.mem_oom_kills.map(human::count));
    fact("refused", usage.pids_refused.map(human::count));
    fact(
        "read",
        row.rates.io_read_bps.map(|n| human::bytes(n as u64) + "/s"),
    );
    fact(
        "write",
        row.rates.io_write_bps.map(|n| human::bytes(n as u64) + "/s"),
    );
    fact("waiting", human::pressure(usage));
    fact("pid", row.status.pid.map(|pid| pid.to_string()));
    facts.join("   ")
}
