//! `/v1/batches`: what callers send and get. `proxy` answers these routes, because results pass in pieces.

use std::collections::BTreeMap;

use bytes::Bytes;
use otari_filters::batches::ENDPOINT;
use otari_filters::rejection::{Code, Rejection};
use otari_filters::validate::{Bounds, Field, Fields, Kind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::openapi::Operation;
use super::{Request, fields};
use crate::batches::MAX_ITEMS;
use crate::routes::BatchVerb;

const LIMIT: Bounds<i64> = Bounds { at_least: None, above: None, at_most: None };

const PROVIDER: Field = Field::new(
    "provider",
    Kind::Text,
    "Whose batch it is; may be left out for batches made through this gateway",
);

const ITEM: [Field; 2] = [
    Field::new("custom_id", Kind::Text, "The caller's name for it").required(),
    Field::new("body", Kind::Object, "A chat completion; its `model` is not looked at").required(),
];

static CREATE: Operation = Operation::new(
    "create_batch",
    "Make a batch of chat completions; a provider without such an API has them run by the gateway",
)
.with_body(&[
    Field::new("model", Kind::Text, "`provider:model`, an alias, or a bare name; not with a file")
        .not_null(),
    Field::new(
        "requests",
        Kind::Objects(&ITEM, MAX_ITEMS),
        "The calls, at least one; not with a file",
    )
    .not_null(),
    Field::new("input_file_id", Kind::Text, "A file with a call per line, as OpenAI has it"),
    Field::new("completion_window", Kind::Text, "How long it may take; absent: `24h`"),
    Field::new("metadata", Kind::Object, "Texts by name"),
    Field::new("endpoint", Kind::Text, "`/v1/chat/completions`, which is the only one"),
    Field::new("user", Kind::Text, "Who is billed; the master key must say it"),
])
.answering::<Batch>()
.refusing(&[400, 402, 403, 404, 429, 502])
.or_refusing_as_a_whole();

static LIST: Operation = Operation::new("list_batches", "List one's own batches, newest first")
    .with_query(&[
        PROVIDER,
        Field::new("after", Kind::Text, "Only older ones than the batch with this id"),
        Field::new("limit", Kind::Whole(LIMIT), "Return so many at most, up to 100; absent: 20"),
    ])
    .answering::<Page>()
    .refusing(&[400, 502]);

static GET: Operation = Operation::new("get_batch", "Show a batch")
    .with_query(&[PROVIDER])
    .answering::<Batch>()
    .refusing(&[400, 404, 502]);

static CANCEL: Operation = Operation::new("cancel_batch", "Cancel a batch")
    .with_query(&[PROVIDER])
    .answering::<Batch>()
    .refusing(&[400, 404, 502]);

static RESULTS: Operation =
    Operation::new("get_batch_results", "The results of a batch that has ended, however it has")
        .with_query(&[PROVIDER])
        .answering::<ResultList>()
        .refusing(&[400, 404, 409, 502]);

/// The operation of each verb.
pub(super) fn operation(verb: BatchVerb) -> &'static Operation {
    match verb {
        BatchVerb::Create => &CREATE,
        BatchVerb::List => &LIST,
        BatchVerb::Get => &GET,
        BatchVerb::Cancel => &CANCEL,
        BatchVerb::Results => &RESULTS,
    }
}

/// A batch, with everything its provider says of it.
#[derive(JsonSchema)]
#[schemars(extend("additionalProperties" = true))]
#[expect(
    dead_code,
    reason = "batches pass as their providers show them; this is what they are promised to hold"
)]
struct Batch {
    id: String,
    completion_window: Option<String>,
    created_at: Option<i64>,
    endpoint: Option<String>,
    input_file_id: Option<String>,
    object: Option<String>,
    status: Option<String>,
    cancelled_at: Option<i64>,
    cancelling_at: Option<i64>,
    completed_at: Option<i64>,
    error_file_id: Option<String>,
    #[schemars(extend("type" = ["object", "null"]))]
    errors: Option<Map<String, Value>>,
    expired_at: Option<i64>,
    expires_at: Option<i64>,
    failed_at: Option<i64>,
    finalizing_at: Option<i64>,
    in_progress_at: Option<i64>,
    #[schemars(extend("type" = ["object", "null"]))]
    metadata: Option<BTreeMap<String, String>>,
    model: Option<String>,
    output_file_id: Option<String>,
    #[schemars(extend("type" = ["object", "null"]))]
    request_counts: Option<Map<String, Value>>,
    #[schemars(extend("type" = ["object", "null"]))]
    usage: Option<Map<String, Value>>,
    provider: String,
}

/// Batches, newest first.
#[derive(Serialize, JsonSchema)]
pub struct Page {
    /// As each is shown by itself.
    #[schemars(with = "Vec<Batch>")]
    pub data: Vec<Map<String, Value>>,
    /// `list`.
    pub object: &'static str,
    /// There are older ones.
    pub has_more: bool,
    /// Of the first.
    pub first_id: Option<String>,
    /// Of the last: `after` for the next page.
    pub last_id: Option<String>,
}

/// What each call of a batch came to.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "results pass in pieces; this is what they are promised to hold")]
struct ResultList {
    results: Vec<ItemResult>,
}

/// What one call came to: an answer or an error.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "results pass in pieces; this is what they are promised to hold")]
struct ItemResult {
    custom_id: String,
    /// A chat completion.
    #[schemars(extend("type" = ["object", "null"]))]
    result: Option<Map<String, Value>>,
    #[schemars(extend("type" = ["object", "null"]))]
    error: Option<Map<String, Value>>,
}

/// A call's name and body.
pub type Named = (String, Map<String, Value>);

/// A batch that is to be made.
pub struct NewBatch {
    /// The model as asked; of a batch from a file, the file's.
    pub model: String,
    /// The caller's file that the items are in; `items` is empty then.
    pub input_file_id: Option<String>,
    /// Who is to pay.
    pub user: Option<String>,
    /// Names and bodies.
    pub items: Vec<Named>,
    /// `24h`.
    pub window: String,
    /// Texts by name.
    pub metadata: Option<Map<String, Value>>,
}

/// Reads a batch that is to be made.
///
/// # Errors
/// `invalid_json`, `invalid_fields` with every fault, `invalid_value` for another endpoint.
pub fn read_new(request: Request<'_>) -> Result<NewBatch, Rejection> {
    let body = fields::body(request)?;
    let mut read = CREATE.read_body(&body);
    let input_file_id = fields::string(&mut read, "input_file_id");
    let (mut model, mut calls) = (String::new(), Vec::new());
    if input_file_id.is_none() {
        match fields::string(&mut read, "model") {
            Some(text) => model = text,
            None if read.get("model").is_none() => read.missing("model"),
            None => {}
        }
        calls = items(&mut read);
    }
    let window = fields::string(&mut read, "completion_window");
    let metadata = metadata(&mut read);
    let endpoint = fields::string(&mut read, "endpoint");
    let user = fields::string(&mut read, "user").filter(|user| !user.is_empty());
    read.faults.check()?;
    if endpoint.is_some_and(|endpoint| endpoint != ENDPOINT) {
        let message = format!("endpoint: a batch can only ask for {ENDPOINT}");
        return Err(Rejection::new(Code::InvalidValue, message));
    }
    let window = window.filter(|it| !it.is_empty()).unwrap_or_else(|| "24h".to_owned());
    Ok(NewBatch { model, input_file_id, user, items: calls, window, metadata })
}

/// Reads the lines of a file: the model that all of them ask for, and the calls.
///
/// # Errors
/// `invalid_value`, naming the line.
pub fn read_lines(file: &[u8]) -> Result<(String, Vec<Named>), Rejection> {
    #[derive(Deserialize)]
    struct Call {
        custom_id: String,
        #[serde(default)]
        method: Option<String>,
        #[serde(default)]
        url: Option<String>,
        body: Map<String, Value>,
    }
    let wrong = |line: usize, what: &str| {
        let message = format!("input_file_id: line {}: {what}", line + 1);
        Rejection::new(Code::InvalidValue, message)
    };
    let (mut model, mut calls) = (None::<String>, Vec::new());
    let lines = file.split(|byte| *byte == b'\n').enumerate();
    for (at, line) in lines.filter(|(_, line)| !line.trim_ascii().is_empty()) {
        let call: Call = serde_json::from_slice(line)
            .map_err(|error| wrong(at, &format!("not a call with custom_id and body: {error}")))?;
        if call.method.is_some_and(|method| method != "POST") {
            return Err(wrong(at, "method: only POST"));
        }
        if call.url.is_some_and(|url| url != ENDPOINT) {
            return Err(wrong(at, &format!("url: a batch can only ask for {ENDPOINT}")));
        }
        let asked = call.body.get("model").and_then(Value::as_str).unwrap_or_default();
        match &model {
            _ if asked.is_empty() => return Err(wrong(at, "body.model: Field required")),
            None => model = Some(asked.to_owned()),
            Some(first) if first != asked => {
                return Err(wrong(at, "body.model: all calls of a batch go to one model"));
            }
            Some(_) => {}
        }
        if calls.len() == MAX_ITEMS {
            return Err(wrong(at, &format!("a batch has at most {MAX_ITEMS} calls")));
        }
        calls.push((call.custom_id, call.body));
    }
    model.map(|model| (model, calls)).ok_or_else(|| wrong(0, "the file has no calls"))
}

fn items(read: &mut Fields<'_>) -> Vec<Named> {
    let Some(sent) = read.get("requests") else {
        if read.has("requests") {
            read.wrong("requests", "list_type", "Input should be a valid list", Value::Null);
        } else {
            read.missing("requests");
        }
        return Vec::new();
    };
    let Value::Array(sent) = sent else {
        read.wrong("requests", "list_type", "Input should be a valid list", Value::Null);
        return Vec::new();
    };
    let (count, most) = (sent.len(), MAX_ITEMS);
    if count == 0 || count > most {
        let (kind, message, context) = if count == 0 {
            (
                "too_short",
                "List should have at least 1 item after validation, not 0".to_owned(),
                json!({
                "field_type": "List", "min_length": 1, "actual_length": 0}),
            )
        } else {
            (
                "too_long",
                format!("List should have at most {most} items after validation, not {count}"),
                json!({
                "field_type": "List", "max_length": most, "actual_length": count}),
            )
        };
        // The list itself is not echoed: it may be all of the body.
        let loc = read.loc("requests");
        read.faults.add(kind, &loc, &message, Value::Null, context);
        return Vec::new();
    }
    sent.iter().enumerate().filter_map(|(at, item)| one(read, at, item)).collect()
}

/// One item of the list.
fn one(read: &mut Fields<'_>, at: usize, item: &Value) -> Option<Named> {
    let mut fault = |name: Option<&str>, kind: &str, message: &str| {
        let mut loc = vec![json!("body"), json!("requests"), json!(at)];
        loc.extend(name.map(Value::from));
        read.faults.add(kind, &loc, message, Value::Null, Value::Null);
    };
    let Value::Object(item) = item else {
        let message = "Input should be a valid dictionary or object to extract fields from";
        fault(None, "model_attributes_type", message);
        return None;
    };
    let custom_id = match item.get("custom_id") {
        Some(Value::String(id)) => Some(id.clone()),
        None => {
            fault(Some("custom_id"), "missing", "Field required");
            None
        }
        Some(_) => {
            fault(Some("custom_id"), "string_type", "Input should be a valid string");
            None
        }
    };
    match item.get("body") {
        Some(Value::Object(body)) => Some((custom_id?, body.clone())),
        None => {
            fault(Some("body"), "missing", "Field required");
            None
        }
        Some(_) => {
            fault(Some("body"), "dict_type", "Input should be a valid dictionary");
            None
        }
    }
}

/// Texts by name, or nothing.
fn metadata(read: &mut Fields<'_>) -> Option<Map<String, Value>> {
    let metadata = read.object("metadata", true)?;
    for (name, value) in &metadata {
        if !value.is_string() {
            let loc = ["body".into(), "metadata".into(), name.as_str().into()];
            let message = "Input should be a valid string";
            read.faults.add("string_type", &loc, message, value.clone(), Value::Null);
        }
    }
    Some(metadata)
}

/// What a query says: provider, `after`, `limit`.
pub struct Query {
    /// As the caller names it.
    pub provider: Option<String>,
    /// Only older ones.
    pub after: Option<String>,
    /// So many.
    pub limit: Option<i64>,
}

/// Reads the query string of a route.
///
/// # Errors
/// `invalid_fields`.
pub fn read_query(verb: BatchVerb, request: Request<'_>) -> Result<Query, Rejection> {
    let query = fields::query(request);
    let mut read = operation(verb).read_query(&query);
    let provider = fields::string(&mut read, "provider").filter(|it| !it.trim().is_empty());
    let (mut after, mut limit) = (None, None);
    if verb == BatchVerb::List {
        after = fields::string(&mut read, "after").filter(|it| !it.is_empty());
        limit = read.integer("limit", LIMIT);
    }
    read.faults.check()?;
    Ok(Query { provider, after, limit })
}

/// The id in the path, its escapes decoded.
///
/// # Errors
/// `invalid_fields`.
pub fn read_id(sent: Option<&str>) -> Result<String, Rejection> {
    fields::path("batch_id", sent.unwrap_or_default())
}

/// A page as JSON.
///
/// # Errors
/// Never in practice.
pub fn page(data: Vec<Map<String, Value>>, has_more: bool) -> Result<Bytes, Rejection> {
    let id = |batch: Option<&Map<String, Value>>| {
        batch.and_then(|batch| batch.get("id")?.as_str().map(str::to_owned))
    };
    let (first_id, last_id) = (id(data.first()), id(data.last()));
    let page = Page { data, object: "list", has_more, first_id, last_id };
    serde_json::to_vec(&page).map(Bytes::from).map_err(Rejection::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(model: &str, url: &str) -> String {
        json!({"custom_id": "c", "method": "POST", "url": url, "body": {"model": model, "messages": []}}).to_string()
    }

    #[test]
    fn a_file_has_a_call_per_line_and_one_model() {
        let good = format!("{}\n\n{}\r\n", line("p:m", ENDPOINT), line("p:m", ENDPOINT));
        let (model, calls) = read_lines(good.as_bytes()).unwrap();
        assert_eq!((model.as_str(), calls.len(), calls[0].0.as_str()), ("p:m", 2, "c"));
        let bare = json!({"custom_id": "c", "body": {"model": "p:m"}}).to_string();
        assert!(read_lines(bare.as_bytes()).is_ok());
        let refused = |file: &str| read_lines(file.as_bytes()).unwrap_err().message.into_owned();
        let two = format!("{}\n{}", line("p:m", ENDPOINT), line("p:n", ENDPOINT));
        assert_eq!(
            refused(&two),
            "input_file_id: line 2: body.model: all calls of a batch go to one model"
        );
        assert!(
            refused(&line("p:m", "/v1/embeddings")).ends_with("only ask for /v1/chat/completions")
        );
        assert!(refused("{}").contains("line 1: not a call"));
        assert!(refused(" \n").ends_with("the file has no calls"));
    }
}
