//! Takes credentials, addresses and echoes of the request out of a provider's words.
//!
//! Works word by word: what is not plainly harmless is replaced.

/// Longest text a caller sees, in characters.
const MAX_CHARS: usize = 400;
/// An unbroken run this long may be a key or an encoded payload.
const MAX_WORD_CHARS: usize = 40;
const REDACTED: &str = "[redacted]";

/// Words after which a value is secret: `api_key=…`, `token: …`.
const SECRET_NAMES: [&str; 7] =
    ["api_key", "api-key", "apikey", "token", "secret", "password", "authorization"];
/// Schemes after which a credential follows.
const SCHEMES: [&str; 3] = ["bearer", "basic", "digest"];
/// Beginnings of keys and of account ids.
const PREFIXES: [&str; 12] =
    ["sk", "pk", "rk", "gsk", "xai", "tk", "gw", "org", "proj", "acct", "account", "ak"];
/// Fields of a request: a value behind them is an echo of what the caller sent.
const ECHOES: [&str; 7] = ["messages", "input", "prompt", "tools", "body", "content", "system"];

/// The text with whatever could be a secret replaced, on one line, at most 400 characters; `None` when it echoes the
/// request or nothing readable is left.
pub fn redact(text: &str) -> Option<String> {
    if echoes_request(text) {
        return None;
    }
    let mut out: Vec<String> = Vec::new();
    let mut secret_follows = false;
    for word in text.split_whitespace() {
        let (shown, next) = redact_word(word, secret_follows);
        secret_follows = next;
        out.push(shown);
    }
    let line = out.join(" ");
    if !line.replace(REDACTED, "").chars().any(char::is_alphabetic) {
        return None;
    }
    if line.chars().count() > MAX_CHARS {
        let cut: String = line.chars().take(MAX_CHARS - 3).collect();
        return Some(format!("{cut}..."));
    }
    Some(line)
}

/// Whether a request field with a value stands in the text: `messages: [...]`, `"content" = "..."`.
fn echoes_request(text: &str) -> bool {
    ECHOES.iter().any(|name| {
        text.match_indices(name).any(|(at, _)| {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                return false;
            }
            let rest = text[at + name.len()..].trim_start_matches(['"', '\'', ' ', ']', '.']);
            let Some(value) = rest.strip_prefix([':', '=']) else { return false };
            // `messages: at least one is required` is the provider's own sentence, a bracket or quote is an echo.
            value.trim_start().starts_with(['[', '{', '"', '\''])
        })
    })
}

/// The word as it may be shown, and whether the next one is secret.
fn redact_word(word: &str, secret: bool) -> (String, bool) {
    let core = word.trim_matches(|c: char| !c.is_alphanumeric());
    let lower = core.to_lowercase();
    if SCHEMES.contains(&lower.as_str()) {
        return (word.to_owned(), true);
    }
    if SECRET_NAMES.contains(&lower.as_str()) && word.ends_with([':', '=']) {
        return (word.to_owned(), true);
    }
    if secret || is_secret(word, core, &lower) {
        return (REDACTED.to_owned(), false);
    }
    (word.to_owned(), false)
}

fn is_secret(word: &str, core: &str, lower: &str) -> bool {
    let pair = lower.split_once(['=', ':']).is_some_and(|(name, value)| {
        !value.is_empty() && SECRET_NAMES.iter().any(|secret| name.ends_with(secret))
    });
    let key = lower
        .split_once(['-', '_'])
        .is_some_and(|(head, tail)| PREFIXES.contains(&head) && tail.len() >= 3);
    let google = core.starts_with("AIza");
    let url = word.contains("://");
    let long = core.chars().count() >= MAX_WORD_CHARS;
    let hash = core.len() >= 32
        && core.chars().all(char::is_alphanumeric)
        && core.chars().any(|c| c.is_ascii_digit());
    pair || key || google || url || long || hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_replaced() {
        for secret in [
            "Incorrect API key provided: sk-proj-abc123def.",
            "bad header Authorization: Bearer abcdef",
            "api_key=abcdef is wrong",
            "key AIzaSyA1234567 is not valid",
            "see https://internal.example/v1 for help",
            "organization org-abc123 has no access",
            "id 0123456789abcdef0123456789abcdef failed",
        ] {
            let shown = redact(secret).unwrap();
            assert!(shown.contains(REDACTED), "{secret} -> {shown}");
            for leak in ["sk-proj", "abcdef", "AIza", "internal", "org-abc"] {
                assert!(!shown.contains(leak), "{secret} -> {shown}");
            }
        }
    }

    #[test]
    fn plain_sentences_stay() {
        let plain =
            "max_tokens is too large: 99999. This model supports at most 16384 completion tokens";
        assert_eq!(redact(plain).as_deref(), Some(plain));
        assert_eq!(redact("  two\n lines ").as_deref(), Some("two lines"));
    }

    #[test]
    fn echoes_of_the_request_are_dropped_whole() {
        assert_eq!(
            redact(r#"invalid value: messages: [{"role":"user","content":"my secret"}]"#),
            None
        );
        assert_eq!(redact(r#"bad "content": "hello""#), None);
        assert!(redact("messages: at least one is required").is_some());
    }

    #[test]
    fn long_texts_are_cut_and_empty_ones_fall_back() {
        let long = "word ".repeat(200);
        let shown = redact(&long).unwrap();
        assert_eq!(shown.chars().count(), MAX_CHARS);
        assert!(shown.ends_with("..."));
        assert_eq!(redact("sk-12345678"), None);
    }
}
