//! The wire to the platform, over Pingora's connectors. It knows neither tokens nor what is said.

mod answer;

use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HOST, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Uri};
use otari_filters::providers;
use otari_filters::upstream::{Draft, Upstream};
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use tokio::io::AsyncWriteExt as _;

use crate::control::platform::wire::{Answer, Call, MAX_ANSWER_BYTES, Wire};
use crate::proxy::addresses::Addresses;
use crate::proxy::idle::Idle;

/// Connections to one platform.
pub struct Link {
    platform: Upstream,
    /// Its headers as they go over the wire.
    fixed: Box<[u8]>,
    /// Path of the base URL, without a slash behind it.
    base_path: Box<str>,
    addresses: Arc<Addresses>,
    connect_timeout: ArcSwap<Duration>,
    connector: Connector,
    /// Connections over HTTP/1 that wait for the next call.
    idle: Idle,
}

impl Link {
    /// Connects with the first call only.
    ///
    /// # Errors
    /// When the base URL is none. Its value is not named.
    pub fn new(
        base_url: &str,
        connect_timeout: Duration,
        server: &ServerConf,
        addresses: &Arc<Addresses>,
    ) -> Result<Self, String> {
        let platform = Upstream::new(&Draft {
            instance: "platform",
            kind: &providers::UNKNOWN,
            base_url,
            api_key: None,
            headers: &[],
            client_settings: &[],
            max_retries: 0,
            first_byte_timeout: Duration::ZERO,
            idle_timeout: Duration::ZERO,
            address: None,
        })
        .map_err(|_| "platform.base_url is not an http or https URL".to_owned())?;
        let uri: Uri = base_url.trim().parse().unwrap_or_default();
        let mut fixed = Vec::with_capacity(256);
        platform.headers.iter().for_each(|(name, value)| field(&mut fixed, name, value));
        let options = ConnectorOptions::from_server_conf(server);
        Ok(Self {
            platform,
            fixed: fixed.into(),
            base_path: uri.path().trim_end_matches('/').into(),
            addresses: addresses.clone(),
            connect_timeout: ArcSwap::from_pointee(connect_timeout),
            connector: Connector::new(Some(options)),
            idle: Idle::new(server),
        })
    }

    async fn exchange(&self, call: &Call) -> Result<Answer, String> {
        let connect_timeout = **self.connect_timeout.load();
        let known = self
            .addresses
            .find(&self.platform, connect_timeout)
            .await
            .map_err(|_| "the platform's name has no address".to_owned())?;
        let mut why = "it has no address".to_owned();
        for peer in &known.peers {
            // An answer that does not come is no reason to ask again.
            match self.connection(peer).await {
                Ok(Connection::Plain(stream)) => return self.ask(stream, peer, call).await,
                Ok(Connection::Frames(session)) => {
                    return Box::pin(self.ask_in_frames(session, peer, call)).await;
                }
                Err(reason) => why = reason,
            }
        }
        Err(format!("cannot connect to the platform: {why}"))
    }

    async fn connection(&self, peer: &Arc<HttpPeer>) -> Result<Connection, String> {
        if let Some(stream) = self.idle.take_stream(peer) {
            return Ok(Connection::Plain(stream));
        }
        // Boxed: connecting takes kilobytes of state, which every call would carry.
        let opened = Box::pin(self.connector.get_http_session(&**peer)).await;
        match opened.map_err(|error| error.etype().as_str().to_owned())?.0 {
            HttpSession::H1(session) => Ok(Connection::Plain(session.into_inner())),
            session => Ok(Connection::Frames(Box::new(session))),
        }
    }

    /// Header and body in one write, where Pingora makes two of it.
    async fn ask(
        &self,
        mut stream: Stream,
        peer: &HttpPeer,
        call: &Call,
    ) -> Result<Answer, String> {
        let bytes = self.request(call)?;
        let sent = async {
            stream.write_all(&bytes).await?;
            stream.flush().await
        };
        sent.await.map_err(|error: io::Error| broke(&error.kind()))?;
        let (answer, is_kept) = answer::read(&mut stream).await.map_err(|why| broke(&why))?;
        if is_kept {
            self.idle.keep_stream(stream, peer);
        }
        Ok(answer)
    }

    async fn ask_in_frames(
        &self,
        mut session: Box<HttpSession>,
        peer: &HttpPeer,
        call: &Call,
    ) -> Result<Answer, String> {
        let broke = |error: Box<pingora_core::Error>| broke(&error.etype().as_str());
        self.write_frames(&mut session, call).await?.map_err(broke)?;
        session.set_read_timeout(None);
        session.read_response_header().await.map_err(broke)?;
        // 1xx answers come one by one before the real one.
        while session.response_header().is_some_and(|head| head.status.is_informational()) {
            session.read_response_header().await.map_err(broke)?;
        }
        let mut body = Body::default();
        while let Some(piece) = session.read_response_body().await.map_err(broke)? {
            body.push(piece)?;
        }
        let head = session.response_header().ok_or("the platform sent no header")?;
        let retry_after = head.headers.get(RETRY_AFTER).cloned();
        let answer = Answer { status: head.status.as_u16(), retry_after, body: body.whole() };
        let idle = peer.options.idle_timeout;
        self.connector.release_http_session(*session, peer, idle).await;
        Ok(answer)
    }

    /// The outer error is our own.
    async fn write_frames(
        &self,
        session: &mut HttpSession,
        call: &Call,
    ) -> Result<pingora_core::Result<()>, String> {
        session.set_write_timeout(None);
        let header = self.header(call)?;
        let written = async {
            session.write_request_header(Box::new(header)).await?;
            if !call.body.is_empty() {
                session.write_request_body(call.body.clone(), false).await?;
            }
            session.finish_request_body().await
        };
        Ok(written.await)
    }

    /// A whole request of HTTP/1. Every call makes two of them, so it is written as it goes over the wire.
    fn request(&self, call: &Call) -> Result<Vec<u8>, String> {
        if !call.path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return Err("the path of the call is none".to_owned());
        }
        let mut bytes = Vec::with_capacity(512 + call.body.len());
        let line = [call.method.as_str(), " ", &self.base_path, "/", &call.path, " HTTP/1.1\r\n"];
        line.iter().for_each(|part| bytes.extend_from_slice(part.as_bytes()));
        bytes.extend_from_slice(&self.fixed);
        call.headers.iter().for_each(|(name, value)| field(&mut bytes, name, value));
        let length = call.body.len();
        bytes.extend_from_slice(format!("content-length: {length}\r\n\r\n").as_bytes());
        bytes.extend_from_slice(&call.body);
        Ok(bytes)
    }

    /// The head of a request of HTTP/2.
    fn header(&self, call: &Call) -> Result<RequestHeader, String> {
        let path = format!("{}/{}", self.base_path, call.path);
        let mut parts = http::Request::new(()).into_parts().0;
        parts.method = call.method.clone();
        parts.headers = self.platform.headers.clone();
        parts.headers.extend(call.headers.iter().cloned());
        parts.headers.insert(CONTENT_LENGTH, call.body.len().into());
        let host = parts.headers.remove(HOST);
        let host = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
        let scheme = if self.platform.tls { "https" } else { "http" };
        let uri = Uri::builder().scheme(scheme).authority(host).path_and_query(path).build();
        parts.uri = uri.map_err(|_| "the path of the call is none".to_owned())?;
        Ok(parts.into())
    }
}

#[async_trait]
impl Wire for Link {
    async fn call(&self, call: Call) -> Result<Answer, String> {
        // Not the runtime's timer: one that is the next to end costs a wake-up through the kernel.
        match pingora_timeout::timeout(call.within, self.exchange(&call)).await {
            Ok(answer) => answer,
            Err(_) => Err("the platform did not answer in time".to_owned()),
        }
    }

    fn follow(&self, connect_timeout: Duration) {
        self.connect_timeout.store(Arc::new(connect_timeout));
    }

    fn sweep(&self) {
        self.idle.sweep();
    }
}

/// Appends a header as it goes over the wire.
fn field(bytes: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
        bytes.extend_from_slice(part);
    }
}

/// To one of the platform's addresses.
enum Connection {
    Plain(Stream),
    Frames(Box<HttpSession>),
}

fn broke(why: &impl fmt::Display) -> String {
    format!("the call to the platform broke: {why}")
}

/// An answer's body as it comes: nearly always one piece, which needs no copy.
#[derive(Default)]
struct Body {
    first: Option<Bytes>,
    rest: BytesMut,
}

impl Body {
    fn push(&mut self, piece: Bytes) -> Result<(), String> {
        if self.rest.len() + piece.len() + self.first.as_ref().map_or(0, Bytes::len)
            > MAX_ANSWER_BYTES
        {
            return Err("the platform's answer is longer than 1 MiB".to_owned());
        }
        match self.first.take() {
            None if self.rest.is_empty() => self.first = Some(piece),
            first => {
                self.rest.extend(first.iter().flat_map(|first| first.iter()));
                self.rest.extend_from_slice(&piece);
            }
        }
        Ok(())
    }

    fn whole(self) -> Bytes {
        self.first.unwrap_or_else(|| self.rest.freeze())
    }
}
