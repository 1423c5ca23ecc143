//! What came of a call, as the model reads it. Nothing here says where a tool runs.

use serde_json::Value;

use super::Source;

/// What an error begins with.
const ERROR: &str = "[tool error] ";
/// The most the model gets of one result, in characters.
pub const MAX_CHARS: usize = 100_000;
/// The most it gets of one page that a search found.
const MAX_PAGE_CHARS: usize = 1500;

/// Why a tool gave no result. The sentences name no address and no configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It took longer than it may.
    Timeout,
    /// No connection, or one that broke.
    Unreachable,
    /// It answered with an HTTP status that is no success.
    Status(u16),
    /// Its answer is not what it should be.
    BadAnswer,
    /// Its answer is longer than it may be.
    TooLarge,
    /// Its address is not allowed.
    Forbidden,
    /// No tool has this name.
    Unknown,
    /// What the tool's own protocol says went wrong, cleaned as a provider's words are.
    Said(String),
}

/// The text for a call of `tool` that failed.
pub fn failed(tool: &str, failure: &Failure) -> String {
    let why = match failure {
        Failure::Timeout => "it did not answer in time".to_owned(),
        Failure::Unreachable => "it could not be reached".to_owned(),
        Failure::Status(status) => format!("it answered with status {status}"),
        Failure::BadAnswer => "its answer could not be read".to_owned(),
        Failure::TooLarge => "its answer is too large".to_owned(),
        Failure::Forbidden => "its address is not allowed".to_owned(),
        Failure::Unknown => "there is no such tool".to_owned(),
        Failure::Said(text) => crate::upstream::redact(text)
            .unwrap_or_else(|| "it said nothing that can be shown".to_owned()),
    };
    format!("{ERROR}{tool} failed: {why}")
}

/// Whether a text says that a tool failed.
pub(super) fn is_error(text: &str) -> bool {
    text.starts_with(ERROR)
}

/// The text of an MCP result: its content blocks, of which empty ones are left out, a line each.
pub fn mcp(content: &[Value], is_error: bool) -> String {
    let parts: Vec<String> = content.iter().map(block).filter(|text| !text.is_empty()).collect();
    let text = parts.join("\n");
    if is_error { format!("{ERROR}{text}") } else { text }
}

fn block(block: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match block["type"].as_str().unwrap_or_default() {
        "text" => word(&block["text"]),
        "image" => {
            let bytes = block["data"].as_str().map_or(0, str::len);
            format!("[image type={} bytes_b64={bytes}]", word(&block["mimeType"]))
        }
        "resource" => format!("[resource uri={}]", word(&block["resource"]["uri"])),
        other => format!("[content type={other}]"),
    }
}

/// The text of the sandbox's `result_block`.
pub fn sandbox(result: &Value) -> String {
    let Some(content) = result["content"].as_object() else { return result.to_string() };
    let text = |name: &str| content.get(name).and_then(Value::as_str).unwrap_or_default();
    let (stdout, stderr) = (text("stdout"), text("stderr"));
    let code = content.get("return_code").and_then(Value::as_i64).unwrap_or(0);
    let files = content.get("content").and_then(Value::as_array);
    let names: Vec<&str> =
        files.into_iter().flatten().filter_map(|file| file["filename"].as_str()).collect();
    let parts = [
        (!stdout.is_empty()).then(|| format!("stdout:\n{stdout}")),
        (!stderr.is_empty()).then(|| format!("stderr:\n{stderr}")),
        (code != 0).then(|| format!("return_code: {code}")),
        (!names.is_empty()).then(|| format!("files: {}", names.join(", "))),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let all = if parts.is_empty() { "(no output)".to_owned() } else { parts.join("\n") };
    let is_error = code != 0 || (!stderr.is_empty() && stdout.is_empty());
    if is_error { format!("{ERROR}{all}") } else { all }
}

/// One result of a search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Its title; may be empty.
    pub title: String,
    /// Its address.
    pub url: String,
    /// What the service says of it.
    pub snippet: String,
    /// The text of the page, where there is some.
    pub page: Option<String>,
}

impl Found {
    /// What the marks in an answer tell of it.
    pub fn source(&self) -> Source {
        Source { title: self.title.clone(), url: self.url.clone() }
    }
}

/// The text of a search's results.
pub fn search(query: &str, results: &[Found]) -> String {
    if results.is_empty() {
        return format!("No results for query: {}", python_quoted(query));
    }
    let one = |(at, found): (usize, &Found)| {
        let title = if found.title.is_empty() { "(untitled)" } else { &found.title };
        let page = found.page.as_ref().filter(|page| !page.is_empty()).unwrap_or(&found.snippet);
        format!("[{}] {title}\n{}\n{}", at + 1, found.url, shortened(page, MAX_PAGE_CHARS))
    };
    let all: Vec<String> = results.iter().enumerate().map(one).collect();
    all.join("\n\n")
}

/// The text for a search for nothing.
pub fn empty_query() -> String {
    format!("{ERROR}empty query")
}

/// At most `most` characters, then an ellipsis.
fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}

/// A result that is not too long for the next round: at most `most` characters, and where it was cut a note.
pub fn capped(text: String, most: usize) -> String {
    let Some((at, _)) = text.char_indices().nth(most) else { return text };
    let all = most + text[at..].chars().count();
    format!("{}\n[cut: the first {most} of {all} characters]", &text[..at])
}

/// A text as Python writes it: in single quotes, unless it has some and no double ones.
pub fn python_quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for char in text.chars() {
        match char {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            char if char == quote => out.extend(['\\', char]),
            char if (char as u32) < 0x20 || char == '\u{7f}' => {
                out.push_str(&format!("\\x{:02x}", char as u32));
            }
            char => out.push(char),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn content_blocks_are_lines() {
        let content = [
            json!({"type": "text", "text": "a"}),
            json!({"type": "text", "text": ""}),
            json!({"type": "image", "mimeType": "image/png", "data": "abcd"}),
            json!({"type": "resource", "resource": {"uri": "file:///x"}}),
            json!({"type": "audio", "data": "x"}),
        ];
        let lines =
            "a\n[image type=image/png bytes_b64=4]\n[resource uri=file:///x]\n[content type=audio]";
        assert_eq!(mcp(&content, false), lines);
        assert_eq!(mcp(&content, true), format!("[tool error] {lines}"));
        assert_eq!(mcp(&[], false), "");
    }

    #[test]
    fn what_ran_says_what_it_printed() {
        let block = |stdout: &str, stderr: &str, code: i64, files: Value| json!({"content": {"stdout": stdout, "stderr": stderr, "return_code": code, "content": files}});
        // As the reference was seen to write it.
        assert_eq!(
            sandbox(&block("2\n", "warn", 1, json!([{"filename": "a.png"}]))),
            "[tool error] stdout:\n2\n\nstderr:\nwarn\nreturn_code: 1\nfiles: a.png"
        );
        assert_eq!(sandbox(&block("2\n", "warn", 0, json!([]))), "stdout:\n2\n\nstderr:\nwarn");
        assert_eq!(sandbox(&block("", "warn", 0, json!(null))), "[tool error] stderr:\nwarn");
        assert_eq!(sandbox(&block("", "", 0, json!(null))), "(no output)");
        assert_eq!(sandbox(&json!({"content": "x"})), r#"{"content":"x"}"#);
    }

    #[test]
    fn results_are_numbered_and_cut() {
        let found = |title: &str, url: &str, snippet: &str, page: Option<String>| Found {
            title: title.into(),
            url: url.into(),
            snippet: snippet.into(),
            page,
        };
        let results = [
            found("T", "http://t.example/x", "snip", None),
            found("", "https://a.example/", "s", Some("é".repeat(1501))),
        ];
        let page = "é".repeat(1500);
        assert_eq!(
            search("cats", &results),
            format!(
                "[1] T\nhttp://t.example/x\nsnip\n\n[2] (untitled)\nhttps://a.example/\n{page}…"
            )
        );
        assert_eq!(search("it's", &[]), "No results for query: \"it's\"");
        assert_eq!(search("a'\"\n\u{1}", &[]), r#"No results for query: 'a\'"\n\x01'"#);
        assert_eq!(empty_query(), "[tool error] empty query");
    }

    #[test]
    fn a_long_result_says_that_it_was_cut() {
        assert_eq!(capped("ab".into(), 2), "ab");
        assert_eq!(capped("äbc".into(), 2), "äb\n[cut: the first 2 of 3 characters]");
    }

    #[test]
    fn errors_name_no_address() {
        let said = Failure::Said("could not connect to http://10.0.0.1:8080/search".into());
        for failure in [Failure::Timeout, Failure::Status(500), said, Failure::Said(String::new())]
        {
            let text = failed("web_search", &failure);
            assert!(text.starts_with("[tool error] web_search failed: "), "{text}");
            assert!(!text.contains("10.0.0.1") && !text.contains("8080"), "{text}");
        }
    }
}
