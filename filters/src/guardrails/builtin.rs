//! The checks that need no service: patterns, personal data, secrets, length. What they find is named and counted, and
//! never repeated.

use regex::{RegexSet, RegexSetBuilder};
use serde_json::{Map, Value, json};

use super::{Verdict, personal, secrets};

const PATTERNS: &str = "otari_regex";
const PERSONAL: &str = "otari_pii";
const SECRETS: &str = "otari_secrets";
const LENGTH: &str = "otari_length";

/// Most patterns of a check, and the longest, in bytes.
const MAX_PATTERNS: usize = 64;
const MAX_PATTERN_BYTES: usize = 2000;
/// The memory that the patterns of a check may take, compiled.
const MAX_COMPILED_BYTES: usize = 2 << 20;

/// A check that needs no service.
#[derive(Clone, Debug)]
pub enum Builtin {
    /// `otari_regex`: none of the `patterns` matches. Linear in the text.
    Patterns {
        /// What the patterns are called, for the caller.
        names: Vec<String>,
        /// The patterns.
        set: RegexSet,
    },
    /// `otari_pii`: no personal data, of all `entities` or of some: `email`, `phone`, `credit_card`, `iban`, `us_ssn`.
    Personal(Vec<&'static str>),
    /// `otari_secrets`: no credentials.
    Secrets,
    /// `otari_length`: `min_chars` to `max_chars` characters.
    Length {
        /// At least so many.
        least: u64,
        /// At most so many.
        most: u64,
    },
}

/// A built-in check with options that are none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guardrail profile '{profile}': {problem}")]
pub struct BuiltinError {
    profile: &'static str,
    problem: String,
}

/// Reads the options of a check; an error goes on behind the check's name.
type Read = fn(&Map<String, Value>) -> Result<Builtin, String>;

impl Builtin {
    /// The check of this name with these options; `None`: there is no built-in check of this name.
    ///
    /// # Errors
    /// Which option is wrong, and what to do.
    pub fn named(
        profile: &str,
        options: &Map<String, Value>,
    ) -> Option<Result<Self, BuiltinError>> {
        let (profile, read): (_, Read) = match profile {
            PATTERNS => (PATTERNS, patterns),
            PERSONAL => (PERSONAL, entities),
            SECRETS => (SECRETS, |_| Ok(Builtin::Secrets)),
            LENGTH => (LENGTH, length),
            _ => return None,
        };
        Some(read(options).map_err(|problem| BuiltinError { profile, problem }))
    }

    /// What the check says of a text. The score is 1 where it refuses, and else 0.
    pub fn check(&self, text: &str) -> Verdict {
        let findings: Vec<Value> = match self {
            Self::Patterns { names, set } => {
                set.matches(text).iter().map(|at| json!({"pattern": names[at]})).collect()
            }
            Self::Personal(kinds) => {
                found(kinds.iter().map(|kind| (*kind, personal::count(kind, text))))
            }
            Self::Secrets => found(secrets::find(text).into_iter()),
            Self::Length { least, most } => {
                let chars = text.chars().count() as u64;
                let limit = json!({"chars": chars, "min_chars": least, "max_chars": most});
                if (*least..=*most).contains(&chars) { Vec::new() } else { vec![limit] }
            }
        };
        if findings.is_empty() {
            return Verdict { valid: Some(true), explanation: Value::Null, score: 0.into() };
        }
        Verdict { valid: Some(false), explanation: json!({"findings": findings}), score: 1.into() }
    }
}

fn found<'k>(counts: impl Iterator<Item = (&'k str, usize)>) -> Vec<Value> {
    let found = counts.filter(|(_, count)| *count > 0);
    found.map(|(kind, count)| json!({"kind": kind, "count": count})).collect()
}

fn patterns(options: &Map<String, Value>) -> Result<Builtin, String> {
    let usage = "give validate_kwargs.patterns, a list of regular expressions or of {\"name\", \"pattern\"}";
    let list = options.get("patterns").and_then(Value::as_array).ok_or(usage)?;
    if list.is_empty() || list.len() > MAX_PATTERNS {
        return Err(format!("{usage}, 1 to {MAX_PATTERNS} of them"));
    }
    let (mut names, mut sources) = (Vec::new(), Vec::new());
    for (at, item) in list.iter().enumerate() {
        let source = item.as_str().or(item["pattern"].as_str()).ok_or(usage)?;
        if source.len() > MAX_PATTERN_BYTES {
            return Err(format!("patterns[{at}] is longer than {MAX_PATTERN_BYTES} bytes"));
        }
        names.push(item["name"].as_str().map_or_else(|| format!("patterns[{at}]"), str::to_owned));
        sources.push(source);
    }
    let ignores_case = options.get("ignore_case").and_then(Value::as_bool).unwrap_or(false);
    let set = RegexSetBuilder::new(sources)
        .case_insensitive(ignores_case)
        .size_limit(MAX_COMPILED_BYTES)
        .build()
        .map_err(|error| format!("a pattern cannot be used: {error}"))?;
    Ok(Builtin::Patterns { names, set })
}

fn entities(options: &Map<String, Value>) -> Result<Builtin, String> {
    let Some(wanted) = options.get("entities").filter(|value| !value.is_null()) else {
        return Ok(Builtin::Personal(personal::KINDS.to_vec()));
    };
    let usage =
        || format!("validate_kwargs.entities must be a list of: {}", personal::KINDS.join(", "));
    let mut kinds = Vec::new();
    for name in wanted.as_array().ok_or_else(usage)? {
        let kind = personal::KINDS.into_iter().find(|kind| name == kind).ok_or_else(usage)?;
        kinds.push(kind);
    }
    Ok(Builtin::Personal(kinds))
}

fn length(options: &Map<String, Value>) -> Result<Builtin, String> {
    let usage = "give validate_kwargs.max_chars or min_chars, whole numbers";
    let count = |name: &str| match options.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or(usage),
    };
    match (count("min_chars")?, count("max_chars")?) {
        (None, None) => Err(usage.to_owned()),
        (least, most) => {
            Ok(Builtin::Length { least: least.unwrap_or(0), most: most.unwrap_or(u64::MAX) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(profile: &str, options: Value) -> Result<Builtin, BuiltinError> {
        Builtin::named(profile, options.as_object().unwrap()).unwrap()
    }

    #[test]
    fn patterns_refuse_what_they_match_and_name_themselves() {
        let options = json!({"patterns": ["(?i)foo", {"name": "digits", "pattern": r"\d{3}"}]});
        let check = named(PATTERNS, options).unwrap();
        assert_eq!(check.check("bar").valid, Some(true));
        let verdict = check.check("FOO 123");
        assert_eq!(verdict.valid, Some(false));
        assert_eq!(
            verdict.explanation,
            json!({"findings": [{"pattern": "patterns[0]"}, {"pattern": "digits"}]})
        );
        for wrong in [
            json!({}),
            json!({"patterns": []}),
            json!({"patterns": ["("]}),
            json!({"patterns": [7]}),
            json!({"patterns": [r"(?:\w{900}){900}"]}),
            json!({"patterns": vec!["x"; MAX_PATTERNS + 1]}),
        ] {
            assert!(named(PATTERNS, wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hostile_patterns_take_linear_time() {
        let check = named(PATTERNS, json!({"patterns": ["(a+)+$", "(a|aa)+b"]})).unwrap();
        let text = "a".repeat(200_000) + "!";
        assert_eq!(check.check(&text).valid, Some(true));
    }

    #[test]
    fn personal_data_is_counted_and_not_repeated() {
        let check = named(PERSONAL, json!({"entities": ["email"]})).unwrap();
        let verdict = check.check("a@b.example, c@d.example, 4111 1111 1111 1111");
        assert_eq!(verdict.explanation, json!({"findings": [{"kind": "email", "count": 2}]}));
        let all = named(PERSONAL, json!({})).unwrap();
        let verdict = all.check("4111 1111 1111 1111");
        assert_eq!(verdict.explanation, json!({"findings": [{"kind": "credit_card", "count": 1}]}));
        let error = named(PERSONAL, json!({"entities": ["shoe size"]})).unwrap_err().to_string();
        assert!(error.contains("email, phone"), "{error}");
    }

    #[test]
    fn length_is_counted_in_characters() {
        let check = named(LENGTH, json!({"max_chars": 2, "min_chars": 1})).unwrap();
        let valid: Vec<_> = ["", "é", "éé", "ééé"].map(|text| check.check(text).valid).into();
        assert_eq!(valid, [Some(false), Some(true), Some(true), Some(false)]);
        assert!(named(LENGTH, json!({"max_chars": "2"})).is_err());
    }

    #[test]
    fn other_profiles_are_the_services() {
        assert!(Builtin::named("prompt-injection", &Map::new()).is_none());
        assert_eq!(
            named(SECRETS, json!({})).unwrap().check("-----BEGIN PRIVATE KEY-----").valid,
            Some(false)
        );
    }
}
