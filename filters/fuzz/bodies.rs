//! What every fuzz target does with its input, and what must hold: shared by the fuzzer (`fuzz_targets/`) and by the
//! ordinary test that walks the kept inputs (`tests/corpus.rs`).
//!
//! An input is six bytes that say how, then what: a choice (of a dialect, of flags), a step, and two places. With a
//! step the bytes arrive in pieces of that size, without one they are cut at the two places, each a fraction of the
//! whole in 1/65536.

#[path = "../tests/translate/packets.rs"]
mod packets;
#[path = "operations.rs"]
mod operations;
#[path = "tools.rs"]
mod tools;

use std::fmt::Debug;

use bytes::Bytes;
use otari_filters::meter;
use otari_filters::protocol::cost::Carriers;
use otari_filters::protocol::name::ModelName;
use otari_filters::protocol::sse::{Events, Mark};
use otari_filters::protocol::{Protocol, Request, Rewrite};
use otari_filters::settle::Cost;
use otari_filters::translate::neutral::{self, AsCaller};
use otari_filters::translate::{self, Spoken, State, Stream, Wire};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// What a target does with an input.
type Target = fn(&Input<'_>);

/// Every target: a name, as `fuzz_targets/<name>.rs` and `tests/corpus/<name>/` have it, and what it does.
pub(crate) const TARGETS: &[(&str, Target)] = &[
    ("sse", sse),
    ("splice", splice),
    ("packets", packets),
    ("operations", operations::operations),
    ("tools", tools::tools),
    ("read_chat", |input| read(Wire::Chat, DIALECTS, input)),
    ("read_messages", |input| read(Wire::Messages, &[""], input)),
    ("read_responses", |input| read(Wire::Responses, &[""], input)),
    ("read_gemini", |input| read(Wire::Gemini, &[""], input)),
    ("read_cohere", |input| read(Wire::Cohere, &[""], input)),
    ("read_ollama", |input| read(Wire::Ollama, &[""], input)),
    ("read_converse", |input| read(Wire::Converse, &[""], input)),
    ("read_sagemaker", |input| read(Wire::SageMaker, &[""], input)),
];

/// Formats that requests are written in.
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

/// Formats that callers speak.
const PROTOCOLS: [Protocol; 3] = [Protocol::Chat, Protocol::Messages, Protocol::Responses];

/// Providers that have a chat format of their own.
const DIALECTS: &[&str] = &[
    "openai",
    "mistral",
    "deepseek",
    "azure",
    "groq",
    "watsonx",
    "llama",
    "together",
    "openrouter",
    "minimax",
    "huggingface",
    "zai",
    "fireworks",
];

/// So many times the input, and a constant beside it, is what an output may be. What grows faster is a way to fill
/// the memory of a gateway with a small request.
const MAX_GROWTH: usize = 64;
const MAX_EXTRA: usize = 64 << 10;

/// Runs the target `name`.
///
/// # Panics
/// When something does not hold, or there is no such target.
pub(crate) fn run(name: &str, bytes: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a known target");
    target(&Input::of(bytes));
}

/// An input, taken apart.
#[derive(Debug)]
pub(crate) struct Input<'i> {
    choice: u8,
    step: u8,
    places: [u16; 2],
    bytes: &'i [u8],
}

impl<'i> Input<'i> {
    fn of(bytes: &'i [u8]) -> Self {
        let (head, bytes) = bytes.split_at(bytes.len().min(6));
        let at = |at: usize| head.get(at).copied().unwrap_or(0);
        let place = |from: usize| u16::from_le_bytes([at(from), at(from + 1)]);
        Self { choice: at(0), step: at(1), places: [place(2), place(4)], bytes }
    }

    /// The bytes as they arrive.
    fn pieces(&self) -> Vec<&'i [u8]> {
        if self.step > 0 {
            // Of many bytes the pieces are longer: single ones find nothing new there.
            let step = usize::from(self.step).max(self.bytes.len() / 512);
            return self.bytes.chunks(step).collect();
        }
        let mut places = self.places.map(|place| (self.bytes.len() * usize::from(place)) >> 16);
        places.sort_unstable();
        let [first, second] = places;
        vec![&self.bytes[..first], &self.bytes[first..second], &self.bytes[second..]]
    }

    fn has(&self, flag: u8) -> bool {
        self.choice & flag != 0
    }
}

/// However the bytes arrive, `work` must give the same.
fn same<T: PartialEq + Debug>(input: &Input<'_>, what: &str, work: impl Fn(&[&[u8]]) -> T) -> T {
    let whole = work(&[input.bytes]);
    assert_eq!(work(&input.pieces()), whole, "{what}: in pieces, and whole");
    whole
}

fn check_growth(from: usize, to: usize, what: &str) {
    assert!(to <= MAX_GROWTH * from + MAX_EXTRA, "{what}: {from} bytes became {to}");
}

fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(bytes).is_ok()
}

/// A written document.
fn check_json(from: usize, out: &[u8], what: &str) {
    check_growth(from, out.len(), what);
    let is_text = std::str::from_utf8(out).is_ok();
    assert!(is_text && is_json(out), "{what}: {}", String::from_utf8_lossy(out));
}

/// Framing, and what looks at a stream of the caller's own format.
fn sse(input: &Input<'_>) {
    let body = input.bytes;
    let (passed, lines) = same(input, "events", |pieces| events(1 << 20, pieces));
    assert_eq!(passed, body, "what is only looked at passes as it came");
    assert!(lines.iter().all(|line| !line.iter().any(|byte| matches!(byte, b'\n' | b'\r'))));
    // Of what is too long the lines depend on the pieces, and it passes all the same.
    assert_eq!(events(usize::from(input.choice), &input.pieces()).0, body);

    for protocol in PROTOCOLS {
        let (out, said) = same(input, "meter", |pieces| metered(input, protocol, pieces));
        let hides = input.has(1) || input.has(2);
        assert!(if hides { out.len() <= body.len() } else { out == body }, "{protocol:?} {said}");
        same(input, "first event", |pieces| {
            let mut first = meter::FirstEvent::new(protocol);
            for piece in pieces {
                first.feed(Bytes::copy_from_slice(piece));
            }
            first.finish()
        });
        let named = same(input, "name", |pieces| {
            let mut name = ModelName::new(protocol, "my \"model\"");
            let mut out = Vec::new();
            for piece in pieces {
                name.feed(Bytes::copy_from_slice(piece), &mut out);
            }
            name.finish(&mut out);
            out.concat()
        });
        check_growth(body.len(), named.len(), "name");
        let cost = Cost { cost_usd: "0.000018".into(), pricing_source: "managed".into() };
        let carried = same(input, "carriers", |pieces| {
            let mut carriers = Carriers::new(protocol);
            let mut out = Vec::new();
            for piece in pieces {
                carriers.feed(Bytes::copy_from_slice(piece), &mut out);
            }
            let is_attached = carriers.release((!input.has(4)).then_some(&cost), &mut out);
            (out.concat(), is_attached)
        });
        assert!(
            carried.1 || carried.0 == body,
            "{protocol:?}: without a cost it passes as it came"
        );
        if std::str::from_utf8(body).is_ok() {
            assert!(std::str::from_utf8(&named).is_ok() && std::str::from_utf8(&carried.0).is_ok());
        }
    }
}

/// What passes, and every line that was told.
fn events(max: usize, pieces: &[&[u8]]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut events = Events::new(max);
    let (mut passed, mut lines) = (Vec::new(), Vec::new());
    for piece in pieces {
        let mut scan = events.scan(Bytes::copy_from_slice(piece));
        while let Some(mark) = scan.next() {
            match mark {
                Mark::Line(line) => lines.push(scan.bytes()[line].to_vec()),
                Mark::End(event) => assert!(event.end <= scan.bytes().len()),
            }
        }
        passed.extend_from_slice(&scan.finish());
    }
    passed.extend_from_slice(&events.take_open());
    (passed, lines)
}

/// What passes the meter, and all that it says.
fn metered(input: &Input<'_>, protocol: Protocol, pieces: &[&[u8]]) -> (Vec<u8>, String) {
    let mut stream = meter::Stream::new(protocol, input.has(1));
    if input.has(2) {
        stream = stream.hiding_errors();
    }
    let mut out = Vec::new();
    for piece in pieces {
        stream.feed(Bytes::copy_from_slice(piece), &mut out);
    }
    stream.finish(&mut out);
    let flags = (stream.is_done(), stream.has_failed(), stream.has_hidden_error());
    (out.concat(), format!("{flags:?} {} {:?}", stream.output_tokens(), stream.usage()))
}

/// Providers that want a body of the caller's format otherwise than others, and one that does not.
const SAME: &[&str] = &[
    "openai",
    "deepseek",
    "llama",
    "huggingface",
    "groq",
    "mistral",
    "anthropic",
    "vertexaianthropic",
];

/// Fields that a provider of the same format may get otherwise than the caller sent them, or not at all.
const EDITED: &[&str] = &[
    "model",
    "stream_options",
    "user",
    "metadata",
    "input",
    "client_metadata",
    "tools",
    "thinking",
    "parallel_tool_calls",
    "betas",
    "anthropic_version",
];

/// Fields that no provider gets.
const GONE: &[&str] = &[
    "mcp_servers",
    "mcp_server_ids",
    "guardrails",
    "tools_header",
    "max_tool_iterations",
    "session_label",
    "api_key",
    "api_base",
    "api_version",
    "base_url",
    "provider",
    "organization",
    "client",
    "client_args",
    "credentials",
    "extra_headers",
    "extra_body",
    "extra_query",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "default_headers",
    "http_client",
    "timeout",
];

/// The fields of a document, each where it stands, repeated ones too.
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Pairs<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        from.deserialize_map(All)
    }
}

/// A request that goes on in its own format: what it becomes differs in the edits alone.
fn splice(input: &Input<'_>) {
    let body = Bytes::copy_from_slice(input.bytes);
    let provider = SAME[usize::from(input.choice >> 3) % SAME.len()];
    for protocol in PROTOCOLS {
        let Ok(request) = Request::read(protocol, &body) else { continue };
        let rewrite = Rewrite {
            model: if input.has(4) { "m\"\u{e9}" } else { "m" },
            keep_user: input.has(1),
            provider,
        };
        let out = request.write_same(&body, &rewrite).concat();
        check_json(body.len(), &out, "splice");
        let before: Pairs<'_> = serde_json::from_slice(&body).expect("what was read is an object");
        let after: Pairs<'_> = serde_json::from_slice(&out).expect("an object stays one");
        let kept = |pairs: &Pairs<'_>| -> Vec<(String, String)> {
            let others = pairs
                .0
                .iter()
                .filter(|(name, _)| !EDITED.contains(&&**name) && !GONE.contains(&&**name));
            others.map(|(name, value)| (name.clone(), value.get().to_owned())).collect()
        };
        assert_eq!(kept(&after), kept(&before), "{protocol:?}");
        let models = after.0.iter().filter(|(name, _)| name == "model");
        let models: Vec<String> =
            models.filter_map(|(_, value)| serde_json::from_str(value.get()).ok()).collect();
        // Only an address can name it instead.
        if !models.is_empty() || provider != "vertexaianthropic" || protocol != Protocol::Messages {
            assert_eq!(models.last().map(|model| &**model), Some(rewrite.model), "{protocol:?}");
        }
        let _ = (request.refuse(provider), request.betas(&body, Some("a,b")));
        let steers = |name: &&str| after.0.iter().any(|(known, _)| known == name);
        assert_eq!(GONE.iter().find(|name| steers(name)), None, "{protocol:?}");
    }
}

/// Binary event streams of any bytes: nearly all have a wrong checksum.
fn packets(input: &Input<'_>) {
    for wire in [Wire::Converse, Wire::SageMaker] {
        PROTOCOLS.into_iter().for_each(|to| stream(wire.into(), to, input));
    }
}

/// A format as requests, answers, errors and streams have it, into every other.
fn read(wire: Wire, dialects: &[&'static str], input: &Input<'_>) {
    let dialect = dialects[usize::from(input.choice >> 2) % dialects.len()];
    let body = input.bytes;
    for protocol in PROTOCOLS.into_iter().filter(|protocol| Wire::from(*protocol) == wire) {
        request(protocol, dialect, input);
    }
    let from = Spoken { wire, provider: dialect };
    translate::read_error(from, body);
    if let Ok(answer) = translate::read_answer(from, body) {
        for to in PROTOCOLS {
            let what = format!("answer of {wire:?} to {to:?}");
            check_json(body.len(), &translate::write_answer(to, &answer, &caller(input)), &what);
        }
    }
    // What is framed in packets stands in the input as lines of a text, so that the checksums are right.
    let framed = matches!(wire, Wire::Converse | Wire::SageMaker).then(|| packets::stream(body));
    let input = Input { bytes: framed.as_deref().unwrap_or(body), ..*input };
    PROTOCOLS.into_iter().for_each(|to| stream(from, to, &input));
}

fn caller(input: &Input<'_>) -> AsCaller {
    AsCaller {
        include_usage: input.has(2),
        id: "id-1".to_owned(),
        model: "asked".to_owned(),
        ..AsCaller::default()
    }
}

/// A stream, to a caller's format.
fn stream(from: Spoken, to: Protocol, input: &Input<'_>) {
    let what = format!("stream of {from:?} to {to:?}");
    let (out, state, _) = same(input, &what, |pieces| {
        let mut stream = Stream::new(from, to, caller(input));
        let mut out = Vec::new();
        for piece in pieces {
            out.extend_from_slice(&stream.push(Bytes::copy_from_slice(piece)));
        }
        out.extend_from_slice(&stream.finish());
        (out, stream.state().clone(), stream.usage())
    });
    assert_ne!(state, State::Going, "{what}: a stream that is over has ended or failed");
    check_growth(input.bytes.len(), out.len(), &what);
    check_frames(&out, &what);
}

/// A request, into every format.
fn request(from: Protocol, dialect: &str, input: &Input<'_>) {
    let Ok(conversation) = translate::read_request(from, input.bytes) else { return };
    translate::as_caller(from, &conversation);
    let target = neutral::Target {
        model: "m\"\u{e9}",
        provider: dialect,
        stream: input.has(1),
        settings: &[],
    };
    for to in WIRES {
        if let Ok(written) = translate::write_request(to, &conversation, &target) {
            check_json(input.bytes.len(), &written.body, &format!("request of {from:?} to {to:?}"));
            let header = written.dropped.header();
            assert!(header.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{header:?}");
        }
    }
}

/// Whole frames, of which every one holds JSON, or says that the stream is over.
fn check_frames(out: &[u8], what: &str) {
    let text = std::str::from_utf8(out).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(text.is_empty() || text.ends_with("\n\n"), "{what}: {text}");
    for frame in text.split_terminator("\n\n") {
        let data = frame.lines().filter_map(|line| line.strip_prefix("data: "));
        let data: Vec<&str> = data.collect();
        assert_eq!(data.len(), 1, "{what}: {frame}");
        assert!(data[0] == "[DONE]" || is_json(data[0].as_bytes()), "{what}: {frame}");
    }
}
