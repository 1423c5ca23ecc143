//! A text that grows up to a limit.

use super::MAX_CHARS;

/// Collects text; what is beyond the limit is cut off.
#[derive(Debug)]
pub(super) struct Out {
    text: String,
    left: usize,
}

/// What stands behind a text that was cut off.
const CUT: &str = "\n[The rest was left out]";

impl Out {
    pub(super) fn new() -> Self {
        Self { text: String::new(), left: MAX_CHARS }
    }

    /// Whether nothing more is taken: reading on would be for nothing.
    pub(super) fn is_full(&self) -> bool {
        self.left == 0
    }

    /// Whether there is nothing but blanks.
    pub(super) fn is_blank(&self) -> bool {
        self.text.chars().all(char::is_whitespace)
    }

    /// Adds as much as there is room for.
    pub(super) fn push(&mut self, text: &str) {
        if self.left == 0 {
            return;
        }
        match text.char_indices().nth(self.left) {
            Some((end, _)) => {
                self.text.push_str(&text[..end]);
                self.text.push_str(CUT);
                self.left = 0;
            }
            None => {
                self.text.push_str(text);
                // `nth` walked over all of it.
                self.left -= text.chars().count();
            }
        }
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

    /// The text, without blanks at its ends.
    pub(super) fn finish(self) -> String {
        self.text.trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_the_limit_and_says_so() {
        let mut out = Out::new();
        out.push(&"ü".repeat(MAX_CHARS - 1));
        assert!(!out.is_full());
        out.push("abc");
        out.push("never");
        assert!(out.is_full());
        let text = out.finish();
        assert!(text.ends_with(&format!("üa{CUT}")));
        assert_eq!(text.chars().count(), MAX_CHARS + CUT.chars().count());
    }

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
