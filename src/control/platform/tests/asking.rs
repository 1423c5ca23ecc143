//! What is asked, and what is made of the answers.

use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, RETRY_AFTER};
use otari_filters::control::{ControlPlane as _, Plan, Wanted};
use otari_filters::providers::{Family, Operation};
use otari_filters::rejection::{Code, Rejection};
use serde_json::{Value, json};

use super::support::*;
use crate::control::platform::Connected;

fn wanted(model: &str) -> Wanted<'_> {
    Wanted { model, no_router: false, operation: Operation::Chat, is_own: false }
}

async fn resolve(connected: &Connected, model: &str) -> Result<Plan, Rejection> {
    connected.resolve(&caller(), None, wanted(model)).await
}

fn offer(provider: &str) -> Value {
    json!({"attempt_id": "att-1", "position": 0, "provider": provider, "model": "gpt-x", "api_key": "sk-hidden"})
}

fn offers(attempts: &[Value]) -> Answer {
    Answer::Say(200, json!({"request_id": "req-7", "attempts": attempts}).to_string())
}

#[tokio::test]
async fn every_resolve_is_asked_anew_with_both_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let platform = Platform::start(|_| offers(&[offer("openai")])).await;
    let connected = platform.connected(folder.path());
    for model in ["openai:gpt-4o", "openai:gpt-4o", ":gpt", "plain"] {
        resolve(&connected, model).await.unwrap();
    }
    let seen = platform.seen();
    let bodies: Vec<_> = seen.iter().map(|seen| seen.body.clone()).collect();
    assert_eq!(
        bodies,
        [
            json!({"model": "gpt-4o", "provider": "openai"}),
            json!({"model": "gpt-4o", "provider": "openai"}),
            json!({"model": "gpt"}),
            json!({"model": "plain"}),
        ]
    );
    assert_eq!(seen[0].line, "POST /api/v1/gateway/provider-keys/resolve HTTP/1.1");
    assert_eq!(seen[0].header("x-gateway-token"), Some(GATEWAY_TOKEN));
    assert_eq!(seen[0].header("x-user-token"), Some(USER_TOKEN));
    assert_eq!(seen[0].header("content-type"), Some("application/json"));
    assert_eq!(seen[0].header("authorization"), None);
    assert_eq!(platform.connections(), 1, "connections are kept");
}

#[tokio::test]
async fn http_2_is_offered_over_tls() {
    with_tls();
    let folder = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("https://{}", listener.local_addr().unwrap());
    let connected = connected(config(&base), folder.path());
    let hello = async {
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = rustls::server::Acceptor::default();
        let start = tokio_rustls::LazyConfigAcceptor::new(acceptor, stream).await.unwrap();
        let protocols: Vec<_> = start.client_hello().alpn().unwrap().map(<[u8]>::to_vec).collect();
        protocols
    };
    let (refused, protocols) = tokio::join!(resolve(&connected, "m"), hello);
    assert_eq!(protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert_eq!(refused.unwrap_err().code, Code::PlatformUnavailable);
}

#[tokio::test]
async fn an_offer_becomes_an_attempt_with_the_platforms_credential() {
    let folder = tempfile::tempdir().unwrap();
    let platform = Platform::start(|_| {
        let mut own = offer("openai-compatible");
        own["api_base"] = json!("https://own.example:8443/llm/v1/");
        own["extra_params"] = json!({"region_name": "eu-west-1"});
        let mut bad = offer("openai");
        bad["api_base"] = json!("not a url");
        let mut aws = offer("bedrock");
        aws["extra_params"] = json!({"region_name": "eu-west-1"});
        let (homeless, unknown) = (offer("gateway"), offer("brand-new"));
        offers(&[offer("openai"), offer("anthropic"), own, aws, homeless, unknown, bad])
    })
    .await;
    let connected = platform.connected(folder.path());
    let plan = resolve(&connected, "openai:gpt-4o").await.unwrap();
    assert_eq!(plan.request_id.as_deref(), Some("req-7"));
    let [openai, anthropic, own, aws, homeless, unknown, bad] = &plan.attempts[..] else {
        panic!()
    };
    assert_eq!(&*aws.upstream.origin, "https://bedrock-runtime.eu-west-1.amazonaws.com:443");
    assert_eq!((&*openai.model, &*openai.billed_model), ("gpt-x", "gpt-x"));
    assert_eq!(openai.id.as_deref(), Some("att-1"));
    assert!(openai.is_listed && !openai.is_alias && openai.prices.is_none());
    assert_eq!(&*openai.upstream.origin, "https://api.openai.com:443");
    assert_eq!(openai.upstream.headers[AUTHORIZATION], "Bearer sk-hidden");
    assert!(openai.upstream.headers[AUTHORIZATION].is_sensitive());
    assert_eq!(openai.upstream.max_retries, 2);
    assert_eq!(openai.upstream.first_byte_timeout, Duration::from_secs(600));
    assert_eq!(openai.first_event_timeout, Some(Duration::from_millis(2000)));
    assert_eq!(
        bad.first_event_timeout,
        Some(Duration::from_millis(2700)),
        "the last one has longer"
    );
    assert_eq!(anthropic.upstream.headers["x-api-key"], "sk-hidden");
    assert_eq!(
        (&*own.upstream.instance, &*own.upstream.origin),
        ("openai", "https://own.example:8443")
    );
    assert_eq!(own.upstream.client_settings[0].0, "region_name");
    for (attempt, instance) in [(homeless, "otari"), (unknown, "unknown"), (bad, "openai")] {
        assert_eq!(attempt.upstream.kind.family, Family::Unknown, "{instance}");
        assert_eq!(&*attempt.upstream.instance, instance);
        assert!(!attempt.upstream.headers.contains_key(AUTHORIZATION));
    }
    assert!(!format!("{plan:?}").contains("sk-hidden"));
}

#[tokio::test]
async fn the_older_form_is_understood() {
    let folder = tempfile::tempdir().unwrap();
    let platform = Platform::start(|_| {
        let body = json!({"provider": "openai", "model": "gpt-x", "api_key": "k", "api_base": "http://127.0.0.1:9/v1",
            "managed": true, "correlation_id": "c-1"});
        Answer::Say(200, body.to_string())
    })
    .await;
    let plan = resolve(&platform.connected(folder.path()), "gpt-x").await.unwrap();
    assert_eq!(plan.request_id.as_deref(), Some("c-1"));
    let [one] = &plan.attempts[..] else { panic!() };
    assert_eq!((one.id.as_deref(), one.position), (Some("c-1"), 0));
    assert_eq!(&*one.upstream.origin, "http://127.0.0.1:9");
    assert_eq!(
        one.first_event_timeout,
        Some(Duration::from_millis(2700)),
        "the only one is the last"
    );
}

#[tokio::test]
async fn what_the_platform_refuses_is_refused_in_its_words() {
    let folder = tempfile::tempdir().unwrap();
    let said = r#"{"detail":"the platform's words"}"#;
    let table = [
        (Answer::Say(400, said.into()), 400, "the platform's words"),
        (Answer::Say(401, "<html>".into()), 401, "Authorization request rejected"),
        (Answer::Say(402, said.into()), 402, "the platform's words"),
        (Answer::Say(403, r#"{"detail":["x"]}"#.into()), 403, "Authorization request rejected"),
        (Answer::Say(404, said.into()), 404, "the platform's words"),
        (Answer::With(429, "retry-after: 30\r\n", said.into()), 429, "the platform's words"),
        (Answer::Say(422, said.into()), 502, "Authorization service unavailable"),
        (Answer::Say(500, said.into()), 502, "Authorization service unavailable"),
        (Answer::Say(204, String::new()), 502, "Authorization service unavailable"),
        (
            Answer::With(307, "location: /elsewhere\r\n", said.into()),
            502,
            "Authorization service unavailable",
        ),
        (Answer::HangUp, 502, "Authorization service unavailable"),
        (Answer::Silence(Duration::from_secs(3)), 502, "Authorization service unavailable"),
        (Answer::Say(200, "{".into()), 502, "Authorization service unavailable"),
        (
            Answer::Say(200, r#"{"request_id":"r","attempts":[{"api_key":"sk-hidden"}]}"#.into()),
            502,
            "Authorization service unavailable",
        ),
        (Answer::Say(200, "x".repeat(2 << 20)), 502, "Authorization service unavailable"),
        (offers(&[]), 502, "Authorization service returned no resolvable provider"),
    ];
    for (at, (answer, status, message)) in table.into_iter().enumerate() {
        let script = answer.clone();
        let platform = Platform::start(move |_| script.clone()).await;
        let folder = folder.path().join(at.to_string());
        let began = Instant::now();
        let refused = resolve(&platform.connected(&folder), "m").await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(2), "one deadline holds for all of it");
        assert_eq!((refused.code.status().as_u16(), &*refused.message), (status, message), "{at}");
        assert_eq!(platform.count(), 1, "never asked twice: {at}");
        let retry_after = refused.headers.iter().find(|(name, _)| name == RETRY_AFTER);
        assert_eq!(retry_after.is_some(), status == 429, "{at}");
        let log = format!("{refused} {refused:?}");
        for secret in [GATEWAY_TOKEN, USER_TOKEN, "sk-hidden"] {
            assert!(!log.contains(secret), "{log}");
        }
    }
}

#[tokio::test]
async fn nobody_at_the_address_is_unavailable_too() {
    let folder = tempfile::tempdir().unwrap();
    for (at, base) in ["http://127.0.0.1:1", "http://no-such-host.invalid"].into_iter().enumerate()
    {
        let connected = connected(config(base), &folder.path().join(at.to_string()));
        let refused = resolve(&connected, "m").await.unwrap_err();
        assert_eq!((refused.code, refused.should_retry()), (Code::PlatformUnavailable, None));
        assert!(refused.cause.is_some(), "the log says why");
        assert!(!connected.is_reachable().await);
    }
}

#[tokio::test]
async fn a_trickle_does_not_get_around_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connected = connected(config(&format!("http://{address}")), folder.path());
    let trickle = async {
        use tokio::io::AsyncWriteExt as _;
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n").await;
        while stream.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let began = Instant::now();
    tokio::select! {
        refused = resolve(&connected, "m") => {
            assert_eq!(refused.unwrap_err().code, Code::PlatformUnavailable);
        }
        () = trickle => panic!("the connection was closed without an answer"),
    }
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_policys_name_is_refused_before_the_platform_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let platform = Platform::start(|_| offers(&[offer("openai")])).await;
    let refused = resolve(&platform.connected(folder.path()), "cheap-first").await.unwrap_err();
    assert_eq!(refused.code.status().as_u16(), 400);
    assert_eq!(platform.count(), 0);
}

#[tokio::test]
async fn tools_are_asked_for_with_both_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let platform = Platform::start(|seen| {
        let path = seen.line.split(' ').nth(1).unwrap().to_owned();
        let body = match path.strip_prefix("/api/v1/gateway/").unwrap() {
            "mcp-servers/resolve" => {
                json!({"servers": [{"name": "a", "url": "https://a.example"}]})
            }
            "web-search/resolve" => json!({"enabled": true, "max_results": 3}),
            _ => json!({"enabled": true, "max_iterations": 3}),
        };
        Answer::Say(200, body.to_string())
    })
    .await;
    let connected = platform.connected(folder.path());
    let ids = ["0f0e0d0c-0000-4000-8000-000000000001".to_owned()];
    assert_eq!(connected.mcp_servers(&caller(), &ids).await.unwrap()[0].name, "a");
    let mut tool = serde_json::Map::new();
    connected.web_search(&caller()).await.unwrap().merge_into(&mut tool);
    assert_eq!(tool["max_results"], 3);
    assert_eq!(connected.code_execution(&caller()).await.unwrap().iterations(None), 3);
    let seen = platform.seen();
    assert_eq!(seen[0].body, json!({"mcp_server_ids": ids}));
    assert_eq!((&seen[1].body, &seen[2].body), (&json!({}), &json!({})));
    for seen in seen {
        assert_eq!(seen.header("x-user-token"), Some(USER_TOKEN));
        assert_eq!(seen.header("x-gateway-token"), Some(GATEWAY_TOKEN));
    }
}

#[tokio::test]
async fn tools_have_refusals_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let platform = Platform::start(|_| say(404)).await;
    let connected = platform.connected(folder.path());
    let refused = connected.mcp_servers(&caller(), &[]).await.unwrap_err();
    assert_eq!(refused.message, "MCP server resolution failed");
    let refused = connected.web_search(&caller()).await.unwrap_err();
    assert_eq!(refused.message, "Web search resolution failed");
    let refused = connected.code_execution(&caller()).await.unwrap_err();
    assert_eq!(refused.message, "Code execution resolution failed");
}

#[tokio::test]
async fn the_probe_takes_any_status_below_500_for_life() {
    for (status, is_reachable) in
        [(200, true), (404, true), (301, true), (500, false), (503, false)]
    {
        let folder = tempfile::tempdir().unwrap();
        let platform = Platform::start(move |_| say(status)).await;
        let connected = platform.connected(folder.path());
        assert_eq!(connected.is_reachable().await, is_reachable, "{status}");
        let seen = &platform.seen()[0];
        assert_eq!(seen.line, "GET /api/v1/utils/health-check/ HTTP/1.1");
        assert_eq!((seen.header("x-gateway-token"), seen.header("x-user-token")), (None, None));
    }
}

#[tokio::test]
async fn only_a_bearer_token_counts_as_a_credential() {
    let folder = tempfile::tempdir().unwrap();
    let connected = connected(config("http://127.0.0.1:1"), folder.path());
    let mut headers = http::HeaderMap::new();
    headers.insert("x-api-key", "gw-key".parse().unwrap());
    let refused = connected.authenticate(&headers).await.unwrap_err();
    assert_eq!(
        (refused.code.status().as_u16(), &*refused.message),
        (401, "Missing authentication token")
    );
    headers.insert(AUTHORIZATION, format!("Bearer {USER_TOKEN} ").parse().unwrap());
    let found = connected.authenticate(&headers).await.unwrap();
    assert_eq!(found, caller());
    assert!(!format!("{found:?}").contains(USER_TOKEN));
}

#[tokio::test]
async fn the_log_holds_no_credential() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let platform = Platform::start(|seen| match seen.body["model"].as_str() {
        None => say(500),
        Some("bad") => {
            let mut bad = offer("openai");
            bad["api_base"] = json!("https://user:sk-hidden@h/v1");
            bad["api_key"] = json!("sk-hidden\n");
            offers(&[bad])
        }
        Some("odd") => Answer::Say(
            200,
            r#"{"request_id":"r","attempts":[{"api_key":"sk-hidden","position":"sk-hidden"}]}"#
                .into(),
        ),
        Some(_) => Answer::HangUp,
    })
    .await;
    let connected = platform.connected(folder.path());
    drop(connected.reporter.report(report("att-1"), 1));
    tokio::select! {
        () = connected.run() => {}
        () = async {
            for model in ["bad", "odd", "gone"] {
                let answer = resolve(&connected, model).await;
                tracing::warn!("{answer:?}");
                if let Err(refused) = answer {
                    tracing::warn!("{refused}");
                }
            }
            connected.is_reachable().await;
            within(Duration::from_secs(5), || folder.path().join("rejected.jsonl").exists()).await;
        } => {}
    }
    tracing::warn!("{:?} {:?}", connected.client, connected.config);
    let text = log.text();
    assert!(
        text.contains("cannot be called") && text.contains("put into rejected.jsonl"),
        "{text}"
    );
    for secret in [GATEWAY_TOKEN, USER_TOKEN, "sk-hidden"] {
        assert!(!text.contains(secret), "{text}");
    }
}
