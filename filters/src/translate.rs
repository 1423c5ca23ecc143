//! From one wire format to another: requests, answers, streams.
//!
//! Everything passes through one neutral form (`neutral`), so that a format is written once and not once for each of
//! the others. Each format has a file with the same functions in the same order: `read_request`, `write_request`,
//! `read_answer`, `read_error`, `write_answer`, `StreamReader`, `StreamWriter`. What a target cannot express is named
//! ([`Dropped`]) or, where the answer would depend on it, refused.

use bytes::Bytes;

use crate::protocol::Protocol;
use crate::rejection::Rejection;

pub mod neutral;
pub mod chat;
pub mod messages;
pub mod responses;
pub mod gemini;
pub mod cohere;
pub mod ollama;
pub mod text;

mod fields;
mod frames;
mod lines;
mod names;
mod object;
mod out;
pub(crate) mod quirks;
pub(crate) mod schema;
mod seal;
mod tags;

use frames::Frames;
use lines::Lines;
pub use names::ToolName;
use neutral::{Answer, AsCaller, Conversation, Dropped, Event, Failure, Target, Usage, Written};
pub use object::{Fault, Object};
pub use quirks::{Dialect, dialect};
use tags::Tags;
use text::Text;

/// A format that a provider speaks: one that callers speak too, or one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// OpenAI chat completions.
    Chat,
    /// Anthropic messages.
    Messages,
    /// OpenAI responses.
    Responses,
    /// Google Gemini `generateContent`.
    Gemini,
    /// Cohere chat, version 2.
    Cohere,
    /// Ollama chat.
    Ollama,
}

impl From<Protocol> for Wire {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Chat => Self::Chat,
            Protocol::Messages => Self::Messages,
            Protocol::Responses => Self::Responses,
        }
    }
}

/// What a provider answers in: a format, and whose dialect of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoken {
    /// The format.
    pub wire: Wire,
    /// The provider's name in the provider table; empty for the format as its inventor has it.
    pub provider: &'static str,
}

impl Spoken {
    fn tagged(self) -> quirks::Tagged {
        quirks::tagged(if self.wire == Wire::Ollama { "ollama" } else { self.provider })
    }
}

impl From<Wire> for Spoken {
    fn from(wire: Wire) -> Self {
        Self { wire, provider: "" }
    }
}

impl From<Protocol> for Spoken {
    fn from(protocol: Protocol) -> Self {
        Wire::from(protocol).into()
    }
}

/// A request in the provider's format.
#[derive(Debug)]
pub struct Request {
    /// The body to send.
    pub body: Bytes,
    /// What the provider's format cannot express.
    pub dropped: Dropped,
    /// What writing the answer takes. `now` and `id` are for the gateway to fill in.
    pub caller: AsCaller,
}

/// Translates a request of the format `from` to one of the format `to`.
///
/// # Errors
/// `invalid_value` naming the field that cannot be read, or that the provider cannot be asked.
pub fn request(
    from: Protocol,
    to: impl Into<Wire>,
    body: &[u8],
    target: &Target<'_>,
) -> Result<Request, Rejection> {
    let conversation = read_request(from, body)?;
    let Written { body, dropped } = write_request(to, &conversation, target)?;
    let caller = AsCaller { model: target.model.to_owned(), ..as_caller(from, &conversation) };
    Ok(Request { body, dropped, caller })
}

/// An answer in the caller's format.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The body to send.
    pub body: Bytes,
    /// What the provider counted, which is more than the caller's format may say: costs are computed from it.
    pub usage: Option<Usage>,
}

/// Translates a whole answer of the provider's format `from` to the caller's format `to`.
///
/// # Errors
/// When the document is no answer.
pub fn answer(
    from: impl Into<Spoken>,
    to: Protocol,
    body: &[u8],
    caller: &AsCaller,
) -> Result<Answered, Failure> {
    let mut answer = read_answer(from, body)?;
    if answer.model.is_none() && !caller.model.is_empty() {
        answer.model = Some(Text::of(&caller.model));
    }
    Ok(Answered { body: write_answer(to, &answer, caller), usage: answer.usage })
}

/// What must be known of a request, which came in the format `from`, to write its answer.
pub fn as_caller(from: Protocol, conversation: &Conversation<'_>) -> AsCaller {
    AsCaller {
        include_usage: conversation.include_usage,
        tools: conversation.tools.iter().filter_map(|tool| tool.known_as.clone()).collect(),
        echo: match from {
            Protocol::Responses => responses::echo(conversation),
            Protocol::Chat | Protocol::Messages => String::new(),
        },
        ..AsCaller::default()
    }
}

/// Reads a request.
///
/// # Errors
/// `invalid_value` naming the field that cannot be read.
pub fn read_request(format: Protocol, body: &[u8]) -> Result<Conversation<'_>, Rejection> {
    match format {
        Protocol::Chat => chat::read_request(body),
        Protocol::Messages => messages::read_request(body),
        Protocol::Responses => responses::read_request(body),
    }
}

/// Writes a request.
///
/// # Errors
/// `invalid_value` naming what the provider cannot be asked.
pub fn write_request(
    format: impl Into<Wire>,
    conversation: &Conversation<'_>,
    target: &Target<'_>,
) -> Result<Written, Rejection> {
    match format.into() {
        Wire::Chat => chat::write_request(conversation, target),
        Wire::Messages => messages::write_request(conversation, target),
        Wire::Responses => responses::write_request(conversation, target),
        Wire::Gemini => gemini::write_request(conversation, target),
        Wire::Cohere => cohere::write_request(conversation, target),
        Wire::Ollama => ollama::write_request(conversation, target),
    }
}

/// Reads an answer.
///
/// # Errors
/// When the document is none, or says that the provider failed.
pub fn read_answer(from: impl Into<Spoken>, body: &[u8]) -> Result<Answer<'_>, Failure> {
    let from = from.into();
    let answer = match from.wire {
        Wire::Chat => chat::read_answer(body, from.provider),
        Wire::Messages => messages::read_answer(body),
        Wire::Responses => responses::read_answer(body),
        Wire::Gemini => gemini::read_answer(body),
        Wire::Cohere => cohere::read_answer(body),
        Wire::Ollama => ollama::read_answer(body),
    }?;
    Ok(if from.tagged().whole { tags::take_out(answer) } else { answer })
}

/// Reads a body that reports an error; `None` when it reports none.
pub fn read_error(from: impl Into<Spoken>, body: &[u8]) -> Option<Failure> {
    match from.into().wire {
        Wire::Chat => chat::read_error(body),
        Wire::Messages => messages::read_error(body),
        Wire::Responses => responses::read_error(body),
        Wire::Gemini => gemini::read_error(body),
        Wire::Cohere => cohere::read_error(body),
        Wire::Ollama => ollama::read_error(body),
    }
}

/// Writes an answer.
pub fn write_answer(format: Protocol, answer: &Answer<'_>, caller: &AsCaller) -> Bytes {
    match format {
        Protocol::Chat => chat::write_answer(answer, caller),
        Protocol::Messages => messages::write_answer(answer, caller),
        Protocol::Responses => responses::write_answer(answer, caller),
    }
}

/// Reads a provider's event stream. Holds no more than the unfinished event, up to 1 MiB.
#[derive(Debug)]
pub struct StreamReader {
    framing: Framing,
    format: ReaderOf,
    seen: Seen,
}

/// How a stream is cut into events.
#[derive(Debug)]
enum Framing {
    Events(Frames),
    Lines(Lines),
}

/// What the events said so far.
#[derive(Debug, Default)]
struct Seen {
    /// Takes thoughts out of the text, where a provider leaves them there.
    tags: Option<Tags>,
    state: State,
    has_stop: bool,
    usage: Option<Usage>,
}

#[derive(Debug)]
enum ReaderOf {
    Chat(chat::StreamReader),
    Messages(messages::StreamReader),
    Responses(responses::StreamReader),
    Gemini(gemini::StreamReader),
    Cohere(cohere::StreamReader),
    Ollama(ollama::StreamReader),
}

/// How far a stream has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// More is to come.
    #[default]
    Going,
    /// The answer is whole.
    Ended,
    /// The provider failed, or stopped in the middle.
    Failed(Failure),
}

impl StreamReader {
    /// Nothing was read yet.
    pub fn new(from: impl Into<Spoken>) -> Self {
        let from = from.into();
        let format = match from.wire {
            Wire::Chat => ReaderOf::Chat(chat::StreamReader::new(from.provider)),
            Wire::Messages => ReaderOf::Messages(messages::StreamReader::default()),
            Wire::Responses => ReaderOf::Responses(responses::StreamReader::default()),
            Wire::Gemini => ReaderOf::Gemini(gemini::StreamReader::default()),
            Wire::Cohere => ReaderOf::Cohere(cohere::StreamReader::default()),
            Wire::Ollama => ReaderOf::Ollama(ollama::StreamReader::default()),
        };
        let framing = match from.wire {
            Wire::Ollama => Framing::Lines(Lines::default()),
            _ => Framing::Events(Frames::new()),
        };
        let tags = from.tagged().streams.then(Tags::default);
        Self { framing, format, seen: Seen { tags, ..Seen::default() } }
    }

    /// How far the stream has come.
    pub fn state(&self) -> &State {
        &self.seen.state
    }

    /// What the provider counted, as far as it has said.
    pub fn usage(&self) -> Option<Usage> {
        self.seen.usage
    }

    /// Gives `each` the events that `piece` completes. After an end or an error there are none.
    pub fn read(&mut self, piece: Bytes, each: &mut dyn FnMut(Event<'_>)) {
        let Self { framing, format, seen } = self;
        let read = |name: &[u8], data: &[u8]| step(format, seen, name, data, each);
        let pushed = match framing {
            Framing::Events(frames) => frames.push(piece, read),
            Framing::Lines(lines) => lines.push(piece, read),
        };
        if pushed.is_err() && self.seen.state == State::Going {
            self.fail("An event of the provider is longer than 1 MiB", each);
        }
    }

    /// The provider has closed the stream: an answer that said why it ends is whole without a last word.
    pub fn finish(&mut self, each: &mut dyn FnMut(Event<'_>)) {
        let Self { framing, format, seen } = self;
        let read = |name: &[u8], data: &[u8]| step(format, seen, name, data, each);
        match framing {
            Framing::Events(frames) => frames.finish(read),
            Framing::Lines(lines) => lines.finish(read),
        }
        if self.seen.state != State::Going {
            return;
        }
        if self.seen.has_stop {
            self.seen.state = State::Ended;
            each(Event::End);
        } else {
            self.fail("The provider's stream ended in the middle of the answer", each);
        }
    }

    fn fail(&mut self, message: &str, each: &mut dyn FnMut(Event<'_>)) {
        let failure = Failure::new(message);
        self.seen.state = State::Failed(failure.clone());
        each(Event::Error(failure));
    }
}

impl Seen {
    /// Notes how far an event brings the stream, and passes it on.
    fn note(&mut self, event: Event<'_>, each: &mut dyn FnMut(Event<'_>)) {
        if self.state != State::Going {
            return;
        }
        match &event {
            Event::Stop(_) => self.has_stop = true,
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::End => self.state = State::Ended,
            Event::Error(failure) => self.state = State::Failed(failure.clone()),
            _ => {}
        }
        each(event);
    }
}

/// Reads one event.
fn step(
    format: &mut ReaderOf,
    seen: &mut Seen,
    name: &[u8],
    data: &[u8],
    each: &mut dyn FnMut(Event<'_>),
) {
    let mut tags = seen.tags.take();
    let mut note = |event: Event<'_>| match &mut tags {
        Some(tags) => tags.event(event, &mut |event| seen.note(event, each)),
        None => seen.note(event, each),
    };
    match format {
        ReaderOf::Chat(reader) => reader.read(name, data, &mut note),
        ReaderOf::Messages(reader) => reader.read(name, data, &mut note),
        ReaderOf::Responses(reader) => reader.read(name, data, &mut note),
        ReaderOf::Gemini(reader) => reader.read(name, data, &mut note),
        ReaderOf::Cohere(reader) => reader.read(name, data, &mut note),
        ReaderOf::Ollama(reader) => reader.read(name, data, &mut note),
    }
    seen.tags = tags;
}

/// Writes a caller's event stream.
#[derive(Debug)]
pub struct StreamWriter {
    format: WriterOf,
    caller: AsCaller,
}

#[derive(Debug)]
enum WriterOf {
    Chat(chat::StreamWriter),
    Messages(messages::StreamWriter),
    Responses(responses::StreamWriter),
}

impl StreamWriter {
    /// Nothing is written yet.
    pub fn new(format: Protocol, caller: AsCaller) -> Self {
        let format = match format {
            Protocol::Chat => WriterOf::Chat(chat::StreamWriter::new(&caller)),
            Protocol::Messages => WriterOf::Messages(messages::StreamWriter::new(&caller)),
            Protocol::Responses => WriterOf::Responses(responses::StreamWriter::new(&caller)),
        };
        Self { format, caller }
    }

    /// Writes what `event` becomes to the end of `out`: whole frames. Of an error nothing is written; the end of such
    /// a stream is [`Rejection::stream_end`].
    pub fn write(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        let Self { format, caller } = self;
        let named = match event {
            Event::Start { id, model: None, created } if !caller.model.is_empty() => {
                let model = Some(Text::of(&caller.model));
                Some(Event::Start { id: id.clone(), model, created: *created })
            }
            _ => None,
        };
        let event = named.as_ref().unwrap_or(event);
        match format {
            WriterOf::Chat(writer) => writer.write(event, caller, out),
            WriterOf::Messages(writer) => writer.write(event, caller, out),
            WriterOf::Responses(writer) => writer.write(event, caller, out),
        }
    }
}

/// Translates a stream, piece by piece.
#[derive(Debug)]
pub struct Stream {
    reader: StreamReader,
    writer: StreamWriter,
}

impl Stream {
    /// From the provider's format `from` to the caller's format `to`.
    pub fn new(from: impl Into<Spoken>, to: Protocol, caller: AsCaller) -> Self {
        Self { reader: StreamReader::new(from), writer: StreamWriter::new(to, caller) }
    }

    /// The frames that `piece` completes. What ends the stream, its usage included, comes with the last of them.
    pub fn push(&mut self, piece: Bytes) -> Bytes {
        let Self { reader, writer } = self;
        let mut out = Vec::new();
        reader.read(piece, &mut |event| writer.write(&event, &mut out));
        Bytes::from(out)
    }

    /// The last frames, when the provider has closed the stream.
    pub fn finish(&mut self) -> Bytes {
        let Self { reader, writer } = self;
        let mut out = Vec::new();
        reader.finish(&mut |event| writer.write(&event, &mut out));
        Bytes::from(out)
    }

    /// How far the stream has come.
    pub fn state(&self) -> &State {
        self.reader.state()
    }

    /// What the provider counted, as far as it has said: costs are computed from it, because the caller's format may
    /// say less.
    pub fn usage(&self) -> Option<Usage> {
        self.reader.usage()
    }
}
