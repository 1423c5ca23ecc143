//! One realistic stream of each format, in any pieces.

use super::Protocol::{Chat, Messages, Responses};
use super::*;

const CHAT: &str = concat!(
    ": keepalive\n\n",
    "data: {\"id\":\"c\",\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":null}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"h\u{e9}\\n\\u00e9 \\\"x\\\"\"}}]}\r\n\r\n",
    "data: {\"choices\": [{\"delta\": {\"tool_calls\": [{\"function\": {\"arguments\": \"{}\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":4,\"total_tokens\":13,\"prompt_tokens_details\":{\"cached_tokens\":3}}}\r\n\r\n",
    "data: [DONE]\n\n"
);

const MESSAGES: &str = concat!(
    "event: message_start\n",
    "data: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[],\"model\":\"claude-x\",\"stop_reason\":null,\"usage\":{\"input_tokens\":7,\"cache_creation_input_tokens\":2,\"cache_read_input_tokens\":3,\"output_tokens\":1}}}\n\n",
    "event: content_block_start\n",
    "data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}\n\n",
    "event: ping\ndata: {\"type\": \"ping\"}\n\n",
    "event: content_block_delta\n",
    "data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"hm\u{e9}\"}}\n\n",
    "event: content_block_delta\n",
    "data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"EqQBCg\"}}\n\n",
    "event: content_block_delta\r\n",
    "data: {\"delta\":{\"text\":\"message_stop\",\"type\":\"text_delta\"},\"index\":1,\"type\":\"content_block_delta\"}\r\n\r\n",
    "event: content_block_delta\n",
    "data: {\"type\":\"content_block_delta\",\"index\":2,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"usage\\\":\"}}\n\n",
    "event: message_delta\n",
    "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\",\"stop_sequence\":null},\"usage\":{\"input_tokens\":0,\"output_tokens\":40}}\n\n",
    "event: message_stop\n",
    "data: {\"type\":\"message_stop\"}\n\n",
);

const RESPONSES: &str = concat!(
    "event: response.created\n",
    "data: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"resp_1\",\"object\":\"response\",\"status\":\"in_progress\",\"error\":null,\"model\":\"gpt-x\",\"output\":[],\"tools\":[{\"type\":\"function\",\"parameters\":{\"properties\":{\"usage\":{\"input_tokens\":99}}}}],\"usage\":null}}\n\n",
    "event: response.output_item.added\n",
    "data: {\"type\":\"response.output_item.added\",\"sequence_number\":1,\"output_index\":0,\"item\":{\"id\":\"msg_1\",\"type\":\"message\",\"content\":[]}}\n\n",
    "event: response.output_text.delta\n",
    "data: {\"type\":\"response.output_text.delta\",\"sequence_number\":2,\"item_id\":\"msg_1\",\"output_index\":0,\"content_index\":0,\"delta\":\"Hi \\\"error\\\" \u{1f600}\",\"logprobs\":[]}\n\n",
    "event: response.function_call_arguments.delta\n",
    "data: {\"type\":\"response.function_call_arguments.delta\",\"sequence_number\":3,\"delta\":\"{}\"}\n\n",
    "event: response.audio.delta\n",
    "data: {\"type\":\"response.audio.delta\",\"delta\":\"UklGRg==\"}\n\n",
    "event: response.output_text.done\n",
    "data: {\"type\":\"response.output_text.done\",\"text\":\"response.completed\"}\n\n",
    "event: response.completed\r\n",
    "data: {\"response\":{\"id\":\"resp_1\",\"status\":\"completed\",\"error\":null,\"model\":\"gpt-x\",\"usage\":{\"input_tokens\":5,\"input_tokens_details\":{\"cached_tokens\":1},\"output_tokens\":2,\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":7}},\"sequence_number\":4,\"type\":\"response.completed\"}\r\n\r\n",
);

fn run(protocol: Protocol, hide: bool, pieces: &[&[u8]]) -> (String, Stream) {
    let mut stream = Stream::new(protocol, hide);
    let mut out = Vec::new();
    for piece in pieces {
        stream.feed(Bytes::copy_from_slice(piece), &mut out);
        assert!(!out.iter().any(Bytes::is_empty), "an empty piece would be a write");
    }
    stream.finish(&mut out);
    (String::from_utf8(out.concat()).unwrap(), stream)
}

/// A chat stream without the chunk that holds nothing but usage.
fn without_usage(text: &str) -> String {
    let start = text.find("data: {\"choices\":[],").unwrap();
    let end = text.find("data: [DONE]").unwrap();
    format!("{}{}", &text[..start], &text[end..])
}

/// Checks one way in which a stream arrives.
fn check(protocol: Protocol, text: &str, pieces: &[&[u8]], how: &str) {
    for hide in [false, true] {
        let (passed, stream) = run(protocol, hide, pieces);
        let want = if hide && protocol == Chat { without_usage(text) } else { text.to_owned() };
        assert_eq!(passed, want, "{how}, hiding: {hide}");
        assert!(stream.is_done() && !stream.has_failed(), "{how}");
        let usage = stream.usage().unwrap();
        let counts = [
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.total_tokens,
            usage.cache_read_tokens,
            usage.cache_write_tokens,
            stream.seen.output_chars,
        ];
        let want = match protocol {
            Chat => [9, 4, 13, 3, 0, 8 + 2],
            Messages => [7, 40, 47, 3, 2, 3 + 12 + 9],
            Responses => [5, 2, 7, 1, 0, 12 + 2],
        };
        assert_eq!(counts, want, "{how}");
        assert_eq!(usage.counting, counting(protocol));
    }
}

#[test]
fn a_stream_split_anywhere_gives_the_same_bytes_and_counts() {
    for (protocol, text) in [(Chat, CHAT), (Messages, MESSAGES), (Responses, RESPONSES)] {
        for at in 0..=text.len() {
            let (head, tail) = text.as_bytes().split_at(at);
            check(protocol, text, &[head, tail], &format!("{protocol:?} split at {at}"));
        }
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        check(protocol, text, &bytes, "in single bytes");
        check(protocol, text.trim_end(), &[text.trim_end().as_bytes()], "unfinished");
    }
}

#[test]
fn without_hiding_nothing_is_held_back() {
    for protocol in [Chat, Messages, Responses] {
        let mut stream = Stream::new(protocol, false);
        let mut out = Vec::new();
        stream.feed(Bytes::from_static(b"data: {\"ch"), &mut out);
        assert_eq!(out.concat(), b"data: {\"ch");
        assert!(!stream.is_between_events());
        stream.feed(Bytes::from_static(b"\"}\n\n"), &mut out);
        assert!(stream.is_between_events());
    }
}

#[test]
fn the_end_is_noticed_before_its_event_is_complete() {
    let completed =
        "data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":5}}}";
    for (protocol, before, last) in [
        (Chat, "data: [DO", "NE]"),
        (Messages, "event: message_sto", "p\n"),
        (Messages, "data: {\"type\": \"message_sto", "p\""),
        (Messages, "data: {\"a\":1,\"type\": \"message_stop\"}", "\n"),
        (Responses, "event: response.completed\n", "data: {\"response\":{}}\n"),
        (Responses, completed, "\n"),
        (Responses, "data: {\"type\":\"response.incomplete\",\"response\":{}}", "\r"),
        (Responses, "data: [DONE", "]"),
    ] {
        let mut stream = Stream::new(protocol, false);
        let mut out = Vec::new();
        stream.feed(Bytes::from_static(b": hello\n\n"), &mut out);
        stream.feed(Bytes::copy_from_slice(before.as_bytes()), &mut out);
        // A type that is complete at the end of a piece is noticed there.
        assert!(!stream.is_done() || before.ends_with('}') && protocol == Messages, "{before}");
        stream.feed(Bytes::copy_from_slice(last.as_bytes()), &mut out);
        assert!(stream.is_done(), "{before}{last}");
        assert_eq!(stream.usage().is_some(), before == completed, "never before its usage is read");
    }
    // A name that is not complete may become another one.
    let mut stream = Stream::new(Messages, false);
    stream.feed(Bytes::from_static(b"event: message_stop"), &mut Vec::new());
    assert!(!stream.is_done());
    stream.feed(Bytes::from_static(b"_of_another_kind\n"), &mut Vec::new());
    assert!(!stream.is_done());
}

#[test]
fn usage_beside_content_is_read_and_passes() {
    let text = "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\n";
    let (out, stream) = run(Chat, true, &[text.as_bytes()]);
    assert_eq!(out, text);
    assert_eq!(stream.usage().unwrap().total_tokens, 3);
}

#[test]
fn usage_is_read_in_the_places_of_groq_and_in_the_words_of_deepseek() {
    for (text, counted) in [
        (
            "data: {\"usage\":null,\"choices\":[{}],\"x_groq\":{\"id\":\"r\"}}\n\n\
             data: {\"usage\":null,\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"x_groq\":{\"id\":\"r\",\
             \"usage\":{\"queue_time\":0.1,\"prompt_tokens\":9,\"completion_tokens\":4,\"total_tokens\":13}}}\n\n",
            (9, 4, 0),
        ),
        (
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":4,\
             \"prompt_cache_hit_tokens\":8,\"prompt_cache_miss_tokens\":1}}\n\n",
            (9, 4, 8),
        ),
    ] {
        let (passed, stream) = run(Protocol::Chat, false, &[text.as_bytes()]);
        assert_eq!(passed, text);
        let usage = stream.usage().unwrap();
        let got = (usage.prompt_tokens, usage.completion_tokens, usage.cache_read_tokens);
        assert_eq!(got, counted, "{text}");
    }
}

#[test]
fn an_overlong_event_passes_unread() {
    for (protocol, end) in [
        (Chat, "data: [DONE]\n\n"),
        (Messages, "data: {\"type\":\"message_stop\"}\n\n"),
        (Responses, "data: {\"type\":\"response.completed\"}\n\n"),
    ] {
        let long = format!("data: {{\"x\":\"{}\"}}\n\n", "y".repeat(MAX_EVENT_BYTES + 10));
        let text = format!("{long}{end}");
        for hide in [false, true] {
            let (head, tail) = text.as_bytes().split_at(MAX_EVENT_BYTES + 5);
            let (out, stream) = run(protocol, hide, &[head, tail]);
            assert_eq!(out, text, "hiding: {hide}");
            assert!(stream.is_done());
        }
    }
}

#[test]
fn an_error_inside_the_stream_is_noticed() {
    for (protocol, event, want) in [
        (Chat, "data: {\"error\":{\"message\":\"x\"}}\n\n", true),
        (Chat, "data: {\"choices\":[],\"error\":null}\n\n", false),
        (
            Messages,
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n",
            true,
        ),
        (Messages, "event: error\ndata: {}\n\n", true),
        (
            Messages,
            "data: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"error\"}}\n\n",
            false,
        ),
        (
            Responses,
            "event: error\ndata: {\"type\":\"error\",\"code\":\"x\",\"message\":\"y\"}\n\n",
            true,
        ),
        (Responses, "event: error\ndata: {\"error\":{\"message\":\"y\"}}\n\n", true),
        (Responses, "data: {\"error\":{\"message\":\"y\"}}\n\n", true),
        (
            Responses,
            "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{},\"usage\":{\"input_tokens\":4}}}\n\n",
            true,
        ),
        (
            Responses,
            "data: {\"type\":\"response.incomplete\",\"response\":{\"error\":null}}\n\n",
            false,
        ),
    ] {
        let (_, stream) = run(protocol, false, &[event.as_bytes()]);
        assert_eq!(stream.has_failed(), want, "{event}");
        let is_failure_with_usage = event.contains("input_tokens");
        assert_eq!(stream.usage().is_some(), is_failure_with_usage);
    }
}

proptest::proptest! {
    #[test]
    fn whatever_a_provider_sends_passes_as_it_came(
        protocol in proptest::sample::select(vec![Chat, Messages, Responses]),
        words in proptest::collection::vec(
            proptest::sample::select(vec![
                "data: ", "data:", "{\"choices\":[]", ",\"usage\":{\"prompt_tokens\":1}}", "\n", "\r", "\r\n", "\n\n",
                "\r\n\r\n", "[DONE]", ": ", "\"delta\":{\"content\":\"", "\\u00e9", "\\", "\"", "}", "\u{1f600}", "\0",
                "event: x", "event: message_stop", "{\"type\":\"message_delta\"", "{\"type\":\"response.completed\"",
                "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\r\n\r\n",
            ]),
            0..40,
        ),
        cuts in proptest::collection::vec(1usize..9, 0..40),
    ) {
        let bytes = words.concat().into_bytes();
        let mut pieces: Vec<&[u8]> = Vec::new();
        let mut rest = bytes.as_slice();
        for cut in cuts {
            let (piece, tail) = rest.split_at(cut.min(rest.len()));
            if !piece.is_empty() {
                pieces.push(piece);
            }
            rest = tail;
        }
        if !rest.is_empty() {
            pieces.push(rest);
        }
        let (passed, cut) = run(protocol, false, &pieces);
        proptest::prop_assert_eq!(passed.as_bytes(), bytes.as_slice());
        let whole: &[&[u8]] = if bytes.is_empty() { &[] } else { &[&bytes] };
        let (_, one) = run(protocol, false, whole);
        proptest::prop_assert_eq!(cut.usage(), one.usage());
        proptest::prop_assert_eq!(cut.seen.output_chars, one.seen.output_chars);
        proptest::prop_assert_eq!(cut.has_failed(), one.has_failed());
        // Hiding takes out whole usage chunks and nothing else, however the bytes were cut.
        let (hidden, _) = run(protocol, true, &pieces);
        let (at_once, _) = run(protocol, true, whole);
        proptest::prop_assert_eq!(hidden, at_once);
    }
}

#[test]
fn replies_are_told_from_other_json() {
    for protocol in [Chat, Messages, Responses] {
        for none in
            ["{}", "not json", "[]", r#"{"type":"error","error":{"message":"x"},"request_id":"r"}"#]
        {
            assert_eq!(read_reply(protocol, none.as_bytes()), Reply::NotACompletion, "{none}");
        }
    }
    let none = Reply::Completion(None);
    assert_eq!(read_reply(Chat, b"{\"choices\":[],\"usage\":null}"), none);
    assert_eq!(read_reply(Messages, b"{\"content\":[]}"), none);
    assert_eq!(read_reply(Responses, b"{\"output\":[],\"usage\":7}"), none);
    assert_eq!(read_reply(Responses, b"{\"choices\":[]}"), Reply::NotACompletion);
}

#[test]
fn replies_of_every_format_have_usage() {
    let usage = |protocol, body: &str| match read_reply(protocol, body.as_bytes()) {
        Reply::Completion(Some(usage)) => {
            assert_eq!(usage.counting, counting(protocol));
            [
                usage.prompt_tokens,
                usage.completion_tokens,
                usage.total_tokens,
                usage.cache_read_tokens,
            ]
        }
        other => panic!("{other:?}"),
    };
    let chat = r#"{"id":"c","model":"m","usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":6}}"#;
    assert_eq!(usage(Chat, chat), [3, 2, 6, 0]);
    let messages = r#"{"id":"msg_1","type":"message","usage":{"input_tokens":7,"output_tokens":4,"cache_read_input_tokens":3,"service_tier":"standard"}}"#;
    assert_eq!(usage(Messages, messages), [7, 4, 11, 3]);
    let responses = r#"{"id":"resp_1","output":[],"usage":{"input_tokens":5,"input_tokens_details":{"cached_tokens":1},"output_tokens":2,"total_tokens":7}}"#;
    assert_eq!(usage(Responses, responses), [5, 2, 7, 1]);
}

#[test]
fn a_hidden_error_is_seen_and_does_not_leave_whatever_the_pieces() {
    let error = r#"{"type":"error","error":{"message":"sk-secret of org-1"}}"#;
    for (protocol, before, event) in [
        (
            Protocol::Chat,
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
            format!("data: {error}\n\ndata: [DONE]\n\n"),
        ),
        (
            Protocol::Messages,
            "event: ping\ndata: {\"type\":\"ping\"}\n\n",
            format!("event: error\ndata: {error}\n\n"),
        ),
        (
            Protocol::Responses,
            "event: response.created\ndata: {}\n\n",
            format!("event: error\ndata: {error}\n\n"),
        ),
    ] {
        let text = format!("{before}{event}");
        for at in 0..=text.len() {
            let mut stream = Stream::new(protocol, false).hiding_errors();
            let mut out = Vec::new();
            for piece in [&text[..at], &text[at..]] {
                stream.feed(Bytes::copy_from_slice(piece.as_bytes()), &mut out);
            }
            stream.finish(&mut out);
            assert_eq!(String::from_utf8(out.concat()).unwrap(), before, "{protocol:?} {at}");
            assert!(stream.has_hidden_error() && stream.has_failed());
        }
    }
    let failed = "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{}}\n\n";
    let mut stream = Stream::new(Protocol::Responses, false).hiding_errors();
    let mut out = Vec::new();
    stream.feed(Bytes::from_static(failed.as_bytes()), &mut out);
    assert_eq!(out.concat(), failed.as_bytes(), "an event of the answer like any other");
}
