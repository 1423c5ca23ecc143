//! Options that make it misbehave, and what it remembers.

use std::io::Read as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::{PATIENCE, Server, finish};
use crate::mock::Options;

#[tokio::test]
async fn the_first_requests_of_a_series_fail() {
    let server = Server::start().await;
    let mut seen = Vec::new();
    for seed in ["a", "a", "b", "a"] {
        seen.push(server.chat(&format!("m?fail_first=2&seed={seed}"), false).await.status);
    }
    assert_eq!(seen, [503, 503, 503, 200]);
}

#[tokio::test]
async fn a_broken_connection_keeps_what_was_sent() {
    let server = Server::start().await;
    for fault in ["cut:2", "reset:2"] {
        let reply = server.chat(&format!("m?fault={fault}"), true).await;
        assert_eq!(reply.content(), "lorem ipsum", "{fault}");
        assert!(!reply.complete, "{fault}");
        assert_eq!(reply.failed, fault.starts_with("reset"), "{fault}");
        let reply = server.chat(&format!("m?fault={fault}"), false).await;
        assert!(!reply.complete && !reply.body.is_empty(), "half of the JSON: {reply:?}");
    }
    assert_eq!(server.chat("m?fault=refuse", false).await.status, 0);
}

#[tokio::test]
async fn silence_lasts_until_the_caller_leaves() {
    let server = Server::start().await;
    for (fault, expected) in
        [("silent", ""), ("header_then_silent", "\r\n\r\n"), ("stall:2", " ipsum\"")]
    {
        let mut stream = server.connect().await;
        let body = json!({"model": format!("quiet?fault={fault}"), "stream": true,
            "messages": [{"role": "user", "content": "x"}]})
        .to_string();
        let head =
            format!("POST /chat/completions HTTP/1.1\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(expected) {
            timeout(PATIENCE, stream.read_buf(&mut seen))
                .await
                .expect("what precedes the silence")
                .unwrap();
        }
        let more = timeout(Duration::from_millis(50), stream.read_buf(&mut seen)).await;
        assert!(more.is_err(), "{fault}: nothing more may come");
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = server.ask("GET", "/__mock/requests", "").await.json();
        if seen["models"]["quiet"] == json!({"requests": 3, "disconnected": 3}) {
            return;
        }
        assert!(Instant::now() < deadline, "{seen}");
    }
}

#[tokio::test]
async fn odd_but_legal_streams_hold_the_same_text() {
    let server = Server::start().await;
    let plain = server.chat("m?chunks=3", true).await.content();
    for fault in ["split_lines", "crlf", "comments", "close_delimited", "no_done"] {
        let reply = server.chat(&format!("m?chunks=3&fault={fault}"), true).await;
        assert_eq!(reply.content(), plain, "{fault}");
        assert!(reply.complete, "{fault}");
        assert_eq!(reply.text().contains("\r\n"), fault == "crlf");
        assert_eq!(reply.text().contains("[DONE]"), fault != "no_done");
        assert_eq!(reply.text().starts_with(": "), fault == "comments");
        assert_eq!(reply.head.contains("chunked"), fault != "close_delimited");
        let whole = server.chat(&format!("m?chunks=3&fault={fault}"), false).await.json();
        assert_eq!(whole["choices"][0]["message"]["content"], plain.as_str(), "{fault}");
    }
}

#[tokio::test]
async fn gzip_is_used_unasked() {
    let server = Server::start().await;
    for stream in [true, false] {
        let reply = server.chat("m?fault=gzip", stream).await;
        assert!(reply.complete && reply.head.contains("content-encoding: gzip"), "{}", reply.head);
        let mut text = String::new();
        flate2::read::GzDecoder::new(&reply.body[..]).read_to_string(&mut text).unwrap();
        assert!(text.contains("lorem"), "{text}");
    }
}

#[tokio::test]
async fn half_a_character_arrives_first() {
    let server = Server::start().await;
    for (streamed, end) in [(true, &b"\xf0\x9f\r\n"[..]), (false, &b"\xf0\x9f"[..])] {
        let mut stream = server.connect().await;
        let body = json!({"model": "m?fault=half_utf8", "stream": streamed,
            "messages": [{"role": "user", "content": "x"}]})
        .to_string();
        let head = "POST /chat/completions HTTP/1.1\r\nconnection: close\r\ncontent-length: ";
        stream.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
        let mut seen = Vec::with_capacity(64 * 1024);
        stream.read_buf(&mut seen).await.unwrap();
        assert!(seen.ends_with(end), "the first segment ends inside a character: {seen:?}");
        stream.read_to_end(&mut seen).await.unwrap();
        assert!(memchr::memmem::find(&seen, b"\xa6\x80").is_some(), "the rest follows");
    }
}

#[tokio::test]
async fn nonsense_is_sent_as_asked() {
    let server = Server::start().await;
    let reply = server.chat("m?fault=html", true).await;
    assert!(
        reply.status == 200 && reply.head.contains("text/html") && reply.text().contains("<p>")
    );
    let reply = server.chat("m?fault=empty", true).await;
    assert!(reply.status == 200 && reply.complete && reply.body.is_empty());
    let reply = server.chat("m?fault=bad_json", false).await;
    assert!(reply.complete && serde_json::from_slice::<Value>(&reply.body).is_err());
    let reply = server.chat("m?fault=bad_json", true).await;
    assert!(reply.events()[1].is_string(), "not JSON: {}", reply.events()[1]);
    let reply = server.chat("m?fault=error_event:2", true).await;
    assert_eq!(reply.events()[3]["error"]["type"], "server_error");
    assert!(reply.complete && reply.events().len() == 4, "nothing follows the error");
}

#[tokio::test]
async fn an_upload_is_refused_before_it_is_sent() {
    let server = Server::start().await;
    let mut stream = server.connect().await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 9000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(br#"{"model":"m?fault=early_413","messages":[{"#).await.unwrap();
    let reply = finish(stream).await;
    assert!(reply.status == 413 && reply.complete && !reply.failed, "{reply:?}");
}

#[tokio::test]
async fn bodies_in_chunks_and_pipelined_requests_are_read() {
    let server = Server::start().await;
    let body = r#"{"model":"m?chunks=1","messages":[{"role":"user","content":"x"}]}"#;
    let (start, end) = body.split_at(20);
    let chunked = format!(
        "POST /chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n\
         {:x};a=b\r\n{start}\r\n{:X}\r\n{end}\r\n0\r\nx-trailer: 1\r\n\r\n",
        start.len(),
        end.len()
    );
    let plain = format!(
        "POST /chat/completions HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = server.connect().await;
    stream.write_all((chunked.clone() + &chunked + &plain).as_bytes()).await.unwrap();
    let mut raw = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut raw)).await.unwrap().unwrap();
    assert_eq!(raw.matches("HTTP/1.1 200 OK").count(), 3, "{raw}");
    assert_eq!(raw.matches("lorem").count(), 3);
}

#[tokio::test]
async fn a_caller_that_expects_100_continue_is_told_to_go_on() {
    let server = Server::start().await;
    let mut stream = server.connect().await;
    let body = r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;
    let head = format!(
        "POST /chat/completions HTTP/1.1\r\nexpect: 100-continue\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    timeout(PATIENCE, stream.read_exact(&mut interim)).await.unwrap().unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).await.unwrap();
    assert_eq!(finish(stream).await.status, 200);
}

#[tokio::test]
async fn pauses_are_kept() {
    let server = Server::start().await;
    let start = Instant::now();
    server.chat("m?chunks=3&delay_ms=20&first_delay_ms=20&interval_ms=20", true).await;
    assert!(start.elapsed() >= Duration::from_millis(80), "two delays and two intervals");
}

#[tokio::test]
async fn requests_are_shown_with_masked_credentials() {
    let server = Server::start_with(Options { record: true }).await;
    for _ in 0..70 {
        server.chat("gpt?chunks=1", false).await;
    }
    let seen = server.ask("GET", "/__mock/requests", "").await.json();
    assert_eq!(seen["models"]["gpt"]["requests"], 70);
    let requests = seen["requests"].as_array().unwrap();
    assert_eq!(requests.len(), 64, "the last ones");
    assert_eq!(requests[0]["path"], "/v1/chat/completions");
    assert!(requests[0]["body"].as_str().unwrap().contains("Hello there"));
    let headers = requests[0]["headers"].as_array().unwrap();
    assert!(headers.contains(&json!(["authorization", "Bearer ***1234"])), "{headers:?}");
    server.ask("DELETE", "/__mock/requests", "").await;
    let seen = server.ask("GET", "/__mock/requests", "").await.json();
    assert_eq!((&seen["total"], &seen["models"]), (&json!(0), &json!({})));
}
