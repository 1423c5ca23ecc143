//! What a provider's bytes pass before anything looks at them: a content coding comes off, and another format becomes
//! the caller's. Behind this everything, meter and relay, knows the caller's format alone.

use std::io::Write as _;

use bytes::Bytes;
use flate2::write::{MultiGzDecoder, ZlibDecoder};
use http::header::CONTENT_ENCODING;
use otari_filters::meter::Usage;
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

/// See above.
pub(in crate::proxy) struct Incoming {
    decoder: Decoder,
    translation: Option<Translation>,
}

/// Boxed: every open stream carries it, and few have one.
enum Translation {
    Stream(Box<translate::Stream>),
    Document(Box<Inbound>),
}

impl Incoming {
    /// `None`: the content coding is not known.
    pub(super) fn new(
        head: &ResponseHeader,
        inbound: Option<&Inbound>,
        is_stream: bool,
    ) -> Option<Self> {
        let translation = inbound.cloned().map(|inbound| {
            if is_stream {
                let Inbound { spoken, to, caller, is_same: _ } = inbound;
                Translation::Stream(Box::new(translate::Stream::new(spoken, to, caller)))
            } else {
                Translation::Document(Box::new(inbound))
            }
        });
        Some(Self { decoder: Decoder::new(head)?, translation })
    }

    /// Whether another format becomes the caller's.
    pub(in crate::proxy) fn translates(&self) -> bool {
        self.translation.is_some()
    }

    /// What a piece becomes; perhaps nothing yet. A document that is to be translated stays as it is here.
    pub(in crate::proxy) fn read(&mut self, piece: Bytes) -> Result<Bytes, Failure> {
        let plain = self.decoder.decode(piece).ok_or(Failure::Malformed)?;
        Ok(match &mut self.translation {
            Some(Translation::Stream(stream)) => stream.push(plain),
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

    /// What a whole document becomes, with the provider's counts; `None`: it passes as it is.
    pub(super) fn document(
        &self,
        whole: &[u8],
    ) -> Option<Result<(Bytes, Option<Usage>), neutral::Failure>> {
        let Some(Translation::Document(inbound)) = &self.translation else { return None };
        if inbound.is_same && !translate::may_have_tags(whole) {
            return None;
        }
        let answered = translate::answer(inbound.spoken, inbound.to, whole, &inbound.caller);
        Some(answered.map(|answered| (answered.body, answered.usage.map(Usage::from))))
    }
}

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
