//! The pages: the quick start, the document of the API, and what draws it, with nothing from outside.

use std::io::Read;
use std::sync::OnceLock;

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, ETAG, IF_NONE_MATCH,
    VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use otari_filters::rejection::{Code, Rejection};
use schemars::JsonSchema;

use super::openapi::{Document, Operation};
use super::{Answer, Request};
use crate::app::App;

const HTML: &str = "text/html; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// An OpenAPI document.
#[derive(JsonSchema)]
#[schemars(rename = "OpenApi", extend("additionalProperties" = true))]
#[expect(dead_code, reason = "the document is made by hand; this is what it is promised to hold")]
struct OpenApi {
    openapi: String,
    info: serde_json::Map<String, serde_json::Value>,
    paths: serde_json::Map<String, serde_json::Value>,
    components: serde_json::Map<String, serde_json::Value>,
}

pub(super) static HOME: Operation =
    Operation::new("home", "A page with the first steps").answering_page(HTML);

pub(super) static OPENAPI: Operation =
    Operation::new("openapi", "This document, unless `enable_docs` is off")
        .answering::<OpenApi>()
        .refusing(&[404]);

pub(super) static PAGE: Operation =
    Operation::new("docs", "This document as a page, unless `enable_docs` is off")
        .answering_page(HTML)
        .refusing(&[404]);

pub(super) static SECOND_PAGE: Operation =
    Operation::new("redoc", "The same page as `/docs`").answering_page(HTML).refusing(&[404]);

pub(super) static SCRIPT: Operation = Operation::new("docs_script", "What draws the page")
    .answering_page(JAVASCRIPT)
    .refusing(&[404]);

/// The quick-start page.
pub(super) fn home() -> Answer {
    Answer::page(HTML, include_str!("home.html"))
}

/// The document. Whoever has this version of it is told so.
pub(super) fn openapi(app: &App, request: Request<'_>) -> Result<Answer, Rejection> {
    is_enabled(app)?;
    let document = Document::of(app.surface());
    let mut answer = Answer::page("application/json", document.body.clone());
    if names(request.headers, &document.etag) {
        answer.status = StatusCode::NOT_MODIFIED;
        answer.body = Bytes::new();
    }
    let etag = HeaderValue::from_str(&document.etag).map_err(Rejection::internal)?;
    answer.headers = vec![(ETAG, etag), fixed(CACHE_CONTROL, "no-cache")];
    Ok(answer)
}

/// Whether `If-None-Match` names this tag.
fn names(headers: &HeaderMap, etag: &str) -> bool {
    let named = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    named.flat_map(|list| list.split(',')).any(|tag| {
        let tag = tag.trim();
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
    })
}

/// The page. The script puts its styles into the page, so that they must be allowed there; scripts must not.
pub(super) fn page(app: &App) -> Result<Answer, Rejection> {
    is_enabled(app)?;
    let policy = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self' data: blob:; \
                  font-src 'self' data:; connect-src 'self'; worker-src 'none'; base-uri 'none'; form-action 'none'; \
                  frame-ancestors 'none'";
    let mut answer = Answer::page(HTML, include_str!("docs/page.html"));
    answer.headers = vec![fixed(CONTENT_SECURITY_POLICY, policy)];
    Ok(answer)
}

/// Scalar's reference of this version, which stands in its address on the page: `conf/scalar/README.md`.
const SCRIPT_GZIP: &[u8] = include_bytes!("../../conf/scalar/standalone.js.gz");

/// Unpacked, for the few callers who do not take gzip; once.
static SCRIPT_PLAIN: OnceLock<Bytes> = OnceLock::new();

/// What draws the page.
pub(super) fn script(app: &App, request: Request<'_>) -> Result<Answer, Rejection> {
    is_enabled(app)?;
    let mut headers = vec![
        fixed(CACHE_CONTROL, "public, max-age=31536000, immutable"),
        fixed(VARY, "Accept-Encoding"),
    ];
    let body = if takes_gzip(request.headers) {
        headers.push(fixed(CONTENT_ENCODING, "gzip"));
        Bytes::from_static(SCRIPT_GZIP)
    } else if let Some(plain) = SCRIPT_PLAIN.get() {
        plain.clone()
    } else {
        let mut plain = Vec::new();
        // Bounded: it is our own file.
        GzDecoder::new(SCRIPT_GZIP).read_to_end(&mut plain).map_err(Rejection::internal)?;
        SCRIPT_PLAIN.get_or_init(|| plain.into()).clone()
    };
    let mut answer = Answer::page(JAVASCRIPT, body);
    answer.headers = headers;
    Ok(answer)
}

/// Whether the caller says so; `*` is not taken for it.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let said = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    said.flat_map(|list| list.split(',')).any(|coding| {
        let (name, quality) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let quality = quality.trim().strip_prefix("q=").and_then(|q| q.trim().parse().ok());
        name.trim().eq_ignore_ascii_case("gzip") && quality.unwrap_or(0.0_f32) > 0.0
    })
}

fn fixed(name: HeaderName, value: &'static str) -> (HeaderName, HeaderValue) {
    (name, HeaderValue::from_static(value))
}

fn is_enabled(app: &App) -> Result<(), Rejection> {
    if app.live().enable_docs {
        return Ok(());
    }
    let message = "Not Found: set enable_docs to true to serve /docs and /openapi.json";
    Err(Rejection::new(Code::NotFound, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([fixed(name, value)])
    }

    #[test]
    fn only_who_asks_for_gzip_gets_it() {
        for (said, takes) in [
            ("gzip", true),
            ("br, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("gzip; q=0.0", false),
            ("identity", false),
            ("x-gzip2", false),
            ("", false),
        ] {
            assert_eq!(takes_gzip(&with(ACCEPT_ENCODING, said)), takes, "{said}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn a_known_tag_is_found_in_a_list() {
        for (said, known) in
            [("\"a\"", true), ("\"b\", W/\"a\"", true), ("*", true), ("\"b\"", false)]
        {
            assert_eq!(names(&with(IF_NONE_MATCH, said), "\"a\""), known, "{said}");
        }
    }

    #[test]
    fn the_page_asks_for_the_script_that_is_here() {
        let page = include_str!("docs/page.html");
        assert!(page.contains("src=\"/docs/scalar.js?v=1.72.1\""), "conf/scalar/README.md");
    }
}
