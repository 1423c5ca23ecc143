//! What people's libraries get of every family of providers, through every API of the gateway: texts, streams, calls of
//! tools and their results. The families are the built-in provider's, which refuses what theirs would.

use serde_json::{Value, json};

use crate::support::gateway::Gateway;
use crate::support::mock::{FAMILIES, Family, Mock};
use crate::support::sdk::Sdk;

/// What the built-in provider says.
const WORDS: &str = "lorem ipsum dolor sit amet consetetur sadipscing elitr";

/// How the APIs say that an answer is over, and that tools are called.
const ENDS: [(&str, [&str; 2]); 3] = [
    ("chat", ["stop", "tool_calls"]),
    ("responses", ["completed", "completed"]),
    ("messages", ["end_turn", "tool_use"]),
];

/// What is asked of each model through each API; of these the calls of tools.
const CASES: [(&str, bool); 5] =
    [("plain", false), ("stream", false), ("tool", true), ("tool_stream", true), ("result", false)];

/// Generations that make up all [`CASES`]: a result is given to a call that was made before.
const CALLS: usize = 6;

/// A gateway before all families, each an instance with the name of its type.
async fn before_all() -> (Mock, Gateway, String) {
    let mock = Mock::start();
    let start = Gateway::start().config("require_pricing: false");
    let gateway = FAMILIES.iter().fold(start, |start, family| family.before(start, &mock)).await;
    let key = gateway.key("u").await;
    (mock, gateway, key)
}

fn called() -> Value {
    json!([["weather", {"city": "lorem"}]])
}

/// Every model through every API of the official SDKs: all differences at once.
async fn everything_is_understood(sdk: Sdk) {
    let (_mock, gateway, key) = before_all().await;
    let models: Vec<String> = FAMILIES.iter().map(|family| family.model("")).collect();
    let root = gateway.url("");
    let mut arguments = vec![root.as_str(), &key];
    arguments.extend(models.iter().map(String::as_str));
    let found = sdk.run("families", &arguments);
    let mut wrong = Vec::new();
    for model in &models {
        for (api, ends) in ENDS {
            for (case, calls) in CASES {
                let seen = &found[model.as_str()][api][case];
                let (text, called) = if calls { ("", called()) } else { (WORDS, json!([])) };
                let finish = ends[usize::from(calls)];
                let due = json!({"text": text, "calls": called, "finish": finish, "counted": true});
                if *seen != due {
                    wrong.push(format!("{model} {api} {case}: {seen}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{sdk:?}:\n{}", wrong.join("\n"));
    let rows = gateway.usage(models.len() * ENDS.len() * CALLS).await;
    for row in rows {
        assert_eq!(row["status"], "success", "{row}");
        assert!(row["prompt_tokens"].as_u64() > Some(0), "{row}");
        assert!(row["completion_tokens"].as_u64() > Some(0), "{row}");
    }
    gateway.settled("u").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_sdks_understand_every_provider() {
    everything_is_understood(Sdk::Python).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_sdks_understand_every_provider() {
    everything_is_understood(Sdk::Node).await;
}

/// A library that checks what it reads more closely than the official SDKs, before a provider of the API that it speaks
/// and before one of another.
async fn reads(sdk: Sdk, script: &str, due: &Value) {
    let (_mock, gateway, key) = before_all().await;
    for kind in ["openai", "gemini"] {
        let model = Family::named(kind).model("");
        let seen = sdk.run(script, &[&gateway.url(""), &key, &model]);
        assert_eq!(seen, *due, "{script} before {kind}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ai_sdk_accepts_its_schemas() {
    let done = json!({"result": WORDS, "cities": ["lorem"], "stream": WORDS, "counted": true});
    reads(Sdk::Ai, "ai_sdk", &json!({"chat": done, "responses": done})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pydantic_ai_accepts_its_types() {
    let done = json!({"result": WORDS, "cities": ["lorem"], "stream": WORDS, "counted": true});
    let all = json!({"chat": done, "responses": done, "messages": done});
    reads(Sdk::Client("pydantic-ai"), "pydantic_agents", &all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn langchain_reads_every_answer() {
    let due = json!({"plain": WORDS, "stream": WORDS, "tool": called(), "tool_stream": called(), "result": WORDS,
        "responses": WORDS});
    reads(Sdk::Client("langchain"), "langchain_sdk", &due).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn litellm_reads_every_answer() {
    let due = json!({"plain": WORDS, "stream": WORDS, "tool": called(), "messages": WORDS, "responses": WORDS});
    reads(Sdk::Client("litellm"), "litellm_sdk", &due).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instructor_gets_the_type_it_asks_for() {
    let due = json!({"whole": {"city": "lorem", "degrees": 1}});
    reads(Sdk::Client("instructor"), "instructor_sdk", &due).await;
}
