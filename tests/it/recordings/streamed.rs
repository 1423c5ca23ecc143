//! Recordings that are sent on while they come: what a provider sees and when, and what the next one gets.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Door, HEARD, Upload, before, open_files, reply, spool};
use crate::support::gateway::{Builder, Gateway, MASTER};
use crate::support::raw::{Headers, header_of};
use crate::support::sdk::Sdk;
use crate::support::{eventually, on_both_databases};

const MODEL: (&str, &str) = ("model", "p:m");

fn length_of(headers: &Headers) -> Option<usize> {
    header_of(headers, "content-length").map(|length| length.parse().expect("a number"))
}

async fn a_provider_has_the_first_bytes_before_the_caller_has_sent_the_last(start: Builder) {
    let door = Door::open().await;
    let gateway = before(start, &[&door]).await;
    let upload = Upload::new(&[MODEL, ("language", "en")], 300_000, &[]);
    for is_chunked in [false, true] {
        let user = format!("u{is_chunked}");
        let key = gateway.key(&user).await;
        let chunk = |bytes: &[u8]| match is_chunked {
            false => bytes.to_vec(),
            true => [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat(),
        };
        let mut caller = match is_chunked {
            false => upload.begin(&gateway, &key, 100_000).await,
            true => {
                let mut caller = gateway.connect().await;
                caller.send(upload.head(&key, "transfer-encoding: chunked")).await;
                caller.send(chunk(&upload.front)).await;
                caller.send(chunk(&upload.file[..100_000])).await;
                caller
            }
        };
        let (mut provider, headers) = door.request().await;
        provider.holds(90_000).await;
        let coding = header_of(&headers, "transfer-encoding");
        match is_chunked {
            // The model's own name is two bytes shorter.
            false => assert_eq!((length_of(&headers), coding), (Some(upload.len() - 2), None)),
            true => assert_eq!((length_of(&headers), coding), (None, Some("chunked"))),
        }
        let kept = open_files(&gateway, &spool(&gateway));
        assert!(kept.len() == 1 && kept[0].2 > 90_000 && kept[0].2 <= 100_000, "{kept:?}");
        caller.send(chunk(&upload.file[100_000..])).await;
        caller.send(chunk(&upload.back)).await;
        if is_chunked {
            caller.send("0\r\n\r\n").await;
        }
        let body = provider.request_body(&headers).await.expect("a whole body");
        assert!(body == upload.as_sent(&headers), "{} bytes", body.len());
        provider.send(reply(200, HEARD)).await;
        let heard = caller.reply().await;
        assert_eq!((heard.status, heard.text().as_str()), (200, HEARD));
        assert_eq!(gateway.settled(&user).await, 0.001);
        provider.reset();
    }
    for row in gateway.usage(2).await {
        assert_eq!((&row["status"], &row["cost"]), (&json!("success"), &json!(0.001)), "{row}");
    }
}

async fn the_next_attempt_gets_the_same_bytes(start: Builder) {
    let (first, second) = (Door::open().await, Door::open().await);
    let gateway = before(start, &[&first, &second]).await;
    let upload = Upload::new(&[("model", "safe")], 400_000, &[("language", "en")]);
    for (at, how) in ["busy", "closes", "resets"].into_iter().enumerate() {
        let key = gateway.key(how).await;
        let mut caller = upload.begin(&gateway, &key, 100_000).await;
        let (mut provider, _) = first.request().await;
        provider.holds(50_000).await;
        let left = match how {
            "busy" => {
                // It would read on, and the connection with it.
                provider.send(reply(503, r#"{"error":{"message":"no"}}"#)).await;
                Some(provider)
            }
            "closes" => {
                drop(provider);
                None
            }
            _ => {
                provider.reset();
                None
            }
        };
        let (mut provider, headers) = second.request().await;
        provider.holds(90_000).await;
        if let Some(mut left) = left {
            let _ = left.rest().await;
        }
        upload.end(&mut caller, 100_000).await;
        let body = provider.request_body(&headers).await.expect("a whole body");
        let sent = Upload::new(&[MODEL], 400_000, &[("language", "en")]).as_sent(&headers);
        assert!(body == sent, "{how}: {} bytes, not {}", body.len(), sent.len());
        provider.send(reply(200, HEARD)).await;
        assert_eq!(caller.reply().await.status, 200, "{how}");
        provider.reset();
        let rows = gateway.usage(2 * (at + 1)).await;
        let of_this: Vec<&Value> = rows.iter().filter(|row| row["user_id"] == how).collect();
        let seen = |status: &str| of_this.iter().filter(|row| row["status"] == status).count();
        assert_eq!((seen("absorbed"), seen("success")), (1, 1), "{of_this:#?}");
        assert_eq!(gateway.settled(how).await, 0.001);
    }
    assert!(open_files(&gateway, &spool(&gateway)).is_empty());
}

async fn an_official_client_is_sent_on_while_it_reads_its_file(start: Builder) {
    let door = Door::open().await;
    let gateway = before(start, &[&door]).await;
    let key = gateway.key("u").await;
    let (base, told) = (gateway.url("/v1"), gateway.folder().join("told"));
    let runs = tokio::task::spawn_blocking({
        let told = told.display().to_string();
        move || Sdk::Python.run("openai_recording", &[&base, &key, &told])
    });
    let serves = async {
        let (mut provider, headers) = door.request().await;
        provider.holds(150_000).await;
        std::fs::write(told, "").expect("the gateway's folder is there");
        let body = provider.request_body(&headers).await.expect("a whole body");
        assert_eq!(Some(body.len()), length_of(&headers));
        assert!(memchr::memmem::find(&body, &b"OggS".repeat(100_000)).is_some());
        assert!(memchr::memmem::find(&body, b"\r\n\r\nm\r\n").is_some());
        provider.send(reply(200, HEARD)).await;
    };
    let (heard, ()) = tokio::join!(runs, serves);
    assert_eq!(heard.expect("the script ends"), "hi");
    assert_eq!(gateway.settled("u").await, 0.001);
}

/// What stands behind the file goes on to the same connection, unless it makes the form another length than was said.
async fn fields_behind_the_file_go_on(start: Builder) {
    let door = Door::open().await;
    let gateway = before(start, &[&door]).await;
    let key = gateway.key("u").await;
    gateway.user("other", None).await;
    let behind: [(&[(&str, &str)], usize); 5] = [
        (&[("response_format", "srt"), ("temperature", "0.5"), ("stream", "false")], 1),
        // Its last line has no end.
        (&[], 1),
        // It is shorter for a provider.
        (&[MODEL], 2),
        // It is the gateway's alone.
        (&[("user", "u"), ("prompt", "p")], 2),
        (&[("user", "a label")], 2),
    ];
    for (at, (behind, times)) in behind.into_iter().enumerate() {
        let shortened = |mut upload: Upload| {
            upload.back.truncate(upload.back.len() - if behind.is_empty() { 2 } else { 0 });
            upload
        };
        let upload = shortened(Upload::new(&[MODEL], 200_000, behind));
        let mut caller = upload.begin(&gateway, &key, 100_000).await;
        let (mut provider, mut headers) = door.request().await;
        provider.holds(90_000).await;
        upload.end(&mut caller, 100_000).await;
        if times == 2 {
            let sent = provider.rest().await.unwrap_or_default();
            let promised = length_of(&headers).expect("the caller said it");
            assert!(sent.len() < promised, "{behind:?}: it never had an end");
            (provider, headers) = door.request().await;
            assert!(length_of(&headers).expect("it is known now") < promised);
        }
        let body = provider.request_body(&headers).await.expect("a whole body");
        let goes_on: Vec<_> = behind.iter().copied().filter(|(name, _)| *name != "user").collect();
        let sent = shortened(Upload::new(&[MODEL], 200_000, &goes_on)).as_sent(&headers);
        assert!(body == sent, "{behind:?}: {} bytes, not {}", body.len(), sent.len());
        provider.send(reply(200, HEARD)).await;
        assert_eq!(caller.reply().await.status, 200, "{behind:?}");
        provider.reset();
        let row = &gateway.usage(at + 1).await[0];
        assert_eq!((&row["status"], &row["attempt_position"]), (&json!("success"), &json!(1)));
    }
    assert_eq!(gateway.settled("u").await, 0.005);
}

async fn a_form_whose_fields_decide_behind_the_file_waits(start: Builder) {
    let door = Door::open().await;
    let gateway = before(start, &[&door]).await;
    let key = gateway.key("u").await;
    for (key, before, behind) in [
        (key.as_str(), &[("language", "en")][..], &[MODEL][..]),
        (MASTER, &[MODEL][..], &[("user", "u")][..]),
        // All its faults are told at once.
        (key.as_str(), &[MODEL, ("temperature", "warm")][..], &[("stream", "perhaps")][..]),
    ] {
        let upload = Upload::new(before, 200_000, behind);
        let mut caller = upload.begin(&gateway, key, 100_000).await;
        eventually("what has come to be on disk", async || {
            let kept = open_files(&gateway, &spool(&gateway));
            kept.first().filter(|file| file.2 > 90_000).map(drop)
        })
        .await;
        assert!(door.is_alone().await, "{behind:?}");
        upload.end(&mut caller, 100_000).await;
        if before.len() == 2 {
            let faults = caller.reply().await;
            assert_eq!(faults.status, 422);
            assert_eq!(faults.json()["detail"].as_array().map(Vec::len), Some(2));
            continue;
        }
        let (mut provider, headers) = door.request().await;
        let body = provider.request_body(&headers).await.expect("a whole body");
        assert_eq!(Some(body.len()), length_of(&headers));
        provider.send(reply(200, HEARD)).await;
        assert_eq!(caller.reply().await.status, 200, "{behind:?}");
        provider.reset();
    }
    // Whom the operator names is known where the name stands before the file.
    let upload = Upload::new(&[("user", "u"), MODEL], 200_000, &[]);
    let mut caller = upload.begin(&gateway, MASTER, 100_000).await;
    let (mut provider, headers) = door.request().await;
    upload.end(&mut caller, 100_000).await;
    provider.request_body(&headers).await.expect("a whole body");
    provider.send(reply(200, HEARD)).await;
    assert_eq!(caller.reply().await.status, 200);
    assert_eq!(gateway.settled("u").await, 0.003);
}

#[tokio::test]
async fn a_provider_that_answers_early_is_heard_and_its_connection_is_nobody_elses() {
    let door = Door::open().await;
    let gateway = before(Gateway::start(), &[&door]).await;
    let key = gateway.key("u").await;
    let upload = Upload::new(&[MODEL], 300_000, &[]);
    let mut caller = upload.begin(&gateway, &key, 100_000).await;
    let (mut provider, _) = door.request().await;
    provider.holds(50_000).await;
    provider.send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n").await;
    caller.send(&upload.file[100_000..200_000]).await;
    provider.holds(150_000).await;
    provider.send(reply(413, r#"{"error":{"message":"too long for us"}}"#)).await;
    let told = caller.reply().await;
    assert!(told.status == 400 && told.text().contains("too long for us"), "{}", told.text());
    assert!(provider.rest().await.is_ok_and(|sent| sent.len() < upload.len()));
    assert_eq!(gateway.settled("u").await, 0.0);
    let row = gateway.usage(1).await.remove(0);
    assert_eq!((&row["status"], &row["status_code"]), (&json!("error"), &json!(413)), "{row}");

    // One that was not asked for the end has answered all the same.
    let mut caller = upload.begin(&gateway, &key, 100_000).await;
    let (mut provider, _) = door.request().await;
    provider.send(reply(200, HEARD)).await;
    assert_eq!(caller.reply().await.text(), HEARD);
    assert!(provider.rest().await.is_ok());
    assert_eq!(gateway.settled("u").await, 0.001);
}

#[tokio::test]
async fn a_provider_that_must_have_a_length_gets_it() {
    let door = Door::open().await;
    let gateway = before(Gateway::start(), &[&door]).await;
    let key = gateway.key("u").await;
    let upload = Upload::new(&[MODEL], 200_000, &[]);
    let chunk =
        |bytes: &[u8]| [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    let mut caller = gateway.connect().await;
    caller.send(upload.head(&key, "transfer-encoding: chunked")).await;
    caller.send(chunk(&[&upload.front[..], &upload.file[..100_000]].concat())).await;
    let (mut provider, _) = door.request().await;
    provider.send(reply(411, "{}")).await;
    assert!(provider.rest().await.is_ok());
    assert!(door.is_alone().await, "its length is not known yet");
    caller.send(chunk(&[&upload.file[100_000..], &upload.back].concat())).await;
    caller.send("0\r\n\r\n").await;
    let (mut provider, headers) = door.request().await;
    assert_eq!(length_of(&headers), Some(upload.len() - 2));
    let body = provider.request_body(&headers).await.expect("a whole body");
    assert!(body == upload.as_sent(&headers));
    provider.send(reply(200, HEARD)).await;
    assert_eq!(caller.reply().await.status, 200);
    let row = gateway.usage(1).await.remove(0);
    assert_eq!((&row["status"], &row["attempt_position"]), (&json!("success"), &json!(1)), "{row}");
}

/// A slow caller costs the provider nothing of its time, and is not its fault.
#[tokio::test]
async fn the_first_byte_is_waited_for_from_the_last_one_on() {
    let (first, second) = (Door::open().await, Door::open().await);
    let start = before(Gateway::start(), &[&first, &second]);
    let keys = "first_byte_timeout_s: 1\nidle_timeout_s: 1\ncircuit_breaker_failures: 1";
    let gateway = start.config(keys).await;
    let key = gateway.key("u").await;
    let upload = Upload::new(&[("model", "safe")], 200_000, &[]);
    for does_tire in [true, false] {
        let mut caller = upload.begin(&gateway, &key, 100_000).await;
        // It was not passed over the second time: whoever was slow, it was not this one.
        let (provider, _) = first.request().await;
        if does_tire {
            drop(provider);
            let (mut provider, headers) = second.request().await;
            upload.end(&mut caller, 100_000).await;
            provider.request_body(&headers).await.expect("a whole body");
            provider.send(reply(200, HEARD)).await;
            assert_eq!(caller.reply().await.status, 200);
            provider.reset();
            continue;
        }
        let mut provider = provider;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let rest = [&upload.file[100_000..], &upload.back].concat();
        caller.send(rest).await;
        provider.until(b"--\r\n").await;
        provider.send(reply(200, HEARD)).await;
        assert_eq!(caller.reply().await.status, 200);
    }
    assert_eq!(gateway.settled("u").await, 0.002);
}

#[tokio::test]
async fn a_provider_that_does_not_read_holds_its_caller_back() {
    let door = Door::open().await;
    let gateway = before(Gateway::start(), &[&door]).await;
    let key = gateway.key("u").await;
    let upload = Upload::new(&[MODEL], 25 << 20, &[]);
    let before = gateway.peak_memory();
    let mut caller = upload.begin(&gateway, &key, 100_000).await;
    let (mut provider, headers) = door.request().await;
    let sends = async {
        upload.end(&mut caller, 100_000).await;
        caller.reply().await.status
    };
    let reads = async {
        tokio::time::sleep(Duration::from_millis(1000)).await;
        let kept = open_files(&gateway, &spool(&gateway))[0].2;
        assert!(kept < 20 << 20, "{kept} bytes were taken, and nobody has read one");
        let body = provider.request_body(&headers).await.expect("a whole body");
        assert!(body == upload.as_sent(&headers));
        provider.send(reply(200, HEARD)).await;
    };
    let (status, ()) = tokio::join!(sends, reads);
    assert_eq!(status, 200);
    let more = gateway.peak_memory() - before;
    assert!(more < 15 << 20, "{} kB more", more >> 10);
}

on_both_databases!(
    a_provider_has_the_first_bytes_before_the_caller_has_sent_the_last,
    the_next_attempt_gets_the_same_bytes,
    an_official_client_is_sent_on_while_it_reads_its_file,
    fields_behind_the_file_go_on,
    a_form_whose_fields_decide_behind_the_file_waits,
);
