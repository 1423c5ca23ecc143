//! A provider's stream read, a caller's stream written.

use bytes::Bytes;

use super::fields::is_repeatable;
use super::frames::Frames;
use super::lines::Lines;
use super::neutral::{AsCaller, Event, Failure, Usage};
use super::packets::{Packet, Packets};
use super::tags::Tags;
use super::text::Text;
use super::{Spoken, Wire};
use super::{chat, cohere, converse, gemini, messages, ollama, responses, sagemaker};
use crate::protocol::Protocol;

const TOO_LONG: &str = "An event of the provider is longer than 1 MiB";

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
    Packets(Packets),
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
    Converse(converse::StreamReader),
    SageMaker(sagemaker::StreamReader),
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
            Wire::Converse => ReaderOf::Converse(converse::StreamReader::default()),
            Wire::SageMaker => ReaderOf::SageMaker(sagemaker::StreamReader::default()),
        };
        let framing = match from.wire {
            Wire::Ollama => Framing::Lines(Lines::default()),
            Wire::Converse | Wire::SageMaker => Framing::Packets(Packets::default()),
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
        let pushed = match framing {
            Framing::Events(frames) => frames
                .push(piece, |name, data| step(format, seen, name, data, each))
                .map_err(|_| TOO_LONG),
            Framing::Lines(lines) => lines
                .push(piece, |name, data| step(format, seen, name, data, each))
                .map_err(|_| TOO_LONG),
            Framing::Packets(packets) => packets
                .push(piece, |packet| match packet {
                    Packet::Event { name, data } => step(format, seen, name, data, each),
                    Packet::Failure(failure) => seen.note(Event::Error(failure), each),
                })
                .map_err(|broken| broken.message()),
        };
        if let Err(message) = pushed
            && self.seen.state == State::Going
        {
            self.fail(message, each);
        }
    }

    /// The provider has closed the stream: an answer that said why it ends is whole without a last word.
    pub fn finish(&mut self, each: &mut dyn FnMut(Event<'_>)) {
        let Self { framing, format, seen } = self;
        let finished = match framing {
            Framing::Events(frames) => {
                frames.finish(|name, data| step(format, seen, name, data, each));
                Ok(())
            }
            Framing::Lines(lines) => {
                lines.finish(|name, data| step(format, seen, name, data, each));
                Ok(())
            }
            Framing::Packets(packets) => packets.finish(),
        };
        if let Err(broken) = finished
            && seen.state == State::Going
        {
            return self.fail(broken.message(), each);
        }
        if let ReaderOf::SageMaker(reader) = format {
            reader.finish(&mut |event| seen.note(event, each));
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
    fn note(&mut self, mut event: Event<'_>, each: &mut dyn FnMut(Event<'_>)) {
        if self.state != State::Going {
            return;
        }
        match &mut event {
            Event::Start { id, model, .. } => {
                id.take_if(|id| !is_repeatable(id));
                model.take_if(|model| !is_repeatable(model));
            }
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
        ReaderOf::Converse(reader) => reader.read(name, data, &mut note),
        ReaderOf::SageMaker(reader) => reader.read(name, data, &mut note),
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
            // A provider that does not say who answers: the model that was asked.
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
