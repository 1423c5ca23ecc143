//! Which text of a request, and of an answer, is checked.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::protocol::Protocol;

/// The newest message of the user's, else the last message: its text, the parts of it on lines of their own. System
/// prompts, results of tools and earlier turns are not checked. Empty when there is none.
pub fn input_text(protocol: Protocol, body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let messages = match protocol {
        Protocol::Chat | Protocol::Messages => &body["messages"],
        Protocol::Responses => &body["input"],
    };
    match messages {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let users = items.iter().rfind(|item| item["role"] == "user");
            users.or(items.last()).map(|message| parts(&message["content"])).unwrap_or_default()
        }
        _ => String::new(),
    }
}

/// The text of a whole answer, without thoughts and calls, the parts of it on lines of their own.
pub fn output_text(protocol: Protocol, answer: &[u8]) -> String {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let texts: Vec<String> = match protocol {
        Protocol::Chat => {
            let choices = answer["choices"].as_array().into_iter().flatten();
            choices.map(|choice| parts(&choice["message"]["content"])).collect()
        }
        Protocol::Messages => vec![parts(&answer["content"])],
        Protocol::Responses => {
            let items = answer["output"].as_array().into_iter().flatten();
            items
                .filter(|item| item["type"] == "message")
                .map(|item| parts(&item["content"]))
                .collect()
        }
    };
    texts.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
}

/// The text of an answer that comes in events, as the caller sees them.
#[derive(Debug)]
pub struct OutputText {
    protocol: Protocol,
    /// The beginning of a line whose end is not here.
    line: Vec<u8>,
    /// By choice, block or item, and within an item by its part.
    texts: BTreeMap<(u64, u64), String>,
}

impl OutputText {
    /// Nothing yet.
    pub fn new(protocol: Protocol) -> Self {
        Self { protocol, line: Vec::new(), texts: BTreeMap::new() }
    }

    /// Takes a piece of the stream.
    pub fn feed(&mut self, piece: &[u8]) {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.read(&line);
            }
        }
    }

    /// All of it, the parts on lines of their own.
    pub fn finish(mut self) -> String {
        let line = std::mem::take(&mut self.line);
        self.read(&line);
        let texts: Vec<String> = self.texts.into_values().filter(|text| !text.is_empty()).collect();
        texts.join("\n")
    }

    fn read(&mut self, line: &[u8]) {
        let Some(data) = line.strip_prefix(b"data:") else { return };
        let Ok(event) = serde_json::from_slice::<Value>(data) else { return };
        let number = |name: &str| event[name].as_u64().unwrap_or(0);
        match (self.protocol, event["type"].as_str()) {
            (Protocol::Chat, _) => {
                for choice in event["choices"].as_array().into_iter().flatten() {
                    let at = choice["index"].as_u64().unwrap_or(0);
                    self.add((at, 0), &choice["delta"]["content"]);
                }
            }
            (Protocol::Messages, Some("content_block_start")) => {
                self.add((number("index"), 0), &event["content_block"]["text"]);
            }
            (Protocol::Messages, Some("content_block_delta")) => {
                self.add((number("index"), 0), &event["delta"]["text"]);
            }
            (Protocol::Responses, Some("response.output_text.delta")) => {
                self.add((number("output_index"), number("content_index")), &event["delta"]);
            }
            _ => {}
        }
    }

    fn add(&mut self, at: (u64, u64), text: &Value) {
        let text = parts(text);
        if !text.is_empty() {
            self.texts.entry(at).or_default().push_str(&text);
        }
    }
}

/// A text, or the parts of a list that are or have one.
fn parts(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| part.as_str().or(part["text"].as_str()));
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Protocol::{Chat, Messages, Responses};

    #[test]
    fn the_newest_words_of_the_user_are_checked() {
        for (protocol, body, want) in [
            (
                Chat,
                r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#,
                "a",
            ),
            (
                Chat,
                r#"{"messages":[{"role":"system","content":"s"},{"role":"assistant","content":"b"}]}"#,
                "b",
            ),
            (Chat, r#"{"messages":[{"role":"user","content":null}]}"#, ""),
            (
                Messages,
                r#"{"system":"s","messages":[{"role":"user","content":[{"type":"text","text":"a"},"b",{"type":"image"},{"text":7}]}]}"#,
                "a\nb",
            ),
            (Responses, r#"{"input":"a","instructions":"s"}"#, "a"),
            (
                Responses,
                r#"{"input":[{"role":"user","content":[{"type":"input_text","text":"a"}]},{"type":"function_call_output","output":"x"}]}"#,
                "a",
            ),
            (Responses, r#"{"input":7}"#, ""),
            (Chat, "[", ""),
        ] {
            assert_eq!(input_text(protocol, body.as_bytes()), want, "{body}");
        }
    }

    #[test]
    fn the_words_of_an_answer_are_checked() {
        for (protocol, answer, want) in [
            (
                Chat,
                r#"{"choices":[{"message":{"content":"a","reasoning":"r"}},{"message":{"content":[{"text":"b"}]}}]}"#,
                "a\nb",
            ),
            (
                Messages,
                r#"{"content":[{"type":"thinking","thinking":"t"},{"type":"text","text":"a"},{"type":"tool_use"}]}"#,
                "a",
            ),
            (
                Responses,
                r#"{"output":[{"type":"reasoning","content":[{"text":"t"}]},{"type":"message","content":[{"type":"output_text","text":"a"}]}]}"#,
                "a",
            ),
        ] {
            assert_eq!(output_text(protocol, answer.as_bytes()), want);
        }
    }

    #[test]
    fn the_words_of_a_stream_are_checked_however_it_is_cut() {
        for (protocol, stream, want) in [
            (
                Chat,
                "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}},{\"index\":1,\"delta\":{\"content\":\"c\"}}]}\n\n\
                 data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"b\"}}]}\n\ndata: [DONE]\n\n",
                "ab\nc",
            ),
            (
                Messages,
                "event: x\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"t\"}}\n\n\
                 data: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\r\n\r\n",
                "a",
            ),
            (
                Responses,
                "data: {\"type\":\"response.output_text.delta\",\"output_index\":1,\"content_index\":0,\"delta\":\"a\"}\n\n\
                 data: {\"type\":\"response.output_text.delta\",\"output_index\":1,\"content_index\":1,\"delta\":\"b\"}",
                "a\nb",
            ),
        ] {
            for size in [1, 7, 4096] {
                let mut text = OutputText::new(protocol);
                stream.as_bytes().chunks(size).for_each(|piece| text.feed(piece));
                assert_eq!(text.finish(), want);
            }
        }
    }
}
