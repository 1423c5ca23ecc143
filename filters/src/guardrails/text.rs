//! Which text of a request, and of an answer, is checked.

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
}
