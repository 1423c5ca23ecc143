//! The calls of a chat completion as they come in pieces: whose they are, and by which numbers the caller knows its own.

use serde_json::value::RawValue;

use super::super::chat::arguments;
use super::super::doc::{Doc, quoted};
use super::super::{Owned, ToolCall};
use crate::protocol::json::{is_null, range_of};
use crate::translate::text::Text;

/// The calls of one round.
#[derive(Debug, Default)]
pub(super) struct Calls(Vec<Call>);

#[derive(Debug, Default)]
struct Call {
    /// The provider's number; nothing where it gives none.
    index: Option<u64>,
    id: String,
    name: String,
    /// As they stand between their quotes.
    arguments: Text<'static>,
    /// Other fields of the call, as they came last: seals.
    others: Vec<(String, String)>,
    owner: Owner,
    /// The pieces that came before its owner was known.
    held: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Owner {
    /// Its name is not whole yet.
    #[default]
    Unknown,
    /// The gateway's.
    Ours,
    /// The caller's, who knows it by this number.
    Theirs(u64),
}

/// What is left of a list of pieces for the caller.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// The pieces of the caller's calls, as it sees them.
    pub(super) pieces: Vec<String>,
    /// They are all, and as they came.
    pub(super) is_same: bool,
}

impl Calls {
    /// Takes the pieces of a delta. `next`: the number of the caller's next call.
    pub(super) fn add(&mut self, pieces: &[&RawValue], owned: &Owned, next: &mut u64) -> Left {
        let mut left = Left { pieces: Vec::with_capacity(pieces.len()), is_same: true };
        for raw in pieces {
            let piece = Doc::of(raw).unwrap_or_default();
            let call = self.call_of(&piece);
            call.add(&piece);
            call.held.push(raw.get().to_owned());
            call.decide(owned, next);
            match call.owner {
                Owner::Unknown => left.is_same = false,
                Owner::Ours => {
                    call.held.clear();
                    left.is_same = false;
                }
                Owner::Theirs(number) => {
                    left.is_same &= call.held.len() == 1;
                    for held in call.held.drain(..) {
                        let shown = numbered(&held, number);
                        left.is_same &= shown == held;
                        left.pieces.push(shown);
                    }
                }
            }
        }
        left
    }

    /// The round is over: calls whose owner nobody told are the caller's. Returns their pieces.
    pub(super) fn settle(&mut self, owned: &Owned, next: &mut u64) -> Vec<String> {
        let mut pieces = Vec::new();
        for call in &mut self.0 {
            if !matches!(call.owner, Owner::Unknown) {
                continue;
            }
            call.owner = match owned.has(&call.name) {
                true => Owner::Ours,
                false => Owner::Theirs(take(next)),
            };
            if let Owner::Theirs(number) = call.owner {
                pieces.extend(call.held.drain(..).map(|held| numbered(&held, number)));
            }
            call.held.clear();
        }
        pieces
    }

    /// The gateway's calls.
    pub(super) fn ours(&self) -> Vec<ToolCall> {
        let ours = self.0.iter().filter(|call| matches!(call.owner, Owner::Ours));
        ours.map(|call| ToolCall {
            id: call.id.clone(),
            name: call.name.clone(),
            arguments: arguments(&call.arguments.plain()),
        })
        .collect()
    }

    /// Whether some are the caller's.
    pub(super) fn has_foreign(&self) -> bool {
        self.0.iter().any(|call| matches!(call.owner, Owner::Theirs(_)))
    }

    /// The calls as a message has them.
    pub(super) fn write(&self) -> Vec<String> {
        let all = self.0.iter();
        all.map(|call| {
            let mut others = String::new();
            for (name, value) in &call.others {
                others.push_str(&format!(",{}:{value}", quoted(name)));
            }
            format!(
                "{{\"id\":{},\"type\":\"function\",\"function\":{{\"name\":{},\"arguments\":\"{}\"}}{others}}}",
                quoted(&call.id),
                quoted(&call.name),
                call.arguments.escaped()
            )
        })
        .collect()
    }

    /// Which call a piece is of: by its number; where a provider gives all the same one, by its id too.
    fn call_of(&mut self, piece: &Doc<'_>) -> &mut Call {
        let index = piece.number("index");
        let id = piece.text("id").filter(|id| !id.is_empty());
        let is_it = |call: &Call| {
            let is_other = id.as_ref().is_some_and(|id| !call.id.is_empty() && call.id != *id);
            call.index == index && !is_other
        };
        let at = self.0.iter().rposition(is_it).unwrap_or_else(|| {
            self.0.push(Call { index, ..Call::default() });
            self.0.len() - 1
        });
        &mut self.0[at]
    }
}

impl Call {
    fn add(&mut self, piece: &Doc<'_>) {
        if self.id.is_empty() {
            self.id = piece.text("id").unwrap_or_default();
        }
        for (name, raw) in piece.fields() {
            if matches!(name, "index" | "id" | "type" | "function") || is_null(raw) {
                continue;
            }
            self.others.retain(|(known, _)| known != name);
            self.others.push((name.to_owned(), raw.get().to_owned()));
        }
        let Some(function) = piece.doc("function") else { return };
        if matches!(self.owner, Owner::Unknown) {
            self.name.push_str(&function.text("name").unwrap_or_default());
        }
        match function.get("arguments") {
            Some(raw) if raw.get().starts_with('{') => self.arguments = Text::owned(raw.get()),
            Some(raw) => self.arguments.push(&Text::read(raw).unwrap_or_default()),
            None => {}
        }
    }

    fn decide(&mut self, owned: &Owned, next: &mut u64) {
        let is_known = !matches!(self.owner, Owner::Unknown);
        let is_whole = !self.arguments.is_empty() || !owned.may_become(&self.name);
        if is_known || self.name.is_empty() {
            return;
        }
        if owned.has(&self.name) {
            self.owner = Owner::Ours;
        } else if is_whole {
            self.owner = Owner::Theirs(take(next));
        }
    }
}

fn take(next: &mut u64) -> u64 {
    let number = *next;
    *next += 1;
    number
}

/// A piece with its number.
fn numbered(piece: &str, number: u64) -> String {
    let Ok(raw) = serde_json::from_str::<&RawValue>(piece) else { return piece.to_owned() };
    let Some(doc) = Doc::of(raw) else { return piece.to_owned() };
    match doc.raw("index") {
        Some(index) if index.get() == number.to_string() => piece.to_owned(),
        Some(index) => {
            let range = range_of(piece.as_bytes(), index);
            format!("{}{number}{}", &piece[..range.start], &piece[range.end..])
        }
        None if doc.is_empty() => piece.to_owned(),
        None => format!("{{\"index\":{number},{}", &piece[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(calls: &mut Calls, next: &mut u64, list: &str) -> (Vec<String>, bool) {
        let owned = Owned::from_iter(["web_search".to_owned()]);
        let pieces: Vec<&RawValue> = serde_json::from_str(list).unwrap();
        let left = calls.add(&pieces, &owned, next);
        (left.pieces, left.is_same)
    }

    #[test]
    fn the_gateways_calls_are_hidden_and_the_others_numbered() {
        let (mut calls, mut next) = (Calls::default(), 0);
        let mut add = |list: &str| add(&mut calls, &mut next, list);
        let ours = r#"[{"index":0,"id":"a","type":"function","function":{"name":"web_search","arguments":""}}]"#;
        assert_eq!(add(ours), (vec![], false));
        assert_eq!(add(r#"[{"index":0,"function":{"arguments":"{\"query\":"}}]"#), (vec![], false));
        let (left, is_same) = add(
            r#"[{"index":1,"id":"b","function":{"name":"f","arguments":""},"extra_content":{"x":1}},{"index":0,"function":{"arguments":"1}"}}]"#,
        );
        assert_eq!(
            left,
            [
                r#"{"index":0,"id":"b","function":{"name":"f","arguments":""},"extra_content":{"x":1}}"#
            ]
        );
        assert!(!is_same);
        assert_eq!(add(r#"[{"index":1,"function":{"arguments":"{}"}}]"#).0.len(), 1);
        let ours = calls.ours();
        assert_eq!((ours.len(), &*ours[0].id), (1, "a"));
        assert_eq!(ours[0].arguments["query"], 1);
        assert!(calls.has_foreign());
        assert_eq!(
            calls.write(),
            [
                r#"{"id":"a","type":"function","function":{"name":"web_search","arguments":"{\"query\":1}"}}"#,
                r#"{"id":"b","type":"function","function":{"name":"f","arguments":"{}"},"extra_content":{"x":1}}"#,
            ]
        );
    }

    #[test]
    fn a_name_in_pieces_is_waited_for() {
        let (mut calls, mut next) = (Calls::default(), 3);
        let mut add = |list: &str| add(&mut calls, &mut next, list);
        assert_eq!(add(r#"[{"id":"a","function":{"name":"web_"}}]"#), (vec![], false));
        assert_eq!(add(r#"[{"function":{"name":"search"}}]"#), (vec![], false));
        assert_eq!(add(r#"[{"id":"b","function":{"name":"web_"}}]"#), (vec![], false));
        let (left, _) = add(r#"[{"function":{"arguments":"{"}}]"#);
        assert_eq!(
            left,
            [
                r#"{"index":3,"id":"b","function":{"name":"web_"}}"#,
                r#"{"index":3,"function":{"arguments":"{"}}"#
            ]
        );
        assert_eq!(add(r#"[{"id":"c"}]"#), (vec![], false));
        let owned = Owned::from_iter(["web_search".to_owned()]);
        assert_eq!(calls.settle(&owned, &mut next), [r#"{"index":4,"id":"c"}"#]);
        assert_eq!(calls.ours().len(), 1);
    }

    #[test]
    fn one_number_for_several_calls_is_told_apart_by_their_ids() {
        let (mut calls, mut next) = (Calls::default(), 0);
        let list = r#"[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}},{"index":0,"id":"b","function":{"name":"g","arguments":"{}"}}]"#;
        let (left, is_same) = add(&mut calls, &mut next, list);
        assert!(!is_same && left[1].contains("\"index\":1"), "{left:?}");
    }
}
