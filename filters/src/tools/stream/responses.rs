//! The rounds of a loop as one stream of a response.

use bytes::Bytes;
use serde_json::{Value, json};

use super::super::doc::{Doc, Edits, list_of};
use super::super::tally::overlay;
use super::super::{Owned, Step, ToolResult, Turn, marks, responses};
use super::events::{Event, frame};
use super::{Shared, State};

/// What a response is called, in every event of it.
const IDENTITY: [&str; 3] = ["id", "created_at", "model"];
const DONE: &[u8] = b"[DONE]";

/// One stream, over all rounds.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// What the first response had of [`IDENTITY`], as JSON.
    identity: Vec<(&'static str, String)>,
    /// The number of the next event, once there was one.
    sequence: Option<u64>,
    /// Something is hidden, was added, or is of a later round: numbers are ours from there on.
    is_touched: bool,
    /// The number of the caller's next item.
    next_item: u64,
    /// The items that the caller has seen of rounds that are over, as JSON.
    shown: Vec<String>,
    /// The marks that are not at their end: their ids and numbers.
    marks: Vec<(String, u64)>,
    round: Round,
    /// How the last round that is over ended.
    last: Round,
}

#[derive(Debug, Default)]
struct Round {
    items: Vec<Item>,
    /// The event that ends the response. It waits.
    end: Option<Event>,
    /// What some providers send behind it.
    done: Option<Event>,
    /// The round's items that the caller sees, as JSON.
    shown: Vec<String>,
}

#[derive(Debug, Default)]
struct Item {
    /// The provider's number.
    index: u64,
    /// The number that the caller knows it by; nothing where it is hidden.
    shown: Option<u64>,
    /// As JSON, as far as it has come.
    json: String,
}

impl Stream {
    pub(super) fn event(&mut self, event: &Event, shared: &mut Shared, out: &mut Vec<Bytes>) {
        if event.data.is_empty() {
            return out.push(event.raw.clone());
        }
        if event.data.starts_with(DONE) {
            self.round.done = Some(event.clone());
            return;
        }
        let doc = Doc::read(&event.data).unwrap_or_default();
        let kind = event.kind();
        match kind.as_str() {
            _ if shared.state == State::Complete => {}
            "error" | "response.failed" => {
                shared.state = State::Failed;
                self.pass(event, &doc, None, out);
            }
            "" if doc.get("error").is_some() => {
                shared.state = State::Failed;
                out.push(event.raw.clone());
            }
            "response.created" | "response.in_progress" | "response.queued" => {
                self.begin(event, &doc, shared, out);
            }
            "response.output_item.added" => self.add_item(event, &doc, shared, out),
            "response.completed" | "response.incomplete" => {
                let response = doc.doc("response").unwrap_or_default();
                if let Some(usage) = response.get("usage") {
                    let usage = serde_json::from_str(usage.get()).unwrap_or_default();
                    overlay(&mut shared.usage, usage);
                }
                shared.turn_bytes += event.data.len();
                self.round.end = Some(event.clone());
                shared.state = State::Complete;
            }
            kind => self.piece(kind, event, &doc, shared, out),
        }
    }

    /// The response begins; it does so once.
    fn begin(&mut self, event: &Event, doc: &Doc<'_>, shared: &mut Shared, out: &mut Vec<Bytes>) {
        let response = doc.doc("response").unwrap_or_default();
        if self.identity.is_empty() {
            let named = IDENTITY.into_iter().filter_map(|name| Some((name, response.get(name)?)));
            self.identity = named.map(|(name, raw)| (name, raw.get().to_owned())).collect();
        }
        if shared.is_later() {
            self.is_touched = true;
        } else {
            self.pass(event, doc, None, out);
        }
    }

    fn add_item(
        &mut self,
        event: &Event,
        doc: &Doc<'_>,
        shared: &mut Shared,
        out: &mut Vec<Bytes>,
    ) {
        let item = doc.doc("item").unwrap_or_default();
        let is_ours = responses::owned_call(&item, &shared.owned).is_some();
        let index = doc.number("output_index").unwrap_or_default();
        let shown = (!is_ours).then(|| self.take_number());
        let json = doc.get("item").map(|raw| raw.get().to_owned()).unwrap_or_default();
        shared.turn_bytes += json.len();
        self.round.items.push(Item { index, shown, json });
        match shown {
            Some(number) => self.pass(event, doc, Some(number), out),
            None => self.is_touched = true,
        }
    }

    /// An event of an item, or of none.
    fn piece(
        &mut self,
        kind: &str,
        event: &Event,
        doc: &Doc<'_>,
        shared: &mut Shared,
        out: &mut Vec<Bytes>,
    ) {
        let Some(index) = doc.number("output_index") else {
            return self.pass(event, doc, None, out);
        };
        let Some(item) = self.round.items.iter_mut().rfind(|item| item.index == index) else {
            return self.pass(event, doc, Some(index), out);
        };
        if let Some(whole) = doc.get("item").filter(|_| kind == "response.output_item.done") {
            shared.turn_bytes += whole.get().len();
            whole.get().clone_into(&mut item.json);
        }
        match item.shown {
            Some(number) => self.pass(event, doc, Some(number), out),
            None => self.is_touched = true,
        }
    }

    /// An event with the numbers that the caller knows.
    fn pass(&mut self, event: &Event, doc: &Doc<'_>, item: Option<u64>, out: &mut Vec<Bytes>) {
        let mut edits = Edits::new(&event.data);
        if let Some((number, raw)) = item.zip(doc.raw("output_index"))
            && raw.get() != number.to_string()
        {
            edits.replace(raw, number.to_string());
        }
        self.count(doc, &mut edits);
        out.push(if edits.is_empty() { event.raw.clone() } else { event.with(&edits.apply()) });
    }

    /// Numbers an event that leaves.
    fn count(&mut self, doc: &Doc<'_>, edits: &mut Edits<'_>) {
        let Some(raw) = doc.get("sequence_number") else { return };
        let theirs = doc.number("sequence_number").unwrap_or_default();
        let ours = self.sequence.filter(|_| self.is_touched).unwrap_or(theirs);
        if ours != theirs {
            edits.replace(raw, ours.to_string());
        }
        self.sequence = Some(ours.saturating_add(1));
    }

    fn take_number(&mut self) -> u64 {
        let number = self.next_item;
        self.next_item += 1;
        number
    }

    pub(super) fn end(&mut self, shared: &mut Shared, _: &mut Vec<Bytes>) -> (Step, Turn) {
        let mut round = std::mem::take(&mut self.round);
        let listed = round.end.as_ref().map(|event| output_of(&event.data)).unwrap_or_default();
        let items: Vec<String> = match listed.is_empty() {
            true => round.items.iter().map(|item| item.json.clone()).collect(),
            false => listed,
        };
        // An item that was told of and never shown is none.
        let items: Vec<&str> =
            items.iter().map(String::as_str).filter(|item| !item.is_empty()).collect();
        let (ours, has_foreign) = responses::calls(&items, &shared.owned);
        let is_incomplete = |event: &Event| event.kind() == "response.incomplete";
        let is_cut = round.end.as_ref().is_some_and(is_incomplete);
        let turn = responses::turn(&items);
        round.shown = items
            .into_iter()
            .filter(|item| !is_owned(item, &shared.owned))
            .map(str::to_owned)
            .collect();
        self.is_touched |= !ours.is_empty();
        self.shown.append(&mut round.shown);
        self.last = round;
        (Step::of(ours, has_foreign, is_cut), turn)
    }

    /// A search begins: OpenAI's own tool would say so.
    pub(super) fn mark_begin(&mut self, shared: &Shared, out: &mut Vec<Bytes>) {
        for (id, call) in shared.searches(marks::RESPONSES_ID) {
            let number = self.take_number();
            let item = marks::responses_item(&id, "in_progress", call);
            let added = json!({"output_index": number, "item": item});
            self.push("response.output_item.added", added, out);
            let of_item = json!({"output_index": number, "item_id": id});
            self.push("response.web_search_call.in_progress", of_item.clone(), out);
            self.push("response.web_search_call.searching", of_item, out);
            self.marks.push((id, number));
        }
    }

    /// The searches are over.
    pub(super) fn mark_end(
        &mut self,
        shared: &Shared,
        results: &[ToolResult],
        out: &mut Vec<Bytes>,
    ) {
        let marks = std::mem::take(&mut self.marks);
        for ((id, number), (_, call)) in marks.iter().zip(shared.searches(marks::RESPONSES_ID)) {
            let is_fine = marks::sources(results, call).is_some();
            let item =
                marks::responses_item(id, if is_fine { "completed" } else { "failed" }, call);
            self.shown.push(item.to_string());
            if is_fine {
                let of_item = json!({"output_index": number, "item_id": id});
                self.push("response.web_search_call.completed", of_item, out);
            }
            let done = json!({"output_index": number, "item": item});
            self.push("response.output_item.done", done, out);
        }
    }

    /// An event that no provider sent.
    fn push(&mut self, kind: &str, mut fields: Value, out: &mut Vec<Bytes>) {
        self.is_touched = true;
        fields["type"] = kind.into();
        if let Some(number) = self.sequence {
            fields["sequence_number"] = number.into();
            self.sequence = Some(number.saturating_add(1));
        }
        out.push(frame(kind, fields.to_string().as_bytes()));
    }

    pub(super) fn finish(&mut self, shared: &Shared, out: &mut Vec<Bytes>) {
        let last = std::mem::take(&mut self.last);
        if let Some(event) = &last.end {
            let doc = Doc::read(&event.data).unwrap_or_default();
            let mut edits = Edits::new(&event.data);
            if let Some(response) = doc.doc("response") {
                self.conclude(&response, &mut edits, shared);
            }
            self.count(&doc, &mut edits);
            out.push(if edits.is_empty() { event.raw.clone() } else { event.with(&edits.apply()) });
        }
        out.extend(last.done.map(|event| event.raw));
    }

    /// What the end says of the whole.
    fn conclude(&self, response: &Doc<'_>, edits: &mut Edits<'_>, shared: &Shared) {
        if self.is_touched {
            for (name, value) in &self.identity {
                let keeps = *name == "id" && shared.options.chains;
                if let Some(raw) = response.raw(name).filter(|raw| !keeps && raw.get() != value) {
                    edits.replace(raw, value.clone());
                }
            }
            if let Some(output) = response.raw("output") {
                edits.replace(output, list_of(self.shown.iter().map(String::as_str)));
            }
        }
        shared.tally().write(edits, response.get("usage"));
    }
}

fn is_owned(item: &str, owned: &Owned) -> bool {
    let item = serde_json::from_str(item).unwrap_or_default();
    responses::owned_call(&item, owned).is_some()
}

/// The items of a whole response.
fn output_of(data: &[u8]) -> Vec<String> {
    let response = Doc::read(data).and_then(|doc| doc.doc("response"));
    let items = response.and_then(|response| response.list("output")).unwrap_or_default();
    items.into_iter().map(|raw| raw.get().to_owned()).collect()
}
