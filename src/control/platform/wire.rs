//! What a client of the platform needs of the network. The proxy has it: its connections cost a fraction of what a
//! client for everything costs, and every request in connected mode makes two calls.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};

/// No answer of a platform is near this; what is longer is not from one.
pub const MAX_ANSWER_BYTES: usize = 1 << 20;

/// One call.
#[derive(Debug)]
pub struct Call {
    /// `GET` without a body, `POST` with one.
    pub method: Method,
    /// What follows the platform's base URL; without a slash in front.
    pub path: Box<str>,
    /// Beside those that every call has.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// JSON.
    pub body: Bytes,
    /// The whole of it, connecting included.
    pub within: Duration,
}

/// What the platform answered.
#[derive(Debug)]
pub struct Answer {
    /// 200 to 599.
    pub status: u16,
    /// `Retry-After`, as sent.
    pub retry_after: Option<HeaderValue>,
    /// Whole.
    pub body: Bytes,
}

/// Connections to one platform.
#[async_trait]
pub trait Wire: Send + Sync {
    /// Makes a call, once.
    ///
    /// # Errors
    /// Why there is no answer, without an address, a token or a body.
    async fn call(&self, call: Call) -> Result<Answer, String>;

    /// From now on connections have so long to open.
    fn follow(&self, connect_timeout: Duration);

    /// Closes idle connections that are of no more use.
    fn sweep(&self);
}
