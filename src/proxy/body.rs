//! Reads the request body once, within its limits, and keeps it for every attempt.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use otari_filters::rejection::{Code, Rejection};
use otari_filters::validate;
use pingora_core::prelude::{Error, Result};
use pingora_core::protocols::http::ServerSession as HttpSession;
use pingora_proxy::Session;

use crate::config::Limits;

/// Room made at once for a body that does not say its length.
const FIRST_GUESS: usize = 64 << 10;
/// Room made at once for one that does.
const MOST_AT_ONCE: usize = 4 << 20;

/// Why there is no body.
pub(super) enum NoBody {
    /// It is over a limit; the caller is told.
    Refused(Rejection),
    /// The caller is gone.
    Gone(Box<Error>),
}

/// Until a body is held to the least pace, because networks stall.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a body comes in: all of it within its time, and never much slower than the least pace. A caller who sends a byte
/// now and then must not hold memory for ever.
pub(super) struct Progress {
    began: Instant,
    within: Duration,
    /// Bytes a second; 0: any.
    pace: u32,
    bytes: u64,
}

impl Progress {
    /// Nothing has come.
    pub(super) fn new(within: Duration, limits: &Limits) -> Self {
        Self { began: Instant::now(), within, pace: limits.request_body_min_bytes_per_s, bytes: 0 }
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self, s: &mut HttpSession) -> Result<Option<Bytes>, NoBody> {
        let by_pace = time_for(self.bytes, self.pace).unwrap_or(self.within);
        let until = self.began + self.within.min(by_pace);
        let read = tokio::time::timeout_at(until.into(), s.read_request_body()).await;
        match read {
            Ok(Ok(piece)) => {
                self.bytes += piece.as_ref().map_or(0, |piece| piece.len() as u64);
                Ok(piece)
            }
            Ok(Err(error)) => Err(NoBody::Gone(error)),
            Err(_) => Err(NoBody::Refused(self.too_slow(by_pace < self.within))),
        }
    }

    fn too_slow(&self, is_pace: bool) -> Rejection {
        if is_pace {
            return below(self.pace);
        }
        let message = format!(
            "The request body did not arrive within {} s (request_body_timeout_s)",
            self.within.as_secs()
        );
        Rejection::new(Code::BodyTimeout, message)
    }
}

/// How long so much of a body may take, and no more of it be here; `None`: any pace will do.
pub(super) fn time_for(bytes: u64, pace: u32) -> Option<Duration> {
    (pace > 0).then(|| PATIENCE + Duration::from_secs_f64(bytes as f64 / f64::from(pace)))
}

/// Why a body below the least pace is refused.
pub(super) fn below(pace: u32) -> Rejection {
    let message = format!(
        "The request body came in slower than {pace} bytes a second (request_body_min_bytes_per_s)"
    );
    Rejection::new(Code::BodyTimeout, message)
}

/// The whole body.
pub(super) async fn read(s: &mut Session, limits: &Limits) -> Result<Bytes, NoBody> {
    let limit = limits.max_request_bytes;
    let s = &mut s.downstream_session;
    if s.is_body_empty() {
        return Ok(Bytes::new());
    }
    let declared: Option<usize> =
        s.get_header(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length| length > limit) {
        return Err(NoBody::Refused(too_large(limit)));
    }
    go_on(s).await.map_err(NoBody::Gone)?;
    let mut progress = Progress::new(limits.request_body_timeout, limits);
    let Some(first) = progress.next(s).await? else {
        return Ok(Bytes::new());
    };
    // Most requests arrive in one piece, which needs no copy.
    if declared == Some(first.len()) {
        return Ok(first);
    }
    // What is declared need not come: room is made as it does.
    let mut all = BytesMut::with_capacity(declared.unwrap_or(FIRST_GUESS).min(MOST_AT_ONCE));
    all.extend_from_slice(&first);
    while let Some(piece) = progress.next(s).await? {
        if all.len() + piece.len() > limit {
            return Err(NoBody::Refused(too_large(limit)));
        }
        all.extend_from_slice(&piece);
    }
    if all.len() > limit {
        return Err(NoBody::Refused(too_large(limit)));
    }
    Ok(all.freeze())
}

/// Refuses a body that is not declared to be JSON: the reference does not look into those either.
pub(super) fn check_type(s: &Session, body: &Bytes) -> Result<(), Rejection> {
    let kind = s.get_header(CONTENT_TYPE).map(|value| value.as_bytes());
    if body.is_empty() || validate::is_json_type(kind) {
        return Ok(());
    }
    Err(validate::not_declared_json(body))
}

/// Tells a caller who waits for it to send the body.
pub(super) async fn go_on(s: &mut HttpSession) -> Result<()> {
    let expects = s
        .get_header(EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if expects {
        // Nobody else does it once the body is ours, and curl would wait a second for it.
        s.write_continue_response().await?;
    }
    Ok(())
}

fn too_large(limit: usize) -> Rejection {
    let message =
        format!("The request body is over the limit of {limit} bytes (max_request_bytes)");
    Rejection::new(Code::BodyTooLarge, message)
}
