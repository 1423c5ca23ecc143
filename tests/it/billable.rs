//! No route is a way around a budget: whatever can cost something stops where the money ends.

use std::sync::atomic::{AtomicUsize, Ordering};

use otari::routes::{Credential, ROUTES};
use reqwest::Method;
use serde_json::{Value, json};

use crate::operations;
use crate::support::format::{self, FORMATS};
use crate::support::gateway::{Answer, Builder, Gateway};
use crate::support::on_both_databases;
use crate::support::provider::{Provider, Reply, Request, USAGE, completion};

/// Routes of callers that cost nothing: they read or keep what is the gateway's own.
const FREE: [&str; 10] = [
    "/v1/messages/count_tokens",
    "/v1/files",
    "/v1/files/{id}",
    "/v1/files/{id}/content",
    "/v1/models",
    "/v1/models/{model_id...}",
    "/v1/tools",
    "/v1/pricing",
    "/v1/pricing/{model_key...}",
    "/v1/pricing/{model_key...}/history",
];
/// What becomes of a batch that was paid for at its making.
const OF_BATCHES: [&str; 3] =
    ["/v1/batches/{id}", "/v1/batches/{id}/cancel", "/v1/batches/{id}/results"];

/// A call that would cost something: its route, content type and body.
pub(crate) type Bill = (&'static str, String, Vec<u8>);

/// One of each route, of the model of this name of each provider; a search for it.
pub(crate) fn bills_of(model: &str) -> Vec<Bill> {
    let body = |fields: Value| ("application/json".to_owned(), fields.to_string().into_bytes());
    let mut bills = Vec::new();
    let mut add = |route, (kind, body)| bills.push((route, kind, body));
    let turn = json!([{"role": "user", "content": "hi"}]);
    let of = |provider: &str| format!("{provider}:{model}");
    add("/v1/chat/completions", body(json!({"model": of("p"), "messages": turn})));
    for format in FORMATS {
        add(format.route(), body(format.ask_with(json!({"model": of(format.provider())}))));
    }
    for route in operations::routes() {
        add(route.path, route.body(&route.model(model), json!({})));
    }
    let search = json!({"query": model});
    add("/v1/search", body(search.clone()));
    add("/v1/search/{tool}", body(search));
    let items = json!([{"custom_id": "a", "body": {"messages": turn}}]);
    // One that the gateway runs, and one that is passed on.
    for provider in ["g", "p"] {
        add("/v1/batches", body(json!({"model": of(provider), "requests": items})));
    }
    bills
}

fn bills() -> Vec<Bill> {
    bills_of("m")
}

pub(crate) async fn send(gateway: &Gateway, key: &str, bill: &Bill) -> u16 {
    answer(gateway, key, bill).await.status
}

pub(crate) async fn answer(gateway: &Gateway, key: &str, (route, kind, body): &Bill) -> Answer {
    let bearer = format!("Bearer {key}");
    let mut headers = vec![("content-type", kind.as_str())];
    if !key.is_empty() {
        headers.push(("authorization", bearer.as_str()));
    }
    gateway.send(Method::POST, &path(route), &headers, body.clone()).await
}

pub(crate) fn path(route: &str) -> String {
    route.replace("{tool}", "exa")
}

/// A gateway before `provider` as every provider and as the search engine; the model `m` of each has a price.
pub(crate) fn before(start: Builder, provider: &Provider) -> Builder {
    let root = format!("http://{}", provider.addr());
    let tools = format!("search_tools: {{exa: {{api_base: \"{root}\", api_key: k, timeout: 1}}}}");
    format::both(start.provider("p", provider), provider)
        .provider_of("cohere", "c", &root, "")
        .provider_of("groq", "g", &provider.base(), "")
        .price("p:m", 1000.0, 2000.0)
        .price("c:m", 1000.0, 0.0)
        .price("g:m", 1000.0, 2000.0)
        .price("exa:exa", 1000.0, 0.0)
        .config(&tools)
        .config("batch_concurrency: 0\nbatch_poll_interval_s: 1")
}

/// A provider of everything.
fn provider() -> Provider {
    Provider::start(served())
}

/// The script of a provider of everything. What a batch has used is what [`USAGE`] says, once.
pub(crate) fn served() -> impl Fn(&Request) -> Reply + Send + Sync + 'static {
    let made = AtomicUsize::new(0);
    move |request| {
        if operations::is_one(request) {
            return operations::answers(request);
        }
        let path = request.path.split('?').next().unwrap_or_default();
        let batch = |id: &str| {
            json!({"id": id, "object": "batch", "status": "completed", "output_file_id": "file-out",
                "request_counts": {"total": 1, "completed": 1, "failed": 0}})
        };
        let named = |number: usize| format!("batch_{number}");
        match (request.method.as_str(), path.strip_prefix("/v1/batches")) {
            ("GET", Some("")) => {
                let all =
                    (0..made.load(Ordering::Relaxed)).rev().map(|number| batch(&named(number)));
                return Reply::json(
                    200,
                    &json!({"data": all.collect::<Vec<_>>(), "has_more": false}),
                );
            }
            (_, Some("")) => {
                return Reply::json(200, &batch(&named(made.fetch_add(1, Ordering::Relaxed))));
            }
            (_, Some(one)) => return Reply::json(200, &batch(one.trim_start_matches('/'))),
            (_, None) => {}
        }
        match path.rsplit('/').next() {
            Some("files") => Reply::json(200, &json!({"id": "file-in", "object": "file"})),
            Some("content") => {
                let answered = json!({"status_code": 200, "body": completion("ok")});
                let line = json!({"custom_id": "a", "response": answered, "error": null});
                Reply::bytes(200, "application/octet-stream", format!("{line}\n"))
            }
            Some("search") => {
                Reply::json(200, &json!({"results": [{"url": "https://a.example", "title": "A"}]}))
            }
            Some("completions") => Reply::chat(request, &["ok"]),
            _ => format::of(request).reply(request, &["ok"]),
        }
    }
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
    let gateway = before(start, &provider).await;
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
    let gateway = before(start, &provider).await;
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
