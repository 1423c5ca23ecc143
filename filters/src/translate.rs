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
pub mod text;

mod fields;
mod frames;
mod names;
mod object;
mod out;
mod quirks;
mod schema;
mod seal;

use frames::Frames;
pub use names::ToolName;
use neutral::{Answer, AsCaller, Conversation, Dropped, Event, Failure, Target, Written};
pub use object::{Fault, Object};

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
    Ok(Request { body, dropped, caller: as_caller(from, &conversation) })
}

/// Translates a whole answer of the provider's format `from` to the caller's format `to`.
///
/// # Errors
/// When the document is no answer.
pub fn answer(
    from: impl Into<Wire>,
    to: Protocol,
    body: &[u8],
    caller: &AsCaller,
) -> Result<Bytes, Failure> {
    Ok(write_answer(to, &read_answer(from, body)?, caller))
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
    }
}

/// Reads an answer.
///
/// # Errors
/// When the document is none, or says that the provider failed.
pub fn read_answer(format: impl Into<Wire>, body: &[u8]) -> Result<Answer<'_>, Failure> {
    match format.into() {
        Wire::Chat => chat::read_answer(body),
        Wire::Messages => messages::read_answer(body),
        Wire::Responses => responses::read_answer(body),
        Wire::Gemini => gemini::read_answer(body),
    }
}

/// Reads a body that reports an error; `None` when it reports none.
pub fn read_error(format: impl Into<Wire>, body: &[u8]) -> Option<Failure> {
    match format.into() {
        Wire::Chat => chat::read_error(body),
        Wire::Messages => messages::read_error(body),
        Wire::Responses => responses::read_error(body),
        Wire::Gemini => gemini::read_error(body),
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
    frames: Frames,
    format: ReaderOf,
    state: State,
    has_stop: bool,
}

#[derive(Debug)]
enum ReaderOf {
    Chat(chat::StreamReader),
    Messages(messages::StreamReader),
    Responses(responses::StreamReader),
    Gemini(gemini::StreamReader),
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
    pub fn new(format: impl Into<Wire>) -> Self {
        let format = match format.into() {
            Wire::Chat => ReaderOf::Chat(chat::StreamReader::default()),
            Wire::Messages => ReaderOf::Messages(messages::StreamReader::default()),
            Wire::Responses => ReaderOf::Responses(responses::StreamReader::default()),
            Wire::Gemini => ReaderOf::Gemini(gemini::StreamReader::default()),
        };
        Self { frames: Frames::new(), format, state: State::Going, has_stop: false }
    }

    /// How far the stream has come.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Gives `each` the events that `piece` completes. After an end or an error there are none.
    pub fn read(&mut self, piece: Bytes, each: &mut dyn FnMut(Event<'_>)) {
        let Self { frames, format, state, has_stop } = self;
        let pushed =
            frames.push(piece, |name, data| step(format, state, has_stop, name, data, each));
        if pushed.is_err() && self.state == State::Going {
            self.fail("An event of the provider is longer than 1 MiB", each);
        }
    }

    /// The provider has closed the stream: an answer that said why it ends is whole without a last word.
    pub fn finish(&mut self, each: &mut dyn FnMut(Event<'_>)) {
        let Self { frames, format, state, has_stop } = self;
        frames.finish(|name, data| step(format, state, has_stop, name, data, each));
        if self.state != State::Going {
            return;
        }
        if self.has_stop {
            self.state = State::Ended;
            each(Event::End);
        } else {
            self.fail("The provider's stream ended in the middle of the answer", each);
        }
    }

    fn fail(&mut self, message: &str, each: &mut dyn FnMut(Event<'_>)) {
        let failure = Failure::new(message);
        self.state = State::Failed(failure.clone());
        each(Event::Error(failure));
    }
}

/// Reads one event, and notes how far that brings the stream.
fn step(
    format: &mut ReaderOf,
    state: &mut State,
    has_stop: &mut bool,
    name: &[u8],
    data: &[u8],
    each: &mut dyn FnMut(Event<'_>),
) {
    let mut note = |event: Event<'_>| {
        if *state != State::Going {
            return;
        }
        match &event {
            Event::Stop(_) => *has_stop = true,
            Event::End => *state = State::Ended,
            Event::Error(failure) => *state = State::Failed(failure.clone()),
            _ => {}
        }
        each(event);
    };
    match format {
        ReaderOf::Chat(reader) => reader.read(name, data, &mut note),
        ReaderOf::Messages(reader) => reader.read(name, data, &mut note),
        ReaderOf::Responses(reader) => reader.read(name, data, &mut note),
        ReaderOf::Gemini(reader) => reader.read(name, data, &mut note),
    }
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
        match &mut self.format {
            WriterOf::Chat(writer) => writer.write(event, &self.caller, out),
            WriterOf::Messages(writer) => writer.write(event, &self.caller, out),
            WriterOf::Responses(writer) => writer.write(event, &self.caller, out),
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
    pub fn new(from: impl Into<Wire>, to: Protocol, caller: AsCaller) -> Self {
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
}
