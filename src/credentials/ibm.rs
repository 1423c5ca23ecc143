//! IBM Cloud IAM: an API key becomes a token.

use otari_filters::secret::Secret;
use otari_filters::upstream::Upstream;
use reqwest::Url;
use serde_json::Value;

use super::client::{self, Http, send};
use super::kept::Issued;
use super::{CredentialFailure, key, oauth, setting};

const IAM: &str = "https://iam.cloud.ibm.com";
const PATH: &str = "/identity/token";
const GRANT: &str = "urn:ibm:params:oauth:grant-type:apikey";

/// An API key and whom it is shown to.
#[derive(Debug)]
pub(crate) struct Source {
    api_key: Secret,
    endpoint: Url,
}

impl Source {
    /// `may_redirect`: whether the settings are the operator's own, who may name another IAM (`iam_url`).
    pub(super) fn of(upstream: &Upstream, may_redirect: bool) -> Result<Self, CredentialFailure> {
        let api_key = key(upstream).ok_or_else(|| {
            CredentialFailure::settings("watsonx has no API key: set api_key or WATSONX_API_KEY")
        })?;
        let base = setting(upstream, "iam_url").filter(|_| may_redirect).unwrap_or(IAM);
        let base = base.trim_end_matches('/').trim_end_matches(PATH);
        let endpoint = client::endpoint(&format!("{base}{PATH}"))
            .map_err(|what| CredentialFailure::settings(format!("iam_url {what}")))?;
        Ok(Self { api_key: Secret::new(api_key), endpoint })
    }

    pub(super) async fn fetch(&self, http: &Http, now: i64) -> Result<Issued, CredentialFailure> {
        let who = client::name(&self.endpoint);
        let api_key = self.api_key.expose();
        let form = [("grant_type", GRANT), ("apikey", api_key)];
        let request = http.post_form(self.endpoint.clone(), &form);
        let request = request.header(http::header::ACCEPT, "application/json");
        let answer = send(&who, request).await?;
        let refusal = |body: &Value| {
            client::words(&[body["errorCode"].as_str(), body["errorMessage"].as_str()], &[api_key])
        };
        oauth::token(&who, &answer, now, refusal)
    }
}
