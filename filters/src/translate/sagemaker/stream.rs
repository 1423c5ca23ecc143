//! Reading a streamed answer: the container's own stream, cut anywhere into parts.

use serde_json::value::RawValue;

use super::super::chat;
use super::super::neutral::{Event, Failure, Kind, Stop};
use super::super::object::Object;
use super::answer::{failure, stop, text};
use crate::protocol::sse::MAX_EVENT_BYTES;

/// Joins the parts of a stream, and reads the documents in it: lines of an event stream, or JSON behind JSON. Holds no
/// more than an unfinished document, up to 1 MiB.
#[derive(Debug)]
pub struct StreamReader {
    open: Vec<u8>,
    chat: chat::StreamReader,
    has_text: bool,
    has_stop: bool,
    is_over: bool,
}

impl Default for StreamReader {
    fn default() -> Self {
        Self {
            open: Vec::new(),
            chat: chat::StreamReader::new("sagemaker"),
            has_text: false,
            has_stop: false,
            is_over: false,
        }
    }
}

/// What was found at the head of the open part.
enum Found {
    /// Nothing that is whole.
    Nothing,
    /// It cannot be read.
    Broken,
    /// A line or a document of so many bytes.
    Whole(usize),
}

impl StreamReader {
    /// Reads the payload of one event.
    pub fn read(&mut self, name: &[u8], data: &[u8], each: &mut dyn FnMut(Event<'_>)) {
        if name != b"PayloadPart" || self.is_over {
            return;
        }
        self.open.extend_from_slice(data);
        let open = std::mem::take(&mut self.open);
        let read = self.documents(&open, false, each);
        self.open = open;
        self.open.drain(..read);
        if self.open.len() > MAX_EVENT_BYTES && !self.is_over {
            self.fail("An event of the provider is longer than 1 MiB", each);
        }
    }

    /// The provider has closed the stream. Texts without a last word are whole with it.
    pub fn finish(&mut self, each: &mut dyn FnMut(Event<'_>)) {
        let open = std::mem::take(&mut self.open);
        let read = self.documents(&open, true, each);
        if read < open.len() && !self.is_over {
            return self.fail("The provider's stream ended in the middle of an event", each);
        }
        if self.has_text && !self.has_stop && !self.is_over {
            each(Event::Stop(Stop::End));
        }
    }

    fn fail(&mut self, message: &str, each: &mut dyn FnMut(Event<'_>)) {
        self.is_over = true;
        each(Event::Error(Failure::new(message)));
    }

    /// Reads what is whole in `open`, and says how much that was.
    fn documents(&mut self, open: &[u8], is_last: bool, each: &mut dyn FnMut(Event<'_>)) -> usize {
        let mut from = 0;
        loop {
            from += open[from..].len() - open[from..].trim_ascii_start().len();
            let rest = &open[from..];
            match find(rest, is_last) {
                Found::Nothing => return from,
                Found::Broken => {
                    self.fail("A part of the provider's stream is not a JSON object", each);
                    return from;
                }
                Found::Whole(length) => {
                    self.document(data(&rest[..length]), each);
                    from += length;
                }
            }
            if self.is_over {
                return from;
            }
        }
    }

    fn document(&mut self, data: &[u8], each: &mut dyn FnMut(Event<'_>)) {
        if data.is_empty() {
            return;
        }
        let is_over = &mut self.is_over;
        let has_stop = &mut self.has_stop;
        let mut note = |event: Event<'_>| {
            *has_stop |= matches!(event, Event::Stop(_));
            *is_over |= matches!(event, Event::Error(_) | Event::End);
            each(event);
        };
        if data == b"[DONE]" {
            if self.has_text {
                note(Event::Stop(Stop::End));
            }
            return note(Event::End);
        }
        let Ok(top) = Object::document(data) else {
            let problem = "A part of the provider's stream is not a JSON object";
            return note(Event::Error(Failure::new(problem)));
        };
        if top.has("choices") {
            let choices = top.maybe_objects("choices");
            if choices.first().is_some_and(|choice| choice.has("message")) {
                return whole(data, &mut note);
            }
            return self.chat.read(b"", data, &mut note);
        }
        // A text that follows its tokens repeats them.
        let token = top.get("token").and_then(text);
        let said = token.or_else(|| {
            let names = ["outputs", "generated_text", "content"];
            names.into_iter().find_map(|name| top.get(name).and_then(text))
        });
        let stop = stop(&top);
        match (said, &stop) {
            (None, None) => {
                if let Some(failure) = failure(&top) {
                    note(Event::Error(failure));
                }
                return;
            }
            (Some(said), _) => {
                self.has_text = true;
                if !said.is_empty() {
                    note(Event::Text(said));
                }
            }
            (None, Some(_)) => {}
        }
        if let Some(stop) = stop {
            note(Event::Stop(stop));
        }
    }
}

/// A container that does not stream: its answer comes whole.
fn whole(data: &[u8], each: &mut dyn FnMut(Event<'_>)) {
    let answer = match chat::read_answer(data, "sagemaker") {
        Ok(answer) => answer,
        Err(failure) => return each(Event::Error(failure)),
    };
    each(Event::Start { id: answer.id, model: answer.model, created: answer.created });
    let mut number = 0;
    for part in answer.parts {
        match part.kind {
            Kind::Text(text) => each(Event::Text(text)),
            Kind::Refusal(text) => each(Event::Refusal(text)),
            Kind::Thinking(text, _) => each(Event::Thinking(text)),
            Kind::ToolCall(call) => {
                let json = call.arguments.quoted();
                let (id, name) = (call.id.borrow(), call.name.borrow());
                each(Event::ToolStart { call: number, id, name, seal: None });
                each(Event::ToolArguments { call: number, json });
                number += 1;
            }
            _ => {}
        }
    }
    if let Some(usage) = answer.usage {
        each(Event::Usage(usage));
    }
    each(Event::Stop(answer.stop));
}

/// The first line or document of `rest`, which begins with no space.
fn find(rest: &[u8], is_last: bool) -> Found {
    if rest.is_empty() {
        return Found::Nothing;
    }
    if rest.starts_with(b"{") {
        let mut documents = serde_json::Deserializer::from_slice(rest).into_iter::<&RawValue>();
        return match documents.next() {
            Some(Ok(_)) => Found::Whole(documents.byte_offset()),
            Some(Err(error)) if error.is_eof() => Found::Nothing,
            _ => Found::Broken,
        };
    }
    match memchr::memchr2(b'\n', b'\r', rest) {
        Some(end) => Found::Whole(end),
        None if is_last => Found::Whole(rest.len()),
        None => Found::Nothing,
    }
}

/// The data of a line of an event stream: nothing where it is a name or a comment. JSON is its own data.
fn data(line: &[u8]) -> &[u8] {
    if line.starts_with(b"{") || line.trim_ascii() == b"[DONE]" {
        return line.trim_ascii();
    }
    let known: [&[u8]; 4] = [b":", b"event:", b"id:", b"retry:"];
    match line.strip_prefix(b"data:") {
        Some(data) => data.trim_ascii(),
        None if known.iter().any(|name| line.starts_with(name)) => b"",
        None => line,
    }
}
