//! Keys of the machine itself: of the container, or of the instance.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use http::HeaderValue;
use otari_filters::secret::Secret;
use reqwest::Url;

use super::from_json;
use crate::config::AmbientAws;
use crate::credentials::client::{self, Answer, Http, send};
use crate::credentials::kept::Issued;
use crate::credentials::{CredentialFailure, files};

/// Amazon ECS.
const CONTAINER_HOST: &str = "http://169.254.170.2";
/// Amazon ECS and EKS: the only hosts but this machine that may be asked without TLS.
const CONTAINER_ADDRESSES: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
];
const INSTANCE: &str = "http://169.254.169.254";
const TOKEN_PATH: &str = "/latest/api/token";
const ROLE_PATH: &str = "/latest/meta-data/iam/security-credentials/";
/// Of a token that asks the instance's metadata: one question needs it.
const TOKEN_TTL_S: &str = "300";
/// The instance answers at once; elsewhere nobody does.
const QUICK: Duration = Duration::from_secs(2);

/// Keys of the container; `None` outside of one.
///
/// # Errors
/// When there should be some.
pub(super) async fn container(
    aws: &AmbientAws,
    http: &Http,
    now: i64,
) -> Result<Option<Issued>, CredentialFailure> {
    const WHO: &str = "the container's credentials endpoint";
    let Some(url) = container_url(aws).map_err(CredentialFailure::settings)? else {
        return Ok(None);
    };
    let token = match &aws.container_token_file {
        // Amazon EKS replaces the file: it is read anew each time.
        Some(path) => Some(files::read(path).await.map_err(CredentialFailure::settings)?),
        None => aws.container_token.clone(),
    };
    let mut request = http.get(url);
    if let Some(token) = &token {
        let value = HeaderValue::from_str(token.expose().trim()).map_err(|_| {
            CredentialFailure::settings("the container's authorization token fits into no header")
        })?;
        request = request.header(http::header::AUTHORIZATION, sensitive(value));
    }
    let answer = send(WHO, request).await?;
    if !answer.is_success() {
        return Err(failed(WHO, &answer));
    }
    from_json(WHO, &answer.json(), now).map(Some)
}

fn sensitive(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

fn container_url(aws: &AmbientAws) -> Result<Option<Url>, &'static str> {
    if let Some(path) = &aws.container_relative_uri {
        let path = path.expose();
        let url = Url::parse(&format!("{CONTAINER_HOST}/{}", path.trim_start_matches('/')));
        return url.map(Some).map_err(|_| "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is not a path");
    }
    let Some(text) = &aws.container_full_uri else { return Ok(None) };
    let url =
        Url::parse(text.expose()).map_err(|_| "AWS_CONTAINER_CREDENTIALS_FULL_URI is not a URL")?;
    let is_known = client::address(&url).is_some_and(|ip| CONTAINER_ADDRESSES.contains(&ip));
    let is_fine = url.scheme() == "https"
        || url.scheme() == "http" && (is_known || client::is_loopback(&url));
    is_fine.then_some(Some(url)).ok_or(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI must be an https:// URL, or one of this machine or of \
         Amazon ECS or EKS",
    )
}

/// Keys of the role that the instance has.
pub(super) async fn instance(
    aws: &AmbientAws,
    http: &Http,
    now: i64,
) -> Result<Issued, CredentialFailure> {
    const WHO: &str = "the instance's metadata service";
    const NOWHERE: &str = "no AWS keys: set aws_access_key_id and aws_secret_access_key, AWS_ACCESS_KEY_ID and \
                           AWS_SECRET_ACCESS_KEY, or a profile";
    if aws.is_metadata_disabled {
        return Err(CredentialFailure::settings(NOWHERE));
    }
    let base = aws.metadata_endpoint.as_deref().unwrap_or(INSTANCE).trim_end_matches('/');
    let at = |path: &str| {
        let url = Url::parse(&format!("{base}{path}")).ok();
        url.filter(|url| matches!(url.scheme(), "http" | "https")).ok_or_else(|| {
            CredentialFailure::settings("AWS_EC2_METADATA_SERVICE_ENDPOINT is not a URL")
        })
    };
    let request = http
        .put(at(TOKEN_PATH)?)
        .header("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_TTL_S)
        .timeout(QUICK);
    let answer = send(WHO, request).await.map_err(|failure| {
        CredentialFailure::unavailable(format!("{NOWHERE}. Asked last: {failure}"))
    })?;
    let session = text(WHO, &answer)?;
    let ask = async |path: &str| {
        let request = http.get(at(path)?).timeout(QUICK);
        let request = request.header("x-aws-ec2-metadata-token", session.expose());
        let answer = send(WHO, request).await?;
        match answer.status {
            404 => Err(CredentialFailure::unavailable(format!(
                "{NOWHERE}. This instance has no role: attach an instance profile"
            ))),
            _ if answer.is_success() => Ok(answer),
            _ => Err(failed(WHO, &answer)),
        }
    };
    let roles = text(WHO, &ask(ROLE_PATH).await?)?;
    let role = roles.expose().lines().next().unwrap_or_default().trim();
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b);
    if role.is_empty() || !role.bytes().all(is_name) {
        let text = format!("{WHO} named no role");
        return Err(CredentialFailure::unavailable(text));
    }
    let answer = ask(&format!("{ROLE_PATH}{role}")).await?;
    from_json(WHO, &answer.json(), now)
}

/// The body as a text that may be a secret.
fn text(who: &str, answer: &Answer) -> Result<Secret, CredentialFailure> {
    if !answer.is_success() {
        return Err(failed(who, answer));
    }
    let text = std::str::from_utf8(&answer.body).unwrap_or_default().trim();
    if text.is_empty() || text.bytes().any(|b| b.is_ascii_control() && b != b'\n' && b != b'\r') {
        return Err(CredentialFailure::unavailable(format!("{who} did not answer with a text")));
    }
    Ok(Secret::new(text))
}

fn failed(who: &str, answer: &Answer) -> CredentialFailure {
    let text = format!("{who} answered {} and no keys", answer.status);
    match answer.status {
        400 | 401 | 403 => CredentialFailure::refused(text),
        _ => CredentialFailure::unavailable(text),
    }
}
