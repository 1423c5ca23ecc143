//! MCP servers, the official SDK's own and such as do not keep to the rules.

use std::time::Instant;

use serde_json::{Value, json};

use super::{Scene, is_billed, servers, ways};
use crate::support::mcp::{
    Real, TOKEN, entry, event_of, methods, result_of, scripted, text_result,
};
use crate::support::model::{Turn, calls, model, offered, results, says, sum};
use crate::support::provider::{Provider, Reply, Request, Step};
use crate::support::tls::{Authority, front};

/// A model that calls these in its first round, and is content with whatever comes of it.
fn calling<const N: usize>(list: [(&'static str, Value); N]) -> Provider {
    model(move |asked| match asked.round {
        0 => calls(list.clone()),
        _ => says("ok"),
    })
}

/// What the model was told of its calls in the newest loop.
fn told(model: &Provider) -> Vec<String> {
    let last = model.requests().pop().expect("a round");
    results(&last).into_iter().map(|(_, text)| text).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_are_told_as_text_whichever_way_a_server_answers() {
    let provider = calling([
        ("picture", json!({})),
        ("fails", json!({})),
        ("long", json!({"chars": 3})),
        ("add", json!({"a": "two", "b": 3})),
    ]);
    let scene = Scene::new(&provider).await;
    for kind in ["sse", "json", "stateless", "legacy"] {
        for way in ways().filter(|way| way.model == "o:m") {
            let server = Real::new(kind, way.tag("kinds"));
            scene.call(way, servers(&server)).await.good();
            let came = told(&provider);
            assert_eq!(came[0], "look\n[image type=image/png bytes_b64=8]", "{kind}");
            assert_eq!(came[1], "[tool error] Error executing tool fails: out of paper", "{kind}");
            assert_eq!(came[2], "xxx", "{kind}");
            assert!(came[3].starts_with("[tool error] "), "{kind}: {}", came[3]);
            if kind != "stateless" {
                server.ended(1).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_begun_once_and_ended() {
    let provider = model(|asked| match asked.round {
        0..3 => calls([("count", json!({})), ("echo", json!({"text": "x"}))]),
        _ => says("ok"),
    });
    let scene = Scene::new(&provider).await;
    let server = Real::new("sse", "session");
    for (at, way) in (1..).zip(ways().take(2)) {
        scene.call(way, servers(&server)).await.good();
        server.ended(at).await;
        let asked = server.asked();
        let ids: Vec<&Value> = asked
            .iter()
            .filter(|line| line["session"].is_string())
            .map(|line| &line["session"])
            .collect();
        let mut ours: Vec<&Value> = ids.clone();
        ours.dedup();
        assert_eq!(ours.len(), at, "a session for each request: {ids:?}");
    }
    assert_eq!((server.count("initialize"), server.count("notifications/initialized")), (2, 2));
    assert_eq!(server.called().len(), 12);
    let hello = server.asked().into_iter().find(|line| line["rpc"] == "initialize").expect("one");
    assert_eq!(hello["params"]["protocolVersion"], "2025-11-25");
    assert_eq!(hello["params"]["clientInfo"]["name"], "otari");
    assert_eq!(hello["authorization"], Value::Null, "no credential of anybody's goes there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_tools_with_one_name_the_second_has_its_servers_in_front() {
    let provider = calling([
        ("add", json!({"a": 1, "b": 2})),
        ("my_server__add", json!({"a": 1, "b": 2})),
        ("sub", json!({"a": 1, "b": 2})),
    ]);
    let scene = Scene::new(&provider).await;
    for way in ways().filter(|way| way.model == "a:m") {
        let (one, two) = (Real::new("json", way.tag("two")), Real::new("other", way.tag("two")));
        let first =
            json!({"name": "one", "url": one.url(), "allowed_tools": ["add", "echo", "none such"]});
        let list = json!([first, entry("my server", &two.url())]);
        scene.call(way, json!({"mcp_servers": list})).await.good();
        let last = provider.requests().pop().expect("a round");
        assert_eq!(offered(&last), ["add", "echo", "my_server__add", "sub"]);
        assert_eq!(told(&provider), ["the sum is 3", "the other sum is 3", "the difference is -1"]);
        one.ended(1).await;
        two.ended(1).await;
        // At the same time, in whichever order they arrive.
        let mut called = two.called();
        called.sort();
        assert_eq!((one.called(), called), (vec!["add".into()], vec!["add".into(), "sub".into()]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_that_is_not_allowed_is_neither_offered_nor_run() {
    let provider = calling([("add", json!({"a": 1, "b": 2})), ("count", json!({}))]);
    let scene = Scene::new(&provider).await;
    for way in ways() {
        let server = Real::new("sse", way.tag("allowed"));
        let one = json!({"name": "s", "url": server.url(), "allowed_tools": ["add"]});
        let seen = scene.call(way, json!({"mcp_servers": [one]})).await.good();
        assert_eq!(offered(&provider.requests().pop().expect("a round")), ["add"]);
        // A name that is not the gateway's is the caller's, whoever it was meant for.
        assert_eq!(seen.calls, [("count".into(), json!({}))], "{way:?}: {}", seen.raw);
        server.ended(1).await;
        assert_eq!(server.called(), ["add"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_goes_to_its_server_over_tls_and_nowhere_else() {
    let provider = calling([("add", json!({"a": 1, "b": 2}))]);
    let (ours, theirs) = (Authority::new(), Authority::new());
    let roots = ours.file();
    let path = roots.path().display().to_string();
    let scene = Scene::with(&provider, |start| start.env("SSL_CERT_FILE", &path)).await;
    let way = ways().next().expect("some way");
    let server = Real::new("locked", "bearer");
    let inner = server.address().parse().expect("an address");
    let good = front(ours.server("localhost"), inner).await + &server.path();
    let with = |url: &str, token: &str| json!({"mcp_servers": [{"name": "s", "url": url, "authorization_token": token}]});
    scene.call(way, with(&good, TOKEN)).await.good();
    assert_eq!(told(&provider), ["the sum is 3"]);
    server.ended(1).await;
    let bearer = format!("Bearer {TOKEN}");
    assert!(
        server.asked().iter().all(|line| line["authorization"] == bearer),
        "each request has it"
    );
    let asked = server.asked().len();

    // A wrong token, certificates of others, for other names, and no TLS at all.
    let unknown = front(theirs.server("localhost"), inner).await + &server.path();
    let other = front(ours.server("elsewhere.test"), inner).await + &server.path();
    let said = "MCP server 's' answered with status 401. Check its `url` and `authorization_token`, or remove it from \
                `mcp_servers`.";
    let seen = scene.call(way, with(&good, "wrong-token-0123")).await;
    assert_eq!((seen.status, seen.error.as_deref()), (502, Some(said)));
    let wrongly = server.asked().len();
    for url in [unknown, other] {
        let seen = scene.call(way, with(&url, TOKEN)).await;
        let said = seen.error.clone().unwrap_or_default();
        assert!(
            seen.status == 502 && said.starts_with("MCP server 's' could not be reached."),
            "{}",
            seen.raw
        );
    }
    let plain = scene.call(way, with(&server.url(), TOKEN)).await;
    let said = "MCP server URL must use https when an authorization_token is set";
    assert_eq!((plain.status, plain.error.as_deref()), (400, Some(said)));
    assert_eq!(server.asked().len(), wrongly, "nothing was said to whom nobody trusts");
    assert!(wrongly > asked);
    for text in [scene.gateway.log(), plain.raw] {
        assert!(!text.contains(TOKEN) && !text.contains("wrong-token-0123"), "{text}");
    }
    let sent: String = provider.requests().iter().map(Request::text).collect();
    assert!(!sent.contains(TOKEN), "{sent}");
}

/// Each way in which a server may be of no use, and what the caller is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_be_used_ends_the_request_before_the_model_is_asked() {
    let provider = calling([]);
    let scene = Scene::new(&provider).await;
    let to = |location: &str| {
        let location = location.to_owned();
        scripted(move |_, _| {
            Some(Reply::bytes(307, "text/plain", "").header("Location", &location))
        })
    };
    let inner = scripted(|_, _| None);
    let list_of = |result: Value| {
        scripted(move |rpc, request| {
            (rpc == "tools/list").then(|| result_of(request, result.clone()))
        })
    };
    let many: Vec<Value> = (0..600)
        .map(|at| json!({"name": format!("t{at}"), "inputSchema": {"type": "object"}}))
        .collect();
    let large =
        json!({"name": "t", "description": "x".repeat(2 << 20), "inputSchema": {"type": "object"}});
    let cases = [
        (
            "answered with status 500",
            scripted(|_, _| Some(Reply::json(500, &json!({"secret": "at 10.0.0.7"})))),
        ),
        ("answered with status 403", scripted(|_, _| Some(Reply::bytes(403, "text/plain", "")))),
        (
            "does not speak MCP over HTTP",
            scripted(|_, _| Some(Reply::bytes(200, "text/html", "<p>hi"))),
        ),
        (
            "does not speak MCP over HTTP",
            scripted(|_, _| Some(Reply::bytes(200, "application/json", "{\"jso"))),
        ),
        ("", to("http://169.254.169.254/latest/meta-data/")),
        ("", to(&format!("{}/mcp", inner.base()))),
        ("could not be reached", scripted(|_, _| Some(Reply::reset()))),
        ("", list_of(json!({"tools": "none"}))),
        ("lists more tools than a request can offer", list_of(json!({"tools": many}))),
        ("lists more tools than a request can offer", list_of(json!({"tools": [large]}))),
    ];
    for (at, (said, server)) in cases.into_iter().enumerate() {
        let url = format!("{}/mcp", server.base());
        for way in ways().filter(|way| way.model == "o:m") {
            let seen = scene.call(way, json!({"mcp_servers": [entry("mine", &url)]})).await;
            assert_eq!(seen.status, 502, "{at} {way:?}: {}", seen.raw);
            let why = seen.error.unwrap_or_default();
            assert!(
                why.starts_with("MCP server 'mine' ") && why.contains(said),
                "{at} {way:?}: {why}"
            );
            for inside in ["10.0.0.7", "127.0.0.1", "169.254", "/v1/mcp"] {
                assert!(!seen.raw.contains(inside), "{inside} in {}", seen.raw);
            }
        }
    }
    let refused = scene.call(
        ways().next().expect("some"),
        json!({"mcp_servers": [entry("mine", "http://127.0.0.1:1/mcp")]}),
    );
    assert!(refused.await.error.unwrap_or_default().contains("could not be reached"));
    assert_eq!((provider.count(), inner.count()), (0, 0), "redirects lead nowhere");
    assert!((scene.gateway.settled("u").await).abs() < 1e-12, "and nothing is held or charged");
}

/// A server that answers `tools/call` of `one` by this script, and of `two` as it should.
fn lying(lie: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Provider {
    scripted(move |rpc, request| {
        let is_lie = rpc == "tools/call" && request.json()["params"]["name"] == "one";
        is_lie.then(|| lie(request))
    })
}

/// Ways in which a call may fail or succeed oddly, each with the beginning of what the model is told.
fn lies() -> Vec<(&'static str, Provider)> {
    let error = |request: &Request, message: &str| {
        Reply::json(
            200,
            &json!({"jsonrpc": "2.0", "id": request.json()["id"], "error": {"code": -32602, "message": message}}),
        )
    };
    let unreadable = "[tool error] one failed: its answer could not be read";
    let ten = "y".repeat(10 << 20);
    let more = ten.clone();
    vec![
        (
            "[tool error] one failed: it answered with status 500",
            lying(|_| Reply::bytes(500, "text/plain", "at 10.0.0.7")),
        ),
        (
            "[tool error] one failed: bad argument",
            lying(move |request| error(request, "bad argument")),
        ),
        (
            "[tool error] one failed: ",
            lying(move |request| error(request, "cannot connect to http://10.0.0.7:8080/db")),
        ),
        (unreadable, lying(|_| Reply::bytes(200, "application/json", "{\"jsonrpc\":"))),
        ("[tool error] one failed: ", lying(|_| Reply::bytes(200, "text/html", "<p>"))),
        ("[tool error] one failed: ", lying(|_| Reply::reset())),
        (
            "[tool error] one failed: ",
            lying(|_| {
                Reply::bytes(307, "text/plain", "").header("Location", "http://169.254.169.254/")
            }),
        ),
        ("[tool error] one failed: ", lying(|request| result_of(request, json!("no result")))),
        (
            "[tool error] one failed: its answer is too large",
            lying(move |request| result_of(request, text_result(&ten))),
        ),
        ("[tool error] one failed: ", lying(move |request| event_of(request, text_result(&more)))),
        // Closed before the answer came.
        (
            "[tool error] one failed: ",
            lying(|_| Reply::events([Step::Send(b": hello\n\n".to_vec())])),
        ),
        (
            "[tool error] odd",
            lying(|request| {
                result_of(
                    request,
                    json!({"content": [{"type": "text", "text": "odd"}], "isError": true}),
                )
            }),
        ),
        ("", lying(|request| result_of(request, json!({"content": []})))),
        (
            "[resource uri=file:///r]",
            lying(|request| {
                result_of(
                    request,
                    json!({"content": [{"type": "resource", "resource": {"uri": "file:///r", "text": "t"}}]}),
                )
            }),
        ),
        ("over events", lying(|request| event_of(request, text_result("over events")))),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_fails_is_told_to_the_model_which_goes_on() {
    let provider = calling([("one", json!({})), ("two", json!({}))]);
    let scene = Scene::new(&provider).await;
    for (at, (said, server)) in lies().into_iter().enumerate() {
        let url = format!("{}/mcp", server.base());
        for way in
            ways().filter(|way| way.model == "o:m").take(if at == 8 || at == 9 { 2 } else { 6 })
        {
            scene.call(way, json!({"mcp_servers": [entry("s", &url)]})).await.good();
            let came = told(&provider);
            assert!(came[0].starts_with(said), "{at} {way:?}: {}", came[0]);
            assert_eq!(came[1], "two is done", "{at} {way:?}");
            assert!(
                came[0].len() < 500
                    && !came[0].contains("10.0.0.7")
                    && !came[0].contains("127.0.0.1"),
                "{}",
                came[0]
            );
        }
    }
}

/// Real servers, too: ten megabytes are not read, and memory does not grow by them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_megabytes_of_a_real_server_are_too_large() {
    let provider = calling([("long", json!({"chars": 10 << 20})), ("count", json!({}))]);
    let scene = Scene::new(&provider).await;
    for kind in ["sse", "json"] {
        let server = Real::new(kind, "huge");
        let way = ways().next().expect("some");
        scene.call(way, servers(&server)).await.good();
        let came = told(&provider);
        assert!(came[0].starts_with("[tool error] long failed: "), "{kind}: {}", came[0]);
        if kind == "json" {
            assert_eq!(came[0], "[tool error] long failed: its answer is too large");
        }
        assert_eq!(came[1], "call 1", "the session goes on: {kind}");
    }
    assert!(scene.gateway.peak_memory() < 250 << 20, "{}", scene.gateway.peak_memory());
}

/// Half a minute each, at the same time: what never answers, and what answers somebody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hangs_is_given_up() {
    let provider = model(|asked| match (asked.round, asked.words().as_str()) {
        (0, "real") => calls([("hang", json!({})), ("hang", json!({}))]),
        (0, _) => calls([("one", json!({})), ("two", json!({}))]),
        _ => says("ok"),
    });
    let scene = Scene::new(&provider).await;
    let (real, old) = (Real::new("sse", "hang"), Real::new("legacy", "hang"));
    let silent = scripted(|_, _| Some(Reply::silence()));
    let other_id = lying(|_| {
        Reply::json(
            200,
            &json!({"jsonrpc": "2.0", "id": 999_999, "result": text_result("not yours")}),
        )
    });
    let begun = Instant::now();
    let ask = |words: &str, url: String, streams: bool| {
        let way = ways().find(|way| way.streams == streams).expect("some");
        let mut body = way.api.ask(way.model, words, 50);
        body["mcp_servers"] = json!([entry("s", &url)]);
        let scene = &scene;
        async move { way.api.call(&scene.gateway, &scene.key, &body, streams).await }
    };
    let of = |server: &Provider| format!("{}/mcp", server.base());
    let (hung, streamed, old_hung, dumb, lied) = tokio::join!(
        ask("real", real.url(), false),
        ask("real", real.url(), true),
        ask("real", old.url(), false),
        ask("scripted", of(&silent), false),
        ask("scripted", of(&other_id), false),
    );
    let took = begun.elapsed().as_secs();
    assert!((29..50).contains(&took), "{took} s");
    for seen in [hung, streamed, old_hung, lied] {
        assert_eq!(seen.good().text, "ok");
    }
    assert_eq!(dumb.status, 502, "{}", dumb.raw);
    assert!(
        dumb.error.unwrap_or_default().starts_with("MCP server 's' did not answer in time."),
        "{}",
        dumb.raw
    );
    let late = "[tool error] hang failed: it did not answer in time";
    let mut loops = 0;
    for request in provider.requests() {
        let came: Vec<String> = results(&request).into_iter().map(|(_, text)| text).collect();
        match came.as_slice() {
            [] => {}
            [a, b] if a == late && b == late => loops += 1,
            [a, b] => {
                assert!(a.starts_with("[tool error] one failed: "), "{came:?}");
                assert!(!a.contains("not yours") && b == "two is done", "{came:?}");
                loops += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(loops, 4);
    real.ended(2).await;
    old.ended(1).await;
    let rows = scene.gateway.all_usage().await;
    for row in rows.iter().filter(|row| row["status"] == "success") {
        is_billed(row, sum(2), "success");
    }
}

/// Fifty servers at most, and what is wrong with an entry is said without its token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_checked() {
    let provider = model(|_| -> Turn { says("never") });
    let scene = Scene::new(&provider).await;
    let way = ways().next().expect("some");
    let token = "hunter2-hunter2";
    for (servers, kind, place) in [
        (
            json!([{"url": "http://127.0.0.1/"}]),
            "missing",
            json!(["body", "mcp_servers", 0, "name"]),
        ),
        (
            json!([{"name": "", "url": "http://127.0.0.1/"}]),
            "string_too_short",
            json!(["body", "mcp_servers", 0, "name"]),
        ),
        (
            json!([{"name": "n".repeat(129), "url": "x"}]),
            "string_too_long",
            json!(["body", "mcp_servers", 0, "name"]),
        ),
        (
            json!([{"name": "n", "url": "x", "purpose_hint": "h".repeat(2001)}]),
            "string_too_long",
            json!(["body", "mcp_servers", 0, "purpose_hint"]),
        ),
        (
            json!([{"name": "n", "authorization_token": token}]),
            "missing",
            json!(["body", "mcp_servers", 0, "url"]),
        ),
        (
            json!([{"name": "n", "url": "x", "authorization_token": 7}]),
            "string_type",
            json!(["body", "mcp_servers", 0, "authorization_token"]),
        ),
        (json!({"name": "n"}), "list_type", json!(["body", "mcp_servers"])),
        (json!([7]), "model_attributes_type", json!(["body", "mcp_servers", 0])),
        (
            json!(vec![entry("n", "http://127.0.0.1/"); 51]),
            "too_long",
            json!(["body", "mcp_servers"]),
        ),
    ] {
        let answer =
            scene.gateway.chat(&scene.key, &way.ask(json!({"mcp_servers": servers}))).await;
        let refused = answer.refused(422);
        let fault = &refused["detail"][0];
        assert_eq!((&fault["type"], &fault["loc"]), (&json!(kind), &place), "{refused}");
        assert!(!answer.text().contains(token), "{}", answer.text());
    }
    assert_eq!(provider.count(), 0);
    assert!(methods(&provider).is_empty());
}
