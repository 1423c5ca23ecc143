//! Rounds: the model asks, the gateway runs, the model goes on, and the caller sees one answer.

use serde_json::json;

use super::{Scene, is_billed, servers, ways};
use crate::support::caller::Api;
use crate::support::gateway::Gateway;
use crate::support::mcp::Real;
use crate::support::model::{calls, model, offered, results, says, sum, tokens};

const OFFERED: [&str; 8] = ["add", "echo", "meet", "count", "hang", "fails", "long", "picture"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_is_run_and_the_model_goes_on_with_what_it_said() {
    let provider = model(|asked| match asked.round {
        0 => calls([("add", json!({"a": 2, "b": 3}))]).saying("Let me see. "),
        _ => says("It is 5."),
    });
    let scene = Scene::new(&provider).await;
    for (rows, way) in (1..).zip(ways()) {
        let server = Real::new("sse", way.tag("one"));
        let seen = scene.call(way, servers(&server)).await.good();
        let said = if way.streams { "Let me see. It is 5." } else { "It is 5." };
        assert_eq!(seen.text, said, "{way:?}: {}", seen.raw);
        assert_eq!((seen.calls.len(), &*seen.finish), (0, way.api.done()), "{way:?}: {}", seen.raw);
        assert_eq!(seen.usage, Some(sum(2)), "{way:?}: {}", seen.raw);
        let asked = provider.requests();
        let [first, second] = &asked[asked.len() - 2..] else { panic!("two rounds") };
        for request in [first, second] {
            assert_eq!(offered(request), OFFERED, "{way:?}");
            assert_eq!(request.json()["mcp_servers"], json!(null), "{way:?}");
        }
        assert_eq!(results(first), []);
        let came = results(second);
        assert_eq!(came.len(), 1, "{way:?}: {}", second.text());
        assert_eq!(came[0].1, "the sum is 5", "{way:?}");
        assert!(second.text().contains("Let me see. "), "what it said is not lost: {way:?}");
        server.ended(1).await;
        let steps = ["initialize", "tools/list", "tools/call"].map(|rpc| server.count(rpc));
        assert_eq!(steps, [1; 3], "{way:?}");
        let row = scene.row(rows).await;
        is_billed(&row, sum(2), "success");
        assert_eq!((&row["endpoint"], &row["user_id"]), (&json!(way.api.path()), &json!("u")));
    }
    assert_eq!(provider.count(), 24, "and nobody asked a third time");
}

/// A stream is one answer of its format: one beginning, one end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_rounds_looks_like_one_answer() {
    let provider = model(|asked| match asked.round {
        round @ 0..3 => calls([("echo", json!({"text": round.to_string()}))]).saying("a"),
        _ => says("b"),
    });
    let scene = Scene::new(&provider).await;
    for way in ways().filter(|way| way.streams) {
        let server = Real::new("json", way.tag("look"));
        let seen = scene.call(way, servers(&server)).await.good();
        assert_eq!(seen.text, "aaab", "{way:?}: {}", seen.raw);
        for gone in ["echo", "tool_use", "function_call", "tool_calls"] {
            let left = seen.raw.replace("parallel_tool_calls", "");
            assert!(!left.contains(gone), "{gone} of {way:?}: {}", seen.raw);
        }
        match way.api {
            Api::Chat => {
                assert_eq!(seen.raw.matches("data: [DONE]").count(), 1);
                assert!(seen.raw.ends_with("data: [DONE]\n\n"), "{}", seen.raw);
                assert_eq!(seen.raw.matches("\"finish_reason\":\"").count(), 1, "{}", seen.raw);
            }
            Api::Messages => {
                for kind in ["message_start", "message_delta", "message_stop"] {
                    assert_eq!(seen.count(kind), 1, "{kind}: {}", seen.raw);
                }
                assert_eq!(seen.events.last().map(String::as_str), Some("message_stop"));
                let [starts, stops] =
                    ["content_block_start", "content_block_stop"].map(|kind| seen.count(kind));
                assert_eq!((starts, stops), (4, 4), "{}", seen.raw);
            }
            Api::Responses => {
                for kind in ["response.created", "response.completed"] {
                    assert_eq!(seen.count(kind), 1, "{kind}: {}", seen.raw);
                }
                assert_eq!(seen.events.last().map(String::as_str), Some("response.completed"));
                assert_eq!(seen.body["output"].as_array().map(Vec::len), Some(4), "{}", seen.body);
            }
        }
    }
}

/// Round by round other counts, some of them from a cache.
fn uses(round: usize) -> [u64; 3] {
    let round = round as u64;
    [100 + 7 * round, 40 + round, 9 + 2 * round]
}

fn metric(text: &str, name: &str, labels: [&str; 3]) -> f64 {
    let line = (text.lines())
        .find(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)));
    let line = line.unwrap_or_else(|| panic!("no {name} with {labels:?} in\n{text}"));
    line.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_of_five_rounds_is_their_sum_everywhere() {
    let provider = model(|asked| {
        let turn = if asked.round < 4 { calls([("count", json!({}))]) } else { says("done") };
        turn.using(uses(asked.round))
    });
    let scene = Scene::with(&provider, |start| start.config("enable_metrics: true")).await;
    let [input, cached, output] =
        (0..5).map(uses).fold([0; 3], |sum, round| [0, 1, 2].map(|at| sum[at] + round[at]));
    assert_eq!([input, cached, output], [570, 210, 65]);
    for (rows, way) in (1..).zip(ways()) {
        let server = Real::new(if rows % 2 == 0 { "sse" } else { "json" }, way.tag("five"));
        let seen = scene.call(way, servers(&server)).await.good();
        assert_eq!(
            (&*seen.text, seen.usage),
            ("done", Some((input, output))),
            "{way:?}: {}",
            seen.raw
        );
        let last = provider.requests().pop().expect("five rounds");
        let came: Vec<String> = results(&last).into_iter().map(|(_, text)| text).collect();
        assert_eq!(came, ["call 1", "call 2", "call 3", "call 4"], "one session: {way:?}");
        assert_eq!(server.count("initialize"), 1);
        let row = scene.row(rows).await;
        is_billed(&row, (input, output), "success");
        assert_eq!(row["cache_read_tokens"], cached, "{row}");
        assert_eq!(row["total_tokens"], input + output);
    }
    assert_eq!(provider.count(), 60);
    let spent = scene.gateway.settled("u").await;
    let rows = scene.gateway.all_usage().await;
    let costs: f64 = rows.iter().filter_map(|row| row["cost"].as_f64()).sum();
    assert!((spent - costs).abs() < 1e-9, "spend {spent} is the sum of the rows {costs}");
    let metrics = scene.gateway.get("/metrics").await.expect(200).text();
    for name in ["o", "a"] {
        let labels = |kind| [format!("provider=\"{name}\""), format!("type=\"{kind}\"")];
        for (kind, count) in [("input", input), ("output", output)] {
            let [a, b] = labels(kind);
            let told = metric(&metrics, "gateway_tokens_total{", [&a, &b, "model=\"m\""]);
            assert_eq!(told, 6.0 * count as f64, "six loops of {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_one_round_are_run_at_the_same_time() {
    let provider = model(|asked| match asked.round {
        0 => {
            let room = json!({"room": asked.words()});
            calls([("meet", room.clone()), ("add", json!({"a": 1, "b": 1})), ("meet", room)])
        }
        _ => says("ok"),
    });
    let scene = Scene::new(&provider).await;
    for way in ways() {
        let server = Real::new("sse", way.tag("meet"));
        let mut body = way.api.ask(way.model, &way.tag("room"), 50);
        body["mcp_servers"] = servers(&server)["mcp_servers"].clone();
        way.api.call(&scene.gateway, &scene.key, &body, way.streams).await.good();
        let last = provider.requests().pop().expect("two rounds");
        let came = results(&last);
        let texts: Vec<&str> = came.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["together", "the sum is 2", "together"], "in their order: {way:?}");
        let ids: Vec<&str> = came.iter().map(|(id, _)| id.as_str()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "each to its call: {ids:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_the_callers_to_run_goes_to_the_caller_alone() {
    let provider = model(|_| {
        calls([("add", json!({"a": 1, "b": 2})), ("weather", json!({"city": "Bern"}))])
            .saying("Hm.")
    });
    let scene = Scene::new(&provider).await;
    for (rows, way) in (1..).zip(ways()) {
        let server = Real::new("json", way.tag("mixed"));
        let mut fields = servers(&server);
        fields["tools"] = json!([way.api.tool("weather")]);
        let seen = scene.call(way, fields).await.good();
        assert_eq!(
            seen.calls,
            [("weather".into(), json!({"city": "Bern"}))],
            "{way:?}: {}",
            seen.raw
        );
        assert_eq!((&*seen.text, &*seen.finish), ("Hm.", way.api.wants_tools()), "{way:?}");
        assert!(!seen.raw.contains("\"add\""), "{way:?}: {}", seen.raw);
        assert_eq!(seen.usage, Some(tokens(0)));
        assert_eq!(provider.count(), rows, "there is no further round");
        let mut names = vec!["weather"];
        names.extend(OFFERED);
        assert_eq!(offered(&provider.requests()[rows - 1]), names, "the caller's stand first");
        server.ended(1).await;
        assert_eq!(server.called(), ["add"], "what is the gateway's was run: {way:?}");
        is_billed(&scene.row(rows).await, tokens(0), "success");
    }
}

/// Nothing of a loop is left in what is not one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_that_are_not_called_change_nothing() {
    let provider = model(|asked| match asked.words().as_str() {
        "foreign" => calls([("weather", json!({"city": "Bern"}))]),
        _ => says("hello"),
    });
    let scene = Scene::new(&provider).await;
    for (rows, way) in (1..).step_by(2).zip(ways()) {
        let server = Real::new("sse", way.tag("none"));
        let seen = scene.call(way, servers(&server)).await.good();
        assert_eq!((&*seen.text, &*seen.finish), ("hello", way.api.done()), "{way:?}");
        assert_eq!(seen.usage, Some(tokens(0)));
        assert_eq!((provider.count(), server.count("tools/call")), (rows, 0));
        let mut body = way.api.ask(way.model, "foreign", 50);
        body["mcp_servers"] = servers(&server)["mcp_servers"].clone();
        body["tools"] = json!([way.api.tool("weather")]);
        let seen = way.api.call(&scene.gateway, &scene.key, &body, way.streams).await.good();
        assert_eq!(seen.calls, [("weather".into(), json!({"city": "Bern"}))], "{way:?}");
        assert_eq!(provider.count(), rows + 1);
        server.ended(2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_that_are_no_json_are_none() {
    let provider = model(|asked| match asked.round {
        0 => calls([]).calling("count", "{\"a\":"),
        _ => says("ok"),
    });
    let scene = Scene::new(&provider).await;
    for way in ways().filter(|way| way.streams || way.model == "o:m") {
        let server = Real::new("json", way.tag("broken"));
        scene.call(way, servers(&server)).await.good();
        let last = provider.requests().pop().expect("two rounds");
        assert_eq!(results(&last)[0].1, "call 1", "{way:?}");
    }
}

/// Hints of servers stand where each format has its instructions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_servers_hint_reaches_the_model() {
    let provider = model(|_| says("ok"));
    let scene = Scene::with(&provider, |start: crate::support::gateway::Builder| {
        start.config("tools_header: \"Ours:\"")
    })
    .await;
    for way in ways().filter(|way| !way.streams) {
        let server = Real::new("json", way.tag("hint"));
        let own = json!([{"name": "sums", "url": server.url(), "purpose_hint": "for sums"}]);
        for (header, said) in [
            (json!(null), "Ours:\\n- sums: for sums"),
            (json!("Mine:"), "Mine:\\n- sums: for sums"),
        ] {
            scene.call(way, json!({"mcp_servers": own, "tools_header": header})).await.good();
            let sent = provider.requests().pop().expect("a round");
            let body = sent.json();
            let place = match sent.path.as_str() {
                "/v1/messages" => body["system"].to_string(),
                "/v1/responses" => body["instructions"].to_string(),
                _ => body["messages"][0].to_string(),
            };
            assert!(place.contains(said), "{way:?}: {body}");
            assert!(body.get("tools_header").is_none(), "{body}");
        }
    }
    drop::<Gateway>(scene.gateway);
}
