//! Whether a service of the operator's is the platform's own: credentials for the platform go nowhere else.

use http::{HeaderName, HeaderValue};
use otari_filters::secret::Secret;
use url::Url;

/// Whether `url` has the scheme, host and port of `base`, and its path or one below it. Beginning alike is not enough:
/// `https://api.example.evil` begins like `https://api.example`.
pub(super) fn is_below(url: &str, base: &str) -> bool {
    let (Ok(url), Ok(base)) = (Url::parse(url), Url::parse(base)) else { return false };
    let is_plain = |url: &Url| url.username().is_empty() && url.password().is_none();
    let place = |url: &Url| {
        let host = url.host_str().map(str::to_owned);
        (url.scheme().to_owned(), host, url.port_or_known_default())
    };
    let rest = url.path().strip_prefix(base.path().trim_end_matches('/'));
    is_plain(&url)
        && is_plain(&base)
        && place(&url) == place(&base)
        && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What the platform knows this gateway by.
pub(super) fn gateway_token(token: &Secret) -> Option<(HeaderName, HeaderValue)> {
    header(HeaderName::from_static("x-gateway-token"), token.expose())
}

/// What the platform knows a caller by.
pub(super) fn bearer(token: &Secret) -> Option<(HeaderName, HeaderValue)> {
    header(http::header::AUTHORIZATION, &format!("Bearer {}", token.expose()))
}

fn header(name: HeaderName, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_the_platform_is_the_platforms() {
        let base = "https://api.otari.ai/api/v1";
        for (url, want) in [
            ("https://api.otari.ai/api/v1", true),
            ("https://api.otari.ai/api/v1/", true),
            ("https://API.otari.ai:443/api/v1/sandbox", true),
            ("https://api.otari.ai/api/v12", false),
            ("https://api.otari.ai/api", false),
            ("https://api.otari.ai/api/v1/../../x", false),
            ("http://api.otari.ai/api/v1", false),
            ("https://api.otari.ai:8443/api/v1", false),
            ("https://api.otari.ai.evil.com/api/v1", false),
            ("https://api.otari.ai@evil.com/api/v1", false),
            ("https://u:p@api.otari.ai/api/v1", false),
            ("no address", false),
        ] {
            assert_eq!(is_below(url, base), want, "{url}");
        }
        assert!(is_below("http://127.0.0.1:80/x", "http://127.0.0.1/"));
    }
}
