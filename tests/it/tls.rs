//! Providers over TLS: reached when their certificate is good, never spoken to when it is not.

use serde_json::json;

use crate::support::gateway::Gateway;
use crate::support::provider::Provider;
use crate::support::tls::{Authority, front};
use crate::support::{ask, ask_streamed};

async fn asks_once(trusted: &Authority, name: &str, signer: &Authority) -> (u16, usize) {
    let provider = Provider::streams(["ok"]);
    let base = front(signer.server(name), provider.addr()).await + "/v1";
    let roots = trusted.file();
    let start = Gateway::start().price("p:m", 1000.0, 2000.0).provider_at("p", &base, "");
    let gateway = start.env("SSL_CERT_FILE", &roots.path().display().to_string()).await;
    let key = gateway.key("u").await;
    let answer = gateway.chat(&key, &ask()).await;
    if answer.status == 200 {
        // The connection is back in the pool a moment after the answer has left.
        gateway.usage(1).await;
        let stream = gateway.stream(&key, &ask_streamed()).await.text().await.expect("whole");
        assert!(stream.ends_with("data: [DONE]\n\n"), "{stream}");
        assert_eq!(provider.connections(), 1, "the second call takes the pooled connection");
    } else {
        let row = gateway.usage(1).await.remove(0);
        assert_eq!((&row["status"], &row["error_message"]), (&json!("error"), &json!("connect")));
    }
    (answer.status, provider.count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_provider_is_reached_over_tls() {
    let authority = Authority::new();
    assert_eq!(asks_once(&authority, "localhost", &authority).await, (200, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_an_unknown_authority_is_refused_before_the_credential_leaves() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    assert_eq!(asks_once(&ours, "localhost", &theirs).await, (502, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new();
    assert_eq!(asks_once(&authority, "elsewhere.test", &authority).await, (502, 0));
}
