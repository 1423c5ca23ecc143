//! Reads the request body once, within its limits, and keeps it for every attempt.

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

/// Why there is no body.
pub(super) enum NoBody {
    /// It is over a limit; the caller is told.
    Refused(Rejection),
    /// The caller is gone.
    Gone(Box<Error>),
}

/// The whole body.
///
/// One deadline covers all of it: a caller who sends a byte now and then must not hold memory for ever.
pub(super) async fn read(s: &mut Session, limits: &Limits) -> Result<Bytes, NoBody> {
    match tokio::time::timeout(limits.request_body_timeout, read_all(s, limits.max_request_bytes))
        .await
    {
        Ok(done) => done,
        Err(_) => {
            let message = format!(
                "The request body did not arrive within {} s (request_body_timeout_s)",
                limits.request_body_timeout.as_secs()
            );
            Err(NoBody::Refused(Rejection::new(Code::BodyTimeout, message)))
        }
    }
}

/// Refuses a body that is not declared to be JSON: the reference does not look into those either.
pub(super) fn check_type(s: &Session, body: &Bytes) -> Result<(), Rejection> {
    let kind = s.get_header(CONTENT_TYPE).map(|value| value.as_bytes());
    if body.is_empty() || validate::is_json_type(kind) {
        return Ok(());
    }
    Err(validate::not_declared_json(body))
}

async fn read_all(s: &mut Session, limit: usize) -> Result<Bytes, NoBody> {
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
    let Some(first) = s.read_request_body().await.map_err(NoBody::Gone)? else {
        return Ok(Bytes::new());
    };
    // Most requests arrive in one piece, which needs no copy.
    if declared == Some(first.len()) {
        return Ok(first);
    }
    let mut all = BytesMut::with_capacity(declared.unwrap_or(FIRST_GUESS).min(limit));
    all.extend_from_slice(&first);
    while let Some(piece) = s.read_request_body().await.map_err(NoBody::Gone)? {
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
