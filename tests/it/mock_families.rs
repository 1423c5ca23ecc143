//! `otari mock` as every family of providers, called directly: what a gateway in front of it would see.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// A running `otari mock`; killed when dropped.
struct Mock {
    child: Child,
    base: String,
    http: reqwest::Client,
}

struct Reply {
    status: u16,
    head: reqwest::header::HeaderMap,
    body: Vec<u8>,
    /// The connection broke before the body's end.
    cut: bool,
}

impl Mock {
    fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut child = Command::new(env!("CARGO_BIN_EXE_otari"))
            .arg("mock")
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the built binary runs");
        let mut line = String::new();
        let out = child.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("it says where it listens");
        let base = line.trim().strip_prefix("mock provider listening on ").unwrap_or_default();
        let base = base.strip_suffix("/v1").expect("the line ends with the base URL").to_owned();
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { child, base, http }
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: String) -> Reply {
        let mut request = self.http.post(format!("{}{path}", self.base)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = request.send().await.expect("an answer");
        let (status, head) = (answer.status().as_u16(), answer.headers().clone());
        let mut body = Vec::new();
        let cut = loop {
            match answer.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        Reply { status, head, body, cut }
    }

    async fn call(&self, family: &Family, model: &str, stream: bool) -> Reply {
        let body = (family.body)(model, stream);
        self.post(&(family.path)(model, stream), family.headers, body.to_string()).await
    }

    /// The requests it has seen, oldest first.
    async fn seen(&self) -> Vec<Value> {
        let shown = self.http.get(format!("{}/__mock/requests", self.base)).send().await;
        let shown: Value = shown.expect("an answer").json().await.expect("JSON");
        shown["requests"].as_array().expect("a list").clone()
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn kind(&self) -> &str {
        self.head.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default()
    }

    /// The events of a stream, whichever way they are told apart; `[DONE]` is left out.
    fn events(&self) -> Vec<Value> {
        match self.kind() {
            "application/vnd.amazon.eventstream" => {
                let frames = frames(&self.body);
                if frames.iter().any(|(headers, _)| headers.contains("PayloadPart")) {
                    let parts =
                        frames.iter().filter(|(headers, _)| headers.contains("PayloadPart"));
                    return data(&parts.map(|(_, text)| text.as_str()).collect::<String>());
                }
                frames.iter().map(|(_, payload)| json_of(payload)).collect()
            }
            "application/x-ndjson" => self.text().lines().map(json_of).collect(),
            _ => data(&self.text()),
        }
    }
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// The events of an SSE stream.
fn data(text: &str) -> Vec<Value> {
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]").map(json_of).collect()
}

/// Takes frames of an AWS event stream apart: headers as they stand there, and payload.
fn frames(mut rest: &[u8]) -> Vec<(String, String)> {
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("four bytes"));
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (length, fields) = (number(&rest[..4]) as usize, number(&rest[4..8]) as usize);
        assert_eq!(number(&rest[8..12]), crc32fast::hash(&rest[..8]), "the prelude's checksum");
        let end = length - 4;
        assert_eq!(
            number(&rest[end..length]),
            crc32fast::hash(&rest[..end]),
            "the frame's checksum"
        );
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        frames.push((text(&rest[12..12 + fields]), text(&rest[12 + fields..end])));
        rest = &rest[length..];
    }
    frames
}

/// How one family is called, and where it says what.
struct Family {
    name: &'static str,
    path: fn(&str, bool) -> String,
    headers: &'static [(&'static str, &'static str)],
    body: fn(&str, bool) -> Value,
    /// The text of a whole answer.
    whole: &'static str,
    /// The text of an event.
    delta: &'static str,
    /// The thought of a whole answer, and of an event.
    thought: (&'static str, &'static str),
    /// The names and arguments of the calls in a whole answer: the list, then in each item.
    calls: (&'static str, &'static str, &'static str),
    /// The fragments of arguments in an event.
    fragment: &'static str,
    /// Prompt and output tokens of a whole answer.
    tokens: (&'static str, &'static str),
    /// Why an answer with calls ended.
    finish: (&'static str, &'static str),
    /// What an error says.
    error: &'static str,
}

const PROMPT: &str = "Hello there";
const SIGV4_BEDROCK: &str = "AWS4-HMAC-SHA256 Credential=AKIDOTHER/20260101/us-east-1/bedrock/aws4_request, SignedHeaders=host;x-amz-date, Signature=0000000000000000000000000000000000000000000000000000000000000000";
const SIGV4_SAGEMAKER: &str = "AWS4-HMAC-SHA256 Credential=AKIDOTHER/20260101/us-east-1/sagemaker/aws4_request, SignedHeaders=host;x-amz-date, Signature=0000000000000000000000000000000000000000000000000000000000000000";

/// A model in a path: encoded once.
fn encoded(model: &str) -> String {
    let mut out = String::new();
    for byte in model.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn google(prefix: &str, model: &str, stream: bool) -> String {
    let verb = if stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
    format!("{prefix}/models/{}:{verb}", encoded(model))
}

fn schema() -> Value {
    json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
}

fn google_body(_: &str, _: bool) -> Value {
    let declared =
        |name: &str| json!({"name": name, "description": "", "parametersJsonSchema": schema()});
    json!({"contents": [{"role": "user", "parts": [{"text": PROMPT}]}],
        "tools": [{"functionDeclarations": [declared("a"), declared("b")]}]})
}

fn chat_body(stream: bool) -> Value {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": schema()}});
    json!({"messages": [{"role": "user", "content": PROMPT}], "tools": [tool("a"), tool("b")], "stream": stream})
}

fn chat_with(name: &str, value: &str, stream: bool) -> Value {
    let mut body = chat_body(stream);
    body[name] = json!(value);
    body
}

fn claude_body(stream: bool) -> Value {
    let tool = |name: &str| json!({"name": name, "input_schema": schema()});
    json!({"max_tokens": 99, "messages": [{"role": "user", "content": PROMPT}], "tools": [tool("a"), tool("b")],
        "stream": stream})
}

const CHAT: Family = Family {
    name: "chat",
    path: |_, _| "/v1/chat/completions".into(),
    headers: &[],
    body: |model, stream| {
        let mut body = chat_with("model", model, stream);
        body["stream_options"] = json!({"include_usage": true});
        body
    },
    whole: "/choices/0/message/content",
    delta: "/choices/0/delta/content",
    thought: ("/choices/0/message/reasoning_content", "/choices/0/delta/reasoning_content"),
    calls: ("/choices/0/message/tool_calls", "/function/name", "/function/arguments"),
    fragment: "/choices/0/delta/tool_calls/0/function/arguments",
    tokens: ("/usage/prompt_tokens", "/usage/completion_tokens"),
    finish: ("/choices/0/finish_reason", "tool_calls"),
    error: "/error/message",
};

const GEMINI: Family = Family {
    name: "gemini",
    path: |model, stream| google("/v1beta", model, stream),
    headers: &[("x-goog-api-key", "k")],
    body: google_body,
    whole: "/candidates/0/content/parts/0/text",
    delta: "/candidates/0/content/parts/0/text",
    thought: ("/candidates/0/content/parts/0/text", "/candidates/0/content/parts/0/text"),
    calls: ("/candidates/0/content/parts", "/functionCall/name", "/functionCall/args"),
    fragment: "/candidates/0/content/parts/0/functionCall/args",
    tokens: ("/usageMetadata/promptTokenCount", "/usageMetadata/candidatesTokenCount"),
    finish: ("/candidates/0/finishReason", "STOP"),
    error: "/error/message",
};

const CLAUDE: Family = Family {
    name: "foundry",
    path: |_, _| "/anthropic/v1/messages".into(),
    headers: &[("api-key", "k"), ("anthropic-version", "2023-06-01")],
    body: |model, stream| {
        let mut body = claude_body(stream);
        body["model"] = json!(model);
        body
    },
    whole: "/content/0/text",
    delta: "/delta/text",
    thought: ("/content/0/thinking", "/delta/thinking"),
    calls: ("/content", "/name", "/input"),
    fragment: "/delta/partial_json",
    tokens: ("/usage/input_tokens", "/usage/output_tokens"),
    finish: ("/stop_reason", "tool_use"),
    error: "/error/message",
};

const COHERE: Family = Family {
    name: "cohere",
    path: |_, _| "/v2/chat".into(),
    headers: &[("authorization", "Bearer k")],
    body: |model, stream| chat_with("model", model, stream),
    whole: "/message/content/0/text",
    delta: "/delta/message/content/text",
    thought: ("/message/content/0/thinking", "/delta/message/content/thinking"),
    calls: ("/message/tool_calls", "/function/name", "/function/arguments"),
    fragment: "/delta/message/tool_calls/function/arguments",
    tokens: ("/usage/tokens/input_tokens", "/usage/tokens/output_tokens"),
    finish: ("/finish_reason", "TOOL_CALL"),
    error: "/message",
};

const CONVERSE: Family = Family {
    name: "bedrock",
    path: |model, stream| {
        format!("/model/{}/converse{}", encoded(model), if stream { "-stream" } else { "" })
    },
    headers: &[("authorization", SIGV4_BEDROCK), ("x-amz-date", "20260101T000000Z")],
    body: |_, _| {
        let tool =
            |name: &str| json!({"toolSpec": {"name": name, "inputSchema": {"json": schema()}}});
        json!({"messages": [{"role": "user", "content": [{"text": PROMPT}]}],
            "toolConfig": {"tools": [tool("a"), tool("b")]}})
    },
    whole: "/output/message/content/0/text",
    delta: "/delta/text",
    thought: (
        "/output/message/content/0/reasoningContent/reasoningText/text",
        "/delta/reasoningContent/text",
    ),
    calls: ("/output/message/content", "/toolUse/name", "/toolUse/input"),
    fragment: "/delta/toolUse/input",
    tokens: ("/usage/inputTokens", "/usage/outputTokens"),
    finish: ("/stopReason", "tool_use"),
    error: "/message",
};

const OLLAMA: Family = Family {
    name: "ollama",
    path: |_, _| "/api/chat".into(),
    headers: &[],
    body: |model, stream| chat_with("model", model, stream),
    whole: "/message/content",
    delta: "/message/content",
    thought: ("/message/thinking", "/message/thinking"),
    calls: ("/message/tool_calls", "/function/name", "/function/arguments"),
    fragment: "/message/tool_calls/0/function/arguments",
    tokens: ("/prompt_eval_count", "/eval_count"),
    finish: ("/done_reason", "stop"),
    error: "/error",
};

fn families() -> Vec<Family> {
    [plain(), googles(), amazons(), microsofts()].into_iter().flatten().collect()
}

/// Those whose constants say everything, and one of chat's relatives.
fn plain() -> Vec<Family> {
    vec![
        CHAT,
        GEMINI,
        CLAUDE,
        COHERE,
        OLLAMA,
        Family {
            name: "watsonx",
            path: |_, stream| {
                format!(
                    "/ml/v1/text/chat{}?version=2025-01-01",
                    if stream { "_stream" } else { "" }
                )
            },
            headers: &[("authorization", "Bearer k")],
            body: |model, _| {
                let mut body = chat_with("model_id", model, false);
                body["project_id"] = json!("p");
                body.as_object_mut().expect("an object").remove("stream");
                body
            },
            error: "/errors/0/message",
            ..CHAT
        },
    ]
}

fn googles() -> Vec<Family> {
    vec![
        Family {
            name: "vertexai",
            path: |model, stream| {
                google("/v1beta1/projects/p/locations/l/publishers/google", model, stream)
            },
            headers: &[("authorization", "Bearer k")],
            ..GEMINI
        },
        Family {
            name: "vertexaianthropic",
            path: |model, stream| {
                let verb = if stream { "streamRawPredict" } else { "rawPredict" };
                let model = encoded(model);
                format!("/v1/projects/p/locations/l/publishers/anthropic/models/{model}:{verb}")
            },
            headers: &[("authorization", "Bearer k")],
            body: |_, stream| {
                let mut body = claude_body(stream);
                body["anthropic_version"] = json!("vertex-2023-10-16");
                body
            },
            ..CLAUDE
        },
    ]
}

fn amazons() -> Vec<Family> {
    vec![
        CONVERSE,
        Family {
            name: "bedrock with a key",
            headers: &[("authorization", "Bearer k")],
            ..CONVERSE
        },
        Family {
            name: "sagemaker",
            path: |model, stream| {
                let end = if stream { "-response-stream" } else { "" };
                format!("/endpoints/{}/invocations{end}", encoded(model))
            },
            headers: &[("authorization", SIGV4_SAGEMAKER), ("x-amz-date", "20260101T000000Z")],
            body: |_, stream| chat_body(stream),
            error: "/Message",
            ..CHAT
        },
    ]
}

fn microsofts() -> Vec<Family> {
    vec![
        Family {
            name: "azureopenai",
            path: |model, _| {
                format!(
                    "/openai/deployments/{}/chat/completions?api-version=2024-10-21",
                    encoded(model)
                )
            },
            headers: &[("api-key", "k")],
            ..CHAT
        },
        Family {
            name: "azure",
            path: |_, _| "/chat/completions?api-version=2024-05-01-preview".into(),
            headers: &[("api-key", "k"), ("authorization", "Bearer k")],
            body: |model, stream| chat_with("model", model, stream),
            ..CHAT
        },
        Family {
            name: "azureopenai responses",
            path: |_, _| "/openai/responses?api-version=preview".into(),
            headers: &[("authorization", "Bearer k")],
            body: |model, stream| {
                let tool =
                    |name: &str| json!({"type": "function", "name": name, "parameters": schema()});
                json!({"model": model, "input": PROMPT, "tools": [tool("a"), tool("b")], "stream": stream})
            },
            whole: "/output/0/content/0/text",
            delta: "/delta",
            thought: ("/output/0/summary/0/text", "/delta"),
            calls: ("/output", "/name", "/arguments"),
            fragment: "/delta",
            tokens: ("/usage/input_tokens", "/usage/output_tokens"),
            finish: ("/status", "completed"),
            ..CHAT
        },
    ]
}

/// The texts at `pointer`, joined; objects as JSON.
fn joined(events: &[Value], pointer: &str) -> String {
    let texts = events.iter().filter_map(|event| event.pointer(pointer));
    texts.map(|text| text.as_str().map_or_else(|| text.to_string(), str::to_owned)).collect()
}

#[tokio::test]
async fn every_family_answers_whole_and_in_a_stream() {
    let mock = Mock::start();
    for family in families() {
        let name = family.name;
        let reply = mock.call(&family, "a/b:m?chunks=3&cached=1", false).await;
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
        let answer = reply.json();
        let at = |pointer| answer.pointer(pointer).unwrap_or(&Value::Null);
        assert_eq!(at(family.whole), "lorem ipsum dolor", "{name}: {answer}");
        assert_eq!(at(family.tokens.1), 3, "{name}: {answer}");
        // Eleven characters; Anthropic and Bedrock count cached ones apart.
        let apart =
            ["foundry", "vertexaianthropic", "bedrock", "bedrock with a key"].contains(&name);
        assert_eq!(at(family.tokens.0), if apart { 2 } else { 3 }, "{name}: {answer}");
        let reply = mock.call(&family, "a/b:m?chunks=3&cached=1", true).await;
        let events = reply.events();
        assert_eq!(joined(&events, family.delta), "lorem ipsum dolor", "{name}: {}", reply.text());
        assert!(events.len() > 3 && !reply.cut, "{name}: {}", reply.text());
    }
}

#[tokio::test]
async fn every_family_thinks_and_calls_two_tools() {
    let mock = Mock::start();
    for family in families() {
        let name = family.name;
        let model = "m?reasoning=2&tools&parallel";
        let answer = mock.call(&family, model, false).await.json();
        assert_eq!(answer.pointer(family.thought.0), Some(&json!("sed diam")), "{name}: {answer}");
        let (list, of, arguments) = family.calls;
        let items = answer.pointer(list).and_then(Value::as_array).expect("a list of calls");
        let names: Vec<_> = items.iter().filter_map(|item| item.pointer(of)).collect();
        assert_eq!(names, ["a", "b"], "{name}: {answer}");
        let given = items.last().and_then(|item| item.pointer(arguments)).expect("arguments");
        let given = given.as_str().map_or(given.clone(), json_of);
        assert_eq!(given, json!({"city": "lorem"}), "{name}");
        assert_eq!(answer.pointer(family.finish.0), Some(&json!(family.finish.1)), "{name}");
        let events = mock.call(&family, model, true).await.events();
        let both = joined(&events, family.fragment);
        // A response's thoughts and arguments stand at the same place.
        let both = both.strip_prefix("sed diam").unwrap_or(&both);
        assert_eq!(both, r#"{"city":"lorem"}{"city":"lorem"}"#, "{name}: {events:?}");
        assert!(joined(&events, family.thought.1).starts_with("sed diam"), "{name}");
    }
}

#[tokio::test]
async fn every_family_tells_errors_in_its_own_way() {
    let mock = Mock::start();
    for family in families() {
        let name = family.name;
        let reply = mock.call(&family, "m?status=429&retry_after=7", true).await;
        assert_eq!(
            (reply.status, &reply.head["retry-after"]),
            (429, &"7".parse().unwrap()),
            "{name}"
        );
        let error = reply.json();
        let message = error.pointer(family.error).and_then(Value::as_str);
        assert_eq!(message, Some("mock: status 429 as asked"), "{name}: {error}");
        let aws = ["bedrock", "bedrock with a key", "sagemaker"].contains(&name);
        assert_eq!(reply.head.contains_key("x-amzn-errortype"), aws, "{name}");
        let reply = mock.post(&(family.path)("m", false), family.headers, "{}".into()).await;
        assert_eq!(reply.status, 400, "{name}: {}", reply.text());
        assert!(reply.json().pointer(family.error).is_some(), "{name}: {}", reply.text());
    }
}

#[tokio::test]
async fn every_family_fails_in_the_middle_of_a_stream() {
    let mock = Mock::start();
    for family in families() {
        let name = family.name;
        let cut = mock.call(&family, "m?fault=cut:2", true).await;
        assert!(cut.cut, "{name}: a cut stream has no end");
        assert_eq!(joined(&cut.events(), family.delta), "lorem ipsum", "{name}");
        let failed = mock.call(&family, "m?fault=error_event:2", true).await;
        assert!(!failed.cut && failed.text().contains("the stream failed as asked"), "{name}");
        let open = mock.call(&family, "m?fault=no_done&chunks=3", true).await;
        // Of the same length: the model stands in most events.
        let whole = mock.call(&family, "m?chunks=3&seed=aaaaaaaa", true).await;
        assert!(!open.cut && open.body.len() < whole.body.len(), "{name}: an end is missing");
        let bad = mock.call(&family, "m?fault=bad_json", true).await;
        let broken = std::panic::catch_unwind(|| bad.events()).is_err();
        assert!(broken, "{name}: {}", bad.text());
    }
}

#[tokio::test]
async fn a_wrong_checksum_is_noticed_where_there_are_checksums() {
    let mock = Mock::start();
    for family in families() {
        if !["bedrock", "sagemaker"].contains(&family.name) {
            continue;
        }
        let reply = mock.call(&family, "m?fault=bad_crc", true).await;
        assert!(std::panic::catch_unwind(|| frames(&reply.body)).is_err(), "{}", family.name);
        let reply = mock.call(&family, "m?fault=crlf", true).await;
        assert!(!frames(&reply.body).is_empty(), "{}: binary stays as it is", family.name);
    }
}

#[tokio::test]
async fn bodies_of_another_family_are_refused() {
    let mock = Mock::start();
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}],
        "stream_options": {"include_usage": true}, "max_completion_tokens": 5});
    // These speak chat themselves.
    let same = ["chat", "azureopenai"];
    for family in families() {
        let reply = mock.post(&(family.path)("m", false), family.headers, chat.to_string()).await;
        let expected = if same.contains(&family.name) { 200 } else { 400 };
        assert_eq!(reply.status, expected, "{}: {}", family.name, reply.text());
    }
}

#[tokio::test]
async fn calls_without_credentials_are_refused() {
    let mock = Mock::start();
    for family in families() {
        let body = (family.body)("m", false).to_string();
        let reply = mock.post(&(family.path)("m", false), &[], body).await;
        match family.name {
            "chat" | "ollama" => assert_eq!(reply.status, 200, "{}", family.name),
            // Its version is missed first.
            "foundry" => assert_eq!(reply.status, 400),
            _ => assert!([401, 403].contains(&reply.status), "{}: {}", family.name, reply.text()),
        }
    }
}

#[tokio::test]
async fn what_was_sent_can_be_looked_at_and_credentials_cannot() {
    let mock = Mock::start();
    let reply = mock.call(&GEMINI, "gemini-2.5?chunks=1", true).await;
    assert_eq!(reply.status, 200);
    let seen = mock.seen().await.remove(0);
    assert_eq!(
        seen["path"],
        "/v1beta/models/gemini-2.5%3Fchunks%3D1:streamGenerateContent?alt=sse"
    );
    let body: Value = json_of(seen["body"].as_str().expect("a text"));
    assert_eq!(body, google_body("", true));
    let headers = seen["headers"].as_array().expect("a list");
    assert!(headers.contains(&json!(["x-goog-api-key", "***"])), "{headers:?}");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let body = "grant_type=urn%3Aibm%3Aparams%3Aoauth%3Agrant-type%3Aapikey&apikey=secret-key-1234";
    assert_eq!(mock.post("/identity/token", &form, body.into()).await.status, 200);
    let seen = mock.seen().await.remove(1);
    let shown = seen["body"].as_str().expect("a text");
    assert!(
        shown.starts_with("grant_type=urn%3Aibm") && shown.ends_with("apikey=***1234"),
        "{shown}"
    );
}

#[tokio::test]
async fn tokens_are_issued_for_assertions_refresh_tokens_and_keys() {
    let mock = Mock::start();
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let part = |json: Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    let assertion = |alg: &str, life: u64| {
        let claims = json!({"iss": "a@b", "scope": "s", "aud": "x", "iat": 100, "exp": 100 + life});
        format!("{}.{}.c2ln", part(json!({"alg": alg, "typ": "JWT", "kid": "k"})), part(claims))
    };
    let grant = |assertion: String| {
        format!(
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}"
        )
    };
    let refresh = "grant_type=refresh_token&client_id=a&client_secret=b&refresh_token=c";
    for body in [grant(assertion("RS256", 3600)), refresh.into()] {
        let reply = mock.post("/token?expires_in=5", &form, body).await;
        let token = reply.json();
        assert_eq!((reply.status, &token["expires_in"]), (200, &json!(5)), "{token}");
        assert_eq!(token["token_type"], "Bearer");
        assert!(token["access_token"].is_string());
    }
    for body in
        [grant(assertion("HS256", 3600)), grant(assertion("RS256", 3601)), grant("a.b".into())]
    {
        let reply = mock.post("/token", &form, body).await;
        assert_eq!((reply.status, &reply.json()["error"]), (400, &json!("invalid_grant")));
    }
    assert_eq!(
        mock.post("/token", &[], refresh.into()).await.status,
        400,
        "a form says that it is one"
    );
    assert_eq!(mock.post("/token?status=503", &form, refresh.into()).await.status, 503);
    let reply = mock.post("/identity/token", &form, refresh.into()).await;
    assert!(reply.status == 400 && reply.json()["errorMessage"].is_string(), "{}", reply.text());
}
