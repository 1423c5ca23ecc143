//! Bytes of files in and out: uploads go on to their place as they come, downloads as they are read.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, IF_RANGE, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use otari_filters::authenticate;
use otari_filters::control::Caller;
use otari_filters::files::{self as rules, Wanted};
use otari_filters::rejection::{Code, Rejection};
use pingora_core::prelude::{Error, ErrorType};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use serde_json::{Map, Value};

use crate::api;
use crate::api::files as about;
use crate::app::{App, Mode, Standalone};
use crate::files::{self, FilesError, NewFile, Reading, Upload};
use crate::proxy::call::Stop;
use crate::proxy::form::{Bounds, Form, Part};
use crate::proxy::reply::{self, JSON, Reply};
use crate::proxy::{RequestContext, admission};
use crate::routes::{Handler, Route};
use crate::store::FileRow;

/// Of a form beside the file: boundaries, heads and the other fields.
const FORM_ROOM: u64 = 1 << 20;
/// A field that holds text; a user's name is the longest.
const FIELD: usize = 8 << 10;

fn standalone(app: &App) -> Result<&Arc<Standalone>, Rejection> {
    match &app.mode {
        Mode::Standalone(standalone) => Ok(standalone),
        Mode::Connected(_) => Err(Rejection::internal("a route of the other mode was found")),
    }
}

/// Whether a HEAD is more than a question for the route: with a credential it is one for the file.
pub(super) fn answers_head(s: &Session, route: &Route) -> bool {
    route.handler == Handler::FileContent
        && authenticate::credential(&s.req_header().headers).is_ok()
}

/// What of the form is here.
#[derive(Default)]
struct Received<'a> {
    upload: Option<Upload<'a>>,
    filename: Option<String>,
    mime_type: Option<String>,
    fields: Map<String, Value>,
}

/// `POST /v1/files`.
pub(super) async fn upload(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
) -> Result<(), Stop> {
    let standalone = standalone(app)?;
    let max_bytes = standalone.files.max_bytes().map_err(Rejection::from)?;
    if let Some(Caller::Key { .. }) = &ctx.caller {
        // Known before the bytes are here. The master key says whose they are with them.
        let owner = about::owner(standalone, ctx.caller.as_ref(), None)?;
        refuse_blocked(standalone, &owner)?;
        ctx.user_id = Some(owner);
    }
    let limits = app.live().limits.clone();
    let bounds = Bounds {
        max_bytes: max_bytes.saturating_add(FORM_ROOM),
        silence: limits.request_body_timeout,
        pace: limits.request_body_min_bytes_per_s,
        deadline: ctx.started + limits.request_timeout,
    };
    let mut received = Received::default();
    let taken = match Form::open(s, bounds).await {
        Ok(Some(form)) => receive(standalone, s, form, &mut received).await,
        Ok(None) => Ok(()),
        Err(stop) => Err(stop),
    };
    let stored = match taken {
        Ok(()) => store(standalone, ctx, &mut received).await,
        Err(stop) => Err(stop),
    };
    // Whatever went wrong, nothing is left of it before the caller hears so.
    if let Some(upload) = received.upload.take() {
        upload.discard().await;
    }
    let answer = about::shown(stored.map_err(|stop| sized(stop, max_bytes))?)?;
    Ok(reply::write(s, ctx, Reply::new(StatusCode::OK, JSON, answer.body)).await?)
}

/// The form's own limit is that of the file, and is said as such.
fn sized(stop: Stop, max_bytes: u64) -> Stop {
    match stop {
        Stop::Refused(refused) if refused.code == Code::BodyTooLarge => {
            Rejection::from(FilesError::TooLarge { limit: max_bytes }).into()
        }
        other => other,
    }
}

fn refuse_blocked(standalone: &Standalone, owner: &str) -> Result<(), Rejection> {
    match standalone.local.ledger.admit(owner) {
        // One that is new on another gateway is not known here; the database will say.
        Err(refused) if refused.code == Code::UserBlocked => Err(refused),
        _ => Ok(()),
    }
}

/// Reads the whole form; the file goes on as it comes.
async fn receive<'a>(
    standalone: &'a Standalone,
    s: &mut Session,
    mut form: Form,
    received: &mut Received<'a>,
) -> Result<(), Stop> {
    while let Some(part) = form.next(s).await? {
        if part.name == "file" {
            let upload = begin_file(standalone, &part, received).await?;
            while let Some(piece) = form.chunk(s).await? {
                upload.write(piece).await.map_err(Rejection::from)?;
            }
        } else if about::FORM_FIELDS.contains(&part.name.as_str()) {
            let text = form.text(s, FIELD).await?;
            received.fields.insert(part.name, text.into());
        } else {
            form.skip(s).await?;
        }
    }
    Ok(())
}

/// The head of the file is here.
async fn begin_file<'a, 'b>(
    standalone: &'a Standalone,
    part: &Part,
    received: &'b mut Received<'a>,
) -> Result<&'b mut Upload<'a>, Rejection> {
    if received.upload.is_some() {
        let message = "The form has two fields 'file': upload one file at a time";
        return Err(Rejection::new(Code::InvalidValue, message));
    }
    received.filename = rules::name(part.filename.as_deref()).map_err(|_| {
        let message = format!("The file's name is longer than {} bytes", rules::MAX_NAME);
        Rejection::new(Code::InvalidValue, message)
    })?;
    received.mime_type = part.content_type.clone();
    let upload = standalone.files.begin().await.map_err(Rejection::from)?;
    Ok(received.upload.insert(upload))
}

/// Makes a file of what is here.
async fn store(
    standalone: &Standalone,
    ctx: &mut RequestContext,
    received: &mut Received<'_>,
) -> Result<FileRow, Stop> {
    let form = about::read_form(&received.fields, received.upload.is_some())?;
    let owner = about::owner(standalone, ctx.caller.as_ref(), form.user.as_deref())?;
    ctx.user_id = Some(owner.clone());
    refuse_blocked(standalone, &owner)?;
    let upload = received.upload.take().ok_or_else(|| Rejection::internal("no file"))?;
    let new = NewFile {
        user_id: &owner,
        filename: received.filename.as_deref(),
        mime_type: received.mime_type.as_deref(),
        purpose: &form.purpose,
        expires_after: form.expires_after,
    };
    Ok(upload.finish(new).await.map_err(Rejection::from)?)
}

/// `GET /v1/files/{id}/content`.
pub(super) async fn content(
    app: &Arc<App>,
    s: &mut Session,
    ctx: &mut RequestContext,
    id: Option<&str>,
) -> Result<(), Stop> {
    let standalone = standalone(app)?;
    let id = about::id(id.unwrap_or_default())?;
    standalone.files.max_bytes().map_err(Rejection::from)?;
    let head = s.req_header();
    let query = head.uri.query().unwrap_or_default();
    let (caller, body) = (ctx.caller.as_ref(), &Bytes::new());
    let request = api::Request {
        id: None,
        query,
        body,
        headers: &head.headers,
        caller,
        address: admission::address(app, s),
        request_id: &ctx.id,
    };
    let owner = about::owner_of(standalone, request)?;
    ctx.user_id = Some(owner.clone());
    let found = standalone.files.find(Some(&owner), &id).await.map_err(Rejection::from)?;
    let file = found.ok_or_else(about::not_found)?;
    let length = u64::try_from(file.bytes).unwrap_or(0);
    let (status, part) = match wanted(s, &file, length) {
        None => return not_modified(s, ctx, &file).await,
        Some(Wanted::Whole) => (StatusCode::OK, 0..length),
        Some(Wanted::Part(part)) => (StatusCode::PARTIAL_CONTENT, part),
        Some(Wanted::Beyond) => return Err(beyond(length).into()),
    };
    let answer = header(ctx, &file, status, &part, length);
    if s.req_header().method == Method::HEAD {
        ctx.outcome.status = status.as_u16();
        return Ok(s.write_response_header(answer, true).await?);
    }
    let reading = standalone.files.open(&file, part).await.map_err(Rejection::from)?;
    ctx.outcome.status = status.as_u16();
    s.write_response_header(answer, false).await?;
    let left = (ctx.started + app.live().limits.request_timeout) - Instant::now();
    match tokio::time::timeout(left, pass(standalone, s, reading)).await {
        Ok(passed) => passed,
        Err(_) => Err(broken("the download took longer than request_timeout_s allows")),
    }
}

/// What is asked for; `None`: nothing, the caller has it.
fn wanted(s: &Session, file: &FileRow, length: u64) -> Option<Wanted> {
    let etag = files::etag(file);
    let header = |name| s.get_header(name).map(HeaderValue::as_bytes);
    if let (Some(known), Some(etag)) = (header(IF_NONE_MATCH), &etag)
        && rules::is_known(known, etag)
    {
        return None;
    }
    // A part of other bytes than the caller has is of no use to it.
    let has_other =
        header(IF_RANGE).is_some_and(|has| etag.as_ref().is_none_or(|etag| etag.as_bytes() != has));
    Some(rules::range(header(RANGE).filter(|_| !has_other), length))
}

fn beyond(length: u64) -> Rejection {
    let message = format!("The file has {length} bytes, and none in that range");
    let mut refused = Rejection::new(Code::RangeNotSatisfiable, message);
    if let Ok(range) = HeaderValue::from_str(&format!("bytes */{length}")) {
        refused.headers.push((CONTENT_RANGE, range));
    }
    refused
}

async fn not_modified(
    s: &mut Session,
    ctx: &mut RequestContext,
    file: &FileRow,
) -> Result<(), Stop> {
    let mut answer = Reply::new(StatusCode::NOT_MODIFIED, JSON, "");
    answer.headers.extend(tag(file));
    Ok(reply::write(s, ctx, answer).await?)
}

fn tag(file: &FileRow) -> Option<(HeaderName, HeaderValue)> {
    Some((ETAG, HeaderValue::from_str(&files::etag(file)?).ok()?))
}

fn header(
    ctx: &RequestContext,
    file: &FileRow,
    status: StatusCode,
    part: &Range<u64>,
    length: u64,
) -> Box<ResponseHeader> {
    let mut headers = HeaderMap::with_capacity(24);
    reply::common(&mut headers, ctx, false);
    // A row of the reference may hold anything.
    let bytes = || HeaderValue::from_static("application/octet-stream");
    let kind = HeaderValue::from_str(&file.mime_type).unwrap_or_else(|_| bytes());
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CONTENT_LENGTH, (part.end - part.start).into());
    if let Ok(name) = HeaderValue::try_from(rules::disposition(&file.filename)) {
        headers.insert(CONTENT_DISPOSITION, name);
    }
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if status == StatusCode::PARTIAL_CONTENT {
        let last = part.end.saturating_sub(1);
        let range = format!("bytes {}-{last}/{length}", part.start);
        headers.insert(CONTENT_RANGE, HeaderValue::from_str(&range).expect("digits"));
    }
    headers.extend(tag(file));
    reply::head(status, headers)
}

/// Passes the bytes on: the next piece is read when the last one has gone.
async fn pass(standalone: &Standalone, s: &mut Session, mut reading: Reading) -> Result<(), Stop> {
    loop {
        let piece = reading.next().await.map_err(|error| broken(&error.to_string()))?;
        let Some(piece) = piece else { break };
        let length = piece.len() as u64;
        s.write_response_body(Some(piece), false).await?;
        standalone.files.sent(length);
    }
    Ok(s.write_response_body(None, true).await?)
}

/// The answer has begun: all that is left is to cut it off, so that nobody takes it for whole.
fn broken(why: &str) -> Stop {
    Stop::Broken(Error::explain(ErrorType::InternalError, why.to_owned()))
}
