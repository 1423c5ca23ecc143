//! Calls to a provider on loopback that answers as it is told.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue};
use otari_filters::providers;
use otari_filters::secret::Secret;
use otari_filters::upstream::sign::{AwsKeys, Message};
use otari_filters::upstream::{Draft, Upstream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{Call, Error, Multipart, Outbound};
use crate::credentials::Credentials;

const WITHIN: Duration = Duration::from_secs(5);

/// A provider that reads one request, answers with these bytes and closes; `""`: it never answers.
async fn provider(answer: &'static str) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                    break;
                }
            }
            let read = socket.read(&mut piece).await.unwrap();
            assert!(read > 0, "the request ends early: {text}");
            bytes.extend_from_slice(&piece[..read]);
        }
        if answer.is_empty() {
            std::future::pending::<()>().await;
        }
        socket.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(bytes).unwrap()
    };
    (address, tokio::task::spawn_local(serving))
}

/// Runs a test on one thread.
fn on_one_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

fn upstream(kind: &str, base: &str, key: Option<&str>, settings: &[(&str, &str)]) -> Upstream {
    let settings: Vec<_> =
        settings.iter().map(|(name, text)| ((*name).to_owned(), Secret::new(*text))).collect();
    let second = Duration::from_secs(1);
    Upstream::new(&Draft {
        instance: kind,
        kind: providers::find(kind).unwrap(),
        base_url: base,
        api_key: key.map(Secret::new).as_ref(),
        headers: &[(HeaderName::from_static("x-team"), HeaderValue::from_static("a"))],
        client_settings: &settings,
        max_retries: 0,
        first_byte_timeout: second,
        idle_timeout: second,
        address: None,
    })
    .unwrap()
}

fn outbound() -> Outbound {
    // Only its first statement makes a process fit for TLS; a second one changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Outbound::new(Credentials::new(None))
}

fn get(path: &str) -> Call {
    Call::get(path.parse().unwrap(), WITHIN, 64)
}

#[test]
fn a_call_has_the_upstreams_headers_and_its_credential() {
    on_one_thread(async {
        let (address, asked) =
            provider("HTTP/1.1 201 Created\r\ncontent-length: 2\r\nx-a: b\r\n\r\nok").await;
        let to = upstream("openai", &format!("http://{address}/v1"), Some("sk-1"), &[]);
        let mut call = Call { body: "{}".into(), ..get("/v1/files?limit=2") };
        call.method = http::Method::POST;
        for (name, value) in [
            ("authorization", "Bearer stolen"),
            ("x-api-key", "stolen"),
            ("host", "elsewhere"),
            ("accept", "text/plain"),
        ] {
            call.headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let answer = outbound().call(&to, call).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (201, &b"ok"[..]));
        assert_eq!(answer.headers["x-a"], "b");
        let asked = asked.await.unwrap().to_lowercase();
        assert!(asked.starts_with("post /v1/files?limit=2 http/1.1\r\n"), "{asked}");
        for line in [
            "authorization: bearer sk-1",
            "accept: text/plain",
            "x-team: a",
            "content-type: application/json",
            &format!("host: {address}"),
        ] {
            assert!(asked.contains(&format!("\r\n{line}\r\n")), "{line} is missing: {asked}");
        }
        assert!(!asked.contains("stolen") && !asked.contains("elsewhere"), "{asked}");
    });
}

#[test]
fn a_redirect_is_an_answer_like_any_other() {
    on_one_thread(async {
        let (address, _asked) = provider(
            "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        )
        .await;
        let to = upstream("openai", &format!("http://{address}/v1"), Some("sk-1"), &[]);
        assert_eq!(outbound().call(&to, get("/v1/models")).await.unwrap().status, 302);
    });
}

#[test]
fn every_failure_has_its_name_and_bounds_hold() {
    on_one_thread(async {
        let outbound = outbound();
        let too_long = Error::TooLarge(64);
        let declared = "HTTP/1.1 200 OK\r\ncontent-length: 65\r\n\r\n";
        let undeclared = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n41\r\n\
            aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n0\r\n\r\n";
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc";
        for (answer, want) in
            [(declared, Some(too_long.clone())), (undeclared, Some(too_long)), (cut, None)]
        {
            let (address, _asked) = provider(answer).await;
            let to = upstream("openai", &format!("http://{address}/v1"), None, &[]);
            let failed = outbound.call(&to, get("/v1/models")).await.unwrap_err();
            match want {
                Some(want) => assert_eq!(failed, want),
                None => assert!(matches!(failed, Error::Broken(_)), "{failed:?}"),
            }
        }
        let (address, _asked) = provider("").await;
        let to = upstream("openai", &format!("http://{address}/v1"), None, &[]);
        let short = Call { within: Duration::from_millis(50), ..get("/v1/models") };
        assert_eq!(outbound.call(&to, short).await.unwrap_err(), Error::Timeout);
        let nobody = upstream("openai", "http://127.0.0.1:1/v1", None, &[]);
        let failed = outbound.call(&nobody, get("/v1/models")).await.unwrap_err();
        assert!(matches!(failed, Error::Connect(_)), "{failed:?}");
        for path in ["/v1/../admin", "/v1/%2e%2e/admin", "/v1/./a"] {
            let failed = outbound.call(&nobody, get(path)).await.unwrap_err();
            assert!(matches!(failed, Error::Invalid(_)), "{path}: {failed:?}");
        }
        let elsewhere = Call { authority: Some("a@b".into()), ..get("/") };
        let failed = outbound.call(&nobody, elsewhere).await.unwrap_err();
        assert!(matches!(failed, Error::Invalid(_)), "{failed:?}");
    });
}

#[test]
fn the_pieces_of_an_answer_come_one_by_one() {
    on_one_thread(async {
        let (address, _asked) = provider("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabcd").await;
        let to = upstream("openai", &format!("http://{address}/v1"), None, &[]);
        let mut opened = outbound().open(&to, get("/v1/files/f/content")).await.unwrap();
        assert_eq!((opened.status, opened.body.len()), (200, Some(4)));
        let mut all = Vec::new();
        while let Some(piece) = opened.body.next().await.unwrap() {
            all.extend_from_slice(&piece);
        }
        assert_eq!(all, b"abcd");
    });
}

#[test]
fn a_form_is_sent_with_its_length_and_its_files_as_they_come() {
    on_one_thread(async {
        let (address, asked) = provider("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let to = upstream("openai", &format!("http://{address}/v1"), Some("sk-1"), &[]);
        let pieces = ["ab", "cd"].map(|piece| Ok(Bytes::from(piece)));
        let form = Multipart::new()
            .text("purpose", "batch")
            .file("one", "a\"b\r\n.txt", "text/plain", "x".into())
            .stream("file", "f.jsonl", "application/jsonl\r\nx: y", 4, stream::iter(pieces));
        let whole = form.len();
        assert_eq!(outbound().upload(&to, get("/v1/files"), form).await.unwrap().status, 200);
        let asked = asked.await.unwrap();
        let (head, body) = asked.split_once("\r\n\r\n").unwrap();
        assert_eq!(body.len() as u64, whole);
        let boundary = head.split("boundary=").nth(1).unwrap().lines().next().unwrap();
        let part = "Content-Disposition: form-data; name=";
        let want = format!(
            "--{boundary}\r\n{part}\"purpose\"\r\n\r\nbatch\r\n\
             --{boundary}\r\n{part}\"one\"; filename=\"a%22b%0D%0A.txt\"\r\nContent-Type: text/plain\r\n\r\nx\r\n\
             --{boundary}\r\n{part}\"file\"; filename=\"f.jsonl\"\r\nContent-Type: application/octet-stream\r\n\r\n\
             abcd\r\n--{boundary}--\r\n"
        );
        assert_eq!(body, want);
    });
}

#[test]
fn a_signed_call_is_signed_for_its_method_and_the_host_it_goes_to() {
    on_one_thread(async {
        let (address, asked) = provider("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let keys = [
            ("region_name", "eu-west-1"),
            ("aws_access_key_id", "AK1"),
            ("aws_secret_access_key", "s-1"),
        ];
        // Its own host is another one.
        let to = upstream("bedrock", "http://127.0.0.1:1", None, &keys);
        let path = "/inference-profiles?maxResults=1000";
        let call = Call { authority: Some(address.to_string().into()), ..get(path) };
        assert_eq!(outbound().call(&to, call).await.unwrap().status, 200);
        let asked = asked.await.unwrap();
        let header = |name: &str| {
            let found = asked.lines().find_map(|line| line.strip_prefix(name));
            found.and_then(|rest| rest.strip_prefix(": ")).unwrap().to_owned()
        };
        let stamp = header("x-amz-date");
        let at: jiff::Timestamp =
            jiff::fmt::strtime::parse("%Y%m%dT%H%M%S%z", stamp.replace('Z', "+0000"))
                .unwrap()
                .to_timestamp()
                .unwrap();
        let keys = AwsKeys {
            access_key_id: Secret::new("AK1"),
            secret_access_key: Secret::new("s-1"),
            session_token: None,
        };
        let host = address.to_string();
        let message = Message { method: "GET", host: &host, path_and_query: path, body: &[] };
        let now_s = u64::try_from(at.as_second()).unwrap();
        let signed: HeaderMap =
            to.sign_message(&keys, &message, now_s).unwrap().into_iter().collect();
        assert_eq!(header("authorization"), signed["authorization"].to_str().unwrap());
        assert_eq!(header("host"), host);
    });
}
