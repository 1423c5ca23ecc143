//! `providers:`, and the providers whose credential is in the environment.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use otari_filters::providers::{Auth, Family, PROVIDERS, Provider, find};

use super::env::Env;
use super::layers::{Fields, LONGEST_S, warn_unknown};
use super::node::Node;
use super::problem::{Place, Report, suggestion};
use super::{CredentialSource, ProviderConfig, Secret, url};

mod credential;
mod settings;

use settings::Settings;

/// What an entry may hold, beside the settings of the provider's client.
const KEYS: &[&str] =
    &["provider_type", "api_key", "api_key_file", "api_base", "client_args", "models"];
/// Which of `client_args` mean something here.
const CLIENT_KEYS: &[&str] = &["timeout", "max_retries", "default_headers"];
/// The reference's SDKs try three times in all.
const DEFAULT_RETRIES: u32 = 2;
/// Headers that belong to the connection or that the gateway writes itself.
const REFUSED_HEADERS: &[&str] = &[
    "authorization",
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
];

/// The configured instances in the file's order, then those that only the environment knows.
pub(super) fn read(fields: &Fields, env: &Env, report: &mut Report) -> Vec<ProviderConfig> {
    let entries = fields.get("providers").map_or(&[][..], |node| node.entries(report));
    let mut providers: Vec<ProviderConfig> = entries
        .iter()
        .filter_map(|(instance, node)| configured(instance, node, env, report))
        .collect();
    for kind in PROVIDERS {
        let taken = entries.iter().any(|(instance, _)| instance == kind.name);
        if !taken && let Some(provider) = from_environment(kind, env, report) {
            providers.push(provider);
        }
    }
    providers.extend(older_name(&providers, env));
    providers
}

/// `gateway` is what `otari` was called; selectors with it work where only its old variables are set.
fn older_name(providers: &[ProviderConfig], env: &Env) -> Option<ProviderConfig> {
    const OLDER: &str = "gateway";
    let is_new = env.filled("OTARI_API_KEY").is_some();
    let is_taken = providers.iter().any(|provider| provider.instance == OLDER);
    let newer = providers.iter().find(|p| p.instance == "otari" && p.from_environment)?;
    let older = || ProviderConfig { instance: OLDER.to_owned(), ..newer.clone() };
    (!is_new && !is_taken).then(older)
}

/// The names that `provider_type` and a bare key may have.
fn kind(instance: &str, node: &Node, report: &mut Report) -> Option<&'static Provider> {
    let typed = node.entries(report).iter().find(|(key, n)| key == "provider_type" && n.is_set());
    let (name, place) = match typed {
        Some((_, typed)) => (typed.text(report)?, &typed.place),
        None => (instance, &node.key_place),
    };
    let found = find(name);
    if found.is_none() {
        let path = typed.map_or(&node.path, |(_, typed)| &typed.path);
        let hint = match suggestion(name, PROVIDERS.iter().map(|p| p.name)) {
            hint if hint.is_empty() => {
                let names: Vec<&str> = PROVIDERS.iter().map(|p| p.name).collect();
                format!(" Set provider_type to one of: {}.", names.join(", "))
            }
            hint => format!("{hint} For a name of your own set provider_type."),
        };
        report.problem(place, format!("{path}: unknown provider.{hint}"));
    }
    found
}

fn configured(
    instance: &str,
    node: &Node,
    env: &Env,
    report: &mut Report,
) -> Option<ProviderConfig> {
    if instance.is_empty() || instance.contains([':', '/']) {
        let text = format!("{}: a name has no ':' and no '/'. Rename it.", node.path);
        report.problem(&node.key_place, text);
        return None;
    }
    let kind = kind(instance, node, report)?;
    let entries = node.entries(report);
    let entry = |key: &str| entries.iter().find(|(k, n)| k == key && n.is_set()).map(|(_, n)| n);
    let arguments = entry("client_args").map_or(&[][..], |node| node.entries(report));
    warn_unknown(entries, &with_settings(KEYS, kind), "not used", report);

    let key = credential::read(kind, entry("api_key"), entry("api_key_file"), env, report);
    let written = |name: &str| {
        let argument = arguments.iter().find(|(key, node)| key == name && node.is_set());
        entry(name).or(argument.map(|(_, node)| node))
    };
    let settings = settings::read(kind, node, &written, key.is_some(), env, report);
    let base_url = base_url(kind, node, entry("api_base"), &settings.values, env, report);
    let mut provider = ProviderConfig {
        base_url,
        models: entry("models").map(|n| n.texts(report)).unwrap_or_default(),
        from_environment: false,
        ..assembled(instance, kind, key, settings)
    };
    client_args(&mut provider, arguments, report);
    let is_broken =
        ["api_key", "api_key_file"].iter().any(|key| entry(key).is_some_and(Node::is_broken));
    if !kind.is_callable() {
        let text = format!(
            "provider \"{instance}\" ({}) cannot be called by this version yet.",
            kind.display_name
        );
        report.warn(&node.key_place, text);
    } else if provider.credential == CredentialSource::Missing && !is_broken {
        let cures = credential::cures(kind, &node.path, &provider.settings);
        let text = format!("provider \"{instance}\" has no credential: set {cures}");
        report.warn(&node.key_place, text);
    }
    Some(provider)
}

/// `keys` and what the provider's client can be told.
fn with_settings(keys: &[&'static str], kind: &'static Provider) -> Vec<&'static str> {
    keys.iter().copied().chain(kind.settings.iter().map(|setting| setting.name)).collect()
}

/// A provider with the defaults of everything but its credential.
fn assembled(
    instance: &str,
    kind: &'static Provider,
    key: Option<credential::Found>,
    settings: Settings,
) -> ProviderConfig {
    let Settings { values, source } = settings;
    let (api_key, key_source) = key.unzip();
    let credential = if credential::is_enough(kind, api_key.is_some(), &values) {
        source.or(key_source).unwrap_or(CredentialSource::Entry)
    } else if kind.keyless {
        CredentialSource::NotNeeded
    } else if matches!(kind.auth(), Auth::Aws | Auth::Google) && source.is_none() {
        CredentialSource::Machine
    } else {
        CredentialSource::Missing
    };
    ProviderConfig {
        instance: instance.to_owned(),
        kind,
        api_key,
        settings: values,
        credential,
        base_url: None,
        timeout: None,
        max_retries: DEFAULT_RETRIES,
        headers: Vec::new(),
        models: Vec::new(),
        from_environment: true,
    }
}

/// `api_base`, else the row's variable, else its default; a problem when a callable provider has none.
fn base_url(
    kind: &'static Provider,
    parent: &Node,
    node: Option<&Node>,
    settings: &[(String, Secret)],
    env: &Env,
    report: &mut Report,
) -> Option<String> {
    if let Some(node) = node {
        let text = node.text(report)?;
        if !text.trim().is_empty() {
            return checked_base(text, kind).map_err(|what| node.wrong(report, &what)).ok();
        }
    }
    for name in kind.base_env {
        if let Some(text) = env.filled(name) {
            let place = Place::named("environment");
            return checked_base(text, kind)
                .map_err(|what| report.problem(&place, format!("{name}: {what}")))
                .ok();
        }
    }
    match kind.base(settings) {
        Ok(base) => Some(base.into_owned()),
        Err(_) if !kind.is_callable() || kind.family == Family::Mock => None,
        Err(missing) if missing.is_malformed => {
            report.problem(&parent.key_place, format!("{}: {missing}.", parent.path));
            None
        }
        Err(missing) => {
            let cures: Vec<String> = [format!("{}.{}", parent.path, missing.name)]
                .into_iter()
                .chain(missing.env.iter().map(|&name| name.to_owned()))
                .collect();
            let text = format!("{}: has no address. Set {}.", parent.path, cures.join(" or "));
            report.problem(&parent.key_place, text);
            None
        }
    }
}

/// The URL that is meant where only a host and perhaps a port are written, as the local servers' own tools take it.
fn completed(text: &str, kind: &Provider) -> Option<String> {
    let port = match kind.name {
        "ollama" => 11434,
        "lmstudio" => 1234,
        _ => return None,
    };
    if text.contains("://") {
        return None;
    }
    // OLLAMA_HOST is also where the server listens: `0.0.0.0`, `:11434`, `host`, `host:port`, `[::1]`.
    let after_brackets = text.rfind(']').map_or(0, |at| at + 1);
    let (host, rest) = match text[after_brackets..].find([':', '/']) {
        Some(at) => text.split_at(after_brackets + at),
        None => (text, ""),
    };
    let host = if matches!(host, "0.0.0.0" | "") { "127.0.0.1" } else { host };
    let port = if rest.starts_with(':') { String::new() } else { format!(":{port}") };
    Some(format!("http://{host}{port}{rest}"))
}

/// An absolute http(s) URL without user information and trailing slashes.
fn checked_base(text: &str, kind: &Provider) -> Result<String, String> {
    let completed = completed(text.trim(), kind);
    let text = completed.as_deref().unwrap_or(text.trim());
    url::absolute(text, "Put the credential into api_key.")?;
    if kind.is_callable() && text.contains(['?', '#']) {
        return Err(url::NO_QUERY.into());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn client_args(provider: &mut ProviderConfig, entries: &[(String, Node)], report: &mut Report) {
    warn_unknown(entries, &with_settings(CLIENT_KEYS, provider.kind), "not used", report);
    for (key, node) in entries {
        match key.as_str() {
            "timeout" => {
                let seconds = node.number(true, LONGEST_S, report);
                provider.timeout = seconds.map(Duration::from_secs_f64);
            }
            // More than this only multiplies an outage.
            "max_retries" => {
                let retries = node.whole(&(0..=100), report).and_then(|n| u32::try_from(n).ok());
                provider.max_retries = retries.unwrap_or(DEFAULT_RETRIES);
            }
            "default_headers" => {
                let headers = node.entries(report).iter();
                provider.headers =
                    headers.filter_map(|(name, value)| header(name, value, report)).collect();
            }
            _ => {}
        }
    }
}

fn header(name: &str, node: &Node, report: &mut Report) -> Option<(HeaderName, HeaderValue)> {
    let text = node.text(report)?;
    let Ok(name) = name.parse::<HeaderName>() else {
        node.wrong(report, "not a header name. Use letters, digits and '-'.");
        return None;
    };
    if REFUSED_HEADERS.contains(&name.as_str()) {
        let advice =
            if name == http::header::AUTHORIZATION { "Use api_key." } else { "Remove it." };
        node.wrong(report, &format!("this header cannot be set here. {advice}"));
        return None;
    }
    let Ok(mut value) = text.parse::<HeaderValue>() else {
        node.wrong(report, "has characters that no header can carry. Remove them.");
        return None;
    };
    // Operators put credentials into these.
    value.set_sensitive(true);
    Some((name, value))
}

/// A provider that the file does not name but that can be called with what the environment holds.
fn from_environment(
    kind: &'static Provider,
    env: &Env,
    report: &mut Report,
) -> Option<ProviderConfig> {
    let mut ignored = |what: String| {
        report.warn(&Place::named("environment"), format!("{what} Ignored."));
    };
    let key = credential::from_environment(kind, env).map_err(&mut ignored).ok()?;
    let has_project = kind.auth() == Auth::Google && env.filled("GOOGLE_CLOUD_PROJECT").is_some();
    let may_be_signed = matches!(kind.auth(), Auth::Aws | Auth::ApiKey);
    if key.is_none() && !has_project && !may_be_signed {
        return None;
    }
    let settings =
        settings::from_environment(kind, key.is_some(), env).map_err(&mut ignored).ok()?;
    let provider = assembled(kind.name, kind, key, settings);
    if !has_project && !credential::is_enough(kind, provider.api_key.is_some(), &provider.settings)
    {
        return None;
    }
    let variable = kind.base_env.iter().find_map(|name| Some((name, env.filled(name)?)));
    let base_url = match variable {
        Some((name, text)) => {
            checked_base(text, kind).map_err(|what| ignored(format!("{name}: {what}"))).ok()?
        }
        None => kind.base(&provider.settings).ok()?.into_owned(),
    };
    Some(ProviderConfig { base_url: Some(base_url), ..provider })
}
