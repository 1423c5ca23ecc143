//! Addresses that are written in a configuration.

use std::net::IpAddr;

use http::Uri;

/// What is wrong with an address that paths are appended to.
pub(super) const NO_QUERY: &str = "must not have a query or a fragment: paths are appended to it.";

/// An absolute http(s) URL with a host; `instead`: where a credential belongs that somebody wants to write into it.
///
/// # Errors
/// What is wrong, without the text: it may hold a password.
pub(super) fn absolute(text: &str, instead: &str) -> Result<Uri, String> {
    let shape =
        || "must be an absolute http:// or https:// URL, such as https://host/v1.".to_owned();
    let uri: Uri = text.parse().map_err(|_| shape())?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(shape());
    }
    let authority = uri.authority().ok_or_else(shape)?;
    if authority.as_str().contains('@') {
        return Err(format!("must not carry a user name or a password. {instead}"));
    }
    if authority.host().is_empty() {
        return Err(shape());
    }
    let has_port = authority.as_str().len() > authority.host().len();
    if has_port && authority.port_u16().is_none_or(|port| port == 0) {
        return Err("has a port that is none. Write a number from 1 to 65535.".to_owned());
    }
    Ok(uri)
}

/// An address that paths are appended to, without slashes at its end: as [`absolute`], and with nothing behind its path.
///
/// # Errors
/// As those of [`absolute`].
pub(super) fn base(text: &str, instead: &str) -> Result<(String, Uri), String> {
    let uri = absolute(text, instead)?;
    if text.contains(['?', '#']) {
        return Err(NO_QUERY.into());
    }
    Ok((text.trim_end_matches('/').to_owned(), uri))
}

/// Whether what is sent there is sent in clear over a network.
pub(super) fn is_exposed(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let is_local = host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    uri.scheme_str() == Some("http") && !is_local
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_addresses_pass() {
        for text in ["https://h", "HTTP://h:80/v1", "http://[::1]:9000/a/b", "https://h/?q=1"] {
            assert!(absolute(text, "").is_ok(), "{text}");
        }
        for (text, part) in [
            ("h/v1", "absolute"),
            ("//h/v1", "absolute"),
            ("/v1", "absolute"),
            ("ftp://h", "absolute"),
            ("https://", "absolute"),
            ("https:///v1", "absolute"),
            ("https://h h", "absolute"),
            ("", "absolute"),
            ("https://u:hunter2@h", "must not carry a user name or a password. There."),
            ("https://h:99999/v1", "port"),
            ("https://h:0", "port"),
            ("https://h:/v1", "port"),
        ] {
            let error = absolute(text, "There.").unwrap_err();
            assert!(error.contains(part) && !error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn nothing_may_stand_behind_the_path_of_a_base() {
        assert_eq!(base("https://h/v1//", "").unwrap().0, "https://h/v1");
        for text in ["https://h?q=1", "https://h/v1?", "https://h/v1#top"] {
            assert_eq!(base(text, "").unwrap_err(), NO_QUERY, "{text}");
        }
        assert!(base("https://u:hunter2@h?q", "There.").unwrap_err().ends_with("There."));
    }

    #[test]
    fn clear_text_is_fine_on_this_machine_only() {
        for (text, want) in [
            ("http://platform.internal", true),
            ("http://10.0.0.1:80", true),
            ("http://localhost.example", true),
            ("http://[fe80::1]", true),
            ("https://platform.internal", false),
            ("http://localhost:1", false),
            ("http://LOCALHOST.", false),
            ("http://a.localhost", false),
            ("http://127.8.0.1", false),
            ("http://[::1]:1", false),
            ("http://[::ffff:127.0.0.1]", false),
        ] {
            assert_eq!(is_exposed(&text.parse().unwrap()), want, "{text}");
        }
    }
}
