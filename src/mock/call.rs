//! Reads request bodies without building a tree: the text of a megabyte prompt is counted, not kept.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// What the mock looks at in a chat, messages or responses call. `null` means absent.
#[derive(Deserialize)]
pub(super) struct Generation<'a> {
    /// Empty when missing.
    #[serde(borrow, default)]
    pub(super) model: Cow<'a, str>,
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<StreamOptions>,
    pub(super) max_tokens: Option<u64>,
    pub(super) max_completion_tokens: Option<u64>,
    pub(super) max_output_tokens: Option<u64>,
    #[serde(borrow)]
    pub(super) tools: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) tool_choice: Option<&'a RawValue>,
    pub(super) messages: Option<Turns>,
    pub(super) input: Option<Turns>,
    pub(super) system: Option<Turns>,
    pub(super) instructions: Option<Turns>,
    #[serde(borrow)]
    pub(super) include: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(super) struct StreamOptions {
    pub(super) include_usage: Option<bool>,
}

impl Generation<'_> {
    /// Prompt tokens: a quarter of the characters, rounded up, at least one.
    pub(super) fn prompt_tokens(&self) -> u64 {
        tokens(self.chars())
    }

    /// Characters of the prompt.
    pub(super) fn chars(&self) -> u64 {
        let parts = [self.messages, self.input, self.system, self.instructions];
        parts.iter().flatten().map(|turns| turns.chars).sum()
    }

    /// The most tokens of output.
    pub(super) fn limit(&self) -> Option<u64> {
        self.max_completion_tokens.or(self.max_tokens).or(self.max_output_tokens)
    }

    /// Asked for a usage chunk at the end of the stream.
    pub(super) fn include_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|o| o.include_usage) == Some(true)
    }

    /// Asked for sealed thoughts.
    pub(super) fn sealed(&self) -> bool {
        self.include.is_some_and(|list| list.get().contains("reasoning.encrypted_content"))
    }

    /// The turns of the conversation, whatever the protocol calls them.
    pub(super) fn conversation(&self) -> Turns {
        self.messages.or(self.input).unwrap_or_default()
    }
}

/// Tokens of a text of so many characters.
pub(super) fn tokens(chars: u64) -> u64 {
    chars.div_ceil(4).max(1)
}

/// What an embeddings call holds.
#[derive(Deserialize)]
pub(super) struct Embedding<'a> {
    #[serde(borrow, default)]
    pub(super) model: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) input: Option<Inputs<'a>>,
    #[serde(borrow)]
    pub(super) encoding_format: Option<Cow<'a, str>>,
    pub(super) dimensions: Option<u32>,
    /// Voyage, Mistral.
    pub(super) output_dimension: Option<u32>,
}

/// The four spellings of an embeddings input.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Inputs<'a> {
    One(#[serde(borrow)] Cow<'a, str>),
    Many(Vec<String>),
    Tokens(Vec<u64>),
    TokenLists(Vec<Vec<u64>>),
}

/// Who spoke last; system and developer turns do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Speaker {
    #[default]
    User,
    Tool,
    Other,
}

/// A text or a list of turns, counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turns {
    pub(super) chars: u64,
    pub(super) count: u64,
    pub(super) last: Speaker,
}

impl<'de> Deserialize<'de> for Turns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Counter;
        impl<'de> Visitor<'de> for Counter {
            type Value = Turns;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of messages")
            }
            fn visit_str<E>(self, text: &str) -> Result<Turns, E> {
                Ok(Turns { chars: text.chars().count() as u64, count: 1, last: Speaker::User })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Turns, A::Error> {
                let mut turns = Turns::default();
                while let Some(turn) = seq.next_element::<Turn>()? {
                    turns.chars += turn.chars;
                    turns.count += 1;
                    turns.last = match turn.role {
                        Role::System | Role::Developer => turns.last,
                        _ if turn.result => Speaker::Tool,
                        Role::Tool => Speaker::Tool,
                        Role::User => Speaker::User,
                        Role::Other => Speaker::Other,
                    };
                }
                Ok(turns)
            }
        }
        deserializer.deserialize_any(Counter)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Key {
    Role,
    Type,
    Text,
    Content,
    Output,
    #[serde(other)]
    Other,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Role {
    User,
    Tool,
    System,
    Developer,
    #[default]
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Kind {
    ToolResult,
    FunctionCallOutput,
    #[serde(other)]
    Other,
}

/// One message, item or part, and everything in it.
#[derive(Default)]
struct Turn {
    chars: u64,
    role: Role,
    /// Is or holds the result of a tool.
    result: bool,
}

impl Turn {
    fn add(&mut self, part: &Turn) {
        self.chars += part.chars;
        self.result |= part.result;
    }
}

impl<'de> Deserialize<'de> for Turn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TurnCounter)
    }
}

struct TurnCounter;

impl<'de> Visitor<'de> for TurnCounter {
    type Value = Turn;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message or a part of one")
    }
    fn visit_str<E>(self, text: &str) -> Result<Turn, E> {
        Ok(Turn { chars: text.chars().count() as u64, ..Turn::default() })
    }
    fn visit_unit<E>(self) -> Result<Turn, E> {
        Ok(Turn::default())
    }
    fn visit_bool<E>(self, _: bool) -> Result<Turn, E> {
        Ok(Turn::default())
    }
    fn visit_u64<E>(self, _: u64) -> Result<Turn, E> {
        Ok(Turn::default())
    }
    fn visit_i64<E>(self, _: i64) -> Result<Turn, E> {
        Ok(Turn::default())
    }
    fn visit_f64<E>(self, _: f64) -> Result<Turn, E> {
        Ok(Turn::default())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Turn, A::Error> {
        let mut turn = Turn::default();
        while let Some(part) = seq.next_element::<Turn>()? {
            turn.add(&part);
        }
        Ok(turn)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Turn, A::Error> {
        let mut turn = Turn::default();
        while let Some(key) = map.next_key::<Key>()? {
            match key {
                Key::Role => turn.role = map.next_value()?,
                Key::Type => {
                    turn.result |= !matches!(map.next_value()?, Kind::Other);
                }
                Key::Text | Key::Content | Key::Output => turn.add(&map.next_value()?),
                Key::Other => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Generation<'_> {
        serde_json::from_str(body).unwrap()
    }

    #[test]
    fn characters_count_in_every_shape() {
        let plain = read(r#"{"model":"m","messages":[{"role":"user","content":"abcdéf"}]}"#);
        assert_eq!((plain.conversation().chars, plain.prompt_tokens()), (6, 2));
        let parts = read(
            r#"{"model":"m","system":[{"type":"text","text":"ab"}],"messages":[{"role":"user","content":
            [{"type":"text","text":"cd"},{"type":"image_url","image_url":{"url":"data:x"}}]}]}"#,
        );
        assert_eq!(parts.prompt_tokens(), 1, "four characters of text; images are not text");
        assert_eq!(
            read(r#"{"model":"m","input":"abcde","instructions":"abcd"}"#).prompt_tokens(),
            3
        );
        assert_eq!(read(r#"{"model":"m","messages":[]}"#).prompt_tokens(), 1, "at least one");
    }

    #[test]
    fn the_last_speaker_is_found_in_every_protocol() {
        let last = |body| read(body).conversation().last;
        assert_eq!(last(r#"{"messages":[{"role":"tool","content":"x"}]}"#), Speaker::Tool);
        assert_eq!(
            last(
                r#"{"messages":[{"role":"user","content":[{"type":"tool_result","content":"1"}]}]}"#
            ),
            Speaker::Tool,
        );
        assert_eq!(
            last(r#"{"input":[{"type":"function_call_output","output":"1"}]}"#),
            Speaker::Tool
        );
        assert_eq!(
            last(r#"{"messages":[{"role":"user","content":"x"},{"role":"system","content":"y"}]}"#),
            Speaker::User,
            "Claude Code sends a system turn after the user's",
        );
        assert_eq!(last(r#"{"messages":[{"role":"assistant","content":null}]}"#), Speaker::Other);
    }

    #[test]
    fn nulls_are_absent() {
        let call = read(
            r#"{"model":"m","stream":null,"tools":null,"max_tokens":null,"stream_options":null,
            "messages":[{"role":"user","content":null}]}"#,
        );
        assert!(call.stream.is_none() && call.tools.is_none() && call.max_tokens.is_none());
    }
}
