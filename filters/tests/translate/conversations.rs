//! Conversations with everything the neutral form knows, from each caller's format to each provider's: what is said
//! arrives, in its order, but for the losses that `said::left` names.

use otari_filters::protocol::Protocol::{self, Chat, Messages, Responses};
use otari_filters::translate::neutral::{Conversation, Target};
use otari_filters::translate::{self, Wire};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::said::{self, Item};

/// Formats that a request can be read from again.
const READABLE: [Protocol; 3] = [Chat, Messages, Responses];
/// Formats that only providers have.
const PROVIDERS: [Wire; 5] =
    [Wire::Gemini, Wire::Cohere, Wire::Ollama, Wire::Converse, Wire::SageMaker];

const TARGET: Target<'_> =
    Target { model: "anthropic.claude-x", provider: "otari", stream: false, settings: &[] };

fn text() -> impl Strategy<Value = String> {
    prop_oneof![".{1,12}", "[a-z\\\\\"\n/é😀]{1,12}", Just("data:image/png;base64,".to_owned())]
}

/// Perhaps with a mark of a prefix to cache.
fn marked(mut part: Value, is_marked: bool) -> Value {
    if is_marked {
        part["cache_control"] = json!({"type": "ephemeral", "ttl": "1h"});
    }
    part
}

fn part() -> impl Strategy<Value = Value> {
    let base64 = || "[A-Za-z0-9+/]{4,20}={0,2}";
    let shown = prop_oneof![
        4 => text().prop_map(|text| json!({"type": "text", "text": text})),
        1 => (base64(), prop::option::of("(low|high)")).prop_map(|(data, detail)| {
            let url = format!("data:image/png;base64,{data}");
            json!({"type": "image_url", "image_url": {"url": url, "detail": detail}})
        }),
        1 => Just(json!({"type": "image_url", "image_url": {"url": "https://a.example/b.png?c=\"d\""}})),
        1 => (base64(), prop::option::of(text())).prop_map(|(data, name)| {
            let data = format!("data:application/pdf;base64,{data}");
            json!({"type": "file", "file": {"filename": name, "file_data": data}})
        }),
    ];
    (shown, any::<bool>()).prop_map(|(part, is_marked)| marked(part, is_marked))
}

fn texts() -> impl Strategy<Value = Value> {
    let part = (text(), any::<bool>())
        .prop_map(|(text, mark)| marked(json!({"type": "text", "text": text}), mark));
    prop_oneof![
        2 => text().prop_map(Value::from),
        1 => prop::collection::vec(part, 1..3).prop_map(Value::from),
    ]
}

fn arguments() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("{}".to_owned()),
        (text(), any::<i64>())
            .prop_map(|(a, b)| json!({"a": a, "b": {"c": [b, null]}}).to_string()),
    ]
}

/// What the model thought before it spoke.
fn thoughts() -> impl Strategy<Value = Map<String, Value>> {
    let seal = || "[A-Za-z0-9+/]{4,12}={0,2}";
    let block = prop_oneof![
        (text(), seal()).prop_map(
            |(text, seal)| json!({"type": "thinking", "thinking": text, "signature": seal})
        ),
        seal().prop_map(|data| json!({"type": "redacted_thinking", "data": data})),
    ];
    let object = |value: Value| value.as_object().cloned().unwrap_or_default();
    prop_oneof![
        3 => Just(Map::new()),
        1 => text().prop_map(move |text| object(json!({"reasoning": text}))),
        1 => (text(), seal(), "(anthropic|openai)").prop_map(move |(text, seal, who)| {
            object(json!({"reasoning": text, "extra_content": {who: {"signature": seal}}}))
        }),
        2 => prop::collection::vec(block, 1..3).prop_map(move |blocks| {
            object(json!({"extra_content": {"anthropic": {"thinking_blocks": blocks}}}))
        }),
    ]
}

/// What a user says, and what comes of it.
fn round() -> impl Strategy<Value = Vec<Value>> {
    let system = prop_oneof![
        3 => Just(None),
        1 => (texts(), "(system|developer)")
            .prop_map(|(content, role)| Some(json!({"role": role, "content": content}))),
    ];
    let user = prop_oneof![
        text().prop_map(|text| json!({"role": "user", "content": text})),
        prop::collection::vec(part(), 1..5)
            .prop_map(|parts| json!({"role": "user", "content": parts})),
    ];
    let result = prop_oneof![
        3 => texts(),
        1 => Just("".into()),
        1 => Just(r#"{ "rows": [1, 2.5], "é": null }"#.into()),
    ];
    let call = (arguments(), result, "(read|write|list_all)", prop::option::of("[a-z]{4,8}"));
    let calls = prop::collection::vec(call, 0..4);
    (system, user, thoughts(), prop::option::of(texts()), calls).prop_map(
        |(system, user, thoughts, said, calls)| {
            let mut messages: Vec<Value> = system.into_iter().collect();
            messages.push(user);
            let mut assistant = thoughts;
            assistant.insert("role".into(), "assistant".into());
            if let Some(said) = &said {
                assistant.insert("content".into(), said.clone());
            }
            let call = |(at, (arguments, _, name, seal)): (
                usize,
                &(String, Value, String, Option<String>),
            )| {
                let mut call = json!({"id": format!("t{at}"), "type": "function",
                    "function": {"name": name, "arguments": arguments}});
                if let Some(seal) = seal {
                    call["extra_content"] = json!({"google": {"thought_signature": seal}});
                }
                call
            };
            if !calls.is_empty() {
                let list: Vec<_> = calls.iter().enumerate().map(call).collect();
                assistant.insert("tool_calls".into(), list.into());
            }
            if said.is_some() || !calls.is_empty() {
                messages.push(assistant.into());
            }
            for (at, (_, result, ..)) in calls.iter().enumerate() {
                messages.push(
                    json!({"role": "tool", "tool_call_id": format!("t{at}"), "content": result}),
                );
            }
            messages
        },
    )
}

fn tools() -> impl Strategy<Value = Value> {
    let schema =
        json!({"type": "object", "properties": {"x": {"type": "integer", "maximum": 1.10}}});
    let tool = (
        prop::option::of(text()),
        prop::option::of(any::<bool>()),
        any::<bool>(),
        prop::option::of(Just(schema)),
    );
    let tools = prop::collection::vec(tool, 1..4);
    tools.prop_map(|tools| {
        let tools =
            tools.into_iter().enumerate().map(|(at, (description, strict, mark, schema))| {
                let mut function = Map::new();
                function.insert("name".into(), format!("f{at}").into());
                let fields = [
                    ("description", json!(description)),
                    ("strict", json!(strict)),
                    ("parameters", json!(schema)),
                ];
                let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
                function.extend(fields.map(|(name, value)| (name.to_owned(), value)));
                marked(json!({"type": "function", "function": function}), mark)
            });
        tools.collect()
    })
}

fn parameters() -> impl Strategy<Value = Value> {
    let choice = prop::sample::select(vec![
        json!("auto"),
        json!("none"),
        json!("required"),
        json!({"type": "function", "function": {"name": "f0"}}),
    ]);
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": false});
    let format = prop::sample::select(vec![
        json!({"type": "json_object"}),
        json!({"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": schema}}),
        json!({"type": "json_schema", "json_schema": {"schema": schema}}),
        json!({"type": "text"}),
    ]);
    let stop = prop_oneof![
        text().prop_map(Value::from),
        prop::collection::vec(text(), 1..4).prop_map(Value::from),
    ];
    let effort = prop::sample::select(vec![
        "none", "minimal", "low", "medium", "high", "xhigh", "max", "auto",
    ]);
    (
        prop::option::of(tools()),
        prop::option::of(choice),
        prop::option::of(any::<bool>()),
        prop::option::weighted(0.3, format),
        prop::option::of(stop),
        prop::option::of(effort),
        prop::option::of(text()),
        prop::option::of(0u64..9),
    )
        .prop_map(|(tools, choice, parallel, format, stop, effort, user, seed)| {
            let mut all = json!({"tools": tools, "tool_choice": choice, "parallel_tool_calls": parallel,
                "response_format": format, "stop": stop, "reasoning_effort": effort, "user": user, "seed": seed,
                "temperature": 0.5, "top_p": 1, "max_completion_tokens": 64, "n": 1});
            all.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            all
        })
}

/// A chat, as bytes.
fn chat() -> impl Strategy<Value = Vec<u8>> {
    (prop::collection::vec(round(), 1..5), parameters()).prop_map(|(rounds, mut body)| {
        body["model"] = "m".into();
        body["messages"] = rounds.concat().into();
        serde_json::to_vec(&body).unwrap()
    })
}

/// What every tool is: name, description, schema, whether strict.
fn tools_of(conversation: &Conversation<'_>, to: Protocol) -> Vec<(String, String, Value, bool)> {
    let tools = conversation.tools.iter().map(|tool| {
        let description = tool.description.as_ref().map(|text| text.plain().into_owned());
        // No schema and an empty one are the same, and each format has its word for that.
        let schema = tool.schema.map(|raw| serde_json::from_str::<Value>(raw.get()).unwrap());
        let schema =
            schema.filter(|schema| schema["properties"] != json!({}) && *schema != json!({}));
        let strict = tool.strict == Some(true) && to != Messages;
        let name = tool.name.plain().into_owned();
        (name, description.unwrap_or_default(), schema.unwrap_or_default(), strict)
    });
    tools.collect()
}

fn marks(conversation: &Conversation<'_>) -> usize {
    let parts = conversation.turns.iter().flat_map(|turn| &turn.parts);
    parts.filter(|part| part.cache.is_some()).count()
        + conversation.tools.iter().filter(|tool| tool.cache.is_some()).count()
}

/// Every format that callers have, with the same conversation in it.
fn spoken(chat: &[u8]) -> Vec<(Protocol, Vec<u8>)> {
    let all = READABLE.into_iter().filter_map(|format| {
        let written = match format {
            Chat => Ok(chat.to_vec()),
            other => {
                translate::request(Chat, other, chat, &TARGET).map(|request| request.body.to_vec())
            }
        };
        Some((format, written.ok()?))
    });
    all.collect()
}

/// Whether a request holds what makes the format `to` refuse it.
fn may_refuse(to: Wire, conversation: &Conversation<'_>) -> bool {
    use otari_filters::translate::neutral::Output;
    match to {
        Wire::Messages => matches!(conversation.output, Some(Output::Json)),
        Wire::Cohere => conversation.tool_choice.is_some(),
        Wire::Converse | Wire::SageMaker => conversation.output.is_some(),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_said_arrives_in_its_order(chat in chat()) {
        for (from, body) in spoken(&chat) {
            let conversation = translate::read_request(from, &body).unwrap();
            let items = said::of(&conversation);
            for to in READABLE {
                let wire = Wire::from(to);
                let Ok(written) = translate::write_request(to, &conversation, &TARGET) else {
                    prop_assert!(may_refuse(wire, &conversation), "{from:?} {to:?} refused");
                    continue;
                };
                let there = translate::read_request(to, &written.body).unwrap();
                let want = said::left(wire, &items).unwrap();
                prop_assert_eq!(
                    said::comparable(wire, said::of(&there)),
                    said::comparable(wire, want),
                    "{:?} to {:?}: {}", from, to, String::from_utf8_lossy(&written.body)
                );
                prop_assert_eq!(tools_of(&there, to), tools_of(&conversation, to));
            }
            for to in PROVIDERS {
                let want = said::left(to, &items);
                let written = translate::write_request(to, &conversation, &TARGET);
                let (Ok(written), Some(want)) = (&written, &want) else {
                    prop_assert!(want.is_none() || may_refuse(to, &conversation), "{from:?} {to:?}");
                    continue;
                };
                let there: Value = serde_json::from_slice(&written.body).unwrap();
                prop_assert_eq!(
                    said::comparable(to, said::of_provider(to, &there)),
                    said::comparable(to, want.clone()),
                    "{:?} to {:?}: {}", from, to, there
                );
            }
        }
    }

    #[test]
    fn marks_of_a_cache_reach_the_one_who_has_them(chat in chat()) {
        let conversation = translate::read_request(Chat, &chat).unwrap();
        let Ok(written) = translate::write_request(Messages, &conversation, &TARGET) else { return Ok(()) };
        let there = translate::read_request(Messages, &written.body).unwrap();
        prop_assert_eq!(marks(&there), marks(&conversation));
        for to in PROVIDERS.into_iter().chain([Wire::Chat, Wire::Responses]) {
            // Amazon has points instead of marks.
            if to == Wire::Converse {
                continue;
            }
            if let Ok(written) = translate::write_request(to, &conversation, &TARGET) {
                let is_named = written.dropped.names().any(|name| name == "cache_control");
                prop_assert_eq!(is_named, marks(&conversation) > 0, "{:?}", to);
            }
        }
    }

    #[test]
    fn a_parameter_arrives_or_is_named(chat in chat()) {
        let conversation = translate::read_request(Chat, &chat).unwrap();
        let has = |name: &str| chat_has(&chat, name);
        for to in PROVIDERS.into_iter().chain(READABLE.map(Wire::from)) {
            let Ok(written) = translate::write_request(to, &conversation, &TARGET) else { continue };
            let body = String::from_utf8(written.body.to_vec()).unwrap();
            let dropped: Vec<&str> = written.dropped.names().collect();
            for (name, words) in [
                ("seed", &["\"seed\":"][..]),
                ("user", &["\"user\":", "\"user_id\":"]),
                ("stop", &["\"stop\":", "\"stop_sequences\":", "\"stopSequences\":"]),
                ("temperature", &["\"temperature\":0.5"]),
                ("max_completion_tokens", &[":64"]),
                ("parallel_tool_calls", &["\"parallel_tool_calls\":", "\"disable_parallel_tool_use\":"]),
            ] {
                let arrives = words.iter().any(|word| body.contains(word));
                // Without tools there is nothing to call at once.
                let is_idle = name == "parallel_tool_calls" && conversation.tools.is_empty();
                let is_choice = name == "parallel_tool_calls" && to == Wire::Messages;
                prop_assert!(
                    !has(name) || arrives || dropped.contains(&name) || is_idle || is_choice,
                    "{to:?} {name} {dropped:?} {body}"
                );
            }
        }
    }
}

fn chat_has(chat: &[u8], name: &str) -> bool {
    let body: Value = serde_json::from_slice(chat).unwrap();
    body.get(name).is_some()
}

#[test]
fn the_reader_of_a_providers_format_reads_everything() {
    let gemini = json!({"systemInstruction": {"parts": [{"text": "s"}]}, "contents": [
        {"role": "user", "parts": [{"text": "u"}, {"inlineData": {"mimeType": "image/png", "data": "AA"}}]},
        {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "x"}]},
        {"role": "function", "parts": [{"functionResponse": {"name": "f", "response": {"result": "r"}}}]}]});
    let want = [
        Item::Instruction("s".into()),
        Item::User("u".into()),
        Item::Picture("AA".into()),
        Item::Call("f".into(), json!({}), Some("x".into())),
        Item::Result("r".into()),
    ];
    assert_eq!(said::of_provider(Wire::Gemini, &gemini), want);
}
