//! Which credential a request presents, and what is wrong with one that is not known.
//!
//! Credentials are checked before the body is read, on every route.

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName};

use crate::rejection::{Code, Rejection};

/// Headers that may hold a credential, in the order in which they are consulted; the first non-empty one decides. Names
/// that have been read already: every call looks for them. With each, whether the word may be missing.
static HEADERS: [(HeaderName, bool); 5] = [
    (HeaderName::from_static("otari-key"), true),
    (HeaderName::from_static("anyllm-key"), false),
    (HeaderName::from_static("x-anyllm-key"), false),
    (AUTHORIZATION, false),
    (HeaderName::from_static("x-api-key"), true),
];

/// Shortest API key the reference makes or accepts.
const MIN_KEY_CHARS: usize = 50;

/// The token a request presents.
///
/// `Otari-Key` and `x-api-key` hold it raw or as `Bearer <token>`; the others need the word.
///
/// # Errors
/// `missing_credentials`, `invalid_format`.
pub fn credential(headers: &HeaderMap) -> Result<&str, Rejection> {
    let presented = HEADERS.iter().find_map(|(name, is_raw)| {
        headers.get(name).filter(|value| !value.is_empty()).map(|value| (*is_raw, value))
    });
    let Some((is_raw, value)) = presented else {
        let message = "Missing Otari-Key, Authorization, or x-api-key header";
        return Err(Rejection::new(Code::MissingCredentials, message));
    };
    // Keys are ASCII; anything else cannot be one.
    let text = value.to_str().map_err(|_| malformed())?;
    match text.strip_prefix("Bearer ") {
        Some(token) => Ok(token),
        None if is_raw => Ok(text),
        None => Err(malformed()),
    }
}

/// The token that a platform is asked about: from `Authorization: Bearer <token>`, and from nowhere else.
///
/// # Errors
/// `missing_credentials`.
pub fn bearer(headers: &HeaderMap) -> Result<&str, Rejection> {
    headers
        .get(AUTHORIZATION)
        // Tokens are ASCII; anything else cannot be one.
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.strip_prefix("Bearer "))
        .map(str::trim)
        .filter(|token| !token.is_empty())
        .ok_or_else(|| Rejection::new(Code::MissingCredentials, "Missing authentication token"))
}

fn malformed() -> Rejection {
    Rejection::new(Code::InvalidFormat, "Invalid header format. Expected 'Bearer <token>'")
}

/// The refusal of a token that no key has: says what is wrong with its form, if anything is.
///
/// The form is looked at only after the look-up, so that keys of other shapes made elsewhere still work.
pub fn unknown_key(token: &str) -> Rejection {
    let form = "Invalid API key format: API key";
    let chars = token.chars().count();
    let message = if !token.starts_with("gw-") && !token.starts_with("gw_") {
        format!("{form} must start with 'gw-' or 'gw_' prefix")
    } else if chars < MIN_KEY_CHARS {
        format!("{form} is too short. Expected at least {MIN_KEY_CHARS} characters, got {chars}")
    } else if !token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        format!("{form} contains invalid characters. Must match pattern: gw[-_][A-Za-z0-9_-]+")
    } else {
        return Rejection::new(Code::InvalidApiKey, "Invalid API key");
    };
    Rejection::new(Code::InvalidFormat, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_gateways_own_header_wins() {
        let both = headers(&[("authorization", "Bearer a"), ("otari-key", "b")]);
        assert_eq!(credential(&both).unwrap(), "b");
        let empty = headers(&[("otari-key", ""), ("authorization", "Bearer a")]);
        assert_eq!(credential(&empty).unwrap(), "a", "an empty header falls through");
    }

    #[test]
    fn a_malformed_header_is_not_passed_over() {
        let both = headers(&[("authorization", "Basic x"), ("x-api-key", "k")]);
        assert_eq!(credential(&both).unwrap_err().code, Code::InvalidFormat);
        assert_eq!(credential(&headers(&[("x-api-key", "k")])).unwrap(), "k");
        assert_eq!(credential(&headers(&[])).unwrap_err().code, Code::MissingCredentials);
        assert_eq!(
            credential(&headers(&[("authorization", "bearer x")])).unwrap_err().code,
            Code::InvalidFormat,
            "the word is case-sensitive"
        );
    }

    #[test]
    fn a_platforms_token_comes_in_one_header_only() {
        assert_eq!(bearer(&headers(&[("authorization", "Bearer  tk_1 ")])).unwrap(), "tk_1");
        for wrong in ["bearer x", "BEARER x", "Bearer", "Bearer ", "Bearer   ", "Basic x", "tk_1"] {
            let refused = bearer(&headers(&[("authorization", wrong)])).unwrap_err();
            assert_eq!(refused.code.status().as_u16(), 401, "{wrong}");
            assert_eq!(refused.message, "Missing authentication token");
        }
        let others = [("otari-key", "k"), ("anyllm-key", "Bearer k"), ("x-api-key", "k")];
        assert_eq!(bearer(&headers(&others)).unwrap_err().code, Code::MissingCredentials);
    }

    #[test]
    fn an_unknown_key_is_told_what_is_wrong_with_it() {
        let long = "x".repeat(60);
        assert!(unknown_key("sk-1").message.contains("'gw-' or 'gw_'"));
        assert!(unknown_key("gw-1").message.ends_with("got 4"));
        assert!(unknown_key(&format!("gw-{long}!")).message.contains("pattern"));
        assert_eq!(unknown_key(&format!("gw-{long}")).code, Code::InvalidApiKey);
    }
}
