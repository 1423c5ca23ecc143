//! The gateway as Pingora sees it: one line per phase.

pub mod addresses;
pub mod door;
pub mod admission;
pub mod cors;
mod request;
mod body;
mod spool;
mod upload;
mod form;
mod gates;
mod generate;
mod attach;
mod tools;
mod operations;
mod batches;
pub mod inner;
pub mod breaker;
pub mod idle;
mod call;
mod open;
mod exchange;
mod relay;
mod files;
mod search;
pub mod refusals;
pub mod link;
mod reply;
mod logging;

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use otari_filters::control::Caller;
use otari_filters::guardrails::Judged;
use otari_filters::limit::Quota;
use otari_filters::meter::Usage;
use otari_filters::money::MicroUsd;
use otari_filters::protocol::Protocol;
use otari_filters::rates::Told;
use pingora_core::prelude::{Error, ErrorType, HttpPeer, Result};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use prometheus::IntGauge;

use crate::app::App;
use crate::life::InFlight;
use crate::proxy::admission::Places;
use crate::proxy::cors::Origin;
use crate::routes::{Route, Side};

/// Serves requests.
pub struct Gateway(
    /// Everything they need.
    pub Arc<App>,
    /// Where they came to.
    pub Side,
);

/// What is known of one request; each step fills its part.
pub struct RequestContext {
    /// Ours, a UUIDv7: in headers, log line, usage rows.
    pub id: Box<str>,
    /// Arrival.
    pub started: Instant,
    /// The gateway asks by itself, for a caller's sake: the endpoint of the request that it helps.
    pub own: Option<&'static str>,
    /// Which address it came to.
    pub side: Side,
    /// Dialect of errors.
    pub protocol: Protocol,
    /// The page of another site that asks; `None`: no page, or CORS is off.
    pub origin: Option<Origin>,
    /// `None`: no such path.
    pub route: Option<&'static Route>,
    /// Who called.
    pub caller: Option<Caller>,
    /// Who pays.
    pub user_id: Option<Arc<str>>,
    /// Their rate limit.
    pub quota: Option<Quota>,
    /// What is left of further limits.
    pub rates: Told,
    /// The platform's name for the request.
    pub plan_id: Option<Box<str>>,
    /// The platform's name for the attempt that serves.
    pub attempt_id: Option<Box<str>>,
    /// What of the request the provider's format cannot express; empty: nothing.
    pub dropped: String,
    /// The checks of what was asked and answered.
    pub judged: Vec<Judged>,
    /// What the log line says of the end.
    pub outcome: Outcome,
    /// Counts the request in flight until the context is dropped.
    pub in_flight: Option<Active>,
}

/// A request in flight, for draining and for the gauge; counts down when dropped, also by a panic.
pub struct Active {
    gauge: IntGauge,
    /// What it occupies.
    places: Places,
    _in_flight: InFlight,
}

impl Active {
    fn new(app: &App) -> Self {
        app.metrics.active.inc();
        Self {
            gauge: app.metrics.active.clone(),
            places: Places::default(),
            _in_flight: app.life.enter(),
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// The end of a request, as far as it is known.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Status the caller saw; 0 when none was written.
    pub status: u16,
    /// Code of a refusal or of an early end.
    pub code: Option<&'static str>,
    /// Model as asked.
    pub model: Option<Box<str>>,
    /// Provider that was called last.
    pub provider: Option<Box<str>>,
    /// Whether the answer was a stream.
    pub streamed: bool,
    /// Calls to providers.
    pub attempts: u16,
    /// Tokens.
    pub usage: Option<Usage>,
    /// Cost.
    pub cost: Option<MicroUsd>,
    /// Arrival to first byte.
    pub first_byte_ms: Option<u32>,
    /// For the log only.
    pub error: Option<String>,
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = RequestContext;

    fn new_ctx(&self) -> RequestContext {
        RequestContext {
            id: uuid::Uuid::now_v7().to_string().into(),
            started: Instant::now(),
            own: None,
            side: self.1,
            protocol: Protocol::default(),
            origin: None,
            route: None,
            caller: None,
            user_id: None,
            quota: None,
            rates: Told::default(),
            plan_id: None,
            attempt_id: None,
            dropped: String::new(),
            judged: Vec::new(),
            outcome: Outcome::default(),
            in_flight: None,
        }
    }

    async fn request_filter(&self, s: &mut Session, ctx: &mut RequestContext) -> Result<bool> {
        request::admit(&self.0, s, ctx).await
    }

    async fn upstream_peer(
        &self,
        _: &mut Session,
        _: &mut RequestContext,
    ) -> Result<Box<HttpPeer>> {
        // Every route is answered in `request_filter`; the first that only passes through will come here.
        Err(Error::explain(ErrorType::InternalError, "no route passes through"))
    }

    async fn fail_to_proxy(
        &self,
        s: &mut Session,
        error: &Error,
        ctx: &mut RequestContext,
    ) -> FailToProxy {
        reply::fail(s, error, ctx).await
    }

    async fn logging(&self, s: &mut Session, error: Option<&Error>, ctx: &mut RequestContext) {
        logging::finish(&self.0, s, error, ctx);
    }

    fn suppress_error_log(&self, _: &Session, _: &RequestContext, _: &Error) -> bool {
        // `logging` writes one line, with the error in it.
        true
    }
}
