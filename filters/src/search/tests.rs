//! What each engine is sent and how its answer is read.

use serde_json::{Map, Value, json};

use super::{Engine, Found, NotResults, Query, Request, failure, request};
use crate::money::MicroUsd;
use crate::secret::Secret;

fn query(body: Value) -> Query {
    Query::read(body.as_object().unwrap()).unwrap()
}

fn faults(body: Value) -> Vec<String> {
    let refused = Query::read(body.as_object().unwrap()).unwrap_err();
    let Some(Value::Array(faults)) = refused.detail else { return vec![refused.to_string()] };
    let fault = |fault: &Value| {
        let place: Vec<String> =
            fault["loc"].as_array().unwrap().iter().skip(1).map(|part| part.to_string()).collect();
        format!("{} {}", fault["type"].as_str().unwrap(), place.join("."))
    };
    faults.iter().map(fault).collect()
}

fn full() -> Query {
    query(
        json!({"query": "cats & dogs", "max_results": 3, "country": "de", "max_tokens_per_page": 100,
        "search_domain_filter": ["Example.com", "a.org", "-b.org"]}),
    )
}

fn sent(engine: Engine, query: &Query, options: Value) -> (String, Value) {
    let options: Map<String, Value> = options.as_object().unwrap().clone();
    let Request { method, path_and_query, body } =
        request(engine, "/base", query, &options).unwrap();
    (format!("{method} {path_and_query}"), serde_json::from_slice(&body).unwrap_or_default())
}

#[test]
fn each_engine_is_asked_in_its_own_words() {
    let (line, body) = sent(Engine::Exa, &full(), json!({"type": "fast", "query": "stolen"}));
    assert_eq!(line, "POST /base/search");
    assert_eq!(
        body,
        json!({"query": "cats & dogs", "numResults": 3, "contents": {"text": {"maxCharacters": 400}},
            "includeDomains": ["example.com", "a.org"], "excludeDomains": ["b.org"], "userLocation": "DE",
            "type": "fast"})
    );
    let bare = query(json!({"query": "x"}));
    let (_, body) = sent(Engine::Exa, &bare, json!({"contents": {"highlights": true}}));
    assert_eq!(
        body,
        json!({"query": "x", "numResults": 10, "contents": {"text": {"maxCharacters": 2000}}})
    );
    let (line, body) = sent(Engine::Tavily, &full(), json!({"search_depth": "advanced"}));
    assert_eq!(line, "POST /base/search");
    assert_eq!(
        body,
        json!({"query": "cats & dogs", "max_results": 3, "include_domains": ["example.com", "a.org"],
            "exclude_domains": ["b.org"], "search_depth": "advanced"})
    );
    let sites = "cats%20%26%20dogs%20%28site%3Aexample.com%20OR%20site%3Aa.org%29%20-site%3Ab.org";
    let (line, body) = sent(Engine::Brave, &full(), json!({"safesearch": "off", "count": 99}));
    let want = format!("GET /base/web/search?q={sites}&count=3&country=DE&safesearch=off");
    assert_eq!((line, body), (want, Value::Null));
    let options = json!({"engines": "a,b", "safesearch": 1, "x": null, "format": "html", "y": [1]});
    let (line, _) = sent(Engine::Searxng, &full(), options);
    assert_eq!(line, format!("GET /base/search?q={sites}&format=json&engines=a%2Cb&safesearch=1"));
}

#[test]
fn keys_go_where_each_engine_wants_them_and_are_marked() {
    for (engine, name, value) in [
        (Engine::Brave, "x-subscription-token", "k"),
        (Engine::Exa, "x-api-key", "k"),
        (Engine::Searxng, "x-gateway-token", "k"),
        (Engine::Tavily, "authorization", "Bearer k"),
    ] {
        let (header, sent) = engine.credential(&Secret::new("k")).unwrap();
        assert_eq!((header.as_str(), sent.to_str().unwrap()), (name, value));
        assert!(sent.is_sensitive());
        assert_eq!(Engine::find(engine.as_str()), Some(engine));
    }
    assert!(Engine::Exa.credential(&Secret::new("a\nb")).is_none());
}

#[test]
fn answers_are_read_into_one_shape() {
    let hit = |title: Option<&str>, url: &str, snippet: Option<&str>, date: Option<&str>| json!({"title": title, "url": url, "snippet": snippet, "date": date});
    let all = query(json!({"query": "x"}));
    for (engine, answer, want) in [
        (
            Engine::Exa,
            json!({"requestId": "r", "results": [
                {"title": "T", "url": "https://a.example/x", "publishedDate": "2026-01-01", "text": "body"},
                {"title": "", "url": "https://b.example", "highlights": ["one"]},
                {"title": "no address"}], "costDollars": {"total": 0.005}}),
            json!([
                hit(Some("T"), "https://a.example/x", Some("body"), Some("2026-01-01")),
                hit(None, "https://b.example", Some("one"), None)
            ]),
        ),
        (
            Engine::Searxng,
            json!({"query": "x", "results": [{"url": "http://s.example/", "title": "S", "content": "c",
                "publishedDate": null}, {"url": "javascript:alert(1)", "title": "no"}]}),
            json!([hit(Some("S"), "http://s.example/", Some("c"), None)]),
        ),
        (
            Engine::Brave,
            json!({"type": "search", "web": {"type": "search", "results": [{"title": "B",
                "url": "https://b.example/", "description": "d", "age": "2 days ago", "page_age": "2026-01-02T03:04:05"}]}}),
            json!([hit(Some("B"), "https://b.example/", Some("d"), Some("2026-01-02T03:04:05"))]),
        ),
        (Engine::Brave, json!({"type": "search", "query": {}}), json!([])),
        (
            Engine::Tavily,
            json!({"query": "x", "results": [{"title": "V", "url": "https://v.example", "content": "c",
                "score": 0.9}]}),
            json!([hit(Some("V"), "https://v.example", Some("c"), None)]),
        ),
    ] {
        let found = Found::read(engine, &all, answer.to_string().as_bytes()).unwrap();
        assert_eq!(serde_json::to_value(&found.hits).unwrap(), want, "{engine:?}");
        let said = (engine == Engine::Exa).then_some(MicroUsd(5_000));
        assert_eq!(found.cost, said);
    }
    for body in ["", "<html>", "{}", r#"{"results": 7}"#, "[]"] {
        for engine in Engine::ALL {
            assert_eq!(Found::read(engine, &all, body.as_bytes()), Err(NotResults), "{body}");
        }
    }
}

#[test]
fn more_than_was_asked_for_is_cut_off() {
    let results: Vec<Value> = [
        "https://example.com/1",
        "https://b.org",
        "https://sub.a.org/2",
        "https://nota.org",
        "https://user@example.com:8443/3",
        "https://example.com/4",
    ]
    .map(|url| json!({"url": url, "content": "x".repeat(1000)}))
    .into();
    let body = json!({"results": results}).to_string();
    let found = Found::read(Engine::Searxng, &full(), body.as_bytes()).unwrap();
    let urls: Vec<&str> = found.hits.iter().map(|hit| hit.url.as_str()).collect();
    assert_eq!(
        urls,
        ["https://example.com/1", "https://sub.a.org/2", "https://user@example.com:8443/3"]
    );
    assert_eq!(found.hits[0].snippet.as_ref().map(String::len), Some(400));
    let dear = json!({"results": [], "costDollars": {"total": 1e9}}).to_string();
    let free = json!({"results": [], "costDollars": {"total": -1.0}}).to_string();
    for text in [dear, free] {
        assert_eq!(Found::read(Engine::Exa, &full(), text.as_bytes()).unwrap().cost, None);
    }
}

#[test]
fn all_that_is_wrong_with_a_body_is_named() {
    assert_eq!(faults(json!({})), ["missing \"query\""]);
    assert_eq!(faults(json!({"query": ""})), ["string_too_short \"query\""]);
    assert_eq!(faults(json!({"query": 7})), ["string_type \"query\""]);
    assert_eq!(
        faults(json!({"query": "x", "max_results": 21, "country": "DEU", "max_tokens_per_page": 0,
            "search_domain_filter": ["ok.example", "", "a b", "-", 7]})),
        [
            "less_than_equal \"max_results\"",
            "value_error \"search_domain_filter\".1",
            "value_error \"search_domain_filter\".2",
            "value_error \"search_domain_filter\".3",
            "string_type \"search_domain_filter\".4",
            "string_too_long \"country\"",
            "greater_than_equal \"max_tokens_per_page\"",
        ]
    );
    let many = vec!["a.example"; 21];
    assert_eq!(
        faults(json!({"query": "x", "search_domain_filter": many})),
        ["too_long \"search_domain_filter\""]
    );
    assert!(faults(json!({"query": "x", "country": "1!"}))[0].contains("two letters"));
    let nulls = query(json!({"query": "x", "max_results": null, "country": null, "user": null,
        "search_domain_filter": null, "search_tool_name": null, "max_tokens_per_page": null}));
    assert_eq!(nulls, query(json!({"query": "x"})));
}

#[test]
fn what_an_engine_says_of_its_failure_holds_no_secret() {
    let said = |body: Value| failure(body.to_string().as_bytes());
    assert_eq!(said(json!({"error": "slow down"})).as_deref(), Some("slow down"));
    assert_eq!(said(json!({"detail": {"error": "bad"}})).as_deref(), Some("bad"));
    let leaky = said(json!({"message": "key sk-live-0123456789abcdef0123 is wrong"})).unwrap();
    assert!(!leaky.contains("0123456789abcdef"), "{leaky}");
    assert_eq!(failure(b"<html>"), None);
}
