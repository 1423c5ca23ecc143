//! What the mock remembers of its callers: counters per model, and the last requests when asked to.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::json;

use super::batches::Batches;
use super::http::{Request, field, lines};

/// Requests kept.
const MAX_REQUESTS: usize = 64;

/// Bytes kept of each body.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Models counted by name; the rest share one entry.
const MAX_MODELS: usize = 1024;
const OTHER_MODELS: &str = "(other)";

/// `fail_first` series remembered; past that all start again.
const MAX_SERIES: usize = 4096;

/// Headers that hold credentials.
const SECRET: [&str; 8] = [
    "authorization",
    "proxy-authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "otari-key",
    "x-amz-security-token",
    "cookie",
];

/// Options of queries and fields of forms that hold credentials.
const SECRET_PAIRS: [&str; 5] = ["key", "assertion", "refresh_token", "client_secret", "apikey"];

/// The content type of forms.
const FORM: &[u8] = b"application/x-www-form-urlencoded";

/// Counters of one model.
#[derive(Debug, Default)]
pub(super) struct Counter {
    pub(super) requests: AtomicU64,
    /// Of these, answers the caller did not wait for.
    pub(super) disconnected: AtomicU64,
}

#[derive(Serialize)]
struct Recorded {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body_bytes: usize,
    body: String,
}

/// The memory of one server.
#[derive(Default)]
pub(super) struct Record {
    bodies: bool,
    total: AtomicU64,
    models: Mutex<BTreeMap<String, Arc<Counter>>>,
    series: Mutex<HashMap<String, u32>>,
    recent: Mutex<VecDeque<Recorded>>,
    pub(super) batches: Batches,
}

impl Record {
    /// `bodies`: keep requests, not only counters.
    pub(super) fn new(bodies: bool) -> Self {
        Self { bodies, ..Self::default() }
    }

    /// Notes a request of any kind.
    pub(super) fn note(&self, request: &Request<'_>) {
        self.total.fetch_add(1, Relaxed);
        if !self.bodies {
            return;
        }
        let kept = &request.body[..request.body.len().min(MAX_BODY_BYTES)];
        let kept = String::from_utf8_lossy(kept);
        let form = lines(request.fields).filter_map(field).any(|(name, value)| {
            name.eq_ignore_ascii_case(b"content-type") && value.starts_with(FORM)
        });
        let recorded = Recorded {
            method: request.method.to_owned(),
            path: match request.target.split_once('?') {
                Some((path, query)) => format!("{path}?{}", masked_pairs(query)),
                None => request.target.to_owned(),
            },
            headers: lines(request.fields).filter_map(field).map(header).collect(),
            body_bytes: request.body.len(),
            body: if form { masked_pairs(&kept) } else { kept.into_owned() },
        };
        let mut recent = self.recent.lock();
        if recent.len() == MAX_REQUESTS {
            recent.pop_front();
        }
        recent.push_back(recorded);
    }

    /// The counter of a model, named without options.
    pub(super) fn counter(&self, model: &str) -> Arc<Counter> {
        let mut models = self.models.lock();
        if let Some(counter) = models.get(model) {
            return Arc::clone(counter);
        }
        let name = if models.len() < MAX_MODELS { model } else { OTHER_MODELS };
        Arc::clone(models.entry(name.to_owned()).or_default())
    }

    /// Counts one more request of a `fail_first` series; the first is 1.
    pub(super) fn attempt(&self, series: &str) -> u32 {
        let mut all = self.series.lock();
        if all.len() >= MAX_SERIES && !all.contains_key(series) {
            all.clear();
        }
        let count = all.entry(series.to_owned()).or_default();
        *count = count.saturating_add(1);
        *count
    }

    /// Requests since the start or the last reset, introspection apart.
    pub(super) fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// Everything as JSON; requests oldest first.
    pub(super) fn show(&self) -> Vec<u8> {
        let mut models = serde_json::Map::new();
        for (name, counter) in self.models.lock().iter() {
            let requests = counter.requests.load(Relaxed);
            let disconnected = counter.disconnected.load(Relaxed);
            // Connections hold on to their counter, so a reset sets it to zero and it stays here.
            if requests > 0 {
                models.insert(
                    name.clone(),
                    json!({"requests": requests, "disconnected": disconnected}),
                );
            }
        }
        let text = json!({
            "total": self.total(), "models": models, "recording": self.bodies,
            "requests": &*self.recent.lock(),
        });
        text.to_string().into_bytes()
    }

    /// Forgets everything.
    pub(super) fn reset(&self) {
        self.total.store(0, Relaxed);
        for counter in self.models.lock().values() {
            counter.requests.store(0, Relaxed);
            counter.disconnected.store(0, Relaxed);
        }
        self.series.lock().clear();
        self.recent.lock().clear();
    }
}

fn header((name, value): (&[u8], &[u8])) -> (String, String) {
    let name = String::from_utf8_lossy(name).into_owned();
    let value = String::from_utf8_lossy(value);
    let value = if is_secret(&name) { masked(&value) } else { value.into_owned() };
    (name, value)
}

/// A query or a form without the values that are credentials.
fn masked_pairs(text: &str) -> String {
    let pairs = text.split('&').map(|pair| match pair.split_once('=') {
        Some((name, value)) if SECRET_PAIRS.contains(&name) => format!("{name}={}", masked(value)),
        _ => pair.to_owned(),
    });
    pairs.collect::<Vec<_>>().join("&")
}

/// Whether a header of this name holds credentials.
pub(super) fn is_secret(name: &str) -> bool {
    SECRET.iter().any(|secret| name.eq_ignore_ascii_case(secret))
}

/// The scheme and the last four characters; short credentials show nothing.
pub(super) fn masked(value: &str) -> String {
    let (scheme, secret) = value.split_once(' ').unwrap_or(("", value));
    let space = if scheme.is_empty() { "" } else { " " };
    let length = secret.chars().count();
    let tail: String = secret.chars().skip(if length > 8 { length - 4 } else { length }).collect();
    format!("{scheme}{space}***{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_show_their_last_four_characters() {
        assert_eq!(masked("Bearer sk-1234567890"), "Bearer ***7890");
        assert_eq!(masked("gw-abcdefgh"), "***efgh");
        assert_eq!(masked("x"), "***", "four characters of a short secret would be most of it");
    }

    #[test]
    fn credentials_in_queries_and_forms_are_masked() {
        assert_eq!(masked_pairs("alt=sse&key=AIza-123456"), "alt=sse&key=***3456");
        assert_eq!(masked_pairs("grant_type=x&assertion=a.b.c"), "grant_type=x&assertion=***");
    }

    #[test]
    fn models_past_the_limit_share_a_counter() {
        let record = Record::new(false);
        for n in 0..MAX_MODELS + 10 {
            record.counter(&n.to_string()).requests.fetch_add(1, Relaxed);
        }
        assert_eq!(record.counter("another").requests.load(Relaxed), 10);
    }
}
