//! Where each key and value of a YAML text stands. serde_yaml keeps no positions, so the text is read a second time,
//! for its layout only: what this misses (aliases, complex keys) is reported at its parent's place.

use std::collections::HashMap;

/// Line and column, counted from one.
pub(super) type Position = (u32, u32);

/// Positions by path.
#[derive(Debug, Default)]
pub(super) struct Places(HashMap<Vec<String>, (Position, Position)>);

impl Places {
    /// Reads the layout of a text that is known to be YAML.
    pub(super) fn of(text: &str) -> Self {
        let mut scan = Scan {
            text: text.chars().collect(),
            at: 0,
            line: 1,
            column: 1,
            found: Self::default(),
        };
        let mut path = Vec::new();
        while scan.next_token() {
            let before = scan.at;
            scan.block(&mut path, 0);
            if scan.at == before {
                scan.skip_line();
            }
        }
        scan.found
    }

    /// Where the key and the value at `path` stand. List items are keyed by their index and have their own place twice.
    pub(super) fn get(&self, path: &[String]) -> Option<(Position, Position)> {
        self.0.get(path).copied()
    }
}

struct Scan {
    text: Vec<char>,
    at: usize,
    line: u32,
    column: u32,
    found: Places,
}

impl Scan {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn peek_at(&self, ahead: usize) -> Option<char> {
        self.text.get(self.at + ahead).copied()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        if c == '\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
        Some(c)
    }

    fn position(&self) -> Position {
        (self.line, self.column)
    }

    fn skip_spaces(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t')) {
            self.bump();
        }
    }

    fn skip_line(&mut self) {
        while let Some(c) = self.bump() {
            if c == '\n' {
                return;
            }
        }
    }

    /// Whether nothing but a comment follows on this line.
    fn line_is_over(&self) -> bool {
        matches!(self.peek(), None | Some('\n' | '\r' | '#'))
    }

    /// Goes to the next thing that is neither blank, comment nor document marker; `false` at the end.
    fn next_token(&mut self) -> bool {
        loop {
            self.skip_spaces();
            let marker = self.column == 1
                && matches!(
                    self.text.get(self.at..self.at + 3),
                    Some(['-', '-', '-'] | ['.', '.', '.'])
                );
            if self.peek().is_none() {
                return false;
            }
            if !self.line_is_over() && !marker {
                return true;
            }
            self.skip_line();
        }
    }

    /// One block mapping or sequence whose column is that of the next token, which must be above `parent`.
    fn block(&mut self, path: &mut Vec<String>, parent: u32) {
        let mut index = 0_usize;
        let Some(column) = self.next_token().then_some(self.column) else { return };
        if column <= parent {
            return;
        }
        while self.next_token() && self.column >= column {
            let start = self.position();
            let is_item = self.peek() == Some('-')
                && matches!(self.peek_at(1), None | Some(' ' | '\t' | '\n' | '\r'));
            if self.column > column {
                self.skip_line();
            } else if is_item {
                self.bump();
                self.skip_spaces();
                path.push(index.to_string());
                index += 1;
                let place = if self.line_is_over() { start } else { self.position() };
                self.found.0.insert(path.clone(), (place, place));
                self.value(path, column, true);
                path.pop();
            } else if matches!(self.peek(), Some('{' | '[')) {
                self.flow(path);
                self.skip_line();
            } else if let Some(key) = self.key() {
                self.skip_spaces();
                self.skip_properties();
                path.push(key);
                let place = if self.line_is_over() { start } else { self.position() };
                self.found.0.insert(path.clone(), (start, place));
                self.value(path, column, false);
                path.pop();
            } else {
                self.skip_line();
            }
        }
    }

    /// What follows a colon or a dash that stands in `column`.
    fn value(&mut self, path: &mut Vec<String>, column: u32, item: bool) {
        match self.peek() {
            _ if self.line_is_over() => {
                // A sequence may stand in its key's own column.
                let deeper = self.next_token()
                    && (self.column > column
                        || (!item && self.column == column && self.peek() == Some('-')));
                if deeper {
                    self.block(path, column - 1);
                }
            }
            Some('|' | '>') => {
                self.skip_line();
                self.skip_deeper(column);
            }
            Some('{' | '[') => self.flow(path),
            // `- key: value` opens a mapping in the key's column.
            _ if item && self.opens_mapping() => self.block(path, column),
            Some(quote @ ('"' | '\'')) => {
                self.quoted(quote);
                self.skip_line();
            }
            _ => {
                self.skip_line();
                self.skip_deeper(column);
            }
        }
    }

    /// Skips the lines of a scalar that goes on below its key.
    fn skip_deeper(&mut self, column: u32) {
        loop {
            let (at, line, start) = (self.at, self.line, self.column);
            self.skip_spaces();
            let blank = matches!(self.peek(), Some('\n' | '\r'));
            let deeper = self.peek().is_some() && self.column > column;
            if !blank && !deeper {
                (self.at, self.line, self.column) = (at, line, start);
                return;
            }
            self.skip_line();
        }
    }

    /// Anchors and tags.
    fn skip_properties(&mut self) {
        while matches!(self.peek(), Some('&' | '!')) {
            while self.peek().is_some_and(|c| !c.is_whitespace()) {
                self.bump();
            }
            self.skip_spaces();
        }
    }

    fn opens_mapping(&mut self) -> bool {
        let before = (self.at, self.line, self.column);
        let found = self.key().is_some();
        (self.at, self.line, self.column) = before;
        found
    }

    /// A key and its colon on this line; without one nothing is consumed.
    fn key(&mut self) -> Option<String> {
        let before = (self.at, self.line, self.column);
        let key = match self.peek()? {
            quote @ ('"' | '\'') => self.quoted(quote),
            _ => self.plain(&[]),
        };
        self.skip_spaces();
        if self.peek() == Some(':') {
            self.bump();
            return Some(key);
        }
        (self.at, self.line, self.column) = before;
        None
    }

    /// A plain scalar up to `: `, a comment, the end of the line or one of `ends`.
    fn plain(&mut self, ends: &[char]) -> String {
        let mut text = String::new();
        while let Some(c) = self.peek() {
            let next = self.peek_at(1);
            let colon = c == ':'
                && next
                    .is_none_or(|n| n.is_whitespace() || (!ends.is_empty() && ",[]{}".contains(n)));
            let comment = c == '#' && text.ends_with([' ', '\t']);
            if c == '\n' || colon || comment || ends.contains(&c) {
                break;
            }
            text.push(c);
            self.bump();
        }
        text.trim().to_owned()
    }

    fn quoted(&mut self, quote: char) -> String {
        let mut text = String::new();
        self.bump();
        while let Some(c) = self.bump() {
            if c == quote {
                if quote == '\'' && self.peek() == Some('\'') {
                    self.bump();
                } else {
                    break;
                }
            } else if c == '\\' && quote == '"' {
                text.extend(self.bump());
                continue;
            }
            text.push(c);
        }
        text
    }

    /// `{…}` or `[…]`, over any number of lines.
    fn flow(&mut self, path: &mut Vec<String>) {
        let list = self.bump() == Some('[');
        let mut index = 0_usize;
        loop {
            let before = self.at;
            while self.peek().is_some_and(|c| c.is_whitespace() || c == ',') {
                self.bump();
            }
            match self.peek() {
                None => return,
                Some('}' | ']') => {
                    self.bump();
                    return;
                }
                Some('#') => {
                    self.skip_line();
                    continue;
                }
                Some(_) => {}
            }
            let start = self.position();
            if list {
                path.push(index.to_string());
                index += 1;
                self.found.0.insert(path.clone(), (start, start));
            } else {
                let key = match self.peek() {
                    Some(quote @ ('"' | '\'')) => self.quoted(quote),
                    _ => self.plain(&[',', '}']),
                };
                while self.peek().is_some_and(|c| c.is_whitespace() || c == ':') {
                    self.bump();
                }
                path.push(key);
                self.found.0.insert(path.clone(), (start, self.position()));
            }
            match self.peek() {
                Some('{' | '[') => self.flow(path),
                Some(quote @ ('"' | '\'')) => drop(self.quoted(quote)),
                Some(',' | '}' | ']') => {}
                _ => drop(self.plain(&[',', '}', ']'])),
            }
            path.pop();
            if self.at == before {
                self.bump();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# comment
host: 0.0.0.0   # here
providers:
  openai:
    api_key: ${OPENAI_API_KEY}
    client_args: {timeout: 30, default_headers: {X-Team: a,
      X-Other: b}}
  \"odd: name\":
    models:
    - first
    -   second
pricing:
  openai:gpt-4o:
    input_price_per_million: 2.5
notes: |
  port: not a key

  still text
list:
  - a: 1
    b: 2
  -
    a: 3
port: 8000
";

    fn at(path: &str) -> Option<(Position, Position)> {
        let path: Vec<String> = path.split('/').map(str::to_owned).collect();
        Places::of(TEXT).get(&path)
    }

    #[test]
    fn block_keys_and_values_are_found() {
        assert_eq!(at("host"), Some(((2, 1), (2, 7))));
        assert_eq!(at("providers/openai"), Some(((4, 3), (4, 3))), "a mapping stands at its key");
        assert_eq!(at("providers/openai/api_key"), Some(((5, 5), (5, 14))));
        assert_eq!(at("pricing/openai:gpt-4o/input_price_per_million"), Some(((14, 5), (14, 30))));
    }

    #[test]
    fn flow_mappings_quoted_keys_lists_and_block_scalars_are_followed() {
        assert_eq!(at("providers/openai/client_args/timeout"), Some(((6, 19), (6, 28))));
        assert_eq!(
            at("providers/openai/client_args/default_headers/X-Other"),
            Some(((7, 7), (7, 16)))
        );
        assert_eq!(at("providers/odd: name/models/1"), Some(((11, 9), (11, 9))));
        assert_eq!(at("list/0/b"), Some(((21, 5), (21, 8))));
        assert_eq!(at("list/1/a"), Some(((23, 5), (23, 8))));
        assert_eq!(at("port"), Some(((24, 1), (24, 7))), "a block scalar's lines are not keys");
    }

    #[test]
    fn no_text_keeps_it_busy_for_ever() {
        let alphabet: Vec<char> = "{}[],:-?|>&!#'\"\\ \n\r\tab".chars().collect();
        let mut state = 1_u32;
        for _ in 0..20_000 {
            let text: String = (0..40)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    alphabet[(state >> 16) as usize % alphabet.len()]
                })
                .collect();
            Places::of(&text);
        }
    }
}
