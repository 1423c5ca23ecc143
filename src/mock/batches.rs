//! Batches of calls, and the files they are made of: OpenAI's `/files` and `/batches`, Mistral's `/batch/jobs`,
//! Anthropic's `/messages/batches`. Strict: what their documents do not know is refused.
//!
//! A batch has as many looks (`polls=N` in the model's name, default 1) until it has ended, as `end=STATUS` says. An item
//! whose `custom_id` begins with `fail-<status>` gets that status, one with `lost` no answer at all.

use std::collections::VecDeque;
use std::io;

use memchr::memmem;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::answer::{Answer, Asked};
use super::call::Generation;
use super::connection::{Exchange, Refusal};
use super::emit::Next;
use super::families;
use super::protocol::Protocol;
use super::script::{Strict, parse};

/// Files and batches kept; the oldest go.
const KEPT: usize = 256;
/// Every batch's `created_at`.
const CREATED: u64 = 1_767_225_600;
const CREATED_ISO: &str = "2026-01-01T00:00:00Z";

/// Whose API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Api {
    OpenAi,
    Mistral,
    Anthropic,
}

/// All files and batches of a server.
#[derive(Default)]
pub(super) struct Batches(Mutex<State>);

#[derive(Default)]
struct State {
    number: u64,
    files: VecDeque<(String, Vec<u8>)>,
    all: VecDeque<Batch>,
}

struct Batch {
    id: String,
    api: Api,
    /// In OpenAI's words.
    status: &'static str,
    end: &'static str,
    looks: u32,
    input: String,
    model: String,
    metadata: Value,
    output: Vec<u8>,
    errors: Vec<u8>,
    output_id: Option<String>,
    error_id: Option<String>,
    completed: u64,
    failed: u64,
    lost: u64,
}

/// Answers a call of these routes; `None`: it is another one's. `path`: without its version.
pub(super) async fn answer(
    exchange: &mut Exchange<'_>,
    batches: &Batches,
    path: &str,
) -> io::Result<Option<Next>> {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (api, rest) = match parts[..] {
        ["files", ..] => (Api::OpenAi, &parts[..]),
        ["batches", ..] => (Api::OpenAi, &parts[1..]),
        ["batch", "jobs", ..] => (Api::Mistral, &parts[2..]),
        ["messages", "batches", ..] => (Api::Anthropic, &parts[2..]),
        _ => return Ok(None),
    };
    let protocol = if api == Api::Anthropic { Protocol::Messages } else { Protocol::Chat };
    let made = {
        let mut state = batches.0.lock();
        serve(exchange, &mut state, api, rest)
    };
    match made {
        Ok((kind, body)) => exchange.outlet.fixed(200, kind, "", &body).await.map(Some),
        Err(refusal) => exchange.refuse(protocol, refusal).await.map(Some),
    }
}

type Served = Result<(&'static str, Vec<u8>), Refusal>;

fn serve(exchange: &mut Exchange<'_>, state: &mut State, api: Api, rest: &[&str]) -> Served {
    let json = |value: Value| Ok(("application/json", value.to_string().into_bytes()));
    let unknown = || (404, "mock: no such batch".to_owned());
    if api == Api::Anthropic && !exchange.request.anthropic {
        return Err((400, "anthropic-version: header is required".into()));
    }
    match (exchange.request.method, rest) {
        ("POST", ["files"]) => json(state.upload(exchange)?),
        ("GET", ["files", id, "content"]) => {
            let found = state.files.iter().find(|(known, _)| known == id);
            let (_, content) = found.ok_or_else(|| (404, format!("No such File object: {id}")))?;
            Ok(("application/octet-stream", content.clone()))
        }
        ("POST", []) => json(state.create(exchange, api)?),
        ("GET", []) => json(state.list(api, exchange.request.target)),
        ("GET", [id]) => {
            state.look(id);
            json(state.find(api, id).ok_or_else(unknown)?.shown())
        }
        ("POST", [id, "cancel"]) => {
            let batch = state.find(api, id).ok_or_else(unknown)?;
            if !matches!(batch.status, "validating" | "in_progress") {
                return Err((409, format!("Cannot cancel a batch with status {}", batch.status)));
            }
            (batch.status, batch.end) = ("cancelling", "cancelled");
            json(batch.shown())
        }
        ("GET", [id, "results"]) if api == Api::Anthropic => {
            let batch = state.find(api, id).ok_or_else(unknown)?;
            if !batch.has_ended() {
                return Err((404, "Batch has not ended processing".into()));
            }
            Ok(("application/x-jsonl", [batch.output.as_slice(), &batch.errors].concat()))
        }
        _ => Err((405, "method not allowed".into())),
    }
}

impl Batch {
    /// Writes what an item came to; `failing`: its status, when that is none of success.
    fn note(&mut self, id: &str, failing: Option<u16>, body: &Value) {
        let line = match (self.api, failing) {
            (Api::Anthropic, None) => {
                json!({"custom_id": id, "result": {"type": "succeeded", "message": body}})
            }
            (Api::Anthropic, Some(_)) => {
                json!({"custom_id": id, "result": {"type": "errored", "error": body}})
            }
            (_, status) => json!({"id": "x", "custom_id": id, "error": null, "response": {
                "status_code": status.unwrap_or(200), "request_id": "r", "body": body}}),
        };
        let (lines, count) = match failing {
            Some(_) => (&mut self.errors, &mut self.failed),
            None => (&mut self.output, &mut self.completed),
        };
        *count += 1;
        lines.extend_from_slice(line.to_string().as_bytes());
        lines.push(b'\n');
    }

    fn has_ended(&self) -> bool {
        matches!(self.status, "completed" | "failed" | "expired" | "cancelled")
    }

    fn shown(&self) -> Value {
        let total = self.completed + self.failed + self.lost;
        let (completed, failed) =
            if self.has_ended() { (self.completed, self.failed) } else { (0, 0) };
        let when = |status: &str| (self.status == status).then_some(CREATED + 60);
        match self.api {
            Api::OpenAi => json!({
                "id": self.id, "object": "batch", "endpoint": "/v1/chat/completions", "errors": null,
                "input_file_id": self.input, "completion_window": "24h", "status": self.status,
                "output_file_id": self.output_id, "error_file_id": self.error_id, "created_at": CREATED,
                "completed_at": when("completed"), "expired_at": when("expired"), "failed_at": when("failed"),
                "cancelled_at": when("cancelled"), "metadata": self.metadata,
                "request_counts": {"total": total, "completed": completed, "failed": failed},
            }),
            Api::Mistral => json!({
                "id": self.id, "object": "batch", "input_files": [self.input], "endpoint": "/v1/chat/completions",
                "model": self.model, "metadata": self.metadata, "errors": [], "created_at": CREATED,
                "status": match self.status {
                    "validating" => "QUEUED",
                    "completed" => "SUCCESS",
                    "failed" => "FAILED",
                    "expired" => "TIMEOUT_EXCEEDED",
                    "cancelling" => "CANCELLATION_REQUESTED",
                    "cancelled" => "CANCELLED",
                    _ => "RUNNING",
                },
                "output_file": self.output_id, "error_file": self.error_id,
                "completed_at": self.has_ended().then_some(CREATED + 60), "total_requests": total,
                "completed_requests": completed + failed, "succeeded_requests": completed,
                "failed_requests": failed,
            }),
            Api::Anthropic => {
                let ended = self.has_ended();
                let of = |count: u64| if ended { count } else { 0 };
                json!({
                    "id": self.id, "type": "message_batch", "created_at": CREATED_ISO,
                    "processing_status": match self.status {
                        "cancelling" => "canceling",
                        _ if ended => "ended",
                        _ => "in_progress",
                    },
                    "request_counts": {"processing": if ended { 0 } else { total }, "succeeded": of(self.completed),
                        "errored": of(self.failed), "canceled": 0, "expired": of(self.lost)},
                    "ended_at": ended.then_some("2026-01-01T00:01:00Z"), "expires_at": "2026-01-02T00:00:00Z",
                    "archived_at": null, "cancel_initiated_at": null,
                    "results_url": ended.then(|| format!("/v1/messages/batches/{}/results", self.id)),
                })
            }
        }
    }
}

impl State {
    fn name(&mut self, prefix: &str) -> String {
        self.number += 1;
        format!("{prefix}{}", self.number)
    }

    fn keep(&mut self, prefix: &str, content: Vec<u8>) -> String {
        let id = self.name(prefix);
        if self.files.len() == KEPT {
            self.files.pop_front();
        }
        self.files.push_back((id.clone(), content));
        id
    }

    fn find(&mut self, api: Api, id: &str) -> Option<&mut Batch> {
        self.all.iter_mut().find(|batch| batch.id == id && batch.api == api)
    }

    /// One look at a batch: it moves on, and with the last one it ends.
    fn look(&mut self, id: &str) {
        let Some(at) = self.all.iter().position(|batch| batch.id == id) else { return };
        let batch = &mut self.all[at];
        if batch.has_ended() {
            return;
        }
        if batch.status != "cancelling" {
            batch.status = "in_progress";
            if batch.looks > 1 {
                batch.looks -= 1;
                return;
            }
        }
        batch.status = batch.end;
        if batch.status == "failed" || batch.api == Api::Anthropic {
            return;
        }
        let (output, errors) = (batch.output.clone(), batch.errors.clone());
        let output = (!output.is_empty()).then(|| self.keep("file-out", output));
        let errors = (!errors.is_empty()).then(|| self.keep("file-err", errors));
        let batch = &mut self.all[at];
        (batch.output_id, batch.error_id) = (output, errors);
    }

    fn list(&self, api: Api, target: &str) -> Value {
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let option = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        };
        let number = |name: &str, default: usize| {
            option(name).and_then(|text| text.parse().ok()).unwrap_or(default)
        };
        let mut all: Vec<&Batch> = self.all.iter().rev().filter(|batch| batch.api == api).collect();
        if let Some(after) = option("after").or_else(|| option("after_id")) {
            let at = all.iter().position(|batch| batch.id == after).map_or(all.len(), |at| at + 1);
            all.drain(..at);
        }
        let limit = number("limit", 20);
        if api == Api::Mistral {
            let size = number("page_size", 100);
            let page: Vec<Value> =
                all.iter().skip(number("page", 0) * size).take(size).map(|it| it.shown()).collect();
            return json!({"object": "list", "data": page, "total": all.len()});
        }
        let page: Vec<Value> = all.iter().take(limit).map(|batch| batch.shown()).collect();
        let id = |batch: Option<&&Batch>| batch.map(|batch| batch.id.clone());
        let last = all.get(..limit.min(all.len())).and_then(<[_]>::last);
        json!({"object": "list", "data": page, "first_id": id(all.first()), "last_id": id(last),
               "has_more": all.len() > limit})
    }

    fn upload(&mut self, exchange: &Exchange<'_>) -> Result<Value, Refusal> {
        let (fields, file) = form(exchange)?;
        if fields.get("purpose").map(String::as_str) != Some("batch") {
            return Err((400, format!("'purpose' should be 'batch': {fields:?}")));
        }
        let Some((name, content)) = file else { return Err((400, "'file' is required".into())) };
        if !name.ends_with(".jsonl") {
            return Err((400, format!("Invalid file format for Batch API: {name}")));
        }
        let bytes = content.len();
        let id = self.keep("file-in", content);
        Ok(
            json!({"id": id, "object": "file", "bytes": bytes, "created_at": CREATED, "filename": name,
                  "purpose": "batch", "status": "processed"}),
        )
    }

    fn create(&mut self, exchange: &mut Exchange<'_>, api: Api) -> Result<Value, Refusal> {
        let bad = |what: String| (400, what);
        let body: Value = serde_json::from_slice(exchange.request.body)
            .map_err(|error| bad(format!("bad body: {error}")))?;
        let body = body.as_object().ok_or_else(|| bad("not an object".into()))?;
        let known: &[&str] = match api {
            Api::OpenAi => &["input_file_id", "endpoint", "completion_window", "metadata"],
            Api::Mistral => &["input_files", "endpoint", "model", "timeout_hours", "metadata"],
            Api::Anthropic => &["requests"],
        };
        only(body, known)?;
        let metadata = body.get("metadata").cloned().unwrap_or_default();
        let texts = metadata.as_object().is_none_or(|map| map.values().all(Value::is_string));
        if !texts || metadata.as_object().is_some_and(|map| map.len() > 16) {
            return Err(bad(format!("metadata: at most 16 texts: {metadata}")));
        }
        let input = match api {
            Api::OpenAi => body["input_file_id"].as_str(),
            Api::Mistral => body["input_files"][0].as_str(),
            Api::Anthropic => None,
        };
        let items = match api {
            Api::Anthropic => body["requests"].as_array().cloned().unwrap_or_default(),
            _ => {
                let endpoint = body.get("endpoint").and_then(Value::as_str);
                if endpoint != Some("/v1/chat/completions") {
                    return Err(bad(format!("endpoint: {endpoint:?}")));
                }
                if api == Api::OpenAi && body.get("completion_window") != Some(&json!("24h")) {
                    return Err(bad("completion_window: only '24h'".into()));
                }
                let file = self.files.iter().find(|(id, _)| Some(id.as_str()) == input);
                let (_, content) = file.ok_or_else(|| bad(format!("no file {input:?}")))?;
                let read = |line: &[u8]| serde_json::from_slice(line);
                let lines = content.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                lines
                    .map(read)
                    .collect::<Result<Vec<Value>, _>>()
                    .map_err(|error| bad(error.to_string()))?
            }
        };
        if items.is_empty() {
            return Err(bad("no requests".into()));
        }
        let prefix = if api == Api::Anthropic { "msgbatch_" } else { "batch_" };
        let mut batch = Batch {
            id: self.name(prefix),
            api,
            status: "validating",
            end: "completed",
            looks: 1,
            input: input.unwrap_or_default().to_owned(),
            model: String::new(),
            metadata,
            output: Vec::new(),
            errors: Vec::new(),
            output_id: None,
            error_id: None,
            completed: 0,
            failed: 0,
            lost: 0,
        };
        for item in &items {
            run(exchange, &mut batch, item)?;
        }
        let shown = batch.shown();
        if self.all.len() == KEPT {
            self.all.pop_front();
        }
        self.all.push_back(batch);
        Ok(shown)
    }
}

/// Refuses fields that are not known.
fn only(object: &Map<String, Value>, known: &[&str]) -> Result<(), Refusal> {
    match object.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err((400, format!("Unknown parameter: '{name}'"))),
        None => Ok(()),
    }
}

/// Runs one item of a batch.
fn run(exchange: &mut Exchange<'_>, batch: &mut Batch, item: &Value) -> Result<(), Refusal> {
    let bad = |what: &str| (400, format!("{what}: {item}"));
    let object = item.as_object().ok_or_else(|| bad("not an object"))?;
    let (known, name): (&[&str], _) = match batch.api {
        Api::OpenAi => (&["custom_id", "method", "url", "body"], "body"),
        Api::Mistral => (&["custom_id", "body"], "body"),
        Api::Anthropic => (&["custom_id", "params"], "params"),
    };
    only(object, known)?;
    if batch.api == Api::OpenAi
        && (item["method"] != "POST" || item["url"] != "/v1/chat/completions")
    {
        return Err(bad("method and url"));
    }
    let id = item["custom_id"].as_str().ok_or_else(|| bad("custom_id"))?;
    let raw = item[name].to_string().into_bytes();
    let protocol = if batch.api == Api::Anthropic { Protocol::Messages } else { Protocol::Chat };
    let strict = if batch.api == Api::Mistral { Strict::Mistral } else { Strict::Own };
    families::strict(protocol, strict, &raw)?;
    let call: Generation<'_> =
        serde_json::from_slice(&raw).map_err(|error| (400, format!("bad body: {error}")))?;
    if call.stream.is_some() {
        return Err(bad("stream"));
    }
    let (_, options) = parse(&call.model).map_err(|message| (400, message))?;
    (batch.looks, batch.end) = (options.polls, options.end);
    batch.model = call.model.to_string();
    let script = exchange.script(&call.model)?;
    if let Some(status) = script.status {
        return Err((status, format!("mock: status {status} as asked")));
    }
    if id.starts_with("lost") {
        batch.lost += 1;
        let line = match batch.api {
            Api::Anthropic => json!({"custom_id": id, "result": {"type": "expired"}}),
            _ => json!({"id": "x", "custom_id": id, "response": null,
                        "error": {"code": "batch_expired", "message": "This request could not be executed before the completion window expired."}}),
        };
        batch.errors.extend_from_slice(line.to_string().as_bytes());
        batch.errors.push(b'\n');
        return Ok(());
    }
    let failing = id.strip_prefix("fail-").and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
    let mut body = Vec::new();
    match failing {
        Some(status) => body = protocol.error(status, "mock: as asked"),
        None => protocol.whole(&Answer::new(Asked::of(&call, &script), &script, &raw), &mut body),
    }
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    batch.note(id, failing, &body);
    Ok(())
}

type Form = (std::collections::BTreeMap<String, String>, Option<(String, Vec<u8>)>);

/// The fields of a form, and its file.
fn form(exchange: &Exchange<'_>) -> Result<Form, Refusal> {
    let bad = |what: &str| (400, format!("multipart: {what}"));
    let kind = families::header(&exchange.request, "content-type").unwrap_or_default();
    let boundary = kind.strip_prefix("multipart/form-data; boundary=");
    let boundary = format!("--{}", boundary.ok_or_else(|| bad(kind))?.trim_matches('"'));
    let (mut fields, mut file) = (std::collections::BTreeMap::new(), None);
    let mut rest = exchange.request.body;
    while let Some(at) = memmem::find(rest, boundary.as_bytes()) {
        rest = &rest[at + boundary.len()..];
        if rest.starts_with(b"--") {
            return Ok((fields, file));
        }
        let end = memmem::find(rest, boundary.as_bytes()).ok_or_else(|| bad("no end"))?;
        let part = rest.get(2..end - 2).ok_or_else(|| bad("an empty part"))?;
        let head = memmem::find(part, b"\r\n\r\n").ok_or_else(|| bad("no head"))?;
        let (head, content) = (String::from_utf8_lossy(&part[..head]), &part[head + 4..]);
        let quoted = |name: &str| {
            let from = head.find(&format!("{name}=\""))? + name.len() + 2;
            Some(head[from..].split('"').next()?.to_owned())
        };
        let name = quoted(" name").ok_or_else(|| bad("a part without a name"))?;
        match quoted("filename") {
            Some(filename) => file = Some((filename, content.to_vec())),
            None => drop(fields.insert(name, String::from_utf8_lossy(content).into_owned())),
        }
    }
    Err(bad("no last boundary"))
}
