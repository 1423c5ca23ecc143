//! A text that grows up to a limit.

use super::MAX_CHARS;

/// Collects text; what is beyond the limit is cut off.
#[derive(Debug)]
pub(super) struct Out {
    pub(super) text: String,
    /// Characters that are still taken.
    pub(super) left: usize,
}

/// What stands behind a text that was cut off.
const CUT: &str = "\n[The rest was left out]";

impl Out {
    pub(super) fn new() -> Self {
        Self { text: String::new(), left: MAX_CHARS }
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
        assert_eq!(out.left, 1);
        out.push("abc");
        out.push("never");
        assert_eq!(out.left, 0);
        let text = out.finish();
        assert!(text.ends_with(&format!("üa{CUT}")));
        assert_eq!(text.chars().count(), MAX_CHARS + CUT.chars().count());
    }
}
