//! What real clients were seen to send, and what breaks them: each such risk and the facts that keep it away. What no
//! other file proves is proven here.
//!
//! | Risk | Kept away by |
//! | --- | --- |
//! | Two path roots: `/v1` and `/api/v1` | `otaris_own_sdk_*`, `chat::every_door_leads_to_the_same_room`, `formats::every_door_leads_to_the_same_room`, `clients::the_sdks_talk_through_the_gateway` |
//! | Ids of request and attempt in two spellings | `otaris_own_sdk_*`, `connected::surface::every_answer_carries_its_headers`, `chat::every_answer_carries_its_request_id` |
//! | Null for everything that was not set | `otaris_own_sdk_*`, `nulls_mean_absent` |
//! | An error body that only some can read | `agents::*::is_told_why`, `otaris_own_sdk_*`, `clients::refusals_arrive_as_the_right_exception_with_a_sentence`, `format_clients::refusals_arrive_as_the_right_exception_with_a_sentence` |
//! | Anthropic's credentials in two headers, any version | `format_clients::anthropics_sdks_talk_through_the_gateway`, `formats::a_key_is_taken_from_every_header_that_clients_use`, `gates::a_credential_is_taken_from_every_header_that_clients_use` |
//! | Claude Code: system turns, betas, bursts of counts, discovery, repeats | `agents::claude_code::*`, `agents::claude_code_*`, `agents::claude_codes_*`, `messages::*` |
//! | Codex: WebSocket first, namespaces, metadata, no instructions | `agents::codex::*`, `agents::codex_*`, `responses::*`, `connected::walk::codex_tells_its_own_things_to_openai_alone` |
//! | SSE: event lines, `annotations`, comments | `families::*`, `formats::a_stream_passes_byte_for_byte_in_whatever_pieces`, `endings::a_silent_stream_is_kept_alive_with_comments`, `format_endings::a_silent_stream_is_kept_alive_in_its_dialect` |
//! | Usage of streams that nobody asks for | `agents::aider_edits_a_file`, `otaris_own_sdk_*`, `chat::the_usage_chunk_is_seen_only_by_those_who_asked` |
//! | Repeats that multiply | `clients::a_budget_refusal_is_not_asked_again`, `gates::too_many_requests_are_told_when_to_come_back`, `retries::a_long_retry_after_is_passed_on_at_once` |
//! | `Accept` that says nothing | `the_body_decides_what_is_a_stream` |
//! | Embeddings in base64, of token ids | `operations::official_clients_call_them`, `operations::fields_that_nobody_has_heard_of_pass_and_steering_ones_do_not` |
//! | Time limits of ten minutes: ours decide | `endings::a_provider_that_never_answers_is_504`, `endings::a_stream_past_its_deadline_is_ended` |
//! | A closed connection is how a stream is cancelled | `endings::a_caller_who_hangs_up_pays_for_what_was_produced`, `format_endings::a_caller_who_hangs_up_pays_for_what_was_produced` |
//! | Model names in paths, encoded or not | `a_model_is_found_however_its_path_is_written`, `models::models_are_those_with_a_price_a_declaration_or_an_alias` |
//! | Compressed streams | `a_stream_is_never_compressed` |
//! | Probes of browsers and agents without a key | `chat::head_and_options_need_no_key` |

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::ask_with;
use crate::support::format::Format;
use crate::support::gateway::Gateway;
use crate::support::mock::Mock;
use crate::support::provider::{Provider, Reply};
use crate::support::sdk::Sdk;

/// What the built-in provider says.
const WORDS: &str = "lorem ipsum dolor sit amet consetetur sadipscing elitr";

/// Chat and responses at `c`, messages at `a`.
async fn before(mock: &Mock) -> (Gateway, String) {
    let start = Gateway::start().config("require_pricing: false");
    let start = start.provider_of("openai", "c", &mock.url("/v1"), "models: [m]");
    let gateway = start.provider_of("anthropic", "a", &mock.url("/v1"), "").await;
    let key = gateway.key("u").await;
    (gateway, key)
}

/// Everything that the gateway's own SDK of this environment can do; it names a request id or not.
async fn otaris_own_sdk(environment: &'static str, names_the_request: bool) {
    let mock = Mock::start();
    let (gateway, key) = before(&mock).await;
    let seen = Sdk::Client(environment).run("otari_sdk", &[&gateway.url(""), &key]);
    let called = json!(["weather", {"city": "lorem"}, WORDS]);
    for (what, due) in [
        ("plain", json!([WORDS, names_the_request])),
        ("stream", json!(WORDS)),
        ("tool", called),
        ("message", json!(WORDS)),
        ("message_stream", json!([WORDS, "message_stop"])),
        ("response", json!(WORDS)),
        ("count", json!(true)),
        ("models", json!(["c:m"])),
    ] {
        assert_eq!(seen[what], due, "{environment} {what}: {seen}");
    }
    assert_eq!(seen["busy"]["class"], "RateLimitError", "{seen}");
    assert!(seen["cut"]["class"].is_string(), "a cut is no end: {seen}");
    for (what, sentence) in [("busy", "rate-limited"), ("unknown", "Unknown or unsupported model")]
    {
        let says = seen[what]["says"].as_str().unwrap_or_default();
        assert!(
            says.contains(sentence) && !says.contains('{'),
            "a sentence, no dictionary: {says}"
        );
    }
    let requests = mock.requests(&gateway).await;
    assert_eq!(requests.len(), 9, "{requests:#?}");
    for request in requests {
        let body: Value =
            serde_json::from_str(request["body"].as_str().expect("a text")).expect("JSON");
        let fields = body.as_object().expect("an object");
        for ours in ["guardrails", "mcp_servers", "mcp_server_ids", "tools_header", "session_label"]
        {
            assert!(!fields.contains_key(ours), "{ours}, null or not, is the gateway's: {body}");
        }
    }
    // The refused model never became a call; a stream without a wish for usage was counted all the same.
    for row in gateway.usage(9).await {
        let ok = row["status"] == "success";
        assert!(!ok || row["completion_tokens"].as_u64() > Some(0), "{row}");
    }
    gateway.settled("u").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn otaris_own_sdk_below_api_v1() {
    otaris_own_sdk("otari", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn otaris_own_sdk_below_v1() {
    otaris_own_sdk("otari-0.3", false).await;
}

/// Of a field of the gateway's null means absent; others pass as they came, unless the request is translated.
#[tokio::test]
async fn nulls_mean_absent() {
    let provider = Provider::start(|request| match request.path.as_str() {
        "/v1/messages" => Format::Messages.reply(request, &["ok"]),
        _ => Reply::chat(request, &["ok"]),
    });
    let gateway = Gateway::start()
        .config("require_pricing: false")
        .provider("p", &provider)
        .provider_of("anthropic", "a", &provider.base(), "")
        .await;
    let key = gateway.key("u").await;
    let nulls = json!({"tools": null, "tool_choice": null, "user": null, "temperature": null, "stop": null,
        "stream_options": null, "guardrails": null, "mcp_servers": null, "session_label": null, "x_new": null});
    let mut body = ask_with(nulls);
    gateway.chat(&key, &body).await.expect(200);
    let mut sent = provider.requests().remove(0).json();
    sent.as_object_mut().expect("an object").remove("messages");
    let theirs = json!({"model": "m", "tools": null, "tool_choice": null, "temperature": null, "stop": null,
        "stream_options": null, "x_new": null});
    assert_eq!(sent, theirs);
    body["model"] = json!("a:m");
    gateway.chat(&key, &body).await.expect(200);
    let sent = provider.requests().remove(1).json();
    let want =
        json!({"model": "m", "max_tokens": 8192, "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(sent, want);
}

#[tokio::test]
async fn the_body_decides_what_is_a_stream() {
    let provider = Provider::streams(["ok"]);
    let gateway = Gateway::start().config("require_pricing: false").provider("p", &provider).await;
    let bearer = format!("Bearer {}", gateway.key("u").await);
    for (accept, stream, kind) in [
        ("application/json", true, "text/event-stream"),
        ("*/*", true, "text/event-stream"),
        ("text/event-stream", false, "application/json"),
    ] {
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("accept", accept),
        ];
        let body = ask_with(json!({"stream": stream})).to_string();
        let answer =
            gateway.send(Method::POST, "/v1/chat/completions", &headers, body).await.expect(200);
        let seen = answer.header("content-type").unwrap_or_default();
        assert!(seen.starts_with(kind), "{accept}, stream: {stream}: {seen}");
    }
}

#[tokio::test]
async fn a_stream_is_never_compressed() {
    let provider = Provider::streams(["ok"]);
    let gateway = Gateway::start().config("require_pricing: false").provider("p", &provider).await;
    let bearer = format!("Bearer {}", gateway.key("u").await);
    for encoding in ["identity", "gzip, deflate, br, zstd"] {
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("accept-encoding", encoding),
        ];
        let body = ask_with(json!({"stream": true})).to_string();
        let answer =
            gateway.send(Method::POST, "/v1/chat/completions", &headers, body).await.expect(200);
        assert_eq!(answer.header("content-encoding"), None, "{encoding}");
        assert!(answer.text().ends_with("data: [DONE]\n\n"), "{encoding}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_model_is_found_however_its_path_is_written() {
    let provider = Provider::streams(["ok"]);
    let gateway = Gateway::start()
        .provider("p", &provider)
        .price("p:a/b", 1.0, 2.0)
        .price("p:a b", 1.0, 2.0)
        .await;
    let bearer = format!("Bearer {}", gateway.key("u").await);
    for (path, id) in [
        ("p:a%2Fb", "p:a/b"),
        ("p%3Aa%2fb", "p:a/b"),
        ("p%2Fa%2Fb", "p:a/b"),
        ("p:a/b", "p:a/b"),
        ("p:a%20b", "p:a b"),
    ] {
        for root in ["/v1", "/api/v1"] {
            let path = format!("{root}/models/{path}");
            let answer = gateway.send(Method::GET, &path, &[("authorization", &bearer)], "").await;
            assert_eq!(answer.expect(200).json()["id"], id, "{path}");
        }
    }
}

/// The files of a module of these tests.
fn sources(module: &str) -> String {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let file = root.join(format!("{}.rs", module.replace("::", "/")));
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn what_the_table_names_is_there() {
    let table = include_str!("client_risks.rs").lines().take_while(|line| line.starts_with("//!"));
    let mut found = 0;
    for line in table.filter(|line| line.starts_with("//! |")).skip(2) {
        let proofs = line.rsplit(" | ").next().expect("a column");
        for name in proofs.split('`').skip(1).step_by(2) {
            let parts: Vec<&str> = name.split("::").collect();
            let (module, fact) = match parts.as_slice() {
                [fact] => ("client_risks".to_owned(), *fact),
                ["connected", module, fact] => (format!("connected/{module}"), *fact),
                [module, .., fact] => ((*module).to_owned(), *fact),
                [] => panic!("an empty name: {line}"),
            };
            let fact = fact.trim_end_matches('*');
            assert!(
                sources(&module).contains(&format!("fn {fact}")),
                "{name} is not there: {line}"
            );
            found += 1;
        }
    }
    assert!(found > 30, "{found} facts are named");
}
