//! The transport of MCP's first version, HTTP with SSE, which the SDK has no more: a GET opens a stream of events, the
//! first of which says where messages are posted, and all that the server says comes in that stream.
//!
//! Source: MCP specification 2024-11-05, transports, and 2025-11-25, backwards compatibility.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method};
use otari_filters::protocol::sse::{Lines, data, name};
use otari_filters::tools::result::Failure;
use reqwest::{Client, RequestBuilder, Response, Url};
use rmcp::RoleClient;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::Transport;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{MAX_ANSWER_BYTES, MAX_ERROR_BYTES, STEP};
use crate::safety;

/// What a server may say in one session, signs of life included: some eight of the longest answers.
const MAX_STREAM_BYTES: usize = 64 << 20;
/// Events of one session: a loop has no more than 25 rounds of 64 calls. Each question of a server's is answered, so that
/// this bounds what it can make the gateway do.
const MAX_EVENTS: usize = 8192;
/// A stream that says nothing for so long is another one: newer servers have one, too.
const FIRST_EVENT: Duration = Duration::from_secs(10);
/// Messages that are posted at once.
const POSTING: usize = 8;

/// A session with a server over this transport.
pub(super) struct SseTransport {
    server: Wire,
    events: Events,
}

/// How messages reach the server.
#[derive(Clone)]
struct Wire {
    client: Client,
    endpoint: Url,
    bearer: Option<HeaderValue>,
    posting: Arc<Semaphore>,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
#[error("{0:?}")]
pub(super) struct Unsent(pub(super) Failure);

impl SseTransport {
    /// Opens the stream. `client` goes to the server's judged address and takes no redirects. `None`: the server has no
    /// such stream.
    ///
    /// # Errors
    /// `Forbidden` when messages are to be sent to anybody but the server; `BadAnswer` for a stream of something else.
    pub(super) async fn open(
        client: Client,
        server: &Url,
        bearer: Option<HeaderValue>,
    ) -> Result<Option<Self>, Failure> {
        let posting = Arc::new(Semaphore::new(POSTING));
        let mut wire = Wire { client, endpoint: server.clone(), bearer, posting };
        let asked = wire.request(Method::GET).header(ACCEPT, "text/event-stream").send().await;
        let response = asked.map_err(|error| unsent(&error))?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let is_stream = kind.is_some_and(|kind| {
            kind.split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .eq_ignore_ascii_case("text/event-stream")
        });
        if !response.status().is_success() || !is_stream {
            return Ok(None);
        }
        let mut events = Events::new(response);
        let Ok(first) = timeout(FIRST_EVENT, events.next()).await else { return Ok(None) };
        let first = first.ok_or(Failure::BadAnswer)?;
        if first.name != b"endpoint" {
            return Err(Failure::BadAnswer);
        }
        let said = std::str::from_utf8(&first.data).map_err(|_| Failure::BadAnswer)?;
        wire.endpoint = endpoint(server, said.trim())?;
        Ok(Some(Self { server: wire, events }))
    }
}

/// Where messages go: to the server itself, whose address has been judged, and to nobody else.
fn endpoint(server: &Url, said: &str) -> Result<Url, Failure> {
    let endpoint = server.join(said).map_err(|_| Failure::BadAnswer)?;
    let who =
        |url: &Url| (url.origin(), url.username().to_owned(), url.password().map(str::to_owned));
    if who(&endpoint) == who(server) { Ok(endpoint) } else { Err(Failure::Forbidden) }
}

impl Wire {
    fn request(&self, method: Method) -> RequestBuilder {
        let request = self.client.request(method, self.endpoint.clone());
        match &self.bearer {
            Some(bearer) => request.header(AUTHORIZATION, bearer),
            None => request,
        }
    }

    async fn post(self, message: ClientJsonRpcMessage) -> Result<(), Unsent> {
        let _turn = self.posting.acquire().await.map_err(|_| Unsent(Failure::Unreachable))?;
        let body = serde_json::to_vec(&message).map_err(|_| Unsent(Failure::BadAnswer))?;
        let request = self.request(Method::POST).header(CONTENT_TYPE, "application/json");
        let sent = request.timeout(STEP).body(body).send().await;
        let response = sent.map_err(|error| Unsent(unsent(&error)))?;
        let status = response.status();
        if !status.is_success() {
            return Err(Unsent(Failure::Status(status.as_u16())));
        }
        // The answer is in the stream. What is here is read so that the connection can be used again.
        let _ = safety::read(response, MAX_ERROR_BYTES).await;
        Ok(())
    }
}

fn unsent(error: &reqwest::Error) -> Failure {
    if error.is_timeout() { Failure::Timeout } else { Failure::Unreachable }
}

impl Transport<RoleClient> for SseTransport {
    type Error = Unsent;

    fn send(
        &mut self,
        message: ClientJsonRpcMessage,
    ) -> impl Future<Output = Result<(), Unsent>> + Send + 'static {
        self.server.clone().post(message)
    }

    /// May be dropped while it waits: what has come is in `events`.
    async fn receive(&mut self) -> Option<ServerJsonRpcMessage> {
        loop {
            let event = self.events.next().await?;
            // An event without a name is a message, too. What is none is passed over: whoever waits has a deadline.
            if matches!(&*event.name, b"" | b"message")
                && let Ok(message) = serde_json::from_slice(&event.data)
            {
                return Some(message);
            }
        }
    }

    async fn close(&mut self) -> Result<(), Unsent> {
        // That is how a session ends here.
        self.events.response = None;
        Ok(())
    }
}

/// An event, as far as this transport has a use for it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    name: Vec<u8>,
    data: Vec<u8>,
}

/// The events of a stream; it ends where the server ends it, or says more than it may.
struct Events {
    /// `None`: it is over.
    response: Option<Response>,
    cut: Cut,
    bytes: usize,
    count: usize,
}

/// Cuts a stream into events.
#[derive(Default)]
struct Cut {
    lines: Lines,
    /// The unfinished line.
    line: Vec<u8>,
    /// The unfinished event.
    open: Event,
    /// Whole ones that nobody has asked for yet.
    ready: VecDeque<Event>,
}

impl Events {
    fn new(response: Response) -> Self {
        Self { response: Some(response), cut: Cut::default(), bytes: 0, count: 0 }
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.cut.ready.pop_front() {
                self.count += 1;
                if self.count <= MAX_EVENTS {
                    return Some(event);
                }
                self.response = None;
                self.cut = Cut::default();
            }
            let piece = self.response.as_mut()?.chunk().await.ok().flatten();
            self.bytes += piece.as_ref().map_or(0, |piece| piece.len());
            match piece.filter(|_| self.bytes <= MAX_STREAM_BYTES) {
                Some(piece) if self.cut.feed(&piece) => {}
                _ => self.response = None,
            }
        }
    }
}

impl Cut {
    /// Takes a piece in. `false`: the unfinished event is longer than one may be.
    fn feed(&mut self, piece: &[u8]) -> bool {
        let mut from = self.lines.begin(piece);
        while let Some(line) = self.lines.next(piece, from) {
            self.line.extend_from_slice(&piece[line.start..line.end]);
            self.end_line();
            from = line.next;
        }
        self.line.extend_from_slice(&piece[from..]);
        self.line.len() + self.open.data.len() + self.open.name.len() <= MAX_ANSWER_BYTES
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let event = std::mem::take(&mut self.open);
            // Events without data are none.
            if !event.data.is_empty() {
                self.ready.push_back(event);
            }
        } else if let Some(more) = data(&line) {
            if !self.open.data.is_empty() {
                self.open.data.push(b'\n');
            }
            self.open.data.extend_from_slice(more);
        } else if let Some(name) = name(&line) {
            self.open.name = name.to_vec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.into(), data: data.into() }
    }

    #[test]
    fn events_are_cut_wherever_pieces_end() {
        let text = b": hi\n\nevent: endpoint\r\ndata: /m?s=1\r\n\r\ndata: {\ndata: }\n\nevent: x\n\nid: 3\rdata:y\r\r";
        let all = [event("endpoint", "/m?s=1"), event("", "{\n}"), event("", "y")];
        for step in 1..=text.len() {
            let mut cut = Cut::default();
            assert!(text.chunks(step).all(|piece| cut.feed(piece)));
            assert_eq!(cut.ready, all, "in pieces of {step}");
        }
    }

    #[test]
    fn an_event_without_an_end_is_given_up() {
        for line in ["data: ", "data: y\n", "event: "] {
            let piece = line.repeat(MAX_ANSWER_BYTES / 16);
            let mut cut = Cut::default();
            let pieces = (0..64).take_while(|_| cut.feed(piece.as_bytes())).count();
            assert!(pieces < 64, "{line:?}");
        }
    }

    fn stream(text: &'static str, times: usize) -> Events {
        Events::new(http::Response::new(text.repeat(times)).into())
    }

    #[tokio::test]
    async fn a_stream_ends_where_it_says_too_much() {
        let mut all = stream("data: x\n\n", 100);
        let mut count = 0;
        while all.next().await.is_some() {
            count += 1;
        }
        assert_eq!(count, 100);
        let mut many = stream("data: x\n\n", MAX_EVENTS + 100);
        for _ in 0..MAX_EVENTS {
            assert_eq!(many.next().await, Some(event("", "x")));
        }
        assert_eq!(many.next().await, None);
        assert_eq!(many.next().await, None, "for good");
        // Signs of life are no events, and no endless stream of them is read either.
        let mut alive = stream(": still here\n", (MAX_STREAM_BYTES / 13) + 1);
        assert_eq!(alive.next().await, None);
        assert!(alive.response.is_none());
    }

    #[test]
    fn messages_go_to_the_server_and_nowhere_else() {
        let server = Url::parse("https://a.example:8443/x/sse?k=1").unwrap();
        let to = |said| endpoint(&server, said).map(String::from);
        for (said, at) in [
            ("/messages/?session_id=1", "https://a.example:8443/messages/?session_id=1"),
            ("messages", "https://a.example:8443/x/messages"),
            ("?s=1", "https://a.example:8443/x/sse?s=1"),
            ("https://A.example:8443/m", "https://a.example:8443/m"),
        ] {
            assert_eq!(to(said), Ok(at.to_owned()), "{said}");
        }
        for said in [
            "https://b.example:8443/m",
            "//b.example:8443/m",
            "https://a.example/m",
            "http://a.example:8443/m",
            "https://169.254.169.254/",
            "https://u:p@a.example:8443/m",
            "https:\\\\b.example:8443\\m",
            "file:///etc/passwd",
        ] {
            assert_eq!(to(said), Err(Failure::Forbidden), "{said}");
        }
        assert_eq!(to("https://"), Err(Failure::BadAnswer));
    }
}
