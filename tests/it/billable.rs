//! No route is a way around a budget: whatever can cost something stops where the money ends.

use otari::routes::{Credential, ROUTES};
use reqwest::Method;
use serde_json::{Value, json};

use crate::operations;
use crate::support::format::{self, FORMATS};
use crate::support::gateway::{Builder, Gateway};
use crate::support::on_both_databases;
use crate::support::provider::{Provider, Reply, USAGE};

/// Routes of callers that cost nothing: they read or keep what is the gateway's own.
const FREE: [&str; 9] = [
    "/v1/messages/count_tokens",
    "/v1/files",
    "/v1/files/{id}",
    "/v1/files/{id}/content",
    "/v1/models",
    "/v1/models/{model_id...}",
    "/v1/pricing",
    "/v1/pricing/{model_key...}",
    "/v1/pricing/{model_key...}/history",
];
/// What becomes of a batch that was paid for at its making.
const OF_BATCHES: [&str; 3] =
    ["/v1/batches/{id}", "/v1/batches/{id}/cancel", "/v1/batches/{id}/results"];

/// A call that would cost something: its route, content type and body.
type Bill = (&'static str, String, Vec<u8>);

/// One of each route.
fn bills() -> Vec<Bill> {
    let body = |fields: Value| ("application/json".to_owned(), fields.to_string().into_bytes());
    let mut bills = Vec::new();
    let mut add = |route, (kind, body)| bills.push((route, kind, body));
    let turn = json!([{"role": "user", "content": "hi"}]);
    add("/v1/chat/completions", body(json!({"model": "p:m", "messages": turn})));
    for format in FORMATS {
        add(format.route(), body(format.ask()));
    }
    for route in operations::routes() {
        add(route.path, route.body(&route.model("m"), json!({})));
    }
    let search = json!({"query": "cats"});
    add("/v1/search", body(search.clone()));
    add("/v1/search/{tool}", body(search));
    let items = json!([{"custom_id": "a", "body": {"messages": turn}}]);
    add("/v1/batches", body(json!({"model": "g:m", "requests": items})));
    bills
}

async fn send(gateway: &Gateway, key: &str, (route, kind, body): &Bill) -> u16 {
    let bearer = format!("Bearer {key}");
    let headers = [("content-type", kind.as_str()), ("authorization", bearer.as_str())];
    let path = route.replace("{tool}", "exa");
    gateway.send(Method::POST, &path, &headers, body.clone()).await.status
}

/// A gateway whose providers and search engine answer everything; every model has a price.
async fn gateway(start: Builder, provider: &Provider) -> Gateway {
    let root = format!("http://{}", provider.addr());
    let tools = format!("search_tools: {{exa: {{api_base: \"{root}\", api_key: k}}}}");
    format::both(start.provider("p", provider), provider)
        .provider_of("cohere", "c", &root, "")
        .provider_of("groq", "g", &provider.base(), "")
        .price("p:m", 1000.0, 2000.0)
        .price("c:m", 1000.0, 0.0)
        .price("g:m", 1000.0, 2000.0)
        .price("exa:exa", 1000.0, 0.0)
        .config(&tools)
        .config("batch_concurrency: 0")
        .await
}

fn provider() -> Provider {
    Provider::start(|request| {
        if operations::is_one(request) {
            return operations::answers(request);
        }
        match request.path.rsplit('/').next() {
            Some("search") => {
                Reply::json(200, &json!({"results": [{"url": "https://a.example", "title": "A"}]}))
            }
            Some("completions") => Reply::chat(request, &["ok"]),
            _ => format::of(request).reply(request, &["ok"]),
        }
    })
}

#[test]
fn every_route_of_callers_is_in_the_table_or_free() {
    let bills = bills();
    for route in ROUTES.iter().filter(|route| route.credential == Credential::Key) {
        let is_billed = bills.iter().any(|(billed, ..)| *billed == route.template);
        let is_free = FREE.contains(&route.template) || OF_BATCHES.contains(&route.template);
        assert!(is_billed != is_free, "{}: add a call of it here", route.template);
    }
}

async fn nothing_is_served_to_who_has_nothing_left(start: Builder) {
    let provider = provider();
    let gateway = gateway(start, &provider).await;
    let (empty, spent) = (gateway.budget(0.0).await, gateway.budget(0.02).await);
    for (user, budget) in
        [("empty", &empty), ("spent", &spent), ("rich", &gateway.budget(1e6).await)]
    {
        gateway.user(user, Some(budget)).await;
    }
    let key = gateway.key("spent").await;
    // One call takes all of it: 10 tokens in and 5 out.
    let ask =
        json!({"model": "p:m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]});
    gateway.chat(&key, &ask).await.expect(200);
    let cost = (USAGE.0 as f64 * 1000.0 + USAGE.1 as f64 * 2000.0) / 1e6;
    assert_eq!(gateway.settled("spent").await, cost);
    let calls = provider.count();
    for user in ["empty", "spent"] {
        let key = gateway.key(user).await;
        for bill in bills() {
            assert_eq!(send(&gateway, &key, &bill).await, 403, "{user}: {}", bill.0);
        }
    }
    assert_eq!(provider.count(), calls, "nobody was asked");
    let rich = gateway.key("rich").await;
    for bill in bills() {
        assert_eq!(send(&gateway, &rich, &bill).await, 200, "the calls are good ones: {}", bill.0);
    }
    assert_eq!(gateway.settled("empty").await, 0.0);
    assert_eq!(gateway.settled("spent").await, cost, "not a micro-dollar more");
    assert!(gateway.settled("rich").await > 2000.0);
}

/// What one call may cost is held before it: of many at once, only as many as can be paid reach the provider.
async fn calls_at_once_never_cost_more_than_there_is(start: Builder) {
    let provider = provider();
    let gateway = gateway(start, &provider).await;
    let priced =
        [("/v1/images/generations", 2000.0), ("/v1/audio/speech", 0.001), ("/v1/search", 0.001)];
    for (route, cost) in priced {
        let user = route.replace('/', "-");
        let budget = gateway.budget(cost * 3.5).await;
        gateway.user(&user, Some(&budget)).await;
        let key = gateway.key(&user).await;
        let bill = bills().into_iter().find(|(billed, ..)| *billed == route).expect("in the table");
        let calls = (0..16).map(|_| send(&gateway, &key, &bill));
        let answers = futures_util::future::join_all(calls).await;
        let served = answers.iter().filter(|status| **status == 200).count();
        let refused = answers.iter().filter(|status| **status == 403).count();
        assert_eq!((served, refused), (3, 13), "{route}: {answers:?}");
        let spend = gateway.settled(&user).await;
        assert!((spend - cost * 3.0).abs() < 1e-9, "{route}: {spend}");
    }
}

on_both_databases!(
    nothing_is_served_to_who_has_nothing_left,
    calls_at_once_never_cost_more_than_there_is,
);
