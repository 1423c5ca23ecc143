//! Which heads pass, and that every one is judged by the rules one after the other.

use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds { max_bytes: 400, max_fields: 5 };

fn code(head: &str) -> Option<Code> {
    check(head.as_bytes(), BOUNDS).err().map(|refused| refused.code)
}

#[test]
fn what_clients_send_passes() {
    for head in [
        "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
        "POST / HTTP/1.1\r\nhost:a:8000\r\ntransfer-encoding:  Chunked \r\n\r\n",
        "GET /v1/models?a=b%20c HTTP/1.1\r\nHost: [::1]:8000\r\nX: \u{e9}\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: a\r\nEmpty:\r\n\r\n",
    ] {
        assert_eq!(code(head), None, "{head:?}");
    }
}

#[test]
fn what_parsers_read_differently_is_refused() {
    for fields in [
        "Host: a\nX: y",
        "Host: a\r\nX: y\r\n z",
        "Host: a\r\nX : y",
        "Host: a\r\nX",
        "Host: a\r\n: y",
        "Host: a\r\nX: a\rb",
        "Host: a\r\nX: a\u{1}b",
        "Host: a\r\nHost: a",
        "Host: a b",
        "Host: a, b",
        "X: y",
        "Host: a\r\nContent-Length: 5\r\nContent-Length: 5",
        "Host: a\r\nContent-Length: 5, 5",
        "Host: a\r\nContent-Length: +5",
        "Host: a\r\nContent-Length: 0x5",
        "Host: a\r\nContent-Length: ",
        "Host: a\r\nContent-Length: 99999999999999999999",
        "Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Host: a\r\nTransfer-Encoding: gzip, chunked",
        "Host: a\r\nTransfer-Encoding: xchunked",
        "Host: a\r\nTransfer-Encoding: \u{b}chunked",
        "Host: a\r\nTransfer_Encoding\u{0}: chunked",
    ] {
        let head = format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n");
        assert_eq!(code(&head), Some(Code::MalformedRequest), "{fields:?}");
    }
    assert_eq!(code("GET  / HTTP/1.1\r\nHost: a\r\n\r\n"), Some(Code::MalformedRequest));
    assert_eq!(code("GET %20/ HTTP/1.1\r\nHost: a\r\n\r\n"), Some(Code::MalformedRequest));
    assert_eq!(code("GET / HTTP/1.1\nHost: a\r\n\r\n"), Some(Code::MalformedRequest));
}

#[test]
fn the_bounds_hold() {
    let fields = |n: usize| "X: y\r\n".repeat(n);
    let head = |n| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(n));
    assert_eq!(code(&head(4)), None);
    assert_eq!(code(&head(5)), Some(Code::TooManyHeaders));
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(400));
    assert_eq!(code(&long), Some(Code::HeadersTooLarge));
}

fn wrong<T>(what: &str) -> Result<T, String> {
    Err(format!("Malformed HTTP request: {what}"))
}

/// The name of a field, in small letters, and its value.
fn parts(line: &[u8]) -> Result<(String, &[u8]), String> {
    if matches!(line[0], b' ' | b'\t') {
        return wrong("a header is folded over several lines");
    }
    let Some(colon) = line.iter().position(|byte| *byte == b':') else {
        return wrong("a header has no colon");
    };
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    if colon == 0 || !line[..colon].iter().all(is_token) {
        return wrong("the name of a header has a character that no name may have");
    }
    let value = trim(&line[colon + 1..]);
    if value.iter().any(|byte| *byte < 32 && *byte != 9 || *byte == 127) {
        return wrong("a header has a control character");
    }
    Ok((String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase(), value))
}

/// The rules as they are read, line by line and byte by byte.
fn by_the_rules(raw: &[u8], bounds: Bounds) -> Result<(), String> {
    let mut lines: Vec<&[u8]> = raw.split(|byte| *byte == b'\n').collect();
    // What follows the last line end is no line.
    lines.pop();
    if lines.first() == Some(&&b"\r"[..]) {
        lines.remove(0);
    }
    let (mut is_1_1, mut hosts, mut lengths, mut codings) = (false, 0, 0, 0);
    if lines.is_empty() {
        return wrong("the request line is not three words");
    }
    for (number, line) in lines.into_iter().enumerate() {
        let Some(line) = line.strip_suffix(b"\r") else { return wrong("a line ends without CR") };
        if line.contains(&b'\r') {
            return wrong("there is a CR within a line");
        }
        if number == 0 {
            let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
            let [_, target, version] = words[..] else {
                return wrong("the request line is not three words");
            };
            let is_address = target.starts_with(b"http://") || target.starts_with(b"https://");
            if target != b"*" && !target.starts_with(b"/") && !is_address {
                return wrong("what is asked for is neither a path nor an address");
            }
            is_1_1 = version == b"HTTP/1.1";
            continue;
        }
        if line.is_empty() {
            break;
        }
        if number > bounds.max_fields {
            return Err(too_many(bounds).message.into());
        }
        let (name, value) = parts(line)?;
        match name.as_str() {
            "content-length" => {
                lengths += 1;
                if !(1..=18).contains(&value.len()) || !value.iter().all(u8::is_ascii_digit) {
                    return wrong("Content-Length is not a number");
                }
            }
            "transfer-encoding" => {
                codings += 1;
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return wrong("Transfer-Encoding is not 'chunked'");
                }
            }
            "host" => {
                hosts += 1;
                if value.iter().any(|byte| b" \t,/\\?#@<>\"".contains(byte)) {
                    return wrong("Host is not a name and a port");
                }
            }
            _ => {}
        }
    }
    match (hosts, lengths, codings) {
        (_, 2.., _) => wrong("there are several Content-Length headers"),
        (.., 2..) => wrong("there are several Transfer-Encoding headers"),
        (_, 1.., 1..) => wrong("there are both Content-Length and Transfer-Encoding"),
        (2.., ..) => wrong("there are several Host headers"),
        (0, ..) if is_1_1 => wrong("there is no Host header"),
        _ => Ok(()),
    }
}

/// Bytes that are nearly a head.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let heads = [
        "POST /v1/chat/completions HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\nX-Y: z z\r\n\r\n",
        "\r\nGET http://a/b HTTP/1.1\r\nhost:a\r\nTransfer-Encoding: \tChunked \r\nE:\r\n\r\n",
        "OPTIONS * HTTP/1.0\r\nA: \u{e9}\r\nb: 1\r\nc: 2\r\nd: 3\r\nhost: x\r\n\r\nmore",
    ];
    let pieces: Vec<Vec<u8>> = [
        &b""[..],
        b"\r",
        b"\n",
        b"\r\n",
        b" ",
        b"\t",
        b":",
        b"\0",
        b"\x08",
        b"\x1f",
        b"\x7f",
        b"\xff",
        b"/",
        b"@",
        b"Host: a\r\n",
        b"Host:\r\n",
        b"Content-Length: 5\r\n",
        b"content-LENGTH: 00000000000000000000\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"X: y\r\n",
        b": y\r\n",
        b"X\r\n",
        b"X y: z\r\n",
        b"a,b",
        b"1",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    let edit =
        (any::<prop::sample::Index>(), 0usize..4, prop::sample::select(pieces), any::<bool>());
    let edits = prop::collection::vec(edit, 0..4);
    (prop::sample::select(heads.to_vec()), edits).prop_map(|(head, edits)| {
        let mut bytes = head.as_bytes().to_vec();
        for (at, length, with, is_line) in edits {
            let starts: Vec<usize> = memchr::memchr_iter(b'\n', &bytes).map(|at| at + 1).collect();
            let at = match is_line && !starts.is_empty() {
                true => starts[at.index(starts.len())],
                false => at.index(bytes.len() + 1),
            };
            let end = if is_line { at } else { (at + length).min(bytes.len()) };
            bytes.splice(at..end, with);
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16384, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_head_is_judged_by_the_rules_in_their_order(raw in damaged()) {
        let bounds = Bounds { max_bytes: 4000, max_fields: 6 };
        let judged = check(&raw, bounds).map_err(|refused| refused.message.into_owned());
        prop_assert_eq!(judged, by_the_rules(&raw, bounds), "{}", String::from_utf8_lossy(&raw));
    }
}
