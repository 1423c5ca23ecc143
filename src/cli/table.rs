//! Tables for people: columns of equal width on a plain text, whatever stands in the cells.

/// What stands in a cell that has no value.
pub(super) const NOTHING: &str = "-";

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    title: &'static str,
    right: bool,
    widest: usize,
}

impl Column {
    /// Text, shown whole: names and ids that somebody copies.
    pub(super) const fn text(title: &'static str) -> Self {
        Self { title, right: false, widest: usize::MAX }
    }

    /// Text that is cut when it is wider than `widest` places.
    pub(super) const fn cut(title: &'static str, widest: usize) -> Self {
        Self { title, right: false, widest }
    }

    /// Numbers.
    pub(super) const fn number(title: &'static str) -> Self {
        Self { title, right: true, widest: usize::MAX }
    }
}

/// The rows under the titles, a line each. Without rows nothing.
pub(super) fn render(columns: &[Column], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let titles = columns.iter().map(|column| column.title.to_owned()).collect();
    let cells = |row: &Vec<String>| -> Vec<String> {
        columns.iter().zip(row).map(|(column, cell)| cut(&plain(cell), column.widest)).collect()
    };
    let lines: Vec<Vec<String>> = std::iter::once(titles).chain(rows.iter().map(cells)).collect();
    let widths: Vec<usize> = (0..columns.len())
        .map(|at| lines.iter().filter_map(|line| line.get(at)).map(|c| width(c)).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for line in &lines {
        let mut text = String::new();
        for ((cell, column), widest) in line.iter().zip(columns).zip(&widths) {
            let blanks = " ".repeat(widest - width(cell));
            let (before, after) =
                if column.right { (blanks, String::new()) } else { (String::new(), blanks) };
            text.push_str(&format!("{before}{cell}{after}  "));
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

/// One thing: its fields below each other, names first.
pub(super) fn fields(pairs: &[(String, String)]) -> String {
    let widest = pairs.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    let line = |(name, value): &(String, String)| {
        let blanks = " ".repeat(widest - width(name));
        format!("{name}{blanks}  {}\n", plain(value))
    };
    pairs.iter().map(line).collect()
}

/// The text on one line, without characters that steer a terminal: names come from whoever may write them.
pub(super) fn plain(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let text: String = text
        .chars()
        .map(|c| if c == '\n' || c == '\t' { ' ' } else { c })
        .map(|c| if steers(c) { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    if text.is_empty() { NOTHING.to_owned() } else { text }
}

/// At most `widest` places, the last one an ellipsis when something is missing.
fn cut(text: &str, widest: usize) -> String {
    if width(text) <= widest {
        return text.to_owned();
    }
    let mut room = widest.saturating_sub(1);
    let mut short = String::new();
    for c in text.chars() {
        let Some(left) = room.checked_sub(places(c)) else { break };
        room = left;
        short.push(c);
    }
    short + "…"
}

/// Places on a terminal.
fn width(text: &str) -> usize {
    text.chars().map(places).sum()
}

/// Two for what East Asia and emoji write wide, none for what joins the character before it.
fn places(c: char) -> usize {
    match u32::from(c) {
        0x0300..=0x036f | 0x200b..=0x200d | 0x20d0..=0x20ff | 0xfe00..=0xfe0f | 0xfe20..=0xfe2f => {
            0
        }
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f680..=0x1f6ff
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] =
        [Column::text("ID"), Column::cut("NAME", 8), Column::number("USD")];

    fn table(rows: &[[&str; 3]]) -> String {
        let rows: Vec<_> = rows.iter().map(|row| row.map(str::to_owned).to_vec()).collect();
        render(&COLUMNS, &rows)
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let text = table(&[["a", "laptop", "1.50"], ["bcd", "", "12.00"]]);
        assert_eq!(text, "ID   NAME      USD\na    laptop   1.50\nbcd  -       12.00\n");
    }

    #[test]
    fn wide_characters_take_two_places_and_accents_none() {
        let text =
            table(&[["a", "日本語", "1"], ["b", "e\u{301}te\u{301}", "2"], ["c", "🚀", "3"]]);
        assert_eq!(
            text,
            "ID  NAME    USD\na   日本語    1\nb   e\u{301}te\u{301}       2\nc   🚀        3\n"
        );
    }

    #[test]
    fn long_cells_are_cut_where_the_column_says_so() {
        let long = "0123456789";
        let text = table(&[[long, long, "1"], ["b", "日本語日本語", "2"]]);
        assert!(text.contains("0123456789  0123456…    1\n"), "{text}");
        assert!(text.contains("b           日本語…     2\n"), "{text}");
    }

    #[test]
    fn nothing_in_a_cell_steers_the_terminal() {
        let text = table(&[["\u{1b}[31mred", "a\nb\tc", "\u{202e}1"]]);
        assert!(!text.contains(['\u{1b}', '\u{202e}', '\t']), "{text:?}");
        assert_eq!(text.lines().count(), 2, "{text:?}");
    }

    #[test]
    fn an_empty_list_is_no_table() {
        assert_eq!(table(&[]), "");
    }

    #[test]
    fn one_thing_is_shown_below_each_other() {
        let pairs = [("id", "a"), ("key_name", "")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(fields(&pairs), "id        a\nkey_name  -\n");
    }
}
