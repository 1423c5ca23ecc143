//! One connection: request by request, each to its route.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::answer::{Answer, Asked};
use super::call::{Embedding, Generation};
use super::emit::{Next, Outlet, drain};
use super::families::operations::{self, Kind, strict_embeddings};
use super::http::{Inbox, Request, Trouble};
use super::protocol::Protocol;
use super::record::{Counter, Record};
use super::script::{Fault, Script, parse};
use super::{batches, embeddings, emit, families};

/// How long a refused upload is still read, so that the refusal is not lost to a reset (RFC 9112 9.6).
const LINGER: Duration = Duration::from_secs(1);

const MODELS: &str = concat!(
    r#"{"object":"list","data":["#,
    r#"{"id":"gpt","object":"model","created":1767225600,"owned_by":"mock"},"#,
    r#"{"id":"claude","object":"model","created":1767225600,"owned_by":"mock"},"#,
    r#"{"id":"embed","object":"model","created":1767225600,"owned_by":"mock"}]}"#
);

const ANTHROPIC_MODELS: &str = concat!(
    r#"{"data":[{"type":"model","id":"claude","display_name":"Mock Claude","#,
    r#""created_at":"2026-01-01T00:00:00Z"}],"#,
    r#""has_more":false,"first_id":"claude","last_id":"claude"}"#
);

/// Why a request is answered with an error: status and sentence.
pub(super) type Refusal = (u16, String);

/// Serves `stream` until either side ends it.
pub(super) async fn serve(stream: TcpStream, record: Arc<Record>) {
    // Without this the kernel would join what `split_lines` takes apart. A socket that refuses
    // options is about to fail anyway.
    let _ = stream.set_nodelay(true);
    let mut connection = Connection {
        stream,
        inbox: Inbox::new(),
        out: Vec::new(),
        body: Vec::new(),
        count: None,
        record,
    };
    loop {
        match connection.turn().await {
            Ok(Next::Keep) => {}
            Ok(Next::Close) | Err(Trouble::Gone) => return,
            Err(Trouble::Refuse(status, message)) => {
                connection.refuse(status, message).await;
                return;
            }
        }
    }
}

struct Connection {
    stream: TcpStream,
    inbox: Inbox,
    out: Vec<u8>,
    /// Scratch space of answers.
    body: Vec<u8>,
    /// The counter of the model asked for last: most connections ask for one.
    count: Option<(String, Arc<Counter>)>,
    record: Arc<Record>,
}

impl Connection {
    async fn turn(&mut self) -> Result<Next, Trouble> {
        let Some(mut head) = self.inbox.head(&mut self.stream).await? else {
            return Ok(Next::Close);
        };
        let mut summary = None;
        match self.inbox.form(&head) {
            Some(mut form) => {
                self.inbox.drain(&mut self.stream, &mut head, &mut form).await?;
                // The parts stand for the body, which nobody has kept.
                summary = Some(match form.finish() {
                    Ok(parts) => serde_json::to_vec(&parts).unwrap_or_default(),
                    Err(error) => format!("bad form: {error}").into_bytes(),
                });
            }
            None => self.inbox.body(&mut self.stream, &head).await?,
        }
        let mut request = self.inbox.request(&head);
        if let Some(summary) = &summary {
            request.body = summary;
        }
        let outlet = Outlet {
            stream: &self.stream,
            out: &mut self.out,
            keep_alive: head.keep_alive,
            modern: head.modern,
        };
        self.body.clear();
        let mut exchange = Exchange {
            outlet,
            request,
            body: &mut self.body,
            count: &mut self.count,
            record: &self.record,
        };
        let result = exchange.route().await;
        if result.is_err()
            && let Some((_, counter)) = &self.count
        {
            counter.disconnected.fetch_add(1, Relaxed);
        }
        let next = result?;
        self.inbox.consume();
        if self.body.capacity() > emit::KEEP_BYTES {
            (self.body, self.out) = (Vec::new(), Vec::new());
        }
        Ok(next)
    }

    async fn refuse(&mut self, status: u16, message: &str) {
        let body = Protocol::Chat.error(status, message);
        self.out.clear();
        let mut outlet =
            Outlet { stream: &self.stream, out: &mut self.out, keep_alive: false, modern: true };
        if outlet.json(status, &body).await.is_ok() && self.stream.shutdown().await.is_ok() {
            drain(&self.stream, LINGER).await;
        }
    }
}

/// One request, and everything its answer needs.
pub(super) struct Exchange<'c> {
    pub(super) outlet: Outlet<'c>,
    pub(super) request: Request<'c>,
    /// Scratch space of the answer.
    pub(super) body: &'c mut Vec<u8>,
    count: &'c mut Option<(String, Arc<Counter>)>,
    record: &'c Record,
}

impl<'c> Exchange<'c> {
    async fn route(&mut self) -> io::Result<Next> {
        let path = self.request.target.split('?').next().unwrap_or_default();
        match (self.request.method, path) {
            ("GET", "/__mock/requests") => return self.outlet.json(200, &self.record.show()).await,
            ("DELETE", "/__mock/requests") => {
                self.record.reset();
                return self.outlet.json(200, b"{}").await;
            }
            _ => self.record.note(&self.request),
        }
        // Only other families' calls have versions in the query.
        if path.len() < self.request.target.len()
            && let Some(next) = families::answer(self).await?
        {
            return Ok(next);
        }
        let bare = path.strip_prefix("/v1").or_else(|| path.strip_prefix("/openai/v1"));
        if let ("POST", Some(kind)) = (self.request.method, Kind::at(bare.unwrap_or(path))) {
            return operations::answer(self, kind, false).await;
        }
        match (self.request.method, bare.unwrap_or(path)) {
            ("POST", "/chat/completions") => self.generate(Protocol::Chat).await,
            ("POST", "/messages") => self.generate(Protocol::Messages).await,
            ("POST", "/responses") => self.generate(Protocol::Responses).await,
            ("POST", "/messages/count_tokens") => self.count_tokens().await,
            ("POST", "/embeddings") => self.embed().await,
            ("GET", "/models") if self.request.anthropic => {
                self.outlet.json(200, ANTHROPIC_MODELS.as_bytes()).await
            }
            ("GET", "/models") => self.outlet.json(200, MODELS.as_bytes()).await,
            (
                _,
                "/chat/completions"
                | "/messages"
                | "/responses"
                | "/messages/count_tokens"
                | "/embeddings"
                | "/moderations"
                | "/rerank"
                | "/images/generations"
                | "/audio/speech"
                | "/audio/transcriptions"
                | "/models",
            ) => self.refuse(Protocol::Chat, (405, "method not allowed".into())).await,
            (_, bare) => {
                let record = self.record;
                if let Some(next) = batches::answer(self, &record.batches, bare).await? {
                    return Ok(next);
                }
                if let Some(next) = families::answer(self).await? {
                    return Ok(next);
                }
                let message = format!("unknown path: {} {path}", self.request.method);
                self.refuse(Protocol::Chat, (404, message)).await
            }
        }
    }

    async fn generate(&mut self, protocol: Protocol) -> io::Result<Next> {
        let raw = self.request.body;
        let call: Generation<'c> = match serde_json::from_slice(raw) {
            Ok(call) => call,
            Err(error) => return self.refuse(protocol, (400, format!("bad body: {error}"))).await,
        };
        let script = match self.script(&call.model).and_then(|script| {
            check(protocol, &call)?;
            script.strict.map_or(Ok(()), |strict| families::strict(protocol, strict, raw))?;
            Ok(script)
        }) {
            Ok(script) => script,
            Err(refusal) => return self.refuse(protocol, refusal).await,
        };
        let stream = call.stream == Some(true);
        if let Some(next) = self.misbehave(protocol, &script, stream).await? {
            return Ok(next);
        }
        let mut answer = Answer::new(Asked::of(&call, &script), &script, raw);
        answer.sealed = call.sealed();
        if stream {
            return self.outlet.events(&script, &answer, protocol).await;
        }
        protocol.whole(&answer, self.body);
        self.outlet.whole(&script, self.body).await
    }

    async fn count_tokens(&mut self) -> io::Result<Next> {
        let call: Generation<'c> = match serde_json::from_slice(self.request.body) {
            Ok(call) => call,
            Err(error) => {
                return self.refuse(Protocol::Messages, (400, format!("bad body: {error}"))).await;
            }
        };
        let script = match self.script(&call.model) {
            Ok(script) => script,
            Err(refusal) => return self.refuse(Protocol::Messages, refusal).await,
        };
        if let Some(next) = self.misbehave(Protocol::Messages, &script, false).await? {
            return Ok(next);
        }
        let body = format!(r#"{{"input_tokens":{}}}"#, call.prompt_tokens());
        self.outlet.whole(&script, body.as_bytes()).await
    }

    async fn embed(&mut self) -> io::Result<Next> {
        let call: Embedding<'c> = match serde_json::from_slice(self.request.body) {
            Ok(call) => call,
            Err(error) => {
                return self.refuse(Protocol::Chat, (400, format!("bad body: {error}"))).await;
            }
        };
        let script = match self.script(&call.model) {
            Ok(script) => script,
            Err(refusal) => return self.refuse(Protocol::Chat, refusal).await,
        };
        let Some(inputs) = &call.input else {
            return self.refuse(Protocol::Chat, (400, "input is required".into())).await;
        };
        if let Some(strict) = script.strict
            && let Err(refusal) = strict_embeddings(strict, self.request.body)
        {
            return self.refuse(Protocol::Chat, refusal).await;
        }
        if let Some(next) = self.misbehave(Protocol::Chat, &script, false).await? {
            return Ok(next);
        }
        embeddings::whole(&call, inputs, &script, self.body);
        self.outlet.whole(&script, self.body).await
    }

    /// Reads the model's options, counts the request, and settles whether `fail_first` is over.
    pub(super) fn script<'m>(&mut self, model: &'m str) -> Result<Script<'m>, Refusal> {
        if model.is_empty() {
            return Err((400, "you must provide a model parameter".into()));
        }
        let (name, mut script) = parse(model).map_err(|message| (400, message))?;
        self.count(name);
        if script.fail_first > 0
            && self.record.attempt(script.seed.unwrap_or(model)) > script.fail_first
        {
            (script.status, script.fault) = (None, None);
        }
        Ok(script)
    }

    fn count(&mut self, name: &str) {
        let known = self.count.as_ref().filter(|(last, _)| last == name);
        let counter = match known {
            Some((_, counter)) => counter,
            None => &self.count.insert((name.to_owned(), self.record.counter(name))).1,
        };
        counter.requests.fetch_add(1, Relaxed);
    }

    /// Waits, and answers here whatever is not an answer of the protocol.
    pub(super) async fn misbehave(
        &mut self,
        protocol: Protocol,
        script: &Script<'_>,
        stream: bool,
    ) -> io::Result<Option<Next>> {
        self.outlet.pause(script.delay).await?;
        if let Some(status) = script.status {
            let message = format!("mock: status {status} as asked");
            let retry = script.retry_after_s.map(|s| format!("retry-after: {s}\r\n"));
            let body = protocol.error(status, &message);
            let extra =
                [protocol.error_fields(status), retry.as_deref().unwrap_or_default()].concat();
            return self.outlet.fixed(status, "application/json", &extra, &body).await.map(Some);
        }
        let html =
            "<!doctype html><title>mock</title><p>This is not the API you are looking for.\n";
        Ok(Some(match script.fault {
            Some(Fault::Refuse) => Next::Close,
            Some(Fault::Silent) => self.outlet.hold().await?,
            Some(Fault::Early413) => {
                self.refuse(protocol, (413, "mock: refused as asked".into())).await?
            }
            Some(Fault::Html) => {
                self.outlet.fixed(200, "text/html; charset=utf-8", "", html.as_bytes()).await?
            }
            Some(Fault::Empty) => {
                let kind = if stream { protocol.wire().kind() } else { "application/json" };
                self.outlet.fixed(200, kind, "", b"").await?
            }
            _ => return Ok(None),
        }))
    }

    pub(super) async fn refuse(
        &mut self,
        protocol: Protocol,
        (status, message): Refusal,
    ) -> io::Result<Next> {
        let body = protocol.error(status, &message);
        self.outlet.fixed(status, "application/json", protocol.error_fields(status), &body).await
    }
}

/// What real providers insist on, so that a caller's mistake does not pass here.
fn check(protocol: Protocol, call: &Generation<'_>) -> Result<(), Refusal> {
    let missing = |field: &str| Err((400, format!("missing required parameter: '{field}'")));
    match protocol {
        Protocol::Responses if call.input.is_none() => missing("input"),
        Protocol::Chat | Protocol::Messages if call.messages.is_none_or(|m| m.count == 0) => {
            missing("messages")
        }
        Protocol::Messages if call.max_tokens.is_none() => missing("max_tokens"),
        _ => Ok(()),
    }
}
