//! Reading a streamed response. Writing one is in `stream/write.rs`.

use super::super::fields::{SeenUsage, error_message, read_usage};
use super::super::neutral::{Event, Failure, Origin};
use super::super::object::Object;
use super::super::seal;
use super::super::text::Text;
use super::answer::{created, stop};
use crate::prices::CacheCounting;

mod write;

pub use write::StreamWriter;

/// More items open at once than that are no answer.
const MAX_OPEN: usize = 1024;

/// Reads the events of a stream, one at a time.
#[derive(Debug, Default)]
pub struct StreamReader {
    has_started: bool,
    /// Calls that have begun, by the provider's number of the item.
    open: Vec<(u64, Call)>,
    calls: u32,
    /// The open thought has said something.
    has_thought: bool,
    usage: Option<SeenUsage>,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    number: u32,
    has_arguments: bool,
}

impl StreamReader {
    /// Reads the data of one event.
    pub fn read(&mut self, name: &[u8], data: &[u8], each: &mut dyn FnMut(Event<'_>)) {
        if data.is_empty() || data == b"[DONE]" {
            return;
        }
        let Ok(event) = Object::document(data) else {
            return each(Event::Error(Failure::new(
                "An event of the provider is not a JSON object",
            )));
        };
        let kind = event.maybe_text("type");
        let kind = kind.as_ref().map_or(name, |kind| kind.escaped().as_bytes());
        let delta = || event.maybe_text("delta").filter(|text| !text.is_empty());
        match kind {
            b"response.created" | b"response.in_progress" => self.start(&event, each),
            b"response.output_item.added" => self.begin(&event, each),
            b"response.output_item.done" => self.end_item(&event, each),
            b"response.output_text.delta" => {
                if let Some(text) = delta() {
                    each(Event::Text(text));
                }
            }
            b"response.refusal.delta" => {
                if let Some(text) = delta() {
                    each(Event::Refusal(text));
                }
            }
            // The parts of a summary are paragraphs.
            b"response.reasoning_summary_part.added" if self.has_thought => {
                each(Event::Thinking(Text::of("\n\n")));
            }
            b"response.reasoning_summary_text.delta" | b"response.reasoning_text.delta" => {
                if let Some(text) = delta() {
                    self.has_thought = true;
                    each(Event::Thinking(text));
                }
            }
            b"response.function_call_arguments.delta" => {
                let index = event.count("output_index").unwrap_or(0);
                let open = self.open.iter_mut().rev().find(|(at, _)| *at == index);
                if let (Some((_, call)), Some(json)) = (open, delta()) {
                    call.has_arguments = true;
                    each(Event::ToolArguments { call: call.number, json });
                }
            }
            b"response.completed" | b"response.incomplete" => self.end(&event, each),
            b"response.failed" => {
                each(Event::Error(failure(&event.maybe_object("response"))));
            }
            b"error" => each(Event::Error(failure(&event))),
            _ if event.has("error") => each(Event::Error(failure(&event))),
            _ => {}
        }
    }

    fn start(&mut self, event: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
        if std::mem::replace(&mut self.has_started, true) {
            return;
        }
        let response = event.maybe_object("response");
        each(Event::Start {
            id: response.maybe_text("id").filter(|id| !id.is_empty()),
            model: response.maybe_text("model"),
            created: created(&response),
        });
    }

    fn begin(&mut self, event: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
        let item = event.maybe_object("item");
        self.has_thought = false;
        if !item.kind().is("function_call") {
            return;
        }
        if self.open.len() >= MAX_OPEN {
            return each(Event::Error(Failure::new("The provider's answer has too many calls")));
        }
        let number = self.calls;
        self.calls = self.calls.saturating_add(1);
        let call = Call { number, has_arguments: false };
        self.open.push((event.count("output_index").unwrap_or(0), call));
        each(Event::ToolStart {
            call: number,
            id: item
                .maybe_text("call_id")
                .unwrap_or_else(|| Text::owned(&format!("call_{number}"))),
            name: item.maybe_text("name").unwrap_or_default(),
            seal: None,
        });
    }

    fn end_item(&mut self, event: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
        let item = event.maybe_object("item");
        let index = event.count("output_index").unwrap_or(0);
        match item.kind().escaped() {
            "function_call" => {
                let Some(at) = self.open.iter().rposition(|(open, _)| *open == index) else {
                    return;
                };
                let (_, call) = self.open.remove(at);
                if !call.has_arguments {
                    let whole = item.maybe_text("arguments").filter(|text| !text.is_empty());
                    let json = whole.unwrap_or_else(|| Text::of("{}"));
                    each(Event::ToolArguments { call: call.number, json });
                }
            }
            "reasoning" => {
                let sealed = item.maybe_text("encrypted_content").filter(|text| !text.is_empty());
                match sealed.map(|text| seal::open(&text, Origin::OpenAi)) {
                    None => {}
                    Some((seal, true)) => each(Event::Redacted(seal)),
                    Some((seal, false)) => each(Event::Seal(seal)),
                }
                each(Event::BlockEnd);
            }
            "message" => each(Event::BlockEnd),
            _ => {}
        }
    }

    fn end(&mut self, event: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
        self.start(event, each);
        let response = event.maybe_object("response");
        if response.has("usage") {
            read_usage(&mut self.usage, &response, CacheCounting::Inclusive);
        }
        if let Some(seen) = &self.usage {
            each(Event::Usage(seen.usage()));
        }
        each(Event::Stop(stop(&response, self.calls > 0)));
        each(Event::End);
    }
}

fn failure(of: &Object<'_>) -> Failure {
    let (kind, message) = error_message(of)
        .unwrap_or_else(|| (of.maybe_text("code"), of.maybe_text("message").unwrap_or_default()));
    Failure {
        kind: kind.map(|kind| kind.plain().into_owned()),
        message: message.plain().into_owned(),
    }
}
