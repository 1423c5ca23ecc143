//! What waits for its cost, what passes, and what is written where.

use super::Protocol::{Chat, Messages, Responses};
use super::*;

const CHUNK: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}],\"usage\":null}\n\n";
const USAGE: &str = "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":9}}\r\n\r\n";
const DONE: &str = "data: [DONE]\n\n";
const PRICED: &str = "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"cost_usd\":\"0.012345\",\"pricing_source\":\"managed\"}}\r\n\r\n";

const MESSAGE: &str = concat!(
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"usage\":{\"input_tokens\":7}}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"Hi\"}}\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":4}}\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    "event: done\ndata: {}\n\n",
);

const RESPONSE: &str = concat!(
    "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"usage\":null}}\n\n",
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Hi\"}\n\n",
    "event: response.completed\ndata: {\"response\":{\"id\":\"r\",\"tools\":[{\"usage\":{}}],\"usage\":{ \"input_tokens\" : 5 }},\"type\":\"response.completed\"}\n\n",
    "data: [DONE]\n\n",
);

fn cost() -> Cost {
    Cost { cost_usd: "0.012345".into(), pricing_source: "managed".into() }
}

fn text(pieces: &[Bytes]) -> String {
    String::from_utf8(pieces.concat()).unwrap()
}

/// What passes before the release, and all in the end.
fn run(protocol: Protocol, cost: Option<&Cost>, pieces: &[&[u8]]) -> (String, String) {
    let mut carriers = Carriers::new(protocol);
    let mut out = Vec::new();
    for piece in pieces {
        carriers.feed(Bytes::copy_from_slice(piece), &mut out);
        assert!(carriers.is_between_events(), "an event leaves when it is whole");
    }
    let before = text(&out);
    carriers.release(cost, &mut out);
    assert!(!carriers.is_holding());
    assert!(!out.iter().any(Bytes::is_empty), "an empty piece would be a write");
    (before, text(&out))
}

#[test]
fn a_document_gets_two_fields_and_nothing_else_changes() {
    for (document, want) in [
        (
            r#"{"id":"c","usage":{"prompt_tokens":1.0e0,"x":{"usage":{}}}, "z":[ ]}"#,
            Some(
                r#"{"id":"c","usage":{"prompt_tokens":1.0e0,"x":{"usage":{}},"cost_usd":"0.012345","pricing_source":"managed"}, "z":[ ]}"#,
            ),
        ),
        (
            r#"{"usage":{}}"#,
            Some(r#"{"usage":{"cost_usd":"0.012345","pricing_source":"managed"}}"#),
        ),
        (
            r#"{"usage":{"cost_usd":0.5}}"#,
            Some(r#"{"usage":{"cost_usd":"0.012345","pricing_source":"managed"}}"#),
        ),
        (
            "{\"usage\":{ \"pricing_source\": null, \"a\":1, \"cost_usd\":\"9\" }}",
            Some(
                "{\"usage\":{  \"a\":1 ,\"cost_usd\":\"0.012345\",\"pricing_source\":\"managed\"}}",
            ),
        ),
        (
            r#"{"usage":{"a":1,"cost_usd":"9","cost_u\u0073d":"8"}}"#,
            Some(r#"{"usage":{"a":1,"cost_usd":"0.012345","pricing_source":"managed"}}"#),
        ),
        (r#"{"usage":null}"#, None),
        (r#"{"usage":[1]}"#, None),
        (r#"{"id":"c"}"#, None),
        (r#"{"response":{"usage":{}}}"#, None),
        (r#"[{"usage":{}}]"#, None),
        (r#"{"usage":{}"#, None),
        ("", None),
    ] {
        for protocol in [Chat, Messages, Responses] {
            let got = attach(protocol, &Bytes::from_static(document.as_bytes()), &cost());
            assert_eq!(got.as_deref().map(text).as_deref(), want, "{document}");
        }
    }
}

#[test]
fn what_the_platform_says_is_written_as_json() {
    let cost = Cost { cost_usd: "-0.000001".into(), pricing_source: "a\"b".into() };
    let got = attach(Chat, &Bytes::from_static(br#"{"usage":{}}"#), &cost).unwrap();
    assert_eq!(text(&got), r#"{"usage":{"cost_usd":"-0.000001","pricing_source":"a\"b"}}"#);
}

#[test]
fn the_cost_is_written_however_the_stream_is_split() {
    let chat = format!(": c\n\n{CHUNK}{CHUNK}{USAGE}{DONE}");
    for (protocol, stream, at_once, priced) in [
        (Chat, &*chat, &*format!(": c\n\n{CHUNK}{CHUNK}"), chat.replace(USAGE, PRICED)),
        (
            Messages,
            MESSAGE,
            &MESSAGE[..MESSAGE.find("event: message_delta").unwrap()],
            MESSAGE.replace(
                r#""output_tokens":4"#,
                r#""output_tokens":4,"cost_usd":"0.012345","pricing_source":"managed""#,
            ),
        ),
        (
            Responses,
            RESPONSE,
            &RESPONSE[..RESPONSE.find("event: response.completed").unwrap()],
            RESPONSE.replace(" : 5 ", r#" : 5 ,"cost_usd":"0.012345","pricing_source":"managed""#),
        ),
    ] {
        let check = |pieces: &[&[u8]], how: &str| {
            let (before, all) = run(protocol, Some(&cost()), pieces);
            assert_eq!((&*before, &*all), (at_once, &*priced), "{how}");
            let (before, all) = run(protocol, None, pieces);
            assert_eq!((&*before, &*all), (at_once, stream), "{how}, without a cost");
        };
        for at in 0..=stream.len() {
            let (head, tail) = stream.as_bytes().split_at(at);
            check(&[head, tail], &format!("{protocol:?} split at {at}"));
        }
        let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
        check(&bytes, "in single bytes");
    }
}

#[test]
fn events_wait_by_the_rules() {
    let second = USAGE.replace('9', "22");
    let second_priced = PRICED.replace('9', "22");
    let error = "data: {\"error\":{\"message\":\"x\"}}\n\n";
    for (protocol, stream, at_once, all) in [
        // Without usage only the end waits.
        (Chat, [CHUNK, DONE].concat(), CHUNK.to_owned(), [CHUNK, DONE].concat()),
        // Three more may wait behind the usage, and the end.
        (
            Chat,
            [USAGE, CHUNK, CHUNK, CHUNK, DONE].concat(),
            String::new(),
            [PRICED, CHUNK, CHUNK, CHUNK, DONE].concat(),
        ),
        // A fourth is too many: the usage is forgotten, the end still waits.
        (
            Chat,
            [USAGE, CHUNK, CHUNK, CHUNK, CHUNK, DONE].concat(),
            [USAGE, CHUNK, CHUNK, CHUNK, CHUNK].concat(),
            [USAGE, CHUNK, CHUNK, CHUNK, CHUNK, DONE].concat(),
        ),
        // A later one counts again.
        (
            Chat,
            [USAGE, CHUNK, CHUNK, CHUNK, CHUNK, CHUNK, &second, CHUNK, DONE].concat(),
            [USAGE, CHUNK, CHUNK, CHUNK, CHUNK, CHUNK].concat(),
            [USAGE, CHUNK, CHUNK, CHUNK, CHUNK, CHUNK, &second_priced, CHUNK, DONE].concat(),
        ),
        // The newest usage gets it.
        (
            Chat,
            [USAGE, CHUNK, &second, CHUNK].concat(),
            [USAGE, CHUNK].concat(),
            [USAGE, CHUNK, &second_priced, CHUNK].concat(),
        ),
        // An error waits behind what came before it.
        (
            Chat,
            [USAGE, error].concat(),
            String::new(),
            [PRICED, error].concat(),
        ),
        // The stream broke off inside an event.
        (
            Chat,
            [CHUNK, USAGE, "data: {\"ch"].concat(),
            CHUNK.to_owned(),
            [CHUNK, PRICED, "data: {\"ch"].concat(),
        ),
        (Chat, USAGE.trim_end().to_owned(), String::new(), PRICED.trim_end().to_owned()),
        // Usage beside content is no place for it.
        (
            Chat,
            CHUNK.replace("null", "{\"prompt_tokens\":9}"),
            CHUNK.replace("null", "{\"prompt_tokens\":9}"),
            CHUNK.replace("null", "{\"prompt_tokens\":9}"),
        ),
        (Messages, DONE.to_owned(), String::new(), DONE.to_owned()),
        (
            Responses,
            "event: response.incomplete\ndata: {\"type\":\"response.incomplete\",\"response\":{\"usage\":{}}}\n\n".to_owned(),
            String::new(),
            "event: response.incomplete\ndata: {\"type\":\"response.incomplete\",\"response\":{\"usage\":{}}}\n\n".to_owned(),
        ),
        (
            Responses,
            "data: {\"type\":\"response.completed\",\"response\":{\"usage\":null}}\n\n".to_owned(),
            String::new(),
            "data: {\"type\":\"response.completed\",\"response\":{\"usage\":null}}\n\n".to_owned(),
        ),
    ] {
        let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
        for pieces in [&[stream.as_bytes()][..], &bytes] {
            let (before, after) = run(protocol, Some(&cost()), pieces);
            assert_eq!(before, at_once, "{stream}");
            assert_eq!(after, all, "{stream}");
        }
    }
}

#[test]
fn whole_pieces_pass_without_a_copy() {
    let piece = Bytes::from([CHUNK, CHUNK, CHUNK].concat());
    let mut carriers = Carriers::new(Chat);
    let mut out = Vec::new();
    carriers.feed(piece.clone(), &mut out);
    assert_eq!((out.len(), &out[0]), (1, &piece));
    assert_eq!(out[0].as_ptr(), piece.as_ptr());
}

#[test]
fn after_a_release_everything_passes() {
    let mut carriers = Carriers::new(Chat);
    let mut out = Vec::new();
    carriers.feed(Bytes::from(format!("{USAGE}data: [DONE]")), &mut out);
    assert!(out.is_empty() && carriers.is_holding() && carriers.is_between_events());
    carriers.release(Some(&cost()), &mut out);
    assert_eq!(text(&out), format!("{PRICED}data: [DONE]"));
    assert!(!carriers.is_between_events(), "half an event has left");
    carriers.feed(Bytes::from_static(b"\n"), &mut out);
    assert!(!carriers.is_between_events());
    carriers.feed(Bytes::from_static(b"\n"), &mut out);
    assert!(carriers.is_between_events());
    carriers.feed(Bytes::from_static(b"data: [DONE]\n"), &mut out);
    assert!(!carriers.is_between_events());
    carriers.feed(Bytes::from_static(b"\n"), &mut out);
    carriers.release(None, &mut out);
    assert_eq!(text(&out), format!("{PRICED}{DONE}{DONE}"));
}

#[test]
fn an_overlong_event_passes_unread() {
    let long = format!("event: message_stop\ndata: {}\n\n", "y".repeat(3 * MAX_EVENT_BYTES));
    let carrier = "data: {\"type\":\"message_delta\",\"usage\":{}}\n\n";
    for step in [1 << 19, MAX_EVENT_BYTES + 500] {
        let stream = [carrier, &long, DONE].concat();
        let mut carriers = Carriers::new(Messages);
        let mut out = Vec::new();
        for piece in stream.as_bytes().chunks(step) {
            carriers.feed(Bytes::copy_from_slice(piece), &mut out);
        }
        assert_eq!(text(&out), [carrier, &long].concat(), "in pieces of {step}");
        carriers.release(Some(&cost()), &mut out);
        assert!(text(&out).ends_with(DONE));
    }
}

#[test]
fn what_follows_the_end_is_bounded() {
    let mut carriers = Carriers::new(Chat);
    let mut out = Vec::new();
    carriers.feed(Bytes::from_static(DONE.as_bytes()), &mut out);
    for _ in 0..100 {
        carriers.feed(Bytes::from(format!("data: {}\n\n", "x".repeat(100_000))), &mut out);
        carriers.feed(Bytes::from(USAGE), &mut out);
    }
    assert!(out.is_empty(), "the end does not leave by itself");
    carriers.release(None, &mut out);
    assert!(out.concat().len() <= DONE.len() + MAX_BEHIND_END);
}

proptest::proptest! {
    #[test]
    fn without_a_cost_nothing_changes(
        protocol in proptest::sample::select(vec![Chat, Messages, Responses]),
        words in proptest::collection::vec(
            proptest::sample::select(vec![
                "data: ", "data:", "{\"choices\":[]", ",\"usage\":{\"prompt_tokens\":1}}", "\n", "\r", "\r\n", "\n\n",
                "[DONE]", ": ", "\\", "\"", "}", "\u{1f600}", "\0", "event: x", "event: message_stop\n", CHUNK, USAGE,
                DONE, "{\"type\":\"message_delta\",\"usage\":{}}", "{\"type\":\"message_stop\"}",
                "{\"type\":\"response.completed\",\"response\":{\"usage\":{}}}", "\r\n\r\n",
            ]),
            0..40,
        ),
        cuts in proptest::collection::vec(0usize..30, 0..40),
    ) {
        let bytes = words.concat().into_bytes();
        let mut carriers = Carriers::new(protocol);
        let mut out = Vec::new();
        let mut rest = bytes.as_slice();
        for cut in cuts {
            let (piece, tail) = rest.split_at(cut.min(rest.len()));
            carriers.feed(Bytes::copy_from_slice(piece), &mut out);
            rest = tail;
        }
        carriers.feed(Bytes::copy_from_slice(rest), &mut out);
        let before = out.concat();
        carriers.release(None, &mut out);
        proptest::prop_assert_eq!(out.concat(), bytes.as_slice());

        // Where the bytes were cut does not decide what waits.
        let mut whole = Carriers::new(protocol);
        let mut out = Vec::new();
        whole.feed(Bytes::from(bytes), &mut out);
        let lf = |bytes: Vec<u8>| bytes.strip_suffix(b"\n").map(<[u8]>::to_vec).unwrap_or(bytes);
        proptest::prop_assert_eq!(lf(out.concat()), lf(before));
    }
}

fn documents() -> Vec<Vec<u8>> {
    [
        r#"{"id":"c","usage":{"prompt_tokens":1.0e0,"x":{"usage":{}},"cost_usd":"1"}, "z":[ ]}"#,
        r#"{"response":{"id":"r","tools":[{"usage":{}}],"usage":{ "input_tokens" : 5 }},"type":"é\u00e9"}"#,
        r#"{"usage":1,"usage":{"a":null},"response":{"usage":{}},"response":{"usage":{"b":"\""}}}"#,
    ]
    .map(|document| document.as_bytes().to_vec())
    .to_vec()
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 4096, failure_persistence: None, ..Default::default() })]

    #[test]
    fn what_is_plainly_written_is_found_where_serde_finds_it(document in crate::protocol::scan::damaged(documents())) {
        let text = std::str::from_utf8(&document).unwrap_or_default();
        for path in [&["usage"][..], &["response", "usage"]] {
            if let Some(plain) = plainly_at(text, path) {
                proptest::prop_assert_eq!(Some(plain), serde_at(text.as_bytes(), path));
            }
        }
    }
}

#[test]
fn what_providers_write_is_read_in_one_walk() {
    for (document, path) in
        documents().iter().zip([&["usage"][..], &["response", "usage"], &["usage"]])
    {
        let text = std::str::from_utf8(document).unwrap();
        assert_eq!(plainly_at(text, path), serde_at(document, path));
        assert!(plainly_at(text, path).is_some(), "{text}");
    }
}
