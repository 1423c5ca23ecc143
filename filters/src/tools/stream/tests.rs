//! The streams of rounds as one, however they are cut.

use serde_json::json;

use super::super::Source;
use super::*;
use Protocol::{Chat, Messages, Responses};
use messages::{SEARCHING, THINKING, message_round, text_block};
use responses::response_rounds;

mod messages;
mod responses;

const SHOWN: Options = Options { shows_usage: true, marks_search: false, chains: false };
const PLAIN: Options = Options { shows_usage: false, ..SHOWN };
const MARKED: Options = Options { marks_search: true, ..SHOWN };

/// What a caller sees of rounds, and how each of them ended.
struct Seen {
    text: String,
    ends: Vec<RoundEnd>,
    tally: Tally,
}

fn results(calls: &[ToolCall]) -> Vec<ToolResult> {
    let source = Source { title: "T".into(), url: "https://t.example".into() };
    let result = |call: &ToolCall| ToolResult {
        id: call.id.clone(),
        text: "found".into(),
        sources: vec![source.clone()],
    };
    calls.iter().map(result).collect()
}

/// Feeds the rounds' streams, each in pieces as `cut` says.
fn run_in<'s>(
    protocol: Protocol,
    options: Options,
    rounds: &[&'s str],
    cut: impl Fn(usize, &'s [u8]) -> Vec<&'s [u8]>,
) -> Seen {
    let owned = Owned::from_iter(["web_search".to_owned(), "run".to_owned()]);
    let mut stream = Loop::new(protocol, owned, options);
    let (mut out, mut ends) = (Vec::new(), Vec::new());
    for (at, round) in rounds.iter().enumerate() {
        for piece in cut(at, round.as_bytes()) {
            stream.feed(Bytes::copy_from_slice(piece), &mut out);
        }
        let end = stream.round_end(&mut out);
        stream.results(&results(end.step.calls()), &mut out);
        ends.push(end);
    }
    if ends.last().is_some_and(|end| end.ending == Ending::Complete) {
        stream.finish(&mut out);
    }
    let text = String::from_utf8(out.concat()).unwrap();
    Seen { text, ends, tally: stream.tally().clone() }
}

/// The same, whole, byte by byte, and cut at every place.
fn run(protocol: Protocol, options: Options, rounds: &[&str]) -> Seen {
    let whole = run_in(protocol, options, rounds, |_, round| vec![round]);
    let bytes = run_in(protocol, options, rounds, |_, round| round.chunks(1).collect());
    assert_eq!(bytes.text, whole.text, "byte by byte");
    assert_eq!(bytes.ends, whole.ends, "byte by byte");
    for (round, text) in rounds.iter().enumerate() {
        for place in 0..=text.len() {
            let cut = run_in(protocol, options, rounds, |at, text| {
                if at == round { vec![&text[..place], &text[place..]] } else { vec![text] }
            });
            assert_eq!(cut.text, whole.text, "round {round} cut at {place}");
            assert_eq!(cut.ends, whole.ends, "round {round} cut at {place}");
        }
    }
    whole
}

fn events(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("data: {line}\n\n")).collect()
}

/// Events that are named by their type.
fn named(lines: &[&str]) -> String {
    let event = |line: &&str| {
        let data: Value = serde_json::from_str(line).unwrap();
        format!("event: {}\ndata: {line}\n\n", data["type"].as_str().unwrap())
    };
    lines.iter().map(event).collect()
}

fn chunk(id: &str, delta: &str, reason: &str) -> String {
    format!(
        r#"{{"id":"{id}","object":"chat.completion.chunk","created":{},"model":"{id}-m","choices":[{{"index":0,"delta":{delta},"finish_reason":{reason}}}]}}"#,
        id.len()
    )
}

fn usage(id: &str, prompt: u64, completion: u64, cached: u64) -> String {
    format!(
        r#"{{"id":"{id}","model":"{id}-m","created":{},"choices":[],"usage":{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{},"prompt_tokens_details":{{"cached_tokens":{cached}}}}}}}"#,
        id.len(),
        prompt + completion
    )
}

fn chat_round_with_a_call() -> String {
    let call = |fields: &str| format!(r#"{{"tool_calls":[{{"index":0,{fields}}}]}}"#);
    format!(
        ": keepalive\n\n{}",
        events(&[
            &chunk("a", r#"{"role":"assistant","content":""}"#, "null"),
            &chunk("a", r#"{"reasoning":"h\u00e9"}"#, "null"),
            &chunk("a", r#"{"content":"Let "}"#, "null"),
            &chunk("a", r#"{"content":"me"}"#, "null"),
            &chunk(
                "a",
                &call(
                    r#""id":"t","type":"function","function":{"name":"web_search","arguments":""}"#
                ),
                "null"
            ),
            &chunk("a", &call(r#""function":{"arguments":"{\"query\":"}"#), "null"),
            &chunk("a", &call(r#""function":{"arguments":"\"cats\"}"}"#), "null"),
            &chunk("a", "{}", "\"tool_calls\""),
            &usage("a", 10, 5, 4),
            "[DONE]",
        ])
    )
}

#[test]
fn a_chat_of_two_rounds_is_one_answer() {
    let second = events(&[
        &chunk("bb", r#"{"role":"assistant","content":""}"#, "null"),
        &chunk("bb", r#"{"role":"assistant","content":"Cats."}"#, "null"),
        &chunk("bb", "{}", "\"stop\""),
        &usage("bb", 30, 7, 8),
        "[DONE]",
    ]);
    let first = chat_round_with_a_call();
    let seen = run(Chat, SHOWN, &[&first, &second]);
    let want = format!(
        ": keepalive\n\n{}",
        events(&[
            &chunk("a", r#"{"role":"assistant","content":""}"#, "null"),
            &chunk("a", r#"{"reasoning":"h\u00e9"}"#, "null"),
            &chunk("a", r#"{"content":"Let "}"#, "null"),
            &chunk("a", r#"{"content":"me"}"#, "null"),
            &chunk("a", r#"{"content":"Cats."}"#, "null"),
            &chunk("a", "{}", "\"stop\""),
            &usage("a", 40, 12, 12),
            "[DONE]",
        ])
    );
    assert_eq!(seen.text, want);
    let Step::Run(calls) = &seen.ends[0].step else { panic!("{:?}", seen.ends[0]) };
    assert_eq!((&*calls[0].id, &calls[0].arguments["query"]), ("t", &json!("cats")));
    assert_eq!(
        seen.ends[0].turn.items(),
        r#"{"role":"assistant","reasoning":"h\u00e9","content":"Let me","tool_calls":[{"id":"t","type":"function","function":{"name":"web_search","arguments":"{\"query\":\"cats\"}"}}]}"#
    );
    assert_eq!(seen.ends[1].step, Step::Done);
    assert_eq!(seen.tally.sum().unwrap()["total_tokens"], 52);
    let hidden = run(Chat, PLAIN, &[&first, &second]).text;
    assert!(!hidden.contains("usage") && hidden.ends_with("data: [DONE]\n\n"), "{hidden}");
}

#[test]
fn a_chat_without_the_gateways_calls_passes_as_it_came() {
    let call = r#"{"tool_calls":[{"index":0,"id":"t","type":"function","function":{"name":"f","arguments":"{}"}}]}"#;
    for text in [
        events(&[
            &chunk("a", r#"{"role":"assistant","content":null}"#, "null"),
            &chunk("a", r#"{ "content" : "a" }"#, "null"),
            &chunk("a", call, "null"),
            &chunk("a", "{}", "\"tool_calls\""),
            &usage("a", 1, 1, 0),
            "[DONE]",
        ]),
        events(&[
            &chunk("a", r#"{"content":"a"}"#, "null"),
            &chunk("a", "{}", "\"stop\""),
            "[DONE]",
        ])
        .replace('\n', "\r\n"),
    ] {
        let seen = run(Chat, SHOWN, &[&text]);
        assert_eq!(seen.text, text);
        assert_eq!((seen.ends[0].ending, &seen.ends[0].step), (Ending::Complete, &Step::Done));
    }
}

#[test]
fn a_chat_with_both_kinds_of_calls_shows_the_callers_alone() {
    let calls = r#"{"role":"assistant","tool_calls":[{"index":0,"id":"a","function":{"name":"run","arguments":"{}"}},{"index":1,"id":"b","function":{"name":"f","arguments":"{\"x\":"}}]}"#;
    let more = r#"{"tool_calls":[{"index":1,"function":{"arguments":"1}"}}]}"#;
    let round =
        events(&[&chunk("a", calls, "null"), &chunk("a", more, "\"tool_calls\""), "[DONE]"]);
    let seen = run(Chat, SHOWN, &[&round]);
    let first = r#"{"role":"assistant","tool_calls":[{"index":0,"id":"b","function":{"name":"f","arguments":"{\"x\":"}}]}"#;
    let more = r#"{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}"#;
    let want = events(&[
        &chunk("a", first, "null"),
        &chunk("a", more, "null"),
        &chunk("a", "{}", "\"tool_calls\""),
        "[DONE]",
    ]);
    assert_eq!(seen.text, want);
    assert!(matches!(&seen.ends[0].step, Step::Mixed(calls) if calls[0].name == "run"));
}

#[test]
fn a_chat_that_is_cut_off_runs_nothing() {
    let call = r#"{"role":"assistant","tool_calls":[{"index":0,"id":"a","function":{"name":"run","arguments":"{"}}]}"#;
    let round = events(&[&chunk("a", call, "null"), &chunk("a", "{}", "\"length\"")]);
    let seen = run(Chat, PLAIN, &[&round]);
    assert_eq!((seen.ends[0].ending, &seen.ends[0].step), (Ending::Complete, &Step::Done));
    let want = events(&[
        &chunk("a", r#"{"role":"assistant"}"#, "null"),
        &chunk("a", "{}", "\"length\""),
        "[DONE]",
    ]);
    assert_eq!(seen.text, want);
    let broken = events(&[&chunk("a", call, "null")]);
    let seen = run(Chat, PLAIN, &[&broken]);
    assert_eq!((seen.ends[0].ending, &seen.ends[0].step), (Ending::Broken, &Step::Done));
}

#[test]
fn usage_is_found_wherever_a_provider_has_it() {
    let with = |usage: &str| chunk("a", "{}", "\"stop\"").replace("}]}", &format!("}}],{usage}}}"));
    let tool = chat_round_with_a_call();
    for (second, path) in [
        (with(r#""usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}"#), "/usage"),
        (
            with(
                r#""x_groq":{"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#,
            ),
            "/x_groq/usage",
        ),
    ] {
        let seen = run(Chat, SHOWN, &[&tool, &events(&[&second, "[DONE]"])]);
        let last = seen.text.trim_end().strip_suffix("data: [DONE]").unwrap().trim_end();
        let last: Value = serde_json::from_str(last.rsplit("data: ").next().unwrap()).unwrap();
        assert_eq!(last.pointer(path).unwrap()["total_tokens"], 18, "{}", seen.text);
        assert_eq!(seen.text.matches("total_tokens").count(), 1);
    }
    let silent = events(&[&chunk("bb", "{}", "\"stop\""), "[DONE]"]);
    let seen = run(Chat, SHOWN, &[&tool, &silent]);
    assert!(seen.text.contains(r#""choices":[],"usage":{"prompt_tokens":10,"#), "{}", seen.text);
}

#[test]
fn an_error_passes_and_ends() {
    let chat = events(&[
        &chunk("a", r#"{"content":"a"}"#, "null"),
        r#"{"error":{"message":"no"}}"#,
        "[DONE]",
    ]);
    let text = text_block(0, "a");
    let text: Vec<&str> = text.iter().map(String::as_str).collect();
    let messages =
        named(&text) + &named(&[r#"{"type":"error","error":{"type":"overloaded_error"}}"#]);
    let failed = r#"{"type":"response.failed","response":{"id":"r","error":{"code":"x"}},"sequence_number":0}"#;
    for (protocol, round) in [
        (Chat, chat),
        (Messages, messages),
        (Responses, named(&[failed])),
        (Responses, named(&[r#"{"type":"error","message":"no","sequence_number":0}"#])),
    ] {
        let more = format!("{round}data: {{\"id\":\"later\"}}\n\n");
        let seen = run(protocol, SHOWN, &[&more]);
        assert_eq!((seen.text, seen.ends[0].ending), (round, Ending::Failed));
    }
}

#[test]
fn what_is_too_long_is_not_followed() {
    let mut stream = Loop::new(Chat, Owned::default(), PLAIN);
    let mut out = Vec::new();
    stream.feed(Bytes::from_static(b"data: {\"choices\":[{\"delta\":{\"content\":\""), &mut out);
    for _ in 0..9 {
        stream.feed(Bytes::from(vec![b'x'; 1 << 20]), &mut out);
    }
    stream.feed(
        Bytes::from_static(b"\"}}]}\n\ndata: {\"id\":\"later\",\"choices\":[]}\n\n"),
        &mut out,
    );
    assert_eq!((stream.round_end(&mut out).ending, out.concat()), (Ending::Broken, Vec::new()));
    let mut stream = Loop::new(Chat, Owned::default(), PLAIN);
    let piece = Bytes::from(events(&[&chunk(
        "a",
        &format!(r#"{{"content":"{}"}}"#, "x".repeat(1 << 20)),
        "null",
    )]));
    for _ in 0..40 {
        stream.feed(piece.clone(), &mut out);
    }
    assert_eq!(
        stream.round_end(&mut out).ending,
        Ending::Broken,
        "a turn that nobody could repeat"
    );
    assert!(out.concat().len() < 24 << 20);
}

#[test]
fn that_calls_are_wanted_holds_to_the_end() {
    let call = r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}]}"#;
    let lines = [
        chunk("a", call, "null"),
        chunk("a", "{}", "\"tool_calls\""),
        chunk("a", "{}", "\"stop\""),
    ];
    let seen = run(Chat, PLAIN, &[&events(&[&lines[0], &lines[1], &lines[2], "[DONE]"])]);
    assert_eq!(seen.text, events(&[&lines[0], &lines[1], "[DONE]"]));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]

    #[test]
    fn damaged_rounds_are_the_same_however_they_are_cut(
        at in 0_usize..4,
        damage in proptest::collection::vec((0.0_f64..1.0, 0_usize..12, "[\\x00-\\x7f]{0,3}"), 0..5),
        places in proptest::collection::vec(0.0_f64..1.0, 0..4),
        crlf in proptest::bool::ANY,
        flags in 0_u8..8,
    ) {
        let [first, _] = response_rounds();
        let blocks = [&THINKING[..], &SEARCHING[..]].concat();
        let (protocol, text) = match at {
            0 => (Chat, chat_round_with_a_call()),
            1 => (Messages, message_round("m", r#"{"input_tokens":7}"#, &blocks, "tool_use", 4)),
            2 => (Responses, first),
            _ => (Chat, first),
        };
        let mut bytes = if crlf { text.replace('\n', "\r\n") } else { text }.into_bytes();
        let place = |share: f64, len: usize| {
            // A share of the length is an index below it.
            format!("{:.0}", (share * f64::from(u32::try_from(len).unwrap())).floor()).parse::<usize>().unwrap()
        };
        for (share, gone, with) in damage {
            let start = place(share, bytes.len());
            let end = (start + gone).min(bytes.len());
            bytes.splice(start..end, with.bytes());
        }
        let has = |flag: u8| flags & flag != 0;
        let options = Options { shows_usage: has(1), marks_search: has(2), chains: has(4) };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let whole = run_in(protocol, options, &[&text], |_, text| vec![text]);
        let mut places: Vec<usize> = places.into_iter().map(|share| place(share, text.len())).collect();
        places.sort_unstable();
        let cut = run_in(protocol, options, &[&text], |_, text| {
            let mut from = 0;
            let mut pieces: Vec<&[u8]> = Vec::new();
            for place in &places {
                pieces.push(&text[from..*place]);
                from = *place;
            }
            pieces.push(&text[from..]);
            pieces
        });
        proptest::prop_assert_eq!(&cut.text, &whole.text);
        proptest::prop_assert_eq!(&cut.ends, &whole.ends);
        let turn = format!("[{}]", whole.ends[0].turn.items());
        if whole.ends[0].step != Step::Done {
            proptest::prop_assert!(serde_json::from_str::<Value>(&turn).is_ok(), "{}", turn);
        }
    }
}
