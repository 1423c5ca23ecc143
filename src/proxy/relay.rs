//! The committed answer, piece by piece: joined, metered, recorded before its last byte, ended.

mod json;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use otari_filters::guardrails;
use otari_filters::settle::Cost;
use pingora_core::prelude::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::app::App;
use crate::config::Secret;
use crate::proxy::RequestContext;
use crate::proxy::call::{Call, Stop};
use crate::proxy::exchange::{self, Answer, Watch};
use crate::proxy::reply;
use crate::proxy::tools::Tools;

/// Pieces are joined up to this size.
const JOIN_BELOW: usize = 16 << 10;
/// In debug builds a provider's answer with this header makes the gateway panic: the only way for a test to see, from
/// outside, that a panic settles its request too.
const PANIC_HEADER: &str = "otari-test-panic";
/// And with this one a worker does nothing for so many milliseconds, as one that hangs.
const STALL_HEADER: &str = "otari-test-stall";

/// An answer on its way: whose it is, what it answers, and what every wait of it watches.
pub(super) struct Relay<'a> {
    pub(super) app: &'a Arc<App>,
    pub(super) s: &'a mut Session,
    pub(super) ctx: &'a mut RequestContext,
    pub(super) call: &'a mut Call,
    pub(super) watch: &'a mut Watch,
}

impl Relay<'_> {
    /// Passes the answer on.
    pub(super) async fn run(mut self, answer: Box<Answer>) -> Result<(), Stop> {
        self.begin(&answer);
        if answer.is_stream {
            stream::run(&mut self, answer).await
        } else {
            json::run(&mut self, answer).await
        }
    }

    /// Asks on until the answer is the caller's, and passes it on.
    pub(super) async fn run_rounds(
        mut self,
        answer: Box<Answer>,
        tools: &Tools,
    ) -> Result<(), Stop> {
        self.begin(&answer);
        self.call.lock_in();
        if answer.is_stream {
            stream::run_rounds(&mut self, answer, tools).await
        } else {
            json::run_rounds(&mut self, answer, tools).await
        }
    }

    /// The first answer is here.
    fn begin(&mut self, answer: &Answer) {
        let first_byte = self.ctx.started.elapsed();
        self.ctx.outcome.first_byte_ms = u32::try_from(first_byte.as_millis()).ok();
        self.app.metrics.first_byte(first_byte);
        if cfg!(debug_assertions)
            && let Some(head) = answer.up.response_header()
        {
            self.fail_as_asked(head);
        }
        self.ctx.attempt_id = self.call.attempt().id.clone();
    }

    /// What tests ask for, in debug builds.
    fn fail_as_asked(&self, head: &ResponseHeader) {
        if let Some(stall) = head.headers.get(STALL_HEADER) {
            let ms = stall.to_str().ok().and_then(|ms| ms.parse().ok()).unwrap_or(0);
            std::thread::sleep(Duration::from_millis(ms));
        }
        match head.headers.get(PANIC_HEADER).map(HeaderValue::as_bytes) {
            // As a library might: whatever it has in its hands goes into the message.
            Some(b"secrets") => {
                let config = &self.app.config;
                let keys = config.providers.iter().filter_map(|provider| provider.api_key.as_ref());
                let keys: Vec<&str> = keys.chain(&config.master_key).map(Secret::expose).collect();
                panic!("asked for by a test: {:?} {keys:?}", self.s.req_header().headers)
            }
            Some(_) => panic!("asked for by a test"),
            None => {}
        }
    }

    /// Asks the attempt that has answered once more.
    async fn ask(&mut self) -> Result<Box<Answer>, Stop> {
        exchange::run(self.app, self.s, self.ctx, self.call, self.watch).await
    }

    /// Gives the provider's connection back; `is_whole`: its answer has been read to the end.
    async fn give_back(&self, answer: Box<Answer>, is_whole: bool) {
        let is_whole = is_whole && !answer.is_early;
        exchange::give_back(self.app, answer.up, &answer.peer, is_whole).await;
    }
}

/// Counts how an answer got on with its cost. `cost`: what the platform said in time; `None`: nothing in time.
fn count_settlement(app: &App, cost: Option<&Option<Cost>>, is_attached: bool) {
    app.metrics.settled(match cost {
        None => "timeout",
        Some(_) if is_attached => "attached",
        Some(_) => "unattached",
    });
}

/// How long an answer waits for its cost.
fn settlement_timeout(app: &App) -> Duration {
    app.config.platform.as_ref().map_or(Duration::ZERO, |platform| platform.usage_inline_timeout)
}

/// Small pieces as one, because each would be a write of its own; large ones stay as they are.
fn join_small(pieces: Vec<Bytes>) -> Vec<Bytes> {
    if pieces.len() < 2 || pieces.iter().map(Bytes::len).sum::<usize>() > JOIN_BELOW {
        return pieces;
    }
    vec![pieces.concat().into()]
}

/// Beginnings of names: a provider's organisation, request ids and limits are the operator's, not the caller's, and which
/// browsers may call is for us to say.
const THEIR_OWN: [&str; 9] = [
    "openai-",
    "anthropic-",
    "x-amzn-",
    "x-goog-",
    "x-ms-",
    "apim-",
    "x-ratelimit-",
    "cf-",
    "access-control-",
];

/// Headers of a provider that are its own affair: of its connection, of itself, or what a browser would take for ours.
fn is_theirs(name: &str) -> bool {
    matches!(
        name,
        "alt-svc"
            | "clear-site-data"
            | "connection"
            | "content-encoding"
            | "date"
            | "keep-alive"
            | "nel"
            | "proxy-authenticate"
            | "proxy-connection"
            | "report-to"
            | "request-id"
            | "server"
            | "set-cookie"
            | "set-cookie2"
            | "strict-transport-security"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "via"
            | "x-request-id"
    ) || THEIR_OWN.iter().any(|beginning| name.starts_with(beginning))
}

static PROVIDER: HeaderName = HeaderName::from_static("otari-provider");
static ATTEMPT_IDS: [HeaderName; 2] =
    [HeaderName::from_static("x-correlation-id"), HeaderName::from_static("otari-attempt-id")];
static PLAN_ID: HeaderName = HeaderName::from_static("x-otari-request-id");
static ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The caller's header: the provider's, without what is its own affair, with ours.
fn header(
    answer: &Answer,
    ctx: &RequestContext,
    call: &Call,
    content_length: Option<usize>,
) -> Box<ResponseHeader> {
    let theirs = answer.up.response_header();
    let status = theirs.map_or(StatusCode::OK, |head| head.status);
    let mut headers = HeaderMap::with_capacity(32);
    for (name, value) in theirs.iter().flat_map(|head| &head.headers) {
        let is_ours = name == CONTENT_TYPE && answer.incoming.translates();
        if !is_theirs(name.as_str()) && name != CONTENT_LENGTH && !is_ours {
            headers.append(name.clone(), value.clone());
        }
    }
    reply::common(&mut headers, ctx, false);
    reply::quota(&mut headers, ctx);
    if let Some(provider) = &ctx.outcome.provider
        && let Ok(value) = HeaderValue::from_str(provider)
    {
        headers.insert(&PROVIDER, value);
    }
    let [of_attempt, of_plan] = [&ctx.attempt_id, &ctx.plan_id]
        .map(|id| id.as_deref().and_then(|id| HeaderValue::from_str(id).ok()));
    if let Some(value) = of_attempt {
        for name in &ATTEMPT_IDS {
            headers.insert(name, value.clone());
        }
    }
    if let Some(value) = of_plan {
        headers.insert(&PLAN_ID, value);
    }
    if answer.incoming.translates() {
        let kind = if answer.is_stream { "text/event-stream; charset=utf-8" } else { reply::JSON };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    } else if let Some(kind) = call.asked.content_type() {
        headers.insert(CONTENT_TYPE, kind);
    }
    if !ctx.dropped.is_empty()
        && let Ok(value) = HeaderValue::from_str(&ctx.dropped)
    {
        headers.insert(HeaderName::from_static("x-otari-dropped-params"), value);
    }
    // As the reference has it: not with streams, whose header has left before everything was checked.
    if !answer.is_stream
        && let Some(value) = guardrails::header(&ctx.judged)
        && let Ok(value) = HeaderValue::from_str(&value)
    {
        headers.insert(HeaderName::from_static("x-otari-guardrails"), value);
    }
    match content_length {
        Some(length) => headers.insert(CONTENT_LENGTH, length.into()),
        // Without either, Pingora would end the answer by closing the connection.
        None => headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
    };
    if answer.is_stream {
        // Buffering proxies in front of us must not hold events back.
        headers.insert(&ACCEL_BUFFERING, HeaderValue::from_static("no"));
    }
    reply::head(status, headers)
}
