//! Routing policies: what a target's failure leads to, in every format, and what is written down about it.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::gateway::{Answer, Builder, Gateway};
use crate::support::provider::{Framing, Provider, Reply, Request, Step, completion};
use crate::support::{COST, ask_with, on_both_databases};

/// An API as a caller speaks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Api {
    path: &'static str,
    /// What a provider must be to serve it.
    family: &'static str,
    streams: bool,
}

const fn api(path: &'static str, family: &'static str, streams: bool) -> Api {
    Api { path, family, streams }
}

const APIS: [Api; 6] = [
    api("/v1/chat/completions", "openai", false),
    api("/v1/chat/completions", "openai", true),
    api("/v1/messages", "anthropic", false),
    api("/v1/messages", "anthropic", true),
    api("/v1/responses", "openai", false),
    api("/v1/responses", "openai", true),
];

impl Api {
    fn body(self, model: &str) -> Value {
        let mut body = match self.path {
            "/v1/responses" => json!({"model": model, "input": "hi", "max_output_tokens": 50}),
            _ => {
                json!({"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50})
            }
        };
        if self.streams {
            body["stream"] = json!(true);
        }
        body
    }

    async fn ask(self, gateway: &Gateway, key: &str, model: &str) -> Answer {
        gateway.post(key, self.path, self.body(model).to_string()).await
    }
}

fn events(events: &[Value]) -> Reply {
    Reply::events(events.iter().map(|event| {
        let name = event["type"].as_str().unwrap_or_default();
        Step::Send(format!("event: {name}\ndata: {event}\n\n").into())
    }))
}

/// A whole answer in the format of the request: 10 tokens in, 5 out, of a model called `m-2026`.
fn serve(request: &Request) -> Reply {
    let streams = request.json()["stream"] == json!(true);
    match request.path.as_str() {
        "/v1/messages" => {
            let message = |usage: Value| {
                json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "m-2026",
                       "content": [{"type": "text", "text": "ok"}], "usage": usage})
            };
            if !streams {
                return Reply::json(200, &message(json!({"input_tokens": 10, "output_tokens": 5})));
            }
            events(&[
                json!({"type": "message_start", "message": message(json!({"input_tokens": 10, "output_tokens": 1}))}),
                json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "ok"}}),
                json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}),
                json!({"type": "message_stop"}),
            ])
        }
        "/v1/responses" => {
            let response = json!({"id": "resp_1", "object": "response", "model": "m-2026", "output": [],
                "usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}});
            if !streams {
                return Reply::json(200, &response);
            }
            events(&[
                json!({"type": "response.created", "response": {"id": "resp_1", "model": "m-2026"}}),
                json!({"type": "response.output_text.delta", "delta": "ok"}),
                json!({"type": "response.completed", "response": response}),
            ])
        }
        _ => Reply::chat(request, &["ok"]),
    }
}

/// Ways to fail: the provider's credential asks for one. With the reason and the status of the row.
const FAILURES: [(&str, &str, u16); 20] = [
    ("refused", "connect", 502),
    ("nameless", "dns", 502),
    ("reset", "connection_broken", 502),
    ("silence", "first_byte_timeout", 504),
    ("header-only", "first_byte_timeout", 504),
    ("400", "provider_status: 400", 400),
    ("401", "provider_status: 401", 401),
    ("403", "provider_status: 403", 403),
    ("404", "provider_status: 404", 404),
    ("408", "provider_status: 408", 408),
    ("429", "provider_status: 429", 429),
    ("500", "provider_status: 500", 500),
    ("503", "provider_status: 503", 503),
    ("html", "malformed_answer", 502),
    ("no-completion", "malformed_answer", 502),
    ("cut", "connection_broken", 502),
    ("empty-stream", "malformed_answer", 502),
    ("endless-comments", "malformed_answer", 502),
    ("error-event", "provider_error_event", 529),
    ("comments-then-error", "provider_error_event", 529),
];

fn fail(request: &Request) -> Reply {
    let bearer = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let how = bearer.or(request.header("x-api-key")).expect("a credential");
    if let Ok(status) = how.parse() {
        return Reply::json(status, &json!({"error": {"message": "no"}}))
            .header("Retry-After", "1");
    }
    let named = if request.path.ends_with("completions") { "" } else { "event: error\n" };
    let error = format!(
        "{named}data: {}\n\n",
        json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    );
    match how {
        "reset" => Reply::reset(),
        "silence" => Reply::silence(),
        "header-only" if request.json()["stream"] == json!(true) => {
            Reply::events([Step::Send(b": wait\n\n".to_vec()), Step::Silence])
        }
        "header-only" => Reply::events([Step::Silence]).header("Content-Type", "application/json"),
        "html" => Reply::bytes(200, "text/html", "<html>Sign in</html>"),
        "no-completion" => Reply::json(200, &json!({"status": "ok"})),
        "cut" => {
            let whole = completion(&"x".repeat(100_000)).to_string().into_bytes();
            let (half, rest) = whole.split_at(whole.len() / 2);
            Reply::events([Step::Send(half.into()), Step::CutNow, Step::Send(rest.into())])
                .header("Content-Type", "application/json")
                .framing(Framing::Length)
        }
        "empty-stream" => Reply::events([]),
        "endless-comments" => {
            let comments = || Step::Send(": wait\n\n".repeat(20_000).into());
            Reply::events(std::iter::repeat_with(comments).take(10).chain([Step::Silence]))
        }
        "error-event" => Reply::events([Step::Send(error.into())]),
        "comments-then-error" => Reply::events([
            Step::Send(b": PROCESSING\n\n".to_vec()),
            Step::Send(b": PROCESSING\n\n".to_vec()),
            Step::Send(error.into()),
        ]),
        _ => panic!("no such failure: {how}"),
    }
}

/// An instance in the configuration.
fn instance(name: &str, family: &str, base: &str, key: &str, client: &str) -> String {
    format!(
        "  {name}: {{provider_type: {family}, api_base: \"{base}\", api_key: \"{key}\", client_args: {{{client}}}}}\n"
    )
}

/// A policy that begins at the first of these and goes on with the others.
fn policy(name: &str, targets: &[&str]) -> String {
    let (first, others) = targets.split_first().expect("a target");
    format!("    {name}: {{select: [{{default: {first}}}], on_failure: {others:?}}}\n")
}

/// A gateway with these blocks, on which nothing is ever passed over.
fn routed(start: Builder, providers: &str, policies: &str) -> Builder {
    start
        .config(&format!("providers:\n{providers}"))
        .config(&format!("routing:\n  policies:\n{policies}"))
        .config("circuit_breaker_failures: 0")
}

/// A key of the user `u`, who may spend this many USD.
async fn key_with(gateway: &Gateway, usd: f64) -> String {
    let budget = gateway.budget(usd).await;
    gateway.user("u", Some(&budget)).await;
    gateway.key("u").await
}

/// The rows of one request, in the order of its attempts.
fn of_request<'a>(rows: &'a [Value], answer: &Answer) -> Vec<&'a Value> {
    let id = answer.request_id();
    let mut rows: Vec<&Value> = rows.iter().filter(|row| row["request_group_id"] == id).collect();
    rows.sort_by_key(|row| row["attempt_position"].as_i64());
    rows
}

/// A gateway with a policy for each way to fail and each family: `by-500-openai` begins at `500-openai`, and goes on at
/// `good-openai`.
fn one_policy_for_each(start: Builder, bad: &Provider, good: &Provider) -> Builder {
    // Nobody listens there any more.
    let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (mut providers, mut policies, mut start) = (String::new(), String::new(), start);
    for family in ["openai", "anthropic"] {
        let last = format!("good-{family}");
        providers += &instance(&last, family, &good.base(), "k", "max_retries: 0");
        start = start.price(&format!("{last}:m"), 1000.0, 2000.0);
        for (how, ..) in FAILURES {
            let base = match how {
                "refused" => format!("http://{refused}/v1"),
                "nameless" => "http://no-such-host.invalid/v1".to_owned(),
                _ => bad.base(),
            };
            let client = match how {
                "silence" | "header-only" => "max_retries: 0, timeout: 0.3",
                _ => "max_retries: 0",
            };
            let name = format!("{how}-{family}");
            providers += &instance(&name, family, &base, how, client);
            let targets = [format!("{name}:m"), format!("{last}:m")];
            policies += &policy(&format!("by-{name}"), &[&targets[0], &targets[1]]);
            start = start.price(&targets[0], 100.0, 200.0);
        }
    }
    routed(start, &providers, &policies)
}

/// What both attempts of a request have left.
fn check_rows(rows: &[&Value], api: Api, (how, reason, status): (&str, &str, u16)) {
    let &[absorbed, served] = rows else { panic!("two rows for {how} {api:?}: {rows:?}") };
    let model = format!("by-{how}-{}", api.family);
    for (at, row) in rows.iter().enumerate() {
        assert_eq!(
            json!([
                row["policy_name"],
                row["attempt_position"],
                row["attempt_count"],
                row["endpoint"]
            ]),
            json!([model, at + 1, 2, api.path]),
            "{row}"
        );
    }
    let of =
        |row: &Value| json!([row["status"], row["selection_reason"], row["provider"], row["cost"]]);
    assert_eq!(of(absorbed), json!(["absorbed", "default", format!("{how}-{}", api.family), null]));
    let said = absorbed["error_message"].as_str().unwrap_or_default();
    assert!(said.starts_with(reason), "{how} {api:?}: {said}");
    assert_eq!(absorbed["status_code"], status, "{absorbed}");
    let good = format!("good-{}", api.family);
    assert_eq!(of(served), json!(["success", "on_failure", good, COST]));
}

async fn whatever_fails_before_the_first_byte_the_next_target_serves(start: Builder) {
    let (bad, good) = (Provider::start(fail), Provider::start(serve));
    let gateway = one_policy_for_each(start, &bad, &good).await;
    let key = key_with(&gateway, 1000.0).await;
    let mut asked = Vec::new();
    for api in APIS {
        for failure in FAILURES {
            let model = format!("by-{}-{}", failure.0, api.family);
            let answer = api.ask(&gateway, &key, &model).await;
            assert_eq!(answer.status, 200, "{failure:?} {api:?}: {}", answer.text());
            let good = format!("good-{}", api.family);
            assert_eq!(answer.header("otari-provider"), Some(&*good));
            let text = answer.text();
            let name = format!("\"model\":\"{model}\"");
            assert!(
                text.contains(&name) && !text.contains("m-2026"),
                "{failure:?} {api:?}: {text}"
            );
            assert!(!text.contains("Overloaded") && !text.contains("PROCESSING"), "{text}");
            asked.push((api, failure, answer));
        }
    }
    let rows = gateway.usage(2 * asked.len()).await;
    for (api, failure, answer) in &asked {
        check_rows(&of_request(&rows, answer), *api, *failure);
    }
    let spend = gateway.settled("u").await;
    assert!((spend - COST * asked.len() as f64).abs() < 1e-6, "only answers cost: {spend}");
}

async fn when_all_fail_the_last_one_decides_what_the_caller_is_told(start: Builder) {
    let bad = Provider::start(fail);
    let mut providers = String::new();
    for how in ["500", "400", "429"] {
        providers += &instance(&format!("p{how}"), "openai", &bad.base(), how, "max_retries: 0");
    }
    providers +=
        &instance("slow", "openai", &bad.base(), "silence", "max_retries: 0, timeout: 0.2");
    let policies = policy("fails", &["slow:m", "p500:m", "p400:m"])
        + &policy("late", &["p500:m", "p429:m", "slow:m"]);
    let gateway = routed(start, &providers, &policies).config("require_pricing: false").await;
    let key = key_with(&gateway, 1.0).await;
    let mut count = 0;
    for api in APIS.into_iter().filter(|api| api.family == "openai") {
        for (model, status, text) in [
            ("fails", 502, "All upstream providers failed"),
            ("late", 504, "All upstream providers timed out"),
        ] {
            let answer = api.ask(&gateway, &key, model).await;
            let refusal = answer.refused(status);
            assert_eq!(refusal["detail"], text);
            assert_eq!(answer.header("x-should-retry"), Some("false"), "we have retried enough");
            assert_eq!(answer.header("otari-error-source"), Some("provider"));
            assert_eq!(answer.header("retry-after"), None);
            count += 3;
            let rows = gateway.usage(count).await;
            let rows = of_request(&rows, &answer);
            let told: Vec<_> = rows.iter().map(|row| row["status"].as_str().unwrap()).collect();
            assert_eq!(told, ["absorbed", "absorbed", "error"], "{rows:?}");
            assert!(rows.iter().all(|row| row["attempt_count"] == 3 && row["cost"].is_null()));
        }
    }
    assert_eq!(gateway.settled("u").await, 0.0);
}

async fn only_the_last_target_is_repeated(start: Builder) {
    let bad = Provider::start(fail);
    let providers = instance("first", "openai", &bad.base(), "503", "max_retries: 2")
        + &instance("last", "openai", &bad.base(), "500", "max_retries: 2");
    let policies = policy("any", &["first:m", "last:m"]);
    let gateway = routed(start, &providers, &policies).config("require_pricing: false").await;
    let key = key_with(&gateway, 1.0).await;
    let answer = gateway.chat(&key, &ask_with(json!({"model": "any"}))).await;
    answer.refused(502);
    let asked: Vec<String> = bad
        .requests()
        .iter()
        .map(|request| request.header("authorization").unwrap().into())
        .collect();
    assert_eq!(asked[0], "Bearer 503");
    assert_eq!(asked[1..].iter().filter(|who| *who == "Bearer 500").count(), asked.len() - 1);
    assert_eq!(asked.len(), 4, "one try, then three");
    let rows = gateway.usage(4).await;
    let rows = of_request(&rows, &answer);
    let told: Vec<_> = rows
        .iter()
        .map(|row| json!([row["status"], row["provider"], row["attempt_position"]]))
        .collect();
    assert_eq!(
        told,
        [
            json!(["absorbed", "first", 1]),
            json!(["absorbed", "last", 2]),
            json!(["absorbed", "last", 3]),
            json!(["error", "last", 4])
        ]
    );
}

async fn after_the_first_byte_nothing_is_tried_again(start: Builder) {
    let breaks = Provider::start(|request| serve(request).before(2, Step::CutNow));
    let good = Provider::start(serve);
    let (mut providers, mut policies, mut start) = (String::new(), String::new(), start);
    for family in ["openai", "anthropic"] {
        for (name, provider) in [("breaks", &breaks), ("good", &good)] {
            let name = format!("{name}-{family}");
            providers += &instance(&name, family, &provider.base(), "k", "max_retries: 2");
            start = start.price(&format!("{name}:m"), 1000.0, 2000.0);
        }
        let targets = [format!("breaks-{family}:m"), format!("good-{family}:m")];
        policies += &policy(&format!("any-{family}"), &[&targets[0], &targets[1]]);
    }
    let gateway = routed(start, &providers, &policies).await;
    let key = key_with(&gateway, 1.0).await;
    for (at, api) in APIS.into_iter().filter(|api| api.streams).enumerate() {
        let answer = api.ask(&gateway, &key, &format!("any-{}", api.family)).await.expect(200);
        let text = answer.text();
        let end = match api.path {
            "/v1/chat/completions" => "data: {\"error\":",
            _ => "event: error\ndata: {",
        };
        assert!(text.contains(end), "the dialect's error event: {text}");
        assert_eq!(text.ends_with("data: [DONE]\n\n"), api.path.ends_with("completions"), "{text}");
        let rows = gateway.usage(at + 1).await;
        assert_eq!(of_request(&rows, &answer)[0]["status"], "error");
    }
    assert_eq!((breaks.count(), good.count()), (3, 0));
}

async fn a_target_that_generates_no_text_is_passed_over(start: Builder) {
    let good = Provider::start(serve);
    let providers = instance("v", "voyage", &good.base(), "k", "max_retries: 0")
        + &instance("a", "anthropic", &good.base(), "k", "max_retries: 0");
    let policies = policy("both", &["v:m", "a:m"]) + &policy("one", &["v:m"]);
    let gateway = routed(start, &providers, &policies).config("require_pricing: false").await;
    let key = gateway.key("u").await;
    for api in APIS {
        let answer = api.ask(&gateway, &key, "both").await.expect(200);
        assert_eq!(answer.header("otari-provider"), Some("a"), "{api:?}");
    }
    assert!(gateway.usage(APIS.len()).await.iter().all(|row| row["attempt_count"] == 1));
    let refusal = APIS[2].ask(&gateway, &key, "one").await;
    assert_eq!(refusal.status, 400, "{}", refusal.text());
    assert_eq!(refusal.json()["error"]["type"], "invalid_request_error");
}

/// The share of each target among requests, and what follows a failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_are_the_shares_of_requests() {
    const CALLS: usize = 2000;
    let (good, bad) = (Provider::start(serve), Provider::start(fail));
    let mut providers: String = ["a", "b", "c", "z", "d"]
        .map(|name| instance(name, "openai", &good.base(), name, "max_retries: 0"))
        .concat();
    providers += &instance("bad", "openai", &bad.base(), "500", "max_retries: 0");
    let policies = "    drawn:
      select:
        - {router: weighted, candidates: [\"a:m\", \"b:m\", \"z:m\"], weights: {\"a:m\": 14, \"b:m\": 4, \"d:m\": 2}}
        - {default: \"d:m\"}
      on_failure: [\"c:m\"]
    broken:
      select:
        - {router: weighted, candidates: [\"z:m\", \"bad:m\"], weights: {\"bad:m\": 1}}
        - {default: \"d:m\"}
";
    let gateway =
        routed(Gateway::start(), &providers, policies).config("require_pricing: false").await;
    let key = gateway.key("u").await;
    let mut callers = JoinSet::new();
    for _ in 0..16 {
        let calls = std::iter::repeat_with(|| {
            let body = ask_with(json!({"model": "drawn"}));
            gateway.http().post(gateway.url("/v1/chat/completions")).bearer_auth(&key).json(&body)
        });
        let calls: Vec<_> = calls.take(CALLS / 16).collect();
        callers.spawn(async move {
            let mut served = Vec::new();
            for call in calls {
                let answer = call.send().await.expect("an answer");
                served.push(answer.headers()["otari-provider"].to_str().unwrap().to_owned());
                answer.bytes().await.expect("all of it");
            }
            served
        });
    }
    let mut shares: BTreeMap<String, f64> = BTreeMap::new();
    while let Some(served) = callers.join_next().await {
        for name in served.expect("a caller") {
            *shares.entry(name).or_default() += 1.0;
        }
    }
    for (name, share) in [("a", 0.7), ("b", 0.2), ("d", 0.1)] {
        let seen = shares.remove(name).unwrap_or_default();
        let (mean, sigma) = (CALLS as f64 * share, (CALLS as f64 * share * (1.0 - share)).sqrt());
        assert!((seen - mean).abs() < 6.0 * sigma, "{name}: {seen} calls, not about {mean}");
    }
    assert!(shares.is_empty(), "nothing without a weight serves first: {shares:?}");
    let rows = gateway.usage(CALLS).await;
    assert!(rows.iter().all(|row| row["selection_reason"] == "router:weighted"));

    let answer = gateway.chat(&key, &ask_with(json!({"model": "broken"}))).await.expect(200);
    assert_eq!(answer.header("otari-provider"), Some("z"), "the pool comes before the default");
    let rows = gateway.usage(CALLS + 2).await;
    let reasons: Vec<_> =
        of_request(&rows, &answer).iter().map(|row| row["selection_reason"].clone()).collect();
    assert_eq!(reasons, ["router:weighted", "router:weighted"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_router_the_default_serves() {
    let good = Provider::start(serve);
    let providers: String = ["a", "b", "d"]
        .map(|name| instance(name, "openai", &good.base(), name, "max_retries: 0"))
        .concat();
    let policies = "    drawn:
      select:
        - {router: weighted, candidates: [\"a:m\", \"b:m\"], weights: {\"a:m\": 1, \"b:m\": 1}}
        - {default: \"d:m\"}
";
    let gateway =
        routed(Gateway::start(), &providers, policies).config("require_pricing: false").await;
    let key = gateway.key("u").await;
    let bearer = format!("Bearer {key}");
    let ask = async |router: &str| {
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("otari-router", router),
        ];
        let body = ask_with(json!({"model": "drawn"})).to_string();
        gateway.send(Method::POST, "/v1/chat/completions", &headers, body).await
    };
    for _ in 0..20 {
        let answer = ask("off").await.expect(200);
        assert_eq!(answer.header("otari-provider"), Some("d"));
    }
    let rows = gateway.usage(20).await;
    assert!(
        rows.iter().all(|row| row["selection_reason"] == "default" && row["attempt_count"] == 1)
    );
    assert_ne!(ask("On").await.expect(200).header("otari-provider"), Some("d"));
    for value in ["maybe", ""] {
        let refusal = ask(value).await.refused_for_good(400);
        let text = format!("Invalid Otari-Router header '{value}': expected 'on' or 'off'.");
        assert_eq!(refusal["detail"], text);
    }
    assert_eq!(good.count(), 21);
}

on_both_databases!(
    whatever_fails_before_the_first_byte_the_next_target_serves,
    when_all_fail_the_last_one_decides_what_the_caller_is_told,
    only_the_last_target_is_repeated,
    after_the_first_byte_nothing_is_tried_again,
    a_target_that_generates_no_text_is_passed_over,
);
