//! A connection to the provider, and the head of the request on it.

use std::sync::Arc;
use std::time::Instant;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use otari_filters::providers::Family;
use otari_filters::upstream::sign::AwsKeys;
use otari_filters::upstream::{Failure, Upstream};
use pingora_core::prelude::{Error, ErrorType, OrErr as _};
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use crate::app::App;
use crate::clock;

use super::outgoing::{Outgoing, Payload};
use super::{Failed, Step, Watch, out_of_time, stopped};

/// What a call is proved with, beside the headers that every call of an upstream has.
pub(super) enum Proof {
    /// Those are enough.
    Known,
    /// A token.
    Bearer(HeaderValue),
    /// A signature with these keys.
    Keys(Arc<AwsKeys>),
}

/// A connection to the first of the addresses that takes one, and whether it is from the pool.
pub(super) async fn connect(
    app: &Arc<App>,
    s: &mut Session,
    watch: &mut Watch,
    peers: &[Arc<HttpPeer>],
) -> Result<(HttpSession, Arc<HttpPeer>, bool), Failed> {
    // Boxed: connecting takes kilobytes of state, which every open stream would carry to its end. Most calls find a
    // connection in the pool and need none of it.
    if let Some(peer) = peers.first()
        && let Some(session) = app.idle.take(peer)
    {
        return Ok((HttpSession::H1(session), peer.clone(), true));
    }
    let mut failure = Failure::Connect;
    for peer in peers {
        // At most twice per address: with HTTP/2, then without it.
        for _ in 0..2 {
            // The peer bounds this itself, TLS included; our own bound is a net below it.
            let until = Instant::now() + app.live().limits.connect_timeout * 3;
            let connecting = Box::pin(app.connector.get_http_session(&**peer));
            let error = match watch.step(s, until, connecting).await {
                Step::Got(Ok((session, reused))) => return Ok((session, peer.clone(), reused)),
                Step::Got(Err(error)) => error,
                Step::Gone(error) => return Err(Failed::CallerGone(error)),
                Step::Stopped => return Err(stopped()),
                Step::Timeout if watch.is_over() => return Err(out_of_time()),
                Step::Timeout => {
                    failure = Failure::ConnectTimeout;
                    break;
                }
            };
            failure = match error.etype() {
                ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => {
                    Failure::ConnectTimeout
                }
                ErrorType::H2Downgrade | ErrorType::InvalidH2 => {
                    app.connector.prefer_h1(&**peer);
                    continue;
                }
                _ => Failure::Connect,
            };
            tracing::debug!(%error, "no connection to a provider");
            break;
        }
    }
    Err(failure.into())
}

/// An allow-list, never a copy of the caller's header. `length`: of the body; `None`: nobody knows it yet.
pub(super) fn header(
    s: &Session,
    up: &HttpSession,
    upstream: &Upstream,
    outgoing: &Outgoing,
    proof: &Proof,
    length: Option<u64>,
) -> pingora_core::Result<RequestHeader> {
    let path = outgoing.path.clone();
    let mut parts = http::Request::new(()).into_parts().0;
    parts.method = Method::POST;
    parts.headers = upstream.headers.clone();
    match (length, up) {
        (Some(length), _) => drop(parts.headers.insert(CONTENT_LENGTH, length.into())),
        // Its frames say where a body ends.
        (None, HttpSession::H2(_)) => {}
        (None, _) => {
            drop(parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked")));
        }
    }
    if let Some(kind) = &outgoing.content_type {
        parts.headers.insert(CONTENT_TYPE, kind.clone());
    }
    parts.uri = if matches!(up, HttpSession::H2(_)) {
        let host = parts.headers.remove(HOST);
        let authority = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
        let scheme = if upstream.tls { "https" } else { "http" };
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path);
        uri.build().unwrap_or_default()
    } else {
        Uri::from(path)
    };
    prove(&mut parts.headers, upstream, outgoing, proof)?;
    if let Some(betas) = &outgoing.betas {
        parts.headers.insert(ANTHROPIC_BETA.clone(), betas.clone());
    }
    for name in of_caller(upstream) {
        for value in s.req_header().headers.get_all(name) {
            // One version at a time.
            if *name == ANTHROPIC_VERSION {
                parts.headers.insert(name.clone(), value.clone());
            } else if *name != ANTHROPIC_BETA || outgoing.betas.is_none() {
                parts.headers.append(name.clone(), value.clone());
            }
        }
    }
    Ok(parts.into())
}

/// Puts in what proves who calls, where the upstream's own headers do not.
fn prove(
    headers: &mut HeaderMap,
    upstream: &Upstream,
    outgoing: &Outgoing,
    proof: &Proof,
) -> pingora_core::Result<()> {
    match proof {
        Proof::Known => {}
        Proof::Bearer(value) => drop(headers.insert(AUTHORIZATION, value.clone())),
        Proof::Keys(keys) => {
            let now_s = u64::try_from(clock::now_us() / 1_000_000).unwrap_or(0);
            // No provider that wants signatures takes forms.
            let Payload::Pieces(body) = &outgoing.payload else {
                return Error::e_explain(ErrorType::InternalError, "a form cannot be signed");
            };
            let signed = upstream.sign(keys, &outgoing.path, body, now_s);
            headers.extend(signed.or_err(ErrorType::InternalError, "a call cannot be signed")?);
        }
    }
    Ok(())
}

/// What a caller may say in headers to the provider it belongs to: which version and which trials of its API the body
/// is written for.
fn of_caller(upstream: &Upstream) -> impl Iterator<Item = &'static HeaderName> {
    let (first, second) = match upstream.kind.family {
        Family::Anthropic => (Some(&ANTHROPIC_VERSION), Some(&ANTHROPIC_BETA)),
        Family::VertexAnthropic => (Some(&ANTHROPIC_BETA), None),
        Family::OpenAi if upstream.kind.name == "openai" => (Some(&OPENAI_BETA), None),
        _ => (None, None),
    };
    first.into_iter().chain(second)
}

static ANTHROPIC_BETA: HeaderName = HeaderName::from_static("anthropic-beta");
static ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");
static OPENAI_BETA: HeaderName = HeaderName::from_static("openai-beta");

/// Returns a connection to its pool, or closes it.
///
/// HTTP/2 streams share their connection, which must return to its pool even when the stream failed.
pub(in crate::proxy) async fn give_back(
    app: &App,
    mut up: HttpSession,
    peer: &Arc<HttpPeer>,
    complete: bool,
) {
    let is_h2 = matches!(up, HttpSession::H2(_));
    if !complete {
        up.shutdown().await;
    }
    match up {
        HttpSession::H1(session) if complete => app.idle.keep(session, peer).await,
        up if is_h2 => {
            // Boxed, like connecting.
            let idle = peer.options.idle_timeout;
            Box::pin(app.connector.release_http_session(up, &**peer, idle)).await;
        }
        _ => {}
    }
}
