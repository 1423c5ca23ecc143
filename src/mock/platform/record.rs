//! What a platform remembers: requests with their answers, mistakes, and which attempts were reported how often.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use serde::Serialize;
use serde::ser::SerializeSeq as _;
use serde_json::{Value, json};

use super::super::http::{field, lines};
use super::super::record::masked;
use super::answer::Answer;
use super::script::Fault;

/// Entries kept of each list, the latest; counts go on.
const MAX_KEPT: usize = 100_000;

/// Bytes kept of each list, however many entries that is.
const MAX_KEPT_BYTES: usize = 64 * 1024 * 1024;

/// Bytes kept of one body.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Bytes kept of one request's headers.
const MAX_HEADER_BYTES: usize = 8 * 1024;

/// Bytes of the longest correlation id that is compared with others.
const MAX_ID_BYTES: usize = 1024;

/// Fields that hold credentials, in bodies and scripts.
const SECRET_FIELDS: [&str; 4] = ["api_key", "gateway_token", "user_token", "authorization_token"];

/// Headers that hold credentials, besides those of any caller.
const SECRET_HEADERS: [&str; 3] = ["x-gateway-token", "x-user-token", "anyllm-key"];

/// The headers of a request, names as spelt. Shown with credentials masked.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    pub(super) fn of(raw: &[u8]) -> Self {
        let mut room = MAX_HEADER_BYTES;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let fields = lines(raw).filter_map(field).take_while(|(name, value)| {
            let fits = name.len() + value.len() <= room;
            room = room.saturating_sub(name.len() + value.len());
            fits
        });
        Self(fields.map(|(name, value)| (text(name), text(value))).collect())
    }

    /// The value of the first header with this name, in any case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// All of them, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

impl Serialize for Headers {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut list = to.serialize_seq(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            let ours = SECRET_HEADERS.iter().any(|secret| name.eq_ignore_ascii_case(secret));
            let secret = ours || super::super::record::is_secret(name);
            list.serialize_element(&(name, if secret { masked(value) } else { value.clone() }))?;
        }
        list.end()
    }
}

/// A request and what was answered. Shown as JSON with credentials masked.
#[derive(Clone, PartialEq, Eq)]
pub struct Seen {
    /// When its last byte was read, in milliseconds since the platform was made.
    pub at_ms: u64,
    /// Such as `POST`.
    pub method: String,
    /// Path and query as sent.
    pub path: String,
    /// As sent.
    pub headers: Headers,
    /// As sent, at most 64 KiB.
    pub body: String,
    /// Status of the answer; 0 when there was no status line.
    pub status: u16,
    /// What went wrong on the connection, as scripted.
    pub fault: Option<Fault>,
    /// Body of the answer, at most 64 KiB.
    pub answer: String,
    /// The caller left before the answer, or before its end.
    pub abandoned: bool,
}

impl Seen {
    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The answer as JSON; null when it is none.
    pub fn answer_json(&self) -> Value {
        serde_json::from_str(&self.answer).unwrap_or_default()
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// Whether the platform took it: a status of 2xx, and no fault.
    pub fn accepted(&self) -> bool {
        (200..300).contains(&self.status) && self.fault.is_none()
    }

    /// The attempt that a report is about; empty when it names none.
    pub fn correlation_id(&self) -> String {
        self.text("correlation_id").unwrap_or_default()
    }

    /// Whether a report is about a success.
    pub fn is_success(&self) -> bool {
        self.text("status").as_deref() == Some("success")
    }

    /// A report's `is_final_attempt`.
    pub fn is_final(&self) -> bool {
        self.json()["is_final_attempt"] == json!(true)
    }

    /// A report's `error_class`.
    pub fn error_class(&self) -> Option<String> {
        self.text("error_class")
    }

    /// A field of the body that is a text.
    pub fn text(&self, field: &str) -> Option<String> {
        self.json()[field].as_str().map(str::to_owned)
    }

    pub(super) fn bytes(&self) -> usize {
        self.path.len() + self.headers.bytes() + self.body.len() + self.answer.len()
    }
}

impl Serialize for Seen {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let shown = |text: &str| match serde_json::from_str::<Value>(text) {
            Ok(mut value) => {
                masked_json(&mut value);
                value
            }
            Err(_) => json!(text),
        };
        let value = json!({
            "at_ms": self.at_ms, "method": self.method, "path": self.path, "headers": self.headers,
            "body": shown(&self.body), "status": self.status, "fault": self.fault,
            "answer": shown(&self.answer), "abandoned": self.abandoned,
        });
        value.serialize(to)
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", json!(self))
    }
}

/// Masks what holds credentials, at any depth.
pub(super) fn masked_json(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(masked_json),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if SECRET_FIELDS.contains(&name.as_str()) => {
                        *text = masked(text);
                    }
                    // Which of these are secret depends on the provider.
                    Value::Object(extra) if name == "extra_params" => {
                        extra.values_mut().for_each(|value| *value = json!("***"));
                    }
                    _ => masked_json(value),
                }
            }
        }
        _ => {}
    }
}

/// How many there were since the start, whatever is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Calls for provider keys.
    pub resolves: u64,
    /// Reports, accepted or not.
    pub reports: u64,
    /// Reports that were accepted.
    pub accepted: u64,
    /// Of the accepted ones, successes.
    pub successes: u64,
    /// Everything else.
    pub others: u64,
    /// Mistakes of the gateway.
    pub violations: u64,
}

/// Where a request is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Resolves,
    Reports,
    Others,
}

/// Where to find a request again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(List, u64);

/// The latest entries, within bounds.
struct Kept<T> {
    entries: VecDeque<T>,
    bytes: usize,
    /// Entries dropped from the front: numbers of places count on.
    dropped: u64,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), bytes: 0, dropped: 0 }
    }
}

impl<T> Kept<T> {
    fn push(&mut self, entry: T, size: impl Fn(&T) -> usize) -> u64 {
        self.bytes += size(&entry);
        self.entries.push_back(entry);
        while self.entries.len() > MAX_KEPT
            || (self.bytes > MAX_KEPT_BYTES && self.entries.len() > 1)
        {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= size(&oldest);
            self.dropped += 1;
        }
        self.dropped + self.entries.len() as u64 - 1
    }

    fn get(&mut self, number: u64) -> Option<&mut T> {
        let at = number.checked_sub(self.dropped)?;
        self.entries.get_mut(usize::try_from(at).ok()?)
    }

    fn clear(&mut self) {
        self.dropped += self.entries.len() as u64;
        self.entries.clear();
        self.bytes = 0;
    }
}

/// What became of the reports about one attempt.
#[derive(Default)]
struct Told {
    content: u64,
    accepted: u32,
    /// A status below 500 other than 2xx: it must not be sent again.
    refused: Option<u16>,
}

#[derive(Default)]
struct Lists {
    resolves: Kept<Seen>,
    reports: Kept<Seen>,
    others: Kept<Seen>,
    violations: Kept<String>,
    told: HashMap<String, Told>,
    /// Attempts that were given out; `None` once there were too many to remember.
    given: Option<HashSet<String>>,
}

/// The memory of one platform.
pub(super) struct Memory {
    lists: Mutex<Lists>,
    resolves: AtomicU64,
    reports: AtomicU64,
    accepted: AtomicU64,
    successes: AtomicU64,
    others: AtomicU64,
    violations: AtomicU64,
}

impl Memory {
    /// `keep`: requests, not only their number.
    pub(super) fn new(keep: bool) -> Self {
        let lists = Lists { given: keep.then(HashSet::new), ..Lists::default() };
        Self {
            lists: Mutex::new(lists),
            resolves: AtomicU64::new(0),
            reports: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            successes: AtomicU64::new(0),
            others: AtomicU64::new(0),
            violations: AtomicU64::new(0),
        }
    }

    /// Counts a request; a report also by what it said.
    pub(super) fn count(&self, list: List, accepted: bool, success: bool) {
        match list {
            List::Resolves => self.resolves.fetch_add(1, Relaxed),
            List::Others => self.others.fetch_add(1, Relaxed),
            List::Reports => {
                self.accepted.fetch_add(u64::from(accepted), Relaxed);
                self.successes.fetch_add(u64::from(accepted && success), Relaxed);
                self.reports.fetch_add(1, Relaxed)
            }
        };
    }

    /// Notes mistakes.
    pub(super) fn blame(&self, mistakes: Vec<String>) {
        if mistakes.is_empty() {
            return;
        }
        self.violations.fetch_add(mistakes.len() as u64, Relaxed);
        let mut lists = self.lists.lock();
        for mistake in mistakes {
            lists.violations.push(mistake, String::len);
        }
    }

    /// Keeps a request.
    pub(super) fn keep(&self, list: List, seen: Seen) -> Place {
        Place(list, self.lists.lock().list(list).push(seen, Seen::bytes))
    }

    /// Notes that the caller did not wait for the answer.
    pub(super) fn abandoned(&self, place: Place) {
        if let Some(seen) = self.lists.lock().list(place.0).get(place.1) {
            seen.abandoned = true;
        }
    }

    /// Notes the attempts of a plan.
    pub(super) fn given(&self, ids: Vec<String>) {
        let mut lists = self.lists.lock();
        let Some(given) = &mut lists.given else { return };
        given.extend(ids);
        // Forgetting some would turn their reports into mistakes.
        if given.len() > MAX_KEPT {
            lists.given = None;
        }
    }

    /// From now on any attempt may be reported: not all that are given out are noted.
    pub(super) fn forget_given(&self) {
        self.lists.lock().given = None;
    }

    /// Notes a report; what is wrong with it beside others about the same attempt.
    pub(super) fn told(&self, id: &str, body: &Value, answer: &Answer) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let content = hasher.finish();
        let mut lists = self.lists.lock();
        if lists.given.as_ref().is_some_and(|given| !given.contains(id)) {
            wrong.push(format!("usage: `{id}` is no attempt of any plan"));
        }
        let full = lists.told.len() >= MAX_KEPT && !lists.told.contains_key(id);
        if full || id.len() > MAX_ID_BYTES {
            return wrong;
        }
        let told = lists.told.entry(id.to_owned()).or_insert(Told { content, ..Told::default() });
        if told.content != content {
            wrong.push(format!("usage: `{id}` was reported twice, with different content"));
        }
        if let Some(status) = told.refused {
            wrong.push(format!("usage: `{id}` was sent again after {status}"));
        }
        match answer.wire_status() {
            200..300 if answer.fault.is_none() => told.accepted = told.accepted.saturating_add(1),
            status @ 300..500 if answer.fault.is_none() => told.refused = Some(status),
            _ => {}
        }
        wrong
    }

    pub(super) fn list(&self, list: List) -> Vec<Seen> {
        self.lists.lock().list(list).entries.iter().cloned().collect()
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.lists.lock().violations.entries.iter().cloned().collect()
    }

    /// Attempts of which more than one report was accepted, sorted.
    pub(super) fn duplicates(&self) -> Vec<String> {
        let lists = self.lists.lock();
        let twice = lists.told.iter().filter(|(_, told)| told.accepted > 1);
        let mut ids: Vec<String> = twice.map(|(id, _)| id.clone()).collect();
        ids.sort_unstable();
        ids
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            resolves: self.resolves.load(Relaxed),
            reports: self.reports.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            successes: self.successes.load(Relaxed),
            others: self.others.load(Relaxed),
            violations: self.violations.load(Relaxed),
        }
    }

    /// Forgets all but which attempts were given out: their reports may still come.
    pub(super) fn clear(&self) {
        let mut lists = self.lists.lock();
        lists.resolves.clear();
        lists.reports.clear();
        lists.others.clear();
        lists.violations.clear();
        lists.told.clear();
        for count in [
            &self.resolves,
            &self.reports,
            &self.accepted,
            &self.successes,
            &self.others,
            &self.violations,
        ] {
            count.store(0, Relaxed);
        }
    }
}

impl Lists {
    fn list(&mut self, list: List) -> &mut Kept<Seen> {
        match list {
            List::Resolves => &mut self.resolves,
            List::Reports => &mut self.reports,
            List::Others => &mut self.others,
        }
    }
}

/// The part of `text` that is kept.
pub(super) fn kept_text(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(MAX_BODY_BYTES)]).into_owned()
}
