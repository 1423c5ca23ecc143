//! Connected mode: what a workspace says of searches and of running code, and whose token goes where.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use otari::mock::platform::{Rule, Then};
use serde_json::{Value, json};

use super::connected::{ID, Workspace, way};
use super::ways;
use crate::support::eventually;
use crate::support::mcp::entry;
use crate::support::model::{calls, model, results, says};
use crate::support::platform::{GATEWAY_TOKEN, Platform, USER_TOKEN};
use crate::support::provider::{Provider, Reply, Request};

/// A service that answers as SearXNG does, with nothing but what it is asked.
fn searxng() -> Provider {
    Provider::start(|_| found())
}

fn found() -> Reply {
    Reply::json(
        200,
        &json!({"results": [
        {"url": "https://a.example/1", "title": "A", "content": "a", "extracted_content": "a"},
        {"url": "https://b.example/2", "title": "B", "content": "b", "extracted_content": "b"},
        {"url": "https://www.a.example/3", "title": "C", "content": "c", "extracted_content": "c"}]}),
    )
}

fn searching() -> Provider {
    model(|asked| match asked.round {
        0 => calls([("web_search", json!({"query": "cats"}))]),
        _ => says("ok"),
    })
}

fn search(fields: Value) -> Value {
    let mut entry = json!({"type": "otari_web_search"});
    for (name, value) in fields.as_object().expect("fields") {
        entry[name] = value.clone();
    }
    json!({"tools": [entry]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workspace_says_whether_and_how_the_web_is_searched() {
    let (model, service) = (searching(), searxng());
    let at = format!("http://{}", service.addr());
    let mut workspace =
        Workspace::with(&model, |_, start| start.config(&format!("web_search_url: {at}"))).await;
    let off = "web search is not enabled for this workspace";
    for policy in [json!({"enabled": false}), json!({}), json!({"enabled": 0}), json!([])] {
        workspace
            .platform
            .edit(|script| script.web_search = vec![Rule::always(Then::json(200, policy))]);
        for way in ways().filter(|way| way.model == "o:m") {
            let seen = workspace.call(way, search(json!({}))).await;
            assert_eq!((seen.status, seen.error.as_deref()), (403, Some(off)), "{}", seen.raw);
        }
    }
    assert_eq!((model.count(), service.count()), (0, 0));
    let policy = json!({"enabled": true, "provider": "x", "max_results": 1, "purpose_hint": "theirs",
        "allowed_domains": ["a.example"], "blocked_domains": [], "provider_options": {"language": "en", "safesearch": 1}});
    workspace
        .platform
        .edit(|script| script.web_search = vec![Rule::always(Then::json(200, policy))]);
    for (fields, urls, query, hint) in [
        (json!({}), vec!["https://a.example/1"], "&language=en&safesearch=1", "theirs"),
        (
            json!({"allowed_domains": [], "max_results": 5, "purpose_hint": "mine", "provider_options": {"language": "de"}}),
            vec!["https://a.example/1", "https://www.a.example/3"],
            "&language=de&safesearch=1",
            "mine",
        ),
        (
            json!({"allowed_domains": ["b.example"], "max_results": 0}),
            vec!["https://b.example/2"],
            "&safesearch=1",
            "theirs",
        ),
    ] {
        for way in ways().filter(|way| way.model == "a:m") {
            workspace.call(way, search(fields.clone())).await.good();
            let last = model.requests().pop().expect("a round");
            let (_, text) = results(&last).remove(0);
            let found: Vec<&str> =
                text.lines().filter(|line| line.starts_with("https://")).collect();
            assert_eq!(found, urls, "{fields}");
            assert!(last.text().contains(&format!("- web_search: {hint}")), "{}", last.text());
            let asked = service.requests().pop().expect("a search");
            assert!(asked.path.contains(query), "{}", asked.path);
            assert_eq!(asked.header("x-gateway-token"), None, "the service is not the platform's");
            workspace.reports(1).await;
        }
    }
    let mut paths: Vec<(String, Value)> = workspace.asked();
    paths.dedup();
    assert_eq!(paths, [("/gateway/web-search/resolve".into(), json!({}))]);
    workspace.finish().await;
}

/// A platform with services of its own beside its API, below the same base URL: these answer here, all else does at the
/// mock.
fn with_services(platform: &Platform) -> Provider {
    let address = platform.base().replace("http://", "").replace("/api/v1", "");
    Provider::start(move |request| {
        let path = request.path.as_str();
        match path.strip_prefix("/api/v1/services") {
            Some("/sessions") => Reply::json(201, &json!({"session_id": "s-1"})),
            Some(rest) if rest.starts_with("/sessions/") => ran(request),
            Some(_) => found(),
            None => forwarded(&address, request),
        }
    })
}

/// What another server answers.
fn forwarded(to: &str, request: &Request) -> Reply {
    let mut there = TcpStream::connect(to).expect("the platform is there");
    let mut head = format!("{} {} HTTP/1.1\r\nconnection: close\r\n", request.method, request.path);
    for (name, value) in &request.headers {
        if !name.eq_ignore_ascii_case("connection") {
            head += &format!("{name}: {value}\r\n");
        }
    }
    there.write_all((head + "\r\n").as_bytes()).expect("it reads");
    there.write_all(&request.body).expect("it reads");
    let mut answer = String::new();
    there.read_to_string(&mut answer).expect("it answers in UTF-8, and closes");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Reply::bytes(status.expect("a status"), "application/json", body)
}

/// A workspace whose platform has services of its own; `config` gets their address.
async fn with_own_services(
    model: &Provider,
    config: impl Fn(&str) -> String,
) -> (Workspace, Provider) {
    let mut services = None;
    let mut workspace = Workspace::with(model, |platform, start| {
        let front = services.insert(with_services(platform));
        let base = format!("http://{}/api/v1", front.addr());
        start.env("PLATFORM_BASE_URL", &base).config(&config(&format!("{base}/services")))
    })
    .await;
    workspace.platform.edit(|script| {
        let enabled = || vec![Rule::always(Then::json(200, json!({"enabled": true})))];
        (script.web_search, script.code_execution) = (enabled(), enabled());
    });
    (workspace, services.expect("it was made"))
}

/// What was asked of the platform's own services.
fn asked_of_services(front: &Provider) -> Vec<Request> {
    let mut asked = front.requests();
    asked.retain(|request| request.path.starts_with("/api/v1/services"));
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateways_token_goes_to_the_platforms_own_search() {
    let model = searching();
    let (mut workspace, front) = with_own_services(&model, |services| {
        format!("web_search_url: {services}\nweb_search_extract: false")
    })
    .await;
    for (at, way) in (1..).zip(ways()) {
        workspace.call(way, search(json!({}))).await.good();
        let (_, text) = results(&model.requests().pop().expect("a round")).remove(0);
        assert!(text.contains("https://a.example/1"), "{way:?}: {text}");
        let asked = asked_of_services(&front);
        assert_eq!(asked.len(), at);
        let asked = &asked[at - 1];
        assert!(asked.path.starts_with("/api/v1/services/search?q=cats"), "{}", asked.path);
        assert_eq!(asked.header("x-gateway-token"), Some(GATEWAY_TOKEN));
        for (name, value) in &asked.headers {
            assert!(!value.contains(USER_TOKEN), "the caller's own goes nowhere: {name}");
        }
        workspace.reports(1).await;
    }
    let sent: String = model.requests().iter().map(Request::text).collect();
    assert!(!sent.contains(GATEWAY_TOKEN));
    workspace.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateways_token_goes_to_nobody_elses_search() {
    let (model, service) = (searching(), searxng());
    // Below a base URL that only looks like the platform's.
    for path in ["/api/v10", "", "/api/v1"] {
        let url = format!("http://{}{path}", service.addr());
        let config = format!("web_search_url: {url}\nweb_search_extract: false");
        let mut workspace = Workspace::with(&model, |_, start| start.config(&config)).await;
        workspace.platform.edit(|script| {
            script.web_search = vec![Rule::always(Then::json(200, json!({"enabled": true})))];
        });
        workspace.call(way(), search(json!({}))).await.good();
        workspace.reports(1).await;
        let asked = service.requests().pop().expect("a search");
        assert_eq!(asked.header("x-gateway-token"), None, "{path}");
        workspace.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_callers_token_goes_to_the_platforms_own_sandbox() {
    let model = model(|asked| match asked.round {
        0 => calls([("code_execution", json!({"code": "print(1 + 1)"}))]),
        _ => says("ok"),
    });
    let (mut workspace, front) =
        with_own_services(&model, |services| format!("sandbox_url: {services}")).await;
    let code = json!({"tools": [{"type": "otari_code_execution"}]});
    for (at, way) in (1..).zip(ways()) {
        workspace.call(way, code.clone()).await.good();
        let (_, text) = results(&model.requests().pop().expect("a round")).remove(0);
        assert_eq!(text, "stdout:\n2", "{way:?}");
        let asked = eventually("the end of the sandbox's session", async || {
            let asked = asked_of_services(&front);
            (asked.len() >= 3 * at).then_some(asked)
        })
        .await;
        let steps: Vec<(&str, &str)> = (asked[3 * at - 3..].iter())
            .map(|request| (request.method.as_str(), request.path.as_str()))
            .collect();
        let session = [
            ("POST", "/api/v1/services/sessions"),
            ("POST", "/api/v1/services/sessions/s-1/exec"),
            ("DELETE", "/api/v1/services/sessions/s-1"),
        ];
        assert_eq!(steps, session, "{way:?}");
        workspace.reports(1).await;
    }
    let bearer = format!("Bearer {USER_TOKEN}");
    for request in asked_of_services(&front) {
        assert_eq!(request.header("authorization"), Some(bearer.as_str()), "{}", request.path);
        assert_eq!(request.header("x-gateway-token"), None, "{}", request.path);
    }
    let sent: String = model.requests().iter().map(Request::text).collect();
    assert!(!sent.contains(USER_TOKEN));
    workspace.finish().await;
}

fn sandbox() -> Provider {
    Provider::start(|request| match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/sessions") => Reply::json(201, &json!({"session_id": "s-1"})),
        _ => ran(request),
    })
}

/// What a session of a sandbox answers.
fn ran(request: &Request) -> Reply {
    if request.method == "DELETE" {
        return Reply::bytes(204, "text/plain", "");
    }
    let content = json!({"stdout": "2", "stderr": "", "return_code": 0, "content": []});
    Reply::json(200, &json!({"result_block": {"content": content}}))
}

fn tireless() -> Provider {
    model(|_| calls([("code_execution", json!({"code": "print(1 + 1)"}))]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workspace_says_whether_and_how_long_code_is_run() {
    let (model, service) = (tireless(), sandbox());
    let at = format!("http://{}", service.addr());
    let mut workspace =
        Workspace::with(&model, |_, start| start.config(&format!("sandbox_url: {at}"))).await;
    let malformed = "Authorization service returned a malformed code-execution policy";
    for (policy, status, said) in [
        (json!({"enabled": false}), 403, "code execution is not enabled for this workspace"),
        (json!({}), 502, malformed),
        (json!({"enabled": "true"}), 502, malformed),
        (json!({"enabled": 1}), 502, malformed),
    ] {
        workspace
            .platform
            .edit(|script| script.code_execution = vec![Rule::always(Then::json(200, policy))]);
        for way in ways().filter(|way| way.model == "o:m") {
            let seen =
                workspace.call(way, json!({"tools": [{"type": "otari_code_execution"}]})).await;
            assert_eq!((seen.status, seen.error.as_deref()), (status, Some(said)), "{}", seen.raw);
        }
    }
    assert_eq!((model.count(), service.count()), (0, 0));
    for (most, asked, rounds) in [
        (json!(3), json!(null), 3),
        (json!(3), json!(2), 2),
        (json!(100), json!(null), 10),
        (json!(true), json!(4), 4),
    ] {
        let policy = json!({"enabled": true, "default_purpose_hint": "theirs", "max_iterations": most, "tools": ["x"], "exec_timeout_s": 1});
        workspace
            .platform
            .edit(|script| script.code_execution = vec![Rule::always(Then::json(200, policy))]);
        for way in ways().filter(|way| way.model == "o:m") {
            let before = model.count();
            let fields =
                json!({"tools": [{"type": "otari_code_execution"}], "max_tool_iterations": asked});
            let seen = workspace.call(way, fields).await;
            assert_eq!(
                seen.error,
                Some(format!("Exceeded max_tool_iterations={rounds}")),
                "{way:?}: {}",
                seen.raw
            );
            assert_eq!(model.count() - before, rounds);
            assert!(model.requests()[before].text().contains("- code_execution: theirs"));
            let report = workspace.reports(1).await.remove(0);
            assert_eq!(
                (report.text("status").as_deref(), report.is_final()),
                (Some("error"), true)
            );
            assert_eq!(report.error_class(), None, "{report:?}");
        }
    }
    let asked = service.requests();
    assert!(
        asked.iter().all(|request| request.header("authorization").is_none()),
        "somebody else's sandbox"
    );
    assert!(!asked.iter().any(|request| request.text().contains(USER_TOKEN)));
    workspace.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_configured_is_refused_before_the_workspace_is_asked() {
    let model = model(|_| says("never"));
    let workspace = Workspace::new(&model).await;
    for (fields, said) in [
        (
            json!({"tools": [{"type": "otari_web_search"}]}),
            "otari_web_search tool requested but no search backend",
        ),
        (
            json!({"tools": [{"type": "otari_code_execution"}]}),
            "otari_code_execution tool requested but no sandbox",
        ),
    ] {
        for way in ways() {
            let seen = workspace.call(way, fields.clone()).await;
            assert!(
                seen.status == 400 && seen.error.unwrap_or_default().starts_with(said),
                "{}",
                seen.raw
            );
        }
    }
    assert_eq!(workspace.asked(), [], "no policy was asked for");
    workspace.finish().await;
    let (search, code) = (searxng(), sandbox());
    let config =
        format!("web_search_url: http://{}\nsandbox_url: http://{}", search.addr(), code.addr());
    let workspace = Workspace::with(&model, |_, start| start.config(&config)).await;
    for fields in [
        json!({"tools": [{"type": "otari_web_search"}, {"type": "otari_code_execution"}]}),
        json!({"tools": [{"type": "otari_web_search"}], "mcp_servers": [entry("s", "http://127.0.0.1:1/")]}),
        json!({"tools": [{"type": "otari_code_execution"}], "mcp_servers": [entry("s", "http://127.0.0.1:1/")]}),
    ] {
        let seen = workspace.call(way(), fields).await;
        assert_eq!(seen.status, 400, "{}", seen.raw);
    }
    assert_eq!(workspace.asked(), []);
    workspace.finish().await;
}

/// Checks come before a workspace is asked for anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guardrails_come_before_tools() {
    let model = searching();
    let workspace = Workspace::with(&model, |_, start| {
        start.config("web_search_url: http://127.0.0.1:1\nguardrails_url: http://127.0.0.1:1")
    })
    .await;
    let block =
        json!([{"profile": "otari_length", "mode": "block", "validate_kwargs": {"max_chars": 1}}]);
    for way in ways() {
        let fields = json!({"guardrails": block, "mcp_server_ids": [ID]});
        let seen = workspace.call(way, fields).await;
        assert_eq!(
            (seen.status, seen.error.as_deref()),
            (403, Some("Request blocked by guardrail policy.")),
            "{}",
            seen.raw
        );
        let mut fields = search(json!({}));
        fields["guardrails"] = block.clone();
        assert_eq!(workspace.call(way, fields).await.status, 403);
    }
    assert_eq!(workspace.asked(), [], "no server was resolved, no policy asked for");
    assert_eq!(workspace.platform.resolves().len(), 24, "who may call was asked before");
    let sent: String = model.requests().iter().map(Request::text).collect();
    assert_eq!(sent, "");
    workspace.finish().await;
}
