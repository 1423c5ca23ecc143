//! IBM Cloud IAM.

use super::support::{Desk, Issuer, Reply, token, upstream};
use crate::config::Ambient;
use crate::credentials::CredentialFailure;
use crate::credentials::ibm;

#[tokio::test]
async fn a_key_becomes_a_token() {
    let issuer = Issuer::saying(token("iam-token", 3600)).await;
    let desk = Desk::new(Some(Ambient::default()));
    for url in [issuer.url(""), issuer.url("/"), issuer.url("/identity/token")] {
        let watsonx = upstream("watsonx", Some("ibm-key-1 "), &[("iam_url", &url)]);
        assert_eq!(desk.bearer(&watsonx).await.as_deref(), Ok("iam-token"), "{url}");
    }
    let asked = &issuer.asked()[2];
    assert_eq!(asked.line, "POST /identity/token");
    assert_eq!(asked.field("apikey").as_deref(), Some("ibm-key-1"));
    let grant = asked.field("grant_type");
    assert_eq!(grant.as_deref(), Some("urn:ibm:params:oauth:grant-type:apikey"));
}

#[tokio::test]
async fn a_refusal_is_said_without_the_key() {
    let body = r#"{"errorCode":"BXNIM0415E","errorMessage":"Provided API key ibm-key-value could not be found."}"#;
    let issuer = Issuer::saying(Reply::Text(400, body.to_owned())).await;
    let desk = Desk::new(Some(Ambient::default()));
    let url = issuer.url("");
    let failure =
        desk.bearer(&upstream("watsonx", Some("ibm-key-value"), &[("iam_url", &url)])).await;
    let text = failure.unwrap_err().to_string();
    assert_eq!(text, "127.0.0.1 answered 400: BXNIM0415E");
}

#[test]
fn a_platform_cannot_say_who_sees_the_key() {
    let to = |url: &str, may_redirect| {
        let upstream = upstream("watsonx", Some("k"), &[("iam_url", url)]);
        ibm::Source::of(&upstream, may_redirect).map(|source| format!("{source:?}"))
    };
    let shown = to("https://evil.example", false).unwrap();
    assert!(shown.contains("iam.cloud.ibm.com") && !shown.contains("evil"), "{shown}");
    assert!(to("https://iam.internal.example", true).unwrap().contains("iam.internal.example"));
    assert!(to("http://iam.internal.example", true).is_err(), "in clear over a network");
    let keyless = ibm::Source::of(&upstream("watsonx", Some(" "), &[]), true);
    assert!(matches!(keyless, Err(CredentialFailure::Settings { .. })), "{keyless:?}");
}
