//! Workload identity federation: a token of another identity provider, from a file or an address, exchanged at Google's
//! token service, and perhaps for the token of a service account after that.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use otari_filters::secret::Secret;
use reqwest::Url;
use serde_json::{Value, json};

use super::{SCOPE, address, required, unusable};
use crate::credentials::client::{self, Http, send};
use crate::credentials::kept::{Issued, bearer};
use crate::credentials::{CredentialFailure, files, oauth};

const STS: &str = "https://sts.googleapis.com/v1/token";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// Who vouches, where, and for which account.
#[derive(Debug)]
pub(crate) struct Federation {
    audience: String,
    token_type: String,
    exchange: Url,
    impersonation: Option<Url>,
    place: Place,
    /// The field of a JSON subject token; `None`: the whole text is the token.
    field: Option<String>,
}

/// Where the other's token is.
#[derive(Debug)]
enum Place {
    File(PathBuf),
    Url(Url, Vec<(String, Secret)>),
}

impl Federation {
    /// # Errors
    /// What is wrong, without any value.
    pub(super) fn read(value: &Value) -> Result<Self, String> {
        let source = &value["credential_source"];
        let place = match (source["file"].as_str(), source["url"].as_str()) {
            (Some(path), _) => Place::File(path.into()),
            (None, Some(url)) => {
                let url = Url::parse(url).map_err(|_| "`credential_source.url` is not a URL")?;
                let headers = source["headers"].as_object().into_iter().flatten();
                let headers = headers
                    .filter_map(|(name, value)| Some((name.clone(), Secret::new(value.as_str()?))));
                Place::Url(url, headers.collect())
            }
            (None, None) => {
                return Err("`credential_source` must have a `file` or a `url`; executables and \
                            AWS request signatures are not supported"
                    .to_owned());
            }
        };
        let format = &source["format"];
        let field = (format["type"] == "json").then(|| &format["subject_token_field_name"]);
        let impersonation = "service_account_impersonation_url";
        Ok(Self {
            audience: required(value, "audience")?.to_owned(),
            token_type: required(value, "subject_token_type")?.to_owned(),
            exchange: address(value, "token_url", STS)?,
            impersonation: match value[impersonation].as_str() {
                Some(_) => Some(address(value, impersonation, "")?),
                None => None,
            },
            place,
            field: field.map(|field| field.as_str().unwrap_or("access_token").to_owned()),
        })
    }

    pub(super) async fn fetch(&self, http: &Http, now: i64) -> Result<Issued, CredentialFailure> {
        let subject = self.subject(http).await?;
        let who = client::name(&self.exchange);
        let form = [
            ("grant_type", GRANT),
            ("audience", &self.audience),
            ("scope", SCOPE),
            ("requested_token_type", ACCESS_TOKEN),
            ("subject_token_type", &self.token_type),
            ("subject_token", subject.expose()),
        ];
        let answer = send(&who, http.post_form(self.exchange.clone(), &form)).await?;
        let issued =
            oauth::token(&who, &answer, now, |body| oauth::refusal(body, &[subject.expose()]))?;
        let Some(url) = &self.impersonation else { return Ok(issued) };
        let token = answer.json()["access_token"].as_str().map(Secret::new).unwrap_or_default();
        impersonate(url, &token, http, now).await
    }

    /// The other's token.
    async fn subject(&self, http: &Http) -> Result<Secret, CredentialFailure> {
        let text = match &self.place {
            Place::File(path) => files::read(path).await.map_err(unusable)?,
            Place::Url(url, headers) => {
                let who = client::name(url);
                let mut request = http.get(url.clone());
                for (name, value) in headers {
                    request = request.header(name, value.expose());
                }
                let answer = send(&who, request).await?;
                if !answer.is_success() {
                    let text = format!("{who} answered {} and no token", answer.status);
                    return Err(CredentialFailure::unavailable(text));
                }
                Secret::new(String::from_utf8_lossy(&answer.body))
            }
        };
        let token = match &self.field {
            None => Some(text.expose().trim().to_owned()),
            Some(field) => serde_json::from_str::<Value>(text.expose())
                .ok()
                .and_then(|value| value[field.as_str()].as_str().map(str::to_owned)),
        };
        token.filter(|token| !token.is_empty()).map(Secret::new).ok_or_else(|| {
            CredentialFailure::unavailable("the credential source of the federation holds no token")
        })
    }
}

/// The federated identity's token becomes one of a service account.
async fn impersonate(
    url: &Url,
    token: &Secret,
    http: &Http,
    now: i64,
) -> Result<Issued, CredentialFailure> {
    let who = client::name(url);
    let request = http.post_json(url.clone(), &json!({"scope": [SCOPE], "lifetime": "3600s"}));
    let answer = send(&who, request.bearer_auth(token.expose())).await?;
    let body = answer.json();
    if !answer.is_success() {
        let said = [body["error"]["status"].as_str(), body["error"]["message"].as_str()];
        let words = client::words(&said, &[token.expose()]);
        let text = format!("{who} answered {}: {words}", answer.status);
        return Err(match answer.status {
            400 | 401 | 403 => CredentialFailure::refused(text),
            _ => CredentialFailure::unavailable(text),
        });
    }
    let end = body["expireTime"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let life = end.map(|end| end.as_microsecond() - now).and_then(|left| u64::try_from(left).ok());
    match (body["accessToken"].as_str(), life) {
        (Some(token), Some(life)) if life > 0 => {
            Ok(Issued::for_life(bearer(&who, token)?, now, Duration::from_micros(life)))
        }
        _ => Err(CredentialFailure::unavailable(format!("{who} issued no token that is valid"))),
    }
}
