//! Google's OAuth 2: a service account, a user's refresh token, a federated identity, or the metadata server of the
//! machine.

mod account;
mod federation;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use otari_filters::upstream::Upstream;
use reqwest::Url;
use serde_json::Value;

use super::client::{self, Http, send};
use super::kept::Issued;
use super::{CredentialFailure, files, key, oauth, setting};
use crate::config::{Ambient, AmbientGoogle};
use account::{ServiceAccount, User};
use federation::Federation;

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
const METADATA_HOST: &str = "metadata.google.internal";
const METADATA_PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token";
/// What the caller is told, in the reference's words.
const TOLD: &str = "Unable to load vertex credentials";

/// Where a token for Vertex AI comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// In the settings.
    Given(Given),
    /// A file that the operator names, read whenever a token is asked for.
    File(PathBuf),
    /// What the machine offers.
    Ambient(Arc<Ambient>),
}

/// Credentials as a file of Google's holds them.
#[derive(Debug)]
pub(crate) enum Given {
    /// Signs for itself.
    ServiceAccount(ServiceAccount),
    /// `gcloud auth application-default login`.
    User(User),
    /// A token of another cloud's, exchanged. Only ever an operator's: it names files and addresses.
    Federation(Box<Federation>),
}

/// The project that credentials name, when they are JSON and name one.
pub fn project_of(credentials: &str) -> Option<String> {
    let value: Value = serde_json::from_str(credentials).ok()?;
    value["project_id"].as_str().filter(|id| !id.is_empty()).map(str::to_owned)
}

fn unusable(cause: impl Into<Arc<str>>) -> CredentialFailure {
    CredentialFailure::Settings { cause: cause.into(), told: TOLD }
}

impl Source {
    pub(super) fn of(
        upstream: &Upstream,
        ambient: Option<&Arc<Ambient>>,
    ) -> Result<Self, CredentialFailure> {
        let json_key = || key(upstream).filter(|key| key.starts_with('{'));
        match (setting(upstream, "credentials").or_else(json_key), ambient) {
            (Some(text), _) if text.starts_with('{') => {
                Given::read("credentials", text, ambient.is_some()).map(Self::Given)
            }
            (Some(path), Some(_)) => Ok(Self::File(path.into())),
            (None, Some(ambient)) => Ok(Self::Ambient(ambient.clone())),
            (Some(_), None) => Err(unusable("the platform's `credentials` are not a JSON object")),
            (None, None) => Err(unusable("the platform sent no `credentials` for Vertex AI")),
        }
    }

    pub(super) async fn fetch(&self, http: &Http, now: i64) -> Result<Issued, CredentialFailure> {
        match self {
            Self::Given(given) => given.fetch(http, now).await,
            Self::File(path) => from_file(path, http, now).await,
            Self::Ambient(ambient) => chain(&ambient.google, http, now).await,
        }
    }
}

/// What application default credentials are: a file that is named, the file of gcloud, the metadata server.
async fn chain(
    ambient: &AmbientGoogle,
    http: &Http,
    now: i64,
) -> Result<Issued, CredentialFailure> {
    if let Some(path) = &ambient.credentials_file {
        return from_file(path, http, now).await;
    }
    if let Some(path) = &ambient.gcloud_file
        && files::exists(path).await
    {
        return from_file(path, http, now).await;
    }
    metadata(ambient.metadata_host.as_deref(), http, now).await
}

async fn from_file(path: &Path, http: &Http, now: i64) -> Result<Issued, CredentialFailure> {
    let text = files::read(path).await.map_err(unusable)?;
    let given = Given::read(&path.display().to_string(), text.expose(), true)?;
    given.fetch(http, now).await
}

impl Given {
    /// `place`: what messages call the text. `is_operators`: whether it may name files and metadata servers.
    fn read(place: &str, text: &str, is_operators: bool) -> Result<Self, CredentialFailure> {
        let value: Value = serde_json::from_str(text)
            .map_err(|_| unusable(format!("{place}: not JSON as Google writes it")))?;
        let wrong = |what: String| unusable(format!("{place}: {what}"));
        match value["type"].as_str() {
            Some("service_account") => {
                ServiceAccount::read(&value).map(Self::ServiceAccount).map_err(wrong)
            }
            Some("authorized_user") => User::read(&value).map(Self::User).map_err(wrong),
            Some("external_account") if is_operators => Federation::read(&value)
                .map(|federation| Self::Federation(Box::new(federation)))
                .map_err(wrong),
            _ => Err(wrong(
                "`type` must be service_account or authorized_user, or external_account in the operator's own \
                 configuration. Create a service account key, or run on Google Cloud without credentials"
                    .to_owned(),
            )),
        }
    }

    async fn fetch(&self, http: &Http, now: i64) -> Result<Issued, CredentialFailure> {
        match self {
            Self::ServiceAccount(account) => account.fetch(http, now).await,
            Self::User(user) => user.fetch(http, now).await,
            Self::Federation(federation) => federation.fetch(http, now).await,
        }
    }
}

/// A token of the account that the machine runs as.
async fn metadata(host: Option<&str>, http: &Http, now: i64) -> Result<Issued, CredentialFailure> {
    const WHO: &str = "the metadata server";
    let url = format!("http://{}{METADATA_PATH}", host.unwrap_or(METADATA_HOST));
    let url = Url::parse(&url).map_err(|_| unusable("GCE_METADATA_HOST is not a host"))?;
    let request = http.get(url).header("metadata-flavor", "Google");
    let answer = send(WHO, request).await.map_err(|failure| {
        CredentialFailure::unavailable(format!(
            "{failure}. Outside of Google Cloud set `credentials` or GOOGLE_APPLICATION_CREDENTIALS"
        ))
    })?;
    oauth::token(WHO, &answer, now, |body| oauth::refusal(body, &[]))
}

/// An address of a credentials file.
fn address(value: &Value, name: &str, default: &str) -> Result<Url, String> {
    let text = value[name].as_str().filter(|text| !text.is_empty()).unwrap_or(default);
    client::endpoint(text).map_err(|what| format!("`{name}` {what}"))
}

/// A text that a credentials file must have.
fn required<'a>(value: &'a Value, name: &str) -> Result<&'a str, String> {
    let text = value[name].as_str().map(str::trim).filter(|text| !text.is_empty());
    text.ok_or_else(|| format!("`{name}` is missing"))
}
