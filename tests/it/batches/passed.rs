//! Batches that their providers run.

use reqwest::Method;
use serde_json::{Value, json};

use super::{get, id, ids, make, order, results, rows, until};
use crate::support::gateway::{Builder, Gateway, MASTER};
use crate::support::manage::names;
use crate::support::mock::Mock;
use crate::support::provider::{Gate, Provider, Reply, Step, completion};
use crate::support::{COST, eventually, on_both_databases, postgres, priced};

const FIELDS: &str = "id completion_window created_at endpoint input_file_id object status cancelled_at cancelling_at \
                      completed_at error_file_id errors expired_at expires_at failed_at finalizing_at in_progress_at \
                      metadata model output_file_id request_counts usage provider";

/// A gateway before the mock as `oa` (OpenAI), `an` (Anthropic) and `mi` (Mistral), whose models `m` cost 1000 and 2000
/// USD per million tokens. Each answer has a prompt of a token and two words.
fn before(start: Builder, mock: &Mock) -> Builder {
    let mut start = start
        .provider_of("openai", "oa", &mock.url("/v1"), "")
        .provider_of("anthropic", "an", &mock.url("/v1"), "")
        .provider_of("mistral", "mi", &mock.url("/v1"), "")
        .config("batch_poll_interval_s: 3600");
    for provider in ["oa", "an", "mi"] {
        for model in
            ["m?chunks=2", "m?chunks=2&polls=2", "m?chunks=2&end=expired", "m?chunks=2&polls=9999"]
        {
            start = start.price(&format!("{provider}:{model}"), 1000.0, 2000.0);
        }
    }
    start
}

/// What an answer costs.
const EACH: f64 = 0.005;

async fn a_batch_goes_its_way_at_openai(start: Builder) {
    let mock = Mock::start();
    let gateway = before(start, &mock).await;
    let key = gateway.key("u").await;
    let mut body = order("oa:m?chunks=2&polls=2", &["a", "b", "fail-429-c"]);
    body["metadata"] = json!({"k": "v"});
    body["requests"][0]["body"] = json!({"model": "other", "messages": [{"role": "user", "content": "hi"}],
        "stream": true, "api_key": "sk-mine", "base_url": "http://evil", "session_label": "s", "user": "label",
        "temperature": 0.5});
    let made = gateway.post(&key, "/v1/batches", body.to_string()).await.expect(200).json();
    assert_eq!(names(&made), FIELDS);
    assert_eq!((&made["status"], &made["provider"]), (&json!("validating"), &json!("oa")));
    assert_eq!(made["metadata"], json!({"k": "v"}), "whose it is, is nobody's business");
    let id = id(&made).to_owned();

    let sent = mock.requests(&gateway).await;
    let paths: Vec<&str> = sent.iter().map(|it| it["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/v1/files", "/v1/batches"]);
    let create: Value = serde_json::from_str(sent[1]["body"].as_str().unwrap()).unwrap();
    assert_eq!(create["metadata"], json!({"k": "v", "otari_user_id": "u"}));
    let upload = sent[0]["body"].as_str().unwrap();
    let lines: Vec<Value> = upload
        .lines()
        .filter(|it| it.starts_with('{'))
        .map(|it| serde_json::from_str(it).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    let expected = json!({"model": "m?chunks=2&polls=2", "messages": [{"role": "user", "content": "hi"}],
        "user": "label", "temperature": 0.5});
    assert_eq!(lines[0]["body"], expected);

    let path = format!("/v1/batches/{id}");
    let first = get(&gateway, &key, &format!("{path}?provider=OA")).await.expect(200).json();
    assert_eq!(
        (&first["status"], &first["provider"]),
        (&json!("in_progress"), &json!("OA")),
        "as it was asked"
    );
    let done = get(&gateway, &key, &path).await.expect(200).json();
    assert_eq!((&done["status"], &done["metadata"]), (&json!("completed"), &json!({"k": "v"})));
    assert_eq!(done["request_counts"], json!({"total": 3, "completed": 2, "failed": 1}));

    let found = results(&gateway, &key, &id).await;
    assert_eq!(found.len(), 3);
    assert_eq!(found[0]["result"]["usage"]["completion_tokens"], 2);
    assert_eq!(
        (names(&found[0]).as_str(), &found[0]["error"]),
        ("custom_id result error", &Value::Null)
    );
    assert_eq!(found[2]["custom_id"], "fail-429-c");
    assert_eq!(
        (&found[2]["result"], &found[2]["error"]["message"]),
        (&Value::Null, &json!("mock: as asked"))
    );
    assert!((gateway.settled("u").await - 2.0 * EACH).abs() < 1e-9);

    results(&gateway, &key, &id).await;
    let fetched = rows(&gateway, "/v1/batches/results", 2).await;
    let charged: Vec<&Value> = fetched.iter().filter(|row| !row["cost"].is_null()).collect();
    let [charged] = charged[..] else { panic!("{fetched:#?}") };
    assert_eq!((&charged["prompt_tokens"], &charged["completion_tokens"]), (&json!(2), &json!(4)));
    assert_eq!((&charged["provider"], &charged["user_id"]), (&json!("oa"), &json!("u")));
    let created = rows(&gateway, "/v1/batches", 1).await;
    assert_eq!((&created[0]["status"], &created[0]["cost"]), (&json!("success"), &Value::Null));
    assert!((gateway.settled("u").await - 2.0 * EACH).abs() < 1e-9, "once");
}

async fn what_has_not_ended_has_no_results_and_can_be_cancelled(start: Builder) {
    let mock = Mock::start();
    let gateway = before(start, &mock).await;
    let key = gateway.key("u").await;
    let slow = make(&gateway, &key, "oa:m?chunks=2&polls=9999", &["a"]).await;
    let slow = super::id(&slow);
    let path = format!("/v1/batches/{slow}");
    let refused = get(&gateway, &key, &format!("{path}/results?provider=oa")).await.refused(409);
    let expected = format!(
        "Batch '{slow}' is not yet complete (status: in_progress). Call GET /v1/batches/{slow}?provider=oa to check \
         the current status."
    );
    assert_eq!(refused["detail"], expected);
    let cancelled = gateway.post(&key, &format!("{path}/cancel"), "").await.expect(200).json();
    assert_eq!((names(&cancelled).as_str(), &cancelled["status"]), (FIELDS, &json!("cancelling")));
    until(&gateway, &key, slow, "cancelled").await;
    assert_eq!(results(&gateway, &key, slow).await.len(), 1, "what there is of it");
}

async fn anthropic_and_mistral_have_ways_of_their_own(start: Builder) {
    let mock = Mock::start();
    let gateway = before(start, &mock).await;
    let key = gateway.key("u").await;
    for (provider, prefix) in [("an", "msgbatch_"), ("mi", "batch_")] {
        let model = format!("{provider}:m?chunks=2");
        let mut body = order(&model, &["a", "own", "fail-400-c", "lost"]);
        body["requests"][0]["body"] = json!({"messages": [{"role": "system", "content": "S"},
            {"role": "user", "content": "hi"}], "max_tokens": 50});
        if provider == "an" {
            body["requests"][1]["body"] = json!({"max_tokens": 50, "system": "S", "top_k": 3,
                "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]});
        }
        let made = gateway.post(&key, "/v1/batches", body.to_string()).await.expect(200).json();
        assert_eq!((names(&made).as_str(), &made["object"]), (FIELDS, &json!("batch")));
        assert!(id(&made).starts_with(prefix), "{made}");
        let done = until(&gateway, &key, id(&made), "completed").await;
        assert_eq!(done["request_counts"]["total"], 4, "{done}");
        let found = results(&gateway, &key, id(&made)).await;
        let of = |name: &str| found.iter().find(|it| it["custom_id"] == name).unwrap();
        for answered in ["a", "own"] {
            let result = &of(answered)["result"];
            assert_eq!(
                (&result["object"], &result["model"]),
                (&json!("chat.completion"), &json!("m?chunks=2"))
            );
            assert_eq!(result["choices"][0]["message"]["content"], "lorem ipsum", "{provider}");
        }
        assert_eq!(of("fail-400-c")["error"]["message"], "mock: as asked", "{found:#?}");
        let lost = if provider == "an" { "expired" } else { "batch_expired" };
        assert_eq!(
            (&of("lost")["result"], &of("lost")["error"]["code"]),
            (&Value::Null, &json!(lost))
        );
    }
    let spend = gateway.settled("u").await;
    assert!((spend - 4.0 * EACH).abs() < 0.01, "four answers: {spend}");
    rows(&gateway, "/v1/batches/results", 2).await;
}

async fn a_batch_is_its_makers(start: Builder) {
    let mock = Mock::start();
    let gateway = before(start, &mock).await;
    let (mine, yours) = (gateway.key("me").await, gateway.key("you").await);
    let made = make(&gateway, &mine, "oa:m?chunks=2", &["a"]).await;
    let (first, path) = (id(&made).to_owned(), format!("/v1/batches/{}", id(&made)));
    let second = make(&gateway, &yours, "oa:m?chunks=2", &["a"]).await;
    let second = id(&second).to_owned();

    for tail in ["", "/results"] {
        let refused =
            get(&gateway, &yours, &format!("{path}{tail}?provider=oa")).await.refused(404);
        assert_eq!(refused["detail"], format!("Batch '{first}' not found"));
        get(&gateway, &yours, &format!("{path}{tail}")).await.refused(422);
        get(&gateway, MASTER, &format!("{path}{tail}")).await.expect(200);
    }
    gateway.post(&yours, &format!("{path}/cancel?provider=oa"), "").await.refused(404);

    // Made behind the gateway's back: by nobody, by another gateway for `me`.
    let create = async |metadata: Value| {
        let lines = "{\"custom_id\":\"x\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{\"model\":\"m\",\
                     \"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}}";
        let form = format!(
            "--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--b\r\nContent-Disposition: \
             form-data; name=\"file\"; filename=\"x.jsonl\"\r\n\r\n{lines}\r\n--b--\r\n"
        );
        let http = gateway.http();
        let kind = "multipart/form-data; boundary=b";
        let file = http.post(mock.url("/v1/files")).header("content-type", kind).body(form);
        let file: Value =
            serde_json::from_str(&file.send().await.unwrap().text().await.unwrap()).unwrap();
        let body = json!({"input_file_id": file["id"], "endpoint": "/v1/chat/completions",
                          "completion_window": "24h", "metadata": metadata});
        let made = http.post(mock.url("/v1/batches")).body(body.to_string()).send().await.unwrap();
        let made: Value = serde_json::from_str(&made.text().await.unwrap()).unwrap();
        id(&made).to_owned()
    };
    let nobodys = create(json!({})).await;
    let marked = create(json!({"otari_user_id": "me"})).await;
    for tail in ["", "/results"] {
        let of = |id: &str| format!("/v1/batches/{id}{tail}?provider=oa");
        get(&gateway, &yours, &of(&nobodys)).await.expect(200);
        get(&gateway, &yours, &of(&marked)).await.refused(404);
        let shown = get(&gateway, &mine, &of(&marked)).await.expect(200).text();
        assert!(!shown.contains("otari_user_id"), "{shown}");
    }
    gateway
        .post(&yours, &format!("/v1/batches/{marked}/cancel?provider=oa"), "")
        .await
        .refused(404);

    let list = async |key: &str, query: &str| {
        get(&gateway, key, &format!("/v1/batches{query}")).await.expect(200).json()
    };
    let all = [&marked, &nobodys, &second, &first].map(String::as_str);
    assert_eq!(ids(&list(MASTER, "?provider=oa").await), all);
    assert_eq!(ids(&list(&yours, "?provider=oa").await), [&*nobodys, &*second]);
    let page = list(&mine, "?provider=oa&limit=2").await;
    assert_eq!(ids(&page), [&*marked, &*nobodys]);
    assert_eq!((&page["has_more"], &page["last_id"]), (&json!(true), &json!(nobodys)));
    let page = list(&mine, &format!("?provider=oa&limit=2&after={nobodys}")).await;
    assert_eq!((ids(&page), &page["has_more"]), (vec![&*first], &json!(false)));
    assert_eq!(ids(&list(&mine, "").await), [&*first], "those that are known here");
    assert_eq!(ids(&list(MASTER, "").await), [&*second, &*first]);
    // Charged to whom they belong, whoever looked.
    assert!((gateway.settled("me").await - EACH).abs() < 1e-9);
    assert_eq!(gateway.settled("you").await, 0.0);
}

async fn what_there_is_of_an_expired_batch_is_there(start: Builder) {
    let mock = Mock::start();
    let gateway = before(start, &mock).await;
    let key = gateway.key("u").await;
    let made = make(&gateway, &key, "oa:m?chunks=2&end=expired", &["a", "lost-1", "b"]).await;
    until(&gateway, &key, id(&made), "expired").await;
    let found = results(&gateway, &key, id(&made)).await;
    let named: Vec<&str> = found.iter().map(|it| it["custom_id"].as_str().unwrap()).collect();
    assert_eq!(named, ["a", "b", "lost-1"]);
    assert_eq!(found[2]["error"]["code"], "batch_expired");
    assert!((gateway.settled("u").await - 2.0 * EACH).abs() < 1e-9);
}

async fn a_batch_nobody_asks_after_is_charged_all_the_same(start: Builder) {
    let mock = Mock::start();
    let mut gateway = before(start, &mock).config("batch_poll_interval_s: 1").await;
    let budget = gateway.budget(1.5 * EACH).await;
    gateway.user("u", Some(&budget)).await;
    let key = gateway.key("u").await;
    let order = short("oa:m?chunks=2&polls=2", &["a"]).to_string();
    let made = gateway.post(&key, "/v1/batches", order.clone()).await.expect(200).json();
    let spend = eventually("the batch to be charged", async || {
        let spend = gateway.settled("u").await;
        (spend > 0.0).then_some(spend)
    })
    .await;
    assert!((spend - EACH).abs() < 1e-9);
    gateway.post(&key, "/v1/batches", order).await.refused(403);
    assert!(gateway.terminate().await.success());
    gateway.restart().await;
    results(&gateway, &key, id(&made)).await;
    results(&gateway, &key, id(&made)).await;
    assert!((gateway.settled("u").await - EACH).abs() < 1e-9, "once, whoever asks");
    let fetched = rows(&gateway, "/v1/batches/results", 3).await;
    assert_eq!(fetched.iter().filter(|row| !row["cost"].is_null()).count(), 1);
}

/// Such a batch whose answers have two tokens at most, so that each is held at [`EACH`].
fn short(model: &str, names: &[&str]) -> Value {
    let mut order = order(model, names);
    for item in order["requests"].as_array_mut().unwrap() {
        item["body"]["max_tokens"] = json!(2);
    }
    order
}

async fn a_batch_holds_what_all_its_items_may_cost_until_it_is_charged(start: Builder) {
    let mock = Mock::start();
    let mut gateway = before(start, &mock).await;
    let budget = gateway.budget(4.0 * EACH).await;
    gateway.user("u", Some(&budget)).await;
    let key = gateway.key("u").await;
    let post = async |gateway: &Gateway, names: &[&str]| {
        let order = short("oa:m?chunks=2&polls=2", names).to_string();
        gateway.post(&key, "/v1/batches", order).await
    };
    let names: Vec<String> = (0..8).map(|n| n.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let refused = post(&gateway, &names).await.refused(403);
    assert_eq!(refused["error"]["code"], "budget_exceeded");
    assert_eq!(mock.requests(&gateway).await.len(), 0, "its provider is not asked");
    assert_eq!(gateway.settled("u").await, 0.0, "and nothing is held");

    let made = post(&gateway, &names[..3]).await.expect(200).json();
    let chat = async |gateway: &Gateway, max_tokens: u64| {
        let body = json!({"model": "oa:m?chunks=2", "max_tokens": max_tokens,
            "messages": [{"role": "user", "content": "hi"}]});
        gateway.post(&key, "/v1/chat/completions", body.to_string()).await
    };
    let is_held = async |gateway: &Gateway, items: f64| {
        let user = gateway.read("/v1/users/u").await;
        let budget = gateway.read(&format!("/v1/budgets/{budget}")).await;
        let reserved = [&user["reserved"], &budget["total_reserved"]].map(Value::as_f64);
        for reserved in reserved {
            assert!((reserved.unwrap() - items * EACH).abs() < 1e-9, "{reserved:?} of {items}");
        }
    };
    is_held(&gateway, 3.0).await;
    chat(&gateway, 3).await.refused(403);
    assert!(post(&gateway, &names[..2]).await.refused(403)["detail"].is_string());
    chat(&gateway, 2).await.expect(200);

    // Neither an orderly end nor a crash loses it.
    assert!(gateway.terminate().await.success());
    gateway.restart().await;
    is_held(&gateway, 3.0).await;
    chat(&gateway, 2).await.refused(403);
    gateway.kill9();
    gateway.restart().await;
    is_held(&gateway, 3.0).await;
    chat(&gateway, 1).await.refused(403);

    until(&gateway, &key, id(&made), "completed").await;
    is_held(&gateway, 3.0).await;
    for _ in 0..2 {
        results(&gateway, &key, id(&made)).await;
        assert!(
            (gateway.settled("u").await - 4.0 * EACH).abs() < 1e-9,
            "charged once, held no more"
        );
    }
}

async fn what_a_batch_does_not_use_is_given_back(start: Builder) {
    let mock = Mock::start();
    let refusing = Provider::start(|request| match request.path.as_str() {
        "/v1/files" => Reply::json(200, &json!({"id": "file-1", "object": "file"})),
        _ => Reply::json(400, &json!({"error": {"message": "too many batches"}})),
    });
    let gateway = before(start, &mock)
        .provider_of("openai", "no", &refusing.base(), "")
        .price("no:m", 1000.0, 2000.0)
        .config("batch_poll_interval_s: 1")
        .await;
    let budget = gateway.budget(4.0 * EACH).await;
    gateway.user("u", Some(&budget)).await;
    let made = gateway.manage(Method::POST, "/v1/keys", json!({"user_id": "u"})).await;
    let (key, key_id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
    let cap = json!({"scope_type": "api_token", "scope_id": key_id, "budget_id": budget});
    let ceiling = gateway.manage(Method::POST, "/v1/scoped-budgets", cap).await;
    let ceiling = format!("/v1/scoped-budgets/{}", ceiling["id"].as_str().unwrap());
    let held = async || gateway.read(&ceiling).await["reserved_spend"].as_f64().unwrap();
    let post = async |order: Value| gateway.post(key, "/v1/batches", order.to_string()).await;

    post(short("no:m", &["a", "b"])).await.refused(400);
    assert_eq!((refusing.count(), held().await), (2, 0.0), "its provider has done nothing");

    // One of two gets no answer.
    let made = post(short("oa:m?chunks=2", &["a", "fail-400-b"])).await.expect(200).json();
    assert!(held().await > EACH, "the cap over the key holds it too");
    until(&gateway, key, id(&made), "completed").await;
    assert!((gateway.settled("u").await - EACH).abs() < 1e-9);
    assert_eq!(held().await, 0.0);

    // One that is cancelled is charged for what there is of it.
    let made = post(short("oa:m?chunks=2&polls=9999", &["a", "b", "c"])).await.expect(200).json();
    post(short("oa:m?chunks=2", &["a"])).await.refused(403);
    let cancel = format!("/v1/batches/{}/cancel", id(&made));
    gateway.post(key, &cancel, "").await.expect(200);
    assert!((gateway.settled("u").await - 4.0 * EACH).abs() < 1e-9);
    assert_eq!(held().await, 0.0);
}

async fn a_model_without_a_price_is_charged_when_it_has_one(start: Builder) {
    let mock = Mock::start();
    let gateway = before(start, &mock).await;
    let key = gateway.key("u").await;
    let made = make(&gateway, &key, "oa:new?chunks=2", &["a"]).await;
    until(&gateway, &key, id(&made), "completed").await;
    results(&gateway, &key, id(&made)).await;
    assert_eq!(gateway.settled("u").await, 0.0);
    let price = json!({"model_key": "oa:new?chunks=2", "input_price_per_million": 1000,
                       "output_price_per_million": 2000});
    gateway.manage(Method::POST, "/v1/pricing", price).await;
    results(&gateway, &key, id(&made)).await;
    assert!((gateway.settled("u").await - EACH).abs() < 1e-9);
}

async fn a_server_without_files_leaves_its_batches_to_the_gateway(start: Builder) {
    let provider = Provider::start(|request| match request.path.as_str() {
        "/v1/chat/completions" => Reply::chat(request, &["ok"]),
        _ => Reply::json(404, &json!({"error": {"message": "no such route"}})),
    });
    let gateway = crate::support::priced(start, &provider).await;
    let key = gateway.key("u").await;
    let made = make(&gateway, &key, "p:m", &["a", "b"]).await;
    until(&gateway, &key, id(&made), "completed").await;
    assert_eq!(results(&gateway, &key, id(&made)).await.len(), 2);
    let list = get(&gateway, &key, "/v1/batches?provider=p").await.expect(200).json();
    assert_eq!(ids(&list), [id(&made)]);
}

async fn who_leaves_in_the_middle_of_the_results_is_charged_once_all_the_same(start: Builder) {
    let gate = Gate::closed();
    let shared = gate.clone();
    let line = |name: &str, text: &str| {
        let response = json!({"status_code": 200, "body": completion(text)});
        format!("{}\n", json!({"custom_id": name, "response": response, "error": null}))
            .into_bytes()
    };
    let provider = Provider::start(move |request| match request.path.as_str() {
        "/v1/files" => Reply::json(200, &json!({"id": "file-in", "object": "file"})),
        "/v1/files/file-out/content" => {
            let begun = Reply::bytes(200, "application/jsonl", line("a", &"x".repeat(300_000)));
            begun.then(Step::WaitFor(shared.clone())).then(Step::Send(line("b", "ok")))
        }
        _ => Reply::json(
            200,
            &json!({"id": "batch_1", "object": "batch", "status": "completed", "output_file_id": "file-out",
                "request_counts": {"total": 2, "completed": 2, "failed": 0}}),
        ),
    });
    let gateway = priced(start, &provider).config("batch_poll_interval_s: 3600").await;
    let key = gateway.key("u").await;
    let made = make(&gateway, &key, "p:m", &["a", "b"]).await;
    let mut raw = gateway.connect().await;
    let path = format!("/v1/batches/{}/results", id(&made));
    raw.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n"))
        .await;
    raw.until(b"xxxxxxxx").await;
    assert_eq!(gateway.settled("u").await, 0.0, "not before the last one is here");
    raw.reset();
    gate.open(2);
    assert_eq!(results(&gateway, &key, id(&made)).await.len(), 2);
    assert!((gateway.settled("u").await - 2.0 * COST).abs() < 1e-9);
    let rows = gateway.all_usage().await;
    let charged = rows.iter().filter(|row| !row["cost"].is_null()).count();
    assert_eq!(charged, 1, "{rows:#?}");
}

on_both_databases!(
    who_leaves_in_the_middle_of_the_results_is_charged_once_all_the_same,
    a_batch_goes_its_way_at_openai,
    what_has_not_ended_has_no_results_and_can_be_cancelled,
    anthropic_and_mistral_have_ways_of_their_own,
    a_batch_is_its_makers,
    what_there_is_of_an_expired_batch_is_there,
    a_batch_nobody_asks_after_is_charged_all_the_same,
    a_batch_holds_what_all_its_items_may_cost_until_it_is_charged,
    what_a_batch_does_not_use_is_given_back,
    a_model_without_a_price_is_charged_when_it_has_one,
    a_server_without_files_leaves_its_batches_to_the_gateway,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_charge_once() {
    let (database, mock) = (postgres::database(), Mock::start());
    let url = format!("database_url: {}", database.url);
    let poll = "batch_poll_interval_s: 1";
    let one = before(Gateway::start().config(&url), &mock).config(poll).await;
    let two = before(Gateway::start().config(&url), &mock).config(poll).await;
    let key = one.key("u").await;
    eventually("the key to be known", async || {
        (get(&two, &key, "/v1/batches").await.status == 200).then_some(())
    })
    .await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(make(&one, &key, "oa:m?chunks=2", &["a"]).await);
    }
    for batch in &made {
        until(&one, &key, id(batch), "completed").await;
    }
    for batch in &made {
        let read = [&one, &two, &one, &two].map(|gateway| results(gateway, &key, id(batch)));
        futures_util::future::join_all(read).await;
    }
    let charged = eventually("the rows", async || {
        let mut rows = one.all_usage().await;
        rows.retain(|row| row["endpoint"] == "/v1/batches/results");
        let charged = rows.iter().filter(|row| !row["cost"].is_null()).count();
        (rows.len() >= 20).then_some(charged)
    })
    .await;
    assert_eq!(charged, made.len());
    for gateway in [&one, &two] {
        let spend = eventually("the spend", async || {
            let spend = gateway.settled("u").await;
            ((spend - 5.0 * EACH).abs() < 1e-9).then_some(spend)
        });
        spend.await;
    }
}
