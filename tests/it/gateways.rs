//! Several gateways on one PostgreSQL database: one budget for all of them, and word of each other's changes.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::gateway::{Builder, Gateway};
use crate::support::postgres::{self, Database};
use crate::support::provider::{Provider, Reply, completion};
use crate::support::{ask, ask_with, eventually, priced};

/// Calls sent at once, over all gateways.
const CALLS: usize = 2000;
/// How many of them the budget holds.
const FIT: usize = 1000;
/// What each holds and costs, in USD: 100 output tokens at 1000 USD per million.
const EACH: f64 = 0.1;
/// What anybody changes is known everywhere after so long.
const HEARD: Duration = Duration::from_secs(1);

/// A provider that uses exactly the declared 100 tokens.
fn spender() -> Provider {
    Provider::start(|_| {
        let mut body = completion("ok");
        body["usage"] = json!({"prompt_tokens": 1, "completion_tokens": 100, "total_tokens": 101});
        Reply::json(200, &body)
    })
}

/// So many gateways on one database, before `provider` as `p`.
async fn gateways(
    count: usize,
    database: &Database,
    configured: impl Fn(Builder) -> Builder,
) -> Vec<Gateway> {
    let mut gateways = Vec::new();
    for _ in 0..count {
        let start = Gateway::start().config(&format!("database_url: {}", database.url));
        gateways.push(configured(start).await);
    }
    gateways
}

/// `spend + sum of leases - max_budget`, where it is above zero, as PostgreSQL sees it now.
const OVERSPENT: &str = "
    SELECT coalesce(max(u.spend + coalesce(l.amount, 0) - b.max_budget), 0)::text
    FROM users u JOIN budgets b ON b.budget_id = u.budget_id
    LEFT JOIN (SELECT scope_id, sum(amount) AS amount FROM budget_leases WHERE scope = 'user' GROUP BY scope_id) l
        ON l.scope_id = u.user_id
    WHERE u.spend + coalesce(l.amount, 0) > b.max_budget";

/// Watches the invariant until it is dropped; panics at once when it breaks.
async fn watch(database: &Database) {
    let (client, connection) =
        tokio_postgres::connect(&database.url, tokio_postgres::NoTls).await.expect("connected");
    let look = async {
        loop {
            let row = client.query_one(OVERSPENT, &[]).await.expect("the database answers");
            assert_eq!(row.get::<_, String>(0), "0", "spend and leases are above the cap");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        ended = connection => panic!("{ended:?}"),
        () = look => {}
    }
}

async fn never_overspent(count: usize) {
    let (database, provider) = (postgres::database(), spender());
    let all = gateways(count, &database, |start| {
        start.provider("p", &provider).price("p:m", 0.0, 1000.0)
    })
    .await;
    let budget = all[0].budget(EACH * FIT as f64).await;
    all[0].user("u", Some(&budget)).await;
    let key = all[0].key("u").await;
    for gateway in &all {
        knows(gateway, &key).await;
    }

    let body = ask_with(json!({"max_tokens": 100}));
    let mut callers = JoinSet::new();
    for number in 0..CALLS {
        let gateway = &all[number % count];
        let call =
            gateway.http().post(gateway.url("/v1/chat/completions")).bearer_auth(&key).json(&body);
        callers.spawn(async move {
            let answer = call.send().await.expect("every caller gets an answer");
            (answer.status().as_u16(), answer.text().await.expect("and all of it"))
        });
    }
    let served = async {
        let mut served = 0;
        while let Some(done) = callers.join_next().await {
            match done.expect("a caller") {
                (200, _) => served += 1,
                (403, text) => assert!(text.contains("has exceeded budget limit"), "{text}"),
                (status, text) => panic!("{status}: {text}"),
            }
        }
        served
    };
    let served = tokio::select! {
        () = watch(&database) => unreachable!("it watches for ever"),
        served = served => served,
    };

    let spend = eventually("every cost to be known to everybody", async || {
        let user = all[0].read("/v1/users/u").await;
        let spend = user["spend"].as_f64()?;
        ((spend - EACH * f64::from(served)).abs() < 1e-9 && user["reserved"] == json!(0.0))
            .then_some(spend)
    })
    .await;
    assert_eq!(provider.count(), usize::try_from(served).unwrap(), "one call each");
    let cap = EACH * FIT as f64;
    println!("{count} gateways, {CALLS} calls: {served} served, {spend} of {cap} USD spent");
    assert!(spend <= cap, "never one cent past the cap: {spend} of {cap}");
    assert!(spend >= 0.98 * cap, "at least 98 % of the cap is usable: {spend} of {cap}");
}

/// Waits until the gateway has heard of a key.
async fn knows(gateway: &Gateway, key: &str) {
    eventually("the gateway to know the key", async || {
        let answer = gateway.http().get(gateway.url("/v1/pricing")).bearer_auth(key).send().await;
        (answer.expect("an answer").status() == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_never_pass_a_cap_and_use_it_up() {
    never_overspent(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_gateways_never_pass_a_cap_and_use_it_up() {
    never_overspent(3).await;
}

/// Does `change` with the first gateway and sees that the second one knows within a second.
async fn heard(what: &str, change: impl Future<Output = ()>, look: impl AsyncFn() -> bool) {
    change.await;
    let since = Instant::now();
    while !look().await {
        assert!(since.elapsed() < HEARD * 3, "nobody has heard: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Three times the promise: the tests share their two cores with each other.
    println!("{what}: heard after {:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_changed_on_one_gateway_is_heard_of_on_the_other() {
    let (database, provider) = (postgres::database(), Provider::streams(["ok"]));
    let all = gateways(2, &database, |start| priced(start, &provider)).await;
    let (here, there) = (&all[0], &all[1]);
    let status = async |key: &str, body: &Value| there.chat(key, body).await.status;

    let made = here.manage(Method::POST, "/v1/keys", json!({"user_id": "u"})).await;
    let (key, id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
    heard("a new key", async {}, async || status(key, &ask()).await == 200).await;

    let path = format!("/v1/keys/{id}");
    let revoke = async {
        here.patch(&path, json!({"is_active": false})).await;
    };
    heard("a revoked key", revoke, async || status(key, &ask()).await == 401).await;
    here.patch(&path, json!({"is_active": true})).await;
    heard("a key revived", async {}, async || status(key, &ask()).await == 200).await;

    let block = async {
        here.patch("/v1/users/u", json!({"blocked": true})).await;
    };
    heard("a blocked user", block, async || status(key, &ask()).await == 403).await;
    // By hand, as operators do.
    postgres::execute(&database.url, "UPDATE users SET blocked = false").unwrap();
    heard("a user let in by hand", async {}, async || status(key, &ask()).await == 200).await;

    let other = ask_with(json!({"model": "p:other"}));
    assert_eq!(status(key, &other).await, 402);
    let price = async {
        let body = json!({"model_key": "p:other", "input_price_per_million": 1, "output_price_per_million": 1});
        here.manage(Method::POST, "/v1/pricing", body).await;
    };
    heard("a price", price, async || status(key, &other).await == 200).await;
    let unprice = async { here.delete("/v1/pricing/p:other").await };
    heard("a price that is gone", unprice, async || status(key, &other).await == 402).await;

    let named = ask_with(json!({"model": "fast"}));
    let alias = async {
        let body = json!({"name": "fast", "target": "p:m"});
        here.manage(Method::POST, "/v1/aliases", body).await;
    };
    heard("an alias", alias, async || status(key, &named).await == 200).await;

    let setting = async {
        here.patch("/v1/settings", json!({"require_pricing": false})).await;
    };
    heard("a setting", setting, async || status(key, &other).await == 200).await;

    let budget = here.budget(1000.0).await;
    let cap = async {
        here.patch("/v1/users/u", json!({"budget_id": budget})).await;
        here.patch(&format!("/v1/budgets/{budget}"), json!({"max_budget": 0})).await;
    };
    heard("a cap", cap, async || status(key, &ask()).await == 403).await;
    let gone = async { here.delete(&path).await };
    heard("a key that is gone", gone, async || status(key, &ask()).await == 401).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cap_is_shared_whoever_spends_and_gateways_leave_what_they_do_not_need() {
    let (database, provider) = (postgres::database(), spender());
    let mut all = gateways(2, &database, |start| {
        start.provider("p", &provider).price("p:m", 0.0, 1000.0).config("budget_lease_ttl_s: 5")
    })
    .await;
    let budget = all[0].budget(EACH * 6.0).await;
    all[0].user("u", Some(&budget)).await;
    let key = all[0].key("u").await;
    knows(&all[1], &key).await;
    let body = ask_with(json!({"max_tokens": 100}));

    // The first has a part of the budget, and gives back what the second needs.
    all[0].chat(&key, &body).await.expect(200);
    for _ in 0..3 {
        all[1].chat(&key, &body).await.expect(200);
    }
    // The second dies with a part of the budget; after a while the first gets it. (What it had not yet written to the
    // database would come with its return, and be too much then: a gateway writes within 100 ms.)
    all[1].settled("u").await;
    all[1].kill9();
    eventually("the dead gateway's part", async || {
        let answer = all[0].chat(&key, &body).await;
        assert!([200, 403].contains(&answer.status), "{}", answer.text());
        (provider.count() == 6).then_some(())
    })
    .await;
    all[0].chat(&key, &body).await.refused_for_good(403);
    assert_eq!(all[0].settled("u").await, 0.6);

    // It comes back, knows what is spent, and nothing of what it had.
    all[1].restart().await;
    all[1].chat(&key, &body).await.refused_for_good(403);
    all[0].patch(&format!("/v1/budgets/{budget}"), json!({"max_budget": EACH * 7.0})).await;
    let one_more = eventually("the new cap", async || {
        let answer = all[1].chat(&key, &body).await;
        (answer.status == 200).then_some(answer)
    });
    one_more.await;
    for gateway in &all {
        gateway.chat(&key, &body).await.refused_for_good(403);
    }
}

/// A changed budget takes every lease back; calls in between are decided by what is left, not by what is on its way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_a_budget_refuses_nobody_who_has_room() {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(Gateway::start().postgres(), &provider).await;
    let budget = gateway.budget(1000.0).await;
    gateway.user("u", Some(&budget)).await;
    let key = gateway.key("u").await;
    let call = async || {
        for _ in 0..200 {
            gateway.chat(&key, &ask()).await.expect(200);
        }
    };
    let calls = futures_util::future::join_all((0..8).map(|_| call()));
    let path = format!("/v1/budgets/{budget}");
    let changes = async {
        loop {
            for max in [1000, 1001] {
                gateway.patch(&path, json!({"max_budget": max})).await;
            }
        }
    };
    tokio::select! {
        _ = calls => {}
        () = changes => {}
    }
}
