//! What is said to a platform and what its answers mean: names, refusals, costs. `plan` reads where a request may go,
//! `tools` what a workspace allows.

use http::header::RETRY_AFTER;
use http::{HeaderValue, Uri};

use crate::rejection::{Code, Rejection};
use crate::settle::Cost;

pub mod plan;
pub mod tools;
mod value;

use value::Value;

/// What callers are told when the platform gave no usable answer.
const UNAVAILABLE: &str = "Authorization service unavailable";
/// Longest text of a platform that is passed on.
const MAX_DETAIL_CHARS: usize = 1000;

/// A platform's answer that is not what it should be: which part is missing or wrong. Never holds a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// The provider and the model that a selector names, as the platform is asked for them: cut at the first `:`, else at
/// the first `/`. An empty provider is none.
pub fn split(selector: &str) -> (Option<&str>, &str) {
    let cut = selector.split_once(':').or_else(|| selector.split_once('/'));
    match cut {
        Some((provider, model)) => (Some(provider).filter(|name| !name.is_empty()), model),
        None => (None, selector),
    }
}

/// What the caller is told when the platform does not answer, or not with what it should. `cause`: for the log.
pub fn unavailable(cause: impl Into<String>) -> Rejection {
    Rejection::new(Code::PlatformUnavailable, UNAVAILABLE).because(cause.into())
}

/// What the caller is told of a status other than 200.
///
/// `fallback`: the sentence for a refusal without one. `retry_after`: as the platform sent it; passed on with 429.
pub fn refusal(
    status: u16,
    body: &[u8],
    retry_after: Option<HeaderValue>,
    fallback: &'static str,
) -> Rejection {
    let code = match status {
        400 => Code::PlatformInvalid,
        401 => Code::PlatformUnauthorized,
        402 => Code::PlatformPaymentRequired,
        403 => Code::PlatformForbidden,
        404 => Code::PlatformNotFound,
        429 => Code::PlatformRateLimited,
        _ => return unavailable(format!("the platform answered with status {status}")),
    };
    let mut refused = match detail(body) {
        Some(detail) => Rejection::new(code, detail),
        None => Rejection::new(code, fallback),
    };
    if status == 429 {
        let given = retry_after.filter(|value| !value.is_empty());
        refused.headers.extend(given.map(|value| (RETRY_AFTER, value)));
    }
    refused
}

/// The sentence in a refusal's body, within reason.
fn detail(body: &[u8]) -> Option<String> {
    let value = Value::read(body)?;
    let text = value.get("detail")?.as_str()?;
    if text.chars().count() <= MAX_DETAIL_CHARS {
        return Some(text.to_owned());
    }
    let mut short: String = text.chars().take(MAX_DETAIL_CHARS).collect();
    short.push_str("...");
    Some(short)
}

/// What an attempt cost, out of the platform's answer (status 200) to the report of its success. `None` unless the
/// answer is about this attempt, complete, priced and in US dollars.
pub fn cost(correlation_id: &str, body: &[u8]) -> Option<Cost> {
    let said = Value::read(body)?;
    let is = |key: &str, expected: &str| said.get(key).and_then(Value::as_str) == Some(expected);
    let is_settled = is("correlation_id", correlation_id)
        && is("status", "completed")
        && is("outcome", "success")
        && is("currency", "USD")
        && is("usage_status", "reported");
    let cost_usd = said.get("cost_usd")?.as_str().filter(|text| is_amount(text))?;
    let pricing_source = said.get("pricing")?.get("source")?.as_str()?;
    is_settled.then(|| Cost { cost_usd: cost_usd.into(), pricing_source: pricing_source.into() })
}

/// Digits, a point and six digits; perhaps below zero.
fn is_amount(text: &str) -> bool {
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    text.split_once('.').is_some_and(|(whole, fraction)| {
        all_digits(whole) && all_digits(fraction) && fraction.len() == 6
    })
}

/// Whether `url` is the platform's own: the same scheme, host and port as its base, and a path at or below the base's.
/// Only there may the caller's and the gateway's tokens go.
pub fn is_platforms(url: &str, base: &str) -> bool {
    let (Some(url), Some(base)) = (Place::read(url), Place::read(base)) else { return false };
    let below = url.path.strip_prefix(base.path.as_str());
    (&url.scheme, &url.host, url.port) == (&base.scheme, &base.host, base.port)
        && below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

struct Place {
    scheme: String,
    host: String,
    port: u16,
    path: String,
}

impl Place {
    fn read(url: &str) -> Option<Self> {
        let uri: Uri = url.trim().parse().ok()?;
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let authority = uri.authority().filter(|name| !name.as_str().contains('@'))?;
        let port = match (authority.port_u16(), scheme.as_str()) {
            (Some(port), _) => port,
            (None, "http") => 80,
            (None, "https") => 443,
            _ => return None,
        };
        let path = uri.path();
        // Such steps would lead out of the base again.
        let climbs = path.split('/').any(|step| {
            let step = step.to_ascii_lowercase().replace("%2e", ".");
            step == ".." || step == "."
        });
        if climbs || path.contains('\\') {
            return None;
        }
        let path = path.trim_end_matches('/').to_owned();
        Some(Self { scheme, host: authority.host().to_ascii_lowercase(), port, path })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use serde_json::Value;

    use super::*;

    #[test]
    fn selectors_are_cut_at_the_first_colon_else_at_the_first_slash() {
        let table: [(&str, Option<&str>, &str); 11] = [
            ("openai:gpt-4o", Some("openai"), "gpt-4o"),
            ("openai/gpt-4o", Some("openai"), "gpt-4o"),
            ("openrouter/meta-llama/x", Some("openrouter"), "meta-llama/x"),
            ("openrouter/meta:free", Some("openrouter/meta"), "free"),
            (":gpt", None, "gpt"),
            ("/gpt", None, "gpt"),
            ("ft:gpt-4o:org", Some("ft"), "gpt-4o:org"),
            ("gpt-4o", None, "gpt-4o"),
            ("openai:", Some("openai"), ""),
            ("a:b/c", Some("a"), "b/c"),
            ("", None, ""),
        ];
        for (selector, provider, model) in table {
            assert_eq!(split(selector), (provider, model), "{selector}");
        }
    }

    #[test]
    fn every_status_has_its_refusal() {
        let body = br#"{"detail":"No such model here"}"#;
        let table = [
            (400, 400, "platform_invalid_request"),
            (401, 401, "platform_unauthorized"),
            (402, 402, "platform_payment_required"),
            (403, 403, "platform_forbidden"),
            (404, 404, "platform_not_found"),
            (429, 429, "platform_rate_limited"),
        ];
        for (status, seen, code) in table {
            let refused = refusal(status, body, None, "fallback");
            assert_eq!(refused.code.status().as_u16(), seen, "{status}");
            assert_eq!((refused.code.as_str(), &*refused.message), (code, "No such model here"));
            for odd in [&b"<html>"[..], b"[1]", br#"{"detail":["a"]}"#, br#"{"detail":null}"#, b""]
            {
                assert_eq!(refusal(status, odd, None, "fallback").message, "fallback", "{status}");
            }
        }
        for status in [201, 202, 204, 301, 302, 405, 409, 410, 418, 422, 500, 502, 503, 504, 599] {
            let refused = refusal(status, body, Some(HeaderValue::from_static("3")), "fallback");
            assert_eq!(refused.code.status().as_u16(), 502, "{status}");
            assert_eq!(refused.message, "Authorization service unavailable", "{status}");
            assert!(refused.headers.is_empty());
        }
    }

    #[test]
    fn retry_after_is_passed_on_word_for_word_and_with_429_only() {
        let given = |text: &str| Some(HeaderValue::from_str(text).unwrap());
        for text in ["30", "Wed, 21 Oct 2026 07:28:00 GMT", "1.5"] {
            let refused = refusal(429, b"", given(text), "f");
            assert_eq!(refused.headers, [(RETRY_AFTER, HeaderValue::from_str(text).unwrap())]);
            assert_eq!(refused.retry_after_s, None, "or there would be two");
        }
        assert!(refusal(429, b"", given(""), "f").headers.is_empty());
        assert!(refusal(403, b"", given("30"), "f").headers.is_empty());
    }

    #[test]
    fn a_long_detail_is_cut() {
        let body = json!({"detail": "ü".repeat(5000)}).to_string();
        let refused = refusal(403, body.as_bytes(), None, "f");
        assert_eq!(refused.message.chars().count(), MAX_DETAIL_CHARS + 3);
    }

    fn settled() -> Value {
        json!({"correlation_id": "att-1", "status": "completed", "outcome": "success",
               "cost_usd": "0.012345", "currency": "USD", "usage_status": "reported",
               "pricing": {"source": "managed", "more": 1}, "unknown": []})
    }

    #[test]
    fn a_cost_is_taken_only_when_everything_is_in_order() {
        let read = |value: &Value| cost("att-1", value.to_string().as_bytes());
        let found = read(&settled()).unwrap();
        assert_eq!((&*found.cost_usd, &*found.pricing_source), ("0.012345", "managed"));
        let with = |key: &str, value: Value| {
            let mut body = settled();
            body[key] = value;
            body
        };
        for amount in ["0.000000", "-1.000000", "12.345678"] {
            assert!(read(&with("cost_usd", json!(amount))).is_some(), "{amount}");
        }
        let wrong = [
            ("correlation_id", json!("att-2")),
            ("correlation_id", json!(1)),
            ("status", json!("pending")),
            ("outcome", json!("error")),
            ("currency", json!("EUR")),
            ("usage_status", json!("unavailable")),
            ("pricing", json!({"source": null})),
            ("pricing", json!({"source": 1})),
            ("pricing", json!({})),
            ("pricing", json!(null)),
            ("cost_usd", json!(0.012_345)),
            ("cost_usd", json!(null)),
        ];
        for (key, value) in wrong {
            assert_eq!(read(&with(key, value.clone())), None, "{key}: {value}");
            let mut without = settled();
            without.as_object_mut().unwrap().remove(key);
            assert_eq!(read(&without), None, "without {key}");
        }
        for amount in [
            "",
            "1",
            ".123456",
            "1.12345",
            "1.1234567",
            "+1.123456",
            "1.12345a",
            "1.123456\n",
            "--1.123456",
            "٣.123456",
        ] {
            assert_eq!(read(&with("cost_usd", json!(amount))), None, "{amount:?}");
        }
        for body in [&b""[..], b"null", b"[]", b"{", b"\"att-1\""] {
            assert_eq!(cost("att-1", body), None);
        }
    }

    #[test]
    fn only_the_platforms_own_addresses_are_its() {
        let base = "https://api.otari.ai/api/v1";
        for own in [
            "https://api.otari.ai/api/v1",
            "https://api.otari.ai/api/v1/",
            "https://API.otari.ai:443/api/v1/gateway/search?q=1",
        ] {
            assert!(is_platforms(own, base), "{own}");
        }
        for other in [
            "http://api.otari.ai/api/v1",
            "https://api.otari.ai:8443/api/v1",
            "https://api.otari.ai.evil.com/api/v1",
            "https://api.otari.ai@evil.com/api/v1",
            "https://evil.com@api.otari.ai/api/v1",
            "https://api.otari.ai/api/v10",
            "https://api.otari.ai/api",
            "https://api.otari.ai/api/v1/../../other",
            "https://api.otari.ai/api/v1/%2e%2E/other",
            "api.otari.ai/api/v1",
            "",
        ] {
            assert!(!is_platforms(other, base), "{other}");
        }
        assert!(is_platforms("http://localhost:80/x", "http://localhost/"));
    }
}
