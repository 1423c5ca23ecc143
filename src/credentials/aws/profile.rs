//! Profiles: `~/.aws/credentials` and `~/.aws/config`.

use std::collections::BTreeMap;
use std::path::Path;

use otari_filters::secret::Secret;
use otari_filters::upstream::sign::AwsKeys;

use super::sts::Role;
use crate::config::AmbientAws;
use crate::credentials::{CredentialFailure, files};

/// What a profile gives.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Profile {
    /// Keys.
    Keys(AwsKeys),
    /// A role that a token of another identity provider may take.
    WebIdentity(Role),
}

/// The settings of one profile. Not to be shown.
type Settings = BTreeMap<String, String>;

/// What the profile of this name gives, or the default one; `None` when nobody named one and there is no default.
///
/// # Errors
/// When a file cannot be read, or the profile is missing, incomplete or of another kind.
pub(super) async fn find(
    aws: &AmbientAws,
    named: Option<&str>,
) -> Result<Option<Profile>, CredentialFailure> {
    let name = named.unwrap_or("default");
    let mut settings = section(aws.config_file.as_deref(), name, true).await?;
    // The file of credentials wins.
    if let Some(found) = section(aws.credentials_file.as_deref(), name, false).await? {
        settings.get_or_insert_default().extend(found);
    }
    match settings {
        Some(settings) => meaning(name, &settings, named.is_some()),
        None if named.is_none() => Ok(None),
        None => Err(CredentialFailure::settings(format!(
            "the AWS profile \"{name}\" is in neither of the AWS files: add it, or change profile_name or AWS_PROFILE"
        ))),
    }
}

async fn section(
    path: Option<&Path>,
    name: &str,
    is_config: bool,
) -> Result<Option<Settings>, CredentialFailure> {
    let Some(path) = path else { return Ok(None) };
    if !files::exists(path).await {
        return Ok(None);
    }
    let text = files::read(path).await.map_err(CredentialFailure::settings)?;
    Ok(read(text.expose(), name, is_config))
}

/// The section of this profile. In the config file it is called `profile NAME`, but `default` needs no `profile`. Lines
/// that make no sense are skipped, as are nested ones; a name that comes twice is one section, the later value wins.
fn read(text: &str, name: &str, is_config: bool) -> Option<Settings> {
    let mut found: Option<Settings> = None;
    let mut is_ours = false;
    for line in text.lines() {
        let bare = line.trim();
        if bare.is_empty() || bare.starts_with(['#', ';']) {
            continue;
        }
        if let Some(header) = bare.strip_prefix('[') {
            let header = header.split(']').next().unwrap_or_default().trim();
            is_ours = is_called(header, name, is_config);
            if is_ours {
                found.get_or_insert_default();
            }
        } else if is_ours
            && !line.starts_with([' ', '\t'])
            && let Some((key, value)) = bare.split_once('=')
            && let Some(found) = &mut found
        {
            // A comment needs a blank before it: keys may hold any of these signs.
            let end = [" #", " ;", "\t#", "\t;"].iter().filter_map(|sign| value.find(sign)).min();
            let value = value[..end.unwrap_or(value.len())].trim();
            found.insert(key.trim().to_ascii_lowercase(), value.to_owned());
        }
    }
    found
}

fn is_called(header: &str, name: &str, is_config: bool) -> bool {
    let header = match header.strip_prefix("profile").filter(|rest| rest.starts_with([' ', '\t'])) {
        Some(rest) if is_config => rest.trim(),
        _ if is_config && header != "default" => return false,
        _ => header,
    };
    header.trim_matches(['"', '\'']) == name
}

fn meaning(
    name: &str,
    settings: &Settings,
    is_named: bool,
) -> Result<Option<Profile>, CredentialFailure> {
    let get = |key: &str| settings.get(key).filter(|value| !value.is_empty());
    let wrong = |what: &str| {
        let text = format!("the AWS profile \"{name}\" {what}");
        Err(CredentialFailure::settings(text))
    };
    if let (Some(role), Some(file)) = (get("role_arn"), get("web_identity_token_file")) {
        return Ok(Some(Profile::WebIdentity(Role {
            arn: role.clone(),
            session: get("role_session_name").cloned(),
            token_file: file.into(),
        })));
    }
    match (get("aws_access_key_id"), get("aws_secret_access_key")) {
        (Some(id), Some(secret)) if get("role_arn").is_none() => {
            let token = get("aws_session_token").or_else(|| get("aws_security_token"));
            Ok(Some(Profile::Keys(AwsKeys {
                access_key_id: Secret::new(id),
                secret_access_key: Secret::new(secret),
                session_token: token.map(Secret::new),
            })))
        }
        (Some(_), None) | (None, Some(_)) if get("role_arn").is_none() => {
            wrong("has half of a pair of keys: set aws_access_key_id and aws_secret_access_key")
        }
        // A default profile that only names a region is no answer to the question for keys.
        _ if !is_named && !settings.keys().any(|key| gives_keys(key)) => Ok(None),
        _ => wrong(
            "has no keys. This gateway reads aws_access_key_id and aws_secret_access_key, or role_arn with \
             web_identity_token_file; for SSO, credential_process or source_profile export the keys first \
             (aws configure export-credentials)",
        ),
    }
}

/// Whether a setting promises keys in a way that is not supported.
fn gives_keys(key: &str) -> bool {
    key.starts_with("sso_")
        || matches!(key, "role_arn" | "credential_process" | "login_session" | "credential_source")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str, name: &str, is_config: bool) -> Option<(String, String)> {
        let settings = read(text, name, is_config)?;
        match meaning(name, &settings, true) {
            Ok(Some(Profile::Keys(keys))) => Some((
                keys.access_key_id.expose().to_owned(),
                keys.secret_access_key.expose().to_owned(),
            )),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn odd_files_are_read_as_the_command_line_of_aws_reads_them() {
        let text = "# top\r\naws_access_key_id = stray\r\n[default]\r\nAWS_ACCESS_KEY_ID=A1\r\n\
                    aws_secret_access_key = s/+=1#x  # why\r\ns3 =\r\n  aws_secret_access_key = nested\r\n\
                    [ two words ] ; note\r\naws_access_key_id=A2\nno sense\n= 1\naws_secret_access_key=s;2\n\
                    [default]\naws_access_key_id=A3\n[cut";
        let pair = |id: &str, secret: &str| Some((id.to_owned(), secret.to_owned()));
        assert_eq!(keys(text, "default", false), pair("A3", "s/+=1#x"));
        assert_eq!(keys(text, "two words", false), pair("A2", "s;2"));
        assert!(read(text, "cut", false).is_some_and(|found| found.is_empty()));
        assert_eq!(read(text, "three", false), None);
    }

    #[test]
    fn sections_of_the_config_file_begin_with_profile() {
        let text = "[profile dev]\na = 1\n[dev]\na = 2\n[default]\na = 3\n[profile \"x y\"]\na = 4\n\
                    [profile default]\nb = 5\n[sso-session dev]\na = 6\n[profiles]\na = 7\n";
        let a = |name: &str| read(text, name, true).and_then(|found| found.get("a").cloned());
        assert_eq!(a("dev").as_deref(), Some("1"));
        assert_eq!(a("default").as_deref(), Some("3"));
        assert_eq!(a("x y").as_deref(), Some("4"));
        assert_eq!(a("profiles"), None);
    }

    #[test]
    fn what_is_not_supported_is_said() {
        let told = |text: &str, is_named| {
            let settings = read(text, "p", false).unwrap();
            meaning("p", &settings, is_named)
        };
        assert_eq!(told("[p]\nregion = x", false), Ok(None), "no promise of keys");
        for text in [
            "[p]\nsso_start_url = x",
            "[p]\nrole_arn = x\nsource_profile = y",
            "[p]\ncredential_process = x",
        ] {
            let failure = told(text, false).unwrap_err().to_string();
            assert!(failure.contains("export-credentials"), "{failure}");
        }
        let failure = told("[p]\naws_secret_access_key = hunter2", false).unwrap_err().to_string();
        assert!(failure.contains("half") && !failure.contains("hunter2"), "{failure}");
        let role = told("[p]\nrole_arn = r\nweb_identity_token_file = /t\nregion = x", true);
        let role = role.unwrap().unwrap();
        assert!(matches!(role, Profile::WebIdentity(role) if role.arn == "r"));
    }
}
