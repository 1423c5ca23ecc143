//! What a provider's client is told beyond key and address: from the entry, its `client_args`, the environment.

use otari_filters::providers::{Auth, Provider, Setting, setting};
use serde_json::Value as Json;

use super::super::env::Env;
use super::super::node::{Node, Value};
use super::super::problem::{Place, Report};
use super::super::{CredentialSource, Secret};
use super::credential::{contents, is_sendable};

const NO_CREDENTIALS: &str = "Unable to load vertex credentials";
const NO_PROJECT: &str = "Could not resolve GCP project ID from credentials or configuration";

/// Settings by name, and where the first of them came from that calls are authenticated with.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) values: Vec<(String, Secret)>,
    pub(super) source: Option<CredentialSource>,
}

impl Settings {
    fn add(&mut self, setting: &Setting, text: String, source: CredentialSource) {
        if setting.is_credential {
            self.source.get_or_insert(source);
        }
        self.values.push((setting.name.to_owned(), Secret::new(text)));
    }
}

/// The settings of an entry, and those of the environment that it leaves open.
pub(super) fn read<'a>(
    kind: &'static Provider,
    parent: &Node,
    written: &dyn Fn(&str) -> Option<&'a Node>,
    has_key: bool,
    env: &Env,
    report: &mut Report,
) -> Settings {
    let mut found = Settings::default();
    for known in kind.settings {
        let Some(node) = written(known.name) else { continue };
        if let Some(text) = value(known, node, report) {
            found.add(known, text, CredentialSource::Entry);
        }
    }
    let broken = kind.settings.iter().any(|known| written(known.name).is_some_and(Node::is_broken));
    let filled = fill(kind, &mut found, has_key, env);
    if let Err(what) = filled {
        report.problem(&Place::named("environment"), what);
    } else if kind.auth() == Auth::Google && setting(&found.values, "project").is_none() && !broken
    {
        let text = format!(
            "{}: {NO_PROJECT}. Set {}.project or GOOGLE_CLOUD_PROJECT.",
            parent.path, parent.path
        );
        report.problem(&parent.key_place, text);
    }
    found
}

/// The settings that the environment alone gives.
///
/// # Errors
/// What is wrong with a file that a variable names.
pub(super) fn from_environment(
    kind: &'static Provider,
    has_key: bool,
    env: &Env,
) -> Result<Settings, String> {
    let mut found = Settings::default();
    fill(kind, &mut found, has_key, env)?;
    Ok(found)
}

/// Adds what the environment has of the settings that are still open. Credentials come from one place: those of the
/// environment never complete an entry's, and give way to a key.
fn fill(
    kind: &'static Provider,
    found: &mut Settings,
    has_key: bool,
    env: &Env,
) -> Result<(), String> {
    let has_credential = has_key || found.source.is_some();
    for known in kind.settings {
        if setting(&found.values, known.name).is_some() || (known.is_credential && has_credential) {
            continue;
        }
        // The account's own project is meant before the one that the machine is set up for.
        if known.name == "project"
            && let Some(project) = project_of(&found.values)
        {
            found.add(known, project, CredentialSource::Entry);
            continue;
        }
        let Some((name, text)) = known.env.iter().find_map(|name| Some((*name, env.filled(name)?)))
        else {
            continue;
        };
        let text = match known.name {
            "credentials" => google(text).map_err(|what| format!("{name}: {what}"))?,
            _ if !is_sendable(text) => {
                return Err(format!("{name}: has characters that no header can carry."));
            }
            _ => text.to_owned(),
        };
        found.add(known, text, CredentialSource::Variable(name));
    }
    Ok(())
}

/// A setting as it is written in an entry; blank is none.
fn value(known: &Setting, node: &Node, report: &mut Report) -> Option<String> {
    if known.name == "credentials" {
        let text = match &node.value {
            Value::Map(_) => node.to_json().map(|json| Ok(json.to_string())),
            Value::Text(text) if text.trim().is_empty() => None,
            Value::Text(text) => Some(google(text)),
            Value::Null | Value::Broken => None,
            _ => Some(Err(
                "Invalid credentials type: expected a path, JSON text or a mapping.".to_owned()
            )),
        };
        return text?.map_err(|what| node.wrong(report, &what)).ok();
    }
    // A project's number needs no quotes.
    if let Value::Int(number) = node.value {
        return Some(number.to_string());
    }
    let text = node.text(report)?.trim();
    if !is_sendable(text) {
        node.wrong(report, "has characters that no header can carry. Copy it again.");
        return None;
    }
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// JSON of Google credentials from itself or from the file it names.
fn google(text: &str) -> Result<String, String> {
    let text = text.trim();
    let (json, source) = if text.starts_with('{') {
        (text.to_owned(), "the text")
    } else {
        (contents(text).map_err(|what| format!("{NO_CREDENTIALS}: {what}"))?, text)
    };
    match serde_json::from_str::<serde_json::Map<String, Json>>(&json) {
        Ok(_) => Ok(json),
        Err(_) => Err(format!("{NO_CREDENTIALS}: {source} is no JSON object.")),
    }
}

/// The project that Google credentials belong to.
fn project_of(settings: &[(String, Secret)]) -> Option<String> {
    let credentials: Json = serde_json::from_str(setting(settings, "credentials")?).ok()?;
    let project = credentials["project_id"].as_str()?.trim();
    (!project.is_empty() && is_sendable(project)).then(|| project.to_owned())
}
