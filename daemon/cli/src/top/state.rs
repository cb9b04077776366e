//! What `top` knows and what a key or a sample changes in it: pure, so that every screen can be
//! tested without an agent or a terminal.

use std::collections::VecDeque;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use model::{ContainerState, ContainerStatus, Usage};

use super::columns::View;
use crate::rates;

/// Samples kept per container: at one a second more than the widest chart shows.
const HISTORY_MAX: usize = 400;
/// A notice goes away after this many samples.
const NOTICE_TICKS: u8 = 5;

/// The agent's host, for the header.
#[derive(Debug, Clone, Default)]
pub(crate) struct Host {
    pub cpus: u32,
    pub memory_bytes: u64,
    pub kernel: String,
    pub agent_version: String,
    pub instance: String,
}

/// One figure over time, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct History(VecDeque<f64>);

impl History {
    fn push(&mut self, value: f64) {
        if self.0.len() == HISTORY_MAX {
            self.0.pop_front();
        }
        self.0.push_back(value);
    }

    /// The newest `count` values, oldest first.
    pub fn last(&self, count: usize) -> impl ExactSizeIterator<Item = f64> + '_ {
        self.0.iter().skip(self.0.len().saturating_sub(count)).copied()
    }
}

/// One running container.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub status: ContainerStatus,
    pub usage: Usage,
    pub rates: rates::Rates,
    pub cpu: History,
    pub memory: History,
    pub tasks: History,
    pub throttled: History,
    /// Bytes a second.
    pub received: History,
    pub sent: History,
}

impl Row {
    fn new(status: ContainerStatus) -> Self {
        Self {
            status,
            usage: Usage::default(),
            rates: rates::Rates::default(),
            cpu: History::default(),
            memory: History::default(),
            tasks: History::default(),
            throttled: History::default(),
            received: History::default(),
            sent: History::default(),
        }
    }

    pub fn id(&self) -> &str {
        self.status.id.as_str()
    }

    /// The name, or the beginning of the id.
    pub fn label(&self) -> &str {
        crate::output::label_of(&self.status)
    }

    pub fn memory_bytes(&self) -> u64 {
        self.usage.mem_total_bytes.unwrap_or(0)
    }

    /// Both directions.
    pub fn traffic_bps(&self) -> f64 {
        self.rates.net_rx_bps.unwrap_or(0.0) + self.rates.net_tx_bps.unwrap_or(0.0)
    }

    fn take(&mut self, usage: Usage) {
        if self.usage.timestamp > 0.0 {
            self.rates = rates::between(&self.usage, &usage);
            self.cpu.push(self.rates.cpu_percent.unwrap_or(0.0));
            self.throttled.push(self.rates.throttled_percent.unwrap_or(0.0));
            self.received.push(self.rates.net_rx_bps.unwrap_or(0.0));
            self.sent.push(self.rates.net_tx_bps.unwrap_or(0.0));
        }
        self.memory.push(usage.mem_total_bytes.unwrap_or(0) as f64);
        self.tasks.push(f64::from(rates::tasks(&usage).unwrap_or(0)));
        self.usage = usage;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    Cpu,
    Memory,
    Tasks,
    Traffic,
    Name,
}

/// What the last line of the screen is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    Browse,
    /// Keys go into the filter.
    Filter,
    /// Asked whether this container shall be killed.
    ConfirmKill {
        id: String,
        label: String,
    },
}

/// What the state wants to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    Quit,
    /// `at_once`: SIGKILL to everything; else gracefully.
    Kill {
        id: String,
        label: String,
        at_once: bool,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct TopState {
    pub host: Host,
    pub now_ms: u64,
    pub view: View,
    pub sort: Sort,
    pub reversed: bool,
    pub filter: String,
    pub mode: Mode,
    /// False after the agent went away; figures are the last known then.
    pub connected: bool,
    pub colour: bool,
    notice: Option<(String, u8)>,
    selected: Option<String>,
    /// Figures have come, or the user has chosen: from then on the selection follows its container. Before,
    /// the order means nothing yet, and it is the first line.
    settled: bool,
    rows: Vec<Row>,
}

impl TopState {
    pub fn new(host: Host, colour: bool) -> Self {
        Self {
            host,
            now_ms: 0,
            view: View::default(),
            sort: Sort::Cpu,
            reversed: false,
            filter: String::new(),
            mode: Mode::Browse,
            connected: true,
            colour,
            notice: None,
            selected: None,
            settled: false,
            rows: Vec::new(),
        }
    }

    /// Takes over the list of containers: new ones come, ended ones go, histories stay.
    pub fn take_containers(&mut self, statuses: Vec<ContainerStatus>) {
        let position = self.selected_position();
        let mut old = std::mem::take(&mut self.rows);
        self.rows = statuses
            .into_iter()
            .filter(|status| status.state != ContainerState::Destroyed)
            .map(
                |status| match old.iter().position(|row| row.status.id == status.id) {
                    Some(index) => Row {
                        status,
                        ..old.swap_remove(index)
                    },
                    None => Row::new(status),
                },
            )
            .collect();
        self.select_near(position);
    }

    /// Takes over one round of samples, at the wall time `now_ms`.
    pub fn take_samples(&mut self, now_ms: u64, samples: Vec<(String, Usage)>) {
        self.now_ms = now_ms;
        for (id, usage) in samples {
            if let Some(row) = self.rows.iter_mut().find(|row| row.id() == id) {
                row.take(usage);
            }
        }
        if let Some((_, ticks)) = &mut self.notice {
            *ticks -= 1;
            if *ticks == 0 {
                self.notice = None;
            }
        }
        if !self.settled {
            self.select(0);
            self.settled = self.rows.iter().any(|row| row.rates.cpu_percent.is_some());
        }
    }

    pub fn notify(&mut self, text: impl Into<String>) {
        self.notice = Some((text.into(), NOTICE_TICKS));
    }

    pub fn notice(&self) -> Option<&str> {
        self.notice.as_ref().map(|(text, _)| text.as_str())
    }

    /// Every container, unfiltered: for the sums of the header.
    pub fn all(&self) -> &[Row] {
        &self.rows
    }

    /// The containers to show, in order.
    pub fn visible(&self) -> Vec<&Row> {
        let wanted = self.filter.to_lowercase();
        let mut rows: Vec<&Row> = self
            .rows
            .iter()
            .filter(|row| row.label().to_lowercase().contains(&wanted) || row.id().starts_with(&wanted))
            .collect();
        rows.sort_by(|a, b| {
            let order = match self.sort {
                Sort::Cpu => b
                    .rates
                    .cpu_percent
                    .unwrap_or(0.0)
                    .total_cmp(&a.rates.cpu_percent.unwrap_or(0.0)),
                Sort::Memory => b.memory_bytes().cmp(&a.memory_bytes()),
                Sort::Tasks => rates::tasks(&b.usage).cmp(&rates::tasks(&a.usage)),
                Sort::Traffic => b.traffic_bps().total_cmp(&a.traffic_bps()),
                Sort::Name => a.label().cmp(b.label()),
            };
            let order = if self.reversed { order.reverse() } else { order };
            // Equal ones keep their places from one second to the next.
            order
                .then_with(|| a.label().cmp(b.label()))
                .then_with(|| a.id().cmp(b.id()))
        });
        rows
    }

    pub fn selected(&self) -> Option<&Row> {
        let id = self.selected.as_deref()?;
        self.rows.iter().find(|row| row.id() == id)
    }

    pub fn selected_position(&self) -> usize {
        let Some(id) = self.selected.as_deref() else {
            return 0;
        };
        self.visible().iter().position(|row| row.id() == id).unwrap_or(0)
    }

    /// Keeps the selection if it is still to be seen; else takes what stands in its place.
    fn select_near(&mut self, position: usize) {
        let visible = self.visible();
        let kept = self
            .selected
            .as_deref()
            .is_some_and(|id| visible.iter().any(|row| row.id() == id));
        if !kept {
            let place = position.min(visible.len().saturating_sub(1));
            self.selected = visible.get(place).map(|row| row.id().to_owned());
        }
    }

    fn select(&mut self, position: usize) {
        self.selected = None;
        self.select_near(position);
    }

    /// One key; `page` is how many rows a page has.
    pub fn take_key(&mut self, key: KeyEvent, page: usize) -> Option<Wish> {
        if key.modifiers.contains(KeyModifiers::CONTROL) && matches!(key.code, KeyCode::Char('c')) {
            return Some(Wish::Quit);
        }
        match self.mode.clone() {
            Mode::Browse => self.browse(key.code, page),
            Mode::Filter => {
                self.edit_filter(key.code);
                None
            }
            Mode::ConfirmKill { id, label } => {
                self.mode = Mode::Browse;
                match key.code {
                    KeyCode::Char('y' | 'Y') => Some(Wish::Kill {
                        id,
                        label,
                        at_once: false,
                    }),
                    KeyCode::Char('9') => Some(Wish::Kill {
                        id,
                        label,
                        at_once: true,
                    }),
                    _ => None,
                }
            }
        }
    }

    fn browse(&mut self, code: KeyCode, page: usize) -> Option<Wish> {
        use KeyCode::{Char, Down, End, Home, PageDown, PageUp, Up};
        let position = self.selected_position();
        self.settled |= matches!(code, Up | Down | PageUp | PageDown | Home | End | Char('k'));
        match code {
            KeyCode::Char('q') => return Some(Wish::Quit),
            KeyCode::Esc if self.filter.is_empty() => return Some(Wish::Quit),
            KeyCode::Esc => {
                self.filter.clear();
                self.select_near(0);
            }
            KeyCode::Up => self.select(position.saturating_sub(1)),
            KeyCode::Down => self.select(position.saturating_add(1)),
            KeyCode::PageUp => self.select(position.saturating_sub(page)),
            KeyCode::PageDown => self.select(position.saturating_add(page)),
            KeyCode::Home => self.select(0),
            KeyCode::End => self.select(usize::MAX),
            KeyCode::Char('c') => self.sort_by(Sort::Cpu),
            KeyCode::Char('m') => self.sort_by(Sort::Memory),
            KeyCode::Char('p') => self.sort_by(Sort::Tasks),
            KeyCode::Char('n') => self.sort_by(Sort::Name),
            KeyCode::Char('t') => self.turn_to_traffic(),
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char('k') => {
                if let Some(row) = self.selected() {
                    self.mode = Mode::ConfirmKill {
                        id: row.id().to_owned(),
                        label: row.label().to_owned(),
                    };
                }
            }
            _ => {}
        }
        None
    }

    /// To the network's figures, the busiest first, and back.
    fn turn_to_traffic(&mut self) {
        self.reversed = false;
        (self.view, self.sort) = match self.view {
            View::Usual => (View::Network, Sort::Traffic),
            View::Network => (View::Usual, Sort::Cpu),
        };
    }

    fn edit_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char(c) => self.filter.push(c),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Browse;
            }
            KeyCode::Enter => self.mode = Mode::Browse,
            _ => {}
        }
        self.select_near(0);
    }

    /// The same key again turns the order round.
    fn sort_by(&mut self, sort: Sort) {
        self.reversed = self.sort == sort && !self.reversed;
        self.sort = sort;
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::state;
    use super::*;

    fn key(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    fn labels(state: &TopState) -> Vec<&str> {
        state.visible().iter().map(|row| row.label()).collect()
    }

    #[test]
    fn keys_sort_and_sort_back() {
        let mut state = state(false);
        state.take_key(key(KeyCode::Char('n')), 10);
        let by_name: Vec<String> = labels(&state).into_iter().map(str::to_owned).collect();
        assert!(by_name.is_sorted());
        state.take_key(key(KeyCode::Char('n')), 10);
        assert!(
            labels(&state)
                .into_iter()
                .rev()
                .eq(by_name.iter().map(String::as_str))
        );
        state.take_key(key(KeyCode::Char('m')), 10);
        assert_eq!(labels(&state)[0], "database");
    }

    #[test]
    fn traffic_is_a_view_of_its_own() {
        let mut state = state(false);
        assert_eq!(state.take_key(key(KeyCode::Char('t')), 10), None);
        assert_eq!((state.view, state.sort), (View::Network, Sort::Traffic));
        assert_eq!(labels(&state)[0], "web-frontend");
        state.take_key(key(KeyCode::Char('t')), 10);
        assert_eq!((state.view, state.sort), (View::Usual, Sort::Cpu));
    }

    #[test]
    fn the_filter_narrows_and_keeps_a_selection() {
        let mut state = state(false);
        state.take_key(key(KeyCode::Char('/')), 10);
        for c in "WEB".chars() {
            state.take_key(key(KeyCode::Char(c)), 10);
        }
        state.take_key(key(KeyCode::Enter), 10);
        assert!(labels(&state).iter().all(|label| label.contains("web")));
        assert!(state.selected().is_some_and(|row| row.label().contains("web")));
        // The first Esc clears the filter, the second one leaves.
        assert_eq!(state.take_key(key(KeyCode::Esc), 10), None);
        assert_eq!(state.filter, "");
        assert_eq!(state.take_key(key(KeyCode::Esc), 10), Some(Wish::Quit));
    }

    #[test]
    fn killing_asks_first() {
        let mut state = state(false);
        assert_eq!(state.take_key(key(KeyCode::Char('k')), 10), None);
        assert_eq!(state.take_key(key(KeyCode::Char('x')), 10), None);
        assert_eq!(state.mode, Mode::Browse);
        state.take_key(key(KeyCode::Char('k')), 10);
        let wish = state.take_key(key(KeyCode::Char('y')), 10);
        assert!(matches!(wish, Some(Wish::Kill { at_once: false, .. })));
    }

    #[test]
    fn the_selection_moves_to_the_neighbour_of_an_ended_container() {
        let mut state = state(false);
        state.take_key(key(KeyCode::Down), 10);
        let gone = state.selected().unwrap().id().to_owned();
        let next = state.visible()[2].id().to_owned();
        let left = state
            .all()
            .iter()
            .map(|row| row.status.clone())
            .filter(|s| s.id.as_str() != gone)
            .collect();
        state.take_containers(left);
        assert_eq!(state.selected().unwrap().id(), next);
        state.take_containers(Vec::new());
        assert!(state.selected().is_none());
        assert_eq!(state.take_key(key(KeyCode::Char('k')), 10), None);
    }

    #[test]
    fn the_selection_follows_its_container_without_a_key() {
        let mut state = state(false);
        let selected = state.selected().unwrap().id().to_owned();
        for sort in ['n', 'm', 'p', 'c'] {
            state.take_key(key(KeyCode::Char(sort)), 10);
            state.take_samples(1, Vec::new());
            assert_eq!(state.selected().unwrap().id(), selected);
        }
        // The busiest one falls idle: another is the first line now.
        let before = state.visible()[0].id().to_owned();
        let last = state.visible()[0].usage.clone();
        let idle = Usage {
            timestamp: last.timestamp + 1.0,
            ..last
        };
        state.take_samples(2, vec![(before.clone(), idle)]);
        assert_ne!(state.visible()[0].id(), before);
        assert_eq!(state.selected().unwrap().id(), selected);
    }

    #[test]
    fn ends_of_the_list_hold() {
        let mut state = state(false);
        state.take_key(key(KeyCode::Up), 10);
        assert_eq!(state.selected_position(), 0);
        state.take_key(key(KeyCode::End), 10);
        assert_eq!(state.selected_position(), state.visible().len() - 1);
        state.take_key(key(KeyCode::PageDown), 10);
        assert_eq!(state.selected_position(), state.visible().len() - 1);
    }
}
