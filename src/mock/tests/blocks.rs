//! Answers of several blocks, in the three formats that the gateway's own callers speak: thoughts, words
//! before a call, two calls.

use serde_json::{Value, json};

use super::Server;

const SIGNATURE: &str = crate::mock::answer::SIGNATURE;

fn tools(wrap: bool) -> Value {
    let tool = |name: &str| match wrap {
        true => json!({"type": "function", "function": {"name": name}}),
        false => json!({"type": "function", "name": name, "input_schema": {"type": "object"}}),
    };
    json!([tool("a"), tool("b")])
}

fn body(options: &str, stream: bool, wrap: bool) -> String {
    let model = format!("m?chunks=2&{options}");
    json!({"model": model, "stream": stream, "max_tokens": 9, "input": "Hi", "tools": tools(wrap),
        "messages": [{"role": "user", "content": "Hi"}],
        "include": ["reasoning.encrypted_content"]})
    .to_string()
}

async fn chat(options: &str, stream: bool) -> (Value, Vec<Value>) {
    let reply = Server::start()
        .await
        .ask("POST", "/v1/chat/completions", &body(options, stream, true))
        .await;
    assert_eq!(reply.status, 200, "{reply:?}");
    if stream { (Value::Null, reply.events()) } else { (reply.json(), Vec::new()) }
}

fn joined(events: &[Value], pointer: &str) -> String {
    events.iter().filter_map(|event| event.pointer(pointer)?.as_str()).collect()
}

const DELTA: &str = "/choices/0/delta";

#[tokio::test]
async fn chat_tells_thoughts_in_four_ways() {
    for (style, field) in [("content", "reasoning_content"), ("field", "reasoning")] {
        let options = format!("reasoning=2&thinking={style}");
        let (answer, _) = chat(&options, false).await;
        assert_eq!(answer["choices"][0]["message"][field], "sed diam", "{style}");
        assert_eq!(answer["choices"][0]["message"]["content"], "lorem ipsum");
        assert_eq!(answer["usage"]["completion_tokens"], 4);
        assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 2);
        let (_, events) = chat(&options, true).await;
        assert_eq!(joined(&events, &format!("{DELTA}/{field}")), "sed diam");
        assert_eq!(joined(&events, &format!("{DELTA}/content")), "lorem ipsum");
    }
    let tagged = "<think>sed diam</think>lorem ipsum";
    let (answer, _) = chat("reasoning=2&thinking=tags", false).await;
    assert_eq!(answer["choices"][0]["message"]["content"], tagged);
    let (_, events) = chat("reasoning=2&thinking=tags", true).await;
    assert_eq!(joined(&events, &format!("{DELTA}/content")), tagged);
    let whole = |event: &Value| event.to_string().contains("think>");
    assert!(!events.iter().any(whole), "no event holds a whole tag: {events:?}");
    let (answer, _) = chat("reasoning=2&thinking=chunks", false).await;
    let chunks = json!([{"type": "thinking", "thinking": [{"type": "text", "text": "sed diam"}], "signature": SIGNATURE},
        {"type": "text", "text": "lorem ipsum"}]);
    assert_eq!(answer["choices"][0]["message"]["content"], chunks);
    let (_, events) = chat("reasoning=2&thinking=chunks", true).await;
    assert_eq!(joined(&events, &format!("{DELTA}/content/0/thinking/0/text")), "sed diam");
    assert_eq!(joined(&events, &format!("{DELTA}/content/0/signature")), SIGNATURE);
    assert_eq!(joined(&events, &format!("{DELTA}/content")), "lorem ipsum");
}

#[tokio::test]
async fn chat_calls_two_tools_behind_words() {
    for tags in ["", "&reasoning&thinking=tags"] {
        let options = format!("tools&parallel&preface=2{tags}");
        let (answer, _) = chat(&options, false).await;
        let message = &answer["choices"][0]["message"];
        let content = message["content"].as_str().unwrap();
        assert!(content.ends_with("lorem ipsum"), "{content}");
        let calls = message["tool_calls"].as_array().unwrap();
        assert_eq!(
            (&calls[0]["function"]["name"], &calls[1]["function"]["name"]),
            (&json!("a"), &json!("b"))
        );
        assert_ne!(calls[0]["id"], calls[1]["id"]);
        assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
        let (_, events) = chat(&options, true).await;
        assert_eq!(joined(&events, &format!("{DELTA}/content")), content);
        let starts: Vec<_> = events
            .iter()
            .map(|e| e["choices"][0]["delta"]["tool_calls"][0].clone())
            .filter(|call| call.get("id").is_some())
            .collect();
        assert_eq!(starts.len(), 2);
        assert_eq!((&starts[0]["index"], &starts[1]["index"]), (&json!(0), &json!(1)));
        assert_ne!(starts[0]["id"], starts[1]["id"]);
    }
    let (_, events) = chat("tools&reasoning=2&thinking=tags", true).await;
    assert_eq!(joined(&events, &format!("{DELTA}/content")), "<think>sed diam</think>");
}

#[tokio::test]
async fn messages_sign_thoughts_and_number_their_blocks() {
    let server = Server::start().await;
    let options = "reasoning=2&tools&parallel&preface=1";
    let answer = server.ask("POST", "/v1/messages", &body(options, false, false)).await.json();
    let types: Vec<_> =
        answer["content"].as_array().unwrap().iter().map(|b| b["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["thinking", "text", "tool_use", "tool_use"]);
    assert_eq!(
        answer["content"][0],
        json!({"type": "thinking", "thinking": "sed diam", "signature": SIGNATURE})
    );
    assert_eq!(answer["stop_reason"], "tool_use");
    let events = server.ask("POST", "/v1/messages", &body(options, true, false)).await.events();
    let mut open = None;
    let mut seen = Vec::new();
    for event in &events {
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!(open.replace(event["index"].clone()), None, "one block at a time");
                seen.push(event["content_block"]["type"].as_str().unwrap());
            }
            "content_block_delta" => assert_eq!(open.as_ref(), Some(&event["index"])),
            "content_block_stop" => assert_eq!(open.take().as_ref(), Some(&event["index"])),
            _ => {}
        }
    }
    assert_eq!(seen, types);
    assert_eq!(joined(&events, "/delta/thinking"), "sed diam");
    assert_eq!(joined(&events, "/delta/signature"), SIGNATURE);
    assert_eq!(joined(&events, "/delta/partial_json"), "{}{}");
}

#[tokio::test]
async fn responses_reason_in_an_item_of_their_own() {
    let server = Server::start().await;
    let options = "reasoning=2&tools&parallel&preface=1";
    let answer = server.ask("POST", "/v1/responses", &body(options, false, false)).await.json();
    let types: Vec<_> =
        answer["output"].as_array().unwrap().iter().map(|i| i["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["reasoning", "message", "function_call", "function_call"]);
    assert_eq!(
        answer["output"][0]["summary"],
        json!([{"type": "summary_text", "text": "sed diam"}])
    );
    assert_eq!(answer["output"][0]["encrypted_content"], SIGNATURE, "asked for");
    assert_ne!(answer["output"][2]["call_id"], answer["output"][3]["call_id"]);
    assert_eq!(answer["usage"]["output_tokens_details"]["reasoning_tokens"], 2);
    let events = server.ask("POST", "/v1/responses", &body(options, true, false)).await.events();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number, "{event}");
    }
    let added = |kind: &str| {
        events
            .iter()
            .filter(|e| e["type"] == kind)
            .map(|e| e["output_index"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(added("response.output_item.added"), [0, 1, 2, 3]);
    assert_eq!(added("response.output_item.done"), [0, 1, 2, 3]);
    let done: Vec<_> = events
        .iter()
        .filter(|e| e["type"] == "response.output_item.done")
        .map(|e| e["item"].clone())
        .collect();
    assert_eq!(json!(done), events.last().unwrap()["response"]["output"]);
    let failed = server
        .ask("POST", "/v1/responses", &body("reasoning=2&fault=error_event:3", true, false))
        .await
        .events();
    for (number, event) in failed.iter().enumerate() {
        assert_eq!(event["sequence_number"], number, "{event}");
    }
}

#[tokio::test]
async fn strict_bodies_have_documented_fields_only() {
    let server = Server::start().await;
    let ask = async |path: &str, model: &str, more: &str| {
        let mut body = json!({"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]});
        body[more] = json!(1);
        server.ask("POST", path, &body.to_string()).await.status
    };
    assert_eq!(ask("/v1/chat/completions", "m?strict", "seed").await, 200);
    assert_eq!(ask("/v1/chat/completions", "m?strict", "top_k").await, 400);
    assert_eq!(ask("/v1/chat/completions", "m?strict=mistral", "random_seed").await, 200);
    assert_eq!(ask("/v1/chat/completions", "m?strict=mistral", "seed").await, 422);
    assert_eq!(ask("/v1/messages", "m?strict", "top_k").await, 200);
    assert_eq!(ask("/v1/messages", "m?strict", "max_completion_tokens").await, 400);
    assert_eq!(ask("/v1/messages", "m", "max_completion_tokens").await, 200, "nobody asked");
}
