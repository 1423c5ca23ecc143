//! Reading and writing a streamed chat completion.

use super::super::fields::{SeenUsage, error_message, plain_error, read_usage};
use super::super::frames::frame;
use super::super::neutral::{AsCaller, Event, Failure, Origin, Seal, Stop, Usage};
use super::super::object::Object;
use super::super::out::{self, Fields};
use super::super::text::Text;
use super::answer::{
    failed, finish_reason, mistral_seal, seconds, stop, thoughts, write_seal, write_usage,
};
use super::read::google_seal;
use crate::prices::CacheCounting;

/// More calls in one answer than that are no answer.
const MAX_CALLS: usize = 1024;

/// Reads the events of a stream, one at a time.
#[derive(Debug)]
pub struct StreamReader {
    provider: &'static str,
    has_started: bool,
    /// The calls in the order in which they began.
    calls: Vec<Call>,
    usage: Option<SeenUsage>,
}

/// What the provider calls a call.
#[derive(Debug)]
struct Call {
    /// Its number, where there is one.
    index: Option<u64>,
    /// Its name, kept where there is no number.
    id: String,
}

impl StreamReader {
    /// Nothing was read yet of `provider`, whose name may be empty.
    pub fn new(provider: &'static str) -> Self {
        Self { provider, has_started: false, calls: Vec::new(), usage: None }
    }

    /// Reads the data of one event.
    pub fn read(&mut self, _name: &[u8], data: &[u8], each: &mut dyn FnMut(Event<'_>)) {
        if data == b"[DONE]" {
            return each(Event::End);
        }
        if data.is_empty() {
            return;
        }
        let Ok(chunk) = Object::document(data) else {
            return each(Event::Error(Failure::new(
                "An event of the provider is not a JSON object",
            )));
        };
        if let Some((kind, message)) = error_message(&chunk) {
            let kind = kind.map(|kind| kind.plain().into_owned());
            return each(Event::Error(Failure { kind, message: message.plain().into_owned() }));
        }
        if let Some((kind, message)) = plain_error(&chunk).filter(|_| is_bare(&chunk)) {
            let kind = kind.map(|kind| kind.plain().into_owned());
            return each(Event::Error(Failure { kind, message: message.plain().into_owned() }));
        }
        if read_usage(&mut self.usage, &chunk, CacheCounting::Inclusive)
            && let Some(seen) = self.usage
        {
            each(Event::Usage(seen.usage()));
        }
        let choices = chunk.maybe_objects("choices");
        let is_first = |choice: &&Object<'_>| choice.count("index").unwrap_or(0) == 0;
        let Some(choice) = choices.iter().find(is_first) else { return };
        if !std::mem::replace(&mut self.has_started, true) {
            each(Event::Start {
                id: chunk.maybe_text("id").filter(|id| !id.is_empty()),
                model: chunk.maybe_text("model"),
                created: chunk.get("created").and_then(seconds),
            });
        }
        self.read_delta(&choice.maybe_object("delta"), each);
        if let Some(reason) = choice.maybe_text("finish_reason").filter(|text| !text.is_empty()) {
            each(failed(&reason).map_or_else(|| Event::Stop(stop(&reason)), Event::Error));
        }
    }

    fn read_delta(&mut self, delta: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
        let filled = |text: &Text<'_>| !text.is_empty();
        if let Some(text) = thoughts(delta).filter(filled) {
            each(Event::Thinking(text));
        }
        let google = delta.maybe_object("extra_content").maybe_object("google");
        if let Some(value) = google.maybe_text("thought_signature") {
            each(Event::Seal(Seal { origin: Origin::Google, value }));
        }
        if let Some(text) = delta.maybe_text("content").filter(filled) {
            each(Event::Text(text));
        }
        for part in delta.maybe_objects("content") {
            if let Some(text) = part.maybe_text("text").filter(filled) {
                each(Event::Text(text));
            }
            for thought in part.maybe_objects("thinking") {
                if let Some(text) = thought.maybe_text("text").filter(filled) {
                    each(Event::Thinking(text));
                }
            }
            if let Some(seal) = mistral_seal(&part, self.provider) {
                each(Event::Seal(seal));
            }
        }
        if let Some(text) = delta.maybe_text("refusal").filter(filled) {
            each(Event::Refusal(text));
        }
        for call in delta.maybe_objects("tool_calls") {
            self.read_call(&call, each);
        }
    }

    fn read_call(&mut self, call: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
        let function = call.maybe_object("function");
        let index = call.count("index");
        let id = call.maybe_text("id").filter(|id| !id.is_empty());
        let known = match (index, &id) {
            (Some(_), _) => self.calls.iter().position(|known| known.index == index),
            (None, Some(id)) => self.calls.iter().position(|known| known.id == id.escaped()),
            // More of the last one, or a whole one that has no name of its own.
            (None, None) if function.has("name") => None,
            (None, None) => self.calls.len().checked_sub(1),
        };
        let number = known.unwrap_or(self.calls.len());
        if known.is_none() {
            if number >= MAX_CALLS {
                return each(Event::Error(Failure::new(
                    "The provider's answer has too many calls",
                )));
            }
            let Some(name) = function.maybe_text("name") else { return };
            let own = id.as_ref().filter(|_| index.is_none());
            let own = own.map_or(String::new(), |id| id.escaped().to_owned());
            self.calls.push(Call { index, id: own });
            each(Event::ToolStart {
                call: number as u32,
                id: id.unwrap_or_else(|| Text::owned(&format!("call_{number}"))),
                name,
                seal: google_seal(call),
            });
        }
        let Some(raw) = function.get("arguments") else { return };
        // Some providers send them as an object, whole.
        let json = Text::read(raw).unwrap_or_else(|| Text::of(raw.get()));
        if !json.is_empty() {
            each(Event::ToolArguments { call: number as u32, json });
        }
    }
}

/// Whether a chunk has nothing that chunks have.
fn is_bare(chunk: &Object<'_>) -> bool {
    ["choices", "usage", "x_groq"].into_iter().all(|name| !chunk.has(name))
}

/// Writes the chunks of a stream.
#[derive(Debug)]
pub struct StreamWriter {
    include_usage: bool,
    /// `"id":…,"object":…,"created":…,"model":…`: what every chunk repeats.
    head: String,
    now: u64,
    is_first: bool,
    stop: Stop<'static>,
    usage: Option<Usage>,
}

impl StreamWriter {
    /// Nothing is written yet.
    pub fn new(caller: &AsCaller) -> Self {
        let mut writer = Self {
            include_usage: caller.include_usage,
            head: String::new(),
            now: caller.now,
            is_first: true,
            stop: Stop::End,
            usage: None,
        };
        writer.begin(&Text::of(&caller.id), &Text::of(&caller.model), None);
        writer
    }

    fn begin(&mut self, id: &Text<'_>, model: &Text<'_>, created: Option<u64>) {
        self.head = format!(
            r#""id":"{}","object":"chat.completion.chunk","created":{},"model":"{}""#,
            id.escaped(),
            created.unwrap_or(self.now),
            model.escaped()
        );
    }

    /// Writes what `event` becomes to the end of `out`. Of an error nothing is written.
    pub fn write(&mut self, event: &Event<'_>, caller: &AsCaller, out: &mut Vec<u8>) {
        match event {
            Event::Start { id, model, created } => {
                let ours = Text::of(&caller.id);
                let model = model.as_ref();
                self.begin(
                    id.as_ref().unwrap_or(&ours),
                    model.unwrap_or(&Text::default()),
                    *created,
                );
            }
            Event::TextStart => self.delta(out, |delta| delta.word("content", "")),
            Event::Text(text) => self.delta(out, |delta| delta.text("content", text)),
            Event::Refusal(text) => self.delta(out, |delta| delta.text("refusal", text)),
            Event::ThinkingStart => self.delta(out, |delta| delta.word("reasoning", "")),
            Event::Thinking(text) => self.delta(out, |delta| delta.text("reasoning", text)),
            Event::Seal(seal) => self.delta(out, |delta| {
                delta.object("extra_content", |extra| write_seal(extra, seal));
            }),
            Event::ToolStart { call, id, name, seal } => self.call(out, *call, |to| {
                to.text("id", id);
                to.word("type", "function");
                to.object("function", |function| {
                    function.text("name", name);
                    function.word("arguments", "");
                });
                if let Some(seal) = seal {
                    to.object("extra_content", |extra| write_seal(extra, seal));
                }
            }),
            Event::ToolArguments { call, json } => self.call(out, *call, |to| {
                to.object("function", |function| function.text("arguments", json));
            }),
            Event::Stop(stop) => self.stop = stop.clone().into_owned(),
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::Redacted(_) | Event::BlockEnd | Event::Error(_) => {}
            Event::End => self.end(out),
        }
    }

    fn delta(&mut self, out: &mut Vec<u8>, write: impl FnOnce(&mut Fields<'_>)) {
        self.chunk(out, None, write);
    }

    fn call(&mut self, out: &mut Vec<u8>, call: u32, write: impl FnOnce(&mut Fields<'_>)) {
        self.delta(out, |delta| {
            delta.list("tool_calls", |calls| {
                calls.object(|to| {
                    to.number("index", u64::from(call));
                    write(to);
                });
            });
        });
    }

    fn chunk(
        &mut self,
        out: &mut Vec<u8>,
        finish: Option<&str>,
        write: impl FnOnce(&mut Fields<'_>),
    ) {
        let is_first = std::mem::take(&mut self.is_first);
        frame(out, None, |out| {
            out::object(out, |chunk| {
                chunk.splice(&self.head);
                chunk.list("choices", |choices| {
                    choices.object(|choice| {
                        choice.number("index", 0);
                        choice.object("delta", |delta| {
                            if is_first {
                                delta.word("role", "assistant");
                            }
                            write(delta);
                        });
                        match finish {
                            Some(reason) => choice.word("finish_reason", reason),
                            None => choice.null("finish_reason"),
                        }
                    });
                });
            });
        });
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.chunk(out, Some(finish_reason(&self.stop.clone())), |_| {});
        if let Some(usage) = self.usage.filter(|_| self.include_usage) {
            frame(out, None, |out| {
                out::object(out, |chunk| {
                    chunk.splice(&self.head);
                    chunk.list("choices", |_| {});
                    chunk.object("usage", |to| write_usage(to, &usage));
                });
            });
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }
}
