//! What holds for every damaged document and stream, and for those without an end.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use otari_filters::protocol::Protocol::{self, Chat, Messages, Responses};
use otari_filters::secret::Secret;
use otari_filters::translate::neutral::{AsCaller, Target};
use otari_filters::translate::{self, Spoken, State, Stream, Wire};
use proptest::prelude::*;

use super::packets;

const FORMATS: [Protocol; 3] = [Chat, Messages, Responses];
const WIRES: [Wire; 8] = [
    Wire::Chat,
    Wire::Messages,
    Wire::Responses,
    Wire::Gemini,
    Wire::Cohere,
    Wire::Ollama,
    Wire::Converse,
    Wire::SageMaker,
];

/// Providers whose dialect of chat is written in some way of its own.
const PROVIDERS: [&str; 9] =
    ["openai", "mistral", "watsonx", "deepseek", "llama", "azure", "openrouter", "minimax", "groq"];

/// Every format, and the dialects that are read in some way of their own.
fn spoken() -> impl Iterator<Item = Spoken> {
    let dialects = ["mistral", "minimax"];
    let dialects = dialects.map(|provider| Spoken { wire: Wire::Chat, provider });
    WIRES.into_iter().map(Spoken::from).chain(dialects)
}

/// Every fixture's bytes.
fn fixtures(ending: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let folders = fs::read_dir(root).unwrap().map(|folder| folder.unwrap().path());
    let files =
        folders.filter(|path| path.is_dir()).flat_map(|folder| fs::read_dir(folder).unwrap());
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.retain(|path| path.to_str().unwrap().ends_with(ending));
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Bytes that are nearly a fixture.
fn damaged(ending: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let pieces: &[&[u8]] = &[
        b"null", b"\"", b"{", b"[]", b"\\ud800", b"\xff", b"1e999", b"\r", b"\n\n", b"data: ",
        b"-", b"{}",
    ];
    let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
    let edit = (any::<prop::sample::Index>(), 0usize..30, prop::sample::select(pieces));
    let edits = prop::collection::vec(edit, 1..6);
    (prop::sample::select(fixtures(ending)), edits).prop_map(|(mut bytes, edits)| {
        for (at, len, with) in edits {
            let at = at.index(bytes.len() + 1);
            let end = (at + len).min(bytes.len());
            bytes.splice(at..end, with);
        }
        bytes
    })
}

fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}

pub(super) fn streamed(from: Spoken, to: Protocol, pieces: &[&[u8]]) -> (Vec<u8>, State) {
    let mut stream = Stream::new(from, to, AsCaller { include_usage: true, ..AsCaller::default() });
    let mut out = Vec::new();
    for piece in pieces {
        out.extend_from_slice(&stream.push(Bytes::copy_from_slice(piece)));
    }
    out.extend_from_slice(&stream.finish());
    (out, stream.state().clone())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_document_is_refused_or_becomes_a_document(body in damaged(".in.json")) {
        let settings = [("project_id".to_owned(), Secret::new("p\"\n"))];
        for from in FORMATS {
            if let Ok(conversation) = translate::read_request(from, &body) {
                let targets = WIRES.into_iter().map(|to| (to, "otari"));
                let dialects = PROVIDERS.into_iter().map(|provider| (Wire::Chat, provider));
                for (to, provider) in targets.chain(dialects) {
                    let target = Target { model: "m\"", provider, stream: true, settings: &settings };
                    if let Ok(written) = translate::write_request(to, &conversation, &target) {
                        prop_assert!(is_json(&written.body), "{from:?} {to:?} {:?}", written.body);
                    }
                }
            }
        }
        for from in spoken() {
            translate::read_error(from, &body);
            if let Ok(answer) = translate::read_answer(from, &body) {
                for to in FORMATS {
                    let written = translate::write_answer(to, &answer, &AsCaller::default());
                    prop_assert!(is_json(&written), "{from:?} {to:?} {written:?}");
                }
            }
        }
    }

    #[test]
    fn a_damaged_stream_gives_whole_frames_however_it_is_cut(
        body in damaged(".stream.in.txt"),
        cut in any::<prop::sample::Index>(),
    ) {
        let text = body;
        for from in spoken() {
            let body = if matches!(from.wire, Wire::Converse | Wire::SageMaker) { packets::stream(&text) } else { text.clone() };
            let at = cut.index(body.len() + 1);
            for to in FORMATS {
                let whole = streamed(from, to, &[&body]);
                prop_assert_eq!(&whole, &streamed(from, to, &[&body[..at], &body[at..]]));
                prop_assert_ne!(&whole.1, &State::Going);
                let out = whole.0;
                prop_assert!(out.is_empty() || out.ends_with(b"\n\n"));
                for line in out.split(|byte| *byte == b'\n') {
                    if let Some(data) = line.strip_prefix(b"data: ") {
                        prop_assert!(data == b"[DONE]" || is_json(data), "{}", String::from_utf8_lossy(data));
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_packet_fails_the_stream_however_it_is_cut(
        text in prop::sample::select(fixtures(".stream.in.txt")),
        at in any::<prop::sample::Index>(),
        with in 1u8..,
        cut in any::<prop::sample::Index>(),
    ) {
        let whole = packets::stream(&text);
        prop_assume!(!whole.is_empty());
        let mut body = whole.clone();
        body[at.index(whole.len())] ^= with;
        let cut = cut.index(body.len() + 1);
        for from in [Wire::Converse, Wire::SageMaker] {
            let got = streamed(from.into(), Chat, &[&body]);
            prop_assert_eq!(&got, &streamed(from.into(), Chat, &[&body[..cut], &body[cut..]]));
            // Unless it was over before: nothing behind an end is read.
            let is_same = got == streamed(from.into(), Chat, &[&whole]);
            prop_assert!(is_same || matches!(got.1, State::Failed(_)), "{got:?}");
        }
    }
}

#[test]
fn an_endless_packet_is_not_kept() {
    for (length, problem) in [(u32::MAX, "1 MiB"), ((1 << 20) + 1, "1 MiB"), (15, "checksum")] {
        let mut stream = Stream::new(Wire::Converse, Chat, AsCaller::default());
        stream.push(Bytes::copy_from_slice(&length.to_be_bytes()));
        assert_eq!(stream.state(), &State::Going);
        stream.push(Bytes::from_static(&[0; 8]));
        let State::Failed(failure) = stream.state() else { panic!("{length}") };
        assert!(failure.message.contains(problem), "{}", failure.message);
    }
    // Parts of a container's stream are no more than that together.
    let mut part = Vec::new();
    packets::packet(&mut part, &[(":event-type", "PayloadPart")], &[b'a'; 64 << 10]);
    let mut stream = Stream::new(Wire::SageMaker, Chat, AsCaller::default());
    for _ in 0..17 {
        stream.push(Bytes::from(part.clone()));
    }
    assert!(matches!(stream.state(), State::Failed(_)));
}

#[test]
fn an_endless_event_is_not_kept() {
    let mut stream = Stream::new(Chat, Messages, AsCaller::default());
    stream.push(Bytes::from_static(b"data: {\"x\":\""));
    for _ in 0..40 {
        stream.push(Bytes::from(vec![b'a'; 64 << 10]));
    }
    assert!(matches!(stream.state(), State::Failed(_)));
    assert!(stream.push(Bytes::from_static(b"\"}\n\ndata: [DONE]\n\n")).is_empty());
}

#[test]
fn an_endless_line_is_not_kept() {
    let mut stream = Stream::new(Wire::Ollama, Messages, AsCaller::default());
    stream.push(Bytes::from_static(b"{\"x\":\""));
    for _ in 0..40 {
        stream.push(Bytes::from(vec![b'a'; 64 << 10]));
    }
    assert!(matches!(stream.state(), State::Failed(_)));
    assert!(stream.push(Bytes::from_static(b"\"}\n{\"done\":true}\n")).is_empty());
}
