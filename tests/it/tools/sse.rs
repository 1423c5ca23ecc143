//! MCP servers of the protocol's first version: a stream of events, and messages posted to where its first event says.

use serde_json::{Value, json};

use super::{Scene, is_billed, servers, ways};
use crate::support::mcp::{Real, TOKEN, entry};
use crate::support::model::{calls, model, offered, results, says, sum};
use crate::support::provider::{Provider, Reply, Step};
use crate::support::tls::{Authority, front};

/// What the model was told of its calls in the newest loop.
fn told(model: &Provider) -> Vec<String> {
    let last = model.requests().pop().expect("a round");
    results(&last).into_iter().map(|(_, text)| text).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_knows_nothing_newer_is_spoken_to_over_its_stream() {
    let model = model(|asked| match asked.round {
        0 => calls([("add", json!({"a": 1, "b": 2})), ("picture", json!({}))]),
        1 => calls([("fails", json!({}))]),
        _ => says("ok"),
    });
    let scene = Scene::new(&model).await;
    for (rows, way) in (1..).zip(ways()) {
        let server = Real::new("legacy", way.tag("old"));
        let seen = scene.call(way, servers(&server)).await.good();
        assert!(seen.text.ends_with("ok"), "{way:?}: {}", seen.raw);
        let last = model.requests().pop().expect("a round");
        assert!(offered(&last).contains(&"add".to_owned()), "{way:?}: {}", last.text());
        let said = [
            "the sum is 3",
            "look\n[image type=image/png bytes_b64=8]",
            "[tool error] Error executing tool fails: out of paper",
        ];
        assert_eq!(told(&model), said, "{way:?}");
        server.ended(1).await;
        let asked = server.asked();
        let steps: Vec<(&str, &str)> = (asked.iter().take(5))
            .map(|line| (line["method"].as_str().unwrap_or(""), line["rpc"].as_str().unwrap_or("")))
            .collect();
        let greeting = [
            ("POST", "initialize"),
            ("GET", ""),
            ("POST", "initialize"),
            ("POST", "notifications/initialized"),
            ("POST", "tools/list"),
        ];
        assert_eq!(steps, greeting, "the newer transport first: {way:?}");
        assert_eq!(server.called().len(), 3, "{way:?}: {asked:?}");
        let sessions: Vec<&Value> =
            asked.iter().map(|line| &line["session"]).filter(|id| id.is_string()).collect();
        assert!(sessions.len() == 6 && sessions.iter().all(|id| *id == sessions[0]), "{asked:?}");
        is_billed(&scene.row(rows).await, sum(3), "success");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_token_goes_along_with_all_that_is_said() {
    let model = model(|asked| match asked.round {
        0 => calls([("add", json!({"a": 1, "b": 2}))]),
        _ => says("ok"),
    });
    let authority = Authority::new();
    let roots = authority.file();
    let path = roots.path().display().to_string();
    let scene = Scene::with(&model, |start| start.env("SSL_CERT_FILE", &path)).await;
    let server = Real::new("locked-legacy", "bearer");
    let inner = server.address().parse().expect("an address");
    let url = front(authority.server("localhost"), inner).await + &server.path();
    let entry = |token: &str| json!({"mcp_servers": [{"name": "s", "url": url, "authorization_token": token}]});
    let way = ways().next().expect("some way");
    scene.call(way, entry(TOKEN)).await.good();
    assert_eq!(told(&model), ["the sum is 3"]);
    server.ended(1).await;
    let bearer = format!("Bearer {TOKEN}");
    let asked = server.asked();
    assert!(asked.iter().all(|line| line["authorization"] == bearer), "{asked:?}");
    let refused = scene.call(way, entry("wrong-token-0123")).await;
    assert!(refused.raw.contains("answered with status 40"), "{}", refused.raw);
    for text in [scene.gateway.log(), refused.raw] {
        assert!(!text.contains(TOKEN) && !text.contains("wrong-token-0123"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_megabytes_end_its_session() {
    let model = model(|asked| match asked.round {
        0 => calls([("long", json!({"chars": 10 << 20}))]),
        1 => calls([("echo", json!({"text": "still there?"}))]),
        _ => says("ok"),
    });
    let scene = Scene::new(&model).await;
    let server = Real::new("legacy", "huge");
    let way = ways().next().expect("some");
    scene.call(way, servers(&server)).await.good();
    let said = [
        "[tool error] long failed: it could not be reached",
        "[tool error] echo failed: it could not be reached",
    ];
    assert_eq!(told(&model), said);
    server.ended(1).await;
    assert!(scene.gateway.peak_memory() < 250 << 20, "{}", scene.gateway.peak_memory());
}

/// A server that does not know POST at its address; its stream says this.
fn streaming(steps: Vec<Step>) -> Provider {
    Provider::start(move |request| match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/v1/mcp") => Reply::events(steps.clone()),
        ("POST", "/v1/messages") => {
            Reply::bytes(307, "text/plain", "").header("Location", "http://169.254.169.254/")
        }
        _ => Reply::bytes(405, "text/plain", ""),
    })
}

fn event(name: &str, data: &str) -> Step {
    Step::Send(format!("event: {name}\ndata: {data}\n\n").into())
}

/// Each way in which its stream may lie, and what the caller is told; nobody else is spoken to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_sends_messages_elsewhere_is_refused() {
    let model = model(|_| says("never"));
    let scene = Scene::new(&model).await;
    let inner = Provider::answers(200, json!({}));
    let elsewhere = "wants its messages sent to an address other than its own";
    let lying = |at: &str| (elsewhere, streaming(vec![event("endpoint", at), Step::Silence]));
    let no_mcp = "does not speak MCP over HTTP";
    let moved = Provider::start({
        let to = format!("{}/mcp", inner.base());
        move |request| match request.method.as_str() {
            "GET" => Reply::bytes(307, "text/plain", "").header("Location", &to),
            _ => Reply::bytes(405, "text/plain", ""),
        }
    });
    let page = Provider::start(|request| match request.method.as_str() {
        "GET" => Reply::bytes(200, "text/html", "<p>at 10.0.0.7"),
        _ => Reply::bytes(404, "text/html", "<p>at 10.0.0.7"),
    });
    let endless: Vec<Step> =
        (0..10).map(|_| Step::Send(format!("data: {}", "y".repeat(1 << 20)).into())).collect();
    let cases = [
        lying("http://169.254.169.254/latest"),
        lying("//10.0.0.7/v1/messages"),
        lying(&format!("{}/messages", inner.base())),
        lying(&inner.base().replace("127.0.0.1", "localhost")),
        (no_mcp, streaming(vec![event("message", "{}"), Step::Silence])),
        (no_mcp, streaming(vec![event("endpoint", "http://[::bad"), Step::Silence])),
        (no_mcp, streaming(vec![])),
        (no_mcp, streaming(endless)),
        // Its messages are taken, and redirected.
        ("answered with status 307", streaming(vec![event("endpoint", "messages"), Step::Silence])),
        ("answered with status 405", moved),
        ("answered with status 404", page),
    ];
    for (at, (said, server)) in cases.into_iter().enumerate() {
        let url = format!("{}/mcp", server.base());
        for way in ways().filter(|way| way.model == "o:m").take(2) {
            let seen = scene.call(way, json!({"mcp_servers": [entry("mine", &url)]})).await;
            assert_eq!(seen.status, 502, "{at} {way:?}: {}", seen.raw);
            let why = seen.error.unwrap_or_default();
            assert!(why.starts_with("MCP server 'mine' ") && why.contains(said), "{at}: {why}");
            for inside in ["10.0.0.7", "127.0.0.1", "169.254", "/v1/mcp"] {
                assert!(!seen.raw.contains(inside), "{inside} in {}", seen.raw);
            }
        }
        if said == elsewhere {
            server.aborted(2).await;
        }
    }
    assert_eq!((model.count(), inner.count()), (0, 0), "nobody else is spoken to");
    assert!(scene.gateway.peak_memory() < 250 << 20, "{}", scene.gateway.peak_memory());
    assert!(scene.gateway.settled("u").await.abs() < 1e-12);
}
