//! Recordings that do not come to their end, or must not: who is told what, and that nobody pays for half a form.

use serde_json::{Value, json};

use super::{Door, HEARD, Upload, before, open_files, reply, spool};
use crate::support::gateway::{Builder, Gateway};
use crate::support::raw::Raw;
use crate::support::{eventually, on_both_databases};

const MODEL: (&str, &str) = ("model", "p:m");
const NOT_KEPT: &str = "The file cannot be kept while it is passed on. Try again";

/// The provider was left alone before the end of its request.
async fn is_left(mut provider: Raw, promised: usize) {
    let sent = provider.rest().await.unwrap_or_default();
    assert!(sent.len() < promised, "{} of {promised} bytes", sent.len());
}

/// The only row of a call that came to nothing: what it says, and that nobody pays.
async fn is_free(gateway: &Gateway, user: &str, count: usize) -> (Value, Value) {
    assert_eq!(gateway.settled(user).await, 0.0);
    let row = gateway.usage(count).await.remove(0);
    assert_eq!((&row["status"], &row["cost"]), (&json!("error"), &Value::Null), "{row}");
    assert_eq!((&row["provider"], &row["user_id"]), (&json!("p"), &json!(user)), "{row}");
    (row["status_code"].clone(), row["error_message"].clone())
}

async fn a_caller_who_leaves_half_way_owes_nothing(start: Builder) {
    let door = Door::open().await;
    let gateway = before(start, &[&door]).await;
    let key = gateway.key("u").await;
    let upload = Upload::new(&[MODEL], 300_000, &[]);
    for (at, does_reset) in [true, false].into_iter().enumerate() {
        let caller = upload.begin(&gateway, &key, 100_000).await;
        let (mut provider, _) = door.request().await;
        provider.holds(90_000).await;
        if does_reset {
            caller.reset()
        } else {
            drop(caller)
        }
        is_left(provider, upload.len()).await;
        let seen = is_free(&gateway, "u", at + 1).await;
        assert_eq!(seen, (json!(499), json!("client_disconnected")));
    }
    eventually("the file to be closed", async || {
        open_files(&gateway, &spool(&gateway)).is_empty().then_some(())
    })
    .await;
}

async fn a_caller_who_stalls_is_told_and_owes_nothing(start: Builder) {
    let door = Door::open().await;
    let gateway = before(start, &[&door]).config("request_body_timeout_s: 1").await;
    let key = gateway.key("u").await;
    let upload = Upload::new(&[MODEL], 300_000, &[]);
    let mut caller = upload.begin(&gateway, &key, 100_000).await;
    let (provider, _) = door.request().await;
    let told = caller.reply().await;
    assert!(
        told.status == 408 && told.text().contains("request_body_timeout_s"),
        "{}",
        told.text()
    );
    is_left(provider, upload.len()).await;
    assert_eq!(is_free(&gateway, "u", 1).await, (json!(408), json!("body_timeout")));
}

async fn a_form_that_is_none_behind_its_beginning_costs_nothing(start: Builder) {
    let door = Door::open().await;
    let gateway = before(start, &[&door]).await;
    let key = gateway.key("u").await;
    gateway.user("other", None).await;
    let fields = |behind: &[(&str, &str)]| Upload::new(&[MODEL], 200_000, behind);
    let mut cut = fields(&[]);
    cut.back = b"\r\n".to_vec();
    let mut two = fields(&[]);
    let again = Upload::new(&[], 10, &[]);
    two.back.truncate(2);
    two.back.extend_from_slice(&[again.front, again.file, again.back].concat());
    for (at, (upload, status, code, words)) in [
        (cut, 400, "invalid_value", "multipart/form-data"),
        (two, 400, "invalid_value", "more than one file"),
        (fields(&[("model", "p:dear")]), 400, "invalid_value", "'model' comes again"),
        (fields(&[("model", "")]), 422, "invalid_fields", "Field required"),
        (fields(&[("temperature", "warm")]), 422, "invalid_fields", "number"),
        (fields(&[("user", "other")]), 403, "user_mismatch", "does not match"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut caller = upload.begin(&gateway, &key, 100_000).await;
        let (mut provider, _) = door.request().await;
        provider.holds(90_000).await;
        upload.end(&mut caller, 100_000).await;
        let told = caller.reply().await;
        assert_eq!(told.status, status, "{}", told.text());
        assert!(told.text().contains(words), "{}", told.text());
        is_left(provider, upload.len()).await;
        let (row_status, message) = is_free(&gateway, "u", at + 1).await;
        assert_eq!((row_status, message), (json!(status), json!(code)));
    }
}

/// Nobody sends 25 MB to be told that they may not.
async fn who_is_refused_is_told_before_the_file(start: Builder) {
    let door = Door::open().await;
    let gateway = before(start, &[&door]).await;
    let broke = gateway.budget(0.0).await;
    gateway.user("u", Some(&broke)).await;
    let key = gateway.key("u").await;
    let upload = Upload::new(&[MODEL], 300_000, &[]);
    let mut caller = upload.begin(&gateway, &key, 1000).await;
    let told = caller.reply().await;
    assert!(told.status == 403 && told.text().contains("budget"), "{}", told.text());
    assert!(door.is_alone().await && !spool(&gateway).exists());
}

/// A gateway before these whose disk for recordings and for what calls cost holds a megabyte.
async fn cramped(start: Builder, doors: &[&Door]) -> Option<Gateway> {
    let Some(start) = before(start, doors).small_disk("journal", 1024) else {
        eprintln!("skipped: this system does not allow namespaces to whoever runs the tests");
        return None;
    };
    Some(start.await)
}

/// How many files without a name it holds open, wherever.
fn nameless(gateway: &Gateway) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).expect("Linux says it");
    let targets = open.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.filter(|target| target.to_string_lossy().ends_with("(deleted)")).count()
}

async fn a_disk_that_fills_half_way_takes_nothing_but_the_second_attempt(start: Builder) {
    let (first, second) = (Door::open().await, Door::open().await);
    let Some(gateway) = cramped(start, &[&first, &second]).await else { return };
    let key = gateway.key("u").await;
    let told = "a recording cannot be kept";
    assert!(!gateway.log().contains(told));
    // The first attempt needs nothing of it.
    let upload = Upload::new(&[("model", "safe")], 3 << 20, &[("language", "en")]);
    let plain = Upload::new(&[MODEL], 3 << 20, &[("language", "en")]);
    let mut caller = upload.begin(&gateway, &key, 2 << 20).await;
    let (mut provider, headers) = first.request().await;
    provider.holds(3 << 19).await;
    assert_eq!(nameless(&gateway), 0, "what is of no use goes at once");
    upload.end(&mut caller, 2 << 20).await;
    let body = provider.request_body(&headers).await.expect("a whole body");
    assert!(body == plain.as_sent(&headers), "{} bytes", body.len());
    provider.send(reply(200, HEARD)).await;
    assert_eq!(caller.reply().await.text(), HEARD);
    provider.reset();
    assert_eq!(gateway.settled("u").await, 0.001);
    let said = async || (gateway.log().matches(told).count() == 1).then_some(());
    eventually("the log to say it once", said).await;

    // A second one cannot be made.
    let mut caller = upload.begin(&gateway, &key, 2 << 20).await;
    let (mut provider, _) = first.request().await;
    provider.holds(3 << 19).await;
    provider.send(reply(429, r#"{"error":{"message":"busy"}}"#)).await;
    let refused = caller.reply().await;
    assert_eq!((refused.status, &refused.json()["detail"]), (503, &json!(NOT_KEPT)));
    assert!(second.is_alone().await);
    let row = gateway.usage(2).await.remove(0);
    assert_eq!((&row["status"], &row["status_code"]), (&json!("error"), &json!(429)), "{row}");
    assert_eq!(gateway.settled("u").await, 0.001);

    // One that has to be here first is not taken.
    let late = Upload::new(&[], 3 << 20, &[MODEL]);
    let mut caller = late.begin(&gateway, &key, 2 << 20).await;
    let refused = caller.reply().await;
    assert_eq!((refused.status, &refused.json()["detail"]), (503, &json!(NOT_KEPT)));
    assert!(first.is_alone().await);
    // And one that must be sent again for its length neither.
    let odd = Upload::new(&[MODEL], 3 << 20, &[("user", "u")]);
    let mut caller = odd.begin(&gateway, &key, 2 << 20).await;
    let (provider, _) = first.request().await;
    let reads = is_left(provider, odd.len());
    let sends = async {
        odd.end(&mut caller, 2 << 20).await;
        caller.reply().await
    };
    let (refused, ()) = tokio::join!(sends, reads);
    assert_eq!((refused.status, &refused.json()["detail"]), (503, &json!(NOT_KEPT)));
    assert_eq!(gateway.settled("u").await, 0.001);

    // There is room again.
    let small = Upload::new(&[], 500_000, &[MODEL]);
    let mut caller = small.begin(&gateway, &key, 100_000).await;
    let kept = async || (nameless(&gateway) == 1).then_some(());
    eventually("what has come to be on disk", kept).await;
    small.end(&mut caller, 100_000).await;
    let (mut provider, headers) = first.request().await;
    provider.request_body(&headers).await.expect("a whole body");
    provider.send(reply(200, HEARD)).await;
    assert_eq!(caller.reply().await.status, 200);
    assert_eq!(gateway.settled("u").await, 0.002);
    // What the calls cost was written where the recordings did not fit.
    let rows = gateway.usage(4).await;
    let cost = |row: &Value| row["cost"].as_f64().unwrap_or(0.0);
    assert_eq!(rows.iter().map(cost).sum::<f64>(), 0.002, "{rows:#?}");
}

#[tokio::test]
async fn a_stopping_gateway_does_not_wait_for_the_rest() {
    let door = Door::open().await;
    let mut gateway = before(Gateway::start(), &[&door]).config("drain_s: 1").await;
    let key = gateway.key("u").await;
    let upload = Upload::new(&[MODEL], 300_000, &[]);
    let mut caller = upload.begin(&gateway, &key, 100_000).await;
    let (mut provider, _) = door.request().await;
    provider.holds(90_000).await;
    gateway.signal_term();
    let told = caller.reply().await;
    assert!(told.status == 503 && told.text().contains("shutting down"), "{}", told.text());
    is_left(provider, upload.len()).await;
    drop(caller);
    gateway.ended().await;
    gateway.restart().await;
    assert_eq!(is_free(&gateway, "u", 1).await, (json!(503), json!("draining")));
}

on_both_databases!(
    a_caller_who_leaves_half_way_owes_nothing,
    a_caller_who_stalls_is_told_and_owes_nothing,
    a_form_that_is_none_behind_its_beginning_costs_nothing,
    who_is_refused_is_told_before_the_file,
    a_disk_that_fills_half_way_takes_nothing_but_the_second_attempt,
);
