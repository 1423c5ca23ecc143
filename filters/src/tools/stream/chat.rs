//! The rounds of a loop as one stream of a chat completion.

use bytes::Bytes;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::super::doc::{Doc, Edits, list_of};
use super::super::tally::overlay;
use super::super::{Step, Tally, Turn};
use super::calls::Calls;
use super::deltas::Said;
use super::events::{Event, frame};
use super::{Shared, State};
use crate::protocol::json::is_null;

/// What every chunk of one answer has alike.
const IDENTITY: [&str; 3] = ["id", "created", "model"];
const DONE: &[u8] = b"[DONE]";

/// One stream, over all rounds.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// What the first chunk had of [`IDENTITY`], as JSON.
    identity: Vec<(&'static str, String)>,
    /// The number of the caller's next call.
    next_call: u64,
    round: Round,
    /// How the last round that is over ended.
    last: Round,
}

#[derive(Debug, Default)]
struct Round {
    said: Said,
    calls: Calls,
    /// The chunk that says why the answer ends. It waits.
    reason: Option<Event>,
    /// What that chunk said has been passed on before.
    is_split: bool,
    /// The chunk with nothing but usage. It waits.
    usage: Option<Event>,
    /// The last word. It waits.
    done: Option<Event>,
}

impl Stream {
    pub(super) fn event(&mut self, event: &Event, shared: &mut Shared, out: &mut Vec<Bytes>) {
        if event.data.is_empty() {
            return out.push(event.raw.clone());
        }
        if event.data.starts_with(DONE) {
            self.round.done = Some(event.clone());
            shared.state = State::Complete;
            return;
        }
        let doc = Doc::read(&event.data);
        let is_error = doc.as_ref().is_some_and(|doc| doc.get("error").is_some());
        if is_error || event.name == "error" {
            shared.state = State::Failed;
            out.extend([event.raw.clone(), frame("", DONE)]);
            return;
        }
        if let Some(doc) = doc {
            self.chunk(event, &doc, shared, out);
        }
    }

    fn chunk(&mut self, event: &Event, doc: &Doc<'_>, shared: &mut Shared, out: &mut Vec<Bytes>) {
        let mut edits = Edits::new(&event.data);
        self.identify(doc, &mut edits);
        let choices = doc.list("choices").unwrap_or_default();
        let has_usage = take_usage(doc, shared);
        if choices.is_empty() && has_usage {
            self.round.usage = Some(event.clone());
            return;
        }
        let choice = choices.first().copied().and_then(Doc::of);
        let Some(choice) = choice.filter(is_first) else {
            if let Some(usage) = doc.get("usage") {
                edits.replace(usage, "null");
            }
            return out.push(written(event, edits));
        };
        let is_shown = self.delta(&choice, &mut edits, shared);
        let reason = choice.get("finish_reason").filter(|raw| raw.get() != "\"\"");
        if let Some(reason) = reason {
            // Only what it says beside the reason may pass.
            let is_split = is_shown == Shown::Filled;
            self.end_with(event, is_split);
            if !is_split {
                return;
            }
            edits.replace(reason, "null");
        }
        if let Some(usage) = doc.get("usage") {
            edits.replace(usage, "null");
        }
        if is_shown != Shown::Nothing {
            out.push(written(event, edits));
        }
    }

    /// Keeps the chunk that says why the answer ends. That it wants calls run holds, though some providers say last that
    /// it just stopped.
    fn end_with(&mut self, event: &Event, is_split: bool) {
        let before = self.round.reason.as_ref().and_then(|event| reason_of(&event.data));
        let now = reason_of(&event.data);
        if before.as_deref() == Some("tool_calls") && now.as_deref() == Some("stop") {
            return;
        }
        self.round.is_split = is_split;
        self.round.reason = Some(event.clone());
    }

    /// Notes what the first chunk is called; the others are called so too.
    fn identify(&mut self, doc: &Doc<'_>, edits: &mut Edits<'_>) {
        if self.identity.is_empty() {
            let named = IDENTITY.into_iter().filter_map(|name| Some((name, doc.get(name)?)));
            self.identity = named.map(|(name, raw)| (name, raw.get().to_owned())).collect();
            return;
        }
        self.name(doc, edits);
    }

    /// Calls a chunk what the first one was called.
    fn name(&self, doc: &Doc<'_>, edits: &mut Edits<'_>) {
        for (name, value) in &self.identity {
            if let Some(raw) = doc.raw(name).filter(|raw| raw.get() != value) {
                edits.replace(raw, value.clone());
            }
        }
    }

    /// What of a delta the caller sees.
    fn delta(&mut self, choice: &Doc<'_>, edits: &mut Edits<'_>, shared: &mut Shared) -> Shown {
        let Some(delta) = choice.doc("delta") else { return Shown::Empty };
        let mut shown = if shared.is_later() { Shown::Nothing } else { Shown::Empty };
        for (name, raw) in delta.fields() {
            shared.turn_bytes += raw.get().len();
            match name {
                "tool_calls" => {}
                "role" if shared.is_later() => edits.remove(raw),
                "role" => shown = shown.max(Shown::Empty),
                _ => {
                    self.round.said.add(name, raw);
                    if is_filled(raw) {
                        shown = Shown::Filled;
                    }
                }
            }
        }
        let Some(calls) = delta.get("tool_calls") else { return shown };
        let pieces = super::super::doc::list(calls).unwrap_or_default();
        let left = self.round.calls.add(&pieces, &shared.owned, &mut self.next_call);
        if !left.pieces.is_empty() {
            shown = Shown::Filled;
        }
        if left.is_same {
            return shown;
        }
        if left.pieces.is_empty() {
            edits.remove(calls);
            // Whoever has the role alone left has said nothing, unless nothing was said before.
            let begins = delta.get("role").is_some() && !shared.is_later();
            return if begins || shown == Shown::Filled { shown } else { Shown::Nothing };
        }
        edits.replace(calls, list_of(left.pieces.iter().map(String::as_str)));
        shown
    }

    pub(super) fn has_reason(&self) -> bool {
        self.round.reason.is_some()
    }

    pub(super) fn end(&mut self, shared: &mut Shared, out: &mut Vec<Bytes>) -> (Step, Turn) {
        let mut round = std::mem::take(&mut self.round);
        let pieces = round.calls.settle(&shared.owned, &mut self.next_call);
        if !pieces.is_empty() {
            let calls = list_of(pieces.iter().map(String::as_str));
            let choice = format!(
                "[{{\"index\":0,\"delta\":{{\"tool_calls\":{calls}}},\"finish_reason\":null}}]"
            );
            out.push(self.new_chunk(&choice, None));
        }
        let mut message = "{\"role\":\"assistant\"".to_owned();
        round.said.write(&mut message);
        let calls = round.calls.write();
        if !calls.is_empty() {
            let calls = list_of(calls.iter().map(String::as_str));
            message.push_str(&format!(",\"tool_calls\":{calls}"));
        }
        message.push('}');
        let reason = round.reason.as_ref().and_then(|event| reason_of(&event.data));
        let is_cut = matches!(reason.as_deref(), Some("length" | "content_filter"));
        let step = Step::of(round.calls.ours(), round.calls.has_foreign(), is_cut);
        self.last = round;
        (step, Turn::new(message))
    }

    pub(super) fn finish(&mut self, shared: &Shared, out: &mut Vec<Bytes>) {
        let last = std::mem::take(&mut self.last);
        let tally = shared.tally();
        let mut has_usage = false;
        if let Some(event) = &last.reason {
            let doc = Doc::read(&event.data).unwrap_or_default();
            has_usage = usage_of(&doc).is_some();
            out.push(self.last_chunk(event, &doc, &last, tally));
        }
        if shared.options.shows_usage {
            match (&last.usage, tally.sum()) {
                (Some(event), _) => out.push(self.usage_chunk(event, tally)),
                (None, Some(sum)) if !has_usage => out.push(self.new_chunk("[]", Some(sum))),
                (None, _) => {}
            }
        }
        out.push(last.done.map_or_else(|| frame("", DONE), |event| event.raw));
    }

    /// The chunk that says why the answer ends, without what has been passed on.
    fn last_chunk(&self, event: &Event, doc: &Doc<'_>, last: &Round, tally: &Tally) -> Bytes {
        let mut edits = Edits::new(&event.data);
        self.name(doc, &mut edits);
        let choices = doc.list("choices").unwrap_or_default();
        let choice = choices.first().copied().and_then(Doc::of).unwrap_or_default();
        let ours = !last.calls.ours().is_empty();
        let is_edited = last.is_split || ours || tally.rounds() > 1;
        if let Some(delta) = choice.get("delta").filter(|delta| is_edited && delta.get() != "{}") {
            edits.replace(delta, "{}");
        }
        let is_ours_alone = ours && !last.calls.has_foreign();
        if let Some(reason) = choice.get("finish_reason")
            && is_ours_alone
            && choice.is("finish_reason", "tool_calls")
        {
            edits.replace(reason, "\"stop\"");
        }
        tally.write(&mut edits, usage_of(doc));
        written(event, edits)
    }

    fn usage_chunk(&self, event: &Event, tally: &Tally) -> Bytes {
        let doc = Doc::read(&event.data).unwrap_or_default();
        let mut edits = Edits::new(&event.data);
        self.name(&doc, &mut edits);
        tally.write(&mut edits, usage_of(&doc));
        written(event, edits)
    }

    /// A chunk that no provider sent.
    fn new_chunk(&self, choices: &str, usage: Option<&Value>) -> Bytes {
        let mut data = "{".to_owned();
        for (name, value) in &self.identity {
            data.push_str(&format!("\"{name}\":{value},"));
        }
        let kind = json!("chat.completion.chunk");
        data.push_str(&format!("\"object\":{kind},\"choices\":{choices}"));
        if let Some(usage) = usage {
            data.push_str(&format!(",\"usage\":{usage}"));
        }
        data.push('}');
        frame("", data.as_bytes())
    }
}

/// What of a delta is to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shown {
    /// Nothing: the chunk does not pass.
    Nothing,
    /// It says nothing, and passes.
    Empty,
    /// It says something.
    Filled,
}

/// Whether a field of a delta says something.
fn is_filled(raw: &RawValue) -> bool {
    !is_null(raw) && !matches!(raw.get(), "\"\"" | "[]" | "{}")
}

fn is_first(choice: &Doc<'_>) -> bool {
    choice.number("index").unwrap_or(0) == 0
}

/// Why an answer ends.
fn reason_of(data: &[u8]) -> Option<String> {
    let choices = Doc::read(data)?.list("choices")?;
    Doc::of(choices.first()?)?.text("finish_reason")
}

/// The usage of a chunk: its own, else where Groq has it.
fn usage_of<'a>(doc: &Doc<'a>) -> Option<&'a RawValue> {
    doc.get("usage").or_else(|| doc.doc("x_groq").and_then(|groq| groq.get("usage")))
}

/// Notes what a chunk counts; whether it has anything.
fn take_usage(doc: &Doc<'_>, shared: &mut Shared) -> bool {
    let Some(usage) = usage_of(doc) else { return false };
    overlay(&mut shared.usage, serde_json::from_str(usage.get()).unwrap_or_default());
    true
}

/// The event with its edits; as it came when there are none.
fn written(event: &Event, edits: Edits<'_>) -> Bytes {
    if edits.is_empty() { event.raw.clone() } else { event.with(&edits.apply()) }
}
