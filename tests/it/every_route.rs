//! The same questions put to every route of callers: who must not call, what cannot be paid, what its provider does, and
//! what becomes of a call whose caller has gone. What only one of them has to answer stands in the route's own file.

use otari::routes::{Credential, ROUTES};
use reqwest::Method;
use serde_json::{Value, json};

use crate::billable::{Bill, answer, before, bills_of, path, send, served};
use crate::operations;
use crate::support::gateway::{Answer, Builder, Gateway};
use crate::support::provider::{Provider, Reply, Request, Step};
use crate::support::{eventually, on_both_databases};

/// Questions about batches that are their provider's, for one of this name.
fn questions(name: &str) -> [(Method, String); 4] {
    let of = |tail: &str| format!("/v1/batches/{name}{tail}?provider=p");
    [
        (Method::GET, format!("/v1/batches?provider=p&after={name}")),
        (Method::GET, of("")),
        (Method::POST, of("/cancel")),
        (Method::GET, of("/results")),
    ]
}

async fn ask(gateway: &Gateway, key: &str, (method, path): &(Method, String)) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    gateway.send(method.clone(), path, &headers, "").await
}

/// Whether the gateway asks nobody for it: it keeps the items of such a batch.
fn is_kept_here((route, _, body): &Bill) -> bool {
    *route == "/v1/batches" && body.windows(3).any(|three| three == b"\"g:")
}

fn code(refusal: &Answer) -> Value {
    refusal.json()["error"]["code"].clone()
}

async fn nobody_calls_without_a_key(start: Builder) {
    let provider = Provider::start(served());
    let gateway = before(start, &provider).await;
    let mut asked = 0;
    for route in ROUTES.iter().filter(|route| route.credential == Credential::Key) {
        let path = ["{id}", "{tool}", "{model_id...}", "{model_key...}"]
            .iter()
            .fold(route.template.to_owned(), |path, name| path.replace(name, "x"));
        for headers in [&[][..], &[("authorization", "Bearer gw-nobody")]] {
            let answer = gateway.send(route.method.clone(), &path, headers, "{}").await;
            assert_eq!(answer.status, 401, "{} {path}: {}", route.method, answer.text());
            asked += 1;
        }
    }
    for bill in bills_of("m") {
        for key in ["", "gw-nobody"] {
            assert_eq!(send(&gateway, key, &bill).await, 401, "{}", bill.0);
        }
    }
    assert!(asked > 40, "{asked}");
    assert_eq!(provider.count(), 0);
}

async fn a_blocked_user_costs_nothing_more(start: Builder) {
    let provider = Provider::start(served());
    let gateway = before(start, &provider).await;
    let key = gateway.key("u").await;
    gateway.patch("/v1/users/u", json!({"blocked": true})).await;
    for bill in bills_of("m") {
        let refused = answer(&gateway, &key, &bill).await;
        assert_eq!(refused.status, 403, "{}: {}", bill.0, refused.text());
        assert_eq!(refused.header("x-should-retry"), Some("false"), "{}", bill.0);
        assert!(refused.text().contains("User 'u' is blocked"), "{}", refused.text());
    }
    let (kind, form) = operations::form(Some(("a.txt", b"a")), &[]);
    let upload = ("/v1/files", kind, form);
    assert_eq!(code(&answer(&gateway, &key, &upload).await), "user_blocked");
    assert_eq!((provider.count(), gateway.settled("u").await), (0, 0.0));
    for path in ["/v1/files", "/v1/models", "/v1/models/p:m", "/v1/batches", "/v1/pricing"] {
        let seen = ask(&gateway, &key, &(Method::GET, path.to_owned())).await;
        assert_eq!(seen.status, 200, "what there is can be seen: {path}: {}", seen.text());
    }
}

async fn what_has_no_price_is_not_called_where_one_is_needed(start: Builder) {
    // Whose unit nobody prices by default, what has a price of its own, and what is priced when it has ended.
    let free = ["/v1/moderations", "/v1/audio/speech", "/v1/audio/transcriptions"];
    let provider = Provider::start(served());
    let gateway = before(start, &provider).await;
    let key = gateway.key("u").await;
    for bill in bills_of("unpriced") {
        let is_free = free.contains(&bill.0) || bill.0.starts_with("/v1/search");
        let is_passed_on = bill.0 == "/v1/batches" && !is_kept_here(&bill);
        let before = provider.count();
        let answer = answer(&gateway, &key, &bill).await;
        if is_free || is_passed_on {
            assert_eq!(answer.status, 200, "{}: {}", bill.0, answer.text());
            continue;
        }
        assert_eq!(answer.status, 402, "{}: {}", bill.0, answer.text());
        assert!(answer.text().contains("unpriced"), "{}: {}", bill.0, answer.text());
        assert_eq!(provider.count(), before, "{}", bill.0);
    }
}

async fn a_rate_is_one_for_all(start: Builder) {
    let provider = Provider::start(served());
    let gateway = before(start, &provider).config("rate_limit_rpm: 1").await;
    for (at, bill) in bills_of("m").iter().enumerate() {
        let key = gateway.key(&format!("u{at}")).await;
        assert_eq!(send(&gateway, &key, bill).await, 200, "{}", bill.0);
        let calls = provider.count();
        let limited = answer(&gateway, &key, bill).await;
        assert_eq!(limited.status, 429, "{}: {}", bill.0, limited.text());
        assert!(limited.header("retry-after").is_some(), "{}", bill.0);
        assert_eq!(limited.header("otari-error-source"), Some("gateway"), "{}", bill.0);
        // A batch that was passed on is asked after meanwhile.
        assert!(bill.0 == "/v1/batches" || provider.count() == calls, "{}", bill.0);
    }
}

/// What a provider says, and what its caller is told.
const FAILURES: [(u16, u16); 5] = [(400, 400), (401, 502), (429, 429), (500, 502), (503, 502)];

/// As [`served`], but where the model, the batch or the query is called `says-<status>`, that; `is-silent`: nothing.
fn failing() -> impl Fn(&Request) -> Reply + Send + Sync + 'static {
    let served = served();
    move |request| {
        let text = request.text();
        let has = |word: &str| text.contains(word) || request.path.contains(word);
        if has("is-silent") {
            return Reply::silence();
        }
        match FAILURES.iter().find(|(status, _)| has(&format!("says-{status}"))) {
            Some((status, _)) => {
                Reply::json(*status, &json!({"error": {"message": "out of luck"}}))
                    .header("Retry-After", "7")
            }
            None => served(request),
        }
    }
}

/// A gateway before a provider that fails, where every model that does has a price.
async fn failing_gateway(start: Builder, provider: &Provider) -> Gateway {
    let mut start = before(start, provider).config("first_byte_timeout_s: 1\nidle_timeout_s: 1");
    let words = FAILURES.iter().map(|(status, _)| format!("says-{status}"));
    for word in words.chain(["is-silent".to_owned()]) {
        for provider in ["p", "a", "o", "c", "g"] {
            start = start.price(&format!("{provider}:{word}"), 1000.0, 1000.0);
        }
    }
    start.await
}

/// The call has left a row of this status, which costs nothing.
async fn failed_in_its_row(gateway: &Gateway, answer: &Answer, status: u16, what: &str) {
    let row = eventually("the row of a failure", async || {
        let mut rows = gateway.all_usage().await.into_iter();
        rows.find(|row| row["request_group_id"] == answer.request_id())
    })
    .await;
    let seen = (&row["status"], &row["status_code"], &row["cost"]);
    assert_eq!(seen, (&json!("error"), &json!(status), &Value::Null), "{what}: {row}");
}

async fn a_failure_is_told_and_costs_nothing(start: Builder) {
    let provider = Provider::start(failing());
    let gateway = failing_gateway(start, &provider).await;
    let key = gateway.key("u").await;
    for (said, told) in FAILURES {
        let word = format!("says-{said}");
        for bill in bills_of(&word).iter().filter(|bill| !is_kept_here(bill)) {
            let answer = answer(&gateway, &key, bill).await;
            // Whose fault it is that a search fails is nothing its caller can mend.
            let told = if bill.0.starts_with("/v1/search") { 502 } else { told };
            assert_eq!(answer.status, told, "{} {said}: {}", bill.0, answer.text());
            assert_eq!(answer.header("otari-error-source"), Some("provider"), "{}", bill.0);
            // The provider's own batch API is not asked by the way that keeps its status.
            let kept = if bill.0 == "/v1/batches" { told } else { said };
            failed_in_its_row(&gateway, &answer, kept, bill.0).await;
        }
        for question in &questions(&word) {
            let answer = ask(&gateway, &key, question).await;
            assert_eq!(answer.status, told, "{question:?} {said}: {}", answer.text());
        }
    }
    assert_eq!(gateway.settled("u").await, 0.0, "and every hold is given back");
}

async fn silence_has_an_end_and_costs_nothing(start: Builder) {
    let provider = Provider::start(failing());
    let gateway = failing_gateway(start, &provider).await;
    let key = gateway.key("u").await;
    let bills: Vec<Bill> =
        bills_of("is-silent").into_iter().filter(|bill| !is_kept_here(bill)).collect();
    let calls = bills.iter().map(async |bill| {
        let answer = answer(&gateway, &key, bill).await;
        assert_eq!(answer.status, 504, "{}: {}", bill.0, answer.text());
        failed_in_its_row(&gateway, &answer, 504, bill.0).await;
    });
    let asked = questions("is-silent");
    let questions = asked.iter().map(async |question| {
        let answer = ask(&gateway, &key, question).await;
        assert_eq!(answer.status, 504, "{question:?}: {}", answer.text());
    });
    tokio::join!(futures_util::future::join_all(calls), futures_util::future::join_all(questions));
    assert_eq!(gateway.settled("u").await, 0.0, "and every hold is given back");
}

/// Sends a call and hangs up as soon as the provider has it.
async fn send_and_leave(gateway: &Gateway, provider: &Provider, key: &str, bill: &Bill) {
    let (route, kind, body) = bill;
    let calls = provider.count();
    let mut raw = gateway.connect().await;
    raw.send(format!(
        "POST {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: {kind}\r\n\
         content-length: {}\r\n\r\n",
        path(route),
        body.len()
    ))
    .await;
    raw.send(body).await;
    eventually("the provider to be asked", async || (provider.count() > calls).then_some(())).await;
    raw.reset();
}

async fn who_leaves_pays_what_who_stays_does(start: Builder) {
    let served = served();
    let provider = Provider::start(move |request| served(request).before(0, Step::Sleep(200)));
    let gateway = before(start, &provider).await;
    // Of generations, which stop when nobody listens, `endings.rs` and `format_endings.rs` tell.
    let whole = ["/v1/chat/completions", "/v1/messages", "/v1/responses"];
    let bills = bills_of("m").into_iter().filter(|bill| !whole.contains(&bill.0));
    for (at, bill) in bills.filter(|bill| !is_kept_here(bill)).enumerate() {
        let (stays, leaves) = (format!("stays{at}"), format!("leaves{at}"));
        let (staying, leaving) = (gateway.key(&stays).await, gateway.key(&leaves).await);
        assert_eq!(send(&gateway, &staying, &bill).await, 200, "{}", bill.0);
        let cost = eventually("a cost", async || {
            let spend = gateway.settled(&stays).await;
            (spend > 0.0).then_some(spend)
        })
        .await;
        send_and_leave(&gateway, &provider, &leaving, &bill).await;
        eventually(&format!("{} to cost {cost}", bill.0), async || {
            (gateway.settled(&leaves).await == cost).then_some(())
        })
        .await;
    }
}

on_both_databases!(
    nobody_calls_without_a_key,
    a_blocked_user_costs_nothing_more,
    what_has_no_price_is_not_called_where_one_is_needed,
    a_rate_is_one_for_all,
    a_failure_is_told_and_costs_nothing,
    silence_has_an_end_and_costs_nothing,
    who_leaves_pays_what_who_stays_does,
);
