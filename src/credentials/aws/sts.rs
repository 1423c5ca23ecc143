//! A role for a token of another identity provider: `AssumeRoleWithWebIdentity`.

use std::path::PathBuf;

use otari_filters::secret::Secret;
use otari_filters::upstream::sign::AwsKeys;
use reqwest::Url;

use super::until;
use crate::config::AmbientAws;
use crate::credentials::client::{self, Http, send};
use crate::credentials::kept::Issued;
use crate::credentials::{CredentialFailure, files};

/// What to become, and by what.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Role {
    pub(super) arn: String,
    pub(super) session: Option<String>,
    pub(super) token_file: PathBuf,
}

impl Role {
    /// What the variables of Kubernetes say.
    pub(super) fn of_environment(aws: &AmbientAws) -> Option<Self> {
        Some(Self {
            arn: aws.role_arn.clone()?,
            session: aws.role_session_name.clone(),
            token_file: aws.web_identity_token_file.clone()?,
        })
    }
}

pub(super) async fn assume(
    role: &Role,
    aws: &AmbientAws,
    region: Option<&str>,
    http: &Http,
    now: i64,
) -> Result<Issued, CredentialFailure> {
    // Kubernetes replaces the file: it is read anew each time.
    let token = files::read(&role.token_file).await.map_err(CredentialFailure::settings)?;
    let token = token.expose().trim();
    let endpoint = endpoint(aws.sts_endpoint.as_deref(), region)?;
    let who = client::name(&endpoint);
    let form = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleArn", &role.arn),
        ("RoleSessionName", role.session.as_deref().unwrap_or("otari")),
        ("WebIdentityToken", token),
    ];
    let answer = send(&who, http.post_form(endpoint, &form)).await?;
    let body = String::from_utf8_lossy(&answer.body);
    let status = answer.status;
    if !answer.is_success() {
        let words = client::words(&[element(&body, "Code"), element(&body, "Message")], &[token]);
        let text = format!("{who} answered {status}: {words}");
        return Err(match status {
            400 | 401 | 403 => CredentialFailure::refused(text),
            _ => CredentialFailure::unavailable(text),
        });
    }
    let (id, secret, session) = (
        element(&body, "AccessKeyId"),
        element(&body, "SecretAccessKey"),
        element(&body, "SessionToken"),
    );
    let (Some(id), Some(secret), Some(session)) = (id, secret, session) else {
        return Err(CredentialFailure::unavailable(format!("{who} answered without keys")));
    };
    let keys = AwsKeys {
        access_key_id: Secret::new(id),
        secret_access_key: Secret::new(secret),
        session_token: Some(Secret::new(session)),
    };
    until(&who, keys, element(&body, "Expiration"), now)
}

/// Where the token service of a region is.
fn endpoint(configured: Option<&str>, region: Option<&str>) -> Result<Url, CredentialFailure> {
    if let Some(text) = configured {
        return client::endpoint(text)
            .map_err(|what| CredentialFailure::settings(format!("AWS_ENDPOINT_URL_STS {what}")));
    }
    let text = match region {
        None => "https://sts.amazonaws.com".to_owned(),
        Some(region) if !is_region(region) => {
            return Err(CredentialFailure::settings(
                "the AWS region is not a name such as us-east-1",
            ));
        }
        Some(region) if region.starts_with("cn-") => {
            format!("https://sts.{region}.amazonaws.com.cn")
        }
        Some(region) => format!("https://sts.{region}.amazonaws.com"),
    };
    client::endpoint(&text)
        .map_err(|what| CredentialFailure::settings(format!("the address of AWS STS {what}")))
}

/// Letters, digits and hyphens: it becomes a part of a host name.
fn is_region(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// The text of the first element of this name. What AWS puts into these needs no escapes.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, after) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = after.split_once(&format!("</{name}>"))?;
    let text = text.trim();
    (!text.is_empty() && !text.contains('<')).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_cannot_lead_to_another_host() {
        let at = |region| endpoint(None, region).map(|url| url.to_string()).ok();
        assert_eq!(at(None).as_deref(), Some("https://sts.amazonaws.com/"));
        assert_eq!(at(Some("eu-west-1")).as_deref(), Some("https://sts.eu-west-1.amazonaws.com/"));
        assert_eq!(
            at(Some("cn-north-1")).as_deref(),
            Some("https://sts.cn-north-1.amazonaws.com.cn/")
        );
        for region in ["evil.example/", "a@b", "x.y", "", "#"] {
            assert_eq!(at(Some(region)), None, "{region}");
        }
        assert!(endpoint(Some("http://sts.example"), None).is_err(), "in clear over a network");
        assert!(endpoint(Some("http://127.0.0.1:9"), None).is_ok());
    }
}
