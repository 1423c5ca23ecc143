//! Model names without a provider, and the caller's own label for a user.

use serde_json::json;

use crate::support::gateway::Gateway;
use crate::support::provider::Provider;
use crate::support::{ask_with, eventually};

#[tokio::test]
async fn a_bare_name_leads_to_the_only_provider_that_prices_it() {
    let (one, two) = (Provider::streams(["ok"]), Provider::streams(["ok"]));
    let start = Gateway::start().provider("one", &one).provider("two", &two);
    let start = start.price("one:solo", 1.0, 1.0).price("one:both", 1.0, 1.0);
    let gateway = start.price("two:both", 1.0, 1.0).await;
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask_with(json!({"model": "solo"}))).await.expect(200);
    assert_eq!((one.only().json()["model"].clone(), two.count()), (json!("solo"), 0));
    let refused = gateway.chat(&key, &ask_with(json!({"model": "both"}))).await.refused(400);
    let sentence = refused["error"]["message"].to_string();
    assert!(sentence.contains("one:both") && sentence.contains("two:both"), "{sentence}");
}

#[tokio::test]
async fn a_user_nobody_knows_is_a_label_and_goes_on_to_the_provider() {
    let provider = Provider::streams(["ok"]);
    let gateway = Gateway::start().provider("p", &provider).price("p:m", 1.0, 1.0).await;
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask_with(json!({"user": "end-user-7"}))).await.expect(200);
    assert_eq!(provider.only().json()["user"], json!("end-user-7"));
    let row = gateway.usage(1).await.remove(0);
    assert_eq!(row["user_id"], json!("u"), "the key's user pays");
}

#[tokio::test]
async fn a_provider_that_does_not_take_the_connection_is_504_in_time() {
    // A full queue: further connections are neither taken nor refused.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let at = socket.local_addr().unwrap().as_socket().unwrap();
    let mut waiting = Vec::new();
    eventually("a full queue", async || {
        let connect = tokio::net::TcpStream::connect(at);
        match tokio::time::timeout(std::time::Duration::from_millis(200), connect).await {
            Ok(Ok(stream)) => {
                waiting.push(stream);
                None
            }
            _ => Some(()),
        }
    })
    .await;
    let start = Gateway::start().provider_at("p", &format!("http://{at}/v1"), "");
    let gateway = start.price("p:m", 1.0, 1.0).config("connect_timeout_s: 1").await;
    let key = gateway.key("u").await;
    gateway.chat(&key, &ask_with(json!({}))).await.refused(504);
    let row = gateway.usage(1).await.remove(0);
    assert_eq!(
        (&row["status"], &row["error_message"]),
        (&json!("error"), &json!("connect_timeout"))
    );
}
