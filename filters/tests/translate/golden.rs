//! Golden pairs: every file under `fixtures/<from>-<to>/`.
//!
//! `request-<case>` goes from a caller to a provider, `answer-<case>` and `<case>.stream` come back: there `from` is the
//! provider. A side is a format, or the name of a provider with a dialect of the chat format. `<case>.with.json` says what else is known: `provider`, `stream`, `include_usage`, `request` (of which the
//! answer is one), `exact` (texts that must be in the output as they stand), `settings` (of the provider's client), `usage` (what must have been counted: input, read from the cache, written to it, of that for an hour, output), and `dropped`, the names that must be. An `.out.json` with `refused` wants a 400 that holds the text.
//! A stream in packets stands there as a text of its events (`packets.rs`).
//! An output that is not there is written, and the test fails: read it, then run again.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use otari_filters::protocol::Protocol;
use otari_filters::secret::Secret;
use otari_filters::translate::neutral::{AsCaller, Target, Usage};
use otari_filters::translate::{self, Spoken, State, Stream, Wire};
use serde_json::Value;

use super::packets;

/// Providers with a dialect of the chat format.
const DIALECTS: [&str; 15] = [
    "azure",
    "deepseek",
    "fireworks",
    "groq",
    "huggingface",
    "llama",
    "llamafile",
    "minimax",
    "mistral",
    "openrouter",
    "portkey",
    "sambanova",
    "together",
    "watsonx",
    "zai",
];

fn spoken(name: &str) -> Spoken {
    let wire = match name {
        "chat" => Wire::Chat,
        "messages" => Wire::Messages,
        "responses" => Wire::Responses,
        "gemini" => Wire::Gemini,
        "cohere" => Wire::Cohere,
        "ollama" => Wire::Ollama,
        "converse" => Wire::Converse,
        "sagemaker" => Wire::SageMaker,
        other => {
            let provider = DIALECTS.into_iter().find(|provider| *provider == other);
            let provider = provider.unwrap_or_else(|| panic!("{other}: no such format"));
            return Spoken { wire: Wire::Chat, provider };
        }
    };
    wire.into()
}

/// A format of a caller.
fn protocol(spoken: Spoken) -> Protocol {
    match spoken.wire {
        Wire::Chat => Protocol::Chat,
        Wire::Messages => Protocol::Messages,
        Wire::Responses => Protocol::Responses,
        other => panic!("{other:?}: no caller speaks it"),
    }
}

struct Case {
    from: Spoken,
    to: Spoken,
    path: PathBuf,
    name: String,
    with: Value,
}

impl Case {
    fn is_flag(&self, name: &str) -> bool {
        self.with[name].as_bool().unwrap_or(false)
    }

    /// What must be in the output as it stands.
    fn check_exact(&self, body: &[u8]) {
        let body = std::str::from_utf8(body).unwrap();
        for text in self.with["exact"].as_array().into_iter().flatten() {
            let text = text.as_str().unwrap();
            assert!(body.contains(text), "{}: no {text} in {body}", self.path.display());
        }
    }

    fn settings(&self) -> Vec<(String, Secret)> {
        let settings = self.with["settings"].as_object().into_iter().flatten();
        settings.map(|(name, value)| (name.clone(), Secret::new(value.as_str().unwrap()))).collect()
    }

    /// What must have been counted.
    fn check_usage(&self, got: Option<Usage>) {
        let Some(want) = self.with["usage"].as_array() else { return };
        let got = got.unwrap_or_default();
        let got = [got.input, got.cache_read, got.cache_write, got.cache_write_1h, got.output];
        assert_eq!(*want, got, "{}: usage", self.path.display());
    }

    /// The caller of an answer: as the fixture says, or one that asked for usage.
    fn caller(&self) -> AsCaller {
        let mut caller = match &self.with["request"] {
            Value::Null => AsCaller::default(),
            request => {
                let body = serde_json::to_vec(request).unwrap();
                translate::as_caller(
                    protocol(self.to),
                    &translate::read_request(protocol(self.to), &body).unwrap(),
                )
            }
        };
        caller.include_usage = self.with["include_usage"].as_bool().unwrap_or(true);
        caller.id = "id-1".to_owned();
        caller.model = "asked".to_owned();
        caller
    }
}

fn cases(ending: &str) -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut cases = Vec::new();
    for folder in fs::read_dir(root).unwrap() {
        let folder = folder.unwrap().path();
        let Some((from, to)) = folder.file_name().unwrap().to_str().unwrap().split_once('-') else {
            continue;
        };
        for file in fs::read_dir(&folder).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let Some(name) = name.strip_suffix(ending) else { continue };
            let with = fs::read(folder.join(format!("{name}.with.json"))).ok();
            let with = with.map_or(Value::Null, |with| serde_json::from_slice(&with).unwrap());
            let (from, to) = (spoken(from), spoken(to));
            cases.push(Case { from, to, name: name.to_owned(), with, path: path.clone() });
        }
    }
    cases.sort_by(|a, b| a.path.cmp(&b.path));
    cases
}

/// The output that is wanted; writes `got` where there is none.
fn wanted(path: &Path, got: &[u8], unread: &mut Vec<PathBuf>) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|_| {
        fs::write(path, got).unwrap();
        unread.push(path.to_owned());
        got.to_vec()
    })
}

#[test]
fn documents_become_what_they_should() {
    let (mut unread, mut count) = (Vec::new(), 0);
    for case in cases(".in.json") {
        let body = fs::read(&case.path).unwrap();
        let got: Value = if case.name.starts_with("request-") {
            let settings = case.settings();
            let own = if case.to.provider.is_empty() { "otari" } else { case.to.provider };
            let target = Target {
                model: case.with["model"].as_str().unwrap_or("m"),
                provider: case.with["provider"].as_str().unwrap_or(own),
                stream: case.is_flag("stream"),
                settings: &settings,
            };
            match translate::request(protocol(case.from), case.to.wire, &body, &target) {
                Ok(request) => {
                    let dropped: Vec<_> = request.dropped.names().collect();
                    let want = case.with["dropped"].as_array().cloned().unwrap_or_default();
                    assert_eq!(dropped, want, "{}: dropped", case.path.display());
                    case.check_exact(&request.body);
                    serde_json::from_slice(&request.body).unwrap()
                }
                Err(refused) => {
                    assert_eq!(refused.code.status().as_u16(), 400);
                    serde_json::json!({"refused": refused.message})
                }
            }
        } else {
            match translate::answer(case.from, protocol(case.to), &body, &case.caller()) {
                Ok(answer) => {
                    case.check_exact(&answer.body);
                    case.check_usage(answer.usage);
                    serde_json::from_slice(&answer.body).unwrap()
                }
                Err(failure) => {
                    serde_json::json!({"failed": {"kind": failure.kind, "message": failure.message}})
                }
            }
        };
        let out = case.path.with_file_name(format!("{}.out.json", case.name));
        let want = wanted(&out, &serde_json::to_vec_pretty(&got).unwrap(), &mut unread);
        let want: Value = serde_json::from_slice(&want).unwrap();
        assert_eq!(got, want, "{}\ngot {got:#}\nwant {want:#}", case.path.display());
        count += 1;
    }
    assert!(unread.is_empty(), "written, now read them: {unread:#?}");
    assert!(count > 20, "{count} fixtures: where are the others?");
}

fn run(case: &Case, pieces: &[&[u8]]) -> String {
    let mut stream = Stream::new(case.from, protocol(case.to), case.caller());
    let mut out = Vec::new();
    for piece in pieces {
        out.extend_from_slice(&stream.push(Bytes::copy_from_slice(piece)));
    }
    out.extend_from_slice(&stream.finish());
    case.check_usage(stream.usage());
    let mut out = String::from_utf8(out).unwrap();
    if let State::Failed(failure) = stream.state() {
        out += &format!("FAILED {:?} {}\n", failure.kind, failure.message);
    }
    out
}

#[test]
fn streams_become_what_they_should_however_they_are_cut() {
    let (mut unread, mut count) = (Vec::new(), 0);
    for case in cases(".stream.in.txt") {
        let text = fs::read(&case.path).unwrap();
        let is_binary = matches!(case.from.wire, Wire::Converse | Wire::SageMaker);
        let body = if is_binary { packets::stream(&text) } else { text };
        let got = run(&case, &[&body]);
        let out = case.path.with_file_name(format!("{}.stream.out.txt", case.name));
        let want = String::from_utf8(wanted(&out, got.as_bytes(), &mut unread)).unwrap();
        assert_eq!(got, want, "{}\ngot\n{got}", case.path.display());
        for at in 0..=body.len() {
            assert_eq!(
                run(&case, &[&body[..at], &body[at..]]),
                want,
                "{} cut at {at}",
                case.path.display()
            );
        }
        let bytes: Vec<_> = body.chunks(1).collect();
        assert_eq!(run(&case, &bytes), want, "{} byte by byte", case.path.display());
        count += 1;
        if is_binary {
            continue;
        }
        // A carriage return ends a line too, however many there are.
        let crlf = String::from_utf8(body.clone()).unwrap().replace('\n', "\r\n");
        let bytes: Vec<_> = crlf.as_bytes().chunks(1).collect();
        assert_eq!(run(&case, &bytes), want, "{} with CR LF", case.path.display());
    }
    assert!(unread.is_empty(), "written, now read them: {unread:#?}");
    assert!(count > 7, "{count} streams: where are the others?");
}
