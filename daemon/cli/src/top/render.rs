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

use super::chart::chart;
use super::columns::{Column, GAP, fit};
use super::detail::detail_lines;
use super::names::short_names;
use super::network;
use super::state::{Mode, Row, TopState};
use super::theme::{Level, Theme, cell, cpu_most, cpu_share, push_bar, share, tasks_share};
use crate::human::{self, UNKNOWN};
use crate::rates;

/// A screen with less than the titles, one container and the keys shows nothing but a hint.
const LEAST: (u16, u16) = (13, 3);
/// Below this height the table needs every line.
const DETAIL_FROM_HEIGHT: u16 = 20;

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

/// No container and no question can be seen: keys other than those that leave are not to be obeyed.
pub(crate) fn is_too_small(width: u16, height: u16) -> bool {
    width < LEAST.0 || height < LEAST.1
}

pub(crate) fn render(frame: &mut Frame<'_>, state: &TopState) {
    let theme = Theme { colour: state.colour };
    let whole = frame.area();
    if is_too_small(whole.width, whole.height) {
        let lines = ["too small", "q quit"].map(|line| human::cut(line, usize::from(whole.width)));
        let hint: Vec<Line<'_>> = lines.into_iter().map(Line::from).collect();
        return frame.render_widget(ratatui::widgets::Paragraph::new(hint), whole);
    }
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

fn table_lines(state: &TopState, theme: Theme, area: Rect) -> Vec<Line<'static>> {
    let columns = fit(state.view, area.width);
    let mut lines = vec![titles_line(state, theme, &columns)];
    let rows = state.visible();
    let height = usize::from(area.height.saturating_sub(1));
    let selected = state.selected_position();
    let first = (selected + 1).saturating_sub(height.max(1));
    let shown: Vec<&Row> = rows.iter().skip(first).take(height).copied().collect();
    let names = short_names(&shown, width_of(&columns, Column::Name));
    for (row, name) in shown.into_iter().zip(names) {
        let is_selected = state.selected().is_some_and(|chosen| chosen.id() == row.id());
        lines.push(row_line(state, row, name, theme, &columns, is_selected));
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

fn width_of(columns: &[(Column, u16)], wanted: Column) -> usize {
    let found = columns.iter().find(|(column, _)| *column == wanted);
    found.map_or(0, |(_, width)| usize::from(*width))
}

fn titles_line(state: &TopState, theme: Theme, columns: &[(Column, u16)]) -> Line<'static> {
    use super::state::Sort;
    let sorted = match state.sort {
        Sort::Cpu => Column::Cpu,
        Sort::Memory => Column::Memory,
        Sort::Tasks => Column::Tasks,
        Sort::Traffic => Column::Sent,
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
    name: String,
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
            Column::CpuHistory | Column::NetHistory => {
                let (history, most) = match column {
                    Column::CpuHistory => (&row.cpu, cpu_most(state, row)),
                    _ => (&row.sent, network::most(row)),
                };
                let text = chart(history.last(usize::from(*width)), usize::from(*width), 1, most);
                line.push(Span::styled(text.concat(), theme.foreground(Color::Indexed(74))));
            }
            _ => {
                let figure = match column {
                    Column::Name => name.clone(),
                    _ => figure(state, row, *column),
                };
                let text = cell(&figure, *width, column.is_text());
                let style = match column {
                    Column::Name if is_selected => {
                        Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD)
                    }
                    Column::Throttled => {
                        theme.level(Level::of(row.rates.throttled_percent.map(|p| p / 25.0 * 0.8)))
                    }
                    Column::Dropped if row.rates.net_drops_ps.unwrap_or(0.0) > 0.0 => {
                        theme.level(Level::Full)
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
        Column::Disk => known(usage.disk_used_bytes.map(human::bytes)),
        Column::DiskLimit => known(rates::disk_limit(usage).map(human::bytes)),
        Column::Received
        | Column::Sent
        | Column::ReceivedPackets
        | Column::SentPackets
        | Column::Ingress
        | Column::Egress
        | Column::Connections
        | Column::RoundTrip
        | Column::Retransmits
        | Column::Dropped
        | Column::Delay
        | Column::Ports => network::figure(row, column),
        Column::Uptime => known(uptime_ms(state, row).map(|ms| human::age(ms.max(1000)))),
        Column::Command => human::command_line(&row.status.command),
        // Not figures: drawn by the line itself.
        Column::Name | Column::CpuBar | Column::MemoryBar | Column::CpuHistory | Column::NetHistory => {
            String::new()
        }
    }
}

fn uptime_ms(state: &TopState, row: &Row) -> Option<u64> {
    row.status
        .started_at_ms
        .map(|start| state.now_ms.saturating_sub(start))
}

const KEYS_WIDE: &str = "q quit  ↑↓ select  t traffic  sort c cpu m mem p pids n name  / filter  k kill";
const KEYS_NARROW: &str = "q quit  t net  c m p n sort  / filter  k kill";

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
    fn the_network_on_two_terminals() {
        for (width, height) in [(80, 24), (120, 40)] {
            let mut state = state(false);
            state.take_key(crossterm::event::KeyCode::Char('t').into(), 10);
            golden(
                &format!("top_network_{width}x{height}.txt"),
                &screen(&state, width, height),
            );
        }
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
    fn a_screen_too_small_says_so() {
        assert_eq!(screen(&state(false), 10, 2), "too small\nq quit\n");
        assert_eq!(screen(&state(false), 4, 1), "too…\n");
        let least = screen(&state(false), 13, 3);
        assert!(least.contains("NAME") && least.contains("q quit"), "{least}");
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
