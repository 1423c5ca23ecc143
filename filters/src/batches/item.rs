//! One call of a batch on its way to whoever runs it.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::Api;
use crate::protocol::{
    Protocol, Request, Rewrite,
    top::{GATEWAY_FIELDS, STEERING_FIELDS},
};
use crate::rejection::{Code, Rejection};
use crate::reserve::Estimate;
use crate::secret::Secret;
use crate::translate;
use crate::translate::Wire;
use crate::translate::neutral::Target;

/// One call as the caller sent it.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Where it stands in the list.
    pub position: usize,
    /// The caller's name for it.
    pub custom_id: &'a str,
    /// A chat completion's body, or, for providers of Anthropic's API, a message's.
    pub body: &'a Map<String, Value>,
}

/// Whom the call is written for.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// `None`: the gateway itself, which will make a request of its own of it.
    pub api: Option<Api>,
    /// The model's name there.
    pub model: &'a str,
    /// The provider's name in the provider table.
    pub provider: &'a str,
    /// The settings of the provider's client.
    pub settings: &'a [(String, Secret)],
}

/// A call, written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The body.
    pub body: Bytes,
    /// Whom the caller named in it.
    pub user: Option<String>,
    /// Characters of its prompt.
    pub prompt_chars: u64,
    /// How long each answer may be, where it says so.
    pub declared_output: Option<u64>,
    /// How many answers it asks for.
    pub choices: u64,
}

impl Made {
    /// What it may use; `default_output`: of answers whose length it does not limit.
    pub fn estimate(&self, default_output: u64) -> Estimate {
        Estimate::new(self.prompt_chars, self.declared_output, default_output, self.choices)
    }
}

/// Fields that only a chat completion has.
const CHAT_ONLY: [&str; 18] = [
    "max_completion_tokens",
    "n",
    "stop",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "logprobs",
    "top_logprobs",
    "logit_bias",
    "reasoning_effort",
    "parallel_tool_calls",
    "response_format",
    "user",
    "functions",
    "function_call",
    "modalities",
    "prediction",
    "verbosity",
];

/// Parts of a message that only a chat completion has.
const CHAT_PARTS: [&str; 4] = ["image_url", "input_audio", "file", "refusal"];

impl Draft<'_> {
    /// Writes a call: the model is this one whatever the body says, nothing is streamed, and what is the gateway's own or
    /// could steer credentials is left out. `keeps_user` says whether the `user` it names goes on.
    ///
    /// # Errors
    /// `invalid_fields` naming what is wrong with the item, or what `keeps_user` says.
    pub fn write(
        &self,
        item: Item<'_>,
        keeps_user: impl FnOnce(&str) -> Result<bool, Rejection>,
    ) -> Result<Made, Rejection> {
        let mut body = item.body.clone();
        body.insert("model".into(), self.model.into());
        for name in
            ["stream", "stream_options"].iter().chain(&GATEWAY_FIELDS).chain(&STEERING_FIELDS)
        {
            body.shift_remove(*name);
        }
        let protocol = match self.api {
            Some(Api::Anthropic) if is_message(&body) => Protocol::Messages,
            _ => Protocol::Chat,
        };
        let bytes = Bytes::from(serde_json::to_vec(&body).map_err(Rejection::internal)?);
        let request =
            Request::read(protocol, &bytes).map_err(|refused| placed(refused, item.position))?;
        let user = request.user.clone();
        let keep_user = match &user {
            Some(user) => keeps_user(user)?,
            None => false,
        };
        let made = match self.api {
            None | Some(Api::Otari) => bytes,
            Some(Api::Anthropic) if protocol == Protocol::Chat => {
                self.translated(&bytes).map_err(|refused| placed(refused, item.position))?
            }
            Some(_) => {
                let rewrite = Rewrite { model: self.model, keep_user, provider: self.provider };
                request.write_same(&bytes, &rewrite).concat().into()
            }
        };
        let Request { prompt_chars, declared_output, choices, .. } = request;
        Ok(Made { body: made, user, prompt_chars, declared_output, choices })
    }

    /// A chat completion as a message.
    fn translated(&self, body: &[u8]) -> Result<Bytes, Rejection> {
        let target = Target {
            model: self.model,
            provider: self.provider,
            stream: false,
            settings: self.settings,
        };
        translate::request(Protocol::Chat, Wire::Messages, body, &target).map(|made| made.body)
    }
}

impl Api {
    /// Appends an item to what the batch is made of: a line of the file, or one more of `requests`.
    pub fn append(self, custom_id: &str, body: &[u8], out: &mut Vec<u8>) {
        let custom_id = serde_json::to_vec(custom_id).unwrap_or_default();
        let mut put =
            |pieces: &[&[u8]]| pieces.iter().for_each(|piece| out.extend_from_slice(piece));
        match self {
            Self::OpenAi => put(&[
                b"{\"custom_id\":",
                &custom_id,
                b",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":",
                body,
                b"}\n",
            ]),
            Self::Mistral => {
                put(&[b"{\"custom_id\":", &custom_id, b",\"body\":", body, b"}\n"]);
            }
            Self::Anthropic | Self::Otari => {
                if !out.is_empty() {
                    out.push(b',');
                }
                let name: &[u8] = if self == Self::Otari { b"body" } else { b"params" };
                out.extend_from_slice(b"{\"custom_id\":");
                out.extend_from_slice(&custom_id);
                out.extend_from_slice(b",\"");
                out.extend_from_slice(name);
                out.extend_from_slice(b"\":");
                out.extend_from_slice(body);
                out.push(b'}');
            }
        }
    }

    /// The call that makes a batch. `items`: the id of the file, or what [`Self::append`] made.
    pub fn create(
        self,
        items: &[u8],
        model: &str,
        window: &str,
        metadata: Option<&Map<String, Value>>,
    ) -> Vec<u8> {
        let metadata = metadata.cloned().unwrap_or_default();
        let file = String::from_utf8_lossy(items);
        let body = match self {
            Self::OpenAi => json!({"input_file_id": file, "endpoint": super::ENDPOINT,
                                   "completion_window": window, "metadata": metadata}),
            Self::Mistral => {
                json!({"input_files": [file], "endpoint": super::ENDPOINT, "model": model,
                                    "timeout_hours": hours(window), "metadata": metadata})
            }
            Self::Anthropic | Self::Otari => {
                let mut body = match self {
                    Self::Otari => {
                        let head = json!({"model": model, "completion_window": window, "metadata": metadata});
                        let mut head = serde_json::to_vec(&head).unwrap_or_default();
                        // The list goes in before the brace at its end.
                        head.pop();
                        head.extend_from_slice(b",\"requests\":[");
                        head
                    }
                    _ => b"{\"requests\":[".to_vec(),
                };
                body.extend_from_slice(items);
                body.extend_from_slice(b"]}");
                return body;
            }
        };
        // A tree of texts and numbers always serialises.
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

/// `24h` and `7d` as hours; anything else is a day. A week at most, as Mistral has it.
pub fn hours(window: &str) -> u64 {
    let number = |unit: char| window.strip_suffix(unit).and_then(|n| n.trim().parse::<u64>().ok());
    let hours = number('h').or_else(|| number('d').map(|days| days.saturating_mul(24)));
    hours.unwrap_or(24).clamp(1, 168)
}

/// Whether a body is a message of Anthropic's API: it says how long the answer may be, and has nothing that only a chat
/// completion has.
fn is_message(body: &Map<String, Value>) -> bool {
    let has = |name: &str| body.get(name).is_some_and(|value| !value.is_null());
    if !has("max_tokens") || CHAT_ONLY.iter().any(|name| has(name)) {
        return false;
    }
    let list = |name: &str| body.get(name).and_then(Value::as_array).into_iter().flatten();
    let is_chat_tool = |tool: &Value| tool["type"] == "function";
    if list("tools").any(is_chat_tool) || body.get("tool_choice").is_some_and(Value::is_string) {
        return false;
    }
    let is_chat_turn = |turn: &Value| {
        let role = turn["role"].as_str().unwrap_or_default();
        let parts = turn["content"].as_array().into_iter().flatten();
        matches!(role, "system" | "developer" | "tool" | "function")
            || turn.get("tool_calls").is_some()
            || parts
                .into_iter()
                .any(|part| part["type"].as_str().is_some_and(|kind| CHAT_PARTS.contains(&kind)))
    };
    !list("messages").any(is_chat_turn)
}

/// Says which item a refusal is about.
fn placed(refused: Rejection, position: usize) -> Rejection {
    let prefix = format!("requests.{position}");
    let message = match refused.message.strip_prefix("body.") {
        Some(rest) => format!("body.{prefix}.body.{rest}"),
        None => format!("{prefix}: {}", refused.message),
    };
    let detail = refused.detail.map(|mut detail| {
        for fault in detail.as_array_mut().into_iter().flatten() {
            let inner = fault["loc"].as_array().cloned().unwrap_or_default();
            let outer = [json!("body"), json!("requests"), json!(position)];
            fault["loc"] = outer.into_iter().chain(inner).collect();
        }
        detail
    });
    // What one item holds is a field of the whole.
    Rejection { detail, ..Rejection::new(Code::InvalidFields, message) }
}
