//! Reading and writing a streamed message.

use super::super::fields::{SeenUsage, error_message, read_usage};
use super::super::frames::frame;
use super::super::neutral::{AsCaller, Event, Failure, Origin, Seal, Stop, Usage};
use super::super::object::Object;
use super::super::out::{self, Fields};
use super::super::seal;
use super::super::text::Text;
use super::answer::{redacted, stop, stop_reason, write_sequence, write_usage};
use crate::prices::CacheCounting;

/// More blocks open at once than that are no answer.
const MAX_OPEN: usize = 1024;

/// Reads the events of a stream, one at a time.
#[derive(Debug, Default)]
pub struct StreamReader {
    /// Blocks that have begun, by the provider's number.
    open: Vec<(u64, Block)>,
    calls: u32,
    usage: Option<SeenUsage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Text,
    Thinking,
    Tool { call: u32, has_arguments: bool },
    Other,
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
        match kind {
            b"message_start" => {
                let message = event.maybe_object("message");
                each(Event::Start {
                    id: message.maybe_text("id").filter(|id| !id.is_empty()),
                    model: message.maybe_text("model"),
                    created: None,
                });
                self.report(&message, each);
            }
            b"content_block_start" => self.begin(&event, each),
            b"content_block_delta" => self.delta(&event, each),
            b"content_block_stop" => self.end(event.count("index").unwrap_or(0), each),
            b"message_delta" => {
                let delta = event.maybe_object("delta");
                if let Some(reason) = delta.maybe_text("stop_reason") {
                    each(Event::Stop(stop(Some(reason), delta.maybe_text("stop_sequence"))));
                }
                self.report(&event, each);
            }
            b"message_stop" => each(Event::End),
            b"error" => {
                let (kind, message) = error_message(&event).unwrap_or_default();
                each(Event::Error(Failure {
                    kind: kind.map(|kind| kind.plain().into_owned()),
                    message: message.plain().into_owned(),
                }));
            }
            _ => {}
        }
    }

    fn report(&mut self, of: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
        if of.has("usage") {
            read_usage(&mut self.usage, of, CacheCounting::Additive);
            if let Some(seen) = &self.usage {
                each(Event::Usage(seen.usage()));
            }
        }
    }

    fn begin(&mut self, event: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
        let block = event.maybe_object("content_block");
        let filled = |name: &str| block.maybe_text(name).filter(|text| !text.is_empty());
        let kind = match block.kind().escaped() {
            "text" => {
                each(Event::TextStart);
                if let Some(text) = filled("text") {
                    each(Event::Text(text));
                }
                Block::Text
            }
            "thinking" => {
                each(Event::ThinkingStart);
                if let Some(text) = filled("thinking") {
                    each(Event::Thinking(text));
                }
                Block::Thinking
            }
            "tool_use" => {
                let call = self.calls;
                self.calls = self.calls.saturating_add(1);
                each(Event::ToolStart {
                    call,
                    id: filled("id").unwrap_or_else(|| Text::owned(&format!("call_{call}"))),
                    name: block.maybe_text("name").unwrap_or_default(),
                    seal: None,
                });
                Block::Tool { call, has_arguments: false }
            }
            "redacted_thinking" => {
                if let Some(data) = filled("data") {
                    let (seal, _) = seal::open(&data, Origin::Anthropic);
                    each(Event::Redacted(seal));
                }
                Block::Other
            }
            _ => Block::Other,
        };
        if self.open.len() >= MAX_OPEN {
            return each(Event::Error(Failure::new("The provider's answer has too many blocks")));
        }
        self.open.push((event.count("index").unwrap_or(0), kind));
    }

    fn delta(&mut self, event: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
        let index = event.count("index").unwrap_or(0);
        let delta = event.maybe_object("delta");
        let filled = |name: &str| delta.maybe_text(name).filter(|text| !text.is_empty());
        match delta.kind().escaped() {
            "text_delta" => {
                if let Some(text) = filled("text") {
                    each(Event::Text(text));
                }
            }
            "thinking_delta" => {
                if let Some(text) = filled("thinking") {
                    each(Event::Thinking(text));
                }
            }
            "signature_delta" => {
                if let Some(signature) = filled("signature") {
                    each(Event::Seal(seal::open(&signature, Origin::Anthropic).0));
                }
            }
            "input_json_delta" => {
                let open = self.open.iter_mut().rev().find(|(at, _)| *at == index);
                if let Some((_, Block::Tool { call, has_arguments })) = open
                    && let Some(json) = filled("partial_json")
                {
                    *has_arguments = true;
                    each(Event::ToolArguments { call: *call, json });
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, index: u64, each: &mut dyn FnMut(Event<'_>)) {
        let Some(at) = self.open.iter().rposition(|(open, _)| *open == index) else { return };
        match self.open.remove(at).1 {
            Block::Text | Block::Thinking => each(Event::BlockEnd),
            // Arguments that are none are an empty object elsewhere.
            Block::Tool { call, has_arguments: false } => {
                each(Event::ToolArguments { call, json: Text::of("{}") });
            }
            Block::Tool { .. } | Block::Other => {}
        }
    }
}

/// Writes the events of a stream.
#[derive(Debug)]
pub struct StreamWriter {
    has_started: bool,
    /// The number of the next block.
    next: u64,
    open: Open,
    /// Calls and the numbers of their blocks.
    calls: Vec<(u32, u64)>,
    /// Blocks of calls that are open.
    open_calls: Vec<u64>,
    stop: Stop<'static>,
    usage: Usage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Nothing,
    Text(u64),
    Thinking(u64),
    Calls,
}

impl StreamWriter {
    /// Nothing is written yet.
    pub fn new(_caller: &AsCaller) -> Self {
        Self {
            has_started: false,
            next: 0,
            open: Open::Nothing,
            calls: Vec::new(),
            open_calls: Vec::new(),
            stop: Stop::End,
            usage: Usage::default(),
        }
    }

    /// Writes what `event` becomes to the end of `out`. Of an error nothing is written.
    pub fn write(&mut self, event: &Event<'_>, caller: &AsCaller, out: &mut Vec<u8>) {
        match event {
            Event::Usage(usage) => return self.usage = *usage,
            Event::Error(_) => return,
            Event::Start { id, model, .. } => {
                return self.start(out, caller, id.as_ref(), model.as_ref());
            }
            _ => {}
        }
        self.start(out, caller, None, None);
        match event {
            Event::TextStart => {
                self.close(out);
                self.text(out);
            }
            Event::Text(text) | Event::Refusal(text) => {
                let index = self.text(out);
                delta(out, index, "text_delta", "text", text);
            }
            Event::ThinkingStart => {
                self.close(out);
                self.thinking(out);
            }
            Event::Thinking(text) => {
                let index = self.thinking(out);
                delta(out, index, "thinking_delta", "thinking", text);
            }
            Event::Seal(seal) => match self.open {
                Open::Thinking(index) => {
                    let signature = seal::carry(seal, Origin::Anthropic, false);
                    delta(out, index, "signature_delta", "signature", &signature);
                }
                _ => self.sealed(out, seal),
            },
            Event::Redacted(seal) => self.sealed(out, seal),
            Event::ToolStart { call, id, name, seal } => {
                if let Some(seal) = seal {
                    self.sealed(out, seal);
                }
                self.tool(out, *call, id, name);
            }
            Event::ToolArguments { call, json } => {
                if let Some((_, index)) = self.calls.iter().find(|(known, _)| known == call) {
                    delta(out, *index, "input_json_delta", "partial_json", json);
                }
            }
            Event::BlockEnd => {
                if matches!(self.open, Open::Text(_) | Open::Thinking(_)) {
                    self.close(out);
                }
            }
            Event::Stop(stop) => {
                self.close(out);
                self.stop = stop.clone().into_owned();
            }
            Event::End => self.end(out),
            Event::Usage(_) | Event::Error(_) | Event::Start { .. } => {}
        }
    }

    fn start(
        &mut self,
        out: &mut Vec<u8>,
        caller: &AsCaller,
        id: Option<&Text<'_>>,
        model: Option<&Text<'_>>,
    ) {
        if std::mem::replace(&mut self.has_started, true) {
            return;
        }
        let usage = Usage { output: 0, ..self.usage };
        event(out, "message_start", |to| {
            to.object("message", |message| {
                message.text("id", id.unwrap_or(&Text::of(&caller.id)));
                message.word("type", "message");
                message.word("role", "assistant");
                message.text("model", model.unwrap_or(&Text::of(&caller.model)));
                message.list("content", |_| {});
                message.null("stop_reason");
                message.null("stop_sequence");
                message.object("usage", |to| write_usage(to, &usage));
            });
        });
    }

    /// The open block of text, or a new one.
    fn text(&mut self, out: &mut Vec<u8>) -> u64 {
        if let Open::Text(index) = self.open {
            return index;
        }
        self.close(out);
        let index = self.begin(out, |block| {
            block.word("type", "text");
            block.word("text", "");
        });
        self.open = Open::Text(index);
        index
    }

    /// The open block of thought, or a new one.
    fn thinking(&mut self, out: &mut Vec<u8>) -> u64 {
        if let Open::Thinking(index) = self.open {
            return index;
        }
        self.close(out);
        let index = self.begin(out, |block| {
            block.word("type", "thinking");
            block.word("thinking", "");
            block.word("signature", "");
        });
        self.open = Open::Thinking(index);
        index
    }

    fn tool(&mut self, out: &mut Vec<u8>, call: u32, id: &Text<'_>, name: &Text<'_>) {
        if self.open != Open::Calls {
            self.close(out);
        }
        let index = self.begin(out, |block| {
            block.word("type", "tool_use");
            block.text("id", id);
            block.text("name", name);
            block.object("input", |_| {});
        });
        self.open = Open::Calls;
        self.calls.push((call, index));
        self.open_calls.push(index);
    }

    /// A block with a seal and nothing else.
    fn sealed(&mut self, out: &mut Vec<u8>, seal: &Seal<'_>) {
        self.close(out);
        let index = self.begin(out, |block| redacted(block, seal, false));
        close(out, index);
    }

    fn begin(&mut self, out: &mut Vec<u8>, write: impl FnOnce(&mut Fields<'_>)) -> u64 {
        let index = self.next;
        self.next += 1;
        event(out, "content_block_start", |to| {
            to.number("index", index);
            to.object("content_block", write);
        });
        index
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        match std::mem::replace(&mut self.open, Open::Nothing) {
            Open::Nothing => {}
            Open::Text(index) | Open::Thinking(index) => close(out, index),
            Open::Calls => self.open_calls.drain(..).for_each(|index| close(out, index)),
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.close(out);
        event(out, "message_delta", |to| {
            to.object("delta", |delta| {
                delta.word("stop_reason", stop_reason(&self.stop, !self.calls.is_empty()));
                write_sequence(delta, &self.stop);
            });
            to.object("usage", |to| write_usage(to, &self.usage));
        });
        event(out, "message_stop", |_| {});
    }
}

fn event(out: &mut Vec<u8>, name: &str, write: impl FnOnce(&mut Fields<'_>)) {
    frame(out, Some(name), |out| {
        out::object(out, |to| {
            to.word("type", name);
            write(to);
        });
    });
}

fn delta(out: &mut Vec<u8>, index: u64, kind: &str, field: &str, text: &Text<'_>) {
    event(out, "content_block_delta", |to| {
        to.number("index", index);
        to.object("delta", |delta| {
            delta.word("type", kind);
            delta.text(field, text);
        });
    });
}

fn close(out: &mut Vec<u8>, index: u64) {
    event(out, "content_block_stop", |to| to.number("index", index));
}
