//! The platform over real sockets, as a gateway and as a person with curl see it.

mod rules;

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::{BASE_PATH, Platform, Rule, Script, Then};

const RESOLVE: &str = "/gateway/provider-keys/resolve";
const USAGE: &str = "/gateway/usage";

struct Server {
    platform: Platform,
    address: SocketAddr,
    http: Client,
    _task: JoinSet<()>,
}

impl Server {
    async fn start(script: Script) -> Self {
        // reqwest is built without a crypto provider; somebody has to name one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let platform = Platform::new(script);
        let mut task = JoinSet::new();
        let served = platform.clone();
        task.spawn(async move { served.serve(listener, std::future::pending()).await.unwrap() });
        let http = Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(5))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self { platform, address, http, _task: task }
    }

    /// Any request, to a path from the root.
    fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.address))
    }

    /// A POST as a gateway makes it, with both tokens.
    fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.report_to(path, body).header("X-User-Token", "tk_user-0001")
    }

    fn report_to(&self, path: &str, body: &Value) -> RequestBuilder {
        let path = format!("{BASE_PATH}{path}");
        self.bare(Method::POST, &path).header("X-Gateway-Token", "gw_gateway-01").json(body)
    }

    async fn resolve(&self, model: &str) -> (StatusCode, Value) {
        answered(self.post(RESOLVE, &json!({"model": model}))).await
    }

    async fn report(&self, body: &Value) -> (StatusCode, Value) {
        answered(self.report_to(USAGE, body)).await
    }

    /// Resolves once and returns the id of the only attempt.
    async fn attempt(&self) -> String {
        let (_, plan) = self.resolve("m").await;
        plan["attempts"][0]["attempt_id"].as_str().unwrap().to_owned()
    }
}

/// Status and body; null when it is no JSON.
async fn answered(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
}

fn success(id: &str) -> Value {
    json!({"correlation_id": id, "status": "success", "is_final_attempt": true,
           "usage": {"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17,
                     "cache_read_tokens": 6, "cache_write_tokens": 0}})
}

fn failure(id: &str) -> Value {
    json!({"correlation_id": id, "status": "error", "is_final_attempt": false, "error_class": "http_429"})
}

#[tokio::test]
async fn without_rules_every_endpoint_answers() {
    let server = Server::start(Script::default()).await;
    let (status, plan) = server.resolve("gpt-4o").await;
    assert_eq!(status, 200);
    assert_eq!(
        plan,
        json!({"request_id": "req-1", "fallback_enabled": false, "attempts": [
            {"attempt_id": "att-a-1", "position": 0, "provider": "openai", "model": "gpt-4o",
             "api_key": "sk-mock", "api_base": "http://127.0.0.1:9100/v1", "managed": false}]})
    );
    let asked = json!({"model": "claude", "provider": "anthropic"});
    let (_, plan) = answered(server.post(RESOLVE, &asked)).await;
    assert_eq!(plan["attempts"][0]["provider"], "anthropic", "the provider asked for");
    assert_eq!(plan["attempts"][0]["attempt_id"], "att-a-2", "ids are unique");

    let (status, settled) = server.report(&success("att-a-1")).await;
    assert_eq!(status, 200);
    assert_eq!(
        settled,
        json!({"correlation_id": "att-a-1", "status": "completed", "outcome": "success",
               "cost_usd": "0.000024", "currency": "USD", "usage_status": "reported",
               "pricing": {"source": "managed"}}),
        "10 tokens at 1 USD and 7 at 2 USD per million"
    );
    assert_eq!(server.report(&failure("att-a-2")).await.0, 204);

    let ids = json!({"mcp_server_ids": ["6f1c2b5e-0d0a-4a53-9d7a-2f6b1c9f4c11"]});
    let (status, servers) = answered(server.post("/gateway/mcp-servers/resolve", &ids)).await;
    assert_eq!((status, servers), (StatusCode::OK, json!({"servers": []})));
    for path in ["/gateway/web-search/resolve", "/gateway/code-execution/resolve"] {
        let (status, policy) = answered(server.post(path, &json!({}))).await;
        assert_eq!((status, policy), (StatusCode::OK, json!({"enabled": false})), "{path}");
    }
    let health = server.bare(Method::GET, &format!("{BASE_PATH}/utils/health-check/"));
    assert_eq!(answered(health).await.0, 200);
    assert_eq!(server.platform.violations(), [""; 0], "all of this was right");
    let counts = server.platform.counts();
    assert_eq!((counts.resolves, counts.reports, counts.others), (2, 2, 4));
    assert_eq!((counts.accepted, counts.successes, counts.violations), (2, 1, 0));
}

#[tokio::test]
async fn what_was_told_is_kept_as_sent() {
    let server = Server::start(Script::default()).await;
    let id = server.attempt().await;
    server.report(&success(&id)).await;
    let reports = server.platform.reports();
    assert_eq!(reports.len(), 1);
    let report = &reports[0];
    assert_eq!(report.json(), success(&id));
    assert_eq!((report.correlation_id(), report.is_success(), report.is_final()), (id, true, true));
    assert_eq!((report.status, report.fault, report.accepted()), (200, None, true));
    assert_eq!(report.answer_json()["cost_usd"], "0.000024");
    assert_eq!(report.header("x-gateway-token"), Some("gw_gateway-01"));
    let resolve = server.platform.resolves().remove(0);
    assert_eq!(resolve.header("X-User-Token"), Some("tk_user-0001"));
    assert_eq!(resolve.text("model").as_deref(), Some("m"));
    assert!(resolve.at_ms <= report.at_ms);
    let shown = format!("{resolve:?}");
    assert!(!shown.contains("tk_user-0001") && !shown.contains("sk-mock"), "{shown}");
    server.platform.clear();
    assert!(server.platform.reports().is_empty() && server.platform.counts().reports == 0);
    let (status, _) = server.report(&failure("att-a-1")).await;
    assert_eq!((status, server.platform.violations()), (StatusCode::NO_CONTENT, vec![]));
}

#[tokio::test]
async fn a_success_without_usage_is_settled_without_a_price() {
    let server = Server::start(Script::default()).await;
    let id = server.attempt().await;
    let report = json!({"correlation_id": id, "status": "success", "is_final_attempt": true});
    let (status, settled) = server.report(&report).await;
    assert_eq!((status, &settled["usage_status"]), (StatusCode::OK, &json!("unavailable")));
    assert_eq!(settled["pricing"]["source"], Value::Null);
    assert_eq!(server.platform.violations(), [""; 0]);
}

#[tokio::test]
async fn tokens_are_checked() {
    let script = Script { gateway_token: Some("gw_gateway-01".into()), ..Script::default() };
    let server = Server::start(script.clone()).await;
    assert_eq!(server.resolve("m").await.0, 200);
    server.platform.script(Script { gateway_token: Some("gw_other".into()), ..script });
    assert_eq!(server.resolve("m").await.0, 401);
    assert_eq!(server.report(&success("att-a-1")).await.0, 401);
    assert_eq!(server.platform.violations(), [""; 0], "a wrong token is a setting, not a mistake");

    let server = Server::start(Script::default()).await;
    let (status, detail) = answered(server.report_to(RESOLVE, &json!({"model": "m"}))).await;
    assert_eq!(status, 401, "{detail}");
    let id = server.attempt().await;
    let (status, detail) = answered(server.post(USAGE, &success(&id))).await;
    assert_eq!(status, 500, "a report with a user token: {detail}");
    assert!(detail["detail"].as_str().unwrap().contains("X-User-Token"));
    let path = format!("{BASE_PATH}{RESOLVE}");
    let bare = server.bare(Method::POST, &path).header("X-User-Token", "t").json(&json!({}));
    assert_eq!(answered(bare).await.0, 401);
    assert_eq!(
        server.platform.violations(),
        [
            "resolve: X-User-Token is missing",
            "usage: X-User-Token does not belong here",
            "resolve: X-Gateway-Token is missing",
            "resolve: `model` must be a text that is not empty",
        ]
    );
    assert!(server.platform.duplicates().is_empty());
}

#[tokio::test]
async fn mistakes_of_bodies_are_told() {
    let server = Server::start(Script::default()).await;
    let id = server.attempt().await;
    let wrong = json!({"correlation_id": id, "status": "success", "is_final_attempt": false, "cost": 1,
                       "session_label": " a", "error_class": "x",
                       "usage": {"prompt_tokens": -1, "completion_tokens": 1, "extra": 1}});
    server.report(&wrong).await;
    assert_eq!(
        server.platform.violations(),
        [
            "usage: unknown field `cost`",
            "usage: a success is final, and `is_final_attempt` is false",
            "usage: `session_label` must be trimmed, of 255 characters at most",
            "usage: a success has no `error_class`",
            "usage: unknown field `usage.extra`",
            "usage: `usage.prompt_tokens` must be a whole number, 0 or more",
            "usage: `usage.total_tokens` must be a whole number, 0 or more",
        ]
    );
    for (path, body, wrong) in [
        (RESOLVE, json!({"model": "m", "provider": ""}), "resolve: `provider` must be a text"),
        (RESOLVE, json!({"model": "m", "user": 1}), "resolve: unknown field `user`"),
        ("/gateway/web-search/resolve", json!({"q": 1}), "web_search: unknown field `q`"),
        ("/gateway/code-execution/resolve", json!({"q": 1}), "code_execution: unknown field `q`"),
        ("/gateway/mcp-servers/resolve", json!({"mcp_server_ids": ["A"]}), "mcp: `mcp_server_ids`"),
        ("/gateway/mcp-servers/resolve", json!({}), "mcp: `mcp_server_ids`"),
    ] {
        server.platform.clear();
        assert_eq!(answered(server.post(path, &body)).await.0, 200, "{body}");
        let found = server.platform.violations();
        assert!(found.len() == 1 && found[0].starts_with(wrong), "{body}: {found:?}");
    }
    for status in ["done", ""] {
        server.platform.clear();
        server
            .report(&json!({"correlation_id": id, "status": status, "is_final_attempt": 1}))
            .await;
        assert_eq!(server.platform.counts().violations, 2, "status and final: {status}");
    }
}

#[tokio::test]
async fn mistakes_of_requests_are_told() {
    let server = Server::start(Script::default()).await;
    let resolve = format!("{BASE_PATH}{RESOLVE}");
    let body = r#"{"model":"m"}"#;
    let ask = |path: &str| {
        let tokens = server.bare(Method::POST, path).header("X-Gateway-Token", "g");
        tokens.header("X-User-Token", "u").body(body)
    };
    let json = "application/json; charset=utf-8";
    for (request, status, wrong) in [
        (ask(&resolve), 200, "resolve: Content-Type is missing"),
        (ask(&resolve).header("content-type", "text/plain"), 200, "resolve: Content-Type is `text"),
        (
            ask(&resolve).header("content-type", json).header("authorization", "Bearer x"),
            200,
            "resolve: carries `authorization`",
        ),
        (
            ask(&resolve).header("content-type", json).header("x-user-token", "v"),
            200,
            "resolve: X-User-Token came twice",
        ),
        (
            ask(&resolve).header("content-type", json).body("[1"),
            422,
            "resolve: the body is no JSON object",
        ),
        (
            ask(&format!("{resolve}?a=1")).header("content-type", json),
            200,
            "/api/v1/gateway/provider-keys/resolve: carries a query",
        ),
        (server.bare(Method::GET, &resolve), 405, "resolve: asked with GET, not POST"),
        (ask("/api/v1//gateway/usage"), 404, "/api/v1//gateway/usage: POST to an unknown path"),
        (
            server.bare(Method::GET, "/api/v1/utils/health-check/").header("X-Gateway-Token", "gw"),
            200,
            "health: X-Gateway-Token does not belong here",
        ),
    ] {
        server.platform.clear();
        assert_eq!(request.send().await.unwrap().status(), status, "{wrong}");
        let found = server.platform.violations();
        assert!(found.len() == 1 && found[0].starts_with(wrong), "{wrong}: {found:?}");
    }
    assert_eq!(server.platform.others().len(), 1, "the probe came after the last reset");
}

#[tokio::test]
async fn reports_that_come_again_are_noticed() {
    let server = Server::start(Script::default()).await;
    let (a, b, c) = (server.attempt().await, server.attempt().await, server.attempt().await);
    server.report(&success(&a)).await;
    server.report(&success(&a)).await;
    assert_eq!(server.platform.duplicates(), [a.as_str()]);
    assert_eq!(server.platform.violations(), [""; 0], "the same again is not wrong in itself");
    server.report(&failure(&a)).await;
    server.report(&success("made-up")).await;
    server.platform.script(Script {
        usage: vec![Rule::first(1, Then::status(500)), Rule::first(1, Then::status(409))],
        ..Script::default()
    });
    for expected in [500, 409, 200] {
        assert_eq!(server.report(&success(&b)).await.0, expected);
    }
    server.report(&failure(&c)).await;
    assert_eq!(server.platform.duplicates(), [a.as_str()], "only what was accepted counts");
    assert_eq!(
        server.platform.violations(),
        [
            format!("usage: `{a}` was reported twice, with different content"),
            "usage: `made-up` is no attempt of any plan".into(),
            format!("usage: `{b}` was sent again after 409"),
        ]
    );
}

#[tokio::test]
async fn people_see_and_script_it_over_http() {
    let server = Server::start(Script::default()).await;
    let put =
        |body: &Value| server.bare(Method::PUT, "/__platform/script").body(body.to_string()).send();
    let refused = put(&json!({"resolve": [{"when": {"mode": "x"}}]})).await.unwrap();
    assert_eq!(refused.status(), 400);
    assert!(refused.text().await.unwrap().contains("unknown field `mode`"));
    let script = json!({"resolve": [{"then": {"status": 402, "body": {"detail": "no credit"}}}]});
    assert_eq!(put(&script).await.unwrap().status(), 200);
    let (status, detail) = server.resolve("m").await;
    assert_eq!((status.as_u16(), detail), (402, json!({"detail": "no credit"})));
    assert_eq!(put(&json!({})).await.unwrap().status(), 200);
    let id = server.attempt().await;
    for _ in 0..2 {
        server.report(&success(&id)).await;
    }
    let seen = || answered(server.bare(Method::GET, "/__platform/seen"));
    let (status, shown) = seen().await;
    assert_eq!(status, 200);
    assert_eq!(shown["counts"]["resolves"], 2, "looking is not counted");
    assert_eq!(shown["resolves"][0]["status"], 402);
    assert_eq!(shown["reports"][1]["body"], success(&id));
    assert_eq!(shown["duplicates"], json!([id]));
    assert_eq!(shown["violations"], json!([]));
    let text = shown.to_string();
    for secret in ["tk_user-0001", "gw_gateway-01", "sk-mock"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    assert!(text.contains("***0001"), "the end of a token tells which it was: {text}");
    let cleared = server.bare(Method::DELETE, "/__platform/seen").send().await.unwrap();
    assert_eq!(cleared.status(), 200);
    assert_eq!(seen().await.1["counts"]["reports"], 0);
    let unknown = server.bare(Method::GET, "/__platform/other").send().await.unwrap();
    assert_eq!((unknown.status().as_u16(), server.platform.counts().others), (404, 0));
}

#[tokio::test]
async fn a_platform_that_keeps_nothing_still_counts() {
    let server = Server::start(Script { keep: false, ..Script::default() }).await;
    let id = server.attempt().await;
    for _ in 0..2 {
        server.report(&success(&id)).await;
    }
    let counts = server.platform.counts();
    assert_eq!((counts.resolves, counts.reports, counts.successes), (1, 2, 2));
    assert!(server.platform.resolves().is_empty() && server.platform.reports().is_empty());
    assert!(server.platform.duplicates().is_empty(), "there is nothing to compare with");
    server.platform.script(Script::default());
    server.report(&success(&id)).await;
    assert_eq!(server.platform.reports().len(), 1, "from now on they are kept");
    assert_eq!(server.platform.violations(), [""; 0], "plans of before were not noted");
}
