//! The streams of a loop's rounds, made into the one that its caller sees.
//!
//! Text and thoughts pass as they come. The gateway's own calls and what ends a round are held back; what is left is
//! numbered as one answer: indices, sequence numbers, one beginning and one end, with the usage of all rounds. Of the
//! stream no more is held than one event; of the answer what the next round has to repeat.

use bytes::Bytes;
use serde_json::Value;

use super::doc::Doc;
use super::{Owned, Step, Tally, ToolCall, ToolResult, Turn, Wanted};
use crate::protocol::{Protocol, Request};

mod blocks;
mod calls;
mod chat;
mod deltas;
mod events;
mod messages;
mod responses;

use events::{Event, Frames};

/// What a round may say, as far as it must be repeated, before it counts as failed.
const MAX_TURN_BYTES: usize = 16 << 20;

/// How the stream is to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Chat: the caller asked for the chunk with the usage.
    pub shows_usage: bool,
    /// Searches are marked in the answer: in responses wherever the gateway searches, in messages where the caller has
    /// declared Anthropic's own tool (`SearchTool::is_native`).
    pub marks_search: bool,
    /// Responses: the caller goes on from what the provider has stored, so the end bears the id of the last round and
    /// not that of the first (`store` is not false).
    pub chains: bool,
}

impl Options {
    /// As `request`, which was read from `body`, and what it wants say.
    pub fn of(request: &Request, body: &[u8], wanted: &Wanted) -> Self {
        let search = wanted.search.as_ref();
        let is_stored = || {
            let store = Doc::read(body).and_then(|doc| Some(doc.get("store")?.get() != "false"));
            store.unwrap_or(true)
        };
        Self {
            shows_usage: request.wants_usage,
            marks_search: match request.protocol {
                Protocol::Chat => false,
                Protocol::Messages => search.is_some_and(|search| search.is_native),
                Protocol::Responses => search.is_some(),
            },
            chains: request.protocol == Protocol::Responses && is_stored(),
        }
    }
}

/// How the stream of a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With the event that ends an answer of this format, or at least with why it stops.
    Complete,
    /// The provider reported an error; the event has passed, and nothing may follow it.
    Failed,
    /// In the middle, or it could not be followed: an event or a turn was too long. The caller has not been told.
    Broken,
}

/// What a round's stream came to.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundEnd {
    /// How it ended. The rest is of use where it is complete.
    pub ending: Ending,
    /// What is to be done.
    pub step: Step,
    /// What the model said, for the next round's body.
    pub turn: Turn,
    /// What the provider counted for this round; it is in the [`Loop::tally`] already.
    pub usage: Option<Value>,
}

/// One loop's stream, over all its rounds: feed a round, end it, give the results, feed the next; at last finish.
#[derive(Debug)]
pub struct Loop {
    frames: Frames,
    format: Format,
    shared: Shared,
}

/// What all formats keep.
#[derive(Debug)]
struct Shared {
    owned: Owned,
    options: Options,
    tally: Tally,
    /// Rounds that are over.
    round: u32,
    state: State,
    usage: Option<Value>,
    /// Bytes of the turn so far.
    turn_bytes: usize,
    /// The calls that are being run.
    running: Vec<ToolCall>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Going,
    Complete,
    Failed,
    Broken,
}

#[derive(Debug)]
enum Format {
    Chat(chat::Stream),
    Messages(messages::Stream),
    Responses(responses::Stream),
}

impl Loop {
    /// Nothing has been said yet. `owned`: the tools that the gateway runs.
    pub fn new(protocol: Protocol, owned: Owned, options: Options) -> Self {
        let format = match protocol {
            Protocol::Chat => Format::Chat(chat::Stream::default()),
            Protocol::Messages => Format::Messages(messages::Stream::default()),
            Protocol::Responses => Format::Responses(responses::Stream::default()),
        };
        let shared = Shared {
            owned,
            options,
            tally: Tally::default(),
            round: 0,
            state: State::Going,
            usage: None,
            turn_bytes: 0,
            running: Vec::new(),
        };
        Self { frames: Frames::new(), format, shared }
    }

    /// Takes a piece of the round's stream and appends to `out` what the caller may see now: whole events.
    pub fn feed(&mut self, piece: Bytes, out: &mut Vec<Bytes>) {
        let Self { frames, format, shared } = self;
        let fits = frames.push(piece, |event| format.event(event, shared, out));
        if !fits || self.shared.turn_bytes > MAX_TURN_BYTES {
            self.shared.fail();
        }
    }

    /// The round's stream is over. Appends to `out` what is still to be seen of it, and the beginnings of marks.
    pub fn round_end(&mut self, out: &mut Vec<Bytes>) -> RoundEnd {
        let Self { frames, format, shared } = self;
        frames.finish(|event| format.event(event, shared, out));
        if shared.state == State::Going && format.has_reason() {
            shared.state = State::Complete;
        }
        let ending = match shared.state {
            State::Complete => Ending::Complete,
            State::Failed => Ending::Failed,
            State::Going | State::Broken => Ending::Broken,
        };
        let (mut step, turn) = format.end(shared, out);
        if ending != Ending::Complete {
            step = Step::Done;
        }
        let usage = shared.usage.take();
        shared.tally.add(usage.as_ref());
        shared.running = step.calls().to_vec();
        shared.round += 1;
        if shared.options.marks_search {
            format.mark_begin(shared, out);
        }
        (shared.state, shared.turn_bytes) = (State::Going, 0);
        *frames = Frames::new();
        RoundEnd { ending, step, turn, usage }
    }

    /// What came of the calls that the last round asked for; appends the ends of marks. The next round may be fed.
    pub fn results(&mut self, results: &[ToolResult], out: &mut Vec<Bytes>) {
        if self.shared.options.marks_search {
            self.format.mark_end(&self.shared, results, out);
        }
        self.shared.running.clear();
    }

    /// No further round follows: appends the end of the answer, with the usage of all rounds.
    pub fn finish(&mut self, out: &mut Vec<Bytes>) {
        match &mut self.format {
            Format::Chat(stream) => stream.finish(&self.shared, out),
            Format::Messages(stream) => stream.finish(&self.shared, out),
            Format::Responses(stream) => stream.finish(&self.shared, out),
        }
    }

    /// The usage of the rounds that have ended.
    pub fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    /// Whether the round has been read to its end, though its stream may still be open.
    pub fn is_round_complete(&self) -> bool {
        self.shared.state != State::Going
    }
}

impl Format {
    fn event(&mut self, event: &Event, shared: &mut Shared, out: &mut Vec<Bytes>) {
        if matches!(shared.state, State::Failed | State::Broken) {
            return;
        }
        match self {
            Self::Chat(stream) => stream.event(event, shared, out),
            Self::Messages(stream) => stream.event(event, shared, out),
            Self::Responses(stream) => stream.event(event, shared, out),
        }
    }

    /// Whether it was said why the answer stops: some providers leave out what ends a stream.
    fn has_reason(&self) -> bool {
        match self {
            Self::Chat(stream) => stream.has_reason(),
            Self::Messages(stream) => stream.has_reason(),
            Self::Responses(_) => false,
        }
    }

    fn end(&mut self, shared: &mut Shared, out: &mut Vec<Bytes>) -> (Step, Turn) {
        match self {
            Self::Chat(stream) => stream.end(shared, out),
            Self::Messages(stream) => stream.end(shared, out),
            Self::Responses(stream) => stream.end(shared, out),
        }
    }

    fn mark_begin(&mut self, shared: &Shared, out: &mut Vec<Bytes>) {
        match self {
            Self::Chat(_) => {}
            Self::Messages(stream) => stream.mark_begin(shared, out),
            Self::Responses(stream) => stream.mark_begin(shared, out),
        }
    }

    fn mark_end(&mut self, shared: &Shared, results: &[ToolResult], out: &mut Vec<Bytes>) {
        match self {
            Self::Chat(_) => {}
            Self::Messages(stream) => stream.mark_end(shared, results, out),
            Self::Responses(stream) => stream.mark_end(shared, results, out),
        }
    }
}

impl Shared {
    fn tally(&self) -> &Tally {
        &self.tally
    }

    fn fail(&mut self) {
        if matches!(self.state, State::Going | State::Complete) {
            self.state = State::Broken;
        }
    }

    /// Whether an earlier round has been seen by the caller.
    fn is_later(&self) -> bool {
        self.round > 0
    }

    /// The searches that are being run, each with the id of its mark.
    fn searches(&self, prefix: &'static str) -> impl Iterator<Item = (String, &ToolCall)> {
        let round = self.round;
        self.running
            .iter()
            .filter(|call| call.name == super::WEB_SEARCH)
            .map(move |call| (super::marks::id(prefix, round, call), call))
    }
}

#[cfg(test)]
mod tests;
