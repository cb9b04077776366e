//! The screen of `top` as a pure function of its state.
//!
//! ```text
//! header      2 lines   host and sums
//! table       the rest  one line per container
//! detail      a third   charts of the selected one, when the screen is high enough
//! last line   1 line    keys, or a question, or the filter
//! ```

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::chart::{bar, chart};
use super::columns::{Column, GAP, fit};
use super::state::{History, Mode, Row, TopState};
use crate::human::{self, UNKNOWN};
use crate::rates;

/// Below this height the table needs every line.
const DETAIL_FROM_HEIGHT: u16 = 20;

/// Colours that stay apart for the colour-blind (after Okabe and Ito): blue, orange, vermilion. The
/// same difference is told by shape or weight, so that nothing is lost without colour.
#[derive(Clone, Copy)]
struct Theme {
    colour: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Fine,
    High,
    Full,
}

impl Level {
    /// Of a share of a ceiling; without one nothing is ever high.
    fn of(fraction: Option<f64>) -> Self {
        match fraction {
            Some(fraction) if fraction >= 0.95 => Self::Full,
            Some(fraction) if fraction >= 0.80 => Self::High,
            _ => Self::Fine,
        }
    }
}

impl Theme {
    fn foreground(self, colour: Color) -> Style {
        if self.colour {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }
    fn level(self, level: Level) -> Style {
        match level {
            Level::Fine => self.foreground(Color::Indexed(74)),
            Level::High => self.foreground(Color::Indexed(214)),
            Level::Full => self.foreground(Color::Indexed(166)).add_modifier(Modifier::BOLD),
        }
    }
    fn quiet(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }
    fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }
}

/// Rows of the table on a screen of this height: a page of the page keys.
pub(crate) fn page_rows(height: u16) -> usize {
    usize::from(areas(Rect::new(0, 0, 1, height))[1].height.saturating_sub(1)).max(1)
}

fn areas(screen: Rect) -> [Rect; 4] {
    let detail = if screen.height >= DETAIL_FROM_HEIGHT {
        (screen.height / 3).clamp(8, 16)
    } else {
        0
    };
    let header = if screen.height >= 5 { 2 } else { 0 };
    let last = u16::from(screen.height >= 3);
    Layout::vertical([
        Constraint::Length(header),
        Constraint::Fill(1),
        Constraint::Length(detail),
        Constraint::Length(last),
    ])
    .areas(screen)
}

pub(crate) fn render(frame: &mut Frame<'_>, state: &TopState) {
    let theme = Theme { colour: state.colour };
    let [header, table, detail, last] = areas(frame.area());
    frame.render_widget(
        ratatui::widgets::Paragraph::new(header_lines(state, theme, header.width)),
        header,
    );
    frame.render_widget(
        ratatui::widgets::Paragraph::new(table_lines(state, theme, table)),
        table,
    );
    if let Some(row) = state.selected().filter(|_| detail.height > 0) {
        frame.render_widget(
            ratatui::widgets::Paragraph::new(detail_lines(state, row, theme, detail)),
            detail,
        );
    }
    frame.render_widget(
        ratatui::widgets::Paragraph::new(last_line(state, theme, last.width)),
        last,
    );
}

/// Pads or cuts to exactly so many cells.
fn cell(text: &str, width: u16, left: bool) -> String {
    let width = usize::from(width);
    let text = human::cut(text, width);
    if left {
        format!("{text:<width$}")
    } else {
        format!("{text:>width$}")
    }
}

fn header_lines(state: &TopState, theme: Theme, width: u16) -> Vec<Line<'static>> {
    let host = &state.host;
    let mut facts = vec![
        format!("instance {}", host.instance),
        format!("agent {}", host.agent_version),
    ];
    facts.push(format!("kernel {}", host.kernel));
    if state.now_ms > 0 {
        let clock = human::timestamp(state.now_ms);
        facts.push(format!("{} UTC", clock.get(11..19).unwrap_or(UNKNOWN)));
    }
    let title = "bulkhead top";
    let mut line = vec![Span::styled(title, theme.strong())];
    let mut room = usize::from(width).saturating_sub(title.len());
    for fact in facts {
        let cells = fact.chars().count() + 3;
        if cells > room {
            break;
        }
        room -= cells;
        line.push(Span::styled("   ", theme.quiet()));
        line.push(Span::raw(fact));
    }
    vec![Line::from(line), sums_line(state, theme, width)]
}

/// Containers, CPU and memory of all against those of the host.
fn sums_line(state: &TopState, theme: Theme, width: u16) -> Line<'static> {
    let rows = state.all();
    // Not `sum`: of nothing it is -0.
    let cpu = rows
        .iter()
        .filter_map(|row| row.rates.cpu_percent)
        .fold(0.0, |sum, percent| sum + percent);
    let memory: u64 = rows.iter().map(Row::memory_bytes).sum();
    let tasks: u64 = rows
        .iter()
        .filter_map(|row| rates::tasks(&row.usage))
        .map(u64::from)
        .sum();
    let cpu_most = f64::from(state.host.cpus) * 100.0;
    let count = match rows.len() {
        1 => "1 container".to_owned(),
        n => format!("{n} containers"),
    };
    let cpu_share = share(cpu, cpu_most);
    let memory_share = share(memory as f64, state.host.memory_bytes as f64);
    // What is left after the texts goes to the two bars.
    let wide = width >= 70;
    let cpu_text = if wide {
        format!("CPU {cpu:.0}% of {cpu_most:.0}% ")
    } else {
        format!("CPU {cpu:.0}%")
    };
    let memory_text = if wide {
        format!(
            "MEM {} of {} ",
            human::bytes(memory),
            human::bytes(state.host.memory_bytes)
        )
    } else {
        format!("MEM {}", human::bytes(memory))
    };
    let tasks_text = if wide {
        format!("   {} pids", human::count(tasks))
    } else {
        String::new()
    };
    let texts = [&count, &cpu_text, &memory_text, &tasks_text].map(|text| text.chars().count());
    let spare = usize::from(width).saturating_sub(texts.iter().sum::<usize>() + 6);
    let bar_width = if wide { (spare / 2).min(30) } else { 0 };
    let mut line = vec![Span::raw(count), Span::raw("   "), Span::raw(cpu_text)];
    push_bar(&mut line, theme, cpu_share, bar_width);
    line.push(Span::raw("   "));
    line.push(Span::raw(memory_text));
    push_bar(&mut line, theme, memory_share, bar_width);
    line.push(Span::raw(tasks_text));
    Line::from(line)
}

fn share(value: f64, of: f64) -> Option<f64> {
    (of > 0.0).then(|| value / of)
}

fn push_bar(line: &mut Vec<Span<'static>>, theme: Theme, fraction: Option<f64>, width: usize) {
    let (used, rest) = bar(fraction.unwrap_or(0.0), width);
    line.push(Span::styled(used, theme.level(Level::of(fraction))));
    line.push(Span::styled(rest, theme.quiet()));
}

fn table_lines(state: &TopState, theme: Theme, area: Rect) -> Vec<Line<'static>> {
    let columns = fit(area.width);
    let mut lines = vec![titles_line(state, theme, &columns)];
    let rows = state.visible();
    let height = usize::from(area.height.saturating_sub(1));
    let selected = state.selected_position();
    let first = (selected + 1).saturating_sub(height.max(1));
    for row in rows.iter().skip(first).take(height) {
        let is_selected = state.selected().is_some_and(|chosen| chosen.id() == row.id());
        lines.push(row_line(state, row, theme, &columns, is_selected));
    }
    if rows.is_empty() {
        let why = if state.filter.is_empty() {
            "no container is running"
        } else {
            "no container matches the filter"
        };
        lines.push(Line::styled(cell(why, area.width, true), theme.quiet()));
    }
    lines
}

fn titles_line(state: &TopState, theme: Theme, columns: &[(Column, u16)]) -> Line<'static> {
    use super::state::Sort;
    let sorted = match state.sort {
        Sort::Cpu => Column::Cpu,
        Sort::Memory => Column::Memory,
        Sort::Tasks => Column::Tasks,
        Sort::Name => Column::Name,
    };
    // Names rise, figures fall, unless turned round.
    let arrow = if (sorted == Column::Name) == state.reversed {
        "↓"
    } else {
        "↑"
    };
    let mut line = Vec::new();
    for (index, (column, width)) in columns.iter().enumerate() {
        let mut title = column.title().to_owned();
        let mut style = theme.quiet();
        if *column == sorted {
            title.push_str(arrow);
            style = theme.strong();
        }
        line.push(Span::styled(cell(&title, *width, column.is_text()), style));
        if index + 1 < columns.len() {
            line.push(Span::raw(" ".repeat(usize::from(GAP))));
        }
    }
    Line::from(line)
}

fn row_line(
    state: &TopState,
    row: &Row,
    theme: Theme,
    columns: &[(Column, u16)],
    is_selected: bool,
) -> Line<'static> {
    let cpu_share = cpu_share(state, row);
    let memory_share = rates::memory_percent(&row.usage).map(|percent| percent / 100.0);
    let mut line = Vec::new();
    for (index, (column, width)) in columns.iter().enumerate() {
        match column {
            Column::CpuBar => push_bar(&mut line, theme, cpu_share, usize::from(*width)),
            Column::MemoryBar => push_bar(&mut line, theme, memory_share, usize::from(*width)),
            Column::CpuHistory => {
                let text = chart(
                    row.cpu.last(usize::from(*width)),
                    usize::from(*width),
                    1,
                    cpu_most(state, row),
                );
                line.push(Span::styled(text.concat(), theme.foreground(Color::Indexed(74))));
            }
            _ => {
                let text = cell(&figure(state, row, *column), *width, column.is_text());
                let style = match column {
                    Column::Name if is_selected => {
                        Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD)
                    }
                    Column::Throttled => {
                        theme.level(Level::of(row.rates.throttled_percent.map(|p| p / 25.0 * 0.8)))
                    }
                    Column::OomKills if row.usage.mem_oom_kills.unwrap_or(0) > 0 => theme.level(Level::Full),
                    Column::Tasks => theme.level(Level::of(tasks_share(row))),
                    _ => Style::new(),
                };
                // A figure that is fine is written plainly; colour is kept for what needs a look.
                let plain =
                    matches!(column, Column::Throttled | Column::Tasks) && style == theme.level(Level::Fine);
                line.push(Span::styled(text, if plain { Style::new() } else { style }));
            }
        }
        if index + 1 < columns.len() {
            line.push(Span::raw(" ".repeat(usize::from(GAP))));
        }
    }
    if is_selected {
        Line::from(line).style(theme.strong())
    } else {
        Line::from(line)
    }
}

/// The text of a column that is not drawn.
fn figure(state: &TopState, row: &Row, column: Column) -> String {
    let usage = &row.usage;
    let known = |value: Option<String>| value.unwrap_or_else(|| UNKNOWN.to_owned());
    match column {
        Column::Name => row.label().to_owned(),
        Column::State => row.status.state.as_str().to_owned(),
        Column::Cpu => known(row.rates.cpu_percent.map(human::percent)),
        Column::CpuLimit => known(
            row.status
                .limits
                .cpu_ceiling()
                .map(|c| format!("{:.0}%", c.as_f64() * 100.0)),
        ),
        Column::Throttled => known(row.rates.throttled_percent.map(|p| format!("{p:.0}%"))),
        Column::Memory => known(usage.mem_total_bytes.map(human::bytes)),
        Column::MemoryPercent => known(rates::memory_percent(usage).map(|p| format!("{p:.0}%"))),
        Column::MemoryLimit => known(rates::memory_limit(usage).map(human::bytes)),
        Column::MemoryPeak => known(usage.mem_peak_bytes.map(human::bytes)),
        Column::Tasks => known(rates::tasks(usage).map(|n| human::count(u64::from(n)))),
        Column::OomKills => known(usage.mem_oom_kills.map(human::count)),
        Column::LimitHits => known(usage.mem_limit_hits.map(human::count)),
        Column::IoRead => known(row.rates.io_read_bps.map(|n| human::bytes(n as u64))),
        Column::IoWrite => known(row.rates.io_write_bps.map(|n| human::bytes(n as u64))),
        Column::Uptime => known(uptime_ms(state, row).map(|ms| human::age(ms.max(1000)))),
        Column::Command => human::command_line(&row.status.command),
        Column::CpuBar | Column::MemoryBar | Column::CpuHistory => String::new(),
    }
}

fn uptime_ms(state: &TopState, row: &Row) -> Option<u64> {
    row.status
        .started_at_ms
        .map(|start| state.now_ms.saturating_sub(start))
}

/// The most CPU that the container can get, in percent of one: its ceiling, else the host.
fn cpu_most(state: &TopState, row: &Row) -> f64 {
    let ceiling = row.status.limits.cpu_ceiling().map(|cpus| cpus.as_f64() * 100.0);
    ceiling.unwrap_or_else(|| f64::from(state.host.cpus.max(1)) * 100.0)
}

fn cpu_share(state: &TopState, row: &Row) -> Option<f64> {
    share(row.rates.cpu_percent?, cpu_most(state, row))
}

fn tasks_share(row: &Row) -> Option<f64> {
    share(
        f64::from(rates::tasks(&row.usage)?),
        rates::tasks_limit(&row.usage)? as f64,
    )
}

fn detail_lines(state: &TopState, row: &Row, theme: Theme, area: Rect) -> Vec<Line<'static>> {
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
    lines.push(Line::styled(human::cut(&facts(row), width), Style::new()));
    lines
}

/// One chart: what it shows now, its history and the value of its upper edge.
struct Plot<'a> {
    title: String,
    history: &'a History,
    ceiling: f64,
    level: Level,
}

fn plots<'a>(state: &TopState, row: &'a Row) -> [Plot<'a>; 4] {
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
    [
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

/// The four charts side by side; on a narrow screen as many as have twelve cells.
fn charts(state: &TopState, row: &Row, theme: Theme, width: usize, height: usize) -> Vec<Line<'static>> {
    const CHART_GAP: usize = 2;
    let count = ((width + CHART_GAP) / (12 + CHART_GAP)).clamp(1, 4);
    let each = (width - CHART_GAP * (count - 1)) / count;
    let mut lines: Vec<Vec<Span<'static>>> = vec![Vec::new(); height + 1];
    for (index, plot) in plots(state, row).iter().take(count).enumerate() {
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
    fact("pid", row.status.pid.map(|pid| pid.to_string()));
    facts.join("   ")
}

const KEYS_WIDE: &str = "q quit   ↑↓ select   sort: c cpu  m memory  p pids  n name   / filter   k kill";
const KEYS_NARROW: &str = "q quit  c m p n sort  / filter  k kill";

fn last_line(state: &TopState, theme: Theme, width: u16) -> Line<'static> {
    let width = usize::from(width);
    let reversed = Style::new().add_modifier(Modifier::REVERSED);
    match &state.mode {
        Mode::ConfirmKill { label, .. } => {
            let question = format!("kill {label}?  y gracefully   9 at once   any other key: no");
            Line::styled(human::cut(&question, width), reversed.patch(theme.strong()))
        }
        Mode::Filter => Line::styled(human::cut(&format!("/{}▏", state.filter), width), theme.strong()),
        Mode::Browse if !state.connected => {
            let text = "the agent is away; these are its last figures   q quit";
            Line::styled(human::cut(text, width), theme.level(Level::Full))
        }
        Mode::Browse => match state.notice() {
            Some(notice) => Line::styled(
                human::cut(&human::one_line(notice), width),
                theme.level(Level::High),
            ),
            None => {
                let filter = if state.filter.is_empty() {
                    String::new()
                } else {
                    format!("filter: {}   ", state.filter)
                };
                let wide = filter.chars().count() + KEYS_WIDE.chars().count() <= width;
                let keys = if wide { KEYS_WIDE } else { KEYS_NARROW };
                Line::styled(human::cut(&format!("{filter}{keys}"), width), theme.quiet())
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::sample::state;
    use super::*;

    fn screen(state: &TopState, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| render(frame, state)).unwrap();
        let buffer = terminal.backend().buffer();
        let mut text = String::new();
        for y in 0..height {
            let line: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Compares with a file beside the sources; `UPDATE_GOLDEN=1` writes it anew.
    fn golden(name: &str, text: &str) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("golden")
            .join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
        }
        let wanted = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            text == wanted,
            "{name} differs; the screen is now\n{text}\nand should be\n{wanted}"
        );
    }

    #[test]
    fn a_common_terminal() {
        golden("top_80x24.txt", &screen(&state(false), 80, 24));
    }

    #[test]
    fn a_large_terminal() {
        golden("top_200x50.txt", &screen(&state(false), 200, 50));
    }

    #[test]
    fn a_tiny_terminal() {
        golden("top_40x10.txt", &screen(&state(false), 40, 10));
    }

    #[test]
    fn nothing_runs() {
        let mut empty = state(false);
        empty.take_containers(Vec::new());
        golden("top_empty_80x24.txt", &screen(&empty, 80, 24));
    }

    #[test]
    fn asking_before_a_kill() {
        let mut asking = state(false);
        asking.mode = Mode::ConfirmKill {
            id: "x".into(),
            label: "web-1".into(),
        };
        assert!(
            screen(&asking, 80, 24).ends_with("kill web-1?  y gracefully   9 at once   any other key: no\n")
        );
    }

    #[test]
    fn no_size_panics() {
        for (width, height) in (0..50).flat_map(|w| [0, 1, 2, 3, 5, 10, 20, 21, 60].map(|h| (w * 5, h))) {
            screen(&state(true), width, height);
        }
    }

    #[test]
    fn without_colour_there_is_no_colour() {
        let coloured = |on: bool| {
            let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
            terminal.draw(|frame| render(frame, &state(on))).unwrap();
            terminal
                .backend()
                .buffer()
                .content()
                .iter()
                .any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
        };
        assert!(coloured(true) && !coloured(false));
    }
}
