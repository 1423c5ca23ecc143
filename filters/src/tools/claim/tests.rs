//! What of a request is claimed, and what is refused of it.

use serde_json::json;

use super::*;
use crate::guardrails::Mode;
use crate::protocol::Protocol::{self, Chat, Messages, Responses};
use crate::tools::Options;

const MESSAGES: &str = r#""messages":[{"role":"user","content":"x"}]"#;

fn body(protocol: Protocol, fields: &Value) -> Bytes {
    let head = match protocol {
        Chat => format!("{{\"model\":\"m\",{MESSAGES}"),
        Messages => format!("{{\"model\":\"m\",\"max_tokens\":9,{MESSAGES}"),
        Responses => "{\"model\":\"m\",\"input\":\"x\"".to_owned(),
    };
    let fields = fields.to_string();
    let fields = &fields[1..fields.len() - 1];
    let comma = if fields.is_empty() { "" } else { "," };
    Bytes::from(format!("{head}{comma}{fields}}}"))
}

fn claimed(protocol: Protocol, fields: &Value, intercepts: bool) -> Wanted {
    let body = body(protocol, fields);
    let request =
        Request::read(protocol, &body).unwrap_or_else(|refused| panic!("{refused}: {fields}"));
    claim(&request, &body, intercepts).unwrap()
}

fn faults(protocol: Protocol, fields: &Value) -> Vec<Value> {
    let refused = Request::read(protocol, &body(protocol, fields)).unwrap_err();
    assert_eq!(refused.code.status().as_u16(), 422);
    refused.detail.unwrap().as_array().unwrap().clone()
}

#[test]
fn most_requests_want_nothing() {
    for protocol in [Chat, Messages, Responses] {
        for fields in [
            json!({}),
            json!({"tools": [{"type": "function", "function": {"name": "web_search"}}]}),
            json!({"tools": [{"type": "web_search"}, {"type": "code_execution"}]}),
            json!({"mcp_servers": null, "mcp_server_ids": [], "guardrails": [], "tools_header": null,
                "max_tool_iterations": null, "tools": null}),
        ] {
            let wanted = claimed(protocol, &fields, false);
            assert_eq!(wanted, Wanted::default(), "{fields}");
            assert!(!wanted.needs_loop());
        }
    }
}

#[test]
fn everything_that_can_be_asked_for_is_read() {
    let fields = json!({
        "mcp_servers": [
            {"name": "a", "url": "https://a.example/mcp", "authorization_token": "hush", "purpose_hint": "for a",
             "allowed_tools": ["x"], "other": 1},
            {"name": "b", "url": "http://b.example", "authorization_token": null, "purpose_hint": "", "allowed_tools": []},
        ],
        "mcp_server_ids": ["{6F9619FF-8B86-D011-B42D-00CF4FC964FF}", "urn:uuid:6f9619ff8b86d011b42d00cf4fc964ff"],
        "guardrails": [
            {"profile": "pi"},
            {"profile": "p", "url": "https://g.example", "on": ["output"], "mode": "block",
             "on_unavailable": "monitor", "validate_kwargs": {"a": 1}},
        ],
        "tools_header": "Mine:", "max_tool_iterations": "7",
        "tools": [{"type": "otari_web_search", "max_results": 3, "allowed_domains": ["a.example"],
            "blocked_domains": ["b.a.example"], "purpose_hint": "often", "provider_options": {"x": true}},
            {"type": "otari_code_execution", "purpose_hint": ""}, {"type": "otari_web_search"}],
    });
    for protocol in [Chat, Messages, Responses] {
        let wanted = claimed(protocol, &fields, false);
        assert!(!format!("{wanted:?}").contains("hush"));
        assert_eq!(wanted.mcp[0].authorization_token.as_ref().unwrap().expose(), "hush");
        assert_eq!(wanted.mcp[0].allowed_tools, Some(vec!["x".to_owned()]));
        let second = &wanted.mcp[1];
        assert_eq!((&second.authorization_token, &second.purpose_hint), (&None, &None));
        assert_eq!(second.allowed_tools, None, "an empty list is no filter");
        assert_eq!(wanted.mcp_ids, ["6f9619ff-8b86-d011-b42d-00cf4fc964ff"; 2]);
        let [first, second] = &wanted.guardrails[..] else { panic!("{:?}", wanted.guardrails) };
        assert_eq!((first.on_input, first.on_output), (true, false));
        assert_eq!((first.mode, first.on_unavailable), (Mode::Monitor, Mode::Block));
        assert_eq!((second.on_input, second.on_output), (false, true));
        assert_eq!((second.mode, second.on_unavailable), (Mode::Block, Mode::Monitor));
        assert_eq!(second.validate_kwargs["a"], 1);
        assert_eq!((wanted.header.as_deref(), wanted.rounds), (Some("Mine:"), 7));
        assert_eq!(wanted.code, Some(CodeTool { purpose_hint: None }));
        let search = wanted.search.as_ref().unwrap();
        assert_eq!((search.results(None), search.is_native), (3, false));
        assert_eq!(search.provider_options["x"], true);
        assert_eq!(wanted.claimed, [1, 0]);
    }
}

#[test]
fn a_providers_own_search_is_claimed_where_it_is_intercepted() {
    for (kind, is_claimed) in [
        ("web_search", true),
        ("web_search_20250305", true),
        ("web_search_2025_08_26", true),
        ("web_search_preview", true),
        ("web_search_preview_2025_03_11", true),
        ("web_search_x", false),
        ("web_searches", false),
        ("function", false),
    ] {
        let fields = json!({"tools": [{"type": kind, "name": "web_search", "max_uses": 2,
            "filters": {"allowed_domains": ["a.example"]}}]});
        let wanted = claimed(Messages, &fields, true);
        assert_eq!(wanted.search.is_some(), is_claimed, "{kind}");
        if let Some(search) = wanted.search {
            assert!(search.is_native && search.allowed_domains == ["a.example"]);
        }
        assert_eq!(claimed(Messages, &fields, false), Wanted::default());
    }
    let both = json!({"tools": [{"type": "web_search"}, {"type": "otari_web_search"}]});
    let wanted = claimed(Responses, &both, true);
    assert_eq!((wanted.claimed, wanted.search.unwrap().is_native), (vec![1], false));
}

#[test]
fn faults_come_in_the_order_of_declaration_with_those_of_other_fields() {
    let fields = json!({"messages": [], "max_tokens": "x", "mcp_servers": [{"url": "https://a.example"}],
        "guardrails": [{"profile": "p", "mode": "stop"}], "tools_header": "h".repeat(4001), "max_tool_iterations": 26});
    let body = Bytes::from(fields.to_string());
    let refused = Request::read(Chat, &body).unwrap_err().detail.unwrap();
    let list: Vec<String> = refused
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| format!("{} {}", fault["type"].as_str().unwrap(), fault["loc"]))
        .collect();
    assert_eq!(
        list,
        [
            r#"missing ["body","model"]"#,
            r#"too_short ["body","messages"]"#,
            r#"int_parsing ["body","max_tokens"]"#,
            r#"missing ["body","mcp_servers",0,"name"]"#,
            r#"literal_error ["body","guardrails",0,"mode"]"#,
            r#"string_too_long ["body","tools_header"]"#,
            r#"less_than_equal ["body","max_tool_iterations"]"#,
        ]
    );
}

/// Checks the first fault in every format: its place below the field, its words, its context.
fn check_fault(fields: &Value, place: &Value, message: &str, context: &Value) {
    let name = fields.as_object().unwrap().keys().next().unwrap().clone();
    for protocol in [Chat, Messages, Responses] {
        let fault = &faults(protocol, fields)[0];
        let mut loc = vec![json!("body"), json!(name)];
        loc.extend(place.as_array().unwrap().clone());
        assert_eq!((&fault["loc"], &fault["msg"]), (&json!(loc), &json!(message)));
        assert_eq!(fault["ctx"], *context, "{fields}");
    }
}

/// One entry of a list with these fields over those that it must have.
fn entry(name: &str, fields: &Value) -> Value {
    let mut entry = match name {
        "mcp_servers" => json!({"name": "a", "url": "https://a.example"}),
        _ => json!({"profile": "p"}),
    };
    entry.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    json!({name: [entry]})
}

const NO_TEXT: &str = "Input should be a valid string";
const TOO_SHORT: &str = "String should have at least 1 character";

#[test]
fn every_rule_of_a_server_has_its_words() {
    let (least, none) = (json!({"min_length": 1}), Value::Null);
    let long = |most: usize| format!("String should have at most {most} characters");
    for (fields, place, message, context) in [
        (json!({"name": ""}), json!([0, "name"]), TOO_SHORT, &least),
        (
            json!({"name": "n".repeat(129)}),
            json!([0, "name"]),
            &*long(128),
            &json!({"max_length": 128}),
        ),
        (json!({"url": ""}), json!([0, "url"]), TOO_SHORT, &least),
        (json!({"url": null}), json!([0, "url"]), NO_TEXT, &none),
        (
            json!({"purpose_hint": "h".repeat(2001)}),
            json!([0, "purpose_hint"]),
            &*long(2000),
            &json!({"max_length": 2000}),
        ),
        (
            json!({"allowed_tools": "x"}),
            json!([0, "allowed_tools"]),
            "Input should be a valid list",
            &none,
        ),
        (json!({"allowed_tools": [7]}), json!([0, "allowed_tools", 0]), NO_TEXT, &none),
    ] {
        check_fault(&entry("mcp_servers", &fields), &place, message, context);
    }
    let no_list = json!({"mcp_servers": "x"});
    check_fault(&no_list, &json!([]), "Input should be a valid list", &none);
    let no_object = "Input should be a valid dictionary or object to extract fields from";
    check_fault(&json!({"mcp_servers": ["x"]}), &json!([0]), no_object, &none);
    let many = vec![json!({"name": "a", "url": "b"}); 51];
    let message = "List should have at most 50 items after validation, not 51";
    let context = json!({"field_type": "List", "max_length": 50, "actual_length": 51});
    check_fault(&json!({"mcp_servers": many}), &json!([]), message, &context);
}

#[test]
fn every_rule_of_a_guardrail_has_its_words() {
    let modes = "'block' or 'monitor'";
    let moments = "'input' or 'output'";
    let wrong = |words: &str| (format!("Input should be {words}"), json!({"expected": words}));
    for (fields, place, (message, context)) in [
        (json!({"on": ["input", "both"]}), json!([0, "on", 1]), wrong(moments)),
        (json!({"mode": 5}), json!([0, "mode"]), wrong(modes)),
        (json!({"on_unavailable": "x"}), json!([0, "on_unavailable"]), wrong(modes)),
        (json!({"url": ""}), json!([0, "url"]), (TOO_SHORT.to_owned(), json!({"min_length": 1}))),
        (
            json!({"validate_kwargs": []}),
            json!([0, "validate_kwargs"]),
            ("Input should be a valid dictionary".to_owned(), Value::Null),
        ),
    ] {
        check_fault(&entry("guardrails", &fields), &place, &message, &context);
    }
    let message = "List should have at most 8 items after validation, not 9";
    let context = json!({"field_type": "List", "max_length": 8, "actual_length": 9});
    let many = json!({"guardrails": vec![json!({"profile": "p"}); 9]});
    check_fault(&many, &json!([]), message, &context);
}

#[test]
fn rounds_and_the_header_have_bounds() {
    let rounds = |rounds: Value| json!({"max_tool_iterations": rounds});
    let least = "Input should be greater than or equal to 1";
    check_fault(&rounds(json!(0)), &json!([]), least, &json!({"ge": 1}));
    let most = "Input should be less than or equal to 25";
    check_fault(&rounds(json!(26)), &json!([]), most, &json!({"le": 25}));
    let half = "Input should be a valid integer, got a number with a fractional part";
    check_fault(&rounds(json!(1.5)), &json!([]), half, &Value::Null);
    // Only chat limits the header.
    let long = json!({"tools_header": "h".repeat(5000)});
    assert!(claimed(Messages, &long, false).header.is_some());
    assert_eq!(faults(Chat, &long)[0]["ctx"], json!({"max_length": 4000}));
}

#[test]
fn no_fault_shows_a_token() {
    for fields in [
        json!({"mcp_servers": [{"authorization_token": "hush"}]}),
        json!({"mcp_servers": [{"name": "a", "url": "x", "authorization_token": ["hush"]}]}),
        json!({"mcp_servers": {"name": "a", "authorization_token": "hush"}}),
        json!({"mcp_servers": vec![json!({"authorization_token": "hush"}); 51]}),
        json!({"mcp_servers": [[{"authorization_token": "hush"}]]}),
    ] {
        let shown = Value::from(faults(Chat, &fields)).to_string();
        assert!(!shown.contains("hush"), "{shown}");
    }
    let shown = faults(Chat, &json!({"mcp_servers": [{"authorization_token": "hush"}]}));
    assert_eq!(shown[0]["input"], json!({"authorization_token": "[redacted]"}));
}

#[test]
fn a_workspace_says_what_the_request_does_not() {
    let fields = json!({"max_tool_iterations": 20, "tools": [{"type": "otari_web_search", "allowed_domains": [],
        "provider_options": {"a": 1}}, {"type": "otari_code_execution"}]});
    let mut wanted = claimed(Chat, &fields, false);
    let policy = json!({"enabled": true, "max_results": 4, "allowed_domains": ["a.example"], "purpose_hint": "w",
        "provider_options": {"a": 0, "b": 2}});
    wanted.merge_search(&WebSearch::read(policy.to_string().as_bytes()).unwrap());
    let search = wanted.search.as_ref().unwrap();
    assert_eq!(
        (search.results(Some(9)), &*search.allowed_domains),
        (4, &["a.example".to_owned()][..])
    );
    assert_eq!(search.provider_options, *json!({"a": 1, "b": 2}).as_object().unwrap());
    assert_eq!(search.purpose_hint.as_deref(), Some("w"));
    let policy = json!({"enabled": true, "max_iterations": 5, "default_purpose_hint": "c"});
    wanted.merge_code(&CodeExecution::read(policy.to_string().as_bytes()).unwrap());
    assert_eq!((wanted.rounds, wanted.code.unwrap().purpose_hint.as_deref()), (5, Some("c")));
    let mut plain = Wanted::default();
    plain.merge_code(&CodeExecution::read(policy.to_string().as_bytes()).unwrap());
    assert_eq!(plain.rounds, DEFAULT_ROUNDS, "only a loop that runs code is bound by it");
}

#[test]
fn domains_hold_for_what_is_below_them() {
    let tool =
        json!({"allowed_domains": ["A.example", "b.example."], "blocked_domains": ["x.a.example"]});
    let search = SearchTool::of(tool.as_object().unwrap().clone());
    for (host, is_admitted) in [
        ("a.example", true),
        ("www.A.example.", true),
        ("b.example", true),
        ("x.a.example", false),
        ("y.x.a.example", false),
        ("xa.example", false),
        ("example", false),
    ] {
        assert_eq!(search.admits(host), is_admitted, "{host}");
    }
    let all = SearchTool::default();
    assert!(all.admits("anything") && all.results(None) == 5 && all.results(Some(99)) == 20);
}

#[test]
fn the_request_says_how_its_stream_looks() {
    let options = |protocol, fields: &Value| {
        let body = body(protocol, fields);
        let request = Request::read(protocol, &body).unwrap();
        let wanted = claim(&request, &body, true).unwrap();
        let options = Options::of(&request, &body, &wanted);
        (options.shows_usage, options.marks_search, options.chains)
    };
    let ours = json!({"tools": [{"type": "otari_web_search"}]});
    let native = json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]});
    let shown = json!({"stream": true, "stream_options": {"include_usage": true}});
    assert_eq!(options(Chat, &ours), (false, false, false));
    assert_eq!(options(Chat, &shown), (true, false, false));
    assert_eq!(options(Messages, &ours), (false, false, false));
    assert_eq!(options(Messages, &native), (false, true, false));
    assert_eq!(options(Responses, &ours), (false, true, true));
    assert_eq!(options(Responses, &json!({"store": false})), (false, false, false));
}
