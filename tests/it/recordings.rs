//! Recordings on their way to a provider: as they were, never in memory, on disk for nobody else and for no longer than
//! the call.

mod half_way;
mod http2;
mod streamed;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use reqwest::Method;
use serde_json::json;
use tokio::net::TcpListener;

use crate::operations::{BOUNDARY, answers, form, gateway, routes};
use crate::support::gateway::{Answer, Builder, Gateway};
use crate::support::provider::{Gate, Provider, Step};
use crate::support::raw::{Headers, Raw, header_of};
use crate::support::{DEADLINE, eventually, on_both_databases};

/// A caller's form, whose file stands between these fields.
struct Upload {
    front: Vec<u8>,
    file: Vec<u8>,
    back: Vec<u8>,
}

impl Upload {
    fn new(before: &[(&str, &str)], bytes: usize, behind: &[(&str, &str)]) -> Self {
        // Bytes that repeat nowhere, whatever they are.
        let mut seed = 0x9E37_79B9_u32;
        let file = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        });
        let end = format!("--{BOUNDARY}--\r\n");
        let (_, whole) = form(None, before);
        let mut front = whole[..whole.len() - end.len()].to_vec();
        let (_, file_part) = form(Some(("long.wav", b"")), behind);
        let at = memchr::memmem::find(&file_part, b"\r\n\r\n").expect("a head") + 4;
        front.extend_from_slice(&file_part[..at]);
        Self { front, file: file.take(bytes).collect(), back: file_part[at..].to_vec() }
    }

    fn len(&self) -> usize {
        self.front.len() + self.file.len() + self.back.len()
    }

    fn head(&self, key: &str, framing: &str) -> String {
        format!(
            "POST /v1/audio/transcriptions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: \
             multipart/form-data; boundary={BOUNDARY}\r\n{framing}\r\n\r\n"
        )
    }

    /// Calls as far as to this byte of the file.
    async fn begin(&self, gateway: &Gateway, key: &str, bytes: usize) -> Raw {
        let mut caller = gateway.connect().await;
        caller.send(self.head(key, &format!("content-length: {}", self.len()))).await;
        caller.send(&self.front).await;
        caller.send(&self.file[..bytes]).await;
        caller
    }

    /// Sends the rest from this byte of the file on.
    async fn end(&self, caller: &mut Raw, bytes: usize) {
        caller.send(&self.file[bytes..]).await;
        caller.send(&self.back).await;
    }

    /// What a provider gets of it: its own name of the model, and another boundary.
    fn as_sent(&self, headers: &Headers) -> Vec<u8> {
        let boundary = header_of(headers, "content-type").expect("a form").split_once("boundary=");
        let (_, boundary) = boundary.expect("a boundary");
        assert_eq!(boundary.len(), BOUNDARY.len());
        assert_ne!(boundary, BOUNDARY, "no caller knows it");
        let text = |bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec()).expect("fields are text");
            text.replace(BOUNDARY, boundary).replace("\r\n\r\np:m\r\n", "\r\n\r\nm\r\n")
        };
        [text(&self.front).as_bytes(), &self.file, text(&self.back).as_bytes()].concat()
    }
}

/// A provider whose connections a test takes by hand.
struct Door(TcpListener);

impl Door {
    async fn open() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback"))
    }

    fn base(&self) -> String {
        format!("http://{}/v1", self.0.local_addr().expect("a bound listener has an address"))
    }

    /// The next connection, and the headers of the request on it.
    async fn request(&self) -> (Raw, Headers) {
        let taken = tokio::time::timeout(DEADLINE, self.0.accept()).await.expect("a connection");
        let mut raw = Raw::of(taken.expect("a listener takes connections").0);
        let (first, headers) = raw.request_head().await;
        assert_eq!(first, "POST /v1/audio/transcriptions HTTP/1.1");
        (raw, headers)
    }

    /// Whether nobody is waiting to be let in.
    async fn is_alone(&self) -> bool {
        let while_waiting = std::time::Duration::from_millis(200);
        tokio::time::timeout(while_waiting, self.0.accept()).await.is_err()
    }
}

/// An answer of this status, behind which the connection stays.
fn reply(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} Scripted\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

const HEARD: &str = r#"{"text":"hi"}"#;

/// A gateway before these as `p`, `q`, ..., with a price for the model `m` of each, and a policy `safe` that tries them
/// in turn.
fn before(start: Builder, doors: &[&Door]) -> Builder {
    let names = ["p", "q", "r"];
    let targets: Vec<String> = names.iter().take(doors.len()).map(|it| format!("{it}:m")).collect();
    let policy = format!(
        "routing: {{policies: {{safe: {{select: [{{default: {:?}}}], on_failure: {:?}}}}}}}",
        targets[0],
        &targets[1..]
    );
    let start = doors.iter().zip(names).fold(start, |start, (door, name)| {
        start.provider_at(name, &door.base(), "").price(&format!("{name}:m"), 1000.0, 0.0)
    });
    start.config(&policy)
}

/// Sends a recording of these bytes, the model behind it.
async fn transcribe(gateway: &Gateway, key: &str, recording: &[u8]) -> Answer {
    let (kind, body) = form(Some(("long.wav", recording)), &[("model", "p:m")]);
    send(gateway, key, &kind, body).await
}

/// The same, the model before it.
async fn pass(gateway: &Gateway, key: &str, recording: &[u8]) -> Answer {
    let mut upload = Upload::new(&[("model", "p:m")], 0, &[]);
    upload.file = recording.to_vec();
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let body = [upload.front, upload.file, upload.back].concat();
    send(gateway, key, &kind, body).await
}

async fn send(gateway: &Gateway, key: &str, kind: &str, body: Vec<u8>) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("content-type", kind), ("authorization", bearer.as_str())];
    gateway.send(Method::POST, "/v1/audio/transcriptions", &headers, body).await
}

/// Where they lie while they pass.
fn spool(gateway: &Gateway) -> PathBuf {
    gateway.folder().join("journal/spool")
}

/// The files of this folder that the gateway holds open: what each is called, who may read it, and its length.
fn open_files(gateway: &Gateway, folder: &Path) -> Vec<(String, u32, u64)> {
    let open = fs::read_dir(format!("/proc/{}/fd", gateway.pid())).expect("Linux says it");
    let open = open.flatten().map(|entry| entry.path());
    open.filter_map(|descriptor| {
        let target = fs::read_link(&descriptor).ok()?;
        let about = fs::metadata(&descriptor).ok()?;
        let mode = about.permissions().mode() & 0o777;
        target.starts_with(folder).then(|| (target.display().to_string(), mode, about.len()))
    })
    .collect()
}

fn names(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, |entries| entries.count())
}

async fn a_recording_reaches_its_provider_as_it_was(start: Builder) {
    let provider = Provider::start(answers);
    let gateway = gateway(start, &provider).await;
    let key = gateway.key("u").await;
    let [.., route] = routes();
    let more = json!({"user": "u", "api_base": "http://evil.example", "timestamp_granularities[]": "word", "novel": "1"});
    route.call(&gateway, &key, more).await.expect(200);
    let sent = provider.requests().pop().unwrap();
    let kind = sent.header("content-type").unwrap();
    assert!(kind.starts_with("multipart/form-data; boundary="), "{kind}");
    assert_eq!(sent.header("content-length").unwrap(), sent.body.len().to_string());
    let body = &sent.body;
    let has = |bytes: &[u8]| body.windows(bytes.len()).any(|window| window == bytes);
    assert!(has(b"\x00OggS\r\n--not the boundary\r\n\xff\r\n--"), "the file is not touched");
    assert!(has("filename=\"speech é.ogg\"\r\nContent-Type: audio/ogg\r\n".as_bytes()));
    assert!(has(b"name=\"model\"\r\n\r\nm\r\n"), "the provider's own name of the model");
    assert!(has(b"name=\"timestamp_granularities[]\"\r\n\r\nword\r\n") && has(b"name=\"novel\""));
    assert!(!has(b"name=\"user\"") && !has(b"evil.example"), "only the gateway's: {}", sent.text());

    let srt = route.call(&gateway, &key, json!({"response_format": "srt"})).await.expect(200);
    assert!(srt.text().starts_with("1\n00:00:00,000"), "{}", srt.text());
    assert_eq!(srt.header("content-type"), Some("text/plain; charset=utf-8"));
    gateway.usage(2).await;
}

async fn a_large_recording_is_never_in_memory(start: Builder) {
    let provider = Provider::start(answers);
    let gateway = gateway(start, &provider).await;
    let key = gateway.key("u").await;
    let before = gateway.peak_memory();
    for is_first in [false, true] {
        let call = async |bytes: usize| match is_first {
            false => transcribe(&gateway, &key, &vec![b'x'; bytes]).await,
            true => pass(&gateway, &key, &vec![b'x'; bytes]).await,
        };
        call(25 << 20).await.expect(200);
        let sent = provider.requests().pop().unwrap();
        assert!(sent.body.len() > 25 << 20);
        let refusal = call((25 << 20) + 1).await.refused(413);
        assert_eq!(refusal["detail"], "Audio file exceeds maximum upload size of 25 MB");
        call(40 << 20).await.refused(413);
    }
    let peak = gateway.peak_memory();
    println!("peak memory of the gateway: {} kB, {} before", peak >> 10, before >> 10);
    assert!(peak < 100 << 20, "{} MiB at most", peak >> 20);
    assert!(peak - before < 15 << 20, "not the recording: {} kB more", (peak - before) >> 10);
    assert_eq!(provider.count(), 2, "none that is too long has reached it whole");
    assert_eq!(gateway.settled("u").await, 0.002);
}

async fn what_lies_on_disk_is_nobody_elses_and_gone_with_the_call(start: Builder) {
    let gate = Gate::closed();
    let shared = gate.clone();
    let provider =
        Provider::start(move |request| answers(request).before(0, Step::WaitFor(shared.clone())));
    let mut gateway = gateway(start, &provider).await;
    let key = gateway.key("u").await;
    let folder = spool(&gateway);
    let passes = async {
        let answer = transcribe(&gateway, &key, &[7; 300_000]).await;
        answer.expect(200);
    };
    let looks = async {
        provider.received(1).await;
        let open = open_files(&gateway, &folder);
        assert_eq!(open.len(), 1, "{open:?}");
        assert!(open[0].0.ends_with("(deleted)"), "it has no name: {open:?}");
        assert_eq!(open[0].1, 0o600, "{open:?}");
        assert_eq!(names(&folder), 0);
        gate.open(1);
    };
    tokio::join!(passes, looks);
    // The caller has the answer a moment before the gateway is done with the call.
    eventually("the file to be closed", async || {
        open_files(&gateway, &folder).is_empty().then_some(())
    })
    .await;

    // A kill leaves nothing either.
    let mut raw = gateway.connect().await;
    let (kind, body) = form(Some(("long.wav", &[7; 300_000])), &[("model", "p:m")]);
    let head = format!(
        "POST /v1/audio/transcriptions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: {kind}\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    raw.send(head).await;
    raw.send(body).await;
    provider.received(2).await;
    assert_eq!(open_files(&gateway, &folder).len(), 1);
    gateway.kill9();
    assert_eq!(names(&folder), 0);
    gateway.restart().await;
    assert_eq!(names(&folder), 0);
}

async fn a_disk_that_takes_nothing_is_said_at_once(start: Builder) {
    let provider = Provider::start(answers);
    let gateway = gateway(start, &provider).await;
    let key = gateway.key("u").await;
    // No folder can be made where a file is.
    fs::write(spool(&gateway), "").unwrap();
    let answer = transcribe(&gateway, &key, &[7; 300_000]).await;
    let told = "The file cannot be kept while it is passed on. Try again";
    assert_eq!(answer.refused(503)["detail"], told);
    assert_eq!((provider.count(), gateway.settled("u").await), (0, 0.0));
    fs::remove_file(spool(&gateway)).unwrap();
    transcribe(&gateway, &key, &[7; 300_000]).await.expect(200);
}

on_both_databases!(
    a_recording_reaches_its_provider_as_it_was,
    a_large_recording_is_never_in_memory,
    what_lies_on_disk_is_nobody_elses_and_gone_with_the_call,
    a_disk_that_takes_nothing_is_said_at_once,
);
