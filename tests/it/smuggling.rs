//! Requests that two parsers read differently: refused, their connections closed, and nothing of them at the provider.
//! And what of a head never crosses the gateway, in either direction.

use serde_json::json;

use crate::support::gateway::Gateway;
use crate::support::provider::{Provider, Reply, completion};
use crate::support::{ask, priced};

const BODY: &str = r#"{"model":"p:m","messages":[{"role":"user","content":"hi"}]}"#;

/// What follows the key in a head, and the bytes behind the head.
fn corpus() -> Vec<(&'static str, String, String)> {
    let length = format!("Content-Length: {}", BODY.len());
    let chunked = "Transfer-Encoding: chunked".to_owned();
    let chunks = format!("{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len());
    let head = |name, fields: String| (name, fields, BODY.to_owned());
    let coded = |name, fields: &str| (name, fields.to_owned(), chunks.clone());
    let body = |name, bytes: String| (name, chunked.clone(), bytes);
    let n = BODY.len();
    vec![
        head("two lengths", format!("{length}\r\nContent-Length: 5")),
        head("the same length twice", format!("{length}\r\n{length}")),
        head("a list of lengths", format!("{length}, {n}")),
        head("a signed length", format!("Content-Length: +{n}")),
        head("a negative length", "Content-Length: -1".to_owned()),
        head("a length in hex", format!("Content-Length: 0x{n:x}")),
        head("a length with a blank inside", format!("Content-Length: {n} 1")),
        head("an empty length", "Content-Length:".to_owned()),
        head("a huge length", "Content-Length: 184467440737095516160".to_owned()),
        coded("length and coding", &format!("{length}\r\n{chunked}")),
        coded("coding and length", &format!("{chunked}\r\nContent-Length: 3")),
        coded("two codings", &format!("{chunked}\r\n{chunked}")),
        coded("a list of codings", "Transfer-Encoding: gzip, chunked"),
        coded("chunked before another", "Transfer-Encoding: chunked, identity"),
        coded("an unknown coding", "Transfer-Encoding: xchunked"),
        coded("a quoted coding", "Transfer-Encoding: \"chunked\""),
        coded("a vertical tab", "Transfer-Encoding: \u{b}chunked"),
        coded("a form feed", "Transfer-Encoding: \u{c}chunked"),
        coded("a blank before the colon", "Transfer-Encoding : chunked"),
        coded("a folded coding", "Transfer-Encoding:\r\n chunked"),
        head("a folded header", format!("X: a\r\n b\r\n{length}")),
        head("a fold at first", format!(" X: a\r\n{length}")),
        head("a bare LF", format!("X: a\n{length}")),
        head("a bare CR", format!("X: a\rY: b\r\n{length}")),
        head("a null byte", format!("X: a\0b\r\n{length}")),
        head("no colon", format!("X\r\n{length}")),
        head("no name", format!(": x\r\n{length}")),
        head("a blank in a name", format!("X Y: x\r\n{length}")),
        head("two hosts", format!("Host: b\r\n{length}")),
        body("a size that is none", format!("zz\r\n{BODY}\r\n0\r\n\r\n")),
        body("a signed size", format!("+{n:x}\r\n{BODY}\r\n0\r\n\r\n")),
        body("a size with 0x", format!("0x{n:x}\r\n{BODY}\r\n0\r\n\r\n")),
        body("a size that overflows", format!("1{:016x}\r\n{BODY}\r\n0\r\n\r\n", n)),
        body("an empty size", format!("\r\n{BODY}\r\n0\r\n\r\n")),
        body("a size with a bare LF", format!("{n:x}\n{BODY}\r\n0\r\n\r\n")),
        body("a chunk that is longer", format!("{:x}\r\n{BODY}\r\n0\r\n\r\n", n - 1)),
        body("a chunk without its end", format!("{n:x}\r\n{BODY}XX0\r\n\r\n")),
        body(
            "an endless extension",
            format!("{n:x};{}\r\n{BODY}\r\n0\r\n\r\n", "x".repeat(1 << 20)),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_differently_is_refused_and_ends_the_connection() {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    let mut passed = Vec::new();
    for (name, fields, bytes) in corpus() {
        let mut raw = gateway.connect().await;
        let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
             Authorization: Bearer {key}\r\n{fields}\r\n\r\n{bytes}{smuggled}"
        );
        let _ = raw.try_send(request).await;
        // A reset is an end as well.
        let said = raw.rest().await.unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let answers = said.matches("HTTP/1.1 ").count();
        if answers > 1 || !(said.is_empty() || said.starts_with("HTTP/1.1 4")) {
            passed.push(format!("{name}: {said}"));
        }
        if provider.count() > 0 {
            panic!("{name} reached the provider: {said}");
        }
    }
    assert!(passed.is_empty(), "{}", passed.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_targets_never_get_further_than_a_refusal() {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    for (line, hosts, statuses) in [
        ("GET http://b/v1/models HTTP/1.1", "Host: a", &[400][..]),
        ("GET http://u@a/v1/models HTTP/1.1", "Host: a", &[400]),
        ("GET http://a/v1/models HTTP/1.1", "Host: a", &[200]),
        ("GET /v1/models HTTP/1.1", "X: y", &[400]),
        ("GET /v1/models HTTP/1.1", "Host: a@b", &[400]),
        ("GET /v1/models HTTP/1.1", "Host: a/b", &[400]),
        ("GET  /v1/models HTTP/1.1", "Host: a", &[400]),
        ("GET /v1/models HTTP/1.1 ", "Host: a", &[400, 404]),
        ("GET /v1/mod els HTTP/1.1", "Host: a", &[400, 404]),
        ("GET /v1/models HTTP/1.2", "Host: a", &[400]),
        ("CONNECT a:443 HTTP/1.1", "Host: a:443", &[405]),
        ("OPTIONS * HTTP/1.1", "Host: a", &[204, 400, 404]),
        ("GET /v1/../v1/models HTTP/1.1", "Host: a", &[404]),
        ("GET //v1/models HTTP/1.1", "Host: a", &[404, 400]),
        ("GET /%2e%2e/%00 HTTP/1.1", "Host: a", &[404]),
    ] {
        let mut raw = gateway.connect().await;
        raw.send(format!(
            "{line}\r\n{hosts}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
        ))
        .await;
        let said = raw.rest().await.unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let status = said.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
        assert!(status.is_none_or(|code| statuses.contains(&code)), "{line:?} {hosts:?}: {said}");
    }
    assert_eq!(provider.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proper_requests_that_look_odd_are_served() {
    let provider = Provider::streams(["ok"]);
    let gateway = priced(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    let chunks = format!("{:X};a=b\r\n{BODY}\r\n0\r\nX-Trailer: y\r\n\r\n", BODY.len());
    let length = format!("content-length:{}", BODY.len());
    for (fields, bytes) in [
        (length.as_str(), BODY),
        ("TRANSFER-ENCODING: CHUNKED", chunks.as_str()),
        // Java's client asks for HTTP/2 with every request.
        (&format!("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n{length}"), BODY),
    ] {
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost:  a \r\nContent-Type: application/json\r\n\
             Authorization: Bearer {key}\r\n{fields}"
        );
        let reply = gateway.raw(&head, bytes.as_bytes()).await;
        assert_eq!(reply.status, 200, "{fields}: {}", reply.text());
    }
    assert_eq!(provider.count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_caller_but_the_request_reaches_the_provider_nor_its_cookies_the_caller() {
    let provider = Provider::start(|_| {
        Reply::json(200, &completion("ok"))
            .header("Set-Cookie", "session=1")
            .header("Access-Control-Allow-Origin", "*")
            .header("Strict-Transport-Security", "max-age=1")
            .header("Keep-Alive", "timeout=5")
            .header("X-Theirs", "kept")
    });
    let gateway = priced(Gateway::start(), &provider).await;
    let key = gateway.key("u").await;
    let bearer = format!("Bearer {key}");
    let sent = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("cookie", "caller=secret"),
        ("te", "trailers"),
        ("proxy-authorization", "Basic c2VjcmV0"),
        ("x-forwarded-for", "192.0.2.1"),
        ("forwarded", "for=192.0.2.1"),
        ("x-secret", "secret"),
        ("upgrade", "websocket"),
    ];
    let path = "/v1/chat/completions";
    let answer = gateway.send(reqwest::Method::POST, path, &sent, ask().to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let theirs =
        ["set-cookie", "access-control-allow-origin", "strict-transport-security", "keep-alive"];
    for name in theirs {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(answer.header("x-theirs"), Some("kept"));
    let request = provider.only();
    let names = [
        "cookie",
        "te",
        "proxy-authorization",
        "x-forwarded-for",
        "forwarded",
        "x-secret",
        "upgrade",
    ];
    for name in names {
        assert_eq!(request.header(name), None, "{name}");
    }
    assert_ne!(request.header("authorization"), Some(bearer.as_str()));
    assert_eq!(request.json()["messages"], json!([{"role": "user", "content": "hi"}]));
}
