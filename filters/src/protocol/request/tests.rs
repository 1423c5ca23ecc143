//! The rules of reading and rewriting, format by format.

use serde_json::{Map, Value, json};

use super::super::top::{GATEWAY_FIELDS, STEERING_FIELDS};
use super::Protocol::{Chat, Messages, Responses};
use super::*;

const PLAIN: Rewrite<'_> = Rewrite { model: "m", keep_user: false, provider: "other" };
const KEEPING: Rewrite<'_> = Rewrite { model: "m", keep_user: true, provider: "openai" };

fn read(protocol: Protocol, body: &str) -> Request {
    Request::read(protocol, &Bytes::from(body.to_owned())).unwrap()
}

fn rewritten(protocol: Protocol, body: &str, rewrite: &Rewrite<'_>) -> String {
    let body = Bytes::from(body.to_owned());
    let request = Request::read(protocol, &body).unwrap();
    String::from_utf8(request.write_same(&body, rewrite).concat()).unwrap()
}

#[test]
fn only_the_model_changes_in_a_plain_call() {
    for (protocol, body) in [
        (
            Chat,
            r#"{ "x": 1.0e0, "model":"p:m", "messages":[{"role":"user","content":"h\u00e9"}],"z":{"a":[]} }"#,
        ),
        (
            Messages,
            r#"{"model":"p:m","max_tokens":1e3,"messages":[{"role":"user","content":"h\u00e9"},{"role":"system","content":[{"type":"new"}]}],"context_management":{"edits":[]},"thinking":{"type":"adaptive"},"stream":true,"stream_options":7}"#,
        ),
        (
            Responses,
            r#"{"input":[{"type":"message","role":"developer","content":[]}],"model":"p:m","stream":true,"store":false,"tools":[{"type":"namespace","tools":[]}],"prompt_cache_key":"k"}"#,
        ),
    ] {
        let want = body.replace("\"p:m\"", "\"m\"");
        assert_eq!(rewritten(protocol, body, &PLAIN), want);
        assert_eq!(rewritten(protocol, body, &KEEPING), want);
    }
}

#[test]
fn gateway_and_steering_fields_are_taken_out() {
    for (protocol, own) in [
        (Chat, r#""messages":[{"role":"user"}]"#),
        (Messages, r#""messages":[{}],"max_tokens":1"#),
        (Responses, r#""input":"hi""#),
    ] {
        let body = format!(
            r#"{{"api_key":"k","model":"p:m",{own},"guardrails":null,"ap\u0069_base":"http://evil","seed":1,"session_label":"s"}}"#
        );
        let want = format!(r#"{{"model":"m",{own},"seed":1}}"#);
        assert_eq!(rewritten(protocol, &body, &PLAIN), want);
    }
}

#[test]
fn streams_of_chunks_ask_for_usage() {
    let with = |rest: &str| {
        let body =
            format!(r#"{{"model":"p:m","messages":[{{"role":"user"}}],"stream":true{rest}}}"#);
        rewritten(Chat, &body, &PLAIN)
    };
    assert_eq!(
        with(""),
        r#"{"stream_options":{"include_usage":true},"model":"m","messages":[{"role":"user"}],"stream":true}"#
    );
    assert!(
        with(r#","stream_options":{"x":1,"include_usage":false}"#)
            .ends_with(r#""stream_options":{"x":1,"include_usage":true}}"#)
    );
    assert!(
        with(r#","stream_options":null"#).ends_with(r#""stream_options":{"include_usage":true}}"#)
    );
}

#[test]
fn a_caller_who_asks_for_usage_sees_it() {
    let silent =
        r#"{"model":"p:m","messages":[{"role":"user"}],"max_tokens":1,"input":"x","stream":true"#;
    let asks = format!(r#"{silent},"stream_options":{{"include_usage":true}}}}"#);
    let silent = format!("{silent}}}");
    assert!(!read(Chat, &asks).hides_usage());
    assert!(read(Chat, &silent).hides_usage());
    assert!(!read(Messages, &silent).hides_usage(), "the other formats always say it");
    assert!(!read(Responses, &silent).hides_usage());
}

#[test]
fn every_format_says_what_it_asks_for() {
    for (protocol, body, user, chars, output, choices) in [
        (
            Chat,
            r#"{"model":"p:m","messages":[{"role":"user","content":"hello"}],"user":"u","max_completion_tokens":7,"n":3,"tools":[{"type":"function"}]}"#,
            Some("u"),
            5,
            Some(7),
            3,
        ),
        (
            Messages,
            r#"{"model":"p:m","messages":[{"role":"user","content":"hello"}],"system":[{"type":"text","text":"abc"}],"metadata":{"user_id":"{\"device\":1}"},"max_tokens":-5,"n":3,"tools":[{"name":"t"}]}"#,
            Some(r#"{"device":1}"#),
            8,
            Some(0),
            1,
        ),
        (
            Messages,
            r#"{"model":"p:m","messages":[{"content":""}],"system":"abc","metadata":{"user_id":7},"max_tokens":5,"user":"not here"}"#,
            None,
            3,
            Some(5),
            1,
        ),
        (
            Responses,
            r#"{"model":"p:m","input":"hello","instructions":"be brief","max_output_tokens":9,"user":"u"}"#,
            Some("u"),
            13,
            Some(9),
            1,
        ),
        (
            Responses,
            r#"{"model":"p:m","input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"hello"}]},{"type":"reasoning","id":"rs_1","summary":[]}],"max_output_tokens":"none","user":""}"#,
            None,
            5,
            None,
            1,
        ),
    ] {
        let request = read(protocol, body);
        assert_eq!(request.protocol, protocol);
        assert_eq!(request.model, "p:m");
        assert_eq!(request.user.as_deref(), user, "{body}");
        assert_eq!(request.prompt_chars, chars, "{body}");
        assert_eq!((request.declared_output, request.choices), (output, choices), "{body}");
    }
}

#[test]
fn the_user_goes_on_where_it_is_a_label() {
    for (protocol, body, want) in [
        (
            Chat,
            r#"{"model":"p:m","messages":[{"role":"user"}],"user":"u"}"#,
            r#"{"model":"m","messages":[{"role":"user"}]}"#,
        ),
        (
            Messages,
            r#"{"model":"p:m","messages":[{}],"max_tokens":1,"metadata":{"a":1,"user_id":"u","b":2}}"#,
            r#"{"model":"m","messages":[{}],"max_tokens":1,"metadata":{"a":1,"b":2}}"#,
        ),
        (
            Messages,
            r#"{"model":"p:m","metadata":{"user_id" : "u"},"api_key":"k","messages":[{}],"max_tokens":1}"#,
            r#"{"model":"m","metadata":{},"messages":[{}],"max_tokens":1}"#,
        ),
        (Responses, r#"{"user":"u","model":"p:m","input":[]}"#, r#"{"model":"m","input":[]}"#),
    ] {
        assert_eq!(rewritten(protocol, body, &PLAIN), want);
        let kept = body.replace("\"p:m\"", "\"m\"").replace(r#""api_key":"k","#, "");
        assert_eq!(rewritten(protocol, body, &KEEPING), kept);
    }
}

#[test]
fn a_user_at_the_top_of_messages_never_goes_on() {
    let body =
        r#"{"model":"p:m","max_tokens":1,"user":"u","messages":[{}],"metadata":{"user_id":"v"}}"#;
    let expected = r#"{"model":"m","max_tokens":1,"messages":[{}],"metadata":{"user_id":"v"}}"#;
    assert_eq!(rewritten(Messages, body, &KEEPING), expected);
}

#[test]
fn metadata_of_codex_is_for_openai_alone() {
    let body = r#"{"model":"p:m","client_metadata":{"x":"y"},"input":[{"internal_chat_message_metadata_passthrough":{"a":1},"type":"message","content":[{"internal_chat_message_metadata_passthrough":"deeper"}]},{"id":"i","internal_chat_message_metadata_passthrough":null}],"session_label":null}"#;
    assert_eq!(
        rewritten(Responses, body, &PLAIN),
        r#"{"model":"m","input":[{"type":"message","content":[{"internal_chat_message_metadata_passthrough":"deeper"}]},{"id":"i"}]}"#
    );
    let kept = body.replace("\"p:m\"", "\"m\"").replace(r#","session_label":null"#, "");
    assert_eq!(rewritten(Responses, body, &KEEPING), kept);
    let chat = r#"{"model":"p:m","client_metadata":1,"messages":[{"role":"user","internal_chat_message_metadata_passthrough":1}]}"#;
    assert_eq!(rewritten(Chat, chat, &PLAIN), chat.replace("p:m", "m"));
}

#[test]
fn a_repeated_known_field_is_refused() {
    for (protocol, body, name) in [
        (Chat, r#"{"model":"a:b","messages":[{"role":"user"}],"model":"c:d"}"#, "model"),
        (
            Messages,
            r#"{"model":"a:b","messages":[{}],"max_tokens":1,"metadata":{"user_id":"a","user_\u0069d":"b"}}"#,
            "metadata.user_id",
        ),
        (Responses, r#"{"model":"a:b","input":"","input":"x"}"#, "input"),
    ] {
        let refused = Request::read(protocol, &Bytes::from_static(body.as_bytes())).unwrap_err();
        assert!(refused.message.contains(name), "{refused}");
    }
}

/// A request of these fields in this order, with this white space around everything.
fn body_of(fields: &[(String, Value)], space: &str) -> Bytes {
    let quoted = |name: &str| Value::from(name).to_string();
    let inner: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{space}{}{space}:{space}{value}{space}", quoted(name)))
        .collect();
    Bytes::from(format!("{space}{{{}}}{space}", inner.join(",")))
}

proptest::proptest! {
    #[test]
    fn an_edit_changes_what_it_must_and_nothing_else(
        protocol in proptest::sample::select(vec![Chat, Messages, Responses]),
        names in proptest::sample::subsequence(
            vec![
                "seed", "api_key", "user", "x", "guardrails", "base_url", "metadata", "stream", "session_label",
                "client_metadata", "mcp_servers",
            ],
            0..11,
        ),
        rotate in 0usize..14,
        space in "[ \n\t]{0,2}",
        text in "\\PC{0,20}",
        keep in proptest::bool::ANY,
    ) {
        const PASSTHROUGH: &str = "internal_chat_message_metadata_passthrough";
        let mut fields: Vec<(String, Value)> = names
            .iter()
            .map(|name| match *name {
                "stream" => ("stream".to_owned(), true.into()),
                "guardrails" | "session_label" => ((*name).to_owned(), Value::Null),
                "metadata" => ("metadata".to_owned(), json!({"a": text, "user_id": text})),
                "mcp_servers" => {
                    let server = json!({"name": "n", "url": format!("u{text}"), "x": text});
                    ("mcp_servers".to_owned(), json!([server]))
                }
                other => (other.to_owned(), text.as_str().into()),
            })
            .collect();
        let prompt = if protocol == Responses { "input" } else { "messages" };
        let item = json!({"role": "user", PASSTHROUGH: text, "content": text});
        fields.push(("model".into(), "p:m".into()));
        fields.push((prompt.into(), json!([item])));
        fields.push(("max_tokens".into(), 3.into()));
        let turn = rotate % fields.len();
        fields.rotate_left(turn);

        let body = body_of(&fields, &space);
        let request = Request::read(protocol, &body).unwrap();
        let provider = if keep { "openai" } else { "other" };
        let rewrite = Rewrite { model: "m", keep_user: keep, provider };
        let sent = request.write_same(&body, &rewrite).concat();
        let sent: Map<String, Value> = serde_json::from_slice(&sent).unwrap();

        let gone = |name: &str| {
            GATEWAY_FIELDS.contains(&name)
                || STEERING_FIELDS.contains(&name)
                || (name == "user" && (protocol == Messages || !keep))
                || (name == "client_metadata" && protocol == Responses && !keep)
        };
        let mut want: Vec<(String, Value)> =
            fields.into_iter().filter(|(name, _)| !gone(name)).collect();
        for (name, value) in &mut want {
            match name.as_str() {
                "model" => *value = "m".into(),
                "metadata" if protocol == Messages && !keep => *value = json!({"a": text}),
                "input" if !keep => *value = json!([{"role": "user", "content": text}]),
                _ => {}
            }
        }
        if names.contains(&"stream") && protocol == Chat {
            want.insert(0, ("stream_options".into(), json!({"include_usage": true})));
        }
        let got: Vec<_> = sent.into_iter().collect();
        proptest::prop_assert_eq!(got, want, "order and values survive");
    }
}

#[test]
fn a_body_that_is_no_text_is_refused_where_it_is_none() {
    for protocol in [Chat, Messages, Responses] {
        // A field that nobody here looks into.
        let body = Bytes::from_static(b"{\"model\":\"m\",\"x\":[\"\xff\"]}");
        let refused = Request::read(protocol, &body).unwrap_err();
        assert_eq!(refused.code, crate::rejection::Code::InvalidJson);
        let fault = &refused.detail.unwrap()[0];
        assert_eq!(
            (&fault["loc"][1], &fault["ctx"]["error"]),
            (&json!(19), &json!("Invalid UTF-8"))
        );
    }
}
