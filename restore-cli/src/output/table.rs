//! Columns of text.

use super::Paint;

/// Rows below a header, each column as wide as its widest cell.
#[derive(Debug, Clone)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug, Clone)]
struct Column {
    title: &'static str,
    right: bool,
}

impl Table {
    /// Titles; one that begins with `>` is set to the right.
    pub fn new(titles: &[&'static str]) -> Self {
        let column = |title: &&'static str| match title.strip_prefix('>') {
            Some(title) => Column { title, right: true },
            None => Column { title, right: false },
        };
        Self { columns: titles.iter().map(column).collect(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().map(|cell| printable(&cell)).collect();
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// With each line behind `indent`.
    pub fn render(&self, paint: Paint, indent: &str) -> String {
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, column)| {
                let cells = self.rows.iter().filter_map(|row| row.get(index));
                cells.map(|cell| width(cell)).chain([width(column.title)]).max().unwrap_or(0)
            })
            .collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut text = indent.to_owned();
            for ((cell, column), column_width) in cells.zip(&self.columns).zip(&widths) {
                let padding = " ".repeat(column_width - width(cell));
                let (before, after) = if column.right { (padding.as_str(), "") } else { ("", padding.as_str()) };
                text.push_str(&format!("{before}{cell}{after}  "));
            }
            text.trim_end().to_owned()
        };
        let mut text = paint.dim(&line(&mut self.columns.iter().map(|column| column.title)));
        text.push('\n');
        for row in &self.rows {
            text.push_str(&line(&mut row.iter().map(String::as_str)));
            text.push('\n');
        }
        text
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// Names come from whoever made a marker: nothing in them may move the cursor.
pub fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", ">SIZE", "NOTE"]);
        table.row(["a".to_owned(), "1".to_owned(), String::new()]);
        table.row(["rélease".to_owned(), "12345".to_owned(), "x".to_owned()]);
        assert_eq!(
            table.render(Paint::plain(), "  "),
            "  NAME      SIZE  NOTE\n  a            1\n  rélease  12345  x\n"
        );
    }

    #[test]
    fn cells_cannot_move_the_cursor() {
        let mut table = Table::new(&["NAME"]);
        table.row(["a\u{1b}[2J\nb".to_owned()]);
        assert!(!table.render(Paint::plain(), "").contains('\u{1b}'));
        assert_eq!(table.render(Paint::plain(), "").lines().count(), 2);
    }
}
