//! What is walked over is what serde accepts.

use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::*;

/// Bytes that are nearly one of these documents.
pub(crate) fn damaged(documents: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let pieces: &[&[u8]] = &[
        b"",
        b" ",
        b"\n",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\"",
        b"\\",
        b"null",
        b"true",
        b"nul",
        b"0",
        b"01",
        b"7",
        b"-",
        b"-1",
        b"1.",
        b"1.0",
        b".5",
        b"1e5",
        b"1e",
        b"1E+999",
        b"99999999999999999999",
        b"\\u00e9",
        b"\\ud800",
        b"\\u12g4",
        b"\\x",
        b"\\\"",
        b"\x01",
        b"\x7f",
        b"\xff",
        b"\xc3\xa9",
        b"{}",
        b"[]",
        b"\"\"",
        b"\"id\":1,",
        b"\"usage\":{},",
        b"\"usage\":null",
        b",\"prompt_tokens\":7",
        b"\"model\":\"m\",",
        b"\"role\":\"user\",",
        b"\"text\"",
        b"\"content\"",
        b"\"type\":\"text\",",
        b"\"source\":{}",
    ];
    let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
    let edit = (any::<prop::sample::Index>(), 0usize..12, prop::sample::select(pieces));
    // Half of them at a place where one thing ends and another begins: most others only damage a text.
    let edits = prop::collection::vec((edit, any::<bool>()), 1..4);
    (prop::sample::select(documents), edits).prop_map(|(mut bytes, edits)| {
        for ((at, length, with), is_between) in edits {
            let between: Vec<usize> =
                (0..bytes.len()).filter(|at| b"{}[],:\"".contains(&bytes[*at])).collect();
            let at = match is_between && !between.is_empty() {
                true => between[at.index(between.len())],
                false => at.index(bytes.len() + 1),
            };
            let end = (at + length / 2).min(bytes.len());
            bytes.splice(at..end, with);
        }
        bytes
    })
}

fn is_walked(document: &[u8]) -> bool {
    let mut scan = Scan::new(document);
    scan.skip().and_then(|()| scan.end()).is_some()
}

fn is_json(document: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(document).is_ok()
}

const PLAIN: [&str; 14] = [
    "null",
    " true ",
    "0",
    "-0.0e-0",
    "123456789012345678901234567890.5E+7",
    r#""""#,
    r#""a\"\\\/\b\f\n\r\t\u00e9\ud800""#,
    "\"h\u{e9}\u{7f}\"",
    "[]",
    "[ [ ] , { } ]",
    r#"{"a":{"b":[1,"x",{"c":null}]},"d":false}"#,
    "\t{\r\n\"a\" : [ 1 , 2 ]\n}\n",
    r#"["01234567","0123456","012345678","0123456\"","01234567\\"]"#,
    r#"{"é":1,"\u0061":2}"#,
];

#[test]
fn what_is_well_written_is_walked_over() {
    for document in PLAIN {
        assert!(is_json(document.as_bytes()) && is_walked(document.as_bytes()), "{document}");
    }
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    // The innermost is empty and takes no bit.
    assert!(is_walked(deep(65).as_bytes()) && !is_walked(deep(66).as_bytes()));
}

#[test]
fn what_is_wrong_is_not() {
    for document in [
        "",
        " ",
        "nul",
        "nulls",
        "tru",
        "+1",
        "01",
        "-",
        "1.",
        ".5",
        "1e",
        "1e+",
        "0x1",
        "\"",
        "\"\\\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\x\"",
        "\"a\nb\"",
        "\"a\u{1f}\"",
        "[",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1}",
        "{",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,",
        "{\"a\":1,}",
        "{a:1}",
        "{1:1}",
        "{\"a\" 1}",
        "{\"a\":1]",
        "{,}",
        "1 2",
        "{} {}",
        "[]]",
    ] {
        assert!(!is_json(document.as_bytes()) && !is_walked(document.as_bytes()), "{document}");
    }
}

#[test]
fn a_count_is_a_plain_number() {
    let count = |text: &str| Scan::new(text.as_bytes()).count();
    assert_eq!(count(" 12,"), Some(Some(12)));
    assert_eq!(count("0}"), Some(Some(0)));
    assert_eq!(count("9999999999999999999 "), Some(Some(9_999_999_999_999_999_999)));
    assert_eq!([count("null"), count("true"), count("false")], [Some(None); 3]);
    for odd in ["", "01", "1.0", "1e3", "-1", "10000000000000000000", "\"1\"", "[]", "nul"] {
        assert_eq!(count(odd), None, "{odd}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_walked_over_is_json(
        document in damaged(PLAIN.map(|document| document.as_bytes().to_vec()).to_vec()),
    ) {
        prop_assert_eq!(is_walked(&document), is_json(&document));
    }

    #[test]
    fn the_plain_bytes_end_where_one_by_one_they_end(bytes: Vec<u8>, around in 0usize..40) {
        // Random bytes end soon: some that do not stand before them.
        let mut text = vec![b'a'; around];
        text.extend(bytes);
        let is_odd = |byte: &u8| matches!(*byte, b'"' | b'\\' | ..0x20);
        let end = text.iter().position(is_odd).unwrap_or(text.len());
        prop_assert_eq!(plain_bytes::<false>(&text), end);
        let ascii = text.iter().position(|byte| is_odd(byte) || !byte.is_ascii());
        prop_assert_eq!(plain_bytes::<true>(&text), ascii.unwrap_or(text.len()));
    }
}

#[test]
fn fields_are_given_in_their_order() {
    let text = r#"{"a": 1, "b" :"x","c":{"d":[]}}"#;
    let (mut names, mut seen) = (Vec::new(), 0);
    let mut scan = Scan::new(text.as_bytes());
    let walked = scan.object(|scan, name| {
        names.push(String::from_utf8_lossy(name).into_owned());
        once(&mut seen, names.len() as u32)?;
        scan.skip()
    });
    assert!(walked.is_some() && scan.end().is_some());
    let value: Value = serde_json::from_str(text).unwrap();
    assert_eq!(names, value.as_object().unwrap().keys().cloned().collect::<Vec<_>>());
    assert_eq!((once(&mut seen, 2), once(&mut seen, 9)), (None, Some(())));
}

#[test]
fn the_characters_of_a_text_are_counted() {
    for text in ["", "abc", "h\u{e9}llo \u{1f600}", &"\u{e9}x".repeat(300), "a\"\\/\n\u{1}b"] {
        let quoted = serde_json::to_string(text).unwrap();
        let mut scan = Scan::new(quoted.as_bytes());
        assert_eq!(scan.chars(), Some(text.chars().count() as u64), "{quoted}");
        assert!(scan.end().is_some());
    }
    let count = |text: &str| Scan::new(text.as_bytes()).chars();
    assert_eq!(count(r#""\u00e9\uD83D\uDE00\u0041""#), Some(3));
    for odd in [
        r#""\ud83d""#,
        r#""\ud83dx""#,
        r#""\ud83d\n""#,
        r#""\ud83d\u0041""#,
        r#""\ude00""#,
        "7",
        "\"a",
    ] {
        assert_eq!(count(odd), None, "{odd}");
    }
}

#[test]
fn a_value_is_cut_out_where_it_ends() {
    let mut scan = Scan::of(r#"{"a": {"b":[1, 2]} ,"c":12}"#);
    let mut cut = Vec::new();
    let walked = scan.object(|scan, _| {
        cut.push(if cut.is_empty() { scan.raw()?.get() } else { scan.value()? });
        Some(())
    });
    assert!(walked.is_some() && scan.end().is_some());
    assert_eq!(cut, [r#"{"b":[1, 2]}"#, "12"]);
    for odd in ["", "x", "{\"a\":}", "\"a"] {
        assert!(Scan::of(odd).raw().is_none() && Scan::of(odd).value().is_none(), "{odd}");
    }
}

proptest! {
    #[test]
    fn a_texts_characters_are_those_that_serde_reads(text in "(\\PC|[\"\\\\\\x00-\\x1f]|\\\\u[dD][89aAcCdD][0-9a-f]{2}){0,40}") {
        let raw = format!("\"{text}\"");
        let by_serde: Option<String> = serde_json::from_str(&raw).ok();
        let mut scan = Scan::new(raw.as_bytes());
        let chars = scan.chars().filter(|_| scan.end().is_some());
        prop_assert_eq!(chars, by_serde.map(|text| text.chars().count() as u64));
    }
}
