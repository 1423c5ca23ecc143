//! Credentials in a text: by their known beginnings, by PEM's own lines, and words that only a machine makes.

use std::sync::LazyLock;

use regex::Regex;

/// Shortest word that may be made by a machine, and the fewest bits each character of such a word tells.
const MIN_RANDOM_CHARS: usize = 32;
const MIN_BITS: f64 = 4.2;

/// What is known: a name, and how it looks.
///
/// Source: the issuers' documentation of their token formats (2026-11-22).
const FORMS: [(&str, &str); 14] = [
    ("private_key", r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----"),
    ("aws_access_key", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    ("github_token", r"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})\b"),
    ("gitlab_token", r"\bglpat-[A-Za-z0-9_-]{20,}"),
    ("slack_token", r"\bxox[abeprs]-[A-Za-z0-9-]{10,}"),
    ("google_api_key", r"\bAIza[A-Za-z0-9_-]{35}"),
    ("google_oauth_token", r"\bya29\.[A-Za-z0-9_-]{20,}"),
    ("stripe_key", r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}"),
    ("llm_api_key", r"\b(?:sk-[A-Za-z0-9_-]{20,}|gsk_[A-Za-z0-9]{20,}|xai-[A-Za-z0-9]{20,})"),
    ("hugging_face_token", r"\bhf_[A-Za-z0-9]{30,}"),
    ("package_token", r"\b(?:npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,})"),
    ("sendgrid_key", r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
    ("json_web_token", r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
    (
        "assigned_secret",
        r#"(?i)\b(?:api[_-]?key|secret|password|passwd|access[_-]?token|auth[_-]?token)["']?\s{0,3}[:=]\s{0,3}["']?[A-Za-z0-9+/_.=-]{12,}"#,
    ),
];

static KNOWN: LazyLock<Vec<(&str, Regex)>> = LazyLock::new(|| {
    let compile = |source| Regex::new(source).expect("a fixed pattern, which the tests compile");
    FORMS.iter().map(|(name, source)| (*name, compile(source))).collect()
});
static WORD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"[A-Za-z0-9+/_=-]{32,512}").expect("a fixed pattern, which the tests compile")
});

/// The kinds of credentials, and how many of each. A word that is of a known kind is not told as a random one too.
pub(super) fn find(text: &str) -> Vec<(&'static str, usize)> {
    let mut taken = Vec::new();
    let mut found: Vec<(&'static str, usize)> = Vec::new();
    for (name, form) in KNOWN.iter() {
        let before = taken.len();
        taken.extend(form.find_iter(text).map(|hit| hit.range()));
        found.push((name, taken.len() - before));
    }
    let is_taken =
        |at: usize| taken.iter().any(|range: &std::ops::Range<usize>| range.contains(&at));
    let random = WORD
        .find_iter(text)
        .filter(|word| is_random(word.as_str()))
        .filter(|word| !is_taken(word.start()) && !is_taken(word.end() - 1));
    found.push(("high_entropy", random.count()));
    found
}

/// Whether only a machine makes such a word: long, of all kinds of characters, and none of them often. Digests in
/// hexadecimal and paths are not.
fn is_random(word: &str) -> bool {
    let has = |is_it: fn(&u8) -> bool| word.bytes().any(|byte| is_it(&byte));
    // Names in capitals and small letters have few digits.
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    let is_mixed =
        has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) && digits * 16 >= word.len();
    let is_path =
        word.bytes().filter(|byte| matches!(byte, b'/' | b'-' | b'_')).count() * 8 > word.len();
    word.len() >= MIN_RANDOM_CHARS && is_mixed && !is_path && bits(word) >= MIN_BITS
}

/// Shannon's entropy of the word's own characters, in bits for each.
fn bits(word: &str) -> f64 {
    let mut counts = [0_u32; 256];
    word.bytes().for_each(|byte| counts[usize::from(byte)] += 1);
    let all = f64::from(u32::try_from(word.len()).unwrap_or(u32::MAX));
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / all;
            -share * share.log2()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<&'static str> {
        find(text).into_iter().filter(|(_, count)| *count > 0).map(|(kind, _)| kind).collect()
    }

    #[test]
    fn credentials_are_found() {
        // Put together here, or this file would be full of what looks like credentials.
        let tail = "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1eF3hJ5";
        for (text, want) in [
            (format!("-----BEGIN RSA {} KEY-----\nMIIE", "PRIVATE"), "private_key"),
            (format!("id {}IOSFODNN7EXAMPLE", "AKIA"), "aws_access_key"),
            (format!("gh{}_{tail}", "p"), "github_token"),
            (format!("sk{}ant-api03-{tail}", "-"), "llm_api_key"),
            (format!("AI{}{}", "za", &tail[..35]), "google_api_key"),
            (format!("xo{}-{tail}", "xb"), "slack_token"),
            (format!("ey{0}hbGciOiJI.ey{0}zdWIiOiIx.{tail}", "J"), "json_web_token"),
            ("api_key = \"correcthorse7\"".to_owned(), "assigned_secret"),
            (format!("it is {tail}/+x"), "high_entropy"),
        ] {
            assert_eq!(kinds(&text), [want], "{text}");
        }
    }

    #[test]
    fn what_people_write_is_no_credential() {
        for text in [
            "the password is secret",
            "commit 3b18e512dba79e4c8300dd08aeb37f8e728b8dad",
            "https://example.com/a/very/long/path/with-2-words/And/More/of/them/index.html",
            "0123456789012345678901234567890123456789",
            "AVeryLongClassNameThatSomebodyMadeUp1ForAFactoryOfFactories",
            "sk-short, task-list, AKIA",
        ] {
            assert_eq!(kinds(text), Vec::<&str>::new(), "{text}");
        }
    }
}
