//! `otari_web_search`: the exchange as the reference gateway was seen to have it, services, pages, and what is refused.

use serde_json::{Value, json};

use super::{Scene, Way, is_billed, ways};
use crate::support::caller::{Api, Seen};
use crate::support::mcp::entry;
use crate::support::model::{calls, model, offered, results, says, sum};
use crate::support::provider::{Provider, Reply, Request};

/// The key of every engine under test.
const ENGINE_KEY: &str = "sk-engine-0123456789abcdef";

/// A model that searches for these, one after the other in one round, and is content.
pub(super) fn searching<const N: usize>(queries: [&'static str; N]) -> Provider {
    model(move |asked| match asked.round {
        0 => calls(queries.map(|query| ("web_search", json!({"query": query})))),
        _ => says("Found."),
    })
}

/// A service that answers as SearXNG does, and has pages of its own.
pub(super) fn service() -> Provider {
    Provider::start(|request| {
        let host = request.header("host").unwrap_or_default().to_owned();
        let path = request.path.split('?').next().unwrap_or_default();
        if !path.ends_with("/search") {
            return page(path);
        }
        let asked = &request.path;
        let results = match () {
            () if asked.contains("q=cats") => json!([
                {"url": "http://203.0.113.1/x", "title": "T", "content": "snip"},
                {"title": "no address", "content": "left out"},
                {"url": "https://a.example/", "title": null, "content": "s", "extracted_content": "é".repeat(1501)}]),
            () if asked.contains("q=pages") => json!([
                {"url": format!("http://{host}/good"), "title": "Good", "content": "s1"},
                {"url": format!("http://{host}/moved"), "title": "Moved", "content": "s2"},
                {"url": format!("http://{host}/inside"), "title": "Inside", "content": "s3"},
                {"url": format!("http://{host}/gone"), "title": "Gone", "content": "s4"},
                {"url": format!("http://{host}/huge"), "title": "Huge", "content": "s5"},
                {"url": format!("http://{host}/image"), "title": "Image", "content": "s6"}]),
            () if asked.contains("q=many") => (0..30)
                .map(|at| json!({"url": format!("https://n{at}.example/"), "title": at.to_string(), "content": "c"}))
                .collect(),
            () if asked.contains("q=domains") => ["https://a.example/1", "https://www.a.example/2",
                "https://bad.a.example/3", "https://b.example/4", "https://nota.example/5"]
                .map(|url| json!({"url": url, "title": "D", "content": "c"})).to_vec().into(),
            () if asked.contains("q=broken") => return Reply::bytes(500, "text/plain", "at 10.0.0.7"),
            () if asked.contains("q=garbage") => return Reply::bytes(200, "text/html", "<p>"),
            () if asked.contains("q=shape") => json!({"no": "list"}),
            () => json!([]),
        };
        Reply::json(200, &json!({"query": "q", "results": results}))
    })
}

fn page(path: &str) -> Reply {
    let words = "words of the page ".repeat(60);
    match path {
        "/good" => Reply::bytes(
            200,
            "text/html; charset=utf-8",
            format!(
                "<html><head><title>t</title><script>var x = 'script';</script></head><body><nav>menu</nav><main>\
                 <h1>Heading</h1><p>{words}</p></main><footer>imprint</footer></body></html>"
            ),
        ),
        "/moved" => Reply::bytes(302, "text/plain", "").header("Location", "/good"),
        "/inside" => {
            Reply::bytes(302, "text/plain", "").header("Location", "http://169.254.169.254/latest/")
        }
        "/huge" => Reply::bytes(200, "text/plain", "z".repeat(6 << 20)),
        "/image" => Reply::bytes(200, "image/png", vec![0x89, b'P', b'N', b'G']),
        _ => Reply::bytes(404, "text/html", "<p>not here"),
    }
}

/// The service's base, without `/v1`.
fn base(service: &Provider) -> String {
    service.base().trim_end_matches("/v1").to_owned()
}

pub(super) async fn scene(model: &Provider, service: &Provider, more: &str) -> Scene {
    let config = format!("web_search_url: {}/\n{more}", base(service));
    Scene::with(model, |start| start.config(&config)).await
}

pub(super) fn tool(fields: Value) -> Value {
    let mut entry = json!({"type": "otari_web_search"});
    for (name, value) in fields.as_object().expect("fields") {
        entry[name] = value.clone();
    }
    json!({"tools": [entry]})
}

pub(super) fn told(model: &Provider) -> Vec<String> {
    let last = model.requests().pop().expect("a round");
    results(&last).into_iter().map(|(_, text)| text).collect()
}

/// The bodies of both rounds as the reference gateway was seen to send them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exchange_is_the_references() {
    let model = Provider::start(|request| {
        if request.text().contains("\"tool_call_id\"") {
            return Reply::chat(request, &["done"]);
        }
        let call = json!({"id": "t1", "type": "function", "function": {"name": "web_search", "arguments": "{\"query\":\"cats\"}"}});
        Reply::json(
            200,
            &json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            "choices": [{"index": 0, "message": {"role": "assistant", "content": null, "tool_calls": [call]}, "finish_reason": "tool_calls"}]}),
        )
    });
    let service = service();
    let scene =
        scene(&model, &service, "web_search_extract: false\ntools_header: \"<header>\"").await;
    let weather = Api::Chat.tool("weather");
    let body = json!({"model": "o:m", "stream": false,
        "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Cats?"}],
        "tools": [weather, {"type": "otari_web_search", "purpose_hint": "<hint>", "max_results": 2}]});
    let answer = scene.gateway.chat(&scene.key, &body).await.expect(200).json();
    assert_eq!(answer["choices"][0]["message"]["content"], "done");
    let asked = model.requests();
    let [first, second] = [0, 1].map(|at| asked[at].json());
    let system = json!({"role": "system", "content": "S\n\n<header>\n- web_search: <hint>"});
    let user = json!({"role": "user", "content": "Cats?"});
    assert_eq!(first["messages"], json!([system, user]));
    assert_eq!((&first["model"], &first["stream"]), (&json!("m"), &json!(false)));
    let tools = first["tools"].as_array().expect("tools");
    assert_eq!((tools.len(), &tools[0]), (2, &weather));
    assert_eq!(
        (&tools[1]["type"], &tools[1]["function"]["name"]),
        (&json!("function"), &json!("web_search"))
    );
    let schema = &tools[1]["function"]["parameters"];
    assert_eq!(
        (&schema["required"], &schema["properties"]["query"]["type"]),
        (&json!(["query"]), &json!("string"))
    );
    let mut names: Vec<&String> = first.as_object().expect("a body").keys().collect();
    names.sort();
    assert_eq!(names, ["messages", "model", "stream", "tools"], "and nothing else");
    let called = json!({"role": "assistant", "tool_calls": [{"id": "t1", "type": "function",
        "function": {"name": "web_search", "arguments": "{\"query\":\"cats\"}"}}]});
    let came = json!({"role": "tool", "tool_call_id": "t1", "content":
        format!("[1] T\nhttp://203.0.113.1/x\nsnip\n\n[2] (untitled)\nhttps://a.example/\n{}…", "é".repeat(1500))});
    assert_eq!(second["messages"], json!([system, user, called, came]));
    assert_eq!(second["tools"], first["tools"]);
    let searched = service.only();
    assert_eq!(
        (searched.method.as_str(), searched.path.as_str()),
        ("GET", "/search?q=cats&format=json&engines=duckduckgo%2Cmojeek%2Cqwant%2Cwikipedia")
    );
    for name in ["authorization", "x-gateway-token", "x-api-key", "cookie"] {
        assert_eq!(searched.header(name), None, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_caller_may_search_before_every_provider() {
    let model = searching(["cats"]);
    let service = service();
    let scene = scene(&model, &service, "web_search_extract: false").await;
    for (rows, way) in (1..).zip(ways()) {
        let seen = scene.call(way, tool(json!({}))).await.good();
        assert_eq!((&*seen.text, seen.usage), ("Found.", Some(sum(2))), "{way:?}: {}", seen.raw);
        assert_eq!(offered(&model.requests().pop().expect("a round")), ["web_search"]);
        assert!(
            told(&model)[0].starts_with("[1] T\nhttp://203.0.113.1/x\nsnip\n\n[2] (untitled)\n")
        );
        assert!(!seen.raw.contains("snip") && seen.calls.is_empty(), "{}", seen.raw);
        is_marked(way, &seen);
        is_billed(&scene.row(rows).await, sum(2), "success");
    }
    assert_eq!(service.count(), 12);
}

/// Responses show a search as OpenAI's own does; messages only for whoever declared Anthropic's own tool.
fn is_marked(way: Way, seen: &Seen) {
    let marks = if way.api == Api::Responses {
        let output = seen.body["output"].as_array().cloned().unwrap_or_default();
        assert_eq!(
            (&output[0]["type"], &output[0]["status"]),
            (&json!("web_search_call"), &json!("completed"))
        );
        assert_eq!(output[0]["action"]["query"], "cats", "{}", seen.raw);
        assert_eq!(output[1]["type"], "message");
        1
    } else {
        0
    };
    let known =
        ["web_search_call\",\"status\":\"completed", "server_tool_use", "web_search_tool_result"];
    let found = known.iter().any(|mark| seen.raw.contains(mark));
    assert_eq!(found || seen.raw.contains("web_search_call"), marks == 1, "{way:?}: {}", seen.raw);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_read_where_they_may_be() {
    let model = searching(["pages"]);
    let service = service();
    let open =
        scene(&model, &service, "web_search_allow_private_hosts: true\nweb_search_max_results: 6")
            .await;
    let way = ways().next().expect("some");
    open.call(way, tool(json!({}))).await.good();
    let came = told(&model).remove(0);
    let parts: Vec<&str> = came.split("\n\n[").collect();
    assert_eq!(parts.len(), 6, "{came}");
    for part in &parts[..2] {
        assert!(part.contains("Heading") && part.contains("words of the page words"), "{part}");
        assert!(
            !part.contains("menu") && !part.contains("imprint") && !part.contains("script"),
            "{part}"
        );
    }
    for (at, snippet) in [(2, "s3"), (3, "s4"), (5, "s6")] {
        assert!(parts[at].ends_with(&format!("\n{snippet}")), "{}", parts[at]);
    }
    let huge = parts[4].rsplit('\n').next().unwrap_or_default();
    assert_eq!(huge, format!("{}…", "z".repeat(1500)), "the beginning of a long page");
    let agent = "Mozilla/5.0 (compatible; otari-gateway-web-search)";
    let pages: Vec<Request> = service
        .requests()
        .into_iter()
        .filter(|request| !request.path.starts_with("/search"))
        .collect();
    assert_eq!(pages.len(), 7, "one of them twice: where it has moved to");
    assert!(pages.iter().all(|page| page.header("user-agent") == Some(agent)), "{pages:?}");

    // This machine has no pages, unless the operator says so: loopback is not open as it is for servers.
    let before = service.count();
    let closed =
        scene(&model, &service, "web_search_max_results: 6\nmcp_allow_private_hosts: true").await;
    closed.call(way, tool(json!({}))).await.good();
    let snippets: Vec<String> = told(&model)[0]
        .split("\n\n")
        .map(|part| part.rsplit('\n').next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(snippets, ["s1", "s2", "s3", "s4", "s5", "s6"]);
    assert_eq!(service.count(), before + 1, "the search and nothing else");

    // And none are read where that is switched off.
    let off =
        scene(&model, &service, "web_search_allow_private_hosts: true\nweb_search_extract: false")
            .await;
    off.call(way, tool(json!({}))).await.good();
    assert_eq!(service.count(), before + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_say_what_is_wanted() {
    let model = searching(["many", "domains", "none"]);
    let service = service();
    let more = "web_search_extract: false\nweb_search_engines: [a, b]\nweb_search_max_results: 4\n\
                web_search_purpose_hint: often";
    let scene = scene(&model, &service, more).await;
    let way = ways().next().expect("some");
    let count = |text: &str| text.split("\n\n").count();
    let options = json!({"language": "de", "safesearch": 2, "strict": true, "none": null, "list": [1], "q": "x",
        "format": "html", "engines": "evil"});
    for (fields, many) in [
        (json!({}), 4),
        (json!({"max_results": 2}), 2),
        (json!({"max_results": 1000}), 20),
        (json!({"max_results": 0}), 4),
        (json!({"max_results": "7"}), 4),
        (json!({"max_results": null, "allowed_domains": null, "purpose_hint": ""}), 4),
    ] {
        scene.call(way, tool(fields.clone())).await.good();
        assert_eq!(count(&told(&model)[0]), many, "{fields}");
    }
    let fields = json!({"allowed_domains": ["a.example"], "blocked_domains": ["bad.a.example"], "provider_options": options});
    scene.call(way, tool(fields)).await.good();
    let urls: Vec<String> = told(&model)[1]
        .lines()
        .filter(|line| line.starts_with("https://"))
        .map(str::to_owned)
        .collect();
    assert_eq!(urls, ["https://a.example/1", "https://www.a.example/2"]);
    assert_eq!(told(&model)[2], "No results for query: 'none'");
    let mut asked: Vec<String> =
        service.requests().iter().map(|request| request.path.clone()).collect();
    asked.reverse();
    let last = asked.into_iter().find(|path| path.contains("q=none")).expect("a search");
    assert_eq!(
        last,
        "/search?q=none&format=json&engines=a%2Cb&language=de&safesearch=2&strict=true"
    );
    let first = model.requests()[0].json();
    assert!(
        first["messages"][0]["content"].as_str().expect("hints").ends_with("\n- web_search: often")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_that_fails_is_told_to_the_model() {
    let model = searching(["broken", "garbage", "shape", " "]);
    let service = service();
    let scene = scene(&model, &service, "").await;
    for way in ways().filter(|way| way.model == "o:m") {
        let seen = scene.call(way, tool(json!({}))).await.good();
        assert_eq!(
            told(&model),
            [
                "[tool error] web_search failed: it answered with status 500",
                "[tool error] web_search failed: its answer could not be read",
                "[tool error] web_search failed: its answer could not be read",
                "[tool error] empty query",
            ]
        );
        assert!(!seen.raw.contains("10.0.0.7"), "{}", seen.raw);
        if way.api == Api::Responses {
            let output = seen.body["output"].as_array().expect("items");
            assert!(output[..4].iter().all(|item| item["status"] == "failed"), "{}", seen.raw);
        }
    }
    // Nobody there at all.
    let gone = base(&service);
    drop(service);
    let scene = Scene::with(&model, |start| start.config(&format!("web_search_url: {gone}"))).await;
    scene.call(ways().next().expect("some"), tool(json!({}))).await.good();
    let came = told(&model).remove(0);
    assert_eq!(came, "[tool error] web_search failed: it could not be reached");
}

/// Engines of `search_tools` in the place of a SearXNG.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_search_for_the_model_too() {
    let model = searching(["cats"]);
    let way = ways().next().expect("some");
    for (engine, answer, path, header) in [
        (
            "brave",
            json!({"type": "search", "web": {"results": [
            {"title": "B", "url": "https://b.example/", "description": "from brave"},
            {"title": "x", "url": "https://bad.example/", "description": "blocked"}]}}),
            "/v1/web/search?q=",
            "x-subscription-token",
        ),
        (
            "tavily",
            json!({"results": [{"title": "B", "url": "https://b.example/", "content": "from tavily"},
            {"title": "x", "url": "https://bad.example/", "content": "blocked"}]}),
            "/v1/search",
            "authorization",
        ),
        (
            "exa",
            json!({"results": [{"title": "B", "url": "https://b.example/", "text": "from exa"},
            {"title": "x", "url": "https://bad.example/", "text": "blocked"}]}),
            "/v1/search",
            "x-api-key",
        ),
    ] {
        let service = Provider::start(move |request| match request.text().contains("broken") {
            true => Reply::json(500, &json!({"error": format!("key {ENGINE_KEY} at 10.0.0.7")})),
            false => Reply::json(200, &answer),
        });
        let config = format!(
            "web_search_tool: mine\nweb_search_extract: false\nsearch_tools:\n  mine: {{provider: {engine}, api_base: \"{}\", api_key: {ENGINE_KEY}}}",
            service.base()
        );
        let scene = Scene::with(&model, |start| start.config(&config)).await;
        let seen = scene
            .call(way, tool(json!({"blocked_domains": ["bad.example"], "max_results": 3})))
            .await
            .good();
        assert_eq!(told(&model), [format!("[1] B\nhttps://b.example/\nfrom {engine}")]);
        let asked = service.only();
        assert!(asked.path.starts_with(path), "{engine}: {}", asked.path);
        assert!(asked.header(header).is_some_and(|value| value.ends_with(ENGINE_KEY)), "{engine}");
        assert!(
            asked.text().contains("bad.example") || asked.path.contains("bad.example"),
            "{engine}: {asked:?}"
        );
        for text in
            [seen.raw, scene.gateway.log(), model.requests().iter().map(Request::text).collect()]
        {
            assert!(!text.contains(ENGINE_KEY), "{engine}: {text}");
        }
        is_billed(&scene.row(1).await, sum(2), "success");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_run_is_refused_in_the_references_words() {
    let model = searching(["cats"]);
    let bare = Scene::new(&model).await;
    let service = service();
    let config = format!("web_search_url: {0}\nsandbox_url: {0}", base(&service));
    let all = Scene::with(&model, |start| start.config(&config)).await;
    let search = json!({"type": "otari_web_search"});
    let code = json!({"type": "otari_code_execution"});
    let servers = json!([entry("s", "http://127.0.0.1:1/mcp")]);
    let no_search = "otari_web_search tool requested but no search backend is configured on this gateway. Set \
                     OTARI_WEB_SEARCH_URL on the gateway, or remove otari_web_search from `tools`.";
    let no_sandbox = "otari_code_execution tool requested but no sandbox is configured on this gateway. Set \
                      OTARI_SANDBOX_URL on the gateway, or remove otari_code_execution from `tools`.";
    let with_mcp = "otari_code_execution and mcp_servers cannot be combined in the same request yet; pick one. \
                    Multi-backend dispatch is a planned refinement.";
    let with_others = "otari_web_search cannot be combined with otari_code_execution or mcp_servers in the same request \
                       yet; pick one.";
    let ids = json!(["7c9e6679-7425-40de-944b-e07fc1f90ae7"]);
    for (scene, fields, said) in [
        (&bare, json!({"tools": [search]}), no_search),
        (&bare, json!({"tools": [code]}), no_sandbox),
        (&bare, json!({"tools": [code, search]}), no_sandbox),
        (
            &bare,
            json!({"mcp_server_ids": ids}),
            "mcp_server_ids is only available in platform mode",
        ),
        (&all, json!({"tools": [code], "mcp_servers": servers}), with_mcp),
        (&all, json!({"tools": [search, code]}), with_others),
        (&all, json!({"tools": [search], "mcp_servers": servers}), with_others),
    ] {
        for way in ways() {
            let seen = scene.call(way, fields.clone()).await;
            assert_eq!(
                (seen.status, seen.error.as_deref()),
                (400, Some(said)),
                "{way:?}: {}",
                seen.raw
            );
            if way.api == Api::Messages {
                assert_eq!(seen.body["error"]["type"], "invalid_request_error", "{}", seen.raw);
            }
        }
    }
    assert_eq!((model.count(), service.count()), (0, 0));
    for scene in [&bare, &all] {
        assert!(scene.gateway.settled("u").await.abs() < 1e-12, "what was held is given back");
        let attempts = scene.gateway.all_usage().await;
        assert!(
            attempts.iter().all(|row| row["attempt_position"] == 0),
            "nobody was asked: {attempts:#?}"
        );
    }
}
