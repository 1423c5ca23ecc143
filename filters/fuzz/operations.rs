//! The target of the operations beside generation: any bytes as a request, and as a provider's answer.

use std::time::Duration;

use bytes::Bytes;
use otari_filters::operations::{Asked, Kind, Payload, Refused, Sent, Told};
use otari_filters::providers;
use otari_filters::upstream::{Draft, Upstream};

use super::{Input, check_json, is_json};

/// One of every format.
const WAYS: &[(Kind, &str)] = &[
    (Kind::Embeddings, "openai"),
    (Kind::Embeddings, "together"),
    (Kind::Embeddings, "voyage"),
    (Kind::Embeddings, "mistral"),
    (Kind::Embeddings, "azure"),
    (Kind::Embeddings, "gemini"),
    (Kind::Embeddings, "bedrock"),
    (Kind::Embeddings, "cohere"),
    (Kind::Embeddings, "ollama"),
    (Kind::Embeddings, "watsonx"),
    (Kind::Embeddings, "sagemaker"),
    (Kind::Moderations, "openai"),
    (Kind::Rerank, "cohere"),
    (Kind::Rerank, "voyage"),
    (Kind::Images, "openai"),
    (Kind::Speech, "openai"),
];

const REQUEST: &[u8] = br#"{"model":"m","input":"x","query":"q","documents":["d"],"prompt":"p","voice":"v","encoding_format":"base64"}"#;

pub(super) fn operations(input: &Input<'_>) {
    let (kind, provider) = WAYS[usize::from(input.choice) % WAYS.len()];
    if let Some(sent) = ask(kind, provider, input.bytes) {
        let Payload::Json(pieces) = sent.body else { panic!("{provider}: a form") };
        let body = pieces.concat();
        check_json(input.bytes.len(), &body, provider);
    }
    let sent = ask(kind, provider, REQUEST).expect("a request that every one takes");
    let body = Bytes::copy_from_slice(input.bytes);
    let mut tally = sent.inbound.tally();
    input.pieces().into_iter().for_each(|piece| tally.feed(piece));
    let seen = tally.finish();
    let Ok(answered) = sent.inbound.answer(&body, &Told { id: "id", input_tokens: None }) else {
        return;
    };
    match answered.body {
        Some(out) => check_json(input.bytes.len(), &out, provider),
        // A longer usage is not kept while it passes.
        None if !sent.inbound.is_unread() && input.bytes.len() < 16 << 10 => {
            assert!(is_json(input.bytes));
            assert_eq!(seen, answered.measured, "{provider}: passing, and whole");
        }
        None => {}
    }
}

/// What a provider is sent of a request; `None`: it is refused.
fn ask(kind: Kind, provider: &'static str, body: &[u8]) -> Option<Sent> {
    let body = Bytes::copy_from_slice(body);
    let asked = Asked::read(kind, &body, None).ok()?;
    let draft = Draft {
        instance: provider,
        kind: providers::find(provider).expect("a known provider"),
        base_url: "https://api.example/v1",
        api_key: None,
        headers: &[],
        client_settings: &[],
        max_retries: 0,
        first_byte_timeout: Duration::from_secs(1),
        idle_timeout: Duration::from_secs(1),
        address: None,
    };
    let upstream = Upstream::new(&draft).expect("a good draft");
    match upstream.operation(&asked, &body, "m", true) {
        Ok(sent) => Some(sent),
        Err(Refused::Rejected(_)) => None,
        Err(Refused::NoWay(why)) => panic!("{provider}: {why:?}"),
    }
}
