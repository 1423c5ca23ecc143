//! What a provider's bytes pass before anything looks at them: a content coding comes off, and another format becomes
//! the caller's. Behind this everything, meter and relay, knows the caller's format alone.

use std::io::Write as _;

use bytes::Bytes;
use flate2::write::{MultiGzDecoder, ZlibDecoder};
use http::header::CONTENT_ENCODING;
use otari_filters::meter::{self, Reply, Usage};
use otari_filters::operations::{self, Measured, Tally};
use otari_filters::protocol::Protocol;
use otari_filters::translate::neutral::{self, AsCaller};
use otari_filters::translate::{self, Spoken, State};
use otari_filters::upstream::Failure;
use pingora_http::ResponseHeader;

/// How the answer becomes the caller's.
#[derive(Clone, Debug)]
pub(super) struct Inbound {
    /// What the provider speaks.
    pub(super) spoken: Spoken,
    /// What the caller speaks.
    pub(super) to: Protocol,
    /// The provider speaks the caller's format; only what stands between tags in a text is to be told apart.
    pub(super) is_same: bool,
    /// What must be known of the request.
    pub(super) caller: AsCaller,
}

/// How an answer is read.
pub(super) enum Reading {
    /// A turn of a conversation in this format; of which it is made, where it is not the provider's.
    Generation(Protocol, Option<Inbound>),
    /// The answer to an operation; the request's id is for those that have none.
    Operation(Box<operations::Inbound>, Box<str>),
}

impl Reading {
    /// Whether nothing of an answer of this type is read: it passes, whatever it is.
    pub(super) fn is_unread(&self, is_json: bool) -> bool {
        match self {
            Self::Generation(..) => false,
            Self::Operation(inbound, _) => inbound.is_unread() || !is_json,
        }
    }

    /// The caller's format, as far as errors go.
    fn protocol(&self) -> Protocol {
        match self {
            Self::Generation(protocol, _) => *protocol,
            Self::Operation(..) => Protocol::Chat,
        }
    }
}

/// See above.
pub(in crate::proxy) struct Incoming {
    decoder: Decoder,
    protocol: Protocol,
    translation: Option<Translation>,
}

/// Boxed: every open stream carries it, and few have one.
enum Translation {
    Stream(Box<translate::Stream>),
    Document(Box<Inbound>),
    Operation(Box<Operation>),
}

/// The answer to an operation.
struct Operation {
    inbound: operations::Inbound,
    /// Looks at what passes.
    tally: Tally,
    /// The request's.
    id: Box<str>,
    /// What a header says.
    input_tokens: Option<u64>,
}

impl Incoming {
    /// `None`: the content coding is not known.
    pub(super) fn new(head: &ResponseHeader, reading: &Reading, is_stream: bool) -> Option<Self> {
        let translation = match reading {
            Reading::Generation(_, None) => None,
            Reading::Generation(_, Some(inbound)) if is_stream => {
                let Inbound { spoken, to, caller, is_same: _ } = inbound.clone();
                Some(Translation::Stream(Box::new(translate::Stream::new(spoken, to, caller))))
            }
            Reading::Generation(_, Some(inbound)) => {
                Some(Translation::Document(Box::new(inbound.clone())))
            }
            Reading::Operation(inbound, id) => Some(Translation::Operation(Box::new(Operation {
                tally: inbound.tally(),
                inbound: (**inbound).clone(),
                id: id.clone(),
                input_tokens: tokens_header(head),
            }))),
        };
        Some(Self { decoder: Decoder::new(head)?, protocol: reading.protocol(), translation })
    }

    /// The caller's format.
    pub(super) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether another format becomes the caller's.
    pub(in crate::proxy) fn translates(&self) -> bool {
        match &self.translation {
            None => false,
            Some(Translation::Operation(operation)) => operation.inbound.needs_whole(),
            Some(_) => true,
        }
    }

    /// Whether the provider may be one that counts no tokens: it answers an operation in a format of its own.
    pub(in crate::proxy) fn is_uncounted(&self) -> bool {
        match &self.translation {
            Some(Translation::Operation(operation)) => operation.inbound.is_foreign(),
            _ => false,
        }
    }

    /// Whether a document that passes must be kept to be read at its end.
    pub(in crate::proxy) fn wants_whole(&self) -> bool {
        !matches!(self.translation, Some(Translation::Operation(_)))
    }

    /// What a document told that passed: it is here again if it was kept.
    pub(in crate::proxy) fn passed(&mut self, whole: Option<&Bytes>) -> Measured {
        match (&mut self.translation, whole) {
            (Some(Translation::Operation(operation)), _) => operation.tally.clone().finish(),
            (_, Some(whole)) => self.document(whole).map(|(_, told)| told).unwrap_or_default(),
            (_, None) => Measured::default(),
        }
    }

    /// What a piece becomes; perhaps nothing yet. A document that is to be translated stays as it is here.
    pub(in crate::proxy) fn read(&mut self, piece: Bytes) -> Result<Bytes, Failure> {
        let plain = self.decoder.decode(piece).ok_or(Failure::Malformed)?;
        Ok(match &mut self.translation {
            Some(Translation::Stream(stream)) => stream.push(plain),
            Some(Translation::Operation(operation)) => {
                operation.tally.feed(&plain);
                plain
            }
            _ => plain,
        })
    }

    /// What is left when the provider has closed the stream.
    pub(in crate::proxy) fn close(&mut self) -> Bytes {
        match &mut self.translation {
            Some(Translation::Stream(stream)) => stream.finish(),
            _ => Bytes::new(),
        }
    }

    /// The provider failed inside a stream that is translated; nothing of it was written.
    pub(in crate::proxy) fn failure(&self) -> Option<&neutral::Failure> {
        match &self.translation {
            Some(Translation::Stream(stream)) => match stream.state() {
                State::Failed(failure) => Some(failure),
                State::Going | State::Ended => None,
            },
            _ => None,
        }
    }

    /// The provider's own counts, where the caller's format cannot say them all; `None`: look at what passes.
    pub(in crate::proxy) fn usage(&self) -> Option<Usage> {
        match &self.translation {
            Some(Translation::Stream(stream)) => stream.usage().map(Usage::from),
            _ => None,
        }
    }

    /// What a whole document becomes, and what it tells. `None`: it passes as it is.
    ///
    /// # Errors
    /// It is no answer, or says itself that it is none.
    pub(super) fn document(&self, whole: &Bytes) -> Result<(Option<Bytes>, Measured), NoAnswer> {
        if let Some(Translation::Operation(operation)) = &self.translation {
            let told = operations::Told { id: &operation.id, input_tokens: operation.input_tokens };
            let answered = operation.inbound.answer(whole, &told);
            let answered = answered.map_err(|failure| NoAnswer(Some(failure)))?;
            return Ok((answered.body, answered.measured));
        }
        if let Some(Translation::Document(inbound)) = &self.translation
            && (!inbound.is_same || translate::may_have_tags(whole))
        {
            let answered = translate::answer(inbound.spoken, inbound.to, whole, &inbound.caller);
            let answered = answered.map_err(|failure| NoAnswer(Some(failure)))?;
            let told = Measured { usage: answered.usage.map(Usage::from), images: None };
            return Ok((Some(answered.body), told));
        }
        match meter::read_reply(self.protocol, whole) {
            Reply::Completion(usage) => Ok((None, Measured { usage, images: None })),
            Reply::NotACompletion => Err(NoAnswer(None)),
        }
    }
}

/// How many tokens went in, where a header says it.
fn tokens_header(head: &ResponseHeader) -> Option<u64> {
    head.headers.get(operations::Inbound::TOKENS_HEADER)?.to_str().ok()?.parse().ok()
}

/// A document that is not what was asked for; with what it says of that.
pub(in crate::proxy) struct NoAnswer(pub(super) Option<neutral::Failure>);

/// Takes a content coding off. Providers are asked for none; some send one all the same, and the meter and the caller
/// need plain bytes.
enum Decoder {
    /// No coding: pieces pass as they are.
    Plain,
    /// `gzip`.
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    /// `deflate`.
    Deflate(Box<ZlibDecoder<Vec<u8>>>),
}

impl Decoder {
    fn new(head: &ResponseHeader) -> Option<Self> {
        let Some(coding) = head.headers.get(CONTENT_ENCODING) else { return Some(Self::Plain) };
        match coding.as_bytes().to_ascii_lowercase().as_slice() {
            b"identity" | b"" => Some(Self::Plain),
            b"gzip" | b"x-gzip" => Some(Self::Gzip(Box::new(MultiGzDecoder::new(Vec::new())))),
            b"deflate" => Some(Self::Deflate(Box::new(ZlibDecoder::new(Vec::new())))),
            _ => None,
        }
    }

    /// The plain bytes of a piece; `None` when it is corrupt.
    fn decode(&mut self, piece: Bytes) -> Option<Bytes> {
        match self {
            Self::Plain => Some(piece),
            Self::Gzip(decoder) => {
                decoder.write_all(&piece).and_then(|()| decoder.flush()).ok()?;
                Some(std::mem::take(decoder.get_mut()).into())
            }
            Self::Deflate(decoder) => {
                decoder.write_all(&piece).and_then(|()| decoder.flush()).ok()?;
                Some(std::mem::take(decoder.get_mut()).into())
            }
        }
    }
}
