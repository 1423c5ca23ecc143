//! Writes OpenAI embeddings: a vector per input that depends on the input alone.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::answer::{put, quoted};
use super::call::{Embedding, Inputs, tokens};
use super::script::{Script, Strict, Usage};

/// Length of a vector when none is asked for.
pub(super) const DIMENSIONS: u32 = 8;

/// Longest vector: bounds the answer.
pub(super) const MAX_DIMENSIONS: u32 = 8192;

/// Appends the answer.
pub(super) fn whole(
    call: &Embedding<'_>,
    inputs: &Inputs<'_>,
    script: &Script<'_>,
    out: &mut Vec<u8>,
) {
    // Together knows no other form than numbers.
    let base64 = call.encoding_format.as_deref() == Some("base64")
        && script.strict != Some(Strict::Together);
    let dimensions =
        call.dimensions.or(call.output_dimension).unwrap_or(DIMENSIONS).clamp(1, MAX_DIMENSIONS);
    let items = items(inputs);
    put(out, &[r#"{"object":"list","data":["#]);
    for (index, (seed, _)) in items.iter().enumerate() {
        if index > 0 {
            put(out, &[","]);
        }
        put(out, &[r#"{"object":"embedding","index":"#, &index.to_string(), r#","embedding":"#]);
        let vector = vector(*seed, dimensions);
        if base64 {
            let bytes: Vec<u8> = vector.flat_map(f32::to_le_bytes).collect();
            put(out, &["\"", &BASE64_STANDARD.encode(bytes), "\"}"]);
        } else {
            let numbers: Vec<String> = vector.map(|v| v.to_string()).collect();
            put(out, &["[", &numbers.join(","), "]}"]);
        }
    }
    put(out, &[r#"],"model":"#, &quoted(&call.model)]);
    let total = items.iter().map(|(_, tokens)| tokens).sum::<u64>().to_string();
    if script.strict == Some(Strict::Voyage) {
        put(out, &[r#","usage":{"total_tokens":"#, &total, "}"]);
    } else if script.usage != Usage::Never {
        let usage = [r#","usage":{"prompt_tokens":"#, &total, r#","total_tokens":"#, &total, "}"];
        put(out, &usage);
    }
    put(out, &["}"]);
}

/// Seed and token count of each input.
fn items(inputs: &Inputs<'_>) -> Vec<(u32, u64)> {
    let text = |s: &str| (crc32fast::hash(s.as_bytes()), tokens(s.chars().count() as u64));
    let list = |t: &Vec<u64>| {
        let bytes: Vec<u8> = t.iter().flat_map(|n| n.to_le_bytes()).collect();
        (crc32fast::hash(&bytes), t.len().max(1) as u64)
    };
    match inputs {
        Inputs::One(one) => vec![text(one)],
        Inputs::Many(many) => many.iter().map(|s| text(s)).collect(),
        Inputs::Tokens(tokens) => vec![list(tokens)],
        Inputs::TokenLists(lists) => lists.iter().map(list).collect(),
    }
}

/// Numbers from -1 to 1 in steps of 1/128: short as text, and exact in both encodings.
pub(super) fn vector(seed: u32, dimensions: u32) -> impl Iterator<Item = f32> {
    let mut state = seed | 1;
    (0..dimensions).map(move |_| {
        // Marsaglia's xorshift.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f32::from((state % 257) as u16) / 128.0 - 1.0
    })
}
