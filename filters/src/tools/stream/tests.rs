//! The streams of rounds as one, however they are cut.

use serde_json::json;

use super::super::Source;
use super::*;
use Protocol::{Chat, Messages, Responses};

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
            &chunk("a", &call(r#""id":"t","type":"function","function":{"name":"web_search","arguments":""}"#), "null"),
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
        events(&[&chunk("a", r#"{"content":"a"}"#, "null"), &chunk("a", "{}", "\"stop\""), "[DONE]"])
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
    let round = events(&[&chunk("a", calls, "null"), &chunk("a", more, "\"tool_calls\""), "[DONE]"]);
    let seen = run(Chat, SHOWN, &[&round]);
    let first = r#"{"role":"assistant","tool_calls":[{"index":0,"id":"b","function":{"name":"f","arguments":"{\"x\":"}}]}"#;
    let more = r#"{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}"#;
    let want =
        events(&[&chunk("a", first, "null"), &chunk("a", more, "null"), &chunk("a", "{}", "\"tool_calls\""), "[DONE]"]);
    assert_eq!(seen.text, want);
    assert!(matches!(&seen.ends[0].step, Step::Mixed(calls) if calls[0].name == "run"));
}

#[test]
fn a_chat_that_is_cut_off_runs_nothing() {
    let call = r#"{"role":"assistant","tool_calls":[{"index":0,"id":"a","function":{"name":"run","arguments":"{"}}]}"#;
    let round = events(&[&chunk("a", call, "null"), &chunk("a", "{}", "\"length\"")]);
    let seen = run(Chat, PLAIN, &[&round]);
    assert_eq!((seen.ends[0].ending, &seen.ends[0].step), (Ending::Complete, &Step::Done));
    let want = events(&[&chunk("a", r#"{"role":"assistant"}"#, "null"), &chunk("a", "{}", "\"length\""), "[DONE]"]);
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
        (with(r#""x_groq":{"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#), "/x_groq/usage"),
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

fn message_round(id: &str, usage: &str, blocks: &[&str], reason: &str, output: u64) -> String {
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

const THINKING: [&str; 4] = [
    r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}"#,
    r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"h\u00e9m"}}"#,
    r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"Ab/+=="}}"#,
    r#"{"type":"content_block_stop","index":0}"#,
];
const SEARCHING: [&str; 4] = [
    r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"t","name":"web_search","input":{}}}"#,
    r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"query\":"}}"#,
    r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"\"cats\"}"}}"#,
    r#"{"type":"content_block_stop","index":1}"#,
];

fn text_block(index: u64, text: &str) -> [String; 3] {
    [
        format!(r#"{{"type":"content_block_start","index":{index},"content_block":{{"type":"text","text":""}}}}"#),
        format!(r#"{{"type":"content_block_delta","index":{index},"delta":{{"type":"text_delta","text":"{text}"}}}}"#),
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
    let second = message_round("msg_2", r#"{"input_tokens":1,"output_tokens":1,"cache_read_input_tokens":12}"#, &text, "end_turn", 9);
    let seen = run(Messages, PLAIN, &[&first, &second]);
    let sum = r#""usage":{"input_tokens":8,"output_tokens":13,"cache_read_input_tokens":15,"cache_creation_input_tokens":2}"#;
    let mut lines = vec![first.split("data: ").nth(1).unwrap().split('\n').next().unwrap(), r#"{"type":"ping"}"#];
    lines.extend(THINKING);
    lines.push(r#"{"type":"ping"}"#);
    let shown = text_block(1, "Cats.");
    lines.extend(shown.iter().map(String::as_str));
    let delta = format!(r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn"}},{sum}}}"#);
    lines.extend([&*delta, r#"{"type":"message_stop"}"#]);
    assert_eq!(seen.text, named(&lines));
    assert!(matches!(&seen.ends[0].step, Step::Run(calls) if calls[0].arguments["query"] == "cats"));
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
    let want = json!([[0, "thinking"], [1, "server_tool_use"], [2, "web_search_tool_result"], [3, "text"]]);
    assert_eq!(Value::from(kinds), want);
    assert!(marked.contains(r#""encrypted_content":"""#) && marked.contains("srvtoolu_otari_"));
}

#[test]
fn a_message_without_the_gateways_calls_passes_as_it_came() {
    let text = text_block(0, "a");
    let text: Vec<&str> = text.iter().map(String::as_str).collect();
    let round = message_round("m", r#"{"input_tokens":7}"#, &text, "end_turn", 3);
    assert_eq!(run(Messages, MARKED, &[&round]).text, round);
    let foreign: Vec<String> =
        SEARCHING.iter().map(|line| line.replace("web_search", "f").replace("\"index\":1", "\"index\":0")).collect();
    let foreign: Vec<&str> = foreign.iter().map(String::as_str).collect();
    let round = message_round("m", r#"{"input_tokens":7}"#, &foreign, "tool_use", 3);
    let seen = run(Messages, MARKED, &[&round]);
    assert_eq!((seen.text, &seen.ends[0].step), (round, &Step::Done));
}

#[test]
fn a_message_with_both_kinds_of_calls_shows_the_callers_alone() {
    let foreign: Vec<String> =
        SEARCHING.iter().map(|line| line.replace("web_search", "f").replace("\"index\":1", "\"index\":2")).collect();
    let mut blocks = SEARCHING.to_vec();
    blocks.extend(foreign.iter().map(String::as_str));
    let round = message_round("m", r#"{"input_tokens":7}"#, &blocks, "tool_use", 3);
    let seen = run(Messages, PLAIN, &[&round]);
    assert!(matches!(&seen.ends[0].step, Step::Mixed(calls) if calls.len() == 1));
    assert!(!seen.text.contains("web_search") && !seen.text.contains("\"index\":2"), "{}", seen.text);
    assert!(seen.text.contains("\"index\":0") && seen.text.contains("\"tool_use\""), "{}", seen.text);
}

fn response_round(id: &str, items: &[&str], output: &str, first: u64, usage: (u64, u64)) -> String {
    let mut lines = vec![
        format!(r#"{{"type":"response.created","response":{{"id":"{id}","created_at":1,"model":"{id}-m","output":[]}},"sequence_number":0}}"#),
        format!(r#"{{"type":"response.in_progress","response":{{"id":"{id}"}},"sequence_number":1}}"#),
    ];
    lines.extend(items.iter().map(|line| (*line).to_owned()));
    lines.push(format!(
        r#"{{"type":"response.completed","response":{{"id":"{id}","created_at":1,"model":"{id}-m","status":"completed","output":[{output}],"usage":{{"input_tokens":{},"output_tokens":{},"total_tokens":{}}}}},"sequence_number":{first}}}"#,
        usage.0, usage.1, usage.0 + usage.1
    ));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    named(&lines)
}

const REASONING: &str = r#"{"type":"reasoning","id":"rs","summary":[],"encrypted_content":"Ab/+=="}"#;
const CALL: &str =
    r#"{"type":"function_call","id":"fc","call_id":"t","name":"web_search","arguments":"{\"query\":\"cats\"}"}"#;
const MESSAGE: &str = r#"{"type":"message","id":"msg","role":"assistant","content":[{"type":"output_text","text":"Cats."}]}"#;

fn response_rounds() -> [String; 2] {
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
    let numbers: Vec<u64> = data.iter().map(|event| event["sequence_number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..data.len() as u64).collect::<Vec<_>>());
    let kinds: Vec<&str> = data.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let marks = ["in_progress", "searching", "completed"].map(|word| format!("response.web_search_call.{word}"));
    for mark in &marks {
        assert_eq!(kinds.iter().filter(|kind| *kind == mark).count(), 1, "{kinds:?}");
    }
    let output = &data.last().unwrap()["response"]["output"];
    let items: Vec<&str> = output.as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(items, ["reasoning", "web_search_call", "message"]);
    assert_eq!(output[1]["action"]["query"], "cats");
    assert!(output[1]["id"].as_str().unwrap().starts_with("ws_otari_"));
    let added: Vec<(u64, &str)> = data
        .iter()
        .filter(|event| event["type"] == "response.output_item.added")
        .map(|event| (event["output_index"].as_u64().unwrap(), event["item"]["type"].as_str().unwrap()))
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

#[test]
fn an_error_passes_and_ends() {
    let chat = events(&[&chunk("a", r#"{"content":"a"}"#, "null"), r#"{"error":{"message":"no"}}"#, "[DONE]"]);
    let text = text_block(0, "a");
    let text: Vec<&str> = text.iter().map(String::as_str).collect();
    let messages = named(&text) + &named(&[r#"{"type":"error","error":{"type":"overloaded_error"}}"#]);
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
    stream.feed(Bytes::from_static(b"\"}}]}\n\ndata: {\"id\":\"later\",\"choices\":[]}\n\n"), &mut out);
    assert_eq!((stream.round_end(&mut out).ending, out.concat()), (Ending::Broken, Vec::new()));
    let mut stream = Loop::new(Chat, Owned::default(), PLAIN);
    let piece = Bytes::from(events(&[&chunk("a", &format!(r#"{{"content":"{}"}}"#, "x".repeat(1 << 20)), "null")]));
    for _ in 0..40 {
        stream.feed(piece.clone(), &mut out);
    }
    assert_eq!(stream.round_end(&mut out).ending, Ending::Broken, "a turn that nobody could repeat");
    assert!(out.concat().len() < 24 << 20);
}
