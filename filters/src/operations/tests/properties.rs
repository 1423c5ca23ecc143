//! What holds for every vector, every document and every form.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{Asked, Kind, Told};
use super::upstream;

/// What a caller gets who wants base64 of a provider that has floats alone.
fn as_base64(provider: &str, answer: String) -> Value {
    let body = Bytes::from_static(br#"{"model":"m","input":"x","encoding_format":"base64"}"#);
    let asked = Asked::read(Kind::Embeddings, &body, None).unwrap();
    let sent = upstream(provider, None, &[]).operation(&asked, &body, "m", true).unwrap();
    let answered = sent.inbound.answer(&answer.into(), &Told::default()).unwrap();
    serde_json::from_slice(&answered.body.unwrap()).unwrap()
}

proptest! {
    #[test]
    fn base64_holds_the_same_floats(
        vectors in prop::collection::vec(prop::collection::vec(any::<f32>().prop_filter("finite", |f| f.is_finite()), 1..40), 1..4)
    ) {
        let usage = json!({"prompt_tokens": 1, "total_tokens": 1});
        let data: Vec<Value> = vectors.iter().map(|vector| json!({"embedding": vector, "index": 0})).collect();
        for answer in [
            ("together", json!({"object": "list", "data": data, "usage": usage})),
            ("ollama", json!({"embeddings": vectors, "prompt_eval_count": 1})),
        ] {
            let got = as_base64(answer.0, answer.1.to_string());
            prop_assert_eq!(got["data"].as_array().unwrap().len(), vectors.len());
            for (item, vector) in got["data"].as_array().unwrap().iter().zip(&vectors) {
                let bytes = STANDARD.decode(item["embedding"].as_str().unwrap()).unwrap();
                let floats: Vec<f32> = bytes
                    .chunks_exact(4)
                    .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
                    .collect();
                prop_assert_eq!(&floats, vector);
            }
        }
    }

    /// Whatever the document, and wherever it is cut: what passes is counted as what is read whole.
    #[test]
    fn a_tally_counts_what_a_parser_counts(document in object(), cut in 1_usize..9, pretty in any::<bool>()) {
        let text = if pretty { format!("{document:#}") } else { document.to_string() };
        let body = Bytes::from_static(br#"{"model":"m","prompt":"x"}"#);
        let asked = Asked::read(Kind::Images, &body, None).unwrap();
        let sent = upstream("openai", None, &[]).operation(&asked, &body, "m", true).unwrap();
        let mut tally = sent.inbound.tally();
        text.as_bytes().chunks(cut).for_each(|piece| tally.feed(piece));
        let seen = tally.finish();
        match sent.inbound.answer(&text.clone().into(), &Told::default()) {
            Ok(answered) => prop_assert_eq!(seen, answered.measured, "{}", text),
            Err(_) => prop_assert!(!document["data"].is_array(), "{}", text),
        }
    }

    #[test]
    fn bytes_that_are_no_answer_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let body = Bytes::from_static(br#"{"model":"m","input":"x","query":"q","documents":["d"],"encoding_format":"base64"}"#);
        for (kind, provider) in [
            (Kind::Embeddings, "gemini"),
            (Kind::Embeddings, "cohere"),
            (Kind::Embeddings, "together"),
            (Kind::Moderations, "mistral"),
            (Kind::Rerank, "cohere"),
        ] {
            let asked = Asked::read(kind, &body, None).unwrap();
            let sent = upstream(provider, None, &[]).operation(&asked, &body, "m", true).unwrap();
            let whole = Bytes::from(bytes.clone());
            let mut tally = sent.inbound.tally();
            tally.feed(&whole);
            tally.finish();
            let _failed = sent.inbound.answer(&whole, &Told::default());
            let _refused = Asked::read(kind, &whole, None);
        }
    }
}

/// Objects with the fields that are looked for, at the top and below.
fn object() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i32>().prop_map(Value::from),
        prop::sample::select(vec!["", "a\"b", "\\", "]},{[", "data", "é\n"]).prop_map(Value::from),
    ];
    let name = || {
        prop::sample::select(vec!["data", "usage", "x", "da\"ta", "total_tokens", "prompt_tokens"])
    };
    let value = leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name().prop_map(str::to_owned), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    prop::collection::btree_map(name().prop_map(str::to_owned), value, 0..5)
        .prop_map(|map| Value::Object(map.into_iter().collect()))
}
