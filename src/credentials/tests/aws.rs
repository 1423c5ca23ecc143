//! The chain of AWS, link by link.

use otari_filters::secret::Secret;

use super::support::{Desk, Issuer, Reply, ok, upstream};
use crate::config::{Ambient, AmbientAws};
use crate::credentials::CredentialFailure;

const KEYS: &str = r#"{"Code":"Success","AccessKeyId":"ASIA1","SecretAccessKey":"secret-1","Token":"token-1",
    "Expiration":"2026-01-01T06:00:00Z"}"#;

fn desk(aws: AmbientAws) -> Desk {
    Desk::new(Some(Ambient { aws, ..Ambient::default() }))
}

fn keys(id: &str, secret: &str, token: Option<&str>) -> (String, String, Option<String>) {
    (id.to_owned(), secret.to_owned(), token.map(str::to_owned))
}

fn temporary() -> (String, String, Option<String>) {
    keys("ASIA1", "secret-1", Some("token-1"))
}

#[tokio::test]
async fn settings_win_and_a_platform_has_nothing_else() {
    let environment = || AmbientAws {
        access_key_id: Some(Secret::new("AKENV")),
        secret_access_key: Some(Secret::new("s-env")),
        session_token: Some(Secret::new("t-env")),
        ..AmbientAws::default()
    };
    let set = [("aws_access_key_id", "AK1"), ("aws_secret_access_key", "s-1")];
    let explicit = upstream("bedrock", None, &set);
    // A platform sends the secret one as its key.
    let platforms = upstream(
        "sagemaker",
        Some("s-2"),
        &[("aws_access_key_id", "AK2"), ("aws_session_token", "t-2")],
    );
    let bare = upstream("bedrock", None, &[("region_name", "us-east-1")]);
    for desk in [desk(environment()), Desk::new(None)] {
        assert_eq!(desk.keys(&explicit).await, Ok(keys("AK1", "s-1", None)));
        assert_eq!(desk.keys(&platforms).await, Ok(keys("AK2", "s-2", Some("t-2"))));
        for half in ["aws_access_key_id", "aws_secret_access_key"] {
            let failure = desk.keys(&upstream("bedrock", None, &[(half, "hunter2")])).await;
            let text = failure.unwrap_err().to_string();
            assert!(text.contains("set both") && !text.contains("hunter2"), "{text}");
        }
    }
    let from_env = desk(environment()).keys(&bare).await;
    assert_eq!(from_env, Ok(keys("AKENV", "s-env", Some("t-env"))));
    let failure = Desk::new(None).keys(&bare).await.unwrap_err();
    assert!(matches!(failure, CredentialFailure::Settings { .. }), "{failure:?}");
    let half = AmbientAws { secret_access_key: None, ..environment() };
    let text = desk(half).keys(&bare).await.unwrap_err().to_string();
    assert!(text.contains("AWS_SECRET_ACCESS_KEY"), "{text}");
}

#[tokio::test]
async fn a_profile_is_read_again_when_it_was_changed() {
    let folder = tempfile::tempdir().unwrap();
    let (credentials, config) = (folder.path().join("credentials"), folder.path().join("config"));
    let write = |path, text: &str| std::fs::write(path, text).unwrap();
    write(
        &config,
        "[default]\nregion = eu-west-1\n[profile dev]\naws_access_key_id = AKCONF\naws_secret_access_key = s-conf\n",
    );
    write(
        &credentials,
        "[default]\naws_access_key_id = AK1\naws_secret_access_key = s-1\n[dev]\naws_access_key_id = AKDEV\n",
    );
    let aws = AmbientAws {
        credentials_file: Some(credentials.clone()),
        config_file: Some(config.clone()),
        ..AmbientAws::default()
    };
    let bare = upstream("bedrock", None, &[]);
    let desk_ = desk(aws.clone());
    assert_eq!(desk_.keys(&bare).await, Ok(keys("AK1", "s-1", None)));
    write(&credentials, "[default]\naws_access_key_id = AK2\naws_secret_access_key = s-2\n");
    assert_eq!(desk_.keys(&bare).await, Ok(keys("AK1", "s-1", None)), "not on every call");
    desk_.clock.advance_s(301);
    super::support::soon("the new keys", || {
        let found = desk_.credentials.0.find(&bare, 0).unwrap();
        matches!(&found.usable(i64::MAX).unwrap().held,
            crate::credentials::Held::Keys(keys) if keys.access_key_id.expose() == "AK2")
    })
    .await;

    // A named profile comes before the environment when the settings name it, and must be there.
    let aws = AmbientAws {
        access_key_id: Some(Secret::new("AKENV")),
        secret_access_key: Some(Secret::new("s-env")),
        profile: Some("dev".to_owned()),
        ..aws
    };
    let dev = upstream("bedrock", None, &[("profile_name", "dev")]);
    assert_eq!(desk(aws.clone()).keys(&dev).await, Ok(keys("AKCONF", "s-conf", None)));
    assert_eq!(desk(aws.clone()).keys(&bare).await, Ok(keys("AKENV", "s-env", None)));
    let by_variable = AmbientAws { access_key_id: None, ..aws.clone() };
    assert_eq!(desk(by_variable).keys(&bare).await, Ok(keys("AKCONF", "s-conf", None)));
    let none = upstream("bedrock", None, &[("profile_name", "nobody")]);
    let text = desk(aws).keys(&none).await.unwrap_err().to_string();
    assert!(text.contains("\"nobody\""), "{text}");
}

#[tokio::test]
async fn a_token_of_kubernetes_becomes_a_role() {
    let xml = "<AssumeRoleWithWebIdentityResponse xmlns=\"x\">\n<Credentials><SessionToken>token-1</SessionToken>\
               <SecretAccessKey>secret-1</SecretAccessKey><Expiration>2026-01-01T01:00:00Z</Expiration>\
               <AccessKeyId>ASIA1</AccessKeyId></Credentials></AssumeRoleWithWebIdentityResponse>";
    let issuer = Issuer::saying(ok(xml)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "web-identity-value\n").unwrap();
    let aws = AmbientAws {
        role_arn: Some("arn:aws:iam::1:role/r".to_owned()),
        web_identity_token_file: Some(file.clone()),
        sts_endpoint: Some(issuer.url("")),
        ..AmbientAws::default()
    };
    let bare = upstream("bedrock", None, &[]);
    let desk = desk(aws);
    assert_eq!(desk.keys(&bare).await, Ok(temporary()));
    let asked = &issuer.asked()[0];
    for (name, value) in [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleArn", "arn:aws:iam::1:role/r"),
        ("RoleSessionName", "otari"),
        ("WebIdentityToken", "web-identity-value"),
    ] {
        assert_eq!(asked.field(name).as_deref(), Some(value), "{name}");
    }
    let refusal = "<ErrorResponse><Error><Code>ExpiredTokenException</Code>\
                   <Message>Token expired: web-identity-value</Message></Error></ErrorResponse>";
    issuer.now_says(Reply::Text(400, refusal.to_owned()));
    desk.clock.advance_s(3_600);
    let failure = desk.keys(&bare).await.unwrap_err();
    assert!(matches!(failure, CredentialFailure::Refused(_)), "{failure:?}");
    assert_eq!(failure.to_string(), "127.0.0.1 answered 400: ExpiredTokenException");
}

#[tokio::test]
async fn a_container_shows_its_token() {
    let issuer = Issuer::saying(ok(KEYS)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "container-token\n").unwrap();
    let full = |url: &str| AmbientAws {
        container_full_uri: Some(Secret::new(url)),
        container_token: Some(Secret::new("older")),
        container_token_file: Some(file.clone()),
        ..AmbientAws::default()
    };
    let bare = upstream("sagemaker", None, &[]);
    assert_eq!(desk(full(&issuer.url("/v1/keys?a=b"))).keys(&bare).await, Ok(temporary()));
    let asked = &issuer.asked()[0];
    assert_eq!(asked.line, "GET /v1/keys?a=b");
    assert_eq!(asked.header("authorization"), Some("container-token"));
    for url in ["http://keys.example/hunter2", "ftp://127.0.0.1/hunter2", "hunter2"] {
        let text = desk(full(url)).keys(&bare).await.unwrap_err().to_string();
        assert!(text.contains("FULL_URI") && !text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn an_instance_is_asked_with_a_session() {
    let issuer = Issuer::new(|asked, _| {
        let has_session = asked.header("x-aws-ec2-metadata-token") == Some("session-1");
        match (asked.line.as_str(), has_session) {
            ("PUT /latest/api/token", _)
                if asked.header("x-aws-ec2-metadata-token-ttl-seconds").is_some() =>
            {
                ok("session-1")
            }
            ("GET /latest/meta-data/iam/security-credentials/", true) => ok("my-role\nother"),
            ("GET /latest/meta-data/iam/security-credentials/my-role", true) => ok(KEYS),
            _ => Reply::Text(401, String::new()),
        }
    })
    .await;
    let aws = AmbientAws { metadata_endpoint: Some(issuer.url("/")), ..AmbientAws::default() };
    let bare = upstream("bedrock", None, &[]);
    assert_eq!(desk(aws.clone()).keys(&bare).await, Ok(temporary()));
    assert_eq!(issuer.count(), 3);

    for (reply, part) in [
        (Reply::Text(404, String::new()), "set aws_access_key_id"),
        (Reply::Text(403, String::new()), "answered 403"),
        (ok(""), "did not answer with a text"),
        (ok("../../user-data"), "named no role"),
        (ok("{\"Code\":\"Failed\"}"), "named no role"),
        (Reply::Huge(100_000), "longer than any"),
        (Reply::Hang, "did not answer in time"),
    ] {
        issuer.now_says(reply.clone());
        let text = desk(aws.clone()).keys(&bare).await.unwrap_err().to_string();
        let part = if matches!(reply, Reply::Text(404, _)) { "answered 404" } else { part };
        assert!(text.contains(part), "{reply:?}: {text}");
    }
    let before = issuer.count();
    let off = AmbientAws { is_metadata_disabled: true, ..aws };
    let text = desk(off).keys(&bare).await.unwrap_err().to_string();
    assert!(text.contains("AWS_ACCESS_KEY_ID"), "{text}");
    assert_eq!(issuer.count(), before, "not asked");
}

#[tokio::test]
async fn keys_that_have_ended_are_none() {
    for (end, part) in [("2025-12-31T23:59:59Z", "ended"), ("soon", "no time")] {
        let issuer = Issuer::saying(ok(KEYS.replace("2026-01-01T06:00:00Z", end))).await;
        let aws = AmbientAws {
            container_full_uri: Some(Secret::new(issuer.url("/"))),
            ..AmbientAws::default()
        };
        let text = desk(aws).keys(&upstream("bedrock", None, &[])).await.unwrap_err().to_string();
        assert!(text.contains(part) && !text.contains("secret-1"), "{text}");
    }
}
