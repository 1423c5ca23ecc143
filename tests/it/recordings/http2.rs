//! The same over HTTP/2, where a call is a stream of a connection that others share.

use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Request, Response};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::{HEARD, Upload};
use crate::support::DEADLINE;
use crate::support::gateway::Gateway;
use crate::support::raw::Headers;
use crate::support::tls::Authority;

/// What a provider is asked, and how it answers.
type Call = (Request<RecvStream>, SendResponse<Bytes>);

/// A provider whose calls a test takes by hand.
struct Provider {
    base: String,
    calls: mpsc::Receiver<Call>,
    connections: mpsc::Receiver<()>,
}

impl Provider {
    async fn open(authority: &Authority) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let port = listener.local_addr().expect("bound").port();
        let mut server = (*authority.server("localhost")).clone();
        server.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let (called, calls) = mpsc::channel(8);
        let (connected, connections) = mpsc::channel(8);
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let socket = acceptor.accept(socket).await.expect("a caller who trusts us");
                let mut connection = h2::server::handshake(socket).await.expect("HTTP/2");
                let _ = connected.send(()).await;
                let called = called.clone();
                #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
                tokio::spawn(async move {
                    while let Some(Ok(call)) = connection.accept().await {
                        let _ = called.send(call).await;
                    }
                });
            }
        });
        Self { base: format!("https://localhost:{port}/v1"), calls, connections }
    }

    async fn call(&mut self) -> Call {
        let call = tokio::time::timeout(DEADLINE, self.calls.recv()).await;
        call.expect("a call").expect("the provider lives")
    }
}

/// Reads on until so many bytes are here, or the end, or why there is none.
async fn read(body: &mut RecvStream, all: &mut Vec<u8>, bytes: usize) -> Result<(), h2::Error> {
    while all.len() < bytes {
        let piece = tokio::time::timeout(DEADLINE, body.data()).await.expect("a piece in time");
        let Some(piece) = piece else { return Ok(()) };
        let piece = piece?;
        all.extend_from_slice(&piece);
        body.flow_control().release_capacity(piece.len())?;
    }
    Ok(())
}

fn answer(mut respond: SendResponse<Bytes>, status: u16, body: &str) {
    let head = Response::builder().status(status).header("content-type", "application/json");
    let mut stream = respond.send_response(head.body(()).expect("a head"), false).expect("sent");
    stream.send_data(Bytes::from(body.to_owned()), true).expect("sent");
}

fn as_headers(headers: &HeaderMap) -> Headers {
    let text = |value: &http::HeaderValue| value.to_str().expect("ASCII").to_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_carries_a_form_while_it_comes() {
    let authority = Authority::new();
    let mut provider = Provider::open(&authority).await;
    let roots = authority.file();
    let start = Gateway::start().price("p:m", 1000.0, 0.0).provider_at("p", &provider.base, "");
    let gateway = start.env("SSL_CERT_FILE", &roots.path().display().to_string()).await;
    let key = gateway.key("u").await;
    let upload = Upload::new(&[("model", "p:m")], 300_000, &[("language", "en")]);

    let mut caller = upload.begin(&gateway, &key, 100_000).await;
    let (request, respond) = provider.call().await;
    let headers = as_headers(request.headers());
    let length = (upload.len() - 2).to_string();
    assert!(headers.iter().any(|(name, value)| name == "content-length" && *value == length));
    let (mut body, mut all) = (request.into_body(), Vec::new());
    read(&mut body, &mut all, 90_000).await.expect("the beginning");
    upload.end(&mut caller, 100_000).await;
    read(&mut body, &mut all, usize::MAX).await.expect("a whole body");
    assert!(all == upload.as_sent(&headers), "{} bytes", all.len());
    answer(respond, 200, HEARD);
    assert_eq!(caller.reply().await.text(), HEARD);
    assert_eq!(gateway.settled("u").await, 0.001);

    // An early answer ends the stream, and not the connection.
    let mut caller = upload.begin(&gateway, &key, 100_000).await;
    let (request, respond) = provider.call().await;
    let (mut body, mut all) = (request.into_body(), Vec::new());
    read(&mut body, &mut all, 50_000).await.expect("the beginning");
    answer(respond, 413, r#"{"error":{"message":"too long for us"}}"#);
    let told = caller.reply().await;
    assert!(told.status == 400 && told.text().contains("too long for us"), "{}", told.text());
    assert!(read(&mut body, &mut all, usize::MAX).await.is_err(), "it was given up");

    // And so does a caller who leaves.
    let caller = upload.begin(&gateway, &key, 100_000).await;
    let (request, _respond) = provider.call().await;
    let (mut body, mut all) = (request.into_body(), Vec::new());
    read(&mut body, &mut all, 50_000).await.expect("the beginning");
    caller.reset();
    assert!(read(&mut body, &mut all, usize::MAX).await.is_err(), "it was given up");
    let row = gateway.usage(3).await.remove(0);
    assert_eq!((&row["status_code"], &row["cost"]), (&json!(499), &json!(null)), "{row}");
    assert_eq!(gateway.settled("u").await, 0.001);

    // A caller who does not say how much there is.
    let mut caller = gateway.connect().await;
    let whole = [&upload.front[..], &upload.file, &upload.back].concat();
    caller.send(upload.head(&key, "transfer-encoding: chunked")).await;
    caller.send(format!("{:x}\r\n", whole.len())).await;
    caller.send(whole).await;
    caller.send("\r\n0\r\n\r\n").await;
    let (request, respond) = provider.call().await;
    let headers = as_headers(request.headers());
    assert!(
        !headers.iter().any(|(name, _)| name == "content-length" || name == "transfer-encoding")
    );
    let (mut body, mut all) = (request.into_body(), Vec::new());
    read(&mut body, &mut all, usize::MAX).await.expect("a whole body");
    assert!(all == upload.as_sent(&headers), "{} bytes", all.len());
    answer(respond, 200, HEARD);
    assert_eq!(caller.reply().await.text(), HEARD);
    let mut connections = 0;
    while provider.connections.try_recv().is_ok() {
        connections += 1;
    }
    assert_eq!(connections, 1, "all of them on one");
}
