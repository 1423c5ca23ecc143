//! The loop in whole answers: what is asked, what comes back, what is asked next, what the caller sees.

use serde_json::json;

use super::*;
use Protocol::{Chat, Messages, Responses};

mod marks;

fn search() -> (Wanted, Offer) {
    let search = SearchTool::default();
    let offer = Offer { header: Some("H:".into()), ..Offer::search(&search, Some("hint")) };
    (Wanted { search: Some(search), claimed: vec![0], ..Wanted::default() }, offer)
}

fn prepared(protocol: Protocol, body: &str) -> String {
    let (wanted, offer) = search();
    let body = Bytes::from(body.to_owned());
    String::from_utf8(prepare(protocol, &body, &wanted, &offer).unwrap().to_vec()).unwrap()
}

fn owned() -> Owned {
    Owned::from_iter(["web_search".to_owned()])
}

fn function() -> String {
    let tool = &search().1.tools[0];
    json!({"type": "function", "function": {"name": "web_search", "description": tool.description,
        "parameters": tool.parameters}})
    .to_string()
}

fn result(id: &str, text: &str) -> ToolResult {
    ToolResult { id: id.into(), text: text.into(), sources: Vec::new() }
}

fn appended(protocol: Protocol, body: &str, answer: &str, results: &[ToolResult]) -> String {
    let answered = read_answer(protocol, answer.as_bytes(), &owned()).unwrap();
    let body = Bytes::from(body.to_owned());
    let next = append(protocol, &body, &answered.turn, results).unwrap();
    String::from_utf8(next.to_vec()).unwrap()
}

/// The exchange that the reference was seen to have.
#[test]
fn the_golden_exchange() {
    let body = r#"{"model":"m","stream":false,"tools":[{"type":"otari_web_search"},{"type":"function","function":{"name":"f"}}],"messages":[{"role":"system","content":"S"},{"role":"user","content":"cats?"}]}"#;
    let first = prepared(Chat, body);
    let tools = format!(r#"[{{"type":"function","function":{{"name":"f"}}}},{}]"#, function());
    assert_eq!(
        first,
        format!(
            r#"{{"model":"m","stream":false,"tools":{tools},"messages":[{{"role":"system","content":"S\n\nH:\n- web_search: hint"}},{{"role":"user","content":"cats?"}}]}}"#
        )
    );
    let call = r#"{"id":"t1","type":"function","function":{"name":"web_search","arguments":"{\"query\":\"cats\"}"}}"#;
    let answer = format!(
        r#"{{"id":"c","choices":[{{"index":0,"finish_reason":"tool_calls","message":{{"role":"assistant","content":null,"refusal":null,"tool_calls":[{call}]}}}}]}}"#
    );
    let answered = read_answer(Chat, answer.as_bytes(), &owned()).unwrap();
    let Step::Run(calls) = &answered.step else { panic!("{answered:?}") };
    assert_eq!((&*calls[0].id, &*calls[0].name), ("t1", "web_search"));
    assert_eq!(calls[0].arguments["query"], "cats");
    let text = "[1] T\nhttp://t.example/x\nsnip";
    let next = appended(Chat, &first, &answer, &[result("t1", text)]);
    let said = format!(
        r#",{{"role":"assistant","tool_calls":[{call}]}},{{"role":"tool","tool_call_id":"t1","content":"[1] T\nhttp://t.example/x\nsnip"}}]}}"#
    );
    assert_eq!(next, format!("{}{said}", first.strip_suffix("]}").unwrap()));
}

#[test]
fn hints_go_where_each_format_has_its_instructions() {
    let block = r"H:\n- web_search: hint";
    let tools = r#""tools":[{"type":"otari_web_search"}]"#;
    for (protocol, before, after) in [
        (
            Chat,
            r#""messages":[{"role":"user","content":"a"}]"#.to_owned(),
            format!(r#""messages":[{{"content":"{block}","role":"system"}},{{"role":"user","content":"a"}}]"#),
        ),
        (
            Chat,
            r#""messages":[{"content" : [{"type":"text","text":"S","cache_control":{}} ] ,"role":"system"}]"#.to_owned(),
            format!(
                r#""messages":[{{"content" : [{{"type":"text","text":"S","cache_control":{{}}}} ,{{"text":"{block}","type":"text"}}] ,"role":"system"}}]"#
            ),
        ),
        (
            Chat,
            r#""messages":[{"role":"developer","content":""}]"#.to_owned(),
            format!(r#""messages":[{{"role":"developer","content":"{block}"}}]"#),
        ),
        (
            Messages,
            r#""system":"S\u00e9","messages":[]"#.to_owned(),
            format!(r#""system":"{block}\n\nS\u00e9","messages":[]"#),
        ),
        (
            Messages,
            r#""system":[{"type":"text","text":"S"}]"#.to_owned(),
            format!(r#""system":[{{"text":"{block}","type":"text"}},{{"type":"text","text":"S"}}]"#),
        ),
        (
            Responses,
            r#""instructions":"S","input":"a""#.to_owned(),
            format!(r#""instructions":"{block}\n\nS","input":"a""#),
        ),
        (
            Responses,
            r#""instructions":null,"input":"a""#.to_owned(),
            format!(r#""instructions":"{block}","input":"a""#),
        ),
    ] {
        let same = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let written = prepared(protocol, &format!("{{{before},{tools}}}"));
        let without_tools = written.rfind(r#","tools":"#).map(|at| format!("{}}}", &written[..at]));
        let without_tools = without_tools.unwrap();
        assert_eq!(same(&without_tools), same(&format!("{{{after}}}")), "{protocol:?} {before}");
    }
    let absent = prepared(Messages, &format!("{{ {tools},\"messages\":[]}}"));
    assert!(absent.starts_with(&format!(r#"{{"system":"{block}", "tools":[{{"#)), "{absent}");
    let absent = prepared(Responses, &format!("{{{tools},\"input\":\"a\"}}"));
    assert!(absent.starts_with(&format!(r#"{{"instructions":"{block}","tools":[{{"#)), "{absent}");
}

#[test]
fn other_bytes_stay_as_the_caller_wrote_them() {
    let body = r#"{ "x" : 1.10, "tools" : [ {"type":"otari_web_search"} , {"type" : "function", "y":1e2} ], "messages":[{"role":"system","content":"S"}], "z":"\u00e9" }"#;
    let written = prepared(Chat, body);
    for kept in
        [r#"{ "x" : 1.10, "tools" : [{"type" : "function", "y":1e2},{"#, r#""z":"\u00e9" }"#]
    {
        assert!(written.contains(kept), "{written}");
    }
    let led = prepared(Chat, r#"{"messages": [ {"role":"user"}  ,{"role":"x"} ]}"#);
    assert!(led.contains(r#"hint"}, {"role":"user"}  ,{"role":"x"} ]}"#), "{led}");
    // Nothing to offer, nothing claimed: nothing changes.
    for protocol in [Chat, Messages, Responses] {
        let same =
            Bytes::from_static(br#"{ "messages":[ ],"input":"a","tools" : [ {"name":"f"} ] }"#);
        let written = prepare(protocol, &same, &Wanted::default(), &Offer::default()).unwrap();
        assert_eq!(written, same);
    }
    let claimed_alone =
        Bytes::from_static(br#"{"tools":[{"type":"otari_web_search"}],"input":"a"}"#);
    let wanted = Wanted { claimed: vec![0], ..Wanted::default() };
    let written = prepare(Responses, &claimed_alone, &wanted, &Offer::default()).unwrap();
    assert_eq!(written, br#"{"input":"a"}"#[..]);
}

#[test]
fn tools_are_written_in_the_callers_format() {
    let at = |protocol, pointer: &str, body: &str| {
        let written: Value = serde_json::from_str(&prepared(protocol, body)).unwrap();
        written.pointer(pointer).cloned().unwrap_or_default()
    };
    let body = r#"{"messages":[],"input":"a","tools":[{"type":"otari_web_search"},{"name":"web_search","type":"custom"},{"name":"f"}]}"#;
    assert_eq!(
        at(Messages, "/tools/0", body),
        json!({"name": "f"}),
        "the caller's own of the name is gone"
    );
    let tool = at(Messages, "/tools/1", body);
    assert_eq!(
        (&tool["name"], &tool["input_schema"]["type"]),
        (&json!("web_search"), &json!("object"))
    );
    let tool = at(Responses, "/tools/1", body);
    assert_eq!((&tool["type"], &tool["strict"]), (&json!("function"), &json!(false)));
    assert_eq!(tool["parameters"]["required"], json!(["query"]));
    let absent = r#"{"messages":[],"input":"a","tools":null}"#;
    assert_eq!(at(Chat, "/tools/0/function/name", absent), "web_search");
    for (protocol, choice, want) in [
        (
            Chat,
            json!({"type": "otari_web_search"}),
            json!({"type": "function", "function": {"name": "web_search"}}),
        ),
        (
            Responses,
            json!({"type": "web_search_preview"}),
            json!({"type": "function", "name": "web_search"}),
        ),
        (
            Messages,
            json!({"type": "tool", "name": "web_search"}),
            json!({"type": "tool", "name": "web_search"}),
        ),
        (
            Responses,
            json!({"type": "otari_code_execution"}),
            json!({"type": "otari_code_execution"}),
        ),
        (Responses, json!("auto"), json!("auto")),
    ] {
        let body = json!({"messages": [], "input": "a", "tool_choice": choice}).to_string();
        assert_eq!(at(protocol, "/tool_choice", &body), want);
    }
    let unstored = r#"{"input":"a","store":false}"#;
    assert_eq!(at(Responses, "/include", unstored), json!(["reasoning.encrypted_content"]));
    let some = r#"{"input":"a","store":false,"include":["x"]}"#;
    assert_eq!(at(Responses, "/include", some), json!(["x", "reasoning.encrypted_content"]));
    assert_eq!(at(Responses, "/include", r#"{"input":"a"}"#), Value::Null);
}

#[test]
fn a_loop_follows_one_answer() {
    let (wanted, offer) = search();
    let body = Bytes::from_static(br#"{"messages":[],"n":2}"#);
    assert_eq!(prepare(Chat, &body, &wanted, &offer).unwrap_err().code, Code::InvalidValue);
    let body = Bytes::from_static(b"[1]");
    assert_eq!(prepare(Chat, &body, &wanted, &offer).unwrap_err().code, Code::InvalidJson);
}

/// A round in each format: thoughts and a call.
fn rounds() -> [(Protocol, &'static str, &'static str, &'static str); 3] {
    [
        (
            Chat,
            r#"{"messages":[ ],"tool_choice":"required"}"#,
            r#"{"choices":[{"finish_reason":"tool_calls","message":{"role":"assistant","content":"Let me see","refusal":null,"annotations":[],"reasoning_content":"h\u00e9m","reasoning_details":[{"x":1.10}],"tool_calls":[{"id":"t","type":"function","function":{"name":"web_search","arguments":"no json"},"extra_content":{"google":{"thought_signature":"s"}}}]}}],"usage":{"prompt_tokens":1}}"#,
            r#"{"messages":[ {"role":"assistant","content":"Let me see","reasoning_content":"h\u00e9m","reasoning_details":[{"x":1.10}],"tool_calls":[{"id":"t","type":"function","function":{"name":"web_search","arguments":"{}"},"extra_content":{"google":{"thought_signature":"s"}}}]},{"content":"R","role":"tool","tool_call_id":"t"}],"tool_choice":"auto"}"#,
        ),
        (
            Messages,
            r#"{"messages":[{"role":"user","content":"a"}],"tool_choice":{"type":"tool","name":"web_search"}}"#,
            r#"{"content":[{"type":"thinking","thinking":"h\u00e9m","signature":"Ab/+=="},{"type":"redacted_thinking","data":"zz"},{"type":"text","text":""},{"type":"tool_use","id":"t","name":"web_search","input":{"q": 1.10}}],"stop_reason":"tool_use","usage":{"input_tokens":1}}"#,
            r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":[{"type":"thinking","thinking":"h\u00e9m","signature":"Ab/+=="},{"type":"redacted_thinking","data":"zz"},{"type":"tool_use","id":"t","name":"web_search","input":{"q": 1.10}}]},{"role":"user","content":[{"content":"R","tool_use_id":"t","type":"tool_result"}]}],"tool_choice":{"type":"auto"}}"#,
        ),
        (
            Responses,
            r#"{"input":"a\u00e9","tool_choice":{"type":"function","name":"web_search"}}"#,
            r#"{"output":[{"type":"reasoning","id":"rs","summary":[],"encrypted_content":"Ab/+=="},{"type":"message","role":"assistant","content":[]},{"type":"function_call","id":"fc","call_id":"t","name":"web_search","arguments":"{}"}],"status":"completed","usage":{"input_tokens":1}}"#,
            r#"{"input":[{"role":"user","content":"a\u00e9"},{"type":"reasoning","id":"rs","summary":[],"encrypted_content":"Ab/+=="},{"type":"message","role":"assistant","content":[]},{"type":"function_call","id":"fc","call_id":"t","name":"web_search","arguments":"{}"},{"call_id":"t","output":"R","type":"function_call_output"}],"tool_choice":"auto"}"#,
        ),
    ]
}

/// A text without the order of the fields that are written here.
fn in_any_order(text: &str) -> String {
    [
        (
            r#"{"role":"tool","tool_call_id":"t","content":"R"}"#,
            r#"{"content":"R","role":"tool","tool_call_id":"t"}"#,
        ),
        (
            r#"{"type":"tool_result","tool_use_id":"t","content":"R"}"#,
            r#"{"content":"R","tool_use_id":"t","type":"tool_result"}"#,
        ),
        (
            r#"{"type":"function_call_output","call_id":"t","output":"R"}"#,
            r#"{"call_id":"t","output":"R","type":"function_call_output"}"#,
        ),
    ]
    .into_iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[test]
fn the_next_round_repeats_what_was_said_byte_for_byte() {
    for (protocol, body, answer, want) in rounds() {
        let answered = read_answer(protocol, answer.as_bytes(), &owned()).unwrap();
        let Step::Run(calls) = &answered.step else { panic!("{answered:?}") };
        assert_eq!((calls.len(), &*calls[0].id), (1, "t"));
        assert!(answered.usage.is_some());
        let next = appended(protocol, body, answer, &[result("t", "R")]);
        assert_eq!(in_any_order(&next), in_any_order(want), "{protocol:?}");
    }
    let answer = rounds()[2].2;
    let stored =
        appended(Responses, r#"{"conversation":"c","input":"a"}"#, answer, &[result("t", "R")]);
    let stored: Value = serde_json::from_str(&stored).unwrap();
    assert_eq!(stored["input"].as_array().unwrap().len(), 1, "the conversation holds the rest");
}

#[test]
fn whose_calls_they_are_decides_what_is_done() {
    let step =
        |protocol, answer: &str| read_answer(protocol, answer.as_bytes(), &owned()).unwrap().step;
    let chat = |reason: &str, names: &[&str]| {
        let calls: Vec<Value> = names
            .iter()
            .map(|name| json!({"id": name, "function": {"name": name, "arguments": "{}"}}))
            .collect();
        step(
            Chat,
            &json!({"choices": [{"finish_reason": reason, "message": {"tool_calls": calls}}]})
                .to_string(),
        )
    };
    assert_eq!(chat("stop", &[]), Step::Done);
    assert_eq!(chat("tool_calls", &["f"]), Step::Done);
    assert!(
        matches!(chat("tool_calls", &["web_search", "web_search"]), Step::Run(calls) if calls.len() == 2)
    );
    assert!(
        matches!(chat("stop", &["web_search"]), Step::Run(_)),
        "some providers never say tool_calls"
    );
    assert!(
        matches!(chat("tool_calls", &["web_search", "f"]), Step::Mixed(calls) if calls.len() == 1)
    );
    assert_eq!(chat("length", &["web_search"]), Step::Done);
    let block = |name: &str| json!({"type": "tool_use", "id": name, "name": name, "input": {}});
    let messages = |reason: &str, blocks: Value| {
        step(Messages, &json!({"content": blocks, "stop_reason": reason}).to_string())
    };
    assert!(matches!(messages("tool_use", json!([block("web_search")])), Step::Run(_)));
    assert!(matches!(
        messages("tool_use", json!([block("web_search"), block("f")])),
        Step::Mixed(_)
    ));
    assert_eq!(messages("max_tokens", json!([block("web_search")])), Step::Done);
    let foreign = json!({"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}});
    assert_eq!(messages("end_turn", json!([foreign])), Step::Done);
    let ours =
        json!({"type": "function_call", "call_id": "t", "name": "web_search", "arguments": "{}"});
    let responses = |status: &str, items: Value| {
        step(Responses, &json!({"output": items, "status": status}).to_string())
    };
    assert!(matches!(responses("completed", json!([ours])), Step::Run(_)));
    assert!(matches!(
        responses("completed", json!([ours, {"type": "computer_call"}])),
        Step::Mixed(_)
    ));
    assert!(matches!(
        responses("completed", json!([ours, {"type": "file_search_call"}])),
        Step::Run(_)
    ));
    assert_eq!(responses("incomplete", json!([ours])), Step::Done);
    assert!(
        read_answer(Chat, b"{}", &owned()).is_none() && read_answer(Chat, b"x", &owned()).is_none()
    );
}

#[test]
fn the_caller_sees_its_own_calls_and_the_usage_of_all_rounds() {
    let written = |protocol, answer: &Value, rounds: &[Value]| -> Value {
        let mut tally = Tally::default();
        rounds.iter().for_each(|usage| tally.add(Some(usage)));
        let answer = Bytes::from(answer.to_string());
        serde_json::from_slice(&write_answer(
            protocol,
            &answer,
            &owned(),
            &tally,
            &Marks::default(),
        ))
        .unwrap()
    };
    let call = |name: &str| json!({"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}});
    let chat = |calls: Value, reason: &str, usage: u64| {
        json!({"choices": [{"finish_reason": reason, "message": {"content": "x", "tool_calls": calls}}],
            "usage": {"prompt_tokens": usage, "completion_tokens": 1, "total_tokens": usage + 1}})
    };
    let rounds = [
        json!({"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}),
        json!({"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}),
    ];
    let mut want = chat(json!([call("f")]), "tool_calls", 12);
    want["usage"]["completion_tokens"] = json!(2);
    want["usage"]["total_tokens"] = json!(14);
    let both = chat(json!([call("web_search"), call("f")]), "tool_calls", 7);
    assert_eq!(written(Chat, &both, &rounds), want);
    let ours = chat(json!([call("web_search")]), "tool_calls", 7);
    let alone = written(Chat, &ours, &rounds[..1]);
    assert_eq!(
        alone["choices"][0],
        json!({"finish_reason": "stop", "message": {"content": "x", "tool_calls": null}})
    );
    assert_eq!(alone["usage"], ours["usage"], "one round is as it was reported");
    let block = |name: &str| json!({"type": "tool_use", "id": name, "name": name, "input": {}});
    let message = json!({"content": [block("web_search"), block("f")], "stop_reason": "tool_use"});
    assert_eq!(
        written(Messages, &message, &[]),
        json!({"content": [block("f")], "stop_reason": "tool_use"})
    );
    let message = json!({"content": [block("web_search")], "stop_reason": "tool_use"});
    assert_eq!(written(Messages, &message, &[]), json!({"content": [], "stop_reason": "end_turn"}));
    let item = |name: &str| json!({"type": "function_call", "call_id": name, "name": name, "arguments": "{}"});
    let response = json!({"output": [item("web_search"), item("f")], "status": "completed"});
    assert_eq!(written(Responses, &response, &[])["output"], json!([item("f")]));
}

#[test]
fn an_answer_without_tools_stays_as_it_came() {
    let mut tally = Tally::default();
    tally.add(Some(&json!({"prompt_tokens": 1})));
    for (protocol, answer) in [
        (
            Chat,
            r#"{ "choices":[ {"message":{"content":"\u00e9","tool_calls":[{"id":"f","function":{"name":"f"}}]}} ], "usage":{"x":1.10} }"#,
        ),
        (Messages, r#"{ "content":[ {"type":"text","text":"\u00e9"} ], "usage":{"x":1.10} }"#),
        (Responses, r#"{ "output":[ {"type":"message"} ], "usage":{"x":1.10} }"#),
        (Responses, "no json"),
    ] {
        let answer = Bytes::from_static(answer.as_bytes());
        assert_eq!(write_answer(protocol, &answer, &owned(), &tally, &Marks::default()), answer);
    }
}

#[test]
fn what_is_prepared_reads_as_a_request_and_loses_the_gateways_fields() {
    use crate::protocol::{Request, Rewrite};
    let body = Bytes::from_static(
        br#"{"model":"m","messages":[{"role":"user","content":"a"}],"tools":[{"type":"otari_web_search"}],"tools_header":"T","max_tool_iterations":3}"#,
    );
    let request = Request::read(Chat, &body).unwrap();
    let wanted = claim(&request, &body, false).unwrap();
    let offer = Offer::search(wanted.search.as_ref().unwrap(), None);
    let first = prepare(Chat, &body, &wanted, &offer).unwrap();
    let again = Request::read(Chat, &first).unwrap();
    assert!(again.prompt_chars > request.prompt_chars, "the hints are a part of the prompt");
    let rewrite = Rewrite { model: "p", keep_user: false, provider: "openai" };
    let sent: Value = serde_json::from_slice(&again.write_same(&first, &rewrite).concat()).unwrap();
    let names: Vec<&String> = sent.as_object().unwrap().keys().collect();
    assert_eq!(names, ["model", "messages", "tools"]);
    assert_eq!(sent["messages"][0]["content"].as_str().unwrap().lines().next(), Some("T"));
}

/// Any JSON that has none of the gateway's fields in it.
fn any_json() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-z_\\\\\"é]{0,8}", inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest::proptest! {
    #[test]
    fn bodies_without_the_gateways_tools_stay_byte_for_byte(
        protocol in proptest::sample::select(vec![Chat, Messages, Responses]),
        fields in proptest::collection::vec((
            proptest::sample::select(vec!["tools", "tool_choice", "messages", "input", "system", "content", "choices",
                "output", "usage", "x", "n"]),
            any_json(),
        ), 0..6),
        space in "[ \n\t]{0,2}",
    ) {
        let inner: Vec<String> =
            fields.iter().map(|(name, value)| format!("{space}\"{name}\" :{space}{value}")).collect();
        let body = Bytes::from(format!("{{{}{space}}}", inner.join(",")));
        if let Ok(prepared) = prepare(protocol, &body, &Wanted::default(), &Offer::default()) {
            proptest::prop_assert_eq!(&prepared, &body);
        }
        let mut tally = Tally::default();
        if let Some(answered) = read_answer(protocol, &body, &owned()) {
            tally.add(answered.usage.as_ref());
        }
        let seen = write_answer(protocol, &body, &owned(), &tally, &Marks::default());
        proptest::prop_assert_eq!(&seen, &body);
        proptest::prop_assert_eq!(strip_marks(protocol, &body), None);
    }
}
