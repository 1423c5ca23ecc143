//! Resolving, with a world made of values. What needs a process that reads is in `tests/it/attachments.rs`.

use std::sync::Mutex;

use serde_json::{Value, json};

use super::*;

const OWN: &str = "file-0123456789abcdef0123456789abcdef";
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
const ALL: Native = Native { images: true, documents: true };
const NONE: Native = Native { images: false, documents: false };
const ROOM: usize = 1 << 20;

/// One file, and a model that numbers what it sees.
struct Fake {
    file: Result<Option<Stored>, NoFile>,
    describes: bool,
    seen: Mutex<Vec<String>>,
}

impl Fake {
    fn with(filename: &str, mime_type: &str, bytes: &'static [u8]) -> Self {
        let bytes = Bytes::from_static(bytes);
        let file = Stored { filename: filename.into(), mime_type: mime_type.into(), bytes };
        Self { file: Ok(Some(file)), describes: true, seen: Mutex::default() }
    }

    fn without() -> Self {
        Self { file: Ok(None), describes: true, seen: Mutex::default() }
    }
}

#[async_trait]
impl World for Fake {
    async fn file(&self, id: &str, max_bytes: usize) -> Result<Option<Stored>, NoFile> {
        assert_eq!(id, OWN, "names that are not ours are never asked for");
        let file = self.file.clone()?;
        match file {
            Some(file) if file.bytes.len() > max_bytes => Err(NoFile::TooLarge),
            file => Ok(file),
        }
    }

    fn describes(&self) -> bool {
        self.describes
    }

    async fn describe(&self, image: &str) -> Option<Described> {
        let mut seen = self.seen.lock().unwrap();
        seen.push(image.to_owned());
        let usage = Some(Usage { prompt_tokens: 7, ..Usage::default() });
        Some(Described { text: format!(" picture {}\n", seen.len()), usage })
    }
}

fn body(protocol: Protocol, parts: &Value) -> Bytes {
    let items = json!([{"role": "user", "content": parts}]);
    match protocol {
        Protocol::Responses => json!({"model": "m", "input": items}),
        _ => json!({"model": "m", "max_tokens": 9, "messages": items}),
    }
    .to_string()
    .into()
}

/// What a model gets of one part, and what descriptions cost; `None`: what the caller sent.
async fn sent(
    world: &Fake,
    protocol: Protocol,
    part: &Value,
    native: Native,
) -> (Option<Value>, usize) {
    let body = body(protocol, &json!([part]));
    let request = Request::read(protocol, &body).unwrap();
    let loaded = Attachments::load(&request, &body, world, ROOM).await.unwrap();
    let mut loaded = loaded.expect("it has an attachment");
    let usage = loaded.read_for(native, world, &Readers::default()).await;
    assert!(loaded.read_for(native, world, &Readers::default()).await.is_empty(), "once");
    let rendered = loaded.render(native, ROOM).unwrap();
    let items = if protocol == Protocol::Responses { "input" } else { "messages" };
    let part = rendered.map(|rendered| {
        let value: Value = serde_json::from_slice(&rendered.body).unwrap();
        value[items][0]["content"][0].clone()
    });
    (part, usage.len())
}

async fn text(world: &Fake, protocol: Protocol, part: Value) -> String {
    let (got, _) = sent(world, protocol, &part, NONE).await;
    got.expect("something takes its place")["text"].as_str().expect("a text").to_owned()
}

#[tokio::test]
async fn a_stored_file_goes_into_the_request_of_a_model_that_takes_it() {
    let world = Fake::with("a.png", "application/octet-stream", PNG);
    let part = json!({"type": "input_image", "file_id": OWN});
    let want =
        json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}});
    assert_eq!(sent(&world, Protocol::Chat, &part, ALL).await, (Some(want), 0));
    let part = json!({"type": "input_file", "file_id": OWN});
    let want = json!({"type": "input_file", "file_data": "data:image/png;base64,iVBORw0KGgo=", "filename": "a.png"});
    assert_eq!(sent(&world, Protocol::Responses, &part, ALL).await, (Some(want), 0));
    let part = json!({"type": "image", "source": {"type": "file", "file_id": OWN}});
    let want = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}});
    assert_eq!(sent(&world, Protocol::Messages, &part, ALL).await, (Some(want), 0));
}

#[tokio::test]
async fn what_a_model_takes_by_itself_passes_byte_for_byte() {
    for (protocol, part) in [
        (
            Protocol::Chat,
            json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}),
        ),
        (Protocol::Chat, json!({"type": "file", "file": {"file_id": "file-providers-own"}})),
        (Protocol::Responses, json!({"type": "input_file", "file_url": "https://e.test/a.pdf"})),
        (
            Protocol::Messages,
            json!({"type": "document", "source": {"type": "file", "file_id": "file_011C"}}),
        ),
        (
            Protocol::Messages,
            json!({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}),
        ),
    ] {
        assert_eq!(sent(&Fake::without(), protocol, &part, ALL).await, (None, 0), "{part}");
    }
}

#[tokio::test]
async fn the_text_of_a_document_takes_its_place() {
    let world = Fake::with("notes.txt", "text/plain", b"Buy milk.");
    let want = "[Attached file: notes.txt]\nBuy milk.\n[End of notes.txt]";
    for (protocol, part) in [
        (Protocol::Chat, json!({"type": "file", "file": {"file_id": OWN}})),
        (
            Protocol::Chat,
            json!({"type": "file", "file": {"file_data": "data:text/plain;base64,QnV5IG1pbGsu", "filename": "notes.txt"}}),
        ),
        (
            Protocol::Responses,
            json!({"type": "input_file", "file_data": "QnV5IG1pbGsu", "filename": "notes.txt"}),
        ),
        (
            Protocol::Responses,
            json!({"type": "input_file", "file_data": "data:text/plain,Buy%20milk.", "filename": "notes.txt"}),
        ),
        (
            Protocol::Messages,
            json!({"type": "document", "title": "notes.txt", "source": {"type": "text", "media_type": "text/plain", "data": "Buy milk."}}),
        ),
        (
            Protocol::Messages,
            json!({"type": "document", "source": {"type": "file", "file_id": OWN}}),
        ),
    ] {
        assert_eq!(text(&world, protocol, part.clone()).await, want, "{part}");
    }
}

#[tokio::test]
async fn an_image_is_described_once_whoever_is_asked() {
    let world = Fake::without();
    let url = "data:image/png;base64,iVBORw0KGgo=";
    let parts = json!([
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "file", "file": {"file_data": url, "filename": "scan"}},
        {"type": "image_url", "image_url": {"url": "https://e.test/a.png"}},
    ]);
    let body = body(Protocol::Chat, &parts);
    let request = Request::read(Protocol::Chat, &body).unwrap();
    let mut loaded =
        Attachments::load(&request, &body, &world, ROOM).await.unwrap().expect("attachments");
    let readers = Readers::default();
    let images = Native { images: true, documents: false };
    let usage = loaded.read_for(images, &world, &readers).await;
    assert_eq!(usage.len(), 1, "only the document");
    assert_eq!(loaded.read_for(NONE, &world, &readers).await.len(), 1, "the image alone is new");
    assert_eq!(*world.seen.lock().unwrap(), [url, url]);
    let texts = |native| {
        let rendered = loaded.render(native, ROOM).unwrap()?;
        let value: Value = serde_json::from_slice(&rendered.body).unwrap();
        assert_eq!(rendered.request.prompt_chars, {
            Request::read(Protocol::Chat, &rendered.body).unwrap().prompt_chars
        });
        let content = value["messages"][0]["content"].as_array().unwrap().clone();
        Some(content.iter().map(|part| part["text"].clone()).collect::<Vec<_>>())
    };
    assert_eq!(texts(ALL), None);
    let (one, two) =
        ("[Attached image description]\npicture 1", "[Attached image description]\npicture 2");
    assert_eq!(texts(images).unwrap(), [Value::Null, json!(one), Value::Null]);
    assert_eq!(
        texts(NONE).unwrap(),
        [json!(two), json!(one), json!("[Unprocessable image attachment omitted]")]
    );
}

#[tokio::test]
async fn what_nobody_can_read_is_said_to_be_left_out() {
    let no_model = Fake { describes: false, ..Fake::without() };
    let image =
        json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}});
    assert_eq!(
        text(&no_model, Protocol::Chat, image).await,
        "[Unprocessable image attachment omitted]"
    );
    let omitted = "[Unprocessable document attachment omitted]";
    for (protocol, part) in [
        (
            Protocol::Chat,
            json!({"type": "file", "file": {"file_data": "data:application/zip;base64,AAECAw=="}}),
        ),
        (
            Protocol::Chat,
            json!({"type": "file", "file": {"file_data": "data:text/plain;base64,ICA="}}),
        ),
        (
            Protocol::Messages,
            json!({"type": "document", "source": {"type": "url", "url": "https://e.test/a"}}),
        ),
        (
            Protocol::Messages,
            json!({"type": "document", "source": {"type": "file", "file_id": OWN}}),
        ),
    ] {
        assert_eq!(text(&no_model, protocol, part.clone()).await, omitted, "{part}");
    }
}

#[tokio::test]
async fn whatever_goes_wrong_leaves_the_attachment_as_it_came() {
    let failed = Fake { file: Err(NoFile::Failed("the disk".into())), ..Fake::without() };
    let named = json!({"type": "file", "file": {"file_id": OWN}});
    for native in [ALL, NONE] {
        assert_eq!(sent(&failed, Protocol::Chat, &named, native).await, (None, 0));
        assert_eq!(sent(&Fake::without(), Protocol::Chat, &named, native).await, (None, 0));
    }
    let broken = json!({"type": "file", "file": {"file_data": "data:text/plain;base64,!!"}});
    assert_eq!(sent(&failed, Protocol::Chat, &broken, NONE).await, (None, 0));
}

#[tokio::test]
async fn files_that_make_a_request_too_large_are_refused() {
    let world = Fake::with("a.txt", "text/plain", &[b'x'; 3000]);
    let part = json!([{"type": "file", "file": {"file_id": OWN}}]);
    let body = body(Protocol::Chat, &part);
    let request = Request::read(Protocol::Chat, &body).unwrap();
    let refused = Attachments::load(&request, &body, &world, 2999).await.unwrap_err();
    assert_eq!(refused.code, Code::BodyTooLarge);
    let loaded = Attachments::load(&request, &body, &world, 3500).await.unwrap().unwrap();
    let refused = loaded.render(ALL, 3500).unwrap_err();
    assert_eq!(refused.code, Code::BodyTooLarge, "base64 is longer than the bytes");
    assert!(loaded.render(ALL, 5000).unwrap().is_some());
}

#[tokio::test]
async fn a_request_of_text_alone_is_not_looked_at() {
    for parts in [json!("data:image/png;base64,AA=="), json!([{"type": "text", "text": "file_id"}])]
    {
        let body = body(Protocol::Chat, &parts);
        let request = Request::read(Protocol::Chat, &body).unwrap();
        assert!(!request.has_media);
        let loaded = Attachments::load(&request, &body, &Fake::without(), ROOM).await.unwrap();
        assert!(loaded.is_none());
    }
}
