//! Credentials of providers: in the entry, in a variable, in a file that one of them names.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use otari_filters::providers::{Auth, Provider, setting};

use super::super::env::Env;
use super::super::node::Node;
use super::super::problem::{Place, Report};
use super::super::{CredentialSource, Secret};

/// Far more than any key, token or service account needs.
const MAX_BYTES: u64 = 256 * 1024;

/// A credential and where it came from.
pub(super) type Found = (Secret, CredentialSource);

/// `api_key`, else what `api_key_file` holds, else what the environment says.
pub(super) fn read(
    kind: &'static Provider,
    key: Option<&Node>,
    file: Option<&Node>,
    env: &Env,
    report: &mut Report,
) -> Option<Found> {
    if let Some(node) = key
        && let Some(text) = node.text(report).map(str::trim).filter(|text| !text.is_empty())
    {
        if !is_sendable(text) {
            node.wrong(report, "has characters that no header can carry. Copy it again.");
            return None;
        }
        return Some((Secret::new(text), CredentialSource::Entry));
    }
    if let Some(node) = file
        && let Some(path) = node.text(report).map(str::trim).filter(|path| !path.is_empty())
    {
        let held = from_file(path);
        return held.map_err(|what| node.wrong(report, &what)).ok();
    }
    let found = from_environment(kind, env);
    found.map_err(|what| report.problem(&Place::named("environment"), what)).ok().flatten()
}

/// The first of the row's variables that is set, or that names a file with `_FILE` behind it, as service managers do
/// it.
///
/// # Errors
/// What is wrong with the file.
pub(super) fn from_environment(
    kind: &'static Provider,
    env: &Env,
) -> Result<Option<Found>, String> {
    for name in kind.credential_env {
        if let Some(text) = env.filled(name) {
            return Ok(Some((Secret::new(text), CredentialSource::Variable(name))));
        }
        let named = format!("{name}_FILE");
        if let Some(path) = env.filled(&named) {
            return from_file(path).map(Some).map_err(|what| format!("{named}: {what}"));
        }
    }
    Ok(None)
}

fn from_file(path: &str) -> Result<Found, String> {
    let text = contents(path)?;
    let text = text.trim();
    if text.is_empty() {
        return Err(format!("{path} is empty. Put the credential into it."));
    }
    if !is_sendable(text) {
        return Err(format!("{path} has characters that no header can carry. Copy it again."));
    }
    Ok((Secret::new(text), CredentialSource::File(path.into())))
}

/// A small text file.
///
/// # Errors
/// The path and what is wrong with it.
pub(super) fn contents(path: &str) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(Path::new(path))
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(format!("{path} cannot be read: {error}.")),
        Ok(length) if length as u64 > MAX_BYTES => {
            Err(format!("{path} is larger than 256 KiB: no credential is."))
        }
        Ok(_) => Ok(text),
    }
}

/// Whether a header can carry it.
pub(super) fn is_sendable(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
}

/// Whether a provider can be called with this, leaving aside what the machine may have.
pub(super) fn is_enough(kind: &Provider, has_key: bool, settings: &[(String, Secret)]) -> bool {
    let has = |name| setting(settings, name).is_some();
    match kind.auth() {
        Auth::Aws if has("aws_access_key_id") => has("aws_secret_access_key") || has_key,
        Auth::Google => has("credentials"),
        Auth::ApiKey => has_key || has("azure_ad_token"),
        _ => has_key,
    }
}

/// What an operator can do about a provider without a credential.
pub(super) fn cures(kind: &Provider, entry: &str, settings: &[(String, Secret)]) -> String {
    let with = |name: &str, variable: Option<&&str>| match variable {
        Some(variable) => format!("{entry}.{name} or {variable}"),
        None => format!("{entry}.{name}"),
    };
    if kind.auth() == Auth::Aws && setting(settings, "aws_access_key_id").is_some() {
        return with("aws_secret_access_key", Some(&"AWS_SECRET_ACCESS_KEY"));
    }
    if kind.auth() == Auth::Google {
        return with("credentials", Some(&"GOOGLE_APPLICATION_CREDENTIALS"));
    }
    with("api_key", kind.credential_env.first())
}
