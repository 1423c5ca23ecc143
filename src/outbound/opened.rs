//! An answer that has begun, and its pieces.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use reqwest::Response;
use tokio::time::{Instant, timeout_at};

use super::{Answer, Error};

/// Silence between two pieces of an answer.
const SILENCE: Duration = Duration::from_secs(60);
/// Room made at once for an answer that says its length; what says more gets it as it comes.
const FIRST_ROOM: usize = 1 << 20;

/// An answer whose body is still to come, whatever its status.
#[derive(Debug)]
pub struct Opened {
    /// HTTP status; redirects are not followed and come as they are.
    pub status: u16,
    /// As they came.
    pub headers: HeaderMap,
    /// The body. Dropping it ends the call.
    pub body: Pieces,
}

impl Opened {
    pub(super) fn new(mut response: Response, until: Instant, max_bytes: usize) -> Self {
        let status = response.status().as_u16();
        let headers = std::mem::take(response.headers_mut());
        let length = response.content_length();
        Self { status, headers, body: Pieces { response, until, length, max_bytes, read: 0 } }
    }

    /// Reads the rest of it.
    ///
    /// # Errors
    /// When it does not come to its end in time and within the bound.
    pub async fn whole(mut self) -> Result<Answer, Error> {
        let room = self.body.length.and_then(|length| usize::try_from(length).ok());
        let mut body = BytesMut::with_capacity(room.unwrap_or(0).min(FIRST_ROOM));
        while let Some(piece) = self.body.next().await? {
            body.extend_from_slice(&piece);
        }
        Ok(Answer { status: self.status, headers: self.headers, body: body.freeze() })
    }
}

/// The body of an answer, piece by piece.
#[derive(Debug)]
pub struct Pieces {
    response: Response,
    until: Instant,
    length: Option<u64>,
    max_bytes: usize,
    read: usize,
}

impl Pieces {
    /// How long it is, in bytes, where the answer says so.
    pub fn len(&self) -> Option<u64> {
        self.length
    }

    /// Whether it is known to have no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == Some(0)
    }

    /// The next piece; `None` at the end. Waits a minute at most, and not beyond the time that the call has.
    ///
    /// # Errors
    /// `Timeout`, `Broken`, `TooLarge`. Nothing comes after it.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let too_large = Error::TooLarge(self.max_bytes);
        let max = u64::try_from(self.max_bytes).unwrap_or(u64::MAX);
        if self.length.is_some_and(|length| length > max) {
            return Err(too_large);
        }
        let until = self.until.min(Instant::now() + SILENCE);
        let piece = timeout_at(until, self.response.chunk()).await.map_err(|_| Error::Timeout)?;
        let piece = piece.map_err(|error| Error::of(&error))?;
        self.read += piece.as_ref().map_or(0, Bytes::len);
        if self.read > self.max_bytes { Err(too_large) } else { Ok(piece) }
    }
}
