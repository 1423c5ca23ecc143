//! The rounds of a loop as one stream of a message.

use bytes::Bytes;
use serde_json::{Value, json};

use super::super::doc::{Doc, Edits};
use super::super::tally::overlay;
use super::super::{Step, ToolResult, Turn, marks, messages};
use super::blocks::Block;
use super::events::{Event, frame};
use super::{Shared, State};

/// Why an answer stopped in the middle: its calls may not be whole.
const CUT: [&str; 4] = ["max_tokens", "refusal", "pause_turn", "model_context_window_exceeded"];

/// One stream, over all rounds.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// The number of the caller's next block.
    next_block: u64,
    round: Round,
    /// How the last round that is over ended.
    last: Round,
}

#[derive(Debug, Default)]
struct Round {
    blocks: Vec<Block>,
    /// The event that says why the answer ends. It waits.
    reason: Option<Event>,
    /// The last word. It waits.
    stop: Option<Event>,
    /// All its calls are the gateway's.
    is_ours: bool,
}

impl Stream {
    pub(super) fn event(&mut self, event: &Event, shared: &mut Shared, out: &mut Vec<Bytes>) {
        if event.data.is_empty() {
            return out.push(event.raw.clone());
        }
        let doc = Doc::read(&event.data).unwrap_or_default();
        match event.kind().as_str() {
            "error" => {
                shared.state = State::Failed;
                out.push(event.raw.clone());
            }
            "ping" => out.push(event.raw.clone()),
            // Nothing belongs behind the end.
            _ if shared.state == State::Complete => {}
            "message_start" => {
                let message = doc.doc("message").unwrap_or_default();
                take_usage(&message, shared);
                if !shared.is_later() {
                    out.push(event.raw.clone());
                }
            }
            "content_block_start" => self.start(event, &doc, shared, out),
            "content_block_delta" | "content_block_stop" => self.piece(event, &doc, shared, out),
            "message_delta" => {
                take_usage(&doc, shared);
                self.round.reason = Some(event.clone());
            }
            "message_stop" => {
                self.round.stop = Some(event.clone());
                shared.state = State::Complete;
            }
            _ => out.push(event.raw.clone()),
        }
    }

    fn start(&mut self, event: &Event, doc: &Doc<'_>, shared: &mut Shared, out: &mut Vec<Bytes>) {
        let start = doc.doc("content_block").unwrap_or_default();
        let name = start.text("name").unwrap_or_default();
        let is_ours = start.is("type", "tool_use") && shared.owned.has(&name);
        let shown = (!is_ours).then(|| self.take_number());
        let index = doc.number("index").unwrap_or_default();
        shared.turn_bytes += event.data.len();
        self.round.blocks.push(Block::new(index, shown, &start));
        pass(event, doc, shown, out);
    }

    fn piece(&mut self, event: &Event, doc: &Doc<'_>, shared: &mut Shared, out: &mut Vec<Bytes>) {
        let index = doc.number("index").unwrap_or_default();
        let Some(block) = self.round.blocks.iter_mut().rfind(|block| block.index == index) else {
            return out.push(event.raw.clone());
        };
        if let Some(delta) = doc.doc("delta") {
            shared.turn_bytes += event.data.len();
            block.add(&delta);
        }
        pass(event, doc, block.shown, out);
    }

    fn take_number(&mut self) -> u64 {
        let number = self.next_block;
        self.next_block += 1;
        number
    }

    pub(super) fn has_reason(&self) -> bool {
        self.round.reason.as_ref().and_then(reason_of).is_some()
    }

    pub(super) fn end(&mut self, shared: &mut Shared, _: &mut Vec<Bytes>) -> (Step, Turn) {
        let mut round = std::mem::take(&mut self.round);
        let blocks: Vec<String> = round.blocks.drain(..).map(|block| block.write()).collect();
        let blocks: Vec<&str> = blocks.iter().map(String::as_str).collect();
        let (ours, has_foreign) = messages::calls(&blocks, &shared.owned);
        let reason = round.reason.as_ref().and_then(reason_of);
        let is_cut = reason.is_some_and(|reason| CUT.contains(&&*reason));
        round.is_ours = !ours.is_empty() && !has_foreign;
        self.last = round;
        (Step::of(ours, has_foreign, is_cut), messages::turn(&blocks))
    }

    /// A search begins: Anthropic's own tool would say so.
    pub(super) fn mark_begin(&mut self, shared: &Shared, out: &mut Vec<Bytes>) {
        for (id, call) in shared.searches(marks::MESSAGES_ID) {
            let index = self.take_number();
            let block = marks::messages_use(&id);
            let input = json!({"query": marks::query(call)}).to_string();
            let delta = json!({"type": "input_json_delta", "partial_json": input});
            block_events(index, &block, Some(&delta), out);
        }
    }

    /// What the searches found.
    pub(super) fn mark_end(
        &mut self,
        shared: &Shared,
        results: &[ToolResult],
        out: &mut Vec<Bytes>,
    ) {
        for (id, call) in shared.searches(marks::MESSAGES_ID) {
            let sources = marks::sources(results, call);
            let index = self.take_number();
            block_events(index, &marks::messages_result(&id, sources), None, out);
        }
    }

    pub(super) fn finish(&mut self, shared: &Shared, out: &mut Vec<Bytes>) {
        let last = std::mem::take(&mut self.last);
        if let Some(event) = &last.reason {
            out.push(last_delta(event, &last, shared));
        }
        out.push(last.stop.map_or_else(
            || frame("message_stop", br#"{"type":"message_stop"}"#),
            |event| event.raw,
        ));
    }
}

/// The event that says why the answer ends, with the usage of all rounds.
fn last_delta(event: &Event, last: &Round, shared: &Shared) -> Bytes {
    let doc = Doc::read(&event.data).unwrap_or_default();
    let mut edits = Edits::new(&event.data);
    if let Some(sum) = shared.tally().folded() {
        edits.set(None, &doc, "usage", &sum.to_string());
    }
    let delta = doc.doc("delta").unwrap_or_default();
    if let Some(reason) = delta.get("stop_reason")
        && last.is_ours
        && delta.is("stop_reason", "tool_use")
    {
        edits.replace(reason, "\"end_turn\"");
    }
    if edits.is_empty() { event.raw.clone() } else { event.with(&edits.apply()) }
}

/// The events of a block that no provider sent.
fn block_events(index: u64, block: &Value, delta: Option<&Value>, out: &mut Vec<Bytes>) {
    let mut push = |name: &str, data: Value| out.push(frame(name, data.to_string().as_bytes()));
    let start = json!({"type": "content_block_start", "index": index, "content_block": block});
    push("content_block_start", start);
    if let Some(delta) = delta {
        let delta = json!({"type": "content_block_delta", "index": index, "delta": delta});
        push("content_block_delta", delta);
    }
    push("content_block_stop", json!({"type": "content_block_stop", "index": index}));
}

/// An event of a block, under the number that the caller knows it by.
fn pass(event: &Event, doc: &Doc<'_>, shown: Option<u64>, out: &mut Vec<Bytes>) {
    let Some(number) = shown.map(|number| number.to_string()) else { return };
    match doc.raw("index").filter(|raw| raw.get() != number) {
        None => out.push(event.raw.clone()),
        Some(index) => {
            let mut edits = Edits::new(&event.data);
            edits.replace(index, number);
            out.push(event.with(&edits.apply()));
        }
    }
}

/// Why an answer ends.
fn reason_of(event: &Event) -> Option<String> {
    Doc::read(&event.data)?.doc("delta")?.text("stop_reason")
}

/// Notes what an event counts.
fn take_usage(doc: &Doc<'_>, shared: &mut Shared) {
    if let Some(usage) = doc.get("usage") {
        overlay(&mut shared.usage, serde_json::from_str(usage.get()).unwrap_or_default());
    }
}
