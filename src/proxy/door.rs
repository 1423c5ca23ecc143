//! The door: counts connections, and bounds how long and how large the head of a request may be while it comes.
//!
//! Pingora bounds every single read and no head as a whole, so a caller who sends a byte now and then would keep a
//! connection for ever. A connection is wrapped here, so that its reads can be watched; the chain of filters tells the
//! wrapper when a head has come, and from then on it looks on.

use std::fmt::{self, Debug};
use std::io::{self, IoSlice};
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use otari_filters::limit::{Entered, UnderWay};
use otari_filters::protocol::Protocol;
use otari_filters::rejection::{Code, Rejection};
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::H2Options;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    Stream, TimingDigest, UniqueID, UniqueIDType,
};
use pingora_core::server::ShutdownWatch;
use pingora_http::ResponseHeader;
use pingora_proxy::{HttpProxy, Session};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::Sleep;

use crate::app::App;
use crate::proxy::Gateway;
use crate::telemetry::metrics::{Limit, Metrics};

/// How long a connection of the last moment is kept for the request that is on its way over it: closed under it, that would
/// be lost for its caller.
pub const LAST_REQUESTS: Duration = Duration::from_secs(1);
/// Whoever is turned away is read for so long, or their answer would be lost in a reset.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes of them.
const LINGER_BYTES: usize = 16 << 10;
/// So many at once; further ones are cut off without a word.
const LINGERING: NonZeroU32 = NonZeroU32::new(256).expect("not zero");
/// Room in a head that came in one read with the beginning of its body.
const SLACK: usize = 8 << 10;

/// In front of the chain: one for each listener.
pub struct Door {
    proxy: Arc<Requests>,
    app: Arc<App>,
    lingering: UnderWay,
}

impl Door {
    /// A door to this chain.
    pub fn new(proxy: HttpProxy<Gateway>, app: Arc<App>) -> Self {
        Self { proxy: Arc::new(Requests(Arc::new(proxy))), app, lingering: UnderWay::default() }
    }

    /// Says so, and closes.
    async fn turn_away(&self, mut stream: Stream) {
        self.app.metrics.limit(Limit::Connections);
        let Some(_lingers) = self.lingering.enter(LINGERING) else { return };
        let message = "The gateway has as many connections as it takes (max_connections)";
        let refused = Rejection {
            retry_after_s: Some(1),
            ..Rejection::new(Code::TooManyConnections, message)
        };
        let bye = async {
            stream.write_all(&farewell(&refused)).await?;
            stream.flush().await?;
            tokio::io::AsyncWriteExt::shutdown(&mut stream).await?;
            let mut read = [0; 1024];
            let mut total = 0;
            while total < LINGER_BYTES {
                match stream.read(&mut read).await? {
                    0 => break,
                    n => total += n,
                }
            }
            io::Result::Ok(())
        };
        // Nobody is left to hear what went wrong.
        let _ = tokio::time::timeout(LINGER, bye).await;
    }
}

#[async_trait]
impl ServerApp for Door {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        self.app.life.accept();
        let max = self.app.live().limits.max_connections;
        let Some(entered) = self.app.admission.connections.enter(max) else {
            self.turn_away(stream).await;
            return None;
        };
        let open = Open { app: self.app.clone(), _entered: entered };
        open.app.metrics.connections.inc();
        let watched = Watched::new(stream, self.app.clone());
        self.proxy.process_new(Box::new(watched), shutdown).await
    }

    /// Nobody accepts here any more.
    async fn cleanup(&self) {
        tokio::time::sleep(LAST_REQUESTS).await;
        ServerApp::cleanup(&*self.proxy).await;
    }
}

/// A connection that is counted, until it is dropped.
struct Open {
    app: Arc<App>,
    _entered: Entered,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.app.metrics.connections.dec();
    }
}

/// Tells the wrapper of a connection where one request ends and the next begins.
struct Requests(Arc<HttpProxy<Gateway>>);

#[async_trait]
impl HttpServerApp for Requests {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if let Some(connection) = of(&session) {
            connection.has_head.store(false, Ordering::Relaxed);
            connection.request.fetch_add(1, Ordering::Relaxed);
        }
        self.0.process_new_http(session, shutdown).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.0.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.0.server_options()
    }

    async fn http_cleanup(&self) {
        self.0.http_cleanup().await;
    }
}

/// What is known of a connection; the wrapper and the chain of filters share it.
#[derive(Default)]
struct Connection {
    /// The head of a request is here: what is read now is its body.
    has_head: AtomicBool,
    /// Which request of the connection it is.
    request: AtomicU32,
}

/// The connection that a session is on; `None` for calls of the gateway's own.
fn of(session: &ServerSession) -> Option<&Connection> {
    let digest = session.digest()?.proxy_digest.as_ref()?;
    digest.user_data.as_ref()?.downcast_ref::<Arc<Connection>>().map(AsRef::as_ref)
}

/// The head of the request is here.
pub(super) fn has_head(s: &Session) {
    if let Some(connection) = of(&s.downstream_session) {
        connection.has_head.store(true, Ordering::Relaxed);
    }
}

/// A connection whose heads are watched.
struct Watched {
    inner: Stream,
    app: Arc<App>,
    connection: Arc<Connection>,
    /// How [`of`] finds it.
    digest: Arc<ProxyDigest>,
    /// As they were when the connection came.
    max_bytes: usize,
    timeout: Duration,
    /// Which request of the connection is read.
    request: u32,
    /// Since the first byte of a head that is not whole.
    since: Option<Instant>,
    /// Bytes of it.
    bytes: usize,
    /// Ends it.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Watched {
    fn new(inner: Stream, app: Arc<App>) -> Self {
        let connection = Arc::new(Connection::default());
        // Pingora keeps this for connections through a proxy. It is the one place of a connection that holds anything.
        let header = ResponseHeader::build(200, None).expect("200 is a status");
        let digest = ProxyDigest::new(Box::new(header), Some(Box::new(connection.clone())));
        let (max_bytes, timeout) = {
            let limits = &app.live().limits;
            (limits.max_header_bytes, limits.header_timeout)
        };
        Self {
            max_bytes,
            timeout,
            inner,
            app,
            connection,
            digest: Arc::new(digest),
            request: 0,
            since: None,
            bytes: 0,
            timer: None,
        }
    }

    fn metrics(&self) -> &Metrics {
        &self.app.metrics
    }

    /// Says why, as far as the socket takes it at once, and ends the connection.
    fn refuse(&mut self, cx: &mut Context<'_>, refused: &Rejection) -> Poll<io::Result<()>> {
        let bye = farewell(refused);
        let inner = Pin::new(&mut self.inner);
        if let Poll::Ready(Ok(_)) = inner.poll_write(cx, &bye) {
            let _ = Pin::new(&mut self.inner).poll_flush(cx);
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, refused.code.as_str())))
    }

    fn too_slow(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.metrics().limit(Limit::HeaderTime);
        let message = format!(
            "The request's headers did not arrive within {} s (header_timeout_s)",
            self.app.live().limits.header_timeout.as_secs()
        );
        self.refuse(cx, &Rejection::new(Code::HeaderTimeout, message))
    }

    fn too_large(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.metrics().limit(Limit::HeaderBytes);
        let message = format!(
            "The request's headers are over the limit of {} bytes (max_header_bytes)",
            self.app.live().limits.max_header_bytes
        );
        self.refuse(cx, &Rejection::new(Code::HeadersTooLarge, message))
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.connection.has_head.load(Ordering::Relaxed) {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        }
        let request = this.connection.request.load(Ordering::Relaxed);
        if this.request != request {
            this.request = request;
            (this.since, this.bytes, this.timer) = (None, 0, None);
        }
        // A head that were whole would have been told of before the next read.
        if this.bytes > this.max_bytes.saturating_add(SLACK) {
            return this.too_large(cx);
        }
        let timeout = this.timeout;
        let before = buf.filled().len();
        match Pin::new(&mut this.inner).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                this.bytes += buf.filled().len() - before;
                // Bytes that always come must not keep it from its end.
                match this.since {
                    None => this.since = Some(Instant::now()),
                    Some(since) if since.elapsed() >= timeout => return this.too_slow(cx),
                    Some(_) => {}
                }
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                let Some(since) = this.since else { return Poll::Pending };
                let until = || Box::pin(tokio::time::sleep_until((since + timeout).into()));
                let timer = this.timer.get_or_insert_with(until);
                match timer.as_mut().poll(cx) {
                    Poll::Ready(()) => this.too_slow(cx),
                    Poll::Pending => Poll::Pending,
                }
            }
            failed @ Poll::Ready(Err(_)) => failed,
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Shutdown for Watched {
    async fn shutdown(&mut self) {
        Shutdown::shutdown(&mut *self.inner).await;
    }
}

#[async_trait]
impl Peek for Watched {
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        self.inner.try_peek(buf).await
    }
}

impl UniqueID for Watched {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}

impl Ssl for Watched {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.selected_alpn_proto()
    }
}

impl GetTimingDigest for Watched {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.inner.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.inner.get_write_pending_time()
    }
}

impl GetProxyDigest for Watched {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.digest.clone())
    }
}

impl GetSocketDigest for Watched {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.inner.set_socket_digest(digest);
    }
}

/// A whole answer to somebody of whose request nothing is known.
fn farewell(refused: &Rejection) -> Vec<u8> {
    let body = refused.body(Protocol::Chat, "");
    let status = refused.code.status();
    let again = match refused.retry_after_s {
        Some(seconds) => format!("Retry-After: {seconds}\r\n"),
        None => String::new(),
    };
    let head = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{again}\
         Otari-Error-Source: gateway\r\nConnection: close\r\n\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        body.len(),
    );
    [head.into_bytes(), body].concat()
}
