//! Coding agents before the real gateway and the built-in provider: what their users see, what is recorded, and what the
//! provider is sent.

use serde_json::{Value, json};

use crate::support::agent::{Agent, RAN, Turn};
use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::mock::{Family, Mock};
use crate::support::provider::{Provider, Reply};

/// How an answer of the built-in provider begins.
const WORDS: &str = "lorem ipsum dolor";

/// Fields of a request that are the gateway's own, whatever the format.
const OURS: [&str; 8] = [
    "guardrails",
    "mcp_servers",
    "mcp_server_ids",
    "tools_header",
    "max_tool_iterations",
    "session_label",
    "otari",
    "user_id",
];

/// Headers that agents send and that are nobody else's business.
const CALLERS: [&str; 7] = [
    "session-id",
    "thread-id",
    "x-session-id",
    "x-claude-code-session-id",
    "originator",
    "x-app",
    "traceparent",
];

/// The provider that speaks the agent's own format.
fn own(agent: Agent) -> Family {
    Family::named(if agent == Agent::ClaudeCode { "anthropic" } else { "openai" })
}

/// A gateway before the built-in provider, as one of a family.
struct Stage {
    mock: Mock,
    gateway: Gateway,
    key: String,
    family: Family,
}

impl Stage {
    async fn set(family: Family) -> Self {
        let mock = Mock::start();
        let start = Gateway::start().config("require_pricing: false");
        let gateway = family.before(start, &mock).await;
        let key = gateway.key("u").await;
        Self { mock, gateway, key, family }
    }

    fn turn(&self, agent: Agent, options: &str) -> Turn {
        agent.turn(&self.gateway, &self.key, &self.family.model(options))
    }

    /// The rows, oldest first: so many failed calls and then so many others, all of the agent's route.
    async fn rows(&self, agent: Agent, failed: usize, succeeded: usize) -> Vec<Value> {
        let mut rows = self.gateway.usage(failed + succeeded).await;
        rows.reverse();
        for (at, row) in rows.iter().enumerate() {
            let status = if at < failed { "error" } else { "success" };
            let seen = (&row["status"], &row["endpoint"], &row["user_id"]);
            assert_eq!(seen, (&json!(status), &json!(agent.route()), &json!("u")), "{at}: {row}");
        }
        rows
    }

    /// What the provider was sent, as JSON, oldest first: each a call of its format and nothing of the gateway's.
    async fn received(&self) -> Vec<Value> {
        let requests = self.mock.requests(&self.gateway).await;
        requests.iter().map(clean).collect()
    }
}

/// The body of a request, which holds nothing of the gateway's.
fn clean(request: &Value) -> Value {
    assert_eq!(request["method"], "POST", "{request}");
    for header in request["headers"].as_array().expect("a list") {
        let name = header[0].as_str().unwrap_or_default().to_ascii_lowercase();
        let is_ours = name.starts_with("otari") || name.starts_with("x-stainless");
        assert!(!is_ours && !CALLERS.contains(&name.as_str()), "not for a provider: {header}");
    }
    let body: Value = serde_json::from_str(request["body"].as_str().unwrap_or_default())
        .unwrap_or_else(|error| panic!("{error}: {request}"));
    let fields = body.as_object().expect("an object");
    for name in OURS {
        assert!(!fields.contains_key(name), "{name} is the gateway's: {fields:?}");
    }
    body
}

/// The agent has its provider run a command, is told what it printed, and answers; `calls` in all.
async fn runs_a_command(agent: Agent, family: Family, calls: usize) {
    let stage = Stage::set(family).await;
    let turn = stage.turn(agent, &format!("tool={}", agent.shell()));
    assert!(turn.ok && turn.text.contains(WORDS), "{turn:?}");
    assert_eq!(turn.ran, 1, "{turn:?}");
    for row in stage.rows(agent, 0, calls).await {
        let (input, output) = (row["prompt_tokens"].as_u64(), row["completion_tokens"].as_u64());
        assert!(input > Some(100) && output > Some(0), "{row}");
    }
    let received = stage.received().await;
    assert_eq!(received.len(), calls);
    assert!(received[calls - 1].to_string().contains(RAN), "the last call brings the result");
    stage.gateway.settled("u").await;
}

/// The stream breaks off half way through the call of the tool, `failed` times; the agent asks again, and the command is
/// run once.
async fn gets_over_a_cut(agent: Agent, failed: usize, succeeded: usize) {
    let stage = Stage::set(own(agent)).await;
    let script = format!("tool={}&fault=cut:1&fail_first={failed}&seed=c", agent.shell());
    let turn = stage.turn(agent, &script);
    assert!(turn.ok && turn.text.contains(WORDS), "{turn:?}");
    assert_eq!(turn.ran, 1, "{turn:?}");
    for row in &stage.rows(agent, failed, succeeded).await[..failed] {
        assert_eq!(row["status_code"], 502, "{row}");
        assert!(row["prompt_tokens"].as_u64() > Some(100), "what was used is recorded: {row}");
    }
    stage.gateway.settled("u").await;
}

/// The provider is busy `failed` times, and says for how long.
async fn waits_for_a_busy_provider(agent: Agent, failed: usize, succeeded: usize) {
    let stage = Stage::set(own(agent)).await;
    let script = format!("status=429&retry_after=1&fail_first={failed}&seed=b");
    let turn = stage.turn(agent, &script);
    assert!(turn.ok && turn.text.contains(WORDS), "{turn:?}");
    // What names the session beside the turn may be given up when the turn is over.
    let rows = eventually("the rows of the turn", async || {
        let rows = stage.gateway.all_usage().await;
        (rows.len() > failed).then_some(rows)
    })
    .await;
    assert!(rows.len() <= failed + succeeded, "{rows:#?}");
    let failures: Vec<&Value> = rows.iter().filter(|row| row["status"] == "error").collect();
    assert!(failures.len() >= failed, "{rows:#?}");
    assert!(
        failures[..failed].iter().all(|row| row["status_code"] == 429 || row["status_code"] == 499)
    );
    assert_eq!(stage.gateway.settled("u").await, 0.0);
}

/// A caller without money is told so, in a sentence, and nothing reaches the provider.
async fn is_told_why(agent: Agent) {
    let stage = Stage::set(own(agent)).await;
    let nothing = stage.gateway.budget(0.0).await;
    stage.gateway.user("poor", Some(&nothing)).await;
    let poor = stage.gateway.key("poor").await;
    let turn = agent.turn(&stage.gateway, &poor, &own(agent).model(""));
    assert!(turn.text.contains("has exceeded budget limit"), "{turn:?}");
    assert!(!turn.text.contains("detail"), "a sentence, not JSON: {turn:?}");
    assert_eq!(stage.mock.requests(&stage.gateway).await.len(), 0);
}

/// The facts of an agent: how many calls a turn with a tool takes, and which others it makes beside them.
macro_rules! facts {
    ($name:ident, $agent:expr, beside $beside:literal) => {
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn runs_a_command() {
                super::runs_a_command($agent, own($agent), 2 + $beside).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn gets_over_a_cut() {
                super::gets_over_a_cut($agent, 1 + $beside, 2).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn waits_for_a_busy_provider() {
                super::waits_for_a_busy_provider($agent, 1 + $beside, 1 + $beside).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn is_told_why() {
                super::is_told_why($agent).await;
            }
        }
    };
}

facts!(codex, Agent::Codex, beside 0);
facts!(claude_code, Agent::ClaudeCode, beside 0);
// It has a title for the conversation made, at the same time.
facts!(opencode, Agent::Opencode, beside 1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_falls_back_from_a_websocket_at_once() {
    let agent = Agent::CodexBuiltIn;
    let stage = Stage::set(own(agent)).await;
    let turn = stage.turn(agent, &format!("tool={}", agent.shell()));
    assert!(turn.ok && turn.text.contains(WORDS), "{turn:?}");
    assert_eq!(turn.ran, 1, "{turn:?}");
    stage.rows(agent, 0, 2).await;
    let log = stage.gateway.log();
    assert_eq!(log.matches("\"http.status\":426").count(), 1, "one try, and no second:\n{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_codes_burst_of_counted_tokens_costs_nothing() {
    let agent = Agent::ClaudeCode;
    let stage = Stage::set(own(agent)).await;
    let turn = agent.turn_with(&stage.gateway, &stage.key, &own(agent).model(""), "/context", &[]);
    assert!(turn.ok && turn.text.contains("Context Usage"), "{turn:?}");
    eventually("a number per part to be asked for", async || {
        let log = stage.gateway.log();
        let asked = log.matches("\"http.route\":\"/v1/messages/count_tokens\"").count();
        (asked >= 20).then_some(())
    })
    .await;
    let log = stage.gateway.log();
    assert!(!log.contains("\"http.status\":4"), "none is refused:\n{log}");
    stage.gateway.usage(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_code_finds_the_models_of_the_gateway() {
    let agent = Agent::ClaudeCode;
    let stage = Stage::set(own(agent)).await;
    let env = [("CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY", "1")];
    let turn =
        agent.turn_with(&stage.gateway, &stage.key, &own(agent).model(""), "Say hello", &env);
    assert!(turn.ok && turn.text.contains(WORDS), "{turn:?}");
    let log = stage.gateway.log();
    assert!(log.contains("\"http.route\":\"/v1/models\",\"http.status\":200"), "{log}");
}

/// An agent before providers that speak another format than it does.
async fn speaks_to(agent: Agent, kinds: &[&str]) {
    for kind in kinds {
        runs_a_command(agent, Family::named(kind), if agent == Agent::Opencode { 3 } else { 2 })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codex_speaks_to_providers_without_its_format() {
    let kinds = ["deepinfra", "anthropic", "gemini", "bedrock", "cohere", "ollama"];
    speaks_to(Agent::Codex, &kinds).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claude_code_speaks_to_providers_without_its_format() {
    let kinds = ["openai", "deepinfra", "gemini", "bedrock", "cohere", "ollama", "mistral"];
    speaks_to(Agent::ClaudeCode, &kinds).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opencode_speaks_to_providers_without_its_format() {
    speaks_to(Agent::Opencode, &["anthropic", "gemini"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aider_edits_a_file() {
    let edit = ["notes.txt\n```\n", "new\n", "```\n"];
    let provider = Provider::start(move |request| Reply::chat(request, &edit));
    let gateway = Gateway::start().config("require_pricing: false").provider("p", &provider).await;
    let key = gateway.key("u").await;
    let turn = Agent::Aider.turn(&gateway, &key, "p:m");
    assert!(turn.ok && turn.notes == "new\n", "{turn:?}");
    let sent = provider.only().json();
    // It never asks for usage: the gateway does, for the row.
    assert_eq!(sent["stream_options"], json!({"include_usage": true}));
    let rows = gateway.usage(1).await;
    assert_eq!((&rows[0]["prompt_tokens"], &rows[0]["completion_tokens"]), (&json!(10), &json!(5)));
}

mod aider {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn gets_over_a_cut_and_a_busy_provider() {
        let stage = Stage::set(own(Agent::Aider)).await;
        let turn = stage.turn(Agent::Aider, "fault=cut:3&fail_first=1&seed=c");
        assert!(turn.ok && turn.text.contains(WORDS), "{turn:?}");
        stage.rows(Agent::Aider, 1, 1).await;
        let turn = stage.turn(Agent::Aider, "status=429&retry_after=1&fail_first=1&seed=b");
        assert!(turn.ok && turn.text.contains(WORDS), "{turn:?}");
        assert_eq!(stage.gateway.usage(4).await.len(), 4);
    }

    /// It repeats whatever is refused for a minute, but for a wrong key.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn is_told_why() {
        let stage = Stage::set(own(Agent::Aider)).await;
        let turn = Agent::Aider.turn(&stage.gateway, "gw-nobody", "openai:m");
        assert!(turn.text.contains("key is too short"), "{turn:?}");
        assert_eq!(stage.mock.requests(&stage.gateway).await.len(), 0);
    }
}
