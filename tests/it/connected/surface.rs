//! Which paths there are, what they need, and what every answer carries.

use otari::mock::platform::{Fault, Rule, Then};
use reqwest::Method;
use serde_json::json;

use super::{Api, Scene, working};
use crate::support::gateway::{Answer, Gateway};
use crate::support::platform::{Platform, USER_TOKEN};

#[tokio::test]
async fn it_starts_without_a_database_and_with_a_bogus_one() {
    for database in [
        None,
        Some("database_url: postgresql://nobody@127.0.0.1:1/none"),
        Some("database_url: bogus"),
    ] {
        let mut platform = Platform::start().await;
        let provider = working();
        platform.plan("m", &[("openai", &provider)]);
        let start = Gateway::start().connected(&platform);
        let start = if let Some(yaml) = database { start.config(yaml) } else { start };
        let (folder, _) = start.write();
        let gateway = start.await;
        let answer = gateway.chat(USER_TOKEN, &Api::Chat.ask("m")).await.expect(200);
        assert_eq!(answer.header("x-correlation-id"), Some("att-a-1"));
        platform.eventually_reports(1).await;
        platform.assert_clean();
        assert!(!folder.join("otari.db").exists() && !folder.join("otari-gateway.db").exists());
        assert!(!folder.join("first-key.txt").exists());
        let log = gateway.log();
        assert!(!log.contains("gw-") && !log.contains("mk-"), "no keys are made: {log}");
    }
}

#[tokio::test]
async fn what_is_managed_on_the_platform_says_so_and_asks_for_no_key() {
    let scene = Scene::new().await;
    let sentence =
        "This endpoint is not available in hybrid mode. Manage this resource via the platform UI.";
    let names = [
        "users",
        "keys",
        "budgets",
        "usage",
        "settings",
        "aliases",
        "providers",
        "pricing",
        "organizations",
        "workspaces",
        "invitations",
    ];
    let methods =
        [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    for name in names {
        for path in [format!("/v1/{name}"), format!("/v1/{name}/a/b"), format!("/api/v1/{name}/")] {
            for method in &methods {
                let answer = scene.gateway.send(method.clone(), &path, &[], "").await;
                let body = answer.refused(404);
                assert_eq!(body["detail"], sentence, "{method} {path}");
            }
        }
        let answer = scene.gateway.send(Method::HEAD, &format!("/v1/{name}"), &[], "").await;
        assert!(matches!(answer.status, 404 | 405), "HEAD {name}: {}", answer.status);
        // Others that begin alike are not among them.
        let body = scene.gateway.get(&format!("/v1/{name}x")).await.refused(404);
        assert_ne!(body["detail"], sentence, "{name}x");
    }
    scene.finish().await;
}

#[tokio::test]
async fn everything_else_is_not_there() {
    let scene = Scene::new().await;
    for path in [
        "/v1/models",
        "/v1/models/openai:m",
        "/v1/embeddings",
        "/v1/moderations",
        "/v1/rerank",
        "/v1/images/generations",
        "/v1/audio/speech",
        "/v1/batches",
        "/v1/files",
        "/v1/scoped-budgets",
        "/v1/nothing",
    ] {
        for method in [Method::GET, Method::POST] {
            let answer = scene
                .gateway
                .send(method.clone(), path, &[("authorization", "Bearer t")], "")
                .await;
            let body = answer.refused(404);
            let said = body["detail"].as_str().unwrap_or_default();
            assert!(said.starts_with("Not Found"), "{method} {path}: {said}");
        }
    }
    let answer = scene.gateway.get("/v1/chat/completions").await;
    assert_eq!(answer.refused(405)["error"]["code"], "method_not_allowed");
    scene.finish().await;
}

#[tokio::test]
async fn health_tells_of_the_platform() {
    let mut scene = Scene::with(|start| start.env("PLATFORM_RESOLVE_TIMEOUT_MS", "300")).await;
    let version = env!("CARGO_PKG_VERSION");
    let reachable = json!({"status": "healthy", "mode": "hybrid", "platform_reachable": "yes"});
    let ready =
        json!({"status": "healthy", "mode": "hybrid", "platform": "connected", "version": version});
    let not_ready = json!({"status": "unhealthy", "mode": "hybrid", "platform": "unavailable", "version": version});
    for (rule, is_reachable) in [
        (None, true),
        (Some(Then::status(404)), true),
        (Some(Then::status(500)), false),
        (Some(Then::fault(Fault::Close)), false),
        (Some(Then::fault(Fault::Hang)), false),
        (None, true),
    ] {
        scene.platform.edit(|script| {
            script.health = rule.clone().map(Rule::always).into_iter().collect();
        });
        let health = scene.gateway.get("/health").await.expect(200);
        let readiness = scene.gateway.get("/health/readiness").await;
        for answer in [&health, &readiness] {
            assert_eq!(answer.header("vary"), None, "health may be cached");
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        }
        if is_reachable {
            assert_eq!(health.json(), reachable);
            assert_eq!(readiness.expect(200).json(), ready);
        } else {
            assert_eq!(health.json()["platform_reachable"], "no");
            assert_eq!(readiness.refused_as(503), not_ready);
        }
    }
    let alive = scene.gateway.get("/health/liveness").await.expect(200);
    assert_eq!(alive.json(), "I'm alive!");
    assert_eq!(scene.platform.others()[0].header("x-gateway-token"), None);
    scene.finish().await;
}

impl Answer {
    /// The `detail` of an answer with this status.
    fn refused_as(&self, status: u16) -> serde_json::Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()["detail"].clone()
    }
}

#[tokio::test]
async fn pages_are_as_the_configuration_says() {
    let scene = Scene::with(|start| start.config("enable_metrics: true")).await;
    let api = scene.gateway.get("/openapi.json").await.expect(200).json();
    let paths = api["paths"].as_object().expect("paths");
    for served in [
        "/v1/chat/completions",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/responses",
        "/health",
    ] {
        assert!(paths.contains_key(served), "{served}");
    }
    for managed in ["/v1/keys", "/v1/users", "/v1/models", "/v1/scoped-budgets"] {
        assert!(!paths.contains_key(managed), "{managed} is not here");
    }
    assert_eq!(
        api["components"]["securitySchemes"],
        json!({"BearerAuth": {"type": "http", "scheme": "bearer"}})
    );
    assert_eq!(paths["/v1/responses"]["post"]["security"], json!([{"BearerAuth": []}]));
    scene.gateway.get("/").await.expect(200);
    scene.gateway.get("/docs").await.expect(200);
    let metrics = scene.gateway.get("/metrics").await.expect(200).text();
    assert!(metrics.contains("gateway_requests_total"), "{metrics}");
    scene.finish().await;
    let scene = Scene::with(|start| start.config("enable_docs: false")).await;
    for page in ["/openapi.json", "/docs", "/metrics"] {
        assert_eq!(scene.gateway.get(page).await.status, 404, "{page}");
    }
    scene.finish().await;
}

#[tokio::test]
async fn every_answer_carries_its_headers() {
    let mut scene = Scene::with(|start| start.config("rate_limit_rpm: 1")).await;
    let provider = working();
    for (n, api) in (1..).zip(Api::ALL) {
        scene.platform.plan("m", &[(api.provider(), &provider)]);
        let plain = scene.ask(api, "m").await.expect(200);
        let stream = scene.ask_streamed(api, "m").await.expect(200);
        for (answer, n) in [(&plain, 2 * n - 1), (&stream, 2 * n)] {
            assert_eq!(answer.header("x-otari-request-id"), Some(format!("req-{n}").as_str()));
            assert_eq!(answer.header("x-correlation-id"), Some(format!("att-a-{n}").as_str()));
            assert_eq!(answer.header("otari-attempt-id"), answer.header("x-correlation-id"));
            assert_eq!(answer.header("otari-provider"), Some(api.provider()));
            assert_eq!(answer.header("x-request-id"), answer.header("request-id"));
            assert_eq!(answer.header("x-request-id"), answer.header("otari-request-id"));
            assert!(answer.header("x-request-id").is_some_and(|id| id.len() == 36));
            for (name, value) in [
                ("x-content-type-options", "nosniff"),
                ("x-frame-options", "DENY"),
                ("referrer-policy", "strict-origin-when-cross-origin"),
                ("cache-control", "private, no-store, no-cache"),
                ("vary", "Authorization"),
            ] {
                assert_eq!(answer.header(name), Some(value), "{api:?}");
            }
            assert!(answer.headers.keys().all(|name| !name.as_str().starts_with("x-ratelimit")));
        }
        assert!(
            stream.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"))
        );
        scene.reports(2).await;
    }
    scene.finish().await;
}
