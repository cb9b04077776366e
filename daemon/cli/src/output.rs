//! Answers on stdout: a table for people, JSON for programs.

use std::io::{self, ErrorKind, IsTerminal, Write};

use model::{ContainerStatus, Fault, FaultKind};
use serde::Serialize;

use crate::failure::Failure;
use crate::table::Table;

/// Writes to stdout at once. A reader that has gone away is not an error of ours.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| write_failure(&error))
}

pub(crate) fn write_failure(error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::Fault {
            what: Some("stdout".to_owned()),
            fault: Fault::from_error(FaultKind::Failed, error),
        },
    }
}

pub(crate) fn print_table(table: &Table) -> Result<(), Failure> {
    print(&table.render(terminal_width()))
}

/// One value over several lines.
pub(crate) fn print_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| unwritable(&error))?;
    print(&(plain_json(text) + "\n"))
}

/// One value of a stream on a line of its own.
pub(crate) fn print_json_line<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| unwritable(&error))?;
    print(&(plain_json(text) + "\n"))
}

/// JSON lets the upper control characters stand as they are (RFC 8259, section 7), and terminals obey them as they obey
/// an escape: U+009B begins a sequence. In JSON they can only be inside of a string.
pub(crate) fn plain_json(text: String) -> String {
    let obeyed = |c: char| ('\u{7f}'..='\u{9f}').contains(&c);
    if !text.contains(obeyed) {
        return text;
    }
    let escaped = |c: char| format!("\\u{:04x}", u32::from(c));
    text.chars()
        .map(|c| if obeyed(c) { escaped(c) } else { c.to_string() })
        .collect()
}

fn unwritable(error: &serde_json::Error) -> Failure {
    Failure::from(Fault::failed(format!("write the answer as JSON: {error}")))
}

/// Columns of the terminal on stdout; `None` when it is a file or a pipe.
pub(crate) fn terminal_width() -> Option<usize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    crossterm::terminal::size()
        .ok()
        .map(|(columns, _)| usize::from(columns))
        .filter(|&columns| columns > 0)
}

/// One line on stderr. Nothing can be done when that fails.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Characters of an id that people see: unambiguous in practice, and accepted by every verb.
const ID_SHOWN: usize = 12;

pub(crate) fn short_id(id: &str) -> &str {
    id.get(..ID_SHOWN).unwrap_or(id)
}

/// A container's name, or the beginning of its id.
pub(crate) fn label_of(status: &ContainerStatus) -> &str {
    status
        .name
        .as_ref()
        .map_or_else(|| short_id(status.id.as_str()), |name| name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_is_left_in_json() {
        let value = "a\u{9b}6n\u{7f}\u{1b}[2Jä";
        let text = plain_json(serde_json::to_string(value).unwrap());
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
    }
}
