//! Running code: a session of a sandbox for one request.
//!
//! The sandbox is a service of the operator's, spoken to as the reference gateway does, or processes of this machine.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::uri::PathAndQuery;
use otari_filters::secret::Secret;
use otari_filters::tools::result::{self, Failure};
use otari_filters::tools::{CODE_EXECUTION, ToolCall};
use otari_filters::upstream::Upstream;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::local_sandbox::LocalSandbox;
use super::{header, upstream};
use crate::outbound::{self, Answer, Call, Outbound};

/// For a session to begin.
const OPEN: Duration = Duration::from_secs(60);
/// What code may take, as the sandbox is told.
const RUN: Duration = Duration::from_secs(60);
/// What the sandbox has on top of that to say so.
const SLACK: Duration = Duration::from_secs(10);
/// For the last word.
const GOODBYE: Duration = Duration::from_secs(3);
/// The longest answer.
const MAX_ANSWER_BYTES: usize = 8 << 20;
/// The longest program.
const MAX_CODE_BYTES: usize = 1 << 20;

/// Why there is no session, for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoSession {
    #[error("the sandbox: {0}")]
    Failed(#[from] outbound::Error),
    #[error("the sandbox answers {0}")]
    Status(u16),
    #[error("the sandbox names no session")]
    NoId,
    #[error("no local sandbox: {0}")]
    Local(String),
}

/// A session, and whoever uses it: one program after the other, because they share its files.
pub(super) struct Session {
    turn: Mutex<()>,
    place: Place,
}

enum Place {
    Service { outbound: Outbound, upstream: Arc<Upstream>, id: String },
    Local(LocalSandbox),
}

impl Session {
    /// Begins a session of the service at `url`. `token`: whose code it is, where the service is the platform's.
    pub(super) async fn open(
        outbound: &Outbound,
        url: &str,
        token: Option<&Secret>,
    ) -> Result<Self, NoSession> {
        let bearer =
            token.and_then(|token| header("authorization", &format!("Bearer {}", token.expose())));
        let upstream = upstream("sandbox", url, bearer.as_slice());
        let upstream = Arc::new(upstream.ok_or(outbound::Error::Invalid("its address is no URL"))?);
        let call = Call::post(path(&upstream, "")?, "{}", OPEN, MAX_ANSWER_BYTES);
        let answer = outbound.call(&upstream, call).await?;
        if !answer.is_success() {
            return Err(NoSession::Status(answer.status));
        }
        let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let id = said["session_id"].as_str().filter(|id| is_id(id)).ok_or(NoSession::NoId)?;
        let place = Place::Service { outbound: outbound.clone(), upstream, id: id.to_owned() };
        Ok(Self { turn: Mutex::new(()), place })
    }

    /// Begins one on this machine.
    pub(super) async fn local() -> Result<Self, NoSession> {
        let sandbox = LocalSandbox::open().await.map_err(NoSession::Local)?;
        Ok(Self { turn: Mutex::new(()), place: Place::Local(sandbox) })
    }

    /// Runs the program of a call.
    pub(super) async fn run(&self, call: &ToolCall) -> Result<String, Failure> {
        let Some(code) = call.arguments.get("code").and_then(Value::as_str) else {
            let what = "give the program in the argument `code`, as text";
            return Err(Failure::Said(what.to_owned()));
        };
        if code.len() > MAX_CODE_BYTES {
            let what = format!("a program may have {MAX_CODE_BYTES} bytes");
            return Err(Failure::Said(what));
        }
        let _turn = self.turn.lock().await;
        let block = match &self.place {
            Place::Local(sandbox) => sandbox.run(code).await?,
            Place::Service { outbound, upstream, id } => exec(outbound, upstream, id, code).await?,
        };
        Ok(result::sandbox(&block))
    }

    /// Ends the session.
    pub(super) async fn close(self) {
        match self.place {
            Place::Local(sandbox) => sandbox.close().await,
            Place::Service { outbound, upstream, id } => {
                let Ok(path) = path(&upstream, &format!("/{id}")) else { return };
                let mut call = Call::get(path, GOODBYE, MAX_ANSWER_BYTES);
                call.method = Method::DELETE;
                if let Err(error) = outbound.call(&upstream, call).await {
                    tracing::warn!(%error, "a sandbox session could not be ended");
                }
            }
        }
    }
}

async fn exec(
    outbound: &Outbound,
    upstream: &Upstream,
    id: &str,
    code: &str,
) -> Result<Value, Failure> {
    let body = json!({"tool": CODE_EXECUTION, "input": {"code": code},
        "timeout_seconds": RUN.as_secs()});
    let path = path(upstream, &format!("/{id}/exec")).map_err(|_| Failure::BadAnswer)?;
    let call = Call::post(path, body.to_string(), RUN + SLACK, MAX_ANSWER_BYTES);
    let answer = outbound.call(upstream, call).await.map_err(|error| failure(&error))?;
    read(&answer)
}

fn read(answer: &Answer) -> Result<Value, Failure> {
    if !answer.is_success() {
        return Err(Failure::Status(answer.status));
    }
    let mut said: Value = serde_json::from_slice(&answer.body).map_err(|_| Failure::BadAnswer)?;
    let block = said.get_mut("result_block").map(Value::take);
    block.filter(Value::is_object).ok_or(Failure::BadAnswer)
}

/// What the model is told of a call that has no answer.
pub(super) fn failure(error: &outbound::Error) -> Failure {
    match error {
        outbound::Error::Timeout => Failure::Timeout,
        outbound::Error::TooLarge(_) => Failure::TooLarge,
        _ => Failure::Unreachable,
    }
}

fn path(upstream: &Upstream, rest: &str) -> Result<PathAndQuery, outbound::Error> {
    let path = format!("{}/sessions{rest}", upstream.base_path());
    path.parse().map_err(|_| outbound::Error::Invalid("its address makes no path"))
}

/// What can stand in a path without meaning anything there.
fn is_id(id: &str) -> bool {
    (1..=200).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte))
        && !id.bytes().all(|byte| byte == b'.')
}
