//! The chain of AWS: explicit settings, environment, profile, web identity, container, instance metadata.

mod machine;
mod profile;
mod sts;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use otari_filters::secret::Secret;
use otari_filters::upstream::Upstream;
use otari_filters::upstream::sign::AwsKeys;
use serde_json::Value;

use super::client::{self, Http};
use super::kept::{Held, Issued};
use super::{CredentialFailure, key, setting};
use crate::config::{Ambient, AmbientAws};
use profile::Profile;

/// Keys in a file have no end, but whoever changes them wants them to be used.
const FILE_AGAIN: Duration = Duration::from_secs(300);

/// Keys that are not in the settings: the machine has them.
#[derive(Debug)]
pub(crate) struct Source {
    ambient: Arc<Ambient>,
    /// A profile that the settings name.
    profile: Option<String>,
    region: Option<String>,
}

/// Keys that stand in the settings. A platform sends the secret one as its `api_key`.
///
/// # Errors
/// When there is half of a pair.
pub(super) fn explicit(upstream: &Upstream) -> Result<Option<AwsKeys>, CredentialFailure> {
    let secret = setting(upstream, "aws_secret_access_key");
    let Some(id) = setting(upstream, "aws_access_key_id") else {
        return match secret {
            None => Ok(None),
            Some(_) => Err(CredentialFailure::settings(
                "aws_secret_access_key is set without aws_access_key_id: set both",
            )),
        };
    };
    let secret = secret.or_else(|| key(upstream)).ok_or_else(|| {
        CredentialFailure::settings(
            "aws_access_key_id is set without aws_secret_access_key: set both",
        )
    })?;
    let session_token = setting(upstream, "aws_session_token").map(Secret::new);
    Ok(Some(AwsKeys {
        access_key_id: Secret::new(id),
        secret_access_key: Secret::new(secret),
        session_token,
    }))
}

impl Source {
    pub(super) fn of(
        upstream: &Upstream,
        ambient: Option<&Arc<Ambient>>,
    ) -> Result<Self, CredentialFailure> {
        let ambient = ambient.ok_or_else(|| {
            CredentialFailure::settings(
                "the platform sent no aws_access_key_id: the keys of this machine are not used for it",
            )
        })?;
        Ok(Self {
            ambient: ambient.clone(),
            profile: setting(upstream, "profile_name").map(str::to_owned),
            region: setting(upstream, "region_name").map(str::to_owned),
        })
    }

    pub(super) async fn fetch(&self, http: &Http, now: i64) -> Result<Issued, CredentialFailure> {
        let aws = &self.ambient.aws;
        let region = self.region.as_deref().or(aws.region.as_deref());
        if self.profile.is_none()
            && let Some(keys) = from_environment(aws)?
        {
            return Ok(Issued::without_end(Held::Keys(Arc::new(keys)), now, None));
        }
        let named = self.profile.as_deref().or(aws.profile.as_deref());
        match profile::find(aws, named).await? {
            Some(Profile::Keys(keys)) => {
                let held = Held::Keys(Arc::new(keys));
                return Ok(Issued::without_end(held, now, Some(FILE_AGAIN)));
            }
            Some(Profile::WebIdentity(role)) => {
                return sts::assume(&role, aws, region, http, now).await;
            }
            None => {}
        }
        if let Some(role) = sts::Role::of_environment(aws) {
            return sts::assume(&role, aws, region, http, now).await;
        }
        if let Some(answer) = machine::container(aws, http, now).await? {
            return Ok(answer);
        }
        machine::instance(aws, http, now).await
    }
}

fn from_environment(aws: &AmbientAws) -> Result<Option<AwsKeys>, CredentialFailure> {
    match (&aws.access_key_id, &aws.secret_access_key) {
        (Some(id), Some(secret)) => Ok(Some(AwsKeys {
            access_key_id: id.clone(),
            secret_access_key: secret.clone(),
            session_token: aws.session_token.clone(),
        })),
        (Some(_), None) => Err(CredentialFailure::settings(
            "AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY: set both",
        )),
        (None, _) => Ok(None),
    }
}

/// Keys as containers and instances get them.
///
/// # Errors
/// When they are none, or have ended.
fn from_json(who: &str, body: &Value, now_us: i64) -> Result<Issued, CredentialFailure> {
    let text = |name: &str| body[name].as_str().filter(|text| !text.is_empty());
    let (Some(id), Some(secret)) = (text("AccessKeyId"), text("SecretAccessKey")) else {
        // The instance's metadata service says why, with a status of success.
        let why = client::words(&[body["Code"].as_str()], &[]);
        let text = format!("{who} answered without keys: {why}");
        return Err(CredentialFailure::unavailable(text));
    };
    let keys = AwsKeys {
        access_key_id: Secret::new(id),
        secret_access_key: Secret::new(secret),
        session_token: text("Token").map(Secret::new),
    };
    until(who, keys, text("Expiration"), now_us)
}

/// Keys that end at `end`, an RFC 3339 time.
fn until(
    who: &str,
    keys: AwsKeys,
    end: Option<&str>,
    now_us: i64,
) -> Result<Issued, CredentialFailure> {
    let held = Held::Keys(Arc::new(keys));
    let Some(end) = end else {
        return Ok(Issued::without_end(held, now_us, Some(FILE_AGAIN)));
    };
    let end = end.parse::<Timestamp>().map_err(|_| {
        CredentialFailure::unavailable(format!("{who} issued keys with an end that is no time"))
    })?;
    match u64::try_from(end.as_microsecond() - now_us) {
        Ok(life) if life > 0 => Ok(Issued::for_life(held, now_us, Duration::from_micros(life))),
        _ => Err(CredentialFailure::unavailable(format!(
            "{who} issued keys that have ended already; is this machine's clock right?"
        ))),
    }
}
