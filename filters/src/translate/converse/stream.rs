//! Reading a streamed answer.

use super::super::neutral::{Event, Failure};
use super::super::object::Object;
use super::super::text::Text;
use super::STRUCTURED;
use super::answer::{is_ours, seal, stop, usage};

/// The events that are read.
const KNOWN: [&[u8]; 6] = [
    b"messageStart",
    b"contentBlockStart",
    b"contentBlockDelta",
    b"contentBlockStop",
    b"messageStop",
    b"metadata",
];
/// More blocks open at once than that are no answer.
const MAX_OPEN: usize = 1024;

/// Reads the events of a stream, one at a time. What is used comes behind the reason of the end, and is the last.
#[derive(Debug, Default)]
pub struct StreamReader {
    /// Blocks that have begun, by the provider's number.
    open: Vec<(u64, Block)>,
    calls: u32,
    has_stop: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    /// Text or thought.
    Said,
    Tool {
        call: u32,
        has_arguments: bool,
    },
    /// An answer that keeps to a schema.
    Structured,
    Other,
}

impl StreamReader {
    /// Reads the data of one event.
    pub fn read(&mut self, name: &[u8], data: &[u8], each: &mut dyn FnMut(Event<'_>)) {
        if !KNOWN.contains(&name) {
            return;
        }
        let Ok(event) = Object::document(data) else {
            return each(Event::Error(Failure::new(
                "An event of the provider is not a JSON object",
            )));
        };
        match name {
            b"messageStart" => each(Event::Start { id: None, model: None, created: None }),
            b"contentBlockStart" => self.begin(&event, each),
            b"contentBlockDelta" => self.delta(&event, each),
            b"contentBlockStop" => self.end(number(&event), each),
            b"messageStop" => {
                let reason = event.maybe_text("stopReason").unwrap_or_default();
                self.has_stop = true;
                each(Event::Stop(stop(&reason, self.calls > 0)));
            }
            b"metadata" => {
                if let Some(usage) = usage(&event) {
                    each(Event::Usage(usage));
                }
                if self.has_stop {
                    each(Event::End);
                }
            }
            _ => {}
        }
    }

    fn begin(&mut self, event: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
        let start = event.maybe_object("start");
        let call = start.inner("toolUse");
        let block = match call.filter(is_ours) {
            None => Block::Other,
            Some(call) => {
                let name = call.maybe_text("name").unwrap_or_default();
                if name.is(STRUCTURED) {
                    each(Event::TextStart);
                    Block::Structured
                } else {
                    let number = self.calls;
                    self.calls = self.calls.saturating_add(1);
                    let id = call.maybe_text("toolUseId").filter(|id| !id.is_empty());
                    each(Event::ToolStart {
                        call: number,
                        id: id.unwrap_or_else(|| Text::owned(&format!("call_{number}"))),
                        name,
                        seal: None,
                    });
                    Block::Tool { call: number, has_arguments: false }
                }
            }
        };
        self.open(number(event), block, each);
    }

    fn open(&mut self, index: u64, block: Block, each: &mut dyn FnMut(Event<'_>)) {
        if self.open.len() >= MAX_OPEN {
            return each(Event::Error(Failure::new("The provider's answer has too many blocks")));
        }
        self.open.push((index, block));
    }

    /// Blocks of text and thought begin with their first piece.
    fn said(&mut self, index: u64, event: Event<'_>, each: &mut dyn FnMut(Event<'_>)) {
        if !self.open.iter().any(|(at, _)| *at == index) {
            self.open(index, Block::Said, each);
        }
        each(event);
    }

    fn delta(&mut self, event: &Object<'_>, each: &mut dyn FnMut(Event<'_>)) {
        let index = number(event);
        let delta = event.maybe_object("delta");
        let filled = |text: &Text<'_>| !text.is_empty();
        if let Some(text) = delta.maybe_text("text").filter(filled) {
            self.said(index, Event::Text(text), each);
        }
        let thought = delta.maybe_object("reasoningContent");
        if let Some(text) = thought.maybe_text("text").filter(filled) {
            self.said(index, Event::Thinking(text), each);
        }
        if let Some(signature) = thought.maybe_text("signature").filter(filled) {
            self.said(index, Event::Seal(seal(signature)), each);
        }
        if let Some(data) = thought.maybe_text("redactedContent").filter(filled) {
            each(Event::Redacted(seal(data)));
        }
        let Some(json) = delta.maybe_object("toolUse").maybe_text("input").filter(filled) else {
            return;
        };
        match self.open.iter_mut().rev().find(|(at, _)| *at == index) {
            Some((_, Block::Tool { call, has_arguments })) => {
                *has_arguments = true;
                each(Event::ToolArguments { call: *call, json });
            }
            Some((_, Block::Structured)) => each(Event::Text(json)),
            _ => {}
        }
    }

    fn end(&mut self, index: u64, each: &mut dyn FnMut(Event<'_>)) {
        let Some(at) = self.open.iter().rposition(|(open, _)| *open == index) else { return };
        match self.open.remove(at).1 {
            Block::Said | Block::Structured => each(Event::BlockEnd),
            // Arguments that are none are an empty object elsewhere.
            Block::Tool { call, has_arguments: false } => {
                each(Event::ToolArguments { call, json: Text::of("{}") });
            }
            Block::Tool { .. } | Block::Other => {}
        }
    }
}

fn number(event: &Object<'_>) -> u64 {
    event.count("contentBlockIndex").unwrap_or(0)
}
