//! What a provider's client can be told beyond credential and base URL, and which variables say it.
//!
//! The names are those of the vendors' Python clients: configurations and platforms use them.

/// One setting of a provider's client.
#[derive(Debug)]
pub struct Setting {
    /// Its key in a provider's entry and in [`crate::upstream::Upstream::client_settings`].
    pub name: &'static str,
    /// Environment variables that may hold it; the first that is set wins.
    pub env: &'static [&'static str],
    /// Whether calls are authenticated with it.
    pub is_credential: bool,
}

const fn plain(name: &'static str, env: &'static [&'static str]) -> Setting {
    Setting { name, env, is_credential: false }
}

const fn secret(name: &'static str, env: &'static [&'static str]) -> Setting {
    Setting { name, env, is_credential: true }
}

pub(super) const AWS: &[Setting] = &[
    plain("region_name", &["AWS_REGION", "AWS_DEFAULT_REGION"]),
    secret("aws_access_key_id", &["AWS_ACCESS_KEY_ID"]),
    secret("aws_secret_access_key", &["AWS_SECRET_ACCESS_KEY"]),
    secret("aws_session_token", &["AWS_SESSION_TOKEN"]),
    plain("profile_name", &["AWS_PROFILE"]),
];

pub(super) const AZURE: &[Setting] = &[plain("api_version", &[])];

pub(super) const AZURE_OPENAI: &[Setting] = &[
    plain("api_version", &["OPENAI_API_VERSION"]),
    secret("azure_ad_token", &["AZURE_OPENAI_AD_TOKEN"]),
];

pub(super) const AZURE_ANTHROPIC: &[Setting] =
    &[plain("resource", &["AZURE_ANTHROPIC_RESOURCE"]), secret("azure_ad_token", &[])];

pub(super) const GOOGLE: &[Setting] = &[
    secret("credentials", &["GOOGLE_APPLICATION_CREDENTIALS"]),
    plain("project", &["GOOGLE_CLOUD_PROJECT"]),
    plain("location", &["GOOGLE_CLOUD_LOCATION"]),
];

pub(super) const WATSONX: &[Setting] = &[
    plain("project_id", &["WATSONX_PROJECT_ID"]),
    plain("space_id", &["WATSONX_SPACE_ID"]),
    plain("iam_url", &[]),
    plain("api_version", &[]),
];
