//! Which entries of a request's tools are the gateway's, and how its searches look to callers of the providers' own.

use reqwest::Method;
use serde_json::json;

use super::search::{scene, searching, service};
use super::{Scene, ways};
use crate::support::caller::Api;
use crate::support::model::{model, offered, says};
use crate::support::provider::Request;

/// A second entry of the same type is the provider's to refuse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_entry_of_a_type_is_claimed_and_others_pass() {
    let model = model(|_| says("ok"));
    let service = service();
    let scene = scene(&model, &service, "").await;
    let way = ways().next().expect("some");
    let foreign = json!([{"type": "web_search"}, {"type": "web_search_preview"}, {"type": "code_execution"},
        {"type": "function", "function": {"name": "web_search", "parameters": {}}}]);
    scene.call(way, json!({"tools": foreign})).await.good();
    assert_eq!(model.requests()[0].json()["tools"], foreign, "nothing of these is the gateway's");
    scene
        .call(
            way,
            json!({"tools": [{"type": "otari_web_search"}, {"type": "otari_web_search", "n": 2}]}),
        )
        .await
        .good();
    let sent = model.requests()[1].json();
    assert_eq!(sent["tools"][0], json!({"type": "otari_web_search", "n": 2}), "{sent}");
    assert_eq!(sent["tools"][1]["function"]["name"], "web_search");
}

/// With `web_search_intercept` the providers' own entries are the gateway's, and marks are those of their APIs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_searches_are_taken_over_where_that_is_said() {
    let model = searching(["cats"]);
    let service = service();
    let scene =
        scene(&model, &service, "web_search_extract: false\nweb_search_intercept: true").await;
    for way in ways().filter(|way| way.api != Api::Chat) {
        let kind =
            if way.api == Api::Messages { "web_search_20250305" } else { "web_search_preview" };
        let entry = json!({"type": kind, "name": "web_search", "max_uses": 3});
        let forced = if way.api == Api::Messages {
            json!({"type": "tool", "name": "web_search"})
        } else {
            json!({"type": kind})
        };
        let seen = scene.call(way, json!({"tools": [entry], "tool_choice": forced})).await.good();
        assert_eq!(seen.text, "Found.", "{way:?}");
        let asked = model.requests();
        let [first, second] = &asked[asked.len() - 2..] else { panic!("two rounds") };
        assert_eq!(offered(first), ["web_search"]);
        assert!(first.json()["tool_choice"].is_object(), "forced: {}", first.text());
        let free = second.json()["tool_choice"].clone();
        assert!(!free.to_string().contains("web_search"), "and set free: {}", second.text());
        let marks = match way.api {
            Api::Messages => ["server_tool_use", "web_search_tool_result", "https://a.example/"],
            _ => ["web_search_call", "\"query\":\"cats\"", "completed"],
        };
        for mark in marks {
            assert!(seen.raw.contains(mark), "{mark} in {way:?}: {}", seen.raw);
        }
        // What the caller sends back of it does not reach a provider.
        if way.streams || way.api == Api::Responses {
            continue;
        }
        let mut body = way.ask(json!({"tools": [entry]}));
        body["messages"] = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": seen.body["content"]},
            {"role": "user", "content": "go on"}]);
        way.api.call(&scene.gateway, &scene.key, &body, false).await.good();
        let sent: String = model.requests()[asked.len()..].iter().map(Request::text).collect();
        assert!(!sent.contains("server_tool_use") && !sent.contains("srvtoolu_otari_"), "{sent}");
    }
}

/// What a gateway says it can run is what requests for it come to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tools_are_listed_as_they_are_configured() {
    let model = model(|_| says("ok"));
    for (config, available, types) in [
        ("", [false, false], json!(["otari_web_search"])),
        (
            "web_search_url: http://127.0.0.1:1\nweb_search_intercept: true",
            [true, false],
            json!(["otari_web_search", "web_search", "web_search_preview"]),
        ),
        ("sandbox_url: http://127.0.0.1:1", [false, true], json!(["otari_web_search"])),
    ] {
        let scene = Scene::with(&model, |start| start.config(config)).await;
        let bearer = format!("Bearer {}", scene.key);
        let headers = [("authorization", bearer.as_str())];
        let list =
            scene.gateway.send(Method::GET, "/v1/tools", &headers, "").await.expect(200).json();
        assert_eq!(list["object"], "list");
        let [search, code] = list["data"].as_array().expect("a list").as_slice() else {
            panic!("two tools: {list}")
        };
        assert_eq!(
            (&search["id"], &code["id"]),
            (&json!("otari_web_search"), &json!("otari_code_execution"))
        );
        assert_eq!((&search["accepted_types"], &search["object"]), (&types, &json!("tool")));
        assert_eq!(search["input_schema"]["required"], json!(["query"]));
        assert_eq!(code["example"], json!({"type": "otari_code_execution"}));
        let way = ways().next().expect("some way");
        for (tool, available) in [search, code].into_iter().zip(available) {
            assert_eq!(tool["available"], available, "{config}: {tool}");
            assert!(tool["description"].as_str().is_some_and(|text| !text.is_empty()), "{tool}");
            let seen = scene.call(way, json!({"tools": [tool["example"]]})).await;
            assert_eq!(seen.status == 400, !available, "{config}: {}", seen.raw);
        }
        scene.gateway.send(Method::GET, "/v1/tools", &[], "").await.refused(401);
    }
}
