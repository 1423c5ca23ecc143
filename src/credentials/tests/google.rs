//! Google: what is asked for, by whom, and where it may go.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::support::{Desk, Issuer, Reply, START_S, ok, token, upstream};
use crate::config::Ambient;
use crate::credentials::{CredentialFailure, project_of};

/// Made for these tests; it opens nothing.
const KEY: &str = include_str!("key.pem");

pub(super) fn service_account(token_uri: &str) -> String {
    json!({
        "type": "service_account", "project_id": "p-1", "private_key_id": "kid-1", "private_key": KEY,
        "client_email": "robot@p-1.iam.gserviceaccount.com", "token_uri": token_uri,
    })
    .to_string()
}

fn vertex(credentials: &str) -> otari_filters::upstream::Upstream {
    upstream("vertexai", None, &[("credentials", credentials), ("location", "us-central1")])
}

fn settings_failure(result: Result<String, CredentialFailure>) -> String {
    match result {
        Err(failure @ CredentialFailure::Settings { .. }) => failure.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_service_account_signs_for_itself() {
    let issuer = Issuer::saying(token("ya29.one", 3600)).await;
    // As a platform's: nothing of it is this machine's.
    let desk = Desk::new(None);
    let uri = issuer.url("/token");
    let account = vertex(&service_account(&uri));
    assert_eq!(desk.bearer(&account).await.as_deref(), Ok("ya29.one"));
    let claude = upstream("vertexaianthropic", None, &[("credentials", &service_account(&uri))]);
    assert_eq!(desk.bearer(&claude).await.as_deref(), Ok("ya29.one"));

    let asked = &issuer.asked()[0];
    assert_eq!(asked.line, "POST /token");
    assert_eq!(asked.header("content-type"), Some("application/x-www-form-urlencoded"));
    let grant = asked.field("grant_type");
    assert_eq!(grant.as_deref(), Some("urn:ietf:params:oauth:grant-type:jwt-bearer"));
    let assertion = asked.field("assertion").unwrap();
    let parts: Vec<&str> = assertion.split('.').collect();
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
    let json = |part| serde_json::from_slice::<Value>(&decode(part)).unwrap();
    assert_eq!(json(parts[0]), json!({"alg": "RS256", "typ": "JWT", "kid": "kid-1"}));
    assert_eq!(
        json(parts[1]),
        json!({
            "iss": "robot@p-1.iam.gserviceaccount.com", "aud": uri, "iat": START_S, "exp": START_S + 3600,
            "scope": "https://www.googleapis.com/auth/cloud-platform",
        })
    );
    let der = PrivatePkcs8KeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
    let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref());
    let signed = format!("{}.{}", parts[0], parts[1]);
    public.verify(signed.as_bytes(), &decode(parts[2])).expect("the account's own signature");
    assert!(public.verify(b"another text", &decode(parts[2])).is_err());
}

#[tokio::test]
async fn a_user_shows_a_refresh_token() {
    let issuer = Issuer::saying(token("ya29.user", 3599)).await;
    let desk = Desk::new(None);
    let user = json!({
        "type": "authorized_user", "client_id": "id-1", "client_secret": "secret-value-1",
        "refresh_token": "1//refresh-value", "token_uri": issuer.url("/t"),
    });
    assert_eq!(desk.bearer(&vertex(&user.to_string())).await.as_deref(), Ok("ya29.user"));
    let asked = &issuer.asked()[0];
    for (name, value) in [
        ("grant_type", "refresh_token"),
        ("client_id", "id-1"),
        ("client_secret", "secret-value-1"),
        ("refresh_token", "1//refresh-value"),
    ] {
        assert_eq!(asked.field(name).as_deref(), Some(value), "{name}");
    }
    // What is refused is said, but nothing of what was shown.
    let refusal =
        json!({"error": "invalid_grant", "error_description": "bad 1//refresh-value here"});
    issuer.now_says(Reply::Text(400, refusal.to_string()));
    desk.clock.advance_s(4_000);
    let failure = desk.bearer(&vertex(&user.to_string())).await.unwrap_err();
    let text = failure.to_string();
    assert!(matches!(failure, CredentialFailure::Refused(_)), "{failure:?}");
    assert!(text.contains("127.0.0.1 answered 400: invalid_grant"), "{text}");
    assert!(!text.contains("refresh-value"), "{text}");
    let told = failure.rejection();
    assert_eq!(told.message, "The provider rejected the gateway's credentials");
    assert_eq!(told.code.status(), 502);
}

#[tokio::test]
async fn a_machine_has_a_file_or_a_metadata_server() {
    let issuer = Issuer::new(|asked, _| match asked.line.as_str() {
        "POST /file" => token("from-file", 3600),
        _ => token("from-metadata", 3600),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("adc.json");
    let mut ambient = Ambient::default();
    ambient.google.gcloud_file = Some(file.clone());
    ambient.google.metadata_host = Some(issuer.address.to_string());

    let bare = upstream("vertexai", None, &[("project", "p")]);
    let desk = Desk::new(Some(ambient.clone()));
    assert_eq!(desk.bearer(&bare).await.as_deref(), Ok("from-metadata"));
    let asked = &issuer.asked()[0];
    assert_eq!(asked.line, "GET /computeMetadata/v1/instance/service-accounts/default/token");
    assert_eq!(asked.header("metadata-flavor"), Some("Google"));

    // The file of gcloud comes before the metadata server; a named one must be there.
    std::fs::write(&file, format!("\u{feff}{}", service_account(&issuer.url("/file")))).unwrap();
    let desk = Desk::new(Some(ambient.clone()));
    assert_eq!(desk.bearer(&bare).await.as_deref(), Ok("from-file"));
    ambient.google.credentials_file = Some(folder.path().join("missing.json"));
    let desk = Desk::new(Some(ambient.clone()));
    let said = settings_failure(desk.bearer(&bare).await);
    assert!(said.contains("missing.json"), "{said}");
    // A path in the settings is the operator's.
    let path = upstream("vertexai", None, &[("credentials", file.to_str().unwrap())]);
    assert_eq!(desk.bearer(&path).await.as_deref(), Ok("from-file"));

    // Nothing of that is for a platform's tenants.
    let before = issuer.count();
    let desk = Desk::new(None);
    for upstream in [&bare, &path] {
        let said = settings_failure(desk.bearer(upstream).await);
        assert!(said.contains("platform"), "{said}");
    }
    assert_eq!(issuer.count(), before);
}

#[tokio::test]
async fn what_cannot_be_used_is_said_before_anybody_is_asked() {
    let desk = Desk::new(None);
    let with = |name: &str, value: Value| {
        let mut account: Value =
            serde_json::from_str(&service_account("https://oauth2.example/token")).unwrap();
        account[name] = value;
        account.to_string()
    };
    for (text, part) in [
        ("{not json hunter2".to_owned(), "not JSON"),
        ("hunter2".to_owned(), "not a JSON object"),
        (with("private_key", json!("hunter2")), "PKCS #8"),
        (
            with(
                "private_key",
                json!("-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----"),
            ),
            "RSA",
        ),
        (with("client_email", json!(7)), "`client_email` is missing"),
        (
            with("token_uri", json!("http://internal.example/hunter2")),
            "`token_uri` must be an https",
        ),
        (with("token_uri", json!("https://u:hunter2@h/")), "password"),
        (with("token_uri", json!("file:///hunter2")), "`token_uri` must be an https"),
        (with("type", json!("external_account")), "`type` must be"),
        (with("type", json!("hunter2")), "`type` must be"),
    ] {
        let failure = desk.bearer(&vertex(&text)).await.unwrap_err();
        assert_eq!(failure.rejection().message, "Unable to load vertex credentials");
        let said = settings_failure(Err(failure));
        assert!(said.contains(part) && !said.contains("hunter2"), "{said}");
    }
    assert_eq!(project_of(&with("x", json!(1))).as_deref(), Some("p-1"));
    assert_eq!(project_of("/a/path.json"), None);
}

#[tokio::test]
async fn a_federated_identity_is_exchanged_twice() {
    let issuer = Issuer::new(|asked, _| match asked.line.as_str() {
        "GET /subject" => ok(r#"{"value":"subject-token-1"}"#),
        "POST /sts" => token("federated-token-1", 3600),
        "POST /impersonate" => {
            ok(r#"{"accessToken":"ya29.robot","expireTime":"2026-01-01T01:00:00Z"}"#)
        }
        other => Reply::Text(404, other.to_owned()),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("subject");
    std::fs::write(&file, "subject-token-2\n").unwrap();
    let external = |source: Value, impersonates: bool| {
        let mut value = json!({
            "type": "external_account", "audience": "//iam.example/pool",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": issuer.url("/sts"), "credential_source": source,
        });
        if impersonates {
            value["service_account_impersonation_url"] = json!(issuer.url("/impersonate"));
        }
        value.to_string()
    };
    let desk = Desk::new(Some(Ambient::default()));
    let by_url = json!({
        "url": issuer.url("/subject"), "headers": {"x-identity": "1"},
        "format": {"type": "json", "subject_token_field_name": "value"},
    });
    assert_eq!(desk.bearer(&vertex(&external(by_url, true))).await.as_deref(), Ok("ya29.robot"));
    let asked = issuer.asked();
    assert_eq!(asked[0].header("x-identity"), Some("1"));
    assert_eq!(asked[1].field("subject_token").as_deref(), Some("subject-token-1"));
    assert_eq!(asked[1].field("audience").as_deref(), Some("//iam.example/pool"));
    assert_eq!(asked[2].header("authorization"), Some("Bearer federated-token-1"));

    let by_file = vertex(&external(json!({"file": file}), false));
    assert_eq!(desk.bearer(&by_file).await.as_deref(), Ok("federated-token-1"));
    assert_eq!(issuer.asked()[3].field("subject_token").as_deref(), Some("subject-token-2"));
}
