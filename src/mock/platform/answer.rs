//! What goes back: what a rule says, or the endpoint's default, as status, headers and bytes.

use std::borrow::Cow;
use std::time::Duration;

use otari_filters::money::cost;
use serde_json::{Map, Value, json};

use super::endpoint::Endpoint;
use super::playbook::Asked;
use super::script::{Fault, MAX_DELAY_MS, Price, Script, Then, bodyless};

/// Where [`Fault::Redirect`] leads, below the path asked.
pub(super) const REDIRECTED: &str = "/redirected";

/// An answer before it is written.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Content type; empty: there is no body.
    pub(super) kind: Cow<'static, str>,
    /// Whole header lines.
    pub(super) extra: String,
    pub(super) body: Vec<u8>,
    pub(super) delay: Duration,
    pub(super) fault: Option<Fault>,
    /// Ids of the attempts in the body.
    pub(super) given: Vec<String>,
}

impl Answer {
    fn bare(status: u16) -> Self {
        Self {
            status,
            kind: Cow::Borrowed(""),
            extra: String::new(),
            body: Vec::new(),
            delay: Duration::ZERO,
            fault: None,
            given: Vec::new(),
        }
    }

    /// Answers JSON.
    pub(super) fn json(status: u16, body: &Value) -> Self {
        let kind = Cow::Borrowed("application/json");
        Self { kind, body: body.to_string().into_bytes(), ..Self::bare(status) }
    }

    /// Answers `{"detail": text}`.
    pub(super) fn detail(status: u16, text: &str) -> Self {
        Self::json(status, &json!({"detail": text}))
    }

    /// With a header more.
    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.extra += &format!("{name}: {value}\r\n");
        self
    }

    /// The status that the caller sees; 0 when it sees none.
    pub(super) fn wire_status(&self) -> u16 {
        match self.fault {
            Some(Fault::Close | Fault::Reset | Fault::Hang) => 0,
            _ => self.status,
        }
    }
}

/// What `then` makes of a request, or its default; `n` is the number of this resolve call.
pub(super) fn answer(script: &Script, then: Option<&Then>, asked: &Asked<'_>, n: u64) -> Answer {
    let Some(then) = then else { return usual(script, asked, &Then::default(), n) };
    let status = then.status.unwrap_or(200);
    let mut answer = match (&then.body, &then.text) {
        _ if bodyless(status) => Answer::bare(status),
        (Some(body), _) => {
            let given = ids(body);
            Answer { given, ..Answer::json(status, body) }
        }
        (None, Some(text)) => Answer {
            kind: Cow::Borrowed("text/plain; charset=utf-8"),
            body: text.clone().into_bytes(),
            ..Answer::bare(status)
        },
        (None, None) if status == 200 => usual(script, asked, then, n),
        (None, None) => Answer::bare(status),
    };
    for (name, value) in &then.headers {
        if name.eq_ignore_ascii_case("content-type") {
            answer.kind = Cow::Owned(value.clone());
        } else {
            answer = answer.header(name, value);
        }
    }
    answer.delay = Duration::from_millis(then.delay_ms.min(MAX_DELAY_MS));
    answer.fault = then.fault;
    answer
}

/// The endpoint's default, with the fields of `then` laid over it.
fn usual(script: &Script, asked: &Asked<'_>, then: &Then, n: u64) -> Answer {
    let mut body = match asked.endpoint {
        Endpoint::Resolve => plan(script, asked, then, n),
        Endpoint::Usage if asked.text("status") == Some("success") => {
            settlement(script.price, asked)
        }
        Endpoint::Usage if then.fields.is_empty() => return Answer::bare(204),
        Endpoint::Usage => json!({"correlation_id": asked.text("correlation_id")}),
        Endpoint::Health => json!({"status": "ok"}),
        Endpoint::Mcp => json!({"servers": []}),
        Endpoint::WebSearch | Endpoint::CodeExecution => json!({"enabled": false}),
    };
    if let Some(fields) = body.as_object_mut() {
        fields.extend(then.fields.clone());
    }
    if then.attempts.is_some() || !then.fields.is_empty() {
        number(&mut body, &n.to_string());
    }
    let given = if asked.endpoint == Endpoint::Resolve { ids(&body) } else { Vec::new() };
    Answer { given, ..Answer::json(200, &body) }
}

/// The plan that `then` asks for, gaps filled in.
fn plan(script: &Script, asked: &Asked<'_>, then: &Then, n: u64) -> Value {
    let one = [Map::new()];
    let asked_for = then.attempts.as_deref().unwrap_or(&one);
    let attempts = (0_u64..).zip(asked_for).map(|(at, given)| {
        let provider = &script.default_provider;
        let mut attempt = Map::new();
        attempt.insert("attempt_id".into(), json!(attempt_id(at, n)));
        attempt.insert("position".into(), json!(at));
        let name = asked.text("provider").unwrap_or(&provider.provider);
        attempt.insert("provider".into(), json!(name));
        attempt.insert("model".into(), json!(asked.text("model")));
        attempt.insert("api_key".into(), json!(provider.api_key));
        attempt.insert("api_base".into(), json!(provider.api_base));
        attempt.insert("managed".into(), json!(false));
        attempt.extend(given.clone());
        Value::Object(attempt)
    });
    let mut attempts: Vec<Value> = attempts.collect();
    if then.legacy
        && let Some(Value::Object(mut flat)) = attempts.pop()
    {
        let id = flat.remove("attempt_id");
        flat.remove("position");
        flat.insert("correlation_id".into(), id.unwrap_or_default());
        return Value::Object(flat);
    }
    json!({
        "request_id": format!("req-{n}"), "fallback_enabled": attempts.len() > 1, "attempts": attempts,
    })
}

/// `att-a-7` for the first attempt of plan 7; a number follows the letter after the 26th.
fn attempt_id(at: u64, n: u64) -> String {
    let letter = char::from(b'a' + (at % 26) as u8);
    if at < 26 { format!("att-{letter}-{n}") } else { format!("att-{letter}{}-{n}", at / 26) }
}

/// What a success cost, as a platform settles it.
fn settlement(price: Price, asked: &Asked<'_>) -> Value {
    let usage = asked.body.get("usage").filter(|usage| usage.is_object());
    let tokens = |name: &str| {
        usage.and_then(|usage| usage.get(name)).and_then(Value::as_u64).unwrap_or_default()
    };
    let cost = cost(&[
        (tokens("prompt_tokens"), price.input),
        (tokens("completion_tokens"), price.output),
    ]);
    let (known, source) = match usage {
        Some(_) => ("reported", json!("managed")),
        None => ("unavailable", Value::Null),
    };
    json!({
        "correlation_id": asked.text("correlation_id"), "status": "completed", "outcome": "success",
        "cost_usd": cost.to_string(), "currency": "USD", "usage_status": known,
        "pricing": {"source": source},
    })
}

/// The ids by which the attempts of a plan will be reported, in either shape.
fn ids(body: &Value) -> Vec<String> {
    let text = |id: Option<&Value>| match id? {
        Value::String(id) => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    };
    match body.get("attempts").and_then(Value::as_array) {
        Some(attempts) => attempts.iter().filter_map(|a| text(a.get("attempt_id"))).collect(),
        None => text(body.get("correlation_id")).into_iter().collect(),
    }
}

/// Writes `n` for `{n}` in every text.
fn number(value: &mut Value, n: &str) {
    match value {
        Value::String(text) if text.contains("{n}") => *text = text.replace("{n}", n),
        Value::Array(items) => items.iter_mut().for_each(|item| number(item, n)),
        Value::Object(fields) => fields.values_mut().for_each(|value| number(value, n)),
        _ => {}
    }
}
