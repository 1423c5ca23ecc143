//! Golden pairs: every file under `fixtures/operations/<operation>-<provider>/`.
//!
//! `<case>.in.json` is a caller's request, and `<case>.out.json` what the provider is sent: `path`, `body`, `dropped`; or
//! `refused`, with the sentence for the caller. `answer-<case>.in.json` is the provider's answer, and its output `body`,
//! what the caller gets (null: it passes), `usage` (prompt and total) and `images`; or `failed`. `<case>.with.json` says
//! what else is known: `model`, `base`, `settings`, `query`, `keep_user`, `request` (of which the answer is one),
//! `input_tokens` (told in a header).
//! An output that is not there is written, and the test fails: read it, then run again.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::{Value, json};

use super::super::{Asked, Kind, Payload, Refused, Sent, Told};
use super::upstream;
use crate::secret::Secret;

struct Case {
    kind: Kind,
    provider: String,
    folder: PathBuf,
    name: String,
    with: Value,
}

impl Case {
    fn read(&self, ending: &str) -> Option<Vec<u8>> {
        fs::read(self.folder.join(format!("{}{ending}", self.name))).ok()
    }

    fn sent(&self, request: &Bytes) -> Result<Sent, String> {
        let settings: Vec<(String, Secret)> = self.with["settings"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), Secret::new(value.as_str().unwrap())))
            .collect();
        let upstream = upstream(&self.provider, self.with["base"].as_str(), &settings);
        let asked = Asked::read(self.kind, request, self.with["query"].as_str())
            .map_err(|refused| refused.message.into_owned())?;
        let keep_user = self.with["keep_user"].as_bool().unwrap_or(true);
        let model = self.with["model"].as_str().unwrap_or("the-model");
        let sent = upstream.operation(&asked, request, model, keep_user);
        sent.map_err(|refused| match refused {
            Refused::Rejected(refused) => refused.message.into_owned(),
            Refused::NoWay(why) => format!("{why:?}"),
        })
    }

    fn request(&self) -> Value {
        let body: Bytes = self.read(".in.json").unwrap().into();
        match self.sent(&body) {
            Err(refused) => json!({"refused": refused}),
            Ok(sent) => {
                let Payload::Json(body) = sent.body else { panic!("a form") };
                let body: Value = serde_json::from_slice(&body.concat()).unwrap();
                json!({"path": sent.path.as_str(), "body": body, "dropped": sent.dropped.header()})
            }
        }
    }

    fn answer(&self) -> Value {
        let request = match &self.with["request"] {
            Value::Null => {
                json!({"model": "p:m", "input": "x", "query": "q", "documents": ["d"], "prompt": "p"})
            }
            request => request.clone(),
        };
        let sent = self.sent(&request.to_string().into()).unwrap();
        let told = Told { id: "id-1", input_tokens: self.with["input_tokens"].as_u64() };
        let body: Bytes = self.read(".in.json").unwrap().into();
        match sent.inbound.answer(&body, &told) {
            Err(failure) => json!({"failed": failure.message}),
            Ok(answered) => {
                if answered.body.is_none() && !sent.inbound.needs_whole() {
                    let mut tally = sent.inbound.tally();
                    body.chunks(3).for_each(|piece| tally.feed(piece));
                    assert_eq!(tally.finish(), answered.measured, "{}: in pieces", self.name);
                }
                let usage = answered.measured.usage;
                json!({
                    "body": answered.body.map(|body| serde_json::from_slice::<Value>(&body).unwrap()),
                    "usage": usage.map(|usage| [usage.prompt_tokens, usage.total_tokens]),
                    "images": answered.measured.images,
                })
            }
        }
    }
}

fn kind_of(name: &str) -> Kind {
    match name {
        "embeddings" => Kind::Embeddings,
        "moderations" => Kind::Moderations,
        "rerank" => Kind::Rerank,
        "images" => Kind::Images,
        "speech" => Kind::Speech,
        other => panic!("{other}: no such operation"),
    }
}

fn cases() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/operations");
    let mut cases = Vec::new();
    for folder in fs::read_dir(root).unwrap() {
        let folder = folder.unwrap().path();
        let (kind, provider) =
            folder.file_name().unwrap().to_str().unwrap().split_once('-').unwrap();
        for file in fs::read_dir(&folder).unwrap() {
            let file = file.unwrap().file_name();
            let Some(name) = file.to_str().unwrap().strip_suffix(".in.json") else { continue };
            let with = fs::read(folder.join(format!("{name}.with.json"))).ok();
            cases.push(Case {
                kind: kind_of(kind),
                provider: provider.to_owned(),
                folder: folder.clone(),
                name: name.to_owned(),
                with: with.map_or(Value::Null, |with| serde_json::from_slice(&with).unwrap()),
            });
        }
    }
    cases.sort_by_key(|case| (case.folder.clone(), case.name.clone()));
    cases
}

#[test]
fn every_pair_holds() {
    let mut unread = Vec::new();
    let cases = cases();
    assert!(cases.len() > 50, "the fixtures are not found");
    for case in &cases {
        let got = if case.name.starts_with("answer-") { case.answer() } else { case.request() };
        let path = case.folder.join(format!("{}.out.json", case.name));
        let wanted = case.read(".out.json");
        let Some(wanted) = wanted else {
            fs::write(&path, format!("{}\n", serde_json::to_string_pretty(&got).unwrap())).unwrap();
            unread.push(path);
            continue;
        };
        let wanted: Value = serde_json::from_slice(&wanted).unwrap();
        assert_eq!(got, wanted, "{}", path.display());
    }
    assert!(unread.is_empty(), "written, to be read: {unread:#?}");
}
