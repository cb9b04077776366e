//! How figures look: colours, bars and cells, shared by the parts of the screen.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Span;

use super::chart::bar;
use super::state::{Row, TopState};
use crate::human;
use crate::rates;

/// Colours that stay apart for the colour-blind (after Okabe and Ito): blue, orange, vermilion. The
/// same difference is told by shape or weight, so that nothing is lost without colour.
#[derive(Clone, Copy)]
pub(super) struct Theme {
    pub colour: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Fine,
    High,
    Full,
}

impl Level {
    /// Of a share of a ceiling; without one nothing is ever high.
    pub(super) fn of(fraction: Option<f64>) -> Self {
        match fraction {
            Some(fraction) if fraction >= 0.95 => Self::Full,
            Some(fraction) if fraction >= 0.80 => Self::High,
            _ => Self::Fine,
        }
    }
}

impl Theme {
    pub(super) fn foreground(self, colour: Color) -> Style {
        if self.colour {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }
    pub(super) fn level(self, level: Level) -> Style {
        match level {
            Level::Fine => self.foreground(Color::Indexed(74)),
            Level::High => self.foreground(Color::Indexed(214)),
            Level::Full => self.foreground(Color::Indexed(166)).add_modifier(Modifier::BOLD),
        }
    }
    pub(super) fn quiet(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }
    pub(super) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }
}

/// Pads or cuts to exactly so many cells.
pub(super) fn cell(text: &str, width: u16, left: bool) -> String {
    let width = usize::from(width);
    let text = human::cut(text, width);
    if left {
        format!("{text:<width$}")
    } else {
        format!("{text:>width$}")
    }
}

pub(super) fn share(value: f64, of: f64) -> Option<f64> {
    (of > 0.0).then(|| value / of)
}

pub(super) fn push_bar(line: &mut Vec<Span<'static>>, theme: Theme, fraction: Option<f64>, width: usize) {
    let (used, rest) = bar(fraction.unwrap_or(0.0), width);
    line.push(Span::styled(used, theme.level(Level::of(fraction))));
    line.push(Span::styled(rest, theme.quiet()));
}

/// The most CPU that the container can get, in percent of one: its ceiling, else the host.
pub(super) fn cpu_most(state: &TopState, row: &Row) -> f64 {
    let ceiling = row.status.limits.cpu_ceiling().map(|cpus| cpus.as_f64() * 100.0);
    ceiling.unwrap_or_else(|| f64::from(state.host.cpus.max(1)) * 100.0)
}

pub(super) fn cpu_share(state: &TopState, row: &Row) -> Option<f64> {
    share(row.rates.cpu_percent?, cpu_most(state, row))
}

pub(super) fn tasks_share(row: &Row) -> Option<f64> {
    share(
        f64::from(rates::tasks(&row.usage)?),
        rates::tasks_limit(&row.usage)? as f64,
    )
}
