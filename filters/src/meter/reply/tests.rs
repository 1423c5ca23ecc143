//! The quick walk reads what serde reads.

use proptest::prelude::*;

use super::*;
use crate::protocol::Protocol::{Chat, Messages, Responses};
use crate::protocol::scan::damaged;

const PROTOCOLS: [Protocol; 3] = [Chat, Messages, Responses];

/// As providers write them.
const ANSWERS: [&str; 6] = [
    r#"{"id":"chatcmpl-1","object":"chat.completion","created":1763800000,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"\"H\u00e9\ud83d\"\n","refusal":null},"finish_reason":"stop"}],"usage":{"prompt_tokens":128,"completion_tokens":10,"total_tokens":138,"prompt_tokens_details":{"cached_tokens":64,"audio_tokens":0,"cache_creation_token_details":{"ephemeral_5m_input_tokens":1,"ephemeral_1h_input_tokens":2}},"completion_tokens_details":{"reasoning_tokens":0}},"service_tier":"default"}"#,
    "{\n  \"id\": \"x\",\r\n\t\"choices\" : [ { \"a\" : [ -0.5e+10 , true , false , { } , [ ] ] } ] ,\n  \"usage\": { \"prompt_tokens\": 9 , \"prompt_tokens_details\": null, \"cost\": 1.5e-3 }\n}\n",
    r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[{"type":"text","text":"héllo"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":7,"cache_creation_input_tokens":12,"cache_read_input_tokens":3,"cache_creation":{"ephemeral_5m_input_tokens":2,"ephemeral_1h_input_tokens":10},"output_tokens":4,"service_tier":"standard"}}"#,
    r#"{"id":"resp_1","object":"response","status":"completed","error":null,"output":[{"type":"message","content":[]}],"usage":{"input_tokens":36,"input_tokens_details":{"cached_tokens":1,"cache_write_tokens":3},"output_tokens":87,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":123}}"#,
    r#"{"choices":null,"usage":{"prompt_tokens":0,"prompt_cache_hit_tokens":5,"cached_tokens":null,"completion_tokens":true}}"#,
    r#"{"error":{"message":"no","code":429},"usage":null}"#,
];

/// Read by serde all the same.
const ODD: [&str; 9] = [
    r#"[1,2,3,4,5,{"prompt_tokens":7}]"#,
    r#"{"\u0069d":1,"usage":{"prompt_tokens":3}}"#,
    r#"{"é":1,"id":"x"}"#,
    r#"{"id":1,"usage":{"prompt_tokens":12.0,"completion_tokens":-1,"total_tokens":1e3}}"#,
    r#"{"id":1,"usage":{"prompt_tokens":18446744073709551615}}"#,
    r#"{"id":1,"usage":{"input_tokens":23,"iterations":[{"input_tokens":180},null]}}"#,
    r#"{"id":1,"usage":[{"prompt_tokens":1}]}"#,
    r#"{"id":1,"usage":{"prompt_tokens":"5","prompt_tokens_details":[]}}"#,
    r#"{"id":1,"id":2}"#,
];

fn documents() -> Vec<Vec<u8>> {
    let deep = format!(r#"{{"id":1,"x":{}1{},"usage":{{}}}}"#, "[".repeat(100), "]".repeat(100));
    let all = ANSWERS.into_iter().chain(ODD).chain([deep.as_str()]);
    all.map(|document| document.as_bytes().to_vec()).collect()
}

#[test]
fn an_answer_as_providers_write_it_is_read_in_one_walk() {
    for protocol in PROTOCOLS {
        for answer in ANSWERS {
            let read = plain(protocol, answer.as_bytes());
            assert_eq!(read, Some(by_serde(protocol, answer.as_bytes())), "{answer}");
        }
        for odd in ODD {
            assert_eq!(plain(protocol, odd.as_bytes()), None, "it is for serde: {odd}");
        }
    }
}

#[test]
fn a_cut_answer_is_none() {
    for document in documents() {
        for end in 0..document.len() {
            for protocol in PROTOCOLS {
                let (cut, said) = (&document[..end], String::from_utf8_lossy(&document[..end]));
                assert_eq!(read_reply(protocol, cut), by_serde(protocol, cut), "{said}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_answer_means_what_serde_reads(body in damaged(documents())) {
        for protocol in PROTOCOLS {
            let said = String::from_utf8_lossy(&body);
            prop_assert_eq!(read_reply(protocol, &body), by_serde(protocol, &body), "{}", said);
        }
    }
}
