//! What holds for every conversation.

use otari_filters::protocol::Protocol::{self, Chat, Messages, Responses};
use otari_filters::translate::neutral::{AsCaller, Target};
use otari_filters::translate::{self, Spoken, State, Wire};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::damage::streamed;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![".{1,12}", "[a-z\\\\\"\n/é😀]{1,12}"]
}

fn part() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => text().prop_map(|text| json!({"type": "text", "text": text})),
        1 => "[A-Za-z0-9+/]{4,20}={0,2}".prop_map(|data| json!({"type": "image_url",
            "image_url": {"url": format!("data:image/png;base64,{data}"), "detail": "low"}})),
        1 => Just(json!({"type": "image_url", "image_url": {"url": "https://a.example/b?c=\"d\""}})),
        1 => "[A-Za-z0-9+/]{4,20}".prop_map(|data| json!({"type": "file", "file": {"filename": "ä.pdf",
            "file_data": format!("data:application/pdf;base64,{data}")}})),
    ]
}

fn arguments() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just(r#"{"big": 123456789012345678901234567890, "f": 1.10, "s": "\ud83d"}"#.to_owned()),
        (text(), any::<i64>()).prop_map(|(a, b)| json!({"a": a, "b": {"c": [b]}}).to_string()),
    ]
}

/// What a user says, and what comes of it: messages that follow one another.
fn round() -> impl Strategy<Value = Vec<Value>> {
    let user = prop_oneof![
        text().prop_map(|text| json!({"role": "user", "content": text})),
        prop::collection::vec(part(), 1..4)
            .prop_map(|parts| json!({"role": "user", "content": parts})),
    ];
    let system = prop_oneof![
        4 => Just(None),
        1 => (text(), "(system|developer)").prop_map(|(text, role)| Some(json!({"role": role, "content": text}))),
    ];
    let said = prop::option::of(text());
    let calls = prop::collection::vec((arguments(), text()), 0..3);
    (user, system, said, calls).prop_map(|(user, system, said, calls)| {
        let mut messages: Vec<Value> = system.into_iter().collect();
        messages.push(user);
        let mut assistant = Map::new();
        assistant.insert("role".into(), "assistant".into());
        assistant.insert("content".into(), said.clone().into());
        if !calls.is_empty() {
            let call = |(at, (arguments, _)): (usize, &(String, String))| {
                json!({"id": format!("t{at}"),
                "type": "function", "function": {"name": "f", "arguments": arguments}})
            };
            let list: Vec<_> = calls.iter().enumerate().map(call).collect();
            assistant.insert("tool_calls".into(), list.into());
        }
        if said.is_some() || !calls.is_empty() {
            messages.push(assistant.into());
        }
        for (at, (_, result)) in calls.iter().enumerate() {
            messages
                .push(json!({"role": "tool", "tool_call_id": format!("t{at}"), "content": result}));
        }
        messages
    })
}

fn parameters() -> impl Strategy<Value = Value> {
    let number = prop::sample::select(vec![json!(0), json!(0.5), json!(1)]);
    let tool = (prop::option::of(text()), any::<bool>()).prop_map(|(description, strict)| {
        let mut function = json!({"name": "f", "strict": strict,
            "parameters": {"type": "object", "properties": {"x": {"type": "integer", "maximum": 18446744073709551615u64}}}});
        if let Some(description) = description {
            function["description"] = description.into();
        }
        json!([{"type": "function", "function": function}])
    });
    let choice = prop::sample::select(vec![
        json!("auto"),
        json!("none"),
        json!("required"),
        json!({"type": "function", "function": {"name": "f"}}),
    ]);
    let effort =
        prop::sample::select(vec!["none", "minimal", "low", "medium", "high", "xhigh", "max"]);
    let format = json!({"type": "json_schema", "json_schema": {"name": "n", "strict": true, "description": "d",
        "schema": {"type": "object", "properties": {}}}});
    (
        (prop::option::of(number.clone()), prop::option::of(number), prop::option::of(1u64..9)),
        prop::option::of(prop::collection::vec(text(), 1..3)),
        prop::option::of(tool),
        prop::option::of(choice),
        prop::option::of(any::<bool>()),
        prop::option::of(effort),
        prop::option::of(Just(format)),
        prop::option::of(text()),
    )
        .prop_map(|((temperature, top_p, max), stop, tools, choice, parallel, effort, format, user)| {
            let mut all = json!({"temperature": temperature, "top_p": top_p, "max_tokens": max, "stop": stop,
                "tools": tools, "tool_choice": choice, "parallel_tool_calls": parallel, "reasoning_effort": effort,
                "response_format": format, "user": user});
            all.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            all
        })
}

fn conversation() -> impl Strategy<Value = Value> {
    (prop::collection::vec(round(), 1..4), parameters()).prop_map(|(rounds, mut body)| {
        body["model"] = "m".into();
        body["messages"] = rounds.concat().into();
        body
    })
}

/// There and back again. On the way the body stays bytes: no `Value` holds half a surrogate pair.
fn back(by: Protocol, body: &Value) -> Value {
    let target = Target { model: "m", provider: "otari", stream: false, ..Target::default() };
    let body = serde_json::to_vec(body).unwrap();
    let there = translate::request(Chat, by, &body, &target).unwrap();
    let back = translate::request(by, Chat, &there.body, &target).unwrap();
    serde_json::from_slice(&back.body).unwrap()
}

/// What any way back to the chat format loses.
fn less(body: &mut Value) {
    let has_tools = body.get("tools").is_some();
    let object = body.as_object_mut().unwrap();
    if !has_tools {
        // Nothing to choose from.
        object.remove("tool_choice");
        object.remove("parallel_tool_calls");
    }
    for message in body["messages"].as_array_mut().unwrap() {
        if message["role"] == "developer" {
            message["role"] = "system".into();
        }
        for call in
            message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten()
        {
            if call["function"]["arguments"] == "" {
                call["function"]["arguments"] = "{}".into();
            }
        }
    }
    for tool in body.get_mut("tools").and_then(Value::as_array_mut).into_iter().flatten() {
        let function = tool["function"].as_object_mut().unwrap();
        function.entry("description").or_insert("".into());
    }
}

/// What the way through messages loses.
fn less_by_messages(body: &mut Value) {
    less(body);
    // Instructions stand in one place.
    let messages = body["messages"].as_array_mut().unwrap();
    let system: Vec<String> = messages
        .extract_if(.., |message| message["role"] == "system")
        .map(|message| message["content"].as_str().unwrap().to_owned())
        .collect();
    if !system.is_empty() {
        messages.insert(0, json!({"role": "system", "content": system.join("\n")}));
    }
    for message in messages {
        for part in message["content"].as_array_mut().into_iter().flatten() {
            if let Some(image) = part.get_mut("image_url") {
                image.as_object_mut().unwrap().remove("detail");
            }
        }
    }
    for tool in body.get_mut("tools").and_then(Value::as_array_mut).into_iter().flatten() {
        tool["function"].as_object_mut().unwrap().remove("strict");
    }
    let object = body.as_object_mut().unwrap();
    object.entry("max_tokens").or_insert(8192.into());
    object.remove("user");
    // The flag is a part of the choice, and not of every choice; true is what holds anyway.
    let parallel = object.remove("parallel_tool_calls");
    if parallel.is_some() && !object.contains_key("tool_choice") {
        object.insert("tool_choice".into(), "auto".into());
    }
    let has_flag = |choice: &Value| matches!(choice.as_str(), Some("auto" | "required"));
    if parallel == Some(false.into()) && object.get("tool_choice").is_some_and(has_flag) {
        object.insert("parallel_tool_calls".into(), false.into());
    }
    if object.get("reasoning_effort").is_some_and(|effort| effort == "minimal") {
        object.insert("reasoning_effort".into(), "low".into());
    }
    if let Some(format) = object.get_mut("response_format") {
        // Objects are closed on the way.
        let mut schema = format["json_schema"]["schema"].take();
        schema["additionalProperties"] = false.into();
        format["json_schema"] = json!({"name": "structured_output", "schema": schema});
    }
}

/// What the way through responses loses.
fn less_by_responses(body: &mut Value) {
    less(body);
    body.as_object_mut().unwrap().remove("stop");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_chat_survives_messages_but_for_known_losses(body in conversation()) {
        let back = back(Messages, &body);
        let mut want = body;
        less_by_messages(&mut want);
        prop_assert_eq!(back, want);
    }

    #[test]
    fn a_chat_survives_responses_but_for_known_losses(body in conversation()) {
        let back = back(Responses, &body);
        let mut want = body;
        less_by_responses(&mut want);
        prop_assert_eq!(back, want);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_chat_survives_converse(body in conversation()) {
        let mut body = body;
        for message in body["messages"].as_array_mut().unwrap() {
            for part in message["content"].as_array_mut().into_iter().flatten() {
                if part["image_url"]["url"].as_str().is_some_and(|url| url.starts_with("http")) {
                    *part = json!({"type": "text", "text": "a picture"});
                }
            }
        }
        body.as_object_mut().unwrap().remove("response_format");
        let target = Target { model: "anthropic.claude", provider: "bedrock", stream: false, settings: &[] };
        let request = serde_json::to_vec(&body).unwrap();
        let there = translate::request(Chat, Wire::Converse, &request, &target).unwrap();
        let there: Converse<'_> = serde_json::from_slice(&there.body).unwrap();
        // The sides take turns, beginning with the user.
        for (at, message) in there.messages.iter().enumerate() {
            prop_assert_eq!(&message.role, if at % 2 == 0 { "user" } else { "assistant" });
        }
        // What the assistant says comes back as it was.
        let mut said = there.messages.iter().filter(|message| message.role == "assistant");
        let (mut text, mut calls) = (String::new(), Vec::new());
        let messages = body["messages"].as_array().unwrap();
        let mut turns = messages.iter().filter(|message| !matches!(message["role"].as_str(), Some("system" | "developer"))).peekable();
        while let Some(message) = turns.next() {
            if message["role"] == "assistant" {
                text += message["content"].as_str().unwrap_or_default();
                for call in message["tool_calls"].as_array().into_iter().flatten() {
                    let arguments = call["function"]["arguments"].as_str().unwrap();
                    calls.push((call["id"].clone(), if arguments.is_empty() { "{}" } else { arguments }));
                }
            }
            if turns.peek().is_some_and(|next| next["role"] == "assistant") || (text.is_empty() && calls.is_empty()) {
                continue;
            }
            let echo = format!(r#"{{"output":{{"message":{{"content":{}}}}},"stopReason":"tool_use"}}"#, said.next().unwrap().content);
            let back = translate::answer(Wire::Converse, Chat, echo.as_bytes(), &AsCaller::default()).unwrap();
            let back: Value = serde_json::from_slice(&back.body).unwrap();
            let back = &back["choices"][0]["message"];
            prop_assert_eq!(back["content"].as_str().unwrap_or_default(), &text);
            let got: Vec<_> = back["tool_calls"].as_array().into_iter().flatten()
                .map(|call| (call["id"].clone(), call["function"]["arguments"].as_str().unwrap())).collect();
            prop_assert_eq!(got, calls);
            (text, calls) = (String::new(), Vec::new());
        }
        prop_assert!(said.next().is_none());
    }
}

#[derive(serde::Deserialize)]
struct Converse<'a> {
    #[serde(borrow)]
    messages: Vec<Said<'a>>,
}

#[derive(serde::Deserialize)]
struct Said<'a> {
    role: String,
    #[serde(borrow)]
    content: &'a serde_json::value::RawValue,
}

/// What a chat stream says and thinks, of a text in these pieces.
fn said_and_thought(pieces: &[&str]) -> (String, String) {
    let mut body = String::new();
    for piece in pieces {
        let chunk = json!({"id": "a", "choices": [{"index": 0, "delta": {"content": piece}}]});
        body += &format!("data: {chunk}\n\n");
    }
    body += "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let from = Spoken { wire: Wire::Chat, provider: "minimax" };
    let (out, state) = streamed(from, Chat, &[body.as_bytes()]);
    assert_eq!(state, State::Ended);
    let (mut said, mut thought) = (String::new(), String::new());
    for line in String::from_utf8(out).unwrap().lines() {
        let Some(chunk) = line.strip_prefix("data: {") else { continue };
        let chunk: Value = serde_json::from_str(&format!("{{{chunk}")).unwrap();
        let delta = &chunk["choices"][0]["delta"];
        said += delta["content"].as_str().unwrap_or_default();
        thought += delta["reasoning"].as_str().unwrap_or_default();
    }
    (said, thought)
}

proptest! {
    #[test]
    fn thoughts_between_tags_are_found_however_the_chunks_are_cut(
        parts in prop::collection::vec(prop_oneof![
            Just("<think>".to_owned()), Just("</think>".to_owned()), Just("<thinking>".to_owned()),
            Just("</thinking>".to_owned()), Just("<".to_owned()), Just("</".to_owned()),
            Just("<reasoning_content>".to_owned()), text(),
        ], 0..8),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let text = parts.concat();
        let ends: Vec<_> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| ends[cut.index(ends.len())]).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts {
            pieces.push(&text[from..cut]);
            from = cut;
        }
        pieces.push(&text[from..]);
        let whole = said_and_thought(&[&text]);
        prop_assert_eq!(said_and_thought(&pieces), whole.clone());
        prop_assert!(whole.0.len() + whole.1.len() <= text.len());
    }
}
