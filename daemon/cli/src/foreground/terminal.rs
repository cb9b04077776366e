//! Our own terminal in raw mode, and back on every way out.

use std::io::{self, IsTerminal};
use std::sync::Once;

use model::TerminalSize;
use nix::unistd::{getpgrp, tcgetpgrp};

/// Raw as long as this lives. Dropping restores; a panic restores before its message is printed.
pub(crate) struct RawMode(());

impl RawMode {
    pub fn enter() -> io::Result<Self> {
        static RESTORE_ON_PANIC: Once = Once::new();
        RESTORE_ON_PANIC.call_once(|| {
            let print = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                print(panic);
            }));
        });
        crossterm::terminal::enable_raw_mode()?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    // Does nothing when the mode is not raw; when the terminal is gone there is nothing to restore.
    let _ = crossterm::terminal::disable_raw_mode();
}

/// What the container's terminal should be like; the usual size when we have none ourselves.
pub(crate) fn size() -> TerminalSize {
    match crossterm::terminal::size() {
        Ok((columns, rows)) if columns > 0 && rows > 0 => TerminalSize { rows, columns },
        _ => TerminalSize {
            rows: 24,
            columns: 80,
        },
    }
}

/// Reading stdin now would stop us: a terminal lets only its foreground job read (termios(3), SIGTTIN).
pub(crate) fn stdin_would_stop_us() -> bool {
    let stdin = io::stdin();
    stdin.is_terminal() && tcgetpgrp(&stdin).is_ok_and(|foreground| foreground != getpgrp())
}
