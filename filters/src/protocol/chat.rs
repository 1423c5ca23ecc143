//! OpenAI chat completions: what the gateway must know of a request, and its edits.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat> (2026-11-22).

mod text;
mod validate;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::protocol::Protocol;
use crate::protocol::json::{Edit, is_null, range_of, removals, splice};
use crate::rejection::Rejection;
pub use text::Messages;
pub use validate::FIELDS;

/// Fields of this gateway: they never reach a provider.
const GATEWAY_FIELDS: [&str; 6] = [
    "mcp_servers",
    "mcp_server_ids",
    "guardrails",
    "tools_header",
    "max_tool_iterations",
    "session_label",
];

/// Fields that could steer our credentials or the address they go to: removed, and never honoured.
const STEERING_FIELDS: [&str; 18] = [
    "api_key",
    "api_base",
    "api_version",
    "base_url",
    "provider",
    "organization",
    "client",
    "client_args",
    "credentials",
    "extra_headers",
    "extra_body",
    "extra_query",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "default_headers",
    "http_client",
    "timeout",
];

/// How a body is edited for a provider.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite<'a> {
    /// The model's name there.
    pub model: &'a str,
    /// `user` is the caller's own label.
    pub keep_user: bool,
    /// Codex' own data stays.
    pub keeps_codex_metadata: bool,
}

/// What the gateway reads of a chat completion request. Ranges point into the body it was read from.
#[derive(Debug, Default)]
pub struct Request {
    /// The API it is of.
    pub protocol: Protocol,
    /// The caller's label for the conversation.
    pub session_label: Option<Arc<str>>,
    /// The selector as sent.
    pub model: String,
    /// Whether the caller wants a stream.
    pub stream: bool,
    /// `user`, when it is a non-empty string.
    pub user: Option<String>,
    /// Characters of the messages' text; parts without text count as what they usually cost.
    pub prompt_chars: u64,
    /// `max_tokens`, else `max_completion_tokens`; negatives count as 0.
    pub declared_output: Option<u64>,
    /// `n`, at least 1.
    pub choices: u64,
    /// Whether the caller asked for the usage chunk itself.
    pub wants_usage: bool,
    /// Gateway features the request asks for, by field name.
    pub gateway_features: Vec<&'static str>,
    model_at: Range<usize>,
    user_at: Option<Range<usize>>,
    stream_options: StreamOptions,
    unwanted: Vec<Range<usize>>,
    after_brace: usize,
}

/// `stream_options` as sent.
#[derive(Debug, Default)]
enum StreamOptions {
    #[default]
    Absent,
    Present {
        at: Range<usize>,
        /// The same object with `include_usage: true`; `None` when it says so already.
        asking: Option<Bytes>,
    },
}

impl Request {
    /// Reads a request body.
    ///
    /// # Errors
    /// `invalid_json` when it is not one JSON document, `invalid_fields` with every fault at once.
    pub fn read(_: Protocol, body: &Bytes) -> Result<Self, Rejection> {
        let top: Top<'_> =
            serde_json::from_slice(body).map_err(|error| validate::not_json(body, &error))?;
        validate::check(&top)?;
        Ok(Self::from_top(body, &top))
    }

    fn from_top(body: &[u8], top: &Top<'_>) -> Self {
        let unwanted = top.unwanted.iter().map(|raw| range_of(body, raw)).collect();
        let model_at = top.model.map(|raw| range_of(body, raw)).unwrap_or_default();
        let stream_options = match top.stream_options {
            None => StreamOptions::Absent,
            Some(raw) => StreamOptions::Present { at: range_of(body, raw), asking: asking(raw) },
        };
        Self {
            protocol: Protocol::Chat,
            session_label: None,
            model: top.model.and_then(crate::protocol::json::text).unwrap_or_default(),
            stream: top.stream.is_some_and(|raw| validate::truthy(raw.get()) == Some(true)),
            user: top.user.and_then(crate::protocol::json::text).filter(|user| !user.is_empty()),
            prompt_chars: top.messages.chars,
            declared_output: top
                .max_tokens
                .filter(|raw| !is_null(raw))
                .or(top.max_completion_tokens)
                .and_then(validate::tokens),
            choices: top.n.and_then(validate::tokens).unwrap_or(1).max(1),
            wants_usage: matches!(&stream_options, StreamOptions::Present { asking: None, .. }),
            gateway_features: top.features.clone(),
            user_at: top.user.map(|raw| range_of(body, raw)),
            model_at,
            stream_options,
            unwanted,
            after_brace: memchr::memchr(b'{', body).map_or(0, |at| at + 1),
        }
    }

    /// Whether the gateway must ask for usage on the caller's behalf, and hide the answer from them.
    pub fn hides_usage(&self) -> bool {
        self.stream && !self.wants_usage
    }

    /// The body for a provider that speaks the same format: the caller's bytes with `model` replaced, the gateway's
    /// fields taken out and, for streams, usage asked for. `keep_user`: `user` is the caller's own label.
    pub fn write_same(&self, body: &Bytes, rewrite: &Rewrite<'_>) -> Vec<Bytes> {
        let Rewrite { model, keep_user, .. } = *rewrite;
        let mut gone = self.unwanted.clone();
        if !keep_user {
            gone.extend(self.user_at.clone());
        }
        let mut edits = removals(body, gone);
        let quoted = serde_json::to_vec(model).unwrap_or_default();
        edits.push(Edit { range: self.model_at.clone(), with: quoted.into() });
        if self.stream {
            edits.extend(self.usage_edit());
        }
        splice(body, edits)
    }

    fn usage_edit(&self) -> Option<Edit> {
        match &self.stream_options {
            StreamOptions::Absent => Some(Edit {
                range: self.after_brace..self.after_brace,
                with: Bytes::from_static(br#""stream_options":{"include_usage":true},"#),
            }),
            StreamOptions::Present { at, asking } => {
                asking.clone().map(|with| Edit { range: at.clone(), with })
            }
        }
    }
}

/// `stream_options` with usage asked for; `None` when it is already.
fn asking(raw: &RawValue) -> Option<Bytes> {
    let mut object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str::<Option<_>>(raw.get()).ok().flatten().unwrap_or_default();
    if object.get("include_usage") == Some(&serde_json::Value::Bool(true)) {
        return None;
    }
    object.insert("include_usage".into(), true.into());
    serde_json::to_vec(&object).ok().map(Bytes::from)
}

/// The top level of a request: the fields the gateway knows, each where it stands.
#[derive(Default)]
struct Top<'a> {
    model: Option<&'a RawValue>,
    messages: Messages,
    user: Option<&'a RawValue>,
    temperature: Option<&'a RawValue>,
    top_p: Option<&'a RawValue>,
    max_tokens: Option<&'a RawValue>,
    max_completion_tokens: Option<&'a RawValue>,
    n: Option<&'a RawValue>,
    stream: Option<&'a RawValue>,
    stream_options: Option<&'a RawValue>,
    tools: Option<&'a RawValue>,
    tool_choice: Option<&'a RawValue>,
    response_format: Option<&'a RawValue>,
    unwanted: Vec<&'a RawValue>,
    features: Vec<&'static str>,
    seen: Vec<&'static str>,
    repeated: Option<&'static str>,
    not_an_object: bool,
}

impl<'a> Top<'a> {
    /// The slot of a field that is kept by name.
    fn slot(&mut self, name: &str) -> Option<(&'static str, &mut Option<&'a RawValue>)> {
        Some(match name {
            "model" => ("model", &mut self.model),
            "user" => ("user", &mut self.user),
            "temperature" => ("temperature", &mut self.temperature),
            "top_p" => ("top_p", &mut self.top_p),
            "max_tokens" => ("max_tokens", &mut self.max_tokens),
            "max_completion_tokens" => ("max_completion_tokens", &mut self.max_completion_tokens),
            "n" => ("n", &mut self.n),
            "stream" => ("stream", &mut self.stream),
            "stream_options" => ("stream_options", &mut self.stream_options),
            "tools" => ("tools", &mut self.tools),
            "tool_choice" => ("tool_choice", &mut self.tool_choice),
            "response_format" => ("response_format", &mut self.response_format),
            _ => return None,
        })
    }

    /// Remembers a field name; a second one of a name is a fault, because two parsers may pick two values.
    fn note(&mut self, name: &'static str) {
        if self.seen.contains(&name) {
            self.repeated = Some(name);
        }
        self.seen.push(name);
    }
}

/// A key, borrowed when it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E: serde::de::Error>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }
            fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Top<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TopVisitor)
    }
}

struct TopVisitor;

impl<'de> Visitor<'de> for TopVisitor {
    type Value = Top<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Top<'de>, A::Error> {
        let mut top = Top::default();
        while let Some(Key(key)) = map.next_key()? {
            let key = key.as_ref();
            if key == "messages" {
                top.messages = map.next_value()?;
                top.note("messages");
            } else if let Some(name) = GATEWAY_FIELDS.iter().find(|name| **name == key) {
                let raw: &RawValue = map.next_value()?;
                if validate::asks_for_something(raw) {
                    top.features.push(name);
                }
                top.note(name);
                top.unwanted.push(raw);
            } else if let Some(name) = STEERING_FIELDS.iter().find(|name| **name == key) {
                top.note(name);
                top.unwanted.push(map.next_value()?);
            } else if top.slot(key).is_some() {
                let raw: &RawValue = map.next_value()?;
                if let Some((name, slot)) = top.slot(key) {
                    *slot = Some(raw);
                    top.note(name);
                }
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(top)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Top<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Top { not_an_object: true, ..Top::default() })
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Top<'de>, E> {
        Ok(Top { not_an_object: true, ..Top::default() })
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Top<'de>, E> {
        self.visit_str("")
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Top<'de>, E> {
        self.visit_str("")
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Top<'de>, E> {
        self.visit_str("")
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Top<'de>, E> {
        self.visit_str("")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Top<'de>, E> {
        self.visit_str("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(body: &'static str, model: &str) -> String {
        let body = Bytes::from_static(body.as_bytes());
        let request = Request::read(&body).unwrap();
        String::from_utf8(request.write_same(&body, model, false).concat()).unwrap()
    }

    #[test]
    fn only_the_model_changes_in_a_plain_call() {
        assert_eq!(
            rewritten(
                r#"{ "x": 1.0e0, "model":"p:m", "messages":[{"role":"user","content":"h\u00e9"}],"z":{"a":[]} }"#,
                "m"
            ),
            r#"{ "x": 1.0e0, "model":"m", "messages":[{"role":"user","content":"h\u00e9"}],"z":{"a":[]} }"#
        );
    }

    #[test]
    fn gateway_and_steering_fields_are_taken_out() {
        assert_eq!(
            rewritten(
                r#"{"api_key":"k","model":"p:m","messages":[{"role":"user"}],"user":"u","guardrails":null,"ap\u0069_base":"http://evil","seed":1}"#,
                "m"
            ),
            r#"{"model":"m","messages":[{"role":"user"}],"seed":1}"#
        );
    }

    #[test]
    fn streams_ask_for_usage() {
        assert_eq!(
            rewritten(r#"{"model":"p:m","messages":[{"role":"user"}],"stream":true}"#, "m"),
            r#"{"stream_options":{"include_usage":true},"model":"m","messages":[{"role":"user"}],"stream":true}"#
        );
        assert_eq!(
            rewritten(
                r#"{"model":"p:m","messages":[{"role":"user"}],"stream":true,"stream_options":{"x":1,"include_usage":false}}"#,
                "m"
            ),
            r#"{"model":"m","messages":[{"role":"user"}],"stream":true,"stream_options":{"x":1,"include_usage":true}}"#
        );
        let null =
            r#"{"model":"p:m","messages":[{"role":"user"}],"stream":true,"stream_options":null}"#;
        assert!(rewritten(null, "m").ends_with(r#""stream_options":{"include_usage":true}}"#));
    }

    #[test]
    fn a_caller_who_asks_for_usage_sees_it() {
        let asks = Bytes::from_static(
            br#"{"model":"p:m","messages":[{"role":"user"}],"stream":true,"stream_options":{"include_usage":true}}"#,
        );
        assert!(!Request::read(&asks).unwrap().hides_usage());
        let silent =
            Bytes::from_static(br#"{"model":"p:m","messages":[{"role":"user"}],"stream":true}"#);
        assert!(Request::read(&silent).unwrap().hides_usage());
    }

    /// A request of these fields in this order, with this white space around everything.
    fn body_of(fields: &[(String, serde_json::Value)], space: &str) -> Bytes {
        let inner: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{space}{}{space}:{space}{value}{space}", quoted(name)))
            .collect();
        Bytes::from(format!("{space}{{{}}}{space}", inner.join(",")))
    }

    fn quoted(name: &str) -> String {
        serde_json::Value::from(name).to_string()
    }

    proptest::proptest! {
        #[test]
        fn an_edit_changes_what_it_must_and_nothing_else(
            names in proptest::sample::subsequence(
                vec!["seed", "api_key", "user", "x", "guardrails", "base_url", "metadata", "stream", "session_label"],
                0..9,
            ),
            rotate in 0usize..11,
            space in "[ \n\t]{0,2}",
            text in "\\PC{0,20}",
        ) {
            let mut fields: Vec<(String, serde_json::Value)> = names
                .iter()
                .map(|name| match *name {
                    "stream" => ("stream".to_owned(), true.into()),
                    "guardrails" | "session_label" => ((*name).to_owned(), serde_json::Value::Null),
                    other => (other.to_owned(), text.as_str().into()),
                })
                .collect();
            fields.push(("model".into(), "p:m".into()));
            fields.push(("messages".into(), serde_json::json!([{"role": "user", "content": text}])));
            let turn = rotate % fields.len();
            fields.rotate_left(turn);

            let body = body_of(&fields, &space);
            let request = Request::read(&body).unwrap();
            let sent = request.write_same(&body, "m", false).concat();
            let sent: serde_json::Map<String, serde_json::Value> =
                serde_json::from_slice(&sent).unwrap();

            let gone = |name: &str| {
                name == "user" || GATEWAY_FIELDS.contains(&name) || STEERING_FIELDS.contains(&name)
            };
            let mut want: Vec<(String, serde_json::Value)> =
                fields.into_iter().filter(|(name, _)| !gone(name)).collect();
            for (name, value) in &mut want {
                if name == "model" {
                    *value = "m".into();
                }
            }
            if names.contains(&"stream") {
                let ask = serde_json::json!({"include_usage": true});
                want.insert(0, ("stream_options".into(), ask));
            }
            let got: Vec<_> = sent.into_iter().collect();
            proptest::prop_assert_eq!(got, want, "order and values survive");
        }
    }

    #[test]
    fn a_repeated_known_field_is_refused() {
        let body =
            Bytes::from_static(br#"{"model":"a:b","messages":[{"role":"user"}],"model":"c:d"}"#);
        let refused = Request::read(&body).unwrap_err();
        assert!(refused.message.contains("model"), "{refused}");
    }
}
