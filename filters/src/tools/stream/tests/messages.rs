//! Rounds as one message.

use serde_json::{Value, json};

use super::{MARKED, PLAIN, named, run};
use crate::protocol::Protocol::Messages;
use crate::tools::Step;

pub(super) fn message_round(
    id: &str,
    usage: &str,
    blocks: &[&str],
    reason: &str,
    output: u64,
) -> String {
    let start = format!(
        r#"{{"type":"message_start","message":{{"id":"{id}","content":[],"model":"m","role":"assistant","type":"message","usage":{usage}}}}}"#
    );
    let delta = format!(
        r#"{{"type":"message_delta","delta":{{"stop_reason":"{reason}"}},"usage":{{"output_tokens":{output}}}}}"#
    );
    let mut lines = vec![&*start, r#"{"type":"ping"}"#];
    lines.extend(blocks);
    lines.extend([&*delta, r#"{"type":"message_stop"}"#]);
    named(&lines)
}

pub(super) const THINKING: [&str; 4] = [
    r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
    r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"h\u00e9m"}}"#,
    r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"Ab/+=="}}"#,
    r#"{"type":"content_block_stop","index":0}"#,
];
pub(super) const SEARCHING: [&str; 4] = [
    r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"t","name":"web_search","input":{}}}"#,
    r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"query\":"}}"#,
    r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"\"cats\"}"}}"#,
    r#"{"type":"content_block_stop","index":1}"#,
];

pub(super) fn text_block(index: u64, text: &str) -> [String; 3] {
    [
        format!(
            r#"{{"type":"content_block_start","index":{index},"content_block":{{"type":"text","text":""}}}}"#
        ),
        format!(
            r#"{{"type":"content_block_delta","index":{index},"delta":{{"type":"text_delta","text":"{text}"}}}}"#
        ),
        format!(r#"{{"type":"content_block_stop","index":{index}}}"#),
    ]
}

#[test]
fn a_message_of_two_rounds_is_one_message() {
    let blocks = [&THINKING[..], &SEARCHING[..]].concat();
    let usage = r#"{"input_tokens":7,"output_tokens":1,"cache_read_input_tokens":3,"cache_creation_input_tokens":2}"#;
    let first = message_round("msg_1", usage, &blocks, "tool_use", 4);
    let text = text_block(0, "Cats.");
    let text: Vec<&str> = text.iter().map(String::as_str).collect();
    let second = message_round(
        "msg_2",
        r#"{"input_tokens":1,"output_tokens":1,"cache_read_input_tokens":12}"#,
        &text,
        "end_turn",
        9,
    );
    let seen = run(Messages, PLAIN, &[&first, &second]);
    let sum = r#""usage":{"input_tokens":8,"output_tokens":13,"cache_read_input_tokens":15,"cache_creation_input_tokens":2}"#;
    let mut lines = vec![
        first.split("data: ").nth(1).unwrap().split('\n').next().unwrap(),
        r#"{"type":"ping"}"#,
    ];
    lines.extend(THINKING);
    lines.push(r#"{"type":"ping"}"#);
    let shown = text_block(1, "Cats.");
    lines.extend(shown.iter().map(String::as_str));
    let delta = format!(r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn"}},{sum}}}"#);
    lines.extend([&*delta, r#"{"type":"message_stop"}"#]);
    assert_eq!(seen.text, named(&lines));
    assert!(
        matches!(&seen.ends[0].step, Step::Run(calls) if calls[0].arguments["query"] == "cats")
    );
    assert_eq!(
        seen.ends[0].turn.items(),
        r#"{"role":"assistant","content":[{"type":"thinking","thinking":"h\u00e9m","signature":"Ab/+=="},{"type":"tool_use","id":"t","name":"web_search","input":{"query":"cats"}}]}"#
    );
    let marked = run(Messages, MARKED, &[&first, &second]).text;
    let kinds: Vec<Value> = marked
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok())
        .filter(|event| event["type"] == "content_block_start")
        .map(|event| json!([event["index"], event["content_block"]["type"]]))
        .collect();
    let want = json!([
        [0, "thinking"],
        [1, "server_tool_use"],
        [2, "web_search_tool_result"],
        [3, "text"]
    ]);
    assert_eq!(Value::from(kinds), want);
    assert!(marked.contains(r#""encrypted_content":"""#) && marked.contains("srvtoolu_otari_"));
}

#[test]
fn a_message_without_the_gateways_calls_passes_as_it_came() {
    let text = text_block(0, "a");
    let text: Vec<&str> = text.iter().map(String::as_str).collect();
    let round = message_round("m", r#"{"input_tokens":7}"#, &text, "end_turn", 3);
    assert_eq!(run(Messages, MARKED, &[&round]).text, round);
    let foreign: Vec<String> = SEARCHING
        .iter()
        .map(|line| line.replace("web_search", "f").replace("\"index\":1", "\"index\":0"))
        .collect();
    let foreign: Vec<&str> = foreign.iter().map(String::as_str).collect();
    let round = message_round("m", r#"{"input_tokens":7}"#, &foreign, "tool_use", 3);
    let seen = run(Messages, MARKED, &[&round]);
    assert_eq!((seen.text, &seen.ends[0].step), (round, &Step::Done));
}

#[test]
fn a_message_with_both_kinds_of_calls_shows_the_callers_alone() {
    let foreign: Vec<String> = SEARCHING
        .iter()
        .map(|line| line.replace("web_search", "f").replace("\"index\":1", "\"index\":2"))
        .collect();
    let mut blocks = SEARCHING.to_vec();
    blocks.extend(foreign.iter().map(String::as_str));
    let round = message_round("m", r#"{"input_tokens":7}"#, &blocks, "tool_use", 3);
    let seen = run(Messages, PLAIN, &[&round]);
    assert!(matches!(&seen.ends[0].step, Step::Mixed(calls) if calls.len() == 1));
    assert!(
        !seen.text.contains("web_search") && !seen.text.contains("\"index\":2"),
        "{}",
        seen.text
    );
    assert!(
        seen.text.contains("\"index\":0") && seen.text.contains("\"tool_use\""),
        "{}",
        seen.text
    );
}
