//! `providers:`, and the providers whose credential is in the environment.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use otari_filters::providers::{Family, PROVIDERS, Provider, find};

use super::env::Env;
use super::layers::{Fields, LONGEST_S, warn_unknown};
use super::node::Node;
use super::problem::{Place, Report, suggestion};
use super::{ProviderConfig, Secret, url};

/// What an entry may hold; the reference passes everything else to the provider's client.
const KEYS: &[&str] = &["provider_type", "api_key", "api_base", "client_args", "models"];
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
    providers
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
    warn_unknown(entries, KEYS, "not used", report);

    let key_node = entry("api_key");
    let api_key = key_node
        .and_then(|n| n.text(report).and_then(|text| credential(n, text, report)))
        .or_else(|| first_set(kind.credential_env, env).map(Secret::new));
    let base_url = base_url(kind, node, entry("api_base"), env, report);
    let mut provider = ProviderConfig {
        instance: instance.to_owned(),
        kind,
        base_url,
        timeout: None,
        max_retries: DEFAULT_RETRIES,
        headers: Vec::new(),
        models: entry("models").map(|n| n.texts(report)).unwrap_or_default(),
        from_environment: false,
        api_key,
    };
    if let Some(arguments) = entry("client_args") {
        client_args(&mut provider, arguments.entries(report), report);
    }
    if !kind.is_callable() {
        let text = format!(
            "provider \"{instance}\" ({}) cannot be called by this version yet.",
            kind.display_name
        );
        report.warn(&node.key_place, text);
    } else if provider.api_key.is_none() && !kind.keyless && !key_node.is_some_and(Node::is_broken)
    {
        let mut cures = vec![format!("{}.api_key", node.path)];
        cures.extend(kind.credential_env.iter().take(1).map(|&name| name.to_owned()));
        let text = format!("provider \"{instance}\" has no credential: set {}", cures.join(" or "));
        report.warn(&node.key_place, text);
    }
    Some(provider)
}

/// A credential that a header can carry. Blank is none; blanks around it come from files and are dropped.
fn credential(node: &Node, text: &str, report: &mut Report) -> Option<Secret> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    if !text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        node.wrong(report, "has characters that no header can carry. Copy it again.");
        return None;
    }
    Some(Secret::new(text))
}

fn first_set<'a>(names: &[&str], env: &'a Env) -> Option<&'a str> {
    names.iter().find_map(|name| env.filled(name))
}

/// `api_base`, else the row's variable, else its default; a problem when a callable provider has none.
fn base_url(
    kind: &'static Provider,
    parent: &Node,
    node: Option<&Node>,
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
            return base_from_variable(text, kind)
                .map_err(|what| report.problem(&place, format!("{name}: {what}")))
                .ok();
        }
    }
    match kind.base(&[]) {
        Ok(base) => Some(base.into_owned()),
        Err(_) if !kind.is_callable() || kind.family == Family::Mock => None,
        Err(missing) => {
            let text = format!("{}: has no address: {missing}.", parent.path);
            report.problem(&parent.key_place, text);
            None
        }
    }
}

fn base_from_variable(text: &str, kind: &Provider) -> Result<String, String> {
    if kind.family != Family::Ollama || text.contains("://") {
        return checked_base(text, kind);
    }
    // OLLAMA_HOST is also where the server listens: `0.0.0.0`, `host`, `host:port`.
    let (host, port) = text.split_once(':').unwrap_or((text, "11434"));
    let host = if host == "0.0.0.0" || host.is_empty() { "127.0.0.1" } else { host };
    checked_base(&format!("http://{host}:{port}"), kind)
}

/// An absolute http(s) URL without user information and trailing slashes.
fn checked_base(text: &str, kind: &Provider) -> Result<String, String> {
    let text = text.trim();
    url::absolute(text, "Put the credential into api_key.")?;
    if kind.is_callable() && text.contains(['?', '#']) {
        return Err(url::NO_QUERY.into());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn client_args(provider: &mut ProviderConfig, entries: &[(String, Node)], report: &mut Report) {
    warn_unknown(entries, CLIENT_KEYS, "not used", report);
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
    let api_key = first_set(kind.credential_env, env)?;
    let variable = kind.base_env.iter().find_map(|name| Some((name, env.filled(name)?)));
    let base_url = match variable {
        Some((name, text)) => match base_from_variable(text, kind) {
            Ok(base) => base,
            Err(what) => {
                report.warn(&Place::named("environment"), format!("{name}: {what} Ignored."));
                return None;
            }
        },
        None => kind.base(&[]).ok()?.into_owned(),
    };
    Some(ProviderConfig {
        instance: kind.name.to_owned(),
        kind,
        api_key: Some(Secret::new(api_key)),
        base_url: Some(base_url),
        timeout: None,
        max_retries: DEFAULT_RETRIES,
        headers: Vec::new(),
        models: Vec::new(),
        from_environment: true,
    })
}
