//! What pages of other sites may do.

use reqwest::Method;

use crate::support::gateway::{Answer, Gateway};
use crate::support::provider::Provider;
use crate::support::{ask, ask_streamed, priced};

const HEADERS: &str = "Accept, Accept-Language, AnyLLM-Key, Authorization, Content-Language, Content-Type, Otari-Key, \
                       X-AnyLLM-Key, x-api-key";

async fn preflight(gateway: &Gateway, origin: &str, method: &str, headers: &str) -> Answer {
    let sent = [
        ("origin", origin),
        ("access-control-request-method", method),
        ("access-control-request-headers", headers),
    ];
    gateway.send(Method::OPTIONS, "/v1/chat/completions", &sent, "").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listed_origins_may_call() {
    let provider = Provider::streams(["ok"]);
    let start = Gateway::start().config("cors_allow_origins: [\"https://a.test\"]");
    let gateway = priced(start, &provider).await;
    let key = gateway.key("u").await;

    let asked = preflight(&gateway, "https://a.test", "POST", "authorization, x-api-key").await;
    assert_eq!((asked.status, asked.text().as_str()), (200, "OK"));
    assert_eq!(asked.header("access-control-allow-origin"), Some("https://a.test"));
    assert_eq!(asked.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(
        asked.header("access-control-allow-methods"),
        Some("GET, POST, PATCH, DELETE, OPTIONS")
    );
    assert_eq!(asked.header("access-control-allow-headers"), Some(HEADERS));
    assert_eq!(asked.header("access-control-max-age"), Some("600"));

    for (origin, method, headers, said) in [
        ("https://b.test", "POST", "", "Disallowed CORS origin"),
        ("https://a.test", "PUT", "", "Disallowed CORS method"),
        ("https://a.test", "POST", "x-other", "Disallowed CORS headers"),
        ("https://b.test", "PUT", "x-other", "Disallowed CORS origin, method, headers"),
    ] {
        let refused = preflight(&gateway, origin, method, headers).await;
        assert_eq!((refused.status, refused.text().as_str()), (400, said));
        let allowed = refused.header("access-control-allow-origin");
        assert_eq!(allowed.is_some(), origin == "https://a.test", "{allowed:?}");
    }

    let bearer = format!("Bearer {key}");
    for (origin, allowed) in [("https://a.test", Some("https://a.test")), ("https://b.test", None)]
    {
        for body in [ask().to_string(), ask_streamed().to_string(), "{".to_owned()] {
            let sent = [
                ("origin", origin),
                ("authorization", bearer.as_str()),
                ("content-type", "application/json"),
            ];
            let answer = gateway.send(Method::POST, "/v1/chat/completions", &sent, body).await;
            assert_eq!(answer.header("access-control-allow-origin"), allowed);
            assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
            let varies = answer.headers.get_all("vary").iter().any(|value| value == "Origin");
            assert_eq!(varies, allowed.is_some());
        }
    }
    let same_site = gateway.chat(&key, &ask()).await;
    assert_eq!(same_site.header("access-control-allow-credentials"), None, "no page asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_origin_may_call_without_the_browsers_own_credentials() {
    let gateway = Gateway::start().config("cors_allow_origins: [\"*\"]").await;
    let asked = preflight(&gateway, "https://a.test", "GET", "content-type").await;
    assert_eq!(asked.status, 200);
    assert_eq!(asked.header("access-control-allow-origin"), Some("*"));
    assert_eq!(asked.header("access-control-allow-credentials"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_list_no_page_of_another_site_may_call() {
    let gateway = Gateway::start().await;
    let asked = preflight(&gateway, "https://a.test", "POST", "").await;
    assert_eq!(asked.header("access-control-allow-origin"), None);
    assert_eq!(asked.header("access-control-allow-methods"), None);
}
