//! A call that the gateway makes by itself, on behalf of a caller who is not there: it walks the same chain as one from
//! outside, over a pair of pipes in memory instead of a socket. Gates, holds, retries, rows, metrics and the log line are
//! the ordinary ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method};
use otari_filters::control::Caller;
use otari_filters::protocol::Protocol;
use pingora_core::prelude::{Error, ErrorType, Result};
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_http::RequestHeader;
use pingora_proxy::{ProxyHttp as _, Session};

use crate::app::App;
use crate::batches::{Inner, InnerAnswer};
use crate::proxy::call::Stop;
use crate::proxy::{Active, Gateway, generate, logging, reply};
use crate::routes::{self, Found, Side};

/// What either pipe holds before its writer waits.
const PIPE_BYTES: usize = 64 << 10;
/// The longest answer that is kept.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Beyond what a whole request may take: the chain ends it by itself before that.
const MARGIN: Duration = Duration::from_secs(30);
/// Calls of others in flight, per thread, that make the gateway busy.
const BUSY_PER_THREAD: usize = 32;

/// One call.
pub struct Ask {
    /// Whose it is; their credential is not looked at again.
    pub caller: Caller,
    /// The API it is written for.
    pub protocol: Protocol,
    /// A whole request body.
    pub body: Bytes,
    /// See [`RequestContext::own`](crate::proxy::RequestContext::own).
    pub own: Option<&'static str>,
}

/// Makes a call and reads the answer whole. A call that comes to no answer has the status 0.
pub async fn ask(app: &Arc<App>, ask: Ask) -> InnerAnswer {
    let within = app.live().limits.request_timeout + MARGIN;
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let Ask { caller, protocol, body, own } = ask;
    let serving = Box::pin(async move {
        let mut s = Session::new_h1(Box::new(far));
        if s.downstream_session.read_request().await.is_ok() {
            serve(app, &mut s, caller, protocol, own).await;
        }
    });
    let asking = Box::pin(async move {
        let mut session = HttpSession::new(Box::new(near));
        send_and_read(&mut session, protocol.route(), body).await
    });
    let both = async { tokio::join!(serving, asking).1 };
    let answer = match tokio::time::timeout(within, both).await {
        Ok(Ok(answer)) => return answer,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it took too long".to_owned(),
    };
    tracing::debug!(error = answer, "a call of the gateway's own came to no answer");
    InnerAnswer { status: 0, headers: HeaderMap::new(), body: Bytes::new() }
}

/// The chain, from where the caller is known.
async fn serve(
    app: &Arc<App>,
    s: &mut Session,
    caller: Caller,
    protocol: Protocol,
    own: Option<&'static str>,
) {
    let mut ctx = Gateway(app.clone(), Side::Only).new_ctx();
    let path = protocol.route();
    if let Found::Route(route, _) = routes::find(app.surface(), &Method::POST, path) {
        ctx.route = Some(route);
    }
    ctx.started = Instant::now();
    ctx.protocol = protocol;
    ctx.own = own;
    ctx.caller = Some(caller);
    ctx.in_flight = Some(Active::new(app));
    // One call on each pair of pipes.
    s.downstream_session.set_keepalive(None);
    let served = match generate::serve(app, s, &mut ctx, protocol).await {
        Err(Stop::Refused(refused)) => reply::refuse(s, &mut ctx, *refused).await,
        Err(Stop::Broken(error)) => Err(error),
        Ok(()) => Ok(()),
    };
    if let Err(error) = &served {
        reply::fail(s, error, &mut ctx).await;
    }
    logging::finish(app, s, served.as_ref().err().map(|error| &**error), &mut ctx);
    s.downstream_session.shutdown().await;
}

async fn send_and_read(session: &mut HttpSession, path: &str, body: Bytes) -> Result<InnerAnswer> {
    let mut head = RequestHeader::build(Method::POST, path.as_bytes(), Some(3))?;
    head.insert_header(HOST, HeaderValue::from_static("otari"))?;
    head.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/json"))?;
    head.insert_header(CONTENT_LENGTH, body.len())?;
    session.write_request_header(Box::new(head)).await?;
    session.write_body(&body).await?;
    session.finish_body().await?;
    let head = session.read_resp_header_parts().await?;
    let mut whole = BytesMut::new();
    while let Some(piece) = session.read_body_bytes().await? {
        if whole.len() + piece.len() > MAX_ANSWER_BYTES {
            return Err(Error::explain(ErrorType::InternalError, "the answer is too long"));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(InnerAnswer {
        status: head.status.as_u16(),
        headers: head.headers.clone(),
        body: whole.freeze(),
    })
}

/// Calls for the items of batches.
pub struct InnerCalls(
    /// Everything they need.
    pub Arc<App>,
);

#[async_trait]
impl Inner for InnerCalls {
    async fn complete(&self, caller: Caller, body: Bytes) -> InnerAnswer {
        ask(&self.0, Ask { caller, protocol: Protocol::Chat, body, own: None }).await
    }

    fn is_busy(&self, own: usize) -> bool {
        let others = self.0.life.in_flight().saturating_sub(own);
        others >= BUSY_PER_THREAD * self.0.config.threads.max(1)
    }
}
