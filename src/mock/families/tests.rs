//! Which bodies each family takes, and which it refuses: what the documents show is taken, and one
//! mistake in it is not.

use serde_json::{Value, json};

use super::{Wants, azure, bedrock, chatlike, claude, cohere, gemini, ollama, watsonx};
use crate::mock::call::Speaker;
use crate::mock::tools::Forced;

/// A body with the value at `pointer` replaced; `null` takes a field away.
fn with(body: &Value, pointer: &str, value: Value) -> Value {
    let mut body = body.clone();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = body.pointer_mut(parent).unwrap_or_else(|| panic!("no {pointer}"));
    match parent {
        Value::Array(list) => list[name.parse::<usize>().unwrap()] = value,
        Value::Object(fields) if value.is_null() => drop(fields.shift_remove(name)),
        other => other[name] = value,
    }
    body
}

/// Asserts that `read` takes `body`, and refuses it after each of the changes, naming what is wrong.
fn judge(
    read: &dyn Fn(&Value) -> Result<Wants, String>,
    body: &Value,
    changes: &[(&str, Value, &str)],
) -> Wants {
    for (pointer, value, named) in changes {
        let refusal = read(&with(body, pointer, value.clone())).err();
        let refusal = refusal.unwrap_or_else(|| panic!("{pointer} = {value} was taken"));
        assert!(refusal.contains(named), "{pointer} = {value}: {refusal}");
    }
    read(body).unwrap_or_else(|refusal| panic!("{refusal}: {body}"))
}

#[test]
fn gemini_takes_what_google_documents() {
    let body = json!({
        "contents": [
            {"role": "user", "parts": [{"text": "Weather?"}, {"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}}]},
            {"role": "model", "parts": [{"functionCall": {"name": "w", "args": {"c": "Oslo"}}, "thoughtSignature": "QUJD"}]},
            {"role": "function", "parts": [{"functionResponse": {"name": "w", "response": {"result": "7"}}}]}],
        "systemInstruction": {"parts": [{"text": "Be brief"}]},
        "tools": [{"functionDeclarations": [{"name": "w", "description": "",
            "parameters": {"type": "object", "properties": {"c": {"type": "string"}}, "required": ["c"]}}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["w"]}},
        "generationConfig": {"maxOutputTokens": 64, "stopSequences": ["END"],
            "thinkingConfig": {"includeThoughts": true, "thinkingBudget": 8192}}});
    let read = |body: &Value| gemini::read(body, gemini::Host::Gemini, "gemini-2.5-pro");
    let wants = judge(
        &read,
        &body,
        &[
            ("/contents", Value::Null, "missing required field 'contents'"),
            ("/contents", json!([]), "contents is not specified"),
            ("/messages", json!([]), "unknown field 'messages'"),
            ("/contents/0/role", json!("assistant"), "contents[0].role: 'assistant' is none of"),
            ("/contents/0/content", json!("x"), "contents[0]: unknown field 'content'"),
            ("/contents/0/parts/0", json!({"type": "text", "text": "x"}), "unknown field 'type'"),
            ("/contents/0/parts/1/inlineData/data", json!("data:image/png;base64,iVBO"), "base64"),
            ("/contents/1/parts/0/functionCall/args", json!("{}"), "args: must be an object"),
            ("/contents/1/parts/0/thoughtSignature", json!("*"), "base64"),
            ("/contents/2/parts/0/functionResponse/response", json!("7"), "must be an object"),
            ("/contents/2/parts/0/functionResponse/name", json!("x"), "answers no call of 'x'"),
            ("/contents/2/parts", json!([{"text": "7"}]), "number of function response parts"),
            (
                "/tools/0/functionDeclarations/0/parameters/additionalProperties",
                json!(false),
                "additionalProperties",
            ),
            (
                "/tools/0/functionDeclarations/0/parametersJsonSchema",
                json!({}),
                "cannot stand together",
            ),
            ("/tools/0/functionDeclarations/0/name", json!("a b"), "invalid function name"),
            ("/toolConfig/functionCallingConfig/mode", json!("required"), "'required' is none of"),
            (
                "/toolConfig/functionCallingConfig/mode",
                json!("AUTO"),
                "only be set when the mode is ANY",
            ),
            ("/generationConfig/max_tokens", json!(1), "unknown field 'max_tokens'"),
            ("/generationConfig/stopSequences", json!("END"), "must be a list"),
            ("/generationConfig/responseJsonSchema", json!({}), "application/json"),
            ("/generationConfig/thinkingConfig/thinkingLevel", json!("LOW"), "only one of"),
        ],
    );
    assert_eq!((wants.limit, wants.chars, wants.last), (Some(64), 8 + 8 + 12 + 14, Speaker::Tool));
    assert_eq!((wants.tools[0].name.as_str(), &wants.forced), ("w", &Forced::Named("w".into())));
    let unsigned = with(&body, "/contents/1/parts/0/thoughtSignature", Value::Null);
    assert!(read(&unsigned).is_ok(), "older models do not insist");
    let newer = gemini::read(&unsigned, gemini::Host::Gemini, "gemini-3-pro").err();
    assert!(newer.unwrap().contains("thought_signature"));
    let open = with(
        &body,
        "/tools/0/functionDeclarations/0/parameters/additionalProperties",
        json!(false),
    );
    assert!(gemini::read(&open, gemini::Host::Vertex, "m").is_ok(), "Vertex AI knows it");
}

#[test]
fn parallel_answers_to_gemini_may_stand_in_contents_of_their_own() {
    let call = |name: &str| json!({"functionCall": {"name": name, "args": {}}});
    let answer = |name: &str| json!({"role": "function", "parts": [{"functionResponse": {"name": name, "response": {}}}]});
    let body = |answers: &[&str]| {
        let mut contents = vec![
            json!({"parts": [{"text": "x"}]}),
            json!({"role": "model", "parts": [call("a"), call("a")]}),
        ];
        contents.extend(answers.iter().map(|name| answer(name)));
        json!({"contents": contents})
    };
    let read = |answers: &[&str]| gemini::read(&body(answers), gemini::Host::Gemini, "m").is_ok();
    assert!(read(&["a", "a"]));
    assert!(!read(&["a"]) && !read(&["a", "a", "a"]) && !read(&[]));
}

#[test]
fn converse_takes_what_aws_documents() {
    let body = json!({"system": [{"text": "Be brief"}],
        "messages": [
            {"role": "user", "content": [{"text": "2+2?"}, {"image": {"format": "png", "source": {"bytes": "iVBORw=="}}}]},
            {"role": "assistant", "content": [
                {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "c2ln"}}},
                {"toolUse": {"toolUseId": "t1", "name": "calc", "input": {"e": "2+2"}}}]},
            {"role": "user", "content": [{"toolResult": {"toolUseId": "t1", "content": [{"text": "4"}]}}]}],
        "inferenceConfig": {"maxTokens": 4096, "temperature": 0.2, "topP": 0.9, "stopSequences": ["END"]},
        "toolConfig": {"tools": [{"toolSpec": {"name": "calc", "description": " ",
            "inputSchema": {"json": {"type": "object", "properties": {}}}}}], "toolChoice": {"any": {}}},
        "additionalModelRequestFields": {"reasoning_config": {"type": "enabled", "budget_tokens": 2048}}});
    let wants = judge(
        &bedrock::read,
        &body,
        &[
            ("/messages", Value::Null, "missing required field 'messages'"),
            ("/messages/0/content", json!("2+2?"), "must be a list"),
            ("/messages/0/content/0", json!({"type": "text", "text": "x"}), "unknown field 'type'"),
            ("/messages/0/content/0/text", json!(" "), "blank"),
            ("/messages/0/content/1/image/format", json!("jpg"), "'jpg' is none of"),
            ("/messages/0/role", json!("assistant"), "alternate"),
            ("/messages/1/role", json!("tool"), "'tool' is none of"),
            ("/messages/1/content/1/toolUse/input", json!("{}"), "input: must be an object"),
            (
                "/messages/2/content/0/toolResult/content",
                json!([{"json": 4}]),
                "json: must be an object",
            ),
            (
                "/messages/2/content/0/toolResult/toolUseId",
                json!("t2"),
                "expected toolResult blocks",
            ),
            ("/messages/2/content", json!([{"text": "4"}]), "expected toolResult blocks"),
            ("/model", json!("m"), "unknown field 'model'"),
            ("/modelId", json!("m"), "stands in the path"),
            ("/inferenceConfig/max_tokens", json!(1), "unknown field 'max_tokens'"),
            ("/inferenceConfig/stopSequences", json!("END"), "must be a list"),
            ("/inferenceConfig/maxTokens", json!(2048), "greater than budget_tokens"),
            ("/toolConfig", Value::Null, "toolConfig field must be defined"),
            ("/toolConfig/tools/0/toolSpec/description", json!(""), "at least one character"),
            (
                "/toolConfig/tools/0/toolSpec/inputSchema",
                json!({"type": "object"}),
                "unknown field 'type'",
            ),
            ("/toolConfig/toolChoice", json!("any"), "must be an object"),
        ],
    );
    assert_eq!((wants.limit, wants.last, &wants.forced), (Some(4096), Speaker::Tool, &Forced::Any));
}

fn raw(
    read: fn(&Value, &[u8]) -> Result<Wants, String>,
) -> impl Fn(&Value) -> Result<Wants, String> {
    move |body| read(body, body.to_string().as_bytes())
}

/// A conversation with one tool call, as OpenAI's chat has it.
fn conversation() -> Value {
    json!([{"role": "system", "content": "Be brief"},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "tool_calls": [{"id": "t1", "type": "function",
            "function": {"name": "w", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "t1", "content": "7"}])
}

fn chat_tools() -> Value {
    json!([{"type": "function", "function": {"name": "w", "parameters": {"type": "object"}}}])
}

#[test]
fn cohere_takes_its_own_words_only() {
    let body = json!({"model": "command", "messages": conversation(), "tools": chat_tools(), "stream": true,
        "tool_choice": "REQUIRED", "p": 0.5, "stop_sequences": ["x"], "max_tokens": 5,
        "thinking": {"type": "enabled", "token_budget": 256},
        "response_format": {"type": "json_object", "schema": {"type": "object"}}});
    let wants = judge(
        &raw(cohere::read),
        &body,
        &[
            ("/model", Value::Null, "missing required field 'model'"),
            ("/top_p", json!(1), "unknown field 'top_p'"),
            ("/stop", json!("x"), "unknown field 'stop'"),
            ("/max_completion_tokens", json!(1), "unknown field 'max_completion_tokens'"),
            ("/stream_options", json!({}), "unknown field 'stream_options'"),
            ("/parallel_tool_calls", json!(true), "unknown field 'parallel_tool_calls'"),
            ("/tool_choice", json!("required"), "'required' is none of"),
            ("/tools", Value::Null, "needs tools"),
            ("/messages/3/name", json!("w"), "unknown field 'name'"),
            ("/messages/3/tool_call_id", json!("t2"), "answers no tool call"),
            ("/messages/3", json!({"role": "user", "content": "x"}), "must be answered first"),
            ("/response_format/type", json!("json_schema"), "'json_schema' is none of"),
            ("/thinking/budget_tokens", json!(1), "unknown field 'budget_tokens'"),
        ],
    );
    assert_eq!((wants.limit, wants.stream, &wants.forced), (Some(5), true, &Forced::Any));
}

#[test]
fn ollama_streams_unless_told_otherwise_and_wants_objects() {
    let body = json!({"model": "llama", "options": {"num_predict": 5, "num_ctx": 32000, "stop": ["x"], "unknown": 1},
        "think": "low", "format": {"type": "object"}, "tools": chat_tools(), "messages": [
            {"role": "user", "content": "Hi", "images": ["iVBORw=="]},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "w", "arguments": {"c": 1}}}]},
            {"role": "tool", "content": "7", "tool_name": "w"}]});
    let read = raw(ollama::read);
    let wants = judge(
        &read,
        &body,
        &[
            ("/temperature", json!(1), "unknown field 'temperature'"),
            ("/tool_choice", json!("auto"), "unknown field 'tool_choice'"),
            ("/messages/0/content", json!([{"type": "text", "text": "x"}]), "must be a string"),
            ("/messages/0/images/0", json!("data:image/png;base64,iVBO"), "base64"),
            ("/messages/1/tool_calls/0/function/arguments", json!("{}"), "must be an object"),
            ("/messages/2/name", json!("w"), "unknown field 'name'"),
            ("/options/num_predict", json!("5"), "must be a number"),
            ("/options/stop", json!("x"), "must be a list"),
            ("/think", json!("xhigh"), "'xhigh' is none of"),
            ("/format", json!("text"), "'text' is none of"),
        ],
    );
    assert_eq!((wants.stream, wants.limit, wants.last), (true, Some(5), Speaker::Tool));
    assert!(!read(&with(&body, "/stream", json!(false))).unwrap().stream);
    assert_eq!(read(&with(&body, "/options/num_predict", json!(-1))).unwrap().limit, None);
}

#[test]
fn watsonx_wants_a_project_and_its_own_choice_of_tools() {
    let body = json!({"model_id": "granite", "project_id": "p", "messages": conversation(), "tools": chat_tools(),
        "tool_choice_option": "required", "max_tokens": 5});
    let wants = judge(
        &raw(watsonx::read),
        &body,
        &[
            ("/model_id", Value::Null, "missing required field 'model_id'"),
            ("/model", json!("m"), "unknown field 'model'"),
            ("/stream", json!(true), "unknown field 'stream'"),
            ("/project_id", Value::Null, "must hold one of project_id, space_id"),
            ("/space_id", json!("s"), "cannot stand together"),
            ("/stream_options", json!({}), "unknown field 'stream_options'"),
            ("/tool_choice", json!("required"), "tool_choice"),
        ],
    );
    assert_eq!((wants.model.as_str(), &wants.forced), ("granite", &Forced::Any));
}

#[test]
fn azure_and_sagemaker_take_openais_chat_within_their_limits() {
    let body = json!({"messages": conversation(), "tools": chat_tools(), "tool_choice": "auto"});
    let openai = raw(azure::openai);
    judge(
        &openai,
        &body,
        &[
            ("/top_k", json!(1), "unknown field 'top_k'"),
            ("/messages/2/reasoning", json!("x"), "unknown field 'reasoning'"),
            ("/messages/2/extra_content", json!({}), "unknown field 'extra_content'"),
            ("/messages/2/tool_calls/0/function/arguments", json!({}), "must be a string"),
            ("/messages/3/role", json!("function"), "'function' is none of"),
            ("/tools/0", json!({"name": "w", "input_schema": {}}), "unknown field 'name'"),
        ],
    );
    let seeded = with(&body, "/reasoning_effort", json!("low"));
    assert!(openai(&seeded).is_ok());
    let inference =
        |extra| move |body: &Value| azure::inference(body, body.to_string().as_bytes(), extra);
    judge(
        &inference(false),
        &body,
        &[
            ("/reasoning_effort", json!("low"), "unknown field 'reasoning_effort'"),
            ("/stream_options", json!({}), "unknown field 'stream_options'"),
            ("/max_completion_tokens", json!(1), "unknown field 'max_completion_tokens'"),
            (
                "/response_format",
                json!({"type": "json_schema", "json_schema": {"name": "x"}}),
                "'schema'",
            ),
        ],
    );
    assert!(inference(true)(&seeded).is_ok(), "with the header extra-parameters");
    judge(
        &raw(|body, raw| chatlike::read(body, raw, &chatlike::SAGEMAKER)),
        &body,
        &[
            ("/model", json!("m"), "unknown field 'model'"),
            ("/response_format", json!({}), "unknown field 'response_format'"),
        ],
    );
}

#[test]
fn mistrals_list_is_its_own() {
    let body =
        json!({"model": "m", "messages": conversation(), "random_seed": 1, "tool_choice": "any"});
    let read = raw(|body, raw| chatlike::read(body, raw, &chatlike::MISTRAL));
    judge(
        &read,
        &body,
        &[
            ("/seed", json!(1), "unknown field 'seed'"),
            ("/max_completion_tokens", json!(1), "unknown field 'max_completion_tokens'"),
            ("/stream_options", json!({}), "unknown field 'stream_options'"),
            ("/user", json!("u"), "unknown field 'user'"),
        ],
    );
    let mut after = body.clone();
    after["messages"].as_array_mut().unwrap().push(json!({"role": "user", "content": "x"}));
    assert!(read(&after).err().unwrap().contains("after role 'tool'"));
    after["messages"][4] = json!({"role": "assistant", "content": [
        {"type": "thinking", "thinking": [{"type": "text", "text": "x"}], "signature": "c2ln"}, {"type": "text", "text": "y"}]});
    assert!(read(&after).is_ok(), "thoughts may be sent back");
}

#[test]
fn claude_on_vertex_has_its_model_in_the_path() {
    let body = json!({"anthropic_version": "vertex-2023-10-16", "max_tokens": 2000, "stream": true,
        "system": [{"type": "text", "text": "Be brief", "cache_control": {"type": "ephemeral"}}],
        "thinking": {"type": "enabled", "budget_tokens": 1024}, "output_config": {"effort": "low"},
        "tools": [{"name": "calc", "description": "", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": false},
        "messages": [{"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "use calc", "signature": "c2ln"},
                {"type": "tool_use", "id": "t1", "name": "calc", "input": {"e": "2+2"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "4"}]}]});
    let vertex = raw(|body, raw| claude::vertex(body, raw, true));
    let wants = judge(
        &vertex,
        &body,
        &[
            ("/model", json!("claude"), "unknown field 'model'"),
            ("/anthropic_version", Value::Null, "missing required field 'anthropic_version'"),
            ("/anthropic_version", json!("2023-06-01"), "is none of vertex-2023-10-16"),
            ("/stream", json!(false), "streamRawPredict"),
            ("/max_tokens", Value::Null, "missing required field 'max_tokens'"),
            ("/max_completion_tokens", json!(1), "unknown field 'max_completion_tokens'"),
            ("/stop", json!("x"), "unknown field 'stop'"),
            ("/thinking/budget_tokens", json!(2000), "less than max_tokens"),
            ("/tool_choice", json!("required"), "must be an object"),
            ("/messages/0/role", json!("system"), "'system' is none of"),
            ("/messages/1/content/0/signature", json!(""), "invalid `signature`"),
            ("/messages/1/content/1/input", json!("{}"), "must be an object"),
            ("/messages/2/content", json!("4"), "without `tool_result` blocks"),
            ("/messages/2/content/0/tool_use_id", json!("t2"), "unexpected `tool_use_id`"),
            (
                "/messages/2/content/0",
                json!({"type": "image_url", "image_url": {}}),
                "unknown type",
            ),
            (
                "/tools/0",
                json!({"type": "function", "function": {}}),
                "missing required field 'name'",
            ),
        ],
    );
    assert_eq!((wants.stream, wants.last, &wants.forced), (true, Speaker::Tool, &Forced::Any));
    let own = |body: &Value| claude::read(body, body.to_string().as_bytes());
    assert!(own(&body).is_err(), "anthropic_version is Vertex AI's");
}
