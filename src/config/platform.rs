//! `platform:` and the platform's own variables, which outrank it.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::uri::PathAndQuery;

use super::env::Env;
use super::layers::{Fields, warn_unknown};
use super::node::{Node, Value};
use super::problem::Report;
use super::{PlatformConfig, Secret, url};

/// Where the platform is unless somebody runs another.
const BASE_URL: &str = "https://api.otari.ai/api/v1";
/// Where its people look after keys and budgets.
const MANAGEMENT_URL: &str = "https://otari.ai";
/// Its reachability probe.
const HEALTH_PATH: &str = "/utils/health-check/";
/// A day: longer waits are mistakes.
const LONGEST_MS: i128 = 86_400_000;

/// What the section may hold, and the variable that outranks it.
const KEYS: &[(&str, Option<&str>)] = &[
    ("base_url", Some("PLATFORM_BASE_URL")),
    ("resolve_timeout_ms", Some("PLATFORM_RESOLVE_TIMEOUT_MS")),
    ("usage_timeout_ms", Some("PLATFORM_USAGE_TIMEOUT_MS")),
    ("usage_max_retries", Some("PLATFORM_USAGE_MAX_RETRIES")),
    ("usage_inline_timeout_ms", Some("PLATFORM_USAGE_INLINE_TIMEOUT_MS")),
    ("streaming_first_chunk_timeout_ms", Some("STREAMING_FALLBACK_FIRST_CHUNK_TIMEOUT_MS")),
    ("streaming_first_chunk_timeout_ms_tool_loop", None),
    (
        "streaming_final_attempt_extra_first_chunk_timeout_ms",
        Some("STREAMING_FALLBACK_FINAL_ATTEMPT_EXTRA_FIRST_CHUNK_TIMEOUT_MS"),
    ),
    ("health_path", None),
    ("management_url", Some("PLATFORM_MANAGEMENT_URL")),
    ("report_disconnects", None),
];

/// Everything about the platform; the defaults after a problem.
pub(super) fn read(
    token: Secret,
    fields: &Fields,
    env: &Env,
    report: &mut Report,
) -> PlatformConfig {
    let entries = fields.get("platform").map_or(&[][..], |node| node.entries(report));
    unknown(entries, report);
    let section = Section { entries, env };
    let tries = section.whole("usage_max_retries", 1..=100, 3, report);
    PlatformConfig {
        token,
        base_url: section.base_url(report),
        resolve_timeout: section.millis("resolve_timeout_ms", 1, 5000, report),
        usage_timeout: section.millis("usage_timeout_ms", 1, 5000, report),
        usage_max_retries: u32::try_from(tries).unwrap_or(3),
        usage_inline_timeout: section.inline_timeout(report),
        first_event_timeout: section.millis("streaming_first_chunk_timeout_ms", 1, 2000, report),
        // A model that may use tools thinks longer before it speaks.
        tool_loop_first_event_timeout: section.millis(
            "streaming_first_chunk_timeout_ms_tool_loop",
            1,
            30_000,
            report,
        ),
        final_attempt_extra: section.millis(
            "streaming_final_attempt_extra_first_chunk_timeout_ms",
            0,
            0,
            report,
        ),
        health_path: section.health_path(report),
        management_url: section.management_url(report),
        // Unknown what the platform makes of it, and the reference gateway does not.
        report_disconnects: section
            .get("report_disconnects")
            .and_then(|node| node.flag(report))
            .unwrap_or(false),
    }
}

/// Says that the section has no effect, and what it may be that is missing.
pub(super) fn unused(fields: &Fields, report: &mut Report) {
    let Some(node) = fields.get("platform") else { return };
    let entries = node.entries(report);
    unknown(entries, report);
    if !entries.is_empty() {
        node.warn(report, "no effect in standalone mode; connected mode needs OTARI_AI_TOKEN.");
    }
}

/// A token in a file is the likeliest mistake, and the one that has to be named.
fn unknown(entries: &[(String, Node)], report: &mut Report) {
    let is_token = |key: &str| key.contains("token") || key.ends_with("key");
    let (tokens, others): (Vec<_>, Vec<_>) =
        entries.iter().cloned().partition(|(key, _)| is_token(key));
    for (_, node) in tokens {
        let text = "unknown key, ignored. The platform's token is read from the variable OTARI_AI_TOKEN alone, never from a file.";
        node.warn(report, text);
    }
    let known: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
    warn_unknown(&others, &known, "ignored", report);
}

struct Section<'a> {
    entries: &'a [(String, Node)],
    env: &'a Env,
}

impl Section<'_> {
    /// The variable's value, else the entry's; `null` is neither, and an empty variable is none.
    fn get(&self, key: &str) -> Option<Node> {
        let variable = KEYS.iter().find(|(known, _)| *known == key).and_then(|(_, name)| *name);
        let value = variable.and_then(|name| Some((name, self.env.filled(name)?)));
        if let Some((name, value)) = value {
            let value = Value::Text(value.to_owned());
            return Some(Node::outside("environment", name, value));
        }
        let entry = self.entries.iter().find(|(known, node)| known == key && node.is_set());
        entry.map(|(_, node)| node.clone())
    }

    fn whole(
        &self,
        key: &str,
        range: RangeInclusive<i128>,
        default: u64,
        report: &mut Report,
    ) -> u64 {
        let whole = self.get(key).and_then(|node| node.whole(&range, report));
        whole.and_then(|n| u64::try_from(n).ok()).unwrap_or(default)
    }

    fn millis(&self, key: &str, least: i128, default: u64, report: &mut Report) -> Duration {
        Duration::from_millis(self.whole(key, least..=LONGEST_MS, default, report))
    }

    fn inline_timeout(&self, report: &mut Report) -> Duration {
        const KEY: &str = "usage_inline_timeout_ms";
        let mut found = Report::default();
        let millis = self.millis(KEY, 1, 1500, &mut found);
        if let (Err(_), Some(node)) = (found.finish(), self.get(KEY)) {
            let text = format!(
                "{KEY} must be a positive integer, got {}. It counts milliseconds, {LONGEST_MS} at most.",
                node.found()
            );
            report.problem(&node.place, text);
        }
        millis
    }

    /// Without trailing slashes.
    fn base_url(&self, report: &mut Report) -> String {
        let Some(node) = self.get("base_url") else { return BASE_URL.into() };
        let Some(text) = node.text(report) else { return BASE_URL.into() };
        let text = text.trim().trim_end_matches('/');
        if text.is_empty() {
            let text = format!(
                "platform.base_url is required when hybrid mode is active. Remove the key to use {BASE_URL}."
            );
            report.problem(&node.place, text);
        } else if text.contains(['?', '#']) {
            node.wrong(report, url::NO_QUERY);
        } else {
            match url::absolute(text, "The token belongs into OTARI_AI_TOKEN.") {
                Ok(uri) if url::is_exposed(&uri) => node.warn(
                    report,
                    "plain http: tokens and provider keys travel in clear. Use https:// unless the network is trusted.",
                ),
                Ok(_) => {}
                Err(what) => node.wrong(report, &what),
            }
        }
        text.to_owned()
    }

    /// With one leading slash, so that it can be appended to the base.
    fn health_path(&self, report: &mut Report) -> String {
        let node = self.get("health_path");
        let text = node.as_ref().and_then(|n| n.text(report)).unwrap_or_default().trim();
        let (Some(node), false) = (&node, text.is_empty()) else { return HEALTH_PATH.into() };
        let path = format!("/{}", text.trim_start_matches('/'));
        let fits = path.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
            && !path.contains("://")
            && path.parse::<PathAndQuery>().is_ok();
        if !fits {
            node.wrong(report, &format!("not a path. Write one such as {HEALTH_PATH}."));
        }
        path
    }

    fn management_url(&self, report: &mut Report) -> String {
        let node = self.get("management_url");
        let text = node.as_ref().and_then(|n| n.text(report)).unwrap_or_default().trim();
        let (Some(node), false) = (&node, text.is_empty()) else { return MANAGEMENT_URL.into() };
        // Anybody may read it: it is a link for people.
        if url::absolute(text, "").is_err() {
            let text = format!(
                "platform.management_url must be an absolute http(s) URL, such as {MANAGEMENT_URL}, without a password."
            );
            report.problem(&node.place, text);
        }
        text.to_owned()
    }
}

/// Refuses credentials of our own: the platform hands out each request's.
pub(super) fn no_providers(fields: &Fields, report: &mut Report) {
    let Some(node) = fields.get("providers") else { return };
    if node.entries(report).is_empty() {
        return;
    }
    let text = "Local provider credentials are not supported in hybrid mode. Remove configured providers, \
                or unset OTARI_AI_TOKEN and its older names to run standalone.";
    report.problem(&node.key_place, text);
}
