//! Cuts a provider's binary event stream into its events: AWS's framing, with lengths and checksums.
//!
//! Source: <https://docs.aws.amazon.com/transcribe/latest/dg/event-stream.html> (2026-11-22).

use aws_smithy_eventstream::frame::read_message_from;
use bytes::Bytes;

use super::neutral::Failure;
use super::object::Object;
use crate::protocol::sse::MAX_EVENT_BYTES;

/// Two lengths and their checksum.
const PRELUDE: usize = 12;
/// A message without headers and payload.
const SMALLEST: usize = 16;

/// The provider's stream; keeps the unfinished message, up to 1 MiB.
#[derive(Debug, Default)]
pub(super) struct Packets {
    /// The message that is not yet whole.
    open: Vec<u8>,
    is_broken: bool,
}

/// What one message says.
#[derive(Debug)]
pub(super) enum Packet<'p> {
    /// An event: its type and its payload.
    Event { name: &'p [u8], data: &'p [u8] },
    /// The provider fails.
    Failure(Failure),
}

/// What is wrong with a stream that cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// A message is longer than what is kept.
    TooLong,
    /// A length or a checksum is wrong.
    Damaged,
    /// The stream ended within a message.
    Cut,
}

impl Broken {
    pub(super) fn message(self) -> &'static str {
        match self {
            Self::TooLong => "An event of the provider is longer than 1 MiB",
            Self::Damaged => "An event of the provider is damaged: its checksum is wrong",
            Self::Cut => "The provider's stream ended in the middle of an event",
        }
    }
}

impl Packets {
    /// Gives `each` the messages that `piece` completes. Behind one that is broken there is nothing.
    pub(super) fn push(
        &mut self,
        piece: Bytes,
        mut each: impl FnMut(Packet<'_>),
    ) -> Result<(), Broken> {
        let mut piece = &piece[..];
        while !piece.is_empty() && !self.is_broken {
            let wanted = self.wanted().inspect_err(|_| self.is_broken = true)?;
            let (now, later) = piece.split_at(piece.len().min(wanted - self.open.len()));
            self.open.extend_from_slice(now);
            piece = later;
            if self.open.len() == wanted && wanted > PRELUDE {
                let message = std::mem::take(&mut self.open);
                read(&message, &mut each).inspect_err(|_| self.is_broken = true)?;
                self.open = message;
                self.open.clear();
            }
        }
        // A length that cannot be is known before anything of the message.
        if !self.is_broken && self.open.len() == PRELUDE {
            self.wanted().inspect_err(|_| self.is_broken = true)?;
        }
        Ok(())
    }

    /// The stream is over.
    pub(super) fn finish(&mut self) -> Result<(), Broken> {
        let is_whole = self.open.is_empty() || self.is_broken;
        self.open = Vec::new();
        if is_whole { Ok(()) } else { Err(Broken::Cut) }
    }

    /// How long the open part must be to be understood: the prelude, then the message.
    fn wanted(&self) -> Result<usize, Broken> {
        let Some(total) = self.open.first_chunk().filter(|_| self.open.len() >= PRELUDE) else {
            return Ok(PRELUDE);
        };
        match usize::try_from(u32::from_be_bytes(*total)) {
            Ok(..SMALLEST) => Err(Broken::Damaged),
            Ok(total @ ..=MAX_EVENT_BYTES) => Ok(total),
            _ => Err(Broken::TooLong),
        }
    }
}

fn read(message: &[u8], each: &mut impl FnMut(Packet<'_>)) -> Result<(), Broken> {
    let message = read_message_from(message).map_err(|_| Broken::Damaged)?;
    let header = |name: &str| {
        let header = message.headers().iter().find(|header| header.name().as_str() == name)?;
        header.value().as_string().ok().map(|value| value.as_str())
    };
    let payload = &message.payload()[..];
    match header(":message-type") {
        Some("exception") => each(Packet::Failure(exception(header(":exception-type"), payload))),
        Some("error") => each(Packet::Failure(Failure {
            kind: header(":error-code").map(str::to_owned),
            message: header(":error-message").unwrap_or_default().to_owned(),
        })),
        _ => {
            let name = header(":event-type").unwrap_or_default().as_bytes();
            each(Packet::Event { name, data: payload });
        }
    }
    Ok(())
}

fn exception(kind: Option<&str>, payload: &[u8]) -> Failure {
    let document = Object::document(payload).unwrap_or_default();
    let message = ["message", "Message", "originalMessage", "OriginalMessage"]
        .into_iter()
        .find_map(|name| document.maybe_text(name));
    Failure {
        kind: kind.map(str::to_owned),
        message: message.map(|text| text.plain().into_owned()).unwrap_or_default(),
    }
}
