//! The quick walk over a body reads what serde reads.

use proptest::prelude::*;

use super::*;
use crate::protocol::json::range_of;
use crate::protocol::scan::damaged;
use crate::protocol::{chat, messages, responses};

const FORMATS: [&Format; 3] = [&chat::FORMAT, &messages::FORMAT, &responses::FORMAT];

/// As clients write them.
const PLAIN: [&str; 9] = [
    r#"{"model":"p:m","messages":[{"role":"user","content":"Tell me a story. \"H\u00e9\" \ud83d\ude00 é\n"}],"stream":false}"#,
    "{ \"model\" : \"p:m\" ,\n\t\"messages\" : [ { \"role\" : \"user\" , \"content\" : \"x\" } ] ,\r\n \"temperature\" : 0.5e-1 }\n",
    r#"{"messages":[{"role":"user","content":[{"type":"text","text":"abc"},{"type":"image_url","image_url":{"url":"data:xx"}},{"type":"file","file":{}}]},{"role":"assistant","content":null,"tool_calls":[{"id":"x","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},{"role":"tool","tool_call_id":"x","content":"7"}],"model":"m","tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],"stream_options":{"include_usage":true},"max_tokens":1e3,"n":2,"user":"u"}"#,
    r#"{"model":"m","max_tokens":5,"system":[{"type":"text","text":"abc","cache_control":{"type":"ephemeral"}}],"messages":[{"role":"user","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"iVBOR"}},{"type":"document","source":{"data":"abcdef","type":"text"}}]},{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"EqQ"},{"type":"tool_use","id":"t","name":"Read","input":{"file":"a.rs","type":"x","n":[1,-2.5,true,null]}}]},{"content":"no role"},7],"metadata":{"user_id":"u"},"top_k":3}"#,
    r#"{"model":"m","input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"abc"},{"type":"input_image","image_url":"data:x"}],"internal_chat_message_metadata_passthrough":{"a":1}},{"type":"function_call_output","call_id":"c","output":"12"}],"instructions":"be brief","client_metadata":{"x":"y"}}"#,
    r#"{"model":"m","input":"hello","api_key":"k","base_url":"u","guardrails":[],"mcp_servers":[{"name":"n"}],"session_label":"s","unknown":{"deep":[[["\ud800"]]]}}"#,
    r#"{"model":"a","model":"b","messages":null,"input":{"a":"b"},"system":true,"messages":[]}"#,
    r#"{"messages":[{"role":"u","content":{"source":{"type":"content","content":[{"source":{"url":"x"}}]}},"audio":"y"}]}"#,
    "{}",
];

/// Read by serde all the same, or not at all.
const ODD: [&str; 8] = [
    r#"{"m\u006fdel":"m","messages":[]}"#,
    r#"{"messages":[{"r\u006fle":"user"}]}"#,
    r#"{"messages":[1e3,1E-3]}"#,
    r#"{"messages":["\ud800"]}"#,
    r#"{"messages":["\udc00\ud800"]}"#,
    r#"{"é":1}"#,
    "[1]",
    r#"{"messages":[]} x"#,
];

fn documents() -> Vec<Vec<u8>> {
    let deep = format!(r#"{{"messages":{}1{}}}"#, "[".repeat(140), "]".repeat(140));
    let long = format!(r#"{{"messages":[{{"content":"{}é"}}]}}"#, "0123456789".repeat(40));
    let all = PLAIN.into_iter().chain(ODD).chain([deep.as_str(), long.as_str()]);
    all.map(|document| document.as_bytes().to_vec()).collect()
}

/// All that was read, each value with its place.
fn told(body: &[u8], top: &Top<'_>) -> String {
    let at = |raw: &&RawValue| range_of(body, raw);
    let named = |list: &[(&'static str, &RawValue)]| -> Vec<_> {
        list.iter().map(|(name, raw)| (*name, at(raw))).collect()
    };
    let places = |list: &[&RawValue]| list.iter().map(at).collect::<Vec<_>>();
    let prompt = top.prompt.iter().map(|(name, content)| {
        let Content { chars, shape, no_object, no_role, has_media, passthrough } = content;
        format!(
            "{name} {chars} {shape:?} {no_object:?} {no_role:?} {has_media} {:?}",
            places(passthrough)
        )
    });
    let prompt: Vec<String> = prompt.collect();
    format!(
        "{:?} {:x} {:?} {prompt:?} {:?} {:?} {:?} {:?} {:?} {}",
        named(&top.known),
        top.present,
        named(&top.noted),
        places(&top.unwanted),
        places(&top.codex),
        named(&top.features),
        top.seen,
        top.repeated,
        top.is_object
    )
}

fn check(format: &'static Format, body: &[u8]) {
    // Nobody reads a body that is no text.
    let Ok(text) = std::str::from_utf8(body) else { return };
    if let Some(top) = Top::plain(format, text) {
        let by_serde = Top::by_serde(format, text).map(|top| told(body, &top));
        assert_eq!(by_serde.map_err(|error| error.to_string()), Ok(told(body, &top)), "{text}");
    }
}

#[test]
fn a_body_as_clients_write_it_is_read_in_one_walk() {
    for format in FORMATS {
        for body in PLAIN {
            assert!(Top::plain(format, body).is_some(), "{body}");
            check(format, body.as_bytes());
        }
    }
    for odd in ODD {
        assert!(Top::plain(&chat::FORMAT, odd).is_none(), "it is for serde: {odd}");
    }
}

#[test]
fn a_cut_body_is_never_taken_for_a_whole_one() {
    for document in documents() {
        for end in 0..document.len() {
            FORMATS.into_iter().for_each(|format| check(format, &document[..end]));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_body_means_what_serde_reads(body in damaged(documents())) {
        FORMATS.into_iter().for_each(|format| check(format, &body));
    }
}
