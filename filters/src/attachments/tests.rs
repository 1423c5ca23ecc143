//! What is found in the three formats, what becomes of it, and that nothing else of a body changes.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::providers;

const OWN: &str = "file-0123456789abcdef0123456789abcdef";
const ALL: [Protocol; 3] = [Protocol::Chat, Protocol::Messages, Protocol::Responses];

fn body(protocol: Protocol, parts: &Value) -> Bytes {
    let items = json!([{"role": "user", "content": parts}]);
    let body = match protocol {
        Protocol::Responses => json!({"model": "m", "input": items}),
        _ => json!({"model": "m", "messages": items}),
    };
    body.to_string().into()
}

fn one(protocol: Protocol, part: &Value) -> (Bytes, Block) {
    let body = body(protocol, &json!([{"type": "text", "text": "see"}, part]));
    let mut found = find(protocol, &body);
    assert_eq!(found.len(), 1, "{part}");
    let block = found.remove(0);
    assert_eq!(serde_json::from_slice::<Value>(&body[block.range.clone()]).unwrap(), *part);
    (body, block)
}

/// The block that stands where `block` was.
fn replaced(protocol: Protocol, body: &Bytes, block: &Block, with: &Replacement<'_>) -> Value {
    let out = render(body, vec![edit(protocol, body, block, with)]);
    let out: Value = serde_json::from_slice(&out).unwrap();
    let items = if protocol == Protocol::Responses { "input" } else { "messages" };
    assert_eq!(out[items][0]["content"][0], json!({"type": "text", "text": "see"}));
    out[items][0]["content"][1].clone()
}

fn payload(protocol: Protocol, part: &Value) -> (Option<String>, String) {
    let (body, block) = one(protocol, part);
    let Source::Data(data) = &block.source else { panic!("{part}: {block:?}") };
    (data.mime.as_deref().map(Into::into), data.payload(&body).unwrap().into_owned())
}

#[test]
fn every_form_of_every_format_is_found() {
    use Kind::{Document, Image};
    let stored = |id: &str| Source::File(id.into());
    for (part, kind, source) in [
        (
            json!({"type": "image_url", "image_url": {"url": "https://e.test/a.png"}}),
            Image,
            Source::Remote,
        ),
        (
            json!({"type": "input_image", "image_url": "https://e.test/a.png"}),
            Image,
            Source::Remote,
        ),
        (json!({"type": "input_image", "file_id": OWN, "image_url": null}), Image, stored(OWN)),
        (json!({"type": "image_url", "image_url": {"file_id": OWN}}), Image, stored(OWN)),
        (
            json!({"type": "file", "file": {"file_id": OWN, "filename": null}}),
            Document,
            stored(OWN),
        ),
        (json!({"type": "input_file", "file_id": "file-abc"}), Document, stored("file-abc")),
        (json!({"type": "input_file", "file_url": "https://e.test/a"}), Document, Source::Remote),
        (json!({"type": "file", "file": {"url": "https://e.test/a"}}), Document, Source::Remote),
    ] {
        for protocol in [Protocol::Chat, Protocol::Responses] {
            let (_, block) = one(protocol, &part);
            assert_eq!((block.kind, &block.source), (kind, &source), "{part}");
        }
    }
    for (part, kind, source) in [
        (json!({"type": "image", "source": {"type": "file", "file_id": OWN}}), Image, stored(OWN)),
        (json!({"type": "image", "source": {"type": "url", "url": "u"}}), Image, Source::Remote),
        (
            json!({"type": "document", "source": {"type": "url", "url": "u"}}),
            Document,
            Source::Remote,
        ),
    ] {
        let (_, block) = one(Protocol::Messages, &part);
        assert_eq!((block.kind, &block.source), (kind, &source), "{part}");
    }
}

#[test]
fn bytes_in_the_body_are_found_with_their_type() {
    let data = "data:Application/PDF;name=a;base64,JVBERg==";
    let want = (Some("application/pdf".to_owned()), "JVBERg==".to_owned());
    for protocol in [Protocol::Chat, Protocol::Responses] {
        for part in [
            json!({"type": "file", "file": {"file_data": data}}),
            json!({"type": "input_file", "file_data": data}),
            json!({"type": "file", "file": {"url": data}}),
            json!({"type": "image_url", "image_url": {"url": data}}),
            json!({"type": "input_image", "image_url": data}),
        ] {
            assert_eq!(payload(protocol, &part), want, "{part}");
        }
        let bare = json!({"type": "input_file", "file_data": "JVBERg==", "filename": "a.pdf"});
        assert_eq!(payload(protocol, &bare), (None, "JVBERg==".into()));
    }
    let base64 = json!({"type": "base64", "media_type": "application/pdf", "data": "JVBERg=="});
    for kind in ["image", "document"] {
        assert_eq!(payload(Protocol::Messages, &json!({"type": kind, "source": base64})), want);
    }
    let text =
        json!({"type": "document", "title": "T", "source": {"type": "text", "data": "a\"b"}});
    let (body, block) = one(Protocol::Messages, &text);
    let Source::Text(text) = &block.source else { panic!("{block:?}") };
    assert_eq!(text.get(&body).unwrap(), "a\"b");
    assert_eq!(block.filename.as_deref(), Some("T"));
}

#[test]
fn escapes_in_a_data_url_are_read() {
    let raw = br#"{"messages":[{"content":[{"type":"image_url","image_url":{"url":"data:image\/png;base64,a\/b+"}}]}]}"#;
    let body = Bytes::from_static(raw);
    let found = find(Protocol::Chat, &body);
    let Source::Data(data) = &found[0].source else { panic!("{found:?}") };
    assert_eq!(data.mime.as_deref(), Some("image/png"));
    assert_eq!(data.payload(&body).unwrap(), "a/b+");
    assert_eq!(data.url(&body, "x/y").unwrap(), "data:image/png;base64,a/b+");
}

#[test]
fn what_is_no_attachment_is_left_alone() {
    let inner = json!([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}]);
    for (protocol, parts) in [
        (
            Protocol::Messages,
            json!([{"type": "tool_result", "tool_use_id": "t", "content": inner}]),
        ),
        (
            Protocol::Messages,
            json!([{"type": "document", "source": {"type": "content", "content": inner}}]),
        ),
        (Protocol::Messages, json!([{"type": "image", "source": {"type": "text", "data": "a"}}])),
        (
            Protocol::Messages,
            json!([{"type": "image_url", "image_url": {"url": "data:a;base64,AA=="}}]),
        ),
        (Protocol::Chat, json!([{"type": "image", "source": {"type": "url", "url": "u"}}])),
        (Protocol::Chat, json!([{"type": "input_audio", "input_audio": {"data": "AA=="}}])),
        (Protocol::Chat, json!([{"type": "image_url", "image_url": {"url": 7}}, {"type": "file"}])),
        (Protocol::Chat, json!("data:image/png;base64,AA==")),
        (Protocol::Chat, json!(["x", null, {"type": ["file"]}])),
        (Protocol::Responses, json!({"type": "input_file", "file_id": OWN})),
    ] {
        let body = body(protocol, &parts);
        assert_eq!(find(protocol, &body), [], "{parts}");
    }
    for junk in ["", "[", "[]", "7", r#"{"messages":{"content":[]}}"#, r#"{"input":"text"}"#] {
        for protocol in ALL {
            assert_eq!(find(protocol, junk.as_bytes()), [], "{junk}");
        }
    }
}

#[test]
fn bytes_take_the_place_of_names_in_the_callers_own_format() {
    let inline =
        Replacement::Inline(Inline { mime: "image/png", base64: "AA==", filename: "a.png" });
    let url = "data:image/png;base64,AA==";
    let ask = |protocol, part: &Value| {
        let (body, block) = one(protocol, part);
        replaced(protocol, &body, &block, &inline)
    };
    let image = json!({"type": "input_image", "file_id": OWN});
    let close = json!({"type": "input_image", "file_id": OWN, "detail": "low"});
    assert_eq!(
        ask(Protocol::Chat, &image),
        json!({"type": "image_url", "image_url": {"url": url}})
    );
    assert_eq!(
        ask(Protocol::Chat, &close),
        json!({"type": "image_url", "image_url": {"url": url, "detail": "low"}})
    );
    assert_eq!(ask(Protocol::Responses, &image), json!({"type": "input_image", "image_url": url}));
    assert_eq!(
        ask(Protocol::Responses, &close),
        json!({"type": "input_image", "image_url": url, "detail": "low"})
    );
    let file = json!({"type": "file", "file": {"file_id": OWN}});
    assert_eq!(
        ask(Protocol::Chat, &file),
        json!({"type": "file", "file": {"file_data": url, "filename": "a.png"}})
    );
    let named = json!({"type": "input_file", "file_id": OWN, "filename": "b.pdf"});
    assert_eq!(
        ask(Protocol::Responses, &named),
        json!({"type": "input_file", "file_data": url, "filename": "b.pdf"})
    );
    let document = json!({"type": "document", "title": "T", "citations": {"enabled": true},
        "cache_control": {"type": "ephemeral"}, "source": {"type": "file", "file_id": OWN}});
    let mut want = document.clone();
    want["source"] = json!({"type": "base64", "media_type": "image/png", "data": "AA=="});
    assert_eq!(ask(Protocol::Messages, &document), want);
}

#[test]
fn a_text_takes_the_place_of_what_a_model_cannot_take() {
    let text = Replacement::Text("[Attached \"x\"]\n");
    let file = json!({"type": "file", "file": {"file_id": OWN}});
    for (protocol, kind) in [(Protocol::Chat, "text"), (Protocol::Responses, "input_text")] {
        let (body, block) = one(protocol, &file);
        let got = replaced(protocol, &body, &block, &text);
        assert_eq!(got, json!({"type": kind, "text": "[Attached \"x\"]\n"}));
    }
    let cache = json!({"type": "ephemeral"});
    let image =
        json!({"cache_control": cache, "type": "image", "source": {"type": "url", "url": "u"}});
    let (body, block) = one(Protocol::Messages, &image);
    let got = replaced(Protocol::Messages, &body, &block, &text);
    assert_eq!(got, json!({"type": "text", "text": "[Attached \"x\"]\n", "cache_control": cache}));
}

#[test]
fn texts_are_framed_as_documented() {
    assert_eq!(texts::document(Some("a.docx"), "T"), "[Attached file: a.docx]\nT\n[End of a.docx]");
    assert_eq!(texts::document(None, "T"), "[Attached file: document]\nT\n[End of document]");
    assert_eq!(
        texts::scanned(None, &[Some("one".into()), None]),
        "[Attached scanned file: document.pdf]\n-- Page 1 --\none\n-- Page 2 --\n\n[End of document.pdf]"
    );
    assert_eq!(texts::described("A cat."), "[Attached image description]\nA cat.");
}

#[test]
fn what_a_model_takes_decides() {
    let block = |kind, source| Block {
        range: 0..0,
        kind,
        source,
        filename: None,
        detail: None,
        cache_control: None,
        source_at: None,
    };
    let data = || Source::Data(Data { mime: None, is_base64: true, string: 0..0, skip: 0 });
    let file = || Source::File(OWN.into());
    let (all, none) = (Native { images: true, documents: true }, Native::default());
    let (read, say) = (Step::Text { has_bytes: true }, Step::Text { has_bytes: false });
    for protocol in ALL {
        let other = if protocol == Protocol::Messages { say } else { Step::Keep };
        for kind in [Kind::Image, Kind::Document] {
            for native in
                [all, Native { images: kind == Kind::Image, documents: kind == Kind::Document }]
            {
                assert_eq!(step(protocol, &block(kind, data()), native, false), Step::Keep);
                assert_eq!(step(protocol, &block(kind, Source::Remote), native, false), Step::Keep);
                assert_eq!(step(protocol, &block(kind, file()), native, true), Step::Inline);
                assert_eq!(step(protocol, &block(kind, file()), native, false), Step::Keep);
            }
            assert_eq!(step(protocol, &block(kind, data()), none, false), read);
            assert_eq!(step(protocol, &block(kind, file()), none, true), read);
            assert_eq!(step(protocol, &block(kind, file()), none, false), other);
        }
        assert_eq!(step(protocol, &block(Kind::Document, Source::Remote), none, false), other);
        assert_eq!(step(protocol, &block(Kind::Image, Source::Remote), none, false), say);
    }
}

#[test]
fn the_operators_word_wins_and_local_servers_are_never_trusted() {
    let kind = |name| providers::find(name).unwrap();
    let image = Native { images: true, documents: false };
    let said = Capabilities::new([
        ("mine:m".into(), image),
        ("mine/n".into(), image),
        ("o".into(), Native::default()),
        ("ollama:llava".into(), image),
    ]);
    assert_eq!(said.of("mine", kind("vllm"), "m"), image);
    assert_eq!(said.of("mine", kind("vllm"), "n"), image);
    assert_eq!(said.of("openai", kind("openai"), "o"), Native::default());
    assert_eq!(said.of("ollama", kind("ollama"), "llava"), image);
    let unsaid = Capabilities::default();
    assert_eq!(unsaid.of("x", kind("openai"), "m"), Native { images: true, documents: true });
    assert_eq!(unsaid.of("x", kind("cohere"), "m"), image);
    assert_eq!(unsaid.of("x", kind("xai"), "m"), Native::default());
    for name in NEVER {
        assert_eq!(unsaid.of("x", kind(name), "m"), Native::default(), "{name}");
    }
}

const NEVER: [&str; 4] = ["ollama", "vllm", "llamacpp", "lmstudio"];

#[test]
fn names_of_our_own_files_are_known() {
    assert!(is_own_file(OWN));
    for other in
        ["file-abc", "file_011CNha8iCJcU1wXNR6q4V8w", "", "file-0123456789abcdef0123456789abcdeg"]
    {
        assert!(!is_own_file(other), "{other}");
    }
}

/// JSON as callers may invent it, with the words of attachments in it.
fn invented() -> impl Strategy<Value = Value> {
    let words = prop_oneof![
        Just("file".to_owned()),
        Just("image_url".to_owned()),
        Just("data:image/png;base64,AA==".to_owned()),
        Just("https://e.test/x".to_owned()),
        ".{0,6}"
    ];
    let keys = prop_oneof![
        Just("type".to_owned()),
        Just("content".to_owned()),
        Just("image_url".to_owned()),
        Just("file".to_owned()),
        Just("source".to_owned()),
        "[a-z]{1,5}"
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i32>().prop_map(Value::from),
        words.prop_map(Value::from)
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((keys.clone(), inner), 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_else_of_a_body_changes(extra in invented(), other in invented(), content in invented()) {
        for protocol in ALL {
            let items = json!([
                {"role": "user", "extra": extra, "content": other},
                {"role": "user", "content": [
                    {"type": "file", "file": {"file_id": OWN}},
                    {"type": "document", "source": {"type": "file", "file_id": OWN}},
                    content,
                ]},
            ]);
            let key = if protocol == Protocol::Responses { "input" } else { "messages" };
            let whole = json!({"invented": extra, key: items});
            let text = serde_json::to_string_pretty(&whole).unwrap();
            let body = Bytes::from(text.clone());
            let found = find(protocol, &body);
            // Every block is a value of the body, and they do not overlap.
            for block in &found {
                prop_assert!(serde_json::from_slice::<Value>(&body[block.range.clone()]).unwrap().is_object());
            }
            prop_assert!(found.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));
            // Replaced, and put back byte for byte by the ranges: what is between the blocks is as it was.
            let edits = found.iter().map(|block| edit(protocol, &body, block, &Replacement::Text("T"))).collect();
            let out = render(&body, edits);
            prop_assert!(serde_json::from_slice::<Value>(&out).is_ok());
            let (mut rest, mut at) = (&out[..], 0);
            for block in &found {
                let same = &body[at..block.range.start];
                prop_assert!(rest.starts_with(same));
                rest = &rest[same.len()..];
                let mut one = serde_json::Deserializer::from_slice(rest).into_iter::<Value>();
                let put = one.next().unwrap().unwrap();
                prop_assert_eq!(put["text"].as_str(), Some("T"));
                rest = &rest[one.byte_offset()..];
                at = block.range.end;
            }
            prop_assert_eq!(rest, &body[at..]);
            prop_assert_eq!(render(&body, Vec::new()), body);
        }
    }

    #[test]
    fn hostile_bytes_are_survived(junk in prop::collection::vec(any::<u8>(), 0..200)) {
        for protocol in ALL {
            prop_assert!(find(protocol, &junk).is_empty());
        }
    }
}
