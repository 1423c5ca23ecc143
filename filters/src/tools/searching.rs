//! What the search service of the gateway's own tool is asked, and what its answer says. It answers as SearXNG does.
//! <https://docs.searxng.org/dev/search_api.html> (2026-11-23).

use bytes::Bytes;
use http::uri::PathAndQuery;
use memchr::memchr;
use serde_json::{Map, Value, json};

use super::SearchTool;
use super::result::Found;
use crate::providers::list::escaped;

/// What the gateway says itself; nobody else may.
const OWN: [&str; 3] = ["q", "format", "engines"];
/// Domains that a search of `search_tools` takes.
const MAX_DOMAINS: usize = 20;
/// Most results that are looked at.
const MAX_READ: usize = 200;

/// The address of a search below the service's base, whose path is `base_path`, without a slash at its end. Options that
/// are no plain values are left out. `None` when the base's path cannot stand in a request.
pub fn searxng(
    base_path: &str,
    query: &str,
    engines: &str,
    options: &Map<String, Value>,
) -> Option<PathAndQuery> {
    let (query, engines) = (escaped(query), escaped(engines));
    let mut path = format!("{base_path}/search?q={query}&format=json&engines={engines}");
    for (name, value) in options.iter().filter(|(name, _)| !OWN.contains(&name.as_str())) {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => continue,
        };
        path.push_str(&format!("&{}={}", escaped(name), escaped(&value)));
    }
    path.parse().ok()
}

/// The body of a search with one of `search_tools`, as its callers write it.
pub fn tool_query(query: &str, results: usize, wanted: &SearchTool) -> Map<String, Value> {
    let blocked = wanted.blocked_domains.iter().map(|domain| format!("-{}", domain.trim()));
    let allowed = wanted.allowed_domains.iter().map(|domain| domain.trim().to_owned());
    let is_plain = |domain: &String| {
        let bare = domain.trim_start_matches('-');
        !bare.is_empty()
            && bare.len() <= 253
            && bare.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    // Those that are left out are seen to afterwards.
    let domains: Vec<String> = allowed.chain(blocked).filter(is_plain).take(MAX_DOMAINS).collect();
    let mut body = json!({"query": query, "max_results": results});
    if !domains.is_empty() {
        body["search_domain_filter"] = json!(domains);
    }
    match body {
        Value::Object(body) => body,
        _ => Map::new(),
    }
}

/// Reads the service's answer: results with an address, in its order. `None` when it has no list of them.
pub fn results(answer: &[u8]) -> Option<Vec<Found>> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let found = answer["results"].as_array()?.iter().take(MAX_READ).filter_map(|result| {
        let text = |name: &str| result[name].as_str().unwrap_or_default().trim().to_owned();
        let page = Some(text("extracted_content")).filter(|page| !page.is_empty());
        let one = Found { title: text("title"), url: text("url"), snippet: text("content"), page };
        (!one.url.is_empty()).then_some(one)
    });
    Some(found.collect())
}

/// Those of the domains that are wanted, at most `most`.
pub fn wanted(found: Vec<Found>, tool: &SearchTool, most: usize) -> Vec<Found> {
    let is_wanted = |one: &Found| tool.admits(host(&one.url));
    found.into_iter().filter(is_wanted).take(most).collect()
}

/// The host of an address; empty when it has none.
fn host(url: &str) -> &str {
    let Some((_, rest)) = url.split_once("://") else { return "" };
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

/// The part of an HTML page that is worth reading: what it calls its main part or its article, else all of it; in both
/// without what leads elsewhere. What stands before the body stays: it says how the bytes are to be read.
pub fn main_part(page: &Bytes) -> Bytes {
    let body = tag(page, 0, b"<body").unwrap_or(0);
    let (from, to) = [(&b"<main"[..], &b"</main"[..]), (b"<article", b"</article")]
        .into_iter()
        .find_map(|(opens, closes)| {
            let from = tag(page, body, opens)?;
            let to = tag(page, from, closes)?;
            // A short one is a teaser, or a frame that a program fills.
            (to - from >= MIN_MAIN_BYTES).then_some((from, to))
        })
        .unwrap_or((body, page.len()));
    let mut kept = page[..body].to_vec();
    let mut at = from;
    let mut asides = Vec::from(ASIDES);
    while let Some((start, end)) = next_aside(page, at, to, &mut asides) {
        kept.extend_from_slice(&page[at..start]);
        at = end;
    }
    kept.extend_from_slice(&page[at..to]);
    kept.into()
}

/// A main part of fewer bytes is none.
const MIN_MAIN_BYTES: usize = 500;
/// What leads elsewhere.
const ASIDES: [(&[u8], &[u8]); 4] = [
    (b"<nav", b"</nav"),
    (b"<footer", b"</footer"),
    (b"<aside", b"</aside"),
    (b"<form", b"</form"),
];

/// The next part that leads elsewhere, between `from` and `to`: where it begins, and where its end begins. A kind that
/// does not end is looked for no more.
fn next_aside(
    page: &[u8],
    from: usize,
    to: usize,
    asides: &mut Vec<(&[u8], &[u8])>,
) -> Option<(usize, usize)> {
    let mut at = from;
    while let Some(found) = memchr(b'<', page.get(at..to)?) {
        let start = at + found;
        if let Some(kind) = asides.iter().position(|(opens, _)| is_tag(page, start, opens)) {
            match tag(&page[..to], start, asides[kind].1) {
                Some(end) => return Some((start, end)),
                None => drop(asides.remove(kind)),
            }
        }
        at = start + 1;
    }
    None
}

/// Where a tag stands, from `from` on. `name`: with its `<`, in lower case.
fn tag(page: &[u8], from: usize, name: &[u8]) -> Option<usize> {
    let mut at = from;
    loop {
        let start = at + memchr(b'<', page.get(at..)?)?;
        if is_tag(page, start, name) {
            return Some(start);
        }
        at = start + 1;
    }
}

fn is_tag(page: &[u8], at: usize, name: &[u8]) -> bool {
    let is_end = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'>' || *byte == b'/';
    page.get(at..at + name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name))
        && page.get(at + name.len()).is_none_or(is_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_is_asked_as_the_reference_asks_it() {
        let options = json!({"language": "de", "safesearch": 2, "b": true, "n": null, "l": [1],
            "q": "other", "format": "html", "engines": "x", "a b": "c&d"});
        let Value::Object(options) = options else { panic!() };
        assert_eq!(
            searxng("/base", "cats & dogs", "a,b", &options).unwrap().as_str(),
            "/base/search?q=cats%20%26%20dogs&format=json&engines=a%2Cb&language=de&safesearch=2&b=true&a%20b=c%26d"
        );
    }

    #[test]
    fn results_without_an_address_are_none() {
        let answer = br#"{"results":[{"url":"https://a/","title":"A","content":"s","extracted_content":" p "},
            {"title":"no address"},{"url":"https://b/","title":null}]}"#;
        let found = results(answer).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].page.as_deref(), found[1].title.as_str()), (Some("p"), ""));
        for odd in ["{}", r#"{"results":{}}"#, "[", "<html>"] {
            assert!(results(odd.as_bytes()).is_none(), "{odd}");
        }
    }

    #[test]
    fn domains_are_told_by_the_host_alone() {
        let mut tool = SearchTool::default();
        tool.allowed_domains.push("a.example".into());
        tool.blocked_domains.extend(["bad.a.example".into(), "no/domain".into()]);
        let found = [
            "https://a.example/x",
            "https://www.A.example:8443/",
            "https://bad.a.example/",
            "https://evil.example/?u=//a.example/",
            "https://a.example@evil.example/",
            "https://a.example.evil.example/",
            "https://evil.example\\@a.example/",
            "a.example",
        ]
        .map(|url| Found { url: url.into(), ..Found::default() });
        let kept: Vec<String> =
            wanted(found.to_vec(), &tool, 20).into_iter().map(|one| one.url).collect();
        assert_eq!(kept, ["https://a.example/x", "https://www.A.example:8443/"]);
        assert_eq!(wanted(found.to_vec(), &tool, 1).len(), 1);
        let body = tool_query("q", 7, &tool);
        assert_eq!(
            Value::Object(body),
            json!({"query": "q", "max_results": 7, "search_domain_filter": ["a.example", "-bad.a.example"]})
        );
    }

    #[test]
    fn the_main_part_of_a_page_is_read() {
        let long = "x".repeat(600);
        let part = |page: &str| {
            let part = main_part(&Bytes::from(page.to_owned()));
            String::from_utf8(part.to_vec()).unwrap()
        };
        let page = format!(
            "<head><meta charset=utf-8></head><BODY a=1><nav>n</nav><MAIN id=m><nav>i</nav>{long}</main><footer>f"
        );
        assert_eq!(
            part(&page),
            format!("<head><meta charset=utf-8></head><MAIN id=m></nav>{long}")
        );
        let plain = "<p>a</p><nav class=x>n</nav><navigation>k</navigation><aside>open";
        assert_eq!(part(plain), "<p>a</p></nav><navigation>k</navigation><aside>open");
        assert_eq!(part("<body><main>short</main>rest"), "<body><main>short</main>rest");
        for odd in ["", "<", "<main", "<nav", "</main><main", "<body"] {
            assert_eq!(part(odd), odd);
        }
    }
}
