//! A platform to test against: the other side of connected mode. It resolves models into attempts, takes reports,
//! settles them, and can be slow, wrong or broken, as its [`Script`] says. It remembers what it was told and what a
//! gateway did wrong. Used by our tests and benchmarks, by `otari mock-platform`, and by whoever writes a platform.
//!
//! Everything is below [`BASE_PATH`]. Without any rule:
//!
//! | Request | Answer |
//! | --- | --- |
//! | `POST gateway/provider-keys/resolve` | one attempt for the model asked, at [`Script::default_provider`] |
//! | `POST gateway/usage` | a success: 200 and its settlement; an error: 204 |
//! | `POST gateway/mcp-servers/resolve` | `{"servers":[]}` |
//! | `POST gateway/web-search/resolve`, `POST gateway/code-execution/resolve` | `{"enabled":false}` |
//! | `GET utils/health-check/` | 200 |
//!
//! Before any rule: 405 for another method, 401 without `X-Gateway-Token` or with a wrong one, 401 for a call that
//! lacks `X-User-Token`, 500 for a report that carries it, 422 for a body that is no JSON object.
//!
//! # Rules
//!
//! ```json
//! {"gateway_token": "gw_1",
//!  "resolve": [
//!    {"when": {"model": "down", "first": 2}, "then": {"status": 503}},
//!    {"when": {"model": "two"}, "then": {"attempts": [
//!      {"attempt_id": "first-{n}", "provider": "openai", "api_base": "http://127.0.0.1:9100/v1", "api_key": "k1"},
//!      {"provider": "anthropic", "model": "claude", "api_key": "k2", "extra_params": {"region": "eu"}}]}}],
//!  "usage": [
//!    {"when": {"status": "success", "chance": 10}, "then": {"delay_ms": 300, "fault": "close"}}]}
//! ```
//!
//! The first rule that matches wins. All fields are those of [`Script`], [`script::When`] and [`script::Then`].
//!
//! # Over HTTP
//!
//! | Request | What it does |
//! | --- | --- |
//! | `PUT /__platform/script` | takes a script; counters of `first` start anew. 400 says what is wrong with it |
//! | `GET /__platform/seen` | `{"counts", "resolves", "reports", "others", "violations", "duplicates"}`; lists hold the latest 10000, oldest first; credentials are masked |
//! | `DELETE /__platform/seen` | forgets all of that |

mod answer;
mod connection;
mod endpoint;
mod inspect;
mod playbook;
mod record;
pub mod script;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::http::Request;
use answer::{Answer, REDIRECTED};
use endpoint::Endpoint;
use inspect::Tokens;
use playbook::{Asked, Playbook};
use record::{List, Memory, Place, kept_text};

pub use record::{Counts, Headers, Seen};
pub use script::{Fault, Rule, Script, Then, When};

/// Path of the base URL.
pub const BASE_PATH: &str = "/api/v1";

/// Entries of each list that `GET /__platform/seen` shows: it is built in memory.
const MAX_SHOWN: usize = 10_000;

/// A platform, and what it remembers. Clones are the same platform; several listeners may share one.
#[derive(Clone)]
pub struct Platform {
    state: Arc<State>,
}

impl Platform {
    /// A platform that has seen nothing yet. [`Script::check`] tells mistakes; here they are not looked for.
    pub fn new(script: Script) -> Self {
        let state = State {
            memory: Memory::new(script.keep),
            playbook: ArcSwap::from_pointee(Playbook::new(script)),
            plans: AtomicU64::new(0),
            started: Instant::now(),
        };
        Self { state: Arc::new(state) }
    }

    /// Serves `listener` until `shutdown` resolves, then drops every connection. May be called again with another
    /// listener: what was seen stays.
    ///
    /// # Errors
    /// When the listener has no address any more; a failed accept is waited out.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        super::accept(listener, shutdown, |stream| {
            connection::serve(stream, Arc::clone(&self.state))
        })
        .await
    }

    /// Replaces the script. Counters of `first` and the generator start anew, the numbers of plans go on.
    pub fn script(&self, script: Script) {
        self.state.play(script);
    }

    /// Reports, accepted or not, in the order in which they came.
    pub fn reports(&self) -> Vec<Seen> {
        self.state.memory.list(List::Reports)
    }

    /// Calls for provider keys, in the order in which they came.
    pub fn resolves(&self) -> Vec<Seen> {
        self.state.memory.list(List::Resolves)
    }

    /// Everything else, in the order in which it came: health probes, tool calls, unknown paths.
    pub fn others(&self) -> Vec<Seen> {
        self.state.memory.list(List::Others)
    }

    /// What the gateway did wrong, in sentences.
    pub fn violations(&self) -> Vec<String> {
        self.state.memory.violations()
    }

    /// Correlation ids of which more than one report was accepted, sorted. An answer that the gateway did not wait
    /// for counts as accepted: a real platform would have booked it.
    pub fn duplicates(&self) -> Vec<String> {
        self.state.memory.duplicates()
    }

    /// How many there were, whatever is kept.
    pub fn counts(&self) -> Counts {
        self.state.memory.counts()
    }

    /// Forgets what was seen, but not which attempts were given out: their reports may still come.
    pub fn clear(&self) {
        self.state.memory.clear();
    }
}

/// What connections share.
struct State {
    playbook: ArcSwap<Playbook>,
    memory: Memory,
    /// Resolve calls answered with a plan: the `{n}` of the next.
    plans: AtomicU64,
    started: Instant,
}

impl State {
    fn play(&self, script: Script) {
        if !script.keep {
            self.memory.forget_given();
        }
        self.playbook.store(Arc::new(Playbook::new(script)));
    }

    /// Decides the answer to a request, and remembers both.
    fn hear(&self, request: &Request<'_>) -> (Answer, Option<Place>) {
        let (path, query) = request.target.split_once('?').unwrap_or((request.target, ""));
        if let Some(answer) = self.administer(request, path) {
            return (answer, None);
        }
        let book = self.playbook.load();
        let keep = book.script.keep;
        let mut wrong = Vec::new();
        if !query.is_empty() {
            wrong.push(format!("{path}: carries a query"));
        }
        let endpoint = path.strip_prefix(BASE_PATH).and_then(Endpoint::of);
        let (answer, list, body) = match endpoint {
            Some(endpoint) => self.at(endpoint, request, &book, &mut wrong),
            None => (unknown(request.method, path, &mut wrong), List::Others, Value::Null),
        };
        if keep && list == List::Reports && answer.status != 401 {
            if let Some(id) = body["correlation_id"].as_str() {
                wrong.extend(self.memory.told(id, &body, &answer));
            }
        } else if keep && list == List::Resolves {
            self.memory.given(answer.given.clone());
        }
        self.memory.blame(wrong);
        let accepted = (200..300).contains(&answer.wire_status()) && answer.fault.is_none();
        self.memory.count(list, accepted, body["status"] == json!("success"));
        let place = keep.then(|| {
            let seen = Seen {
                at_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
                method: request.method.to_owned(),
                path: request.target.to_owned(),
                headers: Headers::of(request.fields),
                body: kept_text(request.body),
                status: answer.wire_status(),
                fault: answer.fault,
                answer: kept_text(&answer.body),
                abandoned: false,
            };
            self.memory.keep(list, seen)
        });
        (answer, place)
    }

    /// Answers at a known endpoint.
    fn at(
        &self,
        endpoint: Endpoint,
        request: &Request<'_>,
        book: &Playbook,
        wrong: &mut Vec<String>,
    ) -> (Answer, List, Value) {
        let list = match endpoint {
            Endpoint::Resolve => List::Resolves,
            Endpoint::Usage => List::Reports,
            _ => List::Others,
        };
        if request.method != endpoint.method() {
            let (name, method) = (endpoint.name(), endpoint.method());
            wrong.push(format!("{name}: asked with {}, not {method}", request.method));
            let answer = Answer::detail(405, "Method Not Allowed").header("allow", method);
            return (answer, list, Value::Null);
        }
        let tokens = inspect::headers(endpoint, request, wrong);
        let mut body = Value::Null;
        if endpoint != Endpoint::Health {
            body = serde_json::from_slice(request.body).unwrap_or_default();
            inspect::body(endpoint, &body, wrong);
            if let Some(refusal) = refused(endpoint, tokens, &book.script, &body) {
                return (refusal, list, body);
            }
        }
        let asked = Asked { endpoint, user_token: tokens.user, body: &body };
        let n = match endpoint {
            Endpoint::Resolve => self.plans.fetch_add(1, Relaxed) + 1,
            _ => self.plans.load(Relaxed),
        };
        let mut answer = answer::answer(&book.script, book.rule(&asked), &asked, n);
        if answer.fault == Some(Fault::Redirect) {
            if !(300..400).contains(&answer.status) {
                answer.status = 307;
            }
            answer =
                answer.header("location", &format!("{BASE_PATH}{}{REDIRECTED}", endpoint.path()));
        }
        (answer, list, body)
    }

    /// Answers what people ask about the platform itself.
    fn administer(&self, request: &Request<'_>, path: &str) -> Option<Answer> {
        let path = path.strip_prefix("/__platform/")?;
        Some(match (request.method, path) {
            ("PUT", "script") => match Script::from_json(request.body) {
                Ok(script) => {
                    self.play(script);
                    Answer::json(200, &json!({}))
                }
                Err(error) => Answer::detail(400, &error),
            },
            ("GET", "seen") => Answer::json(200, &self.show()),
            ("DELETE", "seen") => {
                self.memory.clear();
                Answer::json(200, &json!({}))
            }
            _ => Answer::detail(404, "PUT script, GET seen and DELETE seen are known here"),
        })
    }

    fn show(&self) -> Value {
        fn latest<T>(mut list: Vec<T>) -> Vec<T> {
            list.split_off(list.len().saturating_sub(MAX_SHOWN))
        }
        let memory = &self.memory;
        json!({
            "counts": memory.counts(),
            "resolves": latest(memory.list(List::Resolves)),
            "reports": latest(memory.list(List::Reports)),
            "others": latest(memory.list(List::Others)),
            "violations": latest(memory.violations()),
            "duplicates": latest(memory.duplicates()),
        })
    }

    fn blame(&self, mistake: String) {
        self.memory.blame(vec![mistake]);
    }
}

/// What a platform refuses whatever its script says.
fn refused(
    endpoint: Endpoint,
    tokens: Tokens<'_>,
    script: &Script,
    body: &Value,
) -> Option<Answer> {
    let accepted = |token| script.gateway_token.as_deref().is_none_or(|wanted| wanted == token);
    if !tokens.gateway.is_some_and(accepted) {
        return Some(Answer::detail(401, "mock platform: X-Gateway-Token is missing or wrong"));
    }
    match (endpoint.takes_user_token(), tokens.user) {
        (true, None) => Some(Answer::detail(401, "mock platform: X-User-Token is missing")),
        (false, Some(_)) => {
            Some(Answer::detail(500, "mock platform: X-User-Token does not belong on a report"))
        }
        _ if !body.is_object() => {
            Some(Answer::detail(422, "mock platform: the body is no JSON object"))
        }
        _ => None,
    }
}

fn unknown(method: &str, path: &str, wrong: &mut Vec<String>) -> Answer {
    wrong.push(match path.strip_suffix(REDIRECTED) {
        Some(from) => format!("{from}: a redirect was followed"),
        None => format!("{path}: {method} to an unknown path"),
    });
    Answer::detail(404, "Not Found")
}
