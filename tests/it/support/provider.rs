//! A provider that does what a script says, down to the segment: status, headers, pieces, pauses, cuts, resets.
//! Raw sockets on a thread of its own, so that no HTTP library repairs what a test wants broken.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::eventually;
use super::raw::{self, header_of};

/// What every scripted answer reports: prompt tokens and completion tokens.
pub(crate) const USAGE: (u64, u64) = (10, 5);

/// One request, as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// In the order sent, names as spelt.
    pub(crate) headers: Vec<(String, String)>,
    /// Without its framing.
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The first header of this name, any case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header_of(&self.headers, name)
    }

    /// The body as JSON; null when it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text, for comparing bytes with a readable message.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A door that a test opens, once per waiting step.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets `steps` waiting steps pass, now or when they come.
    pub(crate) fn open(&self, steps: usize) {
        self.0.add_permits(steps);
    }

    /// Takes back what nobody has used yet; returns how many steps that is.
    pub(crate) fn drain(&self) -> usize {
        self.0.forget_permits(usize::MAX)
    }

    async fn pass(&self) {
        self.0.acquire().await.expect("a gate is never closed for good").forget();
    }
}

/// One thing a provider does while it answers.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Writes these bytes as one segment (one chunk when chunked).
    Send(Vec<u8>),
    /// Does nothing for this many milliseconds.
    Sleep(u64),
    /// Does nothing until the gate opens.
    WaitFor(Gate),
    /// Closes the connection in order, but before the body's end.
    CutNow,
    /// Closes with RST: what a crashed provider or a firewall does.
    Reset,
    /// Never goes on, and keeps the connection.
    Silence,
}

/// How the end of the body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// `Content-Length`, of all pieces of the script.
    Length,
    Chunked,
    /// `Connection: close`, and the end is the close.
    Close,
}

/// The script of one answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    /// 0: not even a status line.
    status: u16,
    headers: Vec<(String, String)>,
    framing: Framing,
    steps: Vec<Step>,
}

impl Reply {
    /// A whole answer of these bytes.
    pub(crate) fn bytes(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: vec![("Content-Type".into(), content_type.into())],
            framing: Framing::Length,
            steps: vec![Step::Send(body.into())],
        }
    }

    /// A whole JSON answer.
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::bytes(status, "application/json", body.to_string())
    }

    /// An event stream of these steps, chunked.
    pub(crate) fn events(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            status: 200,
            headers: vec![("Content-Type".into(), "text/event-stream; charset=utf-8".into())],
            framing: Framing::Chunked,
            steps: steps.into_iter().collect(),
        }
    }

    /// Nothing at all, not even a status line.
    pub(crate) fn silence() -> Self {
        Self::none(Step::Silence)
    }

    /// Not even a status line before this happens.
    pub(crate) fn none(step: Step) -> Self {
        Self { status: 0, ..Self::events([step]) }
    }

    /// And then this.
    pub(crate) fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// A reset instead of an answer.
    pub(crate) fn reset() -> Self {
        Self::none(Step::Reset)
    }

    /// What an OpenAI chat endpoint answers to `request`: `pieces` as a stream when it asked for one (usage only
    /// when it asked for that), else joined in one object.
    pub(crate) fn chat(request: &Request, pieces: &[&str]) -> Self {
        let asked = request.json();
        if asked["stream"] != json!(true) {
            return Self::json(200, &completion(&pieces.concat()));
        }
        let usage = asked["stream_options"]["include_usage"] == json!(true);
        Self::events(chat_events(pieces, usage).into_iter().map(|event| Step::Send(event.into())))
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn framing(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// Puts `step` before the piece with this number, counted from 0.
    pub(crate) fn before(mut self, piece: usize, step: Step) -> Self {
        let at = (self.steps.iter().enumerate())
            .filter(|(_, step)| matches!(step, Step::Send(_)))
            .nth(piece)
            .map_or(self.steps.len(), |(at, _)| at);
        self.steps.insert(at, step);
        self
    }

    /// Puts a closed gate's step before every piece but the first `free` ones.
    pub(crate) fn gated(mut self, free: usize, gate: &Gate) -> Self {
        let mut sent = 0;
        self.steps = (self.steps.into_iter())
            .flat_map(|step| {
                let piece = matches!(step, Step::Send(_));
                sent += usize::from(piece);
                let wait = (piece && sent > free).then(|| Step::WaitFor(gate.clone()));
                wait.into_iter().chain([step])
            })
            .collect();
        self
    }

    fn head(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Scripted\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &match self.framing {
            Framing::Chunked => "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
            Framing::Close => "Connection: close\r\n\r\n".to_owned(),
            Framing::Length => {
                let length: usize = (self.steps.iter())
                    .map(|step| if let Step::Send(piece) = step { piece.len() } else { 0 })
                    .sum();
                format!("Content-Length: {length}\r\n\r\n")
            }
        };
        head.into_bytes()
    }
}

/// The chat object that answers with `text`; its id is fixed, its key order OpenAI's.
pub(crate) fn completion(text: &str) -> Value {
    json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_763_800_000, "model": "m-2026",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text, "refusal": null},
                     "logprobs": null, "finish_reason": "stop"}],
        "usage": usage(),
    })
}

/// The usage object of every scripted answer.
pub(crate) fn usage() -> Value {
    json!({"prompt_tokens": USAGE.0, "completion_tokens": USAGE.1, "total_tokens": USAGE.0 + USAGE.1})
}

/// One event of a chat stream.
pub(crate) fn chunk(choices: Value, usage: Option<Value>) -> String {
    let mut chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_763_800_000,
                           "model": "m-2026", "choices": choices});
    if let Some(usage) = usage {
        chunk["usage"] = usage;
    }
    format!("data: {chunk}\n\n")
}

/// The events of a whole chat stream: one per piece, the finish, usage when asked, `[DONE]`.
pub(crate) fn chat_events(pieces: &[&str], with_usage: bool) -> Vec<String> {
    let delta = |delta: Value, finish: Value| json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
    let mut events: Vec<String> = (pieces.iter().enumerate())
        .map(|(at, piece)| match at {
            0 => json!({"role": "assistant", "content": piece}),
            _ => json!({"content": piece}),
        })
        .map(|piece| chunk(delta(piece, Value::Null), None))
        .collect();
    events.push(chunk(delta(json!({}), json!("stop")), None));
    if with_usage {
        events.push(chunk(json!([]), Some(usage())));
    }
    events.push("data: [DONE]\n\n".into());
    events
}

#[derive(Default)]
struct State {
    requests: Mutex<Vec<Request>>,
    now: AtomicUsize,
    most: AtomicUsize,
    aborted: AtomicUsize,
    connections: AtomicUsize,
    stop: Notify,
}

type Script = dyn Fn(&Request) -> Reply + Send + Sync;

/// A provider on a free port of loopback; stops when dropped.
pub(crate) struct Provider {
    addr: SocketAddr,
    state: Arc<State>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Provider {
    /// A provider that answers each request with what `script` says.
    pub(crate) fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        listener.set_nonblocking(true).expect("a listener can be made non-blocking");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let (state, script) = (Arc::new(State::default()), Arc::new(script));
        let shared = state.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime for the provider").block_on(serve(listener, shared, script));
        });
        Self { addr, state, thread: Some(thread) }
    }

    /// Answers everything with this JSON.
    pub(crate) fn answers(status: u16, body: Value) -> Self {
        Self::start(move |_| Reply::json(status, &body))
    }

    /// Answers chat requests with these pieces: as a stream when asked for one, else joined.
    pub(crate) fn streams<const N: usize>(pieces: [&'static str; N]) -> Self {
        Self::start(move |request| Reply::chat(request, &pieces))
    }

    /// Takes requests and says nothing.
    pub(crate) fn never_answers() -> Self {
        Self::start(|_| Reply::silence())
    }

    /// Streams, and closes the connection before the event with this number, counted from 0.
    pub(crate) fn cuts_after(events: usize) -> Self {
        Self::start(move |request| {
            Reply::chat(request, &["Hel", "lo ", "you"]).before(events, Step::CutNow)
        })
    }

    /// What `api_base` takes.
    pub(crate) fn base(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// All requests so far, in the order in which they were complete.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The one request that came; panics when there were more or none.
    pub(crate) fn only(&self) -> Request {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "exactly one request must reach the provider: {requests:?}");
        requests.remove(0)
    }

    /// How many requests came.
    pub(crate) fn count(&self) -> usize {
        self.state.requests.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits until this many requests came.
    pub(crate) async fn received(&self, count: usize) {
        eventually("a request at the provider", async || (self.count() >= count).then_some(()))
            .await;
    }

    /// Waits until this many answers were given up by the gateway before their end.
    pub(crate) async fn aborted(&self, count: usize) {
        let seen = || self.state.aborted.load(Ordering::SeqCst);
        eventually("the provider's call to be cancelled", async || (seen() >= count).then_some(()))
            .await;
        assert_eq!(seen(), count, "calls cancelled by the gateway");
    }

    /// The most requests it was answering at one time.
    pub(crate) fn most_at_once(&self) -> usize {
        self.state.most.load(Ordering::SeqCst)
    }

    /// How many connections were opened.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.state.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            // A script that panicked has said so on stderr; the test fails by what it then misses.
            let _ = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, state: Arc<State>, script: Arc<Script>) {
    let listener = TcpListener::from_std(listener).expect("a listener inside a runtime");
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = state.stop.notified() => return,
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { return };
                state.connections.fetch_add(1, Ordering::SeqCst);
                let (state, script) = (state.clone(), script.clone());
                connections.spawn(async move { connection(socket, &state, &*script).await });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection until its peer, or a script, ends it.
async fn connection(socket: TcpStream, state: &State, script: &Script) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let (mut reader, mut writer) = socket.into_split();
    let mut unread = Vec::new();
    loop {
        let Some(request) = read_request(&mut reader, &mut unread).await? else { return Ok(()) };
        state.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        let now = state.now.fetch_add(1, Ordering::SeqCst) + 1;
        state.most.fetch_max(now, Ordering::SeqCst);
        let reply = script(&request);
        let next = answer(&reply, &mut reader, &mut writer, &mut unread).await;
        state.now.fetch_sub(1, Ordering::SeqCst);
        match next {
            Next::Request => {}
            Next::Close => return writer.shutdown().await,
            Next::Reset => {
                writer.as_ref().set_zero_linger()?;
                // Dropping this half would end the stream in order, before the reset.
                writer.forget();
                return Ok(());
            }
            Next::Aborted => {
                state.aborted.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
        }
    }
}

enum Next {
    Request,
    Close,
    Reset,
    Aborted,
}

/// Plays the script, and watches for the peer leaving meanwhile.
async fn answer(
    reply: &Reply,
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
    unread: &mut Vec<u8>,
) -> Next {
    if reply.status != 0 && writer.write_all(&reply.head()).await.is_err() {
        return Next::Aborted;
    }
    for step in &reply.steps {
        let played = tokio::select! {
            biased;
            next = play(step, reply.framing, writer) => next,
            () = left(reader, unread) => Some(Next::Aborted),
        };
        if let Some(next) = played {
            return next;
        }
    }
    match reply.framing {
        Framing::Close => Next::Close,
        Framing::Length => Next::Request,
        Framing::Chunked if writer.write_all(b"0\r\n\r\n").await.is_err() => Next::Aborted,
        Framing::Chunked => Next::Request,
    }
}

async fn play(step: &Step, framing: Framing, writer: &mut OwnedWriteHalf) -> Option<Next> {
    match step {
        Step::Send(piece) => {
            let sent = if framing == Framing::Chunked && !piece.is_empty() {
                let mut framed = format!("{:x}\r\n", piece.len()).into_bytes();
                framed.extend_from_slice(piece);
                framed.extend_from_slice(b"\r\n");
                writer.write_all(&framed).await
            } else {
                writer.write_all(piece).await
            };
            sent.is_err().then_some(Next::Aborted)
        }
        Step::Sleep(ms) => {
            tokio::time::sleep(Duration::from_millis(*ms)).await;
            None
        }
        Step::WaitFor(gate) => {
            gate.pass().await;
            None
        }
        Step::CutNow => Some(Next::Close),
        Step::Reset => Some(Next::Reset),
        Step::Silence => std::future::pending().await,
    }
}

/// Returns when the peer has closed; what it sends before is kept.
async fn left(reader: &mut OwnedReadHalf, unread: &mut Vec<u8>) {
    while raw::fill(reader, unread).await.is_ok_and(|read| read > 0) {}
}

/// The next request on the connection; `None` when there is none.
async fn read_request(
    reader: &mut OwnedReadHalf,
    unread: &mut Vec<u8>,
) -> io::Result<Option<Request>> {
    let Some((first, headers)) = raw::read_head(reader, unread).await? else { return Ok(None) };
    let body = raw::read_body(reader, unread, &headers, false).await?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    Ok(Some(Request { method, path, headers, body }))
}

mod tests {
    use super::*;
    use crate::support::raw::Raw;

    const ASK: &str =
        "POST /v1/chat/completions HTTP/1.1\r\nHost: p\r\nContent-Length: 2\r\n\r\n{}";

    #[tokio::test]
    async fn a_script_is_played_to_the_byte() {
        let provider = Provider::start(|_| {
            Reply::events([Step::Send(b"ab".to_vec()), Step::Send(b"\xc3".to_vec())])
                .header("X-A", "1")
        });
        let mut raw = Raw::connect(provider.addr()).await;
        raw.send(ASK).await;
        let wire = raw.until(b"0\r\n\r\n").await;
        let text = String::from_utf8_lossy(&wire);
        assert!(text.starts_with("HTTP/1.1 200 "), "a status line comes first: {text}");
        assert!(text.contains("X-A: 1\r\n"), "headers are sent as scripted: {text}");
        assert!(
            wire.ends_with(b"\r\n\r\n2\r\nab\r\n1\r\n\xc3\r\n0\r\n\r\n"),
            "one chunk per step: {text}"
        );
    }

    #[tokio::test]
    async fn a_connection_serves_several_requests_and_both_body_framings() {
        let provider = Provider::streams(["Hello"]);
        let mut raw = Raw::connect(provider.addr()).await;
        raw.send(ASK).await;
        let first = raw.reply().await;
        raw.send("POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"s\r\n").await;
        raw.send("f\r\ntream\": true}  \r\n0\r\n\r\n").await;
        let second = raw.reply().await;
        assert_eq!(first.json()["choices"][0]["message"]["content"], "Hello");
        assert!(
            second.text().ends_with("data: [DONE]\n\n"),
            "asked for a stream: {}",
            second.text()
        );
        assert!(!second.text().contains("usage"), "usage was not asked for");
        assert_eq!(provider.requests()[1].text(), "{\"stream\": true}  ", "chunks are joined");
        assert_eq!((provider.connections(), provider.most_at_once(), provider.count()), (1, 1, 2));
    }

    #[tokio::test]
    async fn cuts_and_resets_arrive_as_such() {
        let provider = Provider::cuts_after(1);
        let mut raw = Raw::connect(provider.addr()).await;
        raw.send("POST / HTTP/1.1\r\nContent-Length: 15\r\n\r\n{\"stream\":true}").await;
        let seen = raw.rest().await.expect("an orderly close is not an error");
        assert!(!seen.ends_with(b"0\r\n\r\n"), "a cut body has no last chunk");
        assert_eq!(
            String::from_utf8_lossy(&seen).matches("data:").count(),
            1,
            "one event, then the cut"
        );

        let provider = Provider::start(|_| Reply::events([Step::Reset]));
        let mut raw = Raw::connect(provider.addr()).await;
        raw.send(ASK).await;
        let error = raw.rest().await.expect_err("a reset is an error");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_caller_who_leaves_is_noticed_while_the_script_waits() {
        let gate = Gate::closed();
        let held = gate.clone();
        let provider =
            Provider::start(move |_| Reply::events([Step::Send(b"x".to_vec()); 1]).gated(0, &held));
        let mut raw = Raw::connect(provider.addr()).await;
        raw.send(ASK).await;
        provider.received(1).await;
        drop(raw);
        provider.aborted(1).await;

        let mut raw = Raw::connect(provider.addr()).await;
        raw.send(ASK).await;
        gate.open(1);
        assert_eq!(raw.reply().await.text(), "x", "an opened gate lets the script go on");
    }

    #[tokio::test]
    async fn silence_says_nothing() {
        let provider = Provider::never_answers();
        let mut raw = Raw::connect(provider.addr()).await;
        raw.send(ASK).await;
        provider.received(1).await;
        let heard = tokio::time::timeout(Duration::from_millis(50), raw.some()).await;
        assert!(heard.is_err(), "not even a status line: {heard:?}");
    }
}
