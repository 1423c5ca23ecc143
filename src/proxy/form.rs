//! Reads a form that a caller uploads, part by part, within its limits: a file in it is never in memory.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use multer::{Constraints, Field, Multipart, SizeLimit};
use otari_filters::rejection::{Code, Rejection};
use parking_lot::Mutex;
use pingora_core::prelude::Error;
use pingora_proxy::Session;

use crate::proxy::call::Stop;

/// What a form may have beside its file: boundaries, headers of its parts, fields.
const MAX_BESIDE: u64 = 1 << 20;
/// The longest value of a field.
const MAX_FIELD: u64 = 256 << 10;

/// The limits of one form.
#[derive(Clone, Copy, Debug)]
pub(super) struct FormLimits {
    /// Of its file, in bytes; the one who takes the file says what is told beyond it.
    pub(super) file_bytes: u64,
    /// Silence of the caller.
    pub(super) idle: Duration,
}

/// The parts of the body; `None`: it is no form.
///
/// # Errors
/// The caller is gone.
pub(super) async fn open(
    s: &mut Session,
    limits: FormLimits,
) -> Result<Option<Multipart<'_>>, Stop> {
    let s = &mut s.downstream_session;
    let kind = s.get_header(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let Ok(boundary) = multer::parse_boundary(kind) else { return Ok(None) };
    let most = limits.file_bytes.saturating_add(MAX_BESIDE);
    let declared: Option<u64> =
        s.get_header(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length| length > most) {
        return Err(too_large(limits).into());
    }
    let expects = s
        .get_header(EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if expects {
        // Nobody else does it once the body is ours, and curl would wait a second for it.
        s.write_continue_response().await.map_err(|error| Stop::Broken(error.into_down()))?;
    }
    let sizes = SizeLimit::new().whole_stream(most).per_field(most);
    let constraints = Constraints::new().size_limit(sizes);
    Ok(Some(Multipart::with_constraints(pieces(s, limits.idle), boundary, constraints)))
}

fn pieces(
    s: &mut pingora_core::protocols::http::ServerSession,
    idle: Duration,
) -> impl Stream<Item = Result<Bytes, Interrupted>> {
    stream::unfold(Some(s), move |s| async move {
        let s = s?;
        match tokio::time::timeout(idle, s.read_request_body()).await {
            Ok(Ok(Some(piece))) => Some((Ok(piece), Some(s))),
            Ok(Ok(None)) => None,
            Ok(Err(error)) => Some((Err(Interrupted::gone(error)), None)),
            Err(_) => Some((Err(Interrupted::Silent(idle)), None)),
        }
    })
}

/// The text of a field.
///
/// # Errors
/// It is longer than any that is meant, or the form broke off.
pub(super) async fn text(mut field: Field<'_>, limits: FormLimits) -> Result<String, Stop> {
    let mut text = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(|error| broken(&error, limits))? {
        if (text.len() + piece.len()) as u64 > MAX_FIELD {
            let name = field.name().unwrap_or_default().to_owned();
            let message = format!("The form's field '{name}' is longer than {MAX_FIELD} bytes");
            return Err(Rejection::new(Code::BodyTooLarge, message).into());
        }
        text.extend_from_slice(&piece);
    }
    String::from_utf8(text).map_err(|_| {
        Rejection::new(Code::InvalidValue, "A field of the form is not UTF-8 text").into()
    })
}

/// What a form that cannot be read to its end means.
pub(super) fn broken(error: &multer::Error, limits: FormLimits) -> Stop {
    match error {
        multer::Error::StreamReadFailed(cause) => match cause.downcast_ref::<Interrupted>() {
            Some(Interrupted::Gone(gone)) => match gone.lock().take() {
                Some(gone) => Stop::Broken(gone.into_down()),
                None => Rejection::internal("an interruption was told twice").into(),
            },
            Some(Interrupted::Silent(idle)) => {
                let message = format!(
                    "The upload stood still for {} s (request_body_timeout_s)",
                    idle.as_secs()
                );
                Rejection::new(Code::BodyTimeout, message).into()
            }
            None => Rejection::internal("a form was interrupted by nobody").into(),
        },
        multer::Error::StreamSizeExceeded { .. } | multer::Error::FieldSizeExceeded { .. } => {
            too_large(limits).into()
        }
        error => {
            let message = format!("The form cannot be read: {error}");
            Rejection::new(Code::InvalidValue, message).into()
        }
    }
}

fn too_large(limits: FormLimits) -> Rejection {
    let message = format!("File exceeds maximum upload size of {} MB", limits.file_bytes >> 20);
    Rejection::new(Code::BodyTooLarge, message)
}

/// Why no more pieces come.
enum Interrupted {
    Gone(Mutex<Option<Box<Error>>>),
    Silent(Duration),
}

impl Interrupted {
    fn gone(error: Box<Error>) -> Self {
        Self::Gone(Mutex::new(Some(error)))
    }
}

impl fmt::Debug for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone(_) => "the caller left",
            Self::Silent(_) => "the upload stood still",
        })
    }
}

impl std::error::Error for Interrupted {}
