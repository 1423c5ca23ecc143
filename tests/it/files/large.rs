//! Half a gigabyte in and out, and how little memory the gateway takes for it.

use std::io::Write as _;

use bytes::Bytes;
use reqwest::Method;

use super::{BOUNDARY, blobs, call};
use crate::support::gateway::Gateway;

const PIECE: usize = 1 << 20;
const PIECES: usize = 500;
/// A fifth of it, in bytes: what is promised.
const MOST: u64 = 100 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_gigabyte_passes_without_being_held() {
    let gateway = Gateway::start().await;
    let key = gateway.key("ann").await;
    let mut head = Vec::new();
    head.write_all(
        b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.bin\"\r\n\r\n",
    )
    .unwrap();
    let piece = Bytes::from((0..PIECE).map(|at| (at % 251) as u8).collect::<Vec<u8>>());
    let middle = std::iter::repeat_n(piece.clone(), PIECES);
    let all = std::iter::once(Bytes::from(head)).chain(middle);
    let all = all.chain([Bytes::from_static(b"\r\n--b--\r\n")]).map(Ok::<_, std::io::Error>);
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(all));
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", BOUNDARY)];
    let made = gateway.send(Method::POST, "/v1/files", &headers, body).await.expect(200).json();
    assert_eq!(made["bytes"], PIECE * PIECES);
    let id = made["id"].as_str().unwrap();

    let path = format!("/v1/files/{id}/content");
    let mut content = gateway.open(Method::GET, &path, &headers[..1], "").await;
    let mut seen = 0;
    while let Some(part) = content.chunk().await.expect("the whole file") {
        let at = seen % PIECE;
        let fits = part.len().min(PIECE - at);
        assert!(part[..fits] == piece[at..at + fits], "other bytes at {seen}");
        seen += part.len();
    }
    assert_eq!(seen, PIECE * PIECES);
    let peak = gateway.peak_memory();
    println!("peak memory of the gateway: {} kB", peak >> 10);
    assert!(peak < MOST, "{} kB", peak >> 10);
    call(&gateway, &key, Method::DELETE, &format!("/v1/files/{id}")).await.expect(200);
    assert_eq!(blobs(&gateway), 0);
}
