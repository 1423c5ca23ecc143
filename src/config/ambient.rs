//! What this machine offers as a credential of cloud providers: variables and the usual places of files. The files are
//! read by whoever needs one, because they change while the gateway runs.

use std::path::PathBuf;

use super::Secret;
use super::env::Env;

/// Google's part of it.
#[derive(Clone, Debug, Default)]
pub struct AmbientGoogle {
    /// `GOOGLE_APPLICATION_CREDENTIALS`.
    pub credentials_file: Option<PathBuf>,
    /// Where `gcloud auth application-default login` leaves its own.
    pub gcloud_file: Option<PathBuf>,
    /// `GCE_METADATA_HOST`: host, perhaps with a port.
    pub metadata_host: Option<String>,
}

/// The part of AWS.
#[derive(Clone, Debug, Default)]
pub struct AmbientAws {
    /// `AWS_ACCESS_KEY_ID`.
    pub access_key_id: Option<Secret>,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: Option<Secret>,
    /// `AWS_SESSION_TOKEN`.
    pub session_token: Option<Secret>,
    /// `AWS_PROFILE`, else `AWS_DEFAULT_PROFILE`.
    pub profile: Option<String>,
    /// `AWS_SHARED_CREDENTIALS_FILE`, else `~/.aws/credentials`.
    pub credentials_file: Option<PathBuf>,
    /// `AWS_CONFIG_FILE`, else `~/.aws/config`.
    pub config_file: Option<PathBuf>,
    /// `AWS_ROLE_ARN`.
    pub role_arn: Option<String>,
    /// `AWS_ROLE_SESSION_NAME`.
    pub role_session_name: Option<String>,
    /// `AWS_WEB_IDENTITY_TOKEN_FILE`.
    pub web_identity_token_file: Option<PathBuf>,
    /// `AWS_REGION`, else `AWS_DEFAULT_REGION`.
    pub region: Option<String>,
    /// `AWS_ENDPOINT_URL_STS`.
    pub sts_endpoint: Option<String>,
    /// `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI`. Its path is as good as a password.
    pub container_relative_uri: Option<Secret>,
    /// `AWS_CONTAINER_CREDENTIALS_FULL_URI`.
    pub container_full_uri: Option<Secret>,
    /// `AWS_CONTAINER_AUTHORIZATION_TOKEN`.
    pub container_token: Option<Secret>,
    /// `AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE`.
    pub container_token_file: Option<PathBuf>,
    /// `AWS_EC2_METADATA_DISABLED`.
    pub is_metadata_disabled: bool,
    /// `AWS_EC2_METADATA_SERVICE_ENDPOINT`.
    pub metadata_endpoint: Option<String>,
}

/// What this machine offers, in standalone mode; in connected mode every credential is the platform's.
#[derive(Clone, Debug, Default)]
pub struct Ambient {
    /// For Vertex AI.
    pub google: AmbientGoogle,
    /// For Bedrock and SageMaker.
    pub aws: AmbientAws,
}

impl Ambient {
    /// What the variables say. Blank ones are unset.
    pub fn read(env: &Env) -> Self {
        let text = |name: &str| env.filled(name).map(str::to_owned);
        let either = |first: &str, second: &str| text(first).or_else(|| text(second));
        let secret = |name: &str| env.filled(name).map(Secret::new);
        let path = |name: &str| env.filled(name).map(PathBuf::from);
        let home = path("HOME");
        let at_home = |below: &str| home.as_ref().map(|home| home.join(below));
        let gcloud = path("CLOUDSDK_CONFIG").or_else(|| at_home(".config/gcloud"));
        Self {
            google: AmbientGoogle {
                credentials_file: path("GOOGLE_APPLICATION_CREDENTIALS"),
                gcloud_file: gcloud.map(|dir| dir.join("application_default_credentials.json")),
                metadata_host: text("GCE_METADATA_HOST"),
            },
            aws: AmbientAws {
                access_key_id: secret("AWS_ACCESS_KEY_ID"),
                secret_access_key: secret("AWS_SECRET_ACCESS_KEY"),
                session_token: secret("AWS_SESSION_TOKEN"),
                profile: either("AWS_PROFILE", "AWS_DEFAULT_PROFILE"),
                credentials_file: path("AWS_SHARED_CREDENTIALS_FILE")
                    .or_else(|| at_home(".aws/credentials")),
                config_file: path("AWS_CONFIG_FILE").or_else(|| at_home(".aws/config")),
                role_arn: text("AWS_ROLE_ARN"),
                role_session_name: text("AWS_ROLE_SESSION_NAME"),
                web_identity_token_file: path("AWS_WEB_IDENTITY_TOKEN_FILE"),
                region: either("AWS_REGION", "AWS_DEFAULT_REGION"),
                sts_endpoint: text("AWS_ENDPOINT_URL_STS"),
                container_relative_uri: secret("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
                container_full_uri: secret("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
                container_token: secret("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
                container_token_file: path("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
                is_metadata_disabled: text("AWS_EC2_METADATA_DISABLED")
                    .is_some_and(|value| value.eq_ignore_ascii_case("true")),
                metadata_endpoint: text("AWS_EC2_METADATA_SERVICE_ENDPOINT"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_their_usual_places_and_secrets_are_not_shown() {
        let env = Env::from_pairs([
            ("HOME", "/home/op"),
            ("AWS_CONFIG_FILE", "/etc/aws"),
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "hunter2"),
            ("AWS_SESSION_TOKEN", " "),
            ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/hunter2"),
            ("AWS_EC2_METADATA_DISABLED", "True"),
        ]);
        let Ambient { google, aws } = Ambient::read(&env);
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(aws.credentials_file, path("/home/op/.aws/credentials"));
        assert_eq!(aws.config_file, path("/etc/aws"));
        assert_eq!(
            google.gcloud_file,
            path("/home/op/.config/gcloud/application_default_credentials.json")
        );
        assert_eq!(aws.session_token, None, "blank is unset");
        assert!(aws.is_metadata_disabled);
        let shown = format!("{aws:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("AKID"), "{shown}");
    }
}
