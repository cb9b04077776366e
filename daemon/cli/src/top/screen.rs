//! The terminal as a full screen, and back as it was on every way out.

use std::io::{self, Stdout, stdout};

use crossterm::cursor::{Hide, Show};
use crossterm::execute;
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen};
use ratatui::backend::CrosstermBackend;
use ratatui::{Frame, Terminal};

use crate::foreground::terminal::RawMode;

/// Full screen as long as this lives. A panic restores before its message is printed.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    _alternate: Alternate,
    _raw: RawMode,
}

/// The other screen of the terminal, without a cursor.
struct Alternate;

impl Alternate {
    fn enter() -> io::Result<Self> {
        let entered = Self;
        execute!(stdout(), EnterAlternateScreen, Hide)?;
        Ok(entered)
    }
    fn leave() {
        // When the terminal is gone there is nothing to restore.
        let _ = execute!(stdout(), LeaveAlternateScreen, Show);
    }
}

impl Drop for Alternate {
    fn drop(&mut self) {
        Self::leave();
    }
}

impl Screen {
    pub fn enter() -> io::Result<Self> {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            Alternate::leave();
            print(panic);
        }));
        let raw = RawMode::enter()?;
        let alternate = Alternate::enter()?;
        let terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        Ok(Self {
            terminal,
            _alternate: alternate,
            _raw: raw,
        })
    }

    pub fn draw(&mut self, render: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(render).map(|_| ())
    }

    /// Columns and rows.
    pub fn size(&self) -> (u16, u16) {
        self.terminal
            .size()
            .map_or((80, 24), |size| (size.width, size.height))
    }
}
