//! Recordings on their way to a provider: as they were, never in memory, on disk for nobody else and for no longer than
//! the call.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use reqwest::Method;
use serde_json::json;

use crate::operations::{answers, form, gateway, routes};
use crate::support::gateway::{Answer, Builder, Gateway};
use crate::support::provider::{Gate, Provider, Step};
use crate::support::{eventually, on_both_databases};

/// Sends a recording of these bytes.
async fn transcribe(gateway: &Gateway, key: &str, recording: &[u8]) -> Answer {
    let (kind, body) = form(Some(("long.wav", recording)), &[("model", "p:m")]);
    let bearer = format!("Bearer {key}");
    let headers = [("content-type", kind.as_str()), ("authorization", bearer.as_str())];
    gateway.send(Method::POST, "/v1/audio/transcriptions", &headers, body).await
}

/// Where they lie while they pass.
fn spool(gateway: &Gateway) -> PathBuf {
    gateway.folder().join("journal/spool")
}

/// The files of this folder that the gateway holds open: what each is called, and who may read it.
fn open_files(gateway: &Gateway, folder: &Path) -> Vec<(String, u32)> {
    let open = fs::read_dir(format!("/proc/{}/fd", gateway.pid())).expect("Linux says it");
    let open = open.flatten().map(|entry| entry.path());
    open.filter_map(|descriptor| {
        let target = fs::read_link(&descriptor).ok()?;
        let mode = fs::metadata(&descriptor).ok()?.permissions().mode();
        target.starts_with(folder).then(|| (target.display().to_string(), mode & 0o777))
    })
    .collect()
}

fn names(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, |entries| entries.count())
}

async fn a_recording_reaches_its_provider_as_it_was(start: Builder) {
    let provider = Provider::start(answers);
    let gateway = gateway(start, &provider).await;
    let key = gateway.key("u").await;
    let [.., route] = routes();
    let more = json!({"user": "u", "api_base": "http://evil.example", "timestamp_granularities[]": "word", "novel": "1"});
    route.call(&gateway, &key, more).await.expect(200);
    let sent = provider.requests().pop().unwrap();
    let kind = sent.header("content-type").unwrap();
    assert!(kind.starts_with("multipart/form-data; boundary="), "{kind}");
    assert_eq!(sent.header("content-length").unwrap(), sent.body.len().to_string());
    let body = &sent.body;
    let has = |bytes: &[u8]| body.windows(bytes.len()).any(|window| window == bytes);
    assert!(has(b"\x00OggS\r\n--not the boundary\r\n\xff\r\n--"), "the file is not touched");
    assert!(has("filename=\"speech é.ogg\"\r\nContent-Type: audio/ogg\r\n".as_bytes()));
    assert!(has(b"name=\"model\"\r\n\r\nm\r\n"), "the provider's own name of the model");
    assert!(has(b"name=\"timestamp_granularities[]\"\r\n\r\nword\r\n") && has(b"name=\"novel\""));
    assert!(!has(b"name=\"user\"") && !has(b"evil.example"), "only the gateway's: {}", sent.text());

    let srt = route.call(&gateway, &key, json!({"response_format": "srt"})).await.expect(200);
    assert!(srt.text().starts_with("1\n00:00:00,000"), "{}", srt.text());
    assert_eq!(srt.header("content-type"), Some("text/plain; charset=utf-8"));
    gateway.usage(2).await;
}

async fn a_large_recording_is_never_in_memory(start: Builder) {
    let provider = Provider::start(answers);
    let gateway = gateway(start, &provider).await;
    let key = gateway.key("u").await;
    let call = async |bytes: usize| transcribe(&gateway, &key, &vec![b'x'; bytes]).await;
    let before = gateway.peak_memory();
    call(25 << 20).await.expect(200);
    let sent = provider.requests().pop().unwrap();
    assert!(sent.body.len() > 25 << 20);
    let refusal = call((25 << 20) + 1).await.refused(413);
    assert_eq!(refusal["detail"], "Audio file exceeds maximum upload size of 25 MB");
    call(40 << 20).await.refused(413);
    let peak = gateway.peak_memory();
    println!("peak memory of the gateway: {} kB, {} before", peak >> 10, before >> 10);
    assert!(peak < 100 << 20, "{} MiB at most", peak >> 20);
    assert!(peak - before < 15 << 20, "not the recording: {} kB more", (peak - before) >> 10);
    assert_eq!(gateway.settled("u").await, 0.001);
}

async fn what_lies_on_disk_is_nobody_elses_and_gone_with_the_call(start: Builder) {
    let gate = Gate::closed();
    let shared = gate.clone();
    let provider =
        Provider::start(move |request| answers(request).before(0, Step::WaitFor(shared.clone())));
    let mut gateway = gateway(start, &provider).await;
    let key = gateway.key("u").await;
    let folder = spool(&gateway);
    let passes = async {
        let answer = transcribe(&gateway, &key, &[7; 300_000]).await;
        answer.expect(200);
    };
    let looks = async {
        provider.received(1).await;
        let open = open_files(&gateway, &folder);
        assert_eq!(open.len(), 1, "{open:?}");
        assert!(open[0].0.ends_with("(deleted)"), "it has no name: {open:?}");
        assert_eq!(open[0].1, 0o600, "{open:?}");
        assert_eq!(names(&folder), 0);
        gate.open(1);
    };
    tokio::join!(passes, looks);
    // The caller has the answer a moment before the gateway is done with the call.
    eventually("the file to be closed", async || {
        open_files(&gateway, &folder).is_empty().then_some(())
    })
    .await;

    // A kill leaves nothing either.
    let mut raw = gateway.connect().await;
    let (kind, body) = form(Some(("long.wav", &[7; 300_000])), &[("model", "p:m")]);
    let head = format!(
        "POST /v1/audio/transcriptions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: {kind}\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    raw.send(head).await;
    raw.send(body).await;
    provider.received(2).await;
    assert_eq!(open_files(&gateway, &folder).len(), 1);
    gateway.kill9();
    assert_eq!(names(&folder), 0);
    gateway.restart().await;
    assert_eq!(names(&folder), 0);
}

async fn a_disk_that_takes_nothing_is_said_at_once(start: Builder) {
    let provider = Provider::start(answers);
    let gateway = gateway(start, &provider).await;
    let key = gateway.key("u").await;
    // No folder can be made where a file is.
    fs::write(spool(&gateway), "").unwrap();
    let answer = transcribe(&gateway, &key, &[7; 300_000]).await;
    let told = "The file cannot be kept while it is passed on. Try again";
    assert_eq!(answer.refused(503)["detail"], told);
    assert_eq!((provider.count(), gateway.settled("u").await), (0, 0.0));
    fs::remove_file(spool(&gateway)).unwrap();
    transcribe(&gateway, &key, &[7; 300_000]).await.expect(200);
}

on_both_databases!(
    a_recording_reaches_its_provider_as_it_was,
    a_large_recording_is_never_in_memory,
    what_lies_on_disk_is_nobody_elses_and_gone_with_the_call,
    a_disk_that_takes_nothing_is_said_at_once,
);
