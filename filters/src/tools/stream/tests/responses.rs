//! Rounds as one response.

use serde_json::Value;

use super::{MARKED, PLAIN, named, run};
use crate::protocol::Protocol::Responses;
use crate::tools::{Options, Step};

fn response_round(id: &str, items: &[&str], output: &str, first: u64, usage: (u64, u64)) -> String {
    let mut lines = vec![
        format!(
            r#"{{"type":"response.created","response":{{"id":"{id}","created_at":1,"model":"{id}-m","output":[]}},"sequence_number":0}}"#
        ),
        format!(
            r#"{{"type":"response.in_progress","response":{{"id":"{id}"}},"sequence_number":1}}"#
        ),
    ];
    lines.extend(items.iter().map(|line| (*line).to_owned()));
    lines.push(format!(
        r#"{{"type":"response.completed","response":{{"id":"{id}","created_at":1,"model":"{id}-m","status":"completed","output":[{output}],"usage":{{"input_tokens":{},"output_tokens":{},"total_tokens":{}}}}},"sequence_number":{first}}}"#,
        usage.0, usage.1, usage.0 + usage.1
    ));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    named(&lines)
}

const REASONING: &str =
    r#"{"type":"reasoning","id":"rs","summary":[],"encrypted_content":"Ab/+=="}"#;
const CALL: &str = r#"{"type":"function_call","id":"fc","call_id":"t","name":"web_search","arguments":"{\"query\":\"cats\"}"}"#;
const MESSAGE: &str = r#"{"type":"message","id":"msg","role":"assistant","content":[{"type":"output_text","text":"Cats."}]}"#;

pub(super) fn response_rounds() -> [String; 2] {
    let reasoning = [
        format!(r#"{{"type":"response.output_item.added","output_index":0,"item":{REASONING},"sequence_number":2}}"#),
        format!(r#"{{"type":"response.output_item.done","output_index":0,"item":{REASONING},"sequence_number":3}}"#),
        r#"{"type":"response.output_item.added","output_index":1,"item":{"type":"function_call","id":"fc","call_id":"t","name":"web_search","arguments":""},"sequence_number":4}"#.to_owned(),
        r#"{"type":"response.function_call_arguments.delta","output_index":1,"item_id":"fc","delta":"{","sequence_number":5}"#.to_owned(),
        format!(r#"{{"type":"response.output_item.done","output_index":1,"item":{CALL},"sequence_number":6}}"#),
    ];
    let message = [
        r#"{"type":"response.output_item.added","output_index":0,"item":{"type":"message","id":"msg"},"sequence_number":2}"#.to_owned(),
        r#"{"type":"response.output_text.delta","output_index":0,"content_index":0,"delta":"Cats.","sequence_number":3}"#.to_owned(),
        format!(r#"{{"type":"response.output_item.done","output_index":0,"item":{MESSAGE},"sequence_number":4}}"#),
    ];
    let lines = |lines: &'static [String]| lines.iter().map(String::as_str).collect::<Vec<_>>();
    let first: &'static [String] = Box::leak(Box::new(reasoning));
    let second: &'static [String] = Box::leak(Box::new(message));
    [
        response_round("r1", &lines(first), &format!("{REASONING},{CALL}"), 7, (10, 5)),
        response_round("r2", &lines(second), MESSAGE, 5, (20, 6)),
    ]
}

#[test]
fn a_response_of_two_rounds_is_one_response() {
    let [first, second] = response_rounds();
    let seen = run(Responses, PLAIN, &[&first, &second]);
    let lines = [
        r#"{"type":"response.created","response":{"id":"r1","created_at":1,"model":"r1-m","output":[]},"sequence_number":0}"#.to_owned(),
        r#"{"type":"response.in_progress","response":{"id":"r1"},"sequence_number":1}"#.to_owned(),
        format!(r#"{{"type":"response.output_item.added","output_index":0,"item":{REASONING},"sequence_number":2}}"#),
        format!(r#"{{"type":"response.output_item.done","output_index":0,"item":{REASONING},"sequence_number":3}}"#),
        r#"{"type":"response.output_item.added","output_index":1,"item":{"type":"message","id":"msg"},"sequence_number":4}"#.to_owned(),
        r#"{"type":"response.output_text.delta","output_index":1,"content_index":0,"delta":"Cats.","sequence_number":5}"#.to_owned(),
        format!(r#"{{"type":"response.output_item.done","output_index":1,"item":{MESSAGE},"sequence_number":6}}"#),
        format!(r#"{{"type":"response.completed","response":{{"id":"r1","created_at":1,"model":"r1-m","status":"completed","output":[{REASONING},{MESSAGE}],"usage":{{"input_tokens":30,"output_tokens":11,"total_tokens":41}}}},"sequence_number":7}}"#),
    ];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(seen.text, named(&lines));
    assert_eq!(seen.ends[0].turn.items(), format!("{REASONING},{CALL}"));
    assert!(matches!(&seen.ends[0].step, Step::Run(calls) if calls[0].id == "t"));
    let chained = run(Responses, Options { chains: true, ..PLAIN }, &[&first, &second]).text;
    assert!(chained.contains(r#"{"id":"r2","created_at":1,"model":"r1-m""#), "{chained}");
}

#[test]
fn searches_are_marked_in_a_response() {
    let [first, second] = response_rounds();
    let seen = run(Responses, MARKED, &[&first, &second]);
    let data: Vec<Value> = seen
        .text
        .lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
        .collect();
    let numbers: Vec<u64> =
        data.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..data.len() as u64).collect::<Vec<_>>());
    let kinds: Vec<&str> = data.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let marks = ["in_progress", "searching", "completed"]
        .map(|word| format!("response.web_search_call.{word}"));
    for mark in &marks {
        assert_eq!(kinds.iter().filter(|kind| *kind == mark).count(), 1, "{kinds:?}");
    }
    let output = &data.last().unwrap()["response"]["output"];
    let items: Vec<&str> =
        output.as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(items, ["reasoning", "web_search_call", "message"]);
    assert_eq!(output[1]["action"]["query"], "cats");
    assert!(output[1]["id"].as_str().unwrap().starts_with("ws_otari_"));
    let added: Vec<(u64, &str)> = data
        .iter()
        .filter(|event| event["type"] == "response.output_item.added")
        .map(|event| {
            (event["output_index"].as_u64().unwrap(), event["item"]["type"].as_str().unwrap())
        })
        .collect();
    assert_eq!(added, [(0, "reasoning"), (1, "web_search_call"), (2, "message")]);
}

#[test]
fn a_response_without_the_gateways_calls_passes_as_it_came() {
    let [_, second] = response_rounds();
    assert_eq!(run(Responses, MARKED, &[&second]).text, second);
    let [first, _] = response_rounds();
    let foreign = first.replace("web_search", "f") + "data: [DONE]\n\n";
    let seen = run(Responses, MARKED, &[&foreign]);
    assert_eq!((seen.text, &seen.ends[0].step), (foreign, &Step::Done));
}
