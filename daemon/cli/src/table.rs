//! Tables without borders: a header in capitals, numbers to the right, two spaces between columns.

use comfy_table::{CellAlignment, ContentArrangement, Table as Grid, presets};

use crate::human::cut;

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// Rows of text under a header.
pub struct Table {
    columns: &'static [(&'static str, Align)],
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(columns: &'static [(&'static str, Align)]) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    pub fn row(&mut self, cells: impl Into<Vec<String>>) {
        let cells = cells.into();
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// The text, a line feed after each line. With `width` (of the terminal) the lines are cut to it
    /// rather than wrapped; in a pipe nothing is cut.
    pub fn render(&self, width: Option<usize>) -> String {
        let mut grid = Grid::new();
        grid.load_preset(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        grid.set_header(self.columns.iter().map(|(name, _)| *name));
        for row in &self.rows {
            grid.add_row(row);
        }
        for (column, (_, align)) in grid.column_iter_mut().zip(self.columns) {
            column.set_padding((0, 2)).set_cell_alignment(match align {
                Align::Left => CellAlignment::Left,
                Align::Right => CellAlignment::Right,
            });
        }
        let mut text = String::new();
        for line in grid.lines() {
            let line = line.trim_end();
            match width {
                Some(width) => text.push_str(&cut(line, width)),
                None => text.push_str(line),
            }
            text.push('\n');
        }
        text
    }
}

/// Two columns of names and values, for what is one thing and not a list.
pub fn properties(pairs: &[(String, String)]) -> String {
    let widest = pairs
        .iter()
        .map(|(name, _)| name.chars().count())
        .max()
        .unwrap_or(0);
    pairs
        .iter()
        .map(|(name, value)| format!("{name:<widest$}  {value}").trim_end().to_owned() + "\n")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("PIDS", Align::Right),
            ("COMMAND", Align::Left),
        ]);
        table.row(["web".into(), "7".into(), "sleep 100".into()]);
        table.row([
            "database".into(),
            "1234".into(),
            "a very long command line".into(),
        ]);
        table
    }

    #[test]
    fn numbers_stand_right_and_no_line_ends_in_blanks() {
        assert_eq!(
            sample().render(None),
            "NAME      PIDS  COMMAND\nweb          7  sleep 100\ndatabase  1234  a very long command line\n"
        );
    }

    #[test]
    fn a_terminal_cuts_instead_of_wrapping() {
        assert_eq!(
            sample().render(Some(24)),
            "NAME      PIDS  COMMAND\nweb          7  sleep 1…\ndatabase  1234  a very …\n"
        );
    }

    #[test]
    fn an_empty_table_is_its_header() {
        let table = Table::new(&[("ID", Align::Left), ("NAME", Align::Left)]);
        assert_eq!(table.render(None), "ID  NAME\n");
    }

    #[test]
    fn properties_line_up() {
        let pairs = [
            ("id".to_owned(), "abc".to_owned()),
            ("network".to_owned(), String::new()),
        ];
        assert_eq!(properties(&pairs), "id       abc\nnetwork\n");
    }
}
