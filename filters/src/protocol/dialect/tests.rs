//! Edits for a provider, and nothing but them.

use proptest::prelude::Strategy as _;

use super::*;

fn sent(protocol: Protocol, provider: &str, body: &str) -> String {
    let body = Bytes::from(body.to_owned());
    let request = Request::read(protocol, &body).unwrap();
    let rewrite = Rewrite { model: "m", keep_user: false, provider };
    String::from_utf8(request.write_same(&body, &rewrite).concat()).unwrap()
}

const TURN: &str = r#""messages":[{"role":"user"}]"#;

fn chat(provider: &str, rest: &str) -> String {
    sent(Protocol::Chat, provider, &format!(r#"{{"model":"p:m",{TURN}{rest}}}"#))
}

#[test]
fn who_refuses_stream_options_gets_none() {
    for provider in
        ["groq", "cerebras", "together", "mistral", "cohere", "ollama", "watsonx", "azure"]
    {
        let plain = format!(r#"{{"model":"m",{TURN},"stream":true,"x":null}}"#);
        for options in
            ["", r#","stream_options":{"include_usage":true}"#, r#","stream_options":null"#]
        {
            assert_eq!(chat(provider, &format!(r#"{options},"stream":true,"x":null"#)), plain);
        }
        assert_eq!(chat(provider, r#","stream_options":{}"#), format!(r#"{{"model":"m",{TURN}}}"#));
    }
    assert!(chat("openai", r#","stream":true"#).contains("include_usage"));
    let asks = r#"{"model":"m","messages":[{"role":"user"}],"stream":true,"stream_options":{"include_usage":true}}"#;
    let request = Request::read(Protocol::Chat, &Bytes::from_static(asks.as_bytes())).unwrap();
    assert!(request.lacks_usage_chunk("groq") && !request.lacks_usage_chunk("openai"));
}

#[test]
fn deepseek_is_told_whether_to_think() {
    let with = |rest: &str| chat("deepseek", rest);
    let off = r#"{"thinking":{"type":"disabled"},"model""#;
    let on = r#"{"thinking":{"type":"enabled"},"model""#;
    assert!(with("").starts_with(off));
    assert!(with(r#","reasoning_effort":null"#).starts_with(off));
    assert!(with(r#","reasoning_effort":"none""#).starts_with(off));
    assert!(with(r#","reasoning_effort":"auto""#).starts_with(off));
    assert!(with(r#","reasoning_effort":"high""#).starts_with(on));
    let own = format!(r#"{{"model":"m",{TURN},"thinking":{{"type":"x"}}}}"#);
    assert_eq!(with(r#","thinking":{"type":"x"}"#), own);
    // A stream is asked for its usage as well.
    let both: serde_json::Value = serde_json::from_str(&with(r#","stream":true"#)).unwrap();
    assert_eq!(both["thinking"]["type"], "disabled");
    assert_eq!(both["stream_options"]["include_usage"], true);
    let body = Bytes::from(format!(r#"{{"model":"p:m",{TURN}}}"#));
    let request = Request::read(Protocol::Chat, &body).unwrap();
    for model in ["deepseek-chat", "deepseek-reasoner"] {
        let rewrite = Rewrite { model, keep_user: false, provider: "deepseek" };
        let sent = request.write_same(&body, &rewrite).concat();
        assert_eq!(sent, format!(r#"{{"model":"{model}",{TURN}}}"#).as_bytes());
    }
}

#[test]
fn llama_gets_types_and_keeps_every_other_byte() {
    let tools = |b: &str| {
        format!(
            r#","tools":[{{"type":"function","function":{{"parameters":{{"properties":{{"a":{b}}}}} , "n":1.0e0}}}},{{"x": "oneOf"}}],"z":1.50"#
        )
    };
    let sent = chat("llama", &tools(r#"{"oneOf":[]}"#));
    assert_eq!(
        sent,
        format!(r#"{{"model":"m",{TURN}{}}}"#, tools(r#"{"oneOf":[],"type":"string"}"#))
    );
    let typed = tools(r#"{ "oneOf":[],"type":"integer"}"#);
    assert_eq!(chat("llama", &typed), format!(r#"{{"model":"m",{TURN}{typed}}}"#));
    let odd = r#","tools":[7,{"function":{"parameters":"oneOf"}}]"#;
    assert_eq!(chat("llama", odd), format!(r#"{{"model":"m",{TURN}{odd}}}"#));
}

#[test]
fn huggingface_gets_no_parallel_tool_calls() {
    let rest = r#","parallel_tool_calls":true,"n":1"#;
    assert_eq!(chat("huggingface", rest), format!(r#"{{"model":"m",{TURN},"n":1}}"#));
    assert_eq!(chat("openai", rest), format!(r#"{{"model":"m",{TURN}{rest}}}"#));
}

#[test]
fn claude_on_vertex_is_named_by_its_address() {
    for body in [
        r#"{"model":"p:m","max_tokens":1,"messages":[{}],"betas":["a"]}"#,
        r#"{"max_tokens":1,"messages":[{}],"betas":["a"],"anthropic_version":"x","model":"p:m"}"#,
        r#"{"anthropic_version":"x","betas":null,"model":"p:m","max_tokens":1,"messages":[{}]}"#,
    ] {
        assert_eq!(
            sent(Protocol::Messages, "vertexaianthropic", body),
            r#"{"anthropic_version":"vertex-2023-10-16","max_tokens":1,"messages":[{}]}"#
        );
    }
}

#[test]
fn betas_move_into_a_header() {
    let body = Bytes::from_static(
        br#"{"model":"m","max_tokens":1,"messages":[{}],"betas":["b-1","context-management-2025-06-27"],"context_management":{"edits":[{"type":"compact_20260112"},{"type":"clear_thinking_20251015"},{"type":"new"}]}}"#,
    );
    let request = Request::read(Protocol::Messages, &body).unwrap();
    let got = request.betas(&body, Some("own, b-1,compact-2026-01-12 ,own")).unwrap().unwrap();
    assert_eq!(got, "b-1,context-management-2025-06-27,compact-2026-01-12,own");
    let rewrite = Rewrite { model: "m", keep_user: true, provider: "anthropic" };
    let sent = String::from_utf8(request.write_same(&body, &rewrite).concat()).unwrap();
    assert!(!sent.contains("betas") && sent.contains("context_management"), "{sent}");
    // Another gateway reads them itself.
    let rewrite = Rewrite { provider: "otari", ..rewrite };
    assert_eq!(request.write_same(&body, &rewrite).concat(), body);

    let betas = |rest: &str, header| {
        let body = format!(r#"{{"model":"m","max_tokens":1,"messages":[{{}}]{rest}}}"#);
        let body = Bytes::from(body);
        Request::read(Protocol::Messages, &body).unwrap().betas(&body, header)
    };
    assert_eq!(betas("", None).unwrap(), None);
    assert_eq!(betas(r#","betas":null,"context_management":7"#, None).unwrap(), None);
    assert_eq!(betas("", Some("a")).unwrap().as_deref(), Some("a"));
    for (value, is_fine) in [("50000", true), ("49999", false), ("true", false), ("6e4", false)] {
        let rest = format!(
            r#","context_management":{{"edits":[{{"type":"compact_20260112","trigger":{{"type":"input_tokens","value":{value}}}}}]}}"#
        );
        assert_eq!(betas(&rest, None).is_ok(), is_fine, "{value}");
    }
    let many = "a,".repeat(65);
    assert!(betas("", Some(&many)).is_err());
    for wrong in [r#""a""#, "[1]", r#"["a\r\nx-api-key: b"]"#, r#"[""]"#, r#"["a,b"]"#] {
        let refused = betas(&format!(r#","betas":{wrong}"#), None).unwrap_err();
        assert_eq!(refused.code.status().as_u16(), 400, "{wrong}");
    }
}

#[test]
fn what_a_provider_does_not_have_is_refused_by_name() {
    let refused = |protocol, provider, rest: &str| {
        let body = format!(r#"{{"model":"m","max_tokens":1,{TURN}{rest}}}"#);
        let request = Request::read(protocol, &Bytes::from(body)).unwrap();
        request.refuse(provider).err().map(|refused| refused.message.into_owned())
    };
    let format = r#","response_format":{"type":"json_object"}"#;
    for provider in ["zai", "inception", "minimax", "llamafile"] {
        let message = refused(Protocol::Chat, provider, format).unwrap();
        assert!(message.contains(provider) && message.contains("response_format"), "{message}");
    }
    assert_eq!(refused(Protocol::Chat, "zai", r#","response_format":null"#), None);
    assert_eq!(refused(Protocol::Chat, "openai", format), None);
    for rest in [
        r#","top_k":1"#,
        r#","stop_sequences":["a"]"#,
        r#","betas":["a"]"#,
        r#","context_management":{}"#,
    ] {
        assert!(refused(Protocol::Messages, "meta", rest).unwrap().contains("meta"), "{rest}");
        assert_eq!(refused(Protocol::Messages, "anthropic", rest), None);
        assert_eq!(refused(Protocol::Chat, "meta", rest), None);
    }
}

/// Every provider that wants something otherwise, and one that does not.
const PROVIDERS: [&str; 16] = [
    "azure",
    "azureanthropic",
    "anthropic",
    "cerebras",
    "cohere",
    "deepseek",
    "groq",
    "huggingface",
    "llama",
    "meta",
    "mistral",
    "ollama",
    "openai",
    "together",
    "vertexaianthropic",
    "watsonx",
];

proptest::proptest! {
    #[test]
    fn whatever_the_fields_and_their_order_what_is_sent_is_json_with_all_others(
        order in proptest::sample::subsequence((0..10).collect::<Vec<usize>>(), 0..10)
            .prop_shuffle(),
        space in "[ \n]{0,2}",
    ) {
        let fields = [
            r#""stream":true"#,
            r#""stream_options":{"include_usage":true}"#,
            r#""tools":[{"function":{"parameters":{"properties":{"a":{"oneOf":[]}}}}}]"#,
            r#""parallel_tool_calls":null"#,
            r#""thinking":{"type":"x"}"#,
            r#""reasoning_effort":"low""#,
            r#""betas":["a"]"#,
            r#""anthropic_version":"x""#,
            r#""context_management":{"edits":[]}"#,
            r#""api_key":"k""#,
        ];
        let required = [r#""model":"p:m""#, r#""messages":[{"role":"user"}]"#, r#""max_tokens":1"#];
        let all: Vec<_> = order.iter().map(|at| fields[*at]).chain(required).collect();
        let body = format!("{space}{{{space}{}{space}}}", all.join(&format!("{space},{space}")));
        let came: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&body).unwrap();
        let touched = ["model", "stream_options", "tools", "parallel_tool_calls", "thinking", "betas",
            "anthropic_version", "api_key"];
        for protocol in [Protocol::Chat, Protocol::Messages] {
            for provider in PROVIDERS {
                let sent: serde_json::Map<String, serde_json::Value> =
                    serde_json::from_str(&sent(protocol, provider, &body)).unwrap();
                for (name, value) in came.iter().filter(|(name, _)| !touched.contains(&&***name)) {
                    proptest::prop_assert_eq!(sent.get(name), Some(value), "{} {}", provider, name);
                }
                proptest::prop_assert!(!sent.contains_key("api_key"));
            }
        }
    }
}
