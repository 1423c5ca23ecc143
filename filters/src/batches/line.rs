//! One result of a batch, as its provider writes it, as callers see it.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::Api;
use crate::meter::{self, Reply, Usage};
use crate::prices::CacheCounting;
use crate::protocol::Protocol;
use crate::translate::neutral::AsCaller;
use crate::translate::{self, Spoken, Wire};
use crate::upstream::redact;

/// Longest message kept of an item's error.
const MAX_MESSAGE_CHARS: usize = 2000;

/// In the place of a text that cannot be shown.
const WITHHELD: &str = "The provider refused the item";

/// Why an item has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ItemError {
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
}

impl ItemError {
    fn new(code: impl Into<String>, message: &str) -> Self {
        let message = message.chars().take(MAX_MESSAGE_CHARS).collect();
        Self { code: code.into(), message }
    }

    /// Without what a provider's text must not tell: keys, accounts, addresses, the request itself.
    fn redacted(self) -> Self {
        let message = redact(&self.message);
        Self { message: message.unwrap_or_else(|| WITHHELD.to_owned()), ..self }
    }
}

/// One result.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The caller's name for the item.
    pub custom_id: String,
    /// The chat completion.
    pub result: Option<Box<RawValue>>,
    /// Why there is none.
    pub error: Option<ItemError>,
    /// What the answer used, when it says so.
    #[serde(skip)]
    pub usage: Option<Usage>,
    /// The model that answered.
    #[serde(skip)]
    pub model: Option<String>,
}

#[derive(Deserialize)]
struct Wired<'a> {
    #[serde(default)]
    custom_id: Option<String>,
    /// OpenAI's and Mistral's.
    #[serde(borrow, default)]
    response: Option<Response<'a>>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    /// Anthropic's, and this gateway's own.
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(default)]
    status_code: Option<u16>,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
}

/// A message's end.
#[derive(Deserialize)]
struct Ended<'a> {
    r#type: String,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    #[serde(default)]
    error: Value,
}

impl Api {
    /// Reads a line of results. `now_s`: seconds since 1970, for answers that do not say when they were made.
    pub fn read_line(self, line: &[u8], now_s: u64) -> Line {
        let unread = |custom_id: Option<String>| {
            let error = ItemError::new("unknown", "Unexpected response format");
            Line::failed(custom_id.unwrap_or_default(), error)
        };
        let Ok(wired) = serde_json::from_slice::<Wired<'_>>(line) else { return unread(None) };
        let id = wired.custom_id.clone();
        let read = match self {
            Self::OpenAi | Self::Mistral => wired.completion(),
            Self::Anthropic => wired.message(now_s),
            Self::Otari => wired.otari(),
        };
        read.unwrap_or_else(|| unread(id))
    }
}

impl Line {
    fn failed(custom_id: String, error: ItemError) -> Self {
        let error = Some(error.redacted());
        Self { custom_id, result: None, error, usage: None, model: None }
    }

    fn answered(custom_id: String, body: &RawValue) -> Self {
        #[derive(Deserialize)]
        struct Named {
            #[serde(default)]
            model: Option<String>,
        }
        let usage = match meter::read_reply(Protocol::Chat, body.get().as_bytes()) {
            Reply::Completion(usage) => usage,
            Reply::NotACompletion => None,
        };
        let named = serde_json::from_str::<Named>(body.get()).ok();
        Self {
            custom_id,
            result: Some(body.to_owned()),
            error: None,
            usage,
            model: named.and_then(|named| named.model),
        }
    }
}

impl Wired<'_> {
    /// A chat completion within `response`.
    fn completion(self) -> Option<Line> {
        let id = self.custom_id?;
        let own = self.error.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
        if let Some(response) = &self.response {
            let status = response.status_code.unwrap_or(0);
            if (200..300).contains(&status) {
                return response.body.map(|body| Line::answered(id, body));
            }
            if own.as_ref().is_none_or(Value::is_null) && status > 0 {
                let body = response.body.map_or("", RawValue::get);
                return Some(Line::failed(id, error_of(status, body.as_bytes())));
            }
        }
        let own = own.filter(|own| !own.is_null())?;
        let text = |name: &str| own.get(name).and_then(Value::as_str);
        let code = text("code").unwrap_or("unknown");
        let message = text("message").or(own.as_str()).unwrap_or("Unknown error");
        Some(Line::failed(id, ItemError::new(code, message)))
    }

    /// A message, as a chat completion.
    fn message(self, now_s: u64) -> Option<Line> {
        let id = self.custom_id?;
        let ended: Ended<'_> = serde_json::from_str(self.result?.get()).ok()?;
        let error = match ended.r#type.as_str() {
            "succeeded" => {
                let message = ended.message?.get().as_bytes();
                let caller = AsCaller { now: now_s, ..AsCaller::default() };
                let spoken = Spoken { wire: Wire::Messages, provider: "anthropic" };
                let answer = translate::answer(spoken, Protocol::Chat, message, &caller).ok()?;
                let body: Box<RawValue> = serde_json::from_slice(&answer.body).ok()?;
                let usage = answer.usage.map(|usage| usage.counted(CacheCounting::Additive));
                return Some(Line { usage, ..Line::answered(id, &body) });
            }
            "errored" => {
                // An error within an error, unless somebody flattened it.
                let inner = ended.error.get("error").unwrap_or(&ended.error);
                let text = |name: &str| inner.get(name).and_then(Value::as_str);
                let message = text("message").unwrap_or("Unknown error");
                ItemError::new(text("type").unwrap_or("unknown"), message)
            }
            kind => ItemError::new(kind, &format!("Request {kind}")),
        };
        Some(Line::failed(id, error))
    }

    /// As we write it ourselves.
    fn otari(self) -> Option<Line> {
        let id = self.custom_id?;
        if let Some(result) = self.result.filter(|raw| raw.get() != "null") {
            return Some(Line::answered(id, result));
        }
        let error: Value = serde_json::from_str(self.error?.get()).ok()?;
        let text = |name: &str| error.get(name).and_then(Value::as_str);
        let code = text("code").unwrap_or("unknown");
        Some(Line::failed(id, ItemError::new(code, text("message").unwrap_or("Unknown error"))))
    }
}

/// What an error answer says: its code or type, else its status; its message, else that there was none.
pub fn error_of(status: u16, body: &[u8]) -> ItemError {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = body.get("error").filter(|error| error.is_object()).unwrap_or(&body);
    let text = |name: &str| error.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let code = text("code").or_else(|| text("type")).map_or_else(|| status.to_string(), Into::into);
    let message = text("message").or_else(|| body.get("detail").and_then(Value::as_str));
    match message {
        Some(message) => ItemError::new(code, message),
        None => ItemError::new(code, &format!("The provider answered {status}")),
    }
}
