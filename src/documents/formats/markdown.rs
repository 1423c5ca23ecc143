//! Lines, paragraphs and tables of Markdown.

use crate::documents::out::Out;

impl Out {
    /// Whether nothing more is taken: reading on would be for nothing.
    pub(super) fn is_full(&self) -> bool {
        self.left == 0
    }

    /// Whether there is nothing but blanks.
    pub(super) fn is_blank(&self) -> bool {
        self.text.chars().all(char::is_whitespace)
    }

    /// Begins a new line, unless one has begun.
    pub(super) fn line(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.push("\n");
        }
    }

    /// Begins a new paragraph, unless one has begun.
    pub(super) fn paragraph(&mut self) {
        self.line();
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.push("\n");
        }
    }

    /// One row of a table; `rule` draws the line below the head.
    pub(super) fn row<'t>(&mut self, cells: impl IntoIterator<Item = &'t str>, rule: bool) {
        self.line();
        let mut count = 0;
        for cell in cells {
            self.push(if count == 0 { "| " } else { " | " });
            // A cell is one line, and its own bars are no borders.
            let words: Vec<&str> = cell.split_whitespace().collect();
            self.push(&words.join(" ").replace('|', "\\|"));
            count += 1;
        }
        self.push(" |\n");
        if rule {
            self.push("|");
            for _ in 0..count {
                self.push(" --- |");
            }
            self.push("\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_a_table() {
        let mut out = Out::new();
        out.push("T");
        out.row(["a", "b|c\n d"], true);
        out.row(["1", ""], false);
        out.paragraph();
        out.paragraph();
        out.push("end");
        assert_eq!(out.finish(), "T\n| a | b\\|c d |\n| --- | --- |\n| 1 |  |\n\nend");
    }
}
